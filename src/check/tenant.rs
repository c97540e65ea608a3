//! What `check` finds out about one tenant, in the order in which a poll needs it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Context;
use super::finding::Findings;
use crate::api::{Access, Api, Started, Trouble};
use crate::auth::{Credentials, Grant};
use crate::clock::{Clock, local_now};
use crate::codes;
use crate::config::{self, Credential, is_guid};
use crate::content::{ContentType, Reaction};
use crate::credentials;
use crate::http::Stage;
use crate::state::{CLOCK_TOLERANCE, Stream, Window, edge_margin};
use crate::timestamp::{DAY, MINUTE, Timestamp, age};
use crate::words::of;

/// A request that may go better the next time is sent so often.
const TRIES: u32 = 3;

/// And so long later.
const PAUSE: Duration = Duration::from_secs(1);

/// What is looked at after the sign-in.
const BEHIND_LOGIN: &str = "roles, subscriptions, listing and clock are not looked at";

pub(super) struct TenantCheck<'a> {
    context: &'a Context<'a>,
    tenant: &'a config::Tenant,
    clock: Arc<Clock>,
    api: Api,
    signed_in: bool,
    /// Content types whose subscriptions were started here, could not be started, and that could be
    /// listed.
    started: Vec<ContentType>,
    refused: Vec<ContentType>,
    listed: Vec<ContentType>,
    findings: Findings,
}

impl<'a> TenantCheck<'a> {
    pub(super) fn new(context: &'a Context<'a>, tenant: &'a config::Tenant) -> Self {
        let clock = Arc::new(Clock::new(context.state.clock_offset));
        let http = Arc::clone(&context.http);
        let memory = Arc::clone(&context.memory);
        let (clock_of_api, max_held) = (Arc::clone(&clock), context.config.max_held);
        let api = Api { http, clock: clock_of_api, max_held, memory };
        let findings = Findings::of(&tenant.tenant_id);
        let [started, refused, listed] = [const { Vec::new() }; 3];
        Self { context, tenant, clock, api, signed_in: false, started, refused, listed, findings }
    }

    pub(super) fn run(mut self) -> Findings {
        self.ids();
        let credentials = self.credentials();
        let reached = self.reach();
        match (credentials, reached) {
            (Some(credentials), true) => self.sign_in(&credentials),
            _ => {
                self.findings.skipped("login", format!("not tried; {BEHIND_LOGIN}"));
            }
        }
        self.state();
        self.findings
    }

    /// The two ids, as far as their looks tell.
    fn ids(&mut self) {
        let tenant = self.tenant;
        let ids = [("tenant_id", &tenant.tenant_id), ("client_id", &tenant.client_id)];
        for (name, id) in ids {
            let is_domain = name == "tenant_id" && id.contains('.');
            if !is_guid(id) && !is_domain {
                self.findings.warning(
                    "configuration",
                    format!(
                        "{name} {id} is no GUID{}: copy it from the application's Overview page in \
                         the Entra admin center",
                        if name == "tenant_id" { " and no domain name" } else { "" }
                    ),
                );
            }
        }
        if tenant.tenant_id.eq_ignore_ascii_case(&tenant.client_id) {
            self.findings.failure(
                "configuration",
                "tenant_id and client_id are the same: tenant_id is the Directory (tenant) ID, \
                 client_id the Application (client) ID of the application's Overview page in the \
                 Entra admin center",
            );
        }
    }

    /// What it signs in with.
    fn credentials(&mut self) -> Option<Credentials> {
        let Context { home, config, .. } = *self.context;
        let tenant = self.tenant;
        let loaded = credentials::load(home, config, tenant, [local_now(), self.clock.now()]);
        let credentials = match loaded {
            Ok(credentials) => credentials,
            Err(why) => {
                self.findings.failure("credentials", why);
                return None;
            }
        };
        match &credentials {
            Credentials::Certificate(certificate) => {
                let now = self.clock.now();
                let days = certificate.days_left(now);
                match certificate.near_end(now) {
                    Some(text) => self.findings.warning("credentials", text),
                    None => self
                        .findings
                        .ok("credentials", format!("a certificate, which expires in {days} days")),
                };
            }
            Credentials::ClientSecret(secret) => {
                let found = match &tenant.credential {
                    Credential::SecretFile(_) => "a client secret in a file",
                    _ => "a client secret in the configuration",
                };
                if is_guid(secret.reveal()) {
                    self.findings.warning(
                        "credentials",
                        format!(
                            "{found}, which looks like the secret's ID: what is needed is its Value, \
                             which has some 40 characters and is shown only once, when the secret is \
                             made (Entra admin center, App registrations > your application > \
                             Certificates & secrets > New client secret)"
                        ),
                    );
                } else {
                    self.findings.ok("credentials", found);
                }
                if credentials::has_white_space(home, config, tenant) {
                    self.findings.ok(
                        "credentials",
                        "there is white space around the secret in its file, which is left out",
                    );
                }
            }
        }
        Some(credentials)
    }

    /// Whether both hosts can be reached.
    fn reach(&mut self) -> bool {
        let hosts = self.tenant.origins();
        let mut proxies = Vec::new();
        let mut well = true;
        for host in hosts {
            match self.context.http.reach(host) {
                Ok(proxy) => proxies.push(proxy),
                Err((stage, why)) => {
                    let check = match stage {
                        Stage::Proxy => "proxy",
                        Stage::Tls => "TLS",
                        Stage::Connection | Stage::Answer => "connection",
                    };
                    self.findings.failure(check, format!("{host}: {why}"));
                    well = false;
                    if stage == Stage::Proxy {
                        // The other host is behind it as well.
                        break;
                    }
                }
            }
        }
        if well {
            proxies.sort();
            proxies.dedup();
            let shown = proxies.iter().map(|proxy| proxy.as_deref().unwrap_or("none, direct"));
            self.findings.ok("proxy", shown.collect::<Vec<_>>().join(" and "));
            let hosts = format!("{} and {}", self.tenant.login, self.tenant.management);
            let found = if hosts.contains("https://") {
                format!("{hosts} answer, and their certificates are trusted")
            } else {
                format!("{hosts} answer; plain http, on this machine only")
            };
            self.findings.ok("TLS", found);
        }
        well
    }

    fn sign_in(&mut self, credentials: &Credentials) {
        let granted = again(|| self.api.sign_in(self.tenant, credentials, Vec::new()));
        let (grant, access) = match granted {
            Ok(granted) => granted,
            Err(trouble) => {
                self.failed("login", &trouble);
                self.findings.skipped("roles", format!("no token, so {BEHIND_LOGIN}"));
                return;
            }
        };
        self.signed_in = true;
        self.findings.guid = Some(access.guid.to_ascii_lowercase());
        let by = match credentials {
            Credentials::ClientSecret(_) => "a client secret",
            Credentials::Certificate(_) => "a certificate",
        };
        self.findings
            .ok("login", format!("signed in with {by}; the token lasts {}", age(grant.lifetime)));
        if !self.roles(&grant, &access) {
            self.findings.skipped(
                "subscriptions",
                "without a role subscriptions, listing and clock can't be looked at",
            );
            return;
        }
        match self.subscriptions(&access) {
            Some(on) => self.listing(&access, &on),
            None => {
                self.findings.skipped("listing", "not looked at");
            }
        }
        self.clock();
    }

    /// Whether the token has any role that is needed.
    fn roles(&mut self, grant: &Grant, access: &Access) -> bool {
        let tid = grant.claims.tid.as_deref();
        if let Some(tid) = tid.filter(|tid| !tid.eq_ignore_ascii_case(&access.guid)) {
            let remedy = codes::explain("AF20010").map_or("", |explanation| explanation.remedy);
            self.findings.failure(
                "login",
                format!("the token is for tenant {tid}, which is not tenant_id: {remedy}"),
            );
        }
        let Some(roles) = &grant.claims.roles else {
            self.findings.ok("roles", "the token doesn't show them: the API will tell");
            return true;
        };
        let needed = &self.context.config.subscriptions;
        let missing = grant.claims.missing_roles(needed);
        if missing.is_empty() {
            self.findings.ok("roles", access.hidden().excerpt(&roles.join(", ")));
            return true;
        }
        let remedy = codes::explain("AF10001").map_or("", |explanation| explanation.remedy);
        let of_these = needed.iter().filter(|needed| missing.contains(&needed.role()));
        let of_these: Vec<_> = of_these.copied().collect();
        self.findings
            .failure(
                "roles",
                format!(
                    "the token lacks {}, without which there is no {}: {remedy}",
                    missing.join(" and "),
                    names(&of_these)
                ),
            )
            .with_code(Some("AF10001".to_owned()));
        of_these.len() < needed.len()
    }

    /// Which of the configured subscriptions are on, if that can be told; starts those that are not, if
    /// that is asked for.
    fn subscriptions(&mut self, access: &Access) -> Option<Vec<ContentType>> {
        let wanted = &self.context.config.subscriptions;
        let list = match again(|| self.api.subscriptions(access, None)) {
            Ok(list) => list,
            Err(trouble) => {
                self.failed("subscriptions", &trouble);
                return None;
            }
        };
        // Whether one that is unclear is on is what listing its content says.
        let mut on = [list.enabled, list.unclear].concat();
        on.retain(|content_type| wanted.contains(content_type));
        let missing: Vec<_> = wanted.iter().copied().filter(|name| !on.contains(name)).collect();
        if !on.is_empty() {
            self.findings.ok("subscriptions", format!("on: {}", names(&on)));
        }
        if missing.is_empty() {
            return Some(on);
        }
        if !self.context.start {
            self.missing(&missing);
            return Some(on);
        }
        for content_type in missing {
            match again(|| self.api.start(access, content_type)) {
                Ok(Started::Now | Started::Before) => {
                    on.push(content_type);
                    self.started.push(content_type);
                    self.findings
                        .ok(
                            "subscriptions",
                            "started; Microsoft may take up to 12 hours to hand out its first content",
                        )
                        .in_stream(content_type);
                }
                Err(trouble) => {
                    self.refused.push(content_type);
                    self.failed("subscriptions", &trouble);
                    self.findings.in_stream(content_type);
                }
            }
        }
        Some(on)
    }

    /// Subscriptions that are not on: no fault, unless a poll could not start them.
    fn missing(&mut self, missing: &[ContentType]) {
        let state = self.context.state;
        let known = state.tenants.get(&state.tenant_id(&self.tenant.tenant_id));
        let mut new = Vec::new();
        for content_type in missing.iter().copied() {
            let stream = known.and_then(|tenant| tenant.streams.get(&content_type));
            let Some(why) = stream.and_then(|stream| stream.start_error.as_ref()) else {
                new.push(content_type);
                continue;
            };
            self.refused.push(content_type);
            self.findings
                .failure("subscriptions", format!("the last poll could not start it: {why}"))
                .in_stream(content_type);
        }
        if !new.is_empty() {
            self.findings.warning(
                "subscriptions",
                format!(
                    "not started yet: {}; the next poll starts them, or check --start; Microsoft may \
                     take up to 12 hours to hand out their first content",
                    names(&new)
                ),
            );
        }
    }

    /// Lists the first content type that is on, and all of which the last poll failed.
    fn listing(&mut self, access: &Access, on: &[ContentType]) {
        let state = self.context.state;
        let known = state.tenants.get(&state.tenant_id(&self.tenant.tenant_id));
        if on.is_empty() {
            self.findings.skipped("listing", "no subscription is on, so there is nothing to list");
        }
        for (n, content_type) in on.iter().enumerate() {
            let stream = known.and_then(|tenant| tenant.streams.get(content_type));
            let failed = stream.filter(|stream| stream.health.last_error.is_some());
            if n == 0 || failed.is_some() {
                self.list(access, *content_type, failed);
            }
        }
    }

    /// Lists the last day, and where a stream stands that the last poll `failed`.
    fn list(&mut self, access: &Access, content_type: ContentType, failed: Option<&Stream>) {
        let now = self.clock.now();
        let (start, end) = (now.plus(MINUTE - DAY), now);
        let window = Window { start, from: start, end, lost: None };
        let stuck = failed.map(|stream| stream.window(stream.position, now, edge_margin(1)));
        let stuck = stuck.filter(|stuck| stuck.start < start);
        if let Some(window) = stuck
            && let Err(trouble) = again(|| self.api.list(access, content_type, &window, None))
        {
            self.failed("listing", &trouble);
            self.findings.in_stream(content_type);
            return;
        }
        match again(|| self.api.list(access, content_type, &window, None)) {
            Ok((page, _)) => {
                self.listed.push(content_type);
                let more = if page.next.is_some() { " and more" } else { "" };
                let found = match page.blobs.len() {
                    0 => {
                        "nothing became available within the last 24 hours: where people work that \
                          is unusual, unless the subscription is new; Microsoft may take up to 12 \
                          hours to hand out its first content, and auditing must be on (Microsoft \
                          Purview portal > Solutions > Audit)"
                            .to_owned()
                    }
                    count => {
                        format!(
                            "{}{more} within the last 24 hours",
                            of(count as u64, "content blob")
                        )
                    }
                };
                self.findings.ok("listing", found);
            }
            Err(trouble)
                if trouble.reaction == Reaction::Subscribe
                    && self.started.contains(&content_type) =>
            {
                self.listed.push(content_type);
                self.findings.warning(
                    "listing",
                    "its subscription was started a moment ago, and Microsoft takes a while until \
                     that shows: run check once more in some minutes",
                );
            }
            Err(trouble) => self.failed("listing", &trouble),
        }
        self.findings.in_stream(content_type);
    }

    fn clock(&mut self) {
        if let Some(why) = self.clock.untold() {
            self.findings.warning(
                "clock",
                format!(
                    "the API's answers do not tell the time (the header Date {why}): this machine's \
                     clock decides; check that it is right (timedatectl, NTP), and whether a proxy \
                     changes headers"
                ),
            );
            return;
        }
        if !self.clock.seen() {
            self.findings.skipped("clock", "the API has not told the time");
            return;
        }
        let offset = self.clock.offset();
        let (side, by) = if offset > 0 { ("behind", offset) } else { ("ahead of", -offset) };
        let found = match by {
            0 | 1 => "this machine's clock agrees with Microsoft's".to_owned(),
            by => format!("this machine's clock is {} {side} Microsoft's", age(by)),
        };
        if by > CLOCK_TOLERANCE {
            self.findings.warning(
                "clock",
                format!("{found}: set it (timedatectl, NTP); positions go by Microsoft's"),
            );
        } else {
            self.findings.ok("clock", found);
        }
    }

    /// Where its streams stand.
    fn state(&mut self) {
        if !self.context.is_known {
            return;
        }
        let state = self.context.state;
        let now = self.clock.now();
        let Some(tenant) = state.tenants.get(&state.tenant_id(&self.tenant.tenant_id)) else {
            self.findings.ok("state", "no poll has begun with this tenant yet");
            return;
        };
        if let Some(error) = tenant.health.last_error.as_ref().filter(|_| self.signed_in) {
            self.findings.warning(
                "state",
                format!("the last poll failed; if all above is well, the next one won't: {error}"),
            );
        }
        for content_type in &self.context.config.subscriptions {
            let Some(stream) = tenant.streams.get(content_type) else {
                self.findings.ok("state", "no poll has begun with it yet").in_stream(*content_type);
                continue;
            };
            self.stream(*content_type, stream, now);
            self.findings.in_stream(*content_type);
        }
        for backfill in &tenant.backfills {
            if let Some(error) = &backfill.stream.health.last_error {
                let text = format!("the {} fails: {error}", backfill.name());
                self.findings.failure("state", text).in_stream(backfill.content_type);
            }
        }
    }

    fn stream(&mut self, content_type: ContentType, stream: &Stream, now: Timestamp) {
        let (lag, waiting) = (stream.lag(now), of(stream.waiting.len() as u64, "blob"));
        let found = format!("position {}, lag {}, {waiting} waiting", stream.position, age(lag));
        // What was looked at above may be well by now.
        let is_listed = self.listed.contains(&content_type);
        let stuck = stream.waiting.iter().any(|blob| blob.failed_runs > 0);
        match &stream.health.last_error {
            // Said above.
            Some(_) if self.refused.contains(&content_type) => {
                self.findings.warning("state", format!("{found}; its subscription is not on"))
            }
            Some(error) if stuck || (self.signed_in && !is_listed) => {
                self.findings.failure("state", format!("{found}; the last poll failed: {error}"))
            }
            Some(error) => self.findings.warning(
                "state",
                format!(
                    "{found}; the last poll failed; if all above is well, the next one won't: {error}"
                ),
            ),
            None if lag > DAY => self.findings.warning(
                "state",
                format!(
                    "{found}: Microsoft keeps content for 7 days; see wodle-office365 status, and \
                     whether polls run"
                ),
            ),
            None => self.findings.ok("state", found),
        };
    }

    fn failed(&mut self, check: &'static str, trouble: &Trouble) {
        self.findings.failure(check, &trouble.text).with_code(trouble.code.clone());
    }
}

fn names(list: &[ContentType]) -> String {
    let names: Vec<_> = list.iter().map(|content_type| content_type.name()).collect();
    names.join(", ")
}

/// Sends a request again that may go better the next time.
fn again<T>(mut send: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let mut tries = 1;
    loop {
        match send() {
            Err(trouble) if trouble.reaction == Reaction::Retry && tries < TRIES => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}
