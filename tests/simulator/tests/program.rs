//! The program, from outside: its arguments, `serve`, and `demo` with collectors made of a few
//! lines of shell.

mod common;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Client, feed};
use office365_simulator::story::story;
use serde_json::Value;
use time::OffsetDateTime;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_office365-simulator"));
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn arguments() {
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--help"], 0, ""),
        (&["demo", "-h"], 0, ""),
        (&[], 2, "no command: serve or demo"),
        (&["play"], 2, "no such command: play"),
        (&["demo"], 2, "demo needs a PROGRAM"),
        (&["demo", "a", "b"], 2, "one argument too many: b"),
        (&["demo", "a", "--login-port", "1"], 2, "ports are for serve"),
        (&["serve", "--login-port", "70000"], 2, "70000"),
        (&["serve", "--loud"], 2, "--loud"),
    ];
    for (arguments, code, message) in cases {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(err.contains(message), "{arguments:?} {err}");
        assert_eq!(out.contains("Usage:"), code == 0);
    }
    let output = program().args(["demo", "/nowhere/to/be/found"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere/to/be/found"));
}

#[test]
fn serve_until_stdin_ends() {
    let mut child =
        program().arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> = lines.by_ref().take_while(|line| !line.contains("Ctrl-D")).collect();
    let value = |name: &str| {
        let line = printed.iter().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    let configuration = printed.join("\n");
    for name in ["tenant ", "client id", "client secret", "login", "management"] {
        assert!(configuration.contains(&format!(">{}<", value(name))), "{configuration}");
    }
    assert_eq!(configuration.matches("<subscription>").count(), 5);
    let mut client = Client::new(&value("management"));
    assert_eq!(client.get(&feed("subscriptions/list")).status, 401);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// A folder for one test's collector, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("simulator-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn demo(folder: &Folder, script: &str) -> Output {
    let path = folder.file("collector", &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    // A sibling test that forks while the script was open for writing makes it busy for a moment.
    loop {
        let output = program().arg("demo").arg(&path).output().unwrap();
        if !text(&output.stderr).contains("busy") {
            return output;
        }
    }
}

/// The lines that a good collector writes.
fn events() -> String {
    let chapters = story(OffsetDateTime::now_utc(), common::TENANT, "contoso.example");
    let events = chapters.iter().flat_map(|chapter| {
        chapter.events.iter().map(|event| {
            let mut record = event.record.clone();
            record["Subscription"] = chapter.content_type.into();
            format!("{}\n", serde_json::json!({ "integration": "office365", "office365": record }))
        })
    });
    events.collect()
}

#[test]
fn demo_of_a_good_collector() {
    let folder = Folder::new("good");
    let lines = folder.file("events", &events());
    let seen = folder.0.join("seen");
    let script = format!(
        r#"[ "$1 $3 $4" = "--home poll " ] || exit 9
        [ "$PWD" = "$2" ] && [ ! -t 0 ] && [ -d "$2/logs" ] && [ -d "$2/var/wodles" ] || exit 8
        grep -q "<login_url>http://127.0.0.1:" "$2/etc/wodle-office365.conf" || exit 7
        stat -c %a "$2" "$2/etc/wodle-office365.conf" > {seen}
        echo "$2" >> {seen}
        [ -e "$2/var/done" ] || cat {lines}
        : > "$2/var/done""#,
        lines = lines.display(),
        seen = seen.display(),
    );
    let output = demo(&folder, &script);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.starts_with("  1  Audit.AzureActiveDirectory  admin resets Jane's password\n{"));
    assert!(out.contains(" 15  DLP.All                     a forwarded mail"));
    assert!(!out.contains('\x1b'), "no colour but on a terminal");
    let last = out.lines().last().unwrap();
    assert_eq!(last, "demo: 15 events in the first run, 0 in the second; 0 requests; all well");
    let seen = fs::read_to_string(seen).unwrap();
    let mut seen = seen.lines();
    assert_eq!((seen.next(), seen.next()), (Some("700"), Some("640")));
    assert!(!Path::new(seen.next().unwrap()).exists(), "the home is removed");
}

#[test]
fn demo_of_bad_collectors() {
    let folder = Folder::new("bad");
    let lines = folder.file("events", &events());
    let lines = lines.display();
    let cases = [
        (format!("cat {lines}"), "the second run wrote 15 lines"),
        (
            format!("[ -e \"$2/done\" ] || head -n 14 {lines}; : > \"$2/done\""),
            "missing: DLP.All, a forwarded mail",
        ),
        (
            format!("[ -e \"$2/done\" ] || cat {lines} {lines}; : > \"$2/done\""),
            "line 16 is not of the story, or twice in it",
        ),
        (
            format!("[ -e \"$2/done\" ] || sed s/DLP.All/Audit.General/ {lines}; : > \"$2/done\""),
            "event 15 has the Subscription \"Audit.General\"",
        ),
        ("echo Oh no >&2".to_owned(), "line 1 is no JSON"),
        ("echo '{}'".to_owned(), "line 1 has no \"integration\":\"office365\""),
        (
            r#"echo '{"integration":"office365","office365":{"actor":"wazuh"}}'"#.to_owned(),
            "line 1 is a notice",
        ),
        ("echo out of luck > \"$2/logs/wodle-office365.log\"; exit 3".to_owned(), "out of luck"),
        ("exit 3".to_owned(), "the first run ended with exit status: 3"),
        ("exit 3".to_owned(), "has left no log"),
        ("kill -9 $$".to_owned(), "the second run ended with signal: 9"),
    ];
    for (script, trouble) in cases {
        let output = demo(&folder, &script);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{out}");
        assert!(out.contains("; NOT well:") && out.contains(trouble), "{script}: {out}");
    }
}

#[test]
fn the_story_is_well_told() {
    let now = common::NOON;
    let chapters = story(now, common::TENANT, "contoso.example");
    let names: Vec<_> = chapters.iter().map(|chapter| chapter.content_type).collect();
    assert_eq!(names, office365_simulator::CONTENT_TYPES);
    let mut ids = Vec::new();
    for chapter in &chapters {
        assert!(chapter.created < now);
        let mut last = String::new();
        for event in &chapter.events {
            let record = &event.record;
            for name in [
                "Id",
                "CreationTime",
                "Operation",
                "OrganizationId",
                "UserKey",
                "Workload",
                "UserId",
                "ClientIP",
            ] {
                let value = record[name].as_str().unwrap_or_default();
                assert!(!value.is_empty(), "{name} of {}", event.headline);
            }
            assert!(record["RecordType"].is_u64() && record["UserType"].is_u64());
            assert_eq!(record["OrganizationId"], common::TENANT);
            let time = record["CreationTime"].as_str().unwrap().to_owned();
            assert!(time > last && time.as_str() > "2026-03-10T11:30:00", "{time}");
            assert!(time.as_str() < "2026-03-10T12:00:00" && time.len() == 19, "{time}");
            last = time;
            assert_eq!(event.id().len(), 36);
            ids.push(event.id().to_owned());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 15);
    let rule = &chapters[1].events[2].record;
    let forward = rule["Parameters"].as_array().unwrap().iter();
    assert!(forward.into_iter().any(|p: &Value| p["Name"] == "ForwardTo"));
}
