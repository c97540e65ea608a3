//! Our own folder in HOME: the state and its previous copy, tokens, the lock.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, chmodat, fchmod,
    linkat, renameat, statx, unlinkat,
};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::open::{Dir, Owned, RefusedLink};
use crate::bounded::{read_at_most, read_secretly};
use crate::error::Error;
use crate::event::{Kinds, Saved};
use crate::parent::process_start;
use crate::state::{BadState, MAX_STATE, State};
use crate::timestamp::Timestamp;

/// Our own folder, in HOME.
const FOLDER: &str = "var/wodles/wodle-office365";

/// The largest state or token file that is read: earlier releases wrote states of 200 MB.
const MAX_READ: u64 = 1 << 30;

const STATE: &str = "state.json";
const PREVIOUS: &str = "state.previous.json";
const STAND_IN: &str = "stand-in.json";
const TOKENS: &str = "token.json";
const KINDS: &str = "kinds.json";
const LOCK: &str = "lock";

/// The largest file of kinds that is read; as many as are known take less.
const MAX_KINDS: u64 = 16 << 20;

/// What a state may have beyond its bound, in bytes: texts of what has failed in very many streams.
const MARGIN: u64 = 2 << 20;

/// For reading a file of ours: without blocking, should it be anything else.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// `HOME/var/wodles/wodle-office365`, held open: whatever becomes of its path, all is done in this folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// None where it is not there.
    dir: Option<Dir>,
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

/// What is wrong with a file of ours, if it belongs to somebody else, or others may use it in a way that
/// `mode` names.
pub(super) fn too_open(path: &Path, owned: &Owned, mode: u32) -> Option<String> {
    let name = path.display();
    if let Some(owner) = owned.stranger() {
        return Some(format!("{name} belongs to user {owner}, not to root: chown root {name}"));
    }
    let open = owned.mode & mode;
    (open != 0).then(|| {
        let less = [(0o070, 'g'), (0o007, 'o')].iter().filter(|(bits, _)| open & bits != 0);
        let whom: String = less.map(|(_, whom)| *whom).collect();
        format!("{name} has mode {:04o}, so others may use it: chmod {whom}= {name}", owned.mode)
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
    /// The folder in `home`, made if it is missing, and tightened if it is open to others.
    pub(super) fn make(home_path: &Path, home: &Dir) -> Result<Self, Error> {
        let path = home_path.join(FOLDER);
        let made = (|| {
            // The whole way: Wazuh may not be there yet.
            let parents =
                Path::new(FOLDER).ancestors().skip(1).filter(|path| *path != Path::new(""));
            for parent in parents.collect::<Vec<_>>().into_iter().rev() {
                home.make_subdir(parent, 0o700)?;
            }
            let dir = home.make_subdir(Path::new(FOLDER), 0o700)?;
            if not_strangers(&dir)?.mode & 0o077 != 0 {
                chmodat(&dir, ".", Mode::from_raw_mode(0o700), AtFlags::empty())?;
            }
            Ok(dir)
        })();
        match made {
            Ok(dir) => Ok(Self::at(path, Some(dir))),
            Err(error) => Err(Error::Run(unusable(&path, &error))),
        }
    }

    /// The folder in `home`, if it is there.
    pub(super) fn find(home_path: &Path, home: &Dir) -> Result<Self, Error> {
        let path = home_path.join(FOLDER);
        let found = home.subdir(Path::new(FOLDER));
        match found.and_then(|dir| not_strangers(&dir).map(|_| dir)) {
            Ok(dir) => Ok(Self::at(path, Some(dir))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::at(path, None)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(denied(&path, &error.to_string()))
            }
            Err(error) => Err(Error::Setup(unusable(&path, &error))),
        }
    }

    fn at(path: PathBuf, dir: Option<Dir>) -> Self {
        Self { path, dir, state: STATE, previous: PREVIOUS }
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle on it.
    ///
    /// # Errors
    /// It is not there.
    pub fn dir(&self) -> io::Result<&Dir> {
        self.dir.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.dir()?.open_at(OsStr::new(name), READ, 0)
    }

    /// The same folder with another state, which stands in for one that can't be used: only what
    /// was told is counted there. It is of no poll, so it never has a previous copy.
    #[must_use]
    pub fn stand_in(&self) -> Self {
        Self { state: STAND_IN, previous: STAND_IN, ..self.clone() }
    }

    /// The state can be used: nothing stands in for it any more.
    pub fn forget_stand_in(&self) {
        let _ = self.dir().and_then(|dir| remove(dir, STAND_IN));
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
        let Some(dir) = &self.dir else {
            return Vec::new();
        };
        let names = [".", STATE, PREVIOUS, STAND_IN, TOKENS, KINDS, LOCK];
        let fault = |name: &str| {
            let path = if name == "." { self.path.clone() } else { self.path.join(name) };
            too_open(&path, &dir.owned_at(name)?, 0o077)
        };
        names.into_iter().filter_map(fault).collect()
    }

    /// Since when the lock has been held, if it is. It is not touched: whoever wants it may have it.
    #[must_use]
    pub fn locked_since(&self) -> Option<Timestamp> {
        let file = self.open(LOCK).ok()?;
        let (since, holder) = holder(&read_at_most(file, 64).ok()?);
        let (pid, started) = holder?;
        since.filter(|_| process_start(pid) == Some(started))
    }

    fn open_lock(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        Ok(self.dir()?.open_or_make(LOCK, flags, 0o600)?.0)
    }

    /// Reads the state, from its previous copy where the newest can't be read; a new one where
    /// there has never been any.
    ///
    /// # Errors
    /// It is of an unknown version, or neither copy can be used: never a silent new beginning.
    pub fn load_state(&self) -> Result<Loaded, Error> {
        let newest = self.path.join(self.state);
        let previous = self.path.join(self.previous);
        let damage = match self.read_state(self.state) {
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
        let found = self.read_state(self.previous);
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

    /// The state in a file; none where there is no such file.
    fn read_state(&self, name: &str) -> Result<Option<State>, Unreadable> {
        let bytes = match self.open(name).and_then(|file| read_at_most(file, MAX_READ)) {
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

    /// Shows that a state can be saved: makes the temporary file, with room for `size` bytes, and, unless
    /// `keep_previous`, the previous copy that the present state is to become; and looks whether the
    /// present ones can be replaced.
    ///
    /// # Errors
    /// It can't, or the disk is full.
    pub fn prepare_save(&self, size: u64, keep_previous: bool) -> io::Result<Save> {
        let dir = self.dir()?;
        for name in [self.state, self.previous] {
            check_replaceable(dir, &self.path, name)?;
        }
        let state = Replacement::prepare(dir, self.state, size).map_err(|error| {
            io::Error::new(error.kind(), format!("{error} (it needs {} KiB)", size.div_ceil(1024)))
        })?;
        let previous = match self.open(self.state) {
            Ok(newest) if !keep_previous && self.previous != self.state => {
                Some(self.prepare_previous(dir, newest)?)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => None,
        };
        Ok(Save { state, previous })
    }

    /// Makes the previous copy of the present state under a temporary name: another name of the same file
    /// needs no room. Where the file system knows no such names it is copied now, while it may still fail.
    fn prepare_previous(&self, dir: &Dir, mut newest: File) -> io::Result<Temporary> {
        let temporary = Temporary::unused(dir, self.previous)?;
        if linkat(dir, self.state, dir, &temporary.name, AtFlags::empty()).is_err() {
            let mut copy = temporary.make()?;
            io::copy(&mut newest, &mut copy)?;
            copy.sync_all()?;
        }
        Ok(temporary)
    }

    /// Room for the state after one more run: as much as it may have, or more if it has that already.
    #[must_use]
    pub fn state_room(&self) -> u64 {
        let size = self.open(self.state).and_then(|file| file.metadata());
        let size = size.map_or(0, |meta| meta.len());
        size.saturating_add(size / 4).max(MAX_STATE as u64).saturating_add(MARGIN)
    }

    /// The tokens kept from earlier runs; none where the file can't be used: they are only saved
    /// requests.
    #[must_use]
    pub fn load_tokens(&self) -> Zeroizing<Vec<u8>> {
        let file = self.open(TOKENS);
        file.and_then(|file| read_secretly(file, MAX_READ)).unwrap_or_default()
    }

    /// Replaces the kept tokens.
    ///
    /// # Errors
    /// The old file still stands.
    pub fn save_tokens(&self, bytes: &[u8]) -> io::Result<()> {
        let replacement = Replacement::prepare(self.dir()?, TOKENS, 0)?;
        replacement.fill(bytes)?;
        replacement.commit()
    }

    /// What earlier runs have learned of the kinds of paths. A file that can't be used is a warning: its
    /// kinds are learned again.
    #[must_use]
    pub fn load_kinds(&self, now: Timestamp) -> Kinds {
        let name = self.path.join(KINDS).display().to_string();
        let bytes = match self.open(KINDS).and_then(|file| read_at_most(file, MAX_KINDS)) {
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
        let replacement = Replacement::prepare(self.dir()?, KINDS, 0)?;
        if durable {
            replacement.fill(bytes)?;
            replacement.commit()
        } else {
            replacement.write(bytes)?;
            replacement.rename()
        }
    }
}

/// The same folder, unless it belongs to somebody else: Wazuh's group may put one of its own in its place.
fn not_strangers(dir: &Dir) -> io::Result<Owned> {
    let owned = dir.owned()?;
    match owned.stranger() {
        Some(owner) => Err(io::Error::other(format!("it is a folder of user {owner}'s"))),
        None => Ok(owned),
    }
}

fn unusable(path: &Path, error: &io::Error) -> String {
    let remedy = match RefusedLink::of(error).map(|link| &link.leads_to) {
        Some(Some(real)) => format!(
            "move the folder {} there, with everything in it: without it collecting would begin again",
            real.display()
        ),
        Some(None) => "root has not made it: remove it, and find out who has".to_owned(),
        None => "it must belong to who runs this, with mode 0700".to_owned(),
    };
    format!("the folder {} can't be used: {error}; {remedy}", path.display())
}

/// Looks whether a file in our folder, if it is there, can be replaced by another one.
fn check_replaceable(dir: &Dir, path: &Path, name: &str) -> io::Result<()> {
    let refused = |why: &str| Err(io::Error::other(format!("{} {why}", path.join(name).display())));
    let found = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
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

/// Removes a file in our folder, if it is there.
fn remove(dir: &Dir, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => Err(error.into()),
        _ => Ok(()),
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

/// A state that can be saved: all that this needs is there.
#[derive(Debug)]
pub struct Save {
    state: Replacement,
    /// What the present state is called until it becomes the previous copy.
    previous: Option<Temporary>,
}

impl Save {
    /// Replaces the state.
    ///
    /// # Errors
    /// The old state is still there.
    pub fn commit(self, state: &State) -> io::Result<()> {
        self.state.fill(&serde_json::to_vec(state)?)?;
        if let Some(previous) = self.previous {
            // Linked or copied, not moved: at no moment is there no state.
            previous.rename()?;
        }
        self.state.commit()
    }
}

/// The temporary name of what will take a file's place. Unless it is renamed it leaves nothing.
#[derive(Debug)]
struct Temporary {
    dir: Dir,
    name: String,
    target: &'static str,
}

impl Temporary {
    /// The one for the file `target` in `dir`. One that a crash has left is removed, or a link to
    /// somewhere else.
    fn unused(dir: &Dir, target: &'static str) -> io::Result<Self> {
        let name = format!("{target}.new");
        remove(dir, &name)?;
        Ok(Self { dir: dir.clone(), name, target })
    }

    fn make(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.dir.open_at(OsStr::new(&self.name), flags, 0o600)?;
        fchmod(&file, Mode::from_raw_mode(0o600))?;
        Ok(file)
    }

    fn rename(&self) -> io::Result<()> {
        Ok(renameat(&self.dir, &self.name, &self.dir, self.target)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = remove(&self.dir, &self.name);
    }
}

/// A temporary file that will take the place of another one.
#[derive(Debug)]
struct Replacement {
    temporary: Temporary,
    file: File,
    /// Its folder, open so that it can be synchronised.
    folder: File,
}

impl Replacement {
    fn prepare(dir: &Dir, name: &'static str, size: u64) -> io::Result<Self> {
        let temporary = Temporary::unused(dir, name)?;
        let file = temporary.make()?;
        if size > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                // A file system that can't reserve room: the writing will tell.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { temporary, file, folder: dir.to_file()? })
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
        self.temporary.rename()
    }

    fn commit(&self) -> io::Result<()> {
        self.rename()?;
        self.folder.sync_all()
    }
}
