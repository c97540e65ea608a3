//! Makes one line of output of one record: Wazuh's envelope around the record as Microsoft sent it,
//! and nothing changed but what Wazuh or its indexer would cut, spoil or reject.
//!
//! The record is checked while it is copied: a line that is not JSON would match no rule in Wazuh, so it
//! would be lost there silently. `normalize` makes the line of an ordinary record in one pass; `rewrite`
//! applies the rules to any other, with what `kinds` knows of each path; `fit` looks after the number of
//! fields and the size.
//!
//! The limits are those of Wazuh 4.14's agent, decoder and indexer, with room to spare.

mod cjson;
mod exclude;
mod fields;
mod fit;
mod json;
mod kinds;
mod known_field;
mod names;
mod normalize;
mod overflow;
mod rewrite;
mod shorten;
mod value;

use std::borrow::Cow;

pub use self::exclude::Exclude;
use self::fit::Limits;
pub use self::kinds::{Kinds, MAX_LEARNED, Saved};
use self::normalize::{Copied, Marks, Stopped, compact, ordinary};
use self::rewrite::{NewPath, Rewritten, Unknown, rewrite, without_actor};
use crate::content::ContentType;

const HEAD: &[u8] = br#"{"integration":"office365","office365":{"#;

/// A line is cut by Wazuh at 65,524 bytes less the wodle's tag, and dropped by an agent above
/// 65,408; ours are no longer than this, without the newline.
const MAX_LINE: usize = 64_512;

/// The indexer rejects an alert with a string of more than 32,766 bytes; ours are no longer than
/// this, decoded.
const MAX_STRING: usize = 32_700;

/// Wazuh's decoder keeps so many fields of an event.
const MAX_FIELDS: usize = 256;

/// Fields of the envelope: `integration` and `Subscription`.
const ENVELOPE_FIELDS: usize = 2;

/// The indexer takes 20 levels of names, of which a record's begin at the third.
const MAX_NAME_LEVELS: usize = 16;

/// Without `normalize` a container on this level becomes a string; Wazuh could not read the line.
const MAX_LEVELS: usize = 100;

/// Where `ClientIP` is kept as it was sent.
const ADDRESS_PORT: &str = "ClientIPAddressPort";

/// What is kept in memory from record to record, in bytes.
const MAX_KEPT: usize = 2 * MAX_LINE;

/// What is to be made of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether what Wazuh or its indexer would spoil or reject is repaired. What would break the
    /// line itself, or have it cut, is in any case.
    pub normalize: bool,
    /// Records to leave out.
    pub exclude: Vec<Exclude>,
}

/// How a record was appended, if it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// With all that is in it.
    Whole,
    /// Something had to be left out, which its `Truncated` lists.
    Shortened,
    /// Not at all: a filter leaves it out.
    Excluded,
}

/// Why an element is not made an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is valid up to here, but not an object.
    NotAnObject,
    /// It is not JSON.
    Malformed,
    /// It has a path whose kind is not known, which it may not teach: ask again with [`Learning::Yes`].
    NewPath,
}

/// Whether a record may teach the kinds of paths that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// It may: its line is the next one to be written.
    Yes,
    /// It may not: other lines may be written first.
    No,
}

/// Makes lines, one worker's.
#[derive(Debug)]
pub struct LineMaker<'a> {
    options: &'a Options,
    kinds: &'a Kinds,
    marks: Marks,
    /// The compact form of a record that is not ordinary.
    compact: Vec<u8>,
}

impl<'a> LineMaker<'a> {
    /// One for records that are treated by these options. `kinds`: what is known of paths, shared by all.
    #[must_use]
    pub fn new(options: &'a Options, kinds: &'a Kinds) -> Self {
        Self { options, kinds, marks: Marks::default(), compact: Vec::new() }
    }

    /// Appends the line for `record` to `out`, its newline included. The value of its `Id`, as JSON, takes
    /// the place of what is in `id`, which is empty then where it has none.
    ///
    /// White space between tokens is removed; every value that needs no repair keeps its spelling. Bad
    /// UTF-8, and half a surrogate pair, becomes U+FFFD, a raw control character in a string is escaped.
    ///
    /// # Errors
    /// The record is not an object or not JSON, or it may not be learned from; `out` is then as it was.
    pub fn append_line(
        &mut self,
        record: &[u8],
        content_type: ContentType,
        learning: Learning,
        id: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Fate, Unusable> {
        let record = as_utf8(record);
        let before = out.len();
        let (fate, length) = self.append_first(&record, content_type, learning, id, out)?;
        let behind = record.get(length..).unwrap_or_default();
        if behind.iter().copied().all(json::is_white) {
            Ok(fate)
        } else {
            out.truncate(before);
            Err(Unusable::Malformed)
        }
    }

    /// The same for the record that `text` begins with, whatever follows it. Gives its length, too.
    ///
    /// # Errors
    /// There is no record that is whole and UTF-8, or it may not be learned from; `out` is then as it was.
    /// `append_line` can tell more.
    pub fn append_first(
        &mut self,
        text: &[u8],
        content_type: ContentType,
        learning: Learning,
        id: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(Fate, usize), Unusable> {
        let before = out.len();
        let done = self.append(text, content_type, learning, id, out);
        done.inspect_err(|_| out.truncate(before))
    }

    fn append(
        &mut self,
        text: &[u8],
        content_type: ContentType,
        learning: Learning,
        id: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(Fate, usize), Unusable> {
        let before = out.len();
        out.extend_from_slice(HEAD);
        let members = out.len();
        let tail: [&[u8]; 3] = [b"\"Subscription\":\"", content_type.name().as_bytes(), b"\"}}"];
        let most = MAX_LINE - HEAD.len() - tail.map(<[u8]>::len).iter().sum::<usize>();
        let copied = self.ordinary(text, members + most, id, out)?;
        let (fate, length) = match copied {
            Some(copied) if self.is_excluded(&copied, text) => (Fate::Excluded, copied.length),
            Some(copied) => (Fate::Whole, copied.length),
            None => {
                out.truncate(members);
                self.append_rewritten(text, most, learning, id, out)?
            }
        };
        if fate == Fate::Excluded {
            out.truncate(before);
        } else {
            out.extend(tail.iter().copied().flatten());
            out.push(b'\n');
        }
        Ok((fate, length))
    }

    /// Appends the members of a record that is ordinary; none if it is not. `end`: `out` may not grow beyond.
    fn ordinary(
        &mut self,
        text: &[u8],
        end: usize,
        id: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Copied>, Unusable> {
        if !self.options.normalize {
            return Ok(None);
        }
        let copied = match ordinary(text, self.kinds, &mut self.marks, out, end) {
            Ok(copied) => copied,
            Err(Stopped::Special) => return Ok(None),
            Err(Stopped::Unusable(why)) => return Err(why),
        };
        check_utf8(text, &copied)?;
        let fits = out.len() <= end
            && !copied.has_long_string
            && copied.fields + ENVELOPE_FIELDS <= MAX_FIELDS;
        if fits {
            set_id(id, text, &copied);
        }
        Ok(fits.then_some(copied))
    }

    /// Appends the members of a record by the rules for those that are not ordinary, `most` bytes at most.
    fn append_rewritten(
        &mut self,
        text: &[u8],
        most: usize,
        learning: Learning,
        id: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(Fate, usize), Unusable> {
        self.compact.clear();
        // What is offered with other records behind it is shorter.
        if text.len() > 2 * MAX_KEPT {
            // At once: what grows again and again is there twice. A control character becomes six.
            let controls = text.iter().filter(|b| **b < b' ').count();
            self.compact.reserve_exact(text.len() + 5 * controls);
        }
        let copied = compact(text, &mut self.compact)?;
        check_utf8(text, &copied)?;
        let fate = if self.is_excluded(&copied, text) {
            Fate::Excluded
        } else if self.options.normalize {
            let rewritten =
                self.rewritten(&copied, learning).map_err(|NewPath| Unusable::NewPath)?;
            fit(&rewritten, Limits { bytes: most, normalize: true }, out)
        } else {
            self.append_plain(&copied, most, out)
        };
        set_id(id, text, &copied);
        // Of a record of many megabytes nothing is kept, not even its place: what is left there would keep the
        // next one from it.
        if self.compact.capacity() > MAX_KEPT {
            self.compact = Vec::new();
        }
        Ok((fate, copied.length))
    }

    /// Applies the rules to the compact record. Members of which it has too many teach nothing: none of
    /// them reaches the index.
    fn rewritten(&self, copied: &Copied, learning: Learning) -> Result<Rewritten<'_>, NewPath> {
        // With the two that may be added.
        let may_be_too_many = copied.fields + ENVELOPE_FIELDS + 2 > MAX_FIELDS;
        let goes = if may_be_too_many {
            fit::too_many(&rewrite(&self.compact, self.kinds, Unknown::Assume, &[])?)
        } else {
            Vec::new()
        };
        let unknown = match learning {
            Learning::Yes => Unknown::Learn,
            Learning::No => Unknown::Refuse,
        };
        rewrite(&self.compact, self.kinds, unknown, &goes)
    }

    /// Appends the compact members as they are, as far as Wazuh can read the line.
    fn append_plain(&self, copied: &Copied, most: usize, out: &mut Vec<u8>) -> Fate {
        let members = if copied.levels >= MAX_LEVELS {
            let mut members = Vec::new();
            json::containers_as_strings(&self.compact, MAX_LEVELS, &mut members);
            Cow::Owned(members)
        } else {
            Cow::Borrowed(&self.compact)
        };
        if members.len() <= most && !copied.has_actor {
            out.extend_from_slice(&members);
            return Fate::Whole;
        }
        fit(&without_actor(&members), Limits { bytes: most, normalize: false }, out)
    }

    fn is_excluded(&self, copied: &Copied, record: &[u8]) -> bool {
        self.options.exclude.iter().any(|exclude| exclude.matches(&copied.traits, record))
    }
}

/// Appends what fits of a record.
fn fit(record: &Rewritten<'_>, limits: Limits, out: &mut Vec<u8>) -> Fate {
    let mut members = Vec::new();
    let fate = fit::write(record, limits, &mut members);
    out.append(&mut members);
    fate
}

/// The value of a record's `Id`, as JSON; none where it has none, or is not a record.
#[must_use]
pub fn id_of(record: &[u8]) -> Option<Vec<u8>> {
    let record = as_utf8(record);
    let copied = compact(&record, &mut Vec::new()).ok()?;
    let mut id = Vec::new();
    set_id(&mut id, &record, &copied);
    (!id.is_empty()).then_some(id)
}

/// Text as Wazuh keeps it outside arrays: U+0000, behind which all would be lost, becomes U+FFFD, and what
/// would be read as a list gets a blank in front.
#[must_use]
pub fn as_kept(text: &str) -> Cow<'_, str> {
    let text = match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    };
    if cjson::is_list(&text) { Cow::Owned(format!(" {text}")) } else { text }
}

fn set_id(id: &mut Vec<u8>, text: &[u8], copied: &Copied) {
    id.clear();
    let value = copied.id.clone().and_then(|id| text.get(id)).filter(|value| *value != b"null");
    id.extend_from_slice(value.unwrap_or_default());
}

fn as_utf8(record: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(record) {
        Ok(_) => Cow::Borrowed(record),
        Err(_) => Cow::Owned(String::from_utf8_lossy(record).into_owned().into_bytes()),
    }
}

fn check_utf8(text: &[u8], copied: &Copied) -> Result<(), Unusable> {
    let record = text.get(..copied.length).unwrap_or_default();
    let is_text = record.is_ascii() || std::str::from_utf8(record).is_ok();
    is_text.then_some(()).ok_or(Unusable::Malformed)
}

#[cfg(test)]
mod tests;
