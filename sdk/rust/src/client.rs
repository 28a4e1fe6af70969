//! What everything begins with.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    discovery::{self, Discovery},
    error::Error,
    registration::{self, Registration},
    service::Service,
    thread::Thread,
    transport::{Settings, Transport},
};

/// A control plane, by one server or several. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    thread: Arc<Thread>,
    most: usize,
}

/// How a [`Client`] reaches the control plane.
#[derive(Clone)]
pub struct Builder {
    settings: Settings,
    most: usize,
}

impl Client {
    /// `servers` are `http://host:port` or `https://host:port`. Connects nowhere yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`]: one of them is no server.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Result<Client, Error> {
        Client::builder(servers).build()
    }

    /// The same, with more to say.
    pub fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Builder {
        let settings = Settings {
            servers: servers.into_iter().map(Into::into).collect(),
            token: None,
            timeout: Duration::from_secs(5),
            #[cfg(feature = "tls")]
            trust: Default::default(),
        };
        Builder { settings, most: 10_000 }
    }

    /// Registers an instance and keeps it registered until the [`Registration`] is closed or dropped. If no server answers,
    /// it goes on trying in the background: whoever starts without a control plane starts all the same.
    ///
    /// # Errors
    ///
    /// The control plane refuses it for good: see [`Error::is_permanent`].
    pub async fn register(&self, service: Service) -> Result<Registration, Error> {
        registration::start(self.transport.clone(), self.thread.clone(), service).await
    }

    /// Follows a service until the last clone of the [`Discovery`] is dropped. If no server answers, it knows nobody yet and goes
    /// on trying.
    ///
    /// # Errors
    ///
    /// The control plane refuses it for good: see [`Error::is_permanent`].
    pub async fn discover(&self, service: &str) -> Result<Discovery, Error> {
        discovery::start(self.transport.clone(), self.thread.clone(), service, self.most).await
    }
}

impl Builder {
    /// Sent as `Authorization: Bearer`. In plain text it is sent to loopback only.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.settings.token = Some(token.into());
        self
    }

    /// For one answer of one server, connecting included. Default 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.settings.timeout = timeout;
        self
    }

    /// Instances of one service that are kept; more are passed over, with a warning. Default 10,000.
    pub fn most_instances(self, most: usize) -> Builder {
        Builder { most, ..self }
    }

    /// Certificates in PEM of the authorities that are trusted. Default: those that the system trusts.
    #[cfg(feature = "tls")]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Builder {
        self.settings.trust.ca = Some(pem.into());
        self
    }

    /// A certificate with its chain and its key, in PEM, by which the control plane knows who we are.
    #[cfg(feature = "tls")]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Builder {
        self.settings.trust.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The control plane proves this SPIFFE ID, such as `spiffe://mesh.local/control`, in place of its host name.
    #[cfg(feature = "tls")]
    pub fn server_id(mut self, id: impl Into<String>) -> Builder {
        self.settings.trust.server_id = Some(id.into());
        self
    }

    /// # Errors
    ///
    /// [`Error::Setup`]: a server, the token or a certificate cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let transport = Transport::new(&self.settings)?.into();
        Ok(Client { transport, thread: Thread::start()?.into(), most: self.most })
    }
}

/// Without the token and the key, and without servers, before which a password may stand.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder")
    }
}
