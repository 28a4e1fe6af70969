//! A network that loses packets between the gateway and its upstreams: what is lost is sent again, by the kernel or by the gateway,
//! and no client notices more than a delay.

use tempfile::TempDir;

use crate::support::{
    namespace::{Host, Network, PAYMENTS},
    skipped,
};

const PORTS: [u16; 4] = [8081, 8082, 8083, 8084];

/// To the same endpoints over HTTP/1.1 on port 8000, and over HTTP/2 on port 8001. All else is as it comes.
fn yaml() -> String {
    let endpoints = PORTS.map(|port| format!("{PAYMENTS}:{port}"));
    format!(
        "admin: false\nlisteners:\n- {{name: one, address: '127.0.0.1:8000', routes: [one]}}\n\
         - {{name: two, address: '127.0.0.1:8001', routes: [two]}}\n\
         routes:\n- {{name: one, upstream: one}}\n- {{name: two, upstream: two}}\n\
         upstreams:\n  one: {{endpoints: {endpoints:?}}}\n  two: {{endpoints: {endpoints:?}, protocol: http2}}\n"
    )
}

/// So many requests, sixteen at a time.
fn are_served(host: &Host, port: u16, requests: usize) {
    let url = format!("http://127.0.0.1:{port}/bytes/32KiB?[1-{requests}]");
    let said = host.curl(&["--parallel", "--parallel-max", "16", "--output", "/dev/null", &url]);
    // What curl complains of is behind the statuses, and some releases have their progress there.
    let served = said.split_whitespace().take(requests).filter(|status| status.starts_with("200")).count();
    assert_eq!(served, requests, "on port {port}: {said}");
}

/// From now on one in 60 packets that come over the cable is lost.
fn loses_packets(host: &Host) -> Result<(), String> {
    let rule = "-A INPUT -i eth0 -p tcp -m statistic --mode nth --every 60 --packet 0 -j DROP";
    let made = host.root("iptables", &rule.split(' ').collect::<Vec<_>>());
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
}

/// How many packets have been lost on their way to this host.
fn lost(host: &Host) -> usize {
    let listed = host.root("iptables", &["-L", "INPUT", "-n", "-v", "-x"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let rule = listed.lines().find(|line| line.contains("statistic")).unwrap_or_else(|| panic!("{listed}"));
    rule.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_lost_on_the_way_to_upstreams_cost_no_request() {
    let Some(network) = Network::new() else { return };
    let (near, far, home) = (&network.orders, &network.payments, TempDir::new().unwrap());
    let mut backends = Vec::new();
    for port in PORTS {
        backends.push(far.backend(home.path(), &format!("at-{port}"), port).await);
    }
    let _gateway = near.gateway(home.path(), &yaml()).await;
    // Most connections are there by then: of many that are made under loss, one would fail three times in a row by chance.
    for port in [8000, 8001] {
        are_served(near, port, 32);
    }
    for host in [near, far] {
        if let Err(why) = loses_packets(host) {
            return skipped(&why);
        }
    }
    for port in [8000, 8001] {
        are_served(near, port, 400);
    }
    let lost = [near, far].map(lost);
    assert!(lost.iter().all(|lost| *lost >= 5), "{lost:?}: too few to say anything");
}
