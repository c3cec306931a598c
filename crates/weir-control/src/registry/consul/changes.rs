//! Which services a change of checks concerns.
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    #[serde(rename = "Node")]
    pub node: String,
    #[serde(rename = "CheckID")]
    pub id: String,
    #[serde(rename = "Status")]
    pub status: String,
    /// Empty for a check of the node, which concerns every service on it.
    #[serde(rename = "ServiceName", default)]
    pub service: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Concerns {
    All,
    Some(BTreeSet<String>),
}

/// All checks as they were, by node and id: the status and the service.
#[derive(Default)]
pub struct Checks(BTreeMap<(String, String), (String, String)>);

impl Checks {
    pub fn new(all: Vec<Check>) -> Checks {
        Checks(all.into_iter().map(|check| ((check.node, check.id), (check.status, check.service))).collect())
    }

    pub fn update(&mut self, all: Vec<Check>) -> Concerns {
        let now = Checks::new(all);
        let differ = |(key, value): &(&(String, String), &(String, String)), other: &Checks| other.0.get(*key) != Some(*value);
        let come = now.0.iter().filter(|entry| differ(entry, self));
        let gone = self.0.iter().filter(|entry| differ(entry, &now));
        let services: BTreeSet<String> = come.chain(gone).map(|(_, (_, service))| service.clone()).collect();
        *self = now;
        if services.contains("") { Concerns::All } else { Concerns::Some(services) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_concern_their_services() {
        let check = |text: &str| {
            let mut words = text.split(' ').map(str::to_string);
            let mut next = || words.next().unwrap_or_default();
            Check { node: next(), id: next(), status: next(), service: next() }
        };
        let some = |names: &[&str]| Concerns::Some(names.iter().map(|n| n.to_string()).collect());
        let mut checks = Checks::new(vec![check("n serf passing"), check("n a passing web")]);
        for (now, wanted) in [
            (&["n serf passing", "n a passing web"][..], some(&[])),
            (&["n serf passing", "n a critical web"], some(&["web"])),
            (&["n serf passing", "n a critical web", "n b passing api"], some(&["api"])),
            (&["n serf passing", "n b passing api"], some(&["web"])),
            (&["n serf critical", "n b passing api"], Concerns::All),
        ] {
            assert_eq!(checks.update(now.iter().map(|text| check(text)).collect()), wanted, "{now:?}");
        }
    }
}
