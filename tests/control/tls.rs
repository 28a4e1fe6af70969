//! Who one is is proved by an SVID: what may be registered follows from it.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use serde_json::json;
use tempfile::TempDir;

use super::{Plane, assert_refused};
use crate::support::{
    Answer, Connection, TlsClient,
    certificates::{Issued, authority, svid},
    get,
};

const SERVE: &str = "tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}, authorize: [\
    {spiffe: ['spiffe://mesh.local/*'], register: own, discover: ['*']}, \
    {spiffe: ['spiffe://mesh.local/shop/deploy'], register: ['*.shop']}]";
pub(super) const IDENTITY: &str =
    "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}\n";

async fn plane(root: &Issued) -> Plane {
    let directory = TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/control")).write_to(directory.path(), root);
    let yaml = format!("{}{IDENTITY}", super::yaml(SERVE));
    Plane::of(crate::support::Gateway::start_in(directory, &yaml, &[]).await)
}

pub(super) async fn ask(
    plane: &Plane,
    client: &TlsClient,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, String> {
    ask_at(plane.address(), client, method, path, headers, body).await
}

pub(super) async fn ask_at(
    address: SocketAddr,
    client: &TlsClient,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, String> {
    let stream = client.connect(address, "").await?;
    let connection = Connection::http1_over(TokioIo::new(stream), "localhost".to_owned()).await;
    let mut connection = connection.map_err(|error| error.to_string())?;
    connection.send(method, path, headers, body.to_owned()).await.map_err(|error| error.to_string())
}

/// The status of a call of gRPC with an empty message.
pub(super) async fn status_of(address: SocketAddr, client: &TlsClient, path: &str) -> String {
    let stream = client.connect(address, "").await.unwrap();
    let mut connection = Connection::http2_over(TokioIo::new(stream), "localhost".to_owned()).await.unwrap();
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = connection.send("POST", path, &headers, vec![0; 5]).await.unwrap();
    let status = answer.trailers.as_ref().unwrap_or(&answer.headers).get("grpc-status");
    status.unwrap_or_else(|| panic!("{answer:?}")).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_svid_registers_its_own_service_and_is_its_owner() {
    let root = authority("mesh.local");
    let plane = plane(&root).await;
    let showing = |id: &str| TlsClient::of(&root).showing(&root.issue(&svid(id)));
    let registration = |name: &str| json!({"name": name, "address": "127.0.0.1:1"}).to_string();
    let post = async |client: &TlsClient, name: &str| {
        ask(&plane, client, "POST", "/v1/services", &[], &registration(name)).await.unwrap()
    };
    let cart = showing("spiffe://mesh.local/shop/cart");
    let created = post(&cart, "cart.shop").await;
    assert_eq!(created.assert_status(201).json()["owner"], "spiffe://mesh.local/shop/cart");
    assert_refused(&post(&cart, "payments").await, 403, "not_yours", "may not register \"payments\"");
    // A team's own tool may register for all of them, and still owns nothing of what others have registered.
    let deploy = showing("spiffe://mesh.local/shop/deploy");
    post(&deploy, "basket.shop").await.assert_status(201);
    assert_refused(
        &post(&deploy, "cart.shop").await,
        403,
        "not_yours",
        "was registered by spiffe://mesh.local/shop/cart",
    );
    let seen = ask(&plane, &deploy, "GET", "/v1/services", &[], "").await.unwrap().json();
    assert_eq!(seen["instances"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_an_svid_that_is_trusted_nothing_is_seen() {
    let (root, stranger) = (authority("mesh.local"), authority("other.local"));
    let plane = plane(&root).await;
    let nobody = ask(&plane, &TlsClient::of(&root), "GET", "/v1/services", &[], "").await.unwrap();
    assert_refused(&nobody, 401, "unauthenticated", "come with a certificate");
    ask(&plane, &TlsClient::of(&root), "GET", "/readyz", &[], "").await.unwrap().assert_status(200);
    let other = TlsClient::of(&root).showing(&stranger.issue(&svid("spiffe://other.local/a")));
    assert!(ask(&plane, &other, "GET", "/v1/services", &[], "").await.is_err(), "its certificate is refused");
}

#[tokio::test]
async fn it_shows_its_renewed_identity() {
    let root = authority("mesh.local");
    let plane = plane(&root).await;
    let uris = async || {
        let stream = TlsClient::of(&root).connect(plane.address(), "").await.unwrap();
        let names = stream.ssl().peer_certificate().unwrap().subject_alt_names().unwrap();
        names.iter().filter_map(|name| name.uri().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(uris().await, ["spiffe://mesh.local/control"]);
    root.issue(&svid("spiffe://mesh.local/control2")).write_to(plane.gateway.directory(), &root);
    crate::support::within_deadline("the renewed identity", async {
        while uris().await != ["spiffe://mesh.local/control2"] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(
        get(plane.gateway.admin(), "/metrics").await.text().contains("tidegate_control_connections_active")
    );
}
