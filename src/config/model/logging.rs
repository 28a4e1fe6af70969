//! `log`: the process's messages and the access log.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    health_check::ExpectedStatuses,
    log_targets::LogTargets,
    route::{PathMatch, RouteMatch, ValueMatch},
    units::{ByteSize, HumanDuration, Ratio},
};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe messages that are written.
    pub level: LogLevel,
    /// Default: text when stdout is a terminal, json otherwise.
    pub format: Option<LogFormat>,
    /// Names of headers, query parameters, claims and path parameters that hold secrets. They are never written to the
    /// access log or to spans, as `authorization`, `proxy-authorization`, `cookie` and `set-cookie` never are.
    pub redact: Vec<String>,
    /// A line for each request.
    pub access: AccessLog,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr`, `off`, a file, `{syslog: ...}`, `{otlp: ...}`, or a list of them.
    pub to: LogTargets,
    /// Default: as `log.format`.
    pub format: Option<LogFormat>,
    /// The share of requests that are logged; answers of 500 and above always are.
    pub sample: Ratio,
    /// Lines waiting to be written may take this much memory; beyond it they are dropped and counted.
    pub buffer: ByteSize,
    /// What each line has beside, or without, the usual fields.
    pub fields: LogFields,
    /// What a line says, in place of `format` and `fields`: text with placeholders, and fields of the line in braces.
    pub template: Option<String>,
    /// Which requests are logged; all of it must hold.
    pub when: Option<LogWhen>,
}

/// What a line says more, and what it leaves out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFields {
    /// By name; text with placeholders.
    pub add: BTreeMap<String, String>,
    /// Usual fields that are left out.
    pub drop: Vec<String>,
}

/// A filter like a route's match, and how a request has ended.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogWhen {
    /// Only requests for these hosts.
    pub hosts: Vec<String>,
    /// Only requests for this path.
    pub path: Option<PathMatch>,
    /// Only requests with these methods.
    pub methods: Vec<String>,
    /// Only requests with these header fields.
    pub headers: BTreeMap<String, ValueMatch>,
    /// Only requests with these query parameters.
    pub query: BTreeMap<String, ValueMatch>,
    /// A status, a class such as `5xx`, a range, or a list of them. A gRPC call that a server failed counts as 500.
    pub status: Option<ExpectedStatuses>,
    /// Any of these reasons of the gateway's own.
    pub reason: Vec<String>,
    /// It took at least so long.
    pub duration: Option<HumanDuration>,
}

impl LogWhen {
    /// What is asked of the request itself.
    pub fn matching(&self) -> RouteMatch {
        let LogWhen { hosts, path, methods, headers, query, status: _, reason: _, duration: _ } =
            self.clone();
        RouteMatch { hosts, path, methods, headers, query, ..RouteMatch::default() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: None, redact: Vec::new(), access: AccessLog::default() }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog {
            to: LogTargets::default(),
            format: None,
            sample: Ratio::from_percent(100),
            buffer: ByteSize::mib(8),
            fields: LogFields::default(),
            template: None,
            when: None,
        }
    }
}
