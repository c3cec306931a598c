//! How a version of a plugin is rolled out.
use super::Name;
use serde::Serialize;

/// Takes a part of the streams of another plugin. Each stream meets one of the two, for its request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginCanary {
    /// The name of the other plugin.
    pub of: Name,
    /// Only streams of these routes, by `Kind/namespace/name` of their objects; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_header: Option<CanaryHeader>,
    /// A cookie with the value `always` or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_cookie: Option<Name>,
    /// Percent of the streams that neither header nor cookie decide about.
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CanaryHeader {
    /// In lower case.
    pub name: Name,
    /// `None`: the values `always` and `never` decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Name>,
}
