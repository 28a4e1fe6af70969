//! Who may use the admin API: whoever has the token and the certificate that are asked for, or, where neither is, whoever is
//! on this machine.

use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::{
    api::{
        guard::{Denied, bearer, is_token},
        reply::{Refusal, refuse},
    },
    config::Secret,
};

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        refuse(denied.status, denied.why)
    }
}

/// Refuses a stranger where certificates are asked for. `is_known`: the connection's other end has proved by a certificate
/// that it may use the API.
pub(crate) fn check_caller(is_known: bool, wants_certificate: bool) -> Result<(), Refusal> {
    if is_known || !wants_certificate {
        return Ok(());
    }
    let why = "come with a client certificate by an authority of `admin.tls.client_ca`";
    Err(refuse(StatusCode::FORBIDDEN, why))
}

/// Refuses a request without the token, where there is one.
pub(crate) fn check_token(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Refusal> {
    let Some(token) = token else { return Ok(()) };
    let given = bearer(headers);
    if given.is_some_and(|given| is_token(given, token)) {
        return Ok(());
    }
    let why = match given {
        Some(_) => "this is not the token (it is `admin.token` in the configuration)",
        None => "send the token as `Authorization: Bearer TOKEN` (it is `admin.token` in the configuration)",
    };
    let mut refusal = refuse(StatusCode::UNAUTHORIZED, why);
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn a_stranger_is_refused_where_a_certificate_is_asked_for() {
        for (is_known, wants_certificate, allowed) in
            [(true, true, true), (false, true, false), (false, false, true)]
        {
            assert_eq!(
                check_caller(is_known, wants_certificate).is_ok(),
                allowed,
                "{is_known} {wants_certificate}"
            );
        }
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token = Secret::new("correct horse");
        for (given, allowed) in [
            (Some("Bearer correct horse"), true),
            (Some("bearer correct horse"), true),
            (Some("Bearer correct hors"), false),
            (Some("Bearer correct horse battery"), false),
            (Some("Bearer "), false),
            (Some("Basic correct horse"), false),
            (Some(""), false),
            (None, false),
        ] {
            let headers = given.map(|given| (AUTHORIZATION, given.parse().unwrap()));
            let headers = HeaderMap::from_iter(headers);
            let checked = check_token(&headers, Some(&token));
            assert_eq!(checked.is_ok(), allowed, "{given:?}");
            if let Err(refusal) = checked {
                assert_eq!(
                    (refusal.status().as_u16(), &refusal.headers()["www-authenticate"]),
                    (401, &"Bearer".parse().unwrap())
                );
            }
            assert!(check_token(&headers, None).is_ok());
        }
    }
}
