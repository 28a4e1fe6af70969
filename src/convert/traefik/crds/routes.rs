//! IngressRoute and IngressRouteTCP: a router for each of their routes.

use super::{
    Cluster, Object, Parts,
    made::{list, map, text},
    middlewares,
};
use crate::{
    config::Foreign,
    convert::fields::{Fields, Report},
};

/// Where a reference of a route leads: a service of HTTP, or of TCP.
type Service = fn(&mut Parts, &Object<'_>, &Foreign, &Cluster<'_>) -> Result<String, String>;

impl Parts {
    pub(super) fn ingress_route(&mut self, object: &Object<'_>, cluster: &Cluster<'_>, report: &mut Report) {
        let routers = self.routers_of(object, cluster, Parts::route_service, report);
        self.routers.extend(routers);
    }

    pub(super) fn ingress_route_tcp(
        &mut self,
        object: &Object<'_>,
        cluster: &Cluster<'_>,
        report: &mut Report,
    ) {
        let routers = self.routers_of(object, cluster, Parts::stream_service, report);
        self.tcp_routers.extend(routers);
    }

    fn routers_of(
        &mut self,
        object: &Object<'_>,
        cluster: &Cluster<'_>,
        service: Service,
        report: &mut Report,
    ) -> Vec<(String, Foreign)> {
        let mut fields = Fields::of("spec", object.spec, report);
        let entry_points = fields.take("entryPoints");
        let tls = fields.take("tls").map(|tls| self.router_tls(object, tls, report));
        let routes = fields.list("routes", report);
        fields.finish("it has no equal here", report);
        if routes.is_empty() {
            report.add(object.at, format!("{} {}", object.kind, object.id()), "it has no routes");
        }
        let mut routers = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let name = match routes.len() {
                1 => object.id(),
                _ => format!("{}.{}", object.id(), number + 1),
            };
            let mut router: Vec<(String, Foreign)> = Vec::new();
            let mut fields = Fields::of("routes", route, report);
            fields.skip(&["kind", "services"]);
            fields.needless(&["syntax"], "since rules are read in both syntaxes", report);
            let observability = fields.take("observability").cloned();
            router.extend(observability.map(|value| ("observability".to_owned(), value)));
            router.extend(fields.take("match").map(|rule| ("rule".to_owned(), rule.clone())));
            router.extend(fields.take("priority").map(|number| ("priority".to_owned(), number.clone())));
            let guards = fields.take("middlewares").map(|names| middlewares::names(object, names));
            router.extend(guards.map(|names| ("middlewares".to_owned(), names)));
            fields.finish("it has no equal here", report);
            let services = route.find("services").map_or(&[][..], Foreign::items);
            let leads_to = match services {
                [] => Err("it has no services".to_owned()),
                [only] => service(self, object, only, cluster),
                _ => self.weighted(object, &name, route, service, cluster, report),
            };
            // Where there is none, the router tells of it, and is closed if it is guarded.
            let leads_to = leads_to.unwrap_or_else(|why| {
                report.entry("services", route.find("services").unwrap_or(route), why);
                format!("{name} (none)")
            });
            router.push(("service".to_owned(), text(route, leads_to)));
            router.extend(entry_points.map(|names| ("entryPoints".to_owned(), names.clone())));
            router.extend(tls.clone().map(|tls| ("tls".to_owned(), tls)));
            routers.push((name, map(route, router)));
        }
        routers
    }

    /// All services of a route, by their weight.
    fn weighted(
        &mut self,
        object: &Object<'_>,
        name: &str,
        route: &Foreign,
        service: Service,
        cluster: &Cluster<'_>,
        report: &mut Report,
    ) -> Result<String, String> {
        let mut all = Vec::new();
        for one in route.find("services").map_or(&[][..], Foreign::items) {
            match service(self, object, one, cluster) {
                Ok(leads_to) => {
                    let mut entries = vec![("name".to_owned(), text(one, leads_to))];
                    entries.extend(one.find("weight").map(|weight| ("weight".to_owned(), weight.clone())));
                    all.push(map(one, entries));
                }
                Err(why) => report.entry("services", one, why),
            }
        }
        if all.is_empty() {
            return Err("none of its services can be asked".to_owned());
        }
        let weighted = map(route, vec![("services".to_owned(), list(route, all))]);
        let place = match object.kind {
            "IngressRouteTCP" => &mut self.tcp_services,
            _ => &mut self.services,
        };
        Ok(Parts::keep_kind(place, name, "weighted", weighted))
    }
}
