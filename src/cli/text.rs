//! Text of somebody else's, made safe for a terminal.

use std::fmt::Write;

use crate::observe::is_deceptive;

/// `text` with everything that a terminal would obey or that reorders a line written as `\u{..}`; line ends stay.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_deceptive(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// `1 route`, `2 routes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A line for each row below the head, in columns as wide as what is in them.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
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
