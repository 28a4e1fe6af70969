//! Addresses at which nobody is met: ones that refuse at once, and ones that never say a word.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A port on which nobody listens, and nobody will as long as this lives.
pub(crate) struct Refusing(TcpSocket);

impl Refusing {
    pub(crate) fn start() -> Refusing {
        Refusing(bound())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// From now on connections are accepted there, by the kernel at least.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(128).unwrap()
    }
}

/// An address whose SYNs go unanswered, as those of a host that is off: the kernel drops what is more than the backlog of
/// one who accepts nothing.
pub(crate) struct Silent {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: TcpStream,
}

impl Silent {
    pub(crate) async fn start() -> Silent {
        let listener = bound().listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = TcpStream::connect(address).await.unwrap();
        Silent { address, _listener: listener, _waiting: waiting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bound() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_one_refuses_and_the_other_says_nothing() {
        let (refusing, silent) = (Refusing::start(), Silent::start().await);
        let refused = TcpStream::connect(refusing.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        // The kernel answers at once where it answers.
        let connecting = TcpStream::connect(silent.address());
        assert!(tokio::time::timeout(Duration::from_millis(200), connecting).await.is_err());
    }
}
