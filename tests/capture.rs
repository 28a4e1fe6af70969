//! Applications that know nothing of a gateway, in network namespaces of their own: iptables brings their connections to
//! it, and it brings them where they were meant to go.

use std::{fs, os::unix::fs::PermissionsExt, process::Output};

use tempfile::TempDir;

use crate::support::{
    Process,
    certificates::{self, Order},
    namespace::{Network, ORDERS, PAYMENTS, PAYMENTS_V6},
    tidegate,
};

/// A directory with a CA for both sidecars, which applications may read.
fn home() -> TempDir {
    let home = TempDir::new().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = tidegate(home.path());
    command.args(["ca", "init", "--trust-domain", "mesh.local", "--out", "ca"]);
    assert!(command.status().unwrap().success());
    home
}

fn identity(service: &str) -> String {
    format!(
        "mode: sidecar\nidentity: {{trust_domain: mesh.local, ca: ca, id: \"spiffe://mesh.local/{service}\"}}\n"
    )
}

/// The way out of orders.
fn orders() -> String {
    let mesh = |name: &str, address: &str| {
        format!(
            "  {name}:\n    endpoints: [\"{address}\"]\n    protocol: auto\n    tls: {{verify: {{spiffe: \
             [\"spiffe://mesh.local/payments\"]}}, client_identity: true}}\n"
        )
    };
    format!(
        "{}admin: false\nsidecar:\n  outbound:\n    address: [\"127.0.0.1:15001\", \"[::1]:15001\"]\n    \
         original_destination: {{opaque_ports: [7000], unknown: forward}}\nupstreams:\n{}{}",
        identity("orders"),
        mesh("payments", &format!("{PAYMENTS}:8080")),
        mesh("payments6", &format!("[{PAYMENTS_V6}]:8080"))
    )
}

/// The way in to payments.
fn payments() -> String {
    format!(
        "{}admin: false\nsidecar:\n  inbound:\n    address: \":15006\"\n    original_destination: {{opaque_ports: \
         [7000]}}\n    allow: [\"spiffe://mesh.local/orders\"]\n",
        identity("payments")
    )
}

fn succeeded(output: Output) -> String {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

/// The sidecars of both hosts, with the rules in force. 9001 to 9003 of payments are elsewhere: no sidecar is there.
async fn mesh(network: &Network, home: &TempDir) -> (Process, Process) {
    let orders_sidecar = network.orders.gateway(home.path(), &orders()).await;
    let payments_sidecar = network.payments.gateway(home.path(), &payments()).await;
    fs::write(home.path().join("orders.yaml"), orders()).unwrap();
    fs::write(home.path().join("payments.yaml"), payments()).unwrap();
    succeeded(network.orders.iptables(home.path(), &["--apply", "-c", "orders.yaml"]));
    let excluded = ["--apply", "-c", "payments.yaml", "--exclude-inbound-ports", "9001,9002,9003"];
    succeeded(network.payments.iptables(home.path(), &excluded));
    (orders_sidecar, payments_sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_between_two_applications_is_mtls_between_their_sidecars() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let _application = network.payments.backend(home.path(), "payments", 8080).await;
    let (orders, payments) = mesh(&network, &home).await;
    let at = |address: &str| format!("payments:8080:{address}");
    for extra in [&[][..], &["--http2-prior-knowledge"]] {
        let resolve = at(PAYMENTS);
        let asked = [&["--resolve", &resolve], extra, &["http://payments:8080/"]].concat();
        let answer = network.orders.curl(&asked);
        assert!(answer.contains("payments") && answer.ends_with(" 200"), "{answer}");
        payments.wait_for_output("\"peer\":\"spiffe://mesh.local/orders\"").await;
        orders.wait_for_output("\"route\":\"payments\",\"upstream\":\"payments\"").await;
    }
    let resolve = format!("payments6:8080:[{PAYMENTS_V6}]");
    let answer = network.orders.curl(&["--resolve", &resolve, "http://payments6:8080/"]);
    assert!(answer.contains("payments") && answer.ends_with(" 200"), "{answer}");
    payments.wait_for_output(&format!("\"endpoint\":\"[{PAYMENTS_V6}]:8080\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_the_application_past_its_sidecar() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let _application = network.payments.backend(home.path(), "payments", 8080).await;
    let (_orders, payments) = mesh(&network, &home).await;
    // Root is left alone by the rules of orders, and so speaks for itself.
    for url in [format!("http://{PAYMENTS}:8080/"), format!("http://[{PAYMENTS_V6}]:8080/")] {
        let plain = network.orders.root("curl", &["-s", "--max-time", "15", "-w", "%{http_code}", &url]);
        let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
        assert!(!plain.contains("200"), "{plain}");
    }
    assert!(!payments.output().contains("\"status\":200"), "{}", payments.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_names_no_service_is_reached_where_it_is() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let _elsewhere = network.payments.backend(home.path(), "elsewhere", 9003).await;
    let (orders, _payments) = mesh(&network, &home).await;
    for host in [PAYMENTS.to_owned(), format!("[{PAYMENTS_V6}]")] {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let answer = network.orders.curl(&[version, &format!("http://{host}:9003/")]);
            assert!(answer.contains("elsewhere") && answer.ends_with(" 200"), "{host} {version}: {answer}");
        }
        let endpoint = format!("\"upstream\":\"original_destination\",\"endpoint\":\"{host}:9003\"");
        orders.wait_for_output(&endpoint).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard() {
    let Some(network) = Network::new() else { return };
    let home = home();
    // One after the detection's timeout; one that both sidecars know to be opaque.
    let (_elsewhere, _opaque) = (network.payments.greeter(9001).await, network.payments.greeter(7000).await);
    let (orders, payments) = mesh(&network, &home).await;
    for port in [9001, 7000] {
        let heard = network.orders.greeted(PAYMENTS, port);
        assert_eq!(heard, "220 hello\r\nheard word\n", "{port}");
        // The one came out of a tunnel there, since payments is known to have a sidecar.
        payments.wait_for_output(&format!("\"endpoint\":\"{PAYMENTS}:{port}\"")).await;
    }
    orders.wait_for_output(&format!("\"endpoint\":\"{PAYMENTS}:7000\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_passes_untouched_be_it_through_a_tunnel() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let root = certificates::authority("mesh.local");
    let server =
        root.issue(&Order { dns: vec!["shop.example".into()], uris: Vec::new(), ..certificates::svid("") });
    certificates::write(&home.path().join("root.pem"), &root.pem(), 0o644);
    certificates::write(&home.path().join("shop.crt"), &server.pem(), 0o644);
    certificates::write(&home.path().join("shop.key"), &server.key_pem(), 0o644);
    let file = |name: &str| home.path().join(name).display().to_string();
    let (cert, key) = (file("shop.crt"), file("shop.key"));
    let serve = ["s_server", "-accept", "9002", "-cert", &cert, "-key", &key, "-www"];
    let shop = Process::spawn(network.payments.application("openssl", &serve));
    shop.wait_for_output("ACCEPT").await;
    let (_orders, payments) = mesh(&network, &home).await;
    let resolve = format!("shop.example:9002:{PAYMENTS}");
    // curl verifies that it is the shop it speaks with.
    let asked = ["--cacert", &file("root.pem"), "--resolve", &resolve, "https://shop.example:9002/"];
    let answer = network.orders.curl(&asked);
    assert!(answer.ends_with(" 200"), "{answer}");
    payments.wait_for_output(&format!("\"endpoint\":\"{PAYMENTS}:9002\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_meant_for_the_listener_itself_is_no_loop() {
    let Some(network) = Network::new() else { return };
    let home = home();
    // Open to others, so that one can get here without being redirected.
    let yaml = orders().replace("[\"127.0.0.1:15001\", \"[::1]:15001\"]", "\":15001\"");
    let sidecar = network.orders.gateway(home.path(), &yaml).await;
    fs::write(home.path().join("orders.yaml"), &yaml).unwrap();
    succeeded(network.orders.iptables(home.path(), &["--apply", "-c", "orders.yaml"]));
    let open = || fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count();
    let ask = || {
        let direct = network.payments.curl(&[&format!("http://{ORDERS}:15001/")]);
        assert!(direct.ends_with(" 508"), "{direct}");
        let own = network.orders.curl(&[&format!("http://{ORDERS}:15001/")]);
        assert!(own.ends_with(" 508"), "{own}");
        assert_eq!(network.payments.greeted(ORDERS, 15001), "");
    };
    ask();
    let before = open();
    (0..3).for_each(|_| ask());
    crate::support::within_deadline("connections are closed", async {
        while open() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    sidecar
        .wait_for_output("\"msg\":\"connection\",\"listener\":\"outbound\",\"reason\":\"loop_detected\"")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_can_be_applied_again_and_taken_away() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let both = format!("{}{}", orders(), payments().split_once("sidecar:\n").unwrap().1);
    fs::write(home.path().join("both.yaml"), both.replace("upstreams:", "x:")).unwrap();
    let both = orders()
        .replace("sidecar:\n", &format!("sidecar:\n{}", payments().split_once("sidecar:\n").unwrap().1));
    fs::write(home.path().join("both.yaml"), both).unwrap();
    fs::write(home.path().join("payments.yaml"), payments()).unwrap();
    let host = &network.orders;
    // Somebody else's stay as they are.
    let others = ["-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT"];
    assert!(host.root("iptables", &others).status.success());
    let before = host.rules();
    let apply = |args: &[&str]| succeeded(host.iptables(home.path(), args));
    apply(&["--remove"]);
    assert_eq!(host.rules(), before, "nothing was there to be removed");
    apply(&["--apply", "-c", "both.yaml", "--exclude-cidrs", "198.51.100.0/24,2001:db8::/32"]);
    let once = host.rules();
    assert!(once.contains("198.51.100.0/24") && once.contains("2001:db8::/32"), "{once}");
    apply(&["--apply", "-c", "both.yaml", "--exclude-cidrs", "198.51.100.0/24,2001:db8::/32"]);
    assert_eq!(host.rules(), once);
    // What is printed does the same.
    let script = apply(&["--print", "-c", "both.yaml", "--exclude-cidrs", "198.51.100.0/24,2001:db8::/32"]);
    succeeded(host.root("sh", &["-c", &script]));
    assert_eq!(host.rules(), once);
    apply(&["--apply", "-c", "payments.yaml"]);
    let inbound_alone = host.rules();
    assert!(inbound_alone.contains("TIDEGATE_INBOUND"), "{inbound_alone}");
    assert!(!inbound_alone.contains("TIDEGATE_OUTBOUND"), "{inbound_alone}");
    let script = apply(&["--print", "--remove"]);
    apply(&["--remove"]);
    assert_eq!(host.rules(), before);
    apply(&["--apply", "-c", "both.yaml"]);
    succeeded(host.root("sh", &["-c", &script]));
    assert_eq!(host.rules(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_rules_cannot_be_made_is_told() {
    let Some(network) = Network::new() else { return };
    let home = home();
    let failed = |args: &[&str]| {
        let output = network
            .orders
            .tidegate(home.path(), &[&["sidecar", "iptables"], args].concat())
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nobody = failed(&["--apply", "--outbound-port", "15001", "--uid", "no-such-user"]);
    assert!(nobody.contains("name the sidecar's with --uid"), "{nobody}");
    fs::write(
        home.path().join("plain.yaml"),
        "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{respond: {}}]\n",
    )
    .unwrap();
    let plain = failed(&["--apply", "-c", "plain.yaml"]);
    assert!(plain.contains("nothing to redirect connections to"), "{plain}");
    let mut without_tools = network.orders.tidegate(home.path(), &["sidecar", "iptables", "--remove"]);
    without_tools.env("PATH", "/bin:/usr/bin");
    let output = without_tools.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("is not installed"), "{said}");
}
