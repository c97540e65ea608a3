//! Splits a content blob, a JSON array of any size, into its elements as it streams in.
//!
//! Whether an element is valid JSON is judged by [`crate::event`], which reads it anyway and finds a
//! good record's end on the way. So each object is offered to it first, and only what it can't take
//! is split here, by its structure (`shape`).
//!
//! A body that is known to have come whole may be malformed: punctuation that is missing, wrong or too
//! much costs nothing, and a record that is not JSON costs only itself (`resync`).

mod resync;
mod shape;

use std::io::{self, Read};

use self::resync::{Broken, MAX_BLANKS, MAX_READ_AGAIN};
use self::shape::{Progress, Shape, ends_scalar, is_white};
use crate::content::without_bom;

/// What a connection receives at once, in bytes.
const RECEIVED: usize = 128 * 1024;

/// The buffer's size in bytes, unless a large element needs more: what is received at once, and an
/// element that was cut off before.
const BUFFER: usize = RECEIVED + 32 * 1024;

/// The most bytes that are looked at of a body that is not an array, to say what it is.
const MOST_BEGINNING: usize = 32 * 1024;

/// A larger record than this is a large one, in bytes; Microsoft's largest are a tenth of it.
const LARGE: usize = 128 * 1024;

/// One element of a blob.
#[derive(Debug, PartialEq, Eq)]
pub enum Element<'a> {
    /// Its bytes as sent, from its first to its last.
    Record(&'a [u8]),
    /// It was larger than the limit: the number of its bytes, all of them skipped.
    TooLarge(u64),
    /// It is not JSON: the number of its bytes, all of them skipped.
    Malformed(u64),
    /// It was offered, and taken.
    Taken,
}

impl Element<'_> {
    /// Whether it is so large that it matters how many are worked on at once.
    #[must_use]
    pub fn is_large(&self) -> bool {
        matches!(self, Self::Record(record) if record.len() > LARGE)
    }
}

/// Why a blob can't be read to its end.
#[derive(Debug)]
pub enum SplitError {
    /// The connection or the decompression failed.
    Read(io::Error),
    /// The body ended inside the array.
    Cut,
    /// The body is no array; here is its beginning.
    NoArray(Vec<u8>),
    /// The body is malformed at this byte, and not known to have come whole.
    Malformed(u64),
}

enum Place {
    /// Nothing but a byte order mark and white space has been seen.
    Before,
    /// Behind the opening bracket: an element or the end.
    Opened,
    /// Behind a comma: an element.
    Comma,
    /// Behind an element: a comma or the end.
    Element,
    /// Behind the closing bracket: nothing more.
    Closed,
}

/// Reads elements one by one from `reader`, holding one element and what follows it in memory.
pub struct Records<'a, R> {
    reader: R,
    /// Bytes read and not yet handed out: `buffer[start..end]`.
    buffer: &'a mut Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes before `buffer[0]` since the blob's beginning.
    passed: u64,
    place: Place,
    limit: usize,
    /// Whether the end of the body is known to be its end.
    has_known_end: bool,
    /// Whether the array has ended, and something else than a further array follows it.
    is_behind: bool,
    /// Whether the body has been read to its end.
    is_read: bool,
    /// The last byte read that is not white space or NUL.
    last_read: u8,
    /// How many more bytes may be read again after a search in vain.
    may_read_again: u64,
}

/// What is at the place of an element.
enum Found {
    /// Its number of bytes, which are still unconsumed.
    Record(usize),
    TooLarge(u64),
    Malformed(u64),
    /// Punctuation only.
    Nothing,
}

impl<'a, R: Read> Records<'a, R> {
    /// `limit`: the size in bytes of the largest element to hand out. `buffer`: to be used again for
    /// the next blob; what is in it is of no importance.
    pub fn new(reader: R, limit: usize, buffer: &'a mut Vec<u8>) -> Self {
        buffer.resize(BUFFER, 0);
        Self {
            reader,
            buffer,
            start: 0,
            end: 0,
            passed: 0,
            place: Place::Before,
            limit,
            has_known_end: false,
            is_behind: false,
            is_read: false,
            last_read: 0,
            may_read_again: MAX_READ_AGAIN,
        }
    }

    /// Says whether a body that ends without an error is known to have come whole, so that what is
    /// malformed in it will not get better: the rest of it is handed out then.
    #[must_use]
    pub fn with_known_end(mut self, known: bool) -> Self {
        self.has_known_end = known;
        self
    }

    /// The next element, or none at the end of the array (which is then the end of the body).
    ///
    /// # Errors
    /// The body can't be read, is no array or is cut. Elements handed out before are good.
    pub fn next_element(&mut self) -> Result<Option<Element<'_>>, SplitError> {
        self.next_or_take(|_| None)
    }

    /// The same, but an object is offered to `take` first, with what has been read behind it. `take`
    /// gives its length, if all of it is there and it could be taken.
    ///
    /// # Errors
    /// As [`next_element`](Self::next_element).
    pub fn next_or_take(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<Element<'_>>, SplitError> {
        loop {
            let Some(first) = self.begin()? else {
                return Ok(None);
            };
            if first == b'{' {
                let mut taken = take(self.ahead());
                if taken.is_none() && self.is_cut_off() {
                    self.fill()?;
                    taken = take(self.ahead());
                }
                if let Some(length) = taken {
                    self.start += length;
                    return Ok(Some(Element::Taken));
                }
            }
            match self.element()? {
                Found::Record(length) => {
                    let from = self.start;
                    self.start += length;
                    let record = self.buffer.get(from..self.start).unwrap_or_default();
                    return Ok(Some(Element::Record(record)));
                }
                Found::TooLarge(size) => return Ok(Some(Element::TooLarge(size))),
                Found::Malformed(size) => return Ok(Some(Element::Malformed(size))),
                Found::Nothing => {}
            }
        }
    }

    /// Goes to the first byte of the next element; none at the end of the array.
    fn begin(&mut self) -> Result<Option<u8>, SplitError> {
        loop {
            let Some(byte) = self.next_token()? else {
                return match self.place {
                    Place::Closed => Ok(None),
                    Place::Before => Err(SplitError::Cut),
                    _ if self.ends_whole() => Ok(None),
                    _ => Err(SplitError::Cut),
                };
            };
            match (&self.place, byte) {
                (Place::Before, b'[') => self.place = Place::Opened,
                (Place::Before, 0) if self.has_known_end => {}
                (Place::Before, _) => return Err(SplitError::NoArray(self.beginning())),
                (Place::Opened | Place::Element, b']') => self.place = Place::Closed,
                (Place::Element, b',') => self.place = Place::Comma,
                (Place::Opened | Place::Comma, first) if !b",:]}\0".contains(&first) => {
                    self.place = Place::Element;
                    return Ok(Some(first));
                }
                _ if !self.has_known_end => return Err(SplitError::Malformed(self.position())),
                // Punctuation that is missing, wrong or too much.
                (_, b',' | b':' | b'}' | 0) => {}
                (_, b']') => self.place = Place::Closed,
                (_, b'[') => {
                    self.is_behind = false;
                    self.place = Place::Opened;
                }
                (Place::Closed, first) => {
                    self.is_behind = true;
                    self.place = Place::Element;
                    return Ok(Some(first));
                }
                (_, first) => {
                    self.place = Place::Element;
                    return Ok(Some(first));
                }
            }
            self.start += 1;
        }
    }

    /// What is offered.
    fn ahead(&self) -> &[u8] {
        let unread = self.unread();
        unread.get(..self.limit.min(LARGE)).unwrap_or(unread)
    }

    /// Whether the element that begins here has not been read to its end, and may be offered once
    /// more of it has.
    fn is_cut_off(&self) -> bool {
        self.ahead().len() == self.unread().len()
            && Shape::new().feed(self.unread()) == Progress::More
    }

    /// Skips white space; the byte that follows it, still unconsumed.
    fn next_token(&mut self) -> Result<Option<u8>, SplitError> {
        loop {
            if self.passed == 0 && self.start == 0 {
                // A mark of three bytes may arrive in pieces.
                while self.end < 3 && self.fill()? {}
                let unread = self.unread();
                self.start += unread.len() - without_bom(unread).len();
            }
            let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
            match self.unread().iter().position(|b| !blank(b)) {
                Some(skipped) => {
                    self.start += skipped;
                    return Ok(self.unread().first().copied());
                }
                None => self.start = self.end,
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// What the body begins with, for a message.
    fn beginning(&mut self) -> Vec<u8> {
        while self.end - self.start < MOST_BEGINNING && matches!(self.fill(), Ok(true)) {}
        self.unread().to_vec()
    }

    /// Reads more behind the unread bytes; false at the end of the body.
    fn fill(&mut self) -> Result<bool, SplitError> {
        if self.is_read {
            return Ok(false);
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.passed += self.start as u64;
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.reader.read(room) {
                Ok(0) => {
                    self.is_read = true;
                    return Ok(false);
                }
                Ok(n) => {
                    let read = room.get(..n).unwrap_or_default();
                    let solid = |b: &&u8| !matches!(**b, b' ' | b'\t' | b'\n' | b'\r' | 0);
                    self.last_read =
                        read.iter().rev().find(solid).copied().unwrap_or(self.last_read);
                    self.end += n;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SplitError::Read(error)),
            }
        }
    }

    /// The offset in the body of the first unread byte.
    fn position(&self) -> u64 {
        self.passed + self.start as u64
    }

    /// What has been read from an offset of the body on, which is not forgotten.
    fn bytes_from(&self, at: u64) -> &[u8] {
        let from = at.checked_sub(self.passed).and_then(|at| usize::try_from(at).ok());
        let from = from.unwrap_or(usize::MAX);
        self.buffer.get(from..self.end).unwrap_or_default()
    }

    /// Forgets what was read before an offset of the body.
    fn forget_before(&mut self, at: u64) {
        let to = usize::try_from(at.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        self.start = to.clamp(self.start, self.end);
    }

    /// At the end of the body: whether it is known to be whole and looks so.
    fn ends_whole(&self) -> bool {
        self.has_known_end && (self.last_read == b']' || self.is_behind)
    }

    /// The element that begins here. It is consumed, unless it is a record.
    fn element(&mut self) -> Result<Found, SplitError> {
        let from = self.position();
        let mut shape = Shape::new();
        let mut progress = self.follow(&mut shape, from, from + self.limit as u64 + 1, None)?;
        if progress == Progress::More
            && shape.taken > self.limit as u64
            && self.swallowed(&shape).is_none()
        {
            shape.looks_inside = false;
            shape.swallowed = None;
            progress = self.follow(&mut shape, from, u64::MAX, None)?;
        }
        if progress == Progress::Complete && self.is_followed_well(from, &shape)? {
            if shape.taken <= self.limit as u64 {
                return Ok(Found::Record(usize::try_from(shape.taken).unwrap_or(usize::MAX)));
            }
            self.pass_to(from + shape.taken);
            return Ok(Found::TooLarge(shape.taken));
        }
        self.malformed(from, progress, &shape)
    }

    /// What to make of an element that is not JSON, or that the body ended in.
    #[cold]
    #[inline(never)]
    fn malformed(
        &mut self,
        from: u64,
        progress: Progress,
        shape: &Shape,
    ) -> Result<Found, SplitError> {
        let is_open = progress == Progress::More && shape.taken <= self.limit as u64;
        let broken = match self.swallowed(shape).filter(|_| !is_open || self.ends_whole()) {
            Some(swallowed) => {
                self.may_read_again -= shape.taken - swallowed;
                Broken::Interrupted { at: from + swallowed, punctuation: false }
            }
            None if progress == Progress::More => Broken::BodyEnded,
            None => self.resync(from, shape)?,
        };
        match broken {
            Broken::Ended(end) => {
                self.pass_to(end);
                Ok(Found::Malformed(end - from))
            }
            Broken::Interrupted { .. } if !self.has_known_end => {
                Err(SplitError::Malformed(from + shape.taken))
            }
            Broken::Interrupted { at, punctuation } => {
                self.pass_to(at);
                Ok(if punctuation { Found::Nothing } else { Found::Malformed(at - from) })
            }
            Broken::BodyEnded if self.ends_whole() => {
                let end = self.passed + self.end as u64;
                self.pass_to(end);
                self.place = Place::Closed;
                Ok(Found::Malformed(end - from))
            }
            Broken::BodyEnded => Err(SplitError::Cut),
        }
    }

    /// Where in a broken element a record begins that it has swallowed, if it may be read again.
    fn swallowed(&self, shape: &Shape) -> Option<u64> {
        shape.swallowed.filter(|at| shape.taken - at <= self.may_read_again)
    }

    /// Goes to an offset of the body, and gives back what only a large element needed.
    fn pass_to(&mut self, at: u64) {
        self.forget_before(at);
        self.buffer.truncate(self.buffer.len().min(self.end.max(BUFFER)));
    }

    /// Feeds a value that begins at `from` to `shape`, to its end, to a fault, or up to `until`.
    /// `keep`: from where on bytes are kept; if none is given, an element within the limit is.
    fn follow(
        &mut self,
        shape: &mut Shape,
        from: u64,
        until: u64,
        keep: Option<u64>,
    ) -> Result<Progress, SplitError> {
        loop {
            let at = from + shape.taken;
            let room = usize::try_from(until - at).unwrap_or(usize::MAX);
            let fresh = self.bytes_from(at);
            let progress = shape.feed(fresh.get(..room).unwrap_or(fresh));
            if progress != Progress::More || from + shape.taken == until {
                return Ok(progress);
            }
            match keep {
                Some(keep) => self.forget_before(keep),
                None if shape.taken > self.limit as u64 => {
                    self.forget_before(from + shape.needed(self.limit as u64));
                }
                None => {}
            }
            if !self.fill()? {
                return Ok(Progress::More);
            }
        }
    }

    /// Whether what follows a string that is an element shows that it has ended where it should have,
    /// and is not a key of a broken record.
    fn is_followed_well(&mut self, from: u64, shape: &Shape) -> Result<bool, SplitError> {
        if !shape.is_string() {
            return Ok(true);
        }
        let end = from + shape.taken;
        for at in end..end + MAX_BLANKS {
            match self.byte_at(at, from)? {
                Some(byte) if is_white(byte) => {}
                Some(byte) => return Ok(byte != b':' && (at > end || ends_scalar(byte))),
                None => break,
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Hands out the bytes in pieces of the given sizes, over and over.
    struct Pieces<'a>(&'a [u8], Vec<usize>, usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let size = self.1[self.2 % self.1.len()].max(1);
            self.2 += 1;
            let n = size.min(out.len()).min(self.0.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    /// An error, and not the end, follows the bytes.
    struct Breaks<'a>(Pieces<'a>);

    impl Read for Breaks<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(io::Error::other("broken")),
                n => Ok(n),
            }
        }
    }

    /// What becomes of a body that is not known to be whole.
    fn split(body: &[u8], pieces: &[usize], limit: usize) -> (Vec<String>, Result<(), SplitError>) {
        split_as(false, body, pieces, limit)
    }

    fn split_as(
        known_end: bool,
        body: &[u8],
        pieces: &[usize],
        limit: usize,
    ) -> (Vec<String>, Result<(), SplitError>) {
        let mut buffer = Vec::new();
        let pieces = Pieces(body, pieces.to_vec(), 0);
        let mut records = Records::new(pieces, limit, &mut buffer).with_known_end(known_end);
        let mut elements = Vec::new();
        loop {
            match records.next_element() {
                Ok(None) => return (elements, Ok(())),
                Ok(Some(Element::Record(bytes))) => {
                    elements.push(String::from_utf8_lossy(bytes).into_owned());
                }
                Ok(Some(Element::TooLarge(size))) => elements.push(format!("too large: {size}")),
                Ok(Some(Element::Malformed(size))) => elements.push(format!("skipped: {size}")),
                Ok(Some(Element::Taken)) => panic!("nothing is offered"),
                Err(error) => return (elements, Err(error)),
            }
        }
    }

    #[test]
    fn hands_out_elements_as_they_were_sent() {
        let table: [(&str, &[&str]); 8] = [
            ("[]", &[]),
            (" \n[ \t ] \r\n", &[]),
            ("\u{feff}[{}]", &["{}"]),
            ("[{\"a\":1} , {\"b\" : [ {} ]}]", &["{\"a\":1}", "{\"b\" : [ {} ]}"]),
            (r#"[{"a":"}\"]"},{"\\":"\\"}]"#, &[r#"{"a":"}\"]"}"#, r#"{"\\":"\\"}"#]),
            ("[1,-2.5e3 ,null,true]", &["1", "-2.5e3", "null", "true"]),
            (r#"["a,]\"",[[],"]"],{}]"#, &[r#""a,]\"""#, r#"[[],"]"]"#, "{}"]),
            ("[{\"ü\":\"\u{1F600}\"}]", &["{\"ü\":\"\u{1F600}\"}"]),
        ];
        for (body, expected) in table {
            for pieces in [vec![1], vec![2, 3], vec![1 << 20]] {
                let (elements, end) = split(body.as_bytes(), &pieces, 1000);
                assert_eq!(elements, expected, "{body}");
                assert!(end.is_ok(), "{body} {end:?}");
            }
        }
    }

    #[test]
    fn says_how_a_body_is_broken_and_keeps_what_came_before() {
        let table = [
            ("", 0, "Cut"),
            ("[", 0, "Cut"),
            ("[{\"a\":1}", 1, "Cut"),
            ("[{\"a\":1},", 1, "Cut"),
            ("[{\"a\":1},{\"b", 1, "Cut"),
            ("[\"abc", 0, "Cut"),
            ("[12", 0, "Cut"),
            ("[{}{}]", 1, "Malformed(3)"),
            ("[{},]", 1, "Malformed(4)"),
            ("[,{}]", 0, "Malformed(1)"),
            ("[{}]]", 1, "Malformed(4)"),
            ("[{}]\n[{}]", 1, "Malformed(5)"),
            ("{\"error\":1}", 0, "NoArray"),
            ("<html>", 0, "NoArray"),
        ];
        for (body, count, expected) in table {
            let (elements, end) = split(body.as_bytes(), &[1], 1000);
            assert_eq!(elements.len(), count, "{body}");
            let error = format!("{:?}", end.unwrap_err());
            assert!(error.starts_with(expected), "{body}: {error}");
        }
        let (_, end) = split(b" {\"error\":1}", &[1], 10);
        assert!(matches!(end, Err(SplitError::NoArray(body)) if body == b"{\"error\":1}"));
    }

    #[test]
    fn broken_records_in_a_whole_body_cost_only_themselves() {
        let table: &[(&str, &[&str])] = &[
            // Punctuation and NULs cost nothing.
            ("[{}{}]", &["{}", "{}"]),
            ("[{} {}]", &["{}", "{}"]),
            ("[{},]", &["{}"]),
            ("[,{}]", &["{}"]),
            ("[{},,{}]", &["{}", "{}"]),
            ("[{}][{}]", &["{}", "{}"]),
            ("[{}]\n[{}]\n", &["{}", "{}"]),
            ("[{}],[{}]", &["{}", "{}"]),
            ("[{}[{}]", &["{}", "{}"]),
            ("[{}]]", &["{}"]),
            ("[{}]}", &["{}"]),
            ("[{}],", &["{}"]),
            ("[{}}]", &["{}"]),
            ("[{}},{}]", &["{}", "{}"]),
            ("[{{\"Id\":1},{}]", &["{\"Id\":1}", "{}"]),
            ("[{},{]", &["{}"]),
            ("[{}]\0\0 \0", &["{}"]),
            ("[\0{}\0,\0\0{}\0]", &["{}", "{}"]),
            ("[{},\0{}\0{}]", &["{}", "{}", "{}"]),
            // Properly delimited.
            (r#"[{"a":1 "b":2},{}]"#, &["skipped: 13", "{}"]),
            (r#"[{"a":1,},{}]"#, &["skipped: 8", "{}"]),
            (r#"[{"a"},{}]"#, &["skipped: 5", "{}"]),
            (r#"[{"a":1}x,{}]"#, &[r#"{"a":1}"#, "x", "{}"]),
            ("[{\"a\":\0},{}]", &["skipped: 7", "{}"]),
            // Without their closing bracket.
            (
                r#"[{"Id":1,"a":2,{"Id":2},{"Id":3}]"#,
                &["skipped: 14", r#"{"Id":2}"#, r#"{"Id":3}"#],
            ),
            (r#"[{"Id":1,{"Id":2}{"Id":3}]"#, &["skipped: 8", r#"{"Id":2}"#, r#"{"Id":3}"#]),
            (
                r#"[{"Id":1,"a":{"b":1,{"Id":2},{"Id":3}]"#,
                &["skipped: 19", r#"{"Id":2}"#, r#"{"Id":3}"#],
            ),
            (r#"[{"Id":1,"a":[1,2},{"Id":2}]"#, &["skipped: 17", r#"{"Id":2}"#]),
            (r#"[{"Id":1],{"Id":2}]"#, &["skipped: 7", r#"{"Id":2}"#]),
            (r#"[{"Id":1},{"Id":2]"#, &[r#"{"Id":1}"#, "skipped: 7"]),
            (r#"[{"Id":"1"},{"Id":"2"]"#, &[r#"{"Id":"1"}"#, "skipped: 9"]),
            (r#"[{"Id":1},{"Id":2,"a":[1,2]"#, &[r#"{"Id":1}"#, "skipped: 17"]),
            (
                r#"[{"Id":1,"a":[{"x":1 2},{"Id":2},{"Id":3}]"#,
                &["skipped: 23", r#"{"Id":2}"#, r#"{"Id":3}"#],
            ),
            // With a RecordType a record is told from a part of one.
            (
                r#"[{"L":[{"a":1},{"RecordType":1,"Id":2},{"RecordType":1,"Id":3}]"#,
                &["skipped: 14", r#"{"RecordType":1,"Id":2}"#, r#"{"RecordType":1,"Id":3}"#],
            ),
            (
                r#"[{"RecordType":1,"L":{"Id":8},{"Id":9}],"b":1},{"RecordType":1,"Id":2}]"#,
                &["skipped: 45", r#"{"RecordType":1,"Id":2}"#],
            ),
            // A string without its closing quote.
            (
                r#"[{"Id":1,"a":"oops},{"Id":2},{"Id":3}]"#,
                &["skipped: 18", r#"{"Id":2}"#, r#"{"Id":3}"#],
            ),
            (
                r#"[{"Id":1,"a":"oops,{"Id":2},{"Id":3}]"#,
                &["skipped: 18", r#"{"Id":2}"#, r#"{"Id":3}"#],
            ),
            (r#"[{"Id":1,"a":"oops,"b":"c"},{"Id":2}]"#, &["skipped: 26", r#"{"Id":2}"#]),
            (r#"[{"Id":1,"a":{"b":"oops},{"Id":2}]"#, &["skipped: 24", r#"{"Id":2}"#]),
            (r#"[{"Id":1},{"Id":2,"a":"oops]"#, &[r#"{"Id":1}"#, "skipped: 18"]),
            (r#"[{"Id":1,"a":"say "so" to"},{"Id":2}]"#, &["skipped: 27", r#"{"Id":2}"#]),
            // Parts of a broken record are no records.
            (
                r#"[{"L":[{"Id":8},{"Id":9 1},{"Id":7}],"b":1},{"Id":2}]"#,
                &["skipped: 42", r#"{"Id":2}"#],
            ),
            (
                r#"[{"L":[{"Id":8},{"Id":9,{"Id":7}],"b":1},{"Id":2}]"#,
                &["skipped: 39", r#"{"Id":2}"#],
            ),
            (r#"[{"L":[{"Id":8}{"Id":9}],"b":1},{"Id":2}]"#, &["skipped: 30", r#"{"Id":2}"#]),
            (r#"[{"L":[{"Id":8},{"Id":9}],{"Id":2}]"#, &["skipped: 25", r#"{"Id":2}"#]),
            (
                r#"[{"L":[{"Id":8}],"a":x"y","b":[{"Id":9}]},{"Id":2}]"#,
                &["skipped: 40", r#"{"Id":2}"#],
            ),
            // What is not an object.
            (r#"["a","b" "c",{}]"#, &[r#""a""#, r#""b""#, r#""c""#, "{}"]),
            (r#"[{}","Id":"x"}, {"Id":3}]"#, &["{}", "skipped: 1", "skipped: 9", r#"{"Id":3}"#]),
            // Without its opening brace: what is in it is not taken for records.
            (
                r#"[{"Id":1},"Id":"x","F":{"Id":"in"},"L":[{"Id":"in"}]},{"Id":3}]"#,
                &[r#"{"Id":1}"#, "skipped: 8", "skipped: 15", "skipped: 18", r#"{"Id":3}"#],
            ),
            // Behind the array, and before it.
            (r#"[{"Id":1}]xyz"#, &[r#"{"Id":1}"#, "skipped: 3"]),
            (r#"[{"Id":1}]<html>x</html>"#, &[r#"{"Id":1}"#, "skipped: 14"]),
            ("\0\0[{\"Id\":1}]", &[r#"{"Id":1}"#]),
            ("[[1,2},{\"Id\":2}]", &["skipped: 6", "{\"Id\":2}"]),
            ("[[1,2]", &["[1,2]"]),
        ];
        for (body, expected) in table {
            for pieces in [vec![1], vec![2, 3], vec![1 << 20]] {
                let (elements, end) = split_as(true, body.as_bytes(), &pieces, 1000);
                assert_eq!(elements, *expected, "{body}");
                assert!(end.is_ok(), "{body} {end:?}");
            }
        }
        for (body, count) in
            [("[{},{\"a\":1", 1), ("[{},", 1), ("[{}{}", 2), ("[{}][{}", 2), ("[{\"a\":\"]\"", 0)]
        {
            let (elements, end) = split_as(true, body.as_bytes(), &[1], 1000);
            assert!(
                elements.len() == count && matches!(end, Err(SplitError::Cut)),
                "{body} {end:?}"
            );
        }
    }

    /// It takes seconds; a search that reads everything again for each fault would take hours.
    #[test]
    fn hostile_bodies_are_read_a_few_times_at_most() {
        for unit in [
            ",{",
            "[{\"a\":",
            "{\"a\":[{\"Id\":1}",
            "{\"a\":1,{\"Id\":",
            "[{\"a\":{,{\"Id\":1},",
            "\",{\"",
            "{\"a\":[}",
            "{\"a\":[\"},{",
            "\"{[",
            "{\"Id\":[{\"b\" 1,{\"Id\":2},",
            "[{\"\\\"",
            "{\"x\\\",{",
            "[}",
            "[{]",
            "{\"RecordType\":1,\"Id\":1,\"a\":[",
        ] {
            for end in ["", "]"] {
                let body = format!("[{{\"a\" 1,{}{end}", unit.repeat((1 << 18) / unit.len()));
                let (elements, end) = split_as(true, body.as_bytes(), &[100_000], 1 << 20);
                let sizes = elements.iter().map(|element| {
                    let skipped = element.strip_prefix("skipped: ").and_then(|n| n.parse().ok());
                    skipped.unwrap_or(element.len())
                });
                assert!(sizes.sum::<usize>() <= body.len(), "{unit}");
                assert!(matches!(end, Ok(()) | Err(SplitError::Cut)), "{unit} {end:?}");
            }
        }
    }

    #[test]
    fn a_large_broken_record_is_skipped_in_bounded_memory() {
        let long = "x".repeat(3 << 20);
        for broken in [
            format!(r#"{{"a":1 "b":"{long}"}}"#),
            format!(r#"{{"a":"{long}","b":1,"#),
            format!(r#"{{"a":"{long}" b,"#),
        ] {
            let body = format!(r#"[{{}},{broken},{{"Id":2}}]"#);
            let mut buffer = Vec::new();
            let pieces = Pieces(body.as_bytes(), vec![10_000], 0);
            let mut records = Records::new(pieces, 1000, &mut buffer).with_known_end(true);
            assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{}")));
            let skipped = records.next_element().unwrap();
            assert!(
                matches!(skipped, Some(Element::Malformed(size)) if size >= 3 << 20),
                "{skipped:?}"
            );
            assert!(records.buffer.len() <= 2 * BUFFER);
            assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{\"Id\":2}")));
            assert_eq!(records.next_element().unwrap(), None);
        }
    }

    #[test]
    fn skips_what_is_too_large_in_bounded_memory() {
        let mut body = b"[{\"a\":\"".to_vec();
        body.resize(3 << 20, b'x');
        body.extend_from_slice(b"\"},{\"b\":2},[1,2,3,4,5,6,7,8]]");
        let size = (3 << 20) - 1 + 2;
        let mut buffer = Vec::new();
        let mut records = Records::new(Pieces(&body, vec![10_000], 0), 12, &mut buffer);
        assert_eq!(records.next_element().unwrap(), Some(Element::TooLarge(size)));
        assert!(records.buffer.len() <= 2 * BUFFER);
        assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{\"b\":2}")));
        assert_eq!(records.next_element().unwrap(), Some(Element::TooLarge(17)));
        assert_eq!(records.next_element().unwrap(), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            r#"[\[\]{},:"\\ a-zü\n]{0,8}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((r#"[\[\]{},:"\\a-z]{0,4}"#, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(
            values in prop::collection::vec(any_json(), 0..6),
            pretty in any::<bool>(),
            pieces in prop::collection::vec(1usize..40, 1..5),
        ) {
            let array = Value::from(values.clone());
            let body = if pretty { format!("{array:#}") } else { array.to_string() };
            let (elements, end) = split(body.as_bytes(), &pieces, 1 << 20);
            prop_assert!(end.is_ok());
            let parsed: Vec<Value> =
                elements.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(parsed, serde_json::from_str::<Vec<Value>>(&body).unwrap());
            // Every cut is noticed, and what was handed out before it is a beginning of the whole.
            for cut in 0..body.len() {
                let (before, end) = split(&body.as_bytes()[..cut], &pieces, 1 << 20);
                let is_cut = matches!(end, Err(SplitError::Cut));
                prop_assert!(is_cut);
                prop_assert_eq!(&before[..], &elements[..before.len()]);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&body, &[7], 50);
        }

        #[test]
        fn pieces_make_no_difference(
            tokens in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"", "\\", "\0", " ", "x", "1", "\"Id\":", "\"a\":", ",{\"Id\":1}",
                    "{\"Id\":\"x\"}", "\"L\":[{\"Id\":2},", "\"text\"",
                ]),
                0..40,
            ),
            known_end in any::<bool>(),
            limit in 1..60_usize,
            pieces in prop::collection::vec(1usize..20, 1..5),
        ) {
            let body = format!("[{}", tokens.concat()).into_bytes();
            let all = |pieces: &[usize]| {
                let (elements, end) = split_as(known_end, &body, pieces, limit);
                (elements, format!("{end:?}"))
            };
            prop_assert_eq!(all(&pieces), all(&[1 << 20]));
            prop_assert_eq!(all(&[1]), all(&[1 << 20]));
            // What a beginning of it is made of is a beginning of what the whole is made of.
            let (elements, _) = all(&[1]);
            for until in 0..body.len() {
                let breaks = Breaks(Pieces(&body[..until], pieces.clone(), 0));
                let mut buffer = Vec::new();
                let mut records = Records::new(breaks, limit, &mut buffer).with_known_end(known_end);
                let mut count = 0;
                while let Ok(Some(element)) = records.next_element() {
                    let text = match element {
                        Element::Record(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        Element::TooLarge(size) => format!("too large: {size}"),
                        Element::Malformed(size) => format!("skipped: {size}"),
                        Element::Taken => String::new(),
                    };
                    prop_assert_eq!(Some(&text), elements.get(count));
                    count += 1;
                }
            }
        }

        #[test]
        fn damage_costs_only_the_records_that_it_touches(
            sizes in prop::collection::vec((0..4_usize, 0..3_usize), 3..12),
            typical in any::<bool>(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), 0..7_usize), 1..4),
            pieces in prop::collection::vec(1usize..40, 1..3),
        ) {
            let record = |(n, (texts, items)): (usize, &(usize, usize))| {
                let texts: String = (0..*texts).map(|k| format!(r#","T{k}":"{{\"a\":\"b,c\"}}""#)).collect();
                let items: Vec<_> = (0..*items).map(|k| format!(r#"{{"Id":"item","N":{k}}}"#)).collect();
                let kind = if typical { r#""RecordType":1,"# } else { "" };
                format!(r#"{{{kind}"Id":"{n}"{texts},"L":[{}],"O":{{"p":[1,true]}},"Z":"z"}}"#, items.join(","))
            };
            let records: Vec<_> = sizes.iter().enumerate().map(record).collect();
            // Each byte with the records that suffer from damage to it.
            let mut body = vec![(b'[', 0..1)];
            for (n, record) in records.iter().enumerate() {
                body.extend(record.bytes().map(|byte| (byte, n..n + 1)));
                body.push((if n + 1 < records.len() { b',' } else { b']' }, n..n + 2));
            }
            let mut touched = Vec::new();
            let count = if typical { damages.len() } else { 1 };
            // A bracket or a quote too many or too few may make a record of a part.
            let keeps_parts = typical && count == 1 && matches!(damages[0].1, 2 | 6);
            // Without a RecordType, parts of two broken records may look like one record.
            for (index, kind) in damages.into_iter().take(count) {
                let wanted: &[u8] = [b"{}", b"[]", b",:", b"\"\\", b"{}", b"[]", b",:"][kind];
                let places: Vec<_> = (1..body.len() - 1)
                    .filter(|at| wanted.contains(&body[*at].0))
                    .collect();
                if places.is_empty() {
                    continue;
                }
                let at = places[index.index(places.len())];
                touched.extend(body[at].1.clone());
                match kind {
                    0..=3 => { body.remove(at); }
                    4 => body.insert(at, body[at].clone()),
                    _ => body.insert(at, (0, body[at].1.clone())),
                }
            }
            let bytes: Vec<u8> = body.iter().map(|(byte, _)| *byte).collect();
            let (elements, end) = split_as(true, &bytes, &pieces, 1 << 20);
            prop_assert!(end.is_ok(), "{:?} {}", end, String::from_utf8_lossy(&bytes));
            prop_assert_eq!(&split_as(true, &bytes, &[1 << 20], 1 << 20).0, &elements);
            let parts = elements.iter().filter(|element| element.starts_with(r#"{"Id":"item""#)).count();
            prop_assert!(parts == 0 || !keeps_parts, "{}\n{:#?}", String::from_utf8_lossy(&bytes), elements);
            for (n, record) in records.iter().enumerate() {
                let count = elements.iter().filter(|element| *element == record).count();
                let right = if touched.contains(&n) { count <= 1 } else { count == 1 };
                prop_assert!(right, "{} of {}\n{}\n{:#?}", count, record, String::from_utf8_lossy(&bytes), elements);
            }
        }
    }
}
