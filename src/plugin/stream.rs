//! One request inside a plugin: it takes its turns in the instance that has its context.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::{
    Failure, Root, Turn, Verdict, View,
    instance::{Taken, granted},
    pool::Cell,
};

pub(crate) struct Stream {
    root: Arc<Root>,
    cell: Arc<Cell>,
    id: u32,
    woken: Arc<Notify>,
    is_over: AtomicBool,
}

impl Stream {
    pub(super) fn new(root: Arc<Root>, cell: Arc<Cell>, id: u32, woken: Arc<Notify>) -> Stream {
        Stream { root, cell, id, woken, is_over: AtomicBool::new(false) }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// One callback. What is lent comes back, unless the request waits.
    pub(crate) fn take_turn(&self, view: Box<dyn View>, turn: Turn) -> Taken {
        if self.cell.is_dead() {
            return (Err(Failure::of_another()), Some(view));
        }
        let (verdict, view) = self.cell.lock().take_turn(self.id, view, turn);
        if let Err(failure) = &verdict {
            self.root.plugin.retire(&self.cell, failure);
        }
        (verdict, view)
    }

    /// Until something has happened to it.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether something has happened to it.
    pub(crate) fn has_news(&self) -> bool {
        self.cell.is_dead() || self.cell.lock().has_wish(self.id)
    }

    /// What has happened to it; `None` where it is to go on waiting.
    pub(crate) fn look(&self) -> Option<Result<Verdict, Failure>> {
        let wish = self.cell.lock().wish(self.id);
        match granted(wish) {
            Some(verdict) => Some(Ok(verdict)),
            None if self.cell.is_dead() => Some(Err(Failure::of_another())),
            None => None,
        }
    }

    /// It waits no more.
    pub(crate) fn take_back(&self) -> Option<Box<dyn View>> {
        self.cell.lock().take_back(self.id)
    }

    /// The request is over.
    pub(crate) fn end(&self, view: Box<dyn View>) -> Option<Box<dyn View>> {
        match self.is_over.swap(true, Relaxed) {
            true => Some(view),
            false => self.leave(Some(view)),
        }
    }

    fn leave(&self, view: Option<Box<dyn View>>) -> Option<Box<dyn View>> {
        if self.cell.is_dead() {
            return view;
        }
        let (ended, view) = self.cell.lock().end(self.id, view);
        if let Err(failure) = &ended {
            self.root.plugin.retire(&self.cell, failure);
        }
        view
    }
}

impl Drop for Stream {
    /// Where nobody said that it is over, as after a panic.
    fn drop(&mut self) {
        if !self.is_over.swap(true, Relaxed) {
            self.leave(None);
        }
    }
}
