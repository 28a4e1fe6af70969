//! `verify: {spiffe: registered}`: an endpoint has to show the SPIFFE ID that has registered it.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Plane,
    fixture::until_endpoints,
    tls::{IDENTITY, ask},
};
use crate::support::{
    Gateway, TlsClient,
    certificates::{Issued, authority, svid},
    get, metric,
    tls::{TlsServer, acceptor},
};

const SERVE: &str = "tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}, authorize: [\
    {spiffe: ['spiffe://mesh.local/*'], register: own, discover: ['*']}, \
    {spiffe: ['spiffe://mesh.local/other'], register: ['*']}, {token: ci, register: ['*']}]";

struct Mesh {
    root: Issued,
    plane: Plane,
}

impl Mesh {
    async fn start() -> Mesh {
        let root = authority("mesh.local");
        let yaml = format!("{}{IDENTITY}", super::yaml(SERVE));
        let plane = Plane::of(start(&root, "spiffe://mesh.local/control", &yaml).await);
        Mesh { root, plane }
    }

    /// One that opens a connection for each request.
    async fn gateway(&self) -> Gateway {
        let yaml = format!(
            "admin: {{address: '127.0.0.1:0'}}\n{IDENTITY}control:\n  join:\n    servers: ['{}']\n    tls: \
             {{verify: {{spiffe: ['spiffe://mesh.local/control']}}, client_identity: true}}\nlisteners: [{{name: \
             main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: users, retry: {{attempts: 1}}}}]\nupstreams:\n  users:\n    \
             endpoints: [{{registry: users}}]\n    pool: {{idle_connections: 0}}\n    outlier: off\n    tls: {{verify: \
             {{spiffe: registered}}, client_identity: true}}\n",
            self.plane.address()
        );
        start(&self.root, "spiffe://mesh.local/edge", &yaml).await
    }

    async fn server(&self, id: &str) -> TlsServer {
        TlsServer::start(self.acceptor(id)).await
    }

    fn acceptor(&self, id: &str) -> openssl::ssl::SslAcceptorBuilder {
        let own = self.root.issue(&svid(id));
        acceptor(&own.certificate, &own.key, &[])
    }

    async fn register(&self, owner: &str, server: &TlsServer, id: &str) -> Value {
        let own = self.root.issue(&svid(owner));
        let body = json!({"name": "users", "address": server.address().to_string(), "ttl": "1h", "id": id});
        let client = TlsClient::of(&self.root).showing(&own);
        let answer = ask(&self.plane, &client, "POST", "/v1/services", &[], &body.to_string()).await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()
    }
}

async fn start(root: &Issued, id: &str, yaml: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    root.issue(&svid(id)).write_to(directory.path(), root);
    Gateway::start_in(directory, yaml, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_shows_the_id_that_has_registered_it_or_gets_nothing() {
    let mesh = Mesh::start().await;
    let server = mesh.server("spiffe://mesh.local/users").await;
    let record = mesh.register("spiffe://mesh.local/users", &server, "one").await;
    assert_eq!(record["owner"], "spiffe://mesh.local/users");
    let gateway = mesh.gateway().await;
    until_endpoints(&gateway, &[(server.address(), 1)]).await;
    get(gateway.address("main"), "/").await.assert_status(200);
    assert_eq!(server.record().requests.len(), 1);

    // Its address is another's now, a member of the mesh as well.
    server.replace(mesh.acceptor("spiffe://mesh.local/other"));
    get(gateway.address("main"), "/").await.assert_reason(502, "upstream_identity_mismatch");
    assert_eq!(server.record().requests.len(), 1, "nothing was sent");
    let told = gateway.wait_for_message("endpoint is not trusted").await;
    assert_eq!(told["why"], "expected spiffe://mesh.local/users, got spiffe://mesh.local/other", "{told}");

    // And it says so itself.
    mesh.register("spiffe://mesh.local/other", &server, "another").await;
    crate::support::within_deadline("the new owner is known", async {
        while get(gateway.address("main"), "/").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_registered_without_an_id_gets_nothing_and_the_log_says_why() {
    let mesh = Mesh::start().await;
    let (good, nobodys) =
        (mesh.server("spiffe://mesh.local/users").await, mesh.server("spiffe://mesh.local/users").await);
    let body = json!({"name": "users", "address": nobodys.address().to_string(), "ttl": "1h"}).to_string();
    let by_token = [("authorization", "Bearer ci")];
    let client = TlsClient::of(&mesh.root);
    let answer = ask(&mesh.plane, &client, "POST", "/v1/services", &by_token, &body).await.unwrap();
    answer.assert_status(201);
    let gateway = mesh.gateway().await;
    until_endpoints(&gateway, &[(nobodys.address(), 0)]).await;
    get(gateway.address("main"), "/").await.assert_reason(503, "upstream_unhealthy");
    let told = gateway.wait_for_message("endpoint is not trusted").await;
    assert!(told["why"].as_str().unwrap().starts_with("it was registered without a SPIFFE ID"), "{told}");
    let unregistered = ["upstream=\"users\"", "kind=\"unregistered\""];
    assert!(metric(&gateway, "tidegate_upstream_tls_failures_total", &unregistered).await >= 1.0);
    mesh.register("spiffe://mesh.local/users", &good, "good").await;
    until_endpoints(&gateway, &[(good.address(), 1), (nobodys.address(), 0)]).await;
    for _ in 0..3 {
        get(gateway.address("main"), "/").await.assert_status(200);
    }
    assert_eq!((good.record().requests.len(), nobodys.record().connections), (3, 0));
}
