//! `${env:NAME}`, `${env:NAME:-default}` and `${file:path}` in values; `$${` is a literal `${`.
//! What comes out is not looked at again, so neither a variable nor a file can name another one.

use std::{
    env::VarError,
    fs::File,
    io::{self, Read},
    path::{Path as FilePath, PathBuf},
};

use crate::config::document::{
    node::{Kind, Node, Value, resolve},
    problem::Trail,
    tree::Findings,
};

/// Far above any key or token; far below what a mistyped device or log file would bring in.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Where values come from: the process environment, except in tests.
pub(in crate::config) type Environment<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

pub(in crate::config) struct Expander<'a> {
    /// `None` refuses every reference: whoever sends a configuration must not read this machine's variables and files
    /// by it.
    pub environment: Option<Environment<'a>>,
    /// That of the file being expanded.
    pub directory: &'a FilePath,
    /// Files that values were read from.
    pub read: &'a mut Vec<PathBuf>,
}

impl Expander<'_> {
    /// Expands every value at and below `node`, in place.
    pub(crate) fn expand(&mut self, node: &mut Node, trail: &Trail<'_>, findings: &mut Findings) {
        let scalar = match &mut node.value {
            Value::Scalar(scalar) => scalar,
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.expand(item, &Trail::Index(trail, index), findings);
                }
                return;
            }
            Value::Map(map) => {
                for (key, value) in map.values_mut() {
                    self.expand(value, &Trail::Key(trail, key), findings);
                }
                return;
            }
        };
        if self.environment.is_none() && scalar.text.contains("{env.") {
            scalar.broken = true;
            let message = "`{env.NAME}` is not filled in here";
            let hint = "only this machine's own files name its variables";
            findings.add_with_hint(node.at, trail.path(), message.to_owned(), hint);
            return;
        }
        if !scalar.text.contains("${") {
            return;
        }
        match self.text(&scalar.text) {
            Ok(text) => {
                let raw = std::mem::replace(&mut scalar.text, text);
                scalar.raw = Some(raw.into());
                scalar.kind = if scalar.plain { resolve(&scalar.text) } else { Kind::Text };
            }
            Err(wrong) => {
                scalar.broken = true;
                findings.add_with_hint(node.at, trail.path(), wrong.message, &wrong.hint);
            }
        }
    }

    fn text(&mut self, written: &str) -> Result<String, Wrong> {
        let mut text = String::with_capacity(written.len());
        let mut rest = written;
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                text.push_str(&rest[..start - 1]);
                text.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            text.push_str(&rest[..start]);
            let inside = &rest[start + 2..];
            let Some(end) = inside.find('}') else {
                return Err(Wrong::new(format!("`${{{inside}` has no closing brace"), LITERAL));
            };
            text.push_str(&self.reference(&inside[..end])?);
            rest = &inside[end + 1..];
        }
        text.push_str(rest);
        Ok(text)
    }

    fn reference(&mut self, inside: &str) -> Result<String, Wrong> {
        let Some(environment) = self.environment else {
            let hint = format!("only this machine's own files name its variables and files; {LITERAL}");
            return Err(Wrong::new(format!("`${{{inside}}}` is not expanded here"), hint));
        };
        match inside.split_once(':') {
            Some(("env", variable)) => variable_of(environment, inside, variable),
            Some(("file", path)) if !path.is_empty() => self.file(inside, path),
            _ => {
                let hint =
                    format!("known: `${{env:NAME}}`, `${{env:NAME:-default}}`, `${{file:PATH}}`; {LITERAL}");
                Err(Wrong::new(format!("`${{{inside}}}` is not a known reference"), hint))
            }
        }
    }

    fn file(&mut self, inside: &str, path: &str) -> Result<String, Wrong> {
        let path = self.directory.join(path);
        // Recorded also when it fails, so that a file that appears later is noticed.
        self.read.push(path.clone());
        let fail = |why: &str, hint: &str| Wrong::new(format!("cannot read {}: {why}", path.display()), hint);
        let mut text = String::new();
        let file = File::open(&path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_string(&mut text));
        if let Err(error) = file {
            return Err(fail(
                &reason(&error),
                &format!("`${{{inside}}}` is relative to the file it stands in"),
            ));
        }
        if text.len() as u64 > LARGEST_FILE {
            return Err(fail("it is larger than 1 MiB", "is it the file you meant?"));
        }
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        Ok(text)
    }
}

/// As in a shell, the default also stands for a variable that is set to nothing.
fn variable_of(environment: Environment<'_>, inside: &str, variable: &str) -> Result<String, Wrong> {
    let (name, default) = match variable.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (variable, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        let hint = "names are letters, digits and `_`";
        return Err(Wrong::new(format!("`${{{inside}}}` does not name a variable"), hint));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Wrong::new(
            format!("`${{{inside}}}`: a default cannot hold a reference"),
            "write its value",
        ));
    }
    match (environment(name), default) {
        (Ok(value), None) => Ok(value),
        (Ok(value), Some(_)) if !value.is_empty() => Ok(value),
        (Ok(_) | Err(VarError::NotPresent), Some(default)) => Ok(default.into()),
        (Err(VarError::NotPresent), None) => {
            let hint = format!("set it, or give a default: `${{env:{name}:-...}}`");
            Err(Wrong::new(format!("the environment variable {name} is not set"), hint))
        }
        (Err(VarError::NotUnicode(_)), _) => {
            Err(Wrong::new(format!("the environment variable {name} is not UTF-8"), "use `${file:PATH}`"))
        }
    }
}

const LITERAL: &str = "write `$${` for a literal `${`";

struct Wrong {
    message: String,
    hint: String,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Wrong { message: message.into(), hint: hint.into() }
    }
}

/// What the operating system said, in our voice and without its error number.
pub(in crate::config) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(written: &str) -> Result<String, String> {
        let environment = |name: &str| match name {
            "HOST" => Ok("example.com".to_owned()),
            "EMPTY" => Ok(String::new()),
            "NESTED" => Ok("${env:HOST}".to_owned()),
            _ => Err(VarError::NotPresent),
        };
        let mut read = Vec::new();
        let directory = FilePath::new("/nowhere");
        let mut expander = Expander { environment: Some(&environment), directory, read: &mut read };
        expander.text(written).map_err(|wrong| wrong.message)
    }

    #[test]
    fn expands_references() {
        let table = [
            ("https://${env:HOST}/", "https://example.com/"),
            ("${env:HOST}${env:HOST}", "example.comexample.com"),
            ("${env:NONE:-a:-b}", "a:-b"),
            ("${env:NONE:-}", ""),
            ("${env:EMPTY:-x}", "x"),
            ("${env:EMPTY}", ""),
            ("${env:NESTED}", "${env:HOST}"),
            ("$${env:HOST}", "${env:HOST}"),
            ("a$$b $x ${env:HOST}", "a$$b $x example.com"),
        ];
        for (written, expected) in table {
            assert_eq!(expand(written).as_deref(), Ok(expected), "{written}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_expand() {
        let table = [
            ("${env:NONE}", "the environment variable NONE is not set"),
            ("${env:a b}", "`${env:a b}` does not name a variable"),
            ("${env:HOST", "`${env:HOST` has no closing brace"),
            ("${HOST}", "`${HOST}` is not a known reference"),
            ("${file:}", "`${file:}` is not a known reference"),
            ("${file:x}", "cannot read /nowhere/x: there is no such file"),
            ("${env:A:-${env:B}}", "`${env:A:-${env:B}`: a default cannot hold a reference"),
        ];
        for (written, expected) in table {
            assert_eq!(expand(written).unwrap_err(), expected, "{written}");
        }
    }
}
