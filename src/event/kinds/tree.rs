//! Paths as a tree of names, each with its kind and found by what it is in and its name.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde::{Deserialize, Serialize};

use crate::event::known_field::KnownField;

/// What a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::event) enum Kind {
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
    pub(in crate::event) fn is_objects(self) -> bool {
        self != Self::Text
    }
}

/// A path, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::event) struct PathId(u32);

impl PathId {
    pub(in crate::event) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A path that is known.
#[derive(Clone, Copy, Debug)]
pub(in crate::event) struct Known {
    pub(in crate::event) path: Path,
    /// The same for names that differ in letter case only, which are one name to Wazuh.
    pub(in crate::event) group: u32,
    pub(in crate::event) field: Option<KnownField>,
}

/// A path, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event) struct Path {
    pub(in crate::event) id: PathId,
    pub(in crate::event) kind: Kind,
}

/// The record itself.
pub(in crate::event) const ROOT: Path = Path { id: PathId(0), kind: Kind::Object };

/// A path that nothing is in.
pub(in crate::event) const NOWHERE: PathId = PathId(u32::MAX);

/// Paths as a tree of names, with an index by parent and name.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// The number of the first node.
    first: u32,
    /// Makes hashes that cannot be foreseen by those who choose names.
    key: u64,
    /// The numbers of nodes plus one, each in the first place from its hash on that was free; half of the
    /// places are.
    index: Vec<u32>,
    groups: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: PathId,
    /// The name as a key: quotes, and a colon.
    pub(super) key: Box<[u8]>,
    hash: u64,
    pub(super) kind: Kind,
    group: u32,
    field: Option<KnownField>,
}

impl Node {
    #[inline]
    pub(super) fn name(&self) -> &[u8] {
        self.key.get(1..self.key.len().saturating_sub(2)).unwrap_or_default()
    }

    #[inline]
    pub(super) fn known(&self, id: PathId) -> Known {
        Known { path: Path { id, kind: self.kind }, group: self.group, field: self.field }
    }
}

impl Tree {
    /// Reads the built-in table: two spaces a level, a name, and `object` or `list` unless it is text.
    pub(super) fn read(text: &'static str) -> Self {
        let key = RandomState::new().build_hasher().finish();
        let mut tree = Self { key, ..Self::default() };
        // The record is a member of nothing.
        tree.nodes.reserve(text.len() / 16);
        tree.nodes.push(Node {
            parent: NOWHERE,
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

    /// An empty tree whose numbers and groups begin with `first`, and whose hashes are those of this one.
    pub(super) fn behind(&self, first: u32) -> Self {
        Self { first, groups: first, key: self.key, ..Self::default() }
    }

    /// The hash of a name and what it is in.
    #[inline]
    pub(super) fn hash(&self, parent: PathId, name: &[u8]) -> u64 {
        hash(self.key, parent, name)
    }

    /// The number behind that of the last node.
    fn end(&self) -> u32 {
        self.first + u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Where in `nodes` a path is.
    pub(super) fn place(&self, id: PathId) -> Option<usize> {
        Some(id.0.checked_sub(self.first)? as usize)
    }

    #[inline]
    pub(super) fn node(&self, id: PathId) -> Option<&Node> {
        self.nodes.get(self.place(id)?)
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, parent: PathId, name: &[u8]) -> Option<Known> {
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
    pub(super) fn group_of(&self, parent: PathId, name: &str) -> Option<u32> {
        let same = |node: &&Node| {
            node.parent == parent && node.name().eq_ignore_ascii_case(name.as_bytes())
        };
        self.nodes.iter().find(same).map(|node| node.group)
    }

    pub(super) fn new_group(&mut self) -> u32 {
        self.groups += 1;
        self.groups
    }

    pub(super) fn add(&mut self, parent: PathId, name: &str, kind: Kind, group: u32) -> Known {
        let id = PathId(self.end());
        let field = if parent == ROOT.id { KnownField::plain(name.as_bytes()) } else { None };
        let key = [b"\"", name.as_bytes(), b"\":"].concat().into_boxed_slice();
        let node =
            Node { hash: self.hash(parent, name.as_bytes()), parent, key, kind, group, field };
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

#[inline]
fn hash(key: u64, parent: PathId, name: &[u8]) -> u64 {
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
    let mut hash = mix(key ^ (u64::from(parent.0) << 32) ^ (name.len() as u64));
    for chunk in name.chunks_exact(8) {
        hash = mix(hash ^ <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes));
    }
    mix(hash ^ last)
}
