//! The messages in which kubelet reports: fields by their numbers in `generated.proto` of `k8s.io/api`, with their names in JSON.
use super::{
    Message,
    Type::{Bool, Int, List, Map, Message as Of, MicroTime, Quantity, Text, Time},
};

pub static TOKEN_REQUEST_STATUS: Message = Message(&[(1, "token", Text), (2, "expirationTimestamp", Time)]);
pub static LEASE_SPEC: Message = Message(&[
    (1, "holderIdentity", Text),
    (2, "leaseDurationSeconds", Int),
    (3, "acquireTime", MicroTime),
    (4, "renewTime", MicroTime),
    (5, "leaseTransitions", Int),
    (6, "strategy", Text),
    (7, "preferredHolder", Text),
]);
pub static NODE_STATUS: Message = Message(&[
    (1, "capacity", Map(&Quantity)),
    (2, "allocatable", Map(&Quantity)),
    (3, "phase", Text),
    (4, "conditions", List(&Of(&NODE_CONDITION))),
    (5, "addresses", List(&Of(&NODE_ADDRESS))),
    (6, "daemonEndpoints", Of(&NODE_DAEMON_ENDPOINTS)),
    (7, "nodeInfo", Of(&NODE_SYSTEM_INFO)),
    (8, "images", List(&Of(&CONTAINER_IMAGE))),
    (9, "volumesInUse", List(&Text)),
    (10, "volumesAttached", List(&Of(&ATTACHED_VOLUME))),
    (11, "config", Of(&NODE_CONFIG_STATUS)),
    (12, "runtimeHandlers", List(&Of(&NODE_RUNTIME_HANDLER))),
    (13, "features", Of(&NODE_FEATURES)),
    (14, "declaredFeatures", List(&Text)),
]);
pub static NODE_FEATURES: Message = Message(&[(1, "supplementalGroupsPolicy", Bool)]);
pub static NODE_RUNTIME_HANDLER: Message = Message(&[(1, "name", Text), (2, "features", Of(&NODE_RUNTIME_HANDLER_FEATURES))]);
pub static NODE_RUNTIME_HANDLER_FEATURES: Message = Message(&[(1, "recursiveReadOnlyMounts", Bool), (2, "userNamespaces", Bool)]);
pub static NODE_CONFIG_STATUS: Message = Message(&[
    (1, "assigned", Of(&NODE_CONFIG_SOURCE)),
    (2, "active", Of(&NODE_CONFIG_SOURCE)),
    (3, "lastKnownGood", Of(&NODE_CONFIG_SOURCE)),
    (4, "error", Text),
]);
pub static NODE_CONFIG_SOURCE: Message = Message(&[(2, "configMap", Of(&CONFIG_MAP_NODE_CONFIG_SOURCE))]);
pub static CONFIG_MAP_NODE_CONFIG_SOURCE: Message =
    Message(&[(1, "namespace", Text), (2, "name", Text), (3, "uid", Text), (4, "resourceVersion", Text), (5, "kubeletConfigKey", Text)]);
pub static ATTACHED_VOLUME: Message = Message(&[(1, "name", Text), (2, "devicePath", Text)]);
pub static CONTAINER_IMAGE: Message = Message(&[(1, "names", List(&Text)), (2, "sizeBytes", Int)]);
pub static NODE_SYSTEM_INFO: Message = Message(&[
    (1, "machineID", Text),
    (2, "systemUUID", Text),
    (3, "bootID", Text),
    (4, "kernelVersion", Text),
    (5, "osImage", Text),
    (6, "containerRuntimeVersion", Text),
    (7, "kubeletVersion", Text),
    (8, "kubeProxyVersion", Text),
    (9, "operatingSystem", Text),
    (10, "architecture", Text),
    (11, "swap", Of(&NODE_SWAP_STATUS)),
    (12, "runningInUserNamespace", Bool),
]);
pub static NODE_SWAP_STATUS: Message = Message(&[(1, "capacity", Int)]);
pub static NODE_DAEMON_ENDPOINTS: Message = Message(&[(1, "kubeletEndpoint", Of(&DAEMON_ENDPOINT))]);
pub static DAEMON_ENDPOINT: Message = Message(&[(1, "Port", Int)]);
pub static NODE_ADDRESS: Message = Message(&[(1, "type", Text), (2, "address", Text)]);
pub static NODE_CONDITION: Message = Message(&[
    (1, "type", Text),
    (2, "status", Text),
    (3, "lastHeartbeatTime", Time),
    (4, "lastTransitionTime", Time),
    (5, "reason", Text),
    (6, "message", Text),
]);
pub static POD_STATUS: Message = Message(&[
    (1, "phase", Text),
    (2, "conditions", List(&Of(&POD_CONDITION))),
    (3, "message", Text),
    (4, "reason", Text),
    (5, "hostIP", Text),
    (6, "podIP", Text),
    (7, "startTime", Time),
    (8, "containerStatuses", List(&Of(&CONTAINER_STATUS))),
    (9, "qosClass", Text),
    (10, "initContainerStatuses", List(&Of(&CONTAINER_STATUS))),
    (11, "nominatedNodeName", Text),
    (12, "podIPs", List(&Of(&POD_IP))),
    (13, "ephemeralContainerStatuses", List(&Of(&CONTAINER_STATUS))),
    (14, "resize", Text),
    (15, "resourceClaimStatuses", List(&Of(&POD_RESOURCE_CLAIM_STATUS))),
    (16, "hostIPs", List(&Of(&HOST_IP))),
    (17, "observedGeneration", Int),
    (18, "extendedResourceClaimStatus", Of(&POD_EXTENDED_RESOURCE_CLAIM_STATUS)),
    (19, "allocatedResources", Map(&Quantity)),
    (20, "resources", Of(&RESOURCE_REQUIREMENTS)),
    (21, "nodeAllocatableResourceClaimStatuses", List(&Of(&NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS))),
    (22, "volumeHealth", List(&Of(&POD_VOLUME_HEALTH))),
]);
pub static POD_VOLUME_HEALTH: Message =
    Message(&[(1, "name", Text), (2, "healthConditions", List(&Of(&VOLUME_HEALTH_CONDITION))), (3, "lastTransitionTime", Time)]);
pub static VOLUME_HEALTH_CONDITION: Message = Message(&[(1, "status", Text), (2, "reason", Text), (3, "message", Text)]);
pub static NODE_ALLOCATABLE_RESOURCE_CLAIM_STATUS: Message = Message(&[
    (1, "resourceClaimName", Text),
    (2, "containers", List(&Text)),
    // Of Kubernetes 1.36 only.
    (3, "resources", Map(&Quantity)),
    (4, "mapping", List(&Of(&NODE_ALLOCATABLE_MAPPED_RESOURCES))),
    (5, "overhead", List(&Of(&NODE_ALLOCATABLE_OVERHEAD_RESOURCES))),
]);
pub static NODE_ALLOCATABLE_OVERHEAD_RESOURCES: Message =
    Message(&[(1, "name", Text), (2, "perPod", Quantity), (3, "perContainer", Quantity)]);
pub static NODE_ALLOCATABLE_MAPPED_RESOURCES: Message = Message(&[(1, "name", Text), (2, "quantity", Quantity)]);
pub static POD_EXTENDED_RESOURCE_CLAIM_STATUS: Message =
    Message(&[(1, "requestMappings", List(&Of(&CONTAINER_EXTENDED_RESOURCE_REQUEST))), (2, "resourceClaimName", Text)]);
pub static CONTAINER_EXTENDED_RESOURCE_REQUEST: Message =
    Message(&[(1, "containerName", Text), (2, "resourceName", Text), (3, "requestName", Text)]);
pub static POD_RESOURCE_CLAIM_STATUS: Message = Message(&[(1, "name", Text), (2, "resourceClaimName", Text)]);
pub static CONTAINER_STATUS: Message = Message(&[
    (1, "name", Text),
    (2, "state", Of(&CONTAINER_STATE)),
    (3, "lastState", Of(&CONTAINER_STATE)),
    (4, "ready", Bool),
    (5, "restartCount", Int),
    (6, "image", Text),
    (7, "imageID", Text),
    (8, "containerID", Text),
    (9, "started", Bool),
    (10, "allocatedResources", Map(&Quantity)),
    (11, "resources", Of(&RESOURCE_REQUIREMENTS)),
    (12, "volumeMounts", List(&Of(&VOLUME_MOUNT_STATUS))),
    (13, "user", Of(&CONTAINER_USER)),
    (14, "allocatedResourcesStatus", List(&Of(&RESOURCE_STATUS))),
    (15, "stopSignal", Text),
]);
pub static RESOURCE_STATUS: Message = Message(&[(1, "name", Text), (2, "resources", List(&Of(&RESOURCE_HEALTH)))]);
pub static RESOURCE_HEALTH: Message = Message(&[(1, "resourceID", Text), (2, "health", Text), (6, "message", Text)]);
pub static CONTAINER_USER: Message = Message(&[(1, "linux", Of(&LINUX_CONTAINER_USER))]);
pub static LINUX_CONTAINER_USER: Message = Message(&[(1, "uid", Int), (2, "gid", Int), (3, "supplementalGroups", List(&Int))]);
pub static VOLUME_MOUNT_STATUS: Message = Message(&[
    (1, "name", Text),
    (2, "mountPath", Text),
    (3, "readOnly", Bool),
    (4, "recursiveReadOnly", Text),
    (5, "volumeStatus", Of(&VOLUME_STATUS)),
]);
pub static VOLUME_STATUS: Message = Message(&[(1, "image", Of(&IMAGE_VOLUME_STATUS))]);
pub static IMAGE_VOLUME_STATUS: Message = Message(&[(1, "imageRef", Text)]);
pub static RESOURCE_REQUIREMENTS: Message =
    Message(&[(1, "limits", Map(&Quantity)), (2, "requests", Map(&Quantity)), (3, "claims", List(&Of(&RESOURCE_CLAIM)))]);
pub static RESOURCE_CLAIM: Message = Message(&[(1, "name", Text), (2, "request", Text)]);
pub static CONTAINER_STATE: Message = Message(&[
    (1, "waiting", Of(&CONTAINER_STATE_WAITING)),
    (2, "running", Of(&CONTAINER_STATE_RUNNING)),
    (3, "terminated", Of(&CONTAINER_STATE_TERMINATED)),
]);
pub static CONTAINER_STATE_TERMINATED: Message = Message(&[
    (1, "exitCode", Int),
    (2, "signal", Int),
    (3, "reason", Text),
    (4, "message", Text),
    (5, "startedAt", Time),
    (6, "finishedAt", Time),
    (7, "containerID", Text),
]);
pub static CONTAINER_STATE_RUNNING: Message = Message(&[(1, "startedAt", Time)]);
pub static CONTAINER_STATE_WAITING: Message = Message(&[(1, "reason", Text), (2, "message", Text)]);
pub static POD_IP: Message = Message(&[(1, "ip", Text)]);
pub static HOST_IP: Message = Message(&[(1, "ip", Text)]);
pub static POD_CONDITION: Message = Message(&[
    (1, "type", Text),
    (2, "status", Text),
    (3, "lastProbeTime", Time),
    (4, "lastTransitionTime", Time),
    (5, "reason", Text),
    (6, "message", Text),
    (7, "observedGeneration", Int),
]);
