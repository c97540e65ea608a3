//! A stream's runs against a reference model: an API that hands out blobs late, on pages, in part;
//! fetches that fail, break off, or are stopped; clocks that jump; runs that crash; and a modulesd
//! that is restarted while it still holds what was written. The model knows nothing of positions:
//! it counts how often each record has arrived.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::stream::{Queued, StreamRun};
use super::tenant::{RunContext, configured};
use crate::api::Page;
use crate::clock::Clock;
use crate::content::{Blob, ContentType};
use crate::health::Failure;
use crate::state::{ClockReading, Modulesd, Room, State, Stream, Tenant, Window};
use crate::timestamp::{DAY, HOUR, MINUTE, Timestamp};

const START: i64 = 1_800_000_000;
const LOOKBACK: i64 = HOUR;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

/// Times meet often when all are whole minutes: a blob's own, and a window's start.
fn whole_minutes(seconds: i64) -> i64 {
    seconds - seconds % MINUTE
}

struct Dice(TestRng);

impl Dice {
    fn new(seed: u64) -> Self {
        let seed = [seed.to_le_bytes(), seed.to_be_bytes()].concat();
        Self(TestRng::from_seed(RngAlgorithm::XorShift, &seed))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n.max(1))
    }

    fn seconds(&mut self, n: i64) -> i64 {
        i64::try_from(self.below(u64::try_from(n).unwrap())).unwrap()
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What may go wrong, in percent.
#[derive(Clone, Copy, Debug)]
struct Odds {
    /// A fetch is refused, breaks off, or is stopped with the run.
    refused: u64,
    cut: u64,
    stopped: u64,
    /// A listing is refused.
    unlisted: u64,
    /// A run ends before all is done; ends without saving; loses what it handed over.
    early: u64,
    crash: u64,
    lost: u64,
    /// This machine's clock jumps; the API tells a wrong time for some runs.
    jump: u64,
    wrong_date: u64,
    /// A blob is listed with a time of creation that says nothing, and then perhaps in every window.
    misplaced: u64,
}

const CALM: Odds = Odds {
    refused: 0,
    cut: 0,
    stopped: 0,
    unlisted: 0,
    early: 0,
    crash: 0,
    lost: 0,
    jump: 0,
    wrong_date: 0,
    misplaced: 0,
};

struct Published {
    created: i64,
    listable: i64,
    records: u64,
    listed: Listed,
    /// Whether every window lists it.
    always: bool,
}

/// The time of creation that a listing gives.
#[derive(Clone, Copy, PartialEq)]
enum Listed {
    True,
    Nothing,
    /// .NET's default.
    YearOne,
    Hereafter,
}

/// What became of a record: how often it came through, and how often it may have.
#[derive(Clone, Copy, Default)]
struct Count {
    arrived: u32,
    excused: u32,
}

struct World {
    dice: Dice,
    odds: Odds,
    /// The API's time, and this machine's clock less it.
    now: i64,
    local: i64,
    blobs: Vec<Published>,
    counts: HashMap<(usize, u64), Count>,
    state: State,
    modulesd: u32,
    /// By how much the API tells a wrong time, and in how many more runs; the right one if negative.
    wrong_by: i64,
    wrong_runs: i64,
    page_size: usize,
    /// So much can be done in a run before it must end.
    work: u64,
    /// The bytes that the state has for blobs that wait.
    room: usize,
}

/// What a run wrote, in order.
type Written = Vec<(usize, u64)>;

impl World {
    fn new(seed: u64, odds: Odds, blobs: usize, span: i64) -> Self {
        let mut dice = Dice::new(seed);
        let published = |dice: &mut Dice| {
            let created = whole_minutes(dice.seconds(span));
            let late = if dice.percent(30) { dice.seconds(LOOKBACK - 2 * MINUTE) } else { 0 };
            let records = dice.below(5);
            let is_misplaced = dice.percent(odds.misplaced);
            let listed = match dice.below(3) {
                _ if !is_misplaced => Listed::True,
                0 => Listed::Nothing,
                1 => Listed::YearOne,
                _ => Listed::Hereafter,
            };
            let always = dice.percent(odds.misplaced) && dice.percent(50);
            Published { created, listable: created + late, records, listed, always }
        };
        let blobs = (0..blobs).map(|_| published(&mut dice)).collect();
        let mut tenant = Tenant::default();
        tenant.streams.insert(ContentType::General, Stream::first(true, None, at(0)));
        let mut state = State::default();
        state.tenants.insert("t".to_owned(), tenant);
        let page_size = 1 + usize::try_from(dice.below(50)).unwrap();
        let work = 1 + dice.below(4000);
        Self {
            dice,
            odds,
            now: 0,
            local: 0,
            blobs,
            counts: HashMap::new(),
            state,
            modulesd: 1,
            wrong_by: 0,
            wrong_runs: 0,
            page_size,
            work,
            room: usize::MAX,
        }
    }

    fn stream(&self) -> &Stream {
        &self.state.tenants["t"].streams[&ContentType::General]
    }

    /// The blob with this content id.
    fn blob(id: &str) -> usize {
        id.parse().unwrap()
    }

    /// A page of a listing as the API gives it; none where it refuses the window.
    fn list(&self, window: &Window, link: Option<&str>) -> Option<Page> {
        let (start, end) = (window.start.unix() - START, window.end.unix() - START);
        assert!(end - start <= DAY, "a window of more than a day gets a partial answer");
        assert!(start < end, "an empty window is refused");
        if start < self.now - 7 * DAY - HOUR {
            return None;
        }
        let mut found: Vec<_> = (0..self.blobs.len())
            .filter(|n| {
                let blob = &self.blobs[*n];
                let is_in = blob.always || (start..end).contains(&blob.created);
                is_in && blob.listable <= self.now
            })
            .collect();
        found.sort_by_key(|n| (self.blobs[*n].created, *n));
        let from: usize = link.map_or(0, |link| link.parse().unwrap());
        let to = (from + self.page_size).min(found.len());
        let entry = |n: &usize| {
            let Published { created, listed, .. } = self.blobs[*n];
            let is_partial = created == start && listed == Listed::True;
            let uri = if is_partial { "partial" } else { "whole" };
            let created = match listed {
                Listed::True => Some(at(created)),
                Listed::Nothing => None,
                Listed::YearOne => Timestamp::parse("0001-01-01T00:00:00"),
                Listed::Hereafter => Some(at(1000 * DAY)),
            };
            Blob { id: n.to_string(), uri: uri.to_owned(), created, expires: None }
        };
        let blobs = found.get(from..to).unwrap_or_default().iter().map(entry).collect();
        Some(Page { blobs, next: (to < found.len()).then(|| to.to_string()) })
    }

    /// One run; `excused` are records that an earlier one wrote in vain.
    fn run(&mut self) {
        let modulesd = Modulesd { pid: self.modulesd, started: 1, boot: "b".to_owned() };
        self.state.begin_run(&modulesd, None).unwrap();
        self.wrong_runs -= 1;
        if self.wrong_runs < -2 && self.dice.percent(self.odds.wrong_date) {
            self.wrong_by = self.dice.seconds(12 * DAY) - 6 * DAY;
            self.wrong_runs = 1 + self.dice.seconds(5);
        }
        let date = self.now + if self.wrong_runs > 0 { self.wrong_by } else { 0 };
        let offset = date - (self.now + self.local);
        let change = offset - self.state.clock_offset;
        // Before its first answer a run goes by what the last one knew.
        let guess = at(self.now + self.local + self.state.clock_offset);
        let reading = ClockReading { now: at(date), offset, change };
        let mut tenant = self.state.tenants["t"].clone();
        let stream = tenant.streams.remove(&ContentType::General).unwrap();
        let mut run = StreamRun::new(&configured(), ContentType::General, stream, guess);
        let mut written = Written::new();
        let mut clock = None;
        let mut instant = Instant::now();
        let context = RunContext {
            offset_was: self.state.clock_offset,
            lookback: LOOKBACK,
            hand_over: true,
            ..RunContext::of(&Arc::new(Clock::new(0)))
        };
        let mut work =
            if self.dice.percent(self.odds.early) { self.dice.below(60) } else { self.work };
        while work > 0 {
            work -= 1;
            instant += Duration::from_secs(9);
            let now = if clock.is_some() { at(date) } else { guess };
            let list_first = self.dice.percent(50);
            if (list_first || run.queued() == 0) && run.may_list(instant) {
                let Some((window, link)) = run.next_page(clock, now, &context) else {
                    continue;
                };
                run.in_flight = false;
                if self.dice.percent(self.odds.unlisted) {
                    run.fail(Failure::of("refused"));
                    continue;
                }
                let Some(page) = self.list(&window, link.as_deref()) else {
                    if !run.clamp() {
                        run.fail(Failure::of("clamped too often"));
                    }
                    clock = Some(reading);
                    continue;
                };
                clock = Some(reading);
                run.take_page(page, window, at(date)).unwrap();
            } else if let Some(queued) = {
                let retry = self.dice.percent(25);
                run.next_blob(retry, instant).or_else(|| run.next_blob(!retry, instant))
            } {
                let stop = self.fetch(&mut run, queued, instant, at(date), &mut written);
                if stop {
                    break;
                }
            } else if run.next_time(instant).is_none() {
                break;
            }
        }
        let _ = run.finish(clock, &context, self.room);
        tenant.streams.insert(ContentType::General, run.state);
        let crashed = self.dice.percent(self.odds.crash);
        let lost = !crashed && self.dice.percent(self.odds.lost);
        if !crashed {
            self.state.tenants.insert("t".to_owned(), tenant);
            if clock.is_some() {
                self.state.clock_offset = offset;
            }
            self.state = State::parse(&serde_json::to_vec(&self.state).unwrap()).unwrap();
        }
        if lost {
            self.modulesd += 1;
        }
        // A crashed run's pipe is drained up to some line as well.
        let drained = if lost || crashed {
            usize::try_from(self.dice.below(written.len() as u64 + 1)).unwrap()
        } else {
            written.len()
        };
        for (n, record) in written.into_iter().enumerate() {
            let count = self.counts.entry(record).or_default();
            count.arrived += u32::from(n < drained);
            count.excused += u32::from(lost || crashed);
        }
    }

    /// Fetches a blob, or a part of it; true when that ends the run.
    fn fetch(
        &mut self,
        run: &mut StreamRun,
        mut queued: Queued,
        instant: Instant,
        now: Timestamp,
        written: &mut Written,
    ) -> bool {
        let mut room = Room::ENDLESS;
        let blob = Self::blob(&queued.blob.id);
        assert_eq!(queued.blob.uri, "whole", "blob {blob}");
        if self.dice.percent(self.odds.refused) {
            run.came_back(&mut queued, &mut room);
            run.park(queued.blob, now, Failure::of("refused"));
            return false;
        }
        let (cut, stop) = (self.dice.percent(self.odds.cut), self.dice.percent(self.odds.stopped));
        let skip = queued.blob.written;
        assert!(skip == 0 || queued.blob.last_id.as_deref() == Some(&skip.to_string()));
        let all = self.blobs[blob].records;
        let end = if cut || stop { skip + self.dice.below(all - skip + 1) } else { all };
        for record in skip + 1..=end {
            written.push((blob, record));
        }
        if end > skip {
            let mark = Some((end, end.to_string()));
            run.wrote(queued.key, mark.clone(), true);
            queued.blob.advance(mark);
        }
        // A worker that is left behind never says how far it came.
        if stop && self.dice.percent(50) {
            return true;
        }
        run.came_back(&mut queued, &mut room);
        if stop || (cut && queued.tries.again(instant, None)) {
            run.requeue(queued, stop);
        } else if cut {
            run.park(queued.blob, now, Failure::of("cut"));
        } else {
            run.done_with(&mut queued, now.max(at(self.now + self.local)), &mut room);
        }
        stop
    }

    /// Lets time pass, and perhaps this machine's clock jump.
    fn pass(&mut self, most: i64) {
        self.now += MINUTE + whole_minutes(self.dice.seconds(most));
        // A start that was never told the API's time has nothing but this machine's.
        let is_listed = self.stream().origin.is_none();
        if is_listed && self.dice.percent(self.odds.jump) {
            self.local = self.dice.seconds(20 * DAY) - 10 * DAY;
        }
        if self.odds.wrong_date > 0 {
            // Then only this machine's clock tells that it was wrong.
            self.local = 0;
        }
    }

    /// Ends all trouble, and lets runs pass until nothing is left to be done.
    fn calm_down(&mut self) {
        self.odds = CALM;
        self.work = u64::MAX;
        self.room = usize::MAX;
        for _ in 0..40 {
            self.pass(11 * MINUTE);
            self.now += 10 * MINUTE;
            self.run();
        }
        let stream = self.stream();
        assert!(stream.waiting.is_empty(), "{} blobs still wait", stream.waiting.len());
        assert_eq!(stream.gaps, 0, "{:?}", stream.last_gap);
    }

    /// Whatever was created since `since` must have come.
    fn check(&self, since: i64) {
        for (n, blob) in self.blobs.iter().enumerate() {
            for record in 1..=blob.records {
                let count = self.counts.get(&(n, record)).copied().unwrap_or_default();
                let (created, listable) = (blob.created, blob.listable);
                let what = format!("record {record} of blob {n} ({created}, {listable})");
                assert!(count.arrived > 0 || created < since, "{what} is lost");
                assert!(count.arrived <= 1 + count.excused, "{what} came {}×", count.arrived);
            }
        }
    }
}

fn play(seed: u64, odds: Odds, blobs: usize, runs: u32) {
    play_in(usize::MAX, seed, odds, blobs, runs);
}

/// With a bound on what waits, in bytes of the state.
fn play_in(room: usize, seed: u64, odds: Odds, blobs: usize, runs: u32) {
    let span = 2 * DAY;
    let mut world = World::new(seed, odds, blobs, span);
    world.room = room;
    let step = span / i64::from(runs);
    for _ in 0..runs {
        world.run();
        world.pass((2 * step).min(LOOKBACK));
    }
    let rest = whole_minutes((span + LOOKBACK - world.now).max(0));
    world.now += rest;
    world.calm_down();
    world.check(0);
}

/// Begins after all blobs were published; the API tells a wrong time in the first runs.
fn begin(seed: u64, odds: Odds, bookmark: Option<i64>, wrong_by: i64, wrong_runs: i64) {
    let mut world = World::new(seed, odds, 300, 7 * DAY);
    world.now = 7 * DAY + LOOKBACK;
    let bookmark_at = bookmark.map(|ago| at(world.now - ago));
    let first = Stream::first(false, bookmark_at, at(world.now));
    let tenant = world.state.tenants.get_mut("t").unwrap();
    tenant.streams.insert(ContentType::General, first);
    (world.wrong_by, world.wrong_runs) = (wrong_by, wrong_runs + 1);
    for _ in 0..wrong_runs {
        world.run();
        world.now += MINUTE;
    }
    let oldest = world.now - 7 * DAY + MINUTE;
    let since = bookmark.map_or(oldest, |_| bookmark_at.unwrap().unix() - START);
    (world.odds, world.work) = (CALM, u64::MAX);
    world.run();
    world.calm_down();
    world.check(since);
}

/// A seed is all that there is to shrink, and whoever reads of a failing one can play it.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 100,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_wrong_date_in_the_first_runs_loses_nothing_of_a_backlog(
        seed in any::<u64>(),
        bookmark in prop::option::of(DAY..6 * DAY),
        days in -40i64..40,
        seconds in -DAY..DAY,
        runs in 1i64..10,
        early in 0u64..60,
    ) {
        begin(seed, Odds { early, ..CALM }, bookmark, days * DAY + seconds, runs);
    }

    #[test]
    fn what_the_state_has_no_room_for_is_neither_lost_nor_repeated(
        seed in any::<u64>(),
        room in 0usize..5000,
        misplaced in 0u64..30,
        refused in 0u64..60,
        cut in 0u64..40,
        stopped in 0u64..5,
        early in 0u64..60,
        lost in 0u64..30,
    ) {
        let odds = Odds { misplaced, refused, cut, stopped, early, lost, ..CALM };
        play_in(room, seed, odds, 300, 60);
    }

    #[test]
    fn blobs_whose_time_says_nothing_come_exactly_once(
        seed in any::<u64>(),
        misplaced in 1u64..100,
        refused in 0u64..60,
        cut in 0u64..40,
        stopped in 0u64..5,
        unlisted in 0u64..40,
        early in 0u64..60,
        jump in 0u64..30,
    ) {
        let odds = Odds { misplaced, refused, cut, stopped, unlisted, early, jump, ..CALM };
        play(seed, odds, 300, 60);
    }

    #[test]
    fn without_a_crash_every_record_comes_exactly_once(
        seed in any::<u64>(),
        refused in 0u64..60,
        cut in 0u64..40,
        stopped in 0u64..5,
        unlisted in 0u64..40,
        early in 0u64..60,
        jump in 0u64..30,
    ) {
        play(seed, Odds { refused, cut, stopped, unlisted, early, jump, ..CALM }, 300, 60);
    }

    #[test]
    fn a_wrong_date_loses_and_repeats_nothing(seed in any::<u64>(), early in 0u64..60) {
        play(seed, Odds { wrong_date: 3, refused: 10, early, ..CALM }, 300, 60);
    }

    #[test]
    fn a_crash_or_a_lost_hand_over_repeats_only_what_that_run_wrote(
        seed in any::<u64>(),
        refused in 0u64..40,
        cut in 0u64..40,
        stopped in 0u64..5,
        crash in 1u64..40,
        lost in 1u64..40,
    ) {
        play(seed, Odds { refused, cut, stopped, crash, lost, early: 20, ..CALM }, 300, 60);
    }
}

#[test]
fn ten_thousand_blobs_of_which_most_fail_come_exactly_once() {
    // In the last case more of them wait than the state remembers.
    for (seed, refused) in [(1, 50), (2, 70), (3, 98)] {
        let odds = Odds { refused, cut: 20, stopped: 0, unlisted: 10, early: 20, ..CALM };
        play(seed, odds, 10_000, 60);
    }
}
