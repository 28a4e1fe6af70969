//! The dashboard and the alerts: each of their expressions has an answer in a real Prometheus that scrapes a real gateway, and
//! each alert has its section in the runbook. Whether an alert fires when it should is in `deploy/prometheus/rules_test.yaml`.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, RawConnection, Redis, TlsClient,
    certificates::{authority, keep, server, svid},
    collector::Collector,
    get,
    installed::installed,
    issuer::{Issuer, Signer, set},
    prometheus::Prometheus,
    send, within_deadline,
};

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Each expression, and where it stands.
fn expressions() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/tidegate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let mut found: Vec<(String, String)> = panels
        .flat_map(|panel| {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            let title = panel["title"].as_str().unwrap().to_owned();
            targets
                .into_iter()
                .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
        })
        .collect();
    assert!(found.len() >= 50, "only {} expressions in the dashboard", found.len());
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        // Where nothing changes, there is nothing to show.
        let (expr, _) = annotation["expr"].as_str().unwrap().rsplit_once(" > ").unwrap();
        found.push(("annotations".into(), expr.to_owned()));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // The data source's is no question to Prometheus.
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let of = query.strip_prefix("label_values(").and_then(|of| of.strip_suffix(')'));
        let (series, label) = of.and_then(|of| of.rsplit_once(", ")).unwrap_or_else(|| panic!("{query}"));
        // Something has to have that label, or there is nothing to choose from.
        let expr = match series.strip_suffix('}') {
            Some(open) => format!("{open}, {label}!=\"\"}}"),
            None => format!("{series}{{{label}!=\"\"}}"),
        };
        found.push((format!("variable {}", variable["name"]), expr));
    }
    for (name, rule) in rules() {
        let expr = rule["expr"].as_str().unwrap();
        // Whether it holds is another question than whether there is anything to compare.
        let compared = [" > ", " < ", " == "].iter().fold(expr.to_owned(), |expr, comparison| {
            expr.replace(comparison, &format!("{comparison}bool "))
        });
        found.push((name, compared));
    }
    let fill = |expr: String| {
        let expr = expr.replace("$__rate_interval", "10s").replace("$job", "tidegate");
        ["$instance", "$listener", "$route", "$upstream"]
            .iter()
            .fold(expr, |expr, name| expr.replace(name, ".*"))
    };
    found.into_iter().map(|(place, expr)| (place, fill(expr))).collect()
}

/// By their names.
fn rules() -> Vec<(String, Value)> {
    let rules: Value = serde_yaml::from_str(&file("deploy/prometheus/rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().cloned().unwrap());
    let name = |rule: &Value| rule["alert"].as_str().or(rule["record"].as_str()).unwrap().to_owned();
    rules.map(|rule| (name(&rule), rule)).collect()
}

/// Everything that a gateway can show a series of, and what it takes.
struct Busy {
    gateway: Gateway,
    token: String,
    _backends: [Backend; 2],
    _collector: Collector,
    _redis: Redis,
    _issuer: Issuer,
}

/// Paces questions; whatever is waited for happens by itself.
const PAUSE: Duration = Duration::from_millis(100);
const PATHS: [&str; 5] = ["/", "/retried", "/hedged", "/canary", "/limited"];

impl Busy {
    async fn start() -> Busy {
        let backends = [Backend::named("one").await, Backend::named("two").await];
        let [one, two] = [backends[0].address(), backends[1].address()];
        let (collector, redis) = (Collector::start().await, Redis::start().await);
        let signer = Signer::new("k");
        let issuer = Issuer::start(200, set(&[&signer]));
        let home = TempDir::new().unwrap();
        let root = authority("mesh.local");
        root.issue(&svid("spiffe://mesh.local/edge")).write_to(home.path(), &root);
        keep(home.path(), "edge", &root.issue(&server(&["edge.example.com"])));
        let yaml = format!(
            "admin: {{address: '127.0.0.1:0'}}\nlog: {{access: {{to: off}}}}\nlimits: {{memory: 8GiB}}\nstate_dir: state\n\
             tracing: {{otlp: {{endpoint: '{collector}', every: 50ms}}}}\n\
             identity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: svid.key, bundle: bundle.pem}}}}\n\
             listeners:\n\
             - {{name: main, address: '127.0.0.1:0'}}\n\
             - {{name: edge, address: '127.0.0.1:0', tls: {{certificates: [{{cert: edge.crt, key: edge.key}}], \
             ticket_keys: {{storage: {{redis: '{redis}', secret: 0123456789abcdef0123456789abcdef}}}}}}}}\n\
             routes:\n\
             - {{name: retried, match: {{path: /retried}}, filters: [{{rewrite: {{path: /status/503}}}}], \
             retry: {{attempts: 3, on: [5xx], budget: {{ratio: 1%, min_per_second: 1}}}}, upstream: failing}}\n\
             - {{name: hedged, match: {{path: /hedged}}, filters: [{{rewrite: {{path: /delay/20ms}}}}], \
             hedge: {{after: 1ms, budget: 50%}}, upstream: origin}}\n\
             - {{name: canary, match: {{path: /canary}}, filters: [{{rewrite: {{path: /}}}}], \
             canary: {{stable: stable, candidate: candidate, start: 50%}}}}\n\
             - {{name: token, match: {{path: /token}}, filters: [{{jwt: {{keys: {{jwks: '{jwks}'}}}}}}, {{rewrite: {{path: /}}}}], upstream: origin}}\n\
             - {{name: limited, match: {{path: /limited}}, filters: [{{rate_limit: {{rate: 1000/s, key: client_ip, store: {{redis: '{redis}'}}}}}}, \
             {{rewrite: {{path: /}}}}], upstream: origin}}\n\
             - {{name: rest, upstream: origin}}\n\
             upstreams:\n\
             \x20 origin: {{endpoints: ['{one}', '{two}'], health_check: {{http: {{path: /health}}}}, circuit_breaker: {{}}, \
             outlier: {{}}, pool: {{max_requests: 100}}}}\n\
             \x20 failing: {{endpoints: ['{one}'], outlier: off}}\n\
             \x20 stable: {{endpoints: ['{one}']}}\n\x20 candidate: {{endpoints: ['{two}']}}\n",
            collector = collector.url(),
            redis = redis.url(),
            jwks = issuer.url(),
        );
        // What is only counted when it has happened: memory that runs short, a handshake that fails, a canary that is stopped.
        let many: String = (0..8000)
            .map(|n| {
                format!(
                    "- {{name: r{n}, match: {{path: {{regex: '^/api/v{n}/\\d{{4}}$'}}}}, upstream: origin}}\n"
                )
            })
            .collect();
        let short = yaml.replace("memory: 8GiB", "memory: 64MiB");
        let short = short.replacen("routes:\n", &format!("routes:\n{many}"), 1);
        let gateway = Gateway::start_in(home, &short, &[]).await;
        let busy = Busy {
            token: signer.token("u"),
            gateway,
            _backends: backends,
            _collector: collector,
            _redis: redis,
            _issuer: issuer,
        };
        busy.answers(503).await;
        assert_eq!(busy.gateway.reload(&yaml).await["msg"], "configuration reloaded");
        busy.answers(200).await;
        let mut garbage = RawConnection::open(busy.gateway.address("edge"));
        garbage.write("GET / HTTP/1.1\r\n\r\n");
        garbage.read_to_end();
        send(busy.gateway.admin(), "POST", "/canaries/canary/pause", &[], "").await.assert_status(200);
        busy
    }

    /// Waits until it answers with this status.
    async fn answers(&self, status: u16) {
        let main = self.gateway.address("main");
        let answered = async {
            while get(main, "/").await.status.as_u16() != status {
                tokio::time::sleep(PAUSE).await;
            }
        };
        within_deadline(&format!("a {status}"), answered).await;
    }

    /// One request of each kind.
    async fn round(&self) {
        let main = self.gateway.address("main");
        for path in PATHS {
            get(main, path).await;
        }
        let bearer = format!("Bearer {}", self.token);
        send(main, "GET", "/token", &[("authorization", &bearer)], "").await.assert_status(200);
        let edge = self.gateway.address("edge");
        TlsClient::trusting_all().get(edge, "edge.example.com", "/headers").await.unwrap();
    }
}

/// Whether there is a number among what was found.
fn has_answer(data: &Value) -> bool {
    let samples = data["result"].as_array().into_iter().flatten();
    samples.filter_map(|sample| sample["value"][1].as_str()).any(|value| value != "NaN")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_expression_of_the_dashboard_and_of_the_rules_has_an_answer() {
    let busy = Busy::start().await;
    let prometheus = Prometheus::start(busy.gateway.admin()).await;
    let mut open = expressions();
    // Each round gives those that were not answered another chance; the last of them fail the test.
    for _ in 0..60 {
        busy.round().await;
        let mut left = Vec::new();
        for (place, expr) in open {
            let mut query = form_urlencoded(&expr);
            query.insert_str(0, "/api/v1/query?query=");
            let data = prometheus.ask(&query, |data| Some(data.clone())).await;
            if !has_answer(&data) {
                left.push((place, expr));
            }
        }
        open = left;
        if open.is_empty() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("no answer to {:#}", json!(open));
}

fn form_urlencoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn each_alert_fires_when_it_should_and_says_what_to_do() {
    let runbook = file("docs/operations.md");
    let mut alerts = 0;
    for (name, rule) in rules().into_iter().filter(|(_, rule)| rule["alert"].is_string()) {
        alerts += 1;
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        let anchor = url.strip_prefix("https://github.com/tidegate/tidegate/blob/main/docs/operations.md#");
        let anchor = anchor.unwrap_or_else(|| panic!("{name}: {url}"));
        let has_section = runbook.lines().filter_map(|line| line.strip_prefix("### "));
        assert!(
            has_section.map(str::to_lowercase).any(|title| title == anchor),
            "{name}: no section {anchor}"
        );
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{name}"
        );
        assert!(
            file("deploy/prometheus/rules_test.yaml").contains(&format!("\"{name}: ")),
            "{name} has no test"
        );
    }
    assert!(alerts > 15, "{alerts}");
    for args in [
        ["check", "rules", "deploy/prometheus/rules.yaml"],
        ["test", "rules", "deploy/prometheus/rules_test.yaml"],
    ] {
        let mut promtool: Command = installed("promtool");
        let output = promtool.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
