//! What must be so before a run writes anything, and what is saved when it has.

use std::io;

use crate::clock::local_now;
use crate::error::Error;
use crate::output::{Turn, Written};
use crate::parent;
use crate::state::{DeadQueue, hanging};
use crate::store::{Folder, Home, Loaded, Lock, Save};

/// A run that holds the lock, has its state, and can save it.
pub(super) struct Frame {
    pub(super) folder: Folder,
    pub(super) loaded: Loaded,
    /// Whether what it writes is handed over to a modulesd.
    pub(super) hand_over: bool,
    /// None where it is only a look, and when the state is saved.
    prepared: Option<Save>,
    _lock: Lock,
}

/// Takes the lock; none where another poll has it, which is no fault, unless that one should have
/// ended long ago.
pub(super) fn lock(folder: &Folder, longest_run: u64) -> Result<Option<Lock>, Error> {
    let lock = folder.lock(local_now()).map_err(|error| {
        Error::Run(format!("the lock in HOME/var/wodles/wodle-office365 can't be used: {error}"))
    })?;
    let since = match lock {
        Ok(lock) => return Ok(Some(lock)),
        Err(since) => since,
    };
    let most = i64::try_from(longest_run).unwrap_or(i64::MAX);
    match since.map(|since| local_now().since(since)) {
        Some(held) if held > most => Err(Error::Run(format!("another {}", hanging(held)))),
        _ => {
            log::info!("another poll is running: nothing to do");
            Ok(None)
        }
    }
}

impl Frame {
    /// Takes in what our parent means for what the last run handed over, and shows that the state
    /// can be saved, unless nothing is to be: not `saves`.
    ///
    /// # Errors
    /// All output would be lost, or would come again and again: nothing may be fetched.
    pub(super) fn open(
        home: &Home,
        folder: Folder,
        lock: Lock,
        mut loaded: Loaded,
        saves: bool,
    ) -> Result<Self, Error> {
        let hand_over = saves && hand_over(home, &folder, &mut loaded)?;
        let prepare = || folder.prepare_save(folder.state_room(), loaded.keep_previous);
        let prepared = saves.then(prepare).transpose().map_err(cannot_save)?;
        Ok(Self { folder, loaded, hand_over, prepared, _lock: lock })
    }

    /// Ends the output with the notices that wait, as far as there is room for them, and saves the
    /// state. From here on there is no network.
    ///
    /// # Errors
    /// Nothing is saved.
    pub(super) fn close(&mut self, mut turn: Turn<'_>) -> Result<(), Error> {
        let state = &mut self.loaded.state;
        let mut written = 0;
        for notice in &state.notices {
            if turn.notice(&notice.line()).map_err(write_failed)? == Written::Full {
                break;
            }
            written += 1;
        }
        turn.close().map_err(|error| Error::Run(format!("closing stdout: {error}")))?;
        if let Some(prepared) = self.prepared.take() {
            state.notices_written(written, self.hand_over);
            prepared.commit(state).map_err(not_saved)?;
        }
        Ok(())
    }
}

/// Takes in what our parent means for what the last run handed over, and saves that before anything
/// is fetched: so a crash repeats what one run wrote, never more. True where what this run writes
/// is handed over.
fn hand_over(home: &Home, folder: &Folder, loaded: &mut Loaded) -> Result<bool, Error> {
    let Some(modulesd) = parent::modulesd() else {
        return Ok(false);
    };
    let begun = loaded.state.begin_run(&modulesd, parent::queue(&home.queue()));
    let changed = begun.map_err(|DeadQueue| Error::Run(parent::RESTART.to_owned()))?;
    if changed {
        let prepared = folder.prepare_save(folder.state_room(), loaded.keep_previous);
        prepared.and_then(|save| save.commit(&loaded.state)).map_err(cannot_save)?;
        loaded.keep_previous = loaded.state.last_poll.is_none();
    }
    Ok(true)
}

/// What a run is told whose output can't be written.
pub(super) fn write_failed(error: io::Error) -> Error {
    Error::Run(format!(
        "writing the events failed ({error}): nothing of this run is saved, the next one brings \
         them again"
    ))
}

fn cannot_save(error: io::Error) -> Error {
    Error::Run(format!(
        "the state can't be saved in HOME/var/wodles/wodle-office365: {error}; until it can, \
         nothing is fetched, so that no event comes twice: check room and rights of that folder"
    ))
}

fn not_saved(error: io::Error) -> Error {
    Error::Run(format!(
        "the state could not be saved in HOME/var/wodles/wodle-office365: {error}; what this run \
         wrote comes once more: check room and rights of that folder"
    ))
}
