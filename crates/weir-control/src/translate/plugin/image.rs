//! The image of a plugin, with the credentials that its namespace has.
use crate::{
    api::plugin::{PREFIX, Plugin, VerificationKey},
    object::{Kind, Object, Spec},
    translate::Cx,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use weir_config::{
    diagnostic::Diagnostic,
    model::{PullPolicy, PullSecret, WasmImage},
    node::Chars,
};
use weir_net::oci::{
    DockerConfig, DockerConfigError, Reference,
    cosign::{CosignError, PublicKey},
};

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
    #[error("there is no Secret {0} with the key cosign.pub")]
    NoKey(String),
    #[error("cosign.pub of the Secret {name}: {error}")]
    Key { name: String, error: CosignError },
    #[error("verificationKey is in error")]
    InvalidKey,
}

/// What a Secret of `cosign generate-key-pair k8s://` calls it.
const COSIGN_PUB: &str = "cosign.pub";

impl ImageError {
    fn is_of_key(&self) -> bool {
        matches!(self, ImageError::NoKey(_) | ImageError::Key { .. } | ImageError::InvalidKey)
    }
    pub fn place(&self, plugin: &Plugin) -> Chars {
        let key = plugin.verification_key.as_ref().filter(|_| self.is_of_key()).map(|(_, at)| *at);
        key.or(plugin.pull_secret.as_ref().map(|(_, at)| *at)).unwrap_or(plugin.code_at)
    }
    pub fn path(&self) -> &'static str {
        if self.is_of_key() { "spec.verificationKey" } else { "spec.imagePullSecret" }
    }
    pub fn diagnostic(&self) -> Diagnostic {
        let reason = match self {
            ImageError::NoSecret(_) | ImageError::NoKey(_) => "SecretNotFound",
            ImageError::InvalidKey => "InvalidValue",
            _ => "InvalidSecret",
        };
        if self.is_of_key() {
            let help = "a public key in PEM, or k8s://NAME: a Secret of the same namespace with the key cosign.pub";
            return Diagnostic::error(reason, self.to_string()).help(help);
        }
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
    let verification_key = match &plugin.verification_key {
        Some((key, _)) => Some(verification_key(cx, &object.key.namespace, key)?),
        None => None,
    };
    let version = if pull_policy == PullPolicy::Always { version(object) } else { 0 };
    Ok(WasmImage {
        reference: reference.to_string(),
        sha256: plugin.sha256.clone(),
        pull_policy,
        pull_secret,
        verification_key,
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

/// The key as PEM.
fn verification_key(cx: &Cx<'_>, namespace: &str, key: &VerificationKey) -> Result<String, ImageError> {
    let name = match key {
        VerificationKey::Pem(pem) => return Ok(pem.to_string()),
        VerificationKey::Secret(name) => name,
        VerificationKey::Invalid => return Err(ImageError::InvalidKey),
    };
    let full = format!("{namespace}/{name}");
    let pem = match cx.get(Kind::Secret, namespace, name).map(|found| &found.spec) {
        Some(Spec::Secret(secret)) => secret.data.get(COSIGN_PUB),
        _ => None,
    };
    let Some(pem) = pem else { return Err(ImageError::NoKey(full)) };
    match PublicKey::from_pem(pem) {
        Ok(_) => Ok(pem.clone()),
        Err(error) => Err(ImageError::Key { name: full, error }),
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
