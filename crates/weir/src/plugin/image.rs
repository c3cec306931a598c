//! Plugins as images: what `weir plugin push` makes, and what `pull` and `inspect` read.
use anyhow::{Context, Result, anyhow, bail};
use flate2::{Compression, GzBuilder};
use serde::Serialize;
use serde_json::json;
use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use weir_config::model::{PullPolicy, WasmCode, WasmImage};
use weir_net::{
    dial::GuardedResolver,
    http::fetch::Watch,
    oci::{Action, Digest, DockerConfig, Reference, Registries, RegistryOptions, media},
    tls::Trust,
};
use weir_proxy::plugin::code::{self, Code, FetchOptions, RegistrySettings};

/// For each step in which nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// What is shown at most every so many bytes.
const STEP: usize = 1 << 20;
const CONFIG_OF_ARTIFACT: &str = "application/vnd.module.wasm.config.v1+json";
const MODULE: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

/// Which layout an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// An image with one layer, `plugin.wasm` in an archive: every gateway and every registry takes it.
    Compat,
    /// An artifact with two layers: the module as it is, and a description.
    Artifact,
}

/// What was pushed.
#[derive(Debug, Serialize)]
pub struct Pushed {
    /// With the digest.
    pub reference: String,
    pub digest: String,
    /// Of the module.
    pub size: usize,
}

/// Shows how far a large transfer is, where somebody looks.
#[derive(Default)]
struct Progress {
    shown: AtomicUsize,
}

impl Watch for Progress {
    fn moved(&self, bytes: usize) {
        let last = self.shown.load(Ordering::Relaxed);
        // Each request begins anew.
        if bytes < last || bytes >= last + STEP {
            self.shown.store(bytes, Ordering::Relaxed);
            if bytes >= STEP && std::io::stderr().is_terminal() {
                let _ = write!(std::io::stderr(), "\r{} MB", bytes >> 20);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if *self.shown.get_mut() >= STEP && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

/// Pushes a module.
pub fn push(
    reference: &Reference,
    wasm: &[u8],
    layout: Layout,
    annotations: &[(String, String)],
    settings: &RegistrySettings,
) -> Result<Pushed> {
    if reference.digest.is_some() {
        bail!("{reference}: push to a tag; the digest comes of what is pushed");
    }
    let Image { config, layers, manifest, media_type } = Image::of(wasm, layout, annotations);
    let credentials = match &settings.config {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => {
                let shown = || path.display().to_string();
                DockerConfig::parse(&text).and_then(|config| config.credentials(reference)).with_context(shown)?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(anyhow!("{}: {e}", path.display())),
        },
        None => None,
    };
    let digest = runtime()?.block_on(async {
        let registries = Registries::new(RegistryOptions {
            resolver: Arc::new(GuardedResolver::system()?),
            trust: Trust::Roots(settings.roots.clone()),
            insecure: settings.insecure.clone(),
            idle: IDLE,
        })?;
        let mut session = registries.session(reference, credentials, Action::Push, Arc::new(Progress::default())).await?;
        if session.is_plain() {
            eprintln!("warning: {} speaks HTTP without TLS", reference.registry);
        }
        for blob in layers.iter().chain([&config]) {
            session.push_blob(blob).await?;
        }
        Ok::<_, anyhow::Error>(session.push_manifest(reference.tag(), media_type, &manifest).await?)
    });
    let digest = digest.with_context(|| reference.to_string())?;
    let pinned = Reference { tag: Some(reference.tag().into()), digest: Some(digest.clone()), ..reference.clone() };
    Ok(Pushed { reference: pinned.to_string(), digest: digest.to_string(), size: wasm.len() })
}

/// Pulls the module of an image, and says which image it was.
pub fn pull(reference: &Reference, settings: &RegistrySettings) -> Result<Code> {
    let image = WasmImage {
        reference: reference.to_string(),
        sha256: None,
        pull_policy: PullPolicy::Always,
        pull_secret: None,
        verification_key: None,
        namespace: "".into(),
        version: 0,
    };
    runtime()?.block_on(async {
        let options = FetchOptions::new(Arc::new(GuardedResolver::system()?));
        let options = FetchOptions { registry: settings.clone(), ..options };
        code::load(&WasmCode::Image(Box::new(image)), &options, Arc::new(Progress::default())).await.map_err(|e| anyhow!("{e}"))
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// All parts of an image.
struct Image {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    media_type: &'static str,
}

impl Image {
    /// The same module gives the same image: nothing of it is of the time or the machine.
    fn of(wasm: &[u8], layout: Layout, annotations: &[(String, String)]) -> Image {
        let (config, config_type, layers) = match layout {
            Layout::Compat => {
                let archive = tar("plugin.wasm", wasm);
                let config = json!({
                    "architecture": "amd64",
                    "os": "linux",
                    "config": {},
                    "rootfs": { "type": "layers", "diff_ids": [Digest::of(&archive).to_string()] },
                    "history": [{ "created_by": "weir plugin push" }],
                });
                (config, media::OCI_CONFIG, vec![(media::OCI_LAYER, gzip(&archive))])
            }
            Layout::Artifact => {
                let config = json!({ "type": "envoy_proxy" });
                let layers = vec![(MODULE, wasm.to_vec()), (CONFIG_OF_ARTIFACT, config.to_string().into_bytes())];
                (config, CONFIG_OF_ARTIFACT, layers)
            }
        };
        let config = config.to_string().into_bytes();
        let descriptor = |media_type: &str, content: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(content).to_string(), "size": content.len() });
        let mut all: serde_json::Map<String, serde_json::Value> =
            annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        if layout == Layout::Compat {
            // As tools that build such images mark them.
            all.insert("module.wasm.image/variant".into(), json!("compat"));
        }
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": descriptor(config_type, &config),
            "layers": layers.iter().map(|(media_type, content)| descriptor(media_type, content)).collect::<Vec<_>>(),
        });
        if !all.is_empty() {
            manifest["annotations"] = all.into();
        }
        let layers = layers.into_iter().map(|(_, content)| content).collect();
        Image { config, layers, manifest: manifest.to_string().into_bytes(), media_type: media::OCI_MANIFEST }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

/// An archive of one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_module_gives_the_same_image() {
        let wasm = b"\0asm\x01\0\0\0";
        for layout in [Layout::Compat, Layout::Artifact] {
            let notes = [("org.opencontainers.image.version".to_string(), "1.2".to_string())];
            let (one, other) = (Image::of(wasm, layout, &notes), Image::of(wasm, layout, &notes));
            assert_eq!(one.manifest, other.manifest);
            let manifest: serde_json::Value = serde_json::from_slice(&one.manifest).unwrap();
            assert_eq!(manifest["annotations"]["org.opencontainers.image.version"], "1.2");
            for (layer, described) in one.layers.iter().zip(manifest["layers"].as_array().unwrap()) {
                assert_eq!(described["digest"], Digest::of(layer).to_string());
            }
            let module = one.layers.iter().find_map(|layer| code::unpack(layer.clone().into(), 1 << 20).ok());
            assert_eq!(module.unwrap(), &wasm[..]);
        }
        // As GNU tar sums it up.
        let archive = tar("plugin.wasm", wasm);
        assert_eq!((archive.len() % 512, &archive[257..265]), (0, &b"ustar\x0000"[..]));
    }
}
