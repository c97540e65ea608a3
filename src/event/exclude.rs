//! Filters: records that an administrator does not want.

use super::copy::{Trait, Traits};

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

impl Exclude {
    /// Whether a record with these traits, which stand in `line`, is to be left out. One that lacks
    /// a member, or has it twice, matches no value for it.
    pub(super) fn matches(&self, traits: &Traits, line: &[u8]) -> bool {
        let exactly = |a: &str, b: &str| a == b;
        let in_any_case = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
        let is = |wanted: &Option<String>, found: &Trait, same: &dyn Fn(&str, &str) -> bool| {
            wanted
                .as_ref()
                .is_none_or(|wanted| text(found, line).is_some_and(|found| same(wanted, &found)))
        };
        is(&self.record_type, &traits.record_type, &exactly)
            && is(&self.operation, &traits.operation, &exactly)
            && is(&self.workload, &traits.workload, &exactly)
            && is(&self.user_id, &traits.user_id, &in_any_case)
    }
}

/// A string's value, or a number as it is spelt.
fn text(found: &Trait, line: &[u8]) -> Option<String> {
    let Trait::At(at) = found else {
        return None;
    };
    let value = std::str::from_utf8(line.get(at.clone())?).ok()?;
    match value.as_bytes().first()? {
        b'"' => serde_json::from_str(value).ok(),
        b'-' | b'0'..=b'9' => Some(value.to_owned()),
        _ => None,
    }
}
