//! The encoders: bytes in, compressed bytes out, with bounded memory.
use brotli::{CompressorWriter, enc::BrotliEncoderInitParams};
use std::io::Write;
use structured_zstd::encoding::{CompressionContext, CompressionLevel, CompressionParameters};
use weir_config::model::{Brotli, Compression, Gzip, GzipStrategy, Zstd};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Status, Strategy};

/// The encoder of one response.
pub enum Encoder {
    Gzip {
        deflate: Box<Deflate>,
        chunk: usize,
    },
    /// Absent once it has ended.
    Brotli(Option<Box<CompressorWriter<Vec<u8>>>>),
    Zstd(Box<CompressionContext>),
}

/// An encoder has failed, which none should.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("gzip: {}", .0.as_str())]
    Gzip(zlib_rs::DeflateError),
    #[error("br: {0}")]
    Brotli(std::io::Error),
    #[error("zstd: {0}")]
    Zstd(std::io::Error),
}

/// log2 of how far zstd looks back, and of its tables: without a bound they depend on the level, and take up to 100 MB.
const ZSTD_WINDOW_LOG: u32 = 18;
const ZSTD_TABLE_LOG: u32 = 16;

impl Encoder {
    pub fn new(of: &Compression) -> Encoder {
        match of {
            Compression::Gzip(gzip) => Encoder::Gzip { deflate: Box::new(deflate(gzip)), chunk: gzip.chunk_size as usize },
            Compression::Brotli(brotli) => Encoder::Brotli(Some(Box::new(writer(brotli)))),
            Compression::Zstd(zstd) => Encoder::Zstd(Box::new(context(zstd))),
        }
    }

    /// Compresses `data` to `out`. All of it can be decoded from what is there then: nothing waits for more data. `end`: it is the last.
    pub fn encode(&mut self, data: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Encoder::Gzip { deflate, chunk } => gzip(deflate, *chunk, data, end, out).map_err(EncodeError::Gzip),
            Encoder::Brotli(writer) => brotli(writer, data, end, out).map_err(EncodeError::Brotli),
            Encoder::Zstd(context) => zstd(context, data, end, out).map_err(EncodeError::Zstd),
        }
    }
}

fn deflate(of: &Gzip) -> Deflate {
    let strategy = match of.compression_strategy {
        GzipStrategy::DefaultStrategy => Strategy::Default,
        GzipStrategy::Filtered => Strategy::Filtered,
        GzipStrategy::HuffmanOnly => Strategy::HuffmanOnly,
        GzipStrategy::Rle => Strategy::Rle,
        GzipStrategy::Fixed => Strategy::Fixed,
    };
    Deflate::new_with_config(DeflateConfig {
        level: of.compression_level.into(),
        method: Method::Deflated,
        // 16 asks for the frame of gzip.
        window_bits: 16 + i32::from(of.window_bits),
        mem_level: of.memory_level.into(),
        strategy,
    })
}

fn gzip(deflate: &mut Deflate, chunk: usize, data: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), zlib_rs::DeflateError> {
    let flush = if end { DeflateFlush::Finish } else { DeflateFlush::SyncFlush };
    let before = deflate.total_in();
    loop {
        let (read, written) = ((deflate.total_in() - before) as usize, deflate.total_out());
        let len = out.len();
        out.resize(len + chunk, 0);
        let status = deflate.compress(&data[read..], &mut out[len..], flush)?;
        let new = (deflate.total_out() - written) as usize;
        out.truncate(len + new);
        let done = match status {
            Status::StreamEnd => true,
            // Room was left, so nothing is pending.
            Status::Ok => !end && new < chunk,
            Status::BufError => true,
        };
        if done {
            return Ok(());
        }
    }
}

fn writer(of: &Brotli) -> CompressorWriter<Vec<u8>> {
    let mut params = BrotliEncoderInitParams();
    (params.quality, params.lgwin) = (of.quality.into(), of.window_bits.into());
    CompressorWriter::with_params(Vec::new(), 4096, &params)
}

fn brotli(writer: &mut Option<Box<CompressorWriter<Vec<u8>>>>, data: &[u8], end: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(w) = writer else { return Ok(()) };
    w.write_all(data)?;
    if !end {
        w.flush()?;
        out.append(w.get_mut());
    } else if let Some(w) = writer.take() {
        out.append(&mut w.into_inner());
    }
    Ok(())
}

fn context(of: &Zstd) -> CompressionContext {
    let level = CompressionLevel::from_level(of.compression_level.into());
    let mut context = CompressionContext::new(level);
    let bounded =
        CompressionParameters::builder(level).window_log(ZSTD_WINDOW_LOG).hash_log(ZSTD_TABLE_LOG).chain_log(ZSTD_TABLE_LOG).build();
    if let Ok(bounded) = bounded {
        // Settings are refused only within a frame.
        let _ = context.set_parameters(&bounded);
    }
    context
}

fn zstd(context: &mut CompressionContext, mut data: &[u8], end: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    while !data.is_empty() {
        let taken = context.write(out, data)?;
        data = &data[taken..];
    }
    if end { context.finish_frame(out) } else { context.flush(out) }
}

#[cfg(test)]
mod tests;
