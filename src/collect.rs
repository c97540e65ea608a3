//! One poll cycle's work: threads that sign in, list and fetch side by side, and what they learn
//! on the way.
//!
//! A worker takes the next job under the lock, does it without the lock, and takes in what came of
//! it under the lock again. There are two kinds of jobs. A *step* is one request of a tenant's
//! walk (sign in, list the subscriptions, start one, list a page); a tenant takes one step at a
//! time, so an idle tenant needs one connection only. A *fetch* is one content blob. While there
//! are both, each has half of the connections; steps take turns between tenants, fetches between
//! streams. A job that is to be tried again goes back with the time before which it is not to be
//! taken: no worker ever sleeps on one job while another could be done.

mod batch;
mod jobs;
mod stream;
mod tenant;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::batch::Batch;
use self::jobs::{Fetch, Job, Shared};
pub use self::tenant::TenantStart;
use self::tenant::{ListPage, RunContext, Step, TenantRun};
use crate::api::{Access, Api, Trouble};
use crate::clock::{Clock, local_now};
use crate::config::Config;
use crate::content::{ContentType, Reaction, excerpt};
use crate::event::Gap;
use crate::output::{Output, Written};
use crate::records::SplitError;
use crate::state::{State, Tenant, Turns, Waiting};
use crate::timestamp::{Timestamp, age};
use crate::tokens::KeptToken;

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
    /// Where it left off, if it had to stop before all was done.
    pub turns: Turns,
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

/// Collects what is new. `state`: as the last run left it; `tenants`: with their part of it.
pub fn collect(
    config: &Config,
    api: Api<'_>,
    output: &Output,
    state: &State,
    tenants: Vec<TenantStart<'_>>,
    begun: Instant,
) -> Report {
    let now = api.clock.now();
    let tenants: Vec<_> =
        tenants.into_iter().map(|t| TenantRun::new(t, &config.subscriptions, now)).collect();
    let collector = Collector {
        config,
        run: RunContext {
            clock: api.clock,
            offset_was: state.clock_offset,
            lookback: config.lookback,
        },
        state,
        output,
        deadline: begun + Duration::from_secs(config.run_timeout),
        shared: Mutex::new(Shared::new(tenants, &state.turns, config.max_connections)),
        changed: Condvar::new(),
        stopped: AtomicBool::new(false),
        events: AtomicU64::new(0),
        api,
    };
    collector.run();
    collector.finish()
}

struct Collector<'a> {
    config: &'a Config,
    api: Api<'a>,
    run: RunContext<'a>,
    state: &'a State,
    output: &'a Output,
    deadline: Instant,
    shared: Mutex<Shared<'a>>,
    changed: Condvar,
    /// Whoever is inside a blob stops behind the record at hand.
    stopped: AtomicBool,
    events: AtomicU64,
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

    fn clock(&self) -> &Clock {
        self.run.clock
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
        shared.halt(why);
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            let kind = job.kind();
            match job {
                Job::Step(tenant, request, _) => self.step(tenant, request),
                Job::Fetch(mut fetch) => {
                    let fetched = self.fetch(&mut fetch);
                    self.take_fetched(fetch, fetched);
                }
            }
            let mut shared = self.lock();
            shared.ended(&kind);
            drop(shared);
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
            // A full run goes on listing, so that a backlog of one stream hides no other's blobs.
            let full = self.output.written() >= self.config.max_output;
            if let Some(job) = shared.take_job(self.run, !full) {
                return Some(job);
            }
            if full && shared.stepping == 0 && shared.has_queued() {
                shared.halt(Halt::Output);
                self.changed.notify_all();
                return None;
            }
            let next = shared.next_time(now).filter(|at| *at < self.deadline);
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

    /// Sends one request of a tenant's walk, and takes in what came of it.
    fn step(&self, t: usize, step: Step) {
        match step {
            Step::SignIn => self.sign_in(t),
            Step::ListSubscriptions(access) => {
                let result = self.api.subscriptions(&access);
                let now = self.clock().now();
                self.with_tenant(t, |tenant| match result {
                    Ok(enabled) => tenant.take_subscriptions(&enabled, now),
                    Err(trouble) => tenant.subscriptions_failed(trouble, &access, now),
                });
            }
            Step::Start(access, content_type) => {
                let result = self.api.start(&access, content_type);
                let now = self.clock().now();
                self.with_tenant(t, |tenant| tenant.take_start(content_type, result, &access, now));
            }
            Step::List(page) => self.list(t, page),
        }
    }

    fn with_tenant(&self, t: usize, change: impl FnOnce(&mut TenantRun<'a>)) {
        if let Some(tenant) = self.lock().tenants.get_mut(t) {
            tenant.step_ended();
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
        let now = self.clock().now();
        let mut shared = self.lock();
        let twin = result.as_ref().ok().and_then(|(_, access)| shared.twin(t, &access.guid));
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        tenant.step_ended();
        match (result, twin) {
            (Ok(_), Some(twin)) => tenant.sign_in_failed(Trouble::refused(format!(
                "it is the same tenant as {twin}: every event would come twice; remove one of the \
                 two api_auth blocks"
            ))),
            (Ok((grant, access)), None) => {
                // It may have been configured by its GUID before.
                if tenant.state.guid.is_none()
                    && let Some(known) = self.state.same_tenant(&access.guid, tenant.name())
                {
                    tenant.take_over(known, &self.config.subscriptions, now);
                }
                let kept = KeptToken {
                    token: grant.token,
                    tid: grant.claims.tid.clone(),
                    expires: now.plus(grant.lifetime),
                };
                tenant.signed_in(access, kept, &grant.claims, grant.lifetime);
            }
            (Err(trouble), _) => tenant.sign_in_failed(trouble),
        }
    }

    fn list(&self, t: usize, page: ListPage) {
        let ListPage { stream: s, content_type, access, window, link } = page;
        let result = match &link {
            None => self.api.list(&access, content_type, &window),
            Some(link) => self.api.next_page(&access, link),
        };
        let now = self.clock().now();
        if result.is_ok() {
            let (tenant_id, lost) = {
                let shared = self.lock();
                let tenant_id = shared.tenants.get(t).map_or("", |t| t.config.tenant_id.as_str());
                (tenant_id, shared.stream((t, s)).and_then(|s| s.state.lost(&window, now)))
            };
            if let Some((from, to)) = lost {
                if !self.say(tenant_id, content_type, &outage(from, to)) {
                    // The position has not moved: the next run says it.
                    return self.with_tenant(t, |_| {});
                }
                if let Some(stream) = self.lock().stream_mut((t, s)) {
                    stream.state.skip_to(to);
                }
            }
        }
        self.with_tenant(t, |tenant| {
            let taken = result.and_then(|page| {
                tenant.went_well();
                let stream = tenant.streams.get_mut(s);
                let taken = stream.map(|stream| stream.take_page(page, window, now));
                taken.unwrap_or(Ok(())).map_err(Trouble::refused)
            });
            if let Err(trouble) = taken {
                tenant.list_failed(s, trouble, &access, now);
            }
        });
    }

    /// Says a gap, as a notice and in the log; false when it could not be said in this run.
    fn say(&self, tenant_id: &str, content_type: ContentType, gap: &Gap) -> bool {
        let why = match self.output.notice(&gap.line(tenant_id, content_type)) {
            Ok(Written::All) => {
                log::error!("{tenant_id} {content_type}: events are lost: {}", gap.reason);
                return true;
            }
            Ok(Written::Full) => Halt::Output,
            Err(error) => Halt::WriteFailed(error.to_string()),
        };
        self.stop(&mut self.lock(), why);
        false
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
        let mut batch = Batch::new(fetch.tenant_id, fetch.content_type, &blob.id);
        let end = loop {
            // What an earlier run has written is passed over to its end, so that this one gets further.
            if index >= skip && self.stopped.load(Ordering::Relaxed) {
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
                batch.add(&element, index);
            } else if index == skip && batch.id_of(&element) != blob.last_id {
                return Fetched::Restart;
            }
            if batch.is_full() && !self.write(&mut batch, blob) {
                return Fetched::Stopped;
            }
        };
        batch.end();
        if self.write(&mut batch, blob) { end } else { Fetched::Stopped }
    }

    fn split_trouble(&self, error: SplitError, access: &Access) -> Trouble {
        match error {
            SplitError::NoArray(body) => self.api.no_content(access, &body),
            SplitError::Cut => Trouble::passing("the content ends in the middle".to_owned()),
            SplitError::Malformed(at) => {
                Trouble::passing(format!("the content is damaged at byte {at}"))
            }
            SplitError::Read(error) => Trouble::passing(format!("the content broke off: {error}")),
        }
    }

    /// Writes a batch out and marks how far the blob got; false when the run ends here.
    fn write(&self, batch: &mut Batch<'_>, blob: &mut Waiting) -> bool {
        if batch.lines().is_empty() {
            return true;
        }
        let why = match self.output.events(batch.lines()) {
            Ok(Written::All) => {
                self.events.fetch_add(batch.events(), Ordering::Relaxed);
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
        let Fetch { stream: (t, s), tenant_id, content_type, access, mut queued } = fetch;
        let now = self.clock().now();
        // By the API's clock or by this machine's, should one of them be late.
        let latest = now.max(local_now());
        let gone = match &fetched {
            Fetched::Trouble(trouble) => match trouble.reaction {
                Reaction::Expired => true,
                Reaction::Missing => queued.blob.missing,
                _ => now > queued.blob.expires,
            },
            _ => false,
        };
        if let (true, Fetched::Trouble(trouble)) = (gone, &fetched) {
            // What can't be said in this run keeps waiting.
            let gone = self.say(tenant_id, content_type, &gone_blob(&queued.blob, trouble));
            if let Some(stream) = self.lock().stream_mut((t, s)) {
                if gone {
                    stream.done_with(&queued.blob, latest);
                } else {
                    stream.requeue(queued, true);
                }
            }
            return;
        }
        let mut shared = self.lock();
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        if let Fetched::Trouble(trouble) = fetched {
            return tenant.fetch_failed(s, queued, trouble, &access, now);
        }
        let whole = matches!(fetched, Fetched::Whole);
        if whole {
            tenant.went_well();
        }
        let Some(stream) = tenant.streams.get_mut(s) else {
            return;
        };
        if whole {
            stream.blobs += 1;
            stream.done_with(&queued.blob, latest);
            return;
        }
        if let Fetched::Restart = fetched {
            log::warn!(
                "{tenant_id} {content_type}: content {} is not what it was when it was begun: it is \
                 written again from its start",
                excerpt(&queued.blob.id)
            );
            queued.blob.written = 0;
            queued.blob.last_id = None;
        }
        stream.requeue(queued, true);
    }

    /// What the run did, and the state that it leaves.
    fn finish(self) -> Report {
        let now = self.clock().now();
        // A time that has surely come, should the API's `Date` be wrong in this run.
        let at_least = now.min(local_now().plus(self.run.offset_was));
        let clock = self.run.reading();
        let shared = self.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report {
            events: self.events.into_inner(),
            turns: shared.turns(),
            halt: shared.halt,
            ..Report::default()
        };
        for mut tenant in shared.tenants {
            tenant.finish();
            for mut stream in std::mem::take(&mut tenant.streams) {
                let failed = tenant.failed.is_some();
                stream.finish(clock, (now, at_least), self.run.lookback, failed);
                if let Some(why) = stream.failed.as_ref().filter(|_| !failed) {
                    log::error!("{} {}: {why}", tenant.name(), stream.content_type);
                    report.failed = true;
                }
                report.blobs += stream.blobs;
                report.lag = report.lag.max(stream.state.lag(now));
                tenant.state.streams.insert(stream.content_type, stream.state);
            }
            report.failed |= tenant.failed.is_some();
            report.misconfigured |= tenant.credentials.is_err();
            tenant.save_pause(now);
            report.tenants.push(TenantEnd {
                tenant_id: tenant.config.tenant_id.clone(),
                state: tenant.state,
                token: tenant.kept,
            });
        }
        report
    }
}

/// What a stream lost that no run could list for more than 7 days.
fn outage(from: Timestamp, to: Timestamp) -> Gap {
    Gap {
        reason: format!(
            "no run could list this stream for so long that {} of content have left the 7 days that \
             the API keeps: whatever became available from {from} to {to} is lost",
            age(to.since(from))
        ),
        code: None,
        window: Some((from, to)),
        content_id: None,
    }
}

/// What is lost with a blob that the API no longer has.
fn gone_blob(blob: &Waiting, trouble: &Trouble) -> Gap {
    Gap {
        reason: format!(
            "content that became available at {} is gone: {}",
            blob.created, trouble.text
        ),
        code: trouble.code.clone(),
        window: Some((blob.created, blob.created)),
        content_id: Some(blob.id.clone()),
    }
}
