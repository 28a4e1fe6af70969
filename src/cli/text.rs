//! Text of somebody else's, made safe for a terminal.

/// `text` with everything that a terminal would obey or that reorders a line written as `\u{..}`; line ends stay.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && (c.is_control() || reorders(c)) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Directional formatting characters (Unicode Standard Annex 9, section 2), line and paragraph separators.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 route`, `2 routes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_for_a_terminal_to_obey() {
        assert_eq!(safe("a\u{1b}[31mb\r\u{9b}c\u{202e}d"), r"a\u{1b}[31mb\u{d}\u{9b}c\u{202e}d");
        assert_eq!(safe("päth\nnext"), "päth\nnext");
    }
}
