//! `forwardkubesvctraffic`: the EndpointSlice of `default/kubernetes` has the hub as its only endpoint, so that pods which connect to that
//! Service reach the hub.
use super::{context::Context, draft::Draft, masterservice::set_port, outcome::Outcome};
use crate::apimachinery::schema::ContentError;
use serde_json::json;

pub const NAME: &str = "forwardkubesvctraffic";

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    let Some(hub) = context.hub else { return Ok(Outcome::Keep) };
    draft.edit(|slice| {
        let family = if hub.is_ipv4() { "IPv4" } else { "IPv6" };
        if slice["addressType"] != family {
            return false;
        }
        let Some(slice) = slice.as_object_mut() else { return false };
        set_port(slice.get_mut("ports"), hub.port());
        slice.insert("endpoints".into(), json!([{ "addresses": [hub.ip().to_string()], "conditions": { "ready": true } }]));
        true
    })?;
    Ok(Outcome::Keep)
}
