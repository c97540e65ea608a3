//! The command `poll`: one poll cycle from the lock to the saved state.

use std::io::{self, IsTerminal};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::api::Api;
use crate::args::{ConfigSource, PollOptions};
use crate::auth::Credentials;
use crate::clock::{Clock, local_now};
use crate::collect::{Halt, KeptToken, Report, TenantStart, collect};
use crate::config::{self, Config, Credential};
use crate::error::Error;
use crate::http::Http;
use crate::logging;
use crate::output::Output;
use crate::proxy::Environment;
use crate::secret::Secret;
use crate::state::{State, Stream};
use crate::store::{Home, read_stdin};
use crate::timestamp::{Timestamp, age};

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
    let state = folder.load_state()?;
    // A run that can't save its state must not hand out events: they would come again and again.
    let prepared = if look {
        None
    } else {
        Some(folder.prepare_save(folder.state_size_limit()).map_err(unsaved)?)
    };
    let clock = Clock::new(state.clock_offset);
    let environment = Environment::from_lookup(|name| std::env::var(name).ok());
    let ca_path = config.ca_path.as_deref().map(|path| home.resolve(path));
    let http = Http::new(config.proxy.clone(), environment, ca_path, config.max_connections);
    let mut tokens = Tokens::read(&folder.load_tokens());
    let mut next = state.clone();
    let tenants = start_tenants(&config, home, &mut next, &tokens, clock.now());
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
    next.finish_run(&mut report, &config, &clock);
    tokens.keep(&config, &mut report);
    log_summary(&report, bytes, http.requests(), begun);
    if let Some(prepared) = prepared {
        if let Err(error) = tokens.write().and_then(|bytes| folder.save_tokens(&bytes)) {
            log::warn!("the access tokens can't be kept for the next run: {error}");
        }
        folder.save_state(prepared, &next).map_err(unsaved)?;
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

fn unsaved(error: io::Error) -> Error {
    Error::Run(format!(
        "the state can't be saved in HOME/var/wodles/wodle-office365: {error}; until it can, \
         nothing is fetched, so that no event comes twice: check room and rights of that folder"
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
    let start = |tenant: &'a config::Tenant| {
        let mut kept = state.take_tenant(&tenant.tenant_id);
        for content_type in &config.subscriptions {
            kept.streams.entry(*content_type).or_insert_with(|| {
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
        TenantStart { config: tenant, credentials, token: tokens.find(tenant, now), state: kept }
    };
    config.tenants.iter().map(start).collect()
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

impl State {
    /// Takes in what a run leaves.
    fn finish_run(&mut self, report: &mut Report, config: &Config, clock: &Clock) {
        let now = clock.now();
        self.clock_offset = clock.offset();
        self.last_poll = Some(now);
        self.interval = config.interval;
        self.last_turn = report.last_turn.take();
        for tenant in &mut report.tenants {
            self.put_tenant(&tenant.tenant_id, std::mem::take(&mut tenant.state), now);
        }
        self.forget_tenants(now);
    }
}

/// The access tokens kept between runs. Each belongs to one sign-in: another client id or origin
/// is another token.
#[derive(Default, Serialize, Deserialize)]
struct Tokens(Vec<TokenEntry>);

#[derive(Serialize, Deserialize)]
struct TokenEntry {
    tenant_id: String,
    client_id: String,
    login: String,
    management: String,
    tid: Option<String>,
    expires: Timestamp,
    token: String,
}

impl TokenEntry {
    fn is_of(&self, tenant: &config::Tenant) -> bool {
        self.tenant_id == tenant.tenant_id
            && self.client_id == tenant.client_id
            && self.login == tenant.login
            && self.management == tenant.management
    }
}

impl Tokens {
    fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    fn write(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    fn find(&self, tenant: &config::Tenant, now: Timestamp) -> Option<KeptToken> {
        let whole = |entry: &&TokenEntry| entry.token.bytes().all(|b| b.is_ascii_graphic());
        let entry = self.0.iter().find(|entry| entry.is_of(tenant)).filter(whole)?;
        let kept = KeptToken {
            token: Secret::new(entry.token.as_str()),
            tid: entry.tid.clone(),
            expires: entry.expires,
        };
        kept.is_good(now).then_some(kept)
    }

    /// Keeps the tokens that the run ended with, and no others.
    fn keep(&mut self, config: &Config, report: &mut Report) {
        let tokens = report.tenants.iter_mut().map(|end| end.token.take());
        self.0 = std::iter::zip(&config.tenants, tokens)
            .filter_map(|(tenant, token)| {
                let token = token?;
                Some(TokenEntry {
                    tenant_id: tenant.tenant_id.clone(),
                    client_id: tenant.client_id.clone(),
                    login: tenant.login.clone(),
                    management: tenant.management.clone(),
                    tid: token.tid,
                    expires: token.expires,
                    token: token.token.reveal().to_owned(),
                })
            })
            .collect();
    }
}
