//! Compiled edits of header fields, whose values may hold command operators.
use crate::{
    access_log::{Format, Record},
    head_access::FieldsMut,
};
use weir_config::{diagnostic::Diagnostic, model::HeaderEdits};
use weir_net::http::text;

/// Edits in the order remove, set, add.
#[derive(Debug, Default)]
pub struct Edits {
    remove: Box<[Box<str>]>,
    /// With `true` for those that overwrite.
    put: Box<[(Box<str>, Format, bool)]>,
    needs_record: bool,
}

/// Values of one set of edits for one request; a buffer to be kept and used again.
#[derive(Debug, Default)]
pub struct Values {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Edits {
    /// Compiles; `None` where there is nothing to do. An edit that cannot be compiled is left out, with a finding.
    pub fn compile(of: &HeaderEdits, findings: &mut Vec<Diagnostic>) -> Option<Edits> {
        let name = |n: &str| -> Box<str> {
            let n = n.to_ascii_lowercase();
            if n == ":authority" { "host".into() } else { n.into() }
        };
        let mut put = Vec::new();
        let all = of.set.iter().map(|e| (e, true)).chain(of.add.iter().map(|e| (e, false)));
        for ((field, value), overwrite) in all {
            if let Some(wrong) = wrong(field, value) {
                findings.push(wrong);
                continue;
            }
            match Format::parse(value) {
                Ok(format) => {
                    let name = name(field);
                    // A request has one host, however it is asked for.
                    let overwrite = overwrite || &*name == "host";
                    put.push((name, format, overwrite));
                }
                Err(mut finding) => {
                    finding.message = format!("header `{field}`: {}", finding.message);
                    findings.push(finding);
                }
            }
        }
        let needs_record = put.iter().any(|p| p.1.literal().is_none());
        let edits = Edits { remove: of.remove.iter().map(|n| name(n)).collect(), put: put.into(), needs_record };
        (!edits.remove.is_empty() || !edits.put.is_empty()).then_some(edits)
    }

    /// Whether a value holds an operator, so that [`Edits::evaluate`] must come before [`Edits::apply`].
    pub fn needs_record(&self) -> bool {
        self.needs_record
    }

    /// Computes the values. Apart from [`Edits::apply`], because the record borrows what that changes.
    pub fn evaluate(&self, record: &Record<'_>, values: &mut Values) {
        values.text.clear();
        values.ends.clear();
        for (_, format, _) in &self.put {
            if format.literal().is_none() {
                format.write(record, b"", &mut values.text);
            }
            values.ends.push(values.text.len());
        }
    }

    /// Edits the fields. A computed value that came out empty is not written.
    pub fn apply(&self, fields: &mut dyn FieldsMut, values: &Values) {
        for name in &self.remove {
            fields.remove(name);
        }
        let mut start = 0;
        for (i, (name, format, overwrite)) in self.put.iter().enumerate() {
            let literal = format.literal();
            let end = if self.needs_record { values.ends.get(i).copied().unwrap_or(start) } else { start };
            let value = literal.unwrap_or(&values.text[start..end]);
            start = end;
            if value.is_empty() && literal.is_none() {
                continue;
            }
            if *overwrite {
                fields.set(name, value);
            } else {
                fields.add(name, value);
            }
        }
    }
}

/// A host that is to be set and cannot be one.
pub fn no_host(value: &str) -> Diagnostic {
    Diagnostic::error("InvalidValue", format!("`{}` is not a host", value.escape_debug()))
        .help("accepted are a name, an IPv4 address or an IPv6 address in brackets, optionally followed by a colon and a port")
}

fn wrong(name: &str, value: &str) -> Option<Diagnostic> {
    if name != ":authority" && !text::is_token(name.as_bytes()) {
        return Some(
            Diagnostic::error("InvalidValue", format!("`{name}` is not a header name"))
                .help("accepted are letters, digits and !#$%&'*+-.^_`|~"),
        );
    }
    let is_host = name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host");
    let literal = Format::parse(value).ok();
    if is_host && literal.as_ref().and_then(Format::literal).is_some_and(|v| !text::is_authority(v)) {
        return Some(no_host(value));
    }
    let control = !text::is_value(value.as_bytes());
    control
        .then(|| Diagnostic::error("InvalidValue", format!("the value of header `{name}` holds a line break or another control character")))
}

#[cfg(test)]
mod tests {
    use weir_config::text::is_token;
    use weir_net::http::text;

    #[test]
    fn configuration_and_requests_have_one_rule_for_names() {
        for c in '\0'..='\u{7f}' {
            let name = format!("x{c}");
            assert_eq!(is_token(&name), text::is_token(name.as_bytes()), "{c:?}");
        }
        for name in ["", "é", ":authority", "x-y"] {
            assert_eq!(is_token(name), text::is_token(name.as_bytes()), "{name}");
        }
    }
}
