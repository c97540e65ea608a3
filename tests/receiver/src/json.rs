//! JSON as RFC 8259 has it. Order, duplicate names and the spelling of numbers are kept.

use crate::grammar::{self, Fault, Grammar, digits};

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it was spelt.
    Number(String),
    /// A string, decoded.
    String(String),
    /// The elements in their order.
    Array(Vec<Json>),
    /// The members in their order. A name can occur more than once.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The first member of an object that has exactly this name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        let Json::Object(members) = self else { return None };
        members.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Json::String(text) = self { Some(text) } else { None }
    }

    /// The value without white space between tokens.
    pub fn to_compact(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(spelling) => out.push_str(spelling),
            Json::String(text) => write_string(text, out),
            Json::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_string(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..'\x20' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Why a record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not JSON.
    Invalid,
    /// It is nested more than 1,000 levels deep.
    TooDeep,
}

/// Reads strict JSON in UTF-8. `None` if it is invalid, has a half surrogate pair, or is nested
/// more than 1,000 levels deep.
pub fn parse(text: &[u8]) -> Option<Json> {
    std::str::from_utf8(text).ok()?;
    whole::<Strict>(text).ok()
}

/// Reads a record as Microsoft may send it: bad UTF-8 and half surrogate pairs become U+FFFD, and
/// raw control characters are allowed in strings.
pub fn parse_as_sent(text: &[u8]) -> Result<Json, Unreadable> {
    let text = String::from_utf8_lossy(text);
    whole::<AsSent>(text.as_bytes()).map_err(|fault| match fault {
        Fault::Invalid => Unreadable::Invalid,
        Fault::TooDeep => Unreadable::TooDeep,
    })
}

/// Whether the text is a JSON number.
pub(crate) fn is_number(text: &str) -> bool {
    number(text.as_bytes()) == Some(text.len())
}

fn whole<G: Grammar>(text: &[u8]) -> Result<Json, Fault> {
    let (value, end) = grammar::value::<G>(text)?;
    if text[end..].iter().all(|&byte| G::is_blank(byte)) { Ok(value) } else { Err(Fault::Invalid) }
}

struct Strict;

impl Grammar for Strict {
    fn is_blank(byte: u8) -> bool {
        is_blank(byte)
    }

    fn number(text: &[u8]) -> Option<usize> {
        number(text)
    }

    fn string(text: &[u8]) -> Option<(String, usize)> {
        string(text, true)
    }
}

struct AsSent;

impl Grammar for AsSent {
    fn is_blank(byte: u8) -> bool {
        is_blank(byte)
    }

    fn number(text: &[u8]) -> Option<usize> {
        number(text)
    }

    fn string(text: &[u8]) -> Option<(String, usize)> {
        string(text, false)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn number(text: &[u8]) -> Option<usize> {
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(&text[at..]);
    if whole == 0 || whole > 1 && text[at] == b'0' {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(&text[at + 1..]);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(&text[at..]);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}

fn string(text: &[u8], strict: bool) -> Option<(String, usize)> {
    let mut out = Vec::new();
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some((String::from_utf8(out).ok()?, at + 1)),
            b'\\' => {
                let (character, length) = escape(&text[at..], strict)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += length;
            }
            byte if byte < 0x20 && strict => return None,
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// The character that an escape stands for, and the escape's length.
fn escape(text: &[u8], strict: bool) -> Option<(char, usize)> {
    let character = match *text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(text, strict),
        _ => return None,
    };
    Some((character, 2))
}

fn unicode_escape(text: &[u8], strict: bool) -> Option<(char, usize)> {
    let first = hex4(text)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    if first < 0xDC00
        && let Some(second) = hex4(&text[6..])
        && (0xDC00..0xE000).contains(&second)
    {
        let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return Some((char::from_u32(code)?, 12));
    }
    if strict { None } else { Some(('\u{FFFD}', 6)) }
}

/// The code unit of the `\uXXXX` at the start of the text.
fn hex4(text: &[u8]) -> Option<u32> {
    let hex = text.strip_prefix(b"\\u")?.get(..4)?;
    hex.iter().try_fold(0, |code, &byte| Some(code * 16 + char::from(byte).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(text: &str) -> Option<String> {
        parse(text.as_bytes()).map(|json| json.to_compact())
    }

    #[test]
    fn reads_valid_json() {
        for (text, expected) in [
            (
                r#" { "a" : [ 1 , -0.50e+1 , { } , [ ] ] , "a" : null } "#,
                r#"{"a":[1,-0.50e+1,{},[]],"a":null}"#,
            ),
            (r#""\u0041\n\/\ud83d\ude00é""#, "\"A\\n/😀é\""),
            ("true", "true"),
            ("\"\\u0000\\u001f\"", "\"\\u0000\\u001f\""),
        ] {
            assert_eq!(compact(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn rejects_invalid_json() {
        for text in [
            "",
            " ",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "1e+",
            "nul",
            "truex",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "[1",
            "{\"a\":1",
            "\"a",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "1 2",
            "\u{a0}1",
            "[1}",
            "{\"a\":1]",
        ] {
            assert_eq!(compact(text), None, "{text}");
        }
        assert_eq!(parse(b"\"\xff\""), None);
    }

    #[test]
    fn bounds_the_depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(1_000).as_bytes()).is_some());
        assert!(parse(nested(1_001).as_bytes()).is_none());
        assert!(parse("[".repeat(100_000).as_bytes()).is_none());
        let deep = nested(100_000);
        assert_eq!(parse_as_sent(deep.as_bytes()), Err(Unreadable::TooDeep));
    }

    #[test]
    fn reads_records_as_sent() {
        for (text, expected) in [
            (&b"\"\xff\""[..], "\u{FFFD}"),
            (b"\"\\ud800\"", "\u{FFFD}"),
            (b"\"\\ud800\\u0041\"", "\u{FFFD}A"),
            (b"\"\\ud800\\ud83d\\ude00\"", "\u{FFFD}😀"),
            (b"\"\x01\0\"", "\u{1}\0"),
        ] {
            assert_eq!(parse_as_sent(text), Ok(Json::String(expected.into())));
        }
        assert_eq!(parse_as_sent(b"\xff"), Err(Unreadable::Invalid));
    }

    #[test]
    fn looks_up_exact_names() {
        let json = parse(br#"{"a":1,"A":2,"a":3}"#).unwrap();
        assert_eq!(json.get("A"), Some(&Json::Number("2".into())));
        assert_eq!(json.get("a"), Some(&Json::Number("1".into())));
        assert_eq!(json.get("b"), None);
    }
}
