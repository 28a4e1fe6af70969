//! Routers of TCP: where connections go by the name that they ask for, or all of an entry point.

use std::collections::BTreeMap;

use super::{
    entry_points::EntryPoints,
    routers,
    rule::{self, Atom},
    services::Services,
    tls::Tls,
};
use crate::{
    config::{Foreign, ForeignValue},
    convert::{
        draft::Map,
        fields::{Fields, Report},
    },
    route::HostPattern,
};

/// What is said of an entry point.
#[derive(Debug)]
pub(crate) struct Stream<'f> {
    /// Upstreams by name, of TLS that passes through.
    pub sni: Option<Map>,
    /// Of all connections.
    pub upstream: Option<String>,
    pub ends_tls: bool,
    /// The name of the options of TLS, where it ends here.
    pub tls_options: Option<&'f str>,
    pub at: &'f Foreign,
}

pub(crate) fn read<'f>(
    routers: &[(&'f str, &'f Foreign)],
    points: &EntryPoints<'f>,
    services: &mut Services<'f>,
    tls: &Tls<'f>,
    report: &mut Report,
) -> BTreeMap<usize, Stream<'f>> {
    let mut streams = BTreeMap::new();
    for (name, router) in routers {
        if let Err(why) = add(router, points, services, tls, &mut streams, report) {
            report.entry(name, router, why);
        }
    }
    streams
}

fn add<'f>(
    router: &'f Foreign,
    points: &EntryPoints<'f>,
    services: &mut Services<'f>,
    all_tls: &Tls<'f>,
    streams: &mut BTreeMap<usize, Stream<'f>>,
    report: &mut Report,
) -> Result<(), String> {
    let mut fields = Fields::of("routers", router, report);
    let rule = fields.text("rule", report).ok_or("it has no rule")?;
    let service = fields.text("service", report).ok_or("it has no service")?;
    let has_middlewares = !fields.one_or_more("middlewares").is_empty();
    let tls = router.entries().iter().find(|(name, _)| name == "tls").map(|(_, tls)| tls);
    fields.skip(&["entryPoints", "tls"]);
    fields.needless(&["ruleSyntax"], "since rules are read in both syntaxes", report);
    fields.finish("it has no equal here", report);
    if has_middlewares {
        return Err("connections pass no filters, so it is left out".to_owned());
    }
    if let Some(tls) = tls {
        let mut fields = Fields::of("tls", tls, report);
        fields.skip(&["passthrough", "options"]);
        let why = "write `{acme: ACCOUNT, names: [...]}` among the listener's certificates";
        fields.leave("certResolver", why, report);
        fields.finish(why, report);
    }
    let passes = tls
        .and_then(|tls| tls.find("passthrough"))
        .is_some_and(|flag| flag.value == ForeignValue::Flag(true));
    let tls_options = routers::options_of(tls.map(Some)).filter(|_| !passes);
    // They may ask clients for certificates: without them, everybody would be let in.
    if let Some(options) = tls_options.filter(|options| !all_tls.has_options(options)) {
        return Err(format!("there are no options {options:?} of TLS, so it is left out"));
    }
    let names = names(&rule::parse(rule)?)?;
    let upstream = services.stream(service, report)?;
    for point in routers::points_of(router, points) {
        let stream = streams.entry(point).or_insert(Stream {
            sni: None,
            upstream: None,
            ends_tls: false,
            tls_options: None,
            at: router,
        });
        if passes {
            let sni = stream.sni.get_or_insert_with(Map::new);
            for name in &names {
                if sni.find(name).is_none() {
                    sni.set(name, upstream.as_str());
                } else {
                    report.add(router, format!("HostSNI({name})"), "another router has that name");
                }
            }
        } else if names.iter().any(|name| name != "*") {
            return Err("where TLS does not pass through, all connections of an entry point go to one upstream: HostSNI(`*`)".to_owned());
        } else if let Some(first) = &stream.upstream {
            return Err(format!("all connections of its entry point go to `{first}`"));
        } else {
            stream.upstream = Some(upstream.clone());
            stream.ends_tls = tls.is_some();
            stream.tls_options = tls_options;
        }
    }
    Ok(())
}

fn names(alternatives: &[Vec<Atom>]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for atoms in alternatives {
        let [Atom { name, args, holds: true }] = &atoms[..] else {
            return Err("only HostSNI(`name`) is understood".to_owned());
        };
        match (name.as_str(), &args[..]) {
            ("hostsni", [host]) if host == "*" => names.push("*".to_owned()),
            ("hostsni", [host]) if HostPattern::parse(host).is_ok() && !host.starts_with('[') => {
                names.push(host.to_ascii_lowercase())
            }
            ("hostsni", [host]) => return Err(format!("{host:?} is no host name")),
            _ => return Err("only HostSNI(`name`) is understood".to_owned()),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use crate::convert::traefik::written;

    /// A router that ends TLS with these options.
    fn with_options(options: &str) -> String {
        written(&format!(
            "entryPoints: {{db: {{address: ':5432'}}}}
tcp:
  routers:
    db: {{rule: 'HostSNI(`*`)', service: db, entryPoints: db, tls: {{options: {options}}}}}
  services: {{db: {{loadBalancer: {{servers: [{{address: '10.0.0.1:5432'}}]}}}}}}
tls: {{options: {{mutual: {{clientAuth: {{caFiles: [ca.crt]}}}}}}}}
"
        ))
    }

    #[test]
    fn a_stream_asks_for_the_certificates_that_its_router_asked_for() {
        let text = with_options("mutual");
        assert!(text.contains("protocol: tcp") && text.contains("mode: require"), "{text}");
        for options in ["other", "mutual@docker"] {
            let text = with_options(options);
            assert!(text.contains("there are no options") && !text.contains("protocol: tcp"), "{text}");
        }
    }
}
