//! What any bytes must do that a plugin hands to hostcalls; see `crate::fuzzing`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_http::{RequestHeader, ResponseHeader};

use super::view::{Lent, Phase};
use crate::{
    filter::{Exchange, Facts},
    plugin::{Change, Map, Side, View, pairs_of, read_pairs},
};

/// The first byte says in which phase, the second about which map. What follows are pairs, and a path of a property.
pub(crate) fn hostcalls(bytes: &[u8]) {
    let Some((&[phase, map], rest)) = bytes.split_first_chunk() else { return };
    let pairs = read_pairs(rest);
    if let Ok(pairs) = &pairs {
        assert!(
            pairs.len() <= 1024
                && pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= rest.len()
        );
        let again = pairs_of(pairs.iter().copied());
        assert_eq!(read_pairs(&again).as_ref(), Ok(pairs), "what is written again means the same");
    }
    let (mut request, mut response, mut facts) = (request(), response(), Facts::default());
    facts.authority = Some(HeaderValue::from_static("a.test"));
    let mut exchange = Exchange::new(&mut request, &mut facts).answered(&mut response);
    let mut lent = Lent::of(&mut exchange, PHASES[usize::from(phase) % PHASES.len()]);
    lent.part = Bytes::from_static(b"a part");
    let map = MAPS[usize::from(map) % MAPS.len()];
    let before = seen(&lent, map);
    let mut changes = vec![Change::Remove(rest), Change::Set(rest, b"value"), Change::Add(b"name", rest)];
    if let Ok(pairs) = &pairs {
        changes.extend(pairs.iter().map(|(name, value)| Change::Set(name, value)));
        changes.push(Change::All(pairs));
    }
    for change in changes {
        let _ = lent.change(map, change);
        check(&lent);
    }
    if !may_change(&lent, map) {
        assert_eq!(seen(&lent, map), before, "a map outside its phase stays as it is");
    }
    let path: Vec<&[u8]> = rest.split(|byte| *byte == 0).collect();
    let _ = lent.property(&path);
    if lent.set_property(rest.to_vec(), b"value".to_vec()).is_ok() {
        assert_eq!(lent.property(&path).as_deref(), Some(&b"value"[..]), "what was set is found");
    }
    lent.give_back(&mut exchange);
    assert!(exchange.request.uri.path().starts_with('/'));
}

const PHASES: [Phase; 7] = [
    Phase::RequestHeaders,
    Phase::RequestBody,
    Phase::RequestTrailers,
    Phase::ResponseHeaders,
    Phase::ResponseBody,
    Phase::ResponseTrailers,
    Phase::End,
];
const MAPS: [Map; 4] = [
    Map::Headers(Side::Request),
    Map::Headers(Side::Response),
    Map::Trailers(Side::Request),
    Map::Trailers(Side::Response),
];

/// Whatever a plugin does, a message can be read in one way.
pub(super) fn check(lent: &Lent) {
    let request = &lent.request;
    assert_eq!(lengths(&request.headers), ["5"], "a length is taken back, or stays");
    assert_eq!(request.headers.get_all(header::HOST).iter().count(), 1);
    assert!(
        !request.headers.contains_key(header::TRANSFER_ENCODING) && request.method != http::Method::CONNECT
    );
    assert!(request.uri.authority().is_none() && request.raw_path().starts_with(b"/"));
    if let Some(response) = &lent.response {
        assert!((200..=599).contains(&response.status.as_u16()));
        assert!(!response.headers.contains_key(header::TRANSFER_ENCODING));
    }
}

/// None is told that was not there before.
fn lengths(headers: &HeaderMap) -> Vec<&str> {
    let told = headers.get_all(header::CONTENT_LENGTH).iter().filter_map(|length| length.to_str().ok());
    let told: Vec<&str> = told.collect();
    if told.is_empty() { vec!["5"] } else { told }
}

fn may_change(lent: &Lent, map: Map) -> bool {
    match map {
        Map::Headers(Side::Request) => lent.phase == Phase::RequestHeaders,
        Map::Headers(Side::Response) => lent.phase == Phase::ResponseHeaders,
        Map::Trailers(Side::Request) => lent.phase == Phase::RequestTrailers,
        Map::Trailers(Side::Response) => lent.phase == Phase::ResponseTrailers,
    }
}

fn seen(lent: &Lent, map: Map) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let _ = lent.each(map, &mut |name, value| seen.push((name.to_vec(), value.to_vec())));
    seen
}

pub(super) fn request() -> RequestHeader {
    let mut request: RequestHeader =
        http::Request::post("/a?b").body(()).expect("it is one").into_parts().0.into();
    for (name, value) in [("host", "a.test"), ("content-length", "5"), ("x-mine", "1")] {
        let _ = request.insert_header(HeaderName::from_static(name), value);
    }
    request
}

pub(super) fn response() -> ResponseHeader {
    http::Response::builder().header("x-mine", "1").body(()).expect("it is one").into_parts().0.into()
}
