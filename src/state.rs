//! What a run leaves to the next one: for every stream its position, the blobs already delivered
//! and those that wait. And the reasoning on it: which window to list next, what a finished run
//! means for the position. No I/O, no clock.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::content::{Blob, ContentType};
use crate::timestamp::{DAY, HOUR, MINUTE, Timestamp};

/// The version of the file's form that we write and read.
pub const VERSION: u32 = 1;

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

/// A tenant that is no longer configured is forgotten after this time.
const FORGET_TENANT: i64 = 30 * DAY;

/// Subscriptions are listed, and each is started, this often at most.
pub const SUBSCRIPTION_PAUSE: i64 = 15 * MINUTE;

/// The whole state of one HOME.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Seconds to add to the local clock to get the API's, as last seen.
    pub clock_offset: i64,
    /// When the last poll ended.
    pub last_poll: Option<Timestamp>,
    /// The configured interval in seconds, for those who judge how old `last_poll` may be.
    pub interval: i64,
    /// Where a run that had to stop left off, so that the next one goes on behind it.
    pub turns: Turns,
    /// By `tenant_id` as configured, in lower case.
    pub tenants: BTreeMap<String, Tenant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            clock_offset: 0,
            last_poll: None,
            interval: 0,
            turns: Turns::default(),
            tenants: BTreeMap::new(),
        }
    }
}

/// Where a run left off that had to stop before all was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// The tenant that sent the last request for a token, a subscription or a listing.
    pub listed: Option<String>,
    /// The stream of which the last blob was begun.
    pub fetched: Option<(String, ContentType)>,
}

/// Why a state file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub enum BadState {
    /// It is of another version, perhaps of a newer release.
    Version(u64),
    /// It is damaged.
    Damaged(String),
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

impl State {
    /// Reads a state file's contents.
    ///
    /// # Errors
    /// It is of an unknown version or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadState> {
        let damaged = |error: serde_json::Error| BadState::Damaged(error.to_string());
        let VersionOnly { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != u64::from(VERSION) {
            return Err(BadState::Version(version));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Takes a finished run down.
    pub fn end_poll(&mut self, now: Timestamp, clock_offset: i64, interval: i64, turns: Turns) {
        self.last_poll = Some(now);
        self.clock_offset = clock_offset;
        self.interval = interval;
        self.turns = turns;
        let forget = |at: Timestamp| now.since(at) > FORGET_TENANT;
        self.tenants.retain(|_, tenant| !tenant.configured_at.is_some_and(forget));
    }

    /// Takes the state of a configured tenant out of here, or makes a new one.
    ///
    /// A tenant may be configured by a domain name and later by its GUID: the state is the same.
    /// That of one that `is_configured` by its own name is not taken, though.
    pub fn take_tenant(&mut self, tenant_id: &str, is_configured: impl Fn(&str) -> bool) -> Tenant {
        let key = tenant_id.to_ascii_lowercase();
        if let Some(tenant) = self.tenants.remove(&key) {
            return tenant;
        }
        let same = |tenant: &Tenant| tenant.guid.as_deref() == Some(key.as_str());
        let other = self.tenants.iter().find(|(name, t)| same(t) && !is_configured(name));
        let other = other.map(|(name, _)| name.clone());
        other.and_then(|name| self.tenants.remove(&name)).unwrap_or_default()
    }

    /// Puts a configured tenant's state back.
    pub fn put_tenant(&mut self, tenant_id: &str, mut tenant: Tenant, now: Timestamp) {
        tenant.configured_at = Some(now);
        // What was known of it by its GUID has been taken over.
        if let Some(guid) = &tenant.guid {
            self.tenants.remove(guid);
        }
        self.tenants.insert(tenant_id.to_ascii_lowercase(), tenant);
    }

    /// The tenant that has this GUID, under another name than `tenant_id`.
    #[must_use]
    pub fn same_tenant(&self, guid: &str, tenant_id: &str) -> Option<&Tenant> {
        let key = guid.to_ascii_lowercase();
        self.tenants.get(&key).filter(|_| !tenant_id.eq_ignore_ascii_case(guid))
    }
}

/// What is remembered of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its GUID, where `tenant_id` is a domain name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// When a run last had it in its configuration.
    pub configured_at: Option<Timestamp>,
    /// When its subscriptions were last listed.
    pub subscriptions_listed: Option<Timestamp>,
    /// The API has asked it to slow down until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// Why its last run failed as a whole, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Its streams.
    pub streams: BTreeMap<ContentType, Stream>,
}

/// Where a stream begins that has never listed a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// At the moment of its first run.
    Now,
    /// With the oldest content that the API still holds, whenever it will first be listed.
    Oldest,
    /// At the bookmark of Wazuh's own module.
    Bookmark,
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
    /// How long a window to list, in seconds: shorter where a run can't work off a whole one.
    pub window: i64,
    /// Blobs delivered since the horizon.
    pub delivered: Delivered,
    /// Blobs listed and not yet delivered.
    pub waiting: Vec<Waiting>,
    /// When we last asked for its subscription to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_requested: Option<Timestamp>,
    /// Why that failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<String>,
    /// Since when the API has said that it has no subscription for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsubscribed_since: Option<Timestamp>,
    /// When it was last listed to the end without a failure.
    pub last_success: Option<Timestamp>,
    /// Why it last failed; none after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Runs that failed in a row.
    pub failures: u32,
}

/// A blob that was listed and is not delivered yet, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its content id.
    pub id: String,
    /// Where to fetch it.
    pub uri: String,
    /// When it became available.
    pub created: Timestamp,
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
    /// Elements of it that were handled already.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub written: u64,
    /// The `Id` of the last of those, as JSON; without it the blob is written again from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_id: Option<String>,
}

fn is_zero<N: Copy + Into<u64>>(number: &N) -> bool {
    (*number).into() == 0
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
            expires: blob.expires.unwrap_or_else(|| created.plus(RETENTION)),
            failed_runs: 0,
            last_try: None,
            missing: false,
            written: 0,
            last_id: None,
        }
    }

    /// Whether it is to be tried in a run at `now`: in each of ten runs, then every ten minutes.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.failed_runs <= 10 || self.last_try.is_none_or(|at| now.since(at) >= 10 * MINUTE)
    }
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
    /// Whether this machine's clock says nearly the same, or the API said the same in the last run.
    fn is_confirmed(&self) -> bool {
        self.offset.abs() <= 5 * MINUTE || self.change.abs() <= MINUTE
    }
}

/// One listing request's span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The request's `startTime`.
    pub start: Timestamp,
    /// What is older has been dealt with: such blobs are passed over.
    pub from: Timestamp,
    /// The request's `endTime`.
    pub end: Timestamp,
    /// What should have been listed, but is older than the API's 7 days: from and to.
    pub lost: Option<(Timestamp, Timestamp)>,
}

impl Stream {
    /// A stream's first run: it starts at the bookmark of Wazuh's own module if there is one that
    /// the API still covers, else now, or with the oldest content.
    #[must_use]
    pub fn first(only_future_events: bool, bookmark: Option<Timestamp>, now: Timestamp) -> Self {
        let bookmark = bookmark.filter(|at| (0..=RETENTION).contains(&now.since(*at)));
        let (origin, start) = match bookmark {
            Some(at) => (Origin::Bookmark, at),
            None if only_future_events => (Origin::Now, now),
            None => (Origin::Oldest, now.plus(-RETENTION)),
        };
        Self {
            position: start,
            horizon: start,
            origin: Some(origin),
            window: LONGEST_WINDOW,
            delivered: Delivered::default(),
            waiting: Vec::new(),
            start_requested: None,
            start_error: None,
            unsubscribed_since: None,
            last_success: None,
            last_error: None,
            failures: 0,
        }
    }

    /// Whether its subscription may be started, which Microsoft wants at most every 15 minutes.
    #[must_use]
    pub fn may_start(&self, now: Timestamp) -> bool {
        let pausing = |at: Timestamp| (0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        !self.start_requested.is_some_and(pausing)
    }

    /// Takes down how a run ended: with a failure, with a listing to its end, or with neither.
    pub fn judge(&mut self, failure: Option<&str>, listed: bool, now: Timestamp) {
        match failure {
            Some(why) => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(why.to_owned());
            }
            None if listed => {
                self.failures = 0;
                self.last_success = Some(now);
                self.last_error = None;
            }
            None => {}
        }
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
            match origin {
                // Only back: to start too early costs a few old events, too late would lose some.
                Origin::Now => self.position = self.position.plus(clock.change.min(0)),
                Origin::Oldest => self.position = now.plus(-RETENTION),
                Origin::Bookmark => {}
            }
            self.position = self.position.min(now);
            self.horizon = self.position;
            return None;
        }
        let back = self.position.since(now).max(-clock.change);
        if back <= MINUTE {
            self.position = self.position.min(now);
            return None;
        }
        if !clock.is_confirmed() {
            return None;
        }
        if self.horizon > now {
            // It was wrong for so long that what was delivered is forgotten: rather twice than not.
            self.horizon = now.plus(-lookback);
        }
        self.position = self.position.min(self.horizon);
        Some(back)
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

    /// Takes in what a run did: how far it listed without a hole, what it left undelivered, and
    /// whether it had to stop between two pages of a window.
    ///
    /// `at_least`: a time that has surely come. A wrong `Date` may have sent the position ahead;
    /// delivered blobs are remembered all the same, so that listing can go back without repeating.
    pub fn finish(
        &mut self,
        listed_to: Option<Timestamp>,
        mut left: Vec<Waiting>,
        lookback: i64,
        cut: bool,
        at_least: Timestamp,
    ) {
        if let Some(end) = listed_to {
            self.position = self.position.max(end);
            self.origin = None;
        }
        // First those that listing would not find again, then those that it would, but not at the
        // right record, then the oldest.
        let horizon = self.horizon;
        left.sort_by_cached_key(|blob| {
            (blob.created >= horizon, blob.written == 0, blob.created, blob.id.clone())
        });
        let kept = left.iter().take_while(|blob| blob.created < horizon).count();
        let dropped = left.split_off(kept.max(MOST_WAITING).min(left.len()));
        if let Some(oldest) = dropped.iter().map(|blob| blob.created).min() {
            self.position = self.position.min(oldest);
        }
        // A window whose blobs don't fit into a run is listed again in full: make it shorter.
        let overfull = cut || !dropped.is_empty();
        let window = if overfull { self.window / 2 } else { self.window.saturating_mul(2) };
        self.window = window.clamp(SHORTEST_WINDOW, LONGEST_WINDOW);
        self.waiting = left;
        self.horizon = self.horizon.max(self.position.min(at_least).plus(-lookback));
        self.delivered.forget_before(self.horizon);
    }

    /// Seconds from the older of the position and the oldest waiting blob to `now`.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> i64 {
        let oldest = self.waiting.iter().map(|blob| blob.created).min();
        now.since(oldest.map_or(self.position, |oldest| oldest.min(self.position))).max(0)
    }
}

/// The fingerprint of a content id by which a blob is known again.
#[must_use]
pub fn fingerprint(content_id: &str) -> u64 {
    let hash = digest(&SHA256, content_id.as_bytes());
    let first = hash.as_ref().first_chunk::<8>().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

/// The blobs delivered since the horizon: fingerprint and creation time of each.
///
/// In the file 11 bytes a blob, in base64: three of seconds since the oldest, eight of the
/// fingerprint; so 10,000 blobs an hour cost 150 kB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered(HashMap<u64, Timestamp>);

impl Delivered {
    /// Whether the blob was delivered.
    #[must_use]
    pub fn contains(&self, fingerprint: u64) -> bool {
        self.0.contains_key(&fingerprint)
    }

    /// Remembers a delivered blob.
    pub fn insert(&mut self, fingerprint: u64, created: Timestamp) {
        self.0.insert(fingerprint, created);
    }

    /// Forgets blobs created before `horizon`.
    fn forget_before(&mut self, horizon: Timestamp) {
        self.0.retain(|_, created| *created >= horizon);
    }
}

#[derive(Serialize, Deserialize)]
struct DeliveredFile {
    since: Timestamp,
    blobs: String,
}

/// Seconds that three bytes can hold: 194 days, where 8 days may occur.
const MOST_SECONDS: i64 = (1 << 24) - 1;

impl Serialize for Delivered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut blobs: Vec<(Timestamp, u64)> = self.0.iter().map(|(f, at)| (*at, *f)).collect();
        blobs.sort_unstable();
        let since = blobs.first().map_or(Timestamp::from_unix(0), |(at, _)| *at);
        let mut bytes = Vec::with_capacity(blobs.len() * 11);
        for (at, fingerprint) in blobs {
            let seconds = at.since(since).min(MOST_SECONDS).to_be_bytes();
            bytes.extend_from_slice(seconds.last_chunk::<3>().unwrap_or(&[0; 3]));
            bytes.extend_from_slice(&fingerprint.to_be_bytes());
        }
        DeliveredFile { since, blobs: STANDARD_NO_PAD.encode(bytes) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delivered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = DeliveredFile::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(file.blobs).map_err(D::Error::custom)?;
        let (entries, []) = bytes.as_chunks::<11>() else {
            return Err(D::Error::custom("the list of delivered blobs is cut"));
        };
        let entry = |entry: &[u8; 11]| {
            let [a, b, c, rest @ ..] = entry;
            let seconds = u32::from_be_bytes([0, *a, *b, *c]);
            (u64::from_be_bytes(*rest), file.since.plus(i64::from(seconds)))
        };
        Ok(Self(entries.iter().map(entry).collect()))
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
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds_before_now: i64) -> Timestamp {
        Timestamp::from_unix(NOW - seconds_before_now)
    }

    fn waiting(id: &str, created: Timestamp) -> Waiting {
        let blob =
            Blob { id: id.to_owned(), uri: String::new(), created: Some(created), expires: None };
        Waiting::new(blob, created)
    }

    #[test]
    fn a_first_run_starts_where_it_should() {
        let table = [
            (true, None, Origin::Now, 0),
            (false, None, Origin::Oldest, RETENTION),
            (true, Some(at(HOUR)), Origin::Bookmark, HOUR),
            (false, Some(at(RETENTION)), Origin::Bookmark, RETENTION),
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
        stream.finish(Some(at(60)), vec![], HOUR, false, at(0));
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
        stream.finish(Some(at(RETENTION + HOUR)), vec![], HOUR, false, at(0));
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
        now.correct_clock(&reading(50, 0, at(0)), HOUR);
        assert_eq!(now.position, at(3600));
        let mut oldest = Stream::first(false, None, at(HOUR));
        oldest.correct_clock(&reading(0, 0, at(0)), HOUR);
        assert_eq!(oldest.position, at(RETENTION));
    }

    #[test]
    fn a_date_too_late_is_undone_to_where_every_blob_is_known() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.finish(Some(at(60)), vec![], HOUR, false, at(60));
        stream.delivered.insert(1, at(120));
        // The API says that it is a month later.
        stream.finish(Some(at(-30 * DAY)), vec![], HOUR, false, at(0));
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
        stream.finish(Some(at(0)), vec![], HOUR, false, at(0));
        let before = stream.clone();
        let early = at(30 * DAY);
        assert_eq!(stream.correct_clock(&reading(-30 * DAY, -30 * DAY, early), HOUR), None);
        assert_eq!(stream, before);
        stream.correct_clock(&reading(0, -30 * DAY, early), HOUR);
        assert_eq!(stream.position, early.plus(-HOUR));
        let mut seconds = before;
        seconds.correct_clock(&reading(-9, -900, at(9)), HOUR);
        assert_eq!((seconds.position, seconds.horizon), (at(9), at(HOUR)));
    }

    #[test]
    fn the_position_stays_before_what_does_not_fit_into_the_waiting_list() {
        let mut stream = Stream::first(true, None, at(DAY));
        let mut left: Vec<_> = (0..1500).map(|n| waiting(&n.to_string(), at(5000 - n))).collect();
        left.reverse();
        left[0].written = 3;
        stream.finish(Some(at(0)), left, HOUR, false, at(0));
        assert_eq!(stream.waiting.len(), MOST_WAITING);
        assert_eq!(stream.waiting[0].written, 3, "the newest, but begun");
        assert_eq!(stream.position, at(5000 - 999));
        assert_eq!(stream.horizon, at(5000 - 999 + HOUR));
        assert_eq!(stream.window, LONGEST_WINDOW / 2);
        stream.finish(Some(at(0)), vec![], HOUR, false, at(0));
        assert_eq!((stream.position, stream.window), (at(0), LONGEST_WINDOW));
        assert_eq!(stream.lag(at(-5)), 5);
    }

    #[test]
    fn the_horizon_never_moves_back_so_nothing_comes_twice() {
        let mut stream = Stream::first(true, None, at(DAY));
        stream.delivered.insert(1, at(HOUR + 1));
        stream.delivered.insert(2, at(HOUR));
        stream.finish(Some(at(0)), vec![], HOUR, false, at(0));
        assert!(!stream.delivered.contains(1) && stream.delivered.contains(2));
        // A larger lookback reaches only as far as delivered blobs are known.
        assert_eq!(stream.listing_start(DAY), at(HOUR));
        // A position that moved back takes the horizon nowhere.
        let left = (0..1001).map(|n| waiting(&n.to_string(), at(1800))).collect();
        stream.finish(Some(at(0)), left, HOUR, false, at(0));
        assert_eq!((stream.position, stream.horizon), (at(1800), at(HOUR)));
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

    #[test]
    fn a_state_survives_its_file() {
        let mut state = State::default();
        let mut tenant = state.take_tenant("Contoso.example", |_| false);
        let mut stream = Stream::first(true, None, at(0));
        stream.waiting.push(waiting("a$b", at(5)));
        tenant.streams.insert(ContentType::Dlp, stream);
        tenant.guid = Some("guid".to_owned());
        state.put_tenant("Contoso.example", tenant.clone(), at(0));
        let text = serde_json::to_vec(&state).unwrap();
        let mut read = State::parse(&text).unwrap();
        assert_eq!(read, state);
        tenant.configured_at = Some(at(0));
        assert!(read.same_tenant("guid", "contoso.example").is_none());
        let other = read.take_tenant("GUID", |name| name == "contoso.example");
        assert_eq!(other, Tenant::default(), "that one is configured itself");
        assert_eq!(read.take_tenant("GUID", |_| false), tenant, "known by its GUID too");
        read.put_tenant("guid", tenant, at(30 * DAY + 1));
        read.end_poll(at(1), 7, 60, Turns::default());
        assert_eq!((read.tenants.len(), read.clock_offset, read.interval), (1, 7, 60));
        read.end_poll(at(0), 0, 60, Turns::default());
        assert!(read.tenants.is_empty());
    }

    #[test]
    fn unknown_versions_and_damage_are_told_apart() {
        assert_eq!(State::parse(br#"{"version":2,"x":[]}"#), Err(BadState::Version(2)));
        let no_tenants =
            br#"{"version":1,"clock_offset":0,"last_poll":null,"interval":60,"turns":{}}"#;
        for damaged in [&b""[..], b"{", b"{}", br#"{"version":1}"#, no_tenants, b"\0\0"] {
            assert!(matches!(State::parse(damaged), Err(BadState::Damaged(_))));
        }
        let mut whole = State::default();
        let mut tenant = Tenant::default();
        tenant.streams.insert(ContentType::Dlp, Stream::first(true, None, at(0)));
        whole.put_tenant("t", tenant, at(0));
        let whole = serde_json::to_value(&whole).unwrap();
        for member in ["position", "horizon", "window", "delivered", "waiting", "failures"] {
            let mut partial = whole.clone();
            let stream = &mut partial["tenants"]["t"]["streams"]["DLP.All"];
            assert!(stream.as_object_mut().unwrap().remove(member).is_some());
            let partial = State::parse(partial.to_string().as_bytes());
            assert!(matches!(partial, Err(BadState::Damaged(_))), "{member}");
        }
        let cut = br#"{"version":1,"clock_offset":0,"last_poll":null,"interval":60,"turns":{},"tenants":{"t":{"streams":{"DLP.All":{"position":"2015-05-23T17:35:00Z","horizon":"2015-05-23T17:35:00Z","delivered":{"since":"2015-05-23T17:35:00Z","blobs":"AAAA"}}}}}}"#;
        assert!(matches!(State::parse(cut), Err(BadState::Damaged(why)) if why.contains("cut")));
    }

    proptest! {
        #[test]
        fn delivered_blobs_cost_at_most_20_bytes_and_are_known_again(
            blobs in prop::collection::hash_map(any::<u64>(), 0..8 * DAY, 0..300),
        ) {
            let mut delivered = Delivered::default();
            for (fingerprint, seconds) in &blobs {
                delivered.insert(*fingerprint, at(*seconds));
            }
            let text = serde_json::to_string(&delivered).unwrap();
            prop_assert!(text.len() <= 50 + 20 * blobs.len());
            prop_assert_eq!(serde_json::from_str::<Delivered>(&text).unwrap(), delivered);
        }
    }
}
