//! Compares a record with the line that the collector wrote for it with `normalize` yes.
//!
//! [`judge`] demands two things. The line must be one that the receiver keeps in full. And every
//! value of the record must be at its path in the line, after no other changes than the contract's
//! repairs, or in `Overflow` for one of the contract's reasons.
//!
//! The built-in table of kinds is not known here. So the judge accepts a change of kind on every
//! path: text to `{"Name":…}`, objects to compact JSON. A test that knows the kinds of its records
//! demands byte equality where [`needs_no_repair`] holds.

mod clean;
mod compare;
mod kinds;
mod names;
mod scalars;

pub use kinds::Kinds;

use compare::Comparison;

use crate::decoder::{self, Alert};
use crate::index::Index;
use crate::json::{self, Json, Unreadable};

/// The longest line that the collector writes.
pub const MAX_LINE: usize = 64_512;
/// The longest string of a line, decoded.
pub const MAX_STRING: usize = 32_700;
/// The longest name of a member.
pub const MAX_NAME: usize = 256;
/// The deepest level of a record's member.
pub const MAX_LEVEL: usize = 16;
/// The members that are always in the line.
pub const MANDATORY: [&str; 9] = [
    "Id",
    "RecordType",
    "CreationTime",
    "Operation",
    "OrganizationId",
    "UserType",
    "UserKey",
    "Workload",
    "UserId",
];

/// No repair makes a record of this size too long, so nothing of it may be cut.
const NEVER_CUT: usize = 3_000;

/// What the judge must be told about a record's circumstances.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The stream's name, as the line ends with it.
    pub subscription: &'a str,
    /// Whether the collector knows its 4,096 paths, so that it moves members with a new one.
    pub paths_are_full: bool,
    /// The kinds in all records that the collector has seen so far, if there were others.
    pub kinds: Option<&'a Kinds>,
}

impl<'a> Expected<'a> {
    /// The circumstances of a first record.
    pub fn of(subscription: &'a str) -> Self {
        Expected { subscription, paths_are_full: false, kinds: None }
    }
}

/// Judges a line, without its newline, that was written for a record. The error says what is wrong.
///
/// If the record is nested more than 1,000 levels deep, only the line itself is judged.
pub fn judge(record: &[u8], line: &[u8], expected: Expected<'_>) -> Result<(), String> {
    let written = envelope(line, expected.subscription)?;
    let alert = receive(line)?;
    clean::check(&written)?;
    let sent = match json::parse_as_sent(record) {
        Ok(sent @ Json::Object(_)) => sent,
        Ok(_) => return Err("the record is not an object".into()),
        Err(Unreadable::TooDeep) => return Ok(()),
        Err(Unreadable::Invalid) => return Err("the record is not JSON".into()),
    };
    let comparison = Comparison::new(&sent, &written, alert.fields.len(), expected)?;
    if comparison.is_cut() && record.len() < NEVER_CUT {
        return Err("a short record was cut".into());
    }
    comparison.run(written)?;
    let record_type = names::sole_member(&sent, "RecordType");
    let has_type =
        matches!(record_type, Some(Json::Number(n)) if scalars::small_integer(n).is_some());
    if has_type && !alert.is_record() {
        return Err("no rule for records fires".into());
    }
    Ok(())
}

/// Whether a record needs no repair whatever other records hold, apart from kinds. The collector
/// then copies it byte for byte, without white space between tokens, provided that each path
/// holds the kind that is known for it.
///
/// This is conservative: some records that need no repair are not recognized.
pub fn needs_no_repair(record: &Json) -> bool {
    let Json::Object(members) = record else { return false };
    let plain = members.iter().all(|(name, value)| {
        let is_text = !kinds::is_objects(value);
        !names::is_reserved(name, true)
            && (is_text || !kinds::TEXT_PATHS.contains(&name.as_str()))
            && (!name.eq_ignore_ascii_case("ClientIP") || scalars::is_bare_address(value))
    });
    // Escapes may make the record's spelling six times as long as what is measured here.
    plain
        && clean::check(members).is_ok()
        && names::are_fine(record)
        && compare::count_fields(record) < 240
        && record.to_compact().len() < 8_000
}

/// The members of the line's record, without `Subscription`.
fn envelope(line: &[u8], subscription: &str) -> Result<Vec<(String, Json)>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("the line has {} bytes", line.len()));
    }
    if !line.starts_with(br#"{"integration":"office365","office365":{"#) {
        return Err("the line begins wrong".into());
    }
    let last = Json::String(subscription.to_owned());
    if !line.ends_with(format!("\"Subscription\":{}}}}}", last.to_compact()).as_bytes()) {
        return Err("the line ends wrong".into());
    }
    if has_blanks(line) {
        return Err("there is white space between tokens".into());
    }
    let Some(Json::Object(envelope)) = json::parse(line) else {
        return Err("the line is not JSON".into());
    };
    let mut envelope = envelope.into_iter().skip(1);
    let (Some((_, Json::Object(mut members))), None) = (envelope.next(), envelope.next()) else {
        return Err("the envelope has other members".into());
    };
    if members.pop() != Some(("Subscription".into(), last)) {
        return Err("`Subscription` is not the last member".into());
    }
    Ok(members)
}

fn has_blanks(line: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b' ' | b'\t' | b'\n' | b'\r' if !quoted => return true,
            _ => {}
        }
    }
    false
}

/// What Wazuh makes of the line, if it keeps all of it.
fn receive(line: &[u8]) -> Result<Alert, String> {
    let alert = decoder::decode(line).ok_or("Wazuh does not decode the line")?;
    if alert.fields_cut > 0 {
        return Err(format!("{} fields too many", alert.fields_cut));
    }
    if let Some(name) = alert.lost.first() {
        return Err(format!("Wazuh loses {name}"));
    }
    if alert.is_notice() {
        return Err("the record passes for a notice".into());
    }
    Index::new().add(&alert).map_err(|rejection| rejection.to_string())?;
    Ok(alert)
}

#[cfg(test)]
mod tests;
