//! `log`: the process's messages and the access log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{ByteSize, Ratio};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: LogLevel,
    /// Default: text when stdout is a terminal, json otherwise.
    pub format: Option<LogFormat>,
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
    /// `stdout`, `stderr`, `off`, or a file path (reopened on SIGUSR1).
    pub to: String,
    /// Default: as `log.format`.
    pub format: Option<LogFormat>,
    /// The share of requests that are logged; answers of 500 and above always are.
    pub sample: Ratio,
    /// Lines waiting to be written may take this much memory; beyond it they are dropped and counted.
    pub buffer: ByteSize,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: None, access: AccessLog::default() }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog {
            to: "stdout".into(),
            format: None,
            sample: Ratio::from_percent(100),
            buffer: ByteSize::mib(8),
        }
    }
}
