//! `/`: the table of endpoints as a page, with a link to each one that reads and a button for each one that changes something.
//! It loads nothing and runs no script.
use super::{ENDPOINTS, Endpoint, Group, Parameter, Reply, Takes, show};
use crate::{Shared, State};
use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{StatusCode, header::HeaderValue};
use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
    time::Duration,
};

const STYLE: &str = include_str!("index.css");

/// Only this style, and forms that lead back here.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let digest = BASE64_STANDARD.encode(weir_net::tls::digest(STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    HeaderValue::try_from(policy).ok()
});

/// For text and for attributes in double quotes.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// A text with words in backquotes.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { format!("<code>{}</code>", Escaped(part)) } else { Escaped(part).to_string() }).collect()
}

pub(super) fn page(shared: &Arc<Shared>) -> Reply {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>Weir admin</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    );
    header(shared, &mut out);
    out += "<main>\n";
    for (group, title) in
        [(Group::Server, "Server"), (Group::Configuration, "Configuration"), (Group::Statistics, "Statistics"), (Group::Actions, "Actions")]
    {
        let _ = writeln!(out, "<section>\n<h2>{title}</h2>");
        ENDPOINTS.iter().filter(|e| e.group == group).for_each(|e| entry(e, &mut out));
        out += "</section>\n";
    }
    out += "</main>\n</body>\n</html>\n";
    Reply { status: StatusCode::OK, kind: "text/html; charset=UTF-8", body: out, allow: None, security_policy: POLICY.clone() }
}

fn header(shared: &Shared, out: &mut String) {
    let state = shared.state();
    let class = if state == State::Live { "live" } else { "other" };
    let summary = shared.summary.load();
    let listeners = shared.listeners.load();
    let addresses: Vec<String> = listeners.iter().map(|l| l.address.to_string()).collect();
    let facts = [
        ("Version", env!("CARGO_PKG_VERSION").to_string()),
        ("Uptime", uptime(shared.started.elapsed())),
        ("Configuration", format!("version {}", summary.version)),
        ("Listeners", if addresses.is_empty() { "none".into() } else { addresses.join(", ") }),
        ("Routes", summary.routes.to_string()),
        ("Clusters", summary.clusters.to_string()),
        ("Plugins", summary.plugins.to_string()),
        ("Connections", shared.connections().to_string()),
    ];
    let _ = writeln!(out, "<header>\n<h1>Weir <span class=\"{class}\">{}</span></h1>\n<dl>", Escaped(show::state_word(state)));
    for (name, value) in facts {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(&value));
    }
    out.push_str("</dl>\n</header>\n");
}

/// `3d 4h`, `4h 12m`, `12m 5s` or `5s`.
fn uptime(since: Duration) -> String {
    let s = since.as_secs();
    match (s / 86400, s / 3600 % 24, s / 60 % 60) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, m) => format!("{m}m {}s", s % 60),
        (0, h, m) => format!("{h}h {m}m"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

fn entry(e: &Endpoint, out: &mut String) {
    let fields: Vec<&Parameter> = e.parameters.iter().filter(|p| !matches!(p.takes, Takes::Many)).collect();
    let (path, help) = (Escaped(e.path), prose(e.help));
    out.push_str("<article>\n");
    let _ = match e.changes {
        true => writeln!(out, "<h3><code>{path}</code></h3><p>{help}</p>"),
        false => writeln!(out, "<h3><a href=\"{path}\">{path}</a></h3><p>{help}</p>"),
    };
    if e.changes || !fields.is_empty() {
        let method = if e.changes { "post" } else { "get" };
        // Ending the process takes two clicks.
        let folded = !e.changes || e.path == "/quitquitquit";
        if folded {
            let _ = writeln!(out, "<details><summary>{}</summary>", if e.changes { "Really?" } else { "Options" });
        }
        let _ = writeln!(out, "<form action=\"{path}\" method=\"{method}\">");
        fields.into_iter().for_each(|p| field(p, out));
        let _ = writeln!(out, "<button>{}</button>\n</form>", if e.changes { "POST" } else { "GET" });
        if folded {
            out.push_str("</details>\n");
        }
    }
    out.push_str("</article>\n");
}

fn field(p: &Parameter, out: &mut String) {
    let (name, help) = (Escaped(p.name), Escaped(p.help));
    let _ = match &p.takes {
        Takes::Many => Ok(()),
        Takes::Text => {
            writeln!(out, "<label title=\"{help}\">{name} <input name=\"{name}\" autocomplete=\"off\" spellcheck=\"false\"></label>")
        }
        Takes::Flag => writeln!(out, "<label title=\"{help}\"><input type=\"checkbox\" name=\"{name}\"> {name}</label>"),
        Takes::OneOf(values) => {
            let _ = write!(out, "<label title=\"{help}\">{name} <select name=\"{name}\"><option></option>");
            for value in *values {
                let _ = write!(out, "<option>{}</option>", Escaped(value));
            }
            writeln!(out, "</select></label>")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_shown_is_escaped() {
        assert_eq!(Escaped("a<b>&\"'é").to_string(), "a&lt;b&gt;&amp;&quot;&#39;é");
        assert_eq!(prose("a `<b>` & `c`"), "a <code>&lt;b&gt;</code> &amp; <code>c</code>");
        for (seconds, text) in [(5, "5s"), (65, "1m 5s"), (3_700, "1h 1m"), (90_000, "1d 1h")] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }
}
