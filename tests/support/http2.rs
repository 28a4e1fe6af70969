//! An HTTP/2 client that keeps nothing back: parts of bodies, resets, trailers, and headers hyper would not send.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::{Answer, connect, within_deadline};

pub(crate) struct Http2Client(SendRequest<Bytes>);

impl Http2Client {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::with(address, &mut Builder::new()).await
    }

    pub(crate) async fn with(address: SocketAddr, settings: &mut Builder) -> Self {
        let (client, connection) = settings.handshake(connect(address).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }

    /// Sends a header; `end` when that is all there is.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        poll_fn(|cx| self.0.poll_ready(cx)).await.unwrap();
        self.0.send_request(request, end).unwrap()
    }

    /// A request without a body, and its whole answer.
    pub(crate) async fn ask(&mut self, request: Request<()>) -> Answer {
        let (response, _) = self.begin(request, true).await;
        whole(response).await
    }
}

/// A header with these fields, which may be any.
pub(crate) fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// The whole answer; panics when it is cut off.
pub(crate) async fn whole(response: ResponseFuture) -> Answer {
    let response = within_deadline("an answer over HTTP/2", response).await.unwrap();
    let (head, body) = response.into_parts();
    let (body, trailers) = rest(body).await.unwrap();
    Answer { status: head.status, version: head.version, headers: head.headers, body: body.into(), trailers }
}

/// The head of the answer.
pub(crate) async fn head(response: ResponseFuture) -> Response<RecvStream> {
    within_deadline("the head of an answer over HTTP/2", response).await.unwrap()
}

/// The body to its end, and the trailers.
pub(crate) async fn rest(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(part) = within_deadline("a part of a body over HTTP/2", body.data()).await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, body.trailers().await?))
}
