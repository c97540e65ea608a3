//! The command `wodle`: prints the block that has Wazuh start the polls.

use std::path::{Path, PathBuf, absolute};

use crate::args::{Common, ConfigSource};
use crate::config::Config;
use crate::error::Error;
use crate::ossec::quote;
use crate::setup::read_config;
use crate::store::{AGENT, Home, OSSEC, sha256};
use crate::terminal;

/// The tag of our block, as long as no other block has it.
const TAG: &str = "wodle-office365";

/// Gives the block for the configuration, and says on stderr where it goes. `verify`: with the
/// checksum of this very program; `agent`: for agent.conf.
///
/// # Errors
/// The configuration can't be used, or a path can't be written into ossec.conf.
pub fn run(common: &Common, verify: bool, agent: bool) -> Result<String, Error> {
    let home = Home::open(&common.home)?;
    if common.config == ConfigSource::Stdin {
        return Err(Error::Usage(
            "wodle needs the configuration in a file: Wazuh gives a command nothing on stdin"
                .to_owned(),
        ));
    }
    let config = read_config(common, &home)?;
    let program = std::env::current_exe()
        .map_err(|error| Error::Run(format!("this program's own path can't be told: {error}")))?;
    let hash = if verify { Some(sha256(&program)?) } else { None };
    let known = home.read_ossec(OSSEC).0.wodles.into_iter();
    let known = known.chain(home.read_ossec(AGENT).0.wodles);
    let tags: Vec<_> = known.filter(|wodle| !wodle.is_ours()).map(|wodle| wodle.tag).collect();
    let command = command(&program, common, hash.is_some())?;
    let block = block(&command, &free_tag(&tags), &config, hash.as_deref());
    terminal::tell(&advice(verify, agent));
    Ok(if agent { format!("<agent_config>\n{block}</agent_config>\n") } else { block })
}

/// A tag that none of these is.
fn free_tag(taken: &[String]) -> String {
    let mut tags = (1..).map(|n| if n == 1 { TAG.to_owned() } else { format!("{TAG}-{n}") });
    tags.find(|tag| !taken.contains(tag)).unwrap_or_default()
}

/// The command with the options in force.
fn command(program: &Path, common: &Common, verified: bool) -> Result<String, Error> {
    let mut arguments = vec![program.to_owned(), PathBuf::from("poll")];
    let full = |path: &Path| {
        absolute(path).map_err(|error| Error::Setup(format!("{}: {error}", path.display())))
    };
    if common.home != Path::new("/var/ossec") {
        arguments.extend([PathBuf::from("--home"), full(&common.home)?]);
    }
    if let ConfigSource::File(path) = &common.config {
        arguments.extend([PathBuf::from("--config"), full(path)?]);
    }
    if let Some(level) = common.log_level {
        let level = match level {
            log::LevelFilter::Warn => "warning".to_owned(),
            level => level.as_str().to_ascii_lowercase(),
        };
        arguments.extend([PathBuf::from("--log-level"), PathBuf::from(level)]);
    }
    let mut words = Vec::new();
    for argument in &arguments {
        let word = argument.to_str().and_then(quote).ok_or_else(|| {
            Error::Setup(format!(
                "{} can't be written into ossec.conf: move it to a path without <, > and control \
                 characters",
                argument.display()
            ))
        })?;
        words.push(word);
    }
    if verified && words.first().is_some_and(|word| word.contains([' ', '"', '\\'])) {
        return Err(Error::Setup(format!(
            "Wazuh can't verify a program whose path holds a blank, a quote or a backslash: move {} \
             elsewhere, or do without --verify",
            program.display()
        )));
    }
    Ok(words.join(" "))
}

fn block(command: &str, tag: &str, config: &Config, hash: Option<&str>) -> String {
    let interval = match config.interval {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    };
    let timeout = config.longest_run();
    let verify =
        hash.map_or(String::new(), |hash| format!("  <verify_sha256>{hash}</verify_sha256>\n"));
    format!(
        "<wodle name=\"command\">\n  <disabled>no</disabled>\n  <tag>{tag}</tag>\n  \
         <command>{command}</command>\n  <interval>{interval}</interval>\n  \
         <timeout>{timeout}</timeout>\n  <ignore_output>no</ignore_output>\n  \
         <run_on_start>yes</run_on_start>\n{verify}</wodle>\n"
    )
}

/// What to do with the block.
fn advice(verify: bool, agent: bool) -> String {
    let mut text = if agent {
        "Put this into HOME/etc/shared/GROUP/agent.conf of the manager; in a file that has an \
         <agent_config> already, the <wodle> block alone goes into it. Agents run commands that come \
         from the manager only with wazuh_command.remote_commands=1 in their \
         HOME/etc/local_internal_options.conf. Program, configuration and secrets must be on each \
         agent, under the paths that the command names.\n"
            .to_owned()
    } else {
        "Put this between <ossec_config> and </ossec_config> of HOME/etc/ossec.conf, in the place of \
         an older block of ours, and restart Wazuh (systemctl restart wazuh-manager, or \
         wazuh-agent).\n"
            .to_owned()
    };
    if verify {
        text.push_str(
            "Warning: Wazuh compares verify_sha256 with the program that it is to run. Once that has \
             changed, by an upgrade say, it ends this wodle for good, and says so in \
             HOME/logs/ossec.log only. After each upgrade of wodle-office365 print the block anew, \
             replace the old one and restart Wazuh.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, ossec};

    fn common(home: &str) -> Common {
        let (home, config) = (PathBuf::from(home), ConfigSource::Default);
        Common { home, config, log_level: None }
    }

    #[test]
    fn the_command_names_what_differs_from_the_defaults() {
        let program = Path::new("/usr/bin/wodle-office365");
        let plain = command(program, &common("/var/ossec"), true).unwrap();
        assert_eq!(plain, "/usr/bin/wodle-office365 poll");
        let all = Common {
            config: ConfigSource::File(PathBuf::from("/etc/my own.conf")),
            log_level: Some(log::LevelFilter::Warn),
            ..common("/opt/ossec")
        };
        assert_eq!(
            command(program, &all, false).unwrap(),
            "/usr/bin/wodle-office365 poll --home /opt/ossec --config \"/etc/my own.conf\" \
             --log-level warning"
        );
        assert!(command(program, &common("/a<b"), false).is_err());
        let odd = Path::new("/opt/my tools/wodle-office365");
        assert!(command(odd, &common("/var/ossec"), true).is_err(), "Wazuh would split it wrongly");
        assert!(command(odd, &common("/var/ossec"), false).is_ok());
    }

    #[test]
    fn the_block_reads_back_as_it_is_meant() {
        for (options, interval, timeout) in [
            ("", "1m", 360),
            ("<interval>90</interval><run_timeout>1h</run_timeout>", "90s", 3660),
            ("<interval>2h</interval><run_timeout>10s</run_timeout>", "2h", 70),
        ] {
            let text = format!("<office365><enabled>no</enabled>{options}</office365>");
            let config = config::parse("x", text.as_bytes()).unwrap();
            let block = block("/usr/bin/wodle-office365 poll", TAG, &config, Some("00ff"));
            let wodles = ossec::parse(block.as_bytes()).wodles;
            let wodle = &wodles[0];
            assert!(wodle.is_ours() && !wodle.disabled && !wodle.ignore_output);
            assert_eq!(wodle.interval.as_deref(), Some(interval));
            assert_eq!(wodle.interval_seconds(), u64::try_from(config.interval).ok());
            assert_eq!(wodle.timeout_seconds(), Some(timeout));
            assert_eq!((wodle.tag.as_str(), wodle.sha256.as_deref()), (TAG, Some("00ff")));
        }
    }

    #[test]
    fn a_tag_is_our_own() {
        assert_eq!(free_tag(&[]), TAG);
        let taken = [TAG.to_owned(), format!("{TAG}-2")];
        assert_eq!(free_tag(&taken), format!("{TAG}-3"));
    }
}
