//! Label selectors as clients of the API write them: `app=web,tier in (a,b),!legacy`.
use std::collections::BTreeMap;

/// Requirements that all have to hold. None: everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    /// Also where there is no such label.
    NotIn(Vec<String>),
}

impl LabelSelector {
    /// `None` for what is not understood: `>` and `<`, and what the API server refuses.
    pub fn read(text: &str) -> Option<LabelSelector> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = term(rest)?;
            requirements.push(Requirement::read(rest[..end].trim())?);
            rest = match rest[end..].strip_prefix(',') {
                // A comma stands between two terms.
                Some(more) if more.trim().is_empty() => return None,
                Some(more) => more.trim(),
                None => "",
            };
        }
        Some(LabelSelector(requirements))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// How long the first term is: up to a comma outside of parentheses.
fn term(text: &str) -> Option<usize> {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '(' if inside => return None,
            '(' => inside = true,
            ')' if !inside => return None,
            ')' => inside = false,
            ',' if !inside => return Some(at),
            _ => {}
        }
    }
    (!inside).then_some(text.len())
}

impl Requirement {
    fn read(text: &str) -> Option<Requirement> {
        let made = |key: &str, operator| is_key(key.trim()).then(|| Requirement { key: key.trim().into(), operator });
        if let Some(key) = text.strip_prefix('!') {
            return made(key, Operator::DoesNotExist);
        }
        if let Some((head, values)) = text.split_once('(') {
            let values = values.strip_suffix(')')?.split(',').map(|value| value.trim().to_string()).collect();
            let (key, operator) = head.trim_end().rsplit_once(char::is_whitespace)?;
            return match operator {
                "in" => made(key, Operator::In(values)),
                "notin" => made(key, Operator::NotIn(values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return made(key, Operator::NotIn(vec![is_value(value.trim())?]));
        }
        match text.split_once('=') {
            Some((key, value)) => made(key, Operator::In(vec![is_value(value.trim_start_matches('=').trim())?])),
            None => made(text, Operator::Exists),
        }
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
}

fn is_value(text: &str) -> Option<String> {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_by_labels() {
        let labels = |text: &str| -> BTreeMap<String, String> {
            text.split(',').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
        };
        for (selector, selected, others) in [
            ("", &["", "a=b"][..], &[][..]),
            ("a=b", &["a=b", "a=b,c=d"], &["", "a=c"]),
            ("a == b", &["a=b"], &["a=bb"]),
            ("a=", &["a="], &["", "a=b"]),
            ("a!=b", &["", "a=c"], &["a=b"]),
            ("a", &["a=", "a=b"], &["b=a"]),
            ("!a", &["", "b=a"], &["a=b"]),
            ("a in (b, c)", &["a=b", "a=c"], &["", "a=d"]),
            ("a notin (b,c)", &["", "a=d"], &["a=b", "a=c"]),
            ("a in (b,c),!d , e=f", &["a=c,e=f"], &["a=c", "a=c,e=f,d=", "e=f"]),
            (
                "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
                &["app=x"],
                &["service.kubernetes.io/headless=", "service.kubernetes.io/service-proxy-name=x"],
            ),
        ] {
            let read = LabelSelector::read(selector).unwrap_or_else(|| panic!("{selector}"));
            assert_eq!(read.is_empty(), selector.is_empty());
            selected.iter().for_each(|text| assert!(read.selects(&labels(text)), "{selector} of {text}"));
            others.iter().for_each(|text| assert!(!read.selects(&labels(text)), "{selector} of {text}"));
        }
        for wrong in ["a>1", "a<1", "a in b", "a in (b", "a b", ",a", "a,", "a,,b", "!", "a in ((b))", "a)b", "a=b=c", "a~b"] {
            assert_eq!(LabelSelector::read(wrong), None, "{wrong}");
        }
    }
}
