//! The only writer of events and notices: whole lines, on stdout.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Wazuh keeps 64 MiB of a run's output; here a run ends even in the middle of a blob.
const MOST: u64 = 60 * 1024 * 1024;

/// Of which so much is kept free for notices.
const FOR_NOTICES: u64 = 256 * 1024;

/// Where events and notices go.
#[derive(Debug)]
pub struct Output {
    stdout: Mutex<File>,
    written: AtomicU64,
}

/// What became of lines that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They are out.
    All,
    /// Nothing of them is: the run has written all that Wazuh would keep.
    Full,
}

impl Output {
    /// Writes to this process's stdout, unbuffered: callers bring many lines at once.
    ///
    /// # Errors
    /// The descriptor can't be duplicated.
    pub fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { stdout: Mutex::new(stdout), written: AtomicU64::new(0) })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes whole lines of events.
    ///
    /// # Errors
    /// The pipe is closed or full for good: nothing of this run may be saved.
    pub fn events(&self, lines: &[u8]) -> io::Result<Written> {
        self.write(lines, MOST - FOR_NOTICES)
    }

    /// Writes the line of a notice.
    ///
    /// # Errors
    /// As [`Output::events`].
    pub fn notice(&self, line: &[u8]) -> io::Result<Written> {
        self.write(line, MOST)
    }

    fn write(&self, lines: &[u8], most: u64) -> io::Result<Written> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let size = lines.len() as u64;
        if self.written() + size > most {
            return Ok(Written::Full);
        }
        stdout.write_all(lines)?;
        self.written.fetch_add(size, Ordering::Relaxed);
        Ok(Written::All)
    }

    /// Lets go of the pipe: from here on stdout leads nowhere, so that what Wazuh has got is all
    /// that it will get. Stderr is no part of the pipe since the log was opened (see `logging`).
    ///
    /// # Errors
    /// `/dev/null` can't be opened or put in their place.
    pub fn close(self) -> io::Result<()> {
        let mut stdout = self.stdout.into_inner().unwrap_or_else(PoisonError::into_inner);
        stdout.flush()?;
        drop(stdout);
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(())
    }
}
