//! How large the state may get. What blobs cost in it is counted while a run goes on, so that it begins no
//! more of them than it can remember; what does not fit stays behind the position, where listing finds it.

use std::io;

use serde::Serialize;

use super::{State, Stream, Tenant, Waiting};

/// The state is to be no larger than this, in bytes.
pub const MAX_STATE: usize = 8 << 20;

/// Of this, what a run may add besides blobs: notices, and texts of what has failed.
const RESERVED: usize = 2 << 20;

/// What blobs have in any case: delivered ones are remembered however many they are, for to forget one is
/// to write it twice, and they must not keep others from being delivered.
const MIN_ROOM: usize = 1 << 20;

/// What the last record's `Id` and the counts cost at most in a blob that is begun.
const MARK: usize = 2300;

/// What a delivered blob costs.
const DELIVERED: usize = 16;

/// Room for one blob more, whatever it is called: each byte of id and address may take six in JSON.
const LARGEST: usize = 2 * (6 * (1024 + 4096) + 300) + MARK + DELIVERED;

/// The bytes that are left for blobs that a run begins, and for those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(usize);

/// What a blob takes of the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In bytes, as it waits.
    size: usize,
    /// Taken before the run, for it may not be dropped.
    before: usize,
    /// Taken now.
    taken: usize,
}

impl Share {
    /// That of a blob before it is begun. `is_kept`: the state that the run began with has it, and it may
    /// not be dropped.
    #[must_use]
    pub fn of(blob: &Waiting, is_kept: bool) -> Self {
        let size = blob.size();
        let before = if is_kept { size } else { 0 };
        Self { size, before, taken: before }
    }

    /// What it costs in memory, nearly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Room {
    /// Room without end, for a run of which nothing is saved.
    pub const ENDLESS: Self = Self(usize::MAX);

    /// What is left in a state that is to have `most` bytes at most: `rest` is the state without the
    /// configured `tenants`.
    #[must_use]
    pub fn of<'a>(most: usize, rest: &State, tenants: impl Iterator<Item = &'a Tenant>) -> Self {
        let mut all = size(rest);
        // Notices as well, which may wait for as long.
        let mut handed_over = size(&rest.notices) + size(&rest.handover.notices);
        let mut droppable = 0;
        for tenant in tenants {
            all += size(tenant);
            let past = tenant.backfills.iter().map(|backfill| &backfill.stream);
            for stream in tenant.streams.values().chain(past) {
                handed_over += stream.handed_over.iter().map(Waiting::size).sum::<usize>();
                let waiting = stream.waiting.iter().filter(|blob| !stream.must_keep(blob));
                droppable += waiting.map(Waiting::size).sum::<usize>();
            }
        }
        let besides = all.saturating_sub(droppable + handed_over);
        let room = most.saturating_sub(RESERVED).saturating_sub(besides).max(MIN_ROOM);
        Self(room.saturating_sub(handed_over))
    }

    /// Whether one blob more may be begun.
    #[must_use]
    pub fn has_any(self) -> bool {
        self.0 >= LARGEST
    }

    /// A blob is begun: it may have to be remembered twice, as it was before and as it is now.
    pub fn begin(&mut self, share: &mut Share) {
        self.set(share, (2 * share.size).saturating_add(MARK + DELIVERED).max(share.taken));
    }

    /// A blob came back before anything of it was out: it may be dropped again.
    pub fn give_back(&mut self, share: &mut Share) {
        self.set(share, share.before);
    }

    /// A blob is delivered, and handed over or not.
    pub fn end(&mut self, share: &mut Share, is_handed_over: bool) {
        self.set(share, DELIVERED + if is_handed_over { share.size } else { 0 });
    }

    fn set(&mut self, share: &mut Share, taken: usize) {
        self.0 = self.0.saturating_add(share.taken).saturating_sub(taken);
        share.taken = taken;
    }

    /// A part of it, where `others` get as much.
    #[must_use]
    pub fn part(self, others: usize) -> usize {
        self.0 / others.max(1)
    }

    /// That much of it is taken.
    pub fn take(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }
}

impl Stream {
    /// Whether a blob that waits can't be dropped: listing would not find it again, or not where it was
    /// begun.
    #[must_use]
    pub fn must_keep(&self, blob: &Waiting) -> bool {
        blob.listable_since() < self.horizon || blob.written > 0
    }
}

impl Waiting {
    /// What it takes in the file, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size(self) + 1
    }
}

/// How many bytes of JSON a value is.
fn size(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What can't be written now can't be saved either, which is said then.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Blob, ContentType};
    use crate::timestamp::Timestamp;

    fn at(seconds_before: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 - seconds_before)
    }

    fn waiting(id: &str, uri: usize) -> Waiting {
        let (id, uri) = (id.to_owned(), "u".repeat(uri));
        Waiting::new(Blob { id, uri, created: Some(at(60)), expires: None }, at(0))
    }

    fn tenant(stream: Stream) -> Tenant {
        let mut tenant = Tenant::default();
        tenant.streams.insert(ContentType::General, stream);
        tenant
    }

    fn room(stream: Stream) -> usize {
        Room::of(MAX_STATE, &State::default(), [tenant(stream)].iter()).0
    }

    #[test]
    fn the_largest_blob_has_room_where_there_is_any() {
        let uri = "\u{1}".repeat(4096);
        let blob = Waiting { uri, ..waiting(&"\u{1}".repeat(1024), 0) };
        let last_id = Some("\\".repeat(1024));
        let begun = Waiting { written: u64::MAX, last_id, last_try: Some(at(0)), ..blob.clone() };
        assert!(blob.size() + begun.size() <= LARGEST, "{} {}", blob.size(), begun.size());
        let mut room = Room(LARGEST);
        let mut share = Share::of(&blob, false);
        room.begin(&mut share);
        assert!(!room.has_any() && share.taken >= blob.size() + begun.size());
        room.give_back(&mut share);
        assert_eq!(room, Room(LARGEST));
        room.begin(&mut share);
        room.begin(&mut share);
        room.end(&mut share, true);
        assert_eq!(room.0, LARGEST - blob.size() - DELIVERED);
    }

    #[test]
    fn what_cannot_be_dropped_counts_and_what_can_does_not() {
        let empty = Stream { origin: None, ..Stream::first(true, None, at(3600)) };
        let all = room(empty.clone());
        assert!((MAX_STATE - RESERVED - 2000..MAX_STATE - RESERVED).contains(&all), "{all}");
        let blob = waiting("a", 4000);
        let listable = Stream { waiting: vec![blob.clone()], ..empty.clone() };
        assert!(room(listable).abs_diff(all) <= 1, "but for a comma");
        let begun = Waiting { written: 1, ..blob.clone() };
        let begun = Stream { waiting: vec![begun], ..empty.clone() };
        assert!((4000..4400).contains(&(all - room(begun))));
        let old = Stream { horizon: at(0), waiting: vec![blob.clone()], ..empty.clone() };
        assert!((4000..4400).contains(&(all - room(old))));
        let handed_over = Stream { handed_over: vec![blob], ..empty };
        assert!((4000..4400).contains(&(all - room(handed_over))));
    }

    #[test]
    fn a_full_state_goes_on_unless_it_is_full_of_what_is_handed_over() {
        let many = || (0..3000).map(|n| waiting(&n.to_string(), 4000)).collect::<Vec<_>>();
        let empty = Stream { origin: None, ..Stream::first(true, None, at(0)) };
        let old = Stream { waiting: many(), horizon: at(0), ..empty.clone() };
        let least = MIN_ROOM - "[][]".len();
        assert_eq!(room(old), least);
        let mut delivered = empty.clone();
        (0..800_000).for_each(|n| delivered.delivered.insert(n, at(0)));
        assert_eq!(room(delivered), least);
        assert_eq!(room(Stream { handed_over: many(), ..empty }), 0);
    }

    #[test]
    fn what_waited_before_gives_its_room_when_it_is_delivered() {
        let blob = Waiting { written: 7, ..waiting("a", 1000) };
        let mut room = Room(1 << 20);
        let mut share = Share::of(&blob, true);
        room.begin(&mut share);
        room.give_back(&mut share);
        assert_eq!(room, Room(1 << 20));
        room.begin(&mut share);
        room.end(&mut share, false);
        assert_eq!(room.0, (1 << 20) + blob.size() - DELIVERED);
    }
}
