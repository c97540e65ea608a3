//! One poll cycle's work: threads that sign in, list and fetch side by side, and what they learn
//! on the way.
//!
//! A worker takes the next job under the lock, does it without the lock, and takes in what came of
//! it under the lock again. There are two kinds of jobs. A *step* is one request of a tenant's
//! walk (sign in, list the subscriptions, start one, list a page); a tenant takes one step at a
//! time, so an idle tenant needs one connection only. A *fetch* is one content blob. Steps come
//! first, as long as not too many blobs are queued; fetches take turns between the streams.
//! A job that is to be tried again goes back with the time before which it is not to be taken:
//! no worker ever sleeps on one job while another could be done.

mod batch;
mod stream;
mod tenant;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::batch::Batch;
use self::stream::{Queued, RunEnd, StreamRun};
pub use self::tenant::{KeptToken, TenantStart};
use self::tenant::{ListPage, Step, TenantRun};
use crate::api::{Access, Api, Trouble, shown};
use crate::clock::Clock;
use crate::config::Config;
use crate::content::{ContentType, Reaction};
use crate::event::Gap;
use crate::output::{Output, Written};
use crate::records::SplitError;
use crate::state::{State, Tenant, Waiting};
use crate::timestamp::age;

/// No stream lists a further page when all of them together have so many blobs queued.
const MOST_QUEUED: usize = 10_000;

/// How long requests in flight may take when the run's time is over.
const GRACE: Duration = Duration::from_secs(10);

/// A tenant at the end of a run.
#[derive(Debug)]
pub struct TenantEnd {
    /// `tenant_id` as configured.
    pub tenant_id: String,
    /// The state to be saved.
    pub state: Tenant,
    /// The token to be kept.
    pub token: Option<KeptToken>,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// The tenants, in the configuration's order.
    pub tenants: Vec<TenantEnd>,
    /// Events written.
    pub events: u64,
    /// Blobs written to their end.
    pub blobs: u64,
    /// Whether a tenant or a stream failed.
    pub failed: bool,
    /// Whether a tenant's credentials could not be used.
    pub misconfigured: bool,
    /// The stream that was last served when the run had to stop before all was done.
    pub last_turn: Option<(String, ContentType)>,
    /// Why it had to stop, if it had to.
    pub halt: Option<Halt>,
    /// The largest lag of all streams, in seconds.
    pub lag: i64,
}

/// Why a run ends before all is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// `run_timeout`.
    Time,
    /// `max_output`, or the most that Wazuh keeps of a run.
    Output,
    /// A write failed: nothing of the run may be saved.
    WriteFailed(String),
}

/// Collects what is new.
pub fn collect(
    config: &Config,
    api: Api<'_>,
    output: &Output,
    state: &State,
    tenants: Vec<TenantStart<'_>>,
    begun: Instant,
) -> Report {
    let clock_was = state.clock_offset;
    let now = api.clock.now();
    let tenants: Vec<_> =
        tenants.into_iter().map(|t| TenantRun::new(t, &config.subscriptions, now)).collect();
    let turns: Vec<_> = tenants
        .iter()
        .enumerate()
        .flat_map(|(t, tenant)| (0..tenant.streams.len()).map(move |s| (t, s)))
        .collect();
    let last = state.last_turn.as_ref().and_then(|(id, content_type)| {
        turns.iter().position(|(t, s)| {
            tenants.get(*t).is_some_and(|tenant| {
                tenant.config.tenant_id.eq_ignore_ascii_case(id)
                    && tenant.streams.get(*s).is_some_and(|s| s.content_type == *content_type)
            })
        })
    });
    let collector = Collector {
        config,
        clock: api.clock,
        output,
        deadline: begun + Duration::from_secs(config.run_timeout),
        shared: Mutex::new(Shared {
            turn: last.map_or(0, |last| last + 1),
            last_served: None,
            last_step: None,
            turns,
            tenants,
            busy: 0,
            finished: false,
            halt: None,
        }),
        changed: Condvar::new(),
        stopped: AtomicBool::new(false),
        events: AtomicU64::new(0),
        clock_was,
        api,
    };
    collector.run();
    collector.finish()
}

struct Collector<'a> {
    config: &'a Config,
    api: Api<'a>,
    clock: &'a Clock,
    output: &'a Output,
    deadline: Instant,
    shared: Mutex<Shared<'a>>,
    changed: Condvar,
    /// Whoever is inside a blob stops behind the record at hand.
    stopped: AtomicBool,
    events: AtomicU64,
    /// The clock's offset as the state was saved with it.
    clock_was: i64,
}

struct Shared<'a> {
    tenants: Vec<TenantRun<'a>>,
    /// Tenant and stream of each turn.
    turns: Vec<(usize, usize)>,
    /// Whose turn is next, in `turns`.
    turn: usize,
    last_served: Option<(usize, usize)>,
    /// The tenant that took the last step.
    last_step: Option<usize>,
    /// Workers that are at a job.
    busy: usize,
    /// Nothing is left to be done in this run.
    finished: bool,
    /// No further job is taken.
    halt: Option<Halt>,
}

enum Job<'a> {
    Step(usize, Step),
    Fetch(Fetch<'a>),
}

struct Fetch<'a> {
    tenant: usize,
    stream: usize,
    tenant_id: &'a str,
    content_type: ContentType,
    access: Arc<Access>,
    queued: Queued,
}

/// What came of fetching a blob. `Queued` knows how far it got.
enum Fetched {
    Whole,
    /// The run ended inside it.
    Stopped,
    /// It is not the blob that was begun: from its start, please.
    Restart,
    Trouble(Trouble),
}

impl<'a> Collector<'a> {
    fn lock(&self) -> MutexGuard<'_, Shared<'a>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        std::thread::scope(|scope| {
            let mut threads = 0;
            for n in 0..self.config.max_connections {
                let worker = std::thread::Builder::new().name(format!("worker-{n}"));
                if let Err(error) = worker.spawn_scoped(scope, || self.work()) {
                    log::warn!("only {n} of max_connections threads could be started: {error}");
                    break;
                }
                threads += 1;
            }
            if threads > 0 {
                self.watch();
            } else {
                self.work();
            }
        });
    }

    /// Waits until all is done. At the deadline tells everyone to stop; what still hangs a while
    /// later is broken off.
    fn watch(&self) {
        let mut grace_ends: Option<Instant> = None;
        let mut shared = self.lock();
        while shared.busy > 0 || !(shared.finished || shared.halt.is_some()) {
            if self.stopped.load(Ordering::Relaxed) {
                grace_ends.get_or_insert_with(|| Instant::now() + GRACE);
            }
            let until = grace_ends.unwrap_or(self.deadline);
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let waited = self.changed.wait_timeout(shared, left);
                shared = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else if grace_ends.is_none() {
                self.stop(&mut shared, Halt::Time);
            } else {
                self.api.http.shut_down();
                return;
            }
        }
    }

    /// No further job, and those inside a blob stop behind the record at hand.
    fn stop(&self, shared: &mut Shared<'_>, why: Halt) {
        self.stopped.store(true, Ordering::Relaxed);
        shared.halt.get_or_insert(why);
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Step(tenant, step) => self.step(tenant, step),
                Job::Fetch(mut fetch) => {
                    let fetched = self.fetch(&mut fetch);
                    self.take_fetched(fetch, fetched);
                }
            }
            self.lock().busy -= 1;
            self.changed.notify_all();
        }
    }

    /// Waits for a job; none when this run has no more.
    fn next_job(&self) -> Option<Job<'a>> {
        let mut shared = self.lock();
        loop {
            if shared.halt.is_some() || shared.finished {
                return None;
            }
            let now = Instant::now();
            if now >= self.deadline {
                self.stop(&mut shared, Halt::Time);
                return None;
            }
            if let Some(job) = self.take_job(&mut shared) {
                if self.output.written() >= self.config.max_output {
                    shared.put_back(job);
                    shared.halt = Some(Halt::Output);
                    self.changed.notify_all();
                    return None;
                }
                shared.busy += 1;
                return Some(job);
            }
            let next = shared.earliest(now).filter(|at| *at < self.deadline);
            if shared.busy == 0 && next.is_none() {
                shared.finished = true;
                self.changed.notify_all();
                return None;
            }
            let wait = next.unwrap_or(self.deadline).saturating_duration_since(now);
            let waited = self.changed.wait_timeout(shared, wait.max(Duration::from_millis(1)));
            shared = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take_job(&self, shared: &mut Shared<'a>) -> Option<Job<'a>> {
        let queued: usize =
            shared.tenants.iter().flat_map(|t| &t.streams).map(|stream| stream.queue.len()).sum();
        if queued < MOST_QUEUED {
            let first =
                shared.turns.get(shared.turn % shared.turns.len().max(1)).map_or(0, |t| t.0);
            let count = shared.tenants.len();
            for t in (first..count).chain(0..first) {
                let tenant = shared.tenants.get_mut(t)?;
                let step = tenant.next_step(self.clock, self.config.lookback, self.clock_was);
                if let Some(step) = step {
                    tenant.stepping = true;
                    shared.last_step = Some(t);
                    return Some(Job::Step(t, step));
                }
            }
        }
        shared.take_fetch().map(Job::Fetch)
    }

    /// Sends one request of a tenant's walk, and takes in what came of it.
    fn step(&self, t: usize, step: Step) {
        match step {
            Step::SignIn => self.sign_in(t),
            Step::ListSubscriptions(access) => {
                let result = self.api.subscriptions(&access);
                self.with_tenant(t, |tenant| match result {
                    Ok(enabled) => tenant.take_subscriptions(&enabled, self.clock.now()),
                    Err(trouble) => tenant.subscriptions_failed(trouble, &access),
                });
            }
            Step::Start(access, content_type) => {
                let result = self.api.start(&access, content_type);
                let now = self.clock.now();
                self.with_tenant(t, |tenant| tenant.take_start(content_type, result, &access, now));
            }
            Step::List(page) => self.list(t, page),
        }
    }

    fn with_tenant(&self, t: usize, change: impl FnOnce(&mut TenantRun<'a>)) {
        if let Some(tenant) = self.lock().tenants.get_mut(t) {
            tenant.stepping = false;
            change(tenant);
        }
    }

    fn sign_in(&self, t: usize) {
        let found = self.lock().tenants.get(t).map(|t| (t.config, t.credentials.clone()));
        let Some((config, credentials)) = found else {
            return;
        };
        let result = credentials.map_err(Trouble::refused).and_then(|credentials| {
            let grant = self.api.sign_in(config, &credentials)?;
            let access = Access::new(config, grant.token.clone(), grant.claims.tid.as_deref())?;
            Ok((grant, access))
        });
        let now = self.clock.now();
        self.with_tenant(t, |tenant| match result {
            Ok((grant, access)) => {
                let kept = KeptToken {
                    token: grant.token,
                    tid: grant.claims.tid.clone(),
                    expires: now.plus(grant.lifetime),
                };
                tenant.signed_in(access, kept, &grant.claims);
            }
            Err(trouble) => tenant.sign_in_failed(trouble),
        });
    }

    fn list(&self, t: usize, page: ListPage) {
        let ListPage { stream: s, content_type, access, window, link } = page;
        let result = match &link {
            None => self.api.list(&access, content_type, &window),
            Some(link) => self.api.next_page(&access, link),
        };
        let now = self.clock.now();
        let mut lost = None;
        let mut tenant_id = "";
        self.with_tenant(t, |tenant| match result {
            Ok(page) if page.next.is_some() && page.next == link => {
                let trouble = Trouble::refused("a page links to itself".to_owned());
                tenant.list_failed(s, trouble, &access, now);
            }
            Ok(page) => {
                tenant_id = &tenant.config.tenant_id;
                if let Some(stream) = tenant.streams.get_mut(s) {
                    lost = stream.state.skip_lost(&window);
                    stream.take_page(page, window, now);
                }
                tenant.trouble = None;
            }
            Err(trouble) => tenant.list_failed(s, trouble, &access, now),
        });
        if let Some((from, to)) = lost {
            let gap = Gap {
                reason: format!(
                    "no run could list this stream for so long that {} of content have left the 7 \
                     days that the API keeps: whatever became available from {from} to {to} is lost",
                    age(to.since(from))
                ),
                code: None,
                window: Some((from, to)),
                content_id: None,
            };
            self.say(tenant_id, content_type, &gap);
        }
    }

    /// Says a gap: as a notice and in the log.
    fn say(&self, tenant_id: &str, content_type: ContentType, gap: &Gap) {
        log::error!("{tenant_id} {content_type}: events are lost: {}", gap.reason);
        let why = match self.output.notice(&gap.line(tenant_id, content_type)) {
            Ok(Written::All) => return,
            Ok(Written::Full) => Halt::Output,
            Err(error) => Halt::WriteFailed(error.to_string()),
        };
        self.stop(&mut self.lock(), why);
    }

    /// Fetches a blob and writes its events, from where an earlier try left off.
    fn fetch(&self, fetch: &mut Fetch<'a>) -> Fetched {
        let blob = &mut fetch.queued.blob;
        let mut records = match self.api.fetch(&fetch.access, &blob.uri) {
            Ok(records) => records,
            Err(trouble) => return Fetched::Trouble(trouble),
        };
        let skip = blob.written;
        let mut index = 0;
        let mut batch = Batch::new(fetch.tenant_id, fetch.content_type);
        let end = loop {
            if self.stopped.load(Ordering::Relaxed) {
                break Fetched::Stopped;
            }
            let element = match records.next_element() {
                Ok(Some(element)) => element,
                Ok(None) if index < skip => return Fetched::Restart,
                Ok(None) => break Fetched::Whole,
                Err(error) => break Fetched::Trouble(self.split_trouble(error, &fetch.access)),
            };
            index += 1;
            if index > skip {
                batch.add(&element, index, &blob.id);
            } else if index == skip && batch.id_of(&element) != blob.last_id {
                return Fetched::Restart;
            }
            if batch.is_full() && !self.write(&mut batch, blob) {
                return Fetched::Stopped;
            }
        };
        if self.write(&mut batch, blob) { end } else { Fetched::Stopped }
    }

    fn split_trouble(&self, error: SplitError, access: &Access) -> Trouble {
        match error {
            SplitError::NoArray(body) => self.api.not_an_array(access, &body),
            SplitError::Cut => Trouble::passing("the content ends in the middle".to_owned()),
            SplitError::Malformed(at) => {
                Trouble::passing(format!("the content is damaged at byte {at}"))
            }
            SplitError::Read(error) => Trouble::passing(format!("the content broke off: {error}")),
        }
    }

    /// Writes a batch out and marks how far the blob got; false when the run ends here.
    fn write(&self, batch: &mut Batch<'_>, blob: &mut Waiting) -> bool {
        if batch.lines.is_empty() {
            return true;
        }
        let why = match self.output.events(&batch.lines) {
            Ok(Written::All) => {
                self.events.fetch_add(batch.events, Ordering::Relaxed);
                if let Some((index, id)) = batch.mark() {
                    blob.written = index;
                    blob.last_id = Some(id);
                }
                batch.clear();
                return true;
            }
            Ok(Written::Full) => Halt::Output,
            Err(error) => Halt::WriteFailed(error.to_string()),
        };
        self.stop(&mut self.lock(), why);
        false
    }

    /// Takes in what came of a fetch: delivered, to be tried again, put aside, or lost.
    fn take_fetched(&self, fetch: Fetch<'a>, fetched: Fetched) {
        let Fetch { tenant: t, stream: s, tenant_id, content_type, access, mut queued } = fetch;
        let now = self.clock.now();
        let mut shared = self.lock();
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        let trouble = match fetched {
            Fetched::Whole => {
                if let Some(stream) = tenant.streams.get_mut(s) {
                    stream.blobs += 1;
                    stream.done_with(&queued.blob, now);
                }
                return;
            }
            Fetched::Stopped => return tenant.requeue(s, queued),
            Fetched::Restart => {
                log::warn!(
                    "{tenant_id} {content_type}: content {} is not what it was when it was begun: it \
                     is written again from its start",
                    shown(&queued.blob.id)
                );
                queued.blob.written = 0;
                queued.blob.last_id = None;
                return tenant.requeue(s, queued);
            }
            Fetched::Trouble(trouble) => trouble,
        };
        let gone = match trouble.reaction {
            Reaction::Expired => true,
            Reaction::Missing => queued.blob.missing,
            _ => now > queued.blob.expires,
        };
        if !gone {
            return tenant.fetch_failed(s, queued, trouble, &access, now);
        }
        let blob = queued.blob;
        drop(shared);
        let gap = Gap {
            reason: format!(
                "content that became available at {} is gone: {}",
                blob.created, trouble.text
            ),
            code: trouble.code,
            window: Some((blob.created, blob.created)),
            content_id: Some(blob.id.clone()),
        };
        self.say(tenant_id, content_type, &gap);
        if let Some(stream) = self.lock().stream_mut(t, s) {
            stream.done_with(&blob, now);
        }
    }

    /// What the run did, and the state that it leaves.
    fn finish(self) -> Report {
        let now = self.clock.now();
        let shared = self.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report {
            events: self.events.into_inner(),
            halt: shared.halt.clone(),
            failed: matches!(shared.halt, Some(Halt::WriteFailed(_))),
            ..Report::default()
        };
        if shared.halt.is_some() {
            // A run that got no further than listing makes place for the next tenant.
            let last_turn = shared.last_served.or_else(|| {
                let last_step = shared.last_step?;
                shared.turns.iter().rev().find(|(t, _)| *t == last_step).copied()
            });
            report.last_turn = last_turn.and_then(|(t, s)| {
                let tenant = shared.tenants.get(t)?;
                let stream = tenant.streams.get(s)?;
                Some((tenant.config.tenant_id.clone(), stream.content_type))
            });
        }
        for mut tenant in shared.tenants {
            // What was still being tried when the time was over.
            if tenant.failed.is_none() && tenant.access.is_none() {
                tenant.failed = tenant.trouble.take();
            }
            if let Some(why) = &tenant.failed {
                log::error!("{}: {why}", tenant.name());
                report.failed = true;
            }
            report.misconfigured |= tenant.credentials.is_err();
            tenant.state.last_error.clone_from(&tenant.failed);
            for mut stream in std::mem::take(&mut tenant.streams) {
                report.blobs += stream.blobs;
                report.failed |= stream.finish(&RunEnd {
                    tenant_id: tenant.name(),
                    tenant_failed: tenant.failed.is_some(),
                    lookback: self.config.lookback,
                    clock: self.clock,
                    clock_was: self.clock_was,
                });
                report.lag = report.lag.max(stream.state.lag(now));
                tenant.state.streams.insert(stream.content_type, stream.state);
            }
            report.tenants.push(TenantEnd {
                tenant_id: tenant.config.tenant_id.clone(),
                state: tenant.state,
                token: tenant.kept,
            });
        }
        report
    }
}

impl<'a> Shared<'a> {
    fn stream_mut(&mut self, t: usize, s: usize) -> Option<&mut StreamRun> {
        self.tenants.get_mut(t)?.streams.get_mut(s)
    }

    /// The next blob of the stream whose turn it is.
    fn take_fetch(&mut self) -> Option<Fetch<'a>> {
        let now = Instant::now();
        let count = self.turns.len();
        for offset in 0..count {
            let turn = (self.turn + offset) % count;
            let (t, s) = self.turns.get(turn).copied()?;
            let tenant = self.tenants.get_mut(t)?;
            let Some(access) = tenant.access.clone().filter(|_| tenant.is_due(now)) else {
                continue;
            };
            let stream = tenant.streams.get_mut(s)?;
            let Some(queued) = stream.next_blob(now) else {
                continue;
            };
            self.turn = turn + 1;
            self.last_served = Some((t, s));
            let (tenant_id, content_type) = (tenant.config.tenant_id.as_str(), stream.content_type);
            return Some(Fetch { tenant: t, stream: s, tenant_id, content_type, access, queued });
        }
        None
    }

    /// Undoes the taking of a job.
    fn put_back(&mut self, job: Job<'a>) {
        match job {
            Job::Step(t, step) => {
                if let Some(tenant) = self.tenants.get_mut(t) {
                    tenant.stepping = false;
                    if let Step::Start(_, content_type) = step {
                        tenant.to_start.push(content_type);
                    }
                }
            }
            Job::Fetch(fetch) => {
                if let Some(tenant) = self.tenants.get_mut(fetch.tenant) {
                    tenant.requeue(fetch.stream, fetch.queued);
                }
            }
        }
    }

    /// When the next of the jobs that are not due yet will be.
    fn earliest(&self, now: Instant) -> Option<Instant> {
        self.tenants.iter().filter_map(|tenant| tenant.next_time(now)).min()
    }
}
