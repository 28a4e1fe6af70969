//! An upstream at a distance: each of its streams has a large window, and all of a connection share another.

use tempfile::TempDir;

use crate::support::{
    frames::{AUTHORITY, GET, HEADERS, HTTP, SETTINGS, WHOLE, Wire, field, frame, setting},
    namespace::{Host, Network, PAYMENTS},
    skipped,
};

/// What leaves this host takes so long from now on.
fn is_far(host: &Host) -> Result<(), String> {
    let made = host.root("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", "20ms"]);
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
}

/// Eight such streams fill the window of their connection.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_from_afar_that_nobody_reads_hold_up_no_others() {
    const UNREAD: u32 = 10;
    let Some(network) = Network::new() else { return };
    let (near, far, home) = (&network.orders, &network.payments, TempDir::new().unwrap());
    if let Err(why) = is_far(far) {
        return skipped(&why);
    }
    let _backend = far.backend(home.path(), "far", 8081).await;
    // One thread has one connection for all; nobody is ended for not reading.
    let yaml = format!(
        "admin: false\nthreads: 1\nlisteners: [{{name: main, address: '127.0.0.1:8000', limits: {{min_rate: off}}}}]\n\
         routes: [{{upstream: far}}]\nupstreams: {{far: {{endpoints: ['{PAYMENTS}:8081'], protocol: http2}}}}\n"
    );
    let _gateway = near.gateway(home.path(), &yaml).await;
    let mut unread = Wire::shake(near.connect("127.0.0.1", 8000).unwrap()).await.unwrap();
    let head = [&[GET, HTTP][..], AUTHORITY, &field(":path", "/bytes/4MiB")].concat();
    let mut bytes = frame(SETTINGS, 0, 0, &setting(4, 0));
    (0..UNREAD).for_each(|stream| bytes.extend(frame(HEADERS, WHOLE, 2 * stream + 1, &head)));
    unread.send(&bytes).await;
    for _ in 0..UNREAD {
        unread.wait_for(|frame| frame.kind == HEADERS).await.unwrap();
    }
    // The first may have come before those bodies did, and wait behind them.
    let mut attempts = (0..4).map(|_| {
        let url = "http://127.0.0.1:8000/bytes/1MiB";
        near.curl(&["--max-time", "4", "--output", "/dev/null", url])
    });
    assert!(attempts.any(|said| said.trim() == "200"), "nobody else was served");
}
