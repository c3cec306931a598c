//! Who may use the port with TLS, and what lies on the disk.
use super::{
    hub::{Edge, JSON, Link, prepare},
    token,
};
use crate::{
    harness::{Kube, eventually},
    tls_client::Client,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};
use weir_test::{Ca, Signed, client::Answer};

/// A certificate of the rig.
pub fn identity(kube: &Kube, name: &str) -> Signed {
    let read = |end: &str| fs::read_to_string(kube.folder().join(format!("pki/{name}.{end}"))).unwrap();
    let (pem, key) = (read("crt"), read("key"));
    let mut signed = Ca::new().sign(&[]);
    signed.der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    (signed.pem, signed.key) = (pem, key);
    signed
}

#[test]
fn the_port_with_tls_wants_the_certificate_of_the_node_or_a_token() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    let authority = fs::read_to_string(kube.folder().join("pki/ca.crt")).unwrap();
    let ask = |identity: Option<&Signed>, headers: &[(&str, &str)]| -> io::Result<Answer> {
        let client = Client { trust: Some(&authority), identity, ..Client::default() };
        client.connect(edge.secure, "localhost")?.0.request("GET", "localhost", "/api/v1/namespaces/default/serviceaccounts", headers, b"")
    };
    let (node, other, token) = (identity(&kube, "node"), identity(&kube, "kubelet-client"), token(&kube));
    let bearer = [JSON, ("authorization", token.as_str())];
    type Case<'a> = (&'a str, Option<&'a Signed>, &'a [(&'a str, &'a str)], u16);
    let table: [Case<'_>; 6] = [
        ("the node", Some(&node), &[JSON], 200),
        ("a token", None, &bearer, 200),
        ("a token beside another certificate", Some(&other), &bearer, 200),
        ("neither", None, &[JSON], 401),
        ("another certificate of the cluster", Some(&other), &[JSON], 401),
        ("a token that the API server refuses", None, &[JSON, ("authorization", "Bearer none")], 401),
    ];
    for (who, identity, headers, wanted) in table {
        // On a busy machine the API server may be slow for a moment.
        let answer = eventually(who, || Some(ask(identity, headers).unwrap()).filter(|answer| answer.status != 503));
        assert_eq!(answer.status, wanted, "{who}: {}", answer.body);
        assert_eq!(answer.json()["kind"] == "Status", wanted == 401, "{who}: {}", answer.body);
    }
    let foreign = Ca::new().sign_with(&[], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:rig-node");
    });
    assert_eq!(ask(Some(&foreign), &[JSON]).unwrap().status, 401, "a certificate of another authority");
}

/// All files of the cache but the key.
fn bytes_on_disk(cache: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut all: Vec<_> = files.filter(|path| !path.ends_with("test.key")).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn what_is_kept_is_encrypted_and_another_key_opens_nothing() {
    let kube = Kube::bare();
    prepare(&kube);
    // Values are compressed; names are not, so that they show whether the log can be read.
    let (name, words) = ("secret-7f39ab41028d4e6c", "c3VwZXItc2VjcmV0LTdmMzlhYjQxMDI4ZDRlNmM");
    kube.apply(&format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: default}}, data: {{password: {words}=}}}}"));
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let secrets = "/api/v1/namespaces/default/secrets";
    for encrypted in [false, true] {
        let folder = cache.path().join(encrypted.to_string());
        let flag = format!("--disk-cache-encryption={encrypted}");
        let edge = Edge::with(&kube, &link, &folder, &[&flag]);
        let list = edge.kept(secrets, JSON);
        assert!(list.body.contains(words));
        eventually("the list is kept", || edge.admin("/metrics").body.contains("cache_lists{resource=\"secrets\"} 1").then_some(()));
        edge.kill();
        let files = bytes_on_disk(&folder);
        let found = |text: &str| files.iter().any(|(_, bytes)| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
        assert_eq!(found(name), !encrypted, "encrypted: {encrypted}");
        assert!(!(encrypted && found(words)));
    }
    let plain = cache.path().join("false");
    // Another key, none, and a key that is missing: the hub does not start, and the store stays as it is.
    let folder = cache.path().join("true");
    let before = bytes_on_disk(&folder);
    let key = cache.path().join("other.key");
    fs::write(&key, "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n").unwrap();
    let missing = cache.path().join("missing.key");
    let table = [
        (vec!["--disk-cache-key-file", key.to_str().unwrap()], "is encrypted with another key"),
        (vec!["--disk-cache-encryption=false"], "is encrypted, and no key is given"),
        (vec!["--disk-cache-key-file", missing.to_str().unwrap()], "cannot be read without it: restore the key"),
    ];
    // A store of a version that did not encrypt.
    let old = [
        (vec!["--disk-cache-key-file", key.to_str().unwrap()], "is not encrypted: turn encryption off to go on with it"),
        (vec!["--disk-cache-key-file", missing.to_str().unwrap()], "is not encrypted: turn encryption off to go on with it"),
    ];
    let all = table.into_iter().map(|case| (&folder, case)).chain(old.into_iter().map(|case| (&plain, case)));
    for (folder, (flags, says)) in all {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["edge", "--node-name", "rig-node", "--proxy-port", "0", "--server-addr", &link.url()]).arg("--disk-cache-path");
        let output = command.arg(folder).args(&flags).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{flags:?}: {text}");
    }
    assert_eq!(bytes_on_disk(&folder), before);
    link.cut();
    let edge = Edge::start(&kube, &link, &folder);
    let answer = eventually("an answer that was kept", || Some(edge.get(secrets, &[JSON])).filter(|a| a.header("weir-cache").is_some()));
    assert!(answer.status == 200 && answer.body.contains(words), "{answer:?}");
}
