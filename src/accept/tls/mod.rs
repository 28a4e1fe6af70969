//! The TLS handshake of a client connection: under its deadline, ended by the drain, and counted when it fails.

mod failure;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use http::HeaderValue;
use pingora_core::tls::{
    ssl::{NameType, SslRef},
    tokio_ssl::SslStream,
};

pub(super) use self::failure::PLAIN_HTTP;
use self::failure::{Cause, Failure};
use crate::{
    accept::connection::{
        Connection, Verdict, lingering_close::close_below, transport::Transport, wire::Rewound,
    },
    config::TUNNEL_PROTOCOL,
    identity::Caller,
    observe::metrics::ListenerMetrics,
    tls::{Isolated, Plan, Terminator, client_cert, expect_notice_of_end, without_root},
};

/// What a handshake has settled, for as long as the connection lasts.
pub(crate) struct Session {
    /// As the access log writes it, such as `TLSv1.3`.
    pub version: &'static str,
    /// The name that the client asked for, as it was sent.
    pub sni: Option<Arc<str>>,
    /// How the client has begun (JA4), where somebody asks for it.
    pub ja4: Option<Arc<str>>,
    /// Whose certificate the client has shown, if it was asked for one and has one.
    pub caller: Option<Arc<Caller>>,
    /// The same as an upstream may be told it, in `X-Forwarded-Client-Cert`.
    pub client_cert: Option<HeaderValue>,
    names: Option<Arc<Plan>>,
    isolated: Option<Arc<Isolated>>,
}

/// What was read of the client before the handshake, if anything was.
#[derive(Default)]
pub(super) struct Heard {
    pub name: Option<String>,
    pub ja4: Option<Arc<str>>,
}

impl Session {
    /// Whether the client would have been shown another certificate, had it asked for `host`, or `host` is kept apart from the one that it
    /// asked for. One that named nobody knows the gateway by its address.
    pub(crate) fn is_misdirected(&self, host: &str) -> bool {
        let Some(sni) = &self.sni else { return false };
        self.names.as_ref().is_some_and(|names| names.is_misdirected(sni, host))
            || self.isolated.as_ref().is_some_and(|isolated| isolated.parts(sni, host))
    }
}

/// What client and server have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    Http1,
    Http2,
    /// Anything at all, from one sidecar to another.
    Tunnel,
}

/// Under the connection's deadline. `None` when it failed: then it has been counted, and the client has been told as far as there are words for it.
pub(super) async fn handshake(
    socket: Rewound,
    connection: &Arc<Connection>,
    terminator: &Terminator,
    Heard { name, ja4 }: Heard,
) -> Option<(Transport, Agreed)> {
    let metrics = connection.port.settings().metrics.clone();
    let begun =
        match under_verdict(connection, pin!(terminator.begin_for(name.as_deref(), connection.peer.ip())))
            .await
        {
            Ok(begun) => begun,
            Err(cause) => {
                fail(&metrics, connection, &cause.into());
                return None;
            }
        };
    let mut stream = match begun.and_then(|ssl| ssl.map(|ssl| SslStream::new(ssl, socket)).transpose()) {
        Ok(Some(stream)) => stream,
        Ok(None) => {
            fail(&metrics, connection, &Cause::NoCertificate.into());
            return None;
        }
        Err(error) => {
            log::error!("TLS cannot begin: {}", crate::tls::reasons(&error));
            return None;
        }
    };
    let shaken = shake(&mut stream, connection).await;
    let session = shaken.and_then(|()| session(stream.ssl(), terminator, ja4));
    let session = match session {
        Ok(session) => session,
        Err(failure) => {
            fail(&metrics, connection, &failure);
            leave(stream, failure.cause, connection);
            return None;
        }
    };
    metrics.handshake_succeeded(session.version);
    let agreed = match stream.ssl().selected_alpn_protocol() {
        Some(b"h2") => Agreed::Http2,
        Some(TUNNEL_PROTOCOL) => {
            expect_notice_of_end(stream.ssl());
            Agreed::Tunnel
        }
        _ => Agreed::Http1,
    };
    connection.secure(session);
    Some((Transport::Tls(stream), agreed))
}

/// Show a CA the proof that `name` is ours, and no more. Whoever asks for a name that is not being proved is told nothing.
pub(super) async fn prove(
    socket: Rewound,
    connection: &Arc<Connection>,
    terminator: &Terminator,
    name: &str,
) {
    let metrics = connection.port.settings().metrics.clone();
    let begun = terminator.begin_proof(name, connection.peer.ip()).await;
    let begun = begun.and_then(|ssl| ssl.map(|ssl| SslStream::new(ssl, socket)).transpose());
    let mut stream = match begun {
        Ok(Some(stream)) => stream,
        Ok(None) => return fail(&metrics, connection, &Cause::NoCertificate.into()),
        Err(error) => return log::error!("TLS cannot begin: {}", crate::tls::reasons(&error)),
    };
    match shake(&mut stream, connection).await {
        Ok(()) => {
            terminator.proof_was_seen();
            tokio::spawn(close_below(Transport::Tls(stream), Vec::new(), connection.clone()));
        }
        Err(failure) => {
            fail(&metrics, connection, &failure);
            leave(stream, failure.cause, connection);
        }
    }
}

async fn shake(stream: &mut SslStream<Rewound>, connection: &Connection) -> Result<(), Failure> {
    let accepted = poll_fn(|cx| {
        let polled = Pin::new(&mut *stream).poll_accept(cx);
        polled.map(|result| result.map_err(|error| Failure::of(&error, stream.ssl())))
    });
    under_verdict(connection, accepted).await?
}

/// What comes of it before the connection's deadline, and before it is drained.
async fn under_verdict<T>(
    connection: &Connection,
    mut future: impl Future<Output = T> + Unpin,
) -> Result<T, Cause> {
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Ok(result));
        }
        match connection.wake_on_verdict(cx) {
            Verdict::Open => Poll::Pending,
            Verdict::Expired => Poll::Ready(Err(Cause::Timeout)),
            Verdict::Drained => Poll::Ready(Err(Cause::Draining)),
        }
    })
    .await
}

fn session(ssl: &SslRef, terminator: &Terminator, ja4: Option<Arc<str>>) -> Result<Session, Failure> {
    let caller = terminator.caller(ssl).map_err(Failure::unverified)?;
    let client_cert = caller.as_ref().and_then(|caller| client_cert(caller, ssl.certificate()));
    let sni = ssl.servername(NameType::HOST_NAME).map(without_root).map(Arc::from);
    let (names, isolated) = (terminator.names(), terminator.isolated());
    Ok(Session {
        version: ssl.version_str(),
        sni,
        ja4,
        caller: caller.map(Arc::new),
        client_cert,
        names,
        isolated,
    })
}

fn fail(metrics: &ListenerMetrics, connection: &Connection, failure: &Failure) {
    let reason = failure.cause.word();
    metrics.handshake_failed(reason);
    log::debug!("TLS handshake with {} failed ({reason}): {failure}", connection.peer);
}

/// The alert has been written. Closed with bytes unread, the socket would take it back.
fn leave(stream: SslStream<Rewound>, cause: Cause, connection: &Arc<Connection>) {
    let last = match cause {
        Cause::Timeout | Cause::Draining | Cause::Closed => return,
        Cause::PlainHttp => PLAIN_HTTP.to_vec(),
        _ => Vec::new(),
    };
    tokio::spawn(close_below(Transport::Tls(stream), last, connection.clone()));
}
