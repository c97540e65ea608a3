//! How many fields Wazuh's decoder makes of a record, and what to do where these are too many.
//!
//! The decoder flattens objects; an array or a null is one field, `""` and `{}` are none. Behind the
//! 256th it keeps nothing, so a record whose `RecordType` comes late would match no rule.

use super::MOST_LEVELS;
use super::json::{take, value_length};

/// Which objects have to become strings.
pub(super) struct Folding {
    /// On this level some have to, and below it all that have more than one field.
    level: usize,
    /// Which of that level, in their order.
    strings: std::vec::IntoIter<bool>,
}

impl Folding {
    /// The deepest objects, the largest first, until `members` make no more than `most` fields, or all
    /// objects of more than one field are strings.
    pub(super) fn of(members: &[u8], most: usize) -> Self {
        let levels = Levels::of(members);
        if levels.fields_down_to(MOST_LEVELS) <= most {
            return Self::none();
        }
        let all_below = (1..MOST_LEVELS).rev().find(|level| levels.fields_down_to(*level) <= most);
        let level = all_below.unwrap_or(1) + 1;
        let mut excess = levels.fields_down_to(level).saturating_sub(most);
        let mut sizes: Vec<_> = sizes(members, level).into_iter().enumerate().collect();
        sizes.sort_by_key(|(_, fields)| std::cmp::Reverse(*fields));
        let mut strings = vec![false; sizes.len()];
        for (n, fields) in sizes {
            if excess == 0 || fields < 2 {
                break;
            }
            excess = excess.saturating_sub(fields - 1);
            if let Some(string) = strings.get_mut(n) {
                *string = true;
            }
        }
        Self { level, strings: strings.into_iter() }
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self { level: usize::MAX, strings: Vec::new().into_iter() }
    }

    /// Takes the object that comes next in `walk`, if it is one that has to. To be asked before each
    /// step.
    pub(super) fn next<'a>(&mut self, walk: &mut Walk<'a>) -> Option<&'a [u8]> {
        let level = walk.level + 1;
        // Others are not measured.
        if level < self.level {
            return None;
        }
        let object = walk.object()?;
        let has_to = match level == self.level {
            true => self.strings.next().unwrap_or_default(),
            false => fields_of(object) > 1,
        };
        has_to.then(|| take(&mut walk.rest, |_| object.len()))
    }
}

/// The fields of a value.
pub(super) fn fields_of(value: &[u8]) -> usize {
    match value {
        [b'{', inside @ .., b'}'] => {
            let mut walk = Walk::new(inside);
            let steps = std::iter::from_fn(|| walk.step());
            steps.filter(|step| matches!(step, Step::Field(_))).count()
        }
        b"\"\"" => 0,
        _ => 1,
    }
}

/// What each object of `level` makes, in their order, where those below it are strings.
fn sizes(members: &[u8], level: usize) -> Vec<usize> {
    let mut walk = Walk::new(members);
    let (mut sizes, mut own) = (Vec::new(), 0);
    // Whether the object below `level` that is open has a field.
    let mut below = false;
    loop {
        match walk.step() {
            Some(Step::Field(_)) if walk.level == level => own += 1,
            Some(Step::Field(_)) => below = true,
            Some(Step::Open) if walk.level <= level + 1 => below = false,
            Some(Step::Close) if walk.level == level => {
                own += usize::from(below);
                below = false;
            }
            Some(Step::Close) if walk.level + 1 == level => sizes.push(std::mem::take(&mut own)),
            Some(_) => {}
            None => return sizes,
        }
    }
}

/// How many fields stand on each level, and how many objects on it have any.
struct Levels {
    fields: Vec<usize>,
    objects: Vec<usize>,
}

impl Levels {
    fn of(members: &[u8]) -> Self {
        let mut levels = Self { fields: Vec::new(), objects: Vec::new() };
        let add = |counts: &mut Vec<usize>, level: usize| {
            if counts.len() <= level {
                counts.resize(level + 1, 0);
            }
            if let Some(count) = counts.get_mut(level) {
                *count += 1;
            }
        };
        // How many objects are open that have had no field yet: the innermost ones.
        let mut empty = 0;
        let mut walk = Walk::new(members);
        while let Some(step) = walk.step() {
            match step {
                Step::Field(_) => {
                    add(&mut levels.fields, walk.level);
                    empty = 0;
                }
                Step::Key(_) | Step::Empty | Step::Comma => {}
                Step::Open => empty += 1,
                Step::Close if empty > 0 => empty -= 1,
                Step::Close => add(&mut levels.objects, walk.level + 1),
            }
        }
        levels
    }

    /// The fields if all objects below `level` were strings.
    fn fields_down_to(&self, level: usize) -> usize {
        let fields: usize = self.fields.iter().take(level + 1).sum();
        fields + self.objects.get(level + 1).unwrap_or(&0)
    }
}

/// Steps through the members of an object and of those in it, but not through arrays.
pub(super) struct Walk<'a> {
    rest: &'a [u8],
    /// 1 in the outermost object.
    level: usize,
    key_is_next: bool,
}

/// One token, or an array as a whole.
pub(super) enum Step<'a> {
    /// A key with its quotes; a colon follows it.
    Key(&'a [u8]),
    /// A value that is a field.
    Field(&'a [u8]),
    /// An empty string, which is none.
    Empty,
    Comma,
    /// Into an object; `level` is its own.
    Open,
    /// Out of one; `level` is what it is in.
    Close,
}

impl<'a> Walk<'a> {
    pub(super) fn new(members: &'a [u8]) -> Self {
        Self { rest: members, level: 1, key_is_next: true }
    }

    /// The object that comes next, if it is one.
    fn object(&self) -> Option<&'a [u8]> {
        let is_object = !self.key_is_next && self.rest.first() == Some(&b'{');
        if is_object { self.rest.get(..value_length(self.rest)) } else { None }
    }

    pub(super) fn step(&mut self) -> Option<Step<'a>> {
        Some(match self.rest.first()? {
            b'}' => {
                take(&mut self.rest, |_| 1);
                self.level -= 1;
                Step::Close
            }
            b',' => {
                take(&mut self.rest, |_| 1);
                self.key_is_next = true;
                Step::Comma
            }
            _ if self.key_is_next => {
                self.key_is_next = false;
                let key = take(&mut self.rest, value_length);
                take(&mut self.rest, |_| 1);
                Step::Key(key)
            }
            b'{' => {
                take(&mut self.rest, |_| 1);
                self.level += 1;
                self.key_is_next = true;
                Step::Open
            }
            _ => match take(&mut self.rest, value_length) {
                b"\"\"" => Step::Empty,
                value => Step::Field(value),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which objects of `members` become strings, by their texts.
    fn folded(members: &str, most: usize) -> Vec<&str> {
        let mut folding = Folding::of(members.as_bytes(), most);
        let mut walk = Walk::new(members.as_bytes());
        let mut strings = Vec::new();
        loop {
            if let Some(object) = folding.next(&mut walk) {
                strings.push(std::str::from_utf8(object).unwrap());
            } else if walk.step().is_none() {
                return strings;
            }
        }
    }

    #[test]
    fn fields_are_counted_as_wazuh_does() {
        let table = [
            ("1", 1),
            ("null", 1),
            ("\"\"", 0),
            ("\"x\"", 1),
            ("[]", 1),
            ("[{\"a\":1,\"b\":2}]", 1),
            ("{}", 0),
            ("{\"a\":{},\"b\":\"\"}", 0),
            ("{\"\":1}", 1),
            ("{\"a\":1,\"b\":{\"c\":[1,2],\"d\":{\"e\":null,\"f\":{}}},\"g\":\"}\"}", 4),
        ];
        for (value, fields) in table {
            assert_eq!(fields_of(value.as_bytes()), fields, "{value}");
        }
    }

    #[test]
    fn the_deepest_objects_become_strings_first_and_no_more_than_needed() {
        let members = r#""a":1,"b":{"c":2,"d":{"e":3,"f":4,"g":{"h":5,"i":6}},"j":{"k":7,"l":8,"m":9}},"n":{"o":10,"p":11},"#;
        let (g, j) = (r#"{"h":5,"i":6}"#, r#"{"k":7,"l":8,"m":9}"#);
        let d = &*format!(r#"{{"e":3,"f":4,"g":{g}}}"#);
        let b = &*format!(r#"{{"c":2,"d":{d},"j":{j}}}"#);
        let n = r#"{"o":10,"p":11}"#;
        // 11 fields. Of two objects on a level the larger one, or the first.
        let none: [&str; 0] = [];
        assert_eq!(folded(members, 11), none);
        assert_eq!(folded(members, 10), [g]);
        assert_eq!(folded(members, 9), [d]);
        assert_eq!(folded(members, 8), [d]);
        assert_eq!(folded(members, 7), [d, j]);
        assert_eq!(folded(members, 6), [d, j]);
        assert_eq!(folded(members, 5), [b]);
        assert_eq!(folded(members, 4), [b]);
        assert_eq!(folded(members, 3), [b, n]);
        // More can't be done here.
        assert_eq!(folded(members, 1), [b, n]);
    }

    #[test]
    fn objects_that_save_nothing_stay() {
        let members = r#""a":{"b":{"c":{"d":1}}},"e":{},"f":{"g":""},"h":{"i":{"j":1,"k":2}},"#;
        let none: [&str; 0] = [];
        assert_eq!(folded(members, 3), none);
        assert_eq!(folded(members, 2), [r#"{"j":1,"k":2}"#]);
        assert_eq!(folded(members, 0), [r#"{"j":1,"k":2}"#]);
    }
}
