//! A mistake in a document is reported at its place and affects nothing else. Every field of every kind is made wrong in
//! every way that its type allows; `weir check` has to point at each.
mod bases;
mod files;

use crate::{
    harness::{Start, TO_ECHO, weir},
    yaml::ToEcho,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// What was done to a document, and what `weir check` must say of it.
struct Mutation {
    what: &'static str,
    /// As findings name it: `spec.rules[0].name`.
    field: String,
    document: Value,
    severity: &'static str,
    /// Of the finding's help: what is accepted.
    accepted: &'static str,
}

/// Stands for any wrong text, and is nowhere else.
const MARK: &str = "ZzWrong";
/// Stands for a number where there should be none, and for one out of all bounds.
const NUMBER: i64 = -7_654_321;

const DISTINCT: [(&str, &str); 6] = [
    ("Gateway", "/spec/listeners"),
    ("HTTPRoute", "/spec/rules"),
    ("GRPCRoute", "/spec/rules"),
    ("DestinationRule", "/spec/subsets"),
    ("ServiceEntry", "/spec/ports"),
    ("Service", "/spec/ports"),
];

/// Every way to a value below a document's own fields.
fn paths(value: &Value) -> Vec<Vec<String>> {
    fn walk(value: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => return,
        };
        for (step, value) in inner {
            at.push(step);
            out.push(at.clone());
            walk(value, at, out);
            at.pop();
        }
    }
    let mut out = Vec::new();
    walk(value, &mut Vec::new(), &mut out);
    out.retain(|p| !matches!(p[0].as_str(), "apiVersion" | "kind" | "metadata"));
    out
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|s| format!("/{}", s.replace('~', "~0").replace('/', "~1"))).collect()
}

/// As findings write a path.
fn field(path: &[String]) -> String {
    let mut out = String::new();
    for step in path {
        match step.parse::<usize>() {
            Ok(i) => out += &format!("[{i}]"),
            Err(_) if out.is_empty() => out += step,
            Err(_) if step.contains(['.', '/', ' ']) => out += &format!("[\"{step}\"]"),
            Err(_) => out += &format!(".{step}"),
        }
    }
    out
}

/// A path without its places in lists: `spec.rules.name`.
fn plain(path: &[String]) -> String {
    path.iter().filter(|s| s.parse::<usize>().is_err()).cloned().collect::<Vec<_>>().join(".")
}

fn mutations(base: &bases::Base) -> Vec<Mutation> {
    let mut all = Vec::new();
    let quiet = |path: &str| base.quiet.iter().any(|q| path == *q || path.strip_prefix(*q).is_some_and(|rest| rest.starts_with('.')));
    for path in paths(&base.document) {
        let (name, at) = (plain(&path), pointer(&path));
        if quiet(&name) {
            continue;
        }
        let old = base.document.pointer(&at).unwrap().clone();
        let mut add = |what, field: String, new: Value, severity, accepted| {
            let mut document = base.document.clone();
            *document.pointer_mut(&at).unwrap() = new;
            all.push(Mutation { what, field, document, severity, accepted });
        };
        let own = field(&path);
        match &old {
            Value::String(text) => {
                add("a number for a text", own.clone(), json!(NUMBER), "error", "write a string");
                if weir_config::reader::duration(text).is_some() {
                    add("a number for a duration", own.clone(), json!(-NUMBER), "error", "write 7654321s");
                }
                if base.words.contains(&name.as_str()) {
                    add("an unknown word", own.clone(), json!(MARK), "error", "");
                }
                if weir_config::reader::duration(text).is_some() {
                    add("a duration without a unit", own, json!(format!("{MARK} 5")), "error", "a number with a unit");
                }
            }
            Value::Number(_) => {
                add("a text for a number", own.clone(), json!(MARK), "error", "write a");
                add("a number out of bounds", own, json!(NUMBER), "error", "from");
            }
            Value::Bool(_) => add("a text for true or false", own, json!(MARK), "error", "write true or false"),
            Value::Array(_) => add("a text for a list", own, json!(MARK), "error", "write a list"),
            Value::Object(map) => {
                add("a text for an object", own.clone(), json!(MARK), "error", "write an object");
                if !base.free.contains(&name.as_str()) {
                    let mut more = map.clone();
                    more.insert(MARK.into(), json!(1));
                    add("an unknown field", format!("{own}.{MARK}"), Value::Object(more), "error", "");
                }
            }
            Value::Null => {}
        }
    }
    // Lists whose items have a name (or number) of their own each: the first item once more.
    for (_, list) in DISTINCT.iter().filter(|(kind, list)| *kind == base.kind && base.document.pointer(list).is_some()) {
        let mut document = base.document.clone();
        let items = document.pointer_mut(list).unwrap().as_array_mut().unwrap();
        let count = items.len();
        items.push(items[0].clone());
        let steps: Vec<String> = format!("{}/{count}", &list[1..]).split('/').map(str::to_string).collect();
        all.push(Mutation { what: "the same twice", field: field(&steps), document, severity: "error", accepted: "of its own" });
    }
    for path in base.required {
        let steps: Vec<String> = path.split('/').map(str::to_string).collect();
        let (last, owner) = steps.split_last().unwrap();
        let mut document = base.document.clone();
        let map = document.pointer_mut(&pointer(owner)).unwrap_or_else(|| panic!("{path}")).as_object_mut().unwrap();
        map.remove(last).unwrap_or_else(|| panic!("{path}"));
        all.push(Mutation { what: "a missing field", field: field(owner), document, severity: "error", accepted: "add" });
    }
    all
}

/// Findings by file name.
fn check(folder: &Path) -> (Option<i32>, BTreeMap<String, Vec<Value>>) {
    let out = weir().args(["check", "-o", "json"]).arg(folder).output().unwrap();
    let found: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let mut by_file: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for finding in found {
        let file = finding["file"].as_str().and_then(|f| f.rsplit('/').next()).unwrap_or_default().to_string();
        by_file.entry(file).or_default().push(finding);
    }
    (out.status.code(), by_file)
}

/// The document as pretty JSON, under a name of its own, and the line on which the wrong value stands.
fn write(folder: &Path, number: usize, mutation: &Mutation) -> Option<u64> {
    let mut document = mutation.document.clone();
    document["metadata"]["name"] = format!("m{number}").into();
    let text = serde_json::to_string_pretty(&document).unwrap();
    fs::write(folder.join(format!("m{number}.json")), &text).unwrap();
    let marks = [MARK.to_string(), NUMBER.to_string(), (-NUMBER).to_string()];
    text.lines().position(|l| marks.iter().any(|m| l.contains(m.as_str()))).map(|at| at as u64 + 1)
}

#[test]
fn every_wrong_field_is_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let (mut all, mut count) = (Vec::new(), 0);
    for base in bases::all() {
        let mutations = mutations(&base);
        count += mutations.len();
        for mutation in mutations {
            let line = write(folder.path(), all.len(), &mutation);
            all.push((base.kind, mutation, line));
        }
    }
    let (code, findings) = check(folder.path());
    assert_eq!(code, Some(1));
    let mut wrong = Vec::new();
    for (number, (kind, mutation, line)) in all.iter().enumerate() {
        let none = Vec::new();
        let found = findings.get(&format!("m{number}.json")).unwrap_or(&none);
        let good = found.iter().any(|f| {
            f["field"].as_str().unwrap_or_default() == mutation.field
                && f["severity"] == mutation.severity
                && line.is_none_or(|line| f["line"] == line)
                && f["column"].as_u64().is_some_and(|c| c > 0)
                && f["help"].as_str().is_some_and(|h| h.contains(mutation.accepted) && !h.is_empty())
                && f["object"].as_str().is_some_and(|o| o.starts_with(kind) && o.ends_with(&format!("m{number}")))
        });
        if !good {
            let found: Vec<String> = found.iter().take(3).map(Value::to_string).collect();
            wrong.push(format!("{kind}: {} at {}, line {line:?}: {}", mutation.what, mutation.field, found.join("\n    ")));
        }
    }
    println!("{count} documents");
    assert!(count > 900, "{count} documents");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_bases_are_good() {
    let folder = tempfile::tempdir().unwrap();
    for base in bases::all() {
        fs::write(folder.path().join(format!("{}.json", base.kind)), base.document.to_string()).unwrap();
    }
    let (code, findings) = check(folder.path());
    // References lead nowhere here: warnings, and errors of certificates, which translation finds.
    let read = ["InvalidType", "InvalidValue", "MissingField", "UnknownField", "UnknownKind", "DuplicateObject", "Syntax"];
    let bad: Vec<&Value> = findings.values().flatten().filter(|f| read.contains(&f["reason"].as_str().unwrap())).collect();
    assert!(bad.is_empty(), "{code:?}: {bad:#?}");
}

#[test]
fn what_is_no_object_is_said_with_its_line() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\nspec:\n  parentRefs: [{name: g}]\n  rules: [{}]\n";
    for (what, text, line, part) in [
        ("a key twice", route.replace("  name: r\n", "  name: r\n  name: s\n"), 5, "name"),
        ("half a document", route.replace("rules: [{}]", "rules: [{"), 7, ""),
        ("a tab", route.replace("  name: r", "\tname: r"), 4, ""),
        ("a list", "- a\n- b\n".into(), 1, "object"),
        ("a text", "hello\n".into(), 1, "object"),
        ("no kind", route.replace("kind: HTTPRoute\n", ""), 1, "kind"),
        ("no version", route.replace("apiVersion: gateway.networking.k8s.io/v1\n", ""), 1, "apiVersion"),
        ("another version", route.replace("/v1\n", "/v9\n"), 1, "v9"),
        ("another group", route.replace("gateway.networking.k8s.io", "networking.k8s.io"), 2, "HTTPRoute"),
        ("a wrong kind", route.replace("HTTPRoute", "HTTPRout"), 2, "HTTPRout"),
        ("no metadata", route.replace("metadata:\n  name: r\n", ""), 1, "metadata"),
        ("no name", route.replace("  name: r\n", "  namespace: r\n"), 4, "name"),
        ("a bad name", route.replace("  name: r\n", "  name: 'a b'\n"), 4, "name"),
        ("a number for a name", route.replace("  name: r\n", "  name: 5\n"), 4, "string"),
        ("no spec", route.split("spec:").next().unwrap().into(), 1, "spec"),
        ("an alias of nothing", route.replace("rules: [{}]", "rules: *x"), 7, ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other.yaml"), "# nothing\n").unwrap();
        fs::write(folder.path().join("bad.yaml"), format!("# one\n---\n{text}")).unwrap();
        let (_, findings) = check(folder.path());
        let found = findings.get("bad.yaml").unwrap_or_else(|| panic!("{what}: nothing found"));
        let good = found.iter().any(|f| f["line"] == line + 2 && f.to_string().contains(part));
        assert!(good, "{what}: {found:#?}");
    }
    // The same object in two places: the first applies, and the second is reported.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), route).unwrap();
    fs::write(folder.path().join("b.yaml"), format!("---\n{route}")).unwrap();
    let (code, findings) = check(folder.path());
    let found = &findings["b.yaml"][0];
    assert_eq!((code, &found["reason"], &found["line"]), (Some(1), &json!("DuplicateObject"), &json!(2)), "{findings:?}");
    assert!(found["message"].as_str().unwrap().contains("a.yaml:1"), "{found}");
}

#[test]
fn hundreds_of_wrong_documents_harm_nobody() {
    let gateway = Start::new().file("gateway.yaml", TO_ECHO).run();
    assert_eq!(gateway.get("h", "/").status, 200);
    let mut number = 0;
    for base in bases::all() {
        for mutation in mutations(&base).into_iter().filter(|m| m.severity == "error").step_by(3) {
            write(gateway.path("gateway.yaml").parent().unwrap(), number, &mutation);
            number += 1;
        }
    }
    assert!(number > 200, "{number}");
    crate::harness::eventually("a word about the last one", || gateway.lines(&format!("m{}.json", number - 1)).first().cloned());
    assert_eq!(gateway.get("h", "/").status, 200);
    // It still follows changes.
    gateway.write("gateway.yaml", &ToEcho::new().rules(&["name: again, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-now, value: '1' }] } }], backendRefs: [{ name: echo, port: 80 }]"]).text());
    gateway.get_until("h", "/", |a| a.status == 200 && a.json()["headers"]["x-now"] == "1");
}

#[test]
fn the_admin_listener_tells_what_became_of_objects() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: lost }\nspec:\n  parentRefs: [{ name: gateway }, { name: nowhere }]\n  rules: [{ backendRefs: [{ name: nothing, port: 80 }] }]\n";
    let broken = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: broken }\nspec: { rules: 5 }\n";
    let mesh = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: mesh }\nspec: { hosts: [a.test], http: [] }\n";
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("lost.yaml", format!("# one\n---\n{route}"))
        .file("broken.yaml", broken)
        .file("mesh.yaml", mesh)
        .run();
    // `scope type status reason`, each.
    let conditions = |name: &str| {
        let all = weir.admin(&format!("/objects?filter=/{name}$")).json();
        let mut all = all["objects"].as_array().unwrap().clone();
        let entry = all.pop()?;
        assert!(all.is_empty(), "{all:?}");
        let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_string();
        let list = entry["conditions"].as_array().unwrap().iter();
        let words: Vec<String> =
            list.map(|c| ["scope", "type", "status", "reason"].map(|n| text(c, n)).join(" ").trim().to_string()).collect();
        Some((words.join(", "), entry))
    };
    let said = |name: &str| conditions(name).map(|c| c.0).unwrap_or_default();
    assert_eq!(
        said("gateway"),
        "http Conflicted False NoConflicts, http Accepted True Accepted, http ResolvedRefs True ResolvedRefs, http Programmed True Programmed, Accepted True Accepted, Programmed True Programmed, ResolvedRefs True ResolvedRefs"
    );
    assert_eq!(said("echo"), "parentRefs[0] Accepted True Accepted, parentRefs[0] ResolvedRefs True ResolvedRefs");
    assert_eq!(said("broken"), "Accepted False InvalidType");
    assert_eq!(said("mesh"), "Accepted False MeshOnly");
    let (words, entry) = conditions("lost").unwrap();
    assert_eq!(
        words,
        "parentRefs[1] Accepted False NoMatchingParent, parentRefs[0] Accepted True Accepted, parentRefs[1] ResolvedRefs False BackendNotFound, parentRefs[0] ResolvedRefs False BackendNotFound"
    );
    assert!(entry["file"].as_str().unwrap().ends_with("lost.yaml") && entry["line"] == 3, "{entry}");
    let findings = entry["findings"].as_array().unwrap();
    assert!(findings.len() == 2 && findings.iter().all(|f| f["line"].is_u64() && f["help"].is_string()), "{entry}");
    // It follows changes.
    weir.write("lost.yaml", &route.replace("nothing", "echo").replace(", { name: nowhere }", ""));
    crate::harness::eventually("the mended route", || {
        (said("lost") == "parentRefs[0] Accepted True Accepted, parentRefs[0] ResolvedRefs True ResolvedRefs").then_some(())
    });
    weir.remove("lost.yaml");
    crate::harness::eventually("its end", || said("lost").is_empty().then_some(()));
}
