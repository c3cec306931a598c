//! Where a plugin's code comes from, and how requests are answered while there is none.
use crate::{
    harness::{Start, TO_ECHO, Weir, eventually, free_port},
    plugin_kit::{Certificate, guest, istio, marking, status, tried},
    yaml::{Service, ToEcho},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

/// A server of code: `/NAME.wasm` is a plugin that marks responses with `x-NAME`, `/slow/…` takes its time, `/page` is no
/// module, and everything else is not there.
pub struct CodeServer {
    pub address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, u32>>>,
}

fn module(name: &str) -> Vec<u8> {
    wat::parse_str(marking(name)).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl CodeServer {
    pub fn start(port: u16, tls: Option<Arc<ServerConfig>>) -> CodeServer {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let server = CodeServer { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = server.asked.clone();
        std::thread::spawn(move || {
            for io in listener.incoming().flatten() {
                let (asked, tls) = (asked.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => answer(io, &asked),
                    Some(config) => answer(StreamOwned::new(ServerConnection::new(config).unwrap(), io), &asked),
                });
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self, path: &str) -> u32 {
        self.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }
}

fn answer(mut io: impl Read + Write, asked: &Mutex<HashMap<String, u32>>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match io.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_string();
    *asked.lock().unwrap().entry(path.clone()).or_default() += 1;
    let (status, body) = match path.rsplit_once('/').unwrap() {
        (folder, file) if let Some(name) = file.strip_suffix(".wasm") => {
            if folder == "/slow" {
                std::thread::sleep(Duration::from_millis(500));
            }
            ("200 OK", module(name))
        }
        (_, "page") => ("200 OK", b"<html>a page</html>".to_vec()),
        _ => ("404 Not Found", Vec::new()),
    };
    let _ = io.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    let _ = io.write_all(&body).and_then(|()| io.flush());
}

fn to_echo() -> Weir {
    Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", "").run()
}

#[test]
fn what_cannot_run_follows_its_fail_strategy() {
    let broken = |from: &str, to: &str| guest("").replace(from, to);
    let returns = |export: &str, body: &str| guest(&format!("(func (export \"{export}\") (param i32 i32) (result i32) {body})"));
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("plugin.yaml", "")
        .file("good.wat", marking("good"))
        .file("text.wasm", "no module")
        .file("no-abi.wat", broken("proxy_abi_version_0_2_1", "other"))
        .file("imports.wat", broken("\"proxy_done\"", "\"proxy_no_such_call\""))
        .file("abi.wat", broken("proxy_abi_version_0_2_1", "proxy_abi_version_0_3_0"))
        .file("no-start.wat", returns("proxy_on_vm_start", "(i32.const 0)"))
        .file("refuses.wat", returns("proxy_on_configure", "(i32.const 0)"))
        .file("traps.wat", returns("proxy_on_vm_start", "(unreachable)"))
        .arg("--access-log-format")
        .arg("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%")
        .run();
    let nobody = free_port();
    for (name, spec, says) in [
        ("image", "url: oci://hub.test/A:1", "\"A\" is not a repository"),
        ("undecodable", "url: file://good.wat\nphase: LATE", "LATE"),
        ("without-url", "priority: 1", "url"),
        ("not-there", "url: file://nobody.wasm", "nobody.wasm"),
        ("text", "url: file://text.wasm", "no WebAssembly module"),
        ("no-abi", "url: file://no-abi.wat", "no Proxy-Wasm ABI version"),
        ("abi", "url: file://abi.wat", "unknown Proxy-Wasm ABI version 0.3.0"),
        ("no-start", "url: file://no-start.wat", "proxy_on_vm_start returned false"),
        ("imports", "url: file://imports.wat", "proxy_no_such_call"),
        ("refuses", "url: file://refuses.wat", "proxy_on_configure returned false"),
        ("traps", "url: file://traps.wat", "proxy_on_vm_start"),
        ("unreachable", &format!("url: 'http://127.0.0.1:{nobody}/a.wasm'"), "refused"),
    ] {
        for (strategy, wanted) in [("FAIL_CLOSE", 503), ("FAIL_OPEN", 200), ("FAIL_RELOAD", 503)] {
            let name = format!("{name}-{}", strategy.to_lowercase().replace('_', "-"));
            weir.write("plugin.yaml", &istio(&name, &format!("{spec}\nfailStrategy: {strategy}")));
            assert_eq!(tried(&weir, &name), "failed", "{name}");
            // It may have been tried a moment before requests meet it.
            weir.get_until("h", "/", |a| a.status == wanted);
            let status = status(&weir, &name).unwrap();
            assert!(status["reason"].as_str().unwrap().contains(says), "{name}: {status}");
            assert_eq!(weir.stat(&format!("weir_wasm_unavailable.default/{name}")), 1);
            let of_proxy = format!("plugin `default/{name}`: ");
            if ["image-", "undecodable-", "without-url-", "not-there-"].iter().any(|kind| name.starts_with(kind)) {
                // The object itself is in error, which was reported when it was read.
                eventually(says, || weir.printed().contains(says).then_some(()));
                assert_eq!(weir.lines(&of_proxy), [""; 0]);
            } else {
                let told = eventually("the refusal", || Some(weir.lines(&of_proxy)).filter(|l| !l.is_empty()));
                assert!(told.len() == 1 && told[0].contains(says), "{name}: {told:?}");
            }
            if wanted == 503 {
                let detail = format!("503 wasm_fail_stream{{default/{name}}}");
                // The plugin before it answered 503 as well.
                eventually(&detail, || {
                    assert_eq!(weir.get("h", "/").status, 503);
                    weir.lines(&detail).first().cloned()
                });
            }
        }
    }
    // Mended it runs; in error again its last good version goes on.
    let spec = "url: file://good.wat\nphase: AUTHN";
    weir.write("plugin.yaml", &istio("undecodable-fail-close", spec));
    weir.get_until("h", "/", |a| a.status == 200 && a.header("x-good") == Some("seen"));
    weir.write("plugin.yaml", &istio("undecodable-fail-close", &spec.replace("AUTHN", "LATER")));
    eventually("the error", || weir.lines("LATER").first().cloned());
    assert_eq!(weir.get("h", "/").header("x-good"), Some("seen"));
}

#[test]
fn code_is_fetched_over_http_and_checked_by_its_digest() {
    let server = CodeServer::start(0, None);
    let weir = to_echo();
    let right = digest(&module("a"));
    let rows = [
        ("right", "/a.wasm", right.clone(), Ok("x-a")),
        ("upper-case", "/a.wasm", right.to_uppercase(), Ok("x-a")),
        ("slow", "/slow/b.wasm", digest(&module("b")), Ok("x-b")),
        ("without", "/c.wasm", String::new(), Ok("x-c")),
        ("wrong", "/d.wasm", "0".repeat(64), Err("not 0000")),
        ("gone", "/gone", "1".repeat(64), Err("404")),
        ("page", "/page", String::new(), Err("no WebAssembly module")),
    ];
    for (name, path, sha256, wanted) in &rows {
        weir.write("plugin.yaml", &istio(name, &format!("url: {}\nsha256: '{sha256}'", server.url(path))));
        let state = tried(&weir, name);
        match wanted {
            Ok(header) => {
                assert_eq!(state, "active", "{name}");
                weir.get_until("h", "/", |a| a.status == 200 && a.header(header) == Some("seen"));
            }
            Err(says) => {
                assert_eq!(state, "failed", "{name}");
                weir.get_until("h", "/", |a| a.status == 503);
                let status = status(&weir, name).unwrap();
                assert!(status["reason"].as_str().unwrap().contains(says), "{name}: {status}");
            }
        }
    }
    // By its digest it was known the second time.
    assert_eq!((server.asked("/a.wasm"), server.asked("/d.wasm")), (1, 1));
    let counts = ["wasm_remote_fetch_count.success", "wasm_remote_fetch_count.checksum_mismatched", "wasm_cache_lookup_count.true"];
    assert_eq!(counts.map(|name| weir.stat(name)), [3, 1, 1]);
    assert!(weir.stat("wasm_remote_fetch_count.download_failure") >= 1);
}

#[test]
fn a_server_that_comes_later_is_asked_again() {
    let port = free_port();
    let sha256 = digest(&module("late"));
    let plugin = |strategy| istio("late", &format!("url: 'http://127.0.0.1:{port}/late.wasm'\nsha256: {sha256}\nfailStrategy: {strategy}"));
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin("FAIL_CLOSE")).run();
    assert_eq!(weir.get("h", "/").status, 503);
    weir.write("plugin.yaml", &plugin("FAIL_OPEN"));
    weir.get_until("h", "/", |a| a.status == 200 && a.header("x-late").is_none());
    eventually("the second refusal", || (weir.stat("weir_wasm_refused_versions.default/late") >= 2).then_some(()));
    let server = CodeServer::start(port, None);
    weir.get_until("h", "/", |a| a.header("x-late") == Some("seen"));
    assert_eq!(server.asked("/late.wasm"), 1);
    assert_eq!(weir.stat("weir_wasm_unavailable.default/late"), 0);
}

/// The echo upstream under another name.
const OTHER: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: other }
spec: { parentRefs: [{ name: gateway }], hostnames: [other.test], rules: [{ backendRefs: [{ name: echo, port: 80 }] }] }
";

#[test]
fn a_server_that_hangs_delays_nothing_but_its_plugin() {
    // It accepts the request and answers when the test says so.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hung.wasm", listener.local_addr().unwrap());
    let (go, waits) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let hung: Vec<_> = listener.incoming().take(1).flatten().collect();
        let _ = waits.recv();
        // The fetch may have given up meanwhile, and asks again.
        hung.into_iter().chain(listener.incoming().flatten()).for_each(|io| answer(io, &Mutex::default()));
    });
    let weir = to_echo();
    weir.get_until("h", "/", |a| a.status == 200);
    weir.write("plugin.yaml", &istio("hung", &format!("url: {url}\nfailStrategy: FAIL_OPEN")));
    eventually("the plugin", || status(&weir, "hung"));
    weir.write("other.yaml", OTHER);
    weir.get_until("other.test", "/", |a| a.status == 200 && a.header("x-hung").is_none());
    weir.write(
        "gateway.yaml",
        &ToEcho::new().rules(&["matches: [{ path: { value: /only } }], backendRefs: [{ name: echo, port: 80 }]"]).text(),
    );
    weir.get_until("h", "/", |a| a.status == 404);
    assert_eq!(status(&weir, "hung").unwrap()["generation"], 0, "it is still on its way");
    go.send(()).unwrap();
    weir.get_until("h", "/only", |a| a.header("x-hung") == Some("seen"));
}

#[test]
fn a_refusal_is_not_asked_for_again_unless_what_was_missing_may_come() {
    let configure = |code: &str| guest(&format!("(func (export \"proxy_on_configure\") (param i32 i32) (result i32) {code})"));
    let asks = "(i32.eqz (call $http_call [outbound|80||later.default.svc.cluster.local] [pairs :method=GET,:path=/,:authority=a]
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 84)))";
    let nobody = free_port();
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("refuses.wat", configure("(call $say [no, thank you]) (i32.const 0)"))
        .file("asks.wat", configure(asks))
        .file(
            "plugin.yaml",
            istio("refuses", "url: file://refuses.wat\nfailStrategy: FAIL_OPEN")
                + &istio("asks", "url: file://asks.wat\nfailStrategy: FAIL_OPEN")
                + &istio("unreachable", &format!("url: 'http://127.0.0.1:{nobody}/a.wasm'\nfailStrategy: FAIL_OPEN")),
        )
        .run();
    let tries = |name: &str| weir.stat(&format!("weir_wasm_refused_versions.default/{name}"));
    eventually("three tries of the others", || (tries("unreachable") >= 3 && tries("asks") >= 3).then_some(()));
    assert_eq!((tries("refuses"), weir.says("no, thank you").len()), (1, 1));
    assert_eq!(status(&weir, "refuses").unwrap()["state"], "failed");
    let service = Service::new("later", "$ECHO").text();
    let route = OTHER.replace("name: echo", "name: later");
    weir.write("later.yaml", &format!("{service}{route}"));
    eventually("what it asked for", || (status(&weir, "asks")?["state"] == "active").then_some(()));
}

#[test]
fn a_restart_neither_fetches_nor_compiles() {
    let server = CodeServer::start(0, None);
    let cache = tempfile::tempdir().unwrap();
    let plugin = istio("kept", &format!("url: {}\nsha256: {}", server.url("/kept.wasm"), digest(&module("kept"))));
    let start = || Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin.clone()).cache(cache.path()).run();
    let counts = |weir: &Weir| {
        let names = ["wasm_remote_fetch_count.success", "wasm_cache_lookup_count.true", "weir_wasm_compiled", "weir_wasm_artifacts_loaded"];
        names.map(|name| weir.stat(name))
    };
    for (wanted, asked) in [([1, 0, 1, 0], 1), ([0, 1, 0, 1], 1)] {
        let weir = start();
        assert_eq!(weir.get("h", "/").header("x-kept"), Some("seen"));
        assert_eq!((counts(&weir), server.asked("/kept.wasm")), (wanted, asked));
    }
    // An artifact that was damaged is not run; it is compiled again.
    let damaged = walk(cache.path()).into_iter().find(|p| p.extension().is_some_and(|e| e == "cwasm")).unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&damaged, bytes).unwrap();
    let weir = start();
    assert_eq!((counts(&weir), weir.get("h", "/").header("x-kept")), ([0, 1, 1, 0], Some("seen")));
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

#[test]
fn code_over_https_from_a_server_that_is_trusted() {
    let made = Certificate::new("localhost");
    let chain = vec![CertificateDer::from_pem_file(made.chain()).unwrap()];
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(made.key()).unwrap())
        .unwrap();
    let server = CodeServer::start(0, Some(Arc::new(config)));
    let plugin = istio("safe", &format!("url: https://localhost:{}/safe.wasm", server.address.port()));
    let start = || Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin.clone());
    let trusting = start().env("SSL_CERT_FILE", made.chain()).run();
    assert_eq!(trusting.get("h", "/").header("x-safe"), Some("seen"));
    let strict = start().run();
    let status = status(&strict, "safe").unwrap();
    assert!(status["reason"].as_str().unwrap().to_lowercase().contains("certificate"), "{status}");
    assert_eq!(strict.get("h", "/").status, 503);
}
