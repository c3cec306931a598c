//! The kinds of objects that filters know.
use crate::apimachinery::{
    request::GroupVersionResource,
    schema::{CONFIG_MAP, ENDPOINT_SLICE, ENDPOINTS, Message, POD, SERVICE},
};

pub struct Served {
    pub group: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub message: &'static Message,
    /// A changed object gets a resource version of its own, so that clients which compare versions notice the change. Pods do not:
    /// kubelet writes them, and gives the version that it has read.
    pub versions: bool,
}

pub static PODS: Served = Served { group: "", resource: "pods", kind: "Pod", message: &POD, versions: false };
pub static SERVICES: Served = Served { group: "", resource: "services", kind: "Service", message: &SERVICE, versions: true };
pub static ENDPOINT_SETS: Served = Served { group: "", resource: "endpoints", kind: "Endpoints", message: &ENDPOINTS, versions: true };
pub static CONFIG_MAPS: Served = Served { group: "", resource: "configmaps", kind: "ConfigMap", message: &CONFIG_MAP, versions: true };
pub static ENDPOINT_SLICES: Served =
    Served { group: "discovery.k8s.io", resource: "endpointslices", kind: "EndpointSlice", message: &ENDPOINT_SLICE, versions: true };

impl Served {
    pub fn of(resource: &GroupVersionResource) -> Option<&'static Served> {
        let all = [&PODS, &SERVICES, &ENDPOINT_SETS, &CONFIG_MAPS, &ENDPOINT_SLICES];
        all.into_iter().find(|served| served.group == resource.group && served.resource == resource.resource)
    }
}
