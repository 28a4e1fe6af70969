//! A gateway as a service: started by a program that can be exchanged, beside a service manager that hears what it says, and
//! perhaps with a socket that was opened for it.

use std::{
    fs,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

use super::{Process, tidegate, within_deadline};

/// What is at `NOTIFY_SOCKET`.
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    pub(crate) fn listen(home: &Path) -> Self {
        let path = home.join("notify.sock");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    /// The next message, whole.
    pub(crate) async fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let received = self.socket.recv(&mut buffer);
        let length = within_deadline("a word to the service manager", received).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that has this line, others than the watchdog's being none.
    pub(crate) async fn expect(&self, line: &str) -> String {
        loop {
            let message = self.next().await;
            if message.lines().any(|said| said.starts_with(line)) {
                return message;
            }
            assert_eq!(message, "WATCHDOG=1", "in the place of {line}");
        }
    }
}

/// What `ServiceBuilder` has started, and all that it has started in turn: ended together.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) manager: Option<ServiceManager>,
    home: TempDir,
}

/// How one is started.
pub(crate) struct ServiceBuilder {
    home: TempDir,
    environment: Vec<(String, String)>,
    args: Vec<String>,
    manager: Option<ServiceManager>,
}

impl ServiceBuilder {
    pub(crate) fn new(yaml: &str) -> Self {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("gateway.yaml"), yaml).unwrap();
        symlink(env!("CARGO_BIN_EXE_tidegate"), home.path().join("tidegate")).unwrap();
        Self { home, environment: Vec::new(), args: Vec::new(), manager: None }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn managed(mut self) -> Self {
        let manager = ServiceManager::listen(self.home());
        let path = manager.path.display().to_string();
        self.manager = Some(manager);
        self.environment("NOTIFY_SOCKET", &path)
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    fn command(&self, program: &str) -> Command {
        let built = tidegate(self.home());
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.home());
        command.envs(built.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // To be ended with all that it starts.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn run(self, command: Command, input: Stdio) -> Service {
        let Self { home, manager, .. } = self;
        Service { process: Process::spawn_with(command, input), manager, home }
    }

    /// Until it has begun; it need not be ready.
    pub(crate) fn spawn(self) -> Service {
        let mut command = self.command("./tidegate");
        command.args(["run", "-c", "gateway.yaml"]).args(&self.args);
        self.run(command, Stdio::null())
    }

    /// With this socket, passed as `count` descriptors of these names.
    pub(crate) fn activate(self, socket: OwnedFd, count: usize, names: &str) -> Service {
        let mut command = self.command("sh");
        let passed: Vec<String> = (3..3 + count).map(|descriptor| format!("{descriptor}<&0")).collect();
        let run = format!(
            "exec {} </dev/null; LISTEN_PID=$$ exec ./tidegate run -c gateway.yaml",
            passed.join(" ")
        );
        command.args(["-c", &run]).env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
        self.run(command, Stdio::from(socket))
    }

    pub(crate) async fn start(self) -> Service {
        let service = self.spawn();
        service.process.wait_for_output("\"ready\"").await;
        service
    }
}

impl Service {
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn manager(&self) -> &ServiceManager {
        self.manager.as_ref().expect("`managed`")
    }

    pub(crate) fn write_config(&self, yaml: &str) {
        fs::write(self.home().join("gateway.yaml"), yaml).unwrap();
    }

    /// What runs at the next upgrade, in the place of this build: a script, or nothing.
    pub(crate) fn replace_program(&self, script: Option<&str>) {
        use std::os::unix::fs::PermissionsExt;
        let (program, new) = (self.home().join("tidegate"), self.home().join("new"));
        match script {
            None => fs::remove_file(program).unwrap(),
            Some(script) => {
                fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
                fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
                fs::rename(new, program).unwrap();
            }
        }
    }

    /// Where a listener listens, as was said last.
    #[track_caller]
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let output = self.process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut said = lines.filter(|line| line["msg"] == "listening" && line["listener"] == listener);
        let address = said.next_back().and_then(|line| line["address"].as_str()?.parse().ok());
        address.unwrap_or_else(|| panic!("no listener `{listener}` in {output}"))
    }

    /// How often this was said.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.process.output().matches(text).count()
    }

    /// Waits until it was said so often.
    pub(crate) async fn wait_for(&self, text: &str, times: usize) {
        within_deadline(text, async {
            while self.count(text) < times {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its successors hold its output open: all of them have to end.
        let _ = killpg(self.process.pid(), Signal::SIGKILL);
    }
}

pub(crate) fn is_alive(process: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    kill(process, None).is_ok() && !state.contains(") Z")
}
