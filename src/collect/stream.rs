//! A stream's part in a run: how far it is listed, which blobs are queued, which have failed.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::api::Page;
use crate::clock::Clock;
use crate::content::ContentType;
use crate::state::{SUBSCRIPTION_PAUSE, Stream, Waiting, Window, edge_margin, fingerprint};
use crate::timestamp::{MINUTE, Timestamp};

/// A stream with so many blobs queued lists no further page.
const MOST_QUEUED: usize = 1000;

/// One request is sent this often at most in a run.
const MOST_TRIES: u32 = 5;

pub(super) struct StreamRun {
    pub(super) content_type: ContentType,
    pub(super) state: Stream,
    pub(super) walk: Walk,
    pub(super) tries: Tries,
    pub(super) clamps: u32,
    pub(super) queue: VecDeque<Queued>,
    /// Blobs of which this run has had enough.
    pub(super) parked: Vec<Waiting>,
    /// Fingerprints of all that is queued, parked or in flight.
    pub(super) known: HashSet<u64>,
    pub(super) listed_to: Option<Timestamp>,
    /// Whether the walk has been set out on.
    pub(super) begun: bool,
    pub(super) blobs: u64,
    /// What its last listing ran into; it may still go well.
    pub(super) trouble: Option<String>,
    pub(super) failed: Option<String>,
}

/// What a stream has to know at the end of a run.
pub(super) struct RunEnd<'a> {
    pub(super) tenant_id: &'a str,
    /// The tenant's failure silences its streams'.
    pub(super) tenant_failed: bool,
    pub(super) lookback: i64,
    pub(super) clock: &'a Clock,
    /// The clock's offset as the state was saved with it.
    pub(super) clock_was: i64,
}

/// How far a stream's listing is.
#[derive(Clone, Debug)]
pub(super) enum Walk {
    /// Content from here on is to be listed.
    From(Timestamp),
    /// A window is being listed: at its first page, or at that of a link.
    In(Window, Option<String>),
    Done,
    Failed,
}

/// How often something was tried, and when it may be tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    pub(super) made: u32,
    pub(super) not_before: Option<Instant>,
}

impl Tries {
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Counts one more; false when it was the last. The next comes after 0.5, 1, 2, 4 s.
    pub(super) fn again(&mut self) -> bool {
        self.made += 1;
        let wait = Duration::from_millis(250) * (1 << self.made.min(5));
        self.not_before = Some(Instant::now() + wait);
        self.made < MOST_TRIES
    }
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) blob: Waiting,
    pub(super) tries: Tries,
    /// A blob that waited from an earlier run gets one try in this one.
    pub(super) waited: bool,
}

impl StreamRun {
    pub(super) fn new(content_type: ContentType, mut state: Stream, now: Timestamp) -> Self {
        let waiting = std::mem::take(&mut state.waiting);
        let known = waiting.iter().map(|blob| fingerprint(&blob.id)).collect();
        let (due, parked): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|b| b.is_due(now));
        let queued = |blob: Waiting| {
            let waited = blob.failed_runs > 0;
            Queued { blob, tries: Tries::default(), waited }
        };
        Self {
            content_type,
            walk: Walk::From(state.position),
            state,
            tries: Tries::default(),
            clamps: 0,
            queue: due.into_iter().map(queued).collect(),
            parked,
            known,
            listed_to: None,
            begun: false,
            blobs: 0,
            trouble: None,
            failed: None,
        }
    }

    /// Whether a page may be listed now: not while many blobs are still to be fetched.
    pub(super) fn may_list(&self, now: Instant) -> bool {
        self.queue.len() < MOST_QUEUED && self.tries.is_due(now)
    }

    /// What to list next; none when the stream is listed to its end.
    pub(super) fn next_page(
        &mut self,
        clock: &Clock,
        lookback: i64,
        clock_was: i64,
    ) -> Option<(Window, Option<String>)> {
        if !self.begun {
            self.begun = true;
            self.correct_clock(clock, clock_was);
            self.walk = Walk::From(self.state.listing_start(lookback));
        }
        match &self.walk {
            Walk::In(window, link) => Some((*window, link.clone())),
            Walk::From(from) => {
                let window = self.state.window(*from, clock.now(), edge_margin(self.clamps));
                self.walk = Walk::In(window, None);
                Some((window, None))
            }
            Walk::Done | Walk::Failed => None,
        }
    }

    fn correct_clock(&mut self, clock: &Clock, clock_was: i64) {
        if clock.seen() {
            let by = clock.offset().saturating_sub(clock_was);
            self.state.correct_clock(by, clock.now());
        }
    }

    /// The next queued blob that may be fetched now.
    pub(super) fn next_blob(&mut self, now: Instant) -> Option<Queued> {
        let due = self.queue.iter().position(|queued| queued.tries.is_due(now));
        self.queue.remove(due?)
    }

    fn is_listing(&self) -> bool {
        matches!(self.walk, Walk::From(_) | Walk::In(..))
    }

    /// The next point in time, after `now`, at which something of it becomes due.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        let walk = self.tries.not_before.filter(|_| self.is_listing());
        let blobs = self.queue.iter().filter_map(|queued| queued.tries.not_before);
        blobs.chain(walk).filter(|at| *at > now).min()
    }

    /// Takes in a page of a window: queues what is new on it.
    pub(super) fn take_page(&mut self, page: Page, window: Window, now: Timestamp) {
        let at_edge = window.start == window.from;
        for blob in page.blobs {
            let fingerprint = fingerprint(&blob.id);
            // What is older was listed before, and may be partial in this listing.
            let old = !at_edge && blob.created.is_some_and(|created| created < window.from);
            if old || self.state.delivered.contains(fingerprint) || !self.known.insert(fingerprint)
            {
                continue;
            }
            // One whose time can't be read is remembered as long as this window is listed.
            let blob = Waiting::new(blob, window.end);
            self.queue.push_back(Queued { blob, tries: Tries::default(), waited: false });
        }
        self.tries = Tries::default();
        self.trouble = None;
        self.walk = match page.next {
            Some(link) => Walk::In(window, Some(link)),
            None => {
                self.listed_to = Some(window.end.min(now));
                // What became available while this run lists is the next run's.
                let behind = now.since(window.end) > MINUTE;
                if behind { Walk::From(window.end.max(window.from)) } else { Walk::Done }
            }
        };
    }

    pub(super) fn fail(&mut self, text: String) {
        self.walk = Walk::Failed;
        self.failed = Some(text);
    }

    /// Puts a blob aside that failed in this run.
    pub(super) fn park(&mut self, mut blob: Waiting, now: Timestamp, why: String) {
        blob.failed_runs += 1;
        blob.last_try = Some(now);
        self.parked.push(blob);
        self.failed.get_or_insert(why);
    }

    /// A blob is delivered, or lost for good: it is not to be fetched again.
    pub(super) fn done_with(&mut self, blob: &Waiting, now: Timestamp) {
        // A time in the future would be remembered for ever.
        self.state.delivered.insert(fingerprint(&blob.id), blob.created.min(now));
    }

    pub(super) fn start_is_allowed(&self, now: Timestamp) -> bool {
        let pausing = |at: Timestamp| (0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        !self.state.start_requested.is_some_and(pausing)
    }

    /// Brings the stream's state to its end of the run; true when it failed.
    pub(super) fn finish(&mut self, end: &RunEnd<'_>) -> bool {
        let now = end.clock.now();
        if !self.begun {
            self.correct_clock(end.clock, end.clock_was);
        }
        let mut left: Vec<_> = std::mem::take(&mut self.parked);
        left.extend(self.queue.drain(..).map(|queued| queued.blob));
        let failing = left.iter().filter(|blob| blob.failed_runs > 0).count();
        let cut = matches!(self.walk, Walk::In(_, Some(_)));
        self.state.finish(self.listed_to, left, end.lookback, cut);
        if end.tenant_failed {
            return false;
        }
        let unfinished = self.is_listing();
        if self.failed.is_none() && unfinished {
            self.failed = self.trouble.take();
        }
        if self.failed.is_none() && failing > 0 {
            self.failed = Some(format!("{failing} content blobs could not be fetched yet"));
        }
        if let Some(why) = &self.failed {
            log::error!("{} {}: {why}", end.tenant_id, self.content_type);
            self.state.failures = self.state.failures.saturating_add(1);
        } else if !unfinished {
            self.state.failures = 0;
            self.state.last_success = Some(now);
        }
        if self.failed.is_some() || !unfinished {
            self.state.last_error.clone_from(&self.failed);
        }
        self.failed.is_some()
    }
}
