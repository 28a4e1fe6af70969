//! Single sign-on as docs/how-to/sso.md has it: its configuration for oauth2-proxy, a stand-in that speaks oauth2-proxy's protocol, and
//! what a browser does. oauth2-proxy itself is in no registry that tests can reach.

use std::{convert::Infallible, fs, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{blocks, root};
use crate::{
    filters::Echo,
    support::{Answer, Gateway, get, send},
};

const SESSION: &str = "_oauth2_proxy=alice";
const TICKET: &str = "_oauth2_proxy_csrf=ticket";

/// `--upstream=static://202 --reverse-proxy=true --set-xauthrequest=true --skip-provider-button=true`.
async fn oauth2_proxy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(async |request: Request<Incoming>| {
                Ok::<_, Infallible>(answer(request.uri().path(), request.headers()))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

fn answer(path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let field = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let has = |cookie: &str| field("cookie").split("; ").any(|one| one == cookie);
    let response = Response::builder();
    let response = match path {
        "/oauth2/callback" if has(TICKET) => response
            .status(302)
            .header("location", "/inbox?page=2")
            .header("set-cookie", format!("{SESSION}; Path=/; HttpOnly; Secure"))
            .header("set-cookie", "_oauth2_proxy_csrf=; Path=/; Max-Age=0"),
        "/oauth2/callback" => response.status(403),
        "/" if has(SESSION) => response
            .status(202)
            .header("x-auth-request-user", "alice")
            .header("x-auth-request-email", "alice@example.com")
            .header("x-auth-request-groups", "ops,dev"),
        // A script cannot log in.
        "/" if field("accept") == "application/json" => response.status(401),
        "/" => {
            let back = format!(
                "{}://{}{}",
                field("x-forwarded-proto"),
                field("x-forwarded-host"),
                field("x-forwarded-uri")
            );
            response
                .status(302)
                .header("location", format!("https://login.example.com/auth?state={back}"))
                .header("set-cookie", format!("{TICKET}; Path=/; HttpOnly; Secure"))
        }
        _ => response.status(404),
    };
    response.body(Full::default()).unwrap()
}

/// The page's configuration with an authentication service, at addresses that are free.
fn configuration(service: SocketAddr, app: SocketAddr) -> String {
    let page = fs::read_to_string(root().join("docs/how-to/sso.md")).unwrap();
    let block = blocks(&page).find(|block| block.contains("ext_auth")).unwrap();
    let mut yaml = format!("admin: false\n{block}");
    let (service, app) = (service.to_string(), app.to_string());
    for (documented, here) in [
        ("- address: 127.0.0.1:8000", "- {name: main, address: \"127.0.0.1:0\"}"),
        ("127.0.0.1:4180", service.as_str()),
        ("127.0.0.1:9001", app.as_str()),
    ] {
        assert!(yaml.contains(documented), "{documented} is not in {yaml}");
        yaml = yaml.replace(documented, here);
    }
    yaml
}

async fn ask(gateway: &Gateway, path: &str, more: &[(&str, &str)]) -> Answer {
    let headers = [&[("host", "app.example.com")], more].concat();
    send(gateway.address("main"), "GET", path, &headers, "").await
}

fn cookies(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_the_app_learns_who_it_is() {
    let (service, app) = (oauth2_proxy().await, Echo::start().await);
    let gateway = Gateway::start(&configuration(service, app.address)).await;

    let asked = ask(&gateway, "/inbox?page=2", &[("accept", "text/html")]).await;
    assert_eq!((asked.status.as_u16(), asked.header("x-tidegate-reason")), (302, Some("unauthenticated")));
    let login = "https://login.example.com/auth?state=http://app.example.com/inbox?page=2";
    assert_eq!(asked.header("location"), Some(login));
    assert!(cookies(&asked)[0].starts_with(TICKET), "{asked:?}");
    assert!(app.take().is_empty(), "nobody is logged in");

    // From the provider the browser comes back to the login's own pages, which nobody guards.
    let back = ask(&gateway, "/oauth2/callback?code=1&state=2", &[("cookie", TICKET)]).await;
    assert_eq!((back.status.as_u16(), back.header("location")), (302, Some("/inbox?page=2")));
    assert!(cookies(&back)[0].starts_with(SESSION) && cookies(&back).len() == 2, "{back:?}");
    assert_eq!(ask(&gateway, "/oauth2/callback?code=1", &[]).await.status, 403);

    let forged = [("x-auth-request-user", "root"), ("x_auth_request_email", "root@example.com")];
    let inside = ask(&gateway, "/inbox?page=2", &[&[("cookie", SESSION)], &forged[..]].concat()).await;
    assert_eq!(inside.status, 200);
    let (path, headers) = app.take().remove(0);
    assert_eq!(path, "/inbox?page=2");
    for (name, value) in [("user", "alice"), ("email", "alice@example.com"), ("groups", "ops,dev")] {
        let name = format!("x-auth-request-{name}");
        let found: Vec<_> = headers.get_all(&name).iter().collect();
        assert_eq!(found, [value], "{name}");
    }
    assert!(!headers.contains_key("x_auth_request_email"), "{headers:?}");

    let script =
        ask(&gateway, "/api", &[("accept", "application/json"), ("cookie", "_oauth2_proxy=mallory")]).await;
    assert_eq!((script.status.as_u16(), script.header("location")), (401, None));
    assert!(app.take().is_empty(), "a cookie of nobody's");
    assert_eq!(get(gateway.address("main"), "/").await.status, 404, "another host is no app");
}
