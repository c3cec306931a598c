//! What the compressor counts, for each of its encodings, as `http.<stat_prefix>.compressor.text_optimized.<library>.response.…`.
use super::{Counter, Declared, Kind, Total};
use weir_config::model::Compression;

macro_rules! counters {
    ($($id:ident $help:literal,)*) => {
        /// Statistics of one encoding.
        #[derive(Default)]
        pub struct CompressorStats { $(#[doc = $help] pub $id: Counter,)* }
        impl CompressorStats {
            /// In the order in which they are declared.
            fn counters(&self) -> impl Iterator<Item = &Counter> {
                [$(&self.$id,)*].into_iter()
            }
        }
        macro_rules! declared {
            ($library:literal) => {
                &[$(Declared {
                    name: concat!("compressor.text_optimized.", $library, ".response.", stringify!($id)),
                    kind: Kind::Counter,
                    help: $help,
                },)*]
            };
        }
    };
}

counters! {
    compressed "responses compressed with this encoding",
    not_compressed "responses not compressed with this encoding",
    total_uncompressed_bytes "bytes of the responses that were compressed",
    total_compressed_bytes "bytes that they were compressed to",
    content_length_too_small "responses not compressed because they are shorter than the minimum",
    not_compressed_etag "responses not compressed because they have an ETag",
    no_accept_header "requests without `accept-encoding`",
    header_identity "requests that prefer no compression",
    header_compressor_used "requests whose best encoding is this one",
    header_compressor_overshadowed "requests whose best encoding is another one that is configured",
    header_wildcard "requests that accept this encoding by `*`",
    header_not_valid "requests that accept no encoding that is configured",
}

/// The compressor's encodings, each with statistics of its own.
#[derive(Default)]
pub struct CompressorsStats {
    gzip: CompressorStats,
    brotli: CompressorStats,
    zstd: CompressorStats,
}

impl CompressorsStats {
    pub fn of(&self, library: &Compression) -> &CompressorStats {
        match library {
            Compression::Gzip(_) => &self.gzip,
            Compression::Brotli(_) => &self.brotli,
            Compression::Zstd(_) => &self.zstd,
        }
    }
}

type Library = (&'static [Declared], fn(&CompressorsStats) -> &CompressorStats);

const LIBRARIES: [Library; 3] = [(declared!("gzip"), |s| &s.gzip), (declared!("brotli"), |s| &s.brotli), (declared!("zstd"), |s| &s.zstd)];

impl CompressorsStats {
    pub fn declared() -> impl Iterator<Item = &'static Declared> {
        LIBRARIES.iter().flat_map(|(declared, _)| *declared)
    }
    /// Adds shards up. An encoding without any count is left out: it is not configured.
    pub(super) fn sum(shards: &[&Self], each: &mut dyn FnMut(&'static Declared, Total)) {
        for (declared, library) in LIBRARIES {
            let total = |at| shards.iter().map(|s| library(s).counters().nth(at).map_or(0, Counter::get)).sum();
            let totals: Vec<u64> = (0..declared.len()).map(total).collect();
            if totals.iter().any(|n| *n > 0) {
                declared.iter().zip(totals).for_each(|(declared, total)| each(declared, Total::Counter(total)));
            }
        }
    }
}
