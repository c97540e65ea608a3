//! Arguments in, exit code out.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use wodle_office365::args::{self, Command, HELP, Misuse};
use wodle_office365::error::Error;
use wodle_office365::{logging, poll, store};

fn main() -> ExitCode {
    let begun = Instant::now();
    // Nothing that we make is for others, whatever the umask of who starts us.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Poll(options)) => poll::run(&options, begun),
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("wodle-office365 ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(misuse) => misused(misuse),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // There is no log to write it to.
            let _ = writeln!(io::stderr(), "wodle-office365: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn print(text: &str) -> Result<u8, Error> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map(|()| 0).map_err(|error| Error::Run(format!("stdout: {error}")))
}

/// Tells what is wrong with the command line: in the log where it is a poll's, and stderr may be
/// Wazuh's pipe, on which every line becomes an event.
fn misused(Misuse { error, home }: Misuse) -> Result<u8, Error> {
    let home = home.filter(|_| !io::stderr().is_terminal());
    let Some(home) = home.and_then(|home| store::Home::open(&home).ok()) else {
        return Err(error);
    };
    let opened = logging::start(&home.log());
    log::error!("{error}");
    log::logger().flush();
    opened.map(|()| error.exit_code()).map_err(|_| error)
}
