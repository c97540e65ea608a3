//! Tables of what is taken and what is not, with the messages.

use super::*;
use crate::event::Exclude;

const MINIMAL: &str = "<office365>
  <api_auth>
    <tenant_id>contoso.example</tenant_id>
    <client_id>b2c7a1de-0000-4000-8000-000000000001</client_id>
    <client_secret> Tr0ub4dor&amp;3 </client_secret>
  </api_auth>
  <subscriptions><subscription>Audit.General</subscription></subscriptions>
</office365>";

fn read(text: &str) -> Result<Config, String> {
    parse("f", text.as_bytes()).map_err(|error| error.to_string())
}

/// A configuration with `option` in it, on line 1.
fn with(option: &str) -> Result<Config, String> {
    read(&MINIMAL.replacen("<office365>", &format!("<office365>{option}"), 1))
}

/// A configuration with `option` in its `api_auth`, on line 2.
fn with_auth(option: &str) -> Result<Config, String> {
    read(&MINIMAL.replacen("<api_auth>", &format!("<api_auth>{option}"), 1))
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = read(MINIMAL).unwrap();
    let expected = Config {
        enabled: true,
        interval: 60,
        max_held: 16 << 20,
        only_future_events: true,
        tenants: vec![Arc::new(Tenant {
            tenant_id: "contoso.example".to_owned(),
            client_id: "b2c7a1de-0000-4000-8000-000000000001".to_owned(),
            credential: Credential::Secret(Secret::new("Tr0ub4dor&3")),
            login: "https://login.microsoftonline.com".to_owned(),
            management: "https://manage.office.com".to_owned(),
        })],
        subscriptions: vec![ContentType::General],
        proxy: None,
        ca_path: None,
        max_connections: 8,
        lookback: 3600,
        run_timeout: 300,
        max_output: 8 << 20,
        events: Options { normalize: true, exclude: vec![] },
        log_level: LevelFilter::Info,
        warnings: vec![],
        writers: None,
    };
    assert_eq!(config, expected);
    assert!(!format!("{config:?}").contains("Tr0ub"));
}

#[test]
fn every_option_is_taken() {
    let config = with(
        "<enabled>yes</enabled><interval>5M</interval><curl_max_size>32m</curl_max_size>
        <only_future_events>no</only_future_events><proxy>http://u:p@proxy:3128</proxy>
        <ca_path>/etc/ca@1.pem</ca_path><max_connections>64</max_connections>
        <lookback>24h</lookback><run_timeout>10</run_timeout><max_output>60M</max_output>
        <normalize>no</normalize><log_level>debug</log_level>",
    )
    .unwrap();
    assert_eq!((config.interval, config.max_held), (300, 32 << 20));
    assert_eq!((config.max_connections, config.lookback), (64, 86_400));
    assert_eq!((config.run_timeout, config.max_output), (10, 60 << 20));
    assert_eq!(config.log_level, LevelFilter::Debug);
    assert_eq!(config.ca_path, Some(PathBuf::from("/etc/ca@1.pem")));
    assert_eq!(config.proxy.map(|proxy| proxy.port), Some(3128));
    assert!(!config.only_future_events);
    let tenant = |option: &str| with_auth(option).unwrap().tenants.remove(0);
    assert_eq!(tenant("<api_type>dod</api_type>").management, "https://manage.protection.apps.mil");
    let own = tenant(
        "<login_url>https://Login.Example:8443/</login_url><management_url>http://[::1]:1</management_url>",
    );
    assert_eq!(
        (own.login.as_str(), own.management.as_str()),
        ("https://login.example:8443", "http://[::1]:1")
    );
}

#[test]
fn every_wrong_value_is_named_with_what_is_allowed() {
    let times = "(number and s, m, h or d)";
    let table = [
        ("<enabled>maybe</enabled>", "<enabled> is \"maybe\"; allowed: yes, no"),
        ("<enabled>Yes</enabled>", "<enabled> is \"Yes\"; allowed: yes, no"),
        ("<interval>0</interval>", &format!("<interval> is \"0\"; allowed: 1s to 1d {times}")),
        ("<interval>25h</interval>", &format!("<interval> is \"25h\"; allowed: 1s to 1d {times}")),
        ("<interval>1x</interval>", &format!("<interval> is \"1x\"; allowed: 1s to 1d {times}")),
        ("<interval>-1</interval>", &format!("<interval> is \"-1\"; allowed: 1s to 1d {times}")),
        ("<interval>m</interval>", &format!("<interval> is \"m\"; allowed: 1s to 1d {times}")),
        (
            "<curl_max_size>1023</curl_max_size>",
            "<curl_max_size> is \"1023\"; allowed: 1k or more (number and k, m or g)",
        ),
        (
            "<curl_max_size>99999999999g</curl_max_size>",
            "<curl_max_size> is \"99999999999g\"; allowed: 1k or more (number and k, m or g)",
        ),
        (
            "<only_future_events>1</only_future_events>",
            "<only_future_events> is \"1\"; allowed: yes, no",
        ),
        (
            "<proxy>https://u:hunter2@p</proxy>",
            "<proxy> has a wrong value; allowed: http://[user:password@]host:port (only http:// proxies are supported)",
        ),
        ("<max_connections>65</max_connections>", "<max_connections> is \"65\"; allowed: 1 to 64"),
        ("<max_connections>8k</max_connections>", "<max_connections> is \"8k\"; allowed: 1 to 64"),
        ("<lookback>4m</lookback>", &format!("<lookback> is \"4m\"; allowed: 5m to 24h {times}")),
        (
            "<run_timeout>9</run_timeout>",
            &format!("<run_timeout> is \"9\"; allowed: 10s to 1d {times}"),
        ),
        (
            "<max_output>61M</max_output>",
            "<max_output> is \"61M\"; allowed: 256k to 60M (number and k, m or g)",
        ),
        (
            "<log_level>trace</log_level>",
            "<log_level> is \"trace\"; allowed: error, warning, info, debug",
        ),
        ("<normalize>true</normalize>", "<normalize> is \"true\"; allowed: yes, no"),
        (
            "<exclude> </exclude>",
            "<exclude> is empty and would leave out every record; allowed: record_type, operation, \
             workload, user_id",
        ),
        ("<interval></interval>", &format!("<interval> is empty; allowed: 1s to 1d {times}")),
        ("<interval/>", &format!("<interval> is empty; allowed: 1s to 1d {times}")),
        ("<interval>1<b/>m</interval>", "<interval> holds a tag where its value should be"),
        ("<interval unit=\"m\">1</interval>", "<interval> takes no attributes"),
        ("<!-- c -->", ""),
    ];
    for (option, expected) in table {
        match with(option) {
            Ok(_) => assert_eq!(expected, "", "{option}"),
            Err(error) => assert_eq!(error, format!("f:1:12: {expected}"), "{option}"),
        }
    }
}

#[test]
fn filters_are_taken_as_they_stand() {
    let config = with(
        "<exclude><record_type>050</record_type><operation> MailItemsAccessed </operation></exclude>
        <exclude><user_id>Svc@Contoso.Example</user_id><workload>A</workload>
        <workload>OneDrive</workload></exclude>",
    )
    .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        Exclude {
            record_type: text("50"),
            operation: text("MailItemsAccessed"),
            ..Exclude::default()
        },
        Exclude {
            workload: text("OneDrive"),
            user_id: text("Svc@Contoso.Example"),
            ..Exclude::default()
        },
    ];
    assert_eq!(config.events.exclude, expected);
    let doubled = "f:3:9: <workload> is given more than once; the last one (OneDrive) counts";
    assert_eq!(config.warnings, [doubled]);
    for (option, expected) in [
        (
            "<exclude><record_type>MailItemsAccessed</record_type></exclude>",
            "f:1:21: <record_type> is \"MailItemsAccessed\"; allowed: a number, as RecordType of \
             the records",
        ),
        (
            "<exclude><record_type>+50</record_type></exclude>",
            "f:1:21: <record_type> is \"+50\"; allowed: a number, as RecordType of the records",
        ),
        (
            "<exclude><operation/></exclude>",
            "f:1:21: <operation> is empty; allowed: a value of the records",
        ),
        (
            "<exclude><operations>Send</operations></exclude>",
            "f:1:21: <operations> is no option of <exclude>; did you mean <operation>? allowed: \
             record_type, operation, workload, user_id",
        ),
    ] {
        assert_eq!(with(option).unwrap_err(), expected);
    }
}

#[test]
fn unknown_tags_are_errors_that_help() {
    let error = with("\n  <intervall>1m</intervall>").unwrap_err();
    assert_eq!(
        error,
        "f:2:3: <intervall> is no option of <office365>; did you mean <interval>? allowed: \
         enabled, interval, curl_max_size, only_future_events, api_auth, subscriptions, proxy, \
         ca_path, max_connections, lookback, run_timeout, max_output, normalize, exclude, log_level"
    );
    let error = with_auth("<client-secret>hunter2</client-secret>").unwrap_err();
    assert!(error.starts_with(
        "f:2:13: <client-secret> is no option of <api_auth>; did you mean <client_secret>?"
    ));
    assert!(!error.contains("hunter2"));
    let error = with("<zzz>1</zzz>").unwrap_err();
    assert!(error.starts_with("f:1:12: <zzz> is no option of <office365>; allowed: "));
    assert_eq!(with("hello").unwrap_err(), "f:1:12: there is text between the tags of <office365>");
}

#[test]
fn every_fault_of_api_auth_and_subscriptions_is_named() {
    let table = [
        (
            MINIMAL.replace("<tenant_id>contoso.example</tenant_id>", ""),
            "f:2:3: <api_auth> lacks <tenant_id>",
        ),
        (
            MINIMAL.replace("contoso.example", "../etc"),
            "f:3:5: <tenant_id> is \"../etc\"; allowed: a GUID or a domain name",
        ),
        (
            MINIMAL.replace("client_id>", "client_idd>"),
            "f:4:5: <client_idd> is no option of <api_auth>; did you mean <client_id>? allowed: tenant_id, client_id, client_secret, client_secret_path, client_certificate_path, client_key_path, api_type, login_url, management_url",
        ),
        (
            MINIMAL.replace("    <client_secret> Tr0ub4dor&amp;3 </client_secret>\n", ""),
            "f:2:3: <api_auth> lacks <client_secret>, <client_secret_path>, or <client_certificate_path> and <client_key_path>",
        ),
        (
            MINIMAL.replace(
                "</client_secret>",
                "</client_secret><client_secret_path>x</client_secret_path>",
            ),
            "f:5:53: this is one way too many to sign in: keep one of <client_secret>, <client_secret_path>, or <client_certificate_path> and <client_key_path>",
        ),
        (
            MINIMAL.replace("Tr0ub4dor&amp;3", ""),
            "f:5:5: <client_secret> is empty; allowed: the secret's Value",
        ),
        (
            MINIMAL.replace("&amp;", "&"),
            "f:5:30: this is not well-formed XML: a tag is not closed, or a value holds a bare & or <; write &amp; and &lt;",
        ),
        (
            MINIMAL.replace("Audit.General", "Audit.Generals"),
            "f:7:18: <subscription> is \"Audit.Generals\"; allowed: Audit.AzureActiveDirectory, Audit.Exchange, Audit.SharePoint, Audit.General, DLP.All",
        ),
        (
            MINIMAL.replace("<subscription>Audit.General</subscription>", ""),
            "f:7:3: <subscriptions> holds no <subscription>",
        ),
        (
            MINIMAL.replace(
                "  <subscriptions><subscription>Audit.General</subscription></subscriptions>\n",
                "",
            ),
            "f:1:1: <office365> lacks <subscriptions>",
        ),
        ("<office365/>".to_owned(), "f:1:1: <office365> lacks <api_auth>"),
        (MINIMAL.replace("</office365>", ""), "f:1:1: <office365> is never closed"),
        ("<ossec_config></ossec_config>".to_owned(), "f: there is no <office365> block in it"),
        (String::new(), "f: there is no <office365> block in it"),
        (
            MINIMAL.replace("</api_auth>", "<api_type>gov</api_type></api_auth>"),
            "f:6:3: <api_type> is \"gov\"; allowed: commercial, gcc, gcc-high, dod",
        ),
        (
            MINIMAL.replace("</api_auth>", "<client_key_path>x</client_key_path></api_auth>"),
            "f:6:3: <client_key_path> needs a <client_certificate_path>",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(read(&text).unwrap_err(), expected);
    }
    let allowed =
        "allowed: https://host[:port], or http://host[:port] where the host is a loopback address";
    for value in [
        "http://login.example",
        "ftp://127.0.0.1",
        "https://",
        "https://h/path",
        "https://h:0",
        "https://h:99999",
        "http://127.0.0.1.example",
        "https://[::1",
        "https://[127.0.0.1]",
        "https://a[b",
        "https://a]:1",
        "h",
    ] {
        let error = with_auth(&format!("<login_url>{value}</login_url>")).unwrap_err();
        assert_eq!(error, format!("f:2:13: <login_url> is \"{value}\"; {allowed}"));
    }
    let error = with_auth("<login_url>https://u:hunter2@h</login_url>").unwrap_err();
    assert_eq!(error, format!("f:2:13: <login_url> has a wrong value; {allowed}"));
    let twice = format!("{MINIMAL}\n{}", MINIMAL.replace("contoso", "Contoso"));
    assert_eq!(
        read(&twice).unwrap_err(),
        "f:10:3: <tenant_id> \"Contoso.example\" has an <api_auth> already, at line 2: every event would come twice; remove one"
    );
}

#[test]
fn what_may_be_a_secret_in_the_wrong_place_is_not_shown() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIIEvhunter2\n-----END PRIVATE KEY-----";
    let secret = "hunter2~8Q~hunter2hunter2hunter2hunter2";
    for option in [
        format!("<ca_path>{key}</ca_path>"),
        format!("<ca_path>{}</ca_path>", key.replace('\n', " ")),
        "<ca_path>http://u:hunter2@proxy:1</ca_path>".to_owned(),
        "<proxy>u:hunter2</proxy>".to_owned(),
        "<proxy>http://u:hunter2:proxy:1</proxy>".to_owned(),
        "<proxy>proxy:3128:u:hunter2</proxy>".to_owned(),
    ] {
        let error = with(&option).unwrap_err();
        assert!(error.contains(" has a wrong value; allowed: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for option in [
        format!("<client_key_path>{key}</client_key_path>"),
        format!("<client_certificate_path>{key}</client_certificate_path>"),
        format!("<client_secret_path>{key}</client_secret_path>"),
        format!("<client_id>{secret}</client_id>"),
        format!("<tenant_id>{secret}</tenant_id>"),
        format!("<api_type>{secret}</api_type>"),
        format!("<login_url>https://h/?client_secret={secret}</login_url>"),
    ] {
        let text = MINIMAL.replace("</api_auth>", &format!("{option}</api_auth>"));
        let error = read(&text).unwrap_err();
        assert!(error.contains(" has a wrong value; allowed: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    // What surely is none is shown.
    for (option, shown) in [
        ("<proxy>socks5://proxy:1080</proxy>", "<proxy> is \"socks5://proxy:1080\""),
        ("<api_type>goverment</api_type>", "<api_type> is \"goverment\""),
        ("<login_url>https://{b2c7a1de}</login_url>", "<login_url> is \"https://{b2c7a1de}\""),
    ] {
        let error = if option.starts_with("<proxy>") { with(option) } else { with_auth(option) };
        let error = error.unwrap_err();
        assert!(error.contains(shown), "{error}");
    }
}

#[test]
fn values_are_quoted_briefly_and_on_one_line() {
    let long = "1\n".repeat(2000);
    let operation = format!("<operation>{long}</operation>");
    let lines = format!("<exclude>{operation}{operation}</exclude>");
    let doubled = with(&lines).unwrap().warnings.remove(0);
    let wrong = with(&format!("<interval>{long}</interval>")).unwrap_err();
    let unknown = with(&format!("<{}/>", "x".repeat(4000))).unwrap_err();
    for text in [doubled, wrong, unknown] {
        assert!(text.len() < 900 && !text.contains('\n'), "{text}");
    }
}

#[test]
fn a_doubled_scalar_counts_as_last_given_with_a_warning() {
    let config = with("<interval>1m</interval>\n<interval>2m</interval>").unwrap();
    assert_eq!(config.interval, 120);
    assert_eq!(
        config.warnings,
        ["f:2:1: <interval> is given more than once; the last one (2m) counts"]
    );
    let config = with_auth("<client_secret>hunter2</client_secret>").unwrap();
    assert_eq!(
        config.warnings,
        ["f:5:5: <client_secret> is given more than once; the last one counts"]
    );
}

#[test]
fn a_whole_ossec_conf_is_taken() {
    let text = format!(
        "<!-- <office365> & old -->\n<ossec_config><global><email>a & b</email></global>\n{MINIMAL}\n\
         </ossec_config>\n<ossec_config>\n<!--\n{MINIMAL}\n--><office365_x/>\n\
         <office365 >\n<interval>2m</interval><subscriptions><subscription>DLP.All</subscription>\
         <subscription>Audit.General</subscription></subscriptions></office365 >\n</ossec_config> <localfile>\n"
    );
    let config = read(&text).unwrap();
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.interval, 120);
    assert_eq!(config.subscriptions, [ContentType::General, ContentType::Dlp]);
    let broken = text.replace("2m", "2y");
    assert!(read(&broken).unwrap_err().starts_with("f:24:1: <interval> is \"2y\""));
    let mut latin1 = b"<!-- caf\xe9 -->".to_vec();
    latin1.extend_from_slice(MINIMAL.as_bytes());
    assert!(parse("f", &latin1).is_ok());
    latin1.splice(30..30, *b"\xe9");
    assert_eq!(parse("f", &latin1).unwrap_err().text, "this is not UTF-8");
}

#[test]
fn angle_brackets_without_number_cost_little() {
    // Looking for the end of each as of a tag took minutes.
    let text = "<".repeat(4 << 20);
    assert_eq!(read(&text).unwrap_err(), "f: there is no <office365> block in it");
}

#[test]
fn utf16_is_named() {
    let error = parse("f", b"\xFF\xFE<\0").unwrap_err();
    assert_eq!(error.to_string(), "f:1:1: this is UTF-16: save it as UTF-8");
}

#[test]
fn what_is_held_in_memory_is_bounded_from_both_sides() {
    for (size, held) in [("1k", 16), ("20m", 20), ("18446744073709551615", 48)] {
        let config = with(&format!("<curl_max_size>{size}</curl_max_size>")).unwrap();
        assert_eq!(config.max_held, held << 20);
    }
}

#[test]
fn disabled_needs_nothing_else() {
    let config = read("<office365><enabled>no</enabled></office365>").unwrap();
    assert!(!config.enabled);
}

#[test]
fn guids_are_told_from_domain_names() {
    assert!(is_guid("B2C7A1DE-0000-4000-8000-00000000000f"));
    for other in [
        "contoso.example",
        "b2c7a1de-0000-4000-8000-00000000000",
        "",
        "b2c7a1de-0000-4000-8000-00000000000g",
        "b2c7a1de-0000-4000-8000-000000000001-",
    ] {
        assert!(!is_guid(other), "{other}");
    }
}
