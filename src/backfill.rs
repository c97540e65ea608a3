//! The command `backfill`: brings a past window, by the next polls or here and now.

mod estimate;
mod here;

use std::fmt::Write as _;

use self::estimate::{Estimate, Estimator};
use crate::args::{Common, PastWindow};
use crate::clock::local_now;
use crate::config::{Config, Tenant};
use crate::content::ContentType;
use crate::error::Error;
use crate::logging;
use crate::ossec::DEFAULT_MAX_EPS;
use crate::setup::{network, read_config, tenants_named, wait_for_lock};
use crate::state::{Backfill, RETENTION, State, Stream};
use crate::store::{Home, Loaded};
use crate::timestamp::{MINUTE, Timestamp, age};
use crate::words::of;

/// No more of them wait in a tenant.
const MOST_BACKFILLS: usize = 100;

/// Brings a past window; gives the text to be printed, and the exit code. `here`: all of it is written
/// to stdout at once, and the state is left alone.
///
/// # Errors
/// There is no such tenant or stream, the time is none that the API covers, or the configuration or the
/// state can't be used.
pub fn run(common: &Common, window: &PastWindow, here: bool) -> Result<(String, u8), Error> {
    let home = Home::open(&common.home)?;
    // Only a record of what was done: what matters is told on stdout and stderr.
    let _ = logging::start(&home.log());
    let config = read_config(common, &home)?;
    log::set_max_level(common.log_level.unwrap_or(config.log_level));
    if here {
        let Loaded { state, .. } = home.look().load_state()?;
        let past = Past::of(&config, &state, window)?;
        return here::write(&home, config, &state, &past).map(|code| (String::new(), code));
    }
    queue(&home, &config, window).map(|text| (text, 0))
}

/// What is asked for, once it is known what that means.
struct Past {
    tenants: Vec<std::sync::Arc<Tenant>>,
    content_types: Vec<ContentType>,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
}

impl Past {
    fn of(config: &Config, state: &State, window: &PastWindow) -> Result<Self, Error> {
        let now = local_now().plus(state.clock_offset);
        let from = window.from.before(now);
        let to = window.to.map_or(now, |to| to.before(now));
        if now.since(from) > RETENTION || from > now {
            return Err(Error::Usage(format!(
                "--from {from} is not within the 7 days before {now} that the API covers"
            )));
        }
        if to <= from || to > now.plus(MINUTE) {
            return Err(Error::Usage(format!(
                "--to {to} is not between --from {from} and now, {now}"
            )));
        }
        let guid = |id: &str| state.tenants.get(&id.to_ascii_lowercase())?.guid.clone();
        let tenants = tenants_named(config, window.tenant.as_deref(), guid)?;
        let content_types = match window.content_type {
            None => config.subscriptions.clone(),
            Some(name) if config.subscriptions.contains(&name) => vec![name],
            Some(name) => {
                return Err(Error::Usage(format!(
                    "{name} is none of the subscriptions of the configuration"
                )));
            }
        };
        Ok(Self { tenants, content_types, from, to: to.min(now), now })
    }

    fn backfill(&self, content_type: ContentType) -> Backfill {
        Backfill::new(content_type, self.from, self.to, self.now)
    }
}

/// Queues the window for the next polls; gives the text that says so.
fn queue(home: &Home, config: &Config, window: &PastWindow) -> Result<String, Error> {
    let folder = home.folder()?;
    let lock = wait_for_lock(&folder)?;
    let Loaded { mut state, keep_previous } = folder.load_state()?;
    let past = Past::of(config, &state, window)?;
    let mut text = String::new();
    let mut queued = Vec::new();
    for tenant in &past.tenants {
        let tenant_id = state.tenant_id(&tenant.tenant_id);
        let kept = state.tenants.entry(tenant_id.clone()).or_default();
        for content_type in &past.content_types {
            let mut backfill = past.backfill(*content_type);
            // A stream that has not begun will begin there.
            let bookmark = || home.native_bookmark(&tenant.tenant_id, *content_type);
            let first = || Stream::first(config.only_future_events, bookmark(), past.now).position;
            let live = kept.streams.get(content_type).map(|live| live.position);
            backfill.end_before(live.unwrap_or_else(first));
            let (from, until) = (backfill.from, backfill.until);
            if until <= from {
                let _ = writeln!(
                    text,
                    "{tenant_id} {content_type}: nothing to do, for the next polls bring all since \
                     {from} anyway"
                );
                continue;
            }
            if kept.backfills.len() >= MOST_BACKFILLS {
                return Err(Error::Usage(format!(
                    "{tenant_id} has {MOST_BACKFILLS} backfills already, which are not done yet or \
                     were within the last day: see wodle-office365 status"
                )));
            }
            let _ = writeln!(text, "{tenant_id} {content_type}: queued from {from} to {until}");
            kept.backfills.push(backfill);
            queued.push((std::sync::Arc::clone(tenant), *content_type, from, until));
        }
    }
    let saved = folder
        .prepare_save(0)
        .and_then(|prepared| folder.save_state(prepared, &state, keep_previous));
    saved.map_err(|error| Error::Run(format!("the state can't be saved: {error}")))?;
    for line in text.lines() {
        log::warn!("backfill: {line}");
    }
    // Polls need not wait for what comes now.
    drop(lock);
    if !queued.is_empty() {
        let max_eps = home.internal_option("wazuh_modules.max_eps").unwrap_or(DEFAULT_MAX_EPS);
        let estimate = network(config, home)
            .map_err(|error| error.to_string())
            .and_then(|network| Estimator::new(home, config, &state, network).estimate(&queued));
        text.push_str(&drained(estimate, max_eps.max(1)));
        text.push_str(
            "The next polls work it off, behind the live streams; wodle-office365 status shows how \
             far they are.\n",
        );
    }
    Ok(text)
}

/// What Wazuh will need to pass it on.
fn drained(estimate: Result<Estimate, String>, max_eps: u64) -> String {
    let max = format!(
        "of a wodle Wazuh sends on at most {max_eps} events a second (wazuh_modules.max_eps)"
    );
    match estimate {
        Ok(Estimate { events: 0, blobs: 0, .. }) => {
            format!("The API lists no content in it; {max}.\n")
        }
        Ok(Estimate { events, blobs, whole }) => {
            let (count, blobs) = (events, of(blobs, "blob"));
            let events = of(events, "event");
            let seconds = i64::try_from(count.div_ceil(max_eps)).unwrap_or(i64::MAX);
            let about = if whole { "about" } else { "at a rough guess, some" };
            format!(
                "That is {about} {events} in {blobs}; {max}: it needs {} for them, in \
                 which live events come later. With a higher max_eps (at most 1000, in \
                 HOME/etc/local_internal_options.conf) it takes less.\n",
                age(seconds.max(1))
            )
        }
        Err(why) => format!(
            "How much that is can't be told ({why}); {max}, so {} a day.\n",
            max_eps.saturating_mul(86_400)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wazuh_needs_is_told() {
        let told = |events, blobs| drained(Ok(Estimate { events, blobs, whole: true }), 100);
        assert!(told(48_000, 1_930).starts_with(
            "That is about 48000 events in 1930 blobs; of a wodle Wazuh sends on at most 100 events \
             a second (wazuh_modules.max_eps): it needs 8 min for them"
        ));
        assert!(told(1, 1).contains("it needs 1 s"));
        assert!(told(0, 0).starts_with("The API lists no content"));
        let unknown = drained(Err("no route".to_owned()), 500);
        assert!(unknown.contains("(no route)") && unknown.contains("so 43200000 a day"));
    }
}
