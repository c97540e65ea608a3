//! The command `poll`: one poll cycle from the lock to the saved state.

mod frame;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use self::frame::{Frame, lock, write_failed};
use crate::api::Api;
use crate::args::{Common, Misuse};
use crate::clock::{Clock, local_now};
use crate::collect::{Collection, Cycle, Halt, Limits, Report, TenantStart};
use crate::config::{self, Config};
use crate::confine::Reach;
use crate::credentials;
use crate::error::Error;
use crate::health::together;
use crate::http::Http;
use crate::logging;
use crate::output::Output;
use crate::setup::{confine, network, read_config};
use crate::state::{CLOCK_TOLERANCE, State, Stream};
use crate::store::Home;
use crate::timestamp::{Timestamp, age};
use crate::tokens::Tokens;

/// At the end of a run somebody may still be writing for so long: longer, and nobody reads.
const LAST_WRITE: Duration = Duration::from_millis(300);

/// Runs one poll cycle and returns its exit code; what went wrong is in the log.
///
/// # Errors
/// There is no place for a log.
pub fn run(common: &Common, dry_run: bool, begun: Instant) -> Result<u8, Error> {
    let signals = signals();
    let home = Home::open(&common.home)?;
    let log = logging::start_quiet(home.open_log());
    if let Err(error) = &log {
        // Seen on a terminal only.
        log::error!("{} can't be written: {error}", home.log().display());
    }
    let look = dry_run || io::stdout().is_terminal();
    let polled = signals.and_then(|signals| poll(common, &home, look, signals, begun));
    let code = polled.unwrap_or_else(|error| ended_badly(&home, &error, look));
    log::logger().flush();
    // The events mattered more than a log; but an administrator should hear of it.
    Ok(if log.is_err() { code.max(1) } else { code })
}

fn poll(
    common: &Common,
    home: &Home,
    look: bool,
    end: EarlyEnd,
    begun: Instant,
) -> Result<u8, Error> {
    let config = read_config(common, home)?;
    log::set_max_level(common.log_level.unwrap_or(config.log_level));
    for warning in &config.warnings {
        log::warn!("configuration: {warning}");
    }
    if !config.enabled {
        log::info!("disabled by <enabled>no</enabled>: nothing to do");
        return Ok(0);
    }
    if look {
        log::warn!(
            "this is only a look: nothing is saved, the next run brings the same events again"
        );
    }
    let folder = home.folder()?;
    let Some(lock) = lock(&folder, config.longest_run())? else {
        return Ok(0);
    };
    let loaded = folder.load_state()?;
    let mut frame = Frame::open(home, folder, lock, loaded, !look)?;
    let http = Arc::new(Http::new(network(&config, home)?));
    let clock = Arc::new(Clock::new(frame.loaded.state.clock_offset));
    let tokens = Tokens::parse(&frame.folder.load_tokens());
    let tenants = start_tenants(&config, home, &mut frame.loaded.state, &tokens, clock.now());
    let output = Output::stdout().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    let output = Arc::new(output);
    let config = Arc::new(config);
    let folder = (!look).then(|| frame.folder.clone());
    let dir = folder.as_ref().and_then(|folder| folder.dir().ok().cloned());
    let kinds = frame.folder.load_kinds(clock.now());
    confine(&http, &config.tenants, &Reach { folder: dir, files: Vec::new() });
    let collection = Collection::new(Cycle {
        config: Arc::clone(&config),
        api: Api::new(Arc::clone(&http), Arc::clone(&clock), &config),
        output: Arc::clone(&output),
        state: frame.loaded.state.clone(),
        tenants,
        kinds,
        folder,
        hand_over: frame.hand_over,
        begun,
        limits: Limits::of_a_poll(&config),
    });
    end.at_once.store(false, Ordering::Relaxed);
    collection.run(end.signals);
    let turn = output.last_turn(LAST_WRITE).map_err(write_failed)?;
    let report = collection.finish();
    match &report.halt {
        Some(Halt::WriteFailed(why)) => {
            return Err(write_failed(io::Error::other(why.as_str())));
        }
        Some(Halt::NoThread(why)) => {
            return Err(Error::Run(format!(
                "nothing was collected, for no thread can be started ({why}): raise the limit of \
                 tasks for Wazuh (TasksMax of its systemd unit, or ulimit -u)"
            )));
        }
        Some(Halt::Time | Halt::Output | Halt::State | Halt::Terminated) | None => {}
    }
    let code = exit_code(&report);
    warn_of_clock(&clock);
    log_summary(&report, output.written(), http.requests(), begun);
    let tokens = take_down(report, &mut frame.loaded.state, &config, &clock);
    frame.close(turn)?;
    if !look {
        let tokens = tokens.to_bytes().map_err(io::Error::from);
        if let Err(error) = tokens.and_then(|bytes| frame.folder.save_tokens(&bytes)) {
            log::warn!("the access tokens can't be kept for the next run: {error}");
        }
        frame.folder.forget_stand_in();
    }
    Ok(code)
}

/// SIGTERM, which is no death by a signal from here on.
struct EarlyEnd {
    signals: Signals,
    /// As long as nothing was written it ends the process where it is.
    at_once: Arc<AtomicBool>,
}

/// What ends a run early.
fn signals() -> Result<EarlyEnd, Error> {
    let fault = |error| Error::Run(format!("signals can't be handled: {error}"));
    let at_once = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(SIGTERM, 0, Arc::clone(&at_once))
        .map_err(fault)?;
    // A file that grows beyond a limit is to be an error of the write, not death.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(fault)?;
    Ok(EarlyEnd { signals: Signals::new([SIGTERM]).map_err(fault)?, at_once })
}

/// Takes note of a wrong command line: in the log where it is a poll's, and stderr may be Wazuh's
/// pipe, on which every line becomes an event.
///
/// # Errors
/// There is no log to write it to, or it is no poll's.
pub fn misused(Misuse { error, home, dry_run }: Misuse) -> Result<u8, Error> {
    let home = home.filter(|_| !io::stderr().is_terminal());
    let Some(home) = home.and_then(|home| Home::open(&home).ok()) else {
        return Err(error);
    };
    if logging::start_quiet(home.open_log()).is_err() {
        return Err(error);
    }
    Ok(ended_badly(&home, &error, dry_run || io::stdout().is_terminal()))
}

/// Logs what has ended a run, tells Wazuh of it where a person must change something, and gives
/// the exit code.
fn ended_badly(home: &Home, error: &Error, look: bool) -> u8 {
    log::error!("{error}");
    if error.exit_code() == 2
        && !look
        && let Err(error) = tell_misconfiguration(home, &error.to_string())
    {
        log::error!("Wazuh can't be told: {error}");
    }
    log::logger().flush();
    error.exit_code()
}

/// Tells Wazuh why nothing is collected: that the configuration, or the state, can't be used.
fn tell_misconfiguration(home: &Home, text: &str) -> Result<(), Error> {
    let mut folder = home.folder()?;
    let Ok(Ok(lock)) = folder.lock(local_now()) else {
        return Ok(());
    };
    let loaded = folder.load_state().unwrap_or_else(|_| {
        // What was told is counted beside a state that can't be used.
        folder = folder.stand_in();
        folder.load_state().unwrap_or_default()
    });
    let mut frame = Frame::open(home, folder, lock, loaded, true)?;
    let now = local_now().plus(frame.loaded.state.clock_offset);
    frame.loaded.state.tell_configuration("", text, now);
    if frame.loaded.state.notices.is_empty() {
        return Ok(());
    }
    let output = Output::stdout().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    frame.close(output.last_turn(LAST_WRITE).map_err(write_failed)?)
}

/// Gathers what each configured tenant starts with; new streams get their start here, so that it
/// is saved even if the sign-in fails.
fn start_tenants(
    config: &Config,
    home: &Home,
    state: &mut State,
    tokens: &Tokens,
    now: Timestamp,
) -> Vec<TenantStart> {
    let is_configured =
        |name: &str| config.tenants.iter().any(|t| t.tenant_id.eq_ignore_ascii_case(name));
    let start = |tenant: &Arc<config::Tenant>| {
        let mut kept = state.take_tenant(&tenant.tenant_id, is_configured);
        let mut has_new_stream = false;
        for content_type in &config.subscriptions {
            kept.streams.entry(*content_type).or_insert_with(|| {
                has_new_stream = true;
                let bookmark = home.native_bookmark(&tenant.tenant_id, *content_type);
                let lost_since = state.lost_since.filter(|_| config.only_future_events);
                let start = bookmark.or(lost_since);
                let stream = Stream::first(config.only_future_events, start, now);
                log::info!(
                    "{} {content_type}: first run, starting at {}",
                    tenant.tenant_id,
                    stream.position
                );
                stream
            });
        }
        let credentials = credentials::load(home, config, tenant, [local_now(), now]);
        let token = tokens.find(tenant, now);
        TenantStart { config: Arc::clone(tenant), credentials, token, state: kept, has_new_stream }
    };
    config.tenants.iter().map(start).collect()
}

/// Takes a run down in the state; gives the tokens to be kept.
fn take_down(report: Report, state: &mut State, config: &Config, clock: &Clock) -> Tokens {
    let now = clock.now();
    let mut tokens = Tokens::default();
    state.notices.extend(report.notices);
    let mut misconfigured: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tenant, end) in std::iter::zip(&config.tenants, report.tenants) {
        if let Some(why) = end.misconfigured {
            misconfigured.entry(why).or_default().insert(end.tenant_id.clone());
        }
        state.put_tenant(&end.tenant_id, end.state, now);
        if let Some(token) = &end.token {
            tokens.keep(tenant, token);
        }
    }
    for (why, tenants) in &misconfigured {
        for (tenant_id, text) in together(tenants, why) {
            state.tell_configuration(&tenant_id, &text, now);
        }
    }
    state.end_poll(now, clock.offset(), config, report.turns);
    tokens
}

/// The exit code that a run's report calls for.
fn exit_code(report: &Report) -> u8 {
    let misconfigured = report.tenants.iter().filter(|t| t.misconfigured.is_some()).count();
    if misconfigured > 0 {
        let others = if misconfigured < report.tenants.len() {
            "; all other tenants were collected"
        } else {
            ""
        };
        log::error!(
            "the credentials of {misconfigured} tenants can't be used: see the messages \
             above{others}"
        );
        2
    } else if report.halt == Some(Halt::Terminated) {
        0
    } else {
        u8::from(report.failed)
    }
}

fn warn_of_clock(clock: &Clock) {
    if let Some(why) = clock.untold() {
        log::warn!(
            "Microsoft's answers do not tell the time (the header Date {why}): this machine's clock \
             decides how far streams are collected; check that it is right (NTP), and whether a proxy \
             changes headers"
        );
    }
    let offset = clock.offset();
    if clock.seen() && offset.abs() > CLOCK_TOLERANCE {
        let (behind, by) = if offset > 0 { ("behind", offset) } else { ("ahead", -offset) };
        log::warn!(
            "this machine's clock is {} {behind} of Microsoft's: set it (NTP). If it is right, a proxy changes \
             the header Date, and content is missed: positions go by that header",
            age(by)
        );
    }
}

fn log_summary(report: &Report, bytes: u64, requests: u64, begun: Instant) {
    let why = match &report.halt {
        Some(Halt::Time) => "; stopped by run_timeout, the next run goes on",
        Some(Halt::Output) => "; stopped by max_output, the next run goes on",
        Some(Halt::State) => "; stopped because the state is full, the next run goes on",
        Some(Halt::Terminated) => "; ended by SIGTERM, the next run goes on",
        Some(Halt::WriteFailed(_) | Halt::NoThread(_)) | None => "",
    };
    log::info!(
        "{} events from {} blobs, {bytes} bytes, {requests} requests, {:.1} s, lag {}{why}",
        report.events,
        report.blobs,
        begun.elapsed().as_secs_f64(),
        age(report.lag)
    );
}
