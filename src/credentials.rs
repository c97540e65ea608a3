//! Loading what a tenant signs in with, out of the configuration or the files that it names.

use std::path::Path;
use std::sync::Arc;

use crate::auth::{ClientCertificate, Credentials, PrivateKey};
use crate::config::{Credential, Tenant};
use crate::secret::Secret;
use crate::store::Home;
use crate::timestamp::Timestamp;

/// Loads a tenant's credentials. `clocks` are those that a certificate's validity is judged by.
///
/// # Errors
/// They can't be used; the text names the option, the file and the remedy.
pub fn load(home: &Home, tenant: &Tenant, clocks: [Timestamp; 2]) -> Result<Credentials, String> {
    match &tenant.credential {
        Credential::Secret(secret) => Ok(Credentials::ClientSecret(secret.clone())),
        Credential::SecretFile(path) => secret(home, path)
            .map(Credentials::ClientSecret)
            .map_err(|why| format!("client_secret_path: {why}")),
        Credential::Certificate { certificate, key } => {
            let key = private_key(home, key).map_err(|why| format!("client_key_path: {why}"))?;
            let certificate = client_certificate(home, certificate, key, clocks)
                .map_err(|why| format!("client_certificate_path: {why}"))?;
            Ok(Credentials::Certificate(Arc::new(certificate)))
        }
    }
}

fn secret(home: &Home, path: &Path) -> Result<Secret, String> {
    let path = home.resolve(path);
    let bytes = home.read_private(&path).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    match text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']) {
        "" => Err(format!("{} is empty", path.display())),
        text => Ok(Secret::new(text)),
    }
}

fn private_key(home: &Home, path: &Path) -> Result<PrivateKey, String> {
    let path = home.resolve(path);
    let pem = home.read_private(&path).map_err(|error| error.to_string())?;
    PrivateKey::read(&pem).map_err(|why| format!("{} can't be used: {why}", path.display()))
}

fn client_certificate(
    home: &Home,
    path: &Path,
    key: PrivateKey,
    clocks: [Timestamp; 2],
) -> Result<ClientCertificate, String> {
    let path = home.resolve(path);
    let pem = home.read_certificate(&path).map_err(|error| error.to_string())?;
    let unusable = |why: &str| format!("{} can't be used: {why}", path.display());
    let certificate = ClientCertificate::read(&pem, key).map_err(unusable)?;
    certificate.check(clocks).map_err(|why| unusable(&why))?;
    Ok(certificate)
}
