//! Compression of responses (Envoy's filter `compressor` and its libraries).
use serde::Serialize;

/// Compresses responses with the encoding that a client likes best.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compressor {
    /// At most one of each encoding. Where a client likes several equally, the first is used.
    pub libraries: Vec<CompressorLibrary>,
}

/// One encoding, and the responses that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompressorLibrary {
    pub compressor_library: Compression,
    /// Responses that are known to be shorter are left alone.
    pub min_content_length: u32,
    /// Media types without parameters, in lower case. A response without a type is compressed.
    pub content_type: Vec<String>,
    /// Leave responses with an ETag alone. Otherwise a strong ETag is removed, since it stands for other bytes.
    pub disable_on_etag_header: bool,
}

impl CompressorLibrary {
    /// With Envoy's defaults.
    pub fn new(compressor_library: Compression) -> CompressorLibrary {
        let content_type = DEFAULT_CONTENT_TYPES.map(String::from).into();
        CompressorLibrary { compressor_library, min_content_length: 30, content_type, disable_on_etag_header: false }
    }
}

/// The media types that are compressed by default.
pub const DEFAULT_CONTENT_TYPES: [&str; 8] = [
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    Gzip(Gzip),
    Brotli(Brotli),
    Zstd(Zstd),
}

impl Compression {
    /// The content coding (RFC 9110 section 8.4.1).
    pub fn content_encoding(&self) -> &'static str {
        match self {
            Compression::Gzip(_) => "gzip",
            Compression::Brotli(_) => "br",
            Compression::Zstd(_) => "zstd",
        }
    }
}

/// `compression.gzip.compressor.v3.Gzip`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gzip {
    /// 1 to 9.
    pub memory_level: u8,
    /// 9 to 15: the window has that power of two bytes.
    pub window_bits: u8,
    /// Bytes by which the output buffer grows.
    pub chunk_size: u32,
    /// 1 to 9.
    pub compression_level: u8,
    pub compression_strategy: GzipStrategy,
}

impl Default for Gzip {
    fn default() -> Self {
        let compression_strategy = GzipStrategy::DefaultStrategy;
        Gzip { memory_level: 5, window_bits: 12, chunk_size: 4096, compression_level: 6, compression_strategy }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GzipStrategy {
    #[default]
    DefaultStrategy,
    Filtered,
    HuffmanOnly,
    Rle,
    Fixed,
}

/// `compression.brotli.compressor.v3.Brotli`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Brotli {
    /// 0 to 11.
    pub quality: u8,
    /// 10 to 24.
    pub window_bits: u8,
}

impl Default for Brotli {
    fn default() -> Self {
        Brotli { quality: 3, window_bits: 18 }
    }
}

/// `compression.zstd.compressor.v3.Zstd`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Zstd {
    /// 1 to 22.
    pub compression_level: u8,
}

impl Default for Zstd {
    fn default() -> Self {
        Zstd { compression_level: 3 }
    }
}
