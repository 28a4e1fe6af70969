//! What RFC 9113 and RFC 7541 ask of a server, frame by frame, over TLS and in plain text: each case is what a client
//! sends and what must come of it. The sections are those of RFC 7540, after which public suites number their cases.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::certificates::{authority, svid, write};
use crate::support::connect::Tls;
use crate::support::frames::*;
use crate::support::{
    Backend, Gateway, TlsClient, connect, get, observe::leaves_nothing_open, within_deadline,
};

// Error codes (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// What is done to the server, in order.
enum Do {
    Send(Vec<u8>),
    /// Waits for the end of the stream's response.
    ReadResponse,
    /// Waits until the settings that were sent are in force.
    ReadSettingsAck,
    ReadData,
}

/// What must come of it. The end of the connection is right wherever an error is due (RFC 9113, section 5.4).
#[derive(Debug)]
enum Must {
    /// A goodbye with one of these codes.
    EndConnection(&'static [u32]),
    /// A reset or a goodbye with one of these codes.
    EndStream(&'static [u32]),
    /// A reset, and the connection goes on.
    ResetStream(u32),
    /// The connection goes on: a ping with this payload is answered, and no other.
    AnswerPing,
    /// The same, or the connection ends.
    AnswerPingOrClose,
    Respond,
    SendData(usize),
    AcknowledgeSettings,
}

use Must::*;

type Case = (&'static str, Vec<Do>, Must);

fn send(frames: &[Vec<u8>]) -> Vec<Do> {
    vec![Do::Send(frames.concat())]
}

/// A whole request on stream 1 with these fields behind the good ones.
fn with(fields: &[u8]) -> Vec<Do> {
    send(&[frame(HEADERS, WHOLE, 1, &[GOOD, fields].concat())])
}

/// A whole request on stream 1 with these fields and no others.
fn only(fields: &[&[u8]]) -> Vec<Do> {
    send(&[frame(HEADERS, WHOLE, 1, &fields.concat())])
}

fn post(fields: &[u8]) -> Vec<u8> {
    [&[POST, HTTP, ROOT], AUTHORITY, fields].concat()
}

fn ping(data: &[u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, data)
}

/// Of weight 256, on this stream.
fn priority(stream: u32, on: u32) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[255]].concat())
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn window(sizes: &[u32]) -> Vec<u8> {
    let settings: Vec<u8> = sizes.iter().flat_map(|size| setting(INITIAL_WINDOW_SIZE, *size)).collect();
    frame(SETTINGS, 0, 0, &settings)
}

const ASKED: &[u8; 8] = b"tidegate";

fn frames_and_streams() -> Vec<Case> {
    let good = || frame(HEADERS, WHOLE, 1, GOOD);
    let open = || frame(HEADERS, END_HEADERS, 1, &post(&[]));
    let begun = |flags| frame(HEADERS, flags, 1, GOOD);
    let unknown = || frame(0x16, 0, 0, &[0; 8]);
    vec![
        ("4.1 an unknown kind of frame", send(&[unknown()]), AnswerPing),
        ("4.1 an undefined flag", send(&[frame(PING, 0xfe, 0, ASKED)]), AnswerPing),
        ("4.1 the reserved bit", send(&[frame(PING, 0, 1 << 31, ASKED)]), AnswerPing),
        ("4.2 a frame of 2^14", send(&[open(), frame(DATA, END_STREAM, 1, &[b'x'; 16384])]), Respond),
        (
            "4.2 data over the limit",
            send(&[open(), frame(DATA, END_STREAM, 1, &[0; 16385])]),
            EndStream(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.2 a header over the limit",
            send(&[frame(HEADERS, WHOLE, 1, &[GOOD, &[b'x'; 16384]].concat())]),
            EndConnection(&[FRAME_SIZE_ERROR]),
        ),
        ("4.3 half a field", send(&[frame(HEADERS, WHOLE, 1, &[0x40])]), EndConnection(&[COMPRESSION_ERROR])),
        ("4.3 a priority in a header", send(&[begun(0), priority(1, 0)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "4.3 another stream in a header",
            send(&[begun(0), frame(HEADERS, WHOLE, 3, GOOD)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("5.1 idle: data", send(&[frame(DATA, END_STREAM, 1, b"x")]), EndConnection(&[PROTOCOL_ERROR])),
        ("5.1 idle: a reset", send(&[reset(1, 8)]), EndConnection(&[PROTOCOL_ERROR])),
        ("5.1 idle: a window update", send(&[window_update(1, 100)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "5.1 idle: a continuation",
            send(&[frame(CONTINUATION, END_HEADERS, 1, GOOD)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("5.1 idle: a priority", send(&[priority(1, 0)]), AnswerPing),
        (
            "5.1 half-closed: data",
            send(&[good(), frame(DATA, END_STREAM, 1, b"x")]),
            EndStream(&[STREAM_CLOSED]),
        ),
        ("5.1 half-closed: a header", send(&[good(), good()]), EndStream(&[STREAM_CLOSED])),
        (
            "5.1 half-closed: a continuation",
            send(&[good(), frame(CONTINUATION, END_HEADERS, 1, GOOD)]),
            EndStream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("5.1 half-closed: a window update", send(&[window(&[0]), good(), window_update(1, 1)]), SendData(1)),
        (
            "5.1 half-closed: a priority",
            send(&[window(&[0]), good(), priority(1, 0), window_update(1, 1)]),
            SendData(1),
        ),
        ("5.1 half-closed: a reset", send(&[good(), reset(1, 8)]), AnswerPingOrClose),
        (
            "5.1 reset: data",
            send(&[open(), reset(1, 8), frame(DATA, END_STREAM, 1, b"x")]),
            EndStream(&[STREAM_CLOSED]),
        ),
        ("5.1 reset: a header", send(&[open(), reset(1, 8), good()]), EndStream(&[STREAM_CLOSED])),
        (
            "5.1 reset: a continuation",
            send(&[open(), reset(1, 8), frame(CONTINUATION, END_HEADERS, 1, &field("x", "y"))]),
            EndStream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("5.1 closed: data", after_response(frame(DATA, END_STREAM, 1, b"x")), EndStream(&[STREAM_CLOSED])),
        ("5.1 closed: a header", after_response(good()), EndConnection(&[STREAM_CLOSED])),
        (
            "5.1 closed: a continuation",
            after_response(frame(CONTINUATION, END_HEADERS, 1, &field("x", "y"))),
            EndConnection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("5.1 closed: a priority", after_response(priority(1, 0)), AnswerPing),
        ("5.1.1 an even stream", send(&[frame(HEADERS, WHOLE, 2, GOOD)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "5.1.1 a smaller stream",
            send(&[frame(HEADERS, WHOLE, 5, GOOD), frame(HEADERS, WHOLE, 3, GOOD)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("5.1.2 one stream too many", send(&too_many()), EndStream(&[PROTOCOL_ERROR, REFUSED_STREAM])),
        (
            "5.3.1 a header that depends on itself",
            send(&[frame(HEADERS, WHOLE | HAS_PRIORITY, 1, &[&[0, 0, 0, 1, 255], GOOD].concat())]),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        ("5.3.1 a priority that depends on itself", send(&[priority(1, 1)]), EndStream(&[PROTOCOL_ERROR])),
        (
            "5.5 an unknown frame in a header",
            send(&[begun(END_STREAM), unknown()]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
    ]
}

fn kinds_of_frames() -> Vec<Case> {
    let good = || frame(HEADERS, WHOLE, 1, GOOD);
    let open = || frame(HEADERS, END_HEADERS, 1, &post(&[]));
    let half = || frame(HEADERS, END_STREAM, 1, GOOD);
    let more = |flags| frame(CONTINUATION, flags, 1, &field("x", "y"));
    let header = |flags: u8, ahead: &[u8], behind: &[u8]| {
        send(&[frame(HEADERS, WHOLE | flags, 1, &[ahead, GOOD, behind].concat())])
    };
    vec![
        ("6.1 data", send(&[open(), frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 1, b"y")]), Respond),
        ("6.1 padded data", send(&[open(), frame(DATA, END_STREAM | PADDED, 1, b"\x02x\0\0")]), Respond),
        (
            "6.1 data on no stream",
            send(&[frame(DATA, END_STREAM, 0, b"x")]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 more padding than data",
            send(&[open(), frame(DATA, END_STREAM | PADDED, 1, b"\x06test")]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.2 a padded header", header(PADDED, &[3], &[0; 3]), Respond),
        ("6.2 a header with a priority", header(HAS_PRIORITY, &[0, 0, 0, 0, 255], &[]), Respond),
        (
            "6.2 a header on no stream",
            send(&[frame(HEADERS, WHOLE, 0, GOOD)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.2 more padding than header", header(PADDED, &[200], &[]), EndConnection(&[PROTOCOL_ERROR])),
        ("6.3 a priority on another stream", send(&[priority(1, 7), good()]), Respond),
        ("6.3 a priority on no stream", send(&[priority(0, 1)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "6.3 half a priority",
            send(&[open(), frame(PRIORITY, 0, 1, &[0; 4])]),
            EndStream(&[FRAME_SIZE_ERROR]),
        ),
        ("6.4 a reset", send(&[open(), reset(1, 8)]), AnswerPing),
        ("6.4 a reset on no stream", send(&[reset(0, 8)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "6.4 half a reset",
            send(&[open(), frame(RST_STREAM, 0, 1, &[0; 3])]),
            EndConnection(&[FRAME_SIZE_ERROR]),
        ),
        ("6.5 settings", send(&[frame(SETTINGS, 0, 0, &setting(3, 100))]), AcknowledgeSettings),
        (
            "6.5 an acknowledgement that says more",
            send(&[frame(SETTINGS, ACK, 0, &[0])]),
            EndConnection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5 settings on a stream",
            send(&[frame(SETTINGS, 0, 1, &setting(3, 100))]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.5 half a setting", send(&[frame(SETTINGS, 0, 0, &[0; 3])]), EndConnection(&[FRAME_SIZE_ERROR])),
        ("6.5.2 push: 2", send(&[frame(SETTINGS, 0, 0, &setting(2, 2))]), EndConnection(&[PROTOCOL_ERROR])),
        ("6.5.2 a window of 2^31", send(&[window(&[1 << 31])]), EndConnection(&[FLOW_CONTROL_ERROR])),
        (
            "6.5.2 frames below 2^14",
            send(&[frame(SETTINGS, 0, 0, &setting(5, 16383))]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 frames of 2^24",
            send(&[frame(SETTINGS, 0, 0, &setting(5, 1 << 24))]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.5.2 an unknown setting", send(&[frame(SETTINGS, 0, 0, &setting(0xff, 1))]), AnswerPing),
        (
            "6.5.3 the last of two values",
            vec![Do::Send(window(&[100, 1])), Do::ReadSettingsAck, Do::Send(good())],
            SendData(1),
        ),
        ("6.7 a ping", send(&[]), AnswerPing),
        ("6.7 an answer to no ping", send(&[frame(PING, ACK, 0, b"unasked!")]), AnswerPing),
        ("6.7 a ping on a stream", send(&[frame(PING, 0, 1, &[0; 8])]), EndConnection(&[PROTOCOL_ERROR])),
        ("6.7 half a ping", send(&[frame(PING, 0, 0, &[0; 6])]), EndConnection(&[FRAME_SIZE_ERROR])),
        ("6.8 a goodbye", send(&[frame(GOAWAY, 0, 0, &[0; 8])]), AnswerPingOrClose),
        (
            "6.8 a goodbye on a stream",
            send(&[frame(GOAWAY, 0, 1, &[0; 8])]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.9 window updates", send(&[window_update(0, 1), open(), window_update(1, 1)]), AnswerPing),
        ("6.9 an update by 0", send(&[window_update(0, 0)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "6.9 an update of a stream by 0",
            send(&[open(), window_update(1, 0)]),
            EndStream(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 half an update",
            send(&[frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
            EndConnection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.9.1 no more than the window holds",
            vec![Do::Send(window(&[1])), Do::ReadSettingsAck, Do::Send(good())],
            SendData(1),
        ),
        (
            "6.9.1 a window over 2^31",
            send(&[window_update(0, i32::MAX as u32), window_update(0, i32::MAX as u32)]),
            EndConnection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 a stream's window over 2^31",
            send(&[open(), window_update(1, i32::MAX as u32), window_update(1, i32::MAX as u32)]),
            ResetStream(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 a window that opens later",
            vec![Do::Send(window(&[0])), Do::ReadSettingsAck, Do::Send([good(), window(&[1])].concat())],
            SendData(1),
        ),
        (
            "6.9.2 a window below 0",
            vec![
                Do::Send(window(&[3])),
                Do::ReadSettingsAck,
                Do::Send(good()),
                Do::ReadData,
                Do::Send(window(&[2])),
                Do::ReadSettingsAck,
                Do::Send(window_update(1, 2)),
            ],
            SendData(1),
        ),
        ("6.10 continuations", send(&[half(), more(0), more(END_HEADERS)]), Respond),
        (
            "6.10 data in a header",
            send(&[half(), more(0), frame(DATA, END_STREAM, 1, b"x")]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 a continuation on no stream",
            send(&[half(), frame(CONTINUATION, END_HEADERS, 0, &[])]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        ("6.10 behind a whole header", send(&[open(), more(END_HEADERS)]), EndConnection(&[PROTOCOL_ERROR])),
        (
            "6.10 behind the last continuation",
            send(&[frame(HEADERS, 0, 1, GOOD), more(END_HEADERS), more(END_HEADERS)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 behind data",
            send(&[open(), frame(DATA, 0, 1, b"x"), more(END_HEADERS)]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
        (
            "7 a goodbye for no known reason",
            send(&[frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 255])]),
            AnswerPingOrClose,
        ),
        ("7 a reset for no known reason", send(&[open(), reset(1, 255)]), AnswerPing),
    ]
}

fn messages() -> Vec<Case> {
    let open = |fields: &[u8]| frame(HEADERS, END_HEADERS, 1, &post(fields));
    let data = |flags, data: &[u8]| frame(DATA, flags, 1, data);
    let trailers = |flags, fields: &[u8]| frame(HEADERS, flags, 1, fields);
    let malformed = || EndStream(&[PROTOCOL_ERROR]);
    let (method, scheme, path) = (&[GET][..], &[HTTP][..], &[ROOT][..]);
    vec![
        ("8 GET", with(&[]), Respond),
        ("8 HEAD", only(&[&field(":method", "HEAD"), scheme, path, AUTHORITY]), Respond),
        ("8 POST", send(&[open(&[]), data(END_STREAM, b"test")]), Respond),
        (
            "8 POST with trailers",
            send(&[open(&field("trailer", "x")), data(0, b"test"), trailers(WHOLE, &field("x", "ok"))]),
            Respond,
        ),
        (
            "8.1 trailers that do not end the stream",
            send(&[open(&[]), data(0, b"test"), trailers(END_HEADERS, &field("x", "ok"))]),
            malformed(),
        ),
        ("8.1.2 a name in capitals", with(&field("X-TEST", "ok")), malformed()),
        ("8.1.2.1 an unknown pseudo-field", with(&field(":test", "ok")), malformed()),
        ("8.1.2.1 a response's pseudo-field", with(&field(":status", "200")), malformed()),
        (
            "8.1.2.1 a pseudo-field in trailers",
            send(&[open(&[]), data(0, b"test"), trailers(END_HEADERS, &field(":method", "POST"))]),
            malformed(),
        ),
        ("8.1.2.1 a pseudo-field behind a field", only(&[&field("x-test", "ok"), GOOD]), malformed()),
        ("8.1.2.2 a field of the connection", with(&field("connection", "keep-alive")), malformed()),
        ("8.1.2.2 te other than trailers", with(&field("te", "trailers, deflate")), malformed()),
        ("8.1.2.3 an empty path", only(&[method, scheme, &field(":path", ""), AUTHORITY]), malformed()),
        ("8.1.2.3 no method", only(&[scheme, path, AUTHORITY]), malformed()),
        ("8.1.2.3 no scheme", only(&[method, path, AUTHORITY]), malformed()),
        ("8.1.2.3 no path", only(&[method, scheme, AUTHORITY]), malformed()),
        ("8.1.2.3 two methods", with(method), malformed()),
        ("8.1.2.3 two schemes", with(scheme), malformed()),
        ("8.1.2.3 two paths", with(path), malformed()),
        (
            "8.1.2.6 less than announced",
            send(&[open(&field("content-length", "1")), data(END_STREAM, b"test")]),
            malformed(),
        ),
        (
            "8.1.2.6 less than announced, in parts",
            send(&[open(&field("content-length", "1")), data(0, b"test"), data(END_STREAM, b"test")]),
            malformed(),
        ),
        (
            "8.2 a push",
            send(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 3], GOOD].concat())]),
            EndConnection(&[PROTOCOL_ERROR]),
        ),
    ]
}

fn compression() -> Vec<Case> {
    let undecodable = || EndConnection(&[COMPRESSION_ERROR]);
    // `x-test`, once in Huffman's code and once spelt out, and a value for it.
    let (coded, spelt) = (&b"\x85\xf2\xb2\x4a\x84\xff"[..], &b"\x06x-test"[..]);
    let literal = |kind: u8, name: &[u8], value: &[u8]| with(&[&[kind], name, value].concat());
    vec![
        ("HPACK 6.1 an indexed field", with(b"\xba"), Respond),
        ("HPACK 6.2.1 indexed", literal(0x40, spelt, b"\x02ok"), Respond),
        ("HPACK 6.2.1 indexed, coded", literal(0x40, coded, b"\x84\x9c\x48\xac\xa4"), Respond),
        ("HPACK 6.2.1 indexed, name of the table", literal(0x7a, b"", b"\x02ok"), Respond),
        ("HPACK 6.2.2 not indexed", literal(0, spelt, b"\x02ok"), Respond),
        ("HPACK 6.2.2 not indexed, coded", literal(0, coded, b"\x84\x9c\x48\xac\xa4"), Respond),
        ("HPACK 6.2.3 never indexed", literal(0x10, spelt, b"\x02ok"), Respond),
        ("HPACK 6.2.3 never indexed, coded", literal(0x10, coded, b"\x84\x9c\x48\xac\xa4"), Respond),
        ("HPACK 6.3 a size update", only(&[b"\x20", GOOD]), Respond),
        ("HPACK 4.2 two size updates", only(&[b"\x20\x3f\xe1\x1f", GOOD]), Respond),
        ("HPACK 2.3.3 an index of nothing", with(b"\xfe"), undecodable()),
        ("HPACK 2.3.3 a literal of nothing", with(b"\x7f\x00\x02ok"), undecodable()),
        ("HPACK 4.2 a size update behind fields", with(b"\x21"), undecodable()),
        ("HPACK 5.2 padding of more than 7 bits", literal(0, coded, b"\x84\x49\x50\x9f\xff"), undecodable()),
        ("HPACK 5.2 padding of zeros", literal(0, coded, b"\x83\x49\x50\x90"), undecodable()),
        (
            "HPACK 5.2 the end of a string in it",
            literal(0, coded, b"\x87\xff\xff\xff\xfd\x25\x42\x7f"),
            undecodable(),
        ),
        ("HPACK 6.1 index 0", with(b"\x80"), undecodable()),
        ("HPACK 6.3 a table over the limit", only(&[b"\x3f\xe1\xff\x3f", GOOD]), undecodable()),
    ]
}

fn after_response(frames: Vec<u8>) -> Vec<Do> {
    vec![Do::Send(frame(HEADERS, WHOLE, 1, GOOD)), Do::ReadResponse, Do::Send(frames)]
}

/// One more than the 100 that are announced, none of which can end.
fn too_many() -> Vec<Vec<u8>> {
    let streams = (0..=100).map(|number| frame(HEADERS, WHOLE, 2 * number + 1, GOOD));
    std::iter::once(window(&[0])).chain(streams).collect()
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn open(address: SocketAddr, tls: bool) -> Box<dyn Stream> {
    if tls { Box::new(speaking(address, b"\x02h2").await) } else { Box::new(connect(address).await.unwrap()) }
}

/// Over TLS, with one protocol.
async fn speaking(address: SocketAddr, alpn: &'static [u8]) -> Tls {
    let stream = TlsClient::trusting_all().speaking(alpn).connect(address, "").await.unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&alpn[1..]));
    stream
}

/// What went wrong, if anything.
async fn judge(stream: Box<dyn Stream>, steps: Vec<Do>, must: Must) -> Result<(), String> {
    let mut wire = Wire::shake(stream).await.map_err(|why| format!("no handshake: {why:?}"))?;
    for step in steps {
        let read = match step {
            Do::Send(frames) => {
                wire.send(&frames).await;
                continue;
            }
            Do::ReadResponse => wire.wait_for(|frame| frame.ends_stream()).await,
            Do::ReadSettingsAck => wire.wait_for(|frame| frame.kind == SETTINGS && frame.flags == ACK).await,
            Do::ReadData => wire.wait_for(|frame| frame.kind == DATA).await,
        };
        read.map_err(|why| format!("{why:?} on the way"))?;
    }
    if matches!(must, AnswerPing | AnswerPingOrClose) {
        wire.send(&ping(ASKED)).await;
    }
    let decisive = |frame: &Frame| match must {
        // One with another code is not, but the end that follows it is.
        EndConnection(codes) => frame.kind == GOAWAY && codes.contains(&frame.error()),
        EndStream(codes) => matches!(frame.kind, GOAWAY | RST_STREAM) && codes.contains(&frame.error()),
        ResetStream(_) => frame.kind == RST_STREAM,
        AnswerPing | AnswerPingOrClose => frame.kind == PING,
        Respond => frame.kind == HEADERS,
        SendData(_) => frame.kind == DATA,
        AcknowledgeSettings => frame.kind == SETTINGS,
    };
    let came = wire.wait_for(decisive).await;
    let is_right = match (&must, &came) {
        (EndConnection(_) | EndStream(_) | AnswerPingOrClose, Err(Silence::Closed)) => true,
        (_, Err(_)) => false,
        (EndConnection(_) | EndStream(_), Ok(_)) => true,
        (ResetStream(code), Ok(frame)) => (frame.stream, frame.error()) == (1, *code),
        (AnswerPing | AnswerPingOrClose, Ok(frame)) => frame.flags == ACK && frame.payload == ASKED,
        (Respond, Ok(frame)) => frame.stream == 1,
        (SendData(length), Ok(frame)) => frame.payload.len() == *length,
        (AcknowledgeSettings, Ok(frame)) => frame.flags == ACK,
    };
    if !is_right {
        return Err(format!("must {must:?}, and there came {came:?}"));
    }
    // Behind a goodbye the connection is closed (RFC 9113, section 5.4.1).
    if came.is_ok_and(|frame| frame.kind == GOAWAY) && wire.wait_for(|_| false).await != Err(Silence::Closed)
    {
        return Err("a goodbye, and the connection stays open".to_owned());
    }
    Ok(())
}

async fn gateway(backend: SocketAddr, log: &str) -> Gateway {
    let directory = tempfile::TempDir::new().unwrap();
    let server = authority("a.example").issue(&svid("spiffe://a.example/server"));
    write(&directory.path().join("server.key"), &server.key_pem(), 0o600);
    write(&directory.path().join("server.crt"), &server.pem(), 0o644);
    let yaml = format!(
        "admin: false\nlog: {{access: {{to: {log}}}}}\n\
         listeners:\n\
         - {{name: plain, address: '127.0.0.1:0'}}\n\
         - {{name: tls, address: '127.0.0.1:0', tls: {{certificates: [{{cert: server.crt, key: server.key}}]}}}}\n\
         routes: [{{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{backend}']}}}}\n"
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_what_the_standard_asks() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "off").await;
    let mut wrong = Vec::new();
    for (name, tls) in [("plain", false), ("tls", true)] {
        let address = gateway.address(name);
        let cases = [frames_and_streams(), kinds_of_frames(), messages(), compression()];
        for (what, steps, must) in cases.into_iter().flatten() {
            if let Err(why) = judge(open(address, tls).await, steps, must).await {
                wrong.push(format!("{name}: {what}: {why}"));
            }
        }
        within_deadline("an answer", get_after(&gateway)).await;
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

async fn get_after(gateway: &Gateway) {
    get(gateway.address("plain"), "/").await.assert_status(200);
}

/// Section 3.5: the connection ends, at once and cleanly, whoever it is that speaks no HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_preface_ends_the_connection_at_once() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "stdout").await;
    for (name, tls) in [("plain", false), ("tls", true)] {
        let not_prefaces: [&[u8]; 4] = [
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\x04\0\0\0\0\0",
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        ];
        for bytes in not_prefaces {
            // Which it may well be in plain text.
            if !tls && bytes[0] == b'G' {
                continue;
            }
            let mut wire = Wire::new(open(gateway.address(name), tls).await);
            wire.send(bytes).await;
            assert_eq!(wire.wait_for(|_| false).await, Err(Silence::Closed), "{name}: {bytes:?}");
        }
        let mut wire = Wire::new(open(gateway.address(name), tls).await);
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 65535))].concat()).await;
        let first = wire.read().await.unwrap();
        assert_eq!((first.kind, first.flags), (SETTINGS, 0), "the server's preface is its settings");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_speaks_another_version_than_agreed_on_is_refused_for_a_reason() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "stdout").await;
    let refused = async |protocol: &str| {
        let line = gateway.wait_for_line(|line| line["reason"] == "bad_request").await;
        assert_eq!((&line["listener"], &line["protocol"]), (&"tls".into(), &protocol.into()), "{line}");
    };
    leaves_nothing_open(&gateway, async || {
        let mut stream = speaking(gateway.address("tls"), b"\x08http/1.1").await;
        stream.write_all(PREFACE).await.unwrap();
        let mut answer = String::new();
        within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        refused("HTTP/1.1").await;
        let mut stream = speaking(gateway.address("tls"), b"\x02h2").await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        within_deadline("the end", stream.read_to_end(&mut Vec::new())).await.unwrap();
        refused("HTTP/2").await;
    })
    .await;
}
