//! Which requests are gRPC's, and who answers them: a table of services, by the first part of the path.

use std::{convert::Infallible, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tonic::{Status, body::Body, server::NamedService};
use tower_service::Service;

use super::status;
use crate::control::{access::Caller, feed::seats::Seats, refused::Refused, registry::Registry};

/// One service, by its full name.
pub(crate) struct Entry {
    name: &'static str,
    call: Box<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grpc {
    services: Arc<[Entry]>,
    seats: Seats,
    registry: Arc<Registry>,
}

/// A service as tonic generates it.
pub(super) fn entry<S>(server: S) -> Entry
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let call = move |request| {
        let answering = server.clone().call(request);
        let answer = async {
            match answering.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        answer.boxed()
    };
    Entry { name: S::NAME, call: Box::new(call) }
}

impl Grpc {
    pub(crate) fn new(
        services: impl IntoIterator<Item = Entry>,
        seats: Seats,
        registry: Arc<Registry>,
    ) -> Grpc {
        Grpc { services: services.into_iter().collect(), seats, registry }
    }

    pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with("application/grpc"))
    }

    /// Whatever is asked: what does not exist is answered as such.
    pub(crate) async fn call(
        &self,
        mut request: Request<Incoming>,
        caller: Result<Caller, Refused>,
    ) -> Response<Body> {
        let open = |caller| self.registry.check_open().map(|()| caller);
        match caller.and_then(open) {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(refused) => {
                self.seats.refused(&refused);
                return status(&refused).into_http();
            }
        };
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.services.iter().find(|service| service.name == name) {
            Some(service) => (service.call)(request).await,
            None => Status::unimplemented("there is no such service here").into_http(),
        }
    }
}
