//! Connections that outlast the configuration they were made under.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use super::Server;
use crate::support::{Gateway, within_deadline};

/// Says what it hears, and counts who comes.
async fn counting() -> (Server, watch::Receiver<usize>) {
    let (counter, count) = watch::channel(0);
    let server = Server::start(move |mut stream| {
        counter.send_modify(|count| *count += 1);
        async move {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.map(drop)
        }
    })
    .await;
    (server, count)
}

fn yaml(server: &Server) -> String {
    format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', protocol: tcp, upstream: u}}]\n\
         upstreams: {{u: {{endpoints: ['{}'], health_check: {{tcp: {{}}, interval: 20ms, jitter: 0}}}}}}\n",
        server.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_outlasts_a_reload_keeps_no_health_check_going() {
    let ((before, probes_before), (after, mut probes_after)) = (counting().await, counting().await);
    let gateway = Gateway::start(&yaml(&before)).await;
    let mut held = TcpStream::connect(gateway.address("main")).await.unwrap();
    let mut echoed = [0; 5];
    held.write_all(b"hello").await.unwrap();
    within_deadline("an echo", held.read_exact(&mut echoed)).await.unwrap();
    gateway.reload(&yaml(&after)).await;
    // What a reload has replaced goes a little later.
    let left_alone = async {
        loop {
            let (known, reached) = (*probes_before.borrow(), *probes_after.borrow());
            probes_after.wait_for(|count| *count > reached + 10).await.unwrap();
            if *probes_before.borrow() == known {
                break;
            }
        }
    };
    within_deadline("an endpoint that nobody asks for any more", left_alone).await;
    held.write_all(b"still").await.unwrap();
    within_deadline("an echo", held.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"still");
}
