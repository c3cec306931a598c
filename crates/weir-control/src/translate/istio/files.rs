//! Certificates that Istio's objects name: in Secrets, and in files beside the object's own.
use crate::{
    api::istio::read::At,
    object::Object,
    translate::{Cx, Part, SecretKey, secret},
};
use std::path::PathBuf;
use weir_config::{diagnostic::Diagnostic, model::Name};

/// A path that an object names: a relative one starts at the folder of its file.
pub fn beside(object: &Object, path: &str) -> PathBuf {
    object.document.folder().join(path)
}

/// A secret made of files. Their errors are reported; while files have errors, their last good content stays in use.
pub fn from_files(cx: &Cx<'_>, object: &Object, key: SecretKey, at: &At, part: &mut Part) -> Option<Name> {
    let (usable, trouble) = secret::files(cx, &key);
    if let Some(why) = trouble {
        let help = "a PEM file; a relative path starts at the folder of this file";
        part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", why).help(help));
    }
    usable.then(|| part.use_secret(key))
}

/// Reports a Secret that is not there or does not hold what it should.
pub fn lacking(object: &Object, at: &At, lacks: secret::Lacks, name: &str, what: &str, part: &mut Part) {
    let (message, help) = match lacks {
        secret::Lacks::Object => (format!("there is no Secret {name}"), format!("add a Secret with {what}")),
        secret::Lacks::Content => (format!("the Secret {name} has no {what}"), format!("add {what} to it")),
    };
    part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", message).help(help));
}
