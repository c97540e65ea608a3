//! What a run gives up before it speaks with the network, and that it goes on where the kernel gives
//! nothing for it. What confined threads can reach is tested beside `confine`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use office365_simulator::{Call, Fault};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use time::Duration;

use crate::harness::{PATIENCE, Site, binary};
use crate::host::Options;
use crate::machine::refused;

const GENERAL: &str = "Audit.General";

/// A file of a process in /proc, by the names that its lines begin with.
fn proc(pid: Pid, file: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap();
    let pair = |line: &str| {
        let at = line.find(':').or_else(|| line.find("  ")).unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        (name.to_owned(), value.trim_start_matches(':').trim().to_owned())
    };
    text.lines().map(pair).collect()
}

#[test]
fn a_run_has_no_privileges_but_those_for_its_files() {
    let site = Site::new();
    site.simulator.fault(Fault::on(Call::Token).hang());
    let running = site.host().begin(&site.command(), Options::default());
    assert!(site.simulator.wait_for(PATIENCE, |requests| !requests.is_empty()), "{}", site.log());
    let status = proc(running.pid(), "status");
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Umask"], "0077");
    // DAC_OVERRIDE, FOWNER, SYS_RESOURCE; less where the machine gives less.
    let files = 1 << 1 | 1 << 3 | 1 << 24;
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        let held = u64::from_str_radix(&status[set], 16).unwrap();
        assert_eq!(held & !files, 0, "{set} {held:x}");
    }
    if geteuid().is_root() {
        assert_ne!(status["CapEff"], "0000000000000000");
    }
    assert!(
        proc(running.pid(), "limits")["Max core file size"].split_whitespace().take(2).eq(["0"; 2])
    );
    // Each of its threads is as confined as the first.
    let tasks = format!("/proc/{}/task", running.pid().as_raw_nonzero());
    for task in fs::read_dir(tasks).unwrap().flatten() {
        let thread = proc(running.pid(), &format!("task/{}/status", task.file_name().display()));
        for line in ["NoNewPrivs", "CapEff", "CapPrm"] {
            assert_eq!(thread[line], status[line], "{line}");
        }
    }
    // A command without a network gets no new privileges, either.
    let mut command = site.admin_command(&["backfill", "--from", "1h"]);
    let mut waiting = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for a running poll to end"), "{line}");
    assert_eq!(proc(Pid::from_child(&waiting), "status")["NoNewPrivs"], "1");
    waiting.kill().unwrap();
    waiting.wait().unwrap();

    running.terminate();
    assert_eq!(running.end().code, Some(0));
}

const LANDLOCK: &[i64] = &[
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

#[test]
fn a_run_that_dies_leaves_no_dump_of_its_memory() {
    let site = Site::new();
    site.simulator.fault(Fault::on(Call::Token).hang());
    // Where dumps are allowed, and Landlock doesn't keep the kernel from writing one.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -c unlimited; exec \"$0\" poll --home ."]).arg(binary());
    command.current_dir(site.path("")).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = refused(LANDLOCK, libc::ENOSYS, || command.spawn().unwrap());
    assert!(site.simulator.wait_for(PATIENCE, |requests| !requests.is_empty()), "{}", site.log());
    kill_process(Pid::from_child(&child), Signal::QUIT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::QUIT.as_raw()), false));
}

#[test]
fn what_an_old_kernel_or_a_sandbox_refuses_stops_nothing() {
    let usual = Site::new().admin(&["check"]);
    let has_landlock = usual.line(" confinement ").contains("Landlock keeps");
    assert!(has_landlock || std::env::var_os("CI").is_none(), "{}", usual.stdout);
    let all = [LANDLOCK, &[libc::SYS_prctl, libc::SYS_capset, libc::SYS_capget]].concat();
    let cases: [(&[i64], i32, &str); 6] = [
        (&[], 0, "confinement: Landlock keeps "),
        (LANDLOCK, libc::ENOSYS, "this kernel has no Landlock"),
        (LANDLOCK, libc::EOPNOTSUPP, "this kernel has no Landlock"),
        (LANDLOCK, libc::EPERM, "or a sandbox forbids it"),
        (&LANDLOCK[2..], libc::EPERM, "Landlock can't be used"),
        (&all, libc::EPERM, "no new privileges: refused; no core dumps: refused"),
    ];
    for (calls, error, told) in cases {
        // A kernel without it shows the others only.
        if !has_landlock && (calls.is_empty() || calls.len() == 1) {
            continue;
        }
        let site = Site::new();
        site.configure_one("<log_level>debug</log_level>");
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        let run = || site.command().stdin(Stdio::null()).output().unwrap();
        let run = if calls.is_empty() { run() } else { refused(calls, error, run) };
        let events = String::from_utf8(run.stdout).unwrap();
        assert_eq!((run.status.code(), events.lines().count()), (Some(0), 1), "{told} {events}");
        let log = site.log();
        assert!(log.contains("confinement: ") && log.contains(told), "{told}: {log}");
        let check = || site.admin(&["check"]);
        let check = if calls.is_empty() { check() } else { refused(calls, error, check) };
        let line = check.line(" confinement ");
        let level = if told == "Landlock can't be used" { "warn " } else { "ok " };
        let told = told.trim_start_matches("confinement: ");
        assert!(line.starts_with(level) && line.contains(told), "{line}");
        let rest = "; no new privileges; no core dumps";
        assert_eq!(line.ends_with(rest), !told.contains("refused"), "{line}");
        assert_eq!(check.code, Some(0), "{line}");
    }
}
