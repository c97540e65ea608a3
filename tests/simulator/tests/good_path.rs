//! What a well-behaved client gets: tokens, subscriptions, listings, pages and blobs.

mod common;

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{CLIENT, Client, FORM, NOON, OTHER, TENANT, content, feed, form, simulator, target};
use office365_simulator::{Blob, Call, Endless, Simulator, Tenant};
use serde_json::{Value, json};
use time::Duration;
use time::macros::datetime;

#[test]
fn from_the_token_to_the_records() {
    let simulator = common::start(Simulator::builder().tenant(common::tenant()));
    let mut client = Client::signed_in(&simulator);

    assert_eq!(client.get(&feed("subscriptions/list")).text(), "[]");
    let start = feed("subscriptions/start?contentType=Audit.Exchange");
    let enabled = r#"{"contentType":"Audit.Exchange","status":"enabled","webhook":null}"#;
    let answer = client.post(&start);
    assert_eq!((answer.status, answer.text().as_str()), (200, enabled));
    assert_eq!(client.get(&feed("subscriptions/list")).text(), format!("[{enabled}]"));
    assert_eq!(simulator.subscription(TENANT, "Audit.Exchange").as_deref(), Some("enabled"));

    let records = [json!({ "Id": "1", "Operation": "Send" }), json!({ "Id": "2" })];
    let created = datetime!(2026-03-10 11:35 UTC);
    let id = simulator.publish(TENANT, "Audit.Exchange", Blob::new(created, &records));
    assert!(id.ends_with("$audit_exchange$Audit_Exchange$emea9037"), "{id}");
    let listing =
        client.get(&content("Audit.Exchange", "2026-03-10T11:00:00", "2026-03-10T12:00:00"));
    let uri = format!("{}{}", simulator.management_url(), feed(&format!("audit/{id}")));
    let entry = json!([{
        "contentType": "Audit.Exchange",
        "contentId": id,
        "contentUri": uri,
        "contentCreated": "2026-03-10T11:35:00.000Z",
        "contentExpiration": "2026-03-17T11:35:00.000Z",
    }]);
    assert_eq!(listing.text(), entry.to_string());
    assert_eq!(listing.header("NextPageUri"), None);

    let blob = client.get(&format!("{}?PublisherIdentifier={TENANT}", target(&uri)));
    assert_eq!(blob.text(), r#"[{"Id":"1","Operation":"Send"},{"Id":"2"}]"#);
    assert!(blob.header("date").unwrap().starts_with("Tue, 10 Mar 2026 12:0"));
    assert!(blob.header("date").unwrap().ends_with(" GMT"));

    let stop = client.post(&feed("subscriptions/stop?contentType=Audit.Exchange"));
    assert_eq!((stop.status, stop.body.len()), (200, 0));
    assert_eq!(simulator.subscription(TENANT, "Audit.Exchange").as_deref(), Some("disabled"));
    let list = client.get(&feed("subscriptions/list")).text();
    assert_eq!(list, enabled.replace("enabled", "disabled").replace('{', "[{").replace('}', "}]"));

    let calls: Vec<_> = simulator.requests().iter().map(|r| (r.call.unwrap(), r.status)).collect();
    let expected = [
        Call::Token,
        Call::List,
        Call::Start,
        Call::List,
        Call::Content,
        Call::Fetch,
        Call::Stop,
        Call::List,
    ];
    assert_eq!(calls, expected.map(|call| (call, 200)));
    let fetch = &simulator.requests()[5];
    assert_eq!(fetch.query("publisheridentifier").as_deref(), Some(TENANT));
    assert_eq!(fetch.content_type.as_deref(), Some("Audit.Exchange"));
    assert_eq!((fetch.tenant.as_str(), fetch.connection), (TENANT, 2));
    assert!(fetch.header("AUTHORIZATION").unwrap().starts_with("Bearer ey"));
    let token = &simulator.requests()[0];
    assert_eq!(token.form("client_secret").as_deref(), Some(common::SECRET));
    assert_eq!(token.path(), format!("/{TENANT}/oauth2/v2.0/token"));
    simulator.clear_requests();
    assert!(simulator.requests().is_empty());
}

#[test]
fn a_token_is_a_jwt_with_the_claims_that_clients_read() {
    let simulator = common::start(Simulator::builder().tenant(common::tenant()));
    let mut client = Client::new(&simulator.login_url());
    let claims = |token: &Value| -> Value {
        let parts: Vec<&str> = token["access_token"].as_str().unwrap().split('.').collect();
        assert_eq!(parts.len(), 3);
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
    };
    // By its domain name as well.
    let path = "/Contoso.Example/oauth2/v2.0/token";
    let token = client.send("POST", path, &[FORM], form(&simulator).as_bytes()).unwrap().json();
    assert_eq!((&token["token_type"], &token["expires_in"]), (&json!("Bearer"), &json!(3599)));
    let read = claims(&token);
    assert_eq!(read["tid"], TENANT);
    assert_eq!(read["appid"], CLIENT);
    assert_eq!(read["aud"], simulator.management_url());
    assert_eq!(read["roles"], json!(["ActivityFeed.Read", "ActivityFeed.ReadDlp"]));
    let issued = read["iat"].as_i64().unwrap();
    assert_eq!(read["exp"].as_i64().unwrap() - issued, 3599);
    assert!((issued - NOON.unix_timestamp()).abs() < 60);

    simulator.set_roles(TENANT, &[]);
    simulator.set_token_lifetime(60);
    let other = client.send("POST", path, &[FORM], form(&simulator).as_bytes()).unwrap().json();
    assert_ne!(token["access_token"], other["access_token"]);
    assert_eq!(other["expires_in"], 60);
    assert!(claims(&other).get("roles").is_none());
}

#[test]
fn a_certificate_signs_in_too() {
    let der = include_bytes!("data/certificate.der");
    let tenant = common::tenant().certificate(der);
    let simulator = common::start(Simulator::builder().tenant(tenant));
    let key = ring::rsa::KeyPair::from_pkcs8(include_bytes!("data/key.pk8")).unwrap();
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", simulator.login_url());
    let now = simulator.now().unix_timestamp();
    let hash = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, der));
    let sign = |head: Value, claims: Value| {
        let (head, claims) = (head.to_string(), claims.to_string());
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let mut mac = vec![0; key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        key.sign(&ring::signature::RSA_PSS_SHA256, &random, signed.as_bytes(), &mut mac).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
    };
    let head = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": hash });
    let claims = json!({
        "aud": url, "iss": CLIENT, "sub": CLIENT, "jti": OTHER,
        "nbf": now, "iat": now, "exp": now + 600,
    });
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        sign(head.clone(), claims)
    };
    let good = sign(head.clone(), claims.clone());
    let mut forged = good.clone();
    forged.replace_range(good.len() - 6.., "AAAAAA");
    let cases = [
        (good, None),
        (forged, Some(700_027)),
        (sign(json!({ "alg": "PS256", "x5t#S256": "x" }), claims.clone()), Some(700_027)),
        (sign(json!({ "alg": "RS256", "x5t#S256": hash }), claims.clone()), Some(700_027)),
        (with("exp", json!(now - 600)), Some(700_024)),
        (with("nbf", json!(now + 600)), Some(700_024)),
        (with("aud", json!("https://login.microsoftonline.com/x")), Some(700_023)),
        (with("sub", json!(OTHER)), Some(700_023)),
        ("nonsense".to_owned(), Some(50027)),
    ];
    let mut client = Client::new(&simulator.login_url());
    for (assertion, refused) in cases {
        let secret = form(&simulator);
        let body = format!(
            "{}&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3A\
             jwt-bearer&client_assertion={assertion}",
            secret.split("&client_secret").next().unwrap()
        );
        let answer = client.send("POST", target(&url), &[FORM], body.as_bytes()).unwrap();
        let status = if refused.is_some() { 401 } else { 200 };
        assert_eq!(answer.status, status, "{}", answer.text());
        let told = answer.json()["error_codes"][0].as_i64();
        assert_eq!(told, refused);
    }
}

#[test]
fn pages_follow_each_other_to_the_end() {
    let simulator = simulator();
    let blob = |minute: i64| Blob::new(NOON - Duration::minutes(minute), &[]);
    // Published in no order, two of one time.
    let ids = [10, 30, 20, 20, 40].map(|at| simulator.publish(TENANT, "Audit.General", blob(at)));
    let sorted = [4, 1, 2, 3, 0].map(|n: usize| ids[n].clone());
    simulator.set_page_size(2);
    let mut client = Client::signed_in(&simulator);
    let first = content("Audit.General", "2026-03-10T11:00:00", "2026-03-10T12:00:00");

    let read_all = |client: &mut Client| {
        let mut pages = Vec::new();
        let mut next = Some(first.clone());
        while let Some(page) = next {
            let answer = client.get(&page);
            pages.push(answer.ids());
            next = answer.header("nextpageuri").map(|url| {
                assert!(url.starts_with(&simulator.management_url()), "{url}");
                target(url).to_owned()
            });
        }
        pages
    };
    let pages = read_all(&mut client);
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(pages.concat(), sorted);

    simulator.set_page_size(600);
    assert_eq!(read_all(&mut client), [sorted.to_vec()]);
    simulator.set_empty_first_page(true);
    assert_eq!(read_all(&mut client), [Vec::new(), sorted.to_vec()]);
    let page = simulator.requests().pop().unwrap();
    assert_eq!(page.call, Some(Call::Page));
    assert!(page.target.contains("&endtime=2026-03-10T12:00:00&nextPage="), "{}", page.target);
    let foreign = page.target.replace("Audit.General", "Audit.Exchange");
    let answer = client.get(&foreign).json();
    assert_eq!(answer["error"]["code"], "AF20031", "a page of another listing");
}

#[test]
fn a_listing_has_what_was_created_in_its_window() {
    let simulator = simulator();
    let at = |time| simulator.publish(TENANT, "Audit.General", Blob::new(time, &[]));
    let day_old = at(NOON - Duration::minutes(24 * 60 - 5));
    let before = at(datetime!(2026-03-10 10:59:59.999 UTC));
    let first = at(datetime!(2026-03-10 11:00 UTC));
    let last = at(datetime!(2026-03-10 11:29:59.999_9 UTC));
    let after = at(datetime!(2026-03-10 11:30 UTC));
    let future = at(NOON + Duration::hours(1));
    simulator.set_token_lifetime(100_000);
    let mut client = Client::signed_in(&simulator);
    let mut ids = |from: &str, to: &str| client.get(&content("Audit.General", from, to)).ids();

    assert_eq!(ids("2026-03-10T11:00:00", "2026-03-10T11:30:00"), [first.clone(), last.clone()]);
    assert_eq!(ids("2026-03-10T11:00", "2026-03-10T11:30"), [first.clone(), last.clone()]);
    let all = [day_old.clone(), before, first, last, after];
    assert_eq!(ids("2026-03-10", "2026-03-11"), all[1..], "a future end, but not a future blob");
    assert_eq!(ids("", ""), all, "neither given: the last 24 hours");
    // Seven days, and the hour that is tolerated.
    assert_eq!(ids("2026-03-03T11:30:00", "2026-03-04T11:30:00"), [""; 0]);
    simulator.advance(Duration::hours(2));
    assert_eq!(ids("2026-03-10T13:00:00", "2026-03-10T14:00:00"), [future]);
    assert_eq!(ids("", "").len(), 5, "the oldest has left the last 24 hours");
}

#[test]
fn late_blobs_appear_when_their_time_has_come() {
    let simulator = simulator();
    let late =
        Blob::new(NOON - Duration::minutes(50), &[]).listable_at(NOON + Duration::minutes(30));
    let id = simulator.publish(TENANT, "Audit.General", late);
    let mut client = Client::signed_in(&simulator);
    let window = content("Audit.General", "2026-03-10T11:00:00", "2026-03-10T12:00:00");
    assert_eq!(client.get(&window).text(), "[]");
    simulator.advance(Duration::minutes(31));
    assert_eq!(client.get(&window).ids(), [id]);
}

#[test]
fn a_window_that_begins_with_a_blob_makes_it_partial() {
    let simulator = simulator();
    let created = datetime!(2026-03-10 11:10:00.5 UTC);
    let blob = Blob::raw(created, "[{},{}]").partial_at_start("[{}]").id("1$partial");
    simulator.publish(TENANT, "Audit.General", blob);
    let mut client = Client::signed_in(&simulator);
    let fetch = feed("audit/1$partial");
    assert_eq!(client.get(&fetch).text(), "[{},{}]");
    assert_eq!(
        client
            .get(&content("Audit.General", "2026-03-10T11:10:00", "2026-03-10T12:00:00"))
            .ids()
            .len(),
        1
    );
    assert_eq!(client.get(&fetch).text(), "[{}]");
    client.get(&content("Audit.General", "2026-03-10T11:09:00", "2026-03-10T12:00:00"));
    assert_eq!(client.get(&fetch).text(), "[{},{}]");
}

#[test]
fn blobs_expire_and_lie() {
    let simulator = simulator();
    let blob = Blob::raw(NOON, "[]").expires(NOON + Duration::hours(1)).id("1$short");
    simulator.publish(TENANT, "Audit.General", blob.uri("https://evil.example/x"));
    let mut client = Client::signed_in(&simulator);
    let entry = client.get(&content("Audit.General", "2026-03-10", "2026-03-11")).json();
    assert_eq!(entry[0]["contentUri"], "https://evil.example/x");
    assert_eq!(entry[0]["contentExpiration"], "2026-03-10T13:00:00.000Z");
    assert_eq!(client.get(&feed("audit/1$short")).text(), "[]");
    simulator.set_token_lifetime(100_000);
    let mut client = Client::signed_in(&simulator);
    simulator.advance(Duration::hours(1));
    assert_eq!(client.get(&feed("audit/1$short")).json()["error"]["code"], "AF20051");
    simulator.advance(Duration::hours(-1));
    assert_eq!(client.get(&feed("audit/1$short")).status, 200, "the clock goes back, too");
}

#[test]
fn listings_misbehave_on_request() {
    let simulator = simulator();
    let odd = Blob::raw(NOON - Duration::days(3), "[]").id("1$odd").always_listed();
    let odd = odd.listed_as("contentCreated", Some(7.into())).listed_as("contentExpiration", None);
    simulator.publish(TENANT, "Audit.General", odd);
    simulator.publish(TENANT, "Audit.General", Blob::raw(NOON, "[]").id("1$new"));
    let mut client = Client::signed_in(&simulator);
    let day = content("Audit.General", "2026-03-10", "2026-03-11");
    let answer = client.get(&day);
    assert_eq!(answer.ids(), ["1$odd", "1$new"], "in every window");
    assert_eq!(answer.json()[0]["contentCreated"], 7);
    assert!(answer.json()[0].get("contentExpiration").is_none());
    let its_own = client.get(&content("Audit.General", "2026-03-07", "2026-03-08"));
    assert_eq!(its_own.ids(), ["1$odd"], "once");
    for (endless, ids) in [(Endless::Empty, &[][..]), (Endless::Again, &["1$new"])] {
        simulator.set_endless(Some(endless));
        let mut answer = client.get(&day);
        let mut links = Vec::new();
        for _ in 0..3 {
            let link = target(answer.header("nextpageuri").unwrap()).to_owned();
            answer = client.get(&link);
            assert_eq!(answer.ids(), ids, "{endless:?}");
            links.push(link);
        }
        links.dedup();
        assert_eq!(links.len(), 3, "new links");
    }
    simulator.set_endless(None);
    assert_eq!(client.get(&day).header("nextpageuri"), None);
}

#[test]
fn starts_are_limited_to_one_in_a_quarter_of_an_hour() {
    let code = |answer: common::Answer| match answer.status {
        200 => "200".to_owned(),
        _ => answer.json()["error"]["code"].as_str().unwrap().to_owned(),
    };
    let start = feed("subscriptions/start?contentType=Audit.General");
    let other = feed("subscriptions/start?contentType=Audit.Exchange");
    let builder = Simulator::builder().tenant(common::tenant());
    let simulator = common::start(builder.clone());
    let mut client = Client::signed_in(&simulator);
    assert_eq!(code(client.post(&start)), "200");
    simulator.set_subscription(TENANT, "Audit.General", None);
    assert_eq!(simulator.subscription(TENANT, "Audit.General"), None);
    assert_eq!(code(client.post(&start)), "AF429");
    assert_eq!(code(client.post(&other)), "200", "each subscription for itself");
    simulator.advance(Duration::minutes(15));
    assert_eq!(code(client.post(&start)), "200");
    simulator.advance(Duration::minutes(15));
    assert_eq!(code(client.post(&start)), "AF20024");

    let simulator = common::start(builder.start_limit(false));
    let mut client = Client::signed_in(&simulator);
    assert_eq!(code(client.post(&start)), "200");
    assert_eq!(code(client.post(&start)), "AF20024");
    client.post(&feed("subscriptions/stop?contentType=Audit.General"));
    assert_eq!(code(client.post(&start)), "200");
}

#[test]
fn tenants_are_separate() {
    let other = Tenant::new(OTHER, CLIENT, common::SECRET).subscribed(&["Audit.General"]);
    let simulator = common::start(
        Simulator::builder().tenant(common::tenant().subscribed(&["Audit.General"])).tenant(other),
    );
    let blob = || Blob::new(NOON - Duration::minutes(1), &[]);
    let theirs = simulator.publish(OTHER, "Audit.General", blob());
    let ours = simulator.publish(TENANT, "Audit.General", blob());
    let mut client = Client::signed_in(&simulator);
    assert_eq!(client.get(&feed("subscriptions/content?contentType=Audit.General")).ids(), [ours]);
    let answer = client.get(&feed(&format!("audit/{theirs}")));
    assert_eq!(answer.json()["error"]["code"], "AF20050");
    simulator.revoke_tokens(OTHER);
    assert_eq!(client.get(&feed("subscriptions/list")).status, 200);
    simulator.revoke_tokens(TENANT);
    assert_eq!(client.get(&feed("subscriptions/list")).status, 401);
}

#[test]
fn a_wrong_date_changes_nothing_but_the_header() {
    let simulator = simulator();
    let mut client = Client::signed_in(&simulator);
    let mut date = || client.get(&feed("subscriptions/list")).header("Date").unwrap().to_owned();
    assert!(date().starts_with("Tue, 10 Mar 2026 12:0"));
    let before = simulator.now();
    simulator.set_date_error(Duration::days(-9));
    assert!(date().starts_with("Sun, 01 Mar 2026 12:0"));
    assert!(simulator.now() - before < Duration::hours(1));
    simulator.set_date_error(Duration::ZERO);
    assert!(date().starts_with("Tue, 10 Mar 2026 12:0"));
}

#[test]
fn gzip_for_those_who_accept_it() {
    let builder = Simulator::builder().tenant(common::tenant()).gzip(true);
    let simulator = common::start(builder);
    let record = br#"{"Id":"1","Operation":"Send"}"#.to_vec();
    let large = Blob::generated(NOON, 3_000_000, record.clone()).id("1$large");
    simulator.publish(TENANT, "Audit.General", large);
    simulator.publish(TENANT, "Audit.General", Blob::raw(NOON, "[1]").id("1$small"));
    let mut client = Client::signed_in(&simulator);
    let unpack = |body: &[u8]| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
        text
    };
    let accept = [("Accept-Encoding", "deflate, gzip;q=0.8")];
    let small = client.send("GET", &feed("audit/1$small"), &accept, b"").unwrap();
    assert_eq!(small.header("content-encoding"), Some("gzip"));
    assert_eq!(unpack(&small.body), "[1]");
    let large = client.send("GET", &feed("audit/1$large"), &accept, b"").unwrap();
    assert!(!large.cut && large.body.len() < 100_000);
    let array: Vec<Value> = serde_json::from_str(&unpack(&large.body)).unwrap();
    assert_eq!(array.len(), 100_000 - 1, "{}", record.len());

    let plain = client.get(&feed("audit/1$small"));
    assert_eq!((plain.header("content-encoding"), plain.text().as_str()), (None, "[1]"));
    let refuse = [("Accept-Encoding", "gzip;q=0")];
    let plain = client.send("GET", &feed("audit/1$small"), &refuse, b"").unwrap();
    assert_eq!(plain.header("content-encoding"), None);
}

#[test]
fn generated_blobs_have_about_the_size_asked_for() {
    let simulator = simulator();
    let record = br#"{"Id":"1"}"#.to_vec();
    let mut client = Client::signed_in(&simulator);
    for bytes in [0, 1, 12, 13, 100, 1_000_000] {
        let id = format!("1${bytes}");
        let blob = Blob::generated(NOON, bytes, record.clone()).id(&id);
        simulator.publish(TENANT, "Audit.General", blob);
        let answer = client.get(&feed(&format!("audit/{id}")));
        let array = answer.json().as_array().unwrap().len();
        assert_eq!(answer.body.len(), array * 11 + 1);
        let wanted = usize::try_from(bytes).unwrap().max(12);
        assert!(answer.body.len() <= wanted && answer.body.len() + 11 > wanted, "{bytes}");
    }
}
