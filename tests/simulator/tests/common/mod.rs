//! A small HTTP client over a plain socket, of which every byte is known, and a tenant to ask.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use office365_simulator::{Builder, Simulator, Tenant};
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::datetime;

pub(crate) const TENANT: &str = "0f6c3bd2-8b1e-4c6e-9d5a-3a1f5f0c7e11";
pub(crate) const OTHER: &str = "7d1a2f04-55c2-4a9b-b7c0-0a6d7e3f9b22";
pub(crate) const CLIENT: &str = "5b8f1a57-0d0c-4a0e-8f43-5d9c2d7b6a90";
/// Needs every kind of escape in a form.
pub(crate) const SECRET: &str = "a+b&c=d%41 ~é";
pub(crate) const SECRET_ENCODED: &str = "a%2Bb%26c%3Dd%2541%20~%C3%A9";
pub(crate) const NOON: OffsetDateTime = datetime!(2026-03-10 12:00 UTC);

/// Long enough for any machine; nothing waits that long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn tenant() -> Tenant {
    Tenant::new(TENANT, CLIENT, SECRET).domain("contoso.example")
}

/// A simulator at noon of a certain day.
pub(crate) fn start(builder: Builder) -> Simulator {
    let simulator = builder.start().unwrap();
    simulator.advance(NOON - simulator.now());
    simulator
}

pub(crate) fn simulator() -> Simulator {
    start(Simulator::builder().tenant(tenant().subscribed(&["Audit.General"])))
}

/// Path of a call of the first tenant's.
pub(crate) fn feed(call: &str) -> String {
    format!("/api/v1.0/{TENANT}/activity/feed/{call}")
}

pub(crate) fn content(content_type: &str, from: &str, to: &str) -> String {
    feed(&format!("subscriptions/content?contentType={content_type}&startTime={from}&endTime={to}"))
}

/// The path and query of a URL.
pub(crate) fn target(url: &str) -> &str {
    let after_scheme = url.find("//").unwrap() + 2;
    &url[after_scheme + url[after_scheme..].find('/').unwrap()..]
}

pub(crate) fn form(simulator: &Simulator) -> String {
    let scope = simulator.management_url().replace(':', "%3A").replace('/', "%2F");
    format!(
        "client_id={CLIENT}&scope={scope}%2F.default&grant_type=client_credentials\
         &client_secret={SECRET_ENCODED}"
    )
}

pub(crate) const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

pub(crate) fn sign_in(simulator: &Simulator) -> String {
    let path = format!("/{TENANT}/oauth2/v2.0/token");
    let answer = Client::new(&simulator.login_url())
        .send("POST", &path, &[FORM], form(simulator).as_bytes())
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    token: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ended before the body did.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `contentId`s of a listing.
    pub(crate) fn ids(&self) -> Vec<String> {
        let listing = self.json();
        let entries = listing.as_array().unwrap().iter();
        entries.map(|entry| entry["contentId"].as_str().unwrap().to_owned()).collect()
    }
}

impl Client {
    pub(crate) fn new(origin: &str) -> Self {
        let stream = TcpStream::connect(origin.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), token: None }
    }

    /// Signed in, on the management host.
    pub(crate) fn signed_in(simulator: &Simulator) -> Self {
        let token = sign_in(simulator);
        Self { token: Some(token), ..Self::new(&simulator.management_url()) }
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.call("GET", target).unwrap()
    }

    pub(crate) fn post(&mut self, target: &str) -> Answer {
        self.call("POST", target).unwrap()
    }

    pub(crate) fn call(&mut self, method: &str, target: &str) -> io::Result<Answer> {
        self.send(method, target, &[], b"")
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: simulator\r\n");
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes)?;
        self.read()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn read(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break self.take(end + 4);
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new(), cut: false };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.cut = !self.chunks(&mut answer.body)?;
        } else {
            let length = answer.header("content-length").map_or(0, |n| n.parse().unwrap());
            while self.buffer.len() < length && self.fill()? {}
            answer.body = self.take(length);
            answer.cut = answer.body.len() < length;
        }
        Ok(answer)
    }

    /// Whether they came to their end.
    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let line = loop {
                if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break self.take(end + 2);
                }
                if !self.fill()? {
                    return Ok(false);
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16);
            let size = size.unwrap();
            while self.buffer.len() < size + 2 && self.fill()? {}
            body.extend(self.take(size));
            self.take(2);
            if size == 0 {
                return Ok(true);
            }
        }
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let n = n.min(self.buffer.len());
        self.buffer.drain(..n).collect()
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    /// Whether the other side has closed, or closes now.
    pub(crate) fn is_closed(&mut self) -> bool {
        !matches!(self.fill(), Ok(true))
    }
}
