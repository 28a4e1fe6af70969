//! Connections of our own on the terms of an upstream: what joins a control plane trusts it as it would an endpoint.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora_core::{
    connectors::{ConnectorOptions, TransportConnector},
    protocols::{ALPN, Digest, l4::socket::SocketAddr as PeerAddress},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Live, Refusal,
    endpoint::peer_at,
    probe::Probe,
    registry::Owners,
    tls::{Tls, Trouble},
};
use crate::config;

/// Opens connections for HTTP/2 and keeps none.
pub struct Dialer {
    tls: Option<Arc<Tls>>,
    connector: TransportConnector,
    timeout: Duration,
}

impl Dialer {
    /// Over TLS where `tls` is given; `live` has the identity that it may want. Each connection, its handshake included, may
    /// take as long as `timeout`.
    ///
    /// # Errors
    ///
    /// What cannot work, by its path within the settings.
    pub fn new(
        tls: Option<&config::UpstreamTls>,
        live: &Live,
        timeout: Duration,
    ) -> Result<Dialer, Vec<Refusal>> {
        let settings = config::Upstream {
            tls: tls.cloned(),
            protocol: config::UpstreamProtocol::Http2,
            ..config::Upstream::default()
        };
        let tls = Tls::of(&settings, live.identity.as_ref())?;
        let connector = TransportConnector::new(Some(ConnectorOptions::new(0)));
        Ok(Dialer { tls, connector, timeout })
    }

    /// A connection with `address`, which was configured as `origin`.
    ///
    /// # Errors
    ///
    /// Why there is none, or why it is not trusted, in words for the operator.
    pub async fn dial(
        &self,
        address: SocketAddr,
        origin: &str,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, String> {
        let mut peer = peer_at(&PeerAddress::Inet(address));
        peer.options.alpn = ALPN::H2;
        let handshake = match &self.tls {
            Some(tls) => {
                let terms = tls.terms().map_err(|none| none.to_string())?;
                Some(Tls::secure(&mut peer, terms, origin, &Owners::default()))
            }
            None => None,
        };
        let connecting = tokio::time::timeout(self.timeout, self.connector.new_stream(&peer));
        let connected = connecting.await.map_err(|_| format!("no connection within {:?}", self.timeout))?;
        let Some(handshake) = handshake else {
            return connected.map_err(|error| Probe::explain(&error));
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                let Some(trouble) = Trouble::of(&error, &handshake) else {
                    return Err(Probe::explain(&error));
                };
                let why = match trouble.explain() {
                    Some(why) => Some(why),
                    None => handshake.diagnose(trouble, address, origin.to_owned(), Vec::new()).await,
                };
                return Err(why.unwrap_or_else(|| Probe::explain(&error)));
            }
        };
        let digest = Digest { ssl_digest: stream.get_ssl_digest(), ..Digest::default() };
        handshake.check(Some(&digest)).map_err(|distrust| distrust.to_string())?;
        Ok(stream)
    }
}
