//! A blob's lines on their way from the splitter to the output.

use super::skipped::{Skipped, Why};
use crate::content::ContentType;
use crate::event::{self, Fate, Learning, LineMaker, id_of};
use crate::memory::ORDINARY;
use crate::records::Element;
use crate::state::fingerprint;

/// Lines are gathered up to this many bytes before they are written.
const FULL: usize = 128 << 10;

/// No line is longer, in bytes.
const LINE: usize = 64 << 10;

/// Of a longer `Id` only a hash is remembered.
const MOST_ID: usize = 1024;

/// Lines of one blob, gathered for one write.
pub(super) struct Batch<'a, 'm> {
    content_type: ContentType,
    maker: &'a mut LineMaker<'m>,
    lines: &'a mut Vec<u8>,
    counts: Counts,
    /// Records that filters left out behind the mark: they come again if the blob breaks off here.
    excluded_since: u64,
    /// The number of the last element that has an `Id`.
    mark: Option<u64>,
    /// That `Id`, as JSON.
    mark_id: Vec<u8>,
    /// The `Id` of the element that is being added; empty where it has none.
    id: Vec<u8>,
    /// The last element that was added.
    reached: u64,
    /// Elements that can't be events, up to the mark and behind it: those come again if the blob breaks off
    /// here.
    skipped: Skipped,
    skipped_since: Skipped,
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Written as events.
    pub(super) events: u64,
    /// So many of them shortened.
    pub(super) shortened: u64,
    /// Left out by filters, up to the mark.
    pub(super) excluded: u64,
}

/// An `Id` as it is remembered.
fn remembered(id: &[u8]) -> String {
    let id = String::from_utf8_lossy(id);
    if id.len() <= MOST_ID { id.into_owned() } else { format!("{:016x}", fingerprint(&id)) }
}

/// How far the records of a blob are dealt with in this run. A try in the same run goes on there,
/// behind records without an `Id` as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// This many elements.
    pub(super) elements: u64,
    /// Of these, records that filters left out and that are not counted yet.
    pub(super) excluded_since: u64,
    /// Of these, elements that can't be events and that are not reported yet.
    pub(super) skipped_since: Skipped,
}

impl<'a, 'm> Batch<'a, 'm> {
    pub(super) fn new(
        content_type: ContentType,
        maker: &'a mut LineMaker<'m>,
        lines: &'a mut Vec<u8>,
    ) -> Self {
        lines.clear();
        // At once, instead of doubling it again and again.
        lines.reserve(FULL + LINE);
        Self {
            content_type,
            maker,
            lines,
            counts: Counts::default(),
            excluded_since: 0,
            mark: None,
            mark_id: Vec::new(),
            id: Vec::new(),
            reached: 0,
            skipped: Skipped::default(),
            skipped_since: Skipped::default(),
        }
    }

    /// Goes on where an earlier try in this run has got to.
    pub(super) fn go_on(&mut self, reached: Reached) {
        self.reached = reached.elements;
        self.excluded_since = reached.excluded_since;
        self.skipped_since = reached.skipped_since;
    }

    /// How far the blob is dealt with once this batch is written.
    pub(super) fn reached(&self) -> Reached {
        Reached {
            elements: self.reached,
            excluded_since: self.excluded_since,
            skipped_since: self.skipped_since.clone(),
        }
    }

    /// Adds the line of the `index`-th element, or notes that it can't be an event. False where the record
    /// has to teach the kind of a path and may not: nothing is added then.
    pub(super) fn add(&mut self, element: &Element<'_>, index: u64, learning: Learning) -> bool {
        let (why, bytes) = match element {
            Element::Taken => return true,
            Element::TooLarge(bytes) => (Why::TooLarge, *bytes),
            Element::Malformed(bytes) => (Why::NoJson, *bytes),
            Element::Record(record) => {
                let (content_type, maker) = (self.content_type, &mut *self.maker);
                let why = match maker.append_line(
                    record,
                    content_type,
                    learning,
                    &mut self.id,
                    self.lines,
                ) {
                    Ok(fate) => {
                        self.added(fate, index);
                        return true;
                    }
                    Err(event::Unusable::NewPath) => return false,
                    Err(event::Unusable::NotAnObject) => Why::NoObject,
                    Err(event::Unusable::Malformed) => Why::NoJson,
                };
                (why, record.len() as u64)
            }
        };
        self.reached = index;
        self.skipped_since.add(index, why, bytes);
        true
    }

    /// Adds the line of the `index`-th element if `text` begins with all of it, nothing is wrong with it,
    /// and it teaches nothing; gives its length then.
    pub(super) fn add_first(&mut self, text: &[u8], index: u64) -> Option<usize> {
        let (content_type, maker) = (self.content_type, &mut *self.maker);
        let appended =
            maker.append_first(text, content_type, Learning::No, &mut self.id, self.lines);
        let (fate, length) = appended.ok()?;
        self.added(fate, index);
        Some(length)
    }

    /// Takes in what has become of the `index`-th element, whose `Id` is in `id`.
    fn added(&mut self, fate: Fate, index: u64) {
        self.reached = index;
        match fate {
            Fate::Excluded => self.excluded_since += 1,
            Fate::Whole | Fate::Shortened => {
                self.counts.events += 1;
                self.counts.shortened += u64::from(fate == Fate::Shortened);
            }
        }
        if !self.id.is_empty() {
            self.mark = Some(index);
            std::mem::swap(&mut self.mark_id, &mut self.id);
            if self.mark_id.len() > MOST_ID {
                // One of many megabytes is not kept.
                self.mark_id = remembered(&self.mark_id).into_bytes();
                self.id = Vec::new();
            }
            self.settle();
        }
    }

    /// What is behind the mark counts as well: the mark has moved there, or the blob has come to its end.
    pub(super) fn settle(&mut self) {
        self.counts.excluded += std::mem::take(&mut self.excluded_since);
        self.skipped.append(&mut self.skipped_since);
    }

    /// The `Id` of an element, as it would be marked.
    pub(super) fn id_of(element: &Element<'_>) -> Option<String> {
        let Element::Record(record) = element else {
            return None;
        };
        id_of(record).map(|id| remembered(&id))
    }

    /// What has been gathered: whole lines.
    pub(super) fn lines(&self) -> &[u8] {
        self.lines
    }

    /// What became of the records.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether there is nothing in it that the state has to know.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.counts == Counts::default() && self.skipped.is_empty()
    }

    /// How far the blob is dealt with by this batch: the number of elements and the last's `Id`.
    pub(super) fn mark(&self) -> Option<(u64, String)> {
        self.mark.map(|index| (index, remembered(&self.mark_id)))
    }

    /// Takes out the elements up to the mark that can't be events: no later run comes back to them.
    pub(super) fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Whether it is time to write them.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= FULL
    }

    /// Gives back what only a large record needed.
    pub(super) fn shrink(&mut self) {
        if self.lines.capacity() > ORDINARY {
            // Another buffer: one that shrinks where it is keeps the next large one from its place.
            let mut lines = Vec::with_capacity((FULL + LINE).max(self.lines.len()));
            lines.extend_from_slice(self.lines);
            *self.lines = lines;
        }
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.counts = Counts::default();
        self.mark = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Exclude, Kinds, Options};
    use crate::records::Records;

    static ALL: Options = Options { normalize: true, exclude: Vec::new() };

    fn kinds() -> &'static Kinds {
        static KINDS: OnceLock<Kinds> = OnceLock::new();
        KINDS.get_or_init(Kinds::default)
    }

    #[test]
    fn the_mark_stands_behind_the_last_element_that_has_an_id() {
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&ALL, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        batch.add(&Element::Record(br#"{"Id":"a"}"#), 1, Learning::Yes);
        batch.add(&Element::Record(br#"{"x":1}"#), 2, Learning::Yes);
        assert_eq!((batch.mark(), batch.counts().events), (Some((1, "\"a\"".to_owned())), 2));
        batch.clear();
        assert_eq!(batch.mark(), None);
        let id = Element::Record(br#"{ "Id" : "a" }"#);
        assert_eq!(Batch::id_of(&id), Some("\"a\"".to_owned()));
    }

    #[test]
    fn what_cannot_be_an_event_is_reported_when_the_mark_has_passed_it() {
        let exclude = vec![Exclude { operation: Some("no".to_owned()), ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        batch.add(&Element::Record(br#"{"Id":"a"}"#), 1, Learning::Yes);
        batch.add(&Element::Malformed(9), 2, Learning::Yes);
        batch.add(&Element::Record(b"{x"), 3, Learning::Yes);
        assert!(batch.take_skipped().is_empty());
        let reached = batch.reached();
        assert_eq!((reached.elements, reached.skipped_since.count()), (3, 2));
        batch.clear();
        // A record that is left out moves the mark as well.
        batch.add(&Element::Record(br#"{"Id":"b","Operation":"no"}"#), 4, Learning::Yes);
        assert_eq!(batch.mark().unwrap().0, 4);
        assert!(batch.reached().skipped_since.is_empty());
        let text = batch.take_skipped().text("c");
        assert!(
            text.starts_with("records 2 to 3 of content c are not valid JSON (11 bytes)"),
            "{text}"
        );
        // The end of the blob counts, too.
        batch.clear();
        batch.add(&Element::TooLarge(9), 5, Learning::Yes);
        assert!(batch.is_empty(), "nothing that the state has to know yet");
        batch.settle();
        assert!(!batch.is_empty() && batch.take_skipped().count() == 1);
    }

    #[test]
    fn a_try_goes_on_with_what_the_last_one_has_not_reported() {
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&ALL, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        batch.add(&Element::Record(b"1"), 1, Learning::Yes);
        batch.add(&Element::Record(br#"{"no":"Id"}"#), 2, Learning::Yes);
        batch.add(&Element::Record(b"2"), 3, Learning::Yes);
        let reached = batch.reached();
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        batch.go_on(reached);
        batch.add(&Element::Record(b"3"), 4, Learning::Yes);
        batch.settle();
        assert_eq!(
            batch.take_skipped().text("c"),
            "3 records of content c can't be events: record 1 is not a JSON object; records 3 to 4 are \
             not JSON objects; the records around them are delivered"
        );
    }

    #[test]
    fn the_mark_stands_behind_what_is_left_out_as_well() {
        let operation = Some("no".to_owned());
        let exclude = vec![Exclude { operation, ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        let left_out = Element::Record(br#"{"Id":"b","Operation":"no"}"#);
        batch.add(&left_out, 1, Learning::Yes);
        batch.add(&Element::Record(br#"{"Id":"a","Operation":"ok"}"#), 2, Learning::Yes);
        assert_eq!(batch.mark(), Some((2, "\"a\"".to_owned())));
        batch.add(&left_out, 3, Learning::Yes);
        batch.add(&Element::Record(br#"{"Operation":"no"}"#), 4, Learning::Yes);
        assert_eq!(batch.mark(), Some((3, "\"b\"".to_owned())));
        assert_eq!(batch.counts(), Counts { events: 1, shortened: 0, excluded: 2 });
        assert_eq!(Batch::id_of(&left_out), Some("\"b\"".to_owned()));
        batch.clear();
        assert!(batch.is_empty());
        batch.add(&left_out, 5, Learning::Yes);
        assert_eq!(batch.counts().excluded, 2, "with the one that has no Id");
        assert!(!batch.is_empty() && batch.lines().is_empty());
        assert_eq!(batch.mark(), Some((5, "\"b\"".to_owned())));
    }

    #[test]
    fn of_a_long_id_a_hash_is_remembered() {
        let record = |id: &str| format!(r#"{{"Id":"{id}"}}"#);
        let mark_of = |id: &str| {
            let mut lines = Vec::new();
            let mut maker = LineMaker::new(&ALL, kinds());
            let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
            let record = record(id);
            let element = Element::Record(record.as_bytes());
            batch.add(&element, 1, Learning::Yes);
            let (_, id) = batch.mark().unwrap();
            assert_eq!(Batch::id_of(&element).as_deref(), Some(&*id));
            id
        };
        let longest = "x".repeat(MOST_ID - 2);
        assert_eq!(mark_of(&longest), format!("\"{longest}\""));
        let (a, b) = (mark_of(&format!("{longest}a")), mark_of(&format!("{longest}b")));
        assert!(a.len() == 16 && b.len() == 16 && a != b);
    }

    #[test]
    fn a_record_that_is_left_out_is_not_lost() {
        let exclude = vec![Exclude { record_type: Some("1".to_owned()), ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        for (n, element) in ["1", r#"{"RecordType":1}"#, "2", "3"].iter().enumerate() {
            batch.add(&Element::Record(element.as_bytes()), n as u64 + 1, Learning::Yes);
        }
        batch.settle();
        assert_eq!((batch.counts().excluded, batch.take_skipped().count()), (1, 3));
    }

    /// Hands out a body in pieces of a size, and ends or breaks off.
    struct Pieces<'a>(&'a [u8], usize, bool);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(out.len());
            let n = self.0.read(&mut out[..size])?;
            if n == 0 && self.2 { Err(io::Error::other("broken")) } else { Ok(n) }
        }
    }

    /// What becomes of a body, whose records are offered as they come or split off first.
    fn all_of(
        body: Pieces<'_>,
        known_end: bool,
        offered: bool,
    ) -> (String, Counts, Option<(u64, String)>, Skipped) {
        let exclude = vec![Exclude { operation: Some("no".to_owned()), ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new(ContentType::General, &mut maker, &mut lines);
        let mut buffer = Vec::new();
        let mut records = Records::new(body, 300, &mut buffer).with_known_end(known_end);
        let mut index = 0;
        let end = loop {
            let next = if offered {
                records.next_or_take(|text| batch.add_first(text, index + 1))
            } else {
                records.next_element()
            };
            match next {
                Ok(Some(element)) => {
                    index += 1;
                    batch.add(&element, index, Learning::Yes);
                }
                Ok(None) => break "whole".to_owned(),
                Err(error) => break format!("{error:?}"),
            }
        };
        batch.settle();
        let lines = String::from_utf8(batch.lines().to_vec()).unwrap();
        (lines + &end, batch.counts(), batch.mark(), batch.take_skipped())
    }

    proptest! {
        #[test]
        fn records_that_are_offered_become_what_split_ones_become(
            elements in prop::collection::vec(
                prop::sample::select(vec![
                    r#"{"Id":"1","a":[1,{"b":"}"}]}"#, r#" { "Id" : "2\"" } "#, "{}", r#"{"a":{}}"#,
                    r#"{"Id":"3","Operation":"no"}"#, r#"{"Operation":"no"}"#, "[{}]", "1", "\"{}\"",
                    r#"{"a":tru}"#, r#"{"a":1 "b":2}"#, r#"{"a":"\x"}"#, r#"{"a":1}}"#, r#"{"a":1"#,
                    "{\"a\":\"\u{1}\"}", "{\"Id\":\"BAD\"}", "{\"Id\":\"LONG\"}", "]", "", "\u{feff}",
                    r#"{"Id":"4","a":[1,{"Id":"5"}"#, r#"{"Id":"6}"#, r#"{"Id":"7"}{"Id":"8"}"#, "\0{}", "}",
                ]),
                0..8,
            ),
            piece in 1..60_usize,
            breaks in any::<bool>(),
            known_end in any::<bool>(),
        ) {
            let body = format!("[{}]", elements.join(",")).replace("LONG", &"x".repeat(400));
            let mut body = body.into_bytes();
            while let Some(at) = body.windows(3).position(|window| window == b"BAD") {
                body[at] = 0xff;
            }
            let all = |offered| all_of(Pieces(&body, piece, breaks), known_end, offered);
            prop_assert_eq!(all(true), all(false));
        }
    }
}
