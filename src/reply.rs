//! Answers of the gateway's own: what a filter decided, or why a request failed. The same filters edit them that edit
//! an upstream's answer.

use http::{HeaderValue, Method, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{
    context::{Context, Unrouted},
    error::{REASON_HEADER, Reason},
    filter::{Exchange, Response},
};

/// A refusal as a response: status, reason, short body, and when to come back.
pub fn refusal(reason: Reason, session: &Session) -> Response {
    Response::refusal(reason, &session.req_header().headers)
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

/// Send `response`, unless one is under way already.
///
/// # Errors
///
/// The client is gone.
pub async fn send(session: &mut Session, ctx: &mut Context, response: Response) -> Result<()> {
    ctx.reason = response.reason.or(ctx.reason);
    // 101 is the last that HTTP has to say on a connection; other interim answers leave room for the final one.
    let is_final = |status: http::StatusCode| !status.is_informational() || status == 101;
    if session.response_written().is_some_and(|written| is_final(written.status)) {
        return Ok(());
    }
    let header = match header(session, ctx, &response) {
        Ok(header) => header,
        // A response filter refused or panicked: answer without it, there is nothing else left to say.
        Err(reason) => {
            ctx.reason = Some(reason);
            let bare = refusal(reason, session);
            return write(session, ctx, plain(&bare)?, bare).await;
        }
    };
    write(session, ctx, header, response).await
}

fn header(session: &mut Session, ctx: &mut Context, response: &Response) -> Result<ResponseHeader, Reason> {
    let mut header = plain(response).map_err(|_| Reason::Internal)?;
    edit(session, ctx, &mut header)?;
    Ok(header)
}

/// Run the listener's and the route's filters over a response.
///
/// # Errors
///
/// A filter refused it, or panicked.
pub fn edit(session: &mut Session, ctx: &mut Context, response: &mut ResponseHeader) -> Result<(), Reason> {
    let mut exchange =
        Exchange { request: session.req_header_mut(), response: Some(response), facts: &mut ctx.facts };
    let chains = [ctx.listener.as_ref().map(|l| &l.chain), ctx.route.as_ref().map(|r| &r.chain)];
    chains.into_iter().flatten().try_for_each(|chain| chain.on_response(&mut exchange))
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

async fn write(
    session: &mut Session,
    ctx: &Context,
    header: ResponseHeader,
    response: Response,
) -> Result<()> {
    if !session.as_mut().is_body_done()
        && let Some(connection) = &ctx.connection
    {
        connection.leaves_unread();
    }
    let without_body = response.body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), without_body).await?;
    if !without_body {
        session.write_response_body(Some(response.body), true).await?;
    }
    Ok(())
}
