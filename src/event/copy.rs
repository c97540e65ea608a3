//! Copies a record into a line: checks it against the JSON grammar (RFC 8259), leaves out white
//! space, and repairs on the way what can be judged by itself.
//!
//! What needs no repair is copied in one piece, and never taken apart.

use std::ops::Range;

use super::Unusable;
use super::json::{code, cut, decoded, inside, is_second_half, is_white, plain, quote};
use super::name::Name;
use super::value::{bare_address, whole_number};
use super::{LONGEST_STRING, MOST_LEVELS};

/// Shorter numbers that are spelt without an exponent fit into 32 bits.
const SHORTEST_LONG_NUMBER: usize = 10;

/// What is known of a record that was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Where in the output the value of `Id` stands.
    pub(super) id: Option<Range<usize>>,
    /// The fields that Wazuh's decoder makes of it, or a few more.
    pub(super) fields: usize,
    /// Whether a string, or a key, is longer than the indexer takes, be it one that was left out.
    pub(super) has_long_string: bool,
    /// Whether the last member is the `ClientIPAddressPort` that we add, and whether it brings one of
    /// its own.
    pub(super) adds_address_port: bool,
    pub(super) has_address_port: bool,
    /// What filters go by.
    pub(super) traits: Traits,
    /// The record's length.
    pub(super) length: usize,
}

/// Where in the output the values stand that filters go by.
#[derive(Debug, Default)]
pub(super) struct Traits {
    pub(super) record_type: Trait,
    pub(super) operation: Trait,
    pub(super) workload: Trait,
    pub(super) user_id: Trait,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) enum Trait {
    /// The record lacks it.
    #[default]
    Missing,
    /// Once, here.
    At(Range<usize>),
    /// More than once: nobody can tell which one counts.
    Doubled,
}

impl Trait {
    fn found(&mut self, at: Range<usize>) {
        *self = match self {
            Self::Missing => Self::At(at),
            _ => Self::Doubled,
        };
    }
}

/// Copies the members of the object that `record` begins with to `out`, each followed by a comma.
///
/// # Errors
/// It is no object or no JSON; `out` then holds a part of it.
pub(super) fn copy(record: &[u8], normalize: bool, out: &mut Vec<u8>) -> Result<Copied, Unusable> {
    let mut copy = Copy {
        record,
        copied: 0,
        out,
        normalize,
        arrays: 0,
        escaped: false,
        open: Open::default(),
        has_client_ip: false,
        address: None,
        found: Copied::default(),
    };
    let at = copy.white(0);
    let at = copy.expect(at, b'{').ok_or(Unusable::NoObject)?;
    copy.record(at).ok_or(Unusable::Malformed)?;
    Ok(copy.found)
}

/// What is known while a record is copied. Where it stands, `at`, is handed from step to step: so it
/// stays in a register.
struct Copy<'a> {
    record: &'a [u8],
    /// The first byte that is not in `out` yet.
    copied: usize,
    out: &'a mut Vec<u8>,
    normalize: bool,
    /// How many arrays are open: fields are not counted inside of them.
    arrays: usize,
    /// Whether an escape has been seen.
    escaped: bool,
    open: Open,
    /// Whether `ClientIP` has been seen, and as what, with its quotes, if it was repaired.
    has_client_ip: bool,
    address: Option<Vec<u8>>,
    found: Copied,
}

/// The closing bracket of each container that is open. Those that are as deep as records go take no
/// memory of their own.
struct Open {
    levels: usize,
    first: [u8; MOST_LEVELS],
    further: Vec<u8>,
}

impl Default for Open {
    fn default() -> Self {
        Self { levels: 0, first: [0; MOST_LEVELS], further: Vec::new() }
    }
}

impl Open {
    fn len(&self) -> usize {
        self.levels
    }

    fn last(&self) -> Option<u8> {
        let last = self.levels.checked_sub(1)?;
        self.first.get(last).or_else(|| self.further.last()).copied()
    }

    fn push(&mut self, close: u8) {
        match self.first.get_mut(self.levels) {
            Some(place) => *place = close,
            None => self.further.push(close),
        }
        self.levels += 1;
    }

    fn pop(&mut self) {
        self.levels = self.levels.saturating_sub(1);
        self.further.truncate(self.levels.saturating_sub(MOST_LEVELS));
    }
}

/// Where the next step begins; none where the record is no JSON.
type Next = Option<usize>;

impl Copy<'_> {
    /// Copies the whole record.
    fn record(&mut self, mut at: usize) -> Option<()> {
        self.copied = at;
        at = self.white(at);
        let mut more = self.peek(at) != Some(b'}');
        while more {
            let kept;
            (at, kept) = self.member(at)?;
            at = self.white(at);
            match self.peek(at) {
                Some(b',') => {
                    at += 1;
                    if !kept {
                        self.copied = at;
                    }
                    at = self.white(at);
                }
                Some(b'}') => {
                    self.flush(at);
                    if kept {
                        self.out.push(b',');
                    }
                    more = false;
                }
                _ => return None,
            }
        }
        if let Some(address) = self.address.take() {
            self.out.extend([&b"\"ClientIPAddressPort\":"[..], &address, b","].concat());
            self.found.adds_address_port = true;
            self.found.fields += 1;
        }
        self.found.length = at + 1;
        Some(())
    }

    /// Copies a member of the record. Gives where it ends, and whether it was copied: false where it
    /// is left out.
    fn member(&mut self, at: usize) -> Option<(usize, bool)> {
        let before = self.place(at);
        self.escaped = false;
        let end = self.string(at)?;
        let key = self.record.get(at..end).unwrap_or_default();
        let name = if self.escaped { Name::of(key) } else { Name::plain(inside(key)) };
        let at = self.colon(end)?;
        let at = self.white(at);
        let value = self.place(at);
        // Of doubles the first one: what it was has one place only.
        let is_address = name == Some(Name::ClientIp) && !self.has_client_ip;
        self.has_client_ip |= is_address;
        let end = if is_address && self.normalize && self.peek(at) == Some(b'"') {
            self.client_ip(at)?
        } else {
            self.value(at, name == Some(Name::Properties) && self.normalize)?
        };
        let value = value..self.place(end);
        let traits = &mut self.found.traits;
        match name {
            Some(Name::Subscription) => {
                // Ours is written last.
                self.flush(end);
                self.out.truncate(before);
                return Some((end, false));
            }
            Some(Name::Id) => self.found.id = Some(value),
            Some(Name::ClientIpAddressPort) => self.found.has_address_port = true,
            Some(Name::RecordType) => traits.record_type.found(value),
            Some(Name::Operation) => traits.operation.found(value),
            Some(Name::Workload) => traits.workload.found(value),
            Some(Name::UserId) => traits.user_id.found(value),
            _ => {}
        }
        Some((end, true))
    }

    /// Copies the value of `ClientIP`, as a bare address if it is one with something around it.
    fn client_ip(&mut self, at: usize) -> Next {
        let end = self.string(at)?;
        self.count(at, end);
        let spelt = self.record.get(at..end).unwrap_or_default();
        if let Some(bare) = decoded(spelt).and_then(|text| bare_address(&text)) {
            self.address = Some(spelt.to_vec());
            self.replace(at..end, &bare);
        }
        Some(end)
    }

    /// Copies one value of any depth, without recursion. `properties`: it is one of the arrays of
    /// names and values, so items that are strings become objects, as the others are.
    fn value(&mut self, mut at: usize, properties: bool) -> Next {
        let mut deep: Option<Deep> = None;
        loop {
            at = match self.peek(at) {
                Some(first @ (b'"' | b'-' | b'0'..=b'9')) => {
                    let place = if properties { self.place(at) } else { 0 };
                    let end = if first == b'"' {
                        let end = self.string(at)?;
                        self.count(at, end);
                        end
                    } else {
                        self.number(at)?
                    };
                    if properties && self.open.len() == 1 && self.open.last() == Some(b']') {
                        self.make_an_object(place, end);
                    }
                    end
                }
                Some(bracket @ (b'{' | b'[')) => {
                    // The record is a level, and so is this one.
                    if self.open.len() + 2 > MOST_LEVELS && deep.is_none() {
                        self.flush(at);
                        let (levels, start) = (self.open.len(), self.out.len());
                        deep = Some(Deep { levels, start, fields: self.found.fields });
                    }
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if close == b']' {
                        self.found.fields += usize::from(self.arrays == 0);
                        self.arrays += 1;
                    }
                    self.open.push(close);
                    at = self.white(at + 1);
                    if self.peek(at) != Some(close) {
                        if close == b'}' {
                            at = self.key(at)?;
                        }
                        continue;
                    }
                    at
                }
                Some(b't') => self.literal(at, b"true")?,
                Some(b'f') => self.literal(at, b"false")?,
                Some(b'n') => self.literal(at, b"null")?,
                _ => return None,
            };
            // Behind a value: close what ends here, up to the comma before the next value.
            loop {
                let Some(close) = self.open.last() else {
                    return Some(at);
                };
                at = self.white(at);
                match self.peek(at) {
                    Some(b',') => {
                        at = self.white(at + 1);
                        if close == b'}' {
                            at = self.key(at)?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        at += 1;
                        self.open.pop();
                        self.arrays -= usize::from(close == b']');
                        if let Some(container) = deep.take_if(|deep| deep.levels == self.open.len())
                        {
                            self.flush(at);
                            self.make_a_string(&container);
                        }
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Makes an object of an item of names and values, if it was copied as a string.
    fn make_an_object(&mut self, place: usize, end: usize) {
        self.flush(end);
        if self.out.get(place) == Some(&b'"') {
            self.out.splice(place..place, *b"{\"Name\":");
            self.out.push(b'}');
        }
    }

    /// Makes a string of a container that has just been copied.
    fn make_a_string(&mut self, container: &Deep) {
        let text = self.out.split_off(container.start);
        quote(&text, self.out);
        self.found.fields = container.fields + usize::from(self.arrays == 0);
        self.found.has_long_string |= text.len() > LONGEST_STRING;
    }

    /// Steps over a key, up to its value.
    #[inline]
    fn key(&mut self, at: usize) -> Next {
        let end = self.string(at)?;
        let at = self.colon(end)?;
        Some(self.white(at))
    }

    #[inline]
    fn colon(&mut self, at: usize) -> Next {
        let at = self.white(at);
        self.expect(at, b':')
    }

    /// Steps over a string, its quotes included.
    #[inline(always)]
    fn string(&mut self, at: usize) -> Next {
        let from = self.expect(at, b'"')?;
        let end = from + plain(self.record.get(from..).unwrap_or_default());
        if self.peek(end) == Some(b'"') && end - from <= LONGEST_STRING {
            return Some(end + 1);
        }
        self.special_string(from, end)
    }

    /// Steps over a string that is long or has other than plain characters in it: from the first of
    /// them on, which is at `at`.
    #[inline(never)]
    fn special_string(&mut self, from: usize, mut at: usize) -> Next {
        loop {
            match self.peek(at) {
                Some(b'"') => break,
                Some(b'\\') => at = self.escape_sequence(at)?,
                Some(control) => {
                    // Wazuh would cut the line there.
                    self.flush(at);
                    self.out.extend_from_slice(format!("\\u{control:04x}").as_bytes());
                    at += 1;
                    self.copied = at;
                }
                None => return None,
            }
            at += plain(self.record.get(at..).unwrap_or_default());
        }
        if at - from > LONGEST_STRING {
            let text = self.record.get(from..at).unwrap_or_default();
            self.found.has_long_string |= cut(text, usize::MAX, LONGEST_STRING) < text.len();
        }
        Some(at + 1)
    }

    /// Steps over a backslash and what belongs to it. One half of a surrogate pair is no character,
    /// and cJSON, which Wazuh reads with, refuses the whole line for it.
    fn escape_sequence(&mut self, at: usize) -> Next {
        self.escaped = true;
        let rest = self.record.get(at..).unwrap_or_default();
        let length = match rest {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', ..] => match (code(rest), rest.get(6..)) {
                (Some(0xd800..=0xdbff), Some(next)) if is_second_half(next) => 12,
                (Some(0xd800..=0xdfff), _) => {
                    self.flush(at);
                    self.out.extend_from_slice(b"\\ufffd");
                    self.copied = at + 6;
                    6
                }
                (Some(_), _) => 6,
                (None, _) => return None,
            },
            _ => return None,
        };
        Some(at + length)
    }

    fn number(&mut self, from: usize) -> Next {
        let mut at = from + usize::from(self.peek(from) == Some(b'-'));
        at = match self.peek(at) {
            Some(b'0') => at + 1,
            _ => self.digits(at)?,
        };
        if self.peek(at) == Some(b'.') {
            at = self.digits(at + 1)?;
        }
        let mut long = at - from >= SHORTEST_LONG_NUMBER;
        if let Some(b'e' | b'E') = self.peek(at) {
            long = true;
            let sign = matches!(self.peek(at + 1), Some(b'+' | b'-'));
            at = self.digits(at + 1 + usize::from(sign))?;
        }
        self.found.fields += usize::from(self.arrays == 0);
        if long && self.normalize {
            let number = self.record.get(from..at).unwrap_or_default();
            let string = std::str::from_utf8(number).ok().and_then(whole_number);
            if let Some(string) = string {
                self.found.has_long_string |= string.len() > LONGEST_STRING;
                self.replace(from..at, &string);
            }
        }
        Some(at)
    }

    fn digits(&self, from: usize) -> Next {
        let mut at = from;
        while self.peek(at).is_some_and(|b| b.is_ascii_digit()) {
            at += 1;
        }
        (at > from).then_some(at)
    }

    fn literal(&mut self, at: usize, word: &[u8]) -> Next {
        if !self.record.get(at..).unwrap_or_default().starts_with(word) {
            return None;
        }
        self.found.fields += usize::from(self.arrays == 0);
        Some(at + word.len())
    }

    /// Counts a string as Wazuh's decoder does: an empty one is no field.
    fn count(&mut self, at: usize, end: usize) {
        self.found.fields += usize::from(self.arrays == 0 && end - at > 2);
    }

    /// Copies up to `at`.
    fn flush(&mut self, at: usize) {
        self.out.extend_from_slice(self.record.get(self.copied..at).unwrap_or_default());
        self.copied = at;
    }

    /// Writes a string of plain characters in place of what stands at `range`.
    fn replace(&mut self, range: Range<usize>, string: &str) {
        self.out.extend_from_slice(self.record.get(self.copied..range.start).unwrap_or_default());
        self.copied = range.end;
        self.out.push(b'"');
        self.out.extend_from_slice(string.as_bytes());
        self.out.push(b'"');
    }

    /// Where in `out` the byte at `at` will stand.
    fn place(&self, at: usize) -> usize {
        self.out.len() + at - self.copied
    }

    #[inline]
    fn expect(&self, at: usize, byte: u8) -> Next {
        (self.peek(at) == Some(byte)).then_some(at + 1)
    }

    /// Leaves out the white space at `at`, if there is any.
    #[inline]
    fn white(&mut self, at: usize) -> usize {
        if self.peek(at).is_some_and(is_white) { self.leave_out_white(at) } else { at }
    }

    #[inline(never)]
    fn leave_out_white(&mut self, mut at: usize) -> usize {
        self.flush(at);
        while self.peek(at).is_some_and(is_white) {
            at += 1;
        }
        self.copied = at;
        at
    }

    #[inline]
    fn peek(&self, at: usize) -> Option<u8> {
        self.record.get(at).copied()
    }
}

/// A container that is too deep.
struct Deep {
    /// How many containers of the member's value it is in.
    levels: usize,
    /// Where in the output it begins.
    start: usize,
    /// The fields counted before it.
    fields: usize,
}
