//! HTTP/1.1 by hand, so that faults can cut an answer at an exact byte: reading a request with
//! bounds, writing an answer with its length, chunked, compressed or cut.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use percent_encoding::percent_decode_str;

const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
const MAX_BODY: usize = 1024 * 1024;

/// A request as it came over the wire.
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The head says where the body ends.
    pub(crate) has_length: bool,
    pub(crate) keep_alive: bool,
}

impl Incoming {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Whether one of the comma-separated words of that header is `word`.
    fn lists(&self, name: &str, word: &str) -> bool {
        let words = self.header(name).unwrap_or_default().split(',');
        words.into_iter().any(|w| w.trim().eq_ignore_ascii_case(word))
    }

    pub(crate) fn accepts_gzip(&self) -> bool {
        self.header("accept-encoding").unwrap_or_default().split(',').any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.trim().trim_start_matches("q=");
            matches!(name.trim(), "gzip" | "*") && !matches!(weight, "0" | "0.0" | "0.00" | "0.000")
        })
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Why there is no request.
pub(crate) enum NoRequest {
    /// The connection ended, between requests or within one.
    Ended,
    /// It cannot be understood or is too large: the status to answer before closing.
    Bad(u16),
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        NoRequest::Ended
    }
}

/// Reads requests off one connection, and keeps what came too early for the next.
#[derive(Default)]
pub(crate) struct RequestReader {
    buffer: Vec<u8>,
}

impl RequestReader {
    pub(crate) fn next(&mut self, stream: &mut (impl Read + Write)) -> Result<Incoming, NoRequest> {
        let (mut request, length) = loop {
            if let Some((request, head)) = parse(&self.buffer)? {
                self.buffer.drain(..head);
                break request;
            }
            if self.buffer.len() >= MAX_HEAD {
                return Err(NoRequest::Bad(431));
            }
            self.fill(stream)?;
        };
        if request.lists("expect", "100-continue") && length != Length::Fixed(0) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            stream.flush()?;
        }
        request.body = match length {
            Length::Fixed(n) if n > MAX_BODY => return Err(NoRequest::Bad(413)),
            Length::Fixed(n) => self.take(stream, n)?,
            Length::Chunked => self.chunks(stream)?,
        };
        Ok(request)
    }

    fn fill(&mut self, stream: &mut impl Read) -> Result<(), NoRequest> {
        let mut piece = [0; 8192];
        match stream.read(&mut piece)? {
            0 => Err(NoRequest::Ended),
            n => {
                self.buffer.extend_from_slice(piece.get(..n).unwrap_or_default());
                Ok(())
            }
        }
    }

    fn take(&mut self, stream: &mut impl Read, n: usize) -> Result<Vec<u8>, NoRequest> {
        while self.buffer.len() < n {
            self.fill(stream)?;
        }
        let rest = self.buffer.split_off(n);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn chunks(&mut self, stream: &mut impl Read) -> Result<Vec<u8>, NoRequest> {
        let mut body = Vec::new();
        loop {
            let size = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((line, size))) => {
                    self.buffer.drain(..line);
                    usize::try_from(size).unwrap_or(usize::MAX)
                }
                Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD => {
                    self.fill(stream)?;
                    continue;
                }
                _ => return Err(NoRequest::Bad(400)),
            };
            if size > MAX_BODY - body.len() {
                return Err(NoRequest::Bad(413));
            }
            body.append(&mut self.take(stream, size)?);
            if size == 0 {
                while !self.line(stream)?.is_empty() {}
                return Ok(body);
            }
            if !self.line(stream)?.is_empty() {
                return Err(NoRequest::Bad(400));
            }
        }
    }

    fn line(&mut self, stream: &mut impl Read) -> Result<Vec<u8>, NoRequest> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.drain(..end).collect();
                self.buffer.drain(..2);
                return Ok(line);
            }
            if self.buffer.len() >= MAX_HEAD {
                return Err(NoRequest::Bad(431));
            }
            self.fill(stream)?;
        }
    }
}

#[derive(PartialEq)]
enum Length {
    Fixed(usize),
    Chunked,
}

/// The head in `bytes` and its length, or nothing while it is incomplete.
#[allow(clippy::type_complexity, reason = "used once, right above")]
fn parse(bytes: &[u8]) -> Result<Option<((Incoming, Length), usize)>, NoRequest> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let size = match head.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(NoRequest::Bad(431)),
        Err(_) => return Err(NoRequest::Bad(400)),
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    let mut request = Incoming {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
        has_length: true,
        keep_alive: false,
    };
    request.keep_alive = match head.version {
        Some(1) => !request.lists("connection", "close"),
        _ => request.lists("connection", "keep-alive"),
    };
    let length = match (request.header("transfer-encoding"), request.header("content-length")) {
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Length::Chunked,
        (None, Some(n)) => Length::Fixed(n.trim().parse().map_err(|_| NoRequest::Bad(400))?),
        (None, None) => {
            request.has_length = false;
            Length::Fixed(0)
        }
        _ => return Err(NoRequest::Bad(400)),
    };
    Ok(Some(((request, length), size)))
}

/// An answer before it is sent.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let kind = ("Content-Type".to_owned(), "application/json; charset=utf-8".to_owned());
        Self { status, headers: vec![kind], body: Body::Bytes(Arc::new(body.into())) }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Bytes(Arc::default()) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// The bytes of an answer, or how to make them.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Bytes(Arc<Vec<u8>>),
    /// A JSON array with `count` times the same record, made while it is sent.
    Repeated {
        record: Arc<Vec<u8>>,
        count: u64,
    },
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => length(bytes),
            Body::Repeated { record, count } => 1 + count * (length(record) + 1),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Body::Bytes(bytes) => out.write_all(bytes),
            Body::Repeated { record, count } => {
                // `[record`, then `,record` in blocks of some 256 KiB, then `]`.
                let mut one = vec![b','];
                one.extend_from_slice(record);
                let at_once = (256 * 1024 / length(&one)).max(1);
                let block = one.repeat(usize::try_from(at_once).unwrap_or(1));
                out.write_all(b"[")?;
                out.write_all(record)?;
                let mut left = count.saturating_sub(1);
                while left >= at_once {
                    out.write_all(&block)?;
                    left -= at_once;
                }
                for _ in 0..left {
                    out.write_all(&one)?;
                }
                out.write_all(b"]")
            }
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// How an answer goes over the wire.
#[derive(Default)]
pub(crate) struct Manner {
    pub(crate) gzip: bool,
    pub(crate) chunked: bool,
    pub(crate) cut: Option<u64>,
    /// The request was a HEAD.
    pub(crate) head_only: bool,
    pub(crate) close: bool,
}

/// Sends the answer; an error means that the connection is to be closed without ado.
pub(crate) fn send(stream: &mut impl Write, mut answer: Answer, manner: &Manner) -> io::Result<()> {
    let bodiless = matches!(answer.status, 100..=199 | 204 | 304);
    let gzip = manner.gzip && !bodiless && answer.body.len() > 0;
    let mut compress_on_the_fly = false;
    if gzip {
        if let Body::Bytes(bytes) = &answer.body {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes)?;
            answer.body = Body::Bytes(Arc::new(encoder.finish()?));
        } else {
            compress_on_the_fly = true;
        }
    }
    let chunked = (manner.chunked || compress_on_the_fly) && !bodiless;

    let has = |name| find(&answer.headers, name).is_some();
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if gzip && !has("content-encoding") {
        head.push_str("Content-Encoding: gzip\r\n");
    }
    if chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !bodiless && !has("content-length") {
        let _ = write!(head, "Content-Length: {}\r\n", answer.body.len());
    }
    if manner.close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");

    let mut out = BufWriter::with_capacity(32 * 1024, stream);
    out.write_all(head.as_bytes())?;
    if !bodiless && !manner.head_only {
        let mut sink = Sink { out: &mut out, chunked, left: manner.cut };
        let sent = if compress_on_the_fly {
            let mut encoder = flate2::write::GzEncoder::new(&mut sink, flate2::Compression::fast());
            answer.body.write(&mut encoder).and_then(|()| encoder.try_finish())
        } else {
            answer.body.write(&mut sink)
        };
        let sent = sent.and_then(|()| sink.end());
        out.flush()?;
        return sent;
    }
    out.flush()
}

/// Where the bytes of a body go: perhaps in chunks, perhaps only so many.
struct Sink<'a, W> {
    out: &'a mut W,
    chunked: bool,
    left: Option<u64>,
}

impl<W: Write> Sink<'_, W> {
    fn end(&mut self) -> io::Result<()> {
        if self.left == Some(0) {
            return Err(cut());
        }
        if self.chunked { self.out.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl<W: Write> Write for Sink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut n = bytes.len();
        if let Some(left) = self.left {
            n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
            if n == 0 && !bytes.is_empty() {
                return Err(cut());
            }
        }
        if self.chunked {
            n = n.min(4096);
        }
        let piece = bytes.get(..n).unwrap_or_default();
        if self.chunked && n > 0 {
            write!(self.out, "{n:x}\r\n")?;
            self.out.write_all(piece)?;
            self.out.write_all(b"\r\n")?;
        } else {
            self.out.write_all(piece)?;
        }
        self.left = self.left.map(|left| left - length(piece));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn cut() -> io::Error {
    io::Error::other("cut on purpose")
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}

/// Percent-decoding; bytes that are no UTF-8 become U+FFFD.
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The fields of a form-encoded text, by the rules of forms: `&` ends a field, `+` is a space.
pub(crate) fn pairs(form: &str) -> Vec<(String, String)> {
    let fields = form.split('&').filter(|field| !field.is_empty());
    fields
        .map(|field| {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}
