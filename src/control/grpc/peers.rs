//! `tidegate.control.v1.Peers`: what replicas of a control plane tell each other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{Request, Response, Status};

use super::{Answer, Entry, open, registry::heartbeat_of, service::entry, status};
use crate::{
    control::{
        configs::Configs,
        feed::stream::Feed,
        peers::{LARGEST_MESSAGE, MOST_BEATS},
        refused::{Located, Reason, Refused},
    },
    wire::v1::{self, peers_server},
};

/// In milliseconds. Whoever asks does not wait for longer.
const LONGEST_CHECK: u64 = 30_000;

pub(crate) struct Peers {
    feed: Arc<Feed>,
    configs: Arc<Configs>,
}

pub(crate) fn peers(feed: Arc<Feed>, configs: Arc<Configs>) -> Entry {
    let server = peers_server::PeersServer::new(Peers { feed, configs });
    entry(server.max_decoding_message_size(LARGEST_MESSAGE).max_encoding_message_size(LARGEST_MESSAGE))
}

impl Peers {
    fn refuse(&self, refused: &Refused) -> Status {
        self.feed.seats.refused(refused);
        status(refused)
    }
}

#[tonic::async_trait]
impl peers_server::Peers for Peers {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        let (caller, request) = open(request)?;
        caller.check_replica().map_err(|refused| self.refuse(&refused))?;
        if request.beats.len() > MOST_BEATS {
            let refused = Reason::TooLarge.because(format!("a batch has at most {MOST_BEATS} heartbeats"));
            return Err(self.refuse(&refused));
        }
        let beats = request.beats.into_iter().map(|beat| Ok((beat.id.clone(), heartbeat_of(&beat)?)));
        let beats: Result<Vec<_>, Refused> = beats.collect();
        let beats = beats.map_err(|refused| self.refuse(&refused))?;
        let not_owned = self.feed.registry.renewed(beats, Instant::now());
        Ok(Response::new(v1::RenewResponse { not_owned }))
    }

    async fn check(&self, request: Request<v1::CheckRequest>) -> Answer<v1::CheckResponse> {
        let (caller, request) = open(request)?;
        caller.check_replica().map_err(|refused| self.refuse(&refused))?;
        let v1::CheckRequest { config, node, version, documents, patience_ms } = request;
        let end = tokio::time::Instant::now() + Duration::from_millis(patience_ms.min(LONGEST_CHECK));
        let found = self.configs.ask_here(&config.into(), &node.into(), version, documents, end).await;
        let answered = found.is_some();
        let problems = found.unwrap_or_default().into_iter().map(Located::wire).collect();
        Ok(Response::new(v1::CheckResponse { answered, problems }))
    }
}
