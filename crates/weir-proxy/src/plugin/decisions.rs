//! Rollbacks that outlive the process, with the code that served before, in a folder beside the cache. A file that cannot be
//! read counts as absent.
use super::Generation;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};
use weir_config::model::{PluginConfiguration, WasmPlugin};
use weir_net::tls::hex_digest;

/// Most bytes of a decision's file; its configuration is most of it.
const MAX_BYTES: u64 = 1 << 20;

pub struct Decisions(PathBuf);

/// That this version of a plugin was taken back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decision {
    plugin: String,
    digest: String,
    object: String,
    pub reason: String,
    /// What served again; `None` for a canary.
    pub previous: Option<Previous>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Previous {
    pub digest: String,
    settings: String,
    /// `None` where it has values of Secrets: these are not written down.
    configuration: Option<String>,
}

impl Previous {
    /// With which the version started; `None` where it cannot be known.
    pub fn configuration_for(&self, wanted: &WasmPlugin) -> Option<PluginConfiguration> {
        if self.settings == settings(wanted) {
            return Some(wanted.configuration.clone());
        }
        self.configuration.as_deref().map(Into::into)
    }
}

impl Decision {
    pub fn of(taken_back: &Generation, previous: Option<&Generation>, reason: &str) -> Decision {
        let plugin = &taken_back.plugin;
        let previous = previous.map(|previous| Previous {
            digest: previous.digest.clone(),
            settings: settings(&previous.plugin),
            configuration: Some(&previous.plugin)
                .filter(|of| (&of.root_id, &of.environment) == (&plugin.root_id, &plugin.environment) && !of.configuration.has_secrets())
                .map(|of| of.configuration.to_string()),
        });
        Decision {
            plugin: plugin.name.to_string(),
            digest: taken_back.digest.clone(),
            object: object(plugin),
            reason: reason.into(),
            previous,
        }
    }
}

/// A digest of what a guest starts with, beside its code; references to Secrets stand for their values.
fn settings(plugin: &WasmPlugin) -> String {
    let mut text = format!("{:?} {:?}", plugin.root_id, plugin.configuration.shown());
    for (name, value) in &plugin.environment {
        text += &format!(" {name:?} {value:?}");
    }
    hex_digest(text.as_bytes())
}

/// A digest of all that the object says but the share of a canary: another limit is another version, too.
fn object(plugin: &WasmPlugin) -> String {
    hex_digest(format!("{} {:?} {:?}", settings(plugin), plugin.limits, plugin.fail_strategy).as_bytes())
}

impl Decisions {
    pub fn open(folder: PathBuf) -> Option<Decisions> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
        Some(Decisions(folder))
    }

    fn file(&self, plugin: &str) -> PathBuf {
        self.0.join(format!("{}.json", hex_digest(plugin.as_bytes())))
    }

    /// Whether this version was taken back. What is known of another version of the plugin is forgotten.
    pub fn find(&self, plugin: &WasmPlugin, digest: &str) -> Option<Decision> {
        let file = self.file(&plugin.name);
        let decision = read(&file)?;
        if decision.plugin == *plugin.name && decision.digest == digest && decision.object == object(plugin) {
            return Some(decision);
        }
        let _ = fs::remove_file(&file);
        None
    }

    pub fn keep(&self, decision: &Decision) -> io::Result<()> {
        place(&self.file(&decision.plugin), &serde_json::to_vec(decision)?)
    }

    /// Keeps the code of a version that begins to serve. Code that is neither `used` nor needed by a decision is removed.
    pub fn keep_code(&self, digest: &str, wasm: &[u8], used: &[String]) -> io::Result<()> {
        let file = self.code_file(digest);
        if !file.exists() {
            place(&file, wasm)?;
        }
        let files: Vec<PathBuf> = fs::read_dir(&self.0)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let is = |file: &Path, wanted: &str| file.extension().is_some_and(|e| e == wanted);
        let decided: Vec<String> = files.iter().filter(|f| is(f, "json")).filter_map(|f| Some(read(f)?.previous?.digest)).collect();
        for file in files.iter().filter(|f| is(f, "wasm")) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            if name != digest && !used.iter().chain(&decided).any(|used| *used == name) {
                let _ = fs::remove_file(file);
            }
        }
        Ok(())
    }

    pub fn code(&self, digest: &str) -> Option<Vec<u8>> {
        let wasm = fs::read(self.code_file(digest)).ok()?;
        (hex_digest(&wasm) == digest).then_some(wasm)
    }

    fn code_file(&self, digest: &str) -> PathBuf {
        self.0.join(format!("{digest}.wasm"))
    }
}

fn read(file: &Path) -> Option<Decision> {
    let small = fs::metadata(file).ok()?.len() <= MAX_BYTES;
    small.then(|| serde_json::from_slice(&fs::read(file).ok()?).ok()).flatten()
}

/// Whole or not at all, and for this user alone.
fn place(file: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let temporary = file.with_extension(format!("{}.{}.tmp", process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed)));
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let written = opened.and_then(|mut f| f.write_all(content)).and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use weir_config::model::{Origin, WasmCode};

    fn plugin(configuration: &str) -> WasmPlugin {
        let code = WasmCode::Unusable { why: String::new() };
        WasmPlugin { configuration: configuration.into(), ..WasmPlugin::new("ns/p".into(), code, Origin::named("p")) }
    }

    fn decision(digest: &str, previous: Option<Previous>) -> Decision {
        Decision { plugin: "ns/p".into(), digest: digest.into(), object: object(&plugin("a")), reason: "it trapped".into(), previous }
    }

    #[test]
    fn a_decision_holds_for_one_version() {
        let folder = tempfile::tempdir().unwrap();
        let decisions = || Decisions::open(folder.path().join("versions")).unwrap();
        assert!(decisions().find(&plugin("a"), "1").is_none());
        for (configuration, digest, found) in [("a", "1", true), ("b", "1", false), ("a", "2", false)] {
            decisions().keep(&decision("1", None)).unwrap();
            let known = decisions().find(&plugin(configuration), digest);
            assert_eq!(known.map(|d| d.reason), found.then(|| "it trapped".to_string()), "{configuration} {digest}");
            // Another version lifts it for good.
            assert_eq!(decisions().find(&plugin("a"), "1").is_some(), found);
        }
        decisions().keep(&decision("1", None)).unwrap();
        fs::write(decisions().file("ns/p"), b"{\"plugin\":").unwrap();
        assert!(decisions().find(&plugin("a"), "1").is_none(), "torn");
    }

    #[test]
    fn code_is_kept_as_long_as_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let decisions = Decisions::open(folder.path().into()).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|code| (hex_digest(code.as_bytes()), code.as_bytes()));
        let keep = |code: &(String, &[u8]), used: &[String]| decisions.keep_code(&code.0, code.1, used).unwrap();
        let kept = || [&a, &b, &c].map(|code| decisions.code(&code.0).is_some());
        keep(&a, &[]);
        keep(&b, std::slice::from_ref(&a.0));
        assert_eq!(kept(), [true, true, false]);
        let previous = Previous { digest: a.0.clone(), settings: settings(&plugin("a")), configuration: Some("old".into()) };
        assert_eq!(previous.configuration_for(&plugin("a")).as_deref(), Some("a"));
        assert_eq!(previous.configuration_for(&plugin("b")).as_deref(), Some("old"));
        decisions.keep(&decision("1", Some(previous))).unwrap();
        keep(&c, &[]);
        assert_eq!(kept(), [true, false, true], "a decision needs the first one");
        fs::write(decisions.code_file(&a.0), b"other").unwrap();
        assert_eq!(kept(), [false, false, true], "other content");
    }
}
