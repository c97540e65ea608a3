//! A blob's lines on their way from the splitter to the output.

use std::ops::Range;

use crate::content::{ContentType, excerpt};
use crate::event::{Line, Options, Unusable, append_line};
use crate::notice::{Kind, Notice};
use crate::records::Element;

/// Lines are gathered up to this many bytes before they are written.
const FULL: usize = 64 << 10;

/// What is kept of the memory for that: a batch and one line more.
const MOST_KEPT: usize = 2 * FULL;

/// A longer `Id` is not remembered: a blob that breaks off behind it is written again.
const MOST_ID: usize = 1024;

/// Lines of one blob, gathered for one write.
pub(super) struct Batch<'a> {
    tenant_id: String,
    content_type: ContentType,
    content_id: String,
    options: &'a Options,
    lines: Vec<u8>,
    events: u64,
    /// Records that filters leave out: up to the mark, and since.
    excluded: (u64, u64),
    /// The last element that has an `Id`: its number, and where in `lines` its `Id` stands.
    mark: Option<(u64, Range<usize>)>,
    /// The last elements, if they can't be events: from which to which, and why.
    unusable: Option<(u64, u64, Why)>,
    /// The notices that are among the lines.
    gaps: Vec<Notice>,
}

/// Why an element is no event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    NoObject,
    NoJson,
    TooLarge,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        tenant_id: &str,
        content_type: ContentType,
        content_id: &str,
        options: &'a Options,
    ) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            content_type,
            content_id: content_id.to_owned(),
            options,
            lines: Vec::new(),
            events: 0,
            excluded: (0, 0),
            mark: None,
            unusable: None,
            gaps: Vec::new(),
        }
    }

    /// Adds the line of the `index`-th element. Elements that can't be events become a gap notice,
    /// one for as many of a kind as stand side by side.
    pub(super) fn add(&mut self, element: &Element<'_>, index: u64) {
        let before = self.lines.len();
        let why = match element {
            Element::TooLarge(_) => Why::TooLarge,
            Element::Record(record) => {
                match append_line(record, self.content_type, self.options, &mut self.lines) {
                    Ok(Line::Excluded) => {
                        self.excluded.1 += 1;
                        return;
                    }
                    Ok(Line::Event(id)) => {
                        self.events += 1;
                        // The notice of what precedes comes first.
                        let notice = self.notice();
                        let shift = notice.len();
                        self.lines.splice(before..before, notice);
                        if let Some(id) = id.filter(|id| id.len() <= MOST_ID) {
                            self.mark = Some((index, id.start + shift..id.end + shift));
                            self.excluded = (self.excluded.0 + self.excluded.1, 0);
                        }
                        return;
                    }
                    Err(Unusable::NoObject) => Why::NoObject,
                    Err(Unusable::Malformed) => Why::NoJson,
                }
            }
        };
        match &mut self.unusable {
            Some((_, last, known)) if *known == why => *last = index,
            _ => {
                self.end();
                self.unusable = Some((index, index, why));
            }
        }
    }

    /// Adds the notice of elements that could not be events, if such are the last ones.
    pub(super) fn end(&mut self) {
        let notice = self.notice();
        self.lines.extend(notice);
    }

    /// The notice of the last elements, if they can't be events.
    fn notice(&mut self) -> Vec<u8> {
        let Some((first, last, why)) = self.unusable.take() else {
            return Vec::new();
        };
        let which = if first == last {
            format!("record {first}")
        } else {
            format!("each of the records {first} to {last}")
        };
        let why = match why {
            Why::NoObject => "is no JSON object",
            Why::NoJson => "is no valid JSON",
            Why::TooLarge => {
                "is larger than what is held of one (16 MiB, or curl_max_size if more)"
            }
        };
        let text = format!("{which} of content {} {why}", excerpt(&self.content_id));
        log::error!("{} {}: events are lost: {text}", self.tenant_id, self.content_type);
        let gap = Notice::new(Kind::Gap, &self.tenant_id, Some(self.content_type), text)
            .content(&self.content_id);
        let line = gap.line();
        self.gaps.push(gap);
        line
    }

    /// The `Id` of an element, as it would be marked.
    pub(super) fn id_of(&self, element: &Element<'_>) -> Option<String> {
        let Element::Record(record) = element else {
            return None;
        };
        // Whether it is to be left out now or not, it was written.
        let options = Options { exclude: Vec::new(), ..*self.options };
        let mut line = Vec::new();
        match append_line(record, self.content_type, &options, &mut line).ok()? {
            Line::Event(id) => Some(String::from_utf8_lossy(line.get(id?)?).into_owned()),
            Line::Excluded => None,
        }
    }

    /// What has been gathered: whole lines.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// How many of them are events.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// How many records filters leave out, up to the mark.
    pub(super) fn excluded(&self) -> u64 {
        self.excluded.0
    }

    /// How many behind it: a blob that breaks off here brings them once more.
    pub(super) fn excluded_since(&self) -> u64 {
        self.excluded.1
    }

    /// How far the blob is written with this batch: the number of elements and the last's `Id`.
    pub(super) fn mark(&self) -> Option<(u64, String)> {
        let (index, id) = self.mark.clone()?;
        let id = self.lines.get(id)?;
        Some((index, String::from_utf8_lossy(id).into_owned()))
    }

    /// Takes out the notices that are among the lines.
    pub(super) fn gaps(&mut self) -> impl Iterator<Item = Notice> {
        self.gaps.drain(..)
    }

    /// Whether it is time to write them.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= FULL
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        // After a record of many megabytes.
        self.lines.shrink_to(MOST_KEPT);
        self.events = 0;
        self.mark = None;
        self.excluded.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Exclude;

    static ALL: Options = Options { normalize: true, exclude: Vec::new() };

    fn responses(elements: &[&str]) -> Vec<String> {
        let mut batch = Batch::new("t", ContentType::General, "c", &ALL);
        for (n, element) in elements.iter().enumerate() {
            batch.add(&Element::Record(element.as_bytes()), n as u64 + 1);
        }
        batch.end();
        let text = String::from_utf8(batch.lines().to_vec()).unwrap();
        let parse = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let shown = |line| {
            let event = &parse(line)["office365"];
            event["response"].as_str().or(event["Id"].as_str()).unwrap().to_owned()
        };
        text.lines().map(shown).collect()
    }

    #[test]
    fn unusable_elements_of_a_kind_make_one_notice_in_their_place() {
        assert_eq!(
            responses(&[r#"{"Id":"a"}"#, "1", "2", "[]", "{x", r#"{"Id":"b"}"#, "3"]),
            [
                "a",
                "each of the records 2 to 4 of content c is no JSON object",
                "record 5 of content c is no valid JSON",
                "b",
                "record 7 of content c is no JSON object",
            ]
        );
    }

    #[test]
    fn the_mark_stands_behind_the_last_element_that_has_an_id() {
        let mut batch = Batch::new("t", ContentType::General, "c", &ALL);
        batch.add(&Element::Record(br#"{"Id":"a"}"#), 1);
        batch.add(&Element::Record(br#"{"x":1}"#), 2);
        assert_eq!((batch.mark(), batch.events()), (Some((1, "\"a\"".to_owned())), 2));
        batch.clear();
        assert_eq!(batch.mark(), None);
        let id = Element::Record(br#"{ "Id" : "a" }"#);
        assert_eq!(batch.id_of(&id), Some("\"a\"".to_owned()));
    }

    #[test]
    fn what_is_left_out_counts_up_to_the_mark_once_it_stands() {
        let operation = Some("no".to_owned());
        let exclude = vec![Exclude { operation, ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut batch = Batch::new("t", ContentType::General, "c", &options);
        let [left_out, event] =
            [br#"{"Id":"b","Operation":"no"}"#, br#"{"Id":"a","Operation":"ok"}"#];
        for (n, record) in [left_out, event, left_out, left_out].iter().enumerate() {
            batch.add(&Element::Record(&record[..]), n as u64 + 1);
        }
        assert_eq!((batch.events(), batch.mark()), (1, Some((2, "\"a\"".to_owned()))));
        assert_eq!((batch.excluded(), batch.excluded_since()), (1, 2));
        batch.clear();
        batch.add(&Element::Record(left_out), 5);
        assert_eq!((batch.excluded(), batch.excluded_since(), batch.lines()), (0, 3, &b""[..]));
        batch.add(&Element::Record(event), 6);
        assert_eq!((batch.excluded(), batch.excluded_since()), (3, 0));
        // One that was written before there was the filter is known all the same.
        assert_eq!(batch.id_of(&Element::Record(left_out)), Some("\"b\"".to_owned()));
    }
}
