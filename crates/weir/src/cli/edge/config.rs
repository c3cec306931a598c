//! The file of a hub: settings that change while it runs.
use anyhow::anyhow;
use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    node::{self, Value},
    reader::{Object, Reader},
    source::Source,
    text::counted,
};
use weir_edge::{
    filters::chain::FILTERS,
    identity::stamp::Stamp,
    settings::{self, AgentRule, FilterRule},
};

/// A file, and whether it has changed since it was read.
pub struct Config {
    path: PathBuf,
    stamp: Option<Stamp>,
}

impl Config {
    pub fn new(path: PathBuf) -> Config {
        Config { path, stamp: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None`: it is as it was when it was last read, or it cannot be read at the moment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn changed(&mut self) -> Option<Result<settings::File, Vec<Diagnostic>>> {
        let now = Some(Stamp::of([self.path.as_path()]));
        if now == self.stamp {
            return None;
        }
        let text = fs::read_to_string(&self.path).ok()?;
        self.stamp = now;
        Some(read(&self.path, text))
    }

    /// Prints what is wrong with it.
    pub fn bad(&self, findings: &[Diagnostic]) -> anyhow::Error {
        let colour = std::io::stderr().is_terminal();
        findings.iter().for_each(|finding| eprintln!("{}\n", finding.snippet(colour)));
        anyhow!("{} has {}", self.path.display(), counted(findings.len(), "error"))
    }
}

fn read(path: &Path, text: String) -> Result<settings::File, Vec<Diagnostic>> {
    let source = Arc::new(Source::new(path.display().to_string(), text, 1));
    let documents = node::parse(&source).map_err(|d| vec![d])?;
    let reader = Reader::new(source);
    let mut found = settings::File::default();
    for document in documents.iter().filter(|d| d.value != Value::Null) {
        if let Some(root) = reader.root(document).object() {
            file(&root, &mut found);
        }
    }
    let findings = reader.take();
    if findings.iter().any(|d| d.severity == Severity::Error) { Err(findings) } else { Ok(found) }
}

fn file(root: &Object<'_>, into: &mut settings::File) {
    into.pool = root.str("nodePoolName").filter(|name| !name.is_empty()).map(str::to_string);
    for field in root.distinct("filters", "name") {
        let Some(object) = field.object() else { continue };
        let enabled = object.bool("enabled").unwrap_or(true);
        let agents = object.strings("agents").iter().map(|name| settings::agent(name)).collect();
        let Some(name) = object.required("name").and_then(|name| name.str()) else { continue };
        match FILTERS.iter().any(|filter| filter.name == name) {
            true => into.filters.push(FilterRule { name: name.to_string(), enabled, agents }),
            false => {
                let names: Vec<&str> = FILTERS.iter().map(|filter| filter.name).collect();
                field.invalid(format!("there is no filter \"{name}\""), format!("one of {}", names.join(", ")));
            }
        }
    }
    for field in root.distinct("agents", "name") {
        let Some(object) = field.object() else { continue };
        let (keep, ttl) = (object.bool("keep").unwrap_or(true), object.duration("ttl"));
        let Some(name) = object.required("name").and_then(|name| name.str()) else { continue };
        match settings::agent(name) {
            agent if agent.is_empty() || name.contains('/') => {
                field.invalid(
                    format!("\"{name}\" is not the name of a client"),
                    "what stands before the first slash of its User-Agent, or *",
                );
            }
            agent => into.agents.push(AgentRule { name: agent, keep, ttl }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rules_for_clients_are_read_and_mistakes_named() {
        let read = |text: &str| read(Path::new("edge.yaml"), text.into());
        let rule = |name: &str, keep, ttl| AgentRule { name: name.into(), keep, ttl };
        let text = "agents:\n- name: Calico-Node\n  keep: false\n- name: '*'\n  ttl: 2h\n";
        let wanted = vec![rule("calico-node", false, None), rule("*", true, Some(Duration::from_secs(7200)))];
        assert_eq!(read(text).unwrap().agents, wanted);
        assert_eq!(read("").unwrap(), settings::File::default());
        let text =
            "nodePoolName: p\nfilters:\n- name: servicetopology\n  agents: [My-Proxy/v1]\n- { name: nodeportisolation, enabled: false }\n";
        let found = read(text).unwrap();
        let filter = |name: &str, enabled, agents: &[&str]| FilterRule {
            name: name.into(),
            enabled,
            agents: agents.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(found.filters, [filter("servicetopology", true, &["my-proxy"]), filter("nodeportisolation", false, &[])]);
        assert_eq!(found.pool.as_deref(), Some("p"));
        for (text, says) in [
            ("agents: [{ keep: false }]", "name"),
            ("agents: [{ name: a/b }]", "is not the name of a client"),
            ("agents: [{ name: a }, { name: a }]", "another one before has this name"),
            ("agents: [{ name: a, ttl: 5 }]", "a duration needs a unit"),
            ("agent: []", "agent"),
            ("filters: [{ name: topology }]", "there is no filter \"topology\""),
            ("filters: [{ enabled: false }]", "name"),
        ] {
            let findings = read(text).unwrap_err();
            assert!(findings.iter().any(|d| d.message.contains(says)), "{text}: {findings:?}");
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.yaml");
        let mut config = Config::new(path.clone());
        assert!(config.changed().is_none());
        for (i, text) in ["agents: [{ name: a }]", "agents: [{ name: bb }]"].into_iter().enumerate() {
            fs::write(&path, text).unwrap();
            assert_eq!(config.changed().unwrap().unwrap().agents[0].name.len(), i + 1);
            assert!(config.changed().is_none());
        }
    }

    #[test]
    fn the_files_of_the_documents_are_read() {
        let documents = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/edge.md");
        let text = std::fs::read_to_string(documents).unwrap();
        let files: Vec<&str> = text.split("```yml\n").skip(1).filter_map(|part| part.split("```").next()).collect();
        let settings: Vec<&str> = files.into_iter().filter(|file| !file.contains("apiVersion:")).collect();
        assert_eq!(settings.len(), 2);
        for file in settings {
            read(Path::new("edge.yaml"), file.to_string()).unwrap_or_else(|found| panic!("{file}{found:?}"));
        }
    }
}
