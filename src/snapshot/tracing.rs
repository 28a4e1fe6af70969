//! Tracing as requests meet it: whose context goes on, which traces are recorded, and what their spans say.

use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::{
    config::{self, AcceptTrace, Rate, SpanQuery},
    filter::Template,
    kept::Kept,
    observe::metrics::{Metrics, TraceMetrics},
    policy::{
        bucket::{Bucket, Limit},
        sample::{self, By, Known, Threshold},
    },
    trace::{
        self, Current, Format, Formats, Incoming, Records, SampledBy, SpanId, TraceId,
        state::{self, State},
    },
};

/// What was found to be meant.
pub(crate) struct PlannedTracing {
    pub formats: Formats,
    pub accept: AcceptTrace,
    pub new: Threshold,
    pub known: Known,
    pub at_most: Option<(Rate, Limit)>,
    pub also: Also,
    pub query: SpanQuery,
    pub attributes: Vec<(String, Template)>,
    pub baggage_attributes: Vec<String>,
    pub responds: bool,
    /// Spans go to a collector.
    pub exports: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Also {
    pub errors: bool,
    pub slower_than: Option<Duration>,
}

pub struct Tracing {
    pub(crate) is: PlannedTracing,
    at_most: Option<KeptAtMost>,
    metrics: TraceMetrics,
}

pub(super) struct AtMost {
    limit: Limit,
    bucket: Bucket,
    origin: Instant,
}

type KeptAtMost = Kept<Rate, AtMost>;

impl AtMost {
    fn takes(&self, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        self.bucket.decide(&self.limit, now, 1).allowed
    }
}

/// What a route does differently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouteTrace {
    Off,
    /// Its share of the traces that begin here.
    Sample(Threshold),
}

impl From<&config::RouteTrace> for RouteTrace {
    fn from(written: &config::RouteTrace) -> RouteTrace {
        match written {
            config::RouteTrace::Off => RouteTrace::Off,
            config::RouteTrace::On(on) => RouteTrace::Sample(Threshold::of(on.sample.as_f64())),
        }
    }
}

/// Random bits for a request: a trace's id, should one begin, and the span's.
pub(crate) type Random = (u128, u64);

impl Tracing {
    pub(super) fn new(
        is: PlannedTracing,
        metrics: &Metrics,
        before: Option<&Tracing>,
        now: Instant,
    ) -> Tracing {
        let before = before.and_then(|before| before.at_most.as_ref());
        let at_most = is.at_most.map(|(rate, limit)| {
            Kept::keep_or(before, rate, |_| AtMost { limit, bucket: Bucket::default(), origin: now })
        });
        Tracing { is, at_most, metrics: metrics.traces() }
    }

    /// Where the request stands, and what is done about it. Its fields are brought into the form in which they go on. `None`
    /// where they pass untouched.
    pub(crate) fn begin(
        &self,
        headers: &mut HeaderMap,
        trusted: bool,
        route: Option<RouteTrace>,
        now: Instant,
        random: Random,
    ) -> Option<Current> {
        if self.is_off(route) {
            return None;
        }
        let accepted = match self.is.accept {
            AcceptTrace::Always => true,
            AcceptTrace::Trusted => trusted,
            AcceptTrace::Never => false,
        };
        if !accepted {
            trace::forget(headers);
        }
        let incoming = trace::read(headers, self.is.formats);
        if self.is.formats.contains(Format::Baggage) {
            trace::baggage::check(headers);
        }
        let had_state = headers.contains_key(trace::w3c::TRACESTATE);
        let (current, state) = self.place(incoming, route, now, random);
        if !current.passes && self.is.formats.contains(Format::W3c) && (had_state || state.is_some()) {
            // One field more than there was: a request that has no room for it goes on without.
            let _ = state::write(headers, state.as_ref());
        }
        Some(current)
    }

    /// The same for a request that brings nothing, with the tracestate that it goes on with.
    pub(crate) fn begin_here(
        &self,
        route: Option<RouteTrace>,
        now: Instant,
        random: Random,
    ) -> Option<(Current, Option<State>)> {
        if self.is_off(route) {
            return None;
        }
        let (current, state) = self.place(Incoming::default(), route, now, random);
        Some((current, state.filter(|_| self.is.formats.contains(Format::W3c))))
    }

    fn is_off(&self, route: Option<RouteTrace>) -> bool {
        let is_off = route == Some(RouteTrace::Off);
        if is_off {
            self.metrics.off.inc();
        }
        is_off
    }

    /// Where a request that brings this stands, and its tracestate.
    fn place(
        &self,
        incoming: Incoming,
        route: Option<RouteTrace>,
        now: Instant,
        random: Random,
    ) -> (Current, Option<State>) {
        let (mut current, by) = self.decide(&incoming, route, random);
        let mut state = incoming.state;
        if current.sampled && self.is.exports && !self.takes(now) {
            self.metrics.limited.inc();
            if let Some(parent) = incoming.parent.filter(|parent| parent.sampled == Some(true)) {
                // An id of ours would be a span that nobody finds.
                let records = Records::No;
                let current = Current { span: parent.span, parent: None, passes: true, records, ..current };
                return (current, state);
            }
            current = Current { sampled: false, debug: false, records: self.unsampled(), ..current };
            state = state.and_then(|state| state.with_threshold(None));
        } else {
            let decided = if incoming.parent.is_some() { &self.metrics.followed } else { &self.metrics.new };
            decided.inc();
            if let Some(threshold) = by {
                state = tell(state, current.sampled.then_some(threshold));
            }
        }
        current.has_state = state.is_some() && self.is.formats.contains(Format::W3c);
        (current, state)
    }

    /// The threshold is by which we decided, if we did.
    fn decide(
        &self,
        incoming: &Incoming,
        route: Option<RouteTrace>,
        (trace, span): Random,
    ) -> (Current, Option<Threshold>) {
        let parent = incoming.parent;
        let trace = parent.map_or_else(|| TraceId::from_random(trace), |parent| parent.trace);
        let randomness = incoming.state.as_ref().and_then(State::randomness);
        let threshold = match route {
            Some(RouteTrace::Sample(threshold)) => threshold,
            _ => self.is.new,
        };
        let debug = parent.map_or(incoming.debug, |parent| parent.debug);
        let caller = parent.map_or(incoming.sampled, |parent| parent.sampled);
        let randomness = randomness.unwrap_or_else(|| trace.last_56_bits());
        let (sampled, by) = sample::decide(self.is.known, threshold, caller, debug, randomness);
        let current = Current {
            trace,
            span: SpanId::from_random(span),
            parent: parent.map(|parent| parent.span),
            sampled,
            random: parent.is_none_or(|parent| parent.random),
            debug,
            passes: false,
            has_state: false,
            formats: self.is.formats,
            records: if sampled && self.is.exports { Records::Yes } else { self.unsampled() },
            sampled_by: match by {
                By::Caller => SampledBy::Caller,
                By::Ratio => SampledBy::Ratio,
            },
        };
        (current, (by == By::Ratio).then_some(threshold))
    }

    fn unsampled(&self) -> Records {
        let Also { errors, slower_than } = self.is.also;
        let may = self.is.exports && (errors || slower_than.is_some());
        if may { Records::IfNotable } else { Records::No }
    }

    /// Why the spans of a request that is not sampled are exported, now that it has ended; `None` where they are not.
    pub(crate) fn notable(&self, failed: bool, took: Duration, now: Instant) -> Option<SampledBy> {
        let Also { errors, slower_than } = self.is.also;
        let why = if errors && failed {
            SampledBy::Errors
        } else if slower_than.is_some_and(|limit| took > limit) {
            SampledBy::SlowerThan
        } else {
            return None;
        };
        if !self.takes(now) {
            return None;
        }
        self.metrics.also.inc();
        Some(why)
    }

    fn takes(&self, now: Instant) -> bool {
        self.at_most.as_ref().is_none_or(|at_most| at_most.takes(now))
    }
}

/// The tracestate after we decided by a threshold. That all are sampled goes without saying.
fn tell(state: Option<State>, threshold: Option<Threshold>) -> Option<State> {
    let threshold = threshold.filter(|threshold| *threshold != Threshold::ALL).map(Threshold::digits);
    match state {
        Some(state) => state.with_threshold(threshold.as_deref()),
        None => threshold.map(|threshold| State::of_threshold(&threshold)),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn planned() -> PlannedTracing {
        PlannedTracing {
            formats: [Format::W3c].into_iter().collect(),
            accept: AcceptTrace::Always,
            new: Threshold::of(0.5),
            known: Known::Follow,
            at_most: None,
            also: Also::default(),
            query: SpanQuery::Drop,
            attributes: Vec::new(),
            baggage_attributes: Vec::new(),
            responds: false,
            exports: true,
        }
    }

    fn tracing(planned: PlannedTracing) -> Tracing {
        Tracing::new(planned, &Metrics::new("test"), None, Instant::now())
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(pair).collect()
    }

    fn begin(tracing: &Tracing, headers: &mut HeaderMap, trace: u128) -> Option<Current> {
        tracing.begin(headers, false, None, Instant::now(), (trace, 7))
    }

    const SAMPLED: u128 = (1 << 100) | ((1 << 56) - 1);
    const UNSAMPLED: u128 = 1 << 100;

    #[test]
    fn a_new_trace_is_sampled_by_its_id_and_says_at_which_share() {
        let tracing = tracing(planned());
        let mut fields = HeaderMap::new();
        let current = begin(&tracing, &mut fields, SAMPLED).unwrap();
        assert!(current.sampled && current.random && current.records == Records::Yes);
        assert_eq!(current.sampled_by, SampledBy::Ratio);
        assert_eq!(fields["tracestate"], "ot=th:8");
        let mut fields = headers(&[("tracestate", "foo=1")]);
        let current = begin(&tracing, &mut fields, UNSAMPLED).unwrap();
        assert!(!current.sampled && current.records == Records::No);
        assert!(!fields.contains_key("tracestate"), "it counts only beside a traceparent");
    }

    #[test]
    fn a_caller_s_trace_goes_on_as_it_was_decided() {
        let tracing = tracing(planned());
        let mut fields = headers(&[("traceparent", TRACEPARENT), ("tracestate", " foo=1 ,, bar=2")]);
        let current = begin(&tracing, &mut fields, UNSAMPLED).unwrap();
        assert_eq!(current.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(current.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert!(current.sampled && !current.random);
        assert_eq!(current.sampled_by, SampledBy::Caller);
        assert_eq!(fields["tracestate"], "foo=1,bar=2");
        let deciding = PlannedTracing { known: Known::Decide, new: Threshold::of(0.0), ..planned() };
        let current = begin(&self::tracing(deciding), &mut fields, SAMPLED).unwrap();
        assert!(!current.sampled);
    }

    #[test]
    fn a_stranger_s_context_is_dropped_where_only_trusted_ones_are_accepted() {
        let tracing = tracing(PlannedTracing { accept: AcceptTrace::Trusted, ..planned() });
        let all = [("traceparent", TRACEPARENT), ("tracestate", "a=b"), ("b3", "0"), ("baggage", "a=b")];
        let mut fields = headers(&all);
        let current = begin(&tracing, &mut fields, UNSAMPLED).unwrap();
        assert!(fields.is_empty() && current.parent.is_none());
        let mut fields = headers(&all);
        let now = Instant::now();
        let current = tracing.begin(&mut fields, true, None, now, (UNSAMPLED, 7)).unwrap();
        assert!(fields.len() == 4 && current.parent.is_some());
    }

    #[test]
    fn beyond_the_limit_no_id_goes_out_that_nobody_records() {
        let limit = Limit::new(1, Duration::from_secs(3600), 1).unwrap();
        let rate: Rate = serde_json::from_str("\"1/h\"").unwrap();
        let tracing =
            tracing(PlannedTracing { at_most: Some((rate, limit)), new: Threshold::ALL, ..planned() });
        assert!(begin(&tracing, &mut HeaderMap::new(), SAMPLED).unwrap().sampled);
        let mut fields = headers(&[("traceparent", TRACEPARENT), ("tracestate", "foo=1")]);
        let before = fields.clone();
        let current = begin(&tracing, &mut fields, SAMPLED).unwrap();
        assert!(current.passes && current.sampled && fields == before);
        assert_eq!(current.records, Records::No);
        assert_eq!(current.span.to_string(), "00f067aa0ba902b7");
        let current = begin(&tracing, &mut HeaderMap::new(), SAMPLED).unwrap();
        assert!(!current.passes && !current.sampled && current.records == Records::No);
    }

    #[test]
    fn the_limit_counts_nothing_where_nothing_is_exported() {
        let limit = Limit::new(1, Duration::from_secs(3600), 1).unwrap();
        let rate: Rate = serde_json::from_str("\"1/h\"").unwrap();
        let at_most = Some((rate, limit));
        let tracing = tracing(PlannedTracing { at_most, new: Threshold::ALL, exports: false, ..planned() });
        for _ in 0..3 {
            let current = begin(&tracing, &mut HeaderMap::new(), SAMPLED).unwrap();
            assert!(current.sampled && current.records == Records::No);
        }
    }

    #[test]
    fn nobody_debugs_beyond_the_limit() {
        let limit = Limit::new(1, Duration::from_secs(3600), 1).unwrap();
        let rate: Rate = serde_json::from_str("\"1/h\"").unwrap();
        let formats = [Format::B3Single].into_iter().collect();
        let tracing = tracing(PlannedTracing { at_most: Some((rate, limit)), formats, ..planned() });
        let mut fields = headers(&[("b3", "d")]);
        let current = begin(&tracing, &mut fields, UNSAMPLED).unwrap();
        assert!(current.sampled && current.debug, "whatever our share");
        let current = begin(&tracing, &mut fields, UNSAMPLED).unwrap();
        assert!(!current.sampled && !current.debug);
    }

    #[test]
    fn a_route_turns_it_off_or_samples_otherwise() {
        let tracing = tracing(planned());
        let now = Instant::now();
        let mut fields = headers(&[("traceparent", "wrong"), ("tracestate", "a=b")]);
        let off = tracing.begin(&mut fields, false, Some(RouteTrace::Off), now, (SAMPLED, 7));
        assert!(off.is_none() && fields.len() == 2);
        let none = Some(RouteTrace::Sample(Threshold::of(0.0)));
        assert!(!tracing.begin(&mut fields, false, none, now, (SAMPLED, 7)).unwrap().sampled);
    }

    #[test]
    fn what_ends_badly_is_kept_where_that_was_asked_for() {
        let also = Also { errors: true, slower_than: Some(Duration::from_secs(1)) };
        let tracing = tracing(PlannedTracing { also, new: Threshold::of(0.0), ..planned() });
        let current = begin(&tracing, &mut HeaderMap::new(), SAMPLED).unwrap();
        assert_eq!(current.records, Records::IfNotable);
        let (now, millis) = (Instant::now(), Duration::from_millis);
        let notable = [(true, 1), (false, 1), (false, 1001)];
        assert_eq!(
            notable.map(|(failed, took)| tracing.notable(failed, millis(took), now)),
            [Some(SampledBy::Errors), None, Some(SampledBy::SlowerThan)]
        );
    }
}
