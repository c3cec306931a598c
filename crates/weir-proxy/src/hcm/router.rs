//! The router: what is done to a request before it leaves, and to whom it goes.
use super::{
    After,
    active_stream::ActiveStream,
    attempt::{Kept, Plan},
    clock::grpc_timeout,
    end::End,
    error_backend::Errors,
    ns,
};
use crate::{
    balance::{for_split, hash_request},
    breaker::Resource,
    detail::Detail,
    info::Flags,
    reply::Reply,
    retry::RetryRt,
    route::{ForwardRt, RouteRt, Target},
    session::{self, Session},
    stream::{Direction, Reached},
    upstream::{Host, Protocol, UpstreamError, WorkerCluster, mirror},
};
use std::{rc::Rc, time::Duration};
use weir_config::model::{HashPolicy, HostRewrite};
use weir_net::{http::Known, timer::nanos};

impl ActiveStream<'_> {
    /// The answer where a circuit breaker is at its limit; clients are told not to try again at once.
    pub(super) fn overloaded(&self) -> End {
        let reply = Reply::new(503, Detail::UpstreamOverflow);
        let quiet = self.hcm.config().suppress_envoy_headers;
        End::Reply(if quiet { reply } else { reply.header("x-envoy-overloaded", b"true") }, Flags::UPSTREAM_OVERFLOW)
    }

    pub(super) async fn forward(&mut self, route: &RouteRt, forward: &ForwardRt) -> Result<After, End> {
        let kept = forward.session().and_then(|config| {
            let session = Session::of_request(config, &*self.s.req.borrow(), self.now_seconds())?;
            Some((session, forward.target_of(&session)?))
        });
        self.selected.session = kept.map(|(session, _)| session);
        let split = self.hash_of_split(forward);
        let spread = split.as_ref().map_or_else(|| self.w.random(), |(_, hash)| for_split(*hash));
        let Some(target) = kept.map(|(_, target)| target).or_else(|| forward.choose(spread)) else {
            return Err(End::reply(500, Flags::NO_CLUSTER_FOUND, Detail::ClusterNotFound));
        };
        if let Some(redirect) = target.redirect() {
            return Err(self.redirect(route, redirect));
        }
        let Some(slot) = &target.cluster else {
            return Err(End::reply(target.unresolved_status, Flags::NO_CLUSTER_FOUND, Detail::ClusterNotFound));
        };
        let mut found = self.w.clusters.cluster(slot);
        if found.as_ref().is_some_and(|c| c.is_warming()) {
            let worker = self.w.clone();
            found = self.meanwhile(worker.clusters.warm_cluster(slot)).await?;
        }
        let Some(cluster) = found else {
            self.hcm.stats.no_cluster.inc();
            return Err(End::reply(503, Flags::NO_CLUSTER_FOUND, Detail::ClusterNotFound));
        };
        self.s.info.borrow_mut().upstream_cluster = Some(cluster.text.clone());
        self.selected.cluster = Some(cluster.clone());
        let breakers = &cluster.rt.config.circuit_breakers;
        let Some(permit) = cluster.rt.breakers.take(Resource::Requests, breakers) else {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(self.overloaded());
        };
        let errors = forward.error_backend().map(|backend| Errors::new(backend, self.s.req.borrow().target()));
        self.edit_request(route, forward, target);
        let protocol = Protocol::of(&cluster, self.h2);
        let watched = self.chain.as_ref().is_some_and(|c| c.wants_body(Direction::Request));
        let shadows = mirror::chosen(&self.w.clusters, forward, target);
        // A copy needs the body in hand.
        let shadowed = !shadows.is_empty();
        let resends = errors.is_some() || forward.retry().is_some_and(RetryRt::holds_body);
        let held = shadowed || resends && !self.request.reader.is_done();
        let raw = !self.h2 && protocol == Protocol::Http1 && !watched && !held;
        let by = &cluster.rt.config.hash_policy;
        let hash = match split {
            _ if by.is_empty() => None,
            Some((of, hash)) if Rc::ptr_eq(&of, &cluster) || of.rt.config.hash_policy == *by => Some(hash),
            _ => self.hash_by(by),
        };
        let rewrite_host = matches!(forward.host_rewrite(target), Some(HostRewrite::Auto));
        let plan = Plan { route, forward, target, cluster, hash, protocol, raw, rewrite_host, _permit: permit };
        let timeout = forward.timeout().or(self.hcm.config().timeouts.route_timeout);
        self.set_deadlines(forward, timeout);
        // A request that nobody may send again is not held; HTTP/2 may refuse any.
        let again = resends
            || forward.retry().is_some()
            || shadowed
            || plan.protocol != Protocol::Http1
            || self.s.req.borrow().method.is_idempotent();
        let mut kept = Kept::new(if again { self.hcm.config().limits.buffer_limit_bytes as usize } else { 0 });
        let early = self.request_ends(&kept.replay);
        if early {
            mirror::start(&self.w.clusters, &shadows, &self.s.req.borrow(), b"", timeout);
        }
        let found = self.tries(&plan, &mut kept).await;
        let after = match (errors, found) {
            (Some(errors), found) if self.is_replaced(&errors, &found, &kept) => self.answer_by(&errors, &plan, found, &mut kept).await,
            (_, Ok(tried)) => self.respond(&plan, tried, &mut kept.replay).await,
            (_, Err(end)) => Err(end),
        };
        if held && kept.replay.spent {
            plan.cluster.stats.retry_or_shadow_abandoned.inc();
        }
        if shadowed && !early && kept.replay.ended && !kept.replay.spent {
            mirror::start(&self.w.clusters, &shadows, &self.s.req.borrow(), &kept.replay.body, timeout);
        }
        after
    }

    /// Sets the deadlines of the request, the route and the client, and the route's idle timeout.
    fn set_deadlines(&mut self, forward: &ForwardRt, timeout: Option<Duration>) {
        let (start, request_end) = {
            let info = self.s.info.borrow();
            (info.start, info.request_end)
        };
        if request_end == 0 {
            self.clock.request = start.saturating_add(ns(self.hcm.config().timeouts.request_timeout));
        }
        self.clock.set_route(request_end, self.w.moment(), ns(timeout));
        if let Some(limit) = self.grpc_timeout() {
            self.clock.deadline = start.saturating_add(limit);
        }
        if let Some(idle) = forward.idle_timeout() {
            self.clock.set_idle(self.w.moment(), nanos(idle));
        }
    }

    /// The timeout that the client of a gRPC call has set.
    fn grpc_timeout(&self) -> Option<u64> {
        let req = self.s.req.borrow();
        let told = req.headers.get(Known::GrpcTimeout).filter(|_| req.is_grpc())?;
        grpc_timeout(told)
    }

    /// The hash for a choice between clusters: the same value of what a hash policy reads always leads to the same cluster. The first
    /// policy among the clusters counts.
    fn hash_of_split(&mut self, forward: &ForwardRt) -> Option<(Rc<WorkerCluster>, u64)> {
        if forward.targets().len() < 2 {
            return None;
        }
        let hashed = |t: &Target| self.w.clusters.cluster(t.cluster.as_ref()?).filter(|c| !c.rt.config.hash_policy.is_empty());
        let cluster = forward.targets().iter().find_map(hashed)?;
        let hash = self.hash_by(&cluster.rt.config.hash_policy)?;
        Some((cluster, hash))
    }

    /// The hash of the request; if it needs a new cookie, the response sets it.
    fn hash_by(&mut self, policy: &[HashPolicy]) -> Option<u64> {
        let source = self.s.info.borrow().remote_address.unwrap_or(self.c.conn.peer).ip();
        let (hash, cookie) = hash_request(policy, &*self.s.req.borrow(), source, self.w.random());
        self.selected.cookie = cookie.map(|c| c.header());
        hash
    }

    /// The route's changes to the request's head.
    fn edit_request(&mut self, route: &RouteRt, forward: &ForwardRt, target: &Target) {
        for edits in [route.request_headers.as_ref(), target.request_headers()].into_iter().flatten() {
            self.edit(edits, Direction::Request);
        }
        let mut req = self.s.req.borrow_mut();
        if let Some(rewrite) = forward.path_rewrite(target) {
            let mut new = Vec::new();
            rewrite.apply(req.path(), req.query(), route.matched(req.path()), &mut new);
            if new != req.target() {
                if !req.headers.has(Known::OriginalPath) && !self.hcm.config().suppress_envoy_headers {
                    let original = req.target().to_vec();
                    req.headers.add(Known::OriginalPath, &[&original]);
                }
                req.set_target(&new);
            }
        }
        if let Some(HostRewrite::Literal(host)) = forward.host_rewrite(target) {
            req.headers.set(Known::Host, &[host.as_bytes()]);
        }
        drop(req);
        self.s.reached[Direction::Request as usize].set(Reached::Sent);
    }

    pub(super) async fn pick(&mut self, plan: &Plan<'_>, tried: &[Rc<Host>]) -> Result<Rc<Host>, End> {
        let cluster = &plan.cluster;
        if let Some(address) = self.s.override_host.get()
            && let Some(host) = cluster.hosts.iter().find(|h| h.endpoint.address == address)
        {
            return Ok(host.clone());
        }
        if let Some(session) = &self.selected.session
            && let Some(host) = cluster.hosts.iter().find(|h| h.endpoint.address == session.address)
            && host.endpoint.accepts_requests()
            && host.endpoint.outlier.is_usable()
            && !tried.iter().any(|t| Rc::ptr_eq(t, host))
        {
            return Ok(host.clone());
        }
        if let Some(forward) = &cluster.rt.forward {
            let (host, port) = self.named_host(plan);
            let found = self.meanwhile(forward.endpoint(&host, port)).await?;
            return found.map(|endpoint| cluster.named(endpoint)).map_err(|e| self.upstream_failed(&e.into()));
        }
        match cluster.choose(plan.hash, tried) {
            Ok(host) => Ok(host),
            Err(e) => Err(End::upstream(&e)),
        }
    }

    /// How the request ends because of `error`, which is also said in the access log.
    pub(super) fn upstream_failed(&mut self, error: &UpstreamError) -> End {
        self.s.info.borrow_mut().upstream_failure = Some(error.to_string().into());
        if matches!(error, UpstreamError::Overflow) { self.overloaded() } else { End::upstream(error) }
    }

    /// Since 1970.
    fn now_seconds(&self) -> u64 {
        self.w.wall(self.w.moment()) / 1_000_000_000
    }

    /// Tells the client of its session, if it is a new one.
    pub(super) fn tell_session(&mut self, plan: &Plan<'_>, host: &Host) {
        let Some(config) = plan.forward.session() else { return };
        let address = host.endpoint.address;
        if self.selected.session.is_some_and(|s| s.address == address) {
            return;
        }
        let (name, value) = session::begin(config, &plan.cluster.name, address, self.now_seconds());
        self.s.resp.borrow_mut().headers.add_named(name.as_bytes(), value.as_bytes());
    }

    /// The host that the client itself names, for a dynamic forward proxy.
    fn named_host(&self, plan: &Plan<'_>) -> (String, u16) {
        let req = self.s.req.borrow();
        let host = String::from_utf8_lossy(req.host());
        let port = req.authority().get(req.host().len() + 1..).and_then(|p| std::str::from_utf8(p).ok()?.parse().ok());
        let configured = match plan.cluster.rt.config.discovery {
            weir_config::model::Discovery::DynamicForwardProxy { port } => port,
            _ => 80,
        };
        (host.trim_matches(['[', ']']).to_string(), port.unwrap_or(configured))
    }
}
