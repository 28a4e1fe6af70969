//! What `log.redact` names is written nowhere, whatever is asked for.

use super::{Backend, Collector, Yaml};
use crate::support::{logged, send};

const PLANTED: &str = "hunter2";

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_neither_lines_nor_records_nor_spans() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let (url, every) = (collector.url(), "every: 10ms");
    let asked = "user_agent path query header.x-key header.cookie claim.token path.id";
    let template: String = asked.split(' ').map(|name| format!("{{{name}}} ")).collect();
    let top = format!(
        "log: {{redact: [user-agent, token, x-key, id], access: {{to: [stdout, {{otlp: {{endpoint: '{url}', {every}}}}}], \
         template: '{template}'}}}}\n\
         tracing: {{query: keep, propagate: [w3c, baggage], baggage_attributes: [token, plan], \
         attributes: {{a: '{{path}}', b: '{{header.user-agent}}', c: '{{query}}'}}, \
         otlp: {{endpoint: '{url}', {every}}}}}"
    );
    let gateway = Yaml::to(backend.address())
        .top(&top)
        .with_route("match: {path: {template: '/reset/{id}/now'}}, upstream: origin, filters: [{rewrite: {path: /status/200}}]")
        .start()
        .await;
    let path = format!("/reset/{PLANTED}/now?token={PLANTED}&page=2");
    let baggage = format!("token={PLANTED},plan=pro");
    let sent = [("user-agent", PLANTED), ("x-key", PLANTED), ("cookie", PLANTED), ("baggage", &*baggage)];
    send(gateway.address("main"), "GET", &path, &sent, "").await.assert_status(200);
    let (logs, spans) = (collector.logs(1).await, collector.spans(2).await);
    let server = spans.iter().find(|span| span.is_server()).unwrap();
    assert_eq!((server.get("url.query"), server.get("plan")), ("token=REDACTED&page=2", "pro"));
    assert!(!format!("{spans:?}").contains(PLANTED), "{spans:#?}");
    assert!(!format!("{logs:?}").contains(PLANTED), "{logs:#?}");
    assert!(logs[0].body().starts_with("[redacted] "), "{}", logs[0].body());
    let lines = gateway.lines();
    assert!(lines.iter().all(|line| !line.to_string().contains(PLANTED)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_path_is_left_out_of_it() {
    let gateway = Yaml::new()
        .top("log: {redact: [ID]}")
        .with_route("match: {path: {template: '/reset/{id}/{*rest}'}}, respond: {status: 200}")
        .start()
        .await;
    send(gateway.address("main"), "GET", &format!("/reset/{PLANTED}/a/b"), &[], "").await.assert_status(200);
    assert_eq!(logged(&gateway, "/reset/REDACTED/a/b").await["status"], 200);
}
