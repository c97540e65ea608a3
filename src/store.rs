//! Files: read on the open handle after a look at owner and mode. Our own folder is in `folder`.

mod folder;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::digest;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

pub use self::folder::{Folder, Loaded, Lock, Replacement, too_open};
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

/// Our own folder, in HOME.
const FOLDER: &str = "var/wodles/wodle-office365";

/// Wazuh's own configuration, and what a manager has sent to an agent, in HOME.
pub const OSSEC: &str = "etc/ossec.conf";
/// See [`OSSEC`].
pub const AGENT: &str = "etc/shared/agent.conf";

/// Wazuh's folder and the places in it that are ours by contract.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Takes `path` as Wazuh's folder.
    ///
    /// # Errors
    /// It is no folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return Ok(Self(path.to_owned()));
        }
        let path = path.display();
        Err(Error::Setup(format!("{path} is no folder: name Wazuh's with --home")))
    }

    /// The default configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("etc/wodle-office365.conf")
    }

    /// The log file; its folder is made if it is missing.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        let folder = self.0.join("logs");
        // A folder that can't be made shows when the file is opened.
        let _ = DirBuilder::new().mode(0o750).create(&folder);
        folder.join("wodle-office365.log")
    }

    /// The socket that Wazuh's daemons send events to.
    #[must_use]
    pub fn queue(&self) -> PathBuf {
        self.0.join("queue/sockets/queue")
    }

    /// A path as the configuration has it: relative ones start here, as Wazuh's own do.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.0.join(path)
    }

    /// Reads the bookmark that Wazuh's own module left for a stream: where its last scan ended.
    ///
    /// It is a native `time_t`, written as it stands in memory (measured).
    #[must_use]
    pub fn native_bookmark(&self, tenant_id: &str, content_type: ContentType) -> Option<Timestamp> {
        let path = self.0.join(format!("var/wodles/office365-{tenant_id}-{content_type}"));
        let bytes = open_regular(&path).and_then(|file| read_at_most(file, 64)).ok()?;
        let seconds = i64::from_ne_bytes(bytes.try_into().ok()?);
        (seconds > 0).then(|| Timestamp::from_unix(seconds))
    }

    /// What a file of Wazuh's own, given relative to here, says of us; with the reason why it can't be
    /// read, if it is there and can't.
    #[must_use]
    pub fn read_ossec(&self, path: &str) -> (Ossec, Option<String>) {
        let bytes = open_regular(&self.0.join(path)).and_then(|f| read_at_most(f, MOST_CONFIG));
        match bytes {
            Ok(bytes) => (ossec::parse(&bytes), None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Ossec::default(), None),
            Err(error) => (Ossec::default(), Some(error.to_string())),
        }
    }

    /// The value of one of Wazuh's internal options, if it is set.
    #[must_use]
    pub fn internal_option(&self, name: &str) -> Option<u64> {
        let files = ["etc/internal_options.conf", "etc/local_internal_options.conf"];
        let read =
            |path| open_regular(&self.0.join(path)).and_then(|f| read_at_most(f, MOST_CONFIG));
        let files: Vec<_> = files.into_iter().map(|path| read(path).unwrap_or_default()).collect();
        ossec::internal_option(&files, name)
    }

    /// Reads a configuration file.
    ///
    /// Refused when it is writable by everyone, owned by neither root nor the caller, or writable
    /// by a group other than that of `HOME/etc`.
    ///
    /// # Errors
    /// It can't be read or is refused; the text names the remedy.
    pub fn read_config(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.read_checked(path, 0o002, MOST_CONFIG)
    }

    /// Reads a file that holds a secret or a private key.
    ///
    /// Refused when everyone may read it, or anyone but its rightful owner may write it.
    ///
    /// # Errors
    /// It can't be read or is refused; the text names the remedy.
    pub fn read_private(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.read_checked(path, 0o006, MOST_SECRET)
    }

    /// Reads a file with a certificate of our own, which anyone may read; a key may be in it as well.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read_certificate(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bytes = open_regular(path).and_then(|file| read_secretly(file, MOST_SECRET));
        bytes.map_err(|error| Error::Setup(format!("{} can't be read: {error}", path.display())))
    }

    /// Reads a file with certificates to trust, which is checked as the configuration is.
    ///
    /// # Errors
    /// It can't be read or is refused; the text names the remedy.
    pub fn read_bundle(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.read_checked(path, 0o002, MOST_BUNDLE)
    }

    fn read_checked(
        &self,
        path: &Path,
        forbidden: u32,
        most: u64,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let name = path.display();
        let unreadable = |error: io::Error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "; is it spelt right? Relative paths begin at HOME",
                io::ErrorKind::PermissionDenied => "; run this as root",
                _ => "",
            };
            Error::Setup(format!("{name} can't be read: {error}{remedy}"))
        };
        let file = open_regular(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let mode = meta.permissions().mode() & 0o7777;
        let refused = |why: &str, remedy: &str| {
            Err(Error::Setup(format!("{name} is not used because {why}: {remedy} {name}")))
        };
        if folder::strangers(&meta).is_some() {
            return refused("it belongs neither to root nor to who runs this", "chown root");
        }
        if mode & forbidden & 0o002 != 0 {
            return refused("everyone may write to it", "chmod o-w");
        }
        if mode & forbidden & 0o004 != 0 {
            return refused("everyone may read it", "chmod o-r");
        }
        if mode & 0o020 != 0 {
            let group = fs::metadata(self.0.join("etc")).map(|etc| etc.gid());
            if !group.is_ok_and(|group| group == meta.gid()) {
                return refused("a group other than that of HOME/etc may write to it", "chmod g-w");
            }
        }
        read_secretly(file, most).map_err(unreadable)
    }

    /// Our own folder, made if it is missing, and tightened if it is open to others.
    ///
    /// # Errors
    /// It can't be made or used.
    pub fn folder(&self) -> Result<Folder, Error> {
        let folder = self.look();
        folder.make().map_err(|error| {
            Error::Run(format!(
                "the folder {} can't be used: {error}; it must belong to who runs this, with mode \
                 0700",
                self.0.join(FOLDER).display()
            ))
        })?;
        Ok(folder)
    }

    /// Our own folder, only to be looked into: nothing is made or changed.
    #[must_use]
    pub fn look(&self) -> Folder {
        Folder::at(self.0.join(FOLDER))
    }
}

/// Flags of open(2), as [`OpenOptionsExt::custom_flags`] takes them.
pub(crate) fn open_flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Opens a regular file; anything else (a pipe would block for ever) is refused.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = open_flags(OFlags::NONBLOCK | OFlags::CLOEXEC);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// It can't be read.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let unreadable = |error| Error::Run(format!("{} can't be read: {error}", path.display()));
    let mut file = open_regular(path).map_err(unreadable)?;
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
