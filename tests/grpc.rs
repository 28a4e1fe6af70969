//! gRPC through the gateway: the statuses of its own answers and of the upstream's, deadlines, cancellation, connections,
//! and gRPC-Web. What a real client and server make of it stands in `interop`, and what pages in a browser do in `pages`.

mod connections;
mod interop;
mod limits;
mod pages;
mod statuses;
mod web;

use crate::support::{Gateway, Yaml, grpc::GrpcServer};

/// One listener `main`, one route `r` with these settings to an upstream `u` with those (flow style, without braces).
fn yaml(server: &GrpcServer, route: &str, upstream: &str) -> String {
    Yaml::to(server.address()).route(route).settings(&format!("protocol: grpc, {upstream}")).to_string()
}

async fn gateway(server: &GrpcServer, route: &str, upstream: &str) -> Gateway {
    Gateway::start(&yaml(server, route, upstream)).await
}
