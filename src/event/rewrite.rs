//! The rules for a record that is not ordinary, in their order: the address, reserved and repaired names,
//! equal names, levels, kinds, numbers and strings. Fields and size are the matter of `fit`.
//!
//! It works on the compact form of the record, which is valid JSON without white space, and takes objects
//! and their lists apart; everything else stays in one piece.

use std::borrow::Cow;

use super::fields::fields_of;
use super::fit::Member;
use super::json::{Items, Part, beginning, cut, decoded, inside, quote, quote_text};
use super::kinds::{Full, Kind, Kinds, NOWHERE, Path, PathId, ROOT};
use super::known_field::KnownField;
use super::names::{first_segment, repaired};
use super::overflow::Overflow;
use super::shorten::MIN_ROOM;
use super::value::{address_in, bare_address, number_token};
use super::{ADDRESS_PORT, MAX_LINE, MAX_NAME_LEVELS};

/// The names that Wazuh's rules (0755-office365_rules.xml of 4.14) and its index template know, besides
/// those that every record has.
const NAMES_IN_RULES: [&str; 5] =
    ["Actor", "ClientIP", "Parameters", "ResultStatus", "SourceFileName"];

/// A longer name is moved, in bytes.
const MAX_NAME: usize = 256;

/// The most bytes of one string that are written before `fit` cuts it.
const MAX_TEXT: usize = 4 * MAX_LINE;

/// An object with more members finds no room in a line.
const MAX_MEMBERS: usize = MAX_LINE / "\"\":1,".len();

const CLIENT_IP: &str = "ClientIP";
const SUBSCRIPTION: &str = "Subscription";

/// What a record becomes.
#[derive(Debug, Default)]
pub(super) struct Rewritten<'a> {
    /// The record's own members, in their order.
    pub(super) members: Vec<Member>,
    /// What can't be among them.
    pub(super) overflow: Overflow<'a>,
}

/// What becomes of a path whose kind is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Its kind is learned.
    Learn,
    /// The record is refused.
    Refuse,
    /// It holds what it holds here, and nothing is learned: to see what the record becomes.
    Assume,
}

/// It has a path whose kind is not known, and none may be learned now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewPath;

/// Rewrites a record, whose `members` have a comma behind each. `goes`: the members, by `Member::place`, of which the record has too many; they teach nothing.
///
/// # Errors
/// It has a path of an unknown kind, and may not learn.
pub(super) fn rewrite<'a>(
    members: &'a [u8],
    kinds: &'a Kinds,
    unknown: Unknown,
    goes: &[usize],
) -> Result<Rewritten<'a>, NewPath> {
    let mut rewriter =
        Rewriter { kinds, unknown, place: String::new(), arrays: 0, overflow: Overflow::default() };
    let (kept, address) = rewriter.record(members);
    let mut written = Vec::new();
    for (place, member) in kept.into_iter().enumerate() {
        if goes.contains(&place) {
            rewriter.push(&member.name, member.value);
            continue;
        }
        let mut text = Vec::with_capacity(member.key.len() + member.value.len().min(MAX_LINE) + 16);
        let key = match &address {
            Some(address) if member.name == CLIENT_IP => {
                text.extend_from_slice(format!("\"{CLIENT_IP}\":\"{address}\"").as_bytes());
                Some(CLIENT_IP.len() + 2)
            }
            _ => rewriter.member(&member, ROOT.id, 1, &mut text)?,
        };
        if let Some(key) = key {
            let field = KnownField::plain(member.first_segment().as_bytes());
            // The bare address stays with what it was taken from.
            let is_ours = address.is_some()
                && [CLIENT_IP, ADDRESS_PORT].iter().any(|name| member.name == *name);
            written.push(Member { text, key, place, field, is_ours });
        }
    }
    Ok(Rewritten { members: written, overflow: rewriter.overflow })
}

/// Moves what would make a notice of the record; everything else stays. `members` as above.
pub(super) fn without_actor(members: &[u8]) -> Rewritten<'_> {
    let mut rewritten = Rewritten::default();
    for Part { text, key, value } in Items::members(members) {
        let name = decoded(key).unwrap_or_default();
        if first_segment(&name) == "actor" {
            rewritten.overflow.push(&name, value);
        } else {
            let (text, key, field) = (text.to_vec(), key.len(), KnownField::of(key));
            let place = rewritten.members.len();
            rewritten.members.push(Member { text, key, place, field, is_ours: false });
        }
    }
    rewritten
}

struct Rewriter<'a> {
    kinds: &'a Kinds,
    unknown: Unknown,
    /// Where it is: `Item.Folders[3].Path`.
    place: String,
    /// How many arrays it is in.
    arrays: usize,
    overflow: Overflow<'a>,
}

/// A member as it was sent.
struct Sent<'a> {
    /// With its quotes, as spelt.
    key: &'a [u8],
    /// Decoded, as the indexer takes it.
    name: Cow<'a, str>,
    /// Whether the name is dotted, and whether it is another one than was sent.
    is_dotted: bool,
    is_repaired: bool,
    value: &'a [u8],
}

impl Sent<'_> {
    /// The name, or the first of the objects that a dotted one stands for.
    fn first_segment(&self) -> &str {
        if self.is_dotted { first_segment(&self.name) } else { &self.name }
    }

    /// Whether Wazuh's decoder makes something of its value.
    fn is_kept_by_wazuh(&self) -> bool {
        fields_of(self.value) > 0
    }
}

/// Why a member can't be written where it is.
enum Stop {
    /// It goes to `Overflow`.
    Move,
    NewPath,
}

impl<'a> Rewriter<'a> {
    /// The members that the record keeps, and the bare address if its `ClientIP` has something around it.
    fn record(&mut self, members: &'a [u8]) -> (Vec<Sent<'a>>, Option<String>) {
        let mut sent = self.read(members, true);
        let is_reserved = |member: &Sent<'_>| {
            let first = member.first_segment();
            let is = |name: &&str| first.eq_ignore_ascii_case(name);
            first == "actor" || ["Overflow", "Truncated", SUBSCRIPTION].iter().any(is)
        };
        // Ours is written last.
        sent.retain(|member| member.name != SUBSCRIPTION);
        self.move_out(&mut sent, is_reserved);
        self.distinct(&mut sent, true);
        let client_ip = sent.iter().find(|member| member.name == CLIENT_IP).map(|m| m.value);
        let address = client_ip.and_then(bare_client_ip);
        if let Some(value) = client_ip.filter(|_| address.is_some()) {
            self.move_out(&mut sent, |m| m.first_segment().eq_ignore_ascii_case(ADDRESS_PORT));
            sent.push(read_one(b"\"ClientIPAddressPort\"", value));
        }
        (sent, address)
    }

    /// The members of an object, as far as they can find room in a line; the others are moved.
    fn read(&mut self, members: &'a [u8], is_record: bool) -> Vec<Sent<'a>> {
        // About as many as there are in Microsoft's records.
        let mut sent = Vec::with_capacity((members.len() / 32).min(64));
        for Part { key, value, .. } in Items::members(members) {
            let is_mandatory =
                || is_record && KnownField::of(key).is_some_and(KnownField::is_mandatory);
            if sent.len() < MAX_MEMBERS || is_mandatory() {
                sent.push(read_one(key, value));
            } else {
                self.push(&read_one(key, value).name, value);
            }
        }
        sent
    }

    /// Moves the members that `goes` names.
    fn move_out(&mut self, members: &mut Vec<Sent<'a>>, goes: impl Fn(&Sent<'a>) -> bool) {
        members.retain(|member| {
            let stays = !goes(member);
            if !stays {
                self.push(&member.name, member.value);
            }
            stays
        });
    }

    /// Leaves one member of each name; the others are moved, as are those of long names.
    fn distinct(&mut self, members: &mut Vec<Sent<'a>>, is_record: bool) {
        self.move_out(members, |member| member.name.len() > MAX_NAME);
        let mut stays = one_of_each_name(members, is_record).into_iter();
        members.retain(|member| {
            let stays = stays.next().unwrap_or(true);
            if !stays {
                self.push(&member.name, member.value);
            }
            stays
        });
    }

    /// Moves a member of the object at `place`.
    fn push(&mut self, name: &str, value: &'a [u8]) {
        let before = self.enter(name);
        self.overflow.push(&self.place, value);
        self.place.truncate(before);
    }

    /// Goes to a member of the object at `place`; gives the length to come back to.
    fn enter(&mut self, name: &str) -> usize {
        let before = self.place.len();
        if before > 0 {
            self.place.push('.');
        }
        self.place.push_str(name);
        before
    }

    /// Writes a member of the objects at `parent`, whose first name is on `level`. Gives the length of its
    /// key; none where it is left out or moved.
    fn member(
        &mut self,
        member: &Sent<'a>,
        parent: PathId,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, NewPath> {
        let (before, start, arrays) = (self.enter(&member.name), out.len(), self.arrays);
        let written = self.key_and_value(member, parent, level, out);
        self.place.truncate(before);
        self.arrays = arrays;
        match written {
            Ok(key) => Ok(key),
            Err(Stop::NewPath) => Err(NewPath),
            Err(Stop::Move) => {
                out.truncate(start);
                self.push(&member.name, member.value);
                Ok(None)
            }
        }
    }

    fn key_and_value(
        &mut self,
        member: &Sent<'a>,
        parent: PathId,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, Stop> {
        let Sent { key, name, value, is_dotted, is_repaired } = member;
        if *value == b"null" && self.arrays == 0 {
            // It would become the text "null".
            return Ok(None);
        }
        let dots = || memchr::memchr_iter(b'.', name.as_bytes()).filter(|_| *is_dotted);
        let level = level + dots().count();
        if level > MAX_NAME_LEVELS {
            return Err(Stop::Move);
        }
        let start = out.len();
        let (mut parent, mut segment) = (parent, 0);
        // The objects that a dotted name stands for.
        for end in dots() {
            let known =
                self.known(parent, name.get(segment..end).unwrap_or_default(), Kind::Object)?;
            segment = end + 1;
            if !known.kind.is_objects() {
                // Text is what belongs here, so what is in it becomes text.
                quote_text(name.get(..end).unwrap_or_default(), out);
                let key = out.len() - start;
                let mut object = b"{".to_vec();
                quote_text(name.get(segment..).unwrap_or_default(), &mut object);
                object.extend([&b":"[..], value, b"}"].concat());
                out.push(b':');
                string_of(&object, out);
                return Ok(Some(key));
            }
            parent = known.id;
        }
        if *is_repaired {
            quote_text(name, out);
        } else {
            out.extend_from_slice(key);
        }
        let key = out.len() - start;
        out.push(b':');
        let name = name.get(segment..).unwrap_or_default();
        self.value(value, parent, name, level, out)?;
        Ok(Some(key))
    }

    /// Writes the value of the member `name` of the objects at `parent`, a name on `level`.
    fn value(
        &mut self,
        value: &'a [u8],
        parent: PathId,
        name: &str,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let outside = self.arrays == 0;
        match value {
            b"null" | b"[]" => out.extend_from_slice(value),
            b"\"\"" | b"{}" if outside => out.extend_from_slice(value),
            [b'{', ..] => {
                let known = self.known(parent, name, Kind::Object)?;
                if known.kind.is_objects() {
                    self.object(value, known, level, out)?;
                } else {
                    string_of(value, out);
                }
            }
            [b'[', ..] => self.array(value, parent, name, level, out)?,
            _ => {
                let known = self.known(parent, name, Kind::Text)?;
                match known.kind {
                    Kind::Text => self.text(value, out),
                    Kind::Object => {
                        self.may_be_named(known, level)?;
                        named(value, out);
                    }
                    Kind::List => {
                        self.may_be_named(known, level)?;
                        out.push(b'[');
                        named(value, out);
                        out.push(b']');
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes an object, whose own names are below `level`.
    fn object(
        &mut self,
        object: &'a [u8],
        path: Path,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        out.push(b'{');
        let mut first = true;
        let mut members = self.read(inside(object), false);
        self.distinct(&mut members, false);
        for member in members {
            let before = out.len();
            if !first {
                out.push(b',');
            }
            match self.member(&member, path.id, level + 1, out) {
                Ok(Some(_)) => first = false,
                Ok(None) => out.truncate(before),
                Err(NewPath) => return Err(Stop::NewPath),
            }
        }
        out.push(b'}');
        Ok(())
    }

    fn array(
        &mut self,
        array: &'a [u8],
        parent: PathId,
        name: &str,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let is_object = |item: &[u8]| item.first() == Some(&b'{');
        let (mut has_objects, mut has_text) = (false, false);
        for Part { value, .. } in Items::of(array) {
            has_objects |= is_object(value);
            has_text |= !is_object(value) && value != b"null";
        }
        if !has_objects && !has_text {
            // Nulls, of which the indexer learns nothing.
            out.extend_from_slice(array);
            return Ok(());
        }
        let kind = if has_objects { Kind::List } else { Kind::Text };
        let known = self.known(parent, name, kind)?;
        if has_objects && !known.kind.is_objects() {
            string_of(array, out);
            return Ok(());
        }
        if has_text && known.kind.is_objects() {
            self.may_be_named(known, level)?;
        }
        self.arrays += 1;
        let place = self.place.len();
        out.push(b'[');
        // The bytes that the items take when they are shortened as far as they can be.
        let mut least = 0;
        for (n, Part { value, .. }) in Items::of(array).enumerate() {
            if least > MAX_LINE {
                // The others are left out anyway.
                break;
            }
            if n > 0 {
                out.push(b',');
            }
            let start = out.len();
            match value {
                b"null" => out.extend_from_slice(value),
                [b'{', ..] => {
                    self.place.push_str(&format!("[{n}]"));
                    self.object(value, known, level, out)?;
                    self.place.truncate(place);
                }
                _ if known.kind.is_objects() => named(value, out),
                _ => self.text(value, out),
            }
            least += 1 + (out.len() - start).min(MIN_ROOM);
        }
        out.push(b']');
        self.arrays -= 1;
        Ok(())
    }

    /// Whether text may become `{"Name":"…"}` at a path that holds objects.
    fn may_be_named(&self, path: Path, level: usize) -> Result<(), Stop> {
        if level == MAX_NAME_LEVELS {
            return Err(Stop::Move);
        }
        let name = self.known(path.id, "Name", Kind::Text)?;
        if name.kind.is_objects() { Err(Stop::Move) } else { Ok(()) }
    }

    /// Writes text where text belongs.
    fn text(&self, value: &[u8], out: &mut Vec<u8>) {
        if self.arrays > 0 {
            return string_of(value, out);
        }
        match value.first() {
            Some(b't' | b'f') => out.extend_from_slice(value),
            Some(b'-' | b'0'..=b'9') => {
                out.extend_from_slice(number_token(value).as_deref().map_or(value, str::as_bytes));
            }
            _ => string_of(value, out),
        }
    }

    /// What a path holds; where that is not known, `kind` from now on.
    fn known(&self, parent: PathId, name: &str, kind: Kind) -> Result<Path, Stop> {
        if let Some(known) = self.kinds.find(parent, name.as_bytes()) {
            return Ok(known.path);
        }
        match self.unknown {
            Unknown::Assume => Ok(Path { id: NOWHERE, kind }),
            Unknown::Learn => {
                let learned = self.kinds.learn(parent, name, kind);
                learned.map(|known| known.path).map_err(|Full| Stop::Move)
            }
            Unknown::Refuse if self.kinds.is_full() => Err(Stop::Move),
            Unknown::Refuse => Err(Stop::NewPath),
        }
    }
}

fn read_one<'a>(key: &'a [u8], value: &'a [u8]) -> Sent<'a> {
    let spelt = decoded(key).unwrap_or_default();
    let (name, is_repaired) = match repaired(&spelt) {
        Cow::Owned(name) => (Cow::Owned(name), true),
        Cow::Borrowed(_) => (spelt, false),
    };
    let is_dotted = name.bytes().any(|byte| byte == b'.');
    Sent { key, name, is_dotted, is_repaired, value }
}

/// Which of the members stay: of those of one name the first that Wazuh keeps, one in the spelling that
/// its rules know before others.
fn one_of_each_name(members: &[Sent<'_>], is_record: bool) -> Vec<bool> {
    let in_rules = |name: &str| {
        let field = KnownField::plain(name.as_bytes());
        NAMES_IN_RULES.contains(&name) || field.is_some_and(KnownField::is_mandatory)
    };
    let rank = |member: &Sent<'_>| {
        let is_known = is_record && in_rules(&member.name);
        // A record whose `RecordType` is not a scalar raises no alert.
        let raises_alert =
            member.name == "RecordType" && !matches!(member.value, [b'{' | b'[', ..]);
        (member.is_kept_by_wazuh(), is_known, is_known && raises_alert)
    };
    // Equal ones side by side, the one that stays first.
    let mut order: Vec<(usize, &Sent<'_>)> = members.iter().enumerate().collect();
    order.sort_unstable_by(|(n, one), (m, other)| {
        let lower = |byte: u8| byte.to_ascii_lowercase();
        let (a, b) = (one.first_segment(), other.first_segment());
        let names = || a.bytes().map(lower).cmp(b.bytes().map(lower));
        let equal = || rank(other).cmp(&rank(one)).then(n.cmp(m));
        a.len().cmp(&b.len()).then_with(names).then_with(equal)
    });
    let mut stays = vec![true; members.len()];
    for pair in order.windows(2) {
        if let [(_, one), (n, other)] = pair
            && one.first_segment().eq_ignore_ascii_case(other.first_segment())
            && let Some(stays) = stays.get_mut(*n)
        {
            *stays = false;
        }
    }
    stays
}

/// The bare address in the value of `ClientIP`, where there is something around it.
fn bare_client_ip(value: &[u8]) -> Option<String> {
    match value.first()? {
        b'"' => bare_address(&decoded(value)?),
        b'[' => Items::of(value)
            .filter(|item| item.value.first() == Some(&b'"'))
            .find_map(|item| address_in(&decoded(item.value)?)),
        _ => None,
    }
}

/// Writes an object in the place of text.
fn named(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"Name\":");
    string_of(text, out);
    out.push(b'}');
}

/// Writes a value as a string: a number or a boolean as it is spelt, an object or an array as its text.
fn string_of(value: &[u8], out: &mut Vec<u8>) {
    match value {
        [b'"', inside @ .., b'"'] if value.len() > MAX_TEXT => {
            let length = cut(inside, MAX_TEXT, usize::MAX);
            out.push(b'"');
            out.extend_from_slice(inside.get(..length).unwrap_or_default());
            out.push(b'"');
        }
        [b'"', ..] | b"null" => out.extend_from_slice(value),
        _ => quote(beginning(value, MAX_TEXT), out),
    }
}
