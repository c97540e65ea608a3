//! Names that the indexer rejects, and names that are one to Wazuh.

use std::borrow::Cow;

/// A name as the indexer takes it: not empty, no dot first, last or beside another, no blank segment
/// between dots, no U+0000. One that is taken is borrowed.
pub(super) fn repaired(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Owned("_".to_owned());
    }
    // As most names are.
    if name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Cow::Borrowed(name);
    }
    if !name.contains('\0') && !name.split('.').any(|segment| segment.chars().all(is_blank)) {
        return Cow::Borrowed(name);
    }
    let name = name.replace('\0', "\u{fffd}");
    let chars: Vec<char> = name.chars().collect();
    let is_dot = |at: Option<usize>| at.is_none_or(|at| chars.get(at).is_none_or(|c| *c == '.'));
    // A dot that is first, last or beside another; what is before the first and behind the last counts
    // as one.
    let is_lonely = |at: usize| is_dot(at.checked_sub(1)) || is_dot(Some(at + 1));
    let undotted: String = chars
        .iter()
        .enumerate()
        .map(|(at, c)| if *c == '.' && is_lonely(at) { '_' } else { *c })
        .collect();
    let segment = |segment: &str| match segment.chars().all(is_blank) {
        true => "_".repeat(segment.chars().count()),
        false => segment.to_owned(),
    };
    Cow::Owned(undotted.split('.').map(segment).collect::<Vec<_>>().join("."))
}

/// Whether a character counts for nothing in a name: what Java, in which the indexer is written, or
/// Unicode calls white space.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The first of the objects that a dotted name stands for, or the name itself.
pub(super) fn first_segment(name: &str) -> &str {
    let end = memchr::memchr(b'.', name.as_bytes()).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_the_indexer_takes() {
        let table = [
            ("a", "a"),
            ("a.b", "a.b"),
            ("a b", "a b"),
            ("", "_"),
            (".", "_"),
            ("..", "__"),
            (".a", "_a"),
            ("a.", "a_"),
            ("a..b", "a__b"),
            ("a...b", "a___b"),
            (".a.b.", "_a.b_"),
            (" ", "_"),
            ("  ", "__"),
            ("\u{a0}\t", "__"),
            ("\u{1f}", "_"),
            ("a. .b", "a._.b"),
            ("a.  ", "a.__"),
            (". ", "_ "),
            ("a\0", "a\u{fffd}"),
            ("\0", "\u{fffd}"),
            ("ü.日", "ü.日"),
        ];
        for (name, expected) in table {
            assert_eq!(repaired(name), expected, "{name:?}");
            assert_eq!(repaired(expected), expected, "{name:?}");
        }
    }
}
