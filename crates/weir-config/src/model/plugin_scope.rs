//! Which streams a plugin is for.
use super::Name;
use serde::Serialize;

/// The streams that any of these rules matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginScope {
    pub rules: Vec<PluginMatch>,
}

/// A rule matches by any of its lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginMatch {
    /// Names of routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route_names: Vec<Name>,
    /// `Kind/namespace/name` of the objects of routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Name>,
    /// Hosts in lower case; `*` at one end stands for any text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Name>,
    /// Hosts that are none of the `domains`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except_domains: Vec<Name>,
    /// Hosts of the services that routes lead to, with or without `:PORT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Name>,
}
