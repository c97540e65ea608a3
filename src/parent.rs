//! Who started us: the `wazuh-modulesd` that sends our output on, and the socket it sends it to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::bounded::read_at_most;
use crate::state::{Handover, Modulesd, Queue};

/// The name under which Wazuh's daemon runs its command wodles.
const MODULESD: &str = "wazuh-modulesd";

/// The `wazuh-modulesd` that is this process's parent; none where it is anything else, or can't be
/// told from others.
#[must_use]
pub fn modulesd() -> Option<Modulesd> {
    let pid = rustix::process::getppid()?;
    modulesd_at(u32::try_from(pid.as_raw_nonzero().get()).ok()?)
}

fn read(path: &str) -> Option<String> {
    let file = fs::File::open(path).ok()?;
    String::from_utf8(read_at_most(file, 4096).ok()?).ok()
}

/// When a process was started, in the kernel's ticks since the machine was: by that it is no other
/// one that has its number now.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    start_time(&read(&format!("/proc/{pid}/stat"))?)
}

/// The `wazuh-modulesd` that runs as this process.
fn modulesd_at(pid: u32) -> Option<Modulesd> {
    if read(&format!("/proc/{pid}/comm"))?.trim_end() != MODULESD {
        return None;
    }
    let started = process_start(pid)?;
    let boot = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Some(Modulesd { pid, started, boot })
}

/// What is to be done about a queue that was made anew under a running modulesd.
pub const RESTART: &str = "restart Wazuh (systemctl restart wazuh-manager, or wazuh-agent): the socket \
                           HOME/queue/sockets/queue was made anew, or changed, under the running \
                           wazuh-modulesd, which holds the old one, so all that this program writes \
                           would be lost; until then nothing is fetched";

/// Whether the modulesd of the last polls still runs, though the queue that it sends to, at `path`, is
/// another one by now: whatever it is given is lost.
#[must_use]
pub fn is_queue_dead(handover: &Handover, path: &Path) -> bool {
    let runs = |modulesd: &Modulesd| modulesd_at(modulesd.pid).as_ref() == Some(modulesd);
    let changed = match (handover.queue, queue(path)) {
        (Some(known), Some(now)) => known != now,
        _ => false,
    };
    changed && handover.modulesd.as_ref().is_some_and(runs)
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The second, the name, may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What is at the socket's `path`, if anything is.
#[must_use]
pub fn queue(path: &Path) -> Option<Queue> {
    let meta = fs::metadata(path).ok()?;
    let changed = meta.ctime().checked_mul(1_000_000_000)?.checked_add(meta.ctime_nsec())?;
    Some(Queue { inode: meta.ino(), changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_time(&format!("42 (a) b (c)) {fields}")), Some(4711));
        assert_eq!(start_time("42 (x) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn a_test_runner_is_no_modulesd() {
        assert_eq!(modulesd(), None);
        assert_eq!(queue(Path::new("/nonexistent")), None);
    }
}
