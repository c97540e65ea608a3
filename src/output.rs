//! The only writer of events and notices: whole lines, on stdout.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, major, minor};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use crate::terminal::shown;

/// Wazuh keeps 64 MiB of a run's output; here a run ends even in the middle of a blob.
const MOST: u64 = 60 * 1024 * 1024;

/// Of which so much is kept free for notices. More of them wait for the next run.
const FOR_NOTICES: u64 = 256 * 1024;

/// The size that the pipe is asked to have, in bytes: a reader is woken less often for more at once.
/// Any user may ask for so much, unless the administrator says otherwise (pipe(7)).
const PIPE: usize = 1024 * 1024;

/// The numbers of `/dev/null` (null(4)).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Where events and notices go.
#[derive(Debug)]
pub struct Output {
    stdout: Mutex<Stdout>,
    changed: Condvar,
    /// What takes stdout's place at the end, open since the beginning: then nothing can be missing.
    nowhere: OwnedFd,
    written: AtomicU64,
    is_terminal: bool,
    /// Bytes that may be written of all, and of these of notices.
    most: u64,
    most_notices: u64,
}

/// Where stdout is.
#[derive(Debug)]
enum Stdout {
    Here(File),
    /// Somebody is writing.
    Taken,
    /// The run is over: nobody gets it any more.
    Gone,
}

/// What became of lines that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They are out.
    All,
    /// Nothing of them is: the run has written all that it may, or has ended.
    Full,
}

/// The right to write. Until it is dropped nobody else writes, and the run doesn't end: what is
/// noted of a write while it is held is noted in time.
#[derive(Debug)]
pub struct Turn<'a> {
    output: &'a Output,
    /// None when the run is over.
    stdout: Option<File>,
    is_last: bool,
    /// Bytes of notices written.
    notices: u64,
}

impl Output {
    /// Writes to this process's stdout what Wazuh keeps of a run, unbuffered: callers bring many lines
    /// at once.
    ///
    /// # Errors
    /// What is written would be lost, or stdout could not be let go of at the end.
    pub fn stdout() -> io::Result<Self> {
        Self::bounded(MOST, FOR_NOTICES)
    }

    /// Writes to this process's stdout as much as there is.
    ///
    /// # Errors
    /// As [`Output::stdout`].
    pub fn endless() -> io::Result<Self> {
        Self::bounded(u64::MAX, u64::MAX / 2)
    }

    fn bounded(most: u64, most_notices: u64) -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        check_open(&stdout)?;
        let nowhere = nowhere()?;
        // What is no pipe, or may not grow, is as good.
        if fcntl_getpipe_size(&stdout).is_ok_and(|size| size < PIPE) {
            let _ = fcntl_setpipe_size(&stdout, PIPE);
        }
        let is_terminal = stdout.is_terminal();
        let stdout = Mutex::new(Stdout::Here(stdout));
        let (changed, written) = (Condvar::new(), AtomicU64::new(0));
        Ok(Self { stdout, changed, nowhere, written, is_terminal, most, most_notices })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Stdout> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else writes.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        let waited = self.changed.wait_while(self.lock(), |s| matches!(s, Stdout::Taken));
        let mut stdout = waited.unwrap_or_else(PoisonError::into_inner);
        let stdout = match std::mem::replace(&mut *stdout, Stdout::Taken) {
            Stdout::Here(file) => Some(file),
            over => {
                *stdout = over;
                None
            }
        };
        Turn { output: self, stdout, is_last: false, notices: 0 }
    }

    /// The last one: from here on nobody else writes any more.
    ///
    /// # Errors
    /// Somebody is still in the middle of a write after `patience`: the reader doesn't read.
    pub fn last_turn(&self, patience: Duration) -> io::Result<Turn<'_>> {
        let taken = |s: &mut Stdout| matches!(s, Stdout::Taken);
        let waited = self.changed.wait_timeout_while(self.lock(), patience, taken);
        let mut stdout = waited.unwrap_or_else(PoisonError::into_inner).0;
        let found = std::mem::replace(&mut *stdout, Stdout::Gone);
        self.changed.notify_all();
        match found {
            Stdout::Here(file) => {
                Ok(Turn { output: self, stdout: Some(file), is_last: true, notices: 0 })
            }
            Stdout::Taken | Stdout::Gone => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the pipe's reader is too slow, or reads no more",
            )),
        }
    }
}

/// Checks that what is written to stdout goes somewhere.
///
/// Where a process is started without a stdout, Rust's runtime opens `/dev/null` in its place, for reading
/// and writing. Who wants to write to it opens it for writing only.
fn check_open(stdout: &File) -> io::Result<()> {
    let (meta, access) = (stdout.metadata()?, fcntl_getfl(stdout)? & OFlags::ACCMODE);
    let is_null = meta.file_type().is_char_device()
        && (major(meta.rdev()), minor(meta.rdev())) == NULL_DEVICE;
    let why = if access == OFlags::RDONLY {
        "it is open for reading only"
    } else if is_null && access == OFlags::RDWR {
        "it is closed, or /dev/null that is open for reading and writing"
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!(
        "{why}, so all events would be lost: nothing is fetched; start this program by Wazuh's command \
         wodle, or with a stdout that is read"
    )))
}

/// A file that takes whatever is written to it and passes nothing on: `/dev/null`, or, where that is
/// missing, a pipe without a reader.
fn nowhere() -> io::Result<OwnedFd> {
    let null = File::options().write(true).open("/dev/null").map(OwnedFd::from);
    null.or_else(|_| io::pipe().map(|(_, writer)| writer.into()))
}

impl Turn<'_> {
    /// Writes whole lines of events.
    ///
    /// # Errors
    /// The pipe is closed or full for good: nothing of this run may be saved.
    pub fn events(&mut self, lines: &[u8]) -> io::Result<Written> {
        self.write(lines, self.output.most - self.output.most_notices)
    }

    /// Writes the line of a notice.
    ///
    /// # Errors
    /// As [`Turn::events`].
    pub fn notice(&mut self, line: &[u8]) -> io::Result<Written> {
        self.notices += line.len() as u64;
        if self.notices > self.output.most_notices {
            return Ok(Written::Full);
        }
        self.write(line, self.output.most)
    }

    fn write(&mut self, lines: &[u8], most: u64) -> io::Result<Written> {
        let size = lines.len() as u64;
        let room = self.output.written() + size <= most;
        let Some(stdout) = self.stdout.as_mut().filter(|_| room) else {
            return Ok(Written::Full);
        };
        stdout.write_all(&shown(lines, self.output.is_terminal))?;
        self.output.written.fetch_add(size, Ordering::Relaxed);
        Ok(Written::All)
    }

    /// Lets go of the pipe: from here on stdout leads nowhere, so that what Wazuh has got is all
    /// that it will get. Stderr is no part of the pipe since the log was opened (see `logging`).
    ///
    /// # Errors
    /// Nothing can be put in its place.
    pub fn close(mut self) -> io::Result<()> {
        self.stdout = None;
        rustix::stdio::dup2_stdout(&self.output.nowhere)?;
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(stdout) = self.stdout.take().filter(|_| !self.is_last) {
            *self.output.lock() = Stdout::Here(stdout);
            self.output.changed.notify_one();
        }
    }
}
