//! `status`: how every stream stands, from the state alone.

use std::fs;

use office365_simulator::{Call, Fault};
use serde_json::json;
use time::Duration;

use crate::harness::{PATIENCE, STATE, Site, TENANT};
use crate::host::Options;

#[test]
fn every_stream_is_shown_with_what_was_done() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1", "2"]);
    site.poll_well();
    site.publish("Audit.General", Duration::minutes(1), &["3"]);
    site.simulator.advance(Duration::minutes(1));
    site.poll_well();
    site.simulator.clear_requests();
    let status = site.admin(&["status"]);
    let line = status.line("Audit.General");
    assert!(line.ends_with("0         1 in 1 blob      3 in 2 blobs"), "{line}");
    assert!(status.line("DLP.All").ends_with("0 in 0 blobs     0 in 0 blobs"));
    assert!(status.line("last poll: ").contains("(one is due every 60 s)"));
    assert!(status.well().ends_with("\nall well\n"));

    let json = site.admin(&["status", "--json"]).json();
    assert_eq!((&json["ok"], &json["problems"]), (&json!(true), &json!([])));
    assert_eq!((&json["interval"], &json["polling_since"]), (&json!(60), &json!(null)));
    let tenant = &json["tenants"][0];
    assert_eq!((&tenant["tenant_id"], &tenant["configured"]), (&json!(TENANT), &json!(true)));
    let streams = tenant["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 5);
    let general = streams.iter().find(|s| s["content_type"] == "Audit.General").unwrap();
    assert_eq!(general["last_run"], json!({ "events": 1, "blobs": 1 }));
    assert_eq!(general["in_all"], json!({ "events": 3, "blobs": 2 }));
    assert_eq!(general["position"], site.stream("Audit.General")["position"]);
    for member in ["lag", "waiting", "waiting_failed", "excluded", "failures", "gaps"] {
        assert!(general[member].is_u64(), "{member}");
    }
    assert!(general["last_success"].is_string() && general["last_error"].is_null());
    assert!(site.simulator.requests().is_empty(), "it needs no network");
}

#[test]
fn what_fails_is_told_with_its_explanation() {
    let site = Site::new();
    site.simulator.set_roles(TENANT, &["ActivityFeed.Read"]);
    assert_eq!(site.poll().code, Some(1));
    assert_eq!(site.poll().code, Some(1));
    let status = site.admin(&["status"]);
    assert_eq!(status.code, Some(1));
    let line = status.line(": failed 2 times in a row: ");
    assert!(line.starts_with(&format!("{TENANT} DLP.All: ")), "{line}");
    assert!(line.contains("AF10001") && line.contains("then Grant admin consent"), "{line}");
    assert!(!status.stdout.contains("all well"));
    let json = site.admin(&["status", "--json"]);
    assert_eq!((json.code, &json.json()["ok"]), (Some(1), &json!(false)));

    // What is no longer configured fails no more.
    site.configure_one("");
    site.poll_well();
    assert!(site.admin(&["status"]).well().ends_with("all well\n"));
}

#[test]
fn filters_waiting_blobs_and_gaps_are_shown() {
    let site = Site::new();
    site.configure_one("<exclude><operation>ChatCreated</operation></exclude>");
    site.publish("Audit.General", Duration::minutes(9), &["1", "2"]);
    let lost = site.publish("Audit.General", Duration::minutes(5), &["3"]);
    let late = site.publish("Audit.General", Duration::minutes(3), &["4"]);
    let expired = r#"{"error":{"code":"AF20051","message":"expired"}}"#;
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&lost).respond(400, expired).always());
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&late).respond(404, "x").always());
    assert_eq!(site.poll().code, Some(1));
    let status = site.admin(&["status"]);
    let row = status.line("Audit.General  ").to_owned();
    let row: Vec<_> = row.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect();
    assert_eq!(row[4..], ["1", "1 (1 failed)", "2", "0 in 1 blob", "0 in 1 blob"], "{row:?}");
    assert!(status.line("Audit.General: a gap found at ").contains("AF20051"));
    let json = site.admin(&["status", "--json"]).json();
    let stream = &json["tenants"][0]["streams"][0];
    assert_eq!((&stream["waiting"], &stream["waiting_failed"]), (&json!(1), &json!(1)));
    assert_eq!((&stream["excluded"], &stream["gaps"]), (&json!(2), &json!(1)));
    assert!(stream["lag"].as_i64().unwrap() >= 180);
}

#[test]
fn no_poll_or_an_old_one_is_a_fault() {
    let site = Site::new();
    let status = site.admin(&["status"]);
    assert_eq!(status.code, Some(1));
    status.line("no poll has run to its end yet: see HOME/logs/wodle-office365.log");
    assert!(!site.path("var/wodles/wodle-office365").exists(), "it makes nothing");
    site.poll_well();
    assert_eq!(site.admin(&["status"]).code, Some(0));
    let old = site.now() - Duration::minutes(4);
    let format = &time::format_description::well_known::Rfc3339;
    let mut state = site.state();
    state["last_poll"] = json!(old.replace_nanosecond(0).unwrap().format(format).unwrap());
    fs::write(site.path(STATE), state.to_string()).unwrap();
    let status = site.admin(&["status"]);
    assert_eq!(status.code, Some(1));
    status.line("no poll has run to its end for 4 min, though one is due every 60 s: ");

    // Unless one is under way.
    site.simulator.fault(Fault::on(Call::Content).hang());
    site.simulator.clear_requests();
    let host = site.host();
    let poll = host.begin(&site.command(), Options::default());
    let listing = |requests: &[office365_simulator::Request]| {
        requests.iter().any(|request| request.call == Some(Call::Content))
    };
    assert!(site.simulator.wait_for(PATIENCE, listing));
    let status = site.admin(&["status", "--json"]);
    assert_eq!(status.code, Some(0), "{}", status.stdout);
    assert!(status.json()["polling_since"].is_string());
    poll.terminate();
    assert_eq!(poll.end().code, Some(0));
    assert!(site.admin(&["status", "--json"]).json()["polling_since"].is_null());
}

#[test]
fn a_queue_made_anew_is_told() {
    let site = Site::new();
    let queue = site.path("queue/sockets/queue");
    let listener = std::os::unix::net::UnixDatagram::bind(&queue).unwrap();
    site.poll_well();
    assert_eq!(site.admin(&["status"]).code, Some(0));
    drop(listener);
    fs::remove_file(&queue).unwrap();
    let _other = std::os::unix::net::UnixDatagram::bind(&queue).unwrap();
    for command in ["status", "check"] {
        let told = site.admin(&[command]);
        assert_eq!(told.code, Some(1));
        told.line("restart Wazuh (systemctl restart wazuh-manager, or wazuh-agent): the socket");
    }
}

#[test]
fn a_state_that_cannot_be_used_is_no_reason_to_guess() {
    let site = Site::new();
    site.poll_well();
    fs::write(site.path(STATE), r#"{"version":99}"#).unwrap();
    let status = site.admin(&["status"]);
    assert_eq!((status.code, status.stdout.as_str()), (Some(2), ""));
    assert!(status.stderr.contains("is of version 99"), "{}", status.stderr);
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(1));
    assert!(check.line("FAIL  state").contains("is of version 99"));
}

#[test]
fn tenants_of_the_past_are_named_and_nothing_more() {
    let site = Site::new();
    site.poll_well();
    let other = "b1b2c3d4-0000-4000-8000-000000000002";
    site.configure_with("", &site.api_auth(other, "c", "hunter22"), &["Audit.General"]);
    assert_eq!(site.poll().code, Some(1));
    let status = site.admin(&["status"]);
    status.line(&format!("no longer configured, kept for 30 days: {TENANT}"));
    let json = site.admin(&["status", "--json"]).json();
    let known = json["tenants"].as_array().unwrap();
    assert_eq!(known[0]["configured"], false);
    assert_eq!(known[1]["configured"], true);
}
