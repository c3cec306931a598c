//! What a callback and a host call cost: `cargo run --release -p weir-wasm --example callback_cost`.
#![allow(clippy::unwrap_used)]
use std::{rc::Rc, time::Duration, time::Instant};
use weir_wasm::{pairs::Pairs, *};

const GUEST: &str = r#"(module
  (import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 100) "user-agent")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) i32.const 4096)
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
  (func (export "proxy_on_tick") (param i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $i i32)
    (loop $l
      (drop (call $get (i32.const 0) (i32.const 100) (i32.const 10) (i32.const 20) (i32.const 24)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 100)))) i32.const 0)
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (local $i i32)
    (loop $l
      (drop (call $pairs (i32.const 0) (i32.const 20) (i32.const 24)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 100)))) i32.const 0)
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (local $i i32)
    (loop $l
      (drop (call $now (i32.const 20)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 100)))) i32.const 0))"#;

struct Nothing;

impl Services for Nothing {
    fn log(&self, _: LogLevel, _: &str) {}
    fn log_level(&self) -> LogLevel {
        LogLevel::Info
    }
    fn http_call(&self, _: u32, _: HttpCall<'_>) -> Result<(), Status> {
        Err(Status::BadArgument)
    }
    fn define_metric(&self, _: MetricType, _: &str) -> Result<u32, Status> {
        Err(Status::InternalFailure)
    }
    fn increment_metric(&self, _: MetricType, _: u32, _: i64) -> Status {
        Status::NotFound
    }
    fn record_metric(&self, _: MetricType, _: u32, _: u64) -> Status {
        Status::NotFound
    }
    fn metric(&self, _: MetricType, _: u32) -> Option<u64> {
        None
    }
    fn set_tick_period(&self, _: Option<Duration>) {}
}

struct Headers(Vec<(&'static [u8], &'static [u8])>);

impl Stream for Headers {
    fn header(&self, _: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.iter().find(|(k, _)| *k == name).inspect(|(_, v)| out.extend_from_slice(v)).is_some()
    }
    fn headers(&self, _: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.iter().for_each(|(k, v)| each(k, v));
    }
    fn add_header(&self, _: MapType, _: &[u8], _: &[u8]) -> Status {
        Status::Ok
    }
    fn replace_header(&self, _: MapType, _: &[u8], _: &[u8]) -> Status {
        Status::Ok
    }
    fn remove_header(&self, _: MapType, _: &[u8]) -> Status {
        Status::Ok
    }
    fn set_headers(&self, _: MapType, _: Pairs<'_>) -> Status {
        Status::Ok
    }
    fn buffer_len(&self, _: BufferType) -> Option<usize> {
        None
    }
    fn read_buffer(&self, _: BufferType, _: usize, _: &mut [u8]) -> usize {
        0
    }
    fn edit_buffer(&self, _: BufferType, _: BufferEdit, _: &[u8]) -> Status {
        Status::Ok
    }
    fn property(&self, _: PropertyPath<'_>, _: &mut Vec<u8>) -> bool {
        false
    }
    fn set_property(&self, _: PropertyPath<'_>, _: &[u8]) {}
    fn send_local_response(&self, _: LocalResponse<'_>) {}
    fn continue_stream(&self, _: StreamType) {}
    fn close_stream(&self, _: StreamType) {}
    fn clear_route_cache(&self) {}
}

/// The best of ten rounds, in nanoseconds for one.
fn measure(what: &str, per_round: u32, divide: u32, mut work: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        (0..per_round).for_each(|_| work());
        best = best.min(begun.elapsed());
    }
    println!("{what:<44}{:>8.0} ns", best.as_nanos() as f64 / f64::from(per_round) / f64::from(divide));
}

fn main() {
    let engine = Engine::new(EngineOptions::default()).unwrap();
    let module = Module::compile(&engine, &wat::parse_str(GUEST).unwrap()).unwrap();
    let spec = PluginSpec::new("bench");
    measure("instance: start", 200, 1, || drop(Instance::start(&module, &spec, Rc::new(Nothing)).unwrap()));
    let mut instance = Instance::start(&module, &spec, Rc::new(Nothing)).unwrap();
    let mut fields: Vec<(&[u8], &[u8])> = vec![(b":path", b"/"), (b":method", b"GET"), (b":authority", b"example.com")];
    fields.extend([(&b"x-filler"[..], &b"some value of usual length"[..]); 8]);
    fields.push((b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"));
    let stream = Rc::new(Headers(fields));
    measure("stream: create and end, no callback exported", 10_000, 1, || {
        let context = instance.create_stream(stream.clone()).unwrap();
        instance.end_stream(context).unwrap();
    });
    let context = instance.create_stream(stream.clone()).unwrap();
    measure("callback: tick, does nothing", 100_000, 1, || instance.on_tick().unwrap());
    measure("callback: response headers, does nothing", 100_000, 1, || {
        instance.on_response_headers(context, true).unwrap();
    });
    measure("host call: current time", 2_000, 100, || {
        instance.on_response_body(context, 0, true).unwrap();
    });
    measure("host call: one header of 12, allocated", 2_000, 100, || {
        instance.on_request_headers(context, true).unwrap();
    });
    measure("host call: all 12 headers, allocated", 2_000, 100, || {
        instance.on_request_body(context, 0, true).unwrap();
    });
}
