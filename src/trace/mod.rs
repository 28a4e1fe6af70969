//! Distributed traces (pure): the contexts that travel in header fields, read and written. W3C Trace Context level 2, B3 in
//! both of its forms, and W3C Baggage.
//!
//! A context comes in with a request, or begins here. Each try of the request goes on with an id of its own, so that a
//! retry, a hedge and a mirror's copy are told apart by whoever they reach.

pub(crate) mod b3;
pub(crate) mod baggage;
pub(crate) mod fuzzing;
mod id;
pub(crate) mod state;
pub(crate) mod w3c;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::id::{SpanId, TraceId};
use self::state::State;

/// A form in which contexts travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `traceparent` and `tracestate`.
    W3c,
    /// The `X-B3-*` fields.
    B3,
    /// The one field `b3`.
    B3Single,
    /// `baggage`: no context, but what its members say goes on with it.
    Baggage,
}

/// In which forms contexts are read, in this order, and written; each at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Formats([Option<Format>; 4]);

impl Formats {
    pub(crate) fn contains(&self, format: Format) -> bool {
        self.0.contains(&Some(format))
    }

    fn iter(&self) -> impl Iterator<Item = Format> {
        self.0.into_iter().flatten()
    }
}

impl FromIterator<Format> for Formats {
    fn from_iter<I: IntoIterator<Item = Format>>(formats: I) -> Formats {
        let mut distinct = Formats::default();
        for format in formats {
            let free = distinct.0.iter().position(Option::is_none);
            if let (Some(free), false) = (free, distinct.contains(format)) {
                distinct.0[free] = Some(format);
            }
        }
        distinct
    }
}

/// The span that a request continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    /// `None` leaves the decision to us (B3 only).
    pub sampled: Option<bool>,
    /// The last 56 bits of the trace's id are random (W3C level 2).
    pub random: bool,
    /// B3: sampled, whatever else is decided on the way.
    pub debug: bool,
}

/// What a request brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Incoming {
    pub parent: Option<Parent>,
    /// Of a request without parent: the decision of whoever sent it, where there is one (B3: `b3: 0`).
    pub sampled: Option<bool>,
    /// That decision is to debug (B3: `b3: d`).
    pub debug: bool,
    /// Only beside a valid `traceparent`.
    pub state: Option<State>,
}

/// What a request goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub trace: TraceId,
    pub span: SpanId,
    /// The caller's span; none at the root of a trace.
    pub parent: Option<SpanId>,
    pub sampled: bool,
    pub random: bool,
    pub debug: bool,
}

/// Where a request stands in a trace, and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub trace: TraceId,
    /// Of the request as a whole; its tries have their own.
    pub span: SpanId,
    /// The caller's span; none at the root of a trace.
    pub parent: Option<SpanId>,
    pub sampled: bool,
    pub random: bool,
    pub debug: bool,
    /// Its fields go on as they came: they name a span that was recorded, and ours would not be.
    pub passes: bool,
    /// A tracestate goes on with it.
    pub has_state: bool,
    pub records: Records,
    /// Why it is recorded, if it is.
    pub sampled_by: SampledBy,
    pub formats: Formats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    No,
    /// Should it end badly.
    IfNotable,
    Yes,
}

/// Who or what had the spans of a request exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampledBy {
    /// Whoever sent the request.
    Caller,
    /// Our share of all traces.
    Ratio,
    /// It was not sampled, and failed.
    Errors,
    /// It was not sampled, and took long.
    SlowerThan,
}

impl SampledBy {
    /// As spans say it, in the words of the configuration.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            SampledBy::Caller => "caller",
            SampledBy::Ratio => "ratio",
            SampledBy::Errors => "errors",
            SampledBy::SlowerThan => "slower_than",
        }
    }
}

impl Current {
    /// What is sent as `span` goes on with this trace; where the fields that came are to be left as they are, nothing is done.
    ///
    /// # Errors
    ///
    /// There are too many fields to take another.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        span: SpanId,
    ) -> Result<(), http::header::MaxSizeReached> {
        if self.passes { Ok(()) } else { write(headers, self.formats, &self.outgoing(span)) }
    }

    fn outgoing(&self, span: SpanId) -> Outgoing {
        let &Current { trace, parent, sampled, random, debug, .. } = self;
        Outgoing { trace, span, parent, sampled, random, debug }
    }
}

impl Current {
    /// Those of W3C that are sent with it.
    pub(crate) fn flags(&self) -> u8 {
        w3c::flags(self.sampled, self.random)
    }

    /// How a browser is told: the value of `Server-Timing` (W3C Trace Context, level 2, section 2.1).
    pub(crate) fn server_timing(&self) -> String {
        format!("trace;desc={}", w3c::write(&self.outgoing(self.span)).escape_ascii())
    }
}

/// All fields that say where in a trace a request is, or what goes with it.
static FIELDS: [HeaderName; 9] = [
    w3c::TRACEPARENT,
    w3c::TRACESTATE,
    b3::TRACE_ID,
    b3::SPAN_ID,
    b3::PARENT_SPAN_ID,
    b3::SAMPLED,
    b3::FLAGS,
    b3::SINGLE,
    baggage::BAGGAGE,
];

/// Whether the request brings any of them. Most bring none, and most names differ in their first letter.
pub(crate) fn brings(headers: &HeaderMap) -> bool {
    let may_be = |name: &HeaderName| matches!(name.as_str().as_bytes(), [b't' | b'x' | b'b', ..]);
    headers.keys().any(|name| may_be(name) && FIELDS.contains(name))
}

/// Reads the context of a request: that of the first of `formats` that has a valid one.
pub(crate) fn read(headers: &HeaderMap, formats: Formats) -> Incoming {
    let mut incoming = Incoming::default();
    for format in formats.iter() {
        let (parent, sampled, debug) = match format {
            Format::W3c => (w3c::read(headers), None, false),
            Format::B3 => b3::read(headers),
            Format::B3Single => b3::read_single(headers),
            Format::Baggage => continue,
        };
        if incoming.sampled.is_none() {
            (incoming.sampled, incoming.debug) = (sampled, debug);
        }
        if parent.is_some() {
            incoming.parent = parent;
            if format == Format::W3c {
                incoming.state = State::read(headers);
            }
            break;
        }
    }
    incoming
}

/// The trace that a request belongs to; where contexts pass untouched, that of the client.
pub(crate) fn id(current: Option<&Current>, headers: &HeaderMap) -> Option<TraceId> {
    match current {
        Some(current) => Some(current.trace),
        None => w3c::parse(headers.get(w3c::TRACEPARENT)?.as_bytes()).map(|parent| parent.trace),
    }
}

/// Takes off whatever a stranger says of traces, in every form.
pub(crate) fn forget(headers: &mut HeaderMap) {
    for name in &FIELDS {
        headers.remove(name);
    }
}

/// Writes the context in all `formats`. The tracestate is no part of it: it stays as it is from one try to the next.
///
/// # Errors
///
/// There are too many fields to take another.
fn write(
    headers: &mut HeaderMap,
    formats: Formats,
    outgoing: &Outgoing,
) -> Result<(), http::header::MaxSizeReached> {
    for format in formats.iter() {
        match format {
            Format::W3c => set(headers, &w3c::TRACEPARENT, &w3c::write(outgoing))?,
            Format::B3 => b3::write(headers, outgoing)?,
            Format::B3Single => set(headers, &b3::SINGLE, b3::write_single(outgoing).as_bytes())?,
            Format::Baggage => {}
        }
    }
    Ok(())
}

/// `value` has nothing but letters, digits and dashes.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) -> Result<(), http::header::MaxSizeReached> {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.try_insert(name, value)?;
    }
    Ok(())
}

/// The field's value, where the field came once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let pairs = fields.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    fn some(formats: &[Format]) -> Formats {
        formats.iter().copied().collect()
    }

    const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    const B3: (&str, &str) = ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0");

    #[test]
    fn the_first_form_with_a_valid_context_wins() {
        let both = headers(&[W3C, B3]);
        let sampled =
            |formats: &[Format]| read(&both, some(formats)).parent.and_then(|parent| parent.sampled);
        assert_eq!(sampled(&[Format::W3c, Format::B3Single]), Some(true));
        assert_eq!(sampled(&[Format::B3Single, Format::W3c]), Some(false));
        assert_eq!(sampled(&[Format::B3, Format::Baggage]), None);
        let broken = headers(&[("traceparent", "00-x"), B3]);
        assert_eq!(
            read(&broken, some(&[Format::W3c, Format::B3Single])).parent.unwrap().sampled,
            Some(false)
        );
    }

    #[test]
    fn a_tracestate_counts_only_beside_a_valid_traceparent() {
        let state = ("tracestate", "foo=1");
        assert!(read(&headers(&[W3C, state]), some(&[Format::W3c])).state.is_some());
        assert!(read(&headers(&[("traceparent", "00-x"), state]), some(&[Format::W3c])).state.is_none());
        assert!(read(&headers(&[B3, state]), some(&[Format::W3c, Format::B3Single])).state.is_none());
    }

    #[test]
    fn a_stranger_s_words_are_all_forgotten() {
        let mut all = headers(&[W3C, B3, ("x-b3-flags", "1"), ("baggage", "a=b"), ("x-other", "kept")]);
        forget(&mut all);
        assert_eq!(all.len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            trace in any::<u128>(), span in any::<u64>(), parent in any::<Option<u64>>(), sampled in any::<bool>(),
            debug in any::<bool>(),
        ) {
            let outgoing = Outgoing {
                trace: TraceId::from_random(trace), span: SpanId::from_random(span),
                parent: parent.map(SpanId::from_random), sampled: sampled || debug, random: true, debug,
            };
            for format in [Format::W3c, Format::B3, Format::B3Single] {
                let mut headers = HeaderMap::new();
                write(&mut headers, some(&[format]), &outgoing).unwrap();
                let read = read(&headers, some(&[format])).parent.unwrap();
                prop_assert_eq!((read.trace, read.span), (outgoing.trace, outgoing.span));
                prop_assert_eq!(read.sampled, Some(outgoing.sampled));
                prop_assert_eq!(read.debug, debug && format != Format::W3c);
                prop_assert_eq!(read.random, format == Format::W3c);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), more in ".{0,80}") {
            let mut fields = HeaderMap::new();
            for name in &FIELDS {
                for value in [&bytes[..], more.as_bytes()] {
                    if let Ok(value) = HeaderValue::from_bytes(value) {
                        fields.append(name.clone(), value);
                    }
                }
            }
            read(&fields, some(&[Format::W3c]));
            read(&fields, some(&[Format::B3, Format::B3Single]));
            w3c::parse(&bytes);
            b3::parse_single(&bytes);
            State::read(&fields);
            baggage::check(&mut fields);
        }
    }
}
