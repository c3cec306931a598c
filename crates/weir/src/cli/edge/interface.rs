//! The dummy interface of a hub.
use anyhow::Result;
use clap::Args;
use std::net::IpAddr;
use weir_edge::dummy::Interface;

#[derive(Args, Clone, Debug)]
pub struct InterfaceArgs {
    /// Make a network interface of this node alone, and listen with TLS on its addresses, too: pods reach the hub by them. It is removed
    /// when the hub is stopped, and stays when the hub crashes
    #[arg(long)]
    enable_dummy_if: bool,
    /// Its name
    #[arg(long, value_name = "NAME", default_value = "hub-dummy0", requires = "enable_dummy_if")]
    dummy_if_name: String,
    /// Its addresses, of IPv4 and IPv6
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "169.254.2.1", requires = "enable_dummy_if")]
    dummy_if_ip: Vec<IpAddr>,
}

impl InterfaceArgs {
    pub fn is_enabled(&self) -> bool {
        self.enable_dummy_if
    }

    pub fn interface(&self) -> Result<Option<Interface>> {
        let made = || Interface::new(&self.dummy_if_name, self.dummy_if_ip.clone());
        Ok(self.enable_dummy_if.then(made).transpose()?)
    }
}
