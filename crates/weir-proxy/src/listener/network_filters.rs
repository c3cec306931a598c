//! Filters that a connection passes before its HTTP connection manager or TCP proxy.
use crate::{
    app_log::Logger,
    conn::ConnInfo,
    filter::rbac::{RbacRt, engine::Subject},
    route::matcher::{Invalid, Patterns},
    stats::ListenerStats,
};
use weir_config::model::NetworkFilter;

/// The filters before the terminal one. The error is about a regular expression.
pub(super) fn compile(filters: &[NetworkFilter]) -> Result<Box<[RbacRt]>, Invalid> {
    let mut patterns = Patterns::default();
    let compile = |filter: &NetworkFilter| match filter {
        NetworkFilter::Rbac(rbac) => Some(RbacRt::compile(rbac, &mut patterns)),
        NetworkFilter::HttpConnectionManager(_) | NetworkFilter::TcpProxy(_) | NetworkFilter::UdpProxy(_) => None,
    };
    filters.iter().filter_map(compile).collect()
}

/// Whether all filters of a chain let a connection in.
pub(super) fn admit(filters: &[RbacRt], conn: &ConnInfo, stats: &ListenerStats) -> bool {
    filters.iter().all(|rbac| match rbac.decide(&Subject::of(conn)) {
        None => true,
        Some(Ok(())) => {
            stats.rbac_allowed.inc();
            true
        }
        Some(Err(denied)) => {
            stats.rbac_denied.inc();
            let policy = denied.policy.unwrap_or("none");
            Logger::Connection.debug(format_args!("{}: {} is denied by RBAC: {policy}", conn.listener, conn.peer));
            false
        }
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
        let name = "p".into();
        let allow = NetworkFilter::Rbac(Arc::new(Rbac::by_address(&name, &[], &[range("10.0.0.0/8")])));
        let deny = NetworkFilter::Rbac(Arc::new(Rbac::by_address(&name, &[range("10.1.0.0/16")], &[])));
        let filters = compile(&[allow, deny]).expect("good rules");
        let stats = ListenerStats::default();
        for (peer, let_in) in [("10.2.0.1:5", true), ("10.1.0.1:5", false), ("192.0.2.1:5", false)] {
            assert_eq!(admit(&filters, &conn(peer), &stats), let_in, "{peer}");
        }
        // The second filter is not asked about a connection that the first refuses.
        assert_eq!((stats.rbac_allowed.get(), stats.rbac_denied.get()), (3, 2));
    }
}
