//! How a connection to the control plane is secured. There is no way to turn verification off.

use hyper::Uri;
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use openssl::{
    error::ErrorStack,
    pkey::PKey,
    ssl::{ConnectConfiguration, SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion},
    x509::{X509, X509Ref, X509VerifyResult, store::X509StoreBuilder, verify::X509CheckFlags},
};

/// Whom to trust, and who we are.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    /// Certificates in PEM. Without, those that the system trusts.
    pub(crate) ca: Option<Vec<u8>>,
    /// A certificate with its chain, and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The server's SPIFFE ID, in place of its host name.
    pub(crate) server_id: Option<String>,
}

/// # Errors
///
/// Why it cannot be set up, in words.
pub(crate) fn connector(
    trust: &Trust,
    mut http: HttpConnector,
) -> Result<HttpsConnector<HttpConnector>, String> {
    http.enforce_http(false);
    let mut tls = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    tls.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failed)?;
    tls.set_alpn_protos(b"\x08http/1.1").map_err(failed)?;
    trust_in(&mut tls, trust.ca.as_deref())?;
    if let Some((cert, key)) = &trust.identity {
        identify(&mut tls, cert, key)?;
    }
    let mut https = HttpsConnector::with_connector(http, tls).map_err(failed)?;
    let id = trust.server_id.clone();
    https.set_callback(move |connection, uri| match &id {
        Some(id) => {
            expect_id(connection, id.clone());
            Ok(())
        }
        None => expect_host(connection, uri),
    });
    Ok(https)
}

fn trust_in(tls: &mut SslConnectorBuilder, ca: Option<&[u8]>) -> Result<(), String> {
    let Some(pem) = ca else {
        // An OpenSSL that is built in does not know where this system keeps its certificates.
        let system = openssl_probe::probe();
        if let Some(file) = system.cert_file {
            // A place that cannot be read trusts nobody: connecting then fails and says so.
            let _ = tls.set_ca_file(file);
        }
        if let Some(directory) = system.cert_dir {
            let _ = tls.load_verify_locations(None, Some(&directory));
        }
        return Ok(());
    };
    let authorities = X509::stack_from_pem(pem).unwrap_or_default();
    if authorities.is_empty() {
        return Err("the ca has no certificate in PEM (try a file that begins with BEGIN CERTIFICATE)".into());
    }
    let mut store = X509StoreBuilder::new().map_err(failed)?;
    authorities.into_iter().try_for_each(|authority| store.add_cert(authority)).map_err(failed)?;
    tls.set_cert_store(store.build());
    Ok(())
}

fn identify(tls: &mut SslConnectorBuilder, cert: &[u8], key: &[u8]) -> Result<(), String> {
    let mut chain = X509::stack_from_pem(cert).unwrap_or_default().into_iter();
    let own = chain.next().ok_or("the identity has no certificate in PEM")?;
    let key = PKey::private_key_from_pem(key).map_err(|_| "the identity has no key in PEM")?;
    tls.set_certificate(&own).map_err(failed)?;
    chain.try_for_each(|issuer| tls.add_extra_chain_cert(issuer)).map_err(failed)?;
    tls.set_private_key(&key).map_err(failed)?;
    tls.check_private_key().map_err(|_| "the certificate and its key do not belong together".to_owned())
}

/// The name is looked for where RFC 9525 has it, and not in the subject, where OpenSSL would look as well.
fn expect_host(connection: &mut ConnectConfiguration, uri: &Uri) -> Result<(), ErrorStack> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    connection.set_verify_hostname(false);
    let expected = connection.param_mut();
    expected.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS | X509CheckFlags::NEVER_CHECK_SUBJECT);
    match host.parse() {
        Ok(ip) => expected.set_ip(ip),
        Err(_) => expected.set_host(host.strip_suffix('.').unwrap_or(host)),
    }
}

/// An SVID names no host. That its chain is good has been found out before.
fn expect_id(connection: &mut ConnectConfiguration, id: String) {
    connection.set_verify_hostname(false);
    connection.set_verify_callback(SslVerifyMode::PEER, move |is_good, chain| {
        let is_leaf = chain.error_depth() == 0;
        let is_named = !is_leaf || chain.current_cert().is_some_and(|certificate| names(certificate, &id));
        if is_good && !is_named {
            chain.set_error(X509VerifyResult::APPLICATION_VERIFICATION);
        }
        is_good && is_named
    });
}

/// X509-SVID: exactly one URI.
fn names(certificate: &X509Ref, id: &str) -> bool {
    let alternatives = certificate.subject_alt_names();
    let mut uris = alternatives.iter().flatten().filter_map(|name| name.uri());
    uris.next() == Some(id) && uris.next().is_none()
}

fn failed(error: ErrorStack) -> String {
    format!("TLS cannot be set up: {error}")
}
