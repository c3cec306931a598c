//! What the status of a GatewayClass says is supported. The conformance suite tests each of these (`cargo xtask conformance`).

/// In the order of the alphabet, as the API asks for.
pub const FEATURES: &[&str] =
    &["BackendTLSPolicy", "GRPCRoute", "Gateway", "HTTPRoute", "ReferenceGrant", "TCPRoute", "TLSRoute", "UDPRoute"];
