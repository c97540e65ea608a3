//! Signing in with a certificate. The keys in `keys/` were made by openssl for these tests only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use office365_simulator::tls::{Ca, client_certificate};
use office365_simulator::{Blob, Call, Fault, Simulator, Tenant};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::harness::{CLIENT, Site, record, write_file};

const GUID: &str = "c1b2c3d4-0000-4000-8000-000000000003";
const RSA: &str = include_str!("keys/rsa.pem");

/// A site with a tenant to which a certificate for [`RSA`] was uploaded, valid from yesterday on, for
/// a bit more than so many days from now; it and its key are those that the configuration names.
fn site(days: i64) -> Site {
    let now = OffsetDateTime::now_utc();
    let end = now + Duration::days(days) + Duration::hours(1);
    let (pem, der) = client_certificate(RSA, now - Duration::days(1)..end);
    let tenant = Tenant::new(GUID, CLIENT, "no secret is used").domain("fabrikam.example");
    let site = Site::built(Simulator::builder().tenant(tenant.certificate(&der)));
    let blob = Blob::new(site.now() - Duration::minutes(5), &[record("1")]);
    site.simulator.publish(GUID, "Audit.General", blob);
    put(&site, &pem, RSA);
    configure(&site, GUID, "");
    site
}

fn put(site: &Site, certificate: &str, key: &str) {
    write_file(&site.path("etc/app.pem"), certificate.as_bytes(), 0o644);
    write_file(&site.path("etc/app.key"), key.as_bytes(), 0o640);
}

fn configure(site: &Site, tenant_id: &str, options: &str) {
    let files = "<client_certificate_path>etc/app.pem</client_certificate_path>\
                 <client_key_path>etc/app.key</client_key_path>";
    let auth = site.api_auth_with(tenant_id, CLIENT, files);
    let options = format!("<only_future_events>no</only_future_events>{options}");
    site.configure_with(&options, &auth, &["Audit.General"]);
}

/// The head and the claims of the assertion in the last token request.
fn assertion(site: &Site) -> (Value, Value) {
    let request = site.requests(Call::Token).pop().unwrap();
    let body = String::from_utf8(request.body).unwrap();
    let field = |name: &str| {
        let fields = body.split('&').filter_map(|field| field.split_once('='));
        fields.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).next()
    };
    let jwt_bearer = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    assert_eq!(field("client_assertion_type").as_deref(), Some(jwt_bearer));
    assert_eq!(field("client_secret"), None);
    let assertion = field("client_assertion").unwrap();
    let parts: Vec<_> = assertion.split('.').collect();
    let part =
        |n: usize| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[n]).unwrap()).unwrap();
    (part(0), part(1))
}

#[test]
fn the_assertion_is_what_microsoft_checks() {
    // The simulator verifies the signature with the certificate's public key.
    for tenant_id in [GUID, "fabrikam.example"] {
        let site = site(300);
        configure(&site, tenant_id, "<log_level>debug</log_level>");
        assert_eq!(site.poll_well().ids(), ["1"]);
        let (head, claims) = assertion(&site);
        assert_eq!((&head["alg"], &head["typ"]), (&"PS256".into(), &"JWT".into()));
        assert_eq!(head["x5t#S256"].as_str().unwrap().len(), 43);
        let url = format!("{}/{tenant_id}/oauth2/v2.0/token", site.simulator.login_url());
        assert_eq!(claims["aud"], url.as_str());
        assert_eq!((&claims["iss"], &claims["sub"]), (&CLIENT.into(), &CLIENT.into()));
        let time = |name: &str| claims[name].as_i64().unwrap();
        let now = OffsetDateTime::now_utc().unix_timestamp();
        assert!((now - 60..=now).contains(&time("iat")), "{claims}");
        assert_eq!(time("nbf"), time("iat"));
        assert_eq!(time("exp") - time("iat"), 600);
        let id = claims["jti"].as_str().unwrap();
        let groups: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(id.as_bytes()[14], b'4', "{id}");
        assert!(!site.log().contains("expires"), "{}", site.log());
        // The next one has an id of its own; its token is kept meanwhile.
        assert_eq!(site.poll_well().ids(), [""; 0]);
        assert_eq!(site.requests(Call::Token).len(), 1);
        site.simulator.revoke_tokens(GUID);
        site.poll_well();
        assert_ne!(assertion(&site).1["jti"], claims["jti"]);
    }
}

#[test]
fn keys_and_certificates_are_taken_in_every_usual_form() {
    let site = site(300);
    let certificate = std::fs::read_to_string(site.path("etc/app.pem")).unwrap();
    let (other, _) = client_certificate(include_str!("keys/other.pem"), site.now()..site.now());
    let pkcs1 = include_str!("keys/rsa-pkcs1.pem");
    let issuer = Ca::new("Company CA").pem();
    let both = format!("Bag Attributes\n  friendlyName: app\n{certificate}{RSA}");
    let day = Duration::days(1);
    let (older, _) = client_certificate(RSA, site.now() - day * 9..site.now() - day);
    let indented = |text: &str| format!("\u{feff}  {}", text.replace('\n', "\n  "));
    let forms = [
        (indented(&certificate), indented(RSA)),
        // Renewed with the same key: the one that is valid counts.
        (format!("{older}{certificate}"), RSA.to_owned()),
        (certificate.clone(), pkcs1.to_owned()),
        (certificate.replace('\n', "\r\n"), RSA.replace('\n', "\r\n")),
        // With others before it: the one that the key belongs to counts.
        (format!("{issuer}{other}{certificate}"), RSA.to_owned()),
        (both.clone(), both),
    ];
    let count = forms.len();
    for (certificate, key) in forms {
        put(&site, &certificate, &key);
        write_file(&site.path("etc/app.pem"), certificate.as_bytes(), 0o640);
        site.simulator.revoke_tokens(GUID);
        site.poll_well();
    }
    assert_eq!(site.requests(Call::Token).len(), count);
}

#[test]
fn what_can_not_be_used_is_said_with_the_remedy_and_nothing_is_sent() {
    let site = site(300);
    let good = std::fs::read_to_string(site.path("etc/app.pem")).unwrap();
    let ec = include_str!("keys/ec.pem");
    let (ec_certificate, _) = client_certificate(ec, site.now()..site.now());
    let only_rsa = "client_key_path: etc/app.key can't be used: the key is no (plain) RSA key, and \
                    Microsoft takes no other";
    let foreign = "client_certificate_path: etc/app.pem can't be used: the key of client_key_path \
                   is not the one of this certificate";
    let cases = [
        (good.as_str(), ec, only_rsa),
        (&good, include_str!("keys/ec-sec1.pem"), only_rsa),
        (&good, include_str!("keys/encrypted.pem"), "the key is encrypted with a passphrase"),
        (&good, include_str!("keys/short.pem"), "the key is too short"),
        (RSA, &good, "etc/app.key can't be used: it holds a certificate and no key: are the two"),
        (&good, "", "etc/app.key can't be used: it holds no PEM private key"),
        (&good, &RSA.replace("MII", "MIJ"), "etc/app.key can't be used: the key is "),
        (&good, include_str!("keys/other.pem"), foreign),
        (&ec_certificate, RSA, foreign),
        (&good, &RSA[..900], "etc/app.key can't be used: the key is damaged: its PEM is not whole"),
        ("", RSA, "etc/app.pem can't be used: it holds no PEM certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            RSA,
            "etc/app.pem can't be used: the certificate is damaged",
        ),
    ];
    for (certificate, key, message) in cases {
        put(&site, certificate, key);
        site.clear_log();
        let run = site.poll();
        let log = site.log().replace(&site.path("").display().to_string(), "");
        assert_eq!(run.code, Some(2), "{log}");
        assert!(log.contains(&format!("{GUID}: sign-in failed: client_")), "{log}");
        assert!(log.contains(message), "{message}\n{log}");
    }
    put(&site, RSA, RSA);
    write_file(&site.path("etc/app.pem"), RSA.as_bytes(), 0o600);
    assert_eq!(site.poll().code, Some(2));
    let swapped = "etc/app.pem can't be used: it holds a private key and no certificate: are the";
    assert!(site.log().contains(swapped), "{}", site.log());
    // Wherever a private key is, nobody else may read it.
    for (name, text) in [("app.key", RSA.to_owned()), ("app.pem", format!("{good}{RSA}"))] {
        put(&site, &good, RSA);
        write_file(&site.path(&format!("etc/{name}")), text.as_bytes(), 0o644);
        assert_eq!(site.poll().code, Some(2));
        let refused = format!("etc/{name} is not used because everyone may read it: chmod o-r");
        assert!(site.log().contains(&refused), "{}", site.log());
    }
    assert!(site.simulator.requests().is_empty());
    put(&site, &good, RSA);
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_certificate_out_of_its_time_is_said_before_any_request_and_one_near_its_end_in_time() {
    let now = OffsetDateTime::now_utc();
    let day = Duration::days(1);
    let cases = [
        (now - day * 9..now - day * 2, "can't be used: the certificate expired at "),
        (now + day * 2..now + day * 9, "can't be used: the certificate is not valid before "),
    ];
    for (time, message) in cases {
        let site = site(300);
        let (pem, _) = client_certificate(RSA, time);
        put(&site, &pem, RSA);
        let run = site.poll();
        assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
        assert!(site.log().contains(message), "{}", site.log());
        assert!(site.simulator.requests().is_empty());
        // Said to Wazuh once a day.
        assert_eq!(site.poll().told(), [""; 0]);
    }
    for (days, told) in
        [(31, None), (30, Some("in 30 days")), (1, Some("in 1 day,")), (0, Some("within a day"))]
    {
        let site = site(days);
        assert_eq!(site.poll_well().ids(), ["1"]);
        let said = site.log().lines().filter(|line| line.contains("expires")).count();
        assert_eq!(said, usize::from(told.is_some()), "{}", site.log());
        let warning = format!("WARNING: {GUID}: its certificate expires {}", told.unwrap_or(""));
        assert!(told.is_none() || site.log().contains(&warning), "{}", site.log());
    }
}

#[test]
fn an_assertion_for_another_time_than_the_login_hosts_is_made_anew() {
    // Half an hour: more than Microsoft allows clocks to differ by.
    for hours in [Duration::minutes(30), Duration::minutes(-30)] {
        let site = site(300);
        site.simulator.advance(hours);
        assert_eq!(site.poll().code, Some(0), "{}", site.log());
        assert_eq!(site.requests(Call::Token).len(), 2, "{}", site.log());
        // From then on the time is known.
        site.simulator.revoke_tokens(GUID);
        site.poll_well();
        assert_eq!(site.requests(Call::Token).len(), 3);
        // The clock was set, and what the last run knew of it is wrong now.
        site.simulator.advance(-hours);
        site.simulator.revoke_tokens(GUID);
        site.poll_well();
        assert_eq!(site.requests(Call::Token).len(), 5, "{}", site.log());
    }
    // A login host that says so for no reason is not asked for ever.
    let site = site(300);
    let refusal = r#"{"error":"invalid_client","error_description":"AADSTS700024: no.","error_codes":[700024]}"#;
    site.simulator.fault(Fault::on(Call::Token).always().respond(401, refusal));
    assert_eq!(site.poll().code, Some(1));
    assert_eq!(site.requests(Call::Token).len(), 1);
}

#[test]
fn a_login_host_whose_clock_is_wrong_is_wrong_for_its_own_tenants_only() {
    let site = site(300);
    let certificate = std::fs::read(site.path("etc/app.pem")).unwrap();
    let other = "c1b2c3d4-0000-4000-8000-000000000004";
    let der = CertificateDer::from_pem_slice(&certificate).unwrap();
    let strange = Tenant::new(other, CLIENT, "unused").certificate(&der);
    let strange = Simulator::builder().tenant(strange).start().unwrap();
    strange.advance(Duration::hours(2));
    let refusal = r#"{"error":"invalid_client","error_description":"AADSTS700024: no.","error_codes":[700024]}"#;
    strange.fault(Fault::on(Call::Token).always().respond(401, refusal));
    let files = "<client_certificate_path>etc/app.pem</client_certificate_path>\
                 <client_key_path>etc/app.key</client_key_path>";
    let good = site.api_auth_with(GUID, CLIENT, files);
    let bad = site.api_auth_with(other, CLIENT, files);
    let bad = bad.replace(&site.simulator.login_url(), &strange.login_url());
    let options = "<only_future_events>no</only_future_events><max_connections>1</max_connections>";
    site.configure_with(options, &format!("{bad}{good}"), &["Audit.General"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]), "{}", site.log());
    assert_eq!(site.requests(Call::Token).len(), 1, "{}", site.log());
    let tries = strange.requests().len();
    assert_eq!(tries, 2, "another time was tried, once: {}", site.log());
}

#[test]
fn one_certificate_that_many_tenants_share_is_told_once() {
    let site = site(300);
    let now = OffsetDateTime::now_utc();
    let (pem, _) = client_certificate(RSA, now - Duration::days(9)..now - Duration::days(2));
    put(&site, &pem, RSA);
    let files = "<client_certificate_path>etc/app.pem</client_certificate_path>\
                 <client_key_path>etc/app.key</client_key_path>";
    for (tenants, notices) in [(5, 5), (7, 1)] {
        let guid = |n: usize| format!("c1b2c3d4-0000-4000-8000-0000000{tenants}{n:04}");
        let auth = (0..tenants).map(|n| site.api_auth_with(&guid(n), CLIENT, files));
        site.configure_with("", &auth.collect::<String>(), &["Audit.General"]);
        let run = site.poll();
        assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned(); notices]));
        let text = run.notices()[0]["response"].as_str().unwrap().to_owned();
        assert!(text.contains("the certificate expired at "), "{text}");
        assert_eq!(text.starts_with("7 tenants (c1b2c3d4-"), notices == 1, "{text}");
        assert_eq!(site.poll().told(), [""; 0]);
    }
}
