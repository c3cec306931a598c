//! HTTP on the wire: message heads, where bodies end, connections and the pumps between them.
//!
//! HTTP/1.1 is read and written here without a library; HTTP/2 is the h2 crate's, with one conversion per head at its border ([`h2`]).
pub mod body;
pub mod buf;
pub mod chunk;
pub mod client;
pub mod fetch;
pub mod h2;
pub mod head;
pub mod names;
pub mod parse;
pub mod path;
pub mod pump;
pub mod relay;
pub mod text;
pub mod trailers;
pub mod tunnel;
pub mod wire;

pub use head::{Headers, Method, RequestHead, ResponseHead, Version};
pub use names::Known;
