//! Numbers and addresses: what their repair makes of them.

use std::net::IpAddr;

use crate::json::{self, Json};

/// A decimal number: sign, digits without zeros at either end, exponent. Equal values are equal.
type Decimal = (bool, String, i64);

fn decimal(spelling: &str) -> Decimal {
    let (negative, rest) = match spelling.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, spelling),
    };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let beyond = if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 };
    let exponent = exponent.parse().unwrap_or(beyond).clamp(i64::MIN / 4, i64::MAX / 4);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let shift = i64::try_from(digits.len() - significant.len()).unwrap_or(0)
        - i64::try_from(fraction.len()).unwrap_or(0);
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return (false, String::new(), 0);
    }
    (negative, significant.to_owned(), exponent + shift)
}

/// Whether two numbers have the same value, exactly.
pub(super) fn same_number(one: &str, other: &str) -> bool {
    one == other || decimal(one) == decimal(other)
}

/// The value of a number that is an integer of 32 bits.
pub(super) fn small_integer(spelling: &str) -> Option<i32> {
    let (negative, mut digits, exponent) = decimal(spelling);
    if !(0..10).contains(&exponent) || digits.len() > 10 {
        return None;
    }
    for _ in 0..exponent {
        digits.push('0');
    }
    let sign = if negative { "-" } else { "" };
    if digits.is_empty() { Some(0) } else { format!("{sign}{digits}").parse().ok() }
}

/// Whether a string holds the number as it was spelt, or the digits of the integer that it is.
pub(super) fn is_spelling_of(text: &str, number: &str) -> bool {
    text == number
        || number.contains(['e', 'E', '.'])
            && !text.contains(['e', 'E', '.'])
            && json::is_number(text)
            && same_number(text, number)
}

/// Whether the value is an address that needs no repair.
pub(super) fn is_bare_address(value: &Json) -> bool {
    let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    address.is_some_and(|address| address.to_canonical() == address)
}

/// The address that the repair of a `ClientIP` finds, and whether it is the first of the list:
/// then it must be repaired. `None` if there is nothing to repair.
pub(super) fn client_address(value: &Json) -> Option<(IpAddr, bool)> {
    if is_bare_address(value) {
        return None;
    }
    let (parts, is_sure) = match value {
        Json::String(text) => match json::parse(text.as_bytes()) {
            Some(Json::Array(items)) => (strings(&items), true),
            _ => (text.split(',').map(str::to_owned).collect(), true),
        },
        Json::Array(items) => (strings(items), false),
        _ => return None,
    };
    let mut addresses = parts.iter().map(|part| single_address(part)).enumerate();
    addresses.find_map(|(index, address)| Some((address?, is_sure && index == 0)))
}

fn strings(items: &[Json]) -> Vec<String> {
    items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

/// An address without white space, port, brackets and zone.
fn single_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    let host = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let is_end = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        is_end.then_some(host)?
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) if is_port(port) && host.contains('.') => host,
            _ => text,
        }
    };
    let host = host.split_once('%').map_or(host, |(host, _)| host);
    Some(host.parse::<IpAddr>().ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_by_value() {
        for (one, other, same) in [
            ("1", "1.0", true),
            ("100", "1e2", true),
            ("0.10", "1e-1", true),
            ("-0", "0.0e9", true),
            ("1", "-1", false),
            ("1e99999999999999999999", "1e9999", false),
            ("10000000000000001", "10000000000000000", false),
        ] {
            assert_eq!(same_number(one, other), same, "{one} {other}");
        }
        for (spelling, value) in [
            ("6.0", Some(6)),
            ("-0", Some(0)),
            ("1e2", Some(100)),
            ("21474836.47e2", Some(2_147_483_647)),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
            ("0.5", None),
            ("1e10", None),
        ] {
            assert_eq!(small_integer(spelling), value, "{spelling}");
        }
        assert!(is_spelling_of("10000000000", "10000000000.0"));
        assert!(!is_spelling_of("0.0000001", "1e-7"));
        assert!(!is_spelling_of("1.50", "1.5"));
    }

    #[test]
    fn finds_addresses() {
        for (text, expected) in [
            ("1.2.3.4:443", Some("1.2.3.4")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            (" 1.2.3.4 ", Some("1.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4, 5.6.7.8", Some("1.2.3.4")),
            ("[\"1.2.3.4:80\",\"5.6.7.8\"]", Some("1.2.3.4")),
            ("1.2.3.4", None),
            ("2001:db8::1", None),
            ("unknown", None),
            ("", None),
        ] {
            let found = client_address(&Json::String(text.into()));
            let expected = expected.map(|address| (address.parse().unwrap(), true));
            assert_eq!(found, expected, "{text}");
        }
        let later = client_address(&Json::String("unknown, 1.2.3.4".into()));
        assert_eq!(later, Some(("1.2.3.4".parse().unwrap(), false)));
    }
}
