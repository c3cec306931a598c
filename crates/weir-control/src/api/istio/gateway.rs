//! Gateway: what is listened on.
use super::read::{At, CertificateFiles, ca_crl, certificate_files, host_field};
use crate::{
    api::labels::{Labels, labels},
    object::meta::Meta,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::net::IpAddr;
use weir_config::{
    model::{CIPHER_SUITES, ClientCertificate, TlsVersion},
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Labels of the workloads that open it.
    pub selector: Labels,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub port: u16,
    /// `bind`; `None` for the default address.
    pub address: Option<IpAddr>,
    pub protocol: Protocol,
    pub hosts: Vec<ServerHost>,
    pub tls: Option<Tls>,
    pub at: At,
    /// Of the port.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Https,
    Tls,
    Tcp,
}

/// `namespace/host`; the namespace is of the VirtualServices that may bind.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerHost {
    /// `None` for any.
    pub namespace: Option<Box<str>>,
    pub host: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    pub mode: Mode,
    pub https_redirect: bool,
    /// Names of Secrets in the Gateway's namespace.
    pub credentials: Vec<(Box<str>, At)>,
    pub ca_credential: Option<(Box<str>, At)>,
    pub files: Vec<CertificateFiles>,
    /// The files `caCertificates` and `caCrl`.
    pub ca_file: Option<(Box<str>, At)>,
    pub ca_crl: Option<Box<str>>,
    pub subject_alt_names: Vec<String>,
    /// In the model's forms.
    pub certificate_hashes: Vec<String>,
    pub key_hashes: Vec<String>,
    pub cipher_suites: Vec<String>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Terminates TLS.
    Terminate(ClientCertificate),
    Passthrough,
    AutoPassthrough,
}

pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<Gateway> {
    let spec = root.required("spec")?.object()?;
    let servers = spec.required("servers")?.list().iter().filter_map(|f| server(f, meta)).collect();
    Some(Gateway { selector: labels(&spec, "selector"), servers })
}

fn server(field: &Field<'_>, meta: &Meta) -> Option<Server> {
    let object = field.object()?;
    object.ignore(&["name"]);
    object.unsupported(&["defaultEndpoint"]);
    // What is given and cannot be had is not opened somewhere else.
    let given_bind = object.get("bind").filter(|f| f.node().as_str() != Some("")).map(|f| bind(&f));
    let port = object.required("port")?.object()?;
    // The port's name serves Istio's statistics; targetPort is deprecated and without effect there too.
    port.ignore(&["name", "targetPort"]);
    let number = port.required("number")?;
    let (number, line) = (number.port()?, number.document_line());
    let given = port.required("protocol")?;
    let protocol = protocol(&given)?;
    let hosts = object.required("hosts")?.list().iter().filter_map(|f| server_host(f, meta)).collect();
    let tls = object.get("tls");
    let at = tls.as_ref().map_or_else(|| At::of(field), At::of);
    let given_tls = tls.is_some();
    let tls = tls.and_then(|f| decode_tls(&f));
    if given_tls && tls.is_none() {
        return None;
    }
    match (protocol, &tls) {
        (Protocol::Https | Protocol::Tls, None) => {
            object.required("tls");
        }
        (Protocol::Http | Protocol::Tcp, Some(tls)) if !tls.https_redirect && !tls.credentials.is_empty() => {
            given.warning(
                "UnusedField",
                "a server of this protocol does not terminate TLS: its tls has no effect",
                "the protocol HTTPS or TLS",
            );
        }
        _ => {}
    }
    let address = match given_bind {
        None => None,
        Some(address) => Some(address?),
    };
    Some(Server { port: number, address, protocol, hosts, tls, at, line })
}

fn bind(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.str()?;
    let address = text.parse().ok();
    if text.starts_with("unix://") {
        field.warning("UnsupportedValue", "sockets of the Unix domain are not supported yet: this server is not opened", "an IP address");
    } else if address.is_none() {
        field.invalid("is not an IP address", "an address of this machine, as 10.0.0.1 or ::1");
    }
    address
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    let text = field.str()?;
    let found = match text.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Protocol::Http,
        "HTTPS" => Protocol::Https,
        "TLS" => Protocol::Tls,
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => Protocol::Tcp,
        _ => {
            field.unknown_value(text, "one of HTTP, HTTPS, GRPC, HTTP2, TLS, TCP");
            return None;
        }
    };
    Some(found)
}

fn server_host(field: &Field<'_>, meta: &Meta) -> Option<ServerHost> {
    let text = field.str()?;
    let Some((namespace, host)) = text.split_once('/') else {
        return Some(ServerHost { namespace: None, host: host_field(field)?.into() });
    };
    let host = host.to_ascii_lowercase();
    if namespace.is_empty() || host.is_empty() || host.contains('/') {
        field.invalid(format!("\"{text}\" is not a host"), "shop.test, *.shop.test, *, or with a namespace as prod/shop.test");
        return None;
    }
    let namespace = match namespace {
        "*" => None,
        "." => Some(Box::from(&*meta.key.namespace)),
        "~" => Some("".into()),
        other => Some(other.into()),
    };
    Some(ServerHost { namespace, host: host.into() })
}

fn decode_tls(field: &Field<'_>) -> Option<Tls> {
    use ClientCertificate::{None as NoCertificate, Optional, Required};
    let object = field.object()?;
    let mut files: Vec<CertificateFiles> = certificate_files(&object, "serverCertificate", "privateKey").into_iter().collect();
    let mut ca_file = object.get("caCertificates");
    for item in object.list("tlsCertificates") {
        let Some(entry) = item.object() else { continue };
        files.extend(certificate_files(&entry, "serverCertificate", "privateKey"));
        ca_file = ca_file.or(entry.get("caCertificates"));
    }
    let words = [
        ("PASSTHROUGH", Some(Mode::Passthrough)),
        ("SIMPLE", Some(Mode::Terminate(NoCertificate))),
        ("MUTUAL", Some(Mode::Terminate(Required))),
        ("OPTIONAL_MUTUAL", Some(Mode::Terminate(Optional))),
        ("AUTO_PASSTHROUGH", Some(Mode::AutoPassthrough)),
        ("ISTIO_MUTUAL", None),
    ];
    // PASSTHROUGH is the zero value of Istio's enum.
    let mode = object.choice("mode", &words).unwrap_or(Some(Mode::Passthrough));
    let https_redirect = object.bool("httpsRedirect").unwrap_or(false);
    let Some(mode) = mode else {
        object.ignore_rest();
        object.get("mode")?.warning(
            "UnsupportedValue",
            "needs a mesh's certificates, which are not supported yet; the server is not opened",
            "SIMPLE, MUTUAL, OPTIONAL_MUTUAL, PASSTHROUGH or AUTO_PASSTHROUGH",
        );
        return None;
    };
    let name = |f: &Field<'_>| Some((Box::from(f.str()?.trim_start_matches("kubernetes://")), At::of(f)));
    let mut credentials: Vec<_> = object.get("credentialName").iter().filter_map(name).collect();
    credentials.extend(object.list("credentialNames").iter().filter_map(name));
    let ca_credential = object.get("caCertCredentialName").as_ref().and_then(name);
    if matches!(mode, Mode::Terminate(_)) && credentials.is_empty() && files.is_empty() && !https_redirect {
        let help = "add credentialName with the name of a Secret, or serverCertificate and privateKey with paths";
        field.error("MissingField", "a server that terminates TLS needs a certificate", help);
    }
    let asks = matches!(mode, Mode::Terminate(Optional | Required)) && ca_credential.is_none();
    Some(Tls {
        mode,
        https_redirect,
        credentials,
        ca_credential,
        files,
        ca_crl: ca_crl(&object, asks && ca_file.is_some()),
        ca_file: ca_file.and_then(|f| Some((f.str()?.into(), At::of(&f)))),
        subject_alt_names: object.strings("subjectAltNames"),
        certificate_hashes: object.list("verifyCertificateHash").iter().filter_map(certificate_hash).collect(),
        key_hashes: object.list("verifyCertificateSpki").iter().filter_map(key_hash).collect(),
        cipher_suites: object.list("cipherSuites").iter().filter_map(cipher_suite).collect(),
        min_version: version(&object, "minProtocolVersion"),
        max_version: version(&object, "maxProtocolVersion"),
    })
}

/// Hexadecimal digits, perhaps in pairs with colons between them.
fn certificate_hash(field: &Field<'_>) -> Option<String> {
    let digits: String = field.str()?.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let fits = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !fits {
        field.invalid("is not the SHA-256 of a certificate", "64 hexadecimal digits, with or without colons between pairs of them");
    }
    fits.then_some(digits)
}

fn key_hash(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    let fits = BASE64_STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
    if !fits {
        field.invalid("is not the SHA-256 of a public key", "32 bytes in base64");
    }
    fits.then(|| text.to_string())
}

fn cipher_suite(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    if CIPHER_SUITES.contains(&text) {
        return Some(text.to_string());
    }
    field.warning("UnsupportedValue", format!("{text} is not spoken: it is left out"), CIPHER_SUITES.join(", "));
    None
}

fn version(tls: &Object<'_>, name: &'static str) -> Option<TlsVersion> {
    let field = tls.get(name)?;
    let words = [
        ("TLS_AUTO", None),
        ("TLSV1_0", Some((false, TlsVersion::V1_2))),
        ("TLSV1_1", Some((false, TlsVersion::V1_2))),
        ("TLSV1_2", Some((true, TlsVersion::V1_2))),
        ("TLSV1_3", Some((true, TlsVersion::V1_3))),
    ];
    let (spoken, version) = field.choice(&words)??;
    if !spoken {
        field.warning("UnsupportedValue", "TLS before 1.2 is not spoken: taken as TLSV1_2", "TLSV1_2 or TLSV1_3");
    }
    Some(version)
}
