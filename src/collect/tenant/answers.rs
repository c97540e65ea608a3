//! What an answer, or that none came, means for a tenant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{MOST_UNHEARD, MOST_WAIT, TenantRun, renewal};
use crate::api::{Access, LONGEST_PAUSE, Started, Trouble};
use crate::auth::Claims;
use crate::codes;
use crate::collect::stream::{Queued, StreamRun, Tries, Walk};
use crate::content::{ContentType, Reaction, Subscriptions};
use crate::health::Failure;
use crate::state::SUBSCRIPTION_PAUSE;
use crate::timestamp::Timestamp;
use crate::tokens::KeptToken;
use crate::words::excerpt;

impl TenantRun {
    /// Pauses the tenant: as long as the server says, else 1 to 60 s, doubling.
    fn pause(&mut self, now: Instant, retry_after: Option<Duration>) {
        // Several requests that are turned away at once are one reason to pause.
        if self.paused_until.is_none_or(|until| until <= now) {
            self.pauses += 1;
        }
        let own = Duration::from_secs(1 << self.pauses.clamp(1, 7).saturating_sub(1));
        let own = own.min(Duration::from_secs(LONGEST_PAUSE));
        // Those who were turned away together should not come back together.
        let jitter = ring::rand::generate::<[u8; 1]>(&ring::rand::SystemRandom::new())
            .map_or(0, |byte| u32::from(byte.expose()[0]));
        let wait = retry_after.unwrap_or(own) + own * jitter / 1024;
        log::info!("{}: asked to slow down; pausing {:.1} s", self.name(), wait.as_secs_f32());
        self.paused_until = self.paused_until.max(now.checked_add(wait));
    }

    /// Something went well: the next pause is a short one again.
    pub(in crate::collect) fn went_well(&mut self) {
        self.pauses = 0;
        self.has_worked = true;
        self.api_answers = true;
        self.trouble = None;
    }

    /// Drops a token that was not accepted, so that the next step signs in; false where that would
    /// not help.
    fn renew(&mut self, reaction: Reaction, access: &Arc<Access>) -> bool {
        let is_current = self.access.as_ref().is_some_and(|current| Arc::ptr_eq(current, access));
        if !is_current {
            // Another worker has dropped it meanwhile.
            return true;
        }
        // Consent that was given since an older token was issued; a new one has it or lacks it.
        let useless = self.renewed || (reaction != Reaction::Renew && self.signed_in);
        if useless {
            return false;
        }
        self.renewed = true;
        self.access = None;
        self.kept = None;
        true
    }

    pub(in crate::collect) fn signed_in(
        &mut self,
        access: Access,
        kept: KeptToken,
        claims: &Claims,
        lifetime: i64,
    ) {
        let content_types: Vec<_> = self.streams.iter().map(|s| s.content_type).collect();
        let missing = claims.missing_roles(&content_types);
        if missing.is_empty() {
            self.kept = Some(kept);
        } else {
            // Not kept, so that consent is noticed at once.
            let remedy = codes::explain("AF10001").map_or("", |explanation| explanation.remedy);
            log::warn!("{}: the token lacks {}: {remedy}", self.name(), missing.join(" and "));
        }
        self.renew_at = renewal(lifetime);
        self.secrets = access.secrets().to_vec();
        self.access = Some(Arc::new(access));
        self.signed_in = true;
        self.has_worked = true;
        self.step_went_well();
    }

    /// Another tenant is the same: this one is not collected.
    pub(in crate::collect) fn is_twin_of(&mut self, twin: &str) {
        (self.access, self.kept) = (None, None);
        self.sign_in_failed(Trouble::refused(is_twin(twin)));
    }

    fn step_went_well(&mut self) {
        self.tries = Tries::default();
        self.trouble = None;
    }

    pub(in crate::collect) fn sign_in_failed(&mut self, trouble: Trouble) {
        let failure = failure("sign-in failed", &trouble);
        let passing = matches!(trouble.reaction, Reaction::Retry | Reaction::Pause);
        let now = Instant::now();
        if passing && trouble.retry_after.is_some() {
            self.pause(now, wait(&trouble));
        }
        if passing && self.tries.again(now, None) {
            self.trouble = Some(failure);
        } else {
            self.failed = Some(failure);
        }
    }

    pub(in crate::collect) fn take_subscriptions(&mut self, list: &Subscriptions, now: Timestamp) {
        self.subscriptions_listed = true;
        self.state.subscriptions_listed = Some(now);
        self.step_went_well();
        self.went_well();
        for stream in self.streams.iter_mut().filter(|stream| stream.is_live()) {
            let is_unclear = list.unclear.contains(&stream.content_type);
            if list.enabled.contains(&stream.content_type) {
                stream.state.start_error = None;
            } else if is_unclear && stream.state.unsubscribed_since.is_none() {
                // A start is for a subscription that is off: listing its content says whether it is.
                let (name, content_type) = (&self.config.tenant_id, stream.content_type);
                log::warn!(
                    "{name} {content_type}: the list of subscriptions does not say in a usable way \
                     whether it is on; it is started only if listing its content says that it is off"
                );
            } else if stream.state.may_start(now) {
                self.to_start.push(stream.content_type);
            }
        }
        // Taken from the end.
        self.to_start.reverse();
    }

    pub(in crate::collect) fn subscriptions_failed(
        &mut self,
        trouble: Trouble,
        access: &Arc<Access>,
        at: Timestamp,
    ) {
        let failure = failure("its subscriptions can't be listed", &trouble);
        let now = Instant::now();
        let again = match trouble.reaction {
            Reaction::Pause => {
                self.pause(now, wait(&trouble));
                self.tries.again(now, None)
            }
            reaction if reaction.concerns_token() => self.renew(reaction, access),
            Reaction::Refused => false,
            Reaction::Retry if self.tries.again(now, wait(&trouble)) => true,
            _ => {
                // Listing content will tell whether the subscriptions are there.
                log::warn!("{}: {}", self.name(), failure.text);
                self.subscriptions_listed = true;
                self.state.subscriptions_listed = Some(at);
                self.step_went_well();
                // Unless it is heard of yet.
                self.trouble = Some(failure);
                return;
            }
        };
        if again {
            self.trouble = Some(failure);
        } else {
            self.failed = Some(failure);
        }
    }

    pub(in crate::collect) fn take_start(
        &mut self,
        content_type: ContentType,
        result: Result<Started, Trouble>,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
        let config = Arc::clone(&self.config);
        let name = config.tenant_id.as_str();
        let trouble = match result {
            Ok(started) => {
                if let Some(stream) = self.stream(content_type) {
                    stream.take_start(started, now);
                }
                self.set_start(content_type, now, None);
                self.step_went_well();
                return;
            }
            Err(trouble) => trouble,
        };
        let failure = failure("its subscription can't be started", &trouble);
        let instant = Instant::now();
        let again = match trouble.reaction {
            // Somebody else has just started it: this is no pause of the tenant.
            Reaction::Pause if trouble.text.contains("frequent subscription start") => {
                log::warn!("{name} {content_type}: {}", failure.text);
                self.set_start(content_type, now, None);
                self.step_went_well();
                return;
            }
            // Not again in this run: too many starts are what the API complains of.
            Reaction::Pause => {
                self.pause(instant, wait(&trouble));
                false
            }
            Reaction::Retry => self.tries.again(instant, wait(&trouble)),
            reaction if reaction.concerns_token() => self.renew(reaction, access),
            _ => false,
        };
        if again {
            self.to_start.push(content_type);
            self.trouble = Some(failure);
            return;
        }
        self.step_went_well();
        // A request without the right to make it counts for nothing: consent helps at once.
        if !matches!(trouble.reaction, Reaction::Renew | Reaction::Consent) {
            self.set_start(content_type, now, Some(failure.text.clone()));
        }
        if let Some(stream) = self.stream(content_type) {
            stream.fail(failure);
        }
    }

    /// The live stream of a content type.
    fn stream(&mut self, content_type: ContentType) -> Option<&mut StreamRun> {
        // Backfills stand behind them.
        self.streams.iter_mut().find(|stream| stream.content_type == content_type)
    }

    /// Remembers what came of starting a subscription.
    fn set_start(&mut self, content_type: ContentType, now: Timestamp, error: Option<String>) {
        if let Some(stream) = self.stream(content_type) {
            stream.state.start_requested = Some(now);
            stream.state.start_error = error;
        }
    }

    pub(in crate::collect) fn list_failed(
        &mut self,
        s: usize,
        trouble: Trouble,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
        let failure = failure("content can't be listed", &trouble);
        let instant = Instant::now();
        if trouble.reaction == Reaction::Pause {
            self.pause(instant, wait(&trouble));
        }
        let renewed = trouble.reaction.concerns_token() && self.renew(trouble.reaction, access);
        let listed = self.subscriptions_listed;
        let live = self.live().map(|stream| stream.content_type).collect::<Vec<_>>();
        let Some(stream) = self.streams.get_mut(s) else {
            return;
        };
        stream.in_flight = false;
        if trouble.reaction == Reaction::Slow && !self.api_answers {
            self.slow_listings += 1;
            if self.slow_listings >= MOST_UNHEARD {
                // It is not the stream: the others would wait as long, one after the other.
                self.failed = Some(failure);
                return;
            }
        }
        let again = match trouble.reaction {
            Reaction::Retry => stream.tries.again(instant, wait(&trouble)),
            Reaction::Pause => stream.tries.again(instant, None),
            reaction if reaction.concerns_token() => renewed,
            Reaction::ListAgain => stream.relist(),
            Reaction::Clamp => stream.clamp(),
            // That is the live stream's matter.
            Reaction::Subscribe if !stream.is_live() && live.contains(&stream.content_type) => {
                stream.walk = Walk::Pending;
                return;
            }
            Reaction::Subscribe if !stream.is_live() => false,
            Reaction::Subscribe => {
                let since = *stream.state.unsubscribed_since.get_or_insert(now);
                if !listed {
                    self.list_subscriptions = true;
                    true
                } else if let Some(error) = stream.state.start_error.clone() {
                    return stream.fail(Failure::of(error));
                } else if now.since(since) < SUBSCRIPTION_PAUSE {
                    // Started a moment ago: Microsoft takes a while until it shows.
                    let name = &self.config.tenant_id;
                    log::info!("{name} {}: {}; waiting for it", stream.content_type, failure.text);
                    stream.walk = Walk::Pending;
                    return;
                } else {
                    false
                }
            }
            _ => false,
        };
        if again {
            stream.trouble = Some(failure);
        } else {
            stream.fail(failure);
        }
    }

    pub(in crate::collect) fn fetch_failed(
        &mut self,
        s: usize,
        mut queued: Queued,
        trouble: Trouble,
        access: &Arc<Access>,
        now: Timestamp,
    ) {
        let instant = Instant::now();
        let again = match trouble.reaction {
            Reaction::Retry => !queued.is_retry && queued.tries.again(instant, wait(&trouble)),
            Reaction::Pause => {
                self.pause(instant, wait(&trouble));
                !queued.is_retry && queued.tries.again(instant, None)
            }
            reaction if reaction.concerns_token() => self.renew(reaction, access),
            _ => false,
        };
        queued.blob.missing |= trouble.reaction == Reaction::Missing;
        let name = self.config.tenant_id.as_str();
        let Some(stream) = self.streams.get_mut(s) else {
            return;
        };
        let what = format!(
            "content {} can't be fetched",
            excerpt(&access.hidden().shown(&queued.blob.id))
        );
        let failure = failure(&what, &trouble);
        if again {
            log::debug!("{name} {}: {}", stream.content_type, failure.text);
            stream.state.blob_error = Some(failure.text);
            stream.requeue(queued, false);
        } else {
            stream.park(queued.blob, now, failure);
        }
    }
}

/// What is said of a tenant that is another one, too.
#[must_use]
pub fn is_twin(twin: &str) -> String {
    format!(
        "it is the same tenant as {twin}: every event would come twice; remove one of the two \
         api_auth blocks"
    )
}

/// What failed, and why.
pub(super) fn failure(what: &str, trouble: &Trouble) -> Failure {
    Failure {
        text: format!("{what}: {}", trouble.text),
        cause: trouble.text.clone(),
        code: trouble.code.clone(),
    }
}

/// How long the server wants us to wait, if it says so.
fn wait(trouble: &Trouble) -> Option<Duration> {
    trouble.retry_after.map(|seconds| Duration::from_secs(seconds.min(MOST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::super::configured;
    use super::super::tests::{tenant, trouble};
    use super::*;
    use crate::secret::Secret;

    fn enabled(names: &[ContentType]) -> Subscriptions {
        Subscriptions { enabled: names.to_vec(), unclear: Vec::new() }
    }

    #[test]
    fn an_unclear_subscription_is_started_only_when_its_listing_says_that_it_is_off() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let now = Timestamp::from_unix(1_800_000_000);
        let unclear = Subscriptions { unclear: vec![ContentType::General], ..enabled(&[]) };
        run.take_subscriptions(&unclear, now);
        assert!(run.to_start.is_empty());
        run.streams[0].state.unsubscribed_since = Some(now);
        run.take_subscriptions(&unclear, now);
        assert_eq!(run.to_start, [ContentType::General]);
    }

    #[test]
    fn a_pause_only_grows_and_waves_count_once() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let now = Instant::now();
        run.pause(now, Some(Duration::from_secs(120)));
        run.pause(now, None);
        assert_eq!(run.pauses, 1);
        assert!(!run.is_due(now + Duration::from_secs(119)));
        run.take_subscriptions(
            &enabled(&[ContentType::General]),
            Timestamp::from_unix(1_800_000_000),
        );
        assert!(!run.is_due(now), "what goes well meanwhile doesn't end it");
        let later = now + Duration::from_secs(200);
        assert!(run.is_due(later));
        run.pauses = 3;
        run.pause(later, None);
        let until = run.paused_until.unwrap() - later;
        assert!((8..=10).contains(&until.as_secs()), "{until:?}");
    }

    #[test]
    fn a_refused_token_is_renewed_once_and_consent_only_for_an_old_token() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let old = run.access.clone().unwrap();
        assert!(run.renew(Reaction::Consent, &old));
        assert!(run.access.is_none() && run.kept.is_none());
        assert!(run.renew(Reaction::Renew, &old), "dropped already");
        let access = Access::new(&config, Secret::new("new"), None, Vec::new()).unwrap();
        let expires = Timestamp::from_unix(1_800_003_600);
        let kept = KeptToken { token: Secret::new("new"), tid: None, expires };
        run.signed_in(access, kept, &Claims::default(), 3600);
        let new = run.access.clone().unwrap();
        assert!(run.renew(Reaction::Renew, &old), "the old one's refusal says nothing of the new");
        assert!(!run.renew(Reaction::Consent, &new));
        assert!(!run.renew(Reaction::Renew, &new));
    }

    #[test]
    fn subscriptions_that_are_listed_too_slowly_keep_nobody_from_content() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let access = run.access.clone().unwrap();
        let now = Timestamp::from_unix(1_800_000_000);
        run.subscriptions_failed(trouble(Reaction::Slow, None), &access, now);
        assert!(run.failed.is_none() && run.is_due(Instant::now()));
        assert!(run.trouble.is_some(), "it counts if nothing else is heard");
        assert!(!run.subscriptions_are_due(now), "not again in this run, nor soon");
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        for _ in 0..4 {
            run.subscriptions_failed(trouble(Reaction::Retry, None), &access, now);
            assert!(run.trouble.is_some() && run.subscriptions_are_due(now));
        }
        run.subscriptions_failed(trouble(Reaction::Retry, None), &access, now);
        assert!(run.failed.is_none() && !run.subscriptions_are_due(now));
    }

    #[test]
    fn an_api_that_answers_nothing_in_time_fails_the_tenant_and_not_stream_by_stream() {
        let config = configured();
        let streams =
            [(ContentType::General, 5), (ContentType::Dlp, 5), (ContentType::Exchange, 5)];
        let now = Timestamp::from_unix(1_800_000_000);
        for answers in [false, true] {
            let mut run = tenant(&config, &streams);
            let access = run.access.clone().unwrap();
            if answers {
                run.take_subscriptions(&enabled(&streams.map(|(name, _)| name)), now);
            }
            run.list_failed(0, trouble(Reaction::Slow, None), &access, now);
            assert!(run.failed.is_none() && run.streams[0].failed.is_some(), "one may be special");
            run.list_failed(1, trouble(Reaction::Slow, None), &access, now);
            assert_eq!(run.failed.is_some(), !answers);
            assert_eq!(run.has_work(), answers, "the third stream goes on");
        }
    }

    #[test]
    fn a_failed_start_is_told_until_it_succeeds() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let access = run.access.clone().unwrap();
        let now = Timestamp::from_unix(1_800_000_000);
        let refused = Err(trouble(Reaction::Refused, None));
        run.take_start(ContentType::General, refused, &access, now);
        assert!(run.streams[0].failed.is_some());
        // The next run: not started again yet, and still a failure.
        run.streams[0].failed = None;
        run.subscriptions_listed = true;
        run.list_failed(0, trouble(Reaction::Subscribe, None), &access, now.plus(60));
        assert!(run.streams[0].failed.as_ref().unwrap().text.contains("can't be started"));
        run.take_subscriptions(&enabled(&[ContentType::General]), now.plus(120));
        assert_eq!(run.streams[0].state.start_error, None);
    }

    #[test]
    fn a_started_subscription_has_a_quarter_of_an_hour_to_show() {
        let config = configured();
        let mut run = tenant(&config, &[(ContentType::General, 5)]);
        let access = run.access.clone().unwrap();
        let now = Timestamp::from_unix(1_800_000_000);
        run.take_start(ContentType::General, Ok(Started::Now), &access, now);
        run.subscriptions_listed = true;
        run.list_failed(0, trouble(Reaction::Subscribe, None), &access, now);
        assert_eq!((&run.streams[0].walk, &run.streams[0].failed), (&Walk::Pending, &None));
        run.list_failed(0, trouble(Reaction::Subscribe, None), &access, now.plus(900));
        assert!(run.streams[0].failed.is_some());
    }
}
