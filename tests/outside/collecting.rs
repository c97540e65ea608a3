//! What comes out: every event, in its envelope, as it was sent.

use office365_simulator::{Blob, CONTENT_TYPES, Simulator, Tenant};
use time::Duration;

use crate::harness::{Site, TENANT, record};

#[test]
fn every_content_type_comes_with_its_name_and_a_second_run_brings_nothing() {
    let site = Site::new();
    for (n, content_type) in CONTENT_TYPES.iter().enumerate() {
        site.publish(content_type, Duration::minutes(5), &[&format!("{n}a"), &format!("{n}b")]);
    }
    let run = site.poll_well();
    assert_eq!(run.ids(), ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"]);
    for event in run.events() {
        let n: usize = event["Id"].as_str().unwrap()[..1].parse().unwrap();
        assert_eq!(event["Subscription"], CONTENT_TYPES[n]);
    }
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn records_come_byte_for_byte_but_for_white_space() {
    let body = "\u{feff}\r\n[ {\n  \"Id\" : \"1\",\t\"z\":1234567890.125 , \"Price\": 1.10,\r\n\
        \"big\":123456789012345678901234567890,\"e\":-1.0E+5,\"Subscription\":\"mine\",\
        \"esc\":\"\\u003c\\/\\\\ \\\" \\ud83d\\ude00\",\"uni\":\"zażółć 日本 😀\",\
        \"a\":[ 1 , [ ] , { } ,null , true,\"x  y\"] }\n ,\n {\"Id\":\"2\"}\n]\n";
    let site = Site::new();
    let blob = Blob::raw(site.now() - Duration::minutes(5), body);
    site.simulator.publish(TENANT, "Audit.Exchange", blob);
    site.configure("<only_future_events>no</only_future_events><normalize>no</normalize>");
    let expected = concat!(
        r#"{"integration":"office365","office365":{"Id":"1","z":1234567890.125,"Price":1.10,"#,
        r#""big":123456789012345678901234567890,"e":-1.0E+5,"#,
        r#""esc":"\u003c\/\\ \" \ud83d\ude00","uni":"zażółć 日本 😀","#,
        r#""a":[1,[],{},null,true,"x  y"],"Subscription":"Audit.Exchange"}}"#,
        "\n",
        r#"{"integration":"office365","office365":{"Id":"2","Subscription":"Audit.Exchange"}}"#,
        "\n"
    );
    assert_eq!(site.poll_well().text(), expected);
}

#[test]
fn nothing_in_a_record_can_break_its_line() {
    let body = b"[{\"Id\":\"1\",\"t\":\"a\nb\0c\x1b\",\"u\":\"x\xffy\"},7,{\"Id\":\"2\"},{\"bad\":tru},[]]";
    let site = Site::new();
    site.simulator.publish(
        TENANT,
        "Audit.General",
        Blob::raw(site.now() - Duration::minutes(5), body),
    );
    let run = site.poll_well();
    assert_eq!(run.ids(), ["1", "2"]);
    let text = run.text();
    assert!(text.contains(r#"{"Id":"1","t":"a\u000ab\ufffdc\u001b","u":"x�y","#), "{text}");
    let lost: Vec<_> =
        run.notices().iter().map(|n| n["response"].as_str().unwrap().to_owned()).collect();
    assert_eq!(lost.len(), 1);
    assert!(
        lost[0].starts_with("3 records of content ")
            && lost[0].ends_with(
                " can't be events: record 2 is not a JSON object; record 4 is not valid JSON (11 \
                 bytes); record 5 is not a JSON object; the records around them are delivered"
            ),
        "{lost:?}"
    );
    for notice in run.notices() {
        assert_eq!(
            (notice["notice"].as_str(), notice["tenant_id"].as_str()),
            (Some("gap"), Some(TENANT))
        );
        assert_eq!(notice["subscription_name"], "Audit.General");
        assert!(notice["content_id"].as_str().unwrap().contains('$'));
    }
    assert!(site.log().contains("events are lost: 3 records of content "), "{}", site.log());
}

#[test]
fn empty_listings_and_empty_blobs_are_no_events_and_no_faults() {
    let site = Site::new();
    site.publish("Audit.SharePoint", Duration::minutes(5), &[]);
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.calls()["fetch"], 1);
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(site.calls()["fetch"], 1, "an empty blob is delivered as well");
}

#[test]
fn pages_of_any_size_are_followed_to_the_last_even_over_empty_ones() {
    for size in [1, 2, 7, 600] {
        let site = Site::new();
        site.simulator.set_page_size(size);
        site.simulator.set_empty_first_page(true);
        let ids: Vec<_> = (0..15).map(|n| format!("{n:02}")).collect();
        for id in &ids {
            site.publish("Audit.General", Duration::minutes(5), &[id]);
        }
        assert_eq!(site.poll_well().ids(), ids, "pages of {size}");
    }
}

#[test]
fn a_week_is_listed_in_windows_of_a_day() {
    let site = Site::built(Simulator::builder().lookback_grace(Duration::ZERO));
    let mut ids = Vec::new();
    for hours in (1..=167).step_by(7) {
        ids.push(format!("{hours:03}"));
        site.publish("Audit.General", Duration::hours(hours), &[&ids[ids.len() - 1]]);
    }
    // On the seams of the windows, as near as the clock allows.
    for days in 1..7 {
        ids.push(format!("seam{days}"));
        site.publish("Audit.General", Duration::days(days), &[&ids[ids.len() - 1]]);
    }
    let run = site.poll_well();
    assert_eq!(run.ids(), ids);
    assert_eq!(run.notices(), Vec::<serde_json::Value>::new());
    for request in site.requests(office365_simulator::Call::Content) {
        assert_eq!(request.status, 200, "{}", request.target);
        assert_eq!(request.query("PublisherIdentifier").as_deref(), Some(TENANT));
    }
}

#[test]
fn several_tenants_are_collected_side_by_side() {
    let others: Vec<_> =
        (2..6).map(|n| format!("a1b2c3d4-0000-4000-8000-00000000000{n}")).collect();
    let mut builder = Simulator::builder();
    for (n, guid) in others.iter().enumerate() {
        builder = builder.tenant(Tenant::new(guid, &format!("client-{n}"), &format!("secret-{n}")));
    }
    let site = Site::built(builder);
    let mut auth = String::new();
    for (n, guid) in others.iter().enumerate() {
        auth += &site.api_auth(guid, &format!("client-{n}"), &format!("secret-{n}"));
        let blob = Blob::new(site.now() - Duration::hours(1), &[record(&format!("event-{n}"))]);
        site.simulator.publish(guid, "Audit.General", blob);
    }
    site.configure_with(
        "<only_future_events>no</only_future_events>",
        &auth,
        &["Audit.General", "DLP.All"],
    );
    assert_eq!(site.poll_well().ids(), ["event-0", "event-1", "event-2", "event-3"]);
    assert_eq!(site.poll_well().text(), "");
    for request in site.requests(office365_simulator::Call::Fetch) {
        assert_eq!(request.query("PublisherIdentifier").unwrap(), request.tenant);
    }
}

#[test]
fn a_large_blob_streams_through_and_gzip_is_asked_for() {
    let site = Site::built(Simulator::builder().gzip(true));
    let created = site.now() - Duration::minutes(5);
    let line = serde_json::to_vec(&record("same")).unwrap();
    site.simulator.publish(
        TENANT,
        "Audit.General",
        Blob::generated(created, 5 << 20, line.clone()),
    );
    let run = site.poll_well();
    assert!(run.output.len() > 5 << 20);
    assert!(run.events().len() >= (5 << 20) / (line.len() + 1));
    let fetch = &site.requests(office365_simulator::Call::Fetch)[0];
    assert_eq!(fetch.header("Accept-Encoding"), Some("gzip"));
}

#[test]
fn max_output_ends_a_run_between_blobs_and_the_next_one_goes_on() {
    let site = Site::new();
    site.configure("<only_future_events>no</only_future_events><max_output>256k</max_output><max_connections>1</max_connections>");
    let created = site.now() - Duration::minutes(5);
    for content_type in ["Audit.General", "Audit.Exchange"] {
        for _ in 0..3 {
            let line = serde_json::to_vec(&record("x")).unwrap();
            site.simulator.publish(TENANT, content_type, Blob::generated(created, 200 << 10, line));
        }
    }
    let counts: Vec<_> = (0..4).map(|_| site.poll_well().events().len()).collect();
    assert!(counts[0] == counts[1] && counts[1] == counts[2] && counts[3] == 0, "{counts:?}");
    assert!(site.log().contains("stopped by max_output, the next run goes on"));
    assert_eq!(site.requests(office365_simulator::Call::Fetch).len(), 6);
}

#[test]
fn a_configuration_may_come_by_stdin() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg("exec \"$0\" poll --home . --config - < etc/wodle-office365.conf");
    shell
        .arg(crate::harness::binary())
        .current_dir(site.path(""))
        .env_clear()
        .env("PATH", "/bin:/usr/bin");
    assert_eq!(site.run(&shell).ids(), ["1"], "{}", site.log());
}

#[test]
fn streams_take_turns_from_run_to_run() {
    for connections in [1, 2] {
        let site = Site::new();
        site.configure(&format!(
            "<only_future_events>no</only_future_events><max_output>256k</max_output>\
             <max_connections>{connections}</max_connections>"
        ));
        let created = site.now() - Duration::minutes(5);
        let streams = ["Audit.General", "Audit.Exchange", "Audit.SharePoint"];
        for content_type in streams {
            for _ in 0..4 {
                let line = serde_json::to_vec(&record("x")).unwrap();
                let blob = Blob::generated(created, 300 << 10, line);
                site.simulator.publish(TENANT, content_type, blob);
            }
        }
        let mut served = Vec::new();
        for _ in 0..3 {
            let events = site.poll_well().events();
            let name =
                |event: &serde_json::Value| event["Subscription"].as_str().unwrap().to_owned();
            served.extend(events.iter().map(name));
        }
        for content_type in streams {
            assert!(served.iter().any(|name| name == content_type), "{connections} {content_type}");
        }
    }
}

#[test]
fn runs_that_can_only_list_a_little_get_everywhere_by_and_by() {
    let site = Site::built(Simulator::builder().delay(std::time::Duration::from_secs(3)));
    site.configure("<run_timeout>10s</run_timeout><max_connections>1</max_connections>");
    for content_type in CONTENT_TYPES {
        site.simulator.set_subscription(TENANT, content_type, Some("enabled"));
    }
    // Six requests, of which a run has time for three or four.
    for _ in 0..3 {
        site.poll_well();
    }
    for content_type in CONTENT_TYPES {
        assert!(site.stream(content_type)["health"]["last_success"].is_string(), "{content_type}");
    }
}
