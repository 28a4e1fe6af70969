//! One HTTP/1 connection: read one header under its deadline, refuse what must be refused, have the request answered, and
//! begin again when the connection can be used for another.

pub(in crate::accept) mod fuzzing;
mod head;
mod session;

use std::{io, sync::Arc};

use bytes::Bytes;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::RequestHeader;

use self::head::Body;
pub(super) use self::head::{Refusal, bad, content_length};
pub(crate) use self::session::Http1;
use crate::{
    accept::{
        ALLOW,
        connection::{Phase, stream::ClientStream},
        guarded,
        session::{Server, Session},
    },
    error::{REASON_HEADER, Reason, accepts_json},
    http::{head_end, is_tchar},
};

/// The client connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection, or the end of a wait, turned out to be.
enum Next {
    Request(Box<RequestHeader>, Bytes, Body),
    Http2,
    Refused(Refusal),
    Closed,
}

/// Serve the connection until it ends, or return it when it turns out to speak HTTP/2.
pub(super) async fn serve(server: &Arc<dyn Server>, stream: ClientStream) -> Option<ClientStream> {
    let connection = stream.connection().clone();
    let mut session = Session::Http1(Box::new(Http1::new(stream)));
    let mut first = true;
    loop {
        let Session::Http1(http1) = &mut session else { return None };
        let stream = http1.stream()?;
        match next(stream, first).await {
            Next::Request(request, raw_head, body) => http1.begin(*request, raw_head, body),
            Next::Http2 => {
                let Session::Http1(http1) = session else { return None };
                return http1.into_stream();
            }
            Next::Refused(refusal) => {
                refuse(stream, refusal);
                return None;
            }
            Next::Closed => return None,
        }
        first = false;
        connection.enter(Phase::Busy, None);
        guarded(server.serve(&mut session)).await?;
        let Session::Http1(http1) = &mut session else { return None };
        if !http1.end() {
            return None;
        }
    }
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
        // Of such a line, half may have come.
        if !matches!(stream.ahead(), b"" | b"\r") {
            break;
        }
        if !matches!(stream.fill().await, Ok(1..)) {
            return Next::Closed;
        }
    }
    connection.enter(Phase::Head, Some(limits.header_timeout));
    // TLS, or frames without a preface: there is no line to wait for.
    if !stream.ahead().first().is_some_and(|&byte| is_tchar(byte)) {
        return Next::Refused(bad("not HTTP"));
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
            return read(stream, length);
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
            // The gateway ends: half a head is a request that it does not serve.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                return Next::Refused(Refusal { reason: Reason::Draining, detail: "the gateway stops" });
            }
            Ok(0) | Err(_) => return Next::Closed,
        }
    }
}

fn read(stream: &mut ClientStream, length: usize) -> Next {
    let raw_head = stream.ahead_mut().split_to(length).freeze();
    match head::parse(&raw_head) {
        Ok((request, body)) => Next::Request(Box::new(request), raw_head, body),
        Err(refusal) => {
            // For its line in the log.
            let behind = std::mem::take(stream.ahead_mut());
            stream.ahead_mut().extend_from_slice(&raw_head);
            stream.ahead_mut().extend_from_slice(&behind);
            Next::Refused(refusal)
        }
    }
}

fn too_large() -> Next {
    Next::Refused(Refusal { reason: Reason::HeaderTooLarge, detail: "header size limit passed" })
}

/// Some clients send a line end too many after a body; it is ignored (RFC 9112, section 2.2).
fn skip_empty_lines(stream: &mut ClientStream) {
    while stream.ahead().starts_with(b"\r\n") {
        bytes::Buf::advance(stream.ahead_mut(), 2);
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
    let (content_type, body) = reason.body(accepts_json(head::accept(stream.ahead())));
    let status = reason.status();
    let allow = match reason {
        Reason::MethodNotAllowed => format!("allow: {ALLOW}\r\n"),
        _ => String::new(),
    };
    let answer = format!(
        "HTTP/1.1 {} {}\r\ndate: {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         {REASON_HEADER}: {}\r\n{allow}connection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        get_cached_date().to_str().unwrap_or_default(),
        body.len(),
        reason.code(),
    );
    stream.leave_unsent(answer.as_bytes());
    if method != "HEAD" {
        stream.leave_unsent(&body);
    }
    log::debug!("refused a request from {}: {}", connection.peer, refusal.detail);
    connection.port.record_refused(&connection, reason, "HTTP/1.1", &method, &path);
}

#[cfg(test)]
mod tests {
    use crate::{accept::fuzzing::Door, observe::Recorder, resources::Resources, snapshot::Listener};

    #[tokio::test]
    async fn an_empty_line_too_many_is_skipped_however_it_comes() {
        let door = Door::new(Listener::for_test(), (Recorder::for_test(), Resources::for_test()));
        let bytes = b"\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n\r";
        for size in [1, 2, 3, bytes.len()] {
            let requests = door.visit(bytes, size).await;
            let paths: Vec<&str> = requests.iter().map(|request| request.uri.path()).collect();
            assert_eq!(paths, ["/a", "/b"], "in parts of {size}");
        }
    }
}
