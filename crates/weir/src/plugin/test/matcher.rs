//! What a value must be.
use std::fmt::{self, Display};

#[derive(Clone, Debug)]
pub enum Matcher {
    Text(String),
    Regex(regex::Regex),
    /// The value parsed as JSON.
    Json(serde_json::Value),
    Absent,
}

impl Matcher {
    pub fn holds(&self, actual: Option<&str>) -> bool {
        match (self, actual) {
            (Matcher::Absent, actual) => actual.is_none(),
            (_, None) => false,
            (Matcher::Text(text), Some(actual)) => text == actual,
            (Matcher::Regex(regex), Some(actual)) => regex.is_match(actual),
            (Matcher::Json(json), Some(actual)) => serde_json::from_str::<serde_json::Value>(actual).is_ok_and(|a| a == *json),
        }
    }
    /// As `holds`, for a line that only has to contain a text.
    pub fn is_in(&self, line: &str) -> bool {
        match self {
            Matcher::Text(text) => line.contains(text.as_str()),
            other => other.holds(Some(line)),
        }
    }
}

impl Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Matcher::Text(text) => write!(f, "{text:?}"),
            Matcher::Regex(regex) => write!(f, "~{regex}"),
            Matcher::Json(json) => write!(f, "{json}"),
            Matcher::Absent => f.write_str("nothing"),
        }
    }
}
