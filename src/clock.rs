//! The one clock: this machine's, corrected by the management API's `Date` header, which alone
//! decides how far positions move and what is older than 7 days. The login host's own `Date` counts
//! for what is signed for it, no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::timestamp::Timestamp;

/// Tells the API's time.
#[derive(Debug)]
pub struct Clock {
    offset: AtomicI64,
    seen: AtomicBool,
    /// Why an answer of the management API did not tell the time, if one did not.
    untold: OnceLock<&'static str>,
    /// By the login host's origin.
    login_offsets: Mutex<HashMap<String, i64>>,
}

impl Clock {
    /// Starts with the last run's `offset` (seconds to add to the local clock).
    #[must_use]
    pub fn new(offset: i64) -> Self {
        let (offset, seen) = (AtomicI64::new(offset), AtomicBool::new(false));
        Self { offset, seen, untold: OnceLock::new(), login_offsets: Mutex::default() }
    }

    /// The API's time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        local_now().plus(self.offset())
    }

    /// Seconds to add to the local clock to get the API's.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Whether the offset was seen in this run, not only in an earlier one.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    /// Takes over the `Date` of an answer of the management API.
    pub fn observe(&self, date: Timestamp) {
        self.offset.store(date.since(local_now()), Ordering::Relaxed);
        self.seen.store(true, Ordering::Relaxed);
    }

    /// An answer of the management API did not tell the time: what is wrong with its `Date`.
    pub fn not_told(&self, why: &'static str) {
        let _ = self.untold.set(why);
    }

    /// Why no answer of this run has told the API's time, if there was an answer and none has: then this
    /// machine's clock decides, with the last run's offset.
    #[must_use]
    pub fn untold(&self) -> Option<&'static str> {
        self.untold.get().copied().filter(|_| !self.seen())
    }

    /// A login host's time now: the API's unless it was seen to differ in this run.
    #[must_use]
    pub fn login_now(&self, origin: &str) -> Timestamp {
        let offset = self.login_offsets().get(origin).copied();
        offset.map_or_else(|| self.now(), |offset| local_now().plus(offset))
    }

    /// Takes over the `Date` of an answer of a login host.
    pub fn observe_login(&self, origin: &str, date: Timestamp) {
        self.login_offsets().insert(origin.to_owned(), date.since(local_now()));
    }

    fn login_offsets(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.login_offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this machine's clock says.
#[must_use]
pub fn local_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
