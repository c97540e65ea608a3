//! What the simulator knows and remembers: one lock around tenants, tokens, listings in progress,
//! faults and the log.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::fault::Fault;
use crate::log::Request;
use crate::tenant::Tenant;

/// So many requests are remembered, and so many unfinished listings.
const MAX_LOG: usize = 200_000;
const MAX_CURSORS: usize = 20_000;

/// All that connections share.
pub(crate) struct Shared {
    pub(crate) login_url: String,
    pub(crate) management_url: String,
    pub(crate) clock: Clock,
    pub(crate) gzip: bool,
    pub(crate) delay: Duration,
    pub(crate) start_limit: bool,
    pub(crate) lookback_grace: time::Duration,
    pub(crate) accepted: AtomicUsize,
    pub(crate) stop: Stop,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(urls: (String, String), options: &crate::Builder) -> Self {
        Self {
            login_url: urls.0,
            management_url: urls.1,
            clock: Clock::default(),
            gzip: options.gzip,
            delay: options.delay,
            start_limit: options.start_limit,
            lookback_grace: options.lookback_grace,
            accepted: AtomicUsize::new(0),
            stop: Stop::default(),
            state: Mutex::new(State { tenants: options.tenants.clone(), ..State::default() }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for the log to change.
    pub(crate) fn log_changed(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn wait_for_log(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&[Request]) -> bool,
    ) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        loop {
            if done(state.log.requests.make_contiguous()) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Set once, when the simulator ends; a pause ends with it.
#[derive(Default)]
pub(crate) struct Stop {
    flag: Mutex<bool>,
    set: Condvar,
}

impl Stop {
    pub(crate) fn set(&self) {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.set.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pause(&self, time: Duration) {
        if !time.is_zero() {
            let flag = self.flag.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.set.wait_timeout_while(flag, time, |stopped| !*stopped));
        }
    }
}

/// What comes behind the last page of a listing, without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endless {
    /// Empty pages.
    Empty,
    /// The same pages again.
    Again,
}

pub(crate) struct State {
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) cursors: Cursors,
    pub(crate) faults: Vec<Fault>,
    pub(crate) log: Log,
    pub(crate) page_size: usize,
    pub(crate) empty_pages: bool,
    pub(crate) endless: Option<Endless>,
    pub(crate) token_lifetime: i64,
    /// Whatever needs a number of its own takes the next.
    numbers: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            tenants: Vec::new(),
            tokens: HashMap::new(),
            cursors: Cursors::default(),
            faults: Vec::new(),
            log: Log::default(),
            page_size: 600,
            empty_pages: false,
            endless: None,
            token_lifetime: 3599,
            numbers: 0,
        }
    }
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// By GUID or domain name.
    pub(crate) fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.is_named(name))
    }

    pub(crate) fn tenant_mut(&mut self, name: &str) -> Option<&mut Tenant> {
        self.tenants.iter_mut().find(|tenant| tenant.is_named(name))
    }
}

/// An access token that was issued.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) tenant: String,
    pub(crate) roles: Vec<String>,
    pub(crate) expires: OffsetDateTime,
}

/// A listing of which not all pages have been asked for.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) tenant: String,
    pub(crate) content_type: String,
    pub(crate) start: OffsetDateTime,
    pub(crate) end: OffsetDateTime,
    /// The last entry that was handed out.
    pub(crate) after: Option<(OffsetDateTime, usize)>,
}

/// Listings in progress, by the value of `nextPage`; the oldest are forgotten.
#[derive(Default)]
pub(crate) struct Cursors {
    by_name: HashMap<String, Cursor>,
    order: VecDeque<String>,
}

impl Cursors {
    pub(crate) fn insert(&mut self, name: String, cursor: Cursor) {
        self.by_name.insert(name.clone(), cursor);
        self.order.push_back(name);
        if self.order.len() > MAX_CURSORS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_name.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Cursor> {
        self.by_name.get(name)
    }
}

/// The requests seen; the oldest are forgotten.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) requests: VecDeque<Request>,
    /// The number of the first in `requests`.
    first: usize,
}

impl Log {
    pub(crate) fn push(&mut self, request: Request) -> usize {
        if self.requests.len() >= MAX_LOG {
            self.requests.pop_front();
            self.first += 1;
        }
        self.requests.push_back(request);
        self.first + self.requests.len() - 1
    }

    pub(crate) fn answered(&mut self, number: usize, status: u16) {
        let place = number.checked_sub(self.first);
        if let Some(request) = place.and_then(|place| self.requests.get_mut(place)) {
            request.status = status;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first += self.requests.len();
        self.requests.clear();
    }
}

pub(crate) type SharedRef = Arc<Shared>;
