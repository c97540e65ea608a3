//! The access tokens kept between runs, as a file's contents. Each belongs to one sign-in: another
//! client id or origin is another token.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::{RENEW_BEFORE, is_sendable};
use crate::config::{Tenant, is_guid};
use crate::secret::Secret;
use crate::timestamp::Timestamp;

/// A token that outlives the run.
#[derive(Clone, Debug)]
pub struct KeptToken {
    /// The bearer token.
    pub token: Secret,
    /// The tenant that it names.
    pub tid: Option<String>,
    /// When it ends.
    pub expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: String,
    client_id: String,
    login: String,
    management: String,
    tid: Option<String>,
    expires: Timestamp,
    token: Zeroizing<String>,
}

/// The kept tokens.
#[derive(Default, Deserialize)]
pub struct Tokens(Vec<Entry>);

impl Tokens {
    /// Reads a token file's contents. One that can't be read holds no token: they are only saved
    /// requests.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// The file's contents.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_bytes(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        // With room for everything: what grows leaves what it held behind.
        let size = |entry: &Entry| {
            let Entry { tenant_id, client_id, login, management, tid, expires: _, token } = entry;
            let tid = tid.as_deref().unwrap_or_default();
            let texts = [tenant_id, client_id, login, management, tid, token];
            256 + texts.map(|text| text.len() * 6).iter().sum::<usize>()
        };
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(2 + self.0.iter().map(size).sum::<usize>()));
        serde_json::to_writer(&mut *bytes, &self.0)?;
        Ok(bytes)
    }

    /// The token of a tenant's sign-in, if it can still be used at `now`.
    #[must_use]
    pub fn find(&self, tenant: &Tenant, now: Timestamp) -> Option<KeptToken> {
        let entry = self.0.iter().find(|entry| {
            entry.tenant_id == tenant.tenant_id
                && entry.client_id == tenant.client_id
                && entry.login == tenant.login
                && entry.management == tenant.management
        })?;
        let good = entry.expires.since(now) > RENEW_BEFORE && is_sendable(&entry.token);
        good.then(|| KeptToken {
            token: entry.token.clone().into(),
            tid: entry.tid.clone().filter(|tid| is_guid(tid)),
            expires: entry.expires,
        })
    }

    /// Adds a tenant's token.
    pub fn keep(&mut self, tenant: &Tenant, kept: &KeptToken) {
        self.0.push(Entry {
            tenant_id: tenant.tenant_id.clone(),
            client_id: tenant.client_id.clone(),
            login: tenant.login.clone(),
            management: tenant.management.clone(),
            tid: kept.tid.clone(),
            expires: kept.expires,
            token: Zeroizing::new(kept.token.reveal().to_owned()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Credential;

    #[test]
    fn a_token_is_found_for_its_own_sign_in_until_five_minutes_before_its_end() {
        let tenant = |client_id: &str| Tenant {
            tenant_id: "t".to_owned(),
            client_id: client_id.to_owned(),
            credential: Credential::Secret(Secret::new("s")),
            login: "https://l".to_owned(),
            management: "https://m".to_owned(),
        };
        let expires = Timestamp::from_unix(10_000);
        let mut tokens = Tokens::default();
        let kept = KeptToken { token: Secret::new("abc"), tid: Some("x".to_owned()), expires };
        tokens.keep(&tenant("c"), &kept);
        let tokens = Tokens::parse(&tokens.to_bytes().unwrap());
        let found =
            |client_id: &str, now| tokens.find(&tenant(client_id), Timestamp::from_unix(now));
        assert_eq!(found("c", 9_699).unwrap().token.reveal(), "abc");
        assert!(found("c", 9_700).is_none());
        assert!(found("d", 0).is_none());
        assert_eq!(found("c", 0).unwrap().tid, None, "x is no GUID");
        for odd in ["a\r\nb", "", &"x".repeat(20_000)] {
            let mut tokens = Tokens::default();
            tokens.keep(&tenant("c"), &KeptToken { token: Secret::new(odd), tid: None, expires });
            assert!(tokens.find(&tenant("c"), Timestamp::from_unix(0)).is_none());
        }
        assert!(Tokens::parse(b"nonsense").0.is_empty());
    }
}
