//! The stream by which a gateway is given its configuration. What is received is handed to the process as an [`Order`], one at a
//! time, and what has become of it is told to the control plane: a version that was refused, with all that is wrong with it.
//! It is not tried again until there is another one.
//!
//! Nothing here changes what is in force, and no failure here takes it away.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::{
    held_config::checksum,
    link::{Link, Server},
    streams::{Attempts, Ended, Pulse, explain, open, requests, say},
};
use crate::{
    config::{Document, Problem, Problems, ReceivedConfig},
    observe::metrics::MemberMetrics,
    wire::v1::{
        self, config_order::Message as Told, config_report::Message as Report, configs_client::ConfigsClient,
    },
};

/// What is said when there is no stream, and when there is one again.
const WORDS: [&str; 2] = [
    "no configuration from the control plane, going on with what is in force",
    "the control plane gives configurations again",
];
/// How often it is looked whether there is something new to tell of what was served.
const COUNT: Duration = Duration::from_secs(1);
/// A configuration has at most 4 MiB.
const LARGEST: usize = 4 * 1024 * 1024;
const LARGEST_MESSAGE: usize = 2 * LARGEST;

/// What the control plane wants of the process. Whoever carries it out answers.
#[derive(Debug)]
pub(crate) struct Order {
    pub kind: Kind,
    pub config: Arc<ReceivedConfig>,
    answer: oneshot::Sender<Result<(), Problems>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To be put in force.
    Change,
    /// Only whether it could be.
    Check,
}

/// What was served since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub requests: u64,
    /// Answers of the gateway's own, for a reason that is not the client's.
    pub own_errors: u64,
}

pub(crate) type Counting = Arc<dyn Fn() -> Served + Send + Sync>;

impl Order {
    /// What has become of it. The control plane may have gone.
    pub(crate) fn answer(self, outcome: Result<(), Problems>) {
        let _ = self.answer.send(outcome);
    }
}

pub(super) struct Receiver {
    pub link: Arc<Link>,
    pub hello: v1::Hello,
    /// Of the configuration.
    pub name: String,
    pub secrets: Arc<[PathBuf]>,
    pub started: SystemTime,
    pub known: Known,
    pub orders: mpsc::Sender<Order>,
    /// It is known what the control plane wants.
    pub heard: watch::Sender<bool>,
    pub counting: Counting,
    pub metrics: MemberMetrics,
}

/// What has become of the last versions.
#[derive(Default)]
pub(super) struct Known {
    in_force: Option<Edition>,
    refused: Option<(Edition, Vec<v1::Problem>)>,
}

#[derive(Clone, PartialEq)]
struct Edition {
    version: u64,
    sha256: String,
}

impl Receiver {
    /// Takes what is given, for as long as it is polled.
    pub(super) async fn run(mut self) {
        let mut attempts = Attempts::new(WORDS, self.metrics.clone());
        loop {
            let started = Instant::now();
            let ended = self.follow(&mut attempts).await;
            attempts.pause(ended, started).await;
        }
    }

    /// One stream, to its end.
    async fn follow(&mut self, attempts: &mut Attempts) -> Ended {
        let (channel, server) = match self.link.connect().await {
            Ok(connected) => connected,
            Err(why) => return Ended::Unreachable(why),
        };
        match self.listen(channel, &server, attempts).await {
            Ok(()) => Ended::ByItself,
            Err(why) => Ended::Failed(format!("{} ({}): {why}", server.origin, server.address)),
        }
    }

    async fn listen(
        &mut self,
        channel: tonic::transport::Channel,
        server: &Server,
        attempts: &mut Attempts,
    ) -> Result<(), String> {
        let mut client = ConfigsClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (sender, receiver) = mpsc::channel(16);
        let hello = v1::ConfigReport { message: Some(Report::Hello(self.known.hello(self))) };
        let opening = client.watch_config(self.link.request(requests(vec![hello], receiver)));
        let told = open(opening).await?;
        attempts.opened(server);
        self.attend(told, sender).await
    }

    /// What is told, until there is no more.
    async fn attend(
        &mut self,
        mut told: impl Stream<Item = Result<v1::ConfigOrder, Status>> + Unpin,
        sender: mpsc::Sender<v1::ConfigReport>,
    ) -> Result<(), String> {
        let report = async |message| say(&sender, v1::ConfigReport { message: Some(message) }).await;
        let mut pulse = Pulse::begin();
        let mut count = tokio::time::interval(COUNT);
        let mut counted = Served::default();
        loop {
            tokio::select! {
                message = told.next() => {
                    let Some(order) = message else { return Ok(()) };
                    let order = order.map_err(|status| explain(&status))?;
                    self.metrics.contact(SystemTime::now());
                    if let Some(answer) = self.take(order).await? {
                        report(answer).await?;
                    }
                    self.heard.send_replace(true);
                    pulse.heard();
                }
                _ = count.tick() => {
                    let served = (self.counting)();
                    if served != counted {
                        counted = served;
                        let Served { requests, own_errors } = served;
                        report(Report::Counts(v1::Counts { requests, own_errors })).await?;
                    }
                }
                why = pulse.stops() => return Err(why),
            }
        }
    }

    /// What is to be answered.
    async fn take(&mut self, order: v1::ConfigOrder) -> Result<Option<Report>, String> {
        match order.message {
            Some(Told::Config(config)) => self.change(config).await.map(Report::Verdict).map(Some),
            Some(Told::Check(check)) => self.check(check).await.map(Report::Checked).map(Some),
            Some(Told::Progress(progress)) => {
                self.metrics.config_version("wanted", progress.version);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    async fn change(&mut self, config: v1::Config) -> Result<v1::Verdict, String> {
        let v1::Config { version, sha256, documents } = config;
        self.metrics.config_version("wanted", version);
        let edition = Edition { version, sha256 };
        if let Some(verdict) = self.known.verdict(&edition) {
            return Ok(verdict);
        }
        let config = self.received(version, documents);
        let outcome = match fault(&config, Some(&edition.sha256)) {
            Some(problem) => Err(problem.into()),
            None => self.order(Kind::Change, config.clone()).await?,
        };
        match outcome {
            Ok(()) => self.known = Known { in_force: Some(edition.clone()), refused: None },
            Err(problems) => self.known.refused = Some((edition.clone(), told(&problems, &config))),
        }
        self.known.show(&self.metrics);
        self.known.verdict(&edition).ok_or_else(|| "it is not known what became of it".to_owned())
    }

    async fn check(&self, check: v1::Check) -> Result<v1::Checked, String> {
        let v1::Check { check, version, documents } = check;
        let config = self.received(version, documents);
        let outcome = match fault(&config, None) {
            Some(problem) => Err(problem.into()),
            None => self.order(Kind::Check, config.clone()).await?,
        };
        let problems = outcome.err().map(|problems| told(&problems, &config)).unwrap_or_default();
        Ok(v1::Checked { check, problems })
    }

    fn received(&self, version: u64, documents: Vec<v1::Document>) -> Arc<ReceivedConfig> {
        let documents = documents.into_iter().map(|v1::Document { name, text }| Document { name, text });
        Arc::new(ReceivedConfig {
            name: self.name.clone(),
            version,
            documents: documents.collect(),
            secrets: self.secrets.clone(),
        })
    }

    async fn order(&self, kind: Kind, config: Arc<ReceivedConfig>) -> Result<Result<(), Problems>, String> {
        let going = |_| "this gateway is about to end".to_owned();
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { kind, config, answer }).await.map_err(|_| going(()))?;
        answered.await.map_err(|_| going(()))
    }
}

impl Known {
    /// `config` is in force since the process began.
    pub(super) fn beginning_with(config: Option<&ReceivedConfig>) -> Known {
        let edition = |config: &ReceivedConfig| Edition {
            version: config.version,
            sha256: checksum(&config.documents),
        };
        Known { in_force: config.map(edition), refused: None }
    }

    pub(super) fn show(&self, metrics: &MemberMetrics) {
        let version = |edition: Option<&Edition>| edition.map_or(0, |edition| edition.version);
        metrics.config_version("in_force", version(self.in_force.as_ref()));
        metrics.config_version("refused", version(self.refused.as_ref().map(|(edition, _)| edition)));
    }

    fn hello(&self, receiver: &Receiver) -> v1::ConfigHello {
        let Edition { version, sha256 } =
            self.in_force.clone().unwrap_or(Edition { version: 0, sha256: String::new() });
        let started = receiver.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        v1::ConfigHello {
            hello: Some(receiver.hello.clone()),
            config: receiver.name.clone(),
            version,
            sha256,
            started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Of one that need not be tried.
    fn verdict(&self, edition: &Edition) -> Option<v1::Verdict> {
        let version = edition.version;
        if self.in_force.as_ref() == Some(edition) {
            return Some(v1::Verdict { version, in_force: true, problems: Vec::new() });
        }
        let (_, problems) = self.refused.as_ref().filter(|(refused, _)| refused == edition)?;
        Some(v1::Verdict { version, in_force: false, problems: problems.clone() })
    }
}

/// What is wrong with it before it is read.
fn fault(config: &ReceivedConfig, sha256: Option<&str>) -> Option<Problem> {
    let size: usize = config.documents.iter().map(|document| document.name.len() + document.text.len()).sum();
    let origin = format!("control:{}@{}", config.name, config.version);
    if size > LARGEST {
        return Some(Problem::new(format!("{origin} is larger than 4 MiB")).hint("split it"));
    }
    if sha256.is_some_and(|sha256| sha256 != checksum(&config.documents)) {
        let message = format!("{origin} has another checksum than the control plane says");
        return Some(Problem::new(message).hint("put it again"));
    }
    None
}

fn told(problems: &Problems, config: &ReceivedConfig) -> Vec<v1::Problem> {
    let of = |problem: &Problem| {
        let place = problem.location().and_then(|at| Some((config.document_at(at)?, at)));
        let (document, line, column) = match place {
            Some((document, at)) if at.line > 0 => (document.name.clone(), at.line, at.column),
            Some((document, _)) => (document.name.clone(), 0, 0),
            None => (String::new(), 0, 0),
        };
        v1::Problem { message: problem.to_string(), document, line, column }
    };
    problems.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Additions, parse_beside};

    fn config(text: &str) -> ReceivedConfig {
        let document = Document { name: "edge".into(), text: text.into() };
        ReceivedConfig { name: "edge".into(), version: 7, documents: vec![document], secrets: Arc::default() }
    }

    fn edition(version: u64, sha256: &str) -> Edition {
        Edition { version, sha256: sha256.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_for_45_seconds_is_given_up() {
        let (orders, _ordered) = mpsc::channel(1);
        let mut receiver = Receiver {
            link: Link::to_nowhere(),
            hello: v1::Hello::default(),
            name: "edge".into(),
            secrets: Arc::default(),
            started: SystemTime::UNIX_EPOCH,
            known: Known::default(),
            orders,
            heard: watch::Sender::new(false),
            counting: Arc::new(Served::default),
            metrics: crate::observe::metrics::Metrics::new("test").member().clone(),
        };
        let began = tokio::time::Instant::now();
        // Four signs of life, as a living server gives them, and then none.
        let signs = futures::stream::iter(0..4).then(|_| async {
            tokio::time::sleep(Duration::from_secs(15)).await;
            Ok(v1::ConfigOrder { message: Some(Told::Progress(v1::Progress { version: 7 })) })
        });
        let (sender, _said) = mpsc::channel(16);
        let told = Box::pin(signs.chain(futures::stream::pending()));
        let why = receiver.attend(told, sender).await.unwrap_err();
        assert_eq!((began.elapsed().as_secs(), why.as_str()), (60 + 45, "nothing was heard for 45s"));
        assert!(*receiver.heard.borrow());
    }

    #[test]
    fn what_was_refused_is_answered_and_not_tried_again_until_it_is_another() {
        let problem = v1::Problem { message: "no".into(), ..v1::Problem::default() };
        let known =
            Known { in_force: Some(edition(6, "a")), refused: Some((edition(7, "b"), vec![problem])) };
        let verdict = known.verdict(&edition(7, "b")).unwrap();
        assert_eq!((verdict.in_force, verdict.problems.len()), (false, 1));
        assert!(known.verdict(&edition(6, "a")).unwrap().in_force);
        for another in [edition(8, "b"), edition(7, "c"), edition(6, "b")] {
            assert!(known.verdict(&another).is_none());
        }
    }

    #[test]
    fn what_is_held_is_known_by_its_checksum() {
        let config = config("routes: []");
        let known = Known::beginning_with(Some(&config));
        assert!(known.verdict(&edition(7, &checksum(&config.documents))).is_some());
        assert!(known.verdict(&edition(7, "")).is_none());
    }

    #[test]
    fn what_is_too_large_or_changed_on_its_way_is_refused() {
        let good = config("routes: []");
        assert_eq!(fault(&good, Some(&checksum(&good.documents))), None);
        assert_eq!(fault(&good, None), None);
        let told = fault(&good, Some("abc")).unwrap().to_string();
        assert!(told.starts_with("control:edge@7 has another checksum"), "{told}");
        let told = fault(&config(&" ".repeat(LARGEST)), None).unwrap().to_string();
        assert!(told.contains("larger than 4 MiB"), "{told}");
    }

    #[test]
    fn problems_are_told_with_their_places_in_what_was_put() {
        let config = config("limits: 1\nroutes: 7\n");
        let additions = Additions { received: Some(Arc::new(config.clone())), ..Additions::default() };
        let file = "listeners: [{address: ':0'}]\nrutes: []\n";
        let problems = parse_beside(file, "g.yaml", &additions).unwrap().problems().clone();
        let places: Vec<_> = told(&problems, &config)
            .into_iter()
            .map(|problem| {
                assert!(problem.message.contains(if problem.line > 0 {
                    "control:edge@7:"
                } else {
                    "g.yaml:2:1"
                }));
                (problem.document, problem.line, problem.column)
            })
            .collect();
        let of = |line, column| ("edge".to_owned(), line, column);
        assert_eq!(places, [(String::new(), 0, 0), of(1, 1), of(2, 9)]);
    }
}
