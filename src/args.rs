//! The command line: raw arguments first, then what they mean.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use log::LevelFilter;

use crate::config::{LEVELS, parse_level, parse_time};
use crate::content::ContentType;
use crate::error::Error;
use crate::timestamp::Timestamp;
use crate::words::{alike, excerpt};

/// The text of `--help`.
pub const HELP: &str = "\
Usage: wodle-office365 [COMMAND] [OPTIONS]

Brings the Microsoft 365 audit log into Wazuh. Wazuh's command wodle starts it
every minute; one run asks the Office 365 Management Activity API what is new
since the last one and writes one JSON event a line to stdout.

Commands:
  poll      one poll cycle (the default)
  check     try everything that a poll needs (configuration, files, proxy, TLS,
            login, permissions, subscriptions, the wodle block), and say what
            is wrong, what it means and what to do
  status    how every stream stands, from the saved state alone
  backfill  bring a past window: --from T [--to T] [--tenant ID]
            [--content-type NAME]; the next polls work it off
  reset     move a stream's position: --tenant ID --content-type NAME --to T;
            what is skipped by that becomes a gap notice of the next poll;
            moved back, all that became available since T comes once more
  wodle     print the block for ossec.conf that starts the polls

Options of all commands:
  --home DIR           Wazuh's folder [default: /var/ossec]
  --config FILE        configuration, - for stdin
                       [default: HOME/etc/wodle-office365.conf]
  --log-level LEVEL    error, warning, info or debug: instead of log_level
  -h, --help           show this
  -V, --version        show the version

Options of some:
  --agent              wodle: for agent.conf, which Wazuh hands to agents
  --content-type NAME  backfill, reset: such as Audit.General
  --dry-run            poll: save nothing, so that the next run brings the same
                       events (so too whenever stdout is a terminal)
  --from T, --to T     backfill, reset: RFC 3339 (2026-11-23T03:24:51Z) or an
                       age (7d, 12h, 30m); at most 7 days ago
  --json               check, status: for machines
  --start              check: start the subscriptions that are missing
  --stdout             backfill: write the window here and now instead, and
                       leave the state alone
  --tenant ID          backfill, check, reset: tenant_id as configured, or the
                       tenant's GUID
  --verify             wodle: with the program's checksum, which Wazuh then
                       checks before each run

Exit codes:
  0  all well, or nothing to do
  1  a tenant or a stream failed, check or status found something wrong, or
     backfill --stdout was broken off; HOME/logs/wodle-office365.log says why
  2  the command line or the configuration is wrong

See wodle-office365(8), and the guide in /usr/share/doc/wodle-office365.
";

/// The commands, each with the options that it has besides those of all.
pub const COMMANDS: [(&str, &[&str]); 6] = [
    ("poll", &["dry-run"]),
    ("check", &["tenant", "start", "json"]),
    ("status", &["json"]),
    ("backfill", &["from", "to", "tenant", "content-type", "stdout"]),
    ("reset", &["tenant", "content-type", "to"]),
    ("wodle", &["verify", "agent"]),
];

/// The options of all commands.
pub const COMMON: [&str; 5] = ["home", "config", "log-level", "help", "version"];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// One poll cycle.
    Poll {
        /// What all commands take.
        common: Common,
        /// Save nothing.
        dry_run: bool,
    },
    /// Try everything that a poll needs.
    Check {
        /// What all commands take.
        common: Common,
        /// Only this tenant: `tenant_id` as configured, or the tenant's GUID.
        tenant: Option<String>,
        /// Start missing subscriptions.
        start: bool,
        /// For machines.
        json: bool,
    },
    /// Tell how the streams stand.
    Status {
        /// What all commands take.
        common: Common,
        /// For machines.
        json: bool,
    },
    /// Bring a past window.
    Backfill {
        /// What all commands take.
        common: Common,
        /// Which.
        window: PastWindow,
        /// Write it here and now.
        stdout: bool,
    },
    /// Move a stream's position.
    Reset {
        /// What all commands take.
        common: Common,
        /// `tenant_id` as configured, or the tenant's GUID.
        tenant: String,
        /// The stream.
        content_type: ContentType,
        /// Where its position is to be.
        to: When,
    },
    /// Print the wodle block.
    Wodle {
        /// What all commands take.
        common: Common,
        /// With the program's checksum.
        verify: bool,
        /// For agent.conf.
        agent: bool,
    },
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

/// What all commands take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Wazuh's folder.
    pub home: PathBuf,
    /// The configuration.
    pub config: ConfigSource,
    /// Overrides `log_level` of the configuration.
    pub log_level: Option<LevelFilter>,
}

/// What a backfill is to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastWindow {
    /// Since when.
    pub from: When,
    /// Until when; none, until now.
    pub to: Option<When>,
    /// Only of this tenant: `tenant_id` as configured, or the tenant's GUID.
    pub tenant: Option<String>,
    /// Only of this content type.
    pub content_type: Option<ContentType>,
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
    command: Option<String>,
    common: Common,
    /// The names of all other options that were given.
    given: Vec<&'static str>,
    tenant: Option<String>,
    content_type: Option<ContentType>,
    from: Option<When>,
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
        command: None,
        common: Common {
            home: PathBuf::from("/var/ossec"),
            config: ConfigSource::Default,
            log_level: None,
        },
        given: Vec::new(),
        tenant: None,
        content_type: None,
        from: None,
        to: None,
    };
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    // Wherever it stands, also behind what is wrong.
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let other_command = COMMANDS.iter().any(|(name, _)| *name != "poll" && has(name));
    let dry_run = has("--dry-run");
    let parsed = read(lexopt::Parser::from_args(args), &mut raw);
    let is_poll = raw.command.as_deref().is_none_or(|command| command == "poll");
    let home = (is_poll && !other_command).then(|| raw.common.home.clone());
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
            Long("home") => raw.common.home = PathBuf::from(parser.value()?),
            Long("config") => {
                let file = parser.value()?;
                raw.common.config = match file.to_str() {
                    Some("-") => ConfigSource::Stdin,
                    _ => ConfigSource::File(PathBuf::from(file)),
                };
            }
            Long("log-level") => {
                let level = parser.value()?.to_str().and_then(parse_level);
                let level = level.ok_or(format!("--log-level is none of {LEVELS}"))?;
                raw.common.log_level = Some(level);
            }
            Long(name) => {
                let known = options().find(|known| *known == name);
                let option = known.ok_or_else(|| unknown_option(name))?;
                raw.given.push(option);
                match option {
                    "tenant" => {
                        raw.tenant = Some(parser.value()?.to_string_lossy().into_owned());
                    }
                    "content-type" => {
                        let name = parser.value()?.to_str().and_then(ContentType::by_name);
                        let known = ContentType::ALL.map(ContentType::name).join(", ");
                        let unknown = format!("--content-type is none of {known}");
                        raw.content_type = Some(name.ok_or(unknown)?);
                    }
                    "from" => raw.from = Some(time("--from", &parser.value()?)?),
                    "to" => raw.to = Some(time("--to", &parser.value()?)?),
                    // All others are flags.
                    _ => {}
                }
            }
            Value(word) if raw.command.is_none() => {
                raw.command = Some(word.to_string_lossy().into_owned());
            }
            // `help check` is as good as `check --help`.
            Value(_) if raw.command.as_deref() == Some("help") => {}
            // Not echoed: a secret may have been put there by mistake.
            Value(_) => return Err("there is one argument too many".into()),
            other @ Short(_) => return Err(other.unexpected()),
        }
    }
    Ok(None)
}

/// The options that some commands have.
fn options() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().flat_map(|(_, options)| options.iter().copied())
}

fn unknown_option(name: &str) -> String {
    let near = COMMON.into_iter().chain(options()).find(|known| alike(known, name));
    let hint = near.map_or(String::new(), |near| format!("; did you mean --{near}?"));
    format!("there is no option --{}{hint}", excerpt(name))
}

fn unknown_command(name: &str) -> String {
    let known = COMMANDS.map(|(known, _)| known);
    let begins = |known: &&&str| name.len() > 1 && known.starts_with(name);
    let near = known.iter().find(|known| alike(known, name)).or_else(|| known.iter().find(begins));
    let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
    format!("there is no command {:?}{hint}; known: {}", excerpt(name), known.join(", "))
}

/// A point in time that an option wants.
fn time(option: &str, value: &OsStr) -> Result<When, String> {
    let time = value.to_str().and_then(When::parse);
    time.ok_or_else(|| {
        format!("{option} is neither a time (2026-11-23T03:24:51Z) nor an age (7d, 12h, 30m)")
    })
}

impl Raw {
    /// What was asked for, with all that it needs and nothing that it doesn't take.
    fn command(self) -> Result<Command, String> {
        let name = self.command.as_deref().unwrap_or("poll");
        let Some((name, options)) = COMMANDS.into_iter().find(|(known, _)| *known == name) else {
            // It may be a misplaced `help`.
            return if name == "help" { Ok(Command::Help) } else { Err(unknown_command(name)) };
        };
        if let Some(other) = self.given.iter().find(|given| !options.contains(given)) {
            let takes = |(_, options): &&(&str, &[&str])| options.contains(other);
            let whose: Vec<_> = COMMANDS.iter().filter(takes).map(|(name, _)| *name).collect();
            return Err(format!("--{other} is an option of {}, not of {name}", whose.join(", ")));
        }
        let has = |option: &str| self.given.contains(&option);
        let (json, start, dry_run) = (has("json"), has("start"), has("dry-run"));
        let (stdout, verify, agent) = (has("stdout"), has("verify"), has("agent"));
        let common = self.common.clone();
        Ok(match name {
            "check" => Command::Check { common, tenant: self.tenant, start, json },
            "status" => Command::Status { common, json },
            "backfill" => {
                let from = self.from.ok_or("backfill needs --from T, such as --from 7d")?;
                let (tenant, content_type) = (self.tenant, self.content_type);
                let window = PastWindow { from, to: self.to, tenant, content_type };
                Command::Backfill { common, window, stdout }
            }
            "reset" => match (self.tenant, self.content_type, self.to) {
                (Some(tenant), Some(content_type), Some(to)) => {
                    Command::Reset { common, tenant, content_type, to }
                }
                _ => return Err("reset needs --tenant ID, --content-type NAME and --to T".into()),
            },
            "wodle" => Command::Wodle { common, verify, agent },
            _ => Command::Poll { common, dry_run },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(args: &[&str]) -> (Common, bool) {
        match parse(args) {
            Ok(Command::Poll { common, dry_run }) => (common, dry_run),
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn poll_is_the_default_and_takes_its_options_anywhere() {
        assert_eq!(poll(&[]), poll(&["poll"]));
        assert_eq!(poll(&[]).0.home, PathBuf::from("/var/ossec"));
        let (common, dry_run) =
            poll(&["--home=/h", "poll", "--config", "-", "--log-level", "debug", "--dry-run"]);
        assert_eq!(common.home, PathBuf::from("/h"));
        assert_eq!(common.config, ConfigSource::Stdin);
        assert_eq!(common.log_level, Some(LevelFilter::Debug));
        assert!(dry_run);
        assert_eq!(poll(&["--config", "/c"]).0.config, ConfigSource::File(PathBuf::from("/c")));
    }

    #[test]
    fn every_command_takes_its_own_options() {
        let common = poll(&[]).0;
        let with_home = Common { home: PathBuf::from("/h"), ..common.clone() };
        let window = PastWindow {
            from: When::Ago(604_800),
            to: None,
            tenant: None,
            content_type: Some(ContentType::Dlp),
        };
        let table: [(&[&str], Command); 10] = [
            (&["poll", "-h"], Command::Help),
            (&["help", "check"], Command::Help),
            (&["--version"], Command::Version),
            (
                &["--to=30m", "reset", "--tenant", "t", "--content-type", "DLP.All"],
                Command::Reset {
                    common: common.clone(),
                    tenant: "t".to_owned(),
                    content_type: ContentType::Dlp,
                    to: When::Ago(1800),
                },
            ),
            (
                &["check", "--start", "--tenant=t"],
                Command::Check {
                    common: common.clone(),
                    tenant: Some("t".to_owned()),
                    start: true,
                    json: false,
                },
            ),
            (
                &["--json", "status", "--home", "/h"],
                Command::Status { common: with_home, json: true },
            ),
            (
                &["backfill", "--from", "7d", "--content-type", "DLP.All"],
                Command::Backfill { common: common.clone(), window: window.clone(), stdout: false },
            ),
            (
                &["backfill", "--from", "7d", "--to", "1d", "--stdout", "--content-type=DLP.All"],
                Command::Backfill {
                    common: common.clone(),
                    window: PastWindow { to: Some(When::Ago(86_400)), ..window },
                    stdout: true,
                },
            ),
            (
                &["wodle", "--verify"],
                Command::Wodle { common: common.clone(), verify: true, agent: false },
            ),
            (&["wodle", "--agent"], Command::Wodle { common, verify: false, agent: true }),
        ];
        for (args, expected) in table {
            assert_eq!(parse(args).unwrap(), expected, "{args:?}");
        }
        let time = Timestamp::from_unix(60);
        assert_eq!(When::parse("1970-01-01T00:01:00Z"), Some(When::At(time)));
        assert_eq!(When::Ago(60).before(time), Timestamp::from_unix(0));
    }

    #[test]
    fn mistakes_are_usage_errors_with_a_hint_where_one_helps() {
        for (args, told) in [
            (&["pol"][..], "there is no command \"pol\"; did you mean poll?; known: poll, check, "),
            (&["stauts"], "there is no command \"stauts\"; did you mean status?; known: "),
            (&["back"], "there is no command \"back\"; did you mean backfill?; known: "),
            (&["x"], "there is no command \"x\"; known: "),
            (&["poll", "poll"], "there is one argument too many"),
            (&["--hom", "/h"], "there is no option --hom; did you mean --home?"),
            (&["check", "--jsno"], "there is no option --jsno; did you mean --json?"),
            (&["--dryrun"], "there is no option --dryrun; did you mean --dry-run?"),
            (&["--loglevel=debug"], "there is no option --loglevel; did you mean --log-level?"),
            (&["--bogus"], "there is no option --bogus; see"),
            (&["--home"], "missing argument for option '--home'"),
            (&["--log-level", "trace"], "--log-level is none of error, warning, info, debug"),
            (&["--dry-run=yes"], "unexpected argument for option '--dry-run'"),
            (&["-x"], "invalid option '-x'"),
            (&["--to", "7d"], "--to is an option of backfill, reset, not of poll"),
            (&["status", "--start"], "--start is an option of check, not of status"),
            (&["reset", "--tenant", "t", "--to", "7d"], "reset needs --tenant ID, "),
            (&["reset", "--to", "7"], "--to is neither a time (2026-11-23T03:24:51Z) nor an age "),
            (&["backfill", "--to", "7d"], "backfill needs --from T"),
            (&["backfill", "--from", "soon"], "--from is neither a time"),
            (&["reset", "--content-type", "DLP"], "--content-type is none of Audit.Azure"),
            (&["reset", "--dry-run"], "--dry-run is an option of poll, not of reset"),
        ] {
            let error = parse(args).unwrap_err().error;
            assert_eq!(error.exit_code(), 2, "{args:?}");
            assert!(error.to_string().starts_with(told), "{args:?}: {error}");
            assert!(error.to_string().ends_with("; see wodle-office365 --help"), "{error}");
        }
    }

    #[test]
    fn only_a_mistake_of_poll_is_to_be_silent() {
        assert!(parse(["pol"]).unwrap_err().home.is_none());
        let misuse = parse(["--home", "/h", "--bogus"]).unwrap_err();
        assert_eq!((misuse.home, misuse.dry_run), (Some(PathBuf::from("/h")), false));
        assert!(parse(["--bogus", "--dry-run"]).unwrap_err().dry_run);
        assert!(parse(["--to", "7", "reset"]).unwrap_err().home.is_none(), "no poll's");
        assert!(parse(["--bogus", "check"]).unwrap_err().home.is_none(), "no poll's");
    }

    #[test]
    fn help_man_page_and_completions_know_every_command_and_option() {
        let files = [
            ("--help", HELP),
            ("man page", include_str!("../packaging/wodle-office365.8")),
            ("bash", include_str!("../packaging/completions/wodle-office365.bash")),
            ("zsh", include_str!("../packaging/completions/_wodle-office365")),
            ("fish", include_str!("../packaging/completions/wodle-office365.fish")),
        ];
        for (name, text) in files {
            // As troff spells it.
            let text = text.replace("\\-", "-");
            for option in COMMON.into_iter().chain(options()) {
                let spelling =
                    if name == "fish" { format!("-l {option}") } else { format!("--{option}") };
                assert!(text.contains(&spelling), "{name}: {spelling}");
            }
            for (command, _) in COMMANDS {
                assert!(text.contains(command), "{name}: {command}");
            }
            for content_type in ContentType::ALL.map(ContentType::name) {
                assert!(name == "--help" || text.contains(content_type), "{name}: {content_type}");
            }
        }
    }
}
