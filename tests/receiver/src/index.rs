//! One day's index: OpenSearch's dynamic mapping under Wazuh's template. The first value of a
//! field decides what the field takes for the rest of the day.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::decoder::Alert;
use crate::json::Json;

/// The longest string that a keyword field takes, in bytes.
pub const MAX_STRING: usize = 32_766;
/// The most levels of a document. The record's own members are on level 3.
pub const MAX_LEVELS: usize = 20;
/// The most fields of an index, objects included.
pub const MAX_FIELDS: usize = 10_000;
/// How many fields Wazuh's template defines.
pub const TEMPLATE_FIELDS: usize = 688;

/// What the template says about the fields that this model deals with.
const TEMPLATE: &[(&str, Type)] = &[
    ("data", Type::Object),
    ("data.integration", Type::Keyword),
    ("data.office365", Type::Object),
    ("data.office365.Actor", Type::Object),
    ("data.office365.Actor.ID", Type::Keyword),
    ("data.office365.ClientIP", Type::Keyword),
    ("data.office365.Operation", Type::Keyword),
    ("data.office365.ResultStatus", Type::Keyword),
    ("data.office365.Subscription", Type::Keyword),
    ("data.office365.UserId", Type::Keyword),
];

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Takes strings, numbers and booleans.
    Keyword,
    /// Takes numbers, and strings that hold one. A fraction is cut off.
    Long,
    /// Takes numbers, and strings that hold one.
    Float,
    /// Takes `true`, `false`, and these two as strings.
    Boolean,
    /// Takes objects.
    Object,
}

/// Why an alert was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A scalar where the field is an object.
    TextWhereObject,
    /// An object where the field is text.
    ObjectWhereText,
    /// A scalar that the field's type does not take.
    Unfit(Type),
    /// A string over 32,766 bytes.
    LongString,
    /// A member below level 20.
    TooDeep,
    /// More than 10,000 fields in the index.
    TooManyFields,
    /// A name that is empty, blank, or has an empty or blank segment.
    BadName,
    /// The same name twice in one object.
    DuplicateName,
}

/// A rejected alert: the whole document is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The dotted path of the field, from `data`.
    pub path: String,
    /// What is wrong there.
    pub reason: Reason,
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the index rejects {}: {:?}", self.path, self.reason)
    }
}

/// One day's index.
#[derive(Clone, Debug)]
pub struct Index {
    types: HashMap<String, Type>,
    fields: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An index without alerts. It holds only the template's fields.
    pub fn new() -> Self {
        let types = TEMPLATE.iter().map(|&(path, kind)| (path.to_owned(), kind)).collect();
        Index { types, fields: TEMPLATE_FIELDS }
    }

    /// Adds an alert. A rejected alert changes nothing.
    pub fn add(&mut self, alert: &Alert) -> Result<(), Rejection> {
        let mut document =
            Document { known: &self.types, new: HashMap::new(), path: String::from("data") };
        document.value(&alert.data, 1)?;
        let new = document.new;
        if self.fields + new.len() > MAX_FIELDS {
            return Err(Rejection { path: "data".into(), reason: Reason::TooManyFields });
        }
        self.fields += new.len();
        self.types.extend(new);
        Ok(())
    }

    /// The type of the field at a dotted path, for example `data.office365.Actor`.
    pub fn type_of(&self, path: &str) -> Option<Type> {
        self.types.get(path).copied()
    }

    /// The number of fields, objects and the template's own included.
    pub fn fields(&self) -> usize {
        self.fields
    }
}

/// One alert on its way into the index.
struct Document<'a> {
    known: &'a HashMap<String, Type>,
    new: HashMap<String, Type>,
    path: String,
}

impl Document<'_> {
    /// Maps the value at the current path, which has `level` segments.
    fn value(&mut self, value: &Json, level: usize) -> Result<(), Rejection> {
        match value {
            Json::Null => Ok(()),
            // Arrays within arrays are flattened.
            Json::Array(items) => items.iter().try_for_each(|item| self.value(item, level)),
            Json::Object(members) => {
                self.object(level)?;
                self.members(members, level)
            }
            scalar => self.scalar(scalar, level),
        }
    }

    fn members(&mut self, members: &[(String, Json)], level: usize) -> Result<(), Rejection> {
        let mut names = HashSet::with_capacity(members.len());
        let parent = self.path.len();
        for (name, value) in members {
            let mut level = level;
            for (index, segment) in name.split('.').enumerate() {
                if index > 0 {
                    self.object(level)?;
                }
                self.path.push('.');
                self.path.push_str(segment);
                level += 1;
                if segment.chars().all(is_blank) {
                    return Err(self.rejection(Reason::BadName));
                }
            }
            if !names.insert(name) {
                return Err(self.rejection(Reason::DuplicateName));
            }
            self.value(value, level)?;
            self.path.truncate(parent);
        }
        Ok(())
    }

    fn object(&mut self, level: usize) -> Result<(), Rejection> {
        match self.field(Type::Object, level)? {
            Type::Object => Ok(()),
            _ => Err(self.rejection(Reason::ObjectWhereText)),
        }
    }

    fn scalar(&mut self, value: &Json, level: usize) -> Result<(), Rejection> {
        let kind = self.field(dynamic_type(value), level)?;
        let fits = match (kind, value) {
            (Type::Object, _) => return Err(self.rejection(Reason::TextWhereObject)),
            (Type::Keyword, Json::String(text)) if text.len() > MAX_STRING => {
                return Err(self.rejection(Reason::LongString));
            }
            (Type::Keyword, _) => true,
            (Type::Long | Type::Float, Json::Number(text) | Json::String(text)) => {
                let limit = if kind == Type::Long { 9.3e18 } else { f64::from(f32::MAX) };
                text.is_empty() || text.parse::<f64>().is_ok_and(|number| number.abs() < limit)
            }
            (Type::Boolean, Json::Bool(_)) => true,
            (Type::Boolean, Json::String(text)) => matches!(text.as_str(), "true" | "false" | ""),
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.rejection(Reason::Unfit(kind))) }
    }

    /// The type of the field at the current path; `first` if this is its first value.
    fn field(&mut self, first: Type, level: usize) -> Result<Type, Rejection> {
        if level > MAX_LEVELS {
            return Err(self.rejection(Reason::TooDeep));
        }
        if let Some(&kind) = self.known.get(&self.path).or_else(|| self.new.get(&self.path)) {
            return Ok(kind);
        }
        self.new.insert(self.path.clone(), first);
        Ok(first)
    }

    fn rejection(&self, reason: Reason) -> Rejection {
        Rejection { path: self.path.clone(), reason }
    }
}

/// The type that a first value gives its field.
fn dynamic_type(value: &Json) -> Type {
    match value {
        Json::Bool(_) => Type::Boolean,
        // Wazuh prints numbers in its own way: `6.0` as `6`, and long ones with an exponent.
        Json::Number(spelling) => match spelling.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 && number.abs() < 1e15 => Type::Long,
            _ => Type::Float,
        },
        Json::Object(_) => Type::Object,
        _ => Type::Keyword,
    }
}

/// White space as Java has it: without the no-break spaces, with four control characters.
fn is_blank(character: char) -> bool {
    match character {
        '\u{1c}'..='\u{1f}' => true,
        '\u{85}' | '\u{a0}' | '\u{2007}' | '\u{202f}' => false,
        other => other.is_whitespace(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::decode;

    fn alert(members: &str) -> Alert {
        let line = format!(r#"{{"integration":"office365","office365":{{{members}}}}}"#);
        decode(line.as_bytes()).unwrap()
    }

    /// What becomes of the last of several records.
    fn last(records: &[&str]) -> Result<(), Reason> {
        let mut index = Index::new();
        let results: Vec<_> = records.iter().map(|record| index.add(&alert(record))).collect();
        results.last().unwrap().clone().map_err(|rejection| rejection.reason)
    }

    #[test]
    fn first_value_of_the_day_decides() {
        use Reason::{ObjectWhereText, TextWhereObject, Unfit};
        let cases: &[(&[&str], Result<(), Reason>)] = &[
            // With `Parameters` as a string first, 3,648 real records were rejected.
            (
                &[r#""Parameters":"-Identity x""#, r#""Parameters":[{"Name":"Identity"}]"#],
                Err(ObjectWhereText),
            ),
            (
                &[r#""Parameters":[{"Name":"Identity"}]"#, r#""Parameters":"x""#],
                Err(TextWhereObject),
            ),
            (&[r#""a":{"b":1}"#, r#""a":1"#], Err(TextWhereObject)),
            (&[r#""a":1"#, r#""a":{"b":1}"#], Err(ObjectWhereText)),
            (&[r#""a":1"#, r#""a.b":1"#], Err(ObjectWhereText)),
            (&[r#""a.b":1"#, r#""a":"x""#], Err(TextWhereObject)),
            // A mail with the subject `[1]`.
            (&[r#""Subject":"[1]""#, r#""Subject":"hello""#], Err(Unfit(Type::Long))),
            (&[r#""Subject":"[{}]""#, r#""Subject":"hello""#], Err(TextWhereObject)),
            (&[r#""Subject":" [1]""#, r#""Subject":"hello""#], Ok(())),
            (&[r#""a":[1]"#, r#""a":"2""#], Ok(())),
            (&[r#""a":[1]"#, r#""a":[2.5]"#], Ok(())),
            (&[r#""a":[1]"#, r#""a":[true]"#], Err(Unfit(Type::Long))),
            (&[r#""a":[1.5]"#, r#""a":["x"]"#], Err(Unfit(Type::Float))),
            (&[r#""a":[1.5]"#, r#""a":[1]"#], Ok(())),
            (&[r#""a":[true]"#, r#""a":"false""#], Ok(())),
            (&[r#""a":[true]"#, r#""a":"x""#], Err(Unfit(Type::Boolean))),
            (&[r#""a":[true]"#, r#""a":[1]"#], Err(Unfit(Type::Boolean))),
            (&[r#""a":[true]"#, r#""a":1"#], Err(Unfit(Type::Boolean))),
            (&[r#""a":"x""#, r#""a":[1,true,"y",null]"#], Ok(())),
            (&[r#""a":["x",{}]"#], Err(ObjectWhereText)),
            (&[r#""a":[{},"x"]"#], Err(TextWhereObject)),
            (&[r#""a":[[1],["x"]]"#], Err(Unfit(Type::Long))),
            (&[r#""a":[["x"]]"#, r#""a":[[{}]]"#], Err(ObjectWhereText)),
            (&[r#""a":[{"b":1}]"#, r#""a":[{"b":"x"}]"#], Err(Unfit(Type::Long))),
            (&[r#""a":[{"b":null}]"#, r#""a":[{"b":{}}]"#], Ok(())),
            (&[r#""a":[]"#, r#""a":[null]"#, r#""a":{"b":1}"#], Ok(())),
            // The decoder makes text of a null.
            (&[r#""a":null"#, r#""a":{"b":1}"#], Err(ObjectWhereText)),
        ];
        for (records, expected) in cases {
            assert_eq!(last(records), *expected, "{records:?}");
        }
    }

    #[test]
    fn template_decides_before_the_first_value() {
        for (record, expected) in [
            (r#""Actor":"x""#, Err(Reason::TextWhereObject)),
            (r#""Actor":["x"]"#, Err(Reason::TextWhereObject)),
            (r#""Actor":[{"ID":"x","Type":0}]"#, Ok(())),
            (r#""Actor":[{"ID":{}}]"#, Err(Reason::ObjectWhereText)),
            (r#""UserId":{"a":1}"#, Err(Reason::ObjectWhereText)),
            (r#""Operation":{"a":1}"#, Err(Reason::ObjectWhereText)),
            (r#""ClientIP":{"a":1}"#, Err(Reason::ObjectWhereText)),
            (r#""ResultStatus":{"a":1}"#, Err(Reason::ObjectWhereText)),
            (r#""Subscription":{"a":1}"#, Err(Reason::ObjectWhereText)),
            (r#""UserId":[1]"#, Ok(())),
        ] {
            assert_eq!(last(&[record]), expected, "{record}");
        }
    }

    #[test]
    fn rejects_bad_names() {
        for name in ["", " ", ".a", "a.", "a..b", "a. .b", ".", "\\t", "\\u001f", "\\u2003"] {
            let record = format!("\"{name}\":1");
            assert_eq!(last(&[&record]), Err(Reason::BadName), "{name:?}");
            let record = format!("\"x\":[{{\"{name}\":\"1\"}}]");
            assert_eq!(last(&[&record]), Err(Reason::BadName), "{name:?}");
        }
        assert_eq!(last(&["\"a b\":1,\"\\u00a0\":1"]), Ok(()));
        assert_eq!(last(&[r#""x":[{"a":1,"a":2}]"#]), Err(Reason::DuplicateName));
        assert_eq!(last(&[r#""x":[{"a":1,"A":2}]"#]), Ok(()));
    }

    #[test]
    fn limits_strings_levels_and_fields() {
        let string = |length: usize| format!("\"a\":\"{}\"", "x".repeat(length));
        assert_eq!(last(&[&string(32_766)]), Ok(()));
        assert_eq!(last(&[&string(32_767)]), Err(Reason::LongString));

        // The record's first level is the document's third.
        let deep =
            |levels: usize| "\"a\":{".repeat(levels - 1) + "\"a\":1" + &"}".repeat(levels - 1);
        assert_eq!(last(&[&deep(18)]), Ok(()));
        assert_eq!(last(&[&deep(19)]), Err(Reason::TooDeep));
        let dotted = format!("\"x\":[{{\"{}\":\"\"}}]", ["a"; 18].join("."));
        assert_eq!(last(&[&dotted]), Err(Reason::TooDeep));

        let mut index = Index::new();
        assert_eq!(index.fields(), 688);
        for batch in 0..46 {
            let items: Vec<String> = (0..200).map(|n| format!("\"f{batch}-{n}\":\"\"")).collect();
            index.add(&alert(&format!("\"x\":[{{{}}}]", items.join(",")))).unwrap();
        }
        assert_eq!(index.fields(), 688 + 1 + 46 * 200);
        let more = |count: usize| {
            let items: Vec<String> = (0..count).map(|n| format!("\"g{n}\":1")).collect();
            alert(&items.join(","))
        };
        assert!(index.add(&more(112)).is_err());
        assert_eq!(index.add(&more(111)), Ok(()));
        assert_eq!(index.fields(), 10_000);
        assert_eq!(index.add(&more(111)), Ok(()));
    }

    #[test]
    fn a_rejected_alert_changes_nothing() {
        let mut index = Index::new();
        assert!(index.add(&alert(r#""new":"x","Actor":"x""#)).is_err());
        assert_eq!(index.type_of("data.office365.new"), None);
        assert_eq!(index.fields(), 688);
        assert_eq!(index.add(&alert(r#""new":{"x":1}"#)), Ok(()));
        assert_eq!(index.type_of("data.office365.new"), Some(Type::Object));
    }
}
