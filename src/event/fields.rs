//! How many fields Wazuh's decoder makes of a value, and a walk through objects as it makes it.
//!
//! The decoder flattens objects; an array is one field, `""` and `{}` are none. Behind the 256th it
//! keeps nothing, so a record whose `RecordType` comes late would match no rule.

use super::json::{take, value_length};

/// The fields of a value. A null is none: it is left out.
pub(super) fn fields_of(value: &[u8]) -> usize {
    match value {
        [b'{', inside @ .., b'}'] => {
            let mut walk = Walk::new(inside);
            let steps = std::iter::from_fn(|| walk.step());
            steps.filter(|step| matches!(step, Step::Field(value) if value != b"null")).count()
        }
        b"\"\"" | b"null" => 0,
        _ => 1,
    }
}

/// Steps through the members of an object and of those in it, but not through arrays.
pub(super) struct Walk<'a> {
    rest: &'a [u8],
    key_is_next: bool,
}

/// One token, or an array as a whole.
pub(super) enum Step<'a> {
    /// A key with its quotes; a colon follows it.
    Key(&'a [u8]),
    /// A value that is a field.
    Field(&'a [u8]),
    /// An empty string, which is none.
    Empty,
    Comma,
    /// Into an object.
    Open,
    /// Out of one.
    Close,
}

impl<'a> Walk<'a> {
    pub(super) fn new(members: &'a [u8]) -> Self {
        Self { rest: members, key_is_next: true }
    }

    pub(super) fn step(&mut self) -> Option<Step<'a>> {
        Some(match self.rest.first()? {
            b'}' => {
                take(&mut self.rest, |_| 1);
                Step::Close
            }
            b',' => {
                take(&mut self.rest, |_| 1);
                self.key_is_next = true;
                Step::Comma
            }
            _ if self.key_is_next => {
                self.key_is_next = false;
                let key = take(&mut self.rest, value_length);
                take(&mut self.rest, |_| 1);
                Step::Key(key)
            }
            b'{' => {
                take(&mut self.rest, |_| 1);
                self.key_is_next = true;
                Step::Open
            }
            _ => match take(&mut self.rest, value_length) {
                b"\"\"" => Step::Empty,
                value => Step::Field(value),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_as_wazuh_does() {
        let table = [
            ("1", 1),
            ("null", 0),
            ("\"\"", 0),
            ("\"x\"", 1),
            ("[]", 1),
            ("[{\"a\":1,\"b\":2}]", 1),
            ("{}", 0),
            ("{\"a\":{},\"b\":\"\",\"c\":null}", 0),
            ("{\"\":1}", 1),
            ("{\"a\":1,\"b\":{\"c\":[1,2],\"d\":{\"e\":1,\"f\":{}}},\"g\":\"}\"}", 4),
        ];
        for (value, fields) in table {
            assert_eq!(fields_of(value.as_bytes()), fields, "{value}");
        }
    }
}
