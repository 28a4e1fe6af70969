//! `acme`: which accounts order certificates for which names. What could never be proved or issued is refused here, since a CA counts
//! orders that fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::Compiler;
use crate::{
    acme::{
        AccountSettings, CaSettings, Certificates, Challenge, Eab, HookKind, HookSettings, KeyKind,
        OnDemandSettings, Settings, StorageSettings, is_name, is_public_name,
    },
    config::{self, AcmeChallenge, AcmeKey, DEFAULT_ACCOUNT, Path, Protocol},
    policy::{bucket::Limit, demand::Bounds, issuance::Pace, renewal::Renewal},
    tls::{Ordered, Source},
};

/// What listeners want, gathered as they are compiled.
#[derive(Default)]
pub(super) struct Wanted {
    names: BTreeMap<Arc<str>, Certificates>,
    /// Accounts that order also what nobody has configured.
    on_demand: BTreeSet<Arc<str>>,
    /// Where the first of them is asked for.
    at: Option<Path>,
}

/// A CA that is known by its word.
struct Known {
    word: &'static str,
    directory: &'static str,
    staging: Option<&'static str>,
    needs_eab: bool,
}

const KNOWN: [Known; 3] = [
    Known {
        word: "letsencrypt",
        directory: "https://acme-v02.api.letsencrypt.org/directory",
        staging: Some("https://acme-staging-v02.api.letsencrypt.org/directory"),
        needs_eab: false,
    },
    Known {
        word: "google",
        directory: "https://dv.acme-v02.api.pki.goog/directory",
        staging: Some("https://dv.acme-v02.test-api.pki.goog/directory"),
        needs_eab: true,
    },
    Known { word: "zerossl", directory: "https://acme.zerossl.com/v2/DV90", staging: None, needs_eab: true },
];
/// The rest of a life is for the orders that fail.
const LATEST_RENEWAL: f64 = 0.9;
const MOST_AT_ONCE: usize = 64;
const MOST_TOGETHER: usize = 100;
const MOST_PENDING: usize = 1_000;
const MOST_ON_DEMAND: usize = 100_000;

impl Compiler<'_> {
    /// `on_demand` of a listener: whoever is asked stands in the account.
    pub(super) fn acme_on_demand(&mut self, account: &str, at: &Path) -> Option<Source> {
        let written = self.config.acme.get(account);
        if written.is_none_or(|written| written.on_demand.is_none()) {
            let there = Path::root().key("acme").key(account);
            if !self.sources.is_doubtful(&there) && !self.sources.is_doubtful(&there.key("on_demand")) {
                let message = format!("nobody says which names the account `{account}` may order");
                let hint =
                    format!("add `on_demand: {{ask: http://127.0.0.1:9000/allowed}}` to `acme.{account}`");
                self.refuse_with_hint(at, message, hint);
            }
            return None;
        }
        let account: Arc<str> = account.into();
        self.acme.names.entry(account.clone()).or_default();
        self.acme.on_demand.insert(account.clone());
        self.acme.at.get_or_insert_with(|| at.clone());
        Some(Source::OnDemand { account })
    }

    /// The names that one entry of a listener wants certificates for. `hosts` are those of its routes.
    pub(super) fn acme_names(
        &mut self,
        account: &str,
        names: Option<&[String]>,
        hosts: &[&str],
        (together, is_on_demand): (bool, bool),
        (at, account_at): (&Path, &Path),
    ) -> Option<Source> {
        let written = self.config.acme.get(account);
        if written.is_none() && account != DEFAULT_ACCOUNT {
            if !self.sources.is_doubtful(&Path::root().key("acme").key(account)) {
                let near = self.near(account, self.config.acme.keys().map(String::as_str));
                let hint = near.map_or("accounts stand under the top-level `acme`".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                });
                self.refuse_with_hint(account_at, format!("there is no account `{account}`"), hint);
            }
            return None;
        }
        let has_dns = written.is_some_and(|account| account.dns.is_some());
        let mut wanted: Vec<Arc<str>> = Vec::new();
        match names {
            Some(names) => {
                for (index, name) in names.iter().enumerate() {
                    let at = at.key("names").index(index);
                    let Some(name) = self.acme_name(name, has_dns, &at) else { continue };
                    if wanted.contains(&name) {
                        self.refuse_with_hint(
                            &at,
                            format!("{name} stands here twice"),
                            "leave one of them out",
                        );
                        continue;
                    }
                    wanted.push(name);
                }
                if names.is_empty() {
                    let hint = "leave `names` out for the hosts of the routes";
                    self.refuse_with_hint(&at.key("names"), "no name, so no certificate is ordered", hint);
                }
            }
            None => {
                let own = hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase());
                for host in own.filter(|host| is_public(host) && (has_dns || !host.starts_with("*."))) {
                    if !wanted.iter().any(|known| **known == *host) {
                        wanted.push(host.into());
                    }
                }
                if wanted.is_empty()
                    && !is_on_demand
                    && !self.sources.is_doubtful(&Path::root().key("routes"))
                {
                    let message =
                        "no names: none of the routes here has a host that a certificate could be for";
                    self.refuse_with_hint(
                        at,
                        message,
                        "add `names: [www.example.com]`, or `hosts` to the routes",
                    );
                }
            }
        }
        if wanted.is_empty() {
            return None;
        }
        let account: Arc<str> = account.into();
        let ordered: Vec<Ordered> = match together {
            // The others may change: it is kept under its first name, and goes on being shown until there is a new one.
            true => vec![Ordered { key: format!("{}+", wanted[0]).into(), names: wanted.into() }],
            false => wanted
                .iter()
                .map(|name| Ordered { key: name.clone(), names: [name.clone()].into() })
                .collect(),
        };
        let known = self.acme.names.entry(account.clone()).or_default();
        let mut clash = None;
        for Ordered { key, names } in &ordered {
            let before = known.insert(key.clone(), names.clone());
            clash = clash.or_else(|| before.filter(|before| before != names).map(|_| names[0].clone()));
        }
        if let Some(first) = clash {
            let hint = "give both the same names, or begin with another one";
            let message = format!("{first} leads another certificate of this account, with other names");
            self.refuse_with_hint(at, message, hint);
        }
        if ordered.iter().any(|ordered| ordered.names.len() > MOST_TOGETHER) {
            let message = format!("at most {MOST_TOGETHER} names can be in one certificate");
            self.refuse_with_hint(at, message, "CAs issue no larger ones; leave `together` out");
        }
        self.acme.at.get_or_insert_with(|| at.clone());
        Some(Source::Issued { account, ordered })
    }

    fn acme_name(&mut self, name: &str, has_dns: bool, at: &Path) -> Option<Arc<str>> {
        let own = name.trim_end_matches('.').to_ascii_lowercase();
        let bare = own.strip_prefix("*.").unwrap_or(&own);
        if !is_name(bare) || bare.parse::<std::net::IpAddr>().is_ok() {
            let hint = "a DNS name such as www.example.com, or *.example.com with `dns`";
            self.refuse_with_hint(at, format!("{name:?} is no name that a certificate can be for"), hint);
            return None;
        }
        if own.starts_with("*.") && !has_dns {
            let hint = "add `dns: {command: [...]}` or `dns: {webhook: URL}` to the account in `acme`";
            self.refuse_with_hint(at, "a name with `*` is proved by dns-01 alone", hint);
            return None;
        }
        Some(own.into())
    }

    /// What all of it comes to. Each account is looked at, whether it is used or not.
    pub(super) fn acme(&mut self) -> Settings {
        let config = self.config;
        let mut accounts = BTreeMap::new();
        for (name, account) in &config.acme {
            let at = Path::root().key("acme").key(name);
            if !is_account_name(name) {
                let hint = "letters, digits, `-` and `_`, 64 at most";
                self.refuse_with_hint(&at, format!("{name:?} is no name for an account"), hint);
                continue;
            }
            let settings = self.acme_account(account, &at);
            accounts.insert(Arc::from(name.as_str()), settings);
        }
        let wanted = std::mem::take(&mut self.acme);
        let Some(at) = wanted.at else { return Settings::default() };
        if wanted.names.contains_key(DEFAULT_ACCOUNT) && !accounts.contains_key(DEFAULT_ACCOUNT) {
            let settings = self.acme_account(&config::AcmeAccount::default(), &Path::root().key("acme"));
            accounts.insert(DEFAULT_ACCOUNT.into(), settings);
        }
        accounts.retain(|name, _| wanted.names.contains_key(name));
        for (name, account) in &mut accounts {
            account.on_demand = account.on_demand.take().filter(|_| wanted.on_demand.contains(name));
        }
        let is_nowhere =
            |account: &AccountSettings| account.storage == StorageSettings::Folder(PathBuf::new());
        let state_dir_at = Path::root().key("state_dir");
        if accounts.values().any(is_nowhere) && !self.sources.is_doubtful(&state_dir_at) {
            let message = "certificates need a place where they are kept: without one each start orders anew, and CAs soon refuse";
            self.refuse_with_hint(&at, message, "add `state_dir: /var/lib/tidegate` at the top level");
        }
        Settings { accounts, names: wanted.names }
    }

    /// An empty path stands for none.
    fn acme_storage(&mut self, storage: Option<&config::SharedStorage>, at: &Path) -> StorageSettings {
        let state_dir_at = Path::root().key("state_dir");
        let state_dir = self.config.state_dir.as_ref();
        let local = state_dir.map(|state_dir| self.sources.directory_of(&state_dir_at).join(state_dir));
        let Some(storage) = storage else { return StorageSettings::Folder(local.unwrap_or_default()) };
        StorageSettings::Shared { fleet: self.shared_storage(storage, "acme", at).into(), local }
    }

    fn acme_account(&mut self, account: &config::AcmeAccount, at: &Path) -> AccountSettings {
        self.refuse_zero(&at.key("request_timeout"), account.request_timeout);
        self.refuse_zero(&at.key("order_timeout"), account.order_timeout);
        self.refuse_zero(&at.key("retry").key("base"), account.retry.base);
        let (base, max): (Duration, Duration) = (account.retry.base.into(), account.retry.max.into());
        if base > max {
            let hint = "make `max` the larger one";
            self.refuse_with_hint(&at.key("retry"), "`base` is longer than `max`", hint);
        }
        let after = account.renew_after.as_f64();
        if !(0.0..=LATEST_RENEWAL).contains(&after) || after == 0.0 {
            let message = "certificates are renewed after 90% of their life at the latest, and not at once";
            self.refuse_with_hint(&at.key("renew_after"), message, "67% leaves a month of ninety days");
        }
        if account.at_once.get() > MOST_AT_ONCE {
            self.refuse(&at.key("at_once"), format!("at most {MOST_AT_ONCE} orders can be under way"));
        }
        if let Some(email) = &account.email
            && (!email.contains('@')
                || email.contains([' ', ',', '?', ':'])
                || email.chars().any(char::is_control))
        {
            let hint = "one address, such as ops@example.com";
            self.refuse_with_hint(&at.key("email"), format!("{email:?} is no mail address"), hint);
        }
        let (count, period) = (account.orders.count(), account.orders.period());
        let orders = Limit::new(count, period, count.min(Limit::LARGEST));
        if orders.is_err() {
            self.refuse(&at.key("orders"), "a rate is at most a million a second");
        }
        let dns = account.dns.as_ref().and_then(|dns| self.acme_dns(dns, &at.key("dns")));
        let on_demand_at = at.key("on_demand");
        let on_demand = account.on_demand.as_ref().and_then(|asked| self.acme_asking(asked, &on_demand_at));
        AccountSettings {
            email: account.email.clone(),
            cas: self.acme_cas(account, at),
            key: match account.key {
                AcmeKey::P256 => KeyKind::P256,
                AcmeKey::P384 => KeyKind::P384,
                AcmeKey::Rsa2048 => KeyKind::Rsa2048,
                AcmeKey::Rsa4096 => KeyKind::Rsa4096,
            },
            challenges: self.acme_challenges(account, at),
            request_timeout: account.request_timeout.into(),
            order_timeout: account.order_timeout.into(),
            pace: Pace { base, max },
            orders: orders.unwrap_or(Limit::new(1, period, 1).expect("one in a while is a limit")),
            at_once: account.at_once,
            renewal: Renewal { after },
            dns,
            on_demand,
            storage: self.acme_storage(account.storage.as_ref(), &at.key("storage")),
        }
    }

    fn acme_asking(&mut self, on_demand: &config::AcmeOnDemand, at: &Path) -> Option<OnDemandSettings> {
        self.refuse_zero(&at.key("timeout"), on_demand.timeout);
        let (ask, ask_at) = (&on_demand.ask, at.key("ask"));
        if !is_web_url(ask) || ask.contains('#') {
            let hint = "such as http://127.0.0.1:9000/allowed";
            self.refuse_with_hint(&ask_at, format!("{ask:?} is no URL"), hint);
        }
        if on_demand.pending.get() > MOST_PENDING {
            self.refuse(&at.key("pending"), format!("at most {MOST_PENDING} names can be under way"));
        }
        if on_demand.most.get() > MOST_ON_DEMAND {
            self.refuse(&at.key("most"), format!("at most {MOST_ON_DEMAND} names can be kept"));
        }
        let (count, period) = (on_demand.rate.count(), on_demand.rate.period());
        let Ok(rate) = Limit::new(count, period, count.min(Limit::LARGEST)) else {
            self.refuse(&at.key("rate"), "a rate is at most a million a second");
            return None;
        };
        let bounds = Bounds { rate, pending: on_demand.pending.get(), most: on_demand.most.get() };
        Some(OnDemandSettings { ask: ask.clone(), timeout: on_demand.timeout.into(), bounds })
    }

    fn acme_challenges(&mut self, account: &config::AcmeAccount, at: &Path) -> Vec<Challenge> {
        let is_plain =
            |listener: &config::Listener| listener.protocol == Protocol::Http && listener.tls.is_none();
        let has_plain = self.config.listeners.iter().any(is_plain);
        let challenges_at = at.key("challenges");
        for (index, challenge) in account.challenges.iter().enumerate() {
            let at = challenges_at.index(index);
            if account.challenges[..index].contains(challenge) {
                self.refuse_with_hint(&at, "this challenge stands here twice", "leave one of them out");
            }
            if *challenge == AcmeChallenge::Dns01 && account.dns.is_none() {
                let hint = "add `dns: {command: [...]}` or `dns: {webhook: URL}` beside it";
                self.refuse_with_hint(&at, "nobody writes the records of dns-01", hint);
            }
        }
        let is_dns_used = account.challenges.is_empty() || account.challenges.contains(&AcmeChallenge::Dns01);
        if account.dns.is_some() && !is_dns_used {
            let message = "`dns` is given, but `challenges` does not name dns-01";
            self.refuse_with_hint(&at.key("dns"), message, "add dns-01 to `challenges`, or leave that out");
        }
        if account.challenges.is_empty() {
            return match (account.dns.is_some(), has_plain) {
                (true, _) => vec![Challenge::Dns01],
                (false, true) => vec![Challenge::Http01, Challenge::TlsAlpn01],
                (false, false) => vec![Challenge::TlsAlpn01],
            };
        }
        let challenges = account.challenges.iter().map(|challenge| match challenge {
            AcmeChallenge::Http01 => Challenge::Http01,
            AcmeChallenge::TlsAlpn01 => Challenge::TlsAlpn01,
            AcmeChallenge::Dns01 => Challenge::Dns01,
        });
        challenges.collect()
    }

    fn acme_dns(&mut self, dns: &config::AcmeDns, at: &Path) -> Option<HookSettings> {
        self.refuse_zero(&at.key("timeout"), dns.timeout);
        let by = match (dns.command.as_slice(), &dns.webhook) {
            ([_, ..], None) => HookKind::Command(dns.command.clone()),
            ([], Some(url)) => {
                if !is_web_url(url) {
                    let hint = "such as https://dns.internal/acme";
                    self.refuse_with_hint(&at.key("webhook"), format!("{url:?} is no URL"), hint);
                }
                let authorization = dns.authorization.as_ref().map(|secret| secret.expose().to_owned());
                HookKind::Webhook { url: url.clone(), authorization }
            }
            _ => {
                if !self.sources.is_doubtful(at) {
                    self.refuse(at, "expected exactly one of `command` and `webhook`");
                }
                return None;
            }
        };
        if dns.authorization.is_some() && dns.webhook.is_none() {
            let hint = "give a command its secrets by files or variables";
            self.refuse_with_hint(&at.key("authorization"), "only a webhook gets it", hint);
        }
        Some(HookSettings { by, timeout: dns.timeout.into(), wait: dns.wait.into() })
    }

    fn acme_cas(&mut self, account: &config::AcmeAccount, at: &Path) -> Vec<CaSettings> {
        let mut cas: Vec<CaSettings> = Vec::new();
        let cas_at = at.key("cas");
        if account.cas.is_empty() && !self.sources.is_doubtful(&cas_at) {
            self.refuse_with_hint(&cas_at, "no CA, so no certificate is ordered", "add `letsencrypt`");
        }
        for (index, ca) in account.cas.iter().enumerate() {
            let at = cas_at.index(index);
            let known = KNOWN.iter().find(|known| known.word == ca.directory);
            let directory = match known {
                Some(known) if account.staging => match known.staging {
                    Some(staging) => staging.to_owned(),
                    None => {
                        let hint = "leave `staging` out, or this CA";
                        self.refuse_with_hint(&at, format!("{} has no staging", known.word), hint);
                        continue;
                    }
                },
                Some(known) => known.directory.to_owned(),
                None if account.staging => {
                    let hint = "name the directory of its staging, and leave `staging` out";
                    self.refuse_with_hint(&at, "of this CA no staging is known", hint);
                    continue;
                }
                None => ca.directory.clone(),
            };
            let uri = directory.parse::<http::Uri>().ok();
            let host = uri.as_ref().filter(|uri| uri.scheme_str() == Some("https")).and_then(http::Uri::host);
            let Some(host) = host else {
                let words = KNOWN.iter().map(|known| known.word);
                let hint = match self.near(&ca.directory, words) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        "letsencrypt, google, zerossl, or a URL such as https://ca.internal/acme/directory"
                            .to_owned()
                    }
                };
                self.refuse_with_hint(&at, format!("{:?} is no CA's directory", ca.directory), hint);
                continue;
            };
            if known.is_some_and(|known| known.needs_eab) && ca.eab.is_none() {
                let word = &ca.directory;
                let hint = format!("write `{{directory: {word}, eab: {{key_id: ..., hmac_key: ...}}}}`");
                self.refuse_with_hint(&at, format!("{word} wants an account that it knows"), hint);
                continue;
            }
            let name: Arc<str> = known.map_or(host, |known| known.word).into();
            if cas.iter().any(|other| other.directory == directory) {
                self.refuse_with_hint(&at, "this CA stands here twice", "leave one of them out");
                continue;
            }
            let eab = match &ca.eab {
                None => None,
                Some(eab) => match BASE64.decode(eab.hmac_key.expose().trim_end_matches('=')) {
                    Ok(secret) if !secret.is_empty() => Some(Eab { key_id: eab.key_id.clone(), secret }),
                    _ => {
                        let at = at.key("eab").key("hmac_key");
                        let hint = "letters, digits, `-` and `_`, as the CA gives it";
                        self.refuse_with_hint(&at, "this is no base64url", hint);
                        continue;
                    }
                },
            };
            let trusted = ca.ca.as_ref().map(|file| self.sources.full_path(&at.key("ca"), file));
            if let Some(file) = &trusted
                && let Err(why) = trusts(file)
            {
                self.refuse_with_hint(&at.key("ca"), why, "PEM is expected: -----BEGIN CERTIFICATE-----");
                continue;
            }
            cas.push(CaSettings { name, directory, ca: trusted, eab });
        }
        cas
    }
}

fn trusts(file: &std::path::Path) -> Result<(), String> {
    let pem = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    crate::trust::connector(Some(&pem)).map(drop).map_err(|why| format!("{}: {why}", file.display()))
}

pub(super) fn is_web_url(url: &str) -> bool {
    let url = url.parse::<http::Uri>();
    url.is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some())
}

/// What stands in files and keys of a storage.
fn is_account_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(is_fine)
}

/// A host of a route that a CA could know.
fn is_public(host: &str) -> bool {
    is_public_name(host.strip_prefix("*.").unwrap_or(host))
}
