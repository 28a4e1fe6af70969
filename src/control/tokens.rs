//! Tokens for first SVIDs: who may use one, how often and until when. Only the hash of a secret is kept. A use is on the disk, or in the
//! store that replicas share, before anybody hears of it, so that no crash makes a token good for one more.

mod shared;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::memcmp;
use serde::{Deserialize, Serialize};

use self::shared::ForAll;
use super::{
    refused::{Reason, Refused},
    store::{etcd::Shared, file},
};
use crate::identity::{JoinToken, SpiffeId, hex, parse_id, unhex};

/// Far more than machines are added at a time.
const MOST: usize = 10_000;
const VERSION: u32 = 1;
/// One that is used up or has ended is remembered for so long, so that whoever comes with it is told.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// Where they are kept.
pub(crate) enum Tokens {
    Here(Files),
    ForAll(ForAll),
}

/// `tokens.json` in the `state_dir`.
pub(crate) struct Files {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: BTreeMap<String, Token>,
    /// A successor counts the uses now.
    is_given_away: bool,
}

/// As it is shown: without its secret.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    /// Whose SVID it is for.
    pub(crate) spiffe: SpiffeId,
    hash: [u8; 32],
    pub(crate) uses: u32,
    pub(crate) left: u32,
    pub(crate) until: SystemTime,
    pub(crate) created: SystemTime,
    /// Who has made it.
    pub(crate) by: String,
}

/// What is wanted of a new one.
pub(crate) struct Wanted {
    pub(crate) spiffe: SpiffeId,
    pub(crate) uses: u32,
    pub(crate) ttl: Duration,
    pub(crate) by: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    tokens: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    spiffe: String,
    sha256: String,
    uses: u32,
    left: u32,
    /// Seconds since 1970, as the next.
    until: u64,
    created: u64,
    by: String,
}

impl Tokens {
    /// With those that an earlier process has left.
    pub(crate) fn within(state_dir: &Path) -> Tokens {
        Tokens::Here(Files::within(state_dir))
    }

    /// Those of all replicas.
    pub(crate) fn sharing(shared: Arc<Shared>) -> Tokens {
        Tokens::ForAll(ForAll::new(shared))
    }

    /// A new one: the only time that it is seen whole. Blocking, as `revoke` and `take`.
    ///
    /// # Errors
    ///
    /// There are too many, or it cannot be written down.
    pub(crate) fn create(
        &self,
        token: &JoinToken,
        wanted: Wanted,
        now: SystemTime,
    ) -> Result<Token, Refused> {
        match self {
            Tokens::Here(files) => files.create(token, wanted, now),
            Tokens::ForAll(all) => all.create(token, wanted, now),
        }
    }

    /// By their ids.
    pub(crate) fn list(&self) -> Vec<(String, Token)> {
        match self {
            Tokens::Here(files) => files.list(),
            Tokens::ForAll(all) => all.list(),
        }
    }

    /// # Errors
    ///
    /// There is none of that id, or it cannot be written down.
    pub(crate) fn revoke(&self, id: &str) -> Result<(), Refused> {
        match self {
            Tokens::Here(files) => files.revoke(id),
            Tokens::ForAll(all) => all.revoke(id),
        }
    }

    /// Whose SVID `token` is for now. It is not used by that.
    ///
    /// # Errors
    ///
    /// `unauthenticated`: it is not known, is used up or has ended.
    pub(crate) fn look(&self, token: &JoinToken, now: SystemTime) -> Result<SpiffeId, Refused> {
        match self {
            Tokens::Here(files) => files.look(token, now),
            Tokens::ForAll(all) => all.look(token, now),
        }
    }

    /// Uses it once; that is kept when this returns.
    ///
    /// # Errors
    ///
    /// As of [`Tokens::look`]; or that cannot be written down.
    pub(crate) fn take(&self, token: &JoinToken, now: SystemTime) -> Result<(), Refused> {
        match self {
            Tokens::Here(files) => files.take(token, now),
            Tokens::ForAll(all) => all.take(token, now),
        }
    }

    /// Where they are this process's own: another one counts from now on.
    pub(crate) fn give_away(&self) {
        if let Tokens::Here(files) = self {
            files.give_away();
        }
    }

    pub(crate) fn take_back(&self) {
        if let Tokens::Here(files) = self {
            files.take_back();
        }
    }

    /// What the predecessor has written down last.
    pub(crate) fn catch_up(&self) {
        if let Tokens::Here(files) = self {
            files.catch_up();
        }
    }
}

impl Files {
    fn within(state_dir: &Path) -> Files {
        let tokens = Files { path: state_dir.join("tokens.json"), state: Mutex::default() };
        tokens.state().tokens = tokens.read();
        tokens
    }

    fn create(&self, token: &JoinToken, wanted: Wanted, now: SystemTime) -> Result<Token, Refused> {
        let mut state = self.counting()?;
        state.tokens.retain(|_, token| now < token.forgotten());
        if state.tokens.len() >= MOST {
            return Err(too_many());
        }
        let made = Token::new(token, wanted, now);
        state.tokens.insert(token.id.clone(), made.clone());
        if let Err(refused) = self.write(&state) {
            state.tokens.remove(&token.id);
            return Err(refused);
        }
        Ok(made)
    }

    fn list(&self) -> Vec<(String, Token)> {
        self.state().tokens.iter().map(|(id, token)| (id.clone(), token.clone())).collect()
    }

    fn revoke(&self, id: &str) -> Result<(), Refused> {
        let mut state = self.counting()?;
        let Some(token) = state.tokens.remove(id) else {
            return Err(not_found(id));
        };
        if let Err(refused) = self.write(&state) {
            state.tokens.insert(id.to_owned(), token);
            return Err(refused);
        }
        Ok(())
    }

    fn look(&self, token: &JoinToken, now: SystemTime) -> Result<SpiffeId, Refused> {
        Ok(known(self.state().tokens.get(&token.id), token, now)?.spiffe.clone())
    }

    fn take(&self, token: &JoinToken, now: SystemTime) -> Result<(), Refused> {
        let mut state = self.counting()?;
        known(state.tokens.get(&token.id), token, now)?;
        count(&mut state.tokens, &token.id, |left| left.saturating_sub(1));
        if let Err(refused) = self.write(&state) {
            count(&mut state.tokens, &token.id, |left| left.saturating_add(1));
            return Err(refused);
        }
        Ok(())
    }

    fn give_away(&self) {
        self.state().is_given_away = true;
    }

    fn take_back(&self) {
        let tokens = self.read();
        *self.state() = State { tokens, is_given_away: false };
    }

    fn catch_up(&self) {
        let tokens = self.read();
        self.state().tokens = tokens;
    }

    fn counting(&self) -> Result<MutexGuard<'_, State>, Refused> {
        let state = self.state();
        if state.is_given_away {
            return Err(Reason::Limit.because("another process takes over here (ask again in a moment)"));
        }
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> BTreeMap<String, Token> {
        let Some(text) = file::read(&self.path) else { return BTreeMap::new() };
        read(&text).unwrap_or_else(|why| {
            file::set_aside(&self.path, &why);
            BTreeMap::new()
        })
    }

    fn write(&self, state: &State) -> Result<(), Refused> {
        let rows = state.tokens.iter().map(|(id, token)| Row::of(id, token)).collect();
        let text = serde_json::to_vec(&File { version: VERSION, tokens: rows });
        let written = text.map_err(std::io::Error::other).and_then(|text| file::write(&self.path, &text));
        written.map_err(|error| {
            let path = self.path.display();
            log::error!(
                "cannot write tokens to {path}: {error}; none is made or taken until that is possible"
            );
            Reason::StoreUnavailable
                .because("it cannot be written down (look at the log of the control plane)")
        })
    }
}

fn not_found(id: &str) -> Refused {
    Reason::NotFound.because(format!("there is no token {id:?} (GET /v1/tokens lists them)"))
}

fn too_many() -> Refused {
    let hint = "revoke some that nobody needs with `tidegate token revoke ID`";
    Reason::Limit.because(format!("there are {MOST} tokens already ({hint})"))
}

impl Token {
    fn new(token: &JoinToken, wanted: Wanted, now: SystemTime) -> Token {
        let Wanted { spiffe, uses, ttl, by } = wanted;
        Token { spiffe, hash: token.hash(), uses, left: uses, until: now + ttl, created: now, by }
    }

    /// As it stands in a store that is shared.
    pub(crate) fn text(&self, id: &str) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Row::of(id, self))
    }

    /// # Errors
    ///
    /// Why it is not the token `id`.
    pub(crate) fn read(text: &[u8], id: &str) -> Result<Token, String> {
        let row: Row = serde_json::from_slice(text).map_err(|_| "it is no JSON of ours".to_owned())?;
        match row.read()? {
            (named, token) if named == id => Ok(token),
            _ => Err("it is another token's".to_owned()),
        }
    }

    fn forgotten(&self) -> SystemTime {
        match self.left {
            0 => self.until,
            _ => self.until + REMEMBERED,
        }
    }
}

fn count(tokens: &mut BTreeMap<String, Token>, id: &str, change: fn(u32) -> u32) {
    if let Some(token) = tokens.get_mut(id) {
        token.left = change(token.left);
    }
}

/// The secret is compared first, and in constant time: whoever does not have it learns nothing.
fn known<'a>(token: Option<&'a Token>, shown: &JoinToken, now: SystemTime) -> Result<&'a Token, Refused> {
    let hint = "make another with `tidegate token create`";
    let refuse = |why: String| Err(Reason::Unauthenticated.because(format!("{why} ({hint})")));
    match token.filter(|token| memcmp::eq(&token.hash, &shown.hash())) {
        None => refuse("this token is not known here: it was revoked, or never made".to_owned()),
        Some(token) if now >= token.until => refuse(format!("the token {} has ended", shown.id)),
        Some(token) if token.left == 0 => refuse(match token.uses {
            1 => format!("the token {} was used already, and it is good for one SVID", shown.id),
            uses => format!("the token {} was used {uses} times, as often as it may be", shown.id),
        }),
        Some(token) => Ok(token),
    }
}

impl Row {
    fn of(id: &str, token: &Token) -> Row {
        Row {
            id: id.to_owned(),
            spiffe: token.spiffe.to_string(),
            sha256: hex(&token.hash),
            uses: token.uses,
            left: token.left,
            until: seconds(token.until),
            created: seconds(token.created),
            by: token.by.clone(),
        }
    }

    fn read(self) -> Result<(String, Token), String> {
        let token = Token {
            spiffe: parse_id(&self.spiffe).map_err(|why| format!("a token's ID {why}"))?,
            hash: unhex(&self.sha256).ok_or("a token's hash is none")?,
            uses: self.uses,
            left: self.left.min(self.uses),
            until: time(self.until)?,
            created: time(self.created)?,
            by: self.by,
        };
        Ok((self.id, token))
    }
}

fn read(text: &[u8]) -> Result<BTreeMap<String, Token>, String> {
    let File { version, tokens } =
        serde_json::from_slice(text).map_err(|_| "it is cut off, or no JSON of ours".to_owned())?;
    if version != VERSION {
        return Err(format!("it is of another release (version {version})"));
    }
    if tokens.len() > MOST {
        return Err(format!("it has more than {MOST} tokens"));
    }
    tokens.into_iter().map(Row::read).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> Result<SystemTime, String> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| "a time is none".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn tokens() -> (tempfile::TempDir, Files) {
        let directory = tempfile::TempDir::new().unwrap();
        let tokens = Files::within(directory.path());
        (directory, tokens)
    }

    fn wanted(uses: u32) -> Wanted {
        let spiffe = parse_id("spiffe://mesh.local/payments").unwrap();
        Wanted { spiffe, uses, ttl: HOUR, by: "test".into() }
    }

    fn made(tokens: &Files, uses: u32, now: SystemTime) -> JoinToken {
        let token = JoinToken::new([1; 32]).unwrap();
        tokens.create(&token, wanted(uses), now).unwrap();
        token
    }

    #[track_caller]
    fn assert_refused<T>(outcome: Result<T, Refused>, reason: Reason, says: &str) {
        let refused = outcome.err().expect("it is refused");
        assert!(refused.reason == reason && refused.why.contains(says), "{refused}");
    }

    #[test]
    fn a_token_is_good_for_as_many_svids_as_it_says() {
        let (_directory, tokens) = tokens();
        let now = SystemTime::now();
        let (one, three) = (made(&tokens, 1, now), made(&tokens, 3, now));
        assert_eq!(tokens.look(&one, now).unwrap().to_string(), "spiffe://mesh.local/payments");
        assert!(tokens.take(&one, now).is_ok());
        assert_refused(tokens.take(&one, now), Reason::Unauthenticated, "was used already");
        assert_refused(tokens.look(&one, now), Reason::Unauthenticated, "was used already");
        assert!((0..3).all(|_| tokens.take(&three, now).is_ok()));
        assert_refused(tokens.take(&three, now), Reason::Unauthenticated, "was used 3 times");
    }

    #[test]
    fn one_that_has_ended_was_revoked_or_is_guessed_is_refused() {
        let (_directory, tokens) = tokens();
        let now = SystemTime::now();
        let (one, other) = (made(&tokens, 5, now), made(&tokens, 5, now));
        assert_refused(tokens.take(&one, now + HOUR), Reason::Unauthenticated, "has ended");
        tokens.revoke(&other.id).unwrap();
        assert_refused(tokens.take(&other, now), Reason::Unauthenticated, "revoked");
        assert_refused(tokens.revoke(&other.id), Reason::NotFound, "there is no token");
        // The id of a good one, and another secret.
        let other = JoinToken::new([1; 32]).unwrap().text();
        let guessed = other.expose().replace(other.expose().split('_').nth(1).unwrap(), &one.id);
        let guessed = JoinToken::parse(&guessed).unwrap();
        assert_refused(tokens.take(&guessed, now), Reason::Unauthenticated, "not known");
        assert!(tokens.take(&one, now).is_ok());
    }

    #[test]
    fn uses_are_on_the_disk_and_secrets_are_not() {
        let (directory, tokens) = tokens();
        let now = SystemTime::now();
        let token = made(&tokens, 2, now);
        tokens.take(&token, now).unwrap();
        let path = directory.path().join("tokens.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        let secret = token.text().expose().split('_').nth(2).unwrap().to_owned();
        assert!(!text.contains(&secret) && text.contains(&hex(&token.hash())), "{text}");
        let next = Files::within(directory.path());
        assert_eq!(next.list()[0].1.left, 1);
        assert!(next.take(&token, now).is_ok());
        assert_refused(next.take(&token, now), Reason::Unauthenticated, "was used 2 times");
    }

    #[test]
    fn what_cannot_be_written_down_does_not_count() {
        let (directory, tokens) = tokens();
        let now = SystemTime::now();
        let token = made(&tokens, 1, now);
        // A folder in the place of the file.
        fs::remove_file(directory.path().join("tokens.json")).unwrap();
        fs::create_dir(directory.path().join("tokens.json")).unwrap();
        fs::write(directory.path().join("tokens.json").join("x"), "").unwrap();
        assert_refused(tokens.take(&token, now), Reason::StoreUnavailable, "written down");
        assert_refused(
            tokens.create(&JoinToken::new([1; 32]).unwrap(), wanted(1), now),
            Reason::StoreUnavailable,
            "written down",
        );
        fs::remove_dir_all(directory.path().join("tokens.json")).unwrap();
        assert_eq!(tokens.list().len(), 1);
        assert!(tokens.take(&token, now).is_ok(), "it was not used by that");
    }

    #[test]
    fn of_two_processes_only_one_counts() {
        let (directory, old) = tokens();
        let now = SystemTime::now();
        let token = made(&old, 1, now);
        old.give_away();
        assert_refused(old.take(&token, now), Reason::Limit, "takes over");
        let new = Files::within(directory.path());
        new.catch_up();
        assert!(new.take(&token, now).is_ok());
        old.take_back();
        assert_refused(old.take(&token, now), Reason::Unauthenticated, "was used already");
    }

    #[test]
    fn a_file_that_is_broken_is_set_aside() {
        for text in ["", "{", r#"{"version":2,"tokens":[]}"#, r#"{"version":1,"tokens":[{"id":"a"}]}"#] {
            let directory = tempfile::TempDir::new().unwrap();
            fs::write(directory.path().join("tokens.json"), text).unwrap();
            assert!(Files::within(directory.path()).list().is_empty());
            assert!(
                directory.path().join("tokens.json.old").exists()
                    || directory.path().join("tokens.json").exists()
            );
        }
    }

    #[test]
    fn they_are_bounded_and_those_that_have_ended_make_room() {
        let (_directory, tokens) = tokens();
        let now = SystemTime::now();
        let token = JoinToken::new([1; 32]).unwrap();
        let one = tokens.create(&token, wanted(1), now).unwrap();
        tokens.state().tokens = (0..MOST).map(|number| (format!("{number:016}"), one.clone())).collect();
        assert_refused(tokens.create(&token, wanted(1), now), Reason::Limit, "already");
        assert!(tokens.create(&token, wanted(1), now + HOUR + REMEMBERED).is_ok());
        assert_eq!(tokens.list().len(), 1);
    }
}
