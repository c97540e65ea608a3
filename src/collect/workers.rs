//! The threads that do a run's jobs.
//!
//! A thread is started when there is a job that no other one is free for, so one idle tenant needs
//! one. Whoever takes a job finds somebody for the next one, too; whoever finds none waits until one
//! is taken for it. The main thread looks after the time and after SIGTERM: it takes what becomes
//! due while nobody else comes by, and it can end the run whatever the others hang in.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::iterator::Signals;

use super::fetch::Buffers;
use super::jobs::{Job, Kind, Shared};
use super::{Collector, Halt};
use crate::event::LineMaker;
use crate::thread::thread;

/// How long requests in flight may take when the run's time is over.
const GRACE: Duration = Duration::from_secs(10);

/// How long workers may take to come back when their connections are broken off; one that looks up
/// a name may take longer, and is left behind.
const BROKEN_OFF: Duration = Duration::from_millis(500);

/// How often at least the main thread looks whether a signal has come, and what is due.
const LOOK: Duration = Duration::from_millis(100);

/// Who works.
#[derive(Default)]
pub(super) struct Workers {
    /// Threads that were started; none of them ends before the run.
    started: usize,
    /// No more are started than this.
    most: usize,
    /// Those that wait for a job.
    idle: usize,
    /// Jobs that are taken, and wait for somebody who has been woken or started for them; whoever
    /// comes by first does them.
    ready: VecDeque<Job>,
}

impl Workers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Whether somebody is free for one more job.
    fn has_room(&self) -> bool {
        self.ready.len() < self.idle + self.most - self.started
    }
}

impl Collector {
    /// Works until all is done, or the run is over.
    pub(super) fn run_until_done(self: &Arc<Self>, signals: Signals) {
        let shared = self.watch(signals);
        if shared.busy > 0 {
            self.api.http.shut_down();
            let in_flight = |shared: &mut Shared| shared.busy > 0;
            drop(self.for_main.wait_timeout_while(shared, BROKEN_OFF, in_flight));
        }
    }

    /// Sees to it that what becomes due is taken, and says when all is done. At the deadline tells
    /// everyone to stop; what still hangs a while later, or at once where nothing is to be waited
    /// for, is left to be broken off.
    fn watch(self: &Arc<Self>, mut signals: Signals) -> MutexGuard<'_, Shared> {
        let mut grace_ends: Option<Instant> = None;
        let mut shared = self.lock();
        loop {
            let now = Instant::now();
            if signals.pending().next().is_some() {
                self.stop(&mut shared, Halt::Terminated);
            }
            if now >= self.deadline && !self.stopped.load(Ordering::Relaxed) {
                self.stop(&mut shared, Halt::Time);
            }
            self.assign(&mut shared, now);
            let latest = self.deadline.min(now + self.limits.wait);
            let next = shared.next_time(now).filter(|at| *at < latest);
            if shared.busy == 0 && next.is_none() {
                shared.finished = true;
                self.for_workers.notify_all();
            }
            let at_once = match shared.halt {
                Some(Halt::Terminated | Halt::WriteFailed(_) | Halt::NoThread(_)) => true,
                Some(Halt::Time | Halt::Output | Halt::State) | None => false,
            };
            let over = shared.is_over();
            if at_once || (over && shared.busy == 0) {
                return shared;
            }
            let stopped = self.stopped.load(Ordering::Relaxed);
            let until = match next {
                _ if stopped => *grace_ends.get_or_insert(now + GRACE),
                _ if over => self.deadline,
                next => next.unwrap_or(latest),
            };
            let left = until.saturating_duration_since(now);
            if left.is_zero() && stopped {
                return shared;
            }
            let waited = self.for_main.wait_timeout(shared, left.min(LOOK));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No further job, and those inside a blob stop behind the record at hand.
    pub(super) fn stop(&self, shared: &mut Shared, why: Halt) {
        self.stopped.store(true, Ordering::Relaxed);
        self.api.memory.close();
        self.halt(shared, why);
    }

    /// No further job, nor one that nobody has begun yet.
    fn halt(&self, shared: &mut Shared, why: Halt) {
        shared.halt(why);
        for job in std::mem::take(&mut shared.workers.ready) {
            shared.give_back(job);
        }
        self.for_workers.notify_all();
        self.for_main.notify_one();
    }

    fn work(self: &Arc<Self>) {
        let mut buffers = Buffers::new(LineMaker::new(&self.config.events, &self.kinds));
        let mut done = None;
        while let Some(job) = self.next_job(done) {
            done = Some(self.work_on(job, &mut buffers));
        }
    }

    /// Does a job; what it was is still counted as in flight.
    fn work_on(&self, job: Job, buffers: &mut Buffers<'_>) -> Kind {
        let kind = job.kind();
        match job {
            Job::Step(tenant, request, _) => self.step(tenant, request),
            Job::Fetch(mut fetch) => {
                let fetched = self.fetch(&mut fetch, buffers);
                self.take_fetched(fetch, fetched);
            }
        }
        kind
    }

    /// Takes note of what is `done`, if anything is, and waits for the next job; none when this run
    /// has no more.
    fn next_job(self: &Arc<Self>, done: Option<Kind>) -> Option<Job> {
        let mut shared = self.lock();
        if let Some(kind) = done {
            shared.ended(&kind);
        }
        loop {
            let now = Instant::now();
            let job = shared.workers.ready.pop_front().or_else(|| self.take_job(&mut shared, now));
            if let Some(job) = job {
                self.assign(&mut shared, now);
                return Some(job);
            }
            // All may be done.
            self.for_main.notify_one();
            if shared.is_over() {
                return None;
            }
            shared.workers.idle += 1;
            shared = self.for_workers.wait(shared).unwrap_or_else(PoisonError::into_inner);
            shared.workers.idle -= 1;
        }
    }

    /// Finds somebody for each job that may be done at `now`.
    fn assign(self: &Arc<Self>, shared: &mut Shared, now: Instant) {
        while shared.workers.has_room() {
            let Some(job) = self.take_job(shared, now) else {
                return;
            };
            let workers = &mut shared.workers;
            workers.ready.push_back(job);
            if workers.ready.len() <= workers.idle {
                self.for_workers.notify_one();
                continue;
            }
            let worker = thread(format!("worker-{}", workers.started));
            let collector = Arc::clone(self);
            match worker.spawn(move || collector.work()) {
                Ok(_) => workers.started += 1,
                Err(error) if workers.started == 0 => {
                    return self.stop(shared, Halt::NoThread(error.to_string()));
                }
                Err(error) => {
                    let (most, started) = (workers.most, workers.started);
                    log::warn!("only {started} of {most} threads could be started: {error}");
                    workers.most = started;
                }
            }
        }
    }

    /// Takes a job that may be done at `now`.
    fn take_job(&self, shared: &mut Shared, now: Instant) -> Option<Job> {
        if shared.is_over() || now >= self.deadline {
            return None;
        }
        // A full run goes on listing, so that a backlog of one stream hides no other's blobs.
        let full = self.output.written() >= self.limits.output;
        let has_room = shared.room.has_any();
        let job = shared.take_job(&self.run, !full && has_room, now);
        if job.is_none() && shared.stepping == 0 && shared.has_queued() {
            if full {
                self.halt(shared, Halt::Output);
            } else if !has_room && shared.busy == 0 {
                // Blobs in flight may give some of it back.
                self.halt(shared, Halt::State);
            }
        }
        job
    }
}
