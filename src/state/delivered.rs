//! The blobs delivered already, kept small.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::timestamp::Timestamp;

/// The fingerprint of a text, such as a content id, by which it is known again.
#[must_use]
pub fn fingerprint(text: &str) -> u64 {
    let hash = digest(&SHA256, text.as_bytes());
    let first = hash.as_ref().first_chunk::<8>().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

/// The blobs delivered since the horizon: fingerprint and creation time of each.
///
/// In the file 11 bytes a blob, in base64: three of seconds since the oldest, eight of the
/// fingerprint; so 10,000 blobs an hour cost 150 kB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered(HashMap<u64, Timestamp>);

impl Delivered {
    /// Whether the blob was delivered.
    #[must_use]
    pub fn contains(&self, fingerprint: u64) -> bool {
        self.0.contains_key(&fingerprint)
    }

    /// Remembers a delivered blob.
    pub fn insert(&mut self, fingerprint: u64, created: Timestamp) {
        self.0.insert(fingerprint, created);
    }

    /// A delivered blob is listed at a later time again: it counts as created then.
    pub fn refresh(&mut self, fingerprint: u64, at: Timestamp) {
        self.0.entry(fingerprint).and_modify(|created| *created = at.max(*created));
    }

    /// A blob is not delivered after all.
    pub fn remove(&mut self, fingerprint: u64) {
        self.0.remove(&fingerprint);
    }

    /// When the newest of them was created.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.0.values().max().copied()
    }

    /// Forgets blobs created at `time` or later.
    pub(super) fn forget_since(&mut self, time: Timestamp) {
        self.0.retain(|_, created| *created < time);
    }

    /// Forgets blobs created before `horizon`.
    pub(super) fn forget_before(&mut self, horizon: Timestamp) {
        self.0.retain(|_, created| *created >= horizon);
    }
}

#[derive(Serialize, Deserialize)]
struct DeliveredFile {
    since: Timestamp,
    blobs: String,
}

/// Seconds that three bytes can hold: 194 days, where 8 days may occur.
const MOST_SECONDS: i64 = (1 << 24) - 1;

impl Serialize for Delivered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut blobs: Vec<(Timestamp, u64)> = self.0.iter().map(|(f, at)| (*at, *f)).collect();
        blobs.sort_unstable();
        let since = blobs.first().map_or(Timestamp::from_unix(0), |(at, _)| *at);
        let mut bytes = Vec::with_capacity(blobs.len() * 11);
        for (at, fingerprint) in blobs {
            let seconds = at.since(since).min(MOST_SECONDS).to_be_bytes();
            bytes.extend_from_slice(seconds.last_chunk::<3>().unwrap_or(&[0; 3]));
            bytes.extend_from_slice(&fingerprint.to_be_bytes());
        }
        DeliveredFile { since, blobs: STANDARD_NO_PAD.encode(bytes) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delivered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = DeliveredFile::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(file.blobs).map_err(D::Error::custom)?;
        let (entries, []) = bytes.as_chunks::<11>() else {
            return Err(D::Error::custom("the list of delivered blobs is cut"));
        };
        let entry = |entry: &[u8; 11]| {
            let [a, b, c, rest @ ..] = entry;
            let seconds = u32::from_be_bytes([0, *a, *b, *c]);
            (u64::from_be_bytes(*rest), file.since.plus(i64::from(seconds)))
        };
        Ok(Self(entries.iter().map(entry).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::timestamp::DAY;

    fn at(seconds_before: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 - seconds_before)
    }

    proptest! {
        #[test]
        fn delivered_blobs_cost_at_most_20_bytes_and_are_known_again(
            blobs in prop::collection::hash_map(any::<u64>(), 0..8 * DAY, 0..300),
        ) {
            let mut delivered = Delivered::default();
            for (fingerprint, seconds) in &blobs {
                delivered.insert(*fingerprint, at(*seconds));
            }
            let text = serde_json::to_string(&delivered).unwrap();
            prop_assert!(text.len() <= 50 + 20 * blobs.len());
            prop_assert_eq!(serde_json::from_str::<Delivered>(&text).unwrap(), delivered);
        }
    }
}
