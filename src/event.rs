//! Makes one line of output of one record: Wazuh's envelope around the record as Microsoft sent it,
//! and nothing changed but what Wazuh or its indexer would cut, spoil or reject.
//!
//! The record is checked while it is copied: a line that is no JSON would match no rule in Wazuh,
//! so it would be lost there without a word. Repairs of single values are made on the way; what
//! concerns the record as a whole (too many fields, too long) is looked at only where it must be.
//!
//! The limits are those of Wazuh 4.14's agent, decoder and indexer, with room to spare.

mod copy;
mod exclude;
mod fields;
mod fit;
mod json;
mod name;
mod shorten;
mod value;

use std::borrow::Cow;

pub use self::exclude::Exclude;
use crate::content::ContentType;

const HEAD: &[u8] = br#"{"integration":"office365","office365":{"#;

/// A line is cut by Wazuh at 65,524 bytes less the wodle's tag, and dropped by an agent above
/// 65,408; ours are no longer than this, without the newline.
const LONGEST_LINE: usize = 64_512;

/// The indexer rejects an alert with a string of more than 32,766 bytes; ours are no longer than
/// this, decoded.
const LONGEST_STRING: usize = 32_700;

/// Wazuh's decoder keeps so many fields of an event.
const MOST_FIELDS: usize = 256;

/// Fields of the envelope: `integration` and `Subscription`.
const ENVELOPE_FIELDS: usize = 2;

/// Containers that are deeper become strings; the record itself is the first level.
const MOST_LEVELS: usize = 100;

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

/// An element that can't be made an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is valid up to here, but no object.
    NoObject,
    /// It is no JSON.
    Malformed,
}

/// Appends the line for `record` to `out`, its newline included. The value of its `Id`, as JSON, takes the
/// place of what is in `id`, which is empty then where it has none.
///
/// White space between tokens is removed; every value that needs no repair keeps its spelling. Bad
/// UTF-8, and half a surrogate pair, becomes U+FFFD, a raw control character in a string is escaped.
///
/// # Errors
/// The record is no object or no JSON; `out` is then as it was.
pub fn append_line(
    record: &[u8],
    content_type: ContentType,
    options: &Options,
    id: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Fate, Unusable> {
    let record = match std::str::from_utf8(record) {
        Ok(_) => Cow::Borrowed(record),
        Err(_) => Cow::Owned(String::from_utf8_lossy(record).into_owned().into_bytes()),
    };
    let before = out.len();
    let (fate, length) = append_first(&record, content_type, options, id, out)?;
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
/// There is no record that is whole and UTF-8; `out` is then as it was. `append_line` can tell more.
pub fn append_first(
    text: &[u8],
    content_type: ContentType,
    options: &Options,
    id: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(Fate, usize), Unusable> {
    let before = out.len();
    out.extend_from_slice(HEAD);
    let members = out.len();
    let copied = copy::copy(text, options.normalize, out).and_then(|copied| {
        let record = text.get(..copied.length).unwrap_or_default();
        let is_text = record.is_ascii() || std::str::from_utf8(record).is_ok();
        is_text.then_some(copied).ok_or(Unusable::Malformed)
    });
    let copied = copied.inspect_err(|_| out.truncate(before))?;
    let length = copied.length;
    id.clear();
    id.extend_from_slice(copied.id.clone().and_then(|id| out.get(id)).unwrap_or_default());
    if options.exclude.iter().any(|exclude| exclude.matches(&copied.traits, out)) {
        out.truncate(before);
        return Ok((Fate::Excluded, length));
    }
    let tail: [&[u8]; 3] = [b"\"Subscription\":\"", content_type.name().as_bytes(), b"\"}}"];
    let most = LONGEST_LINE - HEAD.len() - tail.map(<[u8]>::len).iter().sum::<usize>();
    let too_long = out.len() - members > most;
    let too_many = copied.fields + ENVELOPE_FIELDS > MOST_FIELDS;
    let doubled = copied.adds_address_port && copied.has_address_port;
    let mut fate = Fate::Whole;
    if too_long || doubled || (options.normalize && (too_many || copied.has_long_string)) {
        let whole = fit::Whole {
            members: out.get(members..).unwrap_or_default(),
            adds_address_port: copied.adds_address_port,
            most,
            normalize: options.normalize,
        };
        let mut anew = Vec::new();
        fate = whole.write(id, &mut anew);
        out.truncate(members);
        // Of a record of many megabytes nothing is kept.
        out.shrink_to(2 * (members + LONGEST_LINE));
        out.append(&mut anew);
    }
    out.extend(tail.iter().copied().flatten());
    out.push(b'\n');
    Ok((fate, length))
}

#[cfg(test)]
mod tests;
