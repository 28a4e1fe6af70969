//! The stream that keeps [`Services`] current: one to one server, for as long as it lives, and then another. What is asked for
//! may change meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    known::{Change, Gone, Mark},
    link::{Link, Server},
    services::Services,
    streams::{Attempts, Ended, Pulse, explain, open, requests, say},
};
use crate::{
    identity::parse_id,
    observe::metrics::MemberMetrics,
    upstream::Instance,
    wire::v1::{self, registry_client::RegistryClient, watch_request::Message},
};

/// How often it is looked whether anybody still asks for what is followed.
const LOOK: Duration = Duration::from_secs(15);
/// What is said when there is no stream, and when there is one again.
const WORDS: [&str; 2] =
    ["no control plane, going on with what is known", "the control plane is there again"];
/// A service has no more instances than that.
const MOST_INSTANCES: usize = 100_000;
/// A message has at most 256 KiB or a thousand instances.
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

pub(super) struct Follower {
    pub link: Arc<Link>,
    pub services: Arc<Services>,
    pub hello: v1::Hello,
    pub metrics: MemberMetrics,
}

impl Follower {
    /// Keeps the services current, for as long as it is polled.
    pub(super) async fn run(self) {
        let mut attempts = Attempts::new(WORDS, self.metrics.clone());
        loop {
            let started = Instant::now();
            let ended = self.follow(&mut attempts).await.map_or_else(Ended::Failed, |()| Ended::ByItself);
            self.metrics.connected(false);
            attempts.pause(ended, started).await;
        }
    }

    /// One stream, to its end.
    async fn follow(&self, attempts: &mut Attempts) -> Result<(), String> {
        let (channel, server) = self.link.connect().await?;
        let at = |why: String| format!("{} ({}): {why}", server.origin, server.address);
        let mut client = RegistryClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (sender, receiver) = mpsc::channel(64);
        let mut asked = Asked { subscriptions: HashMap::new(), ids: HashMap::new(), last: 0, sender };
        let mut first = vec![Message::Hello(self.hello.clone())];
        first.extend(asked.turn_to(self.services.wanted()));
        let first = first.into_iter().map(|message| v1::WatchRequest { message: Some(message) }).collect();
        let opening = client.watch_services(self.link.request(requests(first, receiver)));
        let updates = open(opening).await.map_err(at)?;
        self.metrics.connected(true);
        self.metrics.contact(SystemTime::now());
        attempts.opened(&server);
        self.listen(updates, asked, &server).await.map_err(at)
    }

    async fn listen(
        &self,
        mut updates: impl Stream<Item = Result<v1::Update, Status>> + Unpin,
        mut asked: Asked,
        server: &Server,
    ) -> Result<(), String> {
        log::debug!("following the registry of {}", server.origin);
        let mut pulse = Pulse::begin();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                update = updates.next() => {
                    let Some(update) = update else { return Ok(()) };
                    let update = update.map_err(|status| explain(&status))?;
                    pulse.heard();
                    self.metrics.contact(SystemTime::now());
                    self.take_in(update, &mut asked)?;
                }
                () = self.services.more_wanted() => asked.follow(self.services.wanted()).await?,
                _ = look.tick() => asked.follow(self.services.wanted()).await?,
                why = pulse.stops() => return Err(why),
            }
        }
    }

    fn take_in(&self, update: v1::Update, asked: &mut Asked) -> Result<(), String> {
        let mark = Mark { epoch: update.epoch, revision: update.revision };
        if update.subscription == 0 {
            // Only what was told on this very stream is known up to there.
            let told = asked.subscriptions.values().filter(|one| one.is_told).map(|one| &one.name);
            self.services.hear_progress(told, mark, update.warming, Instant::now());
            asked.applied(mark);
            return Ok(());
        }
        // One that was given up meanwhile.
        let Some(subscription) = asked.subscriptions.get_mut(&update.subscription) else { return Ok(()) };
        if let Some(change) = subscription.add(update)? {
            self.services.hear(&subscription.name, change, Instant::now());
            self.metrics.revision(mark.revision);
            asked.applied(mark);
        }
        Ok(())
    }
}

/// What this stream was asked for.
struct Asked {
    subscriptions: HashMap<u64, Subscription>,
    ids: HashMap<Arc<str>, u64>,
    last: u64,
    sender: mpsc::Sender<v1::WatchRequest>,
}

struct Subscription {
    name: Arc<str>,
    /// The parts of a change of which the end has not come.
    parts: v1::Update,
    /// A change has come whole.
    is_told: bool,
}

impl Asked {
    /// Follows what is `wanted`, and nothing else.
    async fn follow(&mut self, wanted: Vec<(Arc<str>, Mark)>) -> Result<(), String> {
        for message in self.turn_to(wanted) {
            say(&self.sender, v1::WatchRequest { message: Some(message) }).await?;
        }
        Ok(())
    }

    /// What is to be said so that what is `wanted` is followed, and nothing else.
    fn turn_to(&mut self, wanted: Vec<(Arc<str>, Mark)>) -> Vec<Message> {
        let names: HashSet<&Arc<str>> = wanted.iter().map(|(name, _)| name).collect();
        let gone: Vec<Arc<str>> = self.ids.keys().filter(|name| !names.contains(name)).cloned().collect();
        let mut messages = Vec::new();
        for subscription in gone.iter().filter_map(|name| self.ids.remove(name)) {
            self.subscriptions.remove(&subscription);
            messages.push(Message::Unsubscribe(v1::Unsubscribe { subscription }));
        }
        for (name, mark) in wanted {
            if self.ids.contains_key(&name) {
                continue;
            }
            self.last += 1;
            let selector = v1::Selector { name: name.to_string(), ..v1::Selector::default() };
            messages.push(Message::Subscribe(v1::Subscribe {
                subscription: self.last,
                selector: Some(selector),
                epoch: mark.epoch,
                revision: mark.revision,
            }));
            self.ids.insert(name.clone(), self.last);
            self.subscriptions
                .insert(self.last, Subscription { name, parts: v1::Update::default(), is_told: false });
        }
        messages
    }

    /// All up to `mark` is in force. What does not go out now is said with the next.
    fn applied(&self, Mark { epoch, revision }: Mark) {
        let message = Some(Message::Applied(v1::Applied { epoch, revision }));
        let _ = self.sender.try_send(v1::WatchRequest { message });
    }
}

impl Subscription {
    /// The whole change, when its end has come.
    fn add(&mut self, update: v1::Update) -> Result<Option<Change>, String> {
        let is_end = update.end;
        self.parts.epoch = update.epoch;
        self.parts.revision = update.revision;
        self.parts.warming = update.warming;
        self.parts.emptied = update.emptied;
        self.parts.reset |= update.reset;
        self.parts.changed.extend(update.changed);
        self.parts.removed.extend(update.removed);
        if self.parts.changed.len() + self.parts.removed.len() > MOST_INSTANCES {
            return Err(format!("{} has more than {MOST_INSTANCES} instances", self.name));
        }
        self.is_told |= is_end;
        Ok(is_end.then(|| change(std::mem::take(&mut self.parts))))
    }
}

fn change(update: v1::Update) -> Change {
    let emptied = (update.emptied() != v1::Gone::Unspecified).then(|| gone(update.emptied()));
    Change {
        mark: Mark { epoch: update.epoch, revision: update.revision },
        reset: update.reset,
        warming: update.warming,
        removed: update.removed.iter().map(|one| (one.id.as_str().into(), gone(one.why()))).collect(),
        changed: update.changed.into_iter().map(|one| Arc::new(instance(one))).collect(),
        emptied,
    }
}

fn gone(why: v1::Gone) -> Gone {
    match why {
        v1::Gone::Deregistered => Gone::Deregistered,
        v1::Gone::Expired => Gone::Expired,
        v1::Gone::Unspecified | v1::Gone::Unmatched => Gone::Unknown,
    }
}

fn instance(instance: v1::Instance) -> Instance {
    Instance {
        id: instance.id.into(),
        address: instance.address.into(),
        weight: u16::try_from(instance.weight).unwrap_or(u16::MAX),
        takes_requests: instance.takes_requests,
        tags: instance.tags.into_iter().collect(),
        metadata: instance.metadata.into_iter().collect(),
        owner: parse_id(&instance.owner).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        let (sender, receiver) = mpsc::channel(100);
        // What is said goes nowhere.
        std::mem::forget(receiver);
        Asked { subscriptions: HashMap::new(), ids: HashMap::new(), last: 0, sender }
    }

    fn said(messages: &[Message]) -> Vec<String> {
        let of = |message: &Message| match message {
            Message::Subscribe(one) => {
                let name = &one.selector.as_ref().unwrap().name;
                format!("+{name} {} {}:{}", one.subscription, one.epoch, one.revision)
            }
            Message::Unsubscribe(one) => format!("-{}", one.subscription),
            _ => "?".into(),
        };
        messages.iter().map(of).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_for_45_seconds_is_given_up() {
        let metrics = crate::observe::metrics::Metrics::new("test").member().clone();
        let services = Arc::new(Services::new(Vec::new(), metrics.clone()));
        let link = Link::to_nowhere();
        let follower = Follower { link, services, hello: v1::Hello::default(), metrics };
        let server = Server { address: ([127, 0, 0, 1], 1).into(), origin: "control".into() };
        let began = tokio::time::Instant::now();
        // Four signs of life, as a living server gives them, and then none.
        let signs = futures::stream::iter(0..4).then(|_| async {
            tokio::time::sleep(Duration::from_secs(15)).await;
            Ok(v1::Update::default())
        });
        let updates = Box::pin(signs.chain(futures::stream::pending()));
        let why = follower.listen(updates, asked(), &server).await.unwrap_err();
        assert_eq!((began.elapsed().as_secs(), why.as_str()), (60 + 45, "nothing was heard for 45s"));
    }

    #[test]
    fn what_is_new_is_asked_for_and_what_nobody_wants_is_given_up() {
        let mut asked = asked();
        let mark = Mark { epoch: 7, revision: 9 };
        let wanted = |names: &[&str]| names.iter().map(|name| ((*name).into(), mark)).collect::<Vec<_>>();
        assert_eq!(said(&asked.turn_to(wanted(&["a", "b"]))), ["+a 1 7:9", "+b 2 7:9"]);
        assert_eq!(said(&asked.turn_to(wanted(&["a", "b"]))), [""; 0]);
        assert_eq!(said(&asked.turn_to(wanted(&["b", "c"]))), ["-1", "+c 3 7:9"]);
    }

    #[test]
    fn a_change_counts_when_its_end_has_come() {
        let mut one = Subscription { name: "users".into(), parts: v1::Update::default(), is_told: false };
        let instance = |id: &str| v1::Instance { id: id.into(), weight: 70_000, ..v1::Instance::default() };
        let part = v1::Update { reset: true, changed: vec![instance("a")], ..v1::Update::default() };
        assert!(one.add(part).unwrap().is_none() && !one.is_told);
        let last =
            v1::Update { end: true, revision: 5, changed: vec![instance("b")], ..v1::Update::default() };
        let change = one.add(last).unwrap().unwrap();
        assert!(change.reset && one.is_told);
        assert_eq!((change.changed.len(), change.changed[0].weight, change.mark.revision), (2, u16::MAX, 5));
    }

    #[test]
    fn a_service_that_has_no_end_is_not_taken_in() {
        let mut one = Subscription { name: "users".into(), parts: v1::Update::default(), is_told: false };
        let many = || v1::Update { changed: vec![v1::Instance::default(); 60_000], ..v1::Update::default() };
        assert!(one.add(many()).is_ok());
        assert!(one.add(many()).is_err());
    }
}
