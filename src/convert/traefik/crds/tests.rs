use crate::convert::traefik::written;

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: traefik.io/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn route(more: &str) -> String {
    object(
        "IngressRoute",
        "r",
        &format!(
            "entryPoints: [web], routes: [{{match: Host(`a`), services: [{{name: s, port: 80}}]{more}}}]"
        ),
    )
}

#[test]
fn a_service_is_where_its_port_says() {
    let service = |port: &str, spec: &str| {
        let route = object(
            "IngressRoute",
            "r",
            &format!("entryPoints: [web], routes: [{{match: Host(`a`), services: [{{name: s, {port}}}]}}]"),
        );
        written(&format!(
            "{route}---\n{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}"
        ))
    };
    for (port, spec, expected) in [
        ("port: 80", "ports: [{port: 80}]", "s.default.svc.cluster.local:80"),
        ("port: 80, scheme: h2c", "ports: [{port: 80}]", "protocol: http2"),
        ("port: web", "ports: [{port: 81, name: web}]", "s.default.svc.cluster.local:81"),
        ("port: web", "ports: [{port: 81, name: other}]", "the Service default/s has no port web"),
        ("port: 443", "ports: [{port: 443}]", "protocol: auto"),
        (
            "port: 80",
            "clusterIP: None, ports: [{port: 80, targetPort: 8080}]",
            "s.default.svc.cluster.local:8080",
        ),
        ("port: 80", "clusterIP: None, ports: [{port: 80, targetPort: web}]", "known by a name alone"),
        ("port: 80", "type: ExternalName, externalName: a.example", "a.example:80"),
        ("port: 80", "type: ExternalName", "has no externalName"),
        ("scheme: http", "ports: [{port: 80}]", "default/s has no port"),
        ("port: 80, kind: Bucket", "ports: [{port: 80}]", "is no kind of service"),
    ] {
        let text = service(port, spec);
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(written(&route("")).contains("s.default.svc.cluster.local:80"), "without Services in the files");
}

#[test]
fn what_a_route_asked_for_closes_it_where_it_is_missing() {
    let open = |text: &str| !text.contains("status: 503");
    assert!(open(&written(&route(""))));
    for middlewares in ["[{name: none}]", "[{}]", "[{name: none@file}]", "[{name: m, namespace: other}]"] {
        let middleware = object("Middleware", "m", "addPrefix: {prefix: /a}");
        let text = written(&format!("{}{middleware}", route(&format!(", middlewares: {middlewares}"))));
        assert!(!open(&text), "{middlewares}\n{text}");
    }
    let tls = "entryPoints: [websecure], routes: [{match: Host(`a`), services: [{name: s, port: 80}]}], tls: {options: {name: none}}";
    let text = written(&object("IngressRoute", "r", tls));
    assert!(!open(&text), "{text}");
}

#[test]
fn secrets_are_not_shown() {
    let secret = |rest: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: u}}, {rest}}}\n{}",
            route(", middlewares: [{name: m}]")
        ) + &object("Middleware", "m", "basicAuth: {secret: u}")
    };
    for rest in [
        "stringData: {users: 'joe:hush'}",
        "type: kubernetes.io/basic-auth, stringData: {username: joe, password: hush}",
        "data: {users: hush}",
    ] {
        let text = written(&secret(rest));
        assert!(!text.contains("hush") && text.contains("status: 503"), "{text}");
    }
}

#[test]
fn objects_that_are_none_are_reported() {
    for (text, expected) in [
        ("{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, spec: {}}", "it has no name"),
        ("{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, metadata: {name: a}}", "it has no `spec`"),
        (
            "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, metadata: {name: a}, spec: {}}",
            "it has no routes",
        ),
        ("{apiVersion: traefik.io/v1alpha1, kind: Tea, metadata: {name: a}, spec: {}}", "an unknown kind"),
        (
            "{apiVersion: traefik.io/v1alpha1, kind: TLSStore, metadata: {name: a}, spec: {}}",
            "the only store",
        ),
        ("{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway}", "convert gateway-api"),
        ("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}", "an unknown kind"),
    ] {
        assert!(written(text).contains(expected), "{expected}\n{}", written(text));
    }
}
