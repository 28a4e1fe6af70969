//! `threads: N`: connections are spread over threads that each serve alone, and what a thread keeps it uses again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::support::{Connection, Gateway, ScriptedUpstream, Step};

fn yaml(threads: usize, upstream: SocketAddr, settings: &str) -> String {
    format!(
        "admin: false\nthreads: {threads}\nlog: {{access: {{to: off}}}}\n\
         listeners: [{{name: main, address: \"127.0.0.1:0\"}}]\nroutes: [{{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: [\"{upstream}\"], {settings}}}}}\n"
    )
}

async fn keeping() -> ScriptedUpstream {
    ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await
}

/// How often each thread that serves has had to wait, by its name.
fn waits(gateway: &Gateway) -> BTreeMap<String, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let serving = tasks.filter_map(|task| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let field = |name| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
        let name = field("Name:")?;
        let serves = name == "tidegate" || name[..].strip_prefix("tidegate-")?.parse::<usize>().is_ok();
        serves.then_some((name, field("voluntary_ctxt_switches:")?.parse().ok()?))
    });
    serving.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_all_threads_and_stay_where_they_are() {
    const REQUESTS: u64 = 30;
    let upstream = keeping().await;
    let gateway = Gateway::start(&yaml(3, upstream.address(), "")).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(Connection::http1(gateway.address("main")).await.unwrap());
    }
    let mut serving = Vec::new();
    for connection in &mut connections {
        let before = waits(&gateway);
        for _ in 0..REQUESTS {
            connection.send("GET", "/", &[], "").await.unwrap().assert_status(200);
        }
        // A thread that serves waits for each request; the first one has more to do.
        let after = waits(&gateway);
        let most = after.iter().max_by_key(|(name, waits)| *waits - before[*name]).unwrap().0;
        assert!(after[most] - before[most] >= REQUESTS, "{before:?} {after:?}");
        serving.push(most.clone());
    }
    serving.sort();
    assert_eq!(serving, ["tidegate", "tidegate-1", "tidegate-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thread_keeps_a_connection_to_the_upstream_and_uses_it_again() {
    let upstream = keeping().await;
    let gateway = Gateway::start(&yaml(2, upstream.address(), "")).await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(Connection::http1(gateway.address("main")).await.unwrap());
    }
    // None waits for another, so each would find the other's if they had one pool.
    for _ in 0..50 {
        for connection in &mut connections {
            connection.send("GET", "/", &[], "").await.unwrap().assert_status(200);
        }
    }
    // On a machine that stalls, one may rest for long enough to be handed over.
    assert!(upstream.connections() <= 2, "{}", upstream.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_finds_what_another_may_keep_where_no_more_may_be_kept() {
    let upstream = keeping().await;
    let gateway = Gateway::start(&yaml(2, upstream.address(), "pool: {idle_connections: 1}")).await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(Connection::http1(gateway.address("main")).await.unwrap());
    }
    for _ in 0..20 {
        for connection in &mut connections {
            connection.send("GET", "/", &[], "").await.unwrap().assert_status(200);
        }
    }
    assert_eq!(upstream.connections(), 1);
}
