//! Filters: records that an administrator does not want.

use super::normalize::{Trait, Traits};
use super::value::number_token;

/// Leaves out the records that match all of its values; one that is not given matches any record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    /// `RecordType`, a number.
    pub record_type: Option<String>,
    /// `Operation`, exactly.
    pub operation: Option<String>,
    /// `Workload`, exactly.
    pub workload: Option<String>,
    /// `UserId`, in any letter case.
    pub user_id: Option<String>,
}

/// Whether a value that was found is the one that is wanted.
type Is = fn(&str, &str) -> bool;

impl Exclude {
    /// Whether the record, which has these traits, is to be left out. One that lacks
    /// a member, or has it twice, matches no value for it.
    pub(super) fn matches(&self, traits: &Traits, record: &[u8]) -> bool {
        let exactly = |wanted: &str, found: &str| wanted == found;
        let in_any_case = |wanted: &str, found: &str| wanted.to_lowercase() == found.to_lowercase();
        let members: [(_, _, Is); 4] = [
            (&self.record_type, &traits.record_type, exactly),
            (&self.operation, &traits.operation, exactly),
            (&self.workload, &traits.workload, exactly),
            (&self.user_id, &traits.user_id, in_any_case),
        ];
        members.into_iter().all(|(wanted, found, is)| match wanted {
            Some(wanted) => text(found, record).is_some_and(|found| is(wanted, &found)),
            None => true,
        })
    }
}

/// A string's value, or a number as it is spelt.
fn text(found: &Trait, record: &[u8]) -> Option<String> {
    let Trait::At(at) = found else {
        return None;
    };
    let value = std::str::from_utf8(record.get(at.clone())?).ok()?;
    match value.as_bytes().first()? {
        b'"' => serde_json::from_str(value).ok(),
        b'-' | b'0'..=b'9' => Some(number_token(value.as_bytes()).unwrap_or(value.to_owned())),
        _ => None,
    }
}
