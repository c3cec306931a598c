//! What a text that is no YAML most likely is: a template, a merge with conflicts, another program's configuration.
use crate::{
    diagnostic::Diagnostic,
    source::{Place, Source},
    text::placeholder,
};
use std::sync::Arc;

/// A better word about a text that cannot be parsed, where there is one.
pub fn explain(source: &Arc<Source>, found: Diagnostic) -> Diagnostic {
    let marks = ["<<<<<<< ", ">>>>>>> ", "||||||| "];
    if let Some(place) = first_line(source, |line| marks.iter().any(|m| line.starts_with(m))) {
        return Diagnostic::error("InvalidYAML", "this is a Git conflict marker").help("resolve the conflict").at(&place, "");
    }
    let line = found.place.as_ref().map(|p| p.line);
    let here = |place: &Place| Some(place.line) == line;
    let template = first_line(source, |l| l.trim_start().starts_with("{{"));
    let within = first_line(source, |l| l.contains("{{")).filter(here).or(template);
    if let Some(place) = within {
        let help = placeholder("{{").unwrap_or_default();
        return Diagnostic::error("InvalidYAML", "this is a template, not YAML").help(help).at(&place, "");
    }
    let variable = source.text.lines().zip(source.first_line..).find(|(text, n)| Some(*n) == line && text.contains("${"));
    if variable.is_some() {
        let found = Diagnostic { message: format!("{}; there is a variable on this line", found.message), ..found };
        return found.help(placeholder("${").unwrap_or_default());
    }
    let ends = |with: char| source.text.lines().any(|l| l.trim_end().ends_with(with));
    if ends(';') && ends('{') {
        return found.help("this looks like an nginx configuration; Weir reads YAML and JSON");
    }
    found
}

/// The place of the first line that is as wanted.
fn first_line(source: &Arc<Source>, wanted: impl Fn(&str) -> bool) -> Option<Place> {
    let mut start = 0;
    for (line, number) in source.text.split_inclusive('\n').zip(source.first_line..) {
        if wanted(line) {
            let text = line.trim_end();
            let blanks = text.len() - text.trim_start().len();
            let bytes = start + blanks..start + text.len();
            return Some(Place { source: source.clone(), line: number, column: blanks as u32 + 1, bytes });
        }
        start += line.len();
    }
    None
}
