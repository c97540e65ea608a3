//! Signing in with a certificate: its private key signs an assertion that stands for a secret.
//!
//! Source: Microsoft identity platform, "application authentication certificate credentials".

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RSA_PSS_SHA256, RsaKeyPair};
use ring::{digest, rand};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::{Certificate, unindented};
use crate::secret::Secret;
use crate::timestamp::{DAY, Timestamp};

/// How long an assertion may be used, in seconds: Microsoft wants 5 to 10 minutes.
const LIFETIME: i64 = 600;

/// The administrator is told from so many days before a certificate's end.
const TOLD_DAYS: i64 = 30;

/// What a new certificate takes, for messages.
const RENEW: &str = "make a new one, upload it in the Entra admin center under App registrations > \
                     your application > Certificates & secrets > Certificates, and put it and its \
                     key in the place of the old ones";

/// A private RSA key. Its memory is wiped when it is dropped; that of *ring*'s own copy, which lives
/// while an assertion is signed, is not.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    der: Zeroizing<Vec<u8>>,
    is_pkcs8: bool,
    /// PKCS#1 `RSAPublicKey`.
    public: Vec<u8>,
}

impl PrivateKey {
    /// Reads the first private key in `pem`.
    ///
    /// # Errors
    /// What is wrong with it and what would be right, without a word of it.
    pub fn read(pem: &[u8]) -> Result<Self, &'static str> {
        const ONLY_RSA: &str = "the key is no (plain) RSA key, and Microsoft takes no other: make one with \
                                openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048";
        let pem = &*unindented(pem);
        let has = |text: &str| memmem::find(pem, text.as_bytes()).is_some();
        if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
            return Err(
                "the key is encrypted with a passphrase: write it out without one (openssl \
                        pkey -in OLD -out NEW), and let nobody else read it (chmod 0600)",
            );
        }
        let Ok(mut found) = PrivateKeyDer::from_pem_slice(pem) else {
            return Err(if has("PRIVATE KEY-----") {
                "the key is damaged: its PEM is not whole"
            } else if has("BEGIN CERTIFICATE") {
                "it holds a certificate and no key: are the two files swapped?"
            } else {
                "it holds no PEM private key, which begins with -----BEGIN PRIVATE KEY----- (of a \
                 DER file: openssl pkey -inform der -in OLD -out NEW; of a .pfx: openssl pkcs12 -in \
                 FILE -nocerts -nodes)"
            });
        };
        let (der, is_pkcs8) = match &found {
            PrivateKeyDer::Pkcs8(key) => (Some(key.secret_pkcs8_der()), true),
            PrivateKeyDer::Pkcs1(key) => (Some(key.secret_pkcs1_der()), false),
            _ => (None, false),
        };
        let der = der.map(|der| Zeroizing::new(der.to_vec()));
        // Nothing else would wipe it.
        found.zeroize();
        let mut key = Self { der: der.ok_or(ONLY_RSA)?, is_pkcs8, public: Vec::new() };
        key.public = match key.pair() {
            Ok(pair) => pair.public_key().as_ref().to_vec(),
            Err(rejected) => {
                return Err(match rejected.to_string().as_str() {
                    "WrongAlgorithm" => ONLY_RSA,
                    "TooSmall" => {
                        "the key is too short, or its exponent too small: Microsoft wants 2048 bits \
                         or more, and 65537 is the usual exponent"
                    }
                    "TooLarge" => "the key is too long: 4096 bits are the most that can be used",
                    _ => {
                        "the key is damaged, or an unusual one: it must have two primes, and 2048 to \
                         4096 bits in steps of 512"
                    }
                });
            }
        };
        Ok(key)
    }

    fn pair(&self) -> Result<RsaKeyPair, ring::error::KeyRejected> {
        if self.is_pkcs8 {
            RsaKeyPair::from_pkcs8(&self.der)
        } else {
            RsaKeyPair::from_der(&self.der)
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(private key)")
    }
}

/// A certificate that was uploaded to the application, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    key: PrivateKey,
    /// The SHA-256 of its DER in base64url: by this Microsoft finds it.
    thumbprint: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl ClientCertificate {
    /// Finds the certificate in `pem` that `key` belongs to; there may be others, of its issuers, or
    /// an older one. `clocks`: the time as this machine has it, and as the API had it when it was
    /// last asked; a request is worth its while if either calls the certificate valid.
    ///
    /// # Errors
    /// There is none that is valid; the text says what is there instead.
    pub fn read(pem: &[u8], key: PrivateKey, clocks: [Timestamp; 2]) -> Result<Self, String> {
        let pem = &*unindented(pem);
        let mut found = if memmem::find(pem, b"PRIVATE KEY-----").is_some() {
            "it holds a private key and no certificate: are the two files swapped?"
        } else {
            "it holds no PEM certificate, which begins with -----BEGIN CERTIFICATE----- (of a DER \
             file: openssl x509 -inform der -in OLD -out NEW)"
        };
        let mut own: Vec<Self> = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let read = der.ok().and_then(|der| Some((Certificate::parse(&der)?, der)));
            let Some((certificate, der)) = read else {
                found = "the certificate is damaged";
                continue;
            };
            if certificate.rsa_key.as_ref() == Some(&key.public) {
                let Certificate { not_before, not_after, .. } = certificate;
                let hash = digest::digest(&digest::SHA256, &der);
                let thumbprint = URL_SAFE_NO_PAD.encode(hash);
                own.push(Self { key: key.clone(), thumbprint, not_before, not_after });
            } else {
                found = "the key of client_key_path is not the one of this certificate: the two \
                         files belong to different certificates";
            }
        }
        // The one that lasts longest of those that are valid; if none is, of all.
        own.sort_by_key(|certificate| certificate.not_after);
        let valid = own.iter().rposition(|certificate| certificate.check(clocks).is_ok());
        let at = valid.or(own.len().checked_sub(1)).ok_or(found)?;
        let certificate = own.swap_remove(at);
        certificate.check(clocks)?;
        Ok(certificate)
    }

    fn check(&self, clocks: [Timestamp; 2]) -> Result<(), String> {
        if clocks.iter().all(|now| *now > self.not_after) {
            let end = self.not_after;
            return Err(format!(
                "the certificate expired at {end} (if this machine's clock is right): {RENEW}"
            ));
        }
        if clocks.iter().all(|now| *now < self.not_before) {
            return Err(format!(
                "the certificate is not valid before {}: set this machine's clock if it is wrong, \
                 else use the old certificate until then",
                self.not_before
            ));
        }
        Ok(())
    }

    /// Whole days until it expires.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        self.not_after.since(now).div_euclid(DAY)
    }

    /// What the administrator is to be told of its end, once that is near.
    #[must_use]
    pub fn near_end(&self, now: Timestamp) -> Option<String> {
        let days = self.days_left(now);
        let left = match days {
            ..1 => "within a day".to_owned(),
            1 => "in 1 day".to_owned(),
            days => format!("in {days} days"),
        };
        (days <= TOLD_DAYS)
            .then(|| format!("its certificate expires {left}, at {}: {RENEW}", self.not_after))
    }

    /// The assertion that `client_id` signs for the endpoint `token_url` at `now`: a JWT (RFC 7523),
    /// signed with PS256.
    ///
    /// # Errors
    /// It can't be signed: the key doesn't fit together, or there are no random numbers.
    pub fn assertion(
        &self,
        client_id: &str,
        token_url: &str,
        now: Timestamp,
    ) -> Result<Secret, &'static str> {
        const FAILED: &str = "the assertion can't be signed: the key of client_key_path is damaged";
        let random = SystemRandom::new();
        let id = rand::generate(&random).map_err(|_| "this machine gives no random numbers")?;
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "aud": token_url,
            "iss": client_id,
            "sub": client_id,
            "jti": guid(id.expose()),
            "nbf": now.unix(),
            "iat": now.unix(),
            "exp": now.unix() + LIFETIME,
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let pair = self.key.pair().map_err(|_| FAILED)?;
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature)
            .map_err(|_| FAILED)?;
        Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// A random GUID (RFC 9562, version 4).
fn guid(random: [u8; 16]) -> String {
    let bits = u128::from_be_bytes(random);
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use office365_simulator::tls::client_certificate;
    use time::OffsetDateTime;

    use super::*;

    const KEY: &str = include_str!("../../tests/outside/keys/rsa.pem");

    #[test]
    fn a_certificate_is_out_of_its_time_only_if_both_clocks_say_so() {
        let at =
            |seconds: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap();
        let (pem, _) = client_certificate(KEY, at(0)..at(100));
        let key = PrivateKey::read(KEY.as_bytes()).unwrap();
        for (here, there, fault) in [
            (50_i64, 50_i64, None),
            (0, 100, None),
            (50, 101, None),
            (101, 50, None),
            (-1, 50, None),
            (101, -1, None),
            (101, 999, Some("the certificate expired at 2027-01-15T08:01:40Z (if this machine's")),
            (-1, -999, Some("the certificate is not valid before 2027-01-15T08:00:00Z: ")),
        ] {
            let clocks = [here, there].map(|by| Timestamp::from_unix(1_800_000_000 + by));
            let read = ClientCertificate::read(pem.as_bytes(), key.clone(), clocks);
            let expected = fault.unwrap_or_default();
            assert_eq!(read.is_ok(), fault.is_none(), "{here} {there}");
            assert!(read.map_or_else(|why| why.starts_with(expected), |_| true), "{here} {there}");
        }
    }

    #[test]
    fn neither_key_nor_assertion_is_shown() {
        let now = OffsetDateTime::now_utc();
        let (pem, _) = client_certificate(KEY, now..now + time::Duration::days(1));
        let key = PrivateKey::read(KEY.as_bytes()).unwrap();
        let clocks = [Timestamp::from_unix(now.unix_timestamp()); 2];
        let certificate = ClientCertificate::read(pem.as_bytes(), key, clocks).unwrap();
        let shown = format!("{certificate:?} {:?}", certificate.assertion("c", "u", clocks[0]));
        assert!(shown.contains("(private key)") && shown.ends_with("Ok((secret))"), "{shown}");
    }
}
