//! TLS on the admin listener. Its files are looked at with each connection: there are few, and nothing has to be told
//! that a certificate was renewed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::guard::Caller;
use crate::{
    config::AdminTls,
    observe::{log::event, metrics::Metrics},
    tls::{Material, Settings, Terminator, reasons},
};

pub(crate) struct Tls {
    terminator: Arc<Terminator>,
    /// What is wrong with the files has been told.
    told: AtomicBool,
}

impl Tls {
    /// # Errors
    ///
    /// The files cannot be used.
    pub(crate) fn new(settings: &AdminTls, metrics: &Arc<Metrics>) -> io::Result<Tls> {
        let settings = Settings::of_admin(settings);
        let material = Material::read(&settings).map_err(|problems| {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            io::Error::other(format!("admin.tls: {}", told.join("; ")))
        })?;
        let terminator = Terminator::new(settings, material, None, metrics.clone());
        let terminator =
            terminator.map_err(|error| io::Error::other(format!("admin.tls: {}", reasons(&error))))?;
        Ok(Tls { terminator: Arc::new(terminator), told: AtomicBool::new(false) })
    }

    /// # Errors
    ///
    /// Why the handshake failed; that is the client's to know.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<(SslStream<TcpStream>, Caller), String> {
        self.refresh().await;
        let ssl = self.terminator.begin().map_err(|error| reasons(&error))?;
        let ssl = ssl.ok_or("there is no certificate to show")?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| reasons(&error))?;
        Pin::new(&mut stream).accept().await.map_err(|error| error.to_string())?;
        let caller = self.terminator.caller(stream.ssl())?;
        Ok((stream, if caller.is_some() { Caller::Known } else { Caller::Stranger }))
    }

    /// Where the files are wrong, what was read before goes on.
    async fn refresh(&self) {
        let terminator = self.terminator.clone();
        let refreshed = tokio::task::spawn_blocking(move || terminator.refresh()).await;
        match refreshed {
            Ok(Ok(is_new)) => {
                self.told.store(false, Relaxed);
                if is_new {
                    log::info!("the admin API shows another certificate");
                }
            }
            Ok(Err(problems)) if !self.told.swap(true, Relaxed) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                event!(Warn, "admin certificate refused, the one before stays", problem = told.join("; "));
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
