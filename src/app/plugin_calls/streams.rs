//! Streams of gRPC that plugins have with upstreams: messages go out as they are said, and are heard as they come.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{destination, header};
use crate::{
    forward::{Client, direct},
    observe::metrics::Metrics,
    plugin::{Answered, Call, Hears, Message, Outcome, Said, grpc_status},
    snapshot::{Current, Destination},
};

/// The stream of one plugin's call, and who hears of it.
struct Streaming {
    hears: Hears,
    metadata: HeaderMap,
    /// It was answered so, and that is no stream of gRPC.
    refused: Option<StatusCode>,
}

impl Streaming {
    /// What is too early is said again: the instance that hears it is being made.
    async fn say(&mut self, said: Said) {
        let mut early = (self.hears)(said);
        while let Some(said) = early {
            tokio::time::sleep(AGAIN).await;
            early = (self.hears)(said);
        }
    }
}

const AGAIN: Duration = Duration::from_millis(10);

/// Of gRPC, for what cannot be had now.
const UNAVAILABLE: i32 = 14;

/// Whether it came as far as a status of the upstream's.
pub(super) async fn stream(
    current: &Current,
    client: &Client,
    metrics: &Metrics,
    call: Call,
    mut messages: UnboundedReceiver<Message>,
    hears: Hears,
) -> bool {
    let mut streaming = Streaming { hears, metadata: HeaderMap::new(), refused: None };
    let ended = converse(current, client, metrics, call, &mut messages, &mut streaming).await;
    let (status, text) = match &ended {
        Ok(trailers) => grpc_status(StatusCode::OK, &streaming.metadata, trailers),
        Err(why) => match streaming.refused {
            Some(http) => grpc_status(http, &streaming.metadata, &HeaderMap::new()),
            None => (UNAVAILABLE, why.as_bytes().to_vec()),
        },
    };
    streaming.say(Said::End { status, text }).await;
    ended.is_ok()
}

/// Until the upstream has said all. Answers what stood behind its messages.
async fn converse(
    current: &Current,
    client: &Client,
    metrics: &Metrics,
    call: Call,
    messages: &mut UnboundedReceiver<Message>,
    streaming: &mut Streaming,
) -> Result<HeaderMap, &'static str> {
    let destination = destination(current, metrics, &call)?;
    let (limit, most) = (call.timeout, call.most);
    let mut stream = direct::Stream::open(client, &destination, header(call)?, limit, metrics).await?;
    let (mut parts, mut is_begun) = (Frames::default(), false);
    loop {
        let next = poll_fn(|cx| {
            stream.poll_send(cx, |cx| {
                messages.poll_recv(cx).map(|message| match message {
                    Some(Message { framed, is_last, room }) => {
                        let room = room.map(|room| Box::new(room) as Box<dyn Send>);
                        direct::Send::Part { part: framed, is_last, room }
                    }
                    None => direct::Send::Part { part: Bytes::new(), is_last: true, room: None },
                })
            });
            stream.poll_next(cx)
        });
        match next.await? {
            direct::Next::Head(head) => {
                streaming.metadata = head.headers.clone();
                if head.status != StatusCode::OK {
                    streaming.refused = Some(head.status);
                    return Err("no call of gRPC was answered");
                }
                is_begun = true;
                streaming.say(Said::Headers(head.headers.clone())).await;
            }
            direct::Next::Part(part) => {
                parts.push(&part);
                while let Some(message) = parts.next(most)? {
                    streaming.say(Said::Message(message)).await;
                }
            }
            direct::Next::End(trailers) => {
                if is_begun {
                    streaming.say(Said::Trailers(trailers.clone())).await;
                }
                return Ok(trailers);
            }
        }
    }
}

/// A call whose body has fields behind it.
///
/// # Errors
///
/// Why there is no answer.
pub(super) async fn ask_with_trailers(
    client: &Client,
    destination: &Arc<Destination>,
    metrics: &Metrics,
    call: Call,
) -> Outcome {
    let (limit, most) = (call.timeout, call.most);
    let (body, trailers) = (call.body.clone(), call.trailers.clone());
    let mut parts = VecDeque::from([
        direct::Send::Part { part: body, is_last: false, room: None },
        direct::Send::Trailers(trailers),
    ]);
    let asked = async {
        let mut stream = direct::Stream::open(client, destination, header(call)?, limit, metrics).await?;
        let (mut answered, mut whole) = (Answered::default(), BytesMut::new());
        loop {
            let next = poll_fn(|cx| {
                stream.poll_send(cx, |_| parts.pop_front().map_or(Poll::Pending, Poll::Ready));
                stream.poll_next(cx)
            });
            match next.await? {
                direct::Next::Head(head) => {
                    (answered.status, answered.headers) = (head.status.as_u16(), head.headers.clone());
                }
                direct::Next::Part(part) if whole.len() + part.len() > most => return Err("too_large"),
                direct::Next::Part(part) => whole.extend_from_slice(&part),
                direct::Next::End(trailers) => {
                    return Ok(Answered { body: whole.freeze(), trailers, ..answered });
                }
            }
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Err("timeout"))
}

/// Messages, each behind what says how long it is.
#[derive(Default)]
struct Frames(BytesMut);

impl Frames {
    fn push(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    /// The next one that is whole.
    ///
    /// # Errors
    ///
    /// It is compressed, or longer than `most`.
    fn next(&mut self, most: usize) -> Result<Option<Bytes>, &'static str> {
        let Some((flag, rest)) = self.0.split_first() else { return Ok(None) };
        if *flag != 0 {
            return Err("a message is compressed");
        }
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > most {
            return Err("a message is too large");
        }
        if rest.len() < length {
            return Ok(None);
        }
        let mut framed = self.0.split_to(FRAME + length);
        Ok(Some(framed.split_off(FRAME).freeze()))
    }
}

/// What is in front of a message.
const FRAME: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_same_however_they_come_in_parts() {
        let whole = b"\0\0\0\0\x02hi\0\0\0\0\0\0\0\0\0\x05there";
        for size in 1..=whole.len() {
            let (mut frames, mut messages) = (Frames::default(), Vec::new());
            for part in whole.chunks(size) {
                frames.push(part);
                while let Some(message) = frames.next(5).unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"hi"[..], b"", b"there"], "parts of {size}");
            assert!(frames.0.is_empty());
        }
    }

    #[test]
    fn a_message_that_is_too_large_or_compressed_ends_the_stream() {
        for (bytes, most) in [(&b"\0\0\0\0\x02"[..], 1), (b"\x01", 100), (b"\0\xff\xff\xff\xff", 1 << 20)] {
            let mut frames = Frames::default();
            frames.push(bytes);
            assert!(frames.next(most).is_err());
        }
    }
}
