//! The condition `SupportedVersion` of a GatewayClass: whether Weir knows the release of Gateway API whose definitions are installed.
use serde_json::{Value, json};

/// Releases that Weir knows: their standard kinds have the same fields.
const MAJOR: &str = "v1.";
const LATEST_MINOR: u32 = 6;

/// `bundle` is the annotation `gateway.networking.k8s.io/bundle-version` of the definition.
pub fn supported_version(bundle: &str, generation: i64) -> Value {
    let minor = bundle.strip_prefix(MAJOR).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    let supported = minor.is_some_and(|minor| minor <= LATEST_MINOR);
    let known = format!("{MAJOR}0 to {MAJOR}{LATEST_MINOR}");
    let (status, reason, message) = match supported {
        true => ("True", "SupportedVersion", format!("Gateway API {bundle} is installed, and supported")),
        false => {
            ("False", "UnsupportedVersion", format!("Gateway API {bundle} is installed: Weir knows {known}, and serves what it knows"))
        }
    };
    json!({ "type": "SupportedVersion", "status": status, "reason": reason, "message": message, "observedGeneration": generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared() {
        for (bundle, status) in
            [("v1.6.0", "True"), ("v1.0.0-rc1", "True"), ("v1.7.0", "False"), ("v0.8.1", "False"), ("v2.0.0", "False"), ("main", "False")]
        {
            assert_eq!(supported_version(bundle, 1)["status"], status, "{bundle}");
        }
    }
}
