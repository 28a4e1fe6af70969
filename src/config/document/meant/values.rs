//! Words of other gateways where one of ours is due.

use super::{Place, place, plain};
use crate::config::document::problem::Path;

/// What to write in the place of `value` at `path`, where it is none of the values there.
pub(in crate::config) fn unknown_value(path: &Path, value: &str) -> Option<String> {
    let (_, last) = place(path);
    let holder = path.parent();
    let (holder, _) = holder.as_ref().map_or((Place::Elsewhere, ""), place);
    let word = plain(value);
    let what = match (holder, last, word.as_str()) {
        (Place::Upstream, "protocol", "https" | "tls" | "ssl" | "https1") => {
            "write `tls: {}` beside `endpoints`, and leave `protocol` out"
        }
        (Place::Upstream, "protocol", "http" | "http11" | "h1" | "tcp") => {
            "write `protocol: http1`, which is the default"
        }
        (Place::Upstream, "protocol", "h2" | "h2c" | "http20") => "write `protocol: http2`",
        (Place::Upstream, "protocol", "grpcs") => "write `protocol: grpc` and `tls: {}`",
        (Place::Upstream, "protocol", "ws" | "wss" | "websocket") => {
            "leave it out: WebSockets pass as they are"
        }
        (Place::Listener, "protocol", "https" | "tls" | "ssl" | "terminatedhttps") => {
            "write `protocol: http` with `tls: {certificates: [{cert: FILE, key: FILE}]}`"
        }
        (
            Place::Listener,
            "protocol",
            "http1" | "http2" | "h2" | "h2c" | "grpc" | "auto" | "http11" | "ws",
        ) => "write `protocol: http`, which takes HTTP/1.1, HTTP/2 and gRPC",
        (Place::Listener, "protocol", "passthrough" | "tlspassthrough" | "sni") => {
            "write `protocol: tls_passthrough`"
        }
        (Place::Listener, "protocol", "udp" | "quic" | "http3" | "h3") => {
            "only TCP is served: `http`, `tcp` or `tls_passthrough`"
        }
        (Place::Listener, "protocol", "stream" | "layer4" | "raw") => "write `protocol: tcp`",
        (
            Place::Upstream,
            "balancer",
            "leastconn" | "leastconnection" | "leastconnections" | "leastrequest" | "least" | "lc",
        ) => "write `balancer: least_requests`",
        (Place::Upstream, "balancer", "rr" | "wrr" | "weighted" | "weightedroundrobin" | "staticrr") => {
            "write `balancer: round_robin`, which goes by weights"
        }
        (Place::Upstream, "balancer", "iphash" | "source" | "clientip" | "sourceip") => {
            "write `balancer: {hash: client_ip}`"
        }
        (
            Place::Upstream,
            "balancer",
            "ringhash" | "maglev" | "consistenthash" | "hash" | "header" | "uri" | "urihash" | "ketama",
        ) => "write `balancer: {hash: {header: NAME}}`",
        (
            Place::Balancer,
            "hash",
            "$remoteaddr" | "$binaryremoteaddr" | "remoteaddr" | "ip" | "source" | "src" | "sourceip",
        ) => "write `hash: client_ip`",
        (Place::Upstream, "balancer", "cookie" | "sticky") => "write `balancer: {hash: {cookie: NAME}}`",
        (Place::Upstream, "balancer", "p2c" | "ewma" | "randomchoose" | "peakewma") => {
            "write `balancer: p2c_ewma`"
        }
        (Place::Upstream, "balancer", "first") => {
            "write `balancer: round_robin`: endpoints share the requests"
        }
        (Place::Log, "level", "warning") => "write `level: warn`",
        (Place::Log, "level", "err" | "fatal" | "critical" | "crit" | "emerg" | "alert") => {
            "write `level: error`"
        }
        (Place::Log, "level", "notice") => "write `level: info`",
        (
            Place::Log | Place::AccessLog,
            "format",
            "combined" | "common" | "clf" | "console" | "plain" | "logfmt",
        ) => "write `format: text` or `format: json`; a `template` says all of an access line",
        (Place::Listener, "proxy_protocol", "on" | "true" | "v1" | "v2" | "yes") => {
            "write `proxy_protocol: accept`"
        }
        (_, "min_version", "tlsv12" | "tls12" | "12" | "tlsv1.2") => "write `min_version: \"1.2\"`",
        (_, "min_version", "tlsv13" | "tls13" | "13") => "write `min_version: \"1.3\"`",
        (
            _,
            "min_version",
            "10" | "11" | "tlsv10" | "tlsv11" | "tlsv1" | "tls10" | "tls11" | "ssl3" | "sslv3",
        ) => "write `min_version: \"1.2\"`: older versions are not spoken",
        (_, "mode", "requireandverifyclientcert" | "verify" | "strict" | "on" | "required") => {
            "write `mode: require`"
        }
        (_, "mode", "verifyclientcertifgiven" | "optional" | "requestclientcert") => "write `mode: request`",
        (Place::Split | Place::Canary, "by", "cookie" | "sticky") => "write `by: {cookie: NAME}`",
        (Place::Split | Place::Canary, "by", "header") => "write `by: {header: NAME}`",
        (Place::Split | Place::Canary, "by", "ip" | "source" | "iphash") => "write `by: client_ip`",
        (Place::Split | Place::Canary, "by", "weight" | "percent" | "weighted") => {
            "write `by: random`, which goes by weights"
        }
        (Place::Upstream, "affinity", "clientip" | "sourceip" | "iphash" | "ip" | "source") => {
            "write `balancer: {hash: client_ip}` in the place of `affinity`"
        }
        (_, "challenges", "dns" | "dns01") => "write `challenges: [dns-01]`, with `dns`",
        (_, "challenges", "http" | "http01") => "write `challenges: [http-01]`",
        (_, "challenges", "tls" | "tlsalpn" | "tls01") => "write `challenges: [tls-alpn-01]`",
        (Place::Breaker, "failures", "503" | "500" | "502" | "504" | "error" | "errors") => {
            "write `failures: [5xx]`"
        }
        _ => return None,
    };
    Some(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_leads_to_ours_by_where_it_stands() {
        let upstream = Path::root().key("upstreams").key("a");
        let listener = Path::root().key("listeners").index(0);
        for (path, value, expected) in [
            (upstream.key("protocol"), "https", "tls: {}"),
            (listener.key("protocol"), "https", "certificates"),
            (upstream.key("balancer"), "leastConn", "least_requests"),
            (upstream.key("balancer").key("hash"), "$remote_addr", "hash: client_ip"),
            (listener.key("tls").key("min_version"), "TLSv1.3", "\"1.3\""),
        ] {
            let hint = unknown_value(&path, value).unwrap();
            assert!(hint.contains(expected), "{hint}");
        }
        assert_eq!(unknown_value(&upstream.key("protocol"), "htttp1"), None);
    }
}
