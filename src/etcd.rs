//! Connections to etcd, for all that keep something there: one member at a time, authenticated, over TLS that is verified. What is said
//! over them is their own matter.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Client, ConnectOptions, Error, OpenSslClientConfig};
use tokio::time::timeout;

use crate::{
    config::{EtcdMembers, EtcdTls},
    trust,
};

/// Of a call.
const PATIENCE: Duration = Duration::from_secs(3);
/// etcd hangs up on pings that come more often than every five seconds.
const PING: Duration = Duration::from_secs(10);

/// A client of one `member` of the cluster.
///
/// # Errors
///
/// Why there is none: in etcd's words, or about the files of `tls`.
pub(crate) async fn connect(members: &EtcdMembers, member: &str) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(PING, PING)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(PATIENCE)
        // A watch at a member that is cut off from the others says so.
        .with_require_leader(true);
    if let (Some(user), Some(password)) = (&members.user, &members.password) {
        options = options.with_user(user, password.expose());
    }
    if member.starts_with("https:") {
        options = options.with_openssl_tls(tls(members.tls.as_ref()).await?);
    }
    call(Client::connect([member], Some(options))).await
}

async fn tls(files: Option<&EtcdTls>) -> Result<OpenSslClientConfig, String> {
    let files = files.cloned().unwrap_or_default();
    let read = async |file: Option<PathBuf>| match file {
        Some(file) => {
            let text = tokio::fs::read(&file).await;
            text.map(Some).map_err(|error| format!("{}: {error}", file.display()))
        }
        None => Ok(None),
    };
    let mut builder = trust::connector(read(files.ca).await?.as_deref())?;
    if let (Some(cert), Some(key)) = (read(files.cert).await?, read(files.key).await?) {
        trust::identify(&mut builder, &cert, &key)?;
    }
    Ok(OpenSslClientConfig::default().manually(|theirs| {
        builder.set_alpn_protos(b"\x02h2")?;
        *theirs = builder;
        Ok(())
    }))
}

/// # Errors
///
/// What the call says in words, or that it says nothing in time.
pub(crate) async fn call<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    within(call).await.map_err(|error| explain(&error))
}

/// # Errors
///
/// What the call says, or that it says nothing in time.
pub(crate) async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Error::GRpcStatus(tonic::Status::deadline_exceeded("no answer in time"));
    timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(late()))
}

/// In etcd's own words, without what only programs read.
pub(crate) fn explain(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => {
            let mut cause: &dyn std::error::Error = status;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            match cause.downcast_ref::<tonic::Status>() {
                Some(status) => status.message().escape_debug().to_string(),
                None => cause.to_string(),
            }
        }
        error => error.to_string(),
    }
}
