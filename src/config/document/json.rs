//! JSON text is read as YAML, which it is but for one thing: JSON escapes a character above U+FFFF in two halves
//! (`\ud83d\ude00`, RFC 8259 section 7), which YAML takes for two characters that do not exist.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// `text` with such characters written out, if it is JSON. Columns behind one on the same line are that much less.
pub(in crate::config) fn whole_characters(text: &str) -> Cow<'_, str> {
    let has_halves = text.contains("\\ud") || text.contains("\\uD");
    if !has_halves || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return text.into();
    }
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    // In JSON each backslash begins an escape of two bytes at least.
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        whole.push_str(before);
        rest = match character(escape) {
            Some(character) => {
                whole.push(character);
                &escape[ESCAPED..]
            }
            None => {
                let (written, after) = escape.split_at_checked(2).unwrap_or((escape, ""));
                whole.push_str(written);
                after
            }
        };
    }
    whole.push_str(rest);
    whole.into()
}

/// Bytes of a character in two halves.
const ESCAPED: usize = 12;

/// The character that `escape` begins with, where it stands there in two halves.
fn character(escape: &str) -> Option<char> {
    let halves = [half(escape)?, half(escape.get(ESCAPED / 2..)?)?];
    char::decode_utf16(halves).next()?.ok()
}

/// The half of a character that `escape` begins with.
fn half(escape: &str) -> Option<u16> {
    let unit = u16::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok()?;
    (0xd800..0xe000).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_out_what_json_escapes_in_halves_and_nothing_else() {
        for (text, expected) in [
            (r#"["\ud83d\ude00x\uD83D\uDE00"]"#, r#"["😀x😀"]"#),
            (r#"["\\ud83d\\ude00 \u00e9 \n\ud83d\ude00"]"#, r#"["\\ud83d\\ude00 \u00e9 \n😀"]"#),
            (r#"["\ud83d"]"#, r#"["\ud83d"]"#),
            (r#"- "\ud83d\ude00""#, r#"- "\ud83d\ude00""#),
        ] {
            assert_eq!(whole_characters(text), expected);
        }
    }
}
