//! The command `poll`: one poll cycle from the lock to the saved state.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::api::Api;
use crate::args::{ConfigSource, Misuse, PollOptions};
use crate::auth::Credentials;
use crate::clock::{Clock, local_now};
use crate::collect::{Collection, Cycle, Halt, Report, TenantStart};
use crate::config::{self, Config, Credential};
use crate::error::Error;
use crate::http::{Http, read_bundle};
use crate::logging;
use crate::output::{Output, Turn, Written};
use crate::parent;
use crate::proxy::Environment;
use crate::state::{DeadQueue, State, Stream};
use crate::store::{Folder, Home, Loaded, Lock, Replacement, read_stdin};
use crate::timestamp::{Timestamp, age};
use crate::tokens::Tokens;

/// A local clock that is further off than this is warned of, in seconds.
const CLOCK_WARNING: i64 = 300;

/// A poll may hold the lock this much longer than `run_timeout` before it counts as hanging.
const LOCK_MARGIN: u64 = 60;

/// At the end of a run somebody may still be writing for so long: longer, and nobody reads.
const LAST_WRITE: Duration = Duration::from_millis(300);

/// Runs one poll cycle and returns its exit code; what went wrong is in the log.
///
/// # Errors
/// There is no place for a log.
pub fn run(options: &PollOptions, begun: Instant) -> Result<u8, Error> {
    let home = Home::open(&options.home)?;
    let log = logging::start_quiet(&home.log());
    if let Err(error) = &log {
        // Seen on a terminal only.
        log::error!("{} can't be written: {error}", home.log().display());
    }
    let look = options.dry_run || io::stdout().is_terminal();
    let polled = poll(options, &home, look, begun);
    let code = polled.unwrap_or_else(|error| ended_badly(&home, &error, look));
    log::logger().flush();
    // The events mattered more than a log; but an administrator should hear of it.
    Ok(if log.is_err() { code.max(1) } else { code })
}

fn poll(options: &PollOptions, home: &Home, look: bool, begun: Instant) -> Result<u8, Error> {
    let config = read_config(options, home)?;
    log::set_max_level(options.log_level.unwrap_or(config.log_level));
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
    let signals = signals()?;
    let folder = home.folder()?;
    let Some(_lock) = lock(&folder, config.run_timeout)? else {
        return Ok(0);
    };
    let mut loaded = folder.load_state()?;
    let hand_over = !look && hand_over(home, &folder, &mut loaded)?;
    // A run that can't save its state must not hand out events: they would come again and again.
    let prepared = if look {
        None
    } else {
        Some(folder.prepare_save(folder.state_room()).map_err(cannot_save)?)
    };
    let own_roots = match &config.ca_path {
        None => Vec::new(),
        Some(path) => read_bundle(&home.resolve(path)).map_err(|why| {
            Error::Setup(format!("configuration: ca_path {} can't be used: {why}", path.display()))
        })?,
    };
    let environment = Environment::from_lookup(|name| std::env::var(name).ok());
    let http = Http::new(config.proxy.clone(), environment, own_roots, config.max_connections);
    let http = Arc::new(http);
    let clock = Arc::new(Clock::new(loaded.state.clock_offset));
    let tokens = Tokens::parse(&folder.load_tokens());
    let tenants = start_tenants(&config, home, &mut loaded, &tokens, clock.now());
    let output = Output::stdout().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    let output = Arc::new(output);
    let config = Arc::new(config);
    let collection = Collection::new(Cycle {
        config: Arc::clone(&config),
        api: Api { http: Arc::clone(&http), clock: Arc::clone(&clock), max_held: config.max_held },
        output: Arc::clone(&output),
        state: loaded.state.clone(),
        tenants,
        hand_over,
        begun,
    });
    collection.run(signals);
    let turn = output.last_turn(LAST_WRITE).map_err(write_failed)?;
    let report = collection.finish();
    if let Some(Halt::WriteFailed(why)) = &report.halt {
        return Err(write_failed(io::Error::other(why.as_str())));
    }
    let code = exit_code(&report);
    warn_of_clock(&clock);
    log_summary(&report, output.written(), http.requests(), begun);
    let tokens = take_down(report, &mut loaded.state, &config, &clock);
    hand_out(turn, loaded, &folder, prepared, hand_over)?;
    if !look {
        let tokens = serde_json::to_vec(&tokens).map_err(io::Error::from);
        if let Err(error) = tokens.and_then(|bytes| folder.save_tokens(&bytes)) {
            log::warn!("the access tokens can't be kept for the next run: {error}");
        }
        folder.forget_stand_in();
    }
    Ok(code)
}

/// What ends a run early. From here on SIGTERM no longer kills: it is for whoever asks for it here.
fn signals() -> Result<Signals, Error> {
    let fault = |error| Error::Run(format!("signals can't be handled: {error}"));
    // A file that grows beyond a limit is to be an error of the write, not death.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(fault)?;
    Signals::new([SIGTERM]).map_err(fault)
}

/// Takes the lock; none where another poll has it, which is no fault, unless that one should have
/// ended long ago.
fn lock(folder: &Folder, run_timeout: u64) -> Result<Option<Lock>, Error> {
    let lock = folder.lock(local_now()).map_err(|error| {
        Error::Run(format!("the lock in HOME/var/wodles/wodle-office365 can't be used: {error}"))
    })?;
    let since = match lock {
        Ok(lock) => return Ok(Some(lock)),
        Err(since) => since,
    };
    let most = i64::try_from(run_timeout + LOCK_MARGIN).unwrap_or(i64::MAX);
    match since.map(|since| local_now().since(since)) {
        Some(held) if held > most => Err(Error::Run(format!(
            "another poll has been running for {}, longer than run_timeout and a minute: it hangs; \
             end it (kill the process wodle-office365)",
            age(held)
        ))),
        _ => {
            log::info!("another poll is running: nothing to do");
            Ok(None)
        }
    }
}

/// Takes in what our parent means for what the last run handed over, and saves that before anything
/// is fetched: so a crash repeats what one run wrote, never more. True where what this run writes
/// is handed over.
fn hand_over(home: &Home, folder: &Folder, loaded: &mut Loaded) -> Result<bool, Error> {
    let Some(modulesd) = parent::modulesd() else {
        return Ok(false);
    };
    let begun = loaded.state.begin_run(&modulesd, parent::queue(&home.queue()));
    let changed = begun.map_err(|DeadQueue| {
        Error::Run(
            "restart Wazuh (systemctl restart wazuh-manager, or wazuh-agent): the socket \
             HOME/queue/sockets/queue was made anew under the running wazuh-modulesd, which still \
             holds the old one, so all that this program writes would be lost; until then nothing \
             is fetched"
                .to_owned(),
        )
    })?;
    if changed {
        let prepared = folder.prepare_save(folder.state_room()).map_err(cannot_save)?;
        let saved = folder.save_state(prepared, &loaded.state, loaded.keep_previous);
        saved.map_err(cannot_save)?;
        loaded.keep_previous = loaded.state.last_poll.is_none();
    }
    Ok(true)
}

/// Ends a run's output with the notices that wait, as far as there is room for them, and saves the
/// state. From here on there is no network.
fn hand_out(
    mut turn: Turn<'_>,
    loaded: Loaded,
    folder: &Folder,
    prepared: Option<Replacement>,
    hand_over: bool,
) -> Result<(), Error> {
    let Loaded { mut state, keep_previous, .. } = loaded;
    let mut written = 0;
    for notice in &state.notices {
        if turn.notice(&notice.line()).map_err(write_failed)? == Written::Full {
            break;
        }
        written += 1;
    }
    turn.close().map_err(|error| Error::Run(format!("closing stdout: {error}")))?;
    if let Some(prepared) = prepared {
        state.notices_written(written, hand_over);
        folder.save_state(prepared, &state, keep_previous).map_err(not_saved)?;
    }
    Ok(())
}

/// Takes note of a wrong command line: in the log where it is a poll's, and stderr may be Wazuh's
/// pipe, on which every line becomes an event.
///
/// # Errors
/// There is no log to write it to, or it is no poll's.
pub fn misused(Misuse { error, home }: Misuse) -> Result<u8, Error> {
    let home = home.filter(|_| !io::stderr().is_terminal());
    let Some(home) = home.and_then(|home| Home::open(&home).ok()) else {
        return Err(error);
    };
    if logging::start_quiet(&home.log()).is_err() {
        return Err(error);
    }
    Ok(ended_badly(&home, &error, io::stdout().is_terminal()))
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
    let Ok(Ok(_lock)) = folder.lock(local_now()) else {
        return Ok(());
    };
    let mut loaded = folder.load_state().unwrap_or_else(|_| {
        // What was told is counted beside a state that can't be used.
        folder = folder.stand_in();
        folder.load_state().unwrap_or_default()
    });
    let hand_over = hand_over(home, &folder, &mut loaded)?;
    let now = local_now().plus(loaded.state.clock_offset);
    loaded.state.tell_configuration("", text, now);
    if loaded.state.notices.is_empty() {
        return Ok(());
    }
    let prepared = folder.prepare_save(folder.state_room()).map_err(cannot_save)?;
    let output = Output::stdout().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    let turn = output.last_turn(LAST_WRITE).map_err(write_failed)?;
    hand_out(turn, loaded, &folder, Some(prepared), hand_over)
}

fn write_failed(error: io::Error) -> Error {
    Error::Run(format!(
        "writing the events failed ({error}): nothing of this run is saved, the next one brings \
         them again"
    ))
}

fn cannot_save(error: io::Error) -> Error {
    Error::Run(format!(
        "the state can't be saved in HOME/var/wodles/wodle-office365: {error}; until it can, \
         nothing is fetched, so that no event comes twice: check room and rights of that folder"
    ))
}

fn not_saved(error: io::Error) -> Error {
    Error::Run(format!(
        "the state could not be saved in HOME/var/wodles/wodle-office365: {error}; what this run \
         wrote comes once more: check room and rights of that folder"
    ))
}

fn read_config(options: &PollOptions, home: &Home) -> Result<Config, Error> {
    let path = match &options.config {
        ConfigSource::Stdin => {
            return config::parse("(stdin)", &read_stdin()?).map_err(Error::Config);
        }
        ConfigSource::Default => home.config(),
        ConfigSource::File(path) => path.clone(),
    };
    let bytes = home.read_config(&path)?;
    config::parse(&path.display().to_string(), &bytes).map_err(Error::Config)
}

/// Gathers what each configured tenant starts with; new streams get their start here, so that it
/// is saved even if the sign-in fails.
fn start_tenants(
    config: &Config,
    home: &Home,
    loaded: &mut Loaded,
    tokens: &Tokens,
    now: Timestamp,
) -> Vec<TenantStart> {
    let is_configured =
        |name: &str| config.tenants.iter().any(|t| t.tenant_id.eq_ignore_ascii_case(name));
    let start = |tenant: &Arc<config::Tenant>| {
        let mut kept = loaded.state.take_tenant(&tenant.tenant_id, is_configured);
        let mut has_new_stream = false;
        for content_type in &config.subscriptions {
            kept.streams.entry(*content_type).or_insert_with(|| {
                has_new_stream = true;
                let bookmark = home.native_bookmark(&tenant.tenant_id, *content_type);
                let start = bookmark.or(loaded.lost_since.filter(|_| config.only_future_events));
                let stream = Stream::first(config.only_future_events, start, now);
                log::info!(
                    "{} {content_type}: first run, starting at {}",
                    tenant.tenant_id,
                    stream.position
                );
                stream
            });
        }
        let credentials = match &tenant.credential {
            Credential::Secret(secret) => Ok(Credentials::ClientSecret(secret.clone())),
            Credential::SecretFile(path) => home
                .read_secret(&home.resolve(path))
                .map(Credentials::ClientSecret)
                .map_err(|error| format!("client_secret_path: {error}")),
        };
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
    for (tenant, end) in std::iter::zip(&config.tenants, report.tenants) {
        if let Some(why) = &end.misconfigured {
            state.tell_configuration(&end.tenant_id, why, now);
        }
        state.put_tenant(&end.tenant_id, end.state, now);
        if let Some(token) = &end.token {
            tokens.keep(tenant, token);
        }
    }
    state.end_poll(now, clock.offset(), config.interval, report.turns);
    tokens
}

/// The exit code that a run's report calls for.
fn exit_code(report: &Report) -> u8 {
    if report.tenants.iter().any(|tenant| tenant.misconfigured.is_some()) {
        log::error!(
            "a tenant's credentials can't be used: see the messages above; all other tenants were \
             collected"
        );
        2
    } else if report.halt == Some(Halt::Terminated) {
        0
    } else {
        u8::from(report.failed)
    }
}

fn warn_of_clock(clock: &Clock) {
    let offset = clock.offset();
    if clock.seen() && offset.abs() > CLOCK_WARNING {
        let (behind, by) = if offset > 0 { ("behind", offset) } else { ("ahead", -offset) };
        log::warn!(
            "this machine's clock is {} {behind} of Microsoft's: set it (NTP); positions go by \
             Microsoft's",
            age(by)
        );
    }
}

fn log_summary(report: &Report, bytes: u64, requests: u64, begun: Instant) {
    let why = match &report.halt {
        Some(Halt::Time) => "; stopped by run_timeout, the next run goes on",
        Some(Halt::Output) => "; stopped by max_output, the next run goes on",
        Some(Halt::Terminated) => "; ended by SIGTERM, the next run goes on",
        Some(Halt::WriteFailed(_)) | None => "",
    };
    log::info!(
        "{} events from {} blobs, {bytes} bytes, {requests} requests, {:.1} s, lag {}{why}",
        report.events,
        report.blobs,
        begun.elapsed().as_secs_f64(),
        age(report.lag)
    );
}
