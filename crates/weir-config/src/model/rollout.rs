//! How a version of a plugin is rolled out.
use super::{Name, seconds};
use serde::Serialize;
use std::time::Duration;

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

/// When the version before a new one takes over again, or a canary gives its streams back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rollback {
    /// So many traps within the window, and in one of a hundred streams; 0: never.
    pub traps: u32,
    /// Percentage points that the share of 5xx may be above that of the other version; 0: any. By default 20 for a canary, and any for a
    /// changed plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_5xx: Option<u32>,
    /// That the 99th percentile of the time in a callback may be above that of the other version; 0: any.
    #[serde(serialize_with = "seconds")]
    pub latency: Duration,
    /// How long a new version is watched; a canary is watched in one window after the other.
    #[serde(serialize_with = "seconds")]
    pub window: Duration,
    /// Fewer streams, or callbacks, of either version are not compared.
    pub min_streams: u32,
}

impl Default for Rollback {
    fn default() -> Rollback {
        Rollback { traps: 3, share_5xx: None, latency: Duration::ZERO, window: Duration::from_secs(60), min_streams: 100 }
    }
}
