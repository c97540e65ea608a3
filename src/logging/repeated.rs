//! Lines of one kind are written ten times a run, then counted: who answers us must not be able to fill the
//! disk.

use std::collections::HashMap;

use log::{Level, Record};

/// The number of lines of one kind that a run writes.
const MAX_WRITTEN: u64 = 10;

/// The number of kinds that are told apart by what their lines begin with; further ones only by their place in the
/// program.
const MAX_KINDS: usize = 10_000;

/// What lines have in common: the place in the program, and what stands before their first `: `, the tenant
/// and the stream.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    file: Option<&'static str>,
    line: Option<u32>,
    prefix: String,
}

/// The lines of one kind so far.
#[derive(Default)]
struct Lines {
    written: u64,
    /// How many were not, and the last one of them.
    left_out: u64,
    last: Option<(Level, String)>,
}

/// The lines of a run, by their kinds.
#[derive(Default)]
pub(super) struct Repeated(HashMap<Kind, Lines>);

/// The longest beginning of a line that tells its kind, in bytes: a tenant and a stream have less.
const MAX_PREFIX: usize = 300;

impl Repeated {
    /// Whether a line is to be written; else it is counted. All of `debug` are: an administrator has asked for them.
    pub(super) fn admits(&mut self, record: &Record<'_>, message: &str) -> bool {
        if record.level() >= Level::Debug {
            return true;
        }
        let prefix = message.split_once(": ").map_or("", |(prefix, _)| prefix);
        let is_known = self.0.len() < MAX_KINDS && prefix.len() <= MAX_PREFIX;
        let prefix = if is_known { prefix.to_owned() } else { String::new() };
        let kind = Kind { file: record.file_static(), line: record.line(), prefix };
        let lines = self.0.entry(kind).or_default();
        if lines.written < MAX_WRITTEN {
            lines.written += 1;
            return true;
        }
        lines.left_out += 1;
        lines.last = Some((record.level(), message.to_owned()));
        false
    }

    /// Says of each kind how many lines were left out since the last time.
    pub(super) fn take_left_out(&mut self) -> Vec<(Level, String)> {
        let mut told: Vec<_> = self
            .0
            .values_mut()
            .filter_map(|lines| {
                let count = std::mem::take(&mut lines.left_out);
                let (level, last) = lines.last.take()?;
                Some((level, format!(
                    "{last} (the last of {count} more lines like this one; the others are not written)"
                )))
            })
            .collect();
        told.sort();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(repeated: &mut Repeated, level: Level, line: u32, message: &str) -> bool {
        let args = format_args!("");
        let record = Record::builder()
            .level(level)
            .file_static(Some("f"))
            .line(Some(line))
            .args(args)
            .build();
        repeated.admits(&record, message)
    }

    #[test]
    fn of_a_kind_ten_lines_are_written_and_the_rest_is_counted() {
        let mut repeated = Repeated::default();
        for n in 0..1000 {
            assert_eq!(admits(&mut repeated, Level::Warn, 1, &format!("a: {n}")), n < 10);
            assert_eq!(admits(&mut repeated, Level::Error, 1, "b: x"), n < 10, "another tenant");
            assert_eq!(admits(&mut repeated, Level::Error, 2, "a: x"), n < 10, "another place");
            assert!(admits(&mut repeated, Level::Debug, 1, "a: asked for"));
        }
        let told = repeated.take_left_out();
        let warning =
            "a: 999 (the last of 990 more lines like this one; the others are not written)"
                .to_owned();
        assert_eq!((told.len(), told.contains(&(Level::Warn, warning))), (3, true));
        assert!(repeated.take_left_out().is_empty(), "told once");
        assert!(!admits(&mut repeated, Level::Warn, 1, "a: later"));
        assert!(repeated.take_left_out()[0].1.contains("of 1 more lines"));
    }

    #[test]
    fn whoever_makes_up_kinds_makes_no_more_than_there_are() {
        let mut repeated = Repeated::default();
        let most = u32::try_from(MAX_KINDS).unwrap();
        for n in 0..2 * most {
            admits(&mut repeated, Level::Warn, 1, &format!("{n}: x"));
        }
        admits(&mut repeated, Level::Warn, 1, &format!("{}: x", "y".repeat(MAX_PREFIX + 1)));
        assert_eq!(repeated.0.len(), MAX_KINDS + 1);
        let told: Vec<_> = repeated.take_left_out();
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
