//! The guest's callbacks, looked up once. One that is not exported is not called: an action is `Continue`, a question answered yes.
use crate::{row::Row, state::Host, trap::StartError};
use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

type Func<P, R = ()> = Option<TypedFunc<P, R>>;
type Result<T> = wasmtime::Result<T>;

/// An export of one type.
trait Export: Sized {
    fn find(store: &mut Store<Host>, instance: &Instance, name: &'static str) -> std::result::Result<Self, StartError>;
}

/// Declares the callbacks: field, type and name, and the row.
macro_rules! exports {
    ($($field:ident: $type:ty = $name:literal, $abi:literal, $does:literal, $test:literal;)*) => {
        pub(super) struct Exports {
            $(pub $field: $type),*
        }

        pub const CALLBACKS: &[Row] = &[$(Row { name: $name, abi: $abi, does: $does, test: $test }),*];

        impl Exports {
            pub fn find(store: &mut Store<Host>, instance: &Instance) -> std::result::Result<Exports, StartError> {
                Ok(Exports { $($field: Export::find(store, instance, $name)?),* })
            }
        }
    };
}

exports! {
    context_create: Func<(u32, u32)> = "proxy_on_context_create",
        "all", "Called for the root context (parent 0) and before the first callback of each stream.",
        "wasm::start::order_of_start";
    vm_start: Func<(u32, u32), u32> = "proxy_on_vm_start",
        "all", "Called once per instance, before `proxy_on_configure`; false fails the start.",
        "wasm::start::a_false_start_is_a_failure";
    validate: Func<(u32, u32), u32> = "proxy_validate_configuration",
        "C++", "Called before `proxy_on_configure` where it is exported; false fails the start.",
        "wasm::start::order_of_start";
    configure: Func<(u32, u32), u32> = "proxy_on_configure",
        "all", "Called with the size of the configuration, 0 if there is none; false fails the start.",
        "plugin_messages::check_compiles_and_configures_plugins";
    log: Func<u32> = "proxy_on_log",
        "all", "Called at the end of a stream, before `proxy_on_done`, as Envoy does.",
        "plugin_stream::the_end_of_a_stream_is_told_in_order_also_when_the_client_leaves_early";
    done: Func<u32, u32> = "proxy_on_done",
        "all", "Called at the end; false postpones `proxy_on_delete` until `proxy_done`.",
        "plugin_stream::the_end_of_a_stream_is_told_in_order_also_when_the_client_leaves_early";
    delete: Func<u32> = "proxy_on_delete",
        "all", "Called last, for each context of an instance that has not trapped.",
        "plugin_stream::the_end_of_a_stream_is_told_in_order_also_when_the_client_leaves_early";
    request_headers: Headers = "proxy_on_request_headers",
        "all", "Called with 2 parameters in 0.1.0 and 3 later, by the type of the function.",
        "plugin_abi::actions_of_headers_by_abi_and_end";
    request_body: Func<(u32, u32, u32), u32> = "proxy_on_request_body",
        "all", "Called with all bytes that can be read: those that are buffered and the frame at hand.",
        "plugin_phases::bodies_by_action_size_and_protocol";
    request_trailers: Func<(u32, u32), u32> = "proxy_on_request_trailers",
        "all", "Called for trailers of the request.",
        "plugin_phases::trailers_are_seen_held_changed_and_added";
    response_headers: Headers = "proxy_on_response_headers",
        "all", "Called for final responses, also those of the gateway; not for 1xx.",
        "plugin_abi::actions_of_headers_by_abi_and_end";
    response_body: Func<(u32, u32, u32), u32> = "proxy_on_response_body",
        "all", "As for requests; not called for responses without a body and after an upgrade.",
        "plugin_phases::bodies_by_action_size_and_protocol";
    response_trailers: Func<(u32, u32), u32> = "proxy_on_response_trailers",
        "all", "Called for trailers of the response.",
        "plugin_phases::trailers_are_seen_held_changed_and_added";
    new_connection: Func<u32, u32> = "proxy_on_new_connection",
        "all", "Not called: `type: NETWORK` is refused with an error.",
        "plugin_host_calls::plugins_of_connections_are_refused";
    downstream_data: Func<(u32, u32, u32), u32> = "proxy_on_downstream_data",
        "all", "Not called: `type: NETWORK` is refused with an error.",
        "plugin_host_calls::plugins_of_connections_are_refused";
    upstream_data: Func<(u32, u32, u32), u32> = "proxy_on_upstream_data",
        "all", "Not called: `type: NETWORK` is refused with an error.",
        "plugin_host_calls::plugins_of_connections_are_refused";
    downstream_close: Func<(u32, u32)> = "proxy_on_downstream_connection_close",
        "all", "Not called: `type: NETWORK` is refused with an error.",
        "plugin_host_calls::plugins_of_connections_are_refused";
    upstream_close: Func<(u32, u32)> = "proxy_on_upstream_connection_close",
        "all", "Not called: `type: NETWORK` is refused with an error.",
        "plugin_host_calls::plugins_of_connections_are_refused";
    http_call_response: Func<(u32, u32, u32, u32, u32)> = "proxy_on_http_call_response",
        "all", "Called on the root context; 0 headers for a call that failed.",
        "plugin_callout::http_calls_by_every_name_and_with_every_end";
    redis_call_response: Func<(u32, u32, u32, u32)> = "proxy_on_redis_call_response",
        "Higress", "Called on the root context; status 1 and size 0 for a network error or a timeout.",
        "plugin_redis::servers_that_pause_and_connections_that_break";
    grpc_initial_metadata: Func<(u32, u32, u32)> = "proxy_on_grpc_receive_initial_metadata",
        "all", "Called for the initial metadata of a gRPC stream.",
        "plugin_callout::grpc_calls_and_streams";
    grpc_receive: Func<(u32, u32, u32)> = "proxy_on_grpc_receive",
        "all", "Called for the reply of a gRPC call and each message of a gRPC stream.",
        "plugin_callout::grpc_calls_and_streams";
    grpc_trailing_metadata: Func<(u32, u32, u32)> = "proxy_on_grpc_receive_trailing_metadata",
        "all", "Called for the trailing metadata of a gRPC stream.",
        "plugin_callout::grpc_calls_and_streams";
    grpc_close: Func<(u32, u32, u32)> = "proxy_on_grpc_close",
        "all", "Called at the end of a gRPC stream and for a gRPC call that failed.",
        "plugin_callout::grpc_calls_and_streams";
    tick: Func<u32> = "proxy_on_tick",
        "all", "Called on the root context, in each worker.",
        "plugin_shared::ticks_change_their_pace_and_stop";
    queue_ready: Func<(u32, u32)> = "proxy_on_queue_ready",
        "all", "Called for each entry, in the worker that registered the queue last.",
        "plugin_shared::queues_between_two_plugins";
}

/// Callbacks that some hosts call.
pub const ABSENT_CALLBACKS: &[Row] = &[
    absent("proxy_on_request_metadata", "all", "Not called: HTTP/2 METADATA frames are dropped."),
    absent("proxy_on_response_metadata", "all", "Not called: HTTP/2 METADATA frames are dropped."),
    absent("proxy_on_foreign_function", "0.2.0", "Not called: no function of the host calls back."),
    absent("envoy_on_resolve_dns", "Envoy", "Not called: `envoy_resolve_dns` is not implemented."),
    absent("envoy_on_stats_update", "Envoy", "Not called."),
];

const fn absent(name: &'static str, abi: &'static str, does: &'static str) -> Row {
    Row { name, abi, does, test: "" }
}

/// ABI 0.1.0 has two parameters, later ones also `end_of_stream`. By the function's own type, since SDKs of 0.1.0 differ.
pub(super) enum Headers {
    None,
    Two(TypedFunc<(u32, u32), u32>),
    Three(TypedFunc<(u32, u32, u32), u32>),
}

impl<P: WasmParams, R: WasmResults> Export for Func<P, R> {
    fn find(store: &mut Store<Host>, instance: &Instance, name: &'static str) -> std::result::Result<Self, StartError> {
        find(store, instance, name)
    }
}

impl Export for Headers {
    fn find(store: &mut Store<Host>, instance: &Instance, name: &'static str) -> std::result::Result<Headers, StartError> {
        if let Some(two) = find_of_type(store, instance, name) {
            return Ok(Headers::Two(two));
        }
        Ok(find(store, instance, name)?.map_or(Headers::None, Headers::Three))
    }
}

impl Headers {
    pub fn is_none(&self) -> bool {
        matches!(self, Headers::None)
    }

    pub fn call(&self, store: &mut Store<Host>, context: u32, fields: u32, end_stream: bool) -> Result<u32> {
        match self {
            Headers::None => Ok(0),
            Headers::Two(f) => f.call(store, (context, fields)),
            Headers::Three(f) => f.call(store, (context, fields, end_stream.into())),
        }
    }
}

/// An export of that name; its type must be this one.
pub(super) fn find<P: WasmParams, R: WasmResults>(
    store: &mut Store<Host>,
    instance: &Instance,
    name: &'static str,
) -> std::result::Result<Func<P, R>, StartError> {
    let Some(function) = instance.get_func(&mut *store, name) else { return Ok(None) };
    function.typed(&*store).map(Some).map_err(|e| StartError::Export { name, message: e.root_cause().to_string() })
}

/// An export of that name and type; one of another type is another thing.
pub(super) fn find_of_type<P: WasmParams, R: WasmResults>(store: &mut Store<Host>, instance: &Instance, name: &str) -> Func<P, R> {
    instance.get_func(&mut *store, name)?.typed(&*store).ok()
}

pub(super) fn action<P: WasmParams>(store: &mut Store<Host>, function: &Func<P, u32>, params: P) -> Result<u32> {
    function.as_ref().map_or(Ok(0), |f| f.call(store, params))
}

pub(super) fn event<P: WasmParams>(store: &mut Store<Host>, function: &Func<P>, params: P) -> Result<()> {
    function.as_ref().map_or(Ok(()), |f| f.call(store, params))
}

impl Exports {
    pub fn has_context_create(&self) -> bool {
        self.context_create.is_some()
    }

    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    pub fn has_done(&self) -> bool {
        self.done.is_some()
    }

    pub fn has_delete(&self) -> bool {
        self.delete.is_some()
    }

    pub fn context_create(&self, store: &mut Store<Host>, id: u32, parent: u32) -> Result<()> {
        event(store, &self.context_create, (id, parent))
    }

    pub fn vm_start(&self, store: &mut Store<Host>, root: u32, size: u32) -> Result<bool> {
        self.vm_start.as_ref().map_or(Ok(true), |f| Ok(f.call(store, (root, size))? != 0))
    }

    pub fn validate(&self, store: &mut Store<Host>, root: u32, size: u32) -> Result<bool> {
        self.validate.as_ref().map_or(Ok(true), |f| Ok(f.call(store, (root, size))? != 0))
    }

    pub fn configure(&self, store: &mut Store<Host>, root: u32, size: u32) -> Result<bool> {
        self.configure.as_ref().map_or(Ok(true), |f| Ok(f.call(store, (root, size))? != 0))
    }

    pub fn log(&self, store: &mut Store<Host>, id: u32) -> Result<()> {
        event(store, &self.log, id)
    }

    pub fn done(&self, store: &mut Store<Host>, id: u32) -> Result<bool> {
        self.done.as_ref().map_or(Ok(true), |f| Ok(f.call(store, id)? != 0))
    }

    pub fn delete(&self, store: &mut Store<Host>, id: u32) -> Result<()> {
        event(store, &self.delete, id)
    }
}
