//! What a run proves before it writes its first line: that it can end well. Else it takes no event.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use office365_simulator::Call;
use rustix::mount::{MountFlags, mount};
use time::Duration;

use crate::harness::{STATE, Site, binary};
use crate::machine::{output, refused, with_mounts};

const GENERAL: &str = "Audit.General";

/// A poll that a shell starts as `how` says; `$0` is the program.
fn shell(site: &Site, how: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", how]).arg(binary()).arg(site.path("")).current_dir(site.path(""));
    command.env_clear();
    command
}

#[test]
fn a_stdout_that_reaches_nobody_takes_no_event() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    for (how, why) in [
        ("exec $0 poll --home $1 >&-", "stdout: it is closed"),
        ("exec $0 poll --home $1 <&- >&- 2>&-", "stdout: it is closed"),
        ("exec $0 poll --home $1 1</dev/null", "stdout: it is open for reading only"),
        ("exec $0 --dry-run --home $1 >&-", "stdout: it is closed"),
    ] {
        site.clear_log();
        let run = site.run(&shell(&site, how));
        assert_eq!((run.code, run.signal), (Some(1), None), "{how}: {}", site.log());
        assert!(site.log().contains(why), "{how}: {}", site.log());
        assert_eq!(site.calls(), BTreeMap::new(), "{how}");
    }
    let backfill = site.run(&shell(&site, "exec $0 backfill --from 1h --stdout --home $1 >&-"));
    assert_eq!((backfill.code, site.calls()), (Some(1), BTreeMap::new()), "{}", backfill.text());
    // Who throws them away may do so.
    let run =
        site.run(&shell(&site, "$0 poll --dry-run --home $1 >/dev/null; $0 poll --home $1 <&-"));
    assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
}

#[test]
fn without_dev_null_a_run_ends_as_well() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    with_mounts(|| {
        mount("tmpfs", "/dev", "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        // Its stdin, which the test opens, is not there either.
        let run = site.command().stdin(std::io::pipe().unwrap().0).output().unwrap();
        assert_eq!((run.status.code(), run.stdout.is_empty()), (Some(0), false), "{}", site.log());
        assert!(site.path(STATE).exists());
    });
}

/// Whatever number of files a run may open, each event is delivered once: a run that could not save its
/// state writes nothing.
#[test]
fn with_few_file_descriptors_events_are_delivered_once_or_not_yet() {
    let site = Site::new();
    site.poll_well();
    let mut delivered: Vec<String> = Vec::new();
    let mut published = Vec::new();
    // With fewer there is no log, so no place for what is wrong but stderr.
    for limit in 9..=26 {
        let id = format!("with-{limit}");
        site.publish(GENERAL, Duration::minutes(5), &[&id]);
        published.push(id);
        let run = site.run(&shell(&site, &format!("ulimit -n {limit}; exec $0 poll --home $1")));
        assert_eq!(run.signal, None, "{limit}: {}", site.log());
        delivered.extend(run.ids());
    }
    assert!(!delivered.is_empty(), "{}", site.log());
    delivered.extend(site.poll_well().ids());
    delivered.sort();
    published.sort();
    assert_eq!(delivered, published, "{}", site.log());
}

#[test]
fn without_room_for_the_state_nothing_is_fetched() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let folder = site.path("var/wodles/wodle-office365");
    fs::create_dir(&folder).unwrap();
    with_mounts(|| {
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), c"size=1m,mode=700").unwrap();
        let run = output(&site);
        assert_eq!(
            (run.status.code(), run.stdout.as_slice()),
            (Some(1), &[][..]),
            "{}",
            site.log()
        );
        assert!(site.log().contains("the state can't be saved"), "{}", site.log());
        assert_eq!(site.requests(Call::Fetch).len(), 0);
    });
}

/// A file system that knows no second names for a file: the previous copy is made before the first line.
#[test]
fn without_hard_links_the_previous_state_is_copied_in_time() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let previous = site.path("var/wodles/wodle-office365/state.previous.json");
    let run = || refused(&[libc::SYS_linkat], libc::EPERM, || output(&site));
    assert_eq!(run().status.code(), Some(0), "{}", site.log());
    let first = fs::read(site.path(STATE)).unwrap();
    assert!(!previous.exists());
    assert_eq!(run().status.code(), Some(0), "{}", site.log());
    assert_eq!(fs::read(&previous).unwrap(), first);
    assert_ne!(fs::read(site.path(STATE)).unwrap(), first);
    let left = fs::read_dir(previous.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.display().to_string().ends_with(".new")), "{left:?}");
}

/// What Rust's runtime reads of the environment ends no run by a signal.
#[test]
fn the_environment_of_rusts_runtime_ends_no_run() {
    for (name, value) in [
        ("RUST_MIN_STACK", "1"),
        ("RUST_MIN_STACK", "16384"),
        ("RUST_MIN_STACK", "1000000000000"),
        ("RUST_MIN_STACK", "18446744073709551615"),
        ("RUST_BACKTRACE", "full"),
        ("RUST_LIB_BACKTRACE", "1"),
    ] {
        let site = Site::new();
        site.publish(GENERAL, Duration::minutes(5), &["1"]);
        // A name to look up, for which a thread is started.
        let config = fs::read_to_string(site.config()).unwrap();
        site.write_config(
            &config.replace("<login_url>http://127.0.0.1", "<login_url>http://localhost"),
        );
        let run = site.run(site.command().env(name, value));
        let found = (run.code, run.signal, run.ids());
        assert_eq!(found, (Some(0), None, vec!["1".to_owned()]), "{name}={value}: {}", site.log());
        let check = site.run_admin(site.admin_command(&["check"]).env(name, value));
        assert_eq!(check.code, Some(0), "{name}={value}: {}", check.stdout);
    }
}
