//! A past window that was asked for: a stream with an end. It is worked off behind the live streams by
//! the same means, so what fails waits, what was begun goes on, what was handed over is proven.

use serde::{Deserialize, Serialize};

use super::{Delivered, Stream, fingerprint};
use crate::content::ContentType;
use crate::timestamp::{DAY, Timestamp};

/// One that is done is remembered so long, for those who look how far it is.
const REMEMBER_DONE: i64 = DAY;

/// No `lookback` is longer, in seconds.
const MOST_LOOKBACK: i64 = DAY;

/// A past window of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// Of which content type.
    pub content_type: ContentType,
    /// Since when content is to be brought, as asked for.
    pub from: Timestamp,
    /// Until when; none, until where the live stream will begin.
    pub until: Option<Timestamp>,
    /// Where it meets the live stream; none as long as that has not begun, or where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub junction: Option<Junction>,
    /// How far it is.
    pub stream: Stream,
    /// It was listed to its end so long after that end that nothing of it becomes listable any more.
    #[serde(default)]
    settled: bool,
    /// When all of it had been written; none as long as something is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Timestamp>,
}

/// Where a past window meets its live stream, which brings by itself what it had not delivered by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Junction {
    /// Since when the live stream looks for content that becomes available late.
    since: Timestamp,
    /// What it had delivered of that.
    delivered: Delivered,
}

impl Junction {
    /// Whether the live stream brings this blob by itself.
    #[must_use]
    pub fn leaves(&self, key: u64, created: Option<Timestamp>) -> bool {
        created.is_some_and(|created| created >= self.since) && !self.delivered.contains(key)
    }
}

/// A window; without an end, one up to the live stream.
type Span = (Timestamp, Option<Timestamp>);

/// What is left of a window without another: what comes before and behind that.
fn without((from, until): Span, (other_from, other_until): Span) -> Vec<Span> {
    let end = until.map_or(other_from, |until| until.min(other_from));
    let first = (from < other_from).then_some((from, Some(end)));
    let last = other_until.map(|end| (from.max(end), until));
    let last = last.filter(|(from, until)| until.is_none_or(|until| *from < until));
    first.into_iter().chain(last).collect()
}

impl Backfill {
    /// Asks for what became available from `from` on: until `until`, or until where the live stream
    /// begins.
    #[must_use]
    pub fn new(content_type: ContentType, from: Timestamp, until: Option<Timestamp>) -> Self {
        let stream = Stream::of_the_past(from);
        Self { content_type, from, until, junction: None, stream, settled: false, done: None }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        let until = self.until.map_or("the live stream".to_owned(), |until| until.to_string());
        format!("backfill from {} to {until}", self.from)
    }

    /// Meets a live stream that has listed something already: what that has not delivered yet is left
    /// to it.
    pub fn join(&mut self, live: &Stream) {
        if self.junction.is_some() || self.done.is_some() || live.origin.is_some() {
            return;
        }
        self.end_before(live.position);
        for blob in &live.waiting {
            self.stream.delivered.insert(fingerprint(&blob.id), blob.created);
        }
        let (since, delivered) = (live.horizon, live.delivered.clone());
        self.junction = Some(Junction { since, delivered });
    }

    /// Meets a live stream that begins at `start`.
    pub fn join_at(&mut self, start: Timestamp) {
        self.end_before(start);
        self.junction = Some(Junction { since: start, delivered: Delivered::default() });
    }

    /// What became available from `position` on is the live stream's.
    fn end_before(&mut self, position: Timestamp) {
        let until = self.until.map_or(position, |until| until.min(position));
        self.until = Some(until.max(self.from));
    }

    /// The live stream was set back to `position`, and brings all since then.
    pub fn leave_to_live(&mut self, position: Timestamp) {
        if self.done.is_none() {
            self.end_before(position);
            self.stream.waiting.retain(|blob| blob.created < position);
        }
    }

    /// Whether all of it was listed.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.until.is_some_and(|until| self.stream.position >= until)
    }

    /// Whether nothing of it is left to be done: as long as content may become available late, it is
    /// listed again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let is_empty = self.until.is_some_and(|until| until <= self.from);
        self.is_listed() && self.stream.waiting.is_empty() && (self.settled || is_empty)
    }

    /// A run has listed it as far as it goes, at `now`.
    pub fn listed(&mut self, now: Timestamp, lookback: i64) {
        let late = self.until.is_some_and(|until| now.since(until) >= lookback);
        self.settled |= self.is_listed() && late;
    }

    /// What is left of it without what `others` will bring. What they have written already is not their
    /// business any more.
    #[must_use]
    pub fn without(self, others: &mut [Self]) -> Vec<Self> {
        let mut parts = vec![(self.from, self.until)];
        let mut waiting = Vec::new();
        for other in others.iter_mut().filter(|other| other.content_type == self.content_type) {
            if !other.is_listed() {
                let left = (other.stream.position.max(other.from), other.until);
                parts = parts.into_iter().flat_map(|part| without(part, left)).collect();
            } else if self.covers_end_of(other) {
                // What of it becomes available late is this one's.
                other.settled = true;
            }
            waiting.extend(other.stream.waiting.iter().map(|b| (fingerprint(&b.id), b.created)));
        }
        let part = |(from, until)| {
            let mut part = Self::new(self.content_type, from, until);
            waiting.iter().for_each(|(key, created)| part.stream.delivered.insert(*key, *created));
            part
        };
        parts.into_iter().map(part).collect()
    }

    /// Whether it lists all of another one's end that may be listed again.
    fn covers_end_of(&self, other: &Self) -> bool {
        other.until.is_some_and(|end| {
            let begins = other.from.max(end.plus(-MOST_LOOKBACK));
            self.from <= begins && self.until.is_none_or(|until| end <= until)
        })
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
            self.stream.delivered = Delivered::default();
            self.junction = None;
        }
        !self.stream.handed_over.is_empty() || (0..REMEMBER_DONE).contains(&now.since(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Blob;
    use crate::state::{Origin, Waiting};
    use crate::timestamp::{HOUR, MINUTE};

    fn at(seconds_before: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 - seconds_before)
    }

    fn asked(from: i64, until: i64) -> Backfill {
        Backfill::new(ContentType::General, at(from), Some(at(until)))
    }

    fn waiting(id: &str, created: Timestamp) -> Waiting {
        let blob =
            Blob { id: id.to_owned(), uri: String::new(), created: Some(created), expires: None };
        Waiting::new(blob, created)
    }

    #[test]
    fn it_is_over_when_all_is_listed_and_written_and_forgotten_a_day_later() {
        let mut backfill = asked(5 * HOUR, HOUR);
        assert_eq!(backfill.stream.origin, Some(Origin::Given));
        backfill.end_before(at(2 * HOUR));
        backfill.end_before(at(HOUR));
        assert_eq!(backfill.until, Some(at(2 * HOUR)));
        let mut none = asked(5 * HOUR, HOUR);
        none.end_before(at(6 * HOUR));
        assert!(none.until == Some(none.from) && none.is_over());
        assert!(backfill.end_run(at(0)) && backfill.done.is_none());
        backfill.stream.position = at(2 * HOUR);
        backfill.listed(at(HOUR + 1), HOUR);
        assert!(backfill.is_listed() && !backfill.is_over(), "some may become listable yet");
        backfill.listed(at(0), HOUR);
        assert!(backfill.is_over());
        backfill.stream.waiting.push(waiting("b", at(HOUR)));
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
    fn what_a_live_stream_has_not_delivered_is_left_to_it() {
        let mut live = Stream::first(true, None, at(HOUR));
        let mut backfill = Backfill::new(ContentType::General, at(DAY), None);
        backfill.join(&live);
        assert!(backfill.junction.is_none() && backfill.until.is_none(), "it has not begun");
        (live.origin, live.position) = (None, at(MINUTE));
        live.delivered.insert(fingerprint("delivered"), at(30 * MINUTE));
        live.waiting.push(waiting("waits", at(2 * HOUR)));
        backfill.join(&live);
        assert_eq!(backfill.until, Some(at(MINUTE)));
        assert!(backfill.stream.delivered.contains(fingerprint("waits")));
        let junction = backfill.junction.clone().unwrap();
        for (id, created, left) in [
            ("delivered", Some(at(30 * MINUTE)), false),
            ("late", Some(at(30 * MINUTE)), true),
            ("late", Some(at(HOUR + 1)), false),
            ("late", None, false),
        ] {
            assert_eq!(junction.leaves(fingerprint(id), created), left, "{id} {created:?}");
        }
        // That was that: what it delivers from now on changes nothing.
        live.delivered.insert(fingerprint("late"), at(30 * MINUTE));
        backfill.join(&live);
        assert_eq!(backfill.junction, Some(junction));
    }

    #[test]
    fn a_live_stream_that_begins_later_takes_over_where_it_does() {
        let mut open = Backfill::new(ContentType::General, at(DAY), None);
        let mut ended = asked(DAY, HOUR);
        for backfill in [&mut open, &mut ended] {
            backfill.join_at(at(MINUTE));
        }
        assert_eq!((open.until, ended.until), (Some(at(MINUTE)), Some(at(HOUR))));
        assert!(open.junction.unwrap().leaves(1, Some(at(MINUTE))));
    }

    #[test]
    fn what_is_asked_for_twice_comes_once() {
        let mut known = [asked(5 * HOUR, 4 * HOUR), asked(3 * HOUR, 2 * HOUR)];
        let ago = |time| at(0).since(time);
        let mut left = |backfill: Backfill| -> Vec<_> {
            let parts = backfill.without(&mut known);
            parts.iter().map(|b| (ago(b.from), b.until.map(ago))).collect()
        };
        let open = Backfill::new(ContentType::General, at(3 * HOUR), None);
        for (backfill, expected) in [
            (asked(5 * HOUR, 4 * HOUR), &[][..]),
            (asked(9 * HOUR, 6 * HOUR), &[(9 * HOUR, Some(6 * HOUR))]),
            (asked(9 * HOUR, 4 * HOUR + 9), &[(9 * HOUR, Some(5 * HOUR))]),
            (
                asked(9 * HOUR, HOUR),
                &[(9 * HOUR, Some(5 * HOUR)), (4 * HOUR, Some(3 * HOUR)), (2 * HOUR, Some(HOUR))],
            ),
            (asked(2 * HOUR, HOUR), &[(2 * HOUR, Some(HOUR))]),
            (open.clone(), &[(2 * HOUR, None)]),
        ] {
            let name = backfill.name();
            assert_eq!(left(backfill), expected, "{name}");
        }
        assert!(asked(2 * HOUR, HOUR).without(&mut [open]).is_empty());
        let mut other = [Backfill::new(ContentType::Dlp, at(5 * HOUR), None)];
        assert_eq!(asked(4 * HOUR, 3 * HOUR).without(&mut other).len(), 1);
    }

    #[test]
    fn what_another_one_has_written_comes_again_and_what_waits_in_it_does_not() {
        let mut known = [asked(5 * HOUR, HOUR)];
        known[0].stream.position = at(3 * HOUR);
        known[0].stream.waiting.push(waiting("waits", at(4 * HOUR)));
        let parts = asked(6 * HOUR, HOUR).without(&mut known);
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].from, parts[0].until), (at(6 * HOUR), Some(at(3 * HOUR))));
        assert!(parts[0].stream.delivered.contains(fingerprint("waits")));
        // Written, but listed again for a while: that is the new one's from now on.
        let mut known = [asked(5 * HOUR, 60)];
        known[0].stream.position = at(60);
        for (from, until, takes_over) in
            [(HOUR, 60, false), (30, 0, false), (5 * HOUR, 61, false), (6 * HOUR, 60, true)]
        {
            let parts = asked(from, until).without(&mut known);
            assert_eq!((parts[0].from, parts[0].until), (at(from), Some(at(until))));
            assert_eq!(known[0].is_over(), takes_over, "{from} {until}");
        }
    }

    #[test]
    fn what_the_live_stream_brings_again_is_no_longer_its() {
        let mut backfill = asked(5 * HOUR, HOUR);
        backfill.stream.waiting = vec![waiting("a", at(4 * HOUR)), waiting("b", at(2 * HOUR))];
        backfill.leave_to_live(at(3 * HOUR));
        assert_eq!(backfill.until, Some(at(3 * HOUR)));
        let ids: Vec<_> = backfill.stream.waiting.iter().map(|blob| blob.id.as_str()).collect();
        assert_eq!(ids, ["a"]);
    }
}
