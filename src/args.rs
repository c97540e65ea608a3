//! The command line: raw arguments first, then what they mean.

use std::ffi::OsString;
use std::path::PathBuf;

use log::LevelFilter;

use crate::config::{LEVELS, parse_level};
use crate::error::Error;

/// The text of `--help`.
pub const HELP: &str = "\
Usage: wodle-office365 [poll] [OPTIONS]

Brings the Microsoft 365 audit log into Wazuh. Wazuh's command wodle starts it
every minute; one run asks the Office 365 Management Activity API what is new
since the last one and writes one JSON event a line to stdout.

Commands:
  poll    one poll cycle (the default)

Options:
  --home DIR         Wazuh's folder [default: /var/ossec]
  --config FILE      configuration, - for stdin
                     [default: HOME/etc/wodle-office365.conf]
  --log-level LEVEL  error, warning, info or debug: instead of log_level
  --dry-run          save nothing, so that the next run brings the same events
                     (so too whenever stdout is a terminal)
  -h, --help         show this
  -V, --version      show the version

Exit codes:
  0  all well, or nothing to do
  1  a tenant or a stream failed; HOME/logs/wodle-office365.log says why
  2  the command line or the configuration is wrong
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// One poll cycle.
    Poll(PollOptions),
    /// Show [`HELP`].
    Help,
    /// Show the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// `HOME/etc/wodle-office365.conf`.
    Default,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// The options of `poll`.
#[derive(Debug, PartialEq, Eq)]
pub struct PollOptions {
    /// Wazuh's folder.
    pub home: PathBuf,
    /// The configuration.
    pub config: ConfigSource,
    /// Overrides `log_level` of the configuration.
    pub log_level: Option<LevelFilter>,
    /// Save nothing.
    pub dry_run: bool,
}

/// What is wrong with a command line.
#[derive(Debug)]
pub struct Misuse {
    /// The fault.
    pub error: Error,
    /// Wazuh's folder, as far as it was named, where the fault is one of `poll`, which must be
    /// silent on a pipe; none for what is no command at all.
    pub home: Option<PathBuf>,
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong with them.
pub fn parse<I>(args: I) -> Result<Command, Misuse>
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let mut options = PollOptions {
        home: PathBuf::from("/var/ossec"),
        config: ConfigSource::Default,
        log_level: None,
        dry_run: false,
    };
    match parse_into(lexopt::Parser::from_args(args), &mut options) {
        Ok(Some(command)) => Ok(command),
        Ok(None) => Ok(Command::Poll(options)),
        Err(Fault::OfPoll(text)) => {
            Err(Misuse { error: Error::Usage(text), home: Some(options.home) })
        }
        Err(Fault::NoCommand(text)) => Err(Misuse { error: Error::Usage(text), home: None }),
    }
}

enum Fault {
    OfPoll(String),
    NoCommand(String),
}

impl From<lexopt::Error> for Fault {
    fn from(error: lexopt::Error) -> Self {
        Self::OfPoll(error.to_string())
    }
}

/// Reads the options of `poll`, or finds another command.
fn parse_into(
    mut parser: lexopt::Parser,
    options: &mut PollOptions,
) -> Result<Option<Command>, Fault> {
    use lexopt::Arg::{Long, Short, Value};

    let mut named = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok(Some(Command::Help)),
            Long("version") | Short('V') => return Ok(Some(Command::Version)),
            Long("home") => options.home = PathBuf::from(parser.value()?),
            Long("config") => {
                let file = parser.value()?;
                options.config = match file.to_str() {
                    Some("-") => ConfigSource::Stdin,
                    _ => ConfigSource::File(PathBuf::from(file)),
                };
            }
            Long("log-level") => {
                let level = parser.value()?;
                let known = level.to_str().and_then(parse_level);
                let unknown = || Fault::OfPoll(format!("--log-level is none of {LEVELS}"));
                options.log_level = Some(known.ok_or_else(unknown)?);
            }
            Long("dry-run") => options.dry_run = true,
            Value(word) if !named && word == "poll" => named = true,
            Value(word) if !named => {
                return Err(Fault::NoCommand(format!("there is no command {word:?}, only: poll")));
            }
            // Not echoed: a secret may have been put there by mistake.
            Value(_) => return Err(Fault::OfPoll("there is one argument too many".to_owned())),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(args: &[&str]) -> PollOptions {
        match parse(args) {
            Ok(Command::Poll(options)) => options,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn poll_is_the_default_and_takes_its_options_anywhere() {
        assert_eq!(poll(&[]), poll(&["poll"]));
        assert_eq!(poll(&[]).home, PathBuf::from("/var/ossec"));
        let options =
            poll(&["--home=/h", "poll", "--config", "-", "--log-level", "debug", "--dry-run"]);
        assert_eq!(options.home, PathBuf::from("/h"));
        assert_eq!(options.config, ConfigSource::Stdin);
        assert_eq!(options.log_level, Some(LevelFilter::Debug));
        assert!(options.dry_run);
        assert_eq!(poll(&["--config", "/c"]).config, ConfigSource::File(PathBuf::from("/c")));
        assert_eq!(parse(["poll", "-h"]).unwrap(), Command::Help);
        assert_eq!(parse(["--version"]).unwrap(), Command::Version);
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for args in [
            &["pol"][..],
            &["poll", "poll"],
            &["--hom", "/h"],
            &["--home"],
            &["--log-level", "trace"],
            &["--dry-run=yes"],
            &["-x"],
        ] {
            let error = parse(args).unwrap_err().error;
            assert_eq!(error.exit_code(), 2, "{args:?}");
            assert!(error.to_string().ends_with("; see wodle-office365 --help"), "{error}");
        }
        assert!(parse(["pol"]).unwrap_err().home.is_none());
        let misuse = parse(["--home", "/h", "--bogus"]).unwrap_err();
        assert_eq!(misuse.home, Some(PathBuf::from("/h")));
    }
}
