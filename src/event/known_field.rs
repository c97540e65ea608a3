//! The members of a record that are treated in a way of their own.

use super::json::decoded;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownField {
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
    /// What marks a notice.
    Actor,
    // Those that we write.
    ClientIpAddressPort,
    Overflow,
    Subscription,
    Truncated,
}

/// The longest of the names, and the longest spelling of a byte.
const LONGEST: usize = "ClientIPAddressPort".len();
const LONGEST_ESCAPE: usize = "\\u0000".len();

impl KnownField {
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
            b"actor" => Self::Actor,
            b"ClientIPAddressPort" => Self::ClientIpAddressPort,
            b"Overflow" => Self::Overflow,
            b"Subscription" => Self::Subscription,
            b"Truncated" => Self::Truncated,
            _ => return None,
        })
    }

    /// Whether every record has it (documented by Microsoft).
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
            | Self::UserId => true,
            Self::ClientIp
            | Self::Actor
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
        let table: [(&[u8], Option<KnownField>); 9] = [
            (br#""Id""#, Some(KnownField::Id)),
            (br#""\u0049d""#, Some(KnownField::Id)),
            (br#""\u0055\u0073\u0065\u0072\u0049\u0064""#, Some(KnownField::UserId)),
            (br#""\\u0049d""#, None),
            (br#""\\Id""#, None),
            (br#""id""#, None),
            (br#""Id ""#, None),
            (br#""\ud83d""#, None),
            (b"\"\"", None),
        ];
        for (key, name) in table {
            assert_eq!(KnownField::of(key), name, "{}", String::from_utf8_lossy(key));
        }
        let spelt: String =
            "ClientIPAddressPort".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let key = format!("\"{spelt}\"");
        assert_eq!(KnownField::of(key.as_bytes()), Some(KnownField::ClientIpAddressPort));
    }

    #[test]
    fn the_mandatory_ones_are_those_of_the_documentation() {
        for name in
            [KnownField::Id, KnownField::RecordType, KnownField::UserType, KnownField::UserId]
        {
            assert!(name.is_mandatory(), "{name:?}");
        }
        for name in
            [KnownField::ClientIp, KnownField::Actor, KnownField::Overflow, KnownField::Truncated]
        {
            assert!(!name.is_mandatory(), "{name:?}");
        }
    }
}
