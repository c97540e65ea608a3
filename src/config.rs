//! The configuration: the `<office365>` block of ossec.conf, option for option, plus our own.
//!
//! A whole ossec.conf is taken too. Such a file is no XML document (several roots are legal there,
//! and so is a bare `&`), so the `<office365>` blocks outside of comments are cut out of it and
//! only they are parsed as XML.

pub(crate) mod blocks;
mod reader;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use log::LevelFilter;
use roxmltree::Document;
use zeroize::Zeroizing;

use self::blocks::{blocks, place};
use self::reader::Reader;
pub use self::values::{LEVELS, is_guid, parse_level, parse_time};
use crate::content::ContentType;
use crate::event::Options;
use crate::proxy::Proxy;
use crate::secret::Secret;

/// What one configuration says. Times are in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether anything is to be done at all.
    pub enabled: bool,
    /// How often Wazuh starts a poll.
    pub interval: i64,
    /// The largest token answer, listing page or record held in memory.
    pub max_held: usize,
    /// Where a stream's first run starts: now, or with all that the API holds.
    pub only_future_events: bool,
    /// The tenants, in the file's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// The content types, without doubles, in the file's order.
    pub subscriptions: Vec<ContentType>,
    /// The proxy; none leaves it to the environment.
    pub proxy: Option<Proxy>,
    /// A PEM bundle that is trusted besides the system's roots.
    pub ca_path: Option<PathBuf>,
    /// Requests in flight at once.
    pub max_connections: usize,
    /// How far behind its position a stream is listed again.
    pub lookback: i64,
    /// After this a run starts nothing new.
    pub run_timeout: u64,
    /// Once it has written this much a run starts no new blob.
    pub max_output: u64,
    /// What is made of records.
    pub events: Options,
    /// What the log holds.
    pub log_level: LevelFilter,
    /// What an administrator should know though it is no error.
    pub warnings: Vec<String>,
    /// The group that may write to the file: what it names must be readable by that group.
    pub writers: Option<u32>,
}

/// One `api_auth` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// A GUID or a domain name, as spelt in the file.
    pub tenant_id: String,
    /// The application's id.
    pub client_id: String,
    /// How it proves who it is.
    pub credential: Credential,
    /// Origin of the login host.
    pub login: String,
    /// Origin of the Management Activity API.
    pub management: String,
}

/// Where a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `client_secret`.
    Secret(Secret),
    /// `client_secret_path`.
    SecretFile(PathBuf),
    /// A certificate and its private key instead of a secret, both PEM.
    Certificate {
        /// `client_certificate_path`.
        certificate: PathBuf,
        /// `client_key_path`.
        key: PathBuf,
    },
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// Line and column, from 1; none where the fault has no place.
    pub position: Option<(u32, u32)>,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Config {
    /// A run may go on for so long after `run_timeout`, in seconds: what is in flight may end.
    pub const MARGIN: u64 = 60;

    /// How long a run may take in all, in seconds: the timeout of the wodle block.
    #[must_use]
    pub fn longest_run(&self) -> u64 {
        self.run_timeout.saturating_add(Self::MARGIN)
    }
}

impl Tenant {
    /// The two origins that it is spoken to at.
    #[must_use]
    pub fn origins(&self) -> [&str; 2] {
        [&self.login, &self.management]
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}
/// Reads the configuration `bytes` of the file that messages call `file`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Config, ConfigError> {
    // Comments outside our blocks may be in any encoding; a block itself must be UTF-8.
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        let text = "this is UTF-16: save it as UTF-8".to_owned();
        return Err(ConfigError { file: file.to_owned(), position: Some((1, 1)), text });
    }
    let text = lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let fault = |position, text: String| ConfigError { file: file.to_owned(), position, text };
    // A log, or a database, may hold a block that somebody else has put there; and who may write to the
    // folder of the configuration can move such a file of root's to its place.
    let begins = text.trim_start();
    let odd = if begins.is_empty() || begins.starts_with('<') { None } else { Some(begins) };
    let odd = odd.map(|rest| text.len() - rest.len()).or_else(|| text.find('\0'));
    if let Some(at) = odd {
        return Err(fault(
            Some(place(text, at)),
            "this is not a configuration, which is text and begins with a tag".to_owned(),
        ));
    }
    let (blocks, unclosed) = blocks(text, "office365");
    if let Some(at) = unclosed {
        return Err(fault(Some(place(text, at)), "<office365> is never closed".to_owned()));
    }
    if blocks.is_empty() {
        return Err(fault(None, "there is no <office365> block in it".to_owned()));
    }
    let mut reader = Reader::new(file, text);
    for block in blocks {
        let before = text.get(..block.start).unwrap_or_default();
        let start = block.start;
        let block = text.get(block).unwrap_or_default();
        if let Some(at) = block.find('\u{fffd}') {
            return Err(fault(Some(place(text, start + at)), "this is not UTF-8".to_owned()));
        }
        // Blanks in place of what precedes, so that every place is one of the file.
        let mut document = Zeroizing::new(String::with_capacity(start + block.len()));
        document.extend(before.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        document.push_str(block);
        let document = Document::parse(&document).map_err(|error| {
            let mut at = error.pos();
            if at.row == place(text, start).0 {
                // The blanks are as many as there were bytes.
                let line = before.rsplit('\n').next().unwrap_or_default();
                let further = line.len() - line.chars().count();
                at.col -= u32::try_from(further).unwrap_or_default().min(at.col);
            }
            // The parser's own words may quote the text, and so a secret.
            let text = "this is not well-formed XML: a tag is not closed, or a value holds a bare \
                        & or <; write &amp; and &lt;";
            fault(Some((at.row, at.col)), text.to_owned())
        })?;
        reader.block(document.root_element())?;
    }
    reader.finish()
}

/// Whether this is a whole ossec.conf, and not only our block.
#[must_use]
pub fn is_whole_ossec(bytes: &[u8]) -> bool {
    let (roots, _) = blocks(&lossy(bytes), "ossec_config");
    !roots.is_empty()
}

/// `bytes` as text, with U+FFFD for what is no UTF-8; a copy, but wiped.
fn lossy(bytes: &[u8]) -> Zeroizing<String> {
    let size = bytes.utf8_chunks().map(|chunk| chunk.valid().len() + '\u{fffd}'.len_utf8()).sum();
    let mut text = Zeroizing::new(String::with_capacity(size));
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('\u{fffd}');
        }
    }
    text
}
