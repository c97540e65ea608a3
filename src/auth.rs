//! Signing in: OAuth 2.0 client credentials at Microsoft's identity platform (v2.0 endpoint).
//! Requests and answers as values; the sending is `api`'s.

mod certificate;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use zeroize::Zeroizing;

pub use self::certificate::{ClientCertificate, PrivateKey};
use crate::codes::explain;
use crate::config::is_guid;
use crate::content::{ContentType, without_bom};
use crate::lenient::{FirstNumber, Scalar};
use crate::secret::{FORM, Secret};
use crate::timestamp::Timestamp;
use crate::words::Hidden;

/// The longest token, in bytes. Microsoft's servers (http.sys) take no header of more than 16 KiB, unless they
/// are told to, and neither do most others; a token of Microsoft's has some 2 KiB.
pub const MAX_TOKEN: usize = 16 << 10;

/// Whether a request can carry a token: it has only characters that a token may have, and is not too long.
#[must_use]
pub fn is_sendable(token: &str) -> bool {
    token.len() <= MAX_TOKEN && has_token_characters(token)
}

fn has_token_characters(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())
}

/// The token as it is kept between runs is renewed this many seconds before its end.
pub const RENEW_BEFORE: i64 = 300;

/// How an application proves who it is. To add a way to sign in, add a variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A client secret.
    ClientSecret(Secret),
    /// A certificate, whose key signs an assertion.
    Certificate(Arc<ClientCertificate>),
}

/// The `client_assertion_type` of a JWT (RFC 7523).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

impl Credentials {
    /// What of them must not be shown wherever it is quoted, if it can be: a certificate's key goes nowhere.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::ClientSecret(secret) => Some(secret),
            Self::Certificate(_) => None,
        }
    }
}

/// A request for a token.
#[derive(Debug)]
pub struct TokenRequest {
    /// Its body.
    pub form: Secret,
    /// What must not be shown of it.
    secret: Secret,
}

impl TokenRequest {
    /// Makes the request of `client_id` to the endpoint `url` for a token that is good for the API
    /// at `management`. `now` is the login host's time. Every value is percent-encoded: secrets hold
    /// `+`, `&`, `%`.
    ///
    /// # Errors
    /// An assertion can't be signed.
    pub fn new(
        client_id: &str,
        management: &str,
        url: &str,
        credentials: &Credentials,
        now: Timestamp,
    ) -> Result<Self, &'static str> {
        let scope = format!("{management}/.default");
        let mut fields =
            vec![("client_id", client_id), ("scope", &scope), ("grant_type", "client_credentials")];
        // Where a secret gets to, there is room for all of it beforehand: what grows leaves what it held
        // behind.
        let (name, secret) = match credentials {
            Credentials::ClientSecret(secret) => ("client_secret", secret.clone()),
            Credentials::Certificate(certificate) => {
                fields.push(("client_assertion_type", JWT_BEARER));
                ("client_assertion", certificate.assertion(client_id, url, now)?)
            }
        };
        fields.push((name, secret.reveal()));
        let size = |(name, value): &(&str, &str)| name.len() + 2 + 3 * value.len();
        let mut form = Zeroizing::new(String::with_capacity(fields.iter().map(size).sum()));
        for (name, value) in &fields {
            if !form.is_empty() {
                form.push('&');
            }
            form.push_str(name);
            form.push('=');
            form.extend(utf8_percent_encode(value, FORM));
        }
        Ok(Self { form: form.into(), secret })
    }

    /// What must not be shown of an answer: the client secret, or the assertion.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// A token as the login host hands it out.
#[derive(Debug)]
pub struct Grant {
    /// The bearer token.
    pub token: Secret,
    /// Seconds that it lasts.
    pub lifetime: i64,
    /// What it says about itself, where that can be read.
    pub claims: Claims,
}

/// The claims of an access token that concern us. The token is the API's matter, not ours, so
/// what can't be read is simply absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The tenant it was issued for: a GUID.
    pub tid: Option<String>,
    /// The application roles that an administrator consented to; none where the token can't be
    /// read, empty where it can be and holds none.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}

impl Claims {
    /// Reads the claims out of a JWT, without judging its signature.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let claims = token
            .split('.')
            .nth(1)
            .and_then(|payload| URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok())
            .and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        claims.map_or_else(Self::default, |claims| Self {
            roles: Some(claims.roles.unwrap_or_default()),
            // It is kept, and becomes a part of addresses.
            tid: claims.tid.filter(|tid| is_guid(tid)),
        })
    }

    /// The roles that `content_types` need and that the token surely lacks.
    #[must_use]
    pub fn missing_roles(&self, content_types: &[ContentType]) -> Vec<&'static str> {
        let Some(roles) = &self.roles else {
            return Vec::new();
        };
        let mut missing: Vec<_> = content_types
            .iter()
            .map(|content_type| content_type.role())
            .filter(|role| !roles.iter().any(|granted| granted == role))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Zeroizing<String>,
    /// RFC 6749 only recommends it. The v1 endpoint spells numbers as strings (observed).
    #[serde(default)]
    expires_in: Scalar,
}

/// What a token lasts whose answer doesn't say: Microsoft's shortest (documented).
const DEFAULT_LIFETIME: f64 = 3600.0;

/// What is wrong with a successful answer of the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadGrant {
    /// It is something else.
    NoToken,
    /// The token lasts for a time that makes no sense.
    Lifetime,
    /// No request can carry the token: it holds other characters than a header may.
    Characters,
    /// Nor one that is so long.
    TooLong,
}

impl BadGrant {
    /// Whether the same request may bring a token a moment later.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, Self::NoToken | Self::Lifetime)
    }
}

impl fmt::Display for BadGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoToken => "the answer is no token",
            Self::Lifetime => "the token's lifetime makes no sense",
            Self::Characters => "the token holds characters that no token may hold",
            Self::TooLong => {
                "the token is longer than the 16 KiB that a request can carry; has the application too \
                 many roles or claims"
            }
        })
    }
}

/// Reads a successful answer of the token endpoint.
///
/// # Errors
/// What is wrong with it, without its contents: they may be a token.
pub fn parse_grant(body: &[u8]) -> Result<Grant, BadGrant> {
    let answer: TokenAnswer =
        serde_json::from_slice(without_bom(body)).map_err(|_| BadGrant::NoToken)?;
    let lifetime = match answer.expires_in {
        Scalar::Absent => Some(DEFAULT_LIFETIME),
        Scalar::Number(seconds) => Some(seconds),
        Scalar::Text(text) => text.trim().parse().ok(),
        Scalar::Other => None,
    };
    let lifetime = lifetime.filter(|seconds| (0.0..=604_800.0).contains(seconds));
    let lifetime = lifetime.ok_or(BadGrant::Lifetime)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was looked at")]
    let lifetime = lifetime as i64;
    let token = answer.access_token;
    if !has_token_characters(&token) {
        return Err(BadGrant::Characters);
    }
    if !is_sendable(&token) {
        return Err(BadGrant::TooLong);
    }
    Ok(Grant { claims: Claims::of(&token), token: token.into(), lifetime })
}

/// A sign-in that was turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefusal {
    /// The number behind `AADSTS`, where there is one.
    pub aadsts: Option<u64>,
    /// The server's words on one line, then ours: what it means and what to do.
    pub text: String,
    /// Whether the same request may succeed later in this run.
    pub passing: bool,
}

impl LoginRefusal {
    /// Whether an assertion was not within its time (AADSTS700024).
    #[must_use]
    pub fn is_of_time(&self) -> bool {
        self.aadsts == Some(700_024)
    }
}

/// Where Microsoft explains every code of the login host.
const LOOK_UP: &str = "https://login.microsoftonline.com/error?code=";

#[derive(Deserialize)]
struct LoginErrorBody {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: FirstNumber,
}

/// Classifies an answer of the token endpoint that is no success.
#[must_use]
pub fn classify_login(status: u16, body: &[u8], hidden: Hidden<'_>) -> LoginRefusal {
    let parsed = serde_json::from_slice::<LoginErrorBody>(without_bom(body)).ok();
    let (aadsts, words) = match parsed {
        Some(parsed) if !parsed.error.is_empty() || parsed.error_codes.0.is_some() => {
            // Only the first line is about the fault; trace and correlation ids follow it.
            let first = parsed.error_description.lines().next().unwrap_or_default();
            let words = if first.is_empty() { &parsed.error } else { first };
            (parsed.error_codes.0.or_else(|| number_in(words)), hidden.excerpt(words))
        }
        _ => (None, hidden.excerpt(&String::from_utf8_lossy(body))),
    };
    let mut text = format!("HTTP {status}");
    if !words.is_empty() {
        text = format!("{text} {words}");
    }
    text = match aadsts.map(|number| (number, explain(&format!("AADSTS{number}")))) {
        Some((_, Some(explanation))) => format!("{text} - {explanation}"),
        Some((number, None)) => format!("{text} - what that means: {LOOK_UP}{number}"),
        None => format!("{text} - {}", by_status(status)),
    };
    let passing = matches!(status, 408 | 429 | 500..=599) || aadsts == Some(90_055);
    LoginRefusal { aadsts, text, passing }
}

/// What an answer means that holds none of the login host's codes.
fn by_status(status: u16) -> &'static str {
    match status {
        300..=399 => {
            "a redirect, which is never followed: is a proxy, or a page to log in to the \
                      network, in between?"
        }
        407 => "the proxy wants a user and a password: see the option proxy",
        408 | 429 | 500..=599 => {
            "a passing fault of the login host or of a gateway: it is tried again"
        }
        _ => {
            "that is no answer of Microsoft's login host: is a proxy or a gateway in between, and is \
              login_url right, if it is given?"
        }
    }
}

/// The number behind the first `AADSTS` of a text.
fn number_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("AADSTS")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "a0000000-0000-4000-8000-000000000001";

    fn jwt(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn every_value_of_the_form_is_encoded() {
        let secret = Credentials::ClientSecret(Secret::new("a+b&c=d%e f~ü"));
        let now = Timestamp::from_unix(0);
        let request =
            TokenRequest::new("id", "https://manage.office.com", "u", &secret, now).unwrap();
        assert_eq!(
            request.form.reveal(),
            "client_id=id&scope=https%3A%2F%2Fmanage.office.com%2F.default\
             &grant_type=client_credentials&client_secret=a%2Bb%26c%3Dd%25e%20f~%C3%BC"
        );
        assert_eq!(
            format!("{secret:?} {request:?}"),
            "ClientSecret((secret)) TokenRequest { form: (secret), secret: (secret) }"
        );
    }

    #[test]
    fn a_grant_is_read_in_both_spellings() {
        for seconds in ["3599", "\"3599\""] {
            let body = format!(
                "\u{feff}{{\"token_type\":\"Bearer\",\"expires_in\":{seconds},\"access_token\":\"{}\"}}",
                jwt(&format!(r#"{{"tid":"{GUID}","roles":["ActivityFeed.Read"]}}"#))
            );
            let grant = parse_grant(body.as_bytes()).unwrap();
            assert_eq!(grant.lifetime, 3599);
            assert_eq!(grant.claims.tid.as_deref(), Some(GUID));
            let needed = [ContentType::General, ContentType::Dlp];
            assert_eq!(grant.claims.missing_roles(&needed), ["ActivityFeed.ReadDlp"]);
        }
        for bad in [
            "",
            "[]",
            r#"{"access_token":3}"#,
            r#"{"access_token":"x","expires_in":-1}"#,
            r#"{"access_token":"a\r\nb","expires_in":1}"#,
            r#"{"access_token":"","expires_in":1}"#,
            r#"{"access_token":"x","expires_in":"soon"}"#,
            r#"{"access_token":"x","expires_in":[3599]}"#,
            r#"{"access_token":"x","expires_in":true}"#,
            r#"{"access_token":"x","expires_in":1e300}"#,
        ] {
            assert!(parse_grant(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_that_no_request_can_carry_is_refused() {
        let grant = |token: &str| {
            parse_grant(format!(r#"{{"access_token":"{token}"}}"#).as_bytes()).map(|_| ())
        };
        for (token, good) in [
            ("x".repeat(MAX_TOKEN), true),
            ("x".repeat(MAX_TOKEN + 1), false),
            (String::new(), false),
            ("a b".to_owned(), false),
            ("ü".to_owned(), false),
            ("a\\u007fb".to_owned(), false),
        ] {
            assert_eq!(grant(&token).is_ok(), good, "{} bytes", token.len());
        }
        assert!(is_sendable("x") && !is_sendable("a\u{7f}") && !is_sendable(""));
    }

    #[test]
    fn only_a_guid_is_taken_for_a_tenant() {
        for tid in ["t", "", "../x", &"x".repeat(10_000)] {
            assert_eq!(Claims::of(&jwt(&format!(r#"{{"tid":"{tid}"}}"#))).tid, None);
        }
    }

    #[test]
    fn a_lifetime_may_be_missing_or_broken() {
        for (seconds, expected) in
            [("", 3600), (r#","expires_in":null"#, 3600), (r#","expires_in":12.9"#, 12)]
        {
            let body = format!(r#"{{"access_token":"x"{seconds}}}"#);
            assert_eq!(parse_grant(body.as_bytes()).unwrap().lifetime, expected);
        }
    }

    #[test]
    fn an_opaque_token_accuses_nobody_and_one_without_roles_does() {
        assert_eq!(Claims::of("opaque"), Claims::default());
        assert!(Claims::of("a.!.c").missing_roles(&ContentType::ALL).is_empty());
        let without = Claims::of(&jwt(r#"{"tid":"t"}"#));
        assert_eq!(
            without.missing_roles(&ContentType::ALL),
            ["ActivityFeed.Read", "ActivityFeed.ReadDlp"]
        );
    }

    #[test]
    fn refusals_are_explained_and_stay_on_one_line() {
        let body = br#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1","error_codes":[7000215]}"#;
        let refusal = classify_login(401, body, Hidden(&[]));
        assert_eq!(refusal.aadsts, Some(7_000_215));
        assert!(
            refusal.text.starts_with("HTTP 401 AADSTS7000215: Invalid client secret provided. - ")
        );
        assert!(refusal.text.contains("instead of its Value") && !refusal.text.contains("Trace"));
        assert!(!refusal.passing);
        let body =
            br#"{"error":"invalid_client","error_description":"AADSTS700024: not in time."}"#;
        let refusal = classify_login(401, body, Hidden(&[]));
        assert!(refusal.is_of_time() && refusal.text.contains("clock (NTP)"), "{refusal:?}");
        for codes in [r#"["7000215"]"#, "7000215", "null", r#"{"a":1}"#, "[-1]"] {
            let body = format!(
                r#"{{"error":"x","error_description":"AADSTS7000215: x","error_codes":{codes}}}"#
            );
            let refusal = classify_login(401, body.as_bytes(), Hidden(&[]));
            assert!(refusal.text.contains("instead of its Value"), "{codes}: {refusal:?}");
        }
        assert!(classify_login(503, b"<html>", Hidden(&[])).passing);
        assert!(
            classify_login(400, br#"{"error":"x","error_codes":[90055]}"#, Hidden(&[])).passing
        );
        assert_eq!(
            classify_login(400, b"\x01nonsense\n", Hidden(&[])).text,
            "HTTP 400 nonsense - that is no answer of Microsoft's login host: is a proxy or a gateway \
             in between, and is login_url right, if it is given?"
        );
        assert!(
            classify_login(302, b"", Hidden(&[]))
                .text
                .starts_with("HTTP 302 - a redirect, which is")
        );
        let unknown =
            br#"{"error":"x","error_description":"AADSTS12345: new","error_codes":[12345]}"#;
        assert_eq!(
            classify_login(400, unknown, Hidden(&[])).text,
            "HTTP 400 AADSTS12345: new - what that means: \
             https://login.microsoftonline.com/error?code=12345"
        );
    }
}
