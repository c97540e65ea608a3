//! An answer: its head as far as it is of use, and its body, bounded and with its faults in words.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use ureq::http::{Response, Version};
use ureq::{Body, BodyReader, Timeout};
use zeroize::Zeroizing;

use super::explain::exceeded;
use super::{Again, NoAnswer};
use crate::bounded::{read_at_most, read_secretly, read_shared};
use crate::memory::Share;
use crate::timestamp::Timestamp;

/// What breaks off whatever is still in flight.
pub(super) const OVER: &str = "the run's time was over (run_timeout)";

/// An answer's head, with its body still to be read.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The header `Date`.
    pub date: Option<Timestamp>,
    /// The header `NextPageUri`.
    pub next_page: Option<String>,
    /// The header `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
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
    pub fn read_shared(self, most: usize, share: &mut Share) -> Result<Vec<u8>, NoAnswer> {
        self.read_by(|content| read_shared(content, most as u64, share))
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
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date = header("Date").and_then(Timestamp::parse_http_date);
    let next_page = header("NextPageUri").map(str::trim).filter(|link| !link.is_empty());
    let retry_after = header("Retry-After").and_then(|text| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX)).or_else(|| {
            let until = Timestamp::parse_http_date(text)?;
            u64::try_from(until.since(date?)).ok()
        })
    });
    Answer {
        status: response.status().as_u16(),
        date,
        next_page: next_page.map(str::to_owned),
        retry_after,
        has_known_end: has_known_end(&response),
        body: response.into_body(),
        host,
        limit,
        shut,
    }
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
