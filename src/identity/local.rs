//! An identity from files, or issued by the CA in a directory: looked at once a second, which sees a rename, a swapped
//! symlink and a network file system alike, and costs a handful of system calls.

use std::time::{Duration, SystemTime};

use super::{Reading, Source, feed::Feed, files::Print, live::renewal};

const TICK: Duration = Duration::from_secs(1);
/// What was wrong may have been only for a moment, and the file not have changed.
const AGAIN: Duration = Duration::from_secs(10);

/// `seen` are the files that the feed's material was read from, or the CA's that issued it at `issued`.
pub(super) async fn follow(mut feed: Feed, mut seen: Print, issued: SystemTime) {
    let files = feed.settings.files();
    let mut due = next(&feed, issued);
    let mut last = None;
    loop {
        tokio::time::sleep(TICK).await;
        let paths = files.clone();
        let Ok(print) = tokio::task::spawn_blocking(move || Print::of(&paths)).await else { return };
        let now = SystemTime::now();
        feed.look_at_times(now);
        // Key and certificate are two files: what still changes is read when it has been left alone for a moment.
        let is_settled = last.replace(print.clone()) == Some(print.clone());
        let has_changed = print != seen && is_settled;
        // The clock has gone back: what it said when the SVID was issued says nothing of when to issue another.
        let is_early = due.is_some() && feed.current().svid.as_ref().is_some_and(|svid| svid.is_early(now));
        if !has_changed && !is_early && due.is_none_or(|due| now < due) {
            continue;
        }
        let settings = feed.settings.clone();
        match tokio::task::spawn_blocking(move || settings.read(SystemTime::now())).await {
            Ok(Ok(Reading { material, print, .. })) => {
                seen = print;
                feed.put(material);
                due = next(&feed, now);
            }
            Ok(Err(faults)) => {
                seen = print;
                feed.fail_with(&faults);
                due = Some(now + AGAIN);
            }
            // The runtime is going down.
            Err(_) => return,
        }
    }
}

/// When to act although no file has changed.
fn next(feed: &Feed, issued: SystemTime) -> Option<SystemTime> {
    match (&feed.settings.source, &feed.current().svid) {
        (Source::Ca { .. }, Some(svid)) => Some(renewal(issued, svid.not_after)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        identity::{Identity, Settings, ca::Authority, parse_id, parse_trust_domain},
        observe::metrics::Metrics,
    };

    #[tokio::test]
    async fn an_svid_of_a_clock_that_went_back_is_issued_anew() {
        let directory = tempfile::TempDir::new().unwrap();
        let (day, now) = (Duration::from_secs(86_400), SystemTime::now());
        let trust_domain = parse_trust_domain("mesh.local").unwrap();
        let ca = directory.path().join("ca");
        Authority::new(trust_domain.clone(), 30 * day, now).unwrap().write_to(&ca).unwrap();
        let id = parse_id("spiffe://mesh.local/edge").unwrap();
        let settings =
            Settings { trust_domain, source: Source::Ca { directory: ca, id, ttl: day }, bundles: vec![] };
        let reading = settings.read(now + 2 * day).unwrap();
        assert!(reading.material.svid.as_ref().unwrap().is_early(now));
        let metrics = Arc::new(Metrics::new(""));
        let identity = Identity::start(settings, reading, &tokio::runtime::Handle::current(), &metrics, None);
        let mut changes = identity.subscribe();
        let good = async {
            while identity.current().svid.as_ref().is_none_or(|svid| svid.is_early(SystemTime::now())) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), good).await.expect("a new SVID");
    }
}
