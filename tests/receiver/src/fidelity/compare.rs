//! Finds every value of a record in its line.

use std::cell::{Cell, OnceCell};
use std::collections::{HashMap, HashSet};

use super::kinds::{Kinds, has_text};
use super::names::{equality, is_kept, is_reserved, readable, repair, sole_member};
use super::scalars::{client_address, is_spelling_of, same_number, small_integer};
use super::{Expected, MANDATORY, MAX_LEVEL, MAX_NAME};
use crate::cjson;
use crate::decoder::MAX_FIELDS;
use crate::json::{self, Json};

type Member = (String, Json);

/// The entry of `Truncated` that stands for all paths which did not fit into it.
const AND_OTHERS: &str = "…";
/// Values in more containers are not compared, so that the stack does not overflow. Only text in a
/// string is nested so deeply.
const MAX_DEPTH: usize = 64;
/// A cut value may end with a mark of at most this many bytes.
const MAX_MARK: usize = 32;

/// Where in the record a value is.
#[derive(Clone, Default)]
struct At {
    /// As in `Truncated` and `Overflow`, with array indices.
    path: String,
    /// Without array indices.
    dotted: String,
    /// The number of names in the path.
    level: usize,
    /// The number of containers around the value.
    depth: usize,
}

impl At {
    fn member(&self, name: &str) -> At {
        let dot = if self.path.is_empty() { "" } else { "." };
        At {
            path: format!("{}{dot}{name}", self.path),
            dotted: format!("{}{dot}{name}", self.dotted),
            level: self.level + name.split('.').count(),
            depth: self.depth + 1,
        }
    }

    fn item(&self, index: usize) -> At {
        let path = format!("{}[{index}]", self.path);
        At { path, dotted: self.dotted.clone(), level: self.level, depth: self.depth + 1 }
    }
}

/// Which repairs of text apply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Outside arrays.
    Outside,
    /// In an array, or a member of an object in one.
    Inside,
    /// In JSON that the line holds as a string, or in an added `Name`: repaired or not.
    Quoted,
}

/// One member of `Overflow`.
struct Moved {
    value: Json,
    used: Cell<bool>,
}

pub(super) struct Comparison<'a> {
    sent: &'a Json,
    expected: Expected<'a>,
    /// The kinds in this record, once they are needed.
    own_kinds: OnceCell<Kinds>,
    overflow: HashMap<String, Vec<Moved>>,
    overflow_is_cut: bool,
    truncated: Vec<String>,
    port_is_added: bool,
    fields_sent: usize,
    fields_written: usize,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        sent: &'a Json,
        written: &[Member],
        fields_written: usize,
        expected: Expected<'a>,
    ) -> Result<Self, String> {
        let find = |name: &str| written.iter().find(|(own, _)| own == name).map(|(_, value)| value);
        let truncated = find("Truncated").map_or(Some(Vec::new()), listed);
        let truncated = truncated.ok_or("`Truncated` is not a list of paths")?;
        let overflow_is_cut = covers(&truncated, "Overflow");
        let moved = match find("Overflow").map(|text| text.as_str().and_then(parse_text)) {
            None => Vec::new(),
            Some(Some(Json::Object(members))) if !members.is_empty() => members,
            Some(_) if overflow_is_cut => Vec::new(),
            Some(_) => return Err("`Overflow` is not an object in a string".into()),
        };
        let mut overflow: HashMap<String, Vec<Moved>> = HashMap::new();
        for (path, value) in moved {
            let moved = Moved { value, used: Cell::new(false) };
            overflow.entry(readable(&path)).or_default().push(moved);
        }
        Ok(Comparison {
            sent,
            expected,
            own_kinds: OnceCell::new(),
            overflow,
            overflow_is_cut,
            truncated,
            port_is_added: false,
            fields_sent: count_fields(sent),
            fields_written,
        })
    }

    /// Whether the line says that something was cut.
    pub(super) fn is_cut(&self) -> bool {
        !self.truncated.is_empty()
    }

    pub(super) fn run(mut self, mut written: Vec<Member>) -> Result<(), String> {
        let Json::Object(sent) = self.sent else { return Err("not an object".into()) };
        let mut sent: Vec<Member> =
            sent.iter().filter(|(name, _)| name != "Subscription").cloned().collect();
        written.retain(|(name, _)| name != "Overflow" && name != "Truncated");
        self.port_is_added = self.take_client_ip(&mut sent, &mut written)?;
        if let Some((name, _)) =
            written.iter().find(|(name, _)| is_reserved(name, self.port_is_added))
        {
            return Err(format!("{name} is a reserved name"));
        }
        self.members(&sent, &written, &At::default(), Place::Outside)?;
        self.mandatory(&sent, &written)?;
        self.listed_paths_exist(&sent)?;
        match self.overflow.iter().find(|(_, moved)| moved.iter().any(|moved| !moved.used.get())) {
            Some((path, _)) if !self.overflow_is_cut => {
                Err(format!("`Overflow` holds {path}, which was not moved"))
            }
            _ => Ok(()),
        }
    }

    /// Undoes the repair of `ClientIP`: sets the sent value to the written one, and takes the
    /// original out of the line. Returns whether there was one.
    fn take_client_ip(
        &self,
        sent: &mut [Member],
        written: &mut Vec<Member>,
    ) -> Result<bool, String> {
        let is_sole = sent.iter().filter(|(name, _)| equality(name) == "clientip").count() == 1;
        // The repaired member may be moved like any other.
        let moved = self.overflow.get("ClientIP").and_then(|moved| moved.first());
        let stays = written.iter().find(|(name, _)| name == "ClientIP").map(|(_, value)| value);
        let bare = stays.or(moved.map(|moved| &moved.value)).cloned();
        let original = written.iter().position(|(name, _)| name == "ClientIPAddressPort");
        let at = At::default().member("ClientIPAddressPort");
        for (_, value) in sent.iter_mut().filter(|(name, _)| name == "ClientIP") {
            let Some((address, is_sure)) = client_address(value) else { continue };
            // It may be in the part of `Overflow` that was cut off.
            let cut_off = self.overflow_is_cut.then(|| Json::String(address.to_string()));
            if let (Some(original), Some(bare)) = (original, bare.clone().or(cut_off))
                && bare.as_str().and_then(|text| text.parse().ok()) == Some(address)
                && self.value(value, &written[original].1, &at, Place::Quoted).is_ok()
            {
                *value = bare;
                written.remove(original);
                return Ok(true);
            }
            if is_sure && is_sole {
                return Err("ClientIP is not a bare address with the original beside it".into());
            }
        }
        Ok(false)
    }

    /// The mandatory members are in the line, not in `Overflow`.
    fn mandatory(&self, sent: &[Member], written: &[Member]) -> Result<(), String> {
        for name in MANDATORY {
            let is_sent = sent.iter().any(|(own, value)| own == name && is_kept(value));
            let is_written = written.iter().any(|(own, _)| own == name);
            // Of several equal names, others may be in `Overflow`.
            let is_moved =
                self.overflow.contains_key(name) && sole_member(self.sent, name).is_some();
            if is_sent && (!is_written || is_moved) {
                return Err(format!("{name} is not in the line"));
            }
        }
        Ok(())
    }

    /// `Truncated` lists paths of this record only.
    fn listed_paths_exist(&self, sent: &[Member]) -> Result<(), String> {
        // A dotted name also stands for the objects that it names.
        let mut names = HashSet::new();
        for name in sent.iter().map(|(name, _)| repair(name)) {
            names.extend(name.match_indices('.').map(|(dot, _)| name[..dot].to_owned()));
            names.insert(name);
        }
        names.extend(["Overflow", "ClientIPAddressPort", AND_OTHERS].map(str::to_owned));
        let exists = |path: &&String| {
            let ends = path.match_indices(['.', '[']).map(|(end, _)| end).chain([path.len()]);
            // A long path is cut itself.
            let is_begin = |begin: &str| names.iter().any(|name| name.starts_with(begin));
            ends.into_iter().any(|end| names.contains(&path[..end]))
                || path.strip_suffix(AND_OTHERS).is_some_and(is_begin)
        };
        match self.truncated.iter().find(|path| !exists(path)) {
            Some(path) => Err(format!("`Truncated` lists {path}, which was not sent")),
            None => Ok(()),
        }
    }

    /// Compares one value with what is written at its path.
    fn value(&self, sent: &Json, written: &Json, at: &At, place: Place) -> Result<(), String> {
        let quoted = place == Place::Quoted;
        let same = match (sent, written) {
            _ if quoted && (at.depth > MAX_DEPTH || sent == written) => true,
            (Json::Null, Json::Null) => true,
            (Json::Bool(one), Json::Bool(other)) => one == other,
            (Json::Bool(one), Json::String(text)) => {
                place != Place::Outside && one.to_string() == *text
            }
            (Json::Number(one), Json::Number(other)) => same_number(one, other),
            (Json::Number(number), Json::String(text)) => match place {
                Place::Outside => small_integer(number).is_none() && is_spelling_of(text, number),
                Place::Inside => text == number,
                Place::Quoted => is_spelling_of(text, number),
            },
            (Json::String(one), Json::String(other)) => same_text(one, other, place),
            (Json::Object(one), Json::Object(other)) => return self.members(one, other, at, place),
            (Json::Object(_), Json::String(text)) => {
                return self.compact(sent, text, at);
            }
            (Json::Array(_), Json::String(text)) => return self.compact(sent, text, at),
            (Json::Array(one), Json::Array(other)) => {
                let inside = if quoted { Place::Quoted } else { Place::Inside };
                let result = self.items(one, other, at, inside);
                return result.or_else(|fault| {
                    let is_named = self.named(sent, written, at).is_ok();
                    if is_named { Ok(()) } else { Err(fault) }
                });
            }
            _ => return self.named(sent, written, at),
        };
        if same || self.covers(at) && is_cut(sent, written) {
            return Ok(());
        }
        Err(format!("{} is {}", at.path, excerpt(written)))
    }

    /// Text where objects belong: `{"Name":…}` or `[{"Name":…}]`.
    fn named(&self, sent: &Json, written: &Json, at: &At) -> Result<(), String> {
        let (object, at) = match written {
            Json::Array(items) if items.len() == 1 => (&items[0], at.item(0)),
            _ => (written, at.clone()),
        };
        if let Json::Object(members) = object
            && let [(name, value)] = members.as_slice()
            && name == "Name"
            && !matches!(sent, Json::Object(_))
        {
            return self.value(sent, value, &at.member("Name"), Place::Quoted);
        }
        Err(format!("{} is {}", at.path, excerpt(written)))
    }

    /// A container that is written as its compact JSON.
    fn compact(&self, sent: &Json, text: &str, at: &At) -> Result<(), String> {
        let result = match parse_text(text) {
            Some(value) if !matches!(value, Json::String(_)) => {
                self.value(sent, &value, at, Place::Quoted)
            }
            _ => Err(format!("{} is not compact JSON", at.path)),
        };
        let is_cut = self.covers(at) && text.trim_start().starts_with(['[', '{']);
        if is_cut { Ok(()) } else { result }
    }

    fn items(&self, sent: &[Json], written: &[Json], at: &At, place: Place) -> Result<(), String> {
        let mut rest = written;
        for (index, item) in sent.iter().enumerate() {
            let at = at.item(index);
            let fault = match rest.split_first() {
                None => format!("{} is missing", at.path),
                Some((first, behind)) => match self.value(item, first, &at, place) {
                    Ok(()) => {
                        rest = behind;
                        continue;
                    }
                    Err(fault) => fault,
                },
            };
            if self.moved(item, &at, None, false).is_err() {
                return Err(fault);
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("{} has other items", at.path)) }
    }

    fn members(
        &self,
        sent: &[Member],
        written: &[Member],
        at: &At,
        place: Place,
    ) -> Result<(), String> {
        let is_record = at.path.is_empty();
        let siblings = Siblings::new(sent, |name| {
            !(name.is_long() || is_record && is_reserved(name.repaired, self.port_is_added))
        });
        let mut pairing = Pairing::new(written);
        let mut found = HashSet::new();
        let mut missing = Vec::new();
        for (index, (_, value)) in sent.iter().enumerate() {
            match self.pair(&siblings.names[index], value, &mut pairing, at, place) {
                Ok(()) => {
                    found.insert(index);
                }
                Err(fault) => missing.push((index, fault)),
            }
        }
        if let Some(name) = pairing.left() {
            let fault = missing.into_iter().map(|(_, fault)| fault).find(|fault| !fault.is_empty());
            return Err(fault.unwrap_or_else(|| format!("{} was added", at.member(name).path)));
        }
        // What is left of a cut value may be taken for that of another one.
        let winner = siblings.wrong_winner(&found).filter(|_| !self.is_cut());
        if let Some(name) = winner {
            return Err(format!("{} is the wrong one of several", at.member(name).path));
        }
        self.missing(&siblings, &found, missing, at, place)
    }

    /// Accounts for the members that are not in the line. A member with equal names beside it may
    /// be moved if the one that wins is in the line, or was moved for another reason.
    fn missing(
        &self,
        siblings: &Siblings<'_>,
        found: &HashSet<usize>,
        missing: Vec<(usize, String)>,
        at: &At,
        place: Place,
    ) -> Result<(), String> {
        let mut settled: HashSet<&str> = found.iter().map(|&index| siblings.group(index)).collect();
        let mut losers = Vec::new();
        for (index, fault) in missing {
            let (sent_name, value) = &siblings.sent[index];
            let name = Name { sent: sent_name, repaired: &siblings.names[index] };
            let child = at.member(name.repaired);
            let moved = self.moved(value, &child, Some(name), false);
            let is_left_out = *value == Json::Null && place != Place::Inside;
            if moved.is_ok() || is_left_out && siblings.are_all_dropped(index) {
                settled.insert(siblings.group(index));
            }
            if let (Err(unfound), false) = (moved, is_left_out) {
                losers.push((index, name, child, if fault.is_empty() { unfound } else { fault }));
            }
        }
        for (index, name, child, fault) in losers {
            if !siblings.has_equal(index) || !settled.contains(siblings.group(index)) {
                return Err(fault);
            }
            self.moved(&siblings.sent[index].1, &child, Some(name), true)?;
        }
        Ok(())
    }

    /// Finds a member in the line. The error is empty if the line has none of this name.
    fn pair(
        &self,
        name: &str,
        value: &Json,
        pairing: &mut Pairing<'_>,
        at: &At,
        place: Place,
    ) -> Result<(), String> {
        let child = at.member(name);
        let mut fault = String::new();
        for index in pairing.of(name) {
            match self.value(value, pairing.value(index), &child, place) {
                Ok(()) => {
                    pairing.take(index);
                    return Ok(());
                }
                Err(new) => fault = new,
            }
        }
        // A dotted name below a path of text is part of that text. Long names always move.
        let dots = name.match_indices('.').take_while(|_| name.len() <= MAX_NAME);
        for (dot, _) in dots {
            for index in pairing.of(&name[..dot]) {
                let parent = at.member(&name[..dot]);
                let Some(text) = pairing.value(index).as_str() else { continue };
                let is_same = match parse_text(text) {
                    Some(Json::Object(members)) => {
                        let rest = [(name[dot + 1..].to_owned(), value.clone())];
                        self.members(&rest, &members, &parent, Place::Quoted).is_ok()
                    }
                    _ => self.covers(&parent) && text.trim_start().starts_with('{'),
                };
                if is_same {
                    pairing.take(index);
                    return Ok(());
                }
            }
        }
        Err(fault)
    }

    /// Accounts for a value that is not at its path: it was cut, or moved for a reason. `name` is
    /// the member's; an item of an array has none.
    fn moved(
        &self,
        value: &Json,
        at: &At,
        name: Option<Name<'_>>,
        has_equal: bool,
    ) -> Result<(), String> {
        let is_found = self.look_up(value, at)
            || name.is_some_and(|name| self.look_up_text(name.repaired, value, at));
        if !is_found && !self.overflow_is_cut {
            let is_cut = self.covers(at);
            return if is_cut { Ok(()) } else { Err(format!("{} is lost", at.path)) };
        }
        let has_reason = has_equal
            || at.level > MAX_LEVEL
            || self.expected.paths_are_full
            || self.is_cut()
            || name.is_some_and(|name| self.may_not_stay(name, value, at))
            || self.has_no_kind(value, at, name.map_or("", |name| name.repaired));
        if has_reason { Ok(()) } else { Err(format!("{} was moved", at.path)) }
    }

    /// Whether a member moves for its name, or for its number of fields.
    fn may_not_stay(&self, name: Name<'_>, value: &Json, at: &At) -> bool {
        let is_of_record = at.path == name.repaired;
        name.is_long()
            || is_of_record && is_reserved(name.repaired, self.port_is_added)
            || is_of_record && self.has_many_fields(value)
    }

    /// Whether `Overflow` holds the value at its path.
    fn look_up(&self, value: &Json, at: &At) -> bool {
        let entries = self.overflow.get(&readable(&at.path)).map_or(&[][..], Vec::as_slice);
        let is_same = |written: &Json| self.value(value, written, at, Place::Quoted).is_ok();
        let holds = |moved: &&Moved| {
            // A path that was moved more than once holds a list.
            let list = if let Json::Array(items) = &moved.value { items.as_slice() } else { &[] };
            list.contains(value) || is_same(&moved.value) || list.iter().any(is_same)
        };
        // Names that differ by the number of U+FFFD have one entry each.
        let unused = entries.iter().filter(|moved| !moved.used.get());
        let found = unused.chain(entries).find(holds);
        if let Some(moved) = found {
            moved.used.set(true);
        }
        found.is_some()
    }

    /// Whether `Overflow` holds the value of a dotted name as part of the text above it.
    fn look_up_text(&self, name: &str, value: &Json, at: &At) -> bool {
        let parent = at.path.len() - name.len();
        name.match_indices('.').any(|(dot, _)| {
            let path = at.path[..parent + dot].to_owned();
            let object = Json::Object(vec![(name[dot + 1..].to_owned(), value.clone())]);
            self.look_up(&object, &At { path, ..at.clone() })
        })
    }

    /// Whether the path takes neither kind: text where `Name` holds objects, or a dotted name
    /// below text.
    fn has_no_kind(&self, value: &Json, at: &At, name: &str) -> bool {
        let own = self.own_kinds.get_or_init(|| {
            let mut kinds = Kinds::default();
            kinds.note(self.sent);
            kinds
        });
        let kinds = || [Some(own), self.expected.kinds].into_iter().flatten();
        let below = format!("{}.Name", at.dotted);
        let parent = at.dotted.len() - name.len();
        // On the last level there is no room for a `Name`.
        has_text(value) && at.level == MAX_LEVEL
            || has_text(value) && kinds().any(|kinds| kinds.holds_objects(&below))
            || name
                .match_indices('.')
                .any(|(dot, _)| kinds().any(|kinds| kinds.holds_text(&at.dotted[..parent + dot])))
    }

    /// Whether the record has too many fields, and still would have with this member.
    fn has_many_fields(&self, value: &Json) -> bool {
        // `integration`, `Subscription`, and the three members that may be added.
        self.fields_sent + 5 > MAX_FIELDS
            && self.fields_written + count_fields(value) + 2 > MAX_FIELDS
    }

    fn covers(&self, at: &At) -> bool {
        covers(&self.truncated, &at.path)
    }
}

/// A member's name before and after its repair.
#[derive(Clone, Copy)]
struct Name<'a> {
    sent: &'a str,
    repaired: &'a str,
}

impl Name<'_> {
    /// Whether the name is too long. `repaired` holds a run of U+FFFD as one.
    fn is_long(self) -> bool {
        self.sent.replace('\0', "\u{FFFD}").len() > MAX_NAME
    }
}

/// The members of one object of the record.
struct Siblings<'a> {
    sent: &'a [Member],
    /// The repaired names.
    names: Vec<String>,
    /// The key by which each name is equal to others.
    keys: Vec<String>,
    /// The members by that key.
    groups: HashMap<String, Vec<usize>>,
    /// Whether each may stay for its name.
    may_stay: Vec<bool>,
}

impl<'a> Siblings<'a> {
    fn new(sent: &'a [Member], may_stay: impl Fn(Name<'_>) -> bool) -> Self {
        let names: Vec<String> = sent.iter().map(|(name, _)| repair(name)).collect();
        let keys: Vec<String> = names.iter().map(|name| equality(name)).collect();
        let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            groups.entry(key.clone()).or_default().push(index);
        }
        let may_stay = std::iter::zip(sent, &names)
            .map(|((sent, _), repaired)| may_stay(Name { sent, repaired }))
            .collect();
        Siblings { sent, names, keys, groups, may_stay }
    }

    fn group(&self, index: usize) -> &str {
        &self.keys[index]
    }

    fn has_equal(&self, index: usize) -> bool {
        self.groups[self.group(index)].len() > 1
    }

    fn are_all_dropped(&self, index: usize) -> bool {
        self.groups[self.group(index)].iter().all(|&index| !is_kept(&self.sent[index].1))
    }

    /// The name of a member that is in the line although another one wins: an equal one that Wazuh
    /// keeps while it drops this one, or an earlier one of the same spelling.
    fn wrong_winner(&self, found: &HashSet<usize>) -> Option<&str> {
        let is_wrong = |&&winner: &&usize| {
            let is_dropped = !is_kept(&self.sent[winner].1);
            // An empty object may be what is left of another one, of which all was moved.
            let is_object = |index: &usize| matches!(self.sent[*index].1, Json::Object(_));
            let others = self.groups[self.group(winner)].iter().filter(|&&other| other != winner);
            let may_be_left = others.clone().any(is_object);
            self.groups[self.group(winner)].iter().any(|&other| {
                // Of several `RecordType` only a scalar raises an alert.
                let raises_alert = self.names[winner] == "RecordType"
                    && matches!(self.sent[other].1, Json::Array(_) | Json::Object(_));
                let is_earlier =
                    other < winner && self.names[other] == self.names[winner] && !raises_alert;
                let is_better = is_dropped && !may_be_left;
                let wins = is_kept(&self.sent[other].1) && (is_better || is_earlier);
                // A value that was moved as it is holds both.
                wins && self.may_stay[other] && !found.contains(&other)
            })
        };
        found.iter().find(is_wrong).map(|&index| self.names[index].as_str())
    }
}

/// The written members, each of which is to be found once.
struct Pairing<'a> {
    written: &'a [Member],
    by_name: HashMap<String, Vec<usize>>,
    taken: Vec<bool>,
}

impl<'a> Pairing<'a> {
    fn new(written: &'a [Member]) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, (name, _)) in written.iter().enumerate() {
            by_name.entry(repair(name)).or_default().push(index);
        }
        Pairing { written, by_name, taken: vec![false; written.len()] }
    }

    /// The members of this name that were not taken yet.
    fn of(&self, name: &str) -> Vec<usize> {
        let all = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        all.iter().copied().filter(|&index| !self.taken[index]).collect()
    }

    fn value(&self, index: usize) -> &'a Json {
        &self.written[index].1
    }

    fn take(&mut self, index: usize) {
        self.taken[index] = true;
    }

    /// The name of a member that was not taken.
    fn left(&self) -> Option<&'a str> {
        self.taken.iter().position(|taken| !taken).map(|index| self.written[index].0.as_str())
    }
}

/// How many fields the decoder makes of a value.
pub(super) fn count_fields(value: &Json) -> usize {
    match value {
        Json::Null => 0,
        Json::String(text) => usize::from(!text.is_empty()),
        Json::Object(members) => members.iter().map(|(_, value)| count_fields(value)).sum(),
        _ => 1,
    }
}

/// The paths in `Truncated`. `None` if it is not a list of strings, or empty.
fn listed(truncated: &Json) -> Option<Vec<String>> {
    let Json::Array(items) = truncated else { return None };
    let paths: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(readable)).collect();
    paths.filter(|paths| !paths.is_empty())
}

/// Whether `Truncated` lists the path, an ancestor of it, or its first segment.
fn covers(truncated: &[String], path: &str) -> bool {
    truncated.iter().any(|entry| {
        let below = path.strip_prefix(entry.as_str());
        // A long path is cut itself.
        let begins = entry.strip_suffix(AND_OTHERS).is_some_and(|begin| path.starts_with(begin));
        begins || below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// JSON in a string, perhaps with a blank in front.
fn parse_text(text: &str) -> Option<Json> {
    json::parse(text.as_bytes())
}

fn same_text(sent: &str, written: &str, place: Place) -> bool {
    if sent == written {
        return true;
    }
    let (sent, written) = (readable(sent), readable(written));
    let blank = place != Place::Inside && cjson::takes_all(&sent);
    sent == written || blank && written.strip_prefix(' ') == Some(&sent)
}

/// Whether the written text is the beginning of what was sent.
fn is_cut(sent: &Json, written: &Json) -> bool {
    let (Json::String(sent) | Json::Number(sent), Json::String(written)) = (sent, written) else {
        return false;
    };
    let (sent, written) = (readable(sent), readable(written));
    let common = sent.bytes().zip(written.bytes()).take_while(|(one, other)| one == other).count();
    common + MAX_MARK >= written.len() && written.len() <= sent.len() + MAX_MARK
}

fn excerpt(value: &Json) -> String {
    value.to_compact().chars().take(80).collect()
}
