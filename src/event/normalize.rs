//! Reads a record once and makes the line of it, if it is an ordinary one: checks it against the JSON
//! grammar (RFC 8259), leaves out white space, looks up the kind of each path, and repairs on the way
//! what can be judged by itself.
//!
//! What needs no repair is copied in one piece, and never taken apart. A record that needs more than its
//! values respelt (a path that holds another kind, equal names, an unknown path …) is not ordinary:
//! `rewrite` makes the line of that one, from its compact form, which is made here as well.

mod marks;

use std::ops::Range;

pub(super) use self::marks::Marks;
use super::cjson::is_list;
use super::json::{code, cut, decoded, inside, is_second_half, is_white, plain};
use super::kinds::{Kind, Kinds, Known, Path, ROOT};
use super::known_field::KnownField;
use super::value::{bare_address, number_token};
use super::{ADDRESS_PORT, MAX_LEVELS, MAX_STRING, Unusable};

/// An ordinary record has no more containers open in each other.
const MAX_FRAMES: usize = 48;

/// What is known of a record that was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Where in the record the value of `Id` is.
    pub(super) id: Option<Range<usize>>,
    /// The fields that Wazuh's decoder makes of it, or a few more.
    pub(super) fields: usize,
    /// Whether a string is longer than the indexer takes.
    pub(super) has_long_string: bool,
    /// How many containers are open in each other at most, the record not counted.
    pub(super) levels: usize,
    /// Whether it would pass for a notice.
    pub(super) has_actor: bool,
    /// What filters go by.
    pub(super) traits: Traits,
    /// The record's length.
    pub(super) length: usize,
}
/// Where in the record the values are that filters go by.
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
    /// More than once: which one counts is unknown.
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

/// Why there is no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It is not an object, or not JSON.
    Unusable(Unusable),
    /// It is not ordinary.
    Special,
}

/// Copies the members of the record that `text` begins with to `out`, each followed by a comma, as they are
/// to be in the line. `end`: the length that `out` may have.
///
/// # Errors
/// There is no record that is whole, or it is not ordinary; `out` then holds a part of it.
pub(super) fn ordinary(
    text: &[u8],
    kinds: &Kinds,
    marks: &mut Marks,
    out: &mut Vec<u8>,
    end: usize,
) -> Result<Copied, Stopped> {
    marks.frames.clear();
    marks.open(ROOT, b'}');
    Copy::new(text, Some(kinds), marks, out, end).run::<true>()
}

/// Copies them as they were sent, but for white space and for what would break the line: half surrogate
/// pairs, raw control characters, U+0000.
///
/// # Errors
/// There is no record that is whole; `out` then holds a part of it.
pub(super) fn compact(text: &[u8], out: &mut Vec<u8>) -> Result<Copied, Unusable> {
    Copy::new(text, None, &mut Marks::default(), out, usize::MAX).run::<false>().map_err(
        |stopped| match stopped {
            Stopped::Unusable(why) => why,
            Stopped::Special => Unusable::Malformed,
        },
    )
}

/// What is known while a record is copied. Where it is, `at`, is handed from step to step: so it stays in
/// a register.
struct Copy<'a> {
    record: &'a [u8],
    /// The first byte that is not in `out` yet.
    copied: usize,
    out: &'a mut Vec<u8>,
    kinds: Option<&'a Kinds>,
    marks: &'a mut Marks,
    /// How many arrays are open: fields are not counted inside of them.
    arrays: usize,
    /// Whether an escape has been seen.
    escaped: bool,
    open: Open,
    special: bool,
    /// Where `ClientIP` is in the record, with its quotes, if it was repaired.
    address: Option<Range<usize>>,
    /// `out` may not grow beyond.
    end: usize,
    found: Copied,
}

/// The closing bracket of each container that is open. Those that are as deep as records go take no
/// memory of their own.
struct Open {
    levels: usize,
    first: [u8; MAX_LEVELS],
    further: Vec<u8>,
}

impl Default for Open {
    fn default() -> Self {
        Self { levels: 0, first: [0; MAX_LEVELS], further: Vec::new() }
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
        self.further.truncate(self.levels.saturating_sub(MAX_LEVELS));
    }
}

/// Where the next step begins; none where the record is not JSON, or `special`.
type Next = Option<usize>;

impl<'a> Copy<'a> {
    fn new(
        record: &'a [u8],
        kinds: Option<&'a Kinds>,
        marks: &'a mut Marks,
        out: &'a mut Vec<u8>,
        end: usize,
    ) -> Self {
        Self {
            record,
            copied: 0,
            out,
            kinds,
            marks,
            arrays: 0,
            escaped: false,
            open: Open::default(),
            special: false,
            address: None,
            end,
            found: Copied::default(),
        }
    }

    fn run<const ORDINARY: bool>(mut self) -> Result<Copied, Stopped> {
        let at = self.white(0);
        let at = self.expect(at, b'{').ok_or(Stopped::Unusable(Unusable::NotAnObject))?;
        match self.record::<ORDINARY>(at) {
            Some(()) => Ok(self.found),
            None if self.special => Err(Stopped::Special),
            None => Err(Stopped::Unusable(Unusable::Malformed)),
        }
    }

    /// Ends the copying: the record is not ordinary.
    #[cold]
    fn special<T>(&mut self) -> Option<T> {
        self.special = true;
        None
    }

    /// Copies the whole record.
    fn record<const ORDINARY: bool>(&mut self, mut at: usize) -> Option<()> {
        self.copied = at;
        at = self.white(at);
        let mut more = self.peek(at) != Some(b'}');
        while more {
            let kept;
            (at, kept) = self.member::<ORDINARY>(at)?;
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
            let port = self.kinds?.find(ROOT.id, ADDRESS_PORT.as_bytes());
            if port.is_none_or(|port| self.marks.has_seen(port.group)) {
                return self.special();
            }
            self.out.extend_from_slice(b"\"ClientIPAddressPort\":");
            self.out.extend_from_slice(self.record.get(address).unwrap_or_default());
            self.out.push(b',');
            self.found.fields += 1;
        }
        self.found.length = at + 1;
        Some(())
    }

    /// Copies a member of the record. Gives where it ends, and whether it was copied: false where it
    /// is left out.
    fn member<const ORDINARY: bool>(&mut self, at: usize) -> Option<(usize, bool)> {
        let before = self.place(at);
        let (field, path);
        let at = if ORDINARY {
            let (at, known) = self.known(at)?;
            Known { field, path, .. } = known;
            if let Some(KnownField::Actor | KnownField::Overflow | KnownField::Truncated) = field {
                return self.special();
            }
            at
        } else {
            let end = self.string(at)?;
            // As it is written, with its repairs.
            self.flush(end);
            let key = self.out.get(before..).unwrap_or_default();
            (field, path) = (KnownField::of(key), ROOT);
            self.found.has_actor |= is_actor(key);
            self.colon(end)?
        };
        let at = self.white(at);
        let from = at;
        // It would become the text "null".
        let is_null = ORDINARY && self.peek(at) == Some(b'n');
        let end = if is_null {
            self.literal(at, b"null")?
        } else if ORDINARY && field == Some(KnownField::ClientIp) {
            self.client_ip(at, path)?
        } else {
            self.value::<ORDINARY>(at, path)?
        };
        if is_null || field == Some(KnownField::Subscription) {
            // The last `Subscription` is ours.
            self.flush(end);
            self.out.truncate(before);
            return Some((end, false));
        }
        if ORDINARY && self.place(end) > self.end {
            return self.special();
        }
        let value = from..end;
        let traits = &mut self.found.traits;
        match field {
            Some(KnownField::Id) => self.found.id = Some(value),
            Some(KnownField::RecordType) => traits.record_type.found(value),
            Some(KnownField::Operation) => traits.operation.found(value),
            Some(KnownField::Workload) => traits.workload.found(value),
            Some(KnownField::UserId) => traits.user_id.found(value),
            _ => {}
        }
        Some((end, true))
    }

    /// Copies the value of `ClientIP`, as a bare address if it is one with something around it.
    fn client_ip(&mut self, at: usize, path: Path) -> Next {
        match self.peek(at) {
            Some(b'[') => return self.special(),
            Some(b'"') => {}
            _ => return self.value::<true>(at, path),
        }
        let end = self.string(at)?;
        self.count(at, end);
        if self.is_repaired(at) {
            return self.special();
        }
        let spelt = self.record.get(at..end).unwrap_or_default();
        // Most are bare IPv4 addresses.
        if inside(spelt).iter().all(|b| b.is_ascii_digit() || *b == b'.') {
            return Some(end);
        }
        let text = decoded(spelt);
        if text.as_ref().is_some_and(|text| text.starts_with('[') && is_list(text)) {
            return self.special();
        }
        if let Some(bare) = text.and_then(|text| bare_address(&text)) {
            self.address = Some(at..end);
            self.replace(at..end, &format!("\"{bare}\""));
        }
        Some(end)
    }

    /// Copies one value of any depth, without recursion. `path`: what it is in, of an ordinary record.
    fn value<const ORDINARY: bool>(&mut self, mut at: usize, mut path: Path) -> Next {
        loop {
            at = match self.peek(at) {
                Some(b'"') => {
                    let end = self.string(at)?;
                    if ORDINARY {
                        self.check_string(at, end, path)?;
                    }
                    self.count(at, end);
                    end
                }
                Some(b'-' | b'0'..=b'9') => {
                    let end = self.number(at)?;
                    if ORDINARY {
                        self.check_text(path)?;
                        self.respell_number(at, end)?;
                    }
                    end
                }
                Some(bracket @ (b'{' | b'[')) => {
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    let first = self.white(at + 1);
                    let is_empty = self.peek(first) == Some(close);
                    if ORDINARY {
                        self.check_container(close, is_empty, path)?;
                    }
                    if close == b']' {
                        self.found.fields += usize::from(self.arrays == 0);
                        self.arrays += 1;
                    }
                    self.open.push(close);
                    self.found.levels = self.found.levels.max(self.open.len());
                    at = first;
                    if !is_empty {
                        if close == b'}' {
                            (at, path) = self.key::<ORDINARY>(at)?;
                        }
                        continue;
                    }
                    at
                }
                Some(b't') => self.boolean::<ORDINARY>(at, b"true", path)?,
                Some(b'f') => self.boolean::<ORDINARY>(at, b"false", path)?,
                Some(b'n') if ORDINARY && self.arrays == 0 => return self.special(),
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
                            (at, path) = self.key::<ORDINARY>(at)?;
                        } else if ORDINARY {
                            path = self.marks.frames.last()?.path;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        at += 1;
                        self.open.pop();
                        self.arrays -= usize::from(close == b']');
                        if ORDINARY {
                            self.marks.frames.pop();
                        }
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Whether text may be where it is.
    #[inline]
    fn check_text(&mut self, path: Path) -> Option<()> {
        if path.kind == Kind::Text { Some(()) } else { self.special() }
    }

    /// Whether a string may be where it is. One that would be read as a list gets a blank in front.
    #[inline]
    fn check_string(&mut self, at: usize, end: usize, path: Path) -> Option<()> {
        let outside = self.arrays == 0;
        // An empty one is no field.
        if !(outside && end - at == 2) {
            self.check_text(path)?;
        }
        if self.found.has_long_string {
            return self.special();
        }
        if outside && matches!(self.peek(at + 1), Some(b'[' | b'\\')) {
            self.guard(at, end)?;
        }
        Some(())
    }

    #[cold]
    fn guard(&mut self, at: usize, end: usize) -> Option<()> {
        let text = self.record.get(at..end).and_then(decoded);
        let is_full = text.as_ref().is_some_and(|text| text.len() >= MAX_STRING);
        if self.is_repaired(at) || is_full {
            return self.special();
        }
        if text.is_some_and(|text| is_list(&text)) {
            self.flush(at + 1);
            self.out.push(b' ');
        }
        Some(())
    }

    /// Whether a character of the string that begins at `at` was repaired while it was read, so that a part
    /// of it is written.
    fn is_repaired(&self, at: usize) -> bool {
        self.copied > at
    }

    /// Whether a container may be where it is, and opens it.
    fn check_container(&mut self, close: u8, is_empty: bool, path: Path) -> Option<()> {
        let in_array = self.open.last() == Some(b']');
        let allowed = match close {
            b'}' => path.kind.is_objects() || (is_empty && self.arrays == 0),
            // An array within an array is text. Of this one's kind its elements decide.
            _ => !in_array,
        };
        if !allowed || self.marks.frames.len() == MAX_FRAMES {
            return self.special();
        }
        self.marks.open(path, close);
        Some(())
    }

    /// Steps over a key and its colon, of an ordinary record. Gives what is known of the name, which must be
    /// the first of it in its object.
    #[inline]
    fn known(&mut self, at: usize) -> Option<(usize, Known)> {
        let kinds = self.kinds?;
        let text = self.record.get(at..)?;
        match self.marks.guessed(kinds, text) {
            Some((known, length)) => Some((at + length, known)),
            None => self.looked_up(kinds, at),
        }
    }

    #[inline(never)]
    fn looked_up(&mut self, kinds: &Kinds, at: usize) -> Option<(usize, Known)> {
        self.escaped = false;
        let end = self.string(at)?;
        let key = self.record.get(at..end).unwrap_or_default();
        if self.escaped {
            return self.special();
        }
        match self.marks.found(kinds, inside(key)) {
            Some(known) => Some((self.colon(end)?, known)),
            None => self.special(),
        }
    }

    /// Steps over a key, up to its value. Gives the path of that as well.
    #[inline]
    fn key<const ORDINARY: bool>(&mut self, at: usize) -> Option<(usize, Path)> {
        let (at, path) = if ORDINARY {
            let (at, known) = self.known(at)?;
            (at, known.path)
        } else {
            let end = self.string(at)?;
            (self.colon(end)?, ROOT)
        };
        Some((self.white(at), path))
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
        if self.peek(end) == Some(b'"') && end - from <= MAX_STRING {
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
                    let code = if control == 0 { 0xfffd } else { u32::from(control) };
                    self.out.extend_from_slice(format!("\\u{code:04x}").as_bytes());
                    at += 1;
                    self.copied = at;
                }
                None => return None,
            }
            at += plain(self.record.get(at..).unwrap_or_default());
        }
        if at - from > MAX_STRING {
            let text = self.record.get(from..at).unwrap_or_default();
            self.found.has_long_string |= cut(text, usize::MAX, MAX_STRING) < text.len();
        }
        Some(at + 1)
    }

    /// Steps over a backslash and what belongs to it. cJSON, which Wazuh reads with, refuses the whole
    /// line for half a surrogate pair, and loses what follows U+0000.
    fn escape_sequence(&mut self, at: usize) -> Next {
        self.escaped = true;
        let rest = self.record.get(at..).unwrap_or_default();
        let length = match rest {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', ..] => match (code(rest), rest.get(6..)) {
                (Some(0xd800..=0xdbff), Some(next)) if is_second_half(next) => 12,
                (Some(0 | 0xd800..=0xdfff), _) => {
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
        if let Some(b'e' | b'E') = self.peek(at) {
            let sign = matches!(self.peek(at + 1), Some(b'+' | b'-'));
            at = self.digits(at + 1 + usize::from(sign))?;
        }
        self.found.fields += usize::from(self.arrays == 0);
        Some(at)
    }

    /// Respells a number as Wazuh and its indexer keep it.
    #[inline]
    fn respell_number(&mut self, from: usize, end: usize) -> Option<()> {
        let number = self.record.get(from..end).unwrap_or_default();
        if number.len() > MAX_STRING {
            return self.special();
        }
        if self.arrays > 0 {
            return self.quote(from..end);
        }
        if let Some(token) = number_token(number) {
            self.replace(from..end, &token);
        }
        Some(())
    }

    fn boolean<const ORDINARY: bool>(&mut self, at: usize, word: &[u8], path: Path) -> Next {
        let end = self.literal(at, word)?;
        if ORDINARY {
            self.check_text(path)?;
            if self.arrays > 0 {
                self.quote(at..end)?;
            }
        }
        Some(end)
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

    /// Copies up to `at`, unless that is copied already.
    fn flush(&mut self, at: usize) {
        if let Some(fresh) = self.record.get(self.copied..at) {
            self.out.extend_from_slice(fresh);
            self.copied = at;
        }
    }

    /// Writes `token` in the place of what is at `range`.
    fn replace(&mut self, range: Range<usize>, token: &str) {
        self.flush(range.start);
        self.copied = range.end;
        self.out.extend_from_slice(token.as_bytes());
    }

    /// Puts quotes around the plain characters at `range`.
    fn quote(&mut self, range: Range<usize>) -> Option<()> {
        self.flush(range.start);
        self.out.push(b'"');
        self.flush(range.end);
        self.out.push(b'"');
        if self.out.len() > self.end { self.special() } else { Some(()) }
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

/// Whether a member of this key, with its quotes, would make a notice of the record.
fn is_actor(key: &[u8]) -> bool {
    let is_it = |name: &[u8]| name.split(|b| *b == b'.').next() == Some(b"actor");
    match memchr::memchr(b'\\', key) {
        Some(_) => decoded(key).is_some_and(|name| is_it(name.as_bytes())),
        None => is_it(inside(key)),
    }
}
