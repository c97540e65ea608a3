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
#[cfg(test)]
mod model;
mod stream;
mod tenant;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::iterator::Signals;

use self::batch::Batch;
use self::jobs::{Fetch, Job, Shared};
pub use self::tenant::TenantStart;
use self::tenant::{ListPage, RunContext, Step, TenantRun};
use crate::api::{Access, Api, Trouble};
use crate::clock::{Clock, local_now};
use crate::config::Config;
use crate::content::{Reaction, excerpt};
use crate::health::{Failure, Outcome, Part, judge};
use crate::notice::{Kind, Notice};
use crate::output::{Output, Written};
use crate::records::SplitError;
use crate::state::{MOST_NOTICES, State, Tenant, Turns};
use crate::timestamp::{Timestamp, age};
use crate::tokens::KeptToken;

/// How long requests in flight may take when the run's time is over.
const GRACE: Duration = Duration::from_secs(10);

/// What comes later than that is the next run's: Wazuh sends what this one wrote when it has ended.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long workers may take to come back when their connections are broken off; one that looks up
/// a name may take longer, and is left behind.
const BROKEN_OFF: Duration = Duration::from_millis(500);

/// What a cycle works with.
#[derive(Debug)]
pub struct Cycle {
    /// The configuration.
    pub config: Arc<Config>,
    /// The two hosts.
    pub api: Api,
    /// Where events go.
    pub output: Arc<Output>,
    /// The state as the last run left it, without the parts that are in `tenants`.
    pub state: State,
    /// The configured tenants.
    pub tenants: Vec<TenantStart>,
    /// Whether what is written is handed over to a modulesd, and may get lost there.
    pub hand_over: bool,
    /// When the run was begun.
    pub begun: Instant,
}

/// A tenant at the end of a run.
#[derive(Debug)]
pub struct TenantEnd {
    /// `tenant_id` as configured.
    pub tenant_id: String,
    /// The state to be saved.
    pub state: Tenant,
    /// The token to be kept.
    pub token: Option<KeptToken>,
    /// Why its credentials can't be used, if they can't.
    pub misconfigured: Option<String>,
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
    /// What is to be told: gaps, failures, recoveries.
    pub notices: Vec<Notice>,
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
    /// SIGTERM.
    Terminated,
    /// A write failed: nothing of the run may be saved.
    WriteFailed(String),
}

/// One cycle's collecting. First [`run`](Collection::run), then, when nobody writes any more,
/// [`finish`](Collection::finish).
pub struct Collection(Arc<Collector>);

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collection")
    }
}

impl Collection {
    /// Takes everything that a cycle works with.
    #[must_use]
    pub fn new(cycle: Cycle) -> Self {
        let Cycle { config, api, output, state, tenants, hand_over, begun } = cycle;
        let now = api.clock.now();
        let tenants =
            tenants.into_iter().map(|t| TenantRun::new(t, &config.subscriptions, now)).collect();
        let room = MOST_NOTICES.saturating_sub(state.notices.len());
        let mut shared = Shared::new(tenants, &state.turns, config.max_connections, room);
        shared.part_twins();
        Self(Arc::new(Collector {
            run: RunContext {
                clock: Arc::clone(&api.clock),
                offset_was: state.clock_offset,
                lookback: config.lookback,
                hand_over,
            },
            deadline: begun + Duration::from_secs(config.run_timeout),
            config,
            state,
            output,
            shared: Mutex::new(shared),
            changed: Condvar::new(),
            large: Mutex::new(()),
            stopped: AtomicBool::new(false),
            api,
        }))
    }

    /// Collects what is new; ends early at `run_timeout`, at `max_output`, or on one of `signals`.
    /// A worker that hangs in a system call is left behind: it can neither write nor change what
    /// [`finish`](Collection::finish) gives.
    pub fn run(&self, mut signals: Signals) {
        let collector = Arc::clone(&self.0);
        let terminate = move || {
            if signals.forever().next().is_some() {
                collector.stop(&mut collector.lock(), Halt::Terminated);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(terminate)
        {
            log::warn!("SIGTERM will go unheard: no thread can be started: {error}");
        }
        let mut threads = 0;
        for n in 0..self.0.config.max_connections {
            let worker = std::thread::Builder::new().name(format!("worker-{n}"));
            let collector = Arc::clone(&self.0);
            if let Err(error) = worker.spawn(move || collector.work()) {
                log::warn!("only {n} of max_connections threads could be started: {error}");
                break;
            }
            threads += 1;
        }
        if threads == 0 {
            self.0.work();
        }
        self.0.watch();
    }

    /// What the run did, and the state that it leaves. To be called when nobody writes any more.
    #[must_use]
    pub fn finish(&self) -> Report {
        self.0.finish()
    }
}

struct Collector {
    config: Arc<Config>,
    api: Api,
    run: RunContext,
    state: State,
    output: Arc<Output>,
    deadline: Instant,
    shared: Mutex<Shared>,
    changed: Condvar,
    /// Held by whoever makes a line of a large record.
    large: Mutex<()>,
    /// Whoever is inside a blob stops behind the record at hand.
    stopped: AtomicBool,
}

/// What came of fetching a blob. `Queued` knows how far it got.
enum Fetched {
    Whole,
    /// The run ended inside it.
    Stopped,
    /// The run was over before it had got further than an earlier one.
    Late,
    /// It is not the blob that was begun: from its start, please.
    Restart,
    Trouble(Trouble),
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> &Clock {
        &self.run.clock
    }

    /// Waits until all is done. At the deadline tells everyone to stop; what still hangs a while
    /// later, or on SIGTERM at once, is broken off.
    fn watch(&self) {
        let mut grace_ends: Option<Instant> = None;
        let mut shared = self.lock();
        while shared.busy > 0 || !(shared.finished || shared.halt.is_some()) {
            if shared.halt == Some(Halt::Terminated) {
                break;
            }
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
                break;
            }
        }
        if shared.busy > 0 {
            self.api.http.shut_down();
            drop(self.changed.wait_timeout_while(shared, BROKEN_OFF, |shared| shared.busy > 0));
        }
    }

    /// No further job, and those inside a blob stop behind the record at hand.
    fn stop(&self, shared: &mut Shared, why: Halt) {
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
    fn next_job(&self) -> Option<Job> {
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
            if let Some(job) = shared.take_job(&self.run, !full) {
                return Some(job);
            }
            if full && shared.stepping == 0 && shared.has_queued() {
                shared.halt(Halt::Output);
                self.changed.notify_all();
                return None;
            }
            let latest = self.deadline.min(now + LONGEST_WAIT);
            let next = shared.next_time(now).filter(|at| *at < latest);
            if shared.busy == 0 && next.is_none() {
                shared.finished = true;
                self.changed.notify_all();
                return None;
            }
            let wait = next.unwrap_or(latest).saturating_duration_since(now);
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
                self.with_tenant(t, result, |tenant, result, now| match result {
                    Ok(enabled) => tenant.take_subscriptions(&enabled, now),
                    Err(trouble) => tenant.subscriptions_failed(trouble, &access, now),
                });
            }
            Step::Start(access, content_type) => {
                let result = self.api.start(&access, content_type);
                self.with_tenant(t, result, |tenant, result, now| {
                    tenant.take_start(content_type, result, &access, now);
                });
            }
            Step::List(page) => self.list(t, page),
        }
    }

    /// Takes in what came of a tenant's step; nothing where it was broken off by SIGTERM.
    fn after_step<T>(
        &self,
        t: usize,
        result: Result<T, Trouble>,
        take: impl FnOnce(&mut Shared, Result<T, Trouble>, Timestamp),
    ) {
        let now = self.clock().now();
        let mut shared = self.lock();
        let broken_off = result.is_err() && shared.halt == Some(Halt::Terminated);
        if let Some(tenant) = shared.tenants.get_mut(t) {
            tenant.step_ended();
        }
        if !broken_off {
            take(&mut shared, result, now);
        }
    }

    /// As [`after_step`](Self::after_step), where it concerns that tenant only.
    fn with_tenant<T>(
        &self,
        t: usize,
        result: Result<T, Trouble>,
        take: impl FnOnce(&mut TenantRun, Result<T, Trouble>, Timestamp),
    ) {
        self.after_step(t, result, |shared, result, now| {
            if let Some(tenant) = shared.tenants.get_mut(t) {
                take(tenant, result, now);
            }
        });
    }

    fn sign_in(&self, t: usize) {
        let found =
            self.lock().tenants.get(t).map(|t| (Arc::clone(&t.config), t.credentials.clone()));
        let Some((config, credentials)) = found else {
            return;
        };
        let result = credentials.map_err(Trouble::refused).and_then(|credentials| {
            let grant = self.api.sign_in(&config, &credentials)?;
            let access = Access::new(&config, grant.token.clone(), grant.claims.tid.as_deref())?;
            Ok((grant, access))
        });
        self.after_step(t, result, |shared, result, now| {
            let twin = result.as_ref().ok().and_then(|(_, access)| shared.twin(t, &access.guid));
            let Some(tenant) = shared.tenants.get_mut(t) else {
                return;
            };
            match (result, twin) {
                (Err(trouble), _) => tenant.sign_in_failed(trouble),
                (Ok(_), Some(twin)) => tenant.is_twin_of(&twin),
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
            }
        });
    }

    fn list(&self, t: usize, page: ListPage) {
        let ListPage { stream: s, content_type, access, window, link } = page;
        let result = match &link {
            None => self.api.list(&access, content_type, &window),
            Some(link) => self.api.next_page(&access, link),
        };
        self.with_tenant(t, result, |tenant, result, now| {
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

    /// Fetches a blob and writes its events, from where an earlier try left off.
    fn fetch(&self, fetch: &mut Fetch) -> Fetched {
        let mut records = match self.api.fetch(&fetch.access, &fetch.queued.blob.uri) {
            Ok(records) => records,
            Err(trouble) => return Fetched::Trouble(trouble),
        };
        let skip = fetch.queued.blob.written;
        let (mut index, mut late) = (0, false);
        let mut batch = Batch::new(
            &fetch.tenant_id,
            fetch.content_type,
            &fetch.queued.blob.id,
            &self.config.events,
        );
        let end = loop {
            if self.stopped.load(Ordering::Relaxed) && !late {
                // In time's last seconds, one that has not got further than an earlier run goes on
                // until it is broken off.
                let begun = skip > 0 && fetch.queued.blob.written == skip;
                late = begun && Instant::now() >= self.deadline;
                if !late {
                    break Fetched::Stopped;
                }
            }
            let take = |text: &[u8]| {
                let is_new = index >= skip;
                is_new.then(|| batch.add_first(text, index + 1)).flatten()
            };
            let element = match records.next_or_take(take) {
                Ok(Some(element)) => element,
                Ok(None) if index < skip => return Fetched::Restart,
                Ok(None) => break Fetched::Whole,
                Err(_) if late => break Fetched::Late,
                Err(error) => break Fetched::Trouble(self.split_trouble(error, &fetch.access)),
            };
            index += 1;
            if index > skip {
                // Repairs take a multiple of a large record's memory: one at a time.
                let large = element.is_large().then(|| self.large.lock());
                batch.add(&element, index);
                drop(large);
            } else if index == skip && batch.id_of(&element) != fetch.queued.blob.last_id {
                return Fetched::Restart;
            }
            if batch.is_full() && !self.write(&mut batch, fetch) {
                return Fetched::Stopped;
            }
        };
        batch.end();
        if let Fetched::Whole = end {
            batch.count_excluded();
        }
        let written = self.write(&mut batch, fetch);
        match end {
            Fetched::Late if fetch.queued.blob.written > skip => Fetched::Stopped,
            end if written => end,
            _ => Fetched::Stopped,
        }
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
    fn write(&self, batch: &mut Batch<'_>, fetch: &mut Fetch) -> bool {
        if batch.is_empty() {
            return true;
        }
        // Held until the state knows of it: a run that ends meanwhile repeats nothing.
        let mut turn = self.output.turn();
        let why = match turn.events(batch.lines()) {
            Ok(Written::All) => {
                let (now, mark) = (self.clock().now(), batch.mark());
                let hand_over = self.run.hand_over && !batch.lines().is_empty();
                if let Some(stream) = self.lock().stream_mut(fetch.stream) {
                    stream.wrote(fetch.queued.key, mark.clone(), hand_over);
                    stream.count(fetch.queued.key, batch.counts());
                    batch.gaps().for_each(|gap| stream.state.gap(gap, now));
                }
                fetch.queued.blob.advance(mark);
                batch.clear();
                return true;
            }
            Ok(Written::Full) => Halt::Output,
            Err(error) => Halt::WriteFailed(error.to_string()),
        };
        // Before anybody else may write, or end the run.
        self.stop(&mut self.lock(), why);
        drop(turn);
        false
    }

    /// Takes in what came of a fetch: delivered, to be tried again, put aside, or lost.
    fn take_fetched(&self, fetch: Fetch, mut fetched: Fetched) {
        let Fetch { stream: (t, s), tenant_id, content_type, access, mut queued } = fetch;
        let now = self.clock().now();
        // By the API's clock or by this machine's, should one of them be late.
        let latest = now.max(local_now());
        let mut shared = self.lock();
        if shared.halt == Some(Halt::Terminated) && matches!(fetched, Fetched::Trouble(_)) {
            // Broken off.
            fetched = Fetched::Stopped;
        }
        if let Some(stream) = shared.stream_mut((t, s)) {
            stream.came_back(&queued);
        }
        let trouble = match fetched {
            Fetched::Whole => {
                let Some(tenant) = shared.tenants.get_mut(t) else {
                    return;
                };
                tenant.went_well();
                if let Some(stream) = tenant.streams.get_mut(s) {
                    stream.blobs += 1;
                    stream.done_with(&queued, latest);
                }
                return;
            }
            Fetched::Trouble(trouble) => trouble,
            Fetched::Stopped | Fetched::Late | Fetched::Restart => {
                if let (Fetched::Late, Some(Halt::Time)) = (&fetched, &shared.halt)
                    && let Some(stream) = shared.stream_mut((t, s))
                {
                    let why = Failure::of(format!(
                        "content {} is so large, or comes so slowly, that a run has hardly time to \
                         get to where the last one stopped: raise run_timeout, and <timeout> of the \
                         wodle block with it, or lower max_connections if the line is busy",
                        excerpt(&queued.blob.id)
                    ));
                    return stream.park(queued.blob, now, why);
                }
                if let Fetched::Restart = fetched {
                    log::warn!(
                        "{tenant_id} {content_type}: content {} is not what it was when it was \
                         begun: it is written again from its start",
                        excerpt(&queued.blob.id)
                    );
                    queued.blob.written = 0;
                    queued.blob.last_id = None;
                }
                if let Some(stream) = shared.stream_mut((t, s)) {
                    stream.requeue(queued, true);
                }
                return;
            }
        };
        let gone = match trouble.reaction {
            Reaction::Expired => true,
            Reaction::Missing => queued.blob.missing,
            _ => self.clock().seen() && now > queued.blob.expires,
        };
        // What can't be told yet keeps waiting.
        let gone = gone && shared.room_for_notices > 0;
        shared.room_for_notices -= usize::from(gone);
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        match tenant.streams.get_mut(s).filter(|_| gone) {
            Some(stream) => {
                let expired = if now > queued.blob.expires { "has expired" } else { "is gone" };
                let text = format!(
                    "content that became available at {} {expired}: {}",
                    queued.blob.created, trouble.text
                );
                let gap = stream.notice(Kind::Gap, text).code(trouble.code.clone());
                let created = queued.blob.created;
                stream.gap(gap.window(created, created).content(&queued.blob.id), now);
                stream.done_with(&queued, latest);
            }
            None => tenant.fetch_failed(s, queued, trouble, &access, now),
        }
    }

    fn finish(&self) -> Report {
        let now = self.clock().now();
        let clock = self.run.reading();
        let mut shared = self.lock();
        let mut report =
            Report { turns: shared.turns(), halt: shared.halt.clone(), ..Report::default() };
        let tenants = std::mem::take(&mut shared.tenants);
        drop(shared);
        let mut outcomes = Vec::new();
        for mut tenant in tenants {
            let outcome = tenant.finish(report.halt == Some(Halt::Terminated));
            let failed = !matches!(outcome, Outcome::Succeeded | Outcome::Open);
            let mut of_tenant = BTreeMap::from([(None, outcome)]);
            report.failed |= failed;
            for mut stream in std::mem::take(&mut tenant.streams) {
                let outcome = stream.finish(clock, &self.run);
                let served = report.halt.is_none() || stream.served;
                let judged = !failed && served && clock.is_some();
                if let Some(lag) = judged.then(|| stream.state.behind(now)).flatten() {
                    report.notices.push(stream.notice(Kind::Behind, behind(lag)));
                }
                // A tenant's failure silences its streams'.
                if !failed {
                    if let Outcome::Failed(failure) = &outcome {
                        log::error!("{} {}: {}", tenant.name(), stream.content_type, failure.text);
                        report.failed = true;
                    }
                    of_tenant.insert(Some(stream.content_type), outcome);
                }
                stream.tell_counts();
                report.events += stream.counts.events;
                report.blobs += stream.blobs;
                report.lag = report.lag.max(stream.state.lag(now));
                report.notices.append(&mut stream.notices);
                tenant.state.streams.insert(stream.content_type, stream.state);
            }
            outcomes.push(of_tenant);
            tenant.save_pause(now);
            report.tenants.push(TenantEnd {
                tenant_id: tenant.config.tenant_id.clone(),
                state: tenant.state,
                token: tenant.kept,
                misconfigured: tenant.credentials.err(),
            });
        }
        let mut parts = Vec::new();
        for (tenant, mut outcomes) in std::iter::zip(&mut report.tenants, outcomes) {
            let tenant_id = tenant.tenant_id.as_str();
            let state = &mut tenant.state;
            let streams = state.streams.iter_mut().map(|(name, s)| (Some(*name), &mut s.health));
            for (content_type, health) in [(None, &mut state.health)].into_iter().chain(streams) {
                let outcome = outcomes.remove(&content_type).unwrap_or_default();
                parts.push(Part { tenant_id, content_type, health, outcome });
            }
        }
        let notices = judge(&mut parts, now);
        report.notices.extend(notices);
        report
    }
}

/// What is told of a stream that falls behind.
fn behind(lag: i64) -> String {
    format!(
        "it is {} behind and falls further behind; Microsoft keeps content for 7 days only, what \
         gets older is lost. If it fails, mend that first (see HOME/logs/wodle-office365.log). If \
         there is too much of it, let Wazuh take more: of a wodle it sends wazuh_modules.max_eps \
         events a second (100 unless etc/local_internal_options.conf says more, at most 1000); \
         raise that, then max_output, and restart Wazuh",
        age(lag)
    )
}
