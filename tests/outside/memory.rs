//! What all connections together may hold.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::thread;

use office365_simulator::{Blob, Call, Fault, Simulator, Tenant};
use rustix::process::{Pid, Signal, kill_process};
use time::Duration;

use crate::harness::{CLIENT, SECRET, Site, TENANT};

const GENERAL: &str = "Audit.General";

/// A record of so many bytes and a few more.
fn large(id: &str, bytes: usize) -> String {
    format!("[{{\"Id\":\"{id}\",\"a\":\"{}\"}}]", "x".repeat(bytes))
}

/// The most memory that a process has had so far, in MiB.
fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}

/// A run; what it wrote, and the most memory that it had, in MiB.
fn run(site: &Site) -> (Vec<u8>, u64) {
    let mut command = site.command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        output
    });
    let mut most = 0;
    while !reader.is_finished() {
        most = most.max(peak(&child).unwrap_or_default());
        thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", site.log());
    assert!(most > 16, "it was measured while it had large answers: {most} MiB");
    (reader.join().unwrap(), most)
}

#[test]
fn large_records_on_all_connections_take_a_bounded_amount_of_memory() {
    let site = Site::new();
    site.configure_one("<max_connections>64</max_connections>");
    assert_eq!(site.poll_well().text(), "");
    // Too large by a little: all of what may be held of each is held.
    let body = large("x", 17 << 20);
    for _ in 0..40 {
        let blob = Blob::raw(site.now() - Duration::minutes(5), body.clone());
        site.simulator.publish(TENANT, GENERAL, blob);
    }
    let blob = Blob::raw(site.now() - Duration::minutes(5), large("fits", 2 << 20));
    site.simulator.publish(TENANT, GENERAL, blob);
    let (output, most) = run(&site);
    let output = String::from_utf8(output).unwrap();
    assert_eq!(output.matches("is larger than the limit").count(), 40);
    assert!(output.contains(r#""Id":"fits""#));
    assert!(most < 256, "{most} MiB");
}

#[test]
fn large_listings_of_many_tenants_take_a_bounded_amount_of_memory() {
    let guid = |n: usize| format!("b1b2c3d4-0000-4000-8000-{n:012}");
    let tenants: Vec<_> = (0..32).map(guid).collect();
    let builder = tenants.iter().fold(Simulator::builder(), |builder, guid| {
        builder.tenant(Tenant::new(guid, CLIENT, SECRET).subscribed(&[GENERAL]))
    });
    let site = Site::built(builder);
    let auth: String = tenants.iter().map(|guid| site.api_auth(guid, CLIENT, SECRET)).collect();
    site.configure_with("<max_connections>32</max_connections>", &auth, &[GENERAL]);
    let body = format!("[{}]", " ".repeat(15 << 20));
    site.simulator.fault(Fault::on(Call::Content).always().respond(200, &body));
    let (output, most) = run(&site);
    assert!(output.is_empty() && most < 256, "{most} MiB");
}

#[test]
fn a_tenant_whose_large_records_stall_leaves_memory_to_the_others() {
    const OTHER: &str = "b1b2c3d4-0000-4000-8000-000000000002";
    let site = Site::built(Simulator::builder().tenant(Tenant::new(OTHER, CLIENT, SECRET)));
    let auth = [TENANT, OTHER].map(|guid| site.api_auth(guid, CLIENT, SECRET)).concat();
    // So that there is memory for two of the largest records only.
    let options = "<only_future_events>no</only_future_events><curl_max_size>48M</curl_max_size>";
    site.configure_with(options, &auth, &[GENERAL]);
    assert_eq!(site.poll_well().text(), "");
    let body = large("other", 2 << 20);
    for _ in 0..8 {
        let blob = Blob::raw(site.now() - Duration::minutes(5), body.clone());
        site.simulator.publish(TENANT, GENERAL, blob);
    }
    let fault = Fault::on(Call::Fetch).tenant(TENANT).always();
    site.simulator.fault(fault.stall(3 << 19));
    // Once all of those that may be in flight are.
    site.simulator
        .fault(Fault::on(Call::Content).tenant(OTHER).delay(std::time::Duration::from_secs(1)));
    let blob = Blob::raw(site.now() - Duration::minutes(5), body);
    site.simulator.publish(OTHER, GENERAL, blob);
    let mut command = site.command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains(r#""Id":"other""#), "{}", line.len());
    // The others wait for memory, or for the rest of their records.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(lines.count(), 0);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", site.log());
}
