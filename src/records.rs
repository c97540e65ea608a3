//! Splits a content blob, a JSON array of any size, into its elements as it streams in.
//!
//! Only the ends of elements are looked for here: strings are skipped, and of the brackets only
//! the kind that opened the element is counted. Whether an element is valid JSON is judged by
//! [`crate::event`], which reads it anyway; so one bad record spoils no other. As that finds a good
//! record's end as well, it is offered each object first, and only what it can't take is split here.

use std::io::{self, Read};

use memchr::{memchr2, memchr3};

use crate::content::without_bom;

/// What a connection receives at once, in bytes.
const RECEIVED: usize = 128 * 1024;

/// The buffer's size in bytes, unless a large element needs more: what is received at once, and an
/// element that was cut off before.
const BUFFER: usize = RECEIVED + 32 * 1024;

/// Of a body that is no array so many bytes are looked at, to say what it is.
const MOST_BEGINNING: usize = 32 * 1024;

/// A larger record than this is a large one, in bytes; Microsoft's largest are a tenth of it.
const LARGE: usize = 128 * 1024;

/// One element of a blob.
#[derive(Debug, PartialEq, Eq)]
pub enum Element<'a> {
    /// Its bytes as sent, from its first to its last.
    Record(&'a [u8]),
    /// It was larger than the limit: so many bytes, all of them skipped.
    TooLarge(u64),
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
    /// Something other than a comma or the closing bracket stands between two elements, or
    /// something follows the array: at this byte.
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
}

impl<'a, R: Read> Records<'a, R> {
    /// `limit`: the size in bytes of the largest element to hand out. `buffer`: to be used again for
    /// the next blob; what is in it is of no importance.
    pub fn new(reader: R, limit: usize, buffer: &'a mut Vec<u8>) -> Self {
        buffer.resize(BUFFER, 0);
        Self { reader, buffer, start: 0, end: 0, passed: 0, place: Place::Before, limit }
    }

    /// The next element, or none at the end of the array (which is then the end of the body).
    ///
    /// # Errors
    /// The body can't be read, is no array or is cut. Elements handed out before are good.
    pub fn next_element(&mut self) -> Result<Option<Element<'_>>, SplitError> {
        match self.begin()? {
            Some(first) => self.element(first).map(Some),
            None => Ok(None),
        }
    }

    /// The same, but an object is offered to `take` first, with what has been read behind it: whoever
    /// reads it anyway finds its end on the way. `take` gives its length, if all of it is there and
    /// it could be taken.
    ///
    /// # Errors
    /// As [`next_element`](Self::next_element).
    pub fn next_or_take(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<Element<'_>>, SplitError> {
        let Some(first) = self.begin()? else {
            return Ok(None);
        };
        if first == b'{' {
            let mut taken = take(self.ahead());
            if taken.is_none() && self.is_cut_off(first) {
                self.fill()?;
                taken = take(self.ahead());
            }
            if let Some(length) = taken {
                self.start += length;
                return Ok(Some(Element::Taken));
            }
        }
        self.element(first).map(Some)
    }

    /// Goes to the first byte of the next element; none at the end of the array.
    fn begin(&mut self) -> Result<Option<u8>, SplitError> {
        loop {
            let Some(byte) = self.next_token()? else {
                return match self.place {
                    Place::Closed => Ok(None),
                    _ => Err(SplitError::Cut),
                };
            };
            match (&self.place, byte) {
                (Place::Before, b'[') => self.place = Place::Opened,
                (Place::Before, _) => return Err(SplitError::NoArray(self.beginning())),
                (Place::Opened | Place::Element, b']') => self.place = Place::Closed,
                (Place::Element, b',') => self.place = Place::Comma,
                (Place::Opened | Place::Comma, first) if !b",:]}".contains(&first) => {
                    self.place = Place::Element;
                    return Ok(Some(first));
                }
                _ => return Err(SplitError::Malformed(self.passed + self.start as u64)),
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
    fn is_cut_off(&self, first: u8) -> bool {
        self.ahead().len() == self.unread().len()
            && Scan::new(first).end_in(self.unread()).is_none()
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
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.end += n;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SplitError::Read(error)),
            }
        }
    }

    /// The element that begins with `first` at `self.start`.
    fn element(&mut self, first: u8) -> Result<Element<'_>, SplitError> {
        let mut scan = Scan::new(first);
        // Bytes of the element already scanned in the buffer, and before it.
        let mut scanned = 0;
        let mut skipped: u64 = 0;
        loop {
            let fresh = self.unread().get(scanned..).unwrap_or_default();
            if let Some(length) = scan.end_in(fresh) {
                scanned += length;
                break;
            }
            scanned += fresh.len();
            if skipped > 0 || scanned > self.limit {
                skipped += scanned as u64;
                self.start += scanned;
                scanned = 0;
            }
            if !self.fill()? {
                return Err(SplitError::Cut);
            }
        }
        let from = self.start;
        self.start += scanned;
        if skipped > 0 || scanned > self.limit {
            self.buffer.truncate(self.buffer.len().min(self.end.max(BUFFER)));
            return Ok(Element::TooLarge(skipped + scanned as u64));
        }
        let record = self.buffer.get(from..self.start).unwrap_or_default();
        Ok(Element::Record(record))
    }
}

/// Looks for the end of one element, across pieces.
struct Scan {
    kind: Kind,
    depth: u64,
    in_string: bool,
    escaped: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Opened by the first byte, closed by the second.
    Nested(u8, u8),
    String,
    /// A number or a literal, ended by what can't be part of one.
    Scalar,
}

impl Scan {
    fn new(first: u8) -> Self {
        let kind = match first {
            b'{' => Kind::Nested(b'{', b'}'),
            b'[' => Kind::Nested(b'[', b']'),
            b'"' => Kind::String,
            _ => Kind::Scalar,
        };
        Self { kind, depth: 0, in_string: false, escaped: false }
    }

    /// The length of the part of `bytes` that belongs to the element, if it ends in there.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.escaped {
                self.escaped = false;
                at += 1;
            } else if self.in_string {
                at += memchr2(b'"', b'\\', rest)?;
                if bytes.get(at) == Some(&b'\\') {
                    self.escaped = true;
                } else {
                    self.in_string = false;
                    if matches!(self.kind, Kind::String) {
                        return Some(at + 1);
                    }
                }
                at += 1;
            } else {
                match self.kind {
                    Kind::Nested(open, close) => {
                        at += memchr3(b'"', open, close, rest)?;
                        match bytes.get(at) {
                            Some(b'"') => self.in_string = true,
                            Some(byte) if *byte == open => self.depth += 1,
                            _ => self.depth -= 1,
                        }
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                        at += 1;
                    }
                    Kind::String => {
                        self.in_string = true;
                        at += 1;
                    }
                    Kind::Scalar => {
                        let ends = |b: &u8| b",]}\"[{: \t\r\n".contains(b);
                        return rest.iter().position(ends).map(|length| at + length);
                    }
                }
            }
        }
        None
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

    fn split(body: &[u8], pieces: &[usize], limit: usize) -> (Vec<String>, Result<(), SplitError>) {
        let mut buffer = Vec::new();
        let mut records = Records::new(Pieces(body, pieces.to_vec(), 0), limit, &mut buffer);
        let mut elements = Vec::new();
        loop {
            match records.next_element() {
                Ok(None) => return (elements, Ok(())),
                Ok(Some(Element::Record(bytes))) => {
                    elements.push(String::from_utf8_lossy(bytes).into_owned());
                }
                Ok(Some(Element::TooLarge(size))) => elements.push(format!("too large: {size}")),
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
    }
}
