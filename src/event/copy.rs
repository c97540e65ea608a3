//! Copies a record into a line: checks it against the JSON grammar (RFC 8259), leaves out white
//! space, and repairs on the way what can be judged by itself.
//!
//! What needs no repair is copied in one piece, and never taken apart.

use std::ops::Range;

use super::Unusable;
use super::json::{code, cut, is_second_half, is_white, plain, quote};
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
        at: 0,
        copied: 0,
        out,
        normalize,
        arrays: 0,
        escaped: false,
        open: Vec::new(),
        has_client_ip: false,
        address: None,
        found: Copied::default(),
    };
    copy.record()?;
    Ok(copy.found)
}

struct Copy<'a> {
    record: &'a [u8],
    /// The next byte to look at, and the first one that is not in `out` yet.
    at: usize,
    copied: usize,
    out: &'a mut Vec<u8>,
    normalize: bool,
    /// How many arrays are open: fields are not counted inside of them.
    arrays: usize,
    /// Whether an escape has been seen.
    escaped: bool,
    /// The closing bracket of each container that is open.
    open: Vec<u8>,
    /// Whether `ClientIP` has been seen, and as what, with its quotes, if it was repaired.
    has_client_ip: bool,
    address: Option<Vec<u8>>,
    found: Copied,
}

impl Copy<'_> {
    /// Copies the whole record.
    fn record(&mut self) -> Result<(), Unusable> {
        self.skip_white();
        self.expect(b'{').map_err(|_| Unusable::NoObject)?;
        self.copied = self.at;
        self.skip_white();
        let mut more = self.peek() != Some(b'}');
        while more {
            let kept = self.member()?;
            self.skip_white();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if !kept {
                        self.copied = self.at;
                    }
                    self.skip_white();
                }
                Some(b'}') => {
                    self.flush();
                    if kept {
                        self.out.push(b',');
                    }
                    more = false;
                }
                _ => return Err(Unusable::Malformed),
            }
        }
        if let Some(address) = self.address.take() {
            self.out.extend([&b"\"ClientIPAddressPort\":"[..], &address, b","].concat());
            self.found.adds_address_port = true;
            self.found.fields += 1;
        }
        self.at += 1;
        self.found.length = self.at;
        Ok(())
    }

    /// Copies a member of the record; false where it is left out.
    fn member(&mut self) -> Result<bool, Unusable> {
        let before = self.place();
        let name = self.name()?;
        self.skip_white();
        self.expect(b':')?;
        self.skip_white();
        let value = self.place();
        // Of doubles the first one: what it was has one place only.
        let is_address = name == Some(Name::ClientIp) && !self.has_client_ip;
        self.has_client_ip |= is_address;
        if is_address && self.normalize && self.peek() == Some(b'"') {
            self.client_ip()?;
        } else {
            self.value(name == Some(Name::Properties) && self.normalize)?;
        }
        let value = value..self.place();
        let traits = &mut self.found.traits;
        match name {
            Some(Name::Subscription) => {
                // Ours is written last.
                self.flush();
                self.out.truncate(before);
                return Ok(false);
            }
            Some(Name::Id) => self.found.id = Some(value),
            Some(Name::ClientIpAddressPort) => self.found.has_address_port = true,
            Some(Name::RecordType) => traits.record_type.found(value),
            Some(Name::Operation) => traits.operation.found(value),
            Some(Name::Workload) => traits.workload.found(value),
            Some(Name::UserId) => traits.user_id.found(value),
            _ => {}
        }
        Ok(true)
    }

    /// Copies a key of the record.
    fn name(&mut self) -> Result<Option<Name>, Unusable> {
        self.escaped = false;
        let from = self.at;
        let inside = self.string()?;
        if self.escaped {
            return Ok(Name::of(self.record.get(from..self.at).unwrap_or_default()));
        }
        Ok(Name::plain(self.record.get(inside).unwrap_or_default()))
    }

    /// Copies the value of `ClientIP`, as a bare address if it is one with something around it.
    fn client_ip(&mut self) -> Result<(), Unusable> {
        let from = self.at;
        let inside = self.string()?;
        self.count(&inside);
        let spelt = self.record.get(from..self.at).unwrap_or_default();
        let bare =
            serde_json::from_slice::<String>(spelt).ok().and_then(|text| bare_address(&text));
        if let Some(bare) = bare {
            self.address = Some(spelt.to_vec());
            self.replace(from, &bare);
        }
        Ok(())
    }

    /// Copies one value of any depth, without recursion. `properties`: it is one of the arrays of
    /// names and values, so items that are strings become objects, as the others are.
    fn value(&mut self, properties: bool) -> Result<(), Unusable> {
        let mut deep: Option<Deep> = None;
        loop {
            self.skip_white();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    // The record is a level, and so is this one.
                    if self.open.len() + 2 > MOST_LEVELS && deep.is_none() {
                        self.flush();
                        let (levels, start) = (self.open.len(), self.out.len());
                        deep = Some(Deep { levels, start, fields: self.found.fields });
                    }
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if close == b']' {
                        self.found.fields += usize::from(self.arrays == 0);
                        self.arrays += 1;
                    }
                    self.at += 1;
                    self.open.push(close);
                    self.skip_white();
                    if self.peek() != Some(close) {
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"' | b'-' | b'0'..=b'9') => {
                    let from = self.place();
                    if self.peek() == Some(b'"') {
                        let inside = self.string()?;
                        self.count(&inside);
                    } else {
                        self.number()?;
                    }
                    if properties && self.open == [b']'] {
                        self.make_an_object(from);
                    }
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(Unusable::Malformed),
            }
            // Behind a value: close what ends here, up to the comma before the next value.
            loop {
                let Some(close) = self.open.last().copied() else {
                    return Ok(());
                };
                self.skip_white();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if close == b'}' {
                            self.skip_white();
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        self.open.pop();
                        self.arrays -= usize::from(close == b']');
                        if let Some(container) = deep.take_if(|deep| deep.levels == self.open.len())
                        {
                            self.flush();
                            self.make_a_string(&container);
                        }
                    }
                    _ => return Err(Unusable::Malformed),
                }
            }
        }
    }

    /// Makes an object of an item of names and values, if it was copied as a string.
    fn make_an_object(&mut self, from: usize) {
        self.flush();
        if self.out.get(from) == Some(&b'"') {
            self.out.splice(from..from, *b"{\"Name\":");
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

    fn key(&mut self) -> Result<(), Unusable> {
        self.string()?;
        self.skip_white();
        self.expect(b':')
    }

    /// Steps over a string; gives where its inside stands in the record.
    fn string(&mut self) -> Result<Range<usize>, Unusable> {
        self.expect(b'"')?;
        let from = self.at;
        loop {
            self.at += plain(self.record.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape_sequence()?,
                Some(control) => {
                    // Wazuh would cut the line there.
                    self.flush();
                    self.out.extend_from_slice(format!("\\u{control:04x}").as_bytes());
                    self.at += 1;
                    self.copied = self.at;
                }
                None => return Err(Unusable::Malformed),
            }
        }
        let inside = from..self.at;
        self.at += 1;
        if inside.len() > LONGEST_STRING {
            let text = self.record.get(inside.clone()).unwrap_or_default();
            self.found.has_long_string |= cut(text, usize::MAX, LONGEST_STRING) < text.len();
        }
        Ok(inside)
    }

    /// Steps over a backslash and what belongs to it. One half of a surrogate pair is no character,
    /// and cJSON, which Wazuh reads with, refuses the whole line for it.
    fn escape_sequence(&mut self) -> Result<(), Unusable> {
        self.escaped = true;
        let rest = self.record.get(self.at..).unwrap_or_default();
        self.at += match rest {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', ..] => match (code(rest), rest.get(6..)) {
                (Some(0xd800..=0xdbff), Some(next)) if is_second_half(next) => 12,
                (Some(0xd800..=0xdfff), _) => {
                    self.flush();
                    self.out.extend_from_slice(b"\\ufffd");
                    self.copied = self.at + 6;
                    6
                }
                (Some(_), _) => 6,
                (None, _) => return Err(Unusable::Malformed),
            },
            _ => return Err(Unusable::Malformed),
        };
        Ok(())
    }

    fn number(&mut self) -> Result<(), Unusable> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut long = self.at - from >= SHORTEST_LONG_NUMBER;
        if let Some(b'e' | b'E') = self.peek() {
            long = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        self.found.fields += usize::from(self.arrays == 0);
        if long && self.normalize {
            let number = self.record.get(from..self.at).unwrap_or_default();
            let string = std::str::from_utf8(number).ok().and_then(whole_number);
            if let Some(string) = string {
                self.found.has_long_string |= string.len() > LONGEST_STRING;
                self.replace(from, &string);
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Unusable> {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { Err(Unusable::Malformed) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Unusable> {
        if !self.record.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(Unusable::Malformed);
        }
        self.at += word.len();
        self.found.fields += usize::from(self.arrays == 0);
        Ok(())
    }

    /// Counts a string as Wazuh's decoder does: an empty one is no field.
    fn count(&mut self, inside: &Range<usize>) {
        self.found.fields += usize::from(self.arrays == 0 && !inside.is_empty());
    }

    /// Copies up to where it stands.
    fn flush(&mut self) {
        self.out.extend_from_slice(self.record.get(self.copied..self.at).unwrap_or_default());
        self.copied = self.at;
    }

    /// Writes a string of plain characters in place of what stands between `from` and here.
    fn replace(&mut self, from: usize, string: &str) {
        self.out.extend_from_slice(self.record.get(self.copied..from).unwrap_or_default());
        self.copied = self.at;
        self.out.push(b'"');
        self.out.extend_from_slice(string.as_bytes());
        self.out.push(b'"');
    }

    /// Where in `out` the next byte will stand.
    fn place(&self) -> usize {
        self.out.len() + self.at - self.copied
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unusable> {
        if self.peek() != Some(byte) {
            return Err(Unusable::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn skip_white(&mut self) {
        if self.peek().is_some_and(is_white) {
            self.flush();
            while self.peek().is_some_and(is_white) {
                self.at += 1;
            }
            self.copied = self.at;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.record.get(self.at).copied()
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
