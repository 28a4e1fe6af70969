//! `X-Forwarded-Client-Cert`: whose certificate the client has shown. An upstream that reads it takes it for proof, so
//! what comes from outside never gets through, unless a trusted proxy is expected to send it: it is taken off on arrival
//! ([`forget_forged`](super::forget_forged)).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded::{joined, set};
use crate::{
    config::{self, ClientCertHeader},
    error::Reason,
    filter::Facts,
};

static NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

pub(super) fn write(
    headers: &mut HeaderMap,
    facts: &Facts,
    settings: &config::Forwarded,
) -> Result<(), Reason> {
    let Some(own) = facts.client_cert.as_ref().filter(|_| settings.client_cert != ClientCertHeader::Off)
    else {
        return Ok(());
    };
    let list = match settings.client_cert {
        ClientCertHeader::Append => joined(headers, &NAME),
        _ => None,
    };
    let value = match list {
        None => own.clone(),
        Some(mut list) => {
            list.push(b',');
            list.extend_from_slice(own.as_bytes());
            HeaderValue::from_bytes(&list).map_err(|_| Reason::Internal)?
        }
    };
    set(headers, &NAME, value)
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::forward::forget_forged;

    fn passed(client_cert: ClientCertHeader, from_trusted: bool, own: bool) -> Option<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("X-Forwarded-Client-Cert", "Hash=forged").unwrap();
        let client_cert_value = own.then(|| HeaderValue::from_static("Hash=own"));
        let facts = Facts { from_trusted, client_cert: client_cert_value, ..Facts::default() };
        let settings = config::Forwarded { client_cert, ..Default::default() };
        forget_forged(&mut request, &facts, &settings);
        let mut headers = request.headers.clone();
        write(&mut headers, &facts, &settings).unwrap();
        headers.get(&NAME).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_where_that_is_asked_for() {
        use ClientCertHeader::{Append, Off, Write};
        for (setting, from_trusted, own, expected) in [
            (Off, true, true, None),
            (Off, false, false, None),
            (Write, true, false, None),
            (Write, true, true, Some("Hash=own")),
            (Write, false, true, Some("Hash=own")),
            (Append, false, false, None),
            (Append, false, true, Some("Hash=own")),
            (Append, true, false, Some("Hash=forged")),
            (Append, true, true, Some("Hash=forged,Hash=own")),
        ] {
            let passed = passed(setting, from_trusted, own);
            assert_eq!(passed.as_deref(), expected, "{setting:?} {from_trusted} {own}");
        }
    }
}
