//! How a hub gets its certificates, renews them, and lives with those that are of no use.
use super::hub::{Edge, JSON, Link, prepare};
use crate::{
    harness::{Kube, eventually},
    tls_client::Client,
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use weir_net::tls::{Details, hex_digest};
use weir_test::{
    Ca, Signed,
    kube::programs::{API, programs},
};

const TOKEN: &str = "abcdef.0123456789abcdef";
const LIST: &str = "/api/v1/namespaces/default/serviceaccounts";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A cluster whose controller manager signs certificates with an authority of this test.
struct Cluster {
    kube: Kube,
    ca: Ca,
    folder: tempfile::TempDir,
    manager: Child,
}

impl Cluster {
    fn start() -> Cluster {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = (folder.path().join("ca.crt"), folder.path().join("ca.key"));
        fs::write(&certificate, ca.pem()).unwrap();
        fs::write(&key, ca.key()).unwrap();
        let trusted = format!("--client-ca-file={}", certificate.display());
        let flags = ["-api-only", "-apiserver-arg", &trusted, "-apiserver-arg", "--enable-bootstrap-token-auth"];
        let kube = Kube::with(programs(&[API, &["kube-controller-manager"]].concat()).unwrap(), &flags, &[]);
        prepare(&kube);
        kube.apply(&format!("{}\n---\n{BOOTSTRAP}", cluster_info(&kube, &ca)));
        let mut manager = kube.command("kube-controller-manager");
        manager.arg("--kubeconfig").arg(kube.kubeconfig()).arg("--cluster-signing-cert-file").arg(&certificate);
        manager.arg("--cluster-signing-key-file").arg(&key).args(["--leader-elect=false", "--bind-address=127.0.0.1"]).args([
            "--controllers",
            "certificatesigningrequest-signing-controller,certificatesigningrequest-approving-controller,bootstrap-signer-controller",
        ]);
        let log = fs::File::create(folder.path().join("manager.log")).unwrap();
        let manager = manager.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let cluster = Cluster { kube, ca, folder, manager };
        eventually("cluster-info is signed", || {
            let info = cluster.kube.object("/api/v1/namespaces/kube-public/configmaps/cluster-info").unwrap();
            info["data"]["jws-kubeconfig-abcdef"].as_str().map(drop)
        });
        cluster
    }

    fn authority(&self) -> String {
        fs::read_to_string(self.kube.folder().join("pki/ca.crt")).unwrap()
    }

    /// A certificate of the node, valid in these years.
    fn node(&self, from: i32, to: i32) -> Signed {
        self.ca.sign_with(&[], |params| {
            params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
            params.distinguished_name.push(DnType::CommonName, "system:node:rig-node");
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        })
    }

    /// A file with both authorities: that of API servers, and that of clients.
    fn both(&self) -> PathBuf {
        let file = self.folder.path().join("both.crt");
        fs::write(&file, [self.authority(), self.ca.pem()].concat()).unwrap();
        file
    }

    /// Requests for certificates so far: who made them.
    fn requests(&self) -> Vec<Value> {
        self.kube.object(REQUESTS).unwrap()["items"].as_array().unwrap().clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.manager.kill();
        let _ = self.manager.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("manager.log")).unwrap_or_default();
            eprintln!("--- kube-controller-manager:\n{}\n---", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// What `kubeadm init` makes for nodes that join.
const BOOTSTRAP: &str = "
apiVersion: v1
kind: Secret
metadata: { name: bootstrap-token-abcdef, namespace: kube-system }
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: 'true'
  usage-bootstrap-signing: 'true'
  auth-extra-groups: system:bootstrappers:kubeadm:default-node-token
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: bootstrap }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-bootstrapper' }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:bootstrappers:kubeadm:default-node-token' }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: autoapprove }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:certificates.k8s.io:certificatesigningrequests:nodeclient' }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:bootstrappers:kubeadm:default-node-token' }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: cluster-info, namespace: kube-public }
rules: [{ apiGroups: [''], resources: [configmaps], resourceNames: [cluster-info], verbs: [get] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: cluster-info, namespace: kube-public }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: cluster-info }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:anonymous' }]
";

fn cluster_info(kube: &Kube, ca: &Ca) -> Value {
    let authority = fs::read_to_string(kube.folder().join("pki/ca.crt")).unwrap();
    let data = base64([authority, ca.pem()].concat());
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: ''\n  cluster:\n    server: https://10.244.0.1:6443\n    certificate-authority-data: {data}\n"
    );
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "cluster-info", "namespace": "kube-public" }, "data": { "kubeconfig": config } })
}

fn base64(text: String) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn pin(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Details::from_der(&der).unwrap().key_digest))
}

fn digest_of(file: &Path) -> String {
    hex_digest(&CertificateDer::from_pem_file(file).unwrap())
}

/// The certificate that the API server was shown for a request, by its digest; nothing where it was shown none that it accepts.
fn shown(edge: &Edge) -> Option<String> {
    let body = br#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let headers = [JSON, ("content-type", "application/json")];
    let answer = edge.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &headers, body);
    let id = &answer.json()["status"]["userInfo"]["extra"]["authentication.kubernetes.io/credential-id"][0];
    id.as_str()?.strip_prefix("X509SHA256=").map(str::to_string)
}

fn write(file: &Path, signed: &Signed) {
    fs::write(file, [signed.pem.as_str(), &signed.key].concat()).unwrap();
}

#[test]
fn a_node_is_let_in_by_a_token_and_renews_its_certificate() {
    let cluster = Cluster::start();
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&cluster.kube));
    let (cache, pki) = (folder.path().join("cache"), folder.path().join("pki"));
    let start = |token: &str, flags: &[&str]| {
        let mut command = Edge::command_of(&link, &cache);
        command.args(["--join-token", token]).arg("--cert-dir").arg(&pki).args(flags);
        Edge::run(command, &cache)
    };
    let (servers, clients) = (pin(&cluster.authority()), pin(&cluster.ca.pem()));
    let pins = format!("{servers},{clients}");
    // Whoever is not known is not trusted, and gets no request that is made with the token.
    let wrong = format!("sha256:{:064}", 0);
    for (token, pin, says) in [
        (TOKEN, wrong.as_str(), "none of the certificate authorities that the API server names"),
        (TOKEN, &clients, "127.0.0.1: invalid peer certificate"),
        ("abcdef.0123456789abcdee", &pins, "the signature of cluster-info does not match the token"),
        ("abcdee.0123456789abcdef", &pins, "cluster-info has no signature for the token abcdee"),
    ] {
        let edge = start(token, &["--discovery-token-ca-cert-hash", pin]);
        edge.says(says);
        assert_eq!(edge.get(LIST, &[JSON]).status, 503, "{says}");
    }
    assert_eq!(cluster.requests(), Vec::<Value>::new());

    let with_pins = ["--discovery-token-ca-cert-hash", pins.as_str()];
    let edge = start(TOKEN, &[&with_pins[..], &["--rotate-server-certificates", "--tls-san", "hub.test,10.0.0.9"]].concat());
    edge.says("the certificate of the node was issued");
    edge.kept(LIST, JSON);
    let current = pki.join("edge-client-current.pem");
    let first = digest_of(&current);
    assert_eq!(eventually("the certificate is shown", || shown(&edge)), first);
    let der = CertificateDer::from_pem_file(&current).unwrap();
    assert_eq!(Details::from_der(&der).unwrap().subject, "CN=system:node:rig-node,O=system:nodes");
    assert!(cluster.requests().iter().any(|request| request["spec"]["username"] == "system:bootstrap:abcdef"));

    // Until somebody approves its request, the hub serves with a certificate of its own.
    let trusts = |file: &str| {
        let authority = fs::read_to_string(pki.join(file)).unwrap();
        let client = Client { trust: Some(&authority), ..Client::default() };
        client.connect(edge.secure, "localhost").map(|(_, leaf)| Details::from_der(&leaf).unwrap()).ok()
    };
    assert!(trusts("edge-ca.crt").unwrap().has_name(&["10.0.0.9".into()]));
    fs::write(pki.join("clients.crt"), cluster.ca.pem()).unwrap();
    let serving = |request: &Value| request["spec"]["signerName"] == "kubernetes.io/kubelet-serving";
    let mut request = eventually("a request for a serving certificate", || cluster.requests().into_iter().find(serving));
    let name = request["metadata"]["name"].as_str().unwrap().to_string();
    edge.says(&format!("kubectl certificate approve {name}"));
    request["status"] = json!({ "conditions": [{ "type": "Approved", "status": "True", "reason": "Test", "message": "" }] });
    let approved = cluster.kube.api("PUT", &format!("{REQUESTS}/{name}/approval"), "application/json", request.to_string().as_bytes());
    assert_eq!(approved.unwrap().status, 200);
    edge.says("the serving certificate was issued");
    let served = eventually("the certificate that was approved", || trusts("clients.crt"));
    assert!(["hub.test", "10.0.0.9", "127.0.0.1", "rig-node"].iter().all(|name| served.has_name(&[name.to_string()])), "{served:?}");
    assert_eq!(trusts("edge-ca.crt"), None);
    edge.kill();

    // A bootstrap kubeconfig in place of the token. The first attempt has an old token, and a new file brings a new one.
    let (bootstrap, cache, own) = (folder.path().join("bootstrap"), folder.path().join("other"), folder.path().join("other-pki"));
    let config = |token: &str| {
        let authority = cluster.both();
        let text = format!(
            "{{current-context: x, contexts: [{{name: x, context: {{cluster: c, user: u}}}}], clusters: [{{name: c, cluster: {{server: 'https://a', certificate-authority: {}}}}}], users: [{{name: u, user: {{token: {token}}}}}]}}",
            authority.display()
        );
        fs::write(&bootstrap, text).unwrap();
    };
    config("abcdef.0123456789abcdee");
    let mut command = Edge::command_of(&link, &cache);
    command.arg("--bootstrap-file").arg(&bootstrap).arg("--cert-dir").arg(&own);
    let edge = Edge::run(command, &cache);
    edge.says("was not issued: POST /apis/certificates.k8s.io/v1/certificatesigningrequests: 401");
    config(TOKEN);
    edge.says("the certificate of the node was issued");
    edge.kept(LIST, JSON);
    assert_eq!(eventually("the certificate is shown", || shown(&edge)), digest_of(&own.join("edge-client-current.pem")));
    edge.kill();

    // A certificate that is due is renewed with itself; the token is not needed any more.
    cluster.kube.delete("{apiVersion: v1, kind: Secret, metadata: {name: bootstrap-token-abcdef, namespace: kube-system}}");
    write(&current, &cluster.node(2020, 2027));
    let due = digest_of(&current);
    let edge = start(TOKEN, &with_pins);
    edge.says("the certificate of the node was issued");
    let renewed = digest_of(&current);
    assert_ne!(renewed, due);
    eventually("the new certificate is shown", || (shown(&edge)? == renewed).then_some(()));
    assert!(cluster.requests().iter().any(|request| request["spec"]["username"] == "system:node:rig-node"
        && request["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"));
}

#[test]
fn a_node_is_served_whatever_its_certificate_is() {
    let cluster = Cluster::start();
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&cluster.kube));
    let (cache, authority) = (folder.path().join("cache"), cluster.both());
    let file = |name: &str| folder.path().join(name);
    let current = file("kubelet-client-current.pem");
    let change = |name: &str| {
        let new = file("new.pem");
        symlink(file(name), &new).unwrap();
        fs::rename(new, &current).unwrap();
    };
    let (one, two, expired) = (cluster.node(2020, 2050), cluster.node(2021, 2050), cluster.node(2020, 2021));
    write(&file("one.pem"), &one);
    write(&file("two.pem"), &two);
    write(&file("expired.pem"), &expired);
    fs::write(file("damaged.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let start = || {
        let mut command = Edge::command_of(&link, &cache);
        command.args(["--bootstrap-mode", "kubeletcertificate"]).arg("--client-certificate").arg(&current);
        command.arg("--certificate-authority").arg(&authority).arg("--cert-dir").arg(file("pki"));
        Edge::run(command, &cache)
    };
    change("one.pem");
    let edge = start();
    let list = edge.kept(LIST, JSON);
    assert_eq!(eventually("the certificate is shown", || shown(&edge)), digest_of(&file("one.pem")));
    // kubelet has a new one. The hub looks at the file five times a second while its connection lasts.
    change("two.pem");
    eventually("the new certificate is shown", || (shown(&edge)? == digest_of(&file("two.pem"))).then_some(()));
    eventually("the list is kept", || edge.admin("/metrics").body.contains("cache_lists{resource=\"serviceaccounts\"} 1").then_some(()));

    // kubelet connects with the same certificate.
    let trust = fs::read_to_string(file("pki/edge-ca.crt")).unwrap();
    let ask = |edge: &Edge, identity: &Signed| {
        let client = Client { trust: Some(&trust), identity: Some(identity), ..Client::default() };
        client.connect(edge.secure, "localhost").unwrap().0.request("GET", "localhost", LIST, &[JSON], b"").unwrap()
    };
    assert_eq!(eventually("an answer", || Some(ask(&edge, &two)).filter(|answer| answer.status != 503)).status, 200);
    let answer = eventually("the link is up", || Some(ask(&edge, &expired)).filter(|answer| answer.status != 200));
    assert!(answer.status == 401 && answer.body.contains("is not valid at this time"), "{answer:?}");
    edge.kill();

    // A restart without the link, with a certificate that has expired, and with one that cannot be read.
    link.cut();
    for (name, identity) in [("expired.pem", &expired), ("damaged.pem", &two)] {
        change(name);
        let edge = start();
        assert_eq!(edge.offline(LIST, &[JSON]).body, list.body, "{name}");
        let by_tls = eventually("an answer that was kept", || Some(ask(&edge, identity)).filter(|answer| answer.status == 200));
        assert_eq!(by_tls.body, list.body, "{name}");
    }

    // The link is back, and the API server refuses the certificate: what was kept is answered, until kubelet has a new one.
    change("expired.pem");
    link.mend();
    let edge = start();
    let body = br#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    eventually("the API server refuses", || {
        let answer =
            edge.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &[("content-type", "application/json")], body);
        answer.body.contains("refuses the certificate of the node").then_some(())
    });
    assert!(edge.get(LIST, &[JSON]).header("weir-cache").is_some());
    change("one.pem");
    eventually("the new certificate is shown", || shown(&edge));
    edge.kept(LIST, JSON);
}

#[test]
fn settings_that_leave_open_whom_to_trust_are_refused() {
    let base = ["edge", "--server-addr", "https://127.0.0.1:1", "--node-name", "n"];
    let token = ["--join-token", TOKEN];
    let table: [(&[&[&str]], &str); 8] = [
        (&[&["--join-token", "abc"]], "expected a bootstrap token like abcdef.0123456789abcdef"),
        (&[&token], "--join-token needs a way to know the API server: --discovery-token-ca-cert-hash"),
        (&[&token, &["--discovery-token-ca-cert-hash", "sha256:ab"]], "expected sha256: and 64 hexadecimal digits"),
        (&[&token, &["--bootstrap-file", "f"]], "cannot be used with"),
        (&[&["--bootstrap-mode", "token"]], "--bootstrap-mode token needs --join-token or --bootstrap-file"),
        (&[&token, &["--bootstrap-mode", "kubeletcertificate"]], "uses the certificate that kubelet keeps"),
        (&[&["--bootstrap-file", "f", "--client-certificate", "c"]], "leave --client-certificate out"),
        (&[&["--tls-cert-file", "c", "--tls-private-key-file", "k", "--rotate-server-certificates"]], "cannot be used with"),
    ];
    for (flags, says) in table {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        let output = command.args(base).args(flags.iter().copied().flatten()).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{flags:?}: {text}");
    }
}
