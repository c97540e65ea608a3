//! What the process gives up that it doesn't need: a fault in what reads foreign bytes is then worth
//! little to whoever finds it.
//!
//! Each step is the kernel's to take or refuse. One that refuses, for it is old or a sandbox around us
//! forbids the call, costs that protection and nothing else.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, set_dumpable_behavior, setrlimit, umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, no_new_privs, set_capabilities, set_no_new_privs,
};

use crate::store::Dir;

/// What is asked of Landlock; a kernel that knows less gives that. The later ones bring rights that
/// concern no file of ours.
const LANDLOCK: ABI = ABI::V6;

/// Of root's privileges: its own files whoever they belong to, and the room on a full disk that is kept
/// for root.
const KEPT: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER).union(CapabilitySet::SYS_RESOURCE);

/// What resolving a host's name reads: resolv.conf(5), hosts(5), services(5), and glibc's own, which
/// the static program doesn't have.
const RESOLVER: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/services",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
    "/run/nscd",
];

/// glibc loads what nsswitch.conf(5) names.
const LIBRARIES: &[&str] = if cfg!(target_env = "gnu") {
    &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
} else {
    &[]
};

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const READ_FILE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile});
const REPLACE: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | RemoveFile | MakeReg | Truncate});

/// The files that are still needed once the network is spoken to, besides those that resolve names.
#[derive(Debug, Default)]
pub struct Reach {
    /// Our own folder, whose files are replaced.
    pub folder: Option<Dir>,
    /// Files that are read.
    pub files: Vec<PathBuf>,
}

/// How far the process is confined.
#[derive(Debug)]
pub struct Confinement(Result<RulesetStatus, RulesetError>);

/// What every command begins with: nothing that it makes is for others, whatever the umask of who
/// starts it; it gets no privilege by what it might run; and its memory, in which there are secrets, is
/// not dumped.
pub fn from_the_start() {
    umask(Mode::from_raw_mode(0o077));
    let _ = set_no_new_privs(true);
    // The limit does not hold where dumps are piped to a program; there the other one does (core(5)).
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// What remains to be given up before the first word with the network: from here on this thread, and
/// those that it starts, reach the files of `reach` and no others, run no program, take no connection,
/// and keep of root's privileges those for these files.
///
/// Call it before any thread is started, when all else has been read.
pub fn before_the_network(reach: &Reach) -> Confinement {
    let confinement = Confinement(to_files(reach));
    if let Ok(held) = capabilities(None) {
        let kept = CapabilitySets {
            effective: held.effective & KEPT,
            permitted: held.permitted & KEPT,
            inheritable: CapabilitySet::empty(),
        };
        let _ = set_capabilities(None, kept);
    }
    // Where it is refused `check` warns; nobody wants to read that each minute.
    log::debug!("confinement: {confinement}");
    confinement
}

impl Confinement {
    /// Whether the kernel has Landlock and refuses it all the same, which calls for a look at why.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.0.is_err()
    }
}

fn to_files(reach: &Reach) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    if let Some(folder) = &reach.folder {
        (&mut rules).add_rule(PathBeneath::new(folder, REPLACE))?;
    }
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        // What is not there need not be reached.
        let Ok(path) = PathFd::new(path) else {
            return Ok(());
        };
        (&mut rules).add_rule(PathBeneath::new(path, access)).map(drop)
    };
    for file in &reach.files {
        allow(file, READ_FILE)?;
    }
    for path in RESOLVER.iter().chain(LIBRARIES).map(Path::new) {
        allow(path, if path.is_dir() { READ } else { READ_FILE })?;
    }
    if let Some(folder) = resolvers_folder() {
        allow(&folder, READ)?;
    }
    rules.restrict_self().map(|status| status.ruleset)
}

/// Where resolv.conf is replaced at any time by who manages the network, if it is a link to there. One that
/// is replaced in /etc itself is out of reach for the rest of the run, so names that are looked up then
/// fail until the next.
fn resolvers_folder() -> Option<PathBuf> {
    let file = fs::canonicalize("/etc/resolv.conf").ok()?;
    let folder = file.parent()?;
    // Not what holds more than that.
    let shared = ["/", "/etc", "/run", "/var/run"].iter().any(|path| folder == Path::new(path));
    (!shared).then(|| folder.to_owned())
}

impl Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(RulesetStatus::FullyEnforced) => {
                f.write_str("Landlock keeps all files away but its own")?;
            }
            Ok(RulesetStatus::PartiallyEnforced) => {
                f.write_str("Landlock keeps files away but its own, as far as this kernel knows how")?;
            }
            Ok(RulesetStatus::NotEnforced) => f.write_str(
                "this kernel has no Landlock (Linux has it since 5.13, where it is switched on), or a \
                 sandbox forbids it, so only owners and modes keep files away",
            )?,
            Err(error) => write!(f, "Landlock can't be used ({error}); the run goes on without")?,
        }
        let has = |is: bool, what: &str| format!("; {what}{}", if is { "" } else { ": refused" });
        f.write_str(&has(no_new_privs().unwrap_or(false), "no new privileges"))?;
        let dumped = dumpable_behavior().unwrap_or(DumpableBehavior::Dumpable);
        f.write_str(&has(dumped == DumpableBehavior::NotDumpable, "no core dumps"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::{io, thread};

    use super::*;

    fn denied<T>(result: io::Result<T>) -> bool {
        matches!(result, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Does something in a thread that is confined, with how far it is; the others of this process stay
    /// as they are. On a kernel without Landlock there is nothing to be seen, unless this is CI's.
    fn confined(reach: &Reach, then: impl FnOnce(RulesetStatus) + Send) {
        let run = || {
            let confinement = before_the_network(reach);
            let status = confinement.0.unwrap();
            if std::env::var_os("CI").is_some() {
                assert_eq!(status, RulesetStatus::FullyEnforced, "Linux 6.12 or later is wanted");
            }
            if status != RulesetStatus::NotEnforced {
                then(status);
            }
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap());
    }

    #[test]
    fn nothing_is_reached_but_the_folder_and_what_is_named() {
        let home = tempfile::TempDir::new().unwrap();
        let path = |name: &str| home.path().join(name);
        fs::create_dir(path("own")).unwrap();
        for name in ["own/state", "secret", "other"] {
            fs::write(path(name), name).unwrap();
        }
        std::os::unix::fs::symlink(path("other"), path("own/link")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Dir::open(&path("own")).unwrap();
        let reach = Reach { folder: Some(own), files: vec![path("secret"), path("none")] };
        confined(&reach, |status| {
            // What saving a state does.
            fs::write(path("own/state.new"), "new").unwrap();
            fs::hard_link(path("own/state"), path("own/previous")).unwrap();
            fs::rename(path("own/state.new"), path("own/state")).unwrap();
            File::open(path("own")).unwrap().sync_all().unwrap();
            fs::remove_file(path("own/previous")).unwrap();
            assert_eq!(fs::read_to_string(path("own/state")).unwrap(), "new");
            assert_eq!(fs::read_to_string(path("secret")).unwrap(), "secret");
            assert!(fs::read("/etc/hosts").is_ok() && fs::read("/etc/resolv.conf").is_ok());
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();

            assert!(denied(fs::read(path("other"))));
            assert!(denied(fs::read(path("own/link"))));
            assert!(denied(fs::write(path("own/link"), "")));
            assert!(denied(fs::write(path("secret"), "")));
            assert!(denied(fs::write(path("new"), "")));
            assert!(denied(fs::remove_file(path("other"))));
            assert!(denied(fs::rename(path("own/state"), path("state"))));
            assert!(denied(fs::create_dir(path("own/folder"))));
            assert!(denied(std::os::unix::fs::symlink("x", path("own/further"))));
            assert!(denied(fs::read_dir(home.path())));
            assert!(denied(fs::read("/etc/passwd")));
            assert!(denied(fs::read("/proc/1/environ")));
            assert!(denied(std::process::Command::new("/bin/true").status()));
            if status == RulesetStatus::FullyEnforced {
                assert!(denied(TcpListener::bind("127.0.0.1:0")));
            }
        });
        assert_eq!(fs::read_to_string(path("other")).unwrap(), "other");
    }

    #[test]
    fn without_a_folder_nothing_is_written_anywhere() {
        let home = tempfile::TempDir::new().unwrap();
        confined(&Reach::default(), |_| {
            assert!(denied(fs::write(home.path().join("new"), "")));
            assert!(denied(fs::read_dir(home.path())));
        });
    }

    #[test]
    fn of_roots_privileges_those_for_files_remain() {
        confined(&Reach::default(), |_| {
            let held = capabilities(None).unwrap();
            assert_eq!(held.effective - KEPT, CapabilitySet::empty());
            assert_eq!(held.permitted - KEPT, CapabilitySet::empty());
            assert_eq!(held.inheritable, CapabilitySet::empty());
        });
    }
}
