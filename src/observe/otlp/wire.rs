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

#[inline]
pub(crate) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    begin(out, field, value.len());
    out.extend_from_slice(value);
}

/// Text that comes in parts.
#[inline]
pub(in crate::observe) fn joined(out: &mut Vec<u8>, field: u8, parts: &[&str]) {
    begin(out, field, length(parts));
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

pub(in crate::observe) fn length(parts: &[&str]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

#[inline]
fn begin(out: &mut Vec<u8>, field: u8, length: usize) {
    let tag = field << 3 | 2;
    match length {
        // Nearly all are, so that tag and length are written at once.
        0..0x80 => out.extend_from_slice(&[tag, length as u8]),
        length => {
            out.push(tag);
            varint(out, length as u64);
        }
    }
}

#[inline]
pub(crate) fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

#[inline]
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

/// `KeyValue { key: 1, value: { string: 1 } }`, of which there are many in a field. Most are short, and their lengths are written
/// in one byte each: whatever is written is copied, compressed and sent. A key that is known when this is compiled costs a few stores.
#[inline(always)]
pub(in crate::observe) fn text_attribute(out: &mut Vec<u8>, field: u8, key: &str, text: &[&str]) {
    let length = length(text);
    let any = 2 + length;
    let whole = 2 + key.len() + 2 + any;
    if whole >= 0x80 {
        return long_attribute(out, field, key, |out| joined(out, 1, text));
    }
    // Once for all that follows.
    out.reserve(2 + whole);
    out.extend_from_slice(&[field << 3 | 2, whole as u8, 1 << 3 | 2, key.len() as u8]);
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&[2 << 3 | 2, any as u8, 1 << 3 | 2, length as u8]);
    text.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// The same of another value, which takes no more than `LONGEST_NUMBER`.
#[inline(always)]
pub(in crate::observe) fn number_attribute(
    out: &mut Vec<u8>,
    field: u8,
    key: &str,
    value: impl FnOnce(&mut Vec<u8>),
) {
    if key.len() + 4 + LONGEST_NUMBER >= 0x80 {
        return long_attribute(out, field, key, value);
    }
    let start = out.len();
    out.extend_from_slice(&[field << 3 | 2, 0, 1 << 3 | 2, key.len() as u8]);
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&[2 << 3 | 2, 0]);
    let any = out.len();
    value(out);
    debug_assert!(out.len() - any <= LONGEST_NUMBER);
    out[start + 1] = (out.len() - start - 2) as u8;
    out[any - 1] = (out.len() - any) as u8;
}

/// A tag, and 64 bits by seven in each byte.
const LONGEST_NUMBER: usize = 11;

#[cold]
#[inline(never)]
fn long_attribute(out: &mut Vec<u8>, field: u8, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let whole = open(out, field);
    bytes(out, 1, key.as_bytes());
    let any = open(out, 2);
    value(out);
    close(out, any);
    close(out, whole);
}

#[inline]
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
        let lengths = [0, 1, 90, 112, 113, 120, 127, 128, 20_000];
        for (key, value) in lengths.into_iter().flat_map(|key| lengths.map(|value| (key, value))) {
            let (key, value) = ("k".repeat(key), "v".repeat(value));
            let mut out = Vec::new();
            text_attribute(&mut out, 9, &key, &[&value]);
            number_attribute(&mut out, 9, &key, |out| number(out, 3, u64::MAX));
            number_attribute(&mut out, 9, "last", |out| double(out, 4, 0.5));
            let read = Span::decode(&out[..]).unwrap().attributes;
            let keys: Vec<&str> = read.iter().map(|attribute| attribute.key.as_str()).collect();
            assert_eq!(keys, [&*key, &*key, "last"]);
            let values: Vec<Value> =
                read.into_iter().filter_map(|attribute| attribute.value?.value).collect();
            let written = [Value::StringValue(value), Value::IntValue(-1), Value::DoubleValue(0.5)];
            assert_eq!(values, written);
        }
    }
}
