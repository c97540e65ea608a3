//! What a run leaves to the next one: for every stream its position, the blobs already delivered
//! and those that wait; what was handed over; which notices wait or were told. And the reasoning on
//! it. No I/O, no clock.

mod backfill;
mod delivered;
mod handover;
mod polls;
mod room;
mod stream;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::backfill::{Backfill, Junction};
pub use self::delivered::{Delivered, fingerprint};
pub use self::handover::{DeadQueue, Handover, Modulesd, Queue};
pub use self::polls::hanging;
pub use self::room::{MAX_STATE, Room, Share};
pub use self::stream::{
    CLOCK_TOLERANCE, ClockReading, MOST_WAITING, Origin, Place, RETENTION, RunEnd,
    SUBSCRIPTION_PAUSE, Stream, Tally, Window, edge_margin,
};
pub use self::waiting::Waiting;
use crate::config::Config;
use crate::content::ContentType;
use crate::health::{Health, is_due};
use crate::notice::{Kind, Notice};
use crate::timestamp::{DAY, Timestamp};
use crate::words::excerpt;

/// The version of the file's form that we write and read.
pub const VERSION: u32 = 1;

/// A tenant that is no longer configured is forgotten after this time.
const FORGET_TENANT: i64 = 30 * DAY;

/// More notices than these don't wait: what calls for them waits instead.
pub const MOST_NOTICES: usize = 1000;

/// So many texts of `configuration` notices are remembered.
const MOST_TOLD: usize = 1000;

/// The whole state of one HOME.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Seconds to add to the local clock to get the API's, as last seen.
    pub clock_offset: i64,
    /// When the last poll ended.
    pub last_poll: Option<Timestamp>,
    /// The configured interval in seconds, for those who judge how old `last_poll` may be.
    pub interval: i64,
    /// How long a poll may run, in seconds, for those who judge whether one hangs.
    #[serde(default = "default_longest_run")]
    pub longest_run: u64,
    /// The content types that the last poll was configured with; none where that is not known.
    #[serde(default)]
    pub content_types: Vec<ContentType>,
    /// Where a run that had to stop left off, so that the next one goes on behind it.
    pub turns: Turns,
    /// Set from when a newer state was lost to the end of the next poll: a stream that is not known
    /// here has begun since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
    /// What the last run under a modulesd handed over.
    pub handover: Handover,
    /// Notices to be written: they did not fit into a run's output, or were lost with one.
    pub notices: Vec<Notice>,
    /// When which `configuration` notice was last written, by its text's fingerprint.
    configuration_told: BTreeMap<String, Timestamp>,
    /// By `tenant_id` as configured, in lower case.
    pub tenants: BTreeMap<String, Tenant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            clock_offset: 0,
            last_poll: None,
            interval: 0,
            longest_run: default_longest_run(),
            content_types: Vec::new(),
            turns: Turns::default(),
            lost_since: None,
            handover: Handover::default(),
            notices: Vec::new(),
            configuration_told: BTreeMap::new(),
            tenants: BTreeMap::new(),
        }
    }
}

fn default_longest_run() -> u64 {
    300 + Config::MARGIN
}

/// Where a run left off that had to stop before all was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// The tenant that sent the last request for a token, a subscription or a listing.
    pub listed: Option<String>,
    /// The same of those tenants that had failed the last time, which have turns of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<String>,
    /// The stream of which the last blob was begun.
    pub fetched: Option<(String, ContentType)>,
    /// The same of backfills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<(String, ContentType)>,
}

/// Why a state file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub enum BadState {
    /// It is of another version, perhaps of a newer release.
    Version(u64),
    /// It is damaged.
    Damaged(String),
}

#[derive(Deserialize)]
#[serde(expecting = "an object with a version")]
struct VersionOnly {
    version: u64,
}

impl State {
    /// Reads a state file's contents.
    ///
    /// # Errors
    /// It is of an unknown version or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadState> {
        let damaged = |error: serde_json::Error| BadState::Damaged(excerpt(&error.to_string()));
        let VersionOnly { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != u64::from(VERSION) {
            return Err(BadState::Version(version));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Takes a finished run with this configuration down.
    pub fn end_poll(&mut self, now: Timestamp, clock_offset: i64, config: &Config, turns: Turns) {
        self.last_poll = Some(now);
        self.clock_offset = clock_offset;
        self.interval = config.interval;
        self.longest_run = config.longest_run();
        self.content_types.clone_from(&config.subscriptions);
        self.turns = turns;
        let names: BTreeSet<_> =
            config.tenants.iter().map(|tenant| tenant.tenant_id.to_ascii_lowercase()).collect();
        for (name, tenant) in &mut self.tenants {
            tenant.is_configured = names.contains(name);
        }
        self.lost_since = None;
        let forget = |at: Timestamp| now.since(at) > FORGET_TENANT;
        self.tenants.retain(|_, tenant| !tenant.configured_at.is_some_and(forget));
    }

    /// Asks for a `configuration` notice: once for a text, then once a day.
    pub fn tell_configuration(&mut self, tenant_id: &str, text: &str, now: Timestamp) {
        let key = format!("{:016x}", fingerprint(&format!("{tenant_id} {text}")));
        if !is_due(self.configuration_told.get(&key).copied(), now) {
            return;
        }
        self.configuration_told.retain(|_, told| !is_due(Some(*told), now));
        if self.configuration_told.len() < MOST_TOLD {
            self.configuration_told.insert(key, now);
            self.notices.push(Notice::new(Kind::Configuration, tenant_id, None, text));
        }
    }

    /// The first `count` of the notices that wait have been written. `hand_over`: under a modulesd,
    /// so that they may still get lost.
    pub fn notices_written(&mut self, count: usize, hand_over: bool) {
        let written = self.notices.drain(..count.min(self.notices.len()));
        if hand_over {
            self.handover.notices.extend(written);
        }
    }

    /// Takes the state of a configured tenant out of here, or makes a new one.
    ///
    /// A tenant may be configured by a domain name and later by its GUID: the state is the same.
    /// That of one that `is_configured` by its own name is not taken, though.
    pub fn take_tenant(&mut self, tenant_id: &str, is_configured: impl Fn(&str) -> bool) -> Tenant {
        let key = tenant_id.to_ascii_lowercase();
        if let Some(tenant) = self.tenants.remove(&key) {
            return tenant;
        }
        let same = |tenant: &Tenant| tenant.guid.as_deref() == Some(key.as_str());
        let other = self.tenants.iter().find(|(name, t)| same(t) && !is_configured(name));
        let other = other.map(|(name, _)| name.clone());
        other.and_then(|name| self.tenants.remove(&name)).unwrap_or_default()
    }

    /// Puts a configured tenant's state back.
    pub fn put_tenant(&mut self, tenant_id: &str, mut tenant: Tenant, now: Timestamp) {
        tenant.configured_at = Some(now);
        tenant.backfills.retain_mut(|backfill| backfill.end_run(now));
        // What was known of it by its GUID has been taken over.
        if let Some(guid) = &tenant.guid {
            self.tenants.remove(guid);
        }
        self.tenants.insert(tenant_id.to_ascii_lowercase(), tenant);
    }

    /// Whether the last poll had this content type in its configuration.
    #[must_use]
    pub fn is_subscribed(&self, content_type: ContentType) -> bool {
        self.content_types.is_empty() || self.content_types.contains(&content_type)
    }

    /// What a tenant is called here that is called `name`, or has it for its GUID.
    #[must_use]
    pub fn tenant_id(&self, name: &str) -> String {
        let wanted = name.to_ascii_lowercase();
        let is_it = |(tenant_id, tenant): &(&String, &Tenant)| {
            **tenant_id == wanted || tenant.guid.as_ref() == Some(&wanted)
        };
        self.tenants.iter().find(is_it).map_or(wanted, |(tenant_id, _)| tenant_id.clone())
    }

    /// What is known of a tenant's GUID, where it is configured by a domain name.
    #[must_use]
    pub fn guid_of(&self, tenant_id: &str) -> Option<&str> {
        self.tenants.get(&tenant_id.to_ascii_lowercase())?.guid.as_deref()
    }

    /// The tenant that has this GUID, under another name than `tenant_id`.
    #[must_use]
    pub fn same_tenant(&self, guid: &str, tenant_id: &str) -> Option<&Tenant> {
        let key = guid.to_ascii_lowercase();
        self.tenants.get(&key).filter(|_| !tenant_id.eq_ignore_ascii_case(guid))
    }
}

/// A pause that a tenant was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// For how many seconds.
    pub seconds: u32,
}

impl Pause {
    /// The seconds of it that are left. None when it is over, or when a clock that went back makes
    /// that unknown: then the API will say.
    #[must_use]
    pub fn left(self, now: Timestamp) -> Option<u32> {
        let gone = u32::try_from(now.since(self.since)).ok()?;
        self.seconds.checked_sub(gone).filter(|left| *left > 0)
    }
}

/// What is remembered of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its GUID, where `tenant_id` is a domain name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// When a run last had it in its configuration.
    pub configured_at: Option<Timestamp>,
    /// Whether the last run had.
    #[serde(default)]
    pub is_configured: bool,
    /// When its subscriptions were last listed.
    pub subscriptions_listed: Option<Timestamp>,
    /// The API has asked it to slow down for longer than its last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// How it fares as a whole.
    pub health: Health,
    /// Its streams.
    pub streams: BTreeMap<ContentType, Stream>,
    /// The past windows that were asked for, in the order in which they were; of each content type one
    /// at a time is worked on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backfills: Vec<Backfill>,
}

/// Whether a number need not be saved.
fn is_zero<N: Copy + Into<u64>>(number: &N) -> bool {
    (*number).into() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::content::Blob;

    fn at(seconds_before: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 - seconds_before)
    }

    fn config() -> Config {
        config::parse("x", b"<office365><enabled>no</enabled></office365>").unwrap()
    }

    fn waiting(id: &str, created: Timestamp) -> Waiting {
        let blob =
            Blob { id: id.to_owned(), uri: String::new(), created: Some(created), expires: None };
        Waiting::new(blob, created)
    }

    #[test]
    fn a_state_survives_its_file() {
        let mut state = State::default();
        let mut tenant = state.take_tenant("Contoso.example", |_| false);
        let mut stream = Stream { is_new: false, ..Stream::first(true, None, at(0)) };
        stream.waiting.push(waiting("a$b", at(5)));
        tenant.streams.insert(ContentType::Dlp, stream);
        tenant.guid = Some("guid".to_owned());
        state.put_tenant("Contoso.example", tenant.clone(), at(0));
        let text = serde_json::to_vec(&state).unwrap();
        let mut read = State::parse(&text).unwrap();
        assert_eq!(read, state);
        tenant.configured_at = Some(at(0));
        assert!(read.same_tenant("guid", "contoso.example").is_none());
        let other = read.take_tenant("GUID", |name| name == "contoso.example");
        assert_eq!(other, Tenant::default(), "that one is configured itself");
        assert_eq!(read.take_tenant("GUID", |_| false), tenant, "known by its GUID too");
        read.put_tenant("guid", tenant, at(30 * DAY + 1));
        read.end_poll(at(1), 7, &config(), Turns::default());
        assert_eq!((read.tenants.len(), read.clock_offset, read.interval), (1, 7, 60));
        read.end_poll(at(0), 0, &config(), Turns::default());
        assert!(read.tenants.is_empty());
    }

    #[test]
    fn a_pause_ends_whatever_the_clock_does() {
        let pause = Pause { since: at(100), seconds: 60 };
        let table = [(100, Some(60)), (90, Some(50)), (40, None), (0, None), (101, None)];
        for (seconds, left) in table {
            assert_eq!(pause.left(at(seconds)), left, "{seconds}");
        }
    }

    #[test]
    fn unknown_versions_and_damage_are_told_apart() {
        assert_eq!(State::parse(br#"{"version":2,"x":[]}"#), Err(BadState::Version(2)));
        let no_tenants =
            br#"{"version":1,"clock_offset":0,"last_poll":null,"interval":60,"turns":{}}"#;
        for damaged in [&b""[..], b"{", b"{}", br#"{"version":1}"#, no_tenants, b"\0\0"] {
            assert!(matches!(State::parse(damaged), Err(BadState::Damaged(_))));
        }
        let mut whole = State::default();
        let mut tenant = Tenant::default();
        tenant.streams.insert(ContentType::Dlp, Stream::first(true, None, at(0)));
        whole.put_tenant("t", tenant, at(0));
        let whole = serde_json::to_value(&whole).unwrap();
        let mut odd = whole.clone();
        odd["tenants"]["t"]["streams"]["DLP.All"]["origin"] = "x\n".repeat(1000).into();
        let odd = State::parse(odd.to_string().as_bytes());
        assert!(
            matches!(odd, Err(BadState::Damaged(why)) if why.len() < 600 && !why.contains('\n'))
        );
        for member in [
            "position",
            "horizon",
            "window",
            "delivered",
            "waiting",
            "handed_over",
            "health",
            "gaps",
        ] {
            let mut partial = whole.clone();
            let stream = &mut partial["tenants"]["t"]["streams"]["DLP.All"];
            assert!(stream.as_object_mut().unwrap().remove(member).is_some());
            let partial = State::parse(partial.to_string().as_bytes());
            assert!(matches!(partial, Err(BadState::Damaged(_))), "{member}");
        }
        let cut = br#"{"version":1,"clock_offset":0,"last_poll":null,"interval":60,"turns":{},"tenants":{"t":{"streams":{"DLP.All":{"position":"2015-05-23T17:35:00Z","horizon":"2015-05-23T17:35:00Z","delivered":{"since":"2015-05-23T17:35:00Z","blobs":"AAAA"}}}}}}"#;
        assert!(matches!(State::parse(cut), Err(BadState::Damaged(why)) if why.contains("cut")));
    }
}
