//! The module in an image: which manifest of an index, which layer of a manifest, and what a registry and the disk give.
use super::{
    Code, CodeError, FetchOptions, From,
    store::{Link, Store},
    unpack::{UnpackError, unpack},
};
use crate::app_log::Logger;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use weir_config::model::{PullPolicy, WasmImage};
use weir_net::{
    http::fetch::{FetchError, Watch},
    oci::{
        Action, Credentials, Descriptor, Digest, DockerConfig, Index, Manifest, OciError, Received, Reference, Registries, RegistryOptions,
        Session,
        cosign::{self, CosignError, PublicKey},
    },
    tls::{Trust, hex_digest},
};

/// For all of a pull, as with Envoy Gateway.
const PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// Layers that are looked at.
const MAX_LAYERS: usize = 32;
/// Indexes in indexes.
const MAX_INDEXES: usize = 3;

/// Layers that hold the module as it is.
const MODULE_TYPES: [&str; 3] =
    ["application/vnd.module.wasm.content.layer.v1+wasm", "application/vnd.wasm.content.layer.v1+wasm", "application/wasm"];
/// Marks an entry of an index that is no image.
const ATTESTATION: (&str, &str) = ("vnd.docker.reference.type", "attestation-manifest");

/// Why an image gives no module.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("the index has no image for wasi/wasm, for linux/amd64 or without a platform; it has {0}")]
    Platform(String),
    #[error("no layer of the image has a WebAssembly module: {0}")]
    NoModule(String),
    #[error("not pulled within {PULL_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Signature(#[from] CosignError),
    #[error("the image is {found}, not {wanted} as sha256 says")]
    Checksum { found: Digest, wanted: Digest },
}

impl ImageError {
    fn is_transient(&self) -> bool {
        match self {
            ImageError::Oci(e) => e.is_transient(),
            ImageError::Timeout => true,
            // A tag may be moved to another image, and an image may be signed later.
            ImageError::Platform(_) | ImageError::NoModule(_) | ImageError::Signature(_) => true,
            ImageError::Checksum { .. } => false,
        }
    }

    /// The registry, or the way to it, does not work: what was pulled before is better than nothing.
    fn is_outage(&self) -> bool {
        let oci = match self {
            ImageError::Oci(e) => Some(e),
            ImageError::Signature(e) => e.oci(),
            _ => return matches!(self, ImageError::Timeout),
        };
        match oci {
            Some(OciError::Fetch(e)) => e.is_transient() && !matches!(e, FetchError::Tls { .. }),
            Some(&OciError::Status { status, .. }) => status == 429 || status >= 500,
            _ => false,
        }
    }
}

/// The module of an image; one try.
pub(super) async fn load(image: &WasmImage, options: &FetchOptions, watch: Arc<dyn Watch + Send>) -> Result<Code, CodeError> {
    let reference: Reference = image.reference.parse().map_err(|e| CodeError {
        message: format!("{}: {e}", image.reference),
        transient: false,
        mismatch: false,
    })?;
    let credentials = credentials(image, &reference, options).map_err(|message| CodeError { message, transient: true, mismatch: false })?;
    let mut pull = Pull { image, reference, credentials, options, watch, used: Vec::new() };
    let found = timeout(PULL_TIMEOUT, pull.run()).await.unwrap_or(Err(ImageError::Timeout));
    let found = found.map(|code| Code { kept: std::mem::take(&mut pull.used), ..code });
    found.map_err(|e| CodeError {
        message: format!("{}: {e}", pull.reference),
        transient: e.is_transient(),
        mismatch: matches!(e, ImageError::Checksum { .. } | ImageError::Oci(OciError::Mismatch { .. })),
    })
}

/// Those of the pull secret, or where there is none, of the docker configuration of this gateway.
fn credentials(image: &WasmImage, reference: &Reference, options: &FetchOptions) -> Result<Option<Credentials>, String> {
    if let Some(secret) = &image.pull_secret {
        let found = DockerConfig::parse(&secret.docker_config).and_then(|config| config.credentials(reference));
        return found.map_err(|e| format!("imagePullSecret {}: {e}", secret.name));
    }
    let Some(path) = &options.registry.config else { return Ok(None) };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // The default one need not be there.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let found = DockerConfig::parse(&text).and_then(|config| config.credentials(reference));
    found.map_err(|e| format!("{}: {e}", path.display()))
}

struct Pull<'a> {
    image: &'a WasmImage,
    reference: Reference,
    credentials: Option<Credentials>,
    options: &'a FetchOptions,
    watch: Arc<dyn Watch + Send>,
    /// Files of the store.
    used: Vec<String>,
}

impl Pull<'_> {
    async fn run(&mut self) -> Result<Code, ImageError> {
        let pinned = self.pinned();
        let looks_up = self.image.pull_policy == PullPolicy::Always && pinned.is_none();
        let digest = pinned.or_else(|| self.tagged());
        let kept = digest.and_then(|digest| self.on_disk(&digest).map(|code| (digest, code)));
        let granted = kept.as_ref().is_some_and(|(digest, _)| self.is_granted(digest) && self.is_signed(digest));
        let kept = match kept {
            Some((_, code)) if granted && !looks_up => return Ok(code),
            kept => kept,
        };
        let known = kept.as_ref().filter(|_| !looks_up).map(|(digest, _)| digest.clone());
        match (self.ask(known).await, kept) {
            (Err(e), Some((digest, code))) if granted && e.is_outage() => {
                Logger::Wasm.warning(format_args!("{} cannot be pulled ({e}); using what was pulled before, {digest}", self.reference));
                Ok(code)
            }
            (asked, _) => asked,
        }
    }

    fn store(&self) -> Option<&Arc<Store>> {
        self.options.store.as_ref()
    }

    /// The manifest that the configuration names.
    fn pinned(&self) -> Option<Digest> {
        let sha256 = self.image.sha256.as_deref().and_then(Digest::parse);
        let known = |digest: &Digest| self.store().is_some_and(|s| s.link(Link::Image, digest.hex(), &mut Vec::new()).is_some());
        // It may also be the digest of the module.
        self.reference.digest.clone().or(sha256.filter(known))
    }

    fn tag_key(&self) -> Option<String> {
        let (user, secret) = self.credentials.as_ref().map_or(("", ""), Credentials::parts);
        Some(self.store()?.key(&["tag", &self.reference.name(), self.reference.tag(), &self.image.namespace, user, secret]))
    }

    /// What the tag named when it was last looked up.
    fn tagged(&mut self) -> Option<Digest> {
        let key = self.tag_key()?;
        let store = self.options.store.as_ref()?;
        store.link(Link::Tag, &key, &mut self.used).and_then(|digest| Digest::parse(&digest))
    }

    /// Nobody's grant is somebody else's: it is for a namespace with its credentials.
    fn grant_key(&self, digest: &Digest) -> Option<String> {
        let (user, secret) = self.credentials.as_ref().map_or(("", ""), Credentials::parts);
        Some(self.store()?.key(&["grant", &self.reference.name(), digest.hex(), &self.image.namespace, user, secret]))
    }

    fn is_granted(&mut self, digest: &Digest) -> bool {
        let (Some(key), Some(store)) = (self.grant_key(digest), self.options.store.as_ref()) else { return false };
        store.link(Link::Grant, &key, &mut self.used).is_some()
    }

    fn signed_key(&self, digest: &Digest) -> Option<String> {
        Some(self.store()?.key(&["signed", digest.hex(), self.image.verification_key.as_deref()?]))
    }

    /// No signature is wanted, or it was verified before.
    fn is_signed(&mut self, digest: &Digest) -> bool {
        if self.image.verification_key.is_none() {
            return true;
        }
        let (Some(key), Some(store)) = (self.signed_key(digest), self.options.store.as_ref()) else { return false };
        store.link(Link::Signed, &key, &mut self.used).is_some()
    }

    /// With a key, only what it has signed goes on.
    async fn verify(&mut self, session: &mut Session, digest: &Digest) -> Result<(), ImageError> {
        match &self.image.verification_key {
            Some(pem) if !self.is_signed(digest) => Ok(cosign::verify(session, digest, &PublicKey::from_pem(pem)?).await?),
            _ => Ok(()),
        }
    }

    fn on_disk(&mut self, digest: &Digest) -> Option<Code> {
        let store = self.options.store.as_ref()?;
        let module = store.link(Link::Image, digest.hex(), &mut self.used)?;
        let wasm = store.module(&module, &mut self.used)?;
        self.checked(digest, None, &module).ok()?;
        Some(self.code(digest, wasm, module, From::Disk))
    }

    fn code(&self, digest: &Digest, wasm: Bytes, module: String, from: From) -> Code {
        let image = Reference { digest: Some(digest.clone()), ..self.reference.clone() };
        Code { wasm, digest: module, from, image: Some(image.to_string().into()), kept: Vec::new() }
    }

    /// `sha256` names the image, its manifest for the platform, or the module.
    fn checked(&self, digest: &Digest, child: Option<&Digest>, module: &str) -> Result<(), ImageError> {
        let Some(wanted) = self.image.sha256.as_deref().and_then(Digest::parse) else { return Ok(()) };
        let good = *digest == wanted || child.is_some_and(|child| *child == wanted) || module == wanted.hex();
        if good { Ok(()) } else { Err(ImageError::Checksum { found: digest.clone(), wanted }) }
    }

    /// The registry says which image it is and that these credentials may pull it; the layers may be on disk.
    async fn ask(&mut self, known: Option<Digest>) -> Result<Code, ImageError> {
        let registries = Registries::new(RegistryOptions {
            resolver: self.options.resolver.clone(),
            trust: Trust::Roots(self.options.registry.roots.clone()),
            insecure: self.options.registry.insecure.clone(),
            idle: self.options.timeout,
        });
        let registries = registries.map_err(|e| OciError::Manifest(e.to_string()))?;
        let mut session = registries.session(&self.reference, self.credentials.clone(), Action::Pull, self.watch.clone()).await?;
        let target = known.map_or_else(|| self.reference.target(), |digest| digest.to_string());
        let digest = session.resolve(&target).await?;
        self.verify(&mut session, &digest).await?;
        if let Some(code) = self.on_disk(&digest) {
            self.keep(&digest, None).await;
            return Ok(code);
        }
        let (child, manifest) = manifest_of(&mut session, &digest).await?;
        let wasm = module_of(&mut session, &manifest, self.options.max_bytes).await?;
        let module = hex_digest(&wasm);
        self.checked(&digest, Some(&child), &module)?;
        if session.is_plain() {
            Logger::Wasm.warning(format_args!("{} was pulled over HTTP without TLS", self.reference));
        }
        self.keep(&digest, Some((module.clone(), wasm.clone()))).await;
        Ok(self.code(&digest, wasm, module, From::Server))
    }

    /// Writes down what the registry has said.
    async fn keep(&mut self, digest: &Digest, module: Option<(String, Bytes)>) {
        let (Some(store), Some(tag), Some(grant)) = (self.store().cloned(), self.tag_key(), self.grant_key(digest)) else { return };
        let signed = self.signed_key(digest);
        let (digest, by_tag) = (digest.hex().to_string(), self.reference.digest.is_none());
        let mut used = std::mem::take(&mut self.used);
        let written = tokio::task::spawn_blocking(move || {
            let write = |used: &mut Vec<String>| {
                if let Some((module, wasm)) = &module {
                    store.put_module(module, wasm, used)?;
                    store.put_link(Link::Image, &digest, module, used)?;
                }
                store.put_link(Link::Grant, &grant, &digest, used)?;
                signed.iter().try_for_each(|key| store.put_link(Link::Signed, key, &digest, used))?;
                if by_tag { store.put_link(Link::Tag, &tag, &digest, used) } else { Ok(()) }
            };
            let done = write(&mut used);
            (done, used)
        });
        let Ok((done, used)) = written.await else { return };
        self.used = used;
        if let Err(e) = done {
            Logger::Wasm.warning(format_args!("{} is not kept on disk: {e}", self.reference));
        }
    }
}

/// The manifest of the image itself, from an index the one for plugins.
async fn manifest_of(session: &mut Session, digest: &Digest) -> Result<(Digest, Manifest), ImageError> {
    let mut digest = digest.clone();
    for _ in 0..=MAX_INDEXES {
        match session.manifest(&digest.to_string()).await?.1 {
            Received::Manifest(manifest) => return Ok((digest, manifest)),
            Received::Index(index) => digest = choose(&index)?.digest.clone(),
        }
    }
    Err(OciError::Manifest(format!("more than {MAX_INDEXES} indexes in each other")).into())
}

/// For wasm; else without a platform; else what everybody builds for.
fn choose(index: &Index) -> Result<&Descriptor, ImageError> {
    let is_attestation = |d: &Descriptor| d.annotation(ATTESTATION.0) == Some(ATTESTATION.1);
    let images: Vec<_> = index.manifests.iter().filter(|(descriptor, _)| !is_attestation(descriptor)).collect();
    let rank = |platform: Option<(&str, &str)>| match platform {
        Some((os, "wasm")) if os.starts_with("wasi") => Some(0),
        Some((_, "wasm")) => Some(1),
        None | Some(("" | "unknown", _)) => Some(2),
        Some(("linux", "amd64")) => Some(3),
        Some(_) => None,
    };
    let ranked = images.iter().filter_map(|(descriptor, platform)| {
        let platform = platform.as_ref().map(|p| (p.os.as_str(), p.architecture.as_str()));
        Some((rank(platform)?, descriptor))
    });
    let all = || images.iter().map(|(_, p)| p.as_ref().map_or_else(String::new, |p| format!("{}/{}", p.os, p.architecture)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, d)| d).ok_or_else(|| ImageError::Platform(all().collect::<Vec<_>>().join(", ")))
}

/// The layers that may hold the module, the likeliest first.
fn candidates(manifest: &Manifest) -> Vec<&Descriptor> {
    let rank = |layer: &Descriptor| {
        let kind = layer.media_type.split(';').next().unwrap_or_default().trim();
        let other = ["+json", "+yaml", "+markdown"].iter().any(|end| kind.ends_with(end)) || kind.starts_with("image/");
        match kind {
            _ if MODULE_TYPES.contains(&kind) => Some(0),
            _ if kind.contains("tar") => Some(1),
            _ if other => None,
            _ => Some(2),
        }
    };
    // Later layers lie over earlier ones.
    let mut all: Vec<_> = manifest.layers.iter().rev().filter_map(|layer| Some((rank(layer)?, layer))).collect();
    all.sort_by_key(|(rank, _)| *rank);
    all.into_iter().map(|(_, layer)| layer).take(MAX_LAYERS).collect()
}

/// The first layer with a module in it.
async fn module_of(session: &mut Session, manifest: &Manifest, max: usize) -> Result<Bytes, ImageError> {
    let (mut left, mut why) = (max, Vec::new());
    for layer in candidates(manifest) {
        let blob = session.blob(layer, left).await?;
        left -= blob.len();
        match unpack(blob, max) {
            Ok(wasm) => return Ok(wasm),
            Err(e @ UnpackError::TooLarge(_)) => return Err(ImageError::NoModule(e.to_string())),
            Err(e) => why.push(format!("{}: {e}", layer.media_type)),
        }
    }
    if why.is_empty() {
        let types: Vec<_> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        why.push(format!("its layers have the types [{}]", types.join(", ")));
    }
    Err(ImageError::NoModule(why.join("; ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use weir_net::oci::Platform;

    fn descriptor(media_type: &str, n: u8) -> Descriptor {
        Descriptor { media_type: media_type.into(), digest: Digest::of(&[n]), size: 1, annotations: Vec::new() }
    }

    #[test]
    fn the_image_of_an_index() {
        let of = |platforms: &[&str]| {
            let one = |(n, platform): (usize, &&str)| {
                let mut descriptor = descriptor("", n as u8);
                if *platform == "attestation" {
                    descriptor.annotations = vec![(ATTESTATION.0.into(), ATTESTATION.1.into())];
                }
                let platform = platform.split_once('/').map(|(os, arch)| Platform { os: os.into(), architecture: arch.into() });
                (descriptor, platform)
            };
            let index = Index { manifests: platforms.iter().enumerate().map(one).collect() };
            choose(&index).map(|d| (0..9u8).find(|n| d.digest == Digest::of(&[*n])).unwrap()).map_err(|e| e.to_string())
        };
        for (platforms, wanted) in [
            (&["linux/amd64", "wasi/wasm"][..], Ok(1)),
            (&["linux/amd64", "wasip1/wasm"], Ok(1)),
            (&["linux/arm64", "linux/amd64"], Ok(1)),
            (&["linux/amd64", "unknown/unknown"], Ok(1)),
            (&["attestation", "linux/amd64"], Ok(1)),
            (&["linux/arm64", ""], Ok(1)),
            (&["js/wasm", "wasi/wasm"], Ok(1)),
            (&["linux/arm64", "attestation"], Err("it has linux/arm64")),
        ] {
            match (of(platforms), wanted) {
                (Ok(n), Ok(wanted)) => assert_eq!(n, wanted, "{platforms:?}"),
                (Err(e), Err(says)) => assert!(e.contains(says), "{e}"),
                other => panic!("{platforms:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_layers_that_may_hold_a_module() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (types, wanted) in [
            (&[gzip][..], &[0][..]),
            (&[gzip, gzip], &[1, 0]),
            (&["application/vnd.module.wasm.spec.v1+yaml", "application/vnd.module.wasm.doc.v1+markdown", gzip], &[2]),
            (&["application/vnd.module.wasm.config.v1+json", MODULE_TYPES[0]], &[1]),
            (&[MODULE_TYPES[0], "application/vnd.module.wasm.config.v1+json"], &[0]),
            (&["application/wasm", gzip, "image/png"], &[0, 1]),
            (&["application/octet-stream", gzip], &[1, 0]),
        ] {
            let layers = types.iter().enumerate().map(|(n, t)| descriptor(t, n as u8)).collect();
            let manifest = Manifest { config: None, layers, annotations: Vec::new() };
            let found: Vec<_> = candidates(&manifest).iter().map(|d| (0..9u8).find(|n| d.digest == Digest::of(&[*n])).unwrap()).collect();
            assert_eq!(found, wanted, "{types:?}");
        }
    }
}
