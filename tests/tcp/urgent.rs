//! TCP's urgent byte, at which the kernel stops both splices and reads: it gets lost on the way, and nothing else does.

use rustix::net::{SendFlags, send};

use super::*;

/// So much goes through a pipe from here on.
const BEFORE: usize = 100 * 1024;
const AFTER: usize = 10 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Wait,
    End,
}

/// In one go, so that what follows the urgent byte has mostly arrived when the gateway comes to it.
async fn speak(stream: &mut TcpStream, said: &[u8], then: Then) -> io::Result<()> {
    stream.write_all(&said[..BEFORE]).await?;
    loop {
        match stream.try_io(Interest::WRITABLE, || Ok(send(&stream, b"!", SendFlags::OOB)?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            sent => break sent.map(drop)?,
        }
    }
    stream.write_all(&said[BEFORE..]).await?;
    if then == Then::End { stream.shutdown().await } else { Ok(()) }
}

async fn listen(stream: &mut TcpStream, then: Then) -> io::Result<Vec<u8>> {
    let mut heard = vec![0; BEFORE + AFTER];
    stream.read_exact(&mut heard).await?;
    if then == Then::End {
        stream.read_to_end(&mut heard).await?;
    }
    Ok(heard)
}

#[tokio::test]
async fn an_urgent_byte_neither_stops_nor_cuts_what_follows() {
    let mut rng = fastrand::Rng::with_seed(11);
    let said: Arc<[u8]> = (0..BEFORE + AFTER).map(|_| rng.u8(..)).collect();
    for then in [Then::Wait, Then::End] {
        let expected = said.clone();
        let server = Server::start(move |mut stream| {
            let said = expected.clone();
            async move {
                let heard = listen(&mut stream, then).await?;
                assert!(heard == *said, "what the server heard is not what was sent, {then:?}");
                speak(&mut stream, &said, then).await?;
                stream.read_u8().await.map(drop)
            }
        })
        .await;
        let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
        let mut client = connect(&gateway).await;
        speak(&mut client, &said, then).await.unwrap();
        let heard = within_deadline("what was said", listen(&mut client, then)).await.unwrap();
        assert!(heard == *said, "what the client heard is not what was sent, {then:?}");
    }
}
