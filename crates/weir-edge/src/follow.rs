//! Objects that the hub itself needs. It lists and watches them as a client of the node does, so they are kept and known without the link.
pub(crate) mod filter_context;
pub(crate) mod pool_peers;
pub mod yurt_hub_cfg;

use crate::{
    apimachinery::{
        event::{Event, EventKind},
        frame::{MAX_FRAME, Splitter},
        list::List,
        media::{Encoding, MediaType},
        object::Object,
        request::RequestInfo,
    },
    body::whole,
    cache::media_of,
    hub::Hub,
    random::{backoff, between},
    store::ObjectName,
};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// What is read of the objects, by namespace and name.
pub type Objects<T> = BTreeMap<ObjectName, T>;

/// Bytes of a list.
const MAX_LIST: usize = 64 << 20;
/// The wait after a watch has ended, and the longest one after failures in a row.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// The wait after the API server has refused the list: the right may be granted, or the kind defined, at any time.
pub const REFUSED: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(30));

/// Why a list was not read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("the node may not read it, or there is no such resource")]
    Refused,
    #[error("the API server does not answer, and nothing was kept")]
    Unavailable,
}

/// Follows a collection for as long as the future is polled. `path` is the path of the list, with its selectors. `read` takes from an
/// object what is needed of it, so that nothing else stays in memory; `None`: the object does not matter. `changed` gets all of that at
/// first and after each change.
pub async fn follow<T: PartialEq + Send>(
    hub: &Arc<Hub>,
    path: &str,
    read: impl Fn(&Object) -> Option<T> + Send + Sync,
    mut changed: impl FnMut(&Objects<T>) + Send,
) {
    let mut link = hub.remote.changes();
    let mut failures = 0;
    loop {
        link.mark_unchanged();
        let media = media(hub, path);
        let wait = match list(hub, path, media, &read).await {
            Ok((mut objects, version)) => {
                failures = 0;
                changed(&objects);
                watch(hub, path, media, &version, &mut objects, &read, &mut changed).await;
                WAIT.0
            }
            Err(Failed::Refused) => between(REFUSED.0, REFUSED.1),
            Err(Failed::Unavailable) => {
                failures += 1;
                backoff(WAIT.0, WAIT.1, failures)
            }
        };
        // A change of the link cuts the wait short.
        let _ = timeout(wait, link.changed()).await;
        // Many hubs lose the link at the same time.
        sleep(between(Duration::ZERO, WAIT.0)).await;
    }
}

/// The media type in which a list is read: that in which clients share it already, if they do.
fn media(hub: &Hub, path: &str) -> MediaType {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    match RequestInfo::read(&Method::GET, path, query) {
        RequestInfo::Resource(request) if hub.share.has_stream(&request.resource, MediaType::PROTOBUF) => MediaType::PROTOBUF,
        _ => MediaType::JSON,
    }
}

/// Adds parameters to a path.
fn with(path: &str, parameters: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{parameters}")
}

/// Reads a collection in JSON once.
pub(crate) async fn read<T>(hub: &Hub, path: &str, read: impl Fn(&Object) -> Option<T>) -> Result<Objects<T>, Failed> {
    list(hub, path, MediaType::JSON, &read).await.map(|(objects, _)| objects)
}

async fn list<T>(hub: &Hub, path: &str, media: MediaType, read: &impl Fn(&Object) -> Option<T>) -> Result<(Objects<T>, String), Failed> {
    let accept = media.accept(true);
    // Any version will do: the watch brings what is newer. So it may come from what clients share.
    let response = hub.get(&with(path, "resourceVersion=0"), &accept).await;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Err(Failed::Refused),
        _ => return Err(Failed::Unavailable),
    }
    let encoding = media_of(&accept, &response).map_or(Encoding::Json, |media| media.encoding);
    let body = whole(response.into_body(), MAX_LIST).await.map_err(|_| Failed::Unavailable)?;
    let List { head, items } = List::split(&body, encoding).map_err(|_| Failed::Unavailable)?;
    let objects = items.iter().filter_map(|object| Some((name_of(object), read(object)?))).collect();
    Ok((objects, head.resource_version))
}

/// Follows a watch until it ends.
async fn watch<T: PartialEq>(
    hub: &Hub,
    path: &str,
    media: MediaType,
    version: &str,
    objects: &mut Objects<T>,
    read: &impl Fn(&Object) -> Option<T>,
    changed: &mut impl FnMut(&Objects<T>),
) {
    let accept = media.accept(false);
    let response = hub.get(&with(path, &format!("watch=true&resourceVersion={version}")), &accept).await;
    let encoding = media_of(&accept, &response).map_or(Encoding::Json, |media| media.encoding);
    let Ok(mut frames) = Splitter::new(encoding, MAX_FRAME) else { return };
    if response.status() != StatusCode::OK {
        return;
    }
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        frames.push(data);
        while let Ok(Some(frame)) = frames.next() {
            let Ok(event) = Event::read(&frame, encoding) else { return };
            let value = match event.kind {
                EventKind::Bookmark => continue,
                EventKind::Error => return,
                EventKind::Deleted => None,
                EventKind::Added | EventKind::Modified => read(&event.object),
            };
            if apply(objects, name_of(&event.object), value) {
                changed(objects);
            }
        }
    }
}

/// Whether it was another value.
fn apply<T: PartialEq>(objects: &mut Objects<T>, name: ObjectName, value: Option<T>) -> bool {
    match value {
        Some(value) if objects.get(&name) == Some(&value) => false,
        Some(value) => {
            objects.insert(name, value);
            true
        }
        None => objects.remove(&name).is_some(),
    }
}

fn name_of(object: &Object) -> ObjectName {
    ObjectName { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() }
}

/// An object in JSON: what is read in media types that the hub has no schema for.
pub fn value(object: &Object) -> Option<serde_json::Value> {
    serde_json::from_slice(object.bytes()).ok()
}
