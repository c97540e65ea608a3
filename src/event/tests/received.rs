//! Whatever records come, in whatever order: the model of the receiver takes every line, and finds in it
//! all that was sent.

use proptest::prelude::*;
use wazuh_receiver::decoder::decode;
use wazuh_receiver::fidelity::{self, Expected, judge, needs_no_repair};
use wazuh_receiver::index::Index;
use wazuh_receiver::json::{Json, parse_as_sent};

use super::*;
use crate::event::kinds::{PathId, ROOT};
use crate::notice::{Kind as NoticeKind, Notice};
use crate::timestamp::Timestamp;

/// What comes one after another.
#[derive(Clone, Debug)]
enum Step {
    Record(String, ContentType),
    Notice(String),
    /// The run ends, and the next one reads what it has saved.
    NextRun,
}

/// A name of a member: Microsoft's, or an unknown one, in several spellings. Not `RecordType`, without which
/// there is no alert.
fn name() -> impl Strategy<Value = String> {
    let microsofts = prop::sample::select(vec![
        "Parameters",
        "Item",
        "Subject",
        "Actor",
        "Folders",
        "FolderItems",
        "Name",
        "Value",
        "ID",
        "Id",
        "Type",
        "Path",
        "ParentFolder",
        "ModifiedProperties",
        "ClientIP",
        "UserId",
        "ResultStatus",
        "Operation",
        "Teams",
        "ObjectId",
    ]);
    let ours = prop::sample::select(vec![
        "actor",
        "Overflow",
        "Truncated",
        "Subscription",
        "ClientIPAddressPort",
        "response",
        "from",
    ]);
    let spellings = (any::<u8>(), "[a-d]").prop_map(|(how, name)| match how % 4 {
        0 => name.to_ascii_uppercase(),
        _ => name,
    });
    prop_oneof![
        6 => microsofts.prop_map(str::to_owned),
        6 => spellings,
        1 => ours.prop_map(str::to_owned),
        1 => prop::sample::select(vec!["operation", "userid", "ITEM", "id", "parameters"])
            .prop_map(str::to_owned),
        1 => "[ab.\\. ü\u{1f}\u{0}\"]{0,5}",
        1 => (200..300_usize).prop_map(|length| "n".repeat(length)),
    ]
}

/// A scalar as JSON.
fn scalar() -> impl Strategy<Value = String> {
    let quoted = |text: String| Value::from(text).to_string();
    let length = prop_oneof![200 => 1..4_usize, 2 => 200..3000_usize, 1 => 9_000..20_000_usize];
    prop_oneof![
        2 => Just("null".to_owned()),
        2 => Just("\"\"".to_owned()),
        1 => any::<bool>().prop_map(|value| value.to_string()),
        2 => any::<i64>().prop_map(|value| value.to_string()),
        2 => any::<i8>().prop_map(|value| value.to_string()),
        2 => "-?(0|[1-9][0-9]{0,11})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        2 => "\\[[\\[\\]{}1,.\" ]{0,6}".prop_map(quoted),
        1 => prop::sample::select(vec![
            "[1]", "[{}]", "[01]", "[\"a\"]", "[External]", "[1] ", "{\"a\":1}", "null", "true",
        ]).prop_map(move |text| quoted(text.to_owned())),
        1 => "(\\[?(::ffff:)?1\\.2\\.3\\.4\\]?|\\[?2001:db8::1(%e0)?\\]?)(:80)?(, 5.6.7.8)?".prop_map(quoted),
        6 => ("[a-c\"\\\\ü日😀\n\u{1}\u{0}.]{0,6}", length)
            .prop_map(move |(text, n)| quoted(text.repeat(n))),
        2 => "(\\[|\\\\u005b)?(1|\\\\u0000|\\\\ud83d|\\\\\"|\n|\t|\u{0}|,|1\\.2\\.3\\.4|:80){0,4}(\\])?"
            .prop_map(|inside| format!("\"{inside}\"")),
        1 => (1..80_usize).prop_map(|digits| "7".repeat(digits)),
    ]
}

/// A value as JSON.
fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| format!("[{}]", items.join(","))),
            3 => members(inner, 0..5).prop_map(|members| format!("{{{members}}}")),
        ]
    })
}

/// Members as JSON.
fn members(
    value: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec((name(), value), count).prop_map(|members| {
        let member = |(name, value)| format!("{}:{value}", Value::from(name));
        members.into_iter().map(member).collect::<Vec<_>>().join(",")
    })
}

fn record_text() -> impl Strategy<Value = String> {
    let many = prop_oneof![12 => Just(0), 1 => 200..300_usize];
    let nested = prop_oneof![20 => Just(0), 1 => 10..30_usize];
    (members(value(), 0..8), many, nested, any::<bool>()).prop_map(
        |(members, many, nested, first)| {
            let more = numbered(many, "1");
            let deep = format!(",\"deep\":{}1{}", "{\"a\":".repeat(nested), "}".repeat(nested));
            let deep = if nested == 0 { String::new() } else { deep };
            let mandatory = record("").replace(['{', '}'], "");
            match (members.is_empty(), first) {
                (true, _) => format!("{{{mandatory}{more}{deep}}}"),
                (_, true) => format!("{{{members},{mandatory}{more}{deep}}}"),
                (_, false) => format!("{{{mandatory},{members}{deep}{more}}}"),
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let content_type = prop::sample::select(ContentType::ALL.to_vec());
    let response = prop::sample::select(vec!["plain", "[1]", "[{}]", "", "x\u{0}y"]);
    prop_oneof![
        12 => (record_text(), content_type).prop_map(|(text, name)| Step::Record(text, name)),
        1 => response.prop_map(|text| Step::Notice(text.to_owned())),
        1 => Just(Step::NextRun),
    ]
}

/// Whether each path of a record holds the kind that is known of it.
fn holds_known_kinds(kinds: &Kinds, value: &Json, parent: PathId) -> bool {
    let Json::Object(members) = value else { return true };
    // What a dotted name stands for is not looked up here.
    members.iter().all(|(name, value)| !name.contains('.') && {
        let Some(known) = kinds.find(parent, name.as_bytes()) else {
            return matches!(value, Json::String(text) if text.is_empty())
                || matches!(value, Json::Object(members) if members.is_empty())
                || matches!(value, Json::Array(items) if items.iter().all(|i| *i == Json::Null));
        };
        let objects = known.path.kind.is_objects();
        let holds = |value: &Json| holds_known_kinds(kinds, value, known.path.id);
        match value {
            Json::Object(members) => (objects || members.is_empty()) && holds(value),
            Json::Array(items) => items.iter().all(|item| match item {
                Json::Null => true,
                Json::Object(_) => objects && holds(item),
                _ => !objects,
            }),
            Json::String(text) if text.is_empty() => true,
            _ => !objects,
        }
    })
}

/// Makes lines of what comes, and has them judged.
fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut kinds = Kinds::default();
    let (mut index, mut sent) = (Index::new(), fidelity::Kinds::default());
    let mut now = Timestamp::from_unix(1_800_000_000);
    for step in steps {
        let line = match step {
            Step::Record(text, content_type) => {
                let json = parse_as_sent(text.as_bytes()).ok();
                let mut maker = LineMaker::new(&NORMALIZE, &kinds);
                let (id, mut out) = (&mut Vec::new(), Vec::new());
                let record = text.as_bytes();
                let fate = maker.append_line(record, *content_type, Learning::Yes, id, &mut out);
                prop_assert!(fate.is_ok(), "{:?}: {}", fate, text);
                prop_assert_eq!(out.pop(), Some(b'\n'));
                if let Some(json) = &json {
                    sent.note(json);
                }
                let expected = Expected {
                    subscription: content_type.name(),
                    paths_are_full: false,
                    kinds: Some(&sent),
                };
                if let Err(why) = judge(record, &out, expected) {
                    prop_assert!(false, "{}\n{}\n{}", why, text, String::from_utf8_lossy(&out));
                }
                // The ordinary way and the other one come to the same.
                let mut rules = Vec::new();
                let most = MAX_LINE - HEAD.len() - 40;
                maker.append_rewritten(record, most, Learning::No, id, &mut rules).unwrap();
                let mut ordinary = Vec::new();
                if maker.ordinary(record, most, id, &mut ordinary).unwrap().is_some() {
                    let texts = [ordinary, rules].map(|text| String::from_utf8(text).unwrap());
                    prop_assert_eq!(&texts[0], &texts[1], "{}", text);
                }
                let untouched = json.is_some_and(|json| {
                    needs_no_repair(&json) && holds_known_kinds(&kinds, &json, ROOT.id)
                });
                if untouched {
                    let mut maker = LineMaker::new(&PLAIN, &kinds);
                    let mut plain = Vec::new();
                    let fate =
                        maker.append_line(record, *content_type, Learning::No, id, &mut plain);
                    prop_assert_eq!((fate, plain.pop()), (Ok(Fate::Whole), Some(b'\n')));
                    prop_assert_eq!(String::from_utf8(plain), String::from_utf8(out.clone()));
                }
                out
            }
            Step::Notice(text) => {
                let mut line = Notice::new(NoticeKind::Gap, text, None, text.clone())
                    .content(text)
                    .window(now, now)
                    .line();
                line.pop();
                line
            }
            Step::NextRun => {
                now = now.plus(3600);
                let mut saved = None;
                kinds
                    .save(now, |bytes| {
                        saved = Some(bytes.to_vec());
                        Ok(())
                    })
                    .unwrap();
                if let Some(bytes) = saved {
                    let (bytes, name) = (Ok(bytes), "kinds.json".to_owned());
                    kinds = Kinds::new(Some(Saved { bytes, name, now }));
                }
                continue;
            }
        };
        let line_text = String::from_utf8_lossy(&line);
        let alert = decode(&line);
        prop_assert!(alert.as_ref().is_some_and(|a| a.is_raised()), "no alert: {}", line_text);
        if let Some(alert) = alert {
            prop_assert_eq!(&alert.lost, &Vec::<String>::new(), "{}", line_text);
            prop_assert_eq!(alert.is_notice(), matches!(step, Step::Notice(_)));
            let added = index.add(&alert).map_err(|why| why.to_string());
            prop_assert_eq!(added, Ok(()), "{}", line_text);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_record_becomes_an_alert_and_no_event_rejects_another(
        steps in prop::collection::vec(step(), 1..14),
    ) {
        check(&steps)?;
    }
}

#[test]
fn exchange_records_survive_a_string_that_comes_first() {
    let of = |parameters: &str| {
        Step::Record(record(&format!(",\"Parameters\":{parameters}")), ContentType::Exchange)
    };
    let objects = of(r#"[{"Name":"Identity","Value":"x"},{"Name":"AccessRights"}]"#);
    check(&[of("\"-Identity 'x'\""), objects.clone(), of("\"\""), of("[1]"), objects]).unwrap();
}
