//! Telling whose certificate it is that is not believed, and what is wrong with it.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use crate::certificate::Certificate;
use crate::timestamp::Timestamp;
use crate::words::excerpt;

/// rustls's own verifier; of a certificate that it refuses the error says whose it is.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    /// Where trust comes from, for messages, and whether from `ca_path` as well.
    pub(super) store: &'static str,
    pub(super) has_own: bool,
}

impl Verifier {
    /// The error, with whose certificate it is about.
    fn named(
        &self,
        error: Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Error {
        let Error::InvalidCertificate(why) = error else {
            return error;
        };
        let refused = Refused(refusal(&why, end_entity, intermediates, self.store, self.has_own));
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        verified.map_err(|error| self.named(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls12_signature(message, certificate, signature);
        verified.map_err(|error| self.named(error, certificate, &[]))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls13_signature(message, certificate, signature);
        verified.map_err(|error| self.named(error, certificate, &[]))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a certificate was refused, and what to do.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refusal(
    why: &CertificateError,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    store: &str,
    has_own: bool,
) -> String {
    let issuer = |der: &CertificateDer<'_>| {
        Certificate::parse(der).map_or_else(|| "(unreadable)".to_owned(), |read| read.issuer)
    };
    // Of a chain any may have run out.
    let own_end = Certificate::parse(end_entity).map(|read| read.not_after);
    let above = match why {
        CertificateError::ExpiredContext { not_after, .. } if own_end != Some(time(not_after)) => {
            " (or one above it)"
        }
        _ => "",
    };
    let first = issuer(end_entity);
    let mut issued = format!("issued by \"{first}\"");
    if let Some(last) = intermediates.last().map(issuer).filter(|last| *last != first) {
        issued = format!("{issued} below \"{last}\"");
    }
    let ca = if has_own {
        "add its CA certificate to the file of ca_path"
    } else {
        "name its CA certificate with ca_path"
    };
    let otherwise = match why {
        CertificateError::UnknownIssuer if store.starts_with("SSL_") => {
            format!("see what the environment's {store} names")
        }
        CertificateError::UnknownIssuer => "update the package ca-certificates".to_owned(),
        CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. } => {
            "set this machine's clock (NTP)".to_owned()
        }
        _ => "check login_url, management_url and this machine's DNS".to_owned(),
    };
    format!(
        "its certificate, {issued}, {}{above}; if this is a proxy that opens TLS, {ca}; else \
         {otherwise}",
        fault(why)
    )
}

fn time(time: &UnixTime) -> Timestamp {
    Timestamp::from_unix(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// What is wrong with a certificate; its own words are foreign, so they are bounded.
fn fault(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "whom this machine doesn't trust".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired, at {}", time(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", time(not_before))
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "names no host (it has no subjectAltName)".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            // rustls writes `DnsName("a.example")`.
            let name = |text: &String| text.split('"').nth(1).unwrap_or(text).to_owned();
            let names: Vec<_> = presented.iter().take(20).map(name).collect();
            format!("is for {}", excerpt(&names.join(", ")))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for a server (by its extendedKeyUsage)".to_owned()
        }
        CertificateError::BadSignature => {
            "has a signature that is wrong, or a key that is too weak".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed in a way that is not safe, such as SHA-1".to_owned()
        }
        other => match excerpt(&format!("{other:?}")) {
            text if text.contains("CaUsedAsEndEntity") => {
                "is that of a CA itself, and none for a server".to_owned()
            }
            text => format!("can't be used ({text})"),
        },
    }
}

#[cfg(test)]
mod tests {
    use rustls::ExtendedKeyPurpose;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_shortly_whatever_is_presented() {
        let long = "x".repeat(100_000);
        let names = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("localhost").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let purposes = CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![ExtendedKeyPurpose::Other(vec![1; 50_000])],
        };
        let other = OtherError(Arc::new(Refused(format!("CaUsed{long}"))));
        let ca = OtherError(Arc::new(Refused("CaUsedAsEndEntity".to_owned())));
        for (why, expected) in [
            (names(&["DnsName(\"a.example\")", "b.example"]), "is for a.example, b.example"),
            (names(&[&long]), "is for xxx"),
            (names(&[]), "names no host (it has no subjectAltName)"),
            (purposes, "is not meant for a server (by its extendedKeyUsage)"),
            (CertificateError::Other(other), "can't be used (Other(OtherError(Refused(\"CaUsedxxx"),
            (CertificateError::Other(ca), "is that of a CA itself, and none for a server"),
            (CertificateError::BadEncoding, "can't be used (BadEncoding)"),
        ] {
            let text = fault(&why);
            assert!(text.starts_with(expected) && text.len() < 600, "{text}");
        }
    }

    #[test]
    fn whose_certificate_it_is_is_said_with_what_to_do() {
        let der = CertificateDer::from(vec![0]);
        let text =
            |store, has_own| refusal(&CertificateError::UnknownIssuer, &der, &[], store, has_own);
        assert_eq!(
            text("the system's store", false),
            "its certificate, issued by \"(unreadable)\", whom this machine doesn't trust; if this is \
             a proxy that opens TLS, name its CA certificate with ca_path; else update the package \
             ca-certificates"
        );
        assert!(text("SSL_CERT_FILE", true).ends_with(
            "add its CA certificate to the file of ca_path; else see what the environment's \
             SSL_CERT_FILE names"
        ));
    }
}
