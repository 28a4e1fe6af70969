//! One order, from the request to a certificate that was looked at (RFC 8555, section 7.4).

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use openssl::{
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    sha::sha256,
    stack::Stack,
    x509::{X509NameBuilder, X509Req, extension::SubjectAlternativeName},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    account::Account,
    ca::{Ca, Failed},
    is_token,
    publish::{Published, Publisher},
    settings::{Challenge, KeyKind},
    trouble::{Reason, Trouble},
};
use crate::tls::Certificate;

/// A CA that says nothing is asked again after this, then after twice as long, up to `SLOWEST`.
const LOOK: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(5);
/// It may ask for pauses between these.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// An order has one for each name, and no more than these beside.
const AUTHORIZATIONS: usize = 3;

/// What is wanted of a CA.
pub(super) struct Wanted<'a> {
    /// Different ones; the first leads.
    pub names: &'a [Arc<str>],
    pub key: KeyKind,
    /// The best first.
    pub challenges: &'a [Challenge],
    /// The certificate in whose place it comes, as the CA calls it (RFC 9773, section 5).
    pub replaces: Option<&'a str>,
}

/// PEM, of a certificate that may be shown.
pub(super) struct Obtained {
    pub chain: String,
    pub key: String,
    pub certificate: Arc<Certificate>,
}

#[derive(Debug, Deserialize)]
struct Order {
    status: String,
    #[serde(default)]
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Authorization {
    status: String,
    identifier: Identifier,
    #[serde(default)]
    challenges: Vec<Offered>,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Offered {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    error: Option<Value>,
}

/// # Errors
///
/// Why there is no certificate, also where there is one that is not what was ordered.
pub(super) async fn obtain(
    ca: &Ca,
    account: &Account,
    wanted: &Wanted<'_>,
    publisher: &Publisher<'_>,
) -> Result<Obtained, Trouble> {
    let (url, order) = begin(ca, account, wanted).await?;
    if order.authorizations.len() > wanted.names.len() + AUTHORIZATIONS {
        return Err(Trouble::bad_answer("the CA wants more proofs than the order has names"));
    }
    let mut published = Vec::new();
    let mut proved = Ok(());
    for authorization in &order.authorizations {
        match prove(ca, account, wanted, authorization, publisher).await {
            Ok(proof) => published.extend(proof),
            Err(trouble) => {
                proved = Err(trouble);
                break;
            }
        }
    }
    let order = match proved {
        Ok(()) => settled(ca, account, &url, &["pending"]).await,
        Err(trouble) => Err(trouble),
    };
    // The proofs were seen, whatever came of it.
    for proof in published {
        proof.withdraw().await;
    }
    let order = order?;
    let key = make_key(wanted.key)?;
    if order.status == "ready" {
        let request = json!({"csr": BASE64.encode(csr(wanted.names, &key)?)});
        let answer = account.post(ca, &order.finalize, Some(&request)).await;
        answer.map_err(|failed| failed.or(Reason::OrderRefused))?;
    }
    let order = settled(ca, account, &url, &["pending", "ready", "processing"]).await?;
    let certificate = order
        .certificate
        .ok_or_else(|| Trouble::bad_answer("the order is valid, but the CA names no certificate"))?;
    let answer = account.post(ca, &certificate, None).await;
    let answer = answer.map_err(|failed| failed.or(Reason::OrderRefused))?;
    let chain = String::from_utf8(answer.body.to_vec())
        .map_err(|_| Trouble::bad_answer("the certificate is no PEM"))?;
    let key = String::from_utf8_lossy(&key.private_key_to_pem_pkcs8()?).into_owned();
    let certificate = Arc::new(examine(wanted.names, &chain, &key)?);
    Ok(Obtained { chain, key, certificate })
}

async fn begin(ca: &Ca, account: &Account, wanted: &Wanted<'_>) -> Result<(String, Order), Trouble> {
    let new_order = ca.directory().await?.new_order.clone();
    let identifiers = wanted.names.iter().map(|name| json!({"type": "dns", "value": **name}));
    let mut request = json!({"identifiers": identifiers.collect::<Vec<_>>()});
    if let Some(replaces) = wanted.replaces {
        request["replaces"] = json!(replaces);
    }
    let answer = match account.post(ca, &new_order, Some(&request)).await {
        // Somebody has ordered in its place already, or the CA has forgotten it: then this is an order like any other.
        Err(Failed::Refused(refusal, _))
            if wanted.replaces.is_some() && matches!(refusal.kind(), "alreadyReplaced" | "malformed") =>
        {
            let request = json!({"identifiers": request["identifiers"]});
            account.post(ca, &new_order, Some(&request)).await
        }
        answered => answered,
    };
    let answer = answer.map_err(|failed| failed.or(Reason::OrderRefused))?;
    let url = answer.location().ok_or_else(|| Trouble::bad_answer("the CA takes an order without a URL"))?;
    ca.check(&url)?;
    Ok((url, answer.json("an order")?))
}

/// Have the name proved; `None` where the CA believes it already.
async fn prove<'p>(
    ca: &Ca,
    account: &Account,
    wanted: &Wanted<'_>,
    url: &str,
    publisher: &Publisher<'p>,
) -> Result<Option<Published<'p>>, Trouble> {
    let authorization = authorization(ca, account, url).await?.0;
    let identifier = &authorization.identifier;
    let mut bare = wanted.names.iter().map(|name| name.strip_prefix("*.").unwrap_or(name));
    let bare = bare.find(|bare| identifier.kind == "dns" && identifier.value.eq_ignore_ascii_case(bare));
    let Some(bare) = bare else {
        let why = format!("the CA wants a proof for {}, which was not ordered", identifier.value);
        return Err(Trouble::bad_answer(why));
    };
    match authorization.status.as_str() {
        "valid" => return Ok(None),
        "pending" => {}
        status => return Err(Trouble::bad_answer(format!("the CA begins with a proof that is {status}"))),
    }
    let offered = |kind: &Challenge| {
        authorization
            .challenges
            .iter()
            .find(|offered| offered.kind == kind.word())
            .map(|found| (*kind, found))
    };
    let Some((kind, challenge)) = wanted.challenges.iter().find_map(offered) else {
        let kinds: Vec<&str> = authorization.challenges.iter().map(|offered| offered.kind.as_str()).collect();
        let why = format!(
            "the CA offers none of the challenges that can be answered here, but {}",
            kinds.join(", ")
        );
        return Err(Trouble::new(Reason::NoChallenge, why));
    };
    if !is_token(&challenge.token) || challenge.token.is_empty() || challenge.token.len() > 128 {
        return Err(Trouble::bad_answer("the CA's token is none"));
    }
    let answer = account.key.authorization(&challenge.token);
    let published = publisher.publish(kind, bare, &challenge.token, &answer).await?;
    match seen(ca, account, url, (kind, &challenge.url)).await {
        Ok(()) => Ok(Some(published)),
        Err(trouble) => {
            published.withdraw().await;
            Err(trouble)
        }
    }
}

/// Have the CA look, and wait until it has.
async fn seen(
    ca: &Ca,
    account: &Account,
    url: &str,
    (kind, challenge): (Challenge, &str),
) -> Result<(), Trouble> {
    let asked = account.post(ca, challenge, Some(&json!({}))).await;
    asked.map_err(|failed| failed.or(Reason::ChallengeFailed))?;
    for look in 0.. {
        let (authorization, asked) = self::authorization(ca, account, url).await?;
        match authorization.status.as_str() {
            "pending" => tokio::time::sleep(pause(asked, look)).await,
            "valid" => return Ok(()),
            status => {
                let errors = authorization.challenges.iter().find_map(|offered| offered.error.as_ref());
                let why = match errors {
                    Some(error) => format!("{}: {}", kind.word(), in_words(error)),
                    None => format!("{}: the proof is {status}", kind.word()),
                };
                return Err(Trouble::new(Reason::ChallengeFailed, why));
            }
        }
    }
    Ok(())
}

async fn authorization(
    ca: &Ca,
    account: &Account,
    url: &str,
) -> Result<(Authorization, Option<Duration>), Trouble> {
    let answer = account.post(ca, url, None).await;
    let answer = answer.map_err(|failed| failed.or(Reason::ChallengeFailed))?;
    Ok((answer.json("an authorization")?, answer.retry_after()))
}

/// The order, once it is none of these any more.
async fn settled(ca: &Ca, account: &Account, url: &str, passing: &[&str]) -> Result<Order, Trouble> {
    for look in 0.. {
        let answer = account.post(ca, url, None).await;
        let answer = answer.map_err(|failed| failed.or(Reason::OrderRefused))?;
        let order: Order = answer.json("an order")?;
        match order.status.as_str() {
            "invalid" => {
                let why = order.error.as_ref().map_or("the order is invalid".to_owned(), in_words);
                return Err(Trouble::new(Reason::OrderRefused, why));
            }
            "pending" | "ready" | "processing" | "valid" if !passing.contains(&order.status.as_str()) => {
                return Ok(order);
            }
            "pending" | "ready" | "processing" => tokio::time::sleep(pause(answer.retry_after(), look)).await,
            status => return Err(Trouble::bad_answer(format!("the CA calls an order {status}"))),
        }
    }
    Err(Trouble::new(Reason::Timeout, "the order is never over"))
}

fn pause(asked: Option<Duration>, look: u32) -> Duration {
    asked.unwrap_or_else(|| (LOOK * (1 << look.min(8))).min(SLOWEST)).clamp(SHORTEST, LONGEST)
}

fn in_words(error: &Value) -> String {
    let word = |key: &str| error[key].as_str().unwrap_or_default();
    let kind = word("type");
    format!("{}: {}", kind.rsplit(':').next().unwrap_or(kind), word("detail"))
}

/// A new one for each certificate.
fn make_key(kind: KeyKind) -> Result<PKey<Private>, Trouble> {
    let on = |curve| {
        let group = EcGroup::from_curve_name(curve)?;
        PKey::from_ec_key(EcKey::generate(&group)?)
    };
    Ok(match kind {
        KeyKind::P256 => on(Nid::X9_62_PRIME256V1)?,
        KeyKind::P384 => on(Nid::SECP384R1)?,
        KeyKind::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?)?,
        KeyKind::Rsa4096 => PKey::from_rsa(Rsa::generate(4096)?)?,
    })
}

/// RFC 2986, in DER: names stand where they are looked for, among the alternative names.
fn csr(names: &[Arc<str>], key: &PKey<Private>) -> Result<Vec<u8>, Trouble> {
    let mut builder = X509Req::builder()?;
    builder.set_version(0)?;
    builder.set_pubkey(key)?;
    builder.set_subject_name(&X509NameBuilder::new()?.build())?;
    let mut all = SubjectAlternativeName::new();
    for name in names {
        all.dns(name);
    }
    let names = all.build(&builder.x509v3_context(None))?;
    let mut extensions = Stack::new()?;
    extensions.push(names)?;
    builder.add_extensions(&extensions)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build().to_der()?)
}

/// Whether it is what was ordered: for those names and no others, for our key, and valid now.
fn examine(names: &[Arc<str>], chain: &str, key: &str) -> Result<Certificate, Trouble> {
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).map_err(|wrong| {
        let reason = if wrong.is_about_key { Reason::WrongKey } else { Reason::BadCertificate };
        Trouble::new(reason, wrong.why)
    })?;
    if !certificate.is_for_exactly(names) {
        let why = format!(
            "the certificate is for {}, not for {} alone",
            certificate.names.join(", "),
            names.join(", ")
        );
        return Err(Trouble::new(Reason::WrongNames, why));
    }
    match certificate.not_valid_now() {
        Some(why) => Err(Trouble::new(Reason::BadCertificate, why)),
        None => Ok(certificate),
    }
}

/// What a certificate of tls-alpn-01 and a record of dns-01 carry (RFC 8737, section 3; RFC 8555, section 8.4).
pub(super) fn digest(answer: &str) -> [u8; 32] {
    sha256(answer.as_bytes())
}
