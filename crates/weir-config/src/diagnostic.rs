//! What is wrong with a configuration: one finding, with the place it was found at. Three renderings: a source snippet
//! with a caret for people, JSON for scripts, one line for logs and conditions.
use crate::{model::Origin, redact};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

/// A text that was read, with the name to call it by.
#[derive(Debug)]
pub struct Source {
    pub name: Arc<str>,
    pub text: String,
    /// The line of `text` 1 within the named file: a document of a file of many is a source of its own.
    pub first_line: u32,
    /// Where each line starts, in characters and in bytes; made when it is first asked for.
    lines: OnceLock<Box<[(u32, u32)]>>,
    /// The parts of it that must not be shown.
    secrets: OnceLock<Box<[redact::Cut]>>,
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        (&self.name, self.first_line, &self.text) == (&other.name, other.first_line, &other.text)
    }
}

impl Eq for Source {}

impl Source {
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>, first_line: u32) -> Source {
        Source { name: name.into(), text: text.into(), first_line, lines: OnceLock::new(), secrets: OnceLock::new() }
    }

    pub(crate) fn secrets(self: &Arc<Self>) -> &[redact::Cut] {
        self.secrets.get_or_init(|| redact::secrets(self).into())
    }

    fn lines(&self) -> &[(u32, u32)] {
        self.lines.get_or_init(|| {
            let (mut chars, mut bytes) = (0, 0);
            let starts = self.text.split_inclusive('\n').map(|line| {
                let at = (chars, bytes);
                chars += line.chars().count() as u32;
                bytes += line.len() as u32;
                at
            });
            starts.collect()
        })
    }

    /// The place of a range of characters.
    pub fn place(self: &Arc<Self>, start: u32, end: u32) -> Place {
        let lines = self.lines();
        let line = lines.partition_point(|(chars, _)| *chars <= start).saturating_sub(1);
        let (chars, bytes) = lines.get(line).copied().unwrap_or_default();
        let after = |from: usize, chars: u32| {
            let rest = self.text.get(from..).unwrap_or_default();
            from + rest.char_indices().nth(chars as usize).map_or(rest.len(), |(i, _)| i)
        };
        let column = start.saturating_sub(chars);
        let start_byte = after(bytes as usize, column);
        let bytes = start_byte..after(start_byte, end.saturating_sub(start));
        Place { source: self.clone(), line: self.first_line + line as u32, column: column + 1, bytes }
    }
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
            let source = Arc::new(Source::new(file.clone(), "", line));
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
        let shown = self.shown();
        let (message, help) = self.redacted(shown.as_ref().map_or(&[], |shown| &shown.2));
        for part in [self.object.as_deref().filter(|_| self.place.is_none()).unwrap_or_default(), &self.field, &message] {
            if !part.is_empty() {
                out += ": ";
                out += part;
            }
        }
        if let Some(help) = &help {
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
        let (Some(place), Some((lines, span, secrets))) = (self.place.as_deref(), self.shown()) else {
            return self.line();
        };
        let (message, help) = self.redacted(&secrets);
        let title = if self.field.is_empty() { message } else { format!("{}: {message}", self.field) };
        let label = self.object.as_deref().unwrap_or_default();
        let snippet = Snippet::source(&*lines)
            .path(&*place.source.name)
            .line_start(place.line as usize)
            .annotation(AnnotationKind::Primary.span(span).label(label));
        let mut group: Group<'_> = level.primary_title(&title).element(snippet);
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let drawn = renderer.render(&[group]).to_string();
        if lines.contains(redact::REDACTED) {
            // The column that was drawn is that of the redacted line.
            let at = format!("{}:{}:", place.source.name, place.line);
            let (_, rest) = drawn.split_once(&at).unwrap_or_default();
            let column = rest.bytes().take_while(u8::is_ascii_digit).count();
            return drawn.replacen(&format!("{at}{}", &rest[..column]), &format!("{at}{}", place.column), 1);
        }
        drawn
    }

    /// The lines of the place, the place in them, and the secrets of the place; see [`redact::shown`].
    fn shown(&self) -> Option<(Cow<'_, str>, Range<usize>, Vec<&str>)> {
        self.place.as_deref().filter(|p| !p.source.text.is_empty()).map(redact::shown)
    }

    /// Message and help without these secrets and without what looks like one anywhere.
    fn redacted(&self, secrets: &[&str]) -> (String, Option<String>) {
        let hide = |text: &str| secrets.iter().fold(redact::text(text).into_owned(), |t, secret| t.replace(secret, redact::REDACTED));
        (hide(&self.message), self.help.as_deref().map(hide))
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
        let shown = self.shown();
        let (message, help) = self.redacted(shown.as_ref().map_or(&[], |shown| &shown.2));
        Flat {
            severity: self.severity,
            reason: self.reason,
            message: &message,
            help: help.as_deref(),
            object: self.object.as_deref(),
            field: &self.field,
            file: place.map(|p| &*p.source.name),
            line: place.map(|p| p.line),
            column: place.map(|p| p.column),
        }
        .serialize(s)
    }
}
