//! Writes a record anew that is too long for a line, has a string that the indexer rejects, or too
//! many fields: with its longest strings and arrays shortened, and what finds no room in one string.
//!
//! All strings and arrays of a record, in whatever objects, may have so many bytes each, and those that
//! need fewer leave the rest to the others; so small ones stay as they are and the longest are shortened
//! first.

use std::collections::BTreeSet;
use std::ops::Range;

use super::fields::{Folding, Step, Walk, fields_of};
use super::json::{Items, Part, cut, inside, quote};
use super::name::Name;
use super::{ENVELOPE_FIELDS, LONGEST_LINE, LONGEST_STRING, MOST_FIELDS};

/// A mandatory value is not shortened below this, in bytes.
const MANDATORY_ROOM: usize = 4096;

/// Any other not below this.
const SMALLEST_ROOM: usize = 64;

/// What `Overflow` has at least, if there is one, and what is looked at to fill it.
const OVERFLOW_ROOM: usize = 2048;
const MOST_OVERFLOW: usize = 1 << 20;

/// Its key.
const OVERFLOW: &[u8] = b"\"Overflow\":";

/// The list of shortened paths is no longer than this, in bytes, and none of them than that.
const LONGEST_LIST: usize = 12 << 10;
pub(super) const LONGEST_PATH: usize = 256;

/// Stands for what a list or a path leaves out.
const ELLIPSIS: &[u8] = "…".as_bytes();

/// A record as a whole.
pub(super) struct Whole<'a> {
    /// Its members as copied, each with a comma behind it.
    pub(super) members: &'a [u8],
    /// Whether the last of them is the `ClientIPAddressPort` that we add.
    pub(super) adds_address_port: bool,
    /// The most bytes that its members may take.
    pub(super) most: usize,
    /// Whether long strings and many fields are repaired as well.
    pub(super) normalize: bool,
}

/// A record written anew.
pub(super) struct Written {
    /// Where the value of `Id` stands.
    pub(super) id: Option<Range<usize>>,
    /// Whether something was shortened.
    pub(super) shortened: bool,
}

impl Whole<'_> {
    /// Writes the members that fit to `out`, which is empty, each with a comma behind it.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Written {
        // Bytes kept free for `Truncated`.
        let mut reserved = 0;
        loop {
            let (id, cut) = self.write_with(reserved, out);
            let list = list(&cut);
            if list.len() <= reserved {
                out.extend_from_slice(&list);
                return Written { id, shortened: !cut.is_empty() };
            }
            // With less room more may be shortened, so that the list grows, but not for ever.
            reserved = list.len() + list.len() / 4;
            out.clear();
        }
    }

    fn write_with(
        &self,
        reserved: usize,
        out: &mut Vec<u8>,
    ) -> (Option<Range<usize>>, Vec<Vec<u8>>) {
        let truncated = reserved > 0;
        let fields = MOST_FIELDS - ENVELOPE_FIELDS - usize::from(truncated);
        let (longest_string, fields) =
            if self.normalize { (LONGEST_STRING, fields) } else { (usize::MAX, usize::MAX) };
        // What is too long in any case, and too many fields.
        let mut members = Vec::new();
        let mut shortener = Shortener::new(longest_string, &mut members);
        let mut folding = Folding::of(self.members, fields);
        shortener.members(self.members, LONGEST_LINE, &mut folding, None);
        let cut = shortener.cut;

        let room = Size { bytes: self.most.saturating_sub(reserved), fields };
        let displaced = |member: &Member<'_>| match member.name {
            Some(Name::ClientIpAddressPort) => self.adds_address_port && !member.is_last,
            Some(Name::Truncated) => truncated,
            _ => false,
        };
        let (kept, others) = select(&members, room, displaced);
        let mut shortener = Shortener::new(longest_string, out);
        shortener.cut = cut;
        let (mut leaves, mut values) = (Parts::default(), Parts::default());
        for member in &kept {
            leaves.fixed += 1;
            leaves.add_leaves(member.text, member.room, room.bytes);
            values.add(member.key.len() + 2, member.value.len(), member.room);
        }
        if let Some(others) = &others {
            let string = shortener.overflow(others, LONGEST_LINE);
            leaves.add(OVERFLOW.len() + 1, string.len(), OVERFLOW_ROOM);
            values.add(OVERFLOW.len() + 1, string.len(), OVERFLOW_ROOM);
        }
        let most = leaves.highest(room.bytes);
        // Where there are so many in objects that these can't be kept whole.
        let most_of_value = values.highest(room.bytes).unwrap_or_default();
        let mut id = None;
        for member in &kept {
            let from = shortener.out.len() + member.key.len() + 1;
            if let Some(most) = most {
                let most = most.max(member.room);
                shortener.members(member.text, most, &mut Folding::none(), None);
            } else {
                shortener.key(member.key, None);
                shortener.value(member.value, most_of_value.max(member.room));
            }
            if member.name == Some(Name::Id) {
                id = Some(from..shortener.out.len());
            }
            shortener.out.push(b',');
        }
        if let Some(others) = &others {
            let most = most.unwrap_or(most_of_value).max(OVERFLOW_ROOM);
            let string = shortener.overflow(others, most);
            shortener.out.extend([OVERFLOW, &string, b","].concat());
        }
        (id, shortener.cut)
    }
}

/// A member to be written.
struct Member<'a> {
    /// Key and value as they stand.
    text: &'a [u8],
    /// With its quotes.
    key: &'a [u8],
    name: Option<Name>,
    value: &'a [u8],
    /// Its value is not made shorter than this.
    room: usize,
    is_last: bool,
}

impl<'a> Member<'a> {
    fn new(part: Part<'a>, room: usize) -> Self {
        let Part { text, key, value } = part;
        Self { text, key, name: Name::of(key), value, room, is_last: false }
    }

    fn is_mandatory(&self) -> bool {
        self.room == MANDATORY_ROOM
    }

    /// What it takes at least, with its comma.
    fn needs(&self) -> Size {
        let bytes = self.key.len() + 2 + self.value.len().min(self.room);
        Size { bytes, fields: fields_of(self.value) }
    }
}

/// What members take, or may take.
#[derive(Clone, Copy, Default)]
struct Size {
    bytes: usize,
    fields: usize,
}

impl Size {
    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, fields: self.fields + other.fields }
    }

    /// What is left behind `other`, if that fits.
    fn minus(self, other: Self) -> Option<Self> {
        let bytes = self.bytes.checked_sub(other.bytes)?;
        Some(Self { bytes, fields: self.fields.checked_sub(other.fields)? })
    }
}

/// Chooses the members that are written on their own, and makes an object of the others, if there are
/// any: those that are `displaced`, and the last ones that don't fit.
fn select(
    members: &[u8],
    room: Size,
    displaced: impl Fn(&Member<'_>) -> bool,
) -> (Vec<Member<'_>>, Option<Vec<u8>>) {
    let (mut all, mut mandatory) = (Size::default(), Size::default());
    let mut overflows = false;
    for member in read(members) {
        all = all.plus(member.needs());
        if member.is_mandatory() {
            mandatory = mandatory.plus(member.needs());
        }
        overflows |= displaced(&member);
    }
    if !overflows && room.minus(all).is_some() {
        return (read(members).collect(), None);
    }
    let own = Size { bytes: OVERFLOW.len() + 1 + OVERFLOW_ROOM, fields: 1 };
    let mut left = room.minus(mandatory.plus(own)).unwrap_or_default();
    let (mut kept, mut others, mut full) = (Vec::new(), b"{".to_vec(), false);
    for member in read(members) {
        let goes = displaced(&member) || member.name == Some(Name::Overflow);
        let rest = left.minus(member.needs()).filter(|_| !goes && !full);
        if member.is_mandatory() {
            kept.push(member);
        } else if let Some(rest) = rest {
            left = rest;
            kept.push(member);
        } else {
            full |= !goes;
            if others.len() < MOST_OVERFLOW {
                others.extend([member.text, b","].concat());
            }
        }
    }
    others.pop();
    others.push(b'}');
    (kept, Some(others))
}

/// The members, the first of each mandatory name with the room that is due to it.
fn read(members: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut seen = Vec::new();
    let mut items = Items::members(members);
    std::iter::from_fn(move || {
        let mut member = Member::new(items.next()?, SMALLEST_ROOM);
        member.is_last = items.is_empty();
        let mandatory = member.name.filter(|name| name.is_mandatory() && !seen.contains(name));
        if let Some(name) = mandatory {
            seen.push(name);
            member.room = MANDATORY_ROOM;
        }
        Some(member)
    })
}

/// What shares some bytes.
#[derive(Default)]
struct Parts {
    /// Bytes that can't be saved.
    fixed: usize,
    /// Parts that can be shortened: their bytes, and the fewest that they get.
    large: Vec<(usize, usize)>,
}

impl Parts {
    /// A part, and the bytes around it.
    fn add(&mut self, around: usize, bytes: usize, room: usize) {
        self.fixed += around;
        if bytes <= room {
            self.fixed += bytes;
        } else {
            self.large.push((bytes, room));
        }
    }

    /// Every string and array of some members; no further than where they need more than `most`.
    fn add_leaves(&mut self, members: &[u8], room: usize, most: usize) {
        let mut walk = Walk::new(members);
        while self.fixed <= most
            && let Some(step) = walk.step()
        {
            match step {
                Step::Key(key) => self.fixed += key.len() + 1,
                Step::Field(value) => self.add(0, value.len(), room),
                Step::Empty => self.fixed += 2,
                Step::Comma | Step::Open | Step::Close => self.fixed += 1,
            }
        }
    }

    /// The most that each may have, so that together they take no more than `bytes`; none where they
    /// can't.
    fn highest(&self, bytes: usize) -> Option<usize> {
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
struct Shortener<'a> {
    longest_string: usize,
    out: &'a mut Vec<u8>,
    /// Where it is, as JSON without quotes: `Item.Folders[3].Path`.
    path: Vec<u8>,
    /// The paths of what was shortened.
    cut: Vec<Vec<u8>>,
}

impl<'a> Shortener<'a> {
    fn new(longest_string: usize, out: &'a mut Vec<u8>) -> Self {
        Self { longest_string, out, path: Vec::new(), cut: Vec::new() }
    }

    /// Writes members, with `most` bytes at most for each of their strings and arrays, in whatever
    /// objects. `outside`: the length of the path that they are in, if they are in one.
    fn members(
        &mut self,
        members: &[u8],
        most: usize,
        folding: &mut Folding,
        outside: Option<usize>,
    ) {
        let mut walk = Walk::new(members);
        let mut paths = vec![outside];
        loop {
            if let Some(object) = walk.object()
                && folding.takes(object, walk.level + 1)
            {
                walk.skip(object);
                let text = self.text_of(object, LONGEST_LINE);
                quote(&text, self.out);
                continue;
            }
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
    fn key(&mut self, key: &[u8], outside: Option<usize>) {
        self.path.truncate(outside.unwrap_or_default());
        if outside.is_some() {
            self.path.push(b'.');
        }
        self.path.extend_from_slice(inside(key));
        self.string(inside(key), LONGEST_LINE);
        self.out.push(b':');
    }

    /// Writes a value in `most` bytes at most, of which there are two at least.
    fn value(&mut self, value: &[u8], most: usize) {
        if value.len() <= most.min(self.longest_string.saturating_add(2)) {
            self.out.extend_from_slice(value);
            return;
        }
        match value {
            [b'"', inside @ .., b'"'] => self.string(inside, most),
            [b'{', members @ .., b'}'] => {
                let mut leaves = Parts { fixed: 2, ..Parts::default() };
                leaves.add_leaves(members, SMALLEST_ROOM, most);
                if let Some(most) = leaves.highest(most) {
                    self.out.push(b'{');
                    let outside = Some(self.path.len());
                    self.members(members, most, &mut Folding::none(), outside);
                    self.out.push(b'}');
                } else {
                    self.container(value, most);
                }
            }
            [b'[', ..] => self.container(value, most),
            // A number, which is not cut without becoming another one.
            _ => self.string(value, most),
        }
    }

    fn string(&mut self, inside: &[u8], most: usize) {
        let length = cut(inside, most.saturating_sub(2), self.longest_string);
        self.out.push(b'"');
        self.out.extend_from_slice(inside.get(..length).unwrap_or_default());
        self.out.push(b'"');
        if length < inside.len() {
            self.tell();
        }
    }

    /// Writes a container that keeps those parts, in their order, that find room: of an array the first
    /// ones. Only a part that takes more than half of an array is shortened itself.
    fn container(&mut self, container: &[u8], most: usize) {
        let is_array = container.first() == Some(&b'[');
        let room = if is_array { SMALLEST_ROOM.max(most / 2) } else { SMALLEST_ROOM };
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
        if !whole {
            self.tell();
        }
    }

    /// The text of a container that becomes a string, of `most` bytes at most.
    fn text_of(&mut self, container: &[u8], most: usize) -> Vec<u8> {
        let before = std::mem::take(self.out);
        self.value(container, most.min(self.longest_string));
        std::mem::replace(self.out, before)
    }

    /// The value of `Overflow`, in `most` bytes at most: an object as a string.
    fn overflow(&mut self, others: &[u8], most: usize) -> Vec<u8> {
        self.path = b"Overflow".to_vec();
        let mut room = most;
        loop {
            let text = self.text_of(others, room);
            let mut string = Vec::new();
            quote(&text, &mut string);
            if string.len() <= most || room < SMALLEST_ROOM {
                return string;
            }
            // Quotes in it take a second byte each.
            room = (text.len() * most / string.len()).min(room - 1);
        }
    }

    fn tell(&mut self) {
        let length = cut(&self.path, LONGEST_PATH, LONGEST_PATH);
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
fn list(cut: &[Vec<u8>]) -> Vec<u8> {
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
    if full.len() <= LONGEST_LIST {
        return full;
    }
    let first = |path: &[u8]| path.iter().take_while(|b| !b".[".contains(b)).count();
    let members: BTreeSet<&[u8]> =
        cut.iter().map(|path| path.get(..first(path)).unwrap_or_default()).collect();
    let mut room = LONGEST_LIST - 64;
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
