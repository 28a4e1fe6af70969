//! What a gateway says to a control plane whose configuration it takes, on the word of a test.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::mpsc;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::support::within_deadline;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs, dead_code)]
pub(super) mod v1 {
    tonic::include_proto!("tidegate.control.v1");
}

use v1::{config_order::Message as Order, config_report::Message as Report, configs_client::ConfigsClient};

/// A gateway that is connected.
pub(super) struct Taking {
    pub(super) node: String,
    reports: mpsc::Sender<v1::ConfigReport>,
    orders: Streaming<v1::ConfigOrder>,
}

/// Who comes, and with what.
#[derive(Clone, Default)]
pub(super) struct Comes {
    pub(super) version: u64,
    pub(super) sha256: String,
    pub(super) started_ms: u64,
    pub(super) token: Option<&'static str>,
}

pub(super) async fn client(at: SocketAddr) -> ConfigsClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
    let channel = within_deadline("a connection", endpoint.connect()).await.unwrap();
    ConfigsClient::new(channel).max_decoding_message_size(8 << 20).max_encoding_message_size(8 << 20)
}

/// Why a call was refused: the code and the reason's word.
pub(super) fn refusal(status: &Status) -> (Code, String) {
    let reason = status.metadata().get("x-tidegate-reason").and_then(|reason| reason.to_str().ok());
    (status.code(), reason.unwrap_or_default().to_owned())
}

impl Taking {
    pub(super) async fn join(at: SocketAddr, node: &str, config: &str) -> Taking {
        Taking::come(at, node, config, Comes { started_ms: 1, ..Comes::default() }).await.unwrap()
    }

    pub(super) async fn come(
        at: SocketAddr,
        node: &str,
        config: &str,
        comes: Comes,
    ) -> Result<Taking, Status> {
        let hello = v1::ConfigHello {
            hello: Some(v1::Hello {
                node: node.into(),
                labels: [("region".to_owned(), "eu".to_owned())].into(),
                version: "0".into(),
            }),
            config: config.into(),
            version: comes.version,
            sha256: comes.sha256,
            started_ms: comes.started_ms,
        };
        let (reports, said) = mpsc::channel(8);
        let said = futures::stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        reports.send(v1::ConfigReport { message: Some(Report::Hello(hello)) }).await.unwrap();
        let mut request = Request::new(said);
        if let Some(token) = comes.token {
            let token = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", token);
        }
        let mut client = client(at).await;
        let answered = within_deadline("an answer to the stream", client.watch_config(request)).await?;
        Ok(Taking { node: node.to_owned(), reports, orders: answered.into_inner() })
    }

    pub(super) async fn say(&self, report: Report) {
        // The other end may have had enough.
        let _ = self.reports.send(v1::ConfigReport { message: Some(report) }).await;
    }

    /// The next order; `None` where the stream has ended.
    pub(super) async fn order(&mut self) -> Option<Order> {
        let order = within_deadline(&format!("an order for {}", self.node), self.orders.message()).await;
        order.unwrap_or_default().and_then(|order| order.message)
    }

    /// What it is to have next, which it does not say anything about yet. It finds nothing wrong with what it is to check.
    pub(super) async fn told(&mut self) -> v1::Config {
        loop {
            match self.order().await.expect("a stream that goes on") {
                Order::Config(config) => return config,
                Order::Check(check) => self.checked(check.check, &[]).await,
                Order::Progress(_) => {}
            }
        }
    }

    /// Takes what it is to have next, and puts it in force.
    pub(super) async fn takes(&mut self, version: u64) -> v1::Config {
        let config = self.told().await;
        assert_eq!(config.version, version, "{}", self.node);
        self.in_force(version).await;
        config
    }

    pub(super) async fn in_force(&self, version: u64) {
        self.say(Report::Verdict(v1::Verdict { version, in_force: true, problems: Vec::new() })).await;
    }

    pub(super) async fn refuses(&self, version: u64, why: &str) {
        self.say(Report::Verdict(v1::Verdict { version, in_force: false, problems: vec![problem(why)] }))
            .await;
    }

    pub(super) async fn checked(&self, check: u64, problems: &[&str]) {
        let problems = problems.iter().map(|why| problem(why)).collect();
        self.say(Report::Checked(v1::Checked { check, problems })).await;
    }

    pub(super) async fn counts(&self, requests: u64, own_errors: u64) {
        self.say(Report::Counts(v1::Counts { requests, own_errors })).await;
    }

    /// Whether nothing but signs of life comes for a moment.
    pub(super) async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.told()).await.is_err()
    }

    /// The next check; nothing else is to come before it.
    pub(super) async fn check(&mut self) -> v1::Check {
        match self.order().await {
            Some(Order::Check(check)) => check,
            other => panic!("{other:?} and no check"),
        }
    }
}

fn problem(why: &str) -> v1::Problem {
    v1::Problem { message: why.into(), document: "edge".into(), line: 1, column: 2 }
}
