//! Where messages end, and in which version: framing is made for each side anew and never copied, whatever the other side
//! speaks, and what was said by one that does not hold is not said to the other.

mod early;
mod lengths;
mod requests;
mod trailers;
mod versions;

use crate::support::origin::Origin;
use crate::support::{Gateway, RawConnection, ScriptedUpstream, Step, Yaml};

/// A gateway with one route to one endpoint.
async fn gateway(endpoint: std::net::SocketAddr, route: &str, settings: &str) -> Gateway {
    Yaml::to(endpoint).top("threads: 1").route(route).settings(settings).start().await
}

/// The same, with an upstream that answers each request, which has no body, with these bytes.
async fn answering(bytes: &str) -> (ScriptedUpstream, Gateway) {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(bytes), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    (upstream, gateway)
}

fn open(gateway: &Gateway) -> RawConnection {
    RawConnection::open(gateway.address("main"))
}
