//! What `check` found, and how it is shown: a line each.

use std::fmt::Write as _;

use log::Level;
use serde::Serialize;

use crate::content::ContentType;
use crate::terminal::Colours;
use crate::words::{of, one_line};

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// As it should be.
    Ok,
    /// Worth a look, though polls work.
    Warning,
    /// Wrong.
    Failure,
    /// Not looked at, because of something else that is wrong.
    Skipped,
}

impl Mark {
    /// As it stands in front of a line.
    fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Warning => "warn",
            Self::Failure => "FAIL",
            Self::Skipped => "-   ",
        }
    }
}

/// The colours of the marks on a terminal.
pub const COLOURS: Colours =
    &[("ok  ", "\x1b[32m"), ("warn", "\x1b[33m"), ("FAIL", "\x1b[1;31m"), ("-   ", "\x1b[2m")];

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    /// What was looked at.
    pub(super) check: &'static str,
    pub(super) tenant_id: Option<String>,
    pub(super) content_type: Option<ContentType>,
    /// What was found; where it is wrong also what that means, and what to do.
    pub(super) text: String,
    /// The code that stands behind it, if there is one.
    pub(super) code: Option<String>,
}

/// What was found, of a tenant or in general.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) tenant_id: Option<String>,
    /// The tenant's GUID, once it is known.
    pub(super) guid: Option<String>,
    pub(super) all: Vec<Finding>,
}

impl Findings {
    pub(super) fn of(tenant_id: &str) -> Self {
        Self { tenant_id: Some(tenant_id.to_owned()), ..Self::default() }
    }

    fn add(&mut self, mark: Mark, check: &'static str, text: &str) -> &mut Self {
        let (tenant_id, content_type, code) = (self.tenant_id.clone(), None, None);
        let text = one_line(text);
        self.all.push(Finding { mark, check, tenant_id, content_type, text, code });
        self
    }

    /// The last one is of this stream.
    pub(super) fn in_stream(&mut self, content_type: ContentType) -> &mut Self {
        if let Some(last) = self.all.last_mut() {
            last.content_type = Some(content_type);
        }
        self
    }

    /// Behind the last one stands this code.
    pub(super) fn with_code(&mut self, code: Option<String>) -> &mut Self {
        if let Some(last) = self.all.last_mut() {
            last.code = code;
        }
        self
    }

    pub(super) fn ok(&mut self, check: &'static str, text: impl AsRef<str>) -> &mut Self {
        self.add(Mark::Ok, check, text.as_ref())
    }

    pub(super) fn warning(&mut self, check: &'static str, text: impl AsRef<str>) -> &mut Self {
        self.add(Mark::Warning, check, text.as_ref())
    }

    pub(super) fn failure(&mut self, check: &'static str, text: impl AsRef<str>) -> &mut Self {
        self.add(Mark::Failure, check, text.as_ref())
    }

    pub(super) fn skipped(&mut self, check: &'static str, text: impl AsRef<str>) -> &mut Self {
        self.add(Mark::Skipped, check, text.as_ref())
    }

    fn count(&self, mark: Mark) -> usize {
        self.all.iter().filter(|finding| finding.mark == mark).count()
    }
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) general: Findings,
    pub(super) tenants: Vec<Findings>,
}

#[derive(Serialize)]
struct Machine<'a> {
    ok: bool,
    failures: usize,
    warnings: usize,
    findings: Vec<&'a Finding>,
}

impl Report {
    pub(super) fn of(general: Findings) -> Self {
        Self { general, tenants: Vec::new() }
    }

    fn groups(&self) -> impl Iterator<Item = &Findings> {
        std::iter::once(&self.general).chain(&self.tenants)
    }

    fn count(&self, mark: Mark) -> usize {
        self.groups().map(|group| group.count(mark)).sum()
    }

    pub(super) fn failures(&self) -> usize {
        self.count(Mark::Failure)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let names = self.groups().flat_map(|group| &group.all).map(|finding| finding.check.len());
        let width = names.max().unwrap_or_default();
        for group in self.groups() {
            if let Some(tenant_id) = &group.tenant_id {
                let _ = writeln!(text, "\ntenant {tenant_id}");
            }
            for finding in &group.all {
                let (mark, what) = (finding.mark.shown(), finding.whose());
                let Finding { check, text: found, .. } = finding;
                let _ = writeln!(text, "{mark}  {check:width$}  {what}{found}");
            }
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    /// For machines.
    pub(super) fn json(&self) -> String {
        let failures = self.failures();
        let machine = Machine {
            ok: failures == 0,
            failures,
            warnings: self.count(Mark::Warning),
            findings: self.groups().flat_map(|group| &group.all).collect(),
        };
        serde_json::to_string_pretty(&machine).unwrap_or_default() + "\n"
    }

    /// Puts into the log what is not well.
    pub(super) fn log(&self) {
        for finding in self.groups().flat_map(|group| &group.all) {
            let level = match finding.mark {
                Mark::Ok | Mark::Skipped => continue,
                Mark::Warning => Level::Warn,
                Mark::Failure => Level::Error,
            };
            log::log!(level, "check: {}: {}{}", finding.check, finding.whose(), finding.text);
        }
        log::info!("check: {}", self.summary());
    }

    fn summary(&self) -> String {
        let count = |mark| self.count(mark) as u64;
        let failures = of(count(Mark::Failure), "failure");
        format!("{failures}, {}", of(count(Mark::Warning), "warning"))
    }
}

impl Finding {
    /// Whose it is, where that must be said: a line that is not well may be read alone.
    fn whose(&self) -> String {
        let tenant_id = self.tenant_id.as_ref();
        let tenant_id = tenant_id.filter(|_| matches!(self.mark, Mark::Warning | Mark::Failure));
        match (tenant_id, self.content_type) {
            (Some(tenant_id), Some(content_type)) => format!("{tenant_id} {content_type}: "),
            (Some(tenant_id), None) => format!("{tenant_id}: "),
            (None, Some(content_type)) => format!("{content_type}: "),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_each_and_counts() {
        let mut general = Findings::default();
        general.ok("configuration", "good");
        let mut tenant = Findings::of("t");
        tenant.failure("login", "bad\n\x1b[31m").with_code(Some("AADSTS1".to_owned()));
        tenant.warning("state", "late").in_stream(ContentType::Dlp);
        tenant.skipped("roles", "not looked at");
        let mut report = Report::of(general);
        report.tenants.push(tenant);
        assert_eq!(
            report.text(),
            "ok    configuration  good\n\ntenant t\nFAIL  login          t: bad\\n\\u{1b}[31m\n\
             warn  state          t DLP.All: late\n-     roles          not looked at\n\n\
             1 failure, 1 warning\n"
        );
        for mark in [Mark::Ok, Mark::Warning, Mark::Failure, Mark::Skipped] {
            assert!(COLOURS.iter().any(|(text, _)| *text == mark.shown()));
        }
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["ok"], &json["failures"]), (&false.into(), &1.into()));
        assert_eq!(json["findings"][1]["code"], "AADSTS1");
        assert_eq!(json["findings"][2]["content_type"], "DLP.All");
        assert_eq!(json["findings"][0]["mark"], "ok");
    }
}
