//! The tenant of the program: its ids, the story published in it, and the configuration with
//! which the collector finds it.

use std::io;

use office365_simulator::story::{Chapter, story};
use office365_simulator::{Builder, CONTENT_TYPES, Simulator, Tenant};

pub(crate) const TENANT: &str = "0f6c3bd2-8b1e-4c6e-9d5a-3a1f5f0c7e11";
pub(crate) const DOMAIN: &str = "contoso.example";
pub(crate) const CLIENT: &str = "5b8f1a57-0d0c-4a0e-8f43-5d9c2d7b6a90";
/// With characters that a form must escape, as real ones have.
pub(crate) const SECRET: &str = "kZ8~demo+not/a=real%secret";

/// The simulator, with the story told.
pub(crate) fn set(builder: Builder) -> io::Result<(Simulator, Vec<Chapter>)> {
    let simulator = builder.tenant(Tenant::new(TENANT, CLIENT, SECRET).domain(DOMAIN)).start()?;
    let chapters = story(simulator.now(), TENANT, DOMAIN);
    for chapter in &chapters {
        simulator.publish(TENANT, chapter.content_type, chapter.blob());
    }
    Ok((simulator, chapters))
}

/// `wodle-office365.conf` for it.
pub(crate) fn configuration(simulator: &Simulator) -> String {
    let subscriptions: String = CONTENT_TYPES
        .iter()
        .map(|name| format!("    <subscription>{name}</subscription>\n"))
        .collect();
    format!(
        "<office365>\n  \
           <enabled>yes</enabled>\n  \
           <only_future_events>no</only_future_events>\n  \
           <api_auth>\n    \
             <tenant_id>{TENANT}</tenant_id>\n    \
             <client_id>{CLIENT}</client_id>\n    \
             <client_secret>{SECRET}</client_secret>\n    \
             <login_url>{}</login_url>\n    \
             <management_url>{}</management_url>\n  \
           </api_auth>\n  \
           <subscriptions>\n{subscriptions}  </subscriptions>\n\
         </office365>\n",
        simulator.login_url(),
        simulator.management_url(),
    )
}
