//! JSON as cJSON reads it: the grammar of Wazuh's decoder, which is more lenient than RFC 8259.

use crate::grammar::{self, Grammar, digits};
use crate::json::Json;

/// cJSON hands at most this many characters of a number to `strtod`.
const MAX_NUMBER: usize = 63;

/// Reads the value at the start of the text. What follows it is ignored, as `cJSON_ParseWithOpts`
/// does when it is not asked for the end of the text. Strings end at U+0000, because they are C
/// strings.
pub fn read(text: &[u8]) -> Option<Json> {
    grammar::value::<CJson>(text).ok().map(|(value, _)| value)
}

/// Whether cJSON takes the whole text as an array, with nothing behind it. Wazuh turns such a
/// string into an array.
pub fn takes_all(text: &str) -> bool {
    array(text).is_some()
}

/// The array that Wazuh makes of a text. `None` if the text stays a string.
pub fn array(text: &str) -> Option<Json> {
    if !text.starts_with('[') {
        return None;
    }
    let (value, end) = grammar::value::<CJson>(text.as_bytes()).ok()?;
    (end == text.len()).then_some(value)
}

struct CJson;

impl Grammar for CJson {
    fn is_blank(byte: u8) -> bool {
        byte <= 0x20
    }

    fn number(text: &[u8]) -> Option<usize> {
        let collected = text
            .iter()
            .take(MAX_NUMBER)
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'e' | b'E' | b'.'))
            .count();
        strtod(&text[..collected])
    }

    fn string(text: &[u8]) -> Option<(String, usize)> {
        let end = closing_quote(text)?;
        let mut decoded = unescape(&text[1..end])?;
        if let Some(nul) = decoded.iter().position(|&byte| byte == 0) {
            decoded.truncate(nul);
        }
        Some((String::from_utf8_lossy(&decoded).into_owned(), end + 1))
    }
}

/// How much of the text `strtod` takes.
fn strtod(text: &[u8]) -> Option<usize> {
    let mut at = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let whole = digits(&text[at..]);
    at += whole;
    let mut fraction = 0;
    if text.get(at) == Some(&b'.') {
        fraction = digits(&text[at + 1..]);
        at += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let start = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = text.get(start..).map_or(0, digits);
        if exponent > 0 {
            at = start + exponent;
        }
    }
    Some(at)
}

/// The position of the quote that ends the string.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn unescape(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        if byte != b'\\' {
            out.push(byte);
            text = rest;
            continue;
        }
        let mut length = 2;
        match *rest.first()? {
            byte @ (b'"' | b'\\' | b'/') => out.push(byte),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let (character, taken) = utf16(text)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                length = taken;
            }
            _ => return None,
        }
        text = &text[length..];
    }
    Some(out)
}

/// The character of one `\uXXXX` or of a pair of them, and how many bytes it took.
fn utf16(text: &[u8]) -> Option<(char, usize)> {
    let first = hex4(text)?;
    if !(0xD800..0xDC00).contains(&first) {
        // A low surrogate that comes first is no character.
        return Some((char::from_u32(first)?, 6));
    }
    let pair = text[6..].starts_with(b"\\u");
    let second = hex4(&text[6..]).filter(|second| pair && (0xDC00..0xE000).contains(second))?;
    Some((char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?, 12))
}

/// The code unit behind `\u`; 0 if a digit is not hexadecimal. `None` if the text is too short.
fn hex4(text: &[u8]) -> Option<u32> {
    let hex = text.get(2..6)?;
    let code =
        hex.iter().try_fold(0, |code, &byte| Some(code * 16 + char::from(byte).to_digit(16)?));
    Some(code.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_more_than_json_allows() {
        for text in [
            "[]",
            "[1]",
            "[{}]",
            "[01]",
            "[1.]",
            "[-.5]",
            "[-01.e5]",
            "[\"a\tb\"]",
            "[\u{1}1\u{2},\u{b}2]",
            "[\"\\u00zz\"]",
            "[\"\\u0000\"]",
            "[\"\\ud83d\\ude00\"]",
            "[null,true,false]",
            "[{\"a\":[1]}]",
            "[\"\u{e9}\"]",
            "[1e5]",
            "[\"\\u12\\\"4\"]",
        ] {
            assert!(takes_all(text), "{text}");
        }
        assert!(takes_all(&format!("[{}]", "1".repeat(63))));
    }

    #[test]
    fn leaves_other_texts_alone() {
        for text in [
            "",
            " [1]",
            "[1] ",
            "[1]x",
            "[1][2]",
            "[NaN]",
            "[1,]",
            "[,1]",
            "[External]",
            "[1.2.3]",
            "[1-2]",
            "[+1]",
            "[.5]",
            "[-]",
            "[1e]",
            "[0x1]",
            "[\"\\x\"]",
            "[\"\\u12\"]",
            "[\"\\udc00\"]",
            "[\"\\ud800\"]",
            "[\"\\ud800\\u0041\"]",
            "[\"\\ud83dxude00\"]",
            "[\"a]",
            "[\"a\\",
            "[",
            "[1",
            "[{\"a\"}]",
            "[{a:1}]",
            "[nullx]",
            "[True]",
            "{}",
            "1",
        ] {
            assert!(!takes_all(text), "{text}");
        }
        assert!(!takes_all(&format!("[{}]", "1".repeat(64))));
    }

    #[test]
    fn nests_a_thousand_levels() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(takes_all(&nested(1_000)));
        assert!(!takes_all(&nested(1_001)));
        assert!(!takes_all(&nested(100_000)));
    }

    #[test]
    fn reads_a_line_up_to_its_end() {
        assert_eq!(read(b"{\"a\":01}x").unwrap().to_compact(), "{\"a\":01}");
        assert_eq!(read(b"{\"a\\u0000b\":\"c\\u0000d\"}").unwrap().to_compact(), "{\"a\":\"c\"}");
        assert_eq!(read(b"{\"a\":\"\xff\"}").unwrap().to_compact(), "{\"a\":\"\u{FFFD}\"}");
        assert_eq!(read(b"{\"a\":1"), None);
    }
}
