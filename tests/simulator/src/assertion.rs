//! Signing in with a certificate: checks a `client_assertion`, a JWT signed with PS256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, signature};
use serde_json::Value;

/// An uploaded certificate: what is needed of it to check a signature.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// base64url of the SHA-256 of its DER, the `x5t#S256` of a JWT's head.
    thumbprint: String,
    /// PKCS#1 `RSAPublicKey`.
    key: Vec<u8>,
}

/// What is wrong with an assertion, as the number of Microsoft's message for it.
#[derive(Debug, PartialEq)]
pub(crate) enum Wrong {
    /// 50027: no JWT.
    NotAToken,
    /// 700027: signature, or a certificate that is not registered.
    Signature,
    /// 700024: not (or no longer) valid.
    Time,
    /// 700021, 700023 and their like: issuer, subject or audience.
    Claims,
}

impl Certificate {
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        let hash = digest::digest(&digest::SHA256, der);
        Some(Self { thumbprint: URL_SAFE_NO_PAD.encode(hash), key: rsa_key(der)? })
    }

    /// Checks the assertion that `client_id` sent to `audience` at `now` (Unix seconds).
    pub(crate) fn check(
        &self,
        assertion: &str,
        client_id: &str,
        audience: &[String],
        now: i64,
    ) -> Result<(), Wrong> {
        let (signed, mac) = assertion.rsplit_once('.').ok_or(Wrong::NotAToken)?;
        let (head, claims) = signed.split_once('.').ok_or(Wrong::NotAToken)?;
        let (head, claims) = (part(head)?, part(claims)?);
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| Wrong::NotAToken)?;
        if head["alg"] != "PS256" || head["x5t#S256"] != *self.thumbprint {
            return Err(Wrong::Signature);
        }
        signature::UnparsedPublicKey::new(&signature::RSA_PSS_2048_8192_SHA256, &self.key)
            .verify(signed.as_bytes(), &mac)
            .map_err(|_| Wrong::Signature)?;
        let time = |name: &str| claims[name].as_i64();
        let expires = time("exp").ok_or(Wrong::Time)?;
        // Microsoft allows clocks to differ by five minutes.
        if expires + 300 <= now || time("nbf").is_some_and(|from| from - 300 > now) {
            return Err(Wrong::Time);
        }
        let told = claims["aud"].as_str().unwrap_or_default();
        let known = audience.iter().any(|url| url == told);
        let own = claims["iss"] == *client_id && claims["sub"] == *client_id;
        if known && own && claims["jti"].is_string() { Ok(()) } else { Err(Wrong::Claims) }
    }
}

fn part(text: &str) -> Result<Value, Wrong> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Wrong::NotAToken)?;
    serde_json::from_slice(&bytes).map_err(|_| Wrong::NotAToken)
}

/// The RSA key in a certificate: the sixth field of `TBSCertificate` behind the optional version,
/// whose second field is a BIT STRING of it.
fn rsa_key(der: &[u8]) -> Option<Vec<u8>> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        let tag = *fields.first()?;
        (_, fields) = element(fields, tag)?;
    }
    let (key_info, _) = element(fields, SEQUENCE)?;
    let (_algorithm, rest) = element(key_info, SEQUENCE)?;
    let (bits, _) = element(rest, BIT_STRING)?;
    let (&unused, key) = bits.split_first()?;
    element(key, SEQUENCE)?;
    (unused == 0).then(|| key.to_vec())
}

/// The content of the first DER element, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&short, mut rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let mut length = usize::from(short);
    if short >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(short & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |n, &digit| n << 8 | usize::from(digit));
        rest = after;
    }
    rest.split_at_checked(length)
}
