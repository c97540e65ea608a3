//! The command `status`: how every stream stands, from the saved state alone.

mod table;

use serde::Serialize;

use crate::args::Common;
use crate::clock::local_now;
use crate::content::ContentType;
use crate::error::Error;
use crate::health::Health;
use crate::parent;
use crate::state::{Backfill, CLOCK_TOLERANCE, State, Stream, Tally, Tenant};
use crate::store::{Home, Loaded};
use crate::timestamp::{Timestamp, age};

/// Gives the text to be printed, and the exit code.
///
/// # Errors
/// There is no home, or no state that can be used.
pub fn run(common: &Common, json: bool) -> Result<(String, u8), Error> {
    let home = Home::open(&common.home)?;
    let folder = home.look()?;
    let Loaded { state, damage, .. } = folder.load_state()?;
    let polling_since = folder.locked_since();
    let queue_is_dead = parent::is_queue_dead(&state.handover, &home.queue());
    let now = local_now().plus(state.clock_offset);
    let mut view = View::of(&state, now, polling_since, queue_is_dead);
    view.problems.extend(damage.map(|damage| format!("warning: {damage}")));
    let text = if json {
        serde_json::to_string_pretty(&view).map_err(|e| Error::Run(e.to_string()))? + "\n"
    } else {
        table::text(&view)
    };
    Ok((text, u8::from(!view.ok)))
}

/// What is told. The members' names are for machines, and stay.
#[derive(Debug, Serialize)]
struct View<'a> {
    /// Whether all is well.
    ok: bool,
    /// What isn't.
    problems: Vec<String>,
    /// Microsoft's time, as far as the last poll knew it.
    now: Timestamp,
    /// When the last poll ended that could save what it did.
    last_poll: Option<Timestamp>,
    /// How often polls are to run, in seconds.
    interval: i64,
    /// Since when a poll has been running, if one is.
    polling_since: Option<Timestamp>,
    /// Seconds by which Microsoft's clock is ahead of this machine's.
    clock_offset: i64,
    tenants: Vec<TenantView<'a>>,
}

#[derive(Debug, Serialize)]
struct TenantView<'a> {
    tenant_id: &'a str,
    /// Its GUID, where `tenant_id` is a domain name.
    guid: Option<&'a str>,
    /// Whether the last poll had it in its configuration.
    configured: bool,
    failures: u32,
    last_success: Option<Timestamp>,
    last_error: Option<&'a str>,
    /// Until when the API wants it to wait.
    paused_until: Option<Timestamp>,
    streams: Vec<StreamView<'a>>,
    backfills: Vec<BackfillView<'a>>,
}

#[derive(Debug, Serialize)]
struct StreamView<'a> {
    content_type: ContentType,
    configured: bool,
    position: Timestamp,
    /// Seconds from the older of position and oldest waiting blob to now.
    lag: i64,
    /// Blobs listed and not yet delivered; of these, those that have failed.
    waiting: usize,
    waiting_failed: usize,
    /// Records left out by filters.
    excluded: u64,
    failures: u32,
    last_success: Option<Timestamp>,
    last_error: Option<&'a str>,
    last_run: Tally,
    in_all: Tally,
    gaps: u64,
    last_gap: Option<GapView<'a>>,
}

#[derive(Debug, Serialize)]
struct GapView<'a> {
    at: Timestamp,
    text: &'a str,
}

impl<'a> GapView<'a> {
    fn of(stream: &'a Stream) -> Option<Self> {
        let gap = stream.last_gap.as_ref()?;
        Some(Self { at: gap.at, text: &gap.notice.response })
    }
}

#[derive(Debug, Serialize)]
struct BackfillView<'a> {
    content_type: ContentType,
    configured: bool,
    from: Timestamp,
    /// None: up to where the live stream will begin.
    to: Option<Timestamp>,
    /// How far it is listed.
    position: Timestamp,
    waiting: usize,
    in_all: Tally,
    failures: u32,
    last_error: Option<&'a str>,
    gaps: u64,
    last_gap: Option<GapView<'a>>,
    /// When all of it had been written.
    done: Option<Timestamp>,
}

impl<'a> View<'a> {
    fn of(
        state: &'a State,
        now: Timestamp,
        polling_since: Option<Timestamp>,
        queue_is_dead: bool,
    ) -> Self {
        let tenants: Vec<_> = state
            .tenants
            .iter()
            .map(|(tenant_id, tenant)| TenantView::of(state, tenant_id, tenant, now))
            .collect();
        let mut problems = Vec::new();
        if queue_is_dead {
            problems.push(parent::RESTART.to_owned());
        }
        problems.extend(state.overdue(now, polling_since));
        for tenant in tenants.iter().filter(|tenant| tenant.configured) {
            let name = tenant.tenant_id;
            let failed = |failures: u32| match failures {
                1 => "failed once".to_owned(),
                failures => format!("failed {failures} times in a row"),
            };
            if let Some(error) = tenant.last_error {
                problems.push(format!("{name}: {}: {error}", failed(tenant.failures)));
            }
            for stream in tenant.streams.iter().filter(|stream| stream.configured) {
                if let Some(error) = stream.last_error {
                    let (what, failed) = (stream.content_type, failed(stream.failures));
                    problems.push(format!("{name} {what}: {failed}: {error}"));
                }
            }
            for backfill in tenant.backfills.iter().filter(|backfill| backfill.configured) {
                if let Some(error) = backfill.last_error {
                    let (what, failed) = (backfill.content_type, failed(backfill.failures));
                    problems.push(format!("{name} {what}: its backfill {failed}: {error}"));
                }
            }
        }
        let ok = problems.is_empty();
        if let Some(last) = state.last_poll.filter(|last| last.since(now) > CLOCK_TOLERANCE) {
            problems.push(format!(
                "warning: the last poll ended at {last}, which is still to come: this machine's clock \
                 is wrong, or was"
            ));
        }
        if state.clock_offset.abs() > CLOCK_TOLERANCE {
            problems.push(format!(
                "warning: this machine's clock is {} off Microsoft's: set it (NTP)",
                age(state.clock_offset.abs())
            ));
        }
        Self {
            ok,
            problems,
            now,
            last_poll: state.last_poll,
            interval: state.interval,
            polling_since,
            clock_offset: state.clock_offset,
            tenants,
        }
    }
}

fn failing(health: &Health) -> (u32, Option<&str>) {
    (health.failures, health.last_error.as_deref())
}

impl<'a> TenantView<'a> {
    fn of(state: &State, tenant_id: &'a str, tenant: &'a Tenant, now: Timestamp) -> Self {
        let configured = tenant.is_configured;
        let (failures, last_error) = failing(&tenant.health);
        let left = tenant.pause.and_then(|pause| pause.left(now));
        let streams = tenant.streams.iter().map(|(content_type, stream)| {
            let configured = configured && state.is_subscribed(*content_type);
            StreamView::of(*content_type, configured, stream, now)
        });
        Self {
            tenant_id,
            guid: tenant.guid.as_deref(),
            configured,
            failures,
            last_success: tenant.health.last_success,
            last_error,
            paused_until: left.map(|left| now.plus(i64::from(left))),
            streams: streams.collect(),
            backfills: tenant
                .backfills
                .iter()
                .map(|backfill| {
                    let configured = configured && state.is_subscribed(backfill.content_type);
                    BackfillView::of(backfill, configured)
                })
                .collect(),
        }
    }
}

impl<'a> StreamView<'a> {
    fn of(content_type: ContentType, configured: bool, stream: &'a Stream, now: Timestamp) -> Self {
        let (failures, last_error) = failing(&stream.health);
        Self {
            content_type,
            configured,
            position: stream.position,
            lag: stream.lag(now),
            waiting: stream.waiting.len(),
            waiting_failed: stream.waiting.iter().filter(|blob| blob.failed_runs > 0).count(),
            excluded: stream.excluded,
            failures,
            last_success: stream.health.last_success,
            last_error,
            last_run: stream.last_run,
            in_all: stream.in_all,
            gaps: stream.gaps,
            last_gap: GapView::of(stream),
        }
    }
}

impl<'a> BackfillView<'a> {
    fn of(backfill: &'a Backfill, configured: bool) -> Self {
        let Backfill { content_type, from, until: to, stream, done, .. } = backfill;
        let (failures, last_error) = failing(&stream.health);
        Self {
            content_type: *content_type,
            configured,
            from: *from,
            to: *to,
            position: to.map_or(stream.position, |to| stream.position.min(to)),
            waiting: stream.waiting.len(),
            in_all: stream.in_all,
            failures,
            last_error,
            gaps: stream.gaps,
            last_gap: GapView::of(stream),
            done: *done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::state::Turns;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds)
    }

    /// A state after a poll at 0, every minute.
    fn polled() -> State {
        let text = b"<office365><enabled>no</enabled><subscriptions><subscription>DLP.All\
                     </subscription></subscriptions></office365>";
        let config = config::parse("x", text).unwrap();
        let mut state = State::default();
        let mut tenant = Tenant::default();
        for name in [ContentType::Dlp, ContentType::General] {
            let mut stream = Stream::first(true, None, at(-30));
            stream.health = Health { last_success: Some(at(0)), ..Health::default() };
            tenant.streams.insert(name, stream);
        }
        state.put_tenant("t", tenant, at(0));
        state.end_poll(at(0), 0, &config, Turns::default());
        state.tenants.get_mut("t").unwrap().is_configured = true;
        state
    }

    #[test]
    fn a_poll_is_overdue_after_three_intervals_but_not_while_one_runs() {
        let state = polled();
        let overdue = |now, since: Option<i64>| {
            View::of(&state, at(now), since.map(at), false).problems.join(" ")
        };
        assert_eq!(overdue(180, None), "");
        assert!(overdue(181, None).contains("for 3 min, though one is due every 60 s"));
        let future = View::of(&state, at(-999), None, false);
        assert!(future.ok && future.problems[0].contains("which is still to come"));
        assert_eq!(overdue(-200, None), "", "clocks differ a little");
        assert_eq!(overdue(300, Some(10)), "");
        assert!(overdue(400, Some(10)).contains("it hangs"));
        let never = View::of(&State::default(), at(0), None, false).problems.join(" ");
        assert!(never.starts_with("no poll has run to its end yet"), "{never}");
    }

    #[test]
    fn failures_count_as_long_as_they_are_configured() {
        let mut state = polled();
        let failed =
            Health { failures: 4, last_error: Some("refused".to_owned()), ..Health::default() };
        let tenant = state.tenants.get_mut("t").unwrap();
        tenant.streams.get_mut(&ContentType::General).unwrap().health = failed.clone();
        assert!(View::of(&state, at(0), None, false).ok, "it is no longer subscribed");
        let tenant = state.tenants.get_mut("t").unwrap();
        tenant.streams.get_mut(&ContentType::Dlp).unwrap().health = failed.clone();
        let view = View::of(&state, at(0), None, false);
        assert_eq!(view.problems, ["t DLP.All: failed 4 times in a row: refused"]);
        let tenant = state.tenants.get_mut("t").unwrap();
        tenant.health = failed;
        assert_eq!(View::of(&state, at(0), None, false).problems.len(), 2);
        state.tenants.get_mut("t").unwrap().is_configured = false;
        assert!(View::of(&state, at(0), None, false).ok);
    }

    #[test]
    fn a_dead_queue_is_told() {
        let state = polled();
        let view = View::of(&state, at(0), None, true);
        assert!(!view.ok && view.problems[0].starts_with("restart Wazuh"));
    }
}
