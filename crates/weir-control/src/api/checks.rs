//! Checks of texts that several APIs share: names of hosts and headers, paths, regular expressions.
use weir_config::{model::Name, reader::Field, text::is_token};

/// A host name, exact or `*.suffix`, in lower case.
pub fn hostname(field: &Field<'_>) -> Option<Name> {
    let text = field.str()?.to_ascii_lowercase();
    let rest = text.strip_prefix("*.").unwrap_or(&text);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if rest.len() > 253 || !rest.split('.').all(label) || rest.parse::<std::net::IpAddr>().is_ok() {
        field.invalid(format!("\"{text}\" is not a host name"), "a DNS name as shop.test, or *.shop.test, without a port");
        return None;
    }
    Some(text.into())
}

/// A path as it is after normalisation: anything else would never match.
pub fn check_path(field: &Field<'_>, path: &str) -> Option<()> {
    let lower = path.to_ascii_lowercase();
    let bad = ["//", "/./", "/../", "%2f", "#", "?", " "].into_iter().find(|w| lower.contains(w));
    let end = ["/..", "/."].into_iter().find(|w| path.ends_with(w));
    if !path.starts_with('/') {
        field.invalid(format!("the path \"{path}\" does not begin with /"), "an absolute path");
        return None;
    }
    if let Some(bad) = bad.or(end) {
        field.invalid(format!("a path never has \"{bad}\" when it is matched"), "a path without empty or dot segments, query and fragment");
        return None;
    }
    Some(())
}

pub fn check_regex(field: &Field<'_>, pattern: &str) -> Option<()> {
    let Err(e) = regex::Regex::new(pattern) else { return Some(()) };
    let why = e.to_string();
    let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
    field.invalid(format!("is not a regular expression: {last}"), "the syntax of RE2, which must match the whole text");
    None
}

/// A header's name in lower case.
pub fn header_name(name: &str, at: &Field<'_>) -> Option<String> {
    if name == ":authority" {
        return Some(name.to_string());
    }
    if !is_token(name) {
        at.invalid(format!("\"{name}\" is not the name of a header"), "letters, digits and -");
        return None;
    }
    Some(name.to_ascii_lowercase())
}
