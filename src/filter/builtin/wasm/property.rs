//! What a plugin may ask of a request by name. The names are Envoy's, which filters look for.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::view::{Lent, Phase};
use crate::plugin::pairs_of;

pub(super) fn find(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let set = lent.facts.properties.find(&path.join(&0));
    set.map(<[u8]>::to_vec).or_else(|| match path {
        [b"request", rest @ ..] => request(lent, rest),
        [b"response", rest @ ..] => response(lent, rest),
        [b"source", rest @ ..] => source(lent, rest),
        [b"connection", rest @ ..] => connection(lent, rest),
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
        [b"headers", name] => joined(&request.headers, name),
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

fn response(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let response = lent.response.as_ref()?;
    match path {
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

fn connection(lent: &Lent, path: &[&[u8]]) -> Option<Vec<u8>> {
    let facts = &lent.facts;
    match path {
        [b"mtls"] => Some(vec![u8::from(facts.caller.is_some())]),
        [b"tls_version"] => text(facts.tls.as_ref()?.version),
        [b"requested_server_name"] => text(facts.tls.as_ref()?.sni.as_deref()?),
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
