//! Hundreds of runs under a daemon that sends their lines on one by one, while runs, the daemon and
//! the queue's socket go down at random instants: only what came out of the queue counts.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use office365_simulator::{Blob, Call, Fault};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::harness::{CLIENT, Dice, SECRET, Site, TENANT, record};
use crate::host::{Host, Options, Queue};

const STREAMS: [&str; 2] = ["Audit.General", "Audit.Exchange"];

/// An instant that nothing tells from others.
fn wait(dice: &mut Dice, most_ms: u64) {
    sleep(Duration::from_micros(dice.below(most_ms * 1000)));
}

/// A tenant that grows, and the Ids of all its records.
struct Growing<'a> {
    site: &'a Site,
    ids: Vec<String>,
}

impl Growing<'_> {
    fn grow(&mut self, dice: &mut Dice) {
        for _ in 0..10 {
            let ids: Vec<_> =
                (0..dice.below(8)).map(|n| format!("{}", self.ids.len() as u64 + n)).collect();
            let records: Vec<_> = ids.iter().map(|id| record(id)).collect();
            self.ids.extend(ids);
            let seconds = |n| time::Duration::seconds(i64::try_from(n).unwrap());
            let mut blob = Blob::new(self.site.now() - seconds(dice.below(1800)), &records);
            if dice.below(10) == 0 {
                blob = blob.listable_at(self.site.now() + seconds(dice.below(2)));
            }
            let stream = STREAMS[usize::try_from(dice.below(2)).unwrap()];
            let id = self.site.simulator.publish(TENANT, stream, blob);
            let fault = || Fault::on(Call::Fetch).content_id(&id);
            match dice.below(100) {
                0..5 => self.site.simulator.fault(fault().respond(400, "not now")),
                5 => self.site.simulator.fault(fault().cut(700)),
                _ => {}
            }
        }
    }
}

#[test]
fn whatever_goes_down_every_event_gets_through_and_few_come_twice() {
    let dice = Dice::new(1);
    let site = Site::new();
    configure(&site, "no");
    storm(Growing { site: &site, ids: Vec::new() }, dice, 200);
}

#[test]
fn so_does_every_event_of_a_backfill() {
    let dice = Dice::new(2);
    let site = Site::new();
    configure(&site, "yes");
    for name in STREAMS {
        site.simulator.set_subscription(TENANT, name, Some("enabled"));
    }
    // The live streams begin here.
    site.poll_well();
    let mut tenant = Growing { site: &site, ids: Vec::new() };
    for n in 0..400 {
        let ids = [format!("old {n}"), format!("older {n}")];
        let blob = Blob::new(
            site.now() - time::Duration::minutes(16 * n + 5),
            &ids.each_ref().map(|id| record(id)),
        );
        site.simulator.publish(TENANT, STREAMS[usize::from(n % 2 == 0)], blob);
        tenant.ids.extend(ids);
    }
    site.admin(&["backfill", "--from", "6d"]).well();
    site.simulator.advance(time::Duration::minutes(31));
    storm(tenant, dice, 40);
}

fn configure(site: &Site, only_future_events: &str) {
    let options = format!(
        "<only_future_events>{only_future_events}</only_future_events><max_output>256k</max_output>\
         <max_connections>4</max_connections>"
    );
    site.configure_with(&options, &site.api_auth(TENANT, CLIENT, SECRET), &STREAMS);
}

/// So many blows at random instants; in the end all that was published has come through.
#[expect(clippy::print_stdout, reason = "what was done is the result, with --nocapture")]
fn storm(mut tenant: Growing<'_>, mut dice: Dice, blows: u32) {
    let site = tenant.site;
    let mut queue = Queue::bind(&site.path(""));
    let start = || {
        let (pause, interval) = (Duration::from_micros(200), Duration::from_millis(2));
        Host::start_loop(&site.path(""), &site.command(), Options::default(), pause, interval)
    };
    let mut host = start();
    let (mut terms, mut kills, mut restarts, mut queues) = (0, 0, 0, 0);
    for _ in 0..blows {
        for _ in 0..dice.below(4) {
            tenant.grow(&mut dice);
            let _ = host.drained();
        }
        match dice.below(10) {
            0..=1 => {
                terms += 1;
                let child = host.started();
                wait(&mut dice, 40);
                let _ = kill_process(child, Signal::TERM);
            }
            2..=4 => {
                kills += 1;
                let child = host.started();
                wait(&mut dice, 40);
                let _ = kill_process(child, Signal::KILL);
            }
            5..=7 => {
                restarts += 1;
                wait(&mut dice, 80);
                host.kill();
                host = start();
            }
            _ => {
                queues += 1;
                // A socket that goes before a run of this daemon has seen it leaves no trace.
                while handover(site)["modulesd"]["pid"] != host.pid().as_raw_pid()
                    || handover(site)["queue"] == Value::Null
                {
                    let _ = host.drained();
                }
                wait(&mut dice, 40);
                queue.recreate();
                wait(&mut dice, 40);
                // What an administrator does who reads the log.
                host.kill();
                host = start();
            }
        }
    }
    site.simulator.clear_faults();
    let ids = tenant.ids;
    let through = (0..100).any(|_| {
        let _ = host.drained();
        count(&queue.lines()).len() >= ids.len()
    });
    drop(host);
    let lines = queue.lines();
    let counts = count(&lines);
    let lost: Vec<_> = ids.iter().filter(|id| !counts.contains_key(*id)).collect();
    assert!(through && lost.is_empty(), "lost: {lost:?}\n{}", site.log());
    // Each run that was not killed says one of these.
    let said = [" events from ", "restart Wazuh (", "another poll is running"];
    let runs = said.iter().map(|text| site.log().matches(text).count()).sum::<usize>() + kills;
    let repeats = lines.len() - counts.len();
    println!(
        "{runs} runs, {terms} SIGTERM and {kills} SIGKILL to them; {restarts} times \
         modulesd was killed, {queues} times the queue was made anew; {} events, {repeats} repeats",
        counts.len()
    );
    assert_eq!(counts.len(), ids.len(), "nothing but what was published");
    let crashes = kills + restarts + queues;
    // What went down can have been about to write as much as the longest run did, not more.
    let log = site.log();
    let events =
        log.lines().filter_map(|line| line.split_once(" events from ")?.0.rsplit(' ').next());
    let longest = events.filter_map(|n| n.parse::<usize>().ok()).max().unwrap();
    assert!(repeats <= crashes * longest, "{repeats}, {longest}");
    let most = counts.values().max().unwrap();
    assert!(*most <= 1 + crashes, "{most} times");
}

/// How often each Id came.
fn count(lines: &[String]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for line in lines {
        let event: Value = serde_json::from_str(line).expect(line);
        if let Some(id) = event["office365"]["Id"].as_str() {
            *counts.entry(id.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn handover(site: &Site) -> Value {
    site.state()["handover"].clone()
}
