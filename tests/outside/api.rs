//! How the API is called: seldom, politely, and with the token to nobody else.

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
    assert_eq!(site.calls()["token"], 3, "{}", site.log());
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
