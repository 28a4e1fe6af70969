//! The ends of connections whose clients are to hear a last word, in the background: closed at once, what they still send
//! would make the kernel reset the connection, and destroy that word on its way (RFC 9112, section 9.6).

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::accept::{
    connection::{Connection, transport::Transport, wire::Socket},
    websocket,
};

/// What is read at most of a client that has had its last word.
const UNREAD: usize = 4 * 1024 * 1024;

/// Send what is left, the last of which is a close frame, and wait for the client's own (RFC 6455, section 7.1.1).
pub(crate) async fn say_goodbye(mut transport: Transport, unsent: BytesMut, _open: Arc<Connection>) {
    linger(async {
        transport.write_all(&unsent).await?;
        transport.flush().await?;
        let mut scratch = vec![0; 4096];
        let mut left = UNREAD;
        while left > 0 {
            let read = transport.read(&mut scratch).await?;
            if read == 0 || websocket::ends_in_close(&scratch[..read]) {
                break;
            }
            left = left.saturating_sub(read);
        }
        transport.shutdown().await
    })
    .await;
}

/// Send what is left, say that nothing more comes, and read on for a moment, so that the client gets to read the
/// answer before the reset that unread bytes would cause.
pub(in crate::accept) async fn close_gently(
    mut transport: Transport,
    unsent: BytesMut,
    _open: Arc<Connection>,
) {
    linger(async {
        transport.write_all(&unsent).await?;
        // TLS cannot always say so: what the client still sends gets in its way, and it may be at its end after an
        // error. The answer is out by then, and the socket below still closes as gently as it would without TLS.
        let _ = transport.shutdown().await;
        end(transport.socket()).await
    })
    .await;
}

/// The same where TLS has not come to be: `last` goes out as it is.
pub(in crate::accept) async fn close_below(mut transport: Transport, last: Vec<u8>, _open: Arc<Connection>) {
    let socket = transport.socket();
    linger(async {
        socket.write_all(&last).await?;
        end(socket).await
    })
    .await;
}

async fn linger(farewell: impl Future<Output = io::Result<()>>) {
    const TIME: Duration = Duration::from_secs(2);
    // Whatever goes wrong here, the connection is closed and the client was answered as well as can be.
    let _ = tokio::time::timeout(TIME, farewell).await;
}

/// Say that nothing more comes, and read on.
async fn end(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut scratch = vec![0; 16 * 1024];
    let mut left = UNREAD;
    while left > 0 {
        match socket.read(&mut scratch).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}
