//! The one clock: this machine's, corrected by the management API's `Date` header, which alone
//! decides how far positions move and what is older than 7 days. The login host's own `Date` counts
//! for what is signed for it, no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::timestamp::{MINUTE, Timestamp, age};

/// Tells the API's time.
#[derive(Debug)]
pub struct Clock {
    /// Seconds to add to the local clock, by the last run.
    last_offset: i64,
    /// What the first answer of this run has told, and when. All of a run goes by it: a later answer that tells
    /// another time must not move what the run has begun, for one of the two is wrong.
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
            last_offset: offset,
            told: OnceLock::new(),
            disagreed: AtomicBool::new(false),
            untold: OnceLock::new(),
            login_offsets: Mutex::default(),
        }
    }

    /// The API's time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let Some((at, date)) = self.told.get() else {
            return local_now().plus(self.last_offset);
        };
        date.plus(i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX))
    }

    /// Seconds to add to the local clock to get the API's.
    #[must_use]
    pub fn offset(&self) -> i64 {
        if self.seen() { self.now().since(local_now()) } else { self.last_offset }
    }

    /// Whether the time was told in this run, not only in an earlier one.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.told.get().is_some()
    }

    /// Takes over the `Date` of an answer of the management API, if it is the first of the run. That another
    /// one tells another time is said once.
    pub fn observe(&self, date: Timestamp) {
        self.told.get_or_init(|| (Instant::now(), date));
        let now = self.now();
        let apart = date.since(now).saturating_abs();
        if apart > MINUTE && !self.disagreed.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the answers of the API tell different times: one says {date} where the first one of this run \
                 says {now}, which is {} apart. This run goes by the first. If this lasts, check whether a \
                 proxy, or one of its servers, changes the header Date",
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
