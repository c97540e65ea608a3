//! What a run wrote is on its way until Wazuh has sent it on.

use std::process::Stdio;

use office365_simulator::{Blob, Call, Fault};
use serde_json::{Value, json};
use time::Duration;

use crate::harness::{PATIENCE, Site, TENANT, record};
use crate::host::{Options, Queue};

const GENERAL: &str = "Audit.General";

fn site(ids: &[&str]) -> Site {
    let site = Site::new();
    site.configure_one("");
    site.publish(GENERAL, Duration::minutes(5), ids);
    site
}

fn handed_over(site: &Site) -> usize {
    site.stream(GENERAL)["handed_over"].as_array().unwrap().len()
}

#[test]
fn the_next_run_under_the_same_daemon_proves_it_sent() {
    let mut site = site(&["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    assert_eq!(handed_over(&site), 1);
    let parent = &site.state()["handover"]["modulesd"];
    assert_eq!(parent["pid"], u64::try_from(site.host().pid().as_raw_pid()).unwrap());
    assert!(parent["started"].is_u64() && parent["boot"].as_str().unwrap().len() == 36);
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(handed_over(&site), 0);
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn what_a_daemon_took_to_its_grave_is_written_again() {
    let mut site = site(&["1", "2"]);
    site.publish(GENERAL, Duration::minutes(3), &[]);
    assert_eq!(site.poll_well().ids(), ["1", "2"]);
    assert_eq!(handed_over(&site), 1, "the empty blob has nothing to lose");
    site.restart_wazuh();
    site.publish(GENERAL, Duration::minutes(1), &["3"]);
    assert_eq!(site.poll_well().ids(), ["1", "2", "3"]);
    // And again, as often as it takes.
    site.restart_wazuh();
    assert_eq!(site.poll_well().ids(), ["1", "2", "3"]);
    assert_eq!(site.poll_well().text(), "");
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_proof_counts_even_if_that_run_is_killed() {
    let mut site = site(&["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    site.simulator.fault(Fault::on(Call::Content).hang());
    let running = site.host().begin(&site.command(), Options::default());
    assert!(site.simulator.wait_for(PATIENCE, |requests| {
        requests.last().is_some_and(|last| last.call == Some(Call::Content) && last.status == 0)
    }));
    running.kill();
    let _ = running.end();
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_run_by_hand_neither_proves_nor_repeats() {
    let mut site = site(&["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    let by_hand = || {
        let mut command = site.command();
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(by_hand(), "");
    site.publish(GENERAL, Duration::minutes(1), &["2"]);
    assert!(by_hand().contains(r#""Id":"2""#));
    assert_eq!(handed_over(&site), 1);
    site.restart_wazuh();
    assert_eq!(site.poll_well().ids(), ["1"], "what was handed over, not what a person has seen");
}

#[test]
fn notices_are_handed_over_like_blobs() {
    let mut site = Site::from_now();
    site.poll_well();
    site.simulator.advance(Duration::days(9));
    assert_eq!(site.poll_well().told().len(), 5);
    site.restart_wazuh();
    assert_eq!(site.poll_well().told().len(), 5);
    assert_eq!(site.poll_well().text(), "");
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_part_of_a_blob_is_handed_over_as_well() {
    let mut site = Site::new();
    site.configure_one("");
    let ids: Vec<_> = (0..2000).map(|n| format!("{n:04}")).collect();
    let records: Vec<_> = ids.iter().map(|id| record(id)).collect();
    let blob = Blob::new(site.now() - Duration::hours(1), &records);
    let id = site.simulator.publish(TENANT, GENERAL, blob);
    let cut = |bytes| Fault::on(Call::Fetch).content_id(&id).times(5).cut(bytes);
    site.simulator.fault(cut(100_000));
    let first = site.poll().ids();
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).cut(300_000));
    let second = site.poll().ids();
    assert!(!first.is_empty() && !second.is_empty());
    assert_eq!(handed_over(&site), 1);
    // The first part is proven, the second isn't.
    site.restart_wazuh();
    let third = site.poll_well().ids();
    assert_eq!(third[..second.len()], second);
    assert_eq!([first, third].concat(), ids);
}

#[test]
fn a_queue_that_was_made_anew_under_the_daemon_stops_everything_until_wazuh_is_restarted() {
    let mut site = site(&["1"]);
    let mut queue = Queue::bind(&site.path(""));
    assert_eq!(site.poll_well().ids(), ["1"]);
    queue.recreate();
    site.publish(GENERAL, Duration::minutes(1), &["2"]);
    site.simulator.clear_requests();
    for _ in 0..2 {
        let run = site.poll();
        assert_eq!((run.code, run.text().as_str()), (Some(1), ""));
    }
    assert!(site.simulator.requests().is_empty());
    assert!(site.log().contains("ERROR: restart Wazuh ("), "{}", site.log());
    assert_eq!(handed_over(&site), 1, "it proves nothing");
    // One that is missing is no verdict: it goes on, and nothing is proven.
    drop(queue);
    let run = site.poll_well();
    assert_eq!(run.ids(), ["2"]);
    assert_eq!(handed_over(&site), 2);
    site.restart_wazuh();
    let _queue = Queue::bind(&site.path(""));
    assert_eq!(site.poll_well().ids(), ["1", "2"]);
    assert_eq!(site.poll_well().text(), "");
    site.restart_wazuh();
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn what_is_handed_over_may_wait_long_for_its_proof() {
    let mut site = site(&["1"]);
    assert_eq!(site.poll_well().ids(), ["1"]);
    // The blob leaves the 7 days meanwhile: nobody can tell whether it arrived.
    site.restart_wazuh();
    site.simulator.advance(Duration::days(8));
    let run = site.poll();
    assert_eq!((run.events().len(), run.told()), (0, vec!["gap Audit.General".to_owned(); 2]));
    assert!(run.notices().iter().any(|notice| notice["content_id"] != Value::Null));
    assert_eq!(site.stream(GENERAL)["waiting"], json!([]));
}
