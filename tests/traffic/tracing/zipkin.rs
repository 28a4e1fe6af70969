//! B3 as Zipkin's instrumentation sends it: what is understood, what is not, and what goes on, in both forms.

use super::{CALLER, Client, Origin, Seen, TRACE, yaml};
use crate::support::Gateway;

/// Fields of B3, and what goes on: the trace's id (`None` for a new one), and the decision in one letter.
type Case = (&'static [(&'static str, &'static str)], Option<&'static str>, &'static str);

const SHORT: &str = "64fe8b2a57d3eff7";
const PADDED: &str = "000000000000000064fe8b2a57d3eff7";
const ID: &str = "x-b3-traceid";
const SPAN: &str = "x-b3-spanid";
const SAMPLED: &str = "x-b3-sampled";
const FLAGS: &str = "x-b3-flags";

const CASES: &[Case] = &[
    // Ids of 128 and of 64 bits, in both cases of letters.
    (&[(ID, TRACE), (SPAN, CALLER), (SAMPLED, "1")], Some(TRACE), "1"),
    (&[(ID, SHORT), (SPAN, CALLER), (SAMPLED, "0")], Some(PADDED), "0"),
    (&[(ID, "64FE8B2A57D3EFF7"), (SPAN, "00F067AA0BA902B7"), (SAMPLED, "1")], Some(PADDED), "1"),
    (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")], Some(TRACE), "1"),
    (&[("b3", "64fe8b2a57d3eff7-00f067aa0ba902b7-0-05e3ac9a4f6e3b90")], Some(PADDED), "0"),
    // The decision is ours where there is none, and all are sampled here.
    (&[(ID, TRACE), (SPAN, CALLER)], Some(TRACE), "1"),
    (&[("b3", "64fe8b2a57d3eff7-00f067aa0ba902b7")], Some(PADDED), "1"),
    // A decision alone.
    (&[("b3", "0")], None, "0"),
    (&[("b3", "1")], None, "1"),
    (&[("b3", "d")], None, "d"),
    (&[(FLAGS, "1")], None, "d"),
    (&[(SAMPLED, "0")], None, "0"),
    (&[(SAMPLED, "false")], None, "0"),
    // Debug, and what contradicts it.
    (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d")], Some(TRACE), "d"),
    (&[(ID, TRACE), (SPAN, CALLER), (FLAGS, "1")], Some(TRACE), "d"),
    (&[(ID, TRACE), (SPAN, CALLER), (FLAGS, "1"), (SAMPLED, "0")], Some(TRACE), "d"),
    // Both forms at once: the one that stands first in `propagate`.
    (
        &[
            ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"),
            (ID, SHORT),
            (SPAN, CALLER),
            (SAMPLED, "1"),
        ],
        Some(TRACE),
        "0",
    ),
    (&[("b3", "rubbish"), (ID, SHORT), (SPAN, CALLER), (SAMPLED, "1")], Some(PADDED), "1"),
    // What is no context.
    (&[(ID, TRACE), (ID, TRACE), (SPAN, CALLER), (SAMPLED, "1")], None, "1"),
    (&[(ID, TRACE), (SAMPLED, "1")], None, "1"),
    (&[(SPAN, CALLER), (SAMPLED, "1")], None, "1"),
    (&[(ID, "00000000000000000000000000000000"), (SPAN, CALLER)], None, "1"),
    (&[(ID, TRACE), (SPAN, "0000000000000000")], None, "1"),
    (&[(ID, "4bf92f3577b34da6a3ce929d0e0e473"), (SPAN, CALLER)], None, "1"),
    (&[(ID, "4bf92f3577b34da6a3ce929d0e0e47360"), (SPAN, CALLER)], None, "1"),
    (&[(ID, "{bf92f3577b34da6a3ce929d0e0e4736"), (SPAN, CALLER)], None, "1"),
    (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-2")], None, "1"),
    (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-x")], None, "1"),
    (&[("b3", "-")], None, "1"),
    (&[("b3", "")], None, "1"),
];

fn check(seen: &Seen, (fields, trace, decision): &Case) {
    let single: Vec<&str> = seen.header("b3").unwrap().split('-').collect();
    match trace {
        Some(trace) => assert_eq!((single[0], single[3]), (*trace, CALLER), "{fields:?}"),
        None => {
            assert_eq!((single[0].len(), single.len()), (32, 3), "a root, which names no caller: {fields:?}");
            assert!(![TRACE, PADDED].contains(&single[0]), "{fields:?}");
        }
    }
    assert_ne!(single[1], CALLER, "{fields:?}");
    assert_eq!(single[2], *decision, "{fields:?}");
    // The other form says the same, and nothing twice.
    assert_eq!((seen.header(ID), seen.header(SPAN)), (Some(single[0]), Some(single[1])), "{fields:?}");
    assert_eq!(seen.header("x-b3-parentspanid"), single.get(3).copied(), "{fields:?}");
    let (sampled, flags) = if *decision == "d" { (None, Some("1")) } else { (Some(*decision), None) };
    assert_eq!((seen.header(SAMPLED), seen.header(FLAGS)), (sampled, flags), "{fields:?}");
    for name in [ID, SPAN, SAMPLED, FLAGS, "b3", "x-b3-parentspanid"] {
        assert!(seen.headers.get_all(name).iter().count() <= 1, "{name} {fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_write_b3_is_understood_or_begins_a_new_trace() {
    let origin = Origin::start().await;
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let gateway = Gateway::start(&format!("{yaml}tracing: {{propagate: [b3_single, b3]}}\n")).await;
    let mut client = Client::new(&gateway);
    for case in CASES {
        client.send("GET", "/", case.0, "").await.assert_status(200);
        check(origin.seen().last().unwrap(), case);
    }
}
