//! The members of a record that are treated in a way of their own.

use super::json::decoded;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Id,
    RecordType,
    CreationTime,
    Operation,
    OrganizationId,
    UserType,
    UserKey,
    Workload,
    UserId,
    ClientIp,
    /// One of the arrays of names and values.
    Properties,
    // Those that we write.
    ClientIpAddressPort,
    Overflow,
    Subscription,
    Truncated,
}

/// The longest of the names, and the longest spelling of a byte.
const LONGEST: usize = "ClientIPAddressPort".len();
const LONGEST_ESCAPE: usize = "\\u0000".len();

impl Name {
    /// By a key, with its quotes. Escapes may hide it.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        if key.len() > LONGEST * LONGEST_ESCAPE + 2 {
            return None;
        }
        Self::plain(decoded(key)?.as_bytes())
    }

    /// By a key without quotes and escapes.
    pub(super) fn plain(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"Id" => Self::Id,
            b"RecordType" => Self::RecordType,
            b"CreationTime" => Self::CreationTime,
            b"Operation" => Self::Operation,
            b"OrganizationId" => Self::OrganizationId,
            b"UserType" => Self::UserType,
            b"UserKey" => Self::UserKey,
            b"Workload" => Self::Workload,
            b"UserId" => Self::UserId,
            b"ClientIP" => Self::ClientIp,
            b"ModifiedProperties" | b"Parameters" | b"ExtendedProperties" => Self::Properties,
            b"ClientIPAddressPort" => Self::ClientIpAddressPort,
            b"Overflow" => Self::Overflow,
            b"Subscription" => Self::Subscription,
            b"Truncated" => Self::Truncated,
            _ => return None,
        })
    }

    /// Whether every record has it (documented by Microsoft; `ClientIP` nearly every one).
    pub(super) fn is_mandatory(self) -> bool {
        match self {
            Self::Id
            | Self::RecordType
            | Self::CreationTime
            | Self::Operation
            | Self::OrganizationId
            | Self::UserType
            | Self::UserKey
            | Self::Workload
            | Self::UserId
            | Self::ClientIp => true,
            Self::Properties
            | Self::ClientIpAddressPort
            | Self::Overflow
            | Self::Subscription
            | Self::Truncated => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_what_they_mean() {
        let table: [(&[u8], Option<Name>); 9] = [
            (br#""Id""#, Some(Name::Id)),
            (br#""\u0049d""#, Some(Name::Id)),
            (br#""\u0055\u0073\u0065\u0072\u0049\u0064""#, Some(Name::UserId)),
            (br#""\\u0049d""#, None),
            (br#""\\Id""#, None),
            (br#""id""#, None),
            (br#""Id ""#, None),
            (br#""\ud83d""#, None),
            (b"\"\"", None),
        ];
        for (key, name) in table {
            assert_eq!(Name::of(key), name, "{}", String::from_utf8_lossy(key));
        }
        let spelt: String =
            "ClientIPAddressPort".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let key = format!("\"{spelt}\"");
        assert_eq!(Name::of(key.as_bytes()), Some(Name::ClientIpAddressPort));
    }

    #[test]
    fn the_mandatory_ones_are_those_of_the_documentation() {
        for name in [Name::Id, Name::RecordType, Name::UserType, Name::UserId, Name::ClientIp] {
            assert!(name.is_mandatory(), "{name:?}");
        }
        for name in [Name::Properties, Name::ClientIpAddressPort, Name::Overflow, Name::Truncated] {
            assert!(!name.is_mandatory(), "{name:?}");
        }
    }
}
