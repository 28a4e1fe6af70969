//! The accept loop of an API. It is not an HTTP listener of the gateway: it must answer when all else is busy, and must
//! not itself become a way to exhaust the process.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Connection, Service, Terms, Tls,
    room::{Room, Seat},
};
use crate::{accept::next_connection, identity::Caller};

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_SIZE: usize = 16 * 1024;
/// What a stream of HTTP/2 holds before the client takes it. The list in which frames wait grows with it and never shrinks.
const SEND_BUFFER: usize = 16 * 1024;

/// What each connection is served with.
pub(super) struct Serving<S> {
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) service: Arc<S>,
    pub(super) room: Arc<Room>,
    pub(super) terms: Terms,
    pub(super) closing: watch::Receiver<bool>,
    /// How many there are, of all connections.
    pub(super) streams: Arc<watch::Sender<usize>>,
}

pub(super) async fn accept<S: Service>(listener: Arc<TcpListener>, serving: Serving<S>) {
    let serving = Arc::new(serving);
    let mut closing = serving.closing.clone();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            connection = next_connection(&listener) => connection,
        };
        let (seat, evicted) = serving.room.enter(peer.ip());
        let key = serving.terms.key;
        let serving = open(stream, peer, serving.clone(), seat);
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                Ok(why) = evicted => log::debug!("closed a connection to {key} from {peer}: {why}"),
            }
        });
    }
}

async fn open<S: Service>(stream: TcpStream, peer: SocketAddr, serving: Arc<Serving<S>>, seat: Arc<Seat>) {
    let Some(tls) = &serving.tls else { return serve(stream, peer, None, &serving, seat).await };
    let key = serving.terms.key;
    match timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok((stream, caller))) => serve(stream, peer, caller, &serving, seat).await,
        Ok(Err(why)) => log::debug!("a connection to {key} failed: {why}"),
        Err(_) => log::debug!("a connection to {key} failed: its handshake took too long"),
    }
}

async fn serve<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    caller: Option<Caller>,
    serving: &Serving<S>,
    seat: Arc<Seat>,
) {
    let began = Arc::new(AtomicBool::new(false));
    let streams = Arc::new(AtomicUsize::new(0));
    let connection = Connection {
        peer,
        caller: caller.map(Arc::new),
        closing: serving.closing.clone(),
        seat,
        streams: streams.clone(),
        all_streams: serving.streams.clone(),
    };
    let service = service_fn({
        let (began, service) = (began.clone(), serving.service.clone());
        move |request: http::Request<hyper::body::Incoming>| {
            began.store(true, Relaxed);
            let is_proven = service.is_proven(connection.caller.as_deref(), request.headers());
            let busy = connection.seat.begin(is_proven);
            // Apart, so that it is gone when it has answered: what is answered may last for hours.
            let handling = Box::pin(service.clone().handle(connection.clone(), request));
            async move {
                let _busy = busy;
                Ok::<_, Infallible>(handling.await)
            }
        }
    });
    let terms = &serving.terms;
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_SIZE)
        .http2()
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_SIZE as u32)
        .max_concurrent_streams(terms.streams);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    // hyper's own deadline begins with the first byte, and a connection that never sends one takes a place.
    let silent = async {
        sleep(HEADER_TIMEOUT).await;
        if began.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let mut closing = serving.closing.clone();
    let closed = async {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let lifetime = terms.lifetime.mul_f64(1.0 + terms.jitter * (2.0 * fastrand::f64() - 1.0));
    tokio::select! {
        // What went wrong with a connection is its client's to know.
        _ = connection.as_mut() => return,
        () = silent => return,
        () = sleep(lifetime) => {}
        () = closed => {}
    }
    connection.as_mut().graceful_shutdown();
    while timeout(terms.last_answer, connection.as_mut()).await.is_err() {
        if streams.load(Relaxed) == 0 {
            return;
        }
    }
}
