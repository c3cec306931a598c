//! What was expected against what came: a list of differences, each with its place.
use super::{
    cases::{Expect, RequestExpect, Seen},
    http::Got,
    matcher::Matcher,
};
use serde::Serialize;
use std::fmt::Display;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `headers.x-user`, `upstream.path`
    pub field: String,
    pub expected: String,
    pub actual: String,
}

/// What came of one request.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What the route's upstream got: retries and mirrors would be several.
    pub upstream: Vec<Got>,
    /// Calls to services, by the name that was called.
    pub calls: Vec<(String, Got)>,
    pub log: Vec<String>,
}

/// Everything in which an outcome is not as expected. Redis is compared by its owner, see [`value`].
pub fn compare(expect: &Expect, outcome: &Outcome) -> Vec<Difference> {
    let mut out = Vec::new();
    if let Some(status) = expect.status
        && status != i64::from(outcome.status)
    {
        out.push(Difference { field: "status".into(), expected: status.to_string(), actual: outcome.status.to_string() });
    }
    headers("headers", &expect.headers, &outcome.headers, &mut out);
    if let Some(body) = &expect.body {
        value("body", body, Some(&outcome.body), &mut out);
    }
    match (&expect.upstream, outcome.upstream.last()) {
        (Seen::Anything, _) | (Seen::Nothing, None) => {}
        (Seen::Nothing, Some(got)) => out.push(difference("upstream", "no request", got)),
        (Seen::Request(_), None) => out.push(difference("upstream", "a request", "none")),
        (Seen::Request(expected), Some(got)) => request("upstream", expected, got, &mut out),
    }
    if let Some(calls) = &expect.calls {
        compare_calls(calls, &outcome.calls, &mut out);
    }
    for line in &expect.log {
        if !outcome.log.iter().any(|l| line.is_in(l)) {
            out.push(difference("log", line, "no such line"));
        }
    }
    out
}

fn compare_calls(expected: &[(String, RequestExpect)], actual: &[(String, Got)], out: &mut Vec<Difference>) {
    if expected.len() != actual.len() {
        let list: Vec<String> = actual.iter().map(|(to, got)| format!("{to}: {got}")).collect();
        let list = if list.is_empty() { "none".into() } else { list.join("; ") };
        out.push(difference("calls", format!("{} calls", expected.len()), list));
        return;
    }
    for (i, ((to, expect), (called, got))) in expected.iter().zip(actual).enumerate() {
        let place = format!("calls[{i}]");
        if !to.is_empty() && to != called {
            out.push(difference(&format!("{place}.to"), to, called));
        }
        request(&place, expect, got, out);
    }
}

fn request(place: &str, expected: &RequestExpect, got: &Got, out: &mut Vec<Difference>) {
    let parts = [
        ("method", &expected.method, &got.method),
        ("path", &expected.path, &got.path),
        ("host", &expected.host, &got.host),
        ("body", &expected.body, &got.body),
    ];
    for (name, matcher, actual) in parts {
        if let Some(matcher) = matcher {
            value(&format!("{place}.{name}"), matcher, Some(actual), out);
        }
    }
    headers(&format!("{place}.headers"), &expected.headers, &got.headers, out);
}

fn headers(place: &str, expected: &[(String, Matcher)], actual: &[(String, String)], out: &mut Vec<Difference>) {
    for (name, matcher) in expected {
        let values: Vec<&str> = actual.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        let joined = (!values.is_empty()).then(|| values.join(", "));
        value(&format!("{place}.{name}"), matcher, joined.as_deref(), out);
    }
}

/// Adds a difference unless the value is as expected.
pub fn value(place: &str, matcher: &Matcher, actual: Option<&str>, out: &mut Vec<Difference>) {
    if !matcher.holds(actual) {
        out.push(difference(place, matcher, actual.map_or_else(|| "nothing".to_string(), |a| format!("{a:?}"))));
    }
}

fn difference(field: &str, expected: impl Display, actual: impl Display) -> Difference {
    Difference { field: field.into(), expected: expected.to_string(), actual: actual.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            status: 200,
            headers: vec![("x-a".into(), "1".into()), ("x-a".into(), "2".into())],
            body: r#"{"b": [1, 2]}"#.into(),
            upstream: vec![Got { method: "GET".into(), path: "/p".into(), ..Got::default() }],
            calls: vec![("auth:80".into(), Got { path: "/verify".into(), ..Got::default() })],
            log: vec!["[info] wasm log: it is closed".into()],
        }
    }

    fn fields(expect: &Expect) -> Vec<String> {
        compare(expect, &outcome()).into_iter().map(|d| d.field).collect()
    }

    #[test]
    fn says_nothing_of_what_is_as_expected() {
        let text = |s: &str| Matcher::Text(s.into());
        let expect = Expect {
            status: Some(200),
            headers: vec![("x-a".into(), text("1, 2")), ("x-b".into(), Matcher::Absent)],
            body: Some(Matcher::Json(serde_json::json!({"b": [1, 2]}))),
            upstream: Seen::Request(Box::new(RequestExpect { path: Some(text("/p")), ..RequestExpect::default() })),
            calls: Some(vec![("auth:80".into(), RequestExpect { path: Some(text("/verify")), ..RequestExpect::default() })]),
            redis: Vec::new(),
            log: vec![text("is closed")],
        };
        assert_eq!(fields(&expect), Vec::<String>::new());
    }

    #[test]
    fn names_every_difference() {
        let text = |s: &str| Matcher::Text(s.into());
        let expect = Expect {
            status: Some(403),
            headers: vec![("x-a".into(), Matcher::Absent), ("x-b".into(), text("1"))],
            body: Some(text("no")),
            upstream: Seen::Nothing,
            calls: Some(Vec::new()),
            redis: Vec::new(),
            log: vec![text("is open")],
        };
        assert_eq!(fields(&expect), ["status", "headers.x-a", "headers.x-b", "body", "upstream", "calls", "log"]);
        let all = compare(&expect, &outcome());
        assert_eq!((all[1].expected.as_str(), all[1].actual.as_str()), ("nothing", "\"1, 2\""));
    }
}
