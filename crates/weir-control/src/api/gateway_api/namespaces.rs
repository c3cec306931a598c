//! Which namespaces may attach to a Gateway: routes to its listeners, and ListenerSets.
use crate::object::meta::Meta;
use weir_config::reader::{Field, Object};

/// `from`, with its selector.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    None,
    Same,
    All,
    Selector(Vec<Requirement>),
}

/// Of a label selector.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub key: Box<str>,
    pub operator: Operator,
    pub values: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Reads `namespaces` where these `words` are accepted; `None` where that failed.
pub fn decode(namespaces: &Object<'_>, default: From, words: &[&str]) -> Option<From> {
    let selector = namespaces.get("selector").map(|s| decode_selector(&s));
    let Some(field) = namespaces.get("from") else { return Some(default) };
    let word = field.str()?;
    if !words.contains(&word) {
        field.unknown_value(word, format!("one of {}", words.join(", ")));
        return None;
    }
    Some(match word {
        "None" => From::None,
        "All" => From::All,
        "Selector" => match selector {
            Some(selector) => From::Selector(selector?),
            None => {
                namespaces.required("selector");
                return None;
            }
        },
        _ => From::Same,
    })
}

fn decode_selector(field: &Field<'_>) -> Option<Vec<Requirement>> {
    let selector = field.object()?;
    let mut all = Vec::new();
    for (key, value) in selector.entries("matchLabels") {
        all.push(Requirement { key: key.into(), operator: Operator::In, values: vec![value.str()?.into()] });
    }
    let words = [("In", Operator::In), ("NotIn", Operator::NotIn), ("Exists", Operator::Exists), ("DoesNotExist", Operator::DoesNotExist)];
    for item in selector.list("matchExpressions") {
        let expression = item.object()?;
        let key = expression.required("key")?.str()?.into();
        let operator = expression.required("operator")?.choice(&words)?;
        let values = expression.strings("values").into_iter().map(Into::into).collect();
        all.push(Requirement { key, operator, values });
    }
    Some(all)
}

impl Requirement {
    pub fn holds(&self, meta: &Meta) -> bool {
        // Kubernetes gives every namespace this label.
        let value = if &*self.key == "kubernetes.io/metadata.name" { Some(&*meta.key.name) } else { meta.label(&self.key) };
        let listed = value.is_some_and(|v| self.values.iter().any(|w| **w == *v));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
