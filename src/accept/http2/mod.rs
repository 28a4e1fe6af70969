//! One HTTP/2 connection: the handshake under its deadline, one task for each stream, GOAWAY when the listener closes.

use std::sync::{Arc, Mutex};

use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        Digest, GetProxyDigest, GetSocketDigest,
        http::{
            ServerSession,
            v2::server::{H2Accept, HttpSession, default_h2_options, handshake},
        },
    },
    server::ShutdownWatch,
};

use super::{
    connection::{Connection, Phase},
    guarded, lock,
    stream::{ClientStream, Gate},
};

/// Streams in flight on one connection; the last to end starts the idle clock. Count and phase change together.
struct Streams {
    count: Mutex<usize>,
    connection: Arc<Connection>,
}

/// Held by the task of one stream.
struct InFlight(Arc<Streams>);

impl InFlight {
    fn start(streams: &Arc<Streams>) -> InFlight {
        let mut count = lock(&streams.count);
        *count += 1;
        streams.connection.enter(Phase::Busy, None);
        drop(count);
        InFlight(streams.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut count = lock(&self.0.count);
        *count -= 1;
        if *count == 0 {
            let idle_timeout = self.0.connection.port.limits().idle_timeout;
            self.0.connection.enter(Phase::Idle, Some(idle_timeout));
        }
    }
}

pub(super) async fn serve<A>(app: &Arc<A>, mut stream: ClientStream, shutdown: &ShutdownWatch)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let connection = stream.connection().clone();
    let limits = connection.port.limits();
    stream.set_gate(Gate::Open);
    let digest = Arc::new(Digest {
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
        ..Digest::default()
    });
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams_per_connection);
    connection.enter(Phase::Head, Some(limits.header_timeout));
    let mut http2 = match handshake(Box::new(stream), Some(options)).await {
        Ok(http2) => http2,
        Err(error) => {
            log::debug!("HTTP/2 handshake with {} failed: {error}", connection.peer);
            return;
        }
    };
    connection.enter(Phase::Idle, Some(limits.idle_timeout));
    let streams = Arc::new(Streams { count: Mutex::new(0), connection: connection.clone() });
    let mut closing = shutdown.clone();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing), if !told => {
                // GOAWAY: streams already under way are served, new ones go elsewhere.
                http2.graceful_shutdown();
                told = true;
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut http2, digest.clone()) => accepted,
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                if connection.is_last_request(connection.port.limits().requests_per_connection) && !told {
                    http2.graceful_shutdown();
                    told = true;
                }
                let in_flight = InFlight::start(&streams);
                let (app, shutdown) = (app.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let _in_flight = in_flight;
                    guarded(app.process_new_http(ServerSession::new_http2(session), &shutdown)).await;
                });
            }
            Ok(Some(H2Accept::Rejected)) => {}
            Ok(None) => return,
            Err(error) => {
                log::debug!("HTTP/2 connection with {} ended: {error}", connection.peer);
                return;
            }
        }
    }
}
