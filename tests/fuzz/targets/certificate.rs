//! Certificates that a host presents, and those and the keys of our own, as DER and as PEM.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wodle_office365::auth::{ClientCertificate, PrivateKey};
use wodle_office365::certificate::Certificate;
use wodle_office365::http::parse_bundle;
use wodle_office365::timestamp::Timestamp;

/// The key of the seeds' certificate.
fn key() -> PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    let read = || PrivateKey::read(include_bytes!("../../outside/keys/rsa.pem")).expect("a key");
    KEY.get_or_init(read).clone()
}

fuzz_target!(|input: &[u8]| {
    if let Some(certificate) = Certificate::parse(input) {
        let name = &certificate.issuer;
        assert!(!name.is_empty() && name.chars().count() <= 200, "{} bytes", name.len());
        assert!(!name.contains(char::is_control), "{name:?}");
        for time in [certificate.not_before, certificate.not_after] {
            assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        }
        assert!(certificate.rsa_key.is_none_or(|key| key.len() < input.len()));
    }
    let now = Timestamp::from_unix(1_800_000_000);
    if let Ok(certificate) = ClientCertificate::read(input, key(), [now; 2]) {
        let _ = (certificate.near_end(now), certificate.days_left(now));
        assert!(certificate.assertion("c", "https://l", now).is_ok(), "it has our key");
    }
    let _ = PrivateKey::read(input);
    if let Ok(bundle) = parse_bundle("p".as_ref(), input) {
        assert!(!bundle.is_empty());
    }
});
