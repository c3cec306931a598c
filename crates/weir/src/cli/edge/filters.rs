//! Flags of the filters of a hub.
use clap::Args;
use std::{collections::BTreeSet, net::IpAddr};
use weir_edge::filters::{chain::FILTERS, context::Settings};

#[derive(Args, Debug)]
pub struct FilterArgs {
    /// Change what kubelet, kube-proxy, CoreDNS and others see, as OpenYurt does
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    enable_resource_filter: bool,
    /// Filters that are off, with commas between them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = filter)]
    disabled_resource_filters: Vec<String>,
    /// The node pool of this node [default: the one that its label apps.openyurt.io/nodepool names]
    #[arg(long, value_name = "NAME")]
    pub nodepool_name: Option<String>,
    /// The address at which pods of this node reach the port with TLS [default: that of --bind-proxy-address, unless it is a loopback address]
    #[arg(long, value_name = "IP", value_parser = reachable)]
    advertise_address: Option<IpAddr>,
}

impl FilterArgs {
    pub fn settings(&self) -> Settings {
        let disabled: BTreeSet<String> = self.disabled_resource_filters.iter().cloned().collect();
        Settings { off: !self.enable_resource_filter, disabled, ..Settings::default() }
    }

    /// Where pods reach the hub; `None`: they do not.
    pub fn advertised(&self, bound: IpAddr) -> Option<IpAddr> {
        self.advertise_address.or_else(|| reachable(&bound.to_string()).ok())
    }
}

fn filter(text: &str) -> Result<String, String> {
    match FILTERS.iter().any(|filter| filter.name == text) {
        true => Ok(text.to_string()),
        false => Err(format!("expected one of {}", FILTERS.iter().map(|filter| filter.name).collect::<Vec<_>>().join(", "))),
    }
}

fn reachable(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_loopback() && !ip.is_unspecified() => Ok(ip),
        _ => Err("expected an IP address that pods can connect to".into()),
    }
}
