//! The admin listener's accept loop. Few connections (`room`), short deadlines: the API must answer when all else is busy,
//! and must not itself become a way to exhaust the process.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
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
    guard::Caller,
    room::{Room, Seat},
    router::Api,
    secure::Tls,
};
use crate::accept::next_connection;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_SIZE: usize = 16 * 1024;
/// A scraper reconnects once a minute; a client that sends and reads nothing is gone by then.
const LIFETIME: Duration = Duration::from_secs(60);
/// What is in flight when a connection is to end may take this much longer.
const LAST_ANSWER: Duration = Duration::from_secs(60);

pub(crate) async fn accept(
    listener: Arc<TcpListener>,
    tls: Option<Arc<Tls>>,
    api: Arc<Api>,
    room: Arc<Room>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            connection = next_connection(&listener) => connection,
        };
        let (seat, evicted) = room.enter(peer.ip());
        let serving = open(stream, tls.clone(), api.clone(), closing.clone(), seat);
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                Ok(()) = evicted => log::debug!("closed an admin connection from {peer} to make room"),
            }
        });
    }
}

async fn open(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    api: Arc<Api>,
    closing: watch::Receiver<bool>,
    seat: Arc<Seat>,
) {
    let Some(tls) = tls else { return serve(stream, Caller::Stranger, api, closing, seat).await };
    match timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok((stream, caller))) => serve(stream, caller, api, closing, seat).await,
        Ok(Err(why)) => log::debug!("an admin connection failed: {why}"),
        Err(_) => log::debug!("an admin connection failed: its handshake took too long"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    api: Arc<Api>,
    mut closing: watch::Receiver<bool>,
    seat: Arc<Seat>,
) {
    let began = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let began = began.clone();
        move |request: http::Request<hyper::body::Incoming>| {
            began.store(true, Relaxed);
            let busy = seat.begin(api.is_proven(caller, request.headers()));
            let handling = api.clone().handle(caller, request);
            async move {
                let _busy = busy;
                handling.await
            }
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_SIZE)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_SIZE as u32)
        .max_concurrent_streams(16);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    // hyper's own deadline begins with the first byte, and a connection that never sends one takes a place.
    let silent = async {
        sleep(HEADER_TIMEOUT).await;
        if began.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let closed = async {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    tokio::select! {
        // What went wrong with a connection is its client's to know.
        _ = connection.as_mut() => return,
        () = silent => return,
        () = sleep(LIFETIME) => {}
        () = closed => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}
