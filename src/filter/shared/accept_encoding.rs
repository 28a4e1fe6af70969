//! Which coding a client wants (RFC 9110, sections 12.4.2 and 12.5.3).

use http::{HeaderMap, header::ACCEPT_ENCODING};

use crate::filter::shared::encoder::Algorithm;

/// Nobody knows so many codings, and each costs a look.
const MOST_ITEMS: usize = 64;

/// The coding with the highest weight among `offered`, the first of those with the same; `None` when the client named
/// none of them, or would rather have none. One that refuses `identity` too is not answered with 406 but as it is,
/// which the section allows.
pub(crate) fn choose(headers: &HeaderMap, offered: &[Algorithm]) -> Option<Algorithm> {
    let mut named = Vec::new();
    let (mut identity, mut any) = (None, None);
    let fields = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|field| field.to_str().ok());
    for item in fields.flat_map(|field| field.split(',')).take(MOST_ITEMS) {
        let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
        let (coding, weight) = (coding.trim(), weight(parameters));
        match coding {
            "*" => any = Some(weight),
            _ if coding.eq_ignore_ascii_case("identity") => identity = Some(weight),
            _ => named.extend(algorithm(coding).map(|algorithm| (algorithm, weight))),
        }
    }
    let weight_of = |wanted: Algorithm| {
        let own = named.iter().find(|(algorithm, _)| *algorithm == wanted).map(|(_, weight)| *weight);
        own.or(any).unwrap_or(0)
    };
    let weighed = offered.iter().map(|algorithm| (*algorithm, weight_of(*algorithm)));
    // Of equals `max_by_key` gives the last.
    let (best, weight) = weighed.rev().max_by_key(|(_, weight)| *weight)?;
    (weight > 0 && weight >= identity.unwrap_or(0)).then_some(best)
}

fn algorithm(coding: &str) -> Option<Algorithm> {
    // `x-gzip` is the same as `gzip` (section 8.4.1.3).
    [("br", Algorithm::Br), ("zstd", Algorithm::Zstd), ("gzip", Algorithm::Gzip), ("x-gzip", Algorithm::Gzip)]
        .into_iter()
        .find_map(|(name, algorithm)| coding.eq_ignore_ascii_case(name).then_some(algorithm))
}

/// In thousandths; 1000 where there is none, and 0, "not acceptable", for one that is not a weight.
pub(in crate::filter) fn weight(parameters: &str) -> u16 {
    let weight = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    });
    match weight.map(str::parse::<f32>) {
        None => 1000,
        Some(Ok(weight)) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u16,
        Some(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(fields: &[&'static str]) -> &'static str {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT_ENCODING, http::HeaderValue::from_static(field));
        }
        let offered = [Algorithm::Br, Algorithm::Zstd, Algorithm::Gzip];
        choose(&headers, &offered).map_or("identity", Algorithm::coding)
    }

    #[test]
    fn the_client_weighs_and_the_order_of_the_offer_breaks_ties() {
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", "br"),
            ("gzip", "gzip"),
            ("x-gzip", "gzip"),
            ("GZIP;Q=1", "gzip"),
            ("br;q=0.5, gzip", "gzip"),
            ("br;q=0.5, gzip;q=0.501", "gzip"),
            ("br ; q=0, gzip ;q=0.1", "gzip"),
            ("*", "br"),
            ("br;q=0, *", "zstd"),
            ("gzip;q=0.1, *;q=0", "gzip"),
            ("*;q=0", "identity"),
            ("identity", "identity"),
            ("identity;q=0, gzip;q=0.1", "gzip"),
            ("identity;q=1, gzip;q=0.5", "identity"),
            ("identity;q=0.5, gzip;q=0.5", "gzip"),
            ("identity;q=0", "identity"),
            ("deflate, compress", "identity"),
            ("gzip;q=0", "identity"),
            ("gzip;q=abc", "identity"),
            ("gzip;q=2", "identity"),
            ("gzip;q=NaN", "identity"),
            ("", "identity"),
            (",,;q=1,", "identity"),
        ] {
            assert_eq!(choice(&[accept]), expected, "{accept:?}");
        }
    }

    #[test]
    fn all_lines_of_the_field_count() {
        assert_eq!(choice(&["br;q=0.1", "gzip"]), "gzip");
        assert_eq!(choice(&[]), "identity");
    }
}
