//! W3C's contexts through the gateway, as a client may write them: what is continued, what begins anew, and what goes on. The
//! rules are those of Trace Context, level 2, sections 3.2 and 3.3, and of its validation suite.

use super::{CALLER, Origin, Seen, TRACE, yaml};
use crate::support::{Gateway, RawConnection};

/// A client whose every byte the test chooses, and what its requests become.
struct Through<'a> {
    client: RawConnection,
    origin: &'a Origin,
}

impl Through<'_> {
    /// Sends these lines of a head, and returns what the upstream saw.
    fn send(&mut self, fields: &[&[u8]]) -> Seen {
        let before = self.origin.requests();
        let fields: Vec<u8> = fields.iter().flat_map(|field| [*field, b"\r\n"].concat()).collect();
        self.client.write([&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &*fields, b"\r\n"].concat());
        let answer = self.client.read_response();
        assert_eq!(answer.status, 200, "{}: {answer:?}", fields.escape_ascii());
        assert_eq!(self.origin.requests(), before + 1);
        self.origin.seen().pop().unwrap()
    }
}

async fn gateway(origin: &Origin, tracing: &str) -> Gateway {
    let yaml = yaml("upstream: u", &[("u", &[origin], "")]);
    Gateway::start(&format!("{yaml}tracing: {tracing}\n")).await
}

fn through<'a>(gateway: &Gateway, origin: &'a Origin) -> Through<'a> {
    Through { client: RawConnection::open(gateway.address("main")), origin }
}

/// Whether the trace goes on. What is sent is well-formed in any case, and has an id of its own.
fn goes_on(seen: &Seen, what: &str) -> bool {
    let values: Vec<_> = seen.headers.get_all("traceparent").iter().collect();
    let [value] = values[..] else { panic!("{what}: {values:?}") };
    let value = value.to_str().unwrap();
    let parts: Vec<&str> = value.split('-').collect();
    let digits = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{what}: {value}");
    assert!(parts.iter().all(|part| digits(part)) && parts[0] == "00", "{what}: {value}");
    assert!(parts[1].bytes().any(|digit| digit != b'0') && parts[2].bytes().any(|digit| digit != b'0'));
    assert_ne!(parts[2], CALLER, "{what}: our span has an id of its own");
    parts[1] == TRACE
}

/// TRACE and CALLER, with what stands around them.
fn parent(before: &str, between: &str, after: &str) -> Vec<u8> {
    format!("{before}{TRACE}{between}{CALLER}{after}").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_traceparent_goes_on_and_any_other_begins_a_new_trace() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{}").await;
    let mut through = through(&gateway, &origin);
    let upper = |value: Vec<u8>| value.to_ascii_uppercase();
    let good = || parent("00-", "-", "-01");
    let field = |value: Vec<u8>| vec![[&b"traceparent: "[..], &value[..]].concat()];
    let named = |name: &str| vec![[name.as_bytes(), b": ", &good()].concat()];
    for (what, fields, goes) in [
        ("as it should be", field(good()), true),
        ("not sampled", field(parent("00-", "-", "-00")), true),
        ("unknown flags", field(parent("00-", "-", "-fc")), true),
        ("name in mixed letters", named("TraceParent"), true),
        ("name in capitals", named("TRACEPARENT"), true),
        ("spaces around it", vec![[&b"traceparent: \t "[..], &*good(), b" \t "].concat()], true),
        ("no space before it", vec![[&b"traceparent:"[..], &*good()].concat()], true),
        ("another name", named("trace-parent"), false),
        ("yet another name", named("trace.parent"), false),
        ("two fields", [field(good()), field(good())].concat(), false),
        ("two fields that differ", [field(good()), field(parent("00-", "-", "-00"))].concat(), false),
        ("empty", field(vec![]), false),
        // Versions.
        ("ff", field(parent("ff-", "-", "-01")), false),
        ("a later version", field(parent("cc-", "-", "-01")), true),
        ("a later version that says more", field(parent("cc-", "-", "-01-what-the-future-brings")), true),
        ("a later version with an empty end", field(parent("cc-", "-", "-01-")), true),
        ("a later version that says it wrongly", field(parent("cc-", "-", "-01.what")), false),
        ("version 00 that says more", field(parent("00-", "-", "-01-what-the-future-brings")), false),
        ("56 bytes", field(parent("00-", "-", "-01-")), false),
        ("a dot after it", field(parent("00-", "-", "-01.")), false),
        ("54 bytes", field(parent("00-", "-", "-0")), false),
        ("version of one digit", field(parent("0-", "-", "-01")), false),
        ("version of three digits", field(parent("000-", "-", "-01")), false),
        ("version of four digits", field(parent("0000-", "-", "-01")), false),
        ("version with a dot", field(parent(".0-", "-", "-01")), false),
        ("version with a dot at its end", field(parent("0.-", "-", "-01")), false),
        ("version in capitals", field(parent("CC-", "-", "-01")), false),
        // Ids.
        ("capitals", field(upper(good())), false),
        ("a trace of zeros", field(format!("00-{}-{CALLER}-01", "0".repeat(32)).into()), false),
        ("a span of zeros", field(format!("00-{TRACE}-{}-01", "0".repeat(16)).into()), false),
        ("a trace with a dot", field(format!("00-.{}-{CALLER}-01", &TRACE[1..]).into()), false),
        ("a trace with a dot at its end", field(format!("00-{}.-{CALLER}-01", &TRACE[..31]).into()), false),
        ("a trace of 33 digits", field(parent("00-", "1-", "-01")), false),
        ("a trace of 31 digits", field(format!("00-{}-{CALLER}-01", &TRACE[1..]).into()), false),
        ("a span with a dot", field(format!("00-{TRACE}-.{}-01", &CALLER[1..]).into()), false),
        ("a span of 17 digits", field(parent("00-", "-", "1-01")), false),
        ("a span of 15 digits", field(format!("00-{TRACE}-{}-01", &CALLER[1..]).into()), false),
        // Flags, and what parts them.
        ("flags with a dot", field(parent("00-", "-", "-.0")), false),
        ("flags with a dot at their end", field(parent("00-", "-", "-0.")), false),
        ("flags of three digits", field(parent("00-", "-", "-001")), false),
        ("flags in capitals", field(parent("00-", "-", "-0A")), false),
        ("underscores", field(parent("00_", "_", "_01")), false),
        ("not ASCII", field([&parent("00-", "-", "-0")[..], b"\xe9"].concat()), false),
        ("UTF-8", field([&parent("00-", "-", "-")[..], "é".as_bytes()].concat()), false),
    ] {
        let lines: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        assert_eq!(goes_on(&through.send(&lines), what), goes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_go_on_as_far_as_they_are_known() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{}").await;
    let mut through = through(&gateway, &origin);
    for (came, sent) in
        [("00", "-00"), ("01", "-01"), ("02", "-02"), ("03", "-03"), ("fc", "-00"), ("ff", "-03")]
    {
        let field = [&b"traceparent: "[..], &*parent("00-", "-", &format!("-{came}"))].concat();
        let seen = through.send(&[&field]);
        assert!(seen.header("traceparent").unwrap().ends_with(sent), "{came}: {seen:?}");
    }
    assert!(through.send(&[]).header("traceparent").unwrap().ends_with("-03"), "a random id of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracestate_goes_on_as_one_field_or_not_at_all() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{}").await;
    let mut through = through(&gateway, &origin);
    let traceparent = [&b"traceparent: "[..], &*parent("00-", "-", "-00")].concat();
    let members = |count: usize| (0..count).map(|n| format!("m{n}={n}")).collect::<Vec<_>>().join(",");
    let key: String = ('a'..='z').chain('0'..='9').chain("_-*/".chars()).collect();
    let value: String = (' '..='~').filter(|c| !matches!(c, ',' | '=')).collect();
    let all = format!("{key}={value}");
    let vendor = format!("{key}@a-z0-9_-*/={value}");
    let many_bytes = (0..32).map(|n| format!("m{n}={}", "v".repeat(250))).collect::<Vec<_>>().join(",");
    let long_key = |length: usize| format!("foo=1,{}=1", "k".repeat(length));
    let long_value = |length: usize| format!("foo={}", "v".repeat(length));
    let same = |value: String| (vec![value.clone()], Some(value));
    let to = |fields: &[&str], sent: &str| {
        (fields.iter().map(ToString::to_string).collect(), Some(sent.to_owned()))
    };
    let void = |value: &str| (vec![value.to_owned()], None);
    for (fields, sent) in [
        same("foo=1,bar=2".into()),
        to(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        to(&["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        to(&["\t foo=1 \t"], "foo=1"),
        // Empty members and fields are none.
        (vec![String::new()], None),
        void(" ,\t, "),
        to(&["foo=1", ""], "foo=1"),
        to(&["", "foo=1"], "foo=1"),
        to(&["foo=1,,bar=2,"], "foo=1,bar=2"),
        // Whatever a key and a value may be.
        same(all),
        same(vendor),
        same("foo@@bar=1,bar=2".into()),
        same("1a-2f@foo=bar".into()),
        same(long_key(256)),
        same(long_value(256)),
        same(members(32)),
        same(many_bytes),
        void(&members(33)),
        // A key that comes twice.
        void("foo=1,foo=1"),
        void("foo=1,bar=2,foo=2"),
        (vec!["foo=1".into(), "foo=1".into()], None),
        (vec!["foo=1".into(), "foo=2".into()], None),
        // One bad member, and nothing goes on.
        void("foo =1"),
        void("FOO=1"),
        void("foo.bar=1"),
        void("@foo=1,bar=2"),
        void("foo=bar=baz"),
        void("foo=,bar=3"),
        void("=1"),
        void("foo"),
        void("foo=1,b\u{e4}r=2"),
        void("foo=\u{9b}31m"),
        void(&long_key(257)),
        void(&long_value(257)),
        void(&long_value(10_000)),
    ] {
        let fields: Vec<String> = fields;
        let mut lines = vec![traceparent.clone()];
        lines.extend(fields.iter().map(|field| format!("tracestate: {field}").into_bytes()));
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let seen = through.send(&lines);
        assert_eq!(seen.header("tracestate"), sent.as_deref(), "{fields:?}");
        assert_eq!(seen.headers.get_all("tracestate").iter().count(), usize::from(sent.is_some()));
        assert!(goes_on(&seen, &format!("{fields:?}")), "the trace goes on whatever its state: {fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracestate_is_known_by_its_name_alone_and_counts_beside_a_traceparent() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{}").await;
    let mut through = through(&gateway, &origin);
    let traceparent = [&b"Traceparent: "[..], &*parent("00-", "-", "-00")].concat();
    for name in ["tracestate", "TraceState", "TRACESTATE"] {
        let seen = through.send(&[&traceparent, format!("{name}: foo=1").as_bytes()]);
        assert_eq!(seen.header("tracestate"), Some("foo=1"), "{name}");
    }
    for name in ["trace-state", "trace.state"] {
        let seen = through.send(&[&traceparent, format!("{name}: foo=1").as_bytes()]);
        assert_eq!(seen.header("tracestate"), None, "{name}");
    }
    let broken = [&traceparent[..], b"."].concat();
    for fields in
        [&[&b"tracestate: foo=1"[..]][..], &[b"tracestate: foo=1,bar=2"], &[&broken, b"tracestate: foo=1"]]
    {
        let seen = through.send(fields);
        assert_eq!(seen.header("tracestate"), None, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_trace_goes_on_with_an_id_of_its_own() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{}").await;
    let mut through = through(&gateway, &origin);
    let zeros = format!("traceparent: 00-{}-{CALLER}-01", "0".repeat(32)).into_bytes();
    let good = [&b"traceparent: "[..], &*parent("00-", "-", "-01")].concat();
    for (fields, goes) in [(&[&*good][..], true), (&[], false), (&[&*zeros], false)] {
        let mut spans: Vec<String> = Vec::new();
        for _ in 0..3 {
            let seen = through.send(fields);
            assert_eq!(goes_on(&seen, "one of three"), goes);
            spans.push(seen.header("traceparent").unwrap()[36..52].to_owned());
        }
        spans.sort();
        spans.dedup();
        assert_eq!(spans.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baggage_beyond_its_limits_goes_no_further() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin, "{propagate: [w3c, baggage]}").await;
    let mut through = through(&gateway, &origin);
    let of = |bytes: usize| format!("k={}", "v".repeat(bytes - 2));
    let members = |count: usize| vec!["k=v"; count].join(",");
    for (baggage, goes) in [(of(8192), true), (of(8193), false), (members(64), true), (members(65), false)] {
        let seen = through.send(&[format!("baggage: {baggage}").as_bytes()]);
        assert_eq!(seen.header("baggage"), goes.then_some(&*baggage), "{} bytes", baggage.len());
    }
}
