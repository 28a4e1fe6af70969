//! What a listener allows: so many connections, so many a second, and no silence without an end.

use super::*;

async fn refused(gateway: &Gateway, limit: &str) -> Option<f64> {
    let labels = format!("{{listener=\"db\",reason=\"{limit}\"}}");
    series(gateway, &format!("tidegate_connections_refused_total{labels}"), &[]).await
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let server = Server::echo().await;
    for (limits, limit, fit) in [
        ("connections: 1", "connections", 1),
        ("connections_per_ip: 2", "connections_per_ip", 2),
        ("connection_rate: 3/h", "connection_rate", 3),
        ("connection_rate_per_ip: 2/h", "connection_rate_per_ip", 2),
    ] {
        let gateway = Gateway::start(&yaml(&[server.address], &format!(", limits: {{{limits}}}"), "")).await;
        let mut open = Vec::new();
        for _ in 0..fit {
            let mut client = connect(&gateway).await;
            assert_eq!(say(&mut client, "hello").await, "hello", "{limits}");
            open.push(client);
        }
        assert_eq!(rest(&mut connect(&gateway).await).await.unwrap_or_default(), "", "{limits}");
        assert_eq!(refused(&gateway, limit).await, Some(1.0), "{limits}");
        for client in &mut open {
            assert_eq!(say(client, "still there").await, "still there", "{limits}");
        }
    }
}

#[tokio::test]
async fn connections_wait_for_room_at_the_upstream_and_not_for_ever() {
    let server = Server::echo().await;
    let pool = ", pool: {max_connections: 1, max_pending: 1, pending_timeout: 20ms}";
    let gateway = Gateway::start(&yaml(&[server.address], "", pool)).await;
    let mut first = connect(&gateway).await;
    say(&mut first, "hello").await;
    assert_eq!(rest(&mut connect(&gateway).await).await.unwrap(), "");
    let line = gateway.wait_for_message("connection").await;
    assert_eq!((&line["reason"], &line["attempts"]), (&"overloaded".into(), &0.into()));
    drop(first);
    gateway.wait_for_message("connection").await;
    assert_eq!(say(&mut connect(&gateway).await, "room").await, "room");
}

#[tokio::test]
async fn silence_ends_a_connection_and_a_reader_that_reads_nothing_is_silent() {
    let (ended, mut told) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let ended = ended.clone();
        async move {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            ended.send(rest.len()).await.map_err(io::Error::other)
        }
    })
    .await;
    let limits = ", limits: {idle_timeout: 1s}";
    let gateway = Gateway::start(&yaml(&[server.address], limits, "")).await;
    let mut client = connect(&gateway).await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), "");
    assert_eq!(within_deadline("the end at the server", told.recv()).await, Some(5));
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "idle_timeout");

    // It says more than all buffers hold, to one who does not listen.
    let server = Server::start(|mut stream| async move {
        let chunk = vec![7; 1 << 16];
        loop {
            stream.write_all(&chunk).await?;
        }
    })
    .await;
    let gateway = Gateway::start(&yaml(&[server.address], limits, "")).await;
    let _deaf = connect(&gateway).await;
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "idle_timeout");
}
