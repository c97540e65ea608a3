//! Handing over: what a run wrote is on its way until Wazuh has sent it on.
//!
//! `wazuh-modulesd` keeps the output of a run in memory and sends it on after the run has ended,
//! 100 events a second by default; only then does it start the next run. Should it be restarted
//! meanwhile, the rest is lost (measured). So what a run wrote under a modulesd is remembered until
//! the next run under the same modulesd proves it drained; under another one it is written again.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{State, Stream};
use crate::notice::Notice;
use crate::state::fingerprint;

/// A `wazuh-modulesd`, as no other process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modulesd {
    /// Its process id.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since the machine was.
    pub started: u64,
    /// The machine's boot.
    pub boot: String,
}

/// The socket that a modulesd sends events to, as it was when first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Its inode.
    pub inode: u64,
    /// When that last changed, in nanoseconds since 1970.
    pub changed: i64,
}

/// What the last run under a modulesd handed over, besides the blobs of its streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// The modulesd of the last run that had one for its parent.
    pub modulesd: Option<Modulesd>,
    /// The socket that this one sends to.
    pub queue: Option<Queue>,
    /// The notices handed over.
    pub notices: Vec<Notice>,
}

/// The queue's owner was restarted under a modulesd that still holds the old socket: what a run
/// writes now is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadQueue;

impl State {
    /// Begins a run under `modulesd`, whose `queue` is now as given: what was handed over is proven
    /// drained, or is to be written again; while a queue that was there is missing, it goes on
    /// waiting for its proof.
    ///
    /// True where that changes the state, so that it must be saved before anything is written.
    ///
    /// A run under any other parent must not call this: it neither proves nor repeats.
    ///
    /// # Errors
    /// All output would be lost; nothing is changed.
    pub fn begin_run(
        &mut self,
        modulesd: &Modulesd,
        queue: Option<Queue>,
    ) -> Result<bool, DeadQueue> {
        let handover = &mut self.handover;
        if handover.modulesd.as_ref() == Some(modulesd) {
            match (handover.queue, queue) {
                (Some(known), Some(now)) if known != now => return Err(DeadQueue),
                (Some(_), None) => return Ok(false),
                _ => {}
            }
            let mut changed = !handover.notices.is_empty();
            handover.notices.clear();
            if handover.queue.is_none() && queue.is_some() {
                handover.queue = queue;
                changed = true;
            }
            for stream in self.streams_mut() {
                changed |= !stream.handed_over.is_empty();
                stream.handed_over.clear();
                stream.excluded_of_handed_over = 0;
            }
            return Ok(changed);
        }
        let mut again = std::mem::take(&mut handover.notices);
        *handover = Handover { modulesd: Some(modulesd.clone()), queue, notices: Vec::new() };
        // What is to be said of a blob that comes again is said again then.
        let lost = self.streams_mut().flat_map(|stream| &stream.handed_over);
        let lost: HashSet<String> = lost.map(|blob| blob.id.clone()).collect();
        again.retain(|notice| notice.content_id.as_ref().is_none_or(|id| !lost.contains(id)));
        self.notices.splice(0..0, again);
        self.streams_mut().for_each(Stream::write_again);
        Ok(true)
    }

    fn streams_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.tenants.values_mut().flat_map(|tenant| {
            let past = tenant.backfills.iter_mut().map(|backfill| &mut backfill.stream);
            tenant.streams.values_mut().chain(past)
        })
    }
}

impl Stream {
    /// Puts the blobs that were handed over back among those that wait, as they were before.
    fn write_again(&mut self) {
        let lost = std::mem::take(&mut self.handed_over);
        let ids: HashSet<&str> = lost.iter().map(|blob| blob.id.as_str()).collect();
        self.waiting.retain(|blob| !ids.contains(blob.id.as_str()));
        for blob in &lost {
            self.delivered.remove(fingerprint(&blob.id));
        }
        self.waiting.extend(lost);
        // They are counted once more.
        let again = std::mem::take(&mut self.excluded_of_handed_over);
        self.excluded = self.excluded.saturating_sub(again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Blob, ContentType};
    use crate::notice::Kind;
    use crate::state::{Tenant, Waiting};
    use crate::timestamp::Timestamp;

    const QUEUE: Option<Queue> = Some(Queue { inode: 1, changed: 1 });

    fn modulesd(pid: u32) -> Modulesd {
        Modulesd { pid, started: 7, boot: "b".to_owned() }
    }

    fn blob(id: &str, written: u64) -> Waiting {
        let blob = Blob { id: id.to_owned(), uri: String::new(), created: None, expires: None };
        Waiting { written, ..Waiting::new(blob, Timestamp::from_unix(1000)) }
    }

    /// A state in which "whole" is delivered and "part" is begun, both handed over to number 1.
    fn handed_over() -> State {
        let mut state = State::default();
        assert_eq!(state.begin_run(&modulesd(1), QUEUE), Ok(true));
        assert_eq!(state.begin_run(&modulesd(1), QUEUE), Ok(false), "nothing new");
        let mut stream = Stream::first(true, None, Timestamp::from_unix(0));
        stream.delivered.insert(fingerprint("whole"), Timestamp::from_unix(1000));
        stream.waiting = vec![blob("part", 50), blob("other", 0)];
        stream.handed_over = vec![blob("whole", 0), blob("part", 20)];
        let mut tenant = Tenant::default();
        tenant.streams.insert(ContentType::General, stream);
        state.tenants.insert("t".to_owned(), tenant);
        let gap = || Notice::new(Kind::Gap, "t", None, "x");
        state.handover.notices = vec![gap(), gap().content("whole")];
        state
    }

    fn waiting(state: &State) -> Vec<(&str, u64)> {
        let stream = &state.tenants["t"].streams[&ContentType::General];
        stream.waiting.iter().map(|blob| (blob.id.as_str(), blob.written)).collect()
    }

    #[test]
    fn the_next_run_under_the_same_parent_proves_it_drained() {
        let mut state = handed_over();
        let before = state.clone();
        assert_eq!(state.begin_run(&modulesd(1), None), Ok(false), "no verdict");
        assert_eq!(state, before);
        assert_eq!(state.begin_run(&modulesd(1), QUEUE), Ok(true));
        assert_eq!(waiting(&state), [("part", 50), ("other", 0)]);
        assert!(state.handover.notices.is_empty() && state.notices.is_empty());
        // Now it needs no repeating, whatever comes.
        assert_eq!(state.begin_run(&modulesd(2), QUEUE), Ok(true));
        assert_eq!(waiting(&state), [("part", 50), ("other", 0)]);
    }

    #[test]
    fn under_another_modulesd_it_is_written_again() {
        for other in [
            modulesd(2),
            Modulesd { started: 8, ..modulesd(1) },
            Modulesd { boot: "c".to_owned(), ..modulesd(1) },
        ] {
            let mut state = handed_over();
            // Its socket may well be another one.
            let queue = Some(Queue { inode: 2, changed: 1 });
            assert_eq!(state.begin_run(&other, queue), Ok(true));
            assert_eq!(waiting(&state), [("other", 0), ("whole", 0), ("part", 20)]);
            assert_eq!(state.notices.len(), 1, "not what comes again with its blob");
            let stream = &state.tenants["t"].streams[&ContentType::General];
            assert!(!stream.delivered.contains(fingerprint("whole")));
            assert_eq!(state.begin_run(&other, queue), Ok(false), "once");
        }
    }

    #[test]
    fn a_socket_made_anew_under_the_same_parent_is_dead() {
        for queue in [Queue { inode: 2, changed: 1 }, Queue { inode: 1, changed: 2 }] {
            let mut state = handed_over();
            let before = state.clone();
            assert_eq!(state.begin_run(&modulesd(1), Some(queue)), Err(DeadQueue));
            assert_eq!(state, before);
        }
    }

    #[test]
    fn a_socket_is_remembered_from_when_it_was_first_there() {
        let mut state = State::default();
        assert_eq!(state.begin_run(&modulesd(1), None), Ok(true));
        assert_eq!(state.begin_run(&modulesd(1), QUEUE), Ok(true));
        let other = Some(Queue { inode: 2, changed: 1 });
        assert_eq!(state.begin_run(&modulesd(1), other), Err(DeadQueue));
    }
}
