//! One HTTP/2 connection: the handshake under its deadline, the check of each request, one task for each stream, GOAWAY
//! when the listener closes.
//!
//! The frames are the `h2` library's. Pingora could take the streams from it by itself, but it would refuse requests
//! without our reason, and let a body stall for ever.

mod check;
mod flood_guard;
mod pings;
mod rejected;
mod session;
mod windows;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Connection as H2Connection, SendResponse},
};
use http::{Request, Response, header};
use pingora_core::protocols::http::{date::get_cached_date, v2::server::default_h2_options};
use pingora_http::RequestHeader;

pub(crate) use self::session::Http2;
use self::{
    flood_guard::{Flooded, Watched},
    pings::Pings,
    rejected::Rejected,
    windows::Windows,
};
use crate::{
    accept::{
        ALLOW,
        connection::{Connection, Phase, stream::ClientStream},
        guarded,
        http1::Refusal,
        lock,
        session::{Server, Session},
    },
    error::{REASON_HEADER, Reason, accepts_json},
    grpc,
    snapshot::Limits,
};

/// Refused requests of one connection: one that sends more than this means harm.
const MOST_REFUSED: usize = 32;

/// What small frames of DATA may cost that wait for their requests, by the library's count: 256 bytes each, less what is in them, and where
/// it is too much the connection ends with all its streams. Half of the first window, which the library takes by itself, is 2,000 messages of
/// a gRPC stream: a client sends them at once, and this thread may have had others to serve.
const SMALL_FRAMES: usize = 4 * 1024 * 1024;

/// Of a response, what waits in the library for its client to read. The library's default (400 KiB) is what each of a hundred
/// streams would hold for one that reads none of them.
/// Where it is full, nothing more is read from the upstream.
const SEND_BUFFER: usize = 16 * 1024;

/// Streams in flight on one connection; the last to end starts the idle clock. Their number and the phase change together.
struct Streams {
    /// Who is to be woken when they have to end, by number.
    open: Mutex<BTreeMap<u64, Option<Waker>>>,
    connection: Arc<Connection>,
}

/// Held by the task of one stream.
struct InFlight {
    streams: Arc<Streams>,
    number: u64,
}

impl Streams {
    fn cut(&self) {
        // Not under the lock: one that is woken may end at once.
        let wakers: Vec<Waker> = lock(&self.open).values().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl InFlight {
    fn start(streams: &Arc<Streams>, number: u64) -> InFlight {
        let mut open = lock(&streams.open);
        open.insert(number, None);
        streams.connection.set_streams(open.len());
        streams.connection.enter(Phase::Busy, None);
        drop(open);
        InFlight { streams: streams.clone(), number }
    }

    /// This task is the stream's.
    async fn wakes(&self) {
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        lock(&self.streams.open).insert(self.number, Some(waker));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut open = lock(&self.streams.open);
        open.remove(&self.number);
        self.streams.connection.set_streams(open.len());
        if open.is_empty() {
            let connection = &self.streams.connection;
            connection.enter(Phase::Idle, Some(connection.port.limits().idle_timeout));
        }
    }
}

pub(super) async fn serve(server: &Arc<dyn Server>, stream: ClientStream) {
    let connection = stream.connection().clone();
    let limits = connection.port.limits();
    connection.enter(Phase::Head, Some(limits.header_timeout));
    let mut windows = Windows::new(&limits);
    let rejected = Rejected::default();
    let (mut http2, flooded) = match handshake(stream, &limits, &windows, rejected.clone()).await {
        Ok(shaken) => shaken,
        Err(error) => {
            log::debug!("HTTP/2 handshake with {} failed: {error}", connection.peer);
            // What came is no HTTP/2, whatever ALPN has agreed on.
            if error.is_library() {
                connection.port.record_refused(&connection, Reason::BadRequest, "HTTP/2", "", "");
            }
            return;
        }
    };
    connection.enter(Phase::Idle, Some(limits.idle_timeout));
    let streams = Arc::new(Streams { open: Mutex::default(), connection: connection.clone() });
    let mut pings = limits.ping_interval.and_then(|interval| Pings::new(&mut http2, interval));
    let mut closing = connection.port.subscribe();
    let mut told = false;
    let mut cut = false;
    let mut refused = 0;
    for number in 0.. {
        if refused > MOST_REFUSED {
            log::warn!(
                "closed a connection from {}: {refused} of its requests were refused",
                connection.peer
            );
            return end(http2, &connection).await;
        }
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing), if !told => {
                // GOAWAY: streams already under way are served, new ones go elsewhere.
                http2.graceful_shutdown();
                told = true;
                continue;
            }
            () = poll_fn(|cx| connection.poll_cut(cx)), if !cut => {
                streams.cut();
                cut = true;
                continue;
            }
            () = flooded.becomes() => None,
            () = windows.wanted() => {
                windows.grow(&mut http2, connection.port.resources());
                continue;
            }
            () = Pings::unanswered(&mut pings), if pings.is_some() => {
                log::debug!("closed a connection from {}: a ping was not answered", connection.peer);
                return;
            }
            accepted = http2.accept() => accepted,
            reasons = rejected.next() => {
                refused += record_rejected(&connection, &reasons);
                continue;
            }
        };
        if flooded.is() {
            log::warn!("closed a connection from {}: too many frames for nothing", connection.peer);
            return end(http2, &connection).await;
        }
        let (request, respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            ended => {
                record_rejected(&connection, &rejected.take());
                return record_end(&connection, ended.and_then(Result::err));
            }
        };
        rejected.hand_over(respond.stream_id().as_u32());
        let limits = connection.port.limits();
        if connection.is_last_request(limits.requests_per_connection) && !told {
            http2.graceful_shutdown();
            told = true;
        }
        let (mut head, body) = split(request);
        let checked = check::check(&head, limits.header_size).and_then(|()| check::encode_target(&mut head));
        if let Err(refusal) = checked {
            refuse(&connection, &head, respond, refusal);
            if !body.is_end_stream() {
                tokio::spawn(read_on(body));
            }
            refused += 1;
            continue;
        }
        // A proxy brings the requests of many: a few that are refused among others are no attack.
        refused = refused.saturating_sub(1);
        check::join_cookies(&mut head);
        let bodies = windows.bodies().clone();
        let http2 = Http2::new(head, body, respond, (connection.clone(), bodies));
        let connection = connection.clone();
        let in_flight = InFlight::start(&streams, number);
        let server = server.clone();
        tokio::spawn(async move {
            in_flight.wakes().await;
            let mut session = Session::Http2(Box::new(http2));
            guarded(server.serve(&mut session)).await;
            let unread = match session {
                Session::Http2(http2) => http2.into_unread(),
                Session::Http1(_) => None,
            };
            drop(in_flight);
            // At the end of a drain there is no moment left, and what was answered has to go out with the connection's end.
            if let Some(body) = unread
                && !connection.is_cut()
            {
                read_on(body).await;
            }
        });
    }
}

/// Requests that the library has rejected, and how many they are.
fn record_rejected(connection: &Connection, reasons: &[Reason]) -> usize {
    // A client that sends more than this means harm: it is not to fill the log.
    for reason in reasons.iter().take(MOST_REFUSED) {
        log::debug!("the HTTP/2 library rejected a request from {}: {}", connection.peer, reason.code());
        connection.port.record_refused(connection, *reason, "HTTP/2", "", "");
    }
    reasons.len()
}

/// Some requests end the whole connection, such as one whose path is not UTF-8, or a list of fields without end.
fn record_end(connection: &Connection, error: Option<h2::Error>) {
    let Some(error) = error else { return };
    log::debug!("HTTP/2 connection with {} ended: {error}", connection.peer);
    let refusals = [
        h2::Reason::PROTOCOL_ERROR,
        h2::Reason::COMPRESSION_ERROR,
        h2::Reason::FRAME_SIZE_ERROR,
        h2::Reason::FLOW_CONTROL_ERROR,
        h2::Reason::ENHANCE_YOUR_CALM,
    ];
    if error.is_library() && error.reason().is_some_and(|reason| refusals.contains(&reason)) {
        connection.port.record_refused(connection, Reason::BadRequest, "HTTP/2", "", "");
    }
}

/// Read for a moment what a client still sends that was refused, and throw it away. Dropped at once, the stream is
/// reset, and many clients throw the answer away for that, though it came first and the reset says that nothing is wrong
/// (RFC 9113, section 8.1).
async fn read_on(mut body: RecvStream) {
    const TIME: Duration = Duration::from_secs(2);
    const MOST: usize = 16 * 1024 * 1024;
    let mut left = MOST;
    let read = async {
        while left > 0
            && let Some(Ok(part)) = body.data().await
        {
            left = left.saturating_sub(part.len());
            // Fails when the stream is over, and then nobody waits for room.
            let _ = body.flow_control().release_capacity(part.len());
        }
    };
    // Either way the client had its time.
    let _ = tokio::time::timeout(TIME, read).await;
}

/// The client means harm.
async fn end(mut http2: H2Connection<Watched, Bytes>, connection: &Connection) {
    http2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
    connection.leaves_unread();
    // Only the goodbye is left to be written; the deadline for that is the stream's own.
    let _ = std::future::poll_fn(|cx| http2.poll_closed(cx)).await;
}

async fn handshake(
    stream: ClientStream,
    limits: &Limits,
    windows: &Windows,
    rejected: Rejected,
) -> Result<(H2Connection<Watched, Bytes>, Flooded), h2::Error> {
    // What is larger than the library's limit it answers by itself, with a bare 431. Ours is half of it: who passes that by
    // less is told why.
    let size = u32::try_from(limits.header_size.saturating_mul(2)).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_header_list_size(size)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES);
    windows.begin(&mut options);
    let (stream, flooded) = Watched::new(stream, rejected);
    Ok((options.handshake(stream).await?, flooded))
}

fn split(request: Request<RecvStream>) -> (RequestHeader, RecvStream) {
    let (head, body) = request.into_parts();
    (head.into(), body)
}

/// Answer without the proxy: the request never becomes one.
fn refuse(
    connection: &Connection,
    request: &RequestHeader,
    mut respond: SendResponse<Bytes>,
    refusal: Refusal,
) {
    let reason = refusal.reason;
    log::debug!("refused a request from {}: {}", connection.peer, refusal.detail);
    if grpc::Call::of(request.version, &request.method, &request.headers).is_some() {
        return refuse_call(connection, request, respond, reason);
    }
    let accept = request.headers.get(header::ACCEPT).map(|accept| accept.as_bytes());
    let (content_type, body) = reason.body(accepts_json(accept));
    let mut response = Response::builder()
        .status(reason.status())
        .header(header::DATE, get_cached_date())
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_LENGTH, body.len())
        .header(REASON_HEADER, reason.code());
    if reason == Reason::MethodNotAllowed {
        response = response.header(header::ALLOW, ALLOW);
    }
    let without_body = request.method == http::Method::HEAD;
    // A client that is gone, or has reset the stream, needs no answer; it is recorded either way.
    if let Ok(response) = response.body(())
        && let Ok(mut stream) = respond.send_response(response, without_body)
        && !without_body
    {
        let _ = stream.send_data(body, true);
    }
    let path = request.uri.path();
    connection.port.record_refused(connection, reason, "HTTP/2", request.method.as_str(), path);
}

/// The same as a client of gRPC understands it.
fn refuse_call(
    connection: &Connection,
    request: &RequestHeader,
    mut respond: SendResponse<Bytes>,
    reason: Reason,
) {
    let status = reason.grpc_status().unwrap_or(grpc::UNKNOWN);
    let response = Response::builder()
        .header(header::DATE, get_cached_date())
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(&grpc::STATUS, u16::from(status))
        .header(&grpc::MESSAGE, &*grpc::message(reason.detail()))
        .header(REASON_HEADER, reason.code());
    if let Ok(response) = response.body(()) {
        // As above: who is gone needs no answer.
        let _ = respond.send_response(response, true);
    }
    let path = request.uri.path();
    connection.port.record_refused(connection, reason, "HTTP/2", request.method.as_str(), path);
}
