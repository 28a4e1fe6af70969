//! Where a request came in, where it goes and how it ended, for filters that ask for such things by name: plugins. All others pay
//! nothing for it.

use std::time::Instant;

use pingora_core::protocols::l4::socket::SocketAddr;

use super::Context;
use crate::{
    accept::Session,
    error::Reason,
    filter::{Ended, Phases, UpstreamWay},
    forward,
};

impl Context {
    fn asks_for_ways(&self) -> bool {
        self.body_phases.contains(Phases::ASKS_FOR_WAYS)
    }

    /// Which filters run is known, and the route.
    pub(super) fn note_arrival(&mut self) {
        if !self.asks_for_ways() {
            return;
        }
        let ways = self.facts.ways.get_or_insert_default();
        if let Some(connection) = &self.connection {
            (ways.connection, ways.local) = (connection.id, Some(connection.local));
        }
        ways.metadata = self.route.as_ref().and_then(|route| route.metadata.clone());
    }

    /// A try has its connection.
    pub(crate) fn note_upstream(&mut self, exchange: &forward::Exchange) {
        if !self.asks_for_ways() {
            return;
        }
        let Some(attempt) = self.attempts.current() else { return };
        let address = match &attempt.endpoint().address {
            SocketAddr::Inet(address) => Some(*address),
            _ => None,
        };
        let upstream = self.attempts.destination.as_ref().map(|to| &to.upstream);
        // What is known of a connection is copied for whoever asks.
        let digest = attempt.handshake().and_then(|_| exchange.digest());
        let tls = digest.and_then(|digest| Some(digest.ssl_digest?.version.clone()));
        let tls = tls.and_then(|version| TLS.into_iter().find(|known| **known == *version));
        let endpoints = upstream.map_or(0, |upstream| upstream.endpoints().len());
        let way = UpstreamWay { address, tries: self.attempts.count(), endpoints, tls };
        self.facts.ways.get_or_insert_default().upstream = Some(way);
    }

    /// The request is over.
    pub(crate) fn note_end(&mut self, session: &Session) {
        if !self.asks_for_ways() {
            return;
        }
        self.facts.ways.get_or_insert_default().end = Some(Ended {
            reason: self.reason.map(Reason::code),
            received: session.body_bytes_read(),
            sent: session.body_bytes_sent(),
            backend: self.attempts.upstream_time(self.sent, Instant::now()),
        });
    }
}

const TLS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
