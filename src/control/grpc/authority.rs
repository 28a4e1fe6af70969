//! `tidegate.control.v1.Authority`: SVIDs, and the bundle that they are verified by. No rule of `authorize` has to know who asks:
//! a token, or an SVID that is still valid, is all that counts here.

use std::{pin::Pin, sync::Arc, time::UNIX_EPOCH};

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{
    Answer, Entry,
    service::{Shown, entry},
    status,
};
use crate::{
    control::{
        feed::seats::{Seat, Seats},
        issuing::{self, Issuing},
        refused::{Reason, Refused},
    },
    identity::{self, Identity, TrustDomain},
    wire::v1::{self, authority_server},
};

/// Whoever has shown nothing yet may send as much.
const LARGEST_REQUEST: usize = 64 * 1024;

pub(crate) struct Authority {
    /// `None` where nothing is issued.
    issuing: Option<Arc<Issuing>>,
    seats: Seats,
    closing: watch::Receiver<bool>,
}

pub(crate) fn authority(
    issuing: Option<Arc<Issuing>>,
    seats: Seats,
    closing: watch::Receiver<bool>,
) -> Entry {
    let server = authority_server::AuthorityServer::new(Authority { issuing, seats, closing });
    entry(server.max_decoding_message_size(LARGEST_REQUEST)).open()
}

impl Authority {
    fn refuse(&self, refused: &Refused) -> Status {
        self.seats.refused(refused);
        status(refused)
    }

    fn issuing(&self) -> Result<&Arc<Issuing>, Status> {
        self.issuing.as_ref().ok_or_else(|| {
            let hint = "add `control.serve.issue`";
            self.refuse(&Reason::NotFound.because(format!("this control plane issues no SVIDs ({hint})")))
        })
    }
}

#[tonic::async_trait]
impl authority_server::Authority for Authority {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Answer<v1::IssueResponse> {
        let shown = shown(&request);
        let v1::IssueRequest { csr, token } = request.into_inner();
        let issued = self.issuing()?.issue(csr, &token, shown.as_deref()).await;
        let issued = issued.map_err(|refused| self.refuse(&refused))?;
        let until = issued.until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Response::new(v1::IssueResponse {
            chain: issued.chain,
            bundle: Some(v1::Bundle { authorities: issued.authorities }),
            until: i64::try_from(until).unwrap_or(i64::MAX),
        }))
    }

    type WatchBundleStream = Pin<Box<dyn Stream<Item = Result<v1::Bundle, Status>> + Send>>;

    /// Authorities are no secret: whoever has no SVID yet is told once, and takes no place.
    async fn watch_bundle(
        &self,
        request: Request<v1::WatchBundleRequest>,
    ) -> Answer<Self::WatchBundleStream> {
        let issuing = self.issuing()?;
        let Some((identity, trust_domain)) = issuing.identity() else {
            return Err(Status::internal("this control plane has no identity"));
        };
        let is_member = shown(&request)
            .is_some_and(|shown| shown.id.as_ref().is_some_and(|id| *id.trust_domain() == trust_domain));
        let seat = match is_member {
            true => Some(self.seats.take("bundle").map_err(|refused| self.refuse(&refused))?),
            false => None,
        };
        let changes = identity.subscribe();
        let following =
            Following { identity, trust_domain, changes, seat, closing: self.closing.clone(), told: None };
        let bundles = stream::unfold(following, |mut following| async {
            let bundle = following.next().await?;
            Some((Ok(bundle), following))
        });
        Ok(Response::new(bundles.boxed()))
    }
}

/// One stream of bundles.
struct Following {
    identity: Arc<Identity>,
    trust_domain: TrustDomain,
    changes: watch::Receiver<u64>,
    /// None for a stranger.
    seat: Option<Seat>,
    closing: watch::Receiver<bool>,
    told: Option<[u8; 32]>,
}

impl Following {
    /// The next that is another; `None` at the end.
    async fn next(&mut self) -> Option<v1::Bundle> {
        loop {
            let bundles = &self.identity.current().bundles;
            let (print, authorities) = issuing::authorities(bundles, &self.trust_domain)?;
            if self.told.replace(print) != Some(print) {
                if let Some(seat) = &self.seat {
                    seat.told(1);
                }
                return Some(v1::Bundle { authorities });
            }
            self.seat.as_ref()?;
            let Following { changes, closing, .. } = self;
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = async { drop(closing.wait_for(|closing| *closing).await) } => return None,
            }
        }
    }
}

fn shown<T>(request: &Request<T>) -> Option<Arc<identity::Caller>> {
    request.extensions().get::<Shown>().and_then(|shown| shown.0.clone())
}
