//! Repairs of single values.

use std::net::{IpAddr, Ipv6Addr};

/// cJSON, which Wazuh reads with, takes no longer number (its buffer holds 64 bytes with the end).
const LONGEST_NUMBER: usize = 63;

/// Integers in exponent notation are written out up to so many digits.
const MOST_DIGITS: usize = 40;

/// What a number has to become as a string, if it has to: Wazuh's decoder prints an integer outside
/// 32 bits as a float (`1234567890123.000000`), and loses digits of larger ones.
///
/// `number` is a number by the JSON grammar.
pub(super) fn whole_number(number: &str) -> Option<String> {
    let spelling = || (number.len() > LONGEST_NUMBER).then(|| number.to_owned());
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
        return spelling();
    }
    // The value is `significant` and so many zeros, or fewer digits than that before the point.
    let zeros = exponent
        .unwrap_or(0)
        .saturating_add(signed(digits.len() - significant.len()))
        .saturating_sub(signed(fraction.len()));
    let Ok(zeros) = usize::try_from(zeros) else {
        return spelling();
    };
    let written_out = significant.len().saturating_add(zeros);
    if written_out <= 10 {
        let value = format!("{sign}{significant}{}", "0".repeat(zeros));
        return match value.parse::<i32>() {
            Ok(_) => spelling(),
            Err(_) => Some(value),
        };
    }
    match exponent {
        None => Some(format!("{sign}{whole}")),
        Some(_) if written_out <= MOST_DIGITS => {
            Some(format!("{sign}{significant}{}", "0".repeat(zeros)))
        }
        Some(_) => Some(number.to_owned()),
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The bare address in a `ClientIP` that has a port or brackets, or is an IPv4 address mapped into
/// IPv6: the indexer finds a place on the map for nothing else. None where it is bare already, or
/// no address at all.
pub(super) fn bare_address(text: &str) -> Option<String> {
    // Most are bare IPv4 addresses, which need not be parsed.
    if !text.contains(':') && !text.starts_with('[') {
        return None;
    }
    let spelt = |address: &str| match address.parse().ok()? {
        IpAddr::V4(_) => Some(address.to_owned()),
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(address.to_owned(), |v4| v4.to_string())),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return spelt(address).filter(|_| good);
    }
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return v6.to_ipv4_mapped().map(|v4| v4.to_string());
    }
    // Behind an IPv6 address without brackets a port can't be told from a part of it.
    let (address, port) = text.rsplit_once(':').filter(|(address, _)| address.contains('.'))?;
    spelt(address).filter(|_| is_port(port))
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_outside_of_32_bits_become_strings_of_their_digits() {
        let long = "7".repeat(300);
        let wide = format!("0.{}", "3".repeat(62));
        let table = [
            ("0", None),
            ("-0", None),
            ("2147483647", None),
            ("-2147483648", None),
            ("2147483648", Some("2147483648")),
            ("-2147483649", Some("-2147483649")),
            ("4294967296", Some("4294967296")),
            ("9999999999", Some("9999999999")),
            ("1234567890123", Some("1234567890123")),
            (&long, Some(&long)),
            // The same in other words.
            ("1e3", None),
            ("2.147483647e9", None),
            ("2.147483648e9", Some("2147483648")),
            ("1.5e12", Some("1500000000000")),
            ("-1.5E+12", Some("-1500000000000")),
            ("1500e9", Some("1500000000000")),
            ("15000000000000e-1", Some("1500000000000")),
            ("1234567890123.0", Some("1234567890123")),
            ("1e39", Some("1000000000000000000000000000000000000000")),
            ("1e40", Some("1e40")),
            ("1.50E+400", Some("1.50E+400")),
            ("1e99999999999999999999", Some("1e99999999999999999999")),
            // Others keep their spelling.
            ("1234567890.125", None),
            ("1234567890123.5", None),
            ("1.10", None),
            ("100e-1", None),
            ("15e-1", None),
            ("1.25e1", None),
            ("1234567890123e-400", None),
            ("0e99999999999999999999", None),
            ("0.0e-5", None),
            ("1e-99999999999999999999", None),
            // Unless Wazuh could not read them at all.
            (&wide[..63], None),
            (&wide, Some(&wide)),
        ];
        for (number, expected) in table {
            assert_eq!(whole_number(number).as_deref(), expected, "{number}");
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
            let expected = i32::try_from(value).is_err().then(|| value.to_string());
            prop_assert_eq!(&whole_number(&value.to_string()), &expected);
            let factor = 10_i128.pow(u32::try_from(zeros).unwrap());
            if value % factor == 0 {
                let number = format!("{}e{zeros}", value / factor);
                prop_assert_eq!(&whole_number(&number), &expected);
                let number = format!("{value}{}e-{zeros}", "0".repeat(zeros));
                prop_assert_eq!(&whole_number(&number), &expected);
            }
        }

        #[test]
        fn a_bare_address_is_an_address_and_stays(text in "[\\[\\]0-9a-f:.]{0,24}") {
            if let Some(bare) = bare_address(&text) {
                prop_assert!(bare.parse::<IpAddr>().is_ok());
                prop_assert_eq!(bare_address(&bare), None);
            }
        }
    }
}
