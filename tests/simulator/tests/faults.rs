//! Faults, connections and the end.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{CLIENT, Client, NOON, OTHER, PATIENCE, TENANT, content, feed, simulator};
use office365_simulator::{Blob, Call, Fault, Simulator, Tenant};

const BODY: &str = r#"[{"Id":"1","Operation":"Send"}]"#;

/// With one blob, and where to fetch it.
fn with_blob() -> (Simulator, String) {
    let simulator = simulator();
    let blob = Blob::raw(NOON - time::Duration::minutes(1), BODY).id("1$blob");
    simulator.publish(TENANT, "Audit.General", blob);
    (simulator, feed("audit/1$blob"))
}

#[test]
fn respond_with_anything() {
    let (simulator, fetch) = with_blob();
    let mut client = Client::signed_in(&simulator);
    let body = "<html>Bad gateway</html>";
    simulator.fault(
        Fault::on(Call::Fetch)
            .respond(502, body)
            .header("content-type", "text/html")
            .header("Retry-After", "7"),
    );
    simulator.fault(Fault::on(Call::Start).respond(500, "{}"));
    let answer = client.get(&fetch);
    assert_eq!((answer.status, answer.text().as_str()), (502, body));
    let kinds = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    assert_eq!(kinds.count(), 1);
    assert_eq!(answer.header("content-type"), Some("text/html"));
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert!(answer.header("date").is_some());
    assert_eq!(simulator.requests().last().unwrap().status, 502);
    assert_eq!(client.get(&fetch).text(), BODY, "once is all");

    assert_eq!(client.post(&feed("subscriptions/start?contentType=Audit.Exchange")).status, 500);
    assert_eq!(simulator.subscription(TENANT, "Audit.Exchange"), None, "not carried out");
}

#[test]
fn a_header_alone_is_added_to_the_real_answer() {
    let (simulator, fetch) = with_blob();
    let date = "Mon, 01 Jan 2001 00:00:00 GMT";
    simulator.fault(Fault::on(Call::Fetch).header("date", date));
    let answer = Client::signed_in(&simulator).get(&fetch);
    assert_eq!((answer.text().as_str(), answer.header("Date")), (BODY, Some(date)));
}

#[test]
fn which_requests_and_how_often() {
    let simulator = common::start(
        Simulator::builder()
            .tenant(common::tenant().subscribed(&["Audit.General", "Audit.Exchange"]))
            .tenant(Tenant::new(OTHER, CLIENT, common::SECRET)),
    );
    let mut client = Client::signed_in(&simulator);
    for name in ["1$a", "1$b"] {
        simulator.publish(TENANT, "Audit.General", Blob::raw(NOON, BODY).id(name));
    }
    let statuses = |client: &mut Client, targets: &[String]| -> Vec<u16> {
        targets.iter().map(|target| client.get(target).status).collect()
    };
    let [a, b] = ["audit/1$a", "audit/1$b"].map(feed);
    let listing = |name| content(name, "2026-03-10", "2026-03-11");
    let [general, exchange] = ["Audit.General", "Audit.Exchange"].map(listing);

    simulator.fault(Fault::on(Call::Fetch).content_id("1$b").skip(1).times(2).respond(503, ""));
    let targets = [&b, &a, &b, &a, &b, &b].map(String::clone);
    assert_eq!(statuses(&mut client, &targets), [200, 200, 503, 200, 503, 200]);

    simulator
        .fault(Fault::on(Call::Content).content_type("Audit.Exchange").always().respond(500, ""));
    let targets = [&general, &exchange, &exchange, &a].map(String::clone);
    assert_eq!(statuses(&mut client, &targets), [200, 500, 500, 200]);
    simulator.clear_faults();
    assert_eq!(client.get(&exchange).status, 200);

    // A fetch knows its content type; another tenant's faults are not ours.
    simulator.fault(Fault::on(Call::Fetch).content_type("Audit.General").respond(500, ""));
    simulator.fault(Fault::on(Call::Fetch).tenant(OTHER).respond(501, ""));
    simulator.fault(Fault::on(Call::Fetch).tenant(TENANT).respond(502, ""));
    assert_eq!(statuses(&mut client, &[a.clone(), a.clone(), a.clone()]), [500, 502, 200]);
    simulator.clear_faults();

    // Those that let a request pass have counted it.
    simulator.fault(Fault::on(Call::Fetch).skip(1).respond(500, ""));
    simulator.fault(Fault::on(Call::Fetch).skip(2).respond(501, ""));
    let four = [a.clone(), a.clone(), a.clone(), a.clone()];
    assert_eq!(statuses(&mut client, &four), [200, 500, 200, 501]);

    simulator.set_page_size(1);
    simulator.fault(Fault::on(Call::Page).respond(429, ""));
    let first = client.get(&general);
    let next = common::target(first.header("NextPageUri").unwrap()).to_owned();
    assert_eq!(statuses(&mut client, &[next.clone(), next]), [429, 200]);
}

#[test]
fn the_login_host_has_faults_too() {
    let simulator = simulator();
    simulator.fault(Fault::on(Call::Token).tenant(TENANT).respond(503, "busy"));
    let mut client = Client::new(&simulator.login_url());
    let path = "/contoso.example/oauth2/v2.0/token";
    assert_eq!(client.send("POST", path, &[], b"").unwrap().text(), "busy");
    let request = simulator.requests().pop().unwrap();
    assert_eq!((request.tenant.as_str(), request.status), (TENANT, 503));
}

#[test]
fn cut_at_an_exact_byte() {
    for bytes in [0, 1, 12, BODY.len() - 1] {
        let (simulator, fetch) = with_blob();
        let mut client = Client::signed_in(&simulator);
        simulator.fault(Fault::on(Call::Fetch).cut(bytes));
        let answer = client.get(&fetch);
        assert_eq!((answer.status, answer.text().as_str()), (200, &BODY[..bytes]));
        assert_eq!(answer.header("content-length"), Some(BODY.len().to_string().as_str()));
        assert!(answer.cut && client.is_closed());
        assert_eq!(Client::signed_in(&simulator).get(&fetch).text(), BODY);
    }
}

#[test]
fn chunked_whole_and_cut() {
    let (simulator, fetch) = with_blob();
    let large = Blob::generated(NOON, 20_000, b"{}".to_vec()).id("1$large");
    simulator.publish(TENANT, "Audit.General", large);
    let mut client = Client::signed_in(&simulator);
    simulator.fault(Fault::on(Call::Fetch).chunked());
    let answer = client.get(&fetch);
    assert_eq!(answer.header("content-length"), None);
    assert_eq!((answer.text().as_str(), answer.cut), (BODY, false));

    simulator.fault(Fault::on(Call::Fetch).chunked());
    let answer = client.get(&feed("audit/1$large"));
    assert_eq!((answer.body.len(), answer.cut), (19_999, false));

    simulator.fault(Fault::on(Call::Fetch).content_id("1$large").chunked().cut(10_000));
    let answer = client.get(&feed("audit/1$large"));
    assert_eq!((answer.body.len(), answer.cut), (10_000, true));
    assert!(client.is_closed());

    let mut client = Client::signed_in(&simulator);
    simulator.fault(Fault::on(Call::Fetch).chunked().cut(BODY.len()));
    let answer = client.get(&fetch);
    assert_eq!((answer.text().as_str(), answer.cut), (BODY, true), "the last chunk is missing");
}

#[test]
fn no_answer_at_all() {
    let (simulator, fetch) = with_blob();
    let mut client = Client::signed_in(&simulator);
    simulator.fault(Fault::on(Call::Fetch).drop_connection());
    assert!(client.call("GET", &fetch).is_err());
    assert_eq!(simulator.requests().last().unwrap().status, 0);
    assert_eq!(Client::signed_in(&simulator).get(&fetch).text(), BODY);
}

#[test]
fn a_delay_is_at_least_that_long() {
    let (simulator, fetch) = with_blob();
    let mut client = Client::signed_in(&simulator);
    let delay = Duration::from_millis(30);
    simulator.fault(Fault::on(Call::Fetch).delay(delay));
    let begin = Instant::now();
    assert_eq!(client.get(&fetch).text(), BODY);
    assert!(begin.elapsed() >= delay);

    let builder = Simulator::builder().tenant(common::tenant()).delay(delay);
    let simulator = common::start(builder);
    let mut client = Client::signed_in(&simulator);
    let begin = Instant::now();
    client.get(&feed("subscriptions/list"));
    client.get(&feed("subscriptions/list"));
    assert!(begin.elapsed() >= delay * 2);
}

#[test]
fn connections_are_kept() {
    let (simulator, fetch) = with_blob();
    let mut client = Client::signed_in(&simulator);
    for _ in 0..3 {
        client.get(&fetch);
    }
    assert_eq!(simulator.connections(), 2, "login and management");
    let connections: Vec<_> = simulator.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections, [1, 2, 2, 2]);
    // Two requests in one piece, the answers in their order.
    let pipelined = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nConnection: close\r\n\r\n";
    client.write(pipelined.as_bytes()).unwrap();
    assert!(client.read().unwrap().text().contains("/a'"));
    let last = client.read().unwrap();
    assert!(last.text().contains("/b'"));
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed());

    let mut client = Client::new(&simulator.management_url());
    client.write(b"GET /old HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(client.read().unwrap().status, 404);
    assert!(client.is_closed(), "HTTP/1.0 closes");
}

#[test]
fn request_bodies_may_be_chunked_or_announced() {
    let simulator = simulator();
    let mut client = Client::new(&simulator.management_url());
    let start = feed("subscriptions/start");
    let head = format!("POST {start} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write((head + "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().status, 401);
    client
        .write(
            format!("POST {start} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
                .as_bytes(),
        )
        .unwrap();
    assert_eq!(client.read().unwrap().status, 100);
    client.write(b"ok").unwrap();
    assert_eq!(client.read().unwrap().status, 401);
    let bodies: Vec<_> = simulator.requests().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, [b"abcde".to_vec(), b"ok".to_vec()]);
}

#[test]
fn dropping_it_ends_everything() {
    let (simulator, fetch) = with_blob();
    let mut idle = Client::signed_in(&simulator);
    idle.get(&fetch);
    let mut silent = Client::new(&simulator.management_url());
    let hours = Duration::from_secs(3600);
    simulator.fault(Fault::on(Call::Fetch).hang());
    simulator.fault(Fault::on(Call::Fetch).delay(hours));
    let login = simulator.login_url();
    let management = simulator.management_url();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Client::signed_in(&simulator);
            let fetch = fetch.clone();
            std::thread::spawn(move || client.call("GET", &fetch))
        })
        .collect();
    assert!(simulator.wait_for(PATIENCE, |requests| {
        requests.iter().filter(|r| r.call == Some(Call::Fetch) && r.status == 0).count() == 2
    }));
    drop(simulator);
    for thread in threads {
        // The hanging one gets nothing; the delayed one is not made to wait.
        let _ = thread.join().unwrap();
    }
    assert!(idle.is_closed() && silent.is_closed());
    for origin in [login, management] {
        assert!(TcpStream::connect(origin.strip_prefix("http://").unwrap()).is_err(), "{origin}");
    }
}

#[test]
fn a_hanging_request_ends_with_its_client() {
    let (simulator, fetch) = with_blob();
    simulator.fault(Fault::on(Call::Fetch).hang());
    let mut client = Client::signed_in(&simulator);
    client.write(format!("GET {fetch} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    assert!(simulator.wait_for(PATIENCE, |requests| requests.len() == 2));
    drop(client);
    assert_eq!(Client::signed_in(&simulator).get(&fetch).text(), BODY);
    assert!(!simulator.wait_for(Duration::ZERO, <[_]>::is_empty));
}
