//! Our own folder in HOME: the state and its previous copy, tokens, the lock.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, OFlags, StatxAttributes, StatxFlags, statx,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{open_flags, open_regular};
use crate::bounded::{read_at_most, read_secretly};
use crate::error::Error;
use crate::event::{Kinds, Saved};
use crate::parent::process_start;
use crate::state::{BadState, State};
use crate::timestamp::Timestamp;

/// The largest state or token file that is read.
const MOST_STATE: u64 = 1 << 30;

const STATE: &str = "state.json";
const PREVIOUS: &str = "state.previous.json";
const STAND_IN: &str = "stand-in.json";
const TOKENS: &str = "token.json";
const KINDS: &str = "kinds.json";

/// The largest file of kinds that is read; as many as are known take less.
const MAX_KINDS: u64 = 16 << 20;

/// `HOME/var/wodles/wodle-office365`.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    state: &'static str,
    previous: &'static str,
}

/// Held by a poll from its start to its end.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its closing is what unlocks")] File);

impl Lock {
    fn taken(mut file: File, now: Timestamp) -> io::Result<Self> {
        let pid = std::process::id();
        let started = process_start(pid).unwrap_or_default();
        file.set_len(0)?;
        file.write_all(format!("{now} {pid} {started}").as_bytes())?;
        Ok(Self(file))
    }
}

/// Whom something belongs to that belongs neither to root nor to the caller.
pub(super) fn strangers(meta: &Metadata) -> Option<u32> {
    let caller = rustix::process::geteuid().as_raw();
    Some(meta.uid()).filter(|owner| *owner != 0 && *owner != caller)
}

/// What is wrong with a file of ours that others may use in a way that `mode` names, or that belongs to
/// somebody else; none where it is not there.
#[must_use]
pub fn too_open(path: &Path, mode: u32) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    let (name, found) = (path.display(), meta.permissions().mode() & 0o7777);
    if let Some(owner) = strangers(&meta) {
        return Some(format!("{name} belongs to user {owner}, not to root: chown root {name}"));
    }
    let open = found & mode;
    (open != 0).then(|| {
        let less = [(0o070, 'g'), (0o007, 'o')].iter().filter(|(bits, _)| open & bits != 0);
        let whom: String = less.map(|(_, whom)| *whom).collect();
        format!("{name} has mode {found:04o}, so others may use it: chmod {whom}= {name}")
    })
}

/// What a lock file says: since when it was last held, and by which process, with when that was
/// started.
fn holder(text: &[u8]) -> (Option<Timestamp>, Option<(u32, u64)>) {
    let mut words = std::str::from_utf8(text).unwrap_or_default().split(' ');
    let since = words.next().and_then(Timestamp::parse);
    let process = (|| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?)))();
    (since, process)
}

impl Folder {
    /// The folder at `path`; nothing is made or changed.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, state: STATE, previous: PREVIOUS }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it if it is missing, and tightens it if it is open to others.
    pub(super) fn make(&self) -> io::Result<()> {
        let path = &self.path;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // Wazuh's group may put a link, or a folder of its own, in our folder's place.
        for meta in [fs::symlink_metadata(path)?, fs::metadata(path)?] {
            if let Some(owner) = strangers(&meta) {
                let what = if meta.is_symlink() { "symbolic link" } else { "folder" };
                return Err(io::Error::other(format!("it is a {what} of user {owner}'s")));
            }
        }
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// The same folder with another state, which stands in for one that can't be used: only what
    /// was told is counted there. It is of no poll, so it never has a previous copy.
    #[must_use]
    pub fn stand_in(&self) -> Self {
        Self { path: self.path.clone(), state: STAND_IN, previous: STAND_IN }
    }

    /// The state can be used: nothing stands in for it any more.
    pub fn forget_stand_in(&self) {
        let _ = fs::remove_file(self.path.join(STAND_IN));
    }

    /// Takes the lock, or says since when another poll has held it (none where that is not told).
    ///
    /// # Errors
    /// The file can't be used.
    pub fn lock(&self, now: Timestamp) -> io::Result<Result<Lock, Option<Timestamp>>> {
        let file = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => Lock::taken(file, now).map(Ok),
            Err(TryLockError::WouldBlock) => Ok(Err(holder(&read_at_most(file, 64)?).0)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the lock; `now` tells the time when it is taken.
    ///
    /// # Errors
    /// The file can't be used.
    pub fn wait_for_lock(&self, now: impl Fn() -> Timestamp) -> io::Result<Lock> {
        let file = self.open_lock()?;
        file.lock()?;
        Lock::taken(file, now())
    }

    /// What is not as private as we make it, of the folder and the files in it: a path, and what is
    /// wrong with it.
    #[must_use]
    pub fn too_open(&self) -> Vec<String> {
        let names = [STATE, PREVIOUS, STAND_IN, TOKENS, KINDS, "lock"];
        let files = names.map(|name| self.path.join(name));
        [self.path.clone()].iter().chain(&files).filter_map(|path| too_open(path, 0o077)).collect()
    }

    /// Since when the lock has been held, if it is. It is not touched: whoever wants it may have it.
    #[must_use]
    pub fn locked_since(&self) -> Option<Timestamp> {
        let file = open_regular(&self.path.join("lock")).ok()?;
        let (since, holder) = holder(&read_at_most(file, 64).ok()?);
        let (pid, started) = holder?;
        since.filter(|_| process_start(pid) == Some(started))
    }

    fn open_lock(&self) -> io::Result<File> {
        let path = self.path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(open_flags(OFlags::NOFOLLOW)).open(path)
    }

    /// Reads the state, from its previous copy where the newest can't be read; a new one where
    /// there has never been any.
    ///
    /// # Errors
    /// It is of an unknown version, or neither copy can be used: never a silent new beginning.
    pub fn load_state(&self) -> Result<Loaded, Error> {
        let newest = self.path.join(self.state);
        let previous = self.path.join(self.previous);
        let damage = match read_state(&newest) {
            Ok(Some(state)) => {
                let keep_previous = state.last_poll.is_none();
                return Ok(Loaded { state, keep_previous, damage: None });
            }
            Ok(None) => None,
            Err(Unreadable::Version(version)) => {
                return Err(Error::Setup(format!(
                    "{} is of version {version}, which this release doesn't know: install the \
                     release that wrote it, or move the file away to start anew (what was \
                     delivered is then forgotten)",
                    newest.display()
                )));
            }
            Err(Unreadable::Denied(why)) => return Err(denied(&newest, &why)),
            Err(Unreadable::Damage(why)) => Some(why),
        };
        let found = read_state(&previous);
        if damage.is_none() && matches!(found, Ok(None)) {
            return Ok(Loaded::default());
        }
        let damage = match damage {
            Some(why) => format!("{} can't be used: {why}", newest.display()),
            None => format!("{} is missing", newest.display()),
        };
        match found {
            Ok(Some(mut state)) => {
                let damage = format!(
                    "{damage}; its previous copy is used, so the last run's events come once more"
                );
                log::warn!("{damage}");
                state.lost_since = state.last_poll;
                Ok(Loaded { state, keep_previous: true, damage: Some(damage) })
            }
            other => {
                let why = match other {
                    Err(Unreadable::Denied(why)) => return Err(denied(&previous, &why)),
                    Err(Unreadable::Damage(why)) => why,
                    Err(Unreadable::Version(version)) => format!("it is of version {version}"),
                    Ok(_) => "it is missing".to_owned(),
                };
                Err(Error::Setup(format!(
                    "{damage}, and its previous copy {} can't be used either ({why}): restore one \
                     of them from a backup, or move both away to start anew (what was delivered is \
                     then forgotten)",
                    previous.display()
                )))
            }
        }
    }

    /// Shows that a state can be saved: makes the temporary file, with room for `size` bytes, and
    /// looks whether the present one can be replaced.
    ///
    /// # Errors
    /// It can't, or the disk is full.
    pub fn prepare_save(&self, size: u64) -> io::Result<Replacement> {
        for name in [self.state, self.previous] {
            check_replaceable(&self.path.join(name))?;
        }
        Replacement::prepare(&self.path, self.state, size).map_err(|error| {
            io::Error::new(error.kind(), format!("{error} (it needs {} KiB)", size.div_ceil(1024)))
        })
    }

    /// Room for the state after one more run: some 10,000 blobs more may wait, of half a kilobyte
    /// each; those that it writes, `output` bytes of a kilobyte and more each, are handed over.
    #[must_use]
    pub fn state_room(&self, output: u64) -> u64 {
        let size = fs::metadata(self.path.join(self.state)).map_or(0, |meta| meta.len());
        size.saturating_add(size / 4).saturating_add(output / 2).saturating_add(6 << 20)
    }

    /// Replaces the state, keeping the one it replaces as the previous copy unless `keep_previous`.
    ///
    /// # Errors
    /// The old state still stands.
    pub fn save_state(
        &self,
        prepared: Replacement,
        state: &State,
        keep_previous: bool,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(state)?;
        let (newest, previous) = (self.path.join(self.state), self.path.join(self.previous));
        prepared.fill(&bytes)?;
        if newest.exists() && !keep_previous {
            // Linked, not moved: at no moment is there no state.
            match fs::remove_file(&previous) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::hard_link(&newest, &previous)
                .or_else(|_| fs::copy(&newest, &previous).map(drop))?;
        }
        prepared.commit()
    }

    /// The tokens kept from earlier runs; none where the file can't be used: they are only saved
    /// requests.
    #[must_use]
    pub fn load_tokens(&self) -> Zeroizing<Vec<u8>> {
        let file = open_regular(&self.path.join(TOKENS));
        file.and_then(|file| read_secretly(file, MOST_STATE)).unwrap_or_default()
    }

    /// Replaces the kept tokens.
    ///
    /// # Errors
    /// The old file still stands.
    pub fn save_tokens(&self, bytes: &[u8]) -> io::Result<()> {
        let replacement = Replacement::prepare(&self.path, TOKENS, 0)?;
        replacement.fill(bytes)?;
        replacement.commit()
    }

    /// What earlier runs have learned of the kinds of paths. A file that can't be used is a warning: its
    /// kinds are learned again.
    #[must_use]
    pub fn load_kinds(&self, now: Timestamp) -> Kinds {
        let path = self.path.join(KINDS);
        let name = path.display().to_string();
        let bytes = match open_regular(&path).and_then(|file| read_at_most(file, MAX_KINDS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Kinds::default(),
            read => read.map_err(|error| error.to_string()),
        };
        Kinds::new(Some(Saved { bytes, name, now }))
    }

    /// Replaces what is known of the kinds of paths. Not `durable`: it survives the end of the process, but
    /// perhaps not that of the machine, and nothing waits for the disk.
    ///
    /// # Errors
    /// The old file is still there.
    pub fn save_kinds(&self, bytes: &[u8], durable: bool) -> io::Result<()> {
        let replacement = Replacement::prepare(&self.path, KINDS, 0)?;
        if durable {
            replacement.fill(bytes)?;
            replacement.commit()
        } else {
            replacement.write(bytes)?;
            replacement.rename()
        }
    }
}

/// Looks whether a file, if it is there, can be replaced by another one.
fn check_replaceable(path: &Path) -> io::Result<()> {
    let refused = |why: &str| Err(io::Error::other(format!("{} {why}", path.display())));
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    match found {
        Err(Errno::NOENT) => Ok(()),
        // A kernel, or a sandbox, that doesn't know the call: the saving will tell.
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if FileType::from_raw_mode(found.stx_mode.into()).is_dir() => {
            refused("is a folder: remove it")
        }
        Ok(found) if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) => {
            refused("may not be changed: chattr -i")
        }
        Ok(_) => Ok(()),
    }
}

/// A state as it was found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// Whether the newest file may not become the previous copy: it is damaged, or no poll has ever
    /// ended with it, so that falling back to it would forget every stream.
    pub keep_previous: bool,
    /// What is wrong with the newest file, where its previous copy is used.
    pub damage: Option<String>,
}

enum Unreadable {
    Version(u64),
    /// Whoever runs this may not read it.
    Denied(String),
    Damage(String),
}

fn denied(path: &Path, why: &str) -> Error {
    Error::Setup(format!("{} can't be read: {why}; run this as root", path.display()))
}

/// The state in a file; none where there is no such file.
fn read_state(path: &Path) -> Result<Option<State>, Unreadable> {
    let bytes = match open_regular(path).and_then(|file| read_at_most(file, MOST_STATE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Unreadable::Denied(error.to_string()));
        }
        Err(error) => return Err(Unreadable::Damage(error.to_string())),
    };
    match State::parse(&bytes) {
        Ok(state) => Ok(Some(state)),
        Err(BadState::Version(version)) => Err(Unreadable::Version(version)),
        Err(BadState::Damaged(why)) => Err(Unreadable::Damage(why)),
    }
}

/// A temporary file that will take the place of another in the same folder.
#[derive(Debug)]
pub struct Replacement {
    folder: PathBuf,
    temporary: PathBuf,
    target: PathBuf,
    file: File,
}

impl Replacement {
    fn prepare(folder: &Path, name: &str, size: u64) -> io::Result<Self> {
        let temporary = folder.join(format!("{name}.new"));
        // One that a crash has left, or a link to somewhere else.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        if size > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                // A file system that can't reserve room: the writing will tell.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { folder: folder.to_owned(), temporary, target: folder.join(name), file })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)
    }

    fn fill(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)?;
        self.file.sync_all()
    }

    fn rename(&self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)
    }

    fn commit(self) -> io::Result<()> {
        self.rename()?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for Replacement {
    /// One that came to nothing leaves nothing; one that was renamed is no longer there.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}
