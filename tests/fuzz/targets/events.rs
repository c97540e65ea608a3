//! Whole blobs on their way to lines: whatever is in them, what comes out is what Wazuh and its indexer
//! take, and nothing of it needs a second repair.

#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use wodle_office365::content::ContentType;
use wodle_office365::event::{Exclude, Fate, Options, Unusable, append_line};
use wodle_office365::records::{Element, Records};
use wodle_office365_fuzz::Dice;

/// The contract's.
const LONGEST_LINE: usize = 64_512;
const LONGEST_STRING: usize = 32_700;
const MOST_FIELDS: usize = 256;

const HEAD: &[u8] = br#"{"integration":"office365","office365":"#;

fuzz_target!(|input: &[u8]| {
    let mut dice = Dice::of(input);
    let content_type = dice.pick(&ContentType::ALL);
    let blob = blown_up(input);
    // As a blob, and as a record that is none.
    check(&blob, content_type);
    let mut buffer = Vec::new();
    let mut records = Records::new(&blob[..], 1 << 20, &mut buffer);
    while let Ok(Some(element)) = records.next_element() {
        if let Element::Record(record) = element {
            check(record, content_type);
        }
    }
});

/// `input` with much of something in place of each of the bytes 1 to 6, eight times at most: what is
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
    let mut left = 8;
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

fn check(record: &[u8], content_type: ContentType) {
    let mut unusable = Vec::new();
    for normalize in [true, false] {
        let options = Options { normalize, exclude: Vec::new() };
        let line = match line(record, content_type, &options) {
            Ok(Some(line)) => line,
            Ok(None) => panic!("nothing is to be left out"),
            Err(why) => {
                unusable.push(why);
                continue;
            }
        };
        let text = line.strip_suffix(b"\n").unwrap();
        assert!(text.len() <= LONGEST_LINE && !text.iter().any(|byte| *byte < b' '));
        let subscription = format!(",\"Subscription\":\"{}\"}}}}", content_type.name());
        let empty = format!("{{\"Subscription\":\"{}\"}}}}", content_type.name());
        assert!(text.ends_with(subscription.as_bytes()) || text.ends_with(empty.as_bytes()));
        let size: Size = match serde_json::from_slice(text) {
            Ok(size) => size,
            Err(error) => {
                // Numbers that it can't hold are not repaired then.
                assert!(!normalize && error.to_string().contains("number out of range"), "{error}");
                assert!(serde_json::from_slice::<IgnoredAny>(text).is_ok());
                Size::default()
            }
        };
        if normalize {
            assert!(size.fields <= MOST_FIELDS, "{} fields", size.fields);
            assert!(size.longest <= LONGEST_STRING, "a string of {} bytes", size.longest);
        }
        let inner = text.strip_prefix(HEAD).unwrap();
        let again = self::line(&inner[..inner.len() - 1], content_type, &options).unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&line));
        // What a filter leaves out is what it names.
        let exclude = vec![Exclude { operation: Some("Send".to_owned()), ..Exclude::default() }];
        let options = Options { normalize, exclude };
        let left_out = self::line(record, content_type, &options).unwrap().is_none();
        if let (true, Ok(event)) = (left_out, serde_json::from_slice::<Value>(text)) {
            assert_eq!(event["office365"]["Operation"], "Send");
        }
    }
    assert!(unusable.is_empty() || (unusable.len() == 2 && unusable[0] == unusable[1]));
}

/// The line; none where it is left out.
fn line(
    record: &[u8],
    content_type: ContentType,
    options: &Options,
) -> Result<Option<Vec<u8>>, Unusable> {
    let mut out = b"before\n".to_vec();
    let before = out.len();
    let mut id = Vec::new();
    let result = append_line(record, content_type, options, &mut id, &mut out);
    let line = out.split_off(before);
    assert_eq!(out, b"before\n");
    let fate = result.inspect_err(|_| assert!(line.is_empty()))?;
    assert!(id.is_empty() || serde_json::from_slice::<IgnoredAny>(&id).is_ok());
    if fate == Fate::Excluded {
        assert!(line.is_empty());
        return Ok(None);
    }
    let lists = line.windows(13).any(|window| window == b"\"Truncated\":[");
    assert!(fate == Fate::Whole || lists);
    Ok(Some(line))
}

/// The fields that Wazuh's decoder makes of a value, and its longest string.
#[derive(Default)]
struct Size {
    fields: usize,
    longest: usize,
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Measure)
    }
}

struct Measure;

impl<'de> Visitor<'de> for Measure {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Size, E> {
        Ok(Size { fields: 1, longest: 0 })
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Size, E> {
        self.visit_unit()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Size, E> {
        self.visit_unit()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Size, E> {
        self.visit_unit()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Size, E> {
        self.visit_unit()
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        Ok(Size { fields: usize::from(!text.is_empty()), longest: text.len() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Size, A::Error> {
        let mut longest = 0;
        while let Some(item) = items.next_element::<Size>()? {
            longest = longest.max(item.longest);
        }
        Ok(Size { fields: 1, longest })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Size, A::Error> {
        let mut size = Size::default();
        while let Some((key, value)) = members.next_entry::<String, Size>()? {
            size.fields += value.fields;
            size.longest = size.longest.max(key.len()).max(value.longest);
        }
        Ok(size)
    }
}
