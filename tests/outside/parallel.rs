//! Requests side by side: how many, of what, and in how much memory.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use office365_simulator::{Blob, Call, Fault, Request};
use time::Duration;

use crate::harness::{PATIENCE, Site, TENANT, record};
use crate::host::{Options, Running};

const GENERAL: &str = "Audit.General";

/// A site that its first run has got to know, so that the next one only lists and fetches.
fn known(options: &str) -> Site {
    let site = Site::new();
    site.configure_one(options);
    assert_eq!(site.poll_well().text(), "");
    site.simulator.clear_requests();
    site
}

/// Waits until so many requests of a kind have come.
fn wait_for(site: &Site, call: Call, many: usize) {
    let came = site.simulator.wait_for(PATIENCE, |requests| {
        requests.iter().filter(|request| request.call == Some(call)).count() >= many
    });
    assert!(came, "{}", site.log());
}

fn begin(site: &Site) -> Running<'_> {
    site.host().begin(&site.command(), Options::default())
}

fn terminate(running: Running<'_>) {
    running.terminate();
    let run = running.end();
    assert_eq!((run.code, run.signal), (Some(0), None), "{}", run.text());
}

/// The names of the threads that do a run's jobs.
fn workers(running: &Running<'_>) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("worker")).collect()
}

#[test]
fn as_many_requests_are_in_flight_as_there_may_be_connections_and_no_more() {
    let site = known("<max_connections>3</max_connections>");
    for n in 0..10 {
        site.publish(GENERAL, Duration::minutes(20 - n), &["x"]);
    }
    site.simulator.fault(Fault::on(Call::Fetch).always().hang());
    let running = begin(&site);
    wait_for(&site, Call::Fetch, 3);
    assert_eq!(workers(&running).len(), 3);
    terminate(running);
    assert_eq!(site.requests(Call::Fetch).len(), 3);
}

#[test]
fn a_run_with_nothing_new_works_with_one_thread() {
    let site = known("");
    site.simulator.fault(Fault::on(Call::Content).hang());
    let running = begin(&site);
    wait_for(&site, Call::Content, 1);
    assert_eq!(workers(&running).len(), 1);
    terminate(running);
}

#[test]
fn blobs_are_fetched_while_the_next_page_is_still_being_listed() {
    let site = known("");
    site.simulator.set_page_size(2);
    for id in ["1", "2", "3"] {
        site.publish(GENERAL, Duration::minutes(5), &[id]);
    }
    site.simulator.fault(Fault::on(Call::Page).hang());
    let running = begin(&site);
    wait_for(&site, Call::Page, 1);
    wait_for(&site, Call::Fetch, 2);
    terminate(running);
}

#[test]
fn what_is_to_be_tried_again_does_not_wait_for_what_hangs() {
    let site = known("");
    let hangs = site.publish(GENERAL, Duration::minutes(6), &["hangs"]);
    let fails = site.publish(GENERAL, Duration::minutes(5), &["fails"]);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&hangs).hang());
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&fails).respond(503, "").times(2));
    let running = begin(&site);
    // One thread hangs, the other has nothing to do but that.
    wait_for(&site, Call::Fetch, 4);
    terminate(running);
}

#[test]
fn blobs_that_failed_before_have_a_quarter_of_the_connections_while_new_ones_may_be_listed() {
    let site = known("");
    for n in 0..10 {
        site.publish(GENERAL, Duration::minutes(20 - n), &["x"]);
    }
    site.simulator.fault(Fault::on(Call::Fetch).always().respond(400, "not now"));
    assert_eq!(site.poll().code, Some(1));
    site.simulator.clear_faults();
    site.simulator.clear_requests();
    site.simulator.fault(Fault::on(Call::Fetch).always().hang());
    site.simulator.fault(Fault::on(Call::Content).hang());
    let running = begin(&site);
    wait_for(&site, Call::Fetch, 2);
    // Were there more, they would come at once.
    let is_fetch = |request: &&Request| request.call == Some(Call::Fetch);
    let soon = std::time::Duration::from_millis(300);
    site.simulator.wait_for(soon, |requests| requests.iter().filter(is_fetch).count() > 2);
    terminate(running);
    assert_eq!(site.requests(Call::Fetch).len(), 2);
}

#[test]
fn a_stream_whose_blobs_hang_leaves_connections_to_others_that_are_due_a_little_later() {
    let site = Site::new();
    site.configure(
        "<only_future_events>no</only_future_events><max_connections>4</max_connections>",
    );
    for n in 0..10 {
        let id = site.publish(GENERAL, Duration::minutes(20 - n), &["hangs"]);
        site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).always().hang());
    }
    let id = site.publish("DLP.All", Duration::minutes(5), &["fails once"]);
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).respond(503, ""));
    let running = begin(&site);
    let twice = site.simulator.wait_for(PATIENCE, |requests| {
        requests.iter().filter(|request| request.path().ends_with(&id)).count() == 2
    });
    assert!(twice, "{}", site.log());
    terminate(running);
}

#[test]
fn a_reader_that_stands_still_costs_no_memory() {
    let site = known("<max_output>60M</max_output>");
    let line = serde_json::to_vec(&record("x")).unwrap();
    for n in 0..24 {
        let blob = Blob::generated(site.now() - Duration::minutes(30 - n), 1 << 20, line.clone());
        site.simulator.publish(TENANT, GENERAL, blob);
    }
    let mut command = site.command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    // Every connection has its blob, and the pipe is full.
    wait_for(&site, Call::Fetch, 8);
    let mut output = child.stdout.take().unwrap();
    let mut chunk = vec![0; 1 << 20];
    let (mut bytes, mut peak) = (0, String::new());
    loop {
        let n = output.read(&mut chunk).unwrap();
        if n == 0 {
            break;
        }
        bytes += n;
        // Of the last time that it was still running.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let now = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = now.map_or(peak, str::to_owned);
    }
    assert!(child.wait().unwrap().success(), "{}", site.log());
    assert!(bytes > 24 << 20, "{bytes}");
    let kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kib < 24 << 10, "{kib} KiB");
}
