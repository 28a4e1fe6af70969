//! Where access lines go: one word, a file's path or a map, or a list of them.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    otlp::Otlp,
    units::{Given, read},
    unix::unix_path,
};

/// None turns the log off.
#[derive(Clone, Debug, PartialEq)]
pub struct LogTargets(pub Vec<LogTarget>);

#[derive(Clone, Debug, PartialEq)]
pub enum LogTarget {
    Stdout,
    Stderr,
    /// Opened again on SIGUSR1.
    File(PathBuf),
    Syslog(Syslog),
    /// Records of a collector of OpenTelemetry.
    Otlp(Otlp),
}

/// Lines as messages of RFC 5424.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// `udp://HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:PATH`.
    pub address: SyslogAddress,
    /// The facility of RFC 5424, by name.
    #[serde(default)]
    pub facility: Facility,
    /// At most 48 printable characters of ASCII.
    #[serde(default = "default_app_name")]
    pub app_name: String,
    /// Default: the machine's.
    pub hostname: Option<String>,
    /// Of `tls://`.
    pub tls: Option<SyslogTls>,
}

/// TLS towards a server of syslog (RFC 5425). The files are read anew for each connection.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyslogTls {
    /// PEM: the authorities that the server's certificate may be of. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// PEM: a certificate that says who we are.
    pub cert: Option<PathBuf>,
    /// PEM: its key.
    pub key: Option<PathBuf>,
    /// Whose certificate it must be. Default: the host of the address.
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    Udp(String, u16),
    Tcp(String, u16),
    Tls(String, u16),
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Facility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    Authpriv = 10,
    #[default]
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

fn default_app_name() -> String {
    "tidegate".into()
}

impl Default for LogTargets {
    fn default() -> Self {
        LogTargets(vec![LogTarget::Stdout])
    }
}

impl LogTargets {
    pub fn syslogs_mut(&mut self) -> impl Iterator<Item = &mut Syslog> {
        self.0.iter_mut().filter_map(|target| match target {
            LogTarget::Syslog(syslog) => Some(syslog),
            _ => None,
        })
    }

    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter_map(|target| match target {
            LogTarget::File(path) => Some(path),
            _ => None,
        })
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.0.iter_mut().filter_map(|target| match target {
            LogTarget::File(path) => Some(path),
            _ => None,
        })
    }
}

impl LogTarget {
    /// `None` for what is not one alone.
    fn named(word: &str) -> Option<LogTarget> {
        Some(match word {
            "" | "off" => return None,
            "stdout" => LogTarget::Stdout,
            "stderr" => LogTarget::Stderr,
            path => LogTarget::File(path.into()),
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Named {
    /// A syslog server.
    syslog: Option<Syslog>,
    /// A collector of OpenTelemetry.
    otlp: Option<Otlp>,
}

const FORMS: &str = "`stdout`, `stderr`, a file's path, or a map with `syslog` or `otlp`";

struct TargetVisitor;

impl<'de> Visitor<'de> for TargetVisitor {
    type Value = LogTarget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<LogTarget, E> {
        LogTarget::named(word)
            .ok_or_else(|| E::custom(format!("\"{word}\" is no place for lines (expected {FORMS})")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LogTarget, A::Error> {
        match Named::deserialize(MapAccessDeserializer::new(map))? {
            Named { syslog: Some(syslog), otlp: None } => Ok(LogTarget::Syslog(syslog)),
            Named { syslog: None, otlp: Some(otlp) } => Ok(LogTarget::Otlp(otlp)),
            Named { syslog: Some(_), otlp: Some(_) } => {
                Err(A::Error::custom("`syslog` and `otlp` are two places (write a list)"))
            }
            Named { syslog: None, otlp: None } => {
                Err(A::Error::custom(format!("it names no place for lines (expected {FORMS})")))
            }
        }
    }
}

impl<'de> Deserialize<'de> for LogTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetsVisitor;

impl<'de> Visitor<'de> for TargetsVisitor {
    type Value = LogTargets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`off`, {FORMS}, or a list of them")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<LogTargets, E> {
        match word {
            "off" => Ok(LogTargets(Vec::new())),
            word => TargetVisitor.visit_str(word).map(|target| LogTargets(vec![target])),
        }
    }

    /// What `off` becomes where a tool has loaded it (YAML 1.1).
    fn visit_bool<E: Error>(self, on: bool) -> Result<LogTargets, E> {
        match on {
            false => Ok(LogTargets(Vec::new())),
            true => Err(E::invalid_type(Unexpected::Bool(on), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LogTargets, A::Error> {
        TargetVisitor.visit_map(map).map(|target| LogTargets(vec![target]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<LogTargets, A::Error> {
        let mut targets = Vec::new();
        while let Some(target) = items.next_element()? {
            if targets.contains(&target) {
                return Err(A::Error::custom("the same place stands there twice"));
            }
            targets.push(target);
        }
        if targets.is_empty() {
            return Err(A::Error::custom("an empty list is no place for lines (`off` turns the log off)"));
        }
        Ok(LogTargets(targets))
    }
}

impl<'de> Deserialize<'de> for LogTargets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetsVisitor)
    }
}

impl Serialize for LogTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LogTarget::Stdout => serializer.serialize_str("stdout"),
            LogTarget::Stderr => serializer.serialize_str("stderr"),
            LogTarget::File(path) => path.serialize(serializer),
            LogTarget::Syslog(syslog) => serializer.collect_map([("syslog", syslog)]),
            LogTarget::Otlp(otlp) => serializer.collect_map([("otlp", otlp)]),
        }
    }
}

impl Serialize for LogTargets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => serializer.serialize_str("off"),
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl JsonSchema for LogTargets {
    fn schema_name() -> Cow<'static, str> {
        "LogTargets".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let named = generator.subschema_for::<Named>();
        let one = json_schema!({"anyOf": [{"type": "string", "minLength": 1}, named]});
        let description = "`stdout`, `stderr`, `off`, a file's path (reopened on SIGUSR1), a syslog server, a collector of OpenTelemetry, or a list.";
        let several = json_schema!({"type": "array", "minItems": 1, "items": one});
        json_schema!({"description": description, "anyOf": [one, {"const": false}, several]})
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyslogAddress::Udp(host, port) => write!(f, "udp://{host}:{port}"),
            SyslogAddress::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
            SyslogAddress::Tls(host, port) => write!(f, "tls://{host}:{port}"),
            SyslogAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl SyslogAddress {
    fn parse(given: Given<'_>) -> Result<SyslogAddress, String> {
        let wrong =
            || format!("{given} is no syslog server (try \"udp://127.0.0.1:514\" or \"unix:/dev/log\")");
        let Given::Text(text) = given else { return Err(wrong()) };
        if let Some(path) = unix_path(text) {
            return path.map(SyslogAddress::Unix);
        }
        let (kind, address) = text.split_once("://").ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let is_host = !host.is_empty()
            && (host.parse::<std::net::Ipv4Addr>().is_ok()
                || host.starts_with('[') && host.ends_with(']')
                || host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')));
        match kind {
            "udp" if is_host => Ok(SyslogAddress::Udp(host.to_owned(), port)),
            "tcp" if is_host => Ok(SyslogAddress::Tcp(host.to_owned(), port)),
            "tls" if is_host => Ok(SyslogAddress::Tls(host.to_owned(), port)),
            _ => Err(wrong()),
        }
    }
}

impl<'de> Deserialize<'de> for SyslogAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a syslog server such as \"udp://127.0.0.1:514\"", SyslogAddress::parse)
    }
}

impl Serialize for SyslogAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for SyslogAddress {
    fn schema_name() -> Cow<'static, str> {
        "SyslogAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(udp://|tcp://|tls://|unix:)"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_or_several_and_written_as_they_were() {
        for yaml in [
            "stdout",
            "'off'",
            "/var/log/access.log",
            "[stdout, /var/log/access.log]",
            "{syslog: {address: 'tcp://logs.example:601', facility: local3, app_name: edge, hostname: h}}",
            "{syslog: {address: 'tls://logs.example:6514', tls: {ca: ca.pem, name: logs}}}",
            "[stdout, {otlp: {endpoint: 'http://collector:4318', queue: 1MiB}}]",
        ] {
            let read: LogTargets = serde_yaml::from_str(yaml).unwrap();
            let again: LogTargets = serde_yaml::from_str(&serde_yaml::to_string(&read).unwrap()).unwrap();
            assert_eq!(read, again, "{yaml}");
        }
    }

    #[test]
    fn says_what_is_no_place() {
        for (yaml, expected) in [
            ("[]", "`off` turns the log off"),
            ("[stdout, 'off']", "is no place for lines"),
            ("[stdout, stdout]", "twice"),
            ("{syslog: {address: '127.0.0.1:514'}}", "is no syslog server"),
            ("{syslog: {address: 'ssl://127.0.0.1:514'}}", "is no syslog server"),
            ("{}", "it names no place for lines"),
            ("{syslog: {address: 'udp://127.0.0.1:514'}, otlp: {}}", "are two places"),
            ("{syslog: {address: 'udp://127.0.0.1'}}", "is no syslog server"),
            ("{syslog: {address: 'unix:dev/log'}}", "full path"),
            ("{syslog: {address: 'udp://127.0.0.1:514', facility: local9}}", "local9"),
            ("7", "or a list of them"),
        ] {
            let error = serde_yaml::from_str::<LogTargets>(yaml).unwrap_err().to_string();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
