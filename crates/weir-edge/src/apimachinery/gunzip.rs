//! A body in gzip, as it comes.
use bytes::{Bytes, BytesMut};
use flate2::write::GzDecoder;
use std::io::Write;

pub struct Gunzip {
    decoder: GzDecoder<Vec<u8>>,
    max: usize,
}

impl Gunzip {
    pub fn new(max: usize) -> Gunzip {
        Gunzip { decoder: GzDecoder::new(Vec::new()), max }
    }

    /// `None` where it is no gzip, or becomes too large.
    pub fn add(&mut self, piece: &[u8]) -> Option<()> {
        // In pieces: a small one may become huge.
        for part in piece.chunks(4096) {
            self.decoder.write_all(part).ok()?;
            self.decoder.flush().ok()?;
            if self.decoder.get_ref().len() > self.max {
                return None;
            }
        }
        Some(())
    }

    /// What has come so far.
    pub fn take(&mut self) -> Bytes {
        BytesMut::from(std::mem::take(self.decoder.get_mut()).as_slice()).freeze()
    }
}
