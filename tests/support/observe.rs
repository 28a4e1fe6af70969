//! What a gateway shows of itself: its access log, its metrics, its descriptors and its memory.

use std::time::Duration;

use serde_json::Value;

use super::{DEADLINE, Gateway, get, within_deadline};

/// Paces questions; whatever is waited for happens by itself.
const PAUSE: Duration = Duration::from_millis(5);

/// The access log's line about a path.
pub(crate) async fn logged(gateway: &Gateway, path: &str) -> Value {
    gateway.wait_for_line(|line| line["msg"] == "request" && line["path"] == path).await
}

/// The sum of the samples of that metric that have all these labels, written as in the exposition. None where there is
/// no such sample.
pub(crate) async fn series(gateway: &Gateway, name: &str, labels: &[&str]) -> Option<f64> {
    let scrape = get(gateway.admin(), "/metrics").await;
    let samples = scrape.assert_status(200).text().lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .reduce(|sum, value| sum + value)
}

/// Like `series`, and nothing counted is 0.
pub(crate) async fn metric(gateway: &Gateway, name: &str, labels: &[&str]) -> f64 {
    series(gateway, name, labels).await.unwrap_or(0.0)
}

/// Waits until that metric has that value.
pub(crate) async fn wait_for_metric(gateway: &Gateway, name: &str, labels: &[&str], value: f64) {
    let mut last = f64::NAN;
    let reached = async {
        while last != value {
            tokio::time::sleep(PAUSE).await;
            last = metric(gateway, name, labels).await;
        }
    };
    if tokio::time::timeout(DEADLINE, reached).await.is_err() {
        panic!("{name} {labels:?} is {last} and not {value}");
    }
}

/// How many descriptors the gateway has open.
pub(crate) fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// Waits until it has no more than `most` open: closing may take it a moment longer than its client sees.
pub(crate) async fn wait_for_descriptors(gateway: &Gateway, most: usize) {
    let down = async {
        while descriptors(gateway) > most {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline(&format!("no more than {most} open descriptors"), down).await;
}

/// Does `once` again and again; each time all that was opened for it is closed.
pub(crate) async fn leaves_nothing_open(gateway: &Gateway, once: impl AsyncFn()) {
    once().await;
    let before = descriptors(gateway);
    for _ in 0..10 {
        once().await;
    }
    wait_for_descriptors(gateway, before).await;
}

/// The most memory that the gateway has had so far, in kilobytes.
pub(crate) fn peak_memory(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Resident memory, in KiB.
pub(crate) fn resident(gateway: &Gateway) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
