//! Pingora's peer, without what it says of HTTP: it would offer `http/1.1` in each handshake, which a server of something
//! else may refuse.

use std::{fmt, sync::Arc};

use pingora_core::{
    protocols::{ALPN, l4::socket::SocketAddr},
    upstreams::peer::{HttpPeer, Peer, PeerOptions},
    utils::tls::CertKey,
};

#[derive(Clone)]
pub(super) struct WithoutAlpn(pub HttpPeer);

impl Peer for WithoutAlpn {
    fn address(&self) -> &SocketAddr {
        self.0.address()
    }

    fn tls(&self) -> bool {
        self.0.tls()
    }

    fn sni(&self) -> &str {
        self.0.sni()
    }

    fn reuse_hash(&self) -> u64 {
        self.0.reuse_hash()
    }

    fn get_peer_options(&self) -> Option<&PeerOptions> {
        self.0.get_peer_options()
    }

    fn get_client_cert_key(&self) -> Option<&Arc<CertKey>> {
        self.0.get_client_cert_key()
    }

    fn get_alpn(&self) -> Option<&ALPN> {
        None
    }
}

impl fmt::Display for WithoutAlpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
