//! The values of options: what is allowed, and reading them.

use std::net::IpAddr;

use log::LevelFilter;

use crate::cloud::CLOUDS;
use crate::content::ContentType;
use crate::proxy::is_loopback;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;

/// What a tag's value may be, for messages.
pub(super) fn allowed(tag: &str) -> String {
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

/// The units of times, with their seconds.
pub(super) const TIMES: &[(char, u64)] = &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// A time with an optional unit, in seconds.
#[must_use]
pub fn parse_time(text: &str) -> Option<u64> {
    quantity(text, TIMES)
}

/// The units of sizes, with their bytes.
pub(super) const SIZES: &[(char, u64)] = &[('b', 1), ('k', KIB), ('m', MIB), ('g', 1024 * MIB)];

/// A number and an optional unit, in upper or lower case.
pub(super) fn quantity(text: &str, units: &[(char, u64)]) -> Option<u64> {
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

pub(super) fn is_name(text: &str) -> bool {
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
pub(super) fn parse_origin(text: &str) -> Option<String> {
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
    let scheme = scheme.to_ascii_lowercase();
    let scheme_is_good = scheme == "https" || (scheme == "http" && is_loopback(host));
    (scheme_is_good && port_is_good && host_is_good)
        .then(|| format!("{scheme}://{}", authority.to_ascii_lowercase()))
}
