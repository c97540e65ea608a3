//! Fetching a blob: from its first byte to what came of it.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::batch::{Batch, Reached};
use super::jobs::{Fetch, Shared};
use super::{Collector, Halt};
use crate::api::{Access, Trouble};
use crate::clock::local_now;
use crate::content::Reaction;
use crate::event::{Learning, LineMaker};
use crate::health::Failure;
use crate::notice::Kind;
use crate::output::{Turn, Written};
use crate::records::{Element, SplitError};
use crate::words::excerpt;

/// What came of fetching a blob. `Queued` knows how far it got.
pub(super) enum Fetched {
    Whole,
    /// The run ended inside it.
    Stopped,
    /// The run was over before it had got further than an earlier one.
    Late,
    /// It is not the blob that was begun: from its start, please.
    Restart,
    Trouble(Trouble),
}

/// What a worker uses again from blob to blob.
pub(super) struct Buffers<'a> {
    read: Vec<u8>,
    lines: Vec<u8>,
    maker: LineMaker<'a>,
}

impl<'a> Buffers<'a> {
    pub(super) fn new(maker: LineMaker<'a>) -> Self {
        Self { read: Vec::new(), lines: Vec::new(), maker }
    }
}

impl Collector {
    /// Fetches a blob and writes its events, from where an earlier try left off.
    pub(super) fn fetch(&self, fetch: &mut Fetch, buffers: &mut Buffers<'_>) -> Fetched {
        let Buffers { read, lines, maker } = buffers;
        let mut records = match self.api.fetch(&fetch.access, &fetch.queued.blob.uri, read) {
            Ok(records) => records,
            Err(trouble) => return Fetched::Trouble(trouble),
        };
        // The element at the mark proves that it is the blob that was begun.
        let mark = fetch.queued.blob.written;
        let reached = fetch.queued.reached.clone();
        let skip = mark.max(reached.elements);
        let (mut index, mut late) = (0, false);
        let mut batch = Batch::new(fetch.content_type, maker, lines);
        batch.go_on(reached);
        let end = loop {
            if self.stopped.load(Ordering::Relaxed) && !late {
                // In time's last seconds, one that has not got further than an earlier run goes on
                // until it is broken off.
                let begun = mark > 0 && fetch.queued.blob.written == mark;
                late = begun && Instant::now() >= self.deadline;
                if !late {
                    break Fetched::Stopped;
                }
            }
            let next = if index < skip {
                records.next_element()
            } else {
                records.next_or_take(|text| batch.add_first(text, index + 1))
            };
            let element = match next {
                Ok(Some(element)) => element,
                Ok(None) if index < skip => return Fetched::Restart,
                Ok(None) => break Fetched::Whole,
                Err(_) if late => break Fetched::Late,
                Err(SplitError::NoMemory(_)) => break Fetched::Stopped,
                Err(error) => break Fetched::Trouble(self.split_trouble(error, &fetch.access)),
            };
            index += 1;
            // Repairs take a multiple of a large record's memory.
            let work = element.is_large().then(|| self.api.memory.work());
            if index > skip {
                let added = batch.add(&element, index, Learning::No)
                    || self.write_learning(&mut batch, &element, index, fetch);
                if work.is_some() {
                    batch.shrink();
                }
                if !added {
                    return Fetched::Stopped;
                }
            } else if index == mark && Batch::id_of(&element) != fetch.queued.blob.last_id {
                return Fetched::Restart;
            }
            drop(work);
            if batch.is_full() && !self.write(&mut batch, fetch) {
                return Fetched::Stopped;
            }
        };
        if let Fetched::Whole = end {
            batch.settle();
        }
        let written = self.write(&mut batch, fetch);
        match end {
            Fetched::Late if fetch.queued.blob.written > mark => Fetched::Stopped,
            end if written => end,
            _ => Fetched::Stopped,
        }
    }

    fn split_trouble(&self, error: SplitError, access: &Access) -> Trouble {
        match error {
            SplitError::NoArray(body) => self.api.no_content(access, &body),
            SplitError::Cut => Trouble::passing("the content ends in the middle".to_owned()),
            SplitError::Malformed(at) => {
                Trouble::passing(format!("the content is damaged at byte {at}"))
            }
            SplitError::Read(error) | SplitError::NoMemory(error) => {
                let text = format!("the content broke off: {error}");
                let text = access.hidden().shown(&text).into_owned();
                let stalled = error.kind() == io::ErrorKind::TimedOut;
                if stalled { Trouble::slow(text) } else { Trouble::passing(text) }
            }
        }
    }

    /// Writes a record that teaches the kind of a path, and what is before it; false when the run ends
    /// here. While this worker has its turn no other event can be written first, and what was learned is
    /// saved before the event is out.
    fn write_learning(
        &self,
        batch: &mut Batch<'_, '_>,
        element: &Element<'_>,
        index: u64,
        fetch: &mut Fetch,
    ) -> bool {
        if !self.write(batch, fetch) {
            return false;
        }
        let turn = self.output.turn();
        batch.add(element, index, Learning::Yes);
        self.save_kinds(false);
        batch.is_empty() || self.write_in(turn, batch, fetch)
    }

    /// Writes a batch out and marks how far the blob got; false when the run ends here.
    fn write(&self, batch: &mut Batch<'_, '_>, fetch: &mut Fetch) -> bool {
        batch.is_empty() || self.write_in(self.output.turn(), batch, fetch)
    }

    /// The same with the right to write, which is held until the state knows of it: a run that ends
    /// meanwhile repeats nothing.
    fn write_in(&self, mut turn: Turn<'_>, batch: &mut Batch<'_, '_>, fetch: &mut Fetch) -> bool {
        let why = match turn.events(batch.lines()) {
            Ok(Written::All) => {
                let mark = batch.mark();
                let hand_over = self.run.hand_over && !batch.lines().is_empty();
                if let Some(stream) = self.lock().stream_mut(fetch.stream) {
                    stream.wrote(fetch.queued.key, mark.clone(), hand_over);
                    stream.count(fetch.queued.key, batch.counts());
                    let shown = || fetch.access.hidden().shown(&fetch.queued.blob.id).into_owned();
                    stream.pass_over(fetch.queued.key, shown, batch.take_skipped());
                }
                fetch.queued.blob.advance(mark);
                fetch.queued.reached = batch.reached();
                batch.clear();
                return true;
            }
            Ok(Written::Full) => Halt::Output,
            Err(error) => Halt::WriteFailed(error.to_string()),
        };
        // Before anybody else may write, or end the run.
        self.stop(&mut self.lock(), why);
        drop(turn);
        false
    }

    /// Takes in what came of a fetch: delivered, to be tried again, put aside, or lost.
    pub(super) fn take_fetched(&self, fetch: Fetch, mut fetched: Fetched) {
        let Fetch { stream: (t, s), tenant_id, content_type, access, mut queued } = fetch;
        let now = self.clock().now();
        let content = |id: &str| access.hidden().shown(id).into_owned();
        // By the API's clock or by this machine's, should one of them be late.
        let latest = now.max(local_now());
        let mut guard = self.lock();
        let shared = &mut *guard;
        if shared.halt == Some(Halt::Terminated) && matches!(fetched, Fetched::Trouble(_)) {
            // Broken off.
            fetched = Fetched::Stopped;
        }
        if let Some(stream) = shared.tenants.get_mut(t).and_then(|t| t.streams.get_mut(s)) {
            stream.came_back(&mut queued, &mut shared.room);
        }
        let trouble = match fetched {
            Fetched::Whole => {
                let Shared { tenants, room_for_notices, room, .. } = shared;
                let Some(tenant) = tenants.get_mut(t) else {
                    return;
                };
                tenant.went_well();
                if let Some(stream) = tenant.streams.get_mut(s) {
                    stream.blobs += 1;
                    stream.done_with(&mut queued, latest, room);
                    stream.tell_skipped(queued.key, room_for_notices, room, now);
                }
                return;
            }
            Fetched::Trouble(trouble) => trouble,
            Fetched::Stopped | Fetched::Late | Fetched::Restart => {
                if let (Fetched::Late, Some(Halt::Time)) = (&fetched, &shared.halt)
                    && let Some(stream) = shared.stream_mut((t, s))
                {
                    let why = Failure::of(format!(
                        "content {} is so large, or comes so slowly, that a run has hardly time to \
                         get to where the last one stopped: raise run_timeout, and <timeout> of the \
                         wodle block with it, or lower max_connections if the line is busy",
                        excerpt(&content(&queued.blob.id))
                    ));
                    return stream.park(queued.blob, now, why);
                }
                if let Fetched::Restart = fetched {
                    log::warn!(
                        "{tenant_id} {content_type}: content {} is not what it was when it was \
                         begun: it is written again from its start",
                        excerpt(&content(&queued.blob.id))
                    );
                    queued.blob.written = 0;
                    queued.blob.last_id = None;
                    queued.reached = Reached::default();
                }
                if let Some(stream) = shared.stream_mut((t, s)) {
                    stream.requeue(queued, true);
                }
                return;
            }
        };
        // A wrong Date makes nothing expire.
        let is_sure = self.run.reading().is_some_and(|clock| clock.is_confirmed());
        let expired =
            trouble.reaction == Reaction::Expired || (is_sure && queued.blob.is_expired(now));
        let gone = expired || (trouble.reaction == Reaction::Missing && queued.blob.missing);
        // What can't be told yet keeps waiting.
        let gone = gone && shared.room_for_notices > 0 && shared.room.has_any();
        shared.room_for_notices -= usize::from(gone);
        let Some(tenant) = shared.tenants.get_mut(t) else {
            return;
        };
        match tenant.streams.get_mut(s).filter(|_| gone) {
            Some(stream) => {
                let expired = if expired { "has expired" } else { "is gone" };
                let text = format!(
                    "content that became available at {} {expired}: {}",
                    queued.blob.created, trouble.text
                );
                let gap = stream.notice(Kind::Gap, text).code(trouble.code.clone());
                let created = queued.blob.created;
                let gap = gap.window(created, created).content(&content(&queued.blob.id));
                // It may have to be told again.
                shared.room.take(gap.line().len());
                stream.gap(gap, now);
                stream.done_with(&mut queued, latest, &mut shared.room);
            }
            None => tenant.fetch_failed(s, queued, trouble, &access, now),
        }
    }
}
