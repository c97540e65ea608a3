//! The simulator as a program: `serve` for trying a collector by hand, `demo` to show one at work.

mod demo;
mod stage;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use office365_simulator::Simulator;

const HELP: &str = "\
A stand-in for Microsoft's login and Office 365 Management Activity API, on loopback.

Usage:
  office365-simulator serve [--login-port N] [--management-port N]
      Serves one tenant with a quarter of an hour of events, and prints what a collector needs
      to find it. Ends when its standard input does.
  office365-simulator demo PROGRAM
      Runs the collector PROGRAM against such a tenant, twice, as Wazuh's command wodle would,
      in a temporary home, and shows and checks what it writes.

Exit codes: 0 all well, 1 the demo or the server failed, 2 usage.
";

enum Command {
    Help,
    Serve { login_port: u16, management_port: u16 },
    Demo(PathBuf),
}

fn main() -> ExitCode {
    let result = match parse(std::env::args_os()) {
        Ok(Command::Help) => write!(io::stdout().lock(), "{HELP}").map(|()| true),
        Ok(Command::Serve { login_port, management_port }) => serve(login_port, management_port),
        Ok(Command::Demo(program)) => demo::run(&program),
        Err(error) => {
            complain(&format!("{error} (--help tells more)"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "office365-simulator: {text}");
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut words = Vec::new();
    let (mut login_port, mut management_port) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("login-port") => login_port = Some(parser.value()?.parse()?),
            Long("management-port") => management_port = Some(parser.value()?.parse()?),
            Value(word) => words.push(word),
            other => return Err(other.unexpected()),
        }
    }
    let mut words = words.into_iter();
    let command = words.next().ok_or("no command: serve or demo")?;
    let ports = login_port.is_some() || management_port.is_some();
    let command = match command.to_str() {
        Some("serve") => Command::Serve {
            login_port: login_port.unwrap_or(0),
            management_port: management_port.unwrap_or(0),
        },
        Some("demo") if ports => return Err("ports are for serve".into()),
        Some("demo") => Command::Demo(words.next().ok_or("demo needs a PROGRAM")?.into()),
        _ => return Err(format!("no such command: {}", command.display()).into()),
    };
    match words.next() {
        Some(word) => Err(format!("one argument too many: {}", word.display()).into()),
        None => Ok(command),
    }
}

fn serve(login_port: u16, management_port: u16) -> io::Result<bool> {
    let builder = Simulator::builder().login_port(login_port).management_port(management_port);
    let (simulator, chapters) = stage::set(builder)?;
    let events: usize = chapters.iter().map(|chapter| chapter.events.len()).sum();
    let mut out = io::stdout().lock();
    writeln!(out, "login          {}", simulator.login_url())?;
    writeln!(out, "management     {}", simulator.management_url())?;
    writeln!(out, "tenant         {} ({})", stage::TENANT, stage::DOMAIN)?;
    writeln!(out, "client id      {}", stage::CLIENT)?;
    writeln!(out, "client secret  {}", stage::SECRET)?;
    writeln!(out, "events         {events} in {} blobs", chapters.len())?;
    writeln!(out, "\nwodle-office365.conf:\n\n{}", stage::configuration(&simulator))?;
    writeln!(out, "Serving until standard input ends (Ctrl-D) …")?;
    out.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(true)
}
