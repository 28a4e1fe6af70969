//! An issuer's document, for those who need what stands in it again and again. It is read when it is needed first, and once it is old it is
//! read anew beside those who need it: whoever has one does not wait for another, however long the issuer takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Mutex, time::timeout};

use super::{Issuer, Metadata, Trusting, Undiscovered};

/// Where it cannot be read, it is not asked for more often.
const PAUSE: Duration = Duration::from_secs(1);

/// A `T` is what is taken from it.
pub(crate) struct Document<T> {
    issuer: Issuer,
    client: Arc<Trusting>,
    /// For each of its places.
    timeout: Duration,
    /// It is old after so long.
    fresh: Duration,
    read: fn(&Metadata) -> Result<T, Undiscovered>,
    known: ArcSwapOption<Known<T>>,
    /// When it could not be read; held while it is read.
    failed: Arc<Mutex<Option<Failed>>>,
}

struct Known<T> {
    said: Arc<T>,
    since: Instant,
}

struct Failed {
    at: Instant,
    why: Undiscovered,
}

impl Failed {
    fn is_recent(&self) -> bool {
        self.at.elapsed() < PAUSE
    }
}

impl<T: Send + Sync + 'static> Document<T> {
    pub(crate) fn new(
        issuer: Issuer,
        client: Arc<Trusting>,
        timeout: Duration,
        fresh: Duration,
        read: fn(&Metadata) -> Result<T, Undiscovered>,
    ) -> Arc<Document<T>> {
        let (known, failed) = (ArcSwapOption::empty(), Arc::default());
        Arc::new(Document { issuer, client, timeout, fresh, read, known, failed })
    }

    pub(crate) fn issuer(&self) -> &str {
        self.issuer.name()
    }

    /// What is known and not old.
    pub(crate) fn known(&self) -> Option<Arc<T>> {
        let known = self.known.load();
        known.as_ref().filter(|known| !self.is_old(known)).map(|known| known.said.clone())
    }

    /// What it says, or said when it was last read. All who need it before it was ever read wait for one reading.
    ///
    /// # Errors
    ///
    /// It cannot be read, and never was.
    pub(crate) async fn said(self: &Arc<Self>) -> Result<Arc<T>, Undiscovered> {
        if let Some(known) = &*self.known.load() {
            if self.is_old(known) {
                self.read_beside();
            }
            return Ok(known.said.clone());
        }
        let late =
            || Undiscovered { code: "timeout", why: "the issuer's document is not here in time".to_owned() };
        let mut failed = timeout(self.timeout, self.failed.lock()).await.map_err(|_| late())?;
        if let Some(known) = &*self.known.load() {
            return Ok(known.said.clone());
        }
        match &*failed {
            Some(failed) if failed.is_recent() => Err(failed.why.clone()),
            _ => self.read(&mut failed).await,
        }
    }

    fn is_old(&self, known: &Known<T>) -> bool {
        known.since.elapsed() >= self.fresh
    }

    fn read_beside(self: &Arc<Self>) {
        // Else it is being read already.
        let Ok(mut failed) = self.failed.clone().try_lock_owned() else { return };
        if failed.as_ref().is_some_and(Failed::is_recent) {
            return;
        }
        let document = self.clone();
        tokio::spawn(async move {
            // What comes of it, whoever asks next learns.
            let _ = document.read(&mut failed).await;
        });
    }

    async fn read(&self, failed: &mut Option<Failed>) -> Result<Arc<T>, Undiscovered> {
        let metadata = self.issuer.discover(&self.client.client(), self.timeout).await;
        match metadata.and_then(|metadata| (self.read)(&metadata)) {
            Ok(said) => {
                let said = Arc::new(said);
                self.known.store(Some(Arc::new(Known { said: said.clone(), since: Instant::now() })));
                *failed = None;
                Ok(said)
            }
            Err(why) => {
                *failed = Some(Failed { at: Instant::now(), why: why.clone() });
                Err(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{fetch::Options, names::SystemResolver};

    #[tokio::test]
    async fn whoever_has_a_document_does_not_wait_for_an_issuer_that_hangs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let client = Trusting::new(None, Options::default(), Arc::new(SystemResolver::new())).unwrap();
        let (forever, read) = (Duration::from_secs(1 << 20), |metadata: &Metadata| metadata.endpoint("keys"));
        let issuer = Issuer::new(&name, false).unwrap();
        // It is always old.
        let document = Document::new(issuer, Arc::new(client), forever, Duration::ZERO, read);
        let text = format!(r#"{{"issuer": "{name}", "keys": "{name}/keys"}}"#);
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
            stream.write_all((head + &text).as_bytes()).await.unwrap();
        };
        let (said, ()) = tokio::join!(document.said(), answer);
        let keys = format!("{name}/keys");
        assert_eq!(said.unwrap().to_string(), keys);
        // From now on it takes connections, and says nothing.
        for _ in 0..3 {
            assert!(document.known().is_none());
            assert_eq!(document.said().await.unwrap().to_string(), keys);
        }
        let _hangs = listener.accept().await.unwrap();
        assert_eq!(document.said().await.unwrap().to_string(), keys);
        assert!(document.failed.try_lock().is_err(), "one reading is under way");
    }
}
