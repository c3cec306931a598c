//! The image of a plugin, with the credentials that its namespace has.
use crate::{
    api::plugin::{PREFIX, Plugin},
    object::{Kind, Object, Spec},
    translate::Cx,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use weir_config::{
    diagnostic::Diagnostic,
    model::{PullPolicy, PullSecret, WasmImage},
    node::Chars,
};
use weir_net::oci::{DockerConfig, DockerConfigError, Reference};

/// The keys of Secrets with credentials of registries: of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`.
const KEYS: [&str; 2] = [".dockerconfigjson", ".dockercfg"];

/// Why an image cannot be pulled as the object says.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("there is no Secret {0}")]
    NoSecret(String),
    #[error("the Secret {0} has no .dockerconfigjson")]
    NoConfig(String),
    #[error("the Secret {name}: {error}")]
    Config { name: String, error: DockerConfigError },
    #[error("the Secret {name} has no credentials for {registry}")]
    NoEntry { name: String, registry: String },
}

impl ImageError {
    pub fn place(&self, plugin: &Plugin) -> Chars {
        plugin.pull_secret.as_ref().map_or(plugin.code_at, |(_, at)| *at)
    }
    pub fn path(&self) -> &'static str {
        "spec.imagePullSecret"
    }
    pub fn diagnostic(&self) -> Diagnostic {
        let reason = match self {
            ImageError::NoSecret(_) => "SecretNotFound",
            _ => "InvalidSecret",
        };
        let help =
            "a Secret of the type kubernetes.io/dockerconfigjson in the namespace of the plugin (kubectl create secret docker-registry)";
        Diagnostic::error(reason, self.to_string()).help(help)
    }
}

/// # Errors
/// The pull secret is not there, or has nothing for the registry.
pub fn resolve(cx: &Cx<'_>, object: &Object, plugin: &Plugin, reference: &Reference) -> Result<WasmImage, ImageError> {
    let policy = if reference.is_latest() { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    let pull_policy = plugin.pull_policy.unwrap_or(policy);
    let pull_secret = match &plugin.pull_secret {
        Some((name, _)) => Some(pull_secret(cx, &object.key.namespace, name, reference)?),
        None => None,
    };
    let version = if pull_policy == PullPolicy::Always { version(object) } else { 0 };
    Ok(WasmImage {
        reference: reference.to_string(),
        sha256: plugin.sha256.clone(),
        pull_policy,
        pull_secret,
        namespace: object.key.namespace.clone(),
        version,
    })
}

fn pull_secret(cx: &Cx<'_>, namespace: &str, name: &str, reference: &Reference) -> Result<PullSecret, ImageError> {
    let full = || format!("{namespace}/{name}");
    let Some(Spec::Secret(secret)) = cx.get(Kind::Secret, namespace, name).map(|found| &found.spec) else {
        return Err(ImageError::NoSecret(full()));
    };
    let config = KEYS.iter().find_map(|key| secret.data.get(*key)).ok_or_else(|| ImageError::NoConfig(full()))?;
    let found = DockerConfig::parse(config).and_then(|parsed| parsed.credentials(reference));
    match found.map_err(|error| ImageError::Config { name: full(), error })? {
        Some(_) => Ok(PullSecret { name: full(), docker_config: config.clone() }),
        None => Err(ImageError::NoEntry { name: full(), registry: reference.registry.clone() }),
    }
}

/// Changes with the spec, and with annotations that are not Weir's own, as `kubectl annotate` does it.
fn version(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.meta.generation.hash(&mut hasher);
    let others = object.meta.annotations.iter().filter(|(name, _)| !name.starts_with(PREFIX));
    others.for_each(|pair| pair.hash(&mut hasher));
    hasher.finish()
}
