//! Which kind of value each path holds, so that no event makes the indexer reject another.
//!
//! OpenSearch gives each field of a day's index the type of its first value, and rejects every later
//! alert in which the field has text where objects are, or an object where text is. So a path holds one
//! kind for good: the one that the built-in table names (`kinds.txt`), or the one that was seen first.
//!
//! What was seen first is one set for all tenants and streams. A record with a new path is made a line
//! only by the worker that may write next, so the set grows in the order in which events are written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::known_field::KnownField;
use crate::timestamp::{HOUR, Timestamp};
use crate::words::excerpt;

/// Microsoft's documented schema and what was seen in the field.
pub(super) const TABLE: &str = include_str!("kinds.txt");

/// So many paths outside the table are known at most. An index takes 10,000 fields, of which 688 are
/// Wazuh's own.
pub const MAX_LEARNED: usize = 4096;

/// A path that has not been seen for so many seconds is forgotten: yesterday's index is closed then.
const FORGET_AFTER: i64 = 48 * HOUR;

/// The version of the file's form.
const VERSION: u32 = 1;

/// What a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Scalars, and arrays of scalars.
    Text,
    /// An object.
    Object,
    /// A list of objects. The indexer does not tell it from an object; text that has to become one of
    /// them takes the form that the others have.
    List,
}

impl Kind {
    /// Whether it is objects.
    pub(super) fn is_objects(self) -> bool {
        self != Self::Text
    }
}

/// The number of the first path that is learned; those of the table are below.
pub(super) const FIRST_LEARNED: u32 = 4096;

/// A path, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PathId(u32);

impl PathId {
    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A path that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) path: Path,
    /// The same for names that differ in letter case only, which are one name to Wazuh.
    pub(super) group: u32,
    pub(super) field: Option<KnownField>,
}

/// A path, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) kind: Kind,
}

/// The record itself.
pub(super) const ROOT: Path = Path { id: PathId(0), kind: Kind::Object };

/// A path can't be learned, because too many are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The kinds of all paths. Nothing is read or parsed before the first record comes: most runs have none.
#[derive(Debug, Default)]
pub struct Kinds {
    saved: Option<Saved>,
    ready: OnceLock<Ready>,
}

/// What earlier runs have saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The file's contents.
    pub bytes: Vec<u8>,
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
    /// Whether the log says that no more paths are learned.
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
            let learned = self.saved.as_ref().and_then(|saved| {
                let Saved { bytes, name, now } = saved;
                let warn = |why: &String| {
                    log::warn!(
                        "{name} can't be used ({why}): which kind of value each field holds is learned \
                         again. Should a field take another kind than it had, Wazuh's indexer rejects \
                         such events until the next day's index. No action needed; the file is replaced"
                    );
                };
                Learned::parse(bytes, *now).inspect_err(warn).ok()
            });
            Ready {
                table: table(),
                learned: RwLock::new(learned.unwrap_or_default()),
                unsaved: AtomicBool::new(false),
                full_logged: AtomicBool::new(false),
            }
        })
    }

    /// What is to be saved, if anything has changed since it was asked for last. `now`: what was used
    /// since then has been seen now.
    #[must_use]
    pub fn unsaved(&self, now: Timestamp) -> Option<Vec<u8>> {
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
        let hash = hash(parent, name);
        ready.table.find(hash, parent, name).or_else(|| ready.find_learned(hash, parent, name))
    }

    /// Learns what a member of the objects at `parent` holds, which is not known yet.
    ///
    /// # Errors
    /// Too many paths are known.
    pub(super) fn learn(&self, parent: PathId, name: &str, kind: Kind) -> Result<Known, Full> {
        let ready = self.ready();
        let known = ready.learned_mut().learn(ready.table, parent, name, kind, None);
        match known {
            Ok(_) => ready.unsaved.store(true, Ordering::Relaxed),
            Err(Full) => ready.log_full(),
        }
        known
    }

    /// Whether no more paths are learned; the log says it once.
    pub(super) fn is_full(&self) -> bool {
        let full = self.learned_paths() >= MAX_LEARNED;
        if full {
            self.ready().log_full();
        }
        full
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

    fn log_full(&self) {
        if !self.full_logged.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{MAX_LEARNED} fields are known besides those that Microsoft documents: further new \
                 ones go to the field Overflow, because an index takes a limited number of fields. A \
                 field that has not been seen for 48 hours makes room"
            );
        }
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
        let tree = Tree { first: FIRST_LEARNED, groups: FIRST_LEARNED, ..Tree::default() };
        Self { tree, seen: Vec::new() }
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
        let hash = hash(parent, name.as_bytes());
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
            let hash = hash(parent, name.as_bytes());
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

/// Paths as a tree of names, with an index by parent and name.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
    /// The number of the first node.
    first: u32,
    /// The numbers of nodes plus one, each in the first place from its hash on that was free; half of the
    /// places are.
    index: Vec<u32>,
    groups: u32,
}

#[derive(Debug)]
struct Node {
    parent: PathId,
    /// The name as a key: quotes, and a colon.
    key: Box<[u8]>,
    hash: u64,
    kind: Kind,
    group: u32,
    field: Option<KnownField>,
}

impl Node {
    #[inline]
    fn name(&self) -> &[u8] {
        self.key.get(1..self.key.len().saturating_sub(2)).unwrap_or_default()
    }

    #[inline]
    fn known(&self, id: PathId) -> Known {
        Known { path: Path { id, kind: self.kind }, group: self.group, field: self.field }
    }
}

impl Tree {
    /// Reads the built-in table: two spaces a level, a name, and `object` or `list` unless it is text.
    fn read(text: &'static str) -> Self {
        let mut tree = Self::default();
        // The record is a member of nothing.
        tree.nodes.reserve(text.len() / 16);
        tree.nodes.push(Node {
            parent: PathId(u32::MAX),
            key: Box::default(),
            hash: 0,
            kind: ROOT.kind,
            group: 0,
            field: None,
        });
        // What is open on each level, and the last name on it: names that differ in letter case only
        // stand side by side.
        let mut open = vec![ROOT.id];
        let mut last: Vec<(&str, u32)> = Vec::new();
        for line in text.lines() {
            let words = line.trim_start_matches(' ');
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            let level = (line.len() - words.len()) / 2;
            let (name, kind) = if let Some(name) = words.strip_suffix(" object") {
                (name, Kind::Object)
            } else if let Some(name) = words.strip_suffix(" list") {
                (name, Kind::List)
            } else {
                (words, Kind::Text)
            };
            open.truncate(1 + level);
            last.truncate(1 + level);
            let group = match last.get(level) {
                Some((beside, group)) if beside.eq_ignore_ascii_case(name) => *group,
                _ => tree.new_group(),
            };
            last.truncate(level);
            last.push((name, group));
            let parent = open.last().copied().unwrap_or(ROOT.id);
            open.push(tree.add(parent, name, kind, group).path.id);
        }
        tree
    }

    /// The number behind that of the last node.
    fn end(&self) -> u32 {
        self.first + u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Where in `nodes` a path is.
    fn place(&self, id: PathId) -> Option<usize> {
        Some(id.0.checked_sub(self.first)? as usize)
    }

    #[inline]
    fn node(&self, id: PathId) -> Option<&Node> {
        self.nodes.get(self.place(id)?)
    }

    #[inline]
    fn find(&self, hash: u64, parent: PathId, name: &[u8]) -> Option<Known> {
        let mut at = self.home(hash);
        loop {
            let id = PathId(self.index.get(at)?.checked_sub(1)?);
            let node = self.node(id)?;
            if node.hash == hash && node.parent == parent && node.name() == name {
                return Some(node.known(id));
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    /// The place in the index where the search for a hash begins.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "some bits of a hash are as good as all")]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.index.len().wrapping_sub(1)
    }

    /// The group of the members at `parent` that have this name, whatever its letter case.
    fn group_of(&self, parent: PathId, name: &str) -> Option<u32> {
        let same = |node: &&Node| {
            node.parent == parent && node.name().eq_ignore_ascii_case(name.as_bytes())
        };
        self.nodes.iter().find(same).map(|node| node.group)
    }

    fn new_group(&mut self) -> u32 {
        self.groups += 1;
        self.groups
    }

    fn add(&mut self, parent: PathId, name: &str, kind: Kind, group: u32) -> Known {
        let id = PathId(self.end());
        let field = if parent == ROOT.id { KnownField::plain(name.as_bytes()) } else { None };
        let key = [b"\"", name.as_bytes(), b"\":"].concat().into_boxed_slice();
        let node = Node { hash: hash(parent, name.as_bytes()), parent, key, kind, group, field };
        let known = node.known(id);
        self.nodes.push(node);
        if self.index.len() < 2 * self.nodes.len() {
            // The table is read into one that need not grow.
            let places = (2 * self.nodes.len().max(self.nodes.capacity())).next_power_of_two();
            self.index = vec![0; places];
            for at in 0..self.nodes.len() {
                self.put(at);
            }
        } else {
            self.put(self.nodes.len() - 1);
        }
        known
    }

    /// Puts the node at `place` into the index.
    fn put(&mut self, place: usize) {
        let Some(node) = self.nodes.get(place).filter(|node| !node.key.is_empty()) else {
            return;
        };
        let number = self.first + u32::try_from(place).unwrap_or(u32::MAX) + 1;
        let mut at = self.home(node.hash);
        while self.index.get(at).is_some_and(|taken| *taken != 0) {
            at = (at + 1) & (self.index.len() - 1);
        }
        if let Some(free) = self.index.get_mut(at) {
            *free = number;
        }
    }
}

/// The hash of a name and what it is in. It need not withstand those who choose names: the number of
/// names is bounded.
#[inline]
fn hash(parent: PathId, name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |word: u64| {
        let product = u128::from(word ^ ODD) * u128::from(ODD);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let (low, high) = (product as u64, (product >> 64) as u64);
        low ^ high
    };
    let four = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |b| u64::from(u32::from_le_bytes(*b)));
    let last = match name {
        [] => 0,
        [a] => u64::from(*a),
        [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
        [a, b, c] => u64::from(u32::from_le_bytes([*a, *b, *c, 0])),
        _ => match name.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last),
            None => four(name.first_chunk()) | four(name.last_chunk()) << 32,
        },
    };
    let mut hash = mix(u64::from(parent.0) << 32 | (name.len() as u64 & 0xffff_ffff));
    for chunk in name.chunks_exact(8) {
        hash = mix(hash ^ <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes));
    }
    mix(hash ^ last)
}
