//! Every hostcall with whatever numbers a plugin may hand to it, in every phase of a request.

use std::{cell::OnceCell, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method};
use proptest::prelude::*;
use serde_json::json;

use super::{
    fuzzing::{check, request, response},
    view::{Lent, Phase},
};
use crate::{
    filter::{Exchange, Facts},
    observe::metrics::Metrics,
    plugin::{Change, Failure, Host, Map, Root, Side, Sought, Status, Turn, View},
};

/// Names, and what each takes: `i` has four bytes, `l` eight.
const CALLS: &[(&str, &str)] = &[
    ("proxy_log", "iii"),
    ("proxy_get_log_level", "i"),
    ("proxy_get_current_time_nanoseconds", "i"),
    ("proxy_set_tick_period_milliseconds", "i"),
    ("proxy_get_buffer_bytes", "iiiii"),
    ("proxy_set_buffer_bytes", "iiiii"),
    ("proxy_get_buffer_status", "iii"),
    ("proxy_get_configuration", "ii"),
    ("proxy_get_header_map_pairs", "iii"),
    ("proxy_set_header_map_pairs", "iii"),
    ("proxy_get_header_map_value", "iiiii"),
    ("proxy_add_header_map_value", "iiiii"),
    ("proxy_replace_header_map_value", "iiiii"),
    ("proxy_remove_header_map_value", "iii"),
    ("proxy_get_header_map_size", "ii"),
    ("proxy_get_property", "iiii"),
    ("proxy_set_property", "iiii"),
    ("proxy_continue_stream", "i"),
    ("proxy_continue_request", ""),
    ("proxy_continue_response", ""),
    ("proxy_clear_route_cache", ""),
    ("proxy_send_local_response", "iiiiiiii"),
    ("proxy_get_status", "iii"),
    ("proxy_set_effective_context", "i"),
    ("proxy_done", ""),
    ("proxy_get_shared_data", "iiiii"),
    ("proxy_set_shared_data", "iiiii"),
    ("proxy_register_shared_queue", "iii"),
    ("proxy_resolve_shared_queue", "iiiii"),
    ("proxy_enqueue_shared_queue", "iii"),
    ("proxy_dequeue_shared_queue", "iii"),
    ("proxy_define_metric", "iiii"),
    ("proxy_increment_metric", "il"),
    ("proxy_record_metric", "il"),
    ("proxy_get_metric", "ii"),
    ("proxy_call_foreign_function", "iiiiii"),
    ("proxy_http_call", "iiiiiiiiii"),
    ("proxy_grpc_call", "iiiiiiiiiiii"),
    ("proxy_grpc_stream", "iiiiiiiii"),
    ("proxy_grpc_send", "iiii"),
    ("proxy_grpc_cancel", "i"),
    ("proxy_grpc_close", "i"),
];

/// Reads the property `args`: which call, its numbers, and bytes that they may point to.
fn module() -> Vec<u8> {
    let (mut imports, mut cases) = (String::new(), String::new());
    for (at, (name, takes)) in CALLS.iter().enumerate() {
        let types: Vec<&str> = takes.chars().map(|c| if c == 'i' { "i32" } else { "i64" }).collect();
        let loads =
            types.iter().enumerate().map(|(n, kind)| format!("({kind}.load (i32.const {}))", 1028 + 4 * n));
        let loads = loads.collect::<Vec<_>>().join(" ");
        let types = types.join(" ");
        imports += &format!("(import \"env\" \"{name}\" (func $f{at} (param {types}) (result i32)))\n");
        cases +=
            &format!("(if (i32.eq (local.get 0) (i32.const {at})) (then (drop (call $f{at} {loads}))))\n");
    }
    let property = CALLS.iter().position(|(name, _)| *name == "proxy_get_property").unwrap();
    let text = format!(
        r#"(module {imports}
        (memory (export "memory") 2)
        (data (i32.const 8) "args")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 65536))
        (func $any (local i32)
          (if (call $f{property} (i32.const 8) (i32.const 4) (i32.const 16) (i32.const 20)) (then (return)))
          (memory.copy (i32.const 1024) (i32.load (i32.const 16)) (i32.load (i32.const 20)))
          (local.set 0 (i32.load (i32.const 1024)))
          {cases})
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $any) (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $any) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $any) (i32.const 0))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $any) (i32.const 0))
        (func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (call $any) (i32.const 0)))"#
    );
    wat::parse_str(text).unwrap()
}

fn root() -> Arc<Root> {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("any.wasm");
    std::fs::write(&file, module()).unwrap();
    let written = json!({"file": file, "instances": 1, "upstreams": ["u"], "limits": {"shared": "64KiB"}});
    let written = serde_json::from_value(written).unwrap();
    let sought = Sought { file, state_dir: None, threads: 1, is_trial: false };
    let entry = Host::default().load("any", &written, sought, &Metrics::new(""));
    let entry = entry.unwrap_or_else(|refused| panic!("{}", refused.message));
    entry.open(None).unwrap().unwrap()
}

const TURNS: [(Phase, Turn); 5] = [
    (Phase::RequestHeaders, Turn::RequestHeaders { count: 5, is_last: false }),
    (Phase::RequestBody, Turn::RequestBody { size: 6, is_last: true }),
    (Phase::ResponseHeaders, Turn::ResponseHeaders { count: 2, is_last: false }),
    (Phase::ResponseBody, Turn::ResponseBody { size: 6, is_last: true }),
    (Phase::ResponseTrailers, Turn::ResponseTrailers { count: 0 }),
];

/// Pointers and lengths that mean something, and any others.
fn number() -> impl Strategy<Value = i32> {
    prop_oneof![3 => 0..8_i32, 3 => 1080..1200_i32, 1 => 0..200_000_i32, 1 => any::<i32>(), 1 => Just(-1)]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"request\0path".to_vec()),
        Just(b"x-mine\0:path\0u\0compress".to_vec()),
        Just([&[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], b"a\0b\0"].concat()),
        proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

#[test]
fn pairs_of_which_one_is_refused_change_nothing() {
    let (mut request, mut facts) = (request(), Facts::default());
    let mut exchange = Exchange::new(&mut request, &mut facts);
    let mut lent = Lent::of(&mut exchange, Phase::RequestHeaders);
    let pairs: [(&[u8], &[u8]); 3] = [(b":path", b"/good"), (b"x-new", b"1"), (b":method", b"no method")];
    let changed = lent.change(Map::Headers(Side::Request), Change::All(&pairs));
    assert_eq!((changed, lent.request.raw_path()), (Err(Status::BadArgument), &b"/a?b"[..]));
    assert!(lent.request.headers.contains_key("x-mine") && !lent.request.headers.contains_key("x-new"));
}

#[test]
fn a_method_may_be_another_unless_either_is_head() {
    for (from, to, expected) in [
        ("POST", "PUT", Ok(())),
        ("HEAD", "HEAD", Ok(())),
        ("HEAD", "GET", Err(Status::BadArgument)),
        ("GET", "HEAD", Err(Status::BadArgument)),
    ] {
        let (mut request, mut facts) = (request(), Facts::default());
        request.set_method(Method::from_bytes(from.as_bytes()).unwrap());
        let mut exchange = Exchange::new(&mut request, &mut facts);
        let mut lent = Lent::of(&mut exchange, Phase::RequestHeaders);
        let pairs: [(&[u8], &[u8]); 1] = [(b":method", to.as_bytes())];
        for change in [Change::Set(b":method", to.as_bytes()), Change::All(&pairs)] {
            assert_eq!(lent.change(Map::Headers(Side::Request), change), expected, "{from} {to}");
        }
        assert_eq!(lent.request.method, if expected.is_ok() { to } else { from });
    }
}

thread_local! {
    static ROOT: OnceCell<Arc<Root>> = const { OnceCell::new() };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_numbers_that_a_plugin_hands_over_harm_the_gateway_or_the_request(
        call in 0..CALLS.len(),
        numbers in proptest::collection::vec(number(), 13),
        text in text(),
        turn in 0..TURNS.len(),
    ) {
        let root = ROOT.with(|made| made.get_or_init(root).clone());
        let mut arguments = i32::try_from(call).unwrap().to_le_bytes().to_vec();
        numbers.iter().for_each(|number| arguments.extend(number.to_le_bytes()));
        arguments.extend(&text);
        let (mut request, mut response, mut facts) = (request(), response(), Facts::default());
        facts.authority = Some(HeaderValue::from_static("a.test"));
        prop_assert!(facts.properties.set(b"args".to_vec(), arguments));
        let mut exchange = Exchange::new(&mut request, &mut facts).answered(&mut response);
        let (phase, turn) = TURNS[turn];
        let mut lent = Lent::of(&mut exchange, phase);
        lent.part = Bytes::from_static(b"a part");
        let stream = root.enter().map_err(|failure| TestCaseError::fail(failure.text))?;
        let (verdict, view) = stream.take_turn(lent, turn);
        if let Err(Failure { text, .. }) = verdict {
            return Err(TestCaseError::fail(text));
        }
        let view = stream.end(view.unwrap()).unwrap();
        let view: Box<dyn std::any::Any> = view;
        let mut lent = view.downcast::<Lent>().unwrap();
        check(&lent);
        lent.give_back(&mut exchange);
        prop_assert!(exchange.request.uri.path().starts_with('/'));
    }
}
