//! Which of two media types a client would rather have (RFC 9110, section 12.5.1).

use http::{HeaderMap, header::ACCEPT};

use crate::filter::shared::accept_encoding::weight;

/// Nobody has so many, and each costs a look.
const MOST_ITEMS: usize = 64;

/// How much it wants each, in thousandths; 0 for what it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub html: u16,
    pub json: u16,
}

impl Wanted {
    pub(super) fn of(headers: &HeaderMap) -> Wanted {
        if !headers.contains_key(ACCEPT) {
            return Wanted { html: 1000, json: 1000 };
        }
        let fields = || headers.get_all(ACCEPT).iter().filter_map(|field| field.to_str().ok());
        let ranges = || fields().flat_map(|field| field.split(',')).take(MOST_ITEMS);
        // Of those that take it, the narrowest counts.
        let wants = |names: &[&str]| {
            names.iter().find_map(|name| {
                let of = |item: &str| {
                    let (range, parameters) = item.split_once(';').unwrap_or((item, ""));
                    range.trim().eq_ignore_ascii_case(name).then(|| weight(parameters))
                };
                ranges().filter_map(of).max()
            })
        };
        let json = wants(&["application/json", "application/*", "*/*"]);
        // Who names the JSON of problems has named JSON.
        let problem = wants(&["application/problem+json"]);
        Wanted {
            html: wants(&["text/html", "text/*", "*/*"]).unwrap_or(0),
            json: json.unwrap_or(0).max(problem.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_range_counts() {
        for (accept, html, json) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 1000, 800),
            ("application/json", 0, 1000),
            ("application/problem+json;q=0.5", 0, 500),
            ("*/*", 1000, 1000),
            ("text/*;q=0.3, application/json;q=0.4", 300, 400),
            ("text/html;q=0, */*", 0, 1000),
            ("TEXT/HTML;level=1;Q=0.5", 500, 0),
            ("image/png", 0, 0),
            ("", 0, 0),
            (";q,,*", 0, 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(Wanted::of(&headers), Wanted { html, json }, "{accept}");
        }
        assert_eq!(Wanted::of(&HeaderMap::new()), Wanted { html: 1000, json: 1000 });
    }
}
