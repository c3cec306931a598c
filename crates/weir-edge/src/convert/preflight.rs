//! Looks at a node before anything is changed, and finds all that stands against a conversion.
use super::{
    journal::{FILE, Replaced},
    layout::{Layout, below},
    plan::{AUTHORITY, KUBE_PROXY_KUBECONFIG, KUBECONFIG, KubeProxy, Node, UNIT_FILE},
};
use crate::{
    identity::certificate::validity::is_valid,
    upstream::kubeconfig::{self, KubeconfigError},
};
use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};
use weir_net::tls::{Certificate, CertificateError, Details};

/// What to do with kube-proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedKubeProxy {
    /// It stays where it is.
    Keep,
    /// The agent of the distribution runs it.
    Agent,
    /// A unit of systemd runs it with this kubeconfig.
    Unit(Replaced),
}

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub root: PathBuf,
    /// `None`: the one that is found.
    pub layout: Option<Layout>,
    /// Empty: those of kubelet's kubeconfig.
    pub servers: Vec<String>,
    /// The program of the hub, as a path of the node.
    pub program: PathBuf,
    /// Where the hub listens.
    pub hub: SocketAddr,
    /// Where the hub keeps its certificates.
    pub cert_dir: String,
    /// More arguments of the hub.
    pub arguments: Vec<String>,
    pub kube_proxy: WantedKubeProxy,
}

/// What stands against a conversion.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    #[error("{0} is there: this node runs an API server, and needs no hub")]
    ControlPlane(&'static str),
    #[error("{0} exists already, and no journal ({FILE}) says that it was added by a conversion")]
    Exists(String),
    #[error("the program of the hub, {0}, is not on this node: copy it there, or name another one with --program")]
    NoProgram(String),
    #[error("{0} leads to the hub itself already: name the API server with --server-addr")]
    LeadsToHub(&'static str),
    #[error("there is no {}, as {layout} has it", layout.kubeconfig())]
    NoLayout { layout: Layout },
    #[error("no kubeconfig of kubelet is found; looked for {}", names(&Layout::all()))]
    NoKubeconfig,
    #[error("there are several kubeconfigs of kubelet: {}; choose with --layout", names(.0))]
    SeveralKubeconfigs(Vec<Layout>),
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error("{place}: the server is {server:?}; expected an https:// URL")]
    Server { place: &'static str, server: String },
    #[error("{place} names no {field}: a certificate that kubelet keeps in a file is needed")]
    NoFile { place: &'static str, field: &'static str },
    #[error("{place} names no certificate-authority")]
    NoAuthority { place: &'static str },
    #[error("{file}: {error}")]
    Certificate { file: String, error: CertificateError },
    #[error("the certificate authority that {place} names: {error}")]
    Authority { place: &'static str, error: AuthorityError },
    #[error("{file} is of {subject}; expected CN=system:node:NAME")]
    NotANode { file: String, subject: String },
    #[error("{0} is not valid at this time: let kubelet renew it first")]
    Expired(String),
    #[error("no unit of kubelet uses ${VARIABLE}, as kubeadm's 10-kubeadm.conf does: there is no way to point kubelet at the hub")]
    NoVariable,
    #[error("{path} sets {VARIABLE} after {switch}, and would win")]
    SetsLater { path: String, switch: &'static str },
    #[error("{0} sets {VARIABLE}, and would win")]
    Sets(&'static str),
    #[error(
        "--kube-proxy is for k3s and RKE2. kube-proxy of kubeadm reads its kubeconfig from the ConfigMap kube-system/kube-proxy, which all \
         nodes share: the filter inclusterconfig removes `kubeconfig` from its config.conf for this node alone (see \"Convert a node\" in \
         docs/edge.md). Name the kubeconfig of a kube-proxy that systemd runs with --kube-proxy-kubeconfig"
    )]
    KubeProxyConfigMap,
    #[error("the agent writes {0} again whenever it starts: use --kube-proxy in place of --kube-proxy-kubeconfig")]
    KubeProxyOfAgent(&'static str),
    #[error("there is no {0}: the agent runs no kube-proxy; leave out --kube-proxy")]
    NoKubeProxy(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Pem(#[from] pem::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("it has no PEM section `CERTIFICATE`")]
    Empty,
}

/// What kubeadm's drop-in gives kubelet its kubeconfig by.
const VARIABLE: &str = "KUBELET_KUBECONFIG_ARGS";

fn names(layouts: &[Layout]) -> String {
    layouts.iter().map(|layout| format!("{} ({layout})", layout.kubeconfig())).collect::<Vec<_>>().join(", ")
}

/// What was found; with any finding nothing is changed.
pub fn look(wanted: &Wanted, now: SystemTime) -> Result<Node, Vec<Finding>> {
    let mut found = Vec::new();
    let layout = match layout(wanted) {
        Ok(layout) => layout,
        Err(finding) => return Err(vec![finding]),
    };
    let root = &wanted.root;
    if below(root, layout.control_plane()).exists() {
        found.push(Finding::ControlPlane(layout.control_plane()));
    }
    let identity = identity(root, layout, now).map_err(|finding| found.push(finding)).ok();
    let kube_proxy = match &identity {
        Some(identity) => kube_proxy(wanted, layout, identity).unwrap_or_else(|finding| {
            found.push(finding);
            None
        }),
        None => None,
    };
    let backup = kube_proxy.as_ref().and_then(|kube_proxy| Some(Replaced::backup(&kube_proxy.replaced.as_ref()?.file)));
    for path in added(layout).into_iter().chain(backup.as_deref()) {
        if below(root, path).exists() {
            found.push(Finding::Exists(path.into()));
        }
    }
    if layout == Layout::Kubeadm {
        found.extend(kubelet_unit(root));
    }
    let program = wanted.program.display().to_string();
    match below(root, &program).is_file() {
        true if wanted.program.is_absolute() => {}
        _ => found.push(Finding::NoProgram(program.clone())),
    }
    let Some(identity) = identity.filter(|_| found.is_empty()) else { return Err(found) };
    let servers = if wanted.servers.is_empty() { vec![identity.server.clone()] } else { wanted.servers.clone() };
    if servers.iter().any(|server| server.ends_with(&format!("{}/", wanted.hub)) || server.ends_with(&wanted.hub.to_string())) {
        return Err(vec![Finding::LeadsToHub(layout.kubeconfig())]);
    }
    let mut arguments = vec!["--server-addr".to_string(), servers.join(","), "--node-name".into(), identity.name.clone()];
    arguments.extend([
        "--bind-proxy-address".into(),
        wanted.hub.ip().to_string(),
        "--proxy-secure-port".into(),
        wanted.hub.port().to_string(),
    ]);
    arguments.extend(["--bootstrap-mode", "kubeletcertificate", "--certificate-authority", AUTHORITY].map(String::from));
    arguments.extend(["--client-certificate".into(), identity.certificate.clone(), "--cert-dir".into(), wanted.cert_dir.clone()]);
    if identity.key != identity.certificate {
        arguments.extend(["--client-key".into(), identity.key.clone()]);
    }
    arguments.extend(wanted.arguments.iter().cloned());
    Ok(Node {
        layout,
        name: identity.name,
        arguments,
        program,
        authority: identity.authority,
        client_certificate: identity.certificate,
        client_key: identity.key,
        hub: format!("https://{}", wanted.hub),
        hub_authority: format!("{}/edge-ca.crt", wanted.cert_dir),
        folders: folders(root, layout),
        kube_proxy,
    })
}

/// The files that a conversion may add.
fn added(layout: Layout) -> [&'static str; 5] {
    [AUTHORITY, KUBECONFIG, KUBE_PROXY_KUBECONFIG, UNIT_FILE, layout.switch_file()]
}

fn kube_proxy(wanted: &Wanted, layout: Layout, identity: &Identity) -> Result<Option<KubeProxy>, Finding> {
    // The hub passes tokens on, and has no key for any other certificate than that of the node.
    let of_the_node = vec![("client-certificate", identity.certificate.clone()), ("client-key", identity.key.clone())];
    match &wanted.kube_proxy {
        WantedKubeProxy::Keep => Ok(None),
        WantedKubeProxy::Agent => {
            let file = layout.kube_proxy_kubeconfig().ok_or(Finding::KubeProxyConfigMap)?;
            match below(&wanted.root, file).exists() {
                true => Ok(Some(KubeProxy { user: of_the_node, replaced: None })),
                false => Err(Finding::NoKubeProxy(file)),
            }
        }
        WantedKubeProxy::Unit(replaced) => {
            if let Some(file) = layout.kube_proxy_kubeconfig().filter(|file| *file == replaced.file) {
                return Err(Finding::KubeProxyOfAgent(file));
            }
            let text = fs::read_to_string(below(&wanted.root, &replaced.file));
            let text = text.map_err(|error| Finding::Unreadable { path: replaced.file.clone(), error })?;
            let (_, user) = kubeconfig::current(&replaced.file, &text)?;
            let token = ["tokenFile", "token"].into_iter().find_map(|field| Some((field, user[field].as_str()?)));
            // A JSON string is a YAML string, too.
            let user = token.map_or(of_the_node, |(field, value)| vec![(field, Value::from(value).to_string())]);
            Ok(Some(KubeProxy { user, replaced: Some(replaced.clone()) }))
        }
    }
}

/// What this command does not move, and what to do about it.
pub fn notes(node: &Node) -> Vec<&'static str> {
    let kube_proxy = match (&node.kube_proxy, node.layout) {
        (Some(_), _) => None,
        (None, Layout::Kubeadm) => Some(
            "kube-proxy reads its kubeconfig from the ConfigMap kube-system/kube-proxy, which is not changed. With the address of the hub in \
             place of the API server's (see docs/edge.md), delete the pod of kube-proxy on this node",
        ),
        (None, _) => Some("kube-proxy keeps its own kubeconfig; --kube-proxy moves it"),
    };
    let pods =
        "CoreDNS and other pods connect to the hub after they are deleted once, if the hub has an address for pods: see docs/edge.md";
    kube_proxy.into_iter().chain([pods]).collect()
}

fn layout(wanted: &Wanted) -> Result<Layout, Finding> {
    let found = Layout::find(&wanted.root);
    match (wanted.layout, &found[..]) {
        (Some(layout), found) if found.contains(&layout) => Ok(layout),
        (Some(layout), _) => Err(Finding::NoLayout { layout }),
        (None, [layout]) => Ok(*layout),
        (None, []) => Err(Finding::NoKubeconfig),
        (None, several) => Err(Finding::SeveralKubeconfigs(several.to_vec())),
    }
}

struct Identity {
    server: String,
    name: String,
    certificate: String,
    key: String,
    authority: String,
}

/// What kubelet's kubeconfig says, with paths of the node.
fn identity(root: &Path, layout: Layout, now: SystemTime) -> Result<Identity, Finding> {
    let place = layout.kubeconfig();
    let read = |path: &str| fs::read_to_string(below(root, path)).map_err(|error| Finding::Unreadable { path: path.into(), error });
    let (cluster, user) = kubeconfig::current(place, &read(place)?)?;
    let server = cluster["server"].as_str().unwrap_or_default().to_string();
    if !server.starts_with("https://") {
        return Err(Finding::Server { place, server });
    }
    let file = |of: &Value, field: &'static str| -> Result<String, Finding> {
        let path = of[field].as_str().ok_or(Finding::NoFile { place, field })?;
        match path.starts_with('/') {
            true => Ok(path.into()),
            false => Ok(Path::new(place).parent().unwrap_or(Path::new("/")).join(path).display().to_string()),
        }
    };
    let (certificate, key) = (file(&user, "client-certificate")?, file(&user, "client-key")?);
    let shown = Certificate::from_pem(&read(&certificate)?, &read(&key)?);
    let shown = shown.map_err(|error| Finding::Certificate { file: certificate.clone(), error })?.details;
    let authority = kubeconfig::pem(place, &cluster, "certificate-authority", read)?;
    let mut authority = authority.ok_or(Finding::NoAuthority { place })?;
    if let Some(clients) = layout.client_authority() {
        authority = [authority.trim_end(), "\n", &read(clients)?].concat();
    }
    check_authority(&authority).map_err(|error| Finding::Authority { place, error })?;
    let not_a_node = || Finding::NotANode { file: certificate.clone(), subject: shown.subject.clone() };
    let name = node_name(&shown).ok_or_else(not_a_node)?;
    if !is_valid(&shown, now) {
        return Err(Finding::Expired(certificate));
    }
    Ok(Identity { server, name, certificate, key, authority })
}

fn check_authority(pem: &str) -> Result<(), AuthorityError> {
    let mut any = false;
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        Details::from_der(&der?)?;
        any = true;
    }
    if any { Ok(()) } else { Err(AuthorityError::Empty) }
}

fn node_name(shown: &Details) -> Option<String> {
    let common_name = shown.subject.split(',').find_map(|part| part.strip_prefix("CN="))?;
    common_name.strip_prefix("system:node:").filter(|name| !name.is_empty()).map(String::from)
}

/// kubeadm's drop-in gives kubelet its kubeconfig by a variable, which the switch sets again.
fn kubelet_unit(root: &Path) -> Vec<Finding> {
    let mut files = BTreeSet::new();
    for folder in ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"] {
        files.insert(format!("{folder}/kubelet.service"));
        let drop_ins = format!("{folder}/kubelet.service.d");
        let entries = fs::read_dir(below(root, &drop_ins)).into_iter().flatten().flatten();
        files
            .extend(entries.filter_map(|e| Some(format!("{drop_ins}/{}", e.file_name().to_str()?))).filter(|path| path.ends_with(".conf")));
    }
    let read = |path: &String| fs::read_to_string(below(root, path)).ok().map(|text| (path.clone(), text));
    let texts: Vec<(String, String)> = files.iter().filter_map(read).collect();
    let mut found = Vec::new();
    if !texts.iter().any(|(_, text)| text.lines().any(|line| line.starts_with("ExecStart=") && line.contains(&format!("${VARIABLE}")))) {
        found.push(Finding::NoVariable);
    }
    let switch = Layout::Kubeadm.switch_file().rsplit('/').next().unwrap_or_default();
    let sets = |text: &str| text.lines().any(|line| line.starts_with("Environment=") && line.contains(VARIABLE));
    let later =
        texts.iter().filter(|(path, text)| path.rsplit('/').next().is_some_and(|name| name > switch) && path.contains(".d/") && sets(text));
    found.extend(later.map(|(path, _)| Finding::SetsLater { path: path.clone(), switch }));
    for path in ["/var/lib/kubelet/kubeadm-flags.env", "/etc/default/kubelet", "/etc/sysconfig/kubelet"] {
        let text = fs::read_to_string(below(root, path)).unwrap_or_default();
        if text.lines().any(|line| line.trim_start().starts_with(VARIABLE)) {
            found.push(Finding::Sets(path));
        }
    }
    found
}

/// Folders that the files need and that are not there, outer ones first.
fn folders(root: &Path, layout: Layout) -> Vec<String> {
    let mut missing = BTreeSet::new();
    for path in added(layout) {
        let above = Path::new(path).ancestors().skip(1).map(|folder| folder.display().to_string());
        missing.extend(above.filter(|folder| !below(root, folder).exists()));
    }
    // Outer folders sort before inner ones.
    missing.into_iter().collect()
}
