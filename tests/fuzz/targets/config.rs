//! The configuration: what is accepted keeps to the contract, and no secret is ever shown.

#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use log::LevelFilter;
use wodle_office365::config::{self, Config, Credential};
use wodle_office365_fuzz::Dice;

/// What is put into every secret of an input: nothing of it occurs elsewhere.
/// It could be a name, so that words about a reference such as `&qZ7-hunter2-xK9;` show it as well.
const MARKER: &str = "qZ7-hunter2-xK9";

fuzz_target!(|input: &[u8]| {
    match config::parse("f", input) {
        Ok(config) => check(&config),
        Err(error) => check_message(&error.to_string()),
    }
    let text = String::from_utf8_lossy(input);
    let mut dice = Dice::of(input);
    let inside = mark_secrets(&text, |secret| dice.size_below(secret.len()));
    for marked in [mark_secrets(&text, |_| 0), mark_secrets(&text, str::len), inside] {
        let shown = match config::parse("f", marked.as_bytes()) {
            Ok(config) => format!("{:?} {config:?}", config.warnings),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(MARKER), "{shown}");
    }
});

/// `text` with the marker in every `client_secret` and every `proxy`'s password; `place` says where.
fn mark_secrets(text: &str, mut place: impl FnMut(&str) -> usize) -> String {
    let mut marked = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (front, tag) = rest.split_at(start + 1);
        marked.push_str(front);
        rest = tag;
        if tag.starts_with("![CDATA[") {
            // From here on a tag may be text, and so a value that may be shown.
            break;
        }
        if tag.starts_with("!--") || tag.starts_with('?') {
            // What looks like a tag in there is none.
            let end = if tag.starts_with('?') { "?>" } else { "-->" };
            let (skipped, behind) = tag.split_at(tag.find(end).unwrap_or(tag.len()));
            marked.push_str(skipped);
            rest = behind;
            continue;
        }
        let Some((name, value)) = tag.split_once('>') else { continue };
        let value = value.split('<').next().unwrap_or_default();
        let secret = match name.trim_end() {
            "client_secret" => Some(0..value.len()),
            "proxy" => password(value),
            _ => None,
        };
        if let Some(secret) = secret.filter(|secret| !value[secret.clone()].trim().is_empty()) {
            let before = name.len() + 1 + secret.start;
            let at = before + place(&value[secret]);
            let at = (0..=at).rev().find(|at| tag.is_char_boundary(*at)).unwrap_or(0);
            marked.extend([&tag[..at], MARKER]);
            rest = &tag[at..];
        }
    }
    marked + rest
}

/// Where the password stands in a proxy's URL.
fn password(url: &str) -> Option<Range<usize>> {
    let end = url.rfind('@')?;
    let login = url[..end].find("://").map_or(0, |scheme| scheme + 3);
    let start = login + url[login..end].find(':')? + 1;
    Some(start..end)
}

/// The contract's ranges.
fn check(config: &Config) {
    const MIB: u64 = 1 << 20;
    assert!((1..=86_400).contains(&config.interval));
    assert!((16 << 20..=48 << 20).contains(&config.max_held));
    assert!((1..=64).contains(&config.max_connections));
    assert!((300..=86_400).contains(&config.lookback));
    assert!((10..=86_400).contains(&config.run_timeout));
    assert!((MIB / 4..=60 * MIB).contains(&config.max_output));
    assert!(matches!(
        config.log_level,
        LevelFilter::Error | LevelFilter::Warn | LevelFilter::Info | LevelFilter::Debug
    ));
    if config.enabled {
        assert!(!config.tenants.is_empty() && !config.subscriptions.is_empty());
    }
    for (n, content_type) in config.subscriptions.iter().enumerate() {
        assert!(!config.subscriptions[..n].contains(content_type), "a stream would come twice");
    }
    for (n, tenant) in config.tenants.iter().enumerate() {
        for id in [&tenant.tenant_id, &tenant.client_id] {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            assert!((1..=253).contains(&id.len()) && id.bytes().all(plain), "{id}");
            assert!(!id.starts_with('.'), "{id}");
        }
        let name = &tenant.tenant_id;
        let twice = config.tenants[..n].iter().any(|t| t.tenant_id.eq_ignore_ascii_case(name));
        assert!(!twice, "every event would come twice");
        match &tenant.credential {
            Credential::Secret(secret) => {
                let secret = secret.reveal();
                assert!(!secret.is_empty() && secret.trim() == secret);
            }
            Credential::SecretFile(path) => assert!(!path.as_os_str().is_empty()),
            Credential::Certificate { certificate, key } => {
                assert!(!certificate.as_os_str().is_empty() && !key.as_os_str().is_empty());
            }
        }
        check_origin(&tenant.login);
        check_origin(&tenant.management);
    }
    if let Some(proxy) = &config.proxy {
        assert!(!proxy.host.is_empty() && proxy.port > 0);
        assert!(!proxy.host.contains(|c: char| c.is_whitespace() || c.is_control()));
    }
    assert!(config.ca_path.as_ref().is_none_or(|path| !path.as_os_str().is_empty()));
    config.warnings.iter().for_each(|warning| check_message(warning));
}

fn check_message(text: &str) {
    assert!(text.starts_with("f:") && !text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() <= 1000, "{} bytes", text.len());
}

/// https, or http to this machine, and nothing behind the port.
fn check_origin(origin: &str) {
    let uri: ureq::http::Uri = origin.parse().unwrap_or_else(|error| panic!("{origin}: {error}"));
    let host = uri.host().unwrap_or_default();
    assert!(!host.is_empty(), "{origin}");
    assert!(!origin.contains('@') && ["", "/"].contains(&uri.path()), "{origin}");
    assert!(uri.query().is_none() && !origin.ends_with('/'), "{origin}");
    let port = uri.authority().is_some_and(|authority| authority.as_str() != host);
    assert_eq!(uri.port_u16().is_some_and(|port| port > 0), port, "{origin}");
    let local = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => assert!(local, "{origin}"),
        _ => panic!("{origin}"),
    }
}
