//! Arguments in, exit code out.

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use wodle_office365::args::{self, Command, HELP};
use wodle_office365::error::Error;
use wodle_office365::{backfill, check, confine, logging, poll, reset, status, terminal, wodle};

/// Why this one, see Cargo.toml.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let begun = Instant::now();
    confine::from_the_start();
    logging::end_on_panic(true);
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Poll { common, dry_run }) => poll::run(&common, dry_run, begun),
        Ok(Command::Reset { common, tenant, content_type, to }) => {
            reset::run(&common, &tenant, content_type, to).and_then(|text| print(&text))
        }
        Ok(Command::Backfill { common, window, stdout }) => backfill::run(&common, &window, stdout),
        Ok(Command::Check { common, tenant, start, json }) => {
            let tenant = tenant.as_deref();
            let request = check::Request { common: &common, tenant, start, json };
            check::run(&request).and_then(|(text, code)| {
                done(terminal::print_in_colour(&text, check::COLOURS)).map(|_| code)
            })
        }
        Ok(Command::Status { common, json }) => {
            status::run(&common, json).and_then(|(text, code)| print(&text).map(|_| code))
        }
        Ok(Command::Wodle { common, verify, agent }) => {
            wodle::run(&common, verify, agent).and_then(|text| print(&text))
        }
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("wodle-office365 ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(misuse) => poll::misused(misuse),
    };
    // It says what was left out.
    log::logger().flush();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // There is no log to write it to.
            terminal::tell(&format!("wodle-office365: {error}\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn print(text: &str) -> Result<u8, Error> {
    done(terminal::print(text))
}

fn done(written: io::Result<()>) -> Result<u8, Error> {
    written.map(|()| 0).map_err(|error| Error::Run(format!("stdout: {error}")))
}
