//! A blob that is listed and not delivered yet.

use serde::{Deserialize, Serialize};

use super::{RETENTION, is_zero};
use crate::content::Blob;
use crate::timestamp::{MINUTE, Timestamp};

/// A blob that was listed and is not delivered yet, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its content id.
    pub id: String,
    /// Where to fetch it.
    pub uri: String,
    /// When it became available; where that can't be read or lies outside of the window that listed it,
    /// the end of the last such window.
    pub created: Timestamp,
    /// In the latter case: since when that window lists content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_from: Option<Timestamp>,
    /// When it was first listed; none where an earlier release wrote the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_listed: Option<Timestamp>,
    /// When the API forgets it.
    pub expires: Timestamp,
    /// Runs that tried to fetch it and failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_runs: u32,
    /// When it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_try: Option<Timestamp>,
    /// The API has once said that it doesn't exist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// The last run has written a part of it: now the others come first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub had_its_turn: bool,
    /// Elements of it that were handled already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub written: u64,
    /// The `Id` of the last of those, as JSON; without it the blob is written again from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_id: Option<String>,
}

impl Waiting {
    /// A freshly listed blob. `stand_in`: for a creation time that can't be read.
    #[must_use]
    pub fn new(blob: Blob, stand_in: Timestamp) -> Self {
        let created = blob.created.unwrap_or(stand_in);
        Self {
            id: blob.id,
            uri: blob.uri,
            created,
            listed_from: None,
            first_listed: None,
            expires: blob.expires.unwrap_or_else(|| created.plus(RETENTION)),
            failed_runs: 0,
            last_try: None,
            missing: false,
            had_its_turn: false,
            written: 0,
            last_id: None,
        }
    }

    /// From where on a listing surely finds it again.
    #[must_use]
    pub fn listable_since(&self) -> Timestamp {
        self.listed_from.unwrap_or(self.created)
    }

    /// Since when it waits.
    #[must_use]
    pub fn waits_since(&self) -> Timestamp {
        self.first_listed.map_or(self.created, |listed| listed.min(self.created))
    }

    /// Whether the API has forgotten it for sure: its own time is over, and so are the documented 7 days
    /// since it was listed, for that time may be wrong as well.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let listed = self.first_listed.unwrap_or(self.created);
        now > self.expires && now.since(listed) >= RETENTION
    }

    /// Lines of it are out: up to an element, given by its number and its `Id`.
    pub fn advance(&mut self, mark: Option<(u64, String)>) {
        if let Some((written, last_id)) = mark {
            self.written = written;
            self.last_id = Some(last_id);
            self.had_its_turn = true;
        }
    }

    /// A run has tried it in vain.
    pub fn fail(&mut self, now: Timestamp) {
        self.failed_runs = self.failed_runs.saturating_add(1);
        self.last_try = Some(now);
    }

    /// Whether it is to be tried in a run at `now`: in each of ten runs, then every ten minutes, give
    /// or take what a run lasts.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let waited = |at: Timestamp| !(0..10 * MINUTE - 30).contains(&now.since(at));
        self.failed_runs <= 10 || self.last_try.is_none_or(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::DAY;

    #[test]
    fn a_blob_is_expired_when_its_own_time_and_seven_days_since_it_was_listed_are_over() {
        let at = |days: i64| Timestamp::from_unix(1_800_000_000 + days * DAY);
        for (created, expires, listed, now, expired) in [
            (0, 7, Some(0), 8, true),
            (0, 7, Some(0), 6, false),
            // An expiry in the past, and one far in the future.
            (0, -7, Some(0), 6, false),
            (0, -7, Some(0), 7, true),
            (0, 20, Some(0), 19, false),
            (0, 20, Some(0), 21, true),
            // A state of an earlier release.
            (0, -7, None, 6, false),
            (0, -7, None, 7, true),
        ] {
            let blob = Blob {
                id: "a".to_owned(),
                uri: String::new(),
                created: Some(at(created)),
                expires: Some(at(expires)),
            };
            let blob = Waiting { first_listed: listed.map(at), ..Waiting::new(blob, at(0)) };
            assert_eq!(blob.is_expired(at(now)), expired, "{expires} {listed:?} {now}");
        }
    }
}
