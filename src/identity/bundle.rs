//! Trust bundles: for each trust domain, the authorities that vouch for its members, and for nobody else's.

use std::{collections::BTreeMap, fmt, sync::Arc};

use openssl::{
    error::ErrorStack,
    sha::Sha256,
    x509::{
        X509,
        store::{X509Store, X509StoreBuilder, X509StoreRef},
        verify::{X509VerifyFlags, X509VerifyParam, X509VerifyParamRef},
    },
};

use super::{SvidError, TrustDomain, leaf::check_authority};

/// No chain that anybody uses is longer.
const DEEPEST: i32 = 8;
/// 112 bits of security (NIST SP 800-57): no SHA-1, no RSA below 2048 bits.
const SECURITY_LEVEL: i32 = 2;

/// The authorities of one trust domain.
pub struct Bundle {
    pub trust_domain: TrustDomain,
    pub authorities: Vec<X509>,
    /// Equal for bundles that hold the same certificates, in whatever order.
    pub fingerprint: [u8; 32],
    store: X509Store,
}

impl Bundle {
    /// # Errors
    ///
    /// There is no certificate, or one that is not a CA.
    pub fn new(trust_domain: TrustDomain, authorities: Vec<X509>) -> Result<Bundle, SvidError> {
        if authorities.is_empty() {
            return Err(SvidError::EmptyBundle);
        }
        authorities.iter().try_for_each(|authority| check_authority(authority))?;
        let store = store(&authorities, |_| ()).map_err(|_| SvidError::Unreadable)?;
        let fingerprint = fingerprint(&authorities).map_err(|_| SvidError::Unreadable)?;
        Ok(Bundle { trust_domain, authorities, fingerprint, store })
    }

    /// # Errors
    ///
    /// It is not PEM, or as for [`Bundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Bundle, SvidError> {
        Bundle::new(trust_domain, X509::stack_from_pem(pem).map_err(|_| SvidError::Unreadable)?)
    }

    /// The authorities for a TLS handshake, which takes the time of its own clock. What comes of it still needs
    /// [`verify`](super::verify()): OpenSSL knows nothing of SPIFFE IDs.
    pub fn store(&self) -> &X509StoreRef {
        &self.store
    }

    /// The authorities as they are at `now`, in seconds since 1970.
    pub(super) fn store_at(&self, now: i64) -> Result<X509Store, ErrorStack> {
        store(&self.authorities, |param| param.set_time(now))
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({}, {} authorities)", self.trust_domain, self.authorities.len())
    }
}

fn store(authorities: &[X509], more: impl FnOnce(&mut X509VerifyParamRef)) -> Result<X509Store, ErrorStack> {
    let mut param = X509VerifyParam::new()?;
    // An authority is trusted because it stands in the bundle, self-signed or not.
    param.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST)?;
    param.set_depth(DEEPEST);
    param.set_auth_level(SECURITY_LEVEL);
    more(&mut param);
    let mut builder = X509StoreBuilder::new()?;
    builder.set_param(&param)?;
    for authority in authorities {
        builder.add_cert(authority.clone())?;
    }
    Ok(builder.build())
}

fn fingerprint(authorities: &[X509]) -> Result<[u8; 32], ErrorStack> {
    let mut all = authorities.iter().map(|authority| authority.to_der()).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    let mut hash = Sha256::new();
    // DER says its own length, so that no two lists run together into the same bytes.
    all.iter().for_each(|der| hash.update(der));
    Ok(hash.finish())
}

/// The bundles of the trust domains that are known, each by its own name.
#[derive(Clone, Debug, Default)]
pub struct Bundles(BTreeMap<TrustDomain, Arc<Bundle>>);

impl Bundles {
    /// Of that trust domain and of no other.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// It takes the place of the bundle of its trust domain, if there is one.
    pub fn insert(&mut self, bundle: Bundle) {
        self.0.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }

    /// Those of `others` take the place of ours.
    pub fn extend(&mut self, others: Bundles) {
        self.0.extend(others.0);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they hold the same authorities for the same trust domains.
    pub fn is_same(&self, other: &Bundles) -> bool {
        let prints = |all: &Bundles| -> Vec<_> {
            all.0.iter().map(|(domain, bundle)| (domain.clone(), bundle.fingerprint)).collect()
        };
        prints(self) == prints(other)
    }
}

/// Of several bundles for one trust domain the last stays.
impl FromIterator<Bundle> for Bundles {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Bundles {
        Bundles(bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), Arc::new(bundle))).collect())
    }
}
