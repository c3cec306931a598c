//! The applications of a Eureka server, and the changes of them.
use crate::registry::service::Instance;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
pub struct Answer {
    applications: Listed,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "apps__hashcode", default)]
    hash: String,
    #[serde(rename = "application", default, deserialize_with = "one_or_more")]
    all: Vec<Application>,
}

#[derive(Deserialize)]
struct Application {
    name: String,
    #[serde(rename = "instance", default, deserialize_with = "one_or_more")]
    instances: Vec<Registered>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    #[serde(default)]
    instance_id: Option<String>,
    host_name: String,
    ip_addr: String,
    status: String,
    #[serde(default)]
    port: Option<Port>,
    #[serde(default)]
    secure_port: Option<Port>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    action_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: Value,
    #[serde(rename = "@enabled")]
    enabled: Value,
}

impl Port {
    fn number(&self) -> Option<u16> {
        let on = self.enabled == true || self.enabled == "true";
        let number = self.number.as_u64().or_else(|| self.number.as_str()?.parse().ok());
        number.filter(|_| on).and_then(|n| u16::try_from(n).ok())
    }
}

/// Some servers write a list of one as that one.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        More(Vec<T>),
        One(T),
    }
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::More(all) => all,
        OneOrMore::One(one) => vec![one],
    })
}

/// By application and instance.
#[derive(Default)]
pub struct Applications(BTreeMap<String, BTreeMap<String, Registered>>);

impl Applications {
    pub fn new(answer: Answer) -> Applications {
        let mut all = Applications::default();
        for application in answer.applications.all {
            let known = all.0.entry(application.name).or_default();
            known.extend(application.instances.into_iter().map(|instance| (instance.id(), instance)));
        }
        all
    }

    /// Takes over changes; returns the names of the applications that changed. `None` where what is known then is not what the server
    /// has: its hash is another one.
    pub fn apply(&mut self, delta: Answer) -> Option<BTreeSet<String>> {
        let mut changed = BTreeSet::new();
        for application in delta.applications.all {
            let known = self.0.entry(application.name.clone()).or_default();
            for instance in application.instances {
                match instance.action_type.as_deref() {
                    Some("DELETED") => _ = known.remove(&instance.id()),
                    _ => _ = known.insert(instance.id(), instance),
                }
            }
            if known.is_empty() {
                self.0.remove(&application.name);
            }
            changed.insert(application.name);
        }
        (self.hash() == delta.applications.hash).then_some(changed)
    }

    /// How many instances there are of each status: `DOWN_1_UP_4_`.
    fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in self.0.values().flat_map(BTreeMap::values) {
            *counts.entry(&instance.status).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Those that are up; `None` where there is no such application.
    pub fn instances(&self, application: &str) -> Option<Vec<Instance>> {
        let all = self.0.get(application)?.values().filter(|instance| instance.status == "UP");
        Some(all.filter_map(Registered::instance).collect())
    }
}

impl Registered {
    fn id(&self) -> String {
        self.instance_id.clone().unwrap_or_else(|| self.host_name.clone())
    }

    fn instance(&self) -> Option<Instance> {
        let port = self.port.as_ref().and_then(Port::number).or_else(|| self.secure_port.as_ref().and_then(Port::number))?;
        let texts = self.metadata.iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string())));
        Some(Instance { address: self.ip_addr.clone(), port, weight: 1.0, metadata: texts.collect() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn instance(id: &str, port: u64, status: &str, action: &str) -> Value {
        json!({
            "instanceId": id, "hostName": "h", "ipAddr": "10.0.0.1", "status": status, "actionType": action,
            "port": { "$": port, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" },
            "metadata": { "@class": "java.util.Collections$EmptyMap", "zone": "a" },
        })
    }

    fn answer(hash: &str, applications: Value) -> Answer {
        serde_json::from_value(json!({ "applications": { "versions__delta": "1", "apps__hashcode": hash, "application": applications } }))
            .unwrap()
    }

    #[test]
    fn deltas_are_taken_over_while_the_hash_fits() {
        let mut known = Applications::new(answer(
            "DOWN_1_UP_2_",
            json!([
                { "name": "A", "instance": [instance("1", 80, "UP", "ADDED"), instance("2", 81, "DOWN", "ADDED")] },
                // A list of one.
                { "name": "B", "instance": instance("3", 82, "UP", "ADDED") },
            ]),
        ));
        let ports = |known: &Applications, name: &str| known.instances(name).map(|all| all.iter().map(|i| i.port).collect::<Vec<_>>());
        assert_eq!((ports(&known, "A"), ports(&known, "B"), known.hash()), (Some(vec![80]), Some(vec![82]), "DOWN_1_UP_2_".into()));
        assert_eq!(known.instances("A").unwrap()[0].metadata.get("zone").map(String::as_str), Some("a"));
        let changes = json!([
            { "name": "A", "instance": [instance("2", 81, "UP", "MODIFIED")] },
            { "name": "B", "instance": [instance("3", 82, "UP", "DELETED")] },
            { "name": "C", "instance": [instance("4", 83, "UP", "ADDED")] },
        ]);
        let changed = known.apply(answer("UP_3_", changes.clone())).unwrap();
        assert_eq!(changed, ["A", "B", "C"].map(String::from).into());
        assert_eq!((ports(&known, "A"), ports(&known, "B"), ports(&known, "C")), (Some(vec![80, 81]), None, Some(vec![83])));
        // The same delta again, as servers keep it for minutes.
        assert!(known.apply(answer("UP_3_", changes)).is_some());
        assert!(known.apply(answer("UP_4_", json!([]))).is_none(), "a change was missed");
        assert!(serde_json::from_value::<Answer>(json!({ "applications": { "apps__hashcode": "" } })).is_ok());
    }
}
