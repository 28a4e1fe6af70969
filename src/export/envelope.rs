//! What stands around a batch of records: the resource they are of, and the scope they are made by. In protobuf that is
//! the same for all signals.

use serde_json::json;

use super::{
    Value,
    signal::{Keys, Signal},
};
use crate::observe::otlp::{Batch, Encoding, bytes, number, varint};

/// The scope: what makes the records.
const SCOPE: &str = "tidegate";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The two parts of an `Export...ServiceRequest` around its records, which are not copied for it.
pub(super) struct Envelope {
    pub(super) before: Vec<u8>,
    pub(super) after: &'static [u8],
}

pub(super) fn around(
    signal: Signal,
    resource: &[(String, Value)],
    batch: &Batch,
    encoding: Encoding,
) -> Envelope {
    match encoding {
        Encoding::Protobuf => Envelope { before: protobuf(resource, batch.bytes.len()), after: b"" },
        Encoding::Json => Envelope { before: json(&signal.keys(), resource), after: b"]}]}]}" },
    }
}

fn protobuf(resource: &[(String, Value)], records: usize) -> Vec<u8> {
    let mut of = Vec::new();
    for (key, value) in resource {
        let (mut pair, mut any) = (Vec::new(), Vec::new());
        match value {
            Value::Text(text) => bytes(&mut any, 1, text.as_bytes()),
            Value::Integer(value) => number(&mut any, 3, *value),
        }
        bytes(&mut pair, 1, key.as_bytes());
        bytes(&mut pair, 2, &any);
        bytes(&mut of, 1, &pair);
    }
    let mut scope = Vec::new();
    bytes(&mut scope, 1, SCOPE.as_bytes());
    bytes(&mut scope, 2, VERSION.as_bytes());
    let mut by_scope = Vec::new();
    bytes(&mut by_scope, 1, &scope);
    let mut by_resource = Vec::new();
    bytes(&mut by_resource, 1, &of);
    begin(&mut by_resource, 2, by_scope.len() + records);
    by_resource.extend_from_slice(&by_scope);
    let mut request = Vec::new();
    begin(&mut request, 1, by_resource.len() + records);
    request.extend_from_slice(&by_resource);
    request
}

/// A message of this length follows.
fn begin(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(field << 3 | 2);
    varint(out, length as u64);
}

fn json(keys: &Keys, resource: &[(String, Value)]) -> Vec<u8> {
    let attribute = |(key, value): &(String, Value)| match value {
        Value::Text(text) => json!({"key": key, "value": {"stringValue": text}}),
        // A number of 64 bits is text in the JSON of protobuf.
        Value::Integer(value) => json!({"key": key, "value": {"intValue": value.to_string()}}),
    };
    let resource = json!({"attributes": resource.iter().map(attribute).collect::<Vec<_>>()});
    let scope = json!({"name": SCOPE, "version": VERSION});
    let Keys { by_resource, by_scope, records, .. } = keys;
    format!(r#"{{"{by_resource}":[{{"resource":{resource},"{by_scope}":[{{"scope":{scope},"{records}":["#)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_the_resource_is_no_text() {
        let resource = [("process.pid".to_owned(), Value::Integer(300))];
        let written = protobuf(&resource, 0);
        let pair = [&[10, 11][..], b"process.pid", &[18, 3, 3 << 3, 0xac, 2]].concat();
        assert!(written.windows(pair.len()).any(|window| window == pair), "{written:?}");
        let written = String::from_utf8(json(&Signal::Traces.keys(), &resource)).unwrap();
        assert!(written.contains(r#""value":{"intValue":"300"}"#), "{written}");
    }
}
