//! What a host's name may look like. DNS carries any label of 1 to 63 bytes (RFC 2181 section 11), and Docker Compose,
//! Active Directory and service discovery make use of that: `app_web_1`, `db-`. The rules of RFC 1123 are for those
//! who register names, not for those who ask. Refused is only what was hardly meant as a name.

/// # Errors
///
/// Why it is none, to be read after the name.
pub(crate) fn check(name: &str) -> Result<(), &'static str> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if !bare.is_ascii() {
        return Err("has letters that DNS does not carry (write it as \"xn--...\")");
    }
    // What needs no escape in a URL either (RFC 3986 section 2.3).
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_~".contains(&b);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_plain);
    if bare.len() > 253 || !bare.split('.').all(is_label) {
        return Err(
            "is not a host name (labels of 1 to 63 letters, digits, `-`, `_` and `~`, with dots between)",
        );
    }
    match bare.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        true => Err("is neither an IP address nor a host name"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_are_good_that_dns_carries_and_people_write() {
        for name in
            ["app_web_1", "_http._tcp.users", "db-", "-db", "a", "web.1", "users.internal.", "x--y", "~a"]
        {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert_eq!(check(&"a".repeat(63)), Ok(()));
    }

    #[test]
    fn what_was_hardly_meant_as_a_name_is_refused() {
        for name in ["", ".", "a..b", ".a", "us ers", "a,b", "a/b", "300.1.1.1", "1", "a*", "$HOST", "a@b"] {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert!(check("bücher.example").unwrap_err().contains("xn--"));
        assert!(check(&"a".repeat(64)).is_err());
        assert!(check(&"a.".repeat(128)).is_err());
    }
}
