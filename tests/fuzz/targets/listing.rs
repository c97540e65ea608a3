//! What the two hosts answer, and the files that we keep: listings, subscriptions, errors, tokens,
//! times, the state.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wodle_office365::auth::{Credentials, MAX_TOKEN, TokenRequest, classify_login, parse_grant};
use wodle_office365::config;
use wodle_office365::content::{ContentType, classify, parse_listing, parse_subscriptions};
use wodle_office365::secret::Secret;
use wodle_office365::state::{
    BadState, ClockReading, MAX_STATE, Modulesd, Place, Queue, Room, RunEnd, State, Stream,
    Waiting, edge_margin,
};
use wodle_office365::timestamp::{Timestamp, age};
use wodle_office365::tokens::Tokens;
use wodle_office365::words::Hidden;
use wodle_office365_fuzz::Dice;

/// Stands for the secret in an input.
const PLACEHOLDER: &str = "SECRET";

/// Characters that each spelling writes in another way, and a blank, at which a page may be wrapped.
const MARKER: &str = "qZ7 \"hunter+2\"&%xK9~";

const STATUSES: [u16; 16] =
    [0, 200, 204, 302, 400, 401, 403, 404, 407, 408, 410, 429, 500, 503, 599, 65_535];

fuzz_target!(|input: &[u8]| {
    let mut dice = Dice::of(input);
    check_lists(input);
    check_times(input);
    check_grant(input);
    check_refusals(input, dice.pick(&STATUSES));
    check_state(input, &mut dice);
    let _ = Tokens::parse(input);
});

fn check_lists(body: &[u8]) {
    match parse_listing(body) {
        Ok(blobs) => {
            for blob in blobs {
                assert!((1..=1024).contains(&blob.id.len()) && blob.uri.len() <= 4096);
                for time in [blob.created, blob.expires].into_iter().flatten() {
                    check_time(time);
                }
            }
        }
        Err(why) => check_short(&why),
    }
    match parse_subscriptions(body) {
        Ok(list) => assert!(!list.unclear.iter().any(|name| list.enabled.contains(name))),
        Err(why) => check_short(&why),
    }
}

fn check_short(words: &str) {
    assert!(words.chars().count() <= 600, "{} bytes", words.len());
    check_words(words);
}

/// Words that go into the log, the state and notices: short, and on one line.
fn check_words(words: &str) {
    assert!(words.chars().count() <= 2000, "{} bytes", words.len());
    assert!(!words.contains(char::is_control), "{words:?}");
}

fn check_times(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for time in [Timestamp::parse(text), Timestamp::parse_http_date(text)].into_iter().flatten() {
        check_time(time);
    }
}

fn check_time(time: Timestamp) {
    assert!((0..=253_402_300_799).contains(&time.unix()));
    assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
    assert_eq!(Timestamp::parse(&time.query_form()), Some(time));
}

fn check_grant(body: &[u8]) {
    if let Ok(grant) = parse_grant(body) {
        assert!((0..=604_800).contains(&grant.lifetime));
        let token = grant.token.reveal();
        assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
        assert!(token.len() <= MAX_TOKEN);
        let missing = grant.claims.missing_roles(&ContentType::ALL);
        assert!(missing.len() <= 2);
    }
}

/// Error answers that show us our own secret, in several spellings.
fn check_refusals(body: &[u8], status: u16) {
    let credentials = Credentials::ClientSecret(Secret::new(MARKER));
    let now = Timestamp::from_unix(0);
    let request = TokenRequest::new("c", "https://m", "https://l", &credentials, now);
    let request = request.expect("nothing is to be signed");
    let hidden = Hidden(std::slice::from_ref(request.secret()));
    let json = serde_json::Value::from(MARKER).to_string();
    let json = json.trim_matches('"').to_owned();
    let escaped: String = MARKER.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let wrapped = MARKER.replace(' ', "\r\n");
    let spellings = hidden.0[0].spellings();
    let form = spellings[2].as_str();
    for spelling in [MARKER, json.as_str(), escaped.as_str(), wrapped.as_str(), form] {
        let (body, replaced) = replace(body, PLACEHOLDER.as_bytes(), spelling.as_bytes());
        let refusal = classify(status, &body, hidden);
        assert!(refusal.code.chars().count() <= 501 && refusal.message.chars().count() <= 501);
        check_words(&refusal.to_string());
        let login = classify_login(status, &body, hidden);
        check_words(&login.text);
        if !replaced {
            return;
        }
        for text in [&refusal.to_string(), &login.text] {
            for secret in hidden.0 {
                assert!(!text.contains(secret.reveal()), "{text}");
            }
        }
    }
}

/// `text` with `to` in place of each `from`, and whether there is one.
fn replace(text: &[u8], from: &[u8], to: &[u8]) -> (Vec<u8>, bool) {
    let mut replaced = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    (replaced, rest.len() < text.len())
}

fn check_state(input: &[u8], dice: &mut Dice) {
    let state = match State::parse(input) {
        Ok(state) => state,
        Err(BadState::Version(version)) => return assert_ne!(version, 1),
        Err(BadState::Damaged(why)) => return check_short(&why),
    };
    check_survives(&state);
    let room = Room::of(MAX_STATE, &state, state.tenants.values());
    assert!(room.part(1) <= MAX_STATE);
    // What a run does with it.
    let now = Timestamp::from_unix(dice.pick(&[0, 1_800_000_000, i64::MAX]));
    let offset: i64 = dice.pick(&[0, 7, -400, 253_402_300_799, -253_402_300_799]);
    let change = offset.saturating_sub(state.clock_offset);
    let clock = ClockReading { now, offset, change };
    let mut after = state.clone();
    let parent = Modulesd { pid: dice.pick(&[1, 2]), started: 7, boot: "b".to_owned() };
    let queue = dice.pick(&[None, Some(Queue { inode: 1, changed: 1 })]);
    let begun = after.begin_run(&parent, queue);
    assert!(begun == Ok(true) || after == state, "what is changed is saved");
    check_survives(&after);
    for name in state.tenants.keys() {
        let mut tenant = after.take_tenant(name, |_| true);
        for stream in tenant.streams.values_mut() {
            run(stream, &clock, dice);
        }
        for backfill in &mut tenant.backfills {
            run(&mut backfill.stream, &clock, dice);
        }
        after.put_tenant(name, tenant, now);
    }
    after.tell_configuration("t", "text", now);
    for notice in &after.notices {
        let line = notice.line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }
    after.notices_written(dice.size_below(3), dice.pick(&[false, true]));
    if let Ok(config) = config::parse("f", b"<office365><enabled>no</enabled></office365>") {
        after.end_poll(now, offset, &config, state.turns.clone());
    }
    check_survives(&after);
}

fn check_survives(state: &State) {
    let text = serde_json::to_vec(state).unwrap_or_default();
    assert_eq!(State::parse(&text).as_ref(), Ok(state));
}

fn run(stream: &mut Stream, clock: &ClockReading, dice: &mut Dice) {
    let now = clock.now;
    let lookback = dice.pick(&[300, 3600, 86_400]);
    let before = stream.position;
    let back = stream.correct_clock(clock, lookback);
    assert!(stream.position <= before || stream.origin.is_some());
    assert!(back.is_none_or(|back| back > 60 && !age(back).contains('-')));
    let window = stream.window(stream.listing_start(lookback), now, edge_margin(0));
    assert!(window.end.since(window.start) <= 86_400);
    for blob in stream.waiting.iter().take(9) {
        let place = window.place(Some(blob.created));
        let is_in = blob.created >= window.start && blob.created < window.end;
        assert_eq!(place == Place::Outside, !is_in);
        assert!(place != Place::Margin || blob.created < window.from);
        assert!(
            blob.waits_since() <= blob.created && (!blob.is_expired(now) || now > blob.expires)
        );
    }
    let _ = (stream.lost(&window, now), stream.may_start(now));
    let left = std::mem::take(&mut stream.waiting);
    let (count, horizon) = (left.len(), stream.horizon);
    let handed_over = left.iter().filter(|blob| blob.is_due(now)).cloned().collect();
    let listed_to = dice.pick(&[None, Some(window.end.min(now))]);
    let cut = dice.pick(&[false, true]);
    let (clock, is_past) = (dice.pick(&[None, Some(*clock)]), dice.pick(&[false, true]));
    let room = dice.pick(&[0, 1000, usize::MAX]);
    let last_listed = listed_to.map(|end| (end, [1].into())).into_iter().collect();
    let end = RunEnd { listed_to, last_listed, left, handed_over, cut, clock, is_past, room };
    stream.finish(end, lookback);
    let dropped = stream.waiting.iter().filter(|blob| !stream.must_keep(blob));
    assert!(dropped.map(Waiting::size).sum::<usize>() <= room || stream.horizon > horizon);
    assert!(stream.waiting.len() <= count && stream.horizon >= horizon);
    assert!((300..=86_400).contains(&stream.window));
    assert!(stream.lag(now) >= 0);
    assert!(stream.behind(now).is_none_or(|lag| lag > 86_400));
    if dice.below(4) == 0 {
        let skipped = stream.reset(now, now);
        assert!(skipped.is_none_or(|(from, to)| from <= to));
        assert!(stream.position == now && stream.horizon <= now);
    }
}
