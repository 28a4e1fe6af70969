//! `ext_auth`: a service of the operator's decides (forward auth). It is asked about each request without its body; what
//! goes to it, what comes back to the upstream and what to the client are lists of names, and nothing else passes.
//!
//! Only an answer of 2xx lets in. Where there is no answer, `fail` decides; where there are too many questions at once,
//! nobody is let in, or a flood would open a door that fails open.

use std::{path::PathBuf, sync::Arc, time::Duration, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, SET_COOKIE},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    config::{ByteSize, HumanDuration, Path},
    fetch::{self, Change},
    filter::{
        Called, Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response,
        builtin::headers::header_name,
        shared::{proven::ProvenHeader, spelling::take_off_response},
    },
    observe::{log::event, log_throttle::Sparse, metrics::Results},
    trace::{Records, SpanId},
};

/// Asks an HTTP service about each request, and lets in what it answers with 2xx.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtAuth {
    /// Where to ask: `http://` or `https://`, with path and query.
    url: String,
    /// How the service is asked.
    #[serde(default)]
    method: Asking,
    /// How long the answer may take.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// What of the client's request the service sees, besides `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and
    /// `-For`.
    #[serde(default = "request_headers")]
    request_headers: Vec<String>,
    /// What of an answer of 2xx the upstream sees. What a client sends there is taken off.
    #[serde(default)]
    response_headers: Vec<String>,
    /// What of a refusal the client sees, besides its status, `Content-Type` and body.
    #[serde(default = "client_headers")]
    client_headers: Vec<String>,
    /// What of an answer of 2xx the client sees with the response: `set-cookie` renews a session. It takes the place of the
    /// upstream's field of that name; cookies are added.
    #[serde(default)]
    client_headers_allowed: Vec<String>,
    /// What becomes of requests while the service cannot be asked.
    #[serde(default)]
    fail: Fail,
    /// A file of certificates in PEM, which is watched: who is trusted to be the service. Default: whom the system trusts.
    ca: Option<PathBuf>,
    /// The longest body of an answer; it goes to the client with a refusal.
    #[serde(default = "max_body")]
    max_body: ByteSize,
    /// So many questions at once, and 503 beyond.
    #[serde(default = "max_requests")]
    max_requests: usize,
}

/// With which method to ask.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
enum Asking {
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// The client's own.
    #[serde(rename = "original")]
    Original,
}

/// What to do with a request when the service does not answer, or with 5xx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fail {
    /// Answer 503.
    #[default]
    Closed,
    /// Let it in, without `response_headers`.
    Open,
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn request_headers() -> Vec<String> {
    ["authorization", "cookie"].map(str::to_owned).into()
}

fn client_headers() -> Vec<String> {
    ["www-authenticate", "location", "set-cookie"].map(str::to_owned).into()
}

fn max_body() -> ByteSize {
    ByteSize::from_bytes(64 * 1024)
}

fn max_requests() -> usize {
    256
}

/// What the service learns from us, and must not learn from the client.
const ASKED: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-for"),
];

impl Options for ExtAuth {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let url = url(&self.url).map_err(|why| invalid.push(Invalid::new(at.key("url"), why))).ok();
        if self.timeout.as_std().is_zero() {
            invalid.push(Invalid::new(at.key("timeout"), "a duration of 0 makes no sense here"));
        }
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.max_requests) {
            invalid.push(Invalid::new(at.key("max_requests"), "at least one question must be allowed"));
        }
        let request_headers = named(&self.request_headers, &at.key("request_headers"), &mut invalid, asked);
        let response_headers =
            named(&self.response_headers, &at.key("response_headers"), &mut invalid, ProvenHeader::parse);
        let client_headers =
            named(&self.client_headers, &at.key("client_headers"), &mut invalid, header_name);
        let at_allowed = at.key("client_headers_allowed");
        let client_headers_allowed =
            named(&self.client_headers_allowed, &at_allowed, &mut invalid, header_name);
        let client = self.client(live).map_err(|why| invalid.push(Invalid::new(at.key("ca"), why))).ok();
        match (url, client) {
            (Some(url), Some(client)) if invalid.is_empty() => Ok(Arc::new(Guard {
                url,
                asking: self.method,
                timeout: self.timeout.as_std(),
                request_headers,
                response_headers,
                client_headers,
                client_headers_allowed,
                fail: self.fail,
                client,
                max_body: usize::try_from(self.max_body.bytes()).unwrap_or(usize::MAX),
                room: Semaphore::new(self.max_requests),
                place: live.place().into(),
                results: live.keep("ext_auth", |_| live.metrics().access().ext_auth(live.place())),
                told: Sparse::default(),
            })),
            _ => Err(invalid),
        }
    }
}

impl ExtAuth {
    /// Shared with all that ask in the same way, and so kept over a reload.
    fn client(&self, live: &Live) -> Result<Arc<fetch::Trusting>, String> {
        let file = self.ca.as_ref().map(|path| live.full_path(path));
        let options = fetch::Options { connect_timeout: self.timeout.as_std(), ..fetch::Options::default() };
        live.client(file, options)
    }
}

fn url(text: &str) -> Result<Uri, &'static str> {
    const WRONG: &str = "not a URL to ask at (try \"http://127.0.0.1:9000/check\")";
    let url: Uri = text.parse().map_err(|_| WRONG)?;
    let authority = url.authority().filter(|authority| !authority.host().is_empty()).ok_or(WRONG)?;
    if authority.as_str().contains('@') {
        return Err(
            "a URL with a password is not taken (let the service trust the gateway by its network, or by TLS)",
        );
    }
    match url.scheme_str() {
        Some("http" | "https") => Ok(url),
        _ => Err(WRONG),
    }
}

fn named<T>(
    names: &[String],
    at: &Path,
    invalid: &mut Vec<Invalid>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match parse(name) {
            Ok(name) => parsed.push(name),
            Err(why) => invalid.push(Invalid::new(at.index(index), why)),
        }
    }
    parsed
}

fn asked(name: &str) -> Result<HeaderName, String> {
    let name = header_name(name)?;
    match name == HOST || ASKED.contains(&name) {
        true => Err(format!("`{name}` is the gateway's to say")),
        false => Ok(name),
    }
}

struct Guard {
    url: Uri,
    asking: Asking,
    timeout: Duration,
    request_headers: Vec<HeaderName>,
    response_headers: Vec<ProvenHeader>,
    client_headers: Vec<HeaderName>,
    client_headers_allowed: Vec<HeaderName>,
    fail: Fail,
    client: Arc<fetch::Trusting>,
    max_body: usize,
    room: Semaphore,
    place: Box<str>,
    results: Arc<Results<3>>,
    told: Sparse,
}

const ALLOWED: usize = 0;
const DENIED: usize = 1;
const FAILED: usize = 2;

/// Fields of an answer that let a request in, until its response is there.
#[derive(Default)]
struct ForClient(Vec<(HeaderName, HeaderValue)>);

/// What the service's answer means.
enum Verdict {
    LetIn(http::Response<Bytes>),
    Refused(Response),
    /// Why nothing can be told from it.
    Unclear(String),
}

impl Guard {
    fn question(&self, exchange: &Exchange<'_>) -> Result<Request<Bytes>, Reason> {
        let facts = &*exchange.facts;
        let method = match self.asking {
            Asking::Get => Method::GET,
            Asking::Original => exchange.request.method.clone(),
        };
        let mut question = Request::new(Bytes::new());
        *question.method_mut() = method;
        *question.uri_mut() = self.url.clone();
        let headers = question.headers_mut();
        for name in &self.request_headers {
            for value in exchange.request.headers.get_all(name) {
                headers.try_append(name, value.clone()).map_err(|_| Reason::HeaderTooLarge)?;
            }
        }
        let [method, proto, host, uri, client] = ASKED;
        let text = |text: &str| HeaderValue::from_str(text).map_err(|_| Reason::BadRequest);
        headers.insert(method, text(exchange.request.method.as_str())?);
        headers.insert(proto, HeaderValue::from_static(facts.scheme));
        if let Some(authority) = &facts.authority {
            headers.insert(host, authority.clone());
        }
        headers.insert(uri, text(&facts.target.to_string())?);
        headers.insert(client, text(&facts.client.to_canonical().to_string())?);
        Ok(question)
    }

    fn called(
        &self,
        span: SpanId,
        method: Method,
        started: Instant,
        answer: &Result<http::Response<Bytes>, fetch::Error>,
    ) -> Called {
        let authority = self.url.authority().map(ToString::to_string).unwrap_or_default();
        Called {
            span,
            filter: "ext_auth",
            method,
            url: format!("{}://{authority}{}", self.url.scheme_str().unwrap_or_default(), self.url.path()),
            authority,
            started,
            ended: Instant::now(),
            status: answer.as_ref().ok().map(|answer| answer.status().as_u16()),
            error: answer.as_ref().err().map(fetch::Error::code),
        }
    }

    fn judge(&self, answer: Result<http::Response<Bytes>, fetch::Error>, exchange: &Exchange<'_>) -> Verdict {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => return Verdict::Unclear(why.to_string()),
        };
        match answer.status() {
            status if status.is_success() => Verdict::LetIn(answer),
            StatusCode::FORBIDDEN => Verdict::Refused(self.pass_on(&answer, Reason::Forbidden)),
            // A redirect leads to where one logs in.
            StatusCode::UNAUTHORIZED
            | StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                Verdict::Refused(self.pass_on(&answer, Reason::Unauthenticated))
            }
            // It did not let the request in, and has nothing to say that a client should see.
            status if status.is_client_error() => {
                Verdict::Refused(Response::refusal(Reason::Forbidden, &exchange.request.headers))
            }
            status => Verdict::Unclear(format!("it answered {}", status.as_u16())),
        }
    }

    fn pass_on(&self, answer: &http::Response<Bytes>, reason: Reason) -> Response {
        let mut response = Response::new(answer.status());
        let names =
            self.client_headers.iter().chain(Some(&CONTENT_TYPE).filter(|_| !answer.body().is_empty()));
        for name in names {
            let values = answer.headers().get_all(name).iter();
            response.headers.extend(values.map(|value| (name.clone(), value.clone())));
        }
        response.body = answer.body().clone();
        response.reason = Some(reason);
        response
    }

    /// What the service says of the client, for the upstream.
    fn prove(
        &self,
        answer: Option<&http::Response<Bytes>>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), Reason> {
        for header in &self.response_headers {
            let values = answer.iter().flat_map(|answer| answer.headers().get_all(header.name()));
            let values: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
            let value = (!values.is_empty()).then(|| HeaderValue::from_bytes(&values.join(&b", "[..])).ok());
            header.prove(exchange, value.flatten())?;
        }
        Ok(())
    }

    /// What the service says to the client, for the response.
    fn keep_for_client(&self, answer: &http::Response<Bytes>, exchange: &mut Exchange<'_>) {
        let of = |name: &HeaderName| {
            let values = answer.headers().get_all(name).iter().cloned().collect::<Vec<_>>();
            values.into_iter().map(|value| (name.clone(), value)).collect::<Vec<_>>()
        };
        let fields: Vec<_> = self.client_headers_allowed.iter().flat_map(of).collect();
        if !fields.is_empty() {
            exchange.keep(self, ForClient(fields));
        }
    }

    fn follow_ca(&self) {
        match self.client.look(Instant::now()) {
            None => {}
            Some(Change::Taken) => event!(Info, "ext_auth trusts new authorities", filter = self.place),
            Some(Change::Refused(why)) => {
                event!(
                    Warn,
                    "ext_auth cannot read its authorities, those before stay",
                    filter = self.place,
                    problem = why
                )
            }
        }
    }

    fn fail(&self, why: &str) -> Result<Flow, Reason> {
        self.results.count(FAILED);
        if let Some(passed_over) = self.told.say(Instant::now()) {
            event!(
                Warn,
                "ext_auth cannot ask its service",
                filter = self.place,
                problem = why,
                lets_in = self.fail == Fail::Open,
                others = passed_over,
            );
        }
        match self.fail {
            Fail::Closed => Err(Reason::AuthUnavailable),
            Fail::Open => Ok(Flow::Continue),
        }
    }
}

#[async_trait]
impl Filter for Guard {
    fn phases(&self) -> Phases {
        let forward = if self.response_headers.is_empty() { Phases::empty() } else { Phases::FORWARD };
        let response =
            if self.client_headers_allowed.is_empty() { Phases::empty() } else { Phases::RESPONSE };
        Phases::REQUEST_ASYNC | forward | response
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        // Whatever comes of it, what the client says of itself does not pass.
        self.prove(None, exchange)?;
        let Ok(_room) = self.room.try_acquire() else { return Err(Reason::Overloaded) };
        let mut question = self.question(exchange)?;
        let span = SpanId::from_random(fastrand::u64(..));
        if let Some(trace) = &exchange.facts.trace {
            trace.write(question.headers_mut(), span).map_err(|_| Reason::HeaderTooLarge)?;
        }
        self.follow_ca();
        let (method, started) = (question.method().clone(), Instant::now());
        let answer = self.client.client().send(question, self.timeout, self.max_body).await;
        if exchange.facts.trace.is_some_and(|trace| trace.records != Records::No) {
            let called = self.called(span, method, started, &answer);
            exchange.facts.called.push(called);
        }
        match self.judge(answer, exchange) {
            Verdict::LetIn(answer) => {
                self.results.count(ALLOWED);
                self.prove(Some(&answer), exchange)?;
                self.keep_for_client(&answer, exchange);
                Ok(Flow::Continue)
            }
            Verdict::Refused(response) => {
                self.results.count(DENIED);
                exchange.facts.explain("ext_auth");
                Ok(Flow::Reply(response))
            }
            Verdict::Unclear(why) => {
                let failed = self.fail(&why);
                if failed.is_err() {
                    exchange.facts.explain(why);
                }
                failed
            }
        }
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(ForClient(fields)) = exchange.state::<ForClient>(self).map(std::mem::take) else {
            return Ok(());
        };
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        for (name, _) in fields.iter().filter(|(name, _)| name != SET_COOKIE) {
            take_off_response(response, name);
        }
        for (name, value) in fields {
            response.append_header(name, value).map_err(|_| Reason::Internal)?;
        }
        Ok(())
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.response_headers.iter().try_for_each(|header| header.forward(exchange))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use pingora_http::RequestHeader;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::filter::{Chain, Decided, Facts};

    fn build(yaml: &str) -> Result<Chain, Vec<Invalid>> {
        let options: ExtAuth = serde_yaml::from_str(yaml).unwrap();
        let mut chain = Chain::default();
        chain.push("ext_auth", options.build(&Path::root(), &Live::offline())?);
        Ok(chain)
    }

    #[test]
    fn connections_outlive_a_reload_that_leaves_how_they_are_made() {
        let live = Live::offline();
        let client = |options: &str| {
            let options = format!("{{url: 'http://127.0.0.1:9/check', {options}}}");
            serde_yaml::from_str::<ExtAuth>(&options).unwrap().client(&live).unwrap()
        };
        let first = client("timeout: 1s");
        assert!(Arc::ptr_eq(&first, &client("timeout: 1s, max_requests: 5")));
        assert!(!Arc::ptr_eq(&first, &client("timeout: 2s")));
    }

    /// A service that answers everything with this, and what it was asked.
    async fn service(answer: &'static str) -> (std::net::SocketAddr, Arc<Mutex<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<String>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = Vec::new();
                while !question.ends_with(b"\r\n\r\n") && stream.read_buf(&mut question).await.unwrap() > 0 {}
                *seen.lock().unwrap() = String::from_utf8(question).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, asked)
    }

    fn request() -> (RequestHeader, Facts) {
        let mut request = RequestHeader::build("POST", b"/v1/pay?a=1", None).unwrap();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("cookie", "a=1"),
            ("x-other", "secret"),
            ("x-user", "forged"),
            ("x-forwarded-for", "6.6.6.6"),
            ("connection", "upgrade"),
            ("upgrade", "x"),
            ("content-length", "7"),
        ] {
            request.append_header(name, value).unwrap();
        }
        let facts = Facts {
            client: "192.0.2.7".parse().unwrap(),
            scheme: "https",
            authority: Some(HeaderValue::from_static("api.example.com")),
            target: "/v1/pay?a=1".parse().unwrap(),
            ..Facts::default()
        };
        (request, facts)
    }

    async fn ask(chain: &Chain, request: &mut RequestHeader, facts: &mut Facts) -> Result<Flow, Reason> {
        let mut exchange = Exchange { request, response: None, facts };
        chain.on_request(Decided::default(), &mut exchange).await
    }

    #[tokio::test]
    async fn the_service_learns_what_is_listed_and_who_asks_for_what() {
        let (address, asked) = service("HTTP/1.1 204 No Content\r\nx-user: alice\r\n\r\n").await;
        let chain =
            build(&format!("{{url: 'http://{address}/check?b=2', response_headers: [x-user, x-team]}}"))
                .unwrap();
        let (mut request, mut facts) = request();
        request.append_header("x-team", "forged").unwrap();
        assert!(matches!(ask(&chain, &mut request, &mut facts).await, Ok(Flow::Continue)));
        let asked = asked.lock().unwrap().clone();
        let mut lines: Vec<&str> = asked.trim_end().lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "GET /check?b=2 HTTP/1.1",
                "authorization: Bearer t",
                "cookie: a=1",
                &format!("host: {address}"),
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: api.example.com",
                "x-forwarded-method: POST",
                "x-forwarded-proto: https",
                "x-forwarded-uri: /v1/pay?a=1",
            ]
        );
        assert_eq!(
            (&request.headers["x-user"], request.headers.get("x-team")),
            (&HeaderValue::from_static("alice"), None)
        );
    }

    #[tokio::test]
    async fn a_refusal_goes_to_the_client_with_what_is_listed() {
        for (answer, status, reason, headers, body) in [
            (
                "HTTP/1.1 401 U\r\nwww-authenticate: Custom\r\nx-internal: a\r\ncontent-length: 2\r\ncontent-type: a/b\r\n\r\nno",
                401,
                Reason::Unauthenticated,
                vec!["www-authenticate: Custom", "content-type: a/b"],
                "no",
            ),
            (
                "HTTP/1.1 302 F\r\nlocation: https://login.example\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
                302,
                Reason::Unauthenticated,
                vec!["location: https://login.example", "set-cookie: a=1", "set-cookie: b=2"],
                "",
            ),
            ("HTTP/1.1 403 F\r\ncontent-length: 0\r\n\r\n", 403, Reason::Forbidden, vec![], ""),
            (
                "HTTP/1.1 404 N\r\ncontent-length: 6\r\n\r\nsecret",
                403,
                Reason::Forbidden,
                vec!["content-type: text/plain; charset=utf-8"],
                "this request is not allowed here\n",
            ),
        ] {
            let (address, _) = service(answer).await;
            let chain = build(&format!("{{url: 'http://{address}/', fail: open}}")).unwrap();
            let (mut request, mut facts) = request();
            let Ok(Flow::Reply(response)) = ask(&chain, &mut request, &mut facts).await else {
                panic!("{answer}")
            };
            assert_eq!((response.status.as_u16(), response.reason), (status, Some(reason)));
            let told =
                response.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            assert_eq!(told.collect::<Vec<_>>(), headers);
            assert_eq!(response.body, body);
        }
    }

    #[tokio::test]
    async fn without_an_answer_it_fails_as_told_and_forged_headers_are_gone_all_the_same() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = silent.local_addr().unwrap();
        let (broken, _) = service("HTTP/1.1 500 I\r\ncontent-length: 0\r\n\r\n").await;
        let (large, _) = service("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789").await;
        let (odd, _) = service("HTTP/1.1 304 N\r\n\r\n").await;
        for address in [silent, broken, large, odd] {
            let options =
                format!("url: 'http://{address}/', timeout: 100ms, max_body: 8B, response_headers: [x-user]");
            let (mut request, mut facts) = request();
            let closed = build(&format!("{{{options}}}")).unwrap();
            assert_eq!(ask(&closed, &mut request, &mut facts).await.unwrap_err(), Reason::AuthUnavailable);
            let open = build(&format!("{{{options}, fail: open}}")).unwrap();
            assert!(matches!(ask(&open, &mut request, &mut facts).await, Ok(Flow::Continue)));
            assert!(!request.headers.contains_key("x-user"));
        }
    }

    #[tokio::test]
    async fn a_flood_does_not_open_a_door_that_fails_open() {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", hanging.local_addr().unwrap());
        let chain = build(&format!("{{url: '{url}', fail: open, max_requests: 1, timeout: 60s}}")).unwrap();
        let (mut first, mut facts) = request();
        let waiting = ask(&chain, &mut first, &mut facts);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        let (mut second, mut facts) = request();
        assert_eq!(ask(&chain, &mut second, &mut facts).await.unwrap_err(), Reason::Overloaded);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for (yaml, path, message) in [
            ("{url: '/check'}", "url", "not a URL"),
            ("{url: 'ftp://auth/check'}", "url", "not a URL"),
            ("{url: 'http://u:hunter2@auth/'}", "url", "with a password"),
            ("{url: 'http://auth/', timeout: 0s}", "timeout", "makes no sense"),
            ("{url: 'http://auth/', max_requests: 0}", "max_requests", "at least one"),
            ("{url: 'http://auth/', request_headers: [host]}", "request_headers[0]", "the gateway's to say"),
            (
                "{url: 'http://auth/', request_headers: [X-Forwarded-For]}",
                "request_headers[0]",
                "the gateway's to say",
            ),
            (
                "{url: 'http://auth/', request_headers: [connection]}",
                "request_headers[0]",
                "belongs to the connection",
            ),
            (
                "{url: 'http://auth/', response_headers: [content-length]}",
                "response_headers[0]",
                "belongs to the connection",
            ),
            (
                "{url: 'http://auth/', client_headers: [transfer-encoding]}",
                "client_headers[0]",
                "belongs to the connection",
            ),
            ("{url: 'https://auth/', ca: /nonexistent.pem}", "ca", "cannot be read"),
        ] {
            let invalid = build(yaml).unwrap_err();
            let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
            assert_eq!(only.path.to_string(), path, "{yaml}");
            assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{only:?}");
        }
    }
}
