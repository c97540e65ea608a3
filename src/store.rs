//! Files: read on the open handle after a look at owner and mode. How a path is walked is the matter of
//! `open`; our own folder is in `folder`.

mod folder;
mod open;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest;
use rustix::fs::{Mode, OFlags, fchmod};
use zeroize::Zeroizing;

pub use self::folder::{Folder, Loaded, Lock, Save};
pub use self::open::Dir;
use self::open::{Opened, RefusedLink};
use crate::bounded::{read_at_most, read_secretly};
use crate::content::ContentType;
use crate::error::Error;
use crate::ossec::{self, Ossec};
use crate::timestamp::Timestamp;

/// The largest configuration that is read: some 500 tenants fit many times.
const MOST_CONFIG: u64 = 16 << 20;

/// The largest file with a secret, a key or a certificate of our own.
const MOST_SECRET: u64 = 64 << 10;

/// The largest bundle of trusted certificates: a system's own has a quarter of a megabyte.
const MOST_BUNDLE: u64 = 16 << 20;

/// Wazuh's own configuration, and what a manager has sent to an agent, in HOME.
pub const OSSEC: &str = "etc/ossec.conf";
/// See [`OSSEC`].
pub const AGENT: &str = "etc/shared/agent.conf";

/// The folder of our log in HOME, and the log in it.
const LOGS: &str = "logs";
const LOG: &str = "wodle-office365.log";

/// Wazuh's folder, held open, and the places in it that are ours by contract.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    dir: Dir,
}

/// The configuration as a file.
#[derive(Debug)]
pub struct ConfigFile {
    /// What is in it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The group that may write to it, if one may.
    pub writers: Option<u32>,
}

/// What a file that the configuration names is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A secret or a private key.
    Secret,
    /// A certificate of our own, which anyone may read.
    Certificate,
    /// Certificates to trust, which anyone may read.
    Bundle,
}

impl Home {
    /// Takes `path` as Wazuh's folder.
    ///
    /// # Errors
    /// It is no folder, or is reached by a link that somebody else than root could have made.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display();
        match Dir::open(path) {
            Ok(dir) => Ok(Self { path: path.to_owned(), dir }),
            Err(error) if RefusedLink::of(&error).is_some() => {
                Err(Error::Setup(format!("--home {name}: {error}: name the folder itself")))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    Err(Error::Setup(format!("{name} is no folder: name Wazuh's with --home")))
                }
                _ => Err(Error::Setup(format!("--home {name} can't be used: {error}"))),
            },
        }
    }

    /// The default configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("etc/wodle-office365.conf")
    }

    /// The log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join(LOGS).join(LOG)
    }

    /// Opens the log file for appending; it and its folder are made if they are missing.
    ///
    /// # Errors
    /// It can't be opened, or may be another file under the log's name.
    pub fn open_log(&self) -> io::Result<File> {
        let folder = self.dir.make_subdir(Path::new(LOGS), 0o750)?;
        // Without blocking: there may be a pipe without a reader.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY;
        let (file, is_new) = folder.open_or_make(LOG, flags, 0o640)?;
        if is_new {
            // Whatever the umask is.
            fchmod(&file, Mode::from_raw_mode(0o640))?;
        } else if open::owned(&file)?.links > 1 {
            // Wazuh's group may make one in that folder, where the kernel doesn't protect hard links.
            return Err(io::Error::other("it is a hard link to another file: remove it"));
        }
        Ok(file)
    }

    /// The socket that Wazuh's daemons send events to.
    #[must_use]
    pub fn queue(&self) -> PathBuf {
        self.path.join("queue/sockets/queue")
    }

    /// A path as the configuration has it: relative ones start here, as Wazuh's own do.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    /// Opens a regular file, given by an absolute path or by one that starts here; what is in HOME is
    /// reached from the handle on it.
    fn open_file(&self, path: &Path) -> io::Result<Opened> {
        self.dir.file(path.strip_prefix(&self.path).unwrap_or(path))
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        read_at_most(self.open_file(path)?.file, most)
    }

    /// Reads the bookmark that Wazuh's own module left for a stream: where its last scan ended. One that is
    /// there and can't be used is a warning.
    ///
    /// It is a native `time_t`, written as it stands in memory (measured).
    #[must_use]
    pub fn native_bookmark(&self, tenant_id: &str, content_type: ContentType) -> Option<Timestamp> {
        let path = format!("var/wodles/office365-{tenant_id}-{content_type}");
        let read = match self.read(Path::new(&path), 64) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let seconds = read.and_then(|bytes| {
            let size = |_| io::Error::other("it doesn't have the size of a time_t");
            Ok(i64::from_ne_bytes(bytes.try_into().map_err(size)?))
        });
        match seconds {
            Ok(seconds @ 1..) => Some(Timestamp::from_unix(seconds)),
            unusable => {
                let why = unusable.err().map_or("it holds no time".to_owned(), |e| e.to_string());
                log::warn!(
                    "{tenant_id} {content_type}: the bookmark of Wazuh's own module, {}, can't be used: \
                     {why}; collecting begins as if there were none",
                    self.path.join(path).display()
                );
                None
            }
        }
    }

    /// What a file of Wazuh's own, given relative to here, says of us; with the reason why it can't be
    /// read, if it is there and can't.
    #[must_use]
    pub fn read_ossec(&self, path: &str) -> (Ossec, Option<String>) {
        match self.read(Path::new(path), MOST_CONFIG) {
            Ok(bytes) => (ossec::parse(&bytes), None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Ossec::default(), None),
            Err(error) => (Ossec::default(), Some(error.to_string())),
        }
    }

    /// The value of one of Wazuh's internal options, if it is set.
    #[must_use]
    pub fn internal_option(&self, name: &str) -> Option<u64> {
        let files = ["etc/internal_options.conf", "etc/local_internal_options.conf"];
        let read = |path| self.read(Path::new(path), MOST_CONFIG).unwrap_or_default();
        ossec::internal_option(&files.map(read), name)
    }

    /// Reads a configuration file, whose path starts in the working directory if it is relative.
    ///
    /// Refused when it belongs to neither root nor the caller, when everyone may write to it, or a group
    /// other than that of `HOME/etc`, or when somebody else than root could have put it there by a link.
    ///
    /// # Errors
    /// It can't be read or is refused; the text names the remedy.
    pub fn read_config(&self, path: &Path) -> Result<ConfigFile, Error> {
        let name = path.display();
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let opened = self.open_file(&whole).map_err(|error| {
            unreadable(&whole, &error, &|real| {
                format!("say --config {real} in the wodle block, or put the file itself there")
            })
        })?;
        check(&name, &opened, 0o002)?;
        let writers = (opened.owned.mode & 0o020 != 0).then_some(opened.owned.gid);
        if let Some(writers) = writers {
            let etc = self.dir.subdir(Path::new("etc")).and_then(|etc| etc.owned());
            if !etc.is_ok_and(|etc| etc.gid == writers) {
                return Err(refused(
                    &name,
                    "a group other than that of HOME/etc may write to it",
                    "chmod g-w",
                ));
            }
        }
        let bytes = read_secretly(opened.file, MOST_CONFIG);
        let bytes = bytes.map_err(|error| unreadable(&whole, &error, &|_| String::new()))?;
        Ok(ConfigFile { bytes, writers })
    }

    /// Reads a file that the configuration names. `writers`: the group that may write to the configuration.
    ///
    /// Refused when anyone but its owner may write it, when it holds a secret and everyone may read it, or
    /// when `writers` may not read it.
    ///
    /// # Errors
    /// It can't be read or is refused; the text names the remedy.
    pub fn read_named(
        &self,
        path: &Path,
        named: Named,
        writers: Option<u32>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (forbidden, most) = match named {
            Named::Secret => (0o026, MOST_SECRET),
            Named::Certificate => (0o022, MOST_SECRET),
            Named::Bundle => (0o022, MOST_BUNDLE),
        };
        let name = path.display();
        let unreadable = |error: io::Error| {
            unreadable(path, &error, &|real| format!("write {real} into the configuration"))
        };
        let opened = self.open_file(path).map_err(unreadable)?;
        check(&name, &opened, forbidden)?;
        if let Some(group) = writers.filter(|group| !opened.is_readable_by(*group)) {
            return Err(Error::Setup(format!(
                "{name} is not used because group {group} may write to the configuration that names it, \
                 but may not read this file, and could so have any file of root's sent anywhere. If it is \
                 the file that you mean, move the <office365> block from there to {}, with mode 0640, or \
                 let the group read it (chgrp {group} {name} && chmod g+r {name})",
                self.config().display()
            )));
        }
        read_secretly(opened.file, most).map_err(unreadable)
    }

    /// Our own folder, made if it is missing, and tightened if it is open to others.
    ///
    /// # Errors
    /// It can't be made or used.
    pub fn folder(&self) -> Result<Folder, Error> {
        Folder::make(&self.path, &self.dir)
    }

    /// Our own folder, only to be looked into: nothing is made or changed.
    ///
    /// # Errors
    /// It is there and can't be used.
    pub fn look(&self) -> Result<Folder, Error> {
        Folder::find(&self.path, &self.dir)
    }

    /// What is wrong with our log, if others may use it in a way that `mode` names.
    #[must_use]
    pub fn log_fault(&self, mode: u32) -> Option<String> {
        let logs = self.dir.subdir(Path::new(LOGS)).ok()?;
        folder::too_open(&self.log(), &logs.owned_at(LOG)?, mode)
    }
}

/// Why a file can't be read, with what to do about it. `instead`: what to do about a link that is not
/// followed, given where it leads.
fn unreadable(path: &Path, error: &io::Error, instead: &dyn Fn(&str) -> String) -> Error {
    let name = path.display();
    if let Some(link) = RefusedLink::of(error) {
        let remedy = match &link.leads_to {
            Some(real) => instead(&real.display().to_string()),
            None => "root has not made it: remove it, and find out who has".to_owned(),
        };
        return Error::Setup(format!("{name} is not used: {error}; {remedy}"));
    }
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; is it spelt right? Relative paths begin at HOME",
        io::ErrorKind::PermissionDenied => "; run this as root",
        _ => "",
    };
    Error::Setup(format!("{name} can't be read: {error}{remedy}"))
}

fn refused(name: &dyn fmt::Display, why: &str, remedy: &str) -> Error {
    Error::Setup(format!("{name} is not used because {why}: {remedy} {name}"))
}

/// Checks who owns a file and that nothing of `forbidden` is set in its mode.
fn check(name: &dyn fmt::Display, opened: &Opened, forbidden: u32) -> Result<(), Error> {
    let found = opened.owned.mode & forbidden;
    let (why, remedy) = if opened.owned.stranger().is_some() {
        ("it belongs neither to root nor to who runs this", "chown root")
    } else if opened.is_exposed && opened.owned.links > 1 {
        (
            "it is a hard link in a folder that others than root may write to",
            "put a copy in place of",
        )
    } else if found & 0o002 != 0 {
        ("everyone may write to it", "chmod o-w")
    } else if found & 0o004 != 0 {
        ("everyone may read it", "chmod o-r")
    } else if found & 0o020 != 0 {
        ("its group may write to it", "chmod g-w")
    } else {
        return Ok(());
    };
    Err(refused(name, why, remedy))
}

/// The SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// It can't be read.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let unreadable = |error| Error::Run(format!("{} can't be read: {error}", path.display()));
    let mut file =
        Dir::open(Path::new(".")).and_then(|dir| dir.file(path)).map_err(unreadable)?.file;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => break,
            read => context.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads the configuration from stdin.
///
/// # Errors
/// It can't be read or is too large.
pub fn read_stdin() -> Result<Zeroizing<Vec<u8>>, Error> {
    read_secretly(io::stdin().lock(), MOST_CONFIG).map_err(|error| {
        Error::Setup(format!("the configuration can't be read from stdin: {error}"))
    })
}
