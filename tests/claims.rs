//! What the upstream believes of a request is said by the gateway or by those it trusts, never by a stranger, however it is
//! spelled; and what the gateway says to a client is not said by an upstream.

use std::net::SocketAddr;

use http::HeaderMap;

use crate::filters::Echo;
use crate::support::{
    Answer, Gateway, RawConnection, ScriptedUpstream, Step, get, get_h2c,
    issuer::{Issuer, Signer, set},
    send, send_h2c,
};

async fn gateway(upstream: SocketAddr, route: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: app{route}}}]\n\
         upstreams: {{app: {{endpoints: ['{upstream}']}}}}\n{more}"
    ))
    .await
}

/// What the upstream saw, over either version.
async fn seen(gateway: &Gateway, upstream: &Echo, headers: &[(&str, &str)]) -> [HeaderMap; 2] {
    let address = gateway.address("main");
    send(address, "GET", "/", headers, "").await.assert_status(200);
    send_h2c(address, "GET", "/", headers, "").await.assert_status(200);
    let seen: Vec<_> = upstream.take().into_iter().map(|(_, headers)| headers).collect();
    seen.try_into().unwrap()
}

/// All values of the fields that a CGI program would find under this name.
fn as_cgi(headers: &HeaderMap, name: &str) -> Vec<String> {
    let variable = |name: &str| name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let same = headers.iter().filter(|(other, _)| variable(other.as_str()) == variable(name));
    same.map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
}

/// By proxies, about a client.
const CLAIMS: [&str; 14] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "True-Client-IP",
    "X-Tidegate-Attempts",
    "Forwarded",
];

fn spelled(name: &str) -> [String; 4] {
    let one = name.replacen('-', "_", 1);
    let last = name.rsplit_once('-').map_or(name.to_owned(), |(front, rest)| format!("{front}_{rest}"));
    [name.to_owned(), name.replace('-', "_"), one, last]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_s_claims_reach_no_upstream_in_any_spelling() {
    let upstream = Echo::start().await;
    let forged: Vec<String> = CLAIMS.iter().flat_map(|name| spelled(name)).collect();
    let forged: Vec<(&str, &str)> = forged.iter().map(|name| (name.as_str(), "6.6.6.6")).collect();
    for more in ["", "forwarded: {x_forwarded: false}", "forwarded: {forwarded: true, client_cert: append}"] {
        let gateway = gateway(upstream.address, "", more).await;
        for headers in seen(&gateway, &upstream, &forged).await {
            assert!(!headers.values().any(|value| value == "6.6.6.6"), "{more}: {headers:?}");
            let written = if more.contains("false") { vec![] } else { vec!["127.0.0.1".to_owned()] };
            assert_eq!(as_cgi(&headers, "x-real-ip"), written, "{more}");
            assert_eq!(as_cgi(&headers, "x-forwarded-for"), written, "{more}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_in_the_one_spelling_that_it_writes() {
    let upstream = Echo::start().await;
    let gateway = gateway(upstream.address, "", "trusted_proxies: [127.0.0.0/8]").await;
    let said = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-port", "8443"),
        ("x-forwarded-prefix", "/shop"),
        ("x-real-ip", "198.51.100.1"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded_port", "6666"),
        ("x_real_ip", "6.6.6.6"),
    ];
    for headers in seen(&gateway, &upstream, &said).await {
        assert_eq!(as_cgi(&headers, "x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
        assert_eq!(as_cgi(&headers, "x-forwarded-port"), ["8443"]);
        assert_eq!(as_cgi(&headers, "x-forwarded-prefix"), ["/shop"]);
        // The client that limits and logs go by.
        assert_eq!(as_cgi(&headers, "x-real-ip"), ["203.0.113.7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x_real_ip_is_not_written_where_the_operator_says_so() {
    let upstream = Echo::start().await;
    let gateway = gateway(upstream.address, "", "forwarded: {x_real_ip: false}").await;
    for headers in seen(&gateway, &upstream, &[("x-real-ip", "6.6.6.6")]).await {
        assert!(
            !headers.contains_key("x-real-ip") && headers["x-forwarded-for"] == "127.0.0.1",
            "{headers:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_gone_before_a_route_or_a_filter_could_go_by_it() {
    let upstream = Echo::start().await;
    let routes = "{match: {headers: {x-forwarded-proto: https}}, respond: {status: 204}}, {upstream: app}";
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{routes}]\n\
         upstreams: {{app: {{endpoints: ['{}']}}}}\n",
        upstream.address
    ))
    .await;
    for headers in seen(&gateway, &upstream, &[("x-forwarded-proto", "https")]).await {
        assert_eq!(as_cgi(&headers, "x-forwarded-proto"), ["http"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_frames_a_message_is_not_said_in_disguise() {
    let upstream = Echo::start().await;
    let gateway = gateway(upstream.address, "", "").await;
    let said = [("transfer_encoding", "chunked"), ("content_length", "5"), ("x_tenant", "kept")];
    for headers in seen(&gateway, &upstream, &said).await {
        assert!(!headers.contains_key("transfer_encoding") && !headers.contains_key("content_length"));
        assert_eq!(headers["x_tenant"], "kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_writes_or_takes_off_stands_alone() {
    let upstream = Echo::start().await;
    let filters = ", filters: [request_id: {}, headers: {request: {set: {x-tenant: ours, x_role: ours}, remove: [x-internal]}}]";
    let gateway = gateway(upstream.address, filters, "").await;
    let said = [
        ("X-Tenant", "forged"),
        ("X_Tenant", "forged"),
        ("x-role", "forged"),
        ("x_internal", "forged"),
        ("x-internal", "forged"),
        ("X_Request_Id", "forged"),
        ("X-Request_Id", "forged"),
        ("connection", "x-request-id"),
    ];
    let address = gateway.address("main");
    send(address, "GET", "/", &said, "").await.assert_status(200);
    send_h2c(address, "GET", "/", &said[..7], "").await.assert_status(200);
    for (_, headers) in upstream.take() {
        assert_eq!(
            (as_cgi(&headers, "x-tenant"), as_cgi(&headers, "x-role")),
            (vec!["ours".into()], vec!["ours".into()])
        );
        assert!(as_cgi(&headers, "x-internal").is_empty(), "{headers:?}");
        let [id] = as_cgi(&headers, "x-request-id").try_into().unwrap();
        assert!(id != "forged" && id.len() == 36, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_a_client_is_nobody_says_but_who_has_verified_it() {
    // `printf %s secret | sha256sum`
    const KEY: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let upstream = Echo::start().await;
    let filters =
        format!(", filters: [api_key: {{keys: [{{name: alice, hash: '{KEY}'}}], forward_name: x-consumer}}]");
    let gateway = gateway(upstream.address, &filters, "").await;
    let said =
        [("x-api-key", "secret"), ("x_api_key", "other"), ("x_consumer", "root"), ("X-Consumer", "root")];
    for headers in seen(&gateway, &upstream, &said).await {
        assert_eq!(as_cgi(&headers, "x-consumer"), ["alice"]);
        assert!(as_cgi(&headers, "x-api-key").is_empty(), "{headers:?}");
    }
    let filters = filters.replace("forward_name: x-consumer", "forward_key: true");
    let gateway = self::gateway(upstream.address, &filters, "").await;
    for headers in seen(&gateway, &upstream, &said).await {
        assert_eq!(as_cgi(&headers, "x-api-key"), ["secret"]);
    }
    let auth = ScriptedUpstream::start(vec![
        Step::ReadHead,
        Step::write("HTTP/1.1 200 OK\r\nx-user: alice\r\ncontent-length: 0\r\n\r\n"),
        Step::Again,
    ])
    .await;
    let filters = format!(
        ", filters: [ext_auth: {{url: 'http://{}/', response_headers: [x-user, x-none]}}]",
        auth.address()
    );
    let gateway = self::gateway(upstream.address, &filters, "").await;
    let said = [("x_user", "root"), ("x-user", "root"), ("x_none", "root"), ("X-None", "root")];
    for headers in seen(&gateway, &upstream, &said).await {
        assert_eq!((as_cgi(&headers, "x-user"), as_cgi(&headers, "x-none").len()), (vec!["alice".into()], 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_refused_and_the_client_s_own_word_does_not_stay() {
    let (upstream, signer) = (Echo::start().await, Signer::new("k"));
    let issuer = Issuer::start(200, set(&[&signer]));
    let set_it = |direction: &str, how: &str| {
        format!(
            ", filters: [jwt: {{keys: {{jwks: '{}'}}}}, headers: {{{direction}: {{{how}: {{x-tenant: '{{claim.sub}}'}}}}}}]",
            issuer.url()
        )
    };
    for (direction, how) in [("request", "set"), ("request", "add"), ("response", "set")] {
        let gateway = gateway(upstream.address, &set_it(direction, how), "").await;
        let ask = async |tenant: &str, over_http2: bool| -> Answer {
            let bearer = format!("Bearer {}", signer.token(tenant));
            let headers =
                [("authorization", bearer.as_str()), ("x-tenant", "victim"), ("x_tenant", "victim")];
            match over_http2 {
                true => send_h2c(gateway.address("main"), "GET", "/", &headers, "").await,
                false => send(gateway.address("main"), "GET", "/", &headers, "").await,
            }
        };
        for broken in ["a\r\nx-admin: 1", "a\n", "\0"] {
            for over_http2 in [false, true] {
                ask(broken, over_http2).await.assert_reason(400, "unwritable_field");
            }
        }
        if direction == "request" {
            assert!(upstream.take().is_empty());
        }
        upstream.take();
        ask("blue", false).await.assert_status(200);
        let (_, headers) = upstream.take().remove(0);
        match (direction, how) {
            ("request", "set") => assert_eq!(as_cgi(&headers, "x-tenant"), ["blue"]),
            ("request", _) => assert!(as_cgi(&headers, "x-tenant").contains(&"blue".to_owned())),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_does_not_speak_for_the_gateway() {
    let answer = "HTTP/1.1 103 Early Hints\r\nx-tidegate-reason: panic\r\nlink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\nX-Tidegate-Reason: overloaded\r\nx-tidegate-other: 1\r\nx-own: 1\r\n\
                  transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-tidegate-reason: panic\r\n\r\n";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    for answer in [get(gateway.address("main"), "/").await, get_h2c(gateway.address("main"), "/").await] {
        answer.assert_status(200).assert_no_reason();
        assert_eq!((answer.header("x-tidegate-other"), answer.header("x-own")), (None, Some("1")));
        assert!(answer.trailers.is_none_or(|trailers| !trailers.contains_key("x-tidegate-reason")));
    }
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\r\n");
    let all = String::from_utf8(connection.read_to_end()).unwrap();
    assert!(all.contains("103 Early Hints") && !all.to_ascii_lowercase().contains("tidegate"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_make_no_claims_either() {
    let body = "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n";
    let script = vec![Step::ReadHead, Step::ReadBody(body.len()), Step::respond("ok")];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-real-ip: 6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\nx-sum: 1\r\n\r\n",
    );
    assert_eq!(connection.read_response().text(), "ok");
    let received = String::from_utf8(upstream.received(0)).unwrap();
    assert!(received.ends_with(body) && !received.contains("6.6.6.6"), "{received}");
}
