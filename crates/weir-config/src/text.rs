//! Texts: words for people, and what a text may be.

/// `1 error`, `2 errors`.
pub fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// What to do about a text that some other program was to replace.
pub fn placeholder(text: &str) -> Option<&'static str> {
    if text.contains("${") {
        Some("Weir does not replace variables: run envsubst first")
    } else if text.contains("{{") {
        Some("Weir does not render templates: run helm template (or the like) first")
    } else {
        None
    }
}

/// Whether a text is a token (RFC 9110 section 5.6.2), as the names of headers, methods and cookies are.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
