//! The pages of one listing: whether they still bring anything, or will never end.

use std::collections::HashSet;

/// After this many pages in a row that name no blob for the first time in their listing, it has no end.
const MAX_IDLE_PAGES: u32 = 100;

/// This many blobs of a listing are known again, in some 4 MB; a window of the largest tenants has fewer.
/// Of more the first are forgotten, and count as new once more.
const MAX_LISTED: usize = 1 << 18;

/// What a listing has brought so far.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Fingerprints of the links followed.
    links: HashSet<u64>,
    /// Those of the blobs listed, whether they are new or were delivered before.
    listed: HashSet<u64>,
    /// Pages since the last one that brought a blob of which nothing was known in this listing.
    idle: u32,
}

impl Pages {
    /// Takes in a page with these blobs, and `next`, the link to another one.
    ///
    /// # Errors
    /// The listing would never end.
    pub(super) fn take(
        &mut self,
        blobs: impl Iterator<Item = u64>,
        next: Option<u64>,
    ) -> Result<(), String> {
        if self.listed.len() >= MAX_LISTED {
            self.listed.clear();
        }
        let mut is_idle = true;
        for blob in blobs {
            is_idle &= !self.listed.insert(blob);
        }
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        let Some(link) = next else {
            return Ok(());
        };
        let why = if self.idle >= MAX_IDLE_PAGES {
            format!("the last {MAX_IDLE_PAGES} pages brought no blob that was not listed before")
        } else if !self.links.insert(link) {
            "its pages lead back to each other".to_owned()
        } else {
            return Ok(());
        };
        Err(format!(
            "the listing has no end: {why}. What it would list after that is not collected; the next \
             run lists it again. If it lasts, report it to Microsoft, or check whether a proxy changes \
             answers"
        ))
    }

    /// The fingerprints of the blobs listed.
    pub(super) fn into_listed(self) -> HashSet<u64> {
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_anything_new_go_on_for_ever_and_others_end_after_a_hundred() {
        let mut pages = Pages::default();
        for n in 0..10_000 {
            assert_eq!(pages.take([n, 7].into_iter(), Some(n)), Ok(()), "{n}");
        }
        for (what, blobs) in [("empty", vec![]), ("the same", vec![1, 2, 3])] {
            let mut pages = Pages::default();
            let ended = (0..1000).find(|n| pages.take(blobs.iter().copied(), Some(*n)).is_err());
            // Its first page brings something where it is not empty.
            assert_eq!(ended, Some(99 + u64::from(!blobs.is_empty())), "{what}");
        }
    }

    #[test]
    fn one_new_blob_makes_the_hundred_begin_again_and_the_last_page_is_never_too_many() {
        let mut pages = Pages::default();
        for n in 0..1000 {
            let blob = n / 99;
            assert_eq!(pages.take([blob].into_iter(), Some(n)), Ok(()), "{n}");
        }
        let mut pages = Pages::default();
        for n in 0..99 {
            assert_eq!(pages.take([].into_iter(), Some(n)), Ok(()));
        }
        assert_eq!(pages.take([].into_iter(), None), Ok(()));
    }

    #[test]
    fn pages_that_lead_in_a_circle_are_noticed_at_once() {
        let mut pages = Pages::default();
        assert_eq!(pages.take([1].into_iter(), Some(1)), Ok(()));
        assert_eq!(pages.take([2].into_iter(), Some(2)), Ok(()));
        let why = pages.take([3].into_iter(), Some(1)).unwrap_err();
        assert!(why.contains("lead back to each other"), "{why}");
    }
}
