//! A Wazuh home with a tenant at the simulator, and runs in it as the command wodle makes them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use office365_simulator::{Blob, Builder, CONTENT_TYPES, Call, Request, Simulator, Tenant};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::host::{Host, Options};
use crate::leaks::{self, Secrets};

pub(crate) const TENANT: &str = "a1b2c3d4-0000-4000-8000-000000000001";
pub(crate) const CLIENT: &str = "c1b2c3d4-0000-4000-8000-00000000000c";
/// Needs every kind of escape, in the form and in XML.
pub(crate) const SECRET: &str = "p+q&r=s%41<~é";

/// Long enough for any machine; nothing waits that long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Random numbers by which a test can be repeated, as far as the machine does the same again.
pub(crate) struct Dice(TestRng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let seed = [seed.to_le_bytes(); 4].concat();
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }
}

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_wodle-office365"))
}

/// A home, a simulator, and the configuration that joins them.
pub(crate) struct Site {
    /// All runs of a site have one parent, as under Wazuh.
    host: OnceLock<Host>,
    pub(crate) simulator: Simulator,
    /// What is secret in it, and what the hosts that are gone have heard of its runs.
    secrets: Mutex<Secrets>,
    said: Mutex<Vec<u8>>,
    home: TempDir,
}

impl Drop for Site {
    /// No test ends well in which a secret got out.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.leaks(), [""; 0]);
        }
    }
}

impl Site {
    /// One tenant with all content types, which takes all that the API holds.
    pub(crate) fn new() -> Self {
        Self::built(Simulator::builder())
    }

    /// As [`Site::new`], with a simulator of the test's own making.
    pub(crate) fn built(builder: Builder) -> Self {
        let tenant = Tenant::new(TENANT, CLIENT, SECRET).domain("contoso.example");
        let simulator = builder.tenant(tenant).start().unwrap();
        let home = TempDir::new().unwrap();
        for folder in ["etc", "logs", "var/wodles", "queue/sockets"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let (host, secrets, said) = (OnceLock::new(), Mutex::default(), Mutex::default());
        let site = Self { host, simulator, secrets, said, home };
        site.configure("<only_future_events>no</only_future_events>");
        site
    }

    /// Only events from now on, as is the default.
    pub(crate) fn from_now() -> Self {
        let site = Self::new();
        site.configure("");
        site
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.home.path().join(relative)
    }

    /// Writes a configuration with one stream, which takes all that the API holds.
    pub(crate) fn configure_one(&self, options: &str) {
        let options = format!("<only_future_events>no</only_future_events>{options}");
        self.configure_with(&options, &self.api_auth(TENANT, CLIENT, SECRET), &["Audit.General"]);
    }

    /// Writes a configuration with further `options`, all content types, and the tenant.
    pub(crate) fn configure(&self, options: &str) {
        self.configure_with(options, &self.api_auth(TENANT, CLIENT, SECRET), &CONTENT_TYPES);
    }

    pub(crate) fn configure_with(&self, options: &str, api_auth: &str, content_types: &[&str]) {
        let subscriptions: String = content_types
            .iter()
            .map(|name| format!("<subscription>{name}</subscription>"))
            .collect();
        self.write_config(&format!(
            "<office365>\n{options}\n{api_auth}\n<subscriptions>{subscriptions}</subscriptions>\n\
             </office365>\n"
        ));
    }

    /// An `api_auth` block for a tenant of the simulator.
    pub(crate) fn api_auth(&self, tenant_id: &str, client_id: &str, secret: &str) -> String {
        let secret = secret.replace('&', "&amp;").replace('<', "&lt;");
        self.api_auth_with(
            tenant_id,
            client_id,
            &format!("<client_secret>{secret}</client_secret>"),
        )
    }

    pub(crate) fn api_auth_with(&self, tenant_id: &str, client_id: &str, further: &str) -> String {
        format!(
            "<api_auth><tenant_id>{tenant_id}</tenant_id><client_id>{client_id}</client_id>{further}\
             <login_url>{}</login_url><management_url>{}</management_url></api_auth>",
            self.simulator.login_url(),
            self.simulator.management_url(),
        )
    }

    pub(crate) fn write_config(&self, text: &str) {
        self.secrets.lock().unwrap().of_config(text);
        write_file(&self.config(), text.as_bytes(), 0o640);
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("etc/wodle-office365.conf")
    }

    /// The command that Wazuh would run, to be changed further.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("poll").arg("--home").arg(self.home.path());
        command.current_dir(self.home.path());
        // What proxies and stores the machine's environment names is not the test's.
        command.env_clear();
        command
    }

    /// A command that an administrator gives, with no terminal.
    pub(crate) fn admin(&self, args: &[&str]) -> Admin {
        self.run_admin(&mut self.admin_command(args))
    }

    /// The same, to be changed further.
    pub(crate) fn admin_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).arg("--home").arg(self.home.path());
        command.env_clear();
        command
    }

    pub(crate) fn run_admin(&self, command: &mut Command) -> Admin {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let mut said = self.said.lock().unwrap();
        said.extend_from_slice(&output.stdout);
        said.extend_from_slice(&output.stderr);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Admin {
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            code: output.status.code(),
        }
    }

    /// What the site's runs are started by.
    pub(crate) fn host(&self) -> &Host {
        self.host.get_or_init(|| Host::start(self.home.path()))
    }

    /// Wazuh is restarted, whatever it still held: the next run has another parent.
    pub(crate) fn restart_wazuh(&mut self) {
        if let Some(host) = self.host.take() {
            self.said.lock().unwrap().extend(host.said());
            host.kill();
        }
    }

    /// A run of a command that was changed.
    pub(crate) fn run(&self, command: &Command) -> Run {
        for (_, value) in command.get_envs() {
            let value = value.and_then(|value| value.to_str()).unwrap_or_default();
            self.secrets.lock().unwrap().of_proxy(value);
        }
        self.host().run(command)
    }

    /// Where a secret of the site has got to that is to be nowhere.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut secrets = self.secrets.lock().unwrap();
        for entry in fs::read_dir(self.path("etc")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with("secret") || name.ends_with("key") {
                secrets.of_file(&fs::read(entry.path()).unwrap_or_default());
            }
        }
        let mut said = self.said.lock().unwrap().clone();
        said.extend(self.host.get().map(Host::said).unwrap_or_default());
        leaks::search(self, &mut secrets, &said)
    }

    /// One run.
    pub(crate) fn poll(&self) -> Run {
        self.run(&self.command())
    }

    /// One run, of whose output only so many bytes are read before the pipe closes.
    pub(crate) fn poll_cut(&self, most_output: usize) -> Run {
        self.host().run_with(&self.command(), Options { most_output, ..Options::default() })
    }

    /// One run that must end with exit code 0.
    pub(crate) fn poll_well(&self) -> Run {
        let run = self.poll();
        assert_eq!(run.code, Some(0), "{}\n{}", run.text(), self.log());
        run
    }

    /// The log file so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("logs/wodle-office365.log")).unwrap_or_default()
    }

    pub(crate) fn clear_log(&self) {
        let _ = fs::remove_file(self.path("logs/wodle-office365.log"));
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path(STATE)).unwrap()).unwrap()
    }

    /// A stream in the saved state.
    pub(crate) fn stream(&self, content_type: &str) -> Value {
        self.state()["tenants"][TENANT]["streams"][content_type].clone()
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.simulator.now()
    }

    /// Publishes a blob of `ago` before now, with a record for each of `ids`.
    pub(crate) fn publish(&self, content_type: &str, ago: time::Duration, ids: &[&str]) -> String {
        let records: Vec<_> = ids.iter().map(|id| record(id)).collect();
        self.simulator.publish(TENANT, content_type, Blob::new(self.now() - ago, &records))
    }

    /// How many requests of each kind the simulator saw.
    pub(crate) fn calls(&self) -> BTreeMap<&'static str, usize> {
        let mut calls = BTreeMap::new();
        for request in self.simulator.requests() {
            *calls.entry(name(request.call)).or_default() += 1;
        }
        calls
    }

    pub(crate) fn requests(&self, call: Call) -> Vec<Request> {
        self.simulator.requests().into_iter().filter(|r| r.call == Some(call)).collect()
    }
}

pub(crate) const STATE: &str = "var/wodles/wodle-office365/state.json";

fn name(call: Option<Call>) -> &'static str {
    match call {
        Some(Call::Token) => "token",
        Some(Call::List) => "list",
        Some(Call::Start) => "start",
        Some(Call::Stop) => "stop",
        Some(Call::Content) => "content",
        Some(Call::Page) => "page",
        Some(Call::Fetch) => "fetch",
        None => "unknown",
    }
}

/// A record with the fields that every one has.
pub(crate) fn record(id: &str) -> Value {
    json!({
        "Id": id, "RecordType": 25, "CreationTime": "2026-11-23T03:24:51", "Operation": "ChatCreated",
        "OrganizationId": TENANT, "UserType": 0, "UserKey": "k", "Workload": "MicrosoftTeams",
        "UserId": "jane@contoso.example", "ClientIP": "192.0.2.7",
    })
}

pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) {
    let _ = fs::remove_file(path);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).unwrap();
    io::Write::write_all(&mut file, bytes).unwrap();
    file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What an administrator's command has said.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl Admin {
    /// What it printed, which must have been all that it had to say.
    pub(crate) fn well(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }

    /// The line of what it printed that holds this.
    pub(crate) fn line(&self, with: &str) -> &str {
        let found = self.stdout.lines().find(|line| line.contains(with));
        found.unwrap_or_else(|| panic!("no {with:?} in:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// How a run ended, and what Wazuh would send of its output.
pub(crate) struct Run {
    pub(crate) output: Vec<u8>,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Run {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.output.clone()).unwrap()
    }

    /// The lines, each of which must be an event or a notice in its envelope.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = self.text();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole: {text}");
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        for line in &lines {
            assert!(line.starts_with(r#"{"integration":"office365","office365":{"#), "{line}");
        }
        lines
    }

    /// What is inside the envelopes of the events.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.inner().into_iter().filter(|event| event["actor"] != "wazuh").collect()
    }

    /// The notices in short: `kind subscription_name`, sorted.
    pub(crate) fn told(&self) -> Vec<String> {
        let short = |notice: &Value| {
            let text = |member: &str| notice[member].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("notice"), text("subscription_name")).trim_end().to_owned()
        };
        let mut told: Vec<_> = self.notices().iter().map(short).collect();
        told.sort();
        told
    }

    /// What is inside the envelopes of the notices.
    pub(crate) fn notices(&self) -> Vec<Value> {
        self.inner().into_iter().filter(|event| event["actor"] == "wazuh").collect()
    }

    fn inner(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str::<Value>(line).expect(line);
        self.lines().iter().map(|line| parse(line)["office365"].take()).collect()
    }

    /// The Ids of the events, sorted.
    pub(crate) fn ids(&self) -> Vec<String> {
        let id = |event: &Value| event["Id"].as_str().unwrap_or_default().to_owned();
        let mut ids: Vec<_> = self.events().iter().map(id).collect();
        ids.sort();
        ids
    }
}
