//! Nanoseconds that a `jwt` filter adds to a request: for tokens that were verified before, and for those that were not.
//! Run with `cargo bench --bench jwt`.

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::FutureExt;
use openssl::{
    hash::MessageDigest,
    pkey::{PKey, Private},
    rsa::Rsa,
    sign::Signer,
};
use pingora_http::RequestHeader;
use tidegate::{
    config,
    filter::{self, Chain, Decided, Exchange, Facts, Flow, Live},
};

const ROUNDS: usize = 15;
const REQUESTS: usize = 1000;
const SECRET: &str = "a-secret-of-sixty-four-bytes-that-is-long-enough-for-every-hash!";

fn main() {
    let rsa = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
    let directory = tempfile::TempDir::new().expect("a directory");
    let pem = directory.path().join("key.pem");
    fs::write(&pem, rsa.public_key_to_pem().expect("PEM")).expect("written");
    let secret = PKey::hmac(SECRET.as_bytes()).expect("a key");
    println!("{:>8} {:>16} {:>22} {:>16}", "", "one token ns", "1,000 tokens ns", "not cached ns");
    for (name, key, keys) in [
        ("RS256", &rsa, format!("public_key: {}", pem.display())),
        ("HS256", &secret, format!("secret: {SECRET}")),
    ] {
        let tokens: Vec<String> = (0..REQUESTS).map(|n| token(name, key, n)).collect();
        let one = vec![tokens[0].clone(); REQUESTS];
        let cached = chain(&keys, 100_000);
        let (hit, hits) = (median_ns(&cached, &one), median_ns(&cached, &tokens));
        let miss = median_ns(&chain(&keys, 0), &tokens);
        println!("{name:>8} {hit:>16.0} {hits:>22.0} {miss:>16.0}");
    }
}

fn chain(keys: &str, cache_entries: usize) -> Chain {
    let yaml = format!(
        "filters:\n  auth:\n    - jwt: {{keys: {{{keys}}}, issuer: 'https://a.test', audience: [api], \
         forward_claims: {{sub: x-user-id}}, cache_entries: {cache_entries}}}\n"
    );
    let loaded = config::parse(&yaml, "bench").unwrap_or_else(|problems| panic!("{problems}"));
    let at = config::Path::root().key("filters").key("auth");
    let mut problems = Vec::new();
    let uses = &loaded.readable().filters["auth"];
    let chain =
        filter::build_chain(uses, &at, &Live::offline(), &loaded.sources, &BTreeMap::new(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    chain
}

/// As issuers make them: about 700 bytes with RS256.
fn token(algorithm: &str, key: &PKey<Private>, n: usize) -> String {
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()) + 3600;
    let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"2026-11"}}"#);
    let claims = format!(
        r#"{{"iss":"https://a.test","aud":["api"],"sub":"user-{n:08}","exp":{exp},"iat":{},"scope":"read write",
        "email":"user-{n:08}@example.com","name":"Some User","roles":["reader","writer"],"sid":"{n:032x}"}}"#,
        exp - 3600
    );
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut signer = Signer::new(MessageDigest::sha256(), key).expect("a signer");
    let signature = signer.sign_oneshot_to_vec(message.as_bytes()).expect("signed");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn median_ns(chain: &Chain, tokens: &[String]) -> f64 {
    let requests: Vec<RequestHeader> = tokens
        .iter()
        .map(|token| {
            let mut request = RequestHeader::build("GET", b"/api/orders/7", None).expect("a request");
            for (name, value) in [
                ("host", "api.example.com".to_owned()),
                ("user-agent", "bench/1".to_owned()),
                ("accept", "*/*".to_owned()),
                ("authorization", format!("Bearer {token}")),
            ] {
                request.insert_header(name, value).expect("a header");
            }
            request
        })
        .collect();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let mut requests = requests.clone();
            let mut facts = Facts::default();
            let start = Instant::now();
            for request in &mut requests {
                facts.proven.clear();
                let mut exchange = Exchange::new(request, &mut facts);
                let flow = chain.on_request(Decided::default(), &mut exchange).now_or_never();
                assert!(matches!(black_box(flow), Some(Ok(Flow::Continue))));
            }
            start.elapsed().as_nanos() as f64 / tokens.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
