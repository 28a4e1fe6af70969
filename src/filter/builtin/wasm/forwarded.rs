//! Who the client is, as the upstream will be told: a plugin reads it from fields that are written only when the request goes on.

use std::io::Write;

use http::HeaderName;

use super::view::Lent;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The names of what is told so.
pub(super) const TOLD: [HeaderName; 2] = [FOR, PROTO];

/// Its value, where the connection's other end has an address.
pub(super) fn told(lent: &Lent, name: &HeaderName) -> Option<Vec<u8>> {
    let (headers, facts) = (&lent.request.headers, &lent.facts);
    if !TOLD.contains(name) || facts.peer.is_unspecified() {
        return None;
    }
    let written: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    let mut told = written.join(&b", "[..]);
    if *name == PROTO {
        if told.is_empty() {
            told.extend_from_slice(facts.scheme.as_bytes());
        }
        return Some(told);
    }
    let (client, peer) = (facts.client.to_canonical(), facts.peer.to_canonical());
    // A trusted proxy may have named it in another field.
    let is_named = told.is_empty() && facts.from_trusted && !client.is_unspecified() && client != peer;
    if is_named {
        let _ = write!(told, "{client}");
    }
    if !told.is_empty() {
        told.extend_from_slice(b", ");
    }
    let _ = write!(told, "{peer}");
    Some(told)
}
