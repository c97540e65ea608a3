//! Elements of blobs that can't be events: each is reported once, and all of a blob by one notice, whatever
//! becomes of the run.

use office365_simulator::{Blob, Call, Fault, Simulator};
use time::Duration;

use crate::harness::{Run, Site, TENANT, record};

const GENERAL: &str = "Audit.General";

fn publish(site: &Site, body: impl Into<Vec<u8>>) -> String {
    let blob = Blob::raw(site.now() - Duration::minutes(5), body);
    site.simulator.publish(TENANT, GENERAL, blob)
}

/// What the notices of a run say.
fn told(run: &Run) -> Vec<String> {
    run.notices().iter().map(|n| n["response"].as_str().unwrap().to_owned()).collect()
}

/// The number of elements that notices tell of.
fn count(told: &[String]) -> u64 {
    let of = |text: &String| match text.split_once(" records of ") {
        Some((count, _)) => count.parse::<u64>().unwrap(),
        None => {
            let (_, range) = text.split_once(' ').unwrap();
            let (range, _) = range.split_once(" of content ").unwrap();
            let (first, last) = range.split_once(" to ").unwrap_or((range, range));
            last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap()
        }
    };
    told.iter().map(of).sum()
}

/// `[`, records with an element between each two that can't be an event, `]`.
fn alternating(records: usize) -> String {
    let parts: Vec<_> = (0..records).map(|n| format!("{},{n}", record(&n.to_string()))).collect();
    format!("[{}]", parts.join(","))
}

#[test]
fn a_kilobyte_of_gzip_fills_neither_the_log_nor_wazuh() {
    for unit in ["1,{},", "1,{x},", r#"1,{"Id":"1"},"#] {
        let site = Site::built(Simulator::builder().gzip(true));
        site.configure_one("");
        publish(&site, format!("[{}1]", unit.repeat(138_000)));
        let run = site.poll_well();
        let told = told(&run);
        let log = site.log().len();
        assert!(
            told.len() == 1 && log < 10_000,
            "{unit}: {} notices, {log} bytes of log",
            told.len()
        );
        assert!(
            told[0].len() < 1000 && told[0].contains("record 1 is not a JSON object; "),
            "{}",
            told[0]
        );
        let expected = if unit.contains("{x}") { 276_001 } else { 138_001 };
        assert_eq!(count(&told), expected, "{}", told[0]);
        assert_eq!(site.poll_well().text(), "");
    }
}

#[test]
fn elements_are_reported_once_over_tries_and_runs() {
    let site = Site::new();
    site.configure_one("");
    let body = alternating(2000);
    let id = publish(&site, body.clone());
    // Tried again in the same run, and it goes on there.
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).cut(body.len() / 3));
    let run = site.poll_well();
    assert_eq!((run.events().len(), told(&run).len(), count(&told(&run))), (2000, 1, 2000));

    // Given up for this run: what was passed is reported, and the next run goes on behind it.
    let id = publish(&site, body.clone());
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).always().cut(body.len() / 2));
    let run = site.poll();
    let first = (run.events().len(), count(&told(&run)));
    assert_eq!((run.code, told(&run).len()), (Some(1), 1), "{:?}", told(&run));
    assert!(first.0 < 2000 && first.1.abs_diff(first.0 as u64) <= 1, "{first:?}");
    site.simulator.clear_faults();
    let run = site.poll_well();
    assert_eq!((run.events().len() + first.0, told(&run).len()), (2000, 1));
    assert_eq!(count(&told(&run)) + first.1, 2000, "{:?}", told(&run));
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_run_that_has_written_all_it_may_reports_what_it_has_passed() {
    let site = Site::new();
    site.configure_one("");
    let pair = format!("{},1", record("same"));
    let bytes = 64 << 20;
    let pairs = (bytes - 1) / (pair.len() as u64 + 1);
    let blob = Blob::generated(site.now() - Duration::minutes(5), bytes, pair.into_bytes());
    site.simulator.publish(TENANT, GENERAL, blob);
    let (mut events, mut lost, mut runs) = (0, 0, 0);
    while runs == 0 || site.stream(GENERAL)["waiting"] != serde_json::json!([]) {
        let run = site.poll_well();
        assert_eq!(told(&run).len(), 1, "{:?}", told(&run));
        events += run.lines().len() as u64 - 1;
        lost += count(&told(&run));
        runs += 1;
    }
    assert_eq!((events, lost, runs), (pairs, pairs, 2));
}

#[test]
fn what_a_lost_hand_over_brings_again_is_reported_again_once() {
    let mut site = Site::new();
    site.configure_one("");
    publish(&site, alternating(3));
    let expected = site.poll_well();
    site.restart_wazuh();
    let run = site.poll_well();
    assert_eq!((run.ids(), told(&run)), (expected.ids(), told(&expected)));
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn of_many_blobs_as_many_notices_wait_as_may_and_the_log_counts() {
    let site = Site::new();
    site.configure_one("");
    for n in 0..1100 {
        publish(&site, format!("[{n}]"));
    }
    let mut all = told(&site.poll_well());
    let waiting = site.state()["notices"].as_array().unwrap().len();
    assert_eq!(all.len() + waiting, 1001);
    let log = site.log();
    assert_eq!(log.matches("events are lost").count(), 11, "{log}");
    assert!(
        log.contains("(the last of 991 more lines like this one; the others are not written)"),
        "{log}"
    );
    while site.state()["notices"] != serde_json::json!([]) {
        all.extend(told(&site.poll_well()));
    }
    assert!(all[1000].starts_with("100 records of 100 further content blobs "), "{}", all[1000]);
    assert_eq!(count(&all), 1100);
}
