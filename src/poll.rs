//! The command `poll`: one poll cycle from the lock to the saved state.

use std::io::{self, IsTerminal};
use std::time::Instant;

use crate::api::Api;
use crate::args::{ConfigSource, PollOptions};
use crate::auth::Credentials;
use crate::clock::{Clock, local_now};
use crate::collect::{Halt, Report, TenantStart, collect};
use crate::config::{self, Config, Credential};
use crate::error::Error;
use crate::http::{Http, read_bundle};
use crate::logging;
use crate::output::Output;
use crate::proxy::Environment;
use crate::state::{State, Stream};
use crate::store::{Home, Loaded, read_stdin};
use crate::timestamp::{Timestamp, age};
use crate::tokens::Tokens;

/// A local clock that is further off than this is warned of, in seconds.
const CLOCK_WARNING: i64 = 300;

/// A poll may hold the lock this much longer than `run_timeout` before it counts as hanging.
const LOCK_MARGIN: u64 = 60;

/// Runs one poll cycle and returns its exit code; what went wrong is in the log.
///
/// # Errors
/// There is no place for a log.
pub fn run(options: &PollOptions, begun: Instant) -> Result<u8, Error> {
    let home = Home::open(&options.home)?;
    let log = logging::start(&home.log());
    if let Err(error) = &log {
        // Seen on a terminal only.
        log::error!("{} can't be written: {error}", home.log().display());
    }
    let result = poll(options, &home, begun);
    if let Err(error) = &result {
        log::error!("{error}");
    }
    log::logger().flush();
    match (result, log) {
        (Err(error), _) => Ok(error.exit_code()),
        // The events mattered more; but an administrator should hear of it.
        (Ok(()), Err(_)) => Ok(1),
        (Ok(()), Ok(())) => Ok(0),
    }
}

fn poll(options: &PollOptions, home: &Home, begun: Instant) -> Result<(), Error> {
    let config = read_config(options, home)?;
    log::set_max_level(options.log_level.unwrap_or(config.log_level));
    for warning in &config.warnings {
        log::warn!("configuration: {warning}");
    }
    if !config.enabled {
        log::info!("disabled by <enabled>no</enabled>: nothing to do");
        return Ok(());
    }
    let look = options.dry_run || io::stdout().is_terminal();
    if look {
        log::warn!(
            "this is only a look: nothing is saved, the next run brings the same events again"
        );
    }
    let folder = home.folder()?;
    let lock = folder.lock(local_now()).map_err(|error| {
        Error::Run(format!("the lock in HOME/var/wodles/wodle-office365 can't be used: {error}"))
    })?;
    let _lock = match lock {
        Ok(lock) => lock,
        Err(since) => return another_poll(since, &config),
    };
    let Loaded { mut state, from_previous } = folder.load_state()?;
    // A run that can't save its state must not hand out events: they would come again and again.
    let prepared = if look {
        None
    } else {
        Some(folder.prepare_save(folder.state_room()).map_err(cannot_save)?)
    };
    let clock = Clock::new(state.clock_offset);
    let environment = Environment::from_lookup(|name| std::env::var(name).ok());
    let own_roots = match &config.ca_path {
        None => Vec::new(),
        Some(path) => read_bundle(&home.resolve(path)).map_err(|why| {
            Error::Setup(format!("configuration: ca_path {} can't be used: {why}", path.display()))
        })?,
    };
    let http = Http::new(config.proxy.clone(), environment, own_roots, config.max_connections);
    let tokens = Tokens::parse(&folder.load_tokens());
    let tenants = start_tenants(&config, home, &mut state, &tokens, clock.now());
    let output = Output::stdout().map_err(|error| Error::Run(format!("stdout: {error}")))?;
    let api = Api { http: &http, clock: &clock, max_held: config.max_held };
    let mut report = collect(&config, api, &output, &state, tenants, begun);
    let bytes = output.written();
    if let Some(Halt::WriteFailed(why)) = &report.halt {
        return Err(Error::Run(format!(
            "writing the events failed ({why}): nothing of this run is saved, the next one brings \
             them again"
        )));
    }
    // From here on no network, and nothing more for Wazuh.
    output.close().map_err(|error| Error::Run(format!("closing stdout: {error}")))?;
    warn_of_clock(&clock);
    let tokens = take_down(&mut report, &mut state, &config, &clock);
    log_summary(&report, bytes, http.requests(), begun);
    if let Some(prepared) = prepared {
        let tokens = serde_json::to_vec(&tokens).map_err(io::Error::from);
        if let Err(error) = tokens.and_then(|bytes| folder.save_tokens(&bytes)) {
            log::warn!("the access tokens can't be kept for the next run: {error}");
        }
        folder.save_state(prepared, &state, from_previous).map_err(not_saved)?;
    }
    if report.misconfigured {
        return Err(Error::Setup(
            "a tenant's credentials can't be used: see the messages above; all other tenants were \
             collected"
                .to_owned(),
        ));
    }
    if report.failed {
        return Err(Error::Run("a tenant or a stream failed: see the messages above".to_owned()));
    }
    Ok(())
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

/// The lock is taken: no fault, unless the other poll should have ended long ago.
fn another_poll(since: Option<Timestamp>, config: &Config) -> Result<(), Error> {
    let most = i64::try_from(config.run_timeout + LOCK_MARGIN).unwrap_or(i64::MAX);
    let held = since.map(|since| local_now().since(since));
    match held {
        Some(held) if held > most => Err(Error::Run(format!(
            "another poll has been running for {}, longer than run_timeout and a minute: it hangs; \
             end it (kill the process wodle-office365)",
            age(held)
        ))),
        _ => {
            log::info!("another poll is running: nothing to do");
            Ok(())
        }
    }
}

/// Gathers what each configured tenant starts with; new streams get their start here, so that it
/// is saved even if the sign-in fails.
fn start_tenants<'a>(
    config: &'a Config,
    home: &Home,
    state: &mut State,
    tokens: &Tokens,
    now: Timestamp,
) -> Vec<TenantStart<'a>> {
    let is_configured =
        |name: &str| config.tenants.iter().any(|t| t.tenant_id.eq_ignore_ascii_case(name));
    let start = |tenant: &'a config::Tenant| {
        let mut kept = state.take_tenant(&tenant.tenant_id, is_configured);
        let mut has_new_stream = false;
        for content_type in &config.subscriptions {
            kept.streams.entry(*content_type).or_insert_with(|| {
                has_new_stream = true;
                let bookmark = home.native_bookmark(&tenant.tenant_id, *content_type);
                let stream = Stream::first(config.only_future_events, bookmark, now);
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
        TenantStart { config: tenant, credentials, token, state: kept, has_new_stream }
    };
    config.tenants.iter().map(start).collect()
}

/// Takes a run down in the state; gives the tokens to be kept.
fn take_down(report: &mut Report, state: &mut State, config: &Config, clock: &Clock) -> Tokens {
    let now = clock.now();
    let mut tokens = Tokens::default();
    for (tenant, end) in std::iter::zip(&config.tenants, std::mem::take(&mut report.tenants)) {
        state.put_tenant(&end.tenant_id, end.state, now);
        if let Some(token) = &end.token {
            tokens.keep(tenant, token);
        }
    }
    state.end_poll(now, clock.offset(), config.interval, std::mem::take(&mut report.turns));
    tokens
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
