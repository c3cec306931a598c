#![allow(clippy::unwrap_used)]
use super::*;
use std::io::Read;

fn all() -> Vec<Compression> {
    let mut all = vec![
        Compression::Gzip(Gzip::default()),
        Compression::Gzip(Gzip { memory_level: 1, window_bits: 9, compression_level: 1, ..Gzip::default() }),
        Compression::Gzip(Gzip { memory_level: 9, window_bits: 15, compression_level: 9, chunk_size: 65536, ..Gzip::default() }),
    ];
    for compression_strategy in [GzipStrategy::Filtered, GzipStrategy::HuffmanOnly, GzipStrategy::Rle, GzipStrategy::Fixed] {
        all.push(Compression::Gzip(Gzip { compression_strategy, ..Gzip::default() }));
    }
    all.extend([0, 3, 5, 9, 11].map(|quality| Compression::Brotli(Brotli { quality, ..Brotli::default() })));
    all.extend([10, 24].map(|window_bits| Compression::Brotli(Brotli { window_bits, ..Brotli::default() })));
    all.extend([1, 3, 7, 12, 19, 22].map(|compression_level| Compression::Zstd(Zstd { compression_level })));
    all
}

/// What can be decoded of a stream, whether it ends there or not.
fn decode(of: &Compression, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader: Box<dyn Read + '_> = match of {
        Compression::Gzip(_) => Box::new(flate2::read::GzDecoder::new(data)),
        Compression::Brotli(_) => Box::new(brotli::Decompressor::new(data, 4096)),
        Compression::Zstd(_) => Box::new(structured_zstd::decoding::StreamingDecoder::new(data)),
    };
    let mut buffer = [0; 1000];
    while let Ok(n @ 1..) = reader.read(&mut buffer) {
        out.extend_from_slice(&buffer[..n]);
    }
    out
}

/// Whether another decoder, which keeps back the last window of a stream without an end, finds the same.
fn agrees(of: &Compression, data: &[u8], body: &[u8]) -> bool {
    let Compression::Zstd(_) = of else { return true };
    let mut out = Vec::new();
    let found = ruzstd::decoding::StreamingDecoder::new(data).map(|mut decoder| decoder.read_to_end(&mut out));
    matches!(found, Ok(Ok(_))) && out == body
}

fn text(len: usize) -> Vec<u8> {
    let words = ["weir ", "the quick brown fox ", "{\"id\": 7} ", "\n"];
    let mut random = crate::core::Random::new(3);
    let mut out = Vec::with_capacity(len + 20);
    while out.len() < len {
        out.extend_from_slice(words[(random.next() >> 40) as usize % words.len()].as_bytes());
    }
    out.truncate(len);
    out
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = crate::core::Random::new(5);
    (0..len).map(|_| (random.next() >> 40) as u8).collect()
}

#[test]
fn what_is_encoded_can_be_decoded() {
    let bodies = [Vec::new(), b"a".to_vec(), text(100), text(20_000), text(50_000), noise(20_000), vec![0; 100_000]];
    for of in all() {
        for body in &bodies {
            for piece in [body.len() / 40 + 1, 70_000] {
                let (mut encoder, mut out) = (Encoder::new(&of), Vec::new());
                for part in body.chunks(piece) {
                    encoder.encode(part, false, &mut out).unwrap();
                }
                encoder.encode(b"", true, &mut out).unwrap();
                assert!(decode(&of, &out) == *body && agrees(&of, &out, body), "{of:?}: {} bytes by {piece}", body.len());
                let (mut encoder, mut whole) = (Encoder::new(&of), Vec::new());
                encoder.encode(body, true, &mut whole).unwrap();
                assert!(decode(&of, &whole) == *body && agrees(&of, &whole, body), "{of:?}: {} bytes at once", body.len());
                assert!(whole.len() < body.len() / 3 * 2 || body.len() <= 100 || body[..100] == noise(100), "{of:?}: {}", whole.len());
            }
        }
    }
}

#[test]
fn each_piece_can_be_decoded_at_once() {
    for of in all() {
        let (mut encoder, mut out, mut sent) = (Encoder::new(&of), Vec::new(), Vec::new());
        for n in 0..50 {
            let event = format!("data: {n}\n\n");
            encoder.encode(event.as_bytes(), false, &mut out).unwrap();
            sent.extend_from_slice(event.as_bytes());
            assert_eq!(String::from_utf8_lossy(&decode(&of, &out)), String::from_utf8_lossy(&sent), "{of:?}: event {n}");
        }
        // Nothing new is nothing to send, or little.
        let before = out.len();
        encoder.encode(b"", false, &mut out).unwrap();
        assert!(out.len() - before <= 16, "{of:?}: {}", out.len() - before);
    }
}

/// Every level of zstd keeps to its bound, however long the response is.
#[test]
fn memory_is_bounded() {
    let data = text(64 * 1024);
    for compression_level in 1..=22 {
        let Encoder::Zstd(mut context) = Encoder::new(&Compression::Zstd(Zstd { compression_level })) else { unreachable!() };
        let mut out = Vec::new();
        for _ in 0..64 {
            zstd(&mut context, &data, false, &mut out).unwrap();
            out.clear();
        }
        assert!(context.heap_size() < 4 << 20, "level {compression_level}: {}", context.heap_size());
    }
}
