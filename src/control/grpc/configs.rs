//! `tidegate.control.v1.Configs`: configurations, as REST puts and shows them too, and the streams of the gateways that take them.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, Entry, open, service::entry, status};
use crate::{
    control::{
        access::Caller,
        configs::{
            self, Applied, Arrival, Change, Follow, Following, Lead, Removal, Terms, Version, read_part,
            timestamp,
        },
        refused::{Reason, Refused},
    },
    wire::v1::{self, config_report::Message, configs_server},
};

/// A configuration of 4 MiB, and what stands beside it.
const LARGEST_MESSAGE: usize = 5 * 1024 * 1024;
/// Orders that wait for a gateway: it is told the newest when it takes them.
const AHEAD: usize = 1;

pub(crate) struct Configs {
    follow: Arc<Follow>,
}

pub(crate) fn configs(follow: Arc<Follow>) -> Entry {
    let server = configs_server::ConfigsServer::new(Configs { follow });
    entry(server.max_decoding_message_size(LARGEST_MESSAGE).max_encoding_message_size(2 * LARGEST_MESSAGE))
}

impl Configs {
    fn configs(&self) -> &configs::Configs {
        &self.follow.configs
    }

    fn refuse(&self, refused: &Refused) -> Status {
        self.follow.seats.refused(refused);
        status(refused)
    }

    async fn apply(
        &self,
        caller: &Caller,
        name: &str,
        change: Result<Change, Refused>,
        terms: Terms,
    ) -> Answer<v1::ApplyConfigResponse> {
        let terms = Terms { by: caller.owner.to_string(), ..terms };
        let applied = async {
            caller.check_configure(name)?;
            self.configs().apply(name, change?, terms).await
        };
        let Applied { version, rollout, .. } = applied.await.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::ApplyConfigResponse {
            version: version.map_or(0, |version| version.number),
            rollout: rollout.map(configs::Progress::wire),
        }))
    }
}

#[tonic::async_trait]
impl configs_server::Configs for Configs {
    async fn apply_config(
        &self,
        request: Request<v1::ApplyConfigRequest>,
    ) -> Answer<v1::ApplyConfigResponse> {
        let (caller, request) = open(request)?;
        let v1::ApplyConfigRequest { name, text, part, if_version, dry_run, now } = request;
        let change = match part.as_str() {
            "" if text.is_empty() => Err(Reason::BadRequest.because("`text` is empty")),
            "" => Ok(Change::Main(text)),
            part => read_part(part).map(|part| Change::Part(part, (!text.is_empty()).then_some(text))),
        };
        let if_version = (if_version != 0).then_some(if_version);
        let terms = Terms { if_version, is_dry: dry_run, at_once: now, by: String::new() };
        self.apply(&caller, &name, change, terms).await
    }

    async fn get_config(&self, request: Request<v1::GetConfigRequest>) -> Answer<v1::GetConfigResponse> {
        let (caller, v1::GetConfigRequest { name, version }) = open(request)?;
        let read = async {
            caller.check_read(&name)?;
            self.configs().version(&name, (version != 0).then_some(version)).await
        };
        let version = read.await.map_err(|refused| self.refuse(&refused))?;
        let documents = version.documents.written(&name);
        Ok(Response::new(v1::GetConfigResponse { version: Some(wire(&version)), documents }))
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Answer<v1::ListVersionsResponse> {
        let (caller, v1::ListVersionsRequest { name }) = open(request)?;
        let read = async {
            caller.check_read(&name)?;
            self.configs().versions(&name).await
        };
        let versions = read.await.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::ListVersionsResponse {
            versions: versions.iter().map(|one| wire(one)).collect(),
        }))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::ApplyConfigResponse> {
        let (caller, v1::RollbackRequest { name, version, now }) = open(request)?;
        let terms = Terms { at_once: now, ..Terms::default() };
        self.apply(&caller, &name, Ok(Change::Repeat(version)), terms).await
    }

    async fn remove_config(
        &self,
        request: Request<v1::RemoveConfigRequest>,
    ) -> Answer<v1::RemoveConfigResponse> {
        let (caller, v1::RemoveConfigRequest { name, if_version, force }) = open(request)?;
        let removal = Removal {
            if_version: (if_version != 0).then_some(if_version),
            is_forced: force,
            by: caller.owner.to_string(),
        };
        let removed = async {
            caller.check_configure(&name)?;
            self.configs().remove(&name, removal).await
        };
        removed.await.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::RemoveConfigResponse {}))
    }

    async fn rollout(&self, request: Request<v1::RolloutRequest>) -> Answer<v1::RolloutResponse> {
        use v1::rollout_request::Action;
        let (caller, request) = open(request)?;
        let lead = match request.action() {
            Action::Unspecified => None,
            Action::Pause => Some(Lead::Pause),
            Action::Resume => Some(Lead::Resume),
            Action::Abort => Some(Lead::Abort),
        };
        let name = request.name;
        let led = async {
            match lead {
                None => {
                    caller.check_read(&name)?;
                    self.configs().version(&name, None).await?;
                    self.configs().progress(&name)
                }
                Some(lead) => {
                    caller.check_lead(&name)?;
                    self.configs().lead(&name, lead, &caller.owner.to_string()).await
                }
            }
        };
        let progress = led.await.map_err(|refused| self.refuse(&refused))?;
        Ok(Response::new(v1::RolloutResponse { rollout: Some(progress.wire()) }))
    }

    type WatchConfigStream = Pin<Box<dyn Stream<Item = Result<v1::ConfigOrder, Status>> + Send>>;

    async fn watch_config(
        &self,
        request: Request<Streaming<v1::ConfigReport>>,
    ) -> Answer<Self::WatchConfigStream> {
        let (caller, mut reports) = open(request)?;
        let first = reports.message().await?.and_then(|first| first.message);
        let Some(Message::Hello(hello)) = first else {
            let refused = Reason::BadRequest.because("the first message of a stream is `hello`");
            return Err(self.refuse(&refused));
        };
        let (orders, receiver) = mpsc::channel(AHEAD);
        let following = Arrival::read(hello)
            .and_then(|arrival| Following::begin(self.follow.clone(), arrival, &caller, orders))
            .map_err(|refused| self.refuse(&refused))?;
        tokio::spawn(following.run(reports));
        let orders =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        Ok(Response::new(orders.boxed()))
    }
}

fn wire(version: &Version) -> v1::ConfigVersion {
    v1::ConfigVersion {
        version: version.number,
        sha256: version.sha256.clone(),
        by: version.by.clone(),
        at: timestamp(version.at),
        repeats: version.repeats.unwrap_or_default(),
    }
}
