//! `grpc.health.v1.Health`, as other people's clients and probes ask for it: of the whole process (no name), and of each service that is
//! served here. Like `/readyz`, `Check` needs no credentials. `Watch` takes a place as every stream does, so it is for those whom a rule knows.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tonic::{Request, Response, Status};

use super::{Answer, Entry, open, service::entry, status};
use crate::{
    control::{
        feed::seats::{Seat, Seats},
        refused::{Reason, Refused},
        registry::Registry,
    },
    wire::health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
    },
};

/// How often it is looked whether it is another.
const LOOK: Duration = Duration::from_secs(1);
/// Names are short, and whoever has shown nothing may ask.
const LARGEST_REQUEST: usize = 4096;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health {
    registry: Arc<Registry>,
    /// By their full names.
    services: Arc<[&'static str]>,
    seats: Seats,
    draining: Arc<AtomicBool>,
    closing: watch::Receiver<bool>,
}

pub(crate) fn health(
    services: &[Entry],
    registry: Arc<Registry>,
    seats: Seats,
    draining: Arc<AtomicBool>,
    closing: watch::Receiver<bool>,
) -> Entry {
    let services = services.iter().map(Entry::name).collect();
    let health = Health { registry, services, seats, draining, closing };
    entry(health_server::HealthServer::new(health).max_decoding_message_size(LARGEST_REQUEST)).open()
}

impl Health {
    fn status(&self, service: &str) -> ServingStatus {
        let is_known = service.is_empty() || self.services.contains(&service);
        let is_serving = !self.draining.load(Relaxed) && self.registry.check_open().is_ok();
        match (is_known, is_serving) {
            (false, _) => ServingStatus::ServiceUnknown,
            (true, true) => ServingStatus::Serving,
            (true, false) => ServingStatus::NotServing,
        }
    }

    fn refuse(&self, refused: &Refused) -> Status {
        self.seats.refused(refused);
        status(refused)
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        let HealthCheckRequest { service } = request.into_inner();
        match self.status(&service) {
            ServingStatus::ServiceUnknown => {
                let hint = "ask for no name, or for the full one of a service that is served here";
                Err(self
                    .refuse(&Reason::NotFound.because(format!("there is no service {service:?} ({hint})"))))
            }
            status => Ok(Response::new(answer(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let (_, HealthCheckRequest { service }) = open(request).map_err(|_| {
            let hint = "come with a certificate or a token that a rule names, or call `Check`";
            self.refuse(
                &Reason::Unauthenticated.because(format!("`Watch` is for those whom a rule knows ({hint})")),
            )
        })?;
        let seat = self.seats.take("health").map_err(|refused| self.refuse(&refused))?;
        let watching = Watching { health: self.clone(), service, seat, told: None };
        let statuses = stream::unfold(watching, |mut watching| async {
            let status = watching.next().await?;
            Some((Ok(answer(status)), watching))
        });
        Ok(Response::new(statuses.boxed()))
    }
}

struct Watching {
    health: Health,
    service: String,
    seat: Seat,
    told: Option<ServingStatus>,
}

impl Watching {
    /// The next that is another; `None` at the end.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let status = self.health.status(&self.service);
            if self.told.replace(status) != Some(status) {
                self.seat.told(1);
                return Some(status);
            }
            let closing = &mut self.health.closing;
            tokio::select! {
                () = sleep(LOOK) => {}
                () = async { drop(closing.wait_for(|closing| *closing).await) } => return None,
            }
        }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
