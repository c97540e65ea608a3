//! Scripted faults: what goes wrong, on which request, how often.

use std::time::Duration;

use crate::log::Call;

/// Something that goes wrong on purpose: which requests it is for, and what happens to them.
///
/// Faults are asked in the order in which they were queued. Each counts the requests that match
/// it and reach it; the first that is due takes the request, and later ones do not see it. A
/// fault that has happened often enough is spent.
///
/// Without an action a fault leaves the answer as it is (a [`delay`](Fault::delay) only delays,
/// a [`header`](Fault::header) only adds). With [`respond`](Fault::respond),
/// [`drop_connection`](Fault::drop_connection) and [`hang`](Fault::hang) the request is not
/// carried out: a start does not start anything.
#[derive(Clone, Debug)]
pub struct Fault {
    call: Call,
    tenant: Option<String>,
    content_type: Option<String>,
    content_id: Option<String>,
    skip: usize,
    times: Option<usize>,
    pub(crate) effect: Effect,
}

/// What a fault does to the request that it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effect {
    pub(crate) delay: Duration,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) chunked: bool,
    pub(crate) cut: Option<u64>,
    /// Where it is cut the connection stays open.
    pub(crate) stalls: bool,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Action {
    #[default]
    None,
    Respond(u16, Vec<u8>),
    Drop,
    Hang,
}

/// What is known of a request before it is carried out.
pub(crate) struct Subject<'a> {
    pub(crate) call: Option<Call>,
    pub(crate) tenant: &'a str,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) content_id: Option<&'a str>,
}

impl Fault {
    /// A fault on the next such call.
    #[must_use]
    pub fn on(call: Call) -> Self {
        Self {
            call,
            tenant: None,
            content_type: None,
            content_id: None,
            skip: 0,
            times: Some(1),
            effect: Effect::default(),
        }
    }

    /// Only for this tenant (its GUID).
    #[must_use]
    pub fn tenant(mut self, guid: &str) -> Self {
        self.tenant = Some(guid.to_owned());
        self
    }

    /// Only for this content type.
    #[must_use]
    pub fn content_type(mut self, name: &str) -> Self {
        self.content_type = Some(name.to_owned());
        self
    }

    /// Only for the fetch of this blob.
    #[must_use]
    pub fn content_id(mut self, id: &str) -> Self {
        self.content_id = Some(id.to_owned());
        self
    }

    /// Lets the first `n` matching requests pass.
    #[must_use]
    pub fn skip(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// Happens to `n` requests; 1 if not said.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.times = Some(n);
        self
    }

    /// Happens to every matching request until [`clear_faults`](crate::Simulator::clear_faults).
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// Answers with this status and body instead of the real answer.
    #[must_use]
    pub fn respond(self, status: u16, body: &str) -> Self {
        self.respond_bytes(status, body.as_bytes())
    }

    /// As [`respond`](Fault::respond), for a body that is no UTF-8.
    #[must_use]
    pub fn respond_bytes(mut self, status: u16, body: &[u8]) -> Self {
        self.effect.action = Action::Respond(status, body.to_vec());
        self
    }

    /// Adds a header to the answer, in the place of the real one of that name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.effect.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits that long before the answer, or whatever else is to happen.
    #[must_use]
    pub fn delay(mut self, time: Duration) -> Self {
        self.effect.delay = time;
        self
    }

    /// Gives the head of the answer as if all were well, with its true `Content-Length`, but
    /// closes the connection after that many bytes of the body.
    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        self.effect.cut = Some(u64::try_from(bytes).unwrap_or(u64::MAX));
        self
    }

    /// As [`cut`](Fault::cut), but the connection stays open, and nothing more comes.
    #[must_use]
    pub fn stall(self, bytes: usize) -> Self {
        let mut fault = self.cut(bytes);
        fault.effect.stalls = true;
        fault
    }

    /// Closes the connection without an answer.
    #[must_use]
    pub fn drop_connection(mut self) -> Self {
        self.effect.action = Action::Drop;
        self
    }

    /// Sends the answer with `Transfer-Encoding: chunked`, in small chunks.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.effect.chunked = true;
        self
    }

    /// Never answers: the connection stays open until the client or the simulator ends.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.effect.action = Action::Hang;
        self
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let same = |want: &Option<String>, is: Option<&str>| {
            want.as_deref().is_none_or(|want| is.is_some_and(|is| is.eq_ignore_ascii_case(want)))
        };
        subject.call == Some(self.call)
            && same(&self.tenant, Some(subject.tenant))
            && same(&self.content_type, subject.content_type)
            && same(&self.content_id, subject.content_id)
    }
}

/// The fault that takes this request, if one does; counts are brought up to date.
pub(crate) fn take(faults: &mut Vec<Fault>, subject: &Subject<'_>) -> Option<Effect> {
    let mut taken = None;
    for fault in faults.iter_mut().filter(|fault| fault.matches(subject)) {
        if fault.skip > 0 {
            fault.skip -= 1;
        } else if fault.times != Some(0) {
            fault.times = fault.times.map(|n| n - 1);
            taken = Some(fault.effect.clone());
            break;
        }
    }
    faults.retain(|fault| fault.times != Some(0));
    taken
}
