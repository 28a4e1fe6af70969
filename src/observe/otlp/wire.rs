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
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
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
    out.extend_from_slice(&[field << 3 | 2, 0]);
    bytes(out, 1, key.as_bytes());
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
