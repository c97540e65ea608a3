//! What Wazuh's JSON decoder makes of a line: the fields that its rules see, and the alert.

use crate::cjson;
use crate::json::Json;

/// The longest line that reaches the decoder, in bytes.
pub const MAX_LINE: usize = 65_408;
/// The most fields that the decoder keeps.
pub const MAX_FIELDS: usize = 256;
/// Deeper objects are not built, so that no recursion in this crate overflows the stack.
const MAX_NESTING: usize = 1_000;

/// A decoded line.
#[derive(Clone, Debug)]
pub struct Alert {
    /// The alert's `data` object.
    pub data: Json,
    /// The decoded fields by dotted name, in their order: strings, and arrays.
    pub fields: Vec<(String, Json)>,
    /// How many fields came after the 256th.
    pub fields_cut: usize,
    /// The names of fields that are decoded but not in the alert: the name is taken, or its parent
    /// is not an object.
    pub lost: Vec<String>,
}

impl Alert {
    /// The value at a dotted path below `data`, for example `office365.Actor.ID`.
    pub fn get(&self, path: &str) -> Option<&Json> {
        path.split('.').try_fold(&self.data, |value, name| value.get(name))
    }

    /// The string at a dotted path below `data`.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// The decoded field of this name. It is what rules see.
    pub fn field(&self, name: &str) -> Option<&Json> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Whether rule 91531 fires, which all other Office 365 rules need.
    pub fn is_office365(&self) -> bool {
        self.field("integration").and_then(Json::as_str) == Some("office365")
    }

    /// Whether a rule for records (91532 and later) fires.
    pub fn is_record(&self) -> bool {
        let record_type = self.field("office365.RecordType").and_then(Json::as_str);
        self.is_office365() && record_type.is_some_and(is_number_like)
    }

    /// Whether rule 91648 fires: the line is a notice of the collector itself.
    pub fn is_notice(&self) -> bool {
        self.is_office365() && self.field("office365.actor").and_then(Json::as_str) == Some("wazuh")
    }

    /// Whether an alert is raised at all.
    pub fn is_raised(&self) -> bool {
        self.is_record() || self.is_notice()
    }
}

fn is_number_like(text: &str) -> bool {
    text.strip_prefix('-').unwrap_or(text).starts_with(|first: char| first.is_ascii_digit())
        && text.parse::<f64>().is_ok()
}

/// Decodes a line without its newline. `None` if the decoder does not take it.
pub fn decode(line: &[u8]) -> Option<Alert> {
    if !line.starts_with(b"{\"") || line.len() > MAX_LINE {
        return None;
    }
    let Json::Object(members) = cjson::read(line)? else { return None };
    let mut fields = Fields::default();
    fields.flatten(members, &mut String::new());

    let mut data = Vec::new();
    let mut lost = Vec::new();
    for (name, value) in &fields.kept {
        if !put(&mut data, name, value) {
            lost.push(name.clone());
        }
    }
    Some(Alert { data: Json::Object(data), fields: fields.kept, fields_cut: fields.cut, lost })
}

#[derive(Default)]
struct Fields {
    kept: Vec<(String, Json)>,
    cut: usize,
}

impl Fields {
    /// Adds the fields of an object. `path` is the dotted name of the object.
    fn flatten(&mut self, members: Vec<(String, Json)>, path: &mut String) {
        for (name, value) in members {
            let parent = path.len();
            if parent > 0 {
                path.push('.');
            }
            path.push_str(&name);
            match value {
                Json::Object(members) => self.flatten(members, path),
                Json::Array(_) => self.add(path, value),
                Json::Null => self.add(path, Json::String("null".into())),
                Json::Bool(value) => self.add(path, Json::String(value.to_string())),
                Json::Number(spelling) => self.add(path, Json::String(number(&spelling))),
                Json::String(text) if text.is_empty() => {}
                Json::String(_) => self.add(path, value),
            }
            path.truncate(parent);
        }
    }

    fn add(&mut self, path: &str, value: Json) {
        if self.kept.len() < MAX_FIELDS {
            self.kept.push((path.to_owned(), value));
        } else {
            self.cut += 1;
        }
    }
}

/// A number as the decoder writes it: integers of 32 bits as such, others with six decimals.
fn number(spelling: &str) -> String {
    let value: f64 = spelling.parse().unwrap_or(f64::NAN);
    if value.fract() == 0.0 && value >= f64::from(i32::MIN) && value <= f64::from(i32::MAX) {
        // Adding zero makes negative zero positive.
        format!("{:.0}", value + 0.0)
    } else {
        format!("{value:.6}")
    }
}

/// Puts a field into the alert by its dotted name. False if it is lost.
fn put(data: &mut Vec<(String, Json)>, name: &str, value: &Json) -> bool {
    let segments: Vec<&str> = name.split('.').collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    if parents.len() >= MAX_NESTING {
        return false;
    }
    let mut members = data;
    for parent in parents {
        let at = position(members, parent).unwrap_or_else(|| {
            members.push(((*parent).to_owned(), Json::Object(Vec::new())));
            members.len() - 1
        });
        let Json::Object(inner) = &mut members[at].1 else { return false };
        members = inner;
    }
    if position(members, last).is_some() {
        return false;
    }
    let array = value.as_str().and_then(cjson::array);
    members.push(((*last).to_owned(), array.unwrap_or_else(|| value.clone())));
    true
}

/// cJSON looks names up in any ASCII letter case.
fn position(members: &[(String, Json)], name: &str) -> Option<usize> {
    members.iter().position(|(own, _)| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alert of a record.
    fn record(members: &str) -> Alert {
        let line = format!(r#"{{"integration":"office365","office365":{{{members}}}}}"#);
        decode(line.as_bytes()).unwrap()
    }

    /// `data.office365` of a record's alert.
    fn data(members: &str) -> String {
        record(members).get("office365").map_or(String::new(), Json::to_compact)
    }

    #[test]
    fn needs_an_object_from_the_first_byte() {
        for line in [" {\"a\":1}", "{ \"a\":1}", "{}", "[1]", "{\"a\":1", "{\"a\"}", "x", ""] {
            assert!(decode(line.as_bytes()).is_none(), "{line}");
        }
        assert!(decode(b"{\"a\":1}").is_some());
    }

    #[test]
    fn limits_the_length_of_a_line() {
        let line = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        assert_eq!(line(65_408).len(), 65_408);
        assert!(decode(line(65_408).as_bytes()).is_some());
        assert!(decode(line(65_409).as_bytes()).is_none());
    }

    #[test]
    fn turns_scalars_into_strings() {
        for (value, expected) in [
            ("1", "\"1\""),
            ("-2147483648", "\"-2147483648\""),
            ("2147483647", "\"2147483647\""),
            ("2147483648", "\"2147483648.000000\""),
            ("1234567890123", "\"1234567890123.000000\""),
            ("0.1234567891234", "\"0.123457\""),
            ("1e-7", "\"0.000000\""),
            ("6.0", "\"6\""),
            ("-0", "\"0\""),
            ("true", "\"true\""),
            ("false", "\"false\""),
            ("null", "\"null\""),
            ("\"a\\u0000b\"", "\"a\""),
        ] {
            assert_eq!(data(&format!("\"v\":{value}")), format!("{{\"v\":{expected}}}"));
        }
    }

    #[test]
    fn arrays_keep_their_json() {
        let array = r#"{"v":[1,1.5,true,null,"a",{"b":1},[2]]}"#;
        assert_eq!(data(&array[1..array.len() - 1]), array);
        assert_eq!(record("\"v\":[1,2,{}],\"w\":1").fields.len(), 3);
    }

    #[test]
    fn drops_what_is_empty() {
        assert_eq!(data(r#""a":"","b":{},"c":[],"d":{"e":{}},"f":"\u0000x""#), r#"{"c":[]}"#);
    }

    #[test]
    fn lists_in_strings_become_arrays() {
        for (text, expected) in [
            ("[1]", "[1]"),
            ("[{}]", "[{}]"),
            ("[01]", "[01]"),
            ("[1.]", "[1.]"),
            ("[\\\"a\\tb\\\"]", "[\"a\\tb\"]"),
            ("[1] ", "\"[1] \""),
            (" [1]", "\" [1]\""),
            ("[NaN]", "\"[NaN]\""),
            ("[1,]", "\"[1,]\""),
            ("[External]", "\"[External]\""),
            ("[1]\\u0000", "[1]"),
        ] {
            assert_eq!(
                data(&format!("\"Subject\":\"{text}\"")),
                format!("{{\"Subject\":{expected}}}")
            );
        }
        assert_eq!(data(r#""v":["[1]"]"#), r#"{"v":["[1]"]}"#);
    }

    #[test]
    fn names_in_any_letter_case_are_one_name() {
        let alert = record(r#""Operation":"a","operation":"b""#);
        assert_eq!(alert.text("office365.Operation"), Some("a"));
        assert_eq!(alert.lost, ["office365.operation"]);
        assert_eq!(data(r#""a":{"b":1},"A":{"c":2,"B":3}"#), r#"{"a":{"b":"1","c":"2"}}"#);
        assert_eq!(data(r#""é":1,"É":2"#), r#"{"é":"1","É":"2"}"#);
    }

    #[test]
    fn a_name_with_dots_nests() {
        assert_eq!(data(r#""a.b":1,"a":{"c":2}"#), r#"{"a":{"b":"1","c":"2"}}"#);
        assert_eq!(record(r#""a":1,"a.b":2"#).lost, ["office365.a.b"]);
        assert_eq!(record(r#""a":[{}],"a.b":2"#).lost, ["office365.a.b"]);
        assert_eq!(record(r#""a.b":1,"a":2"#).lost, ["office365.a"]);
        let dots = ".".repeat(60_000);
        assert_eq!(record(&format!("\"{dots}\":1")).lost.len(), 1);
    }

    #[test]
    fn keeps_256_fields() {
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|index| format!("\"f{index}\":1")).collect();
            members.join(",")
        };
        // `integration` is a field as well.
        assert_eq!(record(&members(255)).fields_cut, 0);
        let alert = record(&members(256));
        assert_eq!((alert.fields.len(), alert.fields_cut), (256, 1));
        assert!(alert.get("office365.f254").is_some());
        assert!(alert.get("office365.f255").is_none());
        assert!(record(&(members(254) + ",\"RecordType\":1")).is_raised());
        assert!(!record(&(members(255) + ",\"RecordType\":1")).is_raised());
        assert!(record(&(members(254) + ",\"a\":\"\",\"b\":{},\"RecordType\":1")).is_raised());
    }

    #[test]
    fn only_a_record_type_raises_an_alert() {
        for (members, raised) in [
            ("\"RecordType\":1", true),
            ("\"RecordType\":\"1\"", true),
            ("\"RecordType\":1234567890123", true),
            ("\"RecordType\":null", false),
            ("\"RecordType\":\"\"", false),
            ("\"RecordType\":\"ExchangeAdmin\"", false),
            ("\"RecordType\":[1]", false),
            ("\"recordtype\":1", false),
            ("\"Id\":\"1\"", false),
            ("\"actor\":\"wazuh\"", true),
            ("\"actor\":\"x\"", false),
            ("\"Actor\":\"wazuh\"", false),
        ] {
            assert_eq!(record(members).is_raised(), raised, "{members}");
        }
        assert!(record("\"actor\":\"wazuh\"").is_notice());
        let other = decode(br#"{"integration":"aws","office365":{"RecordType":1}}"#).unwrap();
        assert!(!other.is_office365() && !other.is_raised());
    }
}
