//! The resources that a proxy runs on, in Envoy's nouns. Each is immutable behind an `Arc`: a new [`Config`] shares
//! with the one before it everything that did not change, so that "what changed" is a comparison of pointers.
mod basic_auth;
mod cluster;
mod compressor;
mod file_id;
mod filter;
mod header_edits;
mod listener;
mod local_rate_limit;
mod plugin;
mod plugin_scope;
mod rare;
mod rbac;
mod rollout;
mod route;
mod secret;

pub use basic_auth::*;
pub use cluster::*;
pub use compressor::*;
pub use file_id::*;
pub use filter::*;
pub use header_edits::*;
pub use listener::*;
pub use local_rate_limit::*;
pub use plugin::*;
pub use plugin_scope::*;
pub use rare::*;
pub use rbac::*;
pub use rollout::*;
pub use route::*;
pub use secret::*;

use serde::{Serialize, Serializer, ser::SerializeStruct};
use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// The name of a resource, shared by all that refer to it.
pub type Name = Arc<str>;

/// Everything a proxy needs to know, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    pub listeners: BTreeMap<Name, Arc<Listener>>,
    /// Route configurations by name; several listeners may share one.
    pub routes: BTreeMap<Name, Arc<RouteConfiguration>>,
    pub clusters: BTreeMap<Name, Arc<Cluster>>,
    /// Endpoints of the clusters of type [`Discovery::Eds`], by cluster name.
    pub endpoints: BTreeMap<Name, Arc<ClusterLoadAssignment>>,
    pub secrets: BTreeMap<Name, Arc<Secret>>,
    pub plugins: BTreeMap<Name, Arc<WasmPlugin>>,
}

/// Where a resource comes from: shown in the configuration dump and in the plugin status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `Kind/namespace/name` of the object.
    pub object: Title,
    /// In its file.
    pub line: Line,
}

impl Origin {
    /// An object that no source has.
    pub fn named(object: &str) -> Origin {
        Origin { object: object.into(), line: Line::default() }
    }
    /// The file, as it was named on the command line; `None` for other sources.
    pub fn file(&self) -> Option<&Name> {
        self.line.start.file()
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut fields = s.serialize_struct("Origin", 3)?;
        fields.serialize_field("object", &self.object)?;
        match self.file() {
            Some(file) => fields.serialize_field("file", file)?,
            None => fields.skip_field("file")?,
        }
        fields.serialize_field("line", &self.line)?;
        fields.end()
    }
}

/// What an object is called, as a text that is written when it is asked for: many resources have one, and few are asked.
#[derive(Clone)]
pub struct Title(Arc<dyn Display + Send + Sync>);

impl Title {
    pub fn new<T: Display + Send + Sync + 'static>(of: Arc<T>) -> Title {
        Title(of)
    }
}

impl Title {
    /// Whether this is the text; writes nothing down.
    pub fn is(&self, text: &str) -> bool {
        struct Rest<'a>(&'a str);
        impl fmt::Write for Rest<'_> {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
                Ok(())
            }
        }
        let mut rest = Rest(text);
        fmt::write(&mut rest, format_args!("{self}")).is_ok() && rest.0.is_empty()
    }
}

impl From<&str> for Title {
    fn from(text: &str) -> Title {
        Title(Arc::new(Box::<str>::from(text)))
    }
}

impl Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl PartialEq for Title {
    fn eq(&self, other: &Title) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_string() == other.to_string()
    }
}

impl Eq for Title {}

impl Serialize for Title {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Where a document starts. The versions of a document share it, and the source that follows the file keeps it up to date.
#[derive(Debug, Default)]
pub struct DocumentStart {
    /// `None` for what does not come from a file.
    file: Option<Arc<FileId>>,
    /// One-based.
    line: AtomicU32,
}

impl DocumentStart {
    pub fn new(file: Option<Arc<FileId>>, line: u32) -> DocumentStart {
        DocumentStart { file, line: line.into() }
    }
    /// As it was named on the command line, or found in a folder; `None` for what does not come from a file.
    pub fn file(&self) -> Option<&Name> {
        self.file.as_deref().map(FileId::name)
    }
    pub fn line(&self) -> u32 {
        self.line.load(Ordering::Relaxed)
    }
    pub fn move_to(&self, line: u32) {
        self.line.store(line, Ordering::Relaxed);
    }
}

/// A one-based line of a file; 0 where there is none. It moves with its document. Two lines are equal if they are in one file, and
/// equally far below the starts of their documents.
#[derive(Clone, Debug, Default)]
pub struct Line {
    start: Arc<DocumentStart>,
    below: u32,
}

impl Line {
    /// The first line of a document.
    pub fn first(start: Arc<DocumentStart>) -> Line {
        Line { start, below: 0 }
    }
    /// So many lines further down.
    #[must_use]
    pub fn below(&self, lines: u32) -> Line {
        Line { start: self.start.clone(), below: self.below + lines }
    }
    /// As of now.
    pub fn get(&self) -> u32 {
        self.start.line() + self.below
    }
}

impl PartialEq for Line {
    fn eq(&self, other: &Line) -> bool {
        (self.below, self.start.file()) == (other.below, other.start.file())
    }
}

impl Eq for Line {}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(self.get())
    }
}

/// A text matcher (`type.matcher.v3.StringMatcher`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// A regular expression in RE2's syntax that must match the whole text.
    Regex(String),
}

/// A share of requests in millionths (`type.v3.FractionalPercent` with the denominator MILLION).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fraction(pub u32);

impl Fraction {
    pub const ALL: Fraction = Fraction(1_000_000);

    /// From a percentage; anything outside 0 to 100 is clamped.
    pub fn percent(p: f64) -> Fraction {
        Fraction((p.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }
}

/// Durations are written as protobuf's JSON does: `1.5s`.
pub(crate) fn seconds<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{}s", d.as_secs_f64()))
}

pub(crate) fn maybe_seconds<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    match d {
        Some(d) => seconds(d, s),
        None => s.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as there are routes: what few of them have is boxed.
    #[test]
    fn what_there_are_many_of_is_small() {
        let sizes = [size_of::<Route>(), size_of::<Forward>(), size_of::<WeightedCluster>(), size_of::<Cluster>(), size_of::<Endpoint>()];
        let most = [96, 32, 32, 96, 48];
        assert!(sizes.iter().zip(most).all(|(size, most)| *size <= most), "{sizes:?}");
    }
}
