//! The JSON in Nacos' messages, as far as it is read.
use super::{UNREGISTERED, payload::Payload};
use crate::{
    api::labels::Labels,
    registry::{connect::FollowError, service::Instance},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;

/// In the message about a connection that the server does not know.
pub const NOT_REGISTERED: &str = "does not know this connection";

#[derive(Deserialize)]
pub struct ServiceList {
    #[serde(rename = "serviceNames", default)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    group_name: String,
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Rises with every version.
    #[serde(default)]
    pub last_ref_time: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Host {
    pub ip: String,
    pub port: i64,
    #[serde(default = "one")]
    pub weight: f64,
    #[serde(default = "yes")]
    pub healthy: bool,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    metadata: Option<BTreeMap<String, Value>>,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

impl Host {
    pub fn instance(self) -> Instance {
        let texts = self.metadata.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?.to_string())));
        // A port that is none leaves the instance out.
        Instance { address: self.ip, port: u16::try_from(self.port).unwrap_or(0), weight: self.weight, metadata: texts.collect::<Labels>() }
    }
}

impl ServiceInfo {
    /// The group and the name. Some servers write both as the name.
    pub fn key(&self) -> (String, String) {
        match self.name.split_once("@@") {
            Some((group, name)) => (group.into(), name.into()),
            None => (self.group_name.clone(), self.name.clone()),
        }
    }
}

/// The body of an answer that is no error.
pub fn checked(asked: &str, answer: &Payload) -> Result<Value, FollowError> {
    let body = answer.json().map_err(FollowError::protocol)?;
    let failed = answer.kind == "ErrorResponse" || body["resultCode"].as_i64().is_some_and(|code| code != 200);
    if !failed {
        return Ok(body);
    }
    let code = body["errorCode"].as_i64().unwrap_or_default();
    let said = body["message"].as_str().unwrap_or_default();
    Err(FollowError::Protocol(match code {
        UNREGISTERED => format!("the server {NOT_REGISTERED}"),
        _ => format!("{asked} is answered with the error {code}: {said}"),
    }))
}

pub fn read<T: DeserializeOwned>(body: Value) -> Result<T, FollowError> {
    serde_json::from_value(body).map_err(FollowError::protocol)
}

/// The field `serviceInfo`; one that is missing is a service without instances.
pub fn service_info(mut body: Value) -> Result<ServiceInfo, FollowError> {
    match body["serviceInfo"].take() {
        Value::Null => Ok(ServiceInfo { name: String::new(), group_name: String::new(), hosts: Vec::new(), last_ref_time: 0 }),
        info => read(info),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_and_services() {
        let payload = |kind: &str, body: Value| Payload::new(kind, &[], &body);
        assert!(checked("A", &payload("AResponse", json!({ "resultCode": 200 }))).is_ok());
        assert!(checked("A", &payload("AResponse", json!({}))).is_ok());
        let failed = |code: i64| checked("A", &payload("ErrorResponse", json!({ "resultCode": 500, "errorCode": code, "message": "no" })));
        assert_eq!(failed(403).unwrap_err().to_string(), "A is answered with the error 403: no");
        assert!(failed(301).unwrap_err().to_string().contains(NOT_REGISTERED));
        let body =
            json!({ "serviceInfo": { "name": "G@@s", "hosts": [{ "ip": "10.0.0.1", "port": 80, "metadata": { "a": "b", "n": 1 } }] } });
        let info = service_info(body).unwrap();
        assert_eq!(info.key(), ("G".into(), "s".into()));
        let made = info.hosts[0].clone().instance();
        assert_eq!((made.port, made.weight, made.metadata.len()), (80, 1.0, 1));
        assert_eq!(service_info(json!({})).unwrap().hosts.len(), 0);
    }
}
