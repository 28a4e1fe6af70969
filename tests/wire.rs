//! What stands before a protocol: PROXY headers, the names in TLS handshakes that pass through, and Unix sockets under it
//! all. Clients are curl's and OpenSSL's where they can say what is to be said.

mod proxy_protocol;
mod sni;
mod unix;

use std::{path::Path, process::Command, time::Duration};

use crate::support::{
    Gateway,
    certificates::{Issued, Order, svid, write},
    get, metric,
    observe::{descriptors, wait_for_descriptors},
    within_deadline,
};

/// A certificate of a server, as `NAME.crt` and `NAME.key` in `directory`.
fn keep(directory: &Path, name: &str, issued: &Issued) {
    write(&directory.join(format!("{name}.key")), &issued.key_pem(), 0o600);
    write(&directory.join(format!("{name}.crt")), &issued.pem(), 0o644);
}

fn server(name: &str) -> Order {
    Order { subject: name.into(), dns: vec![name.into()], uris: Vec::new(), ..svid("") }
}

/// What `program` says on its standard output, or its complaint. Blocking.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(std::process::Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn curl(args: &[&str]) -> Result<String, String> {
    run("curl", &[&["--silent", "--show-error", "--noproxy", "*", "--max-time", "15"], args].concat())
}
