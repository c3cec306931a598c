//! Where the streams of a tunnel may lead.
use std::collections::HashSet;

/// An authority of CONNECT, `HOST:PORT`: the host without brackets, in lower case.
pub fn split(authority: &str) -> Option<(String, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some(())?;
    Some((host.to_ascii_lowercase(), port.parse().ok()?))
}

/// What an agent connects to.
#[derive(Clone, Debug)]
pub struct Permit {
    /// The names and addresses of the node.
    names: HashSet<String>,
    /// Where kubelet listens on the node.
    kubelet: String,
    kubelet_port: u16,
    /// Other places, as they are asked for.
    others: HashSet<(String, u16)>,
}

impl Permit {
    /// `None`: `kubelet` or one of `others` is not `HOST:PORT`.
    pub fn new(names: &[String], kubelet: &str, others: &[String]) -> Option<Permit> {
        let (_, kubelet_port) = split(kubelet)?;
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let others = others.iter().map(|other| split(other)).collect::<Option<_>>()?;
        Some(Permit { names, kubelet: kubelet.into(), kubelet_port, others })
    }

    /// Where to connect to; `None`: it is not permitted.
    pub fn target(&self, authority: &str) -> Option<String> {
        let (host, port) = split(authority)?;
        if port == self.kubelet_port && self.names.contains(&host) {
            return Some(self.kubelet.clone());
        }
        let found = self.others.get(&(host, port))?;
        Some(if found.0.contains(':') { format!("[{}]:{port}", found.0) } else { format!("{}:{port}", found.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kubelet_and_what_is_listed_are_reached() {
        let text = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let permit = Permit::new(&text(&["Edge-1", "10.0.0.5"]), "127.0.0.1:10250", &text(&["10.0.0.5:9100", "[::1]:80"])).unwrap();
        let table = [
            ("edge-1:10250", Some("127.0.0.1:10250")),
            ("EDGE-1:10250", Some("127.0.0.1:10250")),
            ("10.0.0.5:10250", Some("127.0.0.1:10250")),
            ("10.0.0.5:9100", Some("10.0.0.5:9100")),
            ("[::1]:80", Some("[::1]:80")),
            ("edge-1:9100", None),
            ("edge-1:22", None),
            ("127.0.0.1:10250", None),
            ("edge-2:10250", None),
            ("edge-1", None),
            ("::1:80", None),
            (":10250", None),
            ("edge-1:99999", None),
        ];
        for (authority, wanted) in table {
            assert_eq!(permit.target(authority).as_deref(), wanted, "{authority}");
        }
        assert!(Permit::new(&[], "127.0.0.1", &[]).is_none());
        assert!(Permit::new(&[], "127.0.0.1:1", &text(&["x"])).is_none());
    }
}
