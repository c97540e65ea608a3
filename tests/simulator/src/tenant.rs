//! Tenants, their applications and subscriptions, and the blobs that hold their records.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, UtcOffset};

use crate::assertion::Certificate;
use crate::http::Body;

/// The content types of the Management Activity API.
pub const CONTENT_TYPES: [&str; 5] = [
    "Audit.AzureActiveDirectory",
    "Audit.Exchange",
    "Audit.SharePoint",
    "Audit.General",
    "DLP.All",
];

/// A customer of Microsoft's: ids, names, applications, roles and subscriptions at the start.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub(crate) guid: String,
    pub(crate) domains: Vec<String>,
    pub(crate) apps: Vec<App>,
    pub(crate) roles: Vec<String>,
    pub(crate) streams: BTreeMap<String, Stream>,
    /// Content type and place of each blob, by its id.
    pub(crate) blobs: HashMap<String, (String, usize)>,
}

/// An application that may sign in.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) client_id: String,
    pub(crate) secret: Option<String>,
    pub(crate) certificate: Option<Certificate>,
}

/// One content type of a tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) status: Option<String>,
    pub(crate) last_start: Option<OffsetDateTime>,
    /// In the order of their creation, then of publication.
    pub(crate) order: BTreeMap<(OffsetDateTime, usize), usize>,
    pub(crate) blobs: Vec<Published>,
}

impl Tenant {
    /// A tenant with one application, which holds the roles `ActivityFeed.Read` and
    /// `ActivityFeed.ReadDlp`, and without any subscription.
    #[must_use]
    pub fn new(guid: &str, client_id: &str, client_secret: &str) -> Self {
        let roles = ["ActivityFeed.Read", "ActivityFeed.ReadDlp"];
        Self {
            guid: guid.to_ascii_lowercase(),
            domains: Vec::new(),
            apps: Vec::new(),
            roles: roles.map(str::to_owned).to_vec(),
            streams: BTreeMap::new(),
            blobs: HashMap::new(),
        }
        .app(client_id, client_secret)
    }

    /// One more application, with a secret.
    #[must_use]
    pub fn app(mut self, client_id: &str, client_secret: &str) -> Self {
        self.apps.push(App {
            client_id: client_id.to_owned(),
            secret: Some(client_secret.to_owned()),
            certificate: None,
        });
        self
    }

    /// Uploads a certificate (DER, with an RSA key) to the tenant's first application, which may
    /// then sign in with a `client_assertion` too.
    ///
    /// # Panics
    /// If it is no certificate with an RSA key.
    #[must_use]
    pub fn certificate(mut self, der: &[u8]) -> Self {
        let certificate = Certificate::from_der(der).expect("a DER certificate with an RSA key");
        if let Some(app) = self.apps.first_mut() {
            app.certificate = Some(certificate);
        }
        self
    }

    /// A domain name; the login host takes it in the place of the GUID.
    #[must_use]
    pub fn domain(mut self, name: &str) -> Self {
        self.domains.push(name.to_ascii_lowercase());
        self
    }

    /// The roles of its tokens; none: tokens without `roles`, as before an administrator's consent.
    #[must_use]
    pub fn roles(mut self, roles: &[&str]) -> Self {
        self.roles = roles.iter().map(|&role| role.to_owned()).collect();
        self
    }

    /// Subscriptions that are enabled from the start.
    #[must_use]
    pub fn subscribed(mut self, content_types: &[&str]) -> Self {
        for &name in content_types {
            self.streams.entry(name.to_owned()).or_default().status = Some("enabled".to_owned());
        }
        self
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.guid.eq_ignore_ascii_case(name)
            || self.domains.iter().any(|domain| domain.eq_ignore_ascii_case(name))
    }

    pub(crate) fn publish(&mut self, content_type: &str, blob: Blob, number: usize) -> String {
        let id = blob.id.clone().unwrap_or_else(|| default_id(content_type, blob.created, number));
        let stream = self.streams.entry(content_type.to_owned()).or_default();
        let place = stream.blobs.len();
        stream.order.insert((blob.created, place), place);
        stream.blobs.push(Published { id: id.clone(), blob, partial: false });
        self.blobs.insert(id.clone(), (content_type.to_owned(), place));
        id
    }

    pub(crate) fn blob(&self, id: &str) -> Option<(&str, &Published)> {
        let (content_type, place) = self.blobs.get(id)?;
        Some((content_type, self.streams.get(content_type)?.blobs.get(*place)?))
    }
}

/// A blob under its id.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) blob: Blob,
    /// The last listing that had it began at its very second.
    pub(crate) partial: bool,
}

/// A content blob: what it holds, and when it can be listed and fetched.
#[derive(Clone, Debug)]
pub struct Blob {
    pub(crate) created: OffsetDateTime,
    pub(crate) body: Body,
    pub(crate) listable_at: Option<OffsetDateTime>,
    pub(crate) expires: OffsetDateTime,
    pub(crate) id: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) partial_at_start: Option<Body>,
    pub(crate) listed_as: Vec<(String, Option<Value>)>,
    pub(crate) always_listed: bool,
}

impl Blob {
    /// A blob with these records. Its `contentCreated` is `created`, in whole milliseconds; it
    /// becomes listable at that time.
    #[must_use]
    pub fn new(created: OffsetDateTime, records: &[Value]) -> Self {
        Self::raw(created, Value::from(records).to_string())
    }

    /// A blob with any bytes for its body.
    #[must_use]
    pub fn raw(created: OffsetDateTime, body: impl Into<Vec<u8>>) -> Self {
        Self::with(created, Body::Bytes(Arc::new(body.into())))
    }

    /// A blob of about `bytes` bytes: a JSON array with `record` over and over, at least once,
    /// made while it is sent, so that its size costs no memory.
    #[must_use]
    pub fn generated(created: OffsetDateTime, bytes: u64, record: Vec<u8>) -> Self {
        let each = u64::try_from(record.len()).unwrap_or(u64::MAX).saturating_add(1);
        let count = (bytes.saturating_sub(1) / each).max(1);
        Self::with(created, Body::Repeated { record: Arc::new(record), count })
    }

    fn with(created: OffsetDateTime, body: Body) -> Self {
        let created = created.to_offset(UtcOffset::UTC);
        let created = created.replace_millisecond(created.millisecond()).unwrap_or(created);
        Self {
            created,
            body,
            listable_at: None,
            expires: created + Duration::days(7),
            id: None,
            uri: None,
            partial_at_start: None,
            listed_as: Vec::new(),
            always_listed: false,
        }
    }

    /// Lists it with this value of a member such as `contentCreated`, of whatever kind, instead of the
    /// right one; `None`: without the member.
    #[must_use]
    pub fn listed_as(mut self, member: &str, value: Option<Value>) -> Self {
        self.listed_as.push((member.to_owned(), value));
        self
    }

    /// Lists it on the first page of every window, whenever it was created.
    #[must_use]
    pub fn always_listed(mut self) -> Self {
        self.always_listed = true;
        self
    }

    /// Becomes listable only at this time (and not before its creation).
    #[must_use]
    pub fn listable_at(mut self, time: OffsetDateTime) -> Self {
        self.listable_at = Some(time);
        self
    }

    /// Can be fetched until this time; 7 days if not said. Listed it is nevertheless.
    #[must_use]
    pub fn expires(mut self, time: OffsetDateTime) -> Self {
        self.expires = time.to_offset(UtcOffset::UTC);
        self
    }

    /// Its content id; one of Microsoft's form, with `$`, if not said.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Hands out this `contentUri` instead of its own.
    #[must_use]
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// What a fetch gives as long as the last listing that had this blob began at the very
    /// second of its creation: Microsoft has been seen to hand out a part then.
    #[must_use]
    pub fn partial_at_start(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.partial_at_start = Some(Body::Bytes(Arc::new(body.into())));
        self
    }

    pub(crate) fn is_listable(&self, now: OffsetDateTime) -> bool {
        self.created <= now && self.listable_at.is_none_or(|time| time <= now)
    }
}

/// `20230828171604712068871$20230828173205648032977$audit_general$Audit_General$emea9037`
fn default_id(content_type: &str, created: OffsetDateTime, number: usize) -> String {
    let digits =
        format_description!("[year][month][day][hour][minute][second][subsecond digits:3]");
    let stamp = |time: OffsetDateTime| time.format(digits).unwrap_or_default();
    let name = content_type.replace('.', "_");
    format!(
        "{}{number:06}${}{number:06}${}${name}$emea9037",
        stamp(created - Duration::minutes(16)),
        stamp(created),
        name.to_ascii_lowercase(),
    )
}

/// Whether it is a GUID as Microsoft writes them: 8-4-4-4-12 hexadecimal digits.
pub(crate) fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}
