//! A Wazuh home whose tenants are at a simulator, and what runs in it cost.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use office365_simulator::tls::ca_and_server;
use office365_simulator::{Blob, Builder, Simulator, Tenant};
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

    /// So many polls that are measured together.
    pub(crate) fn polls(&self, runs: u32) -> io::Result<Cost> {
        let poll =
            "i=0; while [ $i -lt $1 ]; do \"$2\" poll --home \"$3\" || exit; i=$((i+1)); done";
        let mut command = self.measured();
        command.args(["/bin/sh", "-c", poll, "sh", &runs.to_string()]);
        command.arg(&self.binary).arg(self.home.path());
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

    /// What one `curl` takes for these addresses.
    pub(crate) fn curl(&self, addresses: &[String], gzip: bool) -> io::Result<Cost> {
        let token = self.token()?;
        let mut config = format!("header = \"Authorization: Bearer {token}\"\n");
        for address in addresses {
            config.push_str(&format!("url = \"{address}\"\n"));
        }
        let path = self.home.path().join("curl.conf");
        fs::write(&path, config)?;
        let mut command = self.measured();
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

    /// GNU time, which tells the most that was resident of its command.
    fn measured(&self) -> Command {
        let mut command = Command::new("/usr/bin/time");
        command.args(["-f", "%M", "-o"]).arg(self.home.path().join("cost"));
        command.current_dir(self.home.path()).env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command
    }

    /// Runs it, and takes in what it writes.
    fn run(&self, command: &mut Command) -> io::Result<Cost> {
        let (begun, before) = (Instant::now(), children_cpu()?);
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
        let (wall, cpu) = (begun.elapsed(), children_cpu()?.saturating_sub(before));
        if !status.success() {
            let log = fs::read_to_string(self.home.path().join("logs/wodle-office365.log"));
            return Err(io::Error::other(format!("{status}\n{}", log.unwrap_or_default())));
        }
        let text = fs::read_to_string(self.home.path().join("cost"))?;
        let peak =
            text.trim().parse().map_err(|_| io::Error::other(format!("time says {text}")))?;
        Ok(Cost { runs: 1, wall, cpu, peak, bytes })
    }
}

/// The processor time of all programs that have ended, to the microsecond: GNU time rounds to 10 ms.
fn children_cpu() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |seconds: i64, micros: i64| {
        let part = |n| u64::try_from(n).unwrap_or_default();
        Duration::from_secs(part(seconds)) + Duration::from_micros(part(micros))
    };
    let (user, system) = (usage.user_time(), usage.system_time());
    Ok(duration(user.tv_sec(), user.tv_usec()) + duration(system.tv_sec(), system.tv_usec()))
}

fn guid(n: usize) -> String {
    format!("a1b2c3d4-0000-4000-8000-{n:012}")
}
