//! `weir edge convert` and `revert` on the file tree of a node, with a systemctl and a hub that are pretended.
use rcgen::{DnType, date_time_ymd};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use weir_test::Ca;

const LAYOUTS: [(&str, &str, &str); 3] = [
    ("kubeadm", "kubelet.service", "etc/systemd/system/kubelet.service.d/90-weir-edge.conf"),
    ("k3s", "k3s-agent.service", "etc/rancher/k3s/config.yaml.d/90-weir-edge.yaml"),
    ("rke2", "rke2-agent.service", "etc/rancher/rke2/config.yaml.d/90-weir-edge.yaml"),
];

/// A node, and what is pretended around it.
struct Node {
    folder: tempfile::TempDir,
    ready: Arc<AtomicBool>,
    kubelet: Arc<AtomicBool>,
    /// kube-proxy may read EndpointSlices.
    allowed: Arc<AtomicBool>,
}

impl Node {
    fn new(layout: &str) -> Node {
        let yes = || Arc::new(AtomicBool::new(true));
        let node = Node { folder: tempfile::tempdir().unwrap(), ready: yes(), kubelet: yes(), allowed: yes() };
        node.write("usr/local/bin/weir", "program");
        node.write("etc/systemd/system/other.service", "[Service]\n");
        node.add(layout, 2020, 2050, "system:node:edge-1");
        let bin = node.folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // It writes down how it was called, and fails or kills its caller where it is told to.
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$*\" >> called\n[ \"$(cat kills 2>/dev/null)\" = \"$*\" ] && kill -KILL $PPID && sleep 10\n[ \"$(cat fails 2>/dev/null)\" != \"$*\" ]\n";
        fs::write(bin.join("systemctl"), script).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        node.pretend_hub();
        node
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.root().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// The files of a distribution.
    fn add(&self, layout: &str, from: i32, to: i32, name: &str) {
        let ca = Ca::new();
        let signed = ca.sign_with(&[], |params| {
            params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
            params.distinguished_name.push(DnType::CommonName, name);
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        });
        let config = |server: &str, authority: &str, certificate: &str, key: &str| {
            format!(
                "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n    {authority}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\nusers:\n- name: u\n  user:\n    client-certificate: {certificate}\n    client-key: {key}\n"
            )
        };
        if layout == "kubeadm" {
            let authority = format!("certificate-authority-data: {}", data_encoding::BASE64.encode(ca.pem().as_bytes()));
            let pem = "/var/lib/kubelet/pki/kubelet-client-current.pem";
            self.write("etc/kubernetes/kubelet.conf", config("https://10.0.0.1:6443", &authority, pem, pem));
            self.write(pem.trim_start_matches('/'), [signed.pem, signed.key].concat());
            let unit = "[Service]\nEnvironment=\"KUBELET_KUBECONFIG_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf\"\nExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS\n";
            self.write("usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", unit);
            return;
        }
        let agent = format!("var/lib/rancher/{layout}/agent");
        let file = |name: &str| format!("/{agent}/{name}");
        let authority = format!("certificate-authority: {}", file("server-ca.crt"));
        let text = config("https://127.0.0.1:6444", &authority, &file("client-kubelet.crt"), &file("client-kubelet.key"));
        self.write(&format!("{agent}/kubelet.kubeconfig"), text);
        let kube_proxy = config("https://127.0.0.1:6444", &authority, &file("client-kube-proxy.crt"), &file("client-kube-proxy.key"));
        self.write(&format!("{agent}/kubeproxy.kubeconfig"), kube_proxy);
        self.write(&format!("{agent}/client-kubelet.crt"), signed.pem);
        self.write(&format!("{agent}/client-kubelet.key"), signed.key);
        self.write(&format!("{agent}/client-ca.crt"), ca.pem());
        self.write(&format!("{agent}/server-ca.crt"), Ca::new().pem());
        self.write(&format!("etc/rancher/{layout}/config.yaml"), "server: https://10.0.0.1:9345\n");
    }

    /// The admin socket of a hub.
    fn pretend_hub(&self) {
        let socket = self.root().join("var/lib/weir/edge/admin.sock");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        let (ready, kubelet, allowed) = (self.ready.clone(), self.kubelet.clone(), self.allowed.clone());
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 1024];
                let read = client.read(&mut head).unwrap_or_default();
                let metrics = head[..read].starts_with(b"GET /metrics");
                let status = if ready.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                let count = |verb: &str, resource: &str, code: u16| {
                    format!("weir_edge_requests_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\",source=\"remote\"}} 3\n")
                };
                let lease = count("update", "leases.coordination.k8s.io", 200);
                let slices = count("list", "endpointslices.discovery.k8s.io", if allowed.load(Ordering::Relaxed) { 200 } else { 403 });
                let body = if metrics && kubelet.load(Ordering::Relaxed) { lease + &slices } else { "x".into() };
                let _ = write!(client, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            }
        });
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let bin = self.folder.path().join("bin");
        let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["edge", arguments[0], "--root"]).arg(self.root()).args(&arguments[1..]).env("PATH", path).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> (Output, String) {
        let output = self.command(arguments).output().unwrap();
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        (output, String::from_utf8(text).unwrap())
    }

    fn convert(&self, flags: &[&str]) -> (Output, String) {
        self.run(&[&["convert", "--program", "/usr/local/bin/weir"], flags].concat())
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let (output, text) = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    fn tell(&self, what: &str, command: &str) {
        fs::write(self.folder.path().join("bin").join(what), command).unwrap();
    }

    /// How systemctl was called since the last time.
    fn called(&self) -> Vec<String> {
        let file = self.folder.path().join("bin/called");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines().map(str::to_string).collect()
    }

    fn tree(&self) -> BTreeMap<PathBuf, Option<(Vec<u8>, u32)>> {
        let (mut all, mut folders) = (BTreeMap::new(), vec![self.root()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                let about = entry.file_type().unwrap();
                if about.is_dir() {
                    folders.push(path.clone());
                }
                let file = about.is_file().then(|| (fs::read(&path).unwrap(), entry.metadata().unwrap().permissions().mode()));
                all.insert(path, file);
            }
        }
        all
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }
}

#[test]
fn a_node_is_converted_and_comes_back_as_it_was() {
    for (layout, service, switch) in LAYOUTS {
        let node = Node::new(layout);
        let before = node.tree();
        let (output, text) = node.convert(&["--dry-run"]);
        assert!(output.status.success() && text.contains(&format!("write /{switch}")) && text.contains("ExecStart="), "{layout}: {text}");
        assert!(node.tree() == before && node.called().is_empty(), "{layout}: a dry run changes nothing");

        let (output, text) = node.convert(&["--", "--disk-cache-quota", "256"]);
        assert!(output.status.success(), "{layout}: {text}");
        let restart = format!("restart {service}");
        assert_eq!(node.called(), ["daemon-reload", "enable --now weir-edge.service", "daemon-reload", &restart], "{layout}");
        let after = node.tree();
        assert!(before.iter().all(|(path, content)| after.get(path) == Some(content)), "{layout}: what was there is as it was");
        assert!(node.text(switch).contains("kubeconfig=/etc/weir/edge/kubelet.conf"), "{layout}");
        assert!(node.text("etc/weir/edge/kubelet.conf").contains("server: https://127.0.0.1:10268\n"), "{layout}");
        let unit = node.text("etc/systemd/system/weir-edge.service");
        let server = if layout == "kubeadm" { "https://10.0.0.1:6443" } else { "https://127.0.0.1:6444" };
        assert!(
            unit.contains(&format!("ExecStart=/usr/local/bin/weir edge --server-addr {server} --node-name edge-1 ")),
            "{layout}: {unit}"
        );
        assert!(unit.contains(" --disk-cache-quota 256\n"), "{layout}: {unit}");
        // The API server and the clients of Rancher's distributions have authorities of their own.
        let authorities = node.text("etc/weir/edge/ca.crt").matches("BEGIN CERTIFICATE").count();
        assert_eq!(authorities, if layout == "kubeadm" { 1 } else { 2 }, "{layout}");
        assert!(node.convert(&[]).1.contains("is converted already"), "{layout}");
        assert!(node.called().is_empty() && node.tree() == after, "{layout}");

        node.succeeds(&["revert", "--dry-run"]);
        assert!(node.tree() == after && node.called().is_empty(), "{layout}: a dry run changes nothing");
        node.succeeds(&["revert"]);
        assert!(node.tree() == before, "{layout}: {:?}", node.tree().keys());
        assert_eq!(node.called(), ["daemon-reload", &restart, "disable --now weir-edge.service", "daemon-reload"], "{layout}");
        assert!(node.succeeds(&["revert"]).contains("was not converted"), "{layout}");
    }
}

#[test]
fn what_does_not_work_is_undone() {
    let limit = ["--timeout", "300ms"];
    let node = Node::new("kubeadm");
    let before = node.tree();
    let restart = "restart kubelet.service".to_string();
    // The hub does not become ready: kubelet never hears of it.
    node.ready.store(false, Ordering::Relaxed);
    let (output, text) = node.convert(&limit);
    assert!(!output.status.success() && text.contains("wait until the hub is ready: not within 300ms"), "{text}");
    assert!(node.tree() == before && !node.called().contains(&restart));
    // kubelet does not come through it: it is started again as it was.
    node.ready.store(true, Ordering::Relaxed);
    node.kubelet.store(false, Ordering::Relaxed);
    let (output, text) = node.convert(&limit);
    assert!(!output.status.success() && text.contains("renews its lease through the hub: not within 300ms"), "{text}");
    assert!(node.tree() == before && node.called().iter().filter(|called| **called == restart).count() == 2);
    node.kubelet.store(true, Ordering::Relaxed);
    node.tell("fails", "enable --now weir-edge.service");
    let (output, text) = node.convert(&limit);
    assert!(!output.status.success() && text.contains("systemctl enable --now weir-edge.service: exit status: 1"), "{text}");
    assert!(node.tree() == before);
}

#[test]
fn a_kill_at_any_time_is_made_good() {
    let node = Node::new("k3s");
    let before = node.tree();
    let (none, restart) = ("none", "restart k3s-agent.service");
    for at in ["daemon-reload", "enable --now weir-edge.service", restart] {
        node.tell("kills", at);
        assert!(!node.convert(&[]).0.status.success(), "{at}");
        assert!(node.tree() != before, "{at}");
        // The next call begins again, and is good.
        node.tell("kills", none);
        let (output, text) = node.convert(&[]);
        assert!(output.status.success() && text.contains("it is undone first"), "{at}: {text}");
        // A revert is killed, too, and the next one goes on.
        for at in ["daemon-reload", restart, "disable --now weir-edge.service"] {
            node.tell("kills", at);
            assert!(!node.run(&["revert"]).0.status.success(), "{at}");
        }
        node.tell("kills", none);
        node.succeeds(&["revert"]);
        assert!(node.tree() == before, "{at}: {:?}", node.tree().keys());
    }
    // Anywhere: how far it comes is up to the machine.
    for i in 0..24 {
        let mut child = node.command(&["convert", "--program", "/usr/local/bin/weir"]).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(i * 4));
        let _ = child.kill();
        child.wait().unwrap();
        node.succeeds(&["revert"]);
        assert!(node.tree() == before, "{i}: {:?}", node.tree().keys());
    }
}

/// A kubeconfig of a kube-proxy that systemd runs.
const PROXY: &str = "var/lib/kube-proxy/kubeconfig";

#[test]
fn kube_proxy_moves_with_kubelet_and_comes_back() {
    let user = |text: &str| {
        format!(
            "current-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: 'https://10.0.0.1:6443'}}}}]\nusers: [{{name: u, user: {{{text}}}}}]\n"
        )
    };
    let pem = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let unit = format!("/{PROXY}");
    let of_a_unit = ["--kube-proxy-kubeconfig", unit.as_str(), "--kube-proxy-service", "proxy.service"];
    /// The layout, flags, the user of the kubeconfig before, the kubeconfig with the hub, its user, and the services.
    type Row<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, String, &'a [&'a str]);
    let table: [Row; 4] = [
        (
            "k3s",
            &["--kube-proxy"],
            "",
            "etc/weir/edge/kube-proxy.conf",
            "client-certificate: /var/lib/rancher/k3s/agent/client-kubelet.crt".into(),
            &["k3s-agent.service"],
        ),
        (
            "rke2",
            &["--kube-proxy"],
            "",
            "etc/weir/edge/kube-proxy.conf",
            "client-key: /var/lib/rancher/rke2/agent/client-kubelet.key".into(),
            &["rke2-agent.service"],
        ),
        (
            "kubeadm",
            &of_a_unit,
            "client-certificate: /a.crt, client-key: /a.key",
            PROXY,
            format!("client-certificate: {pem}"),
            &["kubelet.service", "proxy.service"],
        ),
        ("kubeadm", &of_a_unit, "token: 'a: \"b'", PROXY, "token: \"a: \\\"b\"".into(), &["kubelet.service", "proxy.service"]),
    ];
    for (layout, flags, own, kubeconfig, shows, services) in table {
        let node = Node::new(layout);
        node.write(PROXY, user(own));
        fs::set_permissions(node.root().join(PROXY), fs::Permissions::from_mode(0o640)).unwrap();
        let before = node.tree();
        let (output, text) = node.convert(&[flags, &["--dry-run"]].concat());
        assert!(output.status.success() && text.contains(&format!("write /{kubeconfig}")) && node.tree() == before, "{layout}: {text}");
        assert!(!text.contains("b\\\""), "{layout}: a token is shown: {text}");
        let (output, text) = node.convert(flags);
        assert!(output.status.success(), "{layout}: {text}");
        let restarts: Vec<String> = services.iter().map(|service| format!("restart {service}")).collect();
        let restarted = |called: Vec<String>| called.into_iter().filter(|called| called.starts_with("restart ")).collect::<Vec<_>>();
        assert_eq!(restarted(node.called()), restarts, "{layout}");
        let text = node.text(kubeconfig);
        assert!(text.contains("server: https://127.0.0.1:10268\n") && text.contains(&shows), "{layout}: {text}");
        if layout != "kubeadm" {
            let switch = node.text(&format!("etc/rancher/{layout}/config.yaml.d/90-weir-edge.yaml"));
            assert!(switch.contains("kube-proxy-arg+:\n- \"kubeconfig=/etc/weir/edge/kube-proxy.conf\"\n"), "{layout}: {switch}");
        }
        node.succeeds(&["revert"]);
        assert_eq!(restarted(node.called()), restarts, "{layout}");
        assert!(node.tree() == before, "{layout}: {:?}", node.tree().keys());

        // A kill at any call of systemctl.
        for at in ["daemon-reload".to_string(), "enable --now weir-edge.service".into()].iter().chain(&restarts) {
            node.tell("kills", at);
            assert!(!node.convert(flags).0.status.success() && node.tree() != before, "{layout} {at}");
            assert!(!node.run(&["revert"]).0.status.success() || !restarts.contains(at), "{layout} {at}");
            node.tell("kills", "none");
            node.succeeds(&["revert"]);
            assert!(node.tree() == before, "{layout} {at}: {:?}", node.tree().keys());
        }
        // kube-proxy is refused: everything is undone.
        node.allowed.store(false, Ordering::Relaxed);
        let (output, text) = node.convert(&[flags, &["--timeout", "300ms"]].concat());
        assert!(!output.status.success() && text.contains("kube-proxy reads EndpointSlices through the hub: not within 300ms"), "{text}");
        assert!(node.tree() == before, "{layout}: {:?}", node.tree().keys());
    }
}

#[test]
fn a_kube_proxy_that_cannot_be_moved_is_left_alone() {
    type Change = fn(&Node);
    let agent = "/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig";
    let unit = format!("/{PROXY}");
    let table: [(&str, &[&str], Change, &str); 6] = [
        ("kubeadm", &["--kube-proxy"], |_| (), "reads its kubeconfig from the ConfigMap kube-system/kube-proxy"),
        (
            "k3s",
            &["--kube-proxy"],
            |node| fs::remove_file(node.root().join("var/lib/rancher/k3s/agent/kubeproxy.kubeconfig")).unwrap(),
            "the agent runs no kube-proxy",
        ),
        ("k3s", &["--kube-proxy-kubeconfig", agent], |_| (), "use --kube-proxy in place of --kube-proxy-kubeconfig"),
        ("kubeadm", &["--kube-proxy-kubeconfig", &unit], |_| (), "cannot read /var/lib/kube-proxy/kubeconfig"),
        ("kubeadm", &["--kube-proxy-kubeconfig", &unit], |node| node.write(PROXY, "a: ["), "/var/lib/kube-proxy/kubeconfig: "),
        (
            "kubeadm",
            &["--kube-proxy-kubeconfig", &unit],
            |node| {
                node.write(PROXY, "clusters: [{name: c, cluster: {}}]");
                node.write(&format!("{PROXY}.before-weir-edge"), "mine");
            },
            "/var/lib/kube-proxy/kubeconfig.before-weir-edge exists already",
        ),
    ];
    for (layout, flags, change, says) in table {
        let node = Node::new(layout);
        change(&node);
        let before = node.tree();
        let (output, text) = node.convert(flags);
        assert!(!output.status.success() && text.contains(says), "{says}: {text}");
        assert!(node.tree() == before && node.called().is_empty(), "{says}");
    }
    // What is not moved is named, also in a dry run.
    let table = [("kubeadm", "ConfigMap kube-system/kube-proxy"), ("k3s", "--kube-proxy moves it"), ("rke2", "CoreDNS and other pods")];
    for (layout, says) in table {
        assert!(Node::new(layout).convert(&["--dry-run"]).1.contains(says), "{layout}");
    }
}

#[test]
fn a_node_that_cannot_be_converted_is_left_alone() {
    type Change = fn(&Node);
    fn remove(node: &Node, path: &str) {
        fs::remove_file(node.root().join(path)).unwrap();
    }
    let table: [(&str, Change, &[&str]); 12] = [
        (
            "kubeadm",
            |node| remove(node, "etc/kubernetes/kubelet.conf"),
            &["no kubeconfig of kubelet is found; looked for /etc/kubernetes/kubelet.conf (kubeadm)"],
        ),
        (
            "kubeadm",
            |node| node.add("k3s", 2020, 2050, "system:node:x"),
            &["there are several kubeconfigs of kubelet", "choose with --layout"],
        ),
        ("kubeadm", |node| node.write("etc/kubernetes/kubelet.conf", "a: ["), &["/etc/kubernetes/kubelet.conf: "]),
        (
            "kubeadm",
            |node| node.write("etc/kubernetes/kubelet.conf", "clusters: [{name: c, cluster: {server: 'http://a'}}]"),
            &["expected an https:// URL"],
        ),
        ("kubeadm", |node| node.add("kubeadm", 2020, 2021, "system:node:edge-1"), &["is not valid at this time"]),
        ("kubeadm", |node| node.add("kubeadm", 2020, 2050, "somebody"), &["is of CN=somebody", "expected CN=system:node:NAME"]),
        (
            "kubeadm",
            |node| remove(node, "var/lib/kubelet/pki/kubelet-client-current.pem"),
            &["cannot read /var/lib/kubelet/pki/kubelet-client-current.pem"],
        ),
        ("kubeadm", |node| node.write("etc/kubernetes/manifests/kube-apiserver.yaml", ""), &["this node runs an API server"]),
        // All findings, not only the first.
        (
            "kubeadm",
            |node| {
                node.write("etc/weir/edge/ca.crt", "mine");
                node.write("etc/default/kubelet", "KUBELET_KUBECONFIG_ARGS=--kubeconfig=/x\n");
                remove(node, "usr/local/bin/weir");
            },
            &[
                "/etc/weir/edge/ca.crt exists already",
                "/etc/default/kubelet sets KUBELET_KUBECONFIG_ARGS",
                "/usr/local/bin/weir, is not on this node",
            ],
        ),
        (
            "kubeadm",
            |node| remove(node, "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"),
            &["no unit of kubelet uses $KUBELET_KUBECONFIG_ARGS"],
        ),
        (
            "rke2",
            |node| remove(node, "var/lib/rancher/rke2/agent/client-ca.crt"),
            &["cannot read /var/lib/rancher/rke2/agent/client-ca.crt"],
        ),
        ("rke2", |node| node.write("var/lib/weir/convert.json", "?"), &["the journal /var/lib/weir/convert.json cannot be understood"]),
    ];
    for (layout, change, says) in table {
        let node = Node::new(layout);
        change(&node);
        let before = node.tree();
        let (output, text) = node.convert(&[]);
        assert!(!output.status.success(), "{says:?}: {text}");
        assert!(says.iter().all(|part| text.contains(part)), "{says:?}: {text}");
        assert!(node.tree() == before && node.called().is_empty(), "{says:?}");
    }
}
