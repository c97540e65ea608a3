//! Finds the next record behind one that stops being JSON, so that a broken record costs only itself.
//!
//! From the fault on, brackets are counted up to where the broken record ends. Where its own closing
//! bracket is missing, the next record counts: an object that parses, has an `Id`, and is behind a
//! comma or a bracket. Both are looked for in one pass:
//!
//! - A record with a `RecordType`, which parts of records don't have, is the next record. So is one
//!   directly inside the broken record's own object, where JSON allows only a key, unless the broken
//!   record has a `RecordType` and it has none.
//! - Any other record deeper inside may belong to the broken record. It counts only if the broken record does
//!   not end within the next [`LOOKAHEAD`] bytes.
//!
//! A record that lacks more than one bracket may swallow others, as items of an array of its own. It
//! goes up to the first of these that has an `Id` and a `RecordType`.
//!
//! Every byte is read a few times at most: a candidate that fails is never entered again, except for
//! the string in front of its fault, and [`MAX_READ_AGAIN`] limits what is read in vain.
//! All depends on the bytes alone, not on the pieces in which they arrive, so a retry numbers the
//! elements in the same way.

use std::io::Read;

use super::shape::{Levels, Progress, Shape, is_white};
use super::{Records, SplitError};

/// How far the end of a broken record is looked for behind a record that may be a part of it, in bytes.
const LOOKAHEAD: u64 = 128 * 1024;

/// The most bytes of one body that are read again after a search in vain; then the first record found
/// counts.
pub(super) const MAX_READ_AGAIN: u64 = 16 * 1024 * 1024;

/// The most levels of brackets that are counted behind a fault.
const MAX_COUNTED: usize = 1024;

/// How far behind a bracket or a string the next token is looked for, in bytes.
pub(super) const MAX_BLANKS: u64 = 64;

/// Where a broken element ends.
pub(super) enum Broken {
    /// Its brackets end here, and a comma or a bracket follows.
    Ended(u64),
    /// The next record, or the end of the array, is here. `punctuation`: nothing else was skipped.
    Interrupted { at: u64, punctuation: bool },
    /// Nowhere: the body ends.
    BodyEnded,
}

struct Search {
    /// The next byte to look at.
    at: u64,
    /// The last byte before it that is not white space or NUL.
    last: u8,
    /// The brackets that are open, the broken element's own first.
    open: Levels,
    has_text: bool,
    /// Whether the broken element has a `RecordType`, as all of Microsoft's records do.
    has_record_type: bool,
    /// The first record that may belong to the broken element.
    first: Option<First>,
    /// In a string: an object that would begin in it, at its end.
    in_string: Option<u64>,
}

/// A record that may belong to the broken element.
#[derive(Clone, Copy)]
struct First {
    at: u64,
    /// How far the broken element's end is looked for.
    until: u64,
    /// Whether anything but punctuation precedes it.
    has_text: bool,
}

/// Whether a record may begin behind this byte.
fn may_precede_a_record(byte: u8) -> bool {
    matches!(byte, b',' | b'[' | b']' | b'{' | b'}')
}

impl<R: Read> Records<'_, R> {
    /// Where the element ends that has stopped being JSON: `shape` is what is known of it, `from`
    /// where it begins. Forgets bytes that are not needed any more.
    #[cold]
    #[inline(never)]
    pub(super) fn resync(&mut self, from: u64, shape: &Shape) -> Result<Broken, SplitError> {
        let fault = self.byte_at(from + shape.taken, from + shape.needed(self.limit as u64))?;
        let (at, last) = shape.resume(fault, self.limit as u64);
        let (has_text, open) = (shape.has_text, Levels::default());
        let mut search = Search {
            at: from + at,
            last,
            open,
            has_text,
            has_record_type: shape.has_record_type,
            first: None,
            in_string: None,
        };
        search.open.push_all(&shape.open, MAX_COUNTED);
        loop {
            if let Some(first) = search.first.filter(|first| search.at >= first.until) {
                return Ok(self.give_up(first));
            }
            let Some(byte) = self.byte_at(search.at, search.needed())? else {
                return Ok(match search.first {
                    Some(first) if self.ends_whole() => self.give_up(first),
                    _ => Broken::BodyEnded,
                });
            };
            // Behind a colon is the value of a member.
            let may_end = search.open.is_empty() && search.last != b':';
            if may_end && matches!(byte, b',' | b'[' | b']' | b'{') {
                return Ok(Broken::Ended(search.at));
            }
            match byte {
                b'"' => {
                    search.has_text = true;
                    self.pass_string(&mut search)?;
                    if let Some(candidate) = search.in_string.take()
                        && self.try_record(candidate, &mut search)?
                    {
                        return Ok(search.interrupted(candidate));
                    }
                }
                b'{' if may_precede_a_record(search.last) => {
                    let candidate = search.at;
                    if self.try_record(candidate, &mut search)? {
                        return Ok(search.interrupted(candidate));
                    }
                }
                b'{' | b'[' => {
                    search.open_one(byte == b'{');
                    search.pass(byte);
                }
                // Strings are mistaken for what is between them as long as a quote is missing.
                b'\\' => {
                    search.pass(byte);
                    search.at += 1;
                }
                b'}' => {
                    search.open.close(true);
                    search.pass(byte);
                }
                b']' => {
                    if !search.open.close(false) && !self.is_inside(&search)? {
                        return Ok(match search.first {
                            Some(first) => self.give_up(first),
                            None => search.interrupted(search.at),
                        });
                    }
                    search.pass(byte);
                }
                _ => {
                    search.has_text |= !matches!(byte, b',' | b':' | 0) && !is_white(byte);
                    search.pass(byte);
                }
            }
        }
    }

    /// Whether the closing bracket here, which nothing opened, is inside the broken element all the
    /// same, and not the end of the array that the records are in: a member follows it.
    fn is_inside(&mut self, search: &Search) -> Result<bool, SplitError> {
        let mut comma = false;
        for at in search.at + 1..=search.at + MAX_BLANKS {
            match self.byte_at(at, search.needed())? {
                Some(b',') if !comma => comma = true,
                Some(b'"') => return Ok(comma),
                Some(b'}') => return Ok(!comma),
                Some(byte) if is_white(byte) => {}
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Takes the first record that may belong to the broken element for the next one.
    fn give_up(&mut self, first: First) -> Broken {
        self.may_read_again = self.may_read_again.saturating_sub(LOOKAHEAD);
        Broken::Interrupted { at: first.at, punctuation: !first.has_text }
    }

    /// Goes behind the string that begins here, or to the end of the body. `in_string` is then where
    /// an object would begin if the string were none: its last bytes are a comma or a bracket and `{`.
    fn pass_string(&mut self, search: &mut Search) -> Result<(), SplitError> {
        let mut last = b'"';
        search.at += 1;
        while let Some(byte) = self.byte_at(search.at, search.needed())? {
            if search.first.is_some_and(|first| search.at >= first.until) {
                search.in_string = None;
                return Ok(());
            }
            match byte {
                b'"' => {
                    search.at += 1;
                    search.last = b'"';
                    return Ok(());
                }
                b'\\' => {
                    search.at += 1;
                    search.in_string = None;
                }
                b'{' => {
                    search.in_string = may_precede_a_record(last).then_some(search.at);
                }
                byte if is_white(byte) || byte == 0 => {
                    search.at += 1;
                    continue;
                }
                _ => search.in_string = None,
            }
            last = byte;
            search.at += 1;
        }
        search.in_string = None;
        Ok(())
    }

    /// Whether the object that begins at `candidate` is the next record; else the search goes on behind
    /// it.
    fn try_record(&mut self, candidate: u64, search: &mut Search) -> Result<bool, SplitError> {
        let most = candidate.saturating_add(self.limit as u64);
        let until = search.first.map_or(most, |first| first.until.min(most));
        let keep = search.first.map_or(candidate, |first| first.at);
        let mut shape = Shape::new();
        let progress = self.follow(&mut shape, candidate, until, Some(keep))?;
        search.at = candidate + shape.taken;
        search.last = shape.last;
        if shape.has_record_type && shape.has_id {
            // Surely a record, be it broken as well.
            return Ok(true);
        }
        match progress {
            Progress::Complete if shape.has_id => {
                let is_next = is_own_object(&search.open) && !search.has_record_type;
                if is_next || self.may_read_again == 0 {
                    return Ok(true);
                }
                let (until, has_text) = (search.at + LOOKAHEAD, search.has_text);
                search.first.get_or_insert(First { at: candidate, until, has_text });
            }
            Progress::Complete => {}
            Progress::More => search.open.push_all(&shape.open, MAX_COUNTED),
            Progress::Fault => {
                let fault = self.byte_at(search.at, keep)?;
                let (at, last) = shape.resume(fault, self.limit as u64);
                (search.at, search.last) = (candidate + at, last);
                search.open.push_all(&shape.open, MAX_COUNTED);
            }
        }
        search.has_text |= shape.has_text;
        Ok(false)
    }

    /// The byte at an offset of the body; none at its end. Bytes before `keep` may be forgotten.
    pub(super) fn byte_at(&mut self, at: u64, keep: u64) -> Result<Option<u8>, SplitError> {
        loop {
            if let Some(byte) = self.bytes_from(at).first() {
                return Ok(Some(*byte));
            }
            self.forget_before(keep);
            if !self.fill()? {
                return Ok(None);
            }
        }
    }
}

/// Whether no bracket is open but that of the broken object itself, or none.
fn is_own_object(open: &Levels) -> bool {
    open.is_empty() || open.len() == 1 && open.last() == Some(true)
}

impl Search {
    /// The first byte that is still needed.
    fn needed(&self) -> u64 {
        self.first.map(|first| first.at).or(self.in_string).unwrap_or(self.at)
    }

    fn pass(&mut self, byte: u8) {
        self.at += 1;
        if !is_white(byte) && byte != 0 {
            self.last = byte;
        }
    }

    fn open_one(&mut self, is_object: bool) {
        if self.open.len() < MAX_COUNTED {
            self.open.push(is_object);
        }
    }

    fn interrupted(&self, at: u64) -> Broken {
        Broken::Interrupted { at, punctuation: !self.has_text }
    }
}
