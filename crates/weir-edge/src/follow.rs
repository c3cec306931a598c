//! Objects that the hub itself needs. It lists and watches them as a client of the node does, so they are kept and known without the link.
pub(crate) mod filter_context;
pub mod yurt_hub_cfg;

use crate::{
    apimachinery::{
        event::{Event, EventKind},
        frame::{MAX_FRAME, Splitter},
        media::Encoding,
        object::Object,
    },
    body::{Body, whole},
    hub::Hub,
    random::between,
    store::ObjectName,
};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Objects in JSON, by namespace and name.
pub type Objects = BTreeMap<ObjectName, Value>;

/// Bytes of a list.
const MAX_LIST: usize = 64 << 20;
/// The wait after a watch has ended, and after failures in a row.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// The wait after the API server has refused the list.
const REFUSED: Duration = Duration::from_secs(300);

/// Why a list was not read.
enum Failed {
    /// The node may not read it, or there is no such resource.
    Refused,
    Unavailable,
}

/// Follows a collection for as long as the future is polled. `path` is the path of the list, with its selectors; `changed` gets all
/// objects at first and after each change.
pub async fn follow(hub: &Arc<Hub>, path: &str, mut changed: impl FnMut(&Objects) + Send) {
    let mut link = hub.remote.changes();
    let mut failures = 0;
    loop {
        link.mark_unchanged();
        let wait = match list(hub, path).await {
            Ok((mut objects, version)) => {
                failures = 0;
                changed(&objects);
                watch(hub, path, &version, &mut objects, &mut changed).await;
                WAIT.0
            }
            Err(Failed::Refused) => REFUSED,
            Err(Failed::Unavailable) => {
                failures += 1;
                (WAIT.0 * (1 << failures.min(9))).min(WAIT.1)
            }
        };
        // A change of the link cuts the wait short.
        let _ = timeout(wait, link.changed()).await;
        // Many hubs lose the link at the same time.
        sleep(between(Duration::ZERO, WAIT.0)).await;
    }
}

async fn list(hub: &Hub, path: &str) -> Result<(Objects, String), Failed> {
    let response = hub.get(path).await;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Err(Failed::Refused),
        _ => return Err(Failed::Unavailable),
    }
    let body = whole(response.into_body(), MAX_LIST).await.map_err(|_| Failed::Unavailable)?;
    let mut list: Value = serde_json::from_slice(&body).map_err(|_| Failed::Unavailable)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let items = match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    Ok((items.into_iter().map(|object| (name_of(&object), object)).collect(), version))
}

/// Follows a watch until it ends.
async fn watch(hub: &Hub, path: &str, version: &str, objects: &mut Objects, changed: &mut impl FnMut(&Objects)) {
    let separator = if path.contains('?') { '&' } else { '?' };
    let response = hub.get(&format!("{path}{separator}watch=true&resourceVersion={version}")).await;
    let Ok(mut frames) = Splitter::new(Encoding::Json, MAX_FRAME) else { return };
    let mut body = match response.status() {
        StatusCode::OK => Response::into_body(response),
        _ => return,
    };
    while let Some(Ok(frame)) = Body::frame(&mut body).await {
        let Ok(data) = frame.into_data() else { continue };
        frames.push(data);
        while let Ok(Some(frame)) = frames.next() {
            let Ok(event) = Event::read(&frame, Encoding::Json) else { return };
            if event.kind == EventKind::Bookmark {
                continue;
            }
            if event.kind == EventKind::Error || !apply(objects, event.kind, &event.object) {
                return;
            }
            changed(objects);
        }
    }
}

/// `false`: the object cannot be read.
fn apply(objects: &mut Objects, kind: EventKind, object: &Object) -> bool {
    let name = ObjectName { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() };
    if kind == EventKind::Deleted {
        objects.remove(&name);
        return true;
    }
    match serde_json::from_slice(object.bytes()) {
        Ok(value) => drop(objects.insert(name, value)),
        Err(_) => return false,
    }
    true
}

fn name_of(object: &Value) -> ObjectName {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_string();
    ObjectName { namespace: text("namespace"), name: text("name") }
}
