//! Traefik's configuration: the dynamic one in YAML (routers, services, middlewares, TLS), and of the static one what listeners, the access log
//! and the process have of it (<https://doc.traefik.io/traefik/>). Both may stand in one file or in several. Custom resources of Kubernetes
//! are read as a dynamic configuration (`crds`).
//!
//! Traefik tries its routers one after another, ours takes the most specific route: `order` makes the two choose alike. A router that
//! cannot be carried over as a whole is left out if its rule cannot be said, and answers 503 if something could not that may be there to
//! refuse requests.

mod access;
mod acme;
mod crds;
mod entry_points;
mod headers;
mod matching;
mod middlewares;
mod order;
mod redirects;
mod routers;
mod rule;
mod servers;
mod services;
mod statics;
mod stream_services;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod units;
mod unused;

use entry_points::EntryPoints;
use middlewares::Middlewares;
use services::Services;

use crate::{
    config::{self, Foreign, ForeignValue, Problem, Problems},
    convert::{
        Converted,
        draft::{List, Map, Node},
        fields::{Fields, Report},
        table::Routes,
    },
};

/// Where to listen if the files say nothing that can be served: a configuration has a listener.
const NOWHERE: &str = "127.0.0.1:8080";

/// Parts of the static configuration that have nothing to do with how requests are served.
const OPERATION: [&str; 11] = [
    "providers",
    "api",
    "ping",
    "tracing",
    "global",
    "experimental",
    "pilot",
    "hostResolver",
    "spiffe",
    "core",
    "ocsp",
];

/// What the files hold, together.
#[derive(Debug, Default)]
struct Parts<'f> {
    routers: Vec<(&'f str, &'f Foreign)>,
    tcp_routers: Vec<(&'f str, &'f Foreign)>,
    middlewares: Middlewares<'f>,
    services: Services<'f>,
    tls: tls::Tls<'f>,
    resolvers: acme::Resolvers<'f>,
    entry_points: Option<&'f Foreign>,
    access_log: Option<&'f Foreign>,
    log: Option<&'f Foreign>,
}

/// Converts the texts of these files, each with its name.
///
/// # Errors
///
/// Where one is no YAML.
pub fn convert(files: &[(String, String)]) -> Result<Converted, Problems> {
    let mut documents: Vec<Foreign> = Vec::new();
    for (name, text) in files {
        documents.extend(read(name, text)?);
    }
    let mut report = Report::default();
    let documents = crds::in_words_of_files(documents, &mut report);
    let mut parts = Parts::default();
    for document in &documents {
        parts.add(document, &mut report);
    }
    let mut points = EntryPoints::read(parts.entry_points, &mut report);
    let named = routers::entry_points(&parts.routers)
        .chain(routers::entry_points(&parts.tcp_routers))
        .collect::<Vec<_>>();
    points.complete(&named, parts.entry_points.is_some(), &mut report);
    if parts.entry_points.is_none() {
        // Routers that name none are on all of Traefik's.
        let unnamed = parts.routers.iter().filter(|(_, router)| router.find("entryPoints").is_none());
        let wanted = unnamed.map(|(_, router)| {
            let has_tls = router.entries().iter().any(|(name, _)| name == "tls");
            (if has_tls { "websecure" } else { "web" }, *router)
        });
        points.complete(&wanted.collect::<Vec<_>>(), false, &mut report);
    }
    let mut routes = Routes::default();
    let tables = routers::tables(
        &parts.routers,
        &points,
        &parts.middlewares,
        &mut parts.services,
        &parts.tls,
        &mut routes,
        &mut report,
    );
    let streams = tcp::read(&parts.tcp_routers, &points, &mut parts.services, &parts.tls, &mut report);

    let mut listeners = List::new();
    for (index, point) in points.all.iter().enumerate() {
        let mut listener =
            Map::new().with("name", point.name.as_str()).with("address", point.address.as_str());
        if point.accepts_proxy_protocol {
            listener.set("proxy_protocol", "accept");
        }
        let table = tables.get(&index).filter(|table| !table.routes.is_empty() || !point.filters.is_empty());
        let stream = streams.get(&index);
        match (table, stream) {
            (Some(table), _) => {
                if table.has_tls {
                    let ordered = parts.resolvers.certificates(&table.orders, &mut report);
                    let options = table.tls_options.as_deref();
                    listener.set("tls", parts.tls.listener(options, ordered, &mut report));
                }
                if let Some(sni) = stream.and_then(|stream| stream.sni.clone()).filter(|sni| !sni.is_empty())
                {
                    if table.has_tls {
                        listener.set("sni", sni);
                    } else if let Some(stream) = stream {
                        report.entry(
                            "routers",
                            stream.at,
                            "routers for HTTP without TLS are on its entry point",
                        );
                    }
                }
                if let Some(stream) = stream.filter(|stream| stream.upstream.is_some()) {
                    report.entry("routers", stream.at, "routers for HTTP are on its entry point");
                }
                if !point.limits.is_empty() {
                    listener.set("limits", point.limits.clone());
                }
                if !point.filters.is_empty() {
                    listener.set("filters", point.filters.clone());
                }
                listener.set("routes", table.routes.iter().map(String::as_str).collect::<List>());
            }
            (None, Some(stream)) => match (&stream.sni, &stream.upstream) {
                (_, Some(upstream)) => {
                    listener.set("protocol", "tcp");
                    if stream.ends_tls {
                        listener.set("tls", parts.tls.listener(stream.tls_options, Vec::new(), &mut report));
                    }
                    listener.set("upstream", upstream.as_str());
                }
                (Some(sni), None) => {
                    listener.set("protocol", "tls_passthrough");
                    listener.set("sni", sni.clone());
                }
                (None, None) => continue,
            },
            (None, None) => {
                if let Some(at) = point.at {
                    report.entry(
                        "entryPoints",
                        at,
                        format!("no router is on `{}`, so nothing listens there", point.name),
                    );
                }
                continue;
            }
        }
        listeners.push(listener);
    }

    let mut routes = routes.written();
    let mut file = Map::new();
    let needs_route = listeners.is_empty()
        || listeners
            .items()
            .any(|listener| matches!(listener, Node::Map(map) if map.find("routes").is_some()));
    if listeners.is_empty() {
        listeners.comment("The files hold no router that can be served.");
        listeners.push(Map::new().with("address", NOWHERE));
    }
    if routes.is_empty() && needs_route {
        routes.push(Map::new().with("name", "nothing").with("respond", Map::new().with("status", 404_i64)));
    }
    let mut top = Map::new();
    if !points.trusted.is_empty() {
        top.set("trusted_proxies", points.trusted);
    }
    if let Some(grace) = points.grace {
        top.map("shutdown").set("grace", grace);
    }
    statics::log(parts.log, parts.access_log, &mut top, &mut report);
    parts.tls.finish(&unused::name(&parts, &mut report), &mut report);
    parts.resolvers.write(&mut top, &mut report);
    report.left.sort();
    for left in &report.left {
        file.comment(left.to_string());
    }
    report.needless_comments().for_each(|comment| file.comment(comment));
    for (key, value) in top.entries() {
        file.set(key, value.clone());
    }
    file.set("listeners", listeners);
    if !routes.is_empty() {
        file.set("routes", routes);
    }
    let upstreams = parts.services.written();
    if !upstreams.is_empty() {
        file.set("upstreams", upstreams);
    }
    Ok(Converted { file, left: report.left })
}

fn read(name: &str, text: &str) -> Result<Vec<Foreign>, Problems> {
    if std::path::Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
    {
        let problem = Problem::new(format!("{name}: TOML is not read"));
        return Err(problem.hint("make YAML of it first, as in `yq -p toml -o yaml traefik.toml`").into());
    }
    config::foreign(text, name).map_err(|problems| match text.contains("{{") {
        true => {
            let problem = Problem::new(format!(
                "{name}: it has templates of Go, which are filled in before it is YAML"
            ));
            problems.into_iter().chain([problem.hint("convert what comes out of them")]).collect()
        }
        false => problems,
    })
}

impl<'f> Parts<'f> {
    fn add(&mut self, document: &'f Foreign, report: &mut Report) {
        // What is misplaced may be a middleware with its secrets.
        let mut fields = Fields::secret("", document, report);
        if let Some(http) = fields.take("http") {
            let mut fields = Fields::secret("http", http, report);
            self.routers.extend(entries(fields.take("routers")));
            insert(fields.take("middlewares"), &mut self.middlewares.0, report);
            insert(fields.take("services"), &mut self.services.all, report);
            insert(fields.take("serversTransports"), &mut self.services.transports, report);
            fields.finish("it has no equal here", report);
        }
        if let Some(tcp) = fields.take("tcp") {
            let mut fields = Fields::of("tcp", tcp, report);
            self.tcp_routers.extend(entries(fields.take("routers")));
            insert(fields.take("services"), &mut self.services.tcp, report);
            // A router that has one is left out (`tcp`).
            for (name, middleware) in entries(fields.take("middlewares")) {
                report.add(middleware, format!("middleware {name}"), "connections pass no filters");
            }
            fields.finish("it has no equal here", report);
        }
        if let Some(udp) = fields.take("udp") {
            report.entry("udp", udp, "UDP is not carried");
        }
        if let Some(tls) = fields.take("tls") {
            self.tls.add(tls, report);
        }
        if let Some(resolvers) = fields.take("certificatesResolvers") {
            self.resolvers.add(resolvers, report);
        }
        for (name, place) in [
            ("entryPoints", &mut self.entry_points),
            ("accessLog", &mut self.access_log),
            ("log", &mut self.log),
        ] {
            let all = document.entries().iter().find(|(key, _)| key == name);
            if let Some((_, value)) = all {
                *place = Some(value);
            }
        }
        fields.skip(&["entryPoints", "accessLog", "log"]);
        if let Some(metrics) = fields.take("metrics") {
            report.entry(
                "metrics",
                metrics,
                "the admin API has /metrics for Prometheus, and `metrics.otlp` pushes",
            );
        }
        for name in OPERATION {
            if let Some(value) = fields.take(name) {
                let why = match name {
                    "api" | "ping" => "`admin` is the operator's API, and always on",
                    "tracing" => "see `tracing`",
                    "providers" => "routes are in a file here, which `watch: true` follows",
                    _ => "it has no equal here",
                };
                report.entry(name, value, why);
            }
        }
        fields.finish("it is no part of a configuration that is known here", report);
    }
}

fn entries(map: Option<&Foreign>) -> impl Iterator<Item = (&str, &Foreign)> {
    map.map_or(&[][..], Foreign::entries).iter().map(|(name, value)| (name.as_str(), value))
}

fn insert<'f>(
    map: Option<&'f Foreign>,
    all: &mut std::collections::BTreeMap<&'f str, &'f Foreign>,
    report: &mut Report,
) {
    for (name, value) in entries(map).filter(|(_, value)| value.value != ForeignValue::Null) {
        if all.contains_key(name) {
            // What it holds may be secret.
            report.add(value, name, "another file has it already");
        } else {
            all.insert(name, value);
        }
    }
}

/// The file that `text` becomes.
#[cfg(test)]
fn written(text: &str) -> String {
    convert(&[("a.yaml".to_owned(), text.to_owned())]).unwrap().file.to_string()
}
