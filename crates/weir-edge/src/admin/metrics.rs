//! `/metrics`.
use crate::{
    admin::inspect,
    cache::head::seconds,
    filters::stats as filters,
    hub::{Hub, in_flight::Count, share::SERVER},
};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use weir_net::exposition::Exposition;

pub fn text(hub: &Hub) -> String {
    let mut out = Exposition::default();
    requests(hub, &mut out);
    filters(hub, &mut out);
    cache(hub, &mut out);
    store(hub, &mut out);
    link(hub, &mut out);
    outbox(hub, &mut out);
    pool(hub, &mut out);
    tunnel(hub, &mut out);
    out.into_text()
}

fn single(out: &mut Exposition, kind: &str, name: &str, help: &str, value: impl std::fmt::Display) {
    out.described(name, kind, help);
    out.sample(name, [], value);
}

fn pool(hub: &Hub, out: &mut Exposition) {
    let pool = &hub.share.pool;
    let peers = pool.peers();
    let up = peers.iter().filter(|peer| pool.is_up(peer)).count();
    out.described("weir_edge_pool_peers", "gauge", "Other hubs of the node pool, by whether they are asked.");
    out.sample("weir_edge_pool_peers", [("state", "up")], up);
    out.sample("weir_edge_pool_peers", [("state", "left")], peers.len() - up);
    let followed = hub.share.followed();
    let sources = followed.iter().filter_map(|followed| followed.source.as_deref());
    let server = sources.clone().filter(|source| *source == SERVER).count();
    out.described("weir_edge_shared_sets", "gauge", "Lists that are followed for all clients, by where: the API server, or another hub.");
    out.sample("weir_edge_shared_sets", [("source", "server")], server);
    out.sample("weir_edge_shared_sets", [("source", "peer")], sources.count() - server);
    let stats = &pool.stats;
    let name = "weir_edge_pool_requests_total";
    out.described(name, "counter", "Requests of other hubs: answered, refused, or for what this hub does not follow at the API server.");
    for (result, counter) in [("served", &stats.served), ("refused", &stats.refused), ("unavailable", &stats.unavailable)] {
        out.sample(name, [("result", result)], counter.load(Relaxed));
    }
    single(out, "gauge", "weir_edge_pool_watches", "Watches of other hubs that are open.", stats.watches.load(Relaxed));
    let help = "How often another hub was left: it did not answer, did not give a kind, or had an older state.";
    single(out, "counter", "weir_edge_pool_left_total", help, stats.left.load(Relaxed));
}

fn tunnel(hub: &Hub, out: &mut Exposition) {
    let stats = &hub.tunnel;
    single(out, "gauge", "weir_edge_tunnel_servers", "Servers of tunnels that are connected.", stats.connected.load(Relaxed));
    single(out, "gauge", "weir_edge_tunnel_streams", "Streams of tunnels that are open.", stats.open.load(Relaxed));
    let counters: [(&str, &str, &AtomicU64); 4] = [
        ("weir_edge_tunnel_connections_total", "Connections to servers of tunnels.", &stats.connections),
        ("weir_edge_tunnel_streams_total", "Streams of tunnels.", &stats.streams),
        ("weir_edge_tunnel_refused_total", "Streams of tunnels to places that are not permitted.", &stats.refused),
        ("weir_edge_tunnel_failed_total", "Streams of tunnels to places that could not be reached.", &stats.failed),
    ];
    for (name, help, counter) in counters {
        single(out, "counter", name, help, counter.load(Relaxed));
    }
}

fn requests(hub: &Hub, out: &mut Exposition) {
    let counts = hub.requests.counts();
    let name = "weir_edge_requests_total";
    out.described(
        name,
        "counter",
        "Requests by who answered them: the API server (remote), the cache, the outbox or the hub itself (local).",
    );
    for (resource, kinds) in &counts {
        for (kind, n) in kinds {
            let code = kind.code.to_string();
            out.sample(name, [("verb", kind.verb), ("resource", resource), ("code", &code), ("source", kind.source.name())], n);
        }
    }
    let families = [
        ("weir_edge_cache_hits_total", "Reads that were answered from the cache.", true),
        ("weir_edge_cache_misses_total", "Reads that nobody could answer: no API server, and nothing kept.", false),
    ];
    for (name, help, hits) in families {
        out.described(name, "counter", help);
        for (resource, kinds) in &counts {
            let wanted = kinds.iter().filter(|(kind, _)| if hits { kind.is_hit() } else { kind.is_miss() });
            let n: u64 = wanted.map(|(_, n)| n).sum();
            if n > 0 {
                out.sample(name, [("resource", resource.as_str())], n);
            }
        }
    }
    let (age, answers) = hub.requests.ages();
    out.described("weir_edge_cache_hit_age_seconds", "summary", "Age of answers from the cache.");
    out.sample("weir_edge_cache_hit_age_seconds_sum", [], age);
    out.sample("weir_edge_cache_hit_age_seconds_count", [], answers);
    let counts = hub.in_flight.counts();
    let mut family = |kind: &str, name: &str, help: &str, value: &dyn Fn(&Count) -> u64| {
        out.described(name, kind, help);
        counts.iter().for_each(|(client, count)| out.sample(name, [("client", *client)], value(count)));
    };
    family("gauge", "weir_edge_requests_in_flight", "Requests that are being answered, without watches.", &|count| count.in_flight as u64);
    family("gauge", "weir_edge_requests_queued", "Requests that wait for others of their client.", &|count| count.queued as u64);
    family("counter", "weir_edge_requests_rejected_total", "Requests of clients with too many at a time (429).", &|count| count.rejected);
    let dropped = hub.access_log.as_ref().map_or(0, |log| log.dropped.load(Relaxed));
    single(out, "counter", "weir_edge_access_log_dropped_total", "Lines of the access log that were not written.", dropped);
    single(out, "gauge", "weir_edge_watches", "Watches of clients that are open.", hub.requests.open_watches());
}

/// A number of those that are counted of a filter.
type Number = fn(&filters::Count) -> &AtomicU64;

fn filters(hub: &Hub, out: &mut Exposition) {
    let stats = &hub.filters.stats;
    let families: [(&str, &str, Number); 3] = [
        ("weir_edge_filter_objects_total", "Objects that came to a filter.", |count| &count.seen),
        ("weir_edge_filter_changed_objects_total", "Objects that a filter has changed.", |count| &count.changed),
        ("weir_edge_filter_dropped_objects_total", "Objects that a filter has hidden.", |count| &count.dropped),
    ];
    for (name, help, number) in families {
        out.described(name, "counter", help);
        for count in stats.counts() {
            out.sample(name, [("filter", count.filter), ("resource", count.resource)], number(count).load(Relaxed));
        }
    }
    let unreadable = "Answers, events and objects that filters could not read, and passed as they are.";
    single(out, "counter", "weir_edge_filter_unreadable_total", unreadable, stats.unreadable.load(Relaxed));
    let reapplied = "Times that filters were applied again to an open watch, because what they depend on has changed.";
    single(out, "counter", "weir_edge_filter_reapplied_watches_total", reapplied, stats.reapplied.load(Relaxed));
}

fn cache(hub: &Hub, out: &mut Exposition) {
    let kept = inspect::kept(&inspect::sets(&hub.cache.store));
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&inspect::Kept) -> Option<u64>| {
        out.described(name, "gauge", help);
        for (resource, kept) in &kept {
            if let Some(value) = value(kept) {
                out.sample(name, [("resource", resource.as_str())], value);
            }
        }
    };
    gauge("weir_edge_cache_lists", "Complete lists that are kept.", &|kept| Some(kept.lists as u64));
    gauge("weir_edge_cache_objects", "Objects that are kept.", &|kept| Some(kept.objects as u64));
    gauge("weir_edge_cache_dirty_sets", "Sets that are marked as old.", &|kept| Some(kept.dirty as u64));
    gauge("weir_edge_cache_age_seconds", "Time since the oldest set was as the API server has it.", &|kept| kept.age);
    let stats = &hub.cache.stats;
    single(out, "gauge", "weir_edge_cache_lag_bytes", "Bytes that wait to be kept.", hub.cache.lag());
    let counters: [(&str, &str, &AtomicU64); 8] = [
        (
            "weir_edge_cache_removed_sets_total",
            "Sets that were removed because no client may keep them any more.",
            &hub.cache.agents.removed,
        ),
        ("weir_edge_cache_kept_total", "Lists, objects and documents that were kept.", &stats.kept),
        ("weir_edge_cache_events_total", "Watch events that were kept.", &stats.events),
        ("weir_edge_cache_overflows_total", "Copies that were given up because the cache was too slow.", &stats.overflows),
        ("weir_edge_cache_unreadable_total", "Copies that could not be read.", &stats.unreadable),
        ("weir_edge_cache_relists_total", "Lists that the hub made again, because something of them was missed.", &stats.relists),
        ("weir_edge_cache_relist_failures_total", "Such lists that failed.", &stats.failed_relists),
        ("weir_edge_cache_failed_writes_total", "Writes to the store that failed.", &stats.failed_writes),
    ];
    for (name, help, counter) in counters {
        single(out, "counter", name, help, counter.load(Relaxed));
    }
    let collected = &hub.collector.stats;
    out.described(
        "weir_edge_gc_collected_total",
        "counter",
        "Copies that were removed because no pod or client of the node needs them any more.",
    );
    for (kind, counter) in [("objects", &collected.objects), ("lists", &collected.lists), ("tokens", &collected.tokens)] {
        out.sample("weir_edge_gc_collected_total", [("kind", kind)], counter.load(Relaxed));
    }
    let help = "Copies that nobody needs, and whose grace period is not over.";
    single(out, "gauge", "weir_edge_gc_waiting", help, collected.waiting.load(Relaxed));
    single(out, "counter", "weir_edge_cache_dropped_bytes_total", "Bytes of copies that were given up.", hub.cache.dropped());
}

fn store(hub: &Hub, out: &mut Exposition) {
    let stats = hub.cache.store.stats();
    let gauges: [(&str, &str, u64); 5] = [
        ("weir_edge_store_bytes", "Bytes of the log.", stats.bytes),
        ("weir_edge_store_live_bytes", "Bytes of the log that hold current values.", stats.live_bytes),
        ("weir_edge_store_quota_bytes", "Bytes that the log may have.", stats.quota),
        ("weir_edge_store_damaged_sets", "Sets that cannot be read until they are listed again.", stats.damaged_sets as u64),
        ("weir_edge_store_unsynced_records", "Records that are not synced yet.", stats.unsynced_records),
    ];
    for (name, help, value) in gauges {
        single(out, "gauge", name, help, value);
    }
    let counters: [(&str, &str, u64); 8] = [
        ("weir_edge_store_written_bytes_total", "Bytes written to the log.", stats.written_bytes),
        ("weir_edge_store_syncs_total", "Syncs of the log.", stats.syncs),
        ("weir_edge_store_sync_errors_total", "Syncs that failed.", stats.sync_errors),
        ("weir_edge_store_write_errors_total", "Writes that failed.", stats.write_errors),
        ("weir_edge_store_corrupt_records_total", "Reads that found a damaged record.", stats.damaged_reads),
        ("weir_edge_store_evicted_sets_total", "Sets that made room for more important ones.", stats.evicted_sets),
        ("weir_edge_store_refused_writes_total", "Writes that found no room.", stats.refused_writes),
        ("weir_edge_store_cleaned_segments_total", "Segments that were cleaned.", stats.cleaned_segments),
    ];
    for (name, help, value) in counters {
        single(out, "counter", name, help, value);
    }
}

fn link(hub: &Hub, out: &mut Exposition) {
    single(out, "gauge", "weir_edge_link_up", "Whether an API server can be reached.", u8::from(hub.remote.is_up()));
    if let Ok(until) = hub.remote.certificate() {
        let help = "When the certificate of the node expires, in seconds since 1970.";
        single(out, "gauge", "weir_edge_certificate_expiration_timestamp_seconds", help, seconds(until));
    }
    let servers: Vec<_> = hub.remote.servers().iter().map(|server| server.status()).collect();
    out.described("weir_edge_server_healthy_status", "gauge", "Whether an API server counts as up.");
    for s in &servers {
        out.sample("weir_edge_server_healthy_status", [("server", s.server.as_str())], u8::from(s.up));
    }
    out.described("weir_edge_heartbeats_total", "counter", "Probes of an API server, by whether it answered.");
    for s in &servers {
        out.sample("weir_edge_heartbeats_total", [("server", s.server.as_str()), ("result", "answered")], s.heartbeats);
        out.sample("weir_edge_heartbeats_total", [("server", s.server.as_str()), ("result", "failed")], s.failed_heartbeats);
    }
    out.described("weir_edge_upstream_connections", "gauge", "Open connections to an API server.");
    for s in &servers {
        out.sample("weir_edge_upstream_connections", [("server", s.server.as_str())], s.connections);
    }
    out.described("weir_edge_upstream_requests_active", "gauge", "Requests to an API server that are on their way, watches among them.");
    for s in &servers {
        out.sample("weir_edge_upstream_requests_active", [("server", s.server.as_str())], s.streams);
    }
}

fn outbox(hub: &Hub, out: &mut Exposition) {
    let outbox = &hub.writes.outbox;
    single(out, "gauge", "weir_edge_outbox_records", "Writes that wait for the API server.", outbox.waiting());
    let stats = &outbox.stats;
    let counters: [(&str, &str, &AtomicU64); 8] = [
        ("weir_edge_outbox_accepted_total", "Writes that were taken in place of the API server.", &stats.accepted),
        ("weir_edge_outbox_sent_total", "Writes that the API server has taken over.", &stats.sent),
        ("weir_edge_outbox_retried_total", "Attempts to send that failed and are made again.", &stats.retried),
        ("weir_edge_outbox_refused_total", "Writes that the API server refused for good.", &stats.refused),
        ("weir_edge_outbox_gone_total", "Writes to objects that were deleted or made again meanwhile.", &stats.gone),
        ("weir_edge_outbox_dropped_total", "Events that made room for later ones.", &stats.dropped),
        ("weir_edge_outbox_full_total", "Writes that found no room.", &stats.full),
        ("weir_edge_outbox_damaged_total", "Parts of the outbox that were lost to damage on disk.", &stats.damaged),
    ];
    for (name, help, counter) in counters {
        single(out, "counter", name, help, counter.load(Relaxed));
    }
}
