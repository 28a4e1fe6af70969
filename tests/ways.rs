//! One behaviour through every shape of request: what holds for one holds for all, since all take one way through the
//! proxy. Each test sets up one gateway with a route for each shape, and an origin behind each that plays the same deeds.

mod excess;
mod heads;
mod limits;
pub(crate) mod retries;
mod silence;

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request, StatusCode, Version};

use crate::support::{
    Answer, Gateway, RawConnection, RawResponse, Yaml,
    grpc::message,
    http2::{Http2Client, whole},
    logged, metric,
    origin::{Deed, Origin, Seen, text},
    silent::Refusing,
    wait_for_metric, within_deadline,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Grpc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    None,
    /// In one piece, with its length.
    Whole,
    /// In parts, without.
    Streamed,
}

/// A shape of request. Its route and its upstream have its name.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    name: &'static str,
    client: Speaks,
    body: Body,
    /// On a route with a hedge, which never comes to be sent.
    hedged: bool,
    upstream: &'static str,
}

const WAYS: [Way; 9] = [
    Way::of("bare", Speaks::Http1, Body::None, "http1"),
    Way::of("with_body", Speaks::Http1, Body::Whole, "http1"),
    Way::of("streamed", Speaks::Http1, Body::Streamed, "http1"),
    Way { hedged: true, ..Way::of("hedged", Speaks::Http1, Body::None, "http1") },
    Way { hedged: true, ..Way::of("hedged_body", Speaks::Http1, Body::Whole, "http1") },
    Way { hedged: true, ..Way::of("hedged_http2", Speaks::Http2, Body::Whole, "http2") },
    Way::of("grpc", Speaks::Grpc, Body::Streamed, "grpc"),
    Way::of("http2_upstream", Speaks::Http1, Body::Streamed, "http2"),
    Way::of("http2_client", Speaks::Http2, Body::Streamed, "http1"),
];

impl Way {
    const fn of(name: &'static str, client: Speaks, body: Body, upstream: &'static str) -> Way {
        Way { name, client, body, hedged: false, upstream }
    }

    fn method(&self) -> &'static str {
        if self.body == Body::None { "GET" } else { "POST" }
    }

    fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// What it sends.
    fn bytes(&self) -> Vec<u8> {
        match (self.body, self.client) {
            (Body::None, _) => Vec::new(),
            (_, Speaks::Grpc) => message(b"in two parts"),
            _ => b"in two parts".to_vec(),
        }
    }

    /// The same, as it sends it.
    fn parts(&self) -> [Bytes; 2] {
        let mut bytes = Bytes::from(self.bytes());
        let first = bytes.split_to(bytes.len().min(7));
        [first, bytes]
    }

    /// `route="NAME"`, or whatever else is called so.
    fn label(&self, key: &str) -> String {
        format!("{key}=\"{}\"", self.name)
    }
}

/// What a client hears.
struct Heard {
    interim: Vec<(StatusCode, HeaderMap)>,
    answer: Answer,
}

impl Heard {
    /// The origin's own 200, whole.
    #[track_caller]
    fn assert_served(&self, way: &Way) {
        let Answer { status, body, trailers, .. } = &self.answer;
        let expected = text(200).into_bytes();
        let expected = if way.client == Speaks::Grpc { message(&expected) } else { expected };
        assert_eq!((status.as_u16(), &body[..]), (200, &expected[..]), "{way:?}: {:?}", self.answer);
        if way.client == Speaks::Grpc {
            assert_eq!(trailers.as_ref().map(|sent| &sent["grpc-status"]), Some(&"0".parse().unwrap()));
        }
    }

    /// The gateway refused it with this. A call is refused with a status of its own.
    #[track_caller]
    fn assert_refused(&self, way: &Way, status: u16, reason: &str) {
        let answer = &self.answer;
        assert_eq!(answer.header("x-tidegate-reason"), Some(reason), "{way:?}: {answer:?}");
        let status = if way.client == Speaks::Grpc { 200 } else { status };
        assert_eq!(answer.status, status, "{way:?}: {answer:?}");
    }
}

const ACTIVE: &str = "tidegate_upstream_active_requests";

/// A gateway with a route for each way, and their origins.
struct Stage {
    ways: Vec<(&'static Way, Origin)>,
    gateway: Gateway,
}

/// Which ways a test is about.
type Only = fn(&Way) -> bool;

/// What a stage is to be.
struct Scene<'a> {
    deeds: &'a [Deed],
    route: &'a str,
    settings: &'a str,
    addresses: usize,
    more: Vec<SocketAddr>,
    yaml: Yaml,
    only: Only,
}

/// Every origin plays these.
fn scene(deeds: &[Deed]) -> Scene<'_> {
    Scene {
        deeds,
        route: "",
        settings: "",
        addresses: 4,
        more: Vec::new(),
        yaml: Yaml::new(),
        only: |_| true,
    }
}

impl<'a> Scene<'a> {
    /// What more stands in each route; `WAY` is its name.
    fn route(self, route: &'a str) -> Self {
        Scene { route, ..self }
    }

    /// What more stands in each upstream.
    fn settings(self, settings: &'a str) -> Self {
        Scene { settings, ..self }
    }

    /// So many endpoints, which are all the origin.
    fn addresses(self, addresses: usize) -> Self {
        Scene { addresses, ..self }
    }

    /// Endpoints before those of each origin.
    fn beside(mut self, addresses: &[SocketAddr]) -> Self {
        self.more.extend(addresses);
        self
    }

    /// An upstream that is no way's.
    fn upstream(self, name: &str, endpoints: &[SocketAddr], settings: &str) -> Self {
        Scene { yaml: self.yaml.with_upstream(name, endpoints, settings), ..self }
    }

    fn only(self, only: Only) -> Self {
        Scene { only, ..self }
    }

    async fn start(self) -> Stage {
        let (mut yaml, mut ways) = (self.yaml.top("threads: 1"), Vec::new());
        for way in WAYS.iter().filter(|way| (self.only)(way)) {
            let origin = Origin::start(self.addresses, self.deeds).await;
            let hedge = if way.hedged { ", hedge: {after: 900ms}" } else { "" };
            let more = self.route.replace("WAY", way.name);
            yaml = yaml.with_route(&format!(
                "name: {0}, match: {{path: /{0}}}, upstream: {0}{hedge}, {more}",
                way.name
            ));
            let endpoints = self.more.iter().chain(origin.addresses());
            let settings = format!("protocol: {}, {}", way.upstream, self.settings);
            yaml = yaml.with_upstream(way.name, endpoints, &settings);
            ways.push((way, origin));
        }
        let gateway = yaml.start().await;
        Stage { ways, gateway }
    }
}

impl Stage {
    async fn ask(&self, way: &Way) -> Heard {
        self.ask_with(way, &[]).await
    }

    async fn ask_with(&self, way: &Way, fields: &[(&str, &str)]) -> Heard {
        match way.client {
            Speaks::Http1 => self.ask_http1(way, fields),
            Speaks::Http2 | Speaks::Grpc => self.ask_http2(way, fields).await,
        }
    }

    /// The request is sent, as far as it goes.
    fn send_http1(&self, way: &Way, fields: &[(&str, &str)]) -> RawConnection {
        let mut client = RawConnection::open(self.gateway.address("main"));
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{} {} HTTP/1.1\r\nhost: shop.example\r\n{fields}", way.method(), way.path());
        let (framing, [first, second]) = (way.bytes().len(), way.parts());
        match way.body {
            Body::None => client.write(format!("{head}\r\n")),
            Body::Whole => {
                client.write(format!("{head}content-length: {framing}\r\n\r\n"));
                client.write_what_goes([first, second].concat());
            }
            Body::Streamed => {
                client.write(format!("{head}transfer-encoding: chunked\r\n\r\n"));
                for part in [first, second] {
                    client.write_what_goes(
                        [format!("{:x}\r\n", part.len()).as_bytes(), &part, b"\r\n"].concat(),
                    );
                }
                client.write_what_goes("0\r\n\r\n");
            }
        }
        client
    }

    fn ask_http1(&self, way: &Way, fields: &[(&str, &str)]) -> Heard {
        let mut client = self.send_http1(way, fields);
        let mut interim = Vec::new();
        loop {
            let heard = answer(client.read_response());
            if !heard.status.is_informational() {
                return Heard { interim, answer: heard };
            }
            interim.push((heard.status, heard.headers));
        }
    }

    async fn send_http2(
        &self,
        client: &mut Http2Client,
        way: &Way,
        fields: &[(&str, &str)],
    ) -> ResponseFuture {
        let mut request =
            Request::builder().method(way.method()).uri(format!("http://shop.example{}", way.path()));
        if way.client == Speaks::Grpc {
            request = request.header("content-type", "application/grpc").header("te", "trailers");
        }
        if way.body == Body::Whole {
            request = request.header("content-length", way.bytes().len());
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (response, mut body) = client.begin(request.body(()).unwrap(), way.body == Body::None).await;
        if way.body != Body::None {
            let [first, second] = way.parts();
            // It may have been answered by now.
            let _ = body.send_data(first, false);
            let _ = body.send_data(second, true);
        }
        response
    }

    async fn ask_http2(&self, way: &Way, fields: &[(&str, &str)]) -> Heard {
        let mut client = Http2Client::open(self.gateway.address("main")).await;
        let mut response = self.send_http2(&mut client, way, fields).await;
        let mut interim = Vec::new();
        while let Some(hint) =
            within_deadline("interim answers", poll_fn(|cx| response.poll_informational(cx))).await
        {
            let (head, ()) = hint.unwrap().into_parts();
            interim.push((head.status, head.headers));
        }
        Heard { interim, answer: whole(response).await }
    }

    /// Asks, and leaves as soon as the origin has heard of it.
    async fn leave(&self, way: &Way, origin: &Origin) {
        let before = origin.seen().len();
        if way.client == Speaks::Http1 {
            let _client = self.send_http1(way, &[]);
            origin.wait_for_heads(before + 1).await;
        } else {
            let mut client = Http2Client::open(self.gateway.address("main")).await;
            let response = self.send_http2(&mut client, way, &[]).await;
            origin.wait_for_heads(before + 1).await;
            // One stream, and not its connection.
            drop(response);
            wait_for_metric(&self.gateway, ACTIVE, &[&way.label("upstream")], 0.0).await;
        }
    }

    /// The access log's line about the one request of a way.
    async fn logged(&self, way: &Way) -> serde_json::Value {
        logged(&self.gateway, &way.path()).await
    }

    /// How many retries of a way there were, for this reason.
    async fn retries(&self, way: &Way, reason: &str) -> f64 {
        let labels = [&way.label("route"), &format!("reason=\"{reason}\"")];
        metric(&self.gateway, "tidegate_retries_total", &labels.map(String::as_str)).await
    }

    /// Waits until so many tries of a way have ended so.
    async fn assert_attempts(&self, way: &Way, outcome: &str, count: f64) {
        let labels = [&way.label("upstream"), &format!("outcome=\"{outcome}\"")];
        let labels = labels.map(String::as_str);
        wait_for_metric(&self.gateway, "tidegate_upstream_attempts_total", &labels, count).await;
    }
}

fn answer(raw: RawResponse) -> Answer {
    let fields = raw.headers.iter();
    let headers = fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Answer {
        status: StatusCode::from_u16(raw.status).unwrap(),
        version: Version::HTTP_11,
        headers,
        body: raw.body.into(),
        trailers: None,
    }
}

/// What the origin was sent to the end is what the client has sent.
#[track_caller]
fn assert_whole(way: &Way, seen: &Seen) {
    assert_eq!(seen.body.as_deref(), Some(&way.bytes()[..]), "{way:?}");
}
