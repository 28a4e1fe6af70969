//! What a collector of other people's makes of our spans, over each protocol: one tree for each request, of every kind, and no
//! span whose parent nobody has recorded.

use std::collections::BTreeSet;

use super::{Origin, Taken, tries, yaml};
use crate::support::{
    Backend, Gateway, get,
    grpc::{GrpcServer, call},
    http2::Http2Client,
    rotel::Rotel,
    within_deadline,
};

/// Requests of every kind, behind one gateway.
struct Scene {
    bad: Origin,
    good: Origin,
    slow: Origin,
    other: Origin,
    shadow: Origin,
    sockets: Backend,
    calls: GrpcServer,
}

/// What is asked for.
const ASKED: [&str; 8] =
    ["/flaky/1", "/flaky/2", "/mirrored", "/slow", "/full/1", "/full/2", "/ws", "/late/14"];

impl Scene {
    async fn set() -> Scene {
        let (bad, good) = (Origin::failing().await, Origin::start().await);
        let (slow, other, shadow) = (Origin::start().await, Origin::start().await, Origin::start().await);
        let (sockets, calls) = (Backend::start().await, GrpcServer::start().await);
        Scene { bad, good, slow, other, shadow, sockets, calls }
    }

    async fn gateway(&self, service: &str, protocol: &str, collector: &str) -> Gateway {
        let Scene { bad, good, slow, other, shadow, sockets, calls } = self;
        let upstreams: [(_, &[&Origin], _); 4] = [
            ("flaky", &[bad, good], "balancer: round_robin, outlier: off"),
            ("slow", &[slow, other], ""),
            ("full", &[slow], "pool: {max_requests: 1, max_pending: 0}"),
            ("shadow", &[shadow], ""),
        ];
        let route =
            "match: {path: /flaky}, upstream: flaky, retry: {on: [5xx], backoff: {base: 1ms, max: 1ms}}";
        let yaml = yaml(route, &upstreams).replace(
            "upstreams:\n",
            &format!(
                "- {{name: slow, match: {{path: /slow}}, upstream: slow, hedge: {{after: 1ms, budget: 100%}}}}\n\
                 - {{name: full, match: {{path: /full}}, upstream: full}}\n\
                 - {{name: mirrored, match: {{path: /mirrored}}, upstream: good, mirror: {{upstream: shadow, ratio: 100%}}}}\n\
                 - {{name: ws, match: {{path: /ws}}, upstream: sockets}}\n\
                 - {{name: calls, match: {{path: /late}}, upstream: calls}}\n\
                 upstreams:\n  good: {{endpoints: ['{}']}}\n  sockets: {{endpoints: ['{}']}}\n  \
                 calls: {{endpoints: ['{}'], protocol: grpc}}\n",
                good.name(),
                sockets.address(),
                calls.address(),
            ),
        );
        let otlp = format!("{{endpoint: 'http://{collector}', protocol: {protocol}, every: 10ms}}");
        let tracing = format!("tracing: {{service: {service}, sample: {{at_most: off}}, otlp: {otlp}}}\n");
        Gateway::start(&format!("{yaml}{tracing}")).await
    }

    async fn play(&self, gateway: &Gateway) {
        let address = gateway.address("main");
        for path in ["/flaky/1", "/flaky/2", "/mirrored"] {
            get(address, path).await.assert_status(200);
        }
        let (slow, other) = (self.slow.requests(), self.other.requests());
        self.slow.hold();
        self.other.hold();
        let hedged = tokio::spawn(get(address, "/slow"));
        self.slow.wait_for_requests(slow + 1).await;
        self.other.wait_for_requests(other + 1).await;
        self.other.release();
        hedged.await.unwrap().assert_status(200);
        let held = tokio::spawn(get(address, "/full/1"));
        self.slow.wait_for_requests(slow + 2).await;
        get(address, "/full/2").await.assert_reason(503, "overloaded");
        self.slow.release();
        held.await.unwrap().assert_status(200);
        let url = format!("ws://{address}/ws");
        within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await.unwrap();
        Http2Client::open(address).await.ask(call("/late/14", &[])).await.assert_status(200);
    }
}

/// The span of the request for that path.
fn asked<'a>(spans: &'a [Taken], path: &str) -> Option<&'a Taken> {
    spans.iter().find(|span| span.is_server() && span.get("url.path") == path)
}

/// All that were made for it, in the order in which they began.
fn below<'a>(spans: &'a [Taken], request: &Taken) -> Vec<&'a Taken> {
    let children = tries(spans).into_iter();
    children.filter(|span| (span.trace(), span.parent()) == (request.trace(), request.id())).collect()
}

/// Each request says how many tries it took; a mirror's copy is none of them.
fn is_whole(spans: &[Taken]) -> bool {
    ASKED.iter().all(|path| {
        asked(spans, path).is_some_and(|request| {
            let copies = usize::from(*path == "/mirrored");
            below(spans, request).len() == request.get("tidegate.attempts").parse::<usize>().unwrap() + copies
        })
    })
}

fn kinds<'a>(tries: &[&'a Taken]) -> Vec<(&'a str, &'a str)> {
    tries
        .iter()
        .map(|span| (span.get("tidegate.attempt.kind"), span.get("tidegate.attempt.outcome")))
        .collect()
}

fn assert_tree(spans: &[Taken]) {
    let ids: BTreeSet<_> = spans.iter().map(|span| (span.trace(), span.id())).collect();
    assert_eq!(ids.len(), spans.len(), "no id is given twice");
    for span in spans {
        let is_root = span.span.parent_span_id.is_empty();
        assert_eq!(is_root, span.is_server(), "{span:#?}");
        assert!(is_root || ids.contains(&(span.trace(), span.parent())), "{span:#?}");
        assert!(span.span.start_time_unix_nano <= span.span.end_time_unix_nano, "{span:#?}");
        assert_eq!(span.scope, "tidegate");
    }
    let traces: BTreeSet<_> = spans.iter().map(Taken::trace).collect();
    assert_eq!(traces.len(), ASKED.len(), "one trace for each request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_has_the_whole_tree_of_every_kind_of_request_over_each_protocol() {
    let (rotel, scene) = (Rotel::start().await, Scene::set().await);
    for (service, protocol, collector) in
        [("a", "grpc", rotel.grpc), ("b", "http/protobuf", rotel.http), ("c", "http/json", rotel.http)]
    {
        let gateway = scene.gateway(service, protocol, &collector.to_string()).await;
        scene.play(&gateway).await;
        let of_service = |spans: &[Taken]| -> Vec<Taken> {
            spans.iter().filter(|span| span.resource["service.name"] == service).cloned().collect()
        };
        let spans = rotel.spans(protocol, |spans| is_whole(&of_service(spans))).await;
        let spans = of_service(&spans);
        assert_tree(&spans);
        let of = |path: &str| {
            let request = asked(&spans, path).unwrap();
            (request, below(&spans, request))
        };

        let retried = ["/flaky/1", "/flaky/2"].map(of).into_iter().find(|(_, tries)| tries.len() > 1);
        let (request, tries) = retried.expect("one of two meets the bad one");
        assert_eq!(kinds(&tries)[1], ("retry", "success"));
        assert_eq!(tries[1].get("http.request.resend_count"), "1");
        assert_eq!((tries[0].is_error(), tries[0].get("error.type")), (true, "503"));
        assert!(!request.is_error() && request.get("tidegate.attempts") == "2");

        let hedged = kinds(&of("/slow").1);
        let lost = |kind: &str| (kind, "cancelled") == hedged[usize::from(kind == "hedge")];
        assert_eq!(hedged.iter().filter(|(_, outcome)| *outcome == "success").count(), 1);
        assert!(hedged.len() == 2 && (lost("first") || lost("hedge")), "{hedged:?}");

        let (request, tries) = of("/mirrored");
        let mut copies: Vec<_> = tries
            .iter()
            .map(|span| (span.get("tidegate.attempt.kind"), span.get("tidegate.upstream")))
            .collect();
        copies.sort_unstable();
        assert_eq!(copies, [("first", "good"), ("mirror", "shadow")]);
        assert_eq!(request.get("tidegate.attempts"), "1");

        let (request, tries) = of("/full/2");
        assert!(request.is_error() && tries.is_empty());
        for (key, value) in [
            ("http.response.status_code", "503"),
            ("error.type", "overloaded"),
            ("tidegate.reason", "overloaded"),
        ] {
            assert_eq!(request.get(key), value, "{key}");
        }

        let (request, tries) = of("/ws");
        assert_eq!(kinds(&tries), [("first", "success")]);
        for span in [request, tries[0]] {
            assert_eq!((span.get("http.response.status_code"), span.is_error()), ("101", false));
        }

        let (request, tries) = of("/late/14");
        for span in [request, tries[0]] {
            assert_eq!((span.span.name.as_str(), span.is_error()), ("late/14", true));
            assert_eq!((span.get("rpc.system.name"), span.get("rpc.status_code")), ("grpc", "unavailable"));
        }
    }
}
