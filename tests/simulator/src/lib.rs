//! A stand-in for the two hosts of Microsoft's that a collector of Office 365 audit logs talks
//! to: the login host (OAuth 2.0 client credentials) and the Office 365 Management Activity API.
//! Both listen on loopback, each on an origin of its own, and answer as the real ones do, errors
//! included; [faults](Fault) make them misbehave on request.
//!
//! ```
//! use office365_simulator::{Blob, Simulator, Tenant};
//!
//! let tenant = "0f6c3bd2-8b1e-4c6e-9d5a-3a1f5f0c7e11";
//! let simulator = Simulator::builder()
//!     .tenant(Tenant::new(tenant, "5b8f1a57-0d0c-4a0e-8f43-5d9c2d7b6a90", "a secret")
//!         .subscribed(&["Audit.General"]))
//!     .start()?;
//! let record = serde_json::json!({ "Id": "1", "Operation": "ChatCreated" });
//! simulator.publish(tenant, "Audit.General", Blob::new(simulator.now(), &[record]));
//! println!("{} {}", simulator.login_url(), simulator.management_url());
//! assert!(simulator.requests().is_empty());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Everything stops, connections in progress included, when the [`Simulator`] is dropped.

mod assertion;
mod clock;
mod fault;
mod http;
mod log;
mod login;
mod management;
mod server;
mod state;
pub mod story;
mod tenant;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ServerConfig;
use time::OffsetDateTime;

pub use crate::fault::Fault;
pub use crate::log::{Call, Request};
use crate::server::Server;
pub use crate::state::Endless;
use crate::state::{Shared, SharedRef};
pub use crate::tenant::{Blob, CONTENT_TYPES, Tenant};

/// Keeps the README's example compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The two hosts, running. They stop when it is dropped.
pub struct Simulator {
    shared: SharedRef,
    server: Server,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator")
            .field("login_url", &self.shared.login_url)
            .field("management_url", &self.shared.management_url)
            .finish_non_exhaustive()
    }
}

impl Simulator {
    /// How to start one.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Origin of the login host, such as `http://127.0.0.1:40001`.
    #[must_use]
    pub fn login_url(&self) -> String {
        self.shared.login_url.clone()
    }

    /// Origin of the Management Activity API, which is the OAuth resource too.
    #[must_use]
    pub fn management_url(&self) -> String {
        self.shared.management_url.clone()
    }

    /// Where the login host and the management host listen, whatever names they are
    /// [known by](Builder::known_as).
    #[must_use]
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.server.addresses
    }

    /// All access tokens that are still good, or have ended less than a day ago.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.shared.state().tokens.keys().cloned().collect()
    }

    /// The simulator's clock. It decides `Date`, windows, late blobs and all kinds of expiry.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        self.shared.clock.now()
    }

    /// Moves the clock, forth or (negative) back.
    pub fn advance(&self, by: time::Duration) {
        self.shared.clock.advance(by);
    }

    /// Makes the `Date` of all answers wrong by so much (negative: too early), and nothing else.
    pub fn set_date_error(&self, by: time::Duration) {
        self.shared.clock.set_date_error(by);
    }

    /// Publishes a blob, whatever the state of the subscription; gives its content id.
    ///
    /// # Panics
    /// If there is no such tenant, or no such content type.
    #[allow(clippy::must_use_candidate, reason = "most callers do not need the id")]
    pub fn publish(&self, tenant: &str, content_type: &str, blob: Blob) -> String {
        assert!(CONTENT_TYPES.contains(&content_type), "no content type {content_type}");
        let mut state = self.shared.state();
        let number = usize::try_from(state.number()).unwrap_or_default();
        let tenant = known(state.tenant_mut(tenant), tenant);
        tenant.publish(content_type, blob, number)
    }

    /// Sets the state of a subscription, as another client of the tenant's would: `enabled`,
    /// `disabled`, or never started.
    ///
    /// # Panics
    /// If there is no such tenant.
    pub fn set_subscription(&self, tenant: &str, content_type: &str, status: Option<&str>) {
        let mut state = self.shared.state();
        let tenant = known(state.tenant_mut(tenant), tenant);
        let stream = tenant.streams.entry(content_type.to_owned()).or_default();
        stream.status = status.map(str::to_owned);
    }

    /// The state of a subscription; `None`: never started.
    ///
    /// # Panics
    /// If there is no such tenant.
    #[must_use]
    pub fn subscription(&self, tenant: &str, content_type: &str) -> Option<String> {
        let state = self.shared.state();
        known(state.tenant(tenant), tenant).streams.get(content_type)?.status.clone()
    }

    /// How many blobs a page of a listing holds at most; 600 at the start.
    pub fn set_page_size(&self, n: usize) {
        self.shared.state().page_size = n.max(1);
    }

    /// Whether every listing begins with an empty page that names a next one.
    pub fn set_empty_first_page(&self, yes: bool) {
        self.shared.state().empty_pages = yes;
    }

    /// Whether listings never end, and with what they go on.
    pub fn set_endless(&self, endless: Option<Endless>) {
        self.shared.state().endless = endless;
    }

    /// The roles of tokens issued from now on; none: tokens without `roles`.
    ///
    /// # Panics
    /// If there is no such tenant.
    pub fn set_roles(&self, tenant: &str, roles: &[&str]) {
        let mut state = self.shared.state();
        known(state.tenant_mut(tenant), tenant).roles =
            roles.iter().map(|&role| role.to_owned()).collect();
    }

    /// How long tokens issued from now on are valid; 3599 seconds at the start.
    pub fn set_token_lifetime(&self, seconds: i64) {
        self.shared.state().token_lifetime = seconds;
    }

    /// Makes all tokens of a tenant's so far worthless: 401.
    ///
    /// # Panics
    /// If there is no such tenant.
    pub fn revoke_tokens(&self, tenant: &str) {
        let mut state = self.shared.state();
        let guid = known(state.tenant(tenant), tenant).guid.clone();
        state.tokens.retain(|_, token| token.tenant != guid);
    }

    /// Queues a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Forgets all faults that are still queued.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// All requests so far, in the order of their arrival (of very many, the last 200,000).
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().log.requests.iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.state().log.clear();
    }

    /// Waits until `done` says so of the requests so far, or `timeout` is over; whether it did.
    /// A request is there as soon as it was received, with status 0 until it is answered.
    pub fn wait_for(
        &self,
        timeout: std::time::Duration,
        done: impl FnMut(&[Request]) -> bool,
    ) -> bool {
        self.shared.wait_for_log(timeout, done)
    }

    /// TCP connections accepted so far, on both hosts.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

fn known<T>(tenant: Option<T>, name: &str) -> T {
    tenant.unwrap_or_else(|| panic!("no tenant {name}"))
}

/// How a [`Simulator`] is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    tenants: Vec<Tenant>,
    gzip: bool,
    delay: std::time::Duration,
    start_limit: bool,
    lookback_grace: time::Duration,
    tls: Option<Arc<ServerConfig>>,
    login_port: u16,
    management_port: u16,
    origins: Option<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            tenants: Vec::new(),
            gzip: false,
            delay: std::time::Duration::ZERO,
            start_limit: true,
            lookback_grace: time::Duration::hours(1),
            tls: None,
            login_port: 0,
            management_port: 0,
            origins: None,
        }
    }
}

impl Builder {
    /// Adds a tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenants.push(tenant);
        self
    }

    /// Whether the management host compresses for clients that accept gzip; no, if not said.
    #[must_use]
    pub fn gzip(mut self, yes: bool) -> Self {
        self.gzip = yes;
        self
    }

    /// A time that every answer of the management host takes.
    #[must_use]
    pub fn delay(mut self, time: std::time::Duration) -> Self {
        self.delay = time;
        self
    }

    /// Whether a second start of a subscription within 15 minutes is refused; yes, if not said.
    #[must_use]
    pub fn start_limit(mut self, yes: bool) -> Self {
        self.start_limit = yes;
        self
    }

    /// How much older than 7 days a window's start may be; an hour, as observed, if not said.
    #[must_use]
    pub fn lookback_grace(mut self, time: time::Duration) -> Self {
        self.lookback_grace = time;
        self
    }

    /// Serves https on both hosts.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Port of the login host; any free one, if not said.
    #[must_use]
    pub fn login_port(mut self, port: u16) -> Self {
        self.login_port = port;
        self
    }

    /// Port of the management host; any free one, if not said.
    #[must_use]
    pub fn management_port(mut self, port: u16) -> Self {
        self.management_port = port;
        self
    }

    /// The origins of the login host and the management host as clients know them (such as
    /// `https://login.microsoftonline.com`), where something between leads these to the simulator;
    /// its addresses on loopback, if not said.
    #[must_use]
    pub fn known_as(mut self, login: &str, management: &str) -> Self {
        self.origins = Some((login.to_owned(), management.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// If a port is taken, or no thread can be started.
    pub fn start(self) -> io::Result<Simulator> {
        let login = server::bind(self.login_port)?;
        let management = server::bind(self.management_port)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let own = || (format!("{scheme}://{}", login.1), format!("{scheme}://{}", management.1));
        let urls = self.origins.clone().unwrap_or_else(own);
        let shared = Arc::new(Shared::new(urls, &self));
        let server = Server::start(Arc::clone(&shared), login, management, self.tls.as_ref())?;
        Ok(Simulator { shared, server })
    }
}
