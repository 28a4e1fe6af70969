//! Who is let in: `allow` and `deny`, `auth_basic`, `auth_request`. What of these cannot be said closes the route: a gateway that lets
//! in whom nginx kept out would be worse than one that serves nobody there.

use crate::convert::fields;
use ipnet::IpNet;

use super::{
    guards,
    order::Kind,
    parser::Directive,
    patterns,
    scope::Scope,
    site::Site,
    upstreams,
    values::{Piece, Values, pieces},
    world::{World, filter, list},
};
use crate::convert::draft::{List, Map};

/// Filters that let in or not, and the fields that they write for the upstream.
#[derive(Default)]
pub(super) struct Access {
    pub(super) filters: Vec<Map>,
    pub(super) fields: Vec<String>,
    /// Nobody is let in.
    pub(super) is_closed: bool,
}

pub(super) fn read(scope: &Scope<'_>, values: &Values, site: &Site<'_>, world: &mut World<'_>) -> Access {
    let mut access = Access::default();
    let networks = scope.any(&["allow", "deny"]);
    let basic = scope.one("auth_basic").filter(|directive| directive.first() != "off");
    let request = scope.one("auth_request").filter(|directive| directive.first() != "off");
    let satisfy = scope.one("satisfy").filter(|directive| directive.first() == "any");
    let ways_in =
        usize::from(!networks.is_empty()) + usize::from(basic.is_some()) + usize::from(request.is_some());
    if let Some(satisfy) = satisfy.filter(|_| ways_in > 1) {
        access.close(
            satisfy,
            "all of them must let a client in here, and not any: the route is closed",
            world,
        );
        return access;
    }
    for foreign in scope.any(&guards::FOREIGN).into_iter().filter(|one| one.first() != "off") {
        access.close(foreign, "no filter here asks what it asks", world);
    }
    if !networks.is_empty() {
        match self::networks(&networks) {
            Ok(rules) => access.filters.extend(rules.map(|rules| filter("ip_rules", rules))),
            Err(why) => access.close(networks[0], &why, world),
        }
    }
    if let Some(basic) = basic {
        match passwords(basic, scope, world) {
            Ok(options) => access.basic(options, scope),
            Err(why) => access.close(basic, &why, world),
        }
    }
    if let Some(request) = request {
        match asked(request, scope, values, site, world) {
            Ok((options, fields)) => {
                access.filters.push(filter("ext_auth", options));
                access.fields.extend(fields);
            }
            Err(why) => access.close(request, &why, world),
        }
    }
    access
}

impl Access {
    fn close(&mut self, directive: &Directive, why: &str, world: &mut World<'_>) {
        world.notes.leave(directive, format!("{why}; until that is solved the route answers 403"));
        self.is_closed = true;
    }

    fn basic(&mut self, mut options: Map, scope: &Scope<'_>) {
        let named = scope
            .all("proxy_set_header")
            .into_iter()
            .find(|directive| pieces(directive.argument(1)) == [Piece::Variable("remote_user".to_owned())]);
        if let Some(field) = named.map(|directive| directive.first().to_ascii_lowercase()) {
            options.set("forward_user", field.as_str());
            self.fields.push(field);
        }
        self.filters.push(filter("basic_auth", options));
    }
}

/// So many networks at most, in each of the two lists.
const MOST_NETWORKS: usize = 1024;

/// nginx takes the first line that holds; `ip_rules` lets `deny` win. So a network that an earlier line allows is cut out of what is denied.
fn networks(rules: &[&Directive]) -> Result<Option<Map>, String> {
    let (mut allowed, mut denied): (Vec<IpNet>, Vec<IpNet>) = (Vec::new(), Vec::new());
    let mut lets_in_others = true;
    for rule in rules {
        let is_allowed = rule.name == "allow";
        if rule.first() == "all" {
            lets_in_others = is_allowed;
            break;
        }
        let network = network(rule.first()).ok_or_else(|| format!("{:?} is no network", rule.first()))?;
        if is_allowed {
            allowed.push(network);
        } else {
            let rest = allowed.iter().fold(vec![network], |rest, hole| {
                rest.into_iter().flat_map(|network| without(network, *hole)).collect()
            });
            denied.extend(rest);
        }
        if allowed.len() > MOST_NETWORKS || denied.len() > MOST_NETWORKS {
            return Err(format!("there are more than {MOST_NETWORKS} networks"));
        }
    }
    let texts = |networks: &[IpNet]| networks.iter().map(IpNet::to_string).collect::<List>();
    let mut found = Map::new();
    match (lets_in_others, allowed.is_empty()) {
        (false, true) => return Ok(Some(Map::new().with("deny", list(["0.0.0.0/0", "::/0"])))),
        (false, false) => found.set("allow", texts(&allowed)),
        (true, _) => {}
    }
    if !denied.is_empty() {
        found.set("deny", texts(&denied));
    }
    Ok((!found.is_empty()).then_some(found))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .map(|network| network.trunc())
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// What is left of a network without the hole.
fn without(network: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&network) {
        return Vec::new();
    }
    if !network.contains(&hole) {
        return vec![network];
    }
    let halves =
        network.subnets(network.prefix_len() + 1).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    halves.into_iter().flat_map(|half| without(half, hole)).collect()
}

/// The users of the file whose hashes can be taken over.
fn passwords(basic: &Directive, scope: &Scope<'_>, world: &mut World<'_>) -> Result<Map, String> {
    let file = scope.one("auth_basic_user_file").ok_or("there is no `auth_basic_user_file`")?;
    let text = world.read_file(file.first())?;
    let lines =
        (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let (mut users, mut is_plain) = (Vec::new(), true);
    for (number, line) in lines {
        // What has no name may be a password.
        if !line.contains(':') {
            world.notes.leave_in_part(file, format!("its line {number} has no `:` behind a name"));
            continue;
        }
        let mut fields = line.splitn(3, ':');
        let (name, hash) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let is_good = ["$2a$", "$2b$", "$2y$", "$argon2"].iter().any(|start| hash.starts_with(start));
        is_plain &= is_good && fields.next().is_none();
        match is_good && !name.is_empty() {
            true => users.push(Map::new().with("name", fields::literal(name)).with("hash", fields::literal(hash))),
            false => world.notes.leave_in_part(file, format!("the password of {name:?} is hashed in a way that can be reversed too cheaply: make a new one with `tidegate hash-password`")),
        }
    }
    if users.is_empty() {
        return Err(format!(
            "{} has no user whose hash is bcrypt or Argon2",
            world.file(file.first()).display()
        ));
    }
    let mut options = match is_plain {
        true => Map::new().with("file", world.file_text(file.first())),
        false => Map::new().with("users", List::from_iter(users)),
    };
    if basic.first().is_ascii()
        && !basic.first().contains(['$', '"', '\\'])
        && !basic.first().chars().any(char::is_control)
    {
        options.set("realm", basic.first());
    } else {
        world.notes.differ(basic, "`auth_basic` (the realm is `restricted` here)");
    }
    Ok(options.with("forward_credentials", true))
}

/// The service that is asked, and the fields that it says.
fn asked(
    request: &Directive,
    scope: &Scope<'_>,
    values: &Values,
    site: &Site<'_>,
    world: &mut World<'_>,
) -> Result<(Map, Vec<String>), String> {
    let uri = request.first();
    let location = site.target(uri.split('?').next().unwrap_or_default(), true)?;
    let asks = |one: &&Directive| {
        let is_guard = guards::is_guard(&one.name) && one.name != "internal" && one.first() != "off";
        is_guard || matches!(one.name.as_str(), "return" | "if")
    };
    if let Some(guard) = location.scope.own().iter().find(asks) {
        return Err(format!("the location of {uri} has a `{}` of its own", guard.name));
    }
    let pass = location
        .scope
        .one("proxy_pass")
        .filter(|_| location.directive.inside().iter().any(|one| one.name == "proxy_pass"));
    let url =
        values.expanded(pass.ok_or_else(|| format!("the location of {uri} passes nothing on"))?.first());
    let (scheme, rest) = url.split_once("://").ok_or("what is asked has no URL")?;
    if url.contains('$') || !matches!(scheme, "http" | "https") || rest.starts_with("unix:") {
        return Err("the service that is asked has one URL".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = match world.upstreams.block(authority) {
        None => {
            let default = if scheme == "https" { 443 } else { 80 };
            upstreams::endpoint(authority, default).ok_or("what is asked is no address of a server")?
        }
        Some(block) => {
            block.mark_read();
            let servers: Vec<&Directive> = block.inside().iter().filter(|one| one.name == "server").collect();
            match servers.as_slice() {
                [one] => upstreams::endpoint(one.read().first(), 80).ok_or("the service has no address")?,
                _ => return Err("the service that is asked is one server".to_owned()),
            }
        }
    };
    // A prefix that `proxy_pass` replaces, or the path as it is.
    let path = match (&location.kind, path) {
        (_, "") => uri.to_owned(),
        (Kind::Prefix(prefix), path) => {
            format!("{path}{}", uri.strip_prefix(prefix.as_str()).unwrap_or_default())
        }
        (_, path) => path.to_owned(),
    };
    world.notes.differ(request, "`auth_request` (the service sees `authorization`, `cookie` and X-Forwarded-Method, -Proto, -Host, -Uri and -For, and no other fields)");
    let mut fields = Vec::new();
    for set in scope.all("auth_request_set") {
        let variable = set.first().trim_start_matches('$');
        let field = set.argument(1).strip_prefix("$upstream_http_").map(|field| field.replace('_', "-"));
        let used = scope
            .all("proxy_set_header")
            .into_iter()
            .find(|one| pieces(one.argument(1)) == [Piece::Variable(variable.to_owned())]);
        match (field, used) {
            (Some(field), Some(used)) if used.first().eq_ignore_ascii_case(&field) => fields.push(field),
            (Some(_), None) => {}
            _ => world
                .notes
                .leave(set, "the upstream gets a field of the service's answer under its own name here"),
        }
    }
    let mut options = Map::new()
        .with("url", fields::literal(&format!("{scheme}://{authority}{}", patterns::encoded_target(&path))));
    if !fields.is_empty() {
        options.set("response_headers", list(fields.iter().map(String::as_str)));
    }
    Ok((options, fields))
}

/// `limit_except`: what holds for all methods but these.
pub(super) fn except(scope: &Scope<'_>, values: &Values, site: &Site<'_>, world: &mut World<'_>) -> Access {
    let mut found = Access::default();
    for directive in scope.own().iter().filter(|one| one.name == "limit_except") {
        let inner = scope.inside(directive.read().inside());
        let own = read(&inner, values, site, world);
        let mut methods: Vec<&str> = directive.texts().collect();
        // To nginx GET means HEAD as well, and so it does here.
        methods.dedup();
        if !methods.iter().all(|method| super::maps::is_method(method)) {
            found.close(directive, "methods are upper case", world);
            continue;
        }
        let unless = Map::new().with("methods", list(methods));
        if own.is_closed {
            let refuse = filter("respond", Map::new().with("status", 403));
            found.filters.push(refuse.with("unless", unless.clone()));
        }
        found.filters.extend(own.filters.into_iter().map(|filter| filter.with("unless", unless.clone())));
        found.fields.extend(own.fields);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::nginx::{converted, parser};

    fn rules(text: &str) -> String {
        let directives = parser::parsed(text).unwrap();
        let all: Vec<&Directive> = directives.iter().collect();
        networks(&all).unwrap().map_or_else(String::new, |rules| rules.to_string().replace('\n', ""))
    }

    #[test]
    fn the_first_line_that_holds_decides() {
        assert_eq!(rules("allow 10.0.0.0/8; deny all;"), "allow:  - \"10.0.0.0/8\"");
        assert_eq!(
            rules("deny 10.9.0.0/16; allow 10.0.0.0/8; deny all;"),
            "allow:  - \"10.0.0.0/8\"deny:  - \"10.9.0.0/16\""
        );
        assert_eq!(rules("allow 10.0.0.0/31; deny 10.0.0.0/30;"), "deny:  - \"10.0.0.2/31\"");
        assert_eq!(rules("allow 10.0.0.0/8; deny 10.1.0.0/16; allow all;"), "");
        assert_eq!(rules("deny all; allow 10.0.0.0/8;"), "deny:  - \"0.0.0.0/0\"  - \"::/0\"");
        assert_eq!(rules("allow all;"), "");
    }

    fn of_location(inside: &str, server: &str) -> (String, String) {
        converted(&format!(
            "server {{ listen 80; location / {{ {inside} proxy_pass http://10.0.0.1; }} {server} }}"
        ))
    }

    #[test]
    fn the_service_that_is_asked_is_where_nginx_asks() {
        let asked = |server: &str| of_location("auth_request /auth/check;", server);
        let (file, _) = asked(
            "location /auth/ { internal; proxy_pass http://10.0.0.3; } location /au { proxy_pass http://10.0.0.4; }",
        );
        assert!(file.contains("url: \"http://10.0.0.3:80/auth/check\""), "{file}");
        let (file, _) = asked(
            "location /auth/ { proxy_pass http://10.0.0.3; } location ~ check$ { proxy_pass http://10.0.0.4; }",
        );
        assert!(!file.contains("ext_auth") && file.contains("status: 403"), "{file}");
        let (file, left) =
            asked("location /auth/ { if ($http_x = a) { return 403; } proxy_pass http://10.0.0.3; }");
        assert!(!file.contains("ext_auth") && left.contains("has a `if` of its own"), "{left}");
    }

    #[test]
    fn a_password_without_a_name_is_not_printed() {
        let home = tempfile::tempdir().unwrap();
        let users = home.path().join("users");
        std::fs::write(&users, "# all\n\nhunter2\n").unwrap();
        let (file, left) =
            of_location(&format!("auth_basic x; auth_basic_user_file {};", users.display()), "");
        assert!(left.contains("its line 3 has no `:`") && !left.contains("hunter2"), "{left}");
        assert!(file.contains("status: 403") && !file.contains("hunter2"), "{file}");
    }
}
