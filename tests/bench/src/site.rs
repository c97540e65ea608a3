//! A Wazuh home whose tenants are at a simulator, and what runs in it cost.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use office365_simulator::tls::ca_and_server;
use office365_simulator::{Blob, Builder, Call, Fault, Simulator, Tenant};
use tempfile::TempDir;
use time::OffsetDateTime;

pub(crate) const GENERAL: &str = "Audit.General";

const CLIENT: &str = "c1b2c3d4-0000-4000-8000-00000000000c";
const SECRET: &str = "secret";

/// What a program took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) runs: u32,
    pub(crate) wall: Duration,
    /// In user and kernel mode together.
    pub(crate) cpu: Duration,
    /// The most that was resident, in KiB.
    pub(crate) peak: u64,
    /// What it wrote.
    pub(crate) bytes: u64,
}

impl Cost {
    /// One after another.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            wall: self.wall + other.wall,
            cpu: self.cpu + other.cpu,
            peak: self.peak.max(other.peak),
            bytes: self.bytes + other.bytes,
        }
    }
}

/// How many tenants there are, and what their configuration says.
pub(crate) struct Plan<'a> {
    pub(crate) tenants: usize,
    pub(crate) content_types: &'a [&'a str],
    pub(crate) options: &'a str,
    pub(crate) tls: bool,
}

pub(crate) struct Site {
    pub(crate) simulator: Simulator,
    home: TempDir,
    binary: PathBuf,
}

impl Site {
    pub(crate) fn new(binary: &Path, builder: Builder, plan: &Plan<'_>) -> io::Result<Self> {
        let home = TempDir::new()?;
        for folder in ["etc", "logs", "var/wodles"] {
            fs::create_dir_all(home.path().join(folder))?;
        }
        let mut builder = builder;
        if plan.tls {
            let (ca, server) = ca_and_server(&["127.0.0.1"]);
            fs::write(home.path().join("etc/ca.pem"), ca)?;
            builder = builder.tls(server);
        }
        for n in 0..plan.tenants {
            builder = builder
                .tenant(Tenant::new(&guid(n), CLIENT, SECRET).subscribed(plan.content_types));
        }
        let site = Self { simulator: builder.start()?, home, binary: binary.to_owned() };
        site.configure(plan)?;
        Ok(site)
    }

    fn configure(&self, plan: &Plan<'_>) -> io::Result<()> {
        let (login, management) = (self.simulator.login_url(), self.simulator.management_url());
        let tenants: String = (0..plan.tenants)
            .map(|n| {
                format!(
                    "<api_auth><tenant_id>{}</tenant_id><client_id>{CLIENT}</client_id>\
                     <client_secret>{SECRET}</client_secret><login_url>{login}</login_url>\
                     <management_url>{management}</management_url></api_auth>\n",
                    guid(n)
                )
            })
            .collect();
        let subscriptions: String = plan
            .content_types
            .iter()
            .map(|name| format!("<subscription>{name}</subscription>"))
            .collect();
        let trust = if plan.tls { "<ca_path>etc/ca.pem</ca_path>" } else { "" };
        let text = format!(
            "<office365><only_future_events>no</only_future_events><log_level>warning</log_level>\
             {trust}{}\n{tenants}<subscriptions>{subscriptions}</subscriptions></office365>\n",
            plan.options
        );
        fs::write(self.home.path().join("etc/wodle-office365.conf"), text)
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.simulator.now()
    }

    /// When blobs are created that a listing brings at once.
    pub(crate) fn recently(&self) -> OffsetDateTime {
        self.now() - time::Duration::minutes(2)
    }

    /// Publishes a blob of the first tenant; gives its address.
    pub(crate) fn publish(&self, blob: Blob) -> String {
        let id = self.simulator.publish(&guid(0), GENERAL, blob);
        let root = self.simulator.management_url();
        format!("{root}/api/v1.0/{}/activity/feed/audit/{id}", guid(0))
    }

    /// One poll.
    pub(crate) fn poll(&self) -> io::Result<Cost> {
        self.polls(1)
    }

    /// One poll in which a tenant fails.
    pub(crate) fn poll_badly(&self) -> io::Result<Cost> {
        let mut command = self.measured(1)?;
        command.args(["/bin/sh", "-c", r#""$@"; [ $? = 1 ]"#, "poll"]).arg(&self.binary);
        command.args(["poll", "--home"]).arg(self.home.path());
        self.run(&mut command)
    }

    /// From now on a tenant's login hangs, and its token is worthless.
    pub(crate) fn hang(&self, n: usize) {
        self.simulator.revoke_tokens(&guid(n));
        self.simulator.fault(Fault::on(Call::Token).tenant(&guid(n)).always().hang());
    }

    /// So many polls that are measured together.
    pub(crate) fn polls(&self, runs: u32) -> io::Result<Cost> {
        let mut command = self.measured(runs)?;
        command.arg(&self.binary).args(["poll", "--home"]).arg(self.home.path());
        let cost = self.run(&mut command)?;
        Ok(Cost { runs, ..cost })
    }

    /// Polls until one brings nothing.
    pub(crate) fn drain(&self) -> io::Result<Cost> {
        let mut all = Cost::default();
        loop {
            let cost = self.poll()?;
            if cost.bytes == 0 {
                return Ok(all);
            }
            all = all.plus(cost);
        }
    }

    /// The instructions that a poll takes, counted by callgrind: the same from run to run.
    pub(crate) fn instructions(&self) -> io::Result<u64> {
        let counts = self.home.path().join("callgrind");
        let mut command = self.measured(1)?;
        command.args(["valgrind", "--tool=callgrind", "--log-file=/dev/null"]);
        command.arg(format!("--callgrind-out-file={}", counts.display())).arg(&self.binary);
        command.args(["poll", "--home"]).arg(self.home.path());
        self.run(&mut command)?;
        let counts = fs::read_to_string(counts)?;
        let line = counts.lines().find_map(|line| line.strip_prefix("summary: "));
        let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        count.ok_or_else(|| io::Error::other("callgrind gives no summary"))
    }

    /// What one `curl` takes for these addresses.
    pub(crate) fn curl(&self, addresses: &[String], gzip: bool) -> io::Result<Cost> {
        let token = self.token()?;
        let mut config = format!("header = \"Authorization: Bearer {token}\"\n");
        for address in addresses {
            config.push_str(&format!("url = \"{address}\"\n"));
        }
        let path = self.home.path().join("curl.conf");
        fs::write(&path, config)?;
        let mut command = self.measured(1)?;
        command.args(["curl", "-sSgf", "--noproxy", "*", "--config"]).arg(path);
        command.args(gzip.then_some("--compressed"));
        command.arg("--cacert").arg(self.home.path().join("etc/ca.pem"));
        let cost = self.run(&mut command)?;
        Ok(Cost { runs: 1, ..cost })
    }

    fn token(&self) -> io::Result<String> {
        let form = format!(
            "client_id={CLIENT}&client_secret={SECRET}&grant_type=client_credentials&scope={}/.default",
            self.simulator.management_url()
        );
        let url = format!("{}/{}/oauth2/v2.0/token", self.simulator.login_url(), guid(0));
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--data", &form, &url, "--cacert"]);
        let output = command.arg(self.home.path().join("etc/ca.pem")).output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))?;
        let token = answer["access_token"].as_str();
        token.map(str::to_owned).ok_or_else(|| io::Error::other(format!("no token: {answer}")))
    }

    /// This program as [`measure`], to be given a command.
    fn measured(&self, runs: u32) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(MEASURE).arg(self.home.path().join("cost")).arg(runs.to_string());
        command.current_dir(self.home.path()).env_remove("HTTPS_PROXY").env_remove("https_proxy");
        Ok(command)
    }

    /// Runs it, and takes in what it writes.
    fn run(&self, command: &mut Command) -> io::Result<Cost> {
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut output = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let (mut chunk, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            match output.read(&mut chunk)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
        let status = child.wait()?;
        let wall = begun.elapsed();
        if !status.success() {
            let log = fs::read_to_string(self.home.path().join("logs/wodle-office365.log"));
            return Err(io::Error::other(format!("{status}\n{}", log.unwrap_or_default())));
        }
        let text = fs::read_to_string(self.home.path().join("cost"))?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [micros, peak] = numbers[..] else {
            return Err(io::Error::other(format!("no cost: {text}")));
        };
        Ok(Cost { runs: 1, wall, cpu: Duration::from_micros(micros), peak, bytes })
    }
}

/// The first argument of [`measure`].
pub(crate) const MEASURE: &str = "measure";

/// Runs a command so many times and writes to a file what it took: microseconds of CPU time in all,
/// and the most KiB that were resident. In a process of its own, for that is what getrusage(2) tells
/// of: all children together. Arguments: the file, how often, and the command.
pub(crate) fn measure(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let mut next = || arguments.next().ok_or_else(|| io::Error::other("too few arguments"));
    let (file, runs, program) = (next()?, next()?, next()?);
    let runs = runs.to_string_lossy().parse().map_err(|_| io::Error::other("how often?"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    for _ in 0..runs {
        let status = command.status()?;
        if !status.success() {
            return Err(io::Error::other(status.to_string()));
        }
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = [usage.user_time(), usage.system_time()]
        .map(|time| i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_usec()));
    let micros: i128 = cpu.iter().sum();
    fs::write(file, format!("{micros} {}", usage.max_rss()))
}

fn guid(n: usize) -> String {
    format!("a1b2c3d4-0000-4000-8000-{n:012}")
}
