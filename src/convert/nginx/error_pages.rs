//! `error_page`: what clients read in place of nginx's own short pages, and of an upstream's errors with `proxy_intercept_errors`. A page
//! is a file here. Whatever else nginx can make of an error has no equal: another status, a redirect, another upstream.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    order::{Kind, Location},
    parser::Directive,
    scope::Scope,
    site::Site,
    world::World,
};
use crate::convert::{
    draft::{Map, Node},
    fields,
};

const FIELDS: &str =
    "an error page has the fields of the route that it stands in for, and not those of its own location";
const UPSTREAM: &str =
    "an upstream's error keeps its fields, all but those of its body, when a page takes its place";
const ACCEPT: &str =
    "an error page is for clients that take it: those that ask for JSON alone get problem details";
const FILE: &str = "a file is sent as it is now, and was when the configuration was read: to every method, and without ETag and Last-Modified";

/// Those of a block, by the status that they are for.
#[derive(Default)]
pub(super) struct Pages {
    by_status: BTreeMap<u16, Page>,
    also_of_upstreams: bool,
}

#[derive(Clone)]
struct Page {
    file: File,
    key: &'static str,
}

/// One that is sent as it is.
#[derive(Clone)]
struct File {
    /// As a value that is filled with what it holds.
    reference: String,
    text: String,
    media_type: &'static str,
}

impl Pages {
    /// `error_pages` of a route.
    pub(super) fn written(&self) -> Map {
        let written = |page: &Page| {
            let text = page.template();
            match (page.key, self.also_of_upstreams) {
                ("html", false) => Node::from(text),
                (key, false) => Map::new().with(key, text).into(),
                (key, true) => Map::new().with(key, text).with("upstream", true).into(),
            }
        };
        self.by_status.iter().map(|(status, page)| (status.to_string(), written(page))).collect()
    }

    /// Gives a `respond` of an error its page: what a route answers by itself has no other body than its own.
    pub(super) fn dress(&self, respond: &mut Map) {
        let status = match respond.find("status") {
            Some(Node::Number(status)) => u16::try_from(*status).ok(),
            _ => None,
        };
        let Some(page) = status.and_then(|status| self.by_status.get(&status)) else { return };
        if respond.find("body").is_none() {
            page.file.answer(respond);
        }
    }

    /// The same of a filter or a route, where it is one that responds.
    pub(super) fn dress_inside(&self, entries: &mut Map) {
        if matches!(entries.find("respond"), Some(Node::Map(_))) {
            self.dress(entries.map("respond"));
        }
    }
}

impl Page {
    /// What looks like a placeholder in the file is none, so that such a file is written out.
    fn template(&self) -> String {
        let placeholder = regex::Regex::new(r"\{([A-Za-z][A-Za-z0-9_.-]*)\}").expect("it is constant");
        match placeholder.is_match(&self.file.text) {
            true => fields::literal(&placeholder.replace_all(&self.file.text, "{{$1}}")),
            false => self.file.reference.clone(),
        }
    }
}

impl File {
    fn answer(&self, respond: &mut Map) {
        respond.set("body", self.reference.as_str());
        respond.set("headers", Map::new().with("content-type", self.media_type));
    }
}

impl<'f> Site<'f> {
    /// What holds in a block.
    pub(super) fn pages(&self, scope: &Scope<'f>, world: &mut World<'f>) -> Pages {
        let mut pages = Pages::default();
        let mut known = BTreeSet::new();
        for directive in scope.all("error_page") {
            let page = self.page(directive, scope, world);
            match &page {
                Ok(_) => world.notes.differ(directive, ACCEPT),
                Err(why) => world.notes.leave(directive, why.as_str()),
            }
            for status in statuses(directive) {
                match (status.parse(), &page) {
                    // nginx takes the first, whatever is left of it here.
                    (Ok(status @ 400..=599), page) if known.insert(status) => {
                        pages.by_status.extend(page.iter().map(|page| (status, page.clone())));
                    }
                    (Ok(400..=599), _) | (_, Err(_)) => {}
                    _ => {
                        let why = format!("{status} is no error here: these are 400 to 599");
                        world.notes.leave_in_part(directive, why);
                    }
                }
            }
        }
        if let Some(intercepts) = scope.one("proxy_intercept_errors")
            && intercepts.first() == "on"
            && !pages.by_status.is_empty()
        {
            world.notes.differ(intercepts, UPSTREAM);
            pages.also_of_upstreams = true;
        }
        // Who asks too often is answered with 429 here, whatever nginx says.
        let status = scope.one("limit_req_status").map_or("503", Directive::first);
        if !scope.all("limit_req").is_empty()
            && let Some(page) = status.parse().ok().and_then(|status| pages.by_status.get(&status)).cloned()
        {
            pages.by_status.entry(429).or_insert(page);
        }
        pages
    }

    /// # Errors
    ///
    /// Why it is no page here.
    fn page(
        &self,
        directive: &'f Directive,
        scope: &Scope<'f>,
        world: &mut World<'f>,
    ) -> Result<Page, String> {
        let to = directive.texts().last().filter(|_| directive.arguments.len() > 1).unwrap_or_default();
        let changes = |status: &str| {
            status.strip_prefix('=').is_some_and(|to| statuses(directive).any(|from| from != to))
        };
        if directive.texts().any(changes) {
            return Err("an error keeps its status here".to_owned());
        }
        if to.starts_with('@') {
            return Err(
                "no other location answers in place of an error here: see docs/error-pages.md".to_owned()
            );
        }
        if to.contains("://") {
            return Err("an error is no redirect here".to_owned());
        }
        let to = self.values.constant(to).filter(|to| to.starts_with('/'));
        let to = to.ok_or("which page it is, is not known before there is an error")?;
        let path = to.split('?').next().unwrap_or_default();
        let location = match self.target(path, true) {
            Ok(location) => Some(location),
            Err(why) if self.locations.iter().any(|one| matches!(one.kind, Kind::Regex(_))) => {
                return Err(why);
            }
            Err(_) => None,
        };
        let from = location.map_or(&self.scope, |location| &location.scope);
        let file = self.file(path, location.map(|location| &location.kind), from, world)?;
        let key = match file.media_type {
            "text/html" => "html",
            "application/json" => "json",
            _ => return Err("a page is HTML or JSON here, by the name of its file".to_owned()),
        };
        let fields = |scope: &Scope<'f>| {
            scope.all("add_header").iter().map(|field| std::ptr::from_ref(*field)).collect::<Vec<_>>()
        };
        if fields(scope) != fields(from) {
            world.notes.differ(directive, FIELDS);
        }
        Ok(Page { file, key })
    }

    /// What nginx serves as this path, where its location does nothing but serve files.
    ///
    /// # Errors
    ///
    /// Why there is none.
    fn file(
        &self,
        path: &str,
        kind: Option<&Kind>,
        scope: &Scope<'f>,
        world: &mut World<'f>,
    ) -> Result<File, String> {
        const SERVES: [&str; 9] = [
            "return",
            "rewrite",
            "if",
            "try_files",
            "proxy_pass",
            "grpc_pass",
            "fastcgi_pass",
            "uwsgi_pass",
            "scgi_pass",
        ];
        if kind.is_some()
            && let Some(other) = scope.own().iter().find(|one| SERVES.contains(&one.name.as_str()))
        {
            return Err(format!("{path} is no file: its location has `{}`", other.name));
        }
        let folder = scope.any(&["root", "alias"]);
        let folder = folder.last().ok_or_else(|| format!("no `root` says where {path} is"))?;
        let at = self.values.constant(folder.first());
        let at = at.ok_or_else(|| format!("where {path} is, is not known before a request comes"))?;
        let place = match (folder.name.as_str(), kind) {
            ("alias", Some(Kind::Exact(_))) => at,
            ("alias", Some(Kind::Prefix(prefix))) => {
                format!("{at}{}", path.strip_prefix(prefix.as_str()).unwrap_or(path))
            }
            ("alias", _) => return Err(format!("where {path} is, goes by an expression")),
            _ => format!("{at}{path}"),
        };
        if place.contains(['}', '$']) || path.split('/').any(|segment| segment == "..") {
            return Err(format!("{path} is no name of a file here"));
        }
        let text = world.read_file(&place)?;
        let media_type = match place.rsplit('.').next() {
            Some("html" | "htm") => "text/html",
            Some("json") if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() => {
                "application/json"
            }
            Some("txt") => "text/plain",
            _ => return Err(format!("{path} is neither HTML, JSON nor text, by its name")),
        };
        Ok(File { reference: format!("${{file:{}}}", world.file(&place).display()), text, media_type })
    }

    /// A location of one file answers with it: the page of an error, or robots.txt.
    pub(super) fn of_file(&self, location: &Location<'f>, world: &mut World<'f>) -> Option<Map> {
        let Kind::Exact(path) = &location.kind else { return None };
        let file = self.file(path, Some(&location.kind), &location.scope, world).ok()?;
        let mut respond = Map::new().with("status", 200_i64);
        file.answer(&mut respond);
        let folder = location.scope.any(&["root", "alias"]);
        folder.last().into_iter().for_each(|folder| world.notes.differ(folder, FILE));
        Some(respond)
    }
}

fn statuses(directive: &Directive) -> impl Iterator<Item = &str> {
    let all = directive.arguments.len().saturating_sub(1);
    directive.texts().take(all).filter(|text| !text.starts_with('='))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use crate::convert::nginx::convert;

    /// What becomes of a server with files beside it.
    fn converted(server: &str) -> (String, String) {
        let home = TempDir::new().unwrap();
        for name in ["a.html", "b.json", "c.txt", "bad.json"] {
            fs::write(
                home.path().join(name),
                "{}".trim_end_matches(if name == "bad.json" { "}" } else { "" }),
            )
            .unwrap();
        }
        let file = home.path().join("a.conf");
        fs::write(&file, format!("server {{ listen 80; {server} }}")).unwrap();
        let found = convert(&file, None).unwrap();
        let left: Vec<String> = found.left.iter().map(ToString::to_string).collect();
        (found.file.to_string().replace(&home.path().display().to_string(), "HOME"), left.join("\n"))
    }

    const PASS: &str = "location /app/ { proxy_pass http://10.0.0.1; }";

    #[test]
    fn what_is_no_page_says_why() {
        for (server, why) in [
            ("root .; error_page 404 =200 /a.html;", "an error keeps its status here"),
            ("root .; error_page 404 = /a.html;", "an error keeps its status here"),
            (
                "root .; error_page 404 @b; location @b { proxy_pass http://10.0.0.2; }",
                "no other location answers",
            ),
            ("root .; error_page 404 https://example.com/;", "an error is no redirect here"),
            ("root .; error_page 404 $uri;", "is not known before there is an error"),
            ("root .; error_page 404 a.html;", "is not known before there is an error"),
            ("root .; error_page 404 /none.html;", "none.html cannot be read"),
            ("root .; error_page 404 /c.txt;", "a page is HTML or JSON here"),
            ("root .; error_page 404 /bad.json;", "neither HTML, JSON nor text"),
            ("root .; error_page 404 /../a.html;", "is no name of a file here"),
            ("root $x; error_page 404 /a.html;", "is not known before a request comes"),
            ("error_page 404 /a.html;", "no `root` says where /a.html is"),
            (
                "root .; error_page 404 /a.html; location = /a.html { return 404; }",
                "its location has `return`",
            ),
            (
                "root .; error_page 404 /a.html; location / { } location ~ html$ { root x; }",
                "which location it leads to",
            ),
            ("root .; error_page 301 /a.html;", "301 is no error here"),
            (
                "root .; error_page 404 =410 /a.html; error_page 404 /a.html;",
                "an error keeps its status here",
            ),
        ] {
            let (file, left) = converted(&format!("{server} {PASS}"));
            assert!(left.contains(why), "{server}: {left}");
            assert!(!file.contains("error_pages:"), "{server}: {file}");
        }
    }

    #[test]
    fn pages_that_all_routes_have_stand_at_the_top_once() {
        let (file, left) =
            converted(&format!("root .; error_page 404 =404 /a.html; error_page 502 /b.json; {PASS}"));
        assert!(!left.contains("error_page"), "{left}");
        let file: serde_json::Value = serde_yaml::from_str(&file).unwrap();
        let expected =
            serde_json::json!({"404": "${file:HOME/./a.html}", "502": {"json": "${file:HOME/./b.json}"}});
        assert_eq!(file["error_pages"], expected);
        let (file, _) = converted(&format!(
            "root .; {PASS} location /a/ {{ error_page 404 /a.html; proxy_pass http://10.0.0.1; }}"
        ));
        let file: serde_json::Value = serde_yaml::from_str(&file).unwrap();
        assert_eq!(file["error_pages"], serde_json::Value::Null, "{file}");
        let pages = |name: &str| {
            let routes = file["routes"].as_array().unwrap();
            routes.iter().find(|route| route["name"] == name).map(|route| route["error_pages"].clone())
        };
        assert_eq!(pages("default/app/"), Some(serde_json::Value::Null), "{file}");
        assert_eq!(pages("default/a/"), Some(serde_json::json!({"404": "${file:HOME/./a.html}"})), "{file}");
    }

    #[test]
    fn who_asks_too_often_sees_the_page_for_it() {
        let limits = "limit_req_zone $binary_remote_addr zone=a:1m rate=1r/s;";
        let (file, _) = converted(&format!(
            "root .; error_page 503 /a.html; location /app/ {{ limit_req zone=a; proxy_pass http://10.0.0.1; }} }} {limits} server {{ listen 81; return 204;"
        ));
        assert!(file.contains("\"429\": \"${file:HOME/./a.html}\""), "{file}");
    }
}
