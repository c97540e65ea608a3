//! What was asked: the kinds of call, and one entry a request.

use time::OffsetDateTime;

use crate::http::{decode, pairs};

/// The calls that the simulator tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `POST {login}/{tenant}/oauth2/v2.0/token`
    Token,
    /// `GET …/subscriptions/list`
    List,
    /// `POST …/subscriptions/start`
    Start,
    /// `POST …/subscriptions/stop`
    Stop,
    /// `GET …/subscriptions/content`: the first page of a listing.
    Content,
    /// The same with `nextPage`: a further page, from `NextPageUri`.
    Page,
    /// `GET …/audit/{contentId}`: one blob.
    Fetch,
}

/// A request as it was received, and how it was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which call its path names; `None` for a path that is none of Microsoft's.
    pub call: Option<Call>,
    /// The method, as received.
    pub method: String,
    /// Path and query, as received.
    pub target: String,
    /// The headers in their order, names as received.
    pub headers: Vec<(String, String)>,
    /// The body, transfer encoding removed.
    pub body: Vec<u8>,
    /// GUID of the tenant in the path; what stood there where that is no tenant of ours.
    pub tenant: String,
    /// The content type in the query or, of a fetch, that of the blob.
    pub content_type: Option<String>,
    /// Status of the answer; 0 as long as (or if) there is none.
    pub status: u16,
    /// Number of the connection it came on, from 1.
    pub connection: usize,
    /// The simulator's time of arrival.
    pub at: OffsetDateTime,
}

impl Request {
    /// The first header of that name, in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first parameter of that name in the query, in any letter case, percent-decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        parameter(self.target.split_once('?')?.1, name)
    }

    /// The first field of that name in a form-encoded body, decoded.
    #[must_use]
    pub fn form(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        pairs(&body).into_iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The path: the target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }
}

/// A parameter of a query; as ASP.NET, its name in any letter case. A `+` stays a plus sign.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decode(key).eq_ignore_ascii_case(name).then(|| decode(value))
    })
}
