//! What the configuration says of the access log, as the recorder takes it.

use std::{io, sync::Arc};

use tokio::runtime::Handle;

use super::format;
use crate::{
    config::{self, Config, LogTarget, SyslogAddress},
    names::Resolve,
    observe::{
        Format,
        access::{Field, Shape, When},
        log_writer::Target,
        recorder::AccessSettings,
        syslog::{Destination, Head, Lookup, TlsFiles, Transport},
    },
    snapshot::OwnLines,
};

/// `records` says whether they go to a collector, which is planned elsewhere.
pub(super) fn settings(config: &Config, own: Option<&OwnLines>, records: bool) -> AccessSettings {
    let config::AccessLog { to, format: written, sample, buffer, fields, template, when } =
        &config.log.access;
    // What is no request stands between lines that the operator has laid out for people and programs of their own.
    let format = if template.is_some() { Format::Text } else { format(written.or(config.log.format)) };
    // A secret may have a field of its own, such as `user_agent`.
    let redacted = config.log.redact.iter().map(|name| name.to_ascii_lowercase().replace('-', "_"));
    let dropped = fields.drop.iter().cloned().chain(redacted).filter_map(|name| Field::named(&name));
    let shape = Shape {
        format,
        sample: sample.as_f64(),
        dropped: dropped.filter(|field| field.is_optional()).collect(),
        when: when.as_ref().map(|when| When {
            statuses: when.status.as_ref().map(|status| status.0.clone()).unwrap_or_default(),
            reasons: when.reason.clone(),
            at_least: when.duration.map(Into::into).unwrap_or_default(),
            of_requests: when.matching() != config::RouteMatch::default(),
        }),
        layout: own.map(|own| own.layout.clone()),
    };
    AccessSettings {
        targets: to.0.iter().filter_map(target).collect(),
        shape,
        records,
        buffer: buffer.bytes() as usize,
    }
}

fn target(target: &LogTarget) -> Option<Target> {
    Some(match target {
        LogTarget::Stdout => Target::Stdout,
        LogTarget::Stderr => Target::Stderr,
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Syslog(syslog) => Target::Syslog(destination(syslog)),
        LogTarget::Otlp(_) => return None,
    })
}

fn destination(syslog: &config::Syslog) -> Destination {
    let transport = match syslog.address.clone() {
        SyslogAddress::Udp(host, port) => Transport::Udp(host, port),
        SyslogAddress::Tcp(host, port) => Transport::Tcp(host, port),
        SyslogAddress::Tls(host, port) => {
            let config::SyslogTls { ca, cert, key, name } = syslog.tls.clone().unwrap_or_default();
            Transport::Tls(host, port, TlsFiles { ca, client_cert: cert.zip(key), name })
        }
        SyslogAddress::Unix(path) => Transport::Unix(path),
    };
    let hostname = syslog.hostname.clone().or_else(machine).unwrap_or_else(|| "-".to_owned());
    Destination { transport, head: Head::new(syslog.facility as u8, &hostname, &syslog.app_name) }
}

fn machine() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| name.to_owned())
}

/// For threads of their own alone, since it waits.
pub(super) fn lookup(names: Arc<dyn Resolve>, runtime: Handle) -> Lookup {
    Arc::new(move |host| {
        let resolved = runtime.block_on(names.resolve(host));
        resolved.map(|resolved| resolved.addresses).map_err(|error| io::Error::other(error.to_string()))
    })
}
