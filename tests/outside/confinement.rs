//! What a run gives up before it speaks with the network, and that it goes on where the kernel gives
//! nothing for it. What confined threads can reach is tested beside `confine`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;

use office365_simulator::{Call, Fault};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use time::Duration;

use crate::harness::{PATIENCE, Site, binary, mode_of};
use crate::host::Options;

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

#[test]
fn links_among_its_own_files_lead_a_run_nowhere() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    // Who could plant these could else have root overwrite any file.
    let target = site.path("etc/wodle-office365.conf");
    let before = fs::read(&target).unwrap();
    let own = |name: &str| site.path("var/wodles/wodle-office365").join(name);
    fs::create_dir(own("")).unwrap();
    for name in ["state.json.new", "token.json.new", "lock"] {
        symlink(&target, own(name)).unwrap();
    }
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("the lock in "), "{}", site.log());
    fs::remove_file(own("lock")).unwrap();
    assert_eq!(site.poll_well().ids(), ["1"]);
    symlink(&target, own("state.previous.json")).unwrap();
    assert_eq!(site.poll_well().text(), "");
    assert_eq!((fs::read(&target).unwrap(), mode_of(&target)), (before, 0o640));
    for name in ["state.json", "token.json", "state.previous.json"] {
        assert!(fs::symlink_metadata(own(name)).unwrap().is_file(), "{name}");
    }
}

/// The folders around our files may be written by Wazuh's group, whose processes are not root's.
#[test]
fn links_that_wazuhs_group_could_make_are_not_followed() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let target = site.path("etc/target");
    fs::write(&target, "").unwrap();
    symlink(&target, site.path("logs/wodle-office365.log")).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert_eq!(fs::read_to_string(&target).unwrap(), "");
    let check = site.admin(&["check"]);
    assert!(check.line(" log ").contains("it is a symbolic link"), "{}", check.stdout);
    fs::remove_file(site.path("logs/wodle-office365.log")).unwrap();

    let (elsewhere, folder) = (site.path("elsewhere"), site.path("var/wodles/wodle-office365"));
    fs::rename(&folder, &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    if geteuid().is_root() {
        lchown(&folder, Some(4242), None).unwrap();
        assert_eq!((site.poll().code, mode_of(&elsewhere)), (Some(1), 0o755));
        assert!(site.log().contains("it is a symbolic link of user 4242's"), "{}", site.log());
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        lchown(&folder, Some(4242), None).unwrap();
        assert_eq!(site.poll().code, Some(1));
        assert!(site.log().contains("it is a folder of user 4242's"), "{}", site.log());
        fs::remove_dir(&folder).unwrap();
        symlink(&elsewhere, &folder).unwrap();
    }
    // An administrator's own.
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(mode_of(&elsewhere), 0o700);
    fs::remove_file(&folder).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
}

const LANDLOCK: &[i64] = &[
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// Does something where the kernel refuses these system calls with this error.
fn refused<T: Send>(calls: &[i64], error: i32, what: impl FnOnce() -> T + Send) -> T {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let error = SeccompAction::Errno(error.try_into().unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, error, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    // In a thread of its own: the filter is that thread's and its children's.
    let filtered = || {
        apply_filter(&filter).unwrap();
        what()
    };
    thread::scope(|scope| scope.spawn(filtered).join().unwrap())
}

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
