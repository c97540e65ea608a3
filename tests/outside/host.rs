//! What starts the binary: Wazuh's command wodle, as far as its child can tell.
//!
//! A host is a process of its own that bears the name of Wazuh's daemon. It gives a child one pipe
//! for stdout and stderr, nothing on stdin, a session of its own, niceness 10, an ignored SIGPIPE
//! and the home as working directory; it keeps so much of the output and no more; it sends SIGTERM
//! at the timeout and then waits for ever; and it passes lines on only once the pipe is closed and
//! the child has exited.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::harness::{PATIENCE, Run};

/// Where the queue's owner listens, in the home.
const QUEUE: &str = "queue/sockets/queue";

/// What each line begins with in the queue: its kind, and where it comes from with the wodle's tag.
const PREFIX: &str = "1:command_wodle-office365:";

/// The longest message that the daemon makes; what is beyond it is cut off.
const MOST_MESSAGE: usize = 65_535;

/// Set for a host: nobody else is to run [`wodle_host`].
const MARK: &str = "WODLE_HOST";

/// What the wodle's block in ossec.conf, or Wazuh itself, says of a run.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Options {
    /// After which the child's process group gets SIGTERM.
    pub(crate) timeout: Option<Duration>,
    /// Of which more is not read: the pipe closes under its writer.
    pub(crate) most_output: usize,
    /// Nothing is read before [`Running::read`] says so: the pipe fills.
    pub(crate) held: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: None, most_output: 64 << 20, held: false }
    }
}

/// What a host is to run.
#[derive(Serialize, Deserialize)]
struct Task {
    program: OsString,
    args: Vec<OsString>,
    /// All of the environment, as NAME=VALUE.
    environment: Vec<OsString>,
    folder: OsString,
    options: Options,
}

/// From the test to its host, a line of JSON each.
#[derive(Serialize, Deserialize)]
enum Order {
    Run(Task),
    Loop {
        task: Task,
        pause: Duration,
        interval: Duration,
    },
    /// To the process group of the child that is running, if one is.
    Signal(i32),
    /// The output of a run that is [held](Options::held) is read from now on.
    Read,
}

/// From the host to its test, a line of JSON each; a run's output follows its line as it is.
#[derive(Serialize, Deserialize)]
enum Report {
    Started {
        pid: i32,
    },
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        bytes: usize,
        #[serde(skip)]
        output: Vec<u8>,
    },
    Drained(Drained),
}

/// What became of a run in a loop.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    pub(crate) code: Option<i32>,
    pub(crate) lines: usize,
    /// How many of the lines the queue didn't take.
    pub(crate) lost: usize,
}

/// A host process and the wire to it. It ends with this, and its child with it.
pub(crate) struct Host {
    home: PathBuf,
    process: Mutex<Child>,
    pid: Pid,
    control: UnixStream,
    reports: Mutex<Receiver<Report>>,
    said: Mutex<Vec<u8>>,
}

impl Host {
    /// Starts a host in a Wazuh home, which connects to the home's queue if there is one.
    pub(crate) fn start(home: &Path) -> Self {
        // A process is called as the last part of the path that it was started by.
        let program = home.join("bin/wazuh-modulesd");
        fs::create_dir_all(home.join("bin")).unwrap();
        if !program.exists() {
            symlink(std::env::current_exe().unwrap(), &program).unwrap();
        }
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = Command::new(program)
            .args(["--ignored", "--exact", "host::wodle_host", "--nocapture"])
            .env(MARK, "1")
            .current_dir(home)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, reports) = mpsc::channel();
        let reader = BufReader::new(control.try_clone().unwrap());
        thread::spawn(move || read_reports(reader, &sender));
        Self {
            home: home.to_owned(),
            pid: Pid::from_child(&process),
            process: Mutex::new(process),
            control,
            reports: Mutex::new(reports),
            said: Mutex::default(),
        }
    }

    /// Starts a host that, until it is killed, runs `command`, passes its lines on to the queue
    /// with a `pause` after each, and begins again after an `interval`.
    pub(crate) fn start_loop(
        home: &Path,
        command: &Command,
        options: Options,
        pause: Duration,
        interval: Duration,
    ) -> Self {
        let host = Self::start(home);
        host.order(&Order::Loop { task: host.task(command, options), pause, interval }).unwrap();
        host
    }

    /// One run; what the daemon would send of it.
    ///
    /// Of `command` count the program, its arguments, the working directory and the variables that
    /// were set in it: these are all that the child gets.
    pub(crate) fn run(&self, command: &Command) -> Run {
        self.run_with(command, Options::default())
    }

    pub(crate) fn run_with(&self, command: &Command, options: Options) -> Run {
        self.begin(command, options).end()
    }

    /// Begins a run. A host has one at a time: another waits for this one's end.
    pub(crate) fn begin(&self, command: &Command, options: Options) -> Running<'_> {
        let reports = self.reports.lock().unwrap();
        self.order(&Order::Run(self.task(command, options))).unwrap();
        let Report::Started { pid } = next(&reports, "the run doesn't begin") else {
            panic!("a run begins with its pid")
        };
        Running { host: self, reports, pid: Pid::from_raw(pid).unwrap(), over: false }
    }

    /// The child of a loop's next run, in the order in which they begin.
    pub(crate) fn started(&self) -> Pid {
        let reports = self.reports.lock().unwrap();
        loop {
            if let Report::Started { pid } = next(&reports, "no run begins") {
                return Pid::from_raw(pid).unwrap();
            }
        }
    }

    /// A loop's next run that is over and its lines sent, in the order in which they end.
    pub(crate) fn drained(&self) -> Drained {
        let reports = self.reports.lock().unwrap();
        loop {
            if let Report::Drained(drained) = next(&reports, "no run ends") {
                return drained;
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// All that its runs have said so far, but for Microsoft's records.
    pub(crate) fn said(&self) -> Vec<u8> {
        self.said.lock().unwrap().clone()
    }

    /// Keeps the lines of an output that are no records.
    fn hear(&self, output: &[u8]) {
        let is_record = |line: &&[u8]| {
            let inner = line.strip_prefix(br#"{"integration":"office365","office365":{"#);
            inner.is_some_and(|inner| !inner.starts_with(br#""actor":"wazuh""#))
        };
        let mut said = self.said.lock().unwrap();
        for line in output.split_inclusive(|b| *b == b'\n').filter(|line| !is_record(line)) {
            said.extend(line);
        }
    }

    /// Kills the host alone: a child of it that is running is an orphan then.
    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn task(&self, command: &Command, options: Options) -> Task {
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let folder = command.get_current_dir().unwrap_or(&self.home);
        Task {
            program: command.get_program().to_owned(),
            args: command.get_args().map(ToOwned::to_owned).collect(),
            environment: set.map(|(name, value)| [name, value].join("=".as_ref())).collect(),
            folder: folder.into(),
            options,
        }
    }

    /// Signals the process group of the child that is running.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        self.order(&Order::Signal(signal.as_raw()))
    }

    fn order(&self, order: &Order) -> io::Result<()> {
        let line = serde_json::to_string(order).unwrap() + "\n";
        (&self.control).write_all(line.as_bytes())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // At which the host kills its child and ends.
        let _ = self.control.shutdown(Shutdown::Both);
        if let Ok(mut process) = self.process.lock() {
            let _ = process.wait();
        }
    }
}

/// A run that has begun.
pub(crate) struct Running<'a> {
    host: &'a Host,
    reports: MutexGuard<'a, Receiver<Report>>,
    pid: Pid,
    over: bool,
}

impl Running<'_> {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Has the output read of a run that is [held](Options::held).
    pub(crate) fn read(&self) {
        self.host.order(&Order::Read).unwrap();
    }

    /// What the host does at the timeout, now.
    pub(crate) fn terminate(&self) {
        self.host.signal(Signal::TERM).unwrap();
    }

    pub(crate) fn kill(&self) {
        self.host.signal(Signal::KILL).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        match next(&self.reports, "the run doesn't end") {
            Report::Ended { code, signal, output, .. } => {
                self.over = true;
                self.host.hear(&output);
                Run { output, code, signal }
            }
            _ => panic!("a run's pid is followed by its end"),
        }
    }
}

impl Drop for Running<'_> {
    /// A run that nobody waits for any more, perhaps because it didn't end, is ended.
    fn drop(&mut self) {
        if !self.over && self.host.signal(Signal::KILL).is_ok() {
            let _ = self.reports.recv_timeout(PATIENCE);
        }
    }
}

/// The next report; `otherwise` says what is wrong if none comes.
fn next(reports: &Receiver<Report>, otherwise: &str) -> Report {
    reports.recv_timeout(PATIENCE).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => panic!("{otherwise} within {PATIENCE:?}"),
        RecvTimeoutError::Disconnected => panic!("{otherwise}: the wodle host is gone"),
    })
}

/// Passes on what the host says until it says no more, if in the middle of a line.
fn read_reports(mut reader: BufReader<UnixStream>, reports: &Sender<Report>) {
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok() {
        let Ok(mut report) = serde_json::from_str(&line) else { return };
        if let Report::Ended { bytes, output, .. } = &mut report {
            output.resize(*bytes, 0);
            if reader.read_exact(output).is_err() {
                return;
            }
        }
        if reports.send(report).is_err() {
            return;
        }
        line.clear();
    }
}

/// The host itself: a program rather than a test.
#[test]
#[ignore = "it is what starts the binary; run by Host::start"]
fn wodle_host() {
    std::env::var_os(MARK).expect("set by Host::start");
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let orders = BufReader::new(control.try_clone().unwrap());
    let running = Arc::new(Mutex::new(None));
    let (read, reads) = mpsc::channel();
    let mut daemon = Daemon { control, running: Arc::clone(&running), reads, queue: connect() };
    let (sender, tasks) = mpsc::channel();
    thread::spawn(move || take_orders(orders, &running, &read, &sender));
    for order in tasks {
        daemon.obey(&order);
    }
}

/// Hands on what is to be run, and does at once what can't wait for a run's end.
fn take_orders(
    orders: BufReader<UnixStream>,
    running: &Mutex<Option<Pid>>,
    reads: &Sender<()>,
    tasks: &Sender<Order>,
) {
    for line in orders.lines().map_while(Result::ok) {
        match serde_json::from_str(&line).unwrap() {
            Order::Signal(number) => {
                if let Some(pid) = *running.lock().unwrap() {
                    signal_group(pid, Signal::from_named_raw(number).unwrap());
                }
            }
            Order::Read => reads.send(()).unwrap(),
            order => tasks.send(order).unwrap(),
        }
    }
    // The test is over, and so is all that it started.
    let running = running.lock().unwrap();
    if let Some(pid) = *running {
        signal_group(pid, Signal::KILL);
    }
    process::exit(0);
}

/// Signals the group of a child that wasn't waited for, even if it's only about to get a session of
/// its own.
fn signal_group(pid: Pid, signal: Signal) {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while kill_process_group(pid, signal) == Err(Errno::SRCH)
        && waitid(WaitId::Pid(pid), ended).unwrap().is_none()
    {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The daemon connects once: when the queue's owner makes its socket anew, this one is dead.
fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(QUEUE).is_ok().then_some(socket)
}

struct Daemon {
    control: UnixStream,
    /// The child, from its start until it is waited for.
    running: Arc<Mutex<Option<Pid>>>,
    /// Each lets a run's output be read that is held.
    reads: Receiver<()>,
    queue: Option<UnixDatagram>,
}

impl Daemon {
    fn obey(&mut self, order: &Order) {
        match order {
            Order::Run(task) => {
                let (status, output) = self.run(task);
                let lines = sent(status, &output);
                let mut text = lines.join(&b'\n');
                // So that a test can tell that the last line was whole.
                if !lines.is_empty() && output.ends_with(b"\n") {
                    text.push(b'\n');
                }
                let (code, signal) = (status.code(), status.signal());
                let (bytes, output) = (text.len(), Vec::new());
                self.report(&Report::Ended { code, signal, bytes, output }, &text);
            }
            Order::Loop { task, pause, interval } => loop {
                let (status, output) = self.run(task);
                let lines = sent(status, &output);
                self.queue = self.queue.take().or_else(connect);
                let mut lost = 0;
                for line in &lines {
                    let message = [PREFIX.as_bytes(), line].concat();
                    let taken = self.queue.as_ref().map(|queue| queue.send(&message));
                    lost += usize::from(!matches!(taken, Some(Ok(_))));
                    thread::sleep(*pause);
                }
                let (code, lines) = (status.code(), lines.len());
                self.report(&Report::Drained(Drained { code, lines, lost }), &[]);
                thread::sleep(*interval);
            },
            Order::Signal(_) | Order::Read => unreachable!("taken care of by take_orders"),
        }
    }

    /// Says it if anybody is there: if not, `take_orders` ends us.
    fn report(&self, report: &Report, output: &[u8]) {
        let line = serde_json::to_string(report).unwrap() + "\n";
        let _ = (&self.control).write_all(&[line.as_bytes(), output].concat());
    }

    /// One run, and all that was kept of its output.
    fn run(&self, task: &Task) -> (ExitStatus, Vec<u8>) {
        let (reader, writer) = io::pipe().unwrap();
        let mut running = self.running.lock().unwrap();
        // Each of these becomes the next one, so the child is ours; `env` last, for shells add
        // variables of their own. Without `unsafe` nothing else ignores SIGPIPE for a child.
        let mut child = Command::new("/bin/sh")
            .args(["-c", r#"trap "" PIPE && exec nice -n 10 setsid env -i "$@""#, "sh"])
            .args(&task.environment)
            .arg(&task.program)
            .args(&task.args)
            .current_dir(&task.folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        *running = Some(pid);
        drop(running);
        self.report(&Report::Started { pid: pid.as_raw_pid() }, &[]);

        if task.options.held {
            self.reads.recv().unwrap();
        }
        let most = task.options.most_output as u64;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut output = Vec::new();
            // And the pipe is closed.
            reader.take(most).read_to_end(&mut output).unwrap();
            sender.send(output).unwrap();
        });
        let timeout = task.options.timeout.unwrap_or(Duration::MAX);
        let output = receiver.recv_timeout(timeout).unwrap_or_else(|_| {
            signal_group(pid, Signal::TERM);
            receiver.recv().unwrap()
        });
        // Its pid is its own until it is waited for, which is when nobody may signal it any more.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let mut running = self.running.lock().unwrap();
        *running = None;
        (child.wait().unwrap(), output)
    }
}

/// The lines that the daemon makes of a run's output: none if the command wasn't found, none after
/// a NUL, no empty ones, and not all of a very long one.
fn sent(status: ExitStatus, output: &[u8]) -> Vec<&[u8]> {
    if status.code() == Some(127) {
        return Vec::new();
    }
    let text = output.split(|&byte| byte == 0).next().unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| &line[..line.len().min(MOST_MESSAGE - PREFIX.len())]).collect()
}

/// The queue of a home, with the owner that it has in Wazuh: analysisd, or the agent.
pub(crate) struct Queue {
    path: PathBuf,
    socket: UnixDatagram,
    reader: Option<JoinHandle<()>>,
    received: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Queue {
    pub(crate) fn bind(home: &Path) -> Self {
        let path = home.join(QUEUE);
        let received = Arc::default();
        let (socket, reader) = listen(&path, &received);
        Self { path, socket, reader: Some(reader), received }
    }

    /// The lines so far, from before and after the owner's restarts.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.received.0.lock().unwrap().clone()
    }

    /// Waits until the lines are as they should be; false if they aren't in time.
    pub(crate) fn wait_for(
        &self,
        timeout: Duration,
        mut predicate: impl FnMut(&[String]) -> bool,
    ) -> bool {
        let (lines, more) = &*self.received;
        let lines = lines.lock().unwrap();
        let waited = more.wait_timeout_while(lines, timeout, |lines| !predicate(lines)).unwrap();
        !waited.1.timed_out()
    }

    /// The owner restarts: its socket is closed, and another one is in its place.
    pub(crate) fn recreate(&mut self) {
        self.close();
        let (socket, reader) = listen(&self.path, &self.received);
        (self.socket, self.reader) = (socket, Some(reader));
    }

    /// Ends the reader, so that only our own handle of the socket is left, which nobody can reach.
    fn close(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

/// A new socket at `path`, and the thread that reads it until it is shut down.
fn listen(
    path: &Path,
    received: &Arc<(Mutex<Vec<String>>, Condvar)>,
) -> (UnixDatagram, JoinHandle<()>) {
    let socket = UnixDatagram::bind(path).unwrap();
    let (ours, received) = (socket.try_clone().unwrap(), Arc::clone(received));
    let reader = thread::spawn(move || {
        let mut message = vec![0; 1 << 16];
        while let Ok(size @ 1..) = ours.recv(&mut message) {
            let message = String::from_utf8_lossy(&message[..size]);
            let line = message.strip_prefix(PREFIX).expect("a line of our wodle");
            received.0.lock().unwrap().push(line.to_owned());
            received.1.notify_all();
        }
    });
    (socket, reader)
}

/// A home with nothing in it but what a host needs.
fn bare_home() -> TempDir {
    let home = TempDir::new().unwrap();
    fs::create_dir_all(home.path().join("queue/sockets")).unwrap();
    home
}

/// A shell script as the wodle's command.
fn script(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]).env("PATH", "/usr/bin:/bin");
    command
}

/// Waits until a script has made a file.
fn wait_for_file(path: &Path) {
    let begun = std::time::Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "{} doesn't appear", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_child_finds_what_it_finds_under_wazuh() {
    let home = bare_home();
    let host = Host::start(home.path());
    let mut command = script(
        "cat /proc/$PPID/comm; echo $PPID; pwd -P; nice; cd /proc/$$; cut -d' ' -f4,5,6 stat
         readlink fd/0 fd/1 fd/2; grep SigIgn status; tr '\\0' '\\n' < environ",
    );
    command.env("NAME", "a = b");
    let running = host.begin(&command, Options::default());
    let pid = running.pid();
    let run = running.end();
    assert_eq!((run.code, run.signal), (Some(0), None));
    let text = run.text();
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap();
    let parent = host.pid();
    assert_eq!(next(), "wazuh-modulesd");
    assert_eq!(next(), parent.to_string());
    assert_eq!(Path::new(next()), home.path().canonicalize().unwrap());
    let ours = Command::new("nice").output().unwrap().stdout;
    let ours: i32 = String::from_utf8(ours).unwrap().trim().parse().unwrap();
    assert_eq!(next(), (ours + 10).min(19).to_string());
    assert_eq!(next(), format!("{parent} {pid} {pid}"), "parent, group, session");
    assert_eq!(next(), "/dev/null");
    let stdout = next();
    assert!(stdout.starts_with("pipe:["), "{text}");
    assert_eq!(next(), stdout, "stderr is the same pipe");
    let ignored = next().split_once('\t').unwrap().1;
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_ne!(ignored & 1 << (Signal::PIPE.as_raw() - 1), 0, "SIGPIPE is ignored");
    let mut environment: Vec<_> = lines.collect();
    environment.sort_unstable();
    assert_eq!(environment, ["NAME=a = b", "PATH=/usr/bin:/bin"]);
    assert_eq!(host.run(&script("echo $PPID")).text(), format!("{parent}\n"), "once for all runs");
}

#[test]
fn what_is_sent_of_the_output() {
    let home = bare_home();
    let host = Host::start(home.path());
    let long = "printf '%070000d\\n' 1; echo b";
    let cut = "0".repeat(65_509) + "\nb\n";
    for (text, code, expected) in [
        ("printf 'a\\n\\n b' ; echo c >&2; exit 1", 1, "a\n bc\n"),
        ("printf 'a\\n\\nb'; exit 2", 2, "a\nb"),
        ("printf '\\n\\n'", 0, ""),
        ("printf 'a\\nb\\0c\\nd\\n'", 0, "a\nb\n"),
        ("echo lost; echo lost >&2; exit 127", 127, ""),
        (long, 0, &cut),
    ] {
        let run = host.run(&script(text));
        assert_eq!((run.code, run.text().as_str()), (Some(code), expected), "{text}");
    }
    let run = host.run(&Command::new(home.path().join("missing")));
    assert_eq!((run.code, run.text().as_str()), (Some(127), ""));
}

#[test]
fn a_run_is_over_when_the_pipe_is_closed_and_the_child_has_exited() {
    let home = bare_home();
    let host = Host::start(home.path());
    let wait = "until [ -e release ]; do sleep 0.01; done";
    for text in [
        // A grandchild has the pipe when the child is gone; the child is there without the pipe.
        format!("echo 1; ({wait}; echo 2; : > end) & : > ready; exit 3"),
        format!("echo 1; echo 2; exec > ready 2>&1; {wait}; : > end; exit 3"),
    ] {
        let running = host.begin(&script(&text), Options::default());
        wait_for_file(&home.path().join("ready"));
        fs::write(home.path().join("release"), "").unwrap();
        let run = running.end();
        assert_eq!((run.code, run.text().as_str()), (Some(3), "1\n2\n"), "{text}");
        for name in ["ready", "release", "end"] {
            fs::remove_file(home.path().join(name)).unwrap();
        }
    }
}

#[test]
fn the_timeout_ends_the_whole_group_and_is_no_more_than_a_sigterm() {
    let home = bare_home();
    let host = Host::start(home.path());
    // A run that is given up is in no other's way.
    drop(host.begin(&script("sleep 1000"), Options::default()));

    let killed = (None, Some(Signal::TERM.as_raw()));
    let options = Options { timeout: Some(Duration::from_millis(1)), ..Options::default() };
    let run = host.run_with(&script("sleep 1000; sleep 1000"), options);
    assert_eq!((run.code, run.signal), killed, "whenever it comes");

    let ready = home.path().join("ready");
    let running = host.begin(&script("sleep 1000 & : > ready; wait"), Options::default());
    wait_for_file(&ready);
    running.terminate();
    let run = running.end();
    assert_eq!((run.code, run.signal), killed, "and the other has let go of the pipe");

    fs::remove_file(&ready).unwrap();
    let running = host.begin(
        &script(
            "exec 2> /dev/null; trap 'echo stopping; until [ -e release ]; do sleep 0.01; done; printf last; exit 7' TERM
             : > ready; while :; do sleep 0.01; done",
        ),
        Options::default(),
    );
    wait_for_file(&ready);
    running.terminate();
    fs::write(home.path().join("release"), "").unwrap();
    let run = running.end();
    assert_eq!((run.code, run.text().as_str()), (Some(7), "stopping\nlast"));
}

#[test]
fn more_output_than_is_kept_breaks_the_pipe() {
    let home = bare_home();
    let host = Host::start(home.path());
    let options = Options { most_output: 1001, ..Options::default() };
    let run = host.run_with(&script("while echo line; do :; done; exit 4"), options);
    assert_eq!((run.code, run.signal), (Some(4), None));
    assert_eq!(run.text(), "line\n".repeat(200) + "l");
}

#[test]
fn a_held_run_fills_its_pipe_until_it_is_read() {
    let home = bare_home();
    let host = Host::start(home.path());
    let count = "n=0; while [ $n -lt 20000 ]; do echo $n; n=$((n + 1)); done";
    let text = format!(": > ready; {count}; : > end");
    let running = host.begin(&script(&text), Options { held: true, ..Options::default() });
    wait_for_file(&home.path().join("ready"));
    assert!(!home.path().join("end").exists());
    running.read();
    assert_eq!(running.end().text().lines().count(), 20_000);
    assert!(home.path().join("end").exists());
    // Only that one was held.
    assert_eq!(host.run(&script("echo 1")).text(), "1\n");
}

#[test]
fn a_loop_sends_line_by_line_and_only_to_the_queue_that_it_found() {
    let home = bare_home();
    let count = script("read n < n; n=$((n + 1)); echo $n > n; echo a$n; echo b$n; exit 1");
    fs::write(home.path().join("n"), "0").unwrap();
    // No queue: the first run's lines are lost, and it is looked for again.
    let none = Duration::ZERO;
    let host = Host::start_loop(home.path(), &count, Options::default(), none, none);
    assert_eq!(host.drained(), Drained { code: Some(1), lines: 2, lost: 2 });
    let mut queue = Queue::bind(home.path());
    let first = 2 + (0..1000).position(|_| host.drained().lost == 0).unwrap();
    assert!(queue.wait_for(PATIENCE, |lines| lines.len() >= 6));
    let lines = queue.lines();
    let expected = (first..).flat_map(|n| [format!("a{n}"), format!("b{n}")]);
    assert!(lines.iter().cloned().eq(expected.take(lines.len())), "{lines:?}");

    queue.recreate();
    assert!((0..1000).any(|_| host.drained().lost == 2));
    let before = queue.lines().len();
    assert_eq!(host.drained().lost, 2);
    assert_eq!(queue.lines().len(), before);
    // Only a restart of the daemon helps.
    host.kill();
    let _host = Host::start_loop(home.path(), &count, Options::default(), none, none);
    assert!(queue.wait_for(PATIENCE, |lines| lines.len() >= before + 4));
}

#[test]
fn a_child_and_its_host_can_be_killed_each_alone() {
    let home = bare_home();
    // The home is looked for as well, so that no orphan outlives a test that failed.
    let wait = "while [ -e queue ] && ! [ -e release ]; do sleep 0.01; done; echo x; : > end";
    let none = Duration::ZERO;
    let host = Host::start_loop(home.path(), &script(wait), Options::default(), none, none);
    kill_process(host.started(), Signal::KILL).unwrap();
    assert_eq!(host.drained(), Drained { code: None, lines: 0, lost: 0 });

    let orphan = host.started();
    let stat = format!("/proc/{orphan}/stat");
    assert!(fs::read_to_string(&stat).unwrap().contains(&format!(" {} ", host.pid())));
    host.kill();
    assert!(fs::read_to_string(&stat).is_ok(), "it goes on");
    fs::write(home.path().join("release"), "").unwrap();
    wait_for_file(&home.path().join("end"));
}
