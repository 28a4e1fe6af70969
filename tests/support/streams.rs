//! What is said over a bare connection, for protocols that are not HTTP.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within_deadline;

/// Says it, and hears as much.
pub(crate) async fn say(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    hear(stream, text.len()).await
}

pub(crate) async fn hear(stream: &mut TcpStream, bytes: usize) -> String {
    let mut heard = vec![0; bytes];
    within_deadline("an answer", stream.read_exact(&mut heard)).await.unwrap();
    String::from_utf8(heard).unwrap()
}

/// Whatever is said until the end, or the break.
pub(crate) async fn rest(stream: &mut TcpStream) -> io::Result<String> {
    let mut said = String::new();
    within_deadline("the end of a connection", stream.read_to_string(&mut said)).await.map(|_| said)
}

/// Once it is dropped, the other side sees a break in place of an end.
pub(crate) fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}
