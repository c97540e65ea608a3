//! TLS for a [`Simulator`](crate::Simulator), by a CA of its own; and certificates to sign in with.

use std::ops::Range;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

/// A certificate authority, which nobody trusts who isn't told to.
#[derive(Debug)]
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    /// A new one of this name.
    ///
    /// # Panics
    /// If the name is none that a certificate can hold.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a name that a certificate can hold"))
    }

    /// Its certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server needs that is called `names` (host names or addresses): for
    /// [`Builder::tls`](crate::Builder::tls).
    ///
    /// # Panics
    /// If one of them is no name.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.server_with(names, |_| {})
    }

    /// The same, with a certificate that is valid only within `time`.
    ///
    /// # Panics
    /// If one of `names` is no name.
    #[must_use]
    pub fn server_within(&self, names: &[&str], time: Range<OffsetDateTime>) -> Arc<ServerConfig> {
        self.server_with(names, |params| {
            (params.not_before, params.not_after) = (time.start, time.end);
        })
    }

    fn server_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names that a certificate can hold");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let chain = vec![certificate.der().clone()];
                builder.with_no_client_auth().with_single_cert(chain, key)
            });
        Arc::new(config.expect("a certificate and its key"))
    }
}

/// What a certificate of this name begins with. OpenSSL takes one whose issuer has its own name for
/// a self-signed one.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A new CA's certificate, as PEM, and what a server needs that is called `names` (host names or
/// addresses), signed by it.
///
/// # Panics
/// If one of them is no name.
#[must_use]
pub fn ca_and_server(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let ca = Ca::new("office365-simulator CA");
    (ca.pem(), ca.server(names))
}

/// A certificate for `key` (PEM, PKCS#8) that signs itself, as an application's do, valid within
/// `time`: as PEM, and as DER for [`Tenant::certificate`](crate::Tenant::certificate).
///
/// # Panics
/// If it is no private key.
#[must_use]
pub fn client_certificate(key: &str, time: Range<OffsetDateTime>) -> (String, Vec<u8>) {
    let key = KeyPair::from_pem(key).expect("a private key");
    let mut params = named("an application");
    (params.not_before, params.not_after) = (time.start, time.end);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), certificate.der().to_vec())
}
