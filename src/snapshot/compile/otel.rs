//! The `OTEL_*` variables, for what the file does not say (OpenTelemetry, "Environment Variable Specification"). The file
//! wins; a variable that is empty is not set, and one that cannot be understood is told and ignored.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use super::{Compiler, collector::collector_url};
use crate::{
    config::{Path, Problem, Tracing},
    export::{Signal, Value},
};

/// The variables, and what is to be told of them.
pub(super) struct Otel<'a> {
    /// The environment, by name.
    variables: &'a dyn Fn(&str) -> Option<String>,
    /// By name, what is wrong with its value.
    wrong: BTreeMap<String, String>,
    /// What the file says otherwise, and where.
    overridden: Vec<(String, Path)>,
    /// What is asked about now.
    at: Path,
}

/// Exporters of OpenTelemetry's SDKs that we have not.
const UNSUPPORTED: [&str; 4] = ["console", "logging", "zipkin", "jaeger"];

impl<'a> Otel<'a> {
    pub(super) fn new(variables: &'a dyn Fn(&str) -> Option<String>) -> Otel<'a> {
        Otel { variables, wrong: BTreeMap::new(), overridden: Vec::new(), at: Path::root() }
    }

    /// What is asked from now on is for what stands there.
    pub(super) fn about(&mut self, at: &Path) {
        self.at = at.clone();
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.variables)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// All of it is off, whatever else is said.
    pub(super) fn is_disabled(&mut self) -> bool {
        let read = |word: &str| match word.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("it is neither `true` nor `false`"),
        };
        self.parse("OTEL_SDK_DISABLED", read).unwrap_or(false)
    }

    /// The endpoint of a signal that the file does not export, where one is given and the variables do. `also` are exporters
    /// that are no business of ours.
    pub(super) fn exported_to(&mut self, signal: Signal, is_written: bool, also: &[&str]) -> Option<String> {
        let name = format!("OTEL_{}_EXPORTER", signal.variable());
        let exporters = self.get(&name);
        let (mut exports, mut is_understood) = (false, false);
        for exporter in exporters.iter().flat_map(|listed| listed.split(',')).map(str::trim) {
            match exporter {
                "otlp" => exports = true,
                "none" => is_understood = true,
                "" => {}
                // Whoever names one of these wants no collector in its place.
                other if UNSUPPORTED.contains(&other) => {
                    is_understood = true;
                    let why = format!(
                        "asks for `{other}`, which is not supported: nothing goes there, and {} go to a collector \
                         (`otlp`) or nowhere (`none`)",
                        signal.records()
                    );
                    self.wrong.insert(name.clone(), why);
                }
                other if also.contains(&other) => is_understood = true,
                other => self.ignore(&name, format!("`{other}` is neither `otlp` nor `none`")),
            }
        }
        // A variable in which nothing is understood is none.
        exports |= !is_understood;
        if !exports && is_written && !self.wrong.contains_key(&name) {
            self.overridden.push((name, self.at.clone()));
        }
        if !exports || is_written {
            return None;
        }
        self.endpoint(signal, false).map(|(endpoint, _)| endpoint)
    }

    /// A collector's URL, and whether it is the whole of it: one that is for this signal alone is taken as it is.
    pub(super) fn endpoint(&mut self, signal: Signal, is_written: bool) -> Option<(String, bool)> {
        let of_signal = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.variable());
        let of_all = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let mut found = None;
        for (name, is_whole) in [(of_signal.as_str(), true), (of_all, false)] {
            let read = |text: &str| match collector_url(text) {
                Ok(_) => Ok(text.to_owned()),
                Err((why, hint)) => Err(format!("it {why} ({hint})")),
            };
            let text = self.read(name, is_written, read);
            found = found.or(text.map(|text| (text, is_whole)));
        }
        found
    }

    /// The variable by which [`Otel::of`] goes.
    pub(super) fn name_of(&self, signal: Signal, what: &str) -> String {
        let of_signal = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.variable());
        if self.get(&of_signal).is_some() { of_signal } else { format!("OTEL_EXPORTER_OTLP_{what}") }
    }

    /// The variable's value; that it is not used where the file says it as well is noted.
    pub(super) fn or_written(&mut self, name: &str, is_written: bool) -> Option<String> {
        let value = self.get(name)?;
        if is_written {
            self.overridden.push((name.to_owned(), self.at.clone()));
        }
        Some(value).filter(|_| !is_written)
    }

    /// Of an exporter. What is said of one signal goes before what is said of all.
    pub(super) fn of(&mut self, signal: Signal, what: &str, is_written: bool) -> Option<String> {
        let of_signal =
            self.or_written(&format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.variable()), is_written);
        let of_all = self.or_written(&format!("OTEL_EXPORTER_OTLP_{what}"), is_written);
        of_signal.or(of_all)
    }

    pub(super) fn parse<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.get(name)?;
        parse(&text).map_err(|why| self.ignore(name, why.to_string())).ok()
    }

    /// The variable's value, if it can be understood and the file does not say it as well. One that cannot is told in either case.
    pub(super) fn read<T, E: Display>(
        &mut self,
        name: &str,
        is_written: bool,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.parse(name, parse)?;
        self.or_written(name, is_written).map(|_| value)
    }

    /// Above 0.
    pub(super) fn number(&mut self, name: &str, is_written: bool) -> Option<u64> {
        self.read(name, is_written, |text| above_zero(text).ok_or("it is no number above 0"))
    }

    pub(super) fn millis(&mut self, name: &str, is_written: bool) -> Option<Duration> {
        let read = |text: &str| above_zero(text).ok_or("it is no number of milliseconds above 0");
        self.read(name, is_written, read).map(Duration::from_millis)
    }

    /// Characters of an attribute's value, of spans or log records (`of`), at most `most`, which is also what nobody asked
    /// for.
    pub(super) fn longest_value(&mut self, of: &str, usual: usize, most: usize) -> usize {
        let names = [
            format!("OTEL_{of}_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT".to_owned(),
        ];
        for name in names {
            let read = |text: &str| text.parse::<usize>().map_err(|_| "it is no number of characters");
            let Some(limit) = self.parse(&name, read) else { continue };
            if limit > most {
                self.ignore(&name, format!("values are cut at {most} characters at most"));
                return most;
            }
            return limit;
        }
        usual
    }

    pub(super) fn ignore(&mut self, name: &str, why: impl Display) {
        self.wrong.entry(name.to_owned()).or_insert_with(|| format!("is ignored: {why}"));
    }

    /// What spans, metrics and log records are of: what the file says, over the variables, over what we know.
    pub(super) fn resource(&mut self, written: Option<&Tracing>) -> Vec<(String, Value)> {
        let mut all = BTreeMap::new();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let named = written.and_then(|written| written.service.clone());
        let service = self.or_written("OTEL_SERVICE_NAME", named.is_some());
        let service = named.or(service);
        for (key, value) in [
            ("service.name", "tidegate".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", instance()),
            ("host.name", host),
        ] {
            all.insert(key.to_owned(), Value::Text(value));
        }
        all.insert("process.pid".to_owned(), Value::Integer(std::process::id().into()));
        let given = self.get("OTEL_RESOURCE_ATTRIBUTES");
        let given = given.iter().flat_map(|given| pairs(given));
        let service = service.map(|service| ("service.name".to_owned(), service));
        let written = written.map(|written| written.resource.clone()).unwrap_or_default();
        all.extend(given.chain(service).chain(written).map(|(key, value)| (key, Value::Text(value))));
        // Not those of OpenTelemetry's SDK, and nobody can say otherwise.
        for (key, value) in [("telemetry.sdk.name", "tidegate"), ("telemetry.sdk.language", "rust")] {
            all.insert(key.to_owned(), Value::Text(value.to_owned()));
        }
        all.into_iter().collect()
    }
}

impl Compiler<'_> {
    /// Tells of the variables that were set for nothing.
    pub(super) fn tell(&mut self, variables: Otel<'_>) {
        let Otel { wrong, mut overridden, .. } = variables;
        // What is wrong with it comes first.
        overridden.retain(|(name, _)| !wrong.contains_key(name));
        let ignored = wrong.into_iter().map(|(name, why)| {
            Problem::new(format!("{name} {why}"))
                .hint("correct the variable, or say it in the file")
                .named("otel_variables")
        });
        self.warnings.extend(ignored);
        overridden.dedup();
        for (name, at) in overridden {
            let problem = self.sources.problem(&at, format!("{name} is set, and the file says otherwise"));
            self.warnings.push(problem.hint("unset the variable, or leave this out").named("otel_variables"));
        }
    }

    /// `OTEL_SDK_DISABLED` leaves what stands there without effect.
    pub(super) fn warn_of_disabled(&mut self, at: &Path) {
        self.warn(
            "otel_variables",
            at,
            "OTEL_SDK_DISABLED is true, so this does nothing",
            "unset the variable",
        );
    }
}

fn above_zero(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}

/// One for the life of the process.
fn instance() -> String {
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ID.get_or_init(|| uuid::Uuid::new_v4().to_string()).clone()
}

/// `key=value,key=value`, percent-encoded.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).filter(|(key, _)| !key.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(variables: &[(&str, &str)]) -> (usize, usize) {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let mut otel = Otel::new(&get);
        (otel.longest_value("SPAN", 1024, 16_384), otel.wrong.len())
    }

    #[test]
    fn what_is_said_of_one_kind_of_value_goes_before_what_is_said_of_all() {
        const ALL: &str = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT";
        const SPAN: &str = "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT";
        assert_eq!(longest(&[]), (1024, 0));
        assert_eq!(longest(&[(ALL, "10")]), (10, 0));
        assert_eq!(longest(&[(ALL, "10"), (SPAN, "20")]), (20, 0));
        assert_eq!(longest(&[(SPAN, "0")]), (0, 0));
        assert_eq!(longest(&[(ALL, "10"), (SPAN, "many")]), (10, 1));
        assert_eq!(longest(&[(ALL, "-1"), (SPAN, "")]), (1024, 1));
        assert_eq!(longest(&[(SPAN, "1000000")]), (16_384, 1));
    }
}
