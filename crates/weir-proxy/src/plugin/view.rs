//! A stream as one plugin sees and changes it.
use super::{PluginSlot, property};
use crate::{
    detail::Detail,
    head_access::canonical_authority,
    info::Info,
    reply::Reply,
    stream::{Direction, Event, INJECT_COST, Reached, Stream},
};
use std::{rc::Rc, sync::Arc};
use weir_net::http::{Headers, Known, text};
use weir_wasm::{
    BufferEdit, BufferType, LocalResponse, MapType, PropertyPath, Status, StreamType, compatibility::Row, names, pairs::Pairs,
};

/// Plugin number `plugin` of the chain, and the stream it looks at.
pub struct View {
    pub stream: Rc<Stream>,
    pub plugin: usize,
    slot: Arc<PluginSlot>,
}

/// What an entry of the filter state takes beside its name and value.
const STATE_COST: usize = 64;

names! {
    /// Properties that a guest sets to change how its stream is handled.
    enum SpecialKey {
        ClearRouteCache = b"clear_route_cache", "Higress", "`off` keeps the route when the plugin changes the head; `on` looks it up again.", "plugin_abi::a_plugin_of_abi_0_1_0";
        DecoderBufferLimit = b"set_decoder_buffer_limit", "Higress", "Bytes of the request body that the plugin may buffer, for this stream.", "plugin_stream::bodies_beyond_a_plugins_limit_are_refused_by_its_name";
        EncoderBufferLimit = b"set_encoder_buffer_limit", "Higress", "The same for the response body.", "plugin_stream::bodies_beyond_a_plugins_limit_are_refused_by_its_name";
    }
}

pub const SPECIAL_KEYS: &[Row] = SpecialKey::ROWS;

/// Keys that are filter state as any other. Their readers are named here.
pub const KEYS_OF_STATE: &[Row] = &[
    Row {
        name: "x_request_id",
        abi: "Higress",
        does: "Kept; the SDK of Higress sets it on each request.",
        test: "plugin_stream::properties_are_those_of_envoy",
    },
    in_the_log("custom_log", "Kept; the access log shows it by `%FILTER_STATE(wasm.custom_log:PLAIN)%`."),
    in_the_log("ai_log", "Kept; the access log shows it by `%FILTER_STATE(wasm.ai_log:PLAIN)%`."),
    in_the_log("trace_span_tag.KEY", "Kept; the access log shows it by `%FILTER_STATE(wasm.trace_span_tag.KEY)%`. There are no spans."),
];

const fn in_the_log(name: &'static str, does: &'static str) -> Row {
    Row { name, abi: "Higress", does, test: "plugin_stream::what_a_plugin_sets_reaches_the_access_log" }
}

/// What a map is, in terms of the stream.
enum Map {
    Head(Direction),
    Trailers(Direction),
}

fn map_of(map: MapType) -> Map {
    match map {
        MapType::RequestHeaders => Map::Head(Direction::Request),
        MapType::ResponseHeaders => Map::Head(Direction::Response),
        MapType::RequestTrailers => Map::Trailers(Direction::Request),
        MapType::ResponseTrailers => Map::Trailers(Direction::Response),
    }
}

fn direction_of(buffer: BufferType) -> Option<Direction> {
    match buffer {
        BufferType::RequestBody => Some(Direction::Request),
        BufferType::ResponseBody => Some(Direction::Response),
        _ => None,
    }
}

impl View {
    pub fn new(stream: Rc<Stream>, plugin: usize, slot: Arc<PluginSlot>) -> View {
        View { stream, plugin, slot }
    }

    /// Whether the plugin may add `more` bytes to the `held` ones: this is the gateway's memory, which the guest's limit does not
    /// cover. Counts a refusal.
    fn has_room(&self, held: usize, more: usize) -> bool {
        let room = held.saturating_add(more) <= self.slot.stream_limit();
        if !room {
            self.slot.count_overflow();
        }
        room
    }
    pub fn info(&self) -> std::cell::Ref<'_, Info> {
        self.stream.info.borrow()
    }

    /// Gives the value of a pseudo header.
    fn pseudo(&self, direction: Direction, name: &[u8], give: &mut dyn FnMut(&[u8])) -> bool {
        match direction {
            Direction::Request => {
                let req = self.stream.req.borrow();
                match name {
                    b":method" => give(req.method_text()),
                    b":path" => give(req.target()),
                    // Plugins compare it with the hosts of their rules, so names that are equal for routes must be equal here.
                    b":authority" => give(&canonical_authority(req.authority())),
                    b":scheme" => give(req.scheme().as_bytes()),
                    _ => return false,
                }
            }
            Direction::Response => {
                if name != b":status" {
                    return false;
                }
                give(self.stream.resp.borrow().status.to_string().as_bytes());
            }
        }
        true
    }

    fn set_pseudo(&self, direction: Direction, name: &[u8], value: &[u8]) -> Status {
        let s = &self.stream;
        let fits = match (direction, name) {
            (Direction::Request, b":method") => s.req.borrow_mut().set_method(value),
            (Direction::Request, b":path") if text::is_target(value) => {
                s.req.borrow_mut().set_target(value);
                true
            }
            (Direction::Request, b":authority") => {
                let mut req = s.req.borrow_mut();
                // If the plugin writes back what it read, the client's spelling stays.
                *canonical_authority(req.authority()) == *value || req.headers.set(Known::Host, &[value])
            }
            (Direction::Request, b":scheme") => {
                s.req.borrow_mut().https = value.eq_ignore_ascii_case(b"https");
                true
            }
            (Direction::Response, b":status") => {
                let status = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).filter(|s| (200..=599).contains(s));
                status.map(|status| s.resp.borrow_mut().set_status(status)).is_some()
            }
            _ => false,
        };
        if fits { Status::Ok } else { Status::BadArgument }
    }

    /// Runs an edit if the map is there; one that was sent on takes edits without effect.
    fn edit(&self, map: MapType, with: impl FnOnce(&Self, Direction, Option<&mut Headers>) -> Status) -> Status {
        let s = &self.stream;
        match map_of(map) {
            Map::Head(d) => match s.reached[d as usize].get() {
                Reached::Nothing => Status::BadArgument,
                Reached::Sent => Status::Ok,
                Reached::Head => {
                    if d == Direction::Request && !s.keep_route.get() {
                        s.clear_route_cache();
                    }
                    with(self, d, None)
                }
            },
            Map::Trailers(d) => {
                if !s.trailers_open[d as usize].get() {
                    return Status::BadArgument;
                }
                with(self, d, Some(&mut s.trailers[d as usize].borrow_mut()))
            }
        }
    }

    /// Adds or replaces one field, as `put` does.
    fn put_header(&self, map: MapType, name: &[u8], value: &[u8], put: fn(&mut Headers, &[u8], &[u8]) -> bool) -> Status {
        self.edit(map, |this, d, trailers| {
            if trailers.is_none() && is_pseudo(d, name) {
                return this.set_pseudo(d, pseudo_name(name), value);
            }
            let mut room = true;
            let mut put = |to: &mut Headers| {
                room = this.has_room(to.stored(), name.len() + value.len());
                room && text::is_value(value) && put(to, name, value)
            };
            let done = match trailers {
                Some(t) => put(t),
                None => this.with_head(d, put),
            };
            match (done, room) {
                (true, _) => Status::Ok,
                (false, true) => Status::BadArgument,
                (false, false) => Status::InternalFailure,
            }
        })
    }

    fn with_head<R>(&self, d: Direction, with: impl FnOnce(&mut Headers) -> R) -> R {
        match d {
            Direction::Request => with(&mut self.stream.req.borrow_mut().headers),
            Direction::Response => with(&mut self.stream.resp.borrow_mut().headers),
        }
    }
}

/// The pseudo headers of each direction.
const PSEUDO: [&[&[u8]]; 2] = [&[b":authority", b":path", b":method", b":scheme"], &[b":status"]];

/// The Host header is `:authority` to plugins.
fn is_pseudo(d: Direction, name: &[u8]) -> bool {
    name.first() == Some(&b':') || d == Direction::Request && name.eq_ignore_ascii_case(b"host")
}

fn pseudo_name(name: &[u8]) -> &[u8] {
    if name.first() == Some(&b':') { name } else { b":authority" }
}

impl weir_wasm::Stream for View {
    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        match map_of(map) {
            Map::Head(d) => {
                if self.stream.reached[d as usize].get() == Reached::Nothing {
                    return false;
                }
                if is_pseudo(d, name) {
                    return self.pseudo(d, pseudo_name(name), &mut |v| out.extend_from_slice(v));
                }
                self.with_head(d, |h| h.get_named(name).map(|v| out.extend_from_slice(v)).is_some())
            }
            Map::Trailers(d) => self.stream.trailers[d as usize].borrow().get_named(name).map(|v| out.extend_from_slice(v)).is_some(),
        }
    }

    fn headers(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        match map_of(map) {
            Map::Head(d) => {
                if self.stream.reached[d as usize].get() == Reached::Nothing {
                    return;
                }
                for name in PSEUDO[d as usize] {
                    self.pseudo(d, name, &mut |v| each(name, v));
                }
                self.with_head(d, |h| h.iter().filter(|(n, _)| !is_pseudo(d, n)).for_each(|(n, v)| each(&n.to_ascii_lowercase(), v)));
            }
            Map::Trailers(d) => self.stream.trailers[d as usize].borrow().iter().for_each(|(n, v)| each(&n.to_ascii_lowercase(), v)),
        }
    }

    fn header_count(&self, map: MapType) -> u32 {
        let fields = match map_of(map) {
            Map::Head(d) if self.stream.reached[d as usize].get() == Reached::Nothing => 0,
            Map::Head(d) => PSEUDO[d as usize].len() + self.with_head(d, |h| h.iter().filter(|(n, _)| !is_pseudo(d, n)).count()),
            Map::Trailers(d) => self.stream.trailers[d as usize].borrow().iter().count(),
        };
        u32::try_from(fields).unwrap_or(u32::MAX)
    }

    fn add_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status {
        self.put_header(map, name, value, Headers::add_named)
    }

    fn replace_header(&self, map: MapType, name: &[u8], value: &[u8]) -> Status {
        self.put_header(map, name, value, Headers::set_named)
    }

    fn remove_header(&self, map: MapType, name: &[u8]) -> Status {
        self.edit(map, |this, d, trailers| {
            match trailers {
                Some(t) => t.remove_named(name),
                // A request without a method or path is none.
                None if is_pseudo(d, name) => {}
                None => this.with_head(d, |h| h.remove_named(name)),
            }
            Status::Ok
        })
    }

    fn set_headers(&self, map: MapType, fields: Pairs<'_>) -> Status {
        self.edit(map, |this, d, mut trailers| {
            let more = fields.iter().map(|(n, v)| n.len() + v.len()).sum();
            let stored = trailers.as_deref().map_or_else(|| this.with_head(d, |h| h.stored()), |t| t.stored());
            if !this.has_room(stored, more) {
                return Status::InternalFailure;
            }
            let host = this.stream.req.borrow().authority().to_vec();
            match &mut trailers {
                Some(t) => t.remove_all(),
                None => this.with_head(d, Headers::remove_all),
            }
            if trailers.is_none() && d == Direction::Request {
                this.with_head(d, |h| h.add(Known::Host, &[&host]));
            }
            for (name, value) in fields.iter() {
                if trailers.is_none() && is_pseudo(d, name) {
                    this.set_pseudo(d, pseudo_name(name), value);
                } else if text::is_value(value) {
                    match &mut trailers {
                        Some(t) => t.add_named(name, value),
                        None => this.with_head(d, |h| h.add_named(name, value)),
                    };
                }
            }
            Status::Ok
        })
    }

    fn buffer_len(&self, buffer: BufferType) -> Option<usize> {
        let held = self.stream.held[direction_of(buffer)? as usize].borrow();
        held.get(self.plugin).map(Vec::len)
    }

    fn read_buffer(&self, buffer: BufferType, start: usize, out: &mut [u8]) -> usize {
        let Some(d) = direction_of(buffer) else { return 0 };
        let held = self.stream.held[d as usize].borrow();
        let Some(body) = held.get(self.plugin).and_then(|b| b.get(start..)) else { return 0 };
        let n = body.len().min(out.len());
        out[..n].copy_from_slice(&body[..n]);
        n
    }

    fn edit_buffer(&self, buffer: BufferType, edit: BufferEdit, data: &[u8]) -> Status {
        let Some(d) = direction_of(buffer) else { return Status::BadArgument };
        let mut held = self.stream.held[d as usize].borrow_mut();
        let Some(body) = held.get_mut(self.plugin) else { return Status::BadArgument };
        let kept = if edit == BufferEdit::Replace { 0 } else { body.len() };
        if !self.has_room(kept, data.len()) {
            return Status::InternalFailure;
        }
        match edit {
            BufferEdit::Prepend => drop(body.splice(0..0, data.iter().copied())),
            BufferEdit::Append => body.extend_from_slice(data),
            BufferEdit::Replace => {
                body.clear();
                body.extend_from_slice(data);
            }
        }
        self.stream.edited[d as usize].set(Some(self.plugin));
        Status::Ok
    }

    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        property::get(&self.stream, path, out)
    }

    fn set_property(&self, path: PropertyPath<'_>, value: &[u8]) {
        let s = &self.stream;
        let number = || {
            let wanted = std::str::from_utf8(value).ok().and_then(|v| v.trim().parse::<usize>().ok());
            let most = self.slot.stream_limit();
            wanted
                .inspect(|n| {
                    if *n > most {
                        self.slot.count_overflow()
                    }
                })
                .map(|n| n.min(most))
        };
        match SpecialKey::of(path.split_first().0) {
            Some(SpecialKey::ClearRouteCache) if value == b"off" => s.keep_route(),
            Some(SpecialKey::ClearRouteCache) if value == b"on" => s.clear_route_cache(),
            Some(SpecialKey::DecoderBufferLimit) => s.held_limit[0].set(number().unwrap_or(s.held_limit[0].get())),
            Some(SpecialKey::EncoderBufferLimit) => s.held_limit[1].set(number().unwrap_or(s.held_limit[1].get())),
            Some(SpecialKey::ClearRouteCache) | None => {
                let name = format!("wasm.{}", path.dotted());
                self.set_filter_state(name.as_bytes(), value);
            }
        }
    }

    fn set_filter_state(&self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name);
        let mut info = self.stream.info.borrow_mut();
        let held = info.filter_state.iter().filter(|(n, _)| **n != *name).map(|(n, v)| n.len() + v.len() + STATE_COST).sum();
        if !self.has_room(held, name.len() + value.len() + STATE_COST) {
            return;
        }
        match info.filter_state.iter_mut().find(|(n, _)| **n == *name) {
            Some(known) => known.1 = value.into(),
            None => info.filter_state.push((name.into(), value.into())),
        }
    }

    fn send_local_response(&self, r: LocalResponse<'_>) {
        if !self.stream.first_answer(self.plugin) {
            // Each plugin may answer once. Its own answer passes it on the way out and must not be held there; if it has not come so
            // far, there is nothing to resume.
            if self.stream.reached[Direction::Response as usize].get() == Reached::Head && !self.stream.is_ending() {
                self.stream.post(Event::Resume { plugin: self.plugin, direction: Direction::Response });
            }
            return;
        }
        let bytes = r.details.len() + r.body.len() + r.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        if !self.has_room(0, bytes) {
            self.stream.post(Event::Reply(Reply {
                status: 500,
                body: Default::default(),
                headers: Vec::new(),
                details: Detail::Other("wasm_local_response_too_large".into()),
                grpc_status: r.grpc_status,
            }));
            return;
        }
        let details = String::from_utf8_lossy(r.details).replace(char::is_whitespace, "_");
        let usable = |(n, v): &(&[u8], &[u8])| text::is_token(n) && text::is_value(v);
        self.stream.post(Event::Reply(Reply {
            status: u16::try_from(r.status).ok().filter(|s| (200..=599).contains(s)).unwrap_or(500),
            body: r.body.to_vec().into(),
            headers: r.headers.iter().filter(usable).map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
            details: Detail::Other(details.into()),
            grpc_status: r.grpc_status,
        }));
    }

    fn continue_stream(&self, stream: StreamType) {
        let direction = match stream {
            StreamType::Request => Direction::Request,
            StreamType::Response => Direction::Response,
            _ => return,
        };
        self.stream.post(Event::Resume { plugin: self.plugin, direction });
    }

    fn close_stream(&self, _: StreamType) {
        self.stream.post(Event::Reset);
    }

    fn clear_route_cache(&self) {
        self.stream.clear_route_cache();
    }

    fn inject_encoded_data(&self, data: &[u8], end_stream: bool, _on_headers: bool) -> Status {
        if !self.has_room(self.stream.injected(self.plugin) + INJECT_COST, data.len()) {
            return Status::InternalFailure;
        }
        self.stream.post(Event::Inject { plugin: self.plugin, data: data.to_vec(), end: end_stream });
        Status::Ok
    }

    fn upstream_hosts(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Status {
        self.stream.refresh_route();
        let cluster = self.stream.cluster.borrow();
        let Some(cluster) = cluster.as_ref().and_then(|slot| slot.current()) else { return Status::NotFound };
        for endpoint in &cluster.endpoints.load().endpoints {
            let health: &[u8] = match endpoint.accepts_requests() && endpoint.outlier.is_usable() {
                true => br#"{"health_status":"Healthy"}"#,
                false => br#"{"health_status":"Unhealthy"}"#,
            };
            each(endpoint.address.to_string().as_bytes(), health);
        }
        Status::Ok
    }

    fn set_upstream_override_host(&self, address: &str) -> Status {
        match address.parse() {
            Ok(a) => {
                self.stream.override_host.set(Some(a));
                Status::Ok
            }
            Err(_) => Status::BadArgument,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_config::model::{Origin, WasmCode, WasmPlugin};
    use weir_wasm::Stream as _;

    fn slot() -> Arc<PluginSlot> {
        let code = WasmCode::File { path: "/p".into(), sha256: Default::default() };
        let origin = Origin::named("p");
        let plugin = WasmPlugin::new("p".into(), code, origin);
        Arc::new(PluginSlot::new(0, Arc::new(plugin)))
    }

    #[test]
    fn injected_bytes_count_as_long_as_they_wait() {
        let stream = Rc::new(Stream::default());
        stream.held[1].borrow_mut().resize_with(2, Vec::new);
        let view = View::new(stream.clone(), 1, slot());
        stream.held[1].borrow_mut()[0] = b"held".to_vec();
        stream.held[1].borrow_mut()[1] = b"its own".to_vec();
        stream.unsent.set(view.slot.stream_limit() - 6 - INJECT_COST);
        let inject = |data: &[u8]| view.inject_encoded_data(data, false, false);
        assert_eq!([inject(b"abc"), inject(b"ab"), inject(b"a")], [Status::InternalFailure, Status::Ok, Status::InternalFailure]);
    }

    /// A plugin's second answer resumes the first one where that is held, and leaves nothing in the queue where it is not there yet.
    #[test]
    fn a_second_answer_resumes_only_what_has_come() {
        let stream = Rc::new(Stream::default());
        let view = View::new(stream.clone(), 0, slot());
        let answer = || {
            view.send_local_response(LocalResponse { status: 403, details: b"no", body: b"", headers: Pairs::EMPTY, grpc_status: None });
        };
        answer();
        answer();
        assert!(matches!(stream.next_event(), Some(Event::Reply(_))) && stream.next_event().is_none());
        stream.reached[1].set(Reached::Head);
        answer();
        assert!(matches!(stream.next_event(), Some(Event::Resume { .. })) && stream.next_event().is_none());
    }

    /// No value from a guest can end a header line or the start line.
    #[test]
    fn guests_write_whole_lines() {
        let stream = Rc::new(Stream::default());
        stream.req.borrow_mut().begin(b"GET", b"/path");
        stream.req.borrow_mut().headers.set(Known::Host, &[b"h.test"]);
        stream.resp.borrow_mut().begin(200);
        stream.reached.iter().for_each(|r| r.set(Reached::Head));
        stream.trailers_open.iter().for_each(|t| t.set(true));
        let view = View::new(stream.clone(), 0, slot());
        let long = "x".repeat(70_000);
        let maps = [MapType::RequestHeaders, MapType::ResponseHeaders, MapType::RequestTrailers, MapType::ResponseTrailers];
        for map in maps {
            for bad in ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "a\x7fb"] {
                assert_eq!(view.add_header(map, b"x-a", bad.as_bytes()), Status::BadArgument, "{map:?} {bad:?}");
                assert_eq!(view.replace_header(map, b"x-a", bad.as_bytes()), Status::BadArgument, "{map:?} {bad:?}");
            }
            for bad in ["", "a b", "a\r\nb", "a:b", "a\"b", &long] {
                assert_eq!(view.add_header(map, bad.as_bytes(), b"v"), Status::BadArgument, "{map:?}");
            }
            assert_eq!(view.add_header(map, b"x-fine", long.as_bytes()), Status::Ok);
        }
        for (name, values) in [
            (":method", &["", "A B", "GET\r\nx: y", "G\"T"][..]),
            (":path", &["", "/a b", "/a\r\nx: y", "/a\0"]),
            (":authority", &["a b", "a\r\nx: y", "a:b", "a/b", "[::1"]),
            ("host", &["a b", "a\r\nx: y"]),
            (":protocol", &["websocket"]),
        ] {
            for value in values {
                assert_eq!(
                    view.replace_header(MapType::RequestHeaders, name.as_bytes(), value.as_bytes()),
                    Status::BadArgument,
                    "{name} {value:?}"
                );
            }
        }
        let mut head = Vec::new();
        stream.req.borrow_mut().headers.remove_named(b"x-fine");
        stream.req.borrow().write_to(&mut head);
        assert_eq!(String::from_utf8_lossy(&head), "GET /path HTTP/1.1\r\nhost: h.test\r\n\r\n");
    }
}
