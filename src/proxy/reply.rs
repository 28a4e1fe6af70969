//! Answers of the gateway's own: what a filter decided, or why a request failed. The same filters edit them that edit
//! an upstream's answer.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::{
    context::{Context, Unrouted},
    pages,
};
use crate::{
    accept::{ALLOW, BodyLength, Session},
    config::Via,
    error::{REASON_HEADER, Reason},
    filter::Response,
    forward::{self, Ended},
    grpc,
    policy::failure::Outcome,
};

/// A refusal as a response: status, reason, short body, and when to come back.
pub(crate) fn refusal(reason: Reason, session: &Session) -> Response {
    Response::refusal(reason, &session.request().headers)
}

/// Say when to come back, in whole seconds, rounded up (RFC 9110, section 10.2.3).
pub(crate) fn come_back(response: &mut Response, after: Duration) {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    response.headers.retain(|(name, _)| *name != header::RETRY_AFTER);
    response.headers.push((header::RETRY_AFTER, seconds.max(1).into()));
}

/// 404, or 405 with the methods that are served (RFC 9110, section 15.5.6).
pub(crate) fn unrouted(unrouted: &Unrouted, session: &Session) -> Response {
    let mut response = refusal(unrouted.reason, session);
    let allow: Vec<&str> = unrouted.allow.iter().map(Method::as_str).collect();
    if let Ok(allow) = HeaderValue::try_from(allow.join(", "))
        && unrouted.reason == Reason::MethodNotAllowed
    {
        response.headers.push((header::ALLOW, allow));
    }
    response
}

/// A request that may be passed on no further (`Max-Forwards: 0`): what the gateway itself has to say to it.
pub(crate) fn last_stop(session: &Session) -> Response {
    let mut response = match session.request().method {
        Method::OPTIONS => Response::new(StatusCode::NO_CONTENT),
        _ => refusal(Reason::MethodNotAllowed, session),
    };
    response.headers.push((header::ALLOW, HeaderValue::from_static(ALLOW)));
    response
}

/// A request of gRPC that does not say that trailers will reach its client.
pub(crate) fn without_te(session: &Session) -> Response {
    let mut response = refusal(Reason::BadRequest, session);
    response.body = Bytes::from_static(b"a request of gRPC needs the field `te: trailers`\n");
    response
}

/// Send `response`, unless one is under way already: then a call that is not over is ended with what it says, and any other
/// answer breaks off, so that nobody takes it for whole.
///
/// # Errors
///
/// The client is gone.
pub(crate) async fn send(
    session: &mut Session,
    ctx: &mut Context,
    mut response: Response,
) -> Result<(), Reason> {
    ctx.reason = response.reason.or(ctx.reason);
    ctx.attempts.give_back_place();
    if session.responded().is_some() {
        if !end_call(session, ctx, response)? {
            let flushed = poll_fn(|cx| session.poll_flush(cx)).await;
            session.abort();
            return flushed;
        }
        return poll_fn(|cx| session.poll_flush(cx)).await;
    }
    pages::dress(session, ctx, &mut response);
    let response = for_call(ctx, response);
    if !session.is_body_done() || ctx.reason == Some(Reason::RequestTooLarge) {
        // Nobody reads what follows. The client is to hear the answer all the same.
        session.set_last();
        session.connection().leaves_unread();
    }
    match header(session, ctx, &response).await {
        Ok(header) => {
            let mut body = response.body;
            match filter_body(session, ctx, &mut body).await {
                Ok(()) => write(session, header, body)?,
                Err(ended) => {
                    ctx.reason = Some(ended.reason());
                    bare(session, ctx, ended.reason())?;
                }
            }
        }
        // A response filter refused or panicked: answer without it, there is nothing else left to say.
        Err(reason) => {
            ctx.reason = Some(reason);
            bare(session, ctx, reason)?;
        }
    }
    poll_fn(|cx| session.poll_flush(cx)).await
}

/// An answer that no filter sees: what one of them gives in the place of the response that it refused, or the refusal.
fn bare(session: &mut Session, ctx: &mut Context, reason: Reason) -> Result<(), Reason> {
    let instead = ctx.facts.instead.take().map(|instead| *instead);
    let mut response = match ctx.reply.take().or(instead) {
        Some(instead) => {
            ctx.reason = instead.reason;
            instead
        }
        None => refusal(reason, session),
    };
    pages::dress(session, ctx, &mut response);
    let bare = for_call(ctx, response);
    let header = plain(&bare).map_err(|_| Reason::Internal)?;
    write(session, header, bare.body)
}

fn for_call(ctx: &mut Context, response: Response) -> Response {
    match &mut ctx.facts.grpc {
        Some(call) => response.for_call(call),
        None => response,
    }
}

/// False for what is no call, or has been told its status.
fn end_call(session: &mut Session, ctx: &mut Context, response: Response) -> Result<bool, Reason> {
    let Some(call) = ctx.facts.grpc.as_mut().filter(|call| call.status.is_none()) else { return Ok(false) };
    let reason = response.reason;
    let fields = response.for_call(call).headers.into_iter();
    let mut trailers: HeaderMap =
        fields.filter(|(name, _)| *name == grpc::STATUS || *name == grpc::MESSAGE).collect();
    if let Some(reason) = reason {
        trailers.insert(REASON_HEADER, HeaderValue::from_static(reason.code()));
    }
    match call.dialect {
        grpc::Dialect::Http2 => session.write_trailers(trailers)?,
        dialect => session.write(grpc::web::trailers(&trailers, dialect), true)?,
    }
    Ok(true)
}

async fn header(
    session: &mut Session,
    ctx: &mut Context,
    response: &Response,
) -> Result<ResponseHeader, Reason> {
    let mut header = plain(response).map_err(|_| Reason::Internal)?;
    let mut waits = edit(session, ctx, &mut header)?;
    while waits {
        poll_fn(|cx| ctx.poll_waits(session.request_mut(), Some(&mut header), cx)).await;
        waits = ctx.on_response(session.request_mut(), &mut header)?;
    }
    Ok(header)
}

/// Run the body of an answer that is there whole through the filters.
///
/// # Errors
///
/// A filter refused it, or has another answer.
pub(crate) async fn filter_body(
    session: &mut Session,
    ctx: &mut Context,
    body: &mut Bytes,
) -> Result<(), Ended> {
    let mut none = HeaderMap::new();
    while ctx.filter_response_body(session, body, Some(&mut none))? {
        poll_fn(|cx| ctx.poll_waits(session.request_mut(), None, cx)).await;
    }
    Ok(())
}

/// Make an upstream's answer what the client is to get.
///
/// # Errors
///
/// A filter refused it, or panicked.
///
/// True where a filter waits.
pub(crate) fn pass_on(
    session: &mut Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
) -> Result<bool, Reason> {
    ctx.deadline.expect_answer(None);
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        ctx.attempts.heard(response.status.as_u16(), None);
        ctx.attempts.answered(Outcome::of_answer(response.status.as_u16(), None), Instant::now());
    }
    forward::clean_response(response);
    if ctx.snapshot.config.forwarded.via == Via::On {
        let via = forward::via(response.version);
        response.append_header(header::VIA, via).map_err(|_| Reason::Internal)?;
    }
    if let Some(cookie) = ctx.attempts.cookie.take() {
        response.append_header(header::SET_COOKIE, cookie).map_err(|_| Reason::Internal)?;
    }
    let issued = ctx.attempts.issued.take().and_then(|issued| issued.beside(&response.headers));
    if let Some(cookie) = issued {
        response.append_header(header::SET_COOKIE, cookie).map_err(|_| Reason::Internal)?;
    }
    ctx.attempts.settle_session(response, ctx.facts.scheme == "https")?;
    edit(session, ctx, response)
}

/// Run the listener's and the route's filters over a response.
///
/// # Errors
///
/// A filter refused it, or panicked.
///
/// True where a filter waits.
pub(crate) fn edit(
    session: &mut Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
) -> Result<bool, Reason> {
    // The listener may have begun to close meanwhile: the client is told not to send another.
    if session.connection().port.is_draining() {
        session.set_last();
    }
    if let (Some(tracing), Some(current)) = (&ctx.snapshot.tracing, ctx.facts.trace)
        && tracing.is.responds
    {
        response.append_header("server-timing", current.server_timing()).map_err(|_| Reason::Internal)?;
    }
    ctx.on_response(session.request_mut(), response)
}

fn plain(response: &Response) -> pingora_core::Result<ResponseHeader> {
    let mut header = ResponseHeader::build_no_case(response.status, Some(response.headers.len() + 4))?;
    for (name, value) in &response.headers {
        header.append_header(name.clone(), value.clone())?;
    }
    // A 204 has no length, not even 0 (RFC 9110, section 8.6).
    if response.status != StatusCode::NO_CONTENT {
        header.insert_header(header::CONTENT_LENGTH, response.body.len())?;
    }
    if let Some(reason) = response.reason {
        header.insert_header(REASON_HEADER, reason.code())?;
    }
    Ok(header)
}

/// An answer that is there whole.
///
/// # Errors
///
/// The client is gone.
pub(crate) fn write(session: &mut Session, mut header: ResponseHeader, body: Bytes) -> Result<(), Reason> {
    // Whatever a filter, a plugin or the configuration gives it: what followed would be taken for the next answer.
    let has_none = matches!(
        header.status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_none {
        header.remove_header(&header::CONTENT_LENGTH);
    }
    let without_body = has_none || body.is_empty() || session.request().method == Method::HEAD;
    if !without_body {
        header.insert_header(header::CONTENT_LENGTH, body.len()).map_err(|_| Reason::Internal)?;
    }
    let length = if without_body { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
    session.respond(Box::new(header), length)?;
    if without_body { Ok(()) } else { session.write(body, true) }
}
