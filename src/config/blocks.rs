//! Finding the blocks of one name in a file that is no XML document, and places in it.

use std::ops::Range;

/// Line and column, from 1, of a byte offset.
pub(crate) fn place(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// The blocks of this name outside of comments, and the start of one that is never closed.
pub(crate) fn blocks(text: &str, name: &str) -> (Vec<Range<usize>>, Option<usize>) {
    let (opening, closing) = (format!("<{name}"), format!("</{name}"));
    let mut blocks = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('<')) {
        at += found;
        let rest = text.get(at..).unwrap_or_default();
        // The name ends where the tag's name must end.
        let is_tag = |name: &str| {
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '\t', '\r', '\n', '>', '/']))
        };
        let tag_end = || rest.find('>').map_or(text.len(), |end| at + end + 1);
        if rest.starts_with("<!--") {
            at = rest.find("-->").map_or(text.len(), |end| at + end + 3);
        } else if open.is_none() && is_tag(&opening) {
            let end = tag_end();
            if text.get(at..end).is_some_and(|tag| tag.ends_with("/>")) {
                blocks.push(at..end);
            } else {
                open = Some(at);
            }
            at = end;
        } else if let Some(start) = open.filter(|_| is_tag(&closing)) {
            let end = tag_end();
            blocks.push(start..end);
            open = None;
            at = end;
        } else {
            at += 1;
        }
    }
    (blocks, open)
}
