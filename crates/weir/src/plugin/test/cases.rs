//! The file of `weir plugin test`: what is sent, what stands in for the world, what must come of it.
use super::matcher::Matcher;
use crate::plugin::test::{http::Rule, redis::Script};
use std::{path::Path, sync::Arc, time::Duration};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    node::{self, Value},
    reader::{Field, Object, Reader},
    source::Source,
};

/// A file, read.
pub struct Cases {
    /// The plugin's file, where it is named.
    pub plugin: Option<String>,
    pub cases: Vec<Case>,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub world: World,
    pub steps: Vec<Step>,
}

/// What a plugin meets. A case's parts replace those of the file.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// JSON; empty for none.
    pub config: String,
    /// What the route's upstream answers; without rules, 200.
    pub upstream: Vec<Rule>,
    /// HTTP services by the name that the plugin calls.
    pub services: Vec<(String, Vec<Rule>)>,
    pub redis: Vec<(String, Script)>,
}

/// A request and what must come of it.
#[derive(Clone, Debug)]
pub struct Step {
    pub request: Request,
    pub expect: Expect,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

#[derive(Clone, Debug, Default)]
pub struct Expect {
    pub status: Option<i64>,
    pub headers: Vec<(String, Matcher)>,
    pub body: Option<Matcher>,
    pub upstream: Seen,
    /// The calls to services, in order.
    pub calls: Option<Vec<(String, RequestExpect)>>,
    /// Values of Redis afterwards, by stand-in and key.
    pub redis: Vec<(String, Vec<(String, Matcher)>)>,
    pub log: Vec<Matcher>,
}

/// What the route's upstream must have got.
#[derive(Clone, Debug, Default)]
pub enum Seen {
    #[default]
    Anything,
    Nothing,
    Request(Box<RequestExpect>),
}

#[derive(Clone, Debug, Default)]
pub struct RequestExpect {
    pub method: Option<Matcher>,
    pub path: Option<Matcher>,
    pub host: Option<Matcher>,
    pub headers: Vec<(String, Matcher)>,
    pub body: Option<Matcher>,
}

/// Reads a file of cases.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path, text: String) -> Result<Cases, Vec<Diagnostic>> {
    let source = Arc::new(Source::new(path.display().to_string(), text, 1));
    let documents = node::parse(&source).map_err(|d| vec![d])?;
    let reader = Reader::new(source);
    let mut cases = Cases { plugin: None, cases: Vec::new() };
    for document in documents.iter().filter(|d| d.value != Value::Null) {
        if let Some(root) = reader.root(document).object() {
            file(&root, &mut cases);
        }
    }
    if cases.cases.is_empty() && !reader.has_errors() {
        reader.report(
            Diagnostic::error("MissingField", "there are no cases")
                .help("cases: [{ name: …, request: { path: / }, expect: { status: 200 } }]"),
        );
    }
    let mut findings = reader.take();
    // What nothing reads would pass as if it had been tested.
    findings.iter_mut().for_each(|d| d.severity = Severity::Error);
    if findings.is_empty() { Ok(cases) } else { Err(findings) }
}

fn file(root: &Object<'_>, into: &mut Cases) {
    if let Some(plugin) = root.str("plugin") {
        into.plugin = Some(plugin.into());
    }
    let world = world(root, &World::default());
    for (i, field) in root.required("cases").map(|f| f.list()).unwrap_or_default().iter().enumerate() {
        let Some(object) = field.object() else { continue };
        let name = object.str("name").map_or_else(|| format!("case {}", i + 1), str::to_string);
        let world = self::world(&object, &world);
        let mut steps: Vec<Step> = object.list("steps").iter().filter_map(|f| f.object()).filter_map(|o| step(&o)).collect();
        if steps.is_empty() {
            steps.extend(step(&object));
        } else if object.has("request") {
            field.invalid("has both request and steps", "either one request with its expect, or steps of them");
        }
        into.cases.push(Case { name, world, steps });
    }
}

fn world(object: &Object<'_>, base: &World) -> World {
    let mut world = base.clone();
    if let Some(config) = object.get("config") {
        world.config = match config.node().as_str() {
            Some(text) => text.into(),
            None => config.node().to_json().to_string(),
        };
    }
    if let Some(upstream) = object.get("upstream") {
        world.upstream = rules(&upstream);
    }
    for (name, field) in object.entries("services") {
        world.services.retain(|(n, _)| n != name);
        world.services.push((name.into(), rules(&field)));
    }
    for (name, field) in object.entries("redis") {
        world.redis.retain(|(n, _)| n != name);
        if let Some(o) = field.object() {
            world.redis.push((name.into(), script(&o)));
        }
    }
    world
}

/// One answer, or a list of them with what each is for.
fn rules(field: &Field<'_>) -> Vec<Rule> {
    match &field.node().value {
        Value::List(_) => field.list().iter().filter_map(|f| f.object()).map(|o| rule(&o)).collect(),
        _ => field.object().map(|o| rule(&o)).into_iter().collect(),
    }
}

fn rule(o: &Object<'_>) -> Rule {
    Rule {
        method: o.get("method").and_then(|f| matcher(&f)),
        path: o.get("path").and_then(|f| matcher(&f)),
        when: matchers(o, "when"),
        status: o.int("status", 200..=999).unwrap_or(200) as u16,
        headers: o.entries("headers").iter().filter_map(|(n, f)| Some((n.to_ascii_lowercase(), plain(f)?))).collect(),
        body: o.get("body").map(|f| body(&f)).unwrap_or_default(),
        delay: o.duration("delay").unwrap_or(Duration::ZERO),
        reset: o.bool("reset").unwrap_or(false),
    }
}

fn script(o: &Object<'_>) -> Script {
    let mut script = Script { password: o.str("password").map(str::to_string), down: o.bool("down").unwrap_or(false), ..Script::default() };
    script.data = o.entries("data").iter().filter_map(|(k, f)| Some(((*k).to_string(), plain(f)?))).collect();
    for f in o.list("replies") {
        let Some(o) = f.object() else { continue };
        let command = o.required("command").map(|f| words(&f)).unwrap_or_default();
        let error = o.str("error").map(|e| weir_redis::Reply::Error(e.to_string().into()));
        let reply = error.or_else(|| o.get("reply").map(|f| super::redis::reply(f.node()))).unwrap_or(weir_redis::Reply::Nil);
        script.replies.push((command, reply));
    }
    script
}

fn words(field: &Field<'_>) -> Vec<String> {
    match field.node().as_str() {
        Some(text) => text.split_whitespace().map(str::to_string).collect(),
        None => field.list().iter().filter_map(plain).collect(),
    }
}

fn step(o: &Object<'_>) -> Option<Step> {
    let request = o.required("request")?.object()?;
    let headers = request.entries("headers").iter().filter_map(|(n, f)| Some(((*n).to_string(), plain(f)?))).collect();
    let text = request.get("body").map(|f| body(&f)).unwrap_or_default();
    let default = if text.is_empty() { "GET" } else { "POST" };
    let path = request.str("path").unwrap_or("/");
    if !path.starts_with('/') {
        request.field().invalid(format!("the path `{path}` does not begin with /"), "a path such as /shop?id=1");
    }
    let request = Request {
        method: request.str("method").unwrap_or(default).into(),
        path: path.into(),
        host: request.str("host").unwrap_or("example.com").into(),
        headers,
        body: text,
    };
    let expect = o.required("expect")?.object()?;
    Some(Step { request, expect: self::expect(&expect) })
}

fn expect(o: &Object<'_>) -> Expect {
    let seen = match o.get("upstream") {
        None => Seen::Anything,
        Some(f) if f.node().value == Value::Bool(false) => Seen::Nothing,
        Some(f) => f.object().map_or(Seen::Anything, |o| Seen::Request(Box::new(request_expect(&o)))),
    };
    let call = |f: &Field<'_>| {
        let o = f.object()?;
        Some((o.str("to").unwrap_or_default().to_string(), request_expect(&o)))
    };
    Expect {
        status: o.int("status", 100..=999),
        headers: matchers(o, "headers"),
        body: o.get("body").and_then(|f| matcher(&f)),
        upstream: seen,
        calls: o.get("calls").map(|f| f.list().iter().filter_map(call).collect()),
        redis: o.entries("redis").iter().map(|(name, f)| ((*name).to_string(), entries(f))).collect(),
        log: o.list("log").iter().filter_map(matcher).collect(),
    }
}

fn request_expect(o: &Object<'_>) -> RequestExpect {
    let read = |name| o.get(name).and_then(|f| matcher(&f));
    RequestExpect { method: read("method"), path: read("path"), host: read("host"), headers: matchers(o, "headers"), body: read("body") }
}

fn matchers(o: &Object<'_>, name: &'static str) -> Vec<(String, Matcher)> {
    o.entries(name).iter().filter_map(|(n, f)| Some((n.to_ascii_lowercase(), matcher(f)?))).collect()
}

fn entries(f: &Field<'_>) -> Vec<(String, Matcher)> {
    f.entries().iter().filter_map(|(n, f)| Some(((*n).to_string(), matcher(f)?))).collect()
}

/// A text, `~` and a regular expression, null for "not there", or a structure for JSON.
fn matcher(f: &Field<'_>) -> Option<Matcher> {
    match &f.node().value {
        Value::Null => Some(Matcher::Absent),
        Value::Map(_) | Value::List(_) => Some(Matcher::Json(f.node().to_json())),
        Value::String(text) => match text.strip_prefix('~') {
            None => Some(Matcher::Text(text.to_string())),
            Some(pattern) => match regex::Regex::new(pattern) {
                Ok(regex) => Some(Matcher::Regex(regex)),
                Err(e) => {
                    f.invalid(format!("is no regular expression: {e}"), "a text, or ~ and a regular expression");
                    None
                }
            },
        },
        _ => plain(f).map(Matcher::Text),
    }
}

/// Text as it stands, JSON of a structure.
fn body(f: &Field<'_>) -> String {
    match &f.node().value {
        Value::Map(_) | Value::List(_) => f.node().to_json().to_string(),
        _ => plain(f).unwrap_or_default(),
    }
}

/// A text, or what a number or a boolean looks like.
fn plain(f: &Field<'_>) -> Option<String> {
    match &f.node().value {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => Some(f.node().to_json().to_string()),
        _ => f.str().map(str::to_string),
    }
}
