//! Tokens that can't be used: none of them stands in its tenant's way for longer than the run.

use std::fs;

use office365_simulator::{Call, Fault};
use serde_json::{Value, json};
use time::Duration;

use crate::harness::{Site, TENANT, write_file};

const FILE: &str = "var/wodles/wodle-office365/token.json";

fn kept(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.path(FILE)).unwrap()).unwrap()
}

fn site() -> Site {
    let site = Site::new();
    site.configure_one("");
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    site
}

#[test]
fn a_token_that_no_request_can_carry_is_a_failed_sign_in_and_is_not_kept() {
    for (token, why) in [
        ("x".repeat(16_385), "the token is longer than the 16 KiB that a request can carry"),
        ("x".repeat(40_000), "the token is longer than the 16 KiB that a request can carry"),
        ("x".repeat(900_000), "the token is longer than the 16 KiB that a request can carry"),
        ("a\r\nb: c".to_owned(), "the token holds characters that no token may hold"),
        ("tökén".to_owned(), "the token holds characters that no token may hold"),
    ] {
        let site = site();
        let answer = json!({ "access_token": token, "expires_in": 86_399 }).to_string();
        site.simulator.fault(Fault::on(Call::Token).always().respond(200, &answer));
        let run = site.poll();
        assert_eq!((run.code, run.text().as_str()), (Some(1), ""), "{why}");
        assert!(
            site.log().contains(&format!("ERROR: {TENANT}: sign-in failed: ")),
            "{}",
            site.log()
        );
        assert!(site.log().contains(why), "{}", site.log());
        site.simulator.clear_faults();
        assert_eq!(site.poll_well().ids(), ["1"], "the next run signs in");
    }
}

#[test]
fn a_kept_token_that_no_request_can_carry_is_dropped() {
    for token in ["x".repeat(40_000), "x".repeat(20_000), "a\nb".to_owned(), String::new()] {
        let site = site();
        site.poll_well();
        let mut tokens = kept(&site);
        tokens[0]["token"] = token.into();
        write_file(&site.path(FILE), tokens.to_string().as_bytes(), 0o600);
        site.publish("Audit.General", Duration::minutes(5), &["2"]);
        assert_eq!(site.poll_well().ids(), ["2"]);
        assert_eq!(site.requests(Call::Token).len(), 2);
        assert!(kept(&site)[0]["token"].as_str().unwrap().starts_with("ey"));
    }
}

#[test]
fn a_token_that_the_api_finds_too_long_is_replaced() {
    let http_sys = "<h2>Bad Request - Request Too Long</h2><hr><p>HTTP Error 400. The size of the request \
                    headers is too long.</p>";
    for (status, body) in [(431, ""), (400, http_sys)] {
        for call in [Call::List, Call::Content, Call::Fetch] {
            let site = Site::new();
            site.configure_one("");
            site.poll_well();
            site.publish("Audit.General", Duration::minutes(5), &["1"]);
            // So that the subscriptions are listed again.
            site.simulator.advance(Duration::minutes(16));
            site.simulator.fault(Fault::on(call).respond(status, body));
            assert_eq!(site.poll_well().ids(), ["1"], "{status} {call:?}: {}", site.log());
            assert_eq!(site.requests(Call::Token).len(), 2);
            // It doesn't ask for tokens for ever, nor start a subscription more often.
            site.simulator.fault(Fault::on(call).always().respond(status, body));
            site.publish("Audit.General", Duration::minutes(5), &["2"]);
            site.poll();
            assert!(site.requests(Call::Token).len() <= 3, "{status} {call:?}");
        }
    }
}
