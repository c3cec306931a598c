//! Gateway API: Gateways become listeners, routes become routes of their tables.
mod attach;
mod authority;
mod backend_tls;
mod gateway;
mod l4_route;
mod permitted;
mod place;
mod routes;

pub use backend_tls::of_service as backend_tls;
pub use gateway::{client_certificate, translate_class, translate_gateway};
pub use l4_route::translate as translate_l4_route;
pub use routes::translate_http_route;
