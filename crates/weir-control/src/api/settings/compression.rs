//! `gzip`, `brotli` and `zstd` of `higress-config`. Higress has only the first; the others are written the same way, with the fields of
//! Envoy's libraries.
use weir_config::{
    model::{Brotli, Compression, CompressorLibrary, Gzip, GzipStrategy, Zstd},
    reader::Object,
};

/// Those that are enabled, the preferred one first: it takes the fewest bytes.
pub fn read(root: &Object<'_>) -> Option<Vec<CompressorLibrary>> {
    let mut any = false;
    let mut libraries = Vec::new();
    for name in ["brotli", "zstd", "gzip"] {
        let Some(object) = root.object(name) else { continue };
        any = true;
        object.describe(&[
            ("enable", "true", "Whether responses are compressed in this encoding."),
            ("minContentLength", "1024", "Bytes of the shortest response that is compressed."),
            ("disableOnEtagHeader", "true", "Do not compress responses with an `etag`."),
            ("contentType", "", "Media types of responses that are compressed. By default text, JSON, JavaScript, XHTML, XML and SVG."),
        ]);
        let enabled = object.bool("enable").unwrap_or(true);
        let library = match name {
            "brotli" => brotli(&object),
            "zstd" => zstd(&object),
            _ => gzip(&object),
        };
        let library = common(&object, library);
        if enabled {
            libraries.push(library);
        }
    }
    any.then_some(libraries)
}

/// With Higress' defaults.
fn common(object: &Object<'_>, library: Compression) -> CompressorLibrary {
    let mut common = CompressorLibrary::new(library);
    common.min_content_length = number(object, "minContentLength", 1, u32::MAX).unwrap_or(1024);
    common.disable_on_etag_header = object.bool("disableOnEtagHeader").unwrap_or(true);
    if let Some(field) = object.get("contentType") {
        common.content_type = field.list().iter().filter_map(|f| f.str()).map(|text| text.trim().to_ascii_lowercase()).collect();
        if common.content_type.is_empty() {
            field.invalid("has no type", "media types as text/html");
        }
    }
    common
}

fn gzip(object: &Object<'_>) -> Compression {
    object.describe(&[
        ("memoryLevel", "5", "Memory for compression; more is faster and compresses better."),
        ("windowBits", "12", "The window is this power of two in bytes."),
        ("chunkSize", "4096", "Bytes by which the output grows."),
        ("compressionLevel", "BEST_COMPRESSION", "Speed against size."),
        ("compressionStrategy", "DEFAULT_STRATEGY", "The strategy of zlib."),
    ]);
    let default = Gzip { compression_level: 9, ..Gzip::default() };
    let mut levels = vec![("BEST_COMPRESSION", 9), ("BEST_SPEED", 1), ("DEFAULT_COMPRESSION", 6)];
    levels.extend(LEVELS);
    let strategies = [
        ("DEFAULT_STRATEGY", GzipStrategy::DefaultStrategy),
        ("FILTERED", GzipStrategy::Filtered),
        ("HUFFMAN_ONLY", GzipStrategy::HuffmanOnly),
        ("RLE", GzipStrategy::Rle),
        ("FIXED", GzipStrategy::Fixed),
    ];
    Compression::Gzip(Gzip {
        memory_level: small(object, "memoryLevel", 1, 9).unwrap_or(default.memory_level),
        window_bits: small(object, "windowBits", 9, 15).unwrap_or(default.window_bits),
        chunk_size: number(object, "chunkSize", 1, 65536).unwrap_or(default.chunk_size),
        compression_level: object.choice("compressionLevel", &levels).unwrap_or(default.compression_level),
        compression_strategy: object.choice("compressionStrategy", &strategies).unwrap_or(default.compression_strategy),
    })
}

const LEVELS: [(&str, u8); 9] = [
    ("COMPRESSION_LEVEL_1", 1),
    ("COMPRESSION_LEVEL_2", 2),
    ("COMPRESSION_LEVEL_3", 3),
    ("COMPRESSION_LEVEL_4", 4),
    ("COMPRESSION_LEVEL_5", 5),
    ("COMPRESSION_LEVEL_6", 6),
    ("COMPRESSION_LEVEL_7", 7),
    ("COMPRESSION_LEVEL_8", 8),
    ("COMPRESSION_LEVEL_9", 9),
];

fn brotli(object: &Object<'_>) -> Compression {
    object.describe(&[("quality", "3", "Speed against size."), ("windowBits", "18", "The window is this power of two in bytes.")]);
    let default = Brotli::default();
    Compression::Brotli(Brotli {
        quality: small(object, "quality", 0, 11).unwrap_or(default.quality),
        window_bits: small(object, "windowBits", 10, 24).unwrap_or(default.window_bits),
    })
}

fn zstd(object: &Object<'_>) -> Compression {
    object.describe(&[("compressionLevel", "3", "Speed against size.")]);
    let default = Zstd::default();
    Compression::Zstd(Zstd { compression_level: small(object, "compressionLevel", 1, 22).unwrap_or(default.compression_level) })
}

fn number(object: &Object<'_>, name: &'static str, least: u32, most: u32) -> Option<u32> {
    object.int(name, i64::from(least)..=i64::from(most)).and_then(|n| u32::try_from(n).ok())
}

fn small(object: &Object<'_>, name: &'static str, least: u8, most: u8) -> Option<u8> {
    object.int(name, i64::from(least)..=i64::from(most)).and_then(|n| u8::try_from(n).ok())
}
