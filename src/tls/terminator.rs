//! What begins TLS on a listener's connections, for as long as the listener's TLS settings stay as they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use openssl::{
    asn1::{Asn1Time, Asn1TimeRef},
    error::ErrorStack,
    ssl::{Ssl, SslContext, SslRef},
    x509::{GeneralNameRef, X509Ref, X509VerifyResult},
};

use crate::{
    identity::{Caller, Identity, leaf_id},
    observe::metrics::{CertificateMetrics, Metrics},
    tls::{
        Certificate, CertificateReport, ClientAuth, Isolated, Issued, Lists, Material, Problem,
        RevocationReport, Settings, Trust,
        caller::{self, caller},
        client_verify, context,
    },
};

/// What is shown for a name, and what connections for it begin on.
type OnDemand = (Arc<Certificate>, SslContext);

/// As the metrics of challenges call it.
const TLS_ALPN: &str = "tls-alpn-01";

pub struct Terminator {
    settings: Settings,
    identity: Option<Arc<Identity>>,
    /// What a CA has issued, and what proves a name to one.
    issued: Option<Arc<Issued>>,
    metrics: Arc<Metrics>,
    shown: ArcSwap<Shown>,
    /// One at a time makes what is shown next.
    turn: Mutex<()>,
}

/// What connections begin with at present.
struct Shown {
    /// `None` while there is no certificate at all: that of our identity may be still to come.
    context: Option<SslContext>,
    /// Which certificates serve which names; `None` where all names have the same.
    names: Option<Arc<context::Plan>>,
    /// Of names that nobody has configured, made when the first client asks for one.
    on_demand: Mutex<HashMap<Arc<str>, OnDemand>>,
    material: Arc<Material>,
    fingerprint: [u8; 32],
    svid: Option<[u8; 32]>,
    /// Of what was issued, the version that this has.
    issue: u64,
    /// Their gauges live as long as they are shown.
    _expiries: Vec<Arc<CertificateMetrics>>,
}

impl Terminator {
    /// # Errors
    ///
    /// None that [`Material::read`] would not have found.
    pub fn new(
        settings: Settings,
        material: Material,
        identity: Option<Arc<Identity>>,
        issued: Option<Arc<Issued>>,
        metrics: Arc<Metrics>,
    ) -> Result<Terminator, ErrorStack> {
        let issued = issued.filter(|_| settings.shows_issued());
        let beside = (identity.as_ref(), issued.as_ref());
        let shown = Shown::new(&settings, Arc::new(material), beside, &metrics)?;
        let shown = ArcSwap::from_pointee(shown);
        Ok(Terminator { settings, identity, issued, metrics, shown, turn: Mutex::default() })
    }

    /// Whether connections begin with this material: the files may have changed with or without a reload.
    pub fn shows(&self, material: &Material) -> bool {
        self.shown.load().fingerprint == material.fingerprint()
    }

    /// The files to watch.
    pub fn files(&self) -> Vec<PathBuf> {
        self.settings.files()
    }

    /// The certificates that are shown at present, our own identity's not among them.
    pub(crate) fn certificates(&self) -> Vec<CertificateReport> {
        let shown = self.shown.load();
        let certificates = shown.material.with(None, self.issued.as_deref());
        let reports = certificates
            .iter()
            .map(|certificate| CertificateReport::of(certificate.leaf(), certificate.file.clone()));
        reports.collect()
    }

    /// Whose signature makes a client's certificate good, where that is said by a file.
    pub(crate) fn authorities(&self) -> Vec<CertificateReport> {
        let shown = self.shown.load();
        let file = self.settings.clients_file();
        shown.material.authorities.iter().map(|ca| CertificateReport::of(ca, file.clone())).collect()
    }

    pub(crate) fn revocations(&self) -> Vec<RevocationReport> {
        self.shown.load().material.revoked.lists.iter().map(|list| RevocationReport::of(list)).collect()
    }

    pub(crate) fn fetches_lists(&self) -> bool {
        let Some(Trust::Ca { crl: Some(crl), .. }) = self.settings.clients.trust() else { return false };
        matches!(crl.kind, Lists::Fetched(_))
    }

    /// Lists are fetched, and there is none yet.
    pub(crate) fn lacks_lists(&self) -> bool {
        self.shown.load().material.revoked.are_missing()
    }

    /// Whether our own identity is among what is shown.
    pub(crate) fn shows_identity(&self) -> bool {
        self.settings.shows_identity()
    }

    /// A new connection's TLS, as the server; `None` while there is no certificate to show.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn begin(&self) -> Result<Option<Ssl>, ErrorStack> {
        if self.settings.shows_identity() || self.issued.is_some() {
            self.follow();
        }
        let shown = self.shown.load();
        shown.context.as_ref().map(|context| self.begin_on(context)).transpose()
    }

    /// The same for a client that asks for `name`, which may be one that nobody has configured. Then it may take as long as an order.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub(crate) async fn begin_for(
        &self,
        name: Option<&str>,
        client: IpAddr,
    ) -> Result<Option<Ssl>, ErrorStack> {
        let begun = self.begin()?;
        let (Some(account), Some(issued), Some(name)) = (self.settings.on_demand(), &self.issued, name)
        else {
            return Ok(begun);
        };
        if self.shown.load().knows(name) {
            return Ok(begun);
        }
        let Some(certificate) = issued.on_demand(account, name, client).await else { return Ok(begun) };
        let context = self.shown.load().on_demand(&self.settings, self.identity.as_ref(), certificate)?;
        self.begin_on(&context).map(Some)
    }

    fn begin_on(&self, context: &SslContext) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(context)?;
        ssl.set_accept_state();
        if self.settings.clients.trust() == Some(&Trust::Spiffe) {
            client_verify::prepare(&mut ssl)?;
        }
        Ok(ssl)
    }

    /// What a connection begins with that offers nothing but `acme-tls/1` (RFC 8737); `None` where no proof of that name is under way.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub(crate) async fn begin_proof(&self, name: &str, client: IpAddr) -> Result<Option<Ssl>, ErrorStack> {
        let proof = match &self.issued {
            Some(issued) => issued.proof(name, client).await,
            None => None,
        };
        let Some(context) = proof else {
            self.metrics.acme().challenge_unknown(TLS_ALPN);
            return Ok(None);
        };
        let mut ssl = Ssl::new(&context)?;
        ssl.set_accept_state();
        Ok(Some(ssl))
    }

    pub(crate) fn proof_was_seen(&self) {
        self.metrics.acme().challenge_answered(TLS_ALPN);
    }

    /// ClientHellos are worth a look: a CA may come by to see a proof, or a name may be one that nobody has configured.
    pub(crate) fn looks_at_hellos(&self) -> bool {
        self.settings.on_demand().is_some() || self.issued.as_ref().is_some_and(|issued| issued.is_proving())
    }

    /// Which hosts are not those whose certificate the client was shown; `None` where there can be no such host.
    pub(crate) fn names(&self) -> Option<Arc<context::Plan>> {
        self.shown.load().names.clone()
    }

    /// Hosts that are kept apart from others; `None` where all are alike.
    pub(crate) fn isolated(&self) -> Option<Arc<Isolated>> {
        Some(self.settings.isolated.clone()).filter(|isolated| !isolated.is_empty())
    }

    /// Whose certificate the client has shown in a handshake that has come to its end; `None` where it has none, none that counts, or was
    /// not asked.
    ///
    /// # Errors
    ///
    /// It was not verified.
    pub fn caller(&self, ssl: &SslRef) -> Result<Option<Caller>, String> {
        if self.settings.clients == ClientAuth::None {
            return Ok(None);
        }
        let Some(leaf) = ssl.peer_certificate() else { return Ok(None) };
        if ssl.verify_result() != X509VerifyResult::OK {
            if let ClientAuth::Lenient(_) = self.settings.clients {
                return Ok(None);
            }
            return Err(ssl.verify_result().error_string().to_owned());
        }
        let id = match self.settings.clients.trust() {
            Some(Trust::Spiffe) => match client_verify::verdict(ssl) {
                Some(Ok(id)) => Some(id.clone()),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the certificate was not looked at".to_owned()),
            },
            // The operator's own authority vouches for whatever it writes.
            _ => leaf_id(&leaf).ok(),
        };
        Ok(Some(caller(&leaf, id)))
    }

    /// Look at the files again: true when there was something new in them, which new connections begin with. Those that
    /// are open go on. Blocking.
    ///
    /// # Errors
    ///
    /// What is wrong with them; nothing changes then.
    pub fn refresh(&self) -> Result<bool, Vec<Problem>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let refreshed = Material::read(&self.settings).and_then(|material| {
            if self.shown.load().fingerprint == material.fingerprint() {
                return Ok(false);
            }
            let beside = (self.identity.as_ref(), self.issued.as_ref());
            let shown = Shown::new(&self.settings, Arc::new(material), beside, &self.metrics);
            let shown = shown.map_err(|error| vec![Problem::Refused(super::reasons(&error))])?;
            self.shown.store(Arc::new(shown));
            Ok(true)
        });
        let reloads = self.metrics.certificate_reloads();
        match &refreshed {
            Ok(true) => reloads.succeeded(),
            Ok(false) => {}
            Err(_) => reloads.failed(),
        }
        refreshed
    }

    /// The first connection after our SVID was renewed, or something was issued, has the new one made ready.
    fn follow(&self) {
        let svid = self.identity.as_ref().filter(|_| self.settings.shows_identity());
        let svid = svid.and_then(|identity| identity.current().svid.as_ref().map(|svid| svid.fingerprint));
        let issue = self.issued.as_ref().map_or(0, |issued| issued.version());
        let is_current = |shown: &Shown| shown.svid == svid && shown.issue == issue;
        if is_current(&self.shown.load()) {
            return;
        }
        // While somebody else is at it, the old one is good enough.
        let Ok(_turn) = self.turn.try_lock() else { return };
        let shown = self.shown.load_full();
        if is_current(&shown) {
            return;
        }
        let beside = (self.identity.as_ref(), self.issued.as_ref());
        match Shown::new(&self.settings, shown.material.clone(), beside, &self.metrics) {
            Ok(shown) => self.shown.store(Arc::new(shown)),
            Err(error) => log::warn!(
                "the renewed certificate cannot be shown, the old one stays: {}",
                super::reasons(&error)
            ),
        }
    }
}

impl Shown {
    fn new(
        settings: &Settings,
        material: Arc<Material>,
        (identity, issued): (Option<&Arc<Identity>>, Option<&Arc<Issued>>),
        metrics: &Metrics,
    ) -> Result<Shown, ErrorStack> {
        // Before they are looked at: what comes meanwhile is looked at again.
        let issue = issued.map_or(0, |issued| issued.version());
        let svid = identity.and_then(|identity| identity.current().svid.clone());
        let svid = svid.filter(|_| settings.shows_identity());
        let certificates = material.with(svid.as_deref(), issued.map(Arc::as_ref));
        let context = match certificates.is_empty() {
            true => None,
            false => Some(context::front(&certificates, &material.common(settings, identity))?),
        };
        // Of several with one subject, such as an RSA and an ECDSA certificate, the first to end. Our identity's is told
        // where it is kept.
        let mut ends = BTreeMap::<String, SystemTime>::new();
        for certificate in certificates.iter().filter(|certificate| !certificate.is_svid) {
            let (subject, end) = (subject(certificate.leaf()), time(certificate.leaf().not_after()));
            ends.entry(subject).and_modify(|first| *first = end.min(*first)).or_insert(end);
        }
        for list in material.revoked.lists.iter() {
            let whose = format!("CRL of {}", caller::subject(list.issuer_name()));
            ends.extend(list.next_update().map(|end| (whose, time(end))));
        }
        let expiries = ends.into_iter().map(|(subject, end)| {
            let gauge = metrics.certificate(&subject);
            gauge.expires(end);
            gauge
        });
        Ok(Shown {
            context,
            names: (certificates.len() > 1 || settings.on_demand().is_some())
                .then(|| Arc::new(context::Plan::of(&certificates))),
            on_demand: Mutex::default(),
            fingerprint: material.fingerprint(),
            material,
            svid: svid.map(|svid| svid.fingerprint),
            issue,
            _expiries: expiries.collect(),
        })
    }
}

impl Shown {
    /// Whether a name is configured, or in a certificate that is.
    fn knows(&self, name: &str) -> bool {
        self.names.as_ref().is_some_and(|names| names.serves(name)) || self.material.names(name)
    }

    fn on_demand(
        &self,
        settings: &Settings,
        identity: Option<&Arc<Identity>>,
        certificate: Arc<Certificate>,
    ) -> Result<SslContext, ErrorStack> {
        let Some(name) = certificate.names.first() else {
            return context::front(&[certificate], &self.material.common(settings, identity));
        };
        let made = |all: &HashMap<Arc<str>, OnDemand>| {
            let (known, context) = all.get(name.as_str())?;
            Arc::ptr_eq(known, &certificate).then(|| context.clone())
        };
        if let Some(context) = made(&self.on_demand.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(context);
        }
        let common = self.material.common(settings, identity);
        let context = context::front(std::slice::from_ref(&certificate), &common)?;
        let mut all = self.on_demand.lock().unwrap_or_else(PoisonError::into_inner);
        // Two may have made one: tickets are to be of one.
        if let Some(context) = made(&all) {
            return Ok(context);
        }
        all.insert(name.as_str().into(), (certificate.clone(), context.clone()));
        Ok(context)
    }
}

/// How operators know a certificate: its subject, or its first name where that is empty, as it is in many.
fn subject(leaf: &X509Ref) -> String {
    let subject = caller::subject(leaf.subject_name());
    if !subject.is_empty() {
        return subject;
    }
    let names = leaf.subject_alt_names();
    let name = |name: &GeneralNameRef| name.dnsname().or(name.uri()).map(str::to_owned);
    names.iter().flatten().find_map(name).unwrap_or_default()
}

pub(crate) fn time(at: &Asn1TimeRef) -> SystemTime {
    let epoch = Asn1Time::from_unix(0).ok();
    let left = epoch.and_then(|epoch| epoch.diff(at).ok());
    let seconds = left.map_or(0, |left| i64::from(left.days) * 86_400 + i64::from(left.secs));
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
