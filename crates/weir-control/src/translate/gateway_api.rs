//! Gateway API: Gateways become listeners, routes become routes of their tables.
mod attach;
mod authority;
mod backend_tls;
mod gateway;
mod l4_route;
mod listeners;
mod namespaces;
mod permitted;
mod place;
mod routes;
mod tls;

pub use backend_tls::{of_service as backend_tls, translate as translate_backend_tls};
pub use gateway::{translate_class, translate_gateway, translate_listener_set};
pub use l4_route::translate as translate_l4_route;
pub use routes::translate_http_route;
pub use tls::client_certificate;
