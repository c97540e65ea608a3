//! Foreign text in our messages: on one line, bounded, and without our secrets.

use crate::secret::Secret;

/// How much of a foreign text goes into a message, in characters.
const MOST_TEXT: usize = 500;

/// The words of a foreign text, parted by single blanks.
fn words(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// The beginning of a foreign text on one line, for a message.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut line = words(text);
    if let Some((end, _)) = line.char_indices().nth(MOST_TEXT) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Secrets that a foreign text may show us: a gateway's page quotes the request that it refused.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a>(pub &'a [Secret]);

/// What stands before a secret in a request, and so in what quotes one.
const MARKS: [&str; 3] = ["client_secret", "client_assertion", "bearer"];

/// No secret is shorter than this that stands behind `Bearer`; `token` and the like are words.
const LEAST_TOKEN: usize = 16;

impl Hidden<'_> {
    /// The beginning of a foreign text on one line, without the secrets: neither in any usual
    /// spelling, nor whatever else stands where they stood in the request.
    #[must_use]
    pub fn excerpt(&self, text: &str) -> String {
        // Words first: a page may be wrapped at a blank of the secret.
        let mut text = words(text);
        for secret in self.0 {
            for spelling in secret.spellings() {
                let spelling = words(&spelling);
                if !spelling.is_empty() && text.contains(&spelling) {
                    text = text.replace(&spelling, "(secret)");
                }
            }
        }
        if let Some(end) = quoted(&text) {
            text.truncate(end);
            text.push_str(" (the rest quotes our request)");
        }
        excerpt(&text)
    }
}

/// Where a text begins to quote the value of a secret, in whatever spelling.
fn quoted(text: &str) -> Option<usize> {
    // The same length, so that places are the same.
    let lower = text.to_ascii_lowercase();
    let ends = |mark: &'static str| {
        lower.match_indices(mark).map(move |(at, _)| (at + mark.len(), mark == "bearer"))
    };
    let mut ends: Vec<_> = MARKS.into_iter().flat_map(ends).collect();
    ends.sort_unstable();
    let shows = |(end, is_bearer): &(usize, bool)| {
        let rest = text.get(*end..).unwrap_or_default();
        let value = rest.trim_start_matches(['"', '\'', '\\', ' ', '=', ':']);
        let value = value.strip_prefix("%3D").or(value.strip_prefix("%3d")).unwrap_or(value);
        let between = rest.get(..rest.len() - value.len()).unwrap_or_default();
        if value.is_empty() || value.starts_with("(secret)") {
            return false;
        }
        let word = value.split([' ', '<']).next().unwrap_or_default();
        if *is_bearer { word.len() >= LEAST_TOKEN } else { between.contains(['=', ':', '%']) }
    };
    ends.into_iter().find(shows).map(|(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        assert_eq!(excerpt(" a\r\n\tb\u{1b}[31m "), "a b [31m");
        assert_eq!(excerpt(&"é".repeat(600)).chars().count(), MOST_TEXT + 1);
    }

    #[test]
    fn secrets_are_hidden_where_a_page_is_wrapped_inside_of_them() {
        let secrets = [Secret::new("open  sesame now"), Secret::new(" \n")];
        for page in ["<p>open  sesame now</p>", "<p>open\r\nsesame\0 now</p>"] {
            assert_eq!(Hidden(&secrets).excerpt(page), "<p>(secret)</p>", "{page:?}");
        }
    }

    #[test]
    fn secrets_are_hidden_in_every_usual_spelling() {
        let secrets = [Secret::new("S3cr+t&val%41 \"/\\é<")];
        for spelt in [
            "S3cr+t&val%41 \"/\\é<",
            "S3cr%2Bt%26val%2541%20%22%2F%5C%C3%A9%3C",
            "S3cr%2bt%26val%2541%20%22%2f%5c%c3%a9%3c",
            "S3cr%2Bt%26val%2541+%22%2F%5C%C3%A9%3C",
            "S3cr%252Bt%2526val%252541%2520%2522%252F%255C%25C3%25A9%253C",
            "S3cr+t&amp;val%41 &quot;/\\é&lt;",
            "S3cr+t&val%41 \\\"/\\\\é<",
            "S3cr+t&val%41 \\\"\\/\\\\é<",
            "UzNjcit0JnZhbCU0MSAiL1zDqTw=",
        ] {
            let shown = Hidden(&secrets).excerpt(&format!("you sent {spelt}, no?"));
            assert_eq!(shown, "you sent (secret), no?", "{spelt}");
        }
        // A token in parts.
        let parts =
            ["e30eyJhbGciOiJQUzI1NiJ9", "eyJpc3MiOiJjIiwic3ViIjoiYyJ9", "c2lnbmF0dXJlb2Zhand0"];
        let token = [Secret::new(parts.join("."))];
        for part in parts {
            assert_eq!(Hidden(&token).excerpt(part), "(secret)");
        }
    }

    #[test]
    fn what_quotes_a_request_is_shown_up_to_there() {
        let rest = " (the rest quotes our request)";
        let hidden = Hidden(&[]);
        for (page, shown) in [
            ("<p>client_id=1&client_secret=S3cr%2Bt%26va", Some("<p>client_id=1&client_secret")),
            ("{\"Client_Secret\" : \"abc\"}", Some("{\"Client_Secret")),
            ("client_assertion%3Deyj", Some("client_assertion")),
            ("Authorization: Bearer eyJ0eXAiOiJKV1QiLCJh.x", Some("Authorization: Bearer")),
            ("client_assertion_type=urn:x", None),
            ("'client_assertion', 'client_secret' or 'request' is required", None),
            ("AADSTS7000215: Invalid client secret provided.", None),
            ("The bearer token is invalid, bearer: none", None),
            ("client_secret=(secret)&x", None),
            ("client_secret=", None),
        ] {
            let expected = shown.map_or(page.to_owned(), |shown| format!("{shown}{rest}"));
            assert_eq!(hidden.excerpt(page), expected);
        }
    }
}
