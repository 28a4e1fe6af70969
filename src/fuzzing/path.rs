//! Paths of requests.

use std::borrow::Cow;

use crate::route::{has_encoded_slash, normalise, normalise_made};

/// A path has one normal form, in which no server finds a dot segment.
pub(super) fn path(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    let Ok(normal) = normalise(path) else {
        assert!(normalise_made(path).is_err(), "what is refused of a client is refused of a rewrite");
        return;
    };
    assert!(normal.len() <= 3 * path.len(), "an escape has three bytes");
    for again in [normalise(&normal), normalise_made(&normal)] {
        assert!(matches!(again, Ok(Cow::Borrowed(same)) if same == normal), "normalised twice: {normal}");
    }
    if let Ok(made) = normalise_made(path) {
        assert_eq!(made, normal, "where both read it, they read it alike");
    }
    assert!(!normal.contains("//") && normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal}");
    let by_the_most_generous = normal.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
    assert_eq!(has_encoded_slash(&normal), normal.contains("%2F") || normal.contains("%5C"));
    for segment in by_the_most_generous.split('/') {
        assert!(!matches!(segment.split(';').next(), Some("." | "..")), "a dot segment in {normal}");
    }
}
