//! The part that all readers of JSON share: brackets, commas and literals, without recursion.

use crate::json::Json;

/// The deepest nesting that is read. It is also cJSON's limit.
pub(crate) const MAX_DEPTH: usize = 1_000;

/// Why a text was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Invalid,
    TooDeep,
}

/// What differs between the readers.
pub(crate) trait Grammar {
    /// Whether the byte may be between tokens.
    fn is_blank(byte: u8) -> bool;
    /// The length of the number at the start of the text.
    fn number(text: &[u8]) -> Option<usize>;
    /// The decoded string at the start of the text, and its length with both quotes.
    fn string(text: &[u8]) -> Option<(String, usize)>;
}

/// A container whose end has not been read yet. An object also holds the name of the member whose
/// value comes next.
enum Open {
    Array(Vec<Json>),
    Object(Vec<(String, Json)>, String),
}

/// Reads one value, and returns it with the position behind it.
pub(crate) fn value<G: Grammar>(text: &[u8]) -> Result<(Json, usize), Fault> {
    let mut reader = Reader::<G> { text, at: 0, grammar: std::marker::PhantomData };
    let mut open: Vec<Open> = Vec::new();
    loop {
        let first = reader.peek().ok_or(Fault::Invalid)?;
        if matches!(first, b'[' | b'{') && open.len() >= MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        let mut value = match first {
            b'[' => {
                reader.at += 1;
                if !reader.take(b']') {
                    open.push(Open::Array(Vec::new()));
                    continue;
                }
                Json::Array(Vec::new())
            }
            b'{' => {
                reader.at += 1;
                if !reader.take(b'}') {
                    open.push(Open::Object(Vec::new(), reader.name()?));
                    continue;
                }
                Json::Object(Vec::new())
            }
            _ => reader.scalar(first)?,
        };
        // The value may be the last one of several containers.
        loop {
            let next = if open.is_empty() { None } else { reader.peek() };
            match (open.pop(), next) {
                (None, _) => return Ok((value, reader.at)),
                (Some(Open::Array(mut items)), Some(b',' | b']')) => {
                    items.push(value);
                    reader.at += 1;
                    if next == Some(b',') {
                        open.push(Open::Array(items));
                        break;
                    }
                    value = Json::Array(items);
                }
                (Some(Open::Object(mut members, name)), Some(b',' | b'}')) => {
                    members.push((name, value));
                    reader.at += 1;
                    if next == Some(b',') {
                        open.push(Open::Object(members, reader.name()?));
                        break;
                    }
                    value = Json::Object(members);
                }
                _ => return Err(Fault::Invalid),
            }
        }
    }
}

struct Reader<'a, G> {
    text: &'a [u8],
    at: usize,
    grammar: std::marker::PhantomData<G>,
}

impl<G: Grammar> Reader<'_, G> {
    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|&byte| G::is_blank(byte)) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<String, Fault> {
        if self.peek() != Some(b'"') {
            return Err(Fault::Invalid);
        }
        let (name, length) = G::string(&self.text[self.at..]).ok_or(Fault::Invalid)?;
        self.at += length;
        if self.take(b':') { Ok(name) } else { Err(Fault::Invalid) }
    }

    fn scalar(&mut self, first: u8) -> Result<Json, Fault> {
        let rest = &self.text[self.at..];
        let literals =
            [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))];
        for (literal, value) in literals {
            if rest.starts_with(literal.as_bytes()) {
                self.at += literal.len();
                return Ok(value);
            }
        }
        let (value, length) = match first {
            b'"' => {
                let (text, length) = G::string(rest).ok_or(Fault::Invalid)?;
                (Json::String(text), length)
            }
            b'-' | b'0'..=b'9' => {
                let length = G::number(rest).ok_or(Fault::Invalid)?;
                (Json::Number(String::from_utf8_lossy(&rest[..length]).into_owned()), length)
            }
            _ => return Err(Fault::Invalid),
        };
        self.at += length;
        Ok(value)
    }
}

/// The length of the digits at the start of the text.
pub(crate) fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}
