//! Every reader of a stranger's bytes, over its corpus and what becomes of it: mutants by the thousand, from a seed, so that
//! what fails fails again. `fuzz/` runs the same targets for as long as one likes.
//!
//! `TIDEGATE_FUZZ_RUNS` is how many mutants each target gets, `TIDEGATE_FUZZ_SECONDS` for how long each runs instead, and
//! `TIDEGATE_FUZZ_TARGET` the only one that does. `TIDEGATE_FUZZ_SEED` takes other mutants.

use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;
use tidegate::fuzzing::{TARGETS, Target};

/// Mutants of each target, where nobody says otherwise.
const RUNS: u64 = 1000;
/// Of those that have sockets, which take a hundred times as long.
const RUNS_OF_CONNECTIONS: u64 = 100;
/// Longer mutants are cut.
const LONGEST: usize = 16 * 1024;

#[test]
fn no_bytes_make_a_reader_break_its_promises() {
    let only = env::var("TIDEGATE_FUZZ_TARGET").ok();
    let chosen = TARGETS.iter().filter(|target| only.as_deref().is_none_or(|only| only == target.name));
    let chosen: Vec<&Target> = chosen.collect();
    assert!(!chosen.is_empty(), "no target is called {only:?}");
    // Of all of them, so that one failure does not hide another.
    let failures: Vec<String> = chosen.into_iter().filter_map(|target| fuzz(target).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_target_is_there_for_libfuzzer_and_has_a_corpus_and_a_dictionary() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let named = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).unwrap();
        entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    for folder in ["fuzz_targets", "corpus", "dictionaries"] {
        assert_eq!(named(folder), targets, "fuzz/{folder}");
    }
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        let text = fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{target}\", bytes)")), "{target}");
        assert!(!corpus(target).is_empty() && !dictionary(target).is_empty(), "{target}");
    }
}

/// How often it ran, or the first input that it cannot take.
fn fuzz(target: &Target) -> Result<u64, String> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = number("TIDEGATE_FUZZ_SECONDS").map(Duration::from_secs);
    let usual = if target.name.starts_with("http") { RUNS_OF_CONNECTIONS } else { RUNS };
    let most = if limit.is_some() { u64::MAX } else { number("TIDEGATE_FUZZ_RUNS").unwrap_or(usual) };
    let corpus = corpus(target.name);
    let mut mutator = Mutator {
        rng: Rng::with_seed(number("TIDEGATE_FUZZ_SEED").unwrap_or(1)),
        words: dictionary(target.name),
        corpus: corpus.iter().map(|(_, bytes)| bytes.clone()).collect(),
    };
    for (name, bytes) in &corpus {
        attempt(target, bytes).map_err(|why| format!("{} of corpus/{}: {why}", name, target.name))?;
    }
    let (began, mut runs) = (Instant::now(), 0);
    while runs < most && limit.is_none_or(|limit| began.elapsed() < limit) {
        let bytes = mutator.next();
        attempt(target, &bytes).map_err(|why| {
            format!("{}, run {runs}: {why}\n  the input: {}", target.name, bytes.escape_ascii())
        })?;
        runs += 1;
    }
    if limit.is_some() {
        eprintln!("{}: {runs} runs in {:.0?}", target.name, began.elapsed());
    }
    Ok(runs)
}

fn attempt(target: &Target, bytes: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panics").to_owned()
    })
}

/// By name, so that the seed means the same everywhere.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
}

/// A word on each line, in quotes, with escapes as libFuzzer has them.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/dictionaries/{target}.dict"));
    fs::read_to_string(file).unwrap().lines().map(word).collect()
}

fn word(line: &str) -> Vec<u8> {
    let quoted = line.strip_prefix('"').and_then(|line| line.strip_suffix('"'));
    let mut rest = quoted.unwrap_or_else(|| panic!("not in quotes: {line}")).as_bytes();
    let mut word = Vec::new();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let (&escape, behind) = rest.split_first().expect("something behind the backslash");
        rest = behind;
        word.push(match escape {
            b'x' => {
                let (digits, behind) = rest.split_at(2);
                rest = behind;
                u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            itself @ (b'\\' | b'"') => itself,
            other => panic!("libFuzzer knows no \\{} in {line}", char::from(other)),
        });
    }
    word
}

struct Mutator {
    rng: Rng,
    words: Vec<Vec<u8>>,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// Something of the corpus, or made of nothing, after a few changes.
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = if self.rng.u8(..) < 8 { Vec::new() } else { self.seed() };
        for _ in 0..self.rng.usize(1..=6) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn seed(&mut self) -> Vec<u8> {
        self.corpus[self.rng.usize(..self.corpus.len())].clone()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.usize(..=bytes.len());
        match self.rng.u8(..12) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = self.byte(),
            2 => bytes.insert(at, self.byte()),
            3 => drop(bytes.drain(self.range(bytes.len()))),
            // Twice, somewhere else.
            4 => {
                let part = bytes[self.range(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            5 => {
                let other = self.seed();
                let part = &other[self.range(other.len())];
                let replaced = at..(at + self.rng.usize(..=part.len())).min(bytes.len());
                drop(bytes.splice(replaced, part.iter().copied()));
            }
            6 => bytes.truncate(at),
            // A number that is read as a length.
            7 if at < bytes.len() => {
                bytes[at] = *self.rng.choice(&[0, 1, 0x7e, 0x7f, 0x80, 0xfe, 0xff]).expect("there are some");
            }
            8 | 9 => self.other_number(bytes),
            _ => {
                let word = self.words[self.rng.usize(..self.words.len())].clone();
                let end = if self.rng.bool() { at } else { (at + word.len()).min(bytes.len()) };
                drop(bytes.splice(at..end, word));
            }
        }
    }

    /// A number that is written in digits becomes one at the end of what some type holds.
    fn other_number(&mut self, bytes: &mut Vec<u8>) {
        const ENDS: [&str; 14] = [
            "0",
            "1",
            "-1",
            "255",
            "65535",
            "65536",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "18446744073709551616",
            "1e308",
            "-1e308",
            "1e-9",
            "0.5",
        ];
        let is_start =
            |at: &usize| bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[at - 1].is_ascii_digit());
        let starts: Vec<usize> = (0..bytes.len()).filter(is_start).collect();
        let Some(&start) = self.rng.choice(&starts) else { return };
        let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let end = ENDS[self.rng.usize(..ENDS.len())];
        drop(bytes.splice(start..start + length, end.bytes()));
    }

    /// Any, or one that means something in many a format.
    fn byte(&mut self) -> u8 {
        const COMMON: &[u8] = b"\0\t\n\r \"#%&'*+,-./0159:;<=>?@AZ[\\]^_`az{|}~\x7f\x80\xc3\xff";
        if self.rng.bool() { self.rng.u8(..) } else { COMMON[self.rng.usize(..COMMON.len())] }
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.rng.usize(..=length);
        start..self.rng.usize(start..=length.min(start + 64))
    }
}
