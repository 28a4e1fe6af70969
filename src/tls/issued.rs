//! Certificates that a CA issues while the gateway runs, and what proves to it that a name is ours (tls-alpn-01, RFC 8737). Who orders
//! them is not known here: they are put in, and listeners show them from their next connection on.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use openssl::{
    asn1::{Asn1Object, Asn1OctetString, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    ssl::{AlpnError, SslContext, SslMethod, SslSessionCacheMode, SslVersion, select_next_proto},
    x509::{X509, X509Extension, X509NameBuilder, extension::SubjectAlternativeName},
};

use super::{certificate::Certificate, context::without_root};

/// What a CA offers that comes to see a proof, and nothing else.
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";
const ACME_TLS_LIST: &[u8] = b"\x0aacme-tls/1";
/// id-pe-acmeIdentifier (RFC 8737, section 6.1).
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

type All = BTreeMap<(Arc<str>, Arc<str>), Arc<Certificate>>;

/// A certificate of a CA's that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ordered {
    /// By which it is known: its name, or what stands for several.
    pub key: Arc<str>,
    pub names: Arc<[Arc<str>]>,
}

#[derive(Default)]
pub struct Issued {
    /// By account and name.
    certificates: ArcSwap<All>,
    version: AtomicU64,
    /// One at a time changes them.
    turn: Mutex<()>,
    proofs: RwLock<HashMap<String, SslContext>>,
    proving: AtomicUsize,
    /// Proofs may be under way at gateways elsewhere, and the CA comes here to see one.
    watches: AtomicBool,
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    on_demand: OnceLock<Arc<dyn OnDemand>>,
}

/// Who knows of proofs that are under way at other gateways.
pub(crate) trait Elsewhere: Send + Sync {
    /// The digest that the CA expects of `name`.
    fn digest(&self, name: String, client: IpAddr) -> BoxFuture<'static, Option<[u8; 32]>>;
}

/// Who finds or orders certificates for names that nobody has configured.
pub(crate) trait OnDemand: Send + Sync {
    fn certificate(
        &self,
        account: Arc<str>,
        name: Arc<str>,
        client: IpAddr,
    ) -> BoxFuture<'static, Option<Arc<Certificate>>>;
}

/// Why there is a certificate for a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Want {
    /// It stands in the configuration.
    #[default]
    Named,
    /// A client has asked for it. Only those who ask for it again need to know of it.
    OnDemand,
}

/// The proof can be seen for as long as this lives.
pub(crate) struct ProvingName {
    issued: Arc<Issued>,
    name: String,
}

impl Issued {
    pub(crate) fn put(&self, account: &Arc<str>, name: &Arc<str>, certificate: Arc<Certificate>, want: Want) {
        self.change(|all| drop(all.insert((account.clone(), name.clone()), certificate)));
        if want == Want::Named {
            self.version.fetch_add(1, AcqRel);
        }
    }

    /// One that nobody has configured.
    pub(crate) fn remove(&self, account: &Arc<str>, name: &Arc<str>) {
        self.change(|all| drop(all.remove(&(account.clone(), name.clone()))));
    }

    /// Keep only these.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&str, &str) -> bool) {
        if self.certificates.load().keys().any(|(account, name)| !is_wanted(account, name)) {
            self.change(|all| all.retain(|(account, name), _| is_wanted(account, name)));
            self.version.fetch_add(1, AcqRel);
        }
    }

    fn change(&self, change: impl FnOnce(&mut All)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = All::clone(&self.certificates.load());
        change(&mut all);
        self.certificates.store(Arc::new(all));
    }

    /// What is there for one name.
    pub(crate) fn one(&self, account: &Arc<str>, name: &Arc<str>) -> Option<Arc<Certificate>> {
        self.certificates.load().get(&(account.clone(), name.clone())).cloned()
    }

    /// What a client is shown that asks for a name that nobody has configured; it may take as long as an order.
    pub(super) async fn on_demand(
        &self,
        account: &Arc<str>,
        name: &str,
        client: IpAddr,
    ) -> Option<Arc<Certificate>> {
        let name = Arc::from(name);
        match self.one(account, &name) {
            Some(certificate) => Some(certificate),
            None => self.on_demand.get()?.certificate(account.clone(), name, client).await,
        }
    }

    /// Once.
    pub(crate) fn demand_of(&self, on_demand: Arc<dyn OnDemand>) {
        let _ = self.on_demand.set(on_demand);
    }

    /// Another one after each change of what was configured.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Those that are there, in this order.
    pub(super) fn of(&self, account: &Arc<str>, ordered: &[Ordered]) -> Vec<Arc<Certificate>> {
        let all = self.certificates.load();
        let found = |ordered: &Ordered| all.get(&(account.clone(), ordered.key.clone())).cloned();
        ordered.iter().filter_map(found).collect()
    }

    /// `digest` is of what the CA expects.
    pub(crate) fn prove(self: &Arc<Self>, name: &str, digest: &[u8; 32]) -> Result<ProvingName, ErrorStack> {
        let context = proof(name, digest)?;
        let mut proofs = self.proofs.write().unwrap_or_else(PoisonError::into_inner);
        proofs.insert(name.to_owned(), context);
        self.proving.store(proofs.len(), Relaxed);
        Ok(ProvingName { issued: self.clone(), name: name.to_owned() })
    }

    pub(super) fn is_proving(&self) -> bool {
        self.proving.load(Relaxed) > 0 || self.watches.load(Relaxed)
    }

    pub(super) async fn proof(&self, name: &str, client: IpAddr) -> Option<SslContext> {
        let name = without_root(name).to_ascii_lowercase();
        if let Some(proof) = self.proof_here(&name) {
            return Some(proof);
        }
        let elsewhere = self.elsewhere.get().filter(|_| self.watches.load(Relaxed) && is_name(&name))?;
        let digest = elsewhere.digest(name.clone(), client).await?;
        proof(&name, &digest).ok()
    }

    fn proof_here(&self, name: &str) -> Option<SslContext> {
        self.proofs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Once.
    pub(crate) fn ask_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    pub(crate) fn watch_for_others(&self, watches: bool) {
        self.watches.store(watches, Relaxed);
    }
}

impl Drop for ProvingName {
    fn drop(&mut self) {
        let mut proofs = self.issued.proofs.write().unwrap_or_else(PoisonError::into_inner);
        proofs.remove(&self.name);
        self.issued.proving.store(proofs.len(), Relaxed);
    }
}

/// It becomes a key in a storage.
fn is_name(name: &str) -> bool {
    let is_fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&name.len()) && name.bytes().all(is_fine) && !name.contains("..")
}

/// Shows a certificate that nobody believes, with the digest in it, and speaks no other protocol.
fn proof(name: &str, digest: &[u8; 32]) -> Result<SslContext, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, "ACME challenge")?;
    let subject = subject.build();
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(&subject)?;
    builder.set_pubkey(&key)?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(1)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    // An OCTET STRING within the extension's own.
    let value = [&[4, 32][..], digest].concat();
    let (id, value) = (Asn1Object::from_str(ACME_IDENTIFIER)?, Asn1OctetString::new_from_bytes(&value)?);
    builder.append_extension(X509Extension::new_from_der(&id, true, &value)?)?;
    builder.sign(&key, MessageDigest::sha256())?;
    let mut context = SslContext::builder(SslMethod::tls_server())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_certificate(&builder.build())?;
    context.set_private_key(&key)?;
    context.set_alpn_select_callback(|_, offered| {
        select_next_proto(ACME_TLS_LIST, offered).ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(context.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proof_is_there_while_it_is_needed_and_for_its_name_alone() {
        let (issued, client) = (Arc::new(Issued::default()), [192, 0, 2, 1].into());
        assert!(!issued.is_proving());
        let proving = issued.prove("a.example", &[7; 32]).unwrap();
        assert!(issued.is_proving() && issued.proof("A.Example.", client).await.is_some());
        assert!(
            issued.proof("b.example", client).await.is_none() && issued.proof("", client).await.is_none()
        );
        drop(proving);
        assert!(!issued.is_proving() && issued.proof("a.example", client).await.is_none());
    }

    #[test]
    fn what_is_not_wanted_any_more_goes() {
        let issued = Issued::default();
        let (account, version) = (Arc::from("default"), issued.version());
        issued.retain(|_, _| false);
        assert_eq!(issued.version(), version, "there was nothing");
        assert!(issued.of(&account, &[Ordered { key: "a.example".into(), names: [].into() }]).is_empty());
    }
}
