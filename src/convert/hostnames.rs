//! Host names of listeners and routes: `None` is any, `*.example.com` is every name below.

/// What both mean; `None` where that is nothing.
pub(crate) fn intersection<'n>(one: Option<&'n str>, other: Option<&'n str>) -> Option<Option<&'n str>> {
    if covers(one, other) {
        Some(other)
    } else if covers(other, one) {
        Some(one)
    } else {
        None
    }
}

/// Whether every name that `narrow` means is one of `wide`.
pub(crate) fn covers(wide: Option<&str>, narrow: Option<&str>) -> bool {
    let Some(wide) = wide else { return true };
    let Some(narrow) = narrow else { return false };
    match wide.strip_prefix('*') {
        None => wide == narrow,
        Some(suffix) => {
            narrow.strip_prefix('*').unwrap_or(narrow).ends_with(suffix) && (narrow.len() > suffix.len())
        }
    }
}

/// Higher wins, as the table of routes has it.
pub(crate) fn specificity(name: Option<&str>) -> usize {
    match name {
        None => 0,
        Some(name) if name.starts_with('*') => name.len(),
        Some(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_meet_where_one_covers_the_other() {
        let table = [
            (None, None, Some(None)),
            (None, Some("a.x"), Some(Some("a.x"))),
            (Some("*.x"), None, Some(Some("*.x"))),
            (Some("*.x"), Some("a.x"), Some(Some("a.x"))),
            (Some("*.x"), Some("b.a.x"), Some(Some("b.a.x"))),
            (Some("*.x"), Some("*.a.x"), Some(Some("*.a.x"))),
            (Some("*.x"), Some("*.x"), Some(Some("*.x"))),
            (Some("*.x"), Some("x"), None),
            (Some("*.x"), Some(".x"), None),
            (Some("*.x"), Some("a.y"), None),
            (Some("a.x"), Some("b.x"), None),
        ];
        for (one, other, expected) in table {
            assert_eq!(intersection(one, other), expected, "{one:?} {other:?}");
            assert_eq!(intersection(other, one), expected, "{other:?} {one:?}");
        }
    }
}
