//! What comes of the calls that an instance has made: the root that made one hears of it, also when its request is over.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use wasmtime::TypedFunc;

use super::{Failure, Instance, small};
use crate::{
    grpc,
    observe::metrics::PluginCallback,
    plugin::{
        outbound::{Answered, Outcome, Said},
        state::Kind,
    },
};

/// Statuses of gRPC.
const UNAVAILABLE: i32 = 14;
const INTERNAL: i32 = 13;

type GrpcCallback = Option<TypedFunc<(i32, i32, i32), ()>>;

impl Instance {
    /// A call is over.
    pub(in crate::plugin) fn answered(&mut self, call: u32, outcome: Outcome) -> Result<(), Failure> {
        let state = self.store.data_mut();
        let Some(pending) = state.calls.remove(&call) else { return Ok(()) };
        if !state.contexts.contains_key(&pending.root) {
            return Ok(());
        }
        if !matches!(pending.kind, Kind::Http) {
            return self.grpc_answered(pending.root, call, outcome);
        }
        let (headers, body, trailers) = match outcome {
            Ok(answered) => {
                let sizes = (answered.headers.len() + 1, answered.body.len(), answered.trailers.len());
                (state.answered, state.status) = (Some(answered), (0, Vec::new()));
                sizes
            }
            Err(why) => {
                state.status = (UNAVAILABLE, why.as_bytes().to_vec());
                state.answered = unanswered(why);
                state.answered.as_ref().map_or((0, 0, 0), |told| (told.headers.len() + 1, told.body.len(), 0))
            }
        };
        let Some(callback) = self.callbacks.call_answered.clone() else { return Ok(()) };
        let (root, number) = (pending.root.cast_signed(), call.cast_signed());
        let sizes = (small(headers), small(body), small(trailers));
        let arguments = (root, number, sizes.0, sizes.1, sizes.2);
        let heard = self.call(pending.root, PluginCallback::HttpCallResponse, &callback, arguments);
        self.store.data_mut().answered = None;
        heard
    }

    /// Its message, or how it ended, never both: a filter that lets a request pass on a message is not to hear one of a call that
    /// has failed.
    fn grpc_answered(&mut self, root: u32, call: u32, outcome: Outcome) -> Result<(), Failure> {
        let answered = match outcome {
            Err(why) => return self.grpc_closed(root, call, UNAVAILABLE, why.as_bytes().to_vec()),
            Ok(answered) => answered,
        };
        match message_of(&answered) {
            Ok((message, text)) => {
                self.store.data_mut().status = (0, text);
                self.grpc_heard(root, call, Said::Message(message))
            }
            Err((status, text)) => self.grpc_closed(root, call, status, text),
        }
    }

    /// Something has come of a stream.
    pub(in crate::plugin) fn said(&mut self, stream: u32, said: Said) -> Result<(), Failure> {
        let state = self.store.data_mut();
        let Some(pending) = state.calls.get(&stream) else { return Ok(()) };
        let root = pending.root;
        if !state.contexts.contains_key(&root) {
            state.calls.remove(&stream);
            return Ok(());
        }
        match said {
            Said::End { status, text } => {
                state.calls.remove(&stream);
                self.grpc_closed(root, stream, status, text)
            }
            said => self.grpc_heard(root, stream, said),
        }
    }

    fn grpc_heard(&mut self, root: u32, call: u32, said: Said) -> Result<(), Failure> {
        let Instance { callbacks, .. } = self;
        let (callback, number, answered) = match said {
            Said::Headers(headers) => {
                (&callbacks.grpc_metadata, headers.len(), Answered { headers, ..Answered::default() })
            }
            Said::Message(body) => {
                (&callbacks.grpc_message, body.len(), Answered { body, ..Answered::default() })
            }
            Said::Trailers(trailers) => {
                (&callbacks.grpc_trailers, trailers.len(), Answered { trailers, ..Answered::default() })
            }
            Said::End { .. } => return Ok(()),
        };
        let callback = callback.clone();
        self.store.data_mut().answered = Some(answered);
        let heard = self.grpc_turn(callback, root, call, small(number));
        self.store.data_mut().answered = None;
        heard
    }

    fn grpc_closed(&mut self, root: u32, call: u32, status: i32, text: Vec<u8>) -> Result<(), Failure> {
        self.store.data_mut().status = (status, text);
        let closed = self.callbacks.grpc_close.clone();
        self.grpc_turn(closed, root, call, status)
    }

    fn grpc_turn(
        &mut self,
        callback: GrpcCallback,
        root: u32,
        call: u32,
        number: i32,
    ) -> Result<(), Failure> {
        let Some(callback) = callback else { return Ok(()) };
        let arguments = (root.cast_signed(), call.cast_signed(), number);
        self.call(root, PluginCallback::GrpcReceive, &callback, arguments)
    }

    /// Its calls are given up.
    pub(in crate::plugin) fn give_up_calls(&mut self) {
        self.store.data_mut().calls.clear();
    }
}

/// What a call is told that nobody has answered: other hosts make up an answer, and filters look at its status. One that was broken
/// off has none.
fn unanswered(why: &'static str) -> Option<Answered> {
    let status = match why {
        "too_large" => return None,
        "timeout" => 504,
        _ => 503,
    };
    let body = Bytes::from_static(why.as_bytes());
    let headers = [
        (header::CONTENT_LENGTH, HeaderValue::from(body.len())),
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
    ];
    Some(Answered { status, headers: headers.into_iter().collect(), body, trailers: HeaderMap::new() })
}

/// The message of a call that succeeded, or the status of one that failed; and what is said of it. A body that is no message makes
/// of the call a failed one, whatever else is said of it.
fn message_of(answered: &Answered) -> Result<(Bytes, Vec<u8>), (i32, Vec<u8>)> {
    let http = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (status, text) = grpc_status(http, &answered.headers, &answered.trailers);
    match message_in(&answered.body) {
        Some(message) if status == 0 => Ok((message, text)),
        None if http == StatusCode::OK && (status == 0 || !answered.body.is_empty()) => {
            Err((INTERNAL, b"no message".to_vec()))
        }
        _ => Err((status, text)),
    }
}

/// The first message of a body, without what is in front of it. One that is compressed cannot be read here.
fn message_in(body: &Bytes) -> Option<Bytes> {
    let (flag, rest) = body.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    (*flag == 0 && rest.len() >= length).then(|| body.slice(5..5 + length))
}

/// How a call ended, and what is said of it. One that was answered with another status of HTTP than 200 has not succeeded; without a
/// status of gRPC nobody knows more.
pub(crate) fn grpc_status(http: StatusCode, headers: &HeaderMap, trailers: &HeaderMap) -> (i32, Vec<u8>) {
    let find = |name: &str| trailers.get(name).or_else(|| headers.get(name));
    let status = find("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    match status.filter(|status| (0..=16).contains(status)) {
        Some(status) if status != 0 || http == StatusCode::OK => {
            (status, find("grpc-message").map(|text| text.as_bytes().to_vec()).unwrap_or_default())
        }
        _ => (grpc::of_http(http).into(), format!("HTTP status {}", http.as_u16()).into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_plain_and_as_long_as_it_says() {
        let message = |bytes: &'static [u8]| message_in(&Bytes::from_static(bytes));
        assert_eq!(message(b"\0\0\0\0\x02hi"), Some(Bytes::from_static(b"hi")));
        assert_eq!(message(b"\0\0\0\0\0"), Some(Bytes::new()));
        for wrong in [&b""[..], b"\0\0\0", b"\0\0\0\0\x03hi", b"\x01\0\0\0\x02hi", b"\0\xff\xff\xff\xffhi"] {
            assert_eq!(message_in(&Bytes::copy_from_slice(wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_call_succeeds_with_a_message_a_status_of_0_and_none_of_http_that_says_otherwise() {
        let of = |http: u16, status: &str, body: &'static [u8]| {
            let mut trailers = HeaderMap::new();
            if !status.is_empty() {
                trailers.insert("grpc-status", status.parse().unwrap());
            }
            let body = Bytes::from_static(body);
            let answered = Answered { status: http, body, trailers, ..Answered::default() };
            message_of(&answered).map(|(message, _)| message).map_err(|(status, _)| status)
        };
        const HI: &[u8] = b"\0\0\0\0\x02hi";
        assert_eq!(of(200, "0", HI), Ok(Bytes::from_static(b"hi")));
        for (http, status, body, failed) in [
            (200, "7", HI, 7),
            (200, "7", b"", 7),
            (200, "", HI, 2),
            (200, "99", HI, 2),
            (200, "", b"", 2),
            (200, "0", b"", INTERNAL),
            (200, "", b"a page", INTERNAL),
            (200, "7", b"a page", INTERNAL),
            (403, "0", HI, 7),
            (403, "5", HI, 5),
            (404, "", b"a page", 12),
            (503, "", b"", UNAVAILABLE),
        ] {
            assert_eq!(of(http, status, body), Err(failed), "{http} {status} {body:?}");
        }
    }
}
