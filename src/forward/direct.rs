//! A request that the gateway makes beside the traffic, whole, to one of its upstreams: through that upstream's balancer, breaker,
//! limits and TLS, once.

mod stream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};

pub(crate) use self::stream::{Next, Send, Stream};

use super::{Attempt, Broken, Call, Client, Ended, Heard, Origin, begin, grpc_status, name_host, outcome};
use crate::{
    observe::metrics::Metrics,
    policy::{failure::Stage, priorities::Priority},
    snapshot::Destination,
    upstream::{Admitted, ClientAddresses},
};

/// An answer, all of it.
pub(crate) struct Whole {
    pub header: Box<ResponseHeader>,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// Who asks has no address.
fn nobody() -> Origin {
    let nobody = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let addresses = ClientAddresses { client: nobody, local: nobody };
    Origin { addresses, original_destination: None, issued: None, home: None }
}

/// `limit` bounds all of it, and `most` the body of the answer.
///
/// # Errors
///
/// Why there is no answer.
pub(crate) async fn ask(
    client: &Client,
    destination: &Arc<Destination>,
    header: RequestHeader,
    body: Bytes,
    limit: Duration,
    most: usize,
    metrics: &Metrics,
) -> Result<Whole, &'static str> {
    let asked = exchange(client, destination, header, body, limit, most, metrics);
    tokio::time::timeout(limit, asked).await.unwrap_or(Err("timeout"))
}

/// Which endpoint, with a place there, and how it is reached.
async fn endpoint(
    destination: &Arc<Destination>,
    header: &mut RequestHeader,
    limit: Duration,
    metrics: &Metrics,
) -> Result<(Admitted, Attempt, Box<HttpPeer>), &'static str> {
    let admitted = destination.upstream.room().enter(Some(limit), Priority::default()).await;
    let place = admitted.map_err(|_| "overloaded")?;
    let now = Instant::now();
    let begun = begin(destination, &[], header, nobody(), Some(limit), metrics, now);
    let (attempt, peer) = begun.map_err(|refused| refused.reason.code())?;
    name_host(header, attempt.endpoint()).map_err(|reason| reason.code())?;
    Ok((place, attempt, peer))
}

/// It counts for the endpoint, in a word.
fn broke(attempt: &mut Attempt, broken: Broken) -> &'static str {
    let now = Instant::now();
    let ended = attempt.ended(broken, now);
    attempt.broke(&ended);
    if let Ended::Failed(failure) = ended
        && let Some(outcome) = failure.meaning().outcome
    {
        attempt.report(outcome, now);
    }
    ended.reason().code()
}

async fn exchange(
    client: &Client,
    destination: &Arc<Destination>,
    mut header: RequestHeader,
    body: Bytes,
    limit: Duration,
    most: usize,
    metrics: &Metrics,
) -> Result<Whole, &'static str> {
    let (mut place, mut attempt, peer) = endpoint(destination, &mut header, limit, metrics).await?;
    let (handshake, idle_limit) = (attempt.handshake().cloned(), attempt.idle_limit());
    let is_repeatable = header.method.is_idempotent();
    let call = Call { peer, header, body, spelling: None, is_repeatable, handshake, idle_limit, requests: 1 };
    let mut answer = match client.ask(&call, &mut |_: Heard<'_>| {}).await {
        Ok(answer) => answer,
        Err(broken) => return Err(broke(&mut attempt, broken)),
    };
    place.is_answered();
    attempt.connected(&answer.rest);
    attempt.heard(answer.header.status.as_u16(), grpc_status(&answer.header));
    attempt.begins(outcome(&answer.header), Instant::now());
    let mut whole = BytesMut::new();
    loop {
        match answer.rest.body().await {
            Ok(Some(part)) if whole.len() + part.len() > most => return Err("too_large"),
            Ok(Some(part)) => whole.extend_from_slice(&part),
            Ok(None) => break,
            Err(error) => return Err(broke(&mut attempt, answer.rest.broken(Stage::Body, error))),
        }
    }
    let trailers = answer.rest.trailers().await.unwrap_or_default().unwrap_or_default();
    attempt.is_whole(Instant::now());
    answer.rest.finish();
    Ok(Whole { header: answer.header, body: whole.freeze(), trailers })
}
