//! `traceparent`: W3C Trace Context, level 2, section 3.2.

use http::{HeaderMap, HeaderName};

use super::{Outgoing, Parent, SpanId, TraceId, id::hex, only};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// Two fields are none, even if they are equal.
pub(super) fn read(headers: &HeaderMap) -> Option<Parent> {
    parse(only(headers, &TRACEPARENT)?)
}

pub(crate) fn parse(value: &[u8]) -> Option<Parent> {
    let (version, rest) = (value.get(..2)?, value.get(2..)?);
    let [version] = hex(version)?;
    // A later version may say more behind what this one does.
    let is_as_long = match version {
        0xff => return None,
        0 => value.len() == LENGTH,
        _ => value.len() == LENGTH || value.get(LENGTH) == Some(&b'-'),
    };
    let dashes = [0, 33, 50].iter().all(|at| rest.get(*at) == Some(&b'-'));
    let [flags] = hex(rest.get(51..53)?)?;
    if !is_as_long || !dashes {
        return None;
    }
    Some(Parent {
        trace: TraceId::parse(&rest[1..33])?,
        span: SpanId::parse(&rest[34..50])?,
        sampled: Some(flags & SAMPLED != 0),
        random: flags & RANDOM != 0,
        debug: false,
    })
}

const LENGTH: usize = 55;

/// Always of version 00. Flags that this version does not know are sent as 0.
pub(crate) fn write(outgoing: &Outgoing) -> [u8; LENGTH] {
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
    value[3..35].copy_from_slice(&outgoing.trace.digits());
    value[36..52].copy_from_slice(&outgoing.span.digits());
    value[54] = b'0' + flags(outgoing.sampled, outgoing.random);
    value
}

/// As a context is sent with them.
pub(crate) fn flags(sampled: bool, random: bool) -> u8 {
    (u8::from(sampled) * SAMPLED) | (u8::from(random) * RANDOM)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_55_bytes_of_lower_case_digits() {
        let good = parse(format!("00-{TRACE}-{SPAN}-03").as_bytes()).unwrap();
        assert_eq!((good.trace.to_string(), good.span.to_string()), (TRACE.into(), SPAN.into()));
        assert_eq!((good.sampled, good.random), (Some(true), true));
        assert_eq!(parse(format!("00-{TRACE}-{SPAN}-fc").as_bytes()).unwrap().sampled, Some(false));
        for bad in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-0G"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}-{SPAN}é01"),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_this_one_goes() {
        let sampled = |value: String| parse(value.as_bytes()).map(|parent| parent.sampled);
        assert_eq!(sampled(format!("cc-{TRACE}-{SPAN}-01")), Some(Some(true)));
        assert_eq!(sampled(format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings")), Some(Some(true)));
        assert_eq!(sampled(format!("cc-{TRACE}-{SPAN}-01.what")), None);
        assert_eq!(sampled(format!("cc-{TRACE}-{SPAN}-0")), None);
    }

    #[test]
    fn two_traceparents_are_none() {
        let value = HeaderValue::try_from(format!("00-{TRACE}-{SPAN}-01")).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, value.clone());
        assert!(read(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(read(&headers), None);
    }
}
