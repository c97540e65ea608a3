//! The command line: help, suggestions, completions.

use std::process::Command;

use crate::harness::{Site, binary};

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_names_commands_options_and_exit_codes_and_fits_a_terminal() {
    for args in [&["--help"][..], &["-h"], &["help"], &["check", "--help"]] {
        let (code, help, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(help.starts_with("Usage: wodle-office365 [COMMAND] [OPTIONS]\n"));
        assert!(help.lines().all(|line| line.len() <= 80), "{help}");
        for word in ["poll", "check", "status", "backfill", "reset", "wodle", "Exit codes:"] {
            assert!(help.contains(word), "{word}");
        }
    }
}

#[test]
fn a_mistyped_command_or_option_gets_a_suggestion() {
    for (args, told) in [
        (&["chek"][..], "there is no command \"chek\"; did you mean check?; known: poll, check, "),
        (&["status", "--jsn"], "there is no option --jsn; did you mean --json?"),
        (&["check", "--verify"], "--verify is an option of wodle, not of check"),
        (&["backfill"], "backfill needs --from T, such as --from 7d"),
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.starts_with(&format!("wodle-office365: {told}")), "{stderr}");
    }
}

/// What bash would offer behind these words.
fn completions(words: &[&str]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/completions/wodle-office365.bash");
    let line = "source \"$0\"; COMP_WORDS=(wodle-office365 \"$@\"); COMP_CWORD=$#; \
                _wodle_office365; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", line, script]).args(words).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(completions(&["ba"]), ["backfill"]);
    assert_eq!(completions(&["check", "--s"]), ["--start"]);
    assert_eq!(completions(&["--home", "/x", "reset", "--t"]), ["--tenant", "--to"]);
    assert_eq!(completions(&["backfill", "--content-type", "Audit.E"]), ["Audit.Exchange"]);
    assert_eq!(completions(&["--log-level", "w"]), ["warning"]);
    assert_eq!(completions(&["backfill", "--content-type", "=", "D"]), ["DLP.All"]);
    assert_eq!(completions(&["--log-level", "="]), ["error", "warning", "info", "debug"]);
    assert!(completions(&["status", "--from"]).is_empty());
    assert!(completions(&[""]).contains(&"poll".to_owned()));
}

#[test]
fn every_command_takes_the_options_of_all() {
    let site = Site::new();
    site.poll_well();
    let config = site.config();
    let config = config.to_str().unwrap();
    for command in [
        &["check"][..],
        &["status"],
        &["wodle"],
        &["backfill", "--from", "1h"],
        &["reset", "--tenant", crate::harness::TENANT, "--content-type", "DLP.All", "--to", "1m"],
    ] {
        let args = [command, &["--config", config, "--log-level", "debug"]].concat();
        let run = site.admin(&args);
        assert_eq!(run.code, Some(0), "{args:?}: {}{}", run.stdout, run.stderr);
    }
}
