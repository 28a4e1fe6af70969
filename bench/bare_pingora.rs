//! The yardstick: the least a Pingora HTTP proxy can be, so that the difference to it is what the gateway itself costs.
//! Everything is the framework's default (its own listener and 64 KiB read buffer, one thread, 128 idle upstream
//! connections, the disabled compression module, the system allocator) but h2c, which the gateway has on as well.
//! It routes, logs and counts nothing.
//!
//! `bare_pingora LISTEN ORIGIN`, both as `ip:port`.

use std::{env, net::SocketAddr, process::ExitCode};

use async_trait::async_trait;
use pingora_core::{
    Result,
    apps::HttpServerOptions,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, ProxyServiceBuilder, Session};

struct Bare {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

fn main() -> ExitCode {
    let addresses: Vec<SocketAddr> = env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [listen, origin] = addresses[..] else {
        eprintln!("usage: bare_pingora LISTEN ORIGIN (both as ip:port)");
        return ExitCode::from(2);
    };

    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads: 1, ..Default::default() });
    server.bootstrap();

    let mut options = HttpServerOptions::default();
    options.h2c = true;
    let mut service =
        ProxyServiceBuilder::new(&server.configuration, Bare { origin }).server_options(options).build();
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}
