//! What earlier releases have stored is read by this one: `stored/VERSION` holds the configuration and
//! the files of a home at the end of the same story, as the release of that version left them.
//!
//! A release adds its own: `cargo test --test outside stored::keep -- --ignored`.

use std::fs;
use std::path::{Path, PathBuf};

use office365_simulator::{Blob, Call, Fault};
use ring::digest;
use serde_json::json;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::harness::{CLIENT, SECRET, Site, TENANT, mode_of, record, write_file};

const GENERAL: &str = "Audit.General";
const SHAREPOINT: &str = "Audit.SharePoint";
const DLP: &str = "DLP.All";

/// When the story begins, by the simulator's clock.
const BASE: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

const FOLDER: &str = "var/wodles/wodle-office365";
const FILES: [&str; 3] = ["state.json", "state.previous.json", "token.json"];

/// Where the releases' files are.
fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/stored")
}

/// A home at the time of the story, with what Microsoft has.
fn site() -> Site {
    let site = Site::new();
    let exclude = "<exclude><operation>Noise</operation></exclude><lookback>2h</lookback>";
    let options = format!("<only_future_events>no</only_future_events>{exclude}");
    let auth = site.api_auth("contoso.example", CLIENT, SECRET);
    site.configure_with(&options, &auth, &[GENERAL, SHAREPOINT, DLP]);
    site.simulator.advance(BASE - site.now());
    for name in [GENERAL, SHAREPOINT, DLP] {
        site.simulator.set_subscription(TENANT, name, Some("enabled"));
    }
    let publish = |content_type, id: &str, minutes, records: &[_]| {
        let blob = Blob::new(BASE - Duration::minutes(minutes), records).id(id);
        site.simulator.publish(TENANT, content_type, blob);
    };
    let mut noise = record("noise");
    noise["Operation"] = "Noise".into();
    publish(GENERAL, "delivered", 50, &[record("a1"), noise, record("a2")]);
    publish(GENERAL, "waiting", 20, &[record("b")]);
    let many: Vec<_> = (0..3000).map(|n| record(&format!("{n:04}"))).collect();
    publish(SHAREPOINT, "half", 15, &many);
    publish(DLP, "past", 4 * 24 * 60 + 6 * 60, &[record("past")]);
    site
}

#[test]
fn what_earlier_releases_left_is_gone_on_with() {
    let versions: Vec<_> = fs::read_dir(stored()).unwrap().map(|v| v.unwrap().path()).collect();
    assert!(!versions.is_empty());
    for version in versions {
        let site = site();
        let read = |name: &str| fs::read_to_string(version.join(name)).unwrap();
        site.simulator.advance(Duration::minutes(3));
        let offset = (site.now() - OffsetDateTime::now_utc()).whole_seconds().to_string();
        let filled = |name: &str| {
            let text = read(name).replace("@LOGIN@", &site.simulator.login_url());
            let text = text.replace("@MANAGEMENT@", &site.simulator.management_url());
            text.replace("@OFFSET@", &offset)
        };
        site.write_config(&filled("wodle-office365.conf"));
        fs::create_dir(site.path(FOLDER)).unwrap();
        for name in FILES {
            write_file(&site.path(FOLDER).join(name), filled(name).as_bytes(), 0o600);
        }
        let queued = site.admin(&["status"]);
        assert!(
            queued.line("backfill of DLP.All").contains("from 2026-11-15T"),
            "{}",
            queued.stdout
        );
        assert!(queued.line(GENERAL).contains("1 (1 failed)"), "{}", queued.stdout);

        let mut ids = site.poll_well().ids();
        ids.extend(site.poll_well().ids());
        ids.sort();
        // What is not delivered; and what the last run before had written, for it was handed over to a
        // modulesd that is gone.
        let mut expected: Vec<_> = (0..3000).map(|n| format!("{n:04}")).collect();
        expected.extend(["b".to_owned(), "past".to_owned()]);
        expected.sort();
        assert_eq!(ids, expected, "{} {}", version.display(), site.log());
        assert!(!site.log().contains("ERROR"), "{}", site.log());
        let state = site.state();
        let general = &state["tenants"]["contoso.example"]["streams"][GENERAL];
        assert_eq!((&general["excluded"], &general["in_all"]["events"]), (&json!(1), &json!(3)));
        assert!(site.admin(&["status"]).well().contains("\nall well\n"));
        assert_eq!(site.poll_well().text(), "");
    }
}

/// Keeps what this release leaves.
#[test]
#[ignore = "writes into the source tree, once a release"]
fn keep() {
    let site = site();
    let fault = |id: &str| Fault::on(Call::Fetch).content_id(id);
    site.simulator.fault(fault("waiting").always().respond(500, "no"));
    // Not yet: it is the second run that writes half of it, so only that is handed over at the end.
    site.simulator.fault(fault("half").times(5).respond(500, "no"));
    assert_eq!(site.poll().code, Some(1));
    site.simulator.advance(Duration::minutes(1));
    site.simulator.clear_faults();
    site.simulator.fault(fault("waiting").always().respond(500, "no"));
    site.simulator.fault(fault("half").always().cut(400_000));
    assert_eq!(site.poll().code, Some(1));
    let window = ["backfill", "--from", "2026-11-15T12:00:00Z", "--to", "2026-11-17T12:00:00Z"];
    site.admin(&[&window[..], &["--content-type", DLP]].concat()).well();

    let folder = stored().join(env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(&folder).unwrap();
    let emptied = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let text = text.replace(&site.simulator.login_url(), "@LOGIN@");
        text.replace(&site.simulator.management_url(), "@MANAGEMENT@")
    };
    let offset = format!("\"clock_offset\":{},", site.state()["clock_offset"]);
    for name in FILES {
        let text = emptied(&site.path(FOLDER).join(name));
        // The story's time is not the machine's.
        let text = text.replace(&offset, "\"clock_offset\":@OFFSET@,");
        fs::write(folder.join(name), text).unwrap();
    }
    fs::write(folder.join("wodle-office365.conf"), emptied(&site.config())).unwrap();
}

#[test]
fn the_packages_configuration_never_changes_and_collects_nothing() {
    let installed = include_bytes!("../../packaging/wodle-office365.conf");
    // A version with another one would have every administrator asked which of the two he wants.
    let hash = digest::digest(&digest::SHA256, installed);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "4716292a65668ce5ea45f2d9e86ea4a3fba1f55d2e490ebd794ef7ae0f18603f");
    let site = Site::new();
    write_file(&site.config(), installed, 0o640);
    assert_eq!(site.poll_well().text(), "");
    assert!(site.log().contains("disabled by <enabled>no</enabled>"), "{}", site.log());
    assert!(site.simulator.requests().is_empty());
    assert!(site.admin(&["check"]).well().contains("<enabled>no</enabled>: polls do nothing"));
    assert_eq!(mode_of(&site.config()), 0o640);
}
