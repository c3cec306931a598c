//! Bounds on a plugin, by annotations: no API has fields for them.
use weir_config::{
    model::WasmLimits,
    reader::{Field, Object},
};

/// Reads `weir.dev/*` of the object's annotations.
pub fn read(root: &Object<'_>) -> WasmLimits {
    let mut limits = WasmLimits::default();
    let Some(meta) = root.object("metadata") else { return limits };
    meta.ignore_rest();
    for (name, value) in meta.entries("annotations") {
        match name.strip_prefix("weir.dev/") {
            Some("memory-limit") => limits.memory_bytes = bytes(&value).unwrap_or(limits.memory_bytes),
            Some("body-buffer-limit") => {
                let given = bytes(&value).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                limits.body_buffer_bytes = given.unwrap_or(limits.body_buffer_bytes);
            }
            Some("callout-limit") => limits.max_callouts = count(&value).unwrap_or(limits.max_callouts),
            Some("call-deadline") => limits.call_deadline = value.duration().unwrap_or(limits.call_deadline),
            Some("start-deadline") => limits.start_deadline = value.duration().unwrap_or(limits.start_deadline),
            Some("rollback-traps") => limits.rollback_traps = count_or_none(&value).unwrap_or(limits.rollback_traps),
            Some(other) => {
                let help = "weir.dev/memory-limit, call-deadline, start-deadline, body-buffer-limit, callout-limit and rollback-traps";
                value.warning("UnknownField", format!("there is no annotation weir.dev/{other} here"), help);
            }
            None => {}
        }
    }
    limits
}

fn count(field: &Field<'_>) -> Option<u32> {
    let found = field.str()?.parse().ok().filter(|n| *n > 0);
    if found.is_none() {
        field.invalid("is not a count", "a whole number above 0, in quotes");
    }
    found
}

fn count_or_none(field: &Field<'_>) -> Option<u32> {
    let found = field.str()?.parse().ok();
    if found.is_none() {
        field.invalid("is not a count", "a whole number, in quotes; 0 for never");
    }
    found
}

/// A Kubernetes quantity: `64Mi`, `1G`, or bytes.
fn bytes(field: &Field<'_>) -> Option<u64> {
    let text = field.str()?;
    let found = weir_config::reader::quantity(text).filter(|n| *n > 0);
    if found.is_none() {
        field.invalid(format!("\"{text}\" is not a size"), "bytes, or a number with Ki, Mi, Gi, k, M or G");
    }
    found
}
