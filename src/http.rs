//! The only user of ureq: connections, trust, proxies, limits, and faults in words.

mod answer;
mod explain;
mod header;
mod resolver;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod verifier;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use ureq::http::Uri;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, ProxyProtocol};
use zeroize::Zeroizing;

pub use self::answer::{Answer, Content};
use self::answer::{OVER, answer};
use self::explain::{Way, is_dead_end, no_answer, stage};
pub use self::header::Header;
use self::resolver::SystemResolver;
use self::tls::TlsConnector;
pub use self::trust::{Stores, parse_bundle};
use crate::proxy::{Environment, Proxy};
use crate::secret::Secret;
use crate::words::Hidden;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a name to be resolved; then for a connection: TCP, a proxy's consent, and TLS together. A
    /// proxy that answers bit by bit has it for each bit.
    pub connect: Duration,
    /// For the answer to a sign-in to begin, and then for it to end, which takes Microsoft less than a
    /// second. Wazuh sends nobody's events before the run has ended: all wait for one that hangs.
    pub sign_in: Duration,
    /// For any other answer to begin, and for the next bytes of a body: a connection on which nothing
    /// moves for so long has stalled. Microsoft's slowest listings have taken half a minute.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            sign_in: Duration::from_secs(10),
            silence: Duration::from_secs(60),
        }
    }
}

/// The largest head of a request, in bytes: an address of Microsoft's and a token take 4 KiB. Each
/// connection fills a buffer of that size with zeros.
const MOST_HEAD: usize = 32 << 10;

/// The part of it that address and token leave to the other headers.
const OTHER_HEADERS: usize = 2 << 10;

/// A request that got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// What happened, with the host, and what to do where that is known.
    pub text: String,
    /// When another try may help.
    pub again: Again,
}

/// When a request that got no answer may go better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// In a moment.
    Soon,
    /// Not before the next run: it has taken its time, and would take it again.
    NextRun,
    /// When a person has mended something.
    Mended,
}

/// How far a request got that had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// To no connection.
    Connection,
    /// Not beyond the proxy.
    Proxy,
    /// To a connection on which TLS fails.
    Tls,
    /// To a connection on which no answer comes.
    Answer,
}

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Nothing: a GET whose answer is read at once.
    Get,
    /// The same, of which the beginning of the answer is awaited no longer than this.
    Impatient(Duration),
    /// Nothing: a GET whose answer is read bit by bit, however long that takes.
    Stream,
    /// Nothing, by POST.
    Post,
    /// A sign-in's form, by POST.
    Form(&'a Secret),
}

/// How the network is reached.
#[derive(Debug, Default)]
pub struct Network {
    /// The configured proxy, which goes before the environment's.
    pub proxy: Option<Proxy>,
    /// The environment's proxies.
    pub environment: Environment,
    /// The trusted certificates that the environment names.
    pub stores: Stores,
    /// Certificates that are trusted besides those: `ca_path`.
    pub own_roots: Vec<CertificateDer<'static>>,
    /// How many connections to keep open to one host.
    pub connections: usize,
    /// How long is waited for what.
    pub timeouts: Timeouts,
}

/// Sends requests. Connections are kept and used again.
#[derive(Debug)]
pub struct Http {
    network: Network,
    /// What TLS begins with, loaded once: by [`Http::load_trust`], or when a connection needs it.
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    /// One for each way to go: through a proxy or not, with TLS or not.
    agents: Mutex<Vec<(Route, Agent)>>,
    /// The ways that this run has tried: whether they lead anywhere.
    ways: Mutex<HashMap<Way, Found>>,
    shut: Arc<AtomicBool>,
    requests: AtomicU64,
}

/// What a run has found at the end of a way.
#[derive(Debug)]
enum Found {
    /// Somebody who answers, but for those who have missed him since.
    Answers { missed: usize },
    /// Nothing: this is what is said to whoever wants to go there, too.
    DeadEnd(NoAnswer),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    tls: bool,
    proxy: Option<Proxy>,
}

impl Http {
    /// Nothing is connected or loaded before the first request.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self {
            network,
            tls: OnceLock::new(),
            agents: Mutex::new(Vec::new()),
            ways: Mutex::new(HashMap::new()),
            shut: Arc::new(AtomicBool::new(false)),
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

    /// Sends one request. Redirects are not followed. `hidden`: what is not shown of its address, nor of
    /// what goes wrong.
    ///
    /// # Errors
    /// No answer came.
    pub fn send(
        &self,
        url: &str,
        bearer: Option<&Secret>,
        payload: Payload<'_>,
        hidden: Hidden<'_>,
    ) -> Result<Answer, NoAnswer> {
        let refused = |text: String| NoAnswer { text, again: Again::Mended };
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
        let (route, way) = self.route(&uri).map_err(refused)?;
        if let Some(Found::DeadEnd(fault)) = self.ways().get(&way) {
            return Err(fault.clone());
        }
        let agent = self.agent(route).map_err(refused)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let bearer = bearer.map(|token| Zeroizing::new(format!("Bearer {}", token.reveal())));
        let bearer = bearer.as_ref().map(|bearer| bearer.as_str());
        let limits = self.network.timeouts;
        // Of what is read at once, the answer's end is waited for as long as its beginning.
        let (begin, limit, whole) = match payload {
            Payload::Stream => (limits.silence, limits.silence, None),
            Payload::Get | Payload::Post => (limits.silence, limits.silence, Some(limits.silence)),
            Payload::Impatient(patience) => (patience, limits.silence, Some(limits.silence)),
            Payload::Form(_) => (limits.sign_in, limits.sign_in, Some(limits.sign_in)),
        };
        let result = match payload {
            Payload::Get | Payload::Impatient(_) | Payload::Stream => {
                let request = agent.get(&uri);
                let request = match bearer {
                    Some(bearer) => request.header("Authorization", bearer),
                    None => request,
                };
                request
                    .config()
                    .timeout_recv_response(Some(begin))
                    .timeout_recv_body(whole)
                    .build()
                    .call()
            }
            Payload::Post | Payload::Form(_) => {
                let request = agent.post(&uri);
                let request = match bearer {
                    Some(bearer) => request.header("Authorization", bearer),
                    None => request,
                };
                let request = request
                    .config()
                    .timeout_recv_response(Some(begin))
                    .timeout_recv_body(whole)
                    .build();
                match payload {
                    Payload::Form(form) => request
                        .content_type("application/x-www-form-urlencoded")
                        .send(form.reveal()),
                    _ => request.send_empty(),
                }
            }
        };
        let took = begun.elapsed();
        let what = || hidden.shown(&shown(&uri, payload)).into_owned();
        match result {
            Ok(response) => {
                let (status, took) = (response.status().as_u16(), took.as_millis());
                log::debug!("HTTP {status} in {took} ms: {}", what());
                self.note_answer(way);
                Ok(answer(response, host, limit, Arc::clone(&self.shut)))
            }
            Err(error) => {
                let mut fault = no_answer(&error, &way, took, limits);
                if self.shut.load(Ordering::Relaxed) {
                    fault.text = format!("{host} had not answered when {OVER}");
                    fault.again = Again::NextRun;
                } else if is_dead_end(&error, took) {
                    fault.again = Again::NextRun;
                    self.note_dead_end(way, &fault);
                }
                fault.text = hidden.shown(&fault.text).into_owned();
                log::debug!("no answer in {} ms: {}: {}", took.as_millis(), what(), fault.text);
                Err(fault)
            }
        }
    }

    /// Tries whether anybody answers at an origin, and says through which proxy, as `host:port`, if
    /// through any.
    ///
    /// # Errors
    /// Nobody does; where it ends, and why.
    pub fn reach(&self, origin: &str) -> Result<Option<String>, (Stage, String)> {
        let uri: Uri = origin
            .parse()
            .map_err(|_| (Stage::Connection, "the address is malformed".to_owned()))?;
        let (route, way) = self.route(&uri).map_err(|why| (Stage::Proxy, why))?;
        let proxy = route.proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host, proxy.port));
        let agent = self.agent(route).map_err(|why| (Stage::Tls, why))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let limits = self.network.timeouts;
        let request = agent.get(&uri).config().timeout_recv_response(Some(limits.sign_in));
        match request.build().call() {
            Ok(response) => {
                let (status, took) = (response.status().as_u16(), begun.elapsed().as_millis());
                log::debug!("HTTP {status} in {took} ms: GET {origin}");
                Ok(proxy)
            }
            Err(error) => {
                let fault = no_answer(&error, &way, begun.elapsed(), limits);
                log::debug!("no answer: GET {origin}: {}", fault.text);
                Err((stage(&error, &way), fault.text))
            }
        }
    }

    /// Notes that a way leads somewhere, whatever others who went it at the same time have found.
    fn note_answer(&self, way: Way) {
        self.ways().insert(way, Found::Answers { missed: 0 });
    }

    /// Notes that a way leads nowhere. If it has led somewhere in this run, it takes more of them in a
    /// row than can be under way together.
    fn note_dead_end(&self, way: Way, fault: &NoAnswer) {
        let mut ways = self.ways();
        let found = ways.entry(way).or_insert_with(|| Found::DeadEnd(fault.clone()));
        if let Found::Answers { missed } = found {
            *missed += 1;
            if *missed > self.network.connections {
                *found = Found::DeadEnd(fault.clone());
            }
        }
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<Way, Found>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the certificates that are trusted, if any of `origins` is reached by TLS: for who can't read
    /// them later. What is wrong with them is said where they are needed.
    pub fn load_trust<'a>(&self, mut origins: impl Iterator<Item = &'a str>) {
        if origins.any(|origin| origin.starts_with("https:")) {
            let _ = self.trust();
        }
    }

    fn trust(&self) -> &Result<Arc<ClientConfig>, String> {
        let Network { stores, own_roots, .. } = &self.network;
        self.tls.get_or_init(|| trust::client_config(stores, own_roots))
    }

    /// The agent for a route, made when it is first needed.
    fn agent(&self, route: Route) -> Result<Agent, String> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shut.load(Ordering::Relaxed) {
            return Err("the run is over".to_owned());
        }
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == route) {
            return Ok(agent.clone());
        }
        let Network { connections, timeouts, .. } = &self.network;
        let tls = route.tls.then(|| self.trust().clone()).transpose()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(route.proxy.as_ref().map(ureq_proxy).transpose()?)
            .user_agent(concat!("wodle-office365/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .max_idle_connections(*connections)
            .max_idle_connections_per_host(*connections)
            .output_buffer_size(MOST_HEAD)
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.silence))
            .timeout_per_read(Some(timeouts.silence))
            .timeout_per_write(Some(timeouts.silence))
            .build();
        let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let connector = connector.chain(TlsConnector(tls));
        let agent = Agent::with_parts(config, connector, SystemResolver(timeouts.connect));
        agents.push((route, agent.clone()));
        Ok(agent)
    }

    /// How `uri` is reached.
    fn route(&self, uri: &Uri) -> Result<(Route, Way), String> {
        let tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let proxy = match &self.network.proxy {
            Some(proxy) => Some(proxy.clone()),
            None => self.network.environment.proxy_for(tls, host, port)?,
        };
        // Plain http never leaves this machine, so neither by a proxy that is on another one.
        let proxy = proxy.filter(|proxy| tls || proxy.is_local());
        let way = Way::new(host, port, proxy.as_ref());
        Ok((Route { tls, proxy }, way))
    }
}

/// A request as the log shows it: of its query only what it asks for, for the rest may be anything.
fn shown(uri: &Uri, payload: Payload<'_>) -> String {
    let method = match payload {
        Payload::Get | Payload::Impatient(_) | Payload::Stream => "GET",
        Payload::Post | Payload::Form(_) => "POST",
    };
    let asks = |parameter: &&str| {
        ["contentType=", "startTime=", "endTime="].iter().any(|name| parameter.starts_with(name))
    };
    let query: Vec<_> = uri.query().unwrap_or_default().split('&').filter(asks).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    let (host, path) = (uri.host().unwrap_or_default(), uri.path());
    format!("{method} {host}{path}{separator}{}", query.join("&"))
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
