//! A stream's part in a run: how far it is listed, which blobs are queued, which have failed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Counts, Reached};
use super::pages::Pages;
use super::skipped::Skipped;
use super::tenant::RunContext;
use crate::api::{Page, Started};
use crate::config;
use crate::content::{Blob, ContentType};
use crate::health::{Failure, Outcome};
use crate::notice::{Kind, Notice};
use crate::state::{
    Backfill, ClockReading, MOST_WAITING, Place, Room, RunEnd, Share, Stream, Tally, Waiting,
    Window, edge_margin, fingerprint,
};
use crate::timestamp::{DAY, MINUTE, Timestamp, age};
use crate::words::{excerpt, of};

/// A stream with so many blobs queued lists no further page.
const MOST_QUEUED: usize = 1000;

/// One request is sent this often at most in a run.
const MOST_TRIES: u32 = 5;

/// When the waiting list is full and so many more blobs failed in a row, the stream is left alone
/// until the next run: nearly all would fail, and none of it could be remembered.
const MOST_FAILING: usize = 200;

/// So often a window is listed anew in one run because its next page was not taken.
const MOST_RELISTS: u32 = 3;

/// So often a window is moved further inside the 7 days in one run.
const MOST_CLAMPS: u32 = 5;

pub(super) struct StreamRun {
    tenant: Arc<config::Tenant>,
    pub(super) content_type: ContentType,
    /// Of a past window: which of the tenant's backfills, and its end. None for a live stream.
    pub(super) past: Option<Past>,
    pub(super) state: Stream,
    pub(super) walk: Walk,
    clock_corrected: bool,
    /// Seconds between this machine's clock and the time that the API has told in this run, where the stream
    /// begins by that and it may be wrong; else 0.
    doubt: i64,
    /// What the window at hand is for, where it goes by what the last run knew of the time; and
    /// whether one has.
    guessed: Option<Timestamp>,
    has_guessed: bool,
    /// Whether a page is being listed.
    pub(super) in_flight: bool,
    /// Tries of the listing request at hand.
    pub(super) tries: Tries,
    clamps: u32,
    relists: u32,
    /// What the listing at hand has brought.
    pages: Pages,
    /// The blobs that the last day's windows named, with the windows' ends.
    last_listed: Vec<(Timestamp, HashSet<u64>)>,
    /// Blobs whose time of creation lies outside of the windows that list them: where they were last
    /// listed, by their fingerprints.
    misplaced: HashMap<u64, Relisted>,
    /// Blobs that this run or the last one listed.
    fresh: VecDeque<Queued>,
    /// Blobs that failed in earlier runs and are due again.
    retries: VecDeque<Queued>,
    /// What these two take in memory, nearly.
    queued_bytes: usize,
    /// Blobs of which this run has had enough.
    parked: Vec<Waiting>,
    /// Blobs that failed in a row since the waiting list is full.
    failed_in_a_row: usize,
    /// Blobs that are being fetched, as far as their lines are out.
    fetching: HashMap<u64, Waiting>,
    /// Blobs of which lines are out that may get lost on their way, as they were before the run.
    handed_over: HashMap<u64, Waiting>,
    /// Fingerprints of all that is queued, parked or in flight.
    known: HashSet<u64>,
    listed_to: Option<Timestamp>,
    /// Whether the run has got to it: a page was listed or a blob fetched.
    pub(super) served: bool,
    /// Blobs written to their end.
    pub(super) blobs: u64,
    /// What became of their records.
    pub(super) counts: Counts,
    /// Elements of blobs that can't be events and that are not reported yet, by the blob's key, each with
    /// its content id.
    skipped: BTreeMap<u64, (String, Skipped)>,
    /// Such blobs for whose notices there was no room, and their elements.
    untold: (u64, u64),
    /// What its last listing ran into; it may still go well.
    pub(super) trouble: Option<Failure>,
    pub(super) failed: Option<Failure>,
    /// What is to be told of it at the end of the run.
    pub(super) notices: Vec<Notice>,
}

/// A past window that is worked off.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// Its index in the tenant's backfills.
    pub(super) index: usize,
    /// It, but for its stream.
    pub(super) backfill: Backfill,
    /// Its end; none as long as it has to wait until its live stream has begun.
    until: Option<Timestamp>,
}

/// The window that a blob was last listed in: since when its content is listed, and when it was.
#[derive(Clone, Copy, Debug)]
struct Relisted {
    from: Timestamp,
    at: Timestamp,
}

/// How far a stream's listing is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Walk {
    /// Not set out on.
    New,
    /// Content from here on is to be listed.
    From(Timestamp),
    /// A window is being listed: at its first page, or at that of a link.
    In(Window, Option<String>),
    Done,
    Failed,
    /// Its subscription was started a moment ago: neither a success nor a failure.
    Pending,
}

/// How often something was tried, and when it may be tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    made: u32,
    not_before: Option<Instant>,
}

impl Tries {
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// When it is due, if that is after `now`.
    pub(super) fn due_after(self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }

    /// Counts one more; false when it was the last. The next comes after 0.5, 1, 2, 4 s, or when
    /// the server says.
    pub(super) fn again(&mut self, now: Instant, retry_after: Option<Duration>) -> bool {
        self.made += 1;
        let wait = Duration::from_millis(250) * (1 << self.made.min(5));
        self.not_before = now.checked_add(wait.max(retry_after.unwrap_or_default()));
        self.made < MOST_TRIES
    }
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) blob: Waiting,
    /// The fingerprint of its content id.
    pub(super) key: u64,
    /// What it takes of the room in the state.
    pub(super) share: Share,
    pub(super) tries: Tries,
    /// It failed in an earlier run, so it gets one try in this one.
    pub(super) is_retry: bool,
    /// How far it is written in this run: at least as far as `blob` says.
    pub(super) reached: Reached,
}

impl Queued {
    /// `is_kept`: as for [`Share::of`].
    fn new(blob: Waiting, is_kept: bool) -> Self {
        let (key, is_retry) = (fingerprint(&blob.id), blob.failed_runs > 0);
        let share = Share::of(&blob, is_kept);
        Self { blob, key, share, tries: Tries::default(), is_retry, reached: Reached::default() }
    }
}

impl StreamRun {
    pub(super) fn new(
        tenant: &Arc<config::Tenant>,
        content_type: ContentType,
        mut state: Stream,
        now: Timestamp,
    ) -> Self {
        let waiting = std::mem::take(&mut state.waiting);
        let (due, parked): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|b| b.is_due(now));
        let queued = |blob: Waiting| {
            let is_kept = state.must_keep(&blob);
            Queued::new(blob, is_kept)
        };
        let mut known: HashSet<_> = parked.iter().map(|blob| fingerprint(&blob.id)).collect();
        let (mut retries, mut fresh): (VecDeque<_>, VecDeque<_>) =
            due.into_iter().map(queued).partition(|queued| queued.is_retry);
        let mut queued_bytes = 0;
        for queued in fresh.iter().chain(&retries) {
            known.insert(queued.key);
            queued_bytes += queued.share.size();
        }
        // What was begun goes on; but what had the last run's time doesn't get this one's as well
        // before the others had their turn.
        fresh.make_contiguous().sort_by_key(|Queued { blob, .. }| match blob.had_its_turn {
            true => 2,
            false if blob.written == 0 => 1,
            false => 0,
        });
        for queued in fresh.iter_mut().chain(&mut retries) {
            queued.blob.had_its_turn = false;
        }
        Self {
            tenant: Arc::clone(tenant),
            content_type,
            past: None,
            state,
            walk: Walk::New,
            clock_corrected: false,
            doubt: 0,
            guessed: None,
            has_guessed: false,
            in_flight: false,
            tries: Tries::default(),
            clamps: 0,
            relists: 0,
            pages: Pages::default(),
            last_listed: Vec::new(),
            misplaced: HashMap::new(),
            fresh,
            retries,
            queued_bytes,
            parked,
            failed_in_a_row: 0,
            fetching: HashMap::new(),
            handed_over: HashMap::new(),
            known,
            listed_to: None,
            served: false,
            blobs: 0,
            counts: Counts::default(),
            skipped: BTreeMap::new(),
            untold: (0, 0),
            trouble: None,
            failed: None,
            notices: Vec::new(),
        }
    }

    /// The stream of a past window, and whether there is a live stream of its content type.
    pub(super) fn of_the_past(
        tenant: &Arc<config::Tenant>,
        (index, backfill): (usize, Backfill),
        has_live: bool,
        now: Timestamp,
    ) -> Self {
        let mut run = Self::new(tenant, backfill.content_type, backfill.stream.clone(), now);
        let is_ready = !has_live || backfill.junction.is_some();
        let until = backfill.until.filter(|_| is_ready);
        run.past = Some(Past { index, backfill, until });
        run
    }

    /// A live stream has begun in this run, and its time is known by now, to a day at least: where it did.
    pub(super) fn start(&self) -> Option<Timestamp> {
        let begun = self.is_live() && self.clock_corrected && self.state.origin.is_some();
        (begun && self.doubt <= DAY).then_some(self.state.horizon)
    }

    /// Whether it is a backfill that waits until its live stream has begun.
    pub(super) fn waits_for_live(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.until.is_none())
    }

    /// Its live stream has begun at `start`.
    pub(super) fn join_at(&mut self, start: Timestamp) {
        if let Some(past) = &mut self.past {
            past.backfill.join_at(start);
            past.until = past.backfill.until;
        }
    }

    /// The backfill as this run leaves it.
    pub(super) fn into_backfill(self) -> Option<(usize, Backfill)> {
        let Past { index, mut backfill, .. } = self.past?;
        backfill.stream = self.state;
        Some((index, backfill))
    }

    pub(super) fn is_live(&self) -> bool {
        self.past.is_none()
    }

    /// What it is called in messages, behind the tenant.
    pub(super) fn label(&self) -> String {
        match &self.past {
            None => self.content_type.to_string(),
            Some(past) => format!("{}: {}", self.content_type, past.backfill.name()),
        }
    }

    /// How far a past window is listed, as a share of it.
    pub(super) fn listed(&self) -> f64 {
        let Some((from, until)) =
            self.past.as_ref().and_then(|past| Some((past.backfill.from, past.until?)))
        else {
            return 0.0;
        };
        let reached = match &self.walk {
            Walk::Done => until,
            Walk::In(window, _) => window.from,
            Walk::From(at) => *at,
            Walk::New | Walk::Failed | Walk::Pending => self.state.position,
        };
        let share = |part: i64, whole: i64| {
            f64::from(i32::try_from(part).unwrap_or(i32::MAX))
                / f64::from(i32::try_from(whole).unwrap_or(i32::MAX))
        };
        share(reached.since(from), until.since(from).max(1)).clamp(0.0, 1.0)
    }

    /// A notice about it.
    pub(super) fn notice(&self, kind: Kind, text: impl Into<String>) -> Notice {
        Notice::new(kind, &self.tenant.tenant_id, Some(self.content_type), text)
    }

    /// Tells a gap: in the log at once, by a notice at the end of the run.
    pub(super) fn gap(&mut self, gap: Notice, now: Timestamp) {
        log::error!("{} {}: events are lost: {}", gap.tenant_id, self.label(), gap.response);
        self.state.gap(gap.clone(), now);
        self.notices.push(gap);
    }

    /// Blobs that could be fetched, now or a little later.
    pub(super) fn queued(&self) -> usize {
        self.fresh.len() + self.retries.len()
    }

    /// What they take in memory, nearly.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn is_listing(&self) -> bool {
        matches!(self.walk, Walk::New | Walk::From(_) | Walk::In(..))
    }

    /// Whether nothing new is to be begun, because nearly all of it fails.
    fn is_hopeless(&self) -> bool {
        self.failed_in_a_row >= MOST_FAILING
    }

    /// Whether anything of it is left to be listed or fetched, now or later.
    pub(super) fn has_work(&self) -> bool {
        !self.is_hopeless() && !self.waits_for_live() && (self.is_listing() || self.queued() > 0)
    }

    /// Blobs that are being fetched.
    pub(super) fn fetching(&self) -> usize {
        self.fetching.len()
    }

    /// The end of a past window.
    fn until(&self) -> Option<Timestamp> {
        self.past.as_ref()?.until
    }

    /// Whether the live stream brings a blob of a past window.
    fn leaves(&self, key: u64, created: Option<Timestamp>) -> bool {
        let junction = self.past.as_ref().and_then(|past| past.backfill.junction.as_ref());
        junction.is_some_and(|junction| junction.leaves(key, created))
    }

    /// Whether a page may be listed now: not while many blobs are still to be fetched.
    pub(super) fn may_list(&self, now: Instant) -> bool {
        !self.in_flight
            && self.is_listing()
            && !self.waits_for_live()
            && self.fresh.len() < MOST_QUEUED
            && !self.is_hopeless()
            && self.tries.is_due(now)
    }

    /// What to list next. `clock`: what is known of the time, where the API has told it.
    pub(super) fn next_page(
        &mut self,
        clock: Option<ClockReading>,
        now: Timestamp,
        run: &RunContext,
    ) -> Option<(Window, Option<String>)> {
        let lookback = run.lookback;
        if self.walk == Walk::New {
            self.correct_clock(clock, lookback);
            self.walk = Walk::From(self.state.listing_start(lookback));
        }
        if let Walk::From(from) = self.walk {
            if self.until().is_some_and(|until| from >= until) {
                self.walk = Walk::Done;
                return None;
            }
            self.pages = Pages::default();
            let doubtful = clock.filter(|clock| self.begins_in_doubt(clock));
            self.doubt = doubtful.map_or(0, |clock| clock.offset.saturating_abs());
            self.guessed = Some(from).filter(|_| clock.is_none() && !self.has_guessed);
            self.has_guessed |= self.guessed.is_some();
            let mut window = self.state.window(from, now, edge_margin(self.clamps));
            if let Some(until) = self.until() {
                // At the edge of the 7 days, nothing of it may be left.
                window.end = window.end.min(until.max(window.from.plus(1)));
                window.lost = window.lost.map(|(from, to)| (from, to.min(until)));
            }
            if self.doubt > 0 && window.lost.is_some() {
                self.fail(Failure::of(
                    "what it is to begin with has left the 7 days that the API keeps, or the API's \
                     clock is wrong, for this machine's says another time: nothing is skipped before \
                     that is clear. Check this machine's clock (NTP)",
                ));
                return None;
            }
            self.walk = Walk::In(window, None);
        }
        let Walk::In(window, link) = &self.walk else {
            return None;
        };
        self.in_flight = true;
        self.served = true;
        Some((*window, link.clone()))
    }

    /// Whether it is a live stream that begins by a time that may be wrong.
    fn begins_in_doubt(&self, clock: &ClockReading) -> bool {
        self.is_live() && self.state.begins_in_doubt(Some(clock))
    }

    /// Brings the stream in line with the API's clock, once; true when its position is set back.
    fn correct_clock(&mut self, clock: Option<ClockReading>, lookback: i64) -> bool {
        let Some(clock) = clock.filter(|_| !self.clock_corrected) else {
            return false;
        };
        self.clock_corrected = true;
        let back = self.state.correct_clock(&clock, lookback);
        if let Some(back) = back {
            log::warn!(
                "{} {}: Microsoft's clock has gone back by {}, so it was wrong, or is; what became \
                 available since {} is listed again",
                self.tenant.tenant_id,
                self.content_type,
                age(back),
                self.state.position
            );
        }
        back.is_some()
    }

    /// Whether a blob may be fetched now: one that failed in an earlier run, or another.
    pub(super) fn has_due(&self, retry: bool, now: Instant) -> bool {
        self.due_at(retry, now).is_some()
    }

    /// The next blob that may be fetched now: one that failed in an earlier run, or another.
    pub(super) fn next_blob(&mut self, retry: bool, now: Instant) -> Option<Queued> {
        let at = self.due_at(retry, now)?;
        let queued = if retry { self.retries.remove(at) } else { self.fresh.remove(at) }?;
        self.queued_bytes -= queued.share.size();
        self.fetching.insert(queued.key, queued.blob.clone());
        self.served = true;
        Some(queued)
    }

    /// Lines of a blob that is being fetched are out, up to `mark`. `hand_over`: they may yet get
    /// lost.
    pub(super) fn wrote(&mut self, key: u64, mark: Option<(u64, String)>, hand_over: bool) {
        let Some(blob) = self.fetching.get_mut(&key) else {
            return;
        };
        if hand_over {
            self.handed_over.entry(key).or_insert_with(|| blob.clone());
        }
        blob.advance(mark);
    }

    /// Takes in what became of some records of a blob.
    pub(super) fn count(&mut self, key: u64, counts: Counts) {
        self.counts.events += counts.events;
        self.counts.shortened += counts.shortened;
        self.counts.excluded += counts.excluded;
        self.state.leave_out(counts.excluded, self.handed_over.contains_key(&key));
    }

    /// Takes in elements of a blob that can't be events and that no later run comes back to. `content`: its
    /// id, as it may be shown.
    pub(super) fn pass_over(
        &mut self,
        key: u64,
        content: impl FnOnce() -> String,
        mut skipped: Skipped,
    ) {
        if !skipped.is_empty() {
            let new = || (content(), Skipped::default());
            self.skipped.entry(key).or_insert_with(new).1.append(&mut skipped);
        }
    }

    /// Reports the elements of a blob that can't be events, by one notice: the blob, or the run, has come to
    /// its end. Where as many `notices` wait as may, or the state has no `room`, the blob is counted.
    pub(super) fn tell_skipped(
        &mut self,
        key: u64,
        notices: &mut usize,
        room: &mut Room,
        now: Timestamp,
    ) {
        let Some((content, skipped)) = self.skipped.remove(&key) else {
            return;
        };
        let Some(left) = notices.checked_sub(1).filter(|_| room.has_any()) else {
            let (blobs, elements) = self.untold;
            self.untold = (blobs + 1, elements + skipped.count());
            return;
        };
        *notices = left;
        let text = skipped.text(&excerpt(&content));
        let gap = self.notice(Kind::Gap, text).content(&content);
        room.take(gap.line().len());
        self.gap(gap, now);
    }

    /// The same of all that is left, at the end of the run. Blobs without a notice of their own have one
    /// together.
    pub(super) fn tell_all_skipped(
        &mut self,
        notices: &mut usize,
        room: &mut Room,
        now: Timestamp,
    ) {
        let keys: Vec<_> = self.skipped.keys().copied().collect();
        keys.into_iter().for_each(|key| self.tell_skipped(key, notices, room, now));
        let (blobs, elements) = std::mem::take(&mut self.untold);
        if blobs > 0 {
            let text = format!(
                "{} of {} can't be events: they are not valid JSON, not JSON objects, or larger than \
                 the limit. They are reported together because as many notices wait as the state may \
                 hold; the records around them are delivered",
                of(elements, "record"),
                of(blobs, "further content blob")
            );
            self.gap(self.notice(Kind::Gap, text), now);
        }
    }

    /// Says in the log what is not as Microsoft sent it.
    pub(super) fn tell_counts(&self) {
        let Counts { events, shortened, excluded } = self.counts;
        let (tenant_id, content_type) = (&self.tenant.tenant_id, self.content_type);
        if excluded > 0 {
            log::info!("{tenant_id} {content_type}: records left out by <exclude>: {excluded}");
        }
        if shortened > 0 {
            log::info!(
                "{tenant_id} {content_type}: events too long for Wazuh: {shortened} of {events}; \
                 what was shortened stands in their Truncated"
            );
        }
    }

    /// A blob is no longer being fetched; `queued` is as the worker left it. What it took of the `room`
    /// it keeps as far as it must be remembered.
    pub(super) fn came_back(&mut self, queued: &mut Queued, room: &mut Room) {
        self.fetching.remove(&queued.key);
        if queued.blob.written == 0 && !self.handed_over.contains_key(&queued.key) {
            room.give_back(&mut queued.share);
        }
    }

    fn due_at(&self, retry: bool, now: Instant) -> Option<usize> {
        if !retry && self.is_hopeless() {
            return None;
        }
        let queue = if retry { &self.retries } else { &self.fresh };
        queue.iter().position(|queued| queued.tries.is_due(now))
    }

    /// The next point in time, after `now`, at which something of it becomes due.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        let walk = self.tries.due_after(now).filter(|_| self.is_listing());
        let blobs = self.fresh.iter().chain(&self.retries);
        blobs.filter_map(|queued| queued.tries.due_after(now)).chain(walk).min()
    }

    /// Takes in a page of a window: queues what is new on it.
    ///
    /// # Errors
    /// The listing would never end.
    pub(super) fn take_page(
        &mut self,
        page: Page,
        window: Window,
        now: Timestamp,
    ) -> Result<(), String> {
        self.in_flight = false;
        if self.guessed.take().is_some_and(|from| window.from > from) {
            // What has left the 7 days is judged by the API's own time, which is known now.
            self.walk = Walk::New;
            return Ok(());
        }
        self.tell_what_is_missing(&window, now);
        let mut keys = Vec::with_capacity(page.blobs.len());
        for blob in page.blobs {
            keys.push(self.take_listed(blob, &window, now));
        }
        self.tries = Tries::default();
        self.trouble = None;
        self.pages.take(keys.into_iter(), page.next.as_deref().map(fingerprint))?;
        self.walk = match page.next {
            Some(link) => Walk::In(window, Some(link)),
            None => {
                // No longer than the longest `lookback`.
                self.last_listed.retain(|(end, _)| window.end.since(*end) <= DAY);
                self.last_listed.push((window.end, std::mem::take(&mut self.pages).into_listed()));
                self.relists = 0;
                self.listed_to = Some(window.end.min(now));
                let more = match self.until() {
                    // What became available while this run lists is the next run's.
                    None => now.since(window.end) > MINUTE,
                    Some(until) => window.end < until.min(now),
                };
                if more { Walk::From(window.end.max(window.from)) } else { Walk::Done }
            }
        };
        Ok(())
    }

    /// Takes in a blob that a window's listing names; gives its fingerprint.
    fn take_listed(&mut self, blob: Blob, window: &Window, now: Timestamp) -> u64 {
        let place = window.place(blob.created);
        let created = blob.created.filter(|_| place == Place::Inside);
        // No later than it was listed, for what comes later would be remembered for ever.
        let at_end = window.end.min(now).max(window.from);
        let mut waiting = Waiting::new(Blob { created, ..blob }, at_end);
        waiting.first_listed = Some(now);
        if place == Place::Outside {
            waiting.listed_from = Some(window.from);
        }
        let queued = Queued::new(waiting, false);
        let key = queued.key;
        if place == Place::Outside {
            let last =
                self.misplaced.entry(key).or_insert(Relisted { from: window.from, at: at_end });
            if at_end >= last.at {
                *last = Relisted { from: window.from, at: at_end };
            }
        }
        let pass = place == Place::Margin
            || self.state.delivered.contains(key)
            || self.leaves(key, created);
        if !pass && self.known.insert(key) {
            self.requeue(queued, false);
        }
        key
    }

    /// Blobs whose time of creation says nothing count as created where they were last listed: so they
    /// are remembered as long as they are listed, and delivered once.
    fn remember_misplaced(&mut self, left: &mut [Waiting]) {
        for (key, last) in &self.misplaced {
            self.state.delivered.refresh(*key, last.at);
        }
        if self.misplaced.is_empty() {
            return;
        }
        for blob in left {
            if let Some(last) = self.misplaced.get(&fingerprint(&blob.id)) {
                blob.created = blob.created.max(last.at);
                blob.listed_from = Some(last.from);
            }
        }
    }

    /// Tells what an answer for `window` shows to be missing: what has left the 7 days, and what
    /// became available while the subscription was off.
    fn tell_what_is_missing(&mut self, window: &Window, now: Timestamp) {
        if let Some((from, to)) = self.state.lost(window, now) {
            let text = format!(
                "no run could list this stream for so long that {} of content have left the 7 days \
                 that the API keeps: whatever became available from {from} to {to} is lost",
                age(to.since(from))
            );
            self.gap(self.notice(Kind::Gap, text).window(from, to), now);
            self.state.skip_to(to);
        }
        let was_off = self.state.unsubscribed_since.take().is_some();
        if was_off && self.state.origin.is_none() && self.is_live() {
            let from = self.state.position;
            let text = format!(
                "the subscription was off; it is on again. Microsoft keeps nothing for a \
                 subscription that is off: what would have become available from {from} to {now} \
                 may be lost. Find out who or what has stopped it"
            );
            self.gap(self.notice(Kind::Gap, text).window(from, now), now);
        }
    }

    /// Its subscription is on.
    pub(super) fn take_start(&mut self, started: Started, now: Timestamp) {
        match started {
            Started::Now => {
                log::info!(
                    "{} {}: subscription started; Microsoft may take up to 12 hours to hand out \
                     its first content",
                    self.tenant.tenant_id,
                    self.content_type
                );
                self.state.unsubscribed_since.get_or_insert(now);
            }
            Started::Before => self.state.unsubscribed_since = None,
        }
    }

    /// The link to the next page was not taken: from the window's first page, please; false when
    /// that has been tried often enough.
    pub(super) fn relist(&mut self) -> bool {
        if let Walk::In(window, _) = self.walk {
            self.walk = Walk::In(window, None);
            self.pages = Pages::default();
        }
        self.relists += 1;
        self.relists <= MOST_RELISTS
    }

    /// The API found the window outside of its 7 days: compute it anew, further inside; false when
    /// that has been tried often enough.
    pub(super) fn clamp(&mut self) -> bool {
        if let Walk::In(window, _) = self.walk {
            // From where the stream really stands, so that the gap is told whole.
            self.walk = Walk::From(window.lost.map_or(window.from, |(from, _)| from));
        }
        // A wrong guess at the time says nothing of the API's edge.
        self.clamps += u32::from(self.guessed.take().is_none());
        self.clamps < MOST_CLAMPS
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.walk = Walk::Failed;
        self.failed = Some(failure);
    }

    /// Puts a blob back whose turn will come again, behind or before the others.
    pub(super) fn requeue(&mut self, queued: Queued, first: bool) {
        self.queued_bytes += queued.share.size();
        let queue = if queued.is_retry { &mut self.retries } else { &mut self.fresh };
        if first { queue.push_front(queued) } else { queue.push_back(queued) }
    }

    /// Puts a blob aside that failed in this run.
    pub(super) fn park(&mut self, mut blob: Waiting, now: Timestamp, why: Failure) {
        blob.fail(now);
        self.parked.push(blob);
        self.state.blob_error = Some(why.text.clone());
        self.failed_in_a_row += usize::from(self.parked.len() > MOST_WAITING);
        self.failed.get_or_insert(why);
    }

    /// A blob is delivered, or lost for good: it is not to be fetched again.
    /// `latest`: what comes after it can't be a time of creation, and would be remembered for ever.
    /// Before the position it can, whatever a `Date` that is too early says: remembered as older
    /// than it is, the blob would be forgotten too soon.
    pub(super) fn done_with(&mut self, queued: &mut Queued, latest: Timestamp, room: &mut Room) {
        self.failed_in_a_row = 0;
        room.end(&mut queued.share, self.handed_over.contains_key(&queued.key));
        let latest = latest.max(self.state.position);
        // It must be known when the next window is listed, however long ago it was created.
        let created = queued.blob.created.min(latest).max(self.state.horizon);
        self.state.delivered.insert(queued.key, created);
    }

    /// Brings the stream's state to its end of the run, and says how that was for it, and how much it took
    /// of its `room` in the state.
    pub(super) fn finish(
        &mut self,
        clock: Option<ClockReading>,
        run: &RunContext,
        room: usize,
    ) -> (Outcome, usize) {
        let lookback = run.lookback;
        if self.correct_clock(clock, lookback) {
            // This run has listed from where it stood before.
            self.listed_to = None;
        }
        let queued: Vec<_> = self.fresh.drain(..).chain(self.retries.drain(..)).collect();
        let fails = |queued: &&Queued| queued.tries.made > 0 || queued.blob.failed_runs > 0;
        let mut left = std::mem::take(&mut self.parked);
        let failing = queued.iter().filter(fails).count()
            + left.iter().filter(|blob| blob.failed_runs > 0).count();
        // What hung until the end, and what a worker never came back with, has failed: in the next
        // run it gets no more than its share of the connections.
        let now = run.clock.now();
        for Queued { mut blob, tries, .. } in queued {
            if tries.made > 0 {
                blob.fail(now);
            }
            left.push(blob);
        }
        for (_, mut blob) in self.fetching.drain() {
            blob.fail(now);
            left.push(blob);
        }
        self.remember_misplaced(&mut left);
        let handed_over = self.handed_over.drain().map(|(_, blob)| blob).collect();
        let cut = matches!(self.walk, Walk::In(_, Some(_)));
        let (listed_to, is_past) = (self.listed_to, !self.is_live());
        let last_listed = std::mem::take(&mut self.last_listed);
        let end = RunEnd { listed_to, last_listed, left, handed_over, cut, clock, is_past, room };
        let taken = self.state.finish(end, lookback);
        self.state.wrote(Tally { events: self.counts.events, blobs: self.blobs });
        let mut failed = self.failed.take();
        if failed.is_none() && self.is_listing() {
            failed = self.trouble.take();
        }
        if failing == 0 {
            self.state.blob_error = None;
        } else if failed.is_none() {
            // Not tried in this run, perhaps: what it ran into is known from an earlier one.
            let unknown = || format!("content blobs that could not be fetched yet: {failing}");
            failed = Some(Failure::of(self.state.blob_error.clone().unwrap_or_else(unknown)));
        }
        let outcome = match failed {
            Some(failure) => Outcome::Failed(failure),
            None if self.walk == Walk::Done => Outcome::Succeeded,
            None => Outcome::Open,
        };
        (outcome, taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::collect::tenant::configured;
    use crate::timestamp::HOUR;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds_before_now: i64) -> Timestamp {
        Timestamp::from_unix(NOW - seconds_before_now)
    }

    fn clock() -> Option<ClockReading> {
        Some(ClockReading { now: at(0), offset: 0, change: 0 })
    }

    fn stream(position: Timestamp) -> StreamRun {
        let mut state = Stream::first(true, None, position);
        let (left, handed_over, cut, is_past) = (vec![], vec![], false, false);
        let listed_to = Some(position);
        let clock = Some(ClockReading { now: position, offset: 0, change: 0 });
        let room = usize::MAX;
        let last_listed = Vec::new();
        let end = RunEnd { listed_to, last_listed, left, handed_over, cut, clock, is_past, room };
        state.finish(end, HOUR);
        run(state)
    }

    fn run(state: Stream) -> StreamRun {
        StreamRun::new(&configured(), ContentType::General, state, at(0))
    }

    fn context() -> RunContext {
        RunContext::of(&Arc::new(Clock::new(0)))
    }

    fn finish(run: &mut StreamRun) -> Outcome {
        run.finish(clock(), &context(), usize::MAX).0
    }

    fn blob(id: &str, created: Timestamp) -> Blob {
        Blob { id: id.to_owned(), uri: String::new(), created: Some(created), expires: None }
    }

    fn page(ids: &[&str], next: Option<&str>) -> Page {
        let blobs = ids.iter().map(|id| blob(id, at(MINUTE))).collect();
        Page { blobs, next: next.map(str::to_owned) }
    }

    /// Lists a page of the window at hand.
    fn list(run: &mut StreamRun, page: Page) -> Result<(), String> {
        let (window, _) = run.next_page(clock(), at(0), &context()).unwrap();
        run.take_page(page, window, at(0))
    }

    #[test]
    fn what_overflows_is_listed_again_even_if_its_time_cannot_be_read() {
        let mut run = stream(at(20 * HOUR));
        let blob = |n: u32| Blob { created: None, ..blob(&n.to_string(), at(0)) };
        list(&mut run, Page { blobs: (0..1500).map(blob).collect(), next: None }).unwrap();
        finish(&mut run);
        assert_eq!(run.state.waiting.len(), MOST_WAITING);
        assert!(run.state.listing_start(HOUR) <= at(20 * HOUR));
    }

    #[test]
    fn a_blob_on_two_pages_is_queued_once() {
        let mut run = stream(at(HOUR));
        list(&mut run, page(&["a", "b"], Some("2"))).unwrap();
        list(&mut run, page(&["b", "c"], None)).unwrap();
        assert_eq!((run.queued(), &run.walk), (3, &Walk::Done));
        assert_eq!(finish(&mut run), Outcome::Succeeded);
        assert_eq!((run.state.position, run.state.waiting.len()), (at(0), 3));
    }

    #[test]
    fn a_window_that_was_not_listed_to_its_end_moves_no_position() {
        let mut run = stream(at(HOUR));
        list(&mut run, page(&["a"], Some("2"))).unwrap();
        assert_eq!(finish(&mut run), Outcome::Open);
        assert_eq!(run.state.position, at(HOUR));
        assert_eq!(run.state.window, DAY / 2, "and is narrowed");
    }

    #[test]
    fn pages_that_lead_in_a_circle_are_noticed() {
        let mut run = stream(at(HOUR));
        list(&mut run, page(&[], Some("a"))).unwrap();
        list(&mut run, page(&[], Some("b"))).unwrap();
        assert!(list(&mut run, page(&[], Some("a"))).is_err());
    }

    #[test]
    fn a_window_is_listed_anew_three_times_at_most() {
        let mut run = stream(at(HOUR));
        for expected in [true, true, true, false] {
            list(&mut run, page(&[], Some("a"))).unwrap();
            assert_eq!(run.relist(), expected);
        }
    }

    #[test]
    fn a_clamped_window_still_tells_the_whole_gap() {
        let mut run = stream(at(12 * DAY));
        let (window, _) = run.next_page(clock(), at(0), &context()).unwrap();
        let first = window.lost.unwrap();
        assert_eq!(first.0, at(12 * DAY));
        assert!(run.clamp());
        let (window, _) = run.next_page(clock(), at(0), &context()).unwrap();
        let second = window.lost.unwrap();
        assert_eq!(second.0, at(12 * DAY));
        assert!(second.1 > first.1);
        assert!(run.clamp() && run.clamp() && run.clamp() && !run.clamp());
    }

    #[test]
    fn blobs_of_earlier_runs_stand_in_a_queue_of_their_own() {
        let mut state = Stream::first(true, None, at(HOUR));
        let mut failed = Waiting::new(blob("failed", at(HOUR)), at(0));
        failed.failed_runs = 1;
        let mut not_due = Waiting::new(blob("not due", at(HOUR)), at(0));
        (not_due.failed_runs, not_due.last_try) = (11, Some(at(60)));
        let left_over = Waiting::new(blob("left over", at(HOUR)), at(0));
        state.waiting = vec![failed, not_due, left_over];
        let mut run = run(state);
        let now = Instant::now();
        assert_eq!(run.next_blob(false, now).unwrap().blob.id, "left over");
        assert_eq!(run.next_blob(true, now).unwrap().blob.id, "failed");
        assert_eq!(run.queued(), 0);
        let outcome = finish(&mut run);
        assert_eq!(run.state.waiting.len(), 3, "whose workers did not come back wait as well");
        let text = "content blobs that could not be fetched yet: 1";
        assert_eq!(outcome, Outcome::Failed(Failure::of(text)));
    }

    #[test]
    fn what_was_begun_goes_on_but_not_for_ever_before_the_others() {
        let begun = |id: &str, written, had_its_turn| {
            let blob = Waiting::new(blob(id, at(HOUR)), at(0));
            Waiting { written, had_its_turn, ..blob }
        };
        let mut state = Stream::first(true, None, at(HOUR));
        state.waiting = vec![begun("last run's", 9, true), begun("new", 0, false)];
        state.waiting.push(begun("an earlier run's", 9, false));
        let mut run = run(state);
        let mut ids = Vec::new();
        while let Some(queued) = run.next_blob(false, Instant::now()) {
            assert!(!queued.blob.had_its_turn, "it has not had this run's");
            ids.push(queued.blob.id);
        }
        assert_eq!(ids, ["an earlier run's", "new", "last run's"]);
    }

    #[test]
    fn a_stream_of_which_all_fails_is_left_alone_for_this_run() {
        let mut run = stream(at(HOUR));
        let ids: Vec<_> = (0..1500).map(|n| n.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        list(&mut run, page(&ids, Some("more"))).unwrap();
        let now = Instant::now();
        let mut tried = 0;
        while let Some(mut queued) = run.next_blob(false, now) {
            tried += 1;
            run.came_back(&mut queued, &mut Room::ENDLESS.clone());
            run.park(queued.blob, at(0), Failure::of("refused"));
        }
        assert_eq!(tried, MOST_WAITING + MOST_FAILING);
        assert!(!run.may_list(now));
    }

    #[test]
    fn tries_wait_longer_each_time_and_end() {
        let now = Instant::now();
        let mut tries = Tries::default();
        let mut waits = Vec::new();
        while tries.again(now, None) {
            waits.push((tries.due_after(now).unwrap() - now).as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000, 4000]);
        let mut tries = Tries::default();
        assert!(tries.again(now, Some(Duration::from_secs(9))));
        assert!(!tries.is_due(now + Duration::from_secs(8)));
    }
}
