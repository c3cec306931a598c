//! Findings as people and scripts are shown them, without secrets.
use super::{Diagnostic, Severity};
use crate::redact;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::{borrow::Cow, ops::Range};

impl Diagnostic {
    /// `error: conf.d/shop.yaml:7:13: spec.rules[0]…: message; help`, for logs.
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

    /// Message and help, for status conditions: their readers see the object, not the file.
    pub fn text(&self) -> String {
        let shown = self.shown();
        let (message, help) = self.redacted(shown.as_ref().map_or(&[], |shown| &shown.2));
        help.map_or(message.clone(), |help| format!("{message}; {help}"))
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
        // The column that was drawn is that of the line as it is shown.
        let at = format!("{}:{}:", place.source.name, place.line);
        let (_, rest) = drawn.split_once(&at).unwrap_or_default();
        let column = rest.bytes().take_while(u8::is_ascii_digit).count();
        drawn.replacen(&format!("{at}{}", &rest[..column]), &format!("{at}{}", place.column), 1)
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
