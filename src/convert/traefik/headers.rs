//! The `headers` middleware: fields that are set or taken off, CORS, and what browsers are told for security.

use http::{HeaderName, HeaderValue};

use crate::{
    config::{Foreign, ForeignValue},
    convert::{
        draft::{List, Map},
        fields::{FRAMING, Fields, Report, is_origin, literal, template},
    },
};

/// Texts of the middleware that are the value of a field.
const TEXTS: [(&str, &str); 8] = [
    ("customFrameOptionsValue", "x-frame-options"),
    ("customBrowserXSSValue", "x-xss-protection"),
    ("contentSecurityPolicy", "content-security-policy"),
    ("contentSecurityPolicyReportOnly", "content-security-policy-report-only"),
    ("publicKey", "public-key-pins"),
    ("referrerPolicy", "referrer-policy"),
    ("permissionsPolicy", "permissions-policy"),
    ("featurePolicy", "feature-policy"),
];

pub(crate) fn add(fields: &mut Fields<'_>, at: &Foreign, filters: &mut List, report: &mut Report) {
    if let Some(cors) = cors(fields, at, report) {
        filters.push(Map::new().with("cors", cors));
    }
    let redirects = fields.flag("sslRedirect", report) == Some(true);
    let is_temporary = fields.flag("sslTemporaryRedirect", report) == Some(true);
    if redirects {
        filters.push(
            Map::new()
                .with("https_redirect", Map::new().with("status", if is_temporary { 307 } else { 308 })),
        );
    }
    let mut headers = Map::new();
    for (key, side) in [("customRequestHeaders", "request"), ("customResponseHeaders", "response")] {
        for (name, value) in fields.take(key).map_or(&[][..], Foreign::entries) {
            edit(name, value, side, &mut headers, report);
        }
    }
    let mut set = |name: &str, value: &str| {
        // What is written out goes before what a switch stands for.
        let response = headers.map("response").map("set");
        if response.find(name).is_none() {
            response.set(name, template(value));
        }
    };
    for (key, name) in TEXTS {
        if let Some(value) =
            fields.text(key, report).filter(|value| !value.is_empty() && HeaderValue::from_str(value).is_ok())
        {
            set(name, value);
        }
    }
    for (key, name, value) in [
        ("frameDeny", "x-frame-options", "DENY"),
        ("contentTypeNosniff", "x-content-type-options", "nosniff"),
        ("browserXssFilter", "x-xss-protection", "1; mode=block"),
    ] {
        if fields.flag(key, report) == Some(true) {
            set(name, value);
        }
    }
    if let Some(sts) = strict_transport_security(fields, report) {
        set("strict-transport-security", &sts);
    }
    fields.usual("isDevelopment", false, "what is for development alone stands in a file of its own", report);
    if !headers.is_empty() {
        filters.push(Map::new().with("headers", headers));
    }
}

/// An empty value takes the field off. So does one that cannot be set towards upstreams: Traefik would have overwritten what clients send.
fn edit(name: &str, value: &Foreign, side: &str, headers: &mut Map, report: &mut Report) {
    let text = match &value.value {
        ForeignValue::Text(text) => text.clone(),
        ForeignValue::Flag(flag) => flag.to_string(),
        ForeignValue::Null => String::new(),
        _ => "\0".to_owned(),
    };
    let lower = name.to_ascii_lowercase();
    if FRAMING.contains(&lower.as_str()) {
        report.entry(name, value, "it says how a message is framed");
    } else if HeaderName::try_from(name).is_err() {
        report.add(value, name, "no name of a header");
    } else if HeaderValue::from_str(&text).is_err() && side == "request" {
        report.add(value, name, "no value of a header: the field is taken off what clients send");
        headers.map(side).list("remove").push(lower);
    } else if HeaderValue::from_str(&text).is_err() {
        report.add(value, name, "no value of a header");
    } else if text.is_empty() {
        headers.map(side).list("remove").push(lower);
    } else {
        headers.map(side).map("set").set(&lower, template(&text));
    }
}

fn strict_transport_security(fields: &mut Fields<'_>, report: &mut Report) -> Option<String> {
    let seconds = fields.number("stsSeconds", 0, i64::from(u32::MAX), report);
    let (subdomains, preload) =
        (fields.flag("stsIncludeSubdomains", report), fields.flag("stsPreload", report));
    fields.needless(
        &["forceSTSHeader"],
        "since the field is in all answers, and browsers read it over TLS alone",
        report,
    );
    let mut text = format!("max-age={}", seconds.filter(|seconds| *seconds > 0)?);
    if subdomains == Some(true) {
        text.push_str("; includeSubDomains");
    }
    if preload == Some(true) {
        text.push_str("; preload");
    }
    Some(text)
}

fn cors(fields: &mut Fields<'_>, at: &Foreign, report: &mut Report) -> Option<Map> {
    let mut texts = |key: &str, report: &mut Report| fields.texts(key, report);
    let origins = texts("accessControlAllowOriginList", report);
    let methods = texts("accessControlAllowMethods", report);
    let headers = texts("accessControlAllowHeaders", report);
    let exposed = texts("accessControlExposeHeaders", report);
    let expressions = fields.take("accessControlAllowOriginListRegex");
    let credentials = fields.flag("accessControlAllowCredentials", report) == Some(true);
    let seconds = fields.number("accessControlMaxAge", 0, 86_400 * 365, report);
    fields.needless(
        &["addVaryHeader"],
        "since `cors` says by itself that answers vary by the origin",
        report,
    );
    if let Some(expressions) = expressions {
        report.entry(
            "accessControlAllowOriginListRegex",
            expressions,
            "an origin is a scheme and a host, of which the first label may be `*`",
        );
    }
    if origins.is_empty() {
        return None;
    }
    if credentials && [&origins, &methods, &headers, &exposed].iter().any(|list| list.contains(&"*")) {
        report.add(
            at,
            "accessControlAllowCredentials",
            "with credentials every name must be written out: no page of another origin may ask",
        );
        return None;
    }
    let mut cors = Map::new();
    let is_origin = |name: &str| is_origin(name, credentials);
    let is_header = |name: &str| HeaderName::try_from(name).is_ok();
    let is_method = |name: &str| http::Method::try_from(name).is_ok();
    let mut all = |key: &str, names: Vec<&str>, fits: &dyn Fn(&str) -> bool| -> List {
        if names.contains(&"*") {
            return List::from_iter(["*"]);
        }
        let (kept, left): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| fits(name));
        for name in left {
            report.add(
                at,
                key,
                format!("{name:?} is none here, or with credentials one that anybody can have"),
            );
        }
        kept.into_iter().map(literal).collect()
    };
    for (key, names) in [
        ("origins", all("accessControlAllowOriginList", origins, &is_origin)),
        ("methods", all("accessControlAllowMethods", methods, &is_method)),
        ("headers", all("accessControlAllowHeaders", headers, &is_header)),
        ("expose", all("accessControlExposeHeaders", exposed, &is_header)),
    ] {
        if !names.is_empty() {
            cors.set(key, names);
        }
    }
    cors.find("origins")?;
    if credentials {
        cors.set("credentials", true);
    }
    if let Some(seconds) = seconds {
        cors.set("max_age", format!("{seconds}s"));
    }
    Some(cors)
}
