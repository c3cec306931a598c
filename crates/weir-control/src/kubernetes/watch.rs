//! Drives the watch of one kind: from the versions that the server may have it in to events of [`Held`](super::held::Held), for as
//! long as the process lives.
use super::{
    client::WATCH_SECONDS,
    fetched::{Fetched, Reader, Served},
    held::Event,
    state::{ScopeId, Shared},
    trouble::Trouble,
};
use crate::object::{Kind, KindInfo};
use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{self, watcher},
};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Between two looks for a kind that is not installed, where no word of its CustomResourceDefinition comes.
const MAX_ABSENT_DELAY: Duration = Duration::from_secs(30);
/// Between two looks at the server, and how long it may take to answer.
const PROBE: Duration = Duration::from_secs(5);

/// Objects that can be large and of which Weir has no use are not even sent. The `first` list may come from the server's cache, as in
/// client-go: it is there at once, and the watch brings what is newer. Later ones must not be older than what was seen.
fn config(info: &KindInfo, name: Option<&str>, streaming: bool, first: bool) -> watcher::Config {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let config = match (name, info.kind) {
        (Some(name), _) => config.fields(&format!("metadata.name={name}")),
        (None, Kind::Secret) => config.fields(
            "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=bootstrap.kubernetes.io/token,type!=kubernetes.io/ssh-auth",
        ),
        _ => config,
    };
    match (streaming, first) {
        (true, _) => config.streaming_lists(),
        (false, true) => config.any_semantic(),
        (false, false) => config,
    }
}

fn longer(delay: &mut Duration, most: Duration) -> Duration {
    let now = *delay;
    *delay = (now * 2).min(most);
    now
}

/// Follows one kind in one namespace, or in all of them.
pub async fn follow(id: ScopeId, client: Client, shared: Arc<Shared>) {
    let (info, namespace, name) = shared.scope(id);
    shared.wanted(id).await;
    let (mut version, mut streaming, mut first) = (0, true, true);
    let (mut delay, mut absent_delay) = (FIRST_DELAY, FIRST_DELAY);
    loop {
        let served = Served { info, version: info.versions[version] };
        shared.reads(id, served.version);
        let api: Api<Fetched> = match namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &served),
            None => Api::all_with(client.clone(), &served),
        };
        let mut events = pin!(watcher(api, config(info, name.as_deref(), streaming, first)));
        let mut listing = streaming;
        while let Some(event) = events.next().await {
            let trouble = match event {
                Ok(event) => {
                    let begins = matches!(event, watcher::Event::Init);
                    first &= !matches!(event, watcher::Event::InitDone);
                    listing = streaming && (begins || listing && !matches!(event, watcher::Event::InitDone));
                    // A list that breaks off each time is not asked for at once each time.
                    if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                        (delay, absent_delay) = (FIRST_DELAY, FIRST_DELAY);
                    }
                    shared.event(id, decode(info, event, shared.reader()));
                    continue;
                }
                Err(error) => Trouble::of(&error, listing),
            };
            match trouble {
                // A new list begins.
                Trouble::Gone => {
                    sleep(longer(&mut delay, MAX_DELAY)).await;
                    break;
                }
                Trouble::NoStreamingList => {
                    streaming = false;
                    break;
                }
                Trouble::NotFound => {
                    version = (version + 1) % info.versions.len();
                    if version == 0 {
                        shared.absent(id);
                        if timeout(absent_delay, shared.installed(id)).await.is_ok() {
                            absent_delay = FIRST_DELAY;
                        }
                        sleep(FIRST_DELAY).await;
                        longer(&mut absent_delay, MAX_ABSENT_DELAY);
                    }
                    break;
                }
                trouble => {
                    shared.trouble(id, trouble);
                    sleep(longer(&mut delay, MAX_DELAY)).await;
                }
            }
        }
    }
}

fn decode(info: &'static KindInfo, event: watcher::Event<Fetched>, reader: &Reader) -> Event {
    match event {
        watcher::Event::Init => Event::Init,
        watcher::Event::InitApply(fetched) => Event::InitApply(reader.read(info, fetched)),
        watcher::Event::InitDone => Event::InitDone,
        watcher::Event::Apply(fetched) => Event::Apply(reader.read(info, fetched)),
        watcher::Event::Delete(fetched) => Event::Delete(Reader::key(info, &fetched)),
    }
}

/// Follows the names of CustomResourceDefinitions, so that a kind is found as soon as it is installed, and the release of Gateway API.
pub async fn follow_definitions(client: Client, shared: Arc<Shared>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let mut events = pin!(watcher(api, watcher::Config::default().timeout(WATCH_SECONDS)));
    let mut delay = FIRST_DELAY;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(definition) | watcher::Event::InitApply(definition)) => {
                let bundle = definition.annotations().get("gateway.networking.k8s.io/bundle-version").map(String::as_str);
                shared.definition(&definition.name_any(), bundle);
                delay = FIRST_DELAY;
            }
            Ok(watcher::Event::InitDone) => shared.definitions_trouble(None),
            Ok(_) => {}
            Err(error) => {
                shared.definitions_trouble(Some(Trouble::of(&error, false)));
                sleep(longer(&mut delay, MAX_ABSENT_DELAY)).await;
            }
        }
    }
}

/// Asks the server for a sign of life: a watch says nothing of a server that hangs.
pub async fn probe(client: Client, shared: Arc<Shared>) {
    loop {
        let down = match timeout(PROBE, client.apiserver_version()).await {
            // That it refuses to say is a sign of life, too.
            Ok(Ok(_) | Err(kube::Error::Api(_))) => None,
            Ok(Err(error)) => Some(super::client::text(&error)),
            Err(_) => Some(format!("no answer within {} seconds", PROBE.as_secs())),
        };
        shared.probed(down);
        let _ = timeout(PROBE, shared.suspected()).await;
    }
}
