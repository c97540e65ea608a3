//! Records that are too large: fields, strings, lines.

use serde_json::{Map, Value, json};

use super::*;
use crate::event::shorten::MAX_PATH;

/// What is inside the envelope of a record's line, which must be one that Wazuh can take.
fn event_with(options: &Options, record: &str) -> Value {
    let line = line_with(options, record.as_bytes()).unwrap();
    let text = line.strip_suffix('\n').unwrap();
    assert!(text.len() <= MAX_LINE, "{} bytes", text.len());
    assert!(text.ends_with("\"Subscription\":\"Audit.Exchange\"}}"), "{}", &text[..100]);
    let event = json_of(text)["office365"].take();
    if options.normalize {
        // With `integration`.
        let fields = fields(&event) + 1;
        assert!(fields <= MAX_FIELDS, "{fields} fields");
        assert!(longest_string(&event) <= MAX_STRING);
    }
    event
}

fn event_of(record: &str) -> Value {
    event_with(&NORMALIZE, record)
}

/// Counts as Wazuh's decoder does.
fn fields(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.values().map(fields).sum(),
        Value::String(text) => usize::from(!text.is_empty()),
        _ => 1,
    }
}

fn longest_string(value: &Value) -> usize {
    match value {
        Value::Object(members) => {
            members.iter().map(|(k, v)| k.len().max(longest_string(v))).max().unwrap_or(0)
        }
        Value::Array(items) => items.iter().map(longest_string).max().unwrap_or(0),
        Value::String(text) => text.len(),
        _ => 0,
    }
}

/// Holds the mandatory members against those of [`record`].
fn assert_mandatory(event: &Value) {
    for (key, value) in json_of(&record("")).as_object().unwrap() {
        assert_eq!(&event[key], value, "{key}");
    }
}

/// Members of a record, as [`record`] takes them.
fn more(members: &Value) -> String {
    let text = members.to_string();
    format!(",{}", &text[1..text.len() - 1])
}

#[test]
fn the_longest_value_is_shortened_and_listed() {
    let long = "ü😀\\\"".repeat(20_000);
    let more = json!({"Small": "s", "Big": long, "Medium": "m".repeat(3000), "Last": ["1", "2"]});
    let more = more.to_string();
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &record(&format!(",{}", &more[1..more.len() - 1])));
        assert_mandatory(&event);
        assert_eq!(event["Truncated"], json!(["Big"]));
        assert_eq!((&event["Small"], &event["Last"]), (&json!("s"), &json!(["1", "2"])));
        assert_eq!(event["Medium"].as_str().unwrap().len(), 3000);
        let left = event["Big"].as_str().unwrap();
        assert!(long.starts_with(left));
        let expected = if options.normalize { 32_690 } else { 44_000 };
        assert!(left.len() > expected, "{}", left.len());
    }
}

#[test]
fn only_a_line_that_is_too_long_is_shortened_without_normalize() {
    let of_length = |n: usize| {
        let empty = line_with(&PLAIN, record(r#","x":"""#).as_bytes()).unwrap().len() - 1;
        record(&format!(",\"x\":\"{}\"", "x".repeat(n - empty)))
    };
    let longest = line_with(&PLAIN, of_length(MAX_LINE).as_bytes()).unwrap();
    assert_eq!(longest.len(), MAX_LINE + 1, "with its newline");
    assert!(!longest.contains("Truncated"));
    let event = event_with(&PLAIN, &of_length(MAX_LINE + 1));
    assert_eq!(event["Truncated"], json!(["x"]));
}

#[test]
fn no_string_is_longer_than_the_indexer_takes() {
    let (fits, long) = ("ü".repeat(16_350), "ü".repeat(16_351));
    // Spelt longer than it is.
    let spelt = "\\u00fc".repeat(6000);
    for more in [format!(r#","a":"{fits}""#), format!(r#","b":[{{"c":"{spelt}"}}]"#)] {
        assert_eq!(event_of(&record(&more)).get("Truncated"), None);
    }
    let at = |more: String| {
        let event = event_of(&record(&more));
        assert_mandatory(&event);
        assert_eq!(event_with(&PLAIN, &record(&more)).get("Truncated"), None);
        event["Truncated"].clone()
    };
    assert_eq!(at(format!(r#","a":"{long}""#)), json!(["a"]));
    assert_eq!(at(format!(r#","a":[1,{{"b":["{long}"]}}]"#)), json!(["a[1].b[0]"]));
    assert_eq!(at(format!(r#","a":{{"b\"c":"{long}"}}"#)), json!(["a.b\"c"]));
    assert_eq!(at(format!(r#","Parameters":["{long}"]"#)), json!(["Parameters[0].Name"]));
    let digits = event_of(&record(&format!(r#","a":{}"#, "7".repeat(33_000))));
    assert_eq!(digits["Truncated"], json!(["a"]));
    // A path is cut between characters, too.
    let name = "ü".repeat(128);
    let path = |before: &str| format!("{before}{}…", "ü".repeat((MAX_PATH - before.len()) / 2));
    assert_eq!(at(format!(r#","a":{{"{name}":["{long}"]}}"#)), json!([path("a.")]));
    let ascii = "x".repeat(MAX_STRING + 1);
    assert_eq!(at(format!(r#","a":"{ascii}""#)), json!(["a"]));
    assert_eq!(event_of(&record(&format!(r#","a":"{}""#, &ascii[1..]))).get("Truncated"), None);
    // What becomes a string because it is deep.
    let half = format!("\"{}\"", "x".repeat(20_000));
    let deep = format!("{}{half},{half}{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(at(format!(r#","a":{deep}"#)).as_array().unwrap().len(), 1);
}

#[test]
fn arrays_keep_their_first_elements_whole() {
    let items: Vec<_> =
        (0..5000).map(|n| json!({"Id": n.to_string(), "Path": "p".repeat(n % 90)})).collect();
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &record(&format!(",\"Items\":{}", json!(items))));
        assert_mandatory(&event);
        assert_eq!(event["Truncated"], json!(["Items"]));
        let left = event["Items"].as_array().unwrap();
        assert!(left.len() > 500 && items.starts_with(left), "{}", left.len());
    }
    // A large element among small ones is shortened itself.
    let items = json!([{"Name": "a", "Value": "1"}, {"Name": "b", "Value": "x".repeat(90_000)},
        {"Name": "c", "Value": "3"}]);
    let event = event_of(&record(&format!(",\"ExtendedProperties\":{items}")));
    assert_eq!(event["Truncated"], json!(["ExtendedProperties[1].Value"]));
    assert_eq!(event["ExtendedProperties"][1]["Value"].as_str().unwrap().len(), MAX_STRING);
    assert_eq!(event["ExtendedProperties"][2], items[2]);
}

#[test]
fn several_megabytes_in_nested_values_leave_something_of_each() {
    let rules: Vec<_> =
        (0..40).map(|n| json!({"Name": format!("rule {n}"), "Text": "t".repeat(50_000)})).collect();
    let more = json!({"A": {"B": {"Rules": rules}}, "Blob": "b".repeat(3_000_000), "C": "c"});
    let text = record(&format!(",{}", &more.to_string()[1..more.to_string().len() - 1]));
    let event = event_of(&text);
    assert_mandatory(&event);
    assert_eq!(event["C"], "c");
    assert!(event["Blob"].as_str().unwrap().len() > 20_000);
    let left = event["A"]["B"]["Rules"].as_array().unwrap();
    assert_eq!(left[0]["Name"], "rule 0");
    assert!(left[0]["Text"].as_str().unwrap().len() > 5_000);
    let listed = event["Truncated"].as_array().unwrap();
    for path in ["Blob", "A.B.Rules", "A.B.Rules[0].Text"] {
        assert!(listed.contains(&json!(path)), "{listed:?}");
    }
}

#[test]
fn a_hundred_thousand_small_fields_leave_the_mandatory_ones_and_the_first() {
    let many: Vec<_> = (0..100_000).map(|n| format!("\"f{n}\":{n}")).collect();
    // The mandatory ones last.
    let flat = format!("{{\"ClientIP\":\"192.0.2.7\",{},{}", many.join(","), &record("")[1..]);
    let flat = flat.replace(",\n        \"ClientIP\":\"192.0.2.7\"}", "}");
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &flat);
        assert_mandatory(&event);
        assert_eq!((&event["f0"], &event["f100"]), (&json!(0), &json!(100)));
        assert_eq!(event["Truncated"], json!(["Overflow"]));
    }
    let nested = record(&format!(",\"o\":{{{}}}", many.join(",")));
    let event = event_of(&nested);
    assert_mandatory(&event);
    assert_eq!((event.get("o"), &event["Truncated"]), (None, &json!(["Overflow"])));
    let event = event_with(&PLAIN, &nested);
    assert_mandatory(&event);
    assert_eq!((&event["o"]["f9"], &event["Truncated"]), (&json!(9), &json!(["o"])));
    // Not even these are fields.
    let empty: Vec<_> = (0..100_000).map(|n| format!("\"f{n}\":\"\"")).collect();
    let event = event_of(&record(&format!(",{}", empty.join(","))));
    assert_mandatory(&event);
    assert_eq!(event["f9"], "");
}

/// An object with this number of fields.
fn object(fields: usize) -> Value {
    Value::Object((0..fields).map(|n| (format!("k{n}"), json!(n))).collect())
}

#[test]
fn members_with_more_fields_than_wazuh_keeps_are_moved_without_loss() {
    // Together with the envelope as many as there may be, and one more.
    let with = |fields: usize| record(&more(&json!({"o": object(fields), "last": 1})));
    assert_eq!(event_of(&with(MAX_FIELDS - 13))["o"], object(MAX_FIELDS - 13));
    let event = event_of(&with(MAX_FIELDS - 12));
    assert_eq!((&event["last"], event.get("o")), (&json!(1), None));
    let moved = json_of(event["Overflow"].as_str().unwrap());
    assert_eq!(moved, json!({"o": object(MAX_FIELDS - 12)}));
    assert_eq!(event.get("Truncated"), None);
    assert_eq!(event_with(&PLAIN, &with(MAX_FIELDS - 12))["o"], object(MAX_FIELDS - 12));
    // What is left out is not a field of it, and nothing too long.
    let fits = with(MAX_FIELDS - 13);
    let brings = fits.replacen('{', &format!("{{\"Subscription\":\"{}\",", "x".repeat(70_000)), 1);
    assert_eq!(line(brings.as_bytes()), line(fits.as_bytes()));
    // The one with the most fields first, of equals the last; no more than needed.
    let moved = |members: Value| {
        let event = event_of(&record(&more(&members)));
        let overflow = event["Overflow"].as_str().map_or(json!({}), json_of);
        overflow.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let (a, b) = (object(100), object(101));
    assert_eq!(moved(json!({"a": a, "b": b, "c": a})), ["b"]);
    assert_eq!(moved(json!({"a": a, "b": a, "c": a})), ["c"]);
    assert_eq!(moved(json!({"a": a, "b": a, "c": a, "d": b})), ["c", "d"]);
    let flat = object(300);
    let event = event_of(&record(&more(&flat)));
    assert_mandatory(&event);
    assert_eq!(fields(&event) + 1, MAX_FIELDS);
    let overflow = json_of(event["Overflow"].as_str().unwrap());
    for (key, value) in flat.as_object().unwrap() {
        let n: usize = key[1..].parse().unwrap();
        let holder = if n < MAX_FIELDS - 13 { &event } else { &overflow };
        assert_eq!(&holder[key], value, "{key}");
    }
    // One that was moved for another reason counts as well.
    let event = event_of(&record(&format!(",\"actor\":1{}", numbered(MAX_FIELDS - 13, "1"))));
    assert_eq!(event["Overflow"], "{\"actor\":1}");
    let event = event_of(&record(&format!(",\"actor\":1{}", numbered(MAX_FIELDS - 12, "1"))));
    assert_eq!(event["Overflow"], "{\"actor\":1,\"k243\":1}");
}

#[test]
fn an_address_that_is_kept_is_counted_in() {
    let with_port = |text: String| text.replacen("192.0.2.7", "192.0.2.7:443", 1);
    let of_length = |n: usize| {
        // Two strings, so that neither is too long itself.
        let text = |n: usize| {
            let (a, b) = ("x".repeat(n / 2), "y".repeat(n - n / 2));
            with_port(record(&format!(r#","x":"{a}","y":"{b}""#)))
        };
        let empty = line(text(0).as_bytes()).unwrap().len() - 1;
        text(n - empty)
    };
    let fits = line(of_length(MAX_LINE).as_bytes()).unwrap();
    assert_eq!((fits.len(), fits.contains("Truncated")), (MAX_LINE + 1, false));
    let event = event_of(&of_length(MAX_LINE + 1));
    assert!(event["Truncated"].is_array());
    assert_eq!(event["ClientIPAddressPort"], "192.0.2.7:443");
    let object = |fields| with_port(record(&more(&json!({"o": object(fields)}))));
    // Ten fields, an address, the envelope's two.
    assert!(event_of(&object(MAX_FIELDS - 13))["o"].is_object());
    assert!(event_of(&object(MAX_FIELDS - 12))["Overflow"].is_string());
    let last = numbered(MAX_FIELDS, "1") + ",\"ClientIP\":\"192.0.2.7:443\"";
    let event = event_of(&format!("{{{}}}", &last[1..]));
    assert_eq!(event["ClientIP"], "192.0.2.7", "the last one stays with its port");
    assert_eq!(event["ClientIPAddressPort"], "192.0.2.7:443");
    // However it is spelt.
    let zeros = record("").replacen("192.0.2.7", &format!("192.0.2.7:{}80", "0".repeat(70_000)), 1);
    assert_eq!(event_of(&zeros)["Truncated"], json!(["ClientIP"]));
}

#[test]
fn everything_that_is_a_field_is_counted() {
    for value in ["true", "false", "1", "0.5", "[]", "[{\"a\":1}]", "\"x\"", "{\"a\":1}"] {
        let event = event_of(&record(&numbered(260, value)));
        assert!(event["Overflow"].is_string(), "{value}");
    }
    for value in ["null", "\"\"", "{}", "{\"a\":{\"b\":\"\"}}"] {
        let event = event_of(&record(&numbered(260, value)));
        assert_eq!(event.get("Overflow"), None, "{value}");
    }
}

#[test]
fn small_values_survive_beside_a_large_one_in_overflow() {
    let members = numbered(255, "1") + &format!(",\"Big\":\"{}\"", "x".repeat(60_000));
    let event = event_of(&record(&format!("{members},\"Severity\":\"High\",\"z\":1")));
    assert_mandatory(&event);
    let overflow = event["Overflow"].as_str().unwrap();
    assert!(overflow.starts_with("{\"k24") && overflow.len() == MAX_STRING);
    assert!(overflow.contains("\"z\":1,"));
    assert!(overflow.contains("\"Severity\":\"High\",\"Big\":\"xxx"));
    assert_eq!(event["Truncated"], json!(["Overflow"]));
    // What finds no room at all is listed as well.
    let many = format!(",\"{}\":1", "n".repeat(200)).repeat(3000);
    let event = event_of(&record(&many));
    assert_eq!(event["Truncated"], json!(["Overflow"]));
    // Long names leave no room for themselves.
    let long: String = (0..3).map(|n| format!(",\"{n}{}\":1", "k".repeat(31_000))).collect();
    let event = event_of(&record(&format!("{long},\"Severity\":\"High\"")));
    assert_mandatory(&event);
    assert_eq!(event["Severity"], "High");
}

#[test]
fn the_longest_is_shortened_wherever_it_stands() {
    let nested: Value =
        (0..120).map(|n| (format!("m{n}"), json!("s".repeat(271)))).collect::<Map<_, _>>().into();
    let members =
        json!({"A": nested, "B": ["x".repeat(240_000)], "C": {"D": {"E": "e".repeat(5000)}}});
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &record(&more(&members)));
        assert_eq!((&event["A"], &event["C"]), (&members["A"], &members["C"]));
        assert_eq!(event["Truncated"], json!(["B[0]"]));
    }
    // A mandatory one has a right to some room in any case.
    let many: Vec<_> = (0..60).map(|n| format!("\"k{n}\":\"{}\"", "x".repeat(3000))).collect();
    let id = "u".repeat(3000);
    let text = record(&format!(",{}", many.join(","))).replacen("\"u\"", &format!("\"{id}\""), 1);
    assert_eq!(event_of(&text)["UserId"], *id);
    // Doubles of it have none.
    let doubled = vec![r#""Id":"1""#; 100_000].join(",");
    assert_eq!(event_of(&record(&format!(",{doubled}")))["Id"], "1");
}

#[test]
fn large_elements_of_an_array_stay_whole_as_long_as_they_fit() {
    let item = "x".repeat(30_000);
    let event = event_of(&record(&more(&json!({"A": vec![&item; 10]}))));
    assert_eq!((&event["A"], &event["Truncated"]), (&json!([item, item]), &json!(["A"])));
    // To the byte: an array that fits stays.
    let array = |n: usize| {
        let text = |n| {
            record(&more(&json!({"A": ["a".repeat(20_000), "b".repeat(20_000), "c".repeat(n)]})))
        };
        let empty = line(text(0).as_bytes()).unwrap().len() - 1;
        text(n - empty)
    };
    assert_eq!(event_of(&array(MAX_LINE)).get("Truncated"), None);
    assert_ne!(event_of(&array(MAX_LINE + 1)).get("Truncated"), None);
    let string = "s".repeat(40_000);
    let whole = record(&more(&json!({"A": ["a".repeat(20_000)], "B": string})));
    assert_eq!(event_of(&whole)["Truncated"], json!(["B"]));
}

#[test]
fn what_does_not_fit_is_gathered_from_the_end() {
    let many: Vec<_> = (0..1500).map(|n| format!("\"k{n:04}\":\"{}\"", "x".repeat(150))).collect();
    let text = record(&format!(",{},\"Last\":1", many.join(",")));
    let event = event_with(&PLAIN, &text);
    assert_mandatory(&event);
    assert_eq!(event.get("Last"), None, "though it is small");
    assert!(event["Overflow"].as_str().unwrap().len() > 1500);
}

#[test]
fn names_that_we_need_are_free_without_normalize_too() {
    let long = "x".repeat(70_000);
    let event = event_with(&PLAIN, &record(&format!(r#","Truncated":2,"x":"{long}""#)));
    assert_eq!(event["Truncated"], json!(["x"]));
    assert_eq!(event["Overflow"], "{\"Truncated\":2}");
    let event = event_with(&PLAIN, &record(&format!(r#","Overflow":2,"x":"{long}""#)));
    assert_eq!((&event["Truncated"], &event["Overflow"]), (&json!(["x"]), &json!(2)));
    // Equal names stay equal.
    let text = format!(r#"{{"Id":"1","Id":"2","a":"{long}","a":3}}"#);
    let line = line_with(&PLAIN, text.as_bytes()).unwrap();
    assert!(line.len() <= MAX_LINE + 1);
    assert!(line.contains(r#""Id":"1","Id":"2","a":"xxx"#), "{}", &line[..100]);
    assert!(line.contains(r#"x","a":3,"Truncated":["a"],"#));
}

#[test]
fn what_is_left_of_a_string_is_judged_as_a_list() {
    let inner = "x".repeat(40_000);
    // Whole it would be a list; cut it is not.
    let cut = event_of(&record(&format!(r#","a":"[\"{inner}\"]""#)));
    assert!(cut["a"].as_str().unwrap().starts_with("[\"x"), "no blank");
    // What is left is a list, and has no room for a blank.
    let full = format!("[\\\"{}\\\"]", "x".repeat(MAX_STRING - 4));
    for more in ["", &inner] {
        let event = event_of(&record(&format!(r#","a":"{full}{more}""#)));
        let text = event["a"].as_str().unwrap();
        assert!(text.starts_with("[\"x") && text.ends_with("x\"") && text.len() < MAX_STRING);
        assert_eq!(event["Truncated"], json!(["a"]));
    }
}

#[test]
fn a_list_of_paths_leaves_room_for_what_it_is_about() {
    let many: Vec<_> =
        (0..2000).map(|n| format!("\"{}{n}\":\"{}\"", "k".repeat(60), "x".repeat(90))).collect();
    let event = event_with(&PLAIN, &record(&format!(",{}", many.join(","))));
    assert_mandatory(&event);
    let listed = event["Truncated"].as_array().unwrap();
    assert!(listed.len() > 150 && listed.last() == Some(&json!("…")), "{}", listed.len());
}
