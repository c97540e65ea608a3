//! What can't be where it was: one string at the top of the record that holds it by path.

use std::borrow::Cow;
use std::collections::HashMap;

use super::MAX_STRING;
use super::json::{beginning, quote_text};

/// Of what was moved so much is looked at, in bytes; the string itself is a fraction of that.
const MAX_BYTES: usize = 256 << 10;

/// Members that were moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Overflow<'a> {
    /// Path, and value as JSON.
    moved: Vec<(String, Cow<'a, [u8]>)>,
    bytes: usize,
    /// Whether more was moved than is kept here.
    pub(super) is_cut: bool,
}

impl<'a> Overflow<'a> {
    /// Takes a member. `path`: names and indices, decoded: `Item.Folders[3].Path`.
    pub(super) fn push(&mut self, path: &str, value: impl Into<Cow<'a, [u8]>>) {
        let value = value.into();
        if self.bytes > MAX_BYTES {
            self.is_cut = true;
            return;
        }
        self.bytes += path.len() + value.len();
        self.moved.push((path.to_owned(), value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.moved.is_empty()
    }

    /// The object of what was moved, as JSON. A path that was moved more than once holds a list. Where it
    /// has to be cut, the largest value comes last.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut paths: HashMap<&str, usize> = HashMap::new();
        let mut entries: Vec<(&str, Vec<&[u8]>)> = Vec::new();
        for (path, value) in &self.moved {
            let at = *paths.entry(path).or_insert(entries.len());
            match entries.get_mut(at) {
                Some((_, values)) => values.push(value),
                None => entries.push((path, vec![value])),
            }
        }
        if self.bytes > MAX_STRING {
            entries
                .sort_by_key(|(_, values)| values.iter().map(|value| value.len()).sum::<usize>());
        }
        let mut text = b"{".to_vec();
        for (path, values) in entries {
            if text.len() > 1 {
                text.push(b',');
            }
            quote_text(path, &mut text);
            text.push(b':');
            // What is longer is cut off anyway.
            let values: Vec<&[u8]> =
                values.into_iter().map(|value| beginning(value, 2 * MAX_STRING)).collect();
            match &*values {
                [value] => text.extend_from_slice(value),
                values => text.extend([&b"["[..], &values.join(&b","[..]), b"]"].concat()),
            }
        }
        text.push(b'}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_is_an_object_by_path() {
        let mut overflow = Overflow::default();
        overflow.push("a", b"1".to_vec());
        overflow.push("b[0].\"\u{1}", b"{\"x\":[]}".to_vec());
        overflow.push("a", b"\"2\"".to_vec());
        let text = String::from_utf8(overflow.text()).unwrap();
        assert_eq!(text, r#"{"a":[1,"2"],"b[0].\"\u0001":{"x":[]}}"#);
    }

    #[test]
    fn it_does_not_grow_without_bounds() {
        let mut overflow = Overflow::default();
        for n in 0..1_000_000 {
            overflow.push(&n.to_string(), &b"\"some text\""[..]);
        }
        assert!(overflow.is_cut && overflow.text().len() < 2 * MAX_BYTES);
    }
}
