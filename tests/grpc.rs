//! gRPC through the gateway: the statuses of its own answers and of the upstream's, deadlines, cancellation, connections,
//! and gRPC-Web. What a real client and server make of it stands in `interop`.

mod connections;
mod interop;
mod statuses;
mod web;

use serde_json::Value;

use crate::support::{Gateway, get, grpc::GrpcServer};

/// One listener `main`, one route `r` with these settings to an upstream `u` with those (flow style, without braces).
fn yaml(server: &GrpcServer, route: &str, upstream: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{name: r, upstream: u, {route}}}]\n\
         upstreams: {{u: {{endpoints: ['{}'], protocol: grpc, {upstream}}}}}\n",
        server.address()
    )
}

async fn gateway(server: &GrpcServer, route: &str, upstream: &str) -> Gateway {
    Gateway::start(&yaml(server, route, upstream)).await
}

/// The line of the access log for `path`.
async fn logged(gateway: &Gateway, path: &str) -> Value {
    gateway.wait_for_line(|line| line["msg"] == "request" && line["path"] == path).await
}

/// The samples of a metric that have all these labels, summed.
async fn metric(gateway: &Gateway, name: &str, labels: &[&str]) -> f64 {
    let scrape = get(gateway.admin(), "/metrics").await;
    let wanted = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    let values =
        scrape.text().lines().filter(wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}
