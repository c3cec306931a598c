//! A wasm plugin in the chain. It speaks proxy-wasm; its actions become [`Flow`] here, and the chain knows nothing of them.
use super::{FilterContext, Flow, Part, Stop};
use crate::{
    detail::Detail,
    plugin::{PluginEntry, PluginSlot, PluginStream, View, WorkerPlugins},
    route::RouteRt,
    stream::Direction,
};
use std::{rc::Rc, sync::Arc};
use weir_wasm::Action;

pub struct Wasm {
    /// The plugin of the list, or its canary.
    slot: Arc<PluginSlot>,
    /// `None` until the chain has reached its first plugin, and for a plugin that the stream skips.
    stream: Option<PluginStream>,
    /// Whether the plugin is for this stream is not known before a head reaches it.
    unmatched: bool,
}

impl Wasm {
    pub fn new(slot: Arc<PluginSlot>) -> Wasm {
        Wasm { slot, stream: None, unmatched: false }
    }

    pub fn slot(&self) -> &Arc<PluginSlot> {
        &self.slot
    }

    /// Enters the plugin, or its canary, as filter number `position`. The error is the detail of a plugin that must run and cannot.
    pub fn start(&mut self, cx: &FilterContext, plugins: &WorkerPlugins, position: usize, route: Option<&RouteRt>) -> Result<(), Detail> {
        let route = route.map(|route| &route.config.origin.object);
        let canary = self.slot.canary(&cx.stream.req.borrow().headers, route, || cx.core.random());
        // One that cannot run leaves its streams to the plugin.
        if let Some(canary) = canary.filter(|canary| plugins.runs(canary)) {
            self.slot = canary;
        }
        self.unmatched = self.slot.is_scoped();
        let view = Rc::new(View::new(cx.stream.clone(), position, self.slot.clone()));
        match plugins.stream(&self.slot, view) {
            PluginEntry::Run(stream) => {
                if !self.unmatched {
                    stream.begin();
                }
                self.stream = Some(stream);
            }
            PluginEntry::Skip => {}
            // Rules match the host and the route of the request; both are known as far as they can be for a plugin that cannot run.
            PluginEntry::Fail if self.unmatched && !self.slot.covers(&cx.stream) => {}
            PluginEntry::Fail => return Err(Detail::Other(self.slot.failure.clone())),
        }
        Ok(())
    }

    pub fn wants(&self, direction: Direction, part: Part) -> bool {
        let Some(stream) = &self.stream else { return false };
        let c = stream.callbacks();
        match (direction, part) {
            (Direction::Request, Part::Headers) => c.request_headers,
            (Direction::Request, Part::Body) => c.request_body,
            (Direction::Request, Part::Trailers) => c.request_trailers,
            (Direction::Response, Part::Headers) => c.response_headers,
            (Direction::Response, Part::Body) => c.response_body,
            (Direction::Response, Part::Trailers) => c.response_trailers,
        }
    }

    /// Before the first head: keeps the stream from a plugin that it does not match.
    pub fn before_head(&mut self, cx: &FilterContext) {
        if !std::mem::take(&mut self.unmatched) {
            return;
        }
        let covered = self.slot.covers(&cx.stream);
        if let Some(stream) = &self.stream {
            if covered { stream.begin() } else { stream.leave() }
        }
        if !covered {
            self.stream = None;
        }
    }

    pub fn headers(&self, direction: Direction, end: bool) -> Flow {
        let Some(stream) = &self.stream else { return Flow::Continue };
        let action = match direction {
            Direction::Request => stream.on_request_headers(end),
            Direction::Response => stream.on_response_headers(end),
        };
        match action {
            Action::StopIteration => Flow::Stop(Stop::Iteration),
            Action::StopAllIterationAndBuffer => Flow::Stop(Stop::AllAndBuffer),
            Action::StopAllIterationAndWatermark => Flow::Stop(Stop::AllAndWatermark),
            Action::ContinueAndEndStream => Flow::ContinueAndEndStream,
            _ => Flow::Continue,
        }
    }

    /// `size`: all that the plugin can read, what is held included.
    pub fn body(&self, direction: Direction, size: usize, end: bool) -> Flow {
        let Some(stream) = &self.stream else { return Flow::Continue };
        let action = match direction {
            Direction::Request => stream.on_request_body(size, end),
            Direction::Response => stream.on_response_body(size, end),
        };
        match action {
            Action::Continue | Action::ContinueAndEndStream => Flow::Continue,
            Action::StopIterationAndWatermark => Flow::Stop(Stop::Watermark),
            Action::StopIterationNoBuffer => Flow::Stop(Stop::NoBuffer),
            _ => Flow::Stop(Stop::Iteration),
        }
    }

    pub fn trailers(&self, direction: Direction) -> Flow {
        let Some(stream) = &self.stream else { return Flow::Continue };
        let action = match direction {
            Direction::Request => stream.on_request_trailers(),
            Direction::Response => stream.on_response_trailers(),
        };
        if action.stops() { Flow::Stop(Stop::Iteration) } else { Flow::Continue }
    }

    /// Body bytes that the plugin may hold, unless it asks for another limit itself.
    pub fn limit(&self) -> usize {
        self.stream.as_ref().map_or(usize::MAX, |s| s.limits().body_buffer_bytes as usize)
    }

    /// Counts a body that was larger than the limit.
    pub fn count_overflow(&self) {
        self.stream.iter().for_each(PluginStream::body_overflow);
    }

    /// Whether it is known to change the length of bodies after their heads.
    pub fn resizes(&self, direction: Direction) -> bool {
        self.stream.as_ref().is_some_and(|s| s.resizes(direction))
    }

    /// Notes that it has done so.
    pub fn has_resized(&self, direction: Direction) {
        self.stream.iter().for_each(|s| s.has_resized(direction));
    }

    /// `status` is that of the answer; 0 for none.
    pub fn end(&self, status: u16) {
        if let Some(stream) = &self.stream {
            if self.unmatched {
                return stream.leave();
            }
            stream.answered(status);
            stream.end();
        }
    }
}
