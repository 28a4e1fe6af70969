//! What is written of configurations: each change in one call, which counts only where how far the configuration is is still what it was.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp, TxnResponse};

use super::{
    super::{
        Shared,
        write::{COMES_BACK, present, session_after, transact},
    },
    Replicated,
    mirror::Whole,
    pieces,
};
use crate::control::{
    configs::{Course, Name, Version, stale, superfluous, text},
    refused::{Reason, Refused},
};

/// # Errors
///
/// `store_unavailable`: there is no session with etcd.
pub(super) async fn ready(shared: &Shared) -> Result<(), Refused> {
    let there = session_after(shared, 0).await;
    there.map(drop).ok_or_else(|| unavailable("there is no session with etcd"))
}

/// # Errors
///
/// `stale`, `store_unavailable`.
pub(super) async fn put(
    store: &Replicated,
    name: &Name,
    version: Arc<Version>,
    course: Course,
) -> Result<(), Refused> {
    let revision = revision(store, name, &course).await?;
    let mut versions = store.whole(name).await?.map(|whole| whole.versions).unwrap_or_default();
    versions.retain(|known| known.number < version.number);
    versions.push(version.clone());
    let shared = &store.shared;
    let (number, written) = (version.number, written(version).await?);
    let mut then = piece_ops(shared, name, number, &written);
    if then.len() > 1 {
        // One call would be too large. Nobody looks at them before the version is there.
        for piece in then.drain(..) {
            call(shared, Txn::new().and_then([piece])).await?;
        }
    }
    then.push(TxnOp::put(shared.layout.version(name, number), written.head, None));
    then.push(TxnOp::put(shared.layout.current(name), text::course_text(&course).map_err(unwritten)?, None));
    for number in superfluous(&versions, &course) {
        then.push(TxnOp::delete(shared.layout.version(name, number), None));
        let all = DeleteOptions::new().with_prefix();
        then.push(TxnOp::delete(shared.layout.pieces(name, number), Some(all)));
    }
    change(store, name, revision, then).await
}

/// # Errors
///
/// `stale`, `store_unavailable`.
pub(super) async fn go_on(store: &Replicated, name: &Name, course: Course) -> Result<(), Refused> {
    let revision = revision(store, name, &course).await?;
    let text = text::course_text(&course).map_err(unwritten)?;
    change(store, name, revision, vec![TxnOp::put(store.shared.layout.current(name), text, None)]).await
}

/// # Errors
///
/// `stale`, `store_unavailable`.
pub(super) async fn remove(store: &Replicated, name: &Name, course: Course) -> Result<(), Refused> {
    let revision = revision(store, name, &course).await?;
    let all = DeleteOptions::new().with_prefix();
    change(store, name, revision, vec![TxnOp::delete(store.shared.layout.config(name), Some(all))]).await
}

/// What a restored store lacks, as it is known here. Where another replica is quicker, or somebody puts something, that counts.
pub(crate) async fn restore(shared: Arc<Shared>) {
    let Ok(_turn) = shared.configs.restoring.try_lock() else { return };
    let lost = shared.configs.state().mirror.all_lost();
    for name in lost {
        if let Err(refused) = restore_one(&shared, &name).await {
            log::warn!("the configuration {name} is not in etcd again yet: {}", refused.why);
        }
    }
    shared.restore_tokens().await;
}

async fn restore_one(shared: &Shared, name: &Name) -> Result<(), Refused> {
    // It was read before it was lost.
    let known = shared
        .configs
        .state()
        .mirror
        .whole(name, |newest| Course::lost(newest, crate::config::RolloutSettings::default()));
    let Some(Whole { versions, course }) = known.0 else { return Ok(()) };
    let revision = shared.configs.state().mirror.revision(name, course.basis);
    let revision = revision.map_err(|newest| stale(name, newest))?;
    let mut then = Vec::new();
    for version in versions {
        let (number, written) = (version.number, written(version).await?);
        for piece in piece_ops(shared, name, number, &written) {
            call(shared, Txn::new().and_then([piece])).await?;
        }
        then.push(TxnOp::put(shared.layout.version(name, number), written.head, None));
    }
    then.push(TxnOp::put(shared.layout.current(name), text::course_text(&course).map_err(unwritten)?, None));
    let answer = call(shared, compared(shared, name, revision, then)).await?;
    shared.wait_for(answered_at(&answer), COMES_BACK).await;
    Ok(())
}

/// The revision of what is to be changed.
async fn revision(store: &Replicated, name: &Name, course: &Course) -> Result<u64, Refused> {
    let configs = &store.shared.configs;
    if configs.state().mirror.is_lost(name) {
        // What it is made to has to be there.
        restore(store.shared.clone()).await;
    }
    let revision = configs.state().mirror.revision(name, course.basis);
    revision.map_err(|newest| stale(name, newest))
}

/// Until all that is known here says so, or somebody else was quicker.
async fn change(store: &Replicated, name: &Name, revision: u64, then: Vec<TxnOp>) -> Result<(), Refused> {
    let shared = &store.shared;
    let answer = call(shared, compared(shared, name, revision, then)).await?;
    if answer.0.succeeded {
        shared.wait_for(answered_at(&answer), COMES_BACK).await;
        return Ok(());
    }
    shared.wait_for(present(&answer.0), COMES_BACK).await;
    let newest = store.whole(name).await?.map_or(0, |whole| whole.course.version);
    Err(stale(name, newest))
}

fn compared(shared: &Shared, name: &str, revision: u64, then: Vec<TxnOp>) -> Txn {
    let current = shared.layout.current(name);
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let is_as_thought = Compare::mod_revision(current.clone(), CompareOp::Equal, revision);
    let otherwise = TxnOp::get(current, Some(GetOptions::new().with_keys_only()));
    Txn::new().when([is_as_thought]).and_then(then).or_else([otherwise])
}

async fn written(version: Arc<Version>) -> Result<pieces::Written, Refused> {
    let written = tokio::task::spawn_blocking(move || pieces::write(&version)).await;
    written.map_err(|_| Reason::StoreUnavailable.because("it failed, see the log"))?.map_err(unwritten)
}

fn piece_ops(shared: &Shared, name: &str, number: u64, written: &pieces::Written) -> Vec<TxnOp> {
    let pieces = written.pieces.iter().enumerate();
    let put = pieces.map(|(index, piece)| {
        TxnOp::put(shared.layout.piece(name, number, &written.sum, index), piece.clone(), None)
    });
    put.collect()
}

async fn call(shared: &Shared, txn: Txn) -> Result<TxnResponse, Refused> {
    let answered = transact(shared, txn).await;
    shared.metrics().operation("config", if answered.is_ok() { "ok" } else { "unavailable" });
    answered.map_err(|why| unavailable(&why))
}

fn unavailable(why: &str) -> Refused {
    let hint = "look which version is the newest, and try again; gateways go on with what they have";
    Reason::StoreUnavailable.because(format!("etcd does not confirm it: {why} ({hint})"))
}

fn answered_at(answer: &TxnResponse) -> u64 {
    answer.0.header.as_ref().and_then(|header| u64::try_from(header.revision).ok()).unwrap_or(0)
}

fn unwritten(error: impl std::fmt::Display) -> Refused {
    Reason::StoreUnavailable.because(format!("it cannot be written down: {error}"))
}
