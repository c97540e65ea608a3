//! The command line: raw arguments first, then what they mean.

use std::ffi::OsString;
use std::path::PathBuf;

use log::LevelFilter;

use crate::config::{LEVELS, parse_level, parse_time};
use crate::content::ContentType;
use crate::error::Error;
use crate::timestamp::Timestamp;

/// The text of `--help`.
pub const HELP: &str = "\
Usage: wodle-office365 [COMMAND] [OPTIONS]

Brings the Microsoft 365 audit log into Wazuh. Wazuh's command wodle starts it
every minute; one run asks the Office 365 Management Activity API what is new
since the last one and writes one JSON event a line to stdout.

Commands:
  poll    one poll cycle (the default)
  reset   move a stream's position: --tenant ID --content-type NAME --to T
          What is skipped by that becomes a gap notice of the next poll; moved
          back, all that became available since T comes once more

Options:
  --home DIR         Wazuh's folder [default: /var/ossec]
  --config FILE      configuration, - for stdin
                     [default: HOME/etc/wodle-office365.conf]
  --log-level LEVEL  error, warning, info or debug: instead of log_level
  --dry-run          poll: save nothing, so that the next run brings the same
                     events (so too whenever stdout is a terminal)
  --tenant ID        tenant_id as configured, or the tenant's GUID
  --content-type NAME
                     such as Audit.General
  --to T             RFC 3339 (2026-11-23T03:24:51Z) or an age (7d, 12h, 30m)
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
    /// Move a stream's position.
    Reset(ResetOptions),
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

/// The options of `reset`.
#[derive(Debug, PartialEq, Eq)]
pub struct ResetOptions {
    /// Wazuh's folder.
    pub home: PathBuf,
    /// `tenant_id` as configured, or the tenant's GUID.
    pub tenant: String,
    /// The stream.
    pub content_type: ContentType,
    /// Where its position is to be.
    pub to: When,
}

/// A point in time as a person gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A time.
    At(Timestamp),
    /// So many seconds ago.
    Ago(i64),
}

impl When {
    fn parse(text: &str) -> Option<Self> {
        if let Some(time) = Timestamp::parse(text) {
            return Some(Self::At(time));
        }
        let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
        let seconds = parse_time(text).filter(|_| has_unit)?;
        i64::try_from(seconds).ok().map(Self::Ago)
    }

    /// The time it means at `now`.
    #[must_use]
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(seconds) => now.plus(-seconds),
        }
    }
}

/// What is wrong with a command line.
#[derive(Debug)]
pub struct Misuse {
    /// The fault.
    pub error: Error,
    /// Wazuh's folder, as far as it was named, where the fault is one of `poll`, which must be
    /// silent on a pipe; none for what is no command at all.
    pub home: Option<PathBuf>,
    /// Whether nothing was to be saved.
    pub dry_run: bool,
}

/// The arguments as they come, before it is known which command they are for.
struct Raw {
    home: PathBuf,
    command: Option<String>,
    config: ConfigSource,
    log_level: Option<LevelFilter>,
    dry_run: bool,
    tenant: Option<String>,
    content_type: Option<ContentType>,
    to: Option<When>,
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
    let mut raw = Raw {
        home: PathBuf::from("/var/ossec"),
        command: None,
        config: ConfigSource::Default,
        log_level: None,
        dry_run: false,
        tenant: None,
        content_type: None,
        to: None,
    };
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    // Wherever it stands, also behind what is wrong.
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let (other_command, dry_run) = (has("reset"), has("--dry-run"));
    let parsed = read(lexopt::Parser::from_args(args), &mut raw);
    let is_poll = raw.command.as_deref().is_none_or(|command| command == "poll");
    let home = (is_poll && !other_command).then(|| raw.home.clone());
    let misuse =
        |error: lexopt::Error| Misuse { error: Error::Usage(error.to_string()), home, dry_run };
    match parsed {
        Ok(Some(command)) => Ok(command),
        Ok(None) => raw.command().map_err(|text| misuse(text.into())),
        Err(error) => Err(misuse(error)),
    }
}

/// Reads what there is, or finds a command that needs nothing else.
fn read(mut parser: lexopt::Parser, raw: &mut Raw) -> Result<Option<Command>, lexopt::Error> {
    use lexopt::Arg::{Long, Short, Value};

    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok(Some(Command::Help)),
            Long("version") | Short('V') => return Ok(Some(Command::Version)),
            Long("home") => raw.home = PathBuf::from(parser.value()?),
            Long("config") => {
                let file = parser.value()?;
                raw.config = match file.to_str() {
                    Some("-") => ConfigSource::Stdin,
                    _ => ConfigSource::File(PathBuf::from(file)),
                };
            }
            Long("log-level") => {
                let level = parser.value()?.to_str().and_then(parse_level);
                raw.log_level = Some(level.ok_or(format!("--log-level is none of {LEVELS}"))?);
            }
            Long("dry-run") => raw.dry_run = true,
            Long("tenant") => raw.tenant = Some(parser.value()?.to_string_lossy().into_owned()),
            Long("content-type") => {
                let name = parser.value()?.to_str().and_then(ContentType::by_name);
                let known = ContentType::ALL.map(ContentType::name).join(", ");
                let unknown = format!("--content-type is none of {known}");
                raw.content_type = Some(name.ok_or(unknown)?);
            }
            Long("to") => {
                let time = parser.value()?.to_str().and_then(When::parse);
                let text =
                    "--to is neither a time (2026-11-23T03:24:51Z) nor an age (7d, 12h, 30m)";
                raw.to = Some(time.ok_or(text)?);
            }
            Value(word) if raw.command.is_none() => {
                raw.command = Some(word.to_string_lossy().into_owned());
            }
            // Not echoed: a secret may have been put there by mistake.
            Value(_) => return Err("there is one argument too many".into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(None)
}

impl Raw {
    /// What was asked for, with all that it needs and nothing that it doesn't take.
    fn command(self) -> Result<Command, String> {
        let of_reset = self.tenant.is_some() || self.content_type.is_some() || self.to.is_some();
        match self.command.as_deref().unwrap_or("poll") {
            "poll" if of_reset => {
                Err("--tenant, --content-type and --to are options of reset".to_owned())
            }
            "poll" => Ok(Command::Poll(PollOptions {
                home: self.home,
                config: self.config,
                log_level: self.log_level,
                dry_run: self.dry_run,
            })),
            "reset" if self.dry_run => Err("--dry-run is an option of poll".to_owned()),
            "reset" => match (self.tenant, self.content_type, self.to) {
                (Some(tenant), Some(content_type), Some(to)) => {
                    Ok(Command::Reset(ResetOptions { home: self.home, tenant, content_type, to }))
                }
                _ => Err("reset needs --tenant ID, --content-type NAME and --to T".to_owned()),
            },
            other => Err(format!("there is no command {other:?}, only: poll, reset")),
        }
    }
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
        let args = ["--to=30m", "reset", "--tenant", "t", "--content-type", "DLP.All"];
        let reset = ResetOptions {
            home: PathBuf::from("/var/ossec"),
            tenant: "t".to_owned(),
            content_type: ContentType::Dlp,
            to: When::Ago(1800),
        };
        assert_eq!(parse(args).unwrap(), Command::Reset(reset));
        let time = Timestamp::from_unix(60);
        assert_eq!(When::parse("1970-01-01T00:01:00Z"), Some(When::At(time)));
        assert_eq!(When::Ago(60).before(time), Timestamp::from_unix(0));
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
            &["--to", "7d"],
            &["reset", "--tenant", "t", "--to", "7d"],
            &["reset", "--tenant", "t", "--to", "7", "--content-type", "DLP.All"],
            &["reset", "--tenant", "t", "--to", "7d", "--content-type", "DLP"],
            &["reset", "--dry-run"],
        ] {
            let error = parse(args).unwrap_err().error;
            assert_eq!(error.exit_code(), 2, "{args:?}");
            assert!(error.to_string().ends_with("; see wodle-office365 --help"), "{error}");
        }
        assert!(parse(["pol"]).unwrap_err().home.is_none());
        let misuse = parse(["--home", "/h", "--bogus"]).unwrap_err();
        assert_eq!((misuse.home, misuse.dry_run), (Some(PathBuf::from("/h")), false));
        assert!(parse(["--bogus", "--dry-run"]).unwrap_err().dry_run);
        assert!(parse(["--to", "7", "reset"]).unwrap_err().home.is_none(), "no poll's");
    }
}
