//! A record that is being written: what it begins with, then its attributes.

use serde_json::{Value, json};

use super::wire::{close, double, length, number, number_attribute, open, text_attribute};

pub struct Writer<'b> {
    out: &'b mut Vec<u8>,
    form: Form,
    /// Characters of a value. What is longer is cut.
    longest: usize,
}

enum Form {
    /// Where the record begins, and the field that its attributes are.
    Protobuf { start: usize, attributes: u8 },
    /// With a list of `attributes`.
    Json(Value),
}

/// In `scopeSpans` and in `scopeLogs`, the field of the records.
const RECORDS: u8 = 2;

impl<'b> Writer<'b> {
    /// Appends a record to `out`, as one of its scope's. `attributes` is the number of that field.
    pub(in crate::observe) fn protobuf(
        out: &'b mut Vec<u8>,
        longest: usize,
        attributes: u8,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> Writer<'b> {
        let start = open(out, RECORDS);
        head(out);
        Writer { out, form: Form::Protobuf { start, attributes }, longest }
    }

    /// The same; `head` has a list of `attributes`.
    pub(in crate::observe) fn json(out: &'b mut Vec<u8>, longest: usize, head: Value) -> Writer<'b> {
        Writer { out, form: Form::Json(head), longest }
    }

    /// All that is `inline` here is so that keys, which callers write out, cost a few stores.
    #[inline(always)]
    pub fn text(&mut self, key: &str, value: &str) {
        let value = within(value, self.longest);
        match &mut self.form {
            Form::Protobuf { attributes, .. } => text_attribute(self.out, *attributes, key, &[value]),
            Form::Json(record) => push(record, key, || json!({"stringValue": value})),
        }
    }

    /// Text that comes in parts.
    pub fn joined<const N: usize>(&mut self, key: &str, parts: [&str; N]) {
        match self.form {
            Form::Protobuf { attributes, .. } if length(&parts) <= self.longest => {
                text_attribute(self.out, attributes, key, &parts);
            }
            _ => self.text(key, &parts.concat()),
        }
    }

    /// Bytes that a peer sent: what is not UTF-8 becomes U+FFFD.
    pub fn lossy(&mut self, key: &str, value: &[u8]) {
        self.text(key, &String::from_utf8_lossy(value));
    }

    #[inline(always)]
    pub fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    #[inline(always)]
    pub fn integer(&mut self, key: &str, value: u64) {
        // 64-bit numbers are text in JSON.
        self.number(key, |out| number(out, 3, value), || json!({"intValue": value.to_string()}));
    }

    pub fn float(&mut self, key: &str, value: f64) {
        self.number(key, |out| double(out, 4, value), || json!({"doubleValue": value}));
    }

    pub fn boolean(&mut self, key: &str, value: bool) {
        self.number(key, |out| number(out, 2, value.into()), || json!({"boolValue": value}));
    }

    pub(in crate::observe) fn end(self) {
        match self.form {
            Form::Protobuf { start, .. } => close(self.out, start),
            Form::Json(record) => self.out.extend_from_slice(record.to_string().as_bytes()),
        }
    }

    #[inline(always)]
    fn number(&mut self, key: &str, value: impl FnOnce(&mut Vec<u8>), json: impl FnOnce() -> Value) {
        match &mut self.form {
            Form::Protobuf { attributes, .. } => number_attribute(self.out, *attributes, key, value),
            Form::Json(record) => push(record, key, json),
        }
    }
}

#[cold]
#[inline(never)]
fn push(record: &mut Value, key: &str, value: impl FnOnce() -> Value) {
    if let Some(attributes) = record["attributes"].as_array_mut() {
        attributes.push(json!({"key": key, "value": value()}));
    }
}

/// At most so many bytes, and whole characters.
pub fn cut(value: &str, most: usize) -> &str {
    let mut end = most.min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// At most so many characters.
#[inline]
pub(in crate::observe) fn within(value: &str, most: usize) -> &str {
    // No character is shorter than a byte, so nearly no value is counted.
    if value.len() <= most { value } else { counted(value, most) }
}

#[cold]
#[inline(never)]
fn counted(value: &str, most: usize) -> &str {
    match value.char_indices().nth(most) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_after_whole_characters() {
        for (most, expected) in [(0, ""), (1, "ä"), (2, "äö"), (3, "äöü"), (4, "äöü"), (100, "äöü")]
        {
            assert_eq!(within("äöü", most), expected, "{most}");
        }
        for (most, expected) in [(0, ""), (1, ""), (2, "ä"), (5, "äö"), (100, "äöü")] {
            assert_eq!(cut("äöü", most), expected, "{most}");
        }
    }
}
