//! The border between a guest and the proxy: what the proxy implements ([`Stream`], [`Services`]) and the values that cross.
//!
//! Everything here is synchronous, and single-threaded once an instance has started. A method of these traits is called while the
//! guest is on the stack, so it must not call back into the same [`Instance`](crate::Instance): what it sets off (a local reply, a
//! resume, a failed call's answer) is queued by the implementor and runs after the guest has returned. No borrow of the implementor
//! is held while guest code runs.
use crate::pairs::Pairs;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A context of one instance: its root context or one stream. Unique for the life of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u32);

/// What a host call tells the guest (proxy-wasm `proxy_status_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    BadExpression = 5,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    ResultMismatch = 9,
    InternalFailure = 10,
    BrokenConnection = 11,
    Unimplemented = 12,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    Trace = 0,
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Critical = 5,
}

/// The header maps of a stream. Those of callouts (4 to 7) are held by the instance and never reach a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapType {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
}

/// The buffers of a stream. Those of callouts, configuration and foreign calls are held by the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BufferType {
    RequestBody = 0,
    ResponseBody = 1,
    DownstreamData = 2,
    UpstreamData = 3,
}

/// The edits that `proxy_set_buffer_bytes` knows; any other range is refused before it reaches the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferEdit {
    Prepend,
    Append,
    /// The whole content.
    Replace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamType {
    Request = 0,
    Response = 1,
    Downstream = 2,
    Upstream = 3,
}

/// Who closed a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PeerType {
    Unknown = 0,
    Local = 1,
    Remote = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

/// What a callback decided, as Envoy's filter statuses. Which of them a phase can yield is said at each.
///
/// A callback that sent a local response always yields the phase's "stop", whatever the guest returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All phases.
    Continue,
    /// Headers: hold them, body callbacks still run (ABI 0.2.100, or `allow_on_headers_stop_iteration`). Trailers: hold them.
    StopIteration,
    /// Headers: go on, and end the stream with these headers.
    ContinueAndEndStream,
    /// Headers: nothing further until resumed; hold the body, an overflow is an error (413, 500).
    StopAllIterationAndBuffer,
    /// Headers: nothing further until resumed; hold the body with back-pressure. What "Pause" means up to ABI 0.2.1.
    StopAllIterationAndWatermark,
    /// Data: hold this and what follows, call again with all that is held; an overflow is an error (413, 500).
    StopIterationAndBuffer,
    /// Data: hold with back-pressure.
    StopIterationAndWatermark,
    /// Data: this frame goes no further (the plugin injects its own).
    StopIterationNoBuffer,
}

impl Action {
    /// Everything but [`Action::Continue`] and [`Action::ContinueAndEndStream`].
    pub fn stops(self) -> bool {
        !matches!(self, Action::Continue | Action::ContinueAndEndStream)
    }
}

/// A property's path, e.g. `request\0headers\0accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyPath<'a>(pub &'a [u8]);

impl<'a> PropertyPath<'a> {
    /// The path's segments; an empty path has none. A trailing NUL is ignored.
    pub fn segments(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let bytes = self.0.strip_suffix(&[0]).unwrap_or(self.0);
        bytes.split(|b| *b == 0).filter(move |_| !bytes.is_empty())
    }

    /// The first segment, and what follows its NUL.
    pub fn split_first(self) -> (&'a [u8], PropertyPath<'a>) {
        match self.0.iter().position(|b| *b == 0) {
            Some(i) => (&self.0[..i], PropertyPath(&self.0[i + 1..])),
            None => (self.0, PropertyPath(&[])),
        }
    }

    /// The path's text with dots, for messages.
    pub fn dotted(self) -> String {
        String::from_utf8_lossy(self.0.strip_suffix(&[0]).unwrap_or(self.0)).replace('\0', ".")
    }
}

/// A reply made by the plugin (`proxy_send_local_response`); its parts lie in the guest's memory for the time of the call.
#[derive(Clone, Copy, Debug)]
pub struct LocalResponse<'a> {
    /// As the guest gave it; not checked to be a valid HTTP status.
    pub status: u32,
    /// For the access log's response code details.
    pub details: &'a [u8],
    pub body: &'a [u8],
    /// To be appended; the default content-type applies only when there is none among them.
    pub headers: Pairs<'a>,
    /// Set: a gRPC request gets a trailers-only reply with it.
    pub grpc_status: Option<i32>,
}

/// What a guest may see and change of one HTTP stream or TCP connection.
///
/// A map or buffer that does not exist yet reads as empty or absent. One that has been sent on stays readable until the stream ends;
/// an edit of it is `Ok` without effect (the Rust SDK panics on anything else: envoy#26485).
pub trait Stream {
    /// Appends the first value of a header to `out`; false when there is none.
    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool;
    /// Every field in order, pseudo headers first.
    fn headers(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8]));
    /// How many fields that are.
    fn header_count(&self, map: MapType) -> u32 {
        let mut fields = 0;
        self.headers(map, &mut |_, _| fields += 1);
        fields
    }
    /// `BadArgument` when the map does not exist in this phase; the same for the other edits.
    fn add_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status;
    /// Leaves exactly one field of that name.
    fn replace_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status;
    /// Removing an absent header is `Ok`.
    fn remove_header(&self, map: MapType, name: &[u8]) -> Status;
    /// Replaces the whole map.
    fn set_headers(&self, map: MapType, fields: Pairs<'_>) -> Status;

    /// Bytes that the guest can read now: everything held plus the frame at hand. `None` when there is no such buffer.
    fn buffer_len(&self, buffer: BufferType) -> Option<usize>;
    /// Copies from `start` on into `out`; how many bytes it copied.
    fn read_buffer(&self, buffer: BufferType, start: usize, out: &mut [u8]) -> usize;
    fn edit_buffer(&self, buffer: BufferType, edit: BufferEdit, data: &[u8]) -> Status;

    /// Appends a property's value to `out`, encoded as Envoy does (spec 1.5); false when unknown.
    /// `plugin_name`, `plugin_root_id`, `plugin_vm_id` and `plugin_vm_memory` are answered by the instance.
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool;
    /// Filter state `wasm.<path>`, or one of Higress' switches (`clear_route_cache`, `set_decoder_buffer_limit`, …).
    fn set_property(&self, path: PropertyPath<'_>, value: &[u8]);
    /// Filter state under its plain name (foreign function `set_envoy_filter_state`).
    fn set_filter_state(&self, name: &[u8], value: &[u8]) {
        let _ = (name, value);
    }

    /// A second reply of the same stream is ignored; one after the response's headers have left resets the stream.
    fn send_local_response(&self, response: LocalResponse<'_>);
    /// Resumes; harmless when nothing is held.
    fn continue_stream(&self, stream: StreamType);
    /// HTTP: resets the stream; TCP: closes with flush. Detail `wasm_close_stream`.
    fn close_stream(&self, stream: StreamType);
    fn clear_route_cache(&self);

    /// Pushes bytes into the response behind this plugin; `on_headers`: also valid for a response that had no body.
    fn inject_encoded_data(&self, data: &[u8], end_stream: bool, on_headers: bool) -> Status {
        let _ = (data, end_stream, on_headers);
        Status::Unimplemented
    }
    /// The hosts of the route's cluster: address and metrics text, or nothing. `NotFound` before the route is known.
    fn upstream_hosts(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Status {
        let _ = each;
        Status::Unimplemented
    }
    /// `ip:port`.
    fn set_upstream_override_host(&self, address: &str) -> Status {
        let _ = address;
        Status::Unimplemented
    }
}

/// `proxy_http_call`. `:method`, `:path` and `:authority` are present.
#[derive(Clone, Copy, Debug)]
pub struct HttpCall<'a> {
    /// On whose behalf: the effective context; the root context for calls from ticks.
    pub context: ContextId,
    pub upstream: &'a str,
    pub headers: Pairs<'a>,
    pub body: &'a [u8],
    pub trailers: Pairs<'a>,
    /// `None`: the guest asked for none.
    pub timeout: Option<Duration>,
}

/// `proxy_grpc_call` and, without message and timeout, `proxy_grpc_stream`.
#[derive(Clone, Copy, Debug)]
pub struct GrpcCall<'a> {
    pub context: ContextId,
    /// A cluster, or a host and a port: from a serialised `envoy.config.core.v3.GrpcService`, or as the guest named it.
    pub upstream: &'a str,
    pub service_name: &'a str,
    pub method: &'a str,
    pub initial_metadata: Pairs<'a>,
    pub message: &'a [u8],
    pub timeout: Option<Duration>,
}

/// `proxy_redis_init`.
#[derive(Clone, Copy, Debug)]
pub struct RedisInit<'a> {
    /// As the guest gave it, a query string (`?db=1`) included.
    pub cluster: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    pub timeout: Duration,
}

/// The answer to `proxy_http_call`, held by the instance while the guest looks at it.
#[derive(Clone, Debug, Default)]
pub struct HttpAnswer {
    /// `:status` first. Empty for a call that failed or timed out.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: bytes::Bytes,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl HttpAnswer {
    /// A call that got no answer: the guest sees 0 headers, and `BrokenConnection` in `proxy_get_status`.
    pub fn failed() -> HttpAnswer {
        HttpAnswer::default()
    }
}

/// The answer to `proxy_redis_call`: the raw RESP bytes, or `None` for a network failure or timeout.
pub type RedisAnswer = Option<bytes::Bytes>;

/// Called on any thread when a queue has got an entry; must only post to the instance's worker, which then calls
/// [`Instance::on_queue_ready`](crate::Instance::on_queue_ready).
pub type QueueWaker = Arc<dyn Fn(u32) + Send + Sync>;

/// What an instance needs of the proxy apart from streams. One object per instance.
///
/// Tokens are made by the instance (low two bits the kind of call); an implementor answers with the token it got. A call that returns
/// an error is never answered.
pub trait Services {
    fn log(&self, level: LogLevel, message: &str);
    /// Counts the records that were dropped because one callback wrote more than [`Limits::log_bytes`].
    fn log_dropped(&self, records: u64) {
        let _ = records;
    }
    /// Counts a context that never called `proxy_done` and was ended because too many waited.
    fn context_dropped(&self) {}
    /// Records below it are dropped before they reach [`Services::log`].
    fn log_level(&self) -> LogLevel;
    /// Properties on the root context (node, listener…); see [`Stream::property`].
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        let _ = (path, out);
        false
    }

    /// `BadArgument` for an unknown upstream, `InternalFailure` when nothing could be sent; other statuses crash Rust guests.
    fn http_call(&self, token: u32, call: HttpCall<'_>) -> Result<(), Status>;
    /// `ParseFailure` for an unknown service.
    fn grpc_call(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        let _ = (token, call);
        Err(Status::InternalFailure)
    }
    fn grpc_stream(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        let _ = (token, call);
        Err(Status::InternalFailure)
    }
    /// `NotFound` for an unknown stream.
    fn grpc_send(&self, token: u32, message: &[u8], end_stream: bool) -> Status {
        let _ = (token, message, end_stream);
        Status::NotFound
    }
    fn grpc_cancel(&self, token: u32) -> Status {
        let _ = token;
        Status::NotFound
    }
    fn grpc_close(&self, token: u32) -> Status {
        let _ = token;
        Status::NotFound
    }
    /// `BadArgument` for an unknown cluster.
    fn redis_init(&self, init: RedisInit<'_>) -> Result<(), Status> {
        let _ = init;
        Err(Status::BadArgument)
    }
    /// `query` is one complete RESP array. `InternalFailure`: not initialised or no healthy host.
    fn redis_call(&self, token: u32, cluster: &str, query: &[u8]) -> Result<(), Status> {
        let _ = (token, cluster, query);
        Err(Status::BadArgument)
    }

    /// The id of that metric, below 2^30; the same for the same kind and name. `InternalFailure` when there are too many.
    fn define_metric(&self, kind: MetricType, name: &str) -> Result<u32, Status>;
    /// Counters (`delta > 0`) and gauges. `NotFound` for an id that was never given out; the same below.
    fn increment_metric(&self, kind: MetricType, id: u32, delta: i64) -> Status;
    /// A counter adds, a gauge takes, a histogram records the value.
    fn record_metric(&self, kind: MetricType, id: u32, value: u64) -> Status;
    /// Counters and gauges.
    fn metric(&self, kind: MetricType, id: u32) -> Option<u64>;

    /// From now on [`Instance::on_tick`](crate::Instance::on_tick) is due this often, counted from the end of the last; `None` stops.
    fn set_tick_period(&self, period: Option<Duration>);
    /// Asked for when the guest registers a queue; the last registrant of a queue is woken.
    fn queue_waker(&self) -> QueueWaker {
        Arc::new(|_| ())
    }
    /// Wall clock.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    /// A call of a foreign function that does not exist.
    fn unknown_foreign_function(&self, name: &[u8]) {
        let _ = name;
    }
}

/// One plugin with one configuration, as an instance is started from it.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginSpec {
    /// For messages and the property `plugin_name`.
    pub name: String,
    /// The root context to use when one module holds several (`plugin_root_id`).
    pub root_id: String,
    /// Plugins of the same id share data and queues. Usually the plugin's own name.
    pub vm_id: String,
    /// Buffer 6, read in `proxy_on_vm_start`.
    pub vm_configuration: Vec<u8>,
    /// Buffer 7, read in `proxy_on_configure`.
    pub configuration: Vec<u8>,
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    /// A header callback's 1 is an honest [`Action::StopIteration`] also before ABI 0.2.100 (Envoy's field of this name).
    pub allow_on_headers_stop_iteration: bool,
}

impl PluginSpec {
    /// A plugin without configuration, of the default limits, whose ids are its name.
    pub fn new(name: impl Into<String>) -> PluginSpec {
        let name = name.into();
        PluginSpec {
            root_id: name.clone(),
            vm_id: name.clone(),
            name,
            vm_configuration: Vec::new(),
            configuration: Vec::new(),
            environment: Vec::new(),
            limits: Limits::default(),
            allow_on_headers_stop_iteration: false,
        }
    }
}

/// Bounds on what one instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_bytes: usize,
    /// CPU time of one callback; looked at every 10 ms.
    pub call_deadline: Duration,
    /// The same for `_initialize`, `main`, `proxy_on_vm_start` and `proxy_on_configure`, each.
    pub start_deadline: Duration,
    /// How many bytes one callback may write to the log; the rest is dropped.
    pub log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 256 << 20,
            call_deadline: Duration::from_millis(100),
            start_deadline: Duration::from_secs(10),
            log_bytes: 256 << 10,
        }
    }
}
