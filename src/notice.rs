//! Notices: the lines about ourselves. They have the form of the failure event of Wazuh's own
//! module, so that its rule 91648 fires on them.

use serde::{Deserialize, Serialize};

use crate::content::ContentType;
use crate::event::as_kept;
use crate::timestamp::Timestamp;

/// What a notice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A tenant or a stream has failed for a while.
    Failure,
    /// It no longer does.
    Recovered,
    /// Events are lost for sure.
    Gap,
    /// A stream is so late that events may get lost.
    Behind,
    /// The configuration, or another file that we need, can't be used.
    Configuration,
}

/// No notice says more, in characters: even escaped it is then a line that Wazuh doesn't cut.
const MOST_RESPONSE: usize = 8_000;

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The tenant as configured; empty where it is about several, or about none.
    pub tenant_id: String,
    /// The content type; empty where it is about the tenant as a whole.
    pub subscription_name: String,
    /// What it tells.
    pub notice: Kind,
    /// In words: what happened, what it means, what to do.
    pub response: String,
    /// The API's error code, where one stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Since when events are missing, where it is a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Until when they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// The content blob that is missing, or that held what is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    integration: &'a str,
    office365: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    actor: &'a str,
    #[serde(flatten)]
    notice: &'a Notice,
}

impl Notice {
    /// A notice about a tenant, or about one of its streams.
    #[must_use]
    pub fn new(
        kind: Kind,
        tenant_id: &str,
        content_type: Option<ContentType>,
        response: impl Into<String>,
    ) -> Self {
        let mut response = response.into();
        if let Some((end, _)) = response.char_indices().nth(MOST_RESPONSE) {
            response.truncate(end);
            response.push('…');
        }
        Self {
            tenant_id: tenant_id.to_owned(),
            subscription_name: content_type.map_or("", ContentType::name).to_owned(),
            notice: kind,
            response,
            code: None,
            from: None,
            to: None,
            content_id: None,
        }
    }

    /// With the API's error code.
    #[must_use]
    pub fn code(self, code: Option<String>) -> Self {
        Self { code, ..self }
    }

    /// With the time of which events are missing.
    #[must_use]
    pub fn window(self, from: Timestamp, to: Timestamp) -> Self {
        Self { from: Some(from), to: Some(to), ..self }
    }

    /// With the content blob concerned.
    #[must_use]
    pub fn content(self, content_id: &str) -> Self {
        Self { content_id: Some(content_id.to_owned()), ..self }
    }

    /// The line, its newline included.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let kept = |text: &String| as_kept(text).into_owned();
        let notice = Self {
            tenant_id: kept(&self.tenant_id),
            response: kept(&self.response),
            code: self.code.as_ref().map(kept),
            content_id: self.content_id.as_ref().map(kept),
            ..self.clone()
        };
        let office365 = Inner { actor: "wazuh", notice: &notice };
        let line = Envelope { integration: "office365", office365 };
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_there_is_to_say_is_a_line_that_is_not_cut() {
        let name = "\u{1}".repeat(253);
        let text = "\u{1}".repeat(1 << 20);
        let id = "\u{1}".repeat(1024);
        let notice = Notice::new(Kind::Failure, &name, None, text).content(&id);
        assert!(notice.line().len() <= 64_512, "{}", notice.line().len());
        assert!(notice.response.ends_with('…'));
        assert_eq!(Notice::new(Kind::Gap, "t", None, "short").response, "short");
    }

    #[test]
    fn what_wazuh_would_read_as_a_list_stays_text() {
        let notice = Notice::new(Kind::Failure, "[1]", None, "[{}]").content("x\0y");
        let notice = notice.code(Some("[]".to_owned()));
        let line = String::from_utf8(notice.line()).unwrap();
        for text in [r#":" [1]""#, r#":" [{}]""#, "\"x\u{fffd}y\"", r#":" []""#] {
            assert!(line.contains(text), "{text}: {line}");
        }
    }

    #[test]
    fn a_notice_has_the_native_form_and_survives_the_state() {
        let gap = Notice::new(Kind::Gap, "tenant", Some(ContentType::General), "gone")
            .code(Some("AF20051".to_owned()))
            .window(Timestamp::from_unix(0), Timestamp::from_unix(60))
            .content("a$b");
        assert_eq!(
            String::from_utf8(gap.line()).unwrap(),
            "{\"integration\":\"office365\",\"office365\":{\"actor\":\"wazuh\",\
             \"tenant_id\":\"tenant\",\"subscription_name\":\"Audit.General\",\"notice\":\"gap\",\
             \"response\":\"gone\",\"code\":\"AF20051\",\"from\":\"1970-01-01T00:00:00Z\",\
             \"to\":\"1970-01-01T00:01:00Z\",\"content_id\":\"a$b\"}}\n"
        );
        let text = serde_json::to_string(&gap).unwrap();
        assert_eq!(serde_json::from_str::<Notice>(&text).unwrap(), gap);
        let whole = Notice::new(Kind::Failure, "tenant", None, "x\ny");
        let line = String::from_utf8(whole.line()).unwrap();
        assert!(line.contains(r#""subscription_name":"","notice":"failure","response":"x\ny"}}"#));
    }
}
