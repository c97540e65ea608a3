//! TLS: whose certificates are believed, and by what names Microsoft's clouds are reached.

use std::collections::HashMap;

use office365_simulator::tls::Ca;
use office365_simulator::{Blob, Simulator, Tenant};
use time::Duration;
use wodle_office365::cloud::CLOUDS;

use crate::harness::{CLIENT, SECRET, Site, TENANT, record, write_file};
use crate::proxies::{Proxy, Rules};

/// A site whose hosts have a certificate for `names`; its CA's is in `etc/ca.pem`.
pub(crate) fn tls_site(names: &[&str]) -> Site {
    let ca = Ca::new("Company CA");
    let site = Site::built(Simulator::builder().tls(ca.server(names)));
    write_file(&site.path("etc/ca.pem"), ca.pem().as_bytes(), 0o644);
    site
}

/// The message of a run that can't sign in, which sends nothing.
fn refusal(site: &Site) -> String {
    site.clear_log();
    assert_eq!(site.poll().code, Some(1));
    assert!(site.simulator.requests().is_empty());
    let log = site.log();
    let failed = log.lines().find_map(|line| line.split_once("sign-in failed: "));
    failed.unwrap_or_else(|| panic!("{log}")).1.to_owned()
}

#[test]
fn trust_comes_from_the_systems_store_or_from_ca_path() {
    let site = tls_site(&["127.0.0.1"]);
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    assert_eq!(
        refusal(&site),
        "TLS with 127.0.0.1 failed: its certificate, issued by \"CN=Company CA\", whom this machine \
         doesn't trust; if this is a proxy that opens TLS, name its CA certificate with ca_path; \
         else update the package ca-certificates"
    );
    let mut command = site.command();
    command.env("SSL_CERT_FILE", site.path("etc/ca.pem"));
    assert_eq!(site.run(&command).ids(), ["1"], "{}", site.log());

    site.publish("Audit.General", Duration::seconds(5), &["2"]);
    let mut command = site.command();
    command.env("SSL_CERT_DIR", format!("/nowhere:{}", site.path("etc").display()));
    assert_eq!(site.run(&command).code, Some(1));
    assert!(site.log().contains("SSL_CERT_DIR names /nowhere, which can't be read"));
    command.env("SSL_CERT_DIR", site.path("etc"));
    assert_eq!(site.run(&command).ids(), ["2"], "{}", site.log());

    site.publish("Audit.General", Duration::seconds(5), &["3"]);
    site.configure(&format!("<ca_path>{}</ca_path>", site.path("etc/ca.pem").display()));
    assert_eq!(site.poll_well().ids(), ["3"]);
}

#[test]
fn a_certificate_that_is_not_taken_is_named_with_what_is_wrong() {
    let now = time::OffsetDateTime::now_utc();
    let day = Duration::days(1);
    let ca = Ca::new("Company CA");
    let last = now.replace_time(time::Time::MIDNIGHT) - day;
    let date = |time: time::OffsetDateTime| time.date().to_string();
    let cases = [
        (
            Ca::new("Stranger").server(&["127.0.0.1"]),
            "issued by \"CN=Stranger\", whom this machine doesn't trust; if this is a proxy that \
             opens TLS, add its CA certificate to the file of ca_path; else "
                .to_owned(),
        ),
        (
            ca.server_within(&["127.0.0.1"], last - day..last),
            format!(
                "issued by \"CN=Company CA\", has expired, at {}T00:00:00Z; if this is a proxy that \
                 opens TLS, add its CA certificate to the file of ca_path; else set this machine's \
                 clock",
                date(last)
            ),
        ),
        (
            ca.server_within(&["127.0.0.1"], last + day * 3..last + day * 9),
            format!("issued by \"CN=Company CA\", is not valid before {}T00", date(last + day * 3)),
        ),
        (
            ca.server(&["login.example", "192.0.2.1"]),
            "issued by \"CN=Company CA\", is for ".to_owned(),
        ),
    ];
    for (server, expected) in cases {
        let site = Site::built(Simulator::builder().tls(server));
        write_file(&site.path("etc/ca.pem"), ca.pem().as_bytes(), 0o644);
        site.configure("<ca_path>etc/ca.pem</ca_path>");
        let refusal = refusal(&site);
        let message = format!("TLS with 127.0.0.1 failed: its certificate, {expected}");
        assert!(refusal.starts_with(&message), "{refusal}");
        assert_eq!(site.simulator.connections(), 1, "another try would change nothing");
    }
    // The other way round: a host that speaks no TLS.
    let site = Site::new();
    let plain = site.simulator.login_url();
    let auth = site.api_auth(TENANT, CLIENT, SECRET);
    let auth = auth.replace(&plain, &plain.replace("http:", "https:"));
    site.configure_with("", &auth, &["Audit.General"]);
    let refusal = refusal(&site);
    assert!(refusal.starts_with("TLS with 127.0.0.1 failed: "), "{refusal}");
    assert!(refusal.contains("ca_path"), "{refusal}");
}

#[test]
fn a_ca_path_that_is_of_no_use_is_an_error() {
    let site = tls_site(&["127.0.0.1"]);
    let pem = std::fs::read_to_string(site.path("etc/ca.pem")).unwrap();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, mode, why) in [
        (None, 0o644, "can't be used: "),
        (Some(String::new()), 0o644, "can't be used: it holds no PEM certificate"),
        (Some("no PEM".to_owned()), 0o644, "can't be used: it holds no PEM certificate"),
        (Some(bad.repeat(2)), 0o644, "can't be used: of the 2 certificates in it none can be used"),
        (Some(pem.clone()), 0o666, "is not used because everyone may write to it: chmod o-w "),
    ] {
        let path = site.path("etc/bundle.pem");
        if let Some(content) = content {
            write_file(&path, content.as_bytes(), mode);
        }
        site.configure("<ca_path>etc/bundle.pem</ca_path>");
        site.clear_log();
        assert_eq!(site.poll().code, Some(2));
        assert!(site.log().contains("ca_path etc/bundle.pem can't be used: "), "{}", site.log());
        assert!(site.log().contains(why), "{}", site.log());
    }
    // One that can be used is enough, and the others are counted.
    write_file(&site.path("etc/bundle.pem"), format!("{bad}{pem}{bad}").as_bytes(), 0o644);
    site.poll_well();
    let counted = "WARNING: ca_path etc/bundle.pem: 2 of 3 certificates can't be used";
    assert!(site.log().contains(counted), "{}", site.log());
}

#[test]
fn every_cloud_is_reached_by_its_real_names() {
    for cloud in &CLOUDS {
        let names = [cloud.login, cloud.management].map(|url| &url["https://".len()..]);
        let ca = Ca::new("Company CA");
        let builder = Simulator::builder().tls(ca.server(&names));
        let site = Site::built(builder.known_as(cloud.login, cloud.management));
        let targets = names.map(|name| format!("{name}:443"));
        let routes = targets.clone().into_iter().zip(site.simulator.addresses());
        let proxy = Proxy::start(Rules { routes: routes.collect(), ..Rules::default() });
        write_file(&site.path("etc/ca.pem"), ca.pem().as_bytes(), 0o644);
        let secret = SECRET.replace('&', "&amp;").replace('<', "&lt;");
        let auth = format!(
            "<api_auth><tenant_id>{TENANT}</tenant_id><client_id>{CLIENT}</client_id>\
             <client_secret>{secret}</client_secret><api_type>{}</api_type></api_auth>",
            cloud.api_type
        );
        let options = format!(
            "<only_future_events>no</only_future_events><ca_path>etc/ca.pem</ca_path>\
             <proxy>http://{}</proxy>",
            proxy.address
        );
        site.configure_with(&options, &auth, &["Audit.General"]);
        site.simulator.set_page_size(1);
        for id in ["1", "2"] {
            let blob = Blob::new(site.now() - Duration::minutes(5), &[record(id)]);
            site.simulator.publish(TENANT, "Audit.General", blob);
        }
        assert_eq!(site.poll_well().ids(), ["1", "2"], "{}", cloud.api_type);
        let asked: HashMap<_, usize> =
            proxy.heads().iter().fold(HashMap::new(), |mut asked, head| {
                *asked.entry(head.split(' ').nth(1).unwrap().to_owned()).or_default() += 1;
                asked
            });
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(targets.iter().all(|target| asked.contains_key(target)), "{asked:?}");
    }
}

#[test]
fn other_endpoints_are_taken_and_the_token_is_for_them() {
    let ca = Ca::new("Company CA");
    let (login, management) = ("https://login.gateway.example:8443", "https://api.gateway.example");
    let builder = Simulator::builder()
        .tls(ca.server(&["login.gateway.example", "api.gateway.example"]))
        .known_as(login, management)
        .tenant(Tenant::new("b1b2c3d4-0000-4000-8000-000000000002", CLIENT, SECRET));
    let site = Site::built(builder);
    let routes = ["login.gateway.example:8443", "api.gateway.example:443"].map(str::to_owned);
    let routes = routes.into_iter().zip(site.simulator.addresses()).collect();
    let proxy = Proxy::start(Rules { routes, ..Rules::default() });
    write_file(&site.path("etc/ca.pem"), ca.pem().as_bytes(), 0o644);
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    site.configure_one(&format!(
        "<ca_path>etc/ca.pem</ca_path><proxy>http://{}</proxy>",
        proxy.address
    ));
    assert_eq!(site.poll_well().ids(), ["1"]);
}
