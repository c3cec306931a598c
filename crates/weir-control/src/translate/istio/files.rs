//! Certificates that Istio's objects name: in Secrets, and in files.
use crate::{
    api::istio::read::{At, CertificateFiles},
    object::{Kind, Object},
    translate::{
        Cx, Part, SecretKey, SecretUse,
        file_reference::{NotPermitted, resolve},
        secret,
    },
};
use weir_config::{diagnostic::Diagnostic, model::Name};

/// A secret made of a certificate and its key in files; where there is none, the key of one that is not served.
pub fn certificate(cx: &Cx<'_>, object: &Object, files: &CertificateFiles, part: &mut Part) -> Result<Name, SecretKey> {
    match (resolve(cx, object, &files.chain), resolve(cx, object, &files.key)) {
        (Ok(chain), Ok(key)) => from_files(cx, object, SecretKey::certificate_files(&chain, &key), &files.at, part),
        (Err(why), _) | (_, Err(why)) => Err(not_permitted(object, &why, SecretUse::Certificate, &files.at, part)),
    }
}

/// As [`certificate`], of roots and, if given, their revocation lists.
pub fn roots(cx: &Cx<'_>, object: &Object, ca: &str, crl: Option<&str>, at: &At, part: &mut Part) -> Result<Name, SecretKey> {
    match (resolve(cx, object, ca), crl.map(|crl| resolve(cx, object, crl)).transpose()) {
        (Ok(ca), Ok(crl)) => from_files(cx, object, SecretKey::roots_file(&ca, crl.as_deref()), at, part),
        (Err(why), _) | (_, Err(why)) => Err(not_permitted(object, &why, SecretUse::Roots, at, part)),
    }
}

/// Errors of the files are reported; while they have errors, their last good content stays in use.
fn from_files(cx: &Cx<'_>, object: &Object, key: SecretKey, at: &At, part: &mut Part) -> Result<Name, SecretKey> {
    let (usable, trouble) = secret::files(cx, &key);
    if let Some(why) = trouble {
        let help = "a PEM file; a relative path starts at the folder of this file";
        part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", why.to_string()).help(help));
    }
    if usable { Ok(part.use_secret(key)) } else { Err(key) }
}

/// No Secret is without a namespace: the key is that of none, and no file is read for it.
fn not_permitted(object: &Object, why: &NotPermitted, content: SecretUse, at: &At, part: &mut Part) -> SecretKey {
    part.report(object, at.span, &*at.field, why.diagnostic());
    SecretKey { source: Kind::Secret, namespace: "".into(), name: "not-permitted".into(), content }
}

/// Reports a Secret that is not there or does not hold what it should.
pub fn lacking(object: &Object, at: &At, lacks: secret::Lacks, name: &str, what: &str, part: &mut Part) {
    let (message, help) = match lacks {
        secret::Lacks::Object => (format!("there is no Secret {name}"), format!("add a Secret with {what}")),
        secret::Lacks::Content => (format!("the Secret {name} has no {what}"), format!("add {what} to it")),
    };
    part.report(object, at.span, &*at.field, Diagnostic::error("InvalidCertificateRef", message).help(help));
}
