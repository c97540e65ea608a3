//! Arguments in, exit code out.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use wodle_office365::args::{self, Command, HELP};
use wodle_office365::error::Error;
use wodle_office365::{poll, reset};

fn main() -> ExitCode {
    let begun = Instant::now();
    // Nothing that we make is for others, whatever the umask of who starts us.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Poll(options)) => poll::run(&options, begun),
        Ok(Command::Reset(options)) => reset::run(&options).and_then(|text| print(&text)),
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("wodle-office365 ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(misuse) => poll::misused(misuse),
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
