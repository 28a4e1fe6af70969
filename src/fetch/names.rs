//! Host names of these requests are resolved as everywhere else, in place of the C library's resolver and its threads.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use futures::future::{BoxFuture, FutureExt};
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::names::{Resolve, ResolveError};

#[derive(Clone)]
pub(super) struct Lookup(pub(super) Arc<dyn Resolve>);

impl Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, host: Name) -> Self::Future {
        let names = self.0.clone();
        async move {
            let found = names.resolve(host.as_str()).await?;
            // The port is the URL's.
            let addresses = found.addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        }
        .boxed()
    }
}
