//! Nanoseconds that the end of a request takes: counting it in the metrics, and writing its line of the default access log.
//! Run with `cargo bench --bench telling`. `bench/run --profile telling` has the line's share of a whole request.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tidegate::observe::{
    Format, Recorder,
    access::{Entry, Shape},
    log_writer::{LineSink, Target},
    metrics::{Metrics, RequestEnd},
    recorder::AccessSettings,
    syslog::Lookup,
};

const ROUNDS: usize = 15;
const REQUESTS: u32 = 100_000;
/// What a round of lines needs, so that none is dropped.
const BUFFER: usize = 256 * 1024 * 1024;

fn main() {
    let metrics = Arc::new(Metrics::new("bench"));
    println!("{:>24} {:>8}", "", "ns");
    println!("{:>24} {:>8.0}", "metrics", counted(&metrics));
    println!("{:>24} {:>8.0}", "access line", written(metrics));
}

/// As a request to an upstream is counted: by its route, its upstream, and its attempt.
fn counted(metrics: &Metrics) -> f64 {
    let listener = metrics.listener("main");
    let (route, upstream) = (metrics.route("r", Some("u")), metrics.upstream("u"));
    median(|n| {
        let duration = Duration::from_micros(u64::from(n % 4096));
        route.record(&RequestEnd {
            listener: &listener,
            status: 200,
            method: "GET",
            duration,
            first_byte: Some(duration),
            sizes: Some((0, 105)),
            exemplar: None,
        });
        upstream.record(duration, None);
        upstream.connected(true);
    })
}

fn written(metrics: Arc<Metrics>) -> f64 {
    let directory = tempfile::TempDir::new().expect("a directory");
    let lookup: Lookup = Arc::new(|_| Err(std::io::ErrorKind::NotFound.into()));
    let stderr = LineSink::open(&Target::Stderr, 0, metrics.lines(), &lookup).expect("stderr is open");
    let recorder = Recorder::new(metrics, Arc::new(stderr), lookup);
    let settings = AccessSettings {
        targets: vec![Target::File(directory.path().join("access.log"))],
        shape: Shape::plain(Format::Json),
        records: false,
        buffer: BUFFER,
    };
    recorder.set_access(&settings).expect("the file can be written");
    let entry = Entry {
        listener: "main",
        route: Some("r"),
        upstream: Some("u"),
        endpoint: Some("127.0.0.1:9001"),
        method: "GET",
        host: Some("shop.example"),
        path: "/orders/4711",
        status: 200,
        attempts: 1,
        bytes_out: 105,
        duration: Duration::from_micros(733),
        upstream_time: Some(Duration::from_micros(690)),
        client: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        protocol: "HTTP/1.1",
        user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ..Entry::at(SystemTime::now())
    };
    let access = recorder.access();
    let took = median(|_| access.write(&Entry { ts: SystemTime::now(), ..entry }));
    recorder.flush(Duration::from_secs(30));
    took
}

/// Nanoseconds that one takes.
fn median(one: impl Fn(u32)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for n in 0..REQUESTS {
                one(black_box(n));
            }
            start.elapsed().as_nanos() as f64 / f64::from(REQUESTS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
