//! The national clouds of Microsoft 365.
//!
//! To add a cloud, add a row: everything else follows from it. The hosts are those that Microsoft
//! documents for the Office 365 Management Activity API (plan by plan) and for the identity
//! platform (national clouds).

/// One cloud: the value of `api_type` and its two origins.
#[derive(Debug, PartialEq, Eq)]
pub struct Cloud {
    /// The value of the tag `api_type`.
    pub api_type: &'static str,
    /// Origin of the Management Activity API, which is also the OAuth resource.
    pub management: &'static str,
    /// Origin of the login host.
    pub login: &'static str,
}

/// Every cloud we know; the first is the default.
pub const CLOUDS: [Cloud; 4] = [
    Cloud {
        api_type: "commercial",
        management: "https://manage.office.com",
        login: "https://login.microsoftonline.com",
    },
    Cloud {
        api_type: "gcc",
        management: "https://manage-gcc.office.com",
        login: "https://login.microsoftonline.com",
    },
    Cloud {
        api_type: "gcc-high",
        management: "https://manage.office365.us",
        login: "https://login.microsoftonline.us",
    },
    Cloud {
        api_type: "dod",
        management: "https://manage.protection.apps.mil",
        login: "https://login.microsoftonline.us",
    },
];

/// The cloud that `api_type` names.
#[must_use]
pub fn by_api_type(api_type: &str) -> Option<&'static Cloud> {
    CLOUDS.iter().find(|cloud| cloud.api_type == api_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cloud_is_found_by_its_name_and_speaks_tls() {
        for cloud in &CLOUDS {
            assert_eq!(by_api_type(cloud.api_type), Some(cloud));
            assert!(cloud.management.starts_with("https://"));
            assert!(cloud.login.starts_with("https://"));
        }
        assert_eq!(by_api_type("Commercial"), None);
    }
}
