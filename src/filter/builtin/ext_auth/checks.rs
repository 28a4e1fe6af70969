//! What is wrong with the options, as it is found: names of fields, URLs.

use http::{HeaderName, Uri};

use super::{grpc::Names, message::METHOD};
use crate::{
    config::Path,
    filter::{Invalid, builtin::headers::header_name},
};

/// All fields.
const ALL: &str = "*";

/// What is wrong so far.
pub(super) struct Checks<'a> {
    pub at: &'a Path,
    pub invalid: Vec<Invalid>,
}

/// With `grpc`, as nothing is said otherwise.
pub(super) fn is_all(names: Option<&[String]>) -> bool {
    names.is_none_or(|names| matches!(names, [only] if only == ALL))
}

impl Checks<'_> {
    pub(super) fn keep<T>(&mut self, at: Path, result: Result<T, impl ToString>) -> Option<T> {
        result.map_err(|why| self.refuse(at, &why.to_string())).ok()
    }

    pub(super) fn refuse(&mut self, at: Path, why: &str) {
        self.invalid.push(Invalid::new(at, why));
    }

    pub(super) fn refuse_if(&mut self, wrong: bool, key: &str, why: &str) {
        if wrong {
            self.refuse(self.at.key(key), why);
        }
    }

    pub(super) fn parsed<T>(
        &mut self,
        at: &Path,
        names: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for (index, name) in names.iter().enumerate() {
            parsed.extend(self.keep(at.index(index), parse(name)));
        }
        parsed
    }

    /// Those that are listed, by name.
    pub(super) fn listed<T>(
        &mut self,
        key: &str,
        names: Option<&[String]>,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        const EACH: &str = "with `url`, and beside others, fields are named one by one";
        let default: Vec<String> = default.iter().map(|name| (*name).to_owned()).collect();
        let by_name = |name: &str| if name == ALL { Err(EACH.to_owned()) } else { parse(name) };
        self.parsed(&self.at.key(key), names.unwrap_or(&default), by_name)
    }

    pub(super) fn names(&mut self, key: &str, names: Option<&[String]>) -> Names<HeaderName> {
        match is_all(names) {
            true => Names::All,
            false => Names::Listed(self.listed(key, names, &[], header_name)),
        }
    }
}

fn url(text: &str, wrong: &'static str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| wrong)?;
    let authority = url.authority().filter(|authority| !authority.host().is_empty()).ok_or(wrong)?;
    if authority.as_str().contains('@') {
        return Err(
            "a URL with a password is not taken (let the service trust the gateway by its network, or by TLS)",
        );
    }
    match url.scheme_str() {
        Some("http" | "https") => Ok(url),
        _ => Err(wrong),
    }
}

pub(super) fn url_of_http(text: &str) -> Result<Uri, &'static str> {
    url(text, "not a URL to ask at (try \"http://127.0.0.1:9000/check\")")
}

/// Of the method.
pub(super) fn url_of_grpc(text: &str) -> Result<Uri, &'static str> {
    const WRONG: &str = "not a URL of a service of gRPC (try \"http://127.0.0.1:9191\")";
    let url = url(text, WRONG)?;
    if !url.path().trim_matches('/').is_empty() || url.query().is_some() {
        return Err("the path is the protocol's to say (try \"http://127.0.0.1:9191\")");
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{METHOD}", url.scheme_str().unwrap_or_default()).parse().map_err(|_| WRONG)
}
