//! Collectors behind TLS, with certificates of an authority that only they have: it is named, both sides show who they are, and
//! nobody else gets a span.

use tempfile::TempDir;

use super::{Client, Collector, Origin, server, tries, yaml};
use crate::support::{
    Gateway,
    certificates::{Issued, authority, keep, svid},
    metric, wait_for_metric,
};

/// With the authority in `root.crt`, and a certificate of ours in `edge.crt`.
pub(super) fn directory(root: &Issued) -> TempDir {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "root", root);
    keep(directory.path(), "edge", &root.issue(&svid("spiffe://test/edge")));
    directory
}

async fn exporting(root: &Issued, origin: &Origin, collector: &Collector, otlp: &str) -> Gateway {
    let yaml = yaml("upstream: u", &[("u", &[origin], "")]);
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms, {otlp}}}", collector.url());
    Gateway::start_in(directory(root), &format!("{yaml}tracing: {{{otlp}}}\n"), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_certificate_of_its_own_authority_gets_spans_over_every_protocol() {
    let root = authority("test");
    for protocol in ["grpc", "http/protobuf", "http/json"] {
        let (origin, collector) = (Origin::start().await, Collector::start_tls(&root).await);
        let otlp = format!("protocol: {protocol}, tls: {{ca: root.crt, cert: edge.crt, key: edge.key}}");
        let gateway = exporting(&root, &origin, &collector, &otlp).await;
        Client::new(&gateway).get("/").await.assert_status(200);
        let spans = collector.spans(2).await;
        assert_eq!(tries(&spans)[0].parent(), server(&spans).id(), "{protocol}");
        wait_for_metric(&gateway, "tidegate_spans_total", &["result=\"exported\""], 2.0).await;
    }
}

/// Neither of the authority that is named, nor, where none is, of one that the system trusts.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_of_another_authority_gets_no_span_and_the_log_says_why() {
    let (root, other) = (authority("test"), authority("other"));
    for (of, tls) in [(&other, "tls: {ca: root.crt, cert: edge.crt, key: edge.key}"), (&root, "tls: {}")] {
        for protocol in ["grpc", "http/protobuf"] {
            let (origin, collector) = (Origin::start().await, Collector::start_tls(of).await);
            let otlp = format!("protocol: {protocol}, give_up: 10ms, {tls}");
            let gateway = exporting(&root, &origin, &collector, &otlp).await;
            Client::new(&gateway).get("/").await.assert_status(200);
            wait_for_metric(&gateway, "tidegate_spans_total", &["result=\"dropped_export\""], 2.0).await;
            assert!(metric(&gateway, "tidegate_span_exports_total", &["result=\"retry\""]).await >= 1.0);
            let told = gateway.wait_for_message("spans could not be exported").await;
            let why = told["why"].as_str().unwrap();
            assert!(why.contains("cannot connect") && why.contains("certificate verify failed"), "{told}");
            assert!(told["endpoint"].as_str().unwrap().starts_with(&collector.url()), "{told}");
            assert!(collector.spans_now().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_asks_who_we_are_gets_no_span_from_one_who_does_not_say() {
    let root = authority("test");
    let (origin, collector) = (Origin::start().await, Collector::start_tls(&root).await);
    let gateway = exporting(&root, &origin, &collector, "give_up: 10ms, tls: {ca: root.crt}").await;
    Client::new(&gateway).get("/").await.assert_status(200);
    wait_for_metric(&gateway, "tidegate_spans_total", &["result=\"dropped_export\""], 2.0).await;
    gateway.wait_for_message("spans could not be exported").await;
    assert!(collector.spans_now().is_empty());
}
