//! Gateway: its addresses, its listeners and what holds for all of them.
use super::{
    listener::{CertificateRef, Listener, Protocol, Validation, decode_certificate, decode_listeners, decode_validation},
    namespaces::{self, From},
};
use std::net::IpAddr;
use weir_config::{
    node::Chars,
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// `metadata.uid`; empty for one of a file.
    pub uid: Box<str>,
    pub class: Box<str>,
    pub class_place: Chars,
    /// `addresses`; empty for the default.
    pub addresses: Vec<IpAddr>,
    /// The first address of another type than IPAddress.
    pub unsupported_address: Option<UnsupportedAddress>,
    /// Namespaces whose ListenerSets may attach.
    pub allowed_listeners: From,
    pub listeners: Vec<Listener>,
    /// `tls.frontend`
    pub frontend: Option<Box<Frontend>>,
    /// `tls.backend.clientCertificateRef`: what upstreams are shown that a BackendTLSPolicy is for.
    pub client_certificate: Option<CertificateRef>,
    /// `infrastructure.labels` and `annotations`: what the Service of the Gateway gets.
    pub labels: Vec<(Box<str>, Box<str>)>,
    pub annotations: Vec<(Box<str>, Box<str>)>,
    /// `infrastructure.parametersRef`, of which there is no kind that Weir knows.
    pub parameters: Option<Chars>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UnsupportedAddress {
    /// Its type.
    pub kind: Box<str>,
    pub place: Chars,
}

/// What is asked of the clients of all HTTPS listeners of a port, or of all that no port's own is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    pub default: Option<Validation>,
    pub ports: Vec<(u16, Option<Validation>)>,
}

impl Gateway {
    /// What clients of a listener, its own or that of a ListenerSet, are asked for.
    pub fn validation<'a>(&'a self, listener: &'a Listener) -> Option<&'a Validation> {
        if listener.validation.is_some() || listener.protocol != Protocol::Https {
            return listener.validation.as_ref();
        }
        let frontend = self.frontend.as_ref()?;
        let own = frontend.ports.iter().find(|(port, _)| *port == listener.port);
        own.map_or(&frontend.default, |(_, validation)| validation).as_ref()
    }
}

pub fn decode(root: &Object<'_>) -> Option<Gateway> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["backendTLS", "defaultScope"]);
    spec.describe(&[("gatewayClassName", "", "The GatewayClass of this Gateway.")]);
    let (mut parameters, mut labels, mut annotations) = (None, Vec::new(), Vec::new());
    if let Some(infrastructure) = spec.object("infrastructure") {
        infrastructure.describe(&[
            ("labels", "", "Labels of the Service that the Gateway gets in a cluster."),
            ("annotations", "", "Annotations of that Service."),
        ]);
        let texts = |name: &'static str| -> Vec<(Box<str>, Box<str>)> {
            infrastructure.entries(name).into_iter().filter_map(|(key, value)| Some((key.into(), value.str()?.into()))).collect()
        };
        (labels, annotations) = (texts("labels"), texts("annotations"));
        if let Some(field) = infrastructure.get("parametersRef") {
            parameters = Some(field.node().span);
            if let Some(reference) = field.object() {
                reference.ignore_rest();
            }
        }
    }
    let (mut addresses, mut unsupported_address) = (Vec::new(), None);
    for field in spec.list("addresses") {
        match decode_address(&field) {
            Ok(address) => addresses.extend(address),
            Err(unsupported) => unsupported_address = unsupported_address.or(Some(unsupported)),
        }
    }
    let class = spec.required("gatewayClassName")?;
    let listeners = decode_listeners(&spec);
    let allowed_listeners = match spec.object("allowedListeners").and_then(|allowed| allowed.object("namespaces")) {
        Some(namespaces) => namespaces::decode(&namespaces, From::None, &["None", "Same", "All", "Selector"])?,
        None => From::None,
    };
    let (mut frontend, mut client_certificate) = (None, None);
    if let Some(tls) = spec.object("tls") {
        frontend = tls.object("frontend").map(|frontend| Box::new(decode_frontend(&frontend)));
        let reference = tls.object("backend").and_then(|backend| backend.get("clientCertificateRef"));
        client_certificate = reference.and_then(|f| decode_certificate(&f));
    }
    let (class, class_place) = (class.str()?.into(), class.node().span);
    Some(Gateway {
        uid: uid(root),
        class,
        class_place,
        addresses,
        unsupported_address,
        allowed_listeners,
        listeners,
        frontend,
        client_certificate,
        labels,
        annotations,
        parameters,
    })
}

fn uid(root: &Object<'_>) -> Box<str> {
    let Some(meta) = root.get("metadata").and_then(|m| m.object()) else { return Box::default() };
    meta.ignore_rest();
    meta.str("uid").unwrap_or_default().into()
}

fn decode_frontend(frontend: &Object<'_>) -> Frontend {
    let validation = |at: Option<Object<'_>>| at.and_then(|o| o.get("validation")).and_then(|f| decode_validation(&f));
    let mut ports = Vec::new();
    for item in frontend.list("perPort") {
        let Some(own) = item.object() else { continue };
        let port = own.required("port").and_then(|f| f.port());
        ports.extend(port.map(|port| (port, validation(own.object("tls")))));
    }
    Frontend { default: validation(frontend.object("default")), ports }
}

/// `None` for one that is to be chosen here: the default.
fn decode_address(field: &Field<'_>) -> Result<Option<IpAddr>, UnsupportedAddress> {
    let Some(object) = field.object() else { return Ok(None) };
    let kind = object.str("type").unwrap_or("IPAddress");
    let Some(value) = object.get("value").filter(|f| f.node().as_str() != Some("")) else { return Ok(None) };
    if kind != "IPAddress" {
        return Err(UnsupportedAddress { kind: kind.into(), place: field.node().span });
    }
    let address = value.str().and_then(|text| text.parse().ok());
    if address.is_none() {
        value.invalid("is not an IP address", "an address of this machine, as 10.0.0.1 or ::1");
    }
    Ok(address)
}
