//! The record splitter and the lines of records, without repairs, against what serde_json makes of the
//! same bytes.

#![no_main]

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use wodle_office365::content::{ContentType, without_bom};
use wodle_office365::event::{Fate, Kinds, Learning, LineMaker, Options, Unusable};
use wodle_office365::records::{Element, Records, SplitError};
use wodle_office365_fuzz::Dice;

/// A longer line is shortened, what is deeper becomes a string.
const LONGEST_LINE: usize = 64_512;
const MOST_LEVELS: usize = 100;

/// What the splitter holds besides an element.
const BUFFER: usize = 160 << 10;
/// How far it looks ahead for the end of a broken record.
const LOOKAHEAD: usize = 128 << 10;
/// How much of a body that is no array it shows at least.
const BEGINNING: usize = 32 << 10;

fuzz_target!(|input: &[u8]| {
    let mut dice = Dice::of(input);
    let content_type = dice.pick(&ContentType::ALL);
    check_line(input, content_type);
    let body = &blown_up(input)[..];
    let whole = split(Pieces::new(body, vec![usize::MAX]), body.len(), false);
    check_against_serde_json(body, &whole);
    for part in &whole.parts {
        if let Part::Record(record) = part {
            check_line(record, content_type);
        }
    }
    let resumed = split(Pieces::new(body, vec![usize::MAX]), body.len(), true);
    check_resumed(body, &resumed, &whole);

    // Blown up, smaller pieces would only take their time.
    let smallest = if body.len() > input.len() { 500 } else { 1 };
    let sizes: Vec<usize> = (0..4).map(|_| smallest + dice.size_below(3 * smallest)).collect();
    let limit = dice.size_below(if body.len() > BUFFER { body.len() } else { 40 });
    for (known_end, same) in [(false, &whole), (true, &resumed)] {
        assert_eq!(split(Pieces::new(body, vec![smallest]), body.len(), known_end), *same);
        assert_eq!(split(Pieces::new(body, sizes.clone()), body.len(), known_end), *same);
        let limited = split(Pieces::new(body, sizes.clone()), limit, known_end);
        let large = split(Pieces::new(body, vec![usize::MAX]), limit, known_end);
        assert_eq!(limited, large);
        // In a broken record, what is larger than the limit is not recognized as a record.
        if !same.parts.iter().any(|part| matches!(part, Part::Malformed(_)))
            && matches!(same.end, End::Whole | End::Cut)
            && whole.end == End::Whole
        {
            let expected = same.parts.iter().map(|part| part.within(limit)).collect();
            assert_eq!(limited, Split { parts: expected, end: same.end.clone() });
        }
    }

    let until = dice.size_below(body.len() + 1);
    let cut = split(Pieces::new(&body[..until], sizes.clone()), body.len(), false);
    let mut breaking = Pieces::new(&body[..until], sizes.clone());
    breaking.then_breaks = true;
    let broken = split(breaking, body.len(), false);
    // What follows a string is awaited, so that its end is known.
    assert!(cut.parts.starts_with(&broken.parts) && cut.parts.len() <= broken.parts.len() + 1);
    let mut breaking = Pieces::new(&body[..until], sizes);
    breaking.then_breaks = true;
    let broken_off = split(breaking, body.len(), true);
    assert!(resumed.parts.starts_with(&broken_off.parts), "a retry numbers them in the same way");
    match cut.end {
        End::Whole | End::Cut => assert_eq!(broken.end, End::Read),
        // The mark of a byte order is waited for.
        _ if until < 3 => {}
        // So is what follows a bracket that nothing has opened.
        End::Malformed(_) if broken.end == End::Read => {}
        other => assert_eq!(broken.end, other),
    }
});

/// `input` with a run of blanks, longer than what the splitter reads at once, in place of the bytes 1
/// and 2, twice at most. Blanks may stand between tokens and in strings.
fn blown_up(input: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(input.len());
    let mut rest = input;
    for run in [BUFFER, BUFFER / 3] {
        let Some(at) = rest.windows(2).position(|pair| pair == [1, 2]) else { break };
        body.extend_from_slice(&rest[..at]);
        body.resize(body.len() + run, b' ');
        rest = &rest[at + 2..];
    }
    body.extend_from_slice(rest);
    body
}

/// Hands out a body in pieces, with an interruption now and then.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: Vec<usize>,
    reads: usize,
    /// Whether an error, and not the end, follows the bytes.
    then_breaks: bool,
    /// The most that was asked for at once.
    most: usize,
    /// How often the end was told.
    ends: usize,
}

impl<'a> Pieces<'a> {
    fn new(rest: &'a [u8], sizes: Vec<usize>) -> Self {
        Self { rest, sizes, reads: 0, then_breaks: false, most: 0, ends: 0 }
    }
}

impl Read for &mut Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        assert!(!out.is_empty(), "reading nothing brings nothing on");
        self.reads += 1;
        self.most = self.most.max(out.len());
        if self.reads.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.rest.is_empty() {
            self.ends += 1;
            assert!(self.ends < 10, "the end of the body is not understood");
            return if self.then_breaks { Err(io::ErrorKind::Other.into()) } else { Ok(0) };
        }
        let size = self.sizes[self.reads % self.sizes.len()].min(out.len()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(size);
        out[..size].copy_from_slice(piece);
        self.rest = rest;
        Ok(size)
    }
}

/// What the splitter made of a body.
#[derive(Debug, PartialEq)]
struct Split {
    parts: Vec<Part>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum Part {
    Record(Vec<u8>),
    TooLarge(u64),
    Malformed(u64),
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Record(bytes) => bytes.len() as u64,
            Self::TooLarge(size) | Self::Malformed(size) => *size,
        }
    }

    fn within(&self, limit: usize) -> Self {
        match self {
            Self::Record(bytes) if bytes.len() <= limit => Self::Record(bytes.clone()),
            Self::Record(bytes) => Self::TooLarge(bytes.len() as u64),
            Self::TooLarge(size) => Self::TooLarge(*size),
            Self::Malformed(size) => Self::Malformed(*size),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Whole,
    Read,
    Cut,
    NoArray,
    Malformed(u64),
}

fn split(mut pieces: Pieces<'_>, limit: usize, known_end: bool) -> Split {
    let body = pieces.rest;
    let mut parts = Vec::new();
    let mut buffer = Vec::new();
    let mut records = Records::new(&mut pieces, limit, &mut buffer).with_known_end(known_end);
    let end = loop {
        assert!(parts.len() <= body.len(), "an element has a byte at least");
        match records.next_element() {
            Ok(Some(Element::Record(bytes))) => parts.push(Part::Record(bytes.to_vec())),
            Ok(Some(Element::TooLarge(size))) => parts.push(Part::TooLarge(size)),
            Ok(Some(Element::Malformed(size))) => parts.push(Part::Malformed(size)),
            Ok(Some(Element::Taken)) => panic!("nothing is offered"),
            Ok(None) => {
                assert!(matches!(records.next_element(), Ok(None)), "the end stays the end");
                break End::Whole;
            }
            Err(SplitError::Read(_) | SplitError::NoMemory(_)) => break End::Read,
            Err(SplitError::Cut) => break End::Cut,
            Err(SplitError::Malformed(at)) => {
                assert!(at < body.len() as u64);
                break End::Malformed(at);
            }
            Err(SplitError::NoArray(beginning)) => {
                let mut body = skip_white(without_bom(body));
                // In a whole body NULs before the array cost nothing.
                while let Some(rest) = body.strip_prefix(b"\0").filter(|_| known_end) {
                    body = skip_white(rest);
                }
                assert!(body.starts_with(&beginning));
                assert!(beginning.len() >= body.len().min(BEGINNING) && beginning.len() <= BUFFER);
                break End::NoArray;
            }
        }
    };
    drop(records);
    // The buffer doubles when it is full of an element that may still be within the limit.
    let most = 2 * (BUFFER + LOOKAHEAD + limit);
    assert!(pieces.most <= most, "{} held for {limit}", pieces.most);
    Split { parts, end }
}

/// What is made of a body that is known to be whole, against what is made of one that may be cut.
fn check_resumed(body: &[u8], resumed: &Split, whole: &Split) {
    let size: u64 = resumed.parts.iter().map(Part::size).sum();
    assert!(size <= body.len() as u64, "no byte belongs to two elements");
    match whole.end {
        End::Malformed(_) | End::Cut => {
            assert!(resumed.parts.starts_with(&whole.parts));
            assert!(matches!(resumed.end, End::Whole | End::Cut));
        }
        // NULs before the array are passed over in a whole body only.
        End::NoArray if skip_white(without_bom(body)).first() == Some(&0) => {}
        _ => assert_eq!(resumed, whole),
    }
}

fn check_against_serde_json(body: &[u8], whole: &Split) {
    let body = without_bom(body);
    let array: Option<Vec<&RawValue>> = serde_json::from_slice(body).ok();
    let (sure, complete) = elements_by_serde_json(body);
    assert_eq!(array.is_some(), complete);
    assert!(whole.parts.len() >= sure.len(), "elements before a fault are lost");
    for (part, sure) in whole.parts.iter().zip(&sure) {
        let Part::Record(record) = part else { panic!("nothing is larger than the body") };
        assert_eq!(record.as_slice(), sure.get().as_bytes());
    }
    if let Some(array) = array {
        assert_eq!((&whole.end, whole.parts.len()), (&End::Whole, array.len()));
        for (element, sure) in array.iter().zip(&sure) {
            assert_eq!(element.get(), sure.get());
        }
    } else if whole.end == End::Whole {
        // Each element is judged by itself, so one of them is to blame.
        let is_json = |part: &Part| matches!(part, Part::Record(record) if serde_json::from_slice::<&RawValue>(record).is_ok());
        assert!(!whole.parts.iter().all(is_json));
    }
}

/// The elements of an array that are good and followed by a comma or the closing bracket, up to the
/// first fault; and whether there is no fault.
fn elements_by_serde_json(body: &[u8]) -> (Vec<&RawValue>, bool) {
    let mut sure = Vec::new();
    let Some(rest) = skip_white(body).strip_prefix(b"[") else {
        return (sure, false);
    };
    let mut rest = skip_white(rest);
    if let Some(rest) = rest.strip_prefix(b"]") {
        return (sure, skip_white(rest).is_empty());
    }
    loop {
        let mut stream = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let Some(Ok(element)) = stream.next() else {
            return (sure, false);
        };
        rest = skip_white(&rest[stream.byte_offset()..]);
        match rest.split_first() {
            Some((b',', more)) => {
                sure.push(element);
                rest = more;
            }
            Some((b']', more)) => {
                sure.push(element);
                return (sure, skip_white(more).is_empty());
            }
            _ => return (sure, false),
        }
    }
}

fn skip_white(json: &[u8]) -> &[u8] {
    &json[json.iter().take_while(|byte| b" \t\r\n".contains(byte)).count()..]
}

/// Holds the line of a record, or its refusal, against one that is put together of what serde_json
/// takes the record apart into.
fn check_line(record: &[u8], content_type: ContentType) {
    let options = Options { normalize: false, exclude: Vec::new() };
    let mut out = b"before\n".to_vec();
    let before = out.len();
    let mut found = Vec::new();
    let kinds = Kinds::default();
    let mut maker = LineMaker::new(&options, &kinds);
    let result = maker.append_line(record, content_type, Learning::No, &mut found, &mut out);
    assert!(out.starts_with(b"before\n"));
    let line = &out[before..];
    let json = repaired(record);
    let Ok(members) = serde_json::from_str::<Members<'_>>(&json) else {
        let is_object = json.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
        let why = if is_object { Unusable::Malformed } else { Unusable::NotAnObject };
        assert_eq!((result, line.is_empty()), (Err(why), true));
        return;
    };
    let (expected, id) = line_of(&members, content_type);
    let is_actor = |name: &RawValue| {
        let name: String = serde_json::from_str(name.get()).unwrap_or_default();
        name.split('.').next() == Some("actor")
    };
    if expected.len() > LONGEST_LINE + 1
        || depth_of(&expected) > MOST_LEVELS + 1
        || members.0.iter().any(|(name, _)| is_actor(name))
    {
        // The target `events` is about these.
        return;
    }
    assert_eq!(String::from_utf8_lossy(line), expected);
    let id = id.map(|id| &line[id]).unwrap_or_default();
    // It is as sent.
    let found = compact(&repaired(&found));
    assert_eq!((result, found.as_bytes()), (Ok(Fate::Whole), id));
    let text = line.strip_suffix(b"\n").unwrap_or_default();
    assert!(!text.iter().any(|byte| *byte < b' '), "a line is one line");
    assert!(serde_json::from_slice::<IgnoredAny>(text).is_ok());
    // Value refuses a few things that are JSON, such as numbers that it can't hold.
    if let Ok(mut value @ Value::Object(_)) = serde_json::from_str::<Value>(&json) {
        value["Subscription"] = content_type.name().into();
        let line: Value = serde_json::from_slice(line).unwrap_or_default();
        assert_eq!(line["office365"], value);
    }
}

/// How deep the containers of `json` are nested.
fn depth_of(json: &str) -> usize {
    let (mut in_string, mut escaped) = (false, false);
    let (mut depth, mut deepest) = (0_usize, 0);
    for c in json.chars() {
        match c {
            '"' if !escaped => in_string = !in_string,
            '{' | '[' if !in_string => depth += 1,
            '}' | ']' if !in_string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
        escaped = in_string && !escaped && c == '\\';
    }
    deepest
}

/// A record with halves of surrogate pairs, bad UTF-8 and U+0000 as U+FFFD and control characters in
/// strings escaped.
fn repaired(record: &[u8]) -> String {
    let mut text = String::new();
    let (mut in_string, mut escaped) = (false, false);
    for c in whole_characters(&String::from_utf8_lossy(record)).chars() {
        match c {
            '\0' if in_string && !escaped => {
                text.push_str("\\ufffd");
                continue;
            }
            '\u{1}'..='\u{1f}' if in_string && !escaped => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
                continue;
            }
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && !escaped && c == '\\';
        text.push(c);
    }
    text
}

/// `text` with `\ufffd` in place of escapes that are half a surrogate pair or U+0000.
fn whole_characters(text: &str) -> String {
    let code = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| all)
    };
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        whole.push_str(&rest[..at]);
        rest = &rest[at..];
        let second = || rest.get(6..).and_then(code);
        let (spelling, length) = match code(rest) {
            Some(0xd800..=0xdbff) if matches!(second(), Some(0xdc00..=0xdfff)) => (&rest[..12], 12),
            Some(0 | 0xd800..=0xdfff) => ("\\ufffd", 6),
            _ => {
                let next = rest.chars().nth(1).map_or(0, char::len_utf8);
                (&rest[..1 + next], 1 + next)
            }
        };
        whole.push_str(spelling);
        rest = &rest[length..];
    }
    whole + rest
}

/// The line that `members` make, and where in it the last `Id` stands.
fn line_of(members: &Members<'_>, content_type: ContentType) -> (String, Option<Range<usize>>) {
    let mut line = r#"{"integration":"office365","office365":{"#.to_owned();
    let mut id = None;
    for (key, value) in &members.0 {
        let name: Option<String> = serde_json::from_str(key.get()).ok();
        if name.as_deref() == Some("Subscription") {
            continue;
        }
        line.push_str(key.get());
        line.push(':');
        let from = line.len();
        line.push_str(&compact(value.get()));
        if name.as_deref() == Some("Id") {
            id = Some(from..line.len());
        }
        line.push(',');
    }
    line.push_str(&format!("\"Subscription\":\"{}\"}}}}\n", content_type.name()));
    (line, id)
}

/// JSON without white space between its tokens.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let keep = in_string || !" \t\r\n".contains(*c);
        if *c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && !escaped && *c == '\\';
        keep
    };
    json.chars().filter(keep).collect()
}

/// An object's members as spelt: in their order, with doubles.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Gather).map(Self)
    }
}

struct Gather;

impl<'de> Visitor<'de> for Gather {
    type Value = Vec<(&'de RawValue, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
