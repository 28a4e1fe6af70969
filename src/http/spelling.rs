//! The names of a message's fields as they came. They mean the same in every case (RFC 9110, section 5.1), but there are
//! peers of HTTP/1 that care.

use bytes::Bytes;

/// A head, from its first line on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling(Bytes);

impl Spelling {
    pub(crate) fn of(head: Bytes) -> Spelling {
        Spelling(head)
    }

    /// As `name`, which is in lower case, stands in the head; else as it is. It is looked for each time: heads are short,
    /// and only those who ask for this pay for it.
    pub(crate) fn name<'n>(&'n self, name: &'n str) -> &'n [u8] {
        let lines = self.0.split(|byte| *byte == b'\n').skip(1);
        let mut names = lines.filter_map(|line| line.split_at_checked(name.len()));
        names
            .find(|(front, rest)| front.eq_ignore_ascii_case(name.as_bytes()) && rest.starts_with(b":"))
            .map_or(name.as_bytes(), |(front, _)| front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_spelled_as_it_came() {
        let spelling =
            Spelling::of(Bytes::from_static(b"GET /x-a: HTTP/1.1\r\nX-ABC: x-def: 1\r\nx-A: 2\r\n\r\n"));
        assert_eq!(spelling.name("x-abc"), b"X-ABC");
        assert_eq!(spelling.name("x-a"), b"x-A");
        assert_eq!(spelling.name("x-def"), b"x-def");
        assert_eq!(Spelling::default().name("x"), b"x");
    }
}
