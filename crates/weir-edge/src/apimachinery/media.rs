//! Media types of the Kubernetes API: how a body is encoded and in which shape an object is asked for.
use std::fmt;

use thiserror::Error;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    Json,
    Protobuf,
    Cbor,
    Yaml,
}

impl Encoding {
    /// A short name for cache keys, messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Json => "json",
            Encoding::Protobuf => "protobuf",
            Encoding::Cbor => "cbor",
            Encoding::Yaml => "yaml",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the API server makes of an object before it encodes it (parameters `as`, `g` and `v`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// The object itself.
    #[default]
    Object,
    /// Only its metadata: `PartialObjectMetadata` of `meta.k8s.io`, in lists `PartialObjectMetadataList`.
    PartialObjectMetadata { version: &'static str },
    /// The columns that kubectl prints: `Table` of `meta.k8s.io`.
    Table { version: &'static str },
    /// Aggregated discovery: `APIGroupDiscoveryList` of `apidiscovery.k8s.io`.
    ApiGroupDiscoveryList { version: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType {
    pub encoding: Encoding,
    pub shape: Shape,
    /// `;stream=watch`: a sequence of watch events.
    pub stream: bool,
    /// `;pretty=1`: JSON with line breaks and indentation.
    pub pretty: bool,
}

/// Most entries of an Accept header that are read.
pub const MAX_ACCEPT: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MediaError {
    #[error("the Accept header has more than {MAX_ACCEPT} media types")]
    TooMany,
}

impl MediaType {
    pub const JSON: MediaType = MediaType { encoding: Encoding::Json, shape: Shape::Object, stream: false, pretty: false };
    pub const PROTOBUF: MediaType = MediaType { encoding: Encoding::Protobuf, ..MediaType::JSON };

    /// Reads a Content-Type header or one entry of an Accept header. `None`: not a media type of the Kubernetes API.
    pub fn read(text: &str) -> Option<MediaType> {
        Some(Entry::read(text)?.media)
    }

    /// Reads the values of the Accept header: the most wanted media type first, without those that the API server does not offer.
    /// Without a header, clients get JSON. An empty result means 406.
    pub fn accepted<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Vec<MediaType>, MediaError> {
        let mut entries = Vec::new();
        let mut count = 0;
        for text in values.into_iter().flat_map(|value| split(value, ',')).filter(|text| !text.is_empty()) {
            count += 1;
            if count > MAX_ACCEPT {
                return Err(MediaError::TooMany);
            }
            entries.extend(Entry::read(text));
        }
        if count == 0 {
            return Ok(vec![MediaType::JSON]);
        }
        // A stable sort: entries of one quality stay in order, wildcards go last.
        entries.sort_by_key(|e| (std::cmp::Reverse(e.quality), e.wildcard));
        let mut media: Vec<MediaType> = Vec::with_capacity(entries.len());
        for entry in entries.into_iter().filter(|e| e.quality > 0) {
            if !media.contains(&entry.media) {
                media.push(entry.media);
            }
        }
        Ok(media)
    }

    /// One short text for each encoding and shape. A list and a watch of the same objects have the same text.
    pub fn key(&self) -> String {
        format!("{}{}", self.encoding.name(), Parameters(self.shape))
    }

    /// Reads what [`MediaType::key`] has made.
    pub fn of_key(key: &str) -> Option<MediaType> {
        let (encoding, parameters) = key.split_once(';').unwrap_or((key, ""));
        let encoding = [Encoding::Json, Encoding::Protobuf, Encoding::Cbor, Encoding::Yaml].into_iter().find(|e| e.name() == encoding)?;
        let plain = MediaType { encoding, ..MediaType::JSON };
        MediaType::read(&format!("{};{parameters}", plain.content_type(false)))
    }

    /// An Accept header that asks for nothing else. The metadata of a list has a kind of its own.
    pub fn accept(&self, list: bool) -> String {
        let accept = format!("{}{}", MediaType { shape: Shape::Object, ..*self }.content_type(false), Parameters(self.shape));
        if list { accept.replace("as=PartialObjectMetadata;", "as=PartialObjectMetadataList;") } else { accept }
    }

    /// The Content-Type that the API server gives a body of this media type.
    pub fn content_type(&self, watch: bool) -> String {
        let base = match (self.encoding, watch) {
            (Encoding::Json, _) => "application/json",
            (Encoding::Protobuf, false) => "application/vnd.kubernetes.protobuf",
            (Encoding::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch",
            (Encoding::Cbor, false) => "application/cbor",
            (Encoding::Cbor, true) => "application/cbor-seq",
            (Encoding::Yaml, _) => "application/yaml",
        };
        match self.shape {
            Shape::ApiGroupDiscoveryList { version } => format!("{base};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"),
            _ => base.to_string(),
        }
    }
}

/// A shape as parameters of a cache key.
struct Parameters(Shape);

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Shape::Object => Ok(()),
            Shape::PartialObjectMetadata { version } => write!(f, ";as=PartialObjectMetadata;v={version};g=meta.k8s.io"),
            Shape::Table { version } => write!(f, ";as=Table;v={version};g=meta.k8s.io"),
            Shape::ApiGroupDiscoveryList { version } => write!(f, ";as=APIGroupDiscoveryList;v={version};g=apidiscovery.k8s.io"),
        }
    }
}

struct Entry {
    media: MediaType,
    /// In thousandths.
    quality: u16,
    wildcard: bool,
}

impl Entry {
    fn read(text: &str) -> Option<Entry> {
        let mut parts = split(text, ';');
        let name = parts.next()?.to_ascii_lowercase();
        let (encoding, mut stream, wildcard) = match name.as_str() {
            "*/*" | "application/*" => (Encoding::Json, false, true),
            "application/json" => (Encoding::Json, false, false),
            "application/vnd.kubernetes.protobuf" => (Encoding::Protobuf, false, false),
            "application/cbor" => (Encoding::Cbor, false, false),
            "application/cbor-seq" => (Encoding::Cbor, true, false),
            "application/yaml" => (Encoding::Yaml, false, false),
            _ => return None,
        };
        let (mut kind, mut group, mut version, mut pretty, mut quality) = ("", "", "", false, 1000);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "as" => kind = value,
                "g" => group = value,
                "v" => version = value,
                "stream" if value == "watch" => stream = true,
                "stream" if !value.is_empty() => return None,
                "pretty" => pretty = value == "1",
                "q" => quality = quality_of(value),
                _ => {}
            }
        }
        let shape = Shape::read(kind, group, version)?;
        Some(Entry { media: MediaType { encoding, shape, stream, pretty }, quality, wildcard })
    }
}

impl Shape {
    fn read(kind: &str, group: &str, version: &str) -> Option<Shape> {
        let known = |versions: [&'static str; 2]| versions.into_iter().find(|v| *v == version);
        match (kind, group) {
            ("", "") => version.is_empty().then_some(Shape::Object),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io") => {
                Some(Shape::PartialObjectMetadata { version: known(["v1", "v1beta1"])? })
            }
            ("Table", "meta.k8s.io") => Some(Shape::Table { version: known(["v1", "v1beta1"])? }),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io") => Some(Shape::ApiGroupDiscoveryList { version: known(["v2", "v2beta1"])? }),
            _ => None,
        }
    }
}

/// A quality value in thousandths; what is not one counts as 1, as it does for the API server.
fn quality_of(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => (value * 1000.0).round() as u16,
        _ => 1000,
    }
}

/// The parts of a header's value between separators that are not in quotes, without the spaces around them.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests;
