//! Filters that a connection passes before its HTTP connection manager or TCP proxy.
use crate::{app_log::Logger, conn::ConnInfo, stats::ListenerStats};
use weir_config::model::NetworkFilter;

/// Whether all filters of a chain let a connection in.
pub(super) fn admit(filters: &[NetworkFilter], conn: &ConnInfo, stats: &ListenerStats) -> bool {
    filters.iter().all(|filter| match filter {
        NetworkFilter::Rbac(rbac) => {
            let allowed = rbac.allows(conn.peer.ip());
            if allowed {
                stats.rbac_allowed.inc();
            } else {
                stats.rbac_denied.inc();
                Logger::Connection.debug(format_args!("{}: {} is denied by RBAC", conn.listener, conn.peer));
            }
            allowed
        }
        NetworkFilter::HttpConnectionManager(_) | NetworkFilter::TcpProxy(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use std::{rc::Rc, sync::Arc};
    use weir_config::model::Rbac;

    #[test]
    fn connections_are_let_in_by_address() {
        let conn = |peer: &str| ConnInfo {
            id: 1,
            peer: peer.parse().expect("an address"),
            local: ([127, 0, 0, 1], 80).into(),
            direct_peer: ([127, 0, 0, 1], 1).into(),
            listener: "l".into(),
            chain: "c".into(),
            tls: None,
            requested_server_name: None,
            drain: Rc::<Drain>::default(),
        };
        let range = |text: &str| text.parse().expect("a range");
        let allow = NetworkFilter::Rbac(Arc::new(Rbac { allow: vec![range("10.0.0.0/8")], deny: Vec::new() }));
        let deny = NetworkFilter::Rbac(Arc::new(Rbac { allow: Vec::new(), deny: vec![range("10.1.0.0/16")] }));
        let stats = ListenerStats::default();
        for (peer, let_in) in [("10.2.0.1:5", true), ("10.1.0.1:5", false), ("192.0.2.1:5", false)] {
            assert_eq!(admit(&[allow.clone(), deny.clone()], &conn(peer), &stats), let_in, "{peer}");
        }
        // The second filter is not asked about a connection that the first refuses.
        assert_eq!((stats.rbac_allowed.get(), stats.rbac_denied.get()), (3, 2));
    }
}
