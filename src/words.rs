//! Foreign text in our messages: on one line, bounded, and without our secrets.

use std::borrow::Cow;
use std::fmt::Write as _;

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

/// The longest message, in bytes: what comes from outside is cut before it gets there, mostly.
const MOST_MESSAGE: usize = 8 * 1024;

/// Whether a terminal, or what shows a text, obeys a character instead of showing it: controls (C0, DEL,
/// C1), line and paragraph separators, and what turns the direction of writing.
fn is_obeyed(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || turns
}

/// A text as a terminal may get it: what it would obey, except for line breaks, becomes `\uXXXX`. In a JSON
/// text such characters are inside of strings, so it stays JSON.
#[must_use]
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| c != '\n' && is_obeyed(c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if is_escaped(c) {
            // All of them have four digits at most.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A message with control characters escaped: nobody may forge a line of the log, or write to a
/// terminal what it obeys.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if line.len() >= MOST_MESSAGE {
            line.push('…');
            break;
        }
        if is_obeyed(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// So many of something, in words: `1 blob`, `5 blobs`.
#[must_use]
pub fn of(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Whether two names differ by so little that one was surely meant for the other: one letter
/// changed, added or left out, or two exchanged.
#[must_use]
pub fn alike(a: &str, b: &str) -> bool {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let (a, b) = (plain(a), plain(b));
    let same = |(x, y): &(u8, u8)| x == y;
    let front = a.bytes().zip(b.bytes()).take_while(same).count();
    let back = a.bytes().rev().zip(b.bytes().rev()).take_while(same).count();
    let longest = a.len().max(b.len());
    let common = (front + back).min(longest);
    longest - common <= 2 && common * 2 >= longest && a.len().abs_diff(b.len()) <= 2
}

/// Secrets that a foreign text may show us: a gateway's page quotes the request that it refused.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a>(pub &'a [Secret]);

/// What stands before a secret in a request, and so in what quotes one.
const MARKS: [&str; 3] = ["client_secret", "client_assertion", "bearer"];

/// No secret is shorter than this that stands behind `Bearer`; `token` and the like are words.
const LEAST_TOKEN: usize = 16;

/// How much of a text is searched for secrets, in bytes: what is shown ends long before, and so does a token
/// that begins in it.
const MAX_LOOKED_AT: usize = 64 << 10;

impl Hidden<'_> {
    /// The beginning of a foreign text on one line, without the secrets: neither in any usual
    /// spelling, nor whatever else stands where they stood in the request.
    #[must_use]
    pub fn excerpt(&self, text: &str) -> String {
        let mut end = text.len().min(MAX_LOOKED_AT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        excerpt(&self.redacted(text).unwrap_or_else(|| text.to_owned()))
    }

    /// A foreign text as it is, such as an id or an address; one that quotes a secret as its
    /// [`excerpt`](Self::excerpt).
    #[must_use]
    pub fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.redacted(text).map_or(Cow::Borrowed(text), |text| Cow::Owned(excerpt(&text)))
    }

    /// The words of a text without the secrets in it; none if there are none.
    fn redacted(&self, text: &str) -> Option<String> {
        // Words first: a page may be wrapped at a blank of the secret.
        let mut text = words(text);
        let mut found = false;
        for secret in self.0 {
            for spelling in secret.spellings() {
                let spelling = words(&spelling);
                if !spelling.is_empty() && text.contains(&spelling) {
                    text = text.replace(&spelling, "(secret)");
                    found = true;
                }
            }
        }
        if self.is_hidden_in(&text) {
            return Some("(not shown: it quotes our request)".to_owned());
        }
        if let Some(end) = quoted(&text) {
            text.truncate(end);
            text.push_str(" (the rest quotes our request)");
            found = true;
        }
        found.then_some(text)
    }

    /// Whether a secret shows once what is encoded is decoded, in whatever ways and mixtures.
    fn is_hidden_in(&self, text: &str) -> bool {
        let secrets = self.0.iter().map(Secret::reveal);
        let secrets = secrets.filter(|secret| secret.len() >= LEAST_TOKEN / 2);
        let secrets: Vec<_> =
            secrets.map(|secret| (words(secret), words(&decoded(secret)))).collect();
        let mut text = text.to_owned();
        for _ in 0..MOST_LAYERS {
            text = words(&decoded(&text));
            if secrets.iter().any(|(as_is, too)| text.contains(as_is) || text.contains(too)) {
                return true;
            }
        }
        false
    }
}

/// So many encodings one above the other are looked through.
const MOST_LAYERS: usize = 3;

/// A text without percent-encoding, entities of HTML and escapes of JSON and JavaScript.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (c, length) = escape(rest).unwrap_or((first, first.len_utf8()));
        // A percent-encoded byte may be a part of a character.
        match u8::try_from(c) {
            Ok(byte) if rest.starts_with('%') => bytes.push(byte),
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The character that an escape at the beginning of a text stands for, and the escape's length.
fn escape(text: &str) -> Option<(char, usize)> {
    let number = |digits: &str, radix| char::from_u32(u32::from_str_radix(digits, radix).ok()?);
    let hex = |from: usize, to: usize| Some((number(text.get(from..to)?, 16)?, to));
    match text.as_bytes() {
        [b'%', ..] => hex(1, 3),
        [b'\\', b'u', ..] => hex(2, 6),
        [b'\\', b'x', ..] => hex(2, 4),
        [b'\\', c @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((char::from(*c), 2)),
        [b'&', ..] => {
            let end = text.bytes().take(12).position(|b| b == b';')?;
            let name = text.get(1..end)?;
            let c = match (name, name.strip_prefix('#')) {
                ("amp", _) => '&',
                ("lt", _) => '<',
                ("gt", _) => '>',
                ("quot", _) => '"',
                ("apos", _) => '\'',
                (_, Some(digits)) => match digits.strip_prefix(['x', 'X']) {
                    Some(digits) => number(digits, 16)?,
                    None => number(digits, 10)?,
                },
                _ => return None,
            };
            Some((c, end + 1))
        }
        _ => None,
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
    fn what_is_alike_differs_by_a_slip_of_the_finger() {
        for (a, b) in [("status", "stauts"), ("dry-run", "dryrun"), ("to", "t"), ("a_b", "A-b")] {
            assert!(alike(a, b), "{a} {b}");
        }
        for (a, b) in [("to", "x"), ("to", "from"), ("json", "start"), ("home", "host-name")] {
            assert!(!alike(a, b), "{a} {b}");
        }
        assert_eq!((of(1, "blob"), of(0, "blob")), ("1 blob".to_owned(), "0 blobs".to_owned()));
    }

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
    fn a_text_that_shows_a_secret_once_it_is_decoded_is_not_shown() {
        let secrets = [Secret::new("Ab8Q~x.y+Z/12=tail_-\"<é")];
        for page in [
            "value Ab8Q~x.y&#43;Z/12&#61;tail_-&#34;&lt;é is not allowed",
            "Ab8Q&#x7e;x&#x2E;y&#X2b;Z&#x2f;12&#x3d;tail&#x5f;&#x2d;&#x22;&#x3c;&#xe9;",
            r#"Ab8Q\x7ex.y\x2bZ\/12\u003dtail_-\"\u003cé"#,
            "%41%62%38%51%7e%78%2e%79%2b%5a%2f%31%32%3d%74%61%69%6c%5f%2d%22%3c%c3%a9",
            "Ab8Q~x.y&#37;2BZ&#37;2F12&#37;3Dtail_-&#37;22&#37;3C&#37;C3&#37;A9",
        ] {
            let shown = Hidden(&secrets).excerpt(page);
            assert_eq!(shown, "(not shown: it quotes our request)", "{page}");
        }
        for text in ["100 % &#38; &nosuch; \\q \\u12 &#xffffffff; %zz %", "plain", ""] {
            assert_eq!(Hidden(&secrets).excerpt(text), text);
        }
        // One whose own characters look like an escape.
        let secrets = [Secret::new("abc%41def&amp;g")];
        assert!(Hidden(&secrets).excerpt("abc&#37;41def&#38;amp;g").starts_with("(not shown"));
    }

    #[test]
    fn an_id_is_shown_as_it_is_unless_it_quotes_a_secret() {
        let secrets = [Secret::new("S3cr+t&val%41"), Secret::new("another~one")];
        for id in ["2026$a$b", "with  two blanks\n", &"x".repeat(2000)] {
            assert!(matches!(Hidden(&secrets).shown(id), Cow::Borrowed(same) if same == id));
        }
        for (id, shown) in [
            ("a$S3cr+t&val%41$another~one", "a$(secret)$(secret)"),
            ("https://h/S3cr%2Bt%26val%2541/x", "https://h/(secret)/x"),
            ("%53%33cr%2Bt%26val%2541", "(not shown: it quotes our request)"),
        ] {
            assert_eq!(Hidden(&secrets).shown(id), shown);
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

    #[test]
    fn a_terminal_gets_nothing_that_it_obeys() {
        let plain = "ü\u{200b} line\nnext é ✓\n";
        assert!(matches!(for_terminal(plain), Cow::Borrowed(text) if text == plain));
        let is_shown = |c: char| for_terminal(c.encode_utf8(&mut [0; 4])) == c.to_string();
        let escaped: Vec<_> = ('\0'..=char::MAX).filter(|c| !is_shown(*c)).collect();
        let ranges = [
            ('\0', '\u{9}'),
            ('\u{b}', '\u{1f}'),
            ('\u{7f}', '\u{9f}'),
            ('\u{61c}', '\u{61c}'),
            ('\u{200e}', '\u{200f}'),
            ('\u{2028}', '\u{202e}'),
            ('\u{2066}', '\u{2069}'),
        ];
        let expected: Vec<_> = ranges.into_iter().flat_map(|(from, to)| from..=to).collect();
        assert_eq!(escaped, expected);
        assert!(escaped.iter().all(|c| one_line(&c.to_string()).is_ascii()), "the log as well");
        let json = serde_json::to_string("a\u{202e}\u{9b}31m\u{7f}").unwrap();
        let shown = for_terminal(&json);
        assert_eq!(shown, r#""a\u202e\u009b31m\u007f""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), "a\u{202e}\u{9b}31m\u{7f}");
    }

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(one_line("a\r\nb\u{1b}[31m\0ü\u{202e}"), "a\\r\\nb\\u{1b}[31m\\u{0}ü\\u{202e}");
        assert_eq!(one_line(&"x".repeat(10_000)).len(), MOST_MESSAGE + '…'.len_utf8());
    }
}
