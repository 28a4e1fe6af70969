//! The access log: one line for each request that ended.
//! The keys and their order are the operator's contract; a value that does not apply is omitted, never null.
//! A collector of OpenTelemetry gets records in place of lines.
//! The line is formatted into a buffer of the thread, so that the sink's lock is held for one copy only.

pub mod connection;
mod fields;
mod records;
mod when;

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::observe::{
    Format, access::connection::ConnectionEntry, encode, log_writer::LineSink, syslog::Head,
};

pub(super) use self::records::Records;
pub use self::{
    fields::{Field, Fields, Layout, Piece},
    when::{End, When},
};

/// Longest value, in bytes before escaping: clients choose paths and user agents.
pub(in crate::observe) const VALUE_LIMIT: usize = 2048;
/// Answers from here on are logged whatever the sample.
const ALWAYS_LOGGED: u16 = 500;

/// What is said about one request. Borrowed from its context: nothing is copied before the line is written.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When the request ended.
    pub ts: SystemTime,
    pub listener: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// Of a split or canary: what was chosen.
    pub variant: Option<&'a str>,
    /// The address of the last attempt.
    pub endpoint: Option<&'a str>,
    pub method: &'a str,
    pub host: Option<&'a str>,
    /// Without the query, which may hold secrets.
    pub path: &'a str,
    /// 0 when the client left before there was one.
    pub status: u16,
    /// The name of the status that ended a call of gRPC.
    pub grpc_status: Option<&'a str>,
    /// That status is a server's fault: as bad as 500.
    pub failed_call: bool,
    /// Why the gateway itself answered.
    pub reason: Option<&'a str>,
    pub attempts: u32,
    pub hedged: bool,
    /// Bytes of the request's and of the response's body.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    /// From the first attempt to the end of the upstream's answer.
    pub upstream_time: Option<Duration>,
    /// The client's address, as believed after `trusted_proxies`; unspecified on a Unix socket.
    pub client: Option<IpAddr>,
    /// The caller's SPIFFE ID.
    pub peer: Option<&'a str>,
    /// The TLS version.
    pub tls: Option<&'a str>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    pub request_id: Option<&'a str>,
    /// The plugin that answered or failed, and what it says of that.
    pub plugin: Option<&'a str>,
    pub detail: Option<&'a str>,
    /// Of the context that was sent on.
    pub trace_id: Option<&'a str>,
    pub span_id: Option<&'a str>,
    pub parent_span_id: Option<&'a str>,
    pub sampled: Option<bool>,
    /// As sent: it need not be UTF-8.
    pub user_agent: Option<&'a [u8]>,
    /// What the operator has put into the line, and its values.
    pub own: Option<(&'a Layout, &'a [String])>,
}

impl Entry<'_> {
    /// Nothing but when the request ended.
    pub fn at(ts: SystemTime) -> Self {
        Entry {
            ts,
            listener: "",
            route: None,
            upstream: None,
            variant: None,
            endpoint: None,
            method: "",
            host: None,
            path: "",
            status: 0,
            grpc_status: None,
            failed_call: false,
            reason: None,
            attempts: 0,
            hedged: false,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream_time: None,
            client: None,
            peer: None,
            tls: None,
            protocol: "",
            request_id: None,
            plugin: None,
            detail: None,
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            sampled: None,
            user_agent: None,
            own: None,
        }
    }

    /// The values that the operator has added; those that are empty do not apply.
    fn added(&self) -> impl Iterator<Item = (&String, &String)> {
        let own = self.own.map(|(layout, values)| layout.added.iter().zip(values));
        own.into_iter().flatten().filter(|(_, value)| !value.is_empty())
    }

    pub(super) fn end(&self) -> End<'_> {
        let status = if self.failed_call { ALWAYS_LOGGED } else { self.status };
        End { status, reason: self.reason, duration: self.duration }
    }
}

pub struct AccessLog {
    outputs: Vec<Output>,
    records: Option<Records>,
    format: Format,
    /// A line is written when a random number is below this.
    threshold: u64,
    dropped: Fields,
    when: Option<When>,
    /// Of what has not become a request.
    layout: Option<Arc<Layout>>,
}

/// A place where lines go; to a syslog server with a head.
pub(super) struct Output {
    pub sink: Arc<LineSink>,
    pub head: Option<Head>,
}

/// What is written, and of which requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub format: Format,
    /// The share of requests that are logged, 0 to 1; answers of 500 and above always are.
    pub sample: f64,
    pub dropped: Fields,
    pub when: Option<When>,
    pub layout: Option<Arc<Layout>>,
}

impl Shape {
    /// Of every request, all there is to say.
    pub fn plain(format: Format) -> Shape {
        Shape { format, sample: 1.0, dropped: Fields::default(), when: None, layout: None }
    }
}

impl AccessLog {
    pub(super) fn new(outputs: Vec<Output>, records: Option<Records>, shape: &Shape) -> AccessLog {
        let Shape { format, sample, dropped, when, layout } = shape.clone();
        // The cast saturates, so that 1.0 means every request; NaN means none.
        let threshold = (sample * u64::MAX as f64) as u64;
        AccessLog { outputs, records, format, threshold, dropped, when, layout }
    }

    pub fn off() -> AccessLog {
        AccessLog::new(Vec::new(), None, &Shape { sample: 0.0, ..Shape::plain(Format::Json) })
    }

    /// False when nothing is ever written: an entry need not be made.
    pub fn is_on(&self) -> bool {
        !self.outputs.is_empty() || self.records.is_some()
    }

    /// Writes one line about what has not become a request, if it is to be logged. Never blocks.
    pub fn record(&self, entry: &Entry<'_>) {
        if self.is_on() && !self.asks_more() && self.wants(&entry.end()) {
            let own = self.layout.as_deref().map(|layout| (layout, &[][..]));
            self.write(&Entry { own, ..*entry });
        }
    }

    /// The same for a connection that was carried.
    pub fn record_connection(&self, entry: &ConnectionEntry<'_>) {
        let ConnectionEntry { status, reason, duration, .. } = *entry;
        if !self.is_on() || self.asks_more() || !self.wants(&End { status, reason, duration }) {
            return;
        }
        let keeps = |field| !self.dropped.contains(field);
        if let Some(records) = &self.records {
            records.connection(entry, keeps);
        }
        self.push(entry.ts, "connection", |line| match self.format {
            Format::Json => connection::json(line, entry, keeps),
            Format::Text => connection::text(line, entry, keeps),
        });
    }

    /// Whether what ended so is to be logged: the sample has it, and it is among those that are asked for.
    pub fn wants(&self, end: &End<'_>) -> bool {
        self.keeps(end.status, || fastrand::u64(..)) && self.when.as_ref().is_none_or(|when| when.holds(end))
    }

    /// Writes one line, whatever is asked for. Never blocks.
    pub fn write(&self, entry: &Entry<'_>) {
        if let Some(records) = &self.records {
            records.request(entry, |field| !self.dropped.contains(field));
        }
        self.push(entry.ts, "request", |line| {
            if let Some((Layout { template: Some(pieces), .. }, values)) = entry.own {
                return fields::laid_out(line, entry, pieces, values);
            }
            match (self.format, self.dropped.is_empty()) {
                (Format::Json, true) => json(line, entry, |_| true),
                (Format::Json, false) => json(line, entry, |field| !self.dropped.contains(field)),
                (Format::Text, true) => text(line, entry, |_| true),
                (Format::Text, false) => text(line, entry, |field| !self.dropped.contains(field)),
            }
        });
    }

    /// The line in JSON for somebody who follows it live, whatever the log itself is like. What the operator drops is left
    /// out there, too.
    pub fn show(&self, line: &mut Vec<u8>, entry: &Entry<'_>, hides_client: bool) {
        let hides = |field| hides_client && field == Field::Client;
        json(line, entry, |field| !self.dropped.contains(field) && !hides(field));
    }

    fn asks_more(&self) -> bool {
        self.when.as_ref().is_some_and(|when| when.of_requests)
    }

    fn keeps(&self, status: u16, random: impl FnOnce() -> u64) -> bool {
        self.threshold == u64::MAX || status >= ALWAYS_LOGGED || random() < self.threshold
    }

    fn push(&self, at: SystemTime, kind: &str, format: impl FnOnce(&mut Vec<u8>)) {
        if self.outputs.is_empty() {
            return;
        }
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
            static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            format(line);
            line.push(b'\n');
            for Output { sink, head } in &self.outputs {
                match head {
                    None => sink.push(line),
                    Some(head) => MESSAGE.with_borrow_mut(|message| {
                        message.clear();
                        head.write(message, at, kind);
                        message.extend_from_slice(line);
                        sink.push(message);
                    }),
                }
            }
        });
    }
}

fn json(line: &mut Vec<u8>, entry: &Entry<'_>, keeps: impl Fn(Field) -> bool) {
    let text = |line: &mut Vec<u8>, key: &str, field, value: Option<&str>| {
        optional(line, key, value.filter(|_| keeps(field)));
    };
    let count = |line: &mut Vec<u8>, key: &str, field, value: u64| {
        if keeps(field) {
            number(line, key, value);
        }
    };
    line.extend_from_slice(br#"{"ts":""#);
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(br#"","level":"info","msg":"request""#);
    text(line, r#","listener":"#, Field::Listener, Some(entry.listener));
    text(line, r#","route":"#, Field::Route, entry.route);
    text(line, r#","upstream":"#, Field::Upstream, entry.upstream);
    text(line, r#","variant":"#, Field::Variant, entry.variant);
    text(line, r#","endpoint":"#, Field::Endpoint, entry.endpoint);
    text(line, r#","method":"#, Field::Method, Some(entry.method));
    text(line, r#","host":"#, Field::Host, entry.host);
    text(line, r#","path":"#, Field::Path, Some(entry.path));
    count(line, r#","status":"#, Field::Status, entry.status.into());
    text(line, r#","grpc_status":"#, Field::GrpcStatus, entry.grpc_status);
    text(line, r#","reason":"#, Field::Reason, entry.reason);
    text(line, r#","plugin":"#, Field::Plugin, entry.plugin);
    text(line, r#","detail":"#, Field::Detail, entry.detail);
    count(line, r#","attempts":"#, Field::Attempts, entry.attempts.into());
    if keeps(Field::Hedged) {
        line.extend_from_slice(if entry.hedged { br#","hedged":true"# } else { br#","hedged":false"# });
    }
    count(line, r#","bytes_in":"#, Field::BytesIn, entry.bytes_in);
    count(line, r#","bytes_out":"#, Field::BytesOut, entry.bytes_out);
    if keeps(Field::DurationMs) {
        line.extend_from_slice(br#","duration_ms":"#);
        encode::millis(line, entry.duration);
    }
    if let Some(upstream_time) = entry.upstream_time.filter(|_| keeps(Field::UpstreamMs)) {
        line.extend_from_slice(br#","upstream_ms":"#);
        encode::millis(line, upstream_time);
    }
    if let Some(client) = entry.client.filter(|_| keeps(Field::Client)) {
        line.extend_from_slice(br#","client":""#);
        encode::address(line, client);
        line.push(b'"');
    }
    text(line, r#","peer":"#, Field::Peer, entry.peer);
    text(line, r#","tls":"#, Field::Tls, entry.tls);
    text(line, r#","protocol":"#, Field::Protocol, Some(entry.protocol));
    text(line, r#","request_id":"#, Field::RequestId, entry.request_id);
    text(line, r#","trace_id":"#, Field::TraceId, entry.trace_id);
    text(line, r#","span_id":"#, Field::SpanId, entry.span_id);
    text(line, r#","parent_span_id":"#, Field::ParentSpanId, entry.parent_span_id);
    if let Some(sampled) = entry.sampled.filter(|_| keeps(Field::Sampled)) {
        line.extend_from_slice(if sampled { br#","sampled":true"# } else { br#","sampled":false"# });
    }
    if let Some(user_agent) = entry.user_agent.filter(|_| keeps(Field::UserAgent)) {
        line.extend_from_slice(br#","user_agent":"#);
        encode::json_bytes(line, user_agent, VALUE_LIMIT);
    }
    for (name, value) in entry.added() {
        line.push(b',');
        encode::json_string(line, name, VALUE_LIMIT);
        line.push(b':');
        encode::json_string(line, value, VALUE_LIMIT);
    }
    line.push(b'}');
}

pub(in crate::observe) fn optional(line: &mut Vec<u8>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        line.extend_from_slice(key.as_bytes());
        encode::json_string(line, value, VALUE_LIMIT);
    }
}

pub(in crate::observe) fn number(line: &mut Vec<u8>, key: &str, value: u64) {
    line.extend_from_slice(key.as_bytes());
    encode::number(line, value);
}

/// `2026-01-01T00:00:00.000Z INFO  10.0.0.1 GET api.example.com/users 200 1.234ms listener=edge ...`
fn text(line: &mut Vec<u8>, entry: &Entry<'_>, keeps: impl Fn(Field) -> bool) {
    let shown = |line: &mut Vec<u8>, field, write: &dyn Fn(&mut Vec<u8>)| {
        if keeps(field) { write(line) } else { line.push(b'-') }
    };
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(b" INFO  ");
    match entry.client.filter(|_| keeps(Field::Client)) {
        Some(client) => encode::address(line, client),
        None => line.push(b'-'),
    }
    line.push(b' ');
    shown(line, Field::Method, &|line| encode::text_message(line, entry.method, VALUE_LIMIT));
    line.push(b' ');
    if keeps(Field::Host) {
        encode::text_message(line, entry.host.unwrap_or_default(), VALUE_LIMIT);
    }
    shown(line, Field::Path, &|line| encode::text_message(line, entry.path, VALUE_LIMIT));
    line.push(b' ');
    shown(line, Field::Status, &|line| encode::number(line, entry.status.into()));
    line.push(b' ');
    shown(line, Field::DurationMs, &|line| {
        encode::millis(line, entry.duration);
        line.extend_from_slice(b"ms");
    });

    let user_agent = entry.user_agent.map(String::from_utf8_lossy);
    let sampled = entry.sampled.map(|sampled| if sampled { "true" } else { "false" });
    let words = [
        (" grpc_status=", Field::GrpcStatus, entry.grpc_status),
        (" reason=", Field::Reason, entry.reason),
        (" plugin=", Field::Plugin, entry.plugin),
        (" detail=", Field::Detail, entry.detail),
        (" listener=", Field::Listener, Some(entry.listener)),
        (" route=", Field::Route, entry.route),
        (" upstream=", Field::Upstream, entry.upstream),
        (" variant=", Field::Variant, entry.variant),
        (" endpoint=", Field::Endpoint, entry.endpoint),
        (" peer=", Field::Peer, entry.peer),
        (" tls=", Field::Tls, entry.tls),
        (" protocol=", Field::Protocol, Some(entry.protocol)),
        (" request_id=", Field::RequestId, entry.request_id),
        (" trace_id=", Field::TraceId, entry.trace_id),
        (" span_id=", Field::SpanId, entry.span_id),
        (" parent_span_id=", Field::ParentSpanId, entry.parent_span_id),
        (" sampled=", Field::Sampled, sampled),
        (" user_agent=", Field::UserAgent, user_agent.as_deref()),
    ];
    for (key, field, value) in words {
        if let Some(value) = value.filter(|_| keeps(field)) {
            line.extend_from_slice(key.as_bytes());
            encode::text_value(line, value, VALUE_LIMIT);
        }
    }
    let count = |line: &mut Vec<u8>, key: &str, field, value: u64| {
        if keeps(field) {
            number(line, key, value);
        }
    };
    count(line, " attempts=", Field::Attempts, entry.attempts.into());
    if entry.hedged && keeps(Field::Hedged) {
        line.extend_from_slice(b" hedged=true");
    }
    count(line, " in=", Field::BytesIn, entry.bytes_in);
    count(line, " out=", Field::BytesOut, entry.bytes_out);
    if let Some(upstream_time) = entry.upstream_time.filter(|_| keeps(Field::UpstreamMs)) {
        line.extend_from_slice(b" upstream_ms=");
        encode::millis(line, upstream_time);
    }
    for (name, value) in entry.added() {
        line.push(b' ');
        line.extend_from_slice(name.as_bytes());
        line.push(b'=');
        encode::text_value(line, value, VALUE_LIMIT);
    }
}

#[cfg(test)]
pub(in crate::observe) mod tests {
    use std::{
        fs,
        time::{Instant, UNIX_EPOCH},
    };

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::observe::log_writer::{
        SinkStats, Target,
        tests::{file_sink, nowhere},
    };

    pub(in super::super) fn entry() -> Entry<'static> {
        Entry {
            ts: UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
            listener: "edge",
            route: Some("users"),
            upstream: Some("users-v1"),
            variant: None,
            endpoint: Some("10.1.2.3:9001"),
            method: "GET",
            host: Some("api.example.com"),
            path: "/v1/users/12345/orders",
            status: 200,
            grpc_status: None,
            failed_call: false,
            reason: None,
            attempts: 1,
            hedged: false,
            bytes_in: 0,
            bytes_out: 15_321,
            duration: Duration::from_micros(1_234),
            upstream_time: Some(Duration::from_micros(1_100)),
            client: Some(IpAddr::from([192, 0, 2, 17])),
            peer: None,
            tls: Some("TLSv1.3"),
            protocol: "HTTP/1.1",
            request_id: Some("018f2a3e-7c1b-7def-8a45-0123456789ab"),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
            span_id: None,
            parent_span_id: None,
            sampled: None,
            plugin: None,
            detail: None,
            user_agent: Some(
                b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
            ),
            own: None,
        }
    }

    fn log(sink: &Arc<LineSink>, shape: &Shape) -> AccessLog {
        AccessLog::new(vec![Output { sink: sink.clone(), head: None }], None, shape)
    }

    fn json_line(entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        json(&mut line, entry, |_| true);
        String::from_utf8(line).unwrap()
    }

    fn text_line(entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        text(&mut line, entry, |_| true);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_json_line_has_the_contract_s_keys_in_order() {
        let full = Entry { reason: Some("upstream_timeout"), peer: Some("spiffe://mesh.local/a"), ..entry() };
        assert_eq!(
            json_line(&full),
            concat!(
                r#"{"ts":"2026-01-01T00:00:00.123Z","level":"info","msg":"request","listener":"edge","#,
                r#""route":"users","upstream":"users-v1","endpoint":"10.1.2.3:9001","method":"GET","#,
                r#""host":"api.example.com","path":"/v1/users/12345/orders","status":200,"#,
                r#""reason":"upstream_timeout","attempts":1,"hedged":false,"bytes_in":0,"bytes_out":15321,"#,
                r#""duration_ms":1.234,"upstream_ms":1.1,"client":"192.0.2.17","#,
                r#""peer":"spiffe://mesh.local/a","tls":"TLSv1.3","protocol":"HTTP/1.1","#,
                r#""request_id":"018f2a3e-7c1b-7def-8a45-0123456789ab","#,
                r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","#,
                r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36"}"#,
            )
        );
    }

    #[test]
    fn what_does_not_apply_is_omitted() {
        let bare = Entry {
            route: None,
            upstream: None,
            endpoint: None,
            host: None,
            upstream_time: None,
            client: None,
            tls: None,
            request_id: None,
            trace_id: None,
            user_agent: None,
            ..entry()
        };
        assert_eq!(
            serde_json::from_str::<Value>(&json_line(&bare)).unwrap(),
            json!({
                "ts": "2026-01-01T00:00:00.123Z", "level": "info", "msg": "request", "listener": "edge",
                "method": "GET", "path": "/v1/users/12345/orders", "status": 200, "attempts": 1, "hedged": false,
                "bytes_in": 0, "bytes_out": 15321, "duration_ms": 1.234, "protocol": "HTTP/1.1",
            })
        );
    }

    #[test]
    fn a_text_line_reads_from_left_to_right() {
        let failed = Entry { status: 504, reason: Some("upstream_timeout"), user_agent: None, ..entry() };
        assert_eq!(
            text_line(&failed),
            "2026-01-01T00:00:00.123Z INFO  192.0.2.17 GET api.example.com/v1/users/12345/orders 504 1.234ms \
             reason=upstream_timeout listener=edge route=users upstream=users-v1 endpoint=10.1.2.3:9001 \
             tls=TLSv1.3 protocol=HTTP/1.1 request_id=018f2a3e-7c1b-7def-8a45-0123456789ab \
             trace_id=4bf92f3577b34da6a3ce929d0e0e4736 attempts=1 in=0 out=15321 upstream_ms=1.1"
        );
    }

    proptest! {
        #[test]
        fn every_json_line_is_one_json_object(
            text in proptest::collection::vec(any::<String>(), 6), agent in any::<Vec<u8>>(),
            numbers in any::<[u64; 2]>(), status in any::<u16>(), micros in 0..1u64 << 50,
        ) {
            let line = json_line(&Entry {
                listener: &text[0], route: Some(&text[1]), method: &text[2], host: Some(&text[3]),
                path: &text[4], request_id: Some(&text[5]), user_agent: Some(&agent), status,
                bytes_in: numbers[0], bytes_out: numbers[1], duration: Duration::from_micros(micros),
                ..entry()
            });
            prop_assert!(!line.contains('\n'));
            let read: Value = serde_json::from_str(&line).unwrap();
            for (key, value) in ["listener", "route", "method", "host", "path", "request_id"].iter().zip(&text) {
                prop_assert_eq!(read[key].as_str(), Some(value.as_str()));
            }
            prop_assert_eq!(read["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&agent));
            prop_assert_eq!(read["status"].as_u64(), Some(status.into()));
            prop_assert_eq!(read["bytes_in"].as_u64(), Some(numbers[0]));
            prop_assert_eq!(read["bytes_out"].as_u64(), Some(numbers[1]));
            prop_assert!((read["duration_ms"].as_f64().unwrap() - micros as f64 / 1000.0).abs() < 0.001);
        }

        #[test]
        fn every_text_line_is_one_line(path in any::<String>(), agent in any::<Vec<u8>>()) {
            let line = text_line(&Entry { path: &path, user_agent: Some(&agent), ..entry() });
            prop_assert!(!line.chars().any(char::is_control));
        }
    }

    #[test]
    fn long_values_are_cut() {
        let path = "/é".repeat(5000);
        let read: Value = serde_json::from_str(&json_line(&Entry { path: &path, ..entry() })).unwrap();
        let written = read["path"].as_str().unwrap();
        assert!(written.len() <= VALUE_LIMIT + "…".len() && written.ends_with('…'));
    }

    #[test]
    fn the_sample_is_a_share_and_never_leaves_out_failures() {
        let directory = tempfile::tempdir().unwrap();
        let sink = Arc::new(file_sink(&directory, 1024).0);
        for (sample, low, high) in [(0.0, 0, 0), (0.1, 900, 1100), (0.5, 4850, 5150), (1.0, 10_000, 10_000)] {
            let log = log(&sink, &Shape { sample, ..Shape::plain(Format::Json) });
            let mut rng = fastrand::Rng::with_seed(7);
            let kept = (0..10_000).filter(|_| log.keeps(200, || rng.u64(..))).count();
            assert!((low..=high).contains(&kept), "{sample}: {kept}");
            assert!((0..100).all(|_| log.keeps(503, || rng.u64(..))));
        }
    }

    #[test]
    fn records_whole_lines_into_the_sink() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        let log = log(&Arc::new(sink), &Shape::plain(Format::Json));
        AccessLog::off().record(&entry());
        log.record(&entry());
        log.record(&Entry { status: 404, ..entry() });
        drop(log);
        let statuses: Vec<u64> = fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap())
            .collect();
        assert_eq!(statuses, [200, 404]);
    }

    /// What a log of this shape writes.
    fn written(shape: &Shape, head: Option<Head>, record: impl FnOnce(&AccessLog)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        let log = AccessLog::new(vec![Output { sink: Arc::new(sink), head }], None, shape);
        record(&log);
        drop(log);
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn fields_are_left_out_and_added_in_both_formats() {
        let dropped = ["user_agent", "host", "status", "upstream_ms"].iter();
        let layout = Layout { added: vec!["tenant".into(), "none".into()], template: None };
        let values = ["a\"b\n\u{202e}".to_owned(), String::new()];
        let entry = Entry { own: Some((&layout, &values)), ..entry() };
        let shape = |format| Shape {
            dropped: dropped.clone().map(|name| Field::named(name).unwrap()).collect(),
            ..Shape::plain(format)
        };
        let json = written(&shape(Format::Json), None, |log| log.write(&entry));
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["tenant"], values[0]);
        assert!(json.contains(r#""tenant":"a\"b\n\u202e""#), "{json}");
        for gone in ["user_agent", "host", "status", "upstream_ms", "none"] {
            assert!(read.get(gone).is_none(), "{gone}");
        }
        assert_eq!(read["path"], "/v1/users/12345/orders");
        let text = written(&shape(Format::Text), None, |log| log.write(&entry));
        assert!(text.contains(" GET /v1/users/12345/orders - 1.234ms "), "{text}");
        assert!(text.ends_with("tenant=\"a\\\"b\\n\\u{202e}\"\n"), "{text}");
    }

    #[test]
    fn a_template_is_the_line_and_nothing_in_a_value_ends_it() {
        let field = |name| Piece::Field(Field::named(name).unwrap());
        let text = |text: &str| Piece::Text(text.into());
        let template = vec![
            field("client"),
            text(" \""),
            Piece::Value(0),
            text("\" "),
            field("status"),
            text(" "),
            field("reason"),
            text(" "),
            Piece::Value(1),
            text(" "),
            field("duration_ms"),
        ];
        let layout = Arc::new(Layout { added: Vec::new(), template: Some(template) });
        let values = ["x\" 200 \u{1b}[2J\n".to_owned(), String::new()];
        let shape = Shape { layout: Some(layout.clone()), ..Shape::plain(Format::Text) };
        let line = written(&shape, None, |log| {
            log.write(&Entry { own: Some((&layout, &values)), ..entry() });
            // It has no values where there was no request.
            log.record(&Entry { client: None, ..entry() });
        });
        let expected = "192.0.2.17 \"x\\\" 200 \\u{1b}[2J\\n\" 200 - - 1.234\n- \"-\" 200 - - 1.234\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_syslog_message_has_its_head_and_the_line() {
        let head = Head::new(16, "host", "edge");
        let line = written(&Shape::plain(Format::Json), Some(head), |log| log.write(&entry()));
        let expected =
            format!("<134>1 2026-01-01T00:00:00.123Z host edge {} request - {{\"ts\"", std::process::id());
        assert!(line.starts_with(&expected), "{line}");
    }

    #[test]
    fn what_is_no_request_is_left_out_where_more_is_asked() {
        let when = When { of_requests: true, ..When::default() };
        let shape = Shape { when: Some(when), ..Shape::plain(Format::Json) };
        assert_eq!(written(&shape, None, |log| log.record(&entry())), "");
        let when = When { statuses: vec![(500, 599)], ..When::default() };
        let shape = Shape { when: Some(when), ..Shape::plain(Format::Json) };
        let lines = written(&shape, None, |log| {
            log.record(&entry());
            log.record(&Entry { failed_call: true, ..entry() });
            log.record(&Entry { status: 503, ..entry() });
        });
        assert_eq!(lines.lines().count(), 2);
    }

    /// `cargo test --release -- --ignored --nocapture cost`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_record() {
        let stats = Arc::<SinkStats>::default();
        let null = Target::File("/dev/null".into());
        let directory = tempfile::tempdir().unwrap();
        let file = Target::File(directory.path().join("access.log"));
        for (name, target) in [("/dev/null", null), ("file", file)] {
            let sink = LineSink::open(&target, 64 << 20, Arc::clone(&stats), &nowhere()).unwrap();
            let sink = Arc::new(sink);
            let (log, entry) = (log(&sink, &Shape::plain(Format::Json)), entry());
            // Waiting for each batch adds the writer's share to the producer's.
            let start = Instant::now();
            for _ in 0..1000 {
                (0..1000).for_each(|_| log.record(std::hint::black_box(&entry)));
                assert!(sink.flush(Duration::from_secs(10)));
            }
            println!("{name}: {:?} a record, {} dropped", start.elapsed() / 1_000_000, stats.dropped());
        }
        let mut line = Vec::new();
        let start = Instant::now();
        for _ in 0..1_000_000 {
            line.clear();
            json(&mut line, std::hint::black_box(&entry()), |_| true);
        }
        println!("formatting alone: {:?}, {} bytes", start.elapsed() / 1_000_000, line.len());
    }
}
