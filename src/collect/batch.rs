//! A blob's lines on their way from the splitter to the output.

use crate::content::ContentType;
use crate::event::{Fate, Learning, LineMaker, Unusable, id_of};
use crate::notice::{Kind, Notice};
use crate::records::Element;
use crate::state::fingerprint;
use crate::words::excerpt;

/// Lines are gathered up to this many bytes before they are written.
const FULL: usize = 128 << 10;

/// No line is longer, in bytes.
const LINE: usize = 64 << 10;

/// Of a longer `Id` only a hash is remembered.
const MOST_ID: usize = 1024;

/// Lines of one blob, gathered for one write.
pub(super) struct Batch<'a, 'm> {
    tenant_id: String,
    content_type: ContentType,
    content_id: String,
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
    /// The last elements, if they can't be events.
    unusable: Option<Unused>,
    /// The notices that are among the lines.
    gaps: Vec<Notice>,
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

/// Why an element is no event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    NoObject,
    NoJson,
    TooLarge,
}

/// Elements side by side that can't be events, for one reason.
struct Unused {
    first: u64,
    last: u64,
    why: Why,
    bytes: u64,
}

/// How far the records of a blob are dealt with in this run. A try in the same run goes on there,
/// behind records without an `Id` as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// This many elements.
    pub(super) elements: u64,
    /// Of these, records that filters left out and that are not counted yet.
    pub(super) excluded_since: u64,
}

impl Unused {
    /// What the notice says.
    fn text(&self, content_id: &str) -> String {
        let Self { first, last, why, bytes } = self;
        let one = first == last;
        let which =
            if one { format!("record {first}") } else { format!("records {first} to {last}") };
        let why = match why {
            Why::NoObject if one => "is not a JSON object".to_owned(),
            Why::NoObject => "are not JSON objects".to_owned(),
            Why::NoJson if one => format!(
                "is not valid JSON ({bytes} bytes): it is skipped, the records around it are delivered"
            ),
            Why::NoJson => format!(
                "are not valid JSON ({bytes} bytes): they are skipped, the records around them are \
                 delivered"
            ),
            Why::TooLarge => {
                let are = if one { "is" } else { "are" };
                format!("{are} larger than the limit (16 MiB, or curl_max_size if that is more)")
            }
        };
        format!("{which} of content {} {why}", excerpt(content_id))
    }
}

impl<'a, 'm> Batch<'a, 'm> {
    pub(super) fn new(
        tenant_id: &str,
        content_type: ContentType,
        content_id: &str,
        maker: &'a mut LineMaker<'m>,
        lines: &'a mut Vec<u8>,
    ) -> Self {
        lines.clear();
        // At once, instead of doubling it again and again.
        lines.reserve(FULL + LINE);
        Self {
            tenant_id: tenant_id.to_owned(),
            content_type,
            content_id: content_id.to_owned(),
            maker,
            lines,
            counts: Counts::default(),
            excluded_since: 0,
            mark: None,
            mark_id: Vec::new(),
            id: Vec::new(),
            reached: 0,
            unusable: None,
            gaps: Vec::new(),
        }
    }

    /// Goes on where an earlier try in this run has got to.
    pub(super) fn go_on(&mut self, reached: Reached) {
        self.reached = reached.elements;
        self.excluded_since = reached.excluded_since;
    }

    /// How far the blob is dealt with once this batch is written: up to the elements at its end whose
    /// notice is not among the lines.
    pub(super) fn reached(&self) -> Reached {
        let elements = self.unusable.as_ref().map_or(self.reached, |unused| unused.first - 1);
        Reached { elements, excluded_since: self.excluded_since }
    }

    /// Adds the line of the `index`-th element. Elements that can't be events become a gap notice,
    /// one for as many of a kind as stand side by side. False where the record has to teach the kind of a
    /// path and may not: nothing is added then.
    pub(super) fn add(&mut self, element: &Element<'_>, index: u64, learning: Learning) -> bool {
        let before = self.lines.len();
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
                        self.added(fate, index, before);
                        return true;
                    }
                    Err(Unusable::NewPath) => return false,
                    Err(Unusable::NotAnObject) => Why::NoObject,
                    Err(Unusable::Malformed) => Why::NoJson,
                };
                (why, record.len() as u64)
            }
        };
        self.reached = index;
        match &mut self.unusable {
            Some(unused) if unused.why == why && unused.last + 1 == index => {
                unused.last = index;
                unused.bytes += bytes;
            }
            _ => {
                self.end();
                self.unusable = Some(Unused { first: index, last: index, why, bytes });
            }
        }
        true
    }

    /// Adds the line of the `index`-th element if `text` begins with all of it, nothing is wrong with it,
    /// and it teaches nothing; gives its length then.
    pub(super) fn add_first(&mut self, text: &[u8], index: u64) -> Option<usize> {
        let before = self.lines.len();
        let (content_type, maker) = (self.content_type, &mut *self.maker);
        let appended =
            maker.append_first(text, content_type, Learning::No, &mut self.id, self.lines);
        let (fate, length) = appended.ok()?;
        self.added(fate, index, before);
        Some(length)
    }

    /// Takes in what has become of the `index`-th element, whose `Id` is in `id` and whose line begins at
    /// `before`.
    fn added(&mut self, fate: Fate, index: u64, before: usize) {
        self.reached = index;
        // The notice of what precedes comes first. A record that a filter leaves out moves the mark as
        // well, so it may not pass elements that are not reported yet.
        if self.unusable.is_some() {
            let notice = self.notice();
            self.lines.splice(before..before, notice);
        }
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
            self.count_excluded();
        }
    }

    /// Counts what was left out behind the mark as well: the blob has come to its end.
    pub(super) fn count_excluded(&mut self) {
        self.counts.excluded += std::mem::take(&mut self.excluded_since);
    }

    /// Adds the notice of elements that could not be events, if such are the last ones.
    pub(super) fn end(&mut self) {
        let notice = self.notice();
        self.lines.extend(notice);
    }

    /// The blob is tried again: elements at its end that could not be events are not reported, and not
    /// dealt with.
    pub(super) fn leave_open(&mut self) {
        self.reached = self.reached().elements;
        self.unusable = None;
    }

    /// The notice of the last elements, if they can't be events.
    fn notice(&mut self) -> Vec<u8> {
        let Some(unused) = self.unusable.take() else {
            return Vec::new();
        };
        let text = unused.text(&self.content_id);
        log::error!("{} {}: events are lost: {text}", self.tenant_id, self.content_type);
        let gap = Notice::new(Kind::Gap, &self.tenant_id, Some(self.content_type), text)
            .content(&self.content_id);
        let line = gap.line();
        self.gaps.push(gap);
        line
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
        self.lines.is_empty() && self.counts == Counts::default()
    }

    /// How far the blob is dealt with by this batch: the number of elements and the last's `Id`.
    pub(super) fn mark(&self) -> Option<(u64, String)> {
        self.mark.map(|index| (index, remembered(&self.mark_id)))
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

    fn responses(elements: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&ALL, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
        for (n, element) in elements.iter().enumerate() {
            batch.add(&Element::Record(element.as_bytes()), n as u64 + 1, Learning::Yes);
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
                "records 2 to 4 of content c are not JSON objects",
                "record 5 of content c is not valid JSON (2 bytes): it is skipped, the records around \
                 it are delivered",
                "b",
                "record 7 of content c is not a JSON object",
            ]
        );
    }

    #[test]
    fn the_mark_stands_behind_the_last_element_that_has_an_id() {
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&ALL, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
        batch.add(&Element::Record(br#"{"Id":"a"}"#), 1, Learning::Yes);
        batch.add(&Element::Record(br#"{"x":1}"#), 2, Learning::Yes);
        assert_eq!((batch.mark(), batch.counts().events), (Some((1, "\"a\"".to_owned())), 2));
        batch.clear();
        assert_eq!(batch.mark(), None);
        let id = Element::Record(br#"{ "Id" : "a" }"#);
        assert_eq!(Batch::id_of(&id), Some("\"a\"".to_owned()));
    }

    #[test]
    fn skipped_bytes_are_in_the_notice() {
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&ALL, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
        batch.add(&Element::Malformed(800), 1, Learning::Yes);
        batch.add(&Element::Record(b"{x"), 2, Learning::Yes);
        batch.add(&Element::TooLarge(99), 3, Learning::Yes);
        batch.end();
        let told: Vec<_> = batch.gaps().map(|gap| gap.response).collect();
        assert_eq!(
            told,
            [
                "records 1 to 2 of content c are not valid JSON (802 bytes): they are skipped, the \
                 records around them are delivered",
                "record 3 of content c is larger than the limit (16 MiB, or curl_max_size if that is \
                 more)",
            ]
        );
    }

    #[test]
    fn what_is_not_reported_is_not_dealt_with() {
        let exclude = vec![Exclude { operation: Some("no".to_owned()), ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
        batch.add(&Element::Record(br#"{"Id":"a"}"#), 1, Learning::Yes);
        batch.add(&Element::Malformed(9), 2, Learning::Yes);
        batch.add(&Element::Malformed(9), 3, Learning::Yes);
        assert_eq!(batch.reached().elements, 1);
        // A record that is left out moves the mark, so what precedes it is reported.
        batch.add(&Element::Record(br#"{"Id":"b","Operation":"no"}"#), 4, Learning::Yes);
        assert_eq!((batch.reached().elements, batch.mark().unwrap().0), (4, 4));
        assert_eq!(batch.gaps().count(), 1);
        // Another kind of fault reports the first, and is not reported itself.
        batch.add(&Element::Malformed(9), 5, Learning::Yes);
        batch.add(&Element::TooLarge(9), 6, Learning::Yes);
        assert_eq!((batch.gaps().count(), batch.reached().elements), (1, 5));
        batch.leave_open();
        batch.end();
        assert_eq!((batch.gaps().count(), batch.reached().elements), (0, 5));
    }

    #[test]
    fn the_mark_stands_behind_what_is_left_out_as_well() {
        let operation = Some("no".to_owned());
        let exclude = vec![Exclude { operation, ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
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
            let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
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
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
        for (n, element) in ["1", r#"{"RecordType":1}"#, "2", "3"].iter().enumerate() {
            batch.add(&Element::Record(element.as_bytes()), n as u64 + 1, Learning::Yes);
        }
        batch.end();
        let told: Vec<_> = batch.gaps().map(|gap| gap.response).collect();
        assert_eq!(
            told,
            [
                "record 1 of content c is not a JSON object",
                "records 3 to 4 of content c are not JSON objects"
            ]
        );
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
    ) -> (String, Counts, Option<(u64, String)>) {
        let exclude = vec![Exclude { operation: Some("no".to_owned()), ..Exclude::default() }];
        let options = Options { normalize: true, exclude };
        let mut lines = Vec::new();
        let mut maker = LineMaker::new(&options, kinds());
        let mut batch = Batch::new("t", ContentType::General, "c", &mut maker, &mut lines);
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
        batch.end();
        let lines = String::from_utf8(batch.lines().to_vec()).unwrap();
        (lines + &end, batch.counts(), batch.mark())
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
