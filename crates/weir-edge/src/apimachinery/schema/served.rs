//! The parts of objects that filters change on their way to a client: fields by their numbers in `generated.proto` of `k8s.io/api`, with
//! their names in JSON. What is not here is carried along.
use super::{
    Message,
    Type::{Bool, Int, List, Map, Message as Of, Text},
};

static METADATA: Message = Message(&[(6, "resourceVersion", Text)]);

pub static SERVICE: Message = Message(&[(1, "metadata", Of(&METADATA)), (2, "spec", Of(&SERVICE_SPEC))]);
static SERVICE_SPEC: Message =
    Message(&[(1, "ports", List(&Of(&SERVICE_PORT))), (3, "clusterIP", Text), (4, "type", Text), (18, "clusterIPs", List(&Text))]);
static SERVICE_PORT: Message = Message(&[(1, "name", Text), (3, "port", Int)]);

/// Of `discovery.k8s.io/v1`, and of `v1beta1`: they differ only in the name of the topology.
pub static ENDPOINT_SLICE: Message = Message(&[
    (1, "metadata", Of(&METADATA)),
    (2, "endpoints", List(&Of(&ENDPOINT))),
    (3, "ports", List(&Of(&ENDPOINT_PORT))),
    (4, "addressType", Text),
]);
static ENDPOINT: Message = Message(&[
    (1, "addresses", List(&Text)),
    (2, "conditions", Of(&ENDPOINT_CONDITIONS)),
    (4, "targetRef", Of(&OBJECT_REFERENCE)),
    (5, "deprecatedTopology", Map(&Text)),
    (6, "nodeName", Text),
]);
static ENDPOINT_CONDITIONS: Message = Message(&[(1, "ready", Bool), (2, "serving", Bool), (3, "terminating", Bool)]);
static ENDPOINT_PORT: Message = Message(&[(1, "name", Text), (3, "port", Int)]);
static OBJECT_REFERENCE: Message = Message(&[(1, "kind", Text), (2, "namespace", Text), (3, "name", Text), (4, "uid", Text)]);

pub static ENDPOINTS: Message = Message(&[(1, "metadata", Of(&METADATA)), (2, "subsets", List(&Of(&ENDPOINT_SUBSET)))]);
static ENDPOINT_SUBSET: Message =
    Message(&[(1, "addresses", List(&Of(&ENDPOINT_ADDRESS))), (2, "notReadyAddresses", List(&Of(&ENDPOINT_ADDRESS)))]);
static ENDPOINT_ADDRESS: Message = Message(&[(1, "ip", Text), (2, "targetRef", Of(&OBJECT_REFERENCE)), (4, "nodeName", Text)]);

pub static CONFIG_MAP: Message = Message(&[(1, "metadata", Of(&METADATA)), (2, "data", Map(&Text))]);

pub static POD: Message = Message(&[(1, "metadata", Of(&METADATA)), (2, "spec", Of(&POD_SPEC))]);
static POD_SPEC: Message = Message(&[(2, "containers", List(&Of(&CONTAINER))), (20, "initContainers", List(&Of(&CONTAINER)))]);
static CONTAINER: Message = Message(&[(7, "env", List(&Of(&ENV_VAR)))]);
static ENV_VAR: Message = Message(&[(1, "name", Text), (2, "value", Text)]);
