//! TLS towards servers of our own choice that are no upstreams: whom we trust, and who we say we are. Verification cannot be
//! turned off.
//!
//! The OpenSSL that is built in does not know where this system keeps its certificates, so they are looked for where systems
//! have them; `SSL_CERT_FILE` and `SSL_CERT_DIR` name another place.

mod roca;

use openssl::{
    error::ErrorStack,
    pkey::PKey,
    ssl::{ConnectConfiguration, SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion},
    x509::{X509, store::X509StoreBuilder, verify::X509CheckFlags},
};

pub(crate) use self::roca::{ROCA, has_broken_key, is_roca, is_roca_modulus, is_sound, rejected};

/// The name is looked for where RFC 9525 has it, and not in the subject, where OpenSSL would look as well.
/// `host` may be an address, also in brackets.
pub(crate) fn expect_host(connection: &mut ConnectConfiguration, host: &str) -> Result<(), ErrorStack> {
    let host = host.trim_matches(['[', ']']);
    connection.set_verify_hostname(false);
    let expected = connection.param_mut();
    expected.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS | X509CheckFlags::NEVER_CHECK_SUBJECT);
    match host.parse() {
        Ok(ip) => expected.set_ip(ip),
        // RFC 9525: without the dot that ends an absolute name.
        Err(_) => expected.set_host(host.strip_suffix('.').unwrap_or(host)),
    }
}

/// Verifies the server's chain, and speaks TLS 1.2 at least. Its name is looked at with [`expect_host`].
///
/// # Errors
///
/// Why those to trust cannot be read.
pub(crate) fn connector(ca: Option<&[u8]>) -> Result<SslConnectorBuilder, String> {
    let set_up = |error: ErrorStack| format!("TLS cannot be set up: {error}");
    // Verification of chain and name is what this builder begins with.
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(set_up)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(set_up)?;
    builder.set_verify_callback(SslVerifyMode::PEER, is_sound);
    match ca {
        Some(pem) => {
            let mut store = X509StoreBuilder::new().map_err(set_up)?;
            let authorities = X509::stack_from_pem(pem)
                .map_err(|_| "not certificates in PEM (try a file that begins with BEGIN CERTIFICATE)")?;
            if authorities.is_empty() {
                return Err("no certificate in it (try a file that begins with BEGIN CERTIFICATE)".into());
            }
            if authorities.iter().any(|authority| has_broken_key(authority)) {
                return Err(format!("an authority in it cannot be trusted: {ROCA}"));
            }
            for authority in authorities {
                store.add_cert(authority).map_err(set_up)?;
            }
            builder.set_cert_store(store.build());
        }
        None => {
            let system = openssl_probe::probe();
            if let Some(file) = system.cert_file {
                // A place that cannot be read trusts nobody: connecting then fails and says so.
                let _ = builder.set_ca_file(file);
            }
            if let Some(directory) = system.cert_dir {
                let _ = builder.load_verify_locations(None, Some(&directory));
            }
        }
    }
    Ok(builder)
}

/// Say who we are where a server asks.
///
/// # Errors
///
/// The certificate or its key cannot be read, they do not belong together, or the key can be broken.
pub(crate) fn identify(builder: &mut SslConnectorBuilder, cert: &[u8], key: &[u8]) -> Result<(), String> {
    let unreadable = |what: &str| format!("not {what} in PEM");
    let mut chain = X509::stack_from_pem(cert).map_err(|_| unreadable("a certificate"))?.into_iter();
    let own = chain.next().ok_or_else(|| unreadable("a certificate"))?;
    let key = PKey::private_key_from_pem(key).map_err(|_| unreadable("a key"))?;
    if is_roca(&key) {
        return Err(ROCA.to_owned());
    }
    let refused = |error: ErrorStack| format!("the certificate and its key cannot be used: {error}");
    builder.set_certificate(&own).map_err(refused)?;
    chain.try_for_each(|issuer| builder.add_extra_chain_cert(issuer)).map_err(refused)?;
    builder.set_private_key(&key).map_err(refused)?;
    builder.check_private_key().map_err(|_| "the certificate and its key do not belong together".to_owned())
}
