//! How a run ends badly, and the exit code that says so.

use std::fmt;

use crate::config::ConfigError;

/// A fault that ends the run.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong.
    Usage(String),
    /// The configuration is wrong.
    Config(ConfigError),
    /// A file or folder that we need can't be used as it is; the text says what to do.
    Setup(String),
    /// Something failed that may succeed next time.
    Run(String),
}

impl Error {
    /// The exit code of the contract: 2 where a person must change something before it can work.
    /// Wazuh throws a run's output away on 127, so nothing near that is ever used.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Setup(_) => 2,
            Self::Run(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}; see wodle-office365 --help"),
            Self::Config(error) => write!(f, "configuration: {error}"),
            Self::Setup(text) | Self::Run(text) => f.write_str(text),
        }
    }
}
