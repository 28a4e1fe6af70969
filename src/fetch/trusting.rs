//! A [`Client`] whose authorities are followed, be they in a file of the operator's or those of the system: replaced, they
//! count for new connections a few seconds later. What cannot be read changes nothing.

use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;

use super::{Client, Options};
use crate::names::Resolve;

/// How often the file is looked at, while there are requests.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) struct Trusting {
    file: Option<PathBuf>,
    options: Options,
    names: Arc<dyn Resolve>,
    current: ArcSwap<Client>,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Instant,
    print: Option<Print>,
}

/// What tells that a file is another than before.
type Print = (SystemTime, u64);

/// What became of a file that has changed.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Taken,
    /// Why it was not, in the operator's words.
    Refused(String),
}

impl Trusting {
    /// Trusts the authorities in `file`, and without one those that the system trusts. `options` say all the rest.
    ///
    /// # Errors
    ///
    /// The file cannot be used.
    pub(crate) fn new(
        file: Option<PathBuf>,
        options: Options,
        names: Arc<dyn Resolve>,
    ) -> Result<Trusting, String> {
        let seen = Mutex::new(Seen { at: Instant::now(), print: print(file.as_ref()) });
        let current = ArcSwap::from_pointee(client(file.as_ref(), &options, &names)?);
        Ok(Trusting { file, options, names, current, seen })
    }

    /// Without a lock.
    pub(crate) fn client(&self) -> Arc<Client> {
        self.current.load_full()
    }

    /// Look at the file where that is due; `None` where nothing has changed. One caller in five seconds waits for the disk.
    pub(crate) fn look(&self, now: Instant) -> Option<Change> {
        let file = self.file.as_ref();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(seen.at) < LOOK {
                return None;
            }
            seen.at = now;
            let print = print(file);
            if print == seen.print {
                return None;
            }
            seen.print = print;
        }
        match client(file, &self.options, &self.names) {
            Ok(client) => {
                self.current.store(Arc::new(client));
                Some(Change::Taken)
            }
            Err(why) => Some(Change::Refused(why)),
        }
    }
}

impl fmt::Debug for Trusting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trusting").field("file", &self.file).finish_non_exhaustive()
    }
}

fn print(file: Option<&PathBuf>) -> Option<Print> {
    let file = file.cloned().or_else(|| openssl_probe::probe().cert_file)?;
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn client(file: Option<&PathBuf>, options: &Options, names: &Arc<dyn Resolve>) -> Result<Client, String> {
    let read = |file: &PathBuf| {
        fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
    };
    let ca = file.map(read).transpose()?;
    Client::new(&Options { ca, ..options.clone() }, names.clone()).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509;

    use super::*;
    use crate::identity::certificates::authority;

    #[test]
    fn a_new_file_is_taken_in_and_a_bad_one_changes_nothing() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("ca.pem");
        let pem = |certificate: &X509| certificate.to_pem().unwrap();
        let (old, new) = (authority("old.local"), authority("new.local"));
        fs::write(&file, pem(&old.certificate)).unwrap();
        let names = Arc::new(crate::names::SystemResolver::new());
        let trusting = Trusting::new(Some(file.clone()), Options::default(), names).unwrap();
        let start = trusting.seen.lock().unwrap().at;
        let first = trusting.client();
        fs::write(&file, [pem(&old.certificate), pem(&new.certificate)].concat()).unwrap();
        assert_eq!(trusting.look(start + LOOK / 2), None, "it is not looked at yet");
        assert_eq!(trusting.look(start + LOOK), Some(Change::Taken));
        let second = trusting.client();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(trusting.look(start + 2 * LOOK), None);
        fs::write(&file, "nothing").unwrap();
        assert!(matches!(trusting.look(start + 3 * LOOK), Some(Change::Refused(_))));
        assert_eq!(trusting.look(start + 4 * LOOK), None, "it is told once");
        assert!(Arc::ptr_eq(&second, &trusting.client()));
        fs::remove_file(&file).unwrap();
        assert!(matches!(trusting.look(start + 5 * LOOK), Some(Change::Refused(_))));
    }
}
