//! Repairs of single values.

use std::net::IpAddr;

use super::MAX_STRING;

/// Shorter integers fit into 32 bits.
const SHORT: usize = 10;

/// The most digits to which an integer in exponent notation is written out.
const MAX_DIGITS: usize = 40;

/// How a number is written outside arrays, if not as it is spelt. Wazuh's decoder makes a string of it:
/// of an integer within 32 bits its digits, of any other a float with six decimals
/// (`1234567890123.000000`, `0.123457`), which loses digits. So the others are made strings here.
///
/// `number` is a number by the JSON grammar.
#[inline]
pub(super) fn number_token(number: &[u8]) -> Option<String> {
    // As most numbers are.
    if number.len() < SHORT && number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    respelt(std::str::from_utf8(number).ok()?)
}

#[inline(never)]
fn respelt(number: &str) -> Option<String> {
    let token = match value_of(number) {
        Value::Small(integer) => integer.to_string(),
        Value::Large(digits) => format!("\"{digits}\""),
        Value::Other => format!("\"{number}\""),
    };
    (token != number).then_some(token)
}

/// What a number is worth.
enum Value {
    /// An integer of 32 bits.
    Small(i32),
    /// Another integer: its digits, or its spelling where these are too many.
    Large(String),
    Other,
}

fn value_of(number: &str) -> Value {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        // What doesn't fit is as good as endless.
        Some((mantissa, power)) => (
            mantissa,
            Some(power.parse().unwrap_or_else(|_| {
                if power.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 }
            })),
        ),
        None => (number, None),
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Value::Small(0);
    }
    // The value is `significant` with this number of zeros behind it; a negative one makes it a fraction.
    let zeros = exponent
        .unwrap_or(0)
        .saturating_add(signed(digits.len() - significant.len()))
        .saturating_sub(signed(fraction.len()));
    let Ok(zeros) = usize::try_from(zeros) else {
        return Value::Other;
    };
    match significant.len().saturating_add(zeros) {
        0..=MAX_DIGITS => {
            let digits = format!("{sign}{significant}{}", "0".repeat(zeros));
            digits.parse().map_or(Value::Large(digits), Value::Small)
        }
        _ if exponent.is_none() => Value::Large(format!("{sign}{whole}")),
        _ => Value::Large(number.to_owned()),
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The bare address in a `ClientIP` with something around it: a port or brackets, white space, a zone, an
/// IPv4 address mapped into IPv6, a list of which the first address counts. The indexer finds a place on
/// the map for nothing else. None where it is bare already, or not an address at all.
pub(super) fn bare_address(text: &str) -> Option<String> {
    let listed = text.split(',').find_map(address_in);
    let found = listed.or_else(|| {
        let may_be_list = text.len() <= MAX_STRING && text.trim_start().starts_with('[');
        let items = may_be_list.then(|| serde_json::from_str::<Vec<serde_json::Value>>(text));
        let items = items?.ok()?;
        items.iter().filter_map(serde_json::Value::as_str).find_map(address_in)
    });
    found.filter(|bare| bare != text)
}

/// The bare address that `text` is, with what may be around one.
pub(super) fn address_in(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return bare(address).filter(|_| good);
    }
    // Behind an IPv6 address without brackets a port can't be told from a part of it.
    let with_port = || text.rsplit_once(':').filter(|(address, _)| address.contains('.'));
    bare(text).or_else(|| {
        let (address, port) = with_port()?;
        bare(address).filter(|_| is_port(port))
    })
}

/// An address in its own spelling, without its zone, or the IPv4 address in it.
fn bare(text: &str) -> Option<String> {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    match address.parse().ok()? {
        IpAddr::V4(_) if address.len() < text.len() => None,
        IpAddr::V4(_) => Some(address.to_owned()),
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(address.to_owned(), |v4| v4.to_string())),
    }
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_integers_of_32_bits_or_strings() {
        let long = "7".repeat(300);
        let wide = format!("0.{}", "3".repeat(62));
        let (long_string, wide_string) = (format!("\"{long}\""), format!("\"{wide}\""));
        let zero = format!("0.{}", "0".repeat(80));
        let table = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e5", "0"),
            ("0.0e-5", "0"),
            ("0e99999999999999999999", "0"),
            (&zero, "0"),
            ("6.0", "6"),
            ("-7", "-7"),
            ("2147483647", "2147483647"),
            ("-2147483648", "-2147483648"),
            ("2147483648", "\"2147483648\""),
            ("-2147483649", "\"-2147483649\""),
            ("4294967296", "\"4294967296\""),
            ("1234567890123", "\"1234567890123\""),
            (&long, &long_string),
            ("1e3", "1000"),
            ("15e-1", "\"15e-1\""),
            ("100e-1", "10"),
            ("1.25e1", "\"1.25e1\""),
            ("2.147483647e9", "2147483647"),
            ("2.147483648e9", "\"2147483648\""),
            ("1.5e12", "\"1500000000000\""),
            ("-1.5E+12", "\"-1500000000000\""),
            ("15000000000000e-1", "\"1500000000000\""),
            ("1234567890123.0", "\"1234567890123\""),
            ("1e39", "\"1000000000000000000000000000000000000000\""),
            ("1e40", "\"1e40\""),
            ("1.50E+400", "\"1.50E+400\""),
            ("1e99999999999999999999", "\"1e99999999999999999999\""),
            ("1e-99999999999999999999", "\"1e-99999999999999999999\""),
            ("1234567890.125", "\"1234567890.125\""),
            ("0.1234567891234", "\"0.1234567891234\""),
            ("1e-7", "\"1e-7\""),
            ("1.10", "\"1.10\""),
            (&wide, &wide_string),
        ];
        for (number, expected) in table {
            assert_eq!(
                number_token(number.as_bytes()).as_deref().unwrap_or(number),
                expected,
                "{number}"
            );
        }
    }

    #[test]
    fn addresses_lose_their_ports_and_brackets() {
        let table = [
            ("1.2.3.4:63070", Some("1.2.3.4")),
            ("1.2.3.4:0", Some("1.2.3.4")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:DB8:0::1]:443", Some("2001:DB8:0::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[1.2.3.4]:80", Some("1.2.3.4")),
            ("[1.2.3.4]", Some("1.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::FFFF:102:304", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:443", Some("1.2.3.4")),
            ("::ffff:1.2.3.4:443", Some("1.2.3.4")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25en0]:443", Some("fe80::1")),
            ("::ffff:1.2.3.4%3", Some("1.2.3.4")),
            (" 1.2.3.4\t", Some("1.2.3.4")),
            (" [2001:db8::1]:80 ", Some("2001:db8::1")),
            ("1.2.3.4, 5.6.7.8", Some("1.2.3.4")),
            ("1.2.3.4:80,5.6.7.8:90", Some("1.2.3.4")),
            ("unknown, 5.6.7.8", Some("5.6.7.8")),
            ("2001:db8::1,1.2.3.4", Some("2001:db8::1")),
            (r#"["1.2.3.4"]"#, Some("1.2.3.4")),
            (r#" [ "x", "1.2.3.4:5" , "6.7.8.9"] "#, Some("1.2.3.4")),
            (r#"["x"]"#, None),
            ("[1]", None),
            ("1.2.3.4%eth0", None),
            (",", None),
            ("1.2.3.4", None),
            ("2001:db8::1", None),
            ("2001:db8::1:443", None),
            ("::1", None),
            ("<null>", None),
            ("", None),
            ("host.example", None),
            ("host.example:443", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:99999", None),
            ("1.2.3.4:+80", None),
            ("1.2.3.4:00080", Some("1.2.3.4")),
            ("1.2.3.4:000080", None),
            ("1.2.3.4:80:90", None),
            ("1.2.3:80", None),
            ("[1.2.3.4", None),
            ("[::1]x", None),
            ("[::1]:", None),
            ("[]:80", None),
            ("[host]:80", None),
            (":", None),
        ];
        for (text, expected) in table {
            assert_eq!(bare_address(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_integer_is_a_string_just_when_it_is_outside_of_32_bits(
            value in prop_oneof![any::<i128>(), -5_000_000_000..5_000_000_000_i128], zeros in 0..4_usize,
        ) {
            let expected = match i32::try_from(value) {
                Ok(value) => value.to_string(),
                Err(_) => format!("\"{value}\""),
            };
            let written = |number: &str| number_token(number.as_bytes()).unwrap_or(number.to_owned());
            prop_assert_eq!(&written(&value.to_string()), &expected);
            let factor = 10_i128.pow(u32::try_from(zeros).unwrap());
            if value % factor == 0 {
                prop_assert_eq!(&written(&format!("{}e{zeros}", value / factor)), &expected);
                prop_assert_eq!(&written(&format!("{value}{}e-{zeros}", "0".repeat(zeros))), &expected);
            }
        }

        #[test]
        fn a_bare_address_is_an_address_and_stays(text in "[\\[\\]0-9a-f:., %\"]{0,24}") {
            if let Some(bare) = bare_address(&text) {
                prop_assert!(bare.parse::<IpAddr>().is_ok());
                prop_assert_eq!(bare_address(&bare), None);
            }
        }
    }
}
