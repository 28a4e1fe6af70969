//! OpenSSL's view of a listener: one `SSL_CTX` for each set of certificates, made once and shared by all connections.
//!
//! A connection begins on the first; the name it asks for may lead it to another.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use openssl::{
    error::ErrorStack,
    ssl::{
        AlpnError, NameType, SniError, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
        SslSessionCacheMode, SslVerifyMode, SslVersion, select_next_proto,
    },
    x509::{X509, X509Name, store::X509StoreBuilder},
};

use crate::{
    config::TlsVersion,
    tls::{
        Speaks,
        certificate::Certificate,
        client_verify::Judgement,
        ffi::{RECEIVED_SHUTDOWN, SSL_clear_options, SSL_get_options, SSL_get_shutdown},
        keylog,
        revocation::Revoked,
        tickets::TicketKeys,
    },
    trust,
};

/// What HTTP is agreed on by ALPN (RFC 7301), the best first.
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1\x08http/1.0";
/// The same, and [`TUNNEL_PROTOCOL`](crate::config::TUNNEL_PROTOCOL).
const WITH_TUNNELS: &[u8] = b"\x02h2\x08http/1.1\x08http/1.0\x11tidegate-tunnel/1";
/// In the order of our preference. What is recorded today and kept until there are quantum computers stays secret with the first
/// (X25519MLKEM768, draft-ietf-tls-ecdhe-mlkem); of what older clients have, X25519 is both the fastest and the safest.
const GROUPS: [&str; 4] = ["X25519MLKEM768", "X25519", "P-256", "P-384"];
/// Mozilla's intermediate list without what lacks forward secrecy by elliptic curves. All are AEAD ciphers, so all are
/// allowed in HTTP/2 (RFC 9113, section 9.2.2).
const CIPHERS_1_2: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const CIPHERS_1_3: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// What all contexts of a listener have in common.
pub(crate) struct Common {
    pub protocol: Protocol,
    pub speaks: Speaks,
    pub clients: Clients,
    /// `None`: each context makes its own.
    pub ticket_keys: Option<TicketKeys>,
}

/// Versions, and what is agreed on in handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    pub min_version: TlsVersion,
    pub max_version: Option<TlsVersion>,
    /// By OpenSSL's names; none are the default.
    pub groups: Vec<String>,
    /// The same, of both versions.
    pub ciphers: Vec<String>,
}

impl Protocol {
    /// Tried by OpenSSL, so that a name that it does not know is told at its place.
    pub(crate) fn knows_group(name: &str) -> bool {
        is_one_name(name)
            && SslContextBuilder::new(SslMethod::tls_server())
                .is_ok_and(|mut context| context.set_groups_list(name).is_ok())
    }

    pub(crate) fn knows_cipher(name: &str) -> bool {
        is_one_name(name)
            && SslContextBuilder::new(SslMethod::tls_server()).is_ok_and(|mut context| {
                match is_of_1_3(name) {
                    true => context.set_ciphersuites(name).is_ok(),
                    // A rule such as `HIGH` stands for many.
                    false => name.contains('-') && context.set_cipher_list(name).is_ok(),
                }
            })
    }

    /// The version of TLS that a cipher is of.
    pub(crate) fn version_of(cipher: &str) -> TlsVersion {
        if is_of_1_3(cipher) { TlsVersion::V1_3 } else { TlsVersion::V1_2 }
    }

    fn apply(&self, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let version = |version| match version {
            TlsVersion::V1_2 => SslVersion::TLS1_2,
            TlsVersion::V1_3 => SslVersion::TLS1_3,
        };
        context.set_min_proto_version(Some(version(self.min_version)))?;
        context.set_max_proto_version(self.max_version.map(version))?;
        let (of_1_3, of_1_2): (Vec<&str>, Vec<&str>) =
            self.ciphers.iter().map(String::as_str).partition(|name| is_of_1_3(name));
        let or = |names: &[&str], default: &str| {
            if names.is_empty() { default.to_owned() } else { names.join(":") }
        };
        context.set_cipher_list(&or(&of_1_2, CIPHERS_1_2))?;
        context.set_ciphersuites(&or(&of_1_3, CIPHERS_1_3))?;
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        context.set_groups_list(&in_order(if groups.is_empty() { &GROUPS } else { &groups }))
    }
}

/// A list for OpenSSL (SSL_CTX_set1_groups_list(3)). Between `:` the client chooses, and what it has sent a key for costs no round trip
/// more. What stands before a `/` is taken before what follows, even if the client has to be asked for its key first. Whether quantum
/// computers will read along is worth that; which curve it is, is not.
fn in_order(groups: &[&str]) -> String {
    let mut list = String::new();
    let mut before = None;
    for group in groups {
        let is_classical = !group.to_ascii_uppercase().contains("MLKEM");
        match before.replace(is_classical) {
            None => {}
            Some(true) if is_classical => list.push(':'),
            Some(_) => list.push('/'),
        }
        list.push_str(group);
    }
    list
}

fn is_of_1_3(cipher: &str) -> bool {
    cipher.starts_with("TLS_")
}

/// OpenSSL's lists have separators and rules; each of ours is one name.
fn is_one_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whose certificates are asked for.
pub(crate) enum Clients {
    Anyone,
    /// What becomes of those whose certificate is no good, and how that is judged.
    Known {
        bad: Bad,
        by: Judge,
    },
}

/// Clients with a bad certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// They count as clients without one. What was wrong stays in the result of the verification, so that nobody takes the certificate for a
    /// good one.
    Ignored,
    Refused,
    /// And so are clients without a certificate.
    RefusedLikeNone,
}

pub(crate) enum Judge {
    /// By OpenSSL: the chain must end in one of these. Without lists nobody is taken to be revoked.
    Authorities(Vec<X509>, Revoked),
    /// By the bundles of our identity.
    Bundles(Judgement),
}

/// Which certificates serve which names.
pub(crate) struct Plan {
    /// For those who name nobody, or nobody we know: indices, at most one of each kind.
    default: Vec<usize>,
    exact: BTreeMap<String, Vec<usize>>,
    /// By the suffix behind `*.`.
    wildcard: BTreeMap<String, Vec<usize>>,
}

impl Plan {
    /// The first certificate of each kind serves a name; the first of all is the default.
    pub(crate) fn of(certificates: &[Arc<Certificate>]) -> Plan {
        let mut plan = Plan { default: Vec::new(), exact: BTreeMap::new(), wildcard: BTreeMap::new() };
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                let serving = match name.strip_prefix("*.") {
                    Some(suffix) => plan.wildcard.entry(suffix.to_owned()).or_default(),
                    None => plan.exact.entry(name.clone()).or_default(),
                };
                let kind = certificate.kind();
                if serving.iter().all(|other| certificates[*other].kind() != kind) {
                    serving.push(index);
                }
            }
        }
        // What comes with the first for its own name comes with it for strangers, too.
        let first = certificates.first().and_then(|first| plan.find(first.names.first()?));
        plan.default = match first.filter(|serving| serving.contains(&0)) {
            Some(serving) => serving.to_vec(),
            None if certificates.is_empty() => Vec::new(),
            None => vec![0],
        };
        plan
    }

    /// Whether `host` has certificates, and a client that asked for `name` was shown none of them.
    pub(crate) fn is_misdirected(&self, name: &str, host: &str) -> bool {
        let shown = self.serving(name).unwrap_or(&self.default);
        self.serving(host).is_some_and(|own| own.iter().all(|certificate| !shown.contains(certificate)))
    }

    /// Whether there is a certificate for a host.
    pub(crate) fn serves(&self, host: &str) -> bool {
        self.serving(host).is_some()
    }

    /// The certificates for a host, by the same rules as [`Names::find`].
    fn serving(&self, host: &str) -> Option<&[usize]> {
        let host = without_root(host).to_ascii_lowercase();
        let by_label = || self.wildcard.get(host.split_once('.').filter(|(label, _)| !label.is_empty())?.1);
        self.exact.get(&host).or_else(by_label).map(Vec::as_slice)
    }

    /// Certificates that nobody will ever see.
    pub(crate) fn unused(&self, certificates: usize) -> Vec<usize> {
        let serving = self.exact.values().chain(self.wildcard.values()).chain([&self.default]);
        let serving: Vec<usize> = serving.flatten().copied().collect();
        (0..certificates).filter(|index| !serving.contains(index)).collect()
    }

    /// `name` may itself be a wildcard.
    fn find(&self, name: &str) -> Option<&[usize]> {
        match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(name),
        }
        .map(Vec::as_slice)
    }
}

/// Contexts by the name a client asks for (RFC 6066, section 3); `None` is the one on which connections begin.
#[derive(Default)]
struct Names {
    exact: HashMap<Box<str>, Option<SslContext>>,
    /// By the suffix behind `*.`, which stands for one label.
    wildcard: HashMap<Box<str>, Option<SslContext>>,
}

impl Names {
    fn find(&self, name: &str) -> Option<&Option<SslContext>> {
        let name = without_root(name);
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        self.exact.get(&*name).or_else(|| {
            let (label, suffix) = name.split_once('.')?;
            self.wildcard.get(suffix).filter(|_| !label.is_empty())
        })
    }
}

/// A name that a client asks for, without the dot that stands for DNS's root: it is not sent (RFC 6066, section 3), and where it is
/// it changes nothing.
pub(crate) fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The context on which connections begin; it knows the others.
///
/// # Errors
///
/// OpenSSL refuses a certificate, such as one whose key is too small.
pub(crate) fn front(certificates: &[Arc<Certificate>], common: &Common) -> Result<SslContext, ErrorStack> {
    let plan = Plan::of(certificates);
    let mut front = builder(certificates, &plan.default, common)?;
    let mut made: HashMap<&[usize], SslContext> = HashMap::new();
    let mut names = Names::default();
    for (from, to) in [(&plan.exact, &mut names.exact), (&plan.wildcard, &mut names.wildcard)] {
        for (name, serving) in from {
            let context = match made.get(serving.as_slice()) {
                _ if *serving == plan.default => None,
                Some(context) => Some(context.clone()),
                None => {
                    let context = builder(certificates, serving, common)?.build();
                    made.insert(serving, context.clone());
                    Some(context)
                }
            };
            to.insert(name.as_str().into(), context);
        }
    }
    if !made.is_empty() {
        front.set_servername_callback(move |ssl, _alert| {
            let Some(name) = ssl.servername(NameType::HOST_NAME) else { return Ok(()) };
            match names.find(name) {
                Some(Some(context)) => ssl.set_ssl_context(context).map_err(|_| SniError::ALERT_FATAL),
                Some(None) => Ok(()),
                // The client will say whether the default will do.
                None => Err(SniError::NOACK),
            }
        });
    }
    Ok(front.build())
}

fn builder(
    certificates: &[Arc<Certificate>],
    serving: &[usize],
    common: &Common,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::tls_server())?;
    context.set_mode(
        SslMode::AUTO_RETRY
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::ENABLE_PARTIAL_WRITE
            // An idle connection keeps no buffer.
            | SslMode::RELEASE_BUFFERS
            // Else a certificate that comes alone has its chain searched for at every handshake.
            | SslMode::NO_AUTO_CHAIN,
    );
    context.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::SINGLE_ECDH_USE
            // Requests say themselves where they end, so a client that just closes has cut nothing off.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    // A record in one read instead of two.
    context.set_read_ahead(true);
    common.protocol.apply(&mut context)?;
    keylog::follow(&mut context);
    let protocols = match common.speaks {
        Speaks::Http => Some(PROTOCOLS),
        Speaks::Mesh => Some(WITH_TUNNELS),
        Speaks::Anything => None,
    };
    if let Some(protocols) = protocols {
        context.set_alpn_select_callback(move |_, offered| {
            select_next_proto(protocols, offered).ok_or(AlpnError::ALERT_FATAL)
        });
    }
    // Tickets hold the session's state, so that none is kept here.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_session_id_context(b"tidegate")?;
    if let Some(keys) = &common.ticket_keys {
        keys.install(&mut context)?;
    }
    for index in serving {
        show(&mut context, &certificates[*index])?;
    }
    ask(&mut context, &common.clients)?;
    Ok(context)
}

/// Each certificate of a context keeps the chain of its own file; what is added as "extra" goes with all of them.
fn show(context: &mut SslContextBuilder, certificate: &Certificate) -> Result<(), ErrorStack> {
    match &certificate.file {
        Some(file) => context.set_certificate_chain_file(file)?,
        None => {
            context.set_certificate(certificate.leaf())?;
            for issuer in &certificate.chain[1..] {
                context.add_extra_chain_cert(issuer.clone())?;
            }
        }
    }
    context.set_private_key(&certificate.key)?;
    context.check_private_key()
}

fn ask(context: &mut SslContextBuilder, clients: &Clients) -> Result<(), ErrorStack> {
    let Clients::Known { bad, by } = clients else { return Ok(()) };
    let mut mode = SslVerifyMode::PEER;
    if *bad == Bad::RefusedLikeNone {
        mode |= SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    }
    match by {
        Judge::Authorities(authorities, revoked) => {
            let mut store = X509StoreBuilder::new()?;
            let mut told = openssl::stack::Stack::<X509Name>::new()?;
            for authority in authorities {
                store.add_cert(authority.clone())?;
                told.push(authority.subject_name().to_owned()?)?;
            }
            revoked.enforce(&mut store)?;
            context.set_cert_store(store.build());
            // Browsers offer their user those of these alone.
            context.set_client_ca_list(told);
            let (is_ignored, revoked) = (*bad == Bad::Ignored, revoked.clone());
            context.set_verify_callback(mode, move |is_fine, chain| {
                trust::is_sound(revoked.judge(is_fine, chain), chain) || is_ignored
            });
        }
        Judge::Bundles(judgement) => {
            let judgement = judgement.clone();
            context.set_verify_callback(mode, move |is_fine, chain| judgement.of(is_fine, chain));
        }
    }
    // A resumed session is not verified again: whoever is revoked could come back for as long as its ticket lives.
    context.set_options(SslOptions::NO_TICKET);
    context.set_num_tickets(0)
}

/// Whether an end that was read is none: see [`expect_notice_of_end`]. The crate tells both alike.
pub(crate) fn has_broken_off(ssl: &SslRef) -> bool {
    let ssl = std::ptr::from_ref(ssl).cast();
    // SAFETY: an `SslRef` is what an `SSL` points to, and both only look at it.
    let (options, shutdown) = unsafe { (SSL_get_options(ssl), SSL_get_shutdown(ssl)) };
    options & SslOptions::IGNORE_UNEXPECTED_EOF.bits() == 0 && shutdown & RECEIVED_SHUTDOWN == 0
}

/// From here on a client that closes without `close_notify` has broken off: in a tunnel nothing else says where the end is.
pub(crate) fn expect_notice_of_end(ssl: &SslRef) {
    // SAFETY: an `SslRef` is what an `SSL` points to. The handshake has returned, so nobody else uses it now; all that is written
    // are its options.
    unsafe {
        let ssl = std::ptr::from_ref(ssl).cast_mut().cast();
        SSL_clear_options(ssl, SslOptions::IGNORE_UNEXPECTED_EOF.bits());
    }
}

#[cfg(test)]
mod tests {
    use openssl::{
        ec::{EcGroup, EcKey},
        nid::Nid,
        pkey::PKey,
        rsa::Rsa,
        x509::X509,
    };

    use super::*;

    fn certificate(names: &[&str], is_rsa: bool) -> Arc<Certificate> {
        let key = match is_rsa {
            true => PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap(),
            false => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
        };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let chain = vec![X509::builder().unwrap().build()];
        Arc::new(Certificate { file: None, is_svid: false, chain, key, names })
    }

    #[test]
    fn each_name_is_served_by_the_first_of_each_kind() {
        let certificates = [
            certificate(&["a.example", "*.b.example"], false),
            certificate(&["c.example", "a.example"], false),
            certificate(&["a.example"], true),
            certificate(&["a.example"], true),
        ];
        let plan = Plan::of(&certificates);
        assert_eq!(plan.find("a.example"), Some(&[0, 2][..]));
        assert_eq!(plan.find("c.example"), Some(&[1][..]));
        assert_eq!(plan.find("*.b.example"), Some(&[0][..]));
        assert_eq!(plan.find("x.b.example"), None);
        assert_eq!(plan.default, [0, 2]);
        assert_eq!(plan.unused(certificates.len()), [3]);
    }

    #[test]
    fn the_first_is_the_default_whatever_its_names() {
        let nameless = [certificate(&[], false), certificate(&["a.example"], false)];
        let plan = Plan::of(&nameless);
        assert_eq!((plan.default.as_slice(), plan.unused(2)), (&[0][..], vec![]));
        assert_eq!(Plan::of(&[]).default, [0; 0]);
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_a_final_dot_for_nothing() {
        let mut names = Names::default();
        names.wildcard.insert("b.example".into(), None);
        names.exact.insert("a.example".into(), None);
        for (name, is_known) in [
            ("a.example", true),
            ("A.example.", true),
            ("x.b.example", true),
            ("X.B.Example", true),
            ("b.example", false),
            ("x.y.b.example", false),
            (".b.example", false),
            ("x.b.example.", true),
            ("x.b.example..", false),
        ] {
            assert_eq!(names.find(name).is_some(), is_known, "{name}");
        }
    }
}
