//! What Wazuh is told about ourselves: failures, recoveries, gaps, delays, wrong configurations.

use std::fs;
use std::process::Command;

use office365_simulator::{Blob, CONTENT_TYPES, Call, Fault, Simulator, Tenant};
use serde_json::Value;
use time::Duration;

use crate::harness::{CLIENT, PATIENCE, Run, SECRET, STATE, Site, TENANT, binary, record};
use crate::host::{Host, Options};

const GENERAL: &str = "Audit.General";
const REFUSAL: &str = r#"{"error":{"code":"AF20012","message":"not set up"}}"#;

/// What each of so many runs tells.
fn told(site: &Site, runs: usize) -> Vec<Vec<String>> {
    (0..runs).map(|_| site.poll().told()).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn the_third_failed_cycle_of_a_stream_is_told_then_once_a_day_then_its_recovery() {
    let site = Site::from_now();
    site.simulator
        .fault(Fault::on(Call::Content).content_type(GENERAL).always().respond(400, REFUSAL));
    assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    let run = site.poll();
    assert_eq!(run.told(), ["failure Audit.General"]);
    let notice = &run.notices()[0];
    assert_eq!((&notice["tenant_id"], &notice["code"]), (&TENANT.into(), &"AF20012".into()));
    let response = notice["response"].as_str().unwrap();
    assert!(response.starts_with("content can't be listed: HTTP 400 AF20012 not set up - "));
    assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    site.simulator.advance(Duration::hours(25));
    // By the API's own time, of which the first answer tells.
    assert_eq!(told(&site, 2), [&["behind Audit.General", "failure Audit.General"][..], &[]]);
    site.simulator.clear_faults();
    assert_eq!(told(&site, 2), [&["recovered Audit.General"][..], &[]]);
    assert_eq!(site.stream(GENERAL)["health"]["failures"], 0);
}

#[test]
fn a_tenant_that_cannot_sign_in_is_told_once_for_all_its_streams() {
    let site = Site::from_now();
    let refusal = r#"{"error":"invalid_client","error_description":"AADSTS7000222: expired.","error_codes":[7000222]}"#;
    site.simulator.fault(Fault::on(Call::Token).always().respond(401, refusal));
    assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    let run = site.poll();
    assert_eq!(run.told(), ["failure"]);
    let notice = &run.notices()[0];
    assert_eq!(
        (&notice["subscription_name"], &notice["code"]),
        (&"".into(), &"AADSTS7000222".into())
    );
    assert!(notice["response"].as_str().unwrap().contains("create a new one"), "{notice}");
    assert_eq!(told(&site, 1), [NOTHING]);
    site.simulator.clear_faults();
    assert_eq!(told(&site, 2), [&["recovered"][..], &[]]);
}

#[test]
fn what_fails_now_and_then_is_not_told() {
    let site = Site::from_now();
    for _ in 0..3 {
        site.simulator
            .fault(Fault::on(Call::Content).content_type(GENERAL).times(2).respond(400, REFUSAL));
        assert_eq!(told(&site, 3), [NOTHING; 3]);
    }
}

#[test]
fn a_cause_that_hits_many_tenants_is_told_once() {
    let guid = |n: usize| format!("a1b2c3d4-0000-4000-8000-0000000000{n:02}");
    let mut builder = Simulator::builder();
    for n in 2..9 {
        builder = builder.tenant(Tenant::new(&guid(n), CLIENT, SECRET));
    }
    let site = Site::built(builder);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let auth = |port: Option<u16>| -> String {
        let of = |n: usize| match port {
            None => site.api_auth(&guid(n), CLIENT, SECRET),
            Some(port) => site
                .api_auth(&guid(n), CLIENT, SECRET)
                .replace(&site.simulator.login_url(), &format!("http://127.0.0.1:{port}")),
        };
        (2..9).map(of).collect()
    };
    // A run is too short to try everything five times.
    let options = "<run_timeout>10s</run_timeout><max_connections>32</max_connections>";
    site.configure_with(options, &auth(Some(dead.port())), &CONTENT_TYPES);
    assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    let run = site.poll();
    assert_eq!(run.told(), ["failure"]);
    let notice = &run.notices()[0];
    assert_eq!(notice["tenant_id"], "");
    let response = notice["response"].as_str().unwrap();
    assert!(response.starts_with(&format!("7 tenants ({}, ", guid(2))), "{response}");
    let cause = format!("for one cause: {dead} refuses the connection: ");
    assert!(response.contains(&cause), "{response}");
    site.configure_with(options, &auth(None), &CONTENT_TYPES);
    let run = site.poll();
    assert_eq!(run.told(), ["recovered"]);
    assert!(run.notices()[0]["response"].as_str().unwrap().contains("7 tenants"));
}

#[test]
fn a_stream_that_falls_behind_is_told_once_a_day() {
    let site = Site::new();
    site.configure_one("");
    let blob = site.publish(GENERAL, Duration::days(2), &["stuck"]);
    let refuse = Fault::on(Call::Fetch).content_id(&blob).always().respond(400, "not now");
    site.simulator.fault(refuse);
    assert_eq!(told(&site, 1), [NOTHING]);
    site.simulator.advance(Duration::minutes(1));
    let run = site.poll();
    assert_eq!(run.told(), ["behind Audit.General"]);
    let response = run.notices()[0]["response"].as_str().unwrap().to_owned();
    for word in ["wazuh_modules.max_eps", "7 days", "2.0 d behind"] {
        assert!(response.contains(word), "{response}");
    }
    site.simulator.advance(Duration::minutes(1));
    assert_eq!(told(&site, 2), [&["failure Audit.General"][..], &[]]);
    site.simulator.advance(Duration::hours(25));
    assert!(site.poll().told().contains(&"behind Audit.General".to_owned()));
}

#[test]
fn a_wrong_configuration_is_told_once_for_a_text_and_then_once_a_day() {
    let site = Site::from_now();
    site.poll_well();
    let texts = ["<office365><bogus/></office365>", "<office365></office365>"];
    for text in texts {
        site.write_config(text);
        let run = site.poll();
        assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
        assert_eq!((run.notices()[0]["tenant_id"].as_str()), Some(""));
        assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    }
    site.write_config(texts[0]);
    assert_eq!(told(&site, 1), [NOTHING], "within a day");
    // The streams are where they were.
    assert!(site.stream(GENERAL)["position"].is_string());
    let state = fs::read_to_string(site.path(STATE)).unwrap();
    let offset = state.find("\"clock_offset\":").unwrap() + 15;
    let end = offset + state[offset..].find(',').unwrap();
    fs::write(site.path(STATE), format!("{}90000{}", &state[..offset], &state[end..])).unwrap();
    assert_eq!(told(&site, 2), [&["configuration"][..], &[]], "a day later");
}

#[test]
fn a_wrong_command_line_and_a_missing_file_are_told_as_well() {
    let site = Site::from_now();
    let mut command = site.command();
    command.arg("--bogus");
    let run = site.run(&command);
    assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
    assert_eq!(site.run(&command).told(), NOTHING);
    // A look is never counted as told.
    command.args(["--dry-run", "x"]);
    assert_eq!(site.run(&command).text(), "");
    fs::remove_file(site.config()).unwrap();
    assert_eq!(told(&site, 2), [&["configuration"][..], &[]]);
}

#[test]
fn a_state_that_cannot_be_used_is_told_and_counted_beside_it() {
    let mut site = Site::from_now();
    site.poll_well();
    fs::write(site.path(STATE), br#"{"version":9}"#).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
    let response = run.notices()[0]["response"].as_str().unwrap().to_owned();
    assert!(response.contains("is of version 9, which this release doesn't know"), "{response}");
    site.restart_wazuh();
    assert_eq!(told(&site, 2), [&["configuration"][..], &[]], "lost on its way, so once more");
    assert_eq!(fs::read(site.path(STATE)).unwrap(), br#"{"version":9}"#, "never touched");
    fs::remove_file(site.path(STATE)).unwrap();
    assert_eq!(told(&site, 1), [NOTHING], "the previous copy is good");
    assert!(!site.path("var/wodles/wodle-office365/stand-in.json").exists());
}

#[test]
fn credentials_that_cannot_be_used_are_the_configurations_fault() {
    let site = Site::from_now();
    let by_file = "<client_secret_path>etc/none</client_secret_path>";
    let auth = site.api_auth_with(TENANT, CLIENT, by_file);
    site.configure_with("", &auth, &[GENERAL]);
    let run = site.poll();
    assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
    let notice = &run.notices()[0];
    assert_eq!(notice["tenant_id"], TENANT);
    assert!(notice["response"].as_str().unwrap().contains("client_secret_path: "), "{notice}");
    assert_eq!(told(&site, 4), [NOTHING; 4]);
}

#[test]
fn a_subscription_that_was_off_leaves_a_gap() {
    let site = Site::from_now();
    site.poll_well();
    let since = site.stream(GENERAL)["position"].clone();
    site.simulator.advance(Duration::hours(3));
    site.simulator.set_subscription(TENANT, GENERAL, Some("disabled"));
    let run = site.poll_well();
    assert_eq!(run.told(), ["gap Audit.General"]);
    let notice = &run.notices()[0];
    assert_eq!(notice["from"], since);
    assert!(notice["to"].as_str() > since.as_str(), "{notice}");
    assert!(notice["response"].as_str().unwrap().starts_with("the subscription was off"));
    assert!(site.log().contains("ERROR: ") && site.log().contains("events are lost: the subscr"));
    assert_eq!(site.stream(GENERAL)["gaps"], 1);
    assert_eq!(site.stream(GENERAL)["last_gap"]["notice"]["from"], since);
    assert_eq!(told(&site, 1), [NOTHING]);
}

#[test]
fn a_subscription_that_never_was_is_no_gap() {
    let site = Site::from_now();
    assert_eq!(told(&site, 2), [NOTHING, NOTHING]);
    // Nor is one that the API says was on all the time.
    site.simulator.advance(Duration::hours(1));
    site.simulator.fault(Fault::on(Call::List).respond(200, "[]"));
    let already = r#"{"error":{"code":"AF20024","message":"already enabled"}}"#;
    site.simulator.fault(Fault::on(Call::Start).times(5).respond(400, already));
    assert_eq!(told(&site, 1), [NOTHING]);
    assert!(site.calls()["start"] == 10);
}

#[test]
fn notices_that_find_no_room_wait_in_the_state() {
    let site = Site::new();
    site.configure_one("");
    // Together three times what a run takes of notices.
    for n in 0..600 {
        let created = site.now() - Duration::hours(2) + Duration::seconds(n);
        let long = format!("{n:04}{}", "x".repeat(340));
        let gone = Blob::new(created, &[record("x")]).expires(site.now() - Duration::minutes(1));
        site.simulator.publish(TENANT, GENERAL, gone.id(long));
    }
    let mut ids = Vec::new();
    for _ in 0..3 {
        let run = site.poll_well();
        assert!(run.output.len() <= 256 << 10, "{}", run.output.len());
        let id = |notice: &Value| notice["content_id"].as_str().unwrap()[..4].to_owned();
        ids.extend(run.notices().iter().map(id));
    }
    ids.sort();
    assert_eq!(ids, (0..600).map(|n| format!("{n:04}")).collect::<Vec<_>>());
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.stream(GENERAL)["gaps"], 600);
}

fn reset(site: &Site, to: &str) -> Run {
    site.run(&reset_command(site, to))
}

fn reset_command(site: &Site, to: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("reset").arg("--home").arg(site.path("")).current_dir(site.path(""));
    command.args(["--tenant", TENANT, "--content-type", GENERAL, "--to", to]);
    command
}

#[test]
fn reset_skips_and_says_so_or_brings_all_once_more() {
    let site = Site::new();
    site.configure_one("");
    let run = reset(&site, "1h");
    assert_eq!(run.code, Some(2));
    assert!(
        run.text().contains("there is no stream") && run.text().contains("no poll has run yet")
    );
    // A first run that can't list: the position is 7 days ago.
    site.simulator.fault(Fault::on(Call::Content).respond(400, REFUSAL));
    assert_eq!(site.poll().code, Some(1));
    site.publish(GENERAL, Duration::days(2), &["skipped"]);
    site.publish(GENERAL, Duration::minutes(30), &["kept"]);
    let run = reset(&site, "1h");
    assert_eq!((run.code, run.text().matches('\n').count()), (Some(0), 1));
    assert!(run.text().contains("and the next poll says so"), "{}", run.text());
    let run = site.poll_well();
    assert_eq!(
        (run.ids(), run.told()),
        (vec!["kept".to_owned()], vec!["gap Audit.General".to_owned()])
    );
    let notice = &run.notices()[0];
    assert!(notice["response"].as_str().unwrap().starts_with("skipped by wodle-office365 reset"));
    assert!(notice["from"].as_str() < notice["to"].as_str());
    assert_eq!(site.poll_well().text(), "");

    let run = reset(&site, "3d");
    assert!(run.text().contains("once more"), "{}", run.text());
    let run = site.poll_well();
    assert_eq!((run.ids(), run.told().len()), (vec!["kept".to_owned(), "skipped".to_owned()], 0));
    assert_eq!(site.poll_well().text(), "");
    // As far as the API goes is no gap.
    assert_eq!(reset(&site, "7d").code, Some(0));
    let run = site.poll_well();
    assert_eq!((run.ids().len(), run.told().len()), (2, 0));
    for to in ["8d", "2999-01-01T00:00:00Z"] {
        let run = reset(&site, to);
        assert_eq!(run.code, Some(2));
        assert!(run.text().contains("is not within the 7 days"), "{}", run.text());
    }
}

#[test]
fn reset_by_a_little_loses_nothing_that_becomes_available_late() {
    let site = Site::new();
    site.configure_one("");
    let late = Blob::new(site.now() - Duration::minutes(30), &[record("late")]);
    site.simulator.publish(TENANT, GENERAL, late.listable_at(site.now() + Duration::minutes(1)));
    site.publish(GENERAL, Duration::minutes(20), &["known"]);
    assert_eq!(site.poll_well().ids(), ["known"]);
    assert_eq!(reset(&site, "10m").code, Some(0));
    site.simulator.advance(Duration::minutes(2));
    let run = site.poll_well();
    assert_eq!((run.ids(), run.told().len()), (vec!["late".to_owned()], 0));
}

#[test]
fn reset_waits_for_a_running_poll() {
    let site = Site::new();
    site.configure_one("");
    site.poll_well();
    site.simulator.fault(Fault::on(Call::Content).hang());
    let second = Host::start(&site.path(""));
    let running = site.host().begin(&site.command(), Options::default());
    assert!(site.simulator.wait_for(PATIENCE, |requests| {
        requests.last().is_some_and(|last| last.call == Some(Call::Content) && last.status == 0)
    }));
    let reset = second.begin(&reset_command(&site, "2d"), Options::default());
    // It may come to the lock before or after the other is told to end; it gets it only then.
    running.terminate();
    assert_eq!(running.end().code, Some(0));
    assert_eq!(reset.end().code, Some(0));
    site.publish(GENERAL, Duration::days(1), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
}
