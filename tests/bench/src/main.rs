//! `make bench`: what wodle-office365 takes, beside its budgets. Numbers and ratios; nothing here
//! passes or fails.

mod site;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use office365_simulator::{Blob, CONTENT_TYPES, Simulator, story};
use serde_json::Value;

use self::site::{Cost, GENERAL, MEASURE, Plan, Site, measure};

const MIB: u64 = 1 << 20;

/// A run may write as much as Wazuh takes.
const FULL_RUNS: &str = "<max_output>60M</max_output><run_timeout>1h</run_timeout>";

/// On two cores that the simulator works on as well, single measurements differ by half; those of
/// 1 GiB less.
const ROUNDS: usize = 9;
const LONG_ROUNDS: usize = 1;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let result = match (arguments.next(), arguments.next()) {
        (Some(first), Some(file)) if first == MEASURE => {
            measure([file].into_iter().chain(arguments))
        }
        (Some(binary), only) => {
            // It is run from another folder.
            std::fs::canonicalize(binary).and_then(|binary| Bench { binary, only }.run())
        }
        _ => Err(io::Error::other("usage: wodle-office365-bench PROGRAM [PART]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    binary: PathBuf,
    /// The one part that is wanted.
    only: Option<std::ffi::OsString>,
}

/// Blobs of 1 MiB, and how they are collected.
struct Bytes {
    blobs: usize,
    tls: bool,
    gzip: bool,
    /// As much in a run as Wazuh takes of one, instead of the default.
    full_runs: bool,
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wire = if self.tls { "https" } else { "http" };
        let gzip = if self.gzip { ", gzip" } else { "" };
        let runs = if self.full_runs { ", 60 MiB a run" } else { "" };
        write!(f, "{} MiB, {wire}{gzip}{runs}", self.blobs)
    }
}

/// A part of the bench: its name, its columns, and what fills them.
type Part = (&'static str, &'static str, fn(&Bench) -> io::Result<()>);

const PARTS: [Part; 6] = [
    ("idle", "nothing new in 5 streams | CPU ms | requests | connections | peak MiB", Bench::idle),
    ("latency", "1,000 blobs, 100 ms each | wall s | ideal s | ratio", Bench::latency),
    (
        "throughput",
        "bytes over loopback | runs | CPU s | curl's CPU s | ratio | peak MiB",
        Bench::throughput,
    ),
    ("instructions", "records | KB each | instructions each", Bench::instructions),
    ("memory", "what is collected | runs | peak MiB | CPU s", Bench::memory),
    ("growth", "how cost grows | runs | requests | CPU s | wall s | peak MiB", Bench::growth),
];

impl Bench {
    fn run(&self) -> io::Result<()> {
        say(&format!("{}\n", machine()));
        let size = std::fs::metadata(&self.binary)?.len();
        say(&format!("{}: {} bytes\n", self.binary.display(), size));
        for (name, columns, part) in PARTS {
            if self.only.as_ref().is_none_or(|only| only == name) {
                let rule = columns.split('|').map(|_| "---").collect::<Vec<_>>().join(" | ");
                say(&format!("\n| {columns} |\n| {rule} |\n"));
                part(self)?;
            }
        }
        Ok(())
    }

    fn site(&self, options: &str) -> io::Result<Site> {
        let plan = Plan { tenants: 1, content_types: &[GENERAL], options, tls: false };
        Site::new(&self.binary, Simulator::builder(), &plan)
    }

    fn idle(&self) -> io::Result<()> {
        for tls in [false, true] {
            let plan = Plan { tenants: 1, content_types: &CONTENT_TYPES, options: "", tls };
            let site = Site::new(&self.binary, Simulator::builder(), &plan)?;
            site.polls(2)?;
            site.simulator.clear_requests();
            let connections = site.simulator.connections();
            let runs = 50;
            let cost = site.polls(runs)?;
            let each = |n: usize| n as f64 / f64::from(runs);
            row(&[
                if tls { "https" } else { "http" }.to_owned(),
                format!("{:.1}", cost.cpu.as_secs_f64() * 1000.0 / f64::from(runs)),
                format!("{:.2}", each(site.simulator.requests().len())),
                format!("{:.2}", each(site.simulator.connections() - connections)),
                mib(cost.peak),
            ]);
        }
        Ok(())
    }

    fn latency(&self) -> io::Result<()> {
        for connections in [1, 8, 32] {
            let options = format!("{FULL_RUNS}<max_connections>{connections}</max_connections>");
            let plan =
                Plan { tenants: 1, content_types: &[GENERAL], options: &options, tls: false };
            let delay = Duration::from_millis(100);
            let site = Site::new(&self.binary, Simulator::builder().delay(delay), &plan)?;
            site.poll()?;
            let record = records().swap_remove(0);
            for _ in 0..1000 {
                site.publish(Blob::raw(site.recently(), format!("[{record}]")));
            }
            let cost = site.poll()?;
            let ideal = delay * 1000 / connections;
            row(&[
                format!("{connections} connections"),
                seconds(cost.wall),
                seconds(ideal),
                ratio(cost.wall, ideal),
            ]);
        }
        Ok(())
    }

    fn throughput(&self) -> io::Result<()> {
        let row = |blobs, tls, gzip, full_runs| Bytes { blobs, tls, gzip, full_runs };
        for (blobs, full_runs) in [(64, false), (64, true), (1024, true)] {
            for (tls, gzip) in [(false, false), (false, true), (true, false), (true, true)] {
                self.against_curl(&row(blobs, tls, gzip, full_runs))?;
            }
        }
        Ok(())
    }

    /// What a record takes from its first byte to its line: the difference between many and none. It needs
    /// valgrind.
    fn instructions(&self) -> io::Result<()> {
        let ordinary = records();
        let repaired =
            || ordinary.iter().map(|record| record.replacen('{', "{\"a.b\":1,", 1)).collect();
        for (what, records) in [("as sent", ordinary.clone()), ("with a dotted name", repaired())] {
            let site = self.site(FULL_RUNS)?;
            let body = body_of(&records, MIB);
            let count = records.iter().cycle().scan(2, |size, record| {
                *size += record.len() as u64 + 1;
                (*size <= MIB).then_some(())
            });
            let count = count.count() as u64;
            // So that the names are known, as in every run but the first.
            site.publish(Blob::raw(site.recently(), body.clone()));
            site.drain()?;
            let none = site.instructions()?;
            for _ in 0..8 {
                site.publish(Blob::raw(site.recently(), body.clone()));
            }
            let each = (site.instructions()? - none) / (8 * count);
            let bytes = body.len() as u64 / count;
            row(&[what.to_owned(), format!("{:.2}", bytes as f64 / 1000.0), each.to_string()]);
        }
        Ok(())
    }

    /// The same blobs by the program and by `curl`, in turns: the medians of what they take.
    fn against_curl(&self, bytes: &Bytes) -> io::Result<()> {
        let Bytes { blobs, tls, gzip, full_runs } = *bytes;
        let options = if full_runs { FULL_RUNS } else { "" };
        let body = blob_of(MIB);
        let (mut ours, mut curls) = (Vec::new(), Vec::new());
        for _ in 0..if blobs > 64 { LONG_ROUNDS } else { ROUNDS } {
            let plan = Plan { tenants: 1, content_types: &[GENERAL], options, tls };
            let site = Site::new(&self.binary, Simulator::builder().gzip(gzip), &plan)?;
            site.poll()?;
            let addresses: Vec<_> = (0..blobs)
                .map(|_| site.publish(Blob::raw(site.recently(), body.clone())))
                .collect();
            ours.push(site.drain()?);
            curls.push(site.curl(&addresses, gzip)?);
        }
        let (ours, curl) = (median(&mut ours), median(&mut curls));
        row(&[
            bytes.to_string(),
            ours.runs.to_string(),
            seconds(ours.cpu),
            seconds(curl.cpu),
            ratio(ours.cpu, curl.cpu),
            mib(ours.peak),
        ]);
        Ok(())
    }

    fn memory(&self) -> io::Result<()> {
        let show = |what: &str, cost: Cost| {
            row(&[what.to_owned(), cost.runs.to_string(), mib(cost.peak), seconds(cost.cpu)]);
        };
        let site = self.site(FULL_RUNS)?;
        site.poll()?;
        let body = blob_of(MIB);
        for _ in 0..64 {
            site.publish(Blob::raw(site.recently(), body.clone()));
        }
        show("64 blobs of 1 MiB, 8 connections", site.drain()?);

        let mib = usize::try_from(MIB).unwrap_or_default();
        for (what, body) in [
            ("a string", format!("[{{\"Id\":\"1\",\"a\":\"{}\"}}]", "x".repeat(mib))),
            ("names", format!("[{{\"ModifiedProperties\":[{}\"a\"]}}]", "\"a\",".repeat(mib / 4))),
            ("numbers", format!("[{{\"a\":[{}1]}}]", "1e39,".repeat(mib / 5))),
        ] {
            let site = self.site(FULL_RUNS)?;
            site.poll()?;
            for _ in 0..16 {
                site.publish(Blob::raw(site.recently(), body.clone()));
            }
            show(&format!("16 blobs of one record of 1 MiB: {what}"), site.drain()?);
        }

        for (held, of) in [(16, "16 MiB"), (48, "48 MiB, curl_max_size 48M")] {
            let site = self.site(&format!(
                "{FULL_RUNS}<max_connections>64</max_connections><curl_max_size>{held}M</curl_max_size>"
            ))?;
            site.poll()?;
            let body = format!("[{{\"Id\":\"1\",\"a\":\"{}\"}}]", "x".repeat(held * mib - 1000));
            for _ in 0..64 {
                site.publish(Blob::raw(site.recently(), body.clone()));
            }
            show(&format!("64 connections, each with a record of {of}"), site.drain()?);
        }

        let site = self.site(FULL_RUNS)?;
        site.poll()?;
        site.publish(Blob::generated(
            site.recently(),
            512 * MIB,
            records().swap_remove(0).into_bytes(),
        ));
        show("one blob of 512 MiB", site.drain()?);

        let site = self.site(FULL_RUNS)?;
        site.poll()?;
        let record = records().swap_remove(0);
        for _ in 0..10_000 {
            site.publish(Blob::raw(site.recently(), format!("[{record}]")));
        }
        show("10,000 blobs of one record in an hour", site.drain()?);

        let site = self.site(FULL_RUNS)?;
        let now = site.now();
        for n in 0..100_000_i64 {
            let created = now - time::Duration::seconds(n * 5);
            site.publish(Blob::raw(created, format!("[{record}]")));
        }
        show("a backlog of 100,000 blobs of one record", site.drain()?);
        Ok(())
    }

    fn growth(&self) -> io::Result<()> {
        let show = |what: String, site: &Site, cost: Cost| {
            row(&[
                what,
                cost.runs.to_string(),
                site.simulator.requests().len().to_string(),
                seconds(cost.cpu),
                seconds(cost.wall),
                mib(cost.peak),
            ]);
        };
        let record = records().swap_remove(0);
        for blobs in [100, 1000, 10_000] {
            let site = self.site(FULL_RUNS)?;
            site.poll()?;
            for _ in 0..blobs {
                site.publish(Blob::raw(site.recently(), format!("[{record}]")));
            }
            site.simulator.clear_requests();
            let cost = site.drain()?;
            show(format!("{blobs} blobs"), &site, cost);
        }
        for tenants in [1, 10, 100, 500] {
            let plan = Plan { tenants, content_types: &CONTENT_TYPES, options: "", tls: false };
            let site = Site::new(&self.binary, Simulator::builder(), &plan)?;
            site.polls(2)?;
            site.simulator.clear_requests();
            let cost = site.poll()?;
            show(format!("{tenants} tenants of 5 streams, nothing new"), &site, cost);
        }
        // Of 500 tenants the logins of ten hang: in their first run, and in the next.
        let plan = Plan { tenants: 500, content_types: &CONTENT_TYPES, options: "", tls: false };
        let site = Site::new(&self.binary, Simulator::builder(), &plan)?;
        site.polls(2)?;
        for n in 0..10 {
            site.hang(n * 50 + 7);
        }
        for what in ["first", "next"] {
            site.simulator.clear_requests();
            let cost = site.poll_badly()?;
            show(format!("500 tenants of 5 streams, 10 of them dead, {what} run"), &site, cost);
        }
        for days in [1, 3, 7] {
            let site = self.site(FULL_RUNS)?;
            let now = site.now();
            for n in 1..days * 288 {
                let created = now - time::Duration::minutes(n * 5);
                site.publish(Blob::raw(created, format!("[{record}]")));
            }
            let cost = site.drain()?;
            show(format!("{days} days behind, a blob every 5 minutes"), &site, cost);
        }
        Ok(())
    }
}

/// Records as Microsoft sends them, of all content types.
fn records() -> Vec<String> {
    let story = story::story(time::OffsetDateTime::UNIX_EPOCH, "0f6c3bd2", "contoso.example");
    let events = story.into_iter().flat_map(|chapter| chapter.events);
    events.map(|event| Value::to_string(&event.record)).collect()
}

/// A blob of about so many bytes.
fn blob_of(bytes: u64) -> Vec<u8> {
    body_of(&records(), bytes)
}

fn body_of(records: &[String], bytes: u64) -> Vec<u8> {
    let mut body = b"[".to_vec();
    for record in records.iter().cycle() {
        if body.len() as u64 + record.len() as u64 > bytes {
            break;
        }
        body.extend_from_slice(record.as_bytes());
        body.push(b',');
    }
    body.pop();
    body.push(b']');
    body
}

/// The one in the middle, by CPU time; but the highest peak of all.
fn median(costs: &mut [Cost]) -> Cost {
    costs.sort_by_key(|cost| cost.cpu);
    let middle = costs.get(costs.len() / 2).copied().unwrap_or_default();
    Cost { peak: costs.iter().map(|cost| cost.peak).max().unwrap_or_default(), ..middle }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown CPU", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}; simulator and program share them", kernel.trim())
}

fn row(cells: &[String]) {
    say(&format!("| {} |\n", cells.join(" | ")));
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn ratio(time: Duration, to: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() / to.as_secs_f64().max(0.001))
}

fn mib(kib: u64) -> String {
    format!("{:.1}", Duration::from_millis(kib).as_secs_f64() * 1000.0 / 1024.0)
}
