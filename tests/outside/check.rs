//! `check`: every mistake has a line of its own, which names the mistake and the remedy.

use std::fs;
use std::path::Path;

use office365_simulator::tls::client_certificate;
use office365_simulator::{Call, Fault, Simulator, Tenant};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::harness::{Admin, CLIENT, SECRET, STATE, Site, TENANT, mode_of, write_file};
use crate::manners::on_a_terminal;
use crate::proxies::{Proxy, Rules};
use crate::trust::tls_site;

const RSA: &str = include_str!("keys/rsa.pem");

/// The one line that is not well, without its mark and what was checked; the exit code is 1.
fn failure(site: &Site, check: &str) -> String {
    let told = site.admin(&["check"]);
    assert_eq!(told.code, Some(1), "{}{}", told.stdout, told.stderr);
    let failed: Vec<_> = told.stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_eq!(failed.len(), 1, "{}", told.stdout);
    let rest = failed[0].strip_prefix("FAIL  ").unwrap();
    let text = rest.strip_prefix(check).unwrap_or_else(|| panic!("{check}: {rest}"));
    assert!(told.stdout.ends_with(" warnings\n") || told.stdout.ends_with(" warning\n"));
    text.trim_start().to_owned()
}

/// What there is under a folder, with sizes and modes.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(tree(&path));
        }
        let size = if meta.is_dir() { 0 } else { meta.len() };
        found.push(format!("{} {size} {:o}", path.display(), mode_of(&path)));
    }
    found.sort();
    found
}

fn good_wodle(site: &Site) {
    let block = site.admin(&["wodle"]).stdout;
    let ossec = format!("<ossec_config>\n{block}</ossec_config>\n");
    write_file(&site.path("etc/ossec.conf"), ossec.as_bytes(), 0o640);
}

#[test]
fn all_is_well_and_nothing_is_written_but_the_log() {
    let site = Site::new();
    good_wodle(&site);
    site.publish("Audit.AzureActiveDirectory", Duration::minutes(5), &["1"]);
    for name in office365_simulator::CONTENT_TYPES {
        site.simulator.set_subscription(TENANT, name, Some("enabled"));
    }
    let before = tree(&site.path(""));
    let check = site.admin(&["check"]);
    let after = tree(&site.path(""));
    let is_log = |line: &&String| line.contains("/logs/");
    let left: Vec<_> =
        after.iter().filter(|line| !before.contains(line) && !is_log(line)).collect();
    assert_eq!(left, [""; 0]);
    assert!(!site.log().contains("ERROR") && site.log().contains("check: 0 failures, 0 warnings"));
    assert_eq!(site.calls().get("start"), None);

    let stdout = check.well();
    let told: Vec<_> = stdout.lines().filter(|line| !line.is_empty()).collect();
    let topics: Vec<_> = told.iter().map(|l| l.split_whitespace().take(2).collect()).collect();
    let topics: Vec<Vec<_>> = topics;
    assert_eq!(
        topics,
        [
            ["ok", "log"],
            ["ok", "configuration"],
            ["ok", "state"],
            ["ok", "wodle"],
            ["ok", "confinement"],
            ["tenant", TENANT],
            ["ok", "credentials"],
            ["ok", "proxy"],
            ["ok", "TLS"],
            ["ok", "login"],
            ["ok", "roles"],
            ["ok", "subscriptions"],
            ["ok", "listing"],
            ["ok", "clock"],
            ["ok", "state"],
            ["0", "failures,"],
        ],
        "{stdout}"
    );
    assert!(stdout.contains("Audit.AzureActiveDirectory: 1 content blob within the last 24 hours"));
    assert!(
        stdout.contains("mode 0640") && stdout.contains("ActivityFeed.Read, ActivityFeed.Read")
    );

    site.poll_well();
    let stdout = site.admin(&["check"]).well();
    for name in office365_simulator::CONTENT_TYPES {
        assert!(stdout.contains(&format!("{name}: position 20")), "{stdout}");
    }
}

/// Code, status, OAuth's word, and what the line must say: the mistake and the remedy.
#[rustfmt::skip]
const LOGIN: [(&str, u16, &str, [&str; 2]); 13] = [
    ("7000215", 401, "invalid_client", ["the secret's ID was copied instead of its Value", "choose New client secret, copy its Value at once"]),
    ("7000222", 401, "invalid_client", ["the client secret has expired", "Certificates & secrets > New client secret"]),
    ("700016", 400, "unauthorized_client", ["are tenant_id and client_id swapped, or is one of them another tenant's?", "tenant_id is its Directory (tenant) ID, client_id its Application (client) ID"]),
    ("90002", 400, "invalid_request", ["are tenant_id and client_id swapped, is tenant_id mistyped", "Compare tenant_id with the Directory (tenant) ID on the application's Overview page"]),
    ("900023", 400, "invalid_request", ["tenant_id is neither a tenant's id nor a domain name", "Put the Directory (tenant) ID of"]),
    ("700027", 401, "invalid_client", ["the application doesn't know the certificate", "Certificates > Upload certificate"]),
    ("700024", 401, "invalid_client", ["this machine's clock is wrong", "set the clock (NTP)"]),
    ("500011", 400, "invalid_resource", ["it is the wrong cloud", "set api_type to the tenant's cloud"]),
    ("70011", 400, "invalid_scope", ["the scope is not valid for this login host", "set api_type to the tenant's cloud"]),
    ("1002012", 400, "invalid_scope", ["management_url is not the API's", "remove management_url unless you need it"]),
    ("7000112", 401, "unauthorized_client", ["the application is disabled", "set Enabled for users to sign-in? to Yes"]),
    ("53003", 400, "access_denied", ["a Conditional Access policy blocks this sign-in", "exclude the application"]),
    ("90055", 429, "temporarily_unavailable", ["asks us to slow down", "it is tried again"]),
];

#[test]
fn every_refusal_of_the_login_host_names_mistake_and_remedy() {
    let site = Site::new();
    for (code, status, word, expected) in LOGIN {
        site.simulator.clear_faults();
        let body = json!({
            "error": word,
            "error_description": format!("AADSTS{code}: words.\r\nTrace ID: 1"),
            "error_codes": [code.parse::<u64>().unwrap()],
        });
        let fault = Fault::on(Call::Token).respond(status, &body.to_string()).always();
        site.simulator.fault(fault);
        let line = failure(&site, "login");
        assert!(
            line.starts_with(&format!("{TENANT}: HTTP {status} AADSTS{code}: words. - ")),
            "{line}"
        );
        for words in expected {
            assert!(line.contains(words), "{code}: {words}\n{line}");
        }
        // The log and the notices have the same words.
        site.clear_log();
        assert_eq!(site.poll().code, Some(1));
        for words in expected {
            assert!(site.log().contains(words), "{code}: {words}\n{}", site.log());
        }
        let json = site.admin(&["check", "--json"]).json();
        let findings = json["findings"].as_array().unwrap();
        let failed: Vec<_> = findings.iter().filter(|f| f["mark"] == "failure").collect();
        assert_eq!(failed[0]["code"], format!("AADSTS{code}"));
    }
}

/// Code, status, message, and what the line must say.
#[rustfmt::skip]
const API: [(&str, u16, [&str; 2]); 22] = [
    ("AF429", 403, ["too many requests", "lower max_connections"]),
    ("AF10001", 401, ["the application lacks a permission", "then Grant admin consent"]),
    ("AF20001", 400, ["a parameter of our request is missing", "report this as a fault of wodle-office365"]),
    ("AF20002", 400, ["a parameter of our request has the wrong type", "report this as a fault of wodle-office365"]),
    ("AF20003", 400, ["a time in our request lies in the past", "set this machine's clock"]),
    ("AF20010", 400, ["the token belongs to another tenant than tenant_id", "Directory (tenant) ID"]),
    ("AF20011", 400, ["the API doesn't know this tenant", "api_type with the tenant's cloud"]),
    ("AF20012", 400, ["no licence with auditing", "assign a Microsoft 365 or Office 365 licence"]),
    ("AF20013", 400, ["tenant_id is no valid GUID", "put the Directory (tenant) ID"]),
    ("AF20020", 400, ["doesn't take this content type in this cloud", "remove its subscription"]),
    ("AF20022", 400, ["there is no subscription", "the next poll starts it"]),
    ("AF20023", 400, ["the subscription was stopped", "the next poll starts it"]),
    ("AF20024", 400, ["the subscription is on already", ""]),
    ("AF20030", 400, ["the time window is longer than a day", "told as a gap"]),
    ("AF20031", 400, ["the link to the next page", "listed again from its first page"]),
    ("AF20050", 400, ["no longer has this content", "Microsoft Purview portal > Solutions > Audit"]),
    ("AF20051", 400, ["the content has expired", "look for its events in the Microsoft Purview portal"]),
    ("AF20052", 400, ["doesn't take this content's id", "a poll tries it once more"]),
    ("AF20055", 400, ["older than the 7 days", "told as a gap"]),
    ("AF50000", 500, ["an internal error on Microsoft's side", "Service health"]),
    ("AF50005", 500, ["an internal error on Microsoft's side", "Service health"]),
    ("AF50006", 500, ["an internal error on Microsoft's side", "Service health"]),
];

#[test]
fn every_refusal_of_the_api_names_mistake_and_remedy() {
    let site = Site::new();
    site.poll_well();
    for (code, status, expected) in API {
        site.simulator.clear_faults();
        let body = json!({ "error": { "code": code, "message": "words" } }).to_string();
        site.simulator.fault(Fault::on(Call::Content).respond(status, &body).always());
        let line = failure(&site, "listing");
        let begin = format!("{TENANT} Audit.AzureActiveDirectory: HTTP {status} {code} words - ");
        assert!(line.starts_with(&begin), "{line}");
        for words in expected {
            assert!(line.contains(words), "{code}: {words}\n{line}");
        }
    }
}

#[test]
fn the_ids_swapped_or_another_tenants_are_told() {
    let site = Site::new();
    let auth = |tenant: &str, client: &str| {
        site.configure_with("", &site.api_auth(tenant, client, SECRET), &["Audit.General"]);
        failure(&site, "login")
    };
    assert!(auth(CLIENT, TENANT).contains("are tenant_id and client_id swapped"));
    let other = "d1b2c3d4-0000-4000-8000-00000000000d";
    assert!(auth(TENANT, other).contains("AADSTS700016"));
    let id = "51b2c3d4-0000-4000-8000-000000000005";
    site.configure_with("", &site.api_auth(TENANT, CLIENT, id), &["Audit.General"]);
    let check = site.admin(&["check"]);
    assert!(check.line("warn  credentials").contains("looks like the secret's ID"), "{check:?}");
    assert!(check.line("FAIL  login").contains("AADSTS7000215"), "{check:?}");
    site.configure_with("", &site.api_auth(TENANT, TENANT, SECRET), &["Audit.General"]);
    let check = site.admin(&["check"]);
    assert!(check.line("FAIL  configuration").contains("tenant_id and client_id are the same"));
}

#[test]
fn missing_roles_name_what_needs_them() {
    let site = Site::new();
    site.simulator.set_roles(TENANT, &["ActivityFeed.Read"]);
    let line = failure(&site, "roles");
    assert!(
        line.starts_with(&format!(
            "{TENANT}: the token lacks ActivityFeed.ReadDlp, without which there is no DLP.All: "
        )),
        "{line}"
    );
    assert!(line.contains("then Grant admin consent"), "{line}");
    site.simulator.set_roles(TENANT, &[]);
    let line = failure(&site, "roles");
    assert!(line.contains("lacks ActivityFeed.Read and ActivityFeed.ReadDlp"), "{line}");
    assert!(site.admin(&["check"]).line("-     subscriptions").contains("can't be looked at"));
}

#[test]
fn missing_subscriptions_are_started_only_when_asked_for() {
    let site = Site::new();
    good_wodle(&site);
    site.simulator.set_subscription(TENANT, "Audit.General", Some("enabled"));
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    check.line("ok    subscriptions  on: Audit.General");
    let line = check.line("warn  subscriptions");
    assert!(
        line.contains("not started yet: Audit.AzureActiveDirectory, Audit.Exchange, "),
        "{line}"
    );
    assert!(line.contains("the next poll starts them, or check --start"), "{line}");
    assert_eq!(site.calls().get("start"), None);

    let check = site.admin(&["check", "--start"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert_eq!(site.calls()["start"], 4);
    check.line("ok    subscriptions  DLP.All: started; Microsoft may take up to 12 hours");
    site.admin(&["check"]).line("Audit.SharePoint, Audit.General, DLP.All");

    // Auditing is off.
    site.simulator.set_subscription(TENANT, "DLP.All", None);
    let off =
        r#"{"error":{"code":"StartSubscription [CorrId=1]","message":"Tenant 1 does not exist."}}"#;
    site.simulator.fault(Fault::on(Call::Start).respond(400, off).always());
    let check = site.admin(&["check", "--start"]);
    assert_eq!(check.code, Some(1));
    let line = check.line("FAIL  subscriptions");
    assert!(line.contains(&format!("{TENANT} DLP.All: HTTP 400 StartSubscription")), "{line}");
    assert!(line.contains("auditing is off") && line.contains("Start recording user"), "{line}");
}

#[test]
fn files_that_polls_would_refuse_are_told() {
    let site = Site::new();
    let auth = site.api_auth_with(
        TENANT,
        CLIENT,
        "<client_secret_path>etc/app.secret</client_secret_path>",
    );
    site.configure_with("", &auth, &["Audit.General"]);
    let secret = site.path("etc/app.secret");
    let line = failure(&site, "credentials");
    assert!(line.contains("client_secret_path: ") && line.contains("can't be read: No such file"));
    write_file(&secret, SECRET.as_bytes(), 0o644);
    let line = failure(&site, "credentials");
    assert!(line.contains("everyone may read it: chmod o-r "), "{line}");
    site.admin(&["check"])
        .line("-     login          not tried; roles, subscriptions, listing and ");
    write_file(&secret, format!(" {SECRET}\n").as_bytes(), 0o640);
    let check = site.admin(&["check"]);
    check.line("ok    credentials    there is white space around the secret in its file");
    assert_eq!(check.code, Some(0));

    fs::set_permissions(site.config(), std::os::unix::fs::PermissionsExt::from_mode(0o646))
        .unwrap();
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(2), "nothing else can be looked at");
    assert!(check.line("FAIL  configuration").contains("everyone may write to it: chmod o-w "));
    site.write_config("<office365><lokback>1h</lokback></office365>");
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(2));
    let line = check.line("FAIL  configuration");
    assert!(!line.contains("configuration: "), "{line}");
    assert!(
        line.contains(":1:12: <lokback> is no option of <office365>; did you mean <lookback>?")
    );
    site.configure("");
    fs::set_permissions(site.config(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let check = site.admin(&["check"]);
    assert!(check.line("warn  configuration").contains("everyone may read it: chmod 0640"));
}

#[test]
fn what_a_beginner_has_not_done_yet_is_told() {
    let site = Site::new();
    fs::remove_file(site.config()).unwrap();
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(2));
    let line = check.line("FAIL  configuration");
    assert!(line.contains(" is not there: put the commented example wodle-office365.conf there"));
    // Without sudo.
    site.configure("");
    site.poll_well();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    fs::set_permissions(site.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let mut command = site.admin_command(&["status"]);
    let status = site.run_admin(std::os::unix::process::CommandExt::uid(&mut command, 65_534));
    assert_eq!(status.code, Some(2));
    assert!(status.stderr.contains("; run this as root\n"), "{}", status.stderr);
}

#[test]
fn a_disabled_configuration_is_looked_at_all_the_same() {
    let site = Site::new();
    site.configure("<enabled>no</enabled>");
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0));
    assert!(check.line("warn  configuration").contains("polls do nothing; say <enabled>yes"));
    check.line("ok    login");
    site.write_config("<office365><enabled>no</enabled></office365>");
    assert_eq!(site.admin(&["check"]).code, Some(0), "it may hold nothing else yet");
}

#[test]
fn proxy_tls_and_dead_hosts_fail_under_their_own_names() {
    let site = tls_site(&["127.0.0.1"]);
    let line = failure_of(&site.admin(&["check"]), "TLS");
    assert!(
        line.contains("issued by \"CN=Company CA\", whom this machine doesn't trust"),
        "{line}"
    );
    site.configure("<ca_path>etc/ca.pem</ca_path>");
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert!(check.line("ok    TLS").contains("and their certificates are trusted"));
    check.line("ok    proxy          none, direct");

    let proxy = Proxy::start(Rules { login: Some("u:hunter22"), ..Rules::default() });
    let with = |login: &str| {
        site.configure(&format!(
            "<ca_path>etc/ca.pem</ca_path><proxy>http://{login}{}</proxy>",
            proxy.address
        ));
        site.admin(&["check"])
    };
    let line = failure_of(&with(""), "proxy");
    assert!(line.contains("wants a user and a password that it knows (HTTP 407)"), "{line}");
    with("u:hunter22@").line(&format!("ok    proxy          {}", proxy.address));

    site.configure("<ca_path>etc/ca.pem</ca_path>");
    let mut command = site.admin_command(&["check"]);
    command.env("HTTPS_PROXY", format!("http://u:hunter22@{}", proxy.address));
    let check = site.run_admin(&mut command);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    let line = check.line("warn  environment");
    assert!(line.contains("the proxy comes from HTTPS_PROXY only"), "{line}");
    assert!(line.contains("write it into the configuration as <proxy>"), "{line}");
    let ca = site.path("etc/ca.pem");
    let check = site.run_admin(site.admin_command(&["check"]).env("SSL_CERT_FILE", ca));
    assert!(check.line("warn  environment").contains("come from SSL_CERT_FILE"), "{check:?}");

    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.configure_with(
        "",
        &site
            .api_auth(TENANT, CLIENT, SECRET)
            .replace(&site.simulator.login_url(), &format!("http://{dead}")),
        &["Audit.General"],
    );
    let line = failure_of(&site.admin(&["check"]), "connection");
    assert!(line.contains("refuses the connection"), "{line}");
}

/// The first failing line of this check.
fn failure_of(told: &Admin, check: &str) -> String {
    assert_eq!(told.code, Some(1), "{}", told.stdout);
    told.line(&format!("FAIL  {check} ")).to_owned()
}

#[test]
fn wazuhs_own_configuration_is_compared() {
    let site = Site::new();
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "no block yet is no fault");
    assert!(check.line("warn  wodle").contains("put the block that wodle-office365 wodle prints"));
    let block = site.admin(&["wodle", "--verify"]).stdout;
    let native = format!(
        "<office365><api_auth><tenant_id>{}</tenant_id></api_auth></office365>",
        TENANT.to_ascii_uppercase()
    );
    for (ossec, expected) in [
        (format!("{block}{native}"), "Wazuh's own <office365> module collects tenant"),
        (format!("{block}{block}"), "remove all but one"),
        (block.replace("360", "350"), "is too short"),
        (block.replace("360", "6m"), "is not in bare seconds"),
        (
            block.replace("<verify_sha256>", "<verify_sha256>0").replace("0</verify", "</verify"),
            "is not the checksum",
        ),
        (
            format!(
                "{block}<wodle name=\"command\"><tag>wodle-office365</tag><command>/bin/x</command>\
                 </wodle>"
            ),
            "give each one of its own",
        ),
    ] {
        write_file(&site.path("etc/ossec.conf"), ossec.as_bytes(), 0o640);
        let check = site.admin(&["check"]);
        assert_eq!(check.code, Some(0), "{}", check.stdout);
        assert!(check.line(expected).starts_with("warn  "), "{}", check.stdout);
    }
}

#[test]
fn a_wrong_clock_and_a_late_stream_are_warned_of() {
    let site = Site::new();
    site.poll_well();
    site.simulator.advance(Duration::hours(30));
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    let line = check.line("warn  clock");
    assert!(line.contains("this machine's clock is 30.0 h behind Microsoft's: set it"), "{line}");
    let line = check.line("warn  state");
    assert!(line.contains("lag 30.0 h") && line.contains("keeps content for 7 days"), "{line}");
}

#[test]
fn a_certificates_days_are_shown() {
    let now = OffsetDateTime::now_utc();
    for (days, expected) in [
        (100, "ok    credentials    a certificate, which expires in 100 days"),
        (9, "its certificate expires in 9 days, at "),
    ] {
        let end = now + Duration::days(days) + Duration::hours(1);
        let (pem, der) = client_certificate(RSA, now - Duration::days(1)..end);
        let guid = "c1b2c3d4-0000-4000-8000-000000000003";
        let tenant = Tenant::new(guid, CLIENT, "no secret is used").certificate(&der);
        let site = Site::built(Simulator::builder().tenant(tenant));
        write_file(&site.path("etc/app.pem"), pem.as_bytes(), 0o644);
        write_file(&site.path("etc/app.key"), RSA.as_bytes(), 0o640);
        let files = "<client_certificate_path>etc/app.pem</client_certificate_path>\
                     <client_key_path>etc/app.key</client_key_path>";
        let auth = site.api_auth_with(guid, CLIENT, files);
        site.configure_with("", &auth, &["Audit.General"]);
        let check = site.admin(&["check"]);
        assert_eq!(check.code, Some(0), "{}", check.stdout);
        check.line(expected);
        check.line("ok    login          signed in with a certificate");
    }
}

#[test]
fn many_tenants_are_checked_side_by_side_and_told_in_order() {
    let guid = |n: usize| format!("e1b2c3d4-0000-4000-8000-{n:012}");
    let mut builder = Simulator::builder();
    for n in 0..20 {
        builder = builder.tenant(Tenant::new(&guid(n), CLIENT, SECRET));
    }
    let site = Site::built(builder);
    let auth: String = (0..21).map(|n| site.api_auth(&guid(n), CLIENT, SECRET)).collect();
    site.configure_with("", &auth, &["Audit.General"]);
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(1));
    let tenants: Vec<_> =
        check.stdout.lines().filter_map(|line| line.strip_prefix("tenant ")).collect();
    assert_eq!(tenants, (0..21).map(guid).collect::<Vec<_>>());
    let failed: Vec<_> = check.stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(failed.len() == 1 && failed[0].contains(&guid(20)), "{failed:?}");
    site.simulator.clear_requests();
    let one = site.admin(&["check", "--tenant", &guid(3)]);
    assert_eq!(one.code, Some(0), "{}", one.stdout);
    assert_eq!(site.calls()["token"], 1);
    let none = site.admin(&["check", "--tenant", "nobody"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(2), ""));
    assert!(none.stderr.contains("there is no tenant \"nobody\" in the configuration, only: e1b2"));
}

#[test]
fn one_tenant_under_two_names_is_told() {
    let site = Site::new();
    let auth =
        site.api_auth(TENANT, CLIENT, SECRET) + &site.api_auth("contoso.example", CLIENT, SECRET);
    site.configure_with("", &auth, &["Audit.General"]);
    let check = site.admin(&["check"]);
    let line = failure_of(&check, "configuration");
    assert!(
        line.contains(&format!("contoso.example: it is the same tenant as {TENANT}: ")),
        "{line}"
    );
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let site = Site::new();
    let (screen, code) = on_a_terminal(site.admin_command(&["check"]));
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("\u{1b}[32mok  \u{1b}[0m  login"), "{screen}");
    let mut command = site.admin_command(&["check"]);
    command.env("NO_COLOR", "1");
    assert!(!on_a_terminal(command).0.contains('\u{1b}'));
    assert!(!site.admin(&["check"]).stdout.contains('\u{1b}'));
}

#[test]
fn machines_get_the_same_findings() {
    let site = Site::new();
    site.simulator.set_roles(TENANT, &["ActivityFeed.Read"]);
    let check = site.admin(&["check", "--json"]);
    assert_eq!(check.code, Some(1));
    let json = check.json();
    assert_eq!((&json["ok"], &json["failures"]), (&json!(false), &json!(1)));
    let findings = json["findings"].as_array().unwrap();
    let failed: Vec<_> = findings.iter().filter(|f| f["mark"] == "failure").collect();
    assert_eq!((&failed[0]["check"], &failed[0]["tenant_id"]), (&json!("roles"), &json!(TENANT)));
    assert!(
        failed[0]["text"].as_str().unwrap().starts_with("the token lacks ActivityFeed.ReadDlp")
    );
    let of_streams = findings.iter().filter(|f| f["content_type"] == "DLP.All").count();
    assert_eq!(of_streams, 0, "no poll has begun yet");
}

#[test]
fn a_passing_fault_of_a_moment_is_none() {
    let site = Site::new();
    site.simulator.fault(Fault::on(Call::Token).respond(503, "busy"));
    site.simulator.fault(Fault::on(Call::Content).drop_connection());
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
}

#[test]
fn what_the_state_knows_of_is_told_as_what_it_is() {
    let site = Site::new();
    site.configure_one("");
    let stuck = site.publish("Audit.General", Duration::minutes(5), &["1"]);
    let gone = || Fault::on(Call::Fetch).content_id(&stuck).respond(404, "x").always();
    site.simulator.fault(gone());
    assert_eq!(site.poll().code, Some(1));
    let line = failure(&site, "state");
    assert!(line.contains("1 blob waiting; the last poll failed: content "), "{line}");
    site.simulator.clear_faults();
    site.poll_well();
    assert_eq!(site.admin(&["check"]).code, Some(0));

    // A fault that is mended by now.
    let refused = r#"{"error":{"code":"AF20012","message":"m"}}"#;
    site.simulator.fault(Fault::on(Call::Content).respond(400, refused));
    assert_eq!(site.poll().code, Some(1));
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert!(check.line("warn  state").contains("if all above is well, the next one won't: "));
    site.poll_well();

    // Auditing is off, which nobody but who starts a subscription finds out.
    site.configure("");
    let off =
        r#"{"error":{"code":"StartSubscription [CorrId=1]","message":"Tenant 1 does not exist."}}"#;
    site.simulator.fault(Fault::on(Call::Start).content_type("DLP.All").respond(400, off).always());
    assert_eq!(site.poll().code, Some(1));
    let check = site.admin(&["check", "--json"]);
    assert_eq!(check.code, Some(1));
    let json = check.json();
    let failed = |f: &&serde_json::Value| f["mark"] == "failure" && f["content_type"] == "DLP.All";
    let found = json["findings"].as_array().unwrap().iter().find(failed);
    let text = found.unwrap()["text"].as_str().unwrap();
    assert!(text.contains("auditing is off for this tenant"), "{text}");
    assert_eq!((&found.unwrap()["check"], &json["failures"]), (&json!("subscriptions"), &json!(1)));
    // It is on by now, and check --start has seen to it.
    site.simulator.clear_faults();
    let check = site.admin(&["check", "--start"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert!(!check.stdout.contains("is not on"), "{}", check.stdout);
}

#[test]
fn a_backlog_that_cannot_be_listed_is_no_matter_of_the_past() {
    let site = Site::new();
    site.configure_one("");
    site.poll_well();
    site.simulator.advance(Duration::hours(50));
    let refused = r#"{"error":{"code":"AF20012","message":"m"}}"#;
    let fault = || Fault::on(Call::Content).respond(400, refused);
    site.simulator.fault(fault().always());
    assert_eq!(site.poll().code, Some(1));
    // The last day can be listed, but not where the stream stands.
    site.simulator.clear_faults();
    site.simulator.fault(fault());
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(1), "{}", check.stdout);
    assert!(check.line("FAIL  listing").contains("AF20012"), "{}", check.stdout);
    assert_eq!(site.admin(&["check"]).code, Some(0), "it is mended");
}

#[test]
fn polls_that_have_stopped_and_a_damaged_state_are_told() {
    let site = Site::new();
    site.poll_well();
    site.poll_well();
    let before = site.state();
    let mut state = before.clone();
    state["last_poll"] = json!("2026-01-01T00:00:00Z");
    fs::write(site.path(STATE), state.to_string()).unwrap();
    let line = failure(&site, "state");
    assert!(line.contains("no poll has run to its end for ") && line.contains("one is due every"));
    fs::write(site.path(STATE), before.to_string()).unwrap();
    assert_eq!(site.admin(&["check"]).code, Some(0));
    fs::write(site.path(STATE), "{").unwrap();
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert!(check.line("warn  state").contains("its previous copy is used"), "{}", check.stdout);
    let status = site.admin(&["status"]);
    assert_eq!(status.code, Some(0));
    assert!(status.line("warning: ").contains("its previous copy is used"));
}

#[test]
fn our_own_files_are_nobody_elses() {
    let site = Site::new();
    site.poll_well();
    let clean = site.admin(&["check"]).stdout;
    assert!(!clean.contains("has mode"), "{clean}");
    let open = |path: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(site.path(path), permissions).unwrap();
    };
    open("var/wodles/wodle-office365", 0o755);
    open("var/wodles/wodle-office365/token.json", 0o604);
    open("logs/wodle-office365.log", 0o666);
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(0));
    assert!(
        check.line("wodle-office365 has mode 0755, so others may use it: chmod go= ").len() > 9
    );
    check.line("token.json has mode 0604, so others may use it: chmod o= ");
    assert!(check.line("warn  log").contains("has mode 0666, so others may use it: chmod go= "));
}

#[test]
fn a_subscription_that_was_started_this_moment_is_no_fault() {
    let site = Site::new();
    site.configure_one("");
    let off = r#"{"error":{"code":"AF20023","message":"disabled"}}"#;
    site.simulator.fault(Fault::on(Call::Content).respond(400, off).always());
    let check = site.admin(&["check", "--start"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert!(check.line("warn  listing").contains("was started a moment ago"));
    assert!(failure(&site, "listing").contains("AF20023"), "later it is one");
}

#[test]
fn answers_that_are_not_microsofts_are_told_as_such() {
    let site = Site::new();
    site.poll_well();
    for (call, check, status, body, expected) in [
        (Call::Token, "login", 302, "", "a page to log in to the network, in between?"),
        (Call::Token, "login", 401, "", "no answer of Microsoft's login host"),
        (Call::Token, "login", 400, r#"{"error":"x"}"#, "is login_url right, if it is given?"),
        (Call::Token, "login", 502, "<html>bad gateway", "a passing fault of the login host or of"),
        (Call::Token, "login", 200, "<html>welcome", "is a proxy, or a page to log in to the net"),
        (Call::Content, "listing", 403, "<html>no", "does a proxy or a firewall forbid it?"),
        (Call::Content, "listing", 401, "", "does tenant_id name the tenant, and api_type its"),
        (Call::Content, "listing", 200, "<html>welcome", "is a proxy in between?"),
        (
            Call::Content,
            "listing",
            400,
            r#"{"error":{"code":"AF77777","message":"new"}}"#,
            "see the Office 365 Management Activity API reference, Errors",
        ),
    ] {
        site.simulator.clear_faults();
        site.simulator.fault(Fault::on(call).respond(status, body).always());
        let line = failure(&site, check);
        assert!(line.contains(expected), "{status} {body}: {line}");
    }
}
