//! Which requests are gRPC's, and who answers them: a table of services, by the first part of the path.

use std::{convert::Infallible, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tonic::{Code, Status, body::Body, server::NamedService};
use tower_service::Service;

use super::{pieces::Pieces, status};
use crate::{
    control::{
        access::Caller,
        feed::seats::Seats,
        refused::{Reason, Refused},
        registry::Registry,
    },
    identity,
};

/// One service, by its full name.
pub(crate) struct Entry {
    name: &'static str,
    /// It finds out by itself who may ask, whatever the rules say.
    is_open: bool,
    call: Box<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>,
}

/// Whose certificate the connection has shown.
#[derive(Clone)]
pub(super) struct Shown(pub(super) Option<Arc<identity::Caller>>);

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
    S: Service<Request<Pieces>, Response = Response<Body>, Error = Infallible>,
    S: NamedService + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let call = move |request: Request<Incoming>| {
        let answering = server.clone().call(request.map(Pieces::of));
        let answer = async {
            match answering.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        answer.boxed()
    };
    Entry { name: S::NAME, is_open: false, call: Box::new(call) }
}

impl Entry {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Also for those whom no rule knows.
    pub(super) fn open(self) -> Entry {
        Entry { is_open: true, ..self }
    }
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

    /// Whatever is asked: what does not exist is answered as such. `shown` is the certificate of the connection.
    pub(crate) async fn call(
        &self,
        mut request: Request<Incoming>,
        caller: Result<Caller, Refused>,
        shown: Option<Arc<identity::Caller>>,
    ) -> Response<Body> {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let service = self.services.iter().find(|service| service.name == name);
        let may_call = caller.and_then(|caller| {
            request.extensions_mut().insert(caller);
            self.registry.check_open()
        });
        match (may_call, service) {
            (Ok(()), _) => {}
            (Err(_), Some(service)) if service.is_open => {}
            (Err(refused), _) => return self.refuse(&refused),
        }
        request.extensions_mut().insert(Shown(shown));
        match service {
            Some(service) => self.explained((service.call)(request).await),
            None => Status::unimplemented("there is no such service here").into_http(),
        }
    }

    pub(crate) fn refuse(&self, refused: &Refused) -> Response<Body> {
        self.seats.refused(refused);
        status(refused).into_http()
    }

    /// A message over the limit is refused before any of us sees it: it gets its reason here.
    fn explained(&self, response: Response<Body>) -> Response<Body> {
        let refused = Status::from_header_map(response.headers());
        match refused.filter(|status| status.code() == Code::OutOfRange) {
            Some(status) => self.refuse(&Reason::TooLarge.because(status.message())),
            None => response,
        }
    }
}
