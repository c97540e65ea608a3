//! A soak: many polls of several tenants in all weathers, judged by a ledger of its own.
//!
//! The API fails in every way that it has, its `Date` lies, runs are killed, modulesd dies with what
//! it holds, the state is damaged, and time passes. The ledger knows what the simulator made
//! available and what arrived through the host's pipe, and nothing of the program's state. Each
//! record must have arrived or be named by a `gap`, and may have come again only where it was not
//! acknowledged when something went down.
//!
//! `SOAK_POLLS` is the number of polls and `SOAK_SEED` what everything random comes from; both are
//! printed. `make soak` runs 1,000.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::str::FromStr;

use office365_simulator::{Blob, Call, Fault, Simulator, Tenant};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::harness::{CLIENT, Dice, Run, SECRET, STATE, Site, TENANT};
use crate::host::Options;

/// GUID, client id and secret.
const TENANTS: [[&str; 3]; 3] = [
    [TENANT, CLIENT, SECRET],
    ["a1b2c3d4-0000-4000-8000-000000000002", "client-2", "second secret"],
    ["a1b2c3d4-0000-4000-8000-000000000003", "client-3", "third secret"],
];
const CONTENT_TYPES: [&str; 3] = ["Audit.General", "Audit.Exchange", "DLP.All"];

const RETENTION: Duration = Duration::days(7);
const MAX_STATE: u64 = 8 << 20;

const AF429: &str = r#"{"error":{"code":"AF429","message":"Too many requests. Method=X"}}"#;
const AF20022: &str = r#"{"error":{"code":"AF20022","message":"No subscription found"}}"#;
const AF20031: &str = r#"{"error":{"code":"AF20031","message":"Invalid nextPage Input"}}"#;
const AF20050: &str = r#"{"error":{"code":"AF20050","message":"does not exist"}}"#;
const AF50000: &str = r#"{"error":{"code":"AF50000","message":"internal"}}"#;
const HTML: &str = "<html>a gateway's page</html>";

#[test]
fn every_record_arrives_or_is_named_by_a_gap_in_all_weathers() {
    let polls = from_environment("SOAK_POLLS", 60);
    let seed = from_environment("SOAK_SEED", 1);
    say(&format!("soak of {polls} polls: SOAK_POLLS={polls} SOAK_SEED={seed}"));
    let mut soak = Soak::new(seed);
    for poll in 0..polls {
        // Each has dice of its own: where the machine does not do the same again, the next one does.
        soak.dice = Dice::new(seed.wrapping_add((poll + 1) << 40));
        // First this machine's clock is right and only `Date` may be wrong.
        soak.turn(poll >= polls / 3);
    }
    soak.calm_down();
    soak.judge();
}

fn from_environment<T: FromStr>(name: &str, otherwise: T) -> T {
    let Ok(text) = std::env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
}

#[expect(clippy::print_stdout, reason = "what was done is the result, with --nocapture")]
fn say(text: &str) {
    println!("{text}");
}

/// One content type of one tenant.
#[derive(Clone, Copy, PartialEq)]
struct Stream(usize);

impl Stream {
    fn tenant(self) -> &'static str {
        TENANTS[self.0 / CONTENT_TYPES.len()][0]
    }

    fn content_type(self) -> &'static str {
        CONTENT_TYPES[self.0 % CONTENT_TYPES.len()]
    }
}

/// The record of a stream with this number, which its `Id` tells.
fn record(stream: Stream, number: usize) -> Value {
    let mut record = json!({
        "Id": id(stream, number), "RecordType": 25, "CreationTime": "2026-11-23T03:24:51",
        "Operation": "ChatCreated", "OrganizationId": stream.tenant(), "UserType": 0, "UserKey": "k",
        "Workload": "MicrosoftTeams", "UserId": "jane@contoso.example", "ClientIP": "192.0.2.7",
        "Filler": "x".repeat(400),
    });
    if number.is_multiple_of(40) {
        // A path whose kind may have to be learned; an index has no room for very many.
        let path = format!("Parameters{}", number / 40 % 500);
        record[path] = json!([{ "Name": "a", "Value": "b" }]);
    }
    record
}

fn id(stream: Stream, number: usize) -> String {
    format!("{}-{number}", stream.0)
}

/// The line of an event whose `Id` is this, without its envelope.
fn expected(id: &str) -> Option<Value> {
    let (stream, number) = id.split_once('-')?;
    let stream = Stream(stream.parse().ok()?);
    let mut event = record(stream, number.parse().ok()?);
    event["Subscription"] = stream.content_type().into();
    Some(event)
}

/// A blob as the simulator made it available.
struct Published {
    stream: Stream,
    content_id: String,
    created: OffsetDateTime,
    listable: OffsetDateTime,
    expires: OffsetDateTime,
    ids: Vec<String>,
    /// One of its records is not JSON, so it can't arrive.
    is_broken: bool,
    /// The API has told a time at which it may be gone, while it had not arrived.
    may_be_lost: bool,
}

/// What became of a record.
#[derive(Default)]
struct Count {
    /// In which polls.
    arrived: Vec<usize>,
    /// How often it may have come again.
    excused: usize,
}

impl Count {
    fn repeats(&self) -> usize {
        self.arrived.len().saturating_sub(1)
    }
}

/// What a `gap` names.
struct Gap {
    tenant: String,
    content_type: String,
    content_id: Option<String>,
    time: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Gap {
    fn of(notice: &Value) -> Self {
        let text = |member: &str| notice[member].as_str().map(str::to_owned);
        let time = |member: &str| OffsetDateTime::parse(notice[member].as_str()?, &Rfc3339).ok();
        Self {
            tenant: text("tenant_id").unwrap(),
            content_type: text("subscription_name").unwrap(),
            content_id: text("content_id"),
            time: time("from").zip(time("to")),
        }
    }

    fn names(&self, blob: &Published) -> bool {
        let same_stream =
            self.tenant == blob.stream.tenant() && self.content_type == blob.stream.content_type();
        let is_it = match (&self.content_id, self.time) {
            (Some(content_id), _) => *content_id == blob.content_id,
            (None, Some((from, to))) => blob.created <= to && from <= blob.listable,
            (None, None) => false,
        };
        same_stream && is_it
    }
}

/// What was made available, and what arrived.
#[derive(Default)]
struct Ledger {
    blobs: Vec<Published>,
    /// Those that have not arrived whole.
    missing: Vec<usize>,
    counts: HashMap<String, Count>,
    gaps: Vec<Gap>,
    /// What has arrived and nothing has acknowledged: it may come again.
    unacknowledged: Vec<String>,
}

impl Ledger {
    fn publish(&mut self, blob: Published) {
        self.missing.push(self.blobs.len());
        self.blobs.push(blob);
    }

    /// Reads the lines that have arrived of a poll; gives the Ids of the events.
    fn read(&mut self, poll: usize, lines: &[&[u8]]) -> Vec<String> {
        let mut ids = Vec::new();
        for line in lines {
            let text = String::from_utf8_lossy(line);
            let mut line: Value = serde_json::from_slice(line).expect(&text);
            let inner = line["office365"].take();
            assert_eq!(line, json!({ "integration": "office365", "office365": null }), "{text}");
            if inner["actor"] == "wazuh" {
                assert!(inner["response"].is_string(), "{text}");
                if inner["notice"] == "gap" {
                    self.gaps.push(Gap::of(&inner));
                }
                continue;
            }
            let id = inner["Id"].as_str().expect(&text).to_owned();
            assert_eq!(Some(inner), expected(&id), "it is not what was published");
            self.counts.entry(id.clone()).or_default().arrived.push(poll);
            ids.push(id);
        }
        ids
    }

    /// Something has gone down: these may come once more.
    fn excuse(&mut self, ids: impl IntoIterator<Item = String>) {
        for id in ids {
            self.counts.entry(id).or_default().excused += 1;
        }
    }

    fn has_arrived(&self, id: &str) -> bool {
        self.counts.get(id).is_some_and(|count| !count.arrived.is_empty())
    }

    /// The API has told this time in a run.
    fn told(&mut self, time: OffsetDateTime) {
        let mut missing = std::mem::take(&mut self.missing);
        missing.retain(|blob| self.blobs[*blob].ids.iter().any(|id| !self.has_arrived(id)));
        for blob in &missing {
            let blob = &mut self.blobs[*blob];
            // A window at the edge of the 7 days may begin up to a day inside of them.
            let is_old = time + Duration::hours(25) >= blob.created + RETENTION;
            blob.may_be_lost |= is_old || time >= blob.expires;
        }
        self.missing = missing;
    }

    fn is_named(&self, blob: &Published) -> bool {
        self.gaps.iter().any(|gap| gap.names(blob))
    }

    /// What is not as it must be in the end.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for blob in &self.blobs {
            let missing = blob.ids.iter().filter(|id| !self.has_arrived(id)).count();
            let fault = if missing == 0 {
                continue;
            } else if !self.is_named(blob) {
                "are lost silently"
            } else if !blob.may_be_lost && missing > usize::from(blob.is_broken) {
                "are given up though the API had them"
            } else {
                continue;
            };
            faults.push(format!(
                "{missing} of {} records {fault}: content {} of {} {}, created {}, listable {}, \
                 expires {}, first Id {}",
                blob.ids.len(),
                blob.content_id,
                blob.stream.tenant(),
                blob.stream.content_type(),
                blob.created,
                blob.listable,
                blob.expires,
                blob.ids[0],
            ));
        }
        let repeated = self.counts.iter().filter(|(_, count)| count.repeats() > count.excused);
        let mut repeated: Vec<_> = repeated.collect();
        repeated.sort_by_key(|(id, _)| (*id).clone());
        faults.extend(repeated.into_iter().map(|(id, Count { arrived, excused })| {
            format!(
                "{id} came in the polls {arrived:?}, though only {excused} repeats are explained"
            )
        }));
        faults
    }
}

/// What lasts for some polls.
enum Spell {
    /// `Date` is wrong.
    Date(Duration),
    /// Another client has stopped a subscription.
    Off(Stream),
    /// An administrator has taken the consent back.
    NoRoles(usize),
}

/// What strikes a run, or the modulesd that it is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    None,
    Kill,
    Terminate,
    /// modulesd dies, and the run is left alone.
    Orphan,
    /// modulesd dies while it reads, after so many bytes.
    Deaf(usize),
    /// modulesd dies when the run is over and it has sent on only some of the lines.
    Restart,
}

struct Soak {
    site: Site,
    dice: Dice,
    ledger: Ledger,
    /// What lasts, and for how many more polls.
    spells: Vec<(Spell, u64)>,
    /// Runs whose modulesd is gone: one may still hold the lock.
    orphans: Vec<Pid>,
    /// Runs in a row that have ended by themselves, since anything went down.
    sound_runs: u32,
    /// As many sound runs must pass before time does: a clock that was wrong is believed again when
    /// both clocks have gone on together.
    settling: u32,
    /// All streams have been listed: they have begun, by the right time.
    has_begun: bool,
    /// How many were published.
    records: usize,
    /// How often what has happened.
    happened: BTreeMap<&'static str, usize>,
    /// A line for each poll, for whoever reads of a failure.
    journal: Vec<String>,
    /// The end of the line of the poll at hand.
    now: String,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let mut builder = Simulator::builder().gzip(seed.is_multiple_of(2));
        for [guid, client, secret] in &TENANTS[1..] {
            builder = builder.tenant(Tenant::new(guid, client, secret));
        }
        let mut soak = Self {
            site: Site::built(builder),
            dice: Dice::new(seed),
            ledger: Ledger::default(),
            spells: Vec::new(),
            orphans: Vec::new(),
            sound_runs: 0,
            settling: 0,
            has_begun: false,
            records: 0,
            happened: BTreeMap::new(),
            journal: Vec::new(),
            now: String::new(),
        };
        soak.configure();
        soak.publish(60, Duration::days(5));
        soak
    }

    /// One in `n`.
    fn one_in(&mut self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn seconds(&mut self, most: i64) -> Duration {
        let seconds = self.dice.below(u64::try_from(most).unwrap());
        Duration::seconds(i64::try_from(seconds).unwrap())
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.dice.below(choices.len() as u64)).unwrap()]
    }

    fn has_orphans(&mut self) -> bool {
        self.orphans.retain(|pid| is_running(*pid));
        !self.orphans.is_empty()
    }

    fn stream(&mut self) -> Stream {
        Stream(self.one_of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]))
    }

    fn count(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn note(&mut self, what: &'static str, more: &str) {
        self.count(what);
        self.now += &format!(", {what}{more}");
    }

    /// Time passes, things happen, and there is a poll.
    fn turn(&mut self, time_passes: bool) {
        self.end_spells();
        let is_quiet = self.settling == 0 && self.spells.is_empty();
        if time_passes && is_quiet && !self.has_orphans() {
            self.pass_time();
        }
        if self.has_begun && !self.one_in(4) {
            let count = self.dice.below(8);
            self.publish(count, Duration::minutes(30));
        }
        if self.one_in(8) {
            self.configure();
        }
        if self.one_in(10) {
            self.begin_spell(time_passes);
        }
        while self.has_begun && self.dice.below(100) < 40 {
            self.break_something();
        }
        if self.sound_runs >= 2 && self.one_in(7) {
            self.damage();
        }
        self.poll();
    }

    fn configure(&mut self) {
        let options = format!(
            "<only_future_events>no</only_future_events><run_timeout>10s</run_timeout>\
             <max_output>{}</max_output><max_connections>{}</max_connections>",
            self.one_of(&["256k", "1M", "8M"]),
            1 + self.dice.below(8),
        );
        let api_auth: String = TENANTS
            .iter()
            .map(|[guid, client, secret]| self.site.api_auth(guid, client, secret))
            .collect();
        self.site.configure_with(&options, &api_auth, &CONTENT_TYPES);
        let (page_size, empty_first_page) = (1 + self.dice.below(12), self.one_in(3));
        self.site.simulator.set_page_size(usize::try_from(page_size).unwrap());
        self.site.simulator.set_empty_first_page(empty_first_page);
    }

    /// Mostly a minute; or nobody has polled for hours or days, sometimes more than the API keeps.
    fn pass_time(&mut self) {
        let away = if self.one_in(400) {
            Duration::days(8)
        } else if self.one_in(100) {
            Duration::days(1) + self.seconds(4 * 86_400)
        } else if self.one_in(30) {
            Duration::hours(1) + self.seconds(20 * 3600)
        } else {
            let seconds = self.seconds(60);
            return self.site.simulator.advance(seconds);
        };
        self.note("long pause", &format!(" of {away}"));
        self.site.simulator.advance(away);
        self.publish(20, away);
    }

    /// Publishes blobs that were created within the last `span`.
    fn publish(&mut self, count: u64, span: Duration) {
        for _ in 0..count {
            self.publish_one(span);
        }
    }

    fn publish_one(&mut self, span: Duration) {
        let stream = self.stream();
        let now = self.site.now();
        let created = now - self.seconds(span.whole_seconds());
        let created = created.replace_nanosecond(0).unwrap();
        let (mut listable, mut expires) = (now, created + RETENTION);
        let is_large = self.one_in(60);
        let count = if is_large { 2500 } else { self.dice.below(8) };
        let (ids, body, is_broken) = self.records(stream, count);
        let content_id = format!("soak${}$emea", self.ledger.blobs.len());
        let mut blob = Blob::raw(created, body).id(&content_id);
        if span <= Duration::minutes(30) && self.one_in(6) {
            // Created up to half an hour ago: within the hour of `lookback`.
            listable = now + self.seconds(25 * 60);
            blob = blob.listable_at(listable);
            self.count("late blob");
        }
        if self.one_in(20) {
            // Some have already.
            expires = now - Duration::minutes(20) + self.seconds(3600);
            blob = blob.expires(expires);
            self.count("blob that expires");
        }
        if self.one_in(15) {
            let member = self.one_of(&["contentCreated", "contentExpiration"]);
            let value = match self.dice.below(4) {
                0 => None,
                1 => Some(json!(7)),
                2 => Some(json!("soon")),
                _ => Some(json!("0001-01-01T00:00:00")),
            };
            blob = blob.listed_as(member, value);
            self.count("blob without a usable time");
        }
        if self.one_in(10) {
            self.site.simulator.publish(stream.tenant(), stream.content_type(), blob.clone());
            self.count("blob listed twice");
        }
        self.site.simulator.publish(stream.tenant(), stream.content_type(), blob);
        if self.has_begun {
            self.break_blob(&content_id, is_large);
        }
        self.ledger.publish(Published {
            stream,
            content_id,
            created,
            listable,
            expires,
            ids,
            is_broken,
            may_be_lost: false,
        });
    }

    /// So many new records: their Ids, the body with them, and whether one of them is broken in it.
    fn records(&mut self, stream: Stream, count: u64) -> (Vec<String>, String, bool) {
        let numbers = self.records..self.records + usize::try_from(count).unwrap();
        self.records = numbers.end;
        let ids: Vec<_> = numbers.clone().map(|number| id(stream, number)).collect();
        let mut records: Vec<_> =
            numbers.map(|number| record(stream, number).to_string()).collect();
        let is_broken = count > 0 && self.one_in(25);
        if is_broken {
            let at = usize::try_from(self.dice.below(count)).unwrap();
            records[at] = format!(r#"{{"Id":"{}","x":tru}}"#, ids[at]);
            self.count("broken record");
        }
        (ids, format!("[{}]", records.join(",")), is_broken)
    }

    /// Something may be wrong with a blob, for a while.
    fn break_blob(&mut self, content_id: &str, is_large: bool) {
        let times = usize::try_from(1 + self.dice.below(14)).unwrap();
        let bytes = usize::try_from(self.dice.below(1_200_000)).unwrap();
        let fault = || Fault::on(Call::Fetch).content_id(content_id);
        let refused = fault().respond(400, "not now").times(times);
        let (what, faults) = match self.dice.below(30) {
            0 => ("refused blob", vec![refused]),
            1 => ("AF20050", vec![fault().respond(404, AF20050)]),
            2 => ("half a record", vec![fault().respond(200, r#"[{"Id":"half of a rec"#)]),
            3 => ("cut blob", vec![fault().cut(100)]),
            // A part of it is out, and a later run goes on.
            _ if is_large => ("cut large blob", vec![fault().cut(bytes), refused]),
            _ => return,
        };
        faults.into_iter().for_each(|fault| self.site.simulator.fault(fault));
        self.count(what);
    }

    /// Something goes wrong at a request or two.
    fn break_something(&mut self) {
        use Call::{Content, Fetch, List, Page, Start, Token};
        let call = self.one_of(&[Token, List, Start, Content, Content, Page, Fetch, Fetch, Fetch]);
        let fault = Fault::on(call).skip(usize::try_from(self.dice.below(6)).unwrap());
        let fault = fault.times(usize::try_from(1 + self.dice.below(2)).unwrap());
        let bytes = usize::try_from(self.dice.below(2000)).unwrap();
        let (what, fault) = match (self.dice.below(14), call) {
            (0, _) => ("429", fault.respond(429, "").header("Retry-After", "1")),
            (1, _) => ("AF429", fault.respond(403, AF429)),
            (2, _) => ("503", fault.respond(503, HTML)),
            (3, _) => ("500", fault.respond(500, AF50000)),
            (4, _) => ("HTML", fault.respond(200, HTML)),
            (5, _) => ("nothing", fault.respond(200, "")),
            (6, _) => ("401", fault.respond(401, "")),
            (7, _) => ("cut", fault.cut(bytes)),
            (8, _) => ("cut chunks", fault.chunked().cut(bytes)),
            (9, _) => ("delay", fault.delay(std::time::Duration::from_millis(20))),
            (10, Content | Page) => {
                ("unusable link", fault.respond(200, "[]").header("NextPageUri", "no address"))
            }
            (_, Page) => ("AF20031", fault.respond(400, AF20031)),
            (_, Content) => ("AF20022", fault.respond(400, AF20022)),
            _ => ("dropped", fault.drop_connection()),
        };
        self.site.simulator.fault(fault);
        self.note(what, &format!(" at {call:?}"));
        if self.one_in(10) {
            let tenant = self.stream().tenant();
            self.site.simulator.revoke_tokens(tenant);
            self.note("revoked tokens", "");
        }
    }

    fn begin_spell(&mut self, time_passes: bool) {
        if !self.spells.is_empty() {
            return;
        }
        let (minute, hour, day) = (Duration::MINUTE, Duration::HOUR, Duration::DAY);
        let spell = match self.dice.below(4) {
            0 if self.has_begun => Spell::Off(self.stream()),
            1 if self.has_begun => Spell::NoRoles(self.one_of(&[0, 1, 2])),
            // While this machine's clock is wrong as well, nobody can tell what is right.
            _ if time_passes => {
                Spell::Date(self.one_of(&[10 * minute, 3 * hour, -10 * minute, -3 * hour]))
            }
            _ => Spell::Date(self.one_of(&[
                10 * minute,
                3 * hour,
                2 * day,
                9 * day,
                -10 * minute,
                -3 * hour,
                -2 * day,
                -9 * day,
            ])),
        };
        let simulator = &self.site.simulator;
        match &spell {
            Spell::Date(by) => {
                simulator.set_date_error(*by);
                self.settling = 3;
                self.note("wrong Date", &format!(" by {by}"));
            }
            Spell::Off(stream) => {
                simulator.set_subscription(stream.tenant(), stream.content_type(), None);
                self.note("stopped subscription", "");
            }
            Spell::NoRoles(tenant) => {
                simulator.set_roles(TENANTS[*tenant][0], &[]);
                simulator.revoke_tokens(TENANTS[*tenant][0]);
                self.note("no consent", "");
            }
        }
        self.spells.push((spell, 1 + self.dice.below(3)));
    }

    fn end_spells(&mut self) {
        for (spell, polls) in std::mem::take(&mut self.spells) {
            let simulator = &self.site.simulator;
            match spell {
                spell if polls > 0 => self.spells.push((spell, polls - 1)),
                Spell::Date(_) => simulator.set_date_error(Duration::ZERO),
                Spell::Off(stream) => {
                    let (tenant, content_type) = (stream.tenant(), stream.content_type());
                    simulator.set_subscription(tenant, content_type, Some("enabled"));
                }
                Spell::NoRoles(tenant) => {
                    let roles = ["ActivityFeed.Read", "ActivityFeed.ReadDlp"];
                    simulator.set_roles(TENANTS[tenant][0], &roles);
                }
            }
        }
    }

    /// By how much `Date` is wrong.
    fn date_error(&self) -> Duration {
        let errors = self.spells.iter().filter_map(|(spell, _)| match spell {
            Spell::Date(by) => Some(*by),
            _ => None,
        });
        errors.sum()
    }

    /// The newest copy of the state loses its end, or another file does.
    fn damage(&mut self) {
        let folder = self.site.path("var/wodles/wodle-office365");
        let name = self.one_of(&["state.json", "state.json", "token.json", "kinds.json"]);
        let Ok(bytes) = fs::read(folder.join(name)) else { return };
        let cut = self.dice.below(bytes.len() as u64);
        fs::write(folder.join(name), &bytes[..usize::try_from(cut).unwrap()]).unwrap();
        self.note("damaged file", &format!(" {name}"));
        if name == "state.json" {
            // What the last run wrote is known to that copy only.
            let last_run = std::mem::take(&mut self.ledger.unacknowledged);
            self.ledger.excuse(last_run);
            self.sound_runs = 0;
        }
    }

    fn blow(&mut self) -> Blow {
        match self.dice.below(100) {
            0..12 => Blow::Kill,
            12..22 => Blow::Terminate,
            22..27 => Blow::Orphan,
            27..31 => Blow::Deaf(usize::try_from(self.dice.below(200_000)).unwrap()),
            31..40 => Blow::Restart,
            _ => Blow::None,
        }
    }

    /// One poll, and what strikes it.
    fn poll(&mut self) {
        let blow = self.blow();
        let held = self.one_in(15);
        let hangs = matches!(blow, Blow::Kill | Blow::Terminate) && self.one_in(3);
        if hangs {
            let call = self.one_of(&[Call::Token, Call::Content, Call::Page, Call::Fetch]);
            let skip = usize::try_from(self.dice.below(8)).unwrap();
            self.site.simulator.fault(Fault::on(call).skip(skip).hang());
        }
        self.happened(blow, held, hangs);
        let overlaps = self.has_orphans();
        let Some((run, under_way)) = self.run(blow, held) else {
            return self.restart_wazuh();
        };
        if hangs {
            self.site.simulator.clear_faults();
        }
        self.check_end(&run, blow, under_way && !overlaps);
        // Where nobody read when it was to end, what it wrote is not saved.
        let crashed = match blow {
            Blow::Kill => run.signal.is_some(),
            Blow::Terminate => run.signal.is_some() || held,
            Blow::Deaf(bytes) => run.output.len() >= bytes,
            Blow::None | Blow::Orphan | Blow::Restart => false,
        };
        let is_struck = matches!(blow, Blow::Kill | Blow::Terminate);
        let is_sound = !crashed && !overlaps && !is_struck;
        self.take(&run, blow, crashed, is_sound);
        if matches!(blow, Blow::Deaf(_) | Blow::Restart) {
            self.restart_wazuh();
        }
    }

    /// Runs the program until it ends, and says whether it had sent a request when the blow came; or
    /// leaves it an orphan.
    fn run(&mut self, blow: Blow, held: bool) -> Option<(Run, bool)> {
        let mut options = Options { held, ..Options::default() };
        if let Blow::Deaf(bytes) = blow {
            options.most_output = bytes;
        }
        // At a request, or after some time, whatever comes first.
        let requests = usize::try_from(1 + self.dice.below(40)).unwrap();
        let instant = std::time::Duration::from_micros(self.dice.below(80_000));
        let simulator = &self.site.simulator;
        simulator.clear_requests();
        let running = self.site.host().begin(&self.site.command(), options);
        let mut under_way = false;
        if held || matches!(blow, Blow::Kill | Blow::Terminate | Blow::Orphan) {
            simulator.wait_for(instant, |seen| {
                under_way = !seen.is_empty();
                seen.len() >= requests
            });
        }
        match blow {
            Blow::Kill => running.kill(),
            Blow::Terminate => running.terminate(),
            Blow::Orphan => {
                self.orphans.push(running.pid());
                self.site.host().kill();
                return None;
            }
            Blow::None | Blow::Deaf(_) | Blow::Restart => {}
        }
        if held {
            running.read();
        }
        Some((running.end(), under_way))
    }

    fn happened(&mut self, blow: Blow, held: bool, hangs: bool) {
        match blow {
            Blow::None => {}
            Blow::Kill => self.note("SIGKILL", ""),
            Blow::Terminate => self.note("SIGTERM", ""),
            Blow::Orphan => self.note("modulesd died during a run", ""),
            Blow::Deaf(_) => self.note("modulesd died while it read", ""),
            Blow::Restart => self.note("modulesd died after a run", ""),
        }
        if held {
            self.note("full pipe", "");
        }
        if hangs {
            self.note("hang", "");
        }
    }

    /// A run ends with 0 or 1, and by a signal only if it got one.
    fn check_end(&self, run: &Run, blow: Blow, under_way: bool) {
        let ours = match blow {
            Blow::Kill => Some(Signal::KILL),
            // Who has not got far enough to say what becomes of it dies of it.
            Blow::Terminate if !under_way => Some(Signal::TERM),
            _ => None,
        };
        let by_signal = run.signal.is_some() && run.signal == ours.map(Signal::as_raw);
        assert!(
            by_signal || matches!(run.code, Some(0 | 1)),
            "code {:?}, signal {:?}, {}\n{}",
            run.code,
            run.signal,
            self.now,
            self.site.log()
        );
        let size = fs::metadata(self.site.path(STATE)).map_or(0, |meta| meta.len());
        assert!(size < MAX_STATE, "the state has {size} bytes");
    }

    /// Takes down what has arrived of a run.
    fn take(&mut self, run: &Run, blow: Blow, crashed: bool, is_sound: bool) {
        let mut lines: Vec<_> = run.output.split_inclusive(|byte| *byte == b'\n').collect();
        let is_cut = lines.pop_if(|line| !line.ends_with(b"\n")).is_some();
        assert!(crashed || !is_cut, "the last line is not whole: {}", self.now);
        if blow == Blow::Restart {
            let sent = self.dice.below(lines.len() as u64 + 1);
            lines.truncate(usize::try_from(sent).unwrap());
        }
        let ids = self.ledger.read(self.journal.len(), &lines);
        self.ledger.told(self.site.now() + self.date_error());
        self.has_begun |= is_sound && run.code == Some(0) && run.output.is_empty();
        self.journal.push(format!(
            "poll {}, code {:?}, {} lines, {} events of {:?}{}",
            self.journal.len(),
            run.code,
            lines.len(),
            ids.len(),
            ids.first(),
            std::mem::take(&mut self.now),
        ));
        if is_sound || !run.output.is_empty() {
            // A run under the same modulesd acknowledges what was written before, and saves that before
            // it writes anything itself.
            self.ledger.unacknowledged.clear();
        }
        if is_sound {
            self.sound_runs += 1;
            self.settling -= u32::from(self.settling > 0 && self.spells.is_empty());
        } else {
            self.sound_runs = 0;
        }
        if crashed {
            self.ledger.excuse(ids);
        } else {
            self.ledger.unacknowledged.extend(ids);
        }
    }

    fn restart_wazuh(&mut self) {
        if !self.now.is_empty() {
            self.journal.push(format!("poll {}{}", self.journal.len(), self.now));
            self.now.clear();
        }
        self.site.restart_wazuh();
        let lost = std::mem::take(&mut self.ledger.unacknowledged);
        self.ledger.excuse(lost);
        self.sound_runs = 0;
    }

    /// All trouble ends, and polls go on until nothing is left to be done.
    fn calm_down(&mut self) {
        while self.has_orphans() {
            // At most until its run_timeout; until then there is nothing to do for others.
            let run = self.site.poll();
            self.check_end(&run, Blow::None, true);
            if !run.output.is_empty() {
                self.take(&run, Blow::None, false, false);
            }
        }
        self.spells.iter_mut().for_each(|(_, polls)| *polls = 0);
        self.end_spells();
        self.site.simulator.clear_faults();
        let mut idle = 0;
        for _ in 0..100 {
            // What has failed often is tried every ten minutes.
            let both_clocks_go_on = self.settling > 0;
            if !both_clocks_go_on {
                self.site.simulator.advance(Duration::minutes(11));
            }
            let run = self.site.poll();
            self.check_end(&run, Blow::None, true);
            let is_idle = run.code == Some(0) && run.output.is_empty() && !both_clocks_go_on;
            idle = if is_idle { idle + 1 } else { 0 };
            self.take(&run, Blow::None, false, true);
            if idle == 5 {
                return;
            }
        }
        panic!("it does not come to rest\n{}\n{}", self.journal.join("\n"), self.site.log());
    }

    fn judge(&self) {
        let ledger = &self.ledger;
        let repeats: usize = ledger.counts.values().map(Count::repeats).sum();
        let excused: usize = ledger.counts.values().map(|count| count.excused).sum();
        let named: usize = ledger
            .blobs
            .iter()
            .flat_map(|blob| &blob.ids)
            .filter(|id| !ledger.has_arrived(id))
            .count();
        say(&format!(
            "{} polls; {} blobs with {} records: {} arrived, {named} named by {} gaps; {repeats} \
             repeats of {excused} explained",
            self.journal.len(),
            ledger.blobs.len(),
            self.records,
            self.records - named,
            ledger.gaps.len(),
        ));
        let counts = self.happened.iter().map(|(what, count)| format!("{what} {count}"));
        say(&counts.collect::<Vec<_>>().join(", "));
        let log = self.site.log();
        let odd: Vec<_> = log.lines().filter(|line| !has_wazuhs_form(line)).collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert!(!log.contains("fault of wodle-office365"), "{log}");
        assert_eq!(self.leftovers(), BTreeSet::new());
        let faults = ledger.faults();
        assert!(faults.is_empty(), "{}\n{}\n{log}", faults.join("\n"), self.journal.join("\n"));
    }

    /// Temporary files.
    fn leftovers(&self) -> BTreeSet<String> {
        let folder = fs::read_dir(self.site.path("var/wodles/wodle-office365")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".new")).collect()
    }
}

/// Whether a process is there, and more than a zombie.
fn is_running(pid: Pid) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_pid());
    fs::read(path).is_ok_and(|command| !command.is_empty())
}

/// `2026/11/23 03:24:51 wodle-office365: INFO: …`
fn has_wazuhs_form(line: &str) -> bool {
    let form = "0000/00/00 00:00:00 wodle-office365: ";
    let Some((head, text)) = line.split_at_checked(form.len()) else { return false };
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let level = text.split_once(": ").map(|(level, _)| level);
    head.chars().map(digits).eq(form.chars().map(digits))
        && matches!(level, Some("ERROR" | "WARNING" | "INFO" | "DEBUG"))
}
