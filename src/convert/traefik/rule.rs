//! The rules of Traefik's routers, of both versions of its grammar: functions over texts, `&&`, `||`, `!` and parentheses. What is read is a
//! disjunction of conjunctions, since a route of ours is a conjunction.

/// Conjunctions that a rule may have.
pub(crate) const MOST: usize = 64;
/// Parentheses and negations inside each other.
const DEEPEST: usize = 64;
/// Functions and their texts in a rule. What is read of them is as deep as there are `&&` and `||`, so that it has to end somewhere.
const MOST_TERMS: usize = 512;

/// A function, and whether it must hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Atom {
    /// In lower case: Traefik takes any.
    pub name: String,
    pub args: Vec<String>,
    pub holds: bool,
}

/// Of each list, all must hold; of the lists, one.
pub(crate) type Alternatives = Vec<Vec<Atom>>;

#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Call(String, Vec<String>),
    Not(Box<Expr>),
    All(Box<Expr>, Box<Expr>),
    Any(Box<Expr>, Box<Expr>),
}

/// # Errors
///
/// What is wrong with the rule, or that it is too long to be written out.
pub(crate) fn parse(text: &str) -> Result<Alternatives, String> {
    let mut parser = Parser { rest: text, depth: 0, terms: 0 };
    let expr = parser.any()?;
    match parser.rest.trim_start() {
        "" => alternatives(&expr, true)
            .ok_or_else(|| format!("it has more than {MOST} alternatives when it is written out")),
        rest => Err(format!("it cannot be read from {:?} on", rest.chars().take(20).collect::<String>())),
    }
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
    terms: usize,
}

impl<'t> Parser<'t> {
    fn any(&mut self) -> Result<Expr, String> {
        let mut left = self.all()?;
        while self.eat("||") {
            left = Expr::Any(Box::new(left), Box::new(self.all()?));
        }
        Ok(left)
    }

    fn all(&mut self) -> Result<Expr, String> {
        let mut left = self.one()?;
        while self.eat("&&") {
            left = Expr::All(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("it is nested deeper than {DEEPEST} levels"));
        }
        let expr = if self.eat("!") {
            Expr::Not(Box::new(self.one()?))
        } else if self.eat("(") {
            let inner = self.any()?;
            self.expect(")")?;
            inner
        } else {
            self.call()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// Before anything is built of it.
    fn count(&mut self) -> Result<(), String> {
        self.terms += 1;
        match self.terms > MOST_TERMS {
            true => Err(format!("it has more than {MOST_TERMS} functions and texts")),
            false => Ok(()),
        }
    }

    fn call(&mut self) -> Result<Expr, String> {
        self.count()?;
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return Err("a function such as Host(`example.com`) is missing".to_owned());
        }
        self.rest = rest;
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            if !args.is_empty() {
                self.expect(",")?;
            }
            self.count()?;
            args.push(self.text(name)?);
        }
        Ok(Expr::Call(name.to_ascii_lowercase(), args))
    }

    /// In backticks as it is, or in double quotes with escapes, as in Go.
    fn text(&mut self, function: &str) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        let unclosed = || format!("a text of {function} is not closed");
        if let Some(rest) = self.rest.strip_prefix('`') {
            let (text, rest) = rest.split_once('`').ok_or_else(unclosed)?;
            self.rest = rest;
            return Ok(text.to_owned());
        }
        let rest =
            self.rest.strip_prefix('"').ok_or_else(|| format!("{function} takes texts in backticks"))?;
        let mut is_escaped = false;
        let end = rest.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let end = end.ok_or_else(unclosed)?;
        self.rest = &rest[end + 1..];
        serde_json::from_str(&format!("\"{}\"", &rest[..end]))
            .map_err(|_| format!("a text of {function} has an unknown escape"))
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("`{token}` is missing")) }
    }
}

/// The disjunctive normal form of `expr`, or of its negation; `None` where it is too long.
fn alternatives(expr: &Expr, holds: bool) -> Option<Alternatives> {
    let (one, other, is_any) = match expr {
        Expr::Call(name, args) => return Some(call(name, args, holds)),
        Expr::Not(inner) => return alternatives(inner, !holds),
        // De Morgan: what is not both is not one or not the other.
        Expr::All(one, other) => (one, other, !holds),
        Expr::Any(one, other) => (one, other, holds),
    };
    let (mut one, other) = (alternatives(one, holds)?, alternatives(other, holds)?);
    let all = if is_any {
        one.extend(other);
        one
    } else {
        if one.len() * other.len() > MOST {
            return None;
        }
        one.iter().flat_map(|one| other.iter().map(move |other| [&one[..], other].concat())).collect()
    };
    (all.len() <= MOST).then_some(all)
}

/// Version 2 let most functions take several texts, of which one had to hold; its queries had all to hold.
fn call(name: &str, args: &[String], holds: bool) -> Alternatives {
    let atom = |args: Vec<String>| Atom { name: name.to_owned(), args, holds };
    match name {
        "headers" | "headersregexp" | "header" | "headerregexp" | "queryregexp" => {
            vec![vec![atom(args.to_vec())]]
        }
        "query" => {
            let pairs: Vec<Vec<String>> = match args {
                _ if args.iter().all(|arg| arg.contains('=')) && !args.is_empty() => args
                    .iter()
                    .filter_map(|arg| arg.split_once('='))
                    .map(|(key, value)| vec![key.to_owned(), value.to_owned()])
                    .collect(),
                _ => vec![args.to_vec()],
            };
            let atoms = pairs.into_iter().map(atom);
            if holds { vec![atoms.collect()] } else { atoms.map(|atom| vec![atom]).collect() }
        }
        _ if args.len() < 2 => vec![vec![atom(args.to_vec())]],
        _ => {
            let atoms = args.iter().map(|arg| atom(vec![arg.clone()]));
            if holds { atoms.map(|atom| vec![atom]).collect() } else { vec![atoms.collect()] }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `host(a)`, and `!` before what must not hold.
    fn written(text: &str) -> String {
        let alternatives = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let atom = |atom: &Atom| {
            format!("{}{}({})", if atom.holds { "" } else { "!" }, atom.name, atom.args.join(","))
        };
        let all = |atoms: &Vec<Atom>| atoms.iter().map(atom).collect::<Vec<_>>().join(" ");
        alternatives.iter().map(all).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn rules_become_alternatives() {
        for (rule, expected) in [
            ("Host(`a`)", "host(a)"),
            ("host(`a`) && PATHPREFIX(`/x`)", "host(a) pathprefix(/x)"),
            ("Host(`a`)||Host(`b`)", "host(a) | host(b)"),
            ("Host(`a`, \"b\")", "host(a) | host(b)"),
            ("Host(`a`) || Host(`b`) && Path(`/x`)", "host(a) | host(b) path(/x)"),
            (
                "(Host(`a`) || Host(`b`)) && (Path(`/x`) || Path(`/y`))",
                "host(a) path(/x) | host(a) path(/y) | host(b) path(/x) | host(b) path(/y)",
            ),
            ("!Host(`a`)", "!host(a)"),
            ("!(Host(`a`) && Path(`/x`))", "!host(a) | !path(/x)"),
            ("!(Host(`a`) || Path(`/x`))", "!host(a) !path(/x)"),
            ("!!Host(`a`)", "host(a)"),
            ("!Host(`a`,`b`)", "!host(a) !host(b)"),
            ("Header(`X`, `a,b`)", "header(X,a,b)"),
            ("Query(`a=b`, `c=d`)", "query(a,b) query(c,d)"),
            ("!Query(`a=b`, `c=d`)", "!query(a,b) | !query(c,d)"),
            ("Query(`a`, `b`)", "query(a,b)"),
            ("HostRegexp(\"^.+\\\\.example\\\\.com$\")", "hostregexp(^.+\\.example\\.com$)"),
            ("  Host ( `a` ) ", "host(a)"),
        ] {
            assert_eq!(written(rule), expected, "{rule}");
        }
    }

    #[test]
    fn wrong_rules_are_explained() {
        let deep = format!("{}Host(`a`)", "(".repeat(100));
        let nots = format!("{}Host(`a`)", "!".repeat(100_000));
        let wide = ["Host(`a`)"; 100_000];
        let (any, all) = (wide.join("||"), wide.join(" && "));
        let texts = format!("Host({})", ["`a`"; 100_000].join(","));
        let long = ["(Host(`a`) || Host(`b`))"; 7].join(" && ");
        for (rule, expected) in [
            ("", "is missing"),
            ("Host(`a`", "`,` is missing"),
            ("Host(`a", "is not closed"),
            ("Host(\"a", "is not closed"),
            ("Host(a)", "takes texts in backticks"),
            ("Host(`a`) Path(`/`)", "cannot be read from"),
            ("Host(`a`) &&", "is missing"),
            ("(Host(`a`)", "`)` is missing"),
            ("Host(\"\\q\")", "unknown escape"),
            (&deep, "nested deeper"),
            (&nots, "nested deeper"),
            (&any, "more than 512"),
            (&all, "more than 512"),
            (&texts, "more than 512"),
            (&long, "more than 64 alternatives"),
        ] {
            let error = parse(rule).unwrap_err();
            assert!(error.contains(expected), "{rule}: {error}");
        }
    }
}
