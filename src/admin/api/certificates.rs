//! Certificates and identities: what is shown to whom, until when, and whose are believed.

use std::time::SystemTime;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    acme::Report,
    admin::{State, journal::time, refused::Refused, router::Asked},
    api::reply::{self, Reply},
    identity::Identity,
    snapshot::Snapshot,
    tls::{CertificateReport, RevocationReport, Terminator, days_left},
};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Certificates {
    certificates: Vec<Certificate>,
    /// What CAs are asked for, name by name.
    acme: Vec<AcmeView>,
    /// Null without `identity`.
    identity: Option<IdentityView>,
    bundles: Vec<BundleView>,
    client_authorities: Vec<AuthorityView>,
    revocation_lists: Vec<RevocationView>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Certificate {
    /// `listener NAME`, `identity`, `admin` or `control`.
    #[serde(rename = "where")]
    pub(super) where_used: String,
    /// `server` or `svid`.
    kind: Kind,
    pub(super) subject: String,
    /// DNS names, addresses and URIs.
    names: Vec<String>,
    spiffe: Option<String>,
    issuer: String,
    serial: String,
    not_before: String,
    pub(super) not_after: String,
    days_left: i64,
    /// Null where it never was a file.
    file: Option<String>,
    fingerprint_sha256: String,
    #[serde(skip)]
    #[schemars(skip)]
    pub(super) ends: SystemTime,
}

#[derive(Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Server,
    Svid,
}

#[derive(Serialize, JsonSchema)]
struct IdentityView {
    /// Null before the first SVID.
    spiffe: Option<String>,
    source: &'static str,
    /// `current`, `failing` (what was before stays) or `none`.
    state: &'static str,
    last_rotation_at: Option<String>,
    why: Option<String>,
    /// Where it is shown.
    used_by: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct BundleView {
    trust_domain: String,
    authorities: Vec<AuthorityView>,
}

#[derive(Serialize, JsonSchema)]
struct AuthorityView {
    #[serde(rename = "where")]
    where_used: String,
    subject: String,
    not_after: String,
    days_left: i64,
    file: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct RevocationView {
    #[serde(rename = "where")]
    where_used: String,
    issuer: String,
    this_update: String,
    next_update: Option<String>,
    days_left: Option<i64>,
    revoked: usize,
}

/// A name that has, or is to have, a certificate from a CA.
#[derive(Serialize, JsonSchema)]
struct AcmeView {
    name: String,
    /// Whose account orders it.
    account: String,
    /// `valid`, `due` (it should have been renewed by now), `missing` or `expired`.
    state: &'static str,
    /// The host of the CA that has issued it.
    ca: Option<String>,
    not_after: Option<String>,
    days_left: Option<i64>,
    /// When it is to be renewed.
    renews_at: Option<String>,
    /// The last order, where that has failed and none has succeeded since.
    failed: Option<AcmeFailure>,
    /// When the next order may be tried.
    again_at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AcmeFailure {
    at: String,
    ca: String,
    /// One word of a closed list.
    reason: &'static str,
    why: String,
}

impl AcmeView {
    fn of(report: Report, now: SystemTime) -> AcmeView {
        AcmeView {
            name: report.name.to_string(),
            account: report.account.to_string(),
            state: report.state.word(),
            ca: report.issuer,
            not_after: report.until.map(time),
            days_left: report.until.map(|until| days_left(until, now)),
            renews_at: report.renewed_at.map(time),
            failed: report.failed.map(|(at, ca, reason, why)| AcmeFailure {
                at: time(at),
                ca: ca.to_string(),
                reason,
                why,
            }),
            again_at: report.again_at.map(time),
        }
    }
}

impl Certificate {
    fn of(where_used: &str, kind: Kind, report: CertificateReport, now: SystemTime) -> Certificate {
        Certificate {
            where_used: where_used.to_owned(),
            kind,
            subject: match (report.subject.is_empty(), report.names.first()) {
                (true, Some(name)) => name.clone(),
                _ => report.subject,
            },
            names: report.names,
            spiffe: report.spiffe,
            issuer: report.issuer,
            serial: report.serial,
            not_before: time(report.not_before),
            not_after: time(report.not_after),
            days_left: days_left(report.not_after, now),
            file: report.file.map(|file| file.display().to_string()),
            fingerprint_sha256: report.fingerprint,
            ends: report.not_after,
        }
    }

    /// All that are shown to anybody.
    pub(super) fn all(state: &State, snapshot: &Snapshot) -> Vec<Certificate> {
        let now = SystemTime::now();
        let mut all: Vec<Certificate> = Vec::new();
        for (where_used, terminator) in terminators(state, snapshot) {
            let reports = terminator.certificates().into_iter();
            all.extend(reports.map(|report| Certificate::of(&where_used, Kind::Server, report, now)));
        }
        let identity = snapshot.identity.as_ref().and_then(|identity| identity.current().svid.clone());
        if let Some(leaf) = identity.as_ref().and_then(|svid| svid.chain.first()) {
            all.push(Certificate::of("identity", Kind::Svid, CertificateReport::of(leaf, None), now));
        }
        all
    }

    /// By its source, long before it ends.
    pub(super) fn is_renewed(&self) -> bool {
        self.kind == Kind::Svid
    }
}

impl AuthorityView {
    fn of(where_used: &str, report: CertificateReport, now: SystemTime) -> AuthorityView {
        AuthorityView {
            where_used: where_used.to_owned(),
            subject: report.subject,
            not_after: time(report.not_after),
            days_left: days_left(report.not_after, now),
            file: report.file.map(|file| file.display().to_string()),
        }
    }
}

impl RevocationView {
    fn of(where_used: &str, report: RevocationReport, now: SystemTime) -> RevocationView {
        RevocationView {
            where_used: where_used.to_owned(),
            issuer: report.issuer,
            this_update: time(report.this_update),
            next_update: report.next_update.map(time),
            days_left: report.next_update.map(|end| days_left(end, now)),
            revoked: report.revoked,
        }
    }
}

impl IdentityView {
    fn of(identity: &Identity, source: &'static str, used_by: Vec<String>) -> IdentityView {
        let (current, failing) = (identity.current(), identity.failing());
        IdentityView {
            spiffe: current.svid.as_ref().map(|svid| svid.id.to_string()),
            source,
            state: match (&current.svid, &failing) {
                (None, _) => "none",
                (Some(_), Some(_)) => "failing",
                (Some(_), None) => "current",
            },
            last_rotation_at: identity.changed_at().map(time),
            why: failing.map(|why| why.to_string()),
            used_by,
        }
    }
}

/// What begins TLS, each with where it does.
fn terminators<'a>(
    state: &'a State,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (String, &'a Terminator)> {
    let of_snapshot = snapshot.terminators().map(|(name, terminator)| {
        let where_used = if name == "control" { name.to_owned() } else { format!("listener {name}") };
        (where_used, &**terminator)
    });
    of_snapshot.chain(state.own_tls.as_deref().map(|terminator| ("admin".to_owned(), terminator)))
}

pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let now = SystemTime::now();
    let (mut client_authorities, mut revocation_lists, mut used_by) = (Vec::new(), Vec::new(), Vec::new());
    for (where_used, terminator) in terminators(state, &snapshot) {
        let authorities = terminator.authorities().into_iter();
        client_authorities.extend(authorities.map(|report| AuthorityView::of(&where_used, report, now)));
        let lists = terminator.revocations().into_iter();
        revocation_lists.extend(lists.map(|report| RevocationView::of(&where_used, report, now)));
        if terminator.shows_identity() {
            used_by.push(where_used);
        }
    }
    used_by.extend(snapshot.upstreams.values().filter_map(|upstream| {
        let shows = upstream.settings().tls.as_ref().is_some_and(|tls| tls.client_identity);
        shows.then(|| format!("upstream {}", upstream.name()))
    }));
    let bundles = snapshot.identity.as_ref().map(|identity| identity.current().bundles.clone());
    let bundles = bundles.iter().flat_map(|bundles| bundles.iter()).map(|bundle| BundleView {
        trust_domain: bundle.trust_domain.to_string(),
        authorities: bundle
            .authorities
            .iter()
            .map(|ca| AuthorityView::of("identity", CertificateReport::of(ca, None), now))
            .collect(),
    });
    let certificates = Certificates {
        certificates: Certificate::all(state, &snapshot),
        acme: snapshot
            .acme
            .iter()
            .flat_map(|acme| acme.reports())
            .map(|report| AcmeView::of(report, now))
            .collect(),
        identity: snapshot
            .identity
            .as_ref()
            .map(|identity| IdentityView::of(identity, identity.settings().source_name(), used_by)),
        bundles: bundles.collect(),
        client_authorities,
        revocation_lists,
    };
    Ok(reply::json(StatusCode::OK, &certificates))
}
