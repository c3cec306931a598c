//! What is wrong with a configuration: one finding, with the place it was found at. Three renderings: a source snippet
//! with a caret for people, JSON for scripts, one line for logs and conditions.
use crate::model::Origin;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::{ops::Range, sync::Arc};

/// A text that was read, with the name to call it by.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub name: Arc<str>,
    pub text: String,
    /// The line of `text` 1 within the named file: a document of a file of many is a source of its own.
    pub first_line: u32,
}

/// A place in a [`Source`]. Lines and columns are one-based; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub source: Arc<Source>,
    pub line: u32,
    pub column: u32,
    /// Bytes of `source.text`.
    pub bytes: Range<usize>,
}

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
        self.object = Some(origin.object.clone());
        if let (None, Some(file)) = (&self.place, &origin.file) {
            let line = origin.line.get();
            let source = Arc::new(Source { name: file.clone(), text: String::new(), first_line: line });
            self.place = Some(Box::new(Place { source, line, column: 1, bytes: 0..0 }));
        }
        self
    }

    /// `error: conf.d/shop.yaml:7:13: spec.rules[0]…: message; help`, for logs and status conditions.
    pub fn line(&self) -> String {
        let mut out = self.severity_word().to_string();
        if let Some(p) = &self.place {
            out += &format!(": {}:{}:{}", p.source.name, p.line, p.column);
        }
        for part in [self.object.as_deref().filter(|_| self.place.is_none()).unwrap_or_default(), &self.field, &self.message] {
            if !part.is_empty() {
                out += ": ";
                out += part;
            }
        }
        if let Some(help) = &self.help {
            out += "; ";
            out += help;
        }
        out
    }

    /// The source line with a caret under the place, as compilers print it.
    pub fn snippet(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let mut title = self.message.clone();
        if !self.field.is_empty() {
            title = format!("{}: {title}", self.field);
        }
        let Some(place) = self.place.as_deref().filter(|p| !p.source.text.is_empty()) else {
            return self.line();
        };
        let label = self.object.as_deref().unwrap_or_default();
        let end = place.bytes.end.min(place.source.text.len()).max(place.bytes.start);
        let snippet = Snippet::source(&place.source.text)
            .path(&*place.source.name)
            .line_start(place.source.first_line as usize)
            .annotation(AnnotationKind::Primary.span(place.bytes.start..end).label(label));
        let mut group: Group<'_> = level.primary_title(&title).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group]).to_string()
    }

    fn severity_word(&self) -> &'static str {
        match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            severity: Severity,
            reason: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            help: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            object: Option<&'a str>,
            #[serde(skip_serializing_if = "str::is_empty")]
            field: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            file: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            line: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            column: Option<u32>,
        }
        let place = self.place.as_deref();
        Flat {
            severity: self.severity,
            reason: self.reason,
            message: &self.message,
            help: self.help.as_deref(),
            object: self.object.as_deref(),
            field: &self.field,
            file: place.map(|p| &*p.source.name),
            line: place.map(|p| p.line),
            column: place.map(|p| p.column),
        }
        .serialize(s)
    }
}
