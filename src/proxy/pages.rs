//! Error pages, in the place of our own short answers and of an upstream's errors: those of the route before those of its listener, and
//! these before those of the top level.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Instant};

use bytes::Bytes;
use pingora_http::ResponseHeader;

use super::{Gateway, context::Context, reply};
use crate::{
    accept::Session,
    error::Reason,
    filter::{ErrorPages, Exchange, Response, error_pages},
    forward::{self, Ended},
    snapshot::{Listener, Route, Snapshot},
};

/// So much of a body that nobody wants is read, if it is there, to keep its connection.
const MOST_DRAINED: usize = 64 * 1024;

/// Of a call of gRPC the status is all that is told.
pub(super) fn dress(session: &mut Session, ctx: &mut Context, response: &mut Response) {
    if response.reason.is_none() || ctx.facts.grpc.is_some() {
        return;
    }
    let Context { route, listener, snapshot, facts, .. } = ctx;
    let exchange = Exchange { request: session.request_mut(), response: None, facts };
    error_pages::dress(levels(route.as_ref(), listener.as_ref(), snapshot), &exchange, response);
}

/// What goes in the place of an upstream's error. The head is made to fit.
///
/// # Errors
///
/// The head takes no more fields.
pub(super) fn instead(
    session: &mut Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
) -> Result<Option<Bytes>, Reason> {
    if !error_pages::is_error(response.status) || ctx.facts.grpc.is_some() {
        return Ok(None);
    }
    let Context { route, listener, snapshot, facts, .. } = ctx;
    let exchange = Exchange { request: session.request_mut(), response: None, facts };
    let page =
        error_pages::instead(levels(route.as_ref(), listener.as_ref(), snapshot), &exchange, response)?;
    if let (Some(_), Some(route)) = (&page, route) {
        route.metrics.replaced(if response.status.is_server_error() { "5xx" } else { "4xx" });
    }
    Ok(page)
}

fn levels<'c>(
    route: Option<&'c Arc<Route>>,
    listener: Option<&'c Arc<Listener>>,
    snapshot: &'c Snapshot,
) -> impl Iterator<Item = &'c ErrorPages> {
    let of_route = route.and_then(|route| route.error_pages.as_deref());
    let of_listener = listener.and_then(|listener| listener.error_pages.as_deref());
    [of_route, of_listener, snapshot.error_pages.as_deref()].into_iter().flatten()
}

impl Gateway {
    /// Send `page` under the head of an answer, whose own body nobody reads.
    ///
    /// # Errors
    ///
    /// A filter refused it, or the client is gone.
    pub(super) async fn pass_page(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        exchange: &mut forward::Exchange,
        header: Box<ResponseHeader>,
        mut page: Bytes,
    ) -> Result<(), Ended> {
        if !session.is_body_done() {
            session.set_last();
            session.connection().leaves_unread();
        }
        reply::filter_body(session, ctx, &mut page).await?;
        reply::write(session, *header, page)?;
        poll_fn(|cx| session.poll_flush(cx)).await?;
        if is_drained(exchange).await {
            exchange.finish();
            ctx.attempts.is_whole(Instant::now());
        }
        Ok(())
    }
}

/// Nobody waits for what has not come yet: its connection is closed.
async fn is_drained(exchange: &mut forward::Exchange) -> bool {
    let mut left = MOST_DRAINED;
    poll_fn(|cx| {
        loop {
            match exchange.poll_body(cx) {
                Poll::Ready(Ok(Some(part))) if part.len() <= left => left -= part.len(),
                Poll::Ready(Ok(None)) => return Poll::Ready(true),
                _ => return Poll::Ready(false),
            }
        }
    })
    .await
}
