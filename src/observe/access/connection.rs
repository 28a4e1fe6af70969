//! The access log's line for a connection that was carried without being looked into: what it has of a request's line
//! is said under the same keys.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::observe::{
    access::{Field, VALUE_LIMIT, fields::Value, number, optional},
    encode,
};

/// What is said about one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionEntry<'a> {
    /// When it ended.
    pub ts: SystemTime,
    pub listener: &'a str,
    pub upstream: Option<&'a str>,
    /// The address of the last attempt.
    pub endpoint: Option<&'a str>,
    /// Why it ended, where not both sides had said all.
    pub reason: Option<&'a str>,
    /// What stands behind the reason: a setting, or what the sidecar at the other end said.
    pub detail: Option<&'a str>,
    /// What HTTP would have answered, for the sample alone: failures are always logged.
    pub status: u16,
    pub attempts: u32,
    /// From the client, and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    /// Unspecified on a Unix socket.
    pub client: Option<IpAddr>,
    /// The caller's SPIFFE ID.
    pub peer: Option<&'a str>,
    /// The SPIFFE ID of whom it was carried to.
    pub upstream_peer: Option<&'a str>,
    /// The TLS version, where it was terminated.
    pub tls: Option<&'a str>,
    /// `TCP`, `TLS` where it passes through, or `tunnel` from another sidecar.
    pub protocol: &'a str,
    /// The name the client asked for, where TLS passes through.
    pub host: Option<&'a str>,
}

impl<'a> ConnectionEntry<'a> {
    /// `None` for what does not apply, as most that is said of requests does not.
    pub(super) fn value(&self, field: Field) -> Option<Value<'a>> {
        let text = match field {
            Field::Listener => Some(self.listener),
            Field::Upstream => self.upstream,
            Field::Endpoint => self.endpoint,
            Field::Host => self.host,
            Field::Reason => self.reason,
            Field::Detail => self.detail,
            Field::Peer => self.peer,
            Field::UpstreamPeer => self.upstream_peer,
            Field::Tls => self.tls,
            Field::Protocol => Some(self.protocol),
            Field::Attempts => return Some(Value::Number(self.attempts.into())),
            Field::BytesIn => return Some(Value::Number(self.bytes_in)),
            Field::BytesOut => return Some(Value::Number(self.bytes_out)),
            Field::DurationMs => return Some(Value::Millis(self.duration)),
            Field::Client => return self.client.map(Value::Address),
            _ => None,
        };
        text.map(Value::Text)
    }
}

pub(in crate::observe) fn json(
    line: &mut Vec<u8>,
    entry: &ConnectionEntry<'_>,
    keeps: impl Fn(Field) -> bool,
) {
    let kept = |field, value| if keeps(field) { value } else { None };
    line.extend_from_slice(br#"{"ts":""#);
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(br#"","level":"info","msg":"connection""#);
    optional(line, r#","listener":"#, kept(Field::Listener, Some(entry.listener)));
    optional(line, r#","upstream":"#, kept(Field::Upstream, entry.upstream));
    optional(line, r#","endpoint":"#, kept(Field::Endpoint, entry.endpoint));
    optional(line, r#","host":"#, kept(Field::Host, entry.host));
    optional(line, r#","reason":"#, kept(Field::Reason, entry.reason));
    optional(line, r#","detail":"#, kept(Field::Detail, entry.detail));
    if keeps(Field::Attempts) {
        number(line, r#","attempts":"#, entry.attempts.into());
    }
    if keeps(Field::BytesIn) {
        number(line, r#","bytes_in":"#, entry.bytes_in);
    }
    if keeps(Field::BytesOut) {
        number(line, r#","bytes_out":"#, entry.bytes_out);
    }
    if keeps(Field::DurationMs) {
        line.extend_from_slice(br#","duration_ms":"#);
        encode::millis(line, entry.duration);
    }
    if let Some(client) = entry.client.filter(|_| keeps(Field::Client)) {
        line.extend_from_slice(br#","client":""#);
        encode::address(line, client);
        line.push(b'"');
    }
    optional(line, r#","peer":"#, kept(Field::Peer, entry.peer));
    optional(line, r#","upstream_peer":"#, kept(Field::UpstreamPeer, entry.upstream_peer));
    optional(line, r#","tls":"#, kept(Field::Tls, entry.tls));
    optional(line, r#","protocol":"#, kept(Field::Protocol, Some(entry.protocol)));
    line.push(b'}');
}

/// `2026-01-01T00:00:00.000Z INFO  10.0.0.1 TCP db 1234.5ms upstream=postgres ...`
pub(in crate::observe) fn text(
    line: &mut Vec<u8>,
    entry: &ConnectionEntry<'_>,
    keeps: impl Fn(Field) -> bool,
) {
    encode::timestamp(line, entry.ts);
    line.extend_from_slice(b" INFO  ");
    match entry.client.filter(|_| keeps(Field::Client)) {
        Some(client) => encode::address(line, client),
        None => line.push(b'-'),
    }
    line.push(b' ');
    line.extend_from_slice(entry.protocol.as_bytes());
    line.push(b' ');
    encode::text_message(line, entry.listener, VALUE_LIMIT);
    line.push(b' ');
    encode::millis(line, entry.duration);
    line.extend_from_slice(b"ms");
    let words = [
        (" reason=", Field::Reason, entry.reason),
        (" detail=", Field::Detail, entry.detail),
        (" upstream=", Field::Upstream, entry.upstream),
        (" endpoint=", Field::Endpoint, entry.endpoint),
        (" host=", Field::Host, entry.host),
        (" peer=", Field::Peer, entry.peer),
        (" upstream_peer=", Field::UpstreamPeer, entry.upstream_peer),
        (" tls=", Field::Tls, entry.tls),
    ];
    for (key, field, value) in words {
        if let Some(value) = value.filter(|_| keeps(field)) {
            line.extend_from_slice(key.as_bytes());
            encode::text_value(line, value, VALUE_LIMIT);
        }
    }
    number(line, " attempts=", entry.attempts.into());
    number(line, " in=", entry.bytes_in);
    number(line, " out=", entry.bytes_out);
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn entry() -> ConnectionEntry<'static> {
        ConnectionEntry {
            ts: UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
            listener: "db",
            upstream: Some("postgres"),
            endpoint: Some("10.1.2.3:5432"),
            reason: Some("idle_timeout"),
            detail: None,
            status: 408,
            attempts: 2,
            bytes_in: 12,
            bytes_out: 15_321,
            duration: Duration::from_micros(1_234),
            client: Some(IpAddr::from([192, 0, 2, 17])),
            peer: None,
            upstream_peer: None,
            tls: Some("TLSv1.3"),
            protocol: "TCP",
            host: None,
        }
    }

    #[test]
    fn a_connection_is_one_object_with_the_keys_of_a_request() {
        let mut line = Vec::new();
        json(&mut line, &entry(), |_| true);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"ts":"2026-01-01T00:00:00.123Z","level":"info","msg":"connection","listener":"db","upstream":"postgres","endpoint":"10.1.2.3:5432","reason":"idle_timeout","attempts":2,"bytes_in":12,"bytes_out":15321,"duration_ms":1.234,"client":"192.0.2.17","tls":"TLSv1.3","protocol":"TCP"}"#
        );
    }

    #[test]
    fn the_text_reads_as_one_line() {
        let mut line = Vec::new();
        text(&mut line, &entry(), |_| true);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "2026-01-01T00:00:00.123Z INFO  192.0.2.17 TCP db 1.234ms reason=idle_timeout upstream=postgres endpoint=10.1.2.3:5432 tls=TLSv1.3 attempts=2 in=12 out=15321"
        );
    }
}
