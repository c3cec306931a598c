//! The users that basic authentication lets in, of a Secret.
use crate::{
    api::ingress::annotations::{self, SecretForm},
    object::{Kind, Object, Spec},
    translate::{Cx, Part},
};
use std::{collections::BTreeMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{BasicAuth, PasswordHash, Users},
};

/// The entry of a Secret of the form `auth-file`.
const FILE: &str = "auth";

/// `None` where the Secret cannot be used: then nobody is let in, and the Ingress has a finding.
pub fn basic(cx: &Cx<'_>, object: &Arc<Object>, asked: &annotations::BasicAuth, part: &mut Part) -> Option<BasicAuth> {
    let own = &object.key.namespace;
    let mut closed = |message: String, help: &str| {
        let found = Diagnostic::error("InvalidAuthSecret", format!("{message}: requests are answered with 503")).help(help.to_string());
        part.report(object, asked.place, "metadata.annotations", found);
    };
    let name = format!("{own}/{}", asked.secret);
    if asked.namespace.as_ref().is_some_and(|namespace| namespace != own) {
        closed(format!("the Secret {} is in another namespace", asked.secret), "use one of the Ingress' namespace");
        return None;
    }
    let Some(Spec::Secret(secret)) = cx.get(Kind::Secret, own, &asked.secret).map(|found| &found.spec) else {
        closed(format!("there is no Secret {name}"), "add it, with users and hashes of their passwords");
        return None;
    };
    let listed: Vec<(&str, &str)> = match asked.form {
        SecretForm::Map => secret.data.iter().map(|(user, hash)| (&**user, hash.trim())).collect(),
        SecretForm::File => {
            let Some(file) = secret.data.get(FILE) else {
                closed(
                    format!("the Secret {name} has no entry {FILE}"),
                    "add the content of a file of htpasswd, or auth-secret-type: auth-map",
                );
                return None;
            };
            let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.filter_map(|line| line.split_once(':')).map(|(user, rest)| (user, rest.split(':').next().unwrap_or_default())).collect()
        }
    };
    let mut users = BTreeMap::new();
    for (user, hash) in listed {
        match PasswordHash::new(hash) {
            Some(hash) => _ = users.insert(user.into(), hash),
            None => {
                let message = format!("the Secret {name} has a hash of user {user} that is not supported: the user is not let in");
                let help =
                    format!("use bcrypt up to cost {} (htpasswd -B), or one of {}", PasswordHash::MAX_COST, PasswordHash::KINDS.join(", "));
                part.report(object, asked.place, "metadata.annotations", Diagnostic::warning("InvalidAuthSecret", message).help(help));
            }
        }
    }
    Some(BasicAuth { realm: asked.realm.to_string(), users: Users(users) })
}
