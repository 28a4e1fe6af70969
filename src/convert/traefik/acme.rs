//! `certificatesResolvers` as accounts of `acme`, and for which names a listener's routers order there.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use crate::{
    config::{Foreign, ForeignValue},
    convert::{
        draft::{List, Map},
        fields::{Fields, Report, literal},
    },
};

/// Traefik's default, and ours.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Where accounts and certificates are kept.
const STATE: &str = "/var/lib/tidegate";

/// Certificates that routers want from a resolver.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order<'f> {
    pub resolver: &'f str,
    pub names: Vec<String>,
    pub at: &'f Foreign,
}

#[derive(Debug, Default)]
pub(crate) struct Resolvers<'f> {
    all: BTreeMap<&'f str, &'f Foreign>,
    /// Their accounts, as far as routers have asked for them; none where it cannot be carried over.
    accounts: BTreeMap<&'f str, Option<Account>>,
}

#[derive(Debug)]
struct Account {
    name: String,
    options: Map,
}

impl<'f> Resolvers<'f> {
    pub(crate) fn add(&mut self, resolvers: &'f Foreign, report: &mut Report) {
        let mut fields = Fields::secret("certificatesResolvers", resolvers, report);
        for (name, _) in resolvers.entries() {
            let Some(resolver) = fields.take(name) else { continue };
            if self.all.insert(name, resolver).is_some() {
                report.add(resolver, name.as_str(), "another file has it already");
            }
        }
    }

    /// Entries of `tls.certificates`. A name that an order before it has is left to that.
    pub(crate) fn certificates(&mut self, orders: &[Order<'f>], report: &mut Report) -> Vec<Map> {
        let mut known: Vec<&str> = Vec::new();
        let mut by_account: BTreeMap<String, List> = BTreeMap::new();
        for order in orders {
            let mut names = Vec::new();
            for name in order.names.iter().filter(|name| !known.contains(&name.as_str())) {
                match why_not(name) {
                    Some(why) => report.add(order.at, format!("certResolver: {}", order.resolver), why),
                    None => names.push(name.as_str()),
                }
            }
            known.extend(&names);
            let Some(account) = self.account(order, report) else { continue };
            if order.names.is_empty() {
                let what = format!("certResolver: {}", order.resolver);
                report.add(order.at, what, "neither the rule nor `domains` names a host");
            }
            names.into_iter().for_each(|name| by_account.entry(account.clone()).or_default().push(name));
        }
        let entry = |(account, names): (String, List)| Map::new().with("acme", account).with("names", names);
        by_account.into_iter().map(entry).collect()
    }

    fn account(&mut self, order: &Order<'f>, report: &mut Report) -> Option<String> {
        if !self.accounts.contains_key(order.resolver) {
            let account = match self.all.get(order.resolver) {
                Some(resolver) => match options(resolver, report) {
                    Ok(options) => Some(Account { name: self.fresh_name(order.resolver), options }),
                    Err(why) => {
                        report.add(resolver, format!("certificatesResolvers: {}", order.resolver), why);
                        None
                    }
                },
                None => {
                    report.add(
                        order.at,
                        format!("certResolver: {}", order.resolver),
                        "no file says which CA that is: it is Let's Encrypt here",
                    );
                    Some(Account { name: self.fresh_name(order.resolver), options: Map::new() })
                }
            };
            self.accounts.insert(order.resolver, account);
        }
        self.accounts[order.resolver].as_ref().map(|account| account.name.clone())
    }

    fn fresh_name(&self, resolver: &str) -> String {
        const LONGEST: usize = 56;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let base: String = resolver.chars().map(plain).take(LONGEST).collect();
        let base = if base.is_empty() { "acme".to_owned() } else { base };
        let is_free = |name: &String| self.accounts.values().flatten().all(|account| account.name != *name);
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        std::iter::once(base.clone()).chain(numbered).find(is_free).expect("numbers do not end")
    }

    /// `acme` and `state_dir` at the top level; those that nobody asks for are named.
    pub(crate) fn write(self, top: &mut Map, report: &mut Report) {
        for (name, resolver) in self.all.iter().filter(|(name, _)| !self.accounts.contains_key(*name)) {
            report.add(resolver, format!("certificatesResolvers: {name}"), "no router asks for it");
        }
        for account in self.accounts.into_values().flatten() {
            top.set("state_dir", STATE);
            top.map("acme").set(&account.name, account.options);
        }
    }
}

/// Why no certificate for it is ordered.
fn why_not(name: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.starts_with("*.") {
        return Some(format!("{name} is proved by a DNS record: see `acme.dns`"));
    }
    let is_good = name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && name.parse::<std::net::IpAddr>().is_err();
    (!is_good).then(|| format!("no CA gives a certificate for {name:?}"))
}

/// An account of ours.
fn options(resolver: &Foreign, report: &mut Report) -> Result<Map, &'static str> {
    let mut fields = Fields::secret("certificatesResolvers", resolver, report);
    let acme = fields.take("acme").ok_or("it is no resolver of ACME")?;
    fields.finish("it has no equal here", report);
    let mut fields = Fields::secret("acme", acme, report);
    let mut account = Map::new();
    let is_mail = |email: &&str| {
        email.contains('@') && !email.contains([' ', ',', '?', ':']) && !email.chars().any(char::is_control)
    };
    if let Some(email) = fields.text("email", report).filter(is_mail) {
        account.set("email", literal(email));
    }
    let server = fields.text("caServer", report).unwrap_or(LETS_ENCRYPT);
    let is_directory = |url: &str| {
        !url.contains(['#', '$', '{'])
            && url
                .parse::<http::Uri>()
                .is_ok_and(|url| url.scheme_str() == Some("https") && url.host().is_some())
    };
    if !is_directory(server) {
        return Err("the CA's directory is no `https` URL");
    }
    let authorities = fields.texts("caCertificates", report);
    let eab = fields.take("eab").map(|eab| external_account(eab, report)).transpose()?;
    let directory = if server == LETS_ENCRYPT { "letsencrypt" } else { server };
    let mut ca = Map::new().with("directory", directory);
    if let Some(file) = authorities.first() {
        ca.set("ca", literal(file));
    }
    for second in authorities.iter().skip(1) {
        report.add(
            acme,
            format!("caCertificates: {second}"),
            "one file of authorities can be named: put them together",
        );
    }
    if let Some(eab) = eab {
        ca.set("eab", eab);
    }
    match (server, ca.entries().count()) {
        (LETS_ENCRYPT, 1) => {}
        (STAGING, 1) => account.set("staging", true),
        (_, 1) => account.set("cas", List::from_iter([server])),
        _ => account.set("cas", List::from_iter([ca])),
    }
    match fields.take("keyType").map(|kind| (kind, kind.text())) {
        None | Some((_, Some("EC256"))) => {}
        Some((_, Some("EC384"))) => account.set("key", "p384"),
        Some((_, Some("RSA2048"))) => account.set("key", "rsa2048"),
        Some((_, Some("RSA4096"))) => account.set("key", "rsa4096"),
        Some((kind, _)) => report.add(kind, "keyType", "keys are `p256`, `p384`, `rsa2048` or `rsa4096`"),
    }
    // Of `tlsChallenge:` the value is null.
    let has = |name: &str| {
        let off = ForeignValue::Flag(false);
        acme.entries().iter().any(|(key, value)| key == name && value.value != off)
    };
    if has("tlsChallenge") && !has("httpChallenge") && !has("dnsChallenge") {
        account.set("challenges", List::from_iter(["tls-alpn-01"]));
    }
    fields.needless(
        &["httpChallenge", "tlsChallenge"],
        "since each listener answers a CA that asks there",
        report,
    );
    fields.leave(
        "dnsChallenge",
        "its provider is not known here: a command or a web service writes the records, see `acme.dns`; until then names are proved at ports 80 and 443",
        report,
    );
    fields.needless(&["storage"], "since accounts and certificates are kept in `state_dir`", report);
    fields.leave("certificatesDuration", "`renew_after` is a share of a certificate's life", report);
    fields.finish("it has no equal here", report);
    Ok(account)
}

fn external_account(eab: &Foreign, report: &mut Report) -> Result<Map, &'static str> {
    let mut fields = Fields::secret("eab", eab, report);
    let (id, key) = (fields.text("kid", report), fields.text("hmacEncoded", report));
    fields.finish("it has no equal here", report);
    let is_key = |key: &&str| BASE64.decode(key.trim_end_matches('=')).is_ok_and(|key| !key.is_empty());
    match (id.filter(|id| !id.is_empty()), key.filter(is_key)) {
        (Some(id), Some(key)) => Ok(Map::new().with("key_id", literal(id)).with("hmac_key", literal(key))),
        _ => Err("its external account has no `kid`, or no `hmacEncoded` in base64url"),
    }
}

#[cfg(test)]
mod tests {
    use crate::convert::traefik::written;

    /// The account and the certificates of what one router wants.
    fn with(resolver: &str, router: &str, tls: &str) -> (serde_json::Value, serde_json::Value, String) {
        let text = written(&format!(
            "entryPoints: {{web: {{address: ':80'}}, websecure: {{address: ':443'}}}}
certificatesResolvers: {{{resolver}}}
http:
  routers:
    r: {{rule: '{router}', service: s, entryPoints: websecure, tls: {{{tls}}}}}
    plain: {{rule: 'Host(`plain.example.com`)', service: s, entryPoints: web}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}]}}}}}}
"
        ));
        let file: serde_json::Value =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let listener =
            file["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "websecure").unwrap();
        (file.clone(), listener["tls"]["certificates"].clone(), text)
    }

    #[test]
    fn a_resolver_is_an_account_that_orders_for_the_hosts_of_its_routers() {
        let (file, certificates, text) = with(
            "le: {acme: {email: a@example.com, storage: acme.json, httpChallenge: {entryPoint: web}}}",
            "Host(`a.example.com`) || Host(`B.example.com`)",
            "certResolver: le",
        );
        assert_eq!(file["acme"], serde_json::json!({"le": {"email": "a@example.com"}}), "{text}");
        assert_eq!(file["state_dir"], "/var/lib/tidegate");
        let expected = serde_json::json!([{"acme": "le", "names": ["a.example.com", "b.example.com"]}]);
        assert_eq!(certificates, expected, "{text}");
        assert!(text.contains("storage (a.yaml:2)") && !text.contains("not carried over"), "{text}");
        let (_, certificates, text) = with(
            "le: {acme: {}}",
            "PathPrefix(`/`)",
            "certResolver: le, domains: [{main: a.example.com, sans: [b.example.com, '*.example.com', inside]}]",
        );
        let expected = serde_json::json!([{"acme": "le", "names": ["a.example.com", "b.example.com"]}]);
        assert_eq!(certificates, expected, "{text}");
        assert!(
            text.contains("*.example.com is proved by a DNS record")
                && text.contains("certificate for \"inside\""),
            "{text}"
        );
    }

    #[test]
    fn each_option_of_a_resolver_is_carried_over_or_named() {
        let account = |acme: &str| {
            let (file, _, text) =
                with(&format!("le: {{acme: {{{acme}}}}}"), "Host(`a.example.com`)", "certResolver: le");
            (file["acme"]["le"].clone(), text)
        };
        for (acme, expected) in [
            (
                "caServer: 'https://acme-v02.api.letsencrypt.org/directory', keyType: EC256",
                serde_json::json!({}),
            ),
            (
                "caServer: 'https://acme-staging-v02.api.letsencrypt.org/directory'",
                serde_json::json!({"staging": true}),
            ),
            (
                "caServer: 'https://ca.inside/acme', keyType: RSA4096",
                serde_json::json!({"cas": ["https://ca.inside/acme"], "key": "rsa4096"}),
            ),
            (
                "caCertificates: [ca.pem]",
                serde_json::json!({"cas": [{"directory": "letsencrypt", "ca": "ca.pem"}]}),
            ),
            ("tlsChallenge: null", serde_json::json!({"challenges": ["tls-alpn-01"]})),
            ("tlsChallenge: {}", serde_json::json!({"challenges": ["tls-alpn-01"]})),
            (
                "caServer: 'https://ca.inside/acme', eab: {kid: me, hmacEncoded: c2VjcmV0}",
                serde_json::json!({"cas": [{"directory": "https://ca.inside/acme", "eab": {"key_id": "me", "hmac_key": "c2VjcmV0"}}]}),
            ),
        ] {
            let (found, text) = account(acme);
            assert_eq!(found, expected, "{text}");
            assert!(!text.contains("not carried over"), "{text}");
        }
        for (acme, what) in [
            ("dnsChallenge: {provider: route53}", "dnsChallenge"),
            ("certificatesDuration: 2160", "certificatesDuration"),
            ("preferredChain: 'ISRG Root X1'", "preferredChain"),
            ("keyType: RSA8192", "keyType"),
            ("bogus: 1", "bogus"),
        ] {
            let (_, text) = account(acme);
            assert!(text.contains(&format!("# a.yaml:2: not carried over: {what} (")), "{what}: {text}");
        }
        let (_, text) =
            account("caServer: 'https://ca.inside/acme', eab: {kid: me, hmacEncoded: 'hush hush'}");
        assert!(text.contains("not carried over") && !text.contains("hush"), "{text}");
        for (resolvers, why) in [
            ("le: {acme: {caServer: 'http://ca.inside'}}", "no `https` URL"),
            ("le: {tailscale: {}}", "no resolver of ACME"),
            ("le: {acme: {}}, other: {acme: {}}", "certificatesResolvers: other (no router asks for it)"),
            ("", "no file says which CA"),
        ] {
            let (_, _, text) = with(resolvers, "Host(`a.example.com`)", "certResolver: le");
            assert!(text.contains(why), "{text}");
        }
    }
}
