//! A request's body in small pieces. The library gathers whatever comes in a buffer that grows and never shrinks: a stream that
//! once asked for a hundred services in one frame would keep the room for that as long as it lives.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// A message that is longer comes in several.
const LARGEST: usize = 1024;

pub(super) struct Pieces<B = Incoming> {
    body: B,
    /// Of a frame that has come, what was not passed on yet.
    rest: Bytes,
}

impl<B> Pieces<B> {
    pub(super) fn of(body: B) -> Pieces<B> {
        Pieces { body, rest: Bytes::new() }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let most = self.rest.len().min(LARGEST);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn all_of_a_body_comes_in_small_pieces_and_its_trailers_after_it() {
        let long: Bytes = (0..5000_u32).map(|n| n as u8).collect();
        let frames = [
            Frame::data(long.clone()),
            Frame::data(Bytes::new()),
            Frame::data(Bytes::from_static(b"end")),
            Frame::trailers(HeaderMap::new()),
        ];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let mut pieces = Pieces::of(body);
        let (mut all, mut has_trailers) = (Vec::new(), false);
        while let Some(Ok(frame)) = pieces.frame().await {
            match frame.into_data() {
                Ok(data) => {
                    assert!(!has_trailers && data.len() <= LARGEST);
                    all.extend_from_slice(&data);
                }
                Err(_) => has_trailers = true,
            }
        }
        assert!(has_trailers);
        assert_eq!(all, [&long[..], b"end"].concat());
    }
}
