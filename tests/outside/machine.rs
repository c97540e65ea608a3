//! A machine that is not as this one is: system calls that are refused, file systems of its own.

use std::process::{Output, Stdio};
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::harness::Site;

/// Does something where the kernel refuses these system calls with this error.
pub(crate) fn refused<T: Send>(calls: &[i64], error: i32, what: impl FnOnce() -> T + Send) -> T {
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

/// Does something in a mount namespace of its own; nothing where that is not allowed, unless this is CI.
pub(crate) fn with_mounts<T: Send>(what: impl FnOnce() -> T + Send) -> Option<T> {
    let apart = || {
        #[expect(deprecated, reason = "its successor is unsafe; file systems concern no memory")]
        let unshared = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS);
        if let Err(error) = unshared {
            assert!(std::env::var_os("CI").is_none(), "mount namespaces are wanted: {error}");
            return None;
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        Some(what())
    };
    thread::scope(|scope| scope.spawn(apart).join().unwrap())
}

/// A run in the caller's mount namespace, in which the host is not.
pub(crate) fn output(site: &Site) -> Output {
    site.command().stdin(Stdio::null()).output().unwrap()
}
