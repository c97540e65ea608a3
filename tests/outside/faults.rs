//! The fault matrix: what may go wrong × where, and what a run makes of it: its exit code, the
//! events that came, what it told; then the same of the next run, when all is well again.
//!
//! Each row has a tenant with one stream, two pages of a listing, and on each a blob with a record
//! of its name: `1` and `2`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use office365_simulator::{Blob, Call, Fault};
use time::Duration;

use crate::harness::{Run, Site, TENANT, record};

const GENERAL: &str = "Audit.General";

/// What goes wrong.
enum What {
    /// An answer with this status and body.
    Answer(u16, &'static str),
    /// As that, with a header.
    Header(u16, &'static str, &'static str, &'static str),
    /// The right answer, of which so many bytes come.
    Cut(usize),
    /// In chunks.
    CutChunks(usize),
    /// The connection is closed.
    Dropped,
    /// It never comes.
    Hangs,
    /// The blob's content is this.
    Content(&'static str),
    /// The blob's second record is larger than any may be.
    Large,
    /// The blob, or the next page, is somewhere else.
    Elsewhere,
}

/// How often it does: once, in the first run, or in both.
#[derive(Clone, Copy, PartialEq)]
enum Often {
    Once,
    Always,
    Lasting,
}

/// Where: at a call; `Fetch` is that of blob `1`.
type Row = (Call, Often, What, Expected, Expected);

/// Exit code, events, notices.
type Expected = (i32, &'static [&'static str], &'static [&'static str]);

const ALL: Expected = (0, &["1", "2"], &[]);
const FAILED: Expected = (1, &[], &[]);
const NOTHING: Expected = (0, &[], &[]);
/// Blob 1 is late, 2 is not.
const WITHOUT_1: Expected = (1, &["2"], &[]);
const ONLY_1: Expected = (0, &["1"], &[]);
const GAP: &[&str] = &["gap Audit.General"];

const AF429: &str = r#"{"error":{"code":"AF429","message":"Too many requests. Method=X"}}"#;
const AF10001: &str = r#"{"error":{"code":"AF10001","message":"The permission set () …"}}"#;
const AF50000: &str = r#"{"error":{"code":"AF50000","message":"internal"}}"#;
const DENIED: &str = r#"{"Message":"Authorization has been denied for this request."}"#;
const HTML: &str = "<html>a gateway's page</html>";
const AUDITING_OFF: &str =
    r#"{"error":{"code":"StartSubscription [CorrId=1]","message":"Tenant 1 does not exist."}}"#;
const BAD_SECRET: &str =
    r#"{"error":"invalid_client","error_description":"AADSTS7000215: x","error_codes":[7000215]}"#;
const THROTTLED: &str =
    r#"{"error":"x","error_description":"AADSTS90055: x","error_codes":[90055]}"#;

/// The body of an error of the API's.
macro_rules! af {
    ($code:literal) => {
        concat!(r#"{"error":{"code":""#, $code, r#"","message":"words"}}"#)
    };
}

#[rustfmt::skip]
const MATRIX: &[Row] = {
    use Call::{Content, Fetch, List, Page, Start, Token};
    use Often::{Always, Lasting, Once};
    use What::{Answer, Content as Holds, Cut, CutChunks, Dropped, Elsewhere, Hangs, Header, Large};
    &[
        // Where, how often, what, this run, the next run.
        (Token, Once, Answer(503, HTML), ALL, NOTHING),
        (Token, Once, Answer(500, ""), ALL, NOTHING),
        (Token, Once, Answer(200, HTML), ALL, NOTHING),
        (Token, Once, Header(429, "", "Retry-After", "1"), ALL, NOTHING),
        (Token, Once, Answer(400, THROTTLED), ALL, NOTHING),
        (Token, Once, Dropped, ALL, NOTHING),
        (Token, Once, Cut(3), ALL, NOTHING),
        (Token, Always, Dropped, FAILED, ALL),
        (Token, Always, Hangs, FAILED, ALL),
        (Token, Once, Answer(401, BAD_SECRET), FAILED, ALL),
        (Token, Once, Answer(302, ""), FAILED, ALL),

        (List, Once, Answer(500, AF50000), ALL, NOTHING),
        (List, Once, Answer(200, HTML), ALL, NOTHING),
        (List, Once, Answer(403, AF429), ALL, NOTHING),
        (List, Once, Answer(401, DENIED), ALL, NOTHING),
        (List, Once, Answer(401, ""), ALL, NOTHING),
        (List, Once, Dropped, ALL, NOTHING),
        (List, Once, Cut(3), ALL, NOTHING),
        (List, Once, Answer(400, af!("AF20012")), FAILED, ALL),
        (List, Once, Answer(401, AF10001), FAILED, ALL),
        (List, Always, Answer(401, DENIED), FAILED, ALL),

        (Start, Once, Answer(500, AF50000), ALL, NOTHING),
        (Start, Once, Dropped, ALL, NOTHING),
        (Start, Once, Answer(401, ""), ALL, NOTHING),
        // Whoever says that it is on will have to show it.
        (Start, Once, Answer(400, af!("AF20024")), NOTHING, NOTHING),
        (Start, Once, Answer(400, AUDITING_OFF), FAILED, FAILED),
        (Start, Once, Answer(400, af!("AF20020")), FAILED, FAILED),

        (Content, Once, Answer(408, ""), ALL, NOTHING),
        (Content, Once, Answer(500, AF50000), ALL, NOTHING),
        (Content, Once, Answer(400, af!("AF50005")), ALL, NOTHING),
        (Content, Once, Answer(502, HTML), ALL, NOTHING),
        (Content, Once, Answer(503, ""), ALL, NOTHING),
        (Content, Once, Answer(429, ""), ALL, NOTHING),
        (Content, Once, Answer(403, AF429), ALL, NOTHING),
        (Content, Once, Answer(200, HTML), ALL, NOTHING),
        (Content, Once, Answer(200, AF50000), ALL, NOTHING),
        (Content, Once, Answer(200, ""), ALL, NOTHING),
        (Content, Once, Answer(200, r#"{"x":1}"#), ALL, NOTHING),
        (Content, Once, Dropped, ALL, NOTHING),
        (Content, Once, Cut(9), ALL, NOTHING),
        (Content, Once, CutChunks(9), ALL, NOTHING),
        (Content, Once, Answer(401, DENIED), ALL, NOTHING),
        (Content, Once, Answer(401, AF10001), FAILED, ALL),
        (Content, Always, Answer(401, DENIED), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20022")), NOTHING, ALL),
        (Content, Once, Answer(400, af!("AF20023")), NOTHING, ALL),
        (Content, Once, Answer(400, af!("AF20030")), ALL, NOTHING),
        (Content, Once, Answer(400, af!("AF20055")), ALL, NOTHING),
        (Content, Always, Answer(400, af!("AF20055")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20001")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20002")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20003")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20010")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20011")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20012")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20013")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF20020")), FAILED, ALL),
        (Content, Once, Answer(400, af!("AF99999")), FAILED, ALL),
        (Content, Once, Answer(403, HTML), FAILED, ALL),
        (Content, Once, Answer(302, ""), FAILED, ALL),
        (Content, Always, Answer(500, AF50000), FAILED, ALL),
        (Content, Always, Hangs, FAILED, ALL),
        (Content, Once, Elsewhere, FAILED, ALL),

        (Page, Once, Answer(500, AF50000), ALL, NOTHING),
        (Page, Once, Answer(403, AF429), ALL, NOTHING),
        (Page, Once, Answer(401, DENIED), ALL, NOTHING),
        (Page, Once, Answer(200, HTML), ALL, NOTHING),
        (Page, Once, Dropped, ALL, NOTHING),
        (Page, Once, Cut(9), ALL, NOTHING),
        (Page, Once, Answer(400, af!("AF20031")), ALL, NOTHING),
        (Page, Once, Answer(400, af!("AF20055")), ALL, NOTHING),
        (Page, Always, Answer(400, af!("AF20031")), (1, &["1"], &[]), (0, &["2"], &[])),
        (Page, Once, Answer(400, af!("AF20020")), (1, &["1"], &[]), (0, &["2"], &[])),
        (Page, Always, Hangs, (1, &["1"], &[]), (0, &["2"], &[])),

        (Fetch, Once, Answer(408, ""), ALL, NOTHING),
        (Fetch, Once, Answer(500, AF50000), ALL, NOTHING),
        (Fetch, Once, Answer(503, HTML), ALL, NOTHING),
        (Fetch, Once, Answer(403, AF429), ALL, NOTHING),
        (Fetch, Once, Answer(200, HTML), ALL, NOTHING),
        (Fetch, Once, Answer(200, AF50000), ALL, NOTHING),
        (Fetch, Once, Answer(200, ""), ALL, NOTHING),
        (Fetch, Once, Answer(200, af!("AF99999")), ALL, NOTHING),
        (Fetch, Once, Dropped, ALL, NOTHING),
        (Fetch, Once, Cut(9), ALL, NOTHING),
        (Fetch, Once, CutChunks(9), ALL, NOTHING),
        (Fetch, Once, Answer(401, DENIED), ALL, NOTHING),
        (Fetch, Always, Answer(401, DENIED), WITHOUT_1, ONLY_1),
        (Fetch, Always, Dropped, WITHOUT_1, ONLY_1),
        (Fetch, Always, Hangs, WITHOUT_1, ONLY_1),
        (Fetch, Once, Answer(400, "nonsense"), WITHOUT_1, ONLY_1),
        (Fetch, Once, Answer(404, HTML), WITHOUT_1, ONLY_1),
        (Fetch, Once, Answer(302, ""), WITHOUT_1, ONLY_1),
        (Fetch, Once, Answer(400, af!("AF20050")), WITHOUT_1, ONLY_1),
        (Fetch, Once, Answer(404, af!("AF20052")), WITHOUT_1, ONLY_1),
        (Fetch, Lasting, Answer(400, af!("AF20050")), WITHOUT_1, (0, &[], GAP)),
        (Fetch, Lasting, Answer(404, af!("AF20052")), WITHOUT_1, (0, &[], GAP)),
        (Fetch, Lasting, Answer(404, HTML), WITHOUT_1, FAILED),
        (Fetch, Once, Answer(400, af!("AF20051")), (0, &["2"], GAP), NOTHING),
        (Fetch, Once, Elsewhere, WITHOUT_1, FAILED),

        // Records: whatever is no event is a gap, and the others come.
        (Fetch, Once, Holds(r#"[{"Id":"1"},7]"#), (0, &["1", "2"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"["x",{"Id":"1"}]"#), (0, &["1", "2"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"},{"a":tru}]"#), (0, &["1", "2"], GAP), NOTHING),
        (Fetch, Once, Large, (0, &["1", "2"], GAP), NOTHING),
        (Fetch, Once, Holds("[]"), (0, &["2"], &[]), NOTHING),
        // Punctuation that is missing, wrong or too much costs nothing, nor do NULs.
        (Fetch, Once, Holds(r#"[{"Id":"1"}{"Id":"x"}]"#), (0, &["1", "2", "x"], &[]), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"} {"Id":"x"}]"#), (0, &["1", "2", "x"], &[]), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"}][{"Id":"x"}]"#), (0, &["1", "2", "x"], &[]), NOTHING),
        (Fetch, Once, Holds("[{\"Id\":\"1\"}]\r\n[{\"Id\":\"x\"}]"), (0, &["1", "2", "x"], &[]), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"},]"#), ALL, NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"}],"#), ALL, NOTHING),
        (Fetch, Once, Holds("[{\"Id\":\"1\"}]\0\0\0"), ALL, NOTHING),
        (Fetch, Once, Holds("[{\"Id\":\"1\"},\0\0]"), ALL, NOTHING),
        // A record that is not JSON costs only itself.
        (Fetch, Once, Holds(r#"[{"a":{},{"Id":"1"},{"Id":"x"}]"#), (0, &["1", "2", "x"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"a":1,{"Id":"1"},{"Id":"x"}]"#), (0, &["1", "2", "x"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"a":"b},{"Id":"1"},{"Id":"x"}]"#), (0, &["1", "2", "x"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"},{"a":[{"Id":"y" 1},{"Id":"z"}]},{"Id":"x"}]"#), (0, &["1", "2", "x"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"},{"Id":"x"]"#), (0, &["1", "2"], GAP), NOTHING),
        (Fetch, Once, Holds(r#"[{"Id":"1"},{"Id":"x]"#), (0, &["1", "2"], GAP), NOTHING),
        // A body that is cut keeps waiting, as it may get better.
        (Fetch, Once, Holds(r#"[{"Id":"1"},{"Id":"#), (1, &["1", "2"], &[]), FAILED),
        (Fetch, Once, Holds(r#"[{"Id":"1"}{"Id":"x"}"#), (1, &["1", "2", "x"], &[]), FAILED),
    ]
};

impl What {
    fn name(&self) -> String {
        match self {
            Self::Answer(status, body) | Self::Header(status, body, ..) => {
                format!("{status} {body}")
            }
            Self::Cut(bytes) => format!("cut at {bytes}"),
            Self::CutChunks(bytes) => format!("cut at {bytes}, in chunks"),
            Self::Dropped => "dropped".to_owned(),
            Self::Hangs => "hangs".to_owned(),
            Self::Content(body) => format!("holds {body}"),
            Self::Large => "holds a record of 17 MiB".to_owned(),
            Self::Elsewhere => "leads elsewhere".to_owned(),
        }
    }

    /// The fault that makes it happen, where it is one.
    fn fault(&self, fault: Fault, elsewhere: &str) -> Option<Fault> {
        Some(match self {
            Self::Answer(status, body) => fault.respond(*status, body),
            Self::Header(status, body, name, value) => {
                fault.respond(*status, body).header(name, value)
            }
            Self::Cut(bytes) => fault.cut(*bytes),
            Self::CutChunks(bytes) => fault.chunked().cut(*bytes),
            Self::Dropped => fault.drop_connection(),
            Self::Hangs => fault.hang(),
            Self::Elsewhere => fault.respond(200, "[]").header("NextPageUri", elsewhere),
            Self::Content(_) | Self::Large => return None,
        })
    }
}

/// What a run was like, in the form of what is expected of it.
fn seen(run: &Run) -> (i32, Vec<String>, Vec<String>) {
    (run.code.unwrap(), run.ids(), run.told())
}

fn same(expected: &Expected, seen: &(i32, Vec<String>, Vec<String>)) -> bool {
    expected.0 == seen.0 && expected.1 == seen.1.as_slice() && expected.2 == seen.2.as_slice()
}

/// Plays a row; what is wrong, if anything is.
fn play((call, often, what, first, next): &Row) -> Result<(), String> {
    let site = Site::new();
    site.simulator.set_page_size(1);
    site.configure_one("<run_timeout>12s</run_timeout>");
    let elsewhere = format!("{}/elsewhere", site.simulator.login_url());
    let created = site.now() - Duration::minutes(5);
    let mut blob = Blob::new(created, &[record("1")]);
    match (what, call) {
        (What::Content(body), _) => blob = Blob::raw(created, *body),
        (What::Large, _) => {
            let body = format!(r#"[{{"Id":"1"}},{{"x":"{}"}}]"#, "x".repeat(17 << 20));
            blob = Blob::raw(created, body.into_bytes());
        }
        (What::Elsewhere, Call::Fetch) => blob = blob.uri(&elsewhere),
        _ => {}
    }
    let id = site.simulator.publish(TENANT, GENERAL, blob);
    site.publish(GENERAL, Duration::minutes(4), &["2"]);
    let mut fault = Fault::on(*call);
    if *call == Call::Fetch {
        fault = fault.content_id(&id);
    }
    if *often != Often::Once {
        fault = fault.always();
    }
    let is_fault = !matches!((what, call), (What::Elsewhere, Call::Fetch));
    if let Some(fault) = what.fault(fault, &elsewhere).filter(|_| is_fault) {
        site.simulator.fault(fault);
    }
    for (expected, which) in [(first, "this run"), (next, "the next run")] {
        let seen = seen(&site.poll());
        if !same(expected, &seen) {
            return Err(format!(
                "{call:?} {}: {which} expected {expected:?} saw {seen:?}\n{}",
                what.name(),
                site.log()
            ));
        }
        if site.log().contains("fault of wodle-office365") && !what.name().contains("AF2000") {
            return Err(format!("{call:?} {}: a panic\n{}", what.name(), site.log()));
        }
        if site.simulator.requests().iter().any(|request| request.path() == "/elsewhere") {
            return Err(format!("{call:?} {}: a token for a stranger", what.name()));
        }
        if *often != Often::Lasting {
            site.simulator.clear_faults();
        }
    }
    Ok(())
}

#[test]
fn every_fault_at_every_place_is_dealt_with() {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(row) = MATRIX.get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.extend(play(row).err());
        }
        wrong
    };
    let wrong: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), MATRIX.len(), wrong.join("\n"));
}
