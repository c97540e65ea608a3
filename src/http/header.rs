//! A header of an answer. One that is there and cannot be used is never taken for one that is not there:
//! a link that cannot be read is not the end of a list.

use ureq::http::HeaderMap;

/// What an answer says in one of its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header<T> {
    /// The answer does not have it.
    Absent,
    /// Its value.
    Usable(T),
    /// It is there, and why it cannot be used: words that fit behind "the header X".
    Unusable(&'static str),
}

impl<T> Header<T> {
    /// Reads the header `name`, which must be there at most once. `parse` gets its text without white
    /// space around it, never empty, and says what is wrong with it.
    pub(super) fn read(
        headers: &HeaderMap,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Self {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Self::Absent;
        };
        if values.next().is_some() {
            return Self::Unusable("is given more than once");
        }
        let parsed = match value.to_str().map(str::trim) {
            Err(_) => Err("holds characters other than ASCII"),
            Ok("") => Err("is empty"),
            Ok(text) => parse(text),
        };
        parsed.map_or_else(Self::Unusable, Self::Usable)
    }

    /// Its value, if it has one that can be used.
    pub fn usable(self) -> Option<T> {
        match self {
            Self::Usable(value) => Some(value),
            Self::Absent | Self::Unusable(_) => None,
        }
    }

    /// Why it cannot be used, if it is there and cannot.
    pub fn unusable(&self) -> Option<&'static str> {
        match self {
            Self::Unusable(why) => Some(why),
            Self::Absent | Self::Usable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    #[test]
    fn a_header_is_absent_usable_or_unusable() {
        let table: [(&[&[u8]], Header<String>); 8] = [
            (&[], Header::Absent),
            (&[b" a "], Header::Usable("a".to_owned())),
            (&[b""], Header::Unusable("is empty")),
            (&[b"  "], Header::Unusable("is empty")),
            (&["\u{e9}".as_bytes()], Header::Unusable("holds characters other than ASCII")),
            (&[b"a\xff"], Header::Unusable("holds characters other than ASCII")),
            (&[b"a", b"a"], Header::Unusable("is given more than once")),
            (&[b"bad"], Header::Unusable("is bad")),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("NextPageUri", HeaderValue::from_bytes(value).unwrap());
            }
            let parse = |text: &str| match text {
                "bad" => Err("is bad"),
                good => Ok(good.to_owned()),
            };
            assert_eq!(Header::read(&headers, "nextpageuri", parse), expected, "{values:?}");
        }
    }
}
