//! Every class of configuration error ends the run with exit code 2, its exact message in the log,
//! nothing on the pipe and nothing sent.

use crate::harness::{CLIENT, SECRET, Site, TENANT};

/// The one error line in the log, without its time.
fn error(site: &Site) -> String {
    let log = site.log();
    let errors: Vec<_> = log.lines().filter(|line| line.contains(": ERROR: ")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    errors[0].split_once(" wodle-office365: ERROR: ").unwrap().1.to_owned()
}

#[test]
fn every_class_of_error_has_its_exact_message() {
    let table = [
        // (what stands in the file, what the log says after "configuration: FILE")
        ("", ": there is no <office365> block in it"),
        ("<office365>\n<api_auth>", ":1:1: <office365> is never closed"),
        (
            "<office365>\n <enabled>yes\n</office365>",
            ":3:1: this is not well-formed XML: a tag is not closed, or a value holds a bare & or <; write &amp; and &lt;",
        ),
        (
            "<office365>\n <tenant_id>x</tenant_id>\n</office365>",
            ":2:2: <tenant_id> is no option of <office365>; allowed: enabled, interval, curl_max_size, only_future_events, api_auth, subscriptions, proxy, ca_path, max_connections, lookback, run_timeout, max_output, normalize, exclude, log_level",
        ),
        (
            "<office365>\n <interval>2d</interval>\n</office365>",
            ":2:2: <interval> is \"2d\"; allowed: 1s to 1d (number and s, m, h or d)",
        ),
        (
            "<office365>\n <enabled>true</enabled>\n</office365>",
            ":2:2: <enabled> is \"true\"; allowed: yes, no",
        ),
        (
            "<office365>\n <max_connections>0</max_connections>\n</office365>",
            ":2:2: <max_connections> is \"0\"; allowed: 1 to 64",
        ),
        (
            "<office365>\n <lookback/>\n</office365>",
            ":2:2: <lookback> is empty; allowed: 5m to 24h (number and s, m, h or d)",
        ),
        (
            "<office365>\n <proxy>socks5://u:hunter2@h</proxy>\n</office365>",
            ":2:2: <proxy> has a wrong value; allowed: http://[user:password@]host:port (only http:// proxies are supported)",
        ),
        (
            "<office365>\n <api_auth><client_id>x</client_id></api_auth>\n</office365>",
            ":2:2: <api_auth> lacks <tenant_id>",
        ),
        ("<office365>\n</office365>", ":1:1: <office365> lacks <api_auth>"),
        (
            "<office365>\n <subscriptions><subscription>Audit.Teams</subscription></subscriptions>\n</office365>",
            ":2:17: <subscription> is \"Audit.Teams\"; allowed: Audit.AzureActiveDirectory, Audit.Exchange, Audit.SharePoint, Audit.General, DLP.All",
        ),
    ];
    for (text, expected) in table {
        let site = Site::new();
        site.write_config(text);
        let run = site.poll();
        let expected = format!("configuration: {}{expected}", site.config().display());
        assert_eq!((run.code, error(&site)), (Some(2), expected.clone()), "{text}");
        let notice = &run.notices()[0];
        assert_eq!(notice["notice"], "configuration", "{text}");
        assert_eq!(notice["response"], expected);
        assert!(run.events().is_empty() && !run.text().contains("hunter2"));
        assert!(site.simulator.requests().is_empty());
        assert!(!site.log().contains("hunter2"));
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let site = Site::new();
    std::fs::remove_file(site.config()).unwrap();
    assert_eq!(site.poll().code, Some(2));
    let expected = format!(
        "{} can't be read: No such file or directory (os error 2); is it spelt right? Relative paths \
         begin at HOME",
        site.config().display()
    );
    assert_eq!(error(&site), expected);
    std::fs::create_dir(site.config()).unwrap();
    assert_eq!(site.poll().code, Some(2));
    assert!(site.log().contains("can't be read: it is not a regular file"), "{}", site.log());
}

#[test]
fn a_whole_ossec_conf_is_as_good() {
    let site = Site::new();
    site.publish("Audit.General", time::Duration::minutes(5), &["1"]);
    let auth = site.api_auth(TENANT, CLIENT, SECRET);
    site.write_config(&format!(
        "<!-- <office365> a comment -->\n<ossec_config>\n<global><email_to>a & b</email_to></global>\n\
         <office365>\n<interval>1m</interval>\n<interval>2m</interval>\n{auth}\n</office365>\n\
         </ossec_config>\n<ossec_config>\n<office365><only_future_events>no</only_future_events>\
         <subscriptions><subscription>Audit.General</subscription></subscriptions></office365>\n\
         </ossec_config>\n"
    ));
    assert_eq!(site.poll_well().ids(), ["1"]);
    assert!(
        site.log().contains(":6:1: <interval> is given more than once; the last one (2m) counts"),
        "{}",
        site.log()
    );
    assert_eq!(site.state()["interval"], 120);
}

#[test]
fn the_sample_configuration_is_valid_and_disabled() {
    let sample = std::fs::read_to_string("wodle/wodle-office365.conf").unwrap();
    let site = Site::new();
    site.write_config(&sample);
    assert_eq!(site.poll_well().text(), "");
    assert!(site.log().contains("disabled by <enabled>no</enabled>"), "{}", site.log());
    // Enabled, it lacks nothing but what is one's own.
    let ours = sample
        .replace("<enabled>no", "<enabled>yes")
        .replace("00000000-0000-0000-0000-000000000000", TENANT);
    assert_ne!(ours, sample);
    let config = wodle_office365::config::parse("sample", ours.as_bytes()).unwrap();
    assert_eq!(
        (config.tenants.len(), config.subscriptions.len(), config.warnings.len()),
        (1, 5, 0)
    );
}
