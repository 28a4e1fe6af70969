//! Which of an upstream's settings which part of its live state is made from. A reload makes a part anew when its own
//! settings have changed and keeps it when others have: a longer timeout must not cost the pool its health.

use std::sync::Arc;

use crate::{
    config::{self, UpstreamProtocol},
    identity::Identity,
    policy::failover,
    upstream::{admission, failover::settings as failing_over, pool, protection, tls},
};

pub(super) struct Parts {
    pub pool: pool::Settings,
    pub room: admission::Settings,
    pub failover: Option<failover::Settings>,
    pub tls: Option<tls::Settings>,
}

impl Parts {
    /// The pool's settings lack its [`Tls`](super::Tls), which is yet to be made from its own.
    ///
    /// Every field is named, so that the compiler asks whoever adds one where it belongs. Those that belong nowhere are
    /// read from the newest settings each time they are needed.
    pub(crate) fn of(
        config: &config::Upstream,
        identity: Option<&Arc<Identity>>,
        zone: Option<&Arc<str>>,
    ) -> Parts {
        let config::Upstream {
            endpoints,
            original_destination: _,
            protocol,
            balancer,
            // What is known of clients is kept beside these.
            affinity,
            connect_timeout: _,
            read_timeout: _,
            write_timeout: _,
            idle_timeout: _,
            tcp_user_timeout: _,
            pool,
            concurrency: _,
            health_check,
            outlier: _,
            circuit_breaker,
            slow_start,
            panic_threshold,
            zone_aware,
            then,
            tls,
            proxy_protocol,
            preserve_header_case: _,
            defaults: _,
        } = config;
        Parts {
            pool: pool::Settings {
                endpoints: endpoints.clone(),
                balancer: balancer.clone(),
                has_affinity: affinity.is_some() || matches!(balancer, config::Balancer::Hash(_)),
                panic_threshold: *panic_threshold,
                zone: zone.filter(|_| *zone_aware).cloned(),
                health_check: health_check.clone(),
                guard: protection::Settings {
                    circuit_breaker: circuit_breaker.clone(),
                    outlier: config.ejection(),
                    slow_start: slow_start.map(Into::into),
                },
                protocol: *protocol,
                proxy_protocol: *proxy_protocol,
                tls: None,
            },
            room: admission::Settings {
                concurrency: config.learnt_limit().cloned(),
                ..room(pool, *protocol)
            },
            failover: then.as_ref().map(failing_over),
            tls: tls.as_ref().map(|tls| tls::Settings::new(tls, *protocol, identity)),
        }
    }
}

/// An HTTP/1 connection serves one request at a time, so a limit on connections is one on requests; an HTTP/2 connection
/// serves `streams_per_connection`.
fn room(pool: &config::Pool, protocol: UpstreamProtocol) -> admission::Settings {
    let config::Pool {
        idle_connections: _,
        idle_per_endpoint: _,
        streams_per_connection,
        ping_interval: _,
        max_connections,
        max_requests,
        max_pending,
        pending_timeout,
    } = pool;
    let streams = match protocol {
        // Until it is negotiated, nobody knows better.
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto => 1,
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => streams_per_connection.get(),
    };
    let by_connections = max_connections.map(|most| most.get().saturating_mul(streams));
    let by_requests = max_requests.map(|most| most.get());
    admission::Settings {
        size: by_connections.into_iter().chain(by_requests).min(),
        max_pending: *max_pending,
        pending_timeout: (*pending_timeout).into(),
        concurrency: None,
    }
}
