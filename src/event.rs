//! Makes one line of output of one record: Wazuh's envelope around the record as Microsoft sent
//! it, and nothing changed but what would break the line itself.
//!
//! The record is checked against the JSON grammar (RFC 8259) while it is copied: a line that is no
//! JSON would match no rule in Wazuh, so it would be lost there without a word.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

use crate::content::ContentType;

const HEAD: &[u8] = br#"{"integration":"office365","office365":{"#;

/// The member that names the stream; ours is written last, one that a record brings is left out.
const SUBSCRIPTION: &[u8] = b"Subscription";

/// An element that can't be made an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is valid up to here, but no object.
    NoObject,
    /// It is no JSON.
    Malformed,
}

/// Appends the line for `record` to `out`, its newline included.
///
/// White space between tokens is removed; every value keeps its spelling. Bad UTF-8 becomes
/// U+FFFD, a raw control character in a string is escaped: Wazuh would cut the line there.
/// Returns where in `out` the value of the record's `Id` stands, as JSON.
///
/// # Errors
/// The record is no object or no JSON; `out` is then as it was.
pub fn append_line(
    record: &[u8],
    content_type: ContentType,
    out: &mut Vec<u8>,
) -> Result<Option<Range<usize>>, Unusable> {
    let record = match std::str::from_utf8(record) {
        Ok(_) => Cow::Borrowed(record),
        Err(_) => Cow::Owned(String::from_utf8_lossy(record).into_owned().into_bytes()),
    };
    let before = out.len();
    out.extend_from_slice(HEAD);
    let mut copy = Copy { record: &record, at: 0, out };
    match copy.top_level() {
        Ok(id) => {
            out.extend_from_slice(b"\"Subscription\":\"");
            out.extend_from_slice(content_type.name().as_bytes());
            out.extend_from_slice(b"\"}}\n");
            Ok(id)
        }
        Err(unusable) => {
            out.truncate(before);
            Err(unusable)
        }
    }
}

/// Copies JSON from `record` to `out` token by token.
struct Copy<'a> {
    record: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
}

impl Copy<'_> {
    /// Copies the members of the record's object, each followed by a comma.
    fn top_level(&mut self) -> Result<Option<Range<usize>>, Unusable> {
        let mut id = None;
        self.skip_white();
        if self.peek() != Some(b'{') {
            return Err(Unusable::NoObject);
        }
        self.at += 1;
        self.skip_white();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let member = self.out.len();
                self.skip_white();
                self.string()?;
                let key = self.out.get(member + 1..self.out.len() - 1).unwrap_or_default();
                let (is_subscription, is_id) = (names(key, SUBSCRIPTION), names(key, b"Id"));
                self.skip_white();
                self.expect(b':')?;
                let value = self.out.len();
                self.value()?;
                if is_subscription {
                    self.out.truncate(member);
                } else {
                    if is_id {
                        id = Some(value..self.out.len());
                    }
                    self.out.push(b',');
                }
                self.skip_white();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(Unusable::Malformed),
                }
            }
        }
        self.skip_white();
        match self.peek() {
            None => Ok(id),
            Some(_) => Err(Unusable::Malformed),
        }
    }

    /// Copies one value of any depth, without recursion.
    fn value(&mut self) -> Result<(), Unusable> {
        // The closing bracket of each container that is open.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.skip_white();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    self.out.push(bracket);
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    self.skip_white();
                    if self.peek() == Some(close) {
                        self.at += 1;
                        self.out.push(close);
                    } else {
                        open.push(close);
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(Unusable::Malformed),
            }
            // Behind a value: close what ends here, up to the comma before the next value.
            loop {
                let Some(close) = open.last().copied() else {
                    return Ok(());
                };
                self.skip_white();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.out.push(b',');
                        if close == b'}' {
                            self.skip_white();
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        self.out.push(close);
                        open.pop();
                    }
                    _ => return Err(Unusable::Malformed),
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), Unusable> {
        self.string()?;
        self.skip_white();
        self.expect(b':')
    }

    fn string(&mut self) -> Result<(), Unusable> {
        if self.peek() != Some(b'"') {
            return Err(Unusable::Malformed);
        }
        let mut from = self.at;
        self.at += 1;
        loop {
            let rest = self.record.get(self.at..).unwrap_or_default();
            let plain = memchr2(b'"', b'\\', rest).ok_or(Unusable::Malformed)?;
            let controls = rest.iter().take(plain).fold(false, |found, b| found | (*b < 0x20));
            if controls {
                self.escape_controls(from, plain);
                from = self.at;
            } else {
                self.at += plain;
            }
            if self.peek() == Some(b'"') {
                self.at += 1;
                self.out.extend_from_slice(self.record.get(from..self.at).unwrap_or_default());
                return Ok(());
            }
            self.escape_sequence()?;
        }
    }

    /// Copies from `from` over the next `plain` bytes, with control characters escaped.
    fn escape_controls(&mut self, from: usize, plain: usize) {
        let end = self.at + plain;
        for byte in self.record.get(from..end).unwrap_or_default() {
            if *byte < 0x20 {
                self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            } else {
                self.out.push(*byte);
            }
        }
        self.at = end;
    }

    /// Steps over a backslash and what belongs to it; it is copied with the string's plain parts.
    fn escape_sequence(&mut self) -> Result<(), Unusable> {
        self.at += 1;
        let length = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') => {
                let digits = self.record.get(self.at + 1..self.at + 5).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Unusable::Malformed);
                }
                5
            }
            _ => return Err(Unusable::Malformed),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Unusable> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        self.out.extend_from_slice(self.record.get(from..self.at).unwrap_or_default());
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Unusable> {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { Err(Unusable::Malformed) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Unusable> {
        let rest = self.record.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(Unusable::Malformed);
        }
        self.at += word.len();
        self.out.extend_from_slice(word);
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unusable> {
        if self.peek() != Some(byte) {
            return Err(Unusable::Malformed);
        }
        self.at += 1;
        self.out.push(byte);
        Ok(())
    }

    fn skip_white(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.record.get(self.at).copied()
    }
}

/// Whether a key, as spelt between its quotes, is `name`: escapes may hide it.
fn names(key: &[u8], name: &[u8]) -> bool {
    if !key.contains(&b'\\') {
        return key == name;
    }
    let quoted = [b"\"", key, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|key| key.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn line(record: &[u8]) -> Result<String, Unusable> {
        let mut out = b"before".to_vec();
        let result = append_line(record, ContentType::Exchange, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("before"));
        result.map(|_| text["before".len()..].to_owned())
    }

    fn wrapped(members: &str) -> String {
        format!(
            "{{\"integration\":\"office365\",\"office365\":{{{members}\"Subscription\":\"Audit.Exchange\"}}}}\n"
        )
    }

    #[test]
    fn records_keep_their_spelling_but_for_white_space() {
        let table = [
            ("{}", ""),
            (" {\r\n} ", ""),
            (r#"{"Id":"1"}"#, r#""Id":"1","#),
            (
                "{\n  \"b\" : 1.10 ,\t\"a\": [ 1234567890.125, -0.0E+5 , [ ] , { } ]\n}",
                r#""b":1.10,"a":[1234567890.125,-0.0E+5,[],{}],"#,
            ),
            (r#"{"p":"C:\\ \/\u003c \" "}"#, r#""p":"C:\\ \/\u003c \" ","#),
            (
                r#"{"ü":"日本 😀","n":null,"t":true,"f":false}"#,
                r#""ü":"日本 😀","n":null,"t":true,"f":false,"#,
            ),
            (r#"{"a":{"Subscription":1},"a":2}"#, r#""a":{"Subscription":1},"a":2,"#),
            (r#"{"Subscription":"x","a":1}"#, r#""a":1,"#),
            (r#"{"a":1,"Subscription":{"x":[]}}"#, r#""a":1,"#),
            (r#"{"Su\u0062scription":1}"#, ""),
            ("{\"a\":\"x\ny\\tz\u{1}\"}", r#""a":"x\u000ay\tz\u0001","#),
        ];
        for (record, members) in table {
            assert_eq!(line(record.as_bytes()), Ok(wrapped(members)), "{record}");
        }
        assert_eq!(line(b"{\"a\":\"\xff\"}"), Ok(wrapped("\"a\":\"\u{fffd}\",")));
    }

    #[test]
    fn the_id_is_found_for_going_on_in_the_middle() {
        let mut out = Vec::new();
        let id = append_line(br#"{"x":{"Id":"no"}, "Id" : "yes"}"#, ContentType::Dlp, &mut out);
        assert_eq!(&out[id.unwrap().unwrap()], b"\"yes\"");
        assert_eq!(append_line(b"{}", ContentType::Dlp, &mut out), Ok(None));
    }

    #[test]
    fn what_is_no_object_or_no_json_is_refused_and_leaves_nothing_behind() {
        for text in ["1", "[]", "\"{}\"", "null", ""] {
            assert_eq!(line(text.as_bytes()), Err(Unusable::NoObject), "{text}");
        }
        for text in [
            "{",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":tru}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":1e}",
            "{\"a\":+1}",
            "{\"a\":NaN}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":[1}}",
            "{\"a\":[1,]}",
            "{\"a\":{\"b\":1]}",
            "{}{}",
            "{\"a\":1 2}",
            "{\"a\":\"b}",
        ] {
            assert!(line(text.as_bytes()) == Err(Unusable::Malformed), "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(line(deep.as_bytes()).unwrap().len() > 2_000_000);
    }

    proptest! {
        #[test]
        fn whatever_serde_json_reads_comes_out_the_same(
            members in prop::collection::btree_map("[a-zA-Z\"\\\\ü]{1,5}", "\\PC{0,10}", 0..8),
            pretty in any::<bool>(),
        ) {
            let record = serde_json::to_value(&members).unwrap();
            let text = if pretty { format!("{record:#}") } else { record.to_string() };
            let line: Value = serde_json::from_str(&line(text.as_bytes()).unwrap()).unwrap();
            let mut expected = record;
            expected["Subscription"] = "Audit.Exchange".into();
            prop_assert_eq!(&line["office365"], &expected);
        }

        #[test]
        fn a_line_is_json_and_accepted_just_when_serde_json_accepts_the_record(
            text in r#"\{("[a-c\\u0-9" ]{0,6}":[-0-9eE.tnulra\[\]{}",\\ ]{0,9},?){0,3}\}"#,
        ) {
            let object = serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object());
            // serde_json refuses numbers beyond f64, lone surrogates and double keys differently; only
            // what it accepts must be accepted, and only JSON may come out.
            match line(text.as_bytes()) {
                Ok(line) => {
                    prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok());
                }
                Err(_) => prop_assert!(!object, "{}", text),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(record in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            if append_line(&record, ContentType::Dlp, &mut out).is_ok() {
                prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
                prop_assert!(std::str::from_utf8(&out).is_ok());
            }
        }
    }
}
