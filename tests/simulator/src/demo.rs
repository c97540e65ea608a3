//! The demo: a collector runs twice against the story, and what it writes is shown and checked.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use office365_simulator::Simulator;
use serde_json::Value;

use crate::stage;

/// After that a run is ended.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it; whether all was well.
pub(crate) fn run(program: &Path) -> io::Result<bool> {
    let program = fs::canonicalize(program)
        .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
    let (simulator, chapters) = stage::set(Simulator::builder())?;
    let home = Home::create(&stage::configuration(&simulator))?;
    let paint = Paint::for_stdout();
    let mut troubles = Vec::new();

    let mut story = BTreeMap::new();
    for chapter in &chapters {
        for event in &chapter.events {
            story.insert(event.id().to_owned(), (chapter.content_type, event.headline));
        }
    }

    let first = poll(&program, home.path())?;
    first.judge("first", &mut troubles);
    let mut out = io::stdout().lock();
    let mut count = 0;
    for line in first.lines() {
        count += 1;
        let told = match read(line) {
            Ok(read) => match story.remove(&read.id) {
                Some((content_type, headline)) => {
                    if read.subscription != content_type {
                        let wrong = &read.subscription;
                        troubles.push(format!("event {count} has the Subscription \"{wrong}\""));
                    }
                    format!("{content_type:<26}  {headline}")
                }
                None => {
                    troubles.push(format!("line {count} is not of the story, or twice in it"));
                    "?".to_owned()
                }
            },
            Err(wrong) => {
                troubles.push(format!("line {count} {wrong}"));
                "?".to_owned()
            }
        };
        writeln!(out, "{} {told}{}", paint.bold(&format!("{count:>3} ")), paint.reset())?;
        writeln!(out, "{}{line}{}", paint.dim(), paint.reset())?;
    }
    for (content_type, headline) in story.values() {
        troubles.push(format!("missing: {content_type}, {headline}"));
    }

    let second = poll(&program, home.path())?;
    second.judge("second", &mut troubles);
    let again = second.lines().count();
    if again > 0 {
        troubles.push(format!(
            "the second run wrote {again} lines, the first: {}",
            second.lines().next().unwrap_or_default()
        ));
    }

    let requests = simulator.requests().len();
    let numbers = format!(
        "demo: {count} events in the first run, {again} in the second; {requests} requests"
    );
    if troubles.is_empty() {
        writeln!(out, "{}{numbers}; all well{}", paint.good(), paint.reset())?;
        return Ok(true);
    }
    writeln!(out, "{}{numbers}; NOT well:{}", paint.bad(), paint.reset())?;
    for trouble in &troubles {
        writeln!(out, "  {trouble}")?;
    }
    match fs::read_to_string(home.path().join("logs/wodle-office365.log")) {
        Ok(log) => writeln!(out, "The collector's log:\n{log}")?,
        Err(error) => writeln!(out, "The collector has left no log ({error}).")?,
    }
    Ok(false)
}

/// What the checks want to know of an event.
struct Line {
    id: String,
    subscription: String,
}

fn read(line: &str) -> Result<Line, &'static str> {
    let event: Value = serde_json::from_str(line).map_err(|_| "is no JSON")?;
    if event["integration"] != "office365" {
        return Err("has no \"integration\":\"office365\"");
    }
    let field = |name: &str| event["office365"][name].as_str().unwrap_or_default().to_owned();
    if field("actor") == "wazuh" {
        return Err("is a notice about the collector itself");
    }
    Ok(Line { id: field("Id"), subscription: field("Subscription") })
}

/// What a run left.
struct Outcome {
    output: String,
    status: Option<ExitStatus>,
}

impl Outcome {
    /// As Wazuh, which passes over blank lines.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.output.lines().filter(|line| !line.trim().is_empty())
    }

    fn judge(&self, which: &str, troubles: &mut Vec<String>) {
        match self.status {
            Some(status) if status.success() => {}
            Some(status) => troubles.push(format!("the {which} run ended with {status}")),
            None => troubles.push(format!("the {which} run took over {} s", PATIENCE.as_secs())),
        }
    }
}

/// One run as Wazuh's command wodle makes it: nothing on stdin, one pipe for stdout and stderr,
/// the home as working directory; its output is read to the end before its exit is awaited.
fn poll(program: &Path, home: &Path) -> io::Result<Outcome> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .arg("--home")
        .arg(home)
        .arg("poll")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // It holds our ends of the pipe.
    drop(command);

    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        let _ = sender.send(output);
    });
    let output = receiver.recv_timeout(PATIENCE);
    if output.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let status = output.is_ok().then_some(status);
    let output = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    Ok(Outcome { output, status })
}

/// A home of its own for the collector, removed at the end.
struct Home(PathBuf);

impl Home {
    fn create(configuration: &str) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("office365-demo-{}-{now}", std::process::id());
        let root = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&root)?;
        let home = Self(root);
        for folder in ["etc", "logs", "var/wodles"] {
            DirBuilder::new().mode(0o750).recursive(true).create(home.0.join(folder))?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(home.0.join("etc/wodle-office365.conf"))?
            .write_all(configuration.as_bytes())?;
        Ok(home)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Colours, if somebody sees them.
struct Paint(bool);

impl Paint {
    fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !unwanted)
    }

    fn code(&self, code: &'static str) -> &'static str {
        if self.0 { code } else { "" }
    }

    fn bold(&self, text: &str) -> String {
        format!("{}{text}", self.code("\x1b[1m"))
    }

    fn dim(&self) -> &'static str {
        self.code("\x1b[2m")
    }

    fn good(&self) -> &'static str {
        self.code("\x1b[1;32m")
    }

    fn bad(&self) -> &'static str {
        self.code("\x1b[1;31m")
    }

    fn reset(&self) -> &'static str {
        self.code("\x1b[0m")
    }
}
