//! A tenant's part in a run: what its next request is. What an answer means for it is `answers`' matter.

mod answers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::answers::failure;
pub use self::answers::is_twin;
use super::stream::{StreamRun, Tries};
use crate::api::{Access, Trouble};
use crate::auth::{Credentials, RENEW_BEFORE};
use crate::clock::Clock;
use crate::config::{self, is_guid};
use crate::content::ContentType;
use crate::health::{Failure, Outcome};
use crate::secret::Secret;
use crate::state::{ClockReading, Pause, SUBSCRIPTION_PAUSE, Tenant, Window};
use crate::timestamp::Timestamp;
use crate::tokens::KeptToken;

/// A request of a walk that takes longer than this gets company.
const SLOW: Duration = Duration::from_secs(1);

/// So many requests of a walk may be in flight as long as the API has given no answer in the run, and
/// when so many listings have waited in vain, the others don't.
const MOST_UNHEARD: usize = 2;

/// The longest `Retry-After` that is obeyed to the letter, in seconds: no run lasts longer.
const MOST_WAIT: u64 = 86_400;

/// A tenant at the start of a run.
#[derive(Debug)]
pub struct TenantStart {
    /// The configuration.
    pub config: Arc<config::Tenant>,
    /// What it signs in with, or why there is nothing.
    pub credentials: Result<Credentials, String>,
    /// The token of an earlier run that is still good.
    pub token: Option<KeptToken>,
    /// Its state, which has a stream for each configured content type.
    pub state: Tenant,
    /// Whether one of its streams is of this run: its subscription may have to be started.
    pub has_new_stream: bool,
}

pub(super) struct TenantRun {
    pub(super) config: Arc<config::Tenant>,
    pub(super) credentials: Result<Credentials, String>,
    pub(super) state: Tenant,
    pub(super) streams: Vec<StreamRun>,
    /// The streams in the order in which they are listed: the one that is furthest behind first, those
    /// that failed the last time behind the others.
    order: Vec<usize>,
    pub(super) access: Option<Arc<Access>>,
    pub(super) kept: Option<KeptToken>,
    /// What must not be shown of an answer: all that this run has signed in with, and got for it.
    pub(super) secrets: Vec<Secret>,
    /// When the token is to be renewed, in time before its end.
    renew_at: Option<Instant>,
    /// Whether the token is of this run, and whether it took the place of one that was refused.
    signed_in: bool,
    renewed: bool,
    /// Requests of its walk that are in flight, and when the last one was sent.
    stepping: usize,
    stepped_at: Option<Instant>,
    /// Its last run failed: it may hang, so it gets no more than its share of the connections.
    pub(super) is_suspect: bool,
    /// Blobs of it that are being fetched.
    pub(super) fetching: usize,
    /// Tries of the walk's request at hand, where it is no listing.
    tries: Tries,
    /// The API asked it to slow down until then.
    paused_until: Option<Instant>,
    pauses: u32,
    /// The subscriptions are to be listed in any case, due or not.
    list_subscriptions: bool,
    /// This run has listed them, or tried to in vain.
    subscriptions_listed: bool,
    to_start: Vec<ContentType>,
    /// What the last request of the walk ran into; it may still go well.
    trouble: Option<Failure>,
    failed: Option<Failure>,
    /// Whether the API, or the login host, has given an answer of use; and the API by itself.
    has_worked: bool,
    pub(super) api_answers: bool,
    /// Listings that took too long before the API had given any answer.
    slow_listings: usize,
}

/// A request of a tenant's walk.
pub(super) enum Step {
    SignIn,
    ListSubscriptions(Arc<Access>, Patience),
    Start(Arc<Access>, ContentType),
    List(ListPage),
}

/// One page to be listed.
pub(super) struct ListPage {
    pub(super) stream: usize,
    pub(super) content_type: ContentType,
    pub(super) access: Arc<Access>,
    pub(super) window: Window,
    /// None: the window's first page.
    pub(super) link: Option<String>,
    pub(super) patience: Patience,
}

/// How long the beginning of an answer is awaited: none, as long as any.
pub(super) type Patience = Option<Duration>;

/// The patience with a tenant that nobody has heard of in this run, while others wait for a connection.
/// Whom that doesn't suffice gets all the time there is, but no longer a connection that others need.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// What all tenants share in a run.
pub(super) struct RunContext {
    pub(super) clock: Arc<Clock>,
    /// The clock's offset as the state was saved with it.
    pub(super) offset_was: i64,
    /// `lookback` in seconds.
    pub(super) lookback: i64,
    /// Whether what is written may get lost on its way through a modulesd.
    pub(super) hand_over: bool,
    /// Whether there are more tenants than connections, so that one that hangs is in others' way.
    pub(super) crowded: bool,
    /// After this no more is begun of backfills.
    pub(super) past_until: Option<Instant>,
}

impl RunContext {
    /// What is known of the time, if the API has told it in this run.
    pub(super) fn reading(&self) -> Option<ClockReading> {
        let offset = self.clock.offset();
        let change = offset.saturating_sub(self.offset_was);
        self.clock.seen().then(|| ClockReading { now: self.clock.now(), offset, change })
    }
}

impl TenantRun {
    pub(super) fn new(start: TenantStart, content_types: &[ContentType], now: Timestamp) -> Self {
        // Without its credentials a tenant does nothing, though its token may still be good.
        let kept = start.token.filter(|_| start.credentials.is_ok());
        let mut secrets: Vec<_> =
            start.credentials.iter().filter_map(Credentials::secret).cloned().collect();
        let access = kept.as_ref().and_then(|kept| {
            let (token, tid) = (kept.token.clone(), kept.tid.as_deref());
            Access::new(&start.config, token, tid, secrets.clone()).ok().map(Arc::new)
        });
        secrets.extend(kept.iter().map(|kept| kept.token.clone()));
        let mut run = Self {
            config: start.config,
            credentials: start.credentials,
            state: Tenant::default(),
            streams: Vec::new(),
            order: Vec::new(),
            renew_at: kept.as_ref().and_then(|kept| renewal(kept.expires.since(now))),
            access,
            kept,
            secrets,
            signed_in: false,
            renewed: false,
            stepping: 0,
            stepped_at: None,
            is_suspect: false,
            fetching: 0,
            tries: Tries::default(),
            paused_until: None,
            pauses: 0,
            list_subscriptions: start.has_new_stream,
            subscriptions_listed: false,
            to_start: Vec::new(),
            trouble: None,
            failed: None,
            has_worked: false,
            api_answers: false,
            slow_listings: 0,
        };
        run.take_state(start.state, content_types, now);
        run
    }

    /// Begins with a state.
    pub(super) fn take_state(
        &mut self,
        mut state: Tenant,
        content_types: &[ContentType],
        now: Timestamp,
    ) {
        // Each meets its live stream as the last run has left that.
        for backfill in &mut state.backfills {
            if let Some(live) = state.streams.get(&backfill.content_type) {
                backfill.join(live);
            }
        }
        // A stream that is no longer configured keeps its place in the state.
        self.streams = content_types
            .iter()
            .filter_map(|name| {
                let stream = state.streams.remove(name)?;
                Some(StreamRun::new(&self.config, *name, stream, now))
            })
            .collect();
        self.order = (0..self.streams.len()).collect();
        self.take_backfills(&state, content_types, now);
        self.order.sort_by_key(|s| {
            let stream = self.streams.get(*s).map(|stream| &stream.state);
            stream.map(|state| (state.health.last_error.is_some(), state.position))
        });
        // A run in which the first ones hung may have got to no other.
        let failures = usize::try_from(state.health.failures).unwrap_or_default();
        let others_first = (failures * MOST_UNHEARD).checked_rem(self.order.len());
        self.order.rotate_left(others_first.unwrap_or_default());
        self.is_suspect = state.health.last_error.is_some()
            || self.live().any(|stream| stream.state.health.last_error.is_some());
        // The pause that an earlier run was asked for.
        let left = state.pause.take().and_then(|pause| pause.left(now));
        let left = left.map(|seconds| Duration::from_secs(u64::from(seconds).min(MOST_WAIT)));
        self.paused_until = left.and_then(|left| Instant::now().checked_add(left));
        self.state = state;
    }

    /// Begins with the backfills that are not over; of those that are not listed to their ends, with one
    /// of each content type.
    fn take_backfills(&mut self, state: &Tenant, content_types: &[ContentType], now: Timestamp) {
        let mut listing = Vec::new();
        for (index, backfill) in state.backfills.iter().enumerate() {
            let name = backfill.content_type;
            let waits = !backfill.is_listed() && listing.contains(&name);
            if !content_types.contains(&name) || backfill.is_over() || waits {
                continue;
            }
            if !backfill.is_listed() {
                listing.push(name);
            }
            let has_live = self.live().any(|stream| stream.content_type == name);
            let backfill = (index, backfill.clone());
            self.streams.push(StreamRun::of_the_past(&self.config, backfill, has_live, now));
        }
    }

    /// The streams that are no backfills.
    pub(super) fn live(&self) -> impl Iterator<Item = &StreamRun> {
        self.streams.iter().filter(|stream| stream.is_live())
    }

    /// Goes on with what is known of this tenant by its GUID. Nothing has been listed yet.
    pub(super) fn take_over(
        &mut self,
        known: &Tenant,
        content_types: &[ContentType],
        now: Timestamp,
    ) {
        let mut state = known.clone();
        state.backfills.append(&mut self.state.backfills);
        for stream in self.streams.drain(..).filter(StreamRun::is_live) {
            state.streams.entry(stream.content_type).or_insert(stream.state);
        }
        self.take_state(state, content_types, now);
    }

    /// Whether this is the tenant with that GUID, as far as is known.
    pub(super) fn has_guid(&self, guid: &str) -> bool {
        let is = |known: &str| known.eq_ignore_ascii_case(guid);
        is(&self.config.tenant_id) || self.access.as_ref().is_some_and(|access| is(&access.guid))
    }

    /// Judges the run as far as the tenant as a whole is concerned. `terminated`: by SIGTERM, so that
    /// a pause says nothing.
    pub(super) fn finish(&mut self, terminated: bool) -> Outcome {
        if let Some(access) = self.access.as_ref().filter(|_| !is_guid(&self.config.tenant_id)) {
            self.state.guid = Some(access.guid.to_ascii_lowercase());
        }
        // What was still being tried when the time was over.
        let mut failed = self.failed.take().or_else(|| self.trouble.take());
        if failed.is_none() && self.stepping > 0 && !self.has_worked && !terminated {
            failed = Some(Failure::of(
                "a request had no answer yet when the run's time was over (run_timeout)",
            ));
        }
        let paused = !terminated && !self.is_due(Instant::now());
        if failed.is_none() && paused && self.has_work() {
            let left =
                self.paused_until.map(|until| until.saturating_duration_since(Instant::now()));
            failed = Some(Failure::of(format!(
                "the API asked to slow down, for {} more seconds: a later run goes on; if this \
                 lasts, see whether other programs use the same tenant's quota",
                left.unwrap_or_default().as_secs()
            )));
        }
        match failed {
            Some(failure) => {
                log::error!("{}: {}", self.name(), failure.text);
                if self.credentials.is_err() {
                    return Outcome::Misconfigured(failure.text);
                }
                Outcome::Failed(failure)
            }
            None if self.has_worked => Outcome::Succeeded,
            None => Outcome::Open,
        }
    }

    /// Keeps a pause that outlasts the run.
    pub(super) fn save_pause(&mut self, now: Timestamp) {
        let left = self.paused_until.and_then(|until| until.checked_duration_since(Instant::now()));
        let seconds = left.and_then(|left| u32::try_from(left.as_secs()).ok());
        self.state.pause = seconds.filter(|s| *s > 0).map(|seconds| Pause { since: now, seconds });
    }

    pub(super) fn name(&self) -> &str {
        &self.config.tenant_id
    }

    /// Whether requests may be sent for it now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.failed.is_none() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// The next request of the walk, if one may be sent at `now`.
    pub(super) fn next_step(
        &mut self,
        run: &RunContext,
        may_list: bool,
        now: Instant,
    ) -> Option<Step> {
        if !self.is_due(now)
            || !self.tries.is_due(now)
            || self.is_walk_full()
            || self.next_turn().is_some_and(|at| at > now)
        {
            return None;
        }
        let step = self.due_step(run, may_list, now)?;
        self.stepping += 1;
        self.stepped_at = Some(now);
        Some(step)
    }

    /// When a request of the walk may be sent beside one that is in flight: one after the other
    /// needs one connection only, but one that hangs is to hold up no other stream.
    fn next_turn(&self) -> Option<Instant> {
        self.stepped_at.filter(|_| self.stepping > 0).map(|at| at + SLOW)
    }

    /// Whether as many requests of the walk are in flight as may be.
    fn is_walk_full(&self) -> bool {
        !self.api_answers && self.stepping >= MOST_UNHEARD
    }

    /// A request of the walk has been dealt with.
    pub(super) fn step_ended(&mut self) {
        self.stepping = self.stepping.saturating_sub(1);
        // What is in flight still has been so for long.
        self.stepped_at = None;
    }

    fn due_step(&mut self, run: &RunContext, may_list: bool, now: Instant) -> Option<Step> {
        // Beside another request only a listing may be sent.
        let alone = self.stepping == 0;
        if self.renew_at.is_some_and(|at| at <= now) {
            self.access = None;
        }
        let Some(access) = self.access.clone() else {
            return alone.then_some(Step::SignIn);
        };
        if self.subscriptions_are_due(run.clock.now()) {
            return alone.then(|| Step::ListSubscriptions(access, self.patience(run)));
        }
        if alone && let Some(content_type) = self.to_start.pop() {
            return Some(Step::Start(access, content_type));
        }
        if !may_list {
            return None;
        }
        self.list_first_of(&self.order.clone(), &access, run, now)
    }

    /// The next page of the first of these streams that may be listed.
    fn list_first_of(
        &mut self,
        streams: &[usize],
        access: &Arc<Access>,
        run: &RunContext,
        now: Instant,
    ) -> Option<Step> {
        let patience = self.patience(run);
        for &s in streams {
            let Some(stream) = self.streams.get_mut(s).filter(|stream| stream.may_list(now)) else {
                continue;
            };
            let page = stream.next_page(run.reading(), run.clock.now(), run);
            if let Some((window, link)) = page {
                let (content_type, access) = (stream.content_type, Arc::clone(access));
                let page = ListPage { stream: s, content_type, access, window, link, patience };
                return Some(Step::List(page));
            }
        }
        None
    }

    /// The next page of a backfill, if one may be listed at `now`: when nothing else is to be done for
    /// the tenant.
    pub(super) fn next_of_the_past(&mut self, run: &RunContext, now: Instant) -> Option<Step> {
        let has_past = self.streams.iter().any(|stream| !stream.is_live());
        if !has_past || !self.is_due(now) || self.stepping > 0 || self.has_work() {
            return None;
        }
        let access = self.access.clone()?;
        let starts: Vec<_> =
            self.live().filter_map(|live| Some((live.content_type, live.start()?))).collect();
        for stream in self.streams.iter_mut().filter(|stream| stream.waits_for_live()) {
            let start = starts.iter().find(|(name, _)| *name == stream.content_type);
            start.into_iter().for_each(|(_, start)| stream.join_at(*start));
        }
        let is_past = |s: &usize| self.streams.get(*s).is_some_and(|stream| !stream.is_live());
        let past: Vec<_> = (0..self.streams.len()).filter(is_past).collect();
        let step = self.list_first_of(&past, &access, run, now)?;
        self.stepping += 1;
        self.stepped_at = Some(now);
        Some(step)
    }

    fn patience(&self, run: &RunContext) -> Patience {
        let first = run.crowded && !self.is_suspect && !self.api_answers;
        first.then_some(FIRST_PATIENCE)
    }

    /// The patience with it is over: it goes on as one that may hang, and has failed unless it is heard
    /// of yet. `s`: the stream whose listing it was; none, where it was that of the subscriptions.
    pub(super) fn put_aside(&mut self, s: Option<usize>, trouble: &Trouble) {
        let what = match s.and_then(|s| self.streams.get_mut(s)) {
            Some(stream) => {
                stream.in_flight = false;
                "content can't be listed"
            }
            None => "its subscriptions can't be listed",
        };
        self.is_suspect = true;
        self.trouble = Some(failure(what, trouble));
    }

    fn subscriptions_are_due(&self, now: Timestamp) -> bool {
        let due = |at: Timestamp| !(0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        let due = self.state.subscriptions_listed.is_none_or(due);
        !self.subscriptions_listed && (due || self.list_subscriptions)
    }

    /// Whether anything is left to be done for it, now or later, backfills aside.
    pub(super) fn has_work(&self) -> bool {
        self.has_steps() || (self.failed.is_none() && self.live().any(StreamRun::has_work))
    }

    /// Whether anything is left to be done for its backfills.
    pub(super) fn has_past_work(&self) -> bool {
        self.streams.iter().any(|stream| !stream.is_live() && stream.has_work())
    }

    /// Whether requests of its walk are left to be sent, now or later: blobs may come of them.
    pub(super) fn has_steps(&self) -> bool {
        self.failed.is_none()
            && (self.access.is_none()
                || !self.to_start.is_empty()
                || self.live().any(|stream| stream.is_listing() && stream.has_work()))
    }

    /// Whether anything is left to be done for a stream of it besides `s`.
    pub(super) fn has_work_beside(&self, s: usize) -> bool {
        let mut streams = self.streams.iter().enumerate();
        streams.any(|(other, stream)| other != s && stream.is_live() && stream.has_work())
    }

    /// The next point in time, after `now`, at which something of it becomes due.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        if self.failed.is_some() {
            return None;
        }
        if !self.is_due(now) {
            return self.paused_until.filter(|_| self.has_work() || self.has_past_work());
        }
        let streams = self.streams.iter().filter_map(|stream| stream.next_time(now));
        let turn = self.next_turn().filter(|at| *at > now);
        streams.chain(self.tries.due_after(now)).chain(turn).min()
    }
}

/// When to renew a token that lasts for `lifetime` seconds. One that hardly lasts is used until it
/// is refused.
fn renewal(lifetime: i64) -> Option<Instant> {
    let seconds = u64::try_from(lifetime - RENEW_BEFORE).ok().filter(|seconds| *seconds > 0)?;
    Instant::now().checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
impl RunContext {
    /// A run's, for tests.
    pub(super) fn of(clock: &Arc<Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            offset_was: 0,
            lookback: 3600,
            hand_over: false,
            crowded: false,
            past_until: None,
        }
    }
}

/// A tenant for tests.
#[cfg(test)]
pub(super) fn configured() -> Arc<config::Tenant> {
    Arc::new(config::Tenant {
        tenant_id: "a0000000-0000-4000-8000-000000000001".to_owned(),
        client_id: "c".to_owned(),
        credential: config::Credential::Secret(Secret::new("s")),
        login: "https://login.example".to_owned(),
        management: "https://manage.example".to_owned(),
    })
}

/// A tenant with a token, whose streams are so many seconds behind, for tests.
#[cfg(test)]
pub(super) fn with_streams(positions: &[(ContentType, i64)]) -> TenantRun {
    tests::tenant(&configured(), positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Reaction;
    use crate::state::Stream;

    pub(super) fn tenant(
        config: &Arc<config::Tenant>,
        positions: &[(ContentType, i64)],
    ) -> TenantRun {
        let now = Timestamp::from_unix(1_800_000_000);
        let mut state = Tenant::default();
        for (content_type, ago) in positions {
            state.streams.insert(*content_type, Stream::first(true, None, now.plus(-ago)));
        }
        let token = KeptToken { token: Secret::new("t"), tid: None, expires: now.plus(3600) };
        let secret = Credentials::ClientSecret(Secret::new("s"));
        let (credentials, token, has_new_stream) = (Ok(secret), Some(token), true);
        let config = Arc::clone(config);
        let start = TenantStart { config, credentials, token, state, has_new_stream };
        let names: Vec<_> = positions.iter().map(|(name, _)| *name).collect();
        TenantRun::new(start, &names, now)
    }

    pub(super) fn trouble(reaction: Reaction, retry_after: Option<u64>) -> Trouble {
        Trouble { reaction, text: "t".to_owned(), code: None, retry_after }
    }

    #[test]
    fn the_stream_that_is_furthest_behind_is_listed_first() {
        let config = configured();
        let run = tenant(
            &config,
            &[(ContentType::General, 5), (ContentType::Dlp, 50), (ContentType::Exchange, 20)],
        );
        assert_eq!(run.order, [1, 2, 0]);
    }

    #[test]
    fn streams_that_hang_keep_the_others_waiting_no_longer_than_one_run() {
        let config = configured();
        let streams = [ContentType::General, ContentType::Dlp, ContentType::Exchange];
        let now = Timestamp::from_unix(1_800_000_000);
        let order = |failures: u32, failed: Option<ContentType>| {
            let mut run = tenant(&config, &[(streams[0], 50), (streams[1], 20), (streams[2], 5)]);
            let mut state = Tenant::default();
            state.health.failures = failures;
            for stream in run.streams.drain(..) {
                let mut kept = stream.state;
                let is_failed = failed == Some(stream.content_type);
                kept.health.last_error = is_failed.then(|| "it hung".to_owned());
                state.streams.insert(stream.content_type, kept);
            }
            run.take_state(state, &streams, now);
            run.order
        };
        assert_eq!(order(0, None), [0, 1, 2]);
        // One that hung is the last the next time; where none got an answer, others begin.
        assert_eq!(order(0, Some(streams[0])), [1, 2, 0]);
        assert_eq!(order(1, None), [2, 0, 1]);
        assert_eq!(order(2, None), [1, 2, 0]);
    }

    #[test]
    fn whoever_is_not_heard_of_soon_while_others_wait_goes_on_as_one_that_may_hang() {
        use crate::clock::Clock;
        let config = configured();
        let clock = Arc::new(Clock::new(0));
        let context = |crowded| RunContext { crowded, ..RunContext::of(&clock) };
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        assert_eq!(run.patience(&context(false)), None);
        assert_eq!(run.patience(&context(true)), Some(FIRST_PATIENCE));
        run.streams[0].in_flight = true;
        run.put_aside(Some(0), &trouble(Reaction::Slow, None));
        assert!(run.is_suspect && run.failed.is_none() && !run.streams[0].in_flight);
        assert_eq!(run.patience(&context(true)), None, "then it gets all the time there is");
        assert!(matches!(run.finish(false), Outcome::Failed(_)), "unless it is heard of");
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        run.put_aside(None, &trouble(Reaction::Slow, None));
        run.went_well();
        assert_eq!(run.finish(false), Outcome::Succeeded);
    }
}
