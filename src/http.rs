//! The only user of ureq: connections, trust, proxies, limits, and faults in words.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, BodyReader, ProxyProtocol};

use crate::bounded::read_at_most;
use crate::proxy::{Environment, Proxy};
use crate::secret::Secret;
use crate::timestamp::Timestamp;

/// To connect. Names are resolved without a limit of ours: for one, ureq would start a thread each
/// time, and panic where no thread can be had; the system's resolver has its own.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection on which nothing moves for so long has stalled, be it before the first byte of an
/// answer or inside it. Microsoft's slowest listings have taken half a minute.
const SILENCE: Duration = Duration::from_secs(60);

/// The largest head of a request, in bytes: an address of Microsoft's and a token take 4 KiB. Each
/// connection fills a buffer of that size with zeros.
const MOST_HEAD: usize = 32 << 10;

/// The part of it that address and token leave to the other headers.
const OTHER_HEADERS: usize = 2 << 10;

/// The largest bundle that `ca_path` may name.
const MOST_CA: u64 = 16 << 20;

/// A request that got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// What happened, with the host, and what to do where that is known.
    pub text: String,
    /// Whether it may go better in a moment.
    pub passing: bool,
}

/// An answer's head, with its body still to be read.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `Date`.
    pub date: Option<Timestamp>,
    /// The header `NextPageUri`.
    pub next_page: Option<String>,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    body: Body,
    host: String,
}

impl Answer {
    /// Reads the whole body into memory, `most` bytes of it at most.
    ///
    /// # Errors
    /// It is larger, or the connection broke.
    pub fn read(mut self, most: usize) -> Result<Vec<u8>, NoAnswer> {
        let body = self.body.as_reader();
        read_at_most(body, most as u64).map_err(|error| broken(&self.host, &error))
    }

    /// The body as a stream.
    #[must_use]
    pub fn into_reader(self) -> BodyReader<'static> {
        self.body.into_reader()
    }
}

/// A body that could not be read to its end.
#[must_use]
pub fn broken(host: &str, error: &std::io::Error) -> NoAnswer {
    NoAnswer { text: format!("the answer of {host} broke off: {error}"), passing: true }
}

/// Reads the certificates of a PEM bundle.
///
/// # Errors
/// It can't be read or holds none.
pub fn read_bundle(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::File::open(path).and_then(|file| read_at_most(file, MOST_CA));
    let pem = pem.map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err("it holds no PEM certificate".to_owned());
    }
    Ok(certificates)
}

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Nothing: a GET.
    Get,
    /// Nothing, by POST.
    Post,
    /// A form, by POST.
    Form(&'a Secret),
}

/// Sends requests. Connections are kept and used again.
#[derive(Debug)]
pub struct Http {
    proxy: Option<Proxy>,
    environment: Environment,
    own_roots: Vec<Certificate<'static>>,
    connections: usize,
    roots: OnceLock<Result<Arc<Vec<Certificate<'static>>>, String>>,
    /// One for each way to go: through a proxy or not, with TLS or not.
    agents: Mutex<Vec<(Route, Agent)>>,
    shut: AtomicBool,
    requests: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    tls: bool,
    proxy: Option<Proxy>,
}

impl Http {
    /// `proxy`: the configured one, which goes before the environment's. `own_roots`: trusted
    /// besides the system's. `connections`: how many to keep open to one host.
    #[must_use]
    pub fn new(
        proxy: Option<Proxy>,
        environment: Environment,
        own_roots: Vec<Certificate<'static>>,
        connections: usize,
    ) -> Self {
        Self {
            proxy,
            environment,
            own_roots,
            connections,
            roots: OnceLock::new(),
            agents: Mutex::new(Vec::new()),
            shut: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }
    }

    /// Requests sent so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Breaks off every request in flight and refuses new ones.
    pub fn shut_down(&self) {
        self.shut.store(true, Ordering::Relaxed);
        for (_, agent) in self.agents.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            agent.shutdown();
        }
    }

    /// Sends one request. Redirects are not followed.
    ///
    /// # Errors
    /// No answer came.
    pub fn send(
        &self,
        url: &str,
        bearer: Option<&Secret>,
        payload: Payload<'_>,
    ) -> Result<Answer, NoAnswer> {
        let refused = |text: String| NoAnswer { text, passing: false };
        let uri: Uri = url
            .parse()
            .map_err(|_| refused("the address to be fetched is malformed".to_owned()))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let token = bearer.map_or(0, |token| token.reveal().len());
        if url.len() + token > MOST_HEAD - OTHER_HEADERS {
            return Err(refused(format!(
                "a request to {host} would be too long: its address takes {} bytes, and the token \
                 {token}",
                url.len()
            )));
        }
        let agent = self.agent(&uri, &host).map_err(refused)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let bearer = bearer.map(|token| format!("Bearer {}", token.reveal()));
        let result = match payload {
            Payload::Get => {
                let request = agent.get(&uri);
                match &bearer {
                    Some(bearer) => request.header("Authorization", bearer),
                    None => request,
                }
                .call()
            }
            Payload::Post | Payload::Form(_) => {
                let request = agent.post(&uri);
                let request = match &bearer {
                    Some(bearer) => request.header("Authorization", bearer),
                    None => request,
                };
                match payload {
                    Payload::Form(form) => request
                        .content_type("application/x-www-form-urlencoded")
                        .send(form.reveal()),
                    _ => request.send_empty(),
                }
            }
        };
        let took = begun.elapsed().as_millis();
        let path = uri.path();
        match result {
            Ok(response) => {
                let status = response.status().as_u16();
                log::debug!("HTTP {status} in {took} ms from {host}{path}");
                Ok(answer(response, host))
            }
            Err(error) => {
                let trouble = self.explain(&error, &uri, &host);
                log::debug!("no answer in {took} ms from {host}{path}: {}", trouble.text);
                Err(trouble)
            }
        }
    }

    /// The agent for the way to `host`, made when it is first needed.
    fn agent(&self, uri: &Uri, host: &str) -> Result<Agent, String> {
        let route = self.route(uri, host)?;
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shut.load(Ordering::Relaxed) {
            return Err("the run is over".to_owned());
        }
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == route) {
            return Ok(agent.clone());
        }
        let mut tls = TlsConfig::builder();
        if route.tls {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let roots = RootCerts::Specific(self.roots()?);
            tls = tls.unversioned_rustls_crypto_provider(provider).root_certs(roots);
        }
        let proxy = route.proxy.as_ref().map(ureq_proxy).transpose()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls.build())
            .user_agent(concat!("wodle-office365/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .max_idle_connections(self.connections)
            .max_idle_connections_per_host(self.connections)
            .output_buffer_size(MOST_HEAD)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build();
        let agent = Agent::new_with_config(config);
        agents.push((route, agent.clone()));
        Ok(agent)
    }

    fn route(&self, uri: &Uri, host: &str) -> Result<Route, String> {
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let proxy = match &self.proxy {
            Some(proxy) => Some(proxy.clone()),
            // The environment's is for the world: plain http goes to this machine only, and a proxy
            // would see its secrets.
            None if tls => self.environment.proxy_for(host, port)?,
            None => None,
        };
        Ok(Route { tls, proxy })
    }

    /// The trusted roots, loaded once and only when a TLS connection is to be made.
    fn roots(&self) -> Result<Arc<Vec<Certificate<'static>>>, String> {
        self.roots.get_or_init(|| self.load_roots().map(Arc::new)).clone()
    }

    fn load_roots(&self) -> Result<Vec<Certificate<'static>>, String> {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            log::warn!("trusted certificates: {error}");
        }
        let mut roots: Vec<_> =
            native.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect();
        roots.extend(self.own_roots.iter().cloned());
        if roots.is_empty() {
            return Err("there is no trusted certificate on this machine: install the package \
                        ca-certificates, or name a PEM bundle with ca_path"
                .to_owned());
        }
        Ok(roots)
    }

    /// A fault of the connection in words: which host, what it means, what to do.
    fn explain(&self, error: &ureq::Error, uri: &Uri, host: &str) -> NoAnswer {
        let route = self.route(uri, host).ok().and_then(|route| route.proxy);
        let via = match &route {
            Some(proxy) => format!(" through the proxy {}:{}", proxy.host, proxy.port),
            None => String::new(),
        };
        let (text, passing) = match error {
            error if is_unresolved(error) => {
                let name = route.as_ref().map_or(host, |proxy| proxy.host.as_str());
                (format!("the name {name} can't be resolved: check DNS, or set proxy"), true)
            }
            ureq::Error::Timeout(phase) => {
                let text = format!(
                    "{host}{via} didn't answer in time ({phase}): check firewall and proxy"
                );
                (text, true)
            }
            ureq::Error::ConnectProxyFailed(status) => {
                let text = format!(
                    "the proxy refused to connect to {host}{via} ({status}): check its access \
                     rules, and user and password in the option proxy"
                );
                // ureq hands over the proxy's status as text.
                (text, !status.contains("407") && !status.contains("403"))
            }
            ureq::Error::Rustls(error) => (tls_text(host, &via, error), false),
            // rustls's complaints during the handshake arrive wrapped.
            ureq::Error::Io(error) if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => {
                (tls_text(host, &via, error), false)
            }
            ureq::Error::Io(error) => {
                (format!("the connection to {host}{via} failed: {error}"), true)
            }
            other => (format!("the connection to {host}{via} failed: {other}"), true),
        };
        NoAnswer { text, passing }
    }
}

/// Whether a name has no address: the resolver's complaint has no kind of its own.
fn is_unresolved(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound => true,
        ureq::Error::Io(error) => error.to_string().starts_with("failed to lookup address"),
        _ => false,
    }
}

fn tls_text(host: &str, via: &str, error: &dyn std::error::Error) -> String {
    format!(
        "TLS with {host}{via} failed: {error}; if a proxy opens TLS, name its CA certificate with \
         ca_path; else check this machine's clock and its package ca-certificates"
    )
}

fn ureq_proxy(proxy: &Proxy) -> Result<ureq::Proxy, String> {
    let host =
        if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let mut builder = ureq::Proxy::builder(ProxyProtocol::Http).host(&host).port(proxy.port);
    if let Some((user, password)) = &proxy.login {
        builder = builder.username(user).password(password.reveal());
    }
    builder.build().map_err(|_| format!("the proxy {host}:{} can't be used", proxy.port))
}

fn answer(response: Response<Body>, host: String) -> Answer {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header("Date").and_then(Timestamp::parse_http_date);
    let next_page = header("NextPageUri").map(str::trim).filter(|link| !link.is_empty());
    let retry_after = header("Retry-After").and_then(|text| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX)).or_else(|| {
            let until = Timestamp::parse_http_date(text)?;
            u64::try_from(until.since(date?)).ok()
        })
    });
    Answer {
        status: response.status().as_u16(),
        date,
        next_page: next_page.map(str::to_owned),
        retry_after,
        body: response.into_body(),
        host,
    }
}
