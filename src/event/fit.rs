//! Makes a record fit: into the fields that Wazuh's decoder keeps, and into a line that it does not cut.
//!
//! Members that make too many fields are moved to `Overflow`. A line that is too long loses the ends of its
//! longest strings and lists. So does a string that the indexer would reject.

use super::fields::fields_of;
use super::json::{Items, Part, cut, decoded, inside, quote};
use super::known_field::KnownField;
use super::overflow::Overflow;
use super::rewrite::Rewritten;
use super::shorten::{MIN_ROOM, Parts, Shortener, list};
use super::{ENVELOPE_FIELDS, Fate, MAX_FIELDS, MAX_LINE, MAX_STRING};

/// A mandatory value is not shortened below this, in bytes.
const MANDATORY_ROOM: usize = 4096;

/// What `Overflow` has at least, if there is one.
const OVERFLOW_ROOM: usize = 2048;

const OVERFLOW: &[u8] = b"Overflow";

/// The bytes around its value.
const AROUND_OVERFLOW: usize = "\"Overflow\":,".len();

/// A member of a record.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Key, colon and value.
    pub(super) text: Vec<u8>,
    /// The length of the key, with its quotes.
    pub(super) key: usize,
    /// Which of the members it is that the record keeps.
    pub(super) place: usize,
    pub(super) field: Option<KnownField>,
    /// Whether it is of our making, so that it stays.
    pub(super) is_ours: bool,
}

impl Member {
    fn key(&self) -> &[u8] {
        self.text.get(..self.key).unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.text.get(self.key + 1..).unwrap_or_default()
    }

    /// What it takes at least, with its comma.
    fn min_bytes(&self) -> usize {
        self.key + 2 + self.value().len().min(room(self.field))
    }
}

/// A value is not made shorter than this.
fn room(field: Option<KnownField>) -> usize {
    if field.is_some_and(KnownField::is_mandatory) { MANDATORY_ROOM } else { MIN_ROOM }
}

/// The limits of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most bytes that its members may take, each with its comma.
    pub(super) bytes: usize,
    /// Whether the limits of the decoder and the indexer count as well: fields, and bytes of a string. A
    /// string that would be read as a list gets a blank in front then.
    pub(super) normalize: bool,
}

/// Writes the members that fit to `out`, which is empty, each with a comma behind it.
pub(super) fn write(record: &Rewritten<'_>, limits: Limits, out: &mut Vec<u8>) -> Fate {
    if limits.normalize && write_whole(record, limits, out) {
        return Fate::Whole;
    }
    out.clear();
    // Bytes kept free for `Truncated`.
    let mut reserved = 0;
    loop {
        let cut = write_with(record, limits, reserved, out);
        let list = list(&cut);
        if list.len() <= reserved {
            out.extend_from_slice(&list);
            return if cut.is_empty() { Fate::Whole } else { Fate::Shortened };
        }
        // With less room more may be shortened, so that the list grows, but not for ever.
        reserved = list.len() + list.len() / 4;
        out.clear();
    }
}

/// Writes the whole record, if it obviously fits.
fn write_whole(record: &Rewritten<'_>, limits: Limits, out: &mut Vec<u8>) -> bool {
    let overflow = overflow_string(&record.overflow);
    let is_long = |member: &Member| member.text.len() > MAX_STRING;
    let is_too_long = overflow.as_ref().is_some_and(|text| text.len() > MAX_STRING);
    let max = MAX_FIELDS - ENVELOPE_FIELDS;
    if is_too_long
        || record.overflow.is_cut
        || record.members.iter().any(is_long)
        || !too_many_fields(&record.members, overflow.is_some(), max).is_empty()
    {
        return false;
    }
    let mut shortener = Shortener::new(MAX_STRING, true, out);
    for member in &record.members {
        let text = &member.text;
        // Only a string that begins like a list may get a blank in front.
        let begins = |at| text.get(at) == Some(&b'"');
        let may_be_list =
            memchr::memchr2_iter(b'[', b'\\', text).any(|at| begins(at.wrapping_sub(1)));
        if may_be_list {
            shortener.members(text, MAX_LINE, None);
        } else {
            shortener.out.extend_from_slice(text);
        }
        shortener.out.push(b',');
    }
    if let Some(overflow) = overflow {
        out.extend([b"\"", OVERFLOW, b"\":", &overflow, b","].concat());
    }
    out.len() <= limits.bytes
}

/// The value of `Overflow`; none where nothing was moved.
fn overflow_string(overflow: &Overflow<'_>) -> Option<Vec<u8>> {
    let mut string = Vec::new();
    (!overflow.is_empty()).then(|| {
        quote(&overflow.text(), &mut string);
        string
    })
}

/// Writes them into what `reserved` bytes for `Truncated` leave. Gives the paths of what was shortened.
fn write_with(
    record: &Rewritten<'_>,
    limits: Limits,
    reserved: usize,
    out: &mut Vec<u8>,
) -> Vec<Vec<u8>> {
    let truncates = reserved > 0;
    let bytes = limits.bytes.saturating_sub(reserved);
    let max_string = if limits.normalize { MAX_STRING } else { usize::MAX };
    let mut overflow = record.overflow.clone();
    let mut stays = vec![true; record.members.len()];
    let mut go = |at: usize, stays: &mut Vec<bool>| {
        if let (Some(member), Some(stays)) = (record.members.get(at), stays.get_mut(at)) {
            overflow.push(&decoded_key(member), member.value());
            *stays = false;
        }
    };
    if limits.normalize {
        let max = MAX_FIELDS - ENVELOPE_FIELDS - usize::from(truncates);
        for at in too_many_fields(&record.members, !record.overflow.is_empty(), max) {
            go(at, &mut stays);
        }
    }
    let has_overflow = stays.contains(&false) || !record.overflow.is_empty();
    for at in too_large(&record.members, &stays, has_overflow, bytes) {
        go(at, &mut stays);
    }
    // Those that we write ourselves. With `normalize` they are in `Overflow` already.
    let has_overflow = stays.contains(&false) || !record.overflow.is_empty();
    for (at, member) in record.members.iter().enumerate() {
        let is_displaced = match member.field {
            Some(KnownField::Truncated) => truncates,
            Some(KnownField::Overflow) => has_overflow,
            _ => false,
        };
        if is_displaced && stays.get(at) == Some(&true) {
            go(at, &mut stays);
        }
    }
    let kept = std::iter::zip(&record.members, &stays).filter(|(_, stays)| **stays);
    let kept: Vec<&Member> = kept.map(|(member, _)| member).collect();
    let string = overflow_string(&overflow);
    let mut paths = share(&kept, string.as_deref(), bytes, max_string, limits.normalize, out);
    if overflow.is_cut && !paths.iter().any(|path| path == OVERFLOW) {
        paths.push(OVERFLOW.to_vec());
    }
    paths
}

fn decoded_key(member: &Member) -> String {
    decoded(member.key()).unwrap_or_default().into_owned()
}

/// Which members of the record go because it has too many fields, by their `place`.
pub(super) fn too_many(record: &Rewritten<'_>) -> Vec<usize> {
    let max = MAX_FIELDS - ENVELOPE_FIELDS;
    let goes = too_many_fields(&record.members, !record.overflow.is_empty(), max);
    goes.into_iter().filter_map(|at| Some(record.members.get(at)?.place)).collect()
}

/// Which members go so that the others make `max` fields at most: the one with the most first, of equals
/// the last.
fn too_many_fields(members: &[Member], has_overflow: bool, max: usize) -> Vec<usize> {
    let fields: Vec<usize> = members.iter().map(|member| fields_of(member.value())).collect();
    let mut all = fields.iter().sum::<usize>() + usize::from(has_overflow);
    if all <= max {
        return Vec::new();
    }
    all += usize::from(!has_overflow);
    let may_go =
        |member: &Member| !member.is_ours && !member.field.is_some_and(KnownField::is_mandatory);
    let mut order: Vec<(usize, usize)> = std::iter::zip(members, fields)
        .enumerate()
        .filter(|(_, (member, fields))| may_go(member) && *fields > 0)
        .map(|(at, (_, fields))| (fields, at))
        .collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let goes = order.into_iter().take_while(|(fields, _)| {
        let too_many = all > max;
        all -= if too_many { *fields } else { 0 };
        too_many
    });
    let mut goes: Vec<usize> = goes.map(|(_, at)| at).collect();
    goes.sort_unstable();
    goes
}

/// Which members go because their names alone take too much room: the last ones.
fn too_large(members: &[Member], stays: &[bool], has_overflow: bool, bytes: usize) -> Vec<usize> {
    const AROUND: usize = AROUND_OVERFLOW + OVERFLOW_ROOM;
    let kept = || std::iter::zip(members, stays).enumerate().filter(|(_, (_, stays))| **stays);
    let mut needed: usize = kept().map(|(_, (member, _))| member.min_bytes()).sum();
    needed += if has_overflow { AROUND } else { 0 };
    if needed <= bytes {
        return Vec::new();
    }
    needed += if has_overflow { 0 } else { AROUND };
    let mut goes = Vec::new();
    let last_first: Vec<_> = kept().collect();
    for (at, (member, _)) in last_first.into_iter().rev() {
        if needed <= bytes {
            break;
        }
        if !member.is_ours && !member.field.is_some_and(KnownField::is_mandatory) {
            needed -= member.min_bytes();
            goes.push(at);
        }
    }
    goes.reverse();
    goes
}

/// Writes the members in `bytes` bytes at most, and `overflow` as `Overflow`. Gives the paths of what was
/// shortened.
fn share(
    members: &[&Member],
    overflow: Option<&[u8]>,
    bytes: usize,
    max_string: usize,
    guards: bool,
    out: &mut Vec<u8>,
) -> Vec<Vec<u8>> {
    // What is too long in any case.
    let mut whole = Vec::new();
    let mut shortener = Shortener::new(max_string, false, &mut whole);
    for member in members {
        shortener.members(&member.text, MAX_LINE, None);
        shortener.out.push(b',');
    }
    let paths = shortener.cut;
    let (mut leaves, mut values) = (Parts::default(), Parts::default());
    for (member, Part { text, key, value }) in std::iter::zip(members, Items::members(&whole)) {
        leaves.fixed += 1;
        leaves.add_leaves(text, room(member.field), bytes);
        values.add(key.len() + 2, value.len(), room(member.field));
    }
    if let Some(overflow) = overflow {
        let size = cut(inside(overflow), MAX_LINE, max_string) + 2;
        leaves.add(AROUND_OVERFLOW, size, OVERFLOW_ROOM);
        values.add(AROUND_OVERFLOW, size, OVERFLOW_ROOM);
    }
    let max = leaves.highest(bytes);
    // Where objects have too many members to be kept whole.
    let max_of_value = values.highest(bytes).unwrap_or_default();
    let mut shortener = Shortener::new(max_string, guards, out);
    shortener.cut = paths;
    for (member, Part { text, key, value }) in std::iter::zip(members, Items::members(&whole)) {
        if let Some(max) = max {
            shortener.members(text, max.max(room(member.field)), None);
        } else {
            shortener.key(key, None);
            shortener.value(value, max_of_value.max(room(member.field)));
        }
        shortener.out.push(b',');
    }
    if let Some(overflow) = overflow {
        shortener.out.extend([b"\"", OVERFLOW, b"\":"].concat());
        let max = max.unwrap_or(max_of_value).max(OVERFLOW_ROOM);
        shortener.named_string(OVERFLOW, inside(overflow), max);
        shortener.out.push(b',');
    }
    shortener.cut
}
