//! TLS and proxies.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use office365_simulator::Simulator;
use office365_simulator::tls::ca_and_server;
use time::Duration;

use crate::harness::{CLIENT, SECRET, Site, TENANT, write_file};

fn tls_site(names: &[&str]) -> (Site, String) {
    let (ca, server) = ca_and_server(names);
    let site = Site::built(Simulator::builder().tls(server));
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    (site, ca)
}

#[test]
fn trust_comes_from_the_systems_store_or_from_ca_path() {
    let (site, ca) = tls_site(&["127.0.0.1"]);
    let path = site.path("etc/ca.pem");
    write_file(&path, ca.as_bytes(), 0o644);

    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("sign-in failed: TLS with 127.0.0.1 failed: "), "{}", site.log());
    assert!(site.log().contains("name its CA certificate with ca_path"), "{}", site.log());

    let mut command = site.command();
    command.env("SSL_CERT_FILE", &path);
    assert_eq!(site.run(&command).ids(), ["1"], "{}", site.log());

    site.publish("Audit.General", Duration::seconds(5), &["2"]);
    site.configure(&format!("<ca_path>{}</ca_path>", path.display()));
    assert_eq!(site.poll_well().ids(), ["2"]);
}

#[test]
fn a_certificate_for_another_name_is_not_taken() {
    let (site, ca) = tls_site(&["localhost"]);
    write_file(&site.path("etc/ca.pem"), ca.as_bytes(), 0o644);
    site.configure("<ca_path>etc/ca.pem</ca_path>");
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("TLS with 127.0.0.1 failed: "), "{}", site.log());
    assert!(site.simulator.requests().is_empty());
}

#[test]
fn a_ca_path_that_is_of_no_use_is_an_error() {
    let (site, _) = tls_site(&["127.0.0.1"]);
    for (content, why) in [(None, "No such file"), (Some("no PEM"), "it holds no PEM certificate")]
    {
        if let Some(content) = content {
            write_file(&site.path("etc/ca.pem"), content.as_bytes(), 0o644);
        }
        site.configure("<ca_path>etc/ca.pem</ca_path>");
        assert_eq!(site.poll().code, Some(2));
        assert!(site.log().contains("etc/ca.pem can't be used: "), "{}", site.log());
        assert!(site.log().contains(why), "{}", site.log());
    }
}

/// A CONNECT proxy that remembers the heads it was sent, and leads everything to where it was
/// asked to, or refuses with a status.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(refuse: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || tunnel(client, &seen, refuse));
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, heads: &Mutex<Vec<String>>, refuse: Option<&str>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(client.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    if let Some(status) = refuse {
        let _ =
            client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        return;
    }
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let (mut client, mut server) = (client, server);
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_configured_proxy_is_used_with_its_user_and_password() {
    let (site, ca) = tls_site(&["127.0.0.1"]);
    write_file(&site.path("etc/ca.pem"), ca.as_bytes(), 0o644);
    let proxy = Proxy::start(None);
    site.configure(&format!(
        "<only_future_events>no</only_future_events><ca_path>etc/ca.pem</ca_path>\
         <proxy>http://us%40er:pass%3Aword@{}</proxy><log_level>debug</log_level>",
        proxy.address
    ));
    assert_eq!(site.poll_well().ids(), ["1"]);
    let heads = proxy.heads();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(head.starts_with("CONNECT 127.0.0.1:"), "{head}");
        // us@er:pass:word
        assert!(head.contains("Basic dXNAZXI6cGFzczp3b3Jk"), "{head}");
    }
    assert!(!site.log().contains("pass"), "{}", site.log());
}

#[test]
fn the_environments_proxy_is_used_and_no_proxy_is_obeyed() {
    let (site, ca) = tls_site(&["127.0.0.1"]);
    write_file(&site.path("etc/ca.pem"), ca.as_bytes(), 0o644);
    site.configure("<only_future_events>no</only_future_events><ca_path>etc/ca.pem</ca_path>");
    let proxy = Proxy::start(None);
    let mut command = site.command();
    command.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", "127.0.0.0/8");
    assert_eq!(site.run(&command).ids(), ["1"], "{}", site.log());
    assert!(proxy.heads().is_empty());
    let mut command = site.command();
    command.env("https_proxy", format!("http://{}", proxy.address));
    assert_eq!(site.run(&command).code, Some(0), "{}", site.log());
    assert!(!proxy.heads().is_empty());
}

#[test]
fn a_malformed_proxy_variable_is_an_error_and_never_a_direct_connection() {
    let (site, _) = tls_site(&["127.0.0.1"]);
    let mut command = site.command();
    command.env("HTTPS_PROXY", "http://user:hunter2@pro xy:1");
    assert_eq!(site.run(&command).code, Some(1));
    assert!(
        site.log().contains("environment variable HTTPS_PROXY: the host is missing or malformed"),
        "{}",
        site.log()
    );
    assert!(!site.log().contains("hunter2"));
    assert_eq!(site.simulator.connections(), 0);
}

#[test]
fn a_proxy_that_refuses_is_named() {
    for status in ["407 Proxy Authentication Required", "403 Forbidden"] {
        let (site, _) = tls_site(&["127.0.0.1"]);
        let proxy = Proxy::start(Some(status));
        let auth = site.api_auth(TENANT, CLIENT, SECRET);
        site.configure_with(
            &format!("<proxy>http://{}</proxy>", proxy.address),
            &auth,
            &["DLP.All"],
        );
        assert_eq!(site.poll().code, Some(1));
        let log = site.log();
        assert!(
            log.contains(
                "sign-in failed: the proxy refused to connect to 127.0.0.1 through the proxy "
            ),
            "{log}"
        );
        assert!(log.contains(&status[..3]), "{log}");
        assert_eq!(proxy.heads().len(), 1, "{log}");
    }
}
