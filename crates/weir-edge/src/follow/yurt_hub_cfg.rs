//! Reads OpenYurt's ConfigMap `yurt-hub-cfg` through the hub itself, so that it is kept and known without the link.
use crate::{
    apimachinery::object::Object,
    follow::{follow, value},
    hub::Hub,
    settings::{self, YurtHub},
};
use std::{collections::BTreeMap, sync::Arc};

const NAME: &str = "yurt-hub-cfg";

/// Reads it for as long as the future is polled.
pub async fn run(hub: Arc<Hub>, namespace: String) {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{NAME}");
    follow(&hub, &path, data, |maps| {
        let found = YurtHub::read(&maps.values().next().cloned().unwrap_or_default());
        settings::set(&hub.settings, |settings| &mut settings.yurt_hub, found);
    })
    .await;
}

fn data(object: &Object) -> Option<BTreeMap<String, String>> {
    let object = value(object)?;
    let entries = object["data"].as_object().into_iter().flatten();
    Some(entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string()))).collect())
}
