//! Whose certificates are believed: the system's store, or what SSL_CERT_FILE and SSL_CERT_DIR name in
//! its place, and those of `ca_path`.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

use super::verifier::Verifier;
use crate::bounded::read_at_most;
use crate::certificate::unindented;

/// The largest file of SSL_CERT_FILE: a system's has a quarter of a megabyte.
const MOST_STORE: u64 = 16 << 20;

/// The stores that the environment names in the place of the system's.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    file: Option<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Stores {
    /// Picks SSL_CERT_FILE and SSL_CERT_DIR out of `variable`, a look-up of the environment.
    #[must_use]
    pub fn from_lookup(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folders = variable("SSL_CERT_DIR").unwrap_or_default();
        Self {
            file: variable("SSL_CERT_FILE").map(PathBuf::from),
            folders: std::env::split_paths(&folders)
                .filter(|folder| !folder.as_os_str().is_empty())
                .collect(),
        }
    }

    /// The variables that name them.
    #[must_use]
    pub fn variables(&self) -> Vec<&'static str> {
        let file = self.file.as_ref().map(|_| "SSL_CERT_FILE");
        let folders = (!self.folders.is_empty()).then_some("SSL_CERT_DIR");
        file.into_iter().chain(folders).collect()
    }

    /// What they are, for messages.
    fn name(&self) -> &'static str {
        match (&self.file, &*self.folders) {
            (None, []) => "the system's store",
            (Some(_), []) => "SSL_CERT_FILE",
            (None, _) => "SSL_CERT_DIR",
            (Some(_), _) => "SSL_CERT_FILE and SSL_CERT_DIR",
        }
    }

    /// The certificates in the stores.
    fn load(&self) -> Result<CertificateResult, String> {
        let Self { file, folders } = self;
        if file.is_none() && folders.is_empty() {
            return Ok(load_native_certs());
        }
        let names = |variable: &str, path: &Path, fault: &str| {
            format!("the environment variable {variable} names {}, which {fault}", path.display())
        };
        if let Some(path) = file {
            if path.as_os_str().is_empty() {
                return Err(
                    "the environment variable SSL_CERT_FILE is set, but empty: unset it, or \
                            let it name a file"
                        .to_owned(),
                );
            }
            let text = File::open(path).and_then(|file| read_at_most(file, MOST_STORE));
            let text = text.map_err(|error| {
                names("SSL_CERT_FILE", path, &format!("can't be read: {error}"))
            })?;
            if memmem::find(&text, b"-----BEGIN CERTIFICATE-----").is_none() {
                return Err(names("SSL_CERT_FILE", path, "holds no PEM certificate"));
            }
        }
        for path in folders {
            path.read_dir()
                .map_err(|error| names("SSL_CERT_DIR", path, &format!("can't be read: {error}")))?;
        }
        // Together, for a file that is in the folder, too, is read once then.
        let mut found =
            load_certs_from_paths(file.as_deref(), folders.first().map(PathBuf::as_path));
        for folder in folders.iter().skip(1) {
            let mut more = load_certs_from_paths(None, Some(folder));
            found.certs.append(&mut more.certs);
            found.errors.append(&mut more.errors);
        }
        match folders.last() {
            Some(path) if found.certs.is_empty() => {
                Err(names("SSL_CERT_DIR", path, "holds no PEM certificate"))
            }
            _ => Ok(found),
        }
    }
}

/// Parses the bundle that `ca_path` names, as `path`; how many of its certificates can't be used is
/// logged.
///
/// # Errors
/// It holds no certificate that can be used.
pub fn parse_bundle(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let (mut usable, mut all) = (Vec::new(), 0);
    for certificate in CertificateDer::pem_slice_iter(&unindented(pem)) {
        all += 1;
        if let Ok(certificate) = certificate
            && RootCertStore::empty().add(certificate.clone()).is_ok()
        {
            usable.push(certificate.into_owned());
        }
    }
    match (usable.len(), all) {
        (_, 0) => return Err("it holds no PEM certificate".to_owned()),
        (0, _) => return Err(format!("of the {all} certificates in it none can be used")),
        (good, _) if good < all => {
            log::warn!(
                "ca_path {}: {} of {all} certificates can't be used",
                path.display(),
                all - good
            );
        }
        _ => {}
    }
    Ok(usable)
}

/// What TLS connections begin with: trust in `stores` and in the certificates of `own`.
///
/// # Errors
/// There is nothing to trust; the text says what to do.
pub(super) fn client_config(
    stores: &Stores,
    own: &[CertificateDer<'static>],
) -> Result<Arc<ClientConfig>, String> {
    let found = stores.load()?;
    let store = stores.name();
    for error in &found.errors {
        log::warn!("trusted certificates: {store}: {error}");
    }
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        log::warn!(
            "trusted certificates: {store}: {unusable} of {} can't be used",
            usable + unusable
        );
    }
    roots.add_parsable_certificates(own.iter().cloned());
    if roots.is_empty() {
        return Err("there is no trusted certificate on this machine: install the package \
                    ca-certificates, or name a PEM bundle with ca_path"
            .to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            inner,
            store,
            has_own: !own.is_empty(),
        }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(variables: &[(&str, &str)]) -> Stores {
        Stores::from_lookup(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn what_the_environment_names_takes_the_systems_place() {
        let named = stores(&[("SSL_CERT_FILE", "/a"), ("SSL_CERT_DIR", "/b::/c")]);
        assert_eq!(named.file, Some(PathBuf::from("/a")));
        assert_eq!(named.folders, [PathBuf::from("/b"), PathBuf::from("/c")]);
        let none = stores(&[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "")]);
        assert_eq!((none.file, none.folders), (Some(PathBuf::new()), vec![]));
    }

    #[test]
    fn a_store_that_is_named_and_can_not_be_read_or_is_empty_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("empty"), "").unwrap();
        std::fs::create_dir(path("none")).unwrap();
        let load = |variables: &[(&str, &str)]| {
            client_config(&stores(variables), &[]).map(drop).unwrap_err()
        };
        let missing = load(&[("SSL_CERT_FILE", &path("missing"))]);
        assert!(
            missing.contains("SSL_CERT_FILE names ") && missing.contains("can't be read: No such"),
            "{missing}"
        );
        let empty = load(&[("SSL_CERT_FILE", &path("empty"))]);
        assert!(empty.ends_with("/empty, which holds no PEM certificate"), "{empty}");
        let missing = load(&[("SSL_CERT_DIR", &path("missing"))]);
        assert!(
            missing.contains("SSL_CERT_DIR names ") && missing.contains("can't be read: No such"),
            "{missing}"
        );
        let unnamed = load(&[("SSL_CERT_FILE", "")]);
        assert!(unnamed.contains("SSL_CERT_FILE is set, but empty: unset it"), "{unnamed}");
        let none = load(&[("SSL_CERT_DIR", &path("none"))]);
        assert!(none.ends_with("/none, which holds no PEM certificate"), "{none}");
    }

    #[test]
    fn a_bundle_without_a_certificate_that_can_be_used_is_an_error() {
        let read = |pem: &str| parse_bundle(Path::new("p"), pem.as_bytes()).map(|good| good.len());
        assert_eq!(read("no PEM"), Err("it holds no PEM certificate".to_owned()));
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let none = "of the 2 certificates in it none can be used";
        assert_eq!(read(&bad.repeat(2)), Err(none.to_owned()));
        let (ca, _) = office365_simulator::tls::ca_and_server(&["localhost"]);
        assert_eq!(read(&format!("{bad}{ca}{bad}")), Ok(1));
    }
}
