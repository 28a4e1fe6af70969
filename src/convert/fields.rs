//! Maps of a foreign file, read so that nothing is forgotten: whatever nobody has asked for by its name is reported in the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
};

use super::{Left, Place};
use crate::{
    config::{Foreign, ForeignValue},
    filter::OriginPattern,
};

/// Longest excerpt of the other file in a comment.
const LONGEST: usize = 80;

/// Fields that say how a message is framed; ours cannot be edited.
pub(crate) const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// What was not carried over so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub left: Vec<Left>,
    seen: HashSet<String>,
    /// By the reason: what stands where.
    needless: BTreeMap<&'static str, BTreeSet<(Place, String)>>,
}

impl Report {
    /// An entry as a whole, shown with its name.
    pub(crate) fn entry(&mut self, name: &str, value: &Foreign, why: impl Into<String>) {
        let what = match excerpt(value) {
            value if name.is_empty() => value,
            value => format!("{name}: {value}"),
        };
        self.add(value, what, why);
    }

    /// Nothing is missing without it.
    pub(crate) fn needless(&mut self, name: &str, value: &Foreign, why: &'static str) {
        self.needless.entry(why).or_default().insert((value.place(), shortened(name)));
    }

    /// A comment for each reason why something has no equal, and needs none.
    pub(crate) fn needless_comments(&self) -> impl Iterator<Item = String> {
        self.needless.iter().map(|(why, entries)| {
            let names = entries.iter().map(|(place, name)| format!("{name} ({place})"));
            format!("Needs no equal, {why}: {}", listed(names))
        })
    }

    pub(crate) fn add(&mut self, at: &Foreign, what: impl Into<String>, why: impl Into<String>) {
        let left = Left { at: at.place(), what: shortened(&what.into()), why: why.into() };
        // A value that is read for several listeners is reported once.
        if self.seen.insert(left.to_string()) {
            self.left.push(left);
        }
    }
}

impl Foreign {
    pub(super) fn place(&self) -> Place {
        Place { file: self.file.to_string(), line: self.line }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            ForeignValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; of anything else none.
    pub(super) fn items(&self) -> &[Foreign] {
        match &self.value {
            ForeignValue::List(items) => items,
            _ => &[],
        }
    }

    /// The items of a list, or the only one of what is written without a list.
    pub(super) fn one_or_more(&self) -> &[Foreign] {
        match &self.value {
            ForeignValue::List(items) => items,
            ForeignValue::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The entries of a map; of anything else none.
    pub(super) fn entries(&self) -> &[(String, Foreign)] {
        match &self.value {
            ForeignValue::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Foreign> {
        self.entries()
            .iter()
            .find(|(key, value)| key == name && value.value != ForeignValue::Null)
            .map(|(_, value)| value)
    }

    pub(super) fn find_text(&self, name: &str) -> Option<&str> {
        self.find(name)?.text()
    }
}

/// A map whose entries are taken out one by one.
#[derive(Debug)]
pub(crate) struct Fields<'f> {
    entries: Vec<(&'f str, &'f Foreign)>,
    /// Values are not shown in what is reported.
    is_secret: bool,
}

impl<'f> Fields<'f> {
    /// Anything but a map is reported, and has no entries.
    pub(crate) fn of(name: &str, value: &'f Foreign, report: &mut Report) -> Fields<'f> {
        Fields::read(name, value, false, report)
    }

    /// The same of a map that may hold hashes or keys: what is reported of it are names.
    pub(crate) fn secret(name: &str, value: &'f Foreign, report: &mut Report) -> Fields<'f> {
        Fields::read(name, value, true, report)
    }

    fn read(name: &str, value: &'f Foreign, is_secret: bool, report: &mut Report) -> Fields<'f> {
        let entries = value.entries().iter().filter(|(_, value)| value.value != ForeignValue::Null);
        let fields =
            Fields { entries: entries.map(|(name, value)| (name.as_str(), value)).collect(), is_secret };
        if !matches!(value.value, ForeignValue::Map(_) | ForeignValue::Null) {
            fields.tell(name, value, "a map is expected here", report);
        }
        fields
    }

    fn tell(&self, name: &str, value: &Foreign, why: impl Into<String>, report: &mut Report) {
        match self.is_secret {
            true => report.add(value, name, why),
            false => report.entry(name, value, why),
        }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'f Foreign> {
        let index = self.entries.iter().position(|(key, _)| *key == name)?;
        Some(self.entries.remove(index).1)
    }

    pub(crate) fn text(&mut self, name: &str, report: &mut Report) -> Option<&'f str> {
        let value = self.take(name)?;
        if value.text().is_none() {
            self.tell(name, value, "text is expected here", report);
        }
        value.text()
    }

    /// A whole number within these bounds.
    pub(crate) fn number(&mut self, name: &str, from: i64, to: i64, report: &mut Report) -> Option<i64> {
        let value = self.take(name)?;
        let number =
            value.text().and_then(|text| text.parse().ok()).filter(|number| (from..=to).contains(number));
        if number.is_none() {
            self.tell(name, value, format!("a whole number from {from} to {to} is expected here"), report);
        }
        number
    }

    pub(crate) fn flag(&mut self, name: &str, report: &mut Report) -> Option<bool> {
        let value = self.take(name)?;
        match value.value {
            ForeignValue::Flag(flag) => Some(flag),
            _ => {
                self.tell(name, value, "true or false is expected here", report);
                None
            }
        }
    }

    pub(crate) fn list(&mut self, name: &str, report: &mut Report) -> &'f [Foreign] {
        let Some(value) = self.take(name) else { return &[] };
        if !matches!(value.value, ForeignValue::List(_)) {
            self.tell(name, value, "a list is expected here", report);
        }
        value.items()
    }

    /// The items of a list, or the only one of what is written without a list.
    pub(crate) fn one_or_more(&mut self, name: &str) -> &'f [Foreign] {
        self.take(name).map_or(&[], Foreign::one_or_more)
    }

    /// A list of texts; an item that is none is reported.
    pub(crate) fn texts(&mut self, name: &str, report: &mut Report) -> Vec<&'f str> {
        let items = self.list(name, report);
        for item in items.iter().filter(|item| item.text().is_none()) {
            self.tell(name, item, "text is expected here", report);
        }
        items.iter().filter_map(Foreign::text).collect()
    }

    /// Takes entries out without which nothing is missing.
    pub(crate) fn needless(&mut self, names: &[&str], why: &'static str, report: &mut Report) {
        for name in names {
            if let Some(value) = self.take(name) {
                report.needless(name, value, why);
            }
        }
    }

    /// Takes an entry out that is not carried over.
    pub(crate) fn leave(&mut self, name: &str, why: &str, report: &mut Report) {
        if let Some(value) = self.take(name) {
            self.tell(name, value, why, report);
        }
    }

    /// Takes a flag out whose one value says what happens here anyway, and whose other value is not carried over.
    pub(crate) fn usual(&mut self, name: &str, usual: bool, why: &str, report: &mut Report) {
        match self.take(name) {
            Some(value) if value.value == ForeignValue::Flag(usual) => {
                report.needless(name, value, "since it is so here in any case");
            }
            Some(value) => self.tell(name, value, why, report),
            None => {}
        }
    }

    /// Takes entries out that are read elsewhere.
    pub(crate) fn skip(&mut self, names: &[&str]) {
        self.entries.retain(|(name, _)| !names.contains(name));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reports what is still there.
    pub(crate) fn finish(self, why: &str, report: &mut Report) {
        for (name, value) in &self.entries {
            self.tell(name, value, why, report);
        }
    }
}

/// A value on one line, as far as there is room.
pub(crate) fn excerpt(value: &Foreign) -> String {
    fn write(text: &mut String, value: &Foreign) {
        if text.len() > LONGEST {
            return;
        }
        match &value.value {
            ForeignValue::Null => text.push_str("null"),
            ForeignValue::Flag(flag) => _ = write!(text, "{flag}"),
            ForeignValue::Text(own) => text.extend(own.chars().take(LONGEST + 1)),
            ForeignValue::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index > 0 { ", " } else { "" });
                    write(text, item);
                }
                text.push(']');
            }
            ForeignValue::Map(entries) => {
                text.push('{');
                for (index, (name, value)) in entries.iter().enumerate() {
                    text.push_str(if index > 0 { ", " } else { "" });
                    text.extend(name.chars().take(LONGEST));
                    text.push_str(": ");
                    write(text, value);
                }
                text.push('}');
            }
        }
    }
    let mut text = String::new();
    write(&mut text, value);
    shortened(&text)
}

/// All of them, in lines that fit a screen.
pub(crate) fn listed(items: impl Iterator<Item = String>) -> String {
    const WIDTH: usize = 110;
    let mut text = String::new();
    let mut width = 0;
    for (index, item) in items.enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        if width > WIDTH {
            text.push_str("\n  ");
            width = 0;
        } else if index > 0 {
            text.push(' ');
        }
        width += item.len() + 2;
        text.push_str(&item);
    }
    text
}

fn shortened(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ..", line[..end].trim_end()),
        None => line,
    }
}

/// As a value of ours, in which `${` would stand for a variable.
pub(crate) fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// The same where placeholders are filled in: braces are doubled.
pub(crate) fn template(text: &str) -> String {
    literal(&text.replace('{', "{{").replace('}', "}}"))
}

/// In percent, as few digits as it takes.
pub(crate) fn percent(part: i64, whole: i64) -> String {
    let thousandths = (part * 100_000 + whole / 2) / whole.max(1);
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// An origin that a `cors` filter takes: with credentials, none that anybody can have.
pub(crate) fn is_origin(text: &str, credentials: bool) -> bool {
    let is_somebodys = |origin: OriginPattern| !credentials || !origin.is_null() && !origin.is_everybodys();
    text == "*" || OriginPattern::parse(text).is_ok_and(is_somebodys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_anybody_can_have_goes_with_no_credentials() {
        for (origin, expected) in [
            ("https://app.example", [true, true]),
            ("https://*.github.io", [true, false]),
            ("null", [true, false]),
            ("https://app.example:443", [false, false]),
        ] {
            assert_eq!([false, true].map(|credentials| is_origin(origin, credentials)), expected, "{origin}");
        }
    }

    fn read(text: &str) -> Foreign {
        crate::config::foreign(text, "a.yaml").unwrap().remove(0)
    }

    #[test]
    fn what_nobody_asks_for_is_reported_with_its_line() {
        let value = read("a: 1\nb: [x, {y: z}]\nc: 70000\nd: ~\n");
        let mut report = Report::default();
        let mut fields = Fields::of("", &value, &mut report);
        assert_eq!(fields.number("a", 0, 1, &mut report), Some(1));
        assert_eq!(fields.number("c", 0, 65_535, &mut report), None);
        fields.finish("unknown", &mut report);
        let left: Vec<String> = report.left.iter().map(ToString::to_string).collect();
        assert_eq!(
            left,
            [
                "a.yaml:3: not carried over: c: 70000 (a whole number from 0 to 65535 is expected here)",
                "a.yaml:2: not carried over: b: [x, {y: z}] (unknown)",
            ]
        );
    }

    #[test]
    fn of_a_secret_map_names_are_reported_alone() {
        let value = read("a: hush\nb: [hush, {c: hush}]\nd: {hush: hush}\ne: hush\nf: hush\n");
        let mut report = Report::default();
        let mut fields = Fields::secret("all", &value, &mut report);
        fields.number("a", 0, 1, &mut report);
        fields.texts("b", &mut report);
        fields.text("d", &mut report);
        fields.flag("e", &mut report);
        fields.finish("unknown", &mut report);
        Fields::secret("g", value.find("a").unwrap(), &mut report);
        let left: Vec<&str> = report.left.iter().map(|left| left.what.as_str()).collect();
        assert_eq!(left, ["a", "b", "d", "e", "f", "g"]);
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let value = read(&format!("a: \"é\\n{}\"\n", "x".repeat(500)));
        let text = excerpt(&value);
        assert!(
            text.starts_with("{a: é xxx") && text.ends_with(" ..") && text.chars().count() < 90,
            "{text}"
        );
    }

    #[test]
    fn braces_of_others_stay_text() {
        assert_eq!(template("a${b}{c}"), "a$${{b}}{{c}}");
        assert_eq!(literal("$1${2}"), "$1$${2}");
    }

    #[test]
    fn a_share_has_as_few_digits_as_it_takes() {
        for (part, whole, expected) in
            [(1, 2, "50%"), (1, 3, "33.333%"), (1, 1, "100%"), (0, 5, "0%"), (1, 1000, "0.1%")]
        {
            assert_eq!(percent(part, whole), expected);
        }
    }
}
