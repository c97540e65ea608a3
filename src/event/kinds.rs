//! Which kind of value each path holds, so that no event makes the indexer reject another.
//!
//! OpenSearch gives each field of a day's index the type of its first value, and rejects every later
//! alert in which the field has text where objects are, or an object where text is. So a path holds one
//! kind for good: the one that the built-in table names (`kinds.txt`), or the one that was seen first.
//!
//! What was seen first is one set for all tenants and streams. A record with a new path is made a line
//! only by the worker that may write next, so the set grows in the order in which events are written.

mod tree;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use self::tree::Tree;
pub(super) use self::tree::{Kind, Known, NOWHERE, Path, PathId, ROOT};
use crate::timestamp::{HOUR, Timestamp};
use crate::words::excerpt;

/// Microsoft's documented schema and what was seen in the field.
pub(super) const TABLE: &str = include_str!("kinds.txt");

/// The most paths outside the table that are known. An index takes 10,000 fields, of which 688 are
/// Wazuh's own.
pub const MAX_LEARNED: usize = 4096;

/// A path that has not been seen for this time is forgotten: no index is written any more in which it was.
const FORGET_AFTER: i64 = 48 * HOUR;

/// The version of the file's form.
const VERSION: u32 = 1;

/// The number of the first path that is learned; those of the table are below.
pub(super) const FIRST_LEARNED: u32 = 4096;

/// A path can't be learned, because too many are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The kinds of all paths. Nothing is parsed before the first record comes: most runs have none.
#[derive(Debug, Default)]
pub struct Kinds {
    saved: Option<Saved>,
    ready: OnceLock<Ready>,
}

/// What earlier runs have saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The file's contents, or why it can't be read.
    pub bytes: Result<Vec<u8>, String>,
    /// Its name, for a message.
    pub name: String,
    /// The time: what has not been seen for 48 hours is forgotten.
    pub now: Timestamp,
}

#[derive(Debug)]
struct Ready {
    table: &'static Tree,
    learned: RwLock<Learned>,
    /// Whether something was learned, or seen again, that is not saved.
    unsaved: AtomicBool,
    /// Whether the log says, in the run that learned the last one, that no more paths are.
    full_logged: AtomicBool,
}

/// The built-in table.
fn table() -> &'static Tree {
    static READ: OnceLock<Tree> = OnceLock::new();
    READ.get_or_init(|| Tree::read(TABLE))
}

impl Kinds {
    /// With what earlier runs have learned. If that is damaged, the log says so, and it is learned again.
    #[must_use]
    pub fn new(saved: Option<Saved>) -> Self {
        Self { saved, ready: OnceLock::new() }
    }

    fn ready(&self) -> &Ready {
        self.ready.get_or_init(|| {
            let learned = self.saved.as_ref().map(|Saved { bytes, name, now }| {
                let bytes = bytes.as_ref().map_err(String::clone);
                let learned = bytes.and_then(|bytes| Learned::parse(bytes, *now));
                learned.inspect_err(|why| {
                    log::warn!(
                        "{name} can't be used ({why}): which kind of value each field holds is learned \
                         again. Should a field take another kind than it had, Wazuh's indexer rejects \
                         such events until the next day's index. No action needed; the file is replaced"
                    );
                })
            });
            // A file that can't be used is replaced.
            let unsaved = AtomicBool::new(matches!(learned, Some(Err(_))));
            Ready {
                table: table(),
                learned: RwLock::new(learned.and_then(Result::ok).unwrap_or_default()),
                unsaved,
                full_logged: AtomicBool::new(false),
            }
        })
    }

    /// Saves what was learned, and what was seen again, if anything was since the last time. `now`: when
    /// that was.
    ///
    /// # Errors
    /// `save` fails; the next call tries again.
    pub fn save(
        &self,
        now: Timestamp,
        save: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(bytes) = self.take_unsaved(now) else {
            return Ok(());
        };
        save(&bytes).inspect_err(|_| self.ready().unsaved.store(true, Ordering::Relaxed))
    }

    fn take_unsaved(&self, now: Timestamp) -> Option<Vec<u8>> {
        let ready = self.ready.get()?;
        if !ready.unsaved.swap(false, Ordering::Relaxed) {
            return None;
        }
        let mut learned = ready.learned_mut();
        for seen in &mut learned.seen {
            if std::mem::take(seen.again.get_mut()) {
                seen.last = now;
            }
        }
        let members = learned.members_of(ready.table);
        serde_json::to_vec(&File { version: VERSION, members }).ok()
    }

    /// How many paths outside the table are known.
    #[must_use]
    pub fn learned_paths(&self) -> usize {
        self.ready().learned().tree.nodes.len()
    }

    /// The path `guess` of the table, if it is a member of the objects at `parent`, and its key is what
    /// `text` begins with: quotes, colon and all, of that length.
    #[inline]
    pub(super) fn begins(
        &self,
        text: &[u8],
        parent: PathId,
        guess: PathId,
    ) -> Option<(Known, usize)> {
        let node = self.ready().table.node(guess).filter(|node| node.parent == parent)?;
        text.starts_with(&node.key).then(|| (node.known(guess), node.key.len()))
    }

    /// What is known of a member of the objects at `parent`.
    #[inline]
    pub(super) fn find(&self, parent: PathId, name: &[u8]) -> Option<Known> {
        let ready = self.ready();
        let hash = ready.table.hash(parent, name);
        ready.table.find(hash, parent, name).or_else(|| ready.find_learned(hash, parent, name))
    }

    /// Learns what a member of the objects at `parent` holds, which is not known yet.
    ///
    /// # Errors
    /// Too many paths are known.
    pub(super) fn learn(&self, parent: PathId, name: &str, kind: Kind) -> Result<Known, Full> {
        let ready = self.ready();
        let known = ready.learned_mut().learn(ready.table, parent, name, kind, None)?;
        ready.unsaved.store(true, Ordering::Relaxed);
        if self.is_full() && !ready.full_logged.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{MAX_LEARNED} fields are known besides those that Microsoft documents: further new \
                 ones go to the field Overflow, because an index takes a limited number of fields. A \
                 field that has not been seen for 48 hours makes room"
            );
        }
        Ok(known)
    }

    /// Whether no more paths are learned.
    pub(super) fn is_full(&self) -> bool {
        self.learned_paths() >= MAX_LEARNED
    }
}

impl Ready {
    #[inline(never)]
    fn find_learned(&self, hash: u64, parent: PathId, name: &[u8]) -> Option<Known> {
        let learned = self.learned();
        let known = learned.tree.find(hash, parent, name)?;
        let again = learned.seen.get(learned.tree.place(known.path.id)?).map(|seen| &seen.again);
        if let Some(again) = again.filter(|again| !again.load(Ordering::Relaxed)) {
            again.store(true, Ordering::Relaxed);
            self.unsaved.store(true, Ordering::Relaxed);
        }
        Some(known)
    }

    fn learned(&self) -> RwLockReadGuard<'_, Learned> {
        self.learned.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn learned_mut(&self) -> RwLockWriteGuard<'_, Learned> {
        self.learned.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was learned.
#[derive(Debug)]
struct Learned {
    tree: Tree,
    /// When each of the paths was seen.
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    last: Timestamp,
    /// Seen since then.
    again: AtomicBool,
}

impl Default for Learned {
    fn default() -> Self {
        Self { tree: table().behind(FIRST_LEARNED), seen: Vec::new() }
    }
}

impl Learned {
    /// Reads what was saved, but for what has not been seen for 48 hours.
    fn parse(bytes: &[u8], now: Timestamp) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| excerpt(&e.to_string()))?;
        if file.version != VERSION {
            return Err(format!("it is of version {}", file.version));
        }
        let mut learned = Self::default();
        learned.take_members(table(), ROOT.id, file.members, now);
        Ok(learned)
    }

    /// Adds a path; `last`: when it was seen last, none for now.
    fn learn(
        &mut self,
        table: &Tree,
        parent: PathId,
        name: &str,
        kind: Kind,
        last: Option<Timestamp>,
    ) -> Result<Known, Full> {
        let hash = self.tree.hash(parent, name.as_bytes());
        // Another worker may have come first.
        if let Some(known) = self.tree.find(hash, parent, name.as_bytes()) {
            return Ok(known);
        }
        if self.tree.nodes.len() >= MAX_LEARNED {
            return Err(Full);
        }
        let group = table.group_of(parent, name).or_else(|| self.tree.group_of(parent, name));
        let group = group.unwrap_or_else(|| self.tree.new_group());
        let known = self.tree.add(parent, name, kind, group);
        let again = AtomicBool::new(last.is_none());
        self.seen.push(Seen { last: last.unwrap_or(Timestamp::from_unix(0)), again });
        Ok(known)
    }

    /// Takes in the members of the objects at `parent`, as they were saved.
    fn take_members(
        &mut self,
        table: &Tree,
        parent: PathId,
        members: BTreeMap<String, Entry>,
        now: Timestamp,
    ) {
        for (name, entry) in members {
            let hash = self.tree.hash(parent, name.as_bytes());
            let known = table.find(hash, parent, name.as_bytes()).or_else(|| {
                let (kind, seen) = (entry.kind?, entry.seen?);
                // A clock that was ahead must not keep it for good.
                let fresh = now.since(seen) <= FORGET_AFTER;
                fresh.then(|| self.learn(table, parent, &name, kind, Some(seen.min(now))).ok())?
            });
            if let Some(Known { path, .. }) = known.filter(|known| known.path.kind.is_objects()) {
                self.take_members(table, path.id, entry.members, now);
            }
        }
    }

    /// What is to be saved: the paths as a tree of names.
    fn members_of(&self, table: &Tree) -> BTreeMap<String, Entry> {
        let mut root = Entry::default();
        for (node, seen) in std::iter::zip(&self.tree.nodes, &self.seen) {
            let mut names = Vec::new();
            let mut above = node.parent;
            while above != ROOT.id {
                let Some(node) = table.node(above).or_else(|| self.tree.node(above)) else {
                    break;
                };
                names.push(node.name());
                above = node.parent;
            }
            let mut entry = &mut root;
            for name in names.into_iter().rev().chain([node.name()]) {
                let name = String::from_utf8_lossy(name).into_owned();
                entry = entry.members.entry(name).or_default();
            }
            (entry.kind, entry.seen) = (Some(node.kind), Some(seen.last));
        }
        root.members
    }
}

/// The file with what was learned.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    members: BTreeMap<String, Entry>,
}

/// A path in it; without a kind it is one of the table's, with learned ones below it.
#[derive(Default, Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<String, Entry>,
}
