//! TLS on an API's address. Either its files are looked at with each connection, where there are few and nothing has to be
//! told that a certificate was renewed; or what is in force is kept current elsewhere.

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

use crate::{
    identity::Caller,
    observe::{log::event, metrics::Metrics},
    tls::{Material, Settings, Terminator, reasons},
};

pub(crate) enum Tls {
    Looking(Looking),
    /// `None` where there is nothing in force that begins TLS; no connection is then served.
    Following(Box<dyn Fn() -> Option<Arc<Terminator>> + Send + Sync>),
}

pub(crate) struct Looking {
    key: &'static str,
    terminator: Arc<Terminator>,
    /// What is wrong with the files has been told.
    told: AtomicBool,
}

impl Tls {
    /// Of the API of that name, by files that nobody else looks at.
    ///
    /// # Errors
    ///
    /// The files cannot be used.
    pub(crate) fn looking(key: &'static str, settings: Settings, metrics: &Arc<Metrics>) -> io::Result<Tls> {
        let material = Material::read(&settings).map_err(|problems| {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            io::Error::other(format!("{key}.tls: {}", told.join("; ")))
        })?;
        let terminator = Terminator::new(settings, material, None, None, metrics.clone());
        let terminator =
            terminator.map_err(|error| io::Error::other(format!("{key}.tls: {}", reasons(&error))))?;
        Ok(Tls::Looking(Looking { key, terminator: Arc::new(terminator), told: AtomicBool::new(false) }))
    }

    /// What begins TLS here, where that is always the same.
    pub(crate) fn terminator(&self) -> Option<Arc<Terminator>> {
        match self {
            Tls::Looking(looking) => Some(looking.terminator.clone()),
            Tls::Following(_) => None,
        }
    }

    /// Whose certificate the client has shown, if it has.
    ///
    /// # Errors
    ///
    /// Why the handshake failed; that is the client's to know.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(SslStream<TcpStream>, Option<Caller>), String> {
        const NOTHING: &str = "there is no certificate to show";
        let terminator = match self {
            Tls::Looking(looking) => {
                looking.refresh().await;
                looking.terminator.clone()
            }
            Tls::Following(current) => current().ok_or(NOTHING)?,
        };
        let ssl = terminator.begin().map_err(|error| reasons(&error))?.ok_or(NOTHING)?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| reasons(&error))?;
        Pin::new(&mut stream).accept().await.map_err(|error| error.to_string())?;
        let caller = terminator.caller(stream.ssl())?;
        Ok((stream, caller))
    }
}

impl Looking {
    /// Where the files are wrong, what was read before goes on.
    async fn refresh(&self) {
        let terminator = self.terminator.clone();
        let refreshed = tokio::task::spawn_blocking(move || terminator.refresh()).await;
        match refreshed {
            Ok(Ok(is_new)) => {
                self.told.store(false, Relaxed);
                if is_new {
                    log::info!("the {} API shows another certificate", self.key);
                }
            }
            Ok(Err(problems)) if !self.told.swap(true, Relaxed) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let message = format!("{} certificate refused, the one before stays", self.key);
                event!(Warn, message, problem = told.join("; "));
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
