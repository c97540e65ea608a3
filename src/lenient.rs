//! Members of a JSON answer whose kind of value is not to be relied on: one of the wrong kind costs that
//! member, not the whole answer, and is never taken for a member that is missing.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A text or a number, or what is there in its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar {
    /// It is missing, or null.
    #[default]
    Absent,
    /// A text.
    Text(String),
    /// A number.
    Number(f64),
    /// Any other kind of value.
    Other,
}

impl Scalar {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Number(_) | Self::Other => None,
        }
    }
}

/// For people: other kinds are shown as nothing.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Absent | Self::Other => Ok(()),
        }
    }
}

/// The first item of a list that is a whole number, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstNumber(pub Option<u64>);

/// What a value becomes. Nothing of it is kept but what is asked for: a large one costs no memory.
trait Take: Sized {
    const OTHER: Self;
    fn absent() -> Self {
        Self::OTHER
    }
    fn text(_: &str) -> Self {
        Self::OTHER
    }
    fn number(_: f64) -> Self {
        Self::OTHER
    }
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::OTHER)
    }
}

impl Take for Scalar {
    const OTHER: Self = Self::Other;
    fn absent() -> Self {
        Self::Absent
    }
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
    fn number(number: f64) -> Self {
        Self::Number(number)
    }
}

impl Take for FirstNumber {
    const OTHER: Self = Self(None);
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let first = items.next_element::<Scalar>()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at")]
        let whole = |number: f64| {
            let is_whole = number.fract() == 0.0 && (0.0..=9e15).contains(&number);
            is_whole.then_some(number as u64)
        };
        Ok(Self(match first {
            Some(Scalar::Number(number)) => whole(number),
            _ => None,
        }))
    }
}

struct Taker<T>(PhantomData<T>);

impl<'de, T: Take> Visitor<'de> for Taker<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::OTHER)
    }

    #[expect(clippy::cast_precision_loss, reason = "no number that counts is so large")]
    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "no number that counts is so large")]
    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        Ok(T::number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(text))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::absent())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<T, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(T::OTHER)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Taker(PhantomData))
    }
}

impl<'de> Deserialize<'de> for FirstNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Taker(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_any_kind_is_read() {
        let table = [
            ("null", Scalar::Absent, None),
            (r#""x""#, Scalar::Text("x".to_owned()), None),
            ("7", Scalar::Number(7.0), None),
            ("-7.5", Scalar::Number(-7.5), None),
            ("true", Scalar::Other, None),
            ("[7000215,{\"a\":[1]}]", Scalar::Other, Some(7_000_215)),
            ("[-1]", Scalar::Other, None),
            ("[\"7\",7]", Scalar::Other, None),
            ("[]", Scalar::Other, None),
            (r#"{"a":{"b":[1,"x"]}}"#, Scalar::Other, None),
        ];
        for (json, scalar, number) in table {
            assert_eq!(serde_json::from_str::<Scalar>(json).unwrap(), scalar, "{json}");
            let first = serde_json::from_str::<FirstNumber>(json).unwrap();
            assert_eq!(first, FirstNumber(number), "{json}");
        }
        assert!(serde_json::from_str::<Scalar>("[1,").is_err());
    }
}
