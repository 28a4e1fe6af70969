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

/// Colours for a terminal; none for a file or a pipe, nor where `NO_COLOR` is set (no-color.org).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Colours(bool);

impl Colours {
    pub(crate) fn of_stdout() -> Colours {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Colours(wanted && std::io::IsTerminal::is_terminal(&std::io::stdout()))
    }

    #[cfg(test)]
    pub(crate) fn none() -> Colours {
        Colours(false)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
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
