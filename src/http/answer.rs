//! An answer: its head as far as it is of use, and its body, bounded and with its faults in words.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use ureq::http::{Response, Uri, Version};
use ureq::{Body, BodyReader, Timeout};
use zeroize::Zeroizing;

use super::explain::exceeded;
use super::header::Header;
use super::{Again, NoAnswer};
use crate::bounded::{read_at_most, read_holding, read_secretly};
use crate::memory::Holding;
use crate::timestamp::Timestamp;

/// What breaks off whatever is still in flight.
pub(super) const OVER: &str = "the run's time was over (run_timeout)";

/// An answer's head, with its body still to be read.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `Date`.
    pub date: Header<Timestamp>,
    /// The header `NextPageUri`: an absolute address.
    pub next_page: Header<String>,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Header<u64>,
    body: Body,
    has_known_end: bool,
    host: String,
    /// How long it may be silent, or take.
    limit: Duration,
    shut: Arc<AtomicBool>,
}

impl Answer {
    /// Reads the whole body into memory, `most` bytes of it at most.
    ///
    /// # Errors
    /// It is larger, or the connection broke.
    pub fn read(self, most: usize) -> Result<Vec<u8>, NoAnswer> {
        self.read_by(|content| read_at_most(content, most as u64))
    }

    /// The same; one that is larger than ordinary waits until there is memory for it.
    ///
    /// # Errors
    /// It is larger, the connection broke, or the run is over.
    pub fn read_holding(self, most: usize, holding: &mut Holding) -> Result<Vec<u8>, NoAnswer> {
        self.read_by(|content| read_holding(content, most as u64, holding))
    }

    /// As [`read`](Self::read), of what holds a secret.
    ///
    /// # Errors
    /// It is larger, or the connection broke.
    pub fn read_secretly(self, most: usize) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
        self.read_by(|content| read_secretly(content, most as u64))
    }

    fn read_by<T>(self, read: impl FnOnce(Content) -> io::Result<T>) -> Result<T, NoAnswer> {
        let host = self.host.clone();
        read(self.into_reader()).map_err(|error| NoAnswer {
            text: format!("the answer of {host} broke off: {error}"),
            again: match error.kind() {
                io::ErrorKind::TimedOut => Again::NextRun,
                _ => Again::Soon,
            },
        })
    }

    /// The body as a stream.
    #[must_use]
    pub fn into_reader(self) -> Content {
        let Self { body, has_known_end, limit, shut, .. } = self;
        Content { body: body.into_reader(), has_known_end, limit, shut }
    }
}

/// The body of an answer. Its error is of the kind `TimedOut` where that takes too long.
pub struct Content {
    body: BodyReader<'static>,
    has_known_end: bool,
    limit: Duration,
    shut: Arc<AtomicBool>,
}

impl Content {
    /// Whether a body that ends without an error is known to be whole: by its length, its chunks or its
    /// compression, and not only by the end of the connection. Where ureq has removed the headers that say
    /// so, an HTTP/1.1 answer counts as known unless it says that it closes the connection.
    #[must_use]
    pub fn has_known_end(&self) -> bool {
        self.has_known_end
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).map_err(|error| {
            let limit = self.limit.as_secs();
            let text = match exceeded(&error) {
                // It is we who have broken it off.
                _ if self.shut.load(Ordering::Relaxed) => format!("it had not ended when {OVER}"),
                None => return error,
                Some(Timeout::RecvBody) => format!("it was not complete within {limit} s"),
                Some(_) => format!("it has stalled, nothing came for {limit} s"),
            };
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }
}

pub(super) fn answer(
    response: Response<Body>,
    host: String,
    limit: Duration,
    shut: Arc<AtomicBool>,
) -> Answer {
    let headers = response.headers();
    let no_date = "is not a date that HTTP knows";
    let date =
        Header::read(headers, "Date", |text| Timestamp::parse_http_date(text).ok_or(no_date));
    let next_page = Header::read(headers, "NextPageUri", absolute);
    let now = date.clone().usable();
    let retry_after = Header::read(headers, "Retry-After", |text| seconds(text, now));
    Answer {
        status: response.status().as_u16(),
        date,
        next_page,
        retry_after,
        has_known_end: has_known_end(&response),
        body: response.into_body(),
        host,
        limit,
        shut,
    }
}

/// An absolute address.
fn absolute(text: &str) -> Result<String, &'static str> {
    let uri: Option<Uri> = text.parse().ok();
    let is_absolute = uri.is_some_and(|uri| uri.scheme().is_some() && uri.authority().is_some());
    is_absolute.then(|| text.to_owned()).ok_or("is not an absolute address")
}

/// What `Retry-After` asks for: a number of seconds, or a point in time, which is judged by the answer's
/// own clock.
fn seconds(text: &str, now: Option<Timestamp>) -> Result<u64, &'static str> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.parse().unwrap_or(u64::MAX));
    }
    let until = Timestamp::parse_http_date(text).ok_or("is neither seconds nor a date")?;
    let now = now.ok_or("is a date, but the answer has no usable Date of its own")?;
    Ok(u64::try_from(until.since(now)).unwrap_or_default())
}

/// Whether the end of an answer is told apart from a connection that breaks off.
///
/// ureq removes `Content-Length` and `Content-Encoding` where it decompresses, so a head with neither of
/// them is judged by its connection: a server that marks the end by closing it says so, or speaks
/// HTTP/1.0.
fn has_known_end(response: &Response<Body>) -> bool {
    let headers = response.headers();
    let closes = || {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case("close"))
    };
    headers.contains_key(CONTENT_LENGTH)
        || headers.contains_key(TRANSFER_ENCODING)
        || (response.version() >= Version::HTTP_11 && !closes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_absolute_or_unusable() {
        for good in ["https://manage.office.com/api?x=1", "http://127.0.0.1:1/"] {
            assert_eq!(absolute(good), Ok(good.to_owned()));
        }
        for bad in ["/api/v1.0/x", "next", "//host/x", "https://", "https://a b", "mailto:x"] {
            assert!(absolute(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_or_unusable() {
        let now = Timestamp::parse_http_date("Sat, 23 May 2015 17:35:00 GMT");
        let table = [
            ("0", now, Ok(0)),
            ("120", None, Ok(120)),
            ("99999999999999999999", None, Ok(u64::MAX)),
            ("Sat, 23 May 2015 17:37:00 GMT", now, Ok(120)),
            ("Sat, 23 May 2015 17:30:00 GMT", now, Ok(0)),
        ];
        for (text, now, expected) in table {
            assert_eq!(seconds(text, now), expected, "{text}");
        }
        for bad in ["-5", "1.5", "soon", "5s", "5, 5"] {
            assert!(seconds(bad, now).is_err(), "{bad}");
        }
        assert!(seconds("Sat, 23 May 2015 17:37:00 GMT", None).is_err());
    }
}
