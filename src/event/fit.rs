//! Writes a record anew that is too long for a line, has a string that the indexer rejects, or too
//! many fields: with its longest values shortened, and what finds no room in one string.
//!
//! Of every container, each part may have so much, and those that need less leave the rest to the
//! others; so small values stay as they are and the largest are shortened first.

use std::collections::BTreeSet;
use std::ops::Range;

use super::fields::{fields_of, fold};
use super::json::{Items, cut, names, quote};
use super::{ENVELOPE_FIELDS, LONGEST_LINE, LONGEST_STRING, MOST_FIELDS};

/// What every record has (documented by Microsoft; the last one nearly every one): these never give
/// way to others.
const MANDATORY: [&str; 10] = [
    "Id",
    "RecordType",
    "CreationTime",
    "Operation",
    "OrganizationId",
    "UserType",
    "UserKey",
    "Workload",
    "UserId",
    "ClientIP",
];

/// A mandatory value is not shortened below this, in bytes.
const MANDATORY_ROOM: usize = 4096;

/// Any other not below this.
const SMALLEST_ROOM: usize = 64;

/// What `Overflow` has at least, if there is one.
const OVERFLOW_ROOM: usize = 2048;

/// The list of shortened paths is no longer than this, in bytes, and none of them than that.
const LONGEST_LIST: usize = 12 << 10;
const LONGEST_PATH: usize = 256;

const ADDRESS: &str = "ClientIPAddressPort";
const OVERFLOW: &str = "Overflow";
const TRUNCATED: &str = "Truncated";

/// A record as a whole.
pub(super) struct Whole<'a> {
    /// Its members as copied, each with a comma behind it.
    pub(super) members: &'a [u8],
    /// What goes to `ClientIPAddressPort`, as JSON.
    pub(super) address: Option<&'a [u8]>,
    /// Whether it, or a string of it, is too long.
    pub(super) too_long: bool,
    /// The most bytes that its members may take.
    pub(super) most: usize,
    /// Whether long strings and many fields are repaired as well.
    pub(super) normalize: bool,
}

/// A member to be written.
struct Member<'a> {
    /// With its quotes.
    key: &'a [u8],
    value: &'a [u8],
    /// Its value is not made shorter than this.
    room: usize,
}

impl Member<'_> {
    fn is_mandatory(&self) -> bool {
        self.room == MANDATORY_ROOM
    }

    /// What it takes at least.
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

/// What has been decided, and is still found to be needed, for `Truncated`.
#[derive(Clone, Copy)]
struct Reserve {
    field: bool,
    bytes: usize,
}

impl Whole<'_> {
    /// Writes the members that fit to `out`, which is empty, each with a comma behind it. Gives where
    /// the value of `Id` stands.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Option<Range<usize>> {
        let mut reserve = Reserve { field: self.too_long, bytes: 0 };
        loop {
            let (id, cut) = self.write_with(reserve, out);
            let list = list(&cut);
            let needs = Reserve { field: !cut.is_empty(), bytes: list.len() };
            if needs.bytes <= reserve.bytes && needs.field <= reserve.field {
                out.extend_from_slice(&list);
                write_address(self.address, out);
                return id;
            }
            // With less room more may be shortened, so that the list grows.
            reserve.field |= needs.field;
            reserve.bytes = needs.bytes + needs.bytes / 4;
            out.clear();
        }
    }

    fn write_with(
        &self,
        reserve: Reserve,
        out: &mut Vec<u8>,
    ) -> (Option<Range<usize>>, Vec<Vec<u8>>) {
        let longest_string = if self.normalize { LONGEST_STRING } else { usize::MAX };
        let added = usize::from(self.address.is_some()) + usize::from(reserve.field);
        let fields = match self.normalize {
            true => MOST_FIELDS - ENVELOPE_FIELDS - added,
            false => usize::MAX,
        };
        let members = match self.normalize {
            true => fold(self.members, fields),
            false => self.members.into(),
        };
        let bytes = self.most - reserve.bytes - self.address.map_or(0, address_length);
        let room = Size { bytes, fields };
        let displaced = |key: &[u8]| {
            key.len() > longest_string.saturating_add(2)
                || (self.address.is_some() && names(key, ADDRESS))
                || (reserve.field && names(key, TRUNCATED))
        };
        let (mut kept, overflow) = select(&members, room, displaced);
        if let Some(overflow) = &overflow {
            kept.push(Member { key: b"\"Overflow\"", value: overflow, room: OVERFLOW_ROOM });
        }
        let mut shortener = Shortener { longest_string, out, path: Vec::new(), cut: Vec::new() };
        let most = highest(bytes, kept.iter().map(|m| (m.key.len() + 2, m.value.len(), m.room)));
        let mut id = None;
        for member in &kept {
            shortener.out.extend_from_slice(member.key);
            shortener.out.push(b':');
            let from = shortener.out.len();
            shortener.path = inside(member.key).to_vec();
            shortener.value(member.value, most.max(member.room));
            if names(member.key, "Id") {
                id = Some(from..shortener.out.len());
            }
            shortener.out.push(b',');
        }
        (id, shortener.cut)
    }
}

/// Chooses the members that are written on their own; the text of `Overflow` holds the others, if
/// there are any: those that are `displaced`, and the last ones that don't fit.
fn select(
    members: &[u8],
    room: Size,
    displaced: impl Fn(&[u8]) -> bool,
) -> (Vec<Member<'_>>, Option<Vec<u8>>) {
    let (mut all, mut mandatory) = (Size::default(), Size::default());
    let mut overflows = false;
    for member in read(members) {
        all = all.plus(member.needs());
        if member.is_mandatory() {
            mandatory = mandatory.plus(member.needs());
        }
        overflows |= displaced(member.key);
    }
    if !overflows && room.minus(all).is_some() {
        return (read(members).collect(), None);
    }
    let own = Size { bytes: OVERFLOW.len() + 4 + OVERFLOW_ROOM, fields: 1 };
    let mut left = room.minus(mandatory.plus(own)).unwrap_or_default();
    let (mut kept, mut others, mut full) = (Vec::new(), b"{".to_vec(), false);
    for member in read(members) {
        let goes = displaced(member.key) || names(member.key, OVERFLOW);
        let rest = left.minus(member.needs()).filter(|_| !goes && !full);
        if member.is_mandatory() {
            kept.push(member);
        } else if let Some(rest) = rest {
            left = rest;
            kept.push(member);
        } else {
            full |= !goes;
            // What is longer than a line is cut in any case.
            if others.len() <= LONGEST_LINE {
                others.extend(member.key.iter().take(LONGEST_LINE));
                others.push(b':');
                others.extend(member.value.iter().take(LONGEST_LINE));
                others.push(b',');
            }
        }
    }
    others.pop();
    others.push(b'}');
    let mut text = Vec::new();
    quote(&others, &mut text);
    (kept, Some(text))
}

/// The members, the first of each mandatory name with the room that is due to it.
fn read(members: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut missing = MANDATORY.to_vec();
    Items::members(members).map(move |(key, value)| {
        let found = missing.iter().position(|name| names(key, name));
        let mandatory = found.map(|at| missing.swap_remove(at));
        let room = if mandatory.is_some() { MANDATORY_ROOM } else { SMALLEST_ROOM };
        Member { key, value, room }
    })
}

/// The most that each of several parts may have, so that they take no more than `bytes` together.
/// A part: its bytes besides its value, its value's, and the fewest that the value gets.
fn highest(bytes: usize, parts: impl Iterator<Item = (usize, usize, usize)> + Clone) -> usize {
    let fits = |most: usize| {
        let needed = parts.clone().map(|(own, value, room)| own + value.min(most.max(room)));
        needed.sum::<usize>() <= bytes
    };
    let (mut low, mut high) = (0, bytes);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
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

impl Shortener<'_> {
    /// Writes a value in `most` bytes at most, of which there are two at least.
    fn value(&mut self, value: &[u8], most: usize) {
        if value.len() <= most.min(self.longest_string.saturating_add(2)) {
            self.out.extend_from_slice(value);
            return;
        }
        match value {
            [b'"', inside @ .., b'"'] => self.string(inside, most),
            [b'{' | b'[', ..] => self.container(value, most),
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

    /// Its first parts, as many as find room; a part of an array is left whole as long as it takes
    /// no more than a quarter of it.
    fn container(&mut self, container: &[u8], most: usize) {
        let is_array = container.first() == Some(&b'[');
        let room = if is_array { SMALLEST_ROOM.max(most / 4) } else { SMALLEST_ROOM };
        let own = |key: &[u8]| if is_array { 1 } else { key.len() + 2 };
        // Brackets, and no comma behind the last.
        let mut needed = 1;
        let mut kept = Vec::new();
        let mut whole = true;
        for (key, value) in Items::of(container) {
            let needs = own(key) + value.len().min(room);
            if key.len() > self.longest_string.saturating_add(2) {
                whole = false;
            } else if needed + needs <= most {
                needed += needs;
                kept.push((key, value));
            } else {
                whole = false;
                break;
            }
        }
        let parts = kept.iter().map(|(key, value)| (own(key), value.len(), room));
        let most = highest(most - 1, parts).max(room);
        self.out.push(if is_array { b'[' } else { b'{' });
        let outside = self.path.len();
        for (n, (key, value)) in kept.into_iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            if is_array {
                self.path.extend_from_slice(format!("[{n}]").as_bytes());
            } else {
                self.out.extend_from_slice(key);
                self.out.push(b':');
                self.path.push(b'.');
                self.path.extend_from_slice(inside(key));
            }
            self.value(value, most);
            self.path.truncate(outside);
        }
        self.out.push(if is_array { b']' } else { b'}' });
        if !whole {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let length = cut(&self.path, LONGEST_PATH, LONGEST_PATH);
        self.cut.push(self.path.get(..length).unwrap_or_default().to_vec());
    }
}

/// A key without its quotes.
fn inside(key: &[u8]) -> &[u8] {
    key.get(1..key.len().saturating_sub(1)).unwrap_or_default()
}

/// The member that lists what was shortened, with its comma; nothing if nothing was. Where the paths
/// take too much room, it names the record's members that they begin with.
fn list(cut: &[Vec<u8>]) -> Vec<u8> {
    if cut.is_empty() {
        return Vec::new();
    }
    let written = |paths: &mut dyn Iterator<Item = &[u8]>| {
        let mut list = format!("\"{TRUNCATED}\":[").into_bytes();
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
    let first = |path: &'_ Vec<u8>| path.iter().take_while(|b| !b".[".contains(b)).count();
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
        fitting.push("…".as_bytes());
    }
    written(&mut fitting.into_iter())
}

/// How long the member is that keeps what `ClientIP` was.
pub(super) fn address_length(address: &[u8]) -> usize {
    ADDRESS.len() + 4 + address.len()
}

/// Appends that member, with its comma.
pub(super) fn write_address(address: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(address) = address {
        out.extend([format!("\"{ADDRESS}\":").as_bytes(), address, b","].concat());
    }
}
