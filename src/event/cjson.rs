//! Which strings Wazuh reads as lists.
//!
//! When analysisd writes an alert, a string outside arrays that begins with `[` becomes an array if
//! cJSON takes all of it (measured on 4.14.7; `W_JSON_AddField`, `cJSON_ParseWithOpts`). cJSON takes more
//! than JSON: raw control characters, `01`, `1.`, and as white space all that is not above a blank.

/// The most containers that may be open in each other.
const MAX_LEVELS: usize = 1000;

/// The most characters of a number; what is behind them belongs to the next token.
const MAX_NUMBER: usize = 63;

/// Whether cJSON takes all of `text` as an array.
pub(super) fn is_list(text: &str) -> bool {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    text.starts_with('[') && reader.value().is_some() && reader.at == text.len()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Steps over a value of any depth, without recursion.
    fn value(&mut self) -> Option<()> {
        // The closing brackets of what is open.
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b'[' | b'{' if open.len() == MAX_LEVELS => return None,
                bracket @ (b'[' | b'{') => {
                    let close = if bracket == b'[' { b']' } else { b'}' };
                    self.at += 1;
                    self.white();
                    if self.peek()? == close {
                        self.at += 1;
                    } else {
                        open.push(close);
                        self.key(close)?;
                        continue;
                    }
                }
                _ => self.literal()?,
            }
            // Behind a value.
            loop {
                let Some(close) = open.last().copied() else {
                    return Some(());
                };
                self.white();
                let byte = self.peek()?;
                self.at += 1;
                if byte == b',' {
                    self.white();
                    self.key(close)?;
                    break;
                }
                if byte != close {
                    return None;
                }
                open.pop();
            }
        }
    }

    /// Steps over a key and its colon, if `close` is what ends an object.
    fn key(&mut self, close: u8) -> Option<()> {
        if close == b'}' {
            self.string()?;
            self.white();
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.white();
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        let from = self.at + 1;
        let mut end = from;
        while *self.text.get(end)? != b'"' {
            end += if self.text.get(end) == Some(&b'\\') { 2 } else { 1 };
        }
        let mut rest = self.text.get(from..end)?;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            let escape = rest.get(at..)?;
            let length = match escape {
                [_, b'b' | b'f' | b'n' | b'r' | b't' | b'"' | b'\\' | b'/', ..] => 2,
                [_, b'u', ..] => unicode(escape)?,
                _ => return None,
            };
            rest = escape.get(length..)?;
        }
        self.at = end + 1;
        Some(())
    }

    /// What strtod takes of the characters that may be of a number.
    fn number(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        let is_of_number = |b: &&u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'e' | b'E' | b'.');
        let length = rest.iter().take(MAX_NUMBER).take_while(is_of_number).count();
        let number = rest.get(..length)?;
        let digits = |from: usize| {
            let rest = number.get(from..).unwrap_or_default();
            rest.iter().take_while(|b| b.is_ascii_digit()).count()
        };
        let mut at = usize::from(number.first() == Some(&b'-'));
        let whole = digits(at);
        at += whole;
        let mut fraction = 0;
        if number.get(at) == Some(&b'.') {
            fraction = digits(at + 1);
            at += 1 + fraction;
        }
        if whole + fraction == 0 {
            return None;
        }
        if let Some(b'e' | b'E') = number.get(at) {
            let sign = usize::from(matches!(number.get(at + 1), Some(b'+' | b'-')));
            let power = digits(at + 1 + sign);
            if power > 0 {
                at += 1 + sign + power;
            }
        }
        self.at += at;
        Some(())
    }

    fn literal(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        let literals: [&[u8]; 3] = [b"null", b"false", b"true"];
        self.at += literals.into_iter().find(|word| rest.starts_with(word))?.len();
        Some(())
    }

    fn white(&mut self) {
        while self.text.get(self.at).is_some_and(|byte| *byte <= b' ') {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

/// The length of the `\u` escape that `text`, which ends where its string does, begins with. Digits that
/// are none make it 0; half a surrogate pair is refused.
fn unicode(text: &[u8]) -> Option<usize> {
    let code = |text: &[u8]| {
        let digits = text.get(2..6)?;
        let value = |code: u32, digit: &u8| Some(code * 16 + char::from(*digit).to_digit(16)?);
        Some(digits.iter().try_fold(0, value).unwrap_or(0))
    };
    match code(text)? {
        0xdc00..=0xdfff => None,
        0xd800..=0xdbff => {
            let second = text.get(6..).filter(|second| second.starts_with(b"\\u"))?;
            matches!(code(second)?, 0xdc00..=0xdfff).then_some(12)
        }
        _ => Some(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_lists_just_where_cjson_takes_them() {
        let lists = [
            "[]",
            "[ ]",
            "[1]",
            "[{}]",
            "[01]",
            "[1.]",
            "[-.5]",
            "[1e5]",
            "[-0]",
            "[ 1 , 2 ]",
            "[\"a\tb\"]",
            "[\u{1}1\u{1f}]",
            "[[[]],{\"a\":[true,false,null]}]",
            "[{\"a\" : 1 , \"b\":\"]\"}]",
            r#"["\u0041"]"#,
            r#"["\uZZZZ"]"#,
            r#"["\ud83d\ude00"]"#,
            r#"["\\\""]"#,
            "[\"\u{fc}\"]",
            "[\n\"a\"]",
        ];
        for text in lists {
            assert!(is_list(text), "{text}");
        }
        let texts = [
            "",
            "[",
            "]",
            "[1] ",
            " [1]",
            "[1]x",
            "[NaN]",
            "[1,]",
            "[,1]",
            "[External] hello",
            "[External]",
            "[x]",
            "[1 2]",
            "[1.2.3]",
            "[1-2]",
            "[+1]",
            "[.5]",
            "[-]",
            "[--1]",
            "[1e]",
            "[0x1]",
            "[\"a]",
            "[\"a\\\"]",
            r#"["\x"]"#,
            r#"["\u00"]"#,
            r#"["\ud83d"]"#,
            r#"["\ude00"]"#,
            r#"["\ud83d\u0041"]"#,
            "[{]",
            "[{\"a\"}]",
            "[{\"a\":}]",
            "[{a:1}]",
            "[{\"a\":1,}]",
            "[tru]",
            "[TRUE]",
            "[1]]",
            "[[1]",
            "{}",
            "1",
            "\"[1]\"",
            "[2001:db8::1]:443",
            "[1.2.3.4]",
        ];
        for text in texts {
            assert!(!is_list(text), "{text}");
        }
    }

    #[test]
    fn limits_are_those_of_cjson() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(is_list(&nested(1000)) && !is_list(&nested(1001)));
        assert!(!is_list(&"[".repeat(1 << 20)));
        let digits = |count: usize| format!("[{}]", "1".repeat(count));
        assert!(is_list(&digits(63)) && !is_list(&digits(64)));
    }
}
