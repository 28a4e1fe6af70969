//! Revocation lists (CRLs, RFC 5280) by URL: fetched before the ones that we have run out, believed where an authority has signed them,
//! and kept. What cannot be fetched changes nothing, and what is older than what we have is not taken: somebody between might
//! send an old list in place of a new one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Request;

use crate::{
    fetch::{Client, Options},
    names::Resolve,
    observe::{log::event, metrics::Metrics},
    policy::freshness::Freshness,
    state_file,
    tls::RevocationLists,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListSettings {
    pub urls: Vec<String>,
    /// PEM: those who may have signed them.
    pub authorities: PathBuf,
    /// Where they are kept, in PEM.
    pub file: PathBuf,
    pub freshness: Freshness,
    /// Of one answer.
    pub timeout: Duration,
    pub largest: usize,
}

/// Why a list was not taken: for the metric.
enum Failure {
    Unreachable(String),
    Refused(String),
}

/// `writing` is held by whoever reads a file of lists and writes it again.
pub(super) async fn keep(
    settings: ListSettings,
    names: Arc<dyn Resolve>,
    metrics: Arc<Metrics>,
    writing: Arc<Mutex<()>>,
) {
    let client = match Client::new(&Options::default(), names) {
        Ok(client) => client,
        Err(error) => return log::error!("revocation lists cannot be fetched: {error}"),
    };
    let mut failures = 0;
    loop {
        let mut answers = Vec::new();
        for url in &settings.urls {
            match fetch(&client, url, &settings).await {
                Ok(answer) => answers.push((url, answer)),
                Err(failure) => tell(&metrics, url, failure),
            }
        }
        let asked = answers.len();
        let (taken, ends) = take(&settings, answers, &metrics, &writing).await;
        failures = if taken == settings.urls.len() { 0 } else { failures + 1 };
        log::debug!("{taken} of {asked} revocation lists were good");
        let left = ends.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        tokio::time::sleep(settings.freshness.wait(left, failures, &mut fastrand::Rng::new())).await;
    }
}

async fn fetch(client: &Client, url: &str, settings: &ListSettings) -> Result<Bytes, Failure> {
    let request = Request::get(url).body(Bytes::new());
    let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let answer = client.send(request, settings.timeout, settings.largest).await;
    let answer = answer.map_err(|error| Failure::Unreachable(error.to_string()))?;
    match answer.status().as_u16() {
        200 => Ok(answer.into_body()),
        status => Err(Failure::Unreachable(format!("it answers {status}"))),
    }
}

/// How many answers were good, and when the first of the lists ends that we have now.
async fn take(
    settings: &ListSettings,
    answers: Vec<(&String, Bytes)>,
    metrics: &Arc<Metrics>,
    writing: &Arc<Mutex<()>>,
) -> (usize, Option<SystemTime>) {
    let answers: Vec<(String, Bytes)> =
        answers.into_iter().map(|(url, answer)| (url.clone(), answer)).collect();
    let (settings, metrics, writing) = (settings.clone(), metrics.clone(), writing.clone());
    // Lists may be long, and a disk slow.
    let taken = move || take_blocking(&settings, &answers, &metrics, &writing);
    let taken = tokio::task::spawn_blocking(taken).await;
    taken.unwrap_or_default()
}

fn take_blocking(
    settings: &ListSettings,
    answers: &[(String, Bytes)],
    metrics: &Metrics,
    writing: &Mutex<()>,
) -> (usize, Option<SystemTime>) {
    // Those of the same authorities share a file, whatever their URLs are.
    let _one_at_a_time = writing.lock().unwrap_or_else(PoisonError::into_inner);
    let before = fs::read(&settings.file).unwrap_or_default();
    let mut lists = match read(&before, &settings.authorities) {
        Ok(lists) => lists,
        Err(why) => {
            for (url, _) in answers {
                tell(metrics, url, Failure::Refused(why.clone()));
            }
            return (0, None);
        }
    };
    let mut good = 0;
    for (url, answer) in answers {
        match lists.take(answer) {
            Ok(()) => {
                good += 1;
                metrics.revocation_fetched(url, "fetched");
            }
            Err(why) => tell(metrics, url, Failure::Refused(why)),
        }
    }
    let now = lists.to_pem();
    if now != before && !now.is_empty() {
        match state_file::write(&settings.file, 0o600, &now) {
            Ok(()) => {
                event!(Info, "revocation lists fetched", lists = lists.len(), file = settings.file.display())
            }
            Err(error) => log::error!("{} cannot be written: {error}", settings.file.display()),
        }
    }
    (good, lists.first_end())
}

/// What is kept, as far as it is understood and one of the authorities has signed it.
fn read(kept: &[u8], authorities: &Path) -> Result<RevocationLists, String> {
    let mut lists = RevocationLists::of(authorities)?;
    lists.take_again(kept);
    Ok(lists)
}

fn tell(metrics: &Metrics, url: &str, failure: Failure) {
    let (word, why) = match failure {
        Failure::Unreachable(why) => ("unreachable", why),
        Failure::Refused(why) => ("refused", why),
    };
    metrics.revocation_fetched(url, word);
    event!(Warn, "a revocation list cannot be had, the old one stays", url = url, reason = word, why = why);
}
