//! Which proxy a host is reached through: the configured one, else the environment's.
//!
//! ureq would read the environment by itself, but silently goes direct where a variable is
//! malformed; so the choice is made here, and a malformed value is an error.

use std::ffi::OsString;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// An HTTP proxy, spoken to in clear, that tunnels (CONNECT) to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port; 80 where the URL has none.
    pub port: u16,
    /// User name and password, percent-decoded.
    pub login: Option<(String, Secret)>,
}

impl Proxy {
    /// Reads `http://[user[:password]@]host[:port]`. `http://` may be missing, as curl has it.
    ///
    /// # Errors
    /// What is wrong, without a word of the value: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("only http:// proxies are supported"),
            None => url,
        };
        if rest.contains(char::REPLACEMENT_CHARACTER) {
            return Err("it is not UTF-8");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err("there is a path behind the port");
        }
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (host, port) = split_port(address)?;
        // A name, or an address, which may have a zone; nothing else has a colon in it.
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let is_address = host.split('%').next().is_some_and(|a| a.parse::<IpAddr>().is_ok());
        let zone = |b: u8| name(b) || b"%:".contains(&b);
        let is_plain = host.bytes().all(name) || (is_address && host.bytes().all(zone));
        if host.is_empty() || !is_plain {
            return Err("the host is missing or malformed");
        }
        let login = match userinfo {
            None => None,
            Some(userinfo) => {
                let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
                Some((decode(user)?.to_string(), decode(password)?.into()))
            }
        };
        Ok(Self { host: host.to_owned(), port: port.unwrap_or(80), login })
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Whether a host, an IPv6 address without brackets, is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn decode(text: &str) -> Result<Zeroizing<String>, &'static str> {
    // With room for all of it: what grows leaves what it held behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    bytes.extend(percent_decode_str(text));
    let decoded = std::str::from_utf8(&bytes);
    let decoded = decoded.map_err(|_| "user or password are not UTF-8 once percent-decoded")?;
    Ok(Zeroizing::new(decoded.to_owned()))
}

/// Splits `host[:port]`, `[v6][:port]` or a bare IPv6 address.
fn split_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("an IPv6 bracket is not closed")?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("there is text behind the IPv6 bracket"),
        }
    } else if address.parse::<IpAddr>().is_ok() {
        (address, None)
    } else {
        match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let port = port
        .map(|port| {
            port.parse::<u16>()
                .ok()
                .filter(|port| *port != 0)
                .ok_or("the port is no number from 1 to 65535")
        })
        .transpose()?;
    Ok((host, port))
}

/// The proxy variables of the environment, read once at the start. Lower case wins, as with curl,
/// and an empty one counts as missing.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    https: Option<(&'static str, Secret)>,
    http: Option<(&'static str, Secret)>,
    no_proxy: Vec<NoProxy>,
}

impl Environment {
    /// Picks the proxy variables out of `variable`, a look-up of the environment.
    #[must_use]
    pub fn from_lookup(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // What is no UTF-8 gets a character that no part of a proxy's address may have.
        let given = |name: &'static str| {
            let value = variable(name)?;
            let value = value.to_string_lossy();
            let value = value.trim();
            (!value.is_empty()).then(|| (name, Secret::new(value)))
        };
        let all = || given("all_proxy").or_else(|| given("ALL_PROXY"));
        let no_proxy = given("no_proxy").or_else(|| given("NO_PROXY"));
        Self {
            https: given("https_proxy").or_else(|| given("HTTPS_PROXY")).or_else(all),
            http: given("http_proxy").or_else(|| given("HTTP_PROXY")).or_else(all),
            no_proxy: no_proxy.map(|(_, list)| NoProxy::list(list.reveal())).unwrap_or_default(),
        }
    }

    /// The variable that names a proxy for https, if one does.
    #[must_use]
    pub fn https_variable(&self) -> Option<&'static str> {
        self.https.as_ref().map(|(name, _)| *name)
    }

    /// The proxy for a target, by https if `tls`; none where `NO_PROXY` names it or no variable is
    /// set.
    ///
    /// # Errors
    /// The variable whose value is malformed, and how.
    pub fn proxy_for(&self, tls: bool, host: &str, port: u16) -> Result<Option<Proxy>, String> {
        if self.no_proxy.iter().any(|entry| entry.matches(host, port)) {
            return Ok(None);
        }
        let Some((name, url)) = (if tls { &self.https } else { &self.http }) else {
            return Ok(None);
        };
        Proxy::parse(url.reveal()).map(Some).map_err(|why| {
            format!("environment variable {name}: {why}; expected http://[user:password@]host:port")
        })
    }
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NoProxy {
    All,
    Network {
        address: IpAddr,
        bits: u32,
    },
    /// The host itself and every host below it.
    Domain {
        name: String,
        port: Option<u16>,
    },
}

impl NoProxy {
    /// Entries are parted by commas or white space.
    fn list(text: &str) -> Vec<Self> {
        text.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .filter_map(Self::parse)
            .collect()
    }

    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        let network = entry.split_once('/').map_or((entry, None), |(a, b)| (a, Some(b)));
        let bare = network.0.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = network.1.map_or(Some(most), |bits| bits.parse().ok())?;
            return (bits <= most).then_some(Self::Network { address, bits });
        }
        let (name, port) = split_port(entry).ok()?;
        let name = name.trim_start_matches('*').trim_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self::Domain { name, port })
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match self {
            Self::All => true,
            Self::Network { address, bits } => {
                host.parse::<IpAddr>().is_ok_and(|host| in_network(host, *address, *bits))
            }
            Self::Domain { name, port: only } => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                // Nothing is below an address.
                let is_address = host.parse::<IpAddr>().is_ok();
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || (rest.ends_with('.') && !is_address));
                below && only.is_none_or(|only| only == port)
            }
        }
    }
}

fn in_network(host: IpAddr, network: IpAddr, bits: u32) -> bool {
    let prefix = |address: u128, width: u32| address.checked_shr(width - bits).unwrap_or(0);
    match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            let wide = |a: std::net::Ipv4Addr| u128::from(u32::from(a));
            prefix(wide(host), 32) == prefix(wide(network), 32)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => {
            prefix(u128::from(host), 128) == prefix(u128::from(network), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn reads_proxy_urls() {
        let proxy = |host: &str, port, login: Option<(&str, &str)>| {
            Ok(Proxy {
                host: host.to_owned(),
                port,
                login: login.map(|(user, word)| (user.to_owned(), Secret::new(word))),
            })
        };
        let table = [
            ("http://proxy:3128", proxy("proxy", 3128, None)),
            ("HTTP://proxy/", proxy("proxy", 80, None)),
            ("10.0.0.1:8080", proxy("10.0.0.1", 8080, None)),
            ("http://[2001:db8::1]:8080", proxy("2001:db8::1", 8080, None)),
            ("http://u:p%40ss@proxy:1", proxy("proxy", 1, Some(("u", "p@ss")))),
            ("http://u:a@b@proxy:1", proxy("proxy", 1, Some(("u", "a@b")))),
            ("http://u@proxy", proxy("proxy", 80, Some(("u", "")))),
            ("https://proxy", Err("only http:// proxies are supported")),
            ("socks5://proxy", Err("only http:// proxies are supported")),
            ("http://", Err("the host is missing or malformed")),
            // A colon in the place of the @.
            ("http://u:hunter2:proxy:1", Err("the host is missing or malformed")),
            ("proxy:3128:u:hunter2", Err("the port is no number from 1 to 65535")),
            ("http:proxy:1", Err("the host is missing or malformed")),
            ("http://[fe80::1%25eth0]:1", proxy("fe80::1%25eth0", 1, None)),
            ("http://pro xy:1", Err("the host is missing or malformed")),
            ("http://proxy:1/path", Err("there is a path behind the port")),
            ("http://proxy:0", Err("the port is no number from 1 to 65535")),
            ("http://proxy:x", Err("the port is no number from 1 to 65535")),
            ("http://[::1:80", Err("an IPv6 bracket is not closed")),
            ("http://%ff@proxy", Err("user or password are not UTF-8 once percent-decoded")),
        ];
        for (url, expected) in table {
            assert_eq!(Proxy::parse(url), expected, "{url}");
        }
    }

    #[test]
    fn the_environment_is_asked_and_never_ignored_when_malformed() {
        let host_of = |env: &Environment| {
            env.proxy_for(true, "manage.office.com", 443).map(|proxy| proxy.map(|proxy| proxy.host))
        };
        let env =
            environment(&[("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")]);
        assert_eq!(host_of(&env), Ok(Some("lower".to_owned())));
        let env = environment(&[("ALL_PROXY", "http://all:1"), ("HTTPS_PROXY", " ")]);
        assert_eq!(host_of(&env), Ok(Some("all".to_owned())));
        assert_eq!(host_of(&environment(&[("HTTP_PROXY", "http://plain:1")])), Ok(None));
        let env = environment(&[("HTTPS_PROXY", "http://u:hunter2@pro xy")]);
        let error = host_of(&env).unwrap_err();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn no_proxy_takes_names_networks_and_ports() {
        let table = [
            ("manage.office.com", "manage.office.com", true),
            (".office.com", "manage.office.com", true),
            ("*.office.com", "manage.office.com", true),
            ("office.com", "MANAGE.office.com.", true),
            ("office.com", "notoffice.com", false),
            ("a.example, office.com b.example", "manage.office.com", true),
            ("office.com:443", "manage.office.com", true),
            ("office.com:80", "manage.office.com", false),
            ("*", "manage.office.com", true),
            ("127.0.0.0/8", "127.1.2.3", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("10.0.0.1", "10.0.0.1", true),
            (".0.0.1", "10.0.0.1", false),
            ("10.0.0.1:443", "10.0.0.1", true),
            ("10.0.0.1:80", "10.0.0.1", false),
            ("[::1]", "::1", true),
            ("2001:db8::/32", "2001:db8:1::5", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.0/99", "10.0.0.0", false),
            ("", "manage.office.com", false),
        ];
        for (list, host, direct) in table {
            let env = environment(&[("HTTPS_PROXY", "http://proxy:1"), ("NO_PROXY", list)]);
            let proxy = env.proxy_for(true, host, 443).unwrap();
            assert_eq!(proxy.is_none(), direct, "{list} {host}");
        }
    }
}
