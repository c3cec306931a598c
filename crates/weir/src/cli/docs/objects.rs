//! A page for every kind of object that Weir reads: every field, as its decoder knows it.
use super::cell;
use std::fmt::Write;
use weir_config::{
    diagnostic::Severity,
    reader::record::{Description, NoEffect, Step, Steps, Type},
    schema::{Known, Schema},
};
use weir_control::{
    api::ingress::annotations::{
        GUARDS,
        keys::{KEYS, Support},
    },
    object::{KINDS, Kind, KindInfo, schema},
};

pub fn pages() -> Vec<(String, String)> {
    let mut pages = vec![("objects".to_string(), index())];
    pages.extend(KINDS.iter().map(|info| (file(info), page(info))));
    pages
}

/// Two groups may have a kind of one name.
fn file(info: &KindInfo) -> String {
    format!("objects/{:?}", info.kind).to_lowercase()
}

fn index() -> String {
    let mut out =
        "# Objects\n\nMade by `weir __docs objects`. Weir reads these kinds; each page lists every field, made from the code that \
                   reads it. A field that an object does not have is an error, and the object keeps its last good version.\n\n\
                   | kind | apiVersion |\n| --- | --- |\n"
            .to_string();
    for info in KINDS {
        let _ = writeln!(out, "| [{}]({}.md) | {} |", info.name, file(info), versions(info));
    }
    out
}

fn versions(info: &KindInfo) -> String {
    info.versions.iter().map(|version| format!("`{}`", info.api_version(version))).collect::<Vec<_>>().join(", ")
}

fn page(info: &KindInfo) -> String {
    let mut out = format!("# {}\n\nMade by `weir __docs {}`. {}.\n", info.name, file(info), versions(info));
    fields(&schema::of(info), "", &mut out);
    if info.kind == Kind::Ingress {
        annotations(&mut out);
    }
    if info.kind == Kind::ConfigMap {
        for (key, schema) in schema::of_settings() {
            let _ = write!(
                out,
                "\n## `data.{key}` of the settings\n\nThe ConfigMaps `higress-config` and `istio` are settings of the whole gateway. \
                 The text under `{key}` is YAML:\n"
            );
            fields(&schema, "#", &mut out);
        }
    }
    out
}

/// What Weir makes of the annotations of Higress and ingress-nginx.
fn annotations(out: &mut String) {
    let guards: Vec<String> = GUARDS.iter().map(|start| format!("`{start}`")).collect();
    let _ = write!(
        out,
        "\n## Annotations\n\n`higress.io/NAME` means what `nginx.ingress.kubernetes.io/NAME` does. An annotation that is not supported is a \
         warning and has no effect. If it guards access, it is an error, and requests of its Ingress are answered with 503. An annotation \
         that is not in this table guards access if it begins with {}. [`weir migrate`](../../migrate.md) applies this table to your \
         objects.\n\n| annotation | verdict | |\n| --- | --- | --- |\n",
        guards.join(", ")
    );
    for key in KEYS {
        let (verdict, text) = match key.support {
            Support::Works => ("works", ""),
            Support::Differs(how) => ("works with a difference", how),
            Support::NotNeeded(why) => ("not needed", why),
            Support::Unsupported(instead) if key.guards => ("not supported: 503", instead),
            Support::Unsupported(instead) => ("not supported", instead),
        };
        let _ = writeln!(out, "| `{}` | {verdict} | {} |", key.name, cell(text));
    }
}

/// Tables of fields: those with an effect, then those without; headings are `level` deeper than a page's.
fn fields(schema: &Schema, level: &str, out: &mut String) {
    let own = |steps: &Steps| !steps.is_empty() && !matches!(&steps[..], [Step::Field(first)] if matches!(&**first, "kind" | "metadata"));
    let known: Vec<(String, &Known)> = schema.iter().filter(|(s, _)| own(s) && !is_example(s)).map(|(s, k)| (path(s), k)).collect();
    // The items of a list have the description of the list.
    let list_of = |path: &str| path.strip_suffix("[]").and_then(|list| known.iter().find(|(other, _)| other == list));
    let description = |path: &str, k: &Known| k.description.or_else(|| list_of(path)?.1.description);
    let read: Vec<Row> = known
        .iter()
        .filter(|(path, k)| has_effect(k) && !is_branch(path, k, &known))
        .map(|(path, k)| Row::new(path, k, description(path, k)))
        .collect();
    if !read.is_empty() {
        let _ = write!(out, "\n| field | type | values | default | description |\n| --- | --- | --- | --- | --- |\n");
    }
    for Row { path, kind, values, default, description } in short(read) {
        let _ = writeln!(out, "| `{path}` | {kind} | {} | {} | {} |", cell(&values), cell(&default), cell(description));
    }
    list(&known, NoEffect::Unsupported, &format!("##{level} Not supported: ignored with a warning"), out);
    list(&known, NoEffect::Ignored, &format!("##{level} Without effect at a gateway"), out);
}

#[derive(Clone, PartialEq)]
struct Row {
    path: String,
    kind: String,
    values: String,
    default: String,
    description: &'static str,
}

impl Row {
    fn new(path: &str, known: &Known, description: Option<Description>) -> Row {
        let required = if known.asked.required { ", required" } else { "" };
        let (default, description) = description.map_or(("", ""), |d| (d.default, d.text));
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        Row { path: path.into(), kind: format!("{}{required}", types(known)), values: values(known), default, description }
    }
}

/// Fewer rows than this are repeated rather than referred to.
const FEW: usize = 4;

/// With one row in place of those of an object that has the same fields as another one, less deep or before it.
fn short(mut rows: Vec<Row>) -> Vec<Row> {
    let mut places: Vec<String> = Vec::new();
    for row in &rows {
        let ends = row.path.match_indices('.').map(|(end, _)| row.path[..end].to_string());
        places.extend(ends.filter(|place| place.contains('.')));
    }
    places.sort_by_key(|place| place.matches('.').count());
    let mut unique: Vec<String> = Vec::new();
    for place in places {
        if !unique.contains(&place) {
            unique.push(place);
        }
    }
    for (nth, place) in unique.iter().enumerate() {
        let own = below(&rows, place);
        if own.len() < FEW {
            continue;
        }
        let same = unique[..nth].iter().find(|other| !place.starts_with(&***other) && below(&rows, other) == own);
        if let (Some(same), Some(first)) = (same, rows.iter().position(|row| is_below(&row.path, place))) {
            let shown = place.trim_end_matches("[]");
            let kind = if shown == place { "object" } else { "list" };
            let row = Row {
                path: shown.into(),
                kind: kind.into(),
                values: format!("the fields of `{same}`"),
                default: String::new(),
                description: "",
            };
            rows.retain(|row| !is_below(&row.path, place));
            rows.insert(first, row);
        }
    }
    rows
}

fn is_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.starts_with('.'))
}

/// The rows of an object, by paths within it.
fn below(rows: &[Row], place: &str) -> Vec<Row> {
    let own = rows.iter().filter(|row| is_below(&row.path, place));
    own.map(|row| Row { path: row.path[place.len()..].into(), ..row.clone() }).collect()
}

fn list(known: &[(String, &Known)], what: NoEffect, title: &str, out: &mut String) {
    let paths: Vec<String> =
        known.iter().filter(|(_, k)| !has_effect(k) && k.asked.no_effect == Some(what)).map(|(path, _)| format!("`{path}`")).collect();
    if !paths.is_empty() {
        let _ = write!(out, "\n{title}\n\n{}\n", paths.join(", "));
    }
}

/// The annotation that only opens the way to the others.
fn is_example(steps: &Steps) -> bool {
    matches!(&steps[..], [.., Step::Field(name)] if &**name == "nginx.ingress.kubernetes.io/x")
        || matches!(&steps[..], [Step::Field(first), Step::Field(second), rest @ ..] if &**first == "metadata" && &**second == "annotations"
            && matches!(rest, [] | [Step::Field(_)]) && !matches!(rest, [Step::Field(name)] if name.contains('/')))
}

fn has_effect(known: &Known) -> bool {
    known.asked.no_effect.is_none() || !known.asked.types.is_empty()
}

/// An object or list, which the fields below it stand for.
fn is_branch(path: &str, known: &Known, all: &[(String, &Known)]) -> bool {
    let only = known.asked.types.iter().all(|t| matches!(t, Type::Object | Type::List | Type::Map));
    only && all.iter().any(|(other, _)| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '['])))
}

/// `spec.rules[].matches[].path`
fn path(steps: &Steps) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Index(_) => out += "[]",
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out += if &**name == "KEY" { "*" } else { name };
            }
        }
    }
    match out.strip_prefix("metadata.annotations.") {
        Some(annotation) => annotation.to_string(),
        None => out,
    }
}

fn types(known: &Known) -> String {
    let name = |kind: &Type| match kind {
        Type::Text => "string",
        Type::Boolean => "boolean",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Duration => "duration",
        Type::Object | Type::Map => "object",
        Type::List => "list",
    };
    let names: Vec<&str> = known.asked.types.iter().map(name).collect();
    if names.is_empty() { "any".into() } else { names.join(" or ") }
}

fn values(known: &Known) -> String {
    let asked = &known.asked;
    let mut parts: Vec<String> = Vec::new();
    if !asked.words.is_empty() {
        let word = |word: &String| match known.notes.get(word) {
            None => format!("`{word}`"),
            Some((Severity::Error, why)) => format!("`{word}` (refused: {why})"),
            Some((_, why)) => format!("`{word}` (a warning: {why})"),
        };
        parts.push(asked.words.iter().map(word).collect::<Vec<_>>().join(", "));
    } else {
        // Where it depends on other fields what is accepted, one answer would mislead.
        parts.extend(known.accepted.iter().next().filter(|_| known.accepted.len() == 1).cloned());
    }
    parts.extend(asked.bounds.map(|bounds| match bounds {
        (low, high) if high >= i64::from(i32::MAX) => format!("from {low}"),
        (low, high) => format!("from {low} to {high}"),
    }));
    parts.join("; ")
}
