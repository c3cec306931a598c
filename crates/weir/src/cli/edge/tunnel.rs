//! The tunnel of a hub.
use anyhow::{Result, bail};
use clap::Args;
use url::Url;
use weir_edge::tunnel::{agent::Options, permit::Permit};

#[derive(Args, Clone, Debug)]
pub struct TunnelArgs {
    /// A `weir tunnel` in the cloud to connect to, so that kube-apiserver reaches kubelet; repeat it for several
    #[arg(long, value_name = "URL", value_parser = super::server, value_delimiter = ',')]
    tunnel_server: Vec<Url>,
    /// Where kubelet listens on this node
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10250", requires = "tunnel_server")]
    tunnel_kubelet: String,
    /// An address under which kube-apiserver looks for this node, beside its name
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', requires = "tunnel_server")]
    tunnel_address: Vec<String>,
    /// Another place that the tunnel may lead to, beside kubelet
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "tunnel_server")]
    tunnel_permit: Vec<String>,
}

impl TunnelArgs {
    pub fn options(self, node_name: &str) -> Result<Option<Options>> {
        if self.tunnel_server.is_empty() {
            return Ok(None);
        }
        let names = [&[node_name.to_string()], &self.tunnel_address[..]].concat();
        let Some(permit) = Permit::new(&names, &self.tunnel_kubelet, &self.tunnel_permit) else {
            bail!("--tunnel-kubelet and --tunnel-permit: expected HOST:PORT, with brackets around an IPv6 address");
        };
        Ok(Some(Options { servers: self.tunnel_server, addresses: self.tunnel_address, permit }))
    }
}
