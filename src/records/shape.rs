//! Follows one JSON value through its bytes, in pieces of any size: where it ends, or where it stops
//! being JSON.
//!
//! It checks strings, brackets, commas and colons. It accepts anything in the place of a number or
//! a literal, and anything in a string: [`crate::event`] judges these, and accepts no value whose
//! structure is refused here.

use memchr::memchr2;

/// A value that is nested more deeply is refused. `crate::event` is offered less than this many bytes.
const MAX_LEVELS: usize = 1 << 20;

/// The most objects in arrays, inside each other, that are looked at.
const MAX_INNER: usize = 64;

const RECORD_TYPE: &[u8] = b"RecordType";

/// What a piece of bytes made of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on behind the piece.
    More,
    /// It ends in this piece: `Shape::taken` is its length.
    Complete,
    /// It stops being JSON, at the byte `Shape::taken`.
    Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    InString { key: bool, escaped: bool },
    InScalar,
}

/// What is known of a value of which a part has been read.
pub(super) struct Shape {
    expects: Expects,
    pub(super) open: Levels,
    /// Bytes of it that were read.
    pub(super) taken: u64,
    /// Where the last string begins, if no other token follows it.
    string: Option<u64>,
    /// The last byte that is not white space.
    pub(super) last: u8,
    /// Whether a string, a number or a literal has been read.
    pub(super) has_text: bool,
    /// Whether it is an object with a member `Id`.
    pub(super) has_id: bool,
    /// Whether it is one with a member `RecordType`, which parts of records don't have.
    pub(super) has_record_type: bool,
    /// Where in it the first object of an array begins that has both: a record that the value has
    /// swallowed, if it turns out to be broken.
    pub(super) swallowed: Option<u64>,
    /// Whether such an object is looked for.
    pub(super) looks_inside: bool,
    /// The objects in arrays that are open, as far as they are looked at.
    inner: Vec<Inner>,
    /// The first bytes of the key that is being read, and how many.
    name: [u8; RECORD_TYPE.len() + 1],
    named: usize,
}

/// An open object that is an item of an array.
struct Inner {
    level: usize,
    at: u64,
    has_id: bool,
    has_record_type: bool,
}

impl Shape {
    pub(super) fn new() -> Self {
        Self {
            expects: Expects::Value,
            open: Levels::default(),
            taken: 0,
            string: None,
            last: 0,
            has_text: false,
            has_id: false,
            has_record_type: false,
            swallowed: None,
            looks_inside: true,
            inner: Vec::new(),
            name: [0; RECORD_TYPE.len() + 1],
            named: 0,
        }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        let progress = loop {
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
                break Progress::More;
            };
            match self.expects {
                Expects::InString { key, escaped: true } => {
                    self.note(key, b"\\");
                    self.expects = Expects::InString { key, escaped: false };
                    at += 1;
                }
                Expects::InString { key, escaped: false } => {
                    let end = memchr2(b'"', b'\\', rest);
                    let length = end.unwrap_or(rest.len());
                    self.note(key, rest.get(..length).unwrap_or_default());
                    at += length;
                    if end.is_none() {
                        continue;
                    }
                    at += 1;
                    if rest.get(length) == Some(&b'\\') {
                        self.expects = Expects::InString { key, escaped: true };
                    } else if self.end_string(key) {
                        break Progress::Complete;
                    }
                }
                Expects::InScalar => {
                    let end = rest.iter().position(|b| ends_scalar(*b));
                    let text = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                    self.last = text.last().copied().unwrap_or(self.last);
                    at += text.len();
                    if end.is_some() && self.end_value() {
                        break Progress::Complete;
                    }
                }
                _ => {
                    let Some(&byte) = rest.first() else { break Progress::More };
                    if !is_white(byte) {
                        match self.token(byte, self.taken + at as u64) {
                            Progress::More => {}
                            Progress::Complete => {
                                at += 1;
                                break Progress::Complete;
                            }
                            Progress::Fault => break Progress::Fault,
                        }
                    }
                    at += 1;
                }
            }
        };
        self.taken += at as u64;
        progress
    }

    /// Whether it is a string.
    pub(super) fn is_string(&self) -> bool {
        self.string == Some(0)
    }

    /// The byte from which the next record is looked for after a fault, and the byte before it that is
    /// not white space. What directly follows a string shows whether that has ended where it should
    /// have: text means that its quote belongs to another string.
    pub(super) fn resume(&self, fault: Option<u8>, limit: u64) -> (u64, u8) {
        let is_text = |byte: u8| match self.expects {
            // A number behind a key: only the colon is missing.
            Expects::Colon => !ends_scalar(byte) && byte != b'-' && !byte.is_ascii_digit(),
            _ => !ends_scalar(byte),
        };
        match self.string.filter(|string| self.taken - string <= limit) {
            Some(string) if self.last == b'"' && fault.is_some_and(is_text) => (string + 1, b'"'),
            _ => (self.taken, self.last),
        }
    }

    /// The first byte that `resume` may still ask for.
    pub(super) fn needed(&self, limit: u64) -> u64 {
        let string = self.string.filter(|string| self.taken - string <= limit);
        string.unwrap_or(self.taken)
    }

    /// Takes in a byte outside of strings, numbers and literals, which is not white space and is at
    /// the offset `at`.
    fn token(&mut self, byte: u8, at: u64) -> Progress {
        let in_object = self.open.last();
        match (self.expects, byte) {
            (Expects::Key | Expects::KeyOrEnd, b'"') => self.begin_string(true, at),
            (Expects::Colon, b':') => self.expects = Expects::Value,
            (Expects::CommaOrEnd, b',') if in_object == Some(true) => self.expects = Expects::Key,
            (Expects::CommaOrEnd, b',') => self.expects = Expects::Value,
            (Expects::KeyOrEnd, b'}') | (Expects::ValueOrEnd, b']') => return self.close(byte),
            (Expects::CommaOrEnd, b'}') if in_object == Some(true) => return self.close(byte),
            (Expects::CommaOrEnd, b']') if in_object == Some(false) => return self.close(byte),
            (Expects::Value | Expects::ValueOrEnd, b'"') => self.begin_string(false, at),
            (Expects::Value | Expects::ValueOrEnd, b'{' | b'[') => {
                if self.open.len() >= MAX_LEVELS {
                    return Progress::Fault;
                }
                self.open.push(byte == b'{');
                let is_object = byte == b'{';
                if is_object && in_object == Some(false) && self.inner.len() < MAX_INNER {
                    let (level, has_id, has_record_type) = (self.open.len(), false, false);
                    self.inner.push(Inner { level, at, has_id, has_record_type });
                }
                self.expects = if is_object { Expects::KeyOrEnd } else { Expects::ValueOrEnd };
            }
            (Expects::Value | Expects::ValueOrEnd, byte) if !ends_scalar(byte) => {
                self.has_text = true;
                self.expects = Expects::InScalar;
            }
            _ => return Progress::Fault,
        }
        self.last = byte;
        if byte != b'"' {
            self.string = None;
        }
        Progress::More
    }

    fn close(&mut self, byte: u8) -> Progress {
        if self.inner.last().is_some_and(|inner| inner.level == self.open.len()) {
            self.inner.pop();
        }
        self.open.pop();
        self.last = byte;
        self.string = None;
        if self.end_value() { Progress::Complete } else { Progress::More }
    }

    fn begin_string(&mut self, key: bool, at: u64) {
        self.string = Some(at);
        self.has_text = true;
        self.named = 0;
        self.expects = Expects::InString { key, escaped: false };
    }

    /// Whether the value ends with this string.
    fn end_string(&mut self, key: bool) -> bool {
        self.last = b'"';
        if key {
            self.take_name();
            self.expects = Expects::Colon;
            return false;
        }
        self.end_value()
    }

    /// Takes in the key that ends here.
    fn take_name(&mut self) {
        let name = self.name.get(..self.named).unwrap_or_default();
        let (is_id, is_record_type) = (name == b"Id", name == RECORD_TYPE);
        let level = self.open.len();
        if level == 1 {
            self.has_id |= is_id;
            self.has_record_type |= is_record_type;
        } else if let Some(inner) = self.inner.last_mut().filter(|inner| inner.level == level) {
            inner.has_id |= is_id;
            inner.has_record_type |= is_record_type;
            if self.looks_inside && inner.has_id && inner.has_record_type {
                self.swallowed.get_or_insert(inner.at);
            }
        }
    }

    /// Whether the whole value ends with the one that ends here.
    fn end_value(&mut self) -> bool {
        self.expects = Expects::CommaOrEnd;
        self.open.is_empty()
    }

    /// Remembers what a key begins with.
    fn note(&mut self, key: bool, text: &[u8]) {
        for byte in text.iter().filter(|_| key) {
            let Some(place) = self.name.get_mut(self.named) else {
                return;
            };
            *place = *byte;
            self.named += 1;
        }
    }
}

/// The containers that are open, one bit each: whether it is an object.
#[derive(Default)]
pub(super) struct Levels {
    bits: Vec<u64>,
    levels: usize,
    /// How many of them are objects.
    objects: usize,
}

impl Levels {
    pub(super) fn len(&self) -> usize {
        self.levels
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels == 0
    }

    /// The bit of a level, counted from 0.
    fn get(&self, level: usize) -> Option<bool> {
        let word = self.bits.get(level / 64).filter(|_| level < self.levels)?;
        Some(word >> (level % 64) & 1 == 1)
    }

    pub(super) fn last(&self) -> Option<bool> {
        self.get(self.levels.checked_sub(1)?)
    }

    pub(super) fn push(&mut self, is_object: bool) {
        if self.levels / 64 == self.bits.len() {
            self.bits.push(0);
        }
        let bit = 1 << (self.levels % 64);
        if let Some(word) = self.bits.get_mut(self.levels / 64) {
            *word = if is_object { *word | bit } else { *word & !bit };
        }
        self.levels += 1;
        self.objects += usize::from(is_object);
    }

    pub(super) fn pop(&mut self) {
        self.objects -= usize::from(self.last() == Some(true));
        self.levels = self.levels.saturating_sub(1);
    }

    /// Closes the innermost container of a kind and all that is open in it; false where none is open.
    pub(super) fn close(&mut self, is_object: bool) -> bool {
        let of_the_kind = if is_object { self.objects } else { self.levels - self.objects };
        if of_the_kind == 0 {
            return false;
        }
        while self.last().is_some_and(|last| last != is_object) {
            self.pop();
        }
        self.pop();
        true
    }

    /// Opens what is open in `inner`, up to a number of levels in all.
    pub(super) fn push_all(&mut self, inner: &Self, most: usize) {
        let room = most.saturating_sub(self.levels).min(inner.levels);
        for level in 0..room {
            self.push(inner.get(level) == Some(true));
        }
    }
}

pub(super) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a byte can't be part of a number or a literal.
pub(super) fn ends_scalar(byte: u8) -> bool {
    matches!(byte, b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"' | 0) || is_white(byte)
}
