//! The command `reset`: moves a stream's position.

use crate::args::{Common, When};
use crate::clock::local_now;
use crate::content::ContentType;
use crate::error::Error;
use crate::logging;
use crate::notice::{Kind, Notice};
use crate::setup::wait_for_lock;
use crate::state::{RETENTION, State};
use crate::store::{Home, Loaded};

/// Moves a stream's position, and gives the text that says so. What is skipped by that becomes a
/// `gap` notice of the next poll.
///
/// # Errors
/// There is no such stream, the time is none that the API covers, or the state can't be saved.
pub fn run(
    common: &Common,
    tenant: &str,
    content_type: ContentType,
    to: When,
) -> Result<String, Error> {
    let home = Home::open(&common.home)?;
    // Only a record of what was done: what matters is told on stdout and stderr.
    let _ = logging::start(home.open_log());
    let folder = home.folder()?;
    let _lock = wait_for_lock(&folder)?;
    let Loaded { mut state, keep_previous, .. } = folder.load_state()?;
    let text = reset(&mut state, tenant, content_type, to)?;
    let saved = folder.prepare_save(0, keep_previous).and_then(|save| save.commit(&state));
    saved.map_err(|error| Error::Run(format!("the state can't be saved: {error}")))?;
    log::warn!("reset: {text}");
    Ok(format!("{text}\n"))
}

fn reset(state: &mut State, tenant: &str, name: ContentType, to: When) -> Result<String, Error> {
    let now = local_now().plus(state.clock_offset);
    let to = to.before(now);
    if to > now || now.since(to) > RETENTION {
        return Err(Error::Usage(format!(
            "--to {to} is not within the 7 days before {now} that the API covers"
        )));
    }
    let tenant_id = state.tenant_id(tenant);
    let known = known_streams(state);
    let is_polled = state.is_subscribed(name);
    let found = state.tenants.get_mut(&tenant_id).map(|tenant| {
        let polled = tenant.is_configured && is_polled;
        (tenant.streams.get_mut(&name), &mut tenant.backfills, polled)
    });
    let Some((Some(stream), backfills, is_polled)) = found else {
        return Err(Error::Usage(format!("there is no stream {tenant_id} {name}; known: {known}")));
    };
    let polls = if is_polled {
        "the next polls bring"
    } else {
        "the last poll did not have it in its configuration; once it has, polls bring"
    };
    let (was, horizon) = (stream.position, stream.horizon);
    let Some((from, to)) = stream.reset(to, now) else {
        for backfill in backfills.iter_mut().filter(|b| b.content_type == name) {
            backfill.leave_to_live(to);
        }
        return Ok(format!(
            "{tenant_id} {name}: moved back from {was} to {to}; {polls} everything since then once \
             more"
        ));
    };
    let text = format!(
        "skipped by wodle-office365 reset: what became available from {from} to {to}, and what \
         becomes available late of the time since {horizon}"
    );
    let gap = Notice::new(Kind::Gap, &tenant_id, Some(name), text).window(from, to);
    stream.gap(gap.clone(), now);
    state.notices.push(gap);
    Ok(format!(
        "{tenant_id} {name}: moved on from {was} to {to}; what became available since {from} is \
         skipped, and the next poll says so"
    ))
}

/// The streams that have a position, for a message.
fn known_streams(state: &State) -> String {
    let streams = state.tenants.iter().flat_map(|(tenant_id, tenant)| {
        tenant.streams.keys().map(move |name| format!("{tenant_id} {name}"))
    });
    let streams: Vec<_> = streams.collect();
    if streams.is_empty() { "none: no poll has run yet".to_owned() } else { streams.join(", ") }
}
