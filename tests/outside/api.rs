//! How the API is called: seldom, politely, and with the token to nobody else.

use std::collections::BTreeMap;

use office365_simulator::{Blob, CONTENT_TYPES, Call, Fault, Simulator, Tenant};
use time::Duration;

use crate::harness::{CLIENT, SECRET, Site, TENANT, record};

const GENERAL: &str = "Audit.General";

#[test]
fn an_idle_cycle_of_five_streams_is_five_requests_on_one_connection() {
    let site = Site::from_now();
    site.poll_well();
    site.simulator.clear_requests();
    let before = site.simulator.connections();
    site.poll_well();
    assert_eq!(format!("{:?}", site.calls()), r#"{"content": 5}"#);
    assert_eq!(site.simulator.connections() - before, 1);
}

#[test]
fn the_token_is_kept_until_five_minutes_before_it_ends() {
    let site = Site::from_now();
    site.poll_well();
    site.poll_well();
    assert_eq!(site.calls()["token"], 1);
    site.simulator.advance(Duration::seconds(3599 - 300 - 30));
    site.poll_well();
    assert_eq!(site.calls()["token"], 1);
    site.simulator.advance(Duration::seconds(60));
    // The first of the two learns of the new time.
    site.poll_well();
    site.poll_well();
    assert_eq!(site.calls()["token"], 2);
}

#[test]
fn a_token_of_another_sign_in_is_not_used() {
    let site = Site::built(Simulator::builder().tenant(Tenant::new(
        "a1b2c3d4-0000-4000-8000-00000000000b",
        "b",
        "b",
    )));
    site.poll_well();
    site.configure_with("", &site.api_auth(TENANT, "other-client", SECRET), &[GENERAL]);
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("AADSTS700016"), "{}", site.log());
    assert_eq!(site.calls()["token"], 2);
}

#[test]
fn a_token_that_is_no_longer_taken_is_renewed_once() {
    let site = Site::from_now();
    site.poll_well();
    site.simulator.revoke_tokens(TENANT);
    site.publish(GENERAL, Duration::seconds(0), &["1"]);
    site.simulator.advance(Duration::seconds(2));
    assert_eq!(site.poll_well().ids(), ["1"]);
    assert_eq!(site.calls()["token"], 2);
    // And not for ever.
    site.simulator.clear_requests();
    site.simulator.fault(Fault::on(Call::Content).always().respond(401, ""));
    assert_eq!(site.poll().code, Some(1));
    assert_eq!(site.calls()["token"], 1);
    assert_eq!(site.calls()["content"], 6, "one renewal, then each stream once");
}

#[test]
fn many_workers_renew_a_token_together() {
    let site = Site::new();
    for n in 0..40 {
        site.publish(GENERAL, Duration::minutes(30), &[&format!("{n:02}")]);
    }
    site.simulator.fault(Fault::on(Call::Fetch).times(40).respond(400, "not now"));
    assert_eq!(site.poll().text(), "");
    // All of them wait, so that every worker begins with a token that is no good.
    site.simulator.revoke_tokens(TENANT);
    assert_eq!(site.poll_well().ids().len(), 40);
    assert_eq!(site.calls()["token"], 2);
}

#[test]
fn a_token_without_consent_is_named_and_not_kept() {
    let site = Site::new();
    site.simulator.set_roles(TENANT, &["ActivityFeed.Read"]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    site.publish("DLP.All", Duration::minutes(5), &["2"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert!(site.log().contains("the token lacks ActivityFeed.ReadDlp"), "{}", site.log());
    site.simulator.set_roles(TENANT, &["ActivityFeed.Read", "ActivityFeed.ReadDlp"]);
    assert_eq!(site.poll().ids(), ["2"], "consent is noticed at once");
    assert_eq!(site.calls()["token"], 2, "{}", site.log());
}

#[test]
fn subscriptions_are_started_only_when_missing_and_listed_every_quarter_of_an_hour() {
    let site = Site::from_now();
    site.simulator.set_subscription(TENANT, "Audit.Exchange", Some("enabled"));
    site.simulator.set_subscription(TENANT, "DLP.All", Some("disabled"));
    site.poll_well();
    let started: Vec<_> =
        site.requests(Call::Start).into_iter().filter_map(|r| r.content_type).collect();
    assert_eq!(started, ["Audit.AzureActiveDirectory", "Audit.SharePoint", GENERAL, "DLP.All"]);
    for content_type in CONTENT_TYPES {
        assert_eq!(site.simulator.subscription(TENANT, content_type).as_deref(), Some("enabled"));
    }
    site.simulator.advance(Duration::minutes(14));
    site.poll_well();
    assert_eq!((site.calls()["list"], site.calls()["start"]), (1, 4));
    site.simulator.advance(Duration::minutes(2));
    site.poll_well();
    assert_eq!((site.calls()["list"], site.calls()["start"]), (2, 4));
}

#[test]
fn a_subscription_that_was_stopped_is_started_again() {
    let site = Site::from_now();
    site.poll_well();
    site.simulator.advance(Duration::minutes(1));
    site.simulator.set_subscription(TENANT, GENERAL, Some("disabled"));
    // Started less than 15 minutes ago: not again, and no fault.
    site.poll_well();
    assert_eq!(site.calls()["start"], 5);
    site.simulator.advance(Duration::minutes(20));
    site.publish(GENERAL, Duration::minutes(1), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    assert_eq!(site.calls()["start"], 6);
}

#[test]
fn an_enabled_subscription_is_as_good_as_a_started_one() {
    let site = Site::new();
    site.simulator.fault(Fault::on(Call::Start).always().respond(400, r#"{"error":{"code":"AF20024","message":"The subscription is already enabled. No property change."}}"#));
    for content_type in CONTENT_TYPES {
        site.simulator.set_subscription(TENANT, content_type, Some("enabled"));
    }
    site.simulator.fault(Fault::on(Call::List).respond(200, "[]"));
    site.publish(GENERAL, Duration::minutes(1), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn passing_faults_are_tried_again_within_the_run() {
    for fault in [
        Fault::on(Call::Token).respond(503, "busy"),
        Fault::on(Call::Token).drop_connection(),
        Fault::on(Call::List).respond(500, r#"{"error":{"code":"AF50000","message":"m"}}"#),
        Fault::on(Call::Start).respond(502, "<html>"),
        Fault::on(Call::Content).respond(408, ""),
        Fault::on(Call::Content).drop_connection(),
        Fault::on(Call::Content).cut(1),
        Fault::on(Call::Content).respond(200, "<html>captive</html>"),
        Fault::on(Call::Content).respond(429, "").header("Retry-After", "1"),
        Fault::on(Call::Page).respond(400, r#"{"error":{"code":"AF20031","message":"m"}}"#),
        Fault::on(Call::Fetch)
            .respond(403, r#"{"error":{"code":"AF429","message":"Too many requests."}}"#)
            .header("Retry-After", "0"),
        Fault::on(Call::Fetch).respond(200, r#"{"error":{"code":"AF50005","message":"m"}}"#),
        Fault::on(Call::Fetch).respond(200, ""),
        Fault::on(Call::Fetch).cut(10),
        Fault::on(Call::Fetch).chunked().cut(10),
    ] {
        let site = Site::new();
        site.simulator.set_page_size(1);
        site.configure_with(
            "<only_future_events>no</only_future_events>",
            &site.api_auth(TENANT, CLIENT, SECRET),
            &[GENERAL],
        );
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        site.publish(GENERAL, Duration::minutes(5), &["2"]);
        let name = format!("{fault:?}");
        site.simulator.fault(fault);
        let run = site.poll();
        assert_eq!(
            (run.code, run.ids()),
            (Some(0), vec!["1".to_owned(), "2".to_owned()]),
            "{name}\n{}",
            site.log()
        );
    }
}

#[test]
fn a_stream_that_fails_holds_up_no_other() {
    let site = Site::new();
    let refuse =
        r#"{"error":{"code":"AF20020","message":"The specified content type is not valid."}}"#;
    site.simulator
        .fault(Fault::on(Call::Content).content_type("DLP.All").always().respond(400, refuse));
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    let log = site.log();
    assert!(log.contains(&format!("ERROR: {TENANT} DLP.All: content can't be listed: HTTP 400 AF20020 The specified content type is not valid. - ")), "{log}");
}

#[test]
fn a_tenant_that_fails_holds_up_no_other() {
    let dead = "a1b2c3d4-0000-4000-8000-0000000000dd";
    let site = Site::new();
    let auth = site.api_auth(dead, CLIENT, "x") + &site.api_auth(TENANT, CLIENT, SECRET);
    site.configure_with("<only_future_events>no</only_future_events>", &auth, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert!(
        site.log().contains(&format!("ERROR: {dead}: sign-in failed: HTTP 400 AADSTS90002")),
        "{}",
        site.log()
    );
}

#[test]
fn a_tenant_may_be_named_by_its_domain() {
    let site = Site::new();
    site.configure_with(
        "<only_future_events>no</only_future_events>",
        &site.api_auth("Contoso.example", CLIENT, SECRET),
        &[GENERAL],
    );
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    // By its GUID it is the same tenant.
    site.configure("");
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn the_token_goes_to_no_other_origin_and_no_redirect_is_followed() {
    let stranger = Simulator::builder().start().unwrap();
    let site = Site::new();
    let uri = format!("{}/api/v1.0/{TENANT}/activity/feed/audit/1", stranger.management_url());
    let blob = Blob::new(site.now() - Duration::minutes(5), &[record("1")]).uri(uri);
    site.simulator.publish(TENANT, GENERAL, blob);
    site.simulator.fault(
        Fault::on(Call::Content)
            .content_type("DLP.All")
            .respond(302, "")
            .header("Location", &stranger.management_url()),
    );
    site.simulator.fault(
        Fault::on(Call::Content)
            .content_type("Audit.Exchange")
            .respond(200, "[]")
            .header("NextPageUri", &stranger.management_url()),
    );
    let run = site.poll();
    assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    assert!(stranger.requests().is_empty());
    let log = site.log();
    assert_eq!(log.matches("the API hands out an address that is not at").count(), 2, "{log}");
    assert!(log.contains("a redirect, which is never followed with a token"), "{log}");
}

#[test]
fn an_answer_that_is_too_large_is_refused() {
    let site = Site::new();
    let mut page = vec![b' '; 17 << 20];
    page.extend(b"[]");
    site.simulator
        .fault(Fault::on(Call::Content).content_type(GENERAL).always().respond_bytes(200, &page));
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("larger than 16777216 bytes"), "{}", site.log());
}

#[test]
fn a_page_that_links_to_itself_ends() {
    let site = Site::new();
    let link = format!("{}/api/v1.0/{TENANT}/activity/feed/x", site.simulator.management_url());
    site.simulator.fault(
        Fault::on(Call::Content)
            .content_type(GENERAL)
            .respond(200, "[]")
            .header("NextPageUri", &link),
    );
    site.configure_with(
        "<only_future_events>no</only_future_events>",
        &site.api_auth(TENANT, CLIENT, SECRET),
        &[GENERAL],
    );
    assert_eq!(site.poll().code, Some(1));
}

#[test]
fn nothing_that_a_server_says_makes_it_panic() {
    for (name, value) in [
        ("Retry-After", "18446744073709551615"),
        ("Retry-After", "-1"),
        ("Date", "Thu, 01 Jan 0001 00:00:00 GMT"),
        ("Date", "soon"),
        ("NextPageUri", "\u{fffd}"),
        ("NextPageUri", "http://[::1"),
        ("Content-Type", "x"),
    ] {
        let site = Site::new();
        let options = "<run_timeout>10s</run_timeout>";
        site.configure_with(options, &site.api_auth(TENANT, CLIENT, SECRET), &[GENERAL]);
        let (status, body) = if name == "Retry-After" { (429, "") } else { (200, "[]") };
        site.simulator.fault(Fault::on(Call::Content).respond(status, body).header(name, value));
        let run = site.poll();
        assert!(matches!(run.code, Some(0 | 1)), "{name}: {value}");
        assert_eq!(run.text(), "");
        assert!(!site.log().contains("fault of wodle-office365"), "{}", site.log());
    }
}

#[test]
fn a_start_that_comes_too_often_is_waited_for() {
    let site = Site::new();
    let body =
        r#"{"error":{"code":"AF429","message":"Too many frequent subscription start requests"}}"#;
    site.simulator.fault(Fault::on(Call::Start).always().respond(403, body));
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.calls()["start"], 5, "each once");
}

#[test]
fn a_window_that_the_api_finds_too_old_is_clamped() {
    let site = Site::new();
    let options = "<only_future_events>no</only_future_events>";
    site.configure_with(options, &site.api_auth(TENANT, CLIENT, SECRET), &[GENERAL]);
    let body = r#"{"error":{"code":"AF20055","message":"m"}}"#;
    site.simulator.fault(Fault::on(Call::Content).times(2).respond(400, body));
    site.publish(GENERAL, Duration::days(6), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    let starts: Vec<_> =
        site.requests(Call::Content).iter().filter_map(|r| r.query("startTime")).take(3).collect();
    assert!(starts[0] < starts[1] && starts[1] < starts[2], "{starts:?}");
}

#[test]
fn two_names_of_one_tenant_do_not_bring_every_event_twice() {
    let site = Site::new();
    let auth =
        site.api_auth(TENANT, CLIENT, SECRET) + &site.api_auth("contoso.example", CLIENT, SECRET);
    site.configure_with("<only_future_events>no</only_future_events>", &auth, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert!(site.log().contains("it is the same tenant as "), "{}", site.log());
}

#[test]
fn a_pause_outlives_the_run_and_is_told() {
    let site = Site::new();
    let body = r#"{"error":{"code":"AF429","message":"Too many requests."}}"#;
    let slow_down = Fault::on(Call::Fetch).respond(403, body).header("Retry-After", "3600");
    site.simulator.fault(slow_down);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("the API asked to slow down, for 3"), "{}", site.log());
    site.simulator.clear_requests();
    assert_eq!(site.poll().code, Some(1));
    assert!(site.simulator.requests().is_empty());
    let state = std::fs::read_to_string(site.path(crate::harness::STATE)).unwrap();
    let since = state.find("\"pause\":{\"since\":\"").unwrap() + 18;
    let with_since = |year: &str| format!("{}{year}{}", &state[..since], &state[since + 4..]);
    // Long over; or of a clock that was put right since, so that nobody knows.
    for year in ["2001", "2999"] {
        std::fs::write(site.path(crate::harness::STATE), with_since(year)).unwrap();
        assert_eq!(site.poll_well().ids(), ["1"], "{year}");
    }
}

#[test]
fn a_pause_of_one_tenant_holds_up_no_other() {
    let other = "a1b2c3d4-0000-4000-8000-00000000000b";
    let site = Site::built(Simulator::builder().tenant(Tenant::new(other, CLIENT, SECRET)));
    let auth = site.api_auth(TENANT, CLIENT, SECRET) + &site.api_auth(other, CLIENT, SECRET);
    site.configure_with("<only_future_events>no</only_future_events>", &auth, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let blob = Blob::new(site.now() - Duration::minutes(5), &[record("2")]);
    site.simulator.publish(other, GENERAL, blob);
    let slow_down = Fault::on(Call::Content).tenant(TENANT).respond(429, "");
    site.simulator.fault(slow_down.header("Retry-After", "250"));
    // A run of five minutes, less than PATIENCE: it does not wait for it.
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["2".to_owned()]));
}

#[test]
fn a_waiting_blob_is_tried_once_a_run_whatever_the_answer() {
    for (status, body) in [(403, r#"{"error":{"code":"AF429","message":"m"}}"#), (500, "")] {
        let site = Site::new();
        site.configure_one("");
        let id = site.publish(GENERAL, Duration::minutes(5), &["1"]);
        let fault = || Fault::on(Call::Fetch).content_id(&id);
        site.simulator.fault(fault().respond(404, "why it waits"));
        assert_eq!(site.poll().code, Some(1));
        site.simulator.fault(fault().always().respond(status, body));
        site.simulator.clear_requests();
        assert_eq!(site.poll().code, Some(1));
        assert_eq!(site.calls()["fetch"], 1, "{status}");
    }
}

#[test]
fn a_blob_that_waits_is_told_with_what_it_ran_into() {
    let site = Site::new();
    site.configure_one("");
    let id = site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let fault = || Fault::on(Call::Fetch).content_id(&id).always().respond(404, "a gateway's");
    site.simulator.fault(fault());
    // Ten runs try it, the eleventh doesn't. What a listing ran into meanwhile is another matter.
    for run in 0..13 {
        if run == 11 {
            let refusal = r#"{"error":{"code":"AF20012","message":"m"}}"#;
            site.simulator.fault(Fault::on(Call::Content).respond(400, refusal));
        }
        assert_eq!(site.poll().code, Some(1));
    }
    let why = site.stream(GENERAL)["health"]["last_error"].clone();
    let expected = format!("content {id} can't be fetched: HTTP 404 a gateway's - ");
    assert!(why.as_str().unwrap().starts_with(&expected), "{why}");
}

#[test]
fn a_busy_server_pauses_the_tenant_for_as_long_as_it_says() {
    let site = Site::new();
    let options = "<run_timeout>10s</run_timeout>";
    site.configure_with(options, &site.api_auth(TENANT, CLIENT, SECRET), &[GENERAL]);
    let busy = Fault::on(Call::Content).respond(503, "busy").header("Retry-After", "60");
    site.simulator.fault(busy);
    assert_eq!(site.poll().code, Some(1));
    assert_eq!(site.calls()["content"], 1);
}

#[test]
fn a_listing_without_an_end_is_given_up() {
    for (call, body, link) in [
        (Call::Page, r#"{"error":{"code":"AF20031","message":"m"}}"#, None),
        (Call::Page, "[]", Some("again")),
    ] {
        let site = Site::new();
        site.simulator.set_page_size(1);
        let auth = site.api_auth(TENANT, CLIENT, SECRET);
        let options = "<only_future_events>no</only_future_events>";
        site.configure_with(options, &auth, &[GENERAL]);
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        site.publish(GENERAL, Duration::minutes(4), &["2"]);
        let root = format!("{}/api/v1.0/{TENANT}", site.simulator.management_url());
        let status = if link.is_some() { 200 } else { 400 };
        let mut fault = Fault::on(call).always().respond(status, body);
        if let Some(link) = link {
            fault = fault.header(
                "NextPageUri",
                &format!("{root}/activity/feed/subscriptions/content?nextPage={link}"),
            );
        }
        site.simulator.fault(fault);
        assert_eq!(site.poll().code, Some(1), "{}", site.log());
        assert!(site.calls()["page"] <= 10, "{:?}", site.calls());
    }
}

#[test]
fn blobs_that_hang_hold_up_no_new_one() {
    let site = Site::new();
    let hanging: Vec<_> = (0..8)
        .map(|n| site.publish(GENERAL, Duration::minutes(30), &[&format!("hangs {n}")]))
        .collect();
    for id in &hanging {
        site.simulator.fault(Fault::on(Call::Fetch).content_id(id).respond(400, "not now"));
        site.simulator.fault(Fault::on(Call::Fetch).content_id(id).hang());
    }
    assert_eq!(site.poll().text(), "");
    for n in 0..5 {
        site.publish(GENERAL, Duration::seconds(1), &[&format!("new {n}")]);
    }
    site.configure("<run_timeout>10s</run_timeout>");
    let run = site.poll();
    assert_eq!((run.code, run.ids().len()), (Some(1), 5));
}

#[test]
fn blobs_that_hang_from_the_first_hold_up_new_ones_for_one_run_only() {
    let site = Site::new();
    site.configure_one("<run_timeout>10s</run_timeout><max_connections>2</max_connections>");
    for n in 0..2 {
        let id = site.publish(GENERAL, Duration::minutes(30 - n), &[&format!("hangs {n}")]);
        site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).always().hang());
    }
    assert_eq!(site.poll().code, Some(1));
    site.publish(GENERAL, Duration::seconds(1), &["new"]);
    assert_eq!(site.poll().ids(), ["new"], "{}", site.log());
}

#[test]
fn a_stream_whose_listing_hangs_holds_up_no_other() {
    let site = Site::new();
    let options = "<run_timeout>10s</run_timeout><only_future_events>no</only_future_events>";
    site.configure(options);
    let hangs = Fault::on(Call::Content).content_type("Audit.AzureActiveDirectory").hang();
    site.simulator.fault(hangs.always());
    for content_type in &CONTENT_TYPES[1..] {
        site.publish(content_type, Duration::minutes(5), &[content_type]);
    }
    let run = site.poll();
    assert_eq!((run.code, run.ids().len()), (Some(1), 4), "{}", site.log());
}

#[test]
fn tenants_that_hang_do_not_starve_the_others_for_ever() {
    let guid = |n: usize| format!("a1b2c3d4-0000-4000-8000-0000000000{n:02}");
    let mut builder = Simulator::builder();
    for n in 2..8 {
        builder = builder.tenant(Tenant::new(&guid(n), CLIENT, SECRET));
    }
    let site = Site::built(builder);
    let auth: String = (2..8).map(|n| site.api_auth(&guid(n), CLIENT, SECRET)).collect();
    let options = "<run_timeout>10s</run_timeout><max_connections>4</max_connections>\
                   <only_future_events>no</only_future_events>";
    site.configure_with(options, &auth, &[GENERAL]);
    for n in 2..8 {
        let hangs = Fault::on(Call::Content).tenant(&guid(n)).always().hang();
        if n < 6 {
            site.simulator.fault(hangs);
        }
        let blob = Blob::new(site.now() - Duration::minutes(5), &[record(&guid(n))]);
        site.simulator.publish(&guid(n), GENERAL, blob);
    }
    let mut seen = site.poll().ids();
    seen.extend(site.poll().ids());
    seen.sort();
    assert_eq!(seen, [guid(6), guid(7)], "{}", site.log());
}

#[test]
fn a_subscription_that_cannot_be_started_is_a_failure_until_it_can() {
    let site = Site::new();
    let body =
        r#"{"error":{"code":"StartSubscription [CorrId=x]","message":"Tenant x does not exist."}}"#;
    site.simulator.fault(Fault::on(Call::Start).content_type(GENERAL).respond(400, body));
    for _ in 0..3 {
        assert_eq!(site.poll().code, Some(1));
    }
    assert_eq!(site.log().matches("auditing is off for this tenant").count(), 3, "{}", site.log());
    assert_eq!(site.stream(GENERAL)["health"]["failures"], 3);
    assert_eq!(site.stream(GENERAL)["health"]["last_success"], serde_json::Value::Null);
    site.simulator.advance(Duration::minutes(16));
    site.publish(GENERAL, Duration::minutes(1), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_tenant_without_a_token_is_not_starved_by_full_queues() {
    let site = Site::new();
    let mut guids = Vec::new();
    let mut auth = String::new();
    for n in 2..14 {
        let guid = format!("a1b2c3d4-0000-4000-8000-0000000000{n:02}");
        auth += &site.api_auth(&guid, CLIENT, "unknown here");
        guids.push(guid);
    }
    auth += &site.api_auth(TENANT, CLIENT, SECRET);
    site.configure_with("<only_future_events>no</only_future_events>", &auth, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    assert_eq!(site.poll().ids(), ["1"]);
    // Each of the dead ones has as many blobs waiting as it may.
    let mut state = site.state();
    for guid in &guids {
        let waiting: Vec<_> = (0..1000)
            .map(|n| {
                serde_json::json!({"id": n.to_string(), "uri": "x", "created": "2026-11-23T00:00:00Z", "expires": "2099-01-01T00:00:00Z"})
            })
            .collect();
        state["tenants"][guid]["streams"][GENERAL]["waiting"] = waiting.into();
    }
    std::fs::write(site.path(crate::harness::STATE), state.to_string()).unwrap();
    std::fs::remove_file(site.path("var/wodles/wodle-office365/token.json")).unwrap();
    site.publish(GENERAL, Duration::seconds(1), &["2"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["2".to_owned()]));
    assert_eq!(site.log().matches("sign-in failed").count(), 24, "{}", site.log());
}

#[test]
fn two_names_with_a_token_each_are_one_tenant_from_the_start() {
    let site = Site::new();
    let by_domain = site.api_auth("contoso.example", CLIENT, SECRET);
    let options = "<only_future_events>no</only_future_events>";
    site.configure_with(options, &by_domain, &[GENERAL]);
    site.poll_well();
    // As two workers leave them that sign in at once.
    let path = site.path("var/wodles/wodle-office365/token.json");
    let mut tokens: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut second = tokens[0].clone();
    second["tenant_id"] = TENANT.into();
    tokens.as_array_mut().unwrap().push(second);
    std::fs::write(&path, tokens.to_string()).unwrap();
    let both = by_domain + &site.api_auth(TENANT, CLIENT, SECRET);
    site.configure_with(options, &both, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert!(site.log().contains("it is the same tenant as contoso.example"), "{}", site.log());
}

#[test]
fn a_second_name_of_a_tenant_takes_nothing_from_the_first() {
    let site = Site::new();
    let by_domain = site.api_auth("contoso.example", CLIENT, SECRET);
    let options = "<only_future_events>no</only_future_events>";
    site.configure_with(options, &by_domain, &[GENERAL]);
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    let both = site.api_auth(TENANT, CLIENT, SECRET) + &by_domain;
    site.configure_with(options, &both, &[GENERAL]);
    let run = site.poll();
    assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    site.configure_with(options, &by_domain, &[GENERAL]);
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_token_that_is_too_long_to_be_sent_is_said_and_not_tried_again() {
    let site = Site::new();
    site.configure_one("");
    let token = "x".repeat(40_000);
    let body = format!(r#"{{"access_token":"{token}","expires_in":3600,"token_type":"Bearer"}}"#);
    site.simulator.fault(Fault::on(Call::Token).always().respond(200, &body));
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("the token is longer than the 16 KiB"), "{}", site.log());
    assert_eq!(site.calls(), BTreeMap::from([("token", 1)]), "{}", site.log());
}
