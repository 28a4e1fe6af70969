//! One HTTP/1 connection: read one header under its deadline, refuse what must be refused, hand the request to the
//! proxy, and begin again when the connection can be used for another.

use std::{io, sync::Arc};

use pingora_core::{
    apps::HttpServerApp,
    protocols::{Stream, http::ServerSession},
    server::ShutdownWatch,
};

use super::{
    ALLOW,
    connection::Phase,
    guarded, head,
    head::{Body, Refusal},
    stream::{ClientStream, Gate},
};
use crate::{
    error::{REASON_HEADER, Reason},
    http1::{Chunked, head_end, is_tchar},
};

/// The client connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection, or the end of a wait, turned out to be.
enum Next {
    /// A header of this length, and what is known of the body behind it.
    Request(usize, Body),
    Http2,
    Refused(Refusal),
    Closed,
}

/// Serve the connection until it ends, or return it when it turns out to speak HTTP/2.
pub(super) async fn serve<A>(
    app: &Arc<A>,
    stream: ClientStream,
    shutdown: &ShutdownWatch,
) -> Option<ClientStream>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let connection = stream.connection().clone();
    let mut stream = Box::new(stream);
    let mut first = true;
    loop {
        let (header, body) = match next(&mut stream, first).await {
            Next::Request(header, body) => (header, body),
            Next::Http2 => return Some(*stream),
            Next::Refused(refusal) => {
                refuse(&mut stream, refusal);
                return None;
            }
            Next::Closed => return None,
        };
        first = false;
        connection.enter(Phase::Busy, None);
        stream.set_gate(match body {
            Body::Length(length) => Gate::Left(length.saturating_add(header as u64)),
            Body::Chunked => Gate::Chunked(header as u64, Chunked::default()),
            Body::Open => Gate::Open,
        });
        // It comes boxed: an idle connection does not carry the state of a request.
        let request = app.process_new_http(ServerSession::new_http1(stream), shutdown);
        stream = match guarded(request).await? {
            Some(reusable) => own(reusable.consume().0)?,
            None => Box::new(ClientStream::of_spared(&connection)?),
        };
        stream.clear_deadline();
    }
}

/// The stream we gave away, back under its own type.
fn own(stream: Stream) -> Option<Box<ClientStream>> {
    stream.into_any().downcast().ok()
}

async fn next(stream: &mut ClientStream, first: bool) -> Next {
    let connection = stream.connection().clone();
    let limits = connection.port.limits();
    stream.release_buffers();
    // A new connection owes its first request soon; one that has served may rest for `idle_timeout`.
    let wait = if first { limits.header_timeout.min(limits.idle_timeout) } else { limits.idle_timeout };
    connection.enter(Phase::Idle, Some(wait));
    loop {
        skip_empty_lines(stream);
        if !stream.ahead().is_empty() {
            break;
        }
        if !matches!(stream.fill().await, Ok(1..)) {
            return Next::Closed;
        }
    }
    connection.enter(Phase::Head, Some(limits.header_timeout));
    // TLS, or frames without a preface: there is no line to wait for.
    if !stream.ahead().first().is_some_and(|&byte| is_tchar(byte)) {
        return Next::Refused(head::bad("not HTTP"));
    }
    loop {
        let bytes = stream.ahead();
        // Over TLS, HTTP/2 is agreed on before (RFC 9113, section 3.2).
        if first
            && connection.tls().is_none()
            && PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())])
        {
            if bytes.len() >= PREFACE.len() {
                return Next::Http2;
            }
        } else if let Some(length) = head_end(bytes) {
            if length > limits.header_size {
                return too_large();
            }
            return match head::check(&bytes[..length]) {
                Ok(body) => Next::Request(length, body),
                Err(refusal) => Next::Refused(refusal),
            };
        } else if bytes.len() > limits.header_size {
            return too_large();
        }
        match stream.fill().await {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Next::Refused(Refusal {
                    reason: Reason::ClientTimeout,
                    detail: "header deadline passed",
                });
            }
            Ok(0) | Err(_) => return Next::Closed,
        }
    }
}

fn too_large() -> Next {
    Next::Refused(Refusal { reason: Reason::HeaderTooLarge, detail: "header size limit passed" })
}

/// Some clients send a line end too many after a body; it is ignored (RFC 9112, section 2.2).
fn skip_empty_lines(stream: &mut ClientStream) {
    while stream.ahead().starts_with(b"\r\n") {
        stream.skip(2);
    }
}

/// Answer without the proxy: the request never becomes one.
fn refuse(stream: &mut ClientStream, refusal: Refusal) {
    let reason = refusal.reason;
    let (method, path) = head::summary(stream.ahead());
    let connection = stream.connection().clone();
    connection.leaves_unread();
    // No further reads: the answer may go out even though the deadline for reading has passed.
    connection.enter(Phase::Busy, None);
    let (content_type, body) = reason.body(false);
    let status = reason.status();
    let allow = match reason {
        Reason::MethodNotAllowed => format!("allow: {ALLOW}\r\n"),
        _ => String::new(),
    };
    let answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{REASON_HEADER}: {}\r\n{allow}connection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        body.len(),
        reason.code(),
    );
    stream.answer([answer.as_bytes(), &body].concat().as_slice());
    log::debug!("refused a request from {}: {}", connection.peer, refusal.detail);
    connection.port.record_refused(&connection, reason, "HTTP/1.1", &method, &path);
}
