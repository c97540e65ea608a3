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

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::{Access, Api, Page, Trouble, shown};
use crate::auth::{Claims, Credentials, RENEW_BEFORE};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::content::{ContentType, Reaction};
use crate::event::{Gap, Unusable, append_line};
use crate::output::{Output, Written};
use crate::records::{Element, SplitError};
use crate::secret::Secret;
use crate::state::{
    MOST_WAITING, SUBSCRIPTION_PAUSE, State, Stream, Tenant, Waiting, Window, edge_margin,
    fingerprint,
};
use crate::timestamp::{Timestamp, age};

/// Lines are gathered up to this many bytes before they are written.
const BATCH: usize = 64 << 10;

/// A stream with so many blobs queued lists no further page.
const MOST_QUEUED: usize = 1000;

/// Nor does any stream when all of them together have so many.
const MOST_QUEUED_IN_ALL: usize = 10_000;

/// One request is sent this often at most in a run.
const MOST_TRIES: u32 = 5;

/// The longest pause that we choose ourselves for a tenant that is asked to slow down.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long requests in flight may take when the run's time is over.
const GRACE: Duration = Duration::from_secs(10);

/// A tenant at the start of a run: its configuration, its credentials or why there are none, and
/// the token that is still good.
#[derive(Debug)]
pub struct TenantStart<'a> {
    /// The configuration.
    pub config: &'a config::Tenant,
    /// What it signs in with.
    pub credentials: Result<Credentials, String>,
    /// The kept token.
    pub token: Option<KeptToken>,
    /// Its state, which has a stream for each configured content type.
    pub state: Tenant,
}

/// A token that outlives the run.
#[derive(Clone, Debug)]
pub struct KeptToken {
    /// The bearer token.
    pub token: Secret,
    /// The tenant that it names.
    pub tid: Option<String>,
    /// When it ends.
    pub expires: Timestamp,
}

impl KeptToken {
    /// Whether it can still be used at `now`.
    #[must_use]
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.expires.since(now) > RENEW_BEFORE
    }
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
    /// Workers that are at a job.
    busy: usize,
    /// Nothing is left to be done in this run.
    finished: bool,
    /// No further job is taken.
    halt: Option<Halt>,
}

struct TenantRun<'a> {
    config: &'a config::Tenant,
    credentials: Result<Credentials, String>,
    state: Tenant,
    streams: Vec<StreamRun>,
    access: Option<Arc<Access>>,
    kept: Option<KeptToken>,
    renewed: bool,
    stepping: bool,
    tries: Tries,
    pauses: u32,
    /// Not listed yet in this run, and to be listed.
    list_subscriptions: bool,
    subscriptions_listed: bool,
    to_start: Vec<ContentType>,
    /// What the last request of the walk ran into; it may still go well.
    trouble: Option<String>,
    failed: Option<String>,
}

struct StreamRun {
    content_type: ContentType,
    state: Stream,
    walk: Walk,
    tries: Tries,
    clamps: u32,
    queue: VecDeque<Queued>,
    /// Blobs of which this run has had enough.
    parked: Vec<Waiting>,
    /// Fingerprints of all that is queued, parked or in flight.
    known: HashSet<u64>,
    listed_to: Option<Timestamp>,
    clock_corrected: bool,
    blobs: u64,
    /// What its last listing ran into; it may still go well.
    trouble: Option<String>,
    failed: Option<String>,
}

/// How far a stream's listing is.
#[derive(Clone, Debug)]
enum Walk {
    /// Content from here on is to be listed.
    From(Timestamp),
    /// A window is being listed: at its first page, or at that of a link.
    In(Window, Option<String>),
    Done,
    Failed,
}

/// How often something was tried, and when it may be tried again.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    made: u32,
    not_before: Option<Instant>,
}

impl Tries {
    fn is_due(self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Counts one more; false when it was the last. The next comes after 0.5, 1, 2, 4 s.
    fn again(&mut self) -> bool {
        self.made += 1;
        let wait = Duration::from_millis(250) * (1 << self.made.min(5));
        self.not_before = Some(Instant::now() + wait);
        self.made < MOST_TRIES
    }
}

#[derive(Clone, Debug)]
struct Queued {
    blob: Waiting,
    tries: Tries,
    /// A blob that waited from an earlier run gets one try in this one.
    waited: bool,
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

enum Step {
    SignIn,
    ListSubscriptions(Arc<Access>),
    Start(Arc<Access>, ContentType),
    List(Arc<Access>, usize, Window, Option<String>),
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

impl<'a> TenantRun<'a> {
    fn new(start: TenantStart<'a>, content_types: &[ContentType], now: Timestamp) -> Self {
        let mut state = start.state;
        // A stream that is no longer configured keeps its place in the state.
        let streams: Vec<_> = content_types
            .iter()
            .filter_map(|name| Some(StreamRun::new(*name, state.streams.remove(name)?, now)))
            .collect();
        let access = start.token.as_ref().and_then(|kept| {
            Access::new(start.config, kept.token.clone(), kept.tid.as_deref()).ok().map(Arc::new)
        });
        let due = |at: Timestamp| !(0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        Self {
            config: start.config,
            credentials: start.credentials,
            list_subscriptions: state.subscriptions_listed.is_none_or(due)
                || streams.iter().any(|stream| stream.state.origin.is_some()),
            state,
            streams,
            access,
            kept: start.token,
            renewed: false,
            stepping: false,
            tries: Tries::default(),
            pauses: 0,
            subscriptions_listed: false,
            to_start: Vec::new(),
            trouble: None,
            failed: None,
        }
    }

    fn name(&self) -> &str {
        &self.config.tenant_id
    }

    /// The next request of the walk, if one may be sent now.
    fn next_step(&mut self, clock: &Clock, lookback: i64, clock_was: i64) -> Option<Step> {
        let now = Instant::now();
        if self.stepping || !self.is_due(now) {
            return None;
        }
        let Some(access) = &self.access else {
            return Some(Step::SignIn);
        };
        let access = Arc::clone(access);
        if self.list_subscriptions {
            return Some(Step::ListSubscriptions(access));
        }
        if let Some(content_type) = self.to_start.pop() {
            return Some(Step::Start(access, content_type));
        }
        for (s, stream) in self.streams.iter_mut().enumerate() {
            if stream.queue.len() >= MOST_QUEUED
                || stream.parked.len() >= MOST_WAITING
                || !stream.tries.is_due(now)
            {
                continue;
            }
            if let Some((window, link)) = stream.next_page(clock, lookback, clock_was) {
                return Some(Step::List(access, s, window, link));
            }
        }
        None
    }

    /// Pauses the tenant: as long as the server says, else 1 to 60 s, doubling.
    fn pause(&mut self, retry_after: Option<u64>) {
        self.pauses += 1;
        let own = Duration::from_secs(1 << self.pauses.min(7).saturating_sub(1)).min(LONGEST_PAUSE);
        // Those who were turned away together should not come back together.
        let jitter = ring::rand::generate::<[u8; 1]>(&ring::rand::SystemRandom::new())
            .map_or(0, |byte| u32::from(byte.expose()[0]));
        let wait = retry_after.map_or(own, Duration::from_secs) + own * jitter / 1024;
        log::info!("{}: asked to slow down; pausing {:.1} s", self.name(), wait.as_secs_f32());
        self.tries.not_before = Instant::now().checked_add(wait);
    }

    /// Drops the token that was not accepted, so that the next step signs in; false where that has
    /// been tried already.
    fn renew(&mut self, access: &Arc<Access>) -> bool {
        match &self.access {
            // Another worker has done it meanwhile.
            Some(current) if !Arc::ptr_eq(current, access) => true,
            None => true,
            Some(_) if self.renewed => false,
            Some(_) => {
                self.renewed = true;
                self.access = None;
                self.kept = None;
                true
            }
        }
    }

    /// Whether requests may be sent for it now.
    fn is_due(&self, now: Instant) -> bool {
        self.failed.is_none() && self.tries.is_due(now)
    }

    /// Whether anything is left that only waits for its time.
    fn has_work(&self) -> bool {
        self.access.is_none()
            || self.list_subscriptions
            || !self.to_start.is_empty()
            || self.streams.iter().any(|stream| {
                !stream.queue.is_empty() || matches!(stream.walk, Walk::From(_) | Walk::In(..))
            })
    }

    fn signed_in(&mut self, access: Access, kept: KeptToken, claims: &Claims) {
        let content_types: Vec<_> = self.streams.iter().map(|s| s.content_type).collect();
        let missing = claims.missing_roles(&content_types);
        if missing.is_empty() {
            self.kept = Some(kept);
        } else {
            // Not kept, so that consent is noticed at once.
            log::warn!(
                "{}: the token lacks {}: in the Entra admin center, under App registrations > your \
                 application > API permissions, add it as an application permission of Office 365 \
                 Management APIs, then choose Grant admin consent",
                self.name(),
                missing.join(" and ")
            );
        }
        if self.config.tenant_id != access.guid {
            self.state.guid = Some(access.guid.to_ascii_lowercase());
        }
        self.access = Some(Arc::new(access));
        self.tries = Tries::default();
        self.trouble = None;
    }

    fn sign_in_failed(&mut self, trouble: Trouble) {
        let text = format!("sign-in failed: {}", trouble.text);
        let again = trouble.reaction == Reaction::Retry && self.tries.again();
        if again {
            if trouble.retry_after.is_some() {
                self.pause(trouble.retry_after);
            }
            self.trouble = Some(text);
        } else {
            self.failed = Some(text);
        }
    }

    fn take_subscriptions(&mut self, enabled: &[ContentType], now: Timestamp) {
        self.list_subscriptions = false;
        self.subscriptions_listed = true;
        self.state.subscriptions_listed = Some(now);
        self.tries = Tries::default();
        self.trouble = None;
        for stream in &self.streams {
            if enabled.contains(&stream.content_type) {
                continue;
            }
            if stream.start_is_allowed(now) {
                self.to_start.push(stream.content_type);
            } else {
                log::info!(
                    "{} {}: its subscription is not on yet; it was started less than 15 minutes ago",
                    self.config.tenant_id,
                    stream.content_type
                );
            }
        }
        // Taken from the end.
        self.to_start.reverse();
    }

    fn subscriptions_failed(&mut self, trouble: Trouble, access: &Arc<Access>) {
        let text = format!("its subscriptions can't be listed: {}", trouble.text);
        let again = match trouble.reaction {
            Reaction::Pause => {
                let again = self.tries.again();
                self.pause(trouble.retry_after);
                again
            }
            Reaction::Renew => self.renew(access),
            Reaction::Refused => false,
            _ if self.tries.again() => true,
            _ => {
                // Listing content will tell whether the subscriptions are there.
                log::warn!("{}: {text}", self.name());
                self.list_subscriptions = false;
                self.tries = Tries::default();
                true
            }
        };
        if again {
            self.trouble = Some(text);
        } else {
            self.failed = Some(text);
        }
    }

    fn take_start(
        &mut self,
        content_type: ContentType,
        result: Result<(), Trouble>,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
        let name = self.config.tenant_id.as_str();
        let Some(stream) = self.streams.iter_mut().find(|s| s.content_type == content_type) else {
            return;
        };
        let trouble = match result {
            Ok(()) => {
                log::info!(
                    "{name} {content_type}: subscription started; Microsoft may take up to 12 hours to hand out its first content"
                );
                stream.state.start_requested = Some(now);
                stream.tries = Tries::default();
                return;
            }
            Err(trouble) => trouble,
        };
        let text = format!("its subscription can't be started: {}", trouble.text);
        let retry = match trouble.reaction {
            Reaction::Retry | Reaction::Pause => stream.tries.again(),
            _ => false,
        };
        let wait = stream.tries.not_before;
        let again = match trouble.reaction {
            Reaction::Pause if retry => {
                self.pause(trouble.retry_after);
                true
            }
            Reaction::Renew => self.renew(access),
            _ => {
                if retry {
                    self.tries.not_before = wait;
                }
                retry
            }
        };
        if again {
            self.to_start.push(content_type);
        } else if let Some(stream) =
            self.streams.iter_mut().find(|s| s.content_type == content_type)
        {
            stream.state.start_requested = Some(now);
            stream.fail(text);
        }
    }

    fn list_failed(&mut self, s: usize, trouble: Trouble, access: &Arc<Access>, now: Timestamp) {
        let text = format!("content can't be listed: {}", trouble.text);
        if trouble.reaction == Reaction::Pause {
            self.pause(trouble.retry_after);
        }
        let renewed = trouble.reaction == Reaction::Renew && self.renew(access);
        let listed = self.subscriptions_listed;
        let Some(stream) = self.streams.get_mut(s) else {
            return;
        };
        let Walk::In(window, _) = stream.walk.clone() else {
            return;
        };
        let again = match trouble.reaction {
            Reaction::Retry | Reaction::Pause => stream.tries.again(),
            Reaction::Renew => renewed,
            Reaction::ListAgain => {
                stream.walk = Walk::In(window, None);
                stream.tries.again()
            }
            Reaction::Clamp => {
                // Computed anew, further inside the 7 days.
                stream.walk = Walk::From(window.from);
                stream.clamps += 1;
                stream.clamps < 3
            }
            Reaction::Subscribe if !listed => {
                self.list_subscriptions = true;
                true
            }
            Reaction::Subscribe if !stream.start_is_allowed(now) => {
                // Started a moment ago: Microsoft takes a while until it shows.
                log::info!("{} {}: {text}", self.config.tenant_id, stream.content_type);
                stream.walk = Walk::Failed;
                return;
            }
            _ => false,
        };
        if again {
            stream.trouble = Some(text);
        } else {
            stream.fail(text);
        }
    }

    /// Puts a blob back whose turn will come again.
    fn requeue(&mut self, s: usize, queued: Queued) {
        if let Some(stream) = self.streams.get_mut(s) {
            stream.queue.push_front(queued);
        }
    }

    fn fetch_failed(
        &mut self,
        s: usize,
        mut queued: Queued,
        trouble: Trouble,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
        let again = match trouble.reaction {
            Reaction::Retry => !queued.waited && queued.tries.again(),
            Reaction::Pause => {
                self.pause(trouble.retry_after);
                queued.tries.again()
            }
            Reaction::Renew => self.renew(access),
            _ => false,
        };
        queued.blob.missing |= trouble.reaction == Reaction::Missing;
        let name = self.config.tenant_id.as_str();
        let Some(stream) = self.streams.get_mut(s) else {
            return;
        };
        let id = shown(&queued.blob.id);
        if again {
            log::debug!("{name} {}: content {id}: {}", stream.content_type, trouble.text);
            stream.queue.push_back(queued);
        } else {
            let text = format!("content {id} can't be fetched: {}", trouble.text);
            stream.park(queued.blob, now, text);
        }
    }
}

impl StreamRun {
    fn new(content_type: ContentType, mut state: Stream, now: Timestamp) -> Self {
        let waiting = std::mem::take(&mut state.waiting);
        let known = waiting.iter().map(|blob| fingerprint(&blob.id)).collect();
        let (due, parked): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|b| b.is_due(now));
        let queued = |blob: Waiting| {
            let waited = blob.failed_runs > 0;
            Queued { blob, tries: Tries::default(), waited }
        };
        Self {
            content_type,
            walk: Walk::From(state.position),
            state,
            tries: Tries::default(),
            clamps: 0,
            queue: due.into_iter().map(queued).collect(),
            parked,
            known,
            listed_to: None,
            clock_corrected: false,
            blobs: 0,
            trouble: None,
            failed: None,
        }
    }

    /// What to list next; none when the stream is listed to its end.
    fn next_page(
        &mut self,
        clock: &Clock,
        lookback: i64,
        clock_was: i64,
    ) -> Option<(Window, Option<String>)> {
        if !self.clock_corrected {
            self.correct_clock(clock, clock_was);
            self.walk = Walk::From(self.state.listing_start(lookback));
        }
        match &self.walk {
            Walk::In(window, link) => Some((*window, link.clone())),
            Walk::From(from) => {
                let margin = edge_margin(self.clamps);
                match self.state.window(*from, clock.now(), margin) {
                    Some(window) => {
                        self.walk = Walk::In(window, None);
                        Some((window, None))
                    }
                    None => {
                        self.walk = Walk::Done;
                        None
                    }
                }
            }
            Walk::Done | Walk::Failed => None,
        }
    }

    fn correct_clock(&mut self, clock: &Clock, clock_was: i64) {
        if !self.clock_corrected && clock.seen() {
            self.clock_corrected = true;
            self.state.correct_clock(clock.offset() - clock_was, clock.now());
        }
    }

    /// Takes in a page of a window: queues what is new on it.
    fn take_page(&mut self, page: Page, window: Window, now: Timestamp) {
        let at_edge = window.start == window.from;
        for blob in page.blobs {
            let fingerprint = fingerprint(&blob.id);
            // What is older was listed before, and may be partial in this listing.
            let old = !at_edge && blob.created.is_some_and(|created| created < window.from);
            if old || self.state.delivered.contains(fingerprint) || !self.known.insert(fingerprint)
            {
                continue;
            }
            let blob = Waiting::new(blob, window.from);
            self.queue.push_back(Queued { blob, tries: Tries::default(), waited: false });
        }
        self.tries = Tries::default();
        self.trouble = None;
        self.walk = match page.next {
            Some(link) => Walk::In(window, Some(link)),
            None => {
                self.listed_to = Some(window.end.min(now));
                Walk::From(window.end)
            }
        };
    }

    fn fail(&mut self, text: String) {
        self.walk = Walk::Failed;
        self.failed = Some(text);
    }

    /// Puts a blob aside that failed in this run.
    fn park(&mut self, mut blob: Waiting, now: Timestamp, why: String) {
        blob.failed_runs += 1;
        blob.last_try = Some(now);
        self.parked.push(blob);
        self.failed.get_or_insert(why);
    }

    fn delivered(&mut self, blob: &Waiting, now: Timestamp) {
        self.blobs += 1;
        // A time in the future would be remembered for ever.
        self.state.delivered.insert(fingerprint(&blob.id), blob.created.min(now));
    }

    fn start_is_allowed(&self, now: Timestamp) -> bool {
        let pausing = |at: Timestamp| (0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        !self.state.start_requested.is_some_and(pausing)
    }

    /// Brings the stream's state to its end of the run; true when it failed.
    fn finish(&mut self, tenant: &TenantRun<'_>, lookback: i64, now: Timestamp) -> bool {
        let mut left: Vec<_> = std::mem::take(&mut self.parked);
        left.extend(self.queue.drain(..).map(|queued| queued.blob));
        let failing = left.iter().filter(|blob| blob.failed_runs > 0).count();
        self.state.finish(self.listed_to, left, lookback);
        if tenant.failed.is_some() {
            return false;
        }
        let unfinished = matches!(self.walk, Walk::From(_) | Walk::In(..));
        if self.failed.is_none() && unfinished {
            self.failed = self.trouble.take();
        }
        if self.failed.is_none() && failing > 0 {
            self.failed = Some(format!("{failing} content blobs could not be fetched yet"));
        }
        if let Some(why) = &self.failed {
            log::error!("{} {}: {why}", tenant.name(), self.content_type);
            self.state.failures = self.state.failures.saturating_add(1);
        } else if !unfinished {
            self.state.failures = 0;
            self.state.last_success = Some(now);
        }
        if self.failed.is_some() || !unfinished {
            self.state.last_error.clone_from(&self.failed);
        }
        self.failed.is_some()
    }
}

/// Lines of one blob, gathered for one write.
struct Batch<'a> {
    tenant_id: &'a str,
    content_type: ContentType,
    lines: Vec<u8>,
    events: u64,
    /// The last element that has an `Id`: its number, and where in `lines` its `Id` stands.
    mark: Option<(u64, Range<usize>)>,
}

impl<'a> Batch<'a> {
    fn new(tenant_id: &'a str, content_type: ContentType) -> Self {
        Self { tenant_id, content_type, lines: Vec::new(), events: 0, mark: None }
    }

    /// Adds the line of the `index`-th element; one that can't be an event becomes a gap notice.
    fn add(&mut self, element: &Element<'_>, index: u64, content_id: &str) {
        let why = match element {
            Element::Record(record) => {
                match append_line(record, self.content_type, &mut self.lines) {
                    Ok(id) => {
                        self.events += 1;
                        if let Some(id) = id {
                            self.mark = Some((index, id));
                        }
                        return;
                    }
                    Err(Unusable::NoObject) => "is no JSON object".to_owned(),
                    Err(Unusable::Malformed(at)) => format!("is no valid JSON (at its byte {at})"),
                }
            }
            Element::TooLarge(size) => format!("has {size} bytes, more than are taken"),
        };
        let gap = Gap {
            reason: format!("record {index} of content {} {why}", shown(content_id)),
            code: None,
            window: None,
            content_id: Some(content_id.to_owned()),
        };
        log::error!("{} {}: an event is lost: {}", self.tenant_id, self.content_type, gap.reason);
        self.lines.extend_from_slice(&gap.line(self.tenant_id, self.content_type));
    }

    /// The `Id` of an element, as it would be marked.
    fn id_of(&self, element: &Element<'_>) -> Option<String> {
        let Element::Record(record) = element else {
            return None;
        };
        let mut line = Vec::new();
        let id = append_line(record, self.content_type, &mut line).ok()??;
        line.get(id).map(|id| String::from_utf8_lossy(id).into_owned())
    }

    /// How far the blob is written with this batch: the number of elements and the last's `Id`.
    fn mark(&self) -> Option<(u64, String)> {
        let (index, id) = self.mark.clone()?;
        let id = self.lines.get(id)?;
        Some((index, String::from_utf8_lossy(id).into_owned()))
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.events = 0;
        self.mark = None;
    }
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
            let next = shared.earliest().filter(|at| *at < self.deadline);
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
        if queued < MOST_QUEUED_IN_ALL {
            let first =
                shared.turns.get(shared.turn % shared.turns.len().max(1)).map_or(0, |t| t.0);
            let count = shared.tenants.len();
            for t in (first..count).chain(0..first) {
                let tenant = shared.tenants.get_mut(t)?;
                let step = tenant.next_step(self.clock, self.config.lookback, self.clock_was);
                if let Some(step) = step {
                    tenant.stepping = true;
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
            Step::List(access, s, window, link) => self.list(t, s, &access, window, link),
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

    fn list(&self, t: usize, s: usize, access: &Arc<Access>, window: Window, link: Option<String>) {
        let content_type = {
            let shared = self.lock();
            shared.stream(t, s).map(|stream| stream.content_type)
        };
        let Some(content_type) = content_type else {
            return;
        };
        let result = match &link {
            None => self.api.list(access, content_type, &window),
            Some(link) => self.api.next_page(access, link),
        };
        let now = self.clock.now();
        let mut lost = None;
        self.with_tenant(t, |tenant| match result {
            Ok(page) if page.next.is_some() && page.next == link => {
                tenant.list_failed(
                    s,
                    Trouble::refused("a page links to itself".to_owned()),
                    access,
                    now,
                );
            }
            Ok(page) => {
                if let Some(stream) = tenant.streams.get_mut(s) {
                    lost = stream.state.skip_lost(&window);
                    stream.take_page(page, window, now);
                }
                tenant.trouble = None;
            }
            Err(trouble) => tenant.list_failed(s, trouble, access, now),
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
            self.say(t, content_type, &gap);
        }
    }

    /// Says a gap: as a notice and in the log.
    fn say(&self, t: usize, content_type: ContentType, gap: &Gap) {
        let mut shared = self.lock();
        let tenant_id = shared.tenants.get(t).map_or("", |t| t.config.tenant_id.as_str());
        log::error!("{tenant_id} {content_type}: events are lost: {}", gap.reason);
        match self.output.notice(&gap.line(tenant_id, content_type)) {
            Ok(Written::All) => {}
            Ok(Written::Full) => self.stop(&mut shared, Halt::Output),
            Err(error) => self.stop(&mut shared, Halt::WriteFailed(error.to_string())),
        }
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
            if batch.lines.len() >= BATCH && !self.write(&mut batch, blob) {
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
        let Fetch { tenant: t, stream: s, content_type, access, mut queued, .. } = fetch;
        let now = self.clock.now();
        let mut shared = self.lock();
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        let trouble = match fetched {
            Fetched::Whole => {
                if let Some(stream) = tenant.streams.get_mut(s) {
                    stream.delivered(&queued.blob, now);
                }
                return;
            }
            Fetched::Stopped => return tenant.requeue(s, queued),
            Fetched::Restart => {
                log::warn!(
                    "{} {content_type}: content {} is not what it was when it was begun: it is \
                     written again from its start",
                    tenant.name(),
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
        self.say(t, content_type, &gap);
        if let Some(stream) = self.lock().tenants.get_mut(t).and_then(|t| t.streams.get_mut(s)) {
            stream.state.delivered.insert(fingerprint(&blob.id), blob.created.min(now));
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
            report.last_turn = shared.last_served.and_then(|(t, s)| {
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
            tenant.state.last_error.clone_from(&tenant.failed);
            for mut stream in std::mem::take(&mut tenant.streams) {
                stream.correct_clock(self.clock, self.clock_was);
                report.blobs += stream.blobs;
                let failed = stream.finish(&tenant, self.config.lookback, now);
                report.failed |= failed;
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
    fn stream(&self, t: usize, s: usize) -> Option<&StreamRun> {
        self.tenants.get(t)?.streams.get(s)
    }

    /// The next blob of the stream whose turn it is.
    fn take_fetch(&mut self) -> Option<Fetch<'a>> {
        let now = Instant::now();
        for _ in 0..self.turns.len() {
            self.turn = (self.turn + 1) % self.turns.len();
            let (t, s) = self.turns.get(self.turn).copied()?;
            let tenant = self.tenants.get_mut(t)?;
            let Some(access) = tenant.access.clone().filter(|_| tenant.is_due(now)) else {
                continue;
            };
            let stream = tenant.streams.get_mut(s)?;
            let due = stream.queue.iter().position(|queued| queued.tries.is_due(now));
            let Some(queued) = due.and_then(|at| stream.queue.remove(at)) else {
                continue;
            };
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
    fn earliest(&self) -> Option<Instant> {
        let waits = |tenant: &TenantRun<'_>| {
            let streams = tenant.streams.iter();
            let own = streams.flat_map(|stream| {
                let walk = matches!(stream.walk, Walk::From(_) | Walk::In(..));
                let walk = stream.tries.not_before.filter(|_| walk);
                stream.queue.iter().filter_map(|queued| queued.tries.not_before).chain(walk)
            });
            own.chain(tenant.tries.not_before.filter(|_| tenant.has_work())).min().map(|at| {
                // Nothing of a pausing tenant is due before its pause ends.
                tenant.tries.not_before.map_or(at, |pause| pause.max(at))
            })
        };
        self.tenants.iter().filter(|tenant| tenant.failed.is_none()).filter_map(waits).min()
    }
}
