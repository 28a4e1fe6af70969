//! Text into bytes, by hand: the few conversions every line is made of.
//! Hand-written because a line is made for every request: serde_json would first build a tree, and what is
//! borrowed would be copied. A property test holds the escaping to what serde_json reads.

use std::{
    cell::Cell,
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Whether a terminal would obey `c`, or it ends a line or reorders it where people read: control characters of both sets,
/// directional formatting (Unicode Standard Annex 9, section 2), line and paragraph separators.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `text` as a JSON string, quotes included, cut to `limit` bytes.
pub(super) fn json_string(out: &mut Vec<u8>, text: &str, limit: usize) {
    out.push(b'"');
    let kept = truncate(text.as_bytes(), limit).len();
    escape(out, &text[..kept]);
    if kept < text.len() {
        out.extend_from_slice(ELLIPSIS);
    }
    out.push(b'"');
}

/// As [`json_string`], for bytes a peer sent: what is not UTF-8 becomes U+FFFD.
pub(super) fn json_bytes(out: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json_string(out, text, limit),
        Err(_) => json_string(out, &String::from_utf8_lossy(bytes), limit),
    }
}

/// Appends `text` for a person to read: bare where it is one plain word, else quoted, never with a
/// character that would deceive them.
pub(super) fn text_value(out: &mut Vec<u8>, text: &str, limit: usize) {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')) {
        return text_message(out, text, limit);
    }
    out.push(b'"');
    text_within_quotes(out, text, limit);
    out.push(b'"');
}

/// The same where an operator has written the quotes, or none.
pub(super) fn text_within_quotes(out: &mut Vec<u8>, text: &str, limit: usize) {
    let kept = truncate(text.as_bytes(), limit).len();
    for c in text[..kept].chars() {
        if matches!(c, '"' | '\\') {
            out.push(b'\\');
        }
        printable(out, c);
    }
    if kept < text.len() {
        out.extend_from_slice(ELLIPSIS);
    }
}

/// Appends `text` as it is, save for characters that deceive (a newline becomes `\n`).
pub(super) fn text_message(out: &mut Vec<u8>, text: &str, limit: usize) {
    let kept = truncate(text.as_bytes(), limit).len();
    for c in text[..kept].chars() {
        printable(out, c);
    }
    if kept < text.len() {
        out.extend_from_slice(ELLIPSIS);
    }
}

/// Appends `n` in decimal.
pub(super) fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `duration` in milliseconds, cut to microseconds: `12`, `0.25`, `1503.004`.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    let fraction = (micros % 1000) as u16;
    if fraction > 0 {
        let digits = three_digits(fraction);
        let zeros = digits.iter().rev().take_while(|d| **d == b'0').count();
        out.push(b'.');
        out.extend_from_slice(&digits[..3 - zeros]);
    }
}

/// Appends an address without its port. The unspecified one stands for who came over a Unix socket.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => out.extend_from_slice(b"unix"),
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        // Writing into memory cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Appends `at` as RFC 3339 in UTC with milliseconds; a time before 1970 becomes 1970.
pub(super) fn timestamp(out: &mut Vec<u8>, at: SystemTime) {
    // Calendars are slow and a second is long: each thread keeps the last one it wrote.
    const DATE_AND_TIME: usize = "1970-01-01T00:00:00".len();
    thread_local! {
        static LAST: Cell<(u64, [u8; DATE_AND_TIME])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
    }
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = LAST.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let mut calendar = String::new();
        let formatted = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second));
        // It fails beyond the year 9999; the clock is wrong then, and so may the line be.
        if write!(calendar, "{formatted}").is_ok() && calendar.len() > DATE_AND_TIME {
            text.copy_from_slice(&calendar.as_bytes()[..DATE_AND_TIME]);
        }
        LAST.set((second, text));
    }
    out.extend_from_slice(&text);
    out.push(b'.');
    out.extend_from_slice(&three_digits(since.subsec_millis() as u16));
    out.push(b'Z');
}

const ELLIPSIS: &[u8] = "…".as_bytes();

/// At most `limit` bytes of `bytes`, never ending inside a character. Text that is valid stays valid.
fn truncate(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    let continues = |at: usize| bytes[at] & 0xC0 == 0x80;
    let floor = limit.saturating_sub(3);
    let end = (floor..=limit).rev().find(|at| !continues(*at)).unwrap_or(limit);
    &bytes[..end]
}

/// How each byte is escaped in JSON: 0 as it is, `u` as `\u00XX`, any other as a backslash and that letter.
/// Bytes from 0x80 on are parts of characters, which [`is_deceptive`] knows; DEL is escaped for the sake of terminals.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x7F] = b'u';
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

fn escape(out: &mut Vec<u8>, text: &str) {
    // Nearly all text needs no escape, and a loop that never stops early is compiled to vectors.
    let special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte >= 0x7F);
    if !text.bytes().fold(false, |any, byte| any | special(byte)) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| !c.is_ascii() && is_deceptive(*c)) {
        escape_ascii(out, &rest.as_bytes()[..at]);
        // All of them are below U+10000. Writing into memory cannot fail.
        let _ = write!(out, "\\u{:04x}", u32::from(c));
        rest = &rest[at + c.len_utf8()..];
    }
    escape_ascii(out, rest.as_bytes());
}

fn escape_ascii(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(clean) = rest.iter().position(|b| ESCAPES[usize::from(*b)] != 0) {
        out.extend_from_slice(&rest[..clean]);
        let byte = rest[clean];
        match ESCAPES[usize::from(byte)] {
            b'u' => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = &rest[clean + 1..];
    }
    out.extend_from_slice(rest);
}

fn printable(out: &mut Vec<u8>, c: char) {
    if is_deceptive(c) {
        for escaped in c.escape_default() {
            out.push(escaped as u8);
        }
    } else {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// `n` is below 1000.
fn three_digits(n: u16) -> [u8; 3] {
    [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn json_strings_round_trip(text in any::<String>()) {
            let json = written(|out| json_string(out, &text, usize::MAX));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn json_bytes_round_trip_what_is_utf8_and_replace_the_rest(bytes in any::<Vec<u8>>()) {
            let json = written(|out| json_bytes(out, &bytes, usize::MAX));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn cutting_never_breaks_a_character(text in any::<String>(), limit in 0usize..40) {
            let json = written(|out| json_string(out, &text, limit));
            let read = serde_json::from_str::<String>(&json).unwrap();
            if text.len() <= limit {
                prop_assert_eq!(read, text);
            } else {
                let kept = read.strip_suffix('…').unwrap();
                prop_assert!(text.starts_with(kept) && kept.len() <= limit && kept.len() + 4 > limit);
            }
        }

        #[test]
        fn text_stays_on_one_line_without_control_characters(text in any::<String>()) {
            let line = written(|out| text_value(out, &text, usize::MAX));
            prop_assert!(!line.chars().any(is_deceptive));
        }

        #[test]
        fn numbers_are_decimal(n in any::<u64>()) {
            prop_assert_eq!(written(|out| number(out, n)), n.to_string());
        }

        #[test]
        fn addresses_are_written_as_usual(ip in any::<IpAddr>()) {
            prop_assume!(ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            prop_assert_eq!(written(|out| address(out, ip)), ip.to_string());
        }
    }

    #[test]
    fn what_terminals_obey_or_what_reorders_lines_is_escaped_in_both_formats() {
        let all: String = ('\0'..='\u{ffff}').collect();
        let json = written(|out| json_string(out, &all, usize::MAX));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), all);
        let (value, message) = (
            written(|out| text_value(out, &all, usize::MAX)),
            written(|out| text_message(out, &all, usize::MAX)),
        );
        for c in (0..0x20)
            .chain(0x7F..0xA0)
            .chain(0x202A..0x202F)
            .chain(0x2066..0x206A)
            .chain([0x61C, 0x200E, 0x200F, 0x2028, 0x2029])
        {
            let c = char::from_u32(c).unwrap();
            assert!(
                is_deceptive(c) && ![&json, &value, &message].iter().any(|line| line.contains(c)),
                "{c:?}"
            );
        }
        assert!(json.contains("\\u009b") && json.contains("\\u202e") && value.contains("\\u{2028}"));
        assert!(json.contains('ä') && json.contains('日') && value.contains('ä'));
    }

    #[test]
    fn milliseconds_have_up_to_three_decimals() {
        for (micros, text) in [(0, "0"), (7, "0.007"), (250, "0.25"), (12_000, "12"), (1_503_004, "1503.004")]
        {
            assert_eq!(written(|out| millis(out, Duration::from_micros(micros))), text);
        }
    }

    #[test]
    fn timestamps_are_rfc_3339_with_milliseconds() {
        let at = UNIX_EPOCH + Duration::from_millis(1_767_225_599_007);
        for at in [at, at + Duration::from_millis(1), at + Duration::from_secs(1), UNIX_EPOCH] {
            assert_eq!(written(|out| timestamp(out, at)), humantime::format_rfc3339_millis(at).to_string());
        }
    }

    #[test]
    fn text_values_are_quoted_only_where_needed() {
        for (value, text) in [
            ("users", "users"),
            ("", r#""""#),
            ("two words", r#""two words""#),
            (r#"say "hi""#, r#""say \"hi\"""#),
            ("a\nb\u{9b}", r#""a\nb\u{9b}""#),
        ] {
            assert_eq!(written(|out| text_value(out, value, 100)), text);
        }
    }
}
