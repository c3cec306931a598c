//! What plugin tests share: guests in WebAssembly text with every host function at hand, objects that name them, examples
//! built by their own toolchains, and swaps.
use crate::{
    client::Answer,
    harness::{Start, TO_ECHO, Weir, compiled, eventually, root, weir},
};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};
use weir_test::self_signed;
use weir_wasm::{
    Engine, EngineOptions,
    cache::{Cache, DEFAULT_MAX_BYTES},
};

/// Host functions by their short names here, and how many `i32` they take; those of WASI with their module.
const IMPORTS: &[(&str, &str, usize)] = &[
    ("log", "proxy_log", 3),
    ("get_log_level", "proxy_get_log_level", 1),
    ("map_size", "proxy_get_header_map_size", 2),
    ("buffer_status", "proxy_get_buffer_status", 3),
    ("close", "proxy_close_stream", 1),
    ("override", "proxy_set_upstream_override_host", 2),
    ("foreign", "proxy_call_foreign_function", 6),
    ("resolve_dns", "envoy_resolve_dns", 3),
    ("now", "proxy_get_current_time_nanoseconds", 1),
    ("get_status", "proxy_get_status", 3),
    ("get_configuration", "proxy_get_configuration", 2),
    ("get_property", "proxy_get_property", 4),
    ("set_property", "proxy_set_property", 4),
    ("add", "proxy_add_header_map_value", 5),
    ("set", "proxy_replace_header_map_value", 5),
    ("remove", "proxy_remove_header_map_value", 3),
    ("get_value", "proxy_get_header_map_value", 5),
    ("get_pairs", "proxy_get_header_map_pairs", 3),
    ("set_pairs", "proxy_set_header_map_pairs", 3),
    ("get_buffer", "proxy_get_buffer_bytes", 5),
    ("set_buffer", "proxy_set_buffer_bytes", 5),
    ("continue", "proxy_continue_stream", 1),
    ("continue_request", "proxy_continue_request", 0),
    ("continue_response", "proxy_continue_response", 0),
    ("clear_route_cache", "proxy_clear_route_cache", 0),
    ("inject", "proxy_inject_encoded_data_to_filter_chain", 3),
    ("reply", "proxy_send_local_response", 8),
    ("get_hosts", "proxy_get_upstream_hosts", 2),
    ("effective", "proxy_set_effective_context", 1),
    ("tick", "proxy_set_tick_period_milliseconds", 1),
    ("get_shared", "proxy_get_shared_data", 5),
    ("set_shared", "proxy_set_shared_data", 5),
    ("register_queue", "proxy_register_shared_queue", 3),
    ("resolve_queue", "proxy_resolve_shared_queue", 5),
    ("enqueue", "proxy_enqueue_shared_queue", 3),
    ("dequeue", "proxy_dequeue_shared_queue", 3),
    ("http_call", "proxy_http_call", 10),
    ("grpc_call", "proxy_grpc_call", 12),
    ("grpc_stream", "proxy_grpc_stream", 9),
    ("grpc_send", "proxy_grpc_send", 4),
    ("grpc_cancel", "proxy_grpc_cancel", 1),
    ("grpc_close", "proxy_grpc_close", 1),
    ("redis_init", "proxy_redis_init", 7),
    ("redis_call", "proxy_redis_call", 5),
    ("define", "proxy_define_metric", 4),
    ("get_metric", "proxy_get_metric", 2),
    ("done", "proxy_done", 0),
    ("fd_write", "wasi_unstable.fd_write", 4),
];

/// A guest with these callbacks. `[text]` stands for the address and the length of that text (`\0`, `\r` and `\n` as in Rust;
/// `[pairs a=b,c=d]` for a header map), and beside [`IMPORTS`] there are
/// `$say` (address, length): logs at level info;
/// `$show` (property, name of a response header): the property's bytes in hexadecimal, or `-`;
/// `$has` (name): whether the request has that header, whose value then lies at 4 and 8;
/// `$answer` (status, address, length): a local response;
/// `$place` (token of a callout): where its context can be kept;
/// `$note` (letter, number, whether it ends): kept in order, for `$tell`, which answers with all of it ([`notes`]);
/// `$is_tell`: whether the request is for `/tell`.
pub fn guest(callbacks: &str) -> String {
    guest_of("0_2_1", callbacks)
}

/// [`guest`] of another ABI.
pub fn guest_of(abi: &str, callbacks: &str) -> String {
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
        let (module, name) = name.split_once('.').unwrap_or(("env", name));
        format!("(import \"{module}\" \"{name}\" (func ${short} (param{}) (result i32)))\n", " i32".repeat(*n))
    };
    let imports: String = IMPORTS.iter().map(import).collect();
    format!(
        r#"(module
{imports}
(import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
(import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
(memory (export "memory") 64)
(data (i32.const 16) "0123456789abcdef-")
(data (i32.const 40) ":path")
(data (i32.const 1024) "{data}")
(global $next (mut i32) (i32.const 1048576))
(global $noted (mut i32) (i32.const 524288))
(func (export "proxy_abi_version_{abi}"))
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
(func $has (param $name i32) (param $len i32) (result i32)
  ;; In ABI 0.1.0 one that is not there is empty.
  (i32.store (i32.const 8) (i32.const 0))
  (drop (call $get_value (i32.const 0) (local.get $name) (local.get $len) (i32.const 4) (i32.const 8)))
  (i32.ne (i32.load (i32.const 8)) (i32.const 0)))
(func $answer (param $status i32) (param $body i32) (param $len i32)
  (drop (call $reply (local.get $status) (i32.const 0) (i32.const 0) (local.get $body) (local.get $len)
    (i32.const 0) (i32.const 0) (i32.const -1))))
(func $place (param $token i32) (result i32)
  (i32.add (i32.const 32768) (i32.and (local.get $token) (i32.const 0xfffc))))
(func $note (param $letter i32) (param $number i32) (param $end i32)
  (i32.store8 (global.get $noted) (local.get $letter))
  (i32.store8 offset=1 (global.get $noted) (local.get $end))
  (i32.store offset=4 (global.get $noted) (local.get $number))
  (global.set $noted (i32.add (global.get $noted) (i32.const 8))))
(func $is_tell (result i32)
  (if (result i32) (call $has (i32.const 40) (i32.const 5))
    (then (i32.eq (i32.load (i32.load (i32.const 4))) (i32.const 0x6c65742f)))
    (else (i32.const 0))))
(func $tell (local $len i32)
  (local.set $len (i32.sub (global.get $noted) (i32.const 524288)))
  (global.set $noted (i32.const 524288))
  (call $answer (i32.const 200) (call $hex (i32.const 524288) (local.get $len)) (i32.mul (local.get $len) (i32.const 2))))
{code})"#
    )
}

/// What `$note` has kept, as `$tell` answered it: letter and number (none for 0), and `!` behind what ends.
pub fn notes(answer: &Answer) -> String {
    let bytes = shown(&answer.body).unwrap_or_default();
    let one = |n: &[u8]| {
        let number = u32::from_le_bytes(n[4..8].try_into().unwrap());
        let number = if number == 0 { String::new() } else { number.to_string() };
        format!("{}{number}{}", char::from(n[0]), if n[1] == 0 { "" } else { "!" })
    };
    bytes.chunks(8).map(one).collect::<Vec<_>>().join(" ")
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
    before_echo(guest(callbacks), spec).run()
}

/// The same on one worker, from a guest's whole text.
pub fn on_one_worker(code: String, spec: &str) -> Weir {
    before_echo(code, spec).workers(1).run()
}

fn before_echo(code: String, spec: &str) -> Start<'static> {
    let plugin = istio("under-test", &format!("url: file://guest.wat\n{spec}"));
    Start::new().file("gateway.yaml", TO_ECHO).file("guest.wat", code).file("plugin.yaml", plugin)
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
        let made = self_signed(&[name]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cert.pem"), &made.pem).unwrap();
        fs::write(folder.path().join("key.pem"), &made.key).unwrap();
        Certificate { folder }
    }
    pub fn chain(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
