//! What is remembered of a stream, and the reasoning on it: which window to list next, what a
//! finished run means for the position.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{Delivered, Waiting, is_zero};
use crate::health::{Health, is_due};
use crate::notice::Notice;
use crate::timestamp::{DAY, HOUR, MINUTE, Timestamp};

/// How long the API keeps content listed (documented).
pub const RETENTION: i64 = 7 * DAY;

/// A window starts this much before what it is for: a listing whose `startTime` equals a blob's
/// `contentCreated` has been seen to return a partial version of that blob.
const GUARD: i64 = MINUTE;

/// The longest window that the API takes (documented).
const LONGEST_WINDOW: i64 = DAY;

/// The shortest window that a backlog is narrowed to.
const SHORTEST_WINDOW: i64 = 5 * MINUTE;

/// Blobs that wait in a stream at most; what is beyond them is found again by listing.
pub const MOST_WAITING: usize = 1000;

/// In more runs than these the API is believed against this machine's clock.
const MOST_AHEAD: u32 = 10;

/// Clocks that are further apart don't agree, in seconds.
pub const CLOCK_TOLERANCE: i64 = 5 * MINUTE;

/// While clocks don't agree, delivered blobs are remembered so much longer than `lookback`: for so
/// long either may be wrong without a loss or a repeat.
const DOUBT: i64 = DAY;

/// Subscriptions are listed, and each is started, this often at most.
pub const SUBSCRIPTION_PAUSE: i64 = 15 * MINUTE;

/// Where a stream begins that has never listed a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// At the moment of its first run.
    Now,
    /// With the oldest content that the API still holds, whenever it will first be listed.
    Oldest,
    /// At a time that is known: that of the first run by the API's clock, that of the bookmark of
    /// Wazuh's own module, or `reset`'s.
    Given,
}

/// What is remembered of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// All content created before this has been listed, and is delivered or waits below; content
    /// that becomes listable late aside, which `lookback` is for.
    pub position: Timestamp,
    /// Since when every delivered blob is remembered: no listing reaches behind it.
    pub horizon: Timestamp,
    /// Set until the first window has been listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Whether it is of this run.
    #[serde(skip)]
    pub is_new: bool,
    /// How long a window to list, in seconds: shorter where a run can't work off a whole one.
    pub window: i64,
    /// Blobs delivered since the horizon.
    pub delivered: Delivered,
    /// Blobs listed and not yet delivered.
    pub waiting: Vec<Waiting>,
    /// What the last of these that failed has run into; none when none of them has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_error: Option<String>,
    /// When we last asked for its subscription to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_requested: Option<Timestamp>,
    /// Why that failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<String>,
    /// Since when the API has said that it has no subscription for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsubscribed_since: Option<Timestamp>,
    /// Since when the API has said, against this machine's clock, what time it is, and in how many runs:
    /// before the stream has begun; then as long as that is earlier than all that is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<(Timestamp, u32)>,
    /// Seconds by which the API's time has gone back since it was last confirmed: more time may have passed
    /// by then, so that the position alone doesn't show it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub went_back: u64,
    /// Blobs of which runs under a modulesd have written something that nothing has proven to be
    /// sent, as they were before.
    pub handed_over: Vec<Waiting>,
    /// How many records filters have left out of it.
    #[serde(default)]
    pub excluded: u64,
    /// How many of these were in the blobs that are handed over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excluded_of_handed_over: u64,
    /// What the last run that got to it has written of it.
    #[serde(default)]
    pub last_run: Tally,
    /// What all runs have written of it; what was written again counts again.
    #[serde(default)]
    pub in_all: Tally,
    /// How it fares: a success is a listing to its end with no blob left that fails.
    pub health: Health,
    /// Its lag at the end of the last run that got to it, in seconds.
    pub last_lag: Option<i64>,
    /// When a `behind` notice was last written of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_told: Option<Timestamp>,
    /// How many `gap` notices were written of it.
    pub gaps: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_gap: Option<LastGap>,
}

/// What was written of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Events.
    pub events: u64,
    /// Blobs written to their end.
    pub blobs: u64,
}

/// The last gap of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastGap {
    /// When it was found.
    pub at: Timestamp,
    /// What was said of it.
    pub notice: Notice,
}

/// What a run did in a stream.
#[derive(Debug)]
pub struct RunEnd {
    /// How far it has listed without a hole, if it has listed a window to its end.
    pub listed_to: Option<Timestamp>,
    /// Fingerprints of the blobs that the last windows listed, with the windows' ends: the next run may list
    /// the same time again, and with it these blobs, whatever their own time of creation says.
    pub last_listed: Vec<(Timestamp, HashSet<u64>)>,
    /// The blobs that are left undelivered.
    pub left: Vec<Waiting>,
    /// The blobs of which it has handed something over to a modulesd, as they were before.
    pub handed_over: Vec<Waiting>,
    /// Whether it had to stop between two pages of a window.
    pub cut: bool,
    /// What is known of the time, if the API has told it. Where this machine's clock doesn't say nearly the
    /// same one of them is wrong, and should it be the API's, listing must be able to go back without
    /// repeating.
    pub clock: Option<ClockReading>,
    /// Whether the stream is that of a past window, whose beginning no clock decides.
    pub is_past: bool,
    /// Bytes of the state that it may fill with blobs that listing finds again.
    pub room: usize,
}

/// What is known of the time.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    /// The API's time.
    pub now: Timestamp,
    /// Seconds to add to this machine's clock to get it.
    pub offset: i64,
    /// Seconds by which that is more than when the state was saved.
    pub change: i64,
}

impl ClockReading {
    /// The API's time, where this machine's clock says nearly the same.
    #[must_use]
    pub fn sure_now(&self) -> Option<Timestamp> {
        (self.offset.saturating_abs() <= CLOCK_TOLERANCE).then_some(self.now)
    }

    /// Whether that is so, or the API said the same in the last run.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.sure_now().is_some() || self.change.saturating_abs() <= MINUTE
    }
}

/// One listing request's span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The request's `startTime`.
    pub start: Timestamp,
    /// What the window is for begins here; before it lies a margin, unless that would leave the 7 days.
    pub from: Timestamp,
    /// The request's `endTime`.
    pub end: Timestamp,
    /// What should have been listed, but is older than the API's 7 days: from and to.
    pub lost: Option<(Timestamp, Timestamp)>,
}

/// Where a blob's time of creation lies, seen from the window that lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In what the window is for.
    Inside,
    /// In the margin before that: such a blob was listed before, and may be partial in this listing.
    Margin,
    /// Not in the window at all, or it can't be read: it says nothing of the blob.
    Outside,
}

impl Window {
    /// Where a blob of its listing lies that was created then.
    #[must_use]
    pub fn place(&self, created: Option<Timestamp>) -> Place {
        match created {
            Some(at) if (self.from..self.end).contains(&at) => Place::Inside,
            Some(at) if (self.start..self.from.min(self.end)).contains(&at) => Place::Margin,
            _ => Place::Outside,
        }
    }
}

impl Stream {
    /// A stream's first run: it starts at a time that is known from elsewhere, such as the bookmark
    /// of Wazuh's own module, if the API still covers it; else now, or with the oldest content.
    #[must_use]
    pub fn first(only_future_events: bool, known: Option<Timestamp>, now: Timestamp) -> Self {
        let known = known.filter(|at| (0..=RETENTION).contains(&now.since(*at)));
        let (origin, start) = match known {
            Some(at) => (Origin::Given, at),
            None if only_future_events => (Origin::Now, now),
            None => (Origin::Oldest, now.plus(-RETENTION)),
        };
        Self {
            position: start,
            horizon: start,
            origin: Some(origin),
            is_new: true,
            window: LONGEST_WINDOW,
            delivered: Delivered::default(),
            waiting: Vec::new(),
            blob_error: None,
            start_requested: None,
            start_error: None,
            unsubscribed_since: None,
            ahead: None,
            went_back: 0,
            handed_over: Vec::new(),
            excluded: 0,
            excluded_of_handed_over: 0,
            last_run: Tally::default(),
            in_all: Tally::default(),
            health: Health::default(),
            last_lag: None,
            behind_told: None,
            gaps: 0,
            last_gap: None,
        }
    }

    /// The stream of a past window that begins at `from`.
    pub(super) fn of_the_past(from: Timestamp) -> Self {
        Self { origin: Some(Origin::Given), ..Self::first(true, None, from) }
    }

    /// Whether its subscription may be started, which Microsoft wants at most every 15 minutes.
    #[must_use]
    pub fn may_start(&self, now: Timestamp) -> bool {
        let pausing = |at: Timestamp| (0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        !self.start_requested.is_some_and(pausing)
    }

    /// Brings a stream in line with the API's clock, once a run. Gives the seconds by which that
    /// went back, where the position is set back for it.
    ///
    /// A clock that goes back was wrong before, or is wrong now: the position is set back when the
    /// new time is confirmed; then to the horizon, since when every delivered blob is known, so
    /// that nothing of the time in between is lost or repeated.
    pub fn correct_clock(&mut self, clock: &ClockReading, lookback: i64) -> Option<i64> {
        let now = clock.now;
        if let Some(origin) = self.origin {
            let is_sure = clock.sure_now().is_some();
            match origin {
                // By what this run, or an earlier one that never heard of the API's time, took for
                // now. In the latter case only back: to start too early costs a few old events, too
                // late would lose some; but not out of the 7 days, which would be a gap.
                Origin::Now => {
                    let change = if self.is_new { clock.change } else { clock.change.min(0) };
                    let inside = self.position.min(now.plus(HOUR - RETENTION));
                    self.position = self.position.plus(change).max(inside);
                    if is_sure {
                        self.origin = Some(Origin::Given);
                    }
                }
                Origin::Oldest => self.position = now.plus(-RETENTION),
                Origin::Given => {}
            }
            // A wrong time must not spoil a beginning that is known.
            if is_sure || origin == Origin::Now {
                self.position = self.position.min(now);
            }
            self.horizon = self.position;
            if origin == Origin::Oldest && clock.offset > 0 {
                // Should it be the API's time that is wrong, all since the other one's oldest is missing.
                self.horizon = self.position.plus(clock.offset.saturating_neg());
            }
            return None;
        }
        let went_back = i64::try_from(self.went_back).unwrap_or(i64::MAX);
        let went_back = went_back.saturating_sub(clock.change).max(0);
        self.went_back = u64::try_from(went_back).unwrap_or_default();
        let back = self.position.since(now).max(went_back);
        if back <= MINUTE {
            self.position = self.position.min(now);
            (self.ahead, self.went_back) = (None, 0);
            return None;
        }
        if !clock.is_confirmed() {
            return None;
        }
        if self.horizon > now {
            // It was wrong for so long that what was delivered is forgotten: rather twice than not.
            // Where this machine's clock doesn't say so as well, only if the API goes on saying it.
            let (since, runs) = self.ahead.unwrap_or((now, 0));
            if clock.sure_now().is_none() && runs < MOST_AHEAD {
                self.ahead = Some((since, runs + 1));
                return None;
            }
            self.horizon = since.min(now).plus(-lookback);
        }
        (self.ahead, self.went_back) = (None, 0);
        if self.horizon < now.plus(HOUR - RETENTION) {
            // As far back as the API goes, wherever that is when it is listed: no gap.
            self.origin = Some(Origin::Oldest);
            self.position = self.position.min(now.plus(-RETENTION));
        } else {
            self.position = self.position.min(self.horizon);
        }
        Some(back)
    }

    /// Whether the API's time, by which a stream begins, may be wrong: this machine's clock says another,
    /// and not for many runs yet. Then a listing doesn't end its beginning: the next run lists the same
    /// again, by the time that it is told.
    #[must_use]
    pub fn begins_in_doubt(&self, clock: Option<&ClockReading>) -> bool {
        let is_sure = clock.is_some_and(|clock| clock.sure_now().is_some());
        let runs = self.ahead.map_or(0, |(_, runs)| runs);
        self.origin.is_some() && !is_sure && runs < MOST_AHEAD
    }

    /// Where a run's listing begins: late blobs are looked for as far as delivered ones are known.
    #[must_use]
    pub fn listing_start(&self, lookback: i64) -> Timestamp {
        self.horizon.max(self.position.plus(-lookback))
    }

    /// The window for content created from `from` on.
    ///
    /// `margin`: seconds to stay within the 7 days. Where `from` is not before `now` (the last run
    /// was a moment ago, or this machine's clock went back) the window still ends just behind
    /// `now`: its answer brings the API's time, and nothing that is older than `from` is taken.
    #[must_use]
    pub fn window(&self, from: Timestamp, now: Timestamp, margin: i64) -> Window {
        let edge = now.plus(margin - RETENTION);
        let due = from.max(self.position);
        let lost = (due < edge && self.origin != Some(Origin::Oldest)).then_some((due, edge));
        let from = from.max(edge);
        let start = from.min(now).plus(-GUARD).max(edge);
        // At the edge time runs: a short window is listed to its end before it falls behind.
        let longest = if lost.is_some() { HOUR } else { LONGEST_WINDOW };
        let end = from
            .plus(self.window.clamp(SHORTEST_WINDOW, longest))
            .min(start.plus(LONGEST_WINDOW))
            .min(now.max(from.min(now).plus(1)));
        Window { start, from, end, lost }
    }

    /// What an answer for `window` shows to be lost for sure, if that has not been said yet.
    #[must_use]
    pub fn lost(&self, window: &Window, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let (from, to) = window.lost?;
        let to = to.min(now);
        (self.position < to && from < to).then_some((from, to))
    }

    /// A gap up to `to` has been said: the position moves over it.
    pub fn skip_to(&mut self, to: Timestamp) {
        self.position = self.position.max(to);
    }

    /// Takes in what a run did; gives how much of its room it took.
    pub fn finish(&mut self, run: RunEnd, lookback: i64) -> usize {
        let mut left = run.left;
        let sure_now = run.clock.and_then(|clock| clock.sure_now());
        if !run.is_past && self.begins_in_doubt(run.clock.as_ref()) {
            if run.clock.is_some() || run.listed_to.is_some() {
                let (since, runs) = self.ahead.unwrap_or((self.position, 0));
                self.ahead = Some((since, runs + 1));
            }
        } else if let Some(end) = run.listed_to {
            self.position = self.position.max(end);
            if self.origin.take().is_some() {
                self.ahead = None;
            }
        }
        // First those that listing would not find again, then those that it would, but not at the
        // right record, then the oldest.
        let horizon = self.horizon;
        left.sort_by_cached_key(|blob| {
            let is_listable = blob.listable_since() >= horizon;
            (is_listable, blob.written == 0, blob.created, blob.id.clone())
        });
        let mut taken = 0;
        let fits = |(n, blob): &(usize, &Waiting)| {
            taken += if self.must_keep(blob) { 0 } else { blob.size() };
            blob.listable_since() < horizon || (*n < MOST_WAITING && taken <= run.room)
        };
        let kept = left.iter().enumerate().take_while(fits).count();
        let dropped = left.split_off(kept);
        if let Some(oldest) = dropped.iter().map(Waiting::listable_since).min() {
            self.position = self.position.min(oldest);
        }
        // A window whose blobs don't fit into a run is listed again in full: make it shorter.
        let overfull = run.cut || !dropped.is_empty();
        let window = if overfull { self.window / 2 } else { self.window.saturating_mul(2) };
        self.window = window.clamp(SHORTEST_WINDOW, LONGEST_WINDOW);
        self.waiting = left;
        // What an earlier run handed over is still here where nothing has proven it.
        let known: HashSet<String> = self.handed_over.iter().map(|blob| blob.id.clone()).collect();
        let handed_over = run.handed_over.into_iter();
        self.handed_over.extend(handed_over.filter(|blob| !known.contains(&blob.id)));
        if run.listed_to.is_some() {
            // What was not looked for since the last listing may have become available late.
            let doubtful = || {
                let newest = self.delivered.newest();
                newest.map(|newest| newest.plus(-DOUBT).min(self.position))
            };
            let sure = sure_now.map(|now| self.position.min(now)).or_else(doubtful);
            let horizon = sure.map_or(self.horizon, |sure| sure.plus(-lookback));
            self.horizon = self.horizon.max(horizon);
        }
        let horizon = self.horizon;
        let again = run.last_listed.iter().filter(|(end, _)| *end >= horizon);
        for key in again.flat_map(|(_, keys)| keys) {
            self.delivered.refresh(*key, horizon);
        }
        self.delivered.forget_before(self.horizon);
        taken
    }

    /// A run has written so much of it.
    pub fn wrote(&mut self, written: Tally) {
        self.last_run = written;
        self.in_all.events = self.in_all.events.saturating_add(written.events);
        self.in_all.blobs = self.in_all.blobs.saturating_add(written.blobs);
    }

    /// Filters have left out so many records of a blob, which `is_handed_over` or not.
    pub fn leave_out(&mut self, records: u64, is_handed_over: bool) {
        self.excluded = self.excluded.saturating_add(records);
        if is_handed_over {
            self.excluded_of_handed_over = self.excluded_of_handed_over.saturating_add(records);
        }
    }

    /// A gap is told of it.
    pub fn gap(&mut self, notice: Notice, at: Timestamp) {
        self.gaps = self.gaps.saturating_add(1);
        self.last_gap = Some(LastGap { at, notice });
    }

    /// Takes down the lag that a run has left; gives it where a `behind` notice is due: beyond a
    /// day, larger than before, and not told for a day.
    pub fn behind(&mut self, now: Timestamp) -> Option<i64> {
        let lag = self.lag(now);
        let grows = self.last_lag.replace(lag).is_some_and(|before| lag > before);
        let due = lag > DAY && grows && is_due(self.behind_told, now);
        due.then(|| {
            self.behind_told = Some(now);
            lag
        })
    }

    /// Moves the position to `to`. Gives what is skipped by that, if anything: from and to.
    ///
    /// Forward, nothing older is looked for any more. Back, all that became available since then
    /// comes, whether it was delivered before or not. As far back as the API goes, it comes from
    /// where that is when it is listed.
    pub fn reset(&mut self, to: Timestamp, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let skipped = (to > self.position).then(|| (self.oldest(), to));
        if skipped.is_some() {
            self.waiting.retain(|blob| blob.created >= to);
        } else {
            // Listing finds these again, from their start.
            self.waiting.retain(|blob| blob.created < to);
            self.handed_over.retain(|blob| blob.created < to);
            self.delivered.forget_since(to);
        }
        let oldest = now.since(to) >= RETENTION - MINUTE;
        let given = self.origin.map(|_| Origin::Given);
        self.origin = if oldest { Some(Origin::Oldest) } else { given };
        self.position = to;
        // What becomes available late is looked for as before, unless it is to be skipped.
        self.horizon = if skipped.is_some() { to } else { self.horizon.min(to) };
        self.window = LONGEST_WINDOW;
        self.last_lag = None;
        skipped
    }

    /// Since when content is undelivered: the older of the position and the oldest waiting blob.
    fn oldest(&self) -> Timestamp {
        let waiting = self.waiting.iter().map(Waiting::waits_since);
        waiting.fold(self.position, Timestamp::min)
    }

    /// Seconds from there to `now`.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> i64 {
        now.since(self.oldest()).max(0)
    }
}

/// A margin to the 7 days for the `attempt`-th request that the API found outside of them: its
/// answers take a moment, and its idea of the edge has been seen to differ from its documentation.
#[must_use]
pub fn edge_margin(attempt: u32) -> i64 {
    match attempt {
        0 => 10,
        1 => 5 * MINUTE,
        2 => HOUR,
        3 => 6 * HOUR,
        _ => DAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Blob;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds_before_now: i64) -> Timestamp {
        Timestamp::from_unix(NOW - seconds_before_now)
    }

    fn end(listed_to: Option<Timestamp>, left: Vec<Waiting>, now: Timestamp) -> RunEnd {
        let clock = Some(reading(0, 0, now));
        let (handed_over, last_listed, room) = (vec![], vec![], usize::MAX);
        let (cut, is_past) = (false, false);
        RunEnd { listed_to, last_listed, left, handed_over, cut, clock, is_past, room }
    }

    fn waiting(id: &str, created: Timestamp) -> Waiting {
        let blob =
            Blob { id: id.to_owned(), uri: String::new(), created: Some(created), expires: None };
        Waiting::new(blob, created)
    }

    #[test]
    fn while_clocks_dont_agree_the_horizon_stays_before_the_position() {
        let mut stream = Stream::first(true, None, at(6 * DAY));
        stream.delivered.insert(1, at(60));
        let left = (0..1200).map(|n| waiting(&n.to_string(), at(5 * DAY - n))).collect();
        stream.origin = None;
        stream.finish(RunEnd { clock: None, ..end(Some(at(0)), left, at(0)) }, HOUR);
        assert!(stream.listing_start(HOUR) <= stream.position);
    }

    #[test]
    fn a_first_run_starts_where_it_should() {
        let table = [
            (true, None, Origin::Now, 0),
            (false, None, Origin::Oldest, RETENTION),
            (true, Some(at(HOUR)), Origin::Given, HOUR),
            (false, Some(at(RETENTION)), Origin::Given, RETENTION),
            (true, Some(at(RETENTION + 1)), Origin::Now, 0),
            (true, Some(at(-5)), Origin::Now, 0),
        ];
        for (only_future, bookmark, origin, start) in table {
            let stream = Stream::first(only_future, bookmark, at(0));
            assert_eq!((stream.origin, stream.position), (Some(origin), at(start)));
            assert_eq!(stream.horizon, stream.position, "lookback never reaches behind the start");
        }
    }

    #[test]
    fn windows_cover_a_backlog_without_a_hole_and_within_the_rules() {
        let stream = Stream::first(false, None, at(0));
        let mut from = stream.listing_start(HOUR);
        let mut windows = Vec::new();
        while from < at(0) {
            let window = stream.window(from, at(0), 10);
            assert!(window.end.since(window.start) <= DAY);
            assert!(at(0).since(window.start) <= RETENTION - 10);
            assert!(windows.is_empty() || window.from.since(window.start) == GUARD);
            from = window.end;
            windows.push(window);
        }
        assert_eq!(windows[0].from, at(RETENTION - 10));
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].from));
        assert_eq!(windows.last().unwrap().end, at(0));
        assert_eq!(windows.len(), 8);
    }

    #[test]
    fn an_idle_stream_lists_one_window() {
        let mut stream = Stream::first(true, None, at(2 * HOUR));
        stream.finish(end(Some(at(60)), vec![], at(0)), HOUR);
        let window = stream.window(stream.listing_start(HOUR), at(0), 10);
        assert_eq!(
            window,
            Window { start: at(HOUR + 120), from: at(HOUR + 60), end: at(0), lost: None }
        );
        let at_once = stream.window(at(0), at(0), 10);
        assert_eq!(at_once, Window { start: at(60), from: at(0), end: at(-1), lost: None });
        let clock_went_back = stream.window(at(0), at(DAY), 10);
        let (start, end) = (at(DAY + 60), at(DAY - 1));
        assert_eq!(clock_went_back, Window { start, from: at(0), end, lost: None });
    }

    #[test]
    fn what_fell_out_of_the_seven_days_is_a_gap_said_once() {
        let mut stream = Stream::first(true, None, at(RETENTION + HOUR));
        stream.finish(end(Some(at(RETENTION + HOUR)), vec![], at(0)), HOUR);
        let window = stream.window(stream.listing_start(HOUR), at(0), 10);
        let edge = at(RETENTION - 10);
        assert_eq!(stream.lost(&window, at(0)), Some((at(RETENTION + HOUR), edge)));
        stream.skip_to(edge);
        assert_eq!((stream.position, stream.lost(&window, at(0))), (edge, None));
        let window = stream.window(window.from, at(0), 10);
        assert_eq!(stream.lost(&window, at(0)), None);
        // A run so slow that the edge overtakes it between two windows.
        let window = stream.window(edge, at(-HOUR), 10);
        assert_eq!(window.lost, Some((edge, edge.plus(HOUR))));

        let oldest = Stream::first(false, None, at(0));
        let window = oldest.window(oldest.listing_start(HOUR), at(0), 10);
        let lost = oldest.lost(&window, at(0));
        assert_eq!(lost, None, "a first run that takes all has lost nothing");
    }

    fn reading(change: i64, offset: i64, now: Timestamp) -> ClockReading {
        ClockReading { now, offset, change }
    }

    #[test]
    fn a_stream_that_was_never_listed_follows_the_clock() {
        let mut now = Stream::first(true, None, at(0));
        now.correct_clock(&reading(-3600, -3600, at(3000)), HOUR);
        assert_eq!((now.position, now.horizon), (at(3600), at(3600)));
        now.is_new = false;
        now.correct_clock(&reading(50, 0, at(0)), HOUR);
        assert_eq!(now.position, at(3600));
        let mut oldest = Stream::first(false, None, at(HOUR));
        oldest.correct_clock(&reading(0, 0, at(0)), HOUR);
        assert_eq!(oldest.position, at(RETENTION));
    }

    #[test]
    fn a_time_that_may_be_wrong_ends_no_beginning_until_it_was_told_in_ten_runs() {
        for (origin, day) in [(Origin::Oldest, 30), (Origin::Oldest, -3), (Origin::Given, 30)] {
            let mut stream = Stream { origin: Some(origin), ..Stream::first(false, None, at(0)) };
            stream.position = at(6 * DAY);
            let wrong =
                |n: i64| reading(if n == 0 { day * DAY } else { 0 }, day * DAY, at(-day * DAY));
            let run = |stream: &mut Stream, clock: ClockReading| {
                stream.correct_clock(&clock, HOUR);
                let end = RunEnd { clock: Some(clock), ..end(Some(clock.now), vec![], at(0)) };
                stream.finish(end, HOUR);
            };
            for n in 0..i64::from(MOST_AHEAD) {
                assert!(stream.begins_in_doubt(Some(&wrong(n))), "{origin:?} {n}");
                run(&mut stream, wrong(n));
                assert_eq!(stream.origin, Some(origin), "{n}");
            }
            // The right one ends it at once, and nothing of the backlog has been passed over.
            let mut right = stream.clone();
            right.correct_clock(&reading(-day * DAY, 0, at(0)), HOUR);
            let expected = if origin == Origin::Given { at(6 * DAY) } else { at(RETENTION) };
            assert_eq!(right.position, expected, "{origin:?} {day}");
            run(&mut right, reading(-day * DAY, 0, at(0)));
            assert_eq!((right.origin, right.position, right.ahead), (None, at(0), None));
            // One that goes on is believed.
            run(&mut stream, wrong(10));
            assert_eq!((stream.origin, stream.ahead), (None, None));
            assert!(!stream.begins_in_doubt(Some(&wrong(11))));
        }
    }

    #[test]
    fn a_time_of_creation_lies_inside_a_window_in_its_margin_or_outside() {
        let window = Window { start: at(460), from: at(400), end: at(100), lost: None };
        let table = [
            (Some(461), Place::Outside),
            (Some(460), Place::Margin),
            (Some(401), Place::Margin),
            (Some(400), Place::Inside),
            (Some(101), Place::Inside),
            (Some(100), Place::Outside),
            (Some(-DAY), Place::Outside),
            (None, Place::Outside),
        ];
        for (ago, place) in table {
            assert_eq!(window.place(ago.map(at)), place, "{ago:?}");
        }
        let at_the_edge = Window { start: at(400), ..window };
        assert_eq!(at_the_edge.place(Some(at(401))), Place::Outside);
        let clock_went_back = Window { from: at(50), ..window };
        assert_eq!(clock_went_back.place(Some(at(300))), Place::Margin);
        assert_eq!(clock_went_back.place(Some(at(70))), Place::Outside);
    }

    #[test]
    fn a_date_too_late_is_undone_to_where_every_blob_is_known() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.finish(end(Some(at(60)), vec![], at(60)), HOUR);
        stream.delivered.insert(1, at(120));
        // The API says that it is a month later.
        stream.finish(end(Some(at(-30 * DAY)), vec![], at(0)), HOUR);
        assert!(stream.delivered.contains(1));
        // It says what this machine says, a quarter of an hour later.
        let back = stream.correct_clock(&reading(-30 * DAY, 0, at(-900)), 300);
        assert_eq!(back, Some(30 * DAY));
        assert_eq!(stream.listing_start(300), at(HOUR), "a blob of that time will be found");
        assert!(stream.delivered.contains(1), "and this one is known");
    }

    #[test]
    fn a_date_too_early_moves_nothing_until_it_is_confirmed() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.finish(end(Some(at(0)), vec![], at(0)), HOUR);
        let before = stream.clone();
        let early = at(30 * DAY);
        assert_eq!(stream.correct_clock(&reading(-30 * DAY, -30 * DAY, early), HOUR), None);
        assert_eq!(Stream { went_back: 0, ..stream.clone() }, before);
        assert_eq!(stream.correct_clock(&reading(0, -30 * DAY, early), HOUR), None, "nor twice");
        assert_eq!(stream.position, before.position);
        // This machine's clock says so as well.
        stream.correct_clock(&reading(-30 * DAY, 0, early), HOUR);
        assert_eq!(stream.position, early.plus(-HOUR));
        // Or it goes on saying it.
        let mut stubborn = before.clone();
        for _ in 0..MOST_AHEAD {
            assert_eq!(stubborn.correct_clock(&reading(0, -30 * DAY, early), HOUR), None);
        }
        stubborn.correct_clock(&reading(0, -30 * DAY, early.plus(600)), HOUR);
        assert_eq!(stubborn.position, early.plus(-HOUR), "from when it began to");
        let mut seconds = before.clone();
        seconds.correct_clock(&reading(-9, -900, at(9)), HOUR);
        assert_eq!((seconds.position, seconds.horizon), (at(9), at(HOUR)));
    }

    #[test]
    fn a_date_too_late_in_the_last_run_before_a_pause_loses_nothing() {
        // This machine's clock is 8 days off; the API's time is right but for one run.
        let offset = 8 * DAY;
        let mut stream = Stream { origin: None, ..Stream::first(true, None, at(DAY)) };
        let mut run = |clock: ClockReading| {
            stream.correct_clock(&clock, HOUR);
            let from = stream.listing_start(HOUR);
            let end = RunEnd { clock: Some(clock), ..end(Some(clock.now), vec![], clock.now) };
            stream.finish(end, HOUR);
            from
        };
        run(reading(0, offset, at(0)));
        // One run is told three hours too late; the next one comes four hours later.
        run(reading(3 * HOUR, offset + 3 * HOUR, at(-3 * HOUR)));
        let first = run(reading(-3 * HOUR, offset, at(-4 * HOUR)));
        let second = run(reading(0, offset, at(-4 * HOUR - 60)));
        assert!(first.min(second) <= at(0), "{first} {second}, listed to {}", at(0));
    }

    #[test]
    fn no_offset_that_a_state_may_hold_makes_the_arithmetic_overflow() {
        for change in [i64::MIN, i64::MAX] {
            let mut stream = Stream::first(true, None, at(DAY));
            stream.finish(end(Some(at(60)), vec![], at(60)), HOUR);
            let before = stream.position;
            stream.correct_clock(&reading(change, -900, at(0)), HOUR);
            assert_eq!(stream.position, before);
        }
    }

    #[test]
    fn the_position_stays_before_what_does_not_fit_into_the_waiting_list() {
        let mut stream = Stream::first(true, None, at(DAY));
        let mut left: Vec<_> = (0..1500).map(|n| waiting(&n.to_string(), at(5000 - n))).collect();
        left.reverse();
        left[0].written = 3;
        stream.finish(end(Some(at(0)), left, at(0)), HOUR);
        assert_eq!(stream.waiting.len(), MOST_WAITING);
        assert_eq!(stream.waiting[0].written, 3, "the newest, but begun");
        assert_eq!(stream.position, at(5000 - 999));
        assert_eq!(stream.horizon, at(5000 - 999 + HOUR));
        assert_eq!(stream.window, LONGEST_WINDOW / 2);
        stream.finish(end(Some(at(0)), vec![], at(0)), HOUR);
        assert_eq!((stream.position, stream.window), (at(0), LONGEST_WINDOW));
        assert_eq!(stream.lag(at(-5)), 5);
    }

    #[test]
    fn the_position_stays_before_what_the_state_has_no_room_for() {
        let mut stream = Stream::first(true, None, at(DAY));
        let begun = |n: i64| Waiting { written: 1, ..waiting("begun", at(4000 - n)) };
        let left: Vec<_> = (0..100).map(|n| waiting(&n.to_string(), at(5000 - n))).collect();
        let size = left[10].size();
        let left = || left.iter().cloned().chain([begun(1)]).collect();
        let end = |room| RunEnd { room, ..end(Some(at(0)), left(), at(0)) };
        let taken = stream.finish(end(20 * size), HOUR);
        assert!(taken <= 21 * size);
        assert_eq!((stream.waiting.len(), stream.position), (1 + 20, at(5000 - 20)));
        stream.finish(end(0), HOUR);
        assert_eq!((stream.waiting.len(), stream.position), (1, at(5000)), "what is begun is kept");
    }

    #[test]
    fn the_horizon_never_moves_back_so_nothing_comes_twice() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.delivered.insert(1, at(HOUR + 1));
        stream.delivered.insert(2, at(HOUR));
        stream.finish(end(Some(at(0)), vec![], at(0)), HOUR);
        assert!(!stream.delivered.contains(1) && stream.delivered.contains(2));
        // A larger lookback reaches only as far as delivered blobs are known.
        assert_eq!(stream.listing_start(DAY), at(HOUR));
        // A position that moved back takes the horizon nowhere.
        let left = (0..1001).map(|n| waiting(&n.to_string(), at(1800))).collect();
        stream.finish(end(Some(at(0)), left, at(0)), HOUR);
        assert_eq!((stream.position, stream.horizon), (at(1800), at(HOUR)));
    }

    #[test]
    fn a_reset_back_brings_all_from_its_start_and_one_forward_forgets_nothing() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.finish(end(Some(at(0)), vec![], at(0)), HOUR);
        stream.delivered.insert(1, at(100));
        let begun = Waiting { written: 50, ..waiting("begun", at(200)) };
        stream.waiting = vec![begun.clone(), waiting("old", at(DAY))];
        stream.handed_over = vec![waiting("begun", at(200))];
        assert_eq!(stream.reset(at(300), at(0)), None);
        let left: Vec<_> = stream.waiting.iter().map(|blob| blob.id.as_str()).collect();
        assert_eq!((left, stream.handed_over.len()), (vec!["old"], 0), "the other is listed again");
        assert!(!stream.delivered.contains(1));
        assert_eq!((stream.position, stream.horizon), (at(300), at(HOUR)));

        stream.delivered.insert(1, at(100));
        stream.handed_over = vec![begun];
        assert_eq!(stream.reset(at(150), at(0)), Some((at(DAY), at(150))));
        assert!(stream.waiting.is_empty() && stream.delivered.contains(1));
        assert_eq!((stream.handed_over.len(), stream.horizon), (1, at(150)));
    }

    #[test]
    fn waiting_blobs_are_tried_in_ten_runs_and_then_every_ten_minutes() {
        let mut blob = waiting("a", at(0));
        blob.failed_runs = 10;
        blob.last_try = Some(at(60));
        assert!(blob.is_due(at(0)));
        blob.failed_runs = 11;
        assert!(!blob.is_due(at(0)));
        assert!(blob.is_due(at(-540)));
    }
}
