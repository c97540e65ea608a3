//! Good lines and bad lines, written by hand.

use super::*;

/// Judges the members of a line against the members of a record.
fn verdict(sent: &str, written: &str, expected: Expected<'_>) -> Result<(), String> {
    let comma = if written.is_empty() { "" } else { "," };
    let line = format!(
        r#"{{"integration":"office365","office365":{{{written}{comma}"Subscription":"Audit.General"}}}}"#
    );
    judge(format!("{{{sent}}}").as_bytes(), line.as_bytes(), expected)
}

fn is_good(sent: &str, written: &str) -> bool {
    verdict(sent, written, Expected::of("Audit.General")).is_ok()
}

#[track_caller]
fn good(sent: &str, written: &str) {
    let verdict = verdict(sent, written, Expected::of("Audit.General"));
    assert_eq!(verdict, Ok(()), "{sent}\n{written}");
}

#[track_caller]
fn bad(sent: &str, written: &str) {
    assert!(!is_good(sent, written), "{sent}\n{written}");
}

/// `Overflow` with this JSON in it.
fn overflow(json: &str) -> String {
    format!("\"Overflow\":{}", Json::String(json.into()).to_compact())
}

#[test]
fn accepts_an_untouched_record() {
    let record = r#""Id":"1","RecordType":8,"Operation":"a\/bé","Actor":[{"ID":"x","Type":"0"}],"a":{"b":{},"c":[],"d":""},"t":true"#;
    good(record, record);
    good("", "");
    good(r#" "Id" : "1" "#, r#""Id":"1""#);
}

#[test]
fn rejects_another_envelope() {
    let judged = |line: &str| judge(b"{\"Id\":\"1\"}", line.as_bytes(), Expected::of("S"));
    let line = r#"{"integration":"office365","office365":{"Id":"1","Subscription":"S"}}"#;
    assert_eq!(judged(line), Ok(()));
    for (from, to) in [
        ("\"S\"", "\"T\""),
        ("\"Id\":\"1\",\"Subscription\":\"S\"", "\"Subscription\":\"S\",\"Id\":\"1\""),
        ("{\"integration\"", "{ \"integration\""),
        ("\"Id\":\"1\"", "\"Id\": \"1\""),
        ("}}", "}}\n"),
        ("}}", "}"),
        ("\"office365\",", "\"office365\",\"x\":1,"),
        ("\"1\",", "\"1\",\"actor\":\"wazuh\","),
    ] {
        let changed = line.replacen(from, to, 1);
        assert!(judged(&changed).is_err(), "{changed}");
    }
}

#[test]
fn finds_lost_and_changed_values() {
    let sent = r#""Id":"1","n":5,"o":{"p":{"q":"x"}},"l":[{"a":"1"},{"a":"2"}],"s":["x","y"],"e":"","f":{},"g":[]"#;
    good(sent, sent);
    for (from, to) in [
        ("\"Id\":\"1\",", ""),
        (",\"n\":5", ""),
        ("5", "6"),
        ("5", "\"5\""),
        ("{\"q\":\"x\"}", "{}"),
        ("\"q\":\"x\"", "\"q\":\"X\""),
        ("\"q\"", "\"Q\""),
        ("\"o\":{\"p\":{\"q\":\"x\"}}", "\"o\":{\"q\":\"x\"}"),
        ("\"o\":{\"p\":{\"q\":\"x\"}}", "\"o\":{\"p\":{\"q\":\"x\",\"r\":\"y\"}}"),
        (",{\"a\":\"2\"}", ""),
        ("{\"a\":\"1\"},{\"a\":\"2\"}", "{\"a\":\"2\"},{\"a\":\"1\"}"),
        ("\"x\",\"y\"", "\"x\""),
        ("\"x\",\"y\"", "\"x\",\"y\",\"z\""),
        ("\"x\",\"y\"", "\"y\",\"x\""),
        (",\"e\":\"\"", ""),
        (",\"f\":{}", ""),
        (",\"g\":[]", ""),
        ("\"g\":[]", "\"g\":[],\"h\":1"),
        ("\"g\":[]", "\"g\":[],\"ClientIPAddressPort\":\"x\""),
        ("\"g\":[]", "\"g\":[],\"Truncated\":[]"),
        ("\"g\":[]", "\"g\":[],\"Truncated\":[\"o\"]"),
        ("\"g\":[]", "\"g\":[],\"Overflow\":\"{}\""),
        ("\"g\":[]", "\"g\":[],\"Overflow\":\"{\\\"h\\\":1}\""),
    ] {
        assert!(sent.contains(from), "{from}");
        bad(sent, &sent.replacen(from, to, 1));
    }
}

#[test]
fn no_value_moves_without_a_reason() {
    bad(r#""Id":"1","a":"x""#, &format!("\"Id\":\"1\",{}", overflow(r#"{"a":"x"}"#)));
    bad(r#""a":{"b":"x"}"#, &format!("\"a\":{{}},{}", overflow(r#"{"a.b":"x"}"#)));
    bad(r#""a":{"b":"x"}"#, &overflow(r#"{"a":{"b":"x"}}"#));
    // Both in its place and moved.
    bad(r#""a":"x""#, &format!("\"a\":\"x\",{}", overflow(r#"{"a":"x"}"#)));
}

#[test]
fn numbers_are_repaired() {
    for (sent, written) in [
        ("6.0", "6"),
        ("-0", "0"),
        ("1e2", "100"),
        ("1234567890123", "\"1234567890123\""),
        ("0.1234567891234", "\"0.1234567891234\""),
        ("1e-7", "\"1e-7\""),
        ("1e12", "\"1000000000000\""),
        ("[1,2.50,true,null,\"x\"]", "[\"1\",\"2.50\",\"true\",null,\"x\"]"),
        ("[{\"a\":1,\"b\":false,\"c\":null}]", "[{\"a\":\"1\",\"b\":\"false\",\"c\":null}]"),
    ] {
        good(&format!("\"n\":{sent}"), &format!("\"n\":{written}"));
    }
    for (sent, written) in [
        ("6.0", "6.0"),
        ("6.0", "\"6.0\""),
        ("6.0", "7"),
        ("1234567890123", "1234567890123"),
        ("1234567890123", "\"1234567890124\""),
        ("0.50", "\"0.5\""),
        ("true", "\"true\""),
        ("true", "false"),
        ("[1]", "[1]"),
        ("[1.0]", "[\"1\"]"),
        ("[true]", "[true]"),
        ("[null,\"x\"]", "[\"x\"]"),
        ("[{\"a\":1}]", "[{\"a\":1}]"),
    ] {
        bad(&format!("\"n\":{sent}"), &format!("\"n\":{written}"));
    }
}

#[test]
fn nulls_are_left_out() {
    good(r#""a":null,"b":{"c":null}"#, r#""b":{}"#);
    bad(r#""a":null"#, r#""a":null"#);
    bad(r#""a":null"#, r#""a":"null""#);
}

#[test]
fn strings_are_repaired() {
    good(r#""a":"[1]""#, r#""a":" [1]""#);
    good(r#""a":"[External] x","b":"[1] ""#, r#""a":"[External] x","b":"[1] ""#);
    good(r#""a":["[1]"]"#, r#""a":["[1]"]"#);
    good(r#""a":"x\u0000y""#, "\"a\":\"x\u{FFFD}y\"");
    good(r#""a":"x\ud800y""#, "\"a\":\"x\u{FFFD}y\"");
    good("\"a\":\"x\ty\"", r#""a":"x\ty""#);
    bad(r#""a":"[1]""#, r#""a":"[1]""#);
    bad(r#""a":"[External]""#, r#""a":" [External]""#);
    bad(r#""a":["[1]"]"#, r#""a":[" [1]"]"#);
    bad(r#""a":"x\u0000y""#, r#""a":"x""#);
    bad(r#""a":"x\u0000y""#, r#""a":"x\u0000y""#);
    let mut invalid = b"{\"a\":\"x".to_vec();
    invalid.extend_from_slice(b"\xff\xfe\"}");
    let line = "{\"integration\":\"office365\",\"office365\":{\"a\":\"x\u{FFFD}\u{FFFD}\",\"Subscription\":\"S\"}}";
    assert_eq!(judge(&invalid, line.as_bytes(), Expected::of("S")), Ok(()));
}

#[test]
fn kinds_are_repaired() {
    for (sent, written) in [
        (r#""x""#, r#"{"Name":"x"}"#),
        (r#""x""#, r#"[{"Name":"x"}]"#),
        ("5", r#"{"Name":5}"#),
        ("5", r#"[{"Name":"5"}]"#),
        (r#"["x","y"]"#, r#"[{"Name":"x"},{"Name":"y"}]"#),
        (r#"["x","y"]"#, r#"{"Name":["x","y"]}"#),
        (r#"["x",{"a":"y"}]"#, r#"[{"Name":"x"},{"a":"y"}]"#),
        (r#"["x",{"a":"y"}]"#, r#""[\"x\",{\"a\":\"y\"}] ""#),
        (r#"[{"a":1}]"#, r#"" [{\"a\":1}]""#),
        (r#"{"a":{"b":[1,2.0]},"c":null}"#, r#""{\"a\":{\"b\":[1,2.0]},\"c\":null}""#),
        (r#"[["x",1],"y"]"#, r#"["[\"x\",1]","y"]"#),
        (r#"[[{"a":1}]]"#, r#"["[{\"a\":1}]"]"#),
        (r#"[{"a":[[1]]},[2]]"#, r#"[{"a":["[1]"]},{"Name":"[2]"}]"#),
    ] {
        good(&format!("\"m\":{sent}"), &format!("\"m\":{written}"));
    }
    for (sent, written) in [
        (r#""x""#, r#"{"Name":"y"}"#),
        (r#""x""#, r#"{"name":"x"}"#),
        (r#""x""#, r#"{"Name":"x","b":"y"}"#),
        (r#""x""#, r#"["x"]"#),
        (r#"["x","y"]"#, r#"[{"Name":"x"}]"#),
        (r#"["x",{"a":"y"}]"#, r#"["x",{"a":"y"}]"#),
        (r#"{"a":1,"b":2}"#, r#""{\"a\":1}""#),
        (r#"{"a":1}"#, r#""{\"a\":2}""#),
        (r#"{"a":1}"#, r#""{\"a\":1,\"b\":2}""#),
        (r#"{"a":1}"#, r#"{"Name":"{\"a\":1}"}"#),
        (r#"[{"a":1}]"#, r#""[{\"a\":1}]""#),
        (r#"[[1]]"#, r#"[["1"]]"#),
        (r#"[[1,2]]"#, r#"["[1]"]"#),
        (r#"[[1]]"#, r#"["1"]"#),
    ] {
        bad(&format!("\"m\":{sent}"), &format!("\"m\":{written}"));
    }
}

#[test]
fn text_moves_where_name_holds_objects() {
    let sent = r#""Id":"1","x":"text""#;
    let written = format!("\"Id\":\"1\",{}", overflow(r#"{"x":"text"}"#));
    bad(sent, &written);
    let mut kinds = Kinds::default();
    kinds.note(&json::parse(br#"{"x":[{"Name":{"a":1}}]}"#).unwrap());
    let expected = Expected { kinds: Some(&kinds), ..Expected::of("Audit.General") };
    assert_eq!(verdict(sent, &written, expected), Ok(()));
    // The kind says nothing about an object.
    let written = format!("\"Id\":\"1\",{}", overflow(r#"{"x":{"a":"b"}}"#));
    assert!(verdict(r#""Id":"1","x":{"a":"b"}"#, &written, expected).is_err());
}

#[test]
fn paths_can_be_full() {
    let sent = r#""Id":"1","x":{"y":"text"}"#;
    let written = format!("\"Id\":\"1\",\"x\":{{}},{}", overflow(r#"{"x.y":"text"}"#));
    bad(sent, &written);
    let expected = Expected { paths_are_full: true, ..Expected::of("Audit.General") };
    assert_eq!(verdict(sent, &written, expected), Ok(()));
    let moved = overflow(r#"{"Id":"1","x":{"y":"text"}}"#);
    assert!(verdict(sent, &moved, expected).is_err(), "a mandatory member moved");
}

#[test]
fn names_are_repaired() {
    good(r#"".a":1,"b.":2,"c..d":3,"":4,"e. .f":5"#, r#""_a":1,"b_":2,"c__d":3,"_":4,"e._.f":5"#);
    good(r#""a\u0000":1"#, "\"a\u{FFFD}\":1");
    good(r#""Label.Id":1"#, r#""Label.Id":1"#);
    good(r#""Label.Id":1"#, r#""Label":"{\"Id\":1}""#);
    bad(r#"".a":1"#, r#"".a":1"#);
    bad(r#"".a":1"#, r#""a":1"#);
    bad(r#""Label.Id":1"#, r#""Label_Id":1"#);
    bad(r#""x":{"":1}"#, r#""x":{"":1}"#);
    let long = "n".repeat(257);
    good(&format!("\"{long}\":1"), &overflow(&format!("{{\"{long}\":1}}")));
    bad(&format!("\"{long}\":1"), &format!("\"{long}\":1"));
    let fits = "n".repeat(256);
    bad(&format!("\"{fits}\":1"), &overflow(&format!("{{\"{fits}\":1}}")));
}

#[test]
fn reserved_names_move() {
    for name in ["actor", "Overflow", "overflow", "TRUNCATED", "subscription", "actor.x"] {
        good(&format!("\"{name}\":\"x\""), &overflow(&format!("{{\"{name}\":\"x\"}}")));
        bad(&format!("\"{name}\":\"x\""), &format!("\"{name}\":\"x\""));
        bad(&format!("\"{name}\":\"x\""), "");
    }
    good(r#""Subscription":"x","a":1"#, r#""a":1"#);
    bad(r#""Subscription":"x""#, &overflow(r#"{"Subscription":"x"}"#));
    good(r#""Actor":[{"ID":"x"}]"#, r#""Actor":[{"ID":"x"}]"#);
    let value = r#"{"a":1,"a":2,"b":"","B":[1.0,null]}"#;
    good(&format!("\"actor\":{value}"), &overflow(&format!("{{\"actor\":{value}}}")));
    bad(r#""x":{"actor":"y"}"#, &format!("\"x\":{{}},{}", overflow(r#"{"x.actor":"y"}"#)));
}

#[test]
fn one_of_equal_names_stays() {
    let sent = r#""Operation":"x","operation":"y""#;
    good(sent, &format!("\"Operation\":\"x\",{}", overflow(r#"{"operation":"y"}"#)));
    bad(sent, sent);
    bad(sent, r#""Operation":"x""#);
    bad(sent, &format!("\"operation\":\"y\",{}", overflow(r#"{"Operation":"x"}"#)));
    bad(sent, &overflow(r#"{"Operation":"x","operation":"y"}"#));
    good(r#""a":1,"a":2,"a":3"#, &format!("\"a\":1,{}", overflow(r#"{"a":[2,3]}"#)));
    bad(r#""a":1,"a":2,"a":3"#, &format!("\"a\":1,{}", overflow(r#"{"a":2}"#)));
    bad(r#""a":1,"a":2,"a":3"#, &format!("\"a\":2,{}", overflow(r#"{"a":[1,3]}"#)));
    good(r#""a":"","A":"x""#, &format!("\"A\":\"x\",{}", overflow(r#"{"a":""}"#)));
    bad(r#""a":"","A":"x""#, &format!("\"a\":\"\",{}", overflow(r#"{"A":"x"}"#)));
    good(r#""a":null,"A":"x""#, &format!("\"A\":\"x\",{}", overflow(r#"{"a":null}"#)));
    bad(r#""a":null,"A":"x""#, &overflow(r#"{"A":"x"}"#));
    good(r#""a.b":1,"a":{"c":2}"#, &format!("\"a.b\":1,{}", overflow(r#"{"a":{"c":2}}"#)));
    good(
        r#""l":[{"a":"1"},{"a":"2","A":"3"}]"#,
        &format!(r#""l":[{{"a":"1"}},{{"a":"2"}}],{}"#, overflow(r#"{"l[1].A":"3"}"#)),
    );
    bad(
        r#""l":[{"a":"1"},{"a":"2","A":"3"}]"#,
        &format!(r#""l":[{{"a":"1"}},{{"a":"2"}}],{}"#, overflow(r#"{"l[0].A":"3"}"#)),
    );
}

#[test]
fn members_below_level_16_move() {
    // Levels 1 to `last`; the last one holds `leaf`.
    let nested = |last: usize, leaf: &str| {
        "\"a\":{".repeat(last - 1) + "\"a\":" + leaf + &"}".repeat(last - 1)
    };
    let path = |level: usize| vec!["a"; level].join(".");
    good(&nested(16, "1"), &nested(16, "1"));
    bad(&nested(17, "1"), &nested(17, "1"));
    let moved = |level: usize, json: &str| overflow(&format!("{{\"{}\":{json}}}", path(level)));
    good(&nested(17, "1"), &format!("{},{}", nested(16, "{}"), moved(17, "1").as_str()));
    good(
        &nested(40, "1.50"),
        &format!("{},{}", nested(16, "{}"), moved(17, &format!("{{{}}}", nested(23, "1.50")))),
    );
    bad(&nested(17, "1"), &format!("{},{}", nested(15, "{}"), moved(16, "{\"a\":1}").as_str()));
    bad(&nested(17, "1"), &nested(16, "{}"));
    // A record with more levels than can be compared, and a name in it that is repaired.
    let deep = nested(900, "\"\\u0000\"");
    let written = format!(
        "{},{}",
        nested(16, "{}"),
        moved(17, &format!("{{{}}}", nested(883, "\"\u{FFFD}\"")))
    );
    good(&deep, &written);
}

#[test]
fn members_of_the_record_move_when_there_are_too_many_fields() {
    let group = |name: &str, count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!("\"f{n}\":1")).collect();
        format!("\"{name}\":{{{}}}", members.join(","))
    };
    let sent = format!("\"Id\":\"1\",{},{},{}", group("a", 100), group("b", 200), group("c", 10));
    let without_b = format!("\"Id\":\"1\",{},{}", group("a", 100), group("c", 10));
    good(&sent, &format!("{without_b},{}", overflow(&format!("{{{}}}", group("b", 200)))));
    bad(&sent, &sent);
    let too_much = format!("{{{},{}}}", group("b", 200), group("c", 10));
    bad(&sent, &format!("\"Id\":\"1\",{},{}", group("a", 100), overflow(&too_much)));
    let nested = overflow(&format!("{{{}}}", group("b", 200)).replace("\"f0\"", "\"f0x\""));
    bad(&sent, &format!("{without_b},{nested}"));
}

#[test]
fn client_ip_is_bare() {
    for (sent, bare) in [
        ("1.2.3.4:443", "1.2.3.4"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("fe80::1%eth0", "fe80::1"),
        (" 1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, 5.6.7.8", "1.2.3.4"),
    ] {
        let record = format!("\"ClientIP\":\"{sent}\"");
        good(&record, &format!("\"ClientIP\":\"{bare}\",\"ClientIPAddressPort\":\"{sent}\""));
        bad(&record, &record);
        bad(&record, &format!("\"ClientIP\":\"{bare}\""));
        bad(&record, &format!("\"ClientIP\":\"9.9.9.9\",\"ClientIPAddressPort\":\"{sent}\""));
        bad(&record, &format!("\"ClientIP\":\"{bare}\",\"ClientIPAddressPort\":\"{bare}\""));
    }
    good(
        r#""ClientIP":"[\"1.2.3.4\"]""#,
        r#""ClientIP":"1.2.3.4","ClientIPAddressPort":" [\"1.2.3.4\"]""#,
    );
    good(r#""ClientIP":"1.2.3.4""#, r#""ClientIP":"1.2.3.4""#);
    good(r#""ClientIP":"unknown""#, r#""ClientIP":"unknown""#);
    bad(r#""ClientIP":"1.2.3.4""#, r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4""#);
    good(
        r#""ClientIP":"1.2.3.4:1","clientipaddressport":"x""#,
        &format!(
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4:1",{}"#,
            overflow(r#"{"clientipaddressport":"x"}"#)
        ),
    );
    good(r#""ClientIPAddressPort":"x""#, r#""ClientIPAddressPort":"x""#);
}

#[test]
fn cut_values_are_listed() {
    let long = "x".repeat(40_000);
    let cut = "x".repeat(32_000);
    good(
        &format!("\"Id\":\"1\",\"a\":{{\"b\":\"{long}\"}}"),
        &format!("\"Id\":\"1\",\"a\":{{\"b\":\"{cut}\"}},\"Truncated\":[\"a.b\"]"),
    );
    for listed in ["a", "…"] {
        good(
            &format!("\"a\":{{\"b\":\"{long}\"}}"),
            &format!("\"a\":{{\"b\":\"{cut}…\"}},\"Truncated\":[\"{listed}\"]"),
        );
    }
    let sent = format!("\"a\":{{\"b\":\"{long}\"}},\"ab\":\"y\"");
    bad(&sent, &sent);
    bad(&sent, &format!("\"a\":{{\"b\":\"{cut}\"}},\"ab\":\"y\""));
    bad(&sent, &format!("\"a\":{{\"b\":\"{cut}\"}},\"ab\":\"y\",\"Truncated\":[\"c\"]"));
    bad(&sent, &format!("\"a\":{{\"b\":\"{cut}\"}},\"Truncated\":[\"a.b\"]"));
    bad(&sent, &format!("\"a\":{{\"b\":\"{cut}\"}},\"ab\":\"y\",\"Truncated\":[\"a.b\",\"c\"]"));
    bad(
        &sent,
        &format!("\"a\":{{\"b\":\"z{cut}\"}},\"ab\":\"y\",\"Truncated\":[\"a.b\"]")
            .replace("xx", "yy"),
    );
    // The last elements of an array are left out.
    let items = |count: usize| vec!["\"0123456789\""; count].join(",");
    let sent = format!("\"a\":[{}]", items(9_000));
    good(&sent, &format!("\"a\":[{}],\"Truncated\":[\"a\"]", items(4_000)));
    bad(&sent, &format!("\"a\":[{}]", items(4_000)));
    bad(&sent, &sent);
    // Compact JSON in a string is cut as text.
    let sent = format!("\"a\":{{\"b\":\"{long}\"}}");
    good(&sent, &format!("\"a\":\"{{\\\"b\\\":\\\"{cut}\",\"Truncated\":[\"a\"]"));
    // `Overflow` is cut as text.
    let sent = format!("\"actor\":\"{long}\",\"b\":\"y\"");
    let cut = overflow(&format!("{{\"actor\":\"{cut}"));
    good(&sent, &format!("\"b\":\"y\",{cut},\"Truncated\":[\"Overflow\"]"));
    bad(&sent, &format!("\"b\":\"y\",{cut}"));
    // A short record has no reason to be cut.
    bad(r#""a":"xyz""#, r#""a":"xy","Truncated":["a"]"#);
}

#[test]
fn repaired_members_can_move() {
    let many: Vec<String> = (0..260).map(|n| format!("\"f{n}\":1")).collect();
    let sent = format!("{},\"ClientIP\":\"1.2.3.4:5\"", many.join(","));
    let stays = format!("{},\"ClientIPAddressPort\":\"1.2.3.4:5\"", many[..250].join(","));
    let moved = |address: &str| {
        let fields = many[250..].join(",");
        format!("{stays},{}", overflow(&format!("{{{fields},\"ClientIP\":\"{address}\"}}")))
    };
    good(&sent, &moved("1.2.3.4"));
    bad(&sent, &moved("1.2.3.5"));
    // A dotted name below text is part of that text, also when the text moves.
    let sent = format!("{},\"a.b\":\"x\"", many.join(","));
    let stays = many[..252].join(",");
    let moved =
        overflow(&format!("{{{},\"a\":\"{{\\\"b\\\":\\\"x\\\"}}\"}}", many[252..].join(",")));
    good(&sent, &format!("{stays},{moved}"));
    bad(&sent, &format!("{stays},{}", moved.replace("b", "c")));
}

#[test]
fn the_repaired_client_ip_can_be_cut_off() {
    let many: Vec<String> = (0..260).map(|n| format!("\"f{n}\":1")).collect();
    let sent = format!("{},\"ClientIP\":\"1.2.3.4:5\"", many.join(","));
    let stays = format!("{},\"ClientIPAddressPort\":\"1.2.3.4:5\"", many[..250].join(","));
    // `Overflow` is cut before it.
    let long = format!("\"actor\":\"{}\"", "x".repeat(40_000));
    let cut = overflow(&format!("{{\"actor\":\"{}", "x".repeat(32_000)));
    good(&format!("{long},{sent}"), &format!("{stays},{cut},\"Truncated\":[\"Overflow\"]"));
    bad(&format!("{long},{sent}"), &format!("{},{cut}", many[..250].join(",")));
}

#[test]
fn long_names_are_measured_after_their_repair() {
    // U+FFFD has three bytes.
    let name = |character: &str, length: usize| character.repeat(length);
    good(
        &format!("\"{}\":1", name("\\u0000", 86)),
        &overflow(&format!("{{\"{}\":1}}", name("\u{FFFD}", 86))),
    );
    bad(
        &format!("\"{}\":1", name("\\u0000", 85)),
        &overflow(&format!("{{\"{}\":1}}", name("\u{FFFD}", 85))),
    );
}

#[test]
fn listed_paths_can_be_parts() {
    let long = "x".repeat(40_000);
    let cut = "x".repeat(32_000);
    let name = "n".repeat(250);
    let line = |name: &str, path: &str| format!("\"{name}\":\"{cut}\",\"Truncated\":[\"{path}\"]");
    good(&format!("\"{name}\":\"{long}\""), &line(&name, &format!("{}…", &name[..100])));
    bad(&format!("\"{name}\":\"{long}\""), &line(&name, &format!("{}…", "m".repeat(100))));
    // A dotted name below text is cut with that text.
    let written = format!("\"a\":\"{{\\\"b\\\":\\\"{cut}\",\"Truncated\":[\"a\"]");
    good(&format!("\"a.b\":\"{long}\""), &written);
    bad(&format!("\"c.b\":\"{long}\""), &written);
}

#[test]
fn mandatory_members_stay() {
    for name in MANDATORY {
        bad(&format!("\"{name}\":\"1\""), &overflow(&format!("{{\"{name}\":\"1\"}}")));
        good(&format!("\"{name}\":\"1\""), &format!("\"{name}\":\"1\""));
    }
    good(r#""RecordType":1"#, r#""RecordType":1"#);
    good(r#""UserId":{"a":1}"#, r#""UserId":"{\"a\":1}""#);
    bad(r#""UserId":{"a":1}"#, r#""UserId":{"a":1}"#);
}

#[test]
fn judges_only_the_line_of_a_record_that_is_too_deep() {
    let deep = format!("\"a\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    good(&deep, "\"a\":\"x\"");
    bad(&deep, "\"a\":null");
    bad("\"a\"", "\"a\":\"x\"");
}

#[test]
fn knows_records_that_need_no_repair() {
    let needs_none =
        |members: &str| needs_no_repair(&json::parse(format!("{{{members}}}").as_bytes()).unwrap());
    for members in [
        "",
        r#""Id":"1","RecordType":8,"Actor":[{"ID":"x"}],"a":{"b":{}},"l":["x",null],"ClientIP":"::1""#,
        r#""Label.Id":-5,"t":true,"s":"[External]""#,
    ] {
        assert!(needs_none(members), "{members}");
    }
    let levels = "\"a\":{".repeat(16) + "\"a\":1" + &"}".repeat(16);
    let fields: Vec<String> = (0..260).map(|n| format!("\"f{n}\":1")).collect();
    let long = format!("\"a\":\"{}\"", "x".repeat(33_000));
    let name = format!("\"{}\":1", "n".repeat(257));
    for members in [
        r#""a":null"#,
        r#""a":[1]"#,
        r#""a":[{"b":true}]"#,
        r#""a":6.0"#,
        r#""a":-0"#,
        r#""a":1e2"#,
        r#""a":2147483648"#,
        r#""a":"[1]""#,
        r#""a":[["x"]]"#,
        r#""a":["x",{}]"#,
        r#""a":"\u0000""#,
        r#""a":1,"A":2"#,
        r#""a.b":1,"a":2"#,
        r#""a.":1"#,
        r#""":1"#,
        r#"" ":1"#,
        r#""x":{"\t":1}"#,
        r#""actor":1"#,
        r#""overflow":1"#,
        r#""Subscription":"x""#,
        r#""ClientIP":"1.2.3.4:5""#,
        r#""ClientIP":"::ffff:1.2.3.4""#,
        r#""ClientIP":5"#,
        r#""UserId":{"a":1}"#,
        &levels,
        &fields.join(","),
        &long,
        &name,
    ] {
        assert!(!needs_none(members), "{members}");
    }
    assert!(!needs_no_repair(&Json::Array(Vec::new())));
}

/// Random changes of a good record or line: nothing panics, and only what is unchanged is good.
#[test]
fn rejects_random_changes() {
    let good_record = r#"{"Id":"1","RecordType":8,"a":{"b":[{"c":1.50}],"d":"[1]"},"e":["x",[{}]],"actor":{"f":null},"E":"\u0000"}"#;
    let moved = overflow("{\"actor\":{\"f\":null},\"E\":\"\u{FFFD}\"}");
    let good_line = format!(
        r#"{{"integration":"office365","office365":{{"Id":"1","RecordType":8,"a":{{"b":[{{"c":"1.50"}}],"d":" [1]"}},"e":["x","[{{}}]"],{moved},"Subscription":"S"}}}}"#
    );
    assert_eq!(judge(good_record.as_bytes(), good_line.as_bytes(), Expected::of("S")), Ok(()));
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for round in 0..5_000 {
        let (mut record, mut line) =
            (good_record.as_bytes().to_vec(), good_line.clone().into_bytes());
        let changed = if round % 2 == 0 { &mut record } else { &mut line };
        for _ in 0..=random(3) {
            let at = random(changed.len());
            match random(3) {
                0 => drop(changed.remove(at)),
                1 => changed[at] = br#"{}[]":,.\0x"#[random(10)],
                _ => changed.insert(at, br#"{}[]":,.\0x"#[random(10)]),
            }
        }
        let is_unchanged = record == good_record.as_bytes() && line == good_line.as_bytes();
        let is_accepted = judge(&record, &line, Expected::of("S")).is_ok();
        assert_eq!(
            is_accepted,
            is_unchanged,
            "{}\n{}",
            String::from_utf8_lossy(&record),
            String::from_utf8_lossy(&line)
        );
        if let Some(alert) = decoder::decode(&line) {
            let _ = Index::new().add(&alert);
        }
    }
}
