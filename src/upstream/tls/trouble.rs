//! What an error of the proxy engine says of TLS, in the operator's words.

use pingora_core::{Error, ErrorType};

use super::handshake::{Distrust, Handshake};
use crate::policy::failure::Kind;

/// Why there is no connection, as far as TLS is to blame.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The handshake succeeded, and showed somebody whom we do not trust.
    Distrusted(Distrust),
    /// OpenSSL broke the handshake off over the certificate; Pingora does not pass on why.
    Certificate,
    /// No handshake came about.
    Handshake(String),
    /// The endpoint did not like what it saw of us.
    Refused(String),
    /// It closed a new connection without an answer, which may mean the same, and may not.
    Closed,
}

impl Trouble {
    /// `None` where the error is about something else.
    pub fn of(error: &Error, handshake: &Handshake) -> Option<Trouble> {
        if let Some(distrust) = handshake.distrust() {
            return Some(Trouble::Distrusted(distrust.clone()));
        }
        let text = || error.to_string();
        let shown = handshake.shows_certificate();
        match error.etype() {
            ErrorType::InvalidCert => Some(Trouble::Certificate),
            ErrorType::TLSHandshakeFailure => Some(handshake_failed(&text(), shown)),
            // With TLS 1.3 an endpoint looks at our certificate, or misses it, when for us the handshake is over.
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error | ErrorType::HandshakeError => {
                let closed = || handshake.succeeded().then_some(Trouble::Closed);
                alert(&text()).map(|alert| Trouble::Refused(refusal(&alert, shown))).or_else(closed)
            }
            ErrorType::ConnectionClosed if handshake.succeeded() => Some(Trouble::Closed),
            _ => None,
        }
    }

    /// What has failed, where TLS is to blame.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Trouble::Distrusted(distrust) => Some(distrust.kind()),
            Trouble::Certificate => Some(Kind::Distrusted),
            Trouble::Handshake(_) | Trouble::Refused(_) => Some(Kind::Unreachable),
            Trouble::Closed => None,
        }
    }

    /// As a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Trouble::Distrusted(distrust) => distrust.label(),
            Trouble::Certificate => "certificate",
            Trouble::Handshake(_) => "handshake",
            Trouble::Refused(_) | Trouble::Closed => "refused",
        }
    }

    /// In words; `None` where only another look would tell.
    pub fn explain(&self) -> Option<String> {
        match self {
            Trouble::Distrusted(distrust) => Some(distrust.to_string()),
            Trouble::Certificate | Trouble::Closed => None,
            Trouble::Handshake(why) | Trouble::Refused(why) => Some(why.clone()),
        }
    }
}

fn handshake_failed(text: &str, shown: bool) -> Trouble {
    if let Some(alert) = alert(text) {
        return Trouble::Refused(refusal(&alert, shown));
    }
    let why = [
        ("wrong version number", "it does not speak TLS (remove `tls`, or name its TLS port)"),
        ("packet length too long", "it does not speak TLS (remove `tls`, or name its TLS port)"),
        ("http request", "it does not speak TLS (remove `tls`, or name its TLS port)"),
        ("unsupported protocol", "it speaks no version of TLS that is safe"),
        ("unexpected eof", "it closed the connection in the handshake"),
        ("reset by peer", "it closed the connection in the handshake"),
    ];
    let known = why.iter().find(|(sign, _)| text.contains(sign)).map(|(_, why)| *why);
    Trouble::Handshake(known.unwrap_or("the TLS handshake failed").into())
}

/// The alert with which the other end broke off, as OpenSSL names it: `tlsv13 alert certificate required`.
pub(super) fn alert(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(" alert ")?;
    let words = rest.split([':', ',', '(']).next().unwrap_or_default();
    Some(words.trim().chars().take(64).collect())
}

/// `shown` says whether it saw a certificate of ours.
pub(super) fn refusal(alert: &str, shown: bool) -> String {
    let hint = match alert {
        "certificate required" | "handshake failure" if !shown => {
            " (set `client_cert` or `client_identity: true` where it asks for a certificate)"
        }
        "no application protocol" => " (it does not speak what `protocol` says)",
        "protocol version" => " (it speaks no version of TLS that is safe)",
        _ => "",
    };
    format!("it refused the handshake: {alert}{hint}")
}
