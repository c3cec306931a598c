//! Plugins in images of a real registry: every layout that tools make, who may pull, and what happens when something is wrong.
use crate::{
    harness::{Start, TO_ECHO, free_port},
    plugin_kit::{istio, marking, status, tried},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, io::Write};
use weir_test::{RegistryServer, registry::RegistrySetup, tar};

pub const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const MODULE: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
const REPOSITORY: &str = "team/plugin";

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A plugin that marks responses with `x-NAME`.
pub fn module(name: &str) -> Vec<u8> {
    wat::parse_str(marking(name)).unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Puts images into a registry without authentication.
struct Images(RegistryServer);

impl Images {
    fn start() -> Images {
        Images(RegistryServer::start(&RegistrySetup::default()))
    }

    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = hex(content);
        self.0.put_blob(REPOSITORY, &digest, content);
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
    }

    /// Returns the descriptor of the manifest.
    fn image(&self, tag: &str, kind: &str, layers: &[(&str, Vec<u8>)]) -> Value {
        let config = self.blob(
            if kind == DOCKER { "application/vnd.docker.container.image.v1+json" } else { "application/vnd.oci.image.config.v1+json" },
            b"{}",
        );
        let layers: Vec<_> = layers.iter().map(|(media_type, content)| self.blob(media_type, content)).collect();
        self.manifest(tag, kind, &json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers }))
    }

    fn manifest(&self, tag: &str, kind: &str, content: &Value) -> Value {
        let text = content.to_string();
        self.0.put_manifest(REPOSITORY, tag, kind, &text);
        json!({ "mediaType": kind, "digest": format!("sha256:{}", hex(text.as_bytes())), "size": text.len() })
    }

    fn index(&self, tag: &str, kind: &str, images: &[(Value, Value)]) -> Value {
        let one = |(image, more): &(Value, Value)| {
            let mut image = image.clone();
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image
        };
        let manifests: Vec<_> = images.iter().map(one).collect();
        self.manifest(tag, kind, &json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests }))
    }

    fn named(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.0.host())
    }
}

fn to_echo() -> Start<'static> {
    Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", "")
}

fn compat(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![(OCI_LAYER, gzip(&tar(&[("plugin.wasm", &module(name))])))]
}

#[test]
fn every_layout_gives_the_module() {
    let images = Images::start();
    let of = |name: &str| tar(&[("README", b"text"), ("plugin.wasm", &module(name))]);
    let spec = || ("application/vnd.module.wasm.spec.v1+yaml", b"apiVersion: 1.0.0".to_vec());
    let doc = || ("application/vnd.module.wasm.doc.v1+markdown", b"# Plugin".to_vec());
    let config = || ("application/vnd.module.wasm.config.v1+json", b"{}".to_vec());
    images.image("docker", DOCKER, &[(DOCKER_LAYER, gzip(&of("docker")))]);
    images.image("compat", OCI, &[(OCI_LAYER, gzip(&of("compat")))]);
    images.image("base", OCI, &[(OCI_LAYER, gzip(&tar(&[("etc/a", b"b")]))), (OCI_LAYER, gzip(&of("base")))]);
    images.image("artifact", OCI, &[(MODULE, module("artifact")), config()]);
    images.image("artifact-other-way", OCI, &[config(), (MODULE, module("artifact-other-way"))]);
    images.image("single", OCI, &[(MODULE, module("single"))]);
    images.image("oras", OCI, &[("application/wasm", module("oras"))]);
    images.image("higress", OCI, &[spec(), doc(), ("image/png", b"\x89PNG".to_vec()), (OCI_LAYER, gzip(&of("higress")))]);
    images.image("higress-first", OCI, &[(OCI_LAYER, gzip(&of("higress-first"))), spec(), doc()]);
    images.image("zstd", OCI, &[("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&of("zstd")))]);
    images.image("tar", OCI, &[("application/vnd.oci.image.layer.v1.tar", of("tar"))]);
    images.image("gzip", OCI, &[("application/octet-stream", gzip(&module("gzip")))]);
    images.image("mislabelled", OCI, &[(OCI_LAYER, module("mislabelled"))]);
    images.image("deep", OCI, &[(OCI_LAYER, gzip(&tar(&[("./a/b/plugin.wasm", &module("deep"))])))]);
    let amd64 = images.image("amd64", OCI, &compat("amd64"));
    let wasm = images.image("wasm", OCI, &compat("wasm"));
    let platform = |os: &str, architecture: &str| json!({ "platform": { "os": os, "architecture": architecture } });
    let attestation = json!({ "platform": { "os": "unknown", "architecture": "unknown" },
        "annotations": { "vnd.docker.reference.type": "attestation-manifest" } });
    images.index("for-wasi", OCI_INDEX, &[(amd64.clone(), platform("linux", "amd64")), (wasm.clone(), platform("wasi", "wasm"))]);
    images.index("for-anything", OCI_INDEX, &[(amd64.clone(), platform("linux", "amd64")), (wasm.clone(), json!({}))]);
    images.index("for-linux", DOCKER_LIST, &[(wasm, attestation), (amd64, platform("linux", "amd64"))]);
    let weir = to_echo().run();
    for (tag, marks) in [
        ("docker", "docker"),
        ("compat", "compat"),
        ("base", "base"),
        ("artifact", "artifact"),
        ("artifact-other-way", "artifact-other-way"),
        ("single", "single"),
        ("oras", "oras"),
        ("higress", "higress"),
        ("higress-first", "higress-first"),
        ("zstd", "zstd"),
        ("tar", "tar"),
        ("gzip", "gzip"),
        ("mislabelled", "mislabelled"),
        ("deep", "deep"),
        ("for-wasi", "wasm"),
        ("for-anything", "wasm"),
        ("for-linux", "amd64"),
    ] {
        weir.write("plugin.yaml", &istio(tag, &format!("url: oci://{}", images.named(tag))));
        assert_eq!(tried(&weir, tag), "active", "{tag}: {:?}", status(&weir, tag));
        weir.get_until("h", "/", |a| a.status == 200 && a.header(&format!("x-{marks}")) == Some("seen"));
        let status = status(&weir, tag).unwrap();
        let image = status["image"].as_str().unwrap();
        assert!(image.starts_with(&format!("{}@sha256:", images.named(tag))), "{image}");
    }
}

/// Reasons for which there is no module.
#[test]
fn an_image_that_cannot_be_used_says_why() {
    let images = Images::start();
    let weir = to_echo().run();
    let good = images.image("good", OCI, &compat("good"));
    let digest = good["digest"].as_str().unwrap().to_string();
    images.image("text", OCI, &[(OCI_LAYER, gzip(&tar(&[("plugin.txt", b"text")])))]);
    images.image("docs", OCI, &[("application/vnd.module.wasm.doc.v1+markdown", b"# No module".to_vec())]);
    images.index("arm", OCI_INDEX, &[(good, json!({ "platform": { "os": "linux", "architecture": "arm64" } }))]);
    // What is on the disk of the registry is not what was pushed.
    let damaged = compat("damaged");
    images.image("damaged", OCI, &damaged);
    fs::write(images.0.blob(&hex(&damaged[0].1)), vec![0; damaged[0].1.len()]).unwrap();
    let cut = compat("cut");
    images.image("cut", OCI, &cut);
    let path = images.0.blob(&hex(&cut[0].1));
    fs::write(&path, &cut[0].1[..100]).unwrap();
    // A layer that says it is far larger than anything that is accepted.
    let mut huge = images.blob(OCI_LAYER, b"small");
    huge["size"] = json!(1u64 << 40);
    let config = images.blob("application/vnd.oci.image.config.v1+json", b"{}");
    images.manifest("huge", OCI, &json!({ "schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [huge] }));
    let nobody = free_port();
    let at = |tag: &str| format!("url: oci://{}", images.named(tag));
    let wrong = "0".repeat(64);
    for (name, spec, says) in [
        ("no-tag", at("nothing"), "with the tag nothing"),
        ("no-repository", format!("url: oci://{}/no/where:1", images.0.host()), "has no no/where"),
        ("no-digest", format!("url: oci://{}/{REPOSITORY}@sha256:{wrong}", images.0.host()), "sha256:0000"),
        ("text", at("text"), "a tar archive without plugin.wasm in it"),
        ("docs", at("docs"), "its layers have the types [application/vnd.module.wasm.doc.v1+markdown]"),
        ("arm", at("arm"), "it has linux/arm64"),
        ("damaged", at("damaged"), "is not what its digest says"),
        ("cut", at("cut"), "a layer of the image"),
        ("huge", at("huge"), "has 1099511627776 bytes; at most 268435456 are accepted"),
        ("sha256", format!("{}\nsha256: '{wrong}'", at("good")), "not sha256:0000"),
        ("refused", format!("url: oci://127.0.0.1:{nobody}/a/b:1"), "refused"),
        ("metadata", "url: oci://169.254.169.254/a/b:1".into(), "169.254.169.254 is not reached"),
        ("two", format!("url: oci://{}/{REPOSITORY}@{digest}\nsha256: '{wrong}'", images.0.host()), "is not the digest in url"),
        ("name", "url: oci://r.test/UPPER:1".into(), "is not a repository"),
    ] {
        weir.write("plugin.yaml", &istio(name, &spec));
        assert_eq!(tried(&weir, name), "failed", "{name}");
        weir.get_until("h", "/", |a| a.status == 503);
        let status = status(&weir, name).unwrap();
        assert!(status["reason"].as_str().unwrap().contains(says), "{name}: {status}");
    }
    // By each of the digests that it has.
    let wasm = hex(&module("good"));
    for (name, sha256) in [("by-manifest", digest.trim_start_matches("sha256:")), ("by-module", &wasm)] {
        weir.write("plugin.yaml", &istio(name, &format!("{}\nsha256: {sha256}", at("good"))));
        assert_eq!(tried(&weir, name), "active", "{name}: {:?}", status(&weir, name));
    }
}
