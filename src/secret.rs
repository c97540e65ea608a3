//! A text that must not be seen: client secrets, access tokens, proxy passwords.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// What is percent-encoded in a form: all but RFC 3986's unreserved characters.
pub const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A part of a token that is shorter tells nothing.
const LEAST_PART: usize = 16;

/// Holds a secret. Neither `Debug` nor `Display` shows it, and its memory is wiped when it is
/// dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes `text` into keeping. A `String` is taken as it is; of a `&str` the original stays where
    /// it was.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The ways in which it may be quoted by whoever has got it: as it is, in a form, in a page, in
    /// JSON, in base64; of a token also its parts.
    #[must_use]
    pub fn spellings(&self) -> Vec<Zeroizing<String>> {
        let text = self.reveal();
        let form = utf8_percent_encode(text, FORM).to_string();
        let twice = utf8_percent_encode(&form, FORM).to_string();
        let blanks = form.replace("%20", "+");
        let mut lower = String::with_capacity(form.len());
        let mut digits = 0;
        for c in form.chars() {
            lower.push(if digits > 0 { c.to_ascii_lowercase() } else { c });
            digits = if c == '%' { 2_u8 } else { digits.saturating_sub(1) };
        }
        let html = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let html = html.replace('"', "&quot;");
        let apostrophe = html.replace('\'', "&#39;");
        let json = serde_json::to_string(text).unwrap_or_default();
        let json = json.trim_start_matches('"');
        let json = json.strip_suffix('"').unwrap_or(json).to_owned();
        let slashes = json.replace('/', "\\/");
        let mut all =
            vec![text.to_owned(), twice, form, blanks, lower, html, apostrophe, json, slashes];
        if text.len() >= LEAST_PART / 2 {
            all.push(STANDARD.encode(text));
        }
        if text.split('.').count() == 3 {
            all.extend(text.split('.').filter(|part| part.len() >= LEAST_PART).map(str::to_owned));
        }
        all.into_iter().map(Zeroizing::new).collect()
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
