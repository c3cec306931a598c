//! The features of Gateway API that Weir supports: `status.supportedFeatures` of its GatewayClasses, and a page of the documentation.

/// A feature, by the name that the conformance suite of Gateway API v1.6 has for it.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    pub name: &'static str,
    /// Of the experimental channel.
    pub experimental: bool,
    /// Why it is not supported.
    pub lacks: Option<&'static str>,
}

const fn standard(name: &'static str) -> Feature {
    Feature { name, experimental: false, lacks: None }
}

const fn experimental(name: &'static str) -> Feature {
    Feature { name, experimental: true, lacks: None }
}

const fn lacking(name: &'static str, why: &'static str) -> Feature {
    Feature { name, experimental: false, lacks: Some(why) }
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
    lacking("GatewayInfrastructurePropagation", "Weir creates no objects for a Gateway that could carry labels and annotations"),
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

/// The names of those that are supported, in order.
pub fn supported() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().filter(|f| f.lacks.is_none()).map(|f| f.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order() {
        // As the API wants them in the status.
        assert!(FEATURES.is_sorted_by(|a, b| a.name < b.name));
        assert!(supported().count() <= 64, "the status holds no more");
    }
}
