//! The elements of a blob that can't be events: one notice for a blob, however many there are.

use crate::words::of;

/// The number of places in a blob that its notice names; what follows is counted.
const MAX_NAMED: usize = 5;

/// Why an element is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    NoObject,
    NoJson,
    TooLarge,
}

/// Elements side by side that can't be events, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    first: u64,
    last: u64,
    why: Why,
    bytes: u64,
}

/// The elements of a blob that can't be events: the first few places, and how many elements follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    places: Vec<Place>,
    more: u64,
}

impl Skipped {
    /// Adds the `index`-th element, which has this many `bytes`. Elements come in their order.
    pub(super) fn add(&mut self, index: u64, why: Why, bytes: u64) {
        self.add_place(Place { first: index, last: index, why, bytes });
    }

    fn add_place(&mut self, place: Place) {
        if self.more > 0 {
            self.more += place.count();
            return;
        }
        let beside = |last: &&mut Place| last.why == place.why && last.last + 1 == place.first;
        if let Some(last) = self.places.last_mut().filter(beside) {
            last.last = place.last;
            last.bytes += place.bytes;
        } else if self.places.len() < MAX_NAMED {
            self.places.push(place);
        } else {
            self.more += place.count();
        }
    }

    /// Adds what follows.
    pub(super) fn append(&mut self, later: &mut Self) {
        self.places.reserve_exact(later.places.len().min(MAX_NAMED));
        later.places.drain(..).for_each(|place| self.add_place(place));
        self.more += std::mem::take(&mut later.more);
    }

    /// The number of elements.
    pub(super) fn count(&self) -> u64 {
        self.places.iter().map(Place::count).sum::<u64>() + self.more
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What the notice says. `content`: the content id, as it may be shown.
    pub(super) fn text(&self, content: &str) -> String {
        if let ([place], 0) = (self.places.as_slice(), self.more) {
            return format!("{} of content {content} {}", place.name(), place.why(true));
        }
        let places =
            self.places.iter().map(|place| format!("{} {}", place.name(), place.why(false)));
        let mut places: Vec<_> = places.collect();
        if self.more > 0 {
            places.push(format!("and {} more", self.more));
        }
        format!(
            "{} of content {content} can't be events: {}; the records around them are delivered",
            of(self.count(), "record"),
            places.join("; ")
        )
    }
}

impl Place {
    fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    fn name(&self) -> String {
        let Self { first, last, .. } = self;
        if first == last { format!("record {first}") } else { format!("records {first} to {last}") }
    }

    /// What is wrong, and, where it is `alone`, what becomes of the records around it.
    fn why(&self, alone: bool) -> String {
        let (are, bytes) = (if self.first == self.last { "is" } else { "are" }, self.bytes);
        match self.why {
            Why::NoObject if self.first == self.last => "is not a JSON object".to_owned(),
            Why::NoObject => "are not JSON objects".to_owned(),
            Why::NoJson => {
                let around = match are {
                    _ if !alone => "",
                    "is" => ": it is skipped, the records around it are delivered",
                    _ => ": they are skipped, the records around them are delivered",
                };
                format!("{are} not valid JSON ({bytes} bytes){around}")
            }
            Why::TooLarge => {
                format!("{are} larger than the limit (16 MiB, or curl_max_size if that is more)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kinds(kinds: &[(u64, Why)]) -> Skipped {
        let mut skipped = Skipped::default();
        kinds.iter().for_each(|(index, why)| skipped.add(*index, *why, 2));
        skipped
    }

    #[test]
    fn a_single_place_is_told_with_what_becomes_of_the_rest() {
        for (kinds, expected) in [
            (&[(3, Why::NoObject)][..], "record 3 of content c is not a JSON object"),
            (
                &[(3, Why::NoObject), (4, Why::NoObject)],
                "records 3 to 4 of content c are not JSON objects",
            ),
            (
                &[(1, Why::NoJson)],
                "record 1 of content c is not valid JSON (2 bytes): it is skipped, the records around \
                 it are delivered",
            ),
            (
                &[(1, Why::NoJson), (2, Why::NoJson)],
                "records 1 to 2 of content c are not valid JSON (4 bytes): they are skipped, the \
                 records around them are delivered",
            ),
            (
                &[(9, Why::TooLarge)],
                "record 9 of content c is larger than the limit (16 MiB, or curl_max_size if that is \
                 more)",
            ),
        ] {
            assert_eq!(of_kinds(kinds).text("c"), expected);
        }
    }

    #[test]
    fn of_many_places_the_first_are_named_and_all_are_counted() {
        let two = of_kinds(&[(1, Why::NoJson), (3, Why::TooLarge), (4, Why::TooLarge)]);
        assert_eq!(
            two.text("c"),
            "3 records of content c can't be events: record 1 is not valid JSON (2 bytes); records 3 to \
             4 are larger than the limit (16 MiB, or curl_max_size if that is more); the records around \
             them are delivered"
        );
        let many = of_kinds(&(0..1000).map(|n| (2 * n + 1, Why::NoObject)).collect::<Vec<_>>());
        let named: Vec<_> =
            (0..5).map(|n| format!("record {} is not a JSON object", 2 * n + 1)).collect();
        assert_eq!(
            many.text("c"),
            format!(
                "1000 records of content c can't be events: {}; and 995 more; the records around them \
                 are delivered",
                named.join("; ")
            )
        );
    }

    #[test]
    fn parts_add_up_to_the_whole_wherever_it_is_cut() {
        let kinds = [Why::NoObject, Why::NoObject, Why::NoJson, Why::NoObject, Why::TooLarge];
        let all: Vec<_> = (1..=20).map(|n| (n, kinds[usize::try_from(n).unwrap() % 5])).collect();
        let whole = of_kinds(&all);
        assert_eq!(whole.count(), 20);
        for cut in 0..=all.len() {
            let (mut first, mut later) = (of_kinds(&all[..cut]), of_kinds(&all[cut..]));
            first.append(&mut later);
            assert_eq!(first, whole, "{cut}");
            assert!(later.is_empty());
        }
    }
}
