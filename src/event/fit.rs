//! Writes a record anew that is too long for a line, has a string that the indexer rejects, or too
//! many fields: with its longest strings and arrays shortened, its deepest objects as strings, and what
//! finds no room then in one string.

use std::collections::HashSet;

use super::fields::{Folding, fields_of};
use super::json::{Items, Part, inside};
use super::name::Name;
use super::shorten::{Parts, SMALLEST_ROOM, Shortener, list};
use super::{ENVELOPE_FIELDS, Fate, LONGEST_LINE, LONGEST_STRING, MOST_FIELDS};

/// A mandatory value is not shortened below this, in bytes.
const MANDATORY_ROOM: usize = 4096;

/// What `Overflow` has at least, if there is one, and what is looked at to fill it.
const OVERFLOW_ROOM: usize = 2048;
const MOST_OVERFLOW: usize = 1 << 20;

const OVERFLOW: &[u8] = b"Overflow";

/// The bytes around its value.
const AROUND_OVERFLOW: usize = "\"Overflow\":,".len();

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

impl Whole<'_> {
    /// Writes the members that fit to `out`, which is empty, each with a comma behind it, and the value
    /// of `Id` in the place of what is in `id`.
    pub(super) fn write(&self, id: &mut Vec<u8>, out: &mut Vec<u8>) -> Fate {
        // Bytes kept free for `Truncated`.
        let mut reserved = 0;
        loop {
            let (written, cut) = self.write_with(reserved, out);
            let list = list(&cut);
            if list.len() <= reserved {
                out.extend_from_slice(&list);
                *id = written.unwrap_or_default();
                return if cut.is_empty() { Fate::Whole } else { Fate::Shortened };
            }
            // With less room more may be shortened, so that the list grows, but not for ever.
            reserved = list.len() + list.len() / 4;
            out.clear();
        }
    }

    fn write_with(&self, reserved: usize, out: &mut Vec<u8>) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
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
        shortener.cut = match &others {
            Some(others) => moved(cut, others),
            None => cut,
        };
        let id = write(&mut shortener, &kept, others.as_deref(), room.bytes);
        (id, shortener.cut)
    }
}

/// Paths as they are once `others` are in `Overflow`.
fn moved(cut: Vec<Vec<u8>>, others: &[u8]) -> Vec<Vec<u8>> {
    let keys: HashSet<&[u8]> = Items::of(others).map(|part| inside(part.key)).collect();
    let is_moved = |path: &[u8]| {
        // A key may hold what separates those of a path.
        let ends = path.iter().enumerate().filter(|(_, b)| b".[".contains(b)).map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| path.get(..end).is_some_and(|key| keys.contains(key)))
    };
    let path = |path: Vec<u8>| {
        if is_moved(&path) { [OVERFLOW, b".", &path].concat() } else { path }
    };
    cut.into_iter().map(path).collect()
}

/// Writes the members in `bytes` bytes at most, and `others` as `Overflow`. Gives the value of `Id`.
fn write(
    shortener: &mut Shortener<'_>,
    members: &[Member<'_>],
    others: Option<&[u8]>,
    bytes: usize,
) -> Option<Vec<u8>> {
    let (mut leaves, mut values) = (Parts::default(), Parts::default());
    for member in members {
        leaves.fixed += 1;
        leaves.add_leaves(member.text, member.room(), bytes);
        values.add(member.key.len() + 2, member.value.len(), member.room());
    }
    if let Some(others) = others {
        let string = shortener.text_as_string(OVERFLOW, others, LONGEST_LINE);
        leaves.add(AROUND_OVERFLOW, string.len(), OVERFLOW_ROOM);
        values.add(AROUND_OVERFLOW, string.len(), OVERFLOW_ROOM);
    }
    let most = leaves.highest(bytes);
    // Where so many stand in objects that these can't be kept whole.
    let most_of_value = values.highest(bytes).unwrap_or_default();
    let mut id = None;
    for member in members {
        let from = shortener.out.len() + member.key.len() + 1;
        if let Some(most) = most {
            let most = most.max(member.room());
            shortener.members(member.text, most, &mut Folding::none(), None);
        } else {
            shortener.key(member.key, None);
            shortener.value(member.value, most_of_value.max(member.room()));
        }
        if member.name == Some(Name::Id) {
            id = shortener.out.get(from..).map(<[u8]>::to_vec);
        }
        shortener.out.push(b',');
    }
    if let Some(others) = others {
        let most = most.unwrap_or(most_of_value).max(OVERFLOW_ROOM);
        let string = shortener.text_as_string(OVERFLOW, others, most);
        shortener.out.extend([b"\"", OVERFLOW, b"\":", &string, b","].concat());
    }
    id
}

/// A member to be written.
struct Member<'a> {
    /// Key and value as they stand.
    text: &'a [u8],
    /// With its quotes.
    key: &'a [u8],
    name: Option<Name>,
    value: &'a [u8],
    is_mandatory: bool,
    is_last: bool,
}

impl Member<'_> {
    /// Its value is not made shorter than this.
    fn room(&self) -> usize {
        if self.is_mandatory { MANDATORY_ROOM } else { SMALLEST_ROOM }
    }

    /// What it takes at least, with its comma.
    fn needs(&self) -> Size {
        let bytes = self.key.len() + 2 + self.value.len().min(self.room());
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
        if member.is_mandatory {
            mandatory = mandatory.plus(member.needs());
        }
        overflows |= displaced(&member);
    }
    if !overflows && room.minus(all).is_some() {
        return (read(members).collect(), None);
    }
    let own = Size { bytes: AROUND_OVERFLOW + OVERFLOW_ROOM, fields: 1 };
    let mut left = room.minus(mandatory.plus(own)).unwrap_or_default();
    let (mut kept, mut others, mut full) = (Vec::new(), b"{".to_vec(), false);
    for member in read(members) {
        let goes = displaced(&member) || member.name == Some(Name::Overflow);
        let rest = left.minus(member.needs()).filter(|_| !goes && !full);
        if member.is_mandatory {
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

/// The members; of each mandatory name the first is so.
fn read(members: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut seen = Vec::new();
    let mut items = Items::members(members);
    std::iter::from_fn(move || {
        let Part { text, key, value } = items.next()?;
        let name = Name::of(key);
        let mandatory = name.filter(|name| name.is_mandatory() && !seen.contains(name));
        seen.extend(mandatory);
        let (is_mandatory, is_last) = (mandatory.is_some(), items.is_empty());
        Some(Member { text, key, name, value, is_mandatory, is_last })
    })
}
