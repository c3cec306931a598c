//! Manifests and indexes: JSON that names other content by digest.
use super::{Digest, OciError};
use bytes::Bytes;
use serde_json::Value;

/// Media types.
pub mod media {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// What a registry is asked for.
    pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
}

/// What a manifest says of other content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    pub annotations: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
}

/// One image or artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    pub annotations: Vec<(String, String)>,
}

/// One image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub manifests: Vec<(Descriptor, Option<Platform>)>,
}

/// What a registry answers to the name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Manifest(Manifest),
    Index(Index),
}

impl Received {
    /// `media_type`: what the registry says it is, where the content does not.
    ///
    /// # Errors
    /// It is neither a manifest nor an index.
    pub fn parse(bytes: &Bytes, media_type: &str) -> Result<Received, OciError> {
        let malformed = |what: &str| OciError::Manifest(what.into());
        let root: Value = serde_json::from_slice(bytes).map_err(|e| OciError::Manifest(format!("not JSON: {e}")))?;
        let said = root.get("mediaType").and_then(Value::as_str).unwrap_or(media_type);
        if root.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            return Err(malformed("schema version 1 of Docker is not supported; push the image again with a newer tool"));
        }
        if let Some(manifests) = root.get("manifests").and_then(Value::as_array) {
            let one = |value: &Value| Some((descriptor(value)?, value.get("platform").map(platform)));
            let manifests = manifests.iter().map(one).collect::<Option<Vec<_>>>();
            return Ok(Received::Index(Index {
                manifests: manifests.ok_or_else(|| malformed("an entry of the index has no sha256 digest"))?,
            }));
        }
        let Some(layers) = root.get("layers").and_then(Value::as_array) else {
            return Err(OciError::Manifest(format!("a manifest of the type {said} has no layers")));
        };
        let layers = layers.iter().map(descriptor).collect::<Option<Vec<_>>>().ok_or_else(|| malformed("a layer has no sha256 digest"))?;
        Ok(Received::Manifest(Manifest { config: root.get("config").and_then(descriptor), layers, annotations: annotations(&root) }))
    }
}

impl Descriptor {
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Some(Descriptor {
        media_type: text("mediaType").unwrap_or_default().into(),
        digest: text("digest")?.strip_prefix("sha256:").and_then(Digest::parse)?,
        size: value.get("size").and_then(Value::as_u64)?,
        annotations: annotations(value),
    })
}

fn annotations(value: &Value) -> Vec<(String, String)> {
    let fields = value.get("annotations").and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string()))).collect()
}

fn platform(value: &Value) -> Platform {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
    Platform { os: text("os"), architecture: text("architecture") }
}
