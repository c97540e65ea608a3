//! What all connections of a run together may hold in memory.
//!
//! An answer has [`ORDINARY`] bytes for itself. One that needs more waits for a place, which has room for the
//! largest; an answer that has a place waits for no other. What takes a multiple of a large answer's size, the repairs
//! of a record and the parsing of a list, is done one at a time. The number of places is such that all
//! this fits into 256 MiB, but at least two.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::config::Config;

/// The most bytes that an answer holds without a place; some 1,000 ordinary records.
pub const ORDINARY: usize = 1 << 20;

/// What all answers together hold, in bytes, unless two of the largest need more.
const BUDGET: usize = 256 << 20;

/// What a connection takes besides its answer, in bytes: buffers of the libraries, lines that are not written yet.
const BESIDES: usize = 512 << 10;

/// What the work on a large answer takes, as a multiple of its size: a control character of a record becomes six, and a
/// buffer that grows is there twice.
const WORK: usize = 8;

/// The least number of places, so that no tenant has all of them.
const MIN_PLACES: usize = 2;

/// The places of a run.
#[derive(Debug)]
pub struct Memory {
    places: usize,
    /// The number of these that one tenant may have.
    of_a_tenant: usize,
    taken: Mutex<Taken>,
    freed: Condvar,
    work: Mutex<()>,
}

#[derive(Debug, Default)]
struct Taken {
    by_tenant: HashMap<String, usize>,
    is_over: bool,
}

impl Memory {
    /// The places for answers of at most `max_held` bytes, which come by a number of `connections` for
    /// a number of `tenants`: where there are several, one whose answers come slowly has half of the places at most.
    fn new(max_held: usize, connections: usize, tenants: usize) -> Self {
        let ordinary = connections.saturating_mul(ORDINARY + BESIDES);
        let for_answers = BUDGET.saturating_sub(max_held.saturating_mul(WORK) + ordinary);
        let places = (for_answers / max_held.saturating_add(ORDINARY)).max(MIN_PLACES);
        Self {
            places,
            of_a_tenant: if tenants > 1 { places / 2 } else { places },
            taken: Mutex::default(),
            freed: Condvar::new(),
            work: Mutex::default(),
        }
    }

    /// The places of a run with this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::new(config.max_held, config.max_connections, config.tenants.len())
    }

    /// The run is over: a worker that waits for a place gets none.
    pub fn close(&self) {
        self.lock().is_over = true;
        self.freed.notify_all();
    }

    /// The right to work on a large answer, once no other worker does.
    pub fn work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places for tests.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::new(16 << 20, 8, 1)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, tenant: &str) -> usize {
        self.by_tenant.get(tenant).copied().unwrap_or_default()
    }

    fn all(&self) -> usize {
        self.by_tenant.values().sum()
    }
}

/// What an answer of a tenant's holds. When it is dropped its place is free, so what it stands for goes before.
#[derive(Debug)]
pub struct Holding {
    memory: Arc<Memory>,
    tenant: String,
    has_place: bool,
}

impl Holding {
    /// An ordinary one.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, tenant: &str) -> Self {
        Self { memory: Arc::clone(memory), tenant: tenant.to_owned(), has_place: false }
    }

    /// Whether it has a place.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.has_place
    }

    /// Waits for a place, if it has none.
    ///
    /// # Errors
    /// The run is over.
    pub fn grow(&mut self) -> io::Result<()> {
        if self.has_place {
            return Ok(());
        }
        let Memory { places, of_a_tenant, freed, .. } = &*self.memory;
        let must_wait = |taken: &mut Taken| {
            !taken.is_over && (taken.all() >= *places || taken.of(&self.tenant) >= *of_a_tenant)
        };
        let waited = freed.wait_while(self.memory.lock(), must_wait);
        let mut taken = waited.unwrap_or_else(PoisonError::into_inner);
        if taken.is_over {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it is large, and the run's time was over (run_timeout) before there was memory for it",
            ));
        }
        *taken.by_tenant.entry(self.tenant.clone()).or_default() += 1;
        self.has_place = true;
        Ok(())
    }

    /// It holds no more than an ordinary one again.
    pub fn shrink(&mut self) {
        if !std::mem::take(&mut self.has_place) {
            return;
        }
        let mut taken = self.memory.lock();
        if let Some(count) = taken.by_tenant.get_mut(&self.tenant) {
            *count -= 1;
        }
        taken.by_tenant.retain(|_, count| *count > 0);
        self.memory.freed.notify_all();
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn places_fit_into_the_budget_and_leave_some_to_other_tenants() {
        for (max_held, connections, tenants, places, of_a_tenant) in [
            (16, 8, 1, 6, 6),
            (16, 8, 2, 6, 3),
            (16, 32, 2, 4, 2),
            (16, 64, 9, 2, 1),
            (32, 8, 9, 2, 1),
            (48, 8, 2, 2, 1),
            (48, 64, 1, 2, 2),
        ] {
            let memory = Memory::new(max_held << 20, connections, tenants);
            assert_eq!((memory.places, memory.of_a_tenant), (places, of_a_tenant), "{max_held}");
            let ordinary = connections * (ORDINARY + BESIDES);
            let needed =
                memory.places * ((max_held << 20) + ORDINARY) + WORK * (max_held << 20) + ordinary;
            let largest = (WORK + 2) * (max_held << 20) + 2 * ORDINARY + ordinary;
            assert!(needed <= BUDGET.max(largest), "{needed}");
        }
    }

    #[test]
    fn one_tenant_leaves_places_to_another() {
        let memory = Arc::new(Memory::new(48 << 20, 8, 2));
        let mut slow = Holding::new(&memory, "slow");
        slow.grow().unwrap();
        slow.grow().unwrap();
        let waits = thread::spawn({
            let mut more = Holding::new(&memory, "slow");
            move || more.grow().map(|()| more.has_place())
        });
        // However long that one waits.
        for _ in 0..3 {
            let mut other = Holding::new(&memory, "other");
            other.grow().unwrap();
            assert!(other.has_place());
        }
        drop(slow);
        assert!(waits.join().unwrap().unwrap(), "what is given back goes to a worker that waits");
        assert_eq!(memory.lock().all(), 0);
    }

    #[test]
    fn whoever_waits_when_the_run_is_over_gets_nothing() {
        let memory = Arc::new(Memory::new(48 << 20, 8, 1));
        let mut held = [Holding::new(&memory, "t"), Holding::new(&memory, "t")];
        held.iter_mut().for_each(|holding| holding.grow().unwrap());
        let waits = thread::spawn({
            let mut holding = Holding::new(&memory, "t");
            move || holding.grow().unwrap_err().kind()
        });
        memory.close();
        assert_eq!(waits.join().unwrap(), io::ErrorKind::TimedOut);
        held[0].shrink();
        assert!(Holding::new(&memory, "t").grow().is_err(), "nor one that comes later");
        assert!(held[1].has_place(), "what is held is held");
    }
}
