//! Moves an idle connection to the thread that wants it. Its socket is watched by the runtime that opened it, and used
//! elsewhere each answer would first wake that thread, for as long as the connection lives. So the socket is taken out and
//! registered anew: a few system calls, once.
//!
//! Pingora's stream gives its socket away to nobody, but the kernel duplicates it. TLS is a layer above, and stays.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use pingora_core::protocols::{
    GetSocketDigest, SocketDigest, Stream, UniqueID, l4::stream::Stream as Plain, tls::SslStream,
};
use rustix::net::{AddressFamily, RecvFlags, sockopt};
use tokio::net::{TcpStream, UnixStream};

/// `stream` on the runtime that this is called in. It is idle: nothing is buffered in it.
///
/// # Errors
///
/// Its upstream has closed it or said something, or there is no descriptor left.
pub(super) fn adopt(stream: Stream) -> io::Result<Stream> {
    let stream = match stream.into_any().downcast::<Plain>() {
        Ok(mut plain) => {
            move_here(&mut plain)?;
            return Ok(plain);
        }
        Err(other) => other,
    };
    match stream.downcast::<SslStream<Plain>>() {
        Ok(mut tls) => {
            move_here(tls.get_mut())?;
            Ok(tls)
        }
        Err(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn move_here(stream: &mut Plain) -> io::Result<()> {
    // SAFETY: `stream` has the descriptor open, and is borrowed for longer.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.id()) }.try_clone_to_owned()?;
    quiet(&socket)?;
    let mut moved = match sockopt::socket_domain(&socket)? {
        AddressFamily::UNIX => Plain::from(UnixStream::from_std(socket.into())?),
        _ => Plain::from(TcpStream::from_std(socket.into())?),
    };
    moved.set_socket_digest(SocketDigest::from_raw_fd(moved.id()));
    moved.established_ts = stream.established_ts;
    // It is still the one connection that was counted when it opened.
    moved.tracer = stream.tracer.take();
    *stream = moved;
    Ok(())
}

/// Asks the kernel: what the other thread's runtime has seen may be out of date.
fn quiet(socket: &OwnedFd) -> io::Result<()> {
    match rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}
