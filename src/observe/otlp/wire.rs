//! Protobuf by hand: the few forms of fields that OTLP has.
//!
//! Lengths of messages stand before them. That of a large one is written with three bytes, more than it needs, so that what
//! follows does not have to move.

/// Begins a message whose length is not known yet.
pub(in crate::observe) fn open(out: &mut Vec<u8>, field: u8) -> usize {
    out.push(field << 3 | 2);
    out.extend_from_slice(&[0; 3]);
    out.len()
}

pub(in crate::observe) fn close(out: &mut [u8], start: usize) {
    let length = out.len() - start;
    debug_assert!(length < 1 << 21, "three times seven bits");
    out[start - 3] = (length & 0x7f) as u8 | 0x80;
    out[start - 2] = (length >> 7 & 0x7f) as u8 | 0x80;
    out[start - 1] = (length >> 14 & 0x7f) as u8;
}

pub(crate) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    let tag = field << 3 | 2;
    match value.len() {
        // Nearly all are, so that tag and length are written at once.
        length @ 0..0x80 => out.extend_from_slice(&[tag, length as u8]),
        length => {
            out.push(tag);
            varint(out, length as u64);
        }
    }
    out.extend_from_slice(value);
}

pub(in crate::observe) fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

pub(in crate::observe) fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(in crate::observe) fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    fixed64(out, field, value.to_bits());
}

/// `field` may be larger than 15.
pub(in crate::observe) fn fixed32(out: &mut Vec<u8>, field: u8, value: u32) {
    varint(out, u64::from(field) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// `KeyValue { key: 1, value: 2 }`, of which there are many in a field. Most are short, and are written so: each byte is copied,
/// compressed and sent.
pub(in crate::observe) fn attribute(out: &mut Vec<u8>, field: u8, key: &str, value: impl Fn(&mut Vec<u8>)) {
    let start = out.len();
    if key.len() < 0x80 {
        out.extend_from_slice(&[field << 3 | 2, 0, 1 << 3 | 2, key.len() as u8]);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&[2 << 3 | 2, 0]);
        let any = out.len();
        value(out);
        let whole = out.len() - start - 2;
        if whole < 0x80 {
            out[start + 1] = whole as u8;
            out[any - 1] = (out.len() - any) as u8;
            return;
        }
        out.truncate(start);
    }
    let whole = open(out, field);
    bytes(out, 1, key.as_bytes());
    let any = open(out, 2);
    value(out);
    close(out, any);
    close(out, whole);
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};
    use prost::Message;

    use super::*;

    #[test]
    fn attributes_are_read_back_whatever_their_lengths() {
        let lengths = [0, 1, 90, 120, 127, 128, 20_000];
        for (key, value) in lengths.into_iter().flat_map(|key| lengths.map(|value| (key, value))) {
            let (key, value) = ("k".repeat(key), "v".repeat(value));
            let mut out = Vec::new();
            attribute(&mut out, 9, &key, |out| bytes(out, 1, value.as_bytes()));
            attribute(&mut out, 9, "last", |out| number(out, 3, 1));
            let read = Span::decode(&out[..]).unwrap().attributes;
            assert_eq!((read.len(), read[0].key.len(), read[1].key.as_str()), (2, key.len(), "last"));
            let text = read[0].value.clone().and_then(|value| value.value);
            assert_eq!(text, Some(Value::StringValue(value)));
        }
    }
}
