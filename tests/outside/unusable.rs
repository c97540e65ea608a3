//! What an answer says that is there and cannot be used: it is never taken for absent, and loses nothing.

use std::thread;

use office365_simulator::{Blob, Call, Endless, Fault};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::harness::{Run, Site, TENANT, record, write_file};

const GENERAL: &str = "Audit.General";

const CALLS: [Call; 6] =
    [Call::Token, Call::List, Call::Start, Call::Content, Call::Page, Call::Fetch];

fn blob(site: &Site, ago: Duration, id: &str) -> Blob {
    Blob::new(site.now() - ago, &[record(id)])
}

fn publish(site: &Site, blob: Blob) -> String {
    site.simulator.publish(TENANT, GENERAL, blob)
}

/// As [`Site::poll`], with all answers' `Date` as given.
fn poll_dated(site: &Site, date: &str) -> Run {
    for call in CALLS {
        site.simulator.fault(Fault::on(call).always().header("Date", date));
    }
    let run = site.poll();
    site.simulator.clear_faults();
    run
}

/// The values of the header `NextPageUri`, given an address of the API's.
type Links = fn(&str) -> Vec<String>;

#[test]
fn a_link_to_the_next_page_that_cannot_be_used_is_never_the_end_of_a_listing() {
    let own = |site: &Site| format!("{}/api/v1.0/x?nextPage=1", site.simulator.management_url());
    let links: [(&str, Links); 6] = [
        ("not ASCII", |own| vec![format!("{own}\u{e9}")]),
        ("empty", |_| vec![String::new()]),
        ("blank", |_| vec![" ".to_owned()]),
        ("not absolute", |_| vec!["/api/v1.0/x".to_owned()]),
        ("no address", |_| vec!["next page".to_owned()]),
        ("twice", |own| vec![own.to_owned(), own.to_owned()]),
    ];
    let play = |name: &str, links: Links, lasts: bool| {
        let site = Site::new();
        site.configure_one("<run_timeout>30s</run_timeout>");
        site.poll_well();
        site.simulator.set_page_size(1);
        site.publish(GENERAL, Duration::minutes(9), &["1"]);
        site.publish(GENERAL, Duration::minutes(5), &["2"]);
        let fault = Fault::on(Call::Content);
        let fault = if lasts { fault.always() } else { fault };
        let add = |fault: Fault, link: &String| fault.header("NextPageUri", link);
        site.simulator.fault(links(&own(&site)).iter().fold(fault, add));
        let run = site.poll();
        if lasts {
            assert_eq!((run.code, run.ids()), (Some(1), vec![]), "{name}\n{}", site.log());
            let log = site.log();
            assert!(log.contains(GENERAL) && log.contains("header NextPageUri"), "{name} {log}");
            site.simulator.clear_faults();
            assert_eq!(site.poll_well().ids(), ["1", "2"], "{name}: the position stays");
        } else {
            assert_eq!((run.code, run.ids()), (Some(0), vec!["1".into(), "2".into()]), "{name}");
        }
        assert_eq!(site.poll_well().text(), "");
    };
    // Each request is tried for some seconds.
    thread::scope(|scope| {
        for (name, links) in links {
            for lasts in [false, true] {
                scope.spawn(move || play(name, links, lasts));
            }
        }
    });
}

#[test]
fn a_pause_that_is_asked_for_in_no_usable_way_is_a_long_one() {
    for value in ["soon", "-5", "1.5", "", "Sat, 99 Nov 2026 00:00:00 GMT", "\u{b2}"] {
        let site = Site::new();
        site.configure_one("");
        let body = r#"{"error":{"code":"AF429","message":"Too many requests. Method=X"}}"#;
        let fault = Fault::on(Call::Content).respond(429, body).header("Retry-After", value);
        site.simulator.fault(fault);
        assert_eq!(site.poll().code, Some(1), "{value}");
        let pause = site.state()["tenants"][TENANT]["pause"]["seconds"].as_u64();
        assert!(pause.is_some_and(|seconds| (50..90).contains(&seconds)), "{value}: {pause:?}");
        assert!(site.log().contains("Retry-After of an answer"), "{value} {}", site.log());
    }
}

#[test]
fn a_date_that_cannot_be_used_is_warned_of() {
    for date in ["yesterday", "", "Sat, 23 May 2015", "23-05-2015T17:35:00Z", "d\u{e9}c"] {
        let site = Site::new();
        site.configure_one("");
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        let run = poll_dated(&site, date);
        assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{date}");
        let log = site.log();
        assert!(log.contains("WARNING: Microsoft's answers do not tell the time"), "{date} {log}");
        site.clear_log();
        assert_eq!(site.poll_well().text(), "");
        assert!(!site.log().contains("do not tell the time"));
    }
}

#[test]
fn a_subscription_whose_status_cannot_be_read_is_started_only_if_its_listing_says_that_it_is_off() {
    let item = |status: Value| json!([{"contentType": GENERAL, "status": status}]).to_string();
    for list in [
        item(json!(7)),
        item(json!(["enabled"])),
        item(json!("")),
        json!([{"status": "enabled"}]).to_string(),
        json!([{"contentType": {}, "status": 1}]).to_string(),
    ] {
        for is_on in [true, false] {
            let site = Site::new();
            site.configure_one("");
            let status = if is_on { "enabled" } else { "disabled" };
            site.simulator.set_subscription(TENANT, GENERAL, Some(status));
            site.publish(GENERAL, Duration::minutes(5), &["1"]);
            site.simulator.fault(Fault::on(Call::List).always().respond(200, &list));
            let runs = [site.poll(), site.poll()];
            let ids: Vec<_> = runs.iter().flat_map(Run::ids).collect();
            assert_eq!(ids, ["1"], "{list} {is_on}\n{}", site.log());
            assert_eq!(site.requests(Call::Start).len(), usize::from(!is_on), "{list} {is_on}");
            assert_eq!(runs[1].code, Some(0), "{list} {is_on}");
        }
    }
}

/// Times of creation that say nothing of a blob.
fn useless_times(site: &Site) -> Vec<Option<Value>> {
    let days = |days| (site.now() + Duration::days(days)).date().to_string();
    vec![
        None,
        Some(Value::Null),
        Some(json!(7)),
        Some(json!({"a": [1]})),
        Some(json!("")),
        Some(json!("0001-01-01T00:00:00")),
        Some(json!("9999-12-31T23:59:59.999Z")),
        // Inside the first window that lists it, and before the next one.
        Some(json!(
            (site.now() - Duration::hours(3))
                .format(&time::format_description::well_known::Rfc3339)
                .unwrap()
        )),
        Some(json!(format!("{}T00:00:00", days(-30)))),
        Some(json!(format!("{}T00:00:00", days(30)))),
    ]
}

#[test]
fn whatever_the_time_of_creation_of_a_blob_says_it_is_delivered_once() {
    for index in 0..useless_times(&Site::new()).len() {
        for always in [false, true] {
            let site = Site::new();
            site.configure_one("");
            let time = useless_times(&site).remove(index);
            let place = |blob: Blob| {
                let blob = blob.listed_as("contentCreated", time.clone());
                if always { blob.always_listed() } else { blob }
            };
            publish(&site, place(blob(&site, Duration::days(5), "backlog")));
            publish(&site, place(blob(&site, Duration::minutes(30), "new")));
            let name = format!("{time:?}, in every window: {always}");
            let mut ids = site.poll_well().ids();
            for minutes in [1, 30, 59, 61, 90, 600, 3000] {
                site.simulator.advance(Duration::minutes(minutes));
                ids.extend(site.poll_well().ids());
            }
            ids.sort();
            assert_eq!(ids, ["backlog", "new"], "{name}\n{}", site.log());
        }
    }
}

#[test]
fn a_blob_without_a_usable_time_that_fails_waits_and_is_delivered_once() {
    let site = Site::new();
    site.configure_one("");
    let time = Some(json!("0001-01-01T00:00:00"));
    let blob = blob(&site, Duration::days(3), "1").listed_as("contentCreated", time);
    let id = publish(&site, blob.always_listed());
    let refuse = Fault::on(Call::Fetch).content_id(&id).times(4).respond(403, "nonsense");
    site.simulator.fault(refuse);
    for _ in 0..4 {
        let run = site.poll();
        assert_eq!((run.code, run.events().len()), (Some(1), 0), "{}", site.log());
        assert!(!run.told().contains(&format!("gap {GENERAL}")));
        site.simulator.advance(Duration::hours(2));
    }
    assert_eq!(site.poll_well().ids(), ["1"]);
    for _ in 0..4 {
        site.simulator.advance(Duration::hours(2));
        assert_eq!(site.poll_well().text(), "");
    }
}

#[test]
fn a_backfill_brings_a_blob_without_a_usable_time() {
    let site = Site::from_now();
    site.simulator.set_subscription(TENANT, GENERAL, Some("enabled"));
    site.poll_well();
    let time = Some(json!("0001-01-01T00:00:00"));
    publish(&site, blob(&site, Duration::days(2), "1").listed_as("contentCreated", time));
    site.admin(&["backfill", "--from", "3d", "--content-type", GENERAL]).well();
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.extend(site.poll_well().ids());
        site.simulator.advance(Duration::minutes(30));
    }
    assert_eq!(ids, ["1"]);
}

#[test]
fn an_expiry_in_the_past_makes_no_gap_of_a_failure() {
    for expiry in [json!("0001-01-01T00:00:00"), json!("2001-01-01T00:00:00Z"), json!(7)] {
        let site = Site::new();
        site.configure_one("");
        let blob = blob(&site, Duration::hours(1), "1");
        let id = publish(&site, blob.listed_as("contentExpiration", Some(expiry.clone())));
        site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).respond(400, "nonsense"));
        let run = site.poll();
        assert_eq!((run.code, run.text().as_str()), (Some(1), ""), "{expiry}");
        assert_eq!(site.poll_well().ids(), ["1"], "{expiry}");
    }
}

#[test]
fn a_blob_that_fails_for_seven_days_and_is_over_its_expiry_is_a_gap() {
    let site = Site::new();
    site.configure_one("");
    let id = site.publish(GENERAL, Duration::hours(1), &["1"]);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).always().respond(400, "nonsense"));
    let is_gap = || site.poll().told().contains(&format!("gap {GENERAL}"));
    assert!(!is_gap());
    site.simulator.advance(Duration::hours(7 * 24 - 1));
    assert!(!is_gap() && !is_gap());
    site.simulator.advance(Duration::hours(2));
    // The time is another one than in the last run: it must be told twice. And before the blob is tried,
    // which may come first in a run.
    assert!(!is_gap() && (0..4).any(|_| is_gap()));
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_wrong_date_in_one_answer_of_the_first_run_loses_nothing_of_a_backlog() {
    let format = time::format_description::well_known::Rfc2822;
    for (skip, times) in [(0, 1), (1, 1), (2, 1), (3, 2), (6, 1)] {
        for days in [30, 10, 1, -1, -30] {
            let site = Site::new();
            site.configure_one("");
            let mut expected: Vec<_> = (0..13).map(|n| format!("{n}")).collect();
            for (n, id) in (0..).zip(&expected) {
                site.publish(GENERAL, Duration::hours(1 + 12 * n), &[id]);
            }
            let date = (site.now() + Duration::days(days)).format(&format).unwrap();
            let fault = Fault::on(Call::Content).skip(skip).times(times);
            site.simulator.fault(fault.header("Date", &date.replace("+0000", "GMT")));
            let runs: Vec<_> = (0..4).map(|_| site.poll()).collect();
            let mut ids: Vec<_> = runs.iter().flat_map(Run::ids).collect();
            ids.sort();
            expected.sort();
            let name = format!("answer {skip}, {days} days");
            assert_eq!(ids, expected, "{name}\n{}", site.log());
            assert!(!runs.iter().flat_map(Run::told).any(|told| told.starts_with("gap")), "{name}");
            assert!(site.log().contains("the answers of the API tell different times"), "{name}");
        }
    }
}

#[test]
fn a_wrong_date_in_the_first_run_loses_nothing_of_a_backlog() {
    let format = |time: OffsetDateTime| {
        time.format(&time::format_description::well_known::Rfc2822).unwrap().replace("+0000", "GMT")
    };
    let ago = [10, 60, 60 * 30, 60 * 100, 60 * 24 * 7 - 30];
    for hours in [24 * 400, 24 * 30, 24 * 3, 2, -2, -12, -24 * 3, -24 * 30, -24 * 3000] {
        for bookmark in [None, Some(Duration::days(2))] {
            for runs in [1, 3] {
                let site = Site::new();
                site.configure_one("<run_timeout>30s</run_timeout>");
                let mut expected: Vec<String> = ago
                    .iter()
                    .filter(|minutes| bookmark.is_none_or(|at| Duration::minutes(**minutes) < at))
                    .map(|minutes| {
                        let id = minutes.to_string();
                        site.publish(GENERAL, Duration::minutes(*minutes), &[&id]);
                        id
                    })
                    .collect();
                if let Some(ago) = bookmark {
                    let path = format!("var/wodles/office365-{TENANT}-{GENERAL}");
                    let at = (site.now() - ago).unix_timestamp().to_ne_bytes();
                    write_file(&site.path(&path), &at, 0o600);
                    site.publish(GENERAL, Duration::days(3), &["before the bookmark"]);
                }
                let mut ids = Vec::new();
                let mut told = Vec::new();
                let mut take = |run: &Run| {
                    ids.extend(run.ids());
                    told.extend(run.told());
                };
                for _ in 0..runs {
                    take(&poll_dated(&site, &format(site.now() + Duration::hours(hours))));
                }
                for _ in 0..3 {
                    take(&site.poll_well());
                }
                ids.sort();
                expected.sort();
                let name = format!("{hours} h, bookmark {bookmark:?}, {runs} runs");
                assert_eq!(ids, expected, "{name}\n{}", site.log());
                assert!(!told.iter().any(|told| told.starts_with("gap")), "{name} {told:?}");
            }
        }
    }
}

#[test]
fn a_listing_without_an_end_is_a_failure_after_a_hundred_pages() {
    for (endless, blobs) in
        [(Endless::Empty, 0), (Endless::Empty, 3), (Endless::Again, 0), (Endless::Again, 3)]
    {
        for was_delivered in [false, true] {
            let site = Site::new();
            site.configure_one("<run_timeout>30s</run_timeout>");
            let ids: Vec<_> = (0..blobs).map(|n| n.to_string()).collect();
            for id in &ids {
                site.publish(GENERAL, Duration::minutes(9), &[id]);
            }
            let name = format!("{endless:?} {blobs} {was_delivered}");
            if was_delivered {
                assert_eq!(site.poll_well().ids(), ids);
            }
            site.simulator.set_endless(Some(endless));
            let before = site.requests(Call::Page).len();
            let run = site.poll();
            assert_eq!(run.code, Some(1), "{name}\n{}", site.log());
            // The first run of all lists other windows first.
            let seen = [run.ids(), if was_delivered { ids.clone() } else { vec![] }].concat();
            let pages = site.requests(Call::Page).len() - before;
            assert!((99..=101).contains(&pages), "{name}: {pages}");
            let log = site.log();
            assert!(
                log.contains(GENERAL) && log.contains("the listing has no end"),
                "{name} {log}"
            );
            site.simulator.set_endless(None);
            site.publish(GENERAL, Duration::minutes(1), &["more"]);
            let mut all = [seen, site.poll_well().ids()].concat();
            all.sort();
            assert_eq!(all, [ids, vec!["more".to_owned()]].concat(), "{name}");
        }
    }
}

#[test]
fn hundreds_of_pages_of_what_was_delivered_before_are_no_endless_listing() {
    let site = Site::new();
    site.configure_one("");
    for n in 0..400 {
        site.publish(GENERAL, Duration::seconds(120 + n), &[&format!("{n:03}")]);
    }
    assert_eq!(site.poll_well().events().len(), 400);
    site.simulator.set_page_size(1);
    site.publish(GENERAL, Duration::minutes(1), &["more"]);
    assert_eq!(site.poll_well().ids(), ["more"]);
    assert!(site.requests(Call::Page).len() >= 400);
}
