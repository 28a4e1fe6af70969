//! What stands before a protocol: PROXY headers, the names in TLS handshakes that pass through, and Unix sockets under it
//! all. Clients are curl's and OpenSSL's where they can say what is to be said.

mod proxy_protocol;
mod sni;
mod unix;

use std::process::Command;

/// Where the code that is generated for the control plane's messages looks for it (`control/gateway.rs`).
pub(crate) use tonic_prost::ProstCodec as Codec;

use crate::support::{
    Gateway,
    certificates::{keep, server},
    metric,
    observe::{descriptors, wait_for_descriptors},
    within_deadline,
};

/// What `program` says on its standard output, or its complaint. Blocking.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(std::process::Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn curl(args: &[&str]) -> Result<String, String> {
    run("curl", &[&["--silent", "--show-error", "--noproxy", "*", "--max-time", "15"], args].concat())
}
