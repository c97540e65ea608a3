//! What an X.509 certificate (RFC 5280) says of itself. Nothing is verified here: of the certificates
//! that a host presents that is rustls's matter, of our own Microsoft's.

use zeroize::Zeroizing;

use crate::timestamp::Timestamp;
use crate::words::excerpt;

/// What is of interest in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who signed it: a few words on one line.
    pub issuer: String,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// An RSA key as PKCS#1 has it (`RSAPublicKey`); none where the key is of another kind.
    pub rsa_key: Option<Vec<u8>>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
/// `[0]`, constructed: the version of a certificate.
const VERSION: u8 = 0xa0;

/// 1.2.840.113549.1.1.1, the algorithm of an RSA key (RFC 8017, appendix C).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// No name is longer, in characters: those that RFC 5280 allows have 64 in each part.
const MOST_NAME: usize = 200;

/// The parts of a name that are shown, in their usual short form (RFC 4519): 2.5.4.3 and so on.
const SHOWN: [(&[u8], &str); 3] =
    [(&[0x55, 0x04, 0x03], "CN"), (&[0x55, 0x04, 0x0a], "O"), (&[0x55, 0x04, 0x0b], "OU")];

impl Certificate {
    /// Reads a certificate in DER; none where it is malformed.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut fields = Der(Der(Der(der).content(SEQUENCE)?).content(SEQUENCE)?);
        if fields.0.first() == Some(&VERSION) {
            fields.content(VERSION)?;
        }
        let _serial_number = fields.content(INTEGER)?;
        let _signature_algorithm = fields.content(SEQUENCE)?;
        let issuer = name(fields.content(SEQUENCE)?)?;
        let mut validity = Der(fields.content(SEQUENCE)?);
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let _subject = fields.content(SEQUENCE)?;
        let mut key_info = Der(fields.content(SEQUENCE)?);
        let algorithm = Der(key_info.content(SEQUENCE)?).content(OBJECT_ID)?;
        // A bit string begins with the number of bits of its last byte that are unused.
        let (unused, key) = key_info.content(BIT_STRING)?.split_first()?;
        let rsa_key = (algorithm == RSA && *unused == 0).then(|| key.to_vec());
        Some(Self { issuer, not_before, not_after, rsa_key })
    }
}

/// A PEM text without a byte order mark, and without the blanks at the ends of its lines that it gets
/// in YAML or XML; wiped, for it may hold a key.
#[must_use]
pub fn unindented(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(pem.len() + 1));
    let pem = pem.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(pem);
    for line in pem.split(|b| *b == b'\n') {
        text.extend_from_slice(line.trim_ascii());
        text.push(b'\n');
    }
    text
}

/// What is left to be read of elements in the Distinguished Encoding Rules (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element: its tag and its content.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (short, mut rest) = rest.split_first()?;
        let mut length = usize::from(*short);
        if *short >= 0x80 {
            let (digits, after) = rest.split_at_checked(usize::from(short & 0x7f))?;
            // No certificate is larger than four bytes can count.
            length = match digits.len() {
                1..=4 => digits.iter().fold(0, |n, digit| n << 8 | usize::from(*digit)),
                _ => return None,
            };
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((*tag, content))
    }

    /// Takes the content of the next element, which must have this tag.
    fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// A distinguished name, as far as it is of use to a person: `O=Contoso, CN=Contoso Proxy CA`.
fn name(content: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut sets = Der(content);
    while !sets.0.is_empty() {
        let mut set = Der(sets.content(SET)?);
        while !set.0.is_empty() {
            let mut part = Der(set.content(SEQUENCE)?);
            let id = part.content(OBJECT_ID)?;
            let (tag, value) = part.element()?;
            if let Some((_, short)) = SHOWN.iter().find(|(known, _)| *known == id) {
                parts.push(format!("{short}={}", text(tag, value)));
            }
        }
    }
    let name: String = excerpt(&parts.join(", ")).chars().take(MOST_NAME).collect();
    Some(if name.is_empty() { "(no name)".to_owned() } else { name })
}

fn text(tag: u8, value: &[u8]) -> String {
    if tag == BMP_STRING {
        let units = value.chunks_exact(2).map(|pair| match pair {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        });
        return char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
    }
    String::from_utf8_lossy(value).into_owned()
}

/// A point in time (RFC 5280, 4.1.2.5): `YYMMDDHHMMSSZ`, up to 2049, or `YYYYMMDDHHMMSSZ`.
fn time(fields: &mut Der<'_>) -> Option<Timestamp> {
    let (tag, content) = fields.element()?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match (tag, text.get(..2)?) {
        (UTC_TIME, year) if year < "50" => format!("20{text}"),
        (UTC_TIME, _) => format!("19{text}"),
        (GENERALIZED_TIME, _) => text.to_owned(),
        _ => return None,
    };
    if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to);
    Timestamp::parse(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element with a short or a long length.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let mut der = vec![tag];
        if high == 0 && low < 0x80 {
            der.push(low);
        } else {
            der.extend([0x82, high, low]);
        }
        der.extend(content);
        der
    }

    fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        element(SEQUENCE, &parts.concat())
    }

    fn name_of(parts: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
        let part = |(id, tag, value): &(&[u8], u8, &[u8])| {
            element(SET, &sequence(&[element(OBJECT_ID, id), element(*tag, value)]))
        };
        sequence(&parts.iter().map(part).collect::<Vec<_>>())
    }

    const ISSUER: [(&[u8], u8, &[u8]); 3] = [
        (&[0x55, 0x04, 0x06], 0x13, b"DE"),
        (&[0x55, 0x04, 0x0a], 0x0c, "Contos\u{f6}".as_bytes()),
        (&[0x55, 0x04, 0x03], BMP_STRING, &[0, b'C', 0, b'A']),
    ];

    fn certificate(validity: &[Vec<u8>], algorithm: &[u8]) -> Vec<u8> {
        issued_by(&ISSUER, validity, algorithm)
    }

    fn issued_by(issuer: &[(&[u8], u8, &[u8])], validity: &[Vec<u8>], algorithm: &[u8]) -> Vec<u8> {
        sequence(&[
            sequence(&[
                element(VERSION, &element(INTEGER, &[2])),
                element(INTEGER, &[1]),
                sequence(&[]),
                name_of(issuer),
                sequence(validity),
                name_of(&[]),
                sequence(&[
                    sequence(&[element(OBJECT_ID, algorithm), vec![5, 0]]),
                    element(BIT_STRING, &[0, 7, 8, 9]),
                ]),
                element(0xa3, &[0; 300]),
            ]),
            sequence(&[]),
            element(BIT_STRING, &[0, 1]),
        ])
    }

    fn validity(from: &[u8], to: &[u8]) -> [Vec<u8>; 2] {
        let time =
            |text: &[u8]| element(if text.len() > 13 { GENERALIZED_TIME } else { UTC_TIME }, text);
        [time(from), time(to)]
    }

    #[test]
    fn what_is_of_interest_is_read() {
        let der = certificate(&validity(b"490101000000Z", b"20500101000000Z"), RSA);
        let read = Certificate::parse(&der).unwrap();
        assert_eq!(read.issuer, "O=Contosö, CN=CA");
        assert_eq!(read.not_before.to_string(), "2049-01-01T00:00:00Z");
        assert_eq!(read.not_after.to_string(), "2050-01-01T00:00:00Z");
        assert_eq!(read.rsa_key, Some(vec![7, 8, 9]));

        let der = certificate(&validity(b"991231235959Z", b"99991231235959Z"), &[1, 2]);
        let read = Certificate::parse(&der).unwrap();
        assert_eq!(read.not_before.to_string(), "1999-12-31T23:59:59Z");
        assert_eq!(read.not_after.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(read.rsa_key, None);
    }

    #[test]
    fn a_name_is_short_and_on_one_line_whatever_it_is() {
        let issuer = |value: &[u8]| {
            let parts: [(&[u8], u8, &[u8]); 1] = [(&[0x55, 0x04, 0x03], 0x0c, value)];
            let der = issued_by(&parts, &validity(b"261123032451Z", b"301123032451Z"), RSA);
            Certificate::parse(&der).unwrap().issuer
        };
        assert_eq!(
            issuer(b"a\r\n2026/11/23 ERROR: \x1b[31mb\xff"),
            "CN=a 2026/11/23 ERROR: [31mb\u{fffd}"
        );
        assert_eq!(issuer(&[b'x'; 5000]).len(), MOST_NAME);
        let nobody = issued_by(&[], &validity(b"261123032451Z", b"301123032451Z"), RSA);
        assert_eq!(Certificate::parse(&nobody).unwrap().issuer, "(no name)");
    }

    #[test]
    fn what_is_malformed_is_no_certificate() {
        for time in [&b"261123032451"[..], b"261323032451Z", b"2611230324Z", b"2611230324510Z"] {
            let der = certificate(&validity(time, b"301123032451Z"), RSA);
            assert_eq!(Certificate::parse(&der), None, "{time:?}");
        }
        let whole = certificate(&validity(b"261123032451Z", b"301123032451Z"), RSA);
        assert!(Certificate::parse(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(Certificate::parse(&whole[..end]), None, "{end}");
        }
        for length in [&[0x80][..], &[0x85, 0, 0, 0, 0, 1], &[0xff]] {
            let der = [&[SEQUENCE], length, &[0; 200]].concat();
            assert_eq!(Certificate::parse(&der), None);
        }
    }
}
