//! The part of a pod's spec that names other objects, by its numbers in `generated.proto` of `k8s.io/api`. It is only read.
use super::{
    Message,
    Type::{Bool, List, Message as Of, Text},
};

pub static POD_SPEC: Message = Message(&[
    (1, "volumes", List(&Of(&VOLUME))),
    (2, "containers", List(&Of(&CONTAINER))),
    (8, "serviceAccountName", Text),
    (15, "imagePullSecrets", List(&Of(&LOCAL_OBJECT_REFERENCE))),
    (20, "initContainers", List(&Of(&CONTAINER))),
    (34, "ephemeralContainers", List(&Of(&EPHEMERAL_CONTAINER))),
]);
static LOCAL_OBJECT_REFERENCE: Message = Message(&[(1, "name", Text)]);
static EPHEMERAL_CONTAINER: Message = Message(&[(1, "ephemeralContainerCommon", Of(&CONTAINER))]);
static CONTAINER: Message = Message(&[(1, "name", Text), (7, "env", List(&Of(&ENV_VAR))), (19, "envFrom", List(&Of(&ENV_FROM_SOURCE)))]);
static ENV_VAR: Message = Message(&[(1, "name", Text), (3, "valueFrom", Of(&ENV_VAR_SOURCE))]);
static ENV_VAR_SOURCE: Message = Message(&[(3, "configMapKeyRef", Of(&KEY_SELECTOR)), (4, "secretKeyRef", Of(&KEY_SELECTOR))]);
static KEY_SELECTOR: Message =
    Message(&[(1, "localObjectReference", Of(&LOCAL_OBJECT_REFERENCE)), (2, "key", Text), (3, "optional", Bool)]);
static ENV_FROM_SOURCE: Message = Message(&[(2, "configMapRef", Of(&ENV_SOURCE)), (3, "secretRef", Of(&ENV_SOURCE))]);
static ENV_SOURCE: Message = Message(&[(1, "localObjectReference", Of(&LOCAL_OBJECT_REFERENCE)), (2, "optional", Bool)]);
static VOLUME: Message = Message(&[(1, "name", Text), (2, "volumeSource", Of(&VOLUME_SOURCE))]);
static VOLUME_SOURCE: Message = Message(&[
    (6, "secret", Of(&SECRET_VOLUME_SOURCE)),
    (10, "persistentVolumeClaim", Of(&CLAIM_VOLUME_SOURCE)),
    (19, "configMap", Of(&PROJECTED_OBJECT)),
    (26, "projected", Of(&PROJECTED_VOLUME_SOURCE)),
]);
static SECRET_VOLUME_SOURCE: Message = Message(&[(1, "secretName", Text), (4, "optional", Bool)]);
static CLAIM_VOLUME_SOURCE: Message = Message(&[(1, "claimName", Text)]);
static PROJECTED_VOLUME_SOURCE: Message = Message(&[(1, "sources", List(&Of(&VOLUME_PROJECTION)))]);
static VOLUME_PROJECTION: Message = Message(&[
    (1, "secret", Of(&PROJECTED_OBJECT)),
    (3, "configMap", Of(&PROJECTED_OBJECT)),
    (4, "serviceAccountToken", Of(&SERVICE_ACCOUNT_TOKEN_PROJECTION)),
]);
static SERVICE_ACCOUNT_TOKEN_PROJECTION: Message = Message(&[(3, "path", Text)]);
/// A ConfigMap as a volume has its fields at the numbers of one in a projected volume.
static PROJECTED_OBJECT: Message = Message(&[(1, "localObjectReference", Of(&LOCAL_OBJECT_REFERENCE)), (4, "optional", Bool)]);
