//! What is exported (pure): where each kind of it is sent, and what its messages call it.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

/// The lists of a request in JSON, from the outermost in, and what an answer calls those that were rejected.
pub(super) struct Keys {
    pub by_resource: &'static str,
    pub by_scope: &'static str,
    pub records: &'static str,
    pub rejected: &'static str,
}

impl Signal {
    /// Behind the base URL of a collector, over HTTP.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
        }
    }

    /// Its method of gRPC, as a path.
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// As the variables of OpenTelemetry name it.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
            Signal::Logs => "LOGS",
        }
    }

    /// In words.
    pub(crate) const fn records(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Metrics => "metrics",
            Signal::Logs => "log records",
        }
    }

    pub(super) const fn keys(self) -> Keys {
        match self {
            Signal::Traces => Keys {
                by_resource: "resourceSpans",
                by_scope: "scopeSpans",
                records: "spans",
                rejected: "rejectedSpans",
            },
            Signal::Metrics => Keys {
                by_resource: "resourceMetrics",
                by_scope: "scopeMetrics",
                records: "metrics",
                rejected: "rejectedDataPoints",
            },
            Signal::Logs => Keys {
                by_resource: "resourceLogs",
                by_scope: "scopeLogs",
                records: "logRecords",
                rejected: "rejectedLogRecords",
            },
        }
    }
}
