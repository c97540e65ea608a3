//! What the Management Activity API says: content types, listings of content blobs,
//! subscriptions, and errors with what each means for us.
//!
//! Source: "Office 365 Management Activity API reference" and its error table; where a status was
//! only observed on the wire, the comment says so.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codes::{self, Explanation};
use crate::lenient::Scalar;
use crate::timestamp::Timestamp;
use crate::words::Hidden;

/// One of the API's five content types. With a tenant it makes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentType {
    /// Entra ID: sign-ins and changes of users, groups, roles, applications.
    AzureActiveDirectory,
    /// Mailboxes and their settings.
    Exchange,
    /// Files and sites, OneDrive included.
    SharePoint,
    /// Everything else, Teams included.
    General,
    /// Matches of data-loss rules.
    Dlp,
}

impl ContentType {
    /// All of them, in the order that messages list them.
    pub const ALL: [Self; 5] =
        [Self::AzureActiveDirectory, Self::Exchange, Self::SharePoint, Self::General, Self::Dlp];

    /// The API's name for it, which is also the value of `subscription` and of `Subscription`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AzureActiveDirectory => "Audit.AzureActiveDirectory",
            Self::Exchange => "Audit.Exchange",
            Self::SharePoint => "Audit.SharePoint",
            Self::General => "Audit.General",
            Self::Dlp => "DLP.All",
        }
    }

    /// The one that `name` names, to the letter.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// The application role that a token needs for it.
    #[must_use]
    pub fn role(self) -> &'static str {
        match self {
            Self::Dlp => "ActivityFeed.ReadDlp",
            _ => "ActivityFeed.Read",
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for ContentType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ContentType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::by_name(&name).ok_or_else(|| serde::de::Error::custom("not a content type"))
    }
}

/// One item of a content listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The API's id, with its `$`.
    pub id: String,
    /// Where to fetch it. Handed out by the server, so to be checked before a token goes there.
    pub uri: String,
    /// When it became available; none where the server sent something unreadable.
    pub created: Option<Timestamp>,
    /// When the API forgets it.
    pub expires: Option<Timestamp>,
}

/// The longest content id, in bytes, that is remembered; the longest seen has 130.
pub const MAX_ID: usize = 1024;

/// The longest address of a blob, in bytes, that is remembered; the longest seen has 260.
pub const MAX_URI: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListingItem {
    content_id: String,
    content_uri: String,
    #[serde(default)]
    content_created: Scalar,
    #[serde(default)]
    content_expiration: Scalar,
}

/// A time, where it can be read.
fn time(member: &Scalar) -> Option<Timestamp> {
    member.text().and_then(Timestamp::parse)
}

/// Reads one page of a content listing. A time that cannot be read is none; an item without a usable
/// id or address makes the page unusable, for what it stands for could not be remembered.
///
/// # Errors
/// The body is no listing; the text says in which way.
pub fn parse_listing(body: &[u8]) -> Result<Vec<Blob>, String> {
    let items: Vec<ListingItem> = serde_json::from_slice(without_bom(body)).map_err(|error| {
        // It may quote the answer: the caller hides secrets first, and only then cuts it.
        format!("the answer is no list of content blobs; is a proxy in between? ({error})")
    })?;
    for (index, item) in items.iter().enumerate() {
        check_lengths(item).map_err(|why| {
            format!(
                "item {} of the list of content blobs {why}. Nothing of the list is collected before \
                 that is fixed: report it to Microsoft, or check whether a proxy changes answers",
                index + 1
            )
        })?;
    }
    let blob = |item: ListingItem| Blob {
        created: time(&item.content_created),
        expires: time(&item.content_expiration),
        id: item.content_id,
        uri: item.content_uri,
    };
    Ok(items.into_iter().map(blob).collect())
}

/// Ids and addresses are remembered, so they are bounded.
fn check_lengths(item: &ListingItem) -> Result<(), String> {
    let (id, uri) = (item.content_id.len(), item.content_uri.len());
    if id == 0 {
        return Err("has an empty content id".to_owned());
    }
    if id > MAX_ID {
        return Err(format!("has a content id of {id} bytes; at most {MAX_ID} are allowed"));
    }
    if uri > MAX_URI {
        return Err(format!("has an address of {uri} bytes; at most {MAX_URI} are allowed"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionItem {
    #[serde(default)]
    content_type: Scalar,
    #[serde(default)]
    status: Scalar,
}

/// What `/subscriptions/list` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// The content types whose subscription is on.
    pub enabled: Vec<ContentType>,
    /// Those of which the list does not say in a usable way whether it is on: only listing their content
    /// tells.
    pub unclear: Vec<ContentType>,
}

/// Reads the answer of `/subscriptions/list`.
///
/// `status` is sometimes missing (observed); an object without it counts as enabled. With any value but
/// `enabled` and `disabled` it is unclear. An item that does not say which content type it is of may be
/// of any that the rest of the list does not name. Names have been seen in another letter case.
///
/// # Errors
/// The body is no list of subscriptions; the text says in which way.
pub fn parse_subscriptions(body: &[u8]) -> Result<Subscriptions, String> {
    let items: Vec<SubscriptionItem> =
        serde_json::from_slice(without_bom(body)).map_err(|error| {
            format!("the answer is no list of subscriptions; is a proxy in between? ({error})")
        })?;
    let mut list = Subscriptions::default();
    let mut disabled = Vec::new();
    let mut is_nameless = false;
    for item in items {
        let Some(name) = item.content_type.text() else {
            is_nameless = true;
            continue;
        };
        let is_it = |known: &ContentType| known.name().eq_ignore_ascii_case(name);
        let Some(content_type) = ContentType::ALL.into_iter().find(is_it) else {
            continue;
        };
        let is = |status: &str| item.status.text().is_some_and(|s| s.eq_ignore_ascii_case(status));
        match item.status {
            Scalar::Absent => list.enabled.push(content_type),
            _ if is("enabled") => list.enabled.push(content_type),
            _ if is("disabled") => disabled.push(content_type),
            _ => list.unclear.push(content_type),
        }
    }
    if is_nameless {
        list.unclear.extend(ContentType::ALL.into_iter().filter(|name| !disabled.contains(name)));
    }
    list.unclear.retain(|name| !list.enabled.contains(name));
    Ok(list)
}

/// Whether a body that should be an array is an error object instead (observed, with status 200).
#[must_use]
pub fn is_error_body(body: &[u8]) -> bool {
    let body = without_bom(body);
    body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// `body` without the byte order mark that some answers begin with (observed).
#[must_use]
pub fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}

/// What an error answer calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// A passing fault: send the request again.
    Retry,
    /// Too many requests: pause the whole tenant, then send it again.
    Pause,
    /// The token is not (or no longer) taken: sign in anew, once.
    Renew,
    /// The token lacks a permission, unless it was given since: sign in anew if the token is old.
    Consent,
    /// It may be the token's fault, which the server finds too long, for example: sign in anew if the token
    /// is old.
    RenewOld,
    /// The subscription is missing or disabled: start it.
    Subscribe,
    /// The subscription is already on: what was asked for is so.
    AlreadyOn,
    /// The window is outside what the API allows: clamp it and list again.
    Clamp,
    /// The link to the next page is not taken: list the window from its first page.
    ListAgain,
    /// The API knows no such content: it is gone, if it says so twice.
    Missing,
    /// The content has expired: it is gone.
    Expired,
    /// It took too long, and would again: not in this run any more.
    Slow,
    /// Only a person can mend it: configuration, consent, licence, or a fault of ours.
    Refused,
}

impl Reaction {
    /// Whether another token may help.
    #[must_use]
    pub fn concerns_token(self) -> bool {
        matches!(self, Self::Renew | Self::RenewOld | Self::Consent)
    }
}

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `AF…`, or the free text that stood there; empty where the body has none.
    pub code: String,
    /// The server's words, or the beginning of its body.
    pub message: String,
    /// What to do.
    pub reaction: Reaction,
    /// What it means and what a person can do, where it is known.
    pub explanation: Option<Explanation>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                write!(f, " {part}")?;
            }
        }
        match self.explanation {
            Some(explanation) => write!(f, " - {explanation}"),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    code: Scalar,
    #[serde(default)]
    message: Scalar,
}

#[derive(Deserialize)]
struct PlainMessage {
    #[serde(rename = "Message")]
    message: String,
}

/// Classifies an error answer: by code, then by status, then by the body's shape.
#[must_use]
pub fn classify(status: u16, body: &[u8], hidden: Hidden<'_>) -> Refusal {
    let body = without_bom(body);
    let (code, message) = if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        let ErrorDetail { code, message } = body.error;
        (hidden.excerpt(&code.to_string()), hidden.excerpt(&message.to_string()))
    } else if let Ok(body) = serde_json::from_slice::<PlainMessage>(body) {
        (String::new(), hidden.excerpt(&body.message))
    } else {
        (String::new(), hidden.excerpt(&String::from_utf8_lossy(body)))
    };
    let explanation = codes::explain(&code);
    let (reaction, explanation) = match by_code(&code, &message) {
        Some(reaction) => (reaction, explanation),
        None => by_status(status, &code),
    };
    Refusal { status, code, message, reaction, explanation }
}

/// What a code calls for; what it means stands in [`codes`].
fn by_code(code: &str, message: &str) -> Option<Reaction> {
    Some(match code {
        // Documented with status 403, seen with 429.
        "AF429" => Reaction::Pause,
        "AF10001" => Reaction::Consent,
        "AF20001" | "AF20002" | "AF20003" | "AF20010" | "AF20011" | "AF20012" | "AF20013"
        | "AF20020" => Reaction::Refused,
        "AF20022" | "AF20023" => Reaction::Subscribe,
        "AF20024" => Reaction::AlreadyOn,
        "AF20030" | "AF20055" => Reaction::Clamp,
        "AF20031" => Reaction::ListAgain,
        "AF20050" | "AF20052" => Reaction::Missing,
        "AF20051" => Reaction::Expired,
        _ if code.starts_with("AF5") => Reaction::Retry,
        _ if code.starts_with(codes::AUDITING_OFF) && message.contains("does not exist") => {
            Reaction::Refused
        }
        _ => return None,
    })
}

const NOT_DOCUMENTED: &str = "no documented answer: see the Office 365 Management Activity API reference, Errors, \
    and whether a proxy is in between";

fn by_status(status: u16, code: &str) -> (Reaction, Option<Explanation>) {
    let (reaction, meaning) = match status {
        // A 200 whose body is not what was asked for: a gateway's page, a cut answer.
        200..=299 => (Reaction::Retry, "the answer is not what the API documents"),
        300..=399 => (
            Reaction::Refused,
            "a redirect, which is never followed with a token: is a proxy or a sign-in page in between?",
        ),
        401 => (
            Reaction::Renew,
            "the token was not accepted: does tenant_id name the tenant, and api_type its cloud?",
        ),
        407 => (Reaction::Refused, "the proxy wants a user and a password: see the option proxy"),
        429 | 503 => (Reaction::Pause, "the API asks us to slow down"),
        408 | 500..=599 => (Reaction::Retry, "a passing fault of the server or of a gateway"),
        // Only the API's own codes say that content is gone.
        404 | 410 => (Reaction::Refused, "the server, or a gateway, knows nothing at this address"),
        403 => (
            Reaction::Refused,
            "that is no answer of the API: does a proxy or a firewall forbid it?",
        ),
        413 | 431 => (
            Reaction::RenewOld,
            "the server, or a gateway, finds the request's headers too large: a new token is tried; if \
             this lasts, the application may have too many roles or claims",
        ),
        // A server in front of the API says so where it finds a header too long.
        400 if code.is_empty() => (Reaction::RenewOld, NOT_DOCUMENTED),
        _ => (Reaction::Refused, NOT_DOCUMENTED),
    };
    (reaction, Some(Explanation::plain(meaning)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn error(code: &str) -> String {
        format!(r#"{{"error":{{"code":"{code}","message":"words"}}}}"#)
    }

    #[test]
    fn every_code_of_the_api_has_its_reaction_whatever_the_status() {
        let table = [
            ("AF429", 403, Reaction::Pause),
            ("AF429", 429, Reaction::Pause),
            ("AF10001", 401, Reaction::Consent),
            ("AF20001", 400, Reaction::Refused),
            ("AF20010", 400, Reaction::Refused),
            ("AF20011", 400, Reaction::Refused),
            ("AF20012", 400, Reaction::Refused),
            ("AF20013", 400, Reaction::Refused),
            ("AF20020", 400, Reaction::Refused),
            ("AF20022", 400, Reaction::Subscribe),
            ("AF20023", 400, Reaction::Subscribe),
            ("AF20024", 400, Reaction::AlreadyOn),
            ("AF20030", 400, Reaction::Clamp),
            ("AF20055", 400, Reaction::Clamp),
            ("AF20031", 400, Reaction::ListAgain),
            ("AF20050", 404, Reaction::Missing),
            ("AF20051", 400, Reaction::Expired),
            ("AF20052", 400, Reaction::Missing),
            ("AF50000", 500, Reaction::Retry),
            ("AF50005", 400, Reaction::Retry),
            ("AF99999", 400, Reaction::Refused),
            ("AF99999", 503, Reaction::Pause),
        ];
        for (code, status, reaction) in table {
            let refusal = classify(status, error(code).as_bytes(), Hidden(&[]));
            assert_eq!(
                (refusal.code.as_str(), refusal.reaction),
                (code, reaction),
                "{code} {status}"
            );
        }
    }

    #[test]
    fn other_shapes_go_by_status() {
        let table: [(u16, &[u8], Reaction, &str); 11] = [
            (413, b"", Reaction::RenewOld, ""),
            (431, b"", Reaction::RenewOld, ""),
            (400, b"<h2>Request Too Long</h2>", Reaction::RenewOld, "<h2>Request Too Long</h2>"),
            (401, b"", Reaction::Renew, ""),
            (
                401,
                br#"{"Message":"Authorization has been denied for this request."}"#,
                Reaction::Renew,
                "Authorization has been denied for this request.",
            ),
            (503, b"\xEF\xBB\xBF<html>\r\n busy</html>", Reaction::Pause, "<html> busy</html>"),
            (302, b"", Reaction::Refused, ""),
            (407, b"", Reaction::Refused, ""),
            (408, b"", Reaction::Retry, ""),
            (403, b"\xff\0x", Reaction::Refused, "\u{fffd} x"),
            (200, b"{}", Reaction::Retry, "{}"),
        ];
        for (status, body, reaction, message) in table {
            let refusal = classify(status, body, Hidden(&[]));
            assert_eq!(
                (refusal.reaction, refusal.message.as_str()),
                (reaction, message),
                "{status}"
            );
        }
        let auditing_off = br#"{"error":{"code":"StartSubscription [CorrId=1]","message":"Tenant x does not exist."}}"#;
        assert!(classify(400, auditing_off, Hidden(&[])).to_string().contains("auditing is off"));
    }

    #[test]
    fn secrets_are_hidden_however_they_are_spelt() {
        let secrets = [Secret::new("p+q\"r"), Secret::new("")];
        let body = br#"{"error":{"code":"x p\u002Bq\"r","message":"you sent p+q\u0022r"}}"#;
        let refusal = classify(400, body, Hidden(&secrets));
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str()),
            ("x (secret)", "you sent (secret)")
        );
    }

    #[test]
    fn what_is_no_list_is_quoted() {
        let body = format!("[\"{}\"]", "x".repeat(1 << 20));
        let listing = parse_listing(body.as_bytes()).map(drop);
        let subscriptions = parse_subscriptions(body.as_bytes()).map(drop);
        for why in [listing.unwrap_err(), subscriptions.unwrap_err()] {
            let shown = Hidden(&[]).excerpt(&why);
            assert!(shown.contains("invalid type: string") && shown.len() < 600, "{shown}");
        }
    }

    #[test]
    fn listings_are_read_tolerantly_but_never_guessed() {
        let page = b"\xEF\xBB\xBF[{\"contentType\":\"Audit.General\",\"contentId\":\"a$b\",\
            \"contentUri\":\"https://x/a$b\",\"contentCreated\":\"2015-05-23T17:35:00.000Z\",\
            \"contentExpiration\":\"bad\",\"new\":1}]";
        let blobs = parse_listing(page).unwrap();
        assert_eq!(blobs.len(), 1);
        assert_eq!(blobs[0].id, "a$b");
        assert_eq!(blobs[0].created, Some(Timestamp::from_unix(1_432_402_500)));
        assert_eq!(blobs[0].expires, None);
        assert_eq!(parse_listing(b"[]"), Ok(vec![]));
        for bad in [&b"{}"[..], b"", b"[{}]", b"<html>", b"[{\"contentId\":1}]"] {
            assert!(parse_listing(bad).is_err());
        }
        for bad in ["null", "7", "true", "[]", "{\"a\":1}", "\"\"", "\"0000-00-00\""] {
            let page = format!(
                "[{{\"contentId\":\"a\",\"contentUri\":\"u\",\"contentCreated\":{bad},\
                 \"contentExpiration\":{bad}}}]"
            );
            let blobs = parse_listing(page.as_bytes()).unwrap();
            assert_eq!((blobs[0].created, blobs[0].expires), (None, None), "{bad}");
        }
        assert!(is_error_body(b" {\"error\":{}}") && !is_error_body(b"[]"));
    }

    #[test]
    fn ids_and_addresses_are_bounded_in_bytes() {
        let page = |id: &str, uri: &str| {
            parse_listing(format!(r#"[{{"contentId":"{id}","contentUri":"{uri}"}}]"#).as_bytes())
        };
        let text = |bytes| "x".repeat(bytes);
        assert!(page(&text(1024), &text(4096)).is_ok());
        // Two bytes a character; and a character that is longer as JSON than in memory.
        assert!(page(&"\u{e9}".repeat(512), "u").is_ok());
        assert!(page(&r"\u00e9".repeat(512), "u").is_ok());
        for (id, uri, why) in [
            (text(1025), text(1), "a content id of 1025 bytes; at most 1024 are"),
            ("\u{e9}".repeat(513), text(1), "a content id of 1026 bytes"),
            (text(1), text(4097), "an address of 4097 bytes; at most 4096 are"),
            (String::new(), text(1), "an empty content id"),
        ] {
            let error = page(&id, &uri).unwrap_err();
            assert!(error.starts_with("item 1 of the list") && error.contains(why), "{error}");
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn a_subscription_is_enabled_disabled_or_unclear() {
        use ContentType::{AzureActiveDirectory, Dlp, Exchange, General, SharePoint};
        let body = br#"[{"contentType":"Audit.General","webhook":null},
            {"contentType":"DLP.All","status":"disabled"},{"contentType":"Audit.New"},
            {"contentType":"Audit.Exchange","status":"Enabled"},
            {"contentType":"Audit.Sharepoint","status":null}]"#;
        let list = parse_subscriptions(body).unwrap();
        assert_eq!((list.enabled, list.unclear), (vec![General, Exchange, SharePoint], vec![]));
        for status in ["7", "[]", "true", r#""""#, r#""suspended""#] {
            let body = format!(r#"[{{"contentType":"DLP.All","status":{status}}}]"#);
            let list = parse_subscriptions(body.as_bytes()).unwrap();
            assert_eq!((list.enabled, list.unclear), (vec![], vec![Dlp]), "{status}");
        }
        for nameless in ["{}", r#"{"contentType":7}"#, r#"{"contentType":null,"status":"x"}"#] {
            let body = format!(
                r#"[{{"contentType":"DLP.All","status":"disabled"}},{nameless},
                {{"contentType":"Audit.General"}}]"#
            );
            let list = parse_subscriptions(body.as_bytes()).unwrap();
            let unclear = vec![AzureActiveDirectory, Exchange, SharePoint];
            assert_eq!((list.enabled, list.unclear), (vec![General], unclear), "{nameless}");
        }
        assert!(parse_subscriptions(b"{}").is_err() && parse_subscriptions(b"[7]").is_err());
    }

    #[test]
    fn a_number_in_a_codes_place_is_shown_and_goes_by_status() {
        let body = br#"{"error":{"code":20051,"message":["x"]}}"#;
        let refusal = classify(503, body, Hidden(&[]));
        assert_eq!((refusal.code.as_str(), refusal.reaction), ("20051", Reaction::Pause));
    }

    #[test]
    fn content_types_are_known_by_their_names() {
        for content_type in ContentType::ALL {
            assert_eq!(ContentType::by_name(content_type.name()), Some(content_type));
        }
        assert_eq!(ContentType::by_name("audit.general"), None);
    }
}
