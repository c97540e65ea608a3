//! The management host: subscriptions, listings and blobs below
//! `/api/v1.0/{tenant}/activity/feed`.

use serde_json::{Value, json};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime};

use crate::http::{Answer, Body, Incoming};
use crate::log::{Call, parameter};
use crate::state::{Cursor, Endless, Shared, SharedRef, State, Token};
use crate::tenant::{CONTENT_TYPES, Published, Stream, Tenant, is_guid};

const READ: &str = "ActivityFeed.Read";
const READ_DLP: &str = "ActivityFeed.ReadDlp";

/// What a path and its query ask for.
pub(crate) struct Route<'a> {
    pub(crate) call: Call,
    /// As in the path.
    pub(crate) tenant: &'a str,
    pub(crate) content_id: Option<&'a str>,
    pub(crate) query: &'a str,
}

pub(crate) fn route(target: &str) -> Option<Route<'_>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let rest = path.strip_prefix("/api/v1.0/").or_else(|| path.strip_prefix("/api/v1/"))?;
    let (tenant, call) = rest.split_once('/')?;
    let call = call.strip_prefix("activity/feed/")?;
    let mut content_id = None;
    let call = match call {
        "subscriptions/list" => Call::List,
        "subscriptions/start" => Call::Start,
        "subscriptions/stop" => Call::Stop,
        "subscriptions/content" if parameter(query, "nextPage").is_some() => Call::Page,
        "subscriptions/content" => Call::Content,
        _ => {
            content_id = Some(call.strip_prefix("audit/").filter(|id| !id.contains('/'))?);
            Call::Fetch
        }
    };
    Some(Route { call, tenant, content_id, query })
}

pub(crate) fn not_found(shared: &Shared, target: &str) -> Answer {
    let text = format!(
        "No HTTP resource was found that matches the request URI '{}{target}'.",
        shared.management_url
    );
    Answer::json(404, json!({ "Message": text }).to_string())
}

/// An error of the API: status, code, message.
struct Refusal(u16, &'static str, String);

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal(400, code, message.into())
}

pub(crate) fn answer(shared: &SharedRef, route: &Route<'_>, request: &Incoming) -> Answer {
    let allowed = if matches!(route.call, Call::Start | Call::Stop) { "POST" } else { "GET" };
    if request.method == "POST" && !request.has_length {
        // http.sys, below Microsoft's service, insists.
        return Answer { headers: html(), ..Answer::json(411, LENGTH_REQUIRED) };
    }
    if request.method != allowed {
        let method = &request.method;
        let text = format!("The requested resource does not support http method '{method}'.");
        return Answer::json(405, json!({ "Message": text }).to_string()).header("Allow", allowed);
    }
    let mut state = shared.state();
    let now = shared.clock.now();
    let Some(token) = authenticate(&state, request, now) else {
        let text = r#"{"Message":"Authorization has been denied for this request."}"#;
        return Answer::json(401, text);
    };
    match serve(shared, &mut state, route, &token, now) {
        Ok(answer) => answer,
        Err(Refusal(status, code, message)) => {
            let body = json!({ "error": { "code": code, "message": message } });
            Answer::json(status, body.to_string())
        }
    }
}

const LENGTH_REQUIRED: &str = "<!DOCTYPE HTML><HTML><HEAD><TITLE>Length Required</TITLE></HEAD>\
    <BODY><h2>Length Required</h2><hr><p>HTTP Error 411. The request must be chunked or have a \
    content length.</p></BODY></HTML>";

fn html() -> Vec<(String, String)> {
    vec![("Content-Type".to_owned(), "text/html; charset=us-ascii".to_owned())]
}

fn authenticate(state: &State, request: &Incoming, now: OffsetDateTime) -> Option<Token> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    let token = state.tokens.get(token.trim())?;
    (scheme.eq_ignore_ascii_case("bearer") && now < token.expires).then(|| token.clone())
}

fn serve(
    shared: &Shared,
    state: &mut State,
    route: &Route<'_>,
    token: &Token,
    now: OffsetDateTime,
) -> Result<Answer, Refusal> {
    let guid = tenant_of(state, route.tenant, token)?;
    if !token.roles.iter().any(|role| role == READ || role == READ_DLP) {
        return Err(no_role(token));
    }
    let gone = || no_tenant(&guid);
    match route.call {
        Call::List => Ok(list(state.tenant(&guid).ok_or_else(gone)?)),
        Call::Fetch => {
            let id = route.content_id.unwrap_or_default();
            fetch(state.tenant(&guid).ok_or_else(gone)?, id, token, now)
        }
        Call::Start | Call::Stop => {
            let name = content_type(route.query, token)?;
            let tenant = state.tenant_mut(&guid).ok_or_else(gone)?;
            let stream = tenant.streams.entry(name.clone()).or_default();
            if route.call == Call::Stop {
                stop(stream)
            } else {
                start(stream, &name, shared.start_limit, now)
            }
        }
        _ => {
            let name = content_type(route.query, token)?;
            let cursor = match parameter(route.query, "nextPage") {
                Some(page) => {
                    let known = state.cursors.get(&page);
                    let known = known.filter(|c| c.tenant == guid && c.content_type == name);
                    known.cloned().ok_or_else(|| {
                        refusal("AF20031", format!("Invalid nextPage Input: {page}."))
                    })?
                }
                None => {
                    let (start, end) = window(route.query, now, shared.lookback_grace)?;
                    Cursor { tenant: guid.clone(), content_type: name, start, end, after: None }
                }
            };
            let first = route.call == Call::Content;
            list_content(shared, state, cursor, first, now).ok_or_else(gone)?
        }
    }
}

/// The GUID of the tenant in the URL, if the token is for it.
fn tenant_of(state: &State, name: &str, token: &Token) -> Result<String, Refusal> {
    if !is_guid(name) {
        let text = format!("The tenant ID passed in the URL ({name}) is not a valid GUID.");
        return Err(refusal("AF20013", text));
    }
    let tenant = state.tenant(name).ok_or_else(|| no_tenant(name))?;
    if tenant.guid != token.tenant {
        return Err(refusal(
            "AF20010",
            format!(
                "The tenant ID passed in the URL ({name}) does not match the tenant ID passed in the \
             access token ({}).",
                token.tenant
            ),
        ));
    }
    Ok(tenant.guid.clone())
}

fn no_tenant(name: &str) -> Refusal {
    refusal(
        "AF20011",
        format!("Specified tenant ID ({name}) does not exist in the system or has been deleted."),
    )
}

fn no_role(token: &Token) -> Refusal {
    Refusal(
        401,
        "AF10001",
        format!(
            "The permission set ({}) sent in the request does not include the expected permission.",
            token.roles.join(" ")
        ),
    )
}

fn require_role(content_type: &str, token: &Token) -> Result<(), Refusal> {
    let needed = if content_type == "DLP.All" { READ_DLP } else { READ };
    if token.roles.iter().any(|role| role == needed) { Ok(()) } else { Err(no_role(token)) }
}

/// The content type asked for, if there is such a one and the token is good for it.
fn content_type(query: &str, token: &Token) -> Result<String, Refusal> {
    let name = parameter(query, "contentType").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| refusal("AF20001", "Missing parameter: contentType."))?;
    if !CONTENT_TYPES.contains(&name.as_str()) {
        return Err(refusal("AF20020", "The specified content type is not valid."));
    }
    require_role(&name, token)?;
    Ok(name)
}

fn subscription(name: &str, status: &str) -> Value {
    json!({ "contentType": name, "status": status, "webhook": null })
}

fn list(tenant: &Tenant) -> Answer {
    let known = CONTENT_TYPES.iter().filter_map(|&name| {
        let status = tenant.streams.get(name)?.status.as_deref()?;
        Some(subscription(name, status))
    });
    Answer::json(200, Value::from_iter(known).to_string())
}

fn start(
    stream: &mut Stream,
    name: &str,
    limit: bool,
    now: OffsetDateTime,
) -> Result<Answer, Refusal> {
    if limit && stream.last_start.is_some_and(|last| now - last < Duration::minutes(15)) {
        let text = "Too many frequent subscription start requests".to_owned();
        return Err(Refusal(403, "AF429", text));
    }
    stream.last_start = Some(now);
    if stream.status.as_deref() == Some("enabled") {
        let text = "The subscription is already enabled. No property change.";
        return Err(refusal("AF20024", text));
    }
    stream.status = Some("enabled".to_owned());
    Ok(Answer::json(200, subscription(name, "enabled").to_string()))
}

fn stop(stream: &mut Stream) -> Result<Answer, Refusal> {
    if stream.status.is_none() {
        return Err(no_subscription());
    }
    stream.status = Some("disabled".to_owned());
    Ok(Answer::empty(200))
}

fn no_subscription() -> Refusal {
    refusal("AF20022", "No subscription found for the specified content type.")
}

/// The window that a listing asks for.
fn window(
    query: &str,
    now: OffsetDateTime,
    grace: Duration,
) -> Result<(OffsetDateTime, OffsetDateTime), Refusal> {
    let given = |name| parameter(query, name).filter(|value| !value.is_empty());
    let (start, end) = match (given("startTime"), given("endTime")) {
        (None, None) => return Ok((now - Duration::days(1), now)),
        (Some(start), Some(end)) => (moment("startTime", &start)?, moment("endTime", &end)?),
        _ => return Err(bad_window("AF20030")),
    };
    if start >= end || end - start > Duration::days(1) {
        return Err(bad_window("AF20030"));
    }
    if start < now - Duration::days(7) - grace {
        return Err(bad_window("AF20055"));
    }
    Ok((start, end))
}

fn bad_window(code: &'static str) -> Refusal {
    refusal(
        code,
        "Start time and end time must both be specified (or both omitted) and must be less than \
         or equal to 24 hours apart, with the start time prior to end time and start time no more \
         than 7 days in the past.",
    )
}

/// The three forms that Microsoft documents.
fn moment(name: &str, text: &str) -> Result<OffsetDateTime, Refusal> {
    let day = format_description!("[year]-[month]-[day]");
    let minute = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let second = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let parsed = match text.len() {
        10 => Date::parse(text, day).map(Date::midnight),
        16 => PrimitiveDateTime::parse(text, minute),
        _ => PrimitiveDateTime::parse(text, second),
    };
    parsed.map(PrimitiveDateTime::assume_utc).map_err(|_| {
        refusal("AF20002", format!("Invalid parameter type: {name}. Expected type: DateTime"))
    })
}

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

/// A blob as a listing has it.
fn entry(root: &str, content_type: &str, published: &Published) -> Value {
    let Published { id, blob, .. } = published;
    let own = || format!("{root}/audit/{id}");
    let mut entry = json!({
        "contentType": content_type,
        "contentId": id,
        "contentUri": blob.uri.clone().unwrap_or_else(own),
        "contentCreated": blob.created.format(MILLISECONDS).unwrap_or_default(),
        "contentExpiration": blob.expires.format(MILLISECONDS).unwrap_or_default(),
    });
    if let Some(members) = entry.as_object_mut() {
        for (name, value) in &blob.listed_as {
            members.remove(name);
            members.extend(value.clone().map(|value| (name.clone(), value)));
        }
    }
    entry
}

/// One page of a listing. Nothing if the tenant does not exist.
fn list_content(
    shared: &Shared,
    state: &mut State,
    cursor: Cursor,
    first: bool,
    now: OffsetDateTime,
) -> Option<Result<Answer, Refusal>> {
    let size = if first && state.empty_pages { 0 } else { state.page_size };
    let endless = state.endless;
    let root = format!("{}/api/v1.0/{}/activity/feed", shared.management_url, cursor.tenant);
    let stream = state.tenant_mut(&cursor.tenant)?.streams.get_mut(&cursor.content_type);
    let Some(stream) = stream else { return Some(Err(no_subscription())) };
    match stream.status.as_deref() {
        Some("enabled") => {}
        None => return Some(Err(no_subscription())),
        Some(_) => {
            let text = "The subscription was disabled by a tenant admin.";
            return Some(Err(refusal("AF20023", text)));
        }
    }

    let mut entries = Vec::new();
    let mut after = cursor.after;
    // An empty first page is not the last one.
    let mut more = size == 0;
    let from = cursor.after.map_or((cursor.start, 0), |(time, place)| (time, place + 1));
    if first {
        let always =
            stream.blobs.iter().filter(|it| it.blob.always_listed && it.blob.is_listable(now));
        entries.extend(always.map(|published| entry(&root, &cursor.content_type, published)));
    }
    for (&key, &place) in stream.order.range(from..(cursor.end.max(from.0), 0)) {
        let Some(published) = stream.blobs.get_mut(place) else { continue };
        if !published.blob.is_listable(now) {
            continue;
        }
        if entries.len() >= size {
            more = true;
            break;
        }
        after = Some(key);
        let created = published.blob.created;
        published.partial = created.unix_timestamp() == cursor.start.unix_timestamp();
        if !(first && published.blob.always_listed) {
            entries.push(entry(&root, &cursor.content_type, published));
        }
    }
    if !more && let Some(endless) = endless {
        more = true;
        if endless == Endless::Again {
            after = None;
        }
    }

    let mut answer = Answer::json(200, Value::from(entries).to_string());
    if more {
        let page = format!("{}R{:012}", now.unix_timestamp(), state.number());
        let time = |time: OffsetDateTime| time.format(SECONDS).unwrap_or_default();
        // Microsoft's own spelling of the parameters, which is not that of the first page.
        let next = format!(
            "{root}/subscriptions/content?contentType={}&startTime={}&endtime={}&nextPage={page}",
            cursor.content_type,
            time(cursor.start),
            time(cursor.end),
        );
        state.cursors.insert(page, Cursor { after, ..cursor });
        answer = answer.header("NextPageUri", next);
    }
    Some(Ok(answer))
}

fn fetch(tenant: &Tenant, id: &str, token: &Token, now: OffsetDateTime) -> Result<Answer, Refusal> {
    let Some((content_type, published)) = tenant.blob(id) else {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"$_-.".contains(&b);
        return Err(if id.contains('$') && id.bytes().all(plain) {
            Refusal(404, "AF20050", format!("The specified content ({id}) does not exist."))
        } else {
            refusal("AF20052", format!("Content ID {id} in the URL is invalid."))
        });
    };
    require_role(content_type, token)?;
    let blob = &published.blob;
    if now >= blob.expires {
        return Err(refusal(
            "AF20051",
            format!(
                "Content requested with the key {id} has already expired. Content older than 7 days \
             cannot be retrieved."
            ),
        ));
    }
    let body: &Body = match &blob.partial_at_start {
        Some(partial) if published.partial => partial,
        _ => &blob.body,
    };
    Ok(Answer { body: body.clone(), ..Answer::json(200, "") })
}
