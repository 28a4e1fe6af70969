//! `fault`: delay or fail a share of requests on purpose, to see what clients make of it. For tests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fastrand::Rng;
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{HumanDuration, Path, Ratio},
    error::accepts_json,
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response},
};

/// Delays a share of requests, answers a share itself, or both. The two are decided apart; a delay comes first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// A share of the requests waits.
    delay: Option<Delay>,
    /// A share of the requests is answered with an error.
    abort: Option<Abort>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delay {
    /// The share of requests that are delayed.
    #[serde(default = "all")]
    ratio: Ratio,
    /// How long.
    duration: HumanDuration,
    /// Each delay is up to this much longer.
    #[serde(default)]
    jitter: Option<HumanDuration>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Abort {
    /// The share of requests that are answered by the filter.
    #[serde(default = "all")]
    ratio: Ratio,
    /// 400 to 599.
    #[serde(default = "unavailable")]
    status: u16,
}

fn all() -> Ratio {
    Ratio::from_percent(100)
}

fn unavailable() -> u16 {
    503
}

/// A delayed request keeps its connection and holds up a drain.
const LONGEST: Duration = Duration::from_secs(300);

impl Options for Fault {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        if self.delay.is_none() && self.abort.is_none() {
            invalid.push(Invalid::new(at.clone(), "nothing to do: give `delay`, `abort` or both"));
        }
        if self.delay.is_some_and(|delay| delay.longest() > LONGEST) {
            let why = "a delay, its jitter included, is at most 5m";
            invalid.push(Invalid::new(at.key("delay").key("duration"), why));
        }
        let abort = self.abort.and_then(|Abort { ratio, status }| match StatusCode::from_u16(status) {
            Ok(code) if (400..=599).contains(&status) => Some((ratio, code)),
            _ => {
                let why = format!("{status} is not an error (400 to 599)");
                invalid.push(Invalid::new(at.key("abort").key("status"), why));
                None
            }
        });
        if invalid.is_empty() { Ok(Arc::new(Inject { delay: self.delay, abort })) } else { Err(invalid) }
    }
}

impl Delay {
    fn longest(&self) -> Duration {
        Duration::from(self.duration).saturating_add(self.jitter.map(Duration::from).unwrap_or_default())
    }

    fn draw(&self, rng: &mut Rng) -> Option<Duration> {
        let jitter = self.jitter.map(Duration::from).unwrap_or_default();
        hits(self.ratio, rng).then(|| Duration::from(self.duration) + jitter.mul_f64(rng.f64()))
    }
}

fn hits(ratio: Ratio, rng: &mut Rng) -> bool {
    // Below 1, so that 100 % is always and 0 % never.
    rng.f64() < ratio.as_f64()
}

struct Inject {
    delay: Option<Delay>,
    abort: Option<(Ratio, StatusCode)>,
}

impl Inject {
    fn abort(&self, exchange: &Exchange<'_>, rng: &mut Rng) -> Flow {
        match self.abort {
            Some((ratio, status)) if hits(ratio, rng) => Flow::Reply(failure(status, exchange)),
            _ => Flow::Continue,
        }
    }
}

fn failure(status: StatusCode, exchange: &Exchange<'_>) -> Response {
    let accept = exchange.request.headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    let (content_type, body) = Reason::FaultInjected.body_with(status, accepts_json(accept));
    let mut response = Response::new(status);
    response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
    response.body = body;
    response.reason = Some(Reason::FaultInjected);
    response
}

#[async_trait]
impl Filter for Inject {
    fn phases(&self) -> Phases {
        if self.delay.is_some() { Phases::REQUEST_ASYNC } else { Phases::REQUEST }
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        Ok(self.abort(exchange, &mut Rng::new()))
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let mut rng = Rng::new();
        if let Some(delay) = self.delay.and_then(|delay| delay.draw(&mut rng)) {
            tokio::time::sleep(delay).await;
        }
        Ok(self.abort(exchange, &mut rng))
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn seconds(seconds: u64) -> HumanDuration {
        HumanDuration::from_secs(seconds)
    }

    #[test]
    fn a_share_of_requests_is_hit() {
        let mut rng = Rng::with_seed(7);
        let mut share =
            |percent| (0..10_000).filter(|_| hits(Ratio::from_percent(percent), &mut rng)).count();
        assert_eq!(share(0), 0);
        assert_eq!(share(100), 10_000);
        assert!((2_300..2_700).contains(&share(25)));
    }

    #[test]
    fn a_delay_lies_between_its_duration_and_its_jitter() {
        let mut rng = Rng::with_seed(7);
        let delay = Delay { ratio: all(), duration: seconds(2), jitter: Some(seconds(1)) };
        let drawn: Vec<_> = (0..100).filter_map(|_| delay.draw(&mut rng)).collect();
        assert_eq!(drawn.len(), 100);
        assert!(drawn.iter().all(|drawn| (2.0..3.0).contains(&drawn.as_secs_f64())));
        assert!(drawn.iter().any(|drawn| drawn.as_secs_f64() > 2.5));
        let exact = Delay { jitter: None, ..delay };
        assert_eq!(exact.draw(&mut rng), Some(Duration::from_secs(2)));
    }

    #[tokio::test]
    async fn a_delayed_request_may_fail_too() {
        let delay = Delay { ratio: all(), duration: seconds(0), jitter: None };
        let abort = (all(), StatusCode::BAD_GATEWAY);
        let inject = Inject { delay: Some(delay), abort: Some(abort) };
        assert_eq!(inject.phases(), Phases::REQUEST_ASYNC);
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let flow = inject.on_request_async(&mut exchange).await.unwrap();
        let Flow::Reply(response) = flow else { panic!("{flow:?}") };
        assert_eq!((response.status.as_u16(), response.reason), (502, Some(Reason::FaultInjected)));
    }

    #[test]
    fn refuses_faults_that_make_no_sense() {
        let abort = |status| Some(Abort { ratio: all(), status });
        let delay = |duration| Some(Delay { ratio: all(), duration, jitter: Some(seconds(1)) });
        for fault in [
            Fault { delay: None, abort: None },
            Fault { delay: None, abort: abort(200) },
            Fault { delay: None, abort: abort(600) },
            Fault { delay: delay(seconds(300)), abort: None },
            Fault { delay: delay(seconds(u64::MAX)), abort: None },
        ] {
            assert!(fault.build(&Path::root(), &Live::offline()).is_err());
        }
    }
}
