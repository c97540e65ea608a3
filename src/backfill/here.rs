//! `backfill --stdout`: writes a past window here and now, by the same means as a poll, and leaves the
//! state alone.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Past;
use crate::api::Api;
use crate::clock::{Clock, local_now};
use crate::collect::{Collection, Cycle, Halt, Limits, Progress, Report, TenantStart};
use crate::config::Config;
use crate::confine::Reach;
use crate::content::ContentType;
use crate::credentials;
use crate::error::Error;
use crate::http::Http;
use crate::output::Output;
use crate::setup::{confine, network};
use crate::state::{Backfill, State, Tenant};
use crate::store::Home;
use crate::terminal;
use crate::thread::thread;
use crate::timestamp::{MINUTE, Timestamp};
use crate::tokens::Tokens;
use crate::words::of;

/// How often the progress is shown.
const SHOW: Duration = Duration::from_millis(200);

/// At the end somebody may still be writing for so long.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Gives the exit code.
pub(super) fn write(home: &Home, config: Config, state: &State, past: &Past) -> Result<u8, Error> {
    let begun = Instant::now();
    let signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::Run(format!("signals can't be handled: {error}")))?;
    let http = Arc::new(Http::new(network(&config, home)?));
    let clock = Arc::new(Clock::new(state.clock_offset));
    let folder = home.look()?;
    let tokens = Tokens::parse(&folder.load_tokens());
    let config = Arc::new(config);
    // The first listing comes in a moment.
    let (from, to) = (past.earliest(MINUTE), past.to.unwrap_or(past.now));
    let tenants = past.tenants.iter().map(|tenant| {
        let backfill = |name: &ContentType| Backfill::new(*name, from, Some(to));
        let backfills = past.content_types.iter().map(backfill).collect();
        TenantStart {
            config: Arc::clone(tenant),
            credentials: credentials::load(home, &config, tenant, [local_now(), clock.now()]),
            token: tokens.find(tenant, clock.now()),
            state: Tenant { backfills, ..Tenant::default() },
            has_new_stream: false,
        }
    });
    let output = Output::endless().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    let output = Arc::new(output);
    let mut no_state = State::default();
    no_state.clock_offset = state.clock_offset;
    let tenants = tenants.collect();
    let kinds = folder.load_kinds(clock.now());
    confine(&http, &config.tenants, &Reach::default());
    let collection = Collection::new(Cycle {
        config: Arc::clone(&config),
        api: Api::new(Arc::clone(&http), Arc::clone(&clock), &config),
        output: Arc::clone(&output),
        state: no_state,
        tenants,
        kinds,
        folder: None,
        hand_over: false,
        begun,
        limits: Limits::of_an_only_run(),
    });
    run(&collection, signals);
    let failed = |error: &dyn std::fmt::Display| {
        Error::Run(format!("writing the events failed ({error}): what came before is written"))
    };
    let mut turn = output.last_turn(LAST_WRITE).map_err(|error| failed(&error))?;
    let report = collection.finish();
    match &report.halt {
        Some(Halt::WriteFailed(why)) => return Err(failed(why)),
        Some(Halt::NoThread(why)) => {
            return Err(Error::Run(format!("no thread can be started ({why}): see ulimit -u")));
        }
        Some(Halt::Time | Halt::Output | Halt::State | Halt::Terminated) | None => {}
    }
    for notice in &report.notices {
        turn.notice(&notice.line()).map_err(|error| failed(&error))?;
    }
    turn.close().map_err(|error| failed(&error))?;
    Ok(told(&report, (from, to), clock.now()))
}

/// Runs it, with its progress on stderr where that is a terminal.
fn run(collection: &Collection, signals: Signals) {
    if !io::stderr().is_terminal() {
        return collection.run(signals);
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Where no more threads can be started, nothing is shown.
        let _ = thread("progress").spawn_scoped(scope, || {
            while !over.load(Ordering::Relaxed) {
                let _ = write!(io::stderr(), "\r{}\x1b[K", bar(&collection.progress()));
                thread::park_timeout(SHOW);
            }
            let _ = write!(io::stderr(), "\r\x1b[K");
        });
        collection.run(signals);
        over.store(true, Ordering::Relaxed);
    });
}

/// How far it is, on one line.
fn bar(progress: &Progress) -> String {
    const CELLS: usize = 30;
    let &Progress { listed, blobs, left, events } = progress;
    #[expect(clippy::cast_precision_loss, reason = "it is drawn in 30 cells")]
    let written = if blobs + left == 0 { 1.0 } else { blobs as f64 / (blobs + left) as f64 };
    let share = listed * written;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 1"
    )]
    let (full, percent) = ((share * CELLS as f64) as usize, (share * 100.0) as u32);
    let full = full.min(CELLS);
    let (done, open) = ("#".repeat(full), ".".repeat(CELLS - full));
    format!("[{done}{open}] {percent:3} %  {blobs} of {} blobs, {events} events", blobs + left)
}

/// Says on stderr what was written and what failed; gives the exit code.
fn told(report: &Report, (from, to): (Timestamp, Timestamp), now: Timestamp) -> u8 {
    let say = |text: String| {
        terminal::tell(&format!("wodle-office365: {text}\n"));
    };
    for end in &report.tenants {
        if let Some(error) = &end.state.health.last_error {
            say(format!("{}: {error}", end.tenant_id));
        }
        for backfill in &end.state.backfills {
            if let Some(error) = &backfill.stream.health.last_error {
                say(format!("{} {}: {error}", end.tenant_id, backfill.content_type));
            }
        }
    }
    for gap in &report.notices {
        say(format!("{} {}: {}", gap.tenant_id, gap.subscription_name, gap.response));
    }
    let broken_off = report.halt.is_some();
    let misconfigured = report.tenants.iter().any(|end| end.misconfigured.is_some());
    let unfinished = || {
        let mut backfills = report.tenants.iter().flat_map(|end| &end.state.backfills);
        // What is behind now by the API's clock is not there yet.
        let end = to.min(now.plus(-MINUTE));
        backfills.any(|b| b.stream.position < end || !b.stream.waiting.is_empty())
    };
    let (events, blobs) = (of(report.events, "event"), of(report.blobs, "blob"));
    let how = if broken_off {
        "broken off"
    } else if report.failed || unfinished() {
        "not all of it could be written"
    } else {
        "done"
    };
    say(format!("{from} to {to}: {events} from {blobs}; {how}"));
    match how {
        _ if misconfigured => 2,
        "done" => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_nothing_to_all() {
        let of = |listed, blobs, left| bar(&Progress { listed, blobs, left, events: 7 });
        let empty = format!("[{}]   0 %  0 of 0 blobs, 7 events", ".".repeat(30));
        assert_eq!(of(0.0, 0, 0), empty);
        let half = format!("[{}{}]  50 %  5 of 10 blobs, 7 events", "#".repeat(15), ".".repeat(15));
        assert_eq!(of(1.0, 5, 5), half);
        assert!(of(1.0, 9, 0).starts_with(&format!("[{}] 100 %", "#".repeat(30))));
    }
}
