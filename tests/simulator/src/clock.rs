//! The simulator's clock: real time plus an offset that a test may move.

use std::sync::{Mutex, PoisonError};

use time::{Duration, OffsetDateTime};

#[derive(Default)]
pub(crate) struct Clock {
    offset: Mutex<Duration>,
    /// By how much answers tell another time than it is.
    date_error: Mutex<Duration>,
}

impl Clock {
    pub(crate) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an answer says that the time is.
    pub(crate) fn told(&self) -> OffsetDateTime {
        self.now() + *self.date_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    pub(crate) fn set_date_error(&self, by: Duration) {
        *self.date_error.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }
}
