//! Secrets of the model, from Secrets, ConfigMaps and files. Who refers to one reports what is wrong with it.
use super::{Cx, Part, SecretKey, SecretUse};
use crate::{
    api::kubernetes::pem::{is_certificates, is_private_key, is_revocation_lists},
    artifact::ArtifactError,
    aspect::Aspect,
    object::{Object, Spec},
};
use std::path::Path;
use weir_config::model::{Secret, SecretContent};

/// Why a reference to a secret leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    Object,
    Content,
}

/// Why a secret cannot be made of its files.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {why}")]
    Unreadable { path: String, why: ArtifactError },
    #[error("{0} holds no certificate that can be read")]
    NoCertificate(String),
    #[error("{0} holds no revocation list that can be read")]
    NoRevocationList(String),
    #[error("{0} holds no private key that can be read")]
    NoPrivateKey(String),
}

/// Whether the secret is there and holds what it is asked for.
pub fn check(cx: &Cx<'_>, key: &SecretKey) -> Result<(), Lacks> {
    let aspect = if key.content == SecretUse::Roots { Aspect::Roots } else { Aspect::Certificate };
    let object = cx.aspects(key.source, &key.namespace, &key.name, &[aspect]).ok_or(Lacks::Object)?;
    content(object, key.content).map(|_| ()).ok_or(Lacks::Content)
}

/// Files that are in error leave the secret as it is served.
pub fn translate(cx: &Cx<'_>, key: &SecretKey, part: &mut Part) {
    let name = key.resource();
    if matches!(key.content, SecretUse::CertificateFiles | SecretUse::RootsFile) {
        let served = || cx.served(&name).map(|secret| secret.content.clone());
        let content = read_files(cx, key).ok().or_else(served);
        part.secret = content.map(|content| Secret { name, content, origin: None });
        return;
    }
    let Some(object) = cx.get(key.source, &key.namespace, &key.name) else { return };
    part.secret = content(object, key.content).map(|content| Secret { name, content, origin: Some(object.origin()) });
}

/// What an object holds for a use.
fn content(object: &Object, asked: SecretUse) -> Option<SecretContent> {
    match (&object.spec, asked) {
        (Spec::Secret(s), SecretUse::Certificate) => {
            Some(SecretContent::TlsCertificate { certificate_chain: s.certificate_chain.clone()?, private_key: s.private_key.clone()? })
        }
        (Spec::Secret(s), SecretUse::Roots) => {
            Some(SecretContent::ValidationContext { trusted_ca: s.trusted_ca.clone()?, crl: s.crl.clone() })
        }
        (Spec::ConfigMap(c), SecretUse::Roots) => Some(SecretContent::ValidationContext { trusted_ca: c.trusted_ca.clone()?, crl: None }),
        _ => None,
    }
}

/// Whether a secret made of files can be served, now or from their last good content; and the error in the files, if any.
pub fn files(cx: &Cx<'_>, key: &SecretKey) -> (bool, Option<FileError>) {
    match read_files(cx, key) {
        Ok(_) => (true, None),
        Err(why) => (cx.served(&key.resource()).is_some(), Some(why)),
    }
}

fn read_files(cx: &Cx<'_>, key: &SecretKey) -> Result<SecretContent, FileError> {
    let read = |path: &str| cx.text(Path::new(path)).map_err(|why| FileError::Unreadable { path: path.into(), why });
    let certificates = |path: &str| match read(path)? {
        pem if is_certificates(&pem) => Ok(pem),
        _ => Err(FileError::NoCertificate(path.into())),
    };
    let two = key.name.split_once('~');
    if key.content == SecretUse::RootsFile {
        let (ca, crl) = two.map_or((&*key.name, None), |(ca, crl)| (ca, Some(crl)));
        let revoked = |path: &str| match read(path)? {
            pem if is_revocation_lists(&pem) => Ok(pem),
            _ => Err(FileError::NoRevocationList(path.into())),
        };
        let (ca, crl) = (certificates(ca), crl.map(revoked).transpose());
        return Ok(SecretContent::ValidationContext { trusted_ca: ca?, crl: crl? });
    }
    let (chain, private) = two.unwrap_or((&key.name, ""));
    // Both are looked at, so that a change of either is seen.
    let (chain, private_key) = (certificates(chain), read(private));
    let private_key = private_key?;
    if !is_private_key(&private_key) {
        return Err(FileError::NoPrivateKey(private.into()));
    }
    Ok(SecretContent::TlsCertificate { certificate_chain: chain?, private_key })
}
