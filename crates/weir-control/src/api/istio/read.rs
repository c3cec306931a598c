//! What Istio's kinds share: matchers, header edits, visibility, names of hosts.
use crate::api::checks::header_name;
use weir_config::{
    model::{Fraction, HeaderEdits, Name, StringMatch},
    node::Chars,
    reader::{Field, Object},
};

/// Where a field stood, for findings that only translation can make.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct At {
    pub span: Chars,
    pub field: Box<str>,
}

impl At {
    pub fn of(field: &Field<'_>) -> At {
        At { span: field.node().span, field: field.path().into() }
    }
}

/// `exportTo`: the namespaces that may see an object; empty for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportTo(Box<[Box<str>]>);

impl ExportTo {
    pub fn decode(spec: &Object<'_>) -> ExportTo {
        ExportTo(spec.strings("exportTo").into_iter().map(Into::into).collect())
    }
    /// Whether an object of the namespace `own` is seen from `other`.
    pub fn sees(&self, own: &str, other: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|to| match &**to {
                "*" => true,
                "." => own == other,
                namespace => namespace == other,
            })
    }
}

/// The files of a certificate, as they are named: relative ones start at the folder of the file that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    pub chain: Box<str>,
    pub key: Box<str>,
    pub at: At,
}

/// The fields `chain` and `key` of an object; one without the other is an error.
pub fn certificate_files(object: &Object<'_>, chain: &'static str, key: &'static str) -> Option<CertificateFiles> {
    let (Some(first), Some(second)) = (object.get(chain), object.get(key)) else {
        if object.has(chain) || object.has(key) {
            object.required(chain);
            object.required(key);
        }
        return None;
    };
    Some(CertificateFiles { chain: first.str()?.into(), key: second.str()?.into(), at: At::of(&first) })
}

/// The file `caCrl`; `used` says whether there are roots from a file that it goes with.
pub fn ca_crl(tls: &Object<'_>, used: bool) -> Option<Box<str>> {
    let field = tls.get("caCrl")?;
    let path = field.str()?;
    if !used {
        let message = "goes with certificates that are verified against the file caCertificates: it has no effect here";
        field.warning("UnusedField", message, "add caCertificates; a Secret has its revocation list under ca.crl");
    }
    used.then(|| path.into())
}

/// The full name of a host as Istio reads it: one label is a Service of the namespace.
pub fn full_host(host: &str, namespace: &str) -> Name {
    let host = host.to_ascii_lowercase();
    if host.contains(['.', '*']) || host.is_empty() { host.into() } else { format!("{host}.{namespace}.svc.cluster.local").into() }
}

/// A host name or a pattern: `*`, `*.suffix` or exact.
pub fn host_field(field: &Field<'_>) -> Option<String> {
    let text = field.str()?.to_ascii_lowercase();
    let rest = text.strip_prefix("*.").unwrap_or(&text);
    let good = text == "*"
        || (!rest.is_empty() && rest.len() <= 253 && !rest.contains(['*', '/', ' ', ':']) && rest.split('.').all(|l| !l.is_empty()));
    if !good {
        field.invalid(format!("\"{text}\" is not a host"), "a DNS name as shop.test, *.shop.test or *, without a port");
        return None;
    }
    Some(text)
}

/// Whether a pattern covers all that another one does.
pub fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide
            .strip_prefix('*')
            .is_some_and(|suffix| narrow.len() > suffix.len() && narrow.ends_with(suffix) || narrow == "*" && suffix.is_empty())
}

/// The hosts that are in both patterns.
pub fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// `exact`, `prefix` or `regex`; none of them is [`Matcher::Any`].
pub enum Matcher {
    Any,
    Text(StringMatch),
}

pub fn string_match(field: &Field<'_>) -> Option<Matcher> {
    let object = field.object()?;
    let given: Vec<(&str, Field<'_>)> =
        ["exact", "prefix", "regex"].into_iter().filter_map(|name| Some((name, object.get(name)?))).collect();
    match &given[..] {
        [] => Some(Matcher::Any),
        [("exact", f)] => Some(Matcher::Text(StringMatch::Exact(f.str()?.into()))),
        [("prefix", f)] => Some(Matcher::Text(StringMatch::Prefix(f.str()?.into()))),
        [(_, f)] => Some(Matcher::Text(StringMatch::Regex(regex(f)?))),
        [..] => {
            field.invalid("says more than one of exact, prefix and regex", "one of them");
            None
        }
    }
}

/// A regular expression that can be compiled.
pub fn regex(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    if let Err(e) = regex::Regex::new(text) {
        let text = e.to_string();
        let line = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let message = format!("is not a regular expression: {line}");
        field.error("InvalidRegex", message, "use RE2 syntax, which has no look-arounds and back-references");
        return None;
    }
    Some(text.to_string())
}

/// `percentage: {value: 12.5}`, or the older whole number; all where neither is given.
pub fn fraction(object: &Object<'_>, old: &[&'static str]) -> Fraction {
    let whole = old.iter().filter_map(|name| object.int(name, 0..=100)).last();
    let name = if old.contains(&"mirrorPercent") { "mirrorPercentage" } else { "percentage" };
    let value = object.get(name).and_then(|f| {
        let percent = f.object()?;
        let value = percent.get("value")?;
        let number = value.number()?;
        if !(0.0..=100.0).contains(&number) {
            value.invalid(format!("{number} is out of bounds"), "a number from 0 to 100");
        }
        Some(number)
    });
    value.or(whole.map(|n| n as f64)).map_or(Fraction::ALL, Fraction::percent)
}

/// What `headers` asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers {
    pub request: HeaderEdits,
    pub response: HeaderEdits,
    /// Setting `host` or `:authority` is a rewrite of the host.
    pub host: Option<String>,
}

pub fn headers(owner: &Object<'_>) -> Headers {
    let Some(object) = owner.object("headers") else { return Headers::default() };
    let request = object.get("request").and_then(|f| edits(&f)).unwrap_or_default();
    let response = object.get("response").and_then(|f| edits(&f)).unwrap_or_default();
    let is_host = |name: &str| name.eq_ignore_ascii_case("host") || name == ":authority";
    let host = request.set.iter().find(|(name, _)| is_host(name)).map(|(_, value)| value.clone());
    let set = request.set.iter().filter(|(name, _)| !is_host(name)).cloned().collect();
    Headers { request: HeaderEdits::new(request.remove.to_vec(), set, request.add.to_vec()), response, host }
}

fn edits(field: &Field<'_>) -> Option<HeaderEdits> {
    let object = field.object()?;
    let pairs = |name: &'static str| -> Vec<(String, String)> {
        let entries = object.entries(name).into_iter();
        entries.filter_map(|(key, value)| Some((header_name(key, &value)?, value.str()?.to_string()))).collect()
    };
    let remove = object.list("remove").iter().filter_map(|f| header_name(f.str()?, f)).collect();
    Some(HeaderEdits::new(remove, pairs("set"), pairs("add")))
}
