//! The module in what was fetched or read: compressed, in an archive, or plain.
use bytes::Bytes;
use std::io::{self, Read};

/// What is fetched of compressions within each other before something is wrong.
const MAX_DEPTH: usize = 4;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const WASM: &[u8] = b"\0asm";

/// What there is instead of a module.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("gzip: {0}")]
    Gzip(io::Error),
    #[error("zstd: {0}")]
    Zstd(String),
    #[error("compressed more than {MAX_DEPTH} times")]
    Depth,
    #[error("a tar archive without plugin.wasm in it")]
    Archive,
    #[error("no WebAssembly module (nor gzip, zstd or tar of one): it begins with \"{0}\"")]
    Other(String),
}

/// Whether these bytes are compressed or an archive.
pub fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(GZIP) || bytes.starts_with(ZSTD) || is_tar(bytes)
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// The module in what was fetched: gzip, zstd and tar are taken off.
pub fn unpack(bytes: Bytes, max: usize) -> Result<Bytes, UnpackError> {
    let mut bytes = bytes;
    for _ in 0..=MAX_DEPTH {
        if bytes.len() > max {
            return Err(UnpackError::TooLarge(max));
        }
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        let mut out = Vec::new();
        if bytes.starts_with(GZIP) {
            flate2::read::GzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut out).map_err(UnpackError::Gzip)?;
        } else if bytes.starts_with(ZSTD) {
            let decoder = ruzstd::decoding::StreamingDecoder::new(&bytes[..]).map_err(|e| UnpackError::Zstd(e.to_string()))?;
            decoder.take(limit).read_to_end(&mut out).map_err(|e| UnpackError::Zstd(e.to_string()))?;
        } else if is_tar(&bytes) {
            return untar(&bytes).ok_or(UnpackError::Archive);
        } else if bytes.starts_with(WASM) {
            return Ok(bytes);
        } else {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).escape_debug().to_string();
            return Err(UnpackError::Other(shown));
        }
        bytes = out.into();
    }
    Err(UnpackError::Depth)
}

/// `plugin.wasm` of an archive, or its first `.wasm`.
fn untar(archive: &Bytes) -> Option<Bytes> {
    let (mut at, mut found) = (0, None);
    while let Some(header) = archive.get(at..at + 512).filter(|h| h[0] != 0) {
        let name = header[..100].split(|b| *b == 0).next()?;
        let size = std::str::from_utf8(&header[124..136]).ok()?.trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(size, 8).ok()?;
        let content = at + 512..(at + 512).checked_add(size)?;
        if name.ends_with(b".wasm") && content.end <= archive.len() {
            if name.rsplit(|b| *b == b'/').next() == Some(b"plugin.wasm") {
                return Some(archive.slice(content));
            }
            found = found.or(Some(archive.slice(content.clone())));
        }
        at = content.end.checked_next_multiple_of(512)?;
    }
    found
}
