//! Where distributions of Kubernetes keep the things of kubelet.
use std::{fmt, path::Path, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Kubeadm,
    K3s,
    Rke2,
}

const ALL: [Layout; 3] = [Layout::Kubeadm, Layout::K3s, Layout::Rke2];

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Kubeadm => "kubeadm",
            Layout::K3s => "k3s",
            Layout::Rke2 => "rke2",
        })
    }
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected kubeadm, k3s or rke2")]
pub struct UnknownLayout;

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(text: &str) -> Result<Layout, UnknownLayout> {
        let found = ALL.into_iter().find(|layout| layout.to_string() == text);
        found.ok_or(UnknownLayout)
    }
}

impl Layout {
    /// The layouts whose kubeconfig of kubelet is below a root.
    pub fn find(root: &Path) -> Vec<Layout> {
        ALL.into_iter().filter(|layout| below(root, layout.kubeconfig()).exists()).collect()
    }

    pub fn all() -> [Layout; 3] {
        ALL
    }

    /// The kubeconfig of kubelet.
    pub fn kubeconfig(self) -> &'static str {
        match self {
            Layout::Kubeadm => "/etc/kubernetes/kubelet.conf",
            Layout::K3s => "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
            Layout::Rke2 => "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
        }
    }

    /// The unit that runs kubelet.
    pub fn service(self) -> &'static str {
        match self {
            Layout::Kubeadm => "kubelet.service",
            Layout::K3s => "k3s-agent.service",
            Layout::Rke2 => "rke2-agent.service",
        }
    }

    /// It is there on nodes of the control plane, whose API server is on the node itself.
    pub fn control_plane(self) -> &'static str {
        match self {
            Layout::Kubeadm => "/etc/kubernetes/manifests/kube-apiserver.yaml",
            Layout::K3s => "/var/lib/rancher/k3s/server",
            Layout::Rke2 => "/var/lib/rancher/rke2/server",
        }
    }

    /// PEM files that sign the certificates of clients, beside what the kubeconfig names for servers.
    pub fn client_authority(self) -> Option<&'static str> {
        match self {
            Layout::Kubeadm => None,
            Layout::K3s => Some("/var/lib/rancher/k3s/agent/client-ca.crt"),
            Layout::Rke2 => Some("/var/lib/rancher/rke2/agent/client-ca.crt"),
        }
    }

    /// The kubeconfig of the kube-proxy that the agent runs. The agent writes it again at each start.
    pub fn kube_proxy_kubeconfig(self) -> Option<&'static str> {
        match self {
            Layout::Kubeadm => None,
            Layout::K3s => Some("/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig"),
            Layout::Rke2 => Some("/var/lib/rancher/rke2/agent/kubeproxy.kubeconfig"),
        }
    }

    /// The file that makes kubelet use another kubeconfig.
    pub fn switch_file(self) -> &'static str {
        match self {
            Layout::Kubeadm => "/etc/systemd/system/kubelet.service.d/90-weir-edge.conf",
            Layout::K3s => "/etc/rancher/k3s/config.yaml.d/90-weir-edge.yaml",
            Layout::Rke2 => "/etc/rancher/rke2/config.yaml.d/90-weir-edge.yaml",
        }
    }

    /// What is in that file. `kube_proxy`: the kubeconfig for the kube-proxy of the agent.
    pub fn switch(self, kubelet: &str, kube_proxy: Option<&str>) -> String {
        let settings = match self {
            Layout::Kubeadm => format!("[Service]\nEnvironment=\"KUBELET_KUBECONFIG_ARGS=--kubeconfig={kubelet}\"\n"),
            Layout::K3s | Layout::Rke2 => {
                let argument = |name: &str, file: &str| format!("{name}+:\n- \"kubeconfig={file}\"\n");
                let kube_proxy = kube_proxy.map(|file| argument("kube-proxy-arg", file));
                [argument("kubelet-arg", kubelet), kube_proxy.unwrap_or_default()].concat()
            }
        };
        format!("# Made by \"weir edge convert\".\n{settings}")
    }
}

/// A path of the node below the root of its file tree.
pub fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}
