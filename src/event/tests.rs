//! Records before and after, line by line of the contract.

mod received;
mod size;
mod table;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

static NORMALIZE: Options = Options { normalize: true, exclude: Vec::new() };
static PLAIN: Options = Options { normalize: false, exclude: Vec::new() };

/// The line of a record, by what `kinds` knows, which may learn.
fn line_by(kinds: &Kinds, options: &Options, record: &[u8]) -> Result<String, Unusable> {
    let mut out = b"before".to_vec();
    let mut id = b"another".to_vec();
    let mut maker = LineMaker::new(options, kinds);
    let (general, yes) = (ContentType::Exchange, Learning::Yes);
    let result = maker.append_line(record, general, yes, &mut id, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("before"));
    result.map(|fate| {
        assert_ne!(fate, Fate::Excluded, "nothing is to be left out");
        assert_eq!(id_of(record).unwrap_or_default(), id, "as a resumed blob looks for it");
        let lists = text.contains("\"Truncated\":[");
        assert!(lists == (fate == Fate::Shortened) || (lists && !options.normalize));
        text["before".len()..].to_owned()
    })
}

fn line_with(options: &Options, record: &[u8]) -> Result<String, Unusable> {
    line_by(&Kinds::default(), options, record)
}

fn line(record: &[u8]) -> Result<String, Unusable> {
    line_with(&NORMALIZE, record)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The members of a line, each with a comma behind it.
fn members(line: &str) -> &str {
    line.strip_prefix(r#"{"integration":"office365","office365":{"#)
        .and_then(|line| line.strip_suffix("\"Subscription\":\"Audit.Exchange\"}}\n"))
        .unwrap_or_else(|| panic!("no envelope: {line}"))
}

/// Members of a record by what `kinds` knows: before, and after.
fn assert_by(kinds: &Kinds, options: &Options, table: &[(&str, &str)]) {
    for (before, after) in table {
        let line = line_by(kinds, options, format!("{{{before}}}").as_bytes());
        let line = line.unwrap_or_else(|why| panic!("{before}: {why:?}"));
        let after = if after.is_empty() { String::new() } else { format!("{after},") };
        assert_eq!(members(&line), after, "{before}");
    }
}

/// Members of a record that comes first, and then once more, when its paths are known: before, and after.
fn assert_becomes(table: &[(&str, &str)]) {
    for row in table {
        assert_by(&Kinds::default(), &NORMALIZE, &[*row, *row]);
    }
}

/// Members that stay as they are.
fn assert_stays(members: &[&str]) {
    assert_becomes(&members.iter().map(|members| (*members, *members)).collect::<Vec<_>>());
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

/// `count` numbered members, each of that value.
fn numbered(count: usize, value: &str) -> String {
    (0..count).map(|n| format!(",\"k{n}\":{value}")).collect()
}

#[test]
fn records_keep_their_spelling_but_for_white_space() {
    let table = [
        ("{}", ""),
        (" {\r\n} ", ""),
        (r#"{"Id":"1"}"#, r#""Id":"1","#),
        (
            "{\n  \"b\" : 10 ,\t\"a\": [ { \"c\" : {} } , null ]\n , \"d\":[ ] }",
            r#""b":10,"a":[{"c":{}},null],"d":[],"#,
        ),
    ];
    for (record, members) in table {
        assert_eq!(line(record.as_bytes()), Ok(wrapped(members)), "{record}");
    }
    let table = [
        (r#"{"p":"C:\\ \/\u003c \" "}"#, r#""p":"C:\\ \/\u003c \" ","#),
        (r#"{"ü":"日本 😀","t":true,"f":false}"#, r#""ü":"日本 😀","t":true,"f":false,"#),
        (r#"{"a":{"Subscription":"1"}}"#, r#""a":{"Subscription":"1"},"#),
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
fn names_are_what_the_indexer_takes() {
    let long = "n".repeat(257);
    let fits = format!(r#""{}":"1""#, "n".repeat(256));
    assert_stays(&[&fits, r#""a.b":"1""#, r#""a b":"1""#]);
    assert_becomes(&[
        (r#"".a":"1","b.":"2","c..d":"3","":"4""#, r#""_a":"1","b_":"2","c__d":"3","_":"4""#),
        (r#""  ":"1","e. .f":"2""#, r#""__":"1","e._.f":"2""#),
        (r#""a\u0000":"1""#, "\"a\\ufffd\":\"1\""),
        (r#""Item":{"":"1","a..b":"2"}"#, r#""Item":{"_":"1","a__b":"2"}"#),
        // Repaired before they are compared.
        (r#""":"1","_":"2""#, r#""_":"1","Overflow":"{\"_\":\"2\"}""#),
        (
            &format!(r#""a":"1","{long}":[ 2 ]"#),
            &format!(r#""a":"1","Overflow":"{{\"{long}\":[2]}}""#),
        ),
        (
            &format!(r#""Item":{{"{long}":2}}"#),
            &format!(r#""Item":{{}},"Overflow":"{{\"Item.{long}\":2}}""#),
        ),
    ]);
}

#[test]
fn reserved_names_are_free_for_us_and_for_notices() {
    assert_stays(&[
        r#""Actor":[{"ID":"1","Type":"0"}]"#,
        r#""ACTOR":"1""#,
        r#""Item":{"actor":"wazuh"}"#,
    ]);
    assert_becomes(&[
        (r#""actor":"wazuh","a":1"#, r#""a":1,"Overflow":"{\"actor\":\"wazuh\"}""#),
        (r#""\u0061ctor":"wazuh""#, r#""Overflow":"{\"actor\":\"wazuh\"}""#),
        (r#""actor.x":1"#, r#""Overflow":"{\"actor.x\":1}""#),
        (r#""Overflow":"x""#, r#""Overflow":"{\"Overflow\":\"x\"}""#),
        (r#""truncated":[1]"#, r#""Overflow":"{\"truncated\":[1]}""#),
        (r#""subscription":1,"Subscription":2"#, r#""Overflow":"{\"subscription\":1}""#),
        (r#""Subscription.x":1"#, r#""Overflow":"{\"Subscription.x\":1}""#),
        (
            r#""ClientIP":"1.2.3.4:5","clientipaddressport":"x""#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4:5","Overflow":"{\"clientipaddressport\":\"x\"}""#,
        ),
    ]);
    assert_stays(&[r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"x""#]);
    // Without `normalize` as well, as far as something is moved.
    assert_by(
        &Kinds::default(),
        &PLAIN,
        &[
            (r#""actor":"wazuh","a":1.50"#, r#""a":1.50,"Overflow":"{\"actor\":\"wazuh\"}""#),
            (r#""actor.x":1,"Overflow":2"#, r#""Overflow":"{\"actor.x\":1,\"Overflow\":2}""#),
            ("\"\\u0061ctor.\t\":1", "\"Overflow\":\"{\\\"actor.\\\\t\\\":1}\""),
            (
                r#""Overflow":1,"overflow":2,"Truncated":3"#,
                r#""Overflow":1,"overflow":2,"Truncated":3"#,
            ),
            (r#""a":"x\u0000y""#, r#""a":"x\ufffdy""#),
        ],
    );
}

#[test]
fn of_equal_names_one_stays() {
    assert_becomes(&[
        (r#""a":"1","A":"2""#, r#""a":"1","Overflow":"{\"A\":\"2\"}""#),
        (r#""a":1,"a":2,"A":3"#, r#""a":1,"Overflow":"{\"a\":2,\"A\":3}""#),
        (r#""a":1,"a":2,"a":{"b":3}"#, r#""a":1,"Overflow":"{\"a\":[2,{\"b\":3}]}""#),
        (
            r#""a":"","A":{},"a":null,"A":"x""#,
            r#""A":"x","Overflow":"{\"a\":[\"\",null],\"A\":{}}""#,
        ),
        (
            r#""operation":"x","Operation":"Send""#,
            r#""Operation":"Send","Overflow":"{\"operation\":\"x\"}""#,
        ),
        (
            r#""operation":"Send","Operation":"""#,
            r#""operation":"Send","Overflow":"{\"Operation\":\"\"}""#,
        ),
        (
            r#""parameters":[],"Parameters":[]"#,
            r#""Parameters":[],"Overflow":"{\"parameters\":[]}""#,
        ),
        (
            r#""RecordType.x":1,"RecordType":15"#,
            r#""RecordType":15,"Overflow":"{\"RecordType.x\":1}""#,
        ),
        (r#""RecordType.x":1"#, r#""RecordType":"{\"x\":1}""#),
        (
            r#""RecordType":[],"RecordType":15"#,
            r#""RecordType":15,"Overflow":"{\"RecordType\":[]}""#,
        ),
        (
            r#""Label.Id":"1","label.Name":"2""#,
            r#""Label.Id":"1","Overflow":"{\"label.Name\":\"2\"}""#,
        ),
        (
            r#""Label":{"Id":"1"},"Label.Name":"2""#,
            r#""Label":{"Id":"1"},"Overflow":"{\"Label.Name\":\"2\"}""#,
        ),
        (
            r#""Item":{"Id":"1","ID":"2"},"Folders":[{"Path":"a"},{"Path":"b","path":"c"}]"#,
            r#""Item":{"Id":"1"},"Folders":[{"Path":"a"},{"Path":"b"}],"Overflow":"{\"Item.ID\":\"2\",\"Folders[1].path\":\"c\"}""#,
        ),
        // Only ASCII letters have a case for Wazuh.
        (r#""ü":"1","Ü":"2""#, r#""ü":"1","Ü":"2""#),
    ]);
}

#[test]
fn what_is_too_deep_is_moved() {
    let nested = |levels: usize, leaf: &str| {
        format!("{}{leaf}{}", "{\"a\":".repeat(levels), "}".repeat(levels))
    };
    let at_16 = format!(r#""a":{}"#, nested(15, r#""x""#));
    assert_stays(&[&at_16, &format!(r#""a":[{}]"#, nested(15, r#"["x"]"#))]);
    let path = "a.".repeat(15) + "a";
    let (below, left) = (format!(r#""a":{}"#, nested(16, "{\"b\":7}")), nested(15, "{}"));
    assert_becomes(&[
        (&below, &format!(r#""a":{left},"Overflow":"{{\"{path}.a\":{{\"b\":7}}}}""#)),
        // A dotted name counts for as many as it names.
        (&format!(r#""{path}.b":1"#), &format!(r#""Overflow":"{{\"{path}.b\":1}}""#)),
        (&format!(r#""{path}":1"#), &format!(r#""{path}":1"#)),
    ]);
    // Nothing on the way needs a stack that grows with it.
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let hostile = format!("{{\"a\":{}1{}}}", open.repeat(500_000), close.repeat(500_000));
        for options in [&NORMALIZE, &PLAIN] {
            let line = line_with(options, hostile.as_bytes()).unwrap();
            assert!(line.len() <= MAX_LINE + 1 && line.contains("\"Truncated\":["));
        }
    }
}

#[test]
fn containers_that_wazuh_could_not_read_become_strings_without_normalize() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let lined = |n| line_with(&PLAIN, format!("{{\"a\":{}}}", nested(n)).as_bytes());
    assert_eq!(lined(99), Ok(wrapped(&format!("\"a\":{},", nested(99)))));
    for more in [1, 2, 9901] {
        let inner = format!("{}\"{}\"{}", "[".repeat(99), nested(more), "]".repeat(99));
        assert_eq!(lined(99 + more), Ok(wrapped(&format!("\"a\":{inner},"))));
    }
}

#[test]
fn a_path_of_the_table_holds_its_kind() {
    assert_stays(&[
        r#""Parameters":[{"Name":"a","Value":"b"},{"Name":"c"},null]"#,
        r#""Parameters":[]"#,
        r#""Parameters":"""#,
        r#""Parameters":{}"#,
        r#""Item":{"Id":"1","ParentFolder":{"Path":"x"}}"#,
        r#""Subject":"[External] hello""#,
        r#""Recipients":["a","b"]"#,
        r#""Subject":{},"ObjectId":[]"#,
    ]);
    assert_becomes(&[
        // Text where objects belong.
        (r#""Parameters":"a""#, r#""Parameters":[{"Name":"a"}]"#),
        (r#""Parameters":7"#, r#""Parameters":[{"Name":"7"}]"#),
        (r#""Parameters":true"#, r#""Parameters":[{"Name":"true"}]"#),
        (
            r#""Parameters":["a",5,[1,{}],null,{"Name":"b"},""]"#,
            r#""Parameters":[{"Name":"a"},{"Name":"5"},{"Name":"[1,{}]"},null,{"Name":"b"},{"Name":""}]"#,
        ),
        (r#""Item":"a""#, r#""Item":{"Name":"a"}"#),
        (r#""Item":["a"]"#, r#""Item":[{"Name":"a"}]"#),
        (r#""Item":{"ParentFolder":"a"}"#, r#""Item":{"ParentFolder":{"Name":"a"}}"#),
        (r#""Folders":[{"FolderItems":"a"}]"#, r#""Folders":[{"FolderItems":[{"Name":"a"}]}]"#),
        (r#""Item.ParentFolder":"a""#, r#""Item.ParentFolder":{"Name":"a"}"#),
        // Objects where text belongs.
        (r#""Subject":{"a": [1.50 ,null]}"#, r#""Subject":"{\"a\":[1.50,null]}""#),
        (r#""Subject":[{"a":1}, 2]"#, r#""Subject":" [{\"a\":1},2]""#),
        (r#""Subject":[{}]"#, r#""Subject":" [{}]""#),
        (r#""Subject.a.b":1"#, r#""Subject":"{\"a.b\":1}""#),
        (r#""Item.Subject.a":{"b":1}"#, r#""Item.Subject":"{\"a\":{\"b\":1}}""#),
        (r#""Id":{"a":1}"#, r#""Id":"{\"a\":1}""#),
        (r#""Actor":[{"ID":{"a":1},"Type":0}]"#, r#""Actor":[{"ID":"{\"a\":1}","Type":"0"}]"#),
        (r#""Actor":[{"ID":{}}]"#, r#""Actor":[{"ID":"{}"}]"#),
        // An array within an array is text.
        (r#""Recipients":["a",["b", 2 ],[]]"#, r#""Recipients":["a","[\"b\",2]","[]"]"#),
        (
            r#""response":{"a":1},"ClientIP":{"a":1}"#,
            r#""response":"{\"a\":1}","ClientIP":"{\"a\":1}""#,
        ),
    ]);
}

#[test]
fn a_path_outside_the_table_holds_the_kind_seen_first() {
    let text_first: [(&str, &str); 8] = [
        (r#""x":"","y":{}"#, r#""x":"","y":{}"#),
        (r#""x":"a""#, r#""x":"a""#),
        (r#""x":{"b":1}"#, r#""x":"{\"b\":1}""#),
        (r#""x":["a",1]"#, r#""x":["a","1"]"#),
        (r#""x":[{"b":1}]"#, r#""x":" [{\"b\":1}]""#),
        (r#""x":{}"#, r#""x":{}"#),
        (r#""x.b":1"#, r#""x":"{\"b\":1}""#),
        (r#""X":{"b":1}"#, r#""X":{"b":1}"#),
    ];
    assert_by(&Kinds::default(), &NORMALIZE, &text_first);
    let object_first = [
        (r#""x":null,"y":[],"z":[null]"#, r#""y":[],"z":[null]"#),
        (r#""x":{"b":1}"#, r#""x":{"b":1}"#),
        (r#""x":"a""#, r#""x":{"Name":"a"}"#),
        (r#""x":["a"]"#, r#""x":[{"Name":"a"}]"#),
        (r#""x":{"b":{"c":1}}"#, r#""x":{"b":"{\"c\":1}"}"#),
        (r#""x":{"d":{"c":1}}"#, r#""x":{"d":{"c":1}}"#),
        (r#""x.d":2"#, r#""x.d":{"Name":"2"}"#),
    ];
    assert_by(&Kinds::default(), &NORMALIZE, &object_first);
    let list_first = [
        (r#""x":[{"b":1}]"#, r#""x":[{"b":"1"}]"#),
        (r#""x":"a""#, r#""x":[{"Name":"a"}]"#),
        (r#""x":{"b":1}"#, r#""x":{"b":1}"#),
        // In arrays empty ones count, and nulls do not.
        (r#""x":[{"c":"","d":{},"e":null,"f":[]}]"#, r#""x":[{"c":"","d":{},"e":null,"f":[]}]"#),
        (
            r#""x":[{"c":{"g":1},"d":"h","e":{"g":1},"f":"h"}]"#,
            r#""x":[{"c":"{\"g\":1}","d":{"Name":"h"},"e":{"g":"1"},"f":"h"}]"#,
        ),
    ];
    assert_by(&Kinds::default(), &NORMALIZE, &list_first);
    let name_holds_objects = [
        (
            r#""x":[{"Name":{"b":1}}],"y":[{"Name":"z"}]"#,
            r#""x":[{"Name":{"b":"1"}}],"y":[{"Name":"z"}]"#,
        ),
        (r#""x":"a","y":"a""#, r#""y":[{"Name":"a"}],"Overflow":"{\"x\":\"a\"}""#),
        (r#""x":[{"c":1},"a"]"#, r#""Overflow":"{\"x\":[{\"c\":1},\"a\"]}""#),
        (r#""x":[{"Name":"a"}]"#, r#""x":[{"Name":{"Name":"a"}}]"#),
    ];
    assert_by(&Kinds::default(), &NORMALIZE, &name_holds_objects);
}

#[test]
fn a_record_that_may_not_teach_is_refused_and_teaches_nothing() {
    let kinds = Kinds::default();
    let mut maker = LineMaker::new(&NORMALIZE, &kinds);
    let mut refuse = |record: &str| {
        let (general, mut out) = (ContentType::General, b"before".to_vec());
        let record = record.as_bytes();
        let result = maker.append_line(record, general, Learning::No, &mut Vec::new(), &mut out);
        assert_eq!(out, b"before");
        assert_eq!(result, Err(Unusable::NewPath));
    };
    refuse(r#"{"Id":"1","new":1}"#);
    refuse(r#"{"Id":"1","Item":{"new":[{}]}}"#);
    refuse(r#"{"Id":"1","Item.new.newer":1}"#);
    assert_eq!(kinds.learned_paths(), 0);
    // What a filter leaves out is not written, so it teaches nothing either.
    let exclude = vec![Exclude { operation: Some("no".to_owned()), ..Exclude::default() }];
    let options = Options { normalize: true, exclude };
    let mut maker = LineMaker::new(&options, &kinds);
    let record = br#"{"Operation":"no","new":1}"#;
    let (dlp, mut out) = (ContentType::Dlp, Vec::new());
    let fate = maker.append_line(record, dlp, Learning::Yes, &mut Vec::new(), &mut out);
    assert_eq!((fate, kinds.learned_paths()), (Ok(Fate::Excluded), 0));
}

#[test]
fn members_of_which_there_are_too_many_teach_nothing() {
    let kinds = Kinds::default();
    let wide = record(&numbered(10_000, "1"));
    let line = line_by(&kinds, &NORMALIZE, wide.as_bytes()).unwrap();
    // Beside the record's own ten, the envelope's two and Overflow. Truncated takes the place of one.
    assert_eq!(kinds.learned_paths(), MAX_FIELDS - 13);
    assert!(line.contains("\"k241\":1,") && !line.contains("\"k242\":1,"));
    let object = format!("{{{}}}", &numbered(300, "1")[1..]);
    let wide = format!("{{\"Id\":\"1\",\"Zone\":{object},\"new\":\"x\"}}");
    line_by(&kinds, &NORMALIZE, wide.as_bytes()).unwrap();
    assert_by(
        &kinds,
        &NORMALIZE,
        &[(r#""Zone":"x","new":{"a":1}"#, r#""Zone":"x","new":"{\"a\":1}""#)],
    );
}

#[test]
fn when_too_many_paths_are_known_members_with_a_new_one_are_moved() {
    let kinds = Kinds::default();
    for n in 0..MAX_LEARNED / 64 {
        let members: String = (0..64).map(|m| format!(",\"k{}\":1", n * 64 + m)).collect();
        line_by(&kinds, &NORMALIZE, format!("{{\"Id\":\"1\"{members}}}").as_bytes()).unwrap();
    }
    assert_eq!(kinds.learned_paths(), MAX_LEARNED);
    assert_by(
        &kinds,
        &NORMALIZE,
        &[
            (r#""k0":"known","Subject":"s""#, r#""k0":"known","Subject":"s""#),
            (r#""new":{"a": 1},"k1":"known""#, r#""k1":"known","Overflow":"{\"new\":{\"a\":1}}""#),
            (r#""Item":{"new":1,"Id":"1"}"#, r#""Item":{"Id":"1"},"Overflow":"{\"Item.new\":1}""#),
            (r#""new.a":1"#, r#""Overflow":"{\"new.a\":1}""#),
            (r#""new":"","newer":{},"newest":[]"#, r#""new":"","newer":{},"newest":[]"#),
            // `Name` is new there.
            (r#""Teams":"a""#, r#""Overflow":"{\"Teams\":\"a\"}""#),
        ],
    );
    assert_eq!(kinds.learned_paths(), MAX_LEARNED);
    // Nothing is to be learned, so nothing has to wait for its turn.
    let mut maker = LineMaker::new(&NORMALIZE, &kinds);
    let (general, mut out) = (ContentType::General, Vec::new());
    let record = br#"{"Id":"1","new":1}"#;
    let fate = maker.append_line(record, general, Learning::No, &mut Vec::new(), &mut out);
    assert_eq!(fate, Ok(Fate::Whole));
}

#[test]
fn numbers_and_strings_are_what_wazuh_keeps() {
    assert_stays(&[
        r#""a":2147483647,"b":-2147483648,"c":true,"d":"[1] ","e":["[1]"],"f":"[x]","g":"1e5""#,
        r#""a":[null,"1"],"b":[{"c":null}]"#,
    ]);
    assert_becomes(&[
        (r#""a":2147483648,"b":1500000000000"#, r#""a":"2147483648","b":"1500000000000""#),
        (
            r#""a":6.0,"b":1e2,"c":-0,"d":1.5,"e":1e-7"#,
            r#""a":6,"b":100,"c":0,"d":"1.5","e":"1e-7""#,
        ),
        (r#""a":1e40,"b":1.5e12"#, r#""a":"1e40","b":"1500000000000""#),
        (r#""a":[1,-2.50,1e2,true,false,"x"]"#, r#""a":["1","-2.50","1e2","true","false","x"]"#),
        (
            r#""Folders":[{"Path":1.5e12,"FolderItems":[{"SizeInBytes":7}],"Id":false}]"#,
            r#""Folders":[{"Path":"1.5e12","FolderItems":[{"SizeInBytes":"7"}],"Id":"false"}]"#,
        ),
        (r#""a":null,"b":1,"c":null"#, r#""b":1"#),
        (r#""Item":{"Id":null,"Subject":"s","x":null}"#, r#""Item":{"Subject":"s"}"#),
        (
            r#""Subject":"[1]","Item":{"Subject":"[{}]"}"#,
            r#""Subject":" [1]","Item":{"Subject":" [{}]"}"#,
        ),
        (r#""a":"[\"b\"]","c":"\u005b01]""#, r#""a":" [\"b\"]","c":" \u005b01]""#),
        (r#""Item":"[1]""#, r#""Item":{"Name":" [1]"}"#),
        (r#""a":"x\u0000y","b":["\u0000"]"#, r#""a":"x\ufffdy","b":["\ufffd"]"#),
        // Judged as they are written.
        (
            r#""Subject":"[\u00001]","Site":"[{\"a\":\"\ud800\"}]""#,
            r#""Subject":"[\ufffd1]","Site":" [{\"a\":\"\ufffd\"}]""#,
        ),
        (
            "\"Subject\":\"[\n1]\",\"Site\":\"[\\\"\u{0}\\\"]\"",
            r#""Subject":" [\u000a1]","Site":" [\"\ufffd\"]""#,
        ),
    ]);
    for inside in [false, true] {
        let long = "7".repeat(33_000);
        let value = if inside { format!("[{long}]") } else { long };
        let line = line(format!("{{\"Version\":{value}}}").as_bytes()).unwrap();
        let version = &json_of(&line)["office365"]["Version"];
        let text = if inside { &version[0] } else { version };
        assert_eq!(text.as_str().unwrap().len(), MAX_STRING);
    }
    let long = "7".repeat(33_000);
    let line = line(format!("{{\"a\":{long}}}").as_bytes()).unwrap();
    assert_eq!(json_of(&line)["office365"]["a"].as_str().unwrap().len(), MAX_STRING);
}

#[test]
fn an_address_becomes_bare_and_what_it_was_is_kept() {
    assert_stays(&[
        r#""ClientIP":"<null>""#,
        r#""ClientIP":"""#,
        r#""ClientIP":"mail.example:25""#,
        r#""ClientIP":"2001:db8::1""#,
        r#""ClientIP":["x"]"#,
        r#""clientIP":"1.2.3.4:5""#,
        r#""Item":{"ClientIP":"1.2.3.4:5"}"#,
    ]);
    let becomes = |before: &str, after: &str| {
        let members = format!(r#""ClientIP":{before},"a":1"#);
        let expected = format!(r#""ClientIP":"{after}","a":1,"ClientIPAddressPort":{before}"#);
        assert_becomes(&[(&members, &expected)]);
    };
    becomes(r#""1.2.3.4:63070""#, "1.2.3.4");
    becomes(r#""[2001:db8::1]:443""#, "2001:db8::1");
    becomes(r#""::ffff:1.2.3.4""#, "1.2.3.4");
    becomes(r#""fe80::1%eth0""#, "fe80::1");
    becomes(r#"" 1.2.3.4 ""#, "1.2.3.4");
    becomes(r#""1.2.3.4, 5.6.7.8""#, "1.2.3.4");
    becomes(r#""1.2.3.4\u003a80""#, "1.2.3.4");
    becomes(r#""1.2.3.4, \ufffd""#, "1.2.3.4");
    becomes(r#"["1.2.3.4:5","6.7.8.9"]"#, "1.2.3.4");
    assert_becomes(&[
        (r#""ClientIP":null,"a":1"#, r#""a":1"#),
        (
            r#""ClientIP":"1.2.3.4,\u0000""#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4,\ufffd""#,
        ),
        (
            r#""ClientIP":"[\"1.2.3.4\"]""#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":" [\"1.2.3.4\"]""#,
        ),
        (
            r#""ClientIP":["1.2.3.4", 5 ,{}]"#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":" [\"1.2.3.4\",5,{}]""#,
        ),
        (
            r#""ClientIP":"1.2.3.4:5","ClientIP":"6.7.8.9:10""#,
            r#""ClientIP":"1.2.3.4","ClientIPAddressPort":"1.2.3.4:5","Overflow":"{\"ClientIP\":\"6.7.8.9:10\"}""#,
        ),
        (
            r#""ClientIP":"","ClientIP":"6.7.8.9:10""#,
            r#""ClientIP":"6.7.8.9","ClientIPAddressPort":"6.7.8.9:10","Overflow":"{\"ClientIP\":\"\"}""#,
        ),
    ]);
}

#[test]
fn without_normalize_all_else_stays() {
    let members = [
        r#""ClientIP":"1.2.3.4:5","a":1.50,"b":[1,null],"c":null,"d":"[1]""#,
        r#""Parameters":"a","Subject":{"x":1},"":1,"a..b":2,"a":1,"A":2,"a":3"#,
    ];
    for members in members {
        assert_by(&Kinds::default(), &PLAIN, &[(members, members)]);
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
fn the_limits_are_those_of_the_contract() {
    assert_eq!(
        (MAX_LINE, MAX_STRING, MAX_FIELDS, MAX_NAME_LEVELS, MAX_LEVELS, MAX_LEARNED),
        (64_512, 32_700, 256, 16, 100, 4096)
    );
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
    let like_a_list = Exclude { operation: text("[1]"), ..Exclude::default() };
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
        (&by_type, members(&[r#""RecordType":5e1"#]), true),
        (&like_a_list, members(&[r#""Operation":"[1]""#]), true),
        (&like_a_list, members(&[r#""Operation":"[1]","new":1"#]), true),
    ];
    let other = Exclude { workload: text("Other"), ..Exclude::default() };
    for (filter, record, expected) in table {
        for normalize in [true, false] {
            let options = Options { normalize, exclude: vec![other.clone(), filter.clone()] };
            let mut out = b"before".to_vec();
            let (record, id) = (record.as_bytes(), &mut Vec::new());
            let kinds = Kinds::default();
            let mut maker = LineMaker::new(&options, &kinds);
            let (dlp, yes) = (ContentType::Dlp, Learning::Yes);
            let fate = maker.append_line(record, dlp, yes, id, &mut out).unwrap();
            let record = String::from_utf8_lossy(record);
            assert_eq!(fate == Fate::Excluded, expected, "{filter:?} {record}");
            assert_eq!(out == b"before", expected);
        }
    }
}

#[test]
fn the_id_is_found_for_going_on_in_the_middle() {
    let (kinds, mut out) = (Kinds::default(), Vec::new());
    let mut maker = LineMaker::new(&NORMALIZE, &kinds);
    let mut id = |record: &[u8]| {
        let mut id = b"another".to_vec();
        let dlp = ContentType::Dlp;
        maker.append_line(record, dlp, Learning::Yes, &mut id, &mut out).unwrap();
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
        assert_eq!(line(text.as_bytes()), Err(Unusable::NotAnObject), "{text}");
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
        let (kinds, mut out) = (Kinds::default(), Vec::new());
        let mut maker = LineMaker::new(&NORMALIZE, &kinds);
        let (dlp, id) = (ContentType::Dlp, &mut Vec::new());
        if maker.append_line(&record, dlp, Learning::Yes, id, &mut out).is_ok() {
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert!(std::str::from_utf8(&out).is_ok());
        }
    }
}
