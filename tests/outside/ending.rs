//! How a run ends before its time: SIGTERM, and limits that it meets.

use office365_simulator::{Blob, Call, Fault, Request};
use rustix::process::{Signal, kill_process};
use time::Duration;

use crate::harness::{PATIENCE, Run, STATE, Site, TENANT, record};
use crate::host::Options;

const GENERAL: &str = "Audit.General";

/// A run that gets SIGTERM when the request has come that `hangs` tells from others.
fn terminated(site: &Site, hangs: impl Fn(&Request) -> bool) -> Run {
    let running = site.host().begin(&site.command(), Options::default());
    let came = site.simulator.wait_for(PATIENCE, |requests| requests.iter().any(&hangs));
    assert!(came, "{}", site.log());
    let begun = std::time::Instant::now();
    running.terminate();
    let run = running.end();
    // A second by the contract; so much more only for a machine that stands still. What is in
    // flight at the end of a run's time has twice as long.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    run
}

#[test]
fn sigterm_ends_a_run_whatever_hangs_and_is_no_failure() {
    for call in [Call::Token, Call::List, Call::Start, Call::Content, Call::Fetch] {
        let site = Site::new();
        site.configure_one("");
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        site.simulator.fault(Fault::on(call).hang());
        // A run of five minutes, less than PATIENCE: it is the signal that ends it.
        let run = terminated(&site, |request| request.call == Some(call));
        assert_eq!((run.code, run.signal, run.text().as_str()), (Some(0), None, ""), "{call:?}");
        assert!(site.log().contains("ended by SIGTERM"), "{}", site.log());
        assert!(!site.log().contains("ERROR"), "{}", site.log());
        assert_eq!(site.stream(GENERAL)["health"]["failures"], 0, "{call:?}");
        assert_eq!(site.poll_well().ids(), ["1"], "{call:?}");
    }
}

#[test]
fn what_was_written_before_sigterm_comes_no_second_time() {
    let site = Site::new();
    site.configure_one("<max_connections>1</max_connections>");
    let blobs: Vec<_> = (0..20)
        .map(|n| site.publish(GENERAL, Duration::minutes(60 - n), &[&format!("{n:02}")]))
        .collect();
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&blobs[10]).hang());
    let mut seen = terminated(&site, |request| request.path().ends_with(&blobs[10])).ids();
    assert_eq!(seen.len(), 10, "{seen:?}");
    seen.extend(site.poll_well().ids());
    seen.sort();
    let all: Vec<_> = (0..20).map(|n| format!("{n:02}")).collect();
    assert_eq!(seen, all);
}

#[test]
fn a_blob_that_sigterm_cuts_goes_on_where_it_was() {
    let site = Site::new();
    site.configure_one("");
    let ids: Vec<_> = (0..3000).map(|n| format!("{n:04}")).collect();
    let records: Vec<_> = ids.iter().map(|id| record(id)).collect();
    let blob = Blob::new(site.now() - Duration::hours(1), &records);
    let id = site.simulator.publish(TENANT, GENERAL, blob);
    // It breaks off in the middle, and the second try hangs.
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).cut(400_000));
    site.simulator.fault(Fault::on(Call::Fetch).content_id(&id).hang());
    let seen = site.simulator.requests().len();
    let running = site.host().begin(&site.command(), Options::default());
    assert!(site.simulator.wait_for(PATIENCE, |requests| {
        requests[seen..].iter().filter(|r| r.call == Some(Call::Fetch)).count() == 2
    }));
    running.terminate();
    let run = running.end();
    assert_eq!(run.code, Some(0));
    let mut seen = run.ids();
    assert!(!seen.is_empty() && seen.len() < 3000);
    seen.extend(site.poll_well().ids());
    assert_eq!(seen, ids);
}

#[test]
fn sigterm_before_anything_was_written_leaves_a_state() {
    let site = Site::from_now();
    site.simulator.fault(Fault::on(Call::Token).hang());
    assert_eq!(terminated(&site, |request| request.call == Some(Call::Token)).code, Some(0));
    // Its start is saved.
    site.publish(GENERAL, Duration::seconds(0), &["since"]);
    site.simulator.advance(Duration::minutes(2));
    assert_eq!(site.poll_well().ids(), ["since"]);
}

#[test]
fn a_reader_that_does_not_read_keeps_nobody_waiting() {
    let site = Site::new();
    site.configure_one("");
    let line = serde_json::to_vec(&record("x")).unwrap();
    let blob = Blob::generated(site.now() - Duration::minutes(5), 4 << 20, line);
    site.simulator.publish(TENANT, GENERAL, blob);
    // More than a pipe holds, and nobody at its other end.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = site.command();
    let mut child = command.stdin(std::process::Stdio::null()).stdout(writer).spawn().unwrap();
    drop(command);
    assert!(
        site.simulator.wait_for(PATIENCE, |requests| {
            requests.iter().any(|r| r.call == Some(Call::Fetch))
        })
    );
    kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    drop(reader);
    // The pipe may not have been full yet when the signal came: then all is well.
    assert!(matches!(status.code(), Some(0 | 1)), "{status:?}");
    // Of a first run that saves nothing there is no state at all.
    let saved = site.path(STATE).exists().then(|| site.state());
    let left = saved.and_then(|state| Some(state["tenants"].as_object()?.len())).unwrap_or(0);
    assert_eq!(left, usize::from(status.code() == Some(0)), "a cut line saves nothing");
}

#[test]
fn a_file_size_limit_is_an_error_and_no_death() {
    let site = Site::new();
    site.configure_one("");
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let mut limited = std::process::Command::new("/bin/sh");
    let binary = crate::harness::binary().to_str().unwrap();
    let home = site.path("");
    let text = format!("ulimit -f 1; exec {binary} poll --home {}", home.display());
    limited.args(["-c", &text]).current_dir(&home);
    let run = site.run(&limited);
    assert_eq!((run.code, run.signal, run.text().as_str()), (Some(1), None, ""));
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_blob_larger_than_wazuh_takes_of_a_run_comes_in_parts() {
    let site = Site::new();
    site.configure_one("<max_output>256k</max_output>");
    let half = "x".repeat(30_000);
    let records: Vec<_> =
        (0..1200).map(|n| format!(r#"{{"Id":"{n:04}","x":"{half}","y":"{half}"}}"#)).collect();
    let body = format!("[{}]", records.join(","));
    let big = Blob::raw(site.now() - Duration::hours(2), body.into_bytes());
    site.simulator.publish(TENANT, GENERAL, big);
    site.publish(GENERAL, Duration::hours(1), &["small"]);
    let first = site.poll_well();
    assert!(first.output.len() > 59 << 20 && first.output.len() <= 60 << 20);
    // It had its turn: the other one comes first, should that fill the run.
    let second = site.poll_well();
    let mut seen = first.ids();
    seen.extend(second.ids());
    seen.retain(|id| id != "small");
    let all: Vec<_> = (0..1200).map(|n| format!("{n:04}")).collect();
    assert_eq!(seen.len(), all.len());
    assert!(seen == all, "each once");
    assert_eq!(site.poll_well().text(), "");
}
