//! B3, as Zipkin's instrumentation speaks it: the `X-B3-*` fields, and all in one field, `b3`
//! (github.com/openzipkin/b3-propagation).

use http::{HeaderMap, HeaderName, HeaderValue, header::MaxSizeReached};

use super::{Outgoing, Parent, SpanId, TraceId, only, set};

pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(crate) const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(crate) const PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(crate) const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(crate) const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
pub(crate) const SINGLE: HeaderName = HeaderName::from_static("b3");

/// The span, the decision, and whether that is to debug; there may be a decision alone.
type Read = (Option<Parent>, Option<bool>, bool);

pub(super) fn read(headers: &HeaderMap) -> Read {
    // Debug says that it is sampled, whatever the other field says.
    let debug = only(headers, &FLAGS) == Some(b"1");
    let sampled = match only(headers, &SAMPLED) {
        _ if debug => Some(true),
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let ids = only(headers, &TRACE_ID).zip(only(headers, &SPAN_ID));
    (ids.and_then(|(trace, span)| parent(trace, span, sampled, debug)), sampled, debug)
}

const NOTHING: Read = (None, None, false);

pub(super) fn read_single(headers: &HeaderMap) -> Read {
    only(headers, &SINGLE).map_or(NOTHING, parse_single)
}

/// `TRACE-SPAN`, `TRACE-SPAN-SAMPLED`, `TRACE-SPAN-SAMPLED-PARENT`, or `SAMPLED` alone.
pub(crate) fn parse_single(value: &[u8]) -> Read {
    let decision = |word: &[u8]| match word {
        b"1" => Some((true, false)),
        b"d" => Some((true, true)),
        b"0" => Some((false, false)),
        _ => None,
    };
    let mut parts = value.split(|byte| *byte == b'-');
    let (Some(trace), span, word, caller, None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return NOTHING;
    };
    let Some(span) = span else {
        let decided = decision(trace);
        return (None, decided.map(|(sampled, _)| sampled), decided.is_some_and(|(_, debug)| debug));
    };
    let (sampled, debug) = match word.map(decision) {
        None => (None, false),
        Some(Some((sampled, debug))) => (Some(sampled), debug),
        Some(None) => return NOTHING,
    };
    if caller.is_some_and(|caller| SpanId::parse(&lower(caller)).is_none()) {
        return NOTHING;
    }
    (parent(trace, span, sampled, debug), sampled, debug)
}

/// A trace's id of 64 bits is one of 128 that begins with zeros.
fn parent(trace: &[u8], span: &[u8], sampled: Option<bool>, debug: bool) -> Option<Parent> {
    let (trace, span) = (lower(trace), lower(span));
    let trace = match trace.len() {
        16 => TraceId::parse(&[b"0000000000000000", &trace[..]].concat()),
        _ => TraceId::parse(&trace),
    };
    Some(Parent { trace: trace?, span: SpanId::parse(&span)?, sampled, random: false, debug })
}

/// Both cases are written by others. What is too long to be an id is cut, and stays too long.
fn lower(digits: &[u8]) -> Vec<u8> {
    digits[..digits.len().min(33)].to_ascii_lowercase()
}

/// Not inlined, as [`write_single`] is not: else all digits are made before it is known which format is asked for.
#[inline(never)]
pub(super) fn write(headers: &mut HeaderMap, outgoing: &Outgoing) -> Result<(), MaxSizeReached> {
    set(headers, &TRACE_ID, &outgoing.trace.digits())?;
    set(headers, &SPAN_ID, &outgoing.span.digits())?;
    match outgoing.parent {
        Some(parent) => set(headers, &PARENT_SPAN_ID, &parent.digits())?,
        None => drop(headers.remove(PARENT_SPAN_ID)),
    }
    // Debug says that it is sampled; both together would say it twice.
    let (one, other) = if outgoing.debug { (FLAGS, SAMPLED) } else { (SAMPLED, FLAGS) };
    headers.try_insert(one, HeaderValue::from_static(if outgoing.sampled { "1" } else { "0" }))?;
    headers.remove(other);
    Ok(())
}

#[inline(never)]
pub(super) fn write_single(outgoing: &Outgoing) -> String {
    let word = match (outgoing.debug, outgoing.sampled) {
        (true, _) => 'd',
        (_, true) => '1',
        (_, false) => '0',
    };
    match outgoing.parent {
        Some(parent) => format!("{}-{}-{word}-{parent}", outgoing.trace, outgoing.span),
        None => format!("{}-{}-{word}", outgoing.trace, outgoing.span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    #[test]
    fn one_field_has_ids_a_decision_and_the_caller_as_far_as_they_are_known() {
        let read = |value: &str| {
            let (parent, sampled, debug) = parse_single(value.as_bytes());
            (parent.map(|parent| (parent.trace.to_string(), parent.sampled, parent.debug)), sampled, debug)
        };
        let ids = |sampled, debug| (Some((TRACE.to_owned(), sampled, debug)), sampled, debug);
        assert_eq!(read(&format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90")), ids(Some(true), false));
        assert_eq!(read(&format!("{}-{SPAN}-0", TRACE.to_uppercase())), ids(Some(false), false));
        assert_eq!(read(&format!("{TRACE}-{SPAN}-d")), ids(Some(true), true));
        assert_eq!(read(&format!("{TRACE}-{SPAN}")), ids(None, false));
        let short = read(&format!("64fe8b2a57d3eff7-{SPAN}-1")).0.unwrap().0;
        assert_eq!(short, "000000000000000064fe8b2a57d3eff7");
        assert_eq!(
            [read("0"), read("1"), read("d")],
            [(None, Some(false), false), (None, Some(true), false), (None, Some(true), true)]
        );
        for bad in [
            "",
            "2",
            TRACE,
            &format!("{TRACE}-{SPAN}-"),
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-"),
            &format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90-1"),
        ] {
            assert_eq!(read(bad), (None, None, false), "{bad}");
        }
        for wrong_id in [format!("{TRACE}0-{SPAN}-1"), format!("{TRACE}-{}-1", "0".repeat(16))] {
            assert_eq!(read(&wrong_id), (None, Some(true), false), "{wrong_id}");
        }
    }

    fn fields(fields: &[(HeaderName, &str)]) -> Read {
        let pairs = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        read(&pairs.collect())
    }

    #[test]
    fn debug_is_sampled_whatever_the_other_field_says() {
        let ids = [(TRACE_ID, TRACE), (SPAN_ID, SPAN)];
        let with = |more: &[(HeaderName, &str)]| {
            let parent = fields(&[&ids, more].concat()).0.unwrap();
            (parent.sampled, parent.debug)
        };
        assert_eq!(with(&[]), (None, false));
        assert_eq!(with(&[(SAMPLED, "0")]), (Some(false), false));
        assert_eq!(with(&[(SAMPLED, "true")]), (Some(true), false));
        assert_eq!(with(&[(FLAGS, "1"), (SAMPLED, "0")]), (Some(true), true));
        assert_eq!(fields(&[(SAMPLED, "0")]), (None, Some(false), false));
        assert_eq!(fields(&[(FLAGS, "1")]), (None, Some(true), true));
        assert_eq!(fields(&[(TRACE_ID, TRACE)]).0, None);
    }

    #[test]
    fn the_root_of_a_trace_names_no_caller() {
        let root = Outgoing {
            trace: TraceId::parse(TRACE.as_bytes()).unwrap(),
            span: SpanId::parse(SPAN.as_bytes()).unwrap(),
            parent: None,
            sampled: true,
            random: true,
            debug: false,
        };
        let mut headers = HeaderMap::new();
        headers.insert(PARENT_SPAN_ID, HeaderValue::from_static("05e3ac9a4f6e3b90"));
        write(&mut headers, &root).unwrap();
        assert!(!headers.contains_key(PARENT_SPAN_ID));
        assert_eq!(write_single(&root), format!("{TRACE}-{SPAN}-1"));
    }
}
