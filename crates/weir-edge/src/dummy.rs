//! A network interface of the node alone, with addresses that are the same on all nodes: pods can be told of the hub by them.
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
};

/// The longest name that the kernel takes.
const MAX_NAME: usize = 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("expected a name of 1 to {MAX_NAME} characters, without spaces and slashes")]
    Name,
    #[error(
        "{0} is not an address for an interface of the node alone: expected one of 169.254.0.0/16 (but not 169.254.31.0/24 and 169.254.1.1), or a unique local address of IPv6 (fd00::/8)"
    )]
    Address(IpAddr),
    #[error("the interface {name} exists, and is another kind of interface: choose another name with --dummy-if-name")]
    Foreign { name: String },
    #[error("cannot run {command}: {error}")]
    Run { command: String, error: io::Error },
    #[error("{command}: {output}")]
    Failed { command: String, output: String },
}

impl Interface {
    pub fn new(name: &str, addresses: Vec<IpAddr>) -> Result<Interface, InterfaceError> {
        let good = |c: char| c.is_ascii_graphic() && c != '/';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(good) || name.starts_with(['-', '.']) {
            return Err(InterfaceError::Name);
        }
        match addresses.iter().find(|address| !is_local(**address)) {
            Some(address) => Err(InterfaceError::Address(*address)),
            None => Ok(Interface { name: name.into(), addresses }),
        }
    }

    /// Makes what is missing.
    pub fn ensure(&self) -> Result<(), InterfaceError> {
        let show = || ip(&["-details", "link", "show", "dev", &self.name]);
        let found = match show() {
            Ok(found) => found,
            Err(_) => {
                // Not every kernel has dummy interfaces. A bridge without ports is as good.
                let add = |kind| ip(&["link", "add", &self.name, "type", kind]);
                add("dummy").or_else(|e| add("bridge").map_err(|_| e))?;
                show()?
            }
        };
        let is = |kind: &str| found.split_whitespace().any(|word| word == kind);
        let ours = is("dummy") || is("bridge") && ip(&["link", "show", "master", &self.name])?.is_empty();
        if !ours {
            return Err(InterfaceError::Foreign { name: self.name.clone() });
        }
        for address in &self.addresses {
            let whole = if address.is_ipv4() { format!("{address}/32") } else { format!("{address}/128") };
            ip(&["address", "replace", &whole, "dev", &self.name, if address.is_ipv4() { "noprefixroute" } else { "nodad" }])?;
        }
        ip(&["link", "set", &self.name, "up"]).map(drop)
    }

    pub fn remove(&self) -> Result<(), InterfaceError> {
        ip(&["link", "delete", "dev", &self.name]).map(drop)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        write!(f, "{} ({})", self.name, addresses.join(", "))
    }
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local() && ip.octets()[2] != 31 && ip != Ipv4Addr::new(169, 254, 1, 1),
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    }
}

fn ip(arguments: &[&str]) -> Result<String, InterfaceError> {
    let command = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| InterfaceError::Run { command: command(), error })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(InterfaceError::Failed { command: command(), output: text(&output.stderr) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_node_alone_are_taken() {
        let table = [
            ("169.254.2.1", true),
            ("169.254.20.10", true),
            ("fd00::2:1", true),
            ("169.254.31.1", false),
            ("169.254.1.1", false),
            ("10.0.0.1", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
            ("2001:db8::1", false),
        ];
        for (address, good) in table {
            assert_eq!(Interface::new("hub-dummy0", vec![address.parse().unwrap()]).is_ok(), good, "{address}");
        }
        for name in ["", "a/b", "a b", "sixteen-letters-", "-x", ".."] {
            assert!(matches!(Interface::new(name, Vec::new()), Err(InterfaceError::Name)), "{name}");
        }
    }
}
