//! What `check` makes of our own files, and of the environment.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::finding::Findings;
use crate::args::{Common, ConfigSource};
use crate::clock::local_now;
use crate::config::{Config, Credential};
use crate::error::Error;
use crate::http::Network;
use crate::logging;
use crate::setup::config_path;
use crate::state::State;
use crate::store::{Home, Loaded};

/// The log, which polls need as well.
pub(super) fn log(home: &Home, findings: &mut Findings) {
    let name = home.log().display().to_string();
    match logging::start(home.open_log()) {
        Ok(()) => match home.log_fault(0o027) {
            Some(fault) => findings.warning("log", fault),
            None => findings.ok("log", name),
        },
        Err(error) => findings.failure(
            "log",
            format!("{name} can't be written: {error}; polls end with exit code 1 until it can"),
        ),
    };
    if !rustix::process::geteuid().is_root() {
        findings.warning(
            "user",
            "Wazuh runs polls as root, and you are somebody else: what you may do, or not, says \
             nothing about them; run check with sudo",
        );
    }
}

/// Why the configuration can't be used.
pub(super) fn unusable(home: &Home, common: &Common, error: &Error) -> String {
    match error {
        Error::Config(error) => error.to_string(),
        _ if common.config == ConfigSource::Default && !home.config().exists() => format!(
            "{} is not there: put the commented example wodle-office365.conf there (it comes with \
             the guide), owner root, group wazuh, mode 0640, with your own ids and secret",
            home.config().display()
        ),
        error => error.to_string(),
    }
}

/// The configuration as it was read.
pub(super) fn configuration(
    home: &Home,
    common: &Common,
    config: &Config,
    findings: &mut Findings,
) {
    let path = config_path(common, home);
    let name = path.as_ref().map_or("(stdin)".to_owned(), |path| path.display().to_string());
    let meta = path.and_then(|path| fs::metadata(path).ok());
    let mode = meta.as_ref().map(|meta| meta.permissions().mode() & 0o7777);
    let owner = meta.map(|meta| format!(", owner {}, group {}", meta.uid(), meta.gid()));
    findings.ok(
        "configuration",
        format!(
            "{name}: tenants: {}, content types: {}{}{}",
            config.tenants.len(),
            config.subscriptions.len(),
            owner.unwrap_or_default(),
            mode.map_or(String::new(), |mode| format!(", mode {mode:04o}")),
        ),
    );
    for warning in &config.warnings {
        findings.warning("configuration", warning);
    }
    let mut credentials = config.tenants.iter().map(|tenant| &tenant.credential);
    let holds_secrets = credentials.any(|known| matches!(known, Credential::Secret(_)));
    if holds_secrets && mode.is_some_and(|mode| mode & 0o004 != 0) {
        findings.warning(
            "configuration",
            format!("{name} holds a client_secret, and everyone may read it: chmod 0640 {name}"),
        );
    }
    if !config.enabled {
        findings.warning(
            "configuration",
            "<enabled>no</enabled>: polls do nothing; say <enabled>yes when all here is well",
        );
    }
    if config.enabled && config.lookback < config.interval {
        findings.warning(
            "configuration",
            "lookback is shorter than interval: content that becomes available late may be missed",
        );
    }
}

/// The state, if it can be used; none where no poll has left one, or an unusable one.
pub(super) fn state(home: &Home, config: &Config, findings: &mut Findings) -> Option<State> {
    let found = home.look().and_then(|folder| {
        for fault in folder.too_open() {
            findings.warning("state", fault);
        }
        folder.load_state().map(|loaded| (folder, loaded))
    });
    let (folder, Loaded { state, damage, .. }) = match found {
        Ok(found) => found,
        Err(error) => {
            findings.failure("state", error.to_string());
            return None;
        }
    };
    if let Some(damage) = damage {
        findings.warning("state", damage);
    }
    let now = local_now().plus(state.clock_offset);
    match (state.last_poll, state.overdue(now, folder.locked_since())) {
        (Some(_), Some(overdue)) if config.enabled => findings.failure("state", overdue),
        (Some(last), _) => findings.ok("state", format!("the last poll ended at {last}")),
        (None, _) => findings.ok("state", "no poll has run to its end yet"),
    };
    Some(state)
}

/// What comes from the environment, of which Wazuh's daemon has another one.
pub(super) fn environment(network: &Network, config: &Config, findings: &mut Findings) {
    const OTHER: &str = "wazuh-modulesd, which starts the polls, has another environment than this \
                         shell";
    if let Some(name) = network.environment.https_variable().filter(|_| config.proxy.is_none()) {
        findings.warning(
            "environment",
            format!(
                "the proxy comes from {name} only, and {OTHER}: write it into the configuration as \
                 <proxy>"
            ),
        );
    }
    for name in network.stores.variables() {
        findings.warning(
            "environment",
            format!(
                "trusted certificates come from {name}, and {OTHER}: name yours with <ca_path> in \
                 the configuration"
            ),
        );
    }
}
