//! Everything that proves who somebody is, replaced while requests pass through two sidecars: certificates of both, the
//! authority that both believe, and the keys of the token issuer. Nobody notices.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    Backend, Connection, DEADLINE, Gateway,
    certificates::{Issued, Order, authority, svid, write},
    issuer::{Issuer, Signer, set},
    within_deadline,
};

const ROTATIONS: usize = 3;
const WORKERS: usize = 10;
/// Of each worker: 1,000 requests a second together, as far as the machine manages.
const PACE: Duration = Duration::from_millis(10);
/// After each change, before the next.
const REQUESTS_BETWEEN: u64 = 300;

const IDENTITY: &str = "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}\n\
     admin: false\nlog: {access: {to: off}}\n";

async fn inbound(directory: TempDir, application: SocketAddr, issuer: &Issuer) -> Gateway {
    let keys = format!("jwks: '{}', refresh: 1h, cooldown: 1ms", issuer.url());
    let yaml = format!(
        "{IDENTITY}listeners:\n  - name: inbound\n    address: 127.0.0.1:0\n    tls: {{certificates: [identity], \
         client_auth: {{mode: require, trust: spiffe}}}}\n    filters:\n      - authz: {{allow: [{{spiffe: \
         ['spiffe://mesh.local/orders']}}]}}\n      - jwt: {{keys: {{{keys}}}}}\nroutes: [{{upstream: \
         application}}]\nupstreams: {{application: {{endpoints: ['{application}']}}}}\n"
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

async fn outbound(directory: TempDir, inbound: SocketAddr, protocol: &str) -> Gateway {
    let yaml = format!(
        "{IDENTITY}listeners: [{{name: outbound, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: payments, retry: \
         {{attempts: 1}}}}]\nupstreams:\n  payments:\n    endpoints: ['{inbound}']\n    protocol: {protocol}\n    tls: \
         {{verify: {{spiffe: ['spiffe://mesh.local/payments']}}, client_identity: true}}\n"
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

fn directory(service: &str, authority: &Issued) -> TempDir {
    let directory = TempDir::new().unwrap();
    authority.issue(&service_svid(service)).write_to(directory.path(), authority);
    directory
}

fn service_svid(service: &str) -> Order {
    svid(&format!("spiffe://mesh.local/{service}"))
}

fn write_svid(directory: &Path, service: &str, authority: &Issued) {
    let issued = authority.issue(&service_svid(service));
    write(&directory.join("svid.key"), &issued.key_pem(), 0o600);
    write(&directory.join("svid.pem"), &issued.pem(), 0o644);
}

#[derive(Default)]
struct Totals {
    answered: u64,
    failures: Vec<String>,
}

/// Requests with whatever token is current, at a pace, until the first failure of each worker.
struct Callers {
    token: Arc<Mutex<String>>,
    totals: watch::Sender<Totals>,
    stopping: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

impl Callers {
    fn start(address: SocketAddr, token: String) -> Callers {
        let mut callers = Callers {
            token: Arc::new(Mutex::new(token)),
            totals: watch::Sender::default(),
            stopping: Arc::default(),
            workers: JoinSet::new(),
        };
        for _ in 0..WORKERS {
            let (token, totals) = (callers.token.clone(), callers.totals.clone());
            let stopping = callers.stopping.clone();
            callers.workers.spawn(async move {
                let mut connection = Connection::http1(address).await.unwrap();
                let mut ticks = interval(PACE);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while !stopping.load(Relaxed) {
                    ticks.tick().await;
                    let bearer = format!("Bearer {}", token.lock().unwrap());
                    let headers = [("authorization", bearer.as_str())];
                    let asked = connection.send("POST", "/echo", &headers, "42 euros");
                    match tokio::time::timeout(DEADLINE, asked).await {
                        Ok(Ok(answer)) if answer.status == 200 && answer.text() == "42 euros" => {
                            totals.send_modify(|totals| totals.answered += 1);
                        }
                        other => {
                            totals.send_modify(|totals| totals.failures.push(format!("{other:?}")));
                            return;
                        }
                    }
                }
            });
        }
        callers
    }

    async fn more(&self) {
        let mut totals = self.totals.subscribe();
        let wanted = totals.borrow().answered + REQUESTS_BETWEEN;
        let reached = totals.wait_for(|totals| totals.answered >= wanted || !totals.failures.is_empty());
        within_deadline("requests between rotations", reached).await.unwrap();
    }

    async fn stop(self) -> Totals {
        self.stopping.store(true, Relaxed);
        self.workers.join_all().await;
        self.totals.send_replace(Totals::default())
    }
}

async fn rotate_under_load(protocol: &str) {
    let mut old = authority("mesh.local");
    let mut signer = Signer::new("key-0");
    let issuer = Issuer::start(200, set(&[&signer]));
    let application = Backend::named("payments").await;
    let inbound = inbound(directory("payments", &old), application.address(), &issuer).await;
    let outbound = outbound(directory("orders", &old), inbound.address("inbound"), protocol).await;
    let sides = [(&inbound, "payments"), (&outbound, "orders")];
    let tell = async |message: &str| {
        for (gateway, _) in sides {
            gateway.wait_for_message(message).await;
        }
    };
    for message in ["new SVID", "new trust bundles"] {
        tell(message).await;
    }
    let callers = Callers::start(outbound.address("outbound"), signer.token("u"));
    callers.more().await;
    for rotation in 1..=ROTATIONS {
        let new = authority("mesh.local");
        // Whoever is to be believed is known before anybody shows what it has issued.
        let both = [old.pem(), new.pem()].concat();
        sides.iter().for_each(|(gateway, _)| write(&gateway.directory().join("bundle.pem"), &both, 0o644));
        let next = Signer::new(&format!("key-{rotation}"));
        issuer.answer(200, set(&[&signer, &next]));
        tell("new trust bundles").await;
        callers.more().await;
        *callers.token.lock().unwrap() = next.token("u");
        sides.iter().for_each(|(gateway, service)| write_svid(gateway.directory(), service, &new));
        tell("new SVID").await;
        callers.more().await;
        issuer.answer(200, set(&[&next]));
        sides
            .iter()
            .for_each(|(gateway, _)| write(&gateway.directory().join("bundle.pem"), &new.pem(), 0o644));
        tell("new trust bundles").await;
        callers.more().await;
        (old, signer) = (new, next);
    }
    let Totals { answered, failures } = callers.stop().await;
    assert!(failures.is_empty(), "{} of {answered}: {failures:#?}", failures.len());
    assert!(answered >= REQUESTS_BETWEEN * (1 + 3 * ROTATIONS as u64));
    assert_eq!(issuer.fetches(), 1 + ROTATIONS, "once at the start, and once for each unknown key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_proves_identity_rotates_under_load_over_http2() {
    rotate_under_load("http2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_proves_identity_rotates_under_load_over_http1() {
    rotate_under_load("http1").await;
}
