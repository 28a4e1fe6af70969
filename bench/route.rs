//! Nanoseconds per route lookup in tables of 10, 1,000 and 10,000 routes, and the same by asking every rule in turn.
//! Run with `cargo bench --bench route`.

use std::{hint::black_box, time::Instant};

use http::{HeaderMap, Method};
use tidegate::route::{HostPattern, Outcome, PathPattern, Request, Rule, Table, normalise};

const ROUNDS: usize = 15;
/// Hosts and paths of requests, all of which match; more than any cache of ours would hold.
const REQUESTS: usize = 4096;

struct Sample {
    host: String,
    path: String,
}

fn main() {
    let headers = HeaderMap::new();
    println!("{:>8} {:>14} {:>14} {:>16}", "routes", "table ns", "normalise ns", "every rule ns");
    for size in [10, 1_000, 10_000] {
        let rules: Vec<Rule> = (0..size).map(rule).collect();
        let mut rng = fastrand::Rng::with_seed(7);
        let samples: Vec<Sample> = (0..REQUESTS).map(|_| sample(&mut rng, size)).collect();
        let requests: Vec<Request<'_>> = samples
            .iter()
            .map(|Sample { host, path }| Request {
                host,
                path,
                query: None,
                method: &Method::GET,
                headers: &headers,
            })
            .collect();
        let table = Table::compile(rules.clone()).expect("no two rules are alike");
        for (sample, request) in samples.iter().zip(&requests) {
            let Outcome::Found { id, .. } = table.find(request) else {
                panic!("no route for {}", sample.path)
            };
            assert_eq!(Some(id), every_rule(&rules, request), "{} {}", sample.host, sample.path);
        }

        let by_table = median_ns(&requests, |request| matches!(table.find(request), Outcome::Found { .. }));
        let normalising = median_ns(&requests, |request| normalise(request.path).is_ok());
        // A few are enough to see the scale of a linear scan.
        let by_rule = median_ns(&requests[..64], |request| every_rule(&rules, request).is_some());
        println!("{size:>8} {by_table:>14.0} {normalising:>14.0} {by_rule:>16.0}");
    }
}

/// Four kinds of path on three kinds of host, evenly mixed.
fn rule(id: usize) -> Rule {
    let path = match id % 4 {
        0 => PathPattern::exact(&format!("/api/v1/service{id}/status")),
        1 | 2 => PathPattern::prefix(&format!("/api/v1/service{id}")),
        _ => PathPattern::template(&format!("/api/v1/service{id}/users/{{user}}/orders/{{order}}")),
    };
    let host = match id % 3 {
        0 => Some(format!("shop{}.example.com", id % 100)),
        1 => Some(format!("*.zone{}.example.com", id % 100)),
        _ => None,
    };
    let host = host.map(|text| HostPattern::parse(&text).expect("a host name"));
    Rule {
        id,
        hosts: host.into_iter().collect(),
        path: path.expect("a path"),
        methods: if id.is_multiple_of(2) { vec![Method::GET, Method::POST] } else { vec![] },
        headers: vec![],
        query: vec![],
        not: vec![],
        any: vec![],
    }
}

fn sample(rng: &mut fastrand::Rng, size: usize) -> Sample {
    let id = rng.usize(..size);
    let path = match id % 4 {
        0 => format!("/api/v1/service{id}/status"),
        1 | 2 => format!("/api/v1/service{id}/items/{}", rng.u16(..)),
        _ => format!("/api/v1/service{id}/users/{}/orders/{}", rng.u16(..), rng.u16(..)),
    };
    let host = match id % 3 {
        0 => format!("shop{}.example.com", id % 100),
        1 => format!("api.zone{}.example.com", id % 100),
        _ => "www.example.org".to_owned(),
    };
    Sample { host, path }
}

/// What a gateway without a table does. The rules here need no ranking: only one of them matches.
fn every_rule(rules: &[Rule], request: &Request<'_>) -> Option<usize> {
    let matches = |rule: &&Rule| {
        (rule.hosts.is_empty() || rule.hosts.iter().any(|host| host.matches(request.host)))
            && rule.path.matches(request.path)
            && (rule.methods.is_empty() || rule.methods.contains(request.method))
    };
    rules.iter().find(matches).map(|rule| rule.id)
}

fn median_ns(requests: &[Request<'_>], lookup: impl Fn(&Request<'_>) -> bool) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for request in requests {
                black_box(lookup(black_box(request)));
            }
            start.elapsed().as_nanos() as f64 / requests.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
