//! OCI distribution: references of images, the registry protocol, and the credentials of docker configurations.
//!
//! A [`Session`] works on one repository with the credentials that it was given, so that credentials cannot reach another caller's pull.
//! Every host that a registry names (redirects, token services) passes the guard of the resolver, as the registry itself does.
mod auth;
mod challenge;
pub mod cosign;
mod docker_config;
mod error;
mod manifest;
mod reference;
mod registry;

pub use auth::Credentials;
pub use docker_config::{DockerConfig, DockerConfigError};
pub use error::OciError;
pub use manifest::{Descriptor, Index, Manifest, Platform, Received, media};
pub use reference::{Digest, Reference, ReferenceError};
pub use registry::{Action, Registries, RegistryOptions, Session};
