//! A real Prometheus, which scrapes a gateway as the job `tidegate` and evaluates our rules.

use std::{net::SocketAddr, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, get, installed::installed, within_deadline};

pub(crate) struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl Prometheus {
    /// It looks at `target` some times a second.
    pub(crate) async fn start(target: SocketAddr) -> Prometheus {
        let home = TempDir::new().unwrap();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: tidegate, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        std::fs::write(home.path().join("prometheus.yml"), config).unwrap();
        let mut command = installed("prometheus");
        command.current_dir(home.path()).args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
        ]);
        let process = Process::spawn(command);
        let address = process
            .find("where Prometheus listens", |line| {
                let (_, address) =
                    line.split_once("address=127.0.0.1:").filter(|_| line.contains("tls_config"))?;
                let port =
                    address.split(' ').next()?.trim_matches('"').parse().ok().filter(|port| *port > 0)?;
                Some(SocketAddr::from(([127, 0, 0, 1], port)))
            })
            .await;
        Prometheus { address, _process: process, _home: home }
    }

    /// What it answers to a question of its API, once `found` sees something in it.
    pub(crate) async fn ask<T>(&self, path: &str, found: impl Fn(&Value) -> Option<T>) -> T {
        let asked = async {
            loop {
                let answer = get(self.address, path).await;
                // While it reads what it has stored it takes no questions.
                if answer.status == 200
                    && let Some(found) = found(&answer.json()["data"])
                {
                    return found;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within_deadline(path, asked).await
    }
}
