//! Instances that register and renew.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::Full;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::spawn_local};
use tonic::transport::Endpoint;

use crate::{
    plane::Ports,
    v1::{self, registry_client::RegistryClient},
};

/// Connections over which instances renew by REST.
const CONNECTIONS: usize = 50;
/// A second's heartbeats are sent in so many batches.
const BATCHES: u64 = 2;

pub(crate) struct Population {
    services: usize,
    of_each: usize,
    random: RefCell<fastrand::Rng>,
}

impl Population {
    pub(crate) fn new(services: usize, of_each: usize) -> Population {
        Population { services, of_each, random: RefCell::new(fastrand::Rng::with_seed(1)) }
    }

    pub(crate) fn count(&self) -> usize {
        self.services * self.of_each
    }

    pub(crate) fn name(&self, service: usize) -> String {
        format!("service-{service}")
    }

    pub(crate) fn id(&self, instance: usize) -> String {
        format!("instance-{instance}")
    }

    pub(crate) fn any(&self) -> usize {
        self.random.borrow_mut().usize(..self.count())
    }

    pub(crate) async fn register(&self, ports: &Ports, ttl: Duration) {
        let clients = ports.clients().await;
        let registered = stream::iter(0..self.count()).map(|instance| {
            let mut client = clients[instance % clients.len()].clone();
            let request = v1::RegisterRequest {
                id: self.id(instance),
                // Neighbours are of different services: those who fall silent together are not one service.
                name: self.name(instance % self.services),
                address: format!("10.{}.{}.{}:80", instance >> 16, (instance >> 8) & 255, instance & 255),
                ttl_ms: ttl.as_millis().try_into().unwrap(),
                ..v1::RegisterRequest::default()
            };
            async move {
                // A plane that has just started may not have read its store yet.
                while let Err(status) = client.register(request.clone()).await {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        registered.buffer_unordered(100).for_each(|_| async {}).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Rest,
    Batches,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Over::Rest => "over REST",
            Over::Batches => "in batches over gRPC",
        })
    }
}

/// Each instance renews three times in its TTL.
pub(crate) struct Beats {
    population: Rc<Population>,
    ports: Ports,
    over: Rc<Cell<Over>>,
    /// So many do not renew.
    pub(crate) skip: Rc<Cell<usize>>,
    pub(crate) sent: Rc<Cell<u64>>,
}

impl Beats {
    pub(crate) fn start(population: Rc<Population>, ports: &Ports) -> Rc<Beats> {
        let beats = Rc::new(Beats {
            population,
            ports: ports.clone(),
            over: Rc::new(Cell::new(Over::Batches)),
            skip: Rc::default(),
            sent: Rc::default(),
        });
        for connection in 0..CONNECTIONS {
            spawn_local(beats.clone().over_rest(connection));
        }
        for plane in 0..ports.len() {
            spawn_local(beats.clone().in_batches(plane));
        }
        beats
    }

    pub(crate) fn turn_to(&self, over: Over) {
        self.over.set(over);
    }

    async fn over_rest(self: Rc<Self>, connection: usize) {
        let mine: Vec<usize> =
            (0..self.population.count()).filter(|instance| instance % CONNECTIONS == connection).collect();
        let pause = crate::TTL / 3 / u32::try_from(mine.len()).unwrap();
        let mut pace = tokio::time::interval(pause);
        let mut sender = None;
        for instance in mine.into_iter().cycle() {
            pace.tick().await;
            if self.over.get() != Over::Rest || instance < self.skip.get() {
                continue;
            }
            if sender.is_none() {
                sender = connect(self.ports.of(connection)).await;
            }
            let Some(open) = &mut sender else { continue };
            let request = Request::put(format!("/v1/services/{}/heartbeat", self.population.id(instance)))
                .header("host", "localhost")
                .body(Full::<Bytes>::default())
                .unwrap();
            let answered = async {
                let answer = open.send_request(request).await?;
                http_body_util::BodyExt::collect(answer.into_body()).await
            };
            match answered.await {
                Ok(_) => self.sent.set(self.sent.get() + 1),
                Err(_) => sender = None,
            }
        }
    }

    /// Those that have registered at one plane.
    async fn in_batches(self: Rc<Self>, plane: usize) {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.ports.of(plane))).unwrap();
        let mut client = RegistryClient::new(endpoint.connect_lazy());
        let mut turns: VecDeque<usize> = (plane..self.population.count()).step_by(self.ports.len()).collect();
        let batch = turns.len() as u64 / (crate::TTL.as_secs() / 3) / BATCHES;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(BATCHES).unwrap());
        loop {
            pace.tick().await;
            if self.over.get() != Over::Batches {
                continue;
            }
            let turn: Vec<usize> = turns.drain(..usize::try_from(batch).unwrap()).collect();
            let skip = self.skip.get();
            let beats = turn.iter().filter(|instance| **instance >= skip);
            let beats = beats.map(|one| v1::Beat { id: self.population.id(*one), ..v1::Beat::default() });
            let request = v1::HeartbeatRequest { beats: beats.collect() };
            let count = request.beats.len() as u64;
            // Those of a plane that is away are sent with the next turn.
            if client.heartbeat(request).await.is_ok() {
                self.sent.set(self.sent.get() + count);
                turns.extend(turn);
            } else {
                turn.into_iter().rev().for_each(|one| turns.push_front(one));
            }
        }
    }
}

async fn connect(port: u16) -> Option<http1::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    spawn_local(connection);
    Some(sender)
}
