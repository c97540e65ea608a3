//! Where an ordinary record is at: the containers that are open, the names that each object has had, and
//! a guess which name comes next.
//!
//! Records of one operation have the same names in the same order. So the key that came next the last time
//! is compared first, and only another one is looked up.

use crate::event::kinds::{Kinds, Known, Path, PathId};

/// What is used again from record to record.
#[derive(Debug, Default)]
pub(in crate::event) struct Marks {
    /// By group of names, the last object in which a name of that group was seen.
    seen: Vec<u32>,
    objects: u32,
    pub(super) frames: Vec<Frame>,
    /// What came next the last time, behind a path (at twice its number) and in an object (one further).
    next: Vec<PathId>,
}

/// A container that is open in an ordinary record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// What its elements or members are in.
    pub(super) path: Path,
    /// The number of the object; 0 in an array.
    object: u32,
    /// Where in `next` the name to come is guessed.
    guess: usize,
}

impl Marks {
    /// The number of an object that begins.
    fn begin_object(&mut self) -> u32 {
        if self.objects == u32::MAX {
            self.seen.clear();
            self.objects = 0;
        }
        self.objects += 1;
        self.objects
    }

    /// Whether the record has had a name of this group.
    pub(super) fn has_seen(&self, group: u32) -> bool {
        let record = self.frames.first().map(|frame| frame.object);
        self.seen.get(group as usize).copied() == record
    }

    /// Opens a container at `path`.
    pub(super) fn open(&mut self, path: Path, close: u8) {
        let object = if close == b'}' { self.begin_object() } else { 0 };
        self.frames.push(Frame { path, object, guess: 2 * path.id.place() + 1 });
    }

    /// The key that came next in the object that is open the last time, if `text` begins with it, and its
    /// length, colon included. Most do: records of one operation have the same names.
    #[inline]
    pub(super) fn guessed(&mut self, kinds: &Kinds, text: &[u8]) -> Option<(Known, usize)> {
        let frame = self.frames.last()?;
        let guess = self.next.get(frame.guess).copied()?;
        let (known, length) = kinds.begins(text, frame.path.id, guess)?;
        Some((self.first(known)?, length))
    }

    /// What is known of a name in the object that is open; none where that is nothing, or where the object
    /// has had one of that name.
    pub(super) fn found(&mut self, kinds: &Kinds, name: &[u8]) -> Option<Known> {
        let frame = self.frames.last()?;
        let known = kinds.find(frame.path.id, name)?;
        *at(&mut self.next, frame.guess)? = known.path.id;
        self.first(known)
    }

    /// That name, if the object has not had it.
    #[inline]
    fn first(&mut self, known: Known) -> Option<Known> {
        let frame = self.frames.last_mut()?;
        frame.guess = 2 * known.path.id.place();
        let seen = at(&mut self.seen, known.group as usize)?;
        (std::mem::replace(seen, frame.object) != frame.object).then_some(known)
    }
}

/// An element of a list that grows where it has to.
#[inline]
fn at<T: Clone + Default>(list: &mut Vec<T>, at: usize) -> Option<&mut T> {
    if at >= list.len() {
        list.resize(at + 1, T::default());
    }
    list.get_mut(at)
}
