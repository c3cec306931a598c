//! What bodies of the Kubernetes API say: their encodings, objects, lists, watches and requests. Bytes in, slices of them out.
pub mod event;
pub mod frame;
pub(crate) mod gunzip;
pub mod json;
pub mod list;
pub mod media;
pub mod object;
pub mod patch;
pub mod reported;
pub mod request;
pub mod schema;
pub mod selector;
pub mod status;
pub mod wire;
