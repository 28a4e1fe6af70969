//! `threads: N`: connections are spread over threads that each serve alone, and what a thread keeps it uses again.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Backend, Connection, Gateway, Load, ScriptedUpstream, Step, Yaml, within_deadline};

fn yaml(threads: usize, upstream: SocketAddr, settings: &str) -> String {
    let top = format!("threads: {threads}\nlog: {{access: {{to: off}}}}");
    Yaml::to(upstream).top(&top).settings(settings).to_string()
}

async fn keeping() -> ScriptedUpstream {
    ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await
}

/// The descriptors of the listener's connections, by the runtime that watches them: each has an epoll of its own.
fn watched(gateway: &Gateway) -> BTreeSet<BTreeSet<String>> {
    let proc = PathBuf::from(format!("/proc/{}", gateway.pid()));
    let port = format!(":{:04X}", gateway.address("main").port());
    let table = fs::read_to_string(proc.join("net/tcp")).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_open = |row: &Vec<&str>| row[1].ends_with(&port) && row[3] == "01";
    let ours: BTreeSet<String> = rows.filter(is_open).map(|row| format!("socket:[{}]", row[9])).collect();
    let descriptors: Vec<_> = fs::read_dir(proc.join("fd")).unwrap().map(|entry| entry.unwrap()).collect();
    let leads_to = |path: &Path| fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned();
    let polls = descriptors.iter().filter(|entry| leads_to(&entry.path()) == "anon_inode:[eventpoll]");
    let watched = polls.map(|poll| {
        let info = fs::read_to_string(proc.join("fdinfo").join(poll.file_name())).unwrap();
        let watched = info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
        let is_ours = |descriptor: &&str| ours.contains(&leads_to(&proc.join("fd").join(descriptor)));
        watched.filter(is_ours).map(str::to_owned).collect::<BTreeSet<_>>()
    });
    watched.filter(|watched| !watched.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_all_threads() {
    let upstream = keeping().await;
    let gateway = Gateway::start(&yaml(3, upstream.address(), "")).await;
    let mut connections = Vec::new();
    for round in 1..=2 {
        for _ in 0..3 {
            let mut connection = Connection::http1(gateway.address("main")).await.unwrap();
            connection.send("GET", "/", &[], "").await.unwrap().assert_status(200);
            connections.push(connection);
        }
        let watched = watched(&gateway);
        assert!(watched.len() == 3 && watched.iter().all(|watched| watched.len() == round), "{watched:?}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_serves_http2_and_upgrades_through_a_reload_and_an_upgrade() {
    let backend = Backend::start().await;
    let config =
        format!("{}upgrade: {{socket: upgrade.sock, timeout: 50s}}\n", yaml(3, backend.address(), ""));
    let gateway = Gateway::start(&config).await;
    let edge = gateway.address("main");
    let loads = [Load::start(edge, "/", 6), Load::start_h2c(edge, "/", 6)];
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let url = format!("ws://{edge}/ws");
        sockets.push(within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await.unwrap().0);
    }
    gateway.reload(&config.replace("{upstream: origin}", "{name: renamed, upstream: origin}")).await;
    for load in &loads {
        load.wait_for_requests(50).await;
    }
    for socket in &mut sockets {
        socket.send(Message::text("still there")).await.unwrap();
        let echoed = within_deadline("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echoed, Message::text("still there"));
    }
    drop(sockets);
    let gateway = gateway.upgrade().await;
    for load in &loads {
        load.wait_for_requests(50).await;
    }
    for load in loads {
        load.stop().await.assert_no_failures();
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
}
