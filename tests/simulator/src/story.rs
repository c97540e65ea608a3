//! A small tenant's quarter of an hour: somebody's password is reset, and not all that follows is
//! her own doing. All five content types, with records as Microsoft writes them.

use serde_json::{Value, json};
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::tenant::Blob;

/// The records of one blob.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// Where it is published.
    pub content_type: &'static str,
    /// Its `contentCreated`.
    pub created: OffsetDateTime,
    /// What happened, in the order of time.
    pub events: Vec<Event>,
}

impl Chapter {
    /// The blob to publish.
    #[must_use]
    pub fn blob(&self) -> Blob {
        let records: Vec<Value> = self.events.iter().map(|event| event.record.clone()).collect();
        Blob::new(self.created, &records)
    }
}

/// One record, and in one line what it tells.
#[derive(Clone, Debug)]
pub struct Event {
    /// For people.
    pub headline: &'static str,
    /// As Microsoft sends it. Its `Id` is the same in every telling.
    pub record: Value,
}

impl Event {
    /// The record's `Id`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.record["Id"].as_str().unwrap_or_default()
    }
}

const ADMIN_KEY: &str = "10032001A4B5C6D7@";
const JANE_KEY: &str = "10032001E8F9A0B1@";
const ADMIN_IP: &str = "203.0.113.10";
const JANE_IP: &str = "198.51.100.23";
/// Nobody in the company has it.
const STRANGE_IP: &str = "192.0.2.66";
const OUTSIDE: &str = "collector@outside.example";
const ADMIN_OBJECT: &str = "3e5d8c1f-92a7-4b60-8f1d-60c2b7a94e01";
const JANE_OBJECT: &str = "b81f7a26-4d03-4c9e-a5e8-17f3d29c6b02";
const MAILBOX: &str = "c2a90b7e-6f15-4e38-9d4b-83e61fa5d703";
const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like \
    Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0";

/// The story as it ends just before `now`, in the tenant with this GUID and domain name.
#[must_use]
pub fn story(now: OffsetDateTime, tenant_guid: &str, domain: &str) -> Vec<Chapter> {
    let teller = Teller { begin: now - Duration::minutes(25), tenant: tenant_guid, domain };
    let chapters = [
        ("Audit.AzureActiveDirectory", teller.directory()),
        ("Audit.Exchange", teller.exchange()),
        ("Audit.SharePoint", teller.sharepoint()),
        ("Audit.General", teller.teams()),
        ("DLP.All", teller.dlp()),
    ];
    let created = (0..).map(|n| now - Duration::minutes(8) + Duration::seconds(70 * n));
    let told = chapters.into_iter().zip(created);
    told.map(|((content_type, events), created)| Chapter { content_type, created, events })
        .collect()
}

struct Teller<'a> {
    begin: OffsetDateTime,
    tenant: &'a str,
    domain: &'a str,
}

/// What every record has.
struct Common<'a> {
    number: u32,
    second: i64,
    record_type: u32,
    operation: &'a str,
    workload: &'a str,
    user_type: u32,
    user_key: &'a str,
    user: String,
    ip: &'a str,
}

impl Teller<'_> {
    fn at(&self, second: i64) -> String {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
        (self.begin + Duration::seconds(second)).format(format).unwrap_or_default()
    }

    fn admin(&self) -> String {
        format!("admin@{}", self.domain)
    }

    fn jane(&self) -> String {
        format!("jane@{}", self.domain)
    }

    fn event(&self, headline: &'static str, common: &Common<'_>, special: Value) -> Event {
        let mut record = json!({
            "CreationTime": self.at(common.second),
            "Id": format!("5f0c{:04x}-2b7d-4e19-a6c3-d41f80b29e{:02x}", common.number, common.number),
            "Operation": common.operation,
            "OrganizationId": self.tenant,
            "RecordType": common.record_type,
            "ResultStatus": "Success",
            "UserKey": common.user_key,
            "UserType": common.user_type,
            "Version": 1,
            "Workload": common.workload,
            "ClientIP": common.ip,
            "UserId": common.user,
        });
        if let (Value::Object(record), Value::Object(special)) = (&mut record, special) {
            record.extend(special);
        }
        Event { headline, record }
    }

    fn directory(&self) -> Vec<Event> {
        let of = |number, second, record_type, operation| Common {
            number,
            second,
            record_type,
            operation,
            workload: "AzureActiveDirectory",
            user_type: 0,
            user_key: JANE_OBJECT,
            user: self.jane(),
            ip: JANE_IP,
        };
        let person = |user: String, object: &str, key: &str| {
            json!([
                { "ID": user, "Type": 5 },
                { "ID": key, "Type": 3 },
                { "ID": format!("User_{object}"), "Type": 2 },
                { "ID": object, "Type": 2 },
                { "ID": "User", "Type": 2 },
            ])
        };
        let admin = person(self.admin(), ADMIN_OBJECT, ADMIN_KEY);
        let jane = person(self.jane(), JANE_OBJECT, JANE_KEY);
        let directory = |actor: &Value, extended: Value| {
            json!({
                "ObjectId": self.jane(),
                "AzureActiveDirectoryEventType": 1,
                "ExtendedProperties": [
                    { "Name": "additionalDetails", "Value": extended.to_string() },
                    { "Name": "extendedAuditEventCategory", "Value": "User" },
                ],
                "ModifiedProperties": [],
                "Actor": actor,
                "ActorContextId": self.tenant,
                "InterSystemsId": "6a3c1f70-58d2-4b97-8e04-2f9d71c5ab10",
                "IntraSystemId": "e7d40b92-1c6f-4a35-b8e1-90f25d3a7c11",
                "SupportTicketId": "",
                "Target": jane,
                "TargetContextId": self.tenant,
            })
        };
        let sign_in = |status: &str, request: &str, number: &str| {
            json!({
                "ResultStatus": status,
                "ObjectId": "4765445b-32c6-49b0-83e6-1d93765276ca",
                "AzureActiveDirectoryEventType": 1,
                "ExtendedProperties": [
                    { "Name": "ResultStatusDetail", "Value": "Success" },
                    { "Name": "UserAgent", "Value": BROWSER },
                    { "Name": "RequestType", "Value": request },
                ],
                "ModifiedProperties": [],
                "Actor": [{ "ID": JANE_OBJECT, "Type": 0 }, { "ID": self.jane(), "Type": 5 }],
                "ActorContextId": self.tenant,
                "ActorIpAddress": JANE_IP,
                "InterSystemsId": "0b8e5d13-a1f4-4c72-96d0-5e7c43b9fa12",
                "IntraSystemId": "9f16c0a8-73be-4d25-a40f-b2d8e15c6d13",
                "SupportTicketId": "",
                "Target": [{ "ID": "4765445b-32c6-49b0-83e6-1d93765276ca", "Type": 0 }],
                "TargetContextId": self.tenant,
                "ApplicationId": "4765445b-32c6-49b0-83e6-1d93765276ca",
                "DeviceProperties": [
                    { "Name": "OS", "Value": "Windows10" },
                    { "Name": "BrowserType", "Value": "Edge" },
                    { "Name": "IsCompliantAndManaged", "Value": "False" },
                    { "Name": "SessionId", "Value": "d5b2f981-0e67-4c3a-8d19-a7c4e06b3f14" },
                ],
                "ErrorNumber": number,
            })
        };
        let mut failed = sign_in("Failed", "Login:login", "50126");
        failed["LogonError"] = json!("InvalidUserNameOrPassword");
        let by_admin = Common {
            user_key: ADMIN_KEY,
            user: self.admin(),
            ip: ADMIN_IP,
            ..of(1, 0, 8, "Reset user password.")
        };
        vec![
            self.event("admin resets Jane's password", &by_admin, directory(&admin, json!({}))),
            self.event(
                "Jane signs in with a wrong password",
                &of(2, 95, 15, "UserLoginFailed"),
                failed,
            ),
            self.event(
                "Jane signs in",
                &of(3, 118, 15, "UserLoggedIn"),
                sign_in("Success", "OAuth2:Authorize", "0"),
            ),
            self.event(
                "Jane changes her password",
                &Common { user_key: JANE_KEY, ..of(4, 171, 8, "Change user password.") },
                directory(&jane, json!({})),
            ),
        ]
    }

    fn exchange(&self) -> Vec<Event> {
        let of = |number, second, record_type, operation, ip| Common {
            number,
            second,
            record_type,
            operation,
            workload: "Exchange",
            user_type: 0,
            user_key: JANE_KEY,
            user: self.jane(),
            ip,
        };
        let mailbox = |special: Value| {
            let mut record = json!({
                "ResultStatus": "Succeeded",
                "ClientIPAddress": JANE_IP,
                "ClientInfoString": "Client=OWA;Action=ViaProxy",
                "ExternalAccess": false,
                "InternalLogonType": 0,
                "LogonType": 0,
                "LogonUserSid": "S-1-5-21-3623811015-3361044348-30300820-1013",
                "MailboxGuid": MAILBOX,
                "MailboxOwnerSid": "S-1-5-21-3623811015-3361044348-30300820-1013",
                "MailboxOwnerUPN": self.jane(),
                "OrganizationName": self.domain,
                "OriginatingServer": "AM0PR04MB1234 (15.20.4200.000)\r\n",
                "SessionId": "d5b2f981-0e67-4c3a-8d19-a7c4e06b3f14",
            });
            if let (Value::Object(record), Value::Object(special)) = (&mut record, special) {
                record.extend(special);
            }
            record
        };
        let message =
            |n: u32| format!("<AM0PR04MB12340{n}A5C@AM0PR04MB1234.eurprd04.prod.outlook.com>");
        vec![
            self.event(
                "Jane opens her mail in Outlook",
                &of(5, 214, 50, "MailItemsAccessed", JANE_IP),
                mailbox(json!({
                    "OperationProperties": [
                        { "Name": "MailAccessType", "Value": "Bind" },
                        { "Name": "IsThrottled", "Value": "False" },
                    ],
                    "Folders": [{
                        "FolderItems": [
                            { "InternetMessageId": message(1), "SizeInBytes": 28_411 },
                            { "InternetMessageId": message(2), "SizeInBytes": 7_902 },
                        ],
                        "Id": "LgAAAAB8Zq1vT0mLQbR6r0wqk3E2AQD5",
                        "Path": "\\Inbox",
                    }],
                    "OperationCount": 2,
                })),
            ),
            self.event(
                "Jane sends a mail",
                &of(6, 287, 2, "Send", JANE_IP),
                mailbox(json!({
                    "Item": {
                        "Id": "RgAAAAB8Zq1vT0mLQbR6r0wqk3E2BwD5AAAJ",
                        "InternetMessageId": message(3),
                        "ParentFolder": {
                            "Id": "LgAAAAB8Zq1vT0mLQbR6r0wqk3E2AQD6",
                            "Path": "\\Drafts",
                        },
                        "SizeInBytes": 3_120,
                        "Subject": "Figures for the quarter",
                    },
                })),
            ),
            self.event(
                "someone has Jane's mail forwarded outside",
                &Common { user_type: 2, ..of(7, 655, 1, "New-InboxRule", "192.0.2.66:50312") },
                json!({
                    "ResultStatus": "True",
                    "ObjectId": format!("{}\\jane\\.", self.domain),
                    "ExternalAccess": false,
                    "OrganizationName": self.domain,
                    "OriginatingServer": "AM0PR04MB1234 (15.20.4200.000)\r\n",
                    "Parameters": [
                        { "Name": "Name", "Value": "." },
                        { "Name": "ForwardTo", "Value": OUTSIDE },
                        { "Name": "SubjectOrBodyContainsWords", "Value": "invoice;payment" },
                        { "Name": "StopProcessingRules", "Value": "True" },
                    ],
                    "SessionId": "1c7e9a40-b5d3-4f86-92c8-06ad7e18f515",
                }),
            ),
        ]
    }

    fn sharepoint(&self) -> Vec<Event> {
        let short = self.domain.split('.').next().unwrap_or_default();
        let person = format!("jane_{}", self.domain.replace('.', "_"));
        let site = format!("https://{short}-my.sharepoint.com/personal/{person}/");
        let of = |number, second, record_type, operation| Common {
            number,
            second,
            record_type,
            operation,
            workload: "OneDrive",
            user_type: 0,
            user_key: "i:0h.f|membership|10032001e8f9a0b1@live.com",
            user: self.jane(),
            ip: JANE_IP,
        };
        let file = |special: Value| {
            let mut record = json!({
                "ObjectId": format!("{site}Documents/Figures.xlsx"),
                "CorrelationId": "a0f5d6a1-3089-6000-7c4e-8b21d9e05f16",
                "EventSource": "SharePoint",
                "ItemType": "File",
                "ListId": "f3b6e127-8a4d-4950-b7c2-d10e95a86f17",
                "ListItemUniqueId": "20d8c59b-e713-46fa-9b05-4c8a71e3f218",
                "Site": "87e5a4c9-d02b-4f16-8e3a-f96b0c7d5219",
                "SiteUrl": site,
                "SourceFileName": "Figures.xlsx",
                "SourceFileExtension": "xlsx",
                "SourceRelativeUrl": "Documents",
                "UserAgent": BROWSER,
                "WebId": "3b94f7d0-6c82-4a1e-95d7-e8f20a6b1c20",
                "HighPriorityMediaProcessing": false,
            });
            if let (Value::Object(record), Value::Object(special)) = (&mut record, special) {
                record.extend(special);
            }
            // Records of OneDrive have no result.
            record
        };
        let mut events = vec![
            self.event(
                "Jane uploads a file to OneDrive",
                &of(8, 362, 6, "FileUploaded"),
                file(json!({})),
            ),
            self.event("Jane views the file", &of(9, 384, 6, "FileAccessed"), file(json!({}))),
            self.event(
                "Jane shares the file with an outside address",
                &of(10, 447, 14, "SharingSet"),
                file(json!({
                    "EventData": "<Permissions granted>Read</Permissions granted>",
                    "TargetUserOrGroupType": "Guest",
                    "TargetUserOrGroupName": OUTSIDE,
                })),
            ),
            self.event(
                "Jane makes a link that needs no sign-in",
                &of(11, 452, 14, "AnonymousLinkCreated"),
                file(json!({
                    "EventData": "<Type>View</Type>",
                    "UniqueSharingId": "6e1b0d94-f5a7-4238-8cd6-927fa3e40b21",
                })),
            ),
            self.event("Jane deletes the file", &of(12, 803, 6, "FileDeleted"), file(json!({}))),
        ];
        for event in &mut events {
            if let Value::Object(record) = &mut event.record {
                record.shift_remove("ResultStatus");
            }
        }
        events
    }

    fn teams(&self) -> Vec<Event> {
        let thread = "19:b81f7a264d034c9e_3e5d8c1f92a74b60@unq.gbl.spaces";
        let of = |number, second, operation| Common {
            number,
            second,
            record_type: 25,
            operation,
            workload: "MicrosoftTeams",
            user_type: 0,
            user_key: JANE_OBJECT,
            user: self.jane(),
            ip: JANE_IP,
        };
        let chat = |special: Value| {
            let mut record = json!({
                "ChatThreadId": thread,
                "CommunicationType": "OneOnOne",
                "ExtraProperties": [
                    { "Key": "TimeZone", "Value": "Europe/Berlin" },
                    { "Key": "OsName", "Value": "windows" },
                ],
                "ItemName": thread,
                "ParticipantInfo": {
                    "HasForeignTenantUsers": false,
                    "HasGuestUsers": false,
                    "HasOtherGuestUsers": false,
                    "HasUnauthenticatedUsers": false,
                    "ParticipatingTenantIds": [self.tenant],
                },
                "ResourceTenantId": self.tenant,
            });
            if let (Value::Object(record), Value::Object(special)) = (&mut record, special) {
                record.extend(special);
            }
            record
        };
        vec![
            self.event(
                "Jane begins a Teams chat with admin",
                &of(13, 521, "ChatCreated"),
                chat(json!({
                    "Members": [
                        { "DisplayName": "Jane Doe", "Role": 1, "UPN": self.jane() },
                        { "DisplayName": "Admin", "Role": 1, "UPN": self.admin() },
                    ],
                })),
            ),
            self.event(
                "Jane sends admin a message",
                &of(14, 533, "MessageSent"),
                chat(json!({
                    "MessageId": self.begin.unix_timestamp().saturating_mul(1000).to_string(),
                    "MessageVersion": self.begin.unix_timestamp().saturating_mul(1000),
                    "MessageSizeInBytes": 148,
                })),
            ),
        ]
    }

    fn dlp(&self) -> Vec<Event> {
        let common = Common {
            number: 15,
            second: 741,
            record_type: 13,
            operation: "DlpRuleMatch",
            workload: "Exchange",
            user_type: 4,
            user_key: "DlpAgent",
            user: "DlpAgent".to_owned(),
            ip: STRANGE_IP,
        };
        let special = json!({
            "ObjectId": "<AM0PR04MB123409A5C@AM0PR04MB1234.eurprd04.prod.outlook.com>",
            "IncidentId": "b0d7f53e-94c1-8a26-3000-08de1f6a4c22",
            "EvaluationTime": self.at(740),
            "ExchangeMetaData": {
                "From": self.jane(),
                "To": [OUTSIDE],
                "CC": [],
                "BCC": [],
                "MessageID": "<AM0PR04MB123409A5C@AM0PR04MB1234.eurprd04.prod.outlook.com>",
                "RecipientCount": 1,
                "Sent": self.at(738),
                "Subject": "FW: payment",
                "UniqueID": "7c29e5a0-d816-4f3b-a94e-58d0b1f6c323",
            },
            "PolicyDetails": [{
                "PolicyId": "d4a1c7f6-30be-4859-9a72-1e6fb80d5c24",
                "PolicyName": "Payment cards",
                "Rules": [{
                    "RuleId": "95f8b2e3-c764-4d0a-8b1f-a03c5d97e625",
                    "RuleName": "Card numbers to the outside",
                    "RuleMode": "Enable",
                    "Severity": "High",
                    "Actions": ["BlockAccess", "GenerateIncidentReport"],
                    "ManagementRuleId": "f1e60d8c-27a5-49b3-b6d4-c82a5e0f7326",
                    "ConditionsMatched": {
                        "ConditionMatchedInNewScheme": true,
                        "SensitiveInformation": [{
                            "Confidence": 85,
                            "Count": 1,
                            "Location": "Message Body",
                            "SensitiveInformationTypeName": "Credit Card Number",
                            "SensitiveType": "50842eb7-edc8-4019-85dd-5a5c1f2bb085",
                            "SensitiveInformationDetections": {
                                "DetectedValues": [{
                                    "Name": "4111 1111 1111 1111",
                                    "Value": "card 4111 1111 1111 1111, as agreed",
                                }],
                                "ResultsTruncated": false,
                            },
                        }],
                    },
                }],
            }],
            "SensitiveInfoDetectionIsIncluded": true,
        });
        let headline = "a forwarded mail with a card number is blocked";
        vec![self.event(headline, &common, special)]
    }
}
