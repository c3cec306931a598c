//! The text exposition format of Prometheus.
use std::fmt::{Display, Write};

/// The Content-Type of such a text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=UTF-8";

/// Families of samples, one after the other.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family: `kind` is `counter`, `gauge`, `histogram` or `summary`.
    pub fn family(&mut self, name: &str, kind: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
    }

    /// As [`Exposition::family`], with a description.
    pub fn described(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        self.family(name, kind);
    }

    /// A sample of the family that was begun last.
    pub fn sample<'a>(&mut self, name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>, value: impl Display) {
        let _ = write!(self.0, "{name}{{");
        for (i, (label, value)) in labels.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(self.0, "{comma}{label}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.0, "}} {value}");
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_family() {
        let mut out = Exposition::default();
        out.family("a_total", "counter");
        out.sample("a_total", [], 1);
        out.described("b", "gauge", "two\nlines");
        out.sample("b", [("x", "1"), ("y", "\"\\\n")], 0.5);
        assert_eq!(
            out.into_text(),
            "# TYPE a_total counter\na_total{} 1\n# HELP b two\\nlines\n# TYPE b gauge\nb{x=\"1\",y=\"\\\"\\\\\\n\"} 0.5\n"
        );
    }
}
