//! TLS towards a Redis: verified, and by whose name.

use std::{path::PathBuf, pin::Pin};

use openssl::{ssl::SslRef, x509::X509VerifyResult};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::trust;

/// Files are read again for each connection, so that a new certificate is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tls {
    pub ca: Option<PathBuf>,
    /// With its key.
    pub cert: Option<(PathBuf, PathBuf)>,
    /// Whose certificate is expected, instead of one for the host that is connected to.
    pub server_name: Option<String>,
}

impl Tls {
    /// # Errors
    ///
    /// Why the other side cannot be spoken to in secret, for the operator.
    pub(super) async fn secure(&self, stream: TcpStream, host: &str) -> Result<SslStream<TcpStream>, String> {
        let ca = match &self.ca {
            Some(file) => Some(read(file).await?),
            None => None,
        };
        let mut connector = trust::connector(ca.as_deref())?;
        if let Some((cert, key)) = &self.cert {
            trust::identify(&mut connector, &read(cert).await?, &read(key).await?)?;
        }
        let name = self.server_name.as_deref().unwrap_or(host);
        let set_up = |error| format!("TLS cannot be set up: {error}");
        let mut connection = connector.build().configure().map_err(set_up)?;
        trust::expect_host(&mut connection, name).map_err(set_up)?;
        let session = connection.into_ssl(name.trim_matches(['[', ']'])).map_err(set_up)?;
        let mut stream = SslStream::new(session, stream).map_err(set_up)?;
        match Pin::new(&mut stream).connect().await {
            Ok(()) => Ok(stream),
            Err(error) => {
                Err(refused(stream.ssl(), name).unwrap_or_else(|| format!("no TLS handshake: {error}")))
            }
        }
    }
}

async fn read(file: &PathBuf) -> Result<Vec<u8>, String> {
    tokio::fs::read(file).await.map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// What is wrong with its certificate, if that is what is wrong.
fn refused(session: &SslRef, name: &str) -> Option<String> {
    let why = match session.verify_result() {
        X509VerifyResult::OK => return None,
        result if result == trust::rejected() => trust::ROCA,
        result => result.error_string(),
    };
    Some(format!("its certificate is refused: {why} (expected one for {name})"))
}
