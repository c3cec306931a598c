//! Which filters a request meets: the start of its plugins, and other filters once a plugin has led it to another route.
use super::{Active, Chain, Ended, Filter, FilterConfig, FilterState, Flow, Hold, Prepared, Work};
use crate::{
    info::Flags,
    plugin::{PluginSlot, Waiting, WorkerPlugins},
    reply::Reply,
    stream::Direction,
};
use std::{rc::Rc, sync::Arc};

impl Chain {
    /// To be called when the head of the request is about to leave. Whether the request has got another route on its way.
    pub fn settle_route(&mut self) -> Result<bool, Ended> {
        if self.cx.stream.route_stale.get() && self.find_route() {
            let all = self.cx.rt.filters.len();
            self.ask_again(all);
        }
        match self.reply.take() {
            Some((reply, flags)) => Err(Ended::Reply(reply, flags)),
            None => Ok(std::mem::take(&mut self.rerouted)),
        }
    }

    /// Before the head of the request reaches a filter.
    pub(super) fn prepare(&mut self, k: usize, end: bool) -> Prepared {
        // The route decides nothing about plugins, but about filters before this one.
        let plugin = matches!(self.filters[k].filter, Filter::Wasm(_));
        let next = k.checked_sub(1).map_or(0, |before| self.filters[before].position + 1);
        if self.cx.stream.route_stale.get() && (!plugin || next < self.filters[k].position) {
            return if self.follow_route(k) { Prepared::Rerouted } else { Prepared::Waits };
        }
        if !plugin || self.plugins_entered {
            return Prepared::Ready;
        }
        let Some(plugins) = self.cx.plugins.upgrade() else { return Prepared::Ready };
        let Some(waiting) = plugins.missing(self.plugins()) else {
            return if self.enter_plugins(&plugins) { Prepared::Ready } else { Prepared::Waits };
        };
        self.work = Work::Plugins(Box::pin(wait(waiting, plugins.clone(), self.plugins().cloned().collect())), k, end);
        let st = self.state(Direction::Request, k);
        (st.head_came, st.hold, st.watermark) = (true, Hold::All, true);
        st.end_came |= end;
        Prepared::Waits
    }

    /// Those that run on this stream.
    fn plugins(&self) -> impl Iterator<Item = &Arc<PluginSlot>> {
        self.filters.iter().filter_map(|a| if let Filter::Wasm(plugin) = &a.filter { Some(plugin.slot()) } else { None })
    }

    /// Enters all plugins. `false`: one that must run cannot.
    pub(super) fn enter_plugins(&mut self, plugins: &WorkerPlugins) -> bool {
        self.plugins_entered = true;
        for Active { position, filter, .. } in &mut self.filters {
            let Filter::Wasm(plugin) = filter else { continue };
            if let Err(details) = plugin.start(&self.cx, plugins, *position, self.route.as_deref()) {
                self.reply = Some((Reply::new(503, details), Flags::default()));
                return false;
            }
        }
        true
    }

    /// Looks for the route again, since a plugin has changed what it depends on. Filters from number `k` on follow the new route.
    /// `false`: the request is refused.
    pub(super) fn follow_route(&mut self, k: usize) -> bool {
        if !self.find_route() {
            return true;
        }
        let passed = k.checked_sub(1).map_or(0, |last| self.filters[last].position + 1);
        if !self.ask_again(passed) {
            return false;
        }
        // A plugin stays, since it may have been entered.
        let behind = self.filters.split_off(k);
        self.filters.extend(behind.into_iter().filter(|a| matches!(a.filter, Filter::Wasm(_))));
        self.cx.rt.filters.chosen(passed, self.route.as_ref().map(|r| &r.filters), |position, config| {
            if !matches!(config, FilterConfig::Wasm(_)) {
                self.filters.push(Active::new(position, config));
            }
        });
        self.filters.sort_by_key(|a| a.position);
        self.bodies = self.cx.rt.filters.bodies(self.route.as_ref().map(|r| &r.filters));
        self.states.iter_mut().for_each(|states| states.resize_with(self.filters.len(), FilterState::default));
        true
    }

    /// Whether the request has another route now.
    fn find_route(&mut self) -> bool {
        self.cx.stream.route_stale.set(false);
        let rt = &self.cx.rt;
        let route = rt.table.find(&*self.cx.stream.req.borrow(), rt.config().strip_any_host_port).1;
        if route.map(Arc::as_ptr) == self.route.as_ref().map(Arc::as_ptr) {
            return false;
        }
        (self.route, self.rerouted) = (route.cloned(), true);
        true
    }

    /// Asks those filters before a position that decide who is let in, with their configurations for the new route. `false`: one of them
    /// refuses the request.
    fn ask_again(&mut self, passed: usize) -> bool {
        for position in 0..passed {
            let config = self.cx.rt.filters.config(position, self.route.as_ref().map(|r| &r.filters));
            let Some(mut guard) = config.map(Filter::new).filter(Filter::guards) else { continue };
            if let Flow::Reply(reply, flags) = guard.decode_headers(&self.cx, false) {
                self.reply = Some((*reply, flags));
                return false;
            }
        }
        true
    }
}

/// Waits until all plugins have started or failed to, for at most [`Waiting::patience`].
async fn wait(waiting: Waiting, plugins: Rc<WorkerPlugins>, slots: Vec<Arc<PluginSlot>>) {
    waiting.count();
    let until = tokio::time::Instant::now() + waiting.patience();
    let mut next = Some(waiting);
    while let Some(waiting) = next {
        if tokio::time::timeout_at(until, waiting.over()).await.is_err() {
            return;
        }
        next = plugins.missing(&slots);
    }
}
