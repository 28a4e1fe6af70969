//! What a plugin may ask of a request by name. The names are Envoy's, which filters look for.

use std::{
    net::SocketAddr,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

use super::{
    forwarded::told,
    view::{Lent, Phase},
};
use crate::{filter::Ended, grpc, plugin::pairs_of};

pub(super) fn find(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let set = lent.facts.properties.find(&path.join(&0));
    set.map(<[u8]>::to_vec).or_else(|| match path {
        [b"request", rest @ ..] => request(lent, rest),
        [b"response", rest @ ..] => response(lent, rest),
        [b"source", rest @ ..] => source(lent, rest),
        [b"destination", rest @ ..] => destination(lent, rest),
        [b"connection", rest @ ..] => connection(lent, rest),
        [b"upstream", rest @ ..] => upstream(lent, rest),
        [b"xds", b"node", b"id"] | [b"node", b"id"] => text(node()),
        [b"xds", b"route_metadata", b"filter_metadata", rest @ ..] => metadata(lent, rest),
        [b"xds", b"route_name"] | [b"route_name"] => text(lent.facts.route.as_deref()?),
        [b"xds", b"cluster_name"] | [b"cluster_name"] => text(lent.facts.upstream.as_deref()?),
        // Of a gateway all traffic is inbound.
        [b"xds", b"listener_direction"] | [b"listener_direction"] => integer(1),
        [b"xds", b"virtual_host_name"] => text(lent.facts.listener.as_deref()?),
        [b"metadata", b"filter_metadata", rest @ ..] => proven(lent, rest),
        _ => None,
    })
}

fn request(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let (request, facts) = (&lent.request, &lent.facts);
    match path {
        [b"path"] => Some(request.raw_path().to_vec()),
        [b"url_path"] => text(request.uri.path()),
        [b"query"] => text(request.uri.query().unwrap_or_default()),
        [b"host"] => text(facts.authority()),
        [b"scheme"] => text(facts.scheme),
        [b"method"] => text(request.method.as_str()),
        [b"protocol"] => text(match request.version {
            http::Version::HTTP_2 => "HTTP/2",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }),
        [b"id"] => text(facts.request_id.as_deref()?),
        [b"headers"] => Some(pairs(&request.headers)),
        [b"headers", name] => {
            let told = HeaderName::from_bytes(name).ok().and_then(|name| told(lent, &name));
            told.or_else(|| joined(&request.headers, name))
        }
        [b"size"] => integer(amount(request_size(lent))),
        [b"headers_bytes"] => integer(amount(size(&request.headers))),
        [b"total_size"] => integer(amount(request_size(lent) + size(&request.headers))),
        [b"referer"] => joined(&request.headers, header::REFERER.as_str().as_bytes()),
        [b"useragent"] => joined(&request.headers, header::USER_AGENT.as_str().as_bytes()),
        [b"time"] => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let since = since.saturating_sub(lent.began.elapsed());
            integer(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
        }
        [b"duration"] if lent.phase == Phase::End => {
            integer(i64::try_from(lent.began.elapsed().as_nanos()).unwrap_or(i64::MAX))
        }
        _ => None,
    }
}

fn ended(lent: &Lent) -> Option<Ended> {
    lent.facts.ways.as_ref()?.end
}

/// What is said of its body, or has come of it in the end.
fn request_size(lent: &Lent) -> u64 {
    match ended(lent) {
        Some(end) => end.received,
        None => length(&lent.request.headers).unwrap_or_default(),
    }
}

fn response(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let (response, facts) = (lent.response.as_ref()?, &lent.facts);
    let body = || match ended(lent) {
        Some(end) => end.sent,
        None => length(&response.headers).unwrap_or_default(),
    };
    match path {
        [b"size"] => integer(amount(body())),
        [b"total_size"] => integer(amount(body() + size(&response.headers))),
        [b"trailers"] => Some(pairs(trailers(lent))),
        [b"trailers", name] => joined(trailers(lent), name),
        [b"grpc_status"] => {
            let told = facts.grpc.as_ref().and_then(|call| call.status).map(i64::from);
            let field = |headers: &HeaderMap| headers.get(&grpc::STATUS)?.to_str().ok()?.parse().ok();
            let status = told.or_else(|| field(trailers(lent))).or_else(|| field(&response.headers));
            integer(status?)
        }
        [b"code_details"] => {
            let is_reached = facts.ways.as_ref().is_some_and(|ways| ways.upstream.is_some());
            text(match (ended(lent), is_reached) {
                (Some(Ended { reason: Some(reason), .. }), _) => reason,
                (_, true) => "via_upstream",
                (_, false) => "direct_response",
            })
        }
        [b"backend_latency"] => integer(i64::try_from(ended(lent)?.backend?.as_nanos()).unwrap_or(i64::MAX)),
        [b"code"] => integer(i64::from(response.status.as_u16())),
        [b"headers"] => Some(pairs(&response.headers)),
        [b"headers", name] => joined(&response.headers, name),
        [b"flags"] => integer(0),
        _ => None,
    }
}

/// The client, as trusted proxies tell who it is.
fn source(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let client = lent.facts.client.to_canonical();
    // The port is known only of one who comes directly.
    let is_peer = client == lent.facts.peer.to_canonical();
    let port = if is_peer { lent.facts.peer_port } else { 0 };
    match path {
        [b"address"] => text(&std::net::SocketAddr::new(client, port).to_string()),
        [b"port"] => integer(i64::from(port)),
        _ => None,
    }
}

/// Where the client has connected to.
fn destination(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    address(lent.facts.ways.as_ref()?.local?, path)
}

/// Of the last try.
fn upstream(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let way = lent.facts.ways.as_ref()?.upstream.as_ref()?;
    match path {
        [b"request_attempt_count"] => integer(i64::from(way.tries)),
        [b"num_endpoints"] => integer(amount(way.endpoints as u64)),
        [b"tls_version"] => text(way.tls?),
        path => address(way.address?, path),
    }
}

fn address(address: SocketAddr, path: &[&[u8]]) -> Option<Vec<u8>> {
    match path {
        [b"address"] => text(&address.to_string()),
        [b"port"] => integer(i64::from(address.port())),
        _ => None,
    }
}

/// What an operator says of the route, as a property is: text as it is, numbers in eight bytes, lists as JSON.
fn metadata(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let mut found = &**lent.facts.ways.as_ref()?.metadata.as_ref()?;
    for segment in path {
        found = found.as_object()?.get(std::str::from_utf8(segment).ok()?)?;
    }
    value(found)
}

fn value(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(is) => vec![u8::from(*is)],
        Value::Number(number) => number.as_f64()?.to_le_bytes().to_vec(),
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Array(_) => value.to_string().into_bytes(),
        Value::Object(map) => {
            let fields: Vec<_> = map.iter().filter_map(|(name, it)| Some((name, self::value(it)?))).collect();
            pairs_of(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())))
        }
    })
}

/// What this machine is called.
fn node() -> &'static str {
    static NODE: LazyLock<String> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    });
    &NODE
}

fn trailers(lent: &Lent) -> &HeaderMap {
    match lent.phase {
        Phase::ResponseTrailers => &lent.trailers,
        _ => &lent.trailers_of_response,
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Names and values.
fn size(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

fn amount(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn connection(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let facts = &lent.facts;
    match path {
        [b"id"] => Some(facts.ways.as_ref()?.connection.to_le_bytes().to_vec()),
        [b"mtls"] => Some(vec![u8::from(facts.caller.is_some())]),
        [b"tls_version"] => text(facts.tls.as_ref()?.version),
        // Empty where the client named none.
        [b"requested_server_name"] => {
            text(facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default())
        }
        [b"uri_san_peer_certificate"] => text(facts.caller.as_ref()?.uris.first()?),
        [b"dns_san_peer_certificate"] => text(facts.caller.as_ref()?.dns.first()?),
        [b"subject_peer_certificate"] => text(&facts.caller.as_ref()?.subject),
        [b"sha256_peer_certificate_digest"] => text(&facts.caller.as_ref()?.hash),
        _ => None,
    }
}

/// What other filters have found out about the client.
fn proven(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    match path {
        [b"jwt", claim] => match lent.facts.claims.as_ref()?.get(std::str::from_utf8(claim).ok()?)? {
            serde_json::Value::String(claim) => text(claim),
            claim => text(&claim.to_string()),
        },
        [b"peer", b"spiffe"] => text(lent.facts.caller.as_ref()?.name()),
        _ => None,
    }
}

fn text(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

/// Eight bytes, the lowest first.
fn integer(value: i64) -> Option<Vec<u8>> {
    Some(value.to_le_bytes().to_vec())
}

/// All values of a field.
fn joined(headers: &HeaderMap, name: &[u8]) -> Option<Vec<u8>> {
    let name = HeaderName::from_bytes(name).ok()?;
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| values.join(&b","[..]))
}

fn pairs(headers: &HeaderMap) -> Vec<u8> {
    pairs_of(headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_what_a_property_is() {
        assert_eq!(value(&json!("cookie")), Some(b"cookie".to_vec()));
        assert_eq!(value(&json!(true)), Some(vec![1]));
        assert_eq!(value(&json!(2)), Some(2.0_f64.to_le_bytes().to_vec()));
        assert_eq!(value(&json!([1, "a"])), Some(br#"[1,"a"]"#.to_vec()));
        assert_eq!(value(&json!(null)), None);
        let map = value(&json!({"a": "b", "none": null}));
        assert_eq!(map, Some(pairs_of([(&b"a"[..], &b"b"[..])].into_iter())));
    }
}
