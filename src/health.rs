//! How tenants and streams fare from run to run, and which notices that calls for: each run is a
//! process of its own, so the counting is in the state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::content::ContentType;
use crate::notice::{Kind, Notice};
use crate::timestamp::{DAY, Timestamp};

/// A failure is told when it is the third in a row, as Wazuh's own module does.
const TOLD_FROM: u32 = 3;

/// More tenants than this with one cause get one notice together.
const MOST_TOLD_APART: usize = 5;

/// So many of them are named in it.
const MOST_NAMED: usize = 10;

/// How a tenant or a stream has fared in its last runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Runs that failed in a row.
    pub failures: u32,
    /// When a run last went well.
    pub last_success: Option<Timestamp>,
    /// Why the last run failed; none after one that went well.
    pub last_error: Option<String>,
    /// When a `failure` notice was last written of it; none after a run that went well.
    pub failure_told: Option<Timestamp>,
}

/// Why a tenant or a stream failed in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words, for its log line and its notice.
    pub text: String,
    /// What stands behind it: the same for all that it hits.
    pub cause: String,
    /// The API's error code, where there is one.
    pub code: Option<String>,
}

impl Failure {
    /// A failure that only this one can have.
    #[must_use]
    pub fn of(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { cause: text.clone(), text, code: None }
    }
}

/// How a run ended for a tenant or a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was done to its end.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// Its own credentials can't be used, which a notice of another kind tells.
    Misconfigured(String),
    /// The run did not get to it, or not to its end.
    #[default]
    Open,
}

/// A tenant as a whole, or one of its streams, at the end of a run.
#[derive(Debug)]
pub struct Part<'a> {
    /// The tenant as configured.
    pub tenant_id: &'a str,
    /// The stream; none for the tenant as a whole.
    pub content_type: Option<ContentType>,
    /// What it is called, where it is a backfill of that stream.
    pub backfill: Option<String>,
    /// What the state knows of it.
    pub health: &'a mut Health,
    /// How it ended.
    pub outcome: Outcome,
}

impl Part<'_> {
    /// A text about it, which says if it is not the live stream's.
    fn told(&self, text: &str) -> String {
        self.backfill.as_ref().map_or(text.to_owned(), |backfill| format!("{backfill}: {text}"))
    }
}

/// Whether something that is told once a day is to be told now. A time that lies ahead was taken
/// from a clock that was wrong.
#[must_use]
pub fn is_due(told: Option<Timestamp>, now: Timestamp) -> bool {
    told.is_none_or(|at| !(0..DAY).contains(&now.since(at)))
}

/// Takes a run's outcomes down, and gives the `failure` and `recovered` notices that they call for.
pub fn judge(parts: &mut [Part<'_>], now: Timestamp) -> Vec<Notice> {
    let mut recovered = Vec::new();
    let mut failing: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (n, part) in parts.iter_mut().enumerate() {
        let text = match &part.outcome {
            Outcome::Open => continue,
            Outcome::Succeeded => {
                let told = part.health.failure_told.is_some();
                *part.health = Health { last_success: Some(now), ..Health::default() };
                if told {
                    recovered.push(n);
                }
                continue;
            }
            Outcome::Failed(failure) => &failure.text,
            Outcome::Misconfigured(text) => text,
        };
        part.health.failures = part.health.failures.saturating_add(1);
        part.health.last_error = Some(text.clone());
        if let Outcome::Failed(failure) = &part.outcome
            && part.health.failures >= TOLD_FROM
        {
            failing.entry(failure.cause.clone()).or_default().push(n);
        }
    }
    let mut notices = Vec::new();
    for (cause, group) in &failing {
        failures(parts, cause, group, now, &mut notices);
    }
    let tenants = tenants_of(parts, &recovered);
    if tenants.len() > MOST_TOLD_APART {
        let text = format!("{} no longer fail", named(&tenants));
        notices.push(Notice::new(Kind::Recovered, "", None, text));
    } else {
        for part in recovered.iter().filter_map(|n| parts.get(*n)) {
            let text = part.told(
                "it works again; what became available meanwhile has been listed, or will be",
            );
            notices.push(Notice::new(Kind::Recovered, part.tenant_id, part.content_type, text));
        }
    }
    notices
}

/// The notices of those that fail for one cause.
fn failures(
    parts: &mut [Part<'_>],
    cause: &str,
    group: &[usize],
    now: Timestamp,
    notices: &mut Vec<Notice>,
) {
    let tenants = tenants_of(parts, group);
    let together = (tenants.len() > MOST_TOLD_APART).then(|| {
        let code = group.iter().filter_map(|n| parts.get(*n)).find_map(code_of);
        let text = format!("{} fail for one cause: {cause}", named(&tenants));
        Notice::new(Kind::Failure, "", None, text).code(code)
    });
    let due = |part: &Part<'_>| is_due(part.health.failure_told, now);
    let any_due = group.iter().filter_map(|n| parts.get(*n)).any(due);
    for n in group {
        let Some(part) = parts.get_mut(*n) else {
            continue;
        };
        if let (Outcome::Failed(failure), true, None) = (&part.outcome, due(part), &together) {
            let text = part.told(&failure.text);
            let notice = Notice::new(Kind::Failure, part.tenant_id, part.content_type, text);
            notices.push(notice.code(failure.code.clone()));
            part.health.failure_told = Some(now);
        }
        if together.is_some() && any_due {
            part.health.failure_told = Some(now);
        }
    }
    notices.extend(together.filter(|_| any_due));
}

fn code_of(part: &Part<'_>) -> Option<String> {
    match &part.outcome {
        Outcome::Failed(failure) => failure.code.clone(),
        _ => None,
    }
}

fn tenants_of(parts: &[Part<'_>], group: &[usize]) -> BTreeSet<String> {
    group.iter().filter_map(|n| parts.get(*n)).map(|part| part.tenant_id.to_owned()).collect()
}

/// What is told of tenants that have one thing in common, each with the tenant it is about: of few
/// each by itself, of many once for all.
#[must_use]
pub fn together(tenants: &BTreeSet<String>, text: &str) -> Vec<(String, String)> {
    if tenants.len() > MOST_TOLD_APART {
        return vec![(String::new(), format!("{}: {text}", named(tenants)))];
    }
    tenants.iter().map(|tenant_id| (tenant_id.clone(), text.to_owned())).collect()
}

/// `7 tenants (a, b, …)`.
fn named(tenants: &BTreeSet<String>) -> String {
    let mut names: Vec<&str> = tenants.iter().take(MOST_NAMED).map(String::as_str).collect();
    if tenants.len() > MOST_NAMED {
        names.push("…");
    }
    format!("{} tenants ({})", tenants.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::{HOUR, MINUTE};

    const STREAM: Option<ContentType> = Some(ContentType::General);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds)
    }

    fn failed(cause: &str) -> Outcome {
        let failure = Failure {
            text: format!("content can't be listed: {cause}"),
            cause: cause.to_owned(),
            code: Some("AF1".to_owned()),
        };
        Outcome::Failed(failure)
    }

    /// One run in which each of `outcomes` is that of a tenant's stream; what is told, in short.
    fn run(healths: &mut [Health], outcomes: &[Outcome], now: Timestamp) -> Vec<String> {
        let names: Vec<_> = (0..healths.len()).map(|n| format!("t{n:02}")).collect();
        let mut parts: Vec<_> = std::iter::zip(healths, outcomes)
            .zip(&names)
            .map(|((health, outcome), tenant_id)| Part {
                tenant_id,
                content_type: STREAM,
                backfill: None,
                health,
                outcome: outcome.clone(),
            })
            .collect();
        let told = judge(&mut parts, now);
        told.iter()
            .map(|n| {
                format!("{:?} {} {} {}", n.notice, n.tenant_id, n.subscription_name, n.response)
            })
            .collect()
    }

    #[test]
    fn the_third_failure_in_a_row_is_told_then_once_a_day_then_the_recovery() {
        let mut health = [Health::default()];
        let told = "Failure t00 Audit.General content can't be listed: x";
        let (bad, good) = ([failed("x")], [Outcome::Succeeded]);
        for (when, outcome, expected) in [
            (0, &bad, vec![]),
            (1, &bad, vec![]),
            (2, &[Outcome::Open], vec![]),
            (3, &bad, vec![told]),
            (4, &bad, vec![]),
            (23 * HOUR, &bad, vec![]),
            (25 * HOUR, &bad, vec![told]),
            (26 * HOUR, &bad, vec![]),
            // The clock was wrong, and is put right.
            (-HOUR, &bad, vec![told]),
        ] {
            assert_eq!(run(&mut health, outcome, at(when)), expected, "{when}");
        }
        assert_eq!(health[0].failures, 8);
        let recovered = run(&mut health, &good, at(0));
        assert!(recovered[0].starts_with("Recovered t00 Audit.General it works again"));
        assert_eq!(health[0], Health { last_success: Some(at(0)), ..Health::default() });
        // One that was never told has nothing to recover from.
        for outcome in [&bad, &bad, &good] {
            assert_eq!(run(&mut health, outcome, at(1)), [""; 0]);
        }
    }

    #[test]
    fn one_cause_of_many_tenants_is_told_once() {
        let mut healths = vec![Health::default(); 12];
        let bad = vec![failed("the proxy is dead"); 12];
        for minute in 0..2 {
            assert_eq!(run(&mut healths, &bad, at(minute * MINUTE)), [""; 0]);
        }
        let told = run(&mut healths, &bad, at(2 * MINUTE));
        assert_eq!(
            told,
            [
                "Failure   12 tenants (t00, t01, t02, t03, t04, t05, t06, t07, t08, t09, …) fail for \
              one cause: the proxy is dead"
            ]
        );
        assert_eq!(run(&mut healths, &bad, at(3 * MINUTE)), [""; 0]);
        assert_eq!(run(&mut healths, &bad, at(3 * DAY)).len(), 1, "once a day");
        let told = run(&mut healths, &vec![Outcome::Succeeded; 12], at(3 * DAY));
        assert_eq!(told.len(), 1);
        assert!(told[0].ends_with("…) no longer fail"), "{told:?}");
    }

    #[test]
    fn few_tenants_and_several_causes_are_told_apart() {
        let mut healths = vec![Health::default(); 12];
        let mut bad = vec![failed("a"); 5];
        bad.extend((0..7).map(|n| failed(&format!("b{n}"))));
        run(&mut healths, &bad, at(0));
        run(&mut healths, &bad, at(1));
        assert_eq!(run(&mut healths, &bad, at(2)).len(), 12);
        assert_eq!(run(&mut healths, &bad, at(3)), [""; 0]);
    }

    #[test]
    fn what_a_configuration_notice_tells_is_told_by_no_other() {
        let mut healths = [Health::default()];
        let bad = [Outcome::Misconfigured("client_secret_path: x".to_owned())];
        for n in 0..5 {
            assert_eq!(run(&mut healths, &bad, at(n)), [""; 0]);
        }
        assert_eq!(healths[0].failures, 5);
        assert_eq!(run(&mut healths, &[Outcome::Succeeded], at(9)), [""; 0]);
    }
}
