//! The built binary as child processes: the gateway under test and backends behind it.
//! Threads collect what a child prints and its exit, so waiting is waiting for a change of that record.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{DEADLINE, own_address, within, within_deadline};

/// The thread that reads a configuration gives way to all others: on a machine that is busy with the load of its test and with
/// three more tests it has a fortieth of a core.
const RELOAD_DEADLINE: Duration = Duration::from_secs(2 * DEADLINE.as_secs());

/// `tidegate run` with a configuration of its own in a temporary directory.
pub(crate) struct Gateway {
    process: Process,
    directory: Arc<TempDir>,
    environment: Vec<(String, String)>,
    /// Lines `wait_for_line` has returned already.
    taken: Mutex<HashSet<usize>>,
}

impl Gateway {
    /// Starts with `yaml` as gateway.yaml and waits until it is ready. Listeners belong on port 0.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), yaml, &[]).await
    }

    /// Starts in a directory that already holds what the configuration names (certificates, includes), with
    /// `environment` added to the nearly empty one every gateway gets.
    pub(crate) async fn start_in(directory: TempDir, yaml: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_with(directory, yaml, environment, &[]).await
    }

    /// The same, with `args` behind `tidegate run -c gateway.yaml`.
    pub(crate) async fn start_with(
        directory: TempDir,
        yaml: &str,
        environment: &[(&str, &str)],
        args: &[&str],
    ) -> Self {
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
        let gateway = Self::spawn(Arc::new(directory), environment, args);
        gateway.wait_for_message("ready").await;
        gateway
    }

    /// Starts one that is not to be ready, and waits until it says `message`.
    pub(crate) async fn start_until(yaml: &str, message: &str) -> Self {
        Self::start_in_until(TempDir::new().unwrap(), yaml, message).await
    }

    /// The same, in a directory that already holds what the configuration names.
    pub(crate) async fn start_in_until(directory: TempDir, yaml: &str, message: &str) -> Self {
        std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
        let gateway = Self::spawn(Arc::new(directory), Vec::new(), &[]);
        gateway.wait_for_message(message).await;
        gateway
    }

    /// Runs `tidegate ARGS -c gateway.yaml`, which must end by itself: (exit code, stderr, stdout).
    pub(crate) async fn start_expecting_failure(yaml: &str, args: &[&str]) -> (i32, String, String) {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = tidegate(directory.path());
        command.args(args).arg("-c").arg(&file);
        let process = Process::spawn(command);
        let status = process.wait_exit().await;
        let record = process.record.borrow();
        let code = status.code().unwrap_or_else(|| panic!("ended by a signal: {status}"));
        (code, record.stderr.join("\n"), record.stdout.join("\n"))
    }

    /// Starts with no more descriptors than this, nor the right to more.
    pub(crate) async fn start_with_descriptors(most: usize, yaml: &str) -> Self {
        Self::start_under(&format!("ulimit -n {most}"), yaml).await
    }

    /// Starts with no more descriptors than this, and the right to more.
    pub(crate) async fn start_with_soft_descriptors(most: usize, yaml: &str) -> Self {
        Self::start_under(&format!("ulimit -S -n {most}"), yaml).await
    }

    /// Starts under limits that the shell sets first.
    async fn start_under(limits: &str, yaml: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = tidegate(directory.path());
        let program = command.get_program().to_owned();
        let limited = format!("{limits} && exec \"$0\" run -c gateway.yaml");
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        command = Command::new("sh");
        command.arg("-c").arg(limited).arg(program).env_clear().current_dir(directory.path());
        command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let (process, directory) = (Process::spawn(command), Arc::new(directory));
        let gateway = Self { process, directory, environment: Vec::new(), taken: Mutex::default() };
        gateway.wait_for_message("ready").await;
        gateway
    }

    fn spawn(directory: Arc<TempDir>, environment: Vec<(String, String)>, args: &[&str]) -> Self {
        let mut command = tidegate(directory.path());
        command.arg("run").arg("-c").arg(directory.path().join("gateway.yaml")).args(args);
        // No other gateway's successor is there.
        command.env("XDG_RUNTIME_DIR", directory.path());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Self { process: Process::spawn(command), directory, environment, taken: Mutex::default() }
    }

    /// Where the listener of that name listens, as it announced itself.
    #[track_caller]
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        // Only these are read: a gateway under load says much.
        let told: Vec<String> = {
            let record = self.process.record.borrow();
            record.stdout.iter().filter(|line| line.contains("\"listening\"")).cloned().collect()
        };
        let listeners: BTreeMap<_, _> = told
            .iter()
            .map(|line| parse(line))
            .filter(|line| line["msg"] == "listening")
            // Those on Unix sockets have none.
            .filter_map(|line| Some((line["listener"].to_string(), line["address"].as_str()?.parse().ok()?)))
            .collect();
        match listeners.get(&Value::from(listener).to_string()) {
            Some(address) => *address,
            None => panic!("no listener `{listener}` announced itself, only {listeners:?}"),
        }
    }

    /// Where the operator's API listens.
    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// The directory of gateway.yaml, which is also the process's home and working directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces gateway.yaml without telling the gateway.
    pub(crate) fn write_config(&self, yaml: &str) {
        // Renamed into place, as `watch: true` must not see half a file.
        let written = self.directory().join("gateway.yaml.new");
        std::fs::write(&written, yaml).unwrap();
        std::fs::rename(written, self.directory().join("gateway.yaml")).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Replaces gateway.yaml, sends SIGHUP and returns the line that says how that went: its `msg` is
    /// `configuration reloaded`, `configuration rejected` or `configuration unchanged`.
    pub(crate) async fn reload(&self, yaml: &str) -> Value {
        let outcomes = ["configuration reloaded", "configuration rejected", "configuration unchanged"];
        let before = self.process.record.borrow().stdout.len();
        self.write_config(yaml);
        self.signal(Signal::SIGHUP);
        let wanted = |line: &str| {
            line.contains(r#""msg":"configuration "#)
                && parse(line)["msg"].as_str().is_some_and(|message| outcomes.contains(&message))
        };
        self.take_line("the outcome of a reload", before, RELOAD_DEADLINE, wanted).await
    }

    /// The first line that satisfies `wanted`, past or to come. A line is returned only once, so that waiting
    /// twice for the same message waits for it to be said twice.
    pub(crate) async fn wait_for_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.take_line("a log line", 0, DEADLINE, |line| wanted(&parse(line))).await
    }

    /// Like `wait_for_line`, for a line whose `msg` is `message`.
    pub(crate) async fn wait_for_message(&self, message: &str) -> Value {
        let wanted = |line: &str| line.contains(message) && parse(line)["msg"] == message;
        self.take_line(&format!("the log line `{message}`"), 0, DEADLINE, wanted).await
    }

    async fn take_line(
        &self,
        what: &str,
        from: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Value {
        // Each line is looked at once, however often new ones come.
        let looked_at = AtomicUsize::new(from);
        let position = |record: &Record| {
            let taken = self.taken.lock().unwrap();
            let mut lines = record.stdout.iter().enumerate().skip(looked_at.load(Relaxed));
            let found = lines.find(|(at, line)| !taken.contains(at) && wanted(line));
            let found = found.map(|(at, _)| at);
            looked_at.store(found.unwrap_or(record.stdout.len()), Relaxed);
            found
        };
        let mut record = self.process.record.clone();
        let found = record.wait_for(|record| record.closed || position(record).is_some());
        let record = within(deadline, what, found).await;
        let record = record.expect("the thread that reads stdout sets `closed` before it ends");
        let at = position(&record).unwrap_or_else(|| panic!("{what}: the gateway ended without it"));
        self.taken.lock().unwrap().insert(at);
        parse(&record.stdout[at])
    }

    /// What `find` sees in the lines of both outputs, once it sees something.
    pub(crate) async fn find<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.process.find(what, find).await
    }

    /// Every line so far; one that is not JSON is a string.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.process.record.borrow().stdout.iter().map(|line| parse(line)).collect()
    }

    /// Everything written to stdout so far, as it is.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// Everything written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }

    pub(crate) async fn wait_exit(&self) -> ExitStatus {
        self.process.wait_exit().await
    }

    /// Hands the listening sockets over to a second process that reads the same gateway.yaml, which is ready when this returns
    /// it. The first has yet to finish what it has.
    pub(crate) async fn hand_over(&self) -> Self {
        let next = self.start_successor().await;
        next.wait_for_message("ready").await;
        next
    }

    /// The same, and does not wait until it is ready.
    pub(crate) async fn start_successor(&self) -> Self {
        let next = Self::spawn(Arc::clone(&self.directory), self.environment.clone(), &["--upgrade"]);
        next.wait_for_message("waiting for hand-over").await;
        self.signal(Signal::SIGQUIT);
        next
    }

    /// The same, and waits until the first has ended well.
    pub(crate) async fn upgrade(self) -> Self {
        let next = self.hand_over().await;
        let status = self.wait_exit().await;
        assert!(status.success(), "the process that handed over ended with {status}");
        next
    }
}

/// `tidegate backend` as a process of its own, so that it can be killed, stopped and brought back.
pub(crate) struct Backend {
    process: Process,
    address: SocketAddr,
    _home: TempDir,
}

impl Backend {
    /// Starts one named `backend` on a free port.
    pub(crate) async fn start() -> Self {
        Self::named("backend").await
    }

    /// Starts one that calls itself `name` (in `/` and `x-backend`) on a free port.
    pub(crate) async fn named(name: &str) -> Self {
        Self::named_at(name, own_address()).await
    }

    /// Starts one named `name` on a free port of 127.0.0.1, which is `localhost`.
    pub(crate) async fn at_localhost(name: &str) -> Self {
        Self::named_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one named `backend` at the address of one that was killed or stopped.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::named_at("backend", address).await
    }

    /// Starts one named `name` at `address`.
    pub(crate) async fn named_at(name: &str, address: SocketAddr) -> Self {
        let home = TempDir::new().unwrap();
        let mut command = tidegate(home.path());
        command.args(["backend", "--listen", &address.to_string(), "--name", name]);
        let process = Process::spawn(command);
        let Some(address) = announced_address(&process).await else {
            panic!("no backend at {address}: {}", process.stderr())
        };
        Self { process, address, _home: home }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// For SIGSTOP and SIGCONT: a backend that hangs but whose kernel still accepts connections.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it at once; its connections are reset.
    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit().await;
    }

    /// Lets it finish the requests in flight and waits for its end, which must be a good one.
    pub(crate) async fn stop(&self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait_exit().await;
        assert!(status.success(), "the backend ended with {status}");
    }

    /// Everything written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }
}

/// None when the backend ended without listening.
async fn announced_address(process: &Process) -> Option<SocketAddr> {
    let line = process.first_lines(1).await.pop()?;
    let address = line.strip_prefix("backend listening on ").and_then(|address| address.parse().ok());
    Some(address.unwrap_or_else(|| panic!("not where a backend listens: {line}")))
}

/// The built binary in an environment without the developer's settings and home.
pub(crate) fn tidegate(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_clear().env("HOME", home).env("RUST_BACKTRACE", "1").current_dir(home);
    for kept in ["PATH", "TMPDIR", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
        command.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    command
}

/// What a child has said and how it ended.
#[derive(Default)]
struct Record {
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// Nothing more will come on stdout.
    closed: bool,
    stderr_closed: bool,
    exit: Option<ExitStatus>,
}

/// A child, killed when dropped; if the test is panicking then, what it said is shown.
pub(crate) struct Process {
    command: String,
    pid: Pid,
    record: watch::Receiver<Record>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Open for as long as this is, for those that end with their input.
    input: Mutex<Option<ChildStdin>>,
}

impl Process {
    /// Starts `command` with its output collected and nothing on stdin.
    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Self {
        Self::launch(command, Stdio::null())
    }

    /// The same for one that ends when its input does: also should this process be killed.
    #[track_caller]
    pub(crate) fn spawn_with_input(command: Command) -> Self {
        Self::launch(command, Stdio::piped())
    }

    /// The same with this on stdin.
    #[track_caller]
    pub(crate) fn spawn_with(command: Command, input: Stdio) -> Self {
        Self::launch(command, input)
    }

    #[track_caller]
    fn launch(mut command: Command, input: Stdio) -> Self {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let pid = Pid::from_raw(child.id() as i32);
        let (sender, record) = watch::channel(Record::default());
        let sender = Arc::new(sender);
        let threads = vec![
            collect(child.stdout.take().unwrap(), &sender, |record, line| match line {
                Some(line) => record.stdout.push(line),
                None => record.closed = true,
            }),
            collect(child.stderr.take().unwrap(), &sender, |record, line| match line {
                Some(line) => record.stderr.push(line),
                None => record.stderr_closed = true,
            }),
            thread::spawn(move || {
                let status = child.wait().unwrap();
                sender.send_modify(|record| record.exit = Some(status));
            }),
        ];
        Self { command: format!("{command:?}"), pid, record, threads, input: Mutex::new(input) }
    }

    /// To one that was started with input.
    pub(crate) fn write_line(&self, line: &str) {
        let mut input = self.input.lock().unwrap();
        let input = input.as_mut().unwrap_or_else(|| panic!("{} has no input", self.command));
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{} reads nothing: {error}", self.command));
    }

    /// Waits for `count` lines of stdout; fewer when it closes before.
    pub(crate) async fn first_lines(&self, count: usize) -> Vec<String> {
        let mut record = self.record.clone();
        let said = record.wait_for(|record| record.closed || record.stdout.len() >= count);
        let record = within_deadline("output", said).await.expect("stdout is closed before its thread ends");
        record.stdout.iter().take(count).cloned().collect()
    }

    /// Waits for a line of stdout that has `text` in it.
    pub(crate) async fn wait_for_output(&self, text: &str) {
        let said = |record: &Record| record.stdout.iter().any(|line| line.contains(text));
        let mut record = self.record.clone();
        let found = record.wait_for(|record| record.closed || said(record));
        let record = within_deadline(text, found).await.expect("stdout is closed before its thread ends");
        assert!(said(&record), "{} ended without {text:?}", self.command);
    }

    /// What `find` sees in the lines of both outputs, once it sees something.
    pub(crate) async fn find<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let found = self.find_or_end(what, find).await;
        found.unwrap_or_else(|| panic!("{} ended without {what}", self.command))
    }

    /// The same; `None` where it has ended without.
    pub(crate) async fn find_or_end<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = |record: &Record| record.stdout.iter().chain(&record.stderr).find_map(|line| find(line));
        let over = |record: &Record| record.closed && record.stderr_closed;
        let mut record = self.record.clone();
        let waited = record.wait_for(|record| over(record) || found(record).is_some());
        let record =
            within_deadline(what, waited).await.expect("the outputs are closed before the threads end");
        found(&record)
    }

    /// Has it ended?
    pub(crate) fn has_ended(&self) -> bool {
        self.record.borrow().exit.is_some()
    }

    /// Everything written to stdout so far.
    pub(crate) fn output(&self) -> String {
        self.record.borrow().stdout.join("\n")
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Everything written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.record.borrow().stderr.join("\n")
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        // A child that has been waited for no longer owns its process id.
        if self.record.borrow().exit.is_none() {
            match kill(self.pid, signal) {
                // It was waited for this moment.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("{signal} to {}: {error}", self.command),
            }
        }
    }

    /// Waits for its end; all it said is collected then.
    pub(crate) async fn wait_exit(&self) -> ExitStatus {
        let mut record = self.record.clone();
        let ended = record.wait_for(|record| record.exit.is_some() && record.closed && record.stderr_closed);
        let record = within_deadline("the end of a process", ended).await;
        record.expect("the threads report before they end").exit.unwrap()
    }
}

/// Reads lines into the record until the end, which is reported as None.
fn collect(
    pipe: impl Read + Send + 'static,
    record: &Arc<watch::Sender<Record>>,
    add: impl Fn(&mut Record, Option<String>) + Send + 'static,
) -> thread::JoinHandle<()> {
    let record = Arc::clone(record);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            record.send_modify(|record| add(record, Some(String::from_utf8_lossy(&line).into_owned())));
        }
        record.send_modify(|record| add(record, None));
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // With the child gone its pipes end, so this has the last lines too.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if thread::panicking() {
            let record = self.record.borrow();
            eprintln!("--- {} (pid {}, {:?})", self.command, self.pid, record.exit);
            record.stdout.iter().chain(&record.stderr).for_each(|line| eprintln!("{line}"));
        }
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| Value::from(line))
}
