//! Shortens values: strings between two characters, arrays and objects between two parts.
//!
//! All strings and arrays, in whatever objects, may have the same number of bytes, and those that need fewer
//! leave the rest to the others; so small ones stay as they are and the longest are shortened first.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::MAX_LINE;
use super::cjson::is_list;
use super::fields::{Step, Walk};
use super::json::{Items, Part, cut, decoded, inside};

/// Nothing is shortened below this, in bytes.
pub(super) const MIN_ROOM: usize = 64;

/// The list of shortened paths is no longer than this, in bytes, and none of them than that.
const MAX_LIST: usize = 12 << 10;
pub(super) const MAX_PATH: usize = 256;

/// Stands for what a list or a path leaves out.
const ELLIPSIS: &[u8] = "…".as_bytes();

/// What shares some bytes.
#[derive(Default)]
pub(super) struct Parts {
    /// Bytes that can't be saved.
    pub(super) fixed: usize,
    /// Parts that can be shortened: their bytes, and the fewest that they get.
    large: Vec<(usize, usize)>,
}

impl Parts {
    /// A part, and the bytes around it.
    pub(super) fn add(&mut self, around: usize, bytes: usize, room: usize) {
        self.fixed += around;
        if bytes <= room {
            self.fixed += bytes;
        } else {
            self.large.push((bytes, room));
        }
    }

    /// Every string and array of some members; no further than where they need more than `most`.
    pub(super) fn add_leaves(&mut self, members: &[u8], room: usize, most: usize) {
        let mut walk = Walk::new(members);
        while self.fixed <= most
            && let Some(step) = walk.step()
        {
            match step {
                Step::Key(key) => self.fixed += key.len() + 1,
                // It may get a blank in front.
                Step::Field(value @ [b'"', b'[' | b'\\', ..]) => self.add(1, value.len(), room),
                Step::Field(value) => self.add(0, value.len(), room),
                Step::Empty => self.fixed += 2,
                Step::Comma | Step::Open | Step::Close => self.fixed += 1,
            }
        }
    }

    /// The most that each may have, so that together they take no more than `bytes`; none where they
    /// can't.
    pub(super) fn highest(&self, bytes: usize) -> Option<usize> {
        let fits = |most: usize| {
            let large = self.large.iter().map(|(bytes, room)| (*bytes).min(most.max(*room)));
            self.fixed + large.sum::<usize>() <= bytes
        };
        if !fits(0) {
            return None;
        }
        let (mut low, mut high) = (0, bytes);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        Some(low)
    }
}

/// Writes values, shortened where they are too long.
pub(super) struct Shortener<'a> {
    max_string: usize,
    /// Whether a string outside arrays that would be read as a list gets a blank in front.
    guards: bool,
    /// How many arrays it is in.
    arrays: usize,
    pub(super) out: &'a mut Vec<u8>,
    /// Where it is, as JSON without quotes: `Item.Folders[3].Path`.
    path: Vec<u8>,
    /// The paths of what was shortened.
    pub(super) cut: Vec<Vec<u8>>,
}

impl<'a> Shortener<'a> {
    pub(super) fn new(max_string: usize, guards: bool, out: &'a mut Vec<u8>) -> Self {
        Self { max_string, guards, arrays: 0, out, path: Vec::new(), cut: Vec::new() }
    }

    /// Writes members, with `most` bytes at most for each of their strings and arrays, in whatever
    /// objects. `outside`: the length of the path that they are in, if they are in one.
    pub(super) fn members(&mut self, members: &[u8], most: usize, outside: Option<usize>) {
        let mut walk = Walk::new(members);
        let mut paths = vec![outside];
        loop {
            match walk.step() {
                Some(Step::Key(key)) => self.key(key, paths.last().copied().flatten()),
                Some(Step::Field(value)) => self.value(value, most),
                Some(Step::Empty) => self.out.extend_from_slice(b"\"\""),
                Some(Step::Comma) => self.out.push(b','),
                Some(Step::Open) => {
                    self.out.push(b'{');
                    paths.push(Some(self.path.len()));
                }
                Some(Step::Close) => {
                    self.out.push(b'}');
                    paths.pop();
                }
                None => break,
            }
        }
        self.path.truncate(outside.unwrap_or_default());
    }

    /// Writes a key with its colon.
    pub(super) fn key(&mut self, key: &[u8], outside: Option<usize>) {
        self.path.truncate(outside.unwrap_or_default());
        if outside.is_some() {
            self.path.push(b'.');
        }
        self.path.extend_from_slice(inside(key));
        self.text(inside(key), MAX_LINE);
        self.out.push(b':');
    }

    /// Writes a string for a member of the record, in `most` bytes at most.
    pub(super) fn named_string(&mut self, name: &[u8], inside: &[u8], most: usize) {
        self.path = name.to_vec();
        self.text(inside, most);
    }

    /// Writes a value in `most` bytes at most, of which there are two at least.
    pub(super) fn value(&mut self, value: &[u8], most: usize) {
        let guards = self.guards && self.arrays == 0;
        let may_need_blank = guards && matches!(value, [b'"', b'[' | b'\\', ..] | [b'{', ..]);
        if value.len() <= most.min(self.max_string.saturating_add(2)) && !may_need_blank {
            self.out.extend_from_slice(value);
            return;
        }
        match value {
            [b'"', inside @ .., b'"'] if may_need_blank => self.guarded(inside, most),
            [b'"', inside @ .., b'"'] => self.text(inside, most),
            [b'{', members @ .., b'}'] => {
                let mut leaves = Parts { fixed: 2, ..Parts::default() };
                leaves.add_leaves(members, MIN_ROOM, most);
                if let Some(most) = leaves.highest(most) {
                    self.out.push(b'{');
                    let outside = Some(self.path.len());
                    self.members(members, most, outside);
                    self.out.push(b'}');
                } else {
                    self.container(value, most);
                }
            }
            [b'[', ..] => self.container(value, most),
            // A number, which is not cut without becoming another one.
            _ => self.text(value, most),
        }
    }

    /// Writes a string.
    fn text(&mut self, inside: &[u8], most: usize) {
        let length = cut(inside, most.saturating_sub(2), self.max_string);
        self.out.push(b'"');
        self.out.extend_from_slice(inside.get(..length).unwrap_or_default());
        self.out.push(b'"');
        if length < inside.len() {
            self.tell();
        }
    }

    /// Writes a string, with a blank in front if what is left of it would be read as a list.
    fn guarded(&mut self, inside: &[u8], most: usize) {
        let length = cut(inside, most.saturating_sub(2), self.max_string);
        let left = inside.get(..length).unwrap_or_default();
        let text = decoded(&[b"\"", left, b"\""].concat()).map(Cow::into_owned);
        if !text.is_some_and(|text| is_list(&text)) {
            return self.text(inside, most);
        }
        // Where there is no room for a blank, it loses its last bracket instead.
        let (most, max_string) = (most.saturating_sub(3), self.max_string.saturating_sub(1));
        let length = cut(left, most, max_string);
        self.out.push(b'"');
        if length == left.len() {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(left.get(..length).unwrap_or_default());
        self.out.push(b'"');
        if length < inside.len() {
            self.tell();
        }
    }

    /// Writes a container that keeps those parts, in their order, that find room: of an array the first
    /// ones. Only a part that takes more than half of an array is shortened itself.
    fn container(&mut self, container: &[u8], most: usize) {
        let is_array = container.first() == Some(&b'[');
        let room = if is_array { MIN_ROOM.max(most / 2) } else { MIN_ROOM };
        // Brackets, and no comma behind the last.
        let mut parts = Parts { fixed: 1, ..Parts::default() };
        let (mut needed, mut kept, mut whole) = (1, Vec::new(), true);
        for Part { key, value, .. } in Items::of(container) {
            let around = if is_array { 1 } else { key.len() + 2 };
            let needs = around + value.len().min(room);
            if needed + needs <= most {
                needed += needs;
                parts.add(around, value.len(), room);
                kept.push((key, value));
            } else {
                whole = false;
                if is_array {
                    break;
                }
            }
        }
        let most = parts.highest(most).unwrap_or_default().max(room);
        self.arrays += usize::from(is_array);
        self.out.push(if is_array { b'[' } else { b'{' });
        let outside = self.path.len();
        for (n, (key, value)) in kept.into_iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            if is_array {
                self.path.extend_from_slice(format!("[{n}]").as_bytes());
            } else {
                self.key(key, Some(outside));
            }
            self.value(value, most);
            self.path.truncate(outside);
        }
        self.out.push(if is_array { b']' } else { b'}' });
        self.arrays -= usize::from(is_array);
        if !whole {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let length = cut(&self.path, MAX_PATH, MAX_PATH);
        let mut path = self.path.get(..length).unwrap_or_default().to_vec();
        if length < self.path.len() {
            path.extend_from_slice(ELLIPSIS);
        }
        if !self.cut.contains(&path) {
            self.cut.push(path);
        }
    }
}

/// The member that lists what was shortened, with its comma; nothing if nothing was. Where the paths
/// take too much room, it names the record's members that they begin with.
pub(super) fn list(cut: &[Vec<u8>]) -> Vec<u8> {
    if cut.is_empty() {
        return Vec::new();
    }
    let written = |paths: &mut dyn Iterator<Item = &[u8]>| {
        let mut list = b"\"Truncated\":[".to_vec();
        for path in paths {
            list.extend([b"\"", path, b"\","].concat());
        }
        list.pop();
        list.extend_from_slice(b"],");
        list
    };
    let full = written(&mut cut.iter().map(Vec::as_slice));
    if full.len() <= MAX_LIST {
        return full;
    }
    let first = |path: &[u8]| path.iter().take_while(|b| !b".[".contains(b)).count();
    let members: BTreeSet<&[u8]> =
        cut.iter().map(|path| path.get(..first(path)).unwrap_or_default()).collect();
    let mut room = MAX_LIST - 64;
    let fitting = members.iter().copied().take_while(|path| {
        let fits = path.len() + 3 <= room;
        room = room.saturating_sub(path.len() + 3);
        fits
    });
    let mut fitting: Vec<_> = fitting.collect();
    if fitting.len() < members.len() {
        fitting.push(ELLIPSIS);
    }
    written(&mut fitting.into_iter())
}
