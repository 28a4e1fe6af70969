//! Certificates from CAs: from an empty folder to HTTPS against Let's Encrypt's own test server, and what a gateway makes of CAs that lie.

mod bad_input;
mod etcd;
mod fleet;
mod issuing;
mod on_demand;
mod refusals;

use std::net::SocketAddr;

use openssl::ssl::SslVerifyMode;
use tempfile::TempDir;

use crate::support::{Gateway, TlsClient, connect::shake, pebble::Pebble, within_deadline};

/// A gateway where pebble looks for proofs: plain HTTP on 8080, TLS on 8443, with this in its account, in `acme` of the listener, and
/// at the top.
fn configuration(pebble: &Pebble, account: &str, listener: &str, more: &str) -> String {
    let (plain, tls) = (pebble.listener(8080), pebble.listener(8443));
    let entry = pebble.entry();
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\nstate_dir: state\n\
         acme: {{default: {{cas: [{entry}], retry: {{base: 100ms, max: 1s}}, {account}}}}}\n\
         listeners:\n- {{name: plain, address: '{plain}', filters: [https_redirect: {{}}]}}\n\
         - {{name: tls, address: '{tls}', tls: {{acme: {{{listener}}}}}}}\n\
         routes: [{{match: {{hosts: [a.example.com, 'b.example.com', '*.c.example.com']}}, respond: {{body: hello}}}}]\n{more}"
    )
}

/// What is shown to who asks for `name`: the DNS names of the leaf, its issuer, and its serial number. `None` where there is nothing.
async fn shown(address: SocketAddr, name: &str) -> Option<(Vec<String>, String)> {
    let mut context = TlsClient::trusting_all().context();
    context.set_verify(SslVerifyMode::NONE);
    let stream = shake(context, address, name).await.ok()?;
    let leaf = stream.ssl().peer_certificate()?;
    let names =
        leaf.subject_alt_names()?.iter().filter_map(|name| Some(name.dnsname()?.to_owned())).collect();
    let serial = leaf.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string();
    Some((names, serial))
}

/// Waits until `name` is shown a certificate of its own, and answers its serial number.
async fn served(address: SocketAddr, name: &str) -> String {
    served_other(address, name, "").await
}

/// The same, of another number than this.
async fn served_other(address: SocketAddr, name: &str, before: &str) -> String {
    served_with(address, &[name], before).await
}

/// The same, of one certificate for all of these names, of which the first is asked for.
async fn served_with(address: SocketAddr, names: &[&str], before: &str) -> String {
    let name = names[0];
    let serving = async {
        loop {
            match shown(address, name).await {
                Some((found, serial)) if found == names && serial != before => return serial,
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    within_deadline(&format!("a certificate for {name}"), serving).await
}

/// What `tidegate certs list` says.
async fn listed(gateway: &Gateway) -> String {
    asked(gateway, &["certs", "list"]).await.1
}

/// Exit code and output of a command that asks the gateway.
async fn asked(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let home = TempDir::new().unwrap();
    let mut command = crate::support::tidegate(home.path());
    command.args(arguments).args(["--admin", &gateway.admin().to_string()]);
    let process = crate::support::Process::spawn(command);
    let code = process.wait_exit().await.code().unwrap();
    (code, process.output() + &process.stderr())
}
