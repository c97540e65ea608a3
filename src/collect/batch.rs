//! A blob's lines on their way from the splitter to the output.

use std::ops::Range;

use crate::api::shown;
use crate::content::ContentType;
use crate::event::{Gap, Unusable, append_line};
use crate::records::Element;

/// Lines are gathered up to this many bytes before they are written.
const FULL: usize = 64 << 10;

/// Lines of one blob, gathered for one write.
pub(super) struct Batch<'a> {
    pub(super) tenant_id: &'a str,
    pub(super) content_type: ContentType,
    pub(super) lines: Vec<u8>,
    pub(super) events: u64,
    /// The last element that has an `Id`: its number, and where in `lines` its `Id` stands.
    pub(super) mark: Option<(u64, Range<usize>)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(tenant_id: &'a str, content_type: ContentType) -> Self {
        Self { tenant_id, content_type, lines: Vec::new(), events: 0, mark: None }
    }

    /// Adds the line of the `index`-th element; one that can't be an event becomes a gap notice.
    pub(super) fn add(&mut self, element: &Element<'_>, index: u64, content_id: &str) {
        let why = match element {
            Element::Record(record) => {
                match append_line(record, self.content_type, &mut self.lines) {
                    Ok(id) => {
                        self.events += 1;
                        if let Some(id) = id {
                            self.mark = Some((index, id));
                        }
                        return;
                    }
                    Err(Unusable::NoObject) => "is no JSON object".to_owned(),
                    Err(Unusable::Malformed(at)) => format!("is no valid JSON (at its byte {at})"),
                }
            }
            Element::TooLarge(size) => format!("has {size} bytes, more than are taken"),
        };
        let gap = Gap {
            reason: format!("record {index} of content {} {why}", shown(content_id)),
            code: None,
            window: None,
            content_id: Some(content_id.to_owned()),
        };
        log::error!("{} {}: an event is lost: {}", self.tenant_id, self.content_type, gap.reason);
        self.lines.extend_from_slice(&gap.line(self.tenant_id, self.content_type));
    }

    /// The `Id` of an element, as it would be marked.
    pub(super) fn id_of(&self, element: &Element<'_>) -> Option<String> {
        let Element::Record(record) = element else {
            return None;
        };
        let mut line = Vec::new();
        let id = append_line(record, self.content_type, &mut line).ok()??;
        line.get(id).map(|id| String::from_utf8_lossy(id).into_owned())
    }

    /// How far the blob is written with this batch: the number of elements and the last's `Id`.
    pub(super) fn mark(&self) -> Option<(u64, String)> {
        let (index, id) = self.mark.clone()?;
        let id = self.lines.get(id)?;
        Some((index, String::from_utf8_lossy(id).into_owned()))
    }

    /// Whether it is time to write them.
    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= FULL
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.events = 0;
        self.mark = None;
    }
}
