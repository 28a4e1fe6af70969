//! A switch of protocols that nobody asked for.

use crate::support::{Gateway, RawConnection, ScriptedUpstream, Step, send_h2c};

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw bytes";

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_unasked_is_no_tunnel_with_a_body_or_without() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(SWITCH), Step::Stall]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\n\
         upstreams: {{u: {{endpoints: ['{}']}}}}\n",
        upstream.address()
    ))
    .await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        // Asked, but with a body, which a switch has no place for.
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nhi",
        // Asked in a version that knows no switch (RFC 9110, section 7.8).
        "GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        // Asked for another protocol, which does not cross the gateway.
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        // Still sending its body when the switch comes.
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhi",
    ] {
        let mut connection = RawConnection::open(gateway.address("main"));
        connection.write(request);
        connection.read_response().assert_reason(502, "bad_upstream_response");
    }
    for body in ["", "hi"] {
        let answer = send_h2c(gateway.address("main"), "POST", "/", &[], body).await;
        answer.assert_reason(502, "bad_upstream_response");
    }
}
