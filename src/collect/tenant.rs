//! A tenant's part in a run: what its next request is, and what an answer means for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stream::{Queued, StreamRun, Tries, Walk};
use crate::api::{Access, Trouble, shown};
use crate::auth::{Claims, Credentials, RENEW_BEFORE};
use crate::clock::Clock;
use crate::config::{self, is_guid};
use crate::content::{ContentType, Reaction};
use crate::secret::Secret;
use crate::state::{SUBSCRIPTION_PAUSE, Tenant, Window};
use crate::timestamp::Timestamp;

/// The longest pause that we choose ourselves for a tenant that is asked to slow down.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is obeyed to the letter, in seconds: no run lasts longer.
const MOST_WAIT: u64 = 86_400;

/// So often a window is moved further inside the 7 days in one run.
const MOST_CLAMPS: u32 = 5;

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

pub(super) struct TenantRun<'a> {
    pub(super) config: &'a config::Tenant,
    pub(super) credentials: Result<Credentials, String>,
    pub(super) state: Tenant,
    pub(super) streams: Vec<StreamRun>,
    pub(super) access: Option<Arc<Access>>,
    pub(super) kept: Option<KeptToken>,
    pub(super) renewed: bool,
    pub(super) stepping: bool,
    pub(super) tries: Tries,
    pub(super) pauses: u32,
    /// Whether the subscriptions are to be listed in any case, due or not.
    pub(super) list_subscriptions: bool,
    /// Whether this run has listed them, or tried to in vain.
    pub(super) subscriptions_listed: bool,
    pub(super) to_start: Vec<ContentType>,
    /// What the last request of the walk ran into; it may still go well.
    pub(super) trouble: Option<String>,
    pub(super) failed: Option<String>,
}

/// A request of a tenant's walk.
pub(super) enum Step {
    SignIn,
    ListSubscriptions(Arc<Access>),
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
}

impl<'a> TenantRun<'a> {
    pub(super) fn new(
        start: TenantStart<'a>,
        content_types: &[ContentType],
        now: Timestamp,
    ) -> Self {
        let mut state = start.state;
        // A stream that is no longer configured keeps its place in the state.
        let streams: Vec<_> = content_types
            .iter()
            .filter_map(|name| Some(StreamRun::new(*name, state.streams.remove(name)?, now)))
            .collect();
        // Without its credentials a tenant does nothing, though its token may still be good.
        let kept = start.token.filter(|_| start.credentials.is_ok());
        let access = kept.as_ref().and_then(|kept| {
            Access::new(start.config, kept.token.clone(), kept.tid.as_deref()).ok().map(Arc::new)
        });
        Self {
            config: start.config,
            credentials: start.credentials,
            list_subscriptions: streams.iter().any(|stream| stream.state.is_new()),
            state,
            streams,
            access,
            kept,
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

    pub(super) fn name(&self) -> &str {
        &self.config.tenant_id
    }

    /// The next request of the walk, if one may be sent now.
    pub(super) fn next_step(
        &mut self,
        clock: &Clock,
        lookback: i64,
        clock_was: i64,
    ) -> Option<Step> {
        let now = Instant::now();
        if self.stepping || !self.is_due(now) {
            return None;
        }
        let Some(access) = &self.access else {
            return Some(Step::SignIn);
        };
        let access = Arc::clone(access);
        if self.subscriptions_are_due(clock.now()) {
            return Some(Step::ListSubscriptions(access));
        }
        if let Some(content_type) = self.to_start.pop() {
            return Some(Step::Start(access, content_type));
        }
        for (s, stream) in self.streams.iter_mut().enumerate() {
            if !stream.may_list(now) {
                continue;
            }
            if let Some((window, link)) = stream.next_page(clock, lookback, clock_was) {
                let content_type = stream.content_type;
                return Some(Step::List(ListPage {
                    stream: s,
                    content_type,
                    access,
                    window,
                    link,
                }));
            }
        }
        None
    }

    /// Pauses the tenant: as long as the server says, else 1 to 60 s, doubling.
    pub(super) fn pause(&mut self, retry_after: Option<u64>) {
        let now = Instant::now();
        // Several requests that are turned away at once are one reason to pause.
        if self.tries.is_due(now) {
            self.pauses += 1;
        }
        let own = Duration::from_secs(1 << self.pauses.clamp(1, 7).saturating_sub(1));
        let own = own.min(LONGEST_PAUSE);
        // Those who were turned away together should not come back together.
        let jitter = ring::rand::generate::<[u8; 1]>(&ring::rand::SystemRandom::new())
            .map_or(0, |byte| u32::from(byte.expose()[0]));
        let wait = retry_after.map_or(own, |seconds| Duration::from_secs(seconds.min(MOST_WAIT)));
        let wait = wait + own * jitter / 1024;
        log::info!("{}: asked to slow down; pausing {:.1} s", self.name(), wait.as_secs_f32());
        self.tries.not_before = self.tries.not_before.max(now.checked_add(wait));
    }

    /// Drops the token that was not accepted, so that the next step signs in; false where that has
    /// been tried already.
    pub(super) fn renew(&mut self, access: &Arc<Access>) -> bool {
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

    fn subscriptions_are_due(&self, now: Timestamp) -> bool {
        let due = |at: Timestamp| !(0..SUBSCRIPTION_PAUSE).contains(&now.since(at));
        let due = self.state.subscriptions_listed.is_none_or(due);
        !self.subscriptions_listed && (due || self.list_subscriptions)
    }

    /// Whether requests may be sent for it now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.failed.is_none() && self.tries.is_due(now)
    }

    /// The next point in time, after `now`, at which something of it becomes due.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        if self.failed.is_some() {
            return None;
        }
        if !self.is_due(now) {
            // Nothing is due before its pause ends.
            return self.tries.not_before;
        }
        self.streams.iter().filter_map(|stream| stream.next_time(now)).min()
    }

    pub(super) fn signed_in(&mut self, access: Access, kept: KeptToken, claims: &Claims) {
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
        if !is_guid(&self.config.tenant_id) {
            self.state.guid = Some(access.guid.to_ascii_lowercase());
        }
        self.access = Some(Arc::new(access));
        self.tries = Tries::default();
        self.trouble = None;
    }

    pub(super) fn sign_in_failed(&mut self, trouble: Trouble) {
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

    pub(super) fn take_subscriptions(&mut self, enabled: &[ContentType], now: Timestamp) {
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

    pub(super) fn subscriptions_failed(&mut self, trouble: Trouble, access: &Arc<Access>) {
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
                self.subscriptions_listed = true;
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

    pub(super) fn take_start(
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
        if trouble.text.contains("frequent subscription start") {
            // Somebody else has just started it; this one asks for patience, not for a pause.
            log::warn!("{name} {content_type}: {text}");
            stream.state.start_requested = Some(now);
            return;
        }
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
            // A request without the right to make it counts for nothing: consent helps at once.
            if trouble.reaction != Reaction::Renew {
                stream.state.start_requested = Some(now);
            }
            stream.fail(text);
        }
    }

    pub(super) fn list_failed(
        &mut self,
        s: usize,
        trouble: Trouble,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
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
                stream.clamps < MOST_CLAMPS
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
    pub(super) fn requeue(&mut self, s: usize, queued: Queued) {
        if let Some(stream) = self.streams.get_mut(s) {
            stream.queue.push_front(queued);
        }
    }

    pub(super) fn fetch_failed(
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
