//! A past window that was asked for: a stream with an end. It is worked off behind the live streams by
//! the same means, so what fails waits, what was begun goes on, what was handed over is proven.

use serde::{Deserialize, Serialize};

use super::{RETENTION, Stream};
use crate::content::ContentType;
use crate::timestamp::{DAY, MINUTE, Timestamp};

/// One that is done is remembered so long, for those who look how far it is.
const REMEMBER_DONE: i64 = DAY;

/// A past window of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// Of which content type.
    pub content_type: ContentType,
    /// Since when content is to be brought, as asked for.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// How far it is.
    pub stream: Stream,
    /// It was listed to its end so long after that end that nothing of it becomes listable any more.
    #[serde(default)]
    settled: bool,
    /// When all of it had been written; none as long as something is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Timestamp>,
}

impl Backfill {
    /// Asks for what became available from `from` until `until`. As far back as the API goes, it
    /// comes from where that is when it is listed.
    #[must_use]
    pub fn new(
        content_type: ContentType,
        from: Timestamp,
        until: Timestamp,
        now: Timestamp,
    ) -> Self {
        let oldest = now.since(from) >= RETENTION - MINUTE;
        let stream = Stream::of_the_past(from, oldest);
        Self { content_type, from, until, stream, settled: false, done: None }
    }

    /// What became available from `position` on is the live stream's.
    pub fn end_before(&mut self, position: Timestamp) {
        self.until = self.until.min(position).max(self.from);
    }

    /// Whether all of it was listed, and nothing of that is left to be written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.stream.position >= self.until && self.stream.waiting.is_empty()
    }

    /// Whether nothing of it is left to be done: as long as content may become available late, it is
    /// listed again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_written() && (self.settled || self.until <= self.from)
    }

    /// A run has listed it to its end at `now`.
    pub fn listed(&mut self, now: Timestamp, lookback: i64) {
        let is_whole = self.stream.position >= self.until;
        self.settled |= is_whole && now.since(self.until) >= lookback;
    }

    /// Takes a run down at `now`; false when it can be forgotten.
    pub(super) fn end_run(&mut self, now: Timestamp) -> bool {
        if !self.is_over() {
            self.done = None;
            return true;
        }
        let done = *self.done.get_or_insert(now);
        // It must be known as long as it may have to be written again.
        if self.stream.handed_over.is_empty() {
            self.stream.delivered.forget_before(self.until.plus(1));
        }
        !self.stream.handed_over.is_empty() || (0..REMEMBER_DONE).contains(&now.since(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Blob;
    use crate::state::{Origin, Waiting};
    use crate::timestamp::HOUR;

    fn at(seconds_before: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 - seconds_before)
    }

    #[test]
    fn it_is_over_when_all_is_listed_and_written_and_forgotten_a_day_later() {
        let mut backfill = Backfill::new(ContentType::General, at(5 * HOUR), at(HOUR), at(0));
        assert_eq!(backfill.stream.origin, Some(Origin::Given));
        backfill.end_before(at(2 * HOUR));
        backfill.end_before(at(HOUR));
        assert_eq!(backfill.until, at(2 * HOUR));
        let mut none = Backfill::new(ContentType::General, at(5 * HOUR), at(HOUR), at(0));
        none.end_before(at(6 * HOUR));
        assert!(none.until == none.from && none.is_over());
        assert!(backfill.end_run(at(0)) && backfill.done.is_none());
        backfill.stream.position = at(2 * HOUR);
        backfill.listed(at(HOUR + 1), HOUR);
        assert!(backfill.is_written() && !backfill.is_over(), "some may become listable yet");
        backfill.listed(at(0), HOUR);
        assert!(backfill.is_over());
        let blob =
            Blob { id: "b".to_owned(), uri: String::new(), created: Some(at(HOUR)), expires: None };
        backfill.stream.waiting.push(Waiting::new(blob, at(0)));
        assert!(!backfill.is_over());
        let written = backfill.stream.waiting.remove(0);
        backfill.stream.handed_over.push(written);
        assert!(backfill.end_run(at(0)));
        assert_eq!(backfill.done, Some(at(0)));
        assert!(backfill.end_run(at(-2 * DAY)), "nobody has proven yet that it was sent on");
        backfill.stream.handed_over.clear();
        assert!(backfill.end_run(at(1 - DAY)));
        assert!(!backfill.end_run(at(-DAY)));
    }

    #[test]
    fn as_far_back_as_the_api_goes_nothing_is_lost_while_it_waits() {
        let backfill = Backfill::new(ContentType::General, at(RETENTION), at(0), at(0));
        assert_eq!(backfill.stream.origin, Some(Origin::Oldest));
    }
}
