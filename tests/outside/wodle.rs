//! `wodle`: the block that starts the polls, read as Wazuh reads it.

use std::fs;
use std::process::Command;

use roxmltree::Document;

use crate::harness::{Site, binary, write_file};

/// A block as the command wodle takes it: its values, and its command's arguments, which are split at
/// blanks but not between quotes, with a backslash before what is to be taken as it is.
struct Block {
    text: String,
}

impl Block {
    fn of(printed: &str) -> Self {
        let start = printed.find("<wodle name=\"command\">").expect(printed);
        let end = printed.find("</wodle>").expect(printed) + "</wodle>".len();
        Self { text: printed[start..end].to_owned() }
    }

    fn value(&self, tag: &str) -> Option<String> {
        let document = Document::parse(&self.text).unwrap();
        let found = document.root_element().children().find(|child| child.has_tag_name(tag));
        found.map(|node| node.text().unwrap_or_default().to_owned())
    }

    fn arguments(&self) -> Vec<String> {
        let (mut arguments, mut quoted) = (vec![String::new()], false);
        let command = self.value("command").unwrap();
        let mut chars = command.chars();
        while let Some(c) = chars.next() {
            let last = arguments.last_mut().unwrap();
            match c {
                ' ' if !quoted => arguments.push(String::new()),
                '"' => quoted = !quoted,
                '\\' => last.extend(chars.next()),
                c => last.push(c),
            }
        }
        arguments
    }
}

#[test]
fn the_block_runs_the_very_poll_that_was_asked_for() {
    let site = Site::new();
    site.configure("<only_future_events>no</only_future_events><interval>2m</interval>");
    site.publish("Audit.General", time::Duration::minutes(5), &["1"]);
    let wodle = site.admin(&["wodle"]);
    assert_eq!(wodle.code, Some(0), "{}", wodle.stderr);
    assert!(wodle.stderr.contains("HOME/etc/ossec.conf") && wodle.stderr.contains("restart Wazuh"));
    assert!(wodle.stdout.starts_with("<wodle name=\"command\">\n"));
    let block = Block::of(&wodle.stdout);
    for (tag, value) in [
        ("disabled", "no"),
        ("tag", "wodle-office365"),
        ("interval", "2m"),
        ("timeout", "360"),
        ("ignore_output", "no"),
        ("run_on_start", "yes"),
    ] {
        assert_eq!(block.value(tag).as_deref(), Some(value), "{tag}");
    }
    assert_eq!(block.value("verify_sha256"), None);
    let arguments = block.arguments();
    assert_eq!(arguments[..3], [binary().to_str().unwrap(), "poll", "--home"]);
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).current_dir(site.path("")).env_clear();
    assert_eq!(site.run(&command).ids(), ["1"]);
}

#[test]
fn options_in_force_and_paths_with_blanks_survive_the_wodle() {
    let site = Site::new();
    let odd = site.path("etc/my own \"config\".conf");
    fs::copy(site.config(), &odd).unwrap();
    site.configure("<run_timeout>10m</run_timeout>");
    let wodle = site.admin(&["wodle", "--log-level", "debug", "--config", odd.to_str().unwrap()]);
    let arguments = Block::of(&wodle.stdout).arguments();
    assert!(arguments.contains(&odd.to_str().unwrap().to_owned()), "{arguments:?}");
    assert!(arguments.ends_with(&["--log-level".to_owned(), "debug".to_owned()]));
    let block = Block::of(&site.admin(&["wodle"]).stdout);
    assert_eq!(block.value("timeout").as_deref(), Some("660"));
}

#[test]
fn a_checksum_comes_with_a_warning_and_an_agents_block_with_its_frame() {
    let site = Site::new();
    let wodle = site.admin(&["wodle", "--verify"]);
    let digest = ring::digest::digest(&ring::digest::SHA256, &fs::read(binary()).unwrap());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Block::of(&wodle.stdout).value("verify_sha256"), Some(hex));
    assert!(wodle.stderr.contains("After each upgrade") && wodle.stderr.contains("for good"));
    let wodle = site.admin(&["wodle", "--agent"]);
    assert!(wodle.stdout.starts_with("<agent_config>\n<wodle "));
    assert!(wodle.stdout.ends_with("</wodle>\n</agent_config>\n"));
    assert!(wodle.stderr.contains("wazuh_command.remote_commands=1"));
}

#[test]
fn its_tag_is_that_of_no_other_block() {
    let site = Site::new();
    let other = "<ossec_config><wodle name=\"command\"><tag>wodle-office365</tag>\
                 <command>/usr/bin/other</command></wodle></ossec_config>";
    write_file(&site.path("etc/ossec.conf"), other.as_bytes(), 0o640);
    let block = Block::of(&site.admin(&["wodle"]).stdout);
    assert_eq!(block.value("tag").as_deref(), Some("wodle-office365-2"));
}

#[test]
fn what_it_prints_satisfies_check() {
    let site = Site::new();
    site.poll_well();
    let block = site.admin(&["wodle", "--verify"]).stdout;
    let ossec = format!("<ossec_config>\n{block}</ossec_config>\n");
    write_file(&site.path("etc/ossec.conf"), ossec.as_bytes(), 0o640);
    let check = site.admin(&["check"]);
    assert!(check.line(" wodle ").starts_with("ok "), "{}", check.stdout);
    assert_eq!(check.code, Some(0));
}

#[test]
fn what_wazuh_could_not_do_is_refused() {
    let site = Site::new();
    let stdin = site.admin(&["wodle", "--config", "-"]);
    assert_eq!((stdin.code, stdin.stdout.as_str()), (Some(2), ""));
    assert!(stdin.stderr.contains("Wazuh gives a command nothing on stdin"));
    site.write_config("<office365>");
    let broken = site.admin(&["wodle"]);
    assert_eq!(broken.code, Some(2));
    assert!(broken.stderr.contains(":1:1: <office365> is never closed"), "{}", broken.stderr);
}
