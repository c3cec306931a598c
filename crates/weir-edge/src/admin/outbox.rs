//! `/outbox`: what waits to be sent, and what the API server has refused for good.
use super::Reply;
use crate::{
    apimachinery::reported::LEASE,
    hub::Hub,
    offline::outbox::{Outbox, item::Item, refused::Letter},
};
use http::StatusCode;
use serde_json::{Value, json};

/// All of it, without the bodies.
pub fn list(hub: &Hub) -> Value {
    let outbox = &hub.writes.outbox;
    let mut waiting = Vec::new();
    if outbox.lease.waits() {
        waiting.push(json!({ "item": Item::Lease.to_string(), "at": null, "writes": null, "bytes": null }));
    }
    for (kind, name, changed) in outbox.statuses.items() {
        let item = Item::Status(kind, name).to_string();
        waiting.push(json!({ "item": item, "at": age(changed.at), "writes": changed.changes, "bytes": changed.patch.to_string().len() }));
    }
    for (number, path, at, bytes) in outbox.events.items() {
        waiting.push(json!({ "item": Item::Event(number).to_string(), "path": path, "at": age(at), "bytes": bytes }));
    }
    let refused = outbox.refused.letters().into_iter().map(|(number, letter)| {
        json!({
            "item": Item::Refused(number).to_string(), "at": letter.at, "method": letter.method, "path": letter.path, "code": letter.code,
            "message": letter.message,
        })
    });
    json!({ "waiting": waiting, "refused": refused.collect::<Vec<_>>() })
}

fn age(at: u64) -> Option<u64> {
    (at > 0).then_some(at)
}

/// One item with what was written.
pub fn get(hub: &Hub, name: &str) -> Reply {
    match item(name).map(|item| (show(&hub.writes.outbox, &item), item)) {
        Ok((Some(value), _)) => Reply::json(&value),
        Ok((None, item)) => none(&item),
        Err(reply) => reply,
    }
}

/// Forgets one item: it is not sent.
pub fn drop_item(hub: &Hub, name: &str) -> Reply {
    let outbox = &hub.writes.outbox;
    let item = match item(name) {
        Ok(item) => item,
        Err(reply) => return reply,
    };
    if show(outbox, &item).is_none() {
        return none(&item);
    }
    match &item {
        Item::Lease => outbox.lease.forget(),
        Item::Status(kind, name) => {
            if let Some(changed) = outbox.statuses.get(kind, name) {
                outbox.statuses.forget(kind, name, changed.changes);
            }
        }
        Item::Event(number) => {
            if let Some((changes, _)) = outbox.events.get(*number) {
                outbox.events.done(*number, changes);
            }
        }
        Item::Refused(number) => {
            if let Err(e) = outbox.refused.remove(*number) {
                return Reply::error(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"));
            }
        }
    }
    outbox.notice(format!("{item} was dropped from the outbox by an operator"));
    Reply::json(&json!({ "dropped": item.to_string() }))
}

fn item(name: &str) -> Result<Item, Reply> {
    name.parse().map_err(|e| Reply::error(StatusCode::BAD_REQUEST, format!("{e}\n")))
}

fn none(item: &Item) -> Reply {
    Reply::error(StatusCode::NOT_FOUND, format!("{item} is not in the outbox\n"))
}

fn show(outbox: &Outbox, item: &Item) -> Option<Value> {
    match item {
        Item::Lease => outbox.lease.waiting().map(|spec| json!({ LEASE.part: spec.ok() })),
        Item::Status(kind, name) => outbox
            .statuses
            .get(kind, name)
            .filter(|changed| changed.sent.is_none())
            .map(|changed| json!({ "uid": changed.uid, "at": age(changed.at), "writes": changed.changes, "patch": changed.patch })),
        Item::Event(number) => {
            let (_, event) = outbox.events.get(*number)?;
            Some(event.map_or(json!({ "error": "it cannot be read" }), |event| {
                let created = event.created.as_ref().map(|(_, body)| Letter::body(body));
                let patched = event.patched.as_ref().map(|(_, patch)| patch);
                json!({ "path": event.path(), "at": age(event.at), "created": created, "patched": patched })
            }))
        }
        Item::Refused(number) => {
            let (_, letter) = outbox.refused.letters().into_iter().find(|(n, _)| n == number)?;
            Some(letter.to_json())
        }
    }
}
