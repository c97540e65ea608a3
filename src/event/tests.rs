//! Records before and after.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::shorten::LONGEST_PATH;
use super::*;

const NORMALIZE: Options = Options { normalize: true, exclude: Vec::new() };
const PLAIN: Options = Options { normalize: false, exclude: Vec::new() };

fn line_with(options: &Options, record: &[u8]) -> Result<String, Unusable> {
    let mut out = b"before".to_vec();
    let mut id = b"another".to_vec();
    let result = append_line(record, ContentType::Exchange, options, &mut id, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("before"));
    result.map(|fate| {
        assert_ne!(fate, Fate::Excluded, "nothing is to be left out");
        if !id.is_empty() {
            // As a resumed blob looks for it.
            let known: Value = serde_json::from_str(&text["before".len()..]).unwrap();
            assert_eq!(known["office365"]["Id"], serde_json::from_slice::<Value>(&id).unwrap());
        }
        let brings_one = record.windows(9).any(|window| window == b"Truncated");
        let lists = text.contains("\"Truncated\":[");
        assert!(lists == (fate == Fate::Shortened) || (lists && brings_one));
        text["before".len()..].to_owned()
    })
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn line(record: &[u8]) -> Result<String, Unusable> {
    line_with(&NORMALIZE, record)
}

/// What is inside the envelope of a record's line, which must be one that Wazuh can take.
fn event_with(options: &Options, record: &str) -> Value {
    let line = line_with(options, record.as_bytes()).unwrap();
    let text = line.strip_suffix('\n').unwrap();
    assert!(text.len() <= LONGEST_LINE, "{} bytes", text.len());
    assert!(text.ends_with("\"Subscription\":\"Audit.Exchange\"}}"), "{}", &text[..100]);
    let event = json_of(text)["office365"].take();
    if options.normalize {
        // With `integration`.
        let fields = fields(&event) + 1;
        assert!(fields <= MOST_FIELDS, "{fields} fields");
        assert!(longest_string(&event) <= LONGEST_STRING);
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

fn wrapped(members: &str) -> String {
    format!(
        "{{\"integration\":\"office365\",\"office365\":{{{members}\"Subscription\":\"Audit.Exchange\"}}}}\n"
    )
}

/// A record of all mandatory members, with `more` behind them.
fn record(more: &str) -> String {
    format!(
        r#"{{"Id":"1","RecordType":50,"CreationTime":"2026-11-23T03:24:51","Operation":"Send",
        "OrganizationId":"o","UserType":0,"UserKey":"k","Workload":"Exchange","UserId":"u",
        "ClientIP":"192.0.2.7"{more}}}"#
    )
}

/// Holds the mandatory members against those of [`record`].
fn assert_mandatory(event: &Value) {
    for (key, value) in json_of(&record("")).as_object().unwrap() {
        assert_eq!(&event[key], value, "{key}");
    }
}

#[test]
fn records_keep_their_spelling_but_for_white_space() {
    let table = [
        ("{}", ""),
        (" {\r\n} ", ""),
        (r#"{"Id":"1"}"#, r#""Id":"1","#),
        (
            "{\n  \"b\" : 1.10 ,\t\"a\": [ 1234567890.125, -0.0E+5 , [ ] , { } ]\n}",
            r#""b":1.10,"a":[1234567890.125,-0.0E+5,[],{}],"#,
        ),
        (r#"{"p":"C:\\ \/\u003c \" "}"#, r#""p":"C:\\ \/\u003c \" ","#),
        (
            r#"{"ü":"日本 😀","n":null,"t":true,"f":false}"#,
            r#""ü":"日本 😀","n":null,"t":true,"f":false,"#,
        ),
        (r#"{"a":{"Subscription":1},"a":2}"#, r#""a":{"Subscription":1},"a":2,"#),
        (r#"{"Subscription":"x","a":1}"#, r#""a":1,"#),
        (r#"{"a":1,"Subscription":{"x":[]}}"#, r#""a":1,"#),
        (r#"{"a":1 , "Subscription": [ 1 ] ,"b":2}"#, r#""a":1,"b":2,"#),
        (r#"{"Subscription":1,"Subscription":2}"#, ""),
        (r#"{"Su\u0062scription":1}"#, ""),
        ("{\"a\":\"x\ny\\tz\u{1}\"}", r#""a":"x\u000ay\tz\u0001","#),
    ];
    for (record, members) in table {
        assert_eq!(line(record.as_bytes()), Ok(wrapped(members)), "{record}");
        assert_eq!(line_with(&PLAIN, record.as_bytes()), Ok(wrapped(members)), "{record}");
    }
    assert_eq!(line(b"{\"a\":\"\xff\"}"), Ok(wrapped("\"a\":\"\u{fffd}\",")));
}

#[test]
fn values_are_repaired_where_wazuh_would_spoil_them() {
    // Before and after.
    let table = [
        (r#"{"a":2147483648}"#, r#""a":"2147483648","#),
        (r#"{"a":1500000000000}"#, r#""a":"1500000000000","#),
        (
            r#"{"a": [ -2147483649 ,{"b": 1.5e12}],"c":2147483647}"#,
            r#""a":["-2147483649",{"b":"1500000000000"}],"c":2147483647,"#,
        ),
        (r#"{"a":1e40,"b":1e2,"c":1.5}"#, r#""a":"1e40","b":1e2,"c":1.5,"#),
        (
            r#"{"ClientIP":"1.2.3.4:63070"}"#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4:63070","#,
        ),
        (
            r#"{"ClientIP" : "[2001:db8::1]:443" , "a":1}"#,
            r#""ClientIP":"2001:db8::1","a":1,"ClientIPAddressPort":"[2001:db8::1]:443","#,
        ),
        (
            r#"{"ClientIP":"::ffff:1.2.3.4"}"#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"::ffff:1.2.3.4","#,
        ),
        (
            r#"{"Client\u0049P":"1.2.3.4\u003a80"}"#,
            r#""Client\u0049P":"1.2.3.4","ClientIPAddressPort":"1.2.3.4\u003a80","#,
        ),
        (r#"{"ClientIP":"<null>"}"#, r#""ClientIP":"<null>","#),
        (r#"{"ClientIP":""}"#, r#""ClientIP":"","#),
        (r#"{"ClientIP":"mail.example:25"}"#, r#""ClientIP":"mail.example:25","#),
        (r#"{"ClientIP":null}"#, r#""ClientIP":null,"#),
        (r#"{"ClientIP":["1.2.3.4:5"]}"#, r#""ClientIP":["1.2.3.4:5"],"#),
        (r#"{"a":{"ClientIP":"1.2.3.4:5"}}"#, r#""a":{"ClientIP":"1.2.3.4:5"},"#),
        (
            r#"{"ClientIP":"1.2.3.4:5","ClientIP":"6.7.8.9:10"}"#,
            r#""ClientIP":"1.2.3.4","ClientIP":"6.7.8.9:10","ClientIPAddressPort":"1.2.3.4:5","#,
        ),
        (
            r#"{"ClientIP":"1.2.3.4","ClientIP":"6.7.8.9:10"}"#,
            r#""ClientIP":"1.2.3.4","ClientIP":"6.7.8.9:10","#,
        ),
        // Nothing of what it brings is lost.
        (
            r#"{"ClientIP":"1.2.3.4:5","ClientIPAddressPort":"x"}"#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4:5","Overflow":"{\"ClientIPAddressPort\":\"x\"}","#,
        ),
        (
            r#"{"ModifiedProperties":[ "a" ,"b\"" ],"Parameters":[],"ExtendedProperties":["\n"]}"#,
            r#""ModifiedProperties":[{"Name":"a"},{"Name":"b\""}],"Parameters":[],"ExtendedProperties":[{"Name":"\n"}],"#,
        ),
        (
            r#"{"Parameters":[{"Name":"a","Value":"b"},{"Name":"c"},"d",["e"],null,1,2e9,3e9,{"f":["g"]}]}"#,
            r#""Parameters":[{"Name":"a","Value":"b"},{"Name":"c"},{"Name":"d"},["e"],null,1,2e9,{"Name":"3000000000"},{"f":["g"]}],"#,
        ),
        (
            r#"{"Parameters":"a","OperationProperties":["a"],"x":{"Parameters":["a"]}}"#,
            r#""Parameters":"a","OperationProperties":["a"],"x":{"Parameters":["a"]},"#,
        ),
    ];
    for (record, members) in table {
        assert_eq!(line(record.as_bytes()), Ok(wrapped(members)), "{record}");
        let same: String = record.split_ascii_whitespace().collect();
        let same = same.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap();
        let untouched = Ok(wrapped(&format!("{same},")));
        assert_eq!(line_with(&PLAIN, record.as_bytes()), untouched, "{record}");
    }
}

#[test]
fn half_a_surrogate_pair_is_no_character() {
    let table = [
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ud83d", r"\ufffd"),
        (r"\ude00", r"\ufffd"),
        (r"\ude00\ud83d", r"\ufffd\ufffd"),
        (r"\uD83Dx\uDE00", r"\ufffdx\ufffd"),
        (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
        (r"\ud83d\n", r"\ufffd\n"),
    ];
    for (before, after) in table {
        let wrap = |text: &str| format!(r#""{text}":["{text}"],"#);
        let record = format!("{{{}}}", wrap(before).trim_end_matches(','));
        for options in [&NORMALIZE, &PLAIN] {
            assert_eq!(line_with(options, record.as_bytes()), Ok(wrapped(&wrap(after))));
        }
    }
}

#[test]
fn what_is_too_deep_becomes_a_string() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for options in [&NORMALIZE, &PLAIN] {
        let lined = |n| line_with(options, format!("{{\"a\":{}}}", nested(n)).as_bytes());
        assert_eq!(lined(99), Ok(wrapped(&format!("\"a\":{},", nested(99)))));
        for more in [1, 2, 9901] {
            let inner = format!("{}\"{}\"{}", "[".repeat(99), nested(more), "]".repeat(99));
            assert_eq!(lined(99 + more), Ok(wrapped(&format!("\"a\":{inner},"))));
        }
    }
    // Beside it nothing changes, and its fields are counted as one.
    let deep = format!("{}{{\"x\":1,\"y\":2}}{}", "{\"o\":".repeat(99), "}".repeat(99));
    let text = record(&format!(",\"a\":[1,[2]],\"b\":{deep},\"c\":{{\"d\":1}}"));
    let event = event_of(&text);
    assert_eq!((&event["a"], &event["c"]), (&json!([1, [2]]), &json!({"d": 1})));
    assert_eq!(fields(&event), 10 + 1 + 1 + 1 + 1);
    // Nothing on the way needs a stack that grows with it.
    let hostile = format!("{{\"a\":{}}}", nested(1_000_000));
    for options in [&NORMALIZE, &PLAIN] {
        assert_eq!(event_with(options, &hostile)["Truncated"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn the_longest_value_is_shortened_and_listed() {
    let long = "ü😀\\\"".repeat(20_000);
    let more = json!({"Small": "s", "Big": long, "Medium": "m".repeat(3000), "Last": [1, 2]});
    let more = more.to_string();
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &record(&format!(",{}", &more[1..more.len() - 1])));
        assert_mandatory(&event);
        assert_eq!(event["Truncated"], json!(["Big"]));
        assert_eq!((&event["Small"], &event["Last"]), (&json!("s"), &json!([1, 2])));
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
    let longest = line_with(&PLAIN, of_length(LONGEST_LINE).as_bytes()).unwrap();
    assert_eq!(longest.len(), LONGEST_LINE + 1, "with its newline");
    assert!(!longest.contains("Truncated"));
    let event = event_with(&PLAIN, &of_length(LONGEST_LINE + 1));
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
    // Keys are strings as well; a path is cut between characters, too.
    let path = |before: &str| format!("{before}{}…", "ü".repeat((LONGEST_PATH - before.len()) / 2));
    assert_eq!(at(format!(r#","{long}":2"#)), json!([path("")]));
    assert_eq!(at(format!(r#","a":{{"b":1,"{long}":2}}"#)), json!([path("a.")]));
    assert_eq!(at(format!(r#","a":[{{"{long}":2}}]"#)), json!([path("a[0].")]));
    let ascii = "x".repeat(LONGEST_STRING + 1);
    assert_eq!(at(format!(r#","a":"{ascii}""#)), json!(["a"]));
    assert_eq!(event_of(&record(&format!(r#","a":"{}""#, &ascii[1..]))).get("Truncated"), None);
    // What becomes a string because it is deep.
    let half = format!("\"{}\"", "x".repeat(20_000));
    let deep = format!("{}{half},{half}{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(at(format!(r#","a":{deep}"#)).as_array().unwrap().len(), 1);
}

#[test]
fn arrays_keep_their_first_elements_whole() {
    let items: Vec<_> = (0..5000).map(|n| json!({"Id": n, "Path": "p".repeat(n % 90)})).collect();
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
    assert_eq!(event["ExtendedProperties"][1]["Value"].as_str().unwrap().len(), LONGEST_STRING);
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
    let flat = record("");
    let flat = format!("{{{},{}", many.join(","), &flat[1..]);
    for options in [&NORMALIZE, &PLAIN] {
        let event = event_with(options, &flat);
        assert_mandatory(&event);
        assert_eq!((&event["f0"], &event["f100"]), (&json!(0), &json!(100)));
        assert_eq!(event["Truncated"], json!(["Overflow"]));
        let kept = event.as_object().unwrap().keys().filter(|k| k.starts_with('f')).count();
        let first = format!("{{\"f{kept}\":{kept},");
        assert!(event["Overflow"].as_str().unwrap().starts_with(&first));
    }
    let nested = record(&format!(",\"o\":{{{}}}", many.join(",")));
    let event = event_of(&nested);
    assert_mandatory(&event);
    assert!(event["o"].as_str().unwrap().starts_with("{\"f0\":0,"));
    let event = event_with(&PLAIN, &nested);
    assert_mandatory(&event);
    assert_eq!((&event["o"]["f9"], &event["Truncated"]), (&json!(9), &json!(["o"])));
    // Not even these are fields.
    let empty: Vec<_> = (0..100_000).map(|n| format!("\"f{n}\":\"\"")).collect();
    let event = event_of(&record(&format!(",{}", empty.join(","))));
    assert_mandatory(&event);
    assert_eq!(event["f9"], "");
}

#[test]
fn more_fields_than_wazuh_keeps_become_strings_without_loss() {
    let object = |n: usize| Value::Object((0..n).map(|i| (format!("k{i}"), json!(i))).collect());
    // Together with the envelope as many as there may be, and one more.
    let fits = record(&format!(",\"o\":{}", object(MOST_FIELDS - 2 - 10)));
    assert_eq!(event_of(&fits)["o"], object(MOST_FIELDS - 2 - 10));
    let more = record(&format!(",\"o\":{}", object(MOST_FIELDS - 2 - 9)));
    let event_of_more = event_of(&more);
    assert_eq!(json_of(event_of_more["o"].as_str().unwrap()), object(MOST_FIELDS - 2 - 9));
    assert_eq!(event_of_more.get("Truncated"), None);
    assert_eq!(event_with(&PLAIN, &more)["o"], object(MOST_FIELDS - 2 - 9));
    // What is left out is no field of it, and nothing too long.
    let brings = fits.replacen('{', &format!("{{\"Subscription\":\"{}\",", "x".repeat(70_000)), 1);
    assert_eq!(line(brings.as_bytes()), line(fits.as_bytes()));
    // Where that does not help, the last ones are gathered.
    let flat = object(300).to_string();
    let event = event_of(&record(&format!(",{}", &flat[1..flat.len() - 1])));
    assert_mandatory(&event);
    assert_eq!(fields(&event) + 1, MOST_FIELDS);
    let overflow = json_of(event["Overflow"].as_str().unwrap());
    let all = [event.as_object().unwrap(), overflow.as_object().unwrap()];
    for n in 0..300 {
        let key = format!("k{n}");
        assert!(all.iter().any(|members| members.get(&key) == Some(&json!(n))), "{key}");
    }
    assert_eq!(event.get("Truncated"), None);
}

#[test]
fn the_limits_are_those_of_the_contract() {
    assert_eq!(
        (LONGEST_LINE, LONGEST_STRING, MOST_FIELDS, MOST_LEVELS),
        (64_512, 32_700, 256, 100)
    );
}

/// Members of a record, as [`record`] takes them.
fn more(members: &Value) -> String {
    let text = members.to_string();
    format!(",{}", &text[1..text.len() - 1])
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
    let fits = line(of_length(LONGEST_LINE).as_bytes()).unwrap();
    assert_eq!((fits.len(), fits.contains("Truncated")), (LONGEST_LINE + 1, false));
    let event = event_of(&of_length(LONGEST_LINE + 1));
    assert!(event["Truncated"].is_array());
    assert_eq!(event["ClientIPAddressPort"], "192.0.2.7:443");
    let object = |n: usize| {
        let object: Value =
            (0..n).map(|i| (format!("k{i}"), json!(i))).collect::<Map<_, _>>().into();
        with_port(record(&more(&json!({"o": object}))))
    };
    // Ten fields, an address, the envelope's two.
    assert!(event_of(&object(MOST_FIELDS - 13))["o"].is_object());
    assert!(event_of(&object(MOST_FIELDS - 12))["o"].is_string());
    // However it is spelt.
    let zeros = record("").replacen("192.0.2.7", &format!("192.0.2.7:{}80", "0".repeat(70_000)), 1);
    assert_eq!(event_of(&zeros)["Truncated"], json!(["ClientIP"]));
}

#[test]
fn everything_that_is_a_field_is_counted() {
    for value in ["true", "false", "null", "1", "0.5", "[]", "[{\"a\":1}]", "\"x\""] {
        let many: Vec<_> = (0..260).map(|n| format!("\"k{n}\":{value}")).collect();
        let event = event_of(&record(&format!(",{}", many.join(","))));
        assert!(event["Overflow"].is_string(), "{value}");
    }
    // One field, in an array or not, that becomes a string because it is deep.
    let object = |n: usize| {
        let members: Vec<_> = (0..n).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", members.join(","))
    };
    let deep = format!("{}{}{}", "{\"o\":".repeat(99), object(20), "}".repeat(99));
    for deep in [deep.clone(), format!("[{deep},{deep}]")] {
        let text = |n: usize| record(&format!(",\"a\":{deep},\"b\":{}", object(n)));
        assert!(event_of(&text(MOST_FIELDS - 13))["b"].is_object());
        assert!(event_of(&text(MOST_FIELDS - 12))["b"].is_string());
    }
}

#[test]
fn small_values_survive_beside_a_large_one_in_a_string() {
    let mut members: Vec<_> = (0..255).map(|n| format!("\"f{n}\":{n}")).collect();
    members.push(format!("\"Big\":\"{}\"", "x".repeat(60_000)));
    members.push("\"Severity\":\"High\"".to_owned());
    members.extend((255..262).map(|n| format!("\"f{n}\":{n}")));
    let event = event_of(&record(&format!(",{}", members.join(","))));
    assert_mandatory(&event);
    let overflow = json_of(event["Overflow"].as_str().unwrap());
    assert_eq!((&overflow["Severity"], &overflow["f261"]), (&json!("High"), &json!(261)));
    let big = overflow["Big"].as_str().unwrap();
    assert!(big.len() > 30_000, "{}", big.len());
    assert_eq!(event["Truncated"], json!(["Overflow.Big"]));

    let mut details = json!({"Big": "x".repeat(33_000), "Verdict": "Malware"});
    for n in 0..300 {
        details[format!("f{n}")] = n.into();
    }
    let event = event_of(&record(&more(&json!({"Details": details}))));
    let text = json_of(event["Details"].as_str().unwrap());
    assert_eq!((&text["Verdict"], &text["f299"]), (&json!("Malware"), &json!(299)));
    assert!(text["Big"].as_str().unwrap().len() > 28_000);
    assert_eq!(event["Truncated"], json!(["Details.Big"]));

    // Behind keys that leave no room for themselves.
    let mut members: Vec<_> = (0..3).map(|n| format!("\"{n}{}\":1", "k".repeat(31_000))).collect();
    members.push("\"Severity\":\"High\"".to_owned());
    let event = event_of(&record(&format!(",{}", members.join(","))));
    assert_mandatory(&event);
    let overflow = event["Overflow"].as_str().unwrap();
    assert!(event["Severity"] == "High" || json_of(overflow)["Severity"] == "High");
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
    assert_eq!(event_of(&array(LONGEST_LINE)).get("Truncated"), None);
    assert_ne!(event_of(&array(LONGEST_LINE + 1)).get("Truncated"), None);
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
fn names_that_we_need_are_free() {
    let many: Vec<_> = (0..300).map(|n| format!("\"f{n}\":{n}")).collect();
    let text = record(&format!(r#","Overflow":1,"Truncated":2,{}"#, many.join(",")));
    let event = event_of(&text);
    assert_eq!(event["Truncated"], 2, "nothing is shortened");
    let overflow = json_of(event["Overflow"].as_str().unwrap());
    assert_eq!((&overflow["Overflow"], &overflow["f299"]), (&json!(1), &json!(299)));
    let long = "x".repeat(40_000);
    let event = event_of(&record(&format!(r#","Truncated":2,"x":"{long}""#)));
    assert_eq!(event["Truncated"], json!(["x"]));
    assert_eq!(event["Overflow"], "{\"Truncated\":2}");
    for name in ["Truncated", "Overflow"] {
        let text = record(&format!(r#","{name}":{{"a":"{long}"}},"Truncated":1"#));
        let event = event_of(&text);
        assert_eq!(event["Truncated"], json!([format!("Overflow.{name}.a")]), "{name}");
    }
}

#[test]
fn doubled_keys_stay_doubled() {
    let long = "x".repeat(70_000);
    let line = line(format!(r#"{{"Id":"1","Id":"2","a":"{long}","a":3}}"#).as_bytes()).unwrap();
    assert!(line.len() <= LONGEST_LINE + 1);
    assert!(line.contains(r#""Id":"1","Id":"2","a":"xxx"#), "{}", &line[..100]);
    assert!(line.contains(r#"x","a":3,"Truncated":["a"],"#));
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

#[test]
fn filters_leave_out_what_matches_all_of_their_values() {
    let text = |text: &str| Some(text.to_owned());
    let filter = Exclude {
        record_type: text("50"),
        operation: text("Send"),
        workload: text("Exchange"),
        user_id: text("Jörg@Contoso.Example"),
    };
    let members = |members: &[&str]| format!("{{{}}}", members.join(","));
    let [t, o, w, u] = [
        r#""RecordType":50"#,
        r#""Operation":"Send""#,
        r#""Workload":"Exchange""#,
        r#""UserId":"J\u00d6RG@contoso.example""#,
    ];
    // One of the filters, a record, and whether it is left out.
    let all = filter.clone();
    let by_operation = Exclude { operation: filter.operation.clone(), ..Exclude::default() };
    let by_type = Exclude { record_type: filter.record_type, ..Exclude::default() };
    let table = [
        (&all, members(&[t, o, w, u]), true),
        (&all, members(&[r#""x":[{"Operation":1}]"#, u, w, " \"Operation\" : \"Send\" ", t]), true),
        (&all, members(&[t, o, w]), false),
        (&all, members(&[t, o, w, r#""UserId":"jorg@contoso.example""#]), false),
        (&all, members(&[r#""RecordType":51"#, o, w, u]), false),
        (&by_operation, members(&[o]), true),
        (&by_operation, members(&[r#""Operation":"send""#]), false),
        (&by_operation, members(&[r#""Operation":"Send ""#]), false),
        (&by_operation, members(&[r#""Operation":["Send"]"#]), false),
        (&by_operation, members(&[r#""x":{"Operation":"Send"}"#]), false),
        (&by_operation, members(&[o, r#""Operation":"Other""#]), false),
        (&by_operation, members(&[r#""Operation":"Other""#, o]), false),
        (&by_type, members(&[t]), true),
        (&by_type, members(&[r#""RecordType":"50""#]), true),
        (&by_type, members(&[r#""RecordType":500"#]), false),
        (&by_type, members(&[r#""RecordType":null"#]), false),
    ];
    let other = Exclude { workload: text("Other"), ..Exclude::default() };
    for (filter, record, expected) in table {
        for normalize in [true, false] {
            let options = Options { normalize, exclude: vec![other.clone(), filter.clone()] };
            let mut out = b"before".to_vec();
            let (record, id) = (record.as_bytes(), &mut Vec::new());
            let fate = append_line(record, ContentType::Dlp, &options, id, &mut out).unwrap();
            let record = String::from_utf8_lossy(record);
            assert_eq!(fate == Fate::Excluded, expected, "{filter:?} {record}");
            assert_eq!(out == b"before", expected);
        }
    }
}

#[test]
fn the_id_is_found_for_going_on_in_the_middle() {
    let mut out = Vec::new();
    let mut id = |record: &[u8]| {
        let mut id = b"another".to_vec();
        append_line(record, ContentType::Dlp, &NORMALIZE, &mut id, &mut out).unwrap();
        id
    };
    assert_eq!(id(br#"{"x":{"Id":"no"}, "Id" : "yes"}"#), b"\"yes\"");
    assert_eq!(id(b"{}"), b"");
    let long = format!(r#"{{"a":"{}","Id":"yes"}}"#, "a".repeat(70_000));
    assert_eq!(id(long.as_bytes()), b"\"yes\"");
}

#[test]
fn what_is_no_object_or_no_json_is_refused_and_leaves_nothing_behind() {
    for text in ["1", "[]", "\"{}\"", "null", ""] {
        assert_eq!(line(text.as_bytes()), Err(Unusable::NoObject), "{text}");
    }
    for text in [
        "{",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":tru}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{\"a\":+1}",
        "{\"a\":NaN}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":[1}}",
        "{\"a\":[1,]}",
        "{\"a\":{\"b\":1]}",
        "{}{}",
        "{\"a\":1 2}",
        "{\"a\":\"b}",
    ] {
        assert!(line(text.as_bytes()) == Err(Unusable::Malformed), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_serde_json_reads_comes_out_the_same(
        members in prop::collection::btree_map("[a-zA-Z\"\\\\ü]{1,5}", "\\PC{0,10}", 0..8),
        pretty in any::<bool>(),
    ) {
        let record = serde_json::to_value(&members).unwrap();
        let text = if pretty { format!("{record:#}") } else { record.to_string() };
        let line = json_of(&line(text.as_bytes()).unwrap());
        let mut expected = record;
        expected["Subscription"] = "Audit.Exchange".into();
        prop_assert_eq!(&line["office365"], &expected);
    }

    #[test]
    fn a_line_is_json_and_accepted_just_when_serde_json_accepts_the_record(
        text in r#"\{("[a-c\\u0-9" ]{0,6}":[-0-9eE.tnulra\[\]{}",\\ ]{0,9},?){0,3}\}"#,
    ) {
        let object = serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object());
        // serde_json refuses numbers beyond f64, lone surrogates and double keys differently; only
        // what it accepts must be accepted, and only JSON may come out.
        match line(text.as_bytes()) {
            Ok(line) => {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok());
            }
            Err(_) => prop_assert!(!object, "{}", text),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(record in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut out = Vec::new();
        let id = &mut Vec::new();
        if append_line(&record, ContentType::Dlp, &NORMALIZE, id, &mut out).is_ok() {
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert!(std::str::from_utf8(&out).is_ok());
        }
    }

    #[test]
    fn whatever_the_record_its_line_is_one_that_wazuh_takes(
        record in any_record(), normalize in any::<bool>(),
    ) {
        let options = if normalize { NORMALIZE } else { PLAIN };
        let text = record.to_string();
        let event = event_with(&options, &text);
        let mut expected = record;
        expected.as_object_mut().unwrap().remove("Subscription");
        Comparison::of(&event, normalize).members(&expected, &event);
        // A line's record needs no repair.
        let line = line_with(&options, text.as_bytes()).unwrap();
        let again = line_with(&options, event_text(&line).as_bytes()).unwrap();
        prop_assert_eq!(line, again);
    }
}

/// What is inside the envelope of a line, as spelt.
fn event_text(line: &str) -> &str {
    &line[HEAD.len() - 1..line.len() - "}\n".len()]
}

/// Records with all that calls for a repair: values, sizes, numbers of fields.
fn any_record() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => "[a-d\"ü.]{0,3}",
        1 => prop::sample::select(vec![
            "Id", "RecordType", "ClientIP", "ClientIPAddressPort", "Parameters", "Overflow",
            "Truncated", "Subscription", "UserId",
        ]).prop_map(str::to_owned),
    ];
    let length = prop_oneof![30 => 0..4_usize, 3 => 0..300_usize, 1 => 10_000..40_000_usize];
    let text = ("[a-c\"\\\\ü日😀\n\u{1}]{0,6}", length).prop_map(|(text, n)| text.repeat(n));
    let address = "(\\[?(::ffff:)?1\\.2\\.3\\.4\\]?|\\[?2001:db8::1\\]?)(:80)?";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        prop::sample::select(vec![0.5, -1e300, 1.5e12, 2e9, 2.5e9]).prop_map(Value::from),
        address.prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    let keys = key.clone();
    let value = leaf.prop_recursive(5, 60, 6, move |inner| {
        let many = prop_oneof![9 => Just(1_usize), 1 => 2..40_usize];
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), many.clone()).prop_map(|(items, n)| {
                let length = items.len() * n;
                items.into_iter().cycle().take(length).collect()
            }),
            (prop::collection::vec((keys.clone(), inner), 0..5), many).prop_map(|(members, n)| {
                let members = (0..n).flat_map(|i| {
                    let suffix = if i == 0 { String::new() } else { i.to_string() };
                    members.iter().map(move |(k, v)| (format!("{k}{suffix}"), v.clone()))
                });
                Value::Object(members.take(600).collect())
            }),
        ]
    });
    (prop::collection::vec((key, value), 0..8), prop_oneof![3 => Just(0_usize), 1 => 0..300_usize])
        .prop_map(|(members, more)| {
            let more = (0..more).map(|n| (format!("f{n}"), json!(n)));
            Value::Object(members.into_iter().chain(more).collect())
        })
}

/// Compares records before and after, and accepts no difference but the repairs.
struct Comparison {
    truncated: Vec<String>,
    normalize: bool,
    /// The paths at which something is missing.
    seen: RefCell<BTreeSet<String>>,
}

impl Comparison {
    fn of(event: &Value, normalize: bool) -> Self {
        let listed = event["Truncated"].as_array().cloned().unwrap_or_default();
        let truncated = listed.iter().filter_map(|p| p.as_str().map(str::to_owned)).collect();
        Self { truncated, normalize, seen: RefCell::default() }
    }

    fn is_truncated(&self, path: &str) -> bool {
        self.truncated.iter().any(|p| p == path || (p == "…" && !path.contains(['.', '['])))
            // Where the list grew too long, it holds the members only.
            || self.truncated.iter().any(|p| path.split(['.', '[']).next() == Some(p))
    }

    /// The record's own members.
    fn members(&self, before: &Value, after: &Value) {
        let (Value::Object(before), Value::Object(after)) = (before, after) else { panic!() };
        let overflow = after.get("Overflow").and_then(Value::as_str).unwrap_or_default();
        let gathered: Map<_, _> = serde_json::from_str(overflow).unwrap_or_default();
        for (key, value) in before {
            let moved = self.is_truncated("Overflow") || gathered.contains_key(key);
            let ours = ["Overflow", "Truncated", "ClientIPAddressPort"].contains(&key.as_str());
            match after.get(key) {
                Some(left) if !(ours && moved) => self.value(value, left, key, true),
                _ => assert!(moved, "{key} is lost"),
            }
        }
        // What is in a string is not looked into that closely.
        let folded = after
            .iter()
            .any(|(key, value)| value.is_string() && before.get(key).is_some_and(Value::is_object));
        let ours = !before.contains_key("Truncated") && !before.contains_key("Overflow");
        if ours
            && overflow.is_empty()
            && !folded
            && !self.truncated.iter().any(|path| path.contains('…'))
        {
            let seen = self.seen.borrow();
            for path in &self.truncated {
                let inside = |seen: &String| seen == path || seen.starts_with(path.as_str());
                assert!(seen.iter().any(inside), "{path} is whole");
            }
        }
        for key in after.keys().filter(|key| !before.contains_key(*key)) {
            let added = ["Overflow", "Truncated", "ClientIPAddressPort", "Subscription"];
            assert!(added.contains(&key.as_str()), "{key} is new");
        }
    }

    fn value(&self, before: &Value, after: &Value, path: &str, top: bool) {
        if before == after {
            return;
        }
        let cut = self.is_truncated(path);
        self.seen.borrow_mut().insert(path.to_owned());
        match (before, after) {
            (Value::String(text), Value::String(left)) => {
                let repaired = top && path == "ClientIP" && text.contains(left.as_str());
                assert!(repaired || (cut && text.starts_with(left.as_str())), "{path}");
            }
            (Value::Number(number), Value::String(digits)) => {
                assert!(self.normalize, "{path}");
                let written = number.as_i64().map_or_else(
                    || format!("{:.0}", number.as_f64().unwrap()),
                    |number| number.to_string(),
                );
                let is_long = written.parse::<i32>().is_err();
                assert!(is_long && (*digits == written || digits.contains('e')), "{path}");
            }
            (Value::Array(items), Value::Array(left)) => {
                assert!(left.len() == items.len() || (cut && left.len() < items.len()), "{path}");
                for (n, (item, left)) in items.iter().zip(left).enumerate() {
                    let at = format!("{path}[{n}]");
                    let object = item.is_string() || (item.is_number() && left.is_object());
                    if top && path == "Parameters" && object && self.normalize {
                        self.value(item, &left["Name"], &format!("{at}.Name"), false);
                    } else {
                        self.value(item, left, &at, false);
                    }
                }
            }
            (Value::Object(members), Value::Object(left)) => {
                assert!(
                    left.len() == members.len() || (cut && left.len() < members.len()),
                    "{path}"
                );
                for (key, left) in left {
                    self.value(&members[key], left, &format!("{path}.{key}"), false);
                }
            }
            (Value::Object(_), Value::String(text)) => {
                // A string of it, with its own repairs.
                let whole = serde_json::from_str::<Value>(text).ok();
                assert!(self.normalize && (cut || whole.is_some()), "{path}");
                if let Some(whole) = whole {
                    self.value(before, &whole, path, false);
                }
            }
            _ => panic!("{path} has become something else: {before} {after}"),
        }
    }
}
