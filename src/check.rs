//! The command `check`: tries everything that a poll needs, and says what is wrong, what it means and
//! what to do. It writes nothing but its log.

mod files;
mod finding;
mod tenant;
mod wazuh;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, absolute};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use log::LevelFilter;

pub use self::finding::COLOURS;
use self::finding::{Findings, Report};
use self::tenant::TenantCheck;
use crate::args::Common;
use crate::collect::is_twin;
use crate::config::{Config, Tenant};
use crate::confine::Reach;
use crate::credentials;
use crate::error::Error;
use crate::http::Http;
use crate::memory::Memory;
use crate::parent;
use crate::setup::{config_path, confine, network, read_config, tenants_named};
use crate::state::State;
use crate::store::{AGENT, Home, OSSEC, sha256};
use crate::thread::thread;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What all commands take.
    pub common: &'a Common,
    /// Only this tenant.
    pub tenant: Option<&'a str>,
    /// Start missing subscriptions.
    pub start: bool,
    /// For machines.
    pub json: bool,
}

/// Gives the text to be printed, and the exit code: 1 if anything is wrong, 2 if it is the configuration
/// as a whole, so that nothing else can be looked at.
///
/// # Errors
/// There is no home, or no such tenant.
pub fn run(request: &Request<'_>) -> Result<(String, u8), Error> {
    let home = Home::open(&request.common.home)?;
    let mut general = Findings::default();
    files::log(&home, &mut general);
    log::set_max_level(request.common.log_level.unwrap_or(LevelFilter::Info));
    let config = match read_config(request.common, &home) {
        Ok(config) => config,
        Err(error) => {
            general.failure("configuration", files::unusable(&home, request.common, &error));
            return Ok((shown(request, &Report::of(general)), 2));
        }
    };
    if request.common.log_level.is_none() {
        log::set_max_level(config.log_level);
    }
    files::configuration(&home, request.common, &config, &mut general);
    let known = files::state(&home, &config, &mut general);
    let state = known.clone().unwrap_or_default();
    wazuh_side(request, &home, &config, &state, &mut general);
    let guid = |tenant_id: &str| state.guid_of(tenant_id).map(str::to_owned);
    let tenants = match (config.tenants.as_slice(), request.tenant) {
        ([], None) => Vec::new(),
        (_, named) => tenants_named(&config, named, guid)?,
    };
    let mut report = Report::of(general);
    match network(&config, &home) {
        Ok(network) => {
            files::environment(&network, &config, &mut report.general);
            let http = Arc::new(Http::new(network));
            let files = tenants.iter().flat_map(|tenant| credentials::files(&home, tenant));
            let reach = Reach { folder: None, files: files.collect() };
            let confinement = confine(&http, &tenants, &reach);
            if confinement.is_refused() {
                report.general.warning("confinement", confinement.to_string());
            } else {
                report.general.ok("confinement", confinement.to_string());
            }
            let context = Context {
                home: &home,
                config: &config,
                state: &state,
                is_known: known.is_some(),
                http,
                memory: Arc::new(Memory::of(&config)),
                start: request.start,
            };
            report.tenants = check_tenants(&context, &tenants);
        }
        Err(error) => {
            report.general.failure("ca_path", error.to_string());
        }
    }
    let code = u8::from(report.failures() > 0);
    Ok((shown(request, &report), code))
}

/// What the checks of tenants have in common.
struct Context<'a> {
    home: &'a Home,
    config: &'a Config,
    state: &'a State,
    /// Whether that is the one that polls work with.
    is_known: bool,
    http: Arc<Http>,
    memory: Arc<Memory>,
    start: bool,
}

/// Looks at what Wazuh's own files say of us, and whether its daemon takes what polls write.
fn wazuh_side(
    request: &Request<'_>,
    home: &Home,
    config: &Config,
    state: &State,
    findings: &mut Findings,
) {
    if parent::is_queue_dead(&state.handover, &home.queue()) {
        findings.failure("Wazuh", parent::RESTART);
    }
    let ids = config.tenants.iter().flat_map(|tenant| {
        let guid = state.guid_of(&tenant.tenant_id).map(str::to_owned);
        [Some(tenant.tenant_id.to_ascii_lowercase()), guid].into_iter().flatten()
    });
    let full = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = full(&request.common.home);
    let ours = wazuh::Ours {
        home: &folder,
        config: config_path(request.common, home).map(|path| full(&path)),
        tenants: ids.collect(),
        longest_run: config.longest_run(),
        interval: u64::try_from(config.interval).unwrap_or_default(),
        remote_commands: home.internal_option("wazuh_command.remote_commands") == Some(1),
    };
    let sources = [(OSSEC, false), (AGENT, true)].map(|(path, is_remote)| {
        let (ossec, unreadable) = home.read_ossec(path);
        wazuh::Source { path: folder.join(path), ossec, unreadable, is_remote }
    });
    let hash = |path: &Path| sha256(path).ok();
    wazuh::judge(&ours, &sources, hash, findings);
}

/// Checks the tenants side by side, and gives what was found in their order.
fn check_tenants(context: &Context<'_>, tenants: &[Arc<Tenant>]) -> Vec<Findings> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Findings)>> = Mutex::default();
    let work = || {
        while let Some((n, tenant)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            tenants.get(n).map(|tenant| (n, tenant))
        } {
            let findings = TenantCheck::new(context, tenant).run();
            results.lock().unwrap_or_else(PoisonError::into_inner).push((n, findings));
        }
    };
    thread::scope(|scope| {
        for _ in 1..tenants.len().min(context.config.max_connections) {
            // Where no more threads can be started, fewer do it.
            let _ = thread("check").spawn_scoped(scope, work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(n, _)| *n);
    let mut results: Vec<_> = results.into_iter().map(|(_, findings)| findings).collect();
    tell_twins(&mut results);
    results
}

/// A tenant may be configured by its GUID and by a domain name: polls collect it once only.
fn tell_twins(results: &mut [Findings]) {
    let mut known: HashMap<String, String> = HashMap::new();
    for findings in results {
        let (Some(guid), Some(name)) = (findings.guid.clone(), findings.tenant_id.clone()) else {
            continue;
        };
        match known.entry(guid) {
            Entry::Occupied(twin) => {
                findings.failure("configuration", is_twin(twin.get()));
            }
            Entry::Vacant(free) => _ = free.insert(name),
        }
    }
}

/// The report as it was asked for; all that is not well is logged, too.
fn shown(request: &Request<'_>, report: &Report) -> String {
    report.log();
    log::logger().flush();
    if request.json {
        return report.json();
    }
    report.text()
}
