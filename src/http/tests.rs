//! Each phase of a request has its own limit, and its own words when that is over.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use ureq::Timeout;
use ureq::config::Config;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::NextTimeout;

use super::*;

/// Nothing in here waits for longer.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(1);

/// A host that sends `says` to whoever has sent it a request, and then nothing more.
fn host(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        // Whoever has come stays connected.
        let mut all = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if !says.is_empty() && matches!(stream.read(&mut request), Ok(1..)) {
                stream.write_all(says).unwrap();
            }
            all.push(stream);
        }
    });
    address
}

fn http(timeouts: Timeouts) -> Http {
    Http::new(Network { connections: 1, timeouts, ..Network::default() })
}

fn refused(result: Result<Answer, NoAnswer>) -> NoAnswer {
    result.map(drop).unwrap_err()
}

#[test]
fn an_answer_that_does_not_begin() {
    let silent = host(b"");
    let text = "127.0.0.1 took the request, but didn't answer in time: check firewall and proxy, \
                and Microsoft's service health; the next run asks again";
    let expected = NoAnswer { text: text.to_owned(), again: Again::NextRun };
    let limits = Timeouts { connect: LONG, sign_in: LONG, silence: SHORT };
    let url = format!("http://{silent}/");
    assert_eq!(refused(http(limits).send(&url, None, Payload::Get, Hidden(&[]))), expected);
    // A sign-in has a limit of its own.
    let limits = Timeouts { connect: LONG, sign_in: SHORT, silence: LONG };
    let form = Secret::new("a=b");
    assert_eq!(refused(http(limits).send(&url, None, Payload::Form(&form), Hidden(&[]))), expected);
}

#[test]
fn a_connection_that_does_not_come_about_is_tried_once_in_a_run() {
    // It is there, but speaks no TLS.
    let silent = host(b"");
    let limits = Timeouts { connect: SHORT, sign_in: LONG, silence: LONG };
    let (ca, _) = office365_simulator::tls::ca_and_server(&["127.0.0.1"]);
    let own_roots = parse_bundle("p".as_ref(), ca.as_bytes()).unwrap();
    let network = Network { connections: 1, own_roots, timeouts: limits, ..Network::default() };
    let http = Http::new(network);
    let url = format!("https://{silent}/");
    let text = format!(
        "no connection to {silent} within 1 s: does a firewall drop it? If this machine needs a \
         proxy, set proxy"
    );
    let expected = NoAnswer { text, again: Again::NextRun };
    for _ in 0..2 {
        assert_eq!(refused(http.send(&url, None, Payload::Get, Hidden(&[]))), expected);
        assert_eq!(http.requests(), 1);
    }
}

#[test]
fn a_host_that_has_answered_before_is_no_dead_end() {
    let url = format!("http://{}/", host(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"));
    let http = http(Timeouts::default());
    assert_eq!(http.send(&url, None, Payload::Get, Hidden(&[])).unwrap().status, 204);
    let uri: Uri = url.parse().unwrap();
    let (_, way) = http.route(&uri).unwrap();
    let fault = NoAnswer { text: String::new(), again: Again::NextRun };
    http.note_dead_end(way.clone(), &fault);
    assert_eq!(http.send(&url, None, Payload::Get, Hidden(&[])).unwrap().status, 204);
    // Two went at the same time, and it is the slower one who got through.
    http.ways().clear();
    http.note_dead_end(way.clone(), &fault);
    assert_eq!(refused(http.send(&url, None, Payload::Get, Hidden(&[]))), fault);
    http.note_answer(way.clone());
    assert_eq!(http.send(&url, None, Payload::Get, Hidden(&[])).unwrap().status, 204);
    // It is gone again: as many as can be under way together find that out, and one more.
    http.note_dead_end(way.clone(), &fault);
    assert!(matches!(http.ways()[&way], Found::Answers { missed: 1 }));
    http.note_dead_end(way, &fault);
    assert_eq!(refused(http.send(&url, None, Payload::Get, Hidden(&[]))), fault);
}

#[test]
fn a_connection_that_takes_long_to_fail_is_a_dead_end_and_one_that_fails_at_once_is_not() {
    use std::io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
    };
    let unresolved = || {
        let text = "failed to lookup address information: Name or service not known";
        ureq::Error::Io(io::Error::other(text))
    };
    let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
    let (at_once, late) = (Duration::from_millis(900), Duration::from_secs(7));
    for (error, ends) in [
        (unresolved(), true),
        (ureq::Error::Timeout(Timeout::Connect), true),
        (io(ConnectionRefused), true),
        (io(HostUnreachable), true),
        (io(NetworkUnreachable), true),
        (io(ConnectionReset), false),
        (ureq::Error::Timeout(Timeout::RecvResponse), false),
    ] {
        assert!(!is_dead_end(&error, at_once), "{error}");
        assert_eq!(is_dead_end(&error, late), ends, "{error}");
    }
    // Of two addresses the first took all the time; there is no way to the second.
    let way = Way::new("manage.office.com", 443, None);
    let fault = no_answer(&io(NetworkUnreachable), &way, late, Timeouts::default());
    assert_eq!(fault.again, Again::NextRun);
    assert!(fault.text.starts_with("no connection to manage.office.com:443 in time: "));
    let fault = no_answer(&io(NetworkUnreachable), &way, at_once, Timeouts::default());
    assert_eq!(fault.again, Again::Soon);
    assert!(fault.text.starts_with("there is no way to manage.office.com:443 ("), "{fault:?}");
}

#[test]
fn names_are_resolved_within_a_limit_and_addresses_at_once() {
    let resolve = |limit: Duration, url: &str| {
        SystemResolver(limit).resolve(
            &url.parse().unwrap(),
            &Config::default(),
            NextTimeout::default(),
        )
    };
    assert_eq!(resolve(LONG, "http://localhost:1/").unwrap()[0].port(), 1);
    for address in ["http://127.0.0.1:1/", "http://[::1]:1/"] {
        assert_eq!(resolve(Duration::ZERO, address).unwrap()[0].port(), 1);
    }
    let error = resolve(Duration::ZERO, "http://localhost:1/").unwrap_err();
    let direct = Way::new("login.example", 443, None);
    let fault = no_answer(&error, &direct, Duration::from_secs(10), Timeouts::default());
    assert_eq!(fault.again, Again::NextRun);
    assert_eq!(
        fault.text,
        "the name login.example was not resolved within 10 s: this machine's name servers \
         (/etc/resolv.conf) don't answer; or it needs a proxy: set proxy"
    );
    assert!(is_dead_end(&error, Duration::from_secs(10)));
}

#[test]
fn a_body_that_stalls() {
    let gzip_head: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99\r\n\r\n\
                             \x1f\x8b\x08\0\0\0\0\0\0\xff";
    let plain: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[{";
    let chunked: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[{\r\n";
    let (sender, results) = mpsc::channel();
    for says in [gzip_head, plain, chunked] {
        let sender = sender.clone();
        thread::spawn(move || {
            let limits = Timeouts { connect: LONG, sign_in: LONG, silence: SHORT };
            let url = format!("http://{}/", host(says));
            let answer = http(limits).send(&url, None, Payload::Stream, Hidden(&[])).unwrap();
            sender.send(answer.read(1000).unwrap_err()).unwrap();
        });
    }
    let text = "the answer of 127.0.0.1 broke off: it has stalled, nothing came for 1 s".to_owned();
    let expected = NoAnswer { text, again: Again::NextRun };
    assert_eq!(results.iter().take(3).collect::<Vec<_>>(), [(); 3].map(|()| expected.clone()));
}

#[test]
fn what_we_break_off_ourselves_is_not_the_others_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sender = Arc::new(http(Timeouts::default()));
    let waits = thread::spawn({
        let (sender, url) = (Arc::clone(&sender), url.clone());
        move || refused(sender.send(&url, None, Payload::Get, Hidden(&[])))
    });
    let (mut stream, _) = listener.accept().unwrap();
    assert!(matches!(stream.read(&mut [0; 4096]), Ok(1..)), "it has sent its request");
    sender.shut_down();
    let fault = waits.join().unwrap();
    assert_eq!(fault.text, "127.0.0.1 had not answered when the run's time was over (run_timeout)");
    assert_eq!(fault.again, Again::NextRun);

    let url = format!("http://{}/", host(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["));
    let http = http(Timeouts::default());
    let mut content = http.send(&url, None, Payload::Stream, Hidden(&[])).unwrap().into_reader();
    assert_eq!(content.read(&mut [0; 9]).unwrap(), 1);
    http.shut_down();
    let error = content.read(&mut [0; 9]).unwrap_err();
    assert_eq!(error.to_string(), "it had not ended when the run's time was over (run_timeout)");
}

#[test]
fn a_sign_in_whose_answer_never_ends() {
    // Byte by byte, so that it is never silent for long.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n").unwrap();
        while stream.write_all(b" ").is_ok() {}
    });
    let limits = Timeouts { connect: LONG, sign_in: SHORT, silence: LONG };
    let form = Secret::new("a=b");
    let answer = http(limits).send(&url, None, Payload::Form(&form), Hidden(&[])).unwrap();
    let text = "the answer of 127.0.0.1 broke off: it was not complete within 1 s".to_owned();
    let expected = NoAnswer { text, again: Again::NextRun };
    assert_eq!(answer.read(99_999_999).unwrap_err(), expected);
}

#[test]
fn what_is_no_http_may_go_better_in_a_moment() {
    let url = format!("http://{}/", host(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"));
    let fault = refused(http(Timeouts::default()).send(&url, None, Payload::Get, Hidden(&[])));
    assert!(fault.text.starts_with("what 127.0.0.1 answers can't be read as HTTP ("), "{fault:?}");
    assert_eq!(fault.again, Again::Soon);
}

#[test]
fn a_body_is_known_to_be_whole_by_its_length_its_chunks_or_its_compression() {
    // "[]", compressed.
    let gzip: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x8b\x8e\x05\0\x29\xbb\x4c\x0d\x02\0\0\0";
    let table: [(&str, &[u8], bool); 6] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n", b"[]", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n", b"[]", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"2\r\n[]\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n", gzip, true),
        ("HTTP/1.0 200 OK\r\n", b"[]", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n", b"[]", false),
    ];
    for (head, body, known) in table {
        let says = [head.as_bytes(), b"\r\n", body].concat();
        let url = format!("http://{}/", host(says.leak()));
        let answer =
            http(Timeouts::default()).send(&url, None, Payload::Stream, Hidden(&[])).unwrap();
        assert_eq!(answer.into_reader().has_known_end(), known, "{head}");
    }
}
