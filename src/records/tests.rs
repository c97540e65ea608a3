//! Good bodies, and broken ones, in pieces of any size.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Hands out the bytes in pieces of the given sizes, over and over.
struct Pieces<'a>(&'a [u8], Vec<usize>, usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let size = self.1[self.2 % self.1.len()].max(1);
        self.2 += 1;
        let n = size.min(out.len()).min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

/// An error, and not the end, follows the bytes.
struct Breaks<'a>(Pieces<'a>);

impl Read for Breaks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::Error::other("broken")),
            n => Ok(n),
        }
    }
}

/// What becomes of a body that is not known to be whole.
fn split(body: &[u8], pieces: &[usize], limit: usize) -> (Vec<String>, Result<(), SplitError>) {
    split_as(false, body, pieces, limit)
}

fn split_as(
    known_end: bool,
    body: &[u8],
    pieces: &[usize],
    limit: usize,
) -> (Vec<String>, Result<(), SplitError>) {
    let mut buffer = Vec::new();
    let pieces = Pieces(body, pieces.to_vec(), 0);
    let mut records = Records::new(pieces, limit, &mut buffer).with_known_end(known_end);
    let mut elements = Vec::new();
    loop {
        match records.next_element() {
            Ok(None) => return (elements, Ok(())),
            Ok(Some(Element::Record(bytes))) => {
                elements.push(String::from_utf8_lossy(bytes).into_owned());
            }
            Ok(Some(Element::TooLarge(size))) => elements.push(format!("too large: {size}")),
            Ok(Some(Element::Malformed(size))) => elements.push(format!("skipped: {size}")),
            Ok(Some(Element::Taken)) => panic!("nothing is offered"),
            Err(error) => return (elements, Err(error)),
        }
    }
}

#[test]
fn hands_out_elements_as_they_were_sent() {
    let table: [(&str, &[&str]); 8] = [
        ("[]", &[]),
        (" \n[ \t ] \r\n", &[]),
        ("\u{feff}[{}]", &["{}"]),
        ("[{\"a\":1} , {\"b\" : [ {} ]}]", &["{\"a\":1}", "{\"b\" : [ {} ]}"]),
        (r#"[{"a":"}\"]"},{"\\":"\\"}]"#, &[r#"{"a":"}\"]"}"#, r#"{"\\":"\\"}"#]),
        ("[1,-2.5e3 ,null,true]", &["1", "-2.5e3", "null", "true"]),
        (r#"["a,]\"",[[],"]"],{}]"#, &[r#""a,]\"""#, r#"[[],"]"]"#, "{}"]),
        ("[{\"ü\":\"\u{1F600}\"}]", &["{\"ü\":\"\u{1F600}\"}"]),
    ];
    for (body, expected) in table {
        for pieces in [vec![1], vec![2, 3], vec![1 << 20]] {
            let (elements, end) = split(body.as_bytes(), &pieces, 1000);
            assert_eq!(elements, expected, "{body}");
            assert!(end.is_ok(), "{body} {end:?}");
        }
    }
}

#[test]
fn says_how_a_body_is_broken_and_keeps_what_came_before() {
    let table = [
        ("", 0, "Cut"),
        ("[", 0, "Cut"),
        ("[{\"a\":1}", 1, "Cut"),
        ("[{\"a\":1},", 1, "Cut"),
        ("[{\"a\":1},{\"b", 1, "Cut"),
        ("[\"abc", 0, "Cut"),
        ("[12", 0, "Cut"),
        ("[{}{}]", 1, "Malformed(3)"),
        ("[{},]", 1, "Malformed(4)"),
        ("[,{}]", 0, "Malformed(1)"),
        ("[{}]]", 1, "Malformed(4)"),
        ("[{}]\n[{}]", 1, "Malformed(5)"),
        ("{\"error\":1}", 0, "NoArray"),
        ("<html>", 0, "NoArray"),
    ];
    for (body, count, expected) in table {
        let (elements, end) = split(body.as_bytes(), &[1], 1000);
        assert_eq!(elements.len(), count, "{body}");
        let error = format!("{:?}", end.unwrap_err());
        assert!(error.starts_with(expected), "{body}: {error}");
    }
    let (_, end) = split(b" {\"error\":1}", &[1], 10);
    assert!(matches!(end, Err(SplitError::NoArray(body)) if body == b"{\"error\":1}"));
}

#[test]
fn broken_records_in_a_whole_body_cost_only_themselves() {
    let table: &[(&str, &[&str])] = &[
        // Punctuation and NULs cost nothing.
        ("[{}{}]", &["{}", "{}"]),
        ("[{} {}]", &["{}", "{}"]),
        ("[{},]", &["{}"]),
        ("[,{}]", &["{}"]),
        ("[{},,{}]", &["{}", "{}"]),
        ("[{}][{}]", &["{}", "{}"]),
        ("[{}]\n[{}]\n", &["{}", "{}"]),
        ("[{}],[{}]", &["{}", "{}"]),
        ("[{}[{}]", &["{}", "{}"]),
        ("[{}]]", &["{}"]),
        ("[{}]}", &["{}"]),
        ("[{}],", &["{}"]),
        ("[{}}]", &["{}"]),
        ("[{}},{}]", &["{}", "{}"]),
        ("[{{\"Id\":1},{}]", &["{\"Id\":1}", "{}"]),
        ("[{},{]", &["{}"]),
        ("[{}]\0\0 \0", &["{}"]),
        ("[\0{}\0,\0\0{}\0]", &["{}", "{}"]),
        ("[{},\0{}\0{}]", &["{}", "{}", "{}"]),
        // Properly delimited.
        (r#"[{"a":1 "b":2},{}]"#, &["skipped: 13", "{}"]),
        (r#"[{"a":1,},{}]"#, &["skipped: 8", "{}"]),
        (r#"[{"a"},{}]"#, &["skipped: 5", "{}"]),
        (r#"[{"a":1}x,{}]"#, &[r#"{"a":1}"#, "x", "{}"]),
        ("[{\"a\":\0},{}]", &["skipped: 7", "{}"]),
        // Without their closing bracket.
        (r#"[{"Id":1,"a":2,{"Id":2},{"Id":3}]"#, &["skipped: 14", r#"{"Id":2}"#, r#"{"Id":3}"#]),
        (r#"[{"Id":1,{"Id":2}{"Id":3}]"#, &["skipped: 8", r#"{"Id":2}"#, r#"{"Id":3}"#]),
        (
            r#"[{"Id":1,"a":{"b":1,{"Id":2},{"Id":3}]"#,
            &["skipped: 19", r#"{"Id":2}"#, r#"{"Id":3}"#],
        ),
        (r#"[{"Id":1,"a":[1,2},{"Id":2}]"#, &["skipped: 17", r#"{"Id":2}"#]),
        (r#"[{"Id":1],{"Id":2}]"#, &["skipped: 7", r#"{"Id":2}"#]),
        (r#"[{"Id":1},{"Id":2]"#, &[r#"{"Id":1}"#, "skipped: 7"]),
        (r#"[{"Id":"1"},{"Id":"2"]"#, &[r#"{"Id":"1"}"#, "skipped: 9"]),
        (r#"[{"Id":1},{"Id":2,"a":[1,2]"#, &[r#"{"Id":1}"#, "skipped: 17"]),
        (
            r#"[{"Id":1,"a":[{"x":1 2},{"Id":2},{"Id":3}]"#,
            &["skipped: 23", r#"{"Id":2}"#, r#"{"Id":3}"#],
        ),
        // With a RecordType a record is told from a part of one.
        (
            r#"[{"L":[{"a":1},{"RecordType":1,"Id":2},{"RecordType":1,"Id":3}]"#,
            &["skipped: 14", r#"{"RecordType":1,"Id":2}"#, r#"{"RecordType":1,"Id":3}"#],
        ),
        (
            r#"[{"RecordType":1,"L":{"Id":8},{"Id":9}],"b":1},{"RecordType":1,"Id":2}]"#,
            &["skipped: 45", r#"{"RecordType":1,"Id":2}"#],
        ),
        // A string without its closing quote.
        (
            r#"[{"Id":1,"a":"oops},{"Id":2},{"Id":3}]"#,
            &["skipped: 18", r#"{"Id":2}"#, r#"{"Id":3}"#],
        ),
        (
            r#"[{"Id":1,"a":"oops,{"Id":2},{"Id":3}]"#,
            &["skipped: 18", r#"{"Id":2}"#, r#"{"Id":3}"#],
        ),
        (r#"[{"Id":1,"a":"oops,"b":"c"},{"Id":2}]"#, &["skipped: 26", r#"{"Id":2}"#]),
        (r#"[{"Id":1,"a":{"b":"oops},{"Id":2}]"#, &["skipped: 24", r#"{"Id":2}"#]),
        (r#"[{"Id":1},{"Id":2,"a":"oops]"#, &[r#"{"Id":1}"#, "skipped: 18"]),
        (r#"[{"Id":1,"a":"say "so" to"},{"Id":2}]"#, &["skipped: 27", r#"{"Id":2}"#]),
        // Parts of a broken record are no records.
        (
            r#"[{"L":[{"Id":8},{"Id":9 1},{"Id":7}],"b":1},{"Id":2}]"#,
            &["skipped: 42", r#"{"Id":2}"#],
        ),
        (r#"[{"L":[{"Id":8},{"Id":9,{"Id":7}],"b":1},{"Id":2}]"#, &["skipped: 39", r#"{"Id":2}"#]),
        (r#"[{"L":[{"Id":8}{"Id":9}],"b":1},{"Id":2}]"#, &["skipped: 30", r#"{"Id":2}"#]),
        (r#"[{"L":[{"Id":8},{"Id":9}],{"Id":2}]"#, &["skipped: 25", r#"{"Id":2}"#]),
        (r#"[{"L":[{"Id":8}],"a":x"y","b":[{"Id":9}]},{"Id":2}]"#, &["skipped: 40", r#"{"Id":2}"#]),
        // What is not an object.
        (r#"["a","b" "c",{}]"#, &[r#""a""#, r#""b""#, r#""c""#, "{}"]),
        (r#"[{}","Id":"x"}, {"Id":3}]"#, &["{}", "skipped: 1", "skipped: 9", r#"{"Id":3}"#]),
        // Without its opening brace: what is in it is not taken for records.
        (
            r#"[{"Id":1},"Id":"x","F":{"Id":"in"},"L":[{"Id":"in"}]},{"Id":3}]"#,
            &[r#"{"Id":1}"#, "skipped: 8", "skipped: 15", "skipped: 18", r#"{"Id":3}"#],
        ),
        // Behind the array, and before it.
        (r#"[{"Id":1}]xyz"#, &[r#"{"Id":1}"#, "skipped: 3"]),
        (r#"[{"Id":1}]<html>x</html>"#, &[r#"{"Id":1}"#, "skipped: 14"]),
        ("\0\0[{\"Id\":1}]", &[r#"{"Id":1}"#]),
        ("[[1,2},{\"Id\":2}]", &["skipped: 6", "{\"Id\":2}"]),
        ("[[1,2]", &["[1,2]"]),
    ];
    for (body, expected) in table {
        for pieces in [vec![1], vec![2, 3], vec![1 << 20]] {
            let (elements, end) = split_as(true, body.as_bytes(), &pieces, 1000);
            assert_eq!(elements, *expected, "{body}");
            assert!(end.is_ok(), "{body} {end:?}");
        }
    }
    for (body, count) in
        [("[{},{\"a\":1", 1), ("[{},", 1), ("[{}{}", 2), ("[{}][{}", 2), ("[{\"a\":\"]\"", 0)]
    {
        let (elements, end) = split_as(true, body.as_bytes(), &[1], 1000);
        assert!(elements.len() == count && matches!(end, Err(SplitError::Cut)), "{body} {end:?}");
    }
}

/// It takes seconds; a search that reads everything again for each fault would take hours.
#[test]
fn hostile_bodies_are_read_a_few_times_at_most() {
    for unit in [
        ",{",
        "[{\"a\":",
        "{\"a\":[{\"Id\":1}",
        "{\"a\":1,{\"Id\":",
        "[{\"a\":{,{\"Id\":1},",
        "\",{\"",
        "{\"a\":[}",
        "{\"a\":[\"},{",
        "\"{[",
        "{\"Id\":[{\"b\" 1,{\"Id\":2},",
        "[{\"\\\"",
        "{\"x\\\",{",
        "[}",
        "[{]",
        "{\"RecordType\":1,\"Id\":1,\"a\":[",
    ] {
        for end in ["", "]"] {
            let body = format!("[{{\"a\" 1,{}{end}", unit.repeat((1 << 18) / unit.len()));
            let (elements, end) = split_as(true, body.as_bytes(), &[100_000], 1 << 20);
            let sizes = elements.iter().map(|element| {
                let skipped = element.strip_prefix("skipped: ").and_then(|n| n.parse().ok());
                skipped.unwrap_or(element.len())
            });
            assert!(sizes.sum::<usize>() <= body.len(), "{unit}");
            assert!(matches!(end, Ok(()) | Err(SplitError::Cut)), "{unit} {end:?}");
        }
    }
}

#[test]
fn a_large_broken_record_is_skipped_in_bounded_memory() {
    let long = "x".repeat(3 << 20);
    for broken in [
        format!(r#"{{"a":1 "b":"{long}"}}"#),
        format!(r#"{{"a":"{long}","b":1,"#),
        format!(r#"{{"a":"{long}" b,"#),
    ] {
        let body = format!(r#"[{{}},{broken},{{"Id":2}}]"#);
        let mut buffer = Vec::new();
        let pieces = Pieces(body.as_bytes(), vec![10_000], 0);
        let mut records = Records::new(pieces, 1000, &mut buffer).with_known_end(true);
        assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{}")));
        let skipped = records.next_element().unwrap();
        assert!(
            matches!(skipped, Some(Element::Malformed(size)) if size >= 3 << 20),
            "{skipped:?}"
        );
        assert!(records.buffer.len() <= 2 * BUFFER);
        assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{\"Id\":2}")));
        assert_eq!(records.next_element().unwrap(), None);
    }
}

#[test]
fn skips_what_is_too_large_in_bounded_memory() {
    let mut body = b"[{\"a\":\"".to_vec();
    body.resize(3 << 20, b'x');
    body.extend_from_slice(b"\"},{\"b\":2},[1,2,3,4,5,6,7,8]]");
    let size = (3 << 20) - 1 + 2;
    let mut buffer = Vec::new();
    let mut records = Records::new(Pieces(&body, vec![10_000], 0), 12, &mut buffer);
    assert_eq!(records.next_element().unwrap(), Some(Element::TooLarge(size)));
    assert!(records.buffer.len() <= 2 * BUFFER);
    assert_eq!(records.next_element().unwrap(), Some(Element::Record(b"{\"b\":2}")));
    assert_eq!(records.next_element().unwrap(), Some(Element::TooLarge(17)));
    assert_eq!(records.next_element().unwrap(), None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        r#"[\[\]{},:"\\ a-zü\n]{0,8}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((r#"[\[\]{},:"\\a-z]{0,4}"#, inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_serde_json(
        values in prop::collection::vec(any_json(), 0..6),
        pretty in any::<bool>(),
        pieces in prop::collection::vec(1usize..40, 1..5),
    ) {
        let array = Value::from(values.clone());
        let body = if pretty { format!("{array:#}") } else { array.to_string() };
        let (elements, end) = split(body.as_bytes(), &pieces, 1 << 20);
        prop_assert!(end.is_ok());
        let parsed: Vec<Value> =
            elements.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        prop_assert_eq!(parsed, serde_json::from_str::<Vec<Value>>(&body).unwrap());
        // Every cut is noticed, and what was handed out before it is a beginning of the whole.
        for cut in 0..body.len() {
            let (before, end) = split(&body.as_bytes()[..cut], &pieces, 1 << 20);
            let is_cut = matches!(end, Err(SplitError::Cut));
            prop_assert!(is_cut);
            prop_assert_eq!(&before[..], &elements[..before.len()]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = split(&body, &[7], 50);
    }

    #[test]
    fn pieces_make_no_difference(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\\", "\0", " ", "x", "1", "\"Id\":", "\"a\":", ",{\"Id\":1}",
                "{\"Id\":\"x\"}", "\"L\":[{\"Id\":2},", "\"text\"",
            ]),
            0..40,
        ),
        known_end in any::<bool>(),
        limit in 1..60_usize,
        pieces in prop::collection::vec(1usize..20, 1..5),
    ) {
        let body = format!("[{}", tokens.concat()).into_bytes();
        let all = |pieces: &[usize]| {
            let (elements, end) = split_as(known_end, &body, pieces, limit);
            (elements, format!("{end:?}"))
        };
        prop_assert_eq!(all(&pieces), all(&[1 << 20]));
        prop_assert_eq!(all(&[1]), all(&[1 << 20]));
        // What a beginning of it is made of is a beginning of what the whole is made of.
        let (elements, _) = all(&[1]);
        for until in 0..body.len() {
            let breaks = Breaks(Pieces(&body[..until], pieces.clone(), 0));
            let mut buffer = Vec::new();
            let mut records = Records::new(breaks, limit, &mut buffer).with_known_end(known_end);
            let mut count = 0;
            while let Ok(Some(element)) = records.next_element() {
                let text = match element {
                    Element::Record(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    Element::TooLarge(size) => format!("too large: {size}"),
                    Element::Malformed(size) => format!("skipped: {size}"),
                    Element::Taken => String::new(),
                };
                prop_assert_eq!(Some(&text), elements.get(count));
                count += 1;
            }
        }
    }

    #[test]
    fn damage_costs_only_the_records_that_it_touches(
        sizes in prop::collection::vec((0..4_usize, 0..3_usize), 3..12),
        typical in any::<bool>(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..7_usize), 1..4),
        pieces in prop::collection::vec(1usize..40, 1..3),
    ) {
        let record = |(n, (texts, items)): (usize, &(usize, usize))| {
            let texts: String = (0..*texts).map(|k| format!(r#","T{k}":"{{\"a\":\"b,c\"}}""#)).collect();
            let items: Vec<_> = (0..*items).map(|k| format!(r#"{{"Id":"item","N":{k}}}"#)).collect();
            let kind = if typical { r#""RecordType":1,"# } else { "" };
            format!(r#"{{{kind}"Id":"{n}"{texts},"L":[{}],"O":{{"p":[1,true]}},"Z":"z"}}"#, items.join(","))
        };
        let records: Vec<_> = sizes.iter().enumerate().map(record).collect();
        // Each byte with the records that suffer from damage to it.
        let mut body = vec![(b'[', 0..1)];
        for (n, record) in records.iter().enumerate() {
            body.extend(record.bytes().map(|byte| (byte, n..n + 1)));
            body.push((if n + 1 < records.len() { b',' } else { b']' }, n..n + 2));
        }
        let mut touched = Vec::new();
        let count = if typical { damages.len() } else { 1 };
        // A bracket or a quote too many or too few may make a record of a part.
        let keeps_parts = typical && count == 1 && matches!(damages[0].1, 2 | 6);
        // Without a RecordType, parts of two broken records may look like one record.
        for (index, kind) in damages.into_iter().take(count) {
            let wanted: &[u8] = [b"{}", b"[]", b",:", b"\"\\", b"{}", b"[]", b",:"][kind];
            let places: Vec<_> = (1..body.len() - 1)
                .filter(|at| wanted.contains(&body[*at].0))
                .collect();
            if places.is_empty() {
                continue;
            }
            let at = places[index.index(places.len())];
            touched.extend(body[at].1.clone());
            match kind {
                0..=3 => { body.remove(at); }
                4 => body.insert(at, body[at].clone()),
                _ => body.insert(at, (0, body[at].1.clone())),
            }
        }
        let bytes: Vec<u8> = body.iter().map(|(byte, _)| *byte).collect();
        let (elements, end) = split_as(true, &bytes, &pieces, 1 << 20);
        prop_assert!(end.is_ok(), "{:?} {}", end, String::from_utf8_lossy(&bytes));
        prop_assert_eq!(&split_as(true, &bytes, &[1 << 20], 1 << 20).0, &elements);
        let parts = elements.iter().filter(|element| element.starts_with(r#"{"Id":"item""#)).count();
        prop_assert!(parts == 0 || !keeps_parts, "{}\n{:#?}", String::from_utf8_lossy(&bytes), elements);
        for (n, record) in records.iter().enumerate() {
            let count = elements.iter().filter(|element| *element == record).count();
            let right = if touched.contains(&n) { count <= 1 } else { count == 1 };
            prop_assert!(right, "{} of {}\n{}\n{:#?}", count, record, String::from_utf8_lossy(&bytes), elements);
        }
    }
}
