//! The log file, in Wazuh's line form, and where stderr and panics go.
//!
//! Under the wodle stdout and stderr are one pipe, and every line on it becomes an event: so a
//! stderr that is no terminal is pointed at the log, which catches even the runtime's own last
//! words.

mod repeated;

use std::fs::File;
use std::io::{self, IsTerminal, LineWriter, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};
use time::macros::format_description;

use self::repeated::Repeated;
use crate::terminal;
use crate::words::one_line;

/// Takes `file` as a poll's log: points a stderr that is no terminal at it, shows messages on one that
/// is, and makes panics end in exit code 1.
///
/// Call it once, before any thread is started: the local time zone can't be read later. Messages
/// below `warning` are not logged until [`log::set_max_level`] says so.
///
/// # Errors
/// The log could not be opened; stderr is quiet nevertheless.
pub fn start_quiet(file: io::Result<File>) -> io::Result<()> {
    let terminal = io::stderr().is_terminal();
    if !terminal {
        match &file {
            Ok(file) => rustix::stdio::dup2_stderr(file)?,
            Err(_) => rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?,
        }
    }
    let mut loggers: Vec<Box<dyn Log>> = Vec::new();
    let mut failed = None;
    match file {
        Ok(file) => loggers.push(logger(LineWriter::new(file))),
        Err(error) => failed = Some(error),
    }
    if terminal {
        loggers.push(logger(LineWriter::new(io::stderr())));
    }
    log_to(loggers);
    end_on_panic(false);
    failed.map_or(Ok(()), Err)
}

/// Makes panics, in whatever thread, end in exit code 1, with a line in the log; `aloud`, on stderr, too.
pub fn end_on_panic(aloud: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        log::error!("this is a fault of wodle-office365, please report it: {panic}");
        if aloud {
            let text = "this is a fault of wodle-office365, please report it";
            terminal::tell(&format!("{text}: {panic}\n"));
        }
        // Exit, not abort: Wazuh reads death by a signal as success. Nothing has been saved.
        std::process::exit(1);
    }));
}

/// Takes `file` as the log of a command that a person calls, who is told by stdout and stderr.
///
/// # Errors
/// It could not be opened.
pub fn start(file: io::Result<File>) -> io::Result<()> {
    log_to(vec![logger(LineWriter::new(file?))]);
    Ok(())
}

fn log_to(loggers: Vec<Box<dyn Log>>) {
    if log::set_boxed_logger(Box::new(WazuhForm { loggers, repeated: Mutex::default() })).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

fn logger(writer: impl Write + Send + 'static) -> Box<dyn Log> {
    let mut config = ConfigBuilder::new();
    config
        .set_time_format_custom(format_description!(
            "[year]/[month]/[day] [hour]:[minute]:[second]"
        ))
        .set_max_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Error);
    // Where the zone can't be told it stays UTC.
    let _ = config.set_time_offset_to_local();
    WriteLogger::new(LevelFilter::Debug, config.build(), writer)
}

/// Shapes a message for simplelog so that it comes out as Wazuh's own: one line, and
/// `wodle-office365: LEVEL` where simplelog writes a record's target. [`flush`](Log::flush), at the end of a
/// run, says what was left out.
struct WazuhForm {
    loggers: Vec<Box<dyn Log>>,
    repeated: Mutex<Repeated>,
}

impl WazuhForm {
    fn repeated(&self) -> MutexGuard<'_, Repeated> {
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, level: Level, message: &str) {
        let target = match level {
            Level::Error => "wodle-office365: ERROR",
            Level::Warn => "wodle-office365: WARNING",
            Level::Info => "wodle-office365: INFO",
            Level::Debug | Level::Trace => "wodle-office365: DEBUG",
        };
        for logger in &self.loggers {
            let args = format_args!("{message}");
            logger.log(&Record::builder().level(level).target(target).args(args).build());
        }
    }
}

impl Log for WazuhForm {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The libraries' messages speak of headers and keys.
        metadata.level() <= log::max_level() && metadata.target().starts_with("wodle_office365")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Made here, before any lock is taken: what panics in a `Display` is still logged.
        let message = one_line(&record.args().to_string());
        if self.repeated().admits(record, &message) {
            self.write(record.level(), &message);
        }
    }

    fn flush(&self) {
        let left_out = self.repeated().take_left_out();
        left_out.iter().for_each(|(level, message)| self.write(*level, message));
        for logger in &self.loggers {
            logger.flush();
        }
    }
}
