//! The one clock: this machine's, corrected by the management API's `Date` header, which alone
//! decides how far positions move and what is older than 7 days. The login host's own `Date` counts
//! for what is signed for it, no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::timestamp::{MINUTE, Timestamp, age};

/// Tells the API's time.
#[derive(Debug)]
pub struct Clock {
    /// Seconds to add to the local clock.
    offset: AtomicI64,
    /// What the first answer of this run has told, and when. A later answer that tells another time must not
    /// move what the run has begun, for one of the two is wrong.
    told: OnceLock<(Instant, Timestamp)>,
    disagreed: AtomicBool,
    /// Why an answer of the management API did not tell the time, if one did not.
    untold: OnceLock<&'static str>,
    /// By the login host's origin.
    login_offsets: Mutex<HashMap<String, i64>>,
}

impl Clock {
    /// Starts with the last run's `offset` (seconds to add to the local clock).
    #[must_use]
    pub fn new(offset: i64) -> Self {
        Self {
            offset: AtomicI64::new(offset),
            told: OnceLock::new(),
            disagreed: AtomicBool::new(false),
            untold: OnceLock::new(),
            login_offsets: Mutex::default(),
        }
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

    /// Whether the time was told in this run, not only in an earlier one.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.told.get().is_some()
    }

    /// Takes over the `Date` of an answer of the management API, unless the first one of the run has told
    /// another time, which is said once.
    pub fn observe(&self, date: Timestamp) {
        // By what has passed since, which no step of this machine's clock changes.
        let (at, first) = *self.told.get_or_init(|| (Instant::now(), date));
        let expected = first.plus(i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX));
        let apart = date.since(expected).saturating_abs();
        if apart <= MINUTE {
            self.offset.store(date.since(local_now()), Ordering::Relaxed);
        } else if !self.disagreed.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the answers of the API tell different times: one says {date} where the first one of this run \
                 says {expected}, which is {} apart. This run goes by the first. If this lasts, check whether \
                 a proxy, or one of its servers, changes the header Date",
                age(apart)
            );
        }
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
