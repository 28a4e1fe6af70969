//! `tidegate.control.v1.Peers`: what replicas of a control plane tell each other.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status};

use super::{
    Answer, Entry, open,
    registry::{LARGEST_MESSAGE, heartbeat_of},
    service::entry,
    status,
};
use crate::{
    control::{
        feed::stream::Feed,
        peers::MOST_BEATS,
        refused::{Reason, Refused},
    },
    wire::v1::{self, peers_server},
};

pub(crate) struct Peers {
    feed: Arc<Feed>,
}

pub(crate) fn peers(feed: Arc<Feed>) -> Entry {
    entry(peers_server::PeersServer::new(Peers { feed }).max_decoding_message_size(LARGEST_MESSAGE))
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
}
