//! Guests from WAT, and a proxy that keeps what they do.
#![allow(dead_code, clippy::unwrap_used)]
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use weir_wasm::{pairs::Pairs, *};

/// One engine for a test binary, as in a process.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(EngineOptions::default()).unwrap())
}

/// Compiled by the compiler of this run.
pub fn compile(wasm: &[u8]) -> Result<Module, ModuleError> {
    let optimized = || Module::compile(engine(), wasm);
    match crate::COMPILER {
        Compiler::Cranelift => optimized(),
        Compiler::Winch => Module::compile_baseline(engine(), wasm).unwrap_or_else(|| {
            let result = optimized();
            assert!(result.is_err(), "only Winch refuses it");
            result
        }),
    }
}

/// A plugin of that ABI around `body`: memory, an allocator that counts its calls and their smallest size, and every host function that
/// `body` calls as `$name`, imported from the given signatures.
pub fn guest(abi: &str, body: &str) -> Vec<u8> {
    let wat = format!("(module {} {STANDARD} (func (export \"proxy_abi_version_{}\")) {body})", imports(body), abi.replace('.', "_"));
    wat::parse_str(&wat).unwrap_or_else(|e| panic!("{e}\n{wat}"))
}

/// The allocator hands out space from 32 KiB on. `$say` logs a small number, usually a status, `$tell` a value that the host gave.
const STANDARD: &str = r#"
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 32768))
  (global $zero_asked (mut i32) (i32.const 0))
  (global $allocations (mut i32) (i32.const 0))
  (func $allocate (export "malloc") (param $size i32) (result i32)
    (local $at i32)
    (if (i32.eqz (local.get $size)) (then (global.set $zero_asked (i32.const 1))))
    (global.set $allocations (i32.add (global.get $allocations) (i32.const 1)))
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (i32.and (i32.add (local.get $size) (i32.const 7)) (i32.const -8))))
    (local.get $at))
  (func $say (param $n i32)
    (i32.store8 (i32.const 16) (i32.add (i32.const 48) (local.get $n)))
    (drop (call $log (i32.const 2) (i32.const 16) (i32.const 1))))
  ;; The value that a host call has left at 20 (where) and 24 (how long).
  (func $tell (drop (call $log (i32.const 2) (i32.load (i32.const 20)) (i32.load (i32.const 24)))))
"#;

const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("log", "proxy_log", "i32 i32 i32"),
    ("log_level", "proxy_get_log_level", "i32"),
    ("get_status", "proxy_get_status", "i32 i32 i32"),
    ("tick", "proxy_set_tick_period_milliseconds", "i32"),
    ("effective", "proxy_set_effective_context", "i32"),
    ("done", "proxy_done", ""),
    ("get_property", "proxy_get_property", "i32 i32 i32 i32"),
    ("set_property", "proxy_set_property", "i32 i32 i32 i32"),
    ("map_size", "proxy_get_header_map_size", "i32 i32"),
    ("map_pairs", "proxy_get_header_map_pairs", "i32 i32 i32"),
    ("set_pairs", "proxy_set_header_map_pairs", "i32 i32 i32"),
    ("get_header", "proxy_get_header_map_value", "i32 i32 i32 i32 i32"),
    ("add_header", "proxy_add_header_map_value", "i32 i32 i32 i32 i32"),
    ("get_buffer", "proxy_get_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("set_buffer", "proxy_set_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("continue_stream", "proxy_continue_stream", "i32"),
    ("reply", "proxy_send_local_response", "i32 i32 i32 i32 i32 i32 i32 i32"),
    ("get_shared", "proxy_get_shared_data", "i32 i32 i32 i32 i32"),
    ("set_shared", "proxy_set_shared_data", "i32 i32 i32 i32 i32"),
    ("register_queue", "proxy_register_shared_queue", "i32 i32 i32"),
    ("resolve_queue", "proxy_resolve_shared_queue", "i32 i32 i32 i32 i32"),
    ("enqueue", "proxy_enqueue_shared_queue", "i32 i32 i32"),
    ("dequeue", "proxy_dequeue_shared_queue", "i32 i32 i32"),
    ("define_metric", "proxy_define_metric", "i32 i32 i32 i32"),
    ("increment_metric", "proxy_increment_metric", "i32 i64"),
    ("record_metric", "proxy_record_metric", "i32 i64"),
    ("get_metric", "proxy_get_metric", "i32 i32"),
    ("http_call", "proxy_http_call", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("redis_call", "proxy_redis_call", "i32 i32 i32 i32 i32"),
    ("foreign", "proxy_call_foreign_function", "i32 i32 i32 i32 i32 i32"),
    ("poll", "wasi_snapshot_preview1.poll_oneoff", "i32 i32 i32 i32"),
    ("fd_write", "wasi_unstable.fd_write", "i32 i32 i32 i32"),
    ("environ_get", "wasi_snapshot_preview1.environ_get", "i32 i32"),
    ("environ_sizes", "wasi_snapshot_preview1.environ_sizes_get", "i32 i32"),
    ("random", "wasi_snapshot_preview1.random_get", "i32 i32"),
    ("clock", "wasi_snapshot_preview1.clock_time_get", "i32 i64 i32"),
    ("exit", "wasi_snapshot_preview1.proc_exit", "i32"),
];

fn imports(body: &str) -> String {
    let calls = |name: &str| name == "log" || body.split("call $").skip(1).any(|rest| rest.split([' ', ')', '\n']).next() == Some(name));
    let used = FUNCTIONS.iter().filter(|(name, _, _)| calls(name));
    let line = |(name, import, params): &(&str, &str, &str)| {
        let (module, field) = import.split_once('.').unwrap_or(("env", import));
        let result = if *name == "exit" { "" } else { "(result i32)" };
        format!("(import \"{module}\" \"{field}\" (func ${name} (param {params}) {result}))")
    };
    used.map(line).collect()
}

/// Keeps what the instance asked of the proxy.
#[derive(Default)]
pub struct Proxy {
    pub log: RefCell<Vec<(LogLevel, String)>>,
    pub calls: RefCell<Vec<(u32, String)>>,
    pub ticks: RefCell<Vec<Option<Duration>>>,
    pub metrics: RefCell<Vec<(MetricType, String, i64)>>,
    pub woken: Arc<Mutex<Vec<u32>>>,
    pub level: Cell<Option<LogLevel>>,
}

impl Proxy {
    /// Takes what the guest said: the number of a `$say`, the text of anything else.
    pub fn said(&self) -> String {
        let said: Vec<String> = self.log.take().into_iter().map(|(_, m)| m).collect();
        said.iter().map(|m| if m.len() == 1 { (m.as_bytes()[0] - b'0').to_string() } else { m.clone() }).collect::<Vec<_>>().join(" ")
    }

    /// The messages so far, without their levels.
    pub fn messages(&self) -> Vec<String> {
        self.log.borrow().iter().map(|(_, m)| m.clone()).collect()
    }
}

impl Services for Proxy {
    fn log(&self, level: LogLevel, message: &str) {
        self.log.borrow_mut().push((level, message.to_owned()));
    }
    fn log_level(&self) -> LogLevel {
        self.level.get().unwrap_or(LogLevel::Trace)
    }
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        let known = path.dotted() == "node.metadata.NAME";
        if known {
            out.extend_from_slice(b"weir");
        }
        known
    }
    fn http_call(&self, token: u32, call: HttpCall<'_>) -> Result<(), Status> {
        if call.upstream != "auth" {
            return Err(Status::BadArgument);
        }
        let path = String::from_utf8_lossy(call.headers.get(b":path").unwrap()).into_owned();
        self.calls.borrow_mut().push((token, format!("{path} {:?} from {}", call.timeout, call.context.0)));
        Ok(())
    }
    fn redis_call(&self, token: u32, cluster: &str, query: &[u8]) -> Result<(), Status> {
        self.calls.borrow_mut().push((token, format!("{cluster} {}", String::from_utf8_lossy(query))));
        Ok(())
    }
    fn define_metric(&self, kind: MetricType, name: &str) -> Result<u32, Status> {
        let mut metrics = self.metrics.borrow_mut();
        let at = metrics.iter().position(|(k, n, _)| *k == kind && n == name).unwrap_or(metrics.len());
        if at == metrics.len() {
            metrics.push((kind, name.to_owned(), 0));
        }
        Ok(u32::try_from(at).unwrap())
    }
    fn increment_metric(&self, _: MetricType, id: u32, delta: i64) -> Status {
        self.metrics.borrow_mut().get_mut(id as usize).map_or(Status::NotFound, |m| {
            m.2 += delta;
            Status::Ok
        })
    }
    fn record_metric(&self, kind: MetricType, id: u32, value: u64) -> Status {
        self.metrics.borrow_mut().get_mut(id as usize).map_or(Status::NotFound, |m| {
            let value = i64::try_from(value).unwrap();
            m.2 = if kind == MetricType::Counter { m.2 + value } else { value };
            Status::Ok
        })
    }
    fn metric(&self, _: MetricType, id: u32) -> Option<u64> {
        self.metrics.borrow().get(id as usize).map(|m| m.2 as u64)
    }
    fn set_tick_period(&self, period: Option<Duration>) {
        self.ticks.borrow_mut().push(period);
    }
    fn queue_waker(&self) -> QueueWaker {
        let woken = self.woken.clone();
        Arc::new(move |queue| woken.lock().unwrap().push(queue))
    }
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Request headers, a request body, and what was done to the stream.
#[derive(Default)]
pub struct Request {
    pub headers: RefCell<Fields>,
    pub body: RefCell<Vec<u8>>,
    pub state: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
    pub events: RefCell<Vec<String>>,
}

impl Request {
    pub fn new(headers: &[(&str, &[u8])], body: &[u8]) -> Rc<Request> {
        let headers = headers.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect();
        Rc::new(Request { headers: RefCell::new(headers), body: RefCell::new(body.to_vec()), ..Request::default() })
    }
}

impl Stream for Request {
    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let headers = self.headers.borrow();
        let found = headers.iter().find(|(k, _)| map == MapType::RequestHeaders && k.eq_ignore_ascii_case(name));
        found.inspect(|(_, v)| out.extend_from_slice(v)).is_some()
    }
    fn headers(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        if map == MapType::RequestHeaders {
            self.headers.borrow().iter().for_each(|(k, v)| each(k, v));
        }
    }
    fn add_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status {
        if map != MapType::RequestHeaders {
            return Status::BadArgument;
        }
        self.headers.borrow_mut().push((name.to_vec(), value.to_vec()));
        Status::Ok
    }
    fn replace_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status {
        self.remove_header(map, name);
        self.add_header(map, name, value)
    }
    fn remove_header(&self, _: MapType, name: &[u8]) -> Status {
        self.headers.borrow_mut().retain(|(k, _)| !k.eq_ignore_ascii_case(name));
        Status::Ok
    }
    fn set_headers(&self, _: MapType, fields: Pairs<'_>) -> Status {
        *self.headers.borrow_mut() = fields.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        Status::Ok
    }
    fn buffer_len(&self, buffer: BufferType) -> Option<usize> {
        (buffer == BufferType::RequestBody).then(|| self.body.borrow().len())
    }
    fn read_buffer(&self, _: BufferType, start: usize, out: &mut [u8]) -> usize {
        let body = self.body.borrow();
        let from = &body[start..];
        let len = from.len().min(out.len());
        out[..len].copy_from_slice(&from[..len]);
        len
    }
    fn edit_buffer(&self, _: BufferType, edit: BufferEdit, data: &[u8]) -> Status {
        let mut body = self.body.borrow_mut();
        match edit {
            BufferEdit::Prepend => *body = [data, &body[..]].concat(),
            BufferEdit::Append => body.extend_from_slice(data),
            BufferEdit::Replace => *body = data.to_vec(),
        }
        Status::Ok
    }
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        let state = self.state.borrow();
        state.get(path.0).inspect(|v| out.extend_from_slice(v)).is_some()
    }
    fn set_property(&self, path: PropertyPath<'_>, value: &[u8]) {
        self.state.borrow_mut().insert(path.0.to_vec(), value.to_vec());
    }
    fn send_local_response(&self, response: LocalResponse<'_>) {
        let body = String::from_utf8_lossy(response.body).into_owned();
        self.events.borrow_mut().push(format!("reply {} {body} {:?} {}", response.status, response.grpc_status, response.headers.len()));
    }
    fn continue_stream(&self, stream: StreamType) {
        self.events.borrow_mut().push(format!("continue {stream:?}"));
    }
    fn close_stream(&self, stream: StreamType) {
        self.events.borrow_mut().push(format!("close {stream:?}"));
    }
    fn clear_route_cache(&self) {
        self.events.borrow_mut().push("clear route cache".into());
    }
}

/// A started guest and its proxy.
pub struct Running {
    pub proxy: Rc<Proxy>,
    pub instance: Instance,
}

pub fn start_with(abi: &str, body: &str, spec: &PluginSpec) -> Result<Running, StartError> {
    let module = compile(&guest(abi, body)).unwrap();
    let proxy = Rc::new(Proxy::default());
    Instance::start(&module, spec, proxy.clone()).map(|instance| Running { proxy, instance })
}

pub fn start(abi: &str, body: &str) -> Running {
    start_with(abi, body, &PluginSpec::new("test")).unwrap()
}

/// Runs one request's headers through a 0.2.1 guest whose `proxy_on_request_headers` is `code`, which ends with the action.
pub fn on_headers(code: &str, request: &Rc<Request>) -> (Running, Result<Action, Trap>) {
    let mut running = start("0.2.1", &format!("(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) {code})"));
    let stream = running.instance.create_stream(request.clone()).unwrap();
    let action = running.instance.on_request_headers(stream, true);
    (running, action)
}
