//! What `check` makes of Wazuh's own configuration.

use std::path::{Path, PathBuf};

use super::finding::Findings;
use crate::args::{self, Command, Common, ConfigSource};
use crate::ossec::{Ossec, Wodle};

/// What is to fit together with it.
pub(super) struct Ours<'a> {
    /// Wazuh's folder, from the root on.
    pub(super) home: &'a Path,
    /// Our configuration, from the root on; none for stdin.
    pub(super) config: Option<PathBuf>,
    /// Ids of our tenants, in lower case.
    pub(super) tenants: Vec<String>,
    /// The least timeout of a wodle block.
    pub(super) longest_run: u64,
    pub(super) interval: u64,
    /// Whether an agent runs commands that come from the manager.
    pub(super) remote_commands: bool,
}

/// A file of Wazuh's.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) ossec: Ossec,
    /// Why it can't be read, if it can't.
    pub(super) unreadable: Option<String>,
    /// Whether the manager has sent it.
    pub(super) is_remote: bool,
}

/// A block and where it stands.
struct Block<'a> {
    place: String,
    wodle: &'a Wodle,
    is_remote: bool,
}

/// Judges ossec.conf and, of an agent, the agent.conf that the manager sent. `hash`: that of a program,
/// if it can be read.
pub(super) fn judge(
    ours: &Ours<'_>,
    sources: &[Source],
    hash: impl Fn(&Path) -> Option<String>,
    findings: &mut Findings,
) {
    for Source { path, ossec, unreadable, .. } in sources {
        let file = path.display();
        if let Some(why) = unreadable {
            findings.warning("Wazuh", format!("{file} can't be read, so nobody knows: {why}"));
        }
        for line in &ossec.unreadable {
            let why = "this block can't be read, by us at least: is a tag not closed?";
            findings.warning("Wazuh", format!("{file}:{line}: {why}"));
        }
        for (tenant, line) in &ossec.native_tenants {
            if ours.tenants.contains(tenant) {
                findings.warning(
                    "Wazuh",
                    format!(
                        "{file}:{line}: Wazuh's own <office365> module collects tenant {tenant} as \
                         well, so every event comes twice: remove that block, or say <enabled>no \
                         in it, and restart Wazuh"
                    ),
                );
            }
        }
    }
    let blocks: Vec<_> = sources
        .iter()
        .flat_map(|source| {
            source.ossec.wodles.iter().map(|wodle| Block {
                place: format!("{}:{}", source.path.display(), wodle.line),
                wodle,
                is_remote: source.is_remote,
            })
        })
        .collect();
    let polls: Vec<_> = blocks.iter().filter(|block| is_poll(block.wodle)).collect();
    let (enabled, disabled): (Vec<_>, Vec<_>) =
        polls.into_iter().partition(|block| !block.wodle.disabled);
    match (enabled.as_slice(), disabled.first()) {
        ([], Some(block)) => {
            let what = "the block that starts the polls is disabled";
            let place = &block.place;
            let text = format!("{place}: {what}: say <disabled>no in it and restart Wazuh");
            findings.warning("wodle", text);
        }
        ([], None) if blocks.iter().any(|b| b.wodle.may_be_ours() && !b.wodle.disabled) => {
            let through = blocks.iter().filter(|block| block.wodle.may_be_ours());
            for block in through {
                findings.warning(
                    "wodle",
                    format!(
                        "{}: this block seems to start the polls by way of another program, so it \
                         can't be judged here: let <command> begin with the path of wodle-office365",
                        block.place
                    ),
                );
            }
        }
        ([], None) => {
            findings.warning(
                "wodle",
                format!(
                    "nothing starts the polls yet: put the block that wodle-office365 wodle prints \
                     into {} and restart Wazuh",
                    ours.home.join("etc/ossec.conf").display()
                ),
            );
        }
        ([first, others @ ..], _) if !others.is_empty() => {
            let places: Vec<_> = others.iter().map(|block| block.place.as_str()).collect();
            findings.warning(
                "wodle",
                format!(
                    "{}: this block starts the polls, and so do the ones at {}: remove all but one \
                     and restart Wazuh, or runs stand in each other's way",
                    first.place,
                    places.join(", ")
                ),
            );
        }
        _ => {}
    }
    for block in enabled {
        let is_other =
            |other: &&Block<'_>| !std::ptr::eq(other.wodle, block.wodle) && !other.wodle.disabled;
        let others: Vec<_> = blocks.iter().filter(is_other).collect();
        let mut faults = faults(ours, block.wodle, &others, &hash);
        if block.is_remote && !ours.remote_commands {
            faults.push(format!(
                "the agent doesn't run commands that come from the manager: put \
                 wazuh_command.remote_commands=1 into {} and restart the agent",
                ours.home.join("etc/local_internal_options.conf").display()
            ));
        }
        let place = &block.place;
        if faults.is_empty() {
            findings.ok("wodle", format!("{place}: {}", block.wodle.command));
        }
        for fault in faults {
            findings.warning("wodle", format!("{place}: {fault}"));
        }
    }
}

/// What a block of ours has the program do; an error is one of its command line.
fn command(wodle: &Wodle) -> Result<Command, String> {
    args::parse(wodle.arguments().into_iter().skip(1)).map_err(|misuse| misuse.error.to_string())
}

/// Whether a block starts polls, or was meant to.
fn is_poll(wodle: &Wodle) -> bool {
    wodle.is_ours() && matches!(command(wodle), Ok(Command::Poll { .. }) | Err(_))
}

/// What is wrong with a block that starts polls.
fn faults(
    ours: &Ours<'_>,
    wodle: &Wodle,
    others: &[&Block<'_>],
    hash: &impl Fn(&Path) -> Option<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let least = ours.longest_run;
    match wodle.timeout_seconds() {
        // None: Wazuh waits as long as it takes, and a run ends by itself.
        Some(0) => {}
        Some(seconds) if seconds < least => faults.push(format!(
            "<timeout>{seconds}</timeout> is too short: Wazuh ends runs early; make it {least}, \
             which is run_timeout and a minute"
        )),
        Some(_) => {}
        None => faults.push(format!(
            "<timeout>{}</timeout> is not in bare seconds, which alone Wazuh takes: make it {least}",
            wodle.timeout.as_deref().unwrap_or_default()
        )),
    }
    if wodle.ignore_output {
        faults.push(
            "<ignore_output>yes</ignore_output> throws every event away: make it no".to_owned(),
        );
    }
    match wodle.interval_seconds() {
        Some(seconds) if seconds != ours.interval => faults.push(format!(
            "<interval> is {seconds} s, but interval of our configuration is {} s, by which status \
             judges when a poll is overdue: make them the same",
            ours.interval
        )),
        None => faults.push(match wodle.interval.as_deref() {
            Some(interval) => format!(
                "<interval>{interval}</interval> is none that Wazuh takes: write it as in 60s or 1m"
            ),
            None => format!(
                "there is no <interval>, so Wazuh starts a poll every two seconds: make it {}s",
                ours.interval
            ),
        }),
        Some(_) => {}
    }
    if wodle.tag.is_empty() {
        faults.push("<tag> is missing: give the block one of its own".to_owned());
    } else if let Some(other) = others.iter().find(|other| other.wodle.tag == wodle.tag) {
        faults.push(format!(
            "its <tag>{}</tag> is also that of the block at {}: give each one of its own",
            wodle.tag, other.place
        ));
    }
    let arguments = wodle.arguments();
    let program = arguments.first().map(Path::new).unwrap_or(Path::new(""));
    if !program.is_absolute() {
        faults.push(format!(
            "<command> names {} without its folder: write the whole path",
            program.display()
        ));
    }
    match (&wodle.sha256, hash(program)) {
        (Some(expected), Some(actual)) if !actual.eq_ignore_ascii_case(expected) => {
            faults.push(format!(
                "<verify_sha256> is not the checksum of {}: Wazuh ends this wodle for good; print the \
                 block anew with wodle-office365 wodle --verify, replace this one and restart Wazuh",
                program.display()
            ));
        }
        (_, None) if program.is_absolute() => {
            faults.push(format!("{} is not there, or can't be read", program.display()));
        }
        _ => {}
    }
    if wodle.other_hash {
        faults.push(
            "<verify_md5> and <verify_sha1> are not compared here, and are weak: use the \
             <verify_sha256> that wodle-office365 wodle --verify prints"
                .to_owned(),
        );
    }
    match command(wodle) {
        Err(misuse) => faults.push(format!("every run of it ends with exit code 2: {misuse}")),
        Ok(Command::Poll { dry_run: true, .. }) => faults.push(
            "with --dry-run nothing is ever saved, so the same events come in every run: remove it"
                .to_owned(),
        ),
        Ok(Command::Poll { common, .. }) => faults.extend(elsewhere(ours, &common)),
        Ok(_) => {}
    }
    faults
}

/// What is wrong if a block's polls work elsewhere than where we look.
fn elsewhere(ours: &Ours<'_>, common: &Common) -> Option<String> {
    if common.home != ours.home {
        return Some(format!(
            "its polls work in {}, and not in {home}: add --home {home} to <command>",
            common.home.display(),
            home = ours.home.display()
        ));
    }
    let config = match &common.config {
        ConfigSource::Default => ours.home.join("etc/wodle-office365.conf"),
        ConfigSource::File(path) => ours.home.join(path),
        ConfigSource::Stdin => {
            return Some("--config - brings nothing: Wazuh gives a command no stdin".to_owned());
        }
    };
    let other = ours.config.as_ref().filter(|checked| **checked != config)?;
    Some(format!(
        "its polls read {}, and not {}, which was looked at here",
        config.display(),
        other.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ossec;

    /// What is told of an ossec.conf, and of an agent.conf.
    fn told_of(own: &str, shared: &str, remote_commands: bool) -> String {
        let ours = Ours {
            home: Path::new("/var/ossec"),
            config: Some(PathBuf::from("/var/ossec/etc/wodle-office365.conf")),
            tenants: vec!["abc".to_owned()],
            longest_run: 360,
            interval: 60,
            remote_commands,
        };
        let source = |path: &str, text: &str, is_remote| Source {
            path: PathBuf::from(path),
            ossec: ossec::parse(text.as_bytes()),
            unreadable: None,
            is_remote,
        };
        let sources = [source("own", own, false), source("shared", shared, true)];
        let mut findings = Findings::default();
        let hash = |path: &Path| path.starts_with("/usr").then(|| "00ff".to_owned());
        judge(&ours, &sources, hash, &mut findings);
        let lines = findings.all.iter().map(|f| format!("{:?} {}: {}", f.mark, f.check, f.text));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn told(own: &str) -> String {
        told_of(own, "", false)
    }

    fn block(command: &str, further: &str) -> String {
        format!(
            "<wodle name=\"command\"><tag>a</tag><command>{command}</command>\
             <interval>1m</interval>{further}</wodle>"
        )
    }

    const POLL: &str = "/usr/bin/wodle-office365 poll";

    #[test]
    fn a_good_block_is_shown() {
        for timeout in ["", "<timeout>360</timeout>", "<timeout>0</timeout>"] {
            let told = told(&block(POLL, timeout));
            assert_eq!(told, format!("Ok wodle: own:1: {POLL}"));
        }
        let disabled = block("/bin/x", "<disabled>yes</disabled>");
        assert!(told(&(block(POLL, "") + &disabled)).starts_with("Ok "), "its tag bothers nobody");
        let hashed = block(POLL, "<verify_sha256>00FF</verify_sha256>");
        assert!(told(&hashed).starts_with("Ok "));
        assert!(told(&block("/usr/bin/wodle-office365", "")).starts_with("Ok "));
    }

    #[test]
    fn every_fault_of_a_block_is_a_warning() {
        for (own, expected) in [
            (String::new(), "nothing starts the polls yet"),
            (block("/usr/bin/other poll", ""), "nothing starts the polls yet"),
            (block("/usr/bin/wodle-office365 status", ""), "nothing starts the polls yet"),
            (block(POLL, "<disabled>yes</disabled>"), "is disabled: say <disabled>no"),
            (block("nice /usr/bin/wodle-office365 poll", ""), "by way of another program"),
            (block("/bin/sh -c \"wodle-office365 poll\"", ""), "by way of another program"),
            (block(POLL, "") + "\n" + &block(POLL, ""), "and so do the ones at own:2"),
            (
                block(POLL, "<timeout>359</timeout>"),
                "is too short: Wazuh ends runs early; make it 360",
            ),
            (block(POLL, "<timeout>6m</timeout>"), "not in bare seconds"),
            (block(POLL, "<ignore_output>yes</ignore_output>"), "throws every event away"),
            (block(POLL, "<interval>5m</interval>"), "<interval> is 300 s, but"),
            (block(POLL, "<interval>often</interval>"), "<interval>often</interval> is none"),
            (
                block(POLL, "")
                    + "<wodle name=\"command\"><tag>a</tag><command>x</command></wodle>",
                "its <tag>a</tag> is also that of the block at own:1",
            ),
            (block(POLL, "").replace("<interval>1m</interval>", ""), "there is no <interval>"),
            (block("wodle-office365 poll", ""), "without its folder"),
            (
                block("/usr/bin/wodle-office365 pol", ""),
                "ends with exit code 2: there is no command",
            ),
            (block("/usr/bin/wodle-office365 poll --jsn", ""), "there is no option --jsn"),
            (block("/usr/bin/wodle-office365 --dry-run", ""), "nothing is ever saved"),
            (block("/usr/bin/wodle-office365 poll --config /x", ""), "its polls read /x, and not"),
            (block("/usr/bin/wodle-office365 poll --config -", ""), "--config - brings nothing"),
            (
                block(POLL, "<verify_sha256>00aa</verify_sha256>"),
                "is not the checksum of /usr/bin/",
            ),
            (
                block("/opt/wodle-office365", "<verify_sha256>00ff</verify_sha256>"),
                "/opt/wodle-office365 is not there, or can't be read",
            ),
            (block(POLL, "<verify_md5>x</verify_md5>"), "are not compared here"),
            (
                block("/usr/bin/wodle-office365 poll --home /x", ""),
                "its polls work in /x, and not in /var/ossec",
            ),
            ("<wodle name=\"command\">".to_owned(), "this block can't be read"),
            (
                "<office365><api_auth><tenant_id>ABC</tenant_id></api_auth></office365>".to_owned(),
                "Wazuh's own <office365> module collects tenant abc as well",
            ),
        ] {
            let told = told(&own);
            assert!(told.contains(expected), "{own}\n{told}");
            assert!(!told.contains("Ok wodle"), "{told}");
            assert!(told.lines().all(|line| line.starts_with("Warning ")), "{told}");
        }
        let other =
            "<office365><api_auth><tenant_id>other</tenant_id></api_auth></office365>".to_owned();
        assert!(!told(&other).contains("<office365> module"));
    }

    #[test]
    fn a_block_may_come_from_the_manager() {
        let shared = block(POLL, "");
        let told = told_of("", &shared, false);
        assert!(told.contains("put wazuh_command.remote_commands=1 into"), "{told}");
        let told = told_of("", &shared, true);
        assert_eq!(told, format!("Ok wodle: shared:1: {POLL}"));
        assert!(told_of(&shared, &shared, true).contains("and so do the ones at shared:1"));
    }
}
