//! Which paths of records held text, and which held objects.

use std::collections::HashSet;

use super::names::repair;
use super::{MAX_LEVEL, MAX_NAME};
use crate::json::Json;

/// The paths that hold text by the contract, whatever comes first.
pub(super) const TEXT_PATHS: &[&str] = &[
    "Id",
    "RecordType",
    "CreationTime",
    "Operation",
    "OrganizationId",
    "UserType",
    "UserKey",
    "Workload",
    "UserId",
    "ClientIP",
    "ResultStatus",
    "Actor.ID",
    "Overflow",
    "Truncated",
    "ClientIPAddressPort",
    "Subscription",
    "actor",
    "tenant_id",
    "tenant_name",
    "subscription_name",
    "notice",
    "response",
    "code",
    "from",
    "to",
    "content_id",
];

/// The kinds that were sent at each path, in any record. A path can be in both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    objects: HashSet<String>,
    text: HashSet<String>,
}

impl Kinds {
    /// Adds the paths of a record as it was sent.
    pub fn note(&mut self, record: &Json) {
        if let Json::Object(members) = record {
            self.members(members, "", 0);
        }
    }

    /// Whether an object was sent at this dotted path (without array indices).
    pub fn holds_objects(&self, path: &str) -> bool {
        self.objects.contains(path)
    }

    /// Whether text was sent at this dotted path, or the contract says that it is text.
    pub fn holds_text(&self, path: &str) -> bool {
        TEXT_PATHS.contains(&path) || self.text.contains(path)
    }

    fn members(&mut self, members: &[(String, Json)], parent: &str, level: usize) {
        for (name, value) in members {
            let name = repair(name);
            let level = level + name.split('.').count();
            // Such members always move.
            if level > MAX_LEVEL || name.len() > MAX_NAME {
                continue;
            }
            let prefix = if parent.is_empty() { String::new() } else { format!("{parent}.") };
            for (dot, _) in name.match_indices('.') {
                self.objects.insert(format!("{prefix}{}", &name[..dot]));
            }
            self.value(value, &format!("{prefix}{name}"), level);
        }
    }

    fn value(&mut self, value: &Json, path: &str, level: usize) {
        match value {
            Json::Null => {}
            Json::Object(members) => {
                self.objects.insert(path.to_owned());
                self.members(members, path, level);
            }
            Json::Array(items) => {
                for item in items {
                    // An array within an array is text.
                    if matches!(item, Json::Array(_)) {
                        self.text.insert(path.to_owned());
                    } else {
                        self.value(item, path, level);
                    }
                }
            }
            _ => {
                self.text.insert(path.to_owned());
            }
        }
    }
}

/// Whether a value is an object, or an array with an object among its own elements.
pub(super) fn is_objects(value: &Json) -> bool {
    match value {
        Json::Object(_) => true,
        Json::Array(items) => items.iter().any(|item| matches!(item, Json::Object(_))),
        _ => false,
    }
}

/// Whether a value is text, or an array with text among its own elements.
pub(super) fn has_text(value: &Json) -> bool {
    match value {
        Json::Object(_) => false,
        Json::Array(items) => items.iter().any(|item| !matches!(item, Json::Object(_))),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn notes_the_kinds_of_a_record() {
        let mut kinds = Kinds::default();
        kinds.note(
            &json::parse(br#"{"a":[{"b":1},"x"],"c.d":2,"e":[[{"f":1}]],"g":null}"#).unwrap(),
        );
        for (path, objects, text) in [
            ("a", true, true),
            ("a.b", false, true),
            ("c", true, false),
            ("c.d", false, true),
            ("e", false, true),
            ("e.f", false, false),
            ("g", false, false),
            ("UserId", false, true),
        ] {
            assert_eq!(
                (kinds.holds_objects(path), kinds.holds_text(path)),
                (objects, text),
                "{path}"
            );
        }
    }
}
