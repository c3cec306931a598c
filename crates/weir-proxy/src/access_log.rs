//! Access logs: Envoy's command operators compiled once, records written straight into a block of the worker, blocks
//! handed to one writer thread per sink. A worker never waits: without a free block the record is dropped and counted.
mod format;
mod render;
mod sink;
mod time;
mod writer;

pub use format::{ARGUMENT_DOCS, Format, PLAIN_DOCS};
pub use render::Record;
pub use sink::{Counts, Sink, Sinks, WorkerLogs};
pub use weir_net::http::head::decimal;

use std::{io, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{AccessLog, LogFormat},
};

/// A compiled access log.
pub struct AccessLogger {
    form: Form,
    sink: Arc<Sink>,
}

enum Form {
    Text(Format),
    /// What stands before each value, and the value.
    Json(Vec<(Box<[u8]>, Format)>),
}

impl Form {
    fn compile(format: &LogFormat) -> Result<Form, Vec<Diagnostic>> {
        match format {
            LogFormat::Text(text) => {
                let line = if text.ends_with('\n') { text.clone() } else { format!("{text}\n") };
                Ok(Form::Text(Format::parse(&line).map_err(|d| vec![d])?))
            }
            LogFormat::Json(pairs) => json(pairs),
        }
    }
}

impl AccessLogger {
    /// Compiles the format and opens the sink. All findings come back; with one of them the log is left out.
    pub fn compile(config: &AccessLog, sinks: &Sinks) -> Result<AccessLogger, Vec<Diagnostic>> {
        let form = Form::compile(&config.format)?;
        let open = sinks.open(&config.sink);
        let refused = |e: io::Error| vec![Diagnostic::error("InvalidAccessLog", format!("cannot open access log {}: {e}", config.sink))];
        let sink = open.map_err(refused)?;
        Ok(AccessLogger { form, sink })
    }

    /// Checks the format alone.
    ///
    /// # Errors
    /// With all findings.
    pub fn check(format: &LogFormat) -> Result<(), Vec<Diagnostic>> {
        Form::compile(format).map(|_| ())
    }

    /// Whether its records hold something of the response's trailers.
    pub fn reads_trailers(&self) -> bool {
        match &self.form {
            Form::Text(format) => format.reads_trailers(),
            Form::Json(pairs) => pairs.iter().any(|(_, format)| format.reads_trailers()),
        }
    }

    /// Appends a whole record with its line feed.
    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &self.form {
            Form::Text(format) => format.write(record, b"-", out),
            Form::Json(pairs) => {
                for (before, format) in pairs {
                    out.extend_from_slice(before);
                    format.write_json(record, out);
                }
                out.extend_from_slice(if pairs.is_empty() { b"{}\n" } else { b"}\n" });
            }
        }
    }
}

fn json(pairs: &[(String, String)]) -> Result<Form, Vec<Diagnostic>> {
    let (mut out, mut findings) = (Vec::new(), Vec::new());
    for (i, (key, value)) in pairs.iter().enumerate() {
        let key = serde_json::Value::from(key.as_str());
        let before = format!("{}{key}:", if i == 0 { '{' } else { ',' });
        match Format::parse(value) {
            Ok(format) => out.push((before.into_bytes().into(), format)),
            Err(finding) => findings.push(finding),
        }
    }
    if findings.is_empty() { Ok(Form::Json(out)) } else { Err(findings) }
}

#[cfg(test)]
mod tests;
