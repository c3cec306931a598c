//! Reads OpenYurt's ConfigMap `yurt-hub-cfg` through the hub itself, so that it is kept and known without the link.
use crate::{
    follow::{self, Objects},
    hub::Hub,
    settings::{self, YurtHub},
};
use std::{collections::BTreeMap, sync::Arc};

const NAME: &str = "yurt-hub-cfg";

/// Reads it for as long as the future is polled.
pub async fn run(hub: Arc<Hub>, namespace: String) {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{NAME}");
    follow::follow(&hub, &path, |objects| {
        let found = YurtHub::read(&data(objects));
        settings::set(&hub.settings, |settings| &mut settings.yurt_hub, found);
    })
    .await;
}

fn data(objects: &Objects) -> BTreeMap<String, String> {
    let entries = objects.values().filter_map(|object| object["data"].as_object()).flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string()))).collect()
}
