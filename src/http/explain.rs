//! What ureq and rustls complain of, in words for the administrator: which host, what it means, what
//! to do; and whether another try in the same run may help.

use std::io;
use std::time::Duration;

use rustls::CertificateError;
use ureq::{Error, Timeout};

use super::{Again, NoAnswer, Stage, Timeouts};
use crate::proxy::Proxy;
use crate::words::excerpt;

/// Where a request was to go, and by which way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port of the proxy.
    pub(super) proxy: Option<(String, u16)>,
}

impl Way {
    pub(super) fn new(host: &str, port: u16, proxy: Option<&Proxy>) -> Self {
        let proxy = proxy.map(|proxy| (proxy.host.clone(), proxy.port));
        Self { host: host.to_owned(), port, proxy }
    }

    fn via(&self) -> String {
        match &self.proxy {
            Some((host, port)) => format!(" through the proxy {host}:{port}"),
            None => String::new(),
        }
    }
}

/// What takes longer than this and brings no connection would cost that time again for everyone else
/// who tries.
const SLOW: Duration = Duration::from_secs(1);

/// Whether there seems to be no other end: no address, no way, nobody who takes a connection, and it
/// took a while to find that out.
pub(super) fn is_dead_end(error: &Error, took: Duration) -> bool {
    let no_connection = match error {
        Error::Timeout(phase) => matches!(phase, Timeout::Resolve | Timeout::Connect),
        Error::Io(error) => is_unreachable(error) || is_refused(error),
        _ => false,
    };
    (no_connection || is_unresolved(error)) && took >= SLOW
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
    )
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

/// Whether a name has no address: the resolver's complaint has no kind of its own.
fn is_unresolved(error: &Error) -> bool {
    match error {
        Error::HostNotFound => true,
        Error::Io(error) => error.to_string().starts_with("failed to lookup address"),
        _ => false,
    }
}

/// How far a request got that had no answer.
pub(super) fn stage(error: &Error, way: &Way) -> Stage {
    let connection = if way.proxy.is_some() { Stage::Proxy } else { Stage::Connection };
    match error {
        Error::ConnectProxyFailed(_) => Stage::Proxy,
        error if is_unresolved(error) => connection,
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => connection,
        Error::Io(error) if is_unreachable(error) || is_refused(error) => connection,
        Error::Io(error) if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => Stage::Tls,
        _ => Stage::Answer,
    }
}

/// A request that got no answer, in words.
pub(super) fn no_answer(error: &Error, way: &Way, took: Duration, limits: Timeouts) -> NoAnswer {
    let Way { host, port, proxy } = way;
    let via = way.via();
    let (text, again) = match error {
        error if is_unresolved(error) => {
            let text = match proxy {
                Some((proxy, _)) => format!(
                    "the name of the proxy {proxy} can't be resolved: check DNS and the option \
                     proxy"
                ),
                None => format!("the name {host} can't be resolved: check DNS, or set proxy"),
            };
            (text, Again::Soon)
        }
        Error::Timeout(phase) => (out_of_time(*phase, way, limits), Again::NextRun),
        // Of several addresses the last one's fault is told, and the time was spent on the others.
        Error::Io(error) if is_unreachable(error) && took * 2 >= limits.connect => {
            (no_connection(way, "in time"), Again::NextRun)
        }
        Error::ConnectProxyFailed(why) => proxy_refused(why, way),
        Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(error) => (tls(error, host, &via), Again::Mended),
            None => (broken_connection(error, way), Again::Soon),
        },
        Error::Protocol(error) => {
            let who = match proxy {
                Some((proxy, port)) => format!("the proxy {proxy}:{port}, or {host} behind it,"),
                None => host.clone(),
            };
            let text =
                format!("what {who} answers can't be read as HTTP ({error}): check the port");
            (text, Again::Soon)
        }
        other => (format!("the connection to {host}:{port}{via} failed: {other}"), Again::Soon),
    };
    NoAnswer { text, again }
}

fn out_of_time(phase: Timeout, way: &Way, limits: Timeouts) -> String {
    let Way { host, proxy, .. } = way;
    let via = way.via();
    let connect = limits.connect.as_secs();
    match phase {
        Timeout::Resolve => {
            let name = proxy.as_ref().map_or(host, |(proxy, _)| proxy);
            format!(
                "the name {name} was not resolved within {connect} s: this machine's name servers \
                 (/etc/resolv.conf) don't answer{}",
                if proxy.is_none() { "; or it needs a proxy: set proxy" } else { "" }
            )
        }
        Timeout::Connect => no_connection(way, &format!("within {connect} s")),
        Timeout::SendRequest | Timeout::SendBody | Timeout::PerWrite => format!(
            "{host}{via} didn't take the request within {} s: check firewall and proxy",
            limits.silence.as_secs()
        ),
        _ => format!(
            "{host}{via} took the request, but didn't answer in time: check firewall and proxy, and \
             Microsoft's service health; the next run asks again"
        ),
    }
}

fn no_connection(way: &Way, when: &str) -> String {
    let Way { host, port, proxy } = way;
    let what = match proxy {
        Some(_) => "is the proxy right, is it up, and may it connect there?",
        None => "does a firewall drop it? If this machine needs a proxy, set proxy",
    };
    format!("no connection to {host}:{port}{} {when}: {what}", way.via())
}

fn proxy_refused(why: &str, way: &Way) -> (String, Again) {
    let Way { host, port, proxy } = way;
    let (proxy, proxy_port) = proxy.as_ref().map_or(("", 0), |(host, port)| (host, *port));
    let proxy = format!("the proxy {proxy}:{proxy_port}");
    // ureq hands over the proxy's status as text: "proxy server responded 407/407".
    let status: Option<u16> = why.rsplit_once('/').and_then(|(_, status)| status.parse().ok());
    match status {
        Some(407) => {
            let text = format!(
                "{proxy} wants a user and a password that it knows (HTTP 407): set proxy to \
                 http://user:password@host:port, with % and what is special in an address \
                 percent-encoded; it must take the method Basic"
            );
            (text, Again::Mended)
        }
        Some(status @ (502..=504)) => {
            let text = format!(
                "{proxy} can't reach {host}:{port} (HTTP {status}): check the proxy's own DNS and \
                 its way to the internet"
            );
            (text, Again::Soon)
        }
        Some(status @ ..400) => {
            let text = format!(
                "{proxy} answers HTTP {status} where it was to connect to {host}:{port}: is it an \
                 HTTP proxy that takes CONNECT, or a page to log in to the network?"
            );
            (text, Again::Soon)
        }
        Some(status) => {
            let text = format!(
                "{proxy} refuses to connect to {host}:{port} (HTTP {status}): allow this machine \
                 that host in the proxy's rules"
            );
            let passing = matches!(status, 408 | 429 | 500..);
            (text, if passing { Again::Soon } else { Again::Mended })
        }
        None => {
            let text = format!(
                "{proxy} broke off when asked to connect to {host}:{port}: is it an HTTP proxy, and \
                 its port the right one?"
            );
            (text, Again::Soon)
        }
    }
}

fn broken_connection(error: &io::Error, way: &Way) -> String {
    let Way { host, port, proxy } = way;
    let via = way.via();
    let peer = match proxy {
        Some((proxy, port)) => format!("the proxy {proxy}:{port}"),
        None => format!("{host}:{port}"),
    };
    match error.kind() {
        _ if is_refused(error) => {
            let what = match proxy {
                Some(_) => "is it up, and is its port right?",
                None => "does a firewall reject it? If this machine needs a proxy, set proxy",
            };
            format!("{peer} refuses the connection: {what}")
        }
        _ if is_unreachable(error) => format!(
            "there is no way to {peer} ({error}): check this machine's network{}",
            if proxy.is_none() { ", or set proxy" } else { "" }
        ),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => format!(
            "the connection to {host}:{port}{via} was cut before an answer came ({error}): if this \
             lasts, look for a firewall or proxy that cuts it"
        ),
        _ => format!("the connection to {host}:{port}{via} failed: {error}"),
    }
}

fn tls(error: &rustls::Error, host: &str, via: &str) -> String {
    match error {
        // The verifier's own words, with what to do.
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) => {
            format!("TLS with {host}{via} failed: {}", why.0)
        }
        other => format!(
            "TLS with {host}{via} failed: {}; is there a proxy or firewall between that opens or \
             cuts TLS? If so, name its CA certificate with ca_path",
            excerpt(&other.to_string())
        ),
    }
}

/// The limit that a body has exceeded, if that is what is wrong, wherever in the chain of readers it
/// was noticed.
pub(super) fn exceeded(error: &io::Error) -> Option<Timeout> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::Timeout(limit) => Some(*limit),
        Error::Io(error) | Error::Decompress(_, error) => exceeded(error),
        _ => None,
    }
}
