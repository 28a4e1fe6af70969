//! A second look at an endpoint whose certificate was refused, to tell the operator why: the proxy engine does not say. It
//! sends nothing, shows no certificate of ours but to those who have proved who they are, and is taken once in a while only.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openssl::{
    ssl::{SslConnector, SslMethod, SslVerifyMode},
    x509::{X509, X509StoreContextRef, store::X509StoreBuilder},
};

use super::{
    handshake::{Handshake, names},
    host_of,
    terms::Accepted,
    trouble::{Trouble, alert, refusal},
};
use crate::trust;

/// For each step.
const PATIENCE: Duration = Duration::from_secs(2);

impl Handshake {
    /// What is behind `trouble` with the endpoint at `address`, configured as `origin`, where a second look can tell. It
    /// begins with the `announcement` that the endpoint expects, if any.
    pub async fn diagnose(
        self: Arc<Self>,
        trouble: Trouble,
        address: SocketAddr,
        origin: String,
        announcement: Vec<u8>,
    ) -> Option<String> {
        // Who has proved to be the right one may see again what it saw.
        let shows = trouble == Trouble::Closed;
        let look = move || self.look(address, host_of(&origin), &announcement, shows);
        let found = tokio::task::spawn_blocking(look).await.unwrap_or(None);
        let otherwise = || (trouble == Trouble::Certificate).then(|| "its certificate is not trusted".into());
        found.or_else(otherwise)
    }

    fn look(&self, address: SocketAddr, host: &str, announcement: &[u8], shows: bool) -> Option<String> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).ok()?;
        if let Some(authorities) = &self.terms().authorities {
            let mut store = X509StoreBuilder::new().ok()?;
            authorities.iter().try_for_each(|authority| store.add_cert(authority.clone())).ok()?;
            builder.set_verify_cert_store(store.build()).ok()?;
        }
        if let Some(own) = self.terms().certificate.as_ref().filter(|_| shows) {
            builder.set_certificate(own.leaf()).ok()?;
            builder.set_private_key(own.key()).ok()?;
            own.intermediates()
                .iter()
                .try_for_each(|link| builder.add_extra_chain_cert(link.clone()))
                .ok()?;
        }
        let first: Arc<Mutex<Option<String>>> = Arc::default();
        let found = first.clone();
        let by_spiffe = matches!(self.terms().expects, Accepted::Spiffe { .. });
        builder.set_verify_callback(SslVerifyMode::PEER, move |fine, context| {
            if !fine {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.get_or_insert_with(|| explain(context));
            }
            // What is wrong with an SVID is told below.
            fine || by_spiffe
        });
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(announcement).ok()?;
        let mut session = builder.build().configure().ok()?;
        session.set_verify_hostname(false);
        if let Some(name) = self.name() {
            trust::expect_host(&mut session, name).ok()?;
        }
        let name = self.name().or(self.terms().server_name.as_deref()).unwrap_or(host);
        let connected = session.connect(name, stream);
        let found = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Ok(mut stream) = connected else { return found };
        if by_spiffe {
            let leaf = stream.ssl().peer_certificate()?;
            let chain = stream.ssl().peer_cert_chain().into_iter().flatten().skip(1);
            let between: Vec<X509> = chain.map(|link| link.to_owned()).collect();
            if let Err(distrust) = self.identify(&leaf, &between) {
                return Some(distrust.to_string());
            }
        }
        // Nothing was sent, so an endpoint that says anything now says why it does not want us.
        let said = stream.read(&mut [0]).err()?.to_string();
        alert(&said).map(|alert| refusal(&alert, self.shows_certificate()))
    }
}

fn explain(context: &X509StoreContextRef) -> String {
    let why = context.error().error_string();
    let whose = if context.error_depth() == 0 { "its certificate" } else { "the certificate of its issuer" };
    let about = context.current_cert().map(names);
    match about.filter(|_| context.error_depth() == 0) {
        Some(names) => format!("{whose} ({names}) is not accepted: {why}"),
        None => format!("{whose} is not accepted: {why}"),
    }
}
