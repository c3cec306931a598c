//! The features of Gateway API that Weir supports: `status.supportedFeatures` of its GatewayClasses, and a page of the documentation.

/// A feature, by the name that the conformance suite of Gateway API v1.6 has for it.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    pub name: &'static str,
    /// Of the experimental channel.
    pub experimental: bool,
    /// Only where Gateways have a Service each (`--gateway-service-type`).
    pub needs_services: bool,
}

const fn standard(name: &'static str) -> Feature {
    Feature { name, experimental: false, needs_services: false }
}

const fn experimental(name: &'static str) -> Feature {
    Feature { name, experimental: true, needs_services: false }
}

const fn of_services(name: &'static str) -> Feature {
    Feature { name, experimental: false, needs_services: true }
}

/// All features that concern gateways, in the order of their names.
pub const FEATURES: &[Feature] = &[
    standard("BackendTLSPolicy"),
    standard("BackendTLSPolicySANValidation"),
    standard("GRPCRoute"),
    standard("GRPCRouteNamedRouteRule"),
    standard("Gateway"),
    standard("GatewayAddressEmpty"),
    standard("GatewayBackendClientCertificate"),
    standard("GatewayFrontendClientCertificateValidation"),
    standard("GatewayFrontendClientCertificateValidationInsecureFallback"),
    standard("GatewayHTTPListenerIsolation"),
    standard("GatewayHTTPSListenerDetectMisdirectedRequests"),
    of_services("GatewayInfrastructurePropagation"),
    standard("GatewayPort8080"),
    standard("GatewayStaticAddresses"),
    standard("HTTPRoute"),
    standard("HTTPRoute303RedirectStatusCode"),
    standard("HTTPRoute307RedirectStatusCode"),
    standard("HTTPRoute308RedirectStatusCode"),
    standard("HTTPRouteBackendProtocolH2C"),
    standard("HTTPRouteBackendProtocolWebSocket"),
    standard("HTTPRouteBackendRequestHeaderModification"),
    standard("HTTPRouteBackendTimeout"),
    standard("HTTPRouteCORS"),
    experimental("HTTPRouteDestinationPortMatching"),
    standard("HTTPRouteHostRewrite"),
    standard("HTTPRouteMethodMatching"),
    standard("HTTPRouteNamedRouteRule"),
    standard("HTTPRouteParentRefPort"),
    standard("HTTPRoutePathRedirect"),
    standard("HTTPRoutePathRewrite"),
    standard("HTTPRoutePortRedirect"),
    standard("HTTPRouteQueryParamMatching"),
    standard("HTTPRouteRequestMirror"),
    standard("HTTPRouteRequestMultipleMirrors"),
    standard("HTTPRouteRequestPercentageMirror"),
    standard("HTTPRouteRequestTimeout"),
    standard("HTTPRouteResponseHeaderModification"),
    experimental("HTTPRouteRetry"),
    experimental("HTTPRouteRetryBackendTimeout"),
    experimental("HTTPRouteRetryConnectionError"),
    standard("HTTPRouteSchemeRedirect"),
    standard("ListenerSet"),
    standard("ReferenceGrant"),
    standard("TCPRoute"),
    standard("TLSRoute"),
    experimental("TLSRouteModeMixed"),
    standard("TLSRouteModeTerminate"),
    standard("UDPRoute"),
];

/// The names of those that are supported, in order; with `services`, where Gateways have a Service each.
pub fn supported(services: bool) -> impl Iterator<Item = &'static str> {
    FEATURES.iter().filter(move |f| services || !f.needs_services).map(|f| f.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order() {
        // As the API wants them in the status.
        assert!(FEATURES.is_sorted_by(|a, b| a.name < b.name));
        assert!(supported(true).count() <= 64, "the status holds no more");
    }
}
