//! `listeners[].tls`: the certificates are read and tried, so that what is wrong with them is told at its place.

use std::sync::Arc;

use super::Compiler;
use crate::{
    config::{self, ClientAuthMode, ClientTrust, Path, Problem, Sources},
    identity::Identity,
    route::HostPattern,
    kept::{Kept, Same},
    snapshot::Live,
    tls::{self, ClientAuth, Isolated, Material, Part, Settings, Source, Speaks, Terminator, Trust},
};

/// Settings, and what they name as it was found.
pub struct PlannedTls {
    pub settings: Settings,
    pub material: Material,
}

/// Beside the settings it is made from, with the identity that it may show.
pub(crate) type KeptTerminator = Kept<(Settings, Option<Same<Identity>>), Terminator>;

impl PlannedTls {
    /// What runs already goes on where nothing has changed, its files included: its session tickets stay good.
    pub(in crate::snapshot) fn build(
        self,
        before: Option<&KeptTerminator>,
        identity: Option<Arc<Identity>>,
        live: &Live,
    ) -> Result<KeptTerminator, Vec<Problem>> {
        let PlannedTls { settings, material } = self;
        let before = before.filter(|before| before.shows(&material));
        let basis = (settings, identity.clone().map(Same));
        Kept::try_keep_or(before, basis, |(settings, _)| {
            Terminator::new(settings.clone(), material, identity, live.metrics.clone())
                .map_err(|error| vec![Problem::new(format!("OpenSSL refuses: {}", tls::reasons(&error)))])
        })
    }
}

pub(super) fn admin_with_full_paths(tls: &config::AdminTls, sources: &Sources) -> config::AdminTls {
    let at = Path::root().key("admin").key("tls");
    config::AdminTls {
        cert: sources.full_path(&at.key("cert"), &tls.cert),
        key: sources.full_path(&at.key("key"), &tls.key),
        client_ca: tls.client_ca.as_ref().map(|ca| sources.full_path(&at.key("client_ca"), ca)),
        roles: tls.roles.clone(),
    }
}

impl Compiler<'_> {
    /// The admin API's certificate is read and tried too; it is read again when the API is served.
    pub(super) fn admin_tls(&mut self, tls: &config::AdminTls) {
        let settings = Settings::of_admin(&admin_with_full_paths(tls, self.sources));
        let at = Path::root().key("admin").key("tls");
        for problem in Material::read(&settings).err().into_iter().flatten() {
            let (key, message, hint) = match problem {
                tls::Problem::Certificate(_, unusable) => match unusable.part {
                    Part::Cert => ("cert", unusable.message, unusable.hint.to_string()),
                    Part::Key => ("key", unusable.message, unusable.hint.to_string()),
                },
                tls::Problem::Authorities(unusable) | tls::Problem::Revoked(unusable) => {
                    ("client_ca", unusable.message, unusable.hint.to_string())
                }
                other @ (tls::Problem::Unused(_) | tls::Problem::Refused(_)) => {
                    ("cert", other.to_string(), "show another certificate".to_owned())
                }
            };
            self.refuse_with_hint(&at.key(key), message, hint);
        }
    }

    pub(super) fn tls(&mut self, tls: &config::ListenerTls, speaks: Speaks, at: &Path) -> Option<PlannedTls> {
        let certificates_at = at.key("certificates");
        if tls.shown().is_empty() {
            if !self.sources.is_doubtful(&certificates_at) {
                let hint = "add `certificates: [{cert: FILE, key: FILE}]`";
                self.refuse_with_hint(&certificates_at, "a TLS listener needs a certificate", hint);
            }
            return None;
        }
        self.need_identity(tls, at);
        let certificates = tls.shown().iter().enumerate().map(|(index, certificate)| {
            let at = certificates_at.index(index);
            match certificate {
                config::Certificate::Identity => Source::Identity,
                config::Certificate::Files(files) => Source::Files {
                    cert: self.sources.full_path(&at.key("cert"), &files.cert),
                    key: self.sources.full_path(&at.key("key"), &files.key),
                },
            }
        });
        let certificates = certificates.collect();
        let clients = self.clients(&tls.client_auth, &at.key("client_auth"))?;
        self.isolated(tls, speaks, &at.key("isolated_hosts"));
        let isolated = Arc::new(Isolated::new(&tls.isolated_hosts));
        let settings = Settings { certificates, clients, min_version: tls.min_version, speaks, isolated };
        match Material::read(&settings) {
            Ok(material) => Some(PlannedTls { settings, material }),
            Err(problems) => {
                for problem in problems {
                    self.refuse_material(problem, at);
                }
                None
            }
        }
    }

    fn isolated(&mut self, tls: &config::ListenerTls, speaks: Speaks, at: &Path) {
        if !tls.isolated_hosts.is_empty() && speaks == Speaks::Anything {
            self.refuse_with_hint(at, "only requests of HTTP name a host", "remove it");
        }
        for (index, name) in tls.isolated_hosts.iter().enumerate() {
            if let Err(error) = HostPattern::parse(name) {
                self.refuse(&at.index(index), error.to_string());
            } else if tls.isolated_hosts[..index].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                self.refuse_with_hint(&at.index(index), format!("{name:?} stands there twice"), "remove one of the two");
            }
        }
    }

    /// Ours, and the bundles by which others' are judged, both come from `identity`.
    fn need_identity(&mut self, tls: &config::ListenerTls, at: &Path) {
        if self.config.identity.is_some() || self.sources.is_doubtful(&Path::root().key("identity")) {
            return;
        }
        let own = tls.certificates.iter().position(|own| *own == config::Certificate::Identity);
        let own = own.map(|index| at.key("certificates").index(index));
        let asks = tls.client_auth.trust == Some(ClientTrust::Spiffe);
        let trust = asks.then(|| at.key("client_auth").key("trust"));
        for at in own.into_iter().chain(trust) {
            self.refuse_with_hint(&at, "this gateway has no identity", "add `identity` at the top level");
        }
    }

    fn clients(&mut self, auth: &config::ClientAuth, at: &Path) -> Option<ClientAuth> {
        if auth.crl.is_some() && !matches!(auth.trust, Some(ClientTrust::Ca(_))) {
            if !self.sources.is_doubtful(&at.key("trust")) {
                let hint = "add `trust: {ca: FILE}`; SVIDs are not revoked, they live for hours";
                self.refuse_with_hint(&at.key("crl"), "there is no authority whose list this could be", hint);
            }
            return None;
        }
        let trust = match (&auth.trust, auth.mode) {
            (None, ClientAuthMode::None) => return Some(ClientAuth::None),
            (Some(_), ClientAuthMode::None) => {
                if !self.sources.is_doubtful(&at.key("mode")) {
                    let hint = "add `mode: require`, or `request` where some clients have no certificate";
                    self.refuse_with_hint(at, "`trust` is given, but clients are asked for nothing", hint);
                }
                return None;
            }
            (None, _) => {
                if !self.sources.is_doubtful(&at.key("trust")) {
                    let hint = "add `trust: spiffe`, or `trust: {ca: FILE}`";
                    self.refuse_with_hint(
                        at,
                        "clients are asked for a certificate, but none is trusted",
                        hint,
                    );
                }
                return None;
            }
            (Some(ClientTrust::Spiffe), ClientAuthMode::Lenient) => {
                let hint = "use `request`, or `trust: {ca: FILE}`";
                self.refuse_with_hint(&at.key("mode"), "`lenient` does not go with `trust: spiffe`: whoever has an identity has a good one", hint);
                return None;
            }
            (Some(ClientTrust::Spiffe), _) => Trust::Spiffe,
            (Some(ClientTrust::Ca(file)), _) => {
                let crl = auth.crl.as_ref().map(|crl| self.sources.full_path(&at.key("crl"), crl));
                Trust::Ca { file: self.sources.full_path(&at.key("trust").key("ca"), file), crl }
            }
        };
        Some(match auth.mode {
            ClientAuthMode::Require => ClientAuth::Require(trust),
            ClientAuthMode::Lenient => ClientAuth::Lenient(trust),
            _ => ClientAuth::Request(trust),
        })
    }

    fn refuse_material(&mut self, problem: tls::Problem, at: &Path) {
        let certificate = |index| at.key("certificates").index(index);
        match problem {
            tls::Problem::Certificate(index, unusable) => {
                let key = match unusable.part {
                    Part::Cert => "cert",
                    Part::Key => "key",
                };
                self.refuse_with_hint(&certificate(index).key(key), unusable.message, unusable.hint);
            }
            tls::Problem::Unused(index) => self.refuse_with_hint(
                &certificate(index),
                "this certificate would never be shown: others before it have the same names and kind of key, or it has none",
                "a certificate is chosen by the DNS names in it",
            ),
            tls::Problem::Authorities(unusable) => {
                let at = at.key("client_auth").key("trust").key("ca");
                self.refuse_with_hint(&at, unusable.message, unusable.hint);
            }
            tls::Problem::Revoked(unusable) => {
                self.refuse_with_hint(&at.key("client_auth").key("crl"), unusable.message, unusable.hint);
            }
            tls::Problem::Refused(reasons) => self.refuse_with_hint(
                &at.key("certificates"),
                format!("OpenSSL refuses to serve with this: {reasons}"),
                "keys need 2048 bits (RSA) or 224 (ECDSA), and signatures SHA-256",
            ),
        }
    }
}
