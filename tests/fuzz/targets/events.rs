//! Blobs of records of one HOME on their way to the index. The model of the receiver judges every line:
//! Wazuh raises an alert with all that was sent, and no event makes the index reject another.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wazuh_receiver::decoder::decode;
use wazuh_receiver::fidelity::{self, Expected, MAX_LINE, judge, needs_no_repair};
use wazuh_receiver::index::Index;
use wazuh_receiver::json::{Json, Unreadable, parse, parse_as_sent};
use wodle_office365::content::ContentType;
use wodle_office365::event::{
    Exclude, Fate, Kinds, Learning, LineMaker, MAX_LEARNED, Options, Saved, Unusable, id_of,
};
use wodle_office365::notice::{Kind, Notice};
use wodle_office365::records::{Element, Records};
use wodle_office365::timestamp::Timestamp;
use wodle_office365_fuzz::Dice;

const DAY: i64 = 86_400;

/// More of one blob would only take time.
const MAX_ELEMENTS: usize = 40;

/// Longer records are not filtered, nor searched for their `Id`, to save time.
const SHORT: usize = 2_000;

fuzz_target!(|input: &[u8]| {
    let mut dice = Dice::of(input);
    let blob = blown_up(input);
    let mut elements = Vec::new();
    let mut buffer = Vec::new();
    let mut records = Records::new(&blob[..], 1 << 20, &mut buffer).with_known_end(true);
    while elements.len() < MAX_ELEMENTS
        && let Ok(Some(element)) = records.next_element()
    {
        if let Element::Record(record) = element {
            elements.push(record.to_vec());
        }
    }
    if elements.is_empty() {
        elements.push(blob.clone());
    }

    let options = options();
    let (mut saved, mut sent) = (None, fidelity::Kinds::default());
    let mut now = Timestamp::from_unix(1_800_000_000);
    let mut index = Index::new();
    let mut rest = &elements[..];
    while !rest.is_empty() {
        // One run: it reads what the last one saved.
        let (run, next) = rest.split_at((1 + dice.size_below(12)).min(rest.len()));
        rest = next;
        let kinds = Kinds::new(saved.clone().map(|bytes| Saved {
            bytes: Ok(bytes),
            name: String::new(),
            now,
        }));
        let makers = options.each_ref().map(|options| LineMaker::new(options, &kinds));
        let mut makers = Makers { kinds: &kinds, makers };
        for element in run {
            if dice.below(8) == 0 {
                let text = String::from_utf8_lossy(element);
                add(&mut index, &Notice::new(Kind::Gap, "t", None, text).line(), true);
            }
            if let Some(line) = makers.check(element, dice.pick(&ContentType::ALL), &mut sent) {
                add(&mut index, &line, false);
            }
        }
        kinds
            .save(now, |bytes| {
                saved = Some(bytes.to_vec());
                Ok(())
            })
            .unwrap();
        let later = now.plus(i64::try_from(dice.below(60)).unwrap_or(0) * 3600);
        if later.unix() / DAY != now.unix() / DAY {
            index = Index::new();
        }
        now = later;
    }
});

/// The options to try: `normalize` yes and no, then both with a filter.
fn options() -> [Options; 4] {
    let filter = vec![Exclude { operation: Some("Send".to_owned()), ..Exclude::default() }];
    [(true, Vec::new()), (false, Vec::new()), (true, filter.clone()), (false, filter)]
        .map(|(normalize, exclude)| Options { normalize, exclude })
}

/// `input` with much of something in place of each of the bytes 1 to 6, four times at most: what is
/// long enough to be repaired is too long to be found by chance.
fn blown_up(input: &[u8]) -> Vec<u8> {
    let members: String = (0..260).map(|n| format!("\"k{n}\":{n},")).collect();
    let objects: String =
        (0..90).map(|n| format!("\"o{n}\":{{\"a\":1,\"b\":[],\"c\":{{}}}},")).collect();
    let runs = [
        "ü😀".repeat(6000),
        members,
        "[".repeat(101),
        "]".repeat(101),
        "{\"Name\":\"n\",\"Value\":12345678901},".repeat(2000),
        objects,
    ];
    let mut left = 4;
    let mut blob = Vec::new();
    for byte in input {
        match runs.get(usize::from(*byte).wrapping_sub(1)) {
            Some(run) if left > 0 => {
                left -= 1;
                blob.extend_from_slice(run.as_bytes());
            }
            _ => blob.push(*byte),
        }
    }
    blob
}

/// Adds a line to the day's index, which must take it.
fn add(index: &mut Index, line: &[u8], is_notice: bool) {
    let text = || String::from_utf8_lossy(line);
    let line = line.strip_suffix(b"\n").unwrap();
    let alert = decode(line).unwrap_or_else(|| panic!("not decoded: {}", text()));
    assert_eq!(alert.is_notice(), is_notice, "{}", text());
    assert!(alert.lost.is_empty() && alert.fields_cut == 0, "{:?}: {}", alert.lost, text());
    index.add(&alert).unwrap_or_else(|why| panic!("{why}: {}", text()));
}

/// The makers of one run, by the same kinds: `normalize` yes and no, then both with a filter.
struct Makers<'a> {
    kinds: &'a Kinds,
    makers: [LineMaker<'a>; 4],
}

impl Makers<'_> {
    /// The lines of a record with `normalize` yes and no. The error is the same for both. `is_excluded`:
    /// whether the filter names the record, if that is known.
    fn lines(
        &mut self,
        record: &[u8],
        content_type: ContentType,
        is_excluded: Option<bool>,
    ) -> Result<[Vec<u8>; 2], Unusable> {
        let make =
            |maker: &mut LineMaker<'_>, learning| line(maker, record, content_type, learning);
        let [normalize, plain, filter, filter_plain] = &mut self.makers;
        let learned = self.kinds.learned_paths();
        let first = make(normalize, Learning::No);
        assert_eq!(self.kinds.learned_paths(), learned, "it learned although it may not");
        let filtered = (record.len() <= SHORT).then(|| {
            let filtered = make(filter, Learning::Yes);
            let has_learned = self.kinds.learned_paths() > learned;
            assert!(filtered != Ok(None) || !has_learned, "what is left out teaches");
            [filtered, make(filter_plain, Learning::No)]
        });
        let lines = [make(normalize, Learning::Yes), make(plain, Learning::No)];
        assert!(first == lines[0] || first == Err(Unusable::NewPath));
        assert!(make(normalize, Learning::No) == lines[0], "it differs by what it taught");
        match is_excluded.zip(filtered) {
            Some((true, filtered)) => assert_eq!(filtered, [Ok(None), Ok(None)]),
            Some((false, filtered)) => assert!(filtered == lines, "the filter changes it"),
            None => {}
        }
        match lines {
            [Ok(Some(normalized)), Ok(Some(plain))] => Ok([normalized, plain]),
            [Err(why), Err(same)] if why == same => Err(why),
            other => panic!("{other:?}"),
        }
    }

    /// Checks the lines of an element, and returns the normalized one. There is none if the element
    /// is not a record. `sent`: what records held so far.
    fn check(
        &mut self,
        record: &[u8],
        content_type: ContentType,
        sent: &mut fidelity::Kinds,
    ) -> Option<Vec<u8>> {
        let json = parse_as_sent(record);
        let lines = self.lines(record, content_type, json.as_ref().ok().map(is_excluded));
        if json != Err(Unreadable::TooDeep) {
            assert_eq!(lines.is_ok(), matches!(json, Ok(Json::Object(_))), "{lines:?}");
        }
        let [normalized, plain] = lines.ok()?;
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        if let Ok(json) = &json {
            sent.note(json);
        }
        let expected = Expected {
            subscription: content_type.name(),
            paths_are_full: self.kinds.learned_paths() >= MAX_LEARNED,
            kinds: Some(sent),
        };
        if let Err(why) = judge(record, &normalized[..normalized.len() - 1], expected) {
            panic!("{why}\n{}\n{}", text(record), text(&normalized));
        }
        check_plain(&plain, content_type);

        let written = members_of(&normalized, content_type);
        if let Ok(json) = &json
            && (*json == written || needs_no_repair(json) && kinds_of(json) == kinds_of(&written))
        {
            assert_eq!(text(&normalized), text(&plain), "what needs no repair is copied");
        }
        if written.get("Overflow").is_none() && written.get("Truncated").is_none() {
            let inner = written.to_compact();
            let again = line(&mut self.makers[0], inner.as_bytes(), content_type, Learning::No);
            let again = members_of(&again.unwrap().unwrap(), content_type);
            assert!(again == written, "it needs a second repair: {}", text(&normalized));
        }
        Some(normalized)
    }
}

/// The line; none where it is left out.
fn line(
    maker: &mut LineMaker<'_>,
    record: &[u8],
    content_type: ContentType,
    learning: Learning,
) -> Result<Option<Vec<u8>>, Unusable> {
    let mut out = b"before\n".to_vec();
    let mut id = b"another".to_vec();
    let result = maker.append_line(record, content_type, learning, &mut id, &mut out);
    let line = out.split_off("before\n".len());
    assert_eq!(out, b"before\n");
    let fate = result.inspect_err(|_| assert!(line.is_empty()))?;
    if record.len() <= SHORT {
        assert_eq!(id_of(record).unwrap_or_default(), id, "as a resumed blob looks for it");
    }
    assert_eq!(line.is_empty(), fate == Fate::Excluded);
    let lists = line.windows(13).any(|window| window == b"\"Truncated\":[");
    assert!(lists || fate != Fate::Shortened);
    Ok((fate != Fate::Excluded).then_some(line))
}

/// Checks a line with `normalize` no.
fn check_plain(line: &[u8], content_type: ContentType) {
    assert!(line.len() <= MAX_LINE + 1);
    let Json::Object(members) = members_of(line, content_type) else { panic!("no object") };
    assert!(members.iter().all(|(name, _)| name.split('.').next() != Some("actor")));
    assert!(!has_nul(&Json::Object(members)));
}

fn has_nul(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// The members of a line's record, but for the `Subscription` that we add. The line must be one line
/// of JSON in the envelope.
fn members_of(line: &[u8], content_type: ContentType) -> Json {
    let text = line.strip_suffix(b"\n").unwrap();
    assert!(!text.iter().any(|byte| *byte < b' '));
    let Some(Json::Object(mut envelope)) = parse(text) else { panic!("not JSON") };
    let Some((_, Json::Object(mut members))) = envelope.pop() else { panic!("no record") };
    let subscription = Json::String(content_type.name().to_owned());
    assert_eq!(members.pop(), Some(("Subscription".to_owned(), subscription)));
    Json::Object(members)
}

fn kinds_of(record: &Json) -> fidelity::Kinds {
    let mut kinds = fidelity::Kinds::default();
    kinds.note(record);
    kinds
}

/// Whether the filter names a record: it has one `Operation`, which is `Send`.
fn is_excluded(record: &Json) -> bool {
    let Json::Object(members) = record else { return false };
    let mut operations = members.iter().filter(|(name, _)| name == "Operation");
    let first = operations.next().and_then(|(_, value)| value.as_str());
    first == Some("Send") && operations.next().is_none()
}
