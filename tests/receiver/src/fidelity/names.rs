//! Names of members: their repair, and when two of them are equal.

use crate::json::Json;

/// A name after the contract's repairs.
pub(super) fn repair(name: &str) -> String {
    let name: Vec<char> = readable(name).chars().collect();
    if name.is_empty() {
        return "_".into();
    }
    let is_dot = |at: usize| name.get(at).is_none_or(|&character| character == '.');
    // A dot is taken for one that begins or ends the name if there is nothing beside it.
    let dots: String = (0..name.len())
        .map(|at| {
            let lonely = at > 0 && !is_dot(at - 1) && !is_dot(at + 1);
            if name[at] == '.' && !lonely { '_' } else { name[at] }
        })
        .collect();
    let segments = dots.split('.').map(|segment| {
        if segment.chars().all(is_blank) {
            "_".repeat(segment.chars().count())
        } else {
            segment.to_owned()
        }
    });
    segments.collect::<Vec<_>>().join(".")
}

/// Text with U+0000 as U+FFFD. A run of U+FFFD counts as one: how many of them stand for bad UTF-8
/// does not matter.
pub(super) fn readable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let character = if character == '\0' { '\u{FFFD}' } else { character };
        if character != '\u{FFFD}' || !out.ends_with('\u{FFFD}') {
            out.push(character);
        }
    }
    out
}

/// The key by which names are equal: the first segment in lower case.
pub(super) fn equality(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_ascii_lowercase()
}

/// Whether a top member of this name may not stay, because the line uses the name itself.
pub(super) fn is_reserved(name: &str, port_is_added: bool) -> bool {
    let first = equality(name);
    name.split('.').next() == Some("actor")
        || matches!(first.as_str(), "overflow" | "truncated" | "subscription")
        || port_is_added && first == "clientipaddressport"
}

/// Whether no name or string of the value needs a repair.
pub(super) fn are_fine(value: &Json) -> bool {
    let is_fine = |text: &str| !text.contains(['\0', '\u{FFFD}']);
    match value {
        Json::String(text) => is_fine(text),
        Json::Array(items) => items.iter().all(are_fine),
        Json::Object(members) => members
            .iter()
            .all(|(name, value)| is_fine(name) && repair(name) == *name && are_fine(value)),
        _ => true,
    }
}

/// The value of a top member, if no other member has an equal name and Wazuh keeps the value.
pub(super) fn sole_member<'a>(record: &'a Json, name: &str) -> Option<&'a Json> {
    let Json::Object(members) = record else { return None };
    let group = equality(name);
    let mut equal = members.iter().filter(|(own, _)| equality(&repair(own)) == group);
    let ((own, value), None) = (equal.next()?, equal.next()) else { return None };
    (own == name && is_kept(value)).then_some(value)
}

/// Whether Wazuh keeps a member with this value.
pub(super) fn is_kept(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::String(text) => !text.is_empty(),
        // One of nulls only is empty in the line.
        Json::Object(members) => members.iter().any(|(_, value)| is_kept(value)),
        _ => true,
    }
}

/// Blank for Rust or for Java.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_names() {
        for (name, expected) in [
            ("a", "a"),
            ("a.b", "a.b"),
            ("", "_"),
            (" ", "_"),
            (" \t", "__"),
            (" a ", " a "),
            (".", "_"),
            (".a", "_a"),
            ("a.", "a_"),
            ("a..b", "a__b"),
            ("...", "___"),
            ("a. .b", "a._.b"),
            ("a.\u{3000}", "a._"),
            (". .", "_ _"),
            ("a\0b", "a\u{FFFD}b"),
        ] {
            assert_eq!(repair(name), expected, "{name:?}");
        }
    }

    #[test]
    fn reserves_names() {
        for (name, reserved) in [
            ("actor", true),
            ("actor.ID", true),
            ("Actor", false),
            ("OVERFLOW", true),
            ("truncated.x", true),
            ("subscription", true),
            ("Subscriptions", false),
            ("clientIPaddressport", true),
        ] {
            assert_eq!(is_reserved(name, true), reserved, "{name}");
        }
        assert!(!is_reserved("ClientIPAddressPort", false));
    }
}
