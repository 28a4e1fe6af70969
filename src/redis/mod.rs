//! A Redis, for all that keep something there: one server, a cluster, or whichever server the sentinels call the master. Connections are
//! made, watched and made again by tasks of their own, so that no question ever waits for more than an answer: while there is no connection, asking
//! fails at once.
//!
//! The library speaks the protocol over streams that are ours: host names are resolved as everywhere else, TLS is that of OpenSSL and
//! verified as everywhere else, and whatever is at the other end is given no more memory than answers need. Its own clients for clusters and
//! sentinels make their streams themselves, and allow none of this.

mod cluster;
pub(crate) mod fuzzing;
mod link;
mod node;
mod sentinels;
mod servers;
mod slots;
mod tls;
mod topology;

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Value};
use tokio::time::timeout;

use self::{
    cluster::Cluster,
    node::{Node, Target},
    servers::Which,
};
pub(crate) use self::{
    link::{Answers, Script},
    servers::Servers,
};
use crate::names::Resolve;

/// Connects with the first question: a configuration that is only checked connects nowhere.
pub(crate) struct Redis(Kind);

enum Kind {
    One(Node),
    Cluster(Cluster),
}

/// What all connections of one Redis have in common.
struct Common {
    servers: Servers,
    script: Option<Script>,
    answers: Answers,
    names: Arc<dyn Resolve>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// There is no connection, and why.
    Away(Arc<str>),
    /// None in time.
    Late,
    /// It refuses, or says what is no answer.
    Error(String),
}

/// Hears whether it can be asked.
pub(crate) trait Watcher: Send + Sync {
    /// It can; said again and again.
    fn up(&self, is_new: bool);

    /// It cannot, or not for all keys.
    fn away(&self, why: &str, is_new: bool);
}

impl Redis {
    /// Connects nowhere yet, and needs no runtime yet. `script` is known to each server that is asked.
    pub(crate) fn new(
        servers: Servers,
        script: Option<Script>,
        answers: Answers,
        names: Arc<dyn Resolve>,
        watcher: Arc<dyn Watcher>,
    ) -> Redis {
        let target = match &servers.which {
            Which::One(address) => Target::Server(address.clone()),
            Which::Sentinels(_) => Target::Master,
            Which::Cluster(_) => {
                let common = Arc::new(Common { servers, script, answers, names });
                return Redis(Kind::Cluster(Cluster::new(common, watcher)));
            }
        };
        let common = Arc::new(Common { servers, script, answers, names });
        Redis(Kind::One(Node::new(common, target, watcher)))
    }

    /// `key` is the only key of the question. An answer that `read` does not understand is the end of the connection.
    ///
    /// # Errors
    ///
    /// It cannot be asked, or does not answer within `patience`.
    pub(crate) async fn ask<T>(
        &self,
        question: &Cmd,
        key: &str,
        patience: Duration,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<T, Trouble> {
        let answer = async {
            match &self.0 {
                Kind::One(node) => node.ask(question, &read).await,
                Kind::Cluster(cluster) => cluster.ask(question, slots::of(key.as_bytes()), &read).await,
            }
        };
        timeout(patience, answer).await.unwrap_or(Err(Trouble::Late))
    }
}
