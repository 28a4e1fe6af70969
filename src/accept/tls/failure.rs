//! Why a handshake failed, as one of a few words: a client could otherwise fill the metrics with its mistakes.

use std::fmt;

use pingora_core::tls::{
    error::ErrorStack,
    ssl::{Error, ErrorCode, SslRef},
};

use crate::tls;

/// For a client that speaks HTTP where TLS is expected; it would not understand an alert.
pub(in crate::accept) const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 48\r\nx-tidegate-reason: bad_request\r\nconnection: close\r\n\r\n\
    bad request: this port speaks HTTPS, not HTTP.\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Timeout,
    Draining,
    /// The client left in the middle.
    Closed,
    PlainHttp,
    /// Neither TLS nor HTTP.
    NotTls,
    ProtocolVersion,
    NoSharedCipher,
    NoApplicationProtocol,
    /// The client has sent an alert: most often, it does not trust our certificate.
    ClientAlert,
    CertificateMissing,
    CertificateExpired,
    CertificateUntrusted,
    CertificateInvalid,
    CertificateRevoked,
    /// There is no good list of what its authority has revoked.
    NoCrl,
    /// We have none to show yet.
    NoCertificate,
    Other,
}

impl Cause {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Cause::Timeout => "timeout",
            Cause::Draining => "draining",
            Cause::Closed => "closed",
            Cause::PlainHttp => "plain_http",
            Cause::NotTls => "not_tls",
            Cause::ProtocolVersion => "protocol_version",
            Cause::NoSharedCipher => "no_shared_cipher",
            Cause::NoApplicationProtocol => "no_application_protocol",
            Cause::ClientAlert => "client_alert",
            Cause::CertificateMissing => "certificate_missing",
            Cause::CertificateExpired => "certificate_expired",
            Cause::CertificateUntrusted => "certificate_untrusted",
            Cause::CertificateInvalid => "certificate_invalid",
            Cause::CertificateRevoked => "certificate_revoked",
            Cause::NoCrl => "no_crl",
            Cause::NoCertificate => "no_certificate",
            Cause::Other => "other",
        }
    }
}

/// The cause, and what is worth saying of it to one who looks for it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Failure {
        let detail = match cause {
            Cause::Timeout => "`handshake_timeout` is over",
            Cause::Draining => "the listener closes",
            Cause::NoCertificate => "our own identity has not come yet",
            _ => "",
        };
        Failure { cause, detail: detail.to_owned() }
    }
}

impl Failure {
    pub(super) fn of(error: &Error, ssl: &SslRef) -> Failure {
        if let Some(stack) = error.ssl_error() {
            let cause = cause(stack, ssl);
            let detail = match cause {
                Cause::CertificateExpired | Cause::CertificateUntrusted | Cause::CertificateInvalid => {
                    tls::complaint(ssl)
                }
                _ => tls::reasons(stack),
            };
            return Failure { cause, detail };
        }
        let detail = match (error.io_error(), error.code()) {
            (Some(error), _) => error.to_string(),
            (None, ErrorCode::SYSCALL | ErrorCode::ZERO_RETURN) => "the client has left".to_owned(),
            (None, _) => error.to_string(),
        };
        Failure { cause: Cause::Closed, detail }
    }

    /// A certificate that OpenSSL let pass and we do not.
    pub(super) fn unverified(detail: String) -> Failure {
        Failure { cause: Cause::CertificateInvalid, detail }
    }
}

/// By the library's reason codes (openssl/sslerr.h), which are part of its interface.
fn cause(stack: &ErrorStack, ssl: &SslRef) -> Cause {
    let codes = stack.errors().iter().map(|error| error.reason_code());
    codes.map(|code| of_code(code, ssl)).find(|cause| *cause != Cause::Other).unwrap_or(Cause::Other)
}

fn of_code(code: i32, ssl: &SslRef) -> Cause {
    match code {
        // SSL_R_HTTPS_PROXY_REQUEST, SSL_R_HTTP_REQUEST
        155 | 156 => Cause::PlainHttp,
        // SSL_R_WRONG_VERSION_NUMBER: the first record does not look like one.
        267 => Cause::NotTls,
        // SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_VERSION_TOO_LOW, SSL_R_VERSION_TOO_HIGH, SSL_R_UNKNOWN_PROTOCOL
        258 | 396 | 166 | 252 => Cause::ProtocolVersion,
        // SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_NO_SUITABLE_GROUPS,
        // SSL_R_NO_SUITABLE_KEY_SHARE
        193 | 118 | 295 | 101 => Cause::NoSharedCipher,
        // SSL_R_NO_APPLICATION_PROTOCOL
        235 => Cause::NoApplicationProtocol,
        // SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE
        199 => Cause::CertificateMissing,
        // SSL_R_CERTIFICATE_VERIFY_FAILED
        134 => certificate(ssl.verify_result().as_raw()),
        // SSL_R_UNEXPECTED_EOF_WHILE_READING
        294 => Cause::Closed,
        // Alerts that were received: SSL_AD_REASON_OFFSET and the alert's number.
        1000..=1255 => Cause::ClientAlert,
        _ => Cause::Other,
    }
}

/// By the codes of openssl/x509_vfy.h.
fn certificate(code: i32) -> Cause {
    match code {
        // X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
        9 | 10 => Cause::CertificateExpired,
        // X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, ..DEPTH_ZERO_SELF_SIGNED_CERT, ..SELF_SIGNED_CERT_IN_CHAIN,
        // ..UNABLE_TO_GET_ISSUER_CERT_LOCALLY, ..UNABLE_TO_VERIFY_LEAF_SIGNATURE, ..CERT_UNTRUSTED
        2 | 18..=21 | 27 => Cause::CertificateUntrusted,
        // X509_V_ERR_CERT_REVOKED
        23 => Cause::CertificateRevoked,
        // X509_V_ERR_UNABLE_TO_GET_CRL, ..UNABLE_TO_DECRYPT_CRL_SIGNATURE, ..CRL_SIGNATURE_FAILURE, ..CRL_NOT_YET_VALID,
        // ..CRL_HAS_EXPIRED, ..ERROR_IN_CRL_LAST_UPDATE_FIELD, ..ERROR_IN_CRL_NEXT_UPDATE_FIELD,
        // ..UNABLE_TO_GET_CRL_ISSUER, ..KEYUSAGE_NO_CRL_SIGN, ..UNHANDLED_CRITICAL_CRL_EXTENSION, ..DIFFERENT_CRL_SCOPE,
        // ..CRL_PATH_VALIDATION_ERROR
        3 | 5 | 8 | 11 | 12 | 15 | 16 | 33 | 35 | 36 | 44 | 54 => Cause::NoCrl,
        _ => Cause::CertificateInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_the_length_it_announces() {
        let answer = std::str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
