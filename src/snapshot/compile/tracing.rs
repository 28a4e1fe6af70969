//! `tracing`, and OpenTelemetry's variables for what it does not say.

use std::time::Duration;

use super::{Compiler, PlannedExport, collector::understand_spans, otel::Otel};
use crate::{
    config::{self, Path, Propagate, TellTrace},
    export::Signal,
    filter::Template,
    policy::{
        bucket::Limit,
        sample::{Known, Threshold},
    },
    snapshot::tracing::{Also, PlannedTracing},
    trace::{Format, Formats},
};

/// Attributes of the operator's own.
const MOST_ATTRIBUTES: usize = 16;
/// A second's worth may come at once, and that in bursts of up to so many.
const LARGEST_BURST: u64 = 1000;

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

impl Compiler<'_> {
    pub(super) fn tracing(
        &mut self,
        variables: &mut Otel<'_>,
    ) -> (Option<PlannedTracing>, Option<PlannedExport>) {
        let at = Path::root().key("tracing");
        variables.about(&at);
        if variables.is_disabled() {
            if self.config.tracing.is_some() {
                self.warn_of_disabled(&at);
            }
            return (None, None);
        }
        let is_written = self.config.tracing.as_ref().is_some_and(|written| written.otlp.is_some());
        let endpoint = variables.exported_to(Signal::Traces, is_written, &[]);
        let written = match (&self.config.tracing, &endpoint) {
            (Some(written), _) => written.clone(),
            // Nobody is connected to by surprise: it takes an endpoint.
            (None, Some(_)) => config::Tracing::default(),
            (None, None) => {
                // Nothing is traced; but whoever sets a variable is told that it is wrong.
                let none = config::Tracing::default();
                sampling(&none.sample, variables);
                self.formats(&none, variables, &at);
                understand_spans(variables);
                return (None, None);
            }
        };
        let otlp = match (&written.otlp, endpoint) {
            (Some(otlp), _) => Some(otlp.clone()),
            (None, Some(_)) => Some(config::Otlp::default()),
            (None, None) => None,
        };
        let export = otlp.as_ref().and_then(|otlp| self.span_export(otlp, variables, &at.key("otlp")));
        if written.attributes.len() > MOST_ATTRIBUTES {
            self.refuse(&at.key("attributes"), format!("at most {MOST_ATTRIBUTES} attributes"));
        }
        let mut attributes = Vec::new();
        for (name, text) in &written.attributes {
            match Template::parse(text) {
                Ok(template) => {
                    let at = at.key("attributes").key(name);
                    attributes.push((name.clone(), self.without_secrets(&template, &at)));
                }
                Err(why) => self.refuse(&at.key("attributes").key(name), why),
            }
        }
        let sample = &written.sample;
        let at_most = sample.at_most.0.and_then(|rate| {
            let burst = rate.count().min(LARGEST_BURST);
            match Limit::new(rate.count(), rate.period(), burst) {
                Ok(limit) => Some((rate, limit)),
                Err(_) => {
                    let at = at.key("sample").key("at_most");
                    self.refuse_with_hint(&at, "is faster than can be counted", "`off` is no limit");
                    None
                }
            }
        });
        let (new, known) = sampling(sample, variables);
        let planned = PlannedTracing {
            formats: self.formats(&written, variables, &at),
            accept: written.accept,
            new,
            known,
            at_most,
            also: Also {
                errors: sample.also.errors,
                slower_than: sample.also.slower_than.map(Duration::from),
            },
            query: written.query,
            attributes,
            baggage_attributes: self.baggage_attributes(&written, &at),
            responds: written.respond == TellTrace::ServerTiming,
            exports: export.is_some(),
        };
        (Some(planned), export)
    }

    /// But for secrets, of which the whole field may be one.
    fn baggage_attributes(&mut self, written: &config::Tracing, at: &Path) -> Vec<String> {
        let at = at.key("baggage_attributes");
        let redact = &self.config.log.redact;
        let is_secret = |name: &str| redact.iter().any(|secret| secret.eq_ignore_ascii_case(name));
        let told = |name: &&String| !is_secret("baggage") && !is_secret(name);
        let kept: Vec<String> = written.baggage_attributes.iter().filter(told).cloned().collect();
        if kept.len() < written.baggage_attributes.len() {
            self.warn(
                "secret_redacted",
                &at,
                "names a secret of `log.redact`, which is not written",
                "leave it out",
            );
        }
        kept
    }

    fn formats(&mut self, written: &config::Tracing, variables: &mut Otel<'_>, at: &Path) -> Formats {
        let format = |propagate: &Propagate| match propagate {
            Propagate::W3c => Format::W3c,
            Propagate::B3 => Format::B3,
            Propagate::B3Single => Format::B3Single,
            Propagate::Baggage => Format::Baggage,
        };
        let propagate = written.propagate.as_deref();
        let mut formats: Vec<Format> = propagate.unwrap_or(&[Propagate::W3c]).iter().map(format).collect();
        if (1..formats.len()).any(|at| formats[..at].contains(&formats[at])) {
            self.refuse(&at.key("propagate"), "names a form twice");
        }
        // One that a variable names twice counts once.
        let read = |listed: &str| -> Result<Vec<Format>, String> {
            listed
                .split(',')
                .map(str::trim)
                .filter(|word| !matches!(*word, "" | "none"))
                .map(|word| match word {
                    "tracecontext" => Ok(Format::W3c),
                    "b3multi" => Ok(Format::B3),
                    "b3" => Ok(Format::B3Single),
                    "baggage" => Ok(Format::Baggage),
                    _ => Err(format!("`{word}` is none of tracecontext, b3multi, b3, baggage and none")),
                })
                .collect()
        };
        if let Some(read) = variables.read("OTEL_PROPAGATORS", propagate.is_some(), read) {
            formats = read;
        }
        formats.into_iter().collect()
    }
}

/// The share of new traces, and what is done with those that callers have decided on. A share in the file overrides the sampler
/// of the variables altogether.
fn sampling(written: &config::Sample, variables: &mut Otel<'_>) -> (Threshold, Known) {
    let known = written.known.map(|known| match known {
        config::KnownTrace::Follow => Known::Follow,
        config::KnownTrace::Decide => Known::Decide,
    });
    let of_variables = sampler(variables, written.new.is_some());
    if let Some(share) = written.new {
        for name in [SAMPLER, SAMPLER_ARG] {
            variables.or_written(name, true);
        }
        return (Threshold::of(share.as_f64()), known.unwrap_or(Known::Follow));
    }
    let Some((new, of_sampler)) = of_variables else {
        return (Threshold::ALL, known.unwrap_or(Known::Follow));
    };
    if known.is_some_and(|known| known != of_sampler) {
        variables.or_written(SAMPLER, true);
    }
    (new, known.unwrap_or(of_sampler))
}

/// What the variables say. A sampler that is not `parentbased_` decides on every trace, whatever the caller did
/// (OpenTelemetry, "Tracing SDK", "Built-in samplers").
fn sampler(variables: &mut Otel<'_>, is_written: bool) -> Option<(Threshold, Known)> {
    let named = variables.get(SAMPLER);
    let root = named.as_deref().map(|name| match name.strip_prefix("parentbased_") {
        Some(root) => (root, Known::Follow),
        None => (name, Known::Decide),
    });
    let sampler = match root {
        None => None,
        Some(("always_on", known)) => Some((Threshold::ALL, known)),
        Some(("always_off", known)) => Some((Threshold::of(0.0), known)),
        Some(("traceidratio", known)) => {
            let share = variables.parse(SAMPLER_ARG, |text| match text.parse::<f64>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
                _ => Err("it is no number from 0 to 1"),
            });
            return Some((Threshold::of(share.unwrap_or(1.0)), known));
        }
        Some(_) => {
            let why =
                "it is none of always_on, always_off and traceidratio, with parentbased_ before it or not";
            variables.ignore(SAMPLER, why);
            None
        }
    };
    if !is_written && variables.get(SAMPLER_ARG).is_some() {
        let why = format!("it is the share of a traceidratio, which {SAMPLER} does not name");
        variables.ignore(SAMPLER_ARG, why);
    }
    sampler
}
