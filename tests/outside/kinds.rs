//! One path, one kind: what a run has learned holds for all others, whatever becomes of the run.

use std::fs;

use office365_simulator::{Blob, Call, Fault, Request, Tenant};
use serde_json::{Value, json};
use time::Duration;
use wazuh_receiver::decoder::decode;
use wazuh_receiver::index::Index;

use crate::harness::{CLIENT, PATIENCE, Run, SECRET, Site, TENANT, record, write_file};
use crate::host::Options;

const GENERAL: &str = "Audit.General";
const FILE: &str = "var/wodles/wodle-office365/kinds.json";

/// Publishes a blob with one record, which has `Zone`, a field that Microsoft doesn't document.
fn publish(site: &Site, id: &str, zone: Value) -> String {
    let mut record = record(id);
    record["Zone"] = zone;
    site.simulator.publish(TENANT, GENERAL, Blob::new(site.now() - Duration::minutes(5), &[record]))
}

fn zones(run: &Run) -> Vec<Value> {
    run.events().iter().map(|event| event["Zone"].clone()).collect()
}

fn learned(site: &Site) -> Value {
    let bytes = fs::read(site.path(FILE)).unwrap();
    serde_json::from_slice::<Value>(&bytes).unwrap()["members"].clone()
}

#[test]
fn the_kind_seen_first_holds_in_all_later_runs_and_streams() {
    let site = Site::new();
    publish(&site, "1", json!("north"));
    assert_eq!(zones(&site.poll_well()), ["north"]);
    assert_eq!(learned(&site)["Zone"]["kind"], "text");
    publish(&site, "2", json!({"a": 1}));
    assert_eq!(zones(&site.poll_well()), ["{\"a\":1}"]);
    let mut other = record("3");
    other["Zone"] = json!([{"b": 1}]);
    let blob = Blob::new(site.now() - Duration::minutes(5), &[other]);
    site.simulator.publish(TENANT, "Audit.Exchange", blob);
    assert_eq!(zones(&site.poll_well()), [" [{\"b\":1}]"]);
    // A run that brings nothing leaves the file as it is.
    let before = fs::metadata(site.path(FILE)).unwrap().modified().unwrap();
    site.poll_well();
    assert_eq!(fs::metadata(site.path(FILE)).unwrap().modified().unwrap(), before);
}

#[test]
fn what_a_failed_run_has_learned_holds() {
    let site = Site::new();
    site.configure_one("");
    publish(&site, "1", json!("north"));
    // More than the pipe holds.
    let records: Vec<_> = (0..10_000).map(|n| record(&n.to_string())).collect();
    let blob = Blob::new(site.now() - Duration::minutes(4), &records);
    site.simulator.publish(TENANT, GENERAL, blob);
    let cut = site.poll_cut(10);
    assert_eq!(cut.code, Some(1), "{}", site.log());
    assert_eq!(learned(&site)["Zone"]["kind"], "text");

    let site = Site::new();
    site.configure_one("<max_connections>1</max_connections>");
    publish(&site, "1", json!("north"));
    let hanging = site.publish(GENERAL, Duration::minutes(1), &["2"]);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&hanging).hang());
    let running = site.host().begin(&site.command(), Options::default());
    let hangs = |requests: &[Request]| requests.iter().any(|r| r.path().ends_with(&hanging));
    assert!(site.simulator.wait_for(PATIENCE, hangs));
    running.kill();
    running.end();
    assert_eq!(learned(&site)["Zone"]["kind"], "text", "saved before its event is out");
}

#[test]
fn a_file_that_cannot_be_used_is_a_warning_and_is_replaced() {
    let site = Site::new();
    let whole = r#"{"version":1,"members":{"Zone":{"kind":"text","seen":"2999-01-01T00:00:00Z"}}}"#;
    let damaged = ["", "{", "[]", "\0\0\0", &whole[..60], &whole.replace(":1,", ":2,")];
    for (n, text) in damaged.iter().enumerate() {
        publish(&site, &n.to_string(), json!({"a": "b"}));
        fs::create_dir_all(site.path("var/wodles/wodle-office365")).unwrap();
        write_file(&site.path(FILE), text.as_bytes(), 0o600);
        site.clear_log();
        assert_eq!(zones(&site.poll_well()), [json!({"a": "b"})], "{text}");
        let told = site.log();
        assert!(told.contains("WARNING") && told.contains("kinds.json can't be used"), "{told}");
        assert_eq!(learned(&site)["Zone"]["kind"], "object", "{text}");
        // It is replaced even if there is nothing to learn.
        write_file(&site.path(FILE), text.as_bytes(), 0o600);
        site.publish(GENERAL, Duration::minutes(5), &["nothing new"]);
        site.poll_well();
        site.clear_log();
        site.publish(GENERAL, Duration::minutes(5), &["nothing new again"]);
        site.poll_well();
        assert!(!site.log().contains("WARNING"), "{}", site.log());
        fs::remove_file(site.path(FILE)).unwrap();
    }
    // One that can't be replaced either fails the run, and its events come all the same.
    fs::create_dir(site.path(FILE)).unwrap();
    publish(&site, "last", json!("x"));
    let run = site.poll();
    assert_eq!((run.code, zones(&run)), (Some(1), vec![json!("x")]));
    assert!(site.log().contains("can't be saved in"), "{}", site.log());
}

#[test]
fn a_field_that_was_not_seen_for_48_hours_is_forgotten() {
    let site = Site::new();
    for (hours, expected) in [(47, json!({"Name": "x"})), (49, json!("x"))] {
        publish(&site, "1", json!({"a": "b"}));
        site.poll_well();
        let seen = site.now() - Duration::hours(hours);
        let seen = seen.format(&time::format_description::well_known::Rfc3339).unwrap();
        let text =
            format!(r#"{{"version":1,"members":{{"Zone":{{"kind":"object","seen":"{seen}"}}}}}}"#);
        write_file(&site.path(FILE), text.as_bytes(), 0o600);
        publish(&site, "2", json!("x"));
        assert_eq!(zones(&site.poll_well()), [expected], "{hours} hours");
    }
}

#[test]
fn a_look_and_a_backfill_to_stdout_learn_nothing() {
    let site = Site::new();
    site.configure_one("");
    publish(&site, "1", json!("north"));
    let mut command = site.command();
    command.arg("--dry-run");
    let run = site.run(&command);
    assert_eq!((run.code, zones(&run)), (Some(0), vec![json!("north")]));
    assert!(!site.path(FILE).exists());
    let backfill = site.admin(&["backfill", "--from", "1h", "--stdout"]);
    assert!(backfill.stdout.contains("\"Zone\":\"north\""), "{}", backfill.stdout);
    assert!(!site.path(FILE).exists());
    // They go by what is known, though.
    site.poll_well();
    let before = fs::read(site.path(FILE)).unwrap();
    publish(&site, "2", json!({"a": 1}));
    assert_eq!(zones(&site.run(&command)), ["{\"a\":1}"]);
    assert_eq!(fs::read(site.path(FILE)).unwrap(), before);
}

#[test]
fn side_by_side_workers_learn_in_the_order_in_which_they_write() {
    const OTHER: &str = "b1b2c3d4-0000-4000-8000-000000000002";
    let second = Tenant::new(OTHER, CLIENT, SECRET);
    let site = Site::built(office365_simulator::Simulator::builder().tenant(second));
    let tenants = [TENANT, OTHER].map(|tenant| site.api_auth(tenant, CLIENT, SECRET)).concat();
    let options = "<only_future_events>no</only_future_events>";
    site.configure_with(options, &tenants, &[GENERAL, "Audit.Exchange"]);
    let kinds = [json!("text"), json!({"a": "b"}), json!([{"c": "d"}]), json!(["e"])];
    for n in 0..400 {
        let mut record = record(&n.to_string());
        for field in 0..5 {
            record[format!("Zone{}", n / 40 * 5 + field)] = kinds[(n + field) % 4].clone();
        }
        let blob = Blob::new(site.now() - Duration::minutes(5), &[record]);
        let (tenant, stream) = ([TENANT, OTHER][n % 2], [GENERAL, "Audit.Exchange"][n / 2 % 2]);
        site.simulator.publish(tenant, stream, blob);
    }
    let run = site.poll_well();
    let mut index = Index::new();
    let mut seen = std::collections::HashSet::new();
    assert_eq!(run.events().len(), 400);
    for line in run.lines() {
        index.add(&decode(line.as_bytes()).unwrap()).unwrap_or_else(|why| panic!("{why}: {line}"));
        // The first one to be written is as it was sent.
        let event: Value = serde_json::from_str(&line).unwrap();
        for (name, value) in event["office365"].as_object().unwrap() {
            if name.starts_with("Zone") && seen.insert(name.clone()) {
                assert!(kinds.contains(value), "{line}");
            }
        }
    }
    assert_eq!(seen.len(), 50);
}
