//! What a run does on its machine besides collecting: the log, the pipe, files, the lock, secrets.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;

use office365_simulator::{Call, Fault, Simulator};
use time::Duration;

use crate::harness::{CLIENT, PATIENCE, SECRET, STATE, Site, TENANT, binary, mode_of, write_file};
use crate::host::{Host, Options};

#[test]
fn the_log_has_wazuhs_line_form() {
    let site = Site::from_now();
    site.poll_well();
    site.poll_well();
    let log = site.log();
    assert_eq!(mode_of(&site.path("logs/wodle-office365.log")), 0o640);
    let last = log.lines().last().unwrap();
    let (time, rest) = last.split_at("2026/11/23 03:24:51".len());
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999/99/99 99:99:99");
    assert!(
        rest.starts_with(" wodle-office365: INFO: 0 events from 0 blobs, 0 bytes, 5 requests, "),
        "{last}"
    );
}

#[test]
fn log_levels_are_obeyed() {
    let site = Site::from_now();
    for (level, lines) in [("error", 0), ("warning", 0), ("info", 1), ("debug", 7)] {
        site.configure(&format!("<log_level>{level}</log_level>"));
        site.poll_well();
        site.clear_log();
        site.poll_well();
        assert_eq!(site.log().lines().count(), lines, "{level}: {}", site.log());
    }
    let requests = site.log();
    let listing = requests.lines().find(|line| line.contains("contentType=Audit.General"));
    let listing = listing.expect(&requests);
    assert!(listing.contains(" DEBUG: HTTP 200 in "), "{listing}");
    assert!(listing.contains(" ms: GET 127.0.0.1/api/v1.0/") && listing.contains("&startTime=20"));
    assert!(!listing.contains("PublisherIdentifier"), "{listing}");
    site.clear_log();
    let mut command = site.command();
    command.args(["--log-level", "error"]);
    assert_eq!(site.run(&command).code, Some(0));
    assert_eq!(site.log(), "");
}

#[test]
fn secrets_and_tokens_never_leave_by_log_output_or_state() {
    let site = Site::new();
    site.configure("<log_level>debug</log_level>");
    let echo = format!("<html>you sent {SECRET} as p%2Bq%26r%3Ds%2541%3C~%C3%A9</html>");
    site.simulator.fault(Fault::on(Call::Token).respond(500, &echo));
    site.poll_well();
    let tokens = fs::read_to_string(site.path("var/wodles/wodle-office365/token.json")).unwrap();
    let tokens: serde_json::Value = serde_json::from_str(&tokens).unwrap();
    let token = tokens[0]["token"].as_str().unwrap().to_owned();
    let echo = format!("<html>Authorization: Bearer {token}</html>");
    site.simulator.fault(Fault::on(Call::Content).times(2).respond(400, &echo));
    let run = site.poll();
    assert_eq!(run.code, Some(1));
    let state = fs::read_to_string(site.path(STATE)).unwrap();
    for text in [site.log(), run.text(), state] {
        assert!(!text.contains(SECRET) && !text.contains(&token), "{text}");
        assert!(!text.contains("p%2Bq"), "{text}");
    }
    assert!(site.log().contains("Bearer (secret)"), "{}", site.log());
}

#[test]
fn disabled_is_silent_and_well() {
    let site = Site::new();
    site.write_config("<office365><enabled>no</enabled></office365>");
    assert_eq!(site.poll_well().text(), "");
    assert!(site.simulator.requests().is_empty());
}

#[test]
fn a_dry_run_and_a_terminal_swallow_no_events() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    let mut command = site.command();
    command.arg("--dry-run");
    let look = site.run(&command);
    assert_eq!((look.code, look.ids()), (Some(0), vec!["1".to_owned()]));
    assert!(site.log().contains("this is only a look: nothing is saved"));
    let leftovers = || {
        let files = fs::read_dir(site.path("var/wodles/wodle-office365")).unwrap();
        files.map(|f| f.unwrap().file_name().into_string().unwrap()).filter(|f| f != "lock").count()
    };
    assert_eq!(leftovers(), 0);

    let (screen, status) = on_a_terminal(site.command());
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains(r#""Id":"1""#) && screen.contains("this is only a look"), "{screen}");
    assert_eq!(leftovers(), 0);

    assert_eq!(site.poll_well().ids(), ["1"]);
}

/// Runs `command` with a terminal as stdin, stdout and stderr; what it shows, and its exit code.
///
/// Somebody at a terminal starts it, not Wazuh: the one kind of run that isn't a host's.
pub(crate) fn on_a_terminal(mut command: Command) -> (String, Option<i32>) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave: OwnedFd = fs::OpenOptions::new().read(true).write(true).open(name).unwrap().into();
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut screen = Vec::new();
    // Reading fails once the other side is closed.
    let _ = fs::File::from(master).read_to_end(&mut screen);
    (String::from_utf8_lossy(&screen).into_owned(), child.wait().unwrap().code())
}

#[test]
fn two_polls_never_run_at_once() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    site.simulator.fault(Fault::on(Call::Content).hang());
    // A site's own host has one run at a time, so this is another wodle's.
    let other = Host::start(&site.path(""));
    let first = other.begin(&site.command(), Options::default());
    let listing = |requests: &[office365_simulator::Request]| {
        requests.iter().any(|request| request.call == Some(Call::Content))
    };
    assert!(site.simulator.wait_for(PATIENCE, listing));
    let second = site.poll_well();
    assert_eq!(second.text(), "");
    assert!(site.log().contains("another poll is running: nothing to do"));
    // One that holds the lock for longer than run_timeout and a minute hangs.
    let lock = site.path("var/wodles/wodle-office365/lock");
    fs::write(&lock, "2026-01-01T00:00:00Z").unwrap();
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("another poll has been running for "), "{}", site.log());
    first.kill();
    first.end();
    // What it left behind is no obstacle.
    assert_eq!(site.poll_well().ids(), ["1"]);
}

#[test]
fn a_hanging_host_does_not_outlive_run_timeout() {
    let site = Site::new();
    site.configure("<run_timeout>10s</run_timeout><only_future_events>no</only_future_events>");
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    site.simulator.fault(Fault::on(Call::Content).content_type("DLP.All").hang());
    let run = site.poll();
    assert_eq!(run.ids(), ["1"]);
    assert!(site.log().contains("stopped by run_timeout"), "{}", site.log());
    assert_eq!(site.poll_well().text(), "");
}

#[test]
fn a_secret_may_stand_in_a_file_that_is_looked_after() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    let secret = site.path("etc/secret");
    let by_file = "<client_secret_path>etc/secret</client_secret_path>";
    let auth = site.api_auth_with(TENANT, CLIENT, by_file);
    let options = "<only_future_events>no</only_future_events>";
    site.configure_with(options, &auth, &["Audit.General"]);
    for (mode, why) in
        [(0o644, "everyone may read it: chmod o-r"), (0o642, "everyone may write to it: chmod o-w")]
    {
        write_file(&secret, SECRET.as_bytes(), mode);
        assert_eq!((site.poll().code, site.simulator.requests().len()), (Some(2), 0), "{mode:o}");
        assert!(site.log().contains(why), "{}", site.log());
    }
    write_file(&secret, b" \n", 0o600);
    assert_eq!(site.poll().code, Some(2));
    assert!(site.log().contains("etc/secret is empty"), "{}", site.log());
    write_file(&secret, format!("\u{feff}{SECRET} \r\n").as_bytes(), 0o600);
    assert_eq!(site.poll_well().ids(), ["1"]);
    // Not even with a token that is still good.
    write_file(&secret, SECRET.as_bytes(), 0o644);
    site.simulator.clear_requests();
    assert_eq!((site.poll().code, site.simulator.requests().len()), (Some(2), 0));
}

#[test]
fn a_tenant_without_credentials_holds_up_no_other() {
    let site = Site::new();
    let bad = "<client_secret_path>etc/none</client_secret_path>";
    let other = site.api_auth_with("other.example", CLIENT, bad);
    let auth = other + &site.api_auth(TENANT, CLIENT, SECRET);
    site.configure_with("<only_future_events>no</only_future_events>", &auth, &["DLP.All"]);
    site.publish("DLP.All", Duration::minutes(5), &["1"]);
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(2), vec!["1".to_owned()]));
    assert!(
        site.log().contains("ERROR: other.example: sign-in failed: client_secret_path: "),
        "{}",
        site.log()
    );
}

#[test]
fn usage_is_told() {
    let home = tempfile::TempDir::new().unwrap();
    let host = Host::start(home.path());
    let run = |args: &[&str]| host.run(Command::new(binary()).args(args));
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.text().starts_with("Usage: wodle-office365 "));
    assert_eq!(
        run(&["--version"]).text(),
        format!("wodle-office365 {}\n", env!("CARGO_PKG_VERSION"))
    );
    let usage = run(&["--bogus"]);
    assert_eq!(usage.code, Some(2));
    assert_eq!(
        usage.text(),
        "wodle-office365: there is no option --bogus; see wodle-office365 --help\n"
    );
    let missing = run(&["--home", "/nonexistent"]);
    assert_eq!(missing.code, Some(2));
    assert_eq!(
        missing.text(),
        "wodle-office365: /nonexistent is no folder: name Wazuh's with --home\n"
    );
}

#[test]
fn without_a_log_the_events_come_all_the_same_and_nothing_else() {
    let site = Site::new();
    site.publish("Audit.General", Duration::minutes(5), &["1"]);
    fs::create_dir(site.path("logs/wodle-office365.log")).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert_eq!(site.poll().text(), "");
}

/// The child of the test below: a program with our logging that panics in a thread.
#[test]
#[ignore = "it ends its process; run by a_panic_goes_to_the_log_and_ends_in_exit_code_1"]
fn panic_here() {
    let log = std::env::var_os("PANIC_LOG").expect("set by the parent");
    wodle_office365::logging::start_quiet(
        std::fs::File::options().append(true).create(true).open(&log),
    )
    .unwrap();
    let _ = std::thread::spawn(|| panic!("on\npurpose")).join();
    std::process::exit(0);
}

#[test]
fn a_panic_goes_to_the_log_and_ends_in_exit_code_1() {
    let site = Site::new();
    let log = site.path("logs/panic.log");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "manners::panic_here", "--nocapture"])
        .env("PANIC_LOG", &log);
    assert_eq!(site.run(&command).code, Some(1));
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains(
            "wodle-office365: ERROR: this is a fault of wodle-office365, please report it: "
        ),
        "{log}"
    );
    assert!(log.contains("on\\npurpose"), "{log}");
}

#[test]
fn only_a_terminal_gets_words_on_stderr() {
    let site = Site::new();
    site.write_config("<office365><bogus>1</bogus></office365>");
    let quiet = site.poll();
    assert_eq!((quiet.code, quiet.lines().len(), quiet.notices().len()), (Some(2), 1, 1));
    let (screen, code) = on_a_terminal(site.command());
    assert_eq!(code, Some(2));
    assert!(
        screen.contains("ERROR: configuration: ") && screen.contains(":1:12: <bogus> is no option"),
        "{screen}"
    );
}

#[test]
fn a_simulator_that_is_gone_is_a_refused_connection() {
    let site = Site::new();
    let gone = Simulator::builder().start().unwrap().login_url();
    let auth = site.api_auth(TENANT, CLIENT, SECRET).replace(&site.simulator.login_url(), &gone);
    site.configure_with("", &auth, &["Audit.General"]);
    assert_eq!(site.poll().code, Some(1));
    let address = gone.strip_prefix("http://").unwrap();
    let refused = format!("sign-in failed: {address} refuses the connection: ");
    assert!(site.log().contains(&refused), "{}", site.log());
}
