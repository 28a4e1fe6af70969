//! Answers of the gateway's own: what a filter decided, or why a request failed. The same filters edit them that edit
//! an upstream's answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use pingora_core::{Result, protocols::http::HttpTask};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{
    context::{Context, Unrouted},
    error::{REASON_HEADER, Reason},
    filter::{Exchange, Response},
    forward, grpc,
};

/// A refusal as a response: status, reason, short body, and when to come back.
pub fn refusal(reason: Reason, session: &Session) -> Response {
    Response::refusal(reason, &session.req_header().headers)
}

/// Say when to come back, in whole seconds, rounded up (RFC 9110, section 10.2.3).
pub fn come_back(response: &mut Response, after: Duration) {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    response.headers.retain(|(name, _)| *name != header::RETRY_AFTER);
    response.headers.push((header::RETRY_AFTER, seconds.max(1).into()));
}

/// 404, or 405 with the methods that are served (RFC 9110, section 15.5.6).
pub fn unrouted(unrouted: &Unrouted, session: &Session) -> Response {
    let mut response = refusal(unrouted.reason, session);
    let allow: Vec<&str> = unrouted.allow.iter().map(Method::as_str).collect();
    if let Ok(allow) = HeaderValue::try_from(allow.join(", "))
        && unrouted.reason == Reason::MethodNotAllowed
    {
        response.headers.push((header::ALLOW, allow));
    }
    response
}

/// A request of gRPC that does not say that trailers will reach its client.
pub fn without_te(session: &Session) -> Response {
    let mut response = refusal(Reason::BadRequest, session);
    response.body = Bytes::from_static(b"a request of gRPC needs the field `te: trailers`\n");
    response
}

/// Send `response`, unless one is under way already: then a call that is not over is ended with what it says.
///
/// # Errors
///
/// The client is gone.
pub async fn send(session: &mut Session, ctx: &mut Context, response: Response) -> Result<()> {
    ctx.reason = response.reason.or(ctx.reason);
    // 101 is the last that HTTP has to say on a connection; other interim answers leave room for the final one.
    let is_final = |status: http::StatusCode| !status.is_informational() || status == 101;
    if session.response_written().is_some_and(|written| is_final(written.status)) {
        return end_call(session, ctx, response).await;
    }
    let response = for_call(ctx, response);
    let header = match header(session, ctx, &response) {
        Ok(header) => header,
        // A response filter refused or panicked: answer without it, there is nothing else left to say.
        Err(reason) => {
            ctx.reason = Some(reason);
            ctx.facts.encoder = None;
            let bare = for_call(ctx, refusal(reason, session));
            return write(session, ctx, plain(&bare)?, bare).await;
        }
    };
    write(session, ctx, header, response).await
}

/// Whether an answer of our own leaves the client's connection fit for another request, over HTTP/1. To be asked before it
/// is sent.
pub fn leaves_usable(session: &mut Session, ctx: &Context) -> bool {
    let is_open = ctx.connection.as_ref().is_some_and(|connection| !connection.port.is_draining());
    is_open
        && session.response_written().is_none()
        && session.as_mut().is_body_done()
        && !session.is_upgrade_req()
        && session.downstream_session.as_http1().is_some_and(|http1| http1.will_keepalive())
}

fn for_call(ctx: &mut Context, response: Response) -> Response {
    match &mut ctx.facts.grpc {
        Some(call) => response.for_call(call),
        None => response,
    }
}

/// Nothing to do for what is no call, or has been told its status.
async fn end_call(session: &mut Session, ctx: &mut Context, response: Response) -> Result<()> {
    let Some(call) = ctx.facts.grpc.as_mut().filter(|call| call.status.is_none()) else { return Ok(()) };
    let reason = response.reason;
    let fields = response.for_call(call).headers.into_iter();
    let mut trailers: HeaderMap =
        fields.filter(|(name, _)| *name == grpc::STATUS || *name == grpc::MESSAGE).collect();
    if let Some(reason) = reason {
        trailers.insert(REASON_HEADER, HeaderValue::from_static(reason.code()));
    }
    match call.dialect {
        grpc::Dialect::Http2 => session.as_mut().write_response_trailers(trailers).await,
        dialect => session.write_response_body(Some(grpc::web::trailers(&trailers, dialect)), true).await,
    }
}

fn header(session: &mut Session, ctx: &mut Context, response: &Response) -> Result<ResponseHeader, Reason> {
    let mut header = plain(response).map_err(|_| Reason::Internal)?;
    edit(session, ctx, &mut header)?;
    Ok(header)
}

/// Make an upstream's answer what the client is to get.
///
/// # Errors
///
/// A filter refused it, or panicked.
pub fn pass_on(
    session: &mut Session,
    ctx: &mut Context,
    response: &mut ResponseHeader,
) -> Result<(), Reason> {
    ctx.expect_answer(None);
    let version = session.req_header().version;
    // The listener may have begun to close while the upstream worked: the client is told not to send another.
    let closing = ctx.connection.as_ref().is_some_and(|connection| connection.port.is_draining());
    if closing && version != http::Version::HTTP_2 {
        session.set_keepalive(None);
    }
    if response.status == 101 {
        // Interim to Pingora, and so not reported yet.
        ctx.attempts.answered(forward::outcome(response.status, None), Instant::now());
        // A WebSocket is no body that stalls.
        session.set_read_timeout(None);
    } else if let (Some(silence), Some(connection)) = (ctx.silence, &ctx.connection) {
        connection.expect_traffic(silence);
    }
    if version == http::Version::HTTP_10 && forward::unchunk(response) {
        session.set_keepalive(None);
    }
    forward::clean_response(response);
    if let Some(cookie) = ctx.attempts.cookie.take() {
        response.append_header(header::SET_COOKIE, cookie).map_err(|_| Reason::Internal)?;
    }
    edit(session, ctx, response)?;
    if response.status == 101 {
        ctx.upgrade();
    }
    Ok(())
}

/// Run the listener's and the route's filters over a response.
///
/// # Errors
///
/// A filter refused it, or panicked.
pub fn edit(session: &mut Session, ctx: &mut Context, response: &mut ResponseHeader) -> Result<(), Reason> {
    // One that was meant for a response that is not sent after all.
    ctx.facts.encoder = None;
    let mut exchange =
        Exchange { request: session.req_header_mut(), response: Some(response), facts: &mut ctx.facts };
    let chains = [
        ctx.listener.as_ref().map(|listener| (&listener.chain, ctx.listener_steps)),
        ctx.route.as_ref().map(|route| (&route.chain, ctx.route_steps)),
    ];
    chains.into_iter().flatten().try_for_each(|(chain, steps)| chain.on_response(steps, &mut exchange))
}

fn plain(response: &Response) -> Result<ResponseHeader> {
    let mut header = ResponseHeader::build(response.status, Some(response.headers.len() + 4))?;
    for (name, value) in &response.headers {
        header.append_header(name.clone(), value.clone())?;
    }
    // A 204 has no length, not even 0 (RFC 9110, section 8.6).
    if response.status != http::StatusCode::NO_CONTENT {
        header.insert_header(header::CONTENT_LENGTH, response.body.len())?;
    }
    if let Some(reason) = response.reason {
        header.insert_header(REASON_HEADER, reason.code())?;
    }
    Ok(header)
}

/// Over HTTP/2 a header that is the whole answer ends the stream itself: clients of gRPC find a status in no other
/// (Trailers-Only). Pingora would send an empty DATA frame behind it.
///
/// # Errors
///
/// The client is gone.
pub async fn write_header(session: &mut Session, header: Box<ResponseHeader>, is_whole: bool) -> Result<()> {
    if is_whole && session.req_header().version == Version::HTTP_2 {
        let whole = vec![HttpTask::Header(header, true)];
        return session.as_mut().response_duplex_vec(whole).await.map(drop);
    }
    session.write_response_header(header, is_whole).await
}

async fn write(
    session: &mut Session,
    ctx: &mut Context,
    header: ResponseHeader,
    response: Response,
) -> Result<()> {
    if !session.as_mut().is_body_done()
        && let Some(connection) = &ctx.connection
    {
        connection.leaves_unread();
    }
    let body = ctx.encode(Some(response.body), true).map_err(Reason::into_error)?.unwrap_or_default();
    let without_body = body.is_empty() || session.req_header().method == Method::HEAD;
    write_header(session, Box::new(header), without_body).await?;
    if without_body {
        // Else HTTP/2 would take the end of a failed request for a response cut short.
        return session.as_mut().finish_body().await;
    }
    session.write_response_body(Some(body), true).await
}
