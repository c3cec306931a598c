//! `/stats`: what an operator wants to see, as one JSON object.
use crate::{
    admin::inspect::{self, Kept},
    cache::head::seconds,
    hub::Hub,
    recent::Noted,
    settings::{AgentRule, Settings},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

pub fn of(hub: &Hub) -> Value {
    let sets = inspect::sets(&hub.cache.store);
    let users: BTreeSet<&str> = sets.iter().map(|set| set.key.user.as_str()).collect();
    let kept: Vec<Value> = inspect::kept(&sets).iter().map(|(resource, kept)| of_resource(resource, kept)).collect();
    let servers = hub.remote.servers().iter().map(|server| server.status());
    let servers = servers.map(|s| {
        json!({
            "server": s.server, "up": s.up, "known": s.known, "since": seconds(s.since), "connections": s.connections,
            "streams": s.streams, "heartbeats": s.heartbeats, "failedHeartbeats": s.failed_heartbeats,
        })
    });
    let (store, cache) = (hub.cache.store.stats(), &hub.cache.stats);
    let certificate = match hub.remote.certificate() {
        Ok(until) => json!({ "notAfter": seconds(until) }),
        Err(e) => json!({ "error": e.to_string() }),
    };
    let mut errors: Vec<Noted> = [hub.remote.errors.all(), hub.cache.errors.all()].concat();
    errors.sort_by_key(|noted| noted.at);
    json!({
        "node": hub.node,
        "version": env!("CARGO_PKG_VERSION"),
        "link": { "up": hub.remote.is_up() },
        "servers": servers.collect::<Vec<_>>(),
        "kept": kept,
        "users": users,
        "watches": hub.requests.open_watches(),
        "store": {
            "bytes": store.bytes, "quotaBytes": store.quota, "liveBytes": store.live_bytes, "damagedSets": store.damaged_sets,
            "evictedSets": store.evicted_sets, "refusedWrites": store.refused_writes, "encrypted": store.encrypted,
        },
        "cache": {
            "lagBytes": hub.cache.lag(), "overflows": cache.overflows.load(Relaxed), "unreadable": cache.unreadable.load(Relaxed),
            "failedWrites": cache.failed_writes.load(Relaxed),
        },
        "pool": pool(hub),
        "collected": {
            "objects": hub.collector.stats.objects.load(Relaxed), "lists": hub.collector.stats.lists.load(Relaxed),
            "tokens": hub.collector.stats.tokens.load(Relaxed), "waiting": hub.collector.stats.waiting.load(Relaxed),
            "podsKnown": hub.collector.stats.known.load(Relaxed), "gracePeriodSeconds": hub.collector.grace.as_secs_f64(),
        },
        "outbox": { "waiting": hub.writes.outbox.waiting() },
        "settings": settings(&hub.settings.borrow()),
        "certificate": certificate,
        "errors": errors.iter().map(|e| json!({ "at": seconds(e.at), "text": e.text, "times": e.times })).collect::<Vec<_>>(),
    })
}

/// Who follows the kinds that are shared.
fn pool(hub: &Hub) -> Value {
    let pool = &hub.share.pool;
    let peers = pool.peers().into_iter().map(|peer| {
        let status = peer.status();
        json!({ "node": peer.name, "address": peer.address, "up": pool.is_up(&peer), "connections": status.connections, "requests": status.streams })
    });
    let followed = hub.share.followed().into_iter().map(|followed| {
        let resource = inspect::resource(&followed.key);
        json!({
            "resource": resource, "media": followed.key.media, "source": followed.source, "since": followed.since.map(seconds),
            "peers": followed.peers,
        })
    });
    json!({ "sharing": pool.on, "peers": peers.collect::<Vec<_>>(), "followed": followed.collect::<Vec<_>>() })
}

fn settings(settings: &Settings) -> Value {
    let rule = |rule: &AgentRule| json!({ "name": rule.name, "keep": rule.keep, "ttlSeconds": rule.ttl.map(|ttl| ttl.as_secs()) });
    json!({
        "agents": settings.file.agents.iter().map(rule).collect::<Vec<_>>(),
        "cacheAgents": settings.yurt_hub.cache_agents,
    })
}

fn of_resource(resource: &str, kept: &Kept) -> Value {
    json!({
        "resource": resource, "lists": kept.lists, "objects": kept.objects, "bytes": kept.bytes, "ageSeconds": kept.age,
        "dirty": kept.dirty, "damaged": kept.damaged,
    })
}
