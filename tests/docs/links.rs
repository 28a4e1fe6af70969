//! Every link leads somewhere, every page can be found, and every filter is in the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

use super::{files, root};

const REPOSITORY: &str = "https://github.com/tidegate/tidegate/blob/main/";

#[test]
fn every_link_of_every_page_leads_to_a_file_and_a_heading() {
    let pages = Pages::read();
    let (mut links, mut broken) = (0, Vec::new());
    for (page, text) in &pages.texts {
        for target in targets(text) {
            links += 1;
            if let Err(why) = pages.follow(page, &target) {
                broken.push(format!("{}: {target}: {why}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(links > 500, "only {links} links found");
}

/// Comments, messages, alerts and charts name pages as well.
#[test]
fn every_page_that_other_files_name_is_there() {
    let pages = Pages::read();
    let pattern = Regex::new(r"\bdocs/[a-z0-9/_-]+\.md(?:#[a-z0-9_-]+)?").unwrap();
    let (mut names, mut broken) = (0, Vec::new());
    for file in repository().filter(|file| file.extension().is_none_or(|extension| extension != "md")) {
        // Pictures and the corpora of fuzzing are no text.
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for name in pattern.find_iter(&text).map(|found| found.as_str()) {
            names += 1;
            if let Err(why) = pages.follow(Path::new("README.md"), name) {
                broken.push(format!("{}: {name}: {why}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(names > 40, "only {names} names found");
}

#[test]
fn the_summary_has_each_page_once() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut listed: Vec<_> = targets(&summary);
    listed.sort();
    let docs = root().join("docs");
    let there = files("docs", "md").into_iter().map(|page| page.strip_prefix(&docs).unwrap().to_owned());
    let mut there: Vec<_> = there.map(|page| page.display().to_string()).collect();
    there.retain(|page| page != "SUMMARY.md");
    there.sort();
    assert_eq!(listed, there, "docs/SUMMARY.md beside the pages of docs/");
}

#[test]
fn the_index_of_filters_has_each() {
    let index = fs::read_to_string(root().join("docs/filters/README.md")).unwrap();
    let listed: BTreeSet<_> = index
        .lines()
        .filter_map(|line| line.strip_prefix("| [")?.split_once(']'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(listed, tidegate::filter::Registry::built_in().names().collect(), "docs/filters/README.md");
}

/// In the site, which has docs/ alone.
#[test]
fn links_out_of_the_site_lead_to_the_repository() {
    let page = "[a](../config.md#values) [b](../../conf/gateway.yaml) [c](README.md) [d](https://a.example/b.md)\n\
                ```\n[e](../../x)\n```\n";
    let chapter = serde_json::json!({
        "name": "", "content": page, "path": "filters/cors.md", "source_path": "filters/cors.md", "sub_items": []
    });
    let book = serde_json::json!([{}, {"items": [{"Chapter": chapter}]}]);
    let mut script = Command::new("python3");
    script.arg(root().join("deploy/book.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().expect("there is python3");
    script.stdin.take().unwrap().write_all(book.to_string().as_bytes()).unwrap();
    let made: serde_json::Value = serde_json::from_slice(&script.wait_with_output().unwrap().stdout).unwrap();
    let expected = format!(
        "[a](../config.md#values) [b]({REPOSITORY}conf/gateway.yaml) [c](index.md) [d](https://a.example/b.md)\n\
         ```\n[e](../../x)\n```\n"
    );
    assert_eq!(made["items"][0]["Chapter"]["content"], expected);
}

/// All pages of the repository, by their paths in it.
struct Pages {
    texts: BTreeMap<PathBuf, String>,
}

impl Pages {
    fn read() -> Self {
        let pages = repository().filter(|file| file.extension().is_some_and(|extension| extension == "md"));
        let texts = pages.map(|page| (page.clone(), fs::read_to_string(root().join(page)).unwrap()));
        Self { texts: texts.collect() }
    }

    fn follow(&self, page: &Path, target: &str) -> Result<(), String> {
        let own = target.strip_prefix(REPOSITORY);
        if own.is_none() && (target.contains("://") || target.starts_with("mailto:")) {
            return Ok(());
        }
        let (path, anchor) = own.unwrap_or(target).split_once('#').unwrap_or((own.unwrap_or(target), ""));
        let from = if own.is_some() { Path::new("") } else { page.parent().unwrap_or(Path::new("")) };
        let to = if path.is_empty() { page.to_owned() } else { normal(&from.join(path)) };
        if !root().join(&to).exists() {
            return Err("no such file".to_owned());
        }
        match self.texts.get(&to) {
            Some(text) if !anchor.is_empty() && !anchors(text).contains(anchor) => {
                Err(format!("no such heading in {}", to.display()))
            }
            _ => Ok(()),
        }
    }
}

/// What a page links to, code left out.
fn targets(text: &str) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let definition = Regex::new(r"^\[[^\]]+\]: +(\S+)").unwrap();
    let code = Regex::new("`[^`]*`").unwrap();
    let mut found = Vec::new();
    for line in prose(text) {
        let plain = code.replace_all(line, "``");
        let all = link.captures_iter(&plain).chain(definition.captures_iter(&plain));
        found.extend(all.map(|captured| captured[1].to_owned()));
    }
    found
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    headings
        .map(|heading| {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
            let slug: String =
                kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let before = seen.entry(slug.clone()).or_default();
            *before += 1;
            if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
        })
        .collect()
}

/// The lines that stand in no block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// The files of the repository, but for what builds leave there.
fn repository() -> impl Iterator<Item = PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root().join(folder)).expect("the folder can be listed") {
            let entry = entry.expect("an entry can be read");
            let (path, name) = (folder.join(entry.file_name()), entry.file_name());
            if entry.file_type().expect("it has a type").is_dir() {
                let made = ["target", ".git", "node_modules", "corpus", "__pycache__", "artifacts"];
                if !made.iter().any(|made| name == *made) {
                    walk(&path, found);
                }
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(""), &mut found);
    found.into_iter()
}
