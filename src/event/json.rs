//! Moving about in JSON that is known to be valid and without white space, and making strings of it.

use std::borrow::Cow;

/// Steps through the parts of a container.
pub(super) struct Items<'a> {
    rest: &'a [u8],
    keyed: bool,
}

impl<'a> Items<'a> {
    /// The members of an object, or the elements of an array, whose keys are empty.
    pub(super) fn of(container: &'a [u8]) -> Self {
        Self { rest: inside(container), keyed: container.first() == Some(&b'{') }
    }

    /// The members that are not enclosed in an object.
    pub(super) fn members(text: &'a [u8]) -> Self {
        Self { rest: text, keyed: true }
    }
}

/// A member of an object, or an element of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// All of it.
    pub(super) text: &'a [u8],
    /// The key with its quotes; of an element nothing.
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = Some(self.rest).filter(|rest| !rest.is_empty())?;
        let mut key: &[u8] = &[];
        if self.keyed {
            key = take(&mut rest, string_length);
            take(&mut rest, |_| 1);
        }
        let value = take(&mut rest, value_length);
        let length = self.rest.len() - rest.len();
        let text = take(&mut self.rest, |_| length);
        take(&mut self.rest, |_| 1);
        Some(Part { text, key, value })
    }
}

/// Whether a byte may stand between tokens.
pub(super) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Splits as many bytes off the front as `length` finds there.
pub(super) fn take<'a>(rest: &mut &'a [u8], length: impl FnOnce(&[u8]) -> usize) -> &'a [u8] {
    let (front, behind) = rest.split_at(length(rest).min(rest.len()));
    *rest = behind;
    front
}

/// The length of the value that `text` begins with.
pub(super) fn value_length(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => string_length(text),
        Some(b'{' | b'[') => container_length(text),
        _ => text.iter().position(|b| matches!(b, b',' | b']' | b'}')).unwrap_or(text.len()),
    }
}

fn container_length(text: &[u8]) -> usize {
    let (mut at, mut open) = (0, 0_usize);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at += string_length(text.get(at..).unwrap_or_default());
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if open == 0 {
            break;
        }
    }
    at
}

/// The length of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        at += plain(text.get(at..).unwrap_or_default());
        match text.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return text.len(),
        }
    }
}

/// How many bytes come before a quote, a backslash or a control character.
pub(super) fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 128;
    // The high bit of each byte that is 0; bytes above the lowest of these may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut chunks = bytes.chunks_exact(8);
    let mut before = 0;
    for chunk in &mut chunks {
        let word = <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let found = (control | quote | backslash) & HIGH;
        if found != 0 {
            return before + (found.trailing_zeros() / 8) as usize;
        }
        before += 8;
    }
    let special = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\';
    let rest = chunks.remainder();
    before + rest.iter().position(special).unwrap_or(rest.len())
}

/// The length of the longest beginning of a string's inside that takes `most` bytes as spelt and
/// `most_decoded` bytes decoded, and ends between two characters.
pub(super) fn cut(inside: &[u8], most: usize, most_decoded: usize) -> usize {
    let (mut at, mut decoded) = (0, 0);
    while let Some(rest) = inside.get(at..).filter(|rest| !rest.is_empty()) {
        let (spelt, bytes) = character(rest);
        if at + spelt > most || decoded + bytes > most_decoded {
            break;
        }
        at += spelt;
        decoded += bytes;
    }
    at.min(inside.len())
}

/// How many bytes the first character takes: as spelt, and decoded.
fn character(inside: &[u8]) -> (usize, usize) {
    match inside {
        [b'\\', b'u', ..] => match code(inside) {
            Some(0..=0x7f) => (6, 1),
            Some(0x80..=0x7ff) => (6, 2),
            Some(0xd800..=0xdbff) if inside.get(6..).is_some_and(is_second_half) => (12, 4),
            _ => (6, 3),
        },
        [b'\\', ..] => (2, 1),
        [0xf0..=0xff, ..] => (4, 4),
        [0xe0..=0xef, ..] => (3, 3),
        [0x80..=0xdf, ..] => (2, 2),
        _ => (1, 1),
    }
}

/// The code of the `\uXXXX` that `text` begins with.
pub(super) fn code(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |code, b| Some(code * 16 + char::from(*b).to_digit(16)?))
}

/// Whether `text` begins with the second half of a surrogate pair.
pub(super) fn is_second_half(text: &[u8]) -> bool {
    matches!(code(text), Some(0xdc00..=0xdfff))
}

/// Appends `text` as a JSON string. It must hold no control characters.
pub(super) fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + text.len() / 8 + 2);
    out.push(b'"');
    let mut rest = text;
    while !rest.is_empty() {
        let plain = take(&mut rest, plain);
        out.extend_from_slice(plain);
        if let [byte] = take(&mut rest, |_| 1) {
            out.extend_from_slice(&[b'\\', *byte]);
        }
    }
    out.push(b'"');
}

/// What stands between the quotes of a string, or the brackets of a container.
pub(super) fn inside(value: &[u8]) -> &[u8] {
    value.get(1..value.len().saturating_sub(1)).unwrap_or_default()
}

/// What a string with its quotes means, if it means anything.
pub(super) fn decoded(string: &[u8]) -> Option<Cow<'_, str>> {
    if string.contains(&b'\\') {
        return serde_json::from_slice::<String>(string).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inside(string)).ok().map(Cow::Borrowed)
}

/// Appends `text`, in which each container on this level (1: one that is in nothing) has become a string.
pub(super) fn containers_as_strings(text: &[u8], level: usize, out: &mut Vec<u8>) {
    let (mut rest, mut open) = (text, 0);
    while let Some(byte) = rest.first() {
        match byte {
            b'"' => out.extend_from_slice(take(&mut rest, string_length)),
            b'{' | b'[' if open + 1 == level => quote(take(&mut rest, container_length), out),
            byte => {
                open += usize::from(matches!(byte, b'{' | b'['));
                open -= usize::from(matches!(byte, b'}' | b']'));
                out.push(*byte);
                take(&mut rest, |_| 1);
            }
        }
    }
}

/// The beginning of a text, `most` bytes at most: whole characters.
pub(super) fn beginning(text: &[u8], most: usize) -> &[u8] {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = most.min(text.len());
    while end > 0 && is_inside(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// Appends any text as a JSON string.
pub(super) fn quote_text(text: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_parts_of_containers_are_found_whatever_is_in_strings() {
        let object = br#"{"a\"":"}\\","b":[{},"]",1],"":-1.5e3,"c":{"d":null}}"#;
        let parts: Vec<_> = Items::of(object).map(|p| (text(p.key), text(p.value))).collect();
        let expected = [
            ("\"a\\\"\"", "\"}\\\\\""),
            ("\"b\"", "[{},\"]\",1]"),
            ("\"\"", "-1.5e3"),
            ("\"c\"", "{\"d\":null}"),
        ];
        assert_eq!(parts, expected);
        let texts = Items::of(object).map(|part| text(part.text)).collect::<Vec<_>>();
        assert_eq!(texts[2], "\"\":-1.5e3");
        let parts: Vec<_> = Items::of(b"[1,[2],\"3\"]").map(|part| text(part.value)).collect();
        assert_eq!(parts, ["1", "[2]", "\"3\""]);
        assert_eq!(Items::of(b"{}").count() + Items::of(b"[]").count(), 0);
        assert_eq!(Items::members(b"\"a\":1,\"b\":{},").count(), 2);
    }

    #[test]
    fn strings_are_cut_between_characters() {
        // Inside, bytes as spelt, bytes decoded, what is left.
        let table = [
            ("abc", 9, 9, "abc"),
            ("abc", 2, 9, "ab"),
            ("abc", 9, 2, "ab"),
            ("", 0, 0, ""),
            ("aü", 2, 9, "a"),
            ("aü", 9, 2, "a"),
            ("日本", 5, 9, "日"),
            ("a😀", 4, 9, "a"),
            (r#"a\"b"#, 2, 9, "a"),
            (r#"a\"b"#, 3, 9, r#"a\""#),
            (r"\\\\", 3, 9, r"\\"),
            (r"\u00fcx", 5, 9, ""),
            (r"\u00fcx", 9, 2, r"\u00fc"),
            (r"\u65e5x", 9, 2, ""),
            (r"\u0041x", 9, 1, r"\u0041"),
            (r"\ud83d\ude00x", 11, 9, ""),
            (r"\ud83d\ude00x", 12, 9, r"\ud83d\ude00"),
            (r"\ud83d\ude00x", 99, 3, ""),
        ];
        for (inside, most, decoded, left) in table {
            let length = cut(inside.as_bytes(), most, decoded);
            assert_eq!(&inside[..length], left, "{inside} {most} {decoded}");
        }
    }

    proptest! {
        #[test]
        fn plain_bytes_end_where_a_slow_look_finds_their_end(
            bytes in prop::collection::vec(prop_oneof![4 => 0x20..0x80_u8, 1 => any::<u8>()], 0..40),
        ) {
            let special = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\';
            let slow = bytes.iter().position(special).unwrap_or(bytes.len());
            prop_assert_eq!(plain(&bytes), slow);
        }

        #[test]
        fn what_is_cut_is_a_string_no_longer_than_asked_for(
            string in "[a\"\\\\ü日😀\\x01]{0,12}", most in 0..40_usize, decoded in 0..20_usize,
        ) {
            let spelt = Value::from(string.clone()).to_string();
            let inside = &spelt[1..spelt.len() - 1];
            let length = cut(inside.as_bytes(), most, decoded);
            let left: String = serde_json::from_str(&format!("\"{}\"", &inside[..length])).unwrap();
            prop_assert!(string.starts_with(&left) && left.len() <= decoded && length <= most);
            // One character more would be too many.
            if let Some(next) = string[left.len()..].chars().next() {
                let more = Value::from(next.to_string()).to_string().len() - 2;
                prop_assert!(length + more > most || left.len() + next.len_utf8() > decoded);
            }
        }

        #[test]
        fn a_quoted_text_means_that_text(text in "[a-c\"\\\\{}ü]{0,30}") {
            let mut out = Vec::new();
            quote(text.as_bytes(), &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
