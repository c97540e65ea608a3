//! Whose files a run reads, writes and changes: what the group wazuh, which may write to the folders
//! around our files, could put in their place.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::geteuid;
use time::Duration;

use crate::harness::{CLIENT, SECRET, Site, TENANT, mode_of, write_file};
use crate::machine::{output, with_mounts};

const GENERAL: &str = "Audit.General";
const FOLDER: &str = "var/wodles/wodle-office365";

/// A user and a group that are not root's.
const STRANGER: u32 = 4242;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Makes a folder with a mode, whatever the umask is.
fn folder(path: &Path, mode: u32) -> PathBuf {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).unwrap();
    set_mode(path, mode);
    path.to_owned()
}

/// Makes a link of root's, or the caller's.
fn link(to: &Path, path: &Path) {
    let _ = fs::remove_file(path);
    symlink(to, path).unwrap();
}

/// What the log says of a run that must find a fault in the set-up, and ask nobody for anything.
fn refusal(site: &Site, command: &mut Command) -> String {
    site.clear_log();
    site.simulator.clear_requests();
    let run = site.run(command);
    assert_eq!(run.code, Some(2), "{}", site.log());
    assert_eq!(site.simulator.requests().len(), 0, "{}", site.log());
    site.log()
}

/// The configuration with this option in the place of the secret, and a further one.
fn configure(site: &Site, sign_in: &str, further: &str) {
    let auth = site.api_auth_with(TENANT, CLIENT, sign_in);
    let options = format!("<only_future_events>no</only_future_events>{further}");
    site.configure_with(&options, &auth, &[GENERAL]);
}

/// Each file that the configuration names, by its option: where a link is to lead, and what names it.
const NAMED: [(&str, &str); 4] = [
    ("client_secret_path", "<client_secret_path>@</client_secret_path>"),
    (
        "client_certificate_path",
        "<client_certificate_path>@</client_certificate_path>\
         <client_key_path>etc/elsewhere/key</client_key_path>",
    ),
    (
        "client_key_path",
        "<client_certificate_path>etc/elsewhere/certificate</client_certificate_path>\
         <client_key_path>@</client_key_path>",
    ),
    ("ca_path", "<client_secret>x</client_secret>"),
];

/// A site with a file of root's that is to be reached by a link, and a folder for links.
fn linked() -> (Site, PathBuf, PathBuf) {
    let site = Site::new();
    folder(&site.path("etc/elsewhere"), 0o755);
    let target = site.path("etc/elsewhere/secret");
    write_file(&target, SECRET.as_bytes(), 0o600);
    write_file(&site.path("etc/elsewhere/key"), include_bytes!("keys/rsa.pem"), 0o600);
    let links = folder(&site.path("etc/links"), 0o755);
    (site, target, links)
}

#[test]
fn no_file_is_read_through_a_link_that_others_could_have_made() {
    let (site, target, links) = linked();
    let at = links.join("link");
    // What makes the link somebody else's, and whether that needs root.
    type Make = fn(&Path, &Path);
    let makers: [(&str, bool, Make); 4] = [
        ("others than root may write to its folder", false, |_, at| {
            set_mode(at.parent().unwrap(), 0o775);
        }),
        ("others than root may write to its folder", false, |_, at| {
            // Not even root's own link: another of its links may have been moved there.
            set_mode(at.parent().unwrap(), 0o1777);
        }),
        ("it belongs to user 4242", true, |_, at| lchown(at, Some(STRANGER), None).unwrap()),
        ("others than root may write to its folder", true, |_, at| {
            chown(at.parent().unwrap(), Some(STRANGER), None).unwrap();
        }),
    ];
    for (why, needs_root, make) in makers {
        if needs_root && !geteuid().is_root() {
            continue;
        }
        for (option, text) in NAMED {
            for by in ["etc/links/link", "etc/links/folder/secret", &at.display().to_string()] {
                let is_roots = why.starts_with("others");
                link(&target, &at);
                link(&site.path("etc/elsewhere"), &links.join("folder"));
                for name in [&at, &links.join("folder")] {
                    make(&target, name);
                }
                let further = match option {
                    "ca_path" => format!("<ca_path>{by}</ca_path>"),
                    _ => String::new(),
                };
                configure(&site, &text.replace('@', by), &further);
                let log = refusal(&site, &mut site.command());
                let case = format!("{option} {by}: {log}");
                let real = format!("write {} into the configuration", target.display());
                let remedy = if is_roots { &real } else { "root has not made it: remove it" };
                for part in [option, "is a symbolic link", why, remedy] {
                    assert!(log.contains(part), "{part:?}: {case}");
                }
                set_mode(&links, 0o755);
                chown(&links, Some(geteuid().as_raw()), None).unwrap();
            }
        }
    }
}

#[test]
fn a_configuration_behind_a_link_that_others_could_have_made_is_refused() {
    let (site, _, _) = linked();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let real = site.path("etc/elsewhere/real.conf");
    fs::rename(site.config(), &real).unwrap();
    link(&real, &site.config());
    // Wazuh's own mode of HOME/etc.
    set_mode(&site.path("etc"), 0o770);
    let log = refusal(&site, &mut site.command());
    for part in [&format!("say --config {} in the wodle block", real.display()), "mode 0770"] {
        assert!(log.contains(part), "{log}");
    }
    let check = site.admin(&["check"]);
    assert_eq!(check.code, Some(2), "{}", check.stdout);
    assert!(check.line("FAIL  configuration").contains("is a symbolic link to"));
    let mut command = site.command();
    let run = site.run(command.arg("--config").arg(&real));
    assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
}

#[test]
fn links_that_only_root_could_have_made_are_followed() {
    let (site, target, links) = linked();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    link(&target, &links.join("one"));
    link(&links.join("one"), &links.join("two"));
    link(Path::new("../links/two"), &links.join("three"));
    let sign_in = "<client_secret_path>etc/links/three</client_secret_path>";
    configure(&site, sign_in, "");
    // HOME as well.
    let elsewhere = tempfile::TempDir::new().unwrap();
    let home = elsewhere.path().join("home");
    link(&site.path(""), &home);
    let mut command = site.command();
    command.args(["--home".as_ref(), home.as_os_str()]);
    let run = site.run(&command);
    assert_eq!((run.code, run.ids()), (Some(0), vec!["1".to_owned()]), "{}", site.log());
    link(&links.join("four"), &links.join("four"));
    configure(&site, "<client_secret_path>etc/links/four</client_secret_path>", "");
    let log = refusal(&site, &mut site.command());
    assert!(log.contains("Too many levels of symbolic links"), "{log}");
}

/// The files of a Kubernetes secret are links into a folder that is exchanged as a whole, in a folder with
/// the mode of /tmp on a file system that is mounted read-only.
#[test]
fn a_kubernetes_secret_is_read() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let secrets = folder(&site.path("etc/secrets"), 0o755);
    configure(&site, "<client_secret_path>etc/secrets/value</client_secret_path>", "");
    with_mounts(|| {
        mount("tmpfs", &secrets, "tmpfs", MountFlags::empty(), c"mode=1777,size=64k").unwrap();
        let data = folder(&secrets.join("..2026_11_27"), 0o755);
        write_file(&data.join("value"), SECRET.as_bytes(), 0o400);
        link(Path::new("..2026_11_27"), &secrets.join("..data"));
        link(Path::new("..data/value"), &secrets.join("value"));
        let writable = output(&site);
        assert_eq!(writable.status.code(), Some(2), "{}", site.log());
        assert!(site.log().contains("/value is a symbolic link to "), "{}", site.log());
        mount_remount(&secrets, MountFlags::RDONLY, c"").unwrap();
        let run = output(&site);
        assert_eq!((run.status.code(), run.stdout.is_empty()), (Some(0), false), "{}", site.log());
    });
}

#[test]
fn what_the_kernel_makes_up_is_no_configuration() {
    let site = Site::new();
    let block = fs::read_to_string(site.config()).unwrap();
    // A process of anybody's shows its arguments in a file that belongs to root where root has started it.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line", "sh", &block])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let arguments = format!("/proc/{}/cmdline", child.id());
    while !fs::read_to_string(&arguments).unwrap().contains("<office365>") {
        // It has not begun to be the shell yet.
        thread::yield_now();
    }
    let mut command = site.command();
    let log = refusal(&site, command.args(["--config", &arguments]));
    assert!(log.contains("the kernel makes it up"), "{log}");
    link(Path::new(&arguments), &site.config());
    let log = refusal(&site, &mut site.command());
    assert!(log.contains("the kernel makes it up"), "{log}");
    for path in [&arguments, "/sys/kernel/notes", "/proc/self/environ"] {
        configure_again(&site, path);
        let log = refusal(&site, &mut site.command());
        assert!(log.contains("the kernel makes it up") || log.contains("can't be read"), "{log}");
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

fn configure_again(site: &Site, path: &str) {
    fs::remove_file(site.config()).unwrap();
    configure(site, &format!("<client_secret_path>{path}</client_secret_path>"), "");
}

#[test]
fn files_that_others_could_change_are_refused() {
    let site = Site::from_now();
    let refused = |mode, why: &str| {
        set_mode(&site.config(), mode);
        let log = refusal(&site, &mut site.command());
        assert!(log.contains(why), "{mode:o}: {log}");
    };
    refused(0o642, "everyone may write to it: chmod o-w");
    refused(0o646, "everyone may write to it: chmod o-w");
    refused(
        0o660,
        "its group may write to it, and could so have any file of root's sent anywhere: ",
    );
    refused(0o620, "chmod g-w");
    if geteuid().is_root() {
        chown(site.config(), None, Some(STRANGER)).unwrap();
        refused(0o660, "a group other than that of HOME/etc may write to it");
        chown(site.config(), Some(STRANGER), None).unwrap();
        refused(0o640, "it belongs neither to root nor to who runs this");
    }
    // What a configuration names.
    for (option, text) in NAMED {
        for mode in [0o660, 0o606, 0o602] {
            let named = site.path("etc/named.secret");
            write_file(&named, SECRET.as_bytes(), mode);
            folder(&site.path("etc/elsewhere"), 0o755);
            write_file(&site.path("etc/elsewhere/key"), include_bytes!("keys/rsa.pem"), 0o600);
            let further = match option {
                "ca_path" => "<ca_path>etc/named.secret</ca_path>",
                _ => "",
            };
            configure_with_owner(&site, &text.replace('@', "etc/named.secret"), further);
            let log = refusal(&site, &mut site.command());
            let why = if mode & 0o002 == 0 { "its group may write to it" } else { "everyone may " };
            assert!(log.contains(option) && log.contains(why), "{option} {mode:o}: {log}");
        }
    }
}

fn configure_with_owner(site: &Site, sign_in: &str, further: &str) {
    let _ = fs::remove_file(site.config());
    configure(site, sign_in, further);
}

/// Wazuh's ossec.conf may be written by its group, whose members could name any file in it.
#[test]
fn a_configuration_that_its_group_may_write_to_names_only_what_that_group_can_read() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "root is wanted, who gives files to groups");
        return;
    }
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    chown(site.path("etc"), None, Some(STRANGER)).unwrap();
    let ossec = site.path("etc/ossec.conf");
    let write = |sign_in: &str| {
        configure_with_owner(&site, sign_in, "");
        let block = fs::read_to_string(site.config()).unwrap();
        write_file(&ossec, format!("<ossec_config>{block}</ossec_config>\n").as_bytes(), 0o660);
        chown(&ossec, None, Some(STRANGER)).unwrap();
    };
    let poll = || {
        let mut command = site.command();
        command.args(["--config".as_ref(), ossec.as_os_str()]);
        command
    };
    let secret = |path: &str, mode, group| {
        write_file(&site.path(path), SECRET.as_bytes(), mode);
        chown(site.path(path), None, Some(group)).unwrap();
    };
    folder(&site.path("etc/closed"), 0o700);
    folder(&site.path("etc/open"), 0o751);
    let cases = [
        ("etc/a.secret", 0o640, STRANGER, true),
        ("etc/open/a.secret", 0o640, STRANGER, true),
        ("etc/b.secret", 0o600, STRANGER, false),
        ("etc/c.secret", 0o640, 0, false),
        // A copy of a file of the group's, where only root gets to.
        ("etc/closed/a.secret", 0o640, STRANGER, false),
    ];
    for (path, mode, group, taken) in cases {
        secret(path, mode, group);
        write(&format!("<client_secret_path>{path}</client_secret_path>"));
        if taken {
            let run = site.run(&poll());
            assert_eq!(
                (run.code, run.ids()),
                (Some(0), vec!["1".to_owned()]),
                "{path}: {}",
                site.log()
            );
            fs::remove_dir_all(site.path(FOLDER)).unwrap();
            continue;
        }
        let log = refusal(&site, &mut poll());
        for part in
            ["client_secret_path: ", "group 4242 may write to the configuration", "chmod g+r "]
        {
            assert!(log.contains(part), "{path}: {log}");
        }
        // Root's own configuration may.
        assert_eq!(site.poll_well().ids(), ["1"], "{path}");
        fs::remove_dir_all(site.path(FOLDER)).unwrap();
    }
    // In the place of our own it is refused, and so is one that is only a block.
    fs::rename(&ossec, site.config()).unwrap();
    assert!(refusal(&site, &mut site.command()).contains("chmod g-w"));
    configure_with_owner(&site, "<client_secret_path>etc/a.secret</client_secret_path>", "");
    fs::rename(site.config(), &ossec).unwrap();
    set_mode(&ossec, 0o660);
    chown(&ossec, None, Some(STRANGER)).unwrap();
    assert!(refusal(&site, &mut poll()).contains("chmod g-w"));
}

/// Wazuh's group may move files of root's between its folders: what is in them must not be taken for a
/// configuration, whoever has put it there.
#[test]
fn a_file_of_roots_that_the_group_has_moved_is_no_configuration() {
    let site = Site::new();
    configure(&site, "<client_secret_path>etc/secret</client_secret_path>", "");
    write_file(&site.path("etc/secret"), SECRET.as_bytes(), 0o600);
    let block = fs::read_to_string(site.config()).unwrap();
    let one_line = block.replace('\n', "");
    set_mode(&site.path("etc"), 0o770);
    // Our own log, into which a link's text may get.
    link(Path::new(&one_line), &site.config());
    if geteuid().is_root() {
        lchown(site.config(), Some(STRANGER), None).unwrap();
    }
    let log = refusal(&site, &mut site.command());
    assert!(!geteuid().is_root() || !log.contains("<office365>"), "{log}");
    link(Path::new(&one_line), &site.config());
    refusal(&site, &mut site.command());
    fs::rename(site.path("logs/wodle-office365.log"), site.config()).unwrap();
    let log = refusal(&site, &mut site.command());
    assert!(log.contains(":1:1: this is not a configuration, which"), "{log}");
    // Other files with text of others in them.
    for text in [
        format!("2026/11/27 10:00:00 wazuh: INFO: {block}"),
        format!("SQLite format 3\0{block}"),
        format!("<a>\0</a>{block}"),
        format!("\u{feff} x {block}"),
    ] {
        fs::remove_file(site.config()).unwrap();
        write_file(&site.config(), text.as_bytes(), 0o640);
        let log = refusal(&site, &mut site.command());
        assert!(log.contains("this is not a configuration, which"), "{text:?}: {log}");
    }
    write_file(&site.config(), format!("\u{feff}\n <!-- x -->{block}").as_bytes(), 0o640);
    site.poll_well();
}

/// Where the kernel doesn't protect hard links (fs.protected_hardlinks), anybody makes them to any file.
#[test]
fn hard_links_in_folders_that_others_may_write_to_are_refused() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    folder(&site.path("etc/elsewhere"), 0o755);
    let target = site.path("etc/elsewhere/roots");
    write_file(&target, b"root's\n", 0o600);
    fs::hard_link(&target, site.path("logs/wodle-office365.log")).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]), "the events matter more");
    assert_eq!(fs::read_to_string(&target).unwrap(), "root's\n");
    let check = site.admin(&["check"]);
    assert!(
        check.line("FAIL  log").contains("it is a hard link to another file"),
        "{}",
        check.stdout
    );
    site.clear_log();

    fs::rename(site.config(), &target).unwrap();
    fs::hard_link(&target, site.config()).unwrap();
    assert_eq!(site.poll().code, Some(0), "nobody else may write to etc");
    set_mode(&site.path("etc"), 0o770);
    let log = refusal(&site, &mut site.command());
    assert!(
        log.contains("it is a hard link in a folder that others than root may write to"),
        "{log}"
    );
}

#[test]
fn links_among_its_own_files_lead_a_run_nowhere() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    // Who could plant these could else have root overwrite any file.
    let target = site.path("etc/wodle-office365.conf");
    let before = fs::read(&target).unwrap();
    let own = |name: &str| site.path("var/wodles/wodle-office365").join(name);
    fs::create_dir(own("")).unwrap();
    for name in ["state.json.new", "token.json.new", "lock"] {
        symlink(&target, own(name)).unwrap();
    }
    assert_eq!(site.poll().code, Some(1));
    assert!(site.log().contains("the lock in "), "{}", site.log());
    fs::remove_file(own("lock")).unwrap();
    assert_eq!(site.poll_well().ids(), ["1"]);
    symlink(&target, own("state.previous.json")).unwrap();
    assert_eq!(site.poll_well().text(), "");
    assert_eq!((fs::read(&target).unwrap(), mode_of(&target)), (before, 0o640));
    for name in ["state.json", "token.json", "state.previous.json"] {
        assert!(fs::symlink_metadata(own(name)).unwrap().is_file(), "{name}");
    }
}

/// The folders around our files may be written by Wazuh's group, whose processes are not root's.
#[test]
fn links_that_wazuhs_group_could_make_are_not_followed() {
    let site = Site::new();
    site.publish(GENERAL, Duration::minutes(5), &["1"]);
    let target = site.path("etc/target");
    fs::write(&target, "").unwrap();
    symlink(&target, site.path("logs/wodle-office365.log")).unwrap();
    let run = site.poll();
    assert_eq!((run.code, run.ids()), (Some(1), vec!["1".to_owned()]));
    assert_eq!(fs::read_to_string(&target).unwrap(), "");
    let check = site.admin(&["check"]);
    assert!(check.line(" log ").contains("it is a symbolic link"), "{}", check.stdout);
    fs::remove_file(site.path("logs/wodle-office365.log")).unwrap();

    let (elsewhere, folder) = (site.path("etc/elsewhere"), site.path("var/wodles/wodle-office365"));
    fs::rename(&folder, &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&elsewhere, &folder).unwrap();
    if geteuid().is_root() {
        lchown(&folder, Some(4242), None).unwrap();
        assert_eq!((site.poll().code, mode_of(&elsewhere)), (Some(1), 0o755));
        assert!(
            site.log().contains("is not followed because it belongs to user 4242"),
            "{}",
            site.log()
        );
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        lchown(&folder, Some(4242), None).unwrap();
        assert_eq!(site.poll().code, Some(1));
        assert!(site.log().contains("it is a folder of user 4242's"), "{}", site.log());
        fs::remove_dir(&folder).unwrap();
        symlink(&elsewhere, &folder).unwrap();
    }
    // Root's own, in a folder that the group may write to, is refused with what to do.
    set_mode(&site.path("var/wodles"), 0o770);
    site.clear_log();
    assert_eq!((site.poll().code, mode_of(&elsewhere)), (Some(1), 0o755));
    let remedy = format!("move the folder {} there, with everything in it", elsewhere.display());
    assert!(site.log().contains(&remedy), "{}", site.log());
    // In one of root's it is followed.
    set_mode(&site.path("var/wodles"), 0o755);
    assert_eq!(site.poll_well().text(), "");
    assert_eq!(mode_of(&elsewhere), 0o700);
    fs::remove_file(&folder).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
}

/// Wazuh's group may exchange the state's folder with a link at any moment. By hand, for longer:
/// `ATTACK_SECONDS=300 cargo test --test outside an_exchange -- --nocapture`.
#[test]
fn an_exchange_of_the_state_folder_changes_no_other_folder() {
    let site = Site::new();
    site.poll_well();
    let victim = folder(&site.path("victim"), 0o755);
    let (own, evil) = (site.path(FOLDER), site.path("var/wodles/evil"));
    link(&victim, &evil);
    if geteuid().is_root() {
        lchown(&evil, Some(STRANGER), None).unwrap();
    }
    set_mode(&site.path("var/wodles"), 0o770);
    let seconds = std::env::var("ATTACK_SECONDS").ok().map(|text| text.parse().unwrap());
    let until = seconds.map(|seconds| Instant::now() + std::time::Duration::from_secs(seconds));
    let (over, mut rounds) = (AtomicBool::new(false), 0_u32);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &own, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let go_on = |rounds| until.map_or(rounds < 300, |until| Instant::now() < until);
        while go_on(rounds) {
            // It is too open, if it is the folder at all: the program is to tighten it.
            for path in [&own, &evil] {
                if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                    let _ = fs::set_permissions(path, Permissions::from_mode(0o755));
                }
            }
            set_mode(&victim, 0o755);
            let args = ["reset", "--tenant", "none", "--content-type", GENERAL, "--to", "1h"];
            let code = site.admin(&args).code;
            assert!(matches!(code, Some(1 | 2)), "{code:?}");
            rounds += 1;
            if mode_of(&victim) != 0o755 || fs::read_dir(&victim).unwrap().next().is_some() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    if !fs::symlink_metadata(&own).unwrap().is_dir() {
        renameat_with(CWD, &own, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
    }
    let _ = writeln!(io::stderr(), "{rounds} rounds");
    assert_eq!(mode_of(&victim), 0o755, "after {rounds} rounds");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "after {rounds} rounds");
}
