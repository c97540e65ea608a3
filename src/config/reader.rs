//! From the tags of `<office365>` blocks to a [`Config`], or to the first thing that is wrong.

use std::path::PathBuf;
use std::sync::Arc;

use log::LevelFilter;
use roxmltree::Node;
use zeroize::Zeroizing;

use super::blocks::place;
use super::values::{
    KIB, MIB, SIZES, TIMES, allowed, is_name, parse_level, parse_origin, quantity,
};
use super::{Config, ConfigError, Credential, Tenant};
use crate::cloud::{self, CLOUDS, Cloud};
use crate::content::ContentType;
use crate::event::{Exclude, Options};
use crate::proxy::Proxy;
use crate::timestamp::{DAY, HOUR, MINUTE};
use crate::words::{alike, excerpt};

/// What is held in memory at least and at most, whatever `curl_max_size` says: a record must fit
/// into a run's output.
const HELD: (u64, u64) = (16 * MIB, 48 * MIB);

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

/// The ways to sign in, for messages.
const WAYS: &str = "<client_secret>, <client_secret_path>, or <client_certificate_path> and \
                    <client_key_path>";

/// The options of `<exclude>`.
const EXCLUDE_OPTIONS: [&str; 4] = ["record_type", "operation", "workload", "user_id"];

/// A scalar option as it was found; it may be a secret.
struct Value {
    text: Zeroizing<String>,
    /// Where its tag begins in the file, in bytes.
    at: usize,
}

/// Gathers the options of all blocks; several blocks are merged, as in Wazuh. Places are bytes of
/// the file until a message needs line and column, which it takes a pass through the file to find.
#[derive(Default)]
pub(super) struct Reader<'a> {
    /// The file's name, and what is in it.
    file: &'a str,
    text: &'a str,
    scalars: Vec<(&'static str, Value)>,
    tenants: Vec<(Tenant, usize)>,
    subscriptions: Vec<ContentType>,
    exclude: Vec<Exclude>,
    last_block: usize,
    warnings: Vec<String>,
}

/// Whether the value of a tag may hold a secret, be it one that belongs elsewhere, and so must not be
/// shown.
fn may_be_secret(tag: &str, value: &str) -> bool {
    let of_an_id = |b: u8| b.is_ascii_hexdigit() || b"-{} ".contains(&b);
    match tag {
        "client_secret" => true,
        // Microsoft's secrets have 40 characters.
        "tenant_id" | "client_id" | "api_type" => value.len() > 24 && !value.bytes().all(of_an_id),
        // A password stands before an @, or where somebody has forgotten it.
        "proxy" => {
            let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
            let port = rest.split_once(':').map_or("", |(_, port)| port);
            value.contains('@') || !port.bytes().all(|b| b.is_ascii_digit())
        }
        "login_url" | "management_url" => value.contains(['@', '?', '#', '~']),
        "client_secret_path" | "client_certificate_path" | "client_key_path" | "ca_path" => {
            // A key, or a proxy, in the place of a path.
            value.contains(['@', '\n']) || value.contains("://") || value.contains("-----")
        }
        _ => value.contains('@'),
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, ..Self::default() }
    }

    fn fault<T>(&self, at: usize, text: impl Into<String>) -> Result<T, ConfigError> {
        let position = Some(place(self.text, at));
        Err(ConfigError { file: self.file.to_owned(), position, text: text.into() })
    }

    /// Takes in one `<office365>` block.
    pub(super) fn block(&mut self, block: Node<'_, '_>) -> Result<(), ConfigError> {
        self.last_block = start(block);
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
    fn children<'n, 'd>(
        &self,
        node: Node<'n, 'd>,
        allowed: &'static [&'static str],
    ) -> Result<Vec<(&'static str, Node<'n, 'd>)>, ConfigError> {
        let parent = node.tag_name().name();
        let mut children = Vec::new();
        if node.attributes().len() > 0 {
            return self.fault(start(node), format!("<{parent}> takes no attributes"));
        }
        for child in node.children() {
            if child.is_text() && child.text().is_some_and(|text| !text.trim().is_empty()) {
                let text = format!("there is text between the tags of <{parent}>");
                return self.fault(start(child), text);
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
                return self.fault(start(child), text);
            };
            children.push((*tag, child));
        }
        Ok(children)
    }

    /// The text of a tag that holds nothing else, without the white space around it.
    fn scalar(&self, tag: &str, node: Node<'_, '_>) -> Result<Value, ConfigError> {
        let at = start(node);
        if node.attributes().len() > 0 {
            return self.fault(at, format!("<{tag}> takes no attributes"));
        }
        if node.children().any(|child| child.is_element()) {
            return self.fault(at, format!("<{tag}> holds a tag where its value should be"));
        }
        let texts = || node.children().filter(Node::is_text).filter_map(|child| child.text());
        let mut text = Zeroizing::new(String::with_capacity(texts().map(str::len).sum()));
        text.extend(texts());
        let text = Zeroizing::new(text.trim().to_owned());
        if text.is_empty() {
            return self.fault(at, format!("<{tag}> is empty; allowed: {}", allowed(tag)));
        }
        Ok(Value { text, at })
    }

    /// Keeps a scalar of the block; of a doubled one the last counts, as in Wazuh.
    fn keep(&mut self, tag: &'static str, value: Value) {
        self.warn_if_doubled(tag, &value, self.scalars.iter().any(|(known, _)| *known == tag));
        self.scalars.retain(|(known, _)| *known != tag);
        self.scalars.push((tag, value));
    }

    fn warn_if_doubled(&mut self, tag: &str, value: &Value, doubled: bool) {
        if doubled {
            let (line, column) = place(self.text, value.at);
            let shown = if may_be_secret(tag, &value.text) {
                String::new()
            } else {
                format!(" ({})", excerpt(&value.text))
            };
            self.warnings.push(format!(
                "{}:{line}:{column}: <{tag}> is given more than once; the last one{shown} counts",
                self.file
            ));
        }
    }

    fn subscriptions(&mut self, node: Node<'_, '_>) -> Result<(), ConfigError> {
        let children = self.children(node, &["subscription"])?;
        if children.is_empty() {
            return self.fault(start(node), "<subscriptions> holds no <subscription>");
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
                "operation" => (&mut exclude.operation, value.text.to_string()),
                "workload" => (&mut exclude.workload, value.text.to_string()),
                _ => (&mut exclude.user_id, value.text.to_string()),
            };
            self.warn_if_doubled(tag, &value, place.replace(text).is_some());
        }
        if exclude == Exclude::default() {
            let text = format!(
                "<exclude> is empty and would leave out every record; allowed: {}",
                EXCLUDE_OPTIONS.join(", ")
            );
            return self.fault(start(node), text);
        }
        self.exclude.push(exclude);
        Ok(())
    }

    /// The value as a path, unless it is surely none: a file's contents, or an address.
    fn path(&self, tag: &str, value: &Value) -> Result<PathBuf, ConfigError> {
        let text = &value.text;
        if text.contains(char::is_control) || text.contains("://") || text.contains("-----") {
            return self.wrong_because(tag, value, " of a file, and not what is in it");
        }
        Ok(PathBuf::from(&*value.text))
    }

    /// An error that names the tag, the value given (never a secret's) and what is allowed.
    fn wrong<T>(&self, tag: &str, value: &Value) -> Result<T, ConfigError> {
        self.wrong_because(tag, value, "")
    }

    /// The same, with what is wrong about it.
    fn wrong_because<T>(&self, tag: &str, value: &Value, why: &str) -> Result<T, ConfigError> {
        let text = if may_be_secret(tag, &value.text) {
            format!("<{tag}> has a wrong value; allowed: {}{why}", allowed(tag))
        } else {
            format!("<{tag}> is \"{}\"; allowed: {}{why}", excerpt(&value.text), allowed(tag))
        };
        self.fault(value.at, text)
    }

    /// Takes in one `<api_auth>` block.
    fn tenant(&mut self, node: Node<'_, '_>) -> Result<(), ConfigError> {
        let mut values: Vec<(&'static str, Value)> = Vec::new();
        for (tag, child) in self.children(node, &AUTH_OPTIONS)? {
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
            None => self.fault(start(node), format!("<api_auth> lacks <{tag}>")),
            // It goes into URLs and names of files: nothing but what ids and domain names hold.
            Some(value) if !is_name(&value.text) => self.wrong(tag, &value),
            Some(value) => Ok(value.text.to_string()),
        };
        let tenant_id = id("tenant_id", take("tenant_id"))?;
        let client_id = id("client_id", take("client_id"))?;
        let secret =
            take("client_secret").map(|value| (value.at, Credential::Secret(value.text.into())));
        let path_of = |tag: &str, value: Option<Value>| match value {
            Some(value) => self.path(tag, &value).map(|path| Some((value.at, path))),
            None => Ok(None),
        };
        let secret_file = path_of("client_secret_path", take("client_secret_path"))?
            .map(|(at, path)| (at, Credential::SecretFile(path)));
        let certificate = path_of("client_certificate_path", take("client_certificate_path"))?;
        let certificate = match (certificate, path_of("client_key_path", take("client_key_path"))?)
        {
            (Some((at, certificate)), Some((key_at, key))) => {
                Some((at.max(key_at), Credential::Certificate { certificate, key }))
            }
            (None, None) => None,
            (Some((at, _)), None) => {
                return self.fault(at, "<client_certificate_path> needs a <client_key_path>");
            }
            (None, Some((at, _))) => {
                return self.fault(at, "<client_key_path> needs a <client_certificate_path>");
            }
        };
        let mut given = [secret, secret_file, certificate].into_iter().flatten();
        let credential = match (given.next(), given.next()) {
            (Some((_, credential)), None) => credential,
            (Some((one, _)), Some((other, _))) => {
                let text = format!("this is one way too many to sign in: keep one of {WAYS}");
                return self.fault(one.max(other), text);
            }
            (None, _) => {
                return self.fault(start(node), format!("<api_auth> lacks {WAYS}"));
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
        let at = start(node);
        if let Some((_, known)) =
            self.tenants.iter().find(|(known, _)| known.tenant_id.eq_ignore_ascii_case(&tenant_id))
        {
            let (line, _) = place(self.text, *known);
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
    pub(super) fn finish(mut self) -> Result<Config, ConfigError> {
        let scalars = std::mem::take(&mut self.scalars);
        let value = |tag: &str| scalars.iter().find(|(known, _)| *known == tag).map(|(_, v)| v);
        let flag = |tag: &str, default: bool| match value(tag) {
            None => Ok(default),
            Some(value) => match value.text.as_str() {
                "yes" => Ok(true),
                "no" => Ok(false),
                _ => self.wrong(tag, value),
            },
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
        let ca_path = value("ca_path").map(|value| self.path("ca_path", value)).transpose()?;
        if enabled {
            let at = self.last_block;
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
            writers: None,
        })
    }
}

/// Where a node begins in the file, in bytes.
fn start(node: Node<'_, '_>) -> usize {
    node.range().start
}
