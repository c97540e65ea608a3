//! What a terminal gets: nothing that it would obey, whoever wrote it.

use office365_simulator::{Blob, Call, Fault};
use serde_json::{Value, json};
use time::Duration;

use crate::harness::{Site, TENANT, record};
use crate::manners::on_a_terminal;

/// One of each kind that a terminal obeys, or that turns the direction of writing.
const OBEYED: &str = "\u{1b}[31m\u{7}\u{7f}\u{80}\u{9b}31m\u{9f}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";

/// What a terminal would obey of a screen, apart from our own line breaks and colours.
fn obeyed(screen: &str) -> Vec<char> {
    let mut screen = screen.replace("\r\n", "\n");
    for ours in ["\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m", "\x1b[K", "\r"] {
        screen = screen.replace(ours, "");
    }
    let turns = |c| OBEYED.contains(c) && !char::is_ascii(&c);
    screen.chars().filter(|c| *c != '\n' && (c.is_control() || turns(*c))).collect()
}

/// A site with a record, a content id and a refusal that hold what a terminal would obey.
fn site() -> Site {
    let site = Site::new();
    let mut odd = record("1");
    odd["Text"] = json!(OBEYED);
    odd[OBEYED] = json!("name");
    let blob = Blob::new(site.now() - Duration::minutes(5), &[odd]);
    site.simulator.publish(TENANT, "Audit.General", blob);
    let body = json!({ "error": { "code": "AF20010", "message": OBEYED } }).to_string();
    let fault = Fault::on(Call::Content).content_type("DLP.All").always();
    site.simulator.fault(fault.respond(400, &body));
    site
}

#[test]
fn a_terminal_gets_what_others_wrote_escaped_from_every_command() {
    let site = site();
    let poll = |further: &[&str]| {
        let mut command = site.command();
        command.args(further);
        command
    };
    let events = [poll(&[]), poll(&["--dry-run"])];
    let backfill = site.admin_command(&["backfill", "--from", "1h", "--stdout"]);
    for command in events.into_iter().chain([backfill]) {
        let (screen, _) = on_a_terminal(command);
        assert_eq!(obeyed(&screen), [], "{screen:?}");
        let line = screen.lines().find(|line| line.contains("\"Text\"")).expect(&screen);
        let line = line.get(line.find("{\"integration\"").unwrap()..).unwrap();
        let event: Value = serde_json::from_str(line.trim_end()).expect("it is still JSON");
        assert_eq!(event["office365"]["Text"], OBEYED, "and says the same");
    }
    // The failure is in the state now.
    assert_eq!(site.poll().code, Some(1));
    for args in [&["status"][..], &["status", "--json"], &["check"], &["check", "--json"]] {
        let (screen, _) = on_a_terminal(site.admin_command(args));
        assert!(screen.contains("AF20010"), "{screen}");
        assert_eq!(obeyed(&screen), [], "{args:?}: {screen:?}");
    }
    let (screen, code) = on_a_terminal(site.admin_command(&[&format!("--{OBEYED}")]));
    assert_eq!((code, obeyed(&screen)), (Some(2), vec![]), "{screen:?}");
}

#[test]
fn a_pipe_gets_every_byte_as_it_is() {
    let site = site();
    let text = "\"Text\":\"\\u001b[31m\\u0007\u{7f}\u{80}\u{9b}31m\u{9f}\u{61c}\u{200e}";
    let run = site.poll();
    assert!(run.text().contains(text), "{}", run.text());
    let told = site.admin(&["status"]).stdout;
    assert!(told.contains('\u{202e}'), "{told}");
}
