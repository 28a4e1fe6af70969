//! `return`, `rewrite` and `if`: what nginx does before it looks at limits and access, in the order of the file.
//!
//! What answers becomes a filter, with a condition where it stands under `if`. What leads to another location becomes a route of its own
//! (a detour), since a filter that rewrites chooses no other route.

use super::{
    answers::{self, End, is_to_same_place},
    conditions::{self, When},
    guards,
    maps::Mapping,
    parser::{Directive, Seen},
    patterns::PathMatch,
    rewrite::Rewrite,
    scope::Scope,
    values::{Piece, Purpose, Values, pieces},
    world::World,
};
use crate::convert::draft::Map;
use crate::convert::fields;

const TYPES: &str =
    "`return` with a text (its type is the location's `default_type` here, whatever the path ends with)";

#[derive(Default)]
pub(super) struct Phase {
    /// Those that answer, under their conditions.
    pub(super) filters: Vec<Map>,
    /// Those that change the path on its way to the upstream.
    pub(super) changes: Vec<Map>,
    /// Paths that `changes` change, as one expression: what nginx does next does not apply to them.
    pub(super) changed: Option<String>,
    pub(super) detours: Vec<Detour>,
    pub(super) end: Option<End>,
    /// Without a flag: what stands behind them in the block sees the paths that they make.
    open: Vec<Rewrite>,
}

/// Requests for these paths leave the location.
pub(super) struct Detour {
    pub(super) paths: PathMatch,
    pub(super) lead: Lead,
    /// What stands behind it in the block holds for its paths as well.
    goes_on: bool,
}

pub(super) enum Lead {
    Away(End),
    /// To another location, with the path changed by this filter; new paths begin with `start`, or are just that.
    To {
        change: Result<Map, String>,
        start: String,
        is_whole: bool,
        directive: Directive,
    },
    /// Nowhere that is known: these are refused.
    Closed {
        why: String,
        directive: Directive,
    },
}

/// What is known of the block.
pub(super) struct Block<'b, 'f> {
    pub(super) scope: &'b Scope<'f>,
    pub(super) values: &'b Values,
    /// Whether requests come with TLS, if all do or none does.
    pub(super) is_tls: Option<bool>,
    /// The path of a location, for the type of what it says.
    pub(super) path: &'b str,
    /// Locations are chosen after a server's own rewrites, and before a location's.
    pub(super) is_server: bool,
}

impl Phase {
    pub(super) fn read(block: &Block<'_, '_>, world: &mut World<'_>) -> Phase {
        let mut phase = Phase::default();
        let own = block.scope.own();
        for (index, directive) in own.iter().enumerate() {
            match directive.name.as_str() {
                "return" => match phase.answer(directive, block, world) {
                    Ok(end) => {
                        // Where a path may end in anything.
                        let has_types =
                            block.scope.one("types").is_none_or(|types| !types.inside().is_empty());
                        if block.path.is_empty()
                            && has_types
                            && matches!(&end, End::Respond(respond) if respond.find("body").is_some())
                        {
                            world.notes.differ(directive, TYPES);
                        }
                        phase.end = Some(end);
                    }
                    Err((why, instead)) => {
                        world.notes.leave(directive, why);
                        phase.end = Some(instead);
                    }
                },
                "rewrite" => {
                    let is_broken = own[index + 1..].iter().any(|one| one.name == "break");
                    if let Err(why) = phase.rewrite(directive.read(), None, is_broken, block) {
                        world.notes.leave(directive, why);
                    }
                }
                "if" => phase.condition(directive.read(), block, world),
                "set" if directive.seen.get() == Seen::Not => world.notes.leave(
                    directive,
                    "a variable is a constant here: it is set more than once, or under a condition",
                ),
                "break" => {
                    directive.read();
                    break;
                }
                _ => {}
            }
            if phase.end.is_some() {
                phase.detours.retain(|detour| !detour.goes_on);
                break;
            }
        }
        phase
    }

    fn answer(
        &self,
        directive: &Directive,
        block: &Block<'_, '_>,
        world: &World<'_>,
    ) -> Result<End, (String, End)> {
        if !self.open.is_empty() && !guards::refuses(directive) && goes_by_path(directive, world) {
            return Err((CHANGED.to_owned(), End::Respond(Map::new().with("status", 404))));
        }
        answers::read(directive.read(), block)
    }

    fn condition(&mut self, directive: &Directive, block: &Block<'_, '_>, world: &mut World<'_>) {
        let rewrites = || directive.inside().iter().any(|inner| inner.name == "rewrite");
        if !self.open.is_empty() && (goes_by_path(directive, world) || rewrites()) {
            return self.unsaid(directive, CHANGED.to_owned(), world);
        }
        let is_plain_only = match conditions::words(directive).as_deref() {
            Some([variable, sign, text]) => {
                [["$scheme", "=", "http"], ["$scheme", "!=", "https"], ["$https", "!=", "on"]]
                    .contains(&[*variable, *sign, *text])
            }
            Some([variable, "="]) => ["$https", "$ssl_protocol"].contains(variable),
            _ => false,
        };
        let whens = match (is_plain_only, block.is_tls) {
            (true, Some(true)) => {
                world.notes.needless(directive, "since it never holds where all requests come with TLS");
                return directive.inside().iter().for_each(Directive::mark_read);
            }
            (true, Some(false)) => None,
            // `https_redirect` asks by itself.
            (true, None) if directive.inside().iter().all(is_to_same_place) => None,
            _ => match conditions::read(directive, world) {
                Ok(whens) => {
                    if let Some(how) = conditions::difference(directive)
                        && directive.inside().iter().any(guards::refuses)
                    {
                        world.notes.differ(directive, how);
                    }
                    Some(whens)
                }
                Err(why) => return self.unsaid(directive, why, world),
            },
        };
        for inner in directive.inside() {
            let done = match inner.name.as_str() {
                "return" => {
                    let (end, done) = match answers::read(inner.read(), block) {
                        Ok(end) => (end, Ok(())),
                        Err((why, instead)) => (instead, Err(why)),
                    };
                    match &whens {
                        None => self.filters.push(end.filter()),
                        Some(whens) => whens.iter().for_each(|when| {
                            let mut filter = end.clone().filter();
                            when.clone().put(&mut filter);
                            self.filters.push(filter);
                        }),
                    }
                    done
                }
                "rewrite" => whens
                    .iter()
                    .flatten()
                    .map(Some)
                    .chain(whens.is_none().then_some(None))
                    .try_for_each(|when| self.rewrite(inner.read(), when, false, block)),
                "break" if directive.inside().len() > 1 => Ok(()),
                _ => {
                    Err("it stands under `if`, which can answer, redirect and rewrite here, and nothing more"
                        .to_owned())
                }
            };
            if let Err(why) = done {
                world.notes.leave_in_part(directive, "not all of it could be carried over");
                world.notes.leave(inner, why);
            }
            inner.read();
        }
    }

    /// A condition that no filter can ask for. Where it would have turned clients away, all are turned away.
    fn unsaid(&mut self, directive: &Directive, mut why: String, world: &mut World<'_>) {
        // Maintenance that is announced by a file is no guard.
        let is_of_files = directive.first().trim_start_matches(['(', '!']).starts_with('-');
        let is_guard = |inner: &Directive| guards::refuses(inner) && !(is_of_files && inner.first() == "503");
        if directive.inside().iter().any(is_guard) {
            why.push_str("; until that is solved, the block it is in answers 403");
            self.end = Some(End::Respond(Map::new().with("status", 403)));
        }
        leave_all(directive, &why, world);
    }

    /// # Errors
    ///
    /// Why it cannot be carried over.
    fn rewrite(
        &mut self,
        directive: &Directive,
        when: Option<&When>,
        is_broken: bool,
        block: &Block<'_, '_>,
    ) -> Result<(), String> {
        let rewrite = Rewrite::read(directive)?;
        self.close_before(&rewrite, directive);
        if rewrite.is_redirect() {
            return self.away(&rewrite, when, block);
        }
        if when.is_some() {
            return Err("under `if`, a rewrite can only redirect here".to_owned());
        }
        let goes_on = rewrite.flag.is_empty();
        let stays = !block.is_server && (rewrite.flag == "break" || goes_on && is_broken);
        if stays {
            let mut change = rewrite.change(block.values)?;
            if let Some(changed) = &self.changed {
                change.set(
                    "unless",
                    Map::new().with("path", Map::new().with("regex", fields::literal(changed))),
                );
            }
            self.changes.push(change);
            let pattern = &rewrite.pattern;
            self.changed = Some(
                self.changed
                    .take()
                    .map_or_else(|| pattern.clone(), |before| format!("(?:{before})|(?:{pattern})")),
            );
        } else {
            let paths = PathMatch::Regex(rewrite.pattern.clone());
            let (start, is_whole) = rewrite.start();
            let change = rewrite.detour(block.values);
            let lead = Lead::To { change, start, is_whole, directive: directive.clone() };
            self.detours.push(Detour { paths, lead, goes_on });
        }
        if goes_on {
            self.open.push(rewrite);
        }
        Ok(())
    }

    /// Where this one may find a path that one before it has made, the two together lead where no route does.
    fn close_before(&mut self, rewrite: &Rewrite, directive: &Directive) {
        for before in self.open.iter().filter(|before| rewrite.may_follow(before)) {
            let paths = PathMatch::Regex(before.pattern.clone());
            let why = format!(
                "a `rewrite` before it, without a flag, may make paths that it changes again: until that is solved {:?} answers 403",
                before.pattern
            );
            self.detours.retain(|detour| detour.paths != paths);
            let lead = Lead::Closed { why, directive: directive.clone() };
            self.detours.push(Detour { paths, lead, goes_on: false });
        }
    }

    fn away(&mut self, rewrite: &Rewrite, when: Option<&When>, block: &Block<'_, '_>) -> Result<(), String> {
        let status = if rewrite.flag == "permanent" { 301 } else { 302 };
        let mut values = block.values.clone();
        let redirect = |to: String| answers::redirect(to, status);
        if let Some(text) = rewrite.of_every_path() {
            values.groups.insert("1".to_owned(), "{path}".to_owned());
            let end = redirect(rewrite.with_query(&values.filled(&text, Purpose::Url)?))?;
            match when {
                None => self.end = Some(end),
                Some(when) => {
                    let mut filter = end.filter();
                    when.clone().put(&mut filter);
                    self.filters.push(filter);
                }
            }
            return Ok(());
        }
        if !rewrite.uses_groups() {
            let paths = PathMatch::Regex(rewrite.pattern.clone());
            let mut filter =
                redirect(rewrite.with_query(&values.filled(&rewrite.replacement, Purpose::Url)?))?.filter();
            let path = Map::new().with("path", paths.node());
            match when {
                None => filter.set("when", path),
                Some(When::HoldsNot(matching)) => {
                    filter.set("when", path);
                    filter.set("unless", matching.clone());
                }
                Some(When::Holds(matching)) if matching.find("path").is_none() => {
                    filter.set("when", matching.clone().with("path", paths.node()));
                }
                Some(When::Holds(_)) => {
                    return Err("its paths and those of the `if` cannot be asked for together".to_owned());
                }
            }
            self.filters.push(filter);
            return Ok(());
        }
        if when.is_some() {
            return Err("under `if`, what groups match cannot be used here".to_owned());
        }
        let (paths, groups) = rewrite.template()?;
        values.groups = groups;
        let end = redirect(rewrite.with_query(&values.filled(&rewrite.replacement, Purpose::Url)?))?;
        self.detours.push(Detour { paths, lead: Lead::Away(end), goes_on: false });
        Ok(())
    }
}

const CHANGED: &str = "a `rewrite` before it, without a flag, changes the path that it looks at";

/// Whether it, or what is inside it, looks at what a rewrite changes.
pub(super) fn goes_by_path(directive: &Directive, world: &World<'_>) -> bool {
    let is_changed = |name: &str| {
        matches!(name, "uri" | "document_uri" | "request_filename" | "args" | "query_string" | "is_args")
            || name.starts_with("arg_")
    };
    let names_one = |text: &str, is_meant: &dyn Fn(&str) -> bool| {
        pieces(text).iter().any(|piece| matches!(piece, Piece::Variable(name) if is_meant(name)))
    };
    let is_seen = |name: &str| {
        let of_map = |mapping: &Mapping<'_>| names_one(mapping.directive.first(), &is_changed);
        is_changed(name) || world.maps.get(name).is_some_and(of_map)
    };
    directive
        .texts()
        .any(|text| names_one(text, &is_seen) || text.trim_start_matches(['(', '!']).starts_with('-'))
        || directive.inside().iter().any(|inner| goes_by_path(inner, world))
}

fn leave_all(directive: &Directive, why: &str, world: &mut World<'_>) {
    world.notes.leave(directive, why);
    directive
        .inside()
        .iter()
        .for_each(|inner| world.notes.leave(inner, "it stands under an `if` that is not carried over"));
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    fn of_location(inside: &str) -> (String, String) {
        let maps = "map $http_x $bad { default 1; good 0; odd 1; fine 0; }";
        converted(&format!(
            "http {{ {maps} server {{ listen 80; location / {{ {inside} proxy_pass http://10.0.0.1; }} }} }}"
        ))
    }

    #[test]
    fn a_condition_that_no_filter_can_ask_for_closes_what_it_guards() {
        for guard in [
            "if ($bad) { return 403; }",
            "if ($ssl_client_verify != SUCCESS) { return 403; }",
            "valid_referers example.com; if ($invalid_referer) { return 444; }",
            "if ($secure_link = \"\") { return 403; }",
            "set $deny 0; if ($http_x = a) { set $deny 1; } if ($deny = 1) { return 403; }",
            "if (!-f /run/open) { return 404; }",
            "auth_jwt realm;",
            "access_by_lua_block { ngx.exit(403) }",
            "secure_link $arg_md5;",
        ] {
            let (file, left) = of_location(guard);
            assert!(file.contains("status: 403") && !file.contains("upstream:"), "{guard}: {file}");
            assert!(left.contains("403"), "{left}");
        }
    }

    #[test]
    fn a_condition_that_turns_nobody_away_closes_nothing() {
        for open in ["if ($bad) { set $x 1; }", "if (-f /run/maintenance) { return 503; }", "auth_jwt off;"] {
            let (file, _) = of_location(open);
            assert!(file.contains("upstream:") && !file.contains("status: 403"), "{open}: {file}");
        }
    }

    #[test]
    fn a_guard_that_compares_a_value_in_another_way_is_named() {
        for (guard, how) in [
            ("if ($arg_tok != x) { return 403; }", "of a parameter: "),
            ("if ($http_x = \"\") { return 403; }", "a field that is empty: "),
            ("if ($http_host != a.example) { return 403; }", "a host: "),
        ] {
            let (file, _) = of_location(guard);
            assert!(file.contains("# Not quite the same: ") && file.contains(how), "{guard}: {file}");
        }
        let (file, _) = of_location("if ($http_x = a) { return 403; } if ($arg_tok) { return 302 /x; }");
        assert!(!file.contains("Not quite the same"), "{file}");
    }

    #[test]
    fn an_answer_that_cannot_be_given_under_a_condition_is_another_one_and_none_from_the_upstream() {
        let (file, _) = of_location("if ($http_x = a) { return 302 $unknown; }");
        assert!(file.contains("status: 404"), "{file}");
        let (file, _) = of_location("if ($http_x = a) { return 403 $uri; }");
        assert!(file.contains("status: 403") && file.contains("upstream:"), "{file}");
    }
}
