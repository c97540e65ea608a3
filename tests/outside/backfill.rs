//! `backfill`: a past window, by the next polls or here and now.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use office365_simulator::{Blob, Builder, CONTENT_TYPES, Call, Fault, Simulator, Tenant};
use serde_json::{Value, json};
use time::Duration;
use time::format_description::well_known::Rfc3339;

use crate::harness::{CLIENT, PATIENCE, SECRET, STATE, Site, TENANT, record};
use crate::host::Options;
use crate::manners::on_a_terminal;

const GENERAL: &str = "Audit.General";

/// A site whose streams start now, with content of the days before: `6d`, `3d`, `2h`.
fn site() -> Site {
    let site = Site::from_now();
    site.publish(GENERAL, Duration::days(6), &["6d"]);
    site.publish(GENERAL, Duration::days(3), &["3d"]);
    site.publish(GENERAL, Duration::hours(2), &["2h"]);
    for name in CONTENT_TYPES {
        site.simulator.set_subscription(TENANT, name, Some("enabled"));
    }
    site
}

/// The backfills of the one tenant, as `status` has them.
fn backfills(site: &Site) -> Vec<Value> {
    let json = site.admin(&["status", "--json"]).json();
    json["tenants"][0]["backfills"].as_array().cloned().unwrap_or_default()
}

#[test]
fn the_next_polls_bring_a_past_window_once() {
    let site = site();
    assert_eq!(site.poll_well().text(), "");
    let told = site.admin(&["backfill", "--from", "5d", "--to", "1d", "--tenant", TENANT]).well();
    assert_eq!(told.matches(": queued: backfill from ").count(), 5, "{told}");
    assert!(
        told.contains("That is about 1 event in 1 blob; of a wodle Wazuh sends on at most 100")
    );
    assert!(told.contains("wodle-office365 status shows how far they are"), "{told}");
    let queued = backfills(&site);
    assert_eq!(queued.len(), 5);
    assert!(queued.iter().all(|b| b["done"].is_null() && b["position"] == b["from"]));
    site.admin(&["status"]).line("backfill of Audit.General from 20");

    site.simulator.advance(Duration::minutes(1));
    site.publish(GENERAL, Duration::seconds(1), &["live"]);
    assert_eq!(site.poll_well().ids(), ["3d", "live"]);
    let done = backfills(&site);
    assert!(done.iter().all(|b| b["done"].is_string() && b["waiting"] == 0), "{done:?}");
    assert!(site.log().contains("Audit.General: the backfill from 20"), "{}", site.log());
    let general = done.iter().find(|b| b["content_type"] == GENERAL).unwrap();
    assert_eq!(general["in_all"], json!({ "events": 1, "blobs": 1 }));
    assert_eq!(site.poll_well().text(), "");
    assert!(site.log().contains("1 events from 1 blobs"), "{}", site.log());

    // Whoever asks again gets it again.
    site.admin(&["backfill", "--from", "5d", "--to", "1d", "--content-type", GENERAL]).well();
    assert_eq!(site.poll_well().ids(), ["3d"]);
}

#[test]
fn the_whole_week_up_to_now_is_no_gap_and_leaves_the_live_streams_theirs() {
    let site = site();
    site.poll_well();
    site.simulator.advance(Duration::minutes(2));
    site.publish(GENERAL, Duration::minutes(1), &["next"]);
    let told = site.admin(&["backfill", "--from", "7d", "--content-type", GENERAL]).well();
    let position = site.stream(GENERAL)["position"].as_str().unwrap().to_owned();
    assert!(told.contains(&format!(" to {position}\n")), "{told}");
    let run = site.poll_well();
    assert_eq!(run.ids(), ["2h", "3d", "6d", "next"]);
    assert!(run.notices().is_empty());
    let nothing = site.admin(&["backfill", "--from", "1s", "--content-type", GENERAL]);
    assert_eq!(nothing.code, Some(0));
}

#[test]
fn a_window_may_be_queued_before_the_first_poll() {
    let site = site();
    let told = site.admin(&["backfill", "--from", "4d"]).well();
    assert!(told.contains("about 2 events in 2 blobs"), "{told}");
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
    // A first run that takes all there is brings it anyway.
    let site = Site::new();
    site.publish(GENERAL, Duration::days(3), &["3d"]);
    let told = site.admin(&["backfill", "--from", "4d"]).well();
    assert_eq!(told.matches("nothing to do, for the next polls bring all since ").count(), 5);
    assert_eq!(site.poll_well().ids(), ["3d"]);
    assert_eq!(site.poll_well().text(), "");
    assert!(backfills(&site).is_empty());
}

#[test]
fn live_events_come_first_and_a_full_run_goes_on_in_the_next() {
    let site = Site::from_now();
    site.configure("<max_output>256k</max_output><max_connections>1</max_connections>");
    site.poll_well();
    let big = |id: &str| {
        let mut record = record(id);
        record["Filler"] = "x".repeat(30_000).into();
        record
    };
    let put = |ago, name: &str| {
        let records: Vec<_> = (0..5).map(|n| big(&format!("{name}{n}"))).collect();
        site.simulator.publish(TENANT, GENERAL, Blob::new(site.now() - ago, &records));
    };
    for day in 1..=4 {
        put(Duration::days(day), &format!("old{day}-"));
    }
    site.admin(&["backfill", "--from", "6d", "--to", "2h", "--content-type", GENERAL]).well();
    site.simulator.advance(Duration::minutes(2));
    for n in 0..2 {
        put(Duration::minutes(1), &format!("live{n}-"));
    }
    let first = site.poll_well().ids();
    let live = first.iter().filter(|id| id.starts_with("live")).count();
    assert_eq!((first.len(), live), (10, 10), "{first:?}");
    let mut old = Vec::new();
    let mut runs = 0;
    while old.len() < 20 && runs < 9 {
        old.extend(site.poll_well().ids());
        runs += 1;
    }
    old.sort();
    assert_eq!(old.len(), 20, "{old:?}");
    assert!(old.iter().all(|id| id.starts_with("old")));
    assert!(runs > 1);
    assert!(backfills(&site)[0]["done"].is_string());
}

#[test]
fn what_fails_waits_and_is_told_and_what_is_lost_is_a_gap() {
    let site = site();
    site.poll_well();
    let stuck = site.publish(GENERAL, Duration::days(2), &["stuck"]);
    let lost = site.publish(GENERAL, Duration::days(1), &["lost"]);
    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    let expired = r#"{"error":{"code":"AF20051","message":"expired"}}"#;
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&lost).respond(400, expired).always());
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&stuck).respond(404, "x").always());
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(site.poll().told());
        site.simulator.advance(Duration::minutes(1));
    }
    assert_eq!(told, ["gap Audit.General", "failure Audit.General"], "it is behind by nature");
    let run = site.poll();
    assert_eq!(run.code, Some(1));
    assert!(site.log().contains("Audit.General: backfill from 20"), "{}", site.log());
    let status = site.admin(&["status"]);
    assert_eq!(status.code, Some(1));
    assert!(status.line("its backfill failed 4 times in a row: content ").contains("HTTP 404"));
    let queued = &backfills(&site)[0];
    assert_eq!((&queued["waiting"], &queued["done"]), (&json!(1), &json!(null)));
    assert_eq!(queued["gaps"], 1);
    status.line("a gap found at ");
    assert!(site.admin(&["check"]).line("FAIL  state").contains("the backfill from 20"));
    site.simulator.clear_faults();
    let run = site.poll_well();
    assert_eq!(
        (run.ids(), run.told()),
        (vec!["stuck".to_owned()], vec!["recovered Audit.General".to_owned()])
    );
    let recovered = run.notices()[0]["response"].clone();
    assert!(recovered.as_str().unwrap().starts_with("backfill from 20"), "{recovered}");
    assert_eq!(site.admin(&["status"]).code, Some(0));
}

#[test]
fn it_is_handed_over_like_all_else() {
    let mut site = site();
    site.poll_well();
    let args = ["backfill", "--from", "4d", "--to", "90m", "--content-type", GENERAL];
    site.admin(&args).well();
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
    assert!(backfills(&site)[0]["done"].is_string());
    // Wazuh was restarted while it still had that run's output.
    site.restart_wazuh();
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
    assert_eq!(site.poll_well().text(), "");
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "", "that one was proven");
}

#[test]
fn what_becomes_available_late_is_found() {
    let site = site();
    site.poll_well();
    let late = Blob::new(site.now() - Duration::minutes(10), &[record("late")]);
    let when = site.now() + Duration::minutes(20);
    site.simulator.publish(TENANT, GENERAL, late.listable_at(when));
    site.admin(&["backfill", "--from", "3h", "--content-type", GENERAL]).well();
    assert_eq!(site.poll_well().ids(), ["2h"]);
    site.admin(&["status"]).line("written; it is listed again for a while");
    site.simulator.advance(Duration::minutes(21));
    assert_eq!(site.poll_well().ids(), ["late"]);
    site.simulator.advance(Duration::minutes(40));
    assert_eq!(site.poll_well().text(), "");
    assert!(backfills(&site)[0]["done"].is_string());
    site.simulator.clear_requests();
    site.poll_well();
    assert_eq!(site.calls()["content"], 5, "and it costs nothing any more");
}

#[test]
fn several_windows_of_a_stream_are_worked_off_one_after_the_other() {
    let site = site();
    site.poll_well();
    for window in [["7d", "5d"], ["4d", "1d"]] {
        let args = ["backfill", "--from", window[0], "--to", window[1], "--content-type", GENERAL];
        site.admin(&args).well();
    }
    assert_eq!(site.poll_well().ids(), ["6d"]);
    assert_eq!(site.poll_well().ids(), ["3d"]);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn here_and_now_it_goes_to_stdout_and_the_state_is_left_alone() {
    let site = site();
    site.poll_well();
    let before = (site.state(), fs::metadata(site.path(STATE)).unwrap().ino());
    let run = site.admin(&["backfill", "--from", "4d", "--to", "1h", "--stdout"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", run.stdout);
    assert!(
        lines.iter().all(|line| line.starts_with(r#"{"integration":"office365","office365":{"#))
    );
    assert!(run.stdout.contains(r#""Id":"3d""#) && run.stdout.contains(r#""Id":"2h""#));
    assert!(run.stderr.contains(": 2 events from 2 blobs; done\n"), "{}", run.stderr);
    assert!(!run.stderr.contains('\r'), "the bar is for terminals");
    assert_eq!((site.state(), fs::metadata(site.path(STATE)).unwrap().ino()), before);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn windows_of_any_length_are_listed_to_their_end() {
    let site = site();
    for (from, to, expected) in
        [("1d", "0m", 1), ("24h", "1s", 1), ("7d", "0m", 3), ("7d", "156h", 0), ("3h", "1h", 1)]
    {
        let to = if to == "0m" { vec![] } else { vec!["--to", to] };
        let args = [&["backfill", "--stdout", "--from", from, "--content-type", GENERAL][..], &to];
        let run = site.admin(&args.concat());
        assert_eq!(run.code, Some(0), "{from}: {}", run.stderr);
        assert_eq!(run.stdout.lines().count(), expected, "{from} {to:?}");
        site.admin(&[&["backfill", "--from", from, "--content-type", GENERAL][..], &to].concat())
            .well();
    }
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.extend(site.poll_well().ids());
    }
    assert!(backfills(&site).iter().any(|b| b["done"].is_null()), "some may come late");
    site.simulator.advance(Duration::hours(1));
    for _ in 0..3 {
        assert_eq!(site.poll_well().text(), "");
    }
    ids.sort();
    // What another one brings was not queued again.
    assert_eq!(ids, ["2h", "3d", "6d"]);
    assert!(backfills(&site).iter().all(|b| b["done"].is_string()));
}

#[test]
fn a_terminal_gets_a_progress_bar() {
    let site = site();
    let mut command = site.admin_command(&["backfill", "--from", "4d", "--stdout"]);
    command.arg("--content-type").arg(GENERAL);
    let (screen, code) = on_a_terminal(command);
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("\r[") && screen.contains(" %  "), "{screen}");
    assert!(screen.contains(r#""Id":"3d""#), "{screen}");
}

#[test]
fn here_and_now_what_fails_is_said_and_what_is_slowed_down_is_waited_for() {
    let site = site();
    let bad = r#"{"error":"invalid_client","error_description":"AADSTS7000222: old.","error_codes":[7000222]}"#;
    site.simulator.fault(Fault::on(Call::Token).respond(401, bad));
    let args = ["backfill", "--from", "4d", "--stdout", "--content-type", GENERAL];
    let run = site.admin(&args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("AADSTS7000222: old. - the client secret has expired"), "{run:?}");
    assert!(run.stderr.contains("not all of it could be written"), "{run:?}");

    // Longer than a poll would wait for.
    let slow = r#"{"error":{"code":"AF429","message":"Too many requests."}}"#;
    let fault = Fault::on(Call::Fetch).respond(429, slow).header("Retry-After", "11");
    site.simulator.fault(fault);
    let run = site.admin(&args);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stderr);

    let expired = r#"{"error":{"code":"AF20051","message":"expired"}}"#;
    site.simulator.fault(Fault::on(Call::Fetch).respond(400, expired));
    let run = site.admin(&args);
    assert_eq!(run.stdout.lines().count(), 2, "an event and a gap: {}", run.stdout);
    assert!(run.stdout.contains(r#""notice":"gap""#) && run.stderr.contains("AF20051"));
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let site = site();
    site.configure_one("");
    let later = (site.now() + Duration::hours(1)).format(&Rfc3339).unwrap();
    for (args, expected) in [
        (&["--from", "8d"][..], "is not within the 7 days before"),
        (&["--from", &later], "is not within the 7 days before"),
        (&["--from", "1d", "--to", "2d"], "is not between --from"),
        (&["--from", "1d", "--to", &later], "is not between --from"),
        (&["--from", "1d", "--tenant", "nobody"], "there is no tenant \"nobody\""),
        (&["--from", "1d", "--content-type", "DLP.All"], "none of the subscriptions"),
    ] {
        let run = site.admin(&[&["backfill"], args].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(run.stderr.contains(expected), "{args:?}: {}", run.stderr);
    }
    assert!(!site.path(STATE).exists());
}

#[test]
fn queueing_waits_for_a_running_poll() {
    let site = site();
    site.poll_well();
    site.simulator.fault(Fault::on(Call::Content).hang());
    site.simulator.clear_requests();
    let poll = site.host().begin(&site.command(), Options::default());
    let listing = |requests: &[office365_simulator::Request]| {
        requests.iter().any(|request| request.call == Some(Call::Content))
    };
    assert!(site.simulator.wait_for(PATIENCE, listing));
    let mut command = site.admin_command(&["backfill", "--from", "4d", "--content-type", GENERAL]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 64];
    let read = std::io::Read::read(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..read]).into_owned();
    assert!(said.starts_with("wodle-office365: waiting for a running poll to end"), "{said}");
    poll.terminate();
    poll.end();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
}

#[test]
fn without_a_network_it_is_queued_all_the_same() {
    let site = site();
    site.poll_well();
    site.simulator.fault(Fault::on(Call::Token).respond(503, "busy").always());
    let told = site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    assert!(
        told.contains("How much that is can't be told (") && told.contains("8640000 events a day")
    );
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
}

#[test]
fn max_eps_of_wazuh_counts_in_the_estimate() {
    let site = site();
    site.poll_well();
    fs::write(site.path("etc/local_internal_options.conf"), "wazuh_modules.max_eps=500\n").unwrap();
    let records: Vec<_> = (0..1500).map(|n| record(&n.to_string())).collect();
    site.simulator.publish(TENANT, GENERAL, Blob::new(site.now() - Duration::hours(20), &records));
    let args = ["backfill", "--from", "21h", "--to", "19h", "--content-type", GENERAL];
    let told = site.admin(&args).well();
    assert!(told.contains("about 1500 events in 1 blob"), "{told}");
    assert!(
        told.contains("at most 500 events a second") && told.contains("it takes 3 s"),
        "{told}"
    );
}

/// How often this Id comes in so many runs, with so much time between them.
fn times(site: &Site, id: &str, runs: usize, pause: Duration) -> usize {
    let mut count = 0;
    for _ in 0..runs {
        count += site.poll().ids().iter().filter(|other| *other == id).count();
        site.simulator.advance(pause);
    }
    count
}

#[test]
fn what_the_live_stream_has_not_delivered_yet_comes_once() {
    let site = site();
    site.poll_well();
    site.simulator.advance(Duration::minutes(20));
    site.poll_well();
    // Late, and listed by both in the next run.
    let now = site.now();
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    let late = Blob::new(now - Duration::minutes(10), &[record("late")]);
    site.simulator.publish(TENANT, GENERAL, late);
    assert_eq!(times(&site, "late", 3, Duration::minutes(1)), 1);

    // In the backlog of the live stream when it was queued.
    let site = Site::new();
    site.configure_one("<max_output>256k</max_output><max_connections>1</max_connections>");
    for n in 0..20 {
        let mut record = record(&format!("{n}"));
        record["Filler"] = "x".repeat(30_000).into();
        let created = site.now() - Duration::minutes(90 + n);
        site.simulator.publish(TENANT, GENERAL, Blob::new(created, &[record]));
    }
    let mut ids = site.poll_well().ids();
    assert!(ids.len() < 20, "{}", ids.len());
    let delivered = ids.clone();
    site.admin(&["backfill", "--from", "1d"]).well();
    for _ in 0..9 {
        ids.extend(site.poll_well().ids());
    }
    ids.sort();
    let mut expected: Vec<_> = (0..20).map(|n| n.to_string()).chain(delivered).collect();
    expected.sort();
    assert_eq!(ids, expected, "what had been delivered comes once more, the rest once");
}

#[test]
fn between_a_backfill_and_a_live_stream_that_begins_later_is_no_hole() {
    // Time goes on until the first poll.
    let site = site();
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    site.admin(&["status"]).line("to the live stream: waits until the live stream has begun");
    site.simulator.advance(Duration::minutes(10));
    site.publish(GENERAL, Duration::minutes(5), &["between"]);
    assert_eq!(times(&site, "between", 4, Duration::minutes(3)), 1);

    // This machine's clock is late: the first poll finds out.
    let site = self::site();
    site.simulator.advance(Duration::minutes(30));
    site.publish(GENERAL, Duration::minutes(15), &["between"]);
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    assert_eq!(times(&site, "between", 4, Duration::minutes(3)), 1);

    // It is early.
    let site = self::site();
    site.simulator.advance(Duration::minutes(-30));
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    site.poll_well();
    site.simulator.advance(Duration::minutes(10));
    site.publish(GENERAL, Duration::minutes(2), &["live"]);
    assert_eq!(times(&site, "live", 12, Duration::minutes(3)), 1);

    // What becomes listable only after the live stream has begun, but is of before.
    let site = self::site();
    site.poll_well();
    let now = site.now();
    let late = Blob::new(now - Duration::minutes(3), &[record("late")]);
    site.simulator.publish(TENANT, GENERAL, late.listable_at(now + Duration::minutes(5)));
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    assert_eq!(times(&site, "late", 6, Duration::minutes(3)), 1);
}

#[test]
fn a_live_stream_that_fails_has_its_place_all_the_same() {
    let site = site();
    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    let refused = r#"{"error":{"code":"AF20012","message":"m"}}"#;
    site.simulator.fault(Fault::on(Call::Content).content_type(GENERAL).respond(400, refused));
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["2h".to_owned(), "3d".to_owned()]));
    site.simulator.advance(Duration::minutes(5));
    site.publish(GENERAL, Duration::minutes(3), &["after"]);
    assert_eq!(times(&site, "after", 3, Duration::minutes(1)), 1);
}

#[test]
fn what_was_written_comes_again_for_whoever_asks_again() {
    let site = site();
    site.poll_well();
    let args = ["backfill", "--from", "4d", "--content-type", GENERAL];
    for _ in 0..2 {
        site.admin(&args).well();
        assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
        assert_eq!(site.poll_well().text(), "");
    }
}

#[test]
fn a_content_type_that_is_no_longer_configured_keeps_its_backfill_waiting() {
    let site = site();
    site.poll_well();
    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    site.configure_with("", &site.api_auth(TENANT, CLIENT, SECRET), &["DLP.All"]);
    assert_eq!(site.poll_well().text(), "");
    site.admin(&["status"]).line("waits, for its content type is no longer configured");
    assert_eq!(backfills(&site)[0]["configured"], false);
    site.configure("");
    assert_eq!(site.poll_well().ids(), ["2h", "3d"]);
}

#[test]
fn another_name_for_the_tenant_doubles_nothing() {
    let site = site();
    site.poll_well();
    site.simulator.advance(Duration::minutes(30));
    site.publish(GENERAL, Duration::minutes(10), &["once"]);
    site.configure_with("", &site.api_auth("contoso.example", CLIENT, SECRET), &CONTENT_TYPES);
    site.admin(&["backfill", "--from", "1d", "--content-type", GENERAL]).well();
    assert_eq!(times(&site, "once", 3, Duration::minutes(1)), 1);
    let json = site.admin(&["status", "--json"]).json();
    assert_eq!(json["tenants"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn a_live_stream_that_is_set_back_brings_its_part_alone() {
    let site = site();
    site.poll_well();
    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    let args = ["--tenant", TENANT, "--content-type", GENERAL, "--to", "5d"];
    site.admin(&[&["reset"][..], &args].concat()).well();
    assert_eq!(times(&site, "3d", 3, Duration::minutes(1)), 1);
}

#[test]
fn what_leaves_the_7_days_while_it_waits_is_a_gap() {
    let site = site();
    site.poll_well();
    let args = ["backfill", "--from", "7d", "--to", "5d", "--content-type", GENERAL];
    site.admin(&args).well();
    site.simulator.advance(Duration::days(3));
    let run = site.poll();
    assert!(run.told().contains(&"gap Audit.General".to_owned()), "{:?}", run.told());
    assert_eq!(backfills(&site)[0]["gaps"], 1);
}

#[test]
fn a_blob_that_fails_holds_up_no_other_window() {
    let site = site();
    site.poll_well();
    let stuck = site.publish(GENERAL, Duration::days(2), &["stuck"]);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&stuck).respond(404, "x").always());
    for window in [["3d", "1d"], ["7d", "5d"]] {
        let args = ["backfill", "--from", window[0], "--to", window[1], "--content-type", GENERAL];
        site.admin(&args).well();
    }
    assert_eq!(times(&site, "6d", 3, Duration::minutes(1)), 1);
}

#[test]
fn many_backfills_with_much_to_do_stand_in_nobodys_way() {
    const MORE: [&str; 2] =
        ["a1b2c3d4-0000-4000-8000-000000000002", "a1b2c3d4-0000-4000-8000-000000000003"];
    let more = |builder: Builder, id: &&str| builder.tenant(Tenant::new(id, CLIENT, SECRET));
    let site = Site::built(MORE.iter().fold(Simulator::builder(), more));
    let tenants = [TENANT, MORE[0], MORE[1]];
    let auth: String = tenants.iter().map(|id| site.api_auth(id, CLIENT, SECRET)).collect();
    site.configure_with("<max_output>256k</max_output>", &auth, &CONTENT_TYPES);
    site.poll_well();
    for tenant in tenants {
        for name in CONTENT_TYPES {
            for n in 0..1500 {
                let created = site.now() - Duration::seconds(36_000 + 60 * n);
                let blob = Blob::new(created, &[record(&format!("{tenant}{name}{n}"))]);
                site.simulator.publish(tenant, name, blob);
            }
        }
    }
    site.admin(&["backfill", "--from", "5d"]);
    let mut old = BTreeSet::new();
    for run in 0..6 {
        site.simulator.advance(Duration::minutes(1));
        let live = format!("live{run}");
        site.publish(GENERAL, Duration::seconds(1), &[&live]);
        let ids = site.poll_well().ids();
        assert!(ids.contains(&live), "run {run}");
        assert!(ids.len() > 100, "run {run}: {}", ids.len());
        old.extend(ids.iter().filter(|id| id.len() > 40).map(|id| id[..40].to_owned()));
    }
    let served: BTreeSet<_> = old.iter().map(|id| id[..36].to_owned()).collect();
    assert_eq!(served.len(), 3, "each tenant gets its turn: {served:?}");
}

#[test]
fn what_is_queued_already_is_not_queued_again() {
    let site = site();
    site.poll_well();
    let at = |ago: Duration| (site.now() - ago).format(&Rfc3339).unwrap();
    let (week, days, hour) = (at(Duration::days(6)), at(Duration::days(4)), at(Duration::hours(1)));
    let queue = |from: &str, to: &str| {
        site.admin(&["backfill", "--from", from, "--to", to, "--content-type", GENERAL]).well()
    };
    assert!(queue(&days, &hour).contains(": queued: backfill from "));
    assert!(queue(&days, &hour).contains("nothing to do, for all of it is queued already"));
    assert!(queue(&week, &hour).contains("; the rest is queued already"));
    assert_eq!(backfills(&site).len(), 2);
    assert_eq!(times(&site, "3d", 3, Duration::minutes(1)), 1);
}

#[test]
fn a_tenant_that_no_poll_has_seen_yet_is_no_former_one() {
    let site = site();
    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    let status = site.admin(&["status"]);
    assert!(!status.stdout.contains("no longer configured"), "{}", status.stdout);
}

#[test]
fn here_and_now_a_clock_that_is_early_is_no_fault() {
    let site = site();
    site.simulator.advance(Duration::seconds(-20));
    let run = site.admin(&["backfill", "--from", "4d", "--stdout", "--content-type", GENERAL]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn an_estimate_keeps_nobody_waiting_for_a_blob_that_hangs() {
    let site = site();
    site.poll_well();
    site.simulator.fault(Fault::on(Call::Fetch).hang().always());
    let told = site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    assert!(told.contains("That is about 2 events in 2 blobs"), "{told}");
}

#[test]
fn broken_off_is_not_done() {
    let site = site();
    site.simulator.fault(Fault::on(Call::Fetch).hang().always());
    let args = ["backfill", "--from", "4d", "--stdout", "--content-type", GENERAL];
    let mut child = site.admin_command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let fetching = |requests: &[office365_simulator::Request]| {
        requests.iter().any(|request| request.call == Some(Call::Fetch))
    };
    assert!(site.simulator.wait_for(PATIENCE, fetching));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.contains("0 events from 0 blobs; broken off"), "{said}");
}

#[test]
fn a_subscription_that_is_off_is_the_live_streams_matter() {
    let site = site();
    site.simulator.set_subscription(TENANT, GENERAL, None);
    let args = ["backfill", "--from", "4d", "--stdout", "--content-type", GENERAL];
    let run = site.admin(&args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("AF20022") && run.stderr.contains("there is no subscription"));
    assert_eq!(site.calls().get("start"), None, "a look starts nothing");

    site.admin(&["backfill", "--from", "4d", "--content-type", GENERAL]).well();
    // Microsoft takes a while until a start shows.
    let off = r#"{"error":{"code":"AF20023","message":"disabled"}}"#;
    let fault = || Fault::on(Call::Content).content_type(GENERAL).respond(400, off).always();
    site.poll_well();
    assert_eq!(site.calls()["start"], 1, "once, for the two of them");
    site.simulator.fault(fault());
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.admin(&["status"]).code, Some(0));
}

#[test]
fn a_slow_live_stream_comes_before_a_backfill() {
    let site = site();
    site.configure("<max_output>256k</max_output>");
    site.poll_well();
    let put = |ago: Duration, name: &str| {
        let mut record = record(name);
        record["Filler"] = "x".repeat(60_000).into();
        let records = vec![record; 5];
        site.simulator.publish(TENANT, GENERAL, Blob::new(site.now() - ago, &records));
    };
    (1..=40).for_each(|n| put(Duration::hours(3 + n), "old"));
    let args = ["backfill", "--from", "4d", "--to", "2h", "--content-type", GENERAL];
    site.admin(&args).well();
    site.poll_well();
    assert_ne!(backfills(&site)[0]["waiting"], 0, "that could be fetched at once");
    site.simulator.advance(Duration::minutes(2));
    put(Duration::minutes(1), "live");
    let slow = std::time::Duration::from_millis(300);
    site.simulator.fault(Fault::on(Call::Content).content_type(GENERAL).delay(slow));
    let ids = site.poll_well().ids();
    assert_eq!(ids.iter().filter(|id| *id == "live").count(), 5, "{}", ids.len());
}
