//! What several commands begin with: the configuration, the network, the state's lock.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::args::{Common, ConfigSource};
use crate::clock::local_now;
use crate::config::{self, Config, Tenant};
use crate::confine::{Confinement, Reach, before_the_network};
use crate::error::Error;
use crate::http::{Http, Network, Stores, Timeouts, parse_bundle};
use crate::proxy::Environment;
use crate::store::{ConfigFile, Folder, Home, Lock, Named, read_stdin};
use crate::terminal;

/// Reads the configuration.
///
/// # Errors
/// It can't be read, is refused, or wrong.
pub fn read_config(common: &Common, home: &Home) -> Result<Config, Error> {
    let Some(path) = config_path(common, home) else {
        return config::parse("(stdin)", &read_stdin()?).map_err(Error::Config);
    };
    let ConfigFile { bytes, writers } = home.read_config(&path)?;
    let name = path.display().to_string();
    // Wazuh gives its own group the right to write to ossec.conf.
    if writers.is_some() && (path == home.config() || !config::is_whole_ossec(&bytes)) {
        return Err(Error::Setup(format!(
            "{name} is not used because its group may write to it, and could so have any file of \
             root's sent anywhere: chmod g-w {name}"
        )));
    }
    let config = config::parse(&name, &bytes).map_err(Error::Config)?;
    Ok(Config { writers, ..config })
}

/// The configuration's file; none for stdin.
#[must_use]
pub fn config_path(common: &Common, home: &Home) -> Option<PathBuf> {
    match &common.config {
        ConfigSource::Default => Some(home.config()),
        ConfigSource::File(path) => Some(path.clone()),
        ConfigSource::Stdin => None,
    }
}

/// How the configuration, and the environment where that says nothing, has the network reached.
///
/// # Errors
/// The certificates of `ca_path` can't be used.
pub fn network(config: &Config, home: &Home) -> Result<Network, Error> {
    let own_roots = match &config.ca_path {
        None => Vec::new(),
        Some(path) => {
            let unusable = |why: &dyn Display| {
                let path = path.display();
                Error::Setup(format!("configuration: ca_path {path} can't be used: {why}"))
            };
            let pem = home
                .read_named(&home.resolve(path), Named::Bundle, config.writers)
                .map_err(|why| unusable(&why))?;
            parse_bundle(path, &pem).map_err(|why| unusable(&why))?
        }
    };
    Ok(Network {
        proxy: config.proxy.clone(),
        environment: Environment::from_lookup(|name| std::env::var_os(name)),
        stores: Stores::from_lookup(|name| std::env::var_os(name)),
        own_roots,
        connections: config.max_connections,
        timeouts: Timeouts::default(),
    })
}

/// The last step before the network is spoken to: the certificates that are trusted are read, and then all
/// is given up that `tenants` don't need. See [`before_the_network`] for when.
pub fn confine(http: &Http, tenants: &[Arc<Tenant>], reach: &Reach) -> Confinement {
    http.load_trust(tenants.iter().flat_map(|tenant| tenant.origins()));
    before_the_network(reach)
}

/// The configured tenants that `named` is to pick out: by `tenant_id`, or by the GUID that
/// `guid_of` knows; all of them without it.
///
/// # Errors
/// There is none; the text lists those that there are.
pub fn tenants_named(
    config: &Config,
    named: Option<&str>,
    guid_of: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Arc<Tenant>>, Error> {
    let is_it = |tenant: &&Arc<Tenant>| {
        named.is_none_or(|named| {
            tenant.tenant_id.eq_ignore_ascii_case(named)
                || guid_of(&tenant.tenant_id).is_some_and(|guid| guid.eq_ignore_ascii_case(named))
        })
    };
    let found: Vec<_> = config.tenants.iter().filter(is_it).map(Arc::clone).collect();
    if config.tenants.is_empty() {
        return Err(Error::Usage("the configuration names no tenant yet".to_owned()));
    }
    if found.is_empty() {
        let known: Vec<_> = config.tenants.iter().map(|t| t.tenant_id.as_str()).collect();
        let named = named.unwrap_or_default();
        return Err(Error::Usage(format!(
            "there is no tenant {named:?} in the configuration, only: {}",
            known.join(", ")
        )));
    }
    Ok(found)
}

/// Takes the lock of the state, waiting until no poll runs.
///
/// # Errors
/// It can't be used.
pub fn wait_for_lock(folder: &Folder) -> Result<Lock, Error> {
    let fault = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "; run this as root",
            _ => "",
        };
        Error::Run(format!("the lock can't be used: {error}{remedy}"))
    };
    if let Ok(lock) = folder.lock(local_now()).map_err(fault)? {
        return Ok(lock);
    }
    terminal::tell("wodle-office365: waiting for a running poll to end\n");
    folder.wait_for_lock(local_now).map_err(fault)
}
