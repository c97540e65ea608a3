//! What people see: stdout and stderr of the commands. A terminal gets nothing that it would obey; a pipe or a
//! file gets every byte as it is.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use crate::words::for_terminal;

/// The colour that a line gets on a terminal, by what it begins with.
pub type Colours = &'static [(&'static str, &'static str)];

/// The end of a colour.
const PLAIN: &str = "\x1b[0m";

/// Writes a text of ours to stdout, at once.
///
/// # Errors
/// It can't be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let text = shown(text.as_bytes(), stdout.is_terminal());
    stdout.write_all(&text).and_then(|()| stdout.flush())
}

/// As [`print()`], with colours where stdout is a terminal that shows them.
///
/// # Errors
/// It can't be written.
pub fn print_in_colour(text: &str, colours: Colours) -> io::Result<()> {
    let is_set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let plain = is_set("NO_COLOR").is_some() || is_set("TERM").is_some_and(|term| term == "dumb");
    if plain || !io::stdout().is_terminal() {
        return print(text);
    }
    let mut stdout = io::stdout();
    // Colours come last: an escape in the text itself is shown, not obeyed.
    stdout.write_all(coloured(&for_terminal(text), colours).as_bytes())?;
    stdout.flush()
}

/// Writes a text of ours to stderr. Where that fails there is nobody to be told.
pub fn tell(text: &str) {
    let mut stderr = io::stderr();
    let text = shown(text.as_bytes(), stderr.is_terminal());
    let _ = stderr.write_all(&text);
}

/// Whole lines as they go to where `is_terminal` says.
#[must_use]
pub fn shown(lines: &[u8], is_terminal: bool) -> Cow<'_, [u8]> {
    if !is_terminal {
        return Cow::Borrowed(lines);
    }
    let text = String::from_utf8_lossy(lines);
    match for_terminal(&text) {
        Cow::Borrowed(same) if same.len() == lines.len() => Cow::Borrowed(lines),
        other => Cow::Owned(other.into_owned().into_bytes()),
    }
}

fn coloured(text: &str, colours: Colours) -> String {
    let mut painted = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        let found = colours
            .iter()
            .find_map(|(mark, colour)| line.strip_prefix(mark).map(|rest| (*mark, *colour, rest)));
        match found {
            Some((mark, colour, rest)) => {
                painted.extend([colour, mark, PLAIN, rest]);
            }
            None => painted.push_str(line),
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_escapes() {
        let lines = b"a\x1b[31m\xff\n";
        assert_eq!(&*shown(lines, false), lines);
        assert_eq!(&*shown(lines, true), "a\\u001b[31m\u{fffd}\n".as_bytes());
        assert!(matches!(shown(b"plain\n", true), Cow::Borrowed(b"plain\n")));
    }

    #[test]
    fn a_line_is_coloured_by_its_mark() {
        let colours: Colours = &[("FAIL", "\x1b[1;31m")];
        let text = "ok    a\nFAIL  b FAIL\n";
        assert_eq!(coloured(text, colours), "ok    a\n\x1b[1;31mFAIL\x1b[0m  b FAIL\n");
    }
}
