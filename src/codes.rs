//! What the codes of Microsoft's two hosts mean for an administrator, and what to do: the one table
//! that the log, the notices and `check` take their words from, and that the guide prints.
//!
//! Sources: the error tables of the Office 365 Management Activity API reference and of the Microsoft
//! Entra authentication error codes; pages and buttons bear the names that they have today.

use std::fmt;

/// What a code means, and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `AADSTS…` of the login host, `AF…` of the API, or how a free text in a code's place begins;
    /// empty for what has none.
    pub code: &'static str,
    /// What it says is so.
    pub meaning: &'static str,
    /// What to do; empty where nothing is to be done.
    pub remedy: &'static str,
}

impl Explanation {
    /// Of what has no code and no remedy.
    #[must_use]
    pub const fn plain(meaning: &'static str) -> Self {
        Self { code: "", meaning, remedy: "" }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.meaning)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, ": {}", self.remedy) }
    }
}

/// How a code begins whose rest is free text: auditing is off (observed).
pub const AUDITING_OFF: &str = "StartSubscription";

const fn row(code: &'static str, meaning: &'static str, remedy: &'static str) -> Explanation {
    Explanation { code, meaning, remedy }
}

const fn internal(code: &'static str) -> Explanation {
    row(
        code,
        "an internal error on Microsoft's side",
        "nothing needs to be done, it is tried again; if it lasts, look at Service health in the \
         Microsoft 365 admin center",
    )
}

/// Every code that is known to come, those of the login host first.
pub const EXPLANATIONS: &[Explanation] = &[
    row(
        "AADSTS7000215",
        "the client secret is wrong; most often the secret's ID was copied instead of its Value",
        "in the Entra admin center, App registrations > your application > Certificates & secrets, \
         choose New client secret, copy its Value at once (it is shown only now) and put that into \
         client_secret or the file of client_secret_path",
    ),
    row(
        "AADSTS7000222",
        "the client secret has expired",
        "create a new one in the Entra admin center, App registrations > your application > \
         Certificates & secrets > New client secret, and put its Value into client_secret or the \
         file of client_secret_path",
    ),
    row(
        "AADSTS700016",
        "this tenant has no such application",
        "are tenant_id and client_id swapped, or is one of them another tenant's? Compare both with \
         the application's Overview page in the Entra admin center: tenant_id is its Directory \
         (tenant) ID, client_id its Application (client) ID",
    ),
    row(
        "AADSTS90002",
        "there is no such tenant in this cloud",
        "are tenant_id and client_id swapped, is tenant_id mistyped, or does api_type name the wrong \
         cloud (commercial, gcc, gcc-high, dod)? Compare tenant_id with the Directory (tenant) ID on \
         the application's Overview page in the Entra admin center",
    ),
    row(
        "AADSTS900023",
        "tenant_id is neither a tenant's id nor a domain name that a tenant has",
        "are tenant_id and client_id swapped, is tenant_id mistyped, or does api_type name the wrong \
         cloud (commercial, gcc, gcc-high, dod)? Put the Directory (tenant) ID of the application's \
         Overview page in the Entra admin center into tenant_id",
    ),
    row(
        "AADSTS700027",
        "the application doesn't know the certificate, or the key is not the certificate's",
        "upload the file of client_certificate_path in the Entra admin center, App registrations > \
         your application > Certificates & secrets > Certificates > Upload certificate",
    ),
    row(
        "AADSTS700024",
        "the signed assertion is outside its time, so this machine's clock is wrong",
        "set the clock (NTP)",
    ),
    row(
        "AADSTS500011",
        "the tenant's login host doesn't know the Management Activity API that api_type names; it is \
         the wrong cloud, or the tenant has no Office 365",
        "set api_type to the tenant's cloud (commercial, gcc, gcc-high, dod); if login_url or \
         management_url are given, they must belong to one cloud",
    ),
    row(
        "AADSTS70011",
        "the scope is not valid for this login host; api_type, or management_url, is that of another \
         cloud",
        "set api_type to the tenant's cloud (commercial, gcc, gcc-high, dod), and remove login_url \
         and management_url unless you need them",
    ),
    row(
        "AADSTS1002012",
        "the scope is not one for an application's own sign-in; management_url is not the API's",
        "set api_type to the tenant's cloud (commercial, gcc, gcc-high, dod), and remove \
         management_url unless you need it",
    ),
    row(
        "AADSTS7000112",
        "the application is disabled in this tenant",
        "in the Entra admin center, Enterprise applications > your application > Properties, set \
         Enabled for users to sign-in? to Yes",
    ),
    row(
        "AADSTS53003",
        "a Conditional Access policy blocks this sign-in",
        "in the Entra admin center, Conditional Access > Policies, exclude the application (a \
         workload identity) or allow this machine's address; Sign-in logs > Service principal \
         sign-ins names the policy",
    ),
    row(
        "AADSTS90055",
        "the login host asks us to slow down",
        "nothing needs to be done, it is tried again; if it lasts, see whether other programs sign in as this \
         application again and again",
    ),
    row(
        "AF429",
        "the API asks us to slow down, for there are too many requests for this tenant",
        "nothing needs to be done, it is tried again; if it lasts, see whether other programs use the same tenant's \
         quota, or lower max_connections",
    ),
    row(
        "AF10001",
        "the application lacks a permission, or nobody has consented to it",
        "in the Entra admin center, App registrations > your application > API permissions, choose \
         Add a permission > Office 365 Management APIs > Application permissions, tick \
         ActivityFeed.Read (and ActivityFeed.ReadDlp for DLP.All), then Grant admin consent",
    ),
    row(
        "AF20001",
        "a parameter of our request is missing",
        "please report this as a fault of wodle-office365, with the log at level debug",
    ),
    row(
        "AF20002",
        "a parameter of our request has the wrong type",
        "please report this as a fault of wodle-office365, with the log at level debug",
    ),
    row(
        "AF20003",
        "a time in our request lies in the past where it may not",
        "set this machine's clock if it is wrong; else please report this as a fault of \
         wodle-office365, with the log at level debug",
    ),
    row(
        "AF20010",
        "the token belongs to another tenant than tenant_id",
        "compare tenant_id with the Directory (tenant) ID on the application's Overview page in the \
         Entra admin center",
    ),
    row(
        "AF20011",
        "the API doesn't know this tenant, or it was deleted",
        "compare tenant_id with the Directory (tenant) ID on the application's Overview page in the \
         Entra admin center, and api_type with the tenant's cloud",
    ),
    row(
        "AF20012",
        "the tenant is not set up for this API; most often it has no licence with auditing",
        "assign a Microsoft 365 or Office 365 licence with auditing (Microsoft 365 admin center > \
         Billing > Licenses) and turn auditing on (Microsoft Purview portal > Solutions > Audit > \
         Start recording user and admin activity)",
    ),
    row(
        "AF20013",
        "tenant_id is no valid GUID",
        "put the Directory (tenant) ID of the application's Overview page in the Entra admin center \
         into tenant_id",
    ),
    row(
        "AF20020",
        "the API doesn't take this content type in this cloud",
        "remove its subscription from the configuration",
    ),
    row(
        "AF20022",
        "there is no subscription for this content type",
        "nothing needs to be done, the next poll starts it (check --start does so at once)",
    ),
    row(
        "AF20023",
        "the subscription was stopped, or was started a moment ago",
        "nothing needs to be done, the next poll starts it (check --start does so at once); find out who or what \
         stops it, for Microsoft keeps nothing meanwhile",
    ),
    row("AF20024", "the subscription is on already", ""),
    row(
        "AF20030",
        "the time window is longer than a day, or outside the 7 days that the API keeps",
        "nothing needs to be done, a narrower one is asked for, and what is lost is told as a gap; if it \
         lasts, set this machine's clock",
    ),
    row(
        "AF20055",
        "the time window is older than the 7 days that the API keeps, or its ends are swapped",
        "nothing needs to be done, a later one is asked for, and what is lost is told as a gap; if it \
         lasts, set this machine's clock",
    ),
    row(
        "AF20031",
        "the link to the next page of a listing was not taken",
        "nothing needs to be done, the window is listed again from its first page",
    ),
    row(
        "AF20050",
        "the API no longer has this content",
        "look for its events in the Microsoft Purview portal > Solutions > Audit; a poll tries it once \
         more before it tells a gap",
    ),
    row(
        "AF20051",
        "the content has expired",
        "look for its events in the Microsoft Purview portal > Solutions > Audit",
    ),
    row(
        "AF20052",
        "the API doesn't take this content's id",
        "look for its events in the Microsoft Purview portal > Solutions > Audit; a poll tries it once \
         more before it tells a gap",
    ),
    internal("AF50000"),
    internal("AF50005"),
    internal("AF50006"),
    row(
        AUDITING_OFF,
        "auditing is off for this tenant, so there is nothing to collect",
        "turn it on in the Microsoft Purview portal > Solutions > Audit > Start recording user and \
         admin activity, and wait: it may take a day until the first events come",
    ),
];

/// What a code means; none for one that is not known.
#[must_use]
pub fn explain(code: &str) -> Option<Explanation> {
    let found = |code: &str| EXPLANATIONS.iter().find(|row| row.code == code).copied();
    found(code).or_else(|| match code {
        // All of this range are faults on Microsoft's side (documented).
        _ if code.starts_with("AF5") => found("AF50000"),
        _ if code.starts_with(AUDITING_OFF) => found(AUDITING_OFF),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_documented_code_is_explained_once() {
        let codes: BTreeSet<_> = EXPLANATIONS.iter().map(|row| row.code).collect();
        assert_eq!(codes.len(), EXPLANATIONS.len());
        for code in [
            "7000215", "7000222", "700016", "90002", "900023", "700027", "700024", "500011",
            "70011", "1002012", "7000112", "53003", "90055",
        ] {
            assert!(codes.contains(format!("AADSTS{code}").as_str()), "{code}");
        }
        for code in [
            "429", "10001", "20001", "20002", "20003", "20010", "20011", "20012", "20013", "20020",
            "20022", "20023", "20024", "20030", "20031", "20050", "20051", "20052", "20055",
            "50000", "50005", "50006",
        ] {
            assert!(codes.contains(format!("AF{code}").as_str()), "{code}");
        }
        assert_eq!(explain("AF51234").unwrap().code, "AF50000");
        assert_eq!(explain("StartSubscription [CorrId=1]").unwrap().code, AUDITING_OFF);
        assert_eq!((explain("AF99999"), explain("")), (None, None));
    }

    #[test]
    fn the_guide_has_the_table() {
        let guide = include_str!("../wodle/README.md");
        for Explanation { code, meaning, remedy } in EXPLANATIONS {
            let row = format!("| {code} | {meaning} | {remedy} |");
            assert!(guide.contains(&row), "{row}");
        }
    }
}
