//! Who the gateway is: the built-in CA as `openssl` sees it, what `check` refuses, and each source as it changes.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;
use tidegate::{
    identity::{
        Identity, Settings, Source, Svid, SvidError, ca::Authority, parse_id, parse_trust_domain, renewal,
        verify,
    },
    observe::metrics::{Format, Metrics},
};
use tokio::runtime::Handle;

use crate::support::{
    Gateway,
    agent::{Agent, Update},
    certificates::{HOUR, Issued, Order, authority, svid, write},
    get, metric, series, tidegate, within_deadline,
};

const ID: &str = "spiffe://mesh.local/payments";

/// `tidegate ARGS` in `directory`: its exit code, and all it said.
fn run(directory: &Path, args: &str) -> (i32, String) {
    let output = tidegate(directory).args(args.split_whitespace()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn ran(directory: &Path, args: &str) -> String {
    let (code, said) = run(directory, args);
    assert_eq!(code, 0, "{args}: {said}");
    said
}

/// The system's own `openssl`, where there is one.
fn openssl(directory: &Path, args: &str) -> Option<String> {
    let output =
        Command::new("openssl").args(args.split_whitespace()).current_dir(directory).output().ok()?;
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn with_ca() -> TempDir {
    let directory = TempDir::new().unwrap();
    ran(directory.path(), "ca init --trust-domain mesh.local --out ca");
    directory
}

#[test]
fn what_the_ca_issues_is_what_openssl_and_the_specification_ask_for() {
    let directory = with_ca();
    let at = directory.path();
    let said = ran(at, &format!("ca issue {ID} --ca ca --out payments --ttl 24h"));
    assert!(said.starts_with(&format!("{ID}, valid until ")), "{said}");
    let read = |name: &str| fs::read(at.join("payments").join(name)).unwrap();
    let issued = Svid::from_pem(&read("svid.pem"), &read("svid.key")).unwrap();
    assert_eq!(issued.id.to_string(), ID);
    let domain = parse_trust_domain("mesh.local").unwrap();
    let bundle = tidegate::identity::Bundle::from_pem(domain, &read("bundle.pem")).unwrap();
    let bundles = tidegate::identity::Bundles::from_iter([bundle]);
    assert_eq!(verify(&issued.chain[0], &[], &bundles, SystemTime::now()).unwrap().to_string(), ID);

    if let Some(said) = openssl(at, "verify -x509_strict -CAfile payments/bundle.pem payments/svid.pem") {
        assert_eq!(said, "payments/svid.pem: OK\n");
        let text = openssl(at, "x509 -in payments/svid.pem -noout -text").unwrap();
        for line in [
            "URI:spiffe://mesh.local/payments",
            "CA:FALSE",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "NIST CURVE: P-256",
            "ecdsa-with-SHA256",
            "X509v3 Authority Key Identifier",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        let text = openssl(at, "x509 -in ca/ca.pem -noout -text").unwrap();
        for line in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "URI:spiffe://mesh.local\n"] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        openssl(at, "pkey -in payments/svid.key -noout -check").unwrap();
    }
}

#[test]
fn keys_are_their_owners_and_serials_are_random() {
    let directory = with_ca();
    let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
    ran(directory.path(), &format!("ca issue {ID} --ca ca --out a"));
    ran(directory.path(), &format!("ca issue {ID} --ca ca --out b"));
    assert_eq!((mode("ca/ca.key"), mode("a/svid.key")), (0o600, 0o600));
    assert_eq!(mode("ca"), 0o700);
    let serial = |name: &str| {
        let shown = ran(directory.path(), &format!("ca show {name}"));
        let serial = shown.lines().find_map(|line| line.strip_prefix("serial")).unwrap().trim().to_owned();
        assert!(serial.len() >= 32, "{serial}");
        serial
    };
    let serials = [serial("a/svid.pem"), serial("b/svid.pem"), serial("ca/ca.pem")];
    assert!(serials[0] != serials[1] && serials[1] != serials[2], "{serials:?}");
}

#[test]
fn certificates_are_shown_to_programs_too() {
    let directory = with_ca();
    ran(directory.path(), &format!("ca issue {ID} --ca ca --out a"));
    let shown = |name: &str| -> serde_json::Value {
        serde_json::from_str(&ran(directory.path(), &format!("ca show {name} --json"))).unwrap()
    };
    let (svid, bundle) = (shown("a/svid.pem"), shown("a/bundle.pem"));
    assert_eq!((&svid[0]["kind"], &svid[0]["id"]), (&"svid".into(), &ID.into()), "{svid}");
    assert_eq!((&bundle[0]["kind"], &bundle[0]["id"]), (&"authority".into(), &"spiffe://mesh.local".into()));
    assert_eq!((&svid[0]["issuer"], svid[0]["sha256"].as_str().unwrap().len()), (&bundle[0]["subject"], 64));
    let until = svid[0]["until"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(until).unwrap() > std::time::SystemTime::now(), "{until}");
    let text = ran(directory.path(), "ca show a/svid.pem");
    assert!(text.contains(&format!("svid      {ID}")) && text.contains(until), "{text}");
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_half_written() {
    let directory = with_ca();
    let at = directory.path();
    let before = fs::read(at.join("ca/ca.key")).unwrap();
    let (code, said) = run(at, "ca init --trust-domain mesh.local --out ca");
    assert_eq!((code, said.contains("exists already and is not overwritten")), (1, true), "{said}");
    assert_eq!(fs::read(at.join("ca/ca.key")).unwrap(), before);
    ran(at, &format!("ca issue {ID} --ca ca --out a"));
    fs::remove_file(at.join("a/svid.key")).unwrap();
    let (code, said) = run(at, &format!("ca issue {ID} --ca ca --out a"));
    assert_eq!((code, said.contains("svid.pem exists already")), (1, true), "{said}");
    assert!(!at.join("a/svid.key").exists());
}

#[test]
fn the_ca_issues_for_its_own_trust_domain_and_no_longer_than_it_lives() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    ran(at, "ca init --trust-domain mesh.local --out ca --ttl 2h");
    for (id, code, expected) in [
        ("spiffe://other.org/x", 1, "is not of this CA's trust domain"),
        ("spiffe://mesh.local", 1, "an SVID's ID has a path"),
        ("spiffe://mesh.local/x/", 2, "spiffe://mesh.local/x/"),
        ("mesh.local/x", 2, "mesh.local/x"),
    ] {
        let (found, said) = run(at, &format!("ca issue {id} --ca ca --out x"));
        assert_eq!((found, said.contains(expected)), (code, true), "{id}: {said}");
        assert!(!at.join("x").exists());
    }
    let said = ran(at, &format!("ca issue {ID} --ca ca --out x --ttl 24h"));
    assert!(said.contains("as long as the CA"), "{said}");
    let until = |name: &str| {
        let shown = ran(at, &format!("ca show {name}"));
        shown.lines().find(|line| line.starts_with("until")).unwrap().to_owned()
    };
    assert_eq!(until("x/svid.pem"), until("ca/ca.pem"));
    let (code, said) = run(at, "ca init --trust-domain Mesh.local --out other");
    assert_eq!(code, 2, "{said}");
    let (code, said) = run(at, "ca show ca/ca.key");
    assert_eq!((code, said.contains("holds no certificate")), (1, true), "{said}");
    assert!(!said.contains("PRIVATE"));
}

fn check(directory: &Path, identity: &str) -> (i32, String) {
    let rest = "admin: false\nlisteners: [{address: '127.0.0.1:8000'}]\nroutes: [{respond: {}}]\n";
    fs::write(directory.join("g.yaml"), format!("{identity}\n{rest}")).unwrap();
    run(directory, "check -c g.yaml")
}

const FILES: &str =
    "identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}";

#[test]
fn check_refuses_what_peers_would() {
    let directory = with_ca();
    let at = directory.path();
    let (root, other) = (authority("mesh.local"), authority("other.org"));
    let now = SystemTime::now();
    let good = root.issue(&svid(ID));
    let put = |issued: &Issued, by: &Issued| issued.write_to(at, by);
    put(&good, &root);
    let (code, said) = check(at, FILES);
    assert_eq!(code, 0, "{said}");

    let refused = |expected: &str| {
        let (code, said) = check(at, FILES);
        assert_eq!((code, said.contains(expected)), (3, true), "{expected}\n{said}");
        assert!(said.starts_with("g.yaml:1:"), "{said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    };
    put(&root.issue(&Order { not_after: now - HOUR / 2, ..svid(ID) }), &root);
    refused("identity.files.cert: svid.pem has expired (issue a new one)");
    put(&root.issue(&Order { not_before: now + HOUR / 2, ..svid(ID) }), &root);
    refused("svid.pem is not valid yet");
    put(&other.issue(&svid("spiffe://other.org/x")), &other);
    refused("svid.pem is the SVID of spiffe://other.org/x, which is not of trust domain mesh.local");
    put(&good, &other);
    refused("is not signed by an authority in the bundle of its trust domain mesh.local");
    put(&root.issue(&Order { ca: Some(None), ..svid(ID) }), &root);
    refused("svid.pem is a CA, and must be a leaf");
    put(&good, &root);
    write(&at.join("svid.key"), &other.key_pem(), 0o600);
    refused("identity.files.key: svid.key is not the key of svid.pem");
    write(&at.join("svid.key"), b"nonsense", 0o600);
    refused("svid.key is not a private key in PEM");
    fs::remove_file(at.join("svid.key")).unwrap();
    refused("identity.files.key: cannot read svid.key: there is no such file");
    put(&good, &root);
    write(&at.join("bundle.pem"), b"", 0o644);
    refused("identity.files.bundle: bundle.pem holds no certificate in PEM");
    write(&at.join("bundle.pem"), &good.pem(), 0o644);
    refused("bundle.pem: a certificate in it is not a CA");

    put(&good, &root);
    write(&at.join("svid.key"), &good.key_pem(), 0o640);
    let (code, said) = check(at, FILES);
    assert_eq!((code, said.contains("warning: g.yaml:1:")), (0, true), "{said}");
    assert!(said.contains("svid.key can be read by others than its owner (chmod 600)"), "{said}");
}

#[test]
fn check_refuses_a_section_that_makes_no_sense() {
    let directory = with_ca();
    let at = directory.path();
    for (section, expected) in [
        ("trust_domain: mesh.local", "exactly one of `files`, `workload_api`, `ca` and `control`"),
        ("trust_domain: mesh.local, ca: ca, workload_api: 'unix:///a'", "exactly one of"),
        ("trust_domain: Mesh.local, ca: ca", "identity.trust_domain: \"Mesh.local\" is not a trust domain"),
        ("trust_domain: other.org, ca: ca", "is not of this CA's trust domain"),
        ("trust_domain: mesh.local, ca: none", "identity.ca: none: cannot read none/ca.pem"),
        ("trust_domain: mesh.local, ca: ca, ttl: 1s", "an SVID lives from 5s to 365d"),
        (
            "trust_domain: mesh.local, ca: ca, id: 'spiffe://other.org/x'",
            "is not of the trust domain mesh.local",
        ),
        ("trust_domain: mesh.local, ca: ca, id: payments", "\"payments\" is not a SPIFFE ID"),
        ("trust_domain: mesh.local, ca: ca, id: 'spiffe://mesh.local'", "an SVID's ID has a path"),
        ("trust_domain: mesh.local, workload_api: 'tcp://1.2.3.4:5'", "is not the address of a Unix socket"),
        ("trust_domain: mesh.local, workload_api: 'unix:///a', ttl: 1h", "only with `ca`"),
        ("trust_domain: mesh.local, ca: ca, bundles: {mesh.local: ca/ca.pem}", "comes with the SVID"),
        ("trust_domain: mesh.local, ca: ca, bundles: {other.org: none.pem}", "cannot read none.pem"),
        ("ca: ca", "missing key `trust_domain`"),
    ] {
        let (code, said) = check(at, &format!("identity: {{{section}}}"));
        assert_eq!((code, said.contains(expected)), (3, true), "{section}\n{said}");
    }
    let section =
        "trust_domain: mesh.local, ca: ca, id: 'spiffe://mesh.local/x', ttl: 1h, bundles: {other.org: o.pem}";
    write(&at.join("o.pem"), &authority("other.org").pem(), 0o644);
    let (code, said) = check(at, &format!("identity: {{{section}}}"));
    assert_eq!(code, 0, "{said}");
    let (code, said) =
        check(at, "identity: {trust_domain: mesh.local, workload_api: 'unix:///nowhere.sock'}");
    assert_eq!(code, 0, "an agent that is away is no mistake in the file: {said}");
}

#[test]
fn an_svid_is_renewed_at_half_of_its_life() {
    let from = SystemTime::UNIX_EPOCH + 1_000_000 * HOUR;
    for (life, expected) in [(24 * HOUR, 12 * HOUR), (3 * HOUR, HOUR + HOUR / 2), (HOUR, HOUR / 2)] {
        assert_eq!(renewal(from, from + life), from + expected, "{life:?}");
    }
    assert_eq!(renewal(from, from), from);
    assert_eq!(renewal(from, from - HOUR), from);
}

/// An identity that follows `source`, and its metrics.
struct Followed {
    identity: Identity,
    metrics: Arc<Metrics>,
}

fn follow(source: Source) -> Followed {
    let trust_domain = parse_trust_domain("mesh.local").unwrap();
    let settings = Settings { trust_domain, source, bundles: Vec::new() };
    let metrics = Arc::new(Metrics::new("test"));
    let reading = settings.read(SystemTime::now()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let identity = Identity::start(settings, reading, &Handle::current(), &metrics, None);
    Followed { identity, metrics }
}

impl Followed {
    fn print(&self) -> Option<[u8; 32]> {
        self.identity.current().svid.as_ref().map(|svid| svid.fingerprint)
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Identity) -> bool) {
        let mut changes = self.identity.subscribe();
        within_deadline(what, async {
            while !wanted(&self.identity) {
                changes.changed().await.unwrap();
            }
        })
        .await;
    }

    async fn until_is(&self, issued: &Issued) {
        let der = issued.certificate.to_der().unwrap();
        self.until("the new SVID", |identity| {
            identity.current().svid.as_ref().is_some_and(|svid| svid.chain[0].to_der().unwrap() == der)
        })
        .await;
    }

    /// Nothing tells of what did not change: the count of failures does.
    async fn until_failed(&self, source: &str) {
        let line = format!("tidegate_identity_updates_total{{result=\"failure\",source=\"{source}\"}}");
        within_deadline("a failure", async {
            while !self.metrics.render(Format::Text, &self.metrics.gather(|| {})).contains(&line) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn files_in(directory: &Path) -> Source {
    let file = |name: &str| directory.join(name);
    Source::Files { cert: file("svid.pem"), key: file("svid.key"), bundle: file("bundle.pem") }
}

#[tokio::test]
async fn files_are_followed_and_bad_ones_change_nothing() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let root = authority("mesh.local");
    root.issue(&svid(ID)).write_to(at, &root);
    let followed = follow(files_in(at));
    let first = followed.print();
    // Certificate and key that do not belong together.
    write(&at.join("svid.pem"), &root.issue(&svid(ID)).pem(), 0o644);
    followed.until_failed("files").await;
    assert_eq!(followed.print(), first);
    let next = root.issue(&svid("spiffe://mesh.local/orders"));
    next.write_to(at, &root);
    followed.until_is(&next).await;
    let text = followed.metrics.render(Format::Text, &followed.metrics.gather(|| {}));
    let expiry = "tidegate_certificate_expiry_timestamp_seconds{subject=\"spiffe://mesh.local/orders\"} ";
    assert!(text.contains(expiry), "{text}");
    // A bundle alone.
    let (before, other) = (followed.print(), authority("mesh.local"));
    let both = [root.pem(), other.pem()].concat();
    write(&at.join("bundle.pem"), &both, 0o644);
    let size = |identity: &Identity| identity.current().bundles.iter().next().unwrap().authorities.len();
    followed.until("the new bundle", |identity| size(identity) == 2).await;
    assert_eq!(followed.print(), before);
}

#[tokio::test]
async fn a_symlink_is_followed_where_it_is_swapped() {
    // As Kubernetes mounts a secret: svid.pem -> ..data/svid.pem, ..data -> ..1
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let root = authority("mesh.local");
    let versions = [root.issue(&svid(ID)), root.issue(&svid(ID))];
    for (version, issued) in ["..1", "..2"].iter().zip(&versions) {
        fs::create_dir(at.join(version)).unwrap();
        issued.write_to(&at.join(version), &root);
    }
    symlink("..1", at.join("..data")).unwrap();
    for name in ["svid.pem", "svid.key", "bundle.pem"] {
        symlink(format!("..data/{name}"), at.join(name)).unwrap();
    }
    let followed = follow(files_in(at));
    symlink("..2", at.join("..data_tmp")).unwrap();
    fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
    followed.until_is(&versions[1]).await;
}

#[tokio::test]
async fn an_own_svid_is_renewed_before_it_ends() {
    let directory = TempDir::new().unwrap();
    let domain = parse_trust_domain("mesh.local").unwrap();
    Authority::new(domain, 24 * HOUR, SystemTime::now()).unwrap().write_to(directory.path()).unwrap();
    let source = Source::Ca {
        directory: directory.path().to_owned(),
        id: parse_id(ID).unwrap(),
        // Renewed after four seconds: enough to be in time on a busy machine.
        ttl: Duration::from_secs(8),
    };
    let followed = follow(source);
    let before = followed.identity.current().svid.clone().unwrap();
    let is_new = |svid: &Svid| svid.fingerprint != before.fingerprint;
    followed.until("a renewal", |identity| is_new(identity.current().svid.as_ref().unwrap())).await;
    assert!(SystemTime::now() < before.not_after, "the new one came too late");
    let material = followed.identity.current();
    let leaf = &material.svid.as_ref().unwrap().chain[0];
    assert!(verify(leaf, &[], &material.bundles, SystemTime::now()).is_ok());
}

#[tokio::test]
async fn the_workload_api_is_followed_through_an_agents_death() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("agent.sock");
    let root = authority("mesh.local");
    let endpoint = format!("unix://{}", socket.display());
    let followed = follow(Source::WorkloadApi { endpoint, id: None });
    assert!(followed.identity.current().svid.is_none(), "the agent is away");
    followed.until_failed("workload_api").await;

    let versions = [0; 4].map(|_| root.issue(&svid(ID)));
    let other = authority("other.org");
    let update = |issued: &Issued| Update::new(ID, issued, &root).federated("other.org", &other);
    let agent = Agent::start(&socket, update(&versions[0]));
    followed.until_is(&versions[0]).await;
    let bundles = followed.identity.current().bundles.clone();
    assert_eq!(bundles.iter().count(), 2);
    let foreign = other.issue(&svid("spiffe://other.org/x"));
    assert!(verify(&foreign.certificate, &[], &bundles, SystemTime::now()).is_ok());
    let forged = verify(&other.issue(&svid(ID)).certificate, &[], &bundles, SystemTime::now());
    assert!(matches!(forged, Err(SvidError::NotTrusted(_))), "{forged:?}");

    agent.send(update(&versions[1]));
    followed.until_is(&versions[1]).await;
    // Of another trust domain: refused, and the stream goes on.
    let stranger = "spiffe://other.org/x";
    agent.send(Update::new(stranger, &other.issue(&svid(stranger)), &other));
    agent.send(update(&versions[2]));
    followed.until_is(&versions[2]).await;

    agent.kill().await;
    assert_eq!(followed.identity.current().svid.as_ref().unwrap().id.to_string(), ID, "the last one stays");
    let _agent = Agent::start(&socket, update(&versions[3]));
    followed.until_is(&versions[3]).await;
}

#[tokio::test]
async fn a_gateway_tells_of_its_identity_and_never_of_its_key() {
    let directory = with_ca();
    let yaml = "\
admin: {address: '127.0.0.1:0'}
identity: {trust_domain: mesh.local, ca: ca, id: 'spiffe://mesh.local/edge'}
listeners: [{name: edge, address: '127.0.0.1:0'}]
routes: [{respond: {}}]
";
    let key = fs::read_to_string(directory.path().join("ca/ca.key")).unwrap();
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let line = gateway.wait_for_message("new SVID").await;
    assert_eq!(
        (line["id"].as_str(), line["source"].as_str()),
        (Some("spiffe://mesh.local/edge"), Some("ca"))
    );
    let expiry = "tidegate_certificate_expiry_timestamp_seconds{subject=\"spiffe://mesh.local/edge\"}";
    assert!(series(&gateway, expiry, &[]).await.is_some());
    let updates = "tidegate_identity_updates_total{result=\"success\",source=\"ca\"}";
    assert_eq!(metric(&gateway, updates, &[]).await, 1.0);
    let config = get(gateway.admin(), "/config").await.text().to_owned();
    let secret = key.lines().nth(1).unwrap();
    assert!(
        config.contains("mesh.local") && !config.contains(secret) && !config.contains("PRIVATE"),
        "{config}"
    );
    assert!(!gateway.lines().iter().any(|line| line.to_string().contains(secret)));

    // Unchanged, it is carried over: no second SVID. Changed, there is a new one.
    let line = gateway.reload(&yaml.replace("{respond: {}}", "{respond: {status: 204}}")).await;
    assert_eq!(line["msg"], "configuration reloaded");
    let count = |gateway: &Gateway| gateway.lines().iter().filter(|line| line["msg"] == "new SVID").count();
    assert_eq!(count(&gateway), 1);
    let line = gateway.reload(&yaml.replace("mesh.local/edge", "mesh.local/other")).await;
    assert_eq!(line["msg"], "configuration reloaded");
    assert_eq!(count(&gateway), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_asks_the_agent_and_tells_who_we_are() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("agent.sock");
    let identity = |rest: &str| {
        format!("identity: {{trust_domain: mesh.local, workload_api: 'unix://{}'{rest}}}", socket.display())
    };
    let online = |identity: &str| {
        check(directory.path(), identity);
        run(directory.path(), "check --online -c g.yaml")
    };
    let (code, said) = online(&identity(""));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("identity  mesh.local  failed: the workload API at unix:///"), "{said}");
    assert!(said.contains("no such file or directory"), "{said}");
    assert!(said.contains("there is no identity now (the gateway starts all the same"), "{said}");
    let root = authority("mesh.local");
    let other = authority("other.org");
    let update = Update::new(ID, &root.issue(&svid(ID)), &root).federated("other.org", &other);
    let _agent = Agent::start(&socket, update);
    let (code, said) = online(&identity(""));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("identity  {ID}  ok, until 20")), "{said}");
    assert!(said.contains("with bundles of mesh.local, other.org"), "{said}");
    let (code, said) = online(&identity(", id: 'spiffe://mesh.local/other'"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("failed: the agent has no SVID for spiffe://mesh.local/other"), "{said}");
    ran(directory.path(), "ca init --trust-domain mesh.local --out ca");
    let (code, said) = online("identity: {trust_domain: mesh.local, ca: ca}");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("identity  spiffe://mesh.local/tidegate  ok, until 20"), "{said}");
}

/// It accepts, and never says a word.
#[tokio::test(flavor = "multi_thread")]
async fn check_online_does_not_wait_for_an_agent_that_hangs() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("agent.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let identity =
        format!("identity: {{trust_domain: mesh.local, workload_api: 'unix://{}'}}", socket.display());
    check(directory.path(), &identity);
    let (code, said) = run(directory.path(), "check --online -c g.yaml");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("does not answer"), "{said}");
}
