//! Counters, gauges and histograms under Envoy's names. Each worker writes to shards of its own with plain loads and
//! stores; readers add the shards up. The tables declare every name once, for the code, for rendering and for the documentation.
mod cell;
mod cluster;
mod codes;
mod compressor;
mod histogram;
mod http;
mod listener;
mod plugin;
mod registry;
mod table;

pub use cell::{Counter, Gauge, SharedCounter};
pub use cluster::ClusterStats;
pub use codes::Codes;
pub use compressor::{CompressorStats, CompressorsStats};
pub use histogram::{BUCKETS_MS, Histogram, QUANTILES, Totals};
pub use http::HttpStats;
pub use listener::{DOWNSTREAM_CX_ACTIVE, ListenerStats};
pub use plugin::{PLUGIN, PLUGIN_CODE, PluginRedisStats, PluginStats};
pub use registry::{Registry, Scopes};
pub use table::{Declared, Kind, Table, Total};
