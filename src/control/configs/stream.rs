//! One gateway's stream: it is told which version to have, asked to check others, and says what has become of them. What it is to have
//! is looked up when there is room to send it, so that one that reads slowly costs nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::{Stream, StreamExt};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use super::{
    Configs,
    fleet::{Arrival, Connection, Gateway, Verdict},
    rollout::{Drive, Next},
    versions::Name,
};
use crate::{
    control::{
        access::Caller,
        feed::{
            gate::Gate,
            seats::{Seat, Seats},
            stream::{AGE, Ended, PROGRESS, TAKES_NOTHING},
        },
        grpc::status,
        instance::Owner,
        refused::{Located, Reason, Refused},
    },
    policy::waves::Counts,
    wire::v1::{self, config_order::Message as Order, config_report::Message},
};

/// Checks that wait for a gateway to take them.
const MOST_CHECKS: usize = 4;
/// What a gateway says of one version.
const MOST_PROBLEMS: usize = 100;
const LONGEST_PROBLEM: usize = 2048;

/// Numbers of streams.
static NEXT: AtomicU64 = AtomicU64::new(1);

type Report = Result<v1::ConfigReport, Status>;
pub(crate) type Orders = mpsc::Sender<Result<v1::ConfigOrder, Status>>;

/// What the streams of gateways share.
pub(crate) struct Follow {
    pub(crate) configs: Arc<Configs>,
    /// Few are sent a whole configuration at a time: it may be large.
    pub(crate) gate: Gate,
    pub(crate) seats: Seats,
    /// The process is about to end, or its successor serves.
    pub(crate) closing: watch::Receiver<bool>,
}

pub(crate) struct Following {
    follow: Arc<Follow>,
    config: Name,
    node: Name,
    id: u64,
    orders: Orders,
    checks: mpsc::Receiver<v1::Check>,
    changed: watch::Receiver<u64>,
    said: Instant,
    seat: Seat,
}

impl Following {
    /// A gateway that is there from now on.
    ///
    /// # Errors
    ///
    /// `not_yours`, `conflict`, `limit`.
    pub(crate) fn begin(
        follow: Arc<Follow>,
        arrival: Arrival,
        caller: &Caller,
        orders: Orders,
    ) -> Result<Following, Refused> {
        caller.check_join(&arrival.config)?;
        let seat = follow.seats.take("config")?;
        let id = NEXT.fetch_add(1, Relaxed);
        let (sender, checks) = mpsc::channel(MOST_CHECKS);
        let (config, node) = (arrival.config.clone(), arrival.node.clone());
        let stream = Connection { id, orders: sender, asked: HashMap::new() };
        let changed = follow.configs.arrive(arrival, caller.owner.clone(), stream)?;
        log::debug!("{node} takes the configuration {config}");
        Ok(Following { follow, config, node, id, orders, checks, changed, said: Instant::now(), seat })
    }

    /// Until one of the two has enough.
    pub(crate) async fn run(mut self, reports: impl Stream<Item = Report> + Send + Unpin) {
        let ended = self.serve(reports).await;
        self.follow.configs.leave(&self.config, &self.node, self.id);
        self.seat.ended(ended);
    }

    async fn serve(&mut self, mut reports: impl Stream<Item = Report> + Send + Unpin) -> Ended {
        let mut closing = self.follow.closing.clone();
        let age = Instant::now() + AGE.mul_f64(0.8 + 0.4 * fastrand::f64());
        if let Err(ended) = self.greet().await {
            return ended;
        }
        loop {
            if let Err(ended) = self.tell().await {
                return ended;
            }
            tokio::select! {
                report = reports.next() => match report {
                    Some(Ok(report)) => {
                        if let Err(refused) = self.take(report) {
                            return self.refuse(&refused).await;
                        }
                    }
                    // One that says nothing more cannot say what becomes of what it is told.
                    Some(Err(_)) | None => return Ended::Left,
                },
                // That nobody counts any more means that the process ends.
                changed = self.changed.changed() => if changed.is_err() {
                    return Ended::Shutdown;
                },
                check = self.checks.recv() => if let Some(check) = check
                    && let Err(ended) = self.send(Order::Check(check)).await
                {
                    return ended;
                },
                () = sleep_until(self.said + PROGRESS) => {
                    if let Err(ended) = self.say_wanted().await {
                        return ended;
                    }
                }
                () = sleep_until(age) => return Ended::Aged,
                () = async { drop(closing.wait_for(|closing| *closing).await) } => return Ended::Shutdown,
                () = self.orders.closed() => return Ended::Left,
            }
        }
    }

    /// One that has just come, and may have started, waits for something: where it has all that it is to have, that is said.
    async fn greet(&mut self) -> Result<(), Ended> {
        let before = self.said;
        self.tell().await?;
        if self.said == before { self.say_wanted().await } else { Ok(()) }
    }

    async fn say_wanted(&mut self) -> Result<(), Ended> {
        let version = self.follow.configs.wanted(&self.config, &self.node);
        self.send(Order::Progress(v1::Progress { version })).await
    }

    /// What it is to have, where it has something else.
    async fn tell(&mut self) -> Result<(), Ended> {
        self.changed.borrow_and_update();
        let configs = self.follow.configs.clone();
        let turn = self.follow.gate.turn();
        // Waited for only where there is something to send.
        let version = match configs.next(&self.config, &self.node, self.id) {
            Next::Nothing => return Ok(()),
            Next::Replaced => return Err(Ended::Replaced),
            Next::Send(version) => version,
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = self.orders.closed() => return Err(Ended::Left),
        };
        let config = v1::Config {
            version: version.number,
            sha256: version.sha256.clone(),
            documents: version.documents.wire(&self.config),
        };
        let sent = self.send(Order::Config(config)).await;
        drop(turn);
        sent
    }

    fn take(&mut self, report: v1::ConfigReport) -> Result<(), Refused> {
        let configs = &self.follow.configs;
        match report.message {
            Some(Message::Hello(_)) => {
                return Err(Reason::BadRequest.because("`hello` is said once, as the first message"));
            }
            Some(Message::Verdict(verdict)) => {
                let v1::Verdict { version, in_force, problems } = verdict;
                let verdict = Verdict { version, problems: read(problems), is_in_force: in_force, lag: None };
                configs.verdict(&self.config, &self.node, self.id, verdict);
            }
            Some(Message::Checked(v1::Checked { check, problems })) => {
                configs.checked(&self.config, &self.node, check, read(problems));
            }
            Some(Message::Counts(v1::Counts { requests, own_errors })) => {
                configs.counted(&self.config, &self.node, Counts { requests, own_errors });
            }
            None => {}
        }
        Ok(())
    }

    async fn send(&mut self, order: Order) -> Result<(), Ended> {
        let order = v1::ConfigOrder { message: Some(order) };
        match timeout(TAKES_NOTHING, self.orders.send(Ok(order))).await {
            Ok(Ok(())) => {
                self.seat.told(1);
                self.said = Instant::now();
                Ok(())
            }
            Ok(Err(_)) => Err(Ended::Left),
            Err(_) => Err(Ended::Slow),
        }
    }

    async fn refuse(&self, refused: &Refused) -> Ended {
        self.follow.seats.refused(refused);
        let _ = timeout(TAKES_NOTHING, self.orders.send(Err(status(refused)))).await;
        Ended::Refused
    }
}

impl Configs {
    fn arrive(
        &self,
        arrival: Arrival,
        owner: Owner,
        stream: Connection,
    ) -> Result<watch::Receiver<u64>, Refused> {
        let (config, node) = (arrival.config.clone(), arrival.node.clone());
        let now = std::time::Instant::now();
        let changed = self.with(&config, |group| {
            let before = group.gateways.get(&node);
            if let Some(before) = before.filter(|before| before.is_there() && before.owner != owner) {
                let why = format!("{node:?} is there already, as {} (choose another `node`)", before.owner);
                return Err(Reason::Conflict.because(why));
            }
            let mut gateway = Gateway::new(arrival, owner, stream, now);
            if let Some(before) = group.gateways.remove(&node) {
                gateway.waits =
                    self.store.others().is_some() && group.has_restarted(&before, gateway.started);
                gateway = gateway.after(before);
            }
            group.gateways.insert(node, gateway);
            if self.store.others().is_none() {
                // Before it is told anything: a wave may have room for it. What comes of it is kept soon.
                let _ = group.look(Drive::Alone, now);
            }
            let changed = group.follow();
            // Whoever has come by this name before is to find out.
            group.tell();
            Ok(changed)
        })?;
        self.heard.notify_one();
        Ok(changed)
    }

    fn leave(&self, config: &Name, node: &Name, stream: u64) {
        let now = std::time::Instant::now();
        self.with(config, |group| {
            if group.gateways.get(node).is_some_and(|gateway| gateway.is_on(stream)) {
                group.leave(node, now);
            }
        });
        self.heard.notify_one();
    }

    fn next(&self, config: &Name, node: &Name, stream: u64) -> Next {
        self.with(config, |group| group.next(node, stream, std::time::Instant::now()))
    }

    fn wanted(&self, config: &Name, node: &Name) -> u64 {
        self.with(config, |group| group.wanted_number(node))
    }

    fn verdict(&self, config: &Name, node: &Name, stream: u64, verdict: Verdict) {
        let now = std::time::Instant::now();
        if self.with(config, |group| group.verdict(node, stream, verdict, now)) {
            self.heard.notify_one();
        }
    }

    fn checked(&self, config: &Name, node: &Name, check: u64, problems: Vec<Located>) {
        self.with(config, |group| {
            let stream = group.gateways.get_mut(node).and_then(|gateway| gateway.stream_mut());
            if let Some(asked) = stream.and_then(|stream| stream.asked.remove(&check)) {
                // Whoever asked may have gone.
                let _ = asked.send(problems);
            }
        });
    }

    fn counted(&self, config: &Name, node: &Name, counts: Counts) {
        self.with(config, |group| {
            if let Some(gateway) = group.gateways.get_mut(node) {
                gateway.counts(counts, std::time::Instant::now());
            }
        });
    }
}

/// As much of it as is kept.
fn read(problems: Vec<v1::Problem>) -> Vec<Located> {
    let shortened = |mut problem: v1::Problem| {
        for text in [&mut problem.message, &mut problem.document] {
            let most = text.len().min(LONGEST_PROBLEM);
            let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
        }
        Located::of(problem)
    };
    problems.into_iter().take(MOST_PROBLEMS).map(shortened).collect()
}

#[cfg(test)]
mod tests;
