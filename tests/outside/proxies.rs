//! The ways out by a proxy: a configured one, the environment's, and what they refuse.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::Duration;

use crate::harness::{CLIENT, SECRET, Site, TENANT};
use crate::trust::tls_site;

/// What a proxy does.
#[derive(Default)]
pub(crate) struct Rules {
    /// Leads these targets (`host:port`) elsewhere, as if that were their address.
    pub(crate) routes: HashMap<String, SocketAddr>,
    /// Wants this user and password (`user:password`).
    pub(crate) login: Option<&'static str>,
    /// Refuses everything with this status.
    pub(crate) refuse: Option<&'static str>,
}

/// A CONNECT proxy that remembers the heads it was sent.
pub(crate) struct Proxy {
    pub(crate) address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, rules) = (Arc::clone(&heads), Arc::new(rules));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, rules) = (Arc::clone(&seen), Arc::clone(&rules));
                thread::spawn(move || tunnel(client, &seen, &rules));
            }
        });
        Self { address, heads }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, heads: &Mutex<Vec<String>>, rules: &Rules) {
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
    let knows = |login: &str| head.contains(&format!("Basic {}\r\n", STANDARD.encode(login)));
    let welcome = rules.login.is_none_or(knows);
    heads.lock().unwrap().push(head);
    let unknown = (!welcome).then_some("407 Proxy Authentication Required");
    if let Some(status) = rules.refuse.or(unknown) {
        let _ =
            client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        return;
    }
    let server = match rules.routes.get(&target) {
        Some(address) => TcpStream::connect(address),
        None => TcpStream::connect(&target),
    };
    let Ok(server) = server else {
        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
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

/// A site with TLS and one event, whose only way out is told by `options` or the environment.
fn site(options: &str) -> Site {
    let site = tls_site(&["127.0.0.1"]);
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    site.configure_one(&format!("<ca_path>etc/ca.pem</ca_path>{options}"));
    site
}

#[test]
fn a_configured_proxy_is_used_with_its_user_and_password() {
    let proxy = Proxy::start(Rules { login: Some("us@er:pass:wörd"), ..Rules::default() });
    let site = site(&format!(
        "<proxy>http://us%40er:pass%3Aw%C3%B6rd@{}</proxy><log_level>debug</log_level>",
        proxy.address
    ));
    let mut command = site.command();
    command.env("HTTPS_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "*");
    let run = site.run(&command);
    assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
    let heads = proxy.heads();
    assert!(!heads.is_empty());
    assert!(heads.iter().all(|head| head.starts_with("CONNECT 127.0.0.1:")), "{heads:?}");
}

#[test]
fn a_proxy_that_wants_a_password_that_it_knows_is_named() {
    let proxy = Proxy::start(Rules { login: Some("user:password"), ..Rules::default() });
    let site = site("");
    for login in ["", "user@", "user:passwort@"] {
        let options = format!("<proxy>http://{login}{}</proxy>", proxy.address);
        site.configure(&format!("<ca_path>etc/ca.pem</ca_path>{options}"));
        site.clear_log();
        let asked = proxy.heads().len();
        assert_eq!(site.poll().code, Some(1));
        let expected = format!(
            "sign-in failed: the proxy {} wants a user and a password that it knows (HTTP 407): \
             set proxy to http://user:password@host:port",
            proxy.address
        );
        assert!(site.log().contains(&expected), "{}", site.log());
        assert_eq!(proxy.heads().len(), asked + 1, "once: a person must mend it");
    }
    assert!(site.simulator.requests().is_empty());
}

#[test]
fn a_proxy_that_refuses_is_named_and_one_that_can_not_get_there_is_asked_again() {
    let cases = [
        (
            "403 Forbidden",
            "refuses to connect to 127.0.0.1:PORT (HTTP 403): allow this machine that host in the \
             proxy's rules",
            1,
        ),
        (
            "503 Service Unavailable",
            "can't reach 127.0.0.1:PORT (HTTP 503): check the proxy's own DNS and its way to the \
             internet",
            5,
        ),
        (
            "302 Found",
            "answers HTTP 302 where it was to connect to 127.0.0.1:PORT: is it an HTTP proxy that \
             takes CONNECT, or a page to log in to the network?",
            5,
        ),
    ];
    for (status, message, tries) in cases {
        let proxy = Proxy::start(Rules { refuse: Some(status), ..Rules::default() });
        let site = site(&format!("<proxy>http://{}</proxy>", proxy.address));
        assert_eq!(site.poll().code, Some(1));
        let port = site.simulator.addresses()[0].port().to_string();
        let message = format!(
            "sign-in failed: the proxy {} {}\n",
            proxy.address,
            message.replace("PORT", &port)
        );
        assert!(site.log().contains(&message), "{}", site.log());
        assert_eq!(proxy.heads().len(), tries, "{}", site.log());
    }
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        (
            format!("http://{nobody}"),
            format!("the proxy {nobody} refuses the connection: is it up, and is its port right?"),
        ),
        (
            "http://no..host.invalid:3128".to_owned(),
            "the name of the proxy no..host.invalid can't be resolved: check DNS and the option \
             proxy"
                .to_owned(),
        ),
    ];
    for (proxy, message) in cases {
        let site = site(&format!("<proxy>{proxy}</proxy>"));
        assert_eq!(site.poll().code, Some(1));
        assert!(site.log().contains(&message), "{}", site.log());
        assert_eq!(site.simulator.connections(), 0);
    }
}

#[test]
fn the_environments_proxy_is_used_and_no_proxy_is_obeyed() {
    let proxy = Proxy::start(Rules::default());
    let url = format!("http://user:password@{}", proxy.address);
    let cases = [
        (&[("HTTPS_PROXY", url.as_str())][..], true),
        (&[("https_proxy", &url), ("HTTPS_PROXY", "nonsense://")], true),
        (&[("ALL_PROXY", &url)], true),
        (&[("all_proxy", &url), ("https_proxy", "")], true),
        (&[("HTTPS_PROXY", &url), ("NO_PROXY", "localhost, .example 10.0.0.0/8")], true),
        (&[("HTTPS_PROXY", &url), ("NO_PROXY", "localhost, 127.0.0.0/8")], false),
        (&[("HTTPS_PROXY", &url), ("no_proxy", "127.0.0.1:1,127.0.0.1")], false),
        (&[("HTTPS_PROXY", &url), ("no_proxy", "*")], false),
        // This is for plain http.
        (&[("HTTP_PROXY", &url)], false),
    ];
    for (variables, by_proxy) in cases {
        let site = site("");
        let asked = proxy.heads().len();
        let mut command = site.command();
        command.envs(variables.iter().copied());
        let run = site.run(&command);
        assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
        assert_eq!(proxy.heads().len() > asked, by_proxy, "{variables:?}");
    }
}

#[test]
fn plain_http_goes_by_the_proxy_for_it_as_long_as_that_is_on_this_machine() {
    let proxy = Proxy::start(Rules::default());
    let here = format!("http://{}", proxy.address);
    // No packet leaves for this one: nothing would answer.
    let elsewhere = "http://192.0.2.1:3128";
    let cases = [
        (Some(("HTTP_PROXY", here.as_str())), "", true),
        (Some(("http_proxy", &here)), "", true),
        (Some(("ALL_PROXY", &here)), "", true),
        (Some(("HTTPS_PROXY", &here)), "", false),
        (Some(("HTTP_PROXY", elsewhere)), "", false),
        (None, here.as_str(), true),
        (None, elsewhere, false),
    ];
    for (variable, configured, by_proxy) in cases {
        let site = Site::new();
        site.publish("Audit.General", Duration::minutes(5), &["1"]);
        if !configured.is_empty() {
            site.configure_one(&format!("<proxy>{configured}</proxy>"));
        }
        let asked = proxy.heads().len();
        let mut command = site.command();
        command.envs(variable);
        let run = site.run(&command);
        assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
        assert_eq!(proxy.heads().len() > asked, by_proxy, "{variable:?} {configured}");
    }
}

#[test]
fn a_malformed_proxy_variable_is_an_error_and_never_a_direct_connection() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let malformed = "the host is missing or malformed";
    let cases = [
        ("HTTPS_PROXY", OsString::from("http://user:hunter2@pro xy:1"), malformed),
        ("https_proxy", OsString::from("socks5://user:hunter2@proxy:1"), "only http:// proxies"),
        ("ALL_PROXY", OsString::from("http://user:hunter2@proxy:99999"), "the port is no number"),
        ("HTTPS_PROXY", OsString::from("http://user:hunter2:proxy:1"), malformed),
        ("HTTPS_PROXY", OsString::from_vec(b"http://u\xff:hunter2@proxy".to_vec()), "not UTF-8"),
    ];
    for (variable, value, why) in cases {
        let site = site("");
        let mut command = site.command();
        command.env(variable, value);
        assert_eq!(site.run(&command).code, Some(1));
        let log = site.log();
        assert!(log.contains(&format!("environment variable {variable}: ")), "{log}");
        assert!(log.contains(why) && !log.contains("hunter2"), "{log}");
        assert_eq!(site.simulator.connections(), 0);
    }
    let site = Site::new();
    let mut command = site.command();
    command.env("HTTP_PROXY", "http://");
    assert_eq!(site.run(&command).code, Some(1));
    assert!(site.log().contains(&format!("environment variable HTTP_PROXY: {malformed}")));
    assert_eq!(site.simulator.connections(), 0);
    // Whoever has a proxy of his own doesn't ask for the environment's.
    let proxy = Proxy::start(Rules::default());
    let auth = site.api_auth(TENANT, CLIENT, SECRET);
    let options = format!("<proxy>http://{}</proxy>", proxy.address);
    site.configure_with(&options, &auth, &["Audit.General"]);
    assert_eq!(site.run(&command).code, Some(0));
}
