//! The calls: sign in, list and start subscriptions, list content, fetch content. Each sends one
//! request and says what came of it; when to send it again is `collect`'s matter.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;

use crate::auth::{self, Credentials, Grant, TokenRequest};
use crate::clock::Clock;
use crate::codes::AUDITING_OFF;
use crate::config::{Config, Tenant, is_guid};
use crate::content::{
    Blob, ContentType, Reaction, Refusal, Subscriptions, classify, is_error_body, parse_listing,
    parse_subscriptions,
};
use crate::http::{Again, Answer, Header, Http, NoAnswer, Payload};
use crate::memory::{Holding, Memory, ORDINARY};
use crate::records::Records;
use crate::secret::Secret;
use crate::state::Window;
use crate::timestamp::{MINUTE, Timestamp, age};
use crate::words::Hidden;

/// The largest error body that is looked at.
const MOST_ERROR: usize = 64 << 10;

/// The largest answer to a sign-in: a token that can be sent has a fraction of it.
const MOST_SIGN_IN: usize = ORDINARY;

/// The longest pause, in seconds, that we choose ourselves for a tenant that is asked to slow down.
pub const LONGEST_PAUSE: u64 = 60;

/// Why a call brought nothing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What to do.
    pub reaction: Reaction,
    /// What happened, what it means, what a person can do.
    pub text: String,
    /// The API's error code, where there is one.
    pub code: Option<String>,
    /// Seconds that the server wants us to wait.
    pub retry_after: Option<u64>,
}

impl Trouble {
    /// A fault that may pass.
    #[must_use]
    pub fn passing(text: String) -> Self {
        Self { reaction: Reaction::Retry, text, code: None, retry_after: None }
    }

    /// What took too long to be tried again in the same run.
    #[must_use]
    pub fn slow(text: String) -> Self {
        Self { reaction: Reaction::Slow, text, code: None, retry_after: None }
    }

    /// A fault that a person must mend.
    #[must_use]
    pub fn refused(text: String) -> Self {
        Self { reaction: Reaction::Refused, text, code: None, retry_after: None }
    }
}

impl From<NoAnswer> for Trouble {
    fn from(fault: NoAnswer) -> Self {
        match fault.again {
            Again::Soon => Self::passing(fault.text),
            Again::NextRun => Self::slow(fault.text),
            Again::Mended => Self::refused(fault.text),
        }
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        // Free text in a code's place differs every time.
        let code = match refusal.explanation {
            Some(explanation) if explanation.code == AUDITING_OFF => AUDITING_OFF.to_owned(),
            _ => refusal.code.clone(),
        };
        let code = Some(code).filter(|code| !code.is_empty());
        Self { reaction: refusal.reaction, text: refusal.to_string(), code, retry_after: None }
    }
}

/// The right to speak for a tenant: its token and where it is good.
#[derive(Debug)]
pub struct Access {
    token: Secret,
    /// What must not be shown of an answer: the token, and what it was got with.
    secrets: Vec<Secret>,
    /// The tenant's GUID, which is also our PublisherIdentifier.
    pub guid: String,
    origin: Uri,
    root: String,
}

impl Access {
    /// `tid`: the tenant that the token names, which stands in for a `tenant_id` that is a domain
    /// name. `secrets`: the tenant's others, which are not shown either.
    ///
    /// # Errors
    /// The tenant's GUID is not known.
    pub fn new(
        tenant: &Tenant,
        token: Secret,
        tid: Option<&str>,
        mut secrets: Vec<Secret>,
    ) -> Result<Self, Trouble> {
        let configured = Some(tenant.tenant_id.as_str()).filter(|id| is_guid(id));
        let Some(guid) = configured.or(tid).filter(|id| is_guid(id)) else {
            return Err(Trouble::refused(format!(
                "tenant_id {} is no GUID, and the token doesn't tell the tenant's: put the \
                 Directory (tenant) ID into tenant_id",
                tenant.tenant_id
            )));
        };
        let origin = tenant
            .management
            .parse()
            .map_err(|_| Trouble::refused("management_url is malformed".to_owned()))?;
        let root = format!("{}/api/v1.0/{guid}/activity/feed", tenant.management);
        secrets.push(token.clone());
        Ok(Self { token, secrets, guid: guid.to_owned(), origin, root })
    }

    /// What must not be shown of what the API says: in bodies, ids, addresses and headers.
    #[must_use]
    pub fn hidden(&self) -> Hidden<'_> {
        Hidden(&self.secrets)
    }

    /// The secrets that are not shown.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// `url`, which the server handed out, as it may be called: only at the management origin, for
    /// the token goes nowhere else, and in our own publisher's name.
    fn own(&self, url: &str) -> Result<String, Trouble> {
        let uri: Option<Uri> = url.parse().ok();
        let port = |uri: &Uri| uri.port_u16().or((uri.scheme_str()? == "https").then_some(443));
        let same = uri.is_some_and(|uri| {
            let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
            plain
                && uri.scheme() == self.origin.scheme()
                && host(&uri) == host(&self.origin)
                && port(&uri) == port(&self.origin)
        });
        if !same {
            return Err(Trouble::refused(format!(
                "the API hands out an address that is not at {}: the token is not sent there; is \
                 management_url the right one?",
                self.origin
            )));
        }
        Ok(self.signed(url))
    }

    /// `url` with our publisher identifier, without which requests count against a quota shared
    /// by everyone who leaves it out.
    fn signed(&self, url: &str) -> String {
        if url.contains("PublisherIdentifier=") {
            return url.to_owned();
        }
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}PublisherIdentifier={}", self.guid)
    }
}

/// Since when a subscription is on that was to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It was off or missing.
    Now,
    /// It was on already.
    Before,
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page {
    /// The blobs on it.
    pub blobs: Vec<Blob>,
    /// The link to the next page.
    pub next: Option<String>,
}

/// An answer that is an array, with the link to the next page.
struct List {
    /// For the body; when it is taken apart this comes first, so that it is dropped last.
    holding: Holding,
    body: Vec<u8>,
    next: Header<String>,
}

/// The two hosts as they are called.
#[derive(Debug)]
pub struct Api {
    /// What sends.
    pub http: Arc<Http>,
    /// What the answers' `Date` sets.
    pub clock: Arc<Clock>,
    /// The largest answer held in memory, in bytes.
    pub max_held: usize,
    /// What all answers together may hold.
    pub memory: Arc<Memory>,
}

impl Api {
    /// The two hosts in a run with this configuration.
    #[must_use]
    pub fn new(http: Arc<Http>, clock: Arc<Clock>, config: &Config) -> Self {
        let memory = Arc::new(Memory::of(config));
        Self { http, clock, max_held: config.max_held, memory }
    }

    /// Signs in; gives the token, and the access that it is good for. `secrets`: what must not be shown of
    /// an answer besides what is sent.
    ///
    /// # Errors
    /// No token came, or none of a known tenant.
    pub fn sign_in(
        &self,
        tenant: &Tenant,
        credentials: &Credentials,
        mut secrets: Vec<Secret>,
    ) -> Result<(Grant, Access), Trouble> {
        let url = format!("{}/{}/oauth2/v2.0/token", tenant.login, tenant.tenant_id);
        let (client_id, management) = (&tenant.client_id, &tenant.management);
        let now = self.clock.login_now(&tenant.login);
        let request = TokenRequest::new(client_id, management, &url, credentials, now)
            .map_err(|why| Trouble::refused(why.to_owned()))?;
        if !secrets.contains(request.secret()) {
            secrets.push(request.secret().clone());
        }
        let hidden = Hidden(&secrets);
        let answer = self.http.send(&url, None, Payload::Form(&request.form), hidden)?;
        let (status, date) = (answer.status, answer.date.clone().usable());
        let retry_after = answer.retry_after.clone();
        let body = answer.read_secretly(MOST_SIGN_IN)?;
        if status == 200 {
            let grant = auth::parse_grant(&body).map_err(|why| {
                let text = format!(
                    "the login host's answer is unusable: {why}; is a proxy, or a page to log in to \
                     the network, in between?"
                );
                if why.is_passing() { Trouble::passing(text) } else { Trouble::refused(text) }
            })?;
            let tid = grant.claims.tid.as_deref();
            let access = Access::new(tenant, grant.token.clone(), tid, secrets)?;
            return Ok((grant, access));
        }
        let mut refusal = auth::classify_login(status, &body, hidden);
        // The assertion was made for another time than the login host's: the next one is not.
        let off = date.map_or(0, |date| date.since(now).abs());
        if let Some(date) = date.filter(|_| refusal.is_of_time() && off > MINUTE) {
            self.clock.observe_login(&tenant.login, date);
            refusal.passing = true;
            refusal.text = format!("{}; its time differed by {}", refusal.text, age(off));
        }
        let mut trouble = if refusal.passing {
            Trouble::passing(refusal.text)
        } else {
            Trouble::refused(refusal.text)
        };
        trouble.retry_after = wait(&tenant.tenant_id, &retry_after);
        trouble.code = refusal.aadsts.map(|number| format!("AADSTS{number}"));
        Err(trouble)
    }

    /// Lists the subscriptions. `patience`: how long the beginning of the answer is
    /// awaited; none, as long as any.
    ///
    /// # Errors
    /// No list came.
    pub fn subscriptions(
        &self,
        access: &Access,
        patience: Option<Duration>,
    ) -> Result<Subscriptions, Trouble> {
        let url = access.signed(&format!("{}/subscriptions/list", access.root));
        let List { holding, body, .. } = self.array(access, &url, patience)?;
        let subscriptions = self.parsed(&holding, || parse_subscriptions(&body));
        subscriptions.map_err(|why| Trouble::passing(access.hidden().excerpt(&why)))
    }

    /// Starts a subscription. That it is on already is as good.
    ///
    /// # Errors
    /// It was not started.
    pub fn start(&self, access: &Access, content_type: ContentType) -> Result<Started, Trouble> {
        let url = format!("{}/subscriptions/start?contentType={content_type}", access.root);
        let answer = self.call(access, &access.signed(&url), Payload::Post)?;
        if (200..300).contains(&answer.status) {
            // Read to its end, so that the connection can be used again.
            answer.read(MOST_ERROR)?;
            return Ok(Started::Now);
        }
        match self.refusal(access, answer) {
            Trouble { reaction: Reaction::AlreadyOn, .. } => Ok(Started::Before),
            trouble => Err(trouble),
        }
    }

    /// Lists the first page of a window. `patience`: as for [`subscriptions`](Self::subscriptions). The holding
    /// is for what the page holds, until it is taken in.
    ///
    /// # Errors
    /// No listing came.
    pub fn list(
        &self,
        access: &Access,
        content_type: ContentType,
        window: &Window,
        patience: Option<Duration>,
    ) -> Result<(Page, Holding), Trouble> {
        let url = format!(
            "{}/subscriptions/content?contentType={content_type}&startTime={}&endTime={}",
            access.root,
            window.start.query_form(),
            window.end.query_form()
        );
        self.page(access, &access.signed(&url), patience)
    }

    /// Lists the page that another page links to. The holding is as for [`list`](Self::list).
    ///
    /// # Errors
    /// No listing came, or the link leads elsewhere.
    pub fn next_page(&self, access: &Access, link: &str) -> Result<(Page, Holding), Trouble> {
        self.page(access, &access.own(link)?, None)
    }

    fn page(
        &self,
        access: &Access,
        url: &str,
        patience: Option<Duration>,
    ) -> Result<(Page, Holding), Trouble> {
        let List { holding, body, next } = self.array(access, url, patience)?;
        if let Some(why) = next.unusable() {
            return Err(Trouble::passing(format!(
                "the header NextPageUri, which links to the next page of the list, {why}, so the rest \
                 of the list is not known. Retried automatically; if it lasts, check whether a proxy \
                 changes headers"
            )));
        }
        let blobs = self.parsed(&holding, || parse_listing(&body));
        let blobs = blobs.map_err(|why| Trouble::passing(access.hidden().excerpt(&why)))?;
        Ok((Page { blobs, next: next.usable() }, holding))
    }

    /// Begins to fetch a blob; `buffer` is for what is read of it.
    ///
    /// # Errors
    /// It can't be fetched.
    pub fn fetch<'a>(
        &self,
        access: &Access,
        uri: &str,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Records<'a, impl Read + use<>>, Trouble> {
        let answer = self.call(access, &access.own(uri)?, Payload::Stream)?;
        if answer.status == 200 {
            let content = answer.into_reader();
            let known = content.has_known_end();
            let records = Records::new(content, self.max_held, buffer).with_known_end(known);
            return Ok(records.with_holding(Holding::new(&self.memory, &access.guid)));
        }
        Err(self.refusal(access, answer))
    }

    /// What is wrong with content that is no array: an error of the API, else nothing that may be
    /// shown, for it may be a record.
    #[must_use]
    pub fn no_content(&self, access: &Access, body: &[u8]) -> Trouble {
        let refusal = classify(200, body, access.hidden());
        if refusal.code.is_empty() {
            return Trouble::passing("the content is not a JSON array".to_owned());
        }
        refusal.into()
    }

    /// Gets an answer that must be an array, whole, with the link to the next page.
    fn array(
        &self,
        access: &Access,
        url: &str,
        patience: Option<Duration>,
    ) -> Result<List, Trouble> {
        let payload = patience.map_or(Payload::Get, Payload::Impatient);
        let answer = self.call(access, url, payload)?;
        if answer.status != 200 {
            return Err(self.refusal(access, answer));
        }
        let next = answer.next_page.clone();
        let mut holding = Holding::new(&self.memory, &access.guid);
        let body = answer.read_holding(self.max_held, &mut holding)?;
        if is_error_body(&body) {
            let error = body.get(..MOST_ERROR).unwrap_or(&body);
            return Err(classify(200, error, access.hidden()).into());
        }
        Ok(List { body, next, holding })
    }

    /// What is made of an answer; of large ones one at a time.
    fn parsed<T>(&self, holding: &Holding, parse: impl FnOnce() -> T) -> T {
        let work = holding.has_place().then(|| self.memory.work());
        let parsed = parse();
        drop(work);
        parsed
    }

    fn call(&self, access: &Access, url: &str, payload: Payload<'_>) -> Result<Answer, Trouble> {
        let answer = self.http.send(url, Some(&access.token), payload, access.hidden())?;
        if (200..300).contains(&answer.status) {
            self.observe(&answer.date);
        }
        Ok(answer)
    }

    /// Takes the time from an answer of the API itself: a gateway's error page has a clock of its
    /// own.
    fn observe(&self, date: &Header<Timestamp>) {
        match date {
            Header::Usable(date) => self.clock.observe(*date),
            Header::Unusable(why) => self.clock.not_told(why),
            Header::Absent => self.clock.not_told("is missing"),
        }
    }

    fn refusal(&self, access: &Access, answer: Answer) -> Trouble {
        let (status, date) = (answer.status, answer.date.clone());
        let retry_after = wait(&access.guid, &answer.retry_after);
        // Its status says enough where the body can't be read.
        let body = answer.read(MOST_ERROR).unwrap_or_default();
        let refusal = classify(status, &body, access.hidden());
        if refusal.code.starts_with("AF") {
            self.observe(&date);
        }
        Trouble { retry_after, ..refusal.into() }
    }
}

/// The seconds that a server wants us to wait. One that wants us to, but says in no usable way for how
/// long, gets the longest pause that we choose ourselves.
fn wait(tenant_id: &str, retry_after: &Header<u64>) -> Option<u64> {
    if let Some(why) = retry_after.unusable() {
        log::warn!(
            "{tenant_id}: the header Retry-After of an answer {why}; waiting {LONGEST_PAUSE} s"
        );
        return Some(LONGEST_PAUSE);
    }
    retry_after.clone().usable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Credential;

    const GUID: &str = "a0000000-0000-4000-8000-000000000001";

    fn tenant(tenant_id: &str) -> Tenant {
        Tenant {
            tenant_id: tenant_id.to_owned(),
            client_id: "c".to_owned(),
            credential: Credential::Secret(Secret::new("s")),
            login: "https://login.example".to_owned(),
            management: "https://manage.office.com".to_owned(),
        }
    }

    #[test]
    fn the_token_goes_to_the_management_origin_only() {
        let access = Access::new(&tenant(GUID), Secret::new("t"), None, Vec::new()).unwrap();
        for good in [
            "https://manage.office.com/api/v1.0/x/activity/feed/audit/1$2",
            "https://MANAGE.office.com:443/api?x=1",
        ] {
            assert!(access.own(good).unwrap().ends_with(&format!("PublisherIdentifier={GUID}")));
        }
        for bad in [
            "http://manage.office.com/x",
            "https://manage.office.com.evil.example/x",
            "https://manage.office.com@evil.example/x",
            "https://user@manage.office.com/x",
            "https://manage.office.com:444/x",
            "/relative",
            "not an address",
            "",
        ] {
            assert_eq!(access.own(bad).unwrap_err().reaction, Reaction::Refused, "{bad}");
        }
        let signed = access.own("https://manage.office.com/x?PublisherIdentifier=other");
        assert_eq!(signed.unwrap(), "https://manage.office.com/x?PublisherIdentifier=other");
    }

    #[test]
    fn a_domain_name_is_resolved_by_the_token() {
        let access =
            |id: &str, tid| Access::new(&tenant(id), Secret::new("t"), tid, vec![]).map(|a| a.guid);
        assert_eq!(access("contoso.example", Some(GUID)), Ok(GUID.to_owned()));
        assert_eq!(access(GUID, Some("b0000000-0000-4000-8000-000000000001")), Ok(GUID.to_owned()));
        assert!(access("contoso.example", None).is_err());
        assert!(access("contoso.example", Some("../x")).is_err());
    }
}
