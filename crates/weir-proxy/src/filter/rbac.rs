//! Who may do what (Envoy's filter `rbac`).
pub mod engine;

use super::{FilterContext, Flow};
use crate::{
    detail::Detail,
    info::Flags,
    reply::Reply,
    route::matcher::{Invalid, Patterns},
};
use engine::{Denied, Engine, Subject};
use std::sync::Arc;
use weir_config::model;

/// A compiled [`model::Rbac`].
#[derive(Debug)]
pub struct RbacRt {
    rules: Engine,
    shadow_rules: Engine,
}

impl RbacRt {
    /// The error is about a regular expression.
    pub fn compile(of: &model::Rbac, patterns: &mut Patterns) -> Result<RbacRt, Invalid> {
        let (rules, shadow_rules) = (Engine::compile(&of.rules, patterns)?, Engine::compile(&of.shadow_rules, patterns)?);
        Ok(RbacRt { rules, shadow_rules })
    }

    /// What the rules say; `None` where there are none.
    pub fn decide(&self, subject: &Subject<'_>) -> Option<Result<(), Denied<'_>>> {
        (!self.rules.is_empty()).then(|| self.rules.decide(subject))
    }
}

pub struct Rbac {
    config: Arc<RbacRt>,
}

impl Rbac {
    pub fn new(config: Arc<RbacRt>) -> Rbac {
        Rbac { config }
    }

    pub fn decode_headers(&self, cx: &FilterContext) -> Flow {
        let (stream, stats) = (&cx.stream, &cx.stats);
        let (conn, request) = (stream.conn.borrow(), stream.req.borrow());
        let (Some(conn), Some(remote)) = (conn.as_ref(), cx.client()) else { return deny(Denied { policy: None }) };
        let subject = Subject { request: Some(&*request), remote, ..Subject::of(conn) };
        if !self.config.shadow_rules.is_empty() {
            let counter = match self.config.shadow_rules.decide(&subject) {
                Ok(()) => &stats.rbac_shadow_allowed,
                Err(_) => &stats.rbac_shadow_denied,
            };
            counter.inc();
        }
        match self.config.decide(&subject) {
            None => Flow::Continue,
            Some(Ok(())) => {
                stats.rbac_allowed.inc();
                Flow::Continue
            }
            Some(Err(denied)) => {
                stats.rbac_denied.inc();
                deny(denied)
            }
        }
    }
}

fn deny(denied: Denied<'_>) -> Flow {
    let details = format!("rbac_access_denied_matched_policy[{}]", denied.policy.unwrap_or("none"));
    Flow::Reply(Box::new(Reply::new(403, Detail::Other(details.into())).body(&b"RBAC: access denied"[..])), Flags::default())
}
