//! Settings that change while the hub runs: those of its file, and those of OpenYurt's ConfigMap `yurt-hub-cfg`.
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;

/// The User-Agent of requests of the hub itself. Their answers are always kept.
pub const AGENT: &str = "weir-edge";
/// User agents that OpenYurt keeps answers for without being asked to (v1.4 to v1.7).
const OPENYURT_AGENTS: [&str; 7] = ["kubelet", "kube-proxy", "flanneld", "coredns", "raven-agent-ds", "yurt-tunnel-agent", "yurthub"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub file: File,
    pub yurt_hub: YurtHub,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub agents: Vec<AgentRule>,
    pub filters: Vec<FilterRule>,
    /// The node pool of the node.
    pub pool: Option<String>,
}

/// Whether there is a filter, and for which clients beside those of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    pub name: String,
    pub enabled: bool,
    pub agents: Vec<String>,
}

/// What is kept of the answers to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRule {
    /// As [`agent`] reads it from a User-Agent; `*`: every client without a rule of its own.
    pub name: String,
    pub keep: bool,
    /// Copies that are older are removed.
    pub ttl: Option<Duration>,
}

/// What the ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct YurtHub {
    /// `cache_agents`: `None` if it names nobody.
    pub cache_agents: Option<Vec<String>>,
    /// Clients by the name of a filter: `NAME`, or `filter_NAME` as OpenYurt wrote it up to v1.4.
    pub filters: BTreeMap<String, Vec<String>>,
}

impl YurtHub {
    /// From the data of the ConfigMap.
    pub fn read(data: &BTreeMap<String, String>) -> YurtHub {
        let words = data.get("cache_agents").map(|text| names(text)).unwrap_or_default();
        let others = data.iter().filter(|(key, _)| *key != "cache_agents");
        let filters = others.map(|(key, text)| (key.strip_prefix("filter_").unwrap_or(key).to_string(), names(text)));
        YurtHub { cache_agents: (!words.is_empty()).then_some(words), filters: filters.filter(|(_, names)| !names.is_empty()).collect() }
    }

    /// Whether answers to a client are kept. Without the ConfigMap they all are; where it names clients, those and OpenYurt's own are.
    pub fn keeps(&self, agent: &str) -> bool {
        match &self.cache_agents {
            None => true,
            Some(names) => {
                names.iter().any(|name| name == "*" || name == agent)
                    || OPENYURT_AGENTS.contains(&agent)
                    || agent.starts_with("multiplexer-proxy-")
            }
        }
    }
}

/// A list with commas.
pub fn names(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

/// The client that a User-Agent names: what stands before the first slash, as OpenYurt reads it.
pub fn agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default().trim();
    name.chars().filter(|c| !c.is_control()).take(MAX_AGENT).flat_map(char::to_lowercase).collect()
}

/// Characters of the name of a client.
const MAX_AGENT: usize = 64;

impl Settings {
    /// The rule for a client: its own, else that of `*`, else what the ConfigMap says.
    pub fn rule(&self, agent: &str) -> AgentRule {
        let of = |name: &str| self.file.agents.iter().find(|rule| rule.name == name).cloned();
        let other = || AgentRule { name: agent.to_string(), keep: self.yurt_hub.keeps(agent), ttl: None };
        if agent == AGENT {
            return AgentRule { name: agent.to_string(), keep: true, ttl: None };
        }
        of(agent).or_else(|| of("*")).unwrap_or_else(other)
    }
}

/// Sets a part of the settings, if it is another one than before.
pub fn set<T: PartialEq>(settings: &watch::Sender<Settings>, part: impl Fn(&mut Settings) -> &mut T, value: T) {
    settings.send_if_modified(|settings| {
        let part = part(settings);
        let changed = *part != value;
        if changed {
            *part = value;
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_named_as_openyurt_names_them() {
        for (text, name) in [
            ("kubelet/v1.34.0 (linux/amd64) kubernetes/abc", "kubelet"),
            ("Kube-Proxy/v1", "kube-proxy"),
            ("curl", "curl"),
            ("", ""),
            ("a b/1", "a b"),
        ] {
            assert_eq!(agent(text), name, "{text}");
        }
        assert_eq!(agent(&"x".repeat(1000)).len(), MAX_AGENT);
    }

    #[test]
    fn the_file_comes_before_the_config_map() {
        let read = |text: &str| YurtHub::read(&[("cache_agents".to_string(), text.to_string())].into());
        let rule = |name: &str, keep| AgentRule { name: name.into(), keep, ttl: None };
        let table: [(&[AgentRule], &str, &str, bool); 10] = [
            (&[rule("*", false), rule(AGENT, false)], "a", AGENT, true),
            (&[], "", "anything", true),
            (&[], " , ", "anything", true),
            (&[], "a, B", "b", true),
            (&[], "a", "c", false),
            (&[], "a", "kubelet", true),
            (&[], "a", "multiplexer-proxy-edge-1", true),
            (&[], "*", "c", true),
            (&[rule("*", false), rule("a", true)], "", "a", true),
            (&[rule("*", false), rule("a", true)], "b", "b", false),
        ];
        for (rules, cache_agents, agent, keep) in table {
            let settings = Settings { file: File { agents: rules.to_vec(), ..File::default() }, yurt_hub: read(cache_agents) };
            assert_eq!(settings.rule(agent).keep, keep, "{rules:?} {cache_agents:?} {agent}");
        }
        assert_eq!(YurtHub::read(&BTreeMap::new()), YurtHub::default());
        let data = [("servicetopology", "foo, Bar"), ("filter_masterservice", "foo"), ("discardcloudservice", ""), ("cache_agents", "x")];
        let read = YurtHub::read(&data.map(|(key, text)| (key.to_string(), text.to_string())).into());
        let filters = [("masterservice", vec!["foo"]), ("servicetopology", vec!["foo", "bar"])];
        assert_eq!(read.filters, filters.map(|(key, names)| (key.to_string(), names.into_iter().map(str::to_string).collect())).into());
    }
}
