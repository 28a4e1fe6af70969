//! A real redis-server on a socket of its own, so that it can be stopped, killed and brought back in the same place.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::Process;

pub(crate) struct Redis {
    process: Process,
    home: TempDir,
    settings: Vec<String>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings as on its command line: `--requirepass`, `secret`.
    pub(crate) async fn with(settings: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let process = launch(&home, &settings).await;
        Self { process, home, settings }
    }

    /// On the same socket, empty.
    pub(crate) async fn start_again(&mut self) {
        self.process = launch(&self.home, &self.settings).await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// For SIGSTOP and SIGCONT: one that hangs, but whose kernel still accepts connections.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit().await;
    }

    /// What it answers to a command.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }
}

async fn launch(home: &TempDir, settings: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.current_dir(home.path()).args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
    command.args(settings);
    if Command::new("redis-server").arg("--version").output().is_err() {
        panic!(
            "these tests talk to a real Redis, and there is no redis-server: apt-get install redis-server"
        );
    }
    let process = Process::spawn(command);
    process.wait_for_output("eady to accept connections").await;
    process
}
