//! One poll cycle's work: threads that sign in, list and fetch side by side, and what they learn
//! on the way.
//!
//! A job is taken under the lock, done by a worker without it, and what came of it is taken in under
//! the lock again; who works is the matter of `workers`, which job is next that of `jobs`. There are
//! two kinds. A *step* is one request of a tenant's walk (sign in, list the subscriptions, start one,
//! list a page); a tenant takes one step at a time, so an idle tenant needs one connection only. A
//! *fetch* is one content blob. While there are both, each has half of the connections; steps take
//! turns between tenants, fetches between streams. A job that is to be tried again goes back with the
//! time before which it is not to be taken: no worker ever sleeps on one job while another could be
//! done.

mod batch;
mod fetch;
mod jobs;
#[cfg(test)]
mod model;
mod pages;
mod skipped;
mod stream;
mod tenant;
mod workers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::iterator::Signals;

use self::jobs::Shared;
use self::stream::StreamRun;
use self::tenant::{ListPage, RunContext, Step, TenantRun};
pub use self::tenant::{TenantStart, is_twin};
use crate::api::{Api, Trouble};
use crate::auth::Credentials;
use crate::clock::Clock;
use crate::config::Config;
use crate::content::{ContentType, Reaction};
use crate::event::Kinds;
use crate::health::{Outcome, Part, judge};
use crate::notice::{Kind, Notice};
use crate::output::Output;
use crate::state::{Backfill, MAX_STATE, MOST_NOTICES, Room, State, Tally, Tenant, Turns};
use crate::store::Folder;
use crate::timestamp::{Timestamp, age};
use crate::tokens::KeptToken;

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
    /// What is known of the kinds of paths.
    pub kinds: Kinds,
    /// Where that is saved; nowhere in a run of which nothing is saved.
    pub folder: Option<Folder>,
    /// Whether what is written is handed over to a modulesd, and may get lost there.
    pub hand_over: bool,
    /// When the run was begun.
    pub begun: Instant,
    /// How long it may go on.
    pub limits: Limits,
}

/// How long a run may go on, and how much it may write.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After this nothing new is begun.
    pub run: Duration,
    /// After this no more is begun of backfills: Wazuh sends nobody's events before the run has ended.
    pub past: Duration,
    /// What comes due later than this from now is the next run's.
    pub wait: Duration,
    /// Once so many bytes are written no new blob is begun.
    pub output: u64,
    /// The state is to be no larger, in bytes; none where it is not saved.
    pub state: Option<usize>,
}

impl Limits {
    /// Those of one poll among many.
    #[must_use]
    pub fn of_a_poll(config: &Config) -> Self {
        Self {
            run: Duration::from_secs(config.run_timeout),
            past: Duration::from_secs(60),
            wait: Duration::from_secs(10),
            output: config.max_output,
            state: Some(MAX_STATE),
        }
    }

    /// Those of a run that is to do all there is to be done, for no other one comes.
    #[must_use]
    pub fn of_an_only_run() -> Self {
        let week = Duration::from_secs(7 * 86_400);
        Self {
            run: week,
            past: week,
            wait: Duration::from_secs(3600),
            output: u64::MAX,
            state: None,
        }
    }
}

/// How far a run's backfills are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The share that is listed, of all of them together: 0 to 1.
    pub listed: f64,
    /// Blobs written to their end.
    pub blobs: u64,
    /// Blobs listed and not written to their end yet.
    pub left: u64,
    /// Events written.
    pub events: u64,
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
    /// The state has no room for more blobs that are handed over.
    State,
    /// SIGTERM.
    Terminated,
    /// A write failed: nothing of the run may be saved.
    WriteFailed(String),
    /// Not one thread can be started: nothing was done.
    NoThread(String),
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
        let Cycle { config, api, output, state, tenants, kinds, folder, hand_over, begun, limits } =
            cycle;
        let now = api.clock.now();
        let in_state = |most| Room::of(most, &state, tenants.iter().map(|t| &t.state));
        let room_in_state = limits.state.map_or(Room::ENDLESS, in_state);
        let tenants: Vec<_> =
            tenants.into_iter().map(|t| TenantRun::new(t, &config.subscriptions, now)).collect();
        let crowded = tenants.len() > config.max_connections;
        // Those that were handed over are kept as well until that is proven.
        let notices = state.notices.len() + state.handover.notices.len();
        let room = MOST_NOTICES.saturating_sub(notices);
        let mut shared = Shared::new(tenants, &state.turns, config.max_connections, room);
        shared.room = room_in_state;
        shared.part_twins();
        Self(Arc::new(Collector {
            run: RunContext {
                clock: Arc::clone(&api.clock),
                offset_was: state.clock_offset,
                lookback: config.lookback,
                hand_over,
                crowded,
                past_until: begun.checked_add(limits.past),
            },
            deadline: begun + limits.run,
            limits,
            config,
            state,
            output,
            kinds,
            folder,
            saving_kinds: Mutex::new(()),
            kinds_lost: AtomicBool::new(false),
            shared: Mutex::new(shared),
            for_workers: Condvar::new(),
            for_main: Condvar::new(),
            stopped: AtomicBool::new(false),
            api,
        }))
    }

    /// Collects what is new; ends early at `run_timeout`, at `max_output`, or on one of `signals`.
    /// A worker that hangs in a system call is left behind: it can neither write nor change what
    /// [`finish`](Collection::finish) gives.
    pub fn run(&self, signals: Signals) {
        self.0.run_until_done(signals);
        self.0.save_kinds(true);
    }

    /// How far the backfills are.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let shared = self.0.lock();
        let mut progress = Progress::default();
        let mut count = 0_u32;
        let streams = shared.tenants.iter().flat_map(|tenant| &tenant.streams);
        for stream in streams.filter(|stream| !stream.is_live()) {
            count += 1;
            progress.listed += stream.listed();
            progress.blobs += stream.blobs;
            progress.left += (stream.queued() + stream.fetching()) as u64;
            progress.events += stream.counts.events;
        }
        progress.listed /= f64::from(count.max(1));
        progress
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
    kinds: Kinds,
    folder: Option<Folder>,
    /// Held while they are saved, and whether that failed the last time.
    saving_kinds: Mutex<()>,
    kinds_lost: AtomicBool,
    deadline: Instant,
    limits: Limits,
    shared: Mutex<Shared>,
    /// There is a job for a worker, or there will be none any more.
    for_workers: Condvar,
    /// There is something for the main thread to look after.
    for_main: Condvar,
    /// Whoever is inside a blob stops behind the record at hand.
    stopped: AtomicBool,
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> &Clock {
        &self.run.clock
    }

    /// Saves what was learned of the kinds of paths, if anything was since the last time. `durable`: for
    /// the end of the machine as well.
    fn save_kinds(&self, durable: bool) {
        let Some(folder) = &self.folder else {
            return;
        };
        // A worker that was left behind may be saving: it saves the same.
        let Ok(_saving) = self.saving_kinds.try_lock() else {
            return;
        };
        let save = |bytes: &[u8]| folder.save_kinds(bytes, durable);
        let saved = self.kinds.save(self.clock().now(), save);
        let was_lost = self.kinds_lost.swap(saved.is_err(), Ordering::Relaxed);
        if let Err(error) = saved
            && !was_lost
        {
            log::error!(
                "which kind of value each field holds can't be saved in {}: {error}. A later run may \
                 give a field another kind, and Wazuh's indexer then rejects events silently: check \
                 room and rights of that folder",
                folder.path().display()
            );
        }
    }

    /// Sends one request of a tenant's walk, and takes in what came of it.
    fn step(&self, t: usize, step: Step) {
        match step {
            Step::SignIn => self.sign_in(t),
            Step::ListSubscriptions(access, patience) => {
                let result = self.api.subscriptions(&access, patience);
                self.with_tenant(t, result, |tenant, result, now| match result {
                    Ok(list) => tenant.take_subscriptions(&list, now),
                    Err(trouble) if patience.is_some() && trouble.reaction == Reaction::Slow => {
                        tenant.put_aside(None, &trouble);
                    }
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
        let of = |t: &TenantRun| (Arc::clone(&t.config), t.credentials.clone(), t.secrets.clone());
        let Some((config, credentials, secrets)) = self.lock().tenants.get(t).map(of) else {
            return;
        };
        let result = credentials.map_err(Trouble::refused).and_then(|credentials| {
            let signed_in = self.api.sign_in(&config, &credentials, secrets)?;
            if let Credentials::Certificate(certificate) = &credentials
                && let Some(text) = certificate.near_end(self.clock().now())
            {
                log::warn!("{}: {text}", config.tenant_id);
            }
            Ok(signed_in)
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
        let ListPage { stream: s, content_type, access, window, link, patience } = page;
        let result = match &link {
            None => self.api.list(&access, content_type, &window, patience),
            Some(link) => self.api.next_page(&access, link),
        };
        self.with_tenant(t, result, |tenant, result, now| {
            let taken = result.and_then(|(page, _share)| {
                tenant.went_well();
                let stream = tenant.streams.get_mut(s);
                let taken = stream.map(|stream| stream.take_page(page, window, now));
                taken.unwrap_or(Ok(())).map_err(Trouble::refused)
            });
            match taken {
                Ok(()) => {}
                Err(trouble) if patience.is_some() && trouble.reaction == Reaction::Slow => {
                    tenant.put_aside(Some(s), &trouble);
                }
                Err(trouble) => tenant.list_failed(s, trouble, &access, now),
            }
        });
    }

    fn finish(&self) -> Report {
        let now = self.clock().now();
        let clock = self.run.reading();
        let mut shared = self.lock();
        let mut report =
            Report { turns: shared.turns(), halt: shared.halt.clone(), ..Report::default() };
        report.failed = self.kinds_lost.load(Ordering::Relaxed);
        let tenants = std::mem::take(&mut shared.tenants);
        let mut room_for_notices = shared.room_for_notices;
        let mut room = shared.room;
        let mut streams: usize = tenants.iter().map(|tenant| tenant.streams.len()).sum();
        if report.halt == Some(Halt::State) && !shared.has_begun {
            log::error!(
                "no content is fetched: the state has no room for more, because it is full of events and \
                 notices that were handed over to Wazuh and that nothing has proven to be sent. Nothing is \
                 lost. If the socket queue/sockets/queue is missing, restart Wazuh; else the next runs go on"
            );
            report.failed = true;
        }
        drop(shared);
        let mut outcomes = Vec::new();
        for mut tenant in tenants {
            let outcome = tenant.finish(report.halt == Some(Halt::Terminated));
            let failed = !matches!(outcome, Outcome::Succeeded | Outcome::Open);
            let mut of_tenant = BTreeMap::from([(Whose::Tenant, outcome)]);
            report.failed |= failed;
            for mut stream in std::mem::take(&mut tenant.streams) {
                let part = room.part(streams);
                let (outcome, taken) = stream.finish(clock, &self.run, part);
                room.take(taken.min(part));
                streams -= 1;
                let served = report.halt.is_none() || stream.served;
                let judged = !failed && served && clock.is_some() && stream.is_live();
                let listed = outcome == Outcome::Succeeded;
                if let Some(lag) = judged.then(|| stream.state.behind(now)).flatten() {
                    report.notices.push(stream.notice(Kind::Behind, behind(lag)));
                }
                // A tenant's failure silences its streams'.
                if !failed {
                    if let Outcome::Failed(failure) = &outcome {
                        log::error!("{} {}: {}", tenant.name(), stream.label(), failure.text);
                        report.failed = true;
                    }
                    of_tenant.insert(Whose::of(&stream), outcome);
                }
                stream.tell_counts();
                stream.tell_all_skipped(&mut room_for_notices, &mut room, now);
                report.events += stream.counts.events;
                report.blobs += stream.blobs;
                report.notices.append(&mut stream.notices);
                if stream.is_live() {
                    report.lag = report.lag.max(stream.state.lag(now));
                    tenant.state.streams.insert(stream.content_type, stream.state);
                } else if let Some((index, mut backfill)) = stream.into_backfill() {
                    if listed {
                        backfill.listed(now, self.run.lookback);
                    }
                    tell_if_over(&tenant.config.tenant_id, &backfill);
                    if let Some(known) = tenant.state.backfills.get_mut(index) {
                        *known = backfill;
                    }
                }
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
            let live = state.streams.iter_mut();
            let live =
                live.map(|(name, s)| (Whose::Stream(*name), Some(*name), None, &mut s.health));
            let past = state.backfills.iter_mut().enumerate().map(|(index, backfill)| {
                let (name, backfilled) = (backfill.content_type, Some(backfill.name()));
                (Whose::Backfill(index), Some(name), backfilled, &mut backfill.stream.health)
            });
            let tenant = [(Whose::Tenant, None, None, &mut state.health)].into_iter();
            for (whose, content_type, backfill, health) in tenant.chain(live).chain(past) {
                let outcome = outcomes.remove(&whose).unwrap_or_default();
                parts.push(Part { tenant_id, content_type, backfill, health, outcome });
            }
        }
        let notices = judge(&mut parts, now);
        report.notices.extend(notices);
        report
    }
}

/// Whose an outcome is, in a tenant.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Tenant,
    Stream(ContentType),
    Backfill(usize),
}

impl Whose {
    fn of(stream: &StreamRun) -> Self {
        let live = Self::Stream(stream.content_type);
        stream.past.as_ref().map_or(live, |past| Self::Backfill(past.index))
    }
}

/// Says in the log that a backfill has been written to its end.
fn tell_if_over(tenant_id: &str, backfill: &Backfill) {
    if backfill.is_over() {
        let Tally { events, blobs } = backfill.stream.in_all;
        log::info!(
            "{tenant_id} {}: the {} is done: {events} events from {blobs} blobs",
            backfill.content_type,
            backfill.name()
        );
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
