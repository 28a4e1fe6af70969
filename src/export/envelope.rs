//! What stands around a batch of spans: the resource they are of, and the scope they are made by.

use serde_json::json;

use crate::observe::spans::{
    Batch, Encoding,
    encode::{bytes, varint},
};

/// The scope: what records the spans.
const SCOPE: &str = "tidegate";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An `ExportTraceServiceRequest`.
pub(super) fn wrap(resource: &[(String, String)], batch: &Batch, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => protobuf(resource, batch),
        Encoding::Json => json(resource, batch),
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

fn json(resource: &[(String, String)], batch: &Batch) -> Vec<u8> {
    let attribute = |(key, value): &(String, String)| json!({"key": key, "value": {"stringValue": value}});
    let resource = json!({"attributes": resource.iter().map(attribute).collect::<Vec<_>>()});
    let scope = json!({"name": SCOPE, "version": VERSION});
    let mut request =
        format!(r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":{scope},"spans":["#)
            .into_bytes();
    request.extend_from_slice(&batch.bytes);
    request.extend_from_slice(b"]}]}]}");
    request
}
