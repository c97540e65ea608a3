//! Opening files and folders by handle, without following a link that somebody else than root could have
//! put there.
//!
//! A path is walked folder by folder. A symbolic link on the way is followed only if it, and the folder
//! that it is in, belong to root (or to the caller), and nobody else may write to that folder: then nobody
//! else can have made the link, moved it there or replaced it. What is opened at the end is opened in the
//! folder that the walk has reached, so a path that changes meanwhile changes nothing. A file of root's may
//! still have been moved there by whoever may write to its folder.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags, StatxFlags, fgetxattr, fstat,
    fstatfs, fstatvfs, mkdirat, openat, readlinkat, statat, statx,
};
use rustix::io::Errno;

/// As many links as the kernel itself follows in one path (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// File systems whose files the kernel makes up (statfs(2)): a process can put text of its choice into a
/// file of root's there, as its own arguments in `/proc/PID/cmdline`.
const MADE_UP: [i64; 8] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
];

/// What a handle shows of a file or a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits.
    pub(super) mode: u32,
    /// Names that it has.
    pub(super) links: u64,
}

impl Owned {
    fn of(stat: &Stat) -> Self {
        let mode = stat.st_mode & 0o7777;
        // Its type differs between architectures.
        #[allow(clippy::useless_conversion, reason = "u32 on some of them")]
        let links = u64::from(stat.st_nlink);
        Self { uid: stat.st_uid, gid: stat.st_gid, mode, links }
    }

    /// The user that it belongs to, unless that is root or the caller.
    pub(super) fn stranger(&self) -> Option<u32> {
        let caller = rustix::process::geteuid().as_raw();
        Some(self.uid).filter(|owner| *owner != 0 && *owner != caller)
    }

    /// Whether a group may read it, or, with `search`, pass through it.
    fn is_open_to(&self, group: u32, search: bool) -> bool {
        let bit = if search { 0o001 } else { 0o004 };
        self.mode & if self.gid == group { bit << 3 } else { bit } != 0
    }
}

/// What a handle shows.
pub(super) fn owned(file: impl AsFd) -> io::Result<Owned> {
    Ok(Owned::of(&fstat(file)?))
}

/// A folder that is held open.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// Where the walk has found it, for messages.
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file or folder that is found by name in a folder that is held open.
pub(super) struct Place {
    pub(super) dir: Dir,
    pub(super) name: OsString,
    /// The folders that lead there.
    way: Vec<Owned>,
}

/// A regular file, open for reading.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) owned: Owned,
    /// Whether somebody else than root or the caller may put other files in its place: then its owner and
    /// mode don't say who has put it there.
    pub(super) is_exposed: bool,
    has_acl: bool,
    way: Vec<Owned>,
}

impl Opened {
    /// Whether a group can read it, by its mode and those of the folders that lead to it. With an access
    /// control list the mode doesn't say, so it can't.
    pub(super) fn is_readable_by(&self, group: u32) -> bool {
        !self.has_acl
            && self.owned.is_open_to(group, false)
            && self.way.iter().all(|dir| dir.is_open_to(group, true))
    }
}

/// For a handle on whatever has a name, a symbolic link itself included.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl Dir {
    fn new(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self { fd: Arc::new(fd), path: path.into() }
    }

    /// The folder at `path`, which may be relative to the working directory.
    ///
    /// # Errors
    /// It can't be opened, is not a folder, or a link on the way is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::start(path)?.subdir(path)
    }

    /// Where the walk of a path begins: the working directory is of no matter to an absolute one.
    ///
    /// # Errors
    /// It can't be opened.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let (start, called) = if path.is_absolute() { ("/", "/") } else { (".", "") };
        Ok(Self::new(openat(CWD, start, DIR | HANDLE, Mode::empty())?, called))
    }

    /// The folder at `path`, which begins here if it is relative.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn subdir(&self, path: &Path) -> io::Result<Self> {
        let Place { dir, name, .. } = self.place(path)?;
        let path = if name == "." { dir.path.clone() } else { dir.path.join(&name) };
        Ok(Self::new(openat(&dir, name, DIR | HANDLE, Mode::empty())?, path))
    }

    /// The folder at `path`, which begins here if it is relative; its last part is made with `mode` if it is missing.
    ///
    /// # Errors
    /// As [`open`](Self::open), or it can't be made.
    pub(super) fn make_subdir(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.subdir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let Place { dir, name, .. } = self.place(path)?;
        match mkdirat(&dir, &name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => self.subdir(path),
            Err(error) => Err(error.into()),
        }
    }

    /// A regular file at `path`, which begins here if it is relative, for reading.
    ///
    /// # Errors
    /// It can't be opened, is not a stored regular file, or a link on the way is refused.
    pub(super) fn file(&self, path: &Path) -> io::Result<Opened> {
        let Place { dir, name, way } = self.place(path)?;
        // Looked at first: opening alone may already do something to a device.
        let found = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(not_regular());
        }
        // Without blocking: a pipe may never have a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = dir.open_at(&name, flags, 0)?;
        check_stored(&file)?;
        let owned = owned(&file)?;
        let (is_exposed, has_acl) = (!dir.is_ours()?, has_acl(&file));
        Ok(Opened { file, owned, is_exposed, has_acl, way })
    }

    /// Opens the regular file `name` in this folder itself; `mode` is for one that is made.
    ///
    /// # Errors
    /// It can't be opened, or is not a regular file.
    pub(super) fn open_at(&self, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(self, name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => {
                return Err(io::Error::other("it is a symbolic link: put a file there"));
            }
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(not_regular());
        }
        Ok(file)
    }

    /// As [`open_at`](Self::open_at), of a file that is made with `mode` if it is missing; whether it was.
    pub(super) fn open_or_make(
        &self,
        name: &str,
        flags: OFlags,
        mode: u32,
    ) -> io::Result<(File, bool)> {
        let name = OsStr::new(name);
        match self.open_at(name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, true)),
        }
        Ok((self.open_at(name, flags, mode)?, false))
    }

    /// The folder as a file, which can be synchronised.
    pub(super) fn to_file(&self) -> io::Result<File> {
        Ok(openat(self, ".", DIR | OFlags::RDONLY, Mode::empty())?.into())
    }

    /// What the handle shows.
    pub(super) fn owned(&self) -> io::Result<Owned> {
        owned(self)
    }

    /// What is to be seen of a name in this folder, be it a link; none where nothing is.
    pub(super) fn owned_at(&self, name: &str) -> Option<Owned> {
        statat(self, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| Owned::of(&stat))
    }

    /// Whether nobody but root and the caller may change what is in it.
    fn is_ours(&self) -> io::Result<bool> {
        let owned = self.owned()?;
        Ok(owned.stranger().is_none() && owned.mode & 0o022 == 0)
    }

    /// Whether a link of root's in it was put there by root. On a read-only mount other than that of `/` the
    /// folder's mode counts for nothing, for that is how a container gets its secrets: as links in a folder
    /// of mode 1777.
    fn is_trusted(&self) -> io::Result<bool> {
        if self.is_ours()? {
            return Ok(true);
        }
        let is_read_only = fstatvfs(self)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        let root = Self::start(Path::new("/"))?;
        Ok(is_read_only
            && self.owned()?.stranger().is_none()
            && mount_of(self)? != mount_of(&root)?)
    }

    /// Where `path` leads, link by link. That nothing is there is no error yet.
    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut place = Place { dir: self.clone(), name: ".".into(), way: Vec::new() };
        let mut rest = VecDeque::new();
        place.dir = prepend(&mut rest, path, place.dir)?;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            let found = match openat(&place.dir, &name, HANDLE, Mode::empty()) {
                Ok(found) => Self::new(found, place.dir.path.join(&name)),
                Err(Errno::NOENT) if rest.is_empty() => {
                    place.name = name;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let stat = fstat(&found)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    let target = target(&found)?;
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let stranger = Owned::of(&stat).stranger();
                    if stranger.is_some() || !place.dir.is_trusted()? {
                        let rest: PathBuf = rest.iter().collect();
                        let leads_to = place.dir.path.join(&target).join(rest);
                        return Err(RefusedLink::error(
                            &found.path,
                            &leads_to,
                            &place.dir,
                            stranger,
                        ));
                    }
                    place.dir = prepend(&mut rest, &target, place.dir)?;
                }
                FileType::Directory => {
                    check_stored(&found)?;
                    place.way.push(Owned::of(&stat));
                    place.dir = found;
                }
                _ if rest.is_empty() => {
                    place.name = name;
                    break;
                }
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(place)
    }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// Puts a path's parts before what is still to be walked; gives the folder in which they begin.
fn prepend(rest: &mut VecDeque<OsString>, path: &Path, from: Dir) -> io::Result<Dir> {
    for part in path.components().rev() {
        match part {
            Component::RootDir | Component::Prefix(_) | Component::CurDir => {}
            part => rest.push_front(part.as_os_str().to_owned()),
        }
    }
    if path.is_absolute() {
        return Dir::start(path);
    }
    Ok(from)
}

/// Where a symbolic link leads that is open as a handle.
fn target(link: &Dir) -> io::Result<PathBuf> {
    Ok(OsString::from_vec(readlinkat(link, "", Vec::new())?.into_bytes()).into())
}

/// Checks that a file or folder is on a file system that stores files.
fn check_stored(file: impl AsFd) -> io::Result<()> {
    let kind = fstatfs(file)?.f_type;
    // Its type differs between architectures.
    #[allow(clippy::useless_conversion, reason = "i32 on some of them")]
    if MADE_UP.contains(&i64::from(kind)) {
        return Err(io::Error::other(
            "the kernel makes it up (procfs, sysfs or the like): name a stored file",
        ));
    }
    Ok(())
}

/// What a handle's mount is told from others by: its number, or, before Linux 5.8, its device's.
fn mount_of(dir: &Dir) -> io::Result<u64> {
    let found = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    match found {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(found.stx_mnt_id),
        _ => Ok(fstat(dir)?.st_dev),
    }
}

/// Whether a file has an access control list beyond its mode (acl(5)).
fn has_acl(file: &File) -> bool {
    fgetxattr(file, "system.posix_acl_access", &mut [0_u8; 0]).is_ok()
}

/// Why a symbolic link is not followed.
#[derive(Debug)]
pub(super) struct RefusedLink {
    text: String,
    /// Where it leads by its own text, if root has made it: what others have made is no good advice.
    pub(super) leads_to: Option<PathBuf>,
}

impl RefusedLink {
    fn error(link: &Path, leads_to: &Path, dir: &Dir, stranger: Option<u32>) -> io::Error {
        let why = match (stranger, dir.owned()) {
            (Some(owner), _) => format!("it belongs to user {owner}"),
            (None, Ok(Owned { uid, gid, mode, .. })) => format!(
                "others than root may write to its folder (owner {uid}, group {gid}, mode {mode:04o})"
            ),
            (None, Err(_)) => "its folder can't be looked at".to_owned(),
        };
        let leads_to = stranger.is_none().then(|| without_dots(leads_to));
        // What a stranger's link says is not repeated: a log with such text in it could be moved to where a
        // configuration is looked for.
        let to = leads_to.as_ref().map_or(String::new(), |to| format!(" to {}", to.display()));
        let link = link.display();
        io::Error::other(Self {
            text: format!("{link} is a symbolic link{to}, which is not followed because {why}"),
            leads_to,
        })
    }

    /// The one that an error is, if it is one.
    pub(super) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// A path without `.` and `..`, as it reads.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

impl std::error::Error for RefusedLink {}

impl fmt::Display for RefusedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
