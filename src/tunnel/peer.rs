//! Pingora's peer with what we offer by ALPN and nothing else: it would offer `http/1.1` in each handshake, which a server of
//! something else may refuse.

use std::{fmt, sync::Arc};

use pingora_core::{
    protocols::{ALPN, l4::socket::SocketAddr},
    upstreams::peer::{HttpPeer, Peer, PeerOptions},
    utils::tls::CertKey,
};

#[derive(Clone)]
pub(super) struct Offering {
    pub peer: HttpPeer,
    pub alpn: Option<ALPN>,
}

impl Peer for Offering {
    fn address(&self) -> &SocketAddr {
        self.peer.address()
    }

    fn tls(&self) -> bool {
        self.peer.tls()
    }

    fn sni(&self) -> &str {
        self.peer.sni()
    }

    fn reuse_hash(&self) -> u64 {
        self.peer.reuse_hash()
    }

    fn get_peer_options(&self) -> Option<&PeerOptions> {
        self.peer.get_peer_options()
    }

    fn get_client_cert_key(&self) -> Option<&Arc<CertKey>> {
        self.peer.get_client_cert_key()
    }

    fn get_alpn(&self) -> Option<&ALPN> {
        self.alpn.as_ref()
    }
}

impl fmt::Display for Offering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}
