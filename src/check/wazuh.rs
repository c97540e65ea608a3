//! What `check` makes of Wazuh's own configuration.

use std::path::{Path, PathBuf};

use super::finding::Findings;
use crate::ossec::{Ossec, Wodle};
use crate::wodle::{MARGIN, is_ours};

/// What is to fit together with it.
pub(super) struct Ours<'a> {
    pub(super) home: &'a Path,
    /// Ids of our tenants, in lower case.
    pub(super) tenants: Vec<String>,
    pub(super) run_timeout: u64,
    pub(super) interval: u64,
}

/// Where a block stands.
const OWN: &str = "HOME/etc/ossec.conf";
const SHARED: &str = "HOME/etc/shared/agent.conf";

/// Judges ossec.conf and, of an agent, the agent.conf that the manager sent. `hash`: that of a program.
pub(super) fn judge(
    ours: &Ours<'_>,
    own: &Ossec,
    shared: &Ossec,
    remote_commands: bool,
    hash: impl Fn(&Path) -> Option<String>,
    findings: &mut Findings,
) {
    for (file, ossec) in [(OWN, own), (SHARED, shared)] {
        for line in &ossec.unreadable {
            findings.warning(
                "Wazuh",
                format!(
                    "{file}:{line}: this block can't be read, by us at least: is a tag not closed?"
                ),
            );
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
    let all = || [(OWN, own), (SHARED, shared)].into_iter().flat_map(|(f, o)| with(f, &o.wodles));
    let polls: Vec<_> = all().filter(|(_, wodle)| is_poll(wodle)).collect();
    let (enabled, disabled): (Vec<_>, Vec<_>) =
        polls.into_iter().partition(|(_, wodle)| !wodle.disabled);
    match enabled.as_slice() {
        [] => match disabled.first() {
            Some((file, wodle)) => {
                let place = format!("{file}:{}", wodle.line);
                findings.warning(
                    "wodle",
                    format!(
                        "{place}: the block that starts the polls is disabled: say <disabled>no in \
                         it and restart Wazuh"
                    ),
                );
            }
            None => {
                findings.warning(
                    "wodle",
                    "nothing starts the polls yet: put the block that wodle-office365 wodle prints \
                     into HOME/etc/ossec.conf and restart Wazuh",
                );
            }
        },
        [_] => {}
        [first, others @ ..] => {
            let places: Vec<_> =
                others.iter().map(|(file, wodle)| format!("{file}:{}", wodle.line)).collect();
            findings.warning(
                "wodle",
                format!(
                    "{}:{}: this block starts the polls, and so do the ones at {}: remove all but \
                     one and restart Wazuh, or runs stand in each other's way",
                    first.0,
                    first.1.line,
                    places.join(", ")
                ),
            );
        }
    }
    for (file, wodle) in enabled {
        let others: Vec<_> = all().filter(|(_, other)| !std::ptr::eq(*other, wodle)).collect();
        let faults = faults(ours, wodle, &others, &hash);
        let place = format!("{file}:{}", wodle.line);
        if faults.is_empty() {
            findings.ok("wodle", format!("{place}: {}", wodle.command));
        }
        for fault in faults {
            findings.warning("wodle", format!("{place}: {fault}"));
        }
        if file == SHARED && !remote_commands {
            findings.warning(
                "wodle",
                format!(
                    "{place}: the agent doesn't run commands that come from the manager: put \
                     wazuh_command.remote_commands=1 into HOME/etc/local_internal_options.conf and \
                     restart the agent"
                ),
            );
        }
    }
}

fn with<'a>(
    file: &'static str,
    wodles: &'a [Wodle],
) -> impl Iterator<Item = (&'static str, &'a Wodle)> {
    wodles.iter().map(move |wodle| (file, wodle))
}

/// Whether a block starts polls.
fn is_poll(wodle: &Wodle) -> bool {
    let arguments = wodle.arguments();
    let other = ["check", "status", "backfill", "reset", "wodle"];
    is_ours(wodle) && !arguments.iter().any(|argument| other.contains(&argument.as_str()))
}

/// What is wrong with a block that starts polls.
fn faults(
    ours: &Ours<'_>,
    wodle: &Wodle,
    others: &[(&str, &Wodle)],
    hash: &impl Fn(&Path) -> Option<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let least = ours.run_timeout.saturating_add(MARGIN);
    match wodle.timeout_seconds() {
        // None: Wazuh waits as long as it takes, and a run ends by itself.
        Some(0) => {}
        Some(seconds) if seconds < least => faults.push(format!(
            "<timeout>{seconds}</timeout> is too short: Wazuh ends runs early; make it {least}, \
             which is run_timeout and {MARGIN} seconds"
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
    } else if let Some((file, other)) = others.iter().find(|(_, other)| other.tag == wodle.tag) {
        faults.push(format!(
            "its <tag>{}</tag> is also that of the block at {file}:{}: give each one of its own",
            wodle.tag, other.line
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
    if let Some(expected) = &wodle.sha256 {
        match hash(program) {
            Some(actual) if actual.eq_ignore_ascii_case(expected) => {}
            Some(_) => faults.push(format!(
                "<verify_sha256> is not the checksum of {}: Wazuh ends this wodle for good; print the \
                 block anew with wodle-office365 wodle --verify, replace this one and restart Wazuh",
                program.display()
            )),
            None => faults.push(format!(
                "<verify_sha256> can't be compared: {} can't be read",
                program.display()
            )),
        }
    }
    if wodle.other_hash {
        faults.push(
            "<verify_md5> and <verify_sha1> are not compared here, and are weak: use the \
             <verify_sha256> that wodle-office365 wodle --verify prints"
                .to_owned(),
        );
    }
    let homes = std::iter::zip(&arguments, arguments.iter().skip(1));
    let given = homes.filter(|(option, _)| *option == "--home").map(|(_, home)| home.as_str());
    let joined = arguments.iter().filter_map(|argument| argument.strip_prefix("--home="));
    let home = given.chain(joined).last().map_or(PathBuf::from("/var/ossec"), PathBuf::from);
    if home != ours.home {
        faults.push(format!(
            "its polls work in {}, and not in {}: add --home {} to <command>",
            home.display(),
            ours.home.display(),
            ours.home.display()
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ossec;

    /// What is told of an ossec.conf, and of an agent.conf.
    fn told_of(own: &str, shared: &str, remote: bool) -> String {
        let ours = Ours {
            home: Path::new("/var/ossec"),
            tenants: vec!["abc".to_owned()],
            run_timeout: 300,
            interval: 60,
        };
        let mut findings = Findings::default();
        let (own, shared) = (ossec::parse(own.as_bytes()), ossec::parse(shared.as_bytes()));
        let hash = |path: &Path| path.starts_with("/usr").then(|| "00ff".to_owned());
        judge(&ours, &own, &shared, remote, hash, &mut findings);
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
            assert_eq!(told, format!("Ok wodle: HOME/etc/ossec.conf:1: {POLL}"));
        }
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
            (
                block(POLL, "") + "\n" + &block(POLL, ""),
                "and so do the ones at HOME/etc/ossec.conf:2",
            ),
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
                "its <tag>a</tag> is also that of the block at HOME/etc/ossec.conf:1",
            ),
            (block(POLL, "").replace("<interval>1m</interval>", ""), "there is no <interval>"),
            (block("wodle-office365 poll", ""), "without its folder"),
            (
                block(POLL, "<verify_sha256>00aa</verify_sha256>"),
                "is not the checksum of /usr/bin/",
            ),
            (
                block("/opt/wodle-office365", "<verify_sha256>00ff</verify_sha256>"),
                "/opt/wodle-office365 can't be read",
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
        assert_eq!(told, format!("Ok wodle: HOME/etc/shared/agent.conf:1: {POLL}"));
        assert!(told_of(&shared, &shared, true).contains("and so do the ones at HOME/etc/shared"));
    }
}
