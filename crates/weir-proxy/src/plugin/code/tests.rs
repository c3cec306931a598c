#![allow(clippy::unwrap_used)]
use super::*;
use flate2::{Compression, write::GzEncoder};
use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weir_test::tar;

fn plain() -> FetchOptions {
    FetchOptions::new(Arc::new(GuardedResolver::system().unwrap()))
}

const WASM: &[u8] = b"\0asm\x01\0\0\0";

/// Answers the n-th request with the n-th text, the last one for ever.
async fn server(answers: Vec<Vec<u8>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plugin.wasm", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            let n = count.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 2048];
            let _ = io.read(&mut head).await.unwrap();
            io.write_all(&answers[n.min(answers.len() - 1)]).await.unwrap();
        }
    });
    (url, seen)
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[tokio::test]
async fn files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    let get =
        async |path: &str, sha256: &str| load(&WasmCode::File { path: path.into(), sha256: sha256.into() }, &plain(), Arc::new(())).await;
    let path = write("a.wasm", WASM);
    let digest = hex_digest(WASM);
    assert_eq!(get(&path, "").await.unwrap().digest, digest);
    assert_eq!(get(&path, &digest).await.unwrap().wasm, WASM);
    assert!(get(&path, &"0".repeat(64)).await.unwrap_err().transient);
    assert_eq!(get(&write("a.wat", b"(module)"), "").await.unwrap().wasm, WASM);
    assert!(get(&write("b.wat", b"(modul)"), "").await.unwrap_err().message.contains("b.wat"));
    let e = get(&write("b.wasm", b"<html>"), "").await.unwrap_err();
    assert!(e.message.contains("begins with \"<html>\"") && !e.transient, "{e}");
    assert!(get("/nowhere/a.wasm", "").await.unwrap_err().message.starts_with("/nowhere/a.wasm: "));
}

#[test]
fn what_is_packed_is_unpacked() {
    let other: &[u8] = b"\0asm\x01\0\0\0\0\0";
    let archive = tar(&[("./README", b"text"), ("x/other.wasm", other), ("./x/plugin.wasm", WASM)]);
    let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    for packed in [gzip(WASM), archive.clone(), gzip(&archive), tar(&[("a.wasm", WASM)]), zstd(WASM), zstd(&archive), zstd(&gzip(WASM))] {
        assert_eq!(unpack(packed.into(), 1 << 20).unwrap(), WASM);
    }
    assert!(unpack(tar(&[("a", WASM)]).into(), 1 << 20).unwrap_err().to_string().contains("plugin.wasm"));
    assert!(unpack(gzip(&vec![0; 1 << 20]).into(), 1 << 10).unwrap_err().to_string().contains("larger"));
    assert!(unpack(zstd(&vec![0; 1 << 20]).into(), 1 << 10).unwrap_err().to_string().contains("larger"));
    assert!(unpack(zstd(WASM)[..8].to_vec().into(), 1 << 10).unwrap_err().to_string().starts_with("zstd: "));
    assert!(
        unpack((0..9).fold(WASM.to_vec(), |inner, _| gzip(&inner)).into(), 1 << 20).unwrap_err().to_string().contains("compressed more")
    );
    assert!(unpack(archive[..700].to_vec().into(), 1 << 20).is_err());
}

#[tokio::test]
async fn remote_code_is_fetched_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = FetchOptions { store: Some(Arc::new(Store::open(dir.path().join("fetched")).unwrap())), ..plain() };
    let (url, seen) = server(vec![answer("503 Busy", b""), answer("200 OK", WASM), answer("404 Gone", b"")]).await;
    let digest = hex_digest(WASM);
    let pinned = WasmCode::Http { url: url.clone(), sha256: Some(digest.clone()) };
    let free = WasmCode::Http { url, sha256: None };
    assert!(load(&pinned, &options, Arc::new(())).await.unwrap_err().transient, "a 503 may be over soon");
    assert_eq!(load(&pinned, &options, Arc::new(())).await.unwrap().digest, digest);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert_eq!(load(&pinned, &options, Arc::new(())).await.unwrap().digest, digest);
    assert_eq!(seen.load(Ordering::SeqCst), 2, "the digest is on disk");
    assert_eq!(load(&free, &options, Arc::new(())).await.unwrap().digest, digest, "the last good content, as the server fails now");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    let e = load(&free, &plain(), Arc::new(())).await.unwrap_err();
    assert!(e.message.contains("404"), "{e}");
}

#[tokio::test]
async fn a_packed_module_is_known_by_either_digest() {
    let dir = tempfile::tempdir().unwrap();
    let options = FetchOptions { store: Some(Arc::new(Store::open(dir.path().into()).unwrap())), ..plain() };
    let packed = gzip(WASM);
    let (url, seen) = server(vec![answer("200 OK", &packed)]).await;
    for digest in [hex_digest(&packed), hex_digest(WASM), hex_digest(&packed)] {
        let from = WasmCode::Http { url: url.clone(), sha256: Some(digest.to_uppercase()) };
        assert_eq!(load(&from, &options, Arc::new(())).await.unwrap().wasm, WASM);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_not_wanted_is_refused() {
    let (url, seen) = server(vec![answer("200 OK", WASM)]).await;
    let wrong = WasmCode::Http { url, sha256: Some("0".repeat(64)) };
    let e = load(&wrong, &plain(), Arc::new(())).await.unwrap_err();
    assert!(e.message.contains("SHA-256") && e.message.contains(&hex_digest(WASM)), "{e}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let (url, _) = server(vec![answer("200 OK", &vec![7; 4096])]).await;
    let small = FetchOptions { max_bytes: 1024, ..plain() };
    let e = load(&WasmCode::Http { url, sha256: None }, &small, Arc::new(())).await.unwrap_err();
    assert!(e.message.contains("larger than 1024"), "{e}");
    for url in ["http://169.254.169.254/latest", "http://[fe80::1]/x", "http://[::ffff:169.254.1.1]/x"] {
        let e = load(&WasmCode::Http { url: url.into(), sha256: None }, &plain(), Arc::new(())).await.unwrap_err();
        assert!(e.message.contains("is not reached") && !e.transient, "{e}");
    }
    let (url, seen) = server(vec![b"HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n".to_vec()]).await;
    assert!(load(&WasmCode::Http { url, sha256: None }, &plain(), Arc::new(())).await.unwrap_err().message.contains("redirects"));
    assert_eq!(seen.load(Ordering::SeqCst), 6);
}
