//! What is wrong with a configuration: one finding, with the place it was found at. Three renderings: a source snippet
//! with a caret for people, JSON for scripts, one line for logs and conditions.
mod render;

use crate::{
    model::Origin,
    source::{Place, Source},
};
use serde::Serialize;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Read, understood, and worth a word.
    Info,
    /// The object serves, but not all of what it says: an unsupported field, a reference to nothing.
    Warning,
    /// The object (or the named part of it) is refused; its last good version keeps serving.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A stable word for scripts, in Kubernetes' style: `UnsupportedField`, `InvalidValue`, `RefNotPermitted`, …
    pub reason: &'static str,
    pub message: String,
    /// What would be accepted, or what would mend it.
    pub help: Option<String>,
    /// `Kind/namespace/name` of the object, where it is known.
    pub object: Option<Arc<str>>,
    /// The field's path, as `spec.rules[0].matches[1].path.type`.
    pub field: String,
    pub place: Option<Box<Place>>,
}

impl Diagnostic {
    pub fn new(severity: Severity, reason: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { severity, reason, message: message.into(), help: None, object: None, field: String::new(), place: None }
    }
    pub fn error(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, reason, message)
    }
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, reason, message)
    }
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    #[must_use]
    pub fn at(mut self, place: &Place, field: impl Into<String>) -> Self {
        self.place = Some(Box::new(place.clone()));
        self.field = field.into();
        self
    }
    #[must_use]
    pub fn object(mut self, object: &Arc<str>) -> Self {
        self.object = Some(object.clone());
        self
    }
    /// For findings made long after reading, which know only where their resource came from.
    #[must_use]
    pub fn from_origin(mut self, origin: &Origin) -> Self {
        self.object = Some(origin.object.to_string().into());
        if let (None, Some(file)) = (&self.place, origin.file()) {
            let line = origin.line.get();
            let source = Arc::new(Source::new(file.clone(), "", line));
            self.place = Some(Box::new(Place { source, line, column: 1, bytes: 0..0 }));
        }
        self
    }
}
