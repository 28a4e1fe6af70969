//! What a request may not say by itself is taken off as it arrives, before a route or a filter could go by it: what only
//! proxies in front may say, if it does not come from one that is trusted; what only the gateway says; and whatever an upstream
//! could take for one of them.

use http::HeaderName;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    config::{self, ClientCertHeader, ForwardedHeader},
    filter::Facts,
    http::{Speaker, is_in_disguise, speaker},
};

/// After [`claim`](super::claim), which reads what is believed.
pub(crate) fn forget_forged(request: &mut RequestHeader, facts: &Facts, settings: &config::Forwarded) {
    let is_believed = |speaker| facts.from_trusted && believed(speaker, settings);
    let is_forged = |name: &&HeaderName| match speaker(name.as_str()) {
        Some(speaker) => !is_believed(speaker),
        // A trusted proxy may have passed it on as the client wrote it.
        None => is_in_disguise(name.as_str()),
    };
    let forged: Vec<HeaderName> = request.headers.keys().filter(is_forged).cloned().collect();
    forged.iter().for_each(|name| drop(request.remove_header(name)));
}

/// Whether it is believed of a trusted proxy. Proxies that write the one header pass on the other as they got it.
fn believed(speaker: Speaker, settings: &config::Forwarded) -> bool {
    match speaker {
        Speaker::Proxy => settings.trust == ForwardedHeader::XForwardedFor,
        Speaker::ProxyByRfc7239 => settings.trust == ForwardedHeader::Forwarded,
        Speaker::ProxyByCertificate => settings.client_cert == ClientCertHeader::Append,
        Speaker::Gateway => false,
    }
}

/// An upstream's answer, interim or final, does not say what only the gateway says.
pub(crate) fn forget_ours(response: &mut ResponseHeader) {
    let is_ours = |name: &&HeaderName| speaker(name.as_str()) == Some(Speaker::Gateway);
    let ours: Vec<HeaderName> = response.headers.keys().filter(is_ours).cloned().collect();
    ours.iter().for_each(|name| drop(response.remove_header(name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: [&str; 9] = [
        "x-forwarded-for",
        "x-forwarded-port",
        "x-real-ip",
        "true-client-ip",
        "forwarded",
        "x-forwarded-client-cert",
        "x-tidegate-attempts",
        "x_forwarded_for",
        "x-tenant_id",
    ];

    fn left(from_trusted: bool, settings: &config::Forwarded) -> Vec<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in SAID {
            request.insert_header(name, "forged").unwrap();
        }
        forget_forged(&mut request, &Facts { from_trusted, ..Facts::default() }, settings);
        let mut left: Vec<_> = request.headers.keys().map(|name| name.as_str().to_owned()).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn only_what_a_trusted_proxy_is_said_to_write_stays() {
        let x = ["true-client-ip", "x-forwarded-for", "x-forwarded-port", "x-real-ip", "x-tenant_id"];
        let usual = config::Forwarded::default();
        assert_eq!(left(false, &usual), ["x-tenant_id"]);
        assert_eq!(left(true, &usual), x);
        let by_rfc = config::Forwarded { trust: ForwardedHeader::Forwarded, ..usual.clone() };
        assert_eq!(left(true, &by_rfc), ["forwarded", "x-tenant_id"]);
        let appends = config::Forwarded { client_cert: ClientCertHeader::Append, ..by_rfc };
        assert_eq!(left(false, &appends), ["x-tenant_id"]);
        assert_eq!(left(true, &appends), ["forwarded", "x-forwarded-client-cert", "x-tenant_id"]);
    }

    #[test]
    fn an_answer_loses_what_only_the_gateway_says() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for name in ["x-tidegate-reason", "X-Tidegate-Other", "x-served-by", "x-forwarded-for"] {
            response.append_header(name, "1").unwrap();
        }
        forget_ours(&mut response);
        let mut left: Vec<_> = response.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-served-by"]);
    }
}
