//! TLS towards a running gateway's admin API.
//!
//! With `-c` the gateway has to show the certificate that the configuration names, whatever it was issued for: who may read
//! that file needs no authority to vouch for it. Else an authority has to, and the name in the address has to be right.

use std::{fs, path::Path, pin::Pin};

use openssl::{
    error::ErrorStack,
    ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode},
    x509::{X509, X509VerifyResult, store::X509StoreBuilder, verify::X509VerifyFlags},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::{
    identity::{SpiffeId, leaf_id},
    trust,
};

/// Whose certificate the gateway has to show.
pub(super) enum Trust<'a> {
    /// That in this file.
    Pinned(&'a Path),
    /// One by these authorities.
    Authorities(&'a Path),
    /// One by an authority that the system trusts.
    System,
}

pub(super) struct Secure {
    connector: SslConnector,
    checks_name: bool,
    /// Whose SVID it has to show, in the place of the name.
    expects: Option<SpiffeId>,
}

impl Secure {
    /// `own` is our certificate, with those that lead to its root, and its key.
    ///
    /// # Errors
    ///
    /// What is wrong with a file.
    pub(crate) fn new(trust: &Trust<'_>, own: Option<(&Path, &Path)>) -> Result<Secure, String> {
        let set_up = |error: ErrorStack| format!("TLS cannot be set up: {error}");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(set_up)?;
        builder.set_verify_callback(SslVerifyMode::PEER, trust::is_sound);
        match trust {
            Trust::Pinned(file) | Trust::Authorities(file) => {
                let mut store = X509StoreBuilder::new().map_err(set_up)?;
                let pinned = matches!(trust, Trust::Pinned(_));
                // The first is the gateway's own; those behind it may have issued others.
                for certificate in certificates(file)?.into_iter().take(if pinned { 1 } else { usize::MAX }) {
                    store.add_cert(certificate).map_err(set_up)?;
                }
                if pinned {
                    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN).map_err(set_up)?;
                }
                builder.set_cert_store(store.build());
            }
            Trust::System => {
                let system = openssl_probe::probe();
                if let Some(file) = system.cert_file {
                    // A place that cannot be read trusts nobody: connecting then fails and says so.
                    let _ = builder.set_ca_file(file);
                }
            }
        }
        if let Some((cert, key)) = own {
            builder
                .set_certificate_chain_file(cert)
                .map_err(|_| format!("{} cannot be used (certificates in PEM)", cert.display()))?;
            let unfit = |_| {
                let (key, cert) = (key.display(), cert.display());
                format!("{key} cannot be used (PEM, without a passphrase, and the key of {cert})")
            };
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(unfit)?;
        }
        let checks_name = !matches!(trust, Trust::Pinned(_));
        Ok(Secure { connector: builder.build(), checks_name, expects: None })
    }

    /// What answers has to show the SVID of `id`, where that is given.
    pub(crate) fn showing(self, id: Option<SpiffeId>) -> Secure {
        Secure { checks_name: self.checks_name && id.is_none(), expects: id, ..self }
    }

    /// # Errors
    ///
    /// Why there is no connection to be trusted.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<SslStream<TcpStream>, String> {
        let set_up = |error: ErrorStack| format!("TLS cannot be set up: {error}");
        let mut session = self.connector.configure().map_err(set_up)?;
        session.set_verify_hostname(false);
        if self.checks_name {
            trust::expect_host(&mut session, host).map_err(set_up)?;
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = SslStream::new(session.into_ssl(host).map_err(set_up)?, stream).map_err(set_up)?;
        match Pin::new(&mut stream).connect().await {
            Ok(()) => self.look_at(stream),
            Err(error) => Err(self.explain(stream.ssl().verify_result(), &error.to_string())),
        }
    }

    fn look_at(&self, stream: SslStream<TcpStream>) -> Result<SslStream<TcpStream>, String> {
        let Some(expected) = &self.expects else { return Ok(stream) };
        match stream.ssl().peer_certificate().map(|leaf| leaf_id(&leaf)) {
            Some(Ok(id)) if id == *expected => Ok(stream),
            Some(Ok(id)) => Err(format!("it is {id}, not {expected} (give --spiffe)")),
            Some(Err(why)) => Err(format!("its certificate {why}")),
            None => Err("it shows no certificate".to_owned()),
        }
    }

    fn explain(&self, verified: X509VerifyResult, otherwise: &str) -> String {
        match verified {
            X509VerifyResult::OK if otherwise.contains("wrong version number") => {
                "it does not speak TLS there".to_owned()
            }
            why if why == trust::rejected() => {
                format!("its certificate is not trusted: of its chain, or of itself, {}", trust::ROCA)
            }
            X509VerifyResult::OK => format!("no TLS came about: {otherwise}"),
            why if self.checks_name => {
                format!(
                    "its certificate is not trusted: {} (give --ca, and the name in it)",
                    why.error_string()
                )
            }
            why => format!(
                "it does not show the certificate that the configuration names: {} (give --ca)",
                why.error_string()
            ),
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<X509>, String> {
    let pem = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} holds no certificate in PEM (BEGIN CERTIFICATE)", file.display())),
    }
}
