//! Which requests are gRPC's, and who answers them.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tonic::body::Body;
use tower_service::Service;

use super::{registry::Registry, status};
use crate::{
    control::{access::Caller, feed::stream::Feed, refused::Refused},
    wire::v1::registry_server::RegistryServer,
};

/// More than any message that is taken.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grpc {
    registry: RegistryServer<Registry>,
    feed: Arc<Feed>,
}

impl Grpc {
    pub(crate) fn new(feed: Arc<Feed>) -> Grpc {
        let registry =
            RegistryServer::new(Registry::new(feed.clone())).max_decoding_message_size(LARGEST_MESSAGE);
        Grpc { registry, feed }
    }

    pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with("application/grpc"))
    }

    /// Whatever is asked: a method that does not exist is answered as such.
    pub(crate) async fn call(
        &self,
        mut request: Request<Incoming>,
        caller: Result<Caller, Refused>,
    ) -> Response<Body> {
        match caller {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(refused) => {
                self.feed.seats.refused(&refused);
                return status(&refused).into_http();
            }
        };
        let answered: Result<_, Infallible> = self.registry.clone().call(request).await;
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
