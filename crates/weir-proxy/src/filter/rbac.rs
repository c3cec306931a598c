//! Access to routes (Envoy's filter `rbac`).
use super::{FilterContext, Flow};
use crate::{info::Flags, reply::Reply};
use std::sync::Arc;
use weir_config::model;

pub struct Rbac {
    config: Arc<model::Rbac>,
}

impl Rbac {
    pub fn new(config: Arc<model::Rbac>) -> Rbac {
        Rbac { config }
    }

    pub fn decode_headers(&self, cx: &FilterContext) -> Flow {
        if cx.client().is_some_and(|client| self.config.allows(client)) {
            cx.stats.rbac_allowed.inc();
            return Flow::Continue;
        }
        cx.stats.rbac_denied.inc();
        let reply = Reply::new(403, "rbac_access_denied_matched_policy[none]").body(&b"RBAC: access denied"[..]);
        Flow::Reply(Box::new(reply), Flags::default())
    }
}
