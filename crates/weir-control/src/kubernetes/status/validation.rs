//! `status.validationMessages` of Istio's kinds: what was found about an object, in the words of Istio's analysis. A finding for which
//! Istio has no message is in the conditions only.
use crate::object::Kind;
use serde_json::{Value, json};
use weir_config::diagnostic::{Diagnostic, Severity};

/// A message of Istio's analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    code: &'static str,
    name: &'static str,
    level: &'static str,
}

const INTERNAL_ERROR: Message = Message { code: "IST0001", name: "InternalError", level: "ERROR" };
const NOT_FOUND: Message = Message { code: "IST0101", name: "ReferencedResourceNotFound", level: "ERROR" };
const SCHEMA: Message = Message { code: "IST0106", name: "SchemaValidationError", level: "ERROR" };
const PORT_REQUIRED: Message = Message { code: "IST0112", name: "VirtualServiceDestinationPortSelectorRequired", level: "ERROR" };
const INVALID_REGEXP: Message = Message { code: "IST0122", name: "InvalidRegexp", level: "WARNING" };
const HOST_NOT_IN_GATEWAY: Message = Message { code: "IST0132", name: "VirtualServiceHostNotFoundInGateway", level: "WARNING" };
const INVALID_CREDENTIAL: Message = Message { code: "IST0161", name: "InvalidGatewayCredential", level: "ERROR" };

const EMPTY_SUBSET: Message = Message { code: "IST0173", name: "DestinationRuleSubsetNotSelectPods", level: "ERROR" };

/// Whether the status of a kind has messages.
pub fn has_messages(kind: Kind) -> bool {
    use Kind::*;
    matches!(kind, IstioGateway | VirtualService | DestinationRule | ServiceEntry | WorkloadEntry | AuthorizationPolicy | WasmPlugin)
}

/// The messages for these findings about an object, each once, in the order of their codes.
pub fn messages<'a>(kind: Kind, findings: impl Iterator<Item = &'a Diagnostic>) -> Vec<Value> {
    let mut all: Vec<Message> = findings.filter_map(|found| message(kind, found)).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(|message| message.json()).collect()
}

fn message(kind: Kind, of: &Diagnostic) -> Option<Message> {
    let is_error = of.severity == Severity::Error;
    Some(match of.reason {
        "InternalError" => INTERNAL_ERROR,
        "HostNotFound" | "SubsetNotFound" | "DelegateNotFound" | "TargetNotFound" | "SecretNotFound" => NOT_FOUND,
        "InvalidType" | "InvalidValue" | "MissingField" | "UnknownField" | "UnknownVersion" | "DuplicateValue" if is_error => SCHEMA,
        "PortRequired" => PORT_REQUIRED,
        "InvalidRegex" => INVALID_REGEXP,
        "NoMatchingHost" => HOST_NOT_IN_GATEWAY,
        "InvalidCertificateRef" => INVALID_CREDENTIAL,
        // That of a ServiceEntry is another one.
        "NoEndpoints" if kind == Kind::DestinationRule => EMPTY_SUBSET,
        _ => return None,
    })
}

/// What marks the messages that Weir wrote. Istio marks those of its own tools likewise.
const MARK: &str = "?ref=weir";

/// Whether Weir wrote a message.
pub fn is_own(message: &Value) -> bool {
    message["documentationUrl"].as_str().is_some_and(|url| url.ends_with(MARK))
}

impl Message {
    fn json(self) -> Value {
        let Message { code, name, level } = self;
        let page = code.to_ascii_lowercase();
        json!({
            "type": { "code": code, "name": name },
            "level": level,
            "documentationUrl": format!("https://istio.io/latest/docs/reference/config/analysis/{page}/{MARK}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_become_messages_of_istio() {
        let error = |reason| Diagnostic::error(reason, "");
        let warning = |reason| Diagnostic::warning(reason, "");
        let table: &[(&[Diagnostic], &[&str])] = &[
            (&[], &[]),
            (&[warning("HostNotFound"), warning("SubsetNotFound")], &["IST0101 ReferencedResourceNotFound ERROR"]),
            (&[warning("DelegateNotFound"), error("SecretNotFound")], &["IST0101 ReferencedResourceNotFound ERROR"]),
            (&[warning("TargetNotFound")], &["IST0101 ReferencedResourceNotFound ERROR"]),
            (&[warning("NoMatchingHost")], &["IST0132 VirtualServiceHostNotFoundInGateway WARNING"]),
            (&[error("InvalidRegex")], &["IST0122 InvalidRegexp WARNING"]),
            (&[warning("PortRequired"), warning("PortNotFound")], &["IST0112 VirtualServiceDestinationPortSelectorRequired ERROR"]),
            (&[warning("NoEndpoints")], &[]),
            (&[error("InvalidCertificateRef")], &["IST0161 InvalidGatewayCredential ERROR"]),
            (&[error("UnknownField"), error("InvalidType"), error("MissingField")], &["IST0106 SchemaValidationError ERROR"]),
            // In the order of their codes, each once.
            (
                &[error("InvalidValue"), warning("HostNotFound"), error("InternalError"), error("InvalidValue")],
                &["IST0001 InternalError ERROR", "IST0101 ReferencedResourceNotFound ERROR", "IST0106 SchemaValidationError ERROR"],
            ),
            // Istio has no such message, or only for errors.
            (&[warning("UnsupportedField"), warning("NoLabels"), warning("InvalidValue")], &[]),
        ];
        for (findings, want) in table {
            let all = messages(Kind::VirtualService, findings.iter());
            let text = |m: &Value| [&m["type"]["code"], &m["type"]["name"], &m["level"]].map(|v| v.as_str().unwrap_or("?")).join(" ");
            assert_eq!(all.iter().map(text).collect::<Vec<_>>(), *want);
            assert!(all.iter().all(is_own));
        }
        let empty = messages(Kind::DestinationRule, [warning("NoEndpoints")].iter());
        assert_eq!(empty[0]["type"], json!({ "code": "IST0173", "name": "DestinationRuleSubsetNotSelectPods" }));
        let one = messages(Kind::VirtualService, [error("InvalidValue")].iter());
        assert_eq!(one[0]["documentationUrl"], "https://istio.io/latest/docs/reference/config/analysis/ist0106/?ref=weir");
        assert!(!is_own(&json!({ "documentationUrl": "https://istio.io/v1.27/docs/reference/config/analysis/ist0106/?ref=status" })));
    }
}
