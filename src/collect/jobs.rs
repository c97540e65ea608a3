//! Which job comes next: the order between steps and fetches, tenants and streams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Halt;
use super::stream::{Queued, StreamRun};
use super::tenant::{RunContext, Step, TenantRun};
use super::workers::Workers;
use crate::api::Access;
use crate::content::ContentType;
use crate::state::{Room, Turns};

/// No stream lists a further page when the blobs queued in all streams take this many bytes: some 15,000
/// blobs with ordinary names.
const MAX_QUEUED_IN_ALL: usize = 8 << 20;

/// Where there is one connection only, a blob that failed in an earlier run gets it after so many
/// others.
const RETRY_EVERY: u32 = 8;

/// So long after the rest is done tenants that failed the last time, and have had no answer in this run
/// either, may begin something: Wazuh sends nobody's events before the run has ended.
const LAST_CALL: Duration = Duration::from_secs(30);

/// A stream: the index of its tenant, and its own in there.
pub(super) type StreamIndex = (usize, usize);

/// What the workers share: the tenants of the run, and whose turn it is.
pub(super) struct Shared {
    pub(super) tenants: Vec<TenantRun>,
    streams: Vec<StreamIndex>,
    connections: usize,
    pub(super) workers: Workers,
    /// Whose turn it is to take a step, in `tenants`, of the healthy ones and of the suspect ones; and to
    /// have a blob fetched, in `streams`, of the live ones and of backfills.
    step_turn: [usize; 2],
    fetch_turn: [usize; 2],
    past_turn: usize,
    last_step: [Option<usize>; 2],
    last_fetch: [Option<StreamIndex>; 2],
    last_was_step: bool,
    /// Jobs that are taken and not yet dealt with; of these the steps, the steps of suspect tenants,
    /// and the fetches of blobs that failed in an earlier run.
    pub(super) busy: usize,
    pub(super) stepping: usize,
    suspect_steps: usize,
    retrying: usize,
    /// Other blobs taken since the last one of those.
    since_retry: u32,
    /// Since when only suspect tenants without an answer have had work, and whether any of them has to
    /// wait for the next run.
    rest_done: Option<Instant>,
    left_out: bool,
    /// Nothing is left to be done in this run.
    pub(super) finished: bool,
    /// No further job is taken.
    pub(super) halt: Option<Halt>,
    /// So many more notices of blobs that are gone may wait for the end of the run.
    pub(super) room_for_notices: usize,
    /// What is left in the state for blobs, and whether one was begun.
    pub(super) room: Room,
    pub(super) has_begun: bool,
}

pub(super) enum Job {
    /// A tenant's request, and whether the tenant was suspect when it was sent.
    Step(usize, Step, bool),
    Fetch(Fetch),
}

pub(super) struct Fetch {
    pub(super) stream: StreamIndex,
    pub(super) tenant_id: String,
    pub(super) content_type: ContentType,
    pub(super) access: Arc<Access>,
    pub(super) queued: Queued,
}

/// What of a job is counted while it is in flight.
pub(super) enum Kind {
    Step { suspect: bool },
    Fetch { tenant: usize, retry: bool },
}

/// Whose blobs one is chosen of; each has turns of its own.
#[derive(Clone, Copy, PartialEq)]
enum Lane {
    Live,
    Past,
}

impl Job {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Step(_, _, suspect) => Kind::Step { suspect: *suspect },
            Self::Fetch(fetch) => {
                Kind::Fetch { tenant: fetch.stream.0, retry: fetch.queued.is_retry }
            }
        }
    }
}

impl Shared {
    pub(super) fn new(
        tenants: Vec<TenantRun>,
        turns: &Turns,
        connections: usize,
        room_for_notices: usize,
    ) -> Self {
        let streams: Vec<StreamIndex> = tenants
            .iter()
            .enumerate()
            .flat_map(|(t, tenant)| (0..tenant.streams.len()).map(move |s| (t, s)))
            .collect();
        let is = |t: &TenantRun, id: &str| t.config.tenant_id.eq_ignore_ascii_case(id);
        let behind = |id: &Option<String>| {
            let last = id.as_ref().and_then(|id| tenants.iter().position(|t| is(t, id)));
            last.map_or(0, |last| last + 1)
        };
        let stream = |live: bool, last: &Option<(String, ContentType)>| {
            let (id, name) = last.as_ref()?;
            streams.iter().position(|(t, s)| {
                tenants.get(*t).is_some_and(|tenant| {
                    let stream = tenant.streams.get(*s);
                    let is_it = |s: &StreamRun| s.content_type == *name && s.is_live() == live;
                    is(tenant, id) && stream.is_some_and(is_it)
                })
            })
        };
        let next = |last: Option<usize>| last.map_or(0, |last| last + 1);
        let fetch_turn = [stream(true, &turns.fetched), stream(false, &turns.past)].map(next);
        let past_turn = behind(&turns.past.as_ref().map(|(id, _)| id.clone()));
        Self {
            step_turn: [behind(&turns.listed), behind(&turns.retried)],
            fetch_turn,
            tenants,
            streams,
            connections,
            workers: Workers::new(connections),
            past_turn,
            last_step: [None; 2],
            last_fetch: [None; 2],
            last_was_step: false,
            busy: 0,
            stepping: 0,
            suspect_steps: 0,
            retrying: 0,
            since_retry: 0,
            rest_done: None,
            left_out: false,
            finished: false,
            halt: None,
            room_for_notices,
            room: Room::ENDLESS,
            has_begun: false,
        }
    }

    /// Parts tenants that are the same by tokens of an earlier run: the first one stays.
    pub(super) fn part_twins(&mut self) {
        let mut known: HashMap<String, String> = HashMap::new();
        for tenant in &mut self.tenants {
            let Some(guid) = tenant.access.as_ref().map(|a| a.guid.to_ascii_lowercase()) else {
                continue;
            };
            match known.entry(guid) {
                Entry::Occupied(twin) => tenant.is_twin_of(twin.get()),
                Entry::Vacant(free) => _ = free.insert(tenant.config.tenant_id.clone()),
            }
        }
    }

    /// A job of this kind has been dealt with.
    pub(super) fn ended(&mut self, kind: &Kind) {
        self.busy -= 1;
        match *kind {
            Kind::Step { suspect } => {
                self.stepping -= 1;
                self.suspect_steps -= usize::from(suspect);
            }
            Kind::Fetch { tenant, retry } => {
                self.retrying -= usize::from(retry);
                if let Some(tenant) = self.tenants.get_mut(tenant) {
                    tenant.fetching -= 1;
                }
            }
        }
    }

    /// A job was taken, but will not be done in this run.
    pub(super) fn give_back(&mut self, job: Job) {
        self.ended(&job.kind());
        match job {
            Job::Step(t, step, _) => {
                if let Some(tenant) = self.tenants.get_mut(t) {
                    tenant.step_ended();
                    if let Step::List(page) = step
                        && let Some(stream) = tenant.streams.get_mut(page.stream)
                    {
                        stream.in_flight = false;
                    }
                }
            }
            Job::Fetch(fetch) => {
                self.came_back(fetch.stream, fetch.queued);
            }
        }
    }

    /// A blob was taken, but not begun.
    fn came_back(&mut self, (t, s): StreamIndex, mut queued: Queued) {
        if let Some(stream) = self.tenants.get_mut(t).and_then(|t| t.streams.get_mut(s)) {
            stream.came_back(&mut queued, &mut self.room);
            stream.requeue(queued, true);
        }
    }

    fn stream(&self, (t, s): StreamIndex) -> Option<&StreamRun> {
        self.tenants.get(t)?.streams.get(s)
    }

    pub(super) fn stream_mut(&mut self, (t, s): StreamIndex) -> Option<&mut StreamRun> {
        self.tenants.get_mut(t)?.streams.get_mut(s)
    }

    /// Another configured tenant that has this GUID.
    pub(super) fn twin(&self, t: usize, guid: &str) -> Option<String> {
        let others = self.tenants.iter().enumerate().filter(|(other, _)| *other != t);
        let twin = others.map(|(_, tenant)| tenant).find(|tenant| tenant.has_guid(guid));
        twin.map(|tenant| tenant.config.tenant_id.clone())
    }

    /// Takes no further job. A failed write outweighs every other reason, for nothing may be saved;
    /// SIGTERM outweighs the run's own limits.
    pub(super) fn halt(&mut self, why: Halt) {
        let weight = |why: &Halt| match why {
            Halt::Time | Halt::Output | Halt::State => 0,
            Halt::Terminated => 1,
            Halt::WriteFailed(_) | Halt::NoThread(_) => 2,
        };
        if self.halt.as_ref().is_none_or(|known| weight(known) < weight(&why)) {
            self.halt = Some(why);
        }
    }

    /// Whether no further job is taken.
    pub(super) fn is_over(&self) -> bool {
        self.finished || self.halt.is_some()
    }

    pub(super) fn has_queued(&self) -> bool {
        self.tenants.iter().flat_map(|tenant| &tenant.streams).any(|stream| stream.queued() > 0)
    }

    /// Takes the next job that may be done at `now`.
    pub(super) fn take_job(
        &mut self,
        run: &RunContext,
        may_fetch: bool,
        now: Instant,
    ) -> Option<Job> {
        // Steps bring more to do, fetches get it done: while there are both, half each.
        let steps_first =
            self.stepping * 2 < self.connections && (self.connections > 1 || !self.last_was_step);
        let job = if !may_fetch {
            self.take_step(run, now)
        } else if steps_first {
            self.take_step(run, now).or_else(|| self.take_fetch(now))
        } else {
            self.take_fetch(now).or_else(|| self.take_step(run, now))
        };
        // Where there is one connection only, those that failed before come when nothing else can.
        let alone = may_fetch && self.busy == 0;
        let job = job.or_else(|| alone.then(|| self.take_retry(now)).flatten());
        let job = job.or_else(|| self.take_past(run, may_fetch, now))?;
        self.last_was_step = matches!(job, Job::Step(..));
        self.busy += 1;
        Some(job)
    }

    /// The next request of the tenant whose turn it is.
    fn take_step(&mut self, run: &RunContext, now: Instant) -> Option<Job> {
        let queued = |tenant: &TenantRun| tenant.live().map(StreamRun::queued_bytes).sum::<usize>();
        let can_fetch = |t: &&TenantRun| t.access.is_some() && t.is_due(now);
        let queued: usize = self.tenants.iter().filter(can_fetch).map(queued).sum();
        let may_list = queued < MAX_QUEUED_IN_ALL;
        if let Some(job) = self.take_step_of(false, run, may_list, now) {
            return Some(job);
        }
        if self.suspect_steps >= self.share()
            && self.tenants.iter().any(|tenant| !tenant.is_suspect && tenant.has_work())
        {
            return None;
        }
        if self.is_after_last_call(now) {
            self.left_out = true;
            return None;
        }
        self.take_step_of(true, run, may_list, now)
    }

    /// Whether the others have been done for so long that nothing may be begun any more for suspect
    /// tenants without an answer.
    fn is_after_last_call(&mut self, now: Instant) -> bool {
        let mut others = self.tenants.iter().filter(|t| !t.is_suspect || t.api_answers).peekable();
        let alone = others.peek().is_none();
        if alone || others.any(TenantRun::has_work) {
            self.rest_done = None;
            return false;
        }
        *self.rest_done.get_or_insert(now) + LAST_CALL <= now
    }

    /// The share of the connections that what may hang gets, while there is other work.
    fn share(&self) -> usize {
        (self.connections / 4).max(1)
    }

    fn take_step_of(
        &mut self,
        suspect: bool,
        run: &RunContext,
        may_list: bool,
        now: Instant,
    ) -> Option<Job> {
        let count = self.tenants.len();
        let [healthy_turn, suspect_turn] = self.step_turn;
        let turn = if suspect { suspect_turn } else { healthy_turn };
        for offset in 0..count {
            let t = (turn + offset) % count;
            let tenant = self.tenants.get_mut(t).filter(|tenant| tenant.is_suspect == suspect);
            if let Some(step) = tenant.and_then(|tenant| tenant.next_step(run, may_list, now)) {
                self.stepping += 1;
                self.suspect_steps += usize::from(suspect);
                let lane = usize::from(suspect);
                self.step_turn.get_mut(lane).into_iter().for_each(|turn| *turn = t + 1);
                self.last_step.get_mut(lane).into_iter().for_each(|last| *last = Some(t));
                return Some(Job::Step(t, step, suspect));
            }
        }
        None
    }

    /// The next job of a backfill: when no tenant has live work left, but those that may hang or are
    /// asked to wait.
    fn take_past(&mut self, run: &RunContext, may_fetch: bool, now: Instant) -> Option<Job> {
        let mut tenants = self.tenants.iter();
        if !may_fetch
            || run.past_until.is_some_and(|until| until <= now)
            || tenants.any(|t| !t.is_suspect && t.is_due(now) && t.has_work())
        {
            return None;
        }
        let fetch = self.take_fetch_of(Lane::Past, false, now);
        if let Some(fetch) = fetch.or_else(|| self.take_fetch_of(Lane::Past, true, now)) {
            self.retrying += usize::from(fetch.queued.is_retry);
            return Some(Job::Fetch(fetch));
        }
        let streams = self.tenants.iter().flat_map(|tenant| &tenant.streams);
        if streams.map(StreamRun::queued_bytes).sum::<usize>() >= MAX_QUEUED_IN_ALL {
            return None;
        }
        let count = self.tenants.len();
        for offset in 0..count {
            let t = (self.past_turn + offset) % count;
            let tenant = self.tenants.get_mut(t);
            let suspect = tenant.as_ref().is_some_and(|tenant| tenant.is_suspect);
            if let Some(step) = tenant.and_then(|tenant| tenant.next_of_the_past(run, now)) {
                self.stepping += 1;
                self.suspect_steps += usize::from(suspect);
                self.past_turn = t + 1;
                return Some(Job::Step(t, step, suspect));
            }
        }
        None
    }

    /// The next blob. Those that failed in earlier runs have a quarter of the connections, and more
    /// only where no others are left, nor any to be listed.
    fn take_fetch(&mut self, now: Instant) -> Option<Job> {
        if !self.has_queued() {
            return None;
        }
        let retry = self.retrying < self.share()
            && (self.connections > 1 || self.since_retry >= RETRY_EVERY);
        if retry && let Some(job) = self.take_retry(now) {
            return Some(job);
        }
        if let Some(fetch) = self.take_fetch_of(Lane::Live, false, now) {
            self.since_retry = self.since_retry.saturating_add(1);
            return Some(Job::Fetch(fetch));
        }
        let more_to_come = self.tenants.iter().any(TenantRun::has_steps);
        if more_to_come { None } else { self.take_retry(now) }
    }

    /// The next blob that failed in an earlier run.
    fn take_retry(&mut self, now: Instant) -> Option<Job> {
        let fetch = self.take_fetch_of(Lane::Live, true, now)?;
        self.retrying += 1;
        self.since_retry = 0;
        Some(Job::Fetch(fetch))
    }

    /// The next blob of the tenant that has the fewest in flight; among its equals that of the stream
    /// whose turn it is. A tenant, or a stream, whose blobs hang leaves some connections to others,
    /// even where these have nothing to be fetched just now.
    fn take_fetch_of(&mut self, lane: Lane, retry: bool, now: Instant) -> Option<Fetch> {
        let live = lane == Lane::Live;
        let count = self.streams.len();
        let first = self.fetch_turn.get(lane as usize).copied()?;
        let mut best: Option<(usize, usize)> = None;
        for offset in 0..count {
            let turn = (first + offset) % count;
            let (t, s) = self.streams.get(turn).copied()?;
            let tenant = self.tenants.get(t)?;
            let fewer = best.is_none_or(|(fetching, _)| tenant.fetching < fetching);
            if fewer
                && tenant.access.is_some()
                && tenant.is_due(now)
                && tenant
                    .streams
                    .get(s)
                    .is_some_and(|stream| stream.is_live() == live && stream.has_due(retry, now))
                && self.leaves_room(t, s)
            {
                best = Some((tenant.fetching, turn));
                if tenant.fetching == 0 {
                    break;
                }
            }
        }
        let (_, turn) = best?;
        let (t, s) = self.streams.get(turn).copied()?;
        let tenant = self.tenants.get_mut(t)?;
        let access = tenant.access.clone()?;
        let stream = tenant.streams.get_mut(s)?;
        let mut queued = stream.next_blob(retry, now)?;
        self.room.begin(&mut queued.share);
        self.has_begun = true;
        tenant.fetching += 1;
        let lane = lane as usize;
        self.fetch_turn.get_mut(lane).into_iter().for_each(|next| *next = turn + 1);
        self.last_fetch.get_mut(lane).into_iter().for_each(|last| *last = Some((t, s)));
        let (tenant_id, content_type) = (tenant.config.tenant_id.clone(), stream.content_type);
        Some(Fetch { stream: (t, s), tenant_id, content_type, access, queued })
    }

    /// Whether one more blob of a stream in flight leaves connections to others that have work, each
    /// tenant to the others, and a stream to those beside it.
    fn leaves_room(&self, t: usize, s: usize) -> bool {
        let most = (self.connections - self.share()).max(1);
        let Some(tenant) = self.tenants.get(t).filter(|tenant| tenant.fetching >= most) else {
            return true;
        };
        let mut others = self.tenants.iter().enumerate().filter(|(other, _)| *other != t);
        if others.any(|(_, other)| other.has_work()) {
            return false;
        }
        let is_full = tenant.streams.get(s).is_some_and(|stream| stream.fetching() >= most);
        !is_full || !tenant.has_work_beside(s)
    }

    /// When the next of the jobs that are not due yet will be.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        self.tenants.iter().filter_map(|tenant| tenant.next_time(now)).min()
    }

    /// Where the run left off, if it had to stop, or to leave tenants or backfills out.
    pub(super) fn turns(&self) -> Turns {
        let has_past = self.tenants.iter().any(TenantRun::has_past_work);
        if self.halt.is_none() && !self.left_out && !has_past {
            return Turns::default();
        }
        let tenant_id = |t: usize| self.tenants.get(t).map(|t| t.config.tenant_id.clone());
        let [listed, retried] = self.last_step;
        let [fetched, past] = self.last_fetch.map(|last| {
            let (t, s) = last?;
            Some((tenant_id(t)?, self.stream((t, s))?.content_type))
        });
        Turns {
            listed: listed.and_then(tenant_id),
            retried: retried.and_then(tenant_id),
            fetched,
            past,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::Walk;
    use super::super::tenant::with_streams;
    use super::*;
    use crate::clock::Clock;
    use crate::content::{Blob, Subscriptions};
    use crate::state::{Backfill, Stream, Tenant, Waiting};
    use crate::timestamp::{DAY, Timestamp};

    fn context() -> RunContext {
        RunContext::of(&Arc::new(Clock::new(0)))
    }

    /// So many tenants of one stream, of which all but the first have failed the last time.
    fn shared(tenants: usize) -> Shared {
        let mut tenants: Vec<_> =
            (0..tenants).map(|_| with_streams(&[(ContentType::General, 5)])).collect();
        tenants.iter_mut().skip(1).for_each(|tenant| tenant.is_suspect = true);
        Shared::new(tenants, &Turns::default(), 2, 10)
    }

    /// Takes a step for each tenant that may have one; gives the tenants.
    fn take_all(shared: &mut Shared, now: Instant) -> Vec<usize> {
        let run = context();
        let mut taken = Vec::new();
        while let Some(job) = shared.take_job(&run, true, now) {
            let Job::Step(t, ..) = &job else { panic!("there is nothing to be fetched") };
            taken.push(*t);
            // As if it still hung, but with a connection for the next one.
            shared.ended(&job.kind());
        }
        taken
    }

    #[test]
    fn those_who_may_be_dead_begin_nothing_long_after_the_rest_is_done() {
        let begun = Instant::now();
        let mut shared = shared(4);
        assert_eq!(take_all(&mut shared, begun), [0, 1, 2, 3], "all have a first request");
        let late = begun + LAST_CALL * 2;
        for tenant in &mut shared.tenants {
            tenant.step_ended();
        }
        // The first one is still at work: the others' time has not begun to run.
        assert_eq!(take_all(&mut shared, late), [0, 1, 2, 3]);
        for tenant in &mut shared.tenants {
            tenant.step_ended();
        }
        shared.tenants[0].streams.clear();
        shared.tenants[0].went_well();
        assert!(!shared.is_after_last_call(late));
        assert!(shared.take_job(&context(), true, late).is_some());
        assert!(!shared.is_after_last_call(late + LAST_CALL - Duration::from_secs(1)));
        assert_eq!(shared.turns(), Turns::default());
        assert_eq!(take_all(&mut shared, late + LAST_CALL), [0; 0]);
        assert!(shared.turns().retried.is_some(), "the next run begins behind the last one");
        // Whoever has had an answer is not given up.
        shared.tenants[3].went_well();
        assert_ne!(take_all(&mut shared, late + LAST_CALL), [0; 0]);
    }

    #[test]
    fn the_healthy_and_the_suspect_have_turns_of_their_own() {
        let mut shared = shared(4);
        shared.tenants[3].is_suspect = false;
        let take = |shared: &mut Shared| {
            let job = shared.take_job(&context(), true, Instant::now()).unwrap();
            shared.ended(&job.kind());
            let Job::Step(t, _, suspect) = job else { panic!("there is nothing to be fetched") };
            (t, suspect)
        };
        let taken: Vec<_> = (0..3).map(|_| take(&mut shared)).collect();
        assert_eq!(taken, [(0, false), (3, false), (1, true)]);
        assert_eq!(shared.last_step, [Some(3), Some(1)], "the next run goes on behind both");
        shared.halt = Some(Halt::Time);
        let turns = shared.turns();
        assert!(turns.listed.is_some() && turns.retried.is_some());
        assert_eq!(take(&mut shared), (2, true));
    }

    #[test]
    fn where_all_have_failed_the_last_time_all_are_tried() {
        let mut shared = shared(3);
        shared.tenants[0].is_suspect = true;
        let late = Instant::now() + LAST_CALL * 2;
        assert_eq!(take_all(&mut shared, late), [0, 1, 2]);
        assert!(!shared.is_after_last_call(late + LAST_CALL));
    }

    #[test]
    fn backfills_with_much_to_do_keep_no_live_stream_from_being_listed() {
        let now = Timestamp::from_unix(1_800_000_000);
        let names = ContentType::ALL;
        let waiting = |name: ContentType| {
            let blob = |n| Blob {
                id: format!("{name}{n}"),
                uri: String::new(),
                created: Some(now.plus(-4 * DAY)),
                expires: None,
            };
            (0..1000).map(|n| Waiting::new(blob(n), now)).collect()
        };
        let tenant = || {
            let mut run = with_streams(&names.map(|name| (name, 60)));
            let mut state = Tenant::default();
            for name in names {
                let live = Stream { origin: None, ..Stream::first(true, None, now.plus(-60)) };
                state.streams.insert(name, live);
                let mut backfill = Backfill::new(name, now.plus(-5 * DAY), Some(now.plus(-3600)));
                backfill.stream.waiting = waiting(name);
                state.backfills.push(backfill);
            }
            run.take_state(state, &names, now);
            let list = Subscriptions { enabled: names.to_vec(), unclear: Vec::new() };
            run.take_subscriptions(&list, now);
            run
        };
        let mut shared = Shared::new(vec![tenant(), tenant()], &Turns::default(), 8, 10);
        let job = shared.take_job(&context(), true, Instant::now());
        assert!(matches!(job, Some(Job::Step(_, Step::List(_), _))), "live streams come first");
        // The next run begins behind the backfill whose turn it was.
        for tenant in &mut shared.tenants {
            for stream in tenant.streams.iter_mut().filter(|stream| stream.is_live()) {
                stream.walk = Walk::Done;
            }
        }
        let job = shared.take_job(&context(), true, Instant::now());
        assert!(matches!(job, Some(Job::Fetch(_))), "then their blobs");
        assert!(shared.turns().past.is_some() && shared.turns().fetched.is_none());
    }
}
