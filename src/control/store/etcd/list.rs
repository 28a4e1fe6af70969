//! All that the store has, read in pages as of one revision.

use std::{collections::HashMap, sync::Arc};

use etcd_client::{Client, GetOptions, GetResponse, KvClient};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Listing, News, Shared, configs::Entry, layout::Key, record, session::LARGEST_MESSAGE};
use crate::etcd::call;

const PAGE: i64 = 1_000;
const AT_ONCE: usize = 16;

/// # Errors
///
/// Why it could not be read.
///
/// `known` are keys of configurations, with the revisions as of which it is known what stands there.
pub(super) async fn list(
    shared: &Shared,
    client: &Client,
    epoch: u64,
    known: &HashMap<String, u64>,
) -> Result<Listing, String> {
    let mut kv = client.kv_client().max_decoding_message_size(LARGEST_MESSAGE);
    // Few, and what comes first says as of which revision all is.
    let replicas = shared.layout.replica("");
    let first = get(&mut kv, replicas, GetOptions::new().with_prefix()).await?;
    let at = first.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut listing = Listing {
        epoch,
        revision: u64::try_from(at).unwrap_or(0),
        records: Vec::new(),
        unreadable: Vec::new(),
        replicas: HashMap::new(),
        leader: None,
        configs: Vec::new(),
    };
    for entry in first.kvs() {
        if let (Key::Replica(id), Some(advertise)) =
            (shared.layout.read(entry.key()), record::read_place(entry.value()))
        {
            listing.replicas.insert(id.into(), advertise);
        }
    }
    let leader = get(&mut kv, shared.layout.leader(), GetOptions::new().with_revision(at)).await?;
    listing.leader = leader.kvs().first().and_then(|leader| leader.value_str().ok()).map(Arc::from);
    let (mut from, end) = shared.layout.instances();
    loop {
        let page = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at);
        let page = get(&mut kv, from, page).await?;
        for entry in page.kvs() {
            match read(shared, entry) {
                Some(News::Put(record)) => listing.records.push(record),
                Some(News::Unreadable { id, revision }) => listing.unreadable.push((id, revision)),
                _ => {}
            }
        }
        let Some(last) = page.kvs().last().filter(|_| page.more()) else { break };
        from = [last.key(), b"\0"].concat();
    }
    for keys in shared.layout.mirrored() {
        listing.configs.extend(list_configs(&kv, keys, at, known).await?);
    }
    shared.metrics.operation("list", "ok");
    Ok(listing)
}

/// All between two keys: first which there are, and then what stands at those that are not known. Pages of what stands there could be
/// of any size.
async fn list_configs(
    kv: &KvClient,
    (mut from, end): (Vec<u8>, Vec<u8>),
    at: i64,
    known: &HashMap<String, u64>,
) -> Result<Vec<Entry>, String> {
    let mut found = Vec::new();
    loop {
        let page =
            GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at).with_keys_only();
        let page = get(&mut kv.clone(), from, page).await?;
        found.extend(page.kvs().iter().map(|entry| (entry.key().to_vec(), entry.mod_revision())));
        let Some(last) = page.kvs().last().filter(|_| page.more()) else { break };
        from = [last.key(), b"\0"].concat();
    }
    let read = stream::iter(found).map(|(key, revision)| async move {
        let revision = u64::try_from(revision).unwrap_or(0);
        let name = String::from_utf8_lossy(&key).into_owned();
        if known.get(&name) == Some(&revision) {
            return Ok(Entry { key: name, revision, value: None });
        }
        let read = get(&mut kv.clone(), key, GetOptions::new().with_revision(at)).await?;
        let value = read.kvs().first().map(|there| there.value().to_vec());
        Ok(Entry { key: name, revision, value })
    });
    read.buffered(AT_ONCE).try_collect().await
}

async fn get(kv: &mut KvClient, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<GetResponse, String> {
    call(kv.get(key, Some(options))).await
}

/// `None` where its key is none of ours.
pub(super) fn read(shared: &Shared, entry: &etcd_client::KeyValue) -> Option<News> {
    let Key::Instance { service, id } = shared.layout.read(entry.key()) else {
        shared.unreadable(entry.key(), "it is no instance's key");
        return None;
    };
    let revision = u64::try_from(entry.mod_revision()).unwrap_or(0);
    let read = record::read(entry.value(), service, id, revision, &shared.ttls);
    Some(match read {
        Ok(record) => News::Put(record),
        Err(why) => {
            shared.unreadable(entry.key(), &why);
            News::Unreadable { id: id.into(), revision }
        }
    })
}
