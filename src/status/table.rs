//! `status` for people: a table of streams for each tenant.

use std::fmt::Write as _;

use super::{BackfillView, GapView, StreamView, TenantView, View};
use crate::timestamp::{Timestamp, age};
use crate::words::of;

const COLUMNS: usize = 9;

/// What stands above the columns.
const HEAD: [&str; COLUMNS] = [
    "stream",
    "position",
    "lag",
    "last success",
    "failed runs",
    "waiting",
    "excluded",
    "events last run",
    "events in all",
];

pub(super) fn text(view: &View<'_>) -> String {
    let mut text = String::new();
    let last = match view.last_poll {
        None => "never".to_owned(),
        Some(last) => {
            format!("{last}, {} ago (one is due every {})", ago(view.now, last), age(view.interval))
        }
    };
    let _ = writeln!(text, "last poll: {last}");
    if let Some(since) = view.polling_since {
        let _ = writeln!(text, "a poll has been running since {since}");
    }
    let (configured, others): (Vec<_>, Vec<_>) =
        view.tenants.iter().partition(|tenant| tenant.configured);
    for tenant in configured {
        text.push('\n');
        of_tenant(&mut text, tenant, view.now);
    }
    if !others.is_empty() {
        let _ = writeln!(text, "\nno longer configured, kept for 30 days: {}", names(&others));
    }
    if !view.problems.is_empty() {
        text.push('\n');
    }
    for problem in &view.problems {
        let _ = writeln!(text, "{problem}");
    }
    if view.ok {
        text.push_str("\nall well\n");
    }
    text
}

fn names(tenants: &[&TenantView<'_>]) -> String {
    let names: Vec<_> = tenants.iter().map(|tenant| tenant.tenant_id).collect();
    names.join(", ")
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    age(now.since(then).max(0))
}

fn of_tenant(text: &mut String, tenant: &TenantView<'_>, now: Timestamp) {
    let guid = tenant.guid.map_or(String::new(), |guid| format!(" ({guid})"));
    let _ = writeln!(text, "tenant {}{guid}", tenant.tenant_id);
    if let Some(until) = tenant.paused_until {
        let _ = writeln!(text, "  Microsoft wants it to wait until {until}");
    }
    let streams: Vec<_> = tenant.streams.iter().filter(|stream| stream.configured).collect();
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(streams.iter().map(|stream| row(stream, now)));
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    for row in &rows {
        let cells = std::iter::zip(row, &widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    for stream in streams {
        gaps(text, stream.content_type.name(), stream.gaps, stream.last_gap.as_ref());
    }
    for backfill in &tenant.backfills {
        of_backfill(text, backfill);
    }
}

fn row(stream: &StreamView<'_>, now: Timestamp) -> [String; COLUMNS] {
    let last_success =
        stream.last_success.map_or("never".to_owned(), |last| format!("{} ago", ago(now, last)));
    let tally = |tally: &super::Tally| format!("{} in {}", tally.events, of(tally.blobs, "blob"));
    let waiting = match stream.waiting_failed {
        0 => stream.waiting.to_string(),
        failed => format!("{} ({failed} failed)", stream.waiting),
    };
    [
        stream.content_type.to_string(),
        stream.position.to_string(),
        age(stream.lag),
        last_success,
        stream.failures.to_string(),
        waiting,
        stream.excluded.to_string(),
        tally(&stream.last_run),
        tally(&stream.in_all),
    ]
}

/// The gaps of a stream, or of what else is named.
fn gaps(text: &mut String, name: &str, gaps: u64, last: Option<&GapView<'_>>) {
    if let Some(gap) = last {
        let gaps = match gaps {
            1 => "a gap".to_owned(),
            gaps => format!("{gaps} gaps, the last one"),
        };
        let _ = writeln!(text, "  {name}: {gaps} found at {}: {}", gap.at, gap.text);
    }
}

fn of_backfill(text: &mut String, backfill: &BackfillView<'_>) {
    let BackfillView { content_type, from, to, position, waiting, in_all, done, .. } = backfill;
    let waits = of(*waiting as u64, "blob");
    let how_far = match (done, to) {
        (Some(done), _) => format!("done at {done}"),
        (None, _) if !backfill.configured => {
            "waits, for its content type is no longer configured".to_owned()
        }
        (None, None) => "waits until the live stream has begun".to_owned(),
        (None, Some(to)) if position >= to && *waiting == 0 && backfill.last_error.is_none() => {
            "written; it is listed again for a while, for what becomes available late".to_owned()
        }
        (None, Some(to)) => {
            let whole = to.since(*from).max(1);
            let percent = position.since(*from).clamp(0, whole) * 100 / whole;
            format!("listed to {position} ({percent} %), {waits} waiting")
        }
    };
    let to = to.map_or("the live stream".to_owned(), |to| to.to_string());
    let written = of(in_all.events, "event");
    let name = format!("backfill of {content_type} from {from} to {to}");
    let _ = writeln!(text, "  {name}: {how_far}; {written} written");
    gaps(text, &name, backfill.gaps, backfill.last_gap.as_ref());
}
