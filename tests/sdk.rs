//! The SDKs against a real control plane: what they register is there, what they discover is what is there, and a control plane
//! that is away, restarted or wrong takes nothing from either.

mod python;
mod rust;

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;

use crate::control::{self, Plane};
use crate::support::certificates::{authority, keep, svid};
use crate::support::{Gateway, Process, get, metric, send, within_deadline};

const CONTROL: &str = "spiffe://mesh.local/control";
const TOKEN: &str = "correct-horse-battery-staple";

/// One that is reached over TLS and shows an SVID. Whoever has [`TOKEN`] may register and see `users`, and whoever shows an SVID
/// its own service. In its directory are `bundle.pem`, which is what to trust, and an SVID of `users`.
async fn guarded_plane() -> Plane {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    root.issue(&svid(CONTROL)).write_to(directory.path(), &root);
    keep(directory.path(), "users", &root.issue(&svid("spiffe://mesh.local/users")));
    let yaml = format!(
        "{}identity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: svid.key, bundle: bundle.pem}}}}\n",
        control::yaml(&format!(
            "tls: {{certificates: [identity], client_auth: {{mode: request, trust: spiffe}}}}, authorize: [\
             {{token: {TOKEN}, register: [users], discover: [users]}}, \
             {{spiffe: ['spiffe://mesh.local/*'], register: own, discover: ['*']}}]"
        ))
    );
    Plane::of(Gateway::start_in(directory, &yaml, &[]).await)
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// A way to a control plane that can be led to another, or nowhere: connections are cut then.
struct Way {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
}

impl Way {
    async fn to(target: Option<&Plane>) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, target) = watch::channel(target.map(|plane| plane.address()));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut target = target.clone();
                let Some(address) = *target.borrow_and_update() else { continue };
                tokio::spawn(async move {
                    let Ok(mut plane) = TcpStream::connect(address).await else { return };
                    select! {
                        _ = copy_bidirectional(&mut client, &mut plane) => {}
                        _ = target.changed() => {}
                    }
                });
            }
        });
        Way { address, target: sender }
    }

    fn lead(&self, target: Option<&Plane>) {
        self.target.send_replace(target.map(|plane| plane.address()));
    }
}

/// A server that takes connections and never says anything.
async fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            kept.push(client);
        }
    });
    address
}

/// Registers an instance that nobody renews.
async fn register(plane: &Plane, port: u16, ttl: &str) {
    let body = json!({"name": "users", "address": format!("127.0.0.1:{port}"), "ttl": ttl}).to_string();
    let answer = send(plane.address(), "POST", "/v1/services", &[], body).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

async fn remove(plane: &Plane, id: &str) {
    let path = format!("/v1/services/{id}");
    send(plane.address(), "DELETE", &path, &[], "").await.assert_status(204);
}

/// What the control plane has of that id.
async fn record(plane: &Plane, id: &str) -> Option<Value> {
    let answer = get(plane.address(), &format!("/v1/services/{id}")).await;
    (answer.status == StatusCode::OK).then(|| answer.json())
}

/// How often this has happened to an instance.
async fn happened(plane: &Plane, event: &str) -> f64 {
    metric(&plane.gateway, "tidegate_registry_events_total", &[&format!("event=\"{event}\"")]).await
}

async fn heartbeats(plane: &Plane) -> f64 {
    metric(&plane.gateway, "tidegate_registry_heartbeats_total", &["result=\"ok\""]).await
}

/// Until then a signal would end it at once.
async fn wait_until_it_hears(process: &Process, signal: Signal) {
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    let is_heard = async || caught().is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0);
    eventually(&format!("that {signal} is heard"), is_heard).await;
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_deadline(what, reached).await;
}
