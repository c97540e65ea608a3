//! What becomes of records that Wazuh or its indexer could not take as they are, and of those that
//! nobody wants.

use std::fs;
use std::path::Path;

use office365_simulator::{Blob, Call, Fault};
use roxmltree::{Document, Node};
use serde_json::{Value, json};
use time::Duration;
use wazuh_receiver::decoder::decode;
use wazuh_receiver::index::Index;

use crate::harness::{Site, TENANT, record};

const GENERAL: &str = "Audit.General";

const LONGEST_LINE: usize = 64_512;

fn publish(site: &Site, records: &[Value]) {
    site.simulator.publish(TENANT, GENERAL, Blob::new(site.now() - Duration::minutes(5), records));
}

/// A record with further members.
fn with(id: &str, more: Value) -> Value {
    let mut record = record(id);
    let Value::Object(more) = more else { panic!("members") };
    record.as_object_mut().unwrap().extend(more);
    record
}

/// Records that need every kind of repair.
fn hostile() -> Vec<Value> {
    let many: Value =
        (0..100_000).map(|n| (format!("f{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let object: Value =
        (0..300).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    vec![
        with("address", json!({"ClientIP": "203.0.113.9:63070"})),
        with("numbers", json!({"Size": 1_500_000_000_000_i64, "Count": 7, "Ratio": 1.5})),
        with("properties", json!({"ModifiedProperties": ["a", {"Name": "b", "NewValue": "c"}]})),
        with("string", json!({"Data": "x".repeat(5_000_000), "Small": "s"})),
        with("array", json!({"Items": (0..50_000).map(|n| json!({"Id": n})).collect::<Vec<_>>()})),
        with("fields", many),
        with("object", json!({"Object": object, "Other": {"a": 1, "b": 2}})),
    ]
}

#[test]
fn every_event_is_one_that_wazuh_can_read_and_index() {
    let site = Site::new();
    site.configure_one("");
    publish(&site, &hostile());
    let deep = format!(r#"[{{"Id":"deep","a":{}1{}}}]"#, "[".repeat(10_000), "]".repeat(10_000));
    site.simulator.publish(TENANT, GENERAL, Blob::raw(site.now() - Duration::minutes(4), deep));
    let run = site.poll_well();
    assert_eq!(run.ids().len(), 8, "{:?}", run.ids());
    let mut index = Index::new();
    for line in run.lines() {
        assert!(line.len() <= LONGEST_LINE, "{} bytes", line.len());
        let alert = decode(line.as_bytes()).unwrap();
        assert!(alert.fields_cut == 0 && alert.lost.is_empty(), "{line}");
        index.add(&alert).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
    for event in run.events() {
        if event["Id"] != "deep" {
            for (key, value) in record("").as_object().unwrap() {
                let changed = key == "Id" || (key == "ClientIP" && event["Id"] == "address");
                assert!(changed || event[key] == *value, "{}: {key}", event["Id"]);
            }
        }
    }
    let events = run.events();
    let event = |id: &str| events.iter().find(|event| event["Id"] == id).unwrap();
    assert_eq!(event("address")["ClientIP"], "203.0.113.9");
    assert_eq!(event("address")["ClientIPAddressPort"], "203.0.113.9:63070");
    let numbers = event("numbers");
    assert_eq!((&numbers["Size"], &numbers["Count"]), (&json!("1500000000000"), &json!(7)));
    assert_eq!(
        event("properties")["ModifiedProperties"],
        json!([{"Name": "a"}, {"Name": "b", "NewValue": "c"}])
    );
    assert_eq!(
        (&event("string")["Truncated"], &event("string")["Small"]),
        (&json!(["Data"]), &json!("s"))
    );
    assert_eq!(event("array")["Truncated"], json!(["Items"]));
    assert!(event("fields")["Overflow"].is_string());
    let told =
        format!("INFO: {TENANT} {GENERAL}: events too long for Wazuh: 3 of 8; what was shortened");
    assert!(site.log().contains(&told), "{}", site.log());
    let object = event("object");
    let moved: Value = serde_json::from_str(object["Overflow"].as_str().unwrap()).unwrap();
    assert_eq!((&moved["Object"]["k299"], &object["Other"]["b"]), (&json!(299), &json!(2)));
    assert!(run.notices().is_empty() && site.poll_well().text().is_empty());
}

#[test]
fn without_normalize_only_long_lines_are_shortened() {
    let site = Site::new();
    site.configure_one("<normalize>no</normalize>");
    publish(&site, &hostile());
    let run = site.poll_well();
    for line in run.lines() {
        assert!(line.len() <= LONGEST_LINE, "{} bytes", line.len());
    }
    let events = run.events();
    assert_eq!(events.len(), 7);
    for (event, mut before) in events.iter().zip(hostile()) {
        let shortened = event.get("Truncated").is_some();
        let long = before.to_string().len() > LONGEST_LINE;
        assert_eq!(shortened, long, "{}", before["Id"]);
        if !long {
            before["Subscription"] = GENERAL.into();
            assert_eq!(event, &before);
        }
    }
    let string = events.iter().find(|event| event["Id"] == "string").unwrap();
    assert!(string["Data"].as_str().unwrap().len() > 60_000);
}

#[test]
fn what_filters_leave_out_is_counted_for_each_stream() {
    let site = Site::new();
    let filters =
        "<exclude><record_type>25</record_type><user_id>JANE@contoso.example</user_id></exclude>
        <exclude><operation>Noise</operation></exclude>";
    site.configure(&format!("<only_future_events>no</only_future_events>{filters}"));
    publish(
        &site,
        &[
            record("left out"),
            with("kept", json!({"UserId": "joe@contoso.example"})),
            with("left out", json!({"UserId": "joe@contoso.example", "Operation": "Noise"})),
            with("kept too", json!({"RecordType": 26})),
        ],
    );
    site.publish("Audit.Exchange", Duration::minutes(5), &["left out", "left out", "left out"]);
    assert_eq!(site.poll_well().ids(), ["kept", "kept too"]);
    let excluded = |content_type| site.stream(content_type)["excluded"].clone();
    assert_eq!((excluded(GENERAL), excluded("Audit.Exchange")), (json!(2), json!(3)));
    assert_eq!(excluded("DLP.All"), json!(0));
    for (content_type, n) in [("Audit.General", 2), ("Audit.Exchange", 3)] {
        let line = format!("INFO: {TENANT} {content_type}: records left out by <exclude>: {n}\n");
        assert!(site.log().contains(&line), "{}", site.log());
    }
    // Blobs of which nothing is left are delivered as well.
    site.publish("Audit.Exchange", Duration::minutes(1), &["left out"]);
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(excluded("Audit.Exchange"), json!(4));
    assert_eq!(site.calls()["fetch"], 3);
}

#[test]
fn what_is_left_out_is_counted_once_however_often_its_blob_is_fetched() {
    let mut site = Site::new();
    site.configure_one("<exclude><operation>Noise</operation></exclude>");
    let noise = |id| with(id, json!({"Operation": "Noise"}));
    publish(&site, &[noise("1"), record("2"), noise("3"), noise("4")]);
    publish(&site, &[noise("5"), noise("6")]);
    assert_eq!(site.poll_well().ids(), ["2"]);
    assert_eq!(site.stream(GENERAL)["excluded"], 5);
    // The first one is written again.
    site.restart_wazuh();
    assert_eq!(site.poll_well().ids(), ["2"]);
    assert_eq!(site.stream(GENERAL)["excluded"], 5);
    assert_eq!(site.calls()["fetch"], 3);
    assert_eq!(site.poll_well().text(), "");
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.stream(GENERAL)["excluded"], 5);
    // One that breaks off behind what is left out brings it once more.
    site.simulator.fault(Fault::on(Call::Fetch).cut(700));
    publish(&site, &[record("7"), noise("8"), noise("9"), record("10")]);
    let ids = site.poll_well().ids();
    assert!(ids.contains(&"10".to_owned()), "{ids:?}");
    assert_eq!(site.stream(GENERAL)["excluded"], 7);
    // Even one that nothing can be remembered by.
    let blob =
        Blob::raw(site.now() - Duration::minutes(3), r#"[{"Id":"11"},{"Operation":"Noise"}"#);
    site.simulator.publish(TENANT, GENERAL, blob);
    assert_eq!((site.poll().ids(), site.poll().text()), (vec!["11".to_owned()], String::new()));
    assert_eq!(site.stream(GENERAL)["excluded"], 7);
}

#[test]
fn events_with_long_ids_come_once_though_their_blob_breaks_off() {
    let site = Site::new();
    site.configure_one("");
    let long = "q".repeat(5000);
    let body = format!(r#"[{{"Id":"1"}},{{"Id":"{long}"}}"#);
    let blob = Blob::raw(site.now() - Duration::minutes(3), body);
    site.simulator.publish(TENANT, GENERAL, blob);
    assert_eq!(site.poll().ids(), ["1", &long]);
    assert_eq!(site.poll().text(), "");
}

#[test]
fn a_blob_goes_on_where_it_was_when_a_filter_is_put_in_between() {
    let site = Site::new();
    site.configure_one("");
    let records: Vec<_> = (0..6)
        .map(|n| with(&format!("{n}"), json!({"Operation": "Noise", "Data": "x".repeat(30_000)})))
        .collect();
    publish(&site, &records);
    site.simulator.fault(Fault::on(Call::Fetch).cut(100_000).always());
    let first = site.poll();
    site.simulator.clear_faults();
    site.configure_one("<exclude><operation>Noise</operation></exclude>");
    let second = site.poll();
    assert!(!first.ids().is_empty() && first.ids().len() < 6, "{:?}", first.ids());
    assert_eq!(second.ids(), Vec::<String>::new(), "nothing comes twice");
    assert_eq!(site.stream(GENERAL)["excluded"], 6 - first.ids().len());
}

/// The rules of `wodle/`.
fn rules() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wodle/wodle-office365_rules.xml");
    fs::read_to_string(path).unwrap()
}

fn text_of(rule: Node<'_, '_>, tag: &str) -> Option<String> {
    let mut found = rule.children().filter(|child| child.has_tag_name(tag));
    let text = found.next()?.text()?.to_owned();
    assert!(found.next().is_none(), "<{tag}> once");
    Some(text)
}

#[test]
fn every_notice_has_a_rule_of_its_own() {
    let text = rules();
    let document = Document::parse(&text).unwrap();
    let group = document.root_element();
    assert!(group.has_tag_name("group"));
    assert_eq!(group.attribute("name"), Some("office365,wodle-office365,"));
    // The levels of Wazuh's documentation: from 12 on high, from 7 on medium, from 3 on low.
    let expected = [
        ("gap", 12..=15),
        ("failure", 7..=11),
        ("behind", 7..=11),
        ("configuration", 3..=9),
        ("recovered", 3..=6),
    ];
    let mut ids = Vec::new();
    let mut kinds = Vec::new();
    for rule in group.children().filter(Node::is_element) {
        assert!(rule.has_tag_name("rule"));
        let known = ["if_sid", "field", "options", "description", "group", "mitre"];
        for child in rule.children().filter(Node::is_element) {
            assert!(known.contains(&child.tag_name().name()), "{:?}", child.tag_name());
        }
        let id: u32 = rule.attribute("id").unwrap().parse().unwrap();
        assert!((100_000..=120_000).contains(&id), "{id} is in the local range");
        ids.push(id);
        assert_eq!(text_of(rule, "if_sid").as_deref(), Some("91648"));
        let field = rule.children().find(|child| child.has_tag_name("field")).unwrap();
        assert_eq!(field.attribute("name"), Some("office365.notice"));
        let kind = field.text().unwrap().strip_prefix('^').unwrap().strip_suffix('$').unwrap();
        let level: u32 = rule.attribute("level").unwrap().parse().unwrap();
        let (_, levels) = expected.iter().find(|(name, _)| *name == kind).unwrap();
        assert!(levels.contains(&level), "{kind} {level}");
        let description = text_of(rule, "description").unwrap();
        assert!(description.contains("$(office365.response)"), "{description}");
        kinds.push(kind.to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["behind", "configuration", "failure", "gap", "recovered"]);
    ids.dedup();
    assert_eq!(ids.len(), 5);
}
