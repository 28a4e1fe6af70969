//! The calls of plugins: to the upstreams of the configuration in force, through all that other requests go through.

mod streams;

use std::sync::Arc;

use pingora_http::RequestHeader;
use tokio::{runtime::Handle, sync::mpsc::UnboundedReceiver, task::JoinHandle};

use crate::{
    filter::Chain,
    forward::{Client, direct},
    observe::metrics::Metrics,
    plugin::{Answered, Call, Hears, Message, Outbound, Outcome, Told},
    snapshot::{Current, Destination},
};

pub(super) struct Calls {
    pub current: Current,
    pub client: Client,
    pub metrics: Arc<Metrics>,
    pub runtime: Handle,
}

/// Ends with whoever waits for it.
struct UnderWay(JoinHandle<()>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Outbound for Calls {
    fn begin(&self, call: Call, told: Told) -> Box<dyn Send> {
        let (current, client, metrics) = (self.current.clone(), self.client.clone(), self.metrics.clone());
        Box::new(UnderWay(self.runtime.spawn(async move {
            let (plugin, upstream) = (metrics.plugin(&call.plugin), call.upstream.clone());
            let outcome = ask(&current, &client, &metrics, call).await;
            plugin.http_call(&upstream, if outcome.is_ok() { "answered" } else { "failed" });
            told(outcome);
        })))
    }

    fn stream(&self, call: Call, messages: UnboundedReceiver<Message>, hears: Hears) -> Box<dyn Send> {
        let (current, client, metrics) = (self.current.clone(), self.client.clone(), self.metrics.clone());
        Box::new(UnderWay(self.runtime.spawn(async move {
            let (plugin, upstream) = (metrics.plugin(&call.plugin), call.upstream.clone());
            let is_answered = streams::stream(&current, &client, &metrics, call, messages, hears).await;
            plugin.http_call(&upstream, if is_answered { "answered" } else { "failed" });
        })))
    }
}

async fn ask(current: &Current, client: &Client, metrics: &Metrics, call: Call) -> Outcome {
    let destination = destination(current, metrics, &call)?;
    if !call.trailers.is_empty() {
        return streams::ask_with_trailers(client, &destination, metrics, call).await;
    }
    let (body, limit, most) = (call.body.clone(), call.timeout, call.most);
    let header = header(call)?;
    let asked = direct::ask(client, &destination, header, body, limit, most, metrics);
    let direct::Whole { header, body, trailers } = asked.await?;
    Ok(Answered { status: header.status.as_u16(), headers: header.headers.clone(), body, trailers })
}

fn destination(current: &Current, metrics: &Metrics, call: &Call) -> Result<Arc<Destination>, &'static str> {
    let snapshot = current.pin();
    let upstream = snapshot.upstreams.get(&*call.upstream).cloned().ok_or("no such upstream")?;
    Ok(Arc::new(Destination {
        upstream,
        metrics: metrics.route(&format!("plugin {}", call.plugin), Some(&call.upstream)),
        upstream_metrics: metrics.upstream(&call.upstream),
        variant: None,
        canary: None,
        then: None,
        filters: Chain::default(),
    }))
}

fn header(call: Call) -> Result<RequestHeader, &'static str> {
    let header = RequestHeader::build_no_case(call.method, call.path.as_bytes(), Some(call.fields.len() + 1));
    let mut header = header.map_err(|_| "no such path")?;
    header.insert_header(http::header::HOST, call.authority).map_err(|_| "too many fields")?;
    for (name, value) in call.fields {
        header.append_header(name, value).map_err(|_| "too many fields")?;
    }
    Ok(header)
}
