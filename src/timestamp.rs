//! Points in time, in whole seconds of UTC: the only time that the pure modules know.
//! Nothing here reads a clock.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::macros::format_description;

/// Seconds in a minute.
pub const MINUTE: i64 = 60;
/// Seconds in an hour.
pub const HOUR: i64 = 60 * MINUTE;
/// Seconds in a day.
pub const DAY: i64 = 24 * HOUR;

/// The last second that four-digit years can spell.
const LAST: i64 = 253_402_300_799;

const QUERY: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// A point in time: whole seconds since 1970-01-01 UTC, within the years 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From seconds since 1970; what lies outside the years 1970 to 9999 becomes the nearest end.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(0, LAST))
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// `seconds` later (or earlier, when negative).
    #[must_use]
    pub fn plus(self, seconds: i64) -> Self {
        Self::from_unix(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to here.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// Reads RFC 3339 as the API spells it: a fraction is dropped, a missing zone means UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339)
            .or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339))
            .ok()
            .map(|t| Self::from_unix(t.unix_timestamp()))
    }

    /// Reads the `Date` header of an HTTP answer (RFC 9110 §5.6.7, the preferred form).
    #[must_use]
    pub fn parse_http_date(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc2822).ok().map(|t| Self::from_unix(t.unix_timestamp()))
    }

    /// The form of `startTime` and `endTime`: `YYYY-MM-DDTHH:MM:SS`, UTC.
    #[must_use]
    pub fn query_form(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.0)
            .ok()
            .and_then(|t| t.format(QUERY).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", self.query_form())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

/// A length of time for people: `45 s`, `12 min`, `3.5 h`, `2.1 d`.
#[must_use]
pub fn age(seconds: i64) -> String {
    let tenths = |unit: i64| format!("{}.{}", seconds / unit, (seconds % unit) * 10 / unit);
    match seconds {
        s if s < 2 * MINUTE => format!("{s} s"),
        s if s < 2 * HOUR => format!("{} min", s / MINUTE),
        s if s < 2 * DAY => format!("{} h", tenths(HOUR)),
        _ => format!("{} d", tenths(DAY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_the_api() {
        let expected = Some(Timestamp(1_432_402_500));
        for text in [
            "2015-05-23T17:35:00.000Z",
            "2015-05-23T17:35:00Z",
            "2015-05-23T17:35:00",
            "2015-05-23T17:35:00.9999999",
            "2015-05-23T19:35:00+02:00",
        ] {
            assert_eq!(Timestamp::parse(text), expected, "{text}");
        }
        for text in ["", "now", "2015-05-23", "2015-13-23T17:35:00Z"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn reads_the_date_header() {
        let date = Timestamp::parse_http_date("Sat, 23 May 2015 17:35:00 GMT");
        assert_eq!(date, Some(Timestamp(1_432_402_500)));
        assert_eq!(Timestamp::parse_http_date("soon"), None);
    }

    #[test]
    fn writes_what_the_api_and_people_read() {
        let t = Timestamp::from_unix(1_432_402_500);
        assert_eq!(t.query_form(), "2015-05-23T17:35:00");
        assert_eq!(t.to_string(), "2015-05-23T17:35:00Z");
        assert_eq!(Timestamp::from_unix(i64::MIN).unix(), 0);
        assert_eq!(Timestamp::from_unix(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(age(119), "119 s");
        assert_eq!(age(5400), "90 min");
        assert_eq!(age(9000), "2.5 h");
        assert_eq!(age(8 * DAY + 2 * HOUR + 2 * HOUR), "8.1 d");
    }
}
