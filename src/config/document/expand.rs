//! `${env:NAME}`, `${env:NAME:-default}` and `${file:path}` in values; `$${` is a literal `${`.
//! What comes out is not looked at again, so neither a variable nor a file can name another one.

use std::{
    env::VarError,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path as FilePath, PathBuf},
};

use crate::config::document::{
    meant::placeholder,
    node::{Kind, Node, Value, resolve},
    problem::Trail,
    tree::Findings,
};

/// Far above any key or token; far below what a mistyped device or log file would bring in.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Where values come from: the process environment, except in tests.
pub(in crate::config) type Environment<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// What references may read of this machine.
#[derive(Clone, Copy)]
pub(in crate::config) enum Reach<'a> {
    /// Every reference is refused: whoever sends a configuration must not read this machine's variables and files by it.
    Nothing,
    /// Variables that are meant for it, and files below these folders.
    Open {
        environment: Environment<'a>,
        folders: &'a [PathBuf],
    },
    All(Environment<'a>),
}

/// Variables whose names begin so are meant for configurations that come from elsewhere.
const OPEN: &str = "TIDEGATE_";

pub(in crate::config) struct Expander<'a> {
    pub reach: Reach<'a>,
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
        if let Err(wrong) = self.check_placeholders(&scalar.text) {
            scalar.broken = true;
            findings.add_with_hint(node.at, trail.path(), wrong.message, &wrong.hint);
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

    /// Variables are also named in templates, which are filled in later.
    fn check_placeholders(&self, written: &str) -> Result<(), Wrong> {
        const PLACEHOLDER: &str = "{env.";
        match self.reach {
            Reach::All(_) => Ok(()),
            Reach::Nothing if written.contains(PLACEHOLDER) => {
                let hint = "only this machine's own files name its variables";
                Err(Wrong::new("`{env.NAME}` is not filled in here", hint))
            }
            Reach::Nothing => Ok(()),
            Reach::Open { .. } => {
                let mut names = written.split(PLACEHOLDER).skip(1);
                match names.all(|name| name.starts_with(OPEN)) {
                    true => Ok(()),
                    false => Err(Wrong::variable("{env.NAME}")),
                }
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
        let environment = match self.reach {
            Reach::All(environment) | Reach::Open { environment, .. } => environment,
            Reach::Nothing => {
                let hint = format!("only this machine's own files name its variables and files; {LITERAL}");
                return Err(Wrong::new(format!("`${{{inside}}}` is not expanded here"), hint));
            }
        };
        match inside.split_once(':') {
            Some(("env", variable))
                if matches!(self.reach, Reach::Open { .. }) && !variable.starts_with(OPEN) =>
            {
                Err(Wrong::variable(&format!("${{{inside}}}")))
            }
            Some(("env", variable)) => variable_of(environment, inside, variable),
            Some(("file", path)) if !path.is_empty() => self.file(inside, path),
            None if is_variable(inside) => {
                let hint = match placeholder(inside) {
                    Some(placeholder) => {
                        format!(
                            "a placeholder is written `{placeholder}`, and a variable `${{env:{inside}}}`"
                        )
                    }
                    None => format!("did you mean `${{env:{inside}}}`?"),
                };
                Err(Wrong::new(format!("`${{{inside}}}` is not a known reference"), hint))
            }
            _ => {
                let hint =
                    format!("known: `${{env:NAME}}`, `${{env:NAME:-default}}`, `${{file:PATH}}`; {LITERAL}");
                Err(Wrong::new(format!("`${{{inside}}}` is not a known reference"), hint))
            }
        }
    }

    fn file(&mut self, inside: &str, path: &str) -> Result<String, Wrong> {
        let path = self.directory.join(path);
        let fail = |why: &str, hint: &str| Wrong::new(format!("cannot read {}: {why}", path.display()), hint);
        let (opened, hint) = match self.reach {
            Reach::Open { folders, .. } => {
                let folder = folder_of(&path, folders).map_err(|why| fail(&why, SECRETS))?;
                self.read.push(path.clone());
                (open_below(folder, &path), SECRETS.to_owned())
            }
            Reach::Nothing | Reach::All(_) => {
                // Recorded also when it fails, so that a file that appears later is noticed.
                self.read.push(path.clone());
                let hint = format!("`${{{inside}}}` is relative to the file it stands in");
                (File::open(&path).map_err(|error| reason(&error)), hint)
            }
        };
        let mut text = String::new();
        let read = opened.and_then(|file| {
            file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(|error| reason(&error))
        });
        if let Err(why) = read {
            return Err(fail(&why, &hint));
        }
        if text.len() as u64 > LARGEST_FILE {
            return Err(fail("it is larger than 1 MiB", "is it the file you meant?"));
        }
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        Ok(text)
    }
}

/// The one of `folders` that `path` is written to lie below. Nothing is looked at: whether a file exists elsewhere is not
/// told either.
fn folder_of<'a>(path: &FilePath, folders: &'a [PathBuf]) -> Result<&'a FilePath, String> {
    if folders.is_empty() {
        return Err("no folder is open to it".to_owned());
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err("the path holds `..`".to_owned());
    }
    let is_below = |folder: &&PathBuf| path.starts_with(folder) && path != folder.as_path();
    let folder = folders.iter().find(is_below).ok_or_else(|| {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("it does not lie below {}", folders.join(" or "))
    })?;
    Ok(folder)
}

/// The file at `path`, which is one, and lies below `folder` when all links are followed.
fn open_below(folder: &FilePath, path: &FilePath) -> Result<File, String> {
    let because = |error: io::Error| reason(&error);
    let real = path.canonicalize().map_err(because)?;
    if !real.starts_with(folder.canonicalize().map_err(because)?) {
        return Err(format!("a link leads out of it, and out of {}", folder.display()));
    }
    // What has become a link since is not followed, and a pipe that nobody writes to is not waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(real).map_err(because)?;
    match file.metadata().map_err(because)?.is_file() {
        true => Ok(file),
        false => Err("it is no file".to_owned()),
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

const SECRETS: &str = "`control.join.secrets` names the folders that are open to received configurations";
const LITERAL: &str = "write `$${` for a literal `${`";

struct Wrong {
    message: String,
    hint: String,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Wrong { message: message.into(), hint: hint.into() }
    }

    /// One that is not meant for who names it.
    fn variable(written: &str) -> Self {
        let message =
            format!("`{written}` is not filled in here: it may name variables that begin with `{OPEN}`");
        Wrong::new(message, "give the gateway one of such a name")
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

/// As shells name variables.
fn is_variable(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
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
        let mut expander = Expander { reach: Reach::All(&environment), directory, read: &mut read };
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
