//! Looking for secrets where none may be: at the end of every test, in all that its runs have left or
//! said.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use office365_simulator::{Blob, Call, Fault, Request};
use serde_json::json;
use time::Duration;

use crate::harness::{CLIENT, Run, SECRET, STATE, Site, TENANT, write_file};

/// What no one may be shown.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Those that a person has given: they may be in no file that is ours.
    given: BTreeSet<String>,
    /// Those that hosts have given, or that were signed: only the token file may hold them.
    handed_out: BTreeSet<String>,
}

impl Secrets {
    /// What is secret in a configuration, or in a file that it names.
    pub(crate) fn of_config(&mut self, text: &str) {
        for value in values(text, "client_secret") {
            self.add(&value);
        }
        for value in values(text, "proxy") {
            self.of_proxy(&value);
        }
    }

    /// The password in a proxy's address, and what it becomes in a request.
    pub(crate) fn of_proxy(&mut self, url: &str) {
        let Some((login, _)) = url.rsplit_once('@') else { return };
        let login = login.split_once("://").map_or(login, |(_, login)| login);
        let login = percent_encoding::percent_decode_str(login).decode_utf8_lossy();
        self.given.insert(STANDARD.encode(login.as_bytes()));
        if let Some((_, password)) = login.split_once(':') {
            self.add(password);
        }
    }

    /// A file that is named in a configuration: a key line by line, else the whole.
    pub(crate) fn of_file(&mut self, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if text.contains("PRIVATE KEY") {
            for line in text.lines().filter(|line| line.len() > 40) {
                self.given.insert(line.to_owned());
            }
        } else {
            self.add(text.trim());
        }
    }

    /// The tokens and assertions of requests.
    fn of_requests(&mut self, requests: &[Request]) {
        for request in requests {
            for (name, value) in &request.headers {
                if name.eq_ignore_ascii_case("authorization")
                    && let Some((_, token)) = value.split_once(' ')
                {
                    self.handed_out.insert(token.to_owned());
                }
            }
            let body = String::from_utf8_lossy(&request.body);
            if let Some((_, assertion)) = body.split_once("client_assertion=") {
                self.handed_out.insert(assertion.split('&').next().unwrap_or_default().to_owned());
            }
        }
    }

    /// A secret in every form that it is ever written in.
    fn add(&mut self, secret: &str) {
        // What is shorter may stand anywhere by chance.
        if secret.len() < 5 {
            return;
        }
        let mut encoded = String::new();
        for byte in secret.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                write!(encoded, "%{byte:02X}").unwrap();
            }
        }
        let quoted = serde_json::to_string(secret).unwrap();
        let xml = secret.replace('&', "&amp;").replace('<', "&lt;");
        let quoted = quoted.trim_matches('"').to_owned();
        self.given.extend([secret.to_owned(), encoded, quoted, xml]);
    }

    /// Where in a text they are, by their first characters.
    fn found_in(&self, place: &str, text: &[u8], may_hold_tokens: bool) -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        let handed_out = self.handed_out.iter().filter(|_| !may_hold_tokens);
        self.given
            .iter()
            .chain(handed_out)
            .filter(|secret| text.contains(secret.as_str()))
            .map(|secret| format!("{place} holds {}…", secret.chars().take(8).collect::<String>()))
            .collect()
    }
}

/// The values of a tag, comments included.
fn values(text: &str, tag: &str) -> Vec<String> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let parts = text.split(&open).skip(1).filter_map(|rest| rest.split_once(&close));
    parts.map(|(value, _)| value.trim().replace("&lt;", "<").replace("&amp;", "&")).collect()
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// Every place where a secret is that was used in a site: what its runs have `said`, and the files in
/// its home, except for those that the administrator has put there.
pub(crate) fn search(site: &Site, secrets: &mut Secrets, said: &[u8]) -> Vec<String> {
    secrets.of_requests(&site.simulator.requests());
    secrets.handed_out.extend(site.simulator.tokens());
    let mut found = secrets.found_in("the output", said, false);
    let mut files = Vec::new();
    files_below(&site.path(""), &mut files);
    for file in files.iter().filter(|file| !file.starts_with(site.path("etc"))) {
        let is_token_file = file.starts_with(site.path("var/wodles/wodle-office365/token.json"));
        let bytes = fs::read(file).unwrap_or_default();
        found.extend(secrets.found_in(&file.display().to_string(), &bytes, is_token_file));
    }
    found
}

#[test]
fn the_search_finds_every_kind_of_secret_wherever_it_is() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    let key = include_str!("keys/rsa.pem");
    write_file(&site.path("etc/app.key"), key.as_bytes(), 0o600);
    let auth = site.api_auth(TENANT, CLIENT, SECRET);
    let unused = "<!-- <client_key_path>etc/app.key</client_key_path>\
                  <proxy>http://user:p%40ssword@h:1</proxy> -->";
    site.configure_with(unused, &auth, &["Audit.General"]);
    site.poll_well();
    assert_eq!(site.leaks(), [""; 0]);

    let token = site.simulator.tokens().remove(0);
    let encoded = "p%2Bq%26r%3Ds%2541%3C~%C3%A9";
    let in_json = json!({ "error": SECRET }).to_string();
    let key_line = key.lines().nth(3).unwrap();
    let basic = STANDARD.encode("user:p@ssword");
    let place = site.path("logs/elsewhere/deeper.txt");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    for secret in [SECRET, encoded, &in_json, &token, key_line, "p@ssword", &basic] {
        fs::write(&place, format!("so {secret} it is")).unwrap();
        let found = site.leaks();
        assert!(!found.is_empty() && found[0].contains("deeper.txt"), "{secret}: {found:?}");
    }
    fs::remove_file(&place).unwrap();
    // The state and the token file are looked into as well, each for what it may not hold.
    let state = fs::read(site.path(STATE)).unwrap();
    fs::write(site.path(STATE), [&state, token.as_bytes()].concat()).unwrap();
    assert_eq!(site.leaks().len(), 1);
    fs::write(site.path(STATE), state).unwrap();
    let tokens = site.path("var/wodles/wodle-office365/token.json");
    let kept = fs::read_to_string(&tokens).unwrap();
    assert!(kept.contains(&token));
    fs::write(&tokens, format!("{kept}{SECRET}")).unwrap();
    assert!(!site.leaks().is_empty());
    fs::write(&tokens, kept).unwrap();
    assert_eq!(site.leaks(), [""; 0]);
}

#[test]
fn hosts_that_say_secrets_back_are_not_repeated() {
    let site = Site::new();
    site.configure("<log_level>debug</log_level>");
    let encoded = "p%2Bq%26r%3Ds%2541%3C~%C3%A9";
    let page = format!("<html>refused: client_secret={encoded} or {SECRET}</html>");
    site.simulator.fault(Fault::on(Call::Token).always().respond(403, &page));
    // The third failure is told.
    for _ in 0..3 {
        assert_eq!(site.poll().code, Some(1));
    }
    let log = site.log();
    assert!(log.contains("client_secret=(secret) or (secret)"), "{log}");
    site.simulator.clear_faults();
    // Cut in the middle: nobody knows it again, but for what stands before it.
    let page = format!("<html>refused: client_id={CLIENT}&client_secret={}</html>", &encoded[..20]);
    site.simulator.fault(Fault::on(Call::Token).always().respond(403, &page));
    site.clear_log();
    assert_eq!(site.poll().code, Some(1));
    let log = site.log();
    assert!(log.contains("client_secret (the rest quotes our request)"), "{log}");
    assert!(!log.contains(&encoded[..8]), "{log}");
    site.simulator.clear_faults();
    site.poll_well();
    let token = site.simulator.tokens().remove(0);
    let body = json!({ "error": { "code": "AF20010", "message": format!("Bearer {token}") } });
    site.simulator.fault(Fault::on(Call::Content).always().respond(400, &body.to_string()));
    for _ in 0..3 {
        assert_eq!(site.poll().code, Some(1));
    }
    assert!(site.log().contains("Bearer (secret)"), "{}", site.log());
}

#[test]
fn a_secret_in_the_place_of_its_file_is_not_shown() {
    let site = Site::new();
    let secret = "hunter2~8Q~hunter2hunter2hunter2hunter2";
    for further in [
        format!("<client_secret_path>{secret}</client_secret_path>"),
        format!(
            "<client_key_path>{secret}</client_key_path>\
             <client_certificate_path>etc/x</client_certificate_path>"
        ),
    ] {
        let auth = site.api_auth_with(TENANT, CLIENT, &further);
        site.configure_with("", &auth, &["Audit.General"]);
        let run = site.poll();
        assert_eq!((run.code, run.told()), (Some(2), vec!["configuration".to_owned()]));
        let log = site.log();
        let unnamed = "the file (its name is not shown: it has no slash, so it may be the secret \
                       itself) can't be read: No such file";
        assert!(log.contains(unnamed) && !log.contains("hunter2"), "{log}");
        assert!(!run.text().contains("hunter2"), "{}", run.text());
    }
}

/// A secret as the API may quote it: as it is, in an address, in JSON.
fn spellings(secret: &str) -> [String; 3] {
    let mut address = String::new();
    for byte in secret.bytes() {
        // A token is too long to be encoded whole.
        if secret.len() > 100 && byte.is_ascii_graphic() {
            address.push(char::from(byte));
        } else {
            write!(address, "%{byte:02X}").unwrap();
        }
    }
    let json = serde_json::to_string(secret).unwrap().replace('/', "\\/");
    [secret.to_owned(), address, json.trim_matches('"').to_owned()]
}

/// All that a site's last run has said, and what the commands say of it now.
fn said(site: &Site, run: &Run) -> String {
    let told = [&["status"][..], &["status", "--json"], &["check"], &["check", "--json"]];
    let told = told.map(|args| site.admin(args)).map(|said| said.stdout + &said.stderr);
    site.log() + &run.text() + &told.concat()
}

#[test]
fn secrets_in_bodies_of_the_api_are_shown_nowhere() {
    let site = Site::new();
    site.configure_one("<log_level>debug</log_level>");
    site.poll_well();
    let token = site.simulator.tokens().remove(0);
    for secret in [SECRET, &token] {
        let [plain, address, in_json] = spellings(secret);
        let error = |text: &str| json!({ "error": { "code": "AF20010", "message": text } });
        for body in [
            error(&plain).to_string(),
            error(&address).to_string(),
            json!({ "error": { "code": in_json, "message": "" } }).to_string(),
            format!("<p>{address} {plain}</p>"),
            // Quoted by what reads it; so far on that it is cut there.
            json!([format!("{}{plain}", "x".repeat(440))]).to_string(),
            json!([format!("{}{plain}", "x".repeat(300))]).to_string(),
        ] {
            site.publish("Audit.General", Duration::minutes(5), &["1"]);
            let status = if body.starts_with('[') { 200 } else { 400 };
            for call in [Call::Content, Call::Fetch, Call::List] {
                site.simulator.fault(Fault::on(call).times(2).respond(status, &body));
            }
            // The first run gets no list, the second one no blob.
            for _ in 0..2 {
                let run = site.poll();
                let said = said(&site, &run);
                for secret in spellings(secret) {
                    assert!(!said.contains(&secret), "{body}: {said}");
                }
                // Nor a part of it that was cut.
                if body.starts_with('[') && secret.len() > 40 {
                    assert!(!said.contains(&plain[..40]), "{body}: {said}");
                }
            }
            site.simulator.clear_faults();
            site.poll_well();
        }
    }
}

#[test]
fn secrets_in_ids_and_links_of_the_api_are_shown_nowhere() {
    let site = Site::new();
    site.configure_one("<log_level>debug</log_level>");
    site.poll_well();
    let token = site.simulator.tokens().remove(0);
    let root = format!("{}/api/v1.0/{TENANT}/activity/feed", site.simulator.management_url());
    for secret in [SECRET, &token] {
        let [plain, address, _] = spellings(secret);
        for (n, uri) in
            [format!("{root}/audit/{address}$x"), format!("{root}/audit/x$y?contentType={address}")]
                .into_iter()
                .enumerate()
        {
            let blob = Blob::raw(site.now() - Duration::minutes(5), "[1]");
            let blob = blob.id(format!("{n}$see {plain}")).uri(uri);
            site.simulator.publish(TENANT, "Audit.General", blob);
            let link = format!("{root}/subscriptions/content?contentType={address}&nextPage=x");
            site.simulator.fault(Fault::on(Call::Content).header("NextPageUri", &link));
            // It can't be fetched, then what is in it is no record.
            site.simulator.fault(Fault::on(Call::Fetch).respond(404, "nothing here"));
            for code in [1, 0] {
                let run = site.poll();
                let said = said(&site, &run);
                assert_eq!(run.code, Some(code), "{said}");
                let hidden =
                    said.contains("$see (secret)") || said.contains("it quotes our request");
                assert!(hidden, "{said}");
                for secret in spellings(secret) {
                    assert!(!said.contains(&secret), "{said}");
                }
                site.simulator.clear_faults();
                site.simulator.fault(Fault::on(Call::Fetch).always().respond(200, "[1]"));
            }
            site.simulator.clear_faults();
        }
    }
    // What waited had its id and address in the state, which is now another, and so is its copy.
    site.poll_well();
    site.poll_well();
}
