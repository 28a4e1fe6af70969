//! What stands around a batch of records: the resource they are of, and the scope they are made by. In protobuf that is
//! the same for all signals.

use serde_json::json;

use super::signal::{Keys, Signal};
use crate::observe::otlp::{Batch, Encoding, bytes, varint};

/// The scope: what makes the records.
const SCOPE: &str = "tidegate";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An `Export...ServiceRequest`.
pub(super) fn wrap(
    signal: Signal,
    resource: &[(String, String)],
    batch: &Batch,
    encoding: Encoding,
) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => protobuf(resource, batch),
        Encoding::Json => json(&signal.keys(), resource, batch),
    }
}

fn protobuf(resource: &[(String, String)], batch: &Batch) -> Vec<u8> {
    let mut of = Vec::new();
    for (key, value) in resource {
        let (mut pair, mut any) = (Vec::new(), Vec::new());
        bytes(&mut any, 1, value.as_bytes());
        bytes(&mut pair, 1, key.as_bytes());
        bytes(&mut pair, 2, &any);
        bytes(&mut of, 1, &pair);
    }
    let mut scope = Vec::new();
    bytes(&mut scope, 1, SCOPE.as_bytes());
    bytes(&mut scope, 2, VERSION.as_bytes());
    let mut by_scope = Vec::with_capacity(batch.bytes.len() + 64);
    bytes(&mut by_scope, 1, &scope);
    by_scope.extend_from_slice(&batch.bytes);
    let mut by_resource = Vec::with_capacity(by_scope.len() + of.len() + 16);
    bytes(&mut by_resource, 1, &of);
    bytes(&mut by_resource, 2, &by_scope);
    let mut request = Vec::with_capacity(by_resource.len() + 8);
    request.push(1 << 3 | 2);
    varint(&mut request, by_resource.len() as u64);
    request.extend_from_slice(&by_resource);
    request
}

fn json(keys: &Keys, resource: &[(String, String)], batch: &Batch) -> Vec<u8> {
    let attribute = |(key, value): &(String, String)| json!({"key": key, "value": {"stringValue": value}});
    let resource = json!({"attributes": resource.iter().map(attribute).collect::<Vec<_>>()});
    let scope = json!({"name": SCOPE, "version": VERSION});
    let Keys { by_resource, by_scope, records, .. } = keys;
    let mut request = format!(
        r#"{{"{by_resource}":[{{"resource":{resource},"{by_scope}":[{{"scope":{scope},"{records}":["#
    )
    .into_bytes();
    request.extend_from_slice(&batch.bytes);
    request.extend_from_slice(b"]}]}]}");
    request
}
