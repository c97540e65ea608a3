//! What Wazuh's own configuration says of us: the blocks of the command wodle and of Wazuh's own
//! office365 module in ossec.conf and agent.conf, and the numbers of internal_options.conf.
//!
//! Source: Wazuh's reader (`os_xml.c`, `wmodules-command.c`): several roots are legal, no entity is
//! decoded, nothing is trimmed, numbers may be octal or hexadecimal.

use std::path::PathBuf;

use roxmltree::{Document, Node};

use crate::config::blocks::{blocks, place};

/// Wazuh sends this many events a second of a wodle unless it is told otherwise.
pub const DEFAULT_MAX_EPS: u64 = 100;

/// A `<wodle name="command">` block, each value as it stands there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wodle {
    /// The line on which it begins, from 1.
    pub line: u32,
    /// `<disabled>yes`.
    pub disabled: bool,
    /// `<tag>`.
    pub tag: String,
    /// `<command>`.
    pub command: String,
    /// `<interval>`, if it is given.
    pub interval: Option<String>,
    /// `<timeout>`, if it is given; without it Wazuh waits for ever.
    pub timeout: Option<String>,
    /// `<ignore_output>yes`.
    pub ignore_output: bool,
    /// `<verify_sha256>`.
    pub sha256: Option<String>,
    /// Whether it has `<verify_md5>` or `<verify_sha1>`.
    pub other_hash: bool,
}

impl Wodle {
    /// Whether it starts this program, with whatever command.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let program = self.arguments().into_iter().next().map(PathBuf::from);
        program.is_some_and(|path| path.file_name().is_some_and(|name| name == "wodle-office365"))
    }

    /// Whether it may start this program by way of another one.
    #[must_use]
    pub fn may_be_ours(&self) -> bool {
        !self.is_ours() && self.command.contains("wodle-office365")
    }

    /// The arguments of its command, the program first.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        split(&self.command)
    }

    /// Its timeout in seconds, 0 for none; no number where Wazuh takes it for none, or for one in
    /// another base.
    #[must_use]
    pub fn timeout_seconds(&self) -> Option<u64> {
        match self.timeout.as_deref() {
            None | Some("0") => Some(0),
            Some(text) => bare(text),
        }
    }

    /// Its interval in seconds; none where it isn't given or can't be read.
    #[must_use]
    pub fn interval_seconds(&self) -> Option<u64> {
        let text = self.interval.as_deref()?;
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor = match text.get(digits.len()..)? {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        bare(digits)?.checked_mul(factor)
    }
}

/// A number that is read alike in every base.
fn bare(text: &str) -> Option<u64> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    decimal.then(|| text.parse().ok())?
}

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ossec {
    /// Its blocks of the command wodle.
    pub wodles: Vec<Wodle>,
    /// The tenants of Wazuh's own module where that is enabled, in lower case, each with the line on
    /// which its block begins.
    pub native_tenants: Vec<(String, u32)>,
    /// The lines on which blocks begin that can't be read.
    pub unreadable: Vec<u32>,
}

/// Reads an ossec.conf or agent.conf.
#[must_use]
pub fn parse(bytes: &[u8]) -> Ossec {
    let text = String::from_utf8_lossy(bytes);
    let mut ossec = Ossec::default();
    let mut enabled = true;
    for_each_block(&text, "office365", &mut ossec.unreadable, |block, line| {
        // Blocks are merged, and the last value counts.
        if let Some(value) = value(block, "enabled") {
            enabled = value != "no";
        }
        let auths = block.children().filter(|child| child.has_tag_name("api_auth"));
        let tenants = auths.filter_map(|auth| value(auth, "tenant_id"));
        ossec.native_tenants.extend(tenants.map(|id| (id.trim().to_ascii_lowercase(), line)));
    });
    if !enabled {
        ossec.native_tenants.clear();
    }
    for_each_block(&text, "wodle", &mut ossec.unreadable, |block, line| {
        if block.attribute("name") != Some("command") {
            return;
        }
        let given = |tag: &str| value(block, tag);
        ossec.wodles.push(Wodle {
            line,
            disabled: given("disabled").is_some_and(|value| value == "yes"),
            tag: given("tag").unwrap_or_default(),
            command: given("command").unwrap_or_default(),
            interval: given("interval"),
            timeout: given("timeout"),
            ignore_output: given("ignore_output").is_some_and(|value| value == "yes"),
            sha256: given("verify_sha256"),
            other_hash: given("verify_md5").or_else(|| given("verify_sha1")).is_some(),
        });
    });
    ossec
}

/// Calls `take` for each block of this name, with its line.
fn for_each_block(
    text: &str,
    name: &str,
    unreadable: &mut Vec<u32>,
    mut take: impl FnMut(Node<'_, '_>, u32),
) {
    let (found, unclosed) = blocks(text, name);
    unreadable.extend(unclosed.map(|at| place(text, at).0));
    for block in found {
        let line = place(text, block.start).0;
        // To Wazuh an ampersand is one like any other character.
        let block = text.get(block).unwrap_or_default().replace('&', "&amp;");
        match Document::parse(&block) {
            Ok(document) => take(document.root_element(), line),
            Err(_) => unreadable.push(line),
        }
    }
}

/// The text of the last child of this name.
fn value(block: Node<'_, '_>, tag: &str) -> Option<String> {
    let last = block.children().rfind(|child| child.has_tag_name(tag))?;
    Some(last.children().filter_map(|child| child.text()).collect())
}

/// The arguments of a command as the wodle splits them: at blanks, but not between double quotes; a
/// backslash takes the next character as it is.
#[must_use]
pub fn split(command: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut argument: Option<String> = None;
    let mut quoted = false;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' if !quoted => arguments.extend(argument.take()),
            '"' => {
                quoted = !quoted;
                argument.get_or_insert_default();
            }
            '\\' => argument.get_or_insert_default().extend(chars.next()),
            c => argument.get_or_insert_default().push(c),
        }
    }
    arguments.extend(argument);
    arguments
}

/// An argument as it is to be written, so that [`split`] gives it back; none where ossec.conf can't
/// hold it.
#[must_use]
pub fn quote(argument: &str) -> Option<String> {
    if argument.contains(['<', '>']) || argument.contains(char::is_control) {
        return None;
    }
    let escaped = argument.replace('\\', r"\\").replace('"', "\\\"");
    Some(if argument.contains(' ') || argument.is_empty() {
        format!("\"{escaped}\"")
    } else {
        escaped
    })
}

/// The value of an option in the contents of internal_options.conf and local_internal_options.conf,
/// of which the later ones go before the earlier.
#[must_use]
pub fn internal_option(files: &[Vec<u8>], name: &str) -> Option<u64> {
    let found = files.iter().rev().find_map(|file| {
        let text = String::from_utf8_lossy(file).into_owned();
        // The first one counts in a file.
        text.lines().find_map(|line| {
            let (option, value) = line.split_once('=')?;
            (option.trim() == name).then(|| value.trim().to_owned())
        })
    });
    found?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_wherever_they_stand() {
        let text = br#"<ossec_config>
  <!-- <wodle name="command"><tag>commented</tag></wodle> -->
  <wodle name="syscollector"><disabled>no</disabled></wodle>
  <localfile><command>a && b</command></localfile>
  <wodle name="command">
    <disabled>no</disabled>
    <tag>ours</tag>
    <command>/usr/bin/wodle-office365 poll --x "a b" && c</command>
    <timeout>360</timeout><interval>2m</interval>
  </wodle>
  <office365><api_auth><tenant_id> ABC </tenant_id></api_auth></office365>
</ossec_config>
<ossec_config>
  <wodle name="command"><disabled>yes</disabled><tag>x</tag><verify_sha256>ab</verify_sha256>
    <ignore_output>yes</ignore_output></wodle>
</ossec_config>"#;
        let ossec = parse(text);
        assert_eq!(ossec.wodles.len(), 2, "{ossec:?}");
        let [ours, other] = [&ossec.wodles[0], &ossec.wodles[1]];
        assert_eq!((ours.line, ours.tag.as_str(), ours.disabled), (5, "ours", false));
        let arguments = ["/usr/bin/wodle-office365", "poll", "--x", "a b", "&&", "c"];
        assert_eq!(ours.arguments(), arguments);
        assert_eq!((ours.timeout_seconds(), ours.interval_seconds()), (Some(360), Some(120)));
        assert!(other.disabled && other.ignore_output && other.sha256.is_some());
        assert_eq!((other.timeout_seconds(), other.interval_seconds()), (Some(0), None));
        assert_eq!(ossec.native_tenants, [("abc".to_owned(), 11)]);
        assert!(ossec.unreadable.is_empty());
    }

    #[test]
    fn the_last_word_of_merged_blocks_counts_and_damage_is_told() {
        let block = |enabled: &str| {
            format!(
                "<office365><enabled>{enabled}</enabled><api_auth><tenant_id>t</tenant_id>\
                 </api_auth></office365>"
            )
        };
        let tenants = |text: String| parse(text.as_bytes()).native_tenants.len();
        assert_eq!(tenants(block("no") + &block("yes")), 2);
        assert_eq!(tenants(block("yes") + &block("no")), 0);
        assert_eq!(parse(b"\n<office365>").unreadable, [2]);
        let good = "<wodle name=\"command\"><tag>a</tag></wodle>\n<wodle name=\"command\">";
        let ossec = parse(good.as_bytes());
        assert_eq!((ossec.wodles.len(), ossec.unreadable), (1, vec![2]));
        assert_eq!(parse(b"<wodle name=\"command\"><a></b></wodle>").unreadable, [1]);
        assert_eq!(parse(b""), Ossec::default());
    }

    #[test]
    fn only_bare_decimal_seconds_are_a_timeout() {
        for (text, seconds) in [
            ("360", Some(360)),
            ("0", Some(0)),
            ("6m", None),
            ("0360", None),
            ("360 ", None),
            ("-1", None),
            ("", None),
        ] {
            let wodle = Wodle { timeout: Some(text.to_owned()), ..Wodle::default() };
            assert_eq!(wodle.timeout_seconds(), seconds, "{text}");
        }
    }

    #[test]
    fn arguments_survive_the_wodle() {
        let arguments = ["/a b/c", "x", r#"q"uo\te"#, "", "ümlaut&", r"\", "a  b"];
        let line: Vec<_> = arguments.iter().map(|argument| quote(argument).unwrap()).collect();
        assert_eq!(split(&line.join("  ")), arguments);
        assert_eq!(quote("/usr/bin/wodle-office365").unwrap(), "/usr/bin/wodle-office365");
        for bad in ["a<b", "a>b", "a\nb"] {
            assert_eq!(quote(bad), None);
        }
    }

    #[test]
    fn local_options_go_before_wazuhs_own() {
        let own = b"# wazuh_modules.max_eps=5\nwazuh_modules.max_eps=100\n".to_vec();
        let local = b"wazuh_modules.max_eps = 500\n".to_vec();
        let name = "wazuh_modules.max_eps";
        assert_eq!(internal_option(&[own.clone(), local], name), Some(500));
        assert_eq!(internal_option(&[own, b"x=1".to_vec()], name), Some(100));
        assert_eq!(internal_option(&[], name), None);
    }
}
