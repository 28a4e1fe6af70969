//! The access log: one line for each request that ended.
//! The keys and their order are the operator's contract; a value that does not apply is omitted, never null.
//! The line is formatted into a buffer of the thread, so that the sink's lock is held for one copy only.

pub mod connection;

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::observe::{Format, access::connection::ConnectionEntry, encode, log_writer::LineSink};

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
    /// Of the context that was sent on.
    pub trace_id: Option<&'a str>,
    pub span_id: Option<&'a str>,
    pub parent_span_id: Option<&'a str>,
    pub sampled: Option<bool>,
    /// As sent: it need not be UTF-8.
    pub user_agent: Option<&'a [u8]>,
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
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            sampled: None,
            user_agent: None,
        }
    }
}

pub struct AccessLog {
    destination: Option<(Arc<LineSink>, Format)>,
    /// A line is written when a random number is below this.
    threshold: u64,
}

impl AccessLog {
    /// `sample` is the share of requests that are logged, 0 to 1; answers of 500 and above always are.
    pub fn new(sink: Arc<LineSink>, format: Format, sample: f64) -> AccessLog {
        // The cast saturates, so that 1.0 means every request; NaN means none.
        AccessLog { destination: Some((sink, format)), threshold: (sample * u64::MAX as f64) as u64 }
    }

    pub fn off() -> AccessLog {
        AccessLog { destination: None, threshold: 0 }
    }

    /// False when nothing is ever written: an entry need not be made.
    pub fn is_on(&self) -> bool {
        self.destination.is_some()
    }

    /// Writes one line, unless the sample leaves this request out. Never blocks.
    pub fn record(&self, entry: &Entry<'_>) {
        let Some((sink, format)) = &self.destination else { return };
        let status = if entry.failed_call { ALWAYS_LOGGED } else { entry.status };
        if self.keeps(status, || fastrand::u64(..)) {
            write(sink, |line| match format {
                Format::Json => json(line, entry),
                Format::Text => text(line, entry),
            });
        }
    }

    /// The same for a connection that was carried.
    pub fn record_connection(&self, entry: &ConnectionEntry<'_>) {
        let Some((sink, format)) = &self.destination else { return };
        if self.keeps(entry.status, || fastrand::u64(..)) {
            write(sink, |line| match format {
                Format::Json => connection::json(line, entry),
                Format::Text => connection::text(line, entry),
            });
        }
    }

    fn keeps(&self, status: u16, random: impl FnOnce() -> u64) -> bool {
        self.threshold == u64::MAX || status >= ALWAYS_LOGGED || random() < self.threshold
    }
}

fn write(sink: &LineSink, format: impl FnOnce(&mut Vec<u8>)) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        format(line);
        line.push(b'\n');
        sink.push(line);
    });
}

fn json(line: &mut Vec<u8>, entry: &Entry<'_>) {
    line.extend_from_slice(br#"{"ts":""#);
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(br#"","level":"info","msg":"request","listener":"#);
    encode::json_string(line, entry.listener, VALUE_LIMIT);
    optional(line, r#","route":"#, entry.route);
    optional(line, r#","upstream":"#, entry.upstream);
    optional(line, r#","variant":"#, entry.variant);
    optional(line, r#","endpoint":"#, entry.endpoint);
    optional(line, r#","method":"#, Some(entry.method));
    optional(line, r#","host":"#, entry.host);
    optional(line, r#","path":"#, Some(entry.path));
    number(line, r#","status":"#, entry.status.into());
    optional(line, r#","grpc_status":"#, entry.grpc_status);
    optional(line, r#","reason":"#, entry.reason);
    number(line, r#","attempts":"#, entry.attempts.into());
    line.extend_from_slice(if entry.hedged { br#","hedged":true"# } else { br#","hedged":false"# });
    number(line, r#","bytes_in":"#, entry.bytes_in);
    number(line, r#","bytes_out":"#, entry.bytes_out);
    line.extend_from_slice(br#","duration_ms":"#);
    encode::millis(line, entry.duration);
    if let Some(upstream_time) = entry.upstream_time {
        line.extend_from_slice(br#","upstream_ms":"#);
        encode::millis(line, upstream_time);
    }
    if let Some(client) = entry.client {
        line.extend_from_slice(br#","client":""#);
        encode::address(line, client);
        line.push(b'"');
    }
    optional(line, r#","peer":"#, entry.peer);
    optional(line, r#","tls":"#, entry.tls);
    optional(line, r#","protocol":"#, Some(entry.protocol));
    optional(line, r#","request_id":"#, entry.request_id);
    optional(line, r#","trace_id":"#, entry.trace_id);
    optional(line, r#","span_id":"#, entry.span_id);
    optional(line, r#","parent_span_id":"#, entry.parent_span_id);
    if let Some(sampled) = entry.sampled {
        line.extend_from_slice(if sampled { br#","sampled":true"# } else { br#","sampled":false"# });
    }
    if let Some(user_agent) = entry.user_agent {
        line.extend_from_slice(br#","user_agent":"#);
        encode::json_bytes(line, user_agent, VALUE_LIMIT);
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
fn text(line: &mut Vec<u8>, entry: &Entry<'_>) {
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(b" INFO  ");
    match entry.client {
        Some(client) => encode::address(line, client),
        None => line.push(b'-'),
    }
    line.push(b' ');
    encode::text_message(line, entry.method, VALUE_LIMIT);
    line.push(b' ');
    encode::text_message(line, entry.host.unwrap_or_default(), VALUE_LIMIT);
    encode::text_message(line, entry.path, VALUE_LIMIT);
    line.push(b' ');
    encode::number(line, entry.status.into());
    line.push(b' ');
    encode::millis(line, entry.duration);
    line.extend_from_slice(b"ms");

    let user_agent = entry.user_agent.map(String::from_utf8_lossy);
    let words = [
        (" grpc_status=", entry.grpc_status),
        (" reason=", entry.reason),
        (" listener=", Some(entry.listener)),
        (" route=", entry.route),
        (" upstream=", entry.upstream),
        (" variant=", entry.variant),
        (" endpoint=", entry.endpoint),
        (" peer=", entry.peer),
        (" tls=", entry.tls),
        (" protocol=", Some(entry.protocol)),
        (" request_id=", entry.request_id),
        (" trace_id=", entry.trace_id),
        (" span_id=", entry.span_id),
        (" parent_span_id=", entry.parent_span_id),
        (" sampled=", entry.sampled.map(|sampled| if sampled { "true" } else { "false" })),
        (" user_agent=", user_agent.as_deref()),
    ];
    for (key, value) in words.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        line.extend_from_slice(key.as_bytes());
        encode::text_value(line, value, VALUE_LIMIT);
    }
    number(line, " attempts=", entry.attempts.into());
    if entry.hedged {
        line.extend_from_slice(b" hedged=true");
    }
    number(line, " in=", entry.bytes_in);
    number(line, " out=", entry.bytes_out);
    if let Some(upstream_time) = entry.upstream_time {
        line.extend_from_slice(b" upstream_ms=");
        encode::millis(line, upstream_time);
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
    use crate::observe::log_writer::{SinkStats, Target, tests::file_sink};

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
            user_agent: Some(
                b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
            ),
        }
    }

    fn json_line(entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        json(&mut line, entry);
        String::from_utf8(line).unwrap()
    }

    fn text_line(entry: &Entry<'_>) -> String {
        let mut line = Vec::new();
        text(&mut line, entry);
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
            let log = AccessLog::new(Arc::clone(&sink), Format::Json, sample);
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
        let log = AccessLog::new(Arc::new(sink), Format::Json, 1.0);
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

    /// `cargo test --release -- --ignored --nocapture cost`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_record() {
        let stats = Arc::<SinkStats>::default();
        let null = Target::File("/dev/null".into());
        let directory = tempfile::tempdir().unwrap();
        let file = Target::File(directory.path().join("access.log"));
        for (name, target) in [("/dev/null", null), ("file", file)] {
            let log = AccessLog::new(
                Arc::new(LineSink::open(&target, 64 << 20, Arc::clone(&stats)).unwrap()),
                Format::Json,
                1.0,
            );
            let (AccessLog { destination: Some((sink, _)), .. }, entry) = (&log, entry()) else {
                unreachable!()
            };
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
            json(&mut line, std::hint::black_box(&entry()));
        }
        println!("formatting alone: {:?}, {} bytes", start.elapsed() / 1_000_000, line.len());
    }
}
