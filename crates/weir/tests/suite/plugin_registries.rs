//! Images of registries that ask who is there, and what is signed: `weir plugin push` and `pull`, pull secrets, the disk, cosign.
use crate::{
    harness::{Start, TO_ECHO, Weir, eventually, free_port, weir},
    plugin_images::{OCI, hex, module},
    plugin_kit::marking,
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use weir_test::{
    Ca, RegistryServer, Signed,
    registry::{REGISTRY_USER, RegistryAuth, RegistrySetup},
    self_signed,
};

/// A docker configuration with credentials for one registry.
fn docker_config(host: &str, user: &str, password: &str) -> String {
    let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
    json!({ "auths": { host: { "auth": auth } } }).to_string()
}

fn pull_secret(namespace: &str, name: &str, config: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {namespace} }}\ntype: kubernetes.io/dockerconfigjson\n\
         data: {{ .dockerconfigjson: {} }}\n",
        BASE64_STANDARD.encode(config)
    )
}

fn plugin(namespace: &str, name: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    format!(
        "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  {spec}\n"
    )
}

fn status(weir: &Weir, name: &str) -> Option<Value> {
    let all = weir.admin("/plugins").json();
    all["plugins"].as_array().unwrap().iter().find(|p| p["name"] == name).cloned()
}

/// Waits for a state of a plugin, with a reason that has this text.
fn until(weir: &Weir, name: &str, state: &str, says: &str) -> Value {
    eventually(&format!("{name} {state} {says}"), || {
        let status = status(weir, name)?;
        let reason = status["reason"].as_str().unwrap_or_default();
        (status["state"] == state && reason.contains(says)).then_some(status)
    })
}

/// A folder with what a command line needs.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap() }
    }
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
    /// Without the configuration of whoever runs the test.
    fn weir(&self, args: &[&str]) -> Output {
        weir().arg("plugin").args(args).env("DOCKER_CONFIG", self.folder.path().join("none")).output().unwrap()
    }
    fn push(&self, image: &str, name: &str, args: &[&str]) -> Result<Value, String> {
        let module = self.file("push.wat", marking(name));
        let output = self.weir(&[&["push", image, module.to_str().unwrap(), "--json"], args].concat());
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn credentials_of_one_namespace_pull_for_no_other() {
    let (ca, desk) = (Ca::new(), Desk::new());
    let signed = ca.sign(&["127.0.0.1"]);
    let setup = RegistrySetup { auth: RegistryAuth::Basic, tls: Some((signed.pem.clone(), signed.key.clone())) };
    let registry = RegistryServer::start(&setup);
    let image = format!("{}/team/private:1", registry.host());
    let (user, password) = REGISTRY_USER;
    let ca_file = desk.file("ca.pem", ca.pem());
    let config = docker_config(&registry.host(), user, password);
    let good = desk.file("good.json", &config);
    let bad = desk.file("bad.json", docker_config(&registry.host(), user, "wrong"));
    let ca_file = ["--registry-ca-file", text(&ca_file)];
    let with = |config: &'static str, path: &Path| [ca_file[0].into(), ca_file[1].into(), config.into(), text(path).to_string()];

    // The command line.
    let cases: [(Vec<String>, &str); 4] = [
        (vec![], "UnknownIssuer"),
        (ca_file.map(String::from).to_vec(), "asks for credentials"),
        (with("--registry-config", &bad).to_vec(), "refuses the credentials"),
        (vec!["--registry-config".into(), "/nowhere/config.json".into()], "/nowhere/config.json"),
    ];
    for (args, says) in cases {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let error = desk.push(&image, "private", &args).unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
    }
    let args = with("--registry-config", &good);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let pushed = desk.push(&image, "private", &args).unwrap();
    assert_eq!(pushed, desk.push(&image, "private", &args).unwrap(), "the same module is the same image");
    let artifact = desk.push(&format!("{}/team/artifact:1", registry.host()), "artifact", &[&args[..], &["--artifact"]].concat()).unwrap();
    let out = desk.folder.path().join("pulled.wasm");
    for (pushed, name) in [(&pushed, "private"), (&artifact, "artifact")] {
        let pulled = desk.weir(&[&["pull", pushed["reference"].as_str().unwrap(), "-o", text(&out)], &args[..]].concat());
        assert!(pulled.status.success(), "{pulled:?}");
        assert_eq!(fs::read(&out).unwrap(), module(name));
    }
    let seen = desk.weir(&[&["inspect", &format!("oci://{image}")], &args[..]].concat());
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(seen.contains(pushed["digest"].as_str().unwrap()) && seen.contains("It would run here."), "{seen}");
    let missing = desk.weir(&[&["pull", &format!("{}/team/private:2", registry.host())], &args[..]].concat());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("with the tag 2"), "{missing:?}");

    // The gateway. It keeps what it fetched.
    let cache = tempfile::tempdir().unwrap();
    let nobody = free_port();
    let url = format!("url: oci://{image}");
    let mine = plugin("team-a", "mine", &format!("{url}\nimagePullSecret: registry"));
    let others = [
        // Neither the image nor its digest nor that of the module is enough.
        plugin("team-b", "by-tag", &url),
        plugin("team-b", "by-digest", &format!("url: oci://{}", pushed["reference"].as_str().unwrap())),
        plugin("team-b", "by-module", &format!("url: http://127.0.0.1:{nobody}/a.wasm\nsha256: {}", hex(&module("private")))),
        plugin("team-b", "with-no-secret", &format!("{url}\nimagePullSecret: registry")),
        plugin("team-b", "with-bad-secret", &format!("{url}\nimagePullSecret: other")),
        plugin("team-b", "with-wrong-password", &format!("{url}\nimagePullSecret: wrong")),
        pull_secret("team-b", "other", &docker_config("other.test", "u", "p")),
        pull_secret("team-b", "wrong", &docker_config(&registry.host(), user, "wrong")),
    ]
    .concat();
    let start = |objects: &str| {
        let start = Start::new().file("gateway.yaml", TO_ECHO).file("plugins.yaml", objects).cache(cache.path());
        start.arg(ca_file[0]).arg(ca_file[1]).env("DOCKER_CONFIG", desk.folder.path().join("none"))
    };
    let weir = start(&mine).run();
    until(&weir, "team-a/mine", "failed", "there is no Secret team-a/registry");
    weir.write("secret.yaml", &pull_secret("team-a", "registry", &config));
    let active = until(&weir, "team-a/mine", "active", "");
    assert_eq!(active["image"], pushed["reference"]);
    // Now that the image is on the disk.
    weir.write("others.yaml", &others);
    for (name, says) in [
        ("by-tag", "asks for credentials"),
        ("by-digest", "asks for credentials"),
        ("by-module", "refused"),
        ("with-no-secret", "there is no Secret team-b/registry"),
        ("with-bad-secret", "has no credentials for 127.0.0.1"),
        ("with-wrong-password", "refuses the credentials"),
    ] {
        until(&weir, &format!("team-b/{name}"), "failed", says);
    }
    drop(weir);

    // The registry takes connections and says nothing: the gateway is ready all the same, with what it may use.
    registry.signal("STOP");
    let slow = plugin("team-c", "new", &format!("url: oci://{}/team/new:1\nfailStrategy: FAIL_OPEN", registry.host()));
    let weir = start(&[mine, others, pull_secret("team-a", "registry", &config), slow].concat()).run();
    until(&weir, "team-a/mine", "active", "");
    until(&weir, "team-b/by-tag", "failed", "timed out");
    registry.signal("CONT");
    until(&weir, "team-c/new", "failed", "asks for credentials");
}

/// A token service: who shows [`REGISTRY_USER`] gets what is asked for, others may do nothing. Its URL.
fn token_service(key: &Signed) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let (user, password) = REGISTRY_USER;
    let wanted = format!("authorization: basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")).to_lowercase());
    let (der, pem) = (BASE64_STANDARD.encode(&key.der), key.key.clone());
    std::thread::spawn(move || {
        for mut io in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && matches!(io.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap_or_default();
            let query = url::Url::parse(&format!("http://a.test{target}")).unwrap();
            let scope = query.query_pairs().find(|(name, _)| name == "scope").map(|(_, value)| value.into_owned()).unwrap_or_default();
            let mut access = Vec::new();
            if let [kind, name, actions] = scope.split(':').collect::<Vec<_>>()[..]
                && head.to_lowercase().contains(&wanted)
            {
                access.push(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }));
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let claims = json!({ "iss": "issuer.test", "sub": user, "aud": "registry.test", "exp": now + 600, "nbf": now - 60,
                "iat": now - 60, "jti": "1", "access": access });
            let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [der] });
            let signed = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
            let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(&ECDSA_P256_SHA256_FIXED_SIGNING, &pem, signed.as_bytes()));
            let body = json!({ "token": format!("{signed}.{signature}") }).to_string();
            let _ = write!(io, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    url
}

fn sign(algorithm: &'static EcdsaSigningAlgorithm, key: &str, text: &[u8]) -> Vec<u8> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()).unwrap();
    key.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec()
}

#[test]
fn a_token_service_is_asked_for_each_repository() {
    let (desk, key) = (Desk::new(), self_signed(&["issuer.test"]));
    let auth = RegistryAuth::Token { realm: token_service(&key), certificate: key.pem.clone() };
    let registry = RegistryServer::start(&RegistrySetup { auth, tls: None });
    let image = format!("{}/team/private:1", registry.host());
    let (user, password) = REGISTRY_USER;
    let config = docker_config(&registry.host(), user, password);
    let error = desk.push(&image, "token", &[]).unwrap_err();
    assert!(error.contains("asks for credentials"), "{error}");
    let file = desk.file("config.json", &config);
    desk.push(&image, "token", &["--registry-config", text(&file)]).unwrap();
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin("default", "none", &format!("url: oci://{image}")));
    let weir = weir.env("DOCKER_CONFIG", desk.folder.path().join("none")).run();
    until(&weir, "default/none", "failed", "asks for credentials");
    let with = plugin("default", "with", &format!("url: oci://{image}\nimagePullSecret: registry"));
    weir.write("plugin.yaml", &[with, pull_secret("default", "registry", &config)].concat());
    until(&weir, "default/with", "active", "");
    weir.get_until("h", "/", |a| a.header("x-token") == Some("seen"));
    // The configuration file of the gateway, for what has no secret.
    drop(weir);
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin("default", "file", &format!("url: oci://{image}")));
    let weir = weir.env("DOCKER_CONFIG", desk.folder.path().into()).run();
    until(&weir, "default/file", "active", "");
}

#[test]
fn a_tag_that_moves_swaps_the_plugin_under_traffic() {
    let (desk, registry) = (Desk::new(), RegistryServer::start(&RegistrySetup::default()));
    let image = format!("{}/team/live", registry.host());
    let first = desk.push(&format!("{image}:latest"), "first", &[]).unwrap();
    desk.push(&format!("{image}:1"), "first", &[]).unwrap();
    // No tag: each version of the object looks again. A tag: never again.
    let objects = |version: &str| {
        [plugin("default", "latest", &format!("url: {image}")), plugin("default", "kept", &format!("url: oci://{image}:1\npriority: 1"))]
            .concat()
            .replace("namespace: default }", &format!("namespace: default, annotations: {{ restarted: '{version}' }} }}"))
    };
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", objects("1")).run();
    let before = until(&weir, "default/latest", "active", "");
    until(&weir, "default/kept", "active", "");
    assert_eq!(before["image"], format!("{image}:latest@{}", first["digest"].as_str().unwrap()));
    weir.get_until("h", "/", |a| a.header("x-first") == Some("seen"));
    let second = desk.push(&format!("{image}:latest"), "second", &[]).unwrap();
    desk.push(&format!("{image}:1"), "second", &[]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(weir.get("h", "/").status, 200);
                answers += 1;
            }
            answers
        });
        weir.write("plugin.yaml", &objects("2"));
        let swapped = eventually("the second image", || {
            status(&weir, "default/latest").filter(|s| s["image"].as_str().is_some_and(|i| i.ends_with(second["digest"].as_str().unwrap())))
        });
        assert_eq!(swapped["generation"], 2);
        weir.get_until("h", "/", |a| a.header("x-second") == Some("seen"));
        done.store(true, Ordering::Relaxed);
        assert!(traffic.join().unwrap() > 0);
    });
    let kept = status(&weir, "default/kept").unwrap();
    assert!(kept["generation"] == 1 && kept["image"].as_str().unwrap().ends_with(first["digest"].as_str().unwrap()), "{kept}");
}

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Signs as `cosign sign --key` does: `of` is what the text names.
fn cosign(registry: &RegistryServer, image: &Value, of: &Value, key: &rcgen::KeyPair) {
    let digest = |pushed: &Value| pushed["digest"].as_str().unwrap().to_string();
    let payload = json!({ "critical": { "identity": { "docker-reference": "" }, "image": { "docker-manifest-digest": digest(of) },
        "type": "cosign container image signature" }, "optional": null })
    .to_string();
    let signature = BASE64_STANDARD.encode(sign(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_pem(), payload.as_bytes()));
    let blob = |content: &[u8]| {
        registry.put_blob("team/signed", &hex(content), content);
        json!({ "digest": format!("sha256:{}", hex(content)), "size": content.len() })
    };
    let (mut config, mut layer) = (blob(b"{}"), blob(payload.as_bytes()));
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    layer["mediaType"] = json!(SIMPLE_SIGNING);
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer] }).to_string();
    registry.put_manifest("team/signed", &format!("{}.sig", digest(image).replace(':', "-")), OCI, &manifest);
}

#[test]
fn only_what_the_key_has_signed_runs() {
    let (desk, registry) = (Desk::new(), RegistryServer::start(&RegistrySetup::default()));
    let [key, other] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
    let push = |tag: &str| desk.push(&format!("{}/team/signed:{tag}", registry.host()), tag, &[]).unwrap();
    let [good, replayed, foreign, unsigned] = ["good", "replayed", "foreign", "unsigned"].map(push);
    cosign(&registry, &good, &good, &key);
    cosign(&registry, &replayed, &good, &key);
    cosign(&registry, &foreign, &foreign, &other);
    let pem = |key: &rcgen::KeyPair| format!("verificationKey: |\n  {}", key.public_key_pem().trim().replace('\n', "\n  "));
    let url = |tag: &str| format!("url: oci://{}/team/signed:{tag}", registry.host());
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: keys, namespace: default }}\nstringData:\n  cosign.pub: |\n    {}\n",
        key.public_key_pem().trim().replace('\n', "\n    ")
    );
    let pinned = format!("url: oci://{}", good["reference"].as_str().unwrap());
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("keys.yaml", secret).file("code.wat", marking("code")).run();
    for (name, spec, state, says) in [
        ("without", url("unsigned"), "active", ""),
        ("unsigned", format!("{}\n{}", url("unsigned"), pem(&key)), "failed", "the image is not signed"),
        ("good", format!("{}\n{}", url("good"), pem(&key)), "active", ""),
        ("pinned", format!("{pinned}\n{}", pem(&key)), "active", ""),
        ("secret", format!("{}\nverificationKey: k8s://keys", url("good")), "active", ""),
        ("secret-with-namespace", format!("{}\nverificationKey: k8s://default/keys", url("good")), "active", ""),
        ("replayed", format!("{}\n{}", url("replayed"), pem(&key)), "failed", "is that of another image"),
        ("foreign", format!("{}\n{}", url("foreign"), pem(&key)), "failed", "is signed, but not with verificationKey"),
        // It is on the disk, and was verified for another key.
        ("other-key", format!("{}\n{}", url("good"), pem(&other)), "failed", "is signed, but not with verificationKey"),
        (
            "no-secret",
            format!("{}\nverificationKey: k8s://nobody", url("good")),
            "failed",
            "no Secret default/nobody with the key cosign.pub",
        ),
        (
            "elsewhere",
            format!("{}\nverificationKey: k8s://other/keys", url("good")),
            "failed",
            "does not name a Secret of the same namespace",
        ),
        ("no-key", format!("{}\nverificationKey: abc", url("good")), "failed", "not a public key in PEM"),
        ("file", format!("url: file://code.wat\n{}", pem(&key)), "failed", "only images can be verified"),
    ] {
        weir.write("plugin.yaml", &plugin("default", name, &spec));
        until(&weir, &format!("default/{name}"), state, says);
        if state == "failed" {
            weir.get_until("h", "/", |a| a.status == 503);
        }
    }
    // Signed later, it runs.
    weir.write("plugin.yaml", &plugin("default", "later", &format!("{}\n{}", url("unsigned"), pem(&key))));
    until(&weir, "default/later", "failed", "the image is not signed");
    cosign(&registry, &unsigned, &unsigned, &key);
    until(&weir, "default/later", "active", "");
}
