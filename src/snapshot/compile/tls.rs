//! `listeners[].tls`: the certificates are read and tried, so that what is wrong with them is told at its place.

use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use super::{Compiler, acme::is_web_url};
use crate::{
    config::{self, ClientAuthMode, ClientTrust, Path, Problem, Sources},
    identity::{Identity, hex},
    kept::{Kept, Same},
    policy::freshness::Freshness,
    route::HostPattern,
    snapshot::Live,
    tls::{
        self, ClientAuth, Isolated, Lists, Material, Part, Protocol, Revocation, Settings, Source, Speaks,
        Stale, Terminator, TicketFile, Trust,
    },
    upkeep::{Kept as KeptFile, ListSettings, TicketSettings},
};

/// Of the many that OpenSSL knows, those that clients have.
const GROUPS: [&str; 6] = ["X25519MLKEM768", "X25519", "P-256", "P-384", "P-521", "SecP256r1MLKEM768"];

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
            let issued = Some(live.acme.issued().clone());
            Terminator::new(settings.clone(), material, identity, issued, live.metrics.clone())
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
                other
                @ (tls::Problem::Unused(_) | tls::Problem::TicketKeys(_) | tls::Problem::Refused(_)) => {
                    ("cert", other.to_string(), "show another certificate".to_owned())
                }
            };
            self.refuse_with_hint(&at.key(key), message, hint);
        }
    }

    /// `hosts` are those that the routes behind it are for.
    pub(super) fn tls(
        &mut self,
        tls: &config::ListenerTls,
        speaks: Speaks,
        hosts: &[&str],
        at: &Path,
    ) -> Option<PlannedTls> {
        let certificates_at = at.key("certificates");
        if tls.shown().is_empty() && tls.acme.is_none() {
            if !self.sources.is_doubtful(&certificates_at) && !self.sources.is_doubtful(&at.key("acme")) {
                let hint =
                    "add `acme: {}` for one of Let's Encrypt, or `certificates: [{cert: FILE, key: FILE}]`";
                self.refuse_with_hint(&certificates_at, "a TLS listener needs a certificate", hint);
            }
            return None;
        }
        self.need_identity(tls, at);
        let mut certificates = Vec::new();
        for (index, certificate) in tls.shown().iter().enumerate() {
            let at = certificates_at.index(index);
            certificates.push(match certificate {
                config::Certificate::Identity => Source::Identity,
                config::Certificate::Files(files) => Source::Files {
                    cert: self.sources.full_path(&at.key("cert"), &files.cert),
                    key: self.sources.full_path(&at.key("key"), &files.key),
                },
                config::Certificate::Acme(acme) => {
                    let places = (&at, &at.key("acme"));
                    self.acme_names(
                        &acme.account,
                        acme.names.as_deref(),
                        hosts,
                        (acme.together, false),
                        places,
                    )?
                }
            });
        }
        if let Some(acme) = &tls.acme {
            let account = acme.account.as_deref().unwrap_or(config::DEFAULT_ACCOUNT);
            let at = at.key("acme");
            let (places, on_demand) = ((&at, &at.key("account")), acme.on_demand);
            let how = (acme.together, on_demand);
            let named = self.acme_names(account, acme.names.as_deref(), hosts, how, places);
            let asked = match on_demand {
                true => Some(self.acme_on_demand(account, &at.key("on_demand"))?),
                false => None,
            };
            certificates.extend(if on_demand { named } else { Some(named?) });
            certificates.extend(asked);
        }
        let clients = self.clients(&tls.client_auth, &at.key("client_auth"));
        let (protocol, ticket_keys) = (self.protocol(tls, at), self.ticket_keys(tls, at));
        let (clients, protocol, ticket_keys) = (clients?, protocol?, ticket_keys?);
        self.isolated(tls, speaks, &at.key("isolated_hosts"));
        let isolated = Arc::new(Isolated::new(&tls.isolated_hosts));
        let settings = Settings { certificates, clients, protocol, ticket_keys, speaks, isolated };
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
                self.refuse_with_hint(
                    &at.index(index),
                    format!("{name:?} stands there twice"),
                    "remove one of the two",
                );
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

    fn protocol(&mut self, tls: &config::ListenerTls, at: &Path) -> Option<Protocol> {
        let before = self.problems.len();
        if tls.max_version.is_some_and(|newest| newest < tls.min_version) {
            let hint = "leave `max_version` out: the newest that both sides have is spoken";
            self.refuse_with_hint(&at.key("max_version"), "this is older than `min_version`", hint);
        }
        for (index, group) in tls.groups.iter().enumerate().filter(|(_, group)| !Protocol::knows_group(group))
        {
            let hint = match self.near(group, GROUPS.into_iter()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("such as {}", GROUPS.join(", ")),
            };
            let at = at.key("groups").index(index);
            self.refuse_with_hint(&at, format!("OpenSSL knows no group `{group}`"), hint);
        }
        for (index, cipher) in tls.ciphers.iter().enumerate() {
            let at = at.key("ciphers").index(index);
            if !Protocol::knows_cipher(cipher) {
                let hint = "`openssl ciphers -v` lists them; each stands for itself, without rules";
                self.refuse_with_hint(&at, format!("OpenSSL knows no cipher `{cipher}`"), hint);
            } else if !tls.speaks(Protocol::version_of(cipher)) {
                let message = format!("`{cipher}` is of a version of TLS that is not spoken here");
                let hint = "leave it out, or look at `min_version` and `max_version`";
                self.refuse_with_hint(&at, message, hint);
            }
        }
        let config::ListenerTls { min_version, max_version, groups, ciphers, .. } = tls.clone();
        let is_sound = self.problems.len() == before;
        is_sound.then_some(Protocol { min_version, max_version, groups, ciphers })
    }

    /// Where clients show certificates, nobody comes back with a ticket: they are verified again.
    fn ticket_keys(&mut self, tls: &config::ListenerTls, at: &Path) -> Option<Option<TicketFile>> {
        let Some(keys) = &tls.ticket_keys else { return Some(None) };
        let at = at.key("ticket_keys");
        if tls.client_auth.mode != ClientAuthMode::None {
            let message = "clients that are asked for a certificate are given no tickets";
            self.refuse_with_hint(&at, message, "leave `ticket_keys` out here");
            return None;
        }
        let shared = match keys {
            config::TicketKeys::File(file) => {
                return Some(Some(TicketFile::Written(self.sources.full_path(&at, file))));
            }
            config::TicketKeys::Shared(shared) => shared,
        };
        self.refuse_zero(&at.key("rotate"), shared.rotate);
        let fleet = self.shared_storage(&shared.storage, "tickets", &at.key("storage"));
        let harm = "keys that gateways share need a place where they are kept";
        let print = format!("{fleet:?}\0{:?}", fleet.by.place());
        let file = self.kept_file(&format!("tickets/{}.keys", short_print(&print)), harm, &at)?;
        let settings = TicketSettings { fleet, rotate: shared.rotate.into(), file: file.clone() };
        self.keep(KeptFile::Tickets(settings));
        Some(Some(TicketFile::Kept(file)))
    }

    /// A file of `state_dir`.
    fn kept_file(&mut self, name: &str, harm: &str, at: &Path) -> Option<PathBuf> {
        let state_dir_at = Path::root().key("state_dir");
        let Some(state_dir) = &self.config.state_dir else {
            if !self.sources.is_doubtful(&state_dir_at) {
                self.refuse_with_hint(at, harm, "add `state_dir: /var/lib/tidegate` at the top level");
            }
            return None;
        };
        Some(self.sources.directory_of(&state_dir_at).join(state_dir).join(name))
    }

    fn keep(&mut self, kept: KeptFile) {
        if !self.upkeep.contains(&kept) {
            self.upkeep.push(kept);
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
                self.refuse_with_hint(
                    &at.key("mode"),
                    "`lenient` does not go with `trust: spiffe`: whoever has an identity has a good one",
                    hint,
                );
                return None;
            }
            (Some(ClientTrust::Spiffe), _) => Trust::Spiffe,
            (Some(ClientTrust::Ca(file)), _) => {
                let file = self.sources.full_path(&at.key("trust").key("ca"), file);
                let crl = match &auth.crl {
                    // OpenSSL has one result for a certificate: what is passed over for the list's sake would hide what else is wrong.
                    Some(config::Crl::Fetched(fetched))
                        if auth.mode == ClientAuthMode::Lenient
                            && fetched.stale == config::StaleCrl::Allow =>
                    {
                        self.refuse_with_hint(
                            &at.key("crl").key("stale"),
                            "`stale: allow` does not go with `mode: lenient`",
                            "use `stale: refuse`, or `mode: request`",
                        );
                        return None;
                    }
                    Some(crl) => Some(self.crl(crl, &file, &at.key("crl"))?),
                    None => None,
                };
                Trust::Ca { file, crl }
            }
        };
        Some(match auth.mode {
            ClientAuthMode::Require => ClientAuth::Require(trust),
            ClientAuthMode::Lenient => ClientAuth::Lenient(trust),
            _ => ClientAuth::Request(trust),
        })
    }

    /// `authorities` is the file of those who sign it.
    fn crl(&mut self, crl: &config::Crl, authorities: &FilePath, at: &Path) -> Option<Revocation> {
        let fetched = match crl {
            config::Crl::File(file) => {
                let file = self.sources.full_path(at, file);
                return Some(Revocation { file, kind: Lists::Written });
            }
            config::Crl::Fetched(fetched) => fetched,
        };
        let before = self.problems.len();
        self.refuse_zero(&at.key("every"), fetched.every);
        self.refuse_zero(&at.key("timeout"), fetched.timeout);
        let urls_at = at.key("urls");
        if fetched.urls.is_empty() {
            let hint = "add the URL at which each authority publishes its list";
            self.refuse_with_hint(&urls_at, "no URL, so no list is fetched", hint);
        }
        for (index, url) in fetched.urls.iter().enumerate() {
            let at = urls_at.index(index);
            if !is_web_url(url) || url.contains('@') {
                let hint = "such as http://crl.example.com/root.crl";
                self.refuse_with_hint(&at, format!("{url:?} is no URL"), hint);
            } else if fetched.urls[..index].contains(url) {
                self.refuse_with_hint(&at, "this URL stands here twice", "leave one of them out");
            }
        }
        let harm = "lists that are fetched need a place where they are kept: a start without them would refuse all clients";
        // Not by the URLs: where one of them changes, the lists that there are still count.
        let print = short_print(&authorities.display().to_string());
        let file = self.kept_file(&format!("crl/{print}.pem"), harm, at)?;
        if self.problems.len() > before {
            return None;
        }
        self.keep(KeptFile::Lists(ListSettings {
            urls: fetched.urls.clone(),
            authorities: authorities.to_owned(),
            file: file.clone(),
            freshness: Freshness { every: fetched.every.into() },
            timeout: fetched.timeout.into(),
            largest: usize::try_from(fetched.max_size.bytes()).unwrap_or(usize::MAX),
        }));
        let stale = match fetched.stale {
            config::StaleCrl::Refuse => Stale::Refuse,
            config::StaleCrl::Allow => Stale::Allow,
        };
        Some(Revocation { file, kind: Lists::Fetched(stale) })
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
            tls::Problem::TicketKeys(unusable) => {
                self.refuse_with_hint(&at.key("ticket_keys"), unusable.message, unusable.hint);
            }
            tls::Problem::Refused(reasons) => self.refuse_with_hint(
                &at.key("certificates"),
                format!("OpenSSL refuses to serve with this: {reasons}"),
                "keys need 2048 bits (RSA) or 224 (ECDSA), and signatures SHA-256",
            ),
        }
    }
}

/// For the name of a file.
fn short_print(text: &str) -> String {
    hex(&openssl::sha::sha256(text.as_bytes()))[..16].to_owned()
}
