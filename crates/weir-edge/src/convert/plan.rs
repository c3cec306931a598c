//! The steps of a conversion and of its undoing. Each can be done twice; between any two of them the process may be killed.
use super::{
    journal::{Journal, Phase, Replaced},
    layout::Layout,
};
use std::fmt;

/// The hub's unit.
pub const UNIT: &str = "weir-edge.service";
pub const UNIT_FILE: &str = "/etc/systemd/system/weir-edge.service";
/// The certificate authorities of the cluster, for the hub.
pub const AUTHORITY: &str = "/etc/weir/edge/ca.crt";
/// The kubeconfig with which kubelet reaches the hub.
pub const KUBECONFIG: &str = "/etc/weir/edge/kubelet.conf";
/// The same for the kube-proxy of an agent.
pub const KUBE_PROXY_KUBECONFIG: &str = "/etc/weir/edge/kube-proxy.conf";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes down how far it has come.
    Journal(Journal),
    Folder(String),
    Write {
        path: String,
        mode: u32,
        text: String,
    },
    /// Keeps a file beside itself before it is replaced.
    Backup(String),
    /// Puts the kept file back, if there is one.
    Restore(String),
    Systemctl(Vec<String>),
    /// The same, where a failure changes nothing: a unit that is stopped may be gone.
    TrySystemctl(Vec<String>),
    /// Until the hub says that it is ready.
    Ready,
    /// Until kubelet has renewed its lease through the hub.
    Lease,
    /// Until kube-proxy has read EndpointSlices through the hub.
    EndpointSlices,
    Remove(String),
    /// Where it is empty.
    RemoveFolder(String),
    /// The last step of all.
    Forget,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Journal(journal) => write!(f, "note in the journal: {:?}", journal.phase),
            Step::Folder(path) => write!(f, "make the folder {path}"),
            Step::Write { path, .. } => write!(f, "write {path}"),
            Step::Backup(path) => write!(f, "keep {path} as {}", Replaced::backup(path)),
            Step::Restore(path) => write!(f, "restore {path} from {}", Replaced::backup(path)),
            Step::Systemctl(arguments) | Step::TrySystemctl(arguments) => write!(f, "systemctl {}", arguments.join(" ")),
            Step::Ready => f.write_str("wait until the hub is ready"),
            Step::Lease => f.write_str("wait until kubelet renews its lease through the hub"),
            Step::EndpointSlices => f.write_str("wait until kube-proxy reads EndpointSlices through the hub"),
            Step::Remove(path) => write!(f, "remove {path}"),
            Step::RemoveFolder(path) => write!(f, "remove the folder {path}, if it is empty"),
            Step::Forget => f.write_str("remove the journal"),
        }
    }
}

/// A kube-proxy that moves to the hub with kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeProxy {
    /// What its user shows the hub: fields of a kubeconfig.
    pub user: Vec<(&'static str, String)>,
    /// `None`: the agent runs it, and the switch names its kubeconfig.
    pub replaced: Option<Replaced>,
}

/// What a conversion needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub layout: Layout,
    pub name: String,
    /// What follows `weir edge`.
    pub arguments: Vec<String>,
    /// The program of the hub.
    pub program: String,
    /// PEM: the certificate authorities of the cluster.
    pub authority: String,
    /// The files that kubelet shows the hub.
    pub client_certificate: String,
    pub client_key: String,
    /// Where the hub listens for it.
    pub hub: String,
    /// What verifies the hub.
    pub hub_authority: String,
    /// Folders that have to be made, outer ones first.
    pub folders: Vec<String>,
    /// `None`: it stays where it is.
    pub kube_proxy: Option<KubeProxy>,
}

impl Node {
    /// The files that are added, with their modes. The last one is the switch.
    fn files(&self) -> Vec<(String, u32, String)> {
        let kubelet = [("client-certificate", self.client_certificate.clone()), ("client-key", self.client_key.clone())];
        let mut files = vec![
            (AUTHORITY.into(), 0o644, self.authority.clone()),
            (KUBECONFIG.into(), 0o600, self.kubeconfig(&kubelet)),
            (UNIT_FILE.into(), 0o644, self.unit()),
        ];
        let added = self.kube_proxy.as_ref().filter(|kube_proxy| kube_proxy.replaced.is_none());
        files.extend(added.map(|kube_proxy| (KUBE_PROXY_KUBECONFIG.into(), 0o600, self.kubeconfig(&kube_proxy.user))));
        let switch = self.layout.switch(KUBECONFIG, added.map(|_| KUBE_PROXY_KUBECONFIG));
        files.push((self.layout.switch_file().into(), 0o644, switch));
        files
    }

    fn kubeconfig(&self, user: &[(&str, String)]) -> String {
        let Node { hub, hub_authority, .. } = self;
        let user: String = user.iter().map(|(field, value)| format!("    {field}: {value}\n")).collect();
        format!(
            "# Made by \"weir edge convert\".
apiVersion: v1
kind: Config
clusters:
- name: hub
  cluster:
    server: {hub}
    certificate-authority: {hub_authority}
contexts:
- name: hub
  context:
    cluster: hub
    user: node
current-context: hub
users:
- name: node
  user:
{user}"
        )
    }

    fn unit(&self) -> String {
        let arguments: Vec<String> = self.arguments.iter().map(|argument| escaped(argument)).collect();
        format!(
            "# Made by \"weir edge convert\".
[Unit]
Description=Weir edge hub
After=network.target
Before={}

[Service]
Type=notify
NotifyAccess=all
ExecStart={} edge {}
ExecReload=/bin/kill -USR2 $MAINPID
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
",
            self.layout.service(),
            escaped(&self.program),
            arguments.join(" ")
        )
    }
}

/// A word of ExecStart (systemd.service(5)).
fn escaped(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@[]".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$")),
    }
}

fn systemctl(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

/// From a node as it was to one that is converted.
pub fn convert(node: &Node) -> Vec<Step> {
    let mut files = node.files();
    let names = files.iter().map(|(path, ..)| path.clone()).collect();
    let replaced = node.kube_proxy.as_ref().and_then(|kube_proxy| Some((kube_proxy, kube_proxy.replaced.as_ref()?)));
    let journal = |phase| {
        let (files, folders) = (Vec::clone(&names), node.folders.clone());
        Step::Journal(Journal { layout: node.layout, phase, files, folders, replaced: replaced.map(|(_, replaced)| replaced.clone()) })
    };
    let write = |(path, mode, text)| Step::Write { path, mode, text };
    let mut steps = vec![journal(Phase::Preparing)];
    steps.extend(node.folders.iter().cloned().map(Step::Folder));
    let switch = files.pop();
    steps.extend(files.into_iter().map(write));
    steps.extend([Step::Systemctl(systemctl(&["daemon-reload"])), Step::Systemctl(systemctl(&["enable", "--now", UNIT])), Step::Ready]);
    steps.push(journal(Phase::Switching));
    steps.extend(switch.into_iter().map(write));
    if let Some((kube_proxy, Replaced { file, .. })) = replaced {
        steps.push(Step::Backup(file.clone()));
        steps.push(Step::Write { path: file.clone(), mode: 0o600, text: node.kubeconfig(&kube_proxy.user) });
    }
    steps.push(Step::Systemctl(systemctl(&["daemon-reload"])));
    steps.push(Step::Systemctl(systemctl(&["restart", node.layout.service()])));
    steps.extend(replaced.map(|(_, Replaced { service, .. })| Step::Systemctl(systemctl(&["restart", service]))));
    steps.push(Step::Lease);
    steps.extend(node.kube_proxy.as_ref().map(|_| Step::EndpointSlices));
    steps.push(journal(Phase::Converted));
    steps
}

/// From whatever was begun to the node as it was.
pub fn undo(journal: &Journal) -> Vec<Step> {
    let mut steps = Vec::new();
    let (switch, others) = match journal.files.split_last() {
        Some((switch, others)) => (Some(switch), others),
        None => (None, &[][..]),
    };
    if journal.phase > Phase::Preparing {
        steps.push(Step::Journal(Journal { phase: Phase::Switching, ..journal.clone() }));
        steps.extend(switch.cloned().map(Step::Remove));
        steps.extend(journal.replaced.iter().map(|replaced| Step::Restore(replaced.file.clone())));
        steps.push(Step::Systemctl(systemctl(&["daemon-reload"])));
        steps.push(Step::Systemctl(systemctl(&["restart", journal.layout.service()])));
        steps.extend(journal.replaced.iter().map(|replaced| Step::Systemctl(systemctl(&["restart", &replaced.service]))));
    }
    steps.push(Step::TrySystemctl(systemctl(&["disable", "--now", UNIT])));
    steps.extend(others.iter().rev().cloned().map(Step::Remove));
    steps.extend(journal.folders.iter().rev().cloned().map(Step::RemoveFolder));
    steps.push(Step::TrySystemctl(systemctl(&["daemon-reload"])));
    steps.push(Step::Forget);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_unit_are_escaped() {
        for (word, wanted) in
            [("https://[::1]:6443", "https://[::1]:6443"), ("a b", "\"a b\""), ("50%$x\"\\", "\"50%%$$x\\\"\\\\\""), ("", "\"\"")]
        {
            assert_eq!(escaped(word), wanted);
        }
    }
}
