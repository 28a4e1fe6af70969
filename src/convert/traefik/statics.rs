//! Logs, from the static configuration.

use crate::{
    config::{Foreign, ForeignValue},
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report, literal},
    },
};

pub(crate) fn log(log: Option<&Foreign>, access: Option<&Foreign>, top: &mut Map, report: &mut Report) {
    if let Some(log) = log {
        let mut fields = Fields::of("log", log, report);
        let level = fields.text("level", report).map(str::to_ascii_lowercase);
        match level.as_deref() {
            Some(level @ ("trace" | "debug" | "info" | "warn" | "error")) => {
                top.map("log").set("level", level)
            }
            Some("fatal" | "panic") => top.map("log").set("level", "error"),
            Some(_) => report.entry("level", log, "no level of this name"),
            None => {}
        }
        match fields.text("format", report) {
            Some("json") => top.map("log").set("format", "json"),
            Some("common") => top.map("log").set("format", "text"),
            Some(other) => report.add(log, format!("format: {other}"), "messages are text or JSON"),
            None => {}
        }
        fields.finish("messages go to standard output", report);
    }
    let Some(access) = access else {
        // Without `accessLog` Traefik writes none.
        return;
    };
    let mut written = Map::new();
    let mut fields = Fields::of("accessLog", access, report);
    if let Some(path) = fields.text("filePath", report) {
        written.set("to", literal(path));
    }
    match fields.text("format", report) {
        Some("json") => written.set("format", "json"),
        Some(_) => written.set("format", "text"),
        None => {}
    }
    if let Some(filters) = fields.take("filters") {
        when(filters, &mut written, report);
    }
    fields.needless(&["bufferingSize"], "since lines are written in the background", report);
    fields.finish("fields of ours have names of their own: see `log.access.fields`", report);
    if !written.is_empty() {
        top.map("log").set("access", written);
    }
}

fn when(filters: &Foreign, written: &mut Map, report: &mut Report) {
    let mut fields = Fields::of("filters", filters, report);
    let codes: Vec<&str> = fields.list("statusCodes", report).iter().filter_map(Foreign::text).collect();
    let is_status = |text: &&str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let code = |text: &str| {
            text.parse::<u16>().ok().filter(|code| (100..=599).contains(code) && text.len() == 3)
        };
        code(from).zip(code(to)).is_some_and(|(from, to)| from <= to)
    };
    let known: List = codes.iter().copied().filter(is_status).map(status).collect();
    if known.len() < codes.len() {
        report.entry("filters", filters, "a status is a number from 100 to 599, or two with a dash between");
    }
    if !known.is_empty() {
        written.map("when").set("status", known);
    }
    let least = super::units::duration(&mut fields, "minDuration", report).filter(|least| least != "0s");
    if let Some(least) = least {
        if written.find("when").is_some() {
            report.add(
                filters,
                "minDuration",
                "conditions of ours hold together, and those of Traefik one for another",
            );
        } else {
            written.map("when").set("duration", least);
        }
    }
    if fields.take("retryAttempts").is_some_and(|retry| retry.value == ForeignValue::Flag(true)) {
        report.add(filters, "retryAttempts", "a line is not chosen by how often was tried");
    }
    fields.finish("it has no equal here", report);
}

fn status(text: &str) -> Node {
    match text.split_once('-') {
        Some((from, to)) if from == to => from.parse::<i64>().map_or_else(|_| text.into(), Node::from),
        Some(_) => text.into(),
        None => text.parse::<i64>().map_or_else(|_| text.into(), Node::from),
    }
}
