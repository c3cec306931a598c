//! CertificateSigningRequests: how one is made, and its state.
use data_encoding::BASE64;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use std::net::IpAddr;

pub const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The node shows it to API servers.
    Client,
    /// Clients see it. The API server signs it for these names, DNS names and addresses, once somebody has approved that.
    Serving(Vec<String>),
}

impl Purpose {
    fn signer(&self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Serving(_) => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(&self) -> [&'static str; 2] {
        match self {
            Purpose::Client => ["digital signature", "client auth"],
            Purpose::Serving(_) => ["digital signature", "server auth"],
        }
    }
}

/// A new key, and what to ask for with it.
pub struct Request {
    /// PEM.
    pub key: String,
    pub object: Value,
}

impl Request {
    /// For the node of this name.
    pub fn new(purpose: &Purpose, node_name: &str) -> Result<Request, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node_name}"));
        if let Purpose::Serving(names) = purpose {
            params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
        }
        let request = params.serialize_request(&key)?.pem()?;
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": { "generateName": "weir-edge-csr-" },
            "spec": {
                "request": BASE64.encode(request.as_bytes()),
                "signerName": purpose.signer(),
                "usages": purpose.usages(),
            },
        });
        Ok(Request { key: key.serialize_pem(), object })
    }
}

/// A subject alternative name: an address, or else a DNS name.
pub fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

/// The state of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has approved it, or the signer has not come to it.
    Pending { approved: bool },
    /// PEM.
    Issued(String),
    /// Denied or failed, and why.
    Refused(String),
}

pub fn state(object: &Value) -> State {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|c| c["type"] == kind);
    for kind in ["Denied", "Failed"] {
        if let Some(found) = condition(kind) {
            let part = |field: &str| found[field].as_str().unwrap_or_default().to_string();
            return State::Refused(format!("{kind}: {} {}", part("reason"), part("message")).trim_end().into());
        }
    }
    let issued = object["status"]["certificate"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    match issued.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|pem| !pem.is_empty()) {
        Some(pem) => State::Issued(pem),
        None => State::Pending { approved: condition("Approved").is_some() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

    #[test]
    fn a_request_is_as_the_signers_of_kubernetes_want_it() {
        let names = ["127.0.0.1".to_string(), "edge-1".into()];
        let table = [
            (Purpose::Client, "kubernetes.io/kube-apiserver-client-kubelet", "client auth", 0),
            (Purpose::Serving(names.to_vec()), "kubernetes.io/kubelet-serving", "server auth", 2),
        ];
        for (purpose, signer, usage, alternatives) in table {
            let request = Request::new(&purpose, "edge-1").unwrap();
            let spec = &request.object["spec"];
            assert_eq!((spec["signerName"].as_str(), &spec["usages"]), (Some(signer), &json!(["digital signature", usage])));
            let pem = BASE64.decode(spec["request"].as_str().unwrap().as_bytes()).unwrap();
            let (_, pem) = parse_x509_pem(&pem).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
            assert_eq!(parsed.certification_request_info.subject.to_string(), "O=system:nodes, CN=system:node:edge-1");
            let found = parsed.requested_extensions().into_iter().flatten().map(|e| match e {
                x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => names.general_names.len(),
                _ => 0,
            });
            assert_eq!(found.sum::<usize>(), alternatives);
        }
    }

    #[test]
    fn what_became_of_a_request_is_in_its_status() {
        let condition = |kind: &str| json!({ "type": kind, "reason": "Why", "message": "so" });
        let pem = BASE64.encode(b"certificate");
        let table = [
            (json!({}), State::Pending { approved: false }),
            (json!({ "conditions": [condition("Approved")] }), State::Pending { approved: true }),
            (json!({ "conditions": [condition("Approved")], "certificate": pem }), State::Issued("certificate".into())),
            (json!({ "conditions": [condition("Denied")] }), State::Refused("Denied: Why so".into())),
            (json!({ "conditions": [condition("Approved"), { "type": "Failed" }] }), State::Refused("Failed:".into())),
            (json!({ "conditions": [condition("Approved")], "certificate": "*" }), State::Pending { approved: true }),
        ];
        for (status, wanted) in table {
            assert_eq!(state(&json!({ "status": status })), wanted, "{status}");
        }
    }
}
