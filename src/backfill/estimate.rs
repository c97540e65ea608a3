//! How many events a past window holds: its blobs are listed and counted, and some are looked into.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{Access, Api, Trouble};
use crate::clock::{Clock, local_now};
use crate::config::{Config, Tenant};
use crate::content::{ContentType, Reaction};
use crate::credentials;
use crate::http::{Http, Network};
use crate::state::{State, Tally, Window};
use crate::store::Home;
use crate::timestamp::{DAY, Timestamp};

/// After this no more is asked for: somebody waits for it.
const MOST_TIME: Duration = Duration::from_secs(20);

/// Nor is an answer awaited for longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nor is a blob counted further than to so many records.
const MOST_RECORDS: u64 = 10_000;

/// So many pages of one window are followed at most: they may lead in a circle.
const MOST_PAGES: usize = 1000;

/// So much of a stream must have been written for its mean to be believed.
const ENOUGH_BLOBS: u64 = 10;

/// What a past window holds, roughly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Estimate {
    pub(super) events: u64,
    pub(super) blobs: u64,
    /// Whether every listing was seen to its end; else the rest is guessed by what was seen.
    pub(super) whole: bool,
}

/// A stream's window.
pub(super) type Asked = (Arc<Tenant>, ContentType, Timestamp, Timestamp);

pub(super) struct Estimator<'a> {
    home: &'a Home,
    config: &'a Config,
    state: &'a State,
    api: Api,
    until: Instant,
}

impl<'a> Estimator<'a> {
    pub(super) fn new(
        home: &'a Home,
        config: &'a Config,
        state: &'a State,
        mut network: Network,
    ) -> Self {
        network.timeouts.silence = PATIENCE;
        let clock = Arc::new(Clock::new(state.clock_offset));
        let api = Api::new(Arc::new(Http::new(network)), clock, config);
        Self { home, config, state, api, until: Instant::now() + MOST_TIME }
    }

    /// # Errors
    /// Nothing of it can be listed; why.
    pub(super) fn estimate(&self, asked: &[Asked]) -> Result<Estimate, String> {
        let mut estimate = Estimate { whole: true, ..Estimate::default() };
        // Seconds that were listed, of all that there are.
        let (mut seen, mut all) = (0_i64, 0_i64);
        let mut access: Option<(String, Access)> = None;
        let mut fault = None;
        for (tenant, content_type, from, to) in asked {
            all += to.since(*from);
            if Instant::now() >= self.until || fault.is_some() {
                continue;
            }
            if access.as_ref().is_none_or(|(id, _)| *id != tenant.tenant_id) {
                access = match self.sign_in(tenant) {
                    Ok(access) => Some((tenant.tenant_id.clone(), access)),
                    Err(why) => {
                        fault = Some(why);
                        continue;
                    }
                };
            }
            let Some((_, access)) = &access else {
                continue;
            };
            match self.stream(access, tenant, *content_type, *from, *to) {
                // Nothing is kept for a subscription that is not on.
                Err(trouble) if trouble.reaction == Reaction::Subscribe => seen += to.since(*from),
                Ok((blobs, events, seconds)) => {
                    estimate.blobs += blobs;
                    estimate.events += events;
                    seen += seconds;
                }
                Err(trouble) => fault = Some(trouble.text),
            }
        }
        match fault {
            Some(why) if seen == 0 => return Err(why),
            _ if seen == 0 => return Err("the API answers too slowly".to_owned()),
            _ => {}
        }
        if seen < all {
            estimate.whole = false;
            let scaled = |count: u64| {
                let scaled = u128::from(count) * u128::from(all.unsigned_abs())
                    / u128::from(seen.unsigned_abs().max(1));
                u64::try_from(scaled).unwrap_or(u64::MAX)
            };
            estimate.events = scaled(estimate.events);
            estimate.blobs = scaled(estimate.blobs);
        }
        Ok(estimate)
    }

    fn sign_in(&self, tenant: &Tenant) -> Result<Access, String> {
        let clocks = [local_now(), self.api.clock.now()];
        let credentials = credentials::load(self.home, self.config, tenant, clocks)?;
        let signed_in = self.api.sign_in(tenant, &credentials, Vec::new());
        signed_in.map(|(_, access)| access).map_err(|trouble| trouble.text)
    }

    /// The blobs of a stream's window, the events in them, and how many seconds of it were listed.
    fn stream(
        &self,
        access: &Access,
        tenant: &Tenant,
        content_type: ContentType,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(u64, u64, i64), Trouble> {
        let (mut blobs, mut seconds) = (0_u64, 0);
        let mut sample = None;
        let mut start = from;
        while start < to && Instant::now() < self.until {
            let end = start.plus(DAY).min(to);
            let window = Window { start, from: start, end, lost: None };
            let (mut page, _) = self.api.list(access, content_type, &window, None)?;
            let mut pages = 1;
            loop {
                blobs += page.blobs.len() as u64;
                sample = page.blobs.pop().map(|blob| blob.uri).or(sample);
                let Some(link) = page.next else {
                    seconds += end.since(start);
                    break;
                };
                if Instant::now() >= self.until || pages >= MOST_PAGES {
                    break;
                }
                (page, _) = self.api.next_page(access, &link)?;
                pages += 1;
            }
            start = end;
        }
        let known = self.state.tenants.get(&self.state.tenant_id(&tenant.tenant_id));
        let known = known.and_then(|tenant| tenant.streams.get(&content_type));
        let tally = known.map(|stream| stream.in_all).unwrap_or_default();
        let events = match (tally, sample) {
            (_, None) => 0,
            (Tally { events, blobs: written }, _) if written >= ENOUGH_BLOBS => {
                blobs.saturating_mul(events) / written
            }
            (_, Some(uri)) if Instant::now() < self.until => {
                blobs.saturating_mul(self.events_in(access, &uri))
            }
            // At least one each.
            (_, Some(_)) => blobs,
        };
        Ok((blobs, events, seconds))
    }

    /// How many records a blob has, as far as that can be told soon.
    fn events_in(&self, access: &Access, uri: &str) -> u64 {
        let mut buffer = Vec::new();
        let Ok(mut records) = self.api.fetch(access, uri, &mut buffer) else {
            return 1;
        };
        let mut count = 0;
        while count < MOST_RECORDS
            && Instant::now() < self.until
            && matches!(records.next_element(), Ok(Some(_)))
        {
            count += 1;
        }
        count
    }
}
