//! Over real sockets, with Pingora's own connector and pools: who is trusted, what reaches those who are not, and which
//! connections are shared.

use std::{net::SocketAddr, time::Duration};

use pingora_core::{
    connectors::http::Connector, protocols::http::client::HttpSession, upstreams::peer::HttpPeer,
};
use pingora_http::RequestHeader;

use super::*;
use crate::identity::{
    Bundle, Bundles, Material, Svid,
    certificates::{HOUR, Issued, Order, authority, self_signed, svid},
    parse_id, parse_trust_domain,
};
use server::{HTTP1, TlsServer, acceptor, speaks};

#[path = "../../../tests/support/tls.rs"]
mod server;

const USERS: &str = "spiffe://mesh.local/users";
const OURS: &str = "spiffe://mesh.local/tidegate";

/// A trust domain, and a gateway that is a member of it.
struct Mesh {
    root: Issued,
    identity: Arc<Identity>,
}

impl Mesh {
    fn new() -> Mesh {
        let root = authority("mesh.local");
        let identity = Arc::new(Identity::new(Material::default()));
        let mesh = Mesh { root, identity };
        mesh.rotate(&[&mesh.root]);
        mesh
    }

    /// A new SVID, and these authorities.
    fn rotate(&self, authorities: &[&Issued]) {
        let own = self.root.issue(&svid(OURS));
        let svid = Svid::new(vec![own.certificate], own.key).unwrap();
        let authorities = authorities.iter().map(|issued| issued.certificate.clone()).collect();
        let bundle = Bundle::new(parse_trust_domain("mesh.local").unwrap(), authorities).unwrap();
        let bundles = Bundles::from_iter([bundle]);
        self.identity.replace(Material { svid: Some(Arc::new(svid)), bundles });
    }

    fn tls(&self, yaml: &str, protocol: UpstreamProtocol) -> Tls {
        let config = serde_yaml::from_str(yaml).unwrap();
        let settings = Settings::new(&config, protocol, Some(&self.identity));
        Tls::new(&settings).map_err(|_| "refused").unwrap()
    }

    /// A server that holds this certificate of the mesh's.
    async fn server(&self, order: &Order) -> TlsServer {
        server_of(&self.root.issue(order)).await
    }
}

async fn server_of(issued: &Issued) -> TlsServer {
    TlsServer::start(acceptor(&issued.certificate, &issued.key, &[])).await
}

struct Client(Connector);

impl Client {
    fn new() -> Client {
        Client(Connector::new(None))
    }

    /// One request; answers the number of the server's connection, or the words for why there is none.
    async fn ask(
        &self,
        tls: &Tls,
        server: &TlsServer,
        origin: &str,
        versions: (u8, u8),
    ) -> Result<usize, String> {
        let (peer, mut session) = self.connect(tls, server.address(), origin, versions).await?;
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        match &session {
            HttpSession::H2(_) => request.set_uri("https://users/".parse().unwrap()),
            _ => request.insert_header("host", "users").unwrap(),
        }
        session.write_request_header(Box::new(request)).await.unwrap();
        session.finish_request_body().await.unwrap();
        session.read_response_header().await.unwrap();
        let mut body = Vec::new();
        while let Some(part) = session.read_response_body().await.unwrap() {
            body.extend_from_slice(&part);
        }
        self.0.release_http_session(session, &peer, Some(Duration::from_secs(60))).await;
        Ok(String::from_utf8(body).unwrap().parse().unwrap())
    }

    async fn connect(
        &self,
        tls: &Tls,
        address: SocketAddr,
        origin: &str,
        versions: (u8, u8),
    ) -> Result<(HttpPeer, HttpSession), String> {
        self.connect_to(tls, address, origin, &Owners::default(), versions).await
    }

    async fn connect_to(
        &self,
        tls: &Tls,
        address: SocketAddr,
        origin: &str,
        owners: &Owners,
        (most, least): (u8, u8),
    ) -> Result<(HttpPeer, HttpSession), String> {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.set_http_version(most, least);
        peer.options.max_h2_streams = 10;
        let terms = tls.terms().map_err(|none| none.to_string())?;
        let handshake = Tls::secure(&mut peer, terms, origin, owners);
        peer.group_key = handshake.group(1);
        let connected = self.0.get_http_session(&peer).await;
        let (session, _reused) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let trouble =
                    Trouble::of(&error, &handshake).unwrap_or_else(|| panic!("TLS is not to blame: {error}"));
                let reason = format!("{:?}", trouble.kind().unwrap());
                let why = match trouble.explain() {
                    Some(why) => why,
                    None => handshake.diagnose(trouble, address, origin.into(), Vec::new()).await.unwrap(),
                };
                return Err(format!("{reason}: {why}"));
            }
        };
        handshake.check(session.digest()).map_err(|distrust| format!("{:?}: {distrust}", distrust.kind()))?;
        Ok((peer, session))
    }
}

const BOTH_VERSIONS: [((u8, u8), UpstreamProtocol); 2] =
    [((1, 1), UpstreamProtocol::Http1), ((2, 2), UpstreamProtocol::Http2)];

#[tokio::test]
async fn the_right_member_is_served_and_shown_who_asks() {
    let mesh = Mesh::new();
    for (versions, protocol) in BOTH_VERSIONS {
        let own = mesh.root.issue(&svid(USERS));
        let mut builder = acceptor(&own.certificate, &own.key, &[]);
        builder.set_verify_callback(
            openssl::ssl::SslVerifyMode::PEER | openssl::ssl::SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            |_, _| true,
        );
        let server = TlsServer::start(builder).await;
        let tls = mesh.tls(&format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}"), protocol);
        let client = Client::new();
        let address = server.address().to_string();
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(1));
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(1), "kept");
        let shown = mesh.identity.current().svid.as_ref().unwrap().fingerprint;
        assert_eq!(server.record().clients, [shown.to_vec()]);
    }
}

#[tokio::test]
async fn who_is_somebody_else_gets_nothing_and_is_not_kept() {
    let mesh = Mesh::new();
    let other = authority("mesh.local");
    let now = std::time::SystemTime::now();
    let two = Order { uris: vec![USERS.into(), "spiffe://mesh.local/b".into()], ..svid(USERS) };
    let expired = Order { not_after: now - HOUR / 2, ..svid(USERS) };
    for (issued, expected) in [
        (mesh.root.issue(&svid("spiffe://mesh.local/orders")), "got spiffe://mesh.local/orders"),
        (mesh.root.issue(&two), "has 2 URIs"),
        (mesh.root.issue(&expired), "has expired"),
        (other.issue(&svid(USERS)), "mesh.local"),
        (self_signed(&svid(USERS)), "mesh.local"),
        (authority("other.org").issue(&svid("spiffe://other.org/users")), "other.org"),
        (mesh.root.issue(&Order { uris: vec![], dns: vec!["users".into()], ..svid(USERS) }), "no SPIFFE ID"),
    ] {
        for (versions, protocol) in BOTH_VERSIONS {
            let server = server_of(&issued).await;
            let tls = mesh.tls(&format!("{{verify: {{spiffe: ['{USERS}']}}}}"), protocol);
            let client = Client::new();
            let address = server.address().to_string();
            for attempt in 1..=2 {
                let why = client.ask(&tls, &server, &address, versions).await.unwrap_err();
                assert!(why.starts_with("Distrusted: "), "{why}");
                assert!(why.contains(expected), "{expected}: {why}");
                assert!(server.record().connections >= attempt, "each time a new connection");
            }
            let connections = server.record().connections;
            server.wait_for("all closed", |record| record.closed == connections).await;
            assert!(server.record().requests.is_empty());
            // The right one answers at the same address.
            let right = mesh.root.issue(&svid(USERS));
            server.replace(acceptor(&right.certificate, &right.key, &[]));
            assert!(client.ask(&tls, &server, &address, versions).await.is_ok());
        }
    }
}

#[tokio::test]
async fn an_authority_vouches_for_its_own_trust_domain_alone() {
    let mesh = Mesh::new();
    let theirs = authority("other.org");
    let bundle = |domain: &str, root: &Issued| {
        Bundle::new(parse_trust_domain(domain).unwrap(), vec![root.certificate.clone()]).unwrap()
    };
    let bundles = Bundles::from_iter([bundle("mesh.local", &mesh.root), bundle("other.org", &theirs)]);
    mesh.identity.replace(Material { svid: None, bundles });
    let yaml = format!("{{verify: {{spiffe: ['{USERS}', 'spiffe://other.org/users']}}}}");
    let tls = mesh.tls(&yaml, UpstreamProtocol::Http1);
    let client = Client::new();
    for (issued, fine) in [
        (theirs.issue(&svid("spiffe://other.org/users")), true),
        (mesh.root.issue(&svid(USERS)), true),
        (theirs.issue(&svid(USERS)), false),
        (mesh.root.issue(&svid("spiffe://other.org/users")), false),
    ] {
        let server = server_of(&issued).await;
        let asked = client.ask(&tls, &server, &server.address().to_string(), (1, 1)).await;
        assert_eq!(asked.is_ok(), fine, "{asked:?}");
    }
}

#[tokio::test]
async fn connections_are_shared_by_those_on_equal_terms_alone() {
    let mesh = Mesh::new();
    let both = Order { dns: vec!["users.internal".into()], ..svid(USERS) };
    for (versions, protocol) in BOTH_VERSIONS {
        let server = mesh.server(&both).await;
        let client = Client::new();
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, mesh.root.pem()).unwrap();
        let address = server.address().to_string();
        let by_name = format!("{{verify: {{name: users.internal, ca: {}}}}}", ca.display());
        let terms = [
            format!("{{verify: {{spiffe: ['{USERS}']}}}}"),
            format!("{{verify: {{spiffe: ['{USERS}', 'spiffe://mesh.local/b']}}}}"),
            format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}"),
            format!("{{verify: {{spiffe: ['{USERS}']}}, min_version: '1.3'}}"),
            format!("{{verify: {{spiffe: ['{USERS}']}}, server_name: users.internal}}"),
            by_name,
            "{insecure_skip_verify: true}".into(),
        ];
        let terms: Vec<Tls> = terms.iter().map(|yaml| mesh.tls(yaml, protocol)).collect();
        for round in 0..2 {
            for (index, tls) in terms.iter().enumerate() {
                let connection = client.ask(tls, &server, &address, versions).await;
                assert_eq!(connection, Ok(index + 1), "round {round}");
            }
        }
        let stranger = mesh.tls("{verify: {spiffe: ['spiffe://mesh.local/c']}}", protocol);
        assert!(client.ask(&stranger, &server, &address, versions).await.is_err());
    }
}

#[tokio::test]
async fn a_connection_of_other_terms_is_refused_even_when_the_pool_offers_it() {
    let mesh = Mesh::new();
    let server = mesh.server(&svid(USERS)).await;
    let client = Client::new();
    let address = server.address().to_string();
    let one = mesh.tls(&format!("{{verify: {{spiffe: ['{USERS}']}}}}"), UpstreamProtocol::Http1);
    let other = mesh.tls("{verify: {spiffe: ['spiffe://mesh.local/b']}}", UpstreamProtocol::Http1);
    let (_, session) = client.connect(&one, server.address(), &address, (1, 1)).await.unwrap();
    let mut peer = HttpPeer::new(server.address(), false, String::new());
    let handshake = Tls::secure(&mut peer, other.terms().unwrap(), &address, &Owners::default());
    assert_eq!(handshake.check(session.digest()), Err(Distrust::Unverified));
    assert_eq!(handshake.check(None), Err(Distrust::Unverified));
}

#[tokio::test]
async fn an_endpoint_is_whoever_registered_it_and_its_connections_are_nobody_elses() {
    let mesh = Mesh::new();
    let of = |ids: &[&str]| -> Owners { ids.iter().map(|id| parse_id(id).unwrap()).collect() };
    let other = "spiffe://mesh.local/other";
    for (versions, protocol) in BOTH_VERSIONS {
        let server = mesh.server(&svid(USERS)).await;
        let tls = mesh.tls("{verify: {spiffe: registered}}", protocol);
        let address = server.address().to_string();
        let client = Client::new();
        let connect = |owners: Owners| {
            let (client, tls, address, server) = (&client, &tls, &address, server.address());
            async move {
                client.connect_to(tls, server, address, &owners, versions).await.map(|(_, session)| session)
            }
        };
        assert!(connect(of(&[USERS])).await.is_ok());
        assert!(connect(of(&[other, USERS])).await.is_ok(), "one of two that are registered at one address");
        // Another has taken the address over.
        let refused = connect(of(&[other])).await.err().unwrap();
        assert_eq!(refused, format!("Distrusted: expected {other}, got {USERS}"));
        let refused = connect(of(&[])).await.err().unwrap();
        assert!(refused.starts_with("Distrusted: it was registered without a SPIFFE ID"), "{refused}");
        let handshake = |owners: &Owners| {
            let mut peer = HttpPeer::new(server.address(), false, String::new());
            Tls::secure(&mut peer, tls.terms().unwrap(), &address, owners)
        };
        let session = connect(of(&[USERS])).await.unwrap();
        assert_eq!(handshake(&of(&[USERS])).check(session.digest()), Ok(()));
        for owners in [of(&[other]), of(&[USERS, other]), of(&[])] {
            assert_eq!(handshake(&owners).check(session.digest()), Err(Distrust::Unverified));
            assert_ne!(handshake(&owners).group(1), handshake(&of(&[USERS])).group(1));
        }
    }
}

#[test]
fn whoever_registered_is_verified_by_any_bundle_once_there_is_one() {
    let identity = Arc::new(Identity::new(Material::default()));
    let config = serde_yaml::from_str("{verify: {spiffe: registered}}").unwrap();
    let tls = Tls::new(&Settings::new(&config, UpstreamProtocol::Http1, Some(&identity)));
    let tls = tls.map_err(|_| "refused").unwrap();
    assert_eq!(tls.terms().err(), Some(NotReady::Bundles));
    let bundle = |domain| {
        let authorities = vec![authority(domain).certificate];
        Bundle::new(parse_trust_domain(domain).unwrap(), authorities).unwrap()
    };
    identity.replace(Material { svid: None, bundles: Bundles::from_iter([bundle("mesh.local")]) });
    let one = tls.terms().unwrap().fingerprint;
    let bundles = Bundles::from_iter([bundle("mesh.local"), bundle("other.org")]);
    identity.replace(Material { svid: None, bundles });
    assert_ne!(tls.terms().unwrap().fingerprint, one);
}

#[tokio::test]
async fn after_a_rotation_old_connections_serve_nobody() {
    let mesh = Mesh::new();
    for (versions, protocol) in BOTH_VERSIONS {
        mesh.rotate(&[&mesh.root]);
        let server = mesh.server(&svid(USERS)).await;
        let client = Client::new();
        let address = server.address().to_string();
        let yaml = format!("{{verify: {{spiffe: ['{USERS}']}}, client_identity: true}}");
        let tls = mesh.tls(&yaml, protocol);
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(1));
        mesh.rotate(&[&mesh.root]);
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(2), "another SVID");
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(2));
        let next = authority("mesh.local");
        let svid_stays = mesh.identity.current().svid.clone();
        let authorities = vec![mesh.root.certificate.clone(), next.certificate.clone()];
        let bundle = Bundle::new(parse_trust_domain("mesh.local").unwrap(), authorities).unwrap();
        mesh.identity.replace(Material { svid: svid_stays.clone(), bundles: Bundles::from_iter([bundle]) });
        assert_eq!(client.ask(&tls, &server, &address, versions).await, Ok(3), "another bundle");
        // One that has left the bundle vouches for nobody, kept connection or not.
        let bundle = Bundle::new(parse_trust_domain("mesh.local").unwrap(), vec![next.certificate]).unwrap();
        mesh.identity.replace(Material { svid: svid_stays, bundles: Bundles::from_iter([bundle]) });
        assert!(client.ask(&tls, &server, &address, versions).await.is_err());
    }
}

#[tokio::test]
async fn nothing_is_begun_before_svid_and_bundle_are_there() {
    let identity = Arc::new(Identity::new(Material::default()));
    let tls = |yaml: &str| {
        let config = serde_yaml::from_str(yaml).unwrap();
        let settings = Settings::new(&config, UpstreamProtocol::Http1, Some(&identity));
        Tls::new(&settings).map_err(|_| "refused").unwrap()
    };
    let spiffe = tls(&format!("{{verify: {{spiffe: ['{USERS}']}}}}"));
    assert_eq!(spiffe.terms().err(), Some(NotReady::Bundle(parse_trust_domain("mesh.local").unwrap())));
    let shows = tls("{verify: {name: users}, client_identity: true}");
    assert_eq!(shows.terms().err(), Some(NotReady::Svid));
}

#[tokio::test]
async fn terms_are_worked_out_once() {
    let mesh = Mesh::new();
    let tls = mesh.tls(&format!("{{verify: {{spiffe: ['{USERS}']}}}}"), UpstreamProtocol::Http1);
    let terms = tls.terms().unwrap();
    assert!(Arc::ptr_eq(&terms, &tls.terms().unwrap()));
    mesh.rotate(&[&mesh.root]);
    let rotated = tls.terms().unwrap();
    assert!(!Arc::ptr_eq(&terms, &rotated));
    assert_eq!(terms.fingerprint, rotated.fingerprint, "the SVID is not shown, and the bundle is the same");
}

#[tokio::test]
async fn a_bundle_of_signers_that_are_no_roots_is_enough() {
    let mesh = Mesh::new();
    let signer = mesh.root.issue(&crate::identity::certificates::signer("mesh.local"));
    mesh.rotate(&[&signer]);
    let tls = mesh.tls(&format!("{{verify: {{spiffe: ['{USERS}']}}}}"), UpstreamProtocol::Http1);
    let client = Client::new();
    let server = server_of(&signer.issue(&svid(USERS))).await;
    assert_eq!(client.ask(&tls, &server, "127.0.0.1:1", (1, 1)).await, Ok(1));
    let server = mesh.server(&svid(USERS)).await;
    let why = client.ask(&tls, &server, "127.0.0.1:1", (1, 1)).await.unwrap_err();
    assert!(why.starts_with("Distrusted"), "{why}");
}

#[tokio::test]
async fn http2_is_had_or_not_as_the_protocol_says() {
    let mesh = Mesh::new();
    let own = mesh.root.issue(&svid(USERS));
    let mut builder = acceptor(&own.certificate, &own.key, &[]);
    speaks(&mut builder, HTTP1);
    let server = TlsServer::start(builder).await;
    let address = server.address().to_string();
    let yaml = format!("{{verify: {{spiffe: ['{USERS}']}}}}");
    let client = Client::new();
    let auto = mesh.tls(&yaml, UpstreamProtocol::Auto);
    assert_eq!(client.ask(&auto, &server, &address, (2, 1)).await, Ok(1));
    let http2 = mesh.tls(&yaml, UpstreamProtocol::Http2);
    let why = client.ask(&http2, &server, &address, (2, 2)).await.unwrap_err();
    assert!(why.starts_with("Unreachable: it offers no HTTP/2"), "{why}");
    let both = mesh.server(&svid(USERS)).await;
    assert_eq!(client.ask(&auto, &both, &address, (2, 1)).await, Ok(1));
    assert!(both.record().requests[0].starts_with("HTTP/2"), "{:?}", both.record());
}

#[test]
fn a_host_is_what_stands_before_the_port() {
    for (origin, host) in [
        ("api.example.com:443", "api.example.com"),
        ("a.:1", "a"),
        ("[::1]:80", "::1"),
        ("10.0.0.1:1", "10.0.0.1"),
    ] {
        assert_eq!(host_of(origin), host);
    }
}
