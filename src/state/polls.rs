//! Whether polls run as they should, by what the last one has left.

use super::State;
use crate::timestamp::{Timestamp, age};

/// After so many intervals without a poll something is wrong.
const MOST_INTERVALS: i64 = 3;

/// What is said of a poll that has held the lock for so many seconds, which is too long.
#[must_use]
pub fn hanging(held: i64) -> String {
    format!(
        "poll has been running for {}, longer than run_timeout and a minute: it hangs; end it (kill \
         the process wodle-office365)",
        age(held)
    )
}

impl State {
    /// What is to be said if a poll hangs, or none has run for too long. `polling_since`: since when one
    /// has been running, by this machine's clock.
    #[must_use]
    pub fn overdue(&self, now: Timestamp, polling_since: Option<Timestamp>) -> Option<String> {
        let most = i64::try_from(self.longest_run).unwrap_or(i64::MAX);
        let here = now.plus(-self.clock_offset);
        let running = polling_since.map(|since| here.since(since));
        if let Some(running) = running.filter(|running| *running > most) {
            return Some(format!("a {}", hanging(running)));
        }
        let advice = "see HOME/logs/wodle-office365.log for why, HOME/logs/ossec.log for whether \
                      Wazuh starts it, and run wodle-office365 check";
        let longest = MOST_INTERVALS.saturating_mul(self.interval.max(1));
        match self.last_poll {
            _ if running.is_some() => None,
            None => Some(format!("no poll has run to its end yet: {advice}")),
            Some(last) if now.since(last) > longest => Some(format!(
                "no poll has run to its end for {}, though one is due every {}: {advice}",
                age(now.since(last)),
                age(self.interval)
            )),
            Some(_) => None,
        }
    }
}
