//! The login host: OAuth 2.0 client credentials at `/{tenant}/oauth2/v2.0/token`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use serde_json::json;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::assertion::Wrong;
use crate::http::{Answer, Incoming, pairs};
use crate::state::{Shared, State, Token};
use crate::tenant::{App, is_guid};

/// The tenant named in the path of a token request.
pub(crate) fn route(path: &str) -> Option<&str> {
    let tenant = path.strip_prefix('/')?.strip_suffix("/oauth2/v2.0/token")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

pub(crate) fn not_found() -> Answer {
    Answer::empty(404)
}

/// Why no token is given: AADSTS number, status, OAuth's word for it, message.
struct Refusal(u32, u16, &'static str, String);

pub(crate) fn answer(shared: &Shared, tenant: &str, request: &Incoming) -> Answer {
    let mut state = shared.state();
    let now = shared.clock.now();
    let number = state.number();
    match token(shared, &mut state, tenant, request, number, now) {
        Ok((token, lifetime)) => Answer::json(
            200,
            json!({
                "token_type": "Bearer",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
                "access_token": token,
            })
            .to_string(),
        ),
        Err(refusal) => refuse(&refusal, request, number, now),
    }
    .header("Cache-Control", "no-store, no-cache")
}

fn refuse(refusal: &Refusal, request: &Incoming, number: u64, now: OffsetDateTime) -> Answer {
    let Refusal(code, status, error, message) = refusal;
    let trace_id = format!("5eed0000-0000-4000-8000-{number:012x}");
    let correlation_id = match request.header("client-request-id") {
        Some(id) if is_guid(id) => id.to_owned(),
        _ => format!("c0ffee00-0000-4000-8000-{number:012x}"),
    };
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let timestamp = now.format(format).unwrap_or_default();
    let answer = Answer::json(
        *status,
        json!({
            "error": error,
            "error_description": format!(
                "AADSTS{code}: {message}\r\nTrace ID: {trace_id}\r\n\
                 Correlation ID: {correlation_id}\r\nTimestamp: {timestamp}"
            ),
            "error_codes": [code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
        })
        .to_string(),
    );
    if *status == 405 { answer.header("Allow", "POST, OPTIONS") } else { answer }
}

fn token(
    shared: &Shared,
    state: &mut State,
    tenant_name: &str,
    request: &Incoming,
    number: u64,
    now: OffsetDateTime,
) -> Result<(String, i64), Refusal> {
    if request.method != "POST" {
        let method = &request.method;
        return Err(Refusal(
            900_561,
            405,
            "invalid_request",
            format!(
                "The endpoint only accepts POST, OPTIONS requests. Received a {method} request."
            ),
        ));
    }
    let lifetime = state.token_lifetime;
    let tenant = state.tenant(tenant_name).ok_or_else(|| no_tenant(tenant_name))?;

    // What is no form has no fields.
    let form = match request.header("content-type") {
        Some(kind) if is_form(kind) => pairs(&String::from_utf8_lossy(&request.body)),
        _ => Vec::new(),
    };
    let field = |name: &str| {
        let found = form.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let required = |name: &str| {
        field(name).ok_or_else(|| {
            Refusal(
                900_144,
                400,
                "invalid_request",
                format!("The request body must contain the following parameter: '{name}'."),
            )
        })
    };
    let grant_type = required("grant_type")?;
    if grant_type != "client_credentials" {
        return Err(Refusal(
            70003,
            400,
            "unsupported_grant_type",
            format!("The app requested an unsupported grant type '{grant_type}'."),
        ));
    }
    let client_id = required("client_id")?;
    let scope = required("scope")?;
    let app = tenant.apps.iter().find(|app| app.client_id.eq_ignore_ascii_case(client_id));
    let app = app.ok_or_else(|| {
        Refusal(
            700_016,
            400,
            "unauthorized_client",
            format!(
                "Application with identifier '{client_id}' was not found in the directory \
         '{tenant_name}'. This can happen if the application has not been installed by the \
         administrator of the tenant or consented to by any user in the tenant. You may have \
         sent your authentication request to the wrong tenant."
            ),
        )
    })?;
    check_scope(shared, scope, &tenant.guid)?;
    if let Some(assertion) = field("client_assertion") {
        let kind = required("client_assertion_type")?;
        let audience = [&tenant.guid, tenant_name]
            .map(|name| format!("{}/{name}/oauth2/v2.0/token", shared.login_url));
        check_assertion(app, kind, assertion, &audience, now)?;
    } else {
        check_secret(app, field("client_secret"))?;
    }

    let expires = now + Duration::seconds(lifetime);
    let mut claims = json!({
        "aud": shared.management_url,
        "iss": format!("https://sts.windows.net/{}/", tenant.guid),
        "iat": now.unix_timestamp(),
        "nbf": now.unix_timestamp(),
        "exp": expires.unix_timestamp(),
        "appid": app.client_id,
        "appidacr": if field("client_assertion").is_some() { "2" } else { "1" },
        "tid": tenant.guid,
        "uti": format!("simulator-{number}"),
        "ver": "1.0",
    });
    if !tenant.roles.is_empty() {
        claims["roles"] = json!(tenant.roles);
    }
    let token = Token { tenant: tenant.guid.clone(), roles: tenant.roles.clone(), expires };
    let text = jwt(&claims.to_string());
    state.tokens.retain(|_, token| token.expires > now - Duration::days(1));
    state.tokens.insert(text.clone(), token);
    Ok((text, lifetime))
}

fn is_form(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn no_tenant(name: &str) -> Refusal {
    if is_guid(name) || name.contains('.') {
        Refusal(
            90002,
            400,
            "invalid_request",
            format!(
                "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are \
             signing into the correct cloud. Check with your subscription administrator, this may \
             happen if there are no active subscriptions for the tenant."
            ),
        )
    } else {
        Refusal(
            900_023,
            400,
            "invalid_request",
            format!(
                "Specified tenant identifier '{name}' is neither a valid DNS name, nor a valid \
             external domain."
            ),
        )
    }
}

fn check_scope(shared: &Shared, scope: &str, tenant: &str) -> Result<(), Refusal> {
    let Some(resource) = scope.strip_suffix("/.default") else {
        return Err(Refusal(
            1_002_012,
            400,
            "invalid_scope",
            format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have \
             a scope value with /.default suffixed to the resource identifier (application ID URI)."
            ),
        ));
    };
    if resource == shared.management_url {
        return Ok(());
    }
    if resource.contains(' ') || !(resource.contains("://") || is_guid(resource)) {
        return Err(Refusal(
            70011,
            400,
            "invalid_scope",
            format!(
                "The provided request must include a 'scope' input parameter. The provided value for \
             the input parameter 'scope' is not valid. The scope {scope} is not valid."
            ),
        ));
    }
    Err(Refusal(
        500_011,
        400,
        "invalid_resource",
        format!(
            "The resource principal named {resource} was not found in the tenant named {tenant}. This \
         can happen if the application has not been installed by the administrator of the tenant \
         or consented to by any user in the tenant. You might have sent your authentication \
         request to the wrong tenant."
        ),
    ))
}

fn check_secret(app: &App, secret: Option<&str>) -> Result<(), Refusal> {
    let Some(secret) = secret else {
        return Err(Refusal(
            7_000_216,
            401,
            "invalid_client",
            "'client_assertion', 'client_secret' or 'request' is required for the \
             'client_credentials' grant type."
                .to_owned(),
        ));
    };
    if app.secret.as_deref() == Some(secret) {
        return Ok(());
    }
    Err(Refusal(
        7_000_215,
        401,
        "invalid_client",
        format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client \
         secret value, not the client secret ID, for a secret added to app '{}'.",
            app.client_id
        ),
    ))
}

fn check_assertion(
    app: &App,
    kind: &str,
    assertion: &str,
    audience: &[String],
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let refuse =
        |code, message: &str| Err(Refusal(code, 401, "invalid_client", message.to_owned()));
    if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
        return refuse(50027, "JWT token is invalid or malformed.");
    }
    let checked = match &app.certificate {
        Some(known) => known.check(assertion, &app.client_id, audience, now.unix_timestamp()),
        None => Err(Wrong::Signature),
    };
    match checked {
        Ok(()) => Ok(()),
        Err(Wrong::NotAToken) => refuse(50027, "JWT token is invalid or malformed."),
        Err(Wrong::Signature) => refuse(
            700_027,
            "The certificate with identifier used to sign the client assertion is not registered \
             on application, or the client assertion failed signature validation.",
        ),
        Err(Wrong::Time) => refuse(700_024, "Client assertion is not within its valid time range."),
        Err(Wrong::Claims) => refuse(
            700_023,
            "Client assertion audience claim does not match Realm issuer, or its issuer or subject \
             is not the client application identifier.",
        ),
    }
}

/// A JWT whose signature nobody can check, which clients are not to do anyway.
fn jwt(claims: &str) -> String {
    let head = r#"{"typ":"JWT","alg":"RS256","kid":"simulator"}"#;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let hash = digest::digest(&digest::SHA512, signed.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(hash.as_ref().repeat(4));
    format!("{signed}.{mac}")
}
