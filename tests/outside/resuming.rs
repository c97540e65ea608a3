//! Where a run begins and what it leaves to the next one.

use std::fs;

use office365_simulator::{Blob, Call, Fault};
use serde_json::{Value, json};
use time::Duration;

use crate::harness::{CLIENT, SECRET, STATE, Site, TENANT, mode_of, record, write_file};

const GENERAL: &str = "Audit.General";

#[test]
fn only_future_events_starts_now_and_resumes_where_it_ended() {
    let site = Site::from_now();
    site.publish(GENERAL, Duration::minutes(5), &["before"]);
    assert_eq!(site.poll_well().text(), "");
    site.simulator.advance(Duration::minutes(3));
    site.publish(GENERAL, Duration::minutes(1), &["after"]);
    assert_eq!(site.poll_well().ids(), ["after"]);
    // Long after: everything since, and nothing of before.
    site.simulator.advance(Duration::days(3));
    site.publish(GENERAL, Duration::days(2), &["two days ago"]);
    site.publish(GENERAL, Duration::minutes(1), &["now"]);
    assert_eq!(site.poll_well().ids(), ["now", "two days ago"]);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_start_is_saved_even_if_the_sign_in_fails() {
    let site = Site::from_now();
    site.simulator.fault(
        Fault::on(Call::Token).respond(400, r#"{"error":"invalid_request","error_codes":[90002]}"#),
    );
    let run = site.poll();
    assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    assert!(site.log().contains("are tenant_id and client_id swapped"), "{}", site.log());
    site.simulator.advance(Duration::hours(5));
    site.publish(GENERAL, Duration::hours(4), &["meanwhile"]);
    assert_eq!(site.poll_well().ids(), ["meanwhile"]);
}

#[test]
fn a_first_run_of_all_that_there_is_moves_along_until_it_has_listed() {
    let site = Site::new();
    site.simulator.fault(
        Fault::on(Call::Content)
            .content_type(GENERAL)
            .respond(400, r#"{"error":{"code":"AF20012","message":"m"}}"#),
    );
    site.publish(GENERAL, Duration::days(6), &["6 days"]);
    assert_eq!(site.poll().code, Some(1));
    site.simulator.advance(Duration::days(3));
    site.publish(GENERAL, Duration::days(6), &["9-3 days"]);
    let run = site.poll_well();
    assert_eq!(run.ids(), ["9-3 days"]);
    assert!(run.notices().is_empty(), "that is no gap");
}

#[test]
fn the_bookmark_of_wazuhs_own_module_is_taken_over() {
    for (days, only_future, expected) in [
        (2, true, vec!["1 day"]),
        (2, false, vec!["1 day"]),
        (8, true, vec![]),
        (8, false, vec!["1 day", "3 days"]),
        (-1, true, vec![]),
    ] {
        let site = Site::new();
        if only_future {
            site.configure("");
        }
        let bookmark = (site.now() - Duration::days(days)).unix_timestamp().to_ne_bytes();
        let path = site.path(&format!("var/wodles/office365-{TENANT}-{GENERAL}"));
        write_file(&path, &bookmark, 0o600);
        site.publish(GENERAL, Duration::days(1), &["1 day"]);
        site.publish(GENERAL, Duration::days(3), &["3 days"]);
        assert_eq!(
            site.poll_well().ids(),
            expected,
            "{days} days, only_future_events {only_future}"
        );
        assert_eq!(site.poll_well().text(), "");
    }
}

#[test]
fn late_blobs_come_and_none_comes_twice() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(40), &["in time"]);
    let late = Blob::new(site.now() - Duration::minutes(30), &[record("late")])
        .listable_at(site.now() + Duration::minutes(10));
    site.simulator.publish(TENANT, GENERAL, late);
    assert_eq!(site.poll_well().ids(), ["in time"]);
    site.simulator.advance(Duration::minutes(5));
    assert_eq!(site.poll_well().text(), "");
    site.simulator.advance(Duration::minutes(6));
    assert_eq!(site.poll_well().ids(), ["late"]);
    for _ in 0..3 {
        site.simulator.advance(Duration::minutes(30));
        assert_eq!(site.poll_well().text(), "");
    }
}

#[test]
fn lookback_is_as_long_as_configured() {
    for (lookback, expected) in [("5m", vec![]), ("2h", vec!["late"])] {
        let site = Site::new();
        let options =
            format!("<only_future_events>no</only_future_events><lookback>{lookback}</lookback>");
        site.configure(&options);
        let late = Blob::new(site.now() - Duration::minutes(90), &[record("late")])
            .listable_at(site.now() + Duration::minutes(1));
        site.simulator.publish(TENANT, GENERAL, late);
        assert_eq!(site.poll_well().text(), "");
        site.simulator.advance(Duration::minutes(2));
        assert_eq!(site.poll_well().ids(), expected, "{lookback}");
    }
}

#[test]
fn a_blob_at_a_windows_very_start_is_never_taken_in_part() {
    let site = Site::new();
    assert_eq!(site.poll_well().text(), "");
    let listing = site.requests(Call::Content);
    let last = listing.iter().rev().find(|r| r.content_type.as_deref() == Some(GENERAL)).unwrap();
    // Exactly where the next window would start, would it start at the position less lookback.
    let end = last.query("endTime").unwrap();
    let position = time::PrimitiveDateTime::parse(
        &end,
        &time::format_description::well_known::Iso8601::DEFAULT,
    )
    .unwrap()
    .assume_utc();
    let blob = Blob::new(position - Duration::hours(1), &[record("1"), record("2")])
        .partial_at_start(serde_json::to_vec(&[record("1")]).unwrap())
        .listable_at(site.now() + Duration::seconds(30));
    site.simulator.publish(TENANT, GENERAL, blob);
    site.simulator.advance(Duration::seconds(40));
    assert_eq!(site.poll_well().ids(), ["1", "2"]);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn what_left_the_seven_days_is_said_once() {
    let site = Site::from_now();
    site.poll_well();
    site.simulator.advance(Duration::days(9));
    site.publish(GENERAL, Duration::days(6), &["kept"]);
    let run = site.poll_well();
    assert_eq!(run.ids(), ["kept"]);
    assert_eq!(run.notices().len(), 5, "one a stream");
    let notice = &run.notices()[0];
    assert_eq!(notice["notice"], "gap");
    assert!(
        notice["response"]
            .as_str()
            .unwrap()
            .starts_with("no run could list this stream for so long")
    );
    assert!(notice["from"].as_str().unwrap() < notice["to"].as_str().unwrap());
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn content_that_is_gone_is_a_gap_and_holds_up_nothing() {
    let site = Site::new();
    let expired = Blob::new(site.now() - Duration::hours(2), &[record("x")])
        .expires(site.now() - Duration::hours(1));
    let expired = site.simulator.publish(TENANT, GENERAL, expired);
    let missing = site.publish(GENERAL, Duration::hours(1), &["y"]);
    site.simulator.fault(
        Fault::on(Call::Fetch)
            .content_id(&missing)
            .always()
            .respond(404, r#"{"error":{"code":"AF20050","message":"m"}}"#),
    );
    site.publish(GENERAL, Duration::minutes(30), &["z"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["z".to_owned()]));
    assert_eq!(run.notices().len(), 1);
    assert_eq!(run.notices()[0]["content_id"], Value::from(expired));
    assert_eq!(run.notices()[0]["code"], "AF20051");
    // "Doesn't exist" is believed only the second time.
    let run = site.poll();
    assert_eq!((run.code, run.events().len()), (Some(0), 0));
    assert_eq!(run.notices()[0]["content_id"], Value::from(missing));
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_blob_that_fails_waits_and_is_written_when_it_can_be() {
    let site = Site::new();
    site.publish(GENERAL, Duration::hours(1), &["good"]);
    let bad = site.publish(GENERAL, Duration::hours(2), &["bad"]);
    let refuse = || Fault::on(Call::Fetch).content_id(&bad).respond(403, "nonsense");
    site.simulator.fault(refuse().times(2));
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["good".to_owned()]));
    assert_eq!(site.stream(GENERAL)["waiting"].as_array().unwrap().len(), 1);
    assert_eq!(site.poll().code, Some(1));
    assert_eq!(site.poll_well().ids(), ["bad"]);
    assert_eq!(site.stream(GENERAL)["waiting"].as_array().unwrap().len(), 0);
}

#[test]
fn more_blobs_than_may_wait_hold_up_nothing_and_are_found_again() {
    let site = Site::new();
    for n in 0..1100 {
        site.publish(GENERAL, Duration::seconds(3600 + n), &[&format!("{n:04}")]);
    }
    site.publish(GENERAL, Duration::minutes(5), &["new"]);
    site.simulator.fault(Fault::on(Call::Fetch).times(1100).respond(400, "not now"));
    let run = site.poll();
    assert_eq!((run.code, run.events().len()), (Some(1), 1));
    assert_eq!(site.stream(GENERAL)["waiting"].as_array().unwrap().len(), 1000);
    assert_eq!(site.poll_well().events().len(), 1100);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_blob_whose_time_cannot_be_read_comes_once() {
    let site = Site::from_now();
    site.poll_well();
    let uri =
        format!("{}/api/v1.0/{TENANT}/activity/feed/audit/1", site.simulator.management_url());
    let listing =
        format!(r#"[{{"contentId":"1","contentUri":"{uri}","contentCreated":"lately"}}]"#);
    let listed = Fault::on(Call::Content).content_type(GENERAL).always().respond(200, &listing);
    site.simulator.fault(listed);
    let content = serde_json::to_string(&[record("1")]).unwrap();
    site.simulator.fault(Fault::on(Call::Fetch).always().respond(200, &content));
    assert_eq!(site.poll_well().ids(), ["1"]);
    for _ in 0..3 {
        assert_eq!(site.poll_well().text(), "");
        site.simulator.advance(Duration::minutes(10));
    }
}

#[test]
fn a_stream_that_is_configured_again_resumes() {
    let site = Site::from_now();
    let auth = || site.api_auth(TENANT, CLIENT, SECRET);
    site.poll_well();
    site.configure_with("", &auth(), &["DLP.All"]);
    site.publish(GENERAL, Duration::seconds(0), &["meanwhile"]);
    site.simulator.advance(Duration::minutes(10));
    assert_eq!(site.poll_well().text(), "");
    site.configure_with("", &auth(), &["DLP.All", GENERAL]);
    assert_eq!(site.poll_well().ids(), ["meanwhile"]);
}

#[test]
fn a_blob_that_breaks_off_is_not_written_twice() {
    let site = Site::new();
    let ids: Vec<_> = (0..2000).map(|n| format!("{n:04}")).collect();
    let records: Vec<_> = ids.iter().map(|id| record(id)).collect();
    let id = site.simulator.publish(
        TENANT,
        GENERAL,
        Blob::new(site.now() - Duration::hours(1), &records),
    );
    // Once in this run, then in every try of it and of the next.
    let cut = |bytes| Fault::on(Call::Fetch).content_id(&id).cut(bytes);
    site.simulator.fault(cut(150_000));
    assert_eq!(site.poll_well().ids(), ids, "in the same run");

    let site = Site::new();
    let id = site.simulator.publish(
        TENANT,
        GENERAL,
        Blob::new(site.now() - Duration::hours(1), &records),
    );
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).times(5).chunked().cut(150_000));
    let mut seen = site.poll().ids();
    let state = &site.stream(GENERAL)["waiting"][0];
    assert_eq!(state["written"], seen.len(), "{state}");
    seen.extend(site.poll_well().ids());
    assert_eq!(seen, ids, "in the next run");
}

#[test]
fn records_without_an_id_of_a_blob_that_breaks_off_are_written_once_in_a_run() {
    // Which records have an Id; some are no objects, some are left out.
    for (name, has_id) in [("none", 0), ("every tenth", 10), ("all", 1)] {
        let site = Site::new();
        site.configure(
            "<only_future_events>no</only_future_events>\
             <exclude><operation>no</operation></exclude>",
        );
        let filler = "x".repeat(100);
        let element = |n: usize| {
            let id = if has_id > 0 && n.is_multiple_of(has_id) {
                format!(r#""Id":"{n}","#)
            } else {
                String::new()
            };
            match n % 7 {
                3 => "7".to_owned(),
                5 => format!(r#"{{{id}"Operation":"no","n":"{n}"}}"#),
                _ => format!(r#"{{{id}"n":"{n}","filler":"{filler}"}}"#),
            }
        };
        let elements: Vec<_> = (0..3000).map(element).collect();
        let body = format!("[{}]", elements.join(","));
        let blob = Blob::raw(site.now() - Duration::hours(1), body);
        let id = site.simulator.publish(TENANT, GENERAL, blob);
        for bytes in [20_000, 180_000, 190_000] {
            site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).cut(bytes));
        }
        let run = site.poll_well();
        let numbers: Vec<_> =
            run.events().iter().filter_map(|e| e["n"].as_str().map(str::to_owned)).collect();
        let expected: Vec<_> =
            (0..3000).filter(|n| !matches!(n % 7, 3 | 5)).map(|n: usize| n.to_string()).collect();
        assert!(numbers == expected, "{name}: {} of {}", numbers.len(), expected.len());
        let lost = (0..3000).filter(|n| n % 7 == 3).count();
        let told = run.notices();
        assert_eq!(told.len(), 1, "{name}");
        let told = told[0]["response"].as_str().unwrap();
        assert!(told.starts_with(&format!("{lost} records of content ")), "{name}: {told}");
        let excluded = (0..3000).filter(|n| n % 7 == 5).count();
        assert!(
            site.log().contains(&format!("left out by <exclude>: {excluded}")),
            "{name} {}",
            site.log()
        );
    }
}

#[test]
fn records_without_an_id_come_again_in_the_next_run() {
    let site = Site::new();
    let elements: Vec<_> = (0..2000)
        .map(|n| match n {
            500 => r#"{"Id":"500","n":"500"}"#.to_owned(),
            _ => format!(r#"{{"n":"{n}","filler":"{}"}}"#, "x".repeat(100)),
        })
        .collect();
    let blob = Blob::raw(site.now() - Duration::hours(1), format!("[{}]", elements.join(",")));
    let id = site.simulator.publish(TENANT, GENERAL, blob);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).times(5).cut(150_000));
    let numbers = |run: &crate::harness::Run| -> Vec<usize> {
        let number = |event: &Value| event["n"].as_str()?.parse().ok();
        run.events().iter().filter_map(number).collect()
    };
    let run = site.poll();
    assert_eq!(run.code, Some(1));
    let first = numbers(&run);
    assert_eq!(first, (0..first.len()).collect::<Vec<_>>(), "each once in a run");
    assert!(first.len() > 600, "{}", first.len());
    let state = &site.stream(GENERAL)["waiting"][0];
    assert_eq!((&state["written"], &state["last_id"]), (&json!(501), &json!("\"500\"")));
    // From behind the last record that has an Id.
    assert_eq!(numbers(&site.poll_well()), (501..2000).collect::<Vec<_>>());
}

#[test]
fn a_blob_that_changed_since_it_was_begun_is_written_whole() {
    let site = Site::new();
    let records: Vec<_> = (0..2000).map(|n| record(&format!("{n:04}"))).collect();
    let blob = Blob::new(site.now() - Duration::hours(1), &records);
    let id = site.simulator.publish(TENANT, GENERAL, blob);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).cut(150_000));
    let other = serde_json::to_string(&[record("other")]).unwrap();
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).times(2).respond(200, &other));
    let ids = site.poll_well().ids();
    assert_eq!(ids.last().unwrap(), "other");
    assert!(site.log().contains("is not what it was when it was begun"));
}

#[test]
fn the_state_is_private_versioned_and_compact() {
    let site = Site::new();
    for n in 0..500 {
        site.publish(GENERAL, Duration::minutes(30), &[&n.to_string()]);
    }
    site.poll_well();
    site.poll_well();
    for (file, mode) in [
        ("", 0o700),
        ("state.json", 0o600),
        ("state.previous.json", 0o600),
        ("lock", 0o600),
        ("token.json", 0o600),
    ] {
        assert_eq!(mode_of(&site.path("var/wodles/wodle-office365").join(file)), mode, "{file}");
    }
    let state = site.state();
    assert_eq!(state["version"], 1);
    assert_eq!(state["interval"], 60);
    let delivered = site.stream(GENERAL)["delivered"].to_string();
    assert!(delivered.len() <= 500 * 20, "{} bytes", delivered.len());
}

#[test]
fn a_damaged_state_is_never_a_new_beginning() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(30), &["1"]);
    site.poll_well();
    site.poll_well();
    let good = fs::read(site.path(STATE)).unwrap();

    fs::write(site.path(STATE), &good[..good.len() / 2]).unwrap();
    assert_eq!(site.poll_well().text(), "");
    assert!(site.log().contains("its previous copy is used"), "{}", site.log());

    fs::remove_file(site.path(STATE)).unwrap();
    assert_eq!(site.poll_well().text(), "");

    let previous = site.path("var/wodles/wodle-office365/state.previous.json");
    fs::write(site.path(STATE), b"{").unwrap();
    fs::write(&previous, b"").unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.events().len()), (Some(2), 0));
    assert!(site.log().contains("restore one of them from a backup"), "{}", site.log());

    fs::write(&previous, &good).unwrap();
    fs::write(site.path(STATE), br#"{"version":2}"#).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.events().len()), (Some(2), 0));
    assert!(site.log().contains("is of version 2, which this release doesn't know"));
}

#[test]
fn a_state_that_cannot_be_replaced_brings_nothing_again_and_again() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(30), &["1"]);
    site.poll_well();
    site.poll_well();
    fs::remove_file(site.path(STATE)).unwrap();
    fs::create_dir(site.path(STATE)).unwrap();
    site.publish(GENERAL, Duration::seconds(1), &["2"]);
    for _ in 0..2 {
        let run = site.poll();
        assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    }
    assert!(site.log().contains("state.json is a folder: remove it"), "{}", site.log());
    fs::remove_dir(site.path(STATE)).unwrap();
    assert_eq!(site.poll_well().ids(), ["2"]);
}

#[test]
fn a_previous_copy_forgets_no_stream() {
    // There is none of before the first poll: that would begin anew.
    let site = Site::from_now();
    site.poll_well();
    fs::write(site.path(STATE), b"{").unwrap();
    assert_eq!(site.poll().code, Some(2), "{}", site.log());

    // And a stream that it lacks has begun since.
    let site = Site::from_now();
    let auth = || site.api_auth(TENANT, CLIENT, SECRET);
    site.configure_with("", &auth(), &["DLP.All"]);
    site.poll_well();
    site.simulator.advance(Duration::minutes(1));
    site.configure_with("", &auth(), &["DLP.All", GENERAL]);
    site.poll_well();
    site.simulator.advance(Duration::minutes(10));
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    fs::write(site.path(STATE), b"{").unwrap();
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_run_that_cannot_save_fetches_and_writes_nothing() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(30), &["1"]);
    // A folder where the temporary file should be: refused to root as well.
    fs::create_dir_all(site.path("var/wodles/wodle-office365/state.json.new")).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    assert!(site.simulator.requests().is_empty());
    assert!(site.log().contains("the state can't be saved"), "{}", site.log());
    fs::remove_dir(site.path("var/wodles/wodle-office365/state.json.new")).unwrap();
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_failed_write_saves_nothing() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(30), &["1"]);
    assert_eq!(site.poll_cut(0).code, Some(1));
    assert!(site.log().contains("writing the events failed"), "{}", site.log());
    assert_eq!(site.state()["tenants"], json!({}));
    // Under Wazuh SIGPIPE is ignored; here it isn't.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(site.command().stdout(writer).status().unwrap().code(), Some(1));
    assert_eq!(site.state()["tenants"], json!({}));
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn positions_go_by_the_apis_clock() {
    for hours in [-3, 3] {
        let site = Site::from_now();
        site.simulator.advance(Duration::hours(hours));
        site.poll_well();
        assert!(site.log().contains("this machine's clock is 3.0 h "), "{}", site.log());
        site.simulator.advance(Duration::minutes(5));
        site.publish(GENERAL, Duration::minutes(2), &["new"]);
        assert_eq!(site.poll_well().ids(), ["new"], "{hours} h");
        let position = site.stream(GENERAL)["position"].as_str().unwrap().to_owned();
        let now = site.now().format(&time::format_description::well_known::Rfc3339).unwrap();
        assert!(position[..19] <= now[..19], "{position} {now}");
    }
}

#[test]
fn a_date_that_was_wrong_for_a_run_loses_nothing_and_repeats_nothing() {
    for (minutes, lookback) in
        [(10, "5m"), (180, "1h"), (60 * 24 * 30, "1h"), (-10, "5m"), (-180, "1h")]
    {
        let site = Site::new();
        let options =
            format!("<only_future_events>no</only_future_events><lookback>{lookback}</lookback>");
        site.configure(&options);
        site.publish(GENERAL, Duration::minutes(2), &["before"]);
        assert_eq!(site.poll_well().ids(), ["before"]);
        // One run with the wrong time, in which a blob is delivered or not, then the right one.
        let early = Blob::new(site.now() - Duration::seconds(90), &[record("0")]);
        site.simulator.publish(TENANT, GENERAL, early);
        site.simulator.advance(Duration::minutes(minutes));
        let mut ids = site.poll().ids();
        site.simulator.advance(Duration::minutes(-minutes));
        for (seconds, id) in [(60, "1"), (5, "2")] {
            site.publish(GENERAL, Duration::seconds(seconds), &[id]);
        }
        for _ in 0..3 {
            ids.extend(site.poll().ids());
        }
        ids.sort();
        assert_eq!(ids, ["0", "1", "2"], "{minutes} {}", site.log());
    }
}

#[test]
fn what_a_run_with_too_early_a_date_delivered_does_not_come_again() {
    let site = Site::new();
    site.configure_one("");
    // This machine's clock is wrong as well, so it corrects nothing.
    site.simulator.advance(Duration::days(8));
    // So many runs until the API is believed all the same, and the stream has begun.
    for _ in 0..12 {
        assert_eq!(site.poll_well().text(), "");
    }
    site.publish(GENERAL, Duration::minutes(20), &["1"]);
    site.simulator.set_date_error(Duration::hours(-3));
    assert_eq!(site.poll().ids(), ["1"]);
    site.simulator.set_date_error(Duration::ZERO);
    site.simulator.advance(Duration::hours(23));
    site.publish(GENERAL, Duration::minutes(30), &["2"]);
    assert_eq!(site.poll().ids(), ["2"]);
    // A day later another wrong date sends listing back to where delivered blobs are known from.
    site.simulator.set_date_error(Duration::hours(3));
    let mut again = site.poll().ids();
    site.simulator.set_date_error(Duration::ZERO);
    for _ in 0..4 {
        again.extend(site.poll().ids());
    }
    assert!(site.log().contains("Microsoft's clock has gone back by "), "{}", site.log());
    assert_eq!(again, [""; 0]);
}

#[test]
fn a_tenant_that_was_configured_by_its_guid_may_be_named_by_its_domain() {
    let site = Site::from_now();
    site.poll_well();
    site.publish(GENERAL, Duration::seconds(0), &["1"]);
    site.simulator.advance(Duration::minutes(5));
    let auth = site.api_auth("contoso.example", CLIENT, SECRET);
    site.configure_with("", &auth, &[GENERAL]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    assert_eq!(site.state()["tenants"].as_object().unwrap().len(), 1);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_failed_write_outweighs_a_run_that_is_over_anyway() {
    let site = Site::new();
    site.configure(
        "<only_future_events>no</only_future_events><max_output>256k</max_output>\
         <max_connections>2</max_connections>",
    );
    let line = serde_json::to_vec(&record("x")).unwrap();
    let created = site.now() - Duration::minutes(5);
    // Each more than the pipe and the reader take together, so that a write fails for sure.
    for _ in 0..2 {
        let blob = Blob::generated(created, 3 << 20, line.clone());
        site.simulator.publish(TENANT, GENERAL, blob);
    }
    // A reader that goes before the run has written all that it may.
    assert_eq!(site.poll_cut(250 << 10).code, Some(1));
    assert_eq!(site.state()["tenants"], json!({}));
}
