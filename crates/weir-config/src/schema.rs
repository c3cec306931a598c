//! The schema of a decoder, found out by running it: on documents that are filled with whatever it asks for, until it asks for
//! nothing new, and again for every word of a choice and for fields that exclude each other.
use crate::{
    diagnostic::{Diagnostic, Severity},
    node::{Chars, Key, Node, Value},
    reader::{
        Object, Reader,
        record::{Asked, Description, Descriptions, Record, Step, Steps, Type},
    },
    source::Source,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Runs for one decoder, and rounds for one run: bounds on decoders that ask for more and more.
const MAX_RUNS: usize = 3000;
const MAX_ROUNDS: usize = 60;

/// A field as the decoder knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub asked: Asked,
    /// The decoder asks for the field. One that is only described is a mistake of the description.
    pub is_read: bool,
    pub description: Option<Description>,
    /// What its texts must be, in the words of the decoder's own messages.
    pub accepted: BTreeSet<String>,
    /// What is said of some of its words: whether they are refused, and the message.
    pub notes: BTreeMap<String, (Severity, String)>,
}

pub type Schema = BTreeMap<Steps, Known>;

/// What holds for one run.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Premise {
    /// Values of fields that decide about others.
    words: BTreeMap<Steps, String>,
    /// Fields that are left out, as they exclude others.
    absent: BTreeSet<Steps>,
}

struct Run {
    record: Record,
    described: Descriptions,
    found: Vec<Diagnostic>,
}

struct Explorer<'a> {
    decode: &'a dyn Fn(&Object<'_>),
    schema: Schema,
    /// Runs to come, each with a document to begin with.
    queue: VecDeque<(Premise, Node)>,
    /// Fields whose words, and objects whose exclusions, are looked into.
    varied: BTreeSet<(Steps, bool)>,
    runs: usize,
}

/// Explores what `decode` reads of a document that has at least what `start` has.
pub fn explore(start: Node, decode: &dyn Fn(&Object<'_>)) -> Schema {
    let queue = VecDeque::from([(Premise::default(), start)]);
    let mut explorer = Explorer { decode, schema: Schema::new(), queue, varied: BTreeSet::new(), runs: 0 };
    while let Some((premise, document)) = explorer.queue.pop_front() {
        if explorer.runs < MAX_RUNS {
            explorer.settle(&premise, document);
        }
    }
    explorer.schema
}

impl Explorer<'_> {
    fn run(&mut self, document: &Node) -> Run {
        self.runs += 1;
        let reader = Reader::recording(Arc::new(Source::new("", "", 1)));
        if let Some(root) = reader.root(document).object() {
            (self.decode)(&root);
        }
        Run { record: reader.recorded(), described: reader.described(), found: reader.take() }
    }

    /// Fills a document until the decoder asks for nothing new.
    fn settle(&mut self, premise: &Premise, mut document: Node) {
        premise.absent.iter().for_each(|steps| remove(&mut document, steps));
        let mut tries: BTreeMap<Steps, usize> = BTreeMap::new();
        for _ in 0..MAX_ROUNDS {
            let run = self.run(&document);
            self.learn(&run, &document, premise);
            let wrong: BTreeSet<&str> = run.found.iter().filter(|d| d.severity == Severity::Error).map(|d| &*d.field).collect();
            let read = |asked: &Asked| asked.no_effect.is_none() || asked.required || !asked.types.is_empty();
            let mut changed = false;
            for (steps, asked) in run.record.iter().filter(|(s, a)| !s.is_empty() && read(a) && !premise.absent.contains(*s)) {
                changed |= fill(&mut document, steps, asked, premise, &wrong, &mut tries);
            }
            if !changed {
                return self.exclusions(&run, &document, premise);
            }
        }
    }

    fn learn(&mut self, run: &Run, document: &Node, premise: &Premise) {
        for (steps, asked) in &run.record {
            let known = self.schema.entry(steps.clone()).or_default();
            known.is_read = true;
            known.asked.add(asked.clone());
            if asked.words.len() > 1 {
                self.vary(steps, &asked.words, premise, document);
            }
        }
        for (steps, description) in &run.described {
            self.schema.entry(steps.clone()).or_default().description = Some(*description);
        }
        let paths: BTreeMap<String, &Steps> = match run.found.is_empty() {
            true => BTreeMap::new(),
            false => run.record.keys().map(|steps| (shown(steps), steps)).collect(),
        };
        for found in &run.found {
            let Some(steps) = paths.get(&found.field).copied() else { continue };
            let Some(known) = self.schema.get_mut(steps) else { continue };
            let Some(text) = at(document, steps).and_then(Node::as_str) else { continue };
            let listed = found.help.as_deref().and_then(words_of).filter(|_| found.message.starts_with("unknown value"));
            if let (Some(words), true) = (listed, known.asked.words.is_empty()) {
                known.asked.words.clone_from(&words);
                self.vary(steps, &words, premise, document);
            } else if known.asked.words.iter().any(|w| w == text) {
                if found.reason.starts_with("Unsupported") {
                    known.notes.insert(text.into(), (found.severity, found.message.clone()));
                }
            } else if found.reason == "InvalidValue" && known.asked.types.contains(&Type::Text) {
                known.accepted.extend(found.help.clone());
            }
        }
    }

    fn vary(&mut self, steps: &Steps, words: &[String], premise: &Premise, document: &Node) {
        if self.varied.insert((steps.clone(), true)) {
            let with = |word: &String| {
                let mut premise = premise.clone();
                premise.words.insert(steps.clone(), word.clone());
                (premise, document.clone())
            };
            self.queue.extend(words.iter().map(with));
        }
    }

    /// Where an object has fields that exclude each other: for each of them as many others as go with it.
    fn exclusions(&mut self, run: &Run, document: &Node, premise: &Premise) {
        // What is only looked for, and not read, stands in the way of something.
        let looked_for =
            run.record.iter().filter(|(steps, a)| a.types.is_empty() && a.no_effect.is_none() && at(document, steps).is_some());
        for (steps, _) in looked_for {
            if self.varied.insert((steps.clone(), false)) {
                let mut premise = premise.clone();
                premise.absent.insert(steps.clone());
                self.queue.push_back((premise, document.clone()));
            }
        }
        let objects: Vec<&Steps> = run.record.iter().filter(|(_, a)| a.types.contains(&Type::Object)).map(|(s, _)| s).collect();
        for object in objects.into_iter().filter(|o| conflicts(&run.found, o) > 0) {
            if !self.varied.insert((object.clone(), false)) {
                continue;
            }
            let Some(Node { value: Value::Map(entries), .. }) = at(document, object) else { continue };
            let children: Vec<Steps> = entries.iter().map(|(key, _)| [&object[..], &[Step::Field(key.text.clone())]].concat()).collect();
            for first in &children {
                let mut absent: BTreeSet<Steps> = children.iter().filter(|c| *c != first).cloned().collect();
                for child in children.iter().filter(|c| *c != first) {
                    absent.remove(child);
                    let mut part = document.clone();
                    absent.iter().for_each(|steps| remove(&mut part, steps));
                    if conflicts(&self.run(&part).found, object) > 0 {
                        absent.insert(child.clone());
                    }
                }
                let mut premise = premise.clone();
                premise.absent.extend(absent);
                if !self.queue.iter().any(|(other, _)| *other == premise) {
                    self.queue.push_back((premise, document.clone()));
                }
            }
        }
    }
}

/// Errors at an object itself, but for what is missing.
fn conflicts(found: &[Diagnostic], object: &Steps) -> usize {
    let field = shown(object);
    found
        .iter()
        .filter(|d| d.severity == Severity::Error && d.field == field && !matches!(d.reason, "MissingField" | "InvalidType"))
        .count()
}

/// Puts a value where one is asked for, or another one where the one that is there is wrong. Says whether it did.
fn fill(
    document: &mut Node,
    steps: &Steps,
    asked: &Asked,
    premise: &Premise,
    wrong: &BTreeSet<&str>,
    tries: &mut BTreeMap<Steps, usize>,
) -> bool {
    let word = premise.words.get(steps).or(asked.words.first());
    let tried = tries.entry(steps.clone()).or_default();
    match at(document, steps) {
        None => put(document, steps, value(asked, word, *tried)),
        Some(node) if !fits(node, asked) => put(document, steps, value(asked, word, *tried)),
        Some(node) if word.is_some_and(|word| node.as_str() != Some(word)) => put(document, steps, value(asked, word, *tried)),
        Some(_) if word.is_none() && *tried + 1 < tries_of(asked) && wrong.contains(&*shown(steps)) => {
            *tried += 1;
            put(document, steps, value(asked, None, *tried))
        }
        Some(_) => false,
    }
}

/// Texts of the usual forms, the plainest first. The first one is no good one, so that a decoder that checks texts says what it accepts.
const TEXTS: [&str; 10] =
    ["\u{1}", "x", "x.test", "/x", "10.0.0.1", "HTTP", "1", "https://x.test/x", "file://x", "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="];
const NUMBERS: [i64; 4] = [1, 3, 200, 301];

fn tries_of(asked: &Asked) -> usize {
    if asked.types.contains(&Type::Text) {
        TEXTS.len()
    } else if asked.types.contains(&Type::Integer) {
        NUMBERS.len()
    } else {
        1
    }
}

fn value(asked: &Asked, word: Option<&String>, tried: usize) -> Value {
    let (low, high) = asked.bounds.unwrap_or((1, i64::MAX));
    let Some(kind) = asked.types.iter().next_back() else { return Value::Map(Vec::new()) };
    match kind {
        Type::Text if word.is_some() => Value::String(word.map(String::as_str).unwrap_or_default().into()),
        Type::Text => Value::String(TEXTS[tried.min(TEXTS.len() - 1)].into()),
        Type::Boolean => Value::Bool(true),
        Type::Integer => Value::Int(NUMBERS[tried.min(NUMBERS.len() - 1)].clamp(low, high)),
        Type::Number => Value::Float(50.0),
        Type::Duration => Value::String("1s".into()),
        Type::List => Value::List(vec![node(Value::Map(Vec::new()))]),
        Type::Object => Value::Map(Vec::new()),
        Type::Map => Value::Map(vec![(key("KEY"), node(Value::String("x".into())))]),
    }
}

fn fits(node: &Node, asked: &Asked) -> bool {
    let fits = |kind: &Type| match (&node.value, kind) {
        (Value::String(_), Type::Text | Type::Duration) | (Value::Bool(_), Type::Boolean) => true,
        (Value::Int(_), Type::Integer) | (Value::Float(_), Type::Number) | (Value::List(_), Type::List) => true,
        (Value::Map(_), Type::Object) => true,
        (Value::Map(entries), Type::Map) => !entries.is_empty(),
        _ => false,
    };
    asked.types.is_empty() || asked.types.iter().any(fits)
}

fn node(value: Value) -> Node {
    Node { value, span: Chars::default() }
}

fn key(text: &str) -> Key {
    Key { text: text.into(), span: Chars::default() }
}

/// As the paths of findings are written.
fn shown(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Field(name) if out.is_empty() => out += name,
            Step::Field(name) if name.contains(['.', '/', ' ']) => out += &format!("[\"{name}\"]"),
            Step::Field(name) => out += &format!(".{name}"),
            Step::Index(i) => out += &format!("[{i}]"),
        }
    }
    out
}

/// The words of `one of A, B or C`.
fn words_of(help: &str) -> Option<Vec<String>> {
    let list = help.strip_prefix("one of ").unwrap_or(help).replace(" or ", ", ");
    let words: Vec<String> = list.split(", ").map(str::to_string).collect();
    (words.len() > 1 && words.iter().all(|w| !w.is_empty() && !w.contains(' '))).then_some(words)
}

fn at<'a>(document: &'a Node, steps: &[Step]) -> Option<&'a Node> {
    steps.iter().try_fold(document, |node, step| match (step, &node.value) {
        (Step::Field(name), _) => node.get(name),
        (Step::Index(i), Value::List(items)) => items.get(*i),
        _ => None,
    })
}

fn parent<'a>(document: &'a mut Node, steps: &[Step]) -> Option<&'a mut Value> {
    let mut value = &mut document.value;
    for step in &steps[..steps.len().checked_sub(1)?] {
        value = match (step, value) {
            (Step::Field(name), Value::Map(entries)) => &mut entries.iter_mut().find(|(k, _)| k.text == *name)?.1.value,
            (Step::Index(i), Value::List(items)) => &mut items.get_mut(*i)?.value,
            _ => return None,
        };
    }
    Some(value)
}

fn put(document: &mut Node, steps: &[Step], new: Value) -> bool {
    match (steps.last(), parent(document, steps)) {
        (Some(Step::Field(name)), Some(Value::Map(entries))) => {
            match entries.iter_mut().find(|(k, _)| k.text == *name) {
                Some((_, old)) => old.value = new,
                None => entries.push((key(name), node(new))),
            }
            true
        }
        (Some(Step::Index(i)), Some(Value::List(items))) if *i < items.len() => {
            items[*i].value = new;
            true
        }
        _ => false,
    }
}

fn remove(document: &mut Node, steps: &[Step]) {
    if let (Some(Step::Field(name)), Some(Value::Map(entries))) = (steps.last(), parent(document, steps)) {
        entries.retain(|(k, _)| k.text != *name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_decoder_asks_is_found() {
        let decode = |root: &Object<'_>| {
            let spec = root.required("spec")?.object()?;
            spec.unsupported(&["later"]);
            spec.ignore(&["of-others"]);
            spec.describe(&[("host", "localhost", "Where it is.")]);
            let host = spec.required("host")?;
            if !host.str()?.contains('.') {
                host.invalid("is not a host", "a name with a dot");
                return None;
            }
            for item in spec.list("rules") {
                let rule = item.object()?;
                match rule.required("type")?.choice(&[("A", 'a'), ("B", 'b')])? {
                    'a' => _ = rule.object("a")?.int("depth", 2..=5),
                    _ => _ = rule.duration("b"),
                }
            }
            let one = spec.object("one")?;
            let given: Vec<_> = [one.get("left"), one.get("right")].into_iter().flatten().collect();
            match &given[..] {
                [only] => _ = only.bool(),
                _ => one.field().invalid("says both", "one of them"),
            }
            spec.entries("labels").iter().for_each(|(_, value)| _ = value.str());
            Some(())
        };
        let schema = explore(node(Value::Map(Vec::new())), &|root| _ = decode(root));
        let lines: Vec<String> = schema
            .iter()
            .filter(|(steps, _)| steps.len() > 1)
            .map(|(steps, known)| {
                let a = &known.asked;
                let types: Vec<String> = a.types.iter().map(|t| format!("{t:?}")).collect();
                let more = known.accepted.iter().chain(&a.words).cloned().collect::<Vec<_>>().join(" ");
                let bounds = a.bounds.map(|b| format!(" {b:?}")).unwrap_or_default();
                let effect = a.no_effect.map(|e| format!(" {e:?}")).unwrap_or_default();
                let description = known.description.map(|d| format!(" [{}: {}]", d.default, d.text)).unwrap_or_default();
                format!("{} {}{bounds}{effect} {more}{description}", shown(steps), types.join("+")).trim_end().to_string()
            })
            .collect();
        let want = [
            "spec.host Text a name with a dot [localhost: Where it is.]",
            "spec.labels Map",
            "spec.labels.KEY Text",
            "spec.later  Unsupported",
            "spec.of-others  Ignored",
            "spec.one Object",
            "spec.one.left Boolean",
            "spec.one.right Boolean",
            "spec.rules List",
            "spec.rules[0] Object",
            "spec.rules[0].a Object",
            "spec.rules[0].a.depth Integer (2, 5)",
            "spec.rules[0].b Duration",
            "spec.rules[0].type Text A B",
        ];
        assert_eq!(lines, want);
    }
}
