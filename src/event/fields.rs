//! How many fields Wazuh's decoder makes of a record, and what to do where these are too many.
//!
//! The decoder flattens objects; an array or a null is one field, `""` and `{}` are none. Behind the
//! 256th it keeps nothing, so a record whose `RecordType` comes late would match no rule.

use std::borrow::Cow;

use super::MOST_LEVELS;
use super::json::{quote, take, value_length};

/// Makes strings of the deepest objects, the largest first, until `members` make no more than `most`
/// fields, or all objects of more than one field are strings.
pub(super) fn fold(members: &[u8], most: usize) -> Cow<'_, [u8]> {
    let levels = Levels::of(members);
    if levels.fields_down_to(MOST_LEVELS) <= most {
        return Cow::Borrowed(members);
    }
    // Down to `whole` objects can stay; of the level below, some must become strings, and all of
    // those further down.
    let whole = (1..MOST_LEVELS).rev().find(|level| levels.fields_down_to(*level) <= most);
    let whole = whole.unwrap_or(1);
    let mut excess = levels.fields_down_to(whole + 1).saturating_sub(most);
    let mut sizes: Vec<_> = sizes(members, whole + 1).into_iter().enumerate().collect();
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
    Cow::Owned(with_strings(members, whole + 1, &strings))
}

/// The fields of a value.
pub(super) fn fields_of(value: &[u8]) -> usize {
    match value {
        [b'{', inside @ .., b'}'] => {
            let mut walk = Walk::new(inside);
            std::iter::from_fn(|| walk.step()).filter(Step::is_field).count()
        }
        b"\"\"" => 0,
        _ => 1,
    }
}

/// Writes `members` with those objects of `level` as strings that `strings` says, in their order, and
/// all below that level that have more than one field.
fn with_strings(members: &[u8], level: usize, strings: &[bool]) -> Vec<u8> {
    let mut out = Vec::with_capacity(members.len() + members.len() / 8);
    let mut strings = strings.iter();
    let mut walk = Walk::new(members);
    loop {
        if walk.level >= level - 1
            && let Some(object) = walk.object()
        {
            let string = match walk.level == level - 1 {
                true => *strings.next().unwrap_or(&false),
                false => fields_of(object) > 1,
            };
            if string || walk.level == level {
                walk.skip(object);
                if string {
                    quote(object, &mut out)
                } else {
                    out.extend_from_slice(object)
                }
                continue;
            }
        }
        match walk.step() {
            Some(Step::Field(text) | Step::Nothing(text)) => out.extend_from_slice(text),
            Some(Step::Open) => out.push(b'{'),
            Some(Step::Close) => out.push(b'}'),
            None => return out,
        }
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
                Step::Nothing(_) => {}
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
struct Walk<'a> {
    rest: &'a [u8],
    /// 1 in the outermost object.
    level: usize,
    key_is_next: bool,
}

enum Step<'a> {
    /// A value that is a field.
    Field(&'a [u8]),
    /// A key with its colon, a comma, or an empty string.
    Nothing(&'a [u8]),
    /// Into an object; `level` is its own.
    Open,
    /// Out of one; `level` is what it is in.
    Close,
}

impl Step<'_> {
    fn is_field(&self) -> bool {
        matches!(self, Self::Field(_))
    }
}

impl<'a> Walk<'a> {
    fn new(members: &'a [u8]) -> Self {
        Self { rest: members, level: 1, key_is_next: true }
    }

    /// The object that comes next, if it is one.
    fn object(&self) -> Option<&'a [u8]> {
        let is_object = !self.key_is_next && self.rest.first() == Some(&b'{');
        if is_object { self.rest.get(..value_length(self.rest)) } else { None }
    }

    /// Steps over that.
    fn skip(&mut self, object: &[u8]) {
        take(&mut self.rest, |_| object.len());
    }

    fn step(&mut self) -> Option<Step<'a>> {
        Some(match self.rest.first()? {
            b'}' => {
                take(&mut self.rest, |_| 1);
                self.level -= 1;
                Step::Close
            }
            b',' => {
                self.key_is_next = true;
                Step::Nothing(take(&mut self.rest, |_| 1))
            }
            _ if self.key_is_next => {
                self.key_is_next = false;
                Step::Nothing(take(&mut self.rest, |rest| value_length(rest) + 1))
            }
            b'{' => {
                take(&mut self.rest, |_| 1);
                self.level += 1;
                self.key_is_next = true;
                Step::Open
            }
            _ => match take(&mut self.rest, value_length) {
                b"\"\"" => Step::Nothing(b"\"\""),
                value => Step::Field(value),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(members: &str, most: usize) -> String {
        String::from_utf8(fold(members.as_bytes(), most).into_owned()).unwrap()
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
        // 11 fields.
        assert_eq!(folded(members, 11), members);
        let g = r#""a":1,"b":{"c":2,"d":{"e":3,"f":4,"g":"{\"h\":5,\"i\":6}"},"j":{"k":7,"l":8,"m":9}},"n":{"o":10,"p":11},"#;
        assert_eq!(folded(members, 10), g);
        // Of two on a level the first of the largest; what is in it is spelt as it was.
        let d = r#""a":1,"b":{"c":2,"d":"{\"e\":3,\"f\":4,\"g\":{\"h\":5,\"i\":6}}","j":{"k":7,"l":8,"m":9}},"n":{"o":10,"p":11},"#;
        assert_eq!(folded(members, 9), d);
        assert_eq!(folded(members, 8), d);
        let j = r#""a":1,"b":{"c":2,"d":"{\"e\":3,\"f\":4,\"g\":{\"h\":5,\"i\":6}}","j":"{\"k\":7,\"l\":8,\"m\":9}"},"n":{"o":10,"p":11},"#;
        assert_eq!(folded(members, 7), j);
        assert_eq!(folded(members, 6), j);
        // On the next level, that with more fields goes first.
        let b = folded(members, 5);
        assert!(b.starts_with(r#""a":1,"b":"{\"c\":2,"#), "{b}");
        assert!(b.ends_with(r#","n":{"o":10,"p":11},"#), "{b}");
        // More can't be done here.
        assert_eq!(folded(members, 1), folded(members, 3));
        assert!(folded(members, 1).ends_with(r#","n":"{\"o\":10,\"p\":11}","#));
    }

    #[test]
    fn objects_that_save_nothing_stay() {
        let members = r#""a":{"b":{"c":{"d":1}}},"e":{},"f":{"g":""},"h":{"i":{"j":1,"k":2}},"#;
        assert_eq!(folded(members, 3), members);
        let h = r#""a":{"b":{"c":{"d":1}}},"e":{},"f":{"g":""},"h":{"i":"{\"j\":1,\"k\":2}"},"#;
        assert_eq!(folded(members, 2), h);
        assert_eq!(folded(members, 0), h);
    }
}
