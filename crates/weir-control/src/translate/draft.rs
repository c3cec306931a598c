//! A cluster while it is made.
use weir_config::model::{Cluster, Endpoint};

/// A cluster before subsets and traffic policy are applied to it.
pub struct Draft {
    /// Its `discovery` is filled in at the end, from the other two fields.
    pub cluster: Cluster,
    pub endpoints: Vec<Endpoint>,
    pub found_by: FoundBy,
}

/// How the endpoints of a draft are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// As they are listed; kept apart from the cluster, as they change more often.
    List,
    StrictDns,
    LogicalDns,
    /// By the request's host.
    Request,
}
