//! The words, a table for each place: what others say there, and what is meant. In plain form, see [`super::plain`].

use super::keys::{
    Advice::{self, Is, OfUpstream, OfUpstreamOr, OptionOf, Say, Under, With, Write},
    Row,
};

const ENDPOINTS: Advice = Write("endpoints: [\"127.0.0.1:3000\"]");
const CERTIFICATES: Advice = Write("tls: {certificates: [{cert: FILE, key: FILE}]}");
const LISTENERS: Advice = Write("listeners: [{address: \":8000\"}]");
const ROUTES: Advice = Write("routes: [{match: {path: /}, upstream: NAME}]");
const UPSTREAMS: Advice = Write("upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}");
const ACCESS: Advice = Write("log: {access: {to: stdout}}` at the top level, or a file in the place of `stdout");
const COMPRESS: Advice = Write("filters: [{compression: {}}]");
const SET_HEADERS: Advice = Write("filters: [{headers: {request: {set: {x-name: value}}}}]` (or `response` for the way back)");
const BY_ACME: Advice = Write("listeners: [{address: \":443\", tls: {acme: {}}}]` and `acme: {default: {email: ops@example.com}}");
const BY_COOKIE: Advice = Write("affinity: {cookie: NAME}");

pub(super) const TOP: &[Row] = &[
    (&["apiversion", "kind", "spec", "metadata", "items"], Say("a manifest is converted: `tidegate convert gateway-api FILE` takes HTTPRoutes, `tidegate convert traefik FILE` IngressRoutes")),
    (&["http", "server", "servers", "virtualhost", "virtualhosts", "vhosts", "sites", "site", "apps", "events", "staticresources"], Write("listeners: [{address: \":8000\"}]`, `routes: [{match: {path: /}, upstream: NAME}]` and `upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}")),
    (&["entrypoint", "entrypoints", "frontend", "frontends", "listener", "listen", "bind", "port", "address", "gateways"], LISTENERS),
    (&["route", "router", "routers", "location", "locations", "rules", "ingress", "handle", "routeconfig", "routeconfiguration", "httproutes", "paths"], ROUTES),
    (&["upstream", "backend", "backends", "service", "services", "cluster", "clusters", "pool", "pools", "endpoints", "loadassignment"], UPSTREAMS),
    (&["middleware", "middlewares", "httpfilters", "filter"], Write("filters: {NAME: [{cors: {origins: [\"https://example.com\"]}}]}")),
    (&["accesslog", "accesslogs", "errorlog", "logging", "logs", "logger"], Write("log: {access: {to: stdout}}")),
    (&["api", "dashboard", "stats", "ping"], Write("admin: {address: \"127.0.0.1:9901\"}")),
    (&["certificatesresolvers", "letsencrypt", "email", "acmedns", "acmeca"], BY_ACME),
    (&["tls", "ssl", "certificates", "sslcertificate", "sslcertificatekey"], Write("listeners: [{address: \":8443\", tls: {certificates: [{cert: FILE, key: FILE}]}}]")),
    (&["workerprocesses", "workers", "nbthread", "concurrency", "worker"], Write("threads: 4")),
    (&["workerconnections", "maxconn", "maxconnections"], Write("listeners: [{address: \":8000\", limits: {connections: 10000}}]")),
    (&["clientmaxbodysize", "maxbodysize", "bodysize"], Write("listeners: [{address: \":8000\", limits: {body_size: 10MiB}}]")),
    (&["gzip", "compress", "encode", "compression"], Write("routes: [{filters: [{compression: {}}], ...}]")),
    (&["realipheader", "setrealipfrom", "forwardedheaders", "xfftrusted", "usetrustedproxies"], Write("trusted_proxies: [10.0.0.0/8]")),
    (&["providers", "provider", "file"], Write("include: [routes.d/*.yaml]` for more files and `watch: true` to follow them")),
    (&["timeout", "timeouts"], Write("routes: [{timeout: 5s, ...}]")),
    (&["global", "globals", "options", "settings", "config"], Write("listeners`, `routes` and `upstreams` directly at the top level")),
    (&["retry", "retries"], Write("routes: [{retry: 3, ...}]")),
    (&["cors", "jwt", "ratelimit", "basicauth", "apikey", "iprules", "headers", "rewrite", "extauth", "bodylimit", "limitreqzone", "authz"], Write("filters: {NAME: [{FILTER: ...}]}` and `filters: [NAME]` at routes or listeners")),
    (&["prometheus"], Write("admin: {address: \"127.0.0.1:9901\"}`, which serves `/metrics")),
    (&["opentelemetry", "otel", "otlp", "jaeger", "zipkin"], Write("tracing: {otlp: {endpoint: \"http://127.0.0.1:4317\"}}")),
    (&["user", "pid", "daemon", "chroot", "group"], Say("who runs the process is said where it is started, as in its systemd unit")),
    (&["healthcheck"], Write("upstreams: {NAME: {health_check: /health, ...}}")),
    (&["proxypass", "reverseproxy"], Write("routes: [{upstream: NAME}]` and `upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}")),
];

pub(super) const DEFAULTS: &[Row] = &[
    (&["timeout", "timeouts", "timeoutserver", "retry", "retries", "filters", "middlewares"], Write("route: {timeout: 5s, retry: 3}` for all routes")),
    (&["connecttimeout", "timeoutconnect", "balance", "balancer", "healthcheck", "pool", "tls", "protocol"], Write("upstream: {connect_timeout: 1s, health_check: /health}` for all upstreams")),
    (&["limits", "maxconn", "timeoutclient", "timeouthttprequest"], Write("listener: {limits: {connections: 10000}}` for all listeners")),
];

pub(super) const LISTENER: &[Row] = &[
    (&["listen", "bind", "addr", "socketaddress", "host", "ip"], Write("address: \"127.0.0.1:8000\"` (or `\":8000\"` for every address)")),
    (&["port", "ports", "portvalue"], Write("address: \":8000\"")),
    (&["servername", "servernames", "hosts", "hostname", "hostnames", "domains", "domain"], Write("match: {hosts: [example.com]}` at the routes")),
    (&["ssl", "sslcertificate", "sslcertificatekey", "cert", "key", "certificate", "certificates", "transportsocket", "https"], CERTIFICATES),
    (&["http2", "h2", "h2c", "alpn"], Write("protocol: http`, which takes HTTP/2 and HTTP/1.1 as the client asks")),
    (&["http3", "h3", "quic"], Say("leave it out: HTTP/1.1 and HTTP/2 are served, over TCP")),
    (&["middleware", "middlewares", "filterchains", "httpfilters", "filter"], Write("filters: [NAME]")),
    (&["location", "locations", "path", "match", "rule", "rules", "proxypass", "root", "handler", "handle", "defaultbackend", "usebackend", "backend", "service", "forward", "reverseproxy"], Write("routes: [{match: {path: /}, upstream: NAME}]` at the top level")),
    (&["endpoints", "upstreams"], Write("upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}` at the top level")),
    (&["clientmaxbodysize", "maxbodysize"], Write("limits: {body_size: 10MiB}")),
    (&["keepalivetimeout", "keepalive", "idle"], Write("limits: {idle_timeout: 60s}")),
    (&["clientheadertimeout", "readtimeout", "readheadertimeout", "requesttimeout"], Write("limits: {header_timeout: 10s}")),
    (&["clientbodytimeout"], Write("limits: {body_timeout: 60s}")),
    (&["maxconn", "maxconnections", "limitconn", "connectionlimit"], Write("limits: {connections: 10000, connections_per_ip: 100}")),
    (&["connections", "connectionsperip", "connectionrate", "headersize", "headertimeout", "bodysize", "bodytimeout", "writetimeout", "idletimeout", "handshaketimeout", "minrate", "requestsperconnection", "streamsperconnection", "filterbuffer"], Under("limits")),
    (&["minversion", "clientauth"], Under("tls")),
    (&["redirect", "redirections", "redirecttohttps", "forcehttps", "redirectscheme"], Write("filters: [{https_redirect: {}}]")),
    (&["timeout", "timeouts", "transport", "respondingtimeouts"], Write("limits: {header_timeout: 10s, idle_timeout: 60s}` here, `timeout: 5s` at routes")),
    (&["allow", "deny", "whitelist", "sourcerange"], OptionOf("ip_rules", "allow")),
    (&["accesslog", "log"], ACCESS),
    (&["acceptproxy", "proxyprotocolaccept", "sendproxy"], Write("proxy_protocol: accept")),
    (&["trustedproxies", "forwardedheaders", "trustedips"], Write("trusted_proxies: [10.0.0.0/8]` at the top level")),
    (&["gzip", "compress", "encode"], COMPRESS),
    (&["route"], Write("routes: [NAME]")),
    (&["type"], Write("protocol: http`, `tcp` or `tls_passthrough")),
];

pub(super) const LISTENER_TLS: &[Row] = &[
    (&["cert", "key", "certfile", "keyfile", "certificate", "sslcertificate", "sslcertificatekey", "tlscertificates", "commontlscontext", "certs", "crt", "files", "pem"], Write("certificates: [{cert: FILE, key: FILE}]")),
    (&["ca", "cafile", "clientca", "sslclientcertificate", "sslverifyclient", "verify", "trustedca", "cacert", "mtls", "requireclientcertificate", "validationcontext"], Write("client_auth: {mode: require, trust: {ca: FILE}}")),
    (&["protocols", "sslprotocols", "versions", "version", "tlsversion", "minprotocol"], Write("min_version: \"1.2\"")),
    (&["ciphers", "ciphersuites", "sslciphers", "cipherlist", "curves"], Write("min_version: \"1.3\"`: ciphers are not chosen one by one")),
    (&["enabled", "enable"], Write("tls: {certificates: [{cert: FILE, key: FILE}]}`, or leave `tls` out")),
    (&["auto", "autocert", "certresolver", "resolver", "email", "letsencrypt"], Write("acme: {names: [www.example.com]}` (or `acme: {}` for the hosts of the routes)")),
    (&["alpn", "alpnprotocols", "http2"], Write("certificates` alone: ALPN offers HTTP/2 and HTTP/1.1")),
    (&["identity", "spiffe"], Write("certificates: [identity]")),
];

pub(super) const CERTIFICATE: &[Row] = &[
    (&["certfile", "certificate", "crt", "pem", "fullchain", "chain", "certificatechain", "public", "sslcertificate", "file"], Is("cert")),
    (&["keyfile", "privatekey", "privkey", "private", "sslcertificatekey"], Is("key")),
    (&["hosts", "domains", "sni", "servername", "names"], Write("cert` and `key` alone: the names are read from the certificate")),
];

pub(super) const LIMITS: &[Row] = &[
    (&["maxconn", "maxconnections", "connection"], Is("connections")),
    (&["maxbodysize", "clientmaxbodysize", "body", "maxbody", "requestsize"], Write("body_size: 10MiB")),
    (&["maxheadersize", "headers", "header", "largeclientheaderbuffers", "maxheaderbytes"], Write("header_size: 64KiB")),
    (&["perip", "connectionsperclient", "limitconn", "maxconnectionsperip"], Is("connections_per_ip")),
    (&["keepalive", "keepalivetimeout", "idle"], Write("idle_timeout: 60s")),
    (&["keepaliverequests", "requests"], Is("requests_per_connection")),
    (&["maxconcurrentstreams", "streams"], Is("streams_per_connection")),
    (&["timeout", "readtimeout"], Write("header_timeout: 10s` and `body_timeout: 60s")),
    (&["rate", "requestspersecond", "rps", "ratelimit"], Write("filters: [{rate_limit: {rate: 100/s}}]` at the listener or route, or `connection_rate: 1000/s` here")),
];

pub(super) const ROUTE: &[Row] = &[
    (&["path", "hosts", "methods", "query"], Under("match")),
    (&["pathprefix", "prefix", "uri", "location", "paths", "urlpath", "url", "pattern"], Write("match: {path: /api}")),
    (&["exact", "regex", "template", "pathregexp"], Write("match: {path: {exact: /a}}` (or `prefix`, `regex`, `template`)")),
    (&["host", "hostname", "hostnames", "domain", "domains", "servername", "hostregexp", "virtualhost"], Write("match: {hosts: [example.com]}")),
    (&["method", "verb", "verbs", "httpmethod"], Write("match: {methods: [GET]}")),
    (&["when", "unless"], Write("match: {path: /api}` for the route; `when` stands beside a filter's name in `filters")),
    (&["acl", "matches", "matcher", "matchers", "condition", "conditions", "predicate", "predicates", "routematch"], Write("match: {hosts: [example.com], path: /api}")),
    (&["service", "backend", "proxypass", "reverseproxy", "cluster", "forward", "forwardto", "destination", "target", "to", "usebackend", "defaultbackend", "proxy", "backendrefs", "route", "handle", "dest", "grpcpass", "fastcgipass", "uwsgipass", "action"], Write("upstream: NAME` here, and `upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}` at the top level")),
    (&["services", "weightedclusters", "weighted", "weights", "backends", "upstreams", "trafficsplit", "weight"], Write("split: {to: [{upstream: A, weight: 90}, {upstream: B, weight: 10}]}")),
    (&["handlepath"], With("match: {path: %}` and `filters: [{rewrite: {strip_prefix: %}}]", "match: {path: /api}` and `filters: [{rewrite: {strip_prefix: /api}}]")),
    (&["cache", "caching", "proxycache", "httpcache"], Say("leave it out: responses are not cached")),
    (&["stripprefix", "strippath", "removeprefix"], OptionOf("rewrite", "strip_prefix")),
    (&["addprefix", "prependprefix"], OptionOf("rewrite", "add_prefix")),
    (&["replacepath", "pathrewrite", "rewritepath", "rewriteto", "urirewrite", "urlrewrite", "prefixrewrite", "rewritetarget"], OptionOf("rewrite", "path")),
    (&["hostrewrite", "hostheader", "passhostheader", "rewritehost"], OptionOf("rewrite", "host")),
    (&["regexrewrite"], Write("filters: [{rewrite: {regex: {pattern: \"^/a/(.*)\", replacement: \"/b/$1\"}}}]")),
    (&["middleware", "middlewares", "plugins", "plugin", "httpfilters", "filter", "handlers", "use", "policies"], Write("filters: [NAME]` or `filters: [{cors: {...}}]")),
    (&["order", "rank"], Say("leave it out: the more specific match wins, whatever the order")),
    (&["directresponse", "response", "staticresponse", "fixedresponse", "reply", "status", "body"], Write("respond: {status: 200, body: ok}")),
    (&["redirectto", "redirecturl", "redirects", "requestredirect"], Write("redirect: \"https://example.com{uri}\"")),
    (&["redirectscheme", "redirecttohttps", "forcehttps", "sslredirect", "httpsonly"], Write("filters: [{https_redirect: {}}]")),
    (&["timeouts", "requesttimeout", "responsetimeout"], Write("timeout: 5s")),
    (&["proxyreadtimeout", "readtimeout"], OfUpstreamOr("read_timeout", "timeout: 5s")),
    (&["proxysendtimeout", "sendtimeout", "writetimeout"], OfUpstream("write_timeout")),
    (&["retries", "numretries", "retryon", "retrypolicy", "proxynextupstream", "attempts"], Write("retry: 3` or `retry: {attempts: 3, on: [connect_error, 503]}")),
    (&["mirroring", "mirrors", "shadow", "requestmirrorpolicies", "requestmirror"], Write("mirror: {upstream: NAME, ratio: 10%}")),
    (&["entrypoint", "entrypoints", "listener", "listeners", "port", "gateways", "parentrefs"], Write("listeners: [{address: \":8000\", routes: [NAME]}]`: listeners name their routes")),
    (&["tls", "ssl", "certresolver"], Write("tls: {certificates: [{cert: FILE, key: FILE}]}` at the listener")),
    (&["addheader", "proxysetheader", "setheader", "setheaders", "header", "headerup", "headerdown", "requestheaderstoadd", "responseheaderstoadd", "customrequestheaders", "requestheaders", "responseheaders", "headersup"], SET_HEADERS),
    (&["allow", "deny", "ipwhitelist", "ipallowlist", "whitelist", "allowlist", "sourcerange"], Write("filters: [{ip_rules: {allow: [10.0.0.0/8]}}]")),
    (&["buffering", "clientmaxbodysize", "maxbodysize", "bodysize", "maxrequestbodybytes"], Write("filters: [{body_limit: 10MiB}]")),
    (&["limitconn", "inflightreq", "maxconcurrency"], Write("filters: [{concurrency_limit: {max: 10}}]")),
    (&["ratelimiting", "limitreq", "throttle", "limit", "ratelimits"], Write("filters: [{rate_limit: {rate: 100/s}}]")),
    (&["auth", "authentication", "basicauth", "authbasic"], Write("filters: [{basic_auth: {...}}]` (or `jwt`, `api_key`, `ext_auth`)")),
    (&["forwardauth", "authrequest", "extauthz"], Write("filters: [{ext_auth: {url: \"http://127.0.0.1:9000/check\"}}]")),
    (&["gzip", "compress", "encode"], COMPRESS),
    (&["id", "title", "routename"], Is("name")),
    (&["endpoints", "servers", "address", "endpoint", "nodes", "targets"], Write("upstream: NAME` here, and `upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}` at the top level")),
    (&["balancer", "loadbalancer", "lbpolicy"], OfUpstream("balancer")),
    (&["healthcheck"], OfUpstream("health_check")),
    (&["circuitbreaker"], OfUpstream("circuit_breaker")),
    (&["outlier"], OfUpstream("outlier")),
    (&["connecttimeout", "proxyconnecttimeout", "dialtimeout"], OfUpstream("connect_timeout")),
    (&["pool"], OfUpstream("pool")),
    (&["protocol"], OfUpstream("protocol")),
    (&["sticky", "sessionaffinity", "stickysession", "affinity"], Write("upstreams: {NAME: {affinity: {cookie: NAME}, ...}}")),
    (&["accesslog", "log"], ACCESS),
    (&["websocket", "websockets", "upgradeconfigs", "upgrade"], Write("upstream: NAME` alone: WebSockets pass as they are")),
    (&["root", "tryfiles", "fileserver", "static", "index", "alias"], Write("upstream: NAME`, where a web server serves the files: the gateway serves none")),
    (&["routes", "children", "locations", "subroutes"], Write("match` for each route: routes stand side by side at the top level")),
    (&["hedging"], Is("hedge")),
];

pub(super) const OF_MATCH: &[Row] = &[
    (&["host", "hostname", "hostnames", "domain", "domains", "servername", "authority"], Write("hosts: [example.com]")),
    (&["prefix", "pathprefix", "uri", "location", "paths", "url", "startswith", "pathseparatedprefix"], Is("path")),
    (&["pathtype"], Write("path: /api` for a prefix, or `path: {exact: /api}")),
    (&["exact", "regex", "template"], Under("path")),
    (&["regexp", "pathregexp", "saferegex", "pathregex"], Write("path: {regex: '^/a'}")),
    (&["method", "verb", "verbs"], Write("methods: [GET]")),
    (&["header", "headersregexp"], Write("headers: {x-name: value}")),
    (&["queryparams", "queryparameters", "args", "querystring", "queries", "params"], Write("query: {name: value}")),
    (&["cookie", "cookies"], Write("headers: {cookie: {regex: 'name=value'}}")),
    (&["clientip", "remoteip", "remoteaddr", "source", "src", "ip", "sourceip", "ips"], Write("filters: [{ip_rules: {allow: [10.0.0.0/8]}}]` beside `match")),
    (&["protocol", "scheme", "port"], Write("listeners: [{address: \":8000\", routes: [NAME]}]`: what a route serves is said by listeners")),
    (&["upstream", "filters", "timeout", "respond", "redirect", "retry", "split", "canary", "mirror", "hedge", "name"], Write("match: {...}` and this beside it, indented as far as `match` itself")),
    (&["not", "except"], Write("unless: {path: /a}` beside a filter, or a more specific route")),
];

pub(super) const PATH_MATCH: &[Row] = &[
    (&["startswith", "beginswith", "pathprefix"], Is("prefix")),
    (&["equals", "equal", "full", "path", "is"], Is("exact")),
    (&["saferegex", "regexp", "re", "matches", "pattern"], Is("regex")),
    (&["glob", "wildcard"], Write("template: \"/a/{name}\"` or `\"/a/{*rest}\"")),
    (&["value"], With("path: %`, or `path: {exact: %}", "path: /a`, or `path: {exact: /a}")),
    (&["type"], Write("path: /a`, or `path: {exact: /a}")),
];

pub(super) const RETRY: &[Row] = &[
    (&["max", "count", "numretries", "retries", "maxattempts", "tries", "maxretries", "limit"], Write("attempts: 3`, the first try included")),
    (&["retryon", "conditions", "statuses", "codes", "statuscodes", "retriablestatuscodes"], Write("on: [connect_error, 503]")),
    (&["pertrytimeout", "timeout", "trytimeout"], Is("per_try_timeout")),
    (&["delay", "wait", "interval", "initialinterval", "retrybackoff"], Write("backoff: {base: 25ms, max: 1s}")),
];

pub(super) const SPLIT: &[Row] = &[
    (&["variants", "weights", "clusters", "targets", "backends", "upstreams", "services"], Write("to: [{upstream: A, weight: 90}, {upstream: B, weight: 10}]")),
    (&["header", "cookie"], Under("by")),
    (&["sticky", "key", "stickyby"], Write("by: {cookie: NAME}")),
];

pub(super) const VARIANT: &[Row] = &[
    (&["service", "cluster", "backend", "to", "target"], Is("upstream")),
    (&["percent", "percentage", "share", "ratio"], Write("weight: 10")),
];

pub(super) const CANARY: &[Row] = &[
    (&["primary", "current", "old", "baseline", "from"], Is("stable")),
    (&["new", "next", "canary", "to", "upstream"], Is("candidate")),
    (&["weight", "percent", "initial", "initialweight"], Write("start: 10%")),
    (&["stepweight", "increment"], Is("step")),
    (&["interval", "period"], Is("every")),
    (&["maxweight", "limit"], Is("max")),
    (&["successrate", "p99", "minrequests", "confidence"], Under("require")),
    (&["analysis", "metrics", "thresholds"], Write("require: {success_rate: 99%, p99: 300ms}")),
];

pub(super) const MIRROR: &[Row] = &[
    (&["service", "cluster", "backend", "to"], Is("upstream")),
    (&["percent", "percentage", "runtimefraction", "share", "sample"], Write("ratio: 10%")),
];

pub(super) const UPSTREAM: &[Row] = &[
    (&["server", "servers", "address", "addresses", "url", "urls", "nodes", "targets", "target", "host", "hosts", "loadassignment", "lbendpoints", "endpoint", "to", "backends", "members", "port", "instances", "uri"], ENDPOINTS),
    (&["loadbalancer", "lbpolicy", "policy", "algorithm", "strategy", "balance", "loadbalancing", "lb", "method"], Write("balancer: least_requests` (or `round_robin`, `random`, `p2c_ewma`, `{hash: client_ip}`)")),
    (&["leastconn", "leastconnections", "leastrequest", "fair"], Write("balancer: least_requests")),
    (&["adaptiveconcurrency", "concurrencylimit", "concurrencylimits", "adaptive"], Is("concurrency")),
    (&["iphash", "sourcehash"], Write("balancer: {hash: client_ip}")),
    (&["hash", "ringhash", "maglev", "consistenthash"], Write("balancer: {hash: {header: NAME}}")),
    (&["roundrobin", "random"], Write("balancer: round_robin` or `balancer: random")),
    (&["sticky", "stickycookie", "sessionaffinity", "sessionpersistence", "cookie"], BY_COOKIE),
    (&["healthchecks", "healthuri", "activehealth", "httpchk", "option", "activehealthcheck", "healthinterval", "check"], Write("health_check: /health")),
    (&["interval", "unhealthyafter", "healthyafter"], Under("health_check")),
    (&["keepalive", "keepaliveconnections", "maxidleconns"], With("pool: {idle_connections: 512}`, with % in the place of 512", "pool: {idle_connections: 512}")),
    (&["maxconn", "maxconns", "maxconnections"], Write("pool: {max_connections: 1000}")),
    (&["maxrequests", "maxpending", "idleconnections", "pendingtimeout", "pinginterval", "streamsperconnection"], Under("pool")),
    (&["timeout", "timeouts", "proxyreadtimeout", "responseheadertimeout", "servertimeout"], Write("read_timeout: 60s`, or `timeout: 5s` at the route for the whole request")),
    (&["proxyconnecttimeout", "dialtimeout"], Is("connect_timeout")),
    (&["proxysendtimeout"], Is("write_timeout")),
    (&["maxfails", "consecutivefailures"], With("outlier: {consecutive_failures: 5, eject_for: 10s}`, with % in the place of 5", "outlier: {consecutive_failures: 5, eject_for: 10s}")),
    (&["failtimeout", "failduration", "ejectfor"], With("outlier: {consecutive_failures: 5, eject_for: 10s}`, with % in the place of 10s", "outlier: {consecutive_failures: 5, eject_for: 10s}")),
    (&["outlierdetection", "passivehealth"], Write("outlier: {consecutive_failures: 5, eject_for: 10s}")),
    (&["circuitbreakers", "breaker", "thresholds"], Write("circuit_breaker: {failure_ratio: 50%, open_for: 10s}` or `pool: {max_requests: 100}")),
    (&["ssl", "https", "scheme", "serverstransport", "transport", "transportsocket", "tlscontext", "proxyssl"], Write("tls: {}")),
    (&["insecureskipverify", "servername", "clientidentity"], Under("tls")),
    (&["tlsskipverify", "skipverify", "tlsinsecureskipverify"], Write("tls: {insecure_skip_verify: true}")),
    (&["verify", "sni", "proxysslname", "proxysslverify", "ca", "cafile", "rootcas"], Write("tls: {verify: {name: example.com, ca: FILE}}")),
    (&["passhostheader", "hostheader", "hostrewrite", "passhost", "proxysetheader", "headerup"], Write("filters: [{rewrite: {host: example.com}}]` at the route")),
    (&["zone", "resolver", "dns", "type", "servicediscovery", "discovery", "dnslookupfamily"], Write("endpoints: [\"name:8080\"]`: names are resolved, and followed")),
    (&["retries", "retry", "proxynextupstream"], Write("retry: 3` at the route")),
    (&["http2", "h2", "h2c", "version", "grpc", "http2protocoloptions"], Write("protocol: http2")),
    (&["weight", "weights"], Write("endpoints: [{address: \"127.0.0.1:3000\", weight: 2}]")),
    (&["failover", "fallback", "backup", "standby"], Write("then: NAME` of the upstream that stands in, or `priority: 1` at an endpoint")),
    (&["priority", "priorities", "locality", "topology"], Write("endpoints: [{address: \"127.0.0.1:3000\", priority: 1, zone: a}]")),
    (&["subset", "subsets", "tags"], Write("endpoints: [{address: \"127.0.0.1:3000\", tags: {version: v2}}]`, and `subset: {version: v2}` at the route")),
    (&["path", "filters", "match", "prefix"], Write("routes: [{match: {path: /a}, upstream: NAME}]`: what stands at routes is not said of upstreams")),
    (&["name"], Write("upstreams: {NAME: {endpoints: [\"127.0.0.1:3000\"]}}`: the name is the key")),
    (&["proxyprotocolversion", "sendproxy", "sendproxyv2"], Write("proxy_protocol: v2")),
];

pub(super) const ENDPOINT: &[Row] = &[
    (&["url", "uri", "host", "server", "target", "addr", "port", "ip", "hostname", "node", "dial"], Write("address: \"127.0.0.1:3000\"")),
    (&["tls", "ssl", "https", "scheme"], Write("tls: {}` beside `endpoints`, for all of them")),
    (&["maxfails"], With("outlier: {consecutive_failures: %}` beside `endpoints", "outlier: {consecutive_failures: 5}` beside `endpoints")),
    (&["failtimeout"], With("outlier: {eject_for: %}` beside `endpoints", "outlier: {eject_for: 10s}` beside `endpoints")),
    (&["maxconns", "maxconn"], Write("pool: {max_connections: 1000}` beside `endpoints")),
    (&["check", "healthcheck"], Write("health_check: /health` beside `endpoints")),
    (&["loadbalancingweight"], Is("weight")),
    (&["backup"], Write("priority: 1")),
    (&["locality", "region", "availabilityzone"], Is("zone")),
    (&["labels", "subset"], Write("tags: {version: v2}")),
    (&["down", "disabled", "drain"], Write("weight: 0` to drain it")),
    (&["name", "id"], Write("address` alone: endpoints are known by their address")),
];

pub(super) const BALANCER: &[Row] = &[
    (&["iphash", "source", "clientip", "sourceip"], Write("balancer: {hash: client_ip}")),
    (&["leastconn", "leastrequest", "leastconnections"], Write("balancer: least_requests")),
    (&["cookie", "sticky"], Write("balancer: {hash: {cookie: NAME}}")),
    (&["header", "ringhash", "maglev", "uri"], Write("balancer: {hash: {header: NAME}}")),
    (&["type", "policy", "algorithm", "name", "kind"], Write("balancer: least_requests")),
];

pub(super) const UPSTREAM_TLS: &[Row] = &[
    (&["ca", "cafile", "rootcas", "trustedca", "cacert", "trustedcertificate"], Write("verify: {ca: FILE}")),
    (&["name", "spiffe"], Under("verify")),
    (&["servername", "sni", "proxysslname"], Is("server_name")),
    (&["cert", "key", "clientcertificate", "clientcert", "certificates", "certfile", "keyfile"], Write("client_identity: true`, with `identity: {files: {cert: FILE, key: FILE, bundle: FILE}}` at the top level")),
    (&["skipverify", "insecure", "insecureskip", "noverify", "tlsinsecureskipverify"], Write("insecure_skip_verify: true")),
    (&["enabled", "enable"], Write("tls: {}`, or leave `tls` out")),
    (&["protocols", "versions", "version"], Write("min_version: \"1.2\"")),
];

pub(super) const POOL: &[Row] = &[
    (&["size", "max", "maxconns"], Is("max_connections")),
    (&["keepalive", "idle", "maxidle", "maxidleconns", "maxidleconnsperhost"], Is("idle_connections")),
    (&["maxpendingrequests", "queue", "pending"], Is("max_pending")),
    (&["maxconcurrentrequests", "requests"], Is("max_requests")),
    (&["idletimeout", "connecttimeout", "readtimeout"], Say("stands beside `pool`, not in it: it is said of the upstream")),
];

pub(super) const HEALTH_CHECK: &[Row] = &[
    (&["path", "expect", "host", "headers"], Under("http")),
    (&["uri", "url", "endpoint", "healthuri"], Write("http: {path: /health}")),
    (&["status", "statuses", "expectedstatuses", "expectstatus", "code", "expectedstatus"], Write("http: {path: /health, expect: 200-299}")),
    (&["httpget"], Write("http: {path: /health}")),
    (&["tcpsocket"], Write("tcp: {}")),
    (&["periodseconds"], With("interval: %s", "interval: 5s")),
    (&["timeoutseconds"], With("timeout: %s", "timeout: 1s")),
    (&["successthreshold"], Is("healthy_after")),
    (&["failurethreshold"], Is("unhealthy_after")),
    (&["fall", "unhealthythreshold", "fails", "retries", "maxfails"], Is("unhealthy_after")),
    (&["rise", "healthythreshold", "passes"], Is("healthy_after")),
    (&["service"], Under("grpc")),
    (&["every", "period", "inter"], Is("interval")),
    (&["type", "protocol", "scheme", "mode"], Write("http: {path: /health}`, `tcp: {}` or `grpc: {}")),
    (&["port"], Write("http: {path: /health}`: endpoints are probed where they serve")),
];

/// What an HTTP probe asks for.
pub(super) const PROBE: &[Row] = &[
    (&["status", "statuses", "statuscode", "code", "expectstatus", "expectedstatus", "expectedstatuses"], Is("expect")),
    (&["uri", "url", "endpoint"], Is("path")),
    (&["hostname", "hostheader"], Is("host")),
    (&["interval", "timeout", "period"], Say("stands beside `http`, not in it: it is said of any probe")),
];

pub(super) const BREAKER: &[Row] = &[
    (&["threshold", "errorrate", "failurerate", "failureratethreshold", "errorthreshold", "expression"], Write("failure_ratio: 50%")),
    (&["maxfailures", "errors", "failurethreshold"], Is("consecutive_failures")),
    (&["timeout", "sleep", "sleepwindow", "recovery", "recoverytimeout", "fallbackduration", "waitduration", "resettimeout"], Is("open_for")),
    (&["maxconnections", "maxrequests", "maxpendingrequests", "maxretries"], Write("pool: {max_requests: 100, max_connections: 100}` beside `circuit_breaker")),
    (&["halfopen", "halfopenmaxcalls", "probes"], Is("half_open_requests")),
];

pub(super) const LOG: &[Row] = &[
    (&["file", "path", "output", "filepath", "to", "accesslog"], Write("access: {to: FILE}")),
    (&["sample", "fields", "template", "when"], Under("access")),
    (&["verbosity", "loglevel"], Is("level")),
];

pub(super) const ACCESS_LOG: &[Row] = &[
    (&["path", "file", "filepath", "output", "destination"], Is("to")),
    (&["logformat", "textformat", "textformatsource"], Is("template")),
    (&["off", "enabled"], Write("to: off")),
    (&["filters", "filter", "condition", "if"], Write("when: {status: 5xx}")),
];

pub(super) const ADMIN: &[Row] = &[
    (&["port", "listen", "bind", "host", "accesslogpath"], Write("address: \"127.0.0.1:9901\"")),
    (&["password", "user", "username", "auth"], Write("token: ${file:/run/secrets/admin}")),
    (&["enabled", "enable"], Write("admin: false` to turn it off")),
];

pub(super) const ACME_ACCOUNT: &[Row] = &[
    (&["ca", "caserver", "server", "directory", "directoryurl", "provider"], Write("cas: [letsencrypt]` (or the URL of a directory)")),
    (&["challenge", "httpchallenge", "tlschallenge"], Write("challenges: [http-01]` (or `tls-alpn-01`)")),
    (&["dnschallenge", "dnsprovider"], Write("dns: {command: [/usr/local/bin/dns-hook]}")),
    (&["ondemandtls", "ask"], Write("on_demand: {ask: \"http://127.0.0.1:9000/allowed\"}")),
    (&["keytype"], Is("key")),
    (&["names", "domains", "hosts"], Write("tls: {acme: {names: [www.example.com]}}` at the listener")),
    (&["eab"], Write("cas: [{directory: zerossl, eab: {key_id: ..., hmac_key: ...}}]")),
    (&["redis", "etcd"], Under("storage")),
];

pub(super) const ACME_STORAGE: &[Row] = &[
    (&["url", "address", "host", "type", "server"], Write("redis: \"redis://127.0.0.1:6379\"` (or `etcd: {endpoints: [\"https://etcd:2379\"]}`)")),
    (&["key", "encryptionkey", "password"], Is("secret")),
    (&["path", "file", "directory"], Write("state_dir: /var/lib/tidegate` at the top level: certificates are kept there without `storage")),
];

pub(super) const LISTENER_ACME: &[Row] = &[
    (&["domains", "domain", "hosts", "name", "subjects", "sans"], Is("names")),
    (&["email", "ca", "cas", "staging", "challenges", "dns", "storage", "key"], Write("acme: {default: {...}}` at the top level: it is said of the account")),
];

pub(super) const AFFINITY_COOKIE: &[Row] = &[
    (&["ttl", "maxage", "expires", "lifetime", "timeout"], Write("max_age: 1h")),
    (&["httponly"], Say("leave it out: the cookie is always HttpOnly")),
    (&["domain"], Say("leave it out: the cookie is for the host that the client asked for")),
    (&["secret", "key", "password"], Write("keys: [\"${env:AFFINITY_KEY}\"]")),
];

pub(super) const STAND_IN: &[Row] = &[
    (&["to", "name", "target", "fallback", "backup"], Is("upstream")),
    (&["after", "delay", "threshold"], Say("leave it out: requests go over at once when no endpoint can be used; `health_check` says when that is")),
    (&["back", "failback", "wait"], Is("stay")),
    (&["slowstart", "ramp"], Is("recover")),
];

pub(super) const CONCURRENCY: &[Row] = &[
    (&["limit", "maxconcurrency", "maxrequests", "maxconcurrencylimit"], Is("max")),
    (&["start", "initiallimit"], Is("initial")),
    (&["mode", "type", "algorithm", "enabled"], Write("concurrency: adaptive")),
    (&["minrttcalcparams", "samplewindow", "interval"], Write("baseline_interval: 60s")),
    (&["priority", "priorities"], Write("priority: high` at a route")),
];

/// Names in the place of a filter's that no route has as keys.
pub(super) const AS_FILTER: &[Row] = &[
    (&["lua", "script", "js", "njs", "javascript", "serverless"], Write("filters: [{wasm: NAME}]`, and the plugin under the top-level `plugins")),
    (&["name", "type", "kind"], Write("filters: [{cors: {...}}]`: the name of a filter is its key")),
    (&["retry", "timeout", "hedge", "mirror", "errorpages", "split", "canary", "priority"], Say("stands beside `filters` at the route, and is no filter")),
    (&["errors", "errorpage", "customerrors"], Write("error_pages: {5xx: \"${file:50x.html}\"}` beside `filters")),
    (&["replacepathregex"], Write("filters: [{rewrite: {regex: {pattern: \"^/a/(.*)\", replacement: \"/b/$1\"}}}]")),
    (&["redirectregex"], Write("filters: [{redirect: {to: \"https://example.com{uri}\"}}]")),
    (&["digestauth"], Write("filters: [{basic_auth: {...}}]` (or `jwt`, `api_key`, `ext_auth`)")),
];

/// What belongs beside a filter's name and not among its options.
pub(super) const CONDITIONS: &[Row] = &[
    (&["when", "unless"], Write("when: {path: /a}` beside the filter's name, indented as far as the name itself")),
    (&["enabled", "enable", "disabled"], Say("leave the filter out to turn it off; `when` beside its name says for which requests it runs")),
];

/// The options of the filters whose names they have elsewhere.
pub(super) fn of_filter(name: &str) -> &'static [Row] {
    match name {
        "rate_limit" => &[
            (&["average", "rps", "requests", "requestspersecond", "limit", "period", "zone", "per", "window", "unit", "max", "count"], Write("rate: 100/s` (or `/m`, `/h`)")),
            (&["by", "source", "sourcecriterion", "identifier"], Write("key: client_ip` (or `{header: NAME}`, `user`)")),
            (&["nodelay", "delay"], Write("burst: 20")),
        ],
        "concurrency_limit" => &[
            (&["amount", "limit", "connections", "requests", "count", "rate"], Is("max")),
            (&["by", "source", "sourcecriterion", "identifier", "zone"], Write("key: client_ip` (or `{header: NAME}`, `user`)")),
        ],
        "cors" => &[
            (&["origin", "alloworigin", "alloworigins", "allowedorigins", "accesscontrolalloworigin", "accesscontrolalloworiginlist", "alloworiginstringmatch"], Write("origins: [\"https://app.example.com\"]")),
            (&["allowmethods", "allowedmethods", "accesscontrolallowmethods", "method"], Write("methods: [GET, POST]")),
            (&["allowheaders", "allowedheaders", "accesscontrolallowheaders"], Write("headers: [content-type]")),
            (&["allowcredentials", "accesscontrolallowcredentials"], Is("credentials")),
            (&["exposeheaders", "exposedheaders", "accesscontrolexposeheaders"], Is("expose")),
            (&["accesscontrolmaxage"], Write("max_age: 24h")),
        ],
        "jwt" => &[
            (&["jwks", "jwksuri", "jwksurl", "remotejwks", "secret", "publickey", "key", "signingkey"], Write("keys: {jwks: \"https://auth.example.com/jwks.json\"}` (or `secret`, `public_key`)")),
            (&["iss"], Is("issuer")),
            (&["providers"], Write("issuers: [{issuer: \"https://auth.example.com\", audience: [api.example.com]}]")),
            (&["discovery", "discoveryurl", "metadataurl", "openidconfiguration", "wellknown", "oidc"], Write("issuer: \"https://auth.example.com\"` without `keys`, which its own document then leads to")),
            (&["aud", "audiences"], Is("audience")),
            (&["alg", "algs", "algorithm"], Write("algorithms: [RS256]")),
            (&["claimstoheaders", "outputclaims", "claimheaders"], Write("forward_claims: {sub: x-user-id}")),
            (&["leeway", "skew"], Is("clock_skew")),
            (&["claims", "requiredclaims", "scopes", "scope"], Write("require: {scope: [read]}")),
        ],
        "introspection" => &[
            (&["endpoint", "introspectionendpoint", "introspectionurl", "server", "address"], Is("url")),
            (&["id", "clientid", "user", "username"], Is("client_id")),
            (&["secret", "clientsecret", "password"], Is("client_secret")),
            (&["aud", "audiences"], Is("audience")),
            (&["claimstoheaders", "claimheaders"], Write("forward_claims: {sub: x-user-id}")),
            (&["claims", "scopes", "scope"], Write("require: {scope: [read]}")),
            (&["cache", "cachettl", "expire"], Is("ttl")),
        ],
        "oidc" => &[
            (&["issuerurl", "oidcissuerurl", "provider", "discovery", "discoveryurl", "configurationendpoint"], Is("issuer")),
            (&["secret", "clientsecretfile"], Is("client_secret")),
            (&["redirecturl", "redirecturi", "callbackurl", "callbackpath", "callback"], Write("redirect_path: /oidc/callback")),
            (&["scope"], Is("scopes")),
            (&["cookiesecret", "sessionsecret", "cookie", "lifetime"], Write("session: {secret: ...}")),
            (&["logout", "logouturl", "signoutpath"], Is("logout_path")),
            (&["passaccesstoken", "forwardaccesstoken", "forwardbearertoken"], Is("forward_token")),
            (&["claimstoheaders", "headers"], Write("forward_claims: {sub: x-user-id}")),
        ],
        "headers" => &[
            (&["set", "add", "remove"], Write("request: {set: {x-name: value}}` (or `response` for the way back)")),
            (&["customrequestheaders", "requestheaders", "req"], Write("request: {set: {x-name: value}}")),
            (&["customresponseheaders", "responseheaders", "resp"], Write("response: {set: {x-name: value}}")),
        ],
        "request" | "response" => &[
            (&["delete", "unset", "hide"], Is("remove")),
            (&["append"], Is("add")),
            (&["replace", "override", "overwrite"], Is("set")),
        ],
        "rewrite" => &[
            (&["replacement", "pattern", "from"], Write("regex: {pattern: \"^/a/(.*)\", replacement: \"/b/$1\"}")),
            (&["to", "uri", "url", "replacepath", "target"], Is("path")),
            (&["prefix", "strip", "removeprefix"], Is("strip_prefix")),
            (&["hostname", "hostheader", "authority"], Is("host")),
        ],
        "redirect" => &[
            (&["url", "location", "target", "uri"], Is("to")),
            (&["code", "statuscode", "responsecode", "permanent"], Write("status: 301")),
            (&["prefix", "prefixrewrite", "pathredirect"], Write("replace_prefix: /new")),
            (&["scheme", "https", "httpsredirect"], Write("filters: [{https_redirect: {}}]")),
            (&["host", "hostredirect"], Write("to: \"https://example.com{uri}\"")),
        ],
        "respond" => &[
            (&["code", "statuscode"], Is("status")),
            (&["content", "text", "message"], Is("body")),
            (&["contenttype", "type"], Write("headers: {content-type: text/plain}")),
        ],
        "ip_rules" => &[
            (&["sourcerange", "whitelist", "allowlist", "ranges", "allowed"], Is("allow")),
            (&["blacklist", "blocklist", "denylist", "block", "denied"], Is("deny")),
        ],
        "compression" => &[
            (&["gzip", "encodings", "algorithm", "brotli", "zstd"], Write("algorithms: [br, gzip]")),
            (&["mimetypes", "contenttypes", "gziptypes", "includedcontenttypes"], Is("types")),
            (&["minlength", "gzipminlength", "minresponsebodybytes"], Write("min_size: 1KiB")),
        ],
        "ext_auth" => &[
            (&["address", "uri", "endpoint", "server"], Is("url")),
            (&["authresponseheaders", "upstreamheaders"], Is("response_headers")),
            (&["grpcservice", "grpcurl", "googlegrpc", "envoygrpc"], Write("grpc: \"http://127.0.0.1:9191\"")),
            (&["withrequestbody", "requestbody", "forwardbody", "body"], Write("with_body: {max_size: 8KiB}")),
            (&["decisioncache", "cachettl", "authcache"], Write("cache: {ttl: 10s}")),
            (&["failopen", "failuremodeallow"], Write("fail: open")),
        ],
        _ => &[],
    }
}
