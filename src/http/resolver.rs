//! Finding the addresses of a name.

use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Error, Timeout};

use crate::thread::thread;

/// The system's resolver, which may wait for name servers for minutes, with a limit.
#[derive(Debug)]
pub(super) struct SystemResolver(pub(super) Duration);

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        // Without a limit of its own, for which ureq would start a thread and panic if it can't.
        let at_once = |uri: &Uri, config: &Config| {
            DefaultResolver::default().resolve(uri, config, NextTimeout::default())
        };
        let host = uri.host().unwrap_or_default();
        if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
            return at_once(uri, config);
        }
        let (sender, addresses) = mpsc::channel();
        let (of, by) = (uri.clone(), config.clone());
        let looking_up = thread("resolver").spawn(move || {
            // Nobody may wait any more.
            let _ = sender.send(at_once(&of, &by));
        });
        match looking_up {
            Ok(_) => {
                addresses.recv_timeout(self.0).unwrap_or(Err(Error::Timeout(Timeout::Resolve)))
            }
            Err(_) => at_once(uri, config),
        }
    }
}
