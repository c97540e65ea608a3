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
mod value;

use std::borrow::Cow;
use std::ops::Range;

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

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Its line was appended; there the value of its `Id` stands, as JSON, if it has one.
    Event(Option<Range<usize>>),
    /// A filter leaves it out.
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

/// Appends the line for `record` to `out`, its newline included.
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
    out: &mut Vec<u8>,
) -> Result<Line, Unusable> {
    let record = match std::str::from_utf8(record) {
        Ok(_) => Cow::Borrowed(record),
        Err(_) => Cow::Owned(String::from_utf8_lossy(record).into_owned().into_bytes()),
    };
    let before = out.len();
    out.extend_from_slice(HEAD);
    let members = out.len();
    let copied = copy::copy(&record, options.normalize, out);
    let copied = copied.inspect_err(|_| out.truncate(before))?;
    if options.exclude.iter().any(|exclude| exclude.matches(&copied.traits, out)) {
        out.truncate(before);
        return Ok(Line::Excluded);
    }
    let tail = format!("\"Subscription\":\"{}\"}}}}", content_type.name());
    let added = copied.address.as_deref();
    let length = out.len() - before + added.map_or(0, fit::address_length) + tail.len();
    let fields = copied.fields + usize::from(added.is_some()) + ENVELOPE_FIELDS;
    let too_long = length > LONGEST_LINE || (options.normalize && copied.has_long_string);
    let too_many = options.normalize && fields > MOST_FIELDS;
    let mut id = copied.id;
    if too_long || too_many || (added.is_some() && copied.has_address_port) {
        let mut anew = Vec::new();
        let whole = fit::Whole {
            members: out.get(members..).unwrap_or_default(),
            address: added,
            too_long,
            // Both parts of the envelope are written here.
            most: LONGEST_LINE - HEAD.len() - tail.len(),
            normalize: options.normalize,
        };
        id = whole.write(&mut anew).map(|id| id.start + members..id.end + members);
        out.truncate(members);
        out.append(&mut anew);
    } else {
        fit::write_address(added, out);
    }
    out.extend_from_slice(tail.as_bytes());
    out.push(b'\n');
    Ok(Line::Event(id))
}

#[cfg(test)]
mod tests;
