//! Both hosts over https.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use common::{PATIENCE, TENANT, feed};
use office365_simulator::{Call, Fault, Simulator};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

const CERTIFICATE: &[u8] = include_bytes!("data/certificate.der");
const KEY: &[u8] = include_bytes!("data/key.pk8");

fn server() -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
        .unwrap();
    Arc::new(config)
}

/// What comes until the end, and whether that end was a proper one.
fn ask(origin: &str, target: &str) -> (String, bool) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(origin.strip_prefix("https://").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(session, socket);
    write!(stream, "GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    (String::from_utf8(bytes).unwrap(), ended.is_ok())
}

#[test]
fn https_on_both_hosts() {
    let builder = Simulator::builder().tenant(common::tenant()).tls(server());
    let simulator = common::start(builder);
    let list = feed("subscriptions/list");
    let (answer, proper) = ask(&simulator.management_url(), &list);
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n") && proper, "{answer}");
    let token = format!("/{TENANT}/oauth2/v2.0/token");
    let (answer, proper) = ask(&simulator.login_url(), &token);
    assert!(answer.contains("AADSTS900561") && proper, "{answer}");

    simulator.fault(Fault::on(Call::List).respond(200, "[1,2,3]").cut(3));
    let (answer, proper) = ask(&simulator.management_url(), &list);
    assert!(answer.ends_with("\r\n\r\n[1,") && !proper, "{answer}");

    // One who does not speak TLS, and one who says nothing, hold up nobody; nor the end.
    let address = simulator.management_url().replace("https://", "");
    let mut rude = TcpStream::connect(&address).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let silent = TcpStream::connect(&address).unwrap();
    assert!(ask(&simulator.management_url(), &list).1);
    drop(simulator);
    drop(silent);
}
