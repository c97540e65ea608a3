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
use crate::memory::{Holding, ORDINARY};

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
    /// An element is large, and the run was over before there was memory for it.
    NoMemory(io::Error),
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
    /// What it may hold; without one, as much as it needs.
    holding: Option<Holding>,
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
            holding: None,
        }
    }

    /// Has a large element wait until there is memory for it.
    #[must_use]
    pub fn with_holding(mut self, holding: Holding) -> Self {
        self.holding = Some(holding);
        self
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
        self.next(None::<fn(&[u8]) -> Option<usize>>)
    }

    /// The same, but an object is offered to `take` first, with what has been read behind it. `take`
    /// gives its length, if all of it is there and it could be taken.
    ///
    /// # Errors
    /// As [`next_element`](Self::next_element).
    pub fn next_or_take(
        &mut self,
        take: impl FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<Element<'_>>, SplitError> {
        self.next(Some(take))
    }

    fn next(
        &mut self,
        mut take: Option<impl FnMut(&[u8]) -> Option<usize>>,
    ) -> Result<Option<Element<'_>>, SplitError> {
        self.give_back();
        loop {
            let Some(first) = self.begin()? else {
                return Ok(None);
            };
            if let Some(take) = take.as_mut().filter(|_| first == b'{') {
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
            self.enlarge()?;
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

    /// Makes room for more of a large element.
    fn enlarge(&mut self) -> Result<(), SplitError> {
        let (size, twice) = (self.buffer.len(), self.buffer.len() * 2);
        // The largest element, and what follows it.
        let most = self.limit.saturating_add(ORDINARY);
        if twice > ORDINARY
            && let Some(holding) = &mut self.holding
        {
            holding.grow().map_err(SplitError::NoMemory)?;
            // At once: a buffer that grows again and again is there twice.
            self.buffer.reserve_exact(most.saturating_sub(size));
        }
        self.buffer.resize(if size < most { twice.min(most) } else { twice }, 0);
        Ok(())
    }

    /// Gives back what only a large element needed, once it is passed.
    fn give_back(&mut self) {
        let Some(holding) = self.holding.as_mut().filter(|holding| holding.has_place()) else {
            return;
        };
        let unread = self.end - self.start;
        if unread > BUFFER {
            return;
        }
        // Another buffer: one that shrinks where it is keeps the next large one from its place.
        let mut ordinary = Vec::with_capacity(BUFFER);
        ordinary.extend_from_slice(self.buffer.get(self.start..self.end).unwrap_or_default());
        ordinary.resize(BUFFER, 0);
        *self.buffer = ordinary;
        self.passed += self.start as u64;
        (self.start, self.end) = (0, unread);
        holding.shrink();
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

impl<R> Drop for Records<'_, R> {
    fn drop(&mut self) {
        if self.holding.as_ref().is_some_and(Holding::has_place) {
            // Before its place is free.
            *self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
