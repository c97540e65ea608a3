//! The command `backfill`: brings a past window, by the next polls or here and now.

mod estimate;
mod here;

use std::sync::Arc;

use self::estimate::{Asked, Estimate, Estimator};
use crate::args::{Common, PastWindow};
use crate::clock::local_now;
use crate::config::{Config, Tenant};
use crate::content::ContentType;
use crate::error::Error;
use crate::logging;
use crate::ossec::DEFAULT_MAX_EPS;
use crate::setup::{network, read_config, tenants_named, wait_for_lock};
use crate::state::{Backfill, RETENTION, State, Stream};
use crate::store::{Home, Loaded};
use crate::terminal;
use crate::timestamp::{MINUTE, Timestamp, age};
use crate::words::of;

/// No more of them are remembered in a tenant.
const MOST_BACKFILLS: usize = 100;

/// What a window begins later than 7 days ago at least: until the next poll the API forgets more.
const GRACE: i64 = 5 * MINUTE;

/// The most that Wazuh takes for `wazuh_modules.max_eps`.
const MOST_EPS: u64 = 1000;

/// What an event takes in a run's output, in bytes, roughly.
const EVENT_SIZE: u64 = 1300;

/// Brings a past window and says so on stdout; gives the exit code. `here`: all of it is written to
/// stdout at once, and the state is left alone.
///
/// # Errors
/// There is no such tenant or stream, the time is none that the API covers, the configuration or the
/// state can't be used, or stdout can't be written.
pub fn run(common: &Common, window: &PastWindow, here: bool) -> Result<u8, Error> {
    let home = Home::open(&common.home)?;
    // Only a record of what was done: what matters is told on stdout and stderr.
    let _ = logging::start(home.open_log());
    let config = read_config(common, &home)?;
    log::set_max_level(common.log_level.unwrap_or(config.log_level));
    if here {
        let Loaded { state, .. } = home.look()?.load_state()?;
        let past = Past::of(&config, &state, window)?;
        return here::write(&home, config, &state, &past);
    }
    let (state, queued) = queue(&home, &config, window)?;
    if !queued.is_empty() {
        let estimate = network(&config, &home)
            .map_err(|error| error.to_string())
            .and_then(|network| Estimator::new(&home, &config, &state, network).estimate(&queued));
        let max_eps = home.internal_option("wazuh_modules.max_eps").unwrap_or(DEFAULT_MAX_EPS);
        say(&drained(estimate, max_eps.clamp(1, MOST_EPS), &config))?;
        say(if config.enabled {
            "The next polls work it off, behind the live streams; wodle-office365 status shows how \
             far they are."
        } else {
            "Polls work it off once the configuration says <enabled>yes</enabled>."
        })?;
    }
    Ok(0)
}

/// Puts a line on stdout, at once.
fn say(line: &str) -> Result<(), Error> {
    terminal::print(&format!("{line}\n")).map_err(|error| Error::Run(format!("stdout: {error}")))
}

/// What is asked for, once it is known what that means.
struct Past {
    tenants: Vec<Arc<Tenant>>,
    content_types: Vec<ContentType>,
    from: Timestamp,
    /// None: up to now, or to where the live stream begins.
    to: Option<Timestamp>,
    now: Timestamp,
}

impl Past {
    fn of(config: &Config, state: &State, window: &PastWindow) -> Result<Self, Error> {
        let now = local_now().plus(state.clock_offset);
        let from = window.from.before(now);
        let to = window.to.map(|to| to.before(now));
        if now.since(from) > RETENTION || from > now {
            return Err(Error::Usage(format!(
                "--from {from} is not within the 7 days before {now} that the API covers"
            )));
        }
        if let Some(to) = to.filter(|to| *to <= from || *to > now.plus(MINUTE)) {
            return Err(Error::Usage(format!(
                "--to {to} is not between --from {from} and now, {now}"
            )));
        }
        let guid = |id: &str| state.guid_of(id).map(str::to_owned);
        let tenants = tenants_named(config, window.tenant.as_deref(), guid)?;
        let content_types = match window.content_type {
            None => config.subscriptions.clone(),
            Some(name) if config.subscriptions.contains(&name) => vec![name],
            Some(name) => {
                return Err(Error::Usage(format!(
                    "{name} is none of the subscriptions of the configuration"
                )));
            }
        };
        Ok(Self { tenants, content_types, from, to: to.map(|to| to.min(now)), now })
    }

    /// From where on, at the earliest, if it is begun within so many seconds.
    fn earliest(&self, seconds: i64) -> Timestamp {
        self.from.max(self.now.plus(seconds - RETENTION))
    }
}

/// Queues the window for the next polls, and says so. Gives the state as it is saved, and what was
/// queued.
fn queue(home: &Home, config: &Config, window: &PastWindow) -> Result<(State, Vec<Asked>), Error> {
    let folder = home.folder()?;
    let _lock = wait_for_lock(&folder)?;
    let Loaded { mut state, keep_previous, .. } = folder.load_state()?;
    let past = Past::of(config, &state, window)?;
    let from = past.earliest(GRACE.max(2 * config.interval));
    let (mut lines, mut queued) = (Vec::new(), Vec::new());
    for tenant in &past.tenants {
        let tenant_id = state.tenant_id(&tenant.tenant_id);
        let kept = state.tenants.entry(tenant_id.clone()).or_default();
        kept.is_configured = true;
        for content_type in past.content_types.iter().copied() {
            let name = format!("{tenant_id} {content_type}");
            // A stream that has not begun will begin there, or a little later.
            let bookmark = || home.native_bookmark(&tenant.tenant_id, content_type);
            let first = || Stream::first(config.only_future_events, bookmark(), past.now).position;
            let live = kept.streams.get(&content_type);
            let begins = live.map_or_else(first, |live| live.position);
            if begins <= from {
                lines.push(format!(
                    "{name}: nothing to do, for the next polls bring all since {begins} anyway"
                ));
                continue;
            }
            let mut asked = Backfill::new(content_type, from, past.to);
            live.into_iter().for_each(|live| asked.join(live));
            let whole = asked.name();
            let parts = asked.without(&mut kept.backfills);
            if parts.is_empty() {
                lines.push(format!("{name}: nothing to do, for all of it is queued already"));
            }
            if kept.backfills.len() + parts.len() > MOST_BACKFILLS {
                return Err(Error::Usage(format!(
                    "{tenant_id} has {} backfills already, which are not done yet or were within the \
                     last day: see wodle-office365 status",
                    kept.backfills.len()
                )));
            }
            for mut backfill in parts {
                live.into_iter().for_each(|live| backfill.join(live));
                let part =
                    if backfill.name() == whole { "" } else { "; the rest is queued already" };
                lines.push(format!("{name}: queued: {}{part}", backfill.name()));
                let until = backfill.until.unwrap_or(past.now);
                queued.push((Arc::clone(tenant), content_type, backfill.from, until));
                kept.backfills.push(backfill);
            }
        }
    }
    let saved = folder.prepare_save(0, keep_previous).and_then(|save| save.commit(&state));
    saved.map_err(|error| Error::Run(format!("the state can't be saved: {error}")))?;
    for line in &lines {
        log::warn!("backfill: {line}");
        say(line)?;
    }
    Ok((state, queued))
}

/// What Wazuh will need to pass it on.
fn drained(estimate: Result<Estimate, String>, max_eps: u64, config: &Config) -> String {
    let max = format!(
        "of a wodle Wazuh sends on at most {max_eps} events a second (wazuh_modules.max_eps)"
    );
    match estimate {
        Ok(Estimate { events: 0, blobs: 0, .. }) => {
            format!("The API lists no content in it, or no subscription was on; {max}.")
        }
        Ok(Estimate { events, blobs, whole }) => {
            let runs = events.saturating_mul(EVENT_SIZE).div_ceil(config.max_output.max(1));
            let interval = config.interval.unsigned_abs();
            let seconds = events.div_ceil(max_eps).max(runs.saturating_sub(1) * interval);
            let about = if whole { "about" } else { "at a rough guess, some" };
            format!(
                "That is {about} {} in {}; {max}, and a run brings no more than max_output: it takes \
                 {} at least, in which live events come later. With higher values of both (max_eps at \
                 most {MOST_EPS}, in HOME/etc/local_internal_options.conf) it takes less.",
                of(events, "event"),
                of(blobs, "blob"),
                age(i64::try_from(seconds).unwrap_or(i64::MAX).max(1))
            )
        }
        Err(why) => format!(
            "How much that is can't be told ({why}); {max}: {} events a day.",
            max_eps.saturating_mul(86_400)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_wazuh_needs_is_told() {
        let config = config::parse("x", b"<office365><enabled>no</enabled></office365>").unwrap();
        let told = |events, blobs, max_eps| {
            drained(Ok(Estimate { events, blobs, whole: true }), max_eps, &config)
        };
        assert!(told(48_000, 1_930, 100).starts_with(
            "That is about 48000 events in 1930 blobs; of a wodle Wazuh sends on at most 100 events \
             a second (wazuh_modules.max_eps), and a run brings no more than max_output: it takes 8 \
             min at least"
        ));
        assert!(told(48_000, 1_930, 1000).contains("it takes 7 min at least"), "of 8 MiB a minute");
        assert!(told(1, 1, 100).contains("about 1 event in 1 blob; "));
        assert!(told(1, 1, 100).contains("it takes 1 s at least"));
        assert!(told(0, 0, 100).starts_with("The API lists no content"));
        let unknown = drained(Err("no route".to_owned()), 500, &config);
        assert!(unknown.contains("(no route)") && unknown.contains(": 43200000 events a day"));
    }
}
