//! The configuration: the `<office365>` block of ossec.conf, option for option, plus our own.
//!
//! A whole ossec.conf is taken too. Such a file is no XML document (several roots are legal there,
//! and so is a bare `&`), so the `<office365>` blocks outside of comments are cut out of it and
//! only they are parsed as XML.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use log::LevelFilter;
use roxmltree::{Document, Node};

use crate::cloud::{self, CLOUDS, Cloud};
use crate::content::{ContentType, excerpt};
use crate::event::{Exclude, Options};
use crate::proxy::Proxy;
use crate::secret::Secret;
use crate::timestamp::{DAY, HOUR, MINUTE};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What is held in memory at least and at most, whatever `curl_max_size` says: a record must fit
/// into a run's output.
const HELD: (u64, u64) = (16 * MIB, 48 * MIB);

/// What one configuration says. Times are in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether anything is to be done at all.
    pub enabled: bool,
    /// How often Wazuh starts a poll.
    pub interval: i64,
    /// The largest token answer, listing page or record held in memory.
    pub max_held: usize,
    /// Where a stream's first run starts: now, or with all that the API holds.
    pub only_future_events: bool,
    /// The tenants, in the file's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// The content types, without doubles, in the file's order.
    pub subscriptions: Vec<ContentType>,
    /// The proxy; none leaves it to the environment.
    pub proxy: Option<Proxy>,
    /// A PEM bundle that is trusted besides the system's roots.
    pub ca_path: Option<PathBuf>,
    /// Requests in flight at once.
    pub max_connections: usize,
    /// How far behind its position a stream is listed again.
    pub lookback: i64,
    /// After this a run starts nothing new.
    pub run_timeout: u64,
    /// Once it has written this much a run starts no new blob.
    pub max_output: u64,
    /// What is made of records.
    pub events: Options,
    /// What the log holds.
    pub log_level: LevelFilter,
    /// What an administrator should know though it is no error.
    pub warnings: Vec<String>,
}

/// One `api_auth` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// A GUID or a domain name, as spelt in the file.
    pub tenant_id: String,
    /// The application's id.
    pub client_id: String,
    /// How it proves who it is.
    pub credential: Credential,
    /// Origin of the login host.
    pub login: String,
    /// Origin of the Management Activity API.
    pub management: String,
}

/// Where a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `client_secret`.
    Secret(Secret),
    /// `client_secret_path`.
    SecretFile(PathBuf),
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Line and column, from 1; none where the fault has no place.
    pub position: Option<(u32, u32)>,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// The options of `<office365>`.
const OPTIONS: [&str; 15] = [
    "enabled",
    "interval",
    "curl_max_size",
    "only_future_events",
    "api_auth",
    "subscriptions",
    "proxy",
    "ca_path",
    "max_connections",
    "lookback",
    "run_timeout",
    "max_output",
    "normalize",
    "exclude",
    "log_level",
];

/// The options of `<api_auth>`.
const AUTH_OPTIONS: [&str; 9] = [
    "tenant_id",
    "client_id",
    "client_secret",
    "client_secret_path",
    "client_certificate_path",
    "client_key_path",
    "api_type",
    "login_url",
    "management_url",
];

/// The options of `<exclude>`.
const EXCLUDE_OPTIONS: [&str; 4] = ["record_type", "operation", "workload", "user_id"];

/// What a tag's value may be, for messages.
fn allowed(tag: &str) -> String {
    match tag {
        "enabled" | "only_future_events" | "normalize" => "yes, no".to_owned(),
        "interval" => "1s to 1d (number and s, m, h or d)".to_owned(),
        "lookback" => "5m to 24h (number and s, m, h or d)".to_owned(),
        "run_timeout" => "10s to 1d (number and s, m, h or d)".to_owned(),
        "curl_max_size" => "1k or more (number and k, m or g)".to_owned(),
        "max_output" => "256k to 60M (number and k, m or g)".to_owned(),
        "max_connections" => "1 to 64".to_owned(),
        "log_level" => LEVELS.to_owned(),
        "api_type" => CLOUDS.each_ref().map(|cloud| cloud.api_type).join(", "),
        "subscription" => ContentType::ALL.map(ContentType::name).join(", "),
        "tenant_id" => "a GUID or a domain name".to_owned(),
        "client_id" => "a GUID".to_owned(),
        "client_secret" => "the secret's Value".to_owned(),
        "login_url" | "management_url" => {
            "https://host[:port], or http://host[:port] where the host is a loopback address"
                .to_owned()
        }
        "record_type" => "a number, as RecordType of the records".to_owned(),
        "operation" | "workload" | "user_id" => "a value of the records".to_owned(),
        "proxy" => "http://[user:password@]host:port".to_owned(),
        _ => "a path".to_owned(),
    }
}

/// Reads the configuration `bytes` of the file that messages call `file`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Config, ConfigError> {
    // Comments outside our blocks may be in any encoding; a block itself must be UTF-8.
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        let text = "this is UTF-16: save it as UTF-8".to_owned();
        return Err(ConfigError { file: file.to_owned(), position: Some((1, 1)), text });
    }
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let fault = |position, text: String| ConfigError { file: file.to_owned(), position, text };
    let blocks = blocks(text)
        .map_err(|at| fault(Some(place(text, at)), "<office365> is never closed".to_owned()))?;
    if blocks.is_empty() {
        return Err(fault(None, "there is no <office365> block in it".to_owned()));
    }
    let mut reader = Reader { file, ..Reader::default() };
    for block in blocks {
        let before = text.get(..block.start).unwrap_or_default();
        let block = text.get(block).unwrap_or_default();
        // Blanks in place of what precedes, so that every position is one of the file.
        let mut document: String =
            before.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        document.push_str(block);
        if let Some(at) = block.find('\u{fffd}') {
            let at = place(text, before.len() + at);
            return Err(fault(Some(at), "this is not UTF-8".to_owned()));
        }
        let document = Document::parse(&document).map_err(|error| {
            // The parser's own words may quote the text, and so a secret.
            let at = error.pos();
            let text = "this is not well-formed XML: a tag is not closed, or a value holds a bare \
                        & or <; write &amp; and &lt;";
            fault(Some((at.row, at.col)), text.to_owned())
        })?;
        reader.block(document.root_element())?;
    }
    reader.finish()
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// The `<office365>` blocks outside of comments, or the start of one that is never closed.
fn blocks(text: &str) -> Result<Vec<Range<usize>>, usize> {
    const OPEN: &str = "<office365";
    const CLOSE: &str = "</office365";
    let mut blocks = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('<')) {
        at += found;
        let rest = text.get(at..).unwrap_or_default();
        // The name ends where the tag's name must end.
        let is_tag = |name: &str| {
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '\t', '\r', '\n', '>', '/']))
        };
        let tag_end = || rest.find('>').map_or(text.len(), |end| at + end + 1);
        if rest.starts_with("<!--") {
            at = rest.find("-->").map_or(text.len(), |end| at + end + 3);
        } else if open.is_none() && is_tag(OPEN) {
            let end = tag_end();
            if text.get(at..end).is_some_and(|tag| tag.ends_with("/>")) {
                blocks.push(at..end);
            } else {
                open = Some(at);
            }
            at = end;
        } else if let Some(start) = open.filter(|_| is_tag(CLOSE)) {
            let end = tag_end();
            blocks.push(start..end);
            open = None;
            at = end;
        } else {
            at += 1;
        }
    }
    open.map_or(Ok(blocks), Err)
}

/// A scalar option as it was found.
struct Value {
    text: String,
    position: (u32, u32),
}

/// Gathers the options of all blocks; several blocks are merged, as in Wazuh.
#[derive(Default)]
struct Reader<'a> {
    file: &'a str,
    scalars: Vec<(&'static str, Value)>,
    tenants: Vec<(Tenant, (u32, u32))>,
    subscriptions: Vec<ContentType>,
    exclude: Vec<Exclude>,
    last_block: Option<(u32, u32)>,
    warnings: Vec<String>,
}

/// Whether the value of a tag must not be shown.
fn is_secret(tag: &str) -> bool {
    matches!(tag, "client_secret" | "proxy")
}

impl Reader<'_> {
    fn fault<T>(&self, position: (u32, u32), text: impl Into<String>) -> Result<T, ConfigError> {
        let position = Some(position);
        Err(ConfigError { file: self.file.to_owned(), position, text: text.into() })
    }

    /// Takes in one `<office365>` block.
    fn block(&mut self, block: Node<'_, '_>) -> Result<(), ConfigError> {
        self.last_block = Some(position(block));
        for (tag, node) in self.children(block, &OPTIONS)? {
            match tag {
                "api_auth" => self.tenant(node)?,
                "subscriptions" => self.subscriptions(node)?,
                "exclude" => self.exclude(node)?,
                _ => {
                    let value = self.scalar(tag, node)?;
                    self.keep(tag, value);
                }
            }
        }
        Ok(())
    }

    /// The child elements of `node`, each with its name from `allowed`.
    fn children<'a, 'd>(
        &self,
        node: Node<'a, 'd>,
        allowed: &'static [&'static str],
    ) -> Result<Vec<(&'static str, Node<'a, 'd>)>, ConfigError> {
        let parent = node.tag_name().name();
        let mut children = Vec::new();
        if node.attributes().len() > 0 {
            return self.fault(position(node), format!("<{parent}> takes no attributes"));
        }
        for child in node.children() {
            if child.is_text() && child.text().is_some_and(|text| !text.trim().is_empty()) {
                let text = format!("there is text between the tags of <{parent}>");
                return self.fault(position(child), text);
            }
            if !child.is_element() {
                continue;
            }
            let name = child.tag_name().name();
            let Some(tag) = allowed.iter().find(|tag| **tag == name) else {
                let near = allowed.iter().find(|tag| alike(tag, name));
                let hint = near.map_or(String::new(), |tag| format!(" did you mean <{tag}>?"));
                let text = format!(
                    "<{}> is no option of <{parent}>;{hint} allowed: {}",
                    excerpt(name),
                    allowed.join(", ")
                );
                return self.fault(position(child), text);
            };
            children.push((*tag, child));
        }
        Ok(children)
    }

    /// The text of a tag that holds nothing else, without the white space around it.
    fn scalar(&self, tag: &str, node: Node<'_, '_>) -> Result<Value, ConfigError> {
        let at = position(node);
        if node.attributes().len() > 0 {
            return self.fault(at, format!("<{tag}> takes no attributes"));
        }
        if node.children().any(|child| child.is_element()) {
            return self.fault(at, format!("<{tag}> holds a tag where its value should be"));
        }
        let text: String =
            node.children().filter_map(|child| child.text().filter(|_| child.is_text())).collect();
        let text = text.trim().to_owned();
        if text.is_empty() {
            return self.fault(at, format!("<{tag}> is empty; allowed: {}", allowed(tag)));
        }
        Ok(Value { text, position: at })
    }

    /// Keeps a scalar of the block; of a doubled one the last counts, as in Wazuh.
    fn keep(&mut self, tag: &'static str, value: Value) {
        self.warn_if_doubled(tag, &value, self.scalars.iter().any(|(known, _)| *known == tag));
        self.scalars.retain(|(known, _)| *known != tag);
        self.scalars.push((tag, value));
    }

    fn warn_if_doubled(&mut self, tag: &str, value: &Value, doubled: bool) {
        if doubled {
            let (line, column) = value.position;
            let shown =
                if is_secret(tag) { String::new() } else { format!(" ({})", excerpt(&value.text)) };
            self.warnings.push(format!(
                "{}:{line}:{column}: <{tag}> is given more than once; the last one{shown} counts",
                self.file
            ));
        }
    }

    fn unsupported<T>(&self, tag: &str, node: Node<'_, '_>) -> Result<T, ConfigError> {
        let text = format!("<{tag}> is not supported yet; remove it");
        self.fault(position(node), text)
    }

    fn subscriptions(&mut self, node: Node<'_, '_>) -> Result<(), ConfigError> {
        let children = self.children(node, &["subscription"])?;
        if children.is_empty() {
            return self.fault(position(node), "<subscriptions> holds no <subscription>");
        }
        for (tag, child) in children {
            let value = self.scalar(tag, child)?;
            let Some(content_type) = ContentType::by_name(&value.text) else {
                return self.wrong(tag, &value);
            };
            if !self.subscriptions.contains(&content_type) {
                self.subscriptions.push(content_type);
            }
        }
        Ok(())
    }

    fn exclude(&mut self, node: Node<'_, '_>) -> Result<(), ConfigError> {
        let mut exclude = Exclude::default();
        for (tag, child) in self.children(node, &EXCLUDE_OPTIONS)? {
            let value = self.scalar(tag, child)?;
            let (place, text) = match tag {
                "record_type" => match quantity(&value.text, &[]) {
                    Some(number) => (&mut exclude.record_type, number.to_string()),
                    None => return self.wrong(tag, &value),
                },
                "operation" => (&mut exclude.operation, value.text.clone()),
                "workload" => (&mut exclude.workload, value.text.clone()),
                _ => (&mut exclude.user_id, value.text.clone()),
            };
            self.warn_if_doubled(tag, &value, place.replace(text).is_some());
        }
        if exclude == Exclude::default() {
            let text = format!(
                "<exclude> is empty and would leave out every record; allowed: {}",
                EXCLUDE_OPTIONS.join(", ")
            );
            return self.fault(position(node), text);
        }
        self.exclude.push(exclude);
        Ok(())
    }

    /// An error that names the tag, the value given (never a secret's) and what is allowed.
    fn wrong<T>(&self, tag: &str, value: &Value) -> Result<T, ConfigError> {
        self.wrong_because(tag, value, "")
    }

    /// The same, with what is wrong about it.
    fn wrong_because<T>(&self, tag: &str, value: &Value, why: &str) -> Result<T, ConfigError> {
        // What stands before an @ in a URL may be a password.
        let text = if tag == "client_secret" || value.text.contains('@') {
            format!("<{tag}> has a wrong value; allowed: {}{why}", allowed(tag))
        } else {
            format!("<{tag}> is \"{}\"; allowed: {}{why}", excerpt(&value.text), allowed(tag))
        };
        self.fault(value.position, text)
    }

    /// Takes in one `<api_auth>` block.
    fn tenant(&mut self, node: Node<'_, '_>) -> Result<(), ConfigError> {
        let mut values: Vec<(&'static str, Value)> = Vec::new();
        for (tag, child) in self.children(node, &AUTH_OPTIONS)? {
            if matches!(tag, "client_certificate_path" | "client_key_path") {
                return self.unsupported(tag, child);
            }
            let value = self.scalar(tag, child)?;
            self.warn_if_doubled(tag, &value, values.iter().any(|(known, _)| *known == tag));
            values.retain(|(known, _)| *known != tag);
            values.push((tag, value));
        }
        let mut take = |tag: &str| {
            let at = values.iter().position(|(known, _)| *known == tag)?;
            Some(values.swap_remove(at).1)
        };
        let id = |tag: &str, value: Option<Value>| match value {
            None => self.fault(position(node), format!("<api_auth> lacks <{tag}>")),
            // It goes into URLs and names of files: nothing but what ids and domain names hold.
            Some(value) if !is_name(&value.text) => self.wrong(tag, &value),
            Some(value) => Ok(value.text),
        };
        let tenant_id = id("tenant_id", take("tenant_id"))?;
        let client_id = id("client_id", take("client_id"))?;
        let credential = match (take("client_secret"), take("client_secret_path")) {
            (Some(secret), None) => Credential::Secret(Secret::new(secret.text)),
            (None, Some(path)) => Credential::SecretFile(PathBuf::from(path.text)),
            (Some(_), Some(path)) => {
                let text = "<client_secret> and <client_secret_path> exclude each other: keep one";
                return self.fault(path.position, text);
            }
            (None, None) => {
                let text = "<api_auth> lacks <client_secret> or <client_secret_path>";
                return self.fault(position(node), text);
            }
        };
        let cloud: &Cloud = match take("api_type") {
            None => &CLOUDS[0],
            Some(value) => match cloud::by_api_type(&value.text) {
                Some(cloud) => cloud,
                None => return self.wrong("api_type", &value),
            },
        };
        let origin = |tag: &str, value: Option<Value>, default: &str| match value {
            None => Ok(default.to_owned()),
            Some(value) => match parse_origin(&value.text) {
                Some(origin) => Ok(origin),
                None => self.wrong(tag, &value),
            },
        };
        let login = origin("login_url", take("login_url"), cloud.login)?;
        let management = origin("management_url", take("management_url"), cloud.management)?;
        let at = position(node);
        if let Some((_, (line, _))) =
            self.tenants.iter().find(|(known, _)| known.tenant_id.eq_ignore_ascii_case(&tenant_id))
        {
            let text = format!(
                "<tenant_id> \"{tenant_id}\" has an <api_auth> already, at line {line}: every event \
                 would come twice; remove one"
            );
            return self.fault(at, text);
        }
        self.tenants.push((Tenant { tenant_id, client_id, credential, login, management }, at));
        Ok(())
    }

    /// The whole configuration, once every block has been taken in.
    fn finish(mut self) -> Result<Config, ConfigError> {
        let scalars = std::mem::take(&mut self.scalars);
        let value = |tag: &str| scalars.iter().find(|(known, _)| *known == tag).map(|(_, v)| v);
        let flag = |tag: &str, default: bool| match value(tag) {
            None => Ok(default),
            Some(Value { text, .. }) if text == "yes" => Ok(true),
            Some(Value { text, .. }) if text == "no" => Ok(false),
            Some(value) => self.wrong(tag, value),
        };
        let number = |tag: &str, units, range: std::ops::RangeInclusive<u64>, default| {
            let Some(value) = value(tag) else {
                return Ok(default);
            };
            match quantity(&value.text, units).filter(|number| range.contains(number)) {
                Some(number) => Ok(number),
                None => self.wrong(tag, value),
            }
        };
        let seconds = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (minute, hour, day) = (MINUTE.unsigned_abs(), HOUR.unsigned_abs(), DAY.unsigned_abs());
        let enabled = flag("enabled", true)?;
        let only_future_events = flag("only_future_events", true)?;
        let normalize = flag("normalize", true)?;
        let interval = number("interval", TIMES, 1..=day, minute)?;
        let curl_max_size = number("curl_max_size", SIZES, KIB..=u64::MAX, MIB)?;
        let max_connections = number("max_connections", &[], 1..=64, 8)?;
        let lookback = number("lookback", TIMES, 5 * minute..=day, hour)?;
        let run_timeout = number("run_timeout", TIMES, 10..=day, 5 * minute)?;
        let max_output = number("max_output", SIZES, 256 * KIB..=60 * MIB, 8 * MIB)?;
        let log_level = match value("log_level") {
            None => LevelFilter::Info,
            Some(value) => match parse_level(&value.text) {
                Some(level) => level,
                None => return self.wrong("log_level", value),
            },
        };
        let proxy = match value("proxy") {
            None => None,
            Some(value) => match Proxy::parse(&value.text) {
                Ok(proxy) => Some(proxy),
                Err(why) => return self.wrong_because("proxy", value, &format!(" ({why})")),
            },
        };
        let ca_path = value("ca_path").map(|value| PathBuf::from(&value.text));
        if enabled {
            let at = self.last_block.unwrap_or((1, 1));
            if self.tenants.is_empty() {
                return self.fault(at, "<office365> lacks <api_auth>");
            }
            if self.subscriptions.is_empty() {
                return self.fault(at, "<office365> lacks <subscriptions>");
            }
        }
        Ok(Config {
            enabled,
            interval: seconds(interval),
            max_held: usize::try_from(curl_max_size.clamp(HELD.0, HELD.1)).unwrap_or(usize::MAX),
            only_future_events,
            tenants: self.tenants.into_iter().map(|(tenant, _)| Arc::new(tenant)).collect(),
            subscriptions: self.subscriptions,
            proxy,
            ca_path,
            max_connections: usize::try_from(max_connections).unwrap_or(1),
            lookback: seconds(lookback),
            run_timeout,
            max_output,
            events: Options { normalize, exclude: self.exclude },
            log_level,
            warnings: self.warnings,
        })
    }
}

fn position(node: Node<'_, '_>) -> (u32, u32) {
    let position = node.document().text_pos_at(node.range().start);
    (position.row, position.col)
}

/// The units of times, with their seconds.
const TIMES: &[(char, u64)] = &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// A time with an optional unit, in seconds.
#[must_use]
pub fn parse_time(text: &str) -> Option<u64> {
    quantity(text, TIMES)
}

/// The units of sizes, with their bytes.
const SIZES: &[(char, u64)] = &[('b', 1), ('k', KIB), ('m', MIB), ('g', 1024 * MIB)];

/// A number and an optional unit, in upper or lower case.
fn quantity(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..)?.trim().to_ascii_lowercase();
    let factor = if unit.is_empty() {
        1
    } else {
        units.iter().find(|(name, _)| unit == name.to_string())?.1
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// The values of `log_level`, for messages.
pub const LEVELS: &str = "error, warning, info, debug";

/// A value of `log_level`.
#[must_use]
pub fn parse_level(text: &str) -> Option<LevelFilter> {
    match text {
        "error" => Some(LevelFilter::Error),
        "warning" => Some(LevelFilter::Warn),
        "info" => Some(LevelFilter::Info),
        "debug" => Some(LevelFilter::Debug),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    text.len() <= 253 && text.bytes().all(allowed) && !text.starts_with('.')
}

/// Whether `text` has the form of a GUID.
#[must_use]
pub fn is_guid(text: &str) -> bool {
    let mut groups = text.split('-');
    [8, 4, 4, 4, 12].into_iter().all(|length| {
        groups.next().is_some_and(|group| {
            group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }) && groups.next().is_none()
}

/// An origin as it is sent to: scheme, host and port, without a slash at the end.
fn parse_origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    // Nothing but host and port: no path, query, or user (which may hide a password).
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if authority.is_empty() || !authority.bytes().all(allowed) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port != 0),
        None => port.is_empty(),
    };
    let address = host.parse::<IpAddr>().ok();
    let host_is_good = if authority.starts_with('[') {
        address.is_some_and(|a| a.is_ipv6())
    } else {
        !host.is_empty() && !host.contains(['[', ']'])
    };
    let loopback =
        host.eq_ignore_ascii_case("localhost") || address.is_some_and(|a| a.is_loopback());
    let scheme = scheme.to_ascii_lowercase();
    let scheme_is_good = scheme == "https" || (scheme == "http" && loopback);
    (scheme_is_good && port_is_good && host_is_good)
        .then(|| format!("{scheme}://{}", authority.to_ascii_lowercase()))
}

/// Whether two tags differ by so little that one was surely meant for the other: one letter
/// changed, added or left out, or two exchanged.
fn alike(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase().replace('-', "_"));
    let same = |(x, y): &(u8, u8)| x == y;
    let front = a.bytes().zip(b.bytes()).take_while(same).count();
    let back = a.bytes().rev().zip(b.bytes().rev()).take_while(same).count();
    let longest = a.len().max(b.len());
    longest.saturating_sub(front + back) <= 2 && a.len().abs_diff(b.len()) <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "<office365>
  <api_auth>
    <tenant_id>contoso.example</tenant_id>
    <client_id>b2c7a1de-0000-4000-8000-000000000001</client_id>
    <client_secret> Tr0ub4dor&amp;3 </client_secret>
  </api_auth>
  <subscriptions><subscription>Audit.General</subscription></subscriptions>
</office365>";

    fn read(text: &str) -> Result<Config, String> {
        parse("f", text.as_bytes()).map_err(|error| error.to_string())
    }

    /// A configuration with `option` in it, on line 1.
    fn with(option: &str) -> Result<Config, String> {
        read(&MINIMAL.replacen("<office365>", &format!("<office365>{option}"), 1))
    }

    /// A configuration with `option` in its `api_auth`, on line 2.
    fn with_auth(option: &str) -> Result<Config, String> {
        read(&MINIMAL.replacen("<api_auth>", &format!("<api_auth>{option}"), 1))
    }

    #[test]
    fn the_smallest_configuration_has_the_documented_defaults() {
        let config = read(MINIMAL).unwrap();
        let expected = Config {
            enabled: true,
            interval: 60,
            max_held: 16 << 20,
            only_future_events: true,
            tenants: vec![Arc::new(Tenant {
                tenant_id: "contoso.example".to_owned(),
                client_id: "b2c7a1de-0000-4000-8000-000000000001".to_owned(),
                credential: Credential::Secret(Secret::new("Tr0ub4dor&3")),
                login: "https://login.microsoftonline.com".to_owned(),
                management: "https://manage.office.com".to_owned(),
            })],
            subscriptions: vec![ContentType::General],
            proxy: None,
            ca_path: None,
            max_connections: 8,
            lookback: 3600,
            run_timeout: 300,
            max_output: 8 << 20,
            events: Options { normalize: true, exclude: vec![] },
            log_level: LevelFilter::Info,
            warnings: vec![],
        };
        assert_eq!(config, expected);
        assert!(!format!("{config:?}").contains("Tr0ub"));
    }

    #[test]
    fn every_option_is_taken() {
        let config = with(
            "<enabled>yes</enabled><interval>5M</interval><curl_max_size>32m</curl_max_size>
            <only_future_events>no</only_future_events><proxy>http://u:p@proxy:3128</proxy>
            <ca_path>/etc/ca.pem</ca_path><max_connections>64</max_connections>
            <lookback>24h</lookback><run_timeout>10</run_timeout><max_output>60M</max_output>
            <normalize>no</normalize><log_level>debug</log_level>",
        )
        .unwrap();
        assert_eq!((config.interval, config.max_held), (300, 32 << 20));
        assert_eq!((config.max_connections, config.lookback), (64, 86_400));
        assert_eq!((config.run_timeout, config.max_output), (10, 60 << 20));
        assert_eq!(config.log_level, LevelFilter::Debug);
        assert_eq!(config.ca_path, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(config.proxy.map(|proxy| proxy.port), Some(3128));
        assert!(!config.only_future_events);
        let tenant = |option: &str| with_auth(option).unwrap().tenants.remove(0);
        assert_eq!(
            tenant("<api_type>dod</api_type>").management,
            "https://manage.protection.apps.mil"
        );
        let own = tenant(
            "<login_url>https://Login.Example:8443/</login_url><management_url>http://[::1]:1</management_url>",
        );
        assert_eq!(
            (own.login.as_str(), own.management.as_str()),
            ("https://login.example:8443", "http://[::1]:1")
        );
    }

    #[test]
    fn every_wrong_value_is_named_with_what_is_allowed() {
        let times = "(number and s, m, h or d)";
        let table = [
            ("<enabled>maybe</enabled>", "<enabled> is \"maybe\"; allowed: yes, no"),
            ("<enabled>Yes</enabled>", "<enabled> is \"Yes\"; allowed: yes, no"),
            ("<interval>0</interval>", &format!("<interval> is \"0\"; allowed: 1s to 1d {times}")),
            (
                "<interval>25h</interval>",
                &format!("<interval> is \"25h\"; allowed: 1s to 1d {times}"),
            ),
            (
                "<interval>1x</interval>",
                &format!("<interval> is \"1x\"; allowed: 1s to 1d {times}"),
            ),
            (
                "<interval>-1</interval>",
                &format!("<interval> is \"-1\"; allowed: 1s to 1d {times}"),
            ),
            ("<interval>m</interval>", &format!("<interval> is \"m\"; allowed: 1s to 1d {times}")),
            (
                "<curl_max_size>1023</curl_max_size>",
                "<curl_max_size> is \"1023\"; allowed: 1k or more (number and k, m or g)",
            ),
            (
                "<curl_max_size>99999999999g</curl_max_size>",
                "<curl_max_size> is \"99999999999g\"; allowed: 1k or more (number and k, m or g)",
            ),
            (
                "<only_future_events>1</only_future_events>",
                "<only_future_events> is \"1\"; allowed: yes, no",
            ),
            (
                "<proxy>https://u:hunter2@p</proxy>",
                "<proxy> has a wrong value; allowed: http://[user:password@]host:port (only http:// proxies are supported)",
            ),
            (
                "<max_connections>65</max_connections>",
                "<max_connections> is \"65\"; allowed: 1 to 64",
            ),
            (
                "<max_connections>8k</max_connections>",
                "<max_connections> is \"8k\"; allowed: 1 to 64",
            ),
            (
                "<lookback>4m</lookback>",
                &format!("<lookback> is \"4m\"; allowed: 5m to 24h {times}"),
            ),
            (
                "<run_timeout>9</run_timeout>",
                &format!("<run_timeout> is \"9\"; allowed: 10s to 1d {times}"),
            ),
            (
                "<max_output>61M</max_output>",
                "<max_output> is \"61M\"; allowed: 256k to 60M (number and k, m or g)",
            ),
            (
                "<log_level>trace</log_level>",
                "<log_level> is \"trace\"; allowed: error, warning, info, debug",
            ),
            ("<normalize>true</normalize>", "<normalize> is \"true\"; allowed: yes, no"),
            (
                "<exclude> </exclude>",
                "<exclude> is empty and would leave out every record; allowed: record_type, operation, \
                 workload, user_id",
            ),
            ("<interval></interval>", &format!("<interval> is empty; allowed: 1s to 1d {times}")),
            ("<interval/>", &format!("<interval> is empty; allowed: 1s to 1d {times}")),
            ("<interval>1<b/>m</interval>", "<interval> holds a tag where its value should be"),
            ("<interval unit=\"m\">1</interval>", "<interval> takes no attributes"),
            ("<!-- c -->", ""),
        ];
        for (option, expected) in table {
            match with(option) {
                Ok(_) => assert_eq!(expected, "", "{option}"),
                Err(error) => assert_eq!(error, format!("f:1:12: {expected}"), "{option}"),
            }
        }
    }

    #[test]
    fn filters_are_taken_as_they_stand() {
        let config = with(
            "<exclude><record_type>050</record_type><operation> MailItemsAccessed </operation></exclude>
            <exclude><user_id>Svc@Contoso.Example</user_id><workload>A</workload>
            <workload>OneDrive</workload></exclude>",
        )
        .unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            Exclude {
                record_type: text("50"),
                operation: text("MailItemsAccessed"),
                ..Exclude::default()
            },
            Exclude {
                workload: text("OneDrive"),
                user_id: text("Svc@Contoso.Example"),
                ..Exclude::default()
            },
        ];
        assert_eq!(config.events.exclude, expected);
        let doubled = "f:3:13: <workload> is given more than once; the last one (OneDrive) counts";
        assert_eq!(config.warnings, [doubled]);
        for (option, expected) in [
            (
                "<exclude><record_type>MailItemsAccessed</record_type></exclude>",
                "f:1:21: <record_type> is \"MailItemsAccessed\"; allowed: a number, as RecordType of \
                 the records",
            ),
            (
                "<exclude><record_type>+50</record_type></exclude>",
                "f:1:21: <record_type> is \"+50\"; allowed: a number, as RecordType of the records",
            ),
            (
                "<exclude><operation/></exclude>",
                "f:1:21: <operation> is empty; allowed: a value of the records",
            ),
            (
                "<exclude><operations>Send</operations></exclude>",
                "f:1:21: <operations> is no option of <exclude>; did you mean <operation>? allowed: \
                 record_type, operation, workload, user_id",
            ),
        ] {
            assert_eq!(with(option).unwrap_err(), expected);
        }
    }

    #[test]
    fn unknown_tags_are_errors_that_help() {
        let error = with("\n  <intervall>1m</intervall>").unwrap_err();
        assert_eq!(
            error,
            "f:2:3: <intervall> is no option of <office365>; did you mean <interval>? allowed: \
             enabled, interval, curl_max_size, only_future_events, api_auth, subscriptions, proxy, \
             ca_path, max_connections, lookback, run_timeout, max_output, normalize, exclude, log_level"
        );
        let error = with_auth("<client-secret>hunter2</client-secret>").unwrap_err();
        assert!(error.starts_with(
            "f:2:13: <client-secret> is no option of <api_auth>; did you mean <client_secret>?"
        ));
        assert!(!error.contains("hunter2"));
        let error = with("<zzz>1</zzz>").unwrap_err();
        assert!(error.starts_with("f:1:12: <zzz> is no option of <office365>; allowed: "));
        assert_eq!(
            with("hello").unwrap_err(),
            "f:1:12: there is text between the tags of <office365>"
        );
    }

    #[test]
    fn every_fault_of_api_auth_and_subscriptions_is_named() {
        let table = [
            (
                MINIMAL.replace("<tenant_id>contoso.example</tenant_id>", ""),
                "f:2:3: <api_auth> lacks <tenant_id>",
            ),
            (
                MINIMAL.replace("contoso.example", "../etc"),
                "f:3:5: <tenant_id> is \"../etc\"; allowed: a GUID or a domain name",
            ),
            (
                MINIMAL.replace("client_id>", "client_idd>"),
                "f:4:5: <client_idd> is no option of <api_auth>; did you mean <client_id>? allowed: tenant_id, client_id, client_secret, client_secret_path, client_certificate_path, client_key_path, api_type, login_url, management_url",
            ),
            (
                MINIMAL.replace("    <client_secret> Tr0ub4dor&amp;3 </client_secret>\n", ""),
                "f:2:3: <api_auth> lacks <client_secret> or <client_secret_path>",
            ),
            (
                MINIMAL.replace(
                    "</client_secret>",
                    "</client_secret><client_secret_path>x</client_secret_path>",
                ),
                "f:5:53: <client_secret> and <client_secret_path> exclude each other: keep one",
            ),
            (
                MINIMAL.replace("Tr0ub4dor&amp;3", ""),
                "f:5:5: <client_secret> is empty; allowed: the secret's Value",
            ),
            (
                MINIMAL.replace("&amp;", "&"),
                "f:5:30: this is not well-formed XML: a tag is not closed, or a value holds a bare & or <; write &amp; and &lt;",
            ),
            (
                MINIMAL.replace("Audit.General", "Audit.Generals"),
                "f:7:18: <subscription> is \"Audit.Generals\"; allowed: Audit.AzureActiveDirectory, Audit.Exchange, Audit.SharePoint, Audit.General, DLP.All",
            ),
            (
                MINIMAL.replace("<subscription>Audit.General</subscription>", ""),
                "f:7:3: <subscriptions> holds no <subscription>",
            ),
            (
                MINIMAL.replace(
                    "  <subscriptions><subscription>Audit.General</subscription></subscriptions>\n",
                    "",
                ),
                "f:1:1: <office365> lacks <subscriptions>",
            ),
            ("<office365/>".to_owned(), "f:1:1: <office365> lacks <api_auth>"),
            (MINIMAL.replace("</office365>", ""), "f:1:1: <office365> is never closed"),
            ("<ossec_config></ossec_config>".to_owned(), "f: there is no <office365> block in it"),
            (String::new(), "f: there is no <office365> block in it"),
            (
                MINIMAL.replace("</api_auth>", "<api_type>gov</api_type></api_auth>"),
                "f:6:3: <api_type> is \"gov\"; allowed: commercial, gcc, gcc-high, dod",
            ),
            (
                MINIMAL.replace("</api_auth>", "<client_key_path>x</client_key_path></api_auth>"),
                "f:6:3: <client_key_path> is not supported yet; remove it",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(read(&text).unwrap_err(), expected);
        }
        let allowed = "allowed: https://host[:port], or http://host[:port] where the host is a loopback address";
        for value in [
            "http://login.example",
            "ftp://127.0.0.1",
            "https://",
            "https://h/path",
            "https://h:0",
            "https://h:99999",
            "http://127.0.0.1.example",
            "https://[::1",
            "https://[127.0.0.1]",
            "https://a[b",
            "https://a]:1",
            "h",
        ] {
            let error = with_auth(&format!("<login_url>{value}</login_url>")).unwrap_err();
            assert_eq!(error, format!("f:2:13: <login_url> is \"{value}\"; {allowed}"));
        }
        let error = with_auth("<login_url>https://u:hunter2@h</login_url>").unwrap_err();
        assert_eq!(error, format!("f:2:13: <login_url> has a wrong value; {allowed}"));
        let twice = format!("{MINIMAL}\n{}", MINIMAL.replace("contoso", "Contoso"));
        assert_eq!(
            read(&twice).unwrap_err(),
            "f:10:3: <tenant_id> \"Contoso.example\" has an <api_auth> already, at line 2: every event would come twice; remove one"
        );
    }

    #[test]
    fn values_are_quoted_briefly_and_on_one_line() {
        let long = "1\n".repeat(2000);
        let lines = format!("<ca_path>{long}</ca_path><ca_path>{long}</ca_path>");
        let doubled = with(&lines).unwrap().warnings.remove(0);
        let wrong = with(&format!("<interval>{long}</interval>")).unwrap_err();
        let unknown = with(&format!("<{}/>", "x".repeat(4000))).unwrap_err();
        for text in [doubled, wrong, unknown] {
            assert!(text.len() < 900 && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_doubled_scalar_counts_as_last_given_with_a_warning() {
        let config = with("<interval>1m</interval>\n<interval>2m</interval>").unwrap();
        assert_eq!(config.interval, 120);
        assert_eq!(
            config.warnings,
            ["f:2:1: <interval> is given more than once; the last one (2m) counts"]
        );
        let config = with_auth("<client_secret>hunter2</client_secret>").unwrap();
        assert_eq!(
            config.warnings,
            ["f:5:5: <client_secret> is given more than once; the last one counts"]
        );
    }

    #[test]
    fn a_whole_ossec_conf_is_taken() {
        let text = format!(
            "<!-- <office365> & old -->\n<ossec_config><global><email>a & b</email></global>\n{MINIMAL}\n\
             </ossec_config>\n<ossec_config>\n<!--\n{MINIMAL}\n--><office365_x/>\n\
             <office365 >\n<interval>2m</interval><subscriptions><subscription>DLP.All</subscription>\
             <subscription>Audit.General</subscription></subscriptions></office365 >\n</ossec_config> <localfile>\n"
        );
        let config = read(&text).unwrap();
        assert_eq!(config.tenants.len(), 1);
        assert_eq!(config.interval, 120);
        assert_eq!(config.subscriptions, [ContentType::General, ContentType::Dlp]);
        let broken = text.replace("2m", "2y");
        assert!(read(&broken).unwrap_err().starts_with("f:24:1: <interval> is \"2y\""));
        let mut latin1 = b"<!-- caf\xe9 -->".to_vec();
        latin1.extend_from_slice(MINIMAL.as_bytes());
        assert!(parse("f", &latin1).is_ok());
        latin1.splice(30..30, *b"\xe9");
        assert_eq!(parse("f", &latin1).unwrap_err().text, "this is not UTF-8");
    }

    #[test]
    fn angle_brackets_without_number_cost_little() {
        // Looking for the end of each as of a tag took minutes.
        let text = "<".repeat(4 << 20);
        assert_eq!(read(&text).unwrap_err(), "f: there is no <office365> block in it");
    }

    #[test]
    fn utf16_is_named() {
        let error = parse("f", b"\xFF\xFE<\0").unwrap_err();
        assert_eq!(error.to_string(), "f:1:1: this is UTF-16: save it as UTF-8");
    }

    #[test]
    fn what_is_held_in_memory_is_bounded_from_both_sides() {
        for (size, held) in [("1k", 16), ("20m", 20), ("18446744073709551615", 48)] {
            let config = with(&format!("<curl_max_size>{size}</curl_max_size>")).unwrap();
            assert_eq!(config.max_held, held << 20);
        }
    }

    #[test]
    fn disabled_needs_nothing_else() {
        let config = read("<office365><enabled>no</enabled></office365>").unwrap();
        assert!(!config.enabled);
    }

    #[test]
    fn guids_are_told_from_domain_names() {
        assert!(is_guid("B2C7A1DE-0000-4000-8000-00000000000f"));
        for other in [
            "contoso.example",
            "b2c7a1de-0000-4000-8000-00000000000",
            "",
            "b2c7a1de-0000-4000-8000-00000000000g",
            "b2c7a1de-0000-4000-8000-000000000001-",
        ] {
            assert!(!is_guid(other), "{other}");
        }
    }
}
