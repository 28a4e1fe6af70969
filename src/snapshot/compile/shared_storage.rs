//! A Redis or an etcd that the gateways of a fleet share, for certificates and for ticket keys.

use std::path::{Path as FilePath, PathBuf};

use super::{Compiler, control_store::with_full_paths};
use crate::{
    config::{self, EtcdMembers, Path},
    fleet::{Settings, Sharing},
    redis::Servers,
};

const LEAST_SECRET: usize = 32;

impl Compiler<'_> {
    /// `what` is kept there: a word for its keys.
    pub(super) fn shared_storage(
        &mut self,
        storage: &config::SharedStorage,
        what: &str,
        at: &Path,
    ) -> Settings {
        self.refuse_zero(&at.key("timeout"), storage.timeout);
        let (in_redis, in_etcd) = (format!("tidegate:{what}:"), format!("/tidegate/{what}/"));
        let (by, prefix) = match (&storage.redis, &storage.etcd) {
            (Some(redis), None) => {
                let sources = self.sources;
                let full = |at: &Path, file: &FilePath| sources.full_path(at, file);
                match Servers::new(redis, &at.key("redis"), full) {
                    Ok(servers) => (Sharing::Redis(servers.into()), in_redis),
                    Err(wrong) => {
                        wrong
                            .iter()
                            .for_each(|wrong| self.refuse_with_hint(&wrong.at, &wrong.message, wrong.hint));
                        (nowhere(), in_redis)
                    }
                }
            }
            (None, Some(etcd)) => {
                let (mut etcd, etcd_at) = (etcd.clone(), at.key("etcd"));
                self.etcd_members(&etcd, "whoever is between could learn and change what is kept", &etcd_at);
                if let Some(prefix) = &storage.prefix {
                    self.etcd_prefix(prefix, &in_etcd, &at.key("prefix"));
                }
                let full = |at: &Path, file: &PathBuf| self.sources.full_path(at, file);
                with_full_paths(etcd.tls.as_mut(), &etcd_at.key("tls"), full);
                (Sharing::Etcd(etcd), in_etcd)
            }
            _ => {
                if !self.sources.is_doubtful(at) {
                    let hint = "`redis: redis://redis.internal:6379`, or `etcd: {endpoints: [\"https://etcd-1:2379\"]}`";
                    self.refuse_with_hint(at, "expected exactly one of `redis` and `etcd`", hint);
                }
                (nowhere(), in_redis)
            }
        };
        let secret = storage.secret.expose();
        if secret.len() < LEAST_SECRET {
            let message = format!("a secret of fewer than {LEAST_SECRET} characters can be guessed");
            self.refuse_with_hint(&at.key("secret"), message, "`openssl rand -base64 32` makes one");
        }
        Settings {
            by,
            prefix: storage.prefix.clone().unwrap_or(prefix),
            secret: secret.to_owned(),
            timeout: storage.timeout.into(),
        }
    }
}

/// Of what has been refused.
fn nowhere() -> Sharing {
    Sharing::Etcd(EtcdMembers { endpoints: Vec::new(), tls: None, user: None, password: None })
}
