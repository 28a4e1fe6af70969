//! Directives and blocks, with what they include in place. Nothing is known here of what a directive means.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    lexer::{At, Lexer, Token, Word},
    notes::on_a_line,
};
use crate::convert::{Place, Refused};

/// Of all files together.
const MOST_BYTES: usize = 32 << 20;
const MOST_FILES: usize = 4096;
const MOST_DIRECTIVES: usize = 100_000;
/// Blocks in blocks, and files in files: nginx's own have five or so.
const DEEPEST: usize = 32;

/// Behind a field or a variable that is named so, values are secrets.
const SECRET: [&str; 6] = ["authorization", "cookie", "api-key", "api_key", "secret", "token"];

/// `name argument ...;`, or with a block in place of the semicolon.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Directive {
    pub(super) at: At,
    pub(super) name: String,
    pub(super) arguments: Vec<Word>,
    pub(super) block: Option<Vec<Directive>>,
    pub(super) seen: Cell<Seen>,
}

/// What has become of a directive so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Seen {
    Not,
    /// It has been looked at where it holds.
    Read,
    /// It has no equal, nor has what is inside it.
    Left,
}

impl Directive {
    /// The same one, which now counts as looked at.
    pub(super) fn read(&self) -> &Directive {
        self.mark_read();
        self
    }

    pub(super) fn mark_read(&self) {
        if self.seen.get() == Seen::Not {
            self.seen.set(Seen::Read);
        }
    }

    pub(super) fn first(&self) -> &str {
        self.argument(0)
    }

    /// Empty where there is none.
    pub(super) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", |word| &word.text)
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(|word| word.text.as_str())
    }

    pub(super) fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// As it was written, shortened to a line, and without what may be a secret: it is printed, and stands in comments.
    pub(super) fn line(&self) -> String {
        const LONGEST: usize = 120;
        let is_of_secrets = |text: &str| {
            let text = text.to_ascii_lowercase();
            !text.contains('/') && SECRET.iter().any(|name| text.contains(name))
        };
        let behind = self.texts().position(is_of_secrets).map_or(usize::MAX, |at| at + 1);
        let shown = self.texts().enumerate().map(|(at, text)| if at < behind { text } else { "***" });
        let words = std::iter::once(self.name.as_str()).chain(shown);
        let line = words.collect::<Vec<_>>().join(" ");
        let line = on_a_line(&line);
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{} ...", &line[..end]),
            None => line,
        }
    }
}

/// The file and all that it includes. Relative paths are relative to `prefix`, as in nginx to the folder of nginx.conf.
pub(super) fn read(file: &Path, prefix: &Path) -> Result<Vec<Directive>, Refused> {
    let mut files = Files { prefix: Some(prefix), open: Vec::new(), read: 0, bytes: 0, directives: 0 };
    let whole = |why| Refused { at: Place { file: file.display().to_string(), line: 0 }, column: 0, why };
    let text = files.open(file).map_err(whole)?;
    let mut lexer = Lexer::new(file.display().to_string().into(), &text);
    files.block(&mut lexer, None, 0)
}

/// A text that includes nothing.
pub(super) fn read_text(text: &str, name: &str) -> Result<Vec<Directive>, Refused> {
    let mut files = Files { prefix: None, open: Vec::new(), read: 0, bytes: 0, directives: 0 };
    files.block(&mut Lexer::new(name.into(), text), None, 0)
}

struct Files<'p> {
    /// None where nothing may be included.
    prefix: Option<&'p Path>,
    /// Those that are being read, each included by the one before.
    open: Vec<PathBuf>,
    read: usize,
    bytes: usize,
    directives: usize,
}

impl Files<'_> {
    fn open(&mut self, file: &Path) -> Result<String, String> {
        let name = file.display();
        let real = file.canonicalize().map_err(|error| format!("cannot read {name}: {error}"))?;
        if self.open.contains(&real) {
            return Err(format!("{name} includes itself"));
        }
        let size = fs::metadata(&real).map_err(|error| format!("cannot read {name}: {error}"))?;
        if !size.is_file() {
            return Err(format!("cannot read {name}: it is no file"));
        }
        self.read += 1;
        self.bytes = self.bytes.saturating_add(usize::try_from(size.len()).unwrap_or(usize::MAX));
        if self.bytes > MOST_BYTES || self.read > MOST_FILES || self.open.len() >= DEEPEST {
            return Err(format!(
                "{name} is too much: at most {MOST_FILES} files of {} MiB in all are read, {DEEPEST} deep",
                MOST_BYTES >> 20
            ));
        }
        let bytes = fs::read(&real).map_err(|error| format!("cannot read {name}: {error}"))?;
        self.open.push(real);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Up to the end of the block that `opened` names, or of the file.
    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        opened: Option<&At>,
        depth: usize,
    ) -> Result<Vec<Directive>, Refused> {
        let mut directives = Vec::new();
        loop {
            let (token, at) = lexer.next()?;
            match (token, opened) {
                (Token::Word(name), _) => {
                    let directive = self.directive(lexer, name, depth)?;
                    match directive.name.as_str() {
                        "include" => directives.append(&mut self.include(&directive, depth)?),
                        _ => directives.push(directive),
                    }
                }
                (Token::Close, Some(_)) | (Token::End, None) => return Ok(directives),
                (Token::Close, None) => return Err(at.refused("this `}` closes no block")),
                (Token::End, Some(opened)) => {
                    return Err(opened.refused("this block has no end (look for a `}` that is missing)"));
                }
                (Token::Semicolon, _) => return Err(at.refused("this `;` ends no directive")),
                (Token::Open, _) => return Err(at.refused("this `{` has no name before it")),
            }
        }
    }

    fn directive(&mut self, lexer: &mut Lexer<'_>, name: Word, depth: usize) -> Result<Directive, Refused> {
        self.directives += 1;
        if self.directives > MOST_DIRECTIVES {
            return Err(name.at.refused(format!("there are more than {MOST_DIRECTIVES} directives")));
        }
        let Word { text: name, at } = name;
        let mut arguments = Vec::new();
        loop {
            let (token, here) = lexer.next()?;
            let block = match token {
                Token::Word(word) => {
                    arguments.push(word);
                    continue;
                }
                Token::Semicolon => None,
                Token::Open if depth >= DEEPEST => {
                    return Err(here.refused(format!("blocks are more than {DEEPEST} deep")));
                }
                Token::Open if name.ends_with("_by_lua_block") => {
                    lexer.skip_lua(&here)?;
                    Some(Vec::new())
                }
                Token::Open => Some(self.block(lexer, Some(&here), depth + 1)?),
                Token::Close | Token::End => {
                    return Err(at.refused(format!("`{name}` has no end (write `;` behind it)")));
                }
            };
            return Ok(Directive { at, name, arguments, block, seen: Cell::new(Seen::Not) });
        }
    }

    fn include(&mut self, include: &Directive, depth: usize) -> Result<Vec<Directive>, Refused> {
        let refused = |why: String| include.at.refused(why);
        if include.arguments.len() != 1 || include.block.is_some() {
            return Err(refused("`include` takes one path".to_owned()));
        }
        let mut directives = Vec::new();
        for file in self.files(include.first()).map_err(refused)? {
            let text = self.open(&file).map_err(refused)?;
            let mut lexer = Lexer::new(Arc::from(file.display().to_string()), &text);
            directives.append(&mut self.block(&mut lexer, None, depth)?);
            self.open.pop();
        }
        Ok(directives)
    }

    /// A pattern's in alphabetical order; it may match nothing.
    fn files(&self, path: &str) -> Result<Vec<PathBuf>, String> {
        let prefix = self.prefix.ok_or("files cannot be included here")?;
        if !path.contains(['*', '?', '[']) {
            return Ok(vec![prefix.join(path)]);
        }
        // To nginx two stars are one, and to the library a walk through all folders below.
        let pattern = path.split("**").collect::<Vec<_>>().join("*");
        let full = Path::new(&glob::Pattern::escape(&prefix.to_string_lossy())).join(pattern);
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let found = glob::glob_with(&full.to_string_lossy(), options)
            .map_err(|error| format!("{path:?} is not a pattern: {}", error.msg))?;
        let readable = |file: Result<PathBuf, glob::GlobError>| {
            file.map_err(|error| format!("cannot read {}: {}", error.path().display(), error.error()))
        };
        found.map(readable).collect()
    }
}

/// For tests.
#[cfg(test)]
pub(super) fn parsed(text: &str) -> Result<Vec<Directive>, String> {
    read_text(text, "a.conf").map_err(|refused| refused.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_directives_with_their_places() {
        let file =
            parsed("http {\n  server {\n    listen 80; content_by_lua_block { x = '}' }\n  }\n}\n").unwrap();
        let server = &file[0].inside()[0];
        assert_eq!((server.name.as_str(), server.at.line, server.at.column), ("server", 2, 3));
        let lines: Vec<String> = server.inside().iter().map(Directive::line).collect();
        assert_eq!(lines, ["listen 80", "content_by_lua_block"]);
    }

    #[test]
    fn what_is_not_balanced_is_named_where_it_began() {
        for (text, expected) in [
            ("http {\n  server {\n }\n", "a.conf:1:6: this block has no end"),
            ("a;\n}\n", "a.conf:2:1: this `}` closes no block"),
            ("a;\n;", "a.conf:2:1: this `;` ends no directive"),
            ("{ }", "a.conf:1:1: this `{` has no name"),
            ("a b", "a.conf:1:1: `a` has no end"),
            ("x { a b\n }", "a.conf:1:5: `a` has no end"),
            ("a_by_lua_block {", "a.conf:1:16: this block of Lua has no end"),
            ("include a b;", "a.conf:1:1: `include` takes one path"),
            ("include b;", "a.conf:1:1: files cannot be included here"),
        ] {
            let refused = parsed(text).unwrap_err();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
        let deep = "a {".repeat(100_000);
        assert!(parsed(&deep).unwrap_err().contains("more than 32 deep"));
    }

    #[test]
    fn secrets_are_not_printed() {
        for (text, expected) in [
            ("proxy_set_header Authorization \"Basic abc\";", "proxy_set_header Authorization ***"),
            ("add_header set-cookie a=b always;", "add_header set-cookie *** ***"),
            ("if ($http_authorization != \"Bearer abc\") { }", "if ($http_authorization *** *** ***"),
            ("rewrite ^/token/(.*) /x/$1 last;", "rewrite ^/token/(.*) /x/$1 last"),
        ] {
            assert_eq!(parsed(text).unwrap()[0].line(), expected);
        }
    }
}
