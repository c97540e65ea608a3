//! The built-in table, and what is learned besides it.

use std::collections::{BTreeMap, BTreeSet};

use office365_simulator::story::story;
use wazuh_receiver::fidelity::MANDATORY;
use wazuh_receiver::json::{Json, parse_as_sent};

use super::*;
use crate::content::without_bom;
use crate::event::kinds::{Full, Kind, Path, PathId, ROOT, TABLE};
use crate::timestamp::{HOUR, Timestamp};

/// The lines of the table: level, name, kind.
fn lines() -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let text = line.trim_start_matches(' ');
        let (name, kind) = text.split_once(' ').unwrap_or((text, "text"));
        let indent = line.len() - text.len();
        assert!(indent % 2 == 0, "{line}");
        (indent / 2, name, kind)
    })
}

fn path(kinds: &Kinds, dotted: &str) -> Option<Path> {
    let mut path = ROOT;
    for name in dotted.split('.') {
        path = kinds.find(path.id, name.as_bytes())?.path;
    }
    Some(path)
}

#[test]
fn the_table_is_well_formed_and_sorted() {
    let mut open: Vec<(&str, &str)> = Vec::new();
    let mut count = 1;
    for (level, name, kind) in lines() {
        count += 1;
        assert!(["text", "object", "list"].contains(&kind), "{name} {kind}");
        assert!(level <= open.len() && level < MAX_NAME_LEVELS, "{name}");
        assert!(level == 0 || open[level - 1].1 != "text", "{name} is in text");
        if let Some((before, _)) = open.get(level) {
            let order = |name: &str| (name.to_ascii_lowercase(), name.to_owned());
            assert!(order(before) < order(name), "{before} before {name}");
        }
        assert_eq!(names::repaired(name), name);
        assert!(name.len() <= 256 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'.'));
        open.truncate(level);
        open.push((name, kind));
    }
    assert!(count < kinds::FIRST_LEARNED, "{count} paths");
}

#[test]
fn every_line_of_the_table_is_a_path_of_its_kind() {
    let kinds = Kinds::default();
    let mut open: Vec<&str> = Vec::new();
    for (level, name, kind) in lines() {
        open.truncate(level);
        open.push(name);
        let dotted = open.join(".");
        let found = path(&kinds, &dotted).unwrap_or_else(|| panic!("{dotted}"));
        let expected = match kind {
            "object" => Kind::Object,
            "list" => Kind::List,
            _ => Kind::Text,
        };
        assert_eq!(found.kind, expected, "{dotted}");
    }
    // What the template, the rules, the notices and this program itself need.
    let others = [
        "ClientIP",
        "ResultStatus",
        "Actor.ID",
        "Overflow",
        "Truncated",
        "ClientIPAddressPort",
        "Subscription",
        "actor",
        "tenant_id",
        "tenant_name",
        "subscription_name",
        "notice",
        "response",
        "code",
        "from",
        "to",
        "content_id",
    ];
    for name in MANDATORY.iter().chain(&others) {
        assert_eq!(path(&kinds, name).map(|path| path.kind), Some(Kind::Text), "{name}");
    }
    assert_eq!(path(&kinds, ""), None);
    assert_eq!(kinds.learned_paths(), 0);
}

/// The paths of the records in an array, each with how it is used.
fn paths_in(blob: &[u8]) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found = BTreeMap::new();
    let Ok(Json::Array(records)) = parse_as_sent(without_bom(blob)) else { panic!("no array") };
    records.iter().for_each(|record| add_paths(record, "", &mut found));
    found
}

fn add_paths(value: &Json, path: &str, found: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let Json::Object(members) = value else { return };
    let is_object = |item: &Json| matches!(item, Json::Object(_));
    for (name, value) in members {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let items = if let Json::Array(items) = value { &items[..] } else { &[] };
        let used = match value {
            Json::Null => None,
            Json::String(text) if text.is_empty() => None,
            Json::Object(members) if members.is_empty() => None,
            Json::Array(items) if items.is_empty() => None,
            _ if is_object(value) || items.iter().any(is_object) => Some("objects"),
            _ => Some("text"),
        };
        if let Some(used) = used {
            found.entry(path.clone()).or_default().insert(used);
        }
        items.iter().chain([value]).for_each(|value| add_paths(value, &path, found));
    }
}

/// Compares the table with paths; prints them (`-- --nocapture` shows it). Gives those that the table lacks, or has another kind for.
#[expect(clippy::print_stdout, reason = "for those who change the table")]
fn differing(source: &str, found: &BTreeMap<String, BTreeSet<&'static str>>) -> Vec<String> {
    let kinds = Kinds::default();
    let mut differing = Vec::new();
    for (dotted, used) in found {
        let known = path(&kinds, dotted).map(|path| path.kind);
        println!("{source}: {dotted}: {known:?}, used as {used:?}");
        let expected = match known {
            Some(Kind::Text) => BTreeSet::from(["text"]),
            Some(_) => BTreeSet::from(["objects"]),
            None => BTreeSet::new(),
        };
        if *used != expected {
            differing.push(dotted.clone());
        }
    }
    differing
}

#[test]
fn the_table_knows_the_paths_of_the_simulators_story() {
    let story = story(time::OffsetDateTime::UNIX_EPOCH, "tenant", "contoso.example");
    let records = story.into_iter().flat_map(|chapter| chapter.events);
    let records: Vec<_> = records.map(|event| event.record).collect();
    let found = paths_in(serde_json::to_string(&records).unwrap().as_bytes());
    assert!(found.len() > 80);
    assert_eq!(differing("story", &found), [""; 0]);
}

#[test]
fn the_table_knows_the_paths_of_the_fuzz_seeds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/events");
    let mut count = 0;
    for (name, in_two_kinds) in [
        ("dlp.json", &[][..]),
        // It brings an object that is left out.
        ("files.json", &["Subscription"]),
        // An invented one.
        ("mail.json", &["Folders.FolderItems.Score"]),
        ("sign-ins.json", &["ModifiedProperties"]),
    ] {
        let found = paths_in(&std::fs::read(format!("{seeds}/{name}")).unwrap());
        count += found.len();
        assert_eq!(differing(name, &found), in_two_kinds, "{name}");
    }
    assert!(count > 50);
}

fn at(hours: i64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000).plus(hours * HOUR)
}

fn saved(bytes: Vec<u8>, now: Timestamp) -> Kinds {
    Kinds::new(Some(Saved { bytes: Ok(bytes), name: "kinds.json".to_owned(), now }))
}

/// What is to be saved.
fn unsaved(kinds: &Kinds, now: Timestamp) -> Option<Vec<u8>> {
    let mut saved = None;
    kinds
        .save(now, |bytes| {
            saved = Some(bytes.to_vec());
            Ok(())
        })
        .unwrap();
    saved
}

#[test]
fn what_could_not_be_saved_or_used_is_saved_later() {
    let kinds = Kinds::default();
    learn(&kinds, ROOT.id, "Zone", Kind::Text);
    let full = || std::io::Error::other("no space left on device");
    assert!(kinds.save(at(0), |_| Err(full())).is_err());
    assert!(unsaved(&kinds, at(0)).is_some());
    let damaged = saved(b"{".to_vec(), at(0));
    assert_eq!(unsaved(&damaged, at(0)), None, "before the first record");
    assert_eq!(damaged.learned_paths(), 0);
    assert!(unsaved(&damaged, at(0)).is_some());
}

fn learn(kinds: &Kinds, parent: PathId, name: &str, kind: Kind) -> PathId {
    kinds.learn(parent, name, kind).unwrap().path.id
}

#[test]
fn what_was_learned_is_saved_and_read_again() {
    let kinds = Kinds::default();
    assert_eq!(unsaved(&kinds, at(0)), None);
    let item = path(&kinds, "Item").unwrap();
    let zone = learn(&kinds, ROOT.id, "Zone\u{1}\"ü", Kind::Object);
    learn(&kinds, zone, "a", Kind::List);
    learn(&kinds, item.id, "Zone", Kind::Text);
    let bytes = unsaved(&kinds, at(0)).unwrap();
    assert_eq!(unsaved(&kinds, at(0)), None, "until something changes");
    for hours in [0, 48] {
        let read = saved(bytes.clone(), at(hours));
        assert_eq!(path(&read, "Zone\u{1}\"ü").unwrap().kind, Kind::Object);
        assert_eq!(path(&read, "Zone\u{1}\"ü.a").unwrap().kind, Kind::List);
        assert_eq!(path(&read, "Item.Zone").unwrap().kind, Kind::Text);
        assert_eq!(read.learned_paths(), 3);
    }
    assert_eq!(saved(bytes.clone(), at(49)).learned_paths(), 0);
    // What was seen again stays, and with it what it is in.
    let read = saved(bytes, at(40));
    assert!(path(&read, "Zone\u{1}\"ü.a").is_some());
    let later = saved(unsaved(&read, at(40)).unwrap(), at(80));
    assert_eq!(later.learned_paths(), 2);
    assert_eq!(path(&later, "Item.Zone"), None);
}

#[test]
fn what_the_table_knows_by_now_is_its_own() {
    let text = r#"{"version":1,"members":{
        "Subject":{"kind":"object","seen":"2027-01-15T08:00:00Z","members":{
            "a":{"kind":"text","seen":"2027-01-15T08:00:00Z"}}},
        "Item":{"members":{"Zone":{"kind":"list","seen":"2027-01-15T08:00:00Z"}}}}}"#;
    let kinds = saved(text.as_bytes().to_vec(), at(0));
    assert_eq!(path(&kinds, "Subject").unwrap().kind, Kind::Text);
    assert_eq!(path(&kinds, "Item.Zone").unwrap().kind, Kind::List);
    assert_eq!(kinds.learned_paths(), 1);
}

#[test]
fn no_more_than_the_limit_are_learned_or_read() {
    let kinds = Kinds::default();
    for n in 0..MAX_LEARNED {
        learn(&kinds, ROOT.id, &format!("k{n}"), Kind::Text);
    }
    assert!(kinds.is_full());
    assert_eq!(kinds.learn(ROOT.id, "more", Kind::Text).unwrap_err(), Full);
    assert_eq!(learn(&kinds, ROOT.id, "k7", Kind::Object), path(&kinds, "k7").unwrap().id, "known");
    assert_eq!(path(&kinds, "k7").unwrap().kind, Kind::Text);
    let bytes = unsaved(&kinds, at(0)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let more = text.replacen(
        "\"members\":{",
        "\"members\":{\"zz\":{\"kind\":\"text\",\"seen\":\"2027-01-15T08:00:00Z\"},",
        1,
    );
    for bytes in [bytes, more.into_bytes()] {
        assert_eq!(saved(bytes, at(0)).learned_paths(), MAX_LEARNED);
    }
}

#[test]
fn names_that_differ_in_letter_case_only_are_one_group() {
    let kinds = Kinds::default();
    let item = path(&kinds, "Item").unwrap().id;
    let group = |parent: PathId, name: &str| kinds.find(parent, name.as_bytes()).unwrap().group;
    for (parent, name) in
        [(ROOT.id, "zone"), (ROOT.id, "ZONE"), (ROOT.id, "SUBJECT"), (item, "zone")]
    {
        learn(&kinds, parent, name, Kind::Text);
    }
    assert_eq!(group(ROOT.id, "zone"), group(ROOT.id, "ZONE"));
    assert_eq!(group(ROOT.id, "Subject"), group(ROOT.id, "SUBJECT"));
    assert_ne!(group(ROOT.id, "zone"), group(item, "zone"));
    assert_ne!(group(ROOT.id, "zone"), group(ROOT.id, "Subject"));
}
