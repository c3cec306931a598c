//! Wasm plugins (`extensions.istio.io` and `extensions.higress.io` WasmPlugin).
use super::{Name, Origin, PluginCanary, PluginScope, Rollback, seconds};
use serde::{Serialize, Serializer};
use std::{borrow::Cow, fmt, ops::Deref, sync::Arc, time::Duration};

/// One plugin with one configuration: the unit that is loaded, started and swapped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WasmPlugin {
    /// `namespace/name` of the object.
    pub name: Name,
    /// The root context to use (`pluginName`, Envoy's `root_id`).
    pub root_id: String,
    /// Plugins with the same id share queues and shared data; empty for the plugin's own name.
    pub vm_id: String,
    pub code: WasmCode,
    /// What the guest reads in `on_configure`, as it stands; Higress' rules already folded in. Empty for none.
    pub configuration: PluginConfiguration,
    pub environment: Vec<(String, String)>,
    pub fail_strategy: FailStrategy,
    pub phase: PluginPhase,
    /// Higher runs first within its phase; `None` runs last. Equal ones run in the order of their names.
    pub priority: Option<i32>,
    pub limits: WasmLimits,
    /// The streams that reach it; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Arc<PluginScope>>,
    /// It takes streams of another plugin in place of being listed itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Arc<PluginCanary>>,
    pub origin: Origin,
}

impl WasmPlugin {
    /// A plugin with every default.
    pub fn new(name: Name, code: WasmCode, origin: Origin) -> WasmPlugin {
        WasmPlugin {
            name,
            root_id: String::new(),
            vm_id: String::new(),
            code,
            configuration: PluginConfiguration::default(),
            environment: Vec::new(),
            fail_strategy: FailStrategy::FailClose,
            phase: PluginPhase::UnspecifiedPhase,
            priority: None,
            limits: WasmLimits::default(),
            scope: None,
            canary: None,
            origin,
        }
    }
}

/// The text of a plugin's configuration. Where values of Secrets stand in it, it is shown with the references in their place.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PluginConfiguration {
    text: String,
    hidden: Option<Arc<Hidden>>,
}

#[derive(PartialEq, Eq)]
struct Hidden {
    /// As it was written.
    shown: String,
    /// The longest first.
    values: Vec<String>,
}

/// Shorter values are words of any message.
const MIN_HIDDEN: usize = 4;
/// Lines of a value that are shorter are not hidden alone.
const MIN_HIDDEN_LINE: usize = 8;
const REDACTED: &str = "[redacted]";

/// The texts that give a value away: all of it, without the white space around it, on one line, each of its lines, and all that as JSON
/// escapes it.
fn forms(value: &str) -> impl Iterator<Item = String> + use<> {
    let lines = value.lines().map(str::trim).filter(|l| l.len() >= MIN_HIDDEN_LINE).map(str::to_string);
    let whole = [value, value.trim()].into_iter().flat_map(|v| [v.to_string(), v.replace('\n', " ")]);
    let all: Vec<_> = whole.chain(lines).collect();
    all.into_iter().flat_map(|v| {
        let quoted = serde_json::Value::from(v.as_str()).to_string();
        [quoted[1..quoted.len() - 1].to_string(), v]
    })
}

impl PluginConfiguration {
    /// `text` with the values in the places of the references that `shown` has.
    pub fn with_secrets(text: String, shown: String, values: impl IntoIterator<Item = String>) -> PluginConfiguration {
        let mut values: Vec<String> = values.into_iter().flat_map(|v| forms(&v)).filter(|v| v.len() >= MIN_HIDDEN).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        PluginConfiguration { text, hidden: Some(Arc::new(Hidden { shown, values })) }
    }

    /// Whether values of Secrets stand in it.
    pub fn has_secrets(&self) -> bool {
        self.hidden.is_some()
    }

    /// What may be shown.
    pub fn shown(&self) -> &str {
        self.hidden.as_ref().map_or(&self.text, |h| &h.shown)
    }

    /// What the plugin says, without the values of Secrets. Its end may have been cut off: the beginning of a value there is hidden too.
    pub fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(hidden) = &self.hidden else { return Cow::Borrowed(text) };
        let values = &hidden.values;
        let shown = values.iter().fold(Cow::Borrowed(text), |text, value| {
            if text.contains(value.as_str()) { text.replace(value, REDACTED).into() } else { text }
        });
        // A cut within a character leaves a replacement character.
        let end = shown.trim_end_matches(char::REPLACEMENT_CHARACTER);
        match values.iter().map(|value| cut_value(end, value)).max() {
            Some(part @ 1..) => format!("{}{REDACTED}", &end[..end.len() - part]).into(),
            _ => shown,
        }
    }
}

/// How many bytes at the end of a text are the beginning of the value.
fn cut_value(text: &str, value: &str) -> usize {
    let parts = value.char_indices().map(|(at, _)| at).filter(|at| *at >= MIN_HIDDEN);
    parts.rev().find(|at| text.ends_with(&value[..*at])).unwrap_or(0)
}

impl Deref for PluginConfiguration {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<String> for PluginConfiguration {
    fn from(text: String) -> PluginConfiguration {
        PluginConfiguration { text, hidden: None }
    }
}

impl From<&str> for PluginConfiguration {
    fn from(text: &str) -> PluginConfiguration {
        text.to_string().into()
    }
}

impl fmt::Debug for PluginConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

impl Serialize for PluginConfiguration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown().serialize(serializer)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WasmCode {
    /// A path; relative ones start at the folder of the file that names it. The digest of the content is part of the
    /// identity, so that a rewritten file is a change.
    File {
        path: String,
        sha256: String,
    },
    Http {
        url: String,
        sha256: Option<String>,
    },
    Image(Box<WasmImage>),
    /// None can be had: the object is in error and has no good version to go on with. The plugin cannot run, and what that
    /// means for requests is its `fail_strategy`'s to say.
    Unusable {
        why: String,
    },
}

impl WasmCode {
    /// It is fetched.
    pub fn is_remote(&self) -> bool {
        matches!(self, WasmCode::Http { .. } | WasmCode::Image(_))
    }
}

/// An image of a registry (`oci://`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct WasmImage {
    /// `REGISTRY/REPOSITORY:TAG@DIGEST`.
    pub reference: String,
    /// Of the image's manifest, or of the module in it.
    pub sha256: Option<String>,
    pub pull_policy: PullPolicy,
    pub pull_secret: Option<PullSecret>,
    /// PEM; with it, an image that this key has not signed is refused.
    pub verification_key: Option<String>,
    /// Whose object names it: what one namespace may pull, another need not.
    pub namespace: Name,
    /// Differs between versions of the object, where each of them looks the tag up again (`Always`).
    pub version: u64,
}

/// When a registry is asked what a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum PullPolicy {
    /// Only if it was never asked.
    IfNotPresent,
    /// For each version of the object, and when the gateway starts.
    Always,
}

/// A Secret with credentials of registries.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct PullSecret {
    pub name: String,
    /// As `config.json` of Docker.
    #[serde(skip)]
    pub docker_config: String,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    /// 503 while the plugin cannot run.
    #[default]
    FailClose,
    /// As if it were not there.
    FailOpen,
    /// As `FAIL_CLOSE`, but the pause before a new instance does not grow.
    FailReload,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginPhase {
    Authn,
    Authz,
    Stats,
    #[default]
    UnspecifiedPhase,
}

/// Bounds on what one instance may use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WasmLimits {
    pub memory_bytes: u64,
    /// For one callback; start and configuration have `start_deadline`.
    #[serde(serialize_with = "seconds")]
    pub call_deadline: Duration,
    #[serde(serialize_with = "seconds")]
    pub start_deadline: Duration,
    /// Bytes of a body held because the plugin wants it whole; a plugin may raise it for its stream.
    pub body_buffer_bytes: u32,
    /// HTTP and gRPC callouts and Redis commands of one instance that are under way.
    pub max_callouts: u32,
    /// Hosts outside of the configuration that the plugin may call: `HOST` or `*.SUFFIX`, in lower case. `None`: any.
    pub callout_hosts: Option<Vec<String>>,
    /// What one callback may write to the log.
    pub log_bytes: u32,
    /// What a plugin may add to one stream beyond what it was given: bodies, injected data, filter state, header fields.
    pub stream_bytes: u32,
    /// Bytes of callouts, messages and commands of one instance that are under way.
    pub callout_bytes: u32,
    /// Metrics that the plugin may define.
    pub max_metrics: u32,
    /// Keys and values of its shared data.
    pub shared_data_bytes: u32,
    /// Entries of all its queues.
    pub queue_bytes: u32,
    /// Thousandths of a CPU that all its instances together may use; 0: no limit.
    pub cpu_millis: u32,
    /// An instance is replaced after so many requests; 0: never.
    pub retire_after_requests: u32,
    /// An instance is replaced when its memory is larger; 0: never.
    pub retire_above_bytes: u64,
    pub rollback: Rollback,
}

impl Default for WasmLimits {
    fn default() -> Self {
        WasmLimits {
            memory_bytes: 256 << 20,
            call_deadline: Duration::from_millis(100),
            start_deadline: Duration::from_secs(10),
            body_buffer_bytes: 1 << 20,
            max_callouts: 10_000,
            callout_hosts: None,
            log_bytes: 256 << 10,
            stream_bytes: 64 << 20,
            callout_bytes: 64 << 20,
            max_metrics: 1000,
            shared_data_bytes: 64 << 20,
            queue_bytes: 16 << 20,
            cpu_millis: 0,
            retire_after_requests: 0,
            retire_above_bytes: 0,
            rollback: Rollback::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_hidden_in_every_form() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhk=\n-----END KEY-----\n";
        let values = ["hunter2\n", key, "say \"please\"", "\u{e9}t\u{e9}-\u{fc}ber"].map(String::from);
        let configuration = PluginConfiguration::with_secrets(String::new(), String::new(), values);
        for (text, shown) in [
            ("nothing", "nothing"),
            ("with hunter2.", "with [redacted]."),
            ("hunter2\nx", "[redacted]x"),
            (key, "[redacted]"),
            (&format!("a {}b", key.replace('\n', " ")), "a [redacted]b"),
            (&format!("{key:?}"), "\"[redacted]\""),
            ("line MIIEvQIBADANBg\r\n", "line [redacted]\r\n"),
            ("{\"a\":\"say \\\"please\\\"\"}", "{\"a\":\"[redacted]\"}"),
            // Cut off.
            ("with hunt", "with [redacted]"),
            ("with hun", "with hun"),
            ("line MIIEvQIBADAN", "line [redacted]"),
            ("x \u{e9}t\u{e9}-\u{fffd}", "x [redacted]"),
        ] {
            assert_eq!(configuration.redacted(text), shown, "{text:?}");
        }
        let none = PluginConfiguration::from("hunter2");
        assert_eq!(none.redacted("hunter2"), "hunter2");
    }
}
