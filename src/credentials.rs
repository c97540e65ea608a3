//! Loading what a tenant signs in with, out of the configuration or the files that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;

use crate::auth::{ClientCertificate, Credentials, PrivateKey};
use crate::config::{Config, Credential, Tenant};
use crate::secret::Secret;
use crate::store::{Home, Named};
use crate::timestamp::Timestamp;

/// What is said in the place of a path that may be the secret itself.
const UNNAMED: &str =
    "the file (its name is not shown: it has no slash, so it may be the secret itself)";

/// Loads the credentials of a tenant of `config`. `clocks` are those that a certificate's validity is judged by.
///
/// # Errors
/// They can't be used; the text names the option, the file and the remedy.
pub fn load(
    home: &Home,
    config: &Config,
    tenant: &Tenant,
    clocks: [Timestamp; 2],
) -> Result<Credentials, String> {
    let writers = config.writers;
    match &tenant.credential {
        Credential::Secret(secret) => Ok(Credentials::ClientSecret(secret.clone())),
        Credential::SecretFile(path) => secret(home, path, writers)
            .map(Credentials::ClientSecret)
            .map_err(|why| format!("client_secret_path: {why}")),
        Credential::Certificate { certificate, key } => {
            let key =
                private_key(home, key, writers).map_err(|why| format!("client_key_path: {why}"))?;
            let certificate = client_certificate(home, certificate, key, writers, clocks)
                .map_err(|why| format!("client_certificate_path: {why}"))?;
            Ok(Credentials::Certificate(Arc::new(certificate)))
        }
    }
}

/// The files that hold what a tenant signs in with.
#[must_use]
pub fn files(home: &Home, tenant: &Tenant) -> Vec<PathBuf> {
    match &tenant.credential {
        Credential::Secret(_) => Vec::new(),
        Credential::SecretFile(path) => vec![home.resolve(path)],
        Credential::Certificate { certificate, key } => {
            vec![home.resolve(certificate), home.resolve(key)]
        }
    }
}

fn secret(home: &Home, path: &Path, writers: Option<u32>) -> Result<Secret, String> {
    let resolved = home.resolve(path);
    let file = shown(path, &resolved);
    let bytes = home.read_named(&resolved, Named::Secret, writers);
    let bytes = bytes.map_err(|error| hide(&error.to_string(), &resolved, &file))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{file} is not UTF-8 text"))?;
    match text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']) {
        "" => Err(format!("{file} is empty")),
        text => Ok(Secret::new(text)),
    }
}

/// Whether there is white space around the secret in a tenant's file, which [`load`] leaves out.
#[must_use]
pub fn has_white_space(home: &Home, config: &Config, tenant: &Tenant) -> bool {
    let Credential::SecretFile(path) = &tenant.credential else {
        return false;
    };
    let bytes =
        home.read_named(&home.resolve(path), Named::Secret, config.writers).unwrap_or_default();
    bytes.trim_ascii().len() < bytes.len()
}

fn private_key(home: &Home, path: &Path, writers: Option<u32>) -> Result<PrivateKey, String> {
    let resolved = home.resolve(path);
    let file = shown(path, &resolved);
    let pem = home.read_named(&resolved, Named::Secret, writers);
    let pem = pem.map_err(|error| hide(&error.to_string(), &resolved, &file))?;
    PrivateKey::read(&pem).map_err(|why| format!("{file} can't be used: {why}"))
}

fn client_certificate(
    home: &Home,
    path: &Path,
    key: PrivateKey,
    writers: Option<u32>,
    clocks: [Timestamp; 2],
) -> Result<ClientCertificate, String> {
    let path = home.resolve(path);
    let mut pem =
        home.read_named(&path, Named::Certificate, writers).map_err(|error| error.to_string())?;
    if memmem::find(&pem, b"PRIVATE KEY-----").is_some() {
        // Then it is no public file.
        pem = home.read_named(&path, Named::Secret, writers).map_err(|error| error.to_string())?;
    }
    ClientCertificate::read(&pem, key, clocks)
        .map_err(|why| format!("{} can't be used: {why}", path.display()))
}

/// How a file is called in messages.
fn shown(path: &Path, resolved: &Path) -> String {
    if path.components().count() > 1 { resolved.display().to_string() } else { UNNAMED.to_owned() }
}

fn hide(text: &str, path: &Path, shown: &str) -> String {
    text.replace(&path.display().to_string(), shown)
}
