//! What a client can do wrong, and the exact answer to each.

mod common;

use common::{CLIENT, Client, FORM, NOON, OTHER, TENANT, content, feed, form};
use office365_simulator::{Blob, Simulator, Tenant};
use serde_json::json;
use time::Duration;

fn af(code: &str, message: &str) -> String {
    json!({ "error": { "code": code, "message": message } }).to_string()
}

const DENIED: &str = r#"{"Message":"Authorization has been denied for this request."}"#;
const WINDOW: &str = "Start time and end time must both be specified (or both omitted) and must be \
    less than or equal to 24 hours apart, with the start time prior to end time and start time no \
    more than 7 days in the past.";

/// A tenant with one subscription enabled, one disabled, the others never started.
fn simulator() -> Simulator {
    let tenant = common::tenant().subscribed(&["Audit.General", "Audit.Exchange", "DLP.All"]);
    let other = Tenant::new(OTHER, CLIENT, "x");
    let simulator = common::start(Simulator::builder().tenant(tenant).tenant(other));
    simulator.set_subscription(TENANT, "Audit.Exchange", Some("disabled"));
    simulator
}

#[test]
fn of_the_management_api() {
    let simulator = simulator();
    let old = Blob::new(NOON - Duration::days(8), &[]).id("1$1$old");
    simulator.publish(TENANT, "Audit.General", old);
    let mut client = Client::signed_in(&simulator);
    let none = "No subscription found for the specified content type.";
    let missing = "Missing parameter: contentType.";
    let content_of = |name| feed(&format!("subscriptions/content?contentType={name}"));
    let window = |from, to| content("Audit.General", from, to);
    let of_tenant = |guid| format!("/api/v1.0/{guid}/activity/feed/subscriptions/list");
    let elsewhere = "11111111-2222-3333-4444-555555555555";

    let cases = [
        // The tenant.
        (
            "GET",
            of_tenant("contoso.example"),
            400,
            af("AF20013", "The tenant ID passed in the URL (contoso.example) is not a valid GUID."),
        ),
        (
            "GET",
            of_tenant(elsewhere),
            400,
            af(
                "AF20011",
                &format!(
                    "Specified tenant ID ({elsewhere}) does not exist in the system or has been deleted."
                ),
            ),
        ),
        (
            "GET",
            of_tenant(OTHER),
            400,
            af(
                "AF20010",
                &format!(
                    "The tenant ID passed in the URL ({OTHER}) does not match the tenant ID passed in the \
             access token ({TENANT})."
                ),
            ),
        ),
        // The content type.
        ("GET", feed("subscriptions/content"), 400, af("AF20001", missing)),
        ("GET", content_of(""), 400, af("AF20001", missing)),
        ("POST", feed("subscriptions/start"), 400, af("AF20001", missing)),
        ("POST", feed("subscriptions/stop?type=Audit.General"), 400, af("AF20001", missing)),
        (
            "GET",
            content_of("Audit.Nothing"),
            400,
            af("AF20020", "The specified content type is not valid."),
        ),
        (
            "POST",
            feed("subscriptions/start?contentType=audit%20general"),
            400,
            af("AF20020", "The specified content type is not valid."),
        ),
        // The subscription.
        ("GET", content_of("Audit.SharePoint"), 400, af("AF20022", none)),
        ("POST", feed("subscriptions/stop?contentType=Audit.SharePoint"), 400, af("AF20022", none)),
        (
            "GET",
            content_of("Audit.Exchange"),
            400,
            af("AF20023", "The subscription was disabled by a tenant admin."),
        ),
        (
            "POST",
            feed("subscriptions/start?contentType=Audit.General"),
            400,
            af("AF20024", "The subscription is already enabled. No property change."),
        ),
        (
            "POST",
            feed("subscriptions/start?contentType=Audit.General"),
            403,
            af("AF429", "Too many frequent subscription start requests"),
        ),
        // The window.
        (
            "GET",
            content_of("Audit.General&startTime=2026-03-10T10:00:00"),
            400,
            af("AF20030", WINDOW),
        ),
        (
            "GET",
            content_of("Audit.General&endTime=2026-03-10T10:00:00"),
            400,
            af("AF20030", WINDOW),
        ),
        ("GET", window("2026-03-10T10:00:01", "2026-03-10T10:00:00"), 400, af("AF20030", WINDOW)),
        ("GET", window("2026-03-10T10:00:00", "2026-03-10T10:00:00"), 400, af("AF20030", WINDOW)),
        ("GET", window("2026-03-09T10:00:00", "2026-03-10T10:00:01"), 400, af("AF20030", WINDOW)),
        ("GET", window("2026-03-03T10:59:59", "2026-03-03T12:00:00"), 400, af("AF20055", WINDOW)),
        (
            "GET",
            window("yesterday", "2026-03-10T10:00:00"),
            400,
            af("AF20002", "Invalid parameter type: startTime. Expected type: DateTime"),
        ),
        (
            "GET",
            window("2026-03-10T10:00:00", "1773137400"),
            400,
            af("AF20002", "Invalid parameter type: endTime. Expected type: DateTime"),
        ),
        (
            "GET",
            window("2026-03-10T10:00:00Z", "2026-03-10T10:00:01Z"),
            400,
            af("AF20002", "Invalid parameter type: startTime. Expected type: DateTime"),
        ),
        (
            "GET",
            content_of("Audit.General&nextPage=1"),
            400,
            af("AF20031", "Invalid nextPage Input: 1."),
        ),
        // The content.
        (
            "GET",
            feed("audit/1$2$audit_general$Audit_General$emea9037"),
            404,
            af(
                "AF20050",
                "The specified content (1$2$audit_general$Audit_General$emea9037) does not exist.",
            ),
        ),
        (
            "GET",
            feed("audit/1$1$old"),
            400,
            af(
                "AF20051",
                "Content requested with the key 1$1$old has already expired. Content older than 7 days \
             cannot be retrieved.",
            ),
        ),
        (
            "GET",
            feed("audit/nonsense"),
            400,
            af("AF20052", "Content ID nonsense in the URL is invalid."),
        ),
        (
            "GET",
            feed("audit/1%241%24old"),
            400,
            af("AF20052", "Content ID 1%241%24old in the URL is invalid."),
        ),
        // The method and the path.
        (
            "POST",
            feed("subscriptions/list"),
            405,
            r#"{"Message":"The requested resource does not support http method 'POST'."}"#.into(),
        ),
        (
            "GET",
            feed("subscriptions/start?contentType=Audit.General"),
            405,
            r#"{"Message":"The requested resource does not support http method 'GET'."}"#.into(),
        ),
        (
            "GET",
            "/api/v2.0/x".into(),
            404,
            json!({ "Message": format!(
            "No HTTP resource was found that matches the request URI '{}/api/v2.0/x'.",
            simulator.management_url()) })
            .to_string(),
        ),
    ];
    for (method, target, status, body) in cases {
        let answer = client.call(method, &target).unwrap();
        assert_eq!((answer.status, answer.text()), (status, body), "{method} {target}");
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    }
    assert_eq!(simulator.connections(), 2, "none of this ends a connection");
}

#[test]
fn of_authorization() {
    let simulator = simulator();
    let token = common::sign_in(&simulator);
    simulator.revoke_tokens(TENANT);
    let stale = format!("Bearer {token}");
    let good = common::sign_in(&simulator);
    let mut client = Client::new(&simulator.management_url());
    let list = feed("subscriptions/list");
    let cases = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer eyJ0eXAiOiJKV1QifQ.e30.x".to_owned()),
        Some(format!("Basic {good}")),
        Some(good.clone()),
        Some(stale),
    ];
    for header in cases {
        let headers: Vec<_> = header.iter().map(|h| ("Authorization", h.as_str())).collect();
        let answer = client.send("GET", &list, &headers, b"").unwrap();
        assert_eq!((answer.status, answer.text()), (401, DENIED.to_owned()), "{header:?}");
    }
    let good = format!("bearer {good}");
    let headers = [("authorization", good.as_str())];
    assert_eq!(client.send("GET", &list, &headers, b"").unwrap().status, 200);
    simulator.advance(Duration::seconds(3598));
    let answer = client.send("GET", &list, &headers, b"").unwrap();
    let late = simulator.now() - NOON >= Duration::seconds(3599);
    assert!(answer.status == 200 || late, "the token is still valid");
    simulator.advance(Duration::seconds(2));
    let answer = client.send("GET", &list, &headers, b"").unwrap();
    assert_eq!((answer.status, answer.text()), (401, DENIED.to_owned()));
}

#[test]
fn of_roles() {
    let simulator = simulator();
    simulator.publish(TENANT, "DLP.All", Blob::new(NOON, &[]).id("1$dlp"));
    let permission = |held: &str| {
        af(
            "AF10001",
            &format!(
                "The permission set ({held}) sent in the request does not include the expected permission."
            ),
        )
    };
    let content = |name| feed(&format!("subscriptions/content?contentType={name}"));
    let read: &[&str] = &["ServiceHealth.Read", "ActivityFeed.Read"];
    let cases: [(&[&str], String, Option<&str>); 9] = [
        (&[], feed("subscriptions/list"), Some("")),
        (&[], content("Audit.General"), Some("")),
        (&["ServiceHealth.Read"], feed("subscriptions/list"), Some("ServiceHealth.Read")),
        (read, feed("subscriptions/list"), None),
        (read, content("Audit.General"), None),
        (read, content("DLP.All"), Some("ServiceHealth.Read ActivityFeed.Read")),
        (read, feed("audit/1$dlp"), Some("ServiceHealth.Read ActivityFeed.Read")),
        (&["ActivityFeed.ReadDlp"], content("DLP.All"), None),
        (&["ActivityFeed.ReadDlp"], content("Audit.General"), Some("ActivityFeed.ReadDlp")),
    ];
    for (roles, target, refused) in cases {
        simulator.set_roles(TENANT, roles);
        let answer = Client::signed_in(&simulator).get(&target);
        match refused {
            Some(held) => {
                assert_eq!((answer.status, answer.text()), (401, permission(held)), "{target}");
            }
            None => assert_eq!(answer.status, 200, "{roles:?} {target} {}", answer.text()),
        }
    }
}

#[test]
fn of_the_login_host() {
    let simulator = simulator();
    let good = form(&simulator);
    let management = simulator.management_url();
    let scope = management.replace(':', "%3A").replace('/', "%2F");
    let mut client = Client::new(&simulator.login_url());
    let missing =
        |name| format!("The request body must contain the following parameter: '{name}'.");
    let secret = format!(
        "Invalid client secret provided. Ensure the secret being sent in the request is the client \
         secret value, not the client secret ID, for a secret added to app '{CLIENT}'."
    );
    let no_tenant = |name| {
        format!(
            "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are \
         signing into the correct cloud. Check with your subscription administrator, this may \
         happen if there are no active subscriptions for the tenant."
        )
    };
    let with = |name: &str, value: &str| {
        let fields = good.split('&').map(|field| {
            if field.starts_with(&format!("{name}=")) {
                format!("{name}={value}")
            } else {
                field.into()
            }
        });
        fields.collect::<Vec<String>>().join("&")
    };
    let json = ("Content-Type", "application/json");
    let cases = [
        ("POST", TENANT, json, good.clone(), 400, "invalid_request", 900_144, missing("grant_type")),
        ("POST", TENANT, FORM, String::new(), 400, "invalid_request", 900_144, missing("grant_type")),
        ("POST", TENANT, FORM, with("client_id", ""), 400, "invalid_request", 900_144,
            missing("client_id")),
        ("POST", TENANT, FORM, with("scope", ""), 400, "invalid_request", 900_144, missing("scope")),
        ("POST", TENANT, FORM, with("grant_type", "password"), 400, "unsupported_grant_type", 70003,
            "The app requested an unsupported grant type 'password'.".into()),
        ("POST", CLIENT, FORM, good.clone(), 400, "invalid_request", 90002, no_tenant(CLIENT)),
        ("POST", "fabrikam.example", FORM, good.clone(), 400, "invalid_request", 90002,
            no_tenant("fabrikam.example")),
        ("POST", "tenant", FORM, good.clone(), 400, "invalid_request", 900_023,
            "Specified tenant identifier 'tenant' is neither a valid DNS name, nor a valid external \
             domain.".into()),
        ("POST", TENANT, FORM, with("client_id", OTHER), 400, "unauthorized_client", 700_016, format!(
            "Application with identifier '{OTHER}' was not found in the directory '{TENANT}'. This \
             can happen if the application has not been installed by the administrator of the \
             tenant or consented to by any user in the tenant. You may have sent your \
             authentication request to the wrong tenant.")),
        ("POST", TENANT, FORM, with("client_secret", ""), 401, "invalid_client", 7_000_216,
            "'client_assertion', 'client_secret' or 'request' is required for the \
             'client_credentials' grant type.".into()),
        ("POST", TENANT, FORM, with("client_secret", CLIENT), 401, "invalid_client", 7_000_215,
            secret.clone()),
        // Not encoded: the plus sign becomes a space, the `&` ends the value.
        ("POST", TENANT, FORM, with("client_secret", "a+b%26c%3Dd%2541%20~%C3%A9"), 401,
            "invalid_client", 7_000_215, secret.clone()),
        ("POST", TENANT, FORM, with("client_secret", common::SECRET), 401, "invalid_client",
            7_000_215, secret.clone()),
        ("POST", TENANT, FORM, with("client_secret", "a%2Bb%26c%3Dd%2541%20~%C3%A9%0A"), 401,
            "invalid_client", 7_000_215, secret.clone()),
        ("POST", TENANT, FORM, with("scope", &scope), 400, "invalid_scope", 1_002_012, format!(
            "The provided value for scope {management} is not valid. Client credential flows must \
             have a scope value with /.default suffixed to the resource identifier (application ID \
             URI).")),
        ("POST", TENANT, FORM, with("scope", "manage/.default"), 400, "invalid_scope", 70011,
            "The provided request must include a 'scope' input parameter. The provided value for \
             the input parameter 'scope' is not valid. The scope manage/.default is not valid."
            .into()),
        ("POST", TENANT, FORM, with("scope", "https://manage.office.com/.default"), 400,
            "invalid_resource", 500_011, format!(
            "The resource principal named https://manage.office.com was not found in the tenant \
             named {TENANT}. This can happen if the application has not been installed by the \
             administrator of the tenant or consented to by any user in the tenant. You might have \
             sent your authentication request to the wrong tenant.")),
        ("GET", TENANT, FORM, String::new(), 405, "invalid_request", 900_561,
            "The endpoint only accepts POST, OPTIONS requests. Received a GET request.".into()),
    ];
    for (method, tenant, kind, body, status, error, code, message) in cases {
        let path = format!("/{tenant}/oauth2/v2.0/token");
        let answer = client.send(method, &path, &[kind], body.as_bytes()).unwrap();
        let told = answer.json();
        let (trace, correlation) = (&told["trace_id"], &told["correlation_id"]);
        let timestamp = told["timestamp"].as_str().unwrap();
        assert!(
            timestamp.starts_with("2026-03-10 12:0") && timestamp.ends_with('Z'),
            "{timestamp}"
        );
        let (trace, correlation) = (trace.as_str().unwrap(), correlation.as_str().unwrap());
        assert_eq!((trace.len(), correlation.len()), (36, 36));
        let expected = json!({
            "error": error,
            "error_description": format!(
                "AADSTS{code}: {message}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\n\
                 Timestamp: {timestamp}"),
            "error_codes": [code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
        });
        assert_eq!((answer.status, answer.text()), (status, expected.to_string()), "{body}");
    }
    for path in ["/", "/x/y/oauth2/v2.0/token", "//oauth2/v2.0/token", "/x/oauth2/token"] {
        assert_eq!(client.send("POST", path, &[FORM], b"").unwrap().status, 404, "{path}");
    }
}

#[test]
fn of_http() {
    let simulator = simulator();
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    let cases = [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (&long, 431),
        (&many, 431),
    ];
    for (bytes, status) in cases {
        for origin in [simulator.login_url(), simulator.management_url()] {
            let mut client = Client::new(&origin);
            // It may be closed before all is written.
            let _ = client.write(bytes.as_bytes());
            let shown = &bytes[..bytes.len().min(60)];
            assert_eq!(client.read().unwrap().status, status, "{shown}");
            assert!(client.is_closed());
        }
    }
    let mut client = Client::new(&simulator.management_url());
    let bare = format!("POST {} HTTP/1.1\r\n\r\n", feed("subscriptions/start"));
    client.write(bare.as_bytes()).unwrap();
    let answer = client.read().unwrap();
    assert_eq!(answer.status, 411, "a POST without a length");
    assert!(answer.text().contains("Length Required"));
    assert_eq!(simulator.requests().len(), 1, "what is no request is not logged");
}
