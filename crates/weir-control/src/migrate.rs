//! Migration of the Ingress objects of Higress and ingress-nginx: a verdict for each annotation, and the equivalent objects of
//! Gateway API.
pub mod gateway_api;
mod yaml;

use crate::{
    api::ingress::{
        Ingress,
        annotations::{Verdict, verdict},
    },
    object::{Object, Spec},
};
use gateway_api::Converted;
use serde::Serialize;
use std::{collections::HashSet, sync::Arc};
use weir_config::diagnostic::{Diagnostic, Severity};

/// The gateway that the objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    IngressNginx,
    Higress,
}

/// The verdict on an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Works,
    WorksWithDifference,
    NotNeeded,
    NotSupported,
    ClosesRoute,
    /// The value is wrong.
    Invalid,
}

impl Outcome {
    /// Whether somebody must do something.
    pub fn needs_work(self) -> bool {
        matches!(self, Outcome::NotSupported | Outcome::ClosesRoute | Outcome::Invalid)
    }
}

/// A verdict on an annotation of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `Ingress/NAMESPACE/NAME`
    pub object: String,
    /// The whole key; `spec` for what is not about an annotation.
    pub key: String,
    pub verdict: Outcome,
    /// The difference, or what to do.
    pub text: String,
    /// Gateway API has no equivalent. Only where it was asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_equivalent: bool,
}

/// The verdicts, in the order of objects and keys. `findings` are those of reading the objects.
pub fn rows<'a>(objects: impl Iterator<Item = &'a Arc<Object>>, findings: &[Arc<Diagnostic>], from: From) -> Vec<Row> {
    let (mut rows, mut read) = (Vec::new(), HashSet::new());
    for object in objects {
        let Spec::Ingress(ingress) = &object.spec else { continue };
        let title = object.key.to_string();
        if !ingress.closed {
            read.insert(title.clone());
        }
        for (key, value) in object.meta.annotations.iter() {
            let Some((_, verdict)) = verdict(key, value) else { continue };
            rows.push(row(&title, key, verdict, findings));
        }
        rows.extend(redirect_by_default(&title, ingress, object, from));
    }
    // Of objects that could not be read at all.
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
        let Some(title) = finding.object.as_deref().filter(|title| title.starts_with("Ingress/")) else { continue };
        if !read.contains(title) && !rows.iter().any(|row| row.object == *title && row.verdict.needs_work()) {
            let (key, text) = (finding.field.clone(), finding.text());
            rows.push(Row { object: title.into(), key, verdict: Outcome::Invalid, text, no_equivalent: false });
        }
    }
    rows
}

fn row(title: &str, key: &str, verdict: Verdict, findings: &[Arc<Diagnostic>]) -> Row {
    let about = |finding: &&Arc<Diagnostic>| {
        finding.severity == Severity::Error
            && finding.reason != "UnsupportedAnnotation"
            && finding.object.as_deref() == Some(title)
            && finding.field.contains(key)
    };
    let (verdict, text) = match (findings.iter().find(about), verdict) {
        (Some(finding), _) => (Outcome::Invalid, finding.text()),
        (None, Verdict::Works) => (Outcome::Works, String::new()),
        (None, Verdict::Differs(how)) => (Outcome::WorksWithDifference, how.into()),
        (None, Verdict::NotNeeded(why)) => (Outcome::NotNeeded, why.into()),
        (None, Verdict::Unsupported(instead)) => (Outcome::NotSupported, instead.into()),
        (None, Verdict::Closes(instead)) => (Outcome::ClosesRoute, instead.into()),
    };
    Row { object: title.into(), key: key.into(), verdict, text, no_equivalent: false }
}

/// ingress-nginx redirects to HTTPS where a host has TLS, without being told.
fn redirect_by_default(title: &str, ingress: &Ingress, object: &Object, from: From) -> Option<Row> {
    let told = |(key, _): (&str, &str)| key.ends_with("/ssl-redirect") || key.ends_with("/force-ssl-redirect");
    if from != From::IngressNginx || ingress.tls.is_empty() || object.meta.annotations.iter().any(told) {
        return None;
    }
    let text = "plain HTTP is served too, while ingress-nginx redirects it: add nginx.ingress.kubernetes.io/ssl-redirect: \"true\"";
    let (verdict, key) = (Outcome::WorksWithDifference, "spec.tls".to_string());
    Some(Row { object: title.into(), key, verdict, text: text.into(), no_equivalent: false })
}

/// The objects of Gateway API as YAML; what has no equivalent is named in comments there, and in the rows.
pub fn to_gateway_api<'a>(objects: impl Iterator<Item = &'a Arc<Object>>, options: &gateway_api::Options, rows: &mut [Row]) -> String {
    let objects: Vec<&Arc<Object>> = objects.collect();
    let Converted { documents, lost } = gateway_api::convert(&objects, options);
    for row in rows {
        row.no_equivalent = lost.iter().any(|(title, key)| *title == row.object && *key == row.key);
    }
    let mut text = String::new();
    for (of, document) in documents {
        text += "---\n";
        for (title, key) in lost.iter().filter(|(title, _)| Some(title) == of.as_ref()) {
            text += &format!("# {title}: Gateway API has no equivalent of {key}\n");
        }
        text += &yaml::text(&document);
    }
    text
}
