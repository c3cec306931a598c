//! What plugin tests share: guests in WebAssembly text with every host function at hand, objects that name them, examples
//! built by their own toolchains, and swaps.
use crate::harness::{Start, TO_ECHO, Weir, compiled, eventually, root, weir};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};
use weir_wasm::{
    Engine, EngineOptions,
    cache::{Cache, DEFAULT_MAX_BYTES},
};

/// Host functions by their short names here, and how many `i32` they take.
const IMPORTS: &[(&str, &str, usize)] = &[
    ("log", "proxy_log", 3),
    ("get_status", "proxy_get_status", 3),
    ("get_property", "proxy_get_property", 4),
    ("set_property", "proxy_set_property", 4),
    ("add", "proxy_add_header_map_value", 5),
    ("set", "proxy_replace_header_map_value", 5),
    ("get_value", "proxy_get_header_map_value", 5),
    ("get_buffer", "proxy_get_buffer_bytes", 5),
    ("set_buffer", "proxy_set_buffer_bytes", 5),
    ("continue", "proxy_continue_stream", 1),
    ("reply", "proxy_send_local_response", 8),
    ("effective", "proxy_set_effective_context", 1),
    ("tick", "proxy_set_tick_period_milliseconds", 1),
    ("http_call", "proxy_http_call", 10),
    ("grpc_call", "proxy_grpc_call", 12),
    ("grpc_stream", "proxy_grpc_stream", 9),
    ("grpc_send", "proxy_grpc_send", 4),
    ("grpc_cancel", "proxy_grpc_cancel", 1),
    ("grpc_close", "proxy_grpc_close", 1),
    ("redis_init", "proxy_redis_init", 7),
    ("redis_call", "proxy_redis_call", 5),
    ("define", "proxy_define_metric", 4),
    ("done", "proxy_done", 0),
];

/// A guest with these callbacks. `[text]` stands for the address and the length of that text (`\0`, `\r` and `\n` as in Rust;
/// `[pairs a=b,c=d]` for a header map), and beside [`IMPORTS`] there are
/// `$say` (address, length): logs at level info;
/// `$show` (property, name of a response header): the property's bytes in hexadecimal, or `-`.
pub fn guest(callbacks: &str) -> String {
    let (mut data, mut code, mut rest) = (Vec::new(), String::new(), callbacks);
    while let Some((before, after)) = rest.split_once('[') {
        let (text, after) = after.split_once(']').expect("a [text] ends");
        let bytes = match text.strip_prefix("pairs ") {
            Some(fields) => {
                let fields: Vec<_> = fields.split(',').map(|f| f.split_once('=').expect("name=value")).collect();
                weir_wasm::pairs::encode(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
            }
            None => text.replace("\\0", "\0").replace("\\r", "\r").replace("\\n", "\n").into_bytes(),
        };
        let _ = write!(code, "{before}(i32.const {}) (i32.const {})", 1024 + data.len(), bytes.len());
        data.extend(bytes);
        rest = after;
    }
    code += rest;
    let data: String = data.iter().map(|b| format!("\\{b:02x}")).collect();
    let import = |(short, name, n): &(&str, &str, usize)| {
        format!("(import \"env\" \"{name}\" (func ${short} (param{}) (result i32)))\n", " i32".repeat(*n))
    };
    let imports: String = IMPORTS.iter().map(import).collect();
    format!(
        r#"(module
{imports}
(import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
(import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
(memory (export "memory") 64)
(data (i32.const 16) "0123456789abcdef-")
(data (i32.const 1024) "{data}")
(global $next (mut i32) (i32.const 1048576))
(func (export "proxy_abi_version_0_2_1"))
(func $allocate (export "proxy_on_memory_allocate") (param $n i32) (result i32) (local $at i32)
  (if (i32.gt_u (i32.add (global.get $next) (local.get $n)) (i32.const 4194304)) (then (global.set $next (i32.const 1048576))))
  (local.set $at (global.get $next))
  (global.set $next (i32.add (local.get $at) (local.get $n)))
  (local.get $at))
(func $say (param $p i32) (param $l i32) (drop (call $log (i32.const 2) (local.get $p) (local.get $l))))
(func $hex (param $v i32) (param $l i32) (result i32) (local $out i32) (local $at i32)
  (local.set $out (call $allocate (i32.mul (local.get $l) (i32.const 2))))
  (local.set $at (local.get $out))
  (block $end (loop $each
    (br_if $end (i32.eqz (local.get $l)))
    (i32.store8 (local.get $at) (i32.load8_u (i32.add (i32.const 16) (i32.shr_u (i32.load8_u (local.get $v)) (i32.const 4)))))
    (i32.store8 offset=1 (local.get $at) (i32.load8_u (i32.add (i32.const 16) (i32.and (i32.load8_u (local.get $v)) (i32.const 15)))))
    (local.set $at (i32.add (local.get $at) (i32.const 2)))
    (local.set $v (i32.add (local.get $v) (i32.const 1)))
    (local.set $l (i32.sub (local.get $l) (i32.const 1)))
    (br $each)))
  (local.get $out))
(func $show (param $p i32) (param $pl i32) (param $n i32) (param $nl i32)
  (if (call $get_property (local.get $p) (local.get $pl) (i32.const 4) (i32.const 8))
    (then (drop (call $add (i32.const 2) (local.get $n) (local.get $nl) (i32.const 32) (i32.const 1))))
    (else (drop (call $add (i32.const 2) (local.get $n) (local.get $nl)
      (call $hex (i32.load (i32.const 4)) (i32.load (i32.const 8)))
      (i32.mul (i32.load (i32.const 8)) (i32.const 2)))))))
{code})"#
    )
}

/// A callback of request or response headers: `what` runs, then the stream goes on.
pub fn on_headers(direction: &str, what: &str) -> String {
    format!("(func (export \"proxy_on_{direction}_headers\") (param i32 i32 i32) (result i32) {what} (i32.const 0))")
}

/// A guest that marks each response with a header of its name.
pub fn marking(name: &str) -> String {
    guest(&on_headers("response", &format!("(drop (call $add (i32.const 2) [x-{name}] [seen]))")))
}

/// What a header made by `$show` stands for.
pub fn shown(hex: &str) -> Option<Vec<u8>> {
    (hex != "-").then(|| (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect())
}

/// A WasmPlugin of Istio's group; `spec` in lines of its own.
pub fn istio(name: &str, spec: &str) -> String {
    object("extensions.istio.io", name, spec)
}

/// A WasmPlugin of Higress' group.
pub fn higress(name: &str, spec: &str) -> String {
    object("extensions.higress.io", name, spec)
}

fn object(group: &str, name: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    format!("---\napiVersion: {group}/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: {name} }}\nspec:\n  {spec}\n")
}

/// A plugin whose code is this file.
pub fn of_file(code: &Path, name: &str, spec: &str) -> String {
    higress(name, &format!("url: file://{}\n{spec}", code.display()))
}

/// A gateway with one plugin before the echo upstream.
pub fn gateway(code: &Path, spec: &str) -> Weir {
    Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", of_file(code, "under-test", spec)).run()
}

/// A gateway with a guest `guest.wat` before the echo upstream.
pub fn with_guest(callbacks: &str, spec: &str) -> Weir {
    let plugin = istio("under-test", &format!("url: file://guest.wat\n{spec}"));
    Start::new().file("gateway.yaml", TO_ECHO).file("guest.wat", guest(callbacks)).file("plugin.yaml", plugin).run()
}

/// What the admin listener says of a plugin.
pub fn status(weir: &Weir, name: &str) -> Option<serde_json::Value> {
    let all = weir.admin("/plugins").json();
    all["plugins"].as_array().unwrap().iter().find(|p| p["name"] == format!("default/{name}")).cloned()
}

/// Waits until the plugin's wanted version was tried: its state then.
pub fn tried(weir: &Weir, name: &str) -> String {
    eventually("a verdict on the plugin", || {
        let state = status(weir, name)?["state"].as_str().unwrap().to_string();
        (!matches!(&*state, "loading" | "updating")).then_some(state)
    })
}

/// An example's module.
pub fn built(example: &str) -> PathBuf {
    built_in(&root().join("examples/plugins").join(example))
}

/// Builds a plugin as an example's README says, and compiles it for all tests; once per test run. Its module.
pub fn built_in(folder: &Path) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static BUILT: OnceLock<Mutex<Vec<PathBuf>>> = OnceLock::new();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if !done.iter().any(|d| d == folder) {
        let output = weir().args(["plugin", "build"]).arg(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let cache = Cache::open(compiled(), DEFAULT_MAX_BYTES).unwrap();
        cache.load(&engine, &fs::read(folder.join("plugin.wasm")).unwrap()).unwrap();
        done.push(folder.to_path_buf());
    }
    folder.join("plugin.wasm")
}

/// A self-signed certificate as files, for servers of a test's own.
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    pub fn new(name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec![name.to_string()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Certificate { folder }
    }
    pub fn chain(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
