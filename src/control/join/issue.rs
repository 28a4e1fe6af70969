//! SVIDs from the control plane that is joined.
//!
//! Whoever has an SVID renews it over mTLS. Whoever has only a token has nothing to verify the plane by but the hash in it, so
//! the first SVID takes two connections: on one that trusts nobody, and on which nothing of ours is said, the plane's
//! authorities are asked for, and of these only the one with that hash counts; on another, verified by that one alone, the
//! token is shown.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use openssl::{sha::sha256, x509::X509};
use tokio::time::timeout;
use tonic::{Streaming, transport::Channel};

use super::{
    link::{Link, PATIENCE, Server, Who},
    streams::explain,
};
use crate::{
    config,
    identity::{
        Authorities, Bundle, Bundles, IdPattern, Identity, Issued, Issuer, JoinToken, Material, Proof,
    },
    names::Resolve,
    upstream::Live,
    wire::v1::{self, authority_client::AuthorityClient},
};

/// More than any chain with its bundle takes.
const LARGEST_MESSAGE: usize = 256 * 1024;

/// What the servers of `control.join` sign.
pub(crate) struct Signed {
    join: config::Join,
    live: Live,
    names: Arc<dyn Resolve>,
}

impl Signed {
    pub(crate) fn new(join: &config::Join, live: Live, names: Arc<dyn Resolve>) -> Signed {
        // What one is known by elsewhere proves nothing here.
        Signed { join: config::Join { token: None, ..join.clone() }, live, names }
    }

    /// To the plane as `control.join.tls` has it, with what `change` makes of that.
    fn link(&self, identity: Option<Identity>, change: impl FnOnce(&mut config::UpstreamTls)) -> Link {
        let mut join = self.join.clone();
        if let Some(tls) = &mut join.tls {
            change(tls);
        }
        Link::new(&join, Who::This(identity.map(Arc::new)), self.live.clone(), self.names.clone())
    }

    fn as_member(&self, material: &Arc<Material>) -> Link {
        self.link(Some(Identity::new((**material).clone())), |tls| tls.client_identity = true)
    }

    /// The authority that `token` names, as the plane itself shows it.
    async fn authority(&self, token: &JoinToken) -> Result<X509, String> {
        let link = self.link(None, |tls| {
            *tls = config::UpstreamTls { insecure_skip_verify: true, ..config::UpstreamTls::default() };
        });
        let (channel, server) = link.connect().await?;
        let mut bundles = follow(channel, &link, &server).await?;
        let first = timeout(PATIENCE, bundles.message()).await;
        let bundle = match first {
            Ok(Ok(Some(bundle))) => bundle,
            Ok(Err(status)) => return Err(at(&server, &explain(&status))),
            Ok(Ok(None)) | Err(_) => return Err(at(&server, "it does not show its authorities")),
        };
        let known = bundle.authorities.iter().find(|authority| sha256(authority) == token.authority);
        let known = known.and_then(|authority| X509::from_der(authority).ok());
        known.ok_or_else(|| {
            at(
                &server,
                "it is not the control plane that the token is for: none of its authorities has the SHA-256 in the token \
                 (make another token there, or look at who answers)",
            )
        })
    }

    /// As nobody, to a plane that is verified by the authority of `token`.
    async fn as_stranger(&self, token: &JoinToken) -> Result<Link, String> {
        let by_bundle = self.join.tls.as_ref().map(|tls| &tls.verify.spiffe).filter(|ids| !ids.is_empty());
        let Some(ids) = by_bundle else { return Ok(self.link(None, |tls| tls.client_identity = false)) };
        let authority = self.authority(token).await?;
        let listed: &[String] = match ids {
            config::ExpectedIds::Names(ids) => ids,
            config::ExpectedIds::Word(_) => &[],
        };
        let domains = listed.iter().filter_map(|id| IdPattern::parse(id).ok());
        let bundles = domains.map(|id| Bundle::new(id.trust_domain().clone(), vec![authority.clone()]));
        let bundles = bundles.collect::<Result<Bundles, _>>();
        let bundles = bundles.map_err(|why| format!("the authority that the token names {why}"))?;
        Ok(self
            .link(Some(Identity::new(Material { svid: None, bundles })), |tls| tls.client_identity = false))
    }
}

#[async_trait]
impl Issuer for Signed {
    async fn issue(&self, csr: Vec<u8>, proof: &Proof) -> Result<Issued, String> {
        let (link, token) = match proof {
            Proof::Svid(material) => (self.as_member(material), String::new()),
            Proof::Token(token) => (self.as_stranger(token).await?, token.text().expose().to_owned()),
        };
        let (channel, server) = link.connect().await?;
        let mut client = AuthorityClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let asked = client.issue(link.request(v1::IssueRequest { csr, token }));
        let answer = match timeout(2 * PATIENCE, asked).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(at(&server, &explain(&status))),
            Err(_) => return Err(at(&server, "it does not answer")),
        };
        let authorities = answer.bundle.unwrap_or_default().authorities;
        Ok(Issued { chain: answer.chain, authorities })
    }

    async fn authorities(&self, material: Arc<Material>) -> Result<Authorities, String> {
        let link = self.as_member(&material);
        let (channel, server) = link.connect().await?;
        let bundles = follow(channel.clone(), &link, &server).await?;
        // An error ends it as its end does: another stream is opened then. The connection lasts as long.
        let each = stream::unfold((bundles, channel), |(mut bundles, channel)| async {
            let bundle = bundles.message().await.ok().flatten()?;
            Some((bundle.authorities, (bundles, channel)))
        });
        Ok(each.boxed())
    }
}

async fn follow(channel: Channel, link: &Link, server: &Server) -> Result<Streaming<v1::Bundle>, String> {
    let mut client = AuthorityClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let opening = client.watch_bundle(link.request(v1::WatchBundleRequest {}));
    match timeout(PATIENCE, opening).await {
        Ok(Ok(opened)) => Ok(opened.into_inner()),
        Ok(Err(status)) => Err(at(server, &explain(&status))),
        Err(_) => Err(at(server, "it does not answer")),
    }
}

fn at(server: &Server, why: &str) -> String {
    format!("{} ({}): {why}", server.origin, server.address)
}
