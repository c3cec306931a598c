//! The guest's callbacks, looked up once. One that is not exported is not called: an action is `Continue`, a question answered yes.
use crate::{state::Host, trap::StartError};
use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

type Func<P, R = ()> = Option<TypedFunc<P, R>>;
type Result<T> = wasmtime::Result<T>;

pub(super) struct Exports {
    context_create: Func<(u32, u32)>,
    vm_start: Func<(u32, u32), u32>,
    validate: Func<(u32, u32), u32>,
    configure: Func<(u32, u32), u32>,
    log: Func<u32>,
    done: Func<u32, u32>,
    delete: Func<u32>,
    pub request_headers: Headers,
    pub request_body: Func<(u32, u32, u32), u32>,
    pub request_trailers: Func<(u32, u32), u32>,
    pub response_headers: Headers,
    pub response_body: Func<(u32, u32, u32), u32>,
    pub response_trailers: Func<(u32, u32), u32>,
    pub new_connection: Func<u32, u32>,
    pub downstream_data: Func<(u32, u32, u32), u32>,
    pub upstream_data: Func<(u32, u32, u32), u32>,
    pub downstream_close: Func<(u32, u32)>,
    pub upstream_close: Func<(u32, u32)>,
    pub http_call_response: Func<(u32, u32, u32, u32, u32)>,
    pub redis_call_response: Func<(u32, u32, u32, u32)>,
    pub grpc_initial_metadata: Func<(u32, u32, u32)>,
    pub grpc_receive: Func<(u32, u32, u32)>,
    pub grpc_trailing_metadata: Func<(u32, u32, u32)>,
    pub grpc_close: Func<(u32, u32, u32)>,
    pub tick: Func<u32>,
    pub queue_ready: Func<(u32, u32)>,
}

/// ABI 0.1.0 has two parameters, later ones also `end_of_stream`. By the function's own type, since SDKs of 0.1.0 differ.
pub(super) enum Headers {
    None,
    Two(TypedFunc<(u32, u32), u32>),
    Three(TypedFunc<(u32, u32, u32), u32>),
}

impl Headers {
    fn find(store: &mut Store<Host>, instance: &Instance, name: &'static str) -> std::result::Result<Headers, StartError> {
        if let Some(two) = find_of_type(store, instance, name) {
            return Ok(Headers::Two(two));
        }
        Ok(find(store, instance, name)?.map_or(Headers::None, Headers::Three))
    }

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
    pub fn find(s: &mut Store<Host>, i: &Instance) -> std::result::Result<Exports, StartError> {
        Ok(Exports {
            context_create: find(s, i, "proxy_on_context_create")?,
            vm_start: find(s, i, "proxy_on_vm_start")?,
            validate: find(s, i, "proxy_validate_configuration")?,
            configure: find(s, i, "proxy_on_configure")?,
            log: find(s, i, "proxy_on_log")?,
            done: find(s, i, "proxy_on_done")?,
            delete: find(s, i, "proxy_on_delete")?,
            request_headers: Headers::find(s, i, "proxy_on_request_headers")?,
            request_body: find(s, i, "proxy_on_request_body")?,
            request_trailers: find(s, i, "proxy_on_request_trailers")?,
            response_headers: Headers::find(s, i, "proxy_on_response_headers")?,
            response_body: find(s, i, "proxy_on_response_body")?,
            response_trailers: find(s, i, "proxy_on_response_trailers")?,
            new_connection: find(s, i, "proxy_on_new_connection")?,
            downstream_data: find(s, i, "proxy_on_downstream_data")?,
            upstream_data: find(s, i, "proxy_on_upstream_data")?,
            downstream_close: find(s, i, "proxy_on_downstream_connection_close")?,
            upstream_close: find(s, i, "proxy_on_upstream_connection_close")?,
            http_call_response: find(s, i, "proxy_on_http_call_response")?,
            redis_call_response: find(s, i, "proxy_on_redis_call_response")?,
            grpc_initial_metadata: find(s, i, "proxy_on_grpc_receive_initial_metadata")?,
            grpc_receive: find(s, i, "proxy_on_grpc_receive")?,
            grpc_trailing_metadata: find(s, i, "proxy_on_grpc_receive_trailing_metadata")?,
            grpc_close: find(s, i, "proxy_on_grpc_close")?,
            tick: find(s, i, "proxy_on_tick")?,
            queue_ready: find(s, i, "proxy_on_queue_ready")?,
        })
    }

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
