//! What any fields must do to those who look for a trace in them; see `crate::fuzzing`.

use http::HeaderMap;

use super::{Format, Formats, Outgoing, Parent, SpanId, State, b3, baggage, read, state, w3c, write};

/// A context that is understood is the same once it is written again, in whatever form; a tracestate keeps its bounds.
pub(crate) fn context(headers: &HeaderMap) {
    for format in [Format::W3c, Format::B3, Format::B3Single] {
        let incoming = read(headers, formats(&[format]));
        if let Some(parent) = incoming.parent {
            goes_on(parent);
        }
        assert!(incoming.state.is_none() || incoming.parent.is_some());
    }
    for value in headers.values() {
        w3c::parse(value.as_bytes());
        b3::parse_single(value.as_bytes());
    }
    tracestate(headers);
    let mut checked = headers.clone();
    baggage::check(&mut checked);
    let bytes: usize = checked.get_all(&baggage::BAGGAGE).iter().map(|field| field.len()).sum();
    assert!(bytes <= 8192, "{bytes} bytes of baggage");
    baggage::find(&checked, "tenant");
}

fn goes_on(parent: Parent) {
    let sampled = parent.sampled.unwrap_or(false) || parent.debug;
    let outgoing = Outgoing {
        trace: parent.trace,
        span: SpanId::from_random(7),
        parent: Some(parent.span),
        sampled,
        random: parent.random,
        debug: parent.debug,
    };
    for format in [Format::W3c, Format::B3, Format::B3Single] {
        let mut headers = HeaderMap::new();
        write(&mut headers, formats(&[format]), &outgoing).expect("there is room");
        let read = read(&headers, formats(&[format])).parent.expect("what we write we read");
        assert_eq!((read.trace, read.span, read.sampled), (parent.trace, outgoing.span, Some(sampled)));
    }
}

fn tracestate(headers: &HeaderMap) {
    let Some(read) = State::read(headers) else { return };
    let mut written = HeaderMap::new();
    state::write(&mut written, Some(&read)).expect("there is room");
    assert_eq!(State::read(&written).as_ref(), Some(&read));
    assert!(read.randomness().is_none_or(|random| random < 1 << 56));
    for threshold in [Some("8"), None] {
        let Some(changed) = read.clone().with_threshold(threshold) else { continue };
        assert_eq!(changed.randomness(), read.randomness(), "{read:?} became {changed:?}");
        state::write(&mut written, Some(&changed)).expect("there is room");
        assert_eq!(State::read(&written), Some(changed), "what we make of it is one");
    }
}

fn formats(formats: &[Format]) -> Formats {
    formats.iter().copied().collect()
}
