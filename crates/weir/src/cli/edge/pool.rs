//! Flags of the sharing in a node pool.
use anyhow::{Result, bail};
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use weir_edge::{hub::pool::Members, run::PoolOptions};

/// As YurtHub has it.
const PORT: u16 = 10269;

#[derive(Args, Debug)]
pub struct PoolArgs {
    /// Share the kinds of --pool-scope-resources with the hubs of the node pool: one of them watches each kind at the API server, and the others watch it there. They trust each other's data
    #[arg(long)]
    pool_sharing: bool,
    /// The port for other hubs of the pool
    #[arg(long, value_name = "PORT", default_value_t = PORT, requires = "pool_sharing")]
    multiplexer_port: u16,
    /// The address of that port [default: all addresses of this machine]
    #[arg(long, value_name = "IP", requires = "pool_sharing")]
    node_ip: Option<IpAddr>,
    /// The hubs of the pool, in place of those of the NodePool: the name of each node, and where its hub listens for others
    #[arg(long, value_name = "NAME=HOST:PORT", value_delimiter = ',', value_parser = peer, requires = "pool_sharing")]
    pool_peers: Vec<(String, String)>,
}

impl PoolArgs {
    pub fn options(self) -> Result<Option<PoolOptions>> {
        if !self.pool_sharing {
            return Ok(None);
        }
        let mut peers = Members::new();
        for (name, address) in self.pool_peers {
            if let Some(before) = peers.insert(name.clone(), address.clone()) {
                bail!("--pool-peers names {name} twice: {before} and {address}");
            }
        }
        let ip = self.node_ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let peers = (!peers.is_empty()).then_some(peers);
        Ok(Some(PoolOptions { address: SocketAddr::new(ip, self.multiplexer_port), peers }))
    }
}

fn peer(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("{text:?}: expected NODE=HOST:PORT, as in edge-2=10.0.0.2:{PORT}");
    let (name, address) = text.split_once('=').ok_or_else(wrong)?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    let url = url::Url::parse(&format!("https://{address}")).map_err(|_| wrong())?;
    if port.is_none() || url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
        return Err(wrong());
    }
    Ok((super::node(name).map_err(|_| wrong())?, address.to_string()))
}
