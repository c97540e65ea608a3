//! TLS for a [`Simulator`](crate::Simulator), by a CA of its own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, Error, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A new CA's certificate, as PEM, and what a server needs that is called `names` (host names or
/// addresses), signed by it: for [`Builder::tls`](crate::Builder::tls).
///
/// # Panics
/// If one of them is no name.
#[must_use]
pub fn ca_and_server(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let (ca, certificate, key) = certify(names).expect("names that a certificate can hold");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let chain = vec![certificate.der().clone()];
            builder.with_no_client_auth().with_single_cert(chain, key)
        });
    (ca, Arc::new(config.expect("a certificate and its key")))
}

fn certify(names: &[&str]) -> Result<(String, rcgen::Certificate, KeyPair), Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    // OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
    params.distinguished_name.push(DnType::CommonName, "office365-simulator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names)?.signed_by(&key, &ca)?;
    Ok((ca.pem(), certificate, key))
}
